"""What the metrics of a service read at its parts, whenever somebody scrapes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from ra_gateway.app.configuration_changes import config_digest, shared_digest
from ra_gateway.app.listener_tls import ListenerTLS
from ra_gateway.app.running import STEADY
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.config.trust_tables import RevocationConfig
from ra_gateway.events import Component
from ra_gateway.keys import load_certificates
from ra_gateway.metrics import Metrics, families
from ra_gateway.metrics.collecting import Reader, Survey
from ra_gateway.metrics.families import Reading
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.transaction import State
from ra_gateway.revocation.sources import SourceKind, SourceState
from ra_gateway.server.listener import Listener
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.redis_servers import UNTOLD
from ra_gateway.upstream.batching import BatchingCA
from ra_gateway.upstream.metered import MeteredCA
from ra_gateway.upstream.pool import HttpPool
from ra_gateway.upstream.tables import OverHTTP

if TYPE_CHECKING:
    from ra_gateway.app.gateway import Wiring
    from ra_gateway.audit.trail import AuditTrail

_BACKLOG_SECONDS: Final = 5.0
"""Between two looks at what waits in the store."""

SLOWLY_SECONDS: Final = 60.0
"""Between two looks at files, and two counts of all of the ledger."""

_MAX_CHARACTERS: Final = 128
_FINGERPRINT_DIGITS: Final = 16

CLOSINGS: Final = ("refused", "timed_out", "let_go")

LEARNED: Final = "learned"
"""Stands for all sources of CRLs that certificates name."""


def of_process(by: Component, config: Callable[[], BaseModel]) -> Reader:
    """Return what reads the process itself: its clock, and its configuration.

    Args:
        config: Returns the one in force.
    """
    known = config()
    digests = config_digest(known), shared_digest(known)

    def read() -> Iterator[Reading]:
        nonlocal known, digests
        now = config()
        if now is not known:
            known, digests = now, (config_digest(now), shared_digest(now))
        yield Reading(families.CONFIGURATION, (digests[0],), 1)
        yield Reading(families.SHARED_CONFIGURATION, (by, digests[1]), 1)
        yield Reading(families.CLOCK_STEADY, (), STEADY())

    return read


def of_listener(name: str, listener: Listener) -> Iterator[Reading]:
    """Read a listener.

    Args:
        name: Value of the label `listener`.
    """
    counters, (connections, requests) = listener.counters, listener.limits
    yield Reading(families.CONNECTIONS, (name,), listener.connections_count)
    yield Reading(families.CONNECTIONS_LIMIT, (name,), connections)
    for reason in CLOSINGS:
        count = getattr(counters, f"connections_{reason}")
        yield Reading(families.CONNECTIONS_CLOSED, (name, reason), count)
    yield Reading(families.REQUESTS, (name,), counters.requests)
    yield Reading(families.REQUESTS_IN_FLIGHT, (name,), listener.in_flight_count)
    yield Reading(families.REQUESTS_LIMIT, (name,), requests)
    for status, count in counters.refusals.items():
        shown = "none" if status is None else str(int(status))
        yield Reading(families.REFUSALS, (name, shown), count)


def of_audit(trail: AuditTrail) -> Iterator[Reading]:
    """Read the audit trail."""
    yield Reading(families.AUDIT_UP, (), not trail.problem)
    yield Reading(families.AUDIT_RECORDS, (), trail.written)
    yield Reading(families.AUDIT_WAITING, (), trail.waiting)
    yield Reading(families.AUDIT_LOST, (), trail.lost)
    for stream in trail.streams:
        yield Reading(families.AUDIT_STREAM_UP, (stream.name,), not stream.problem)
        yield Reading(families.AUDIT_STREAM_LOST, (stream.name,), stream.lost)


def _of_upstream(upstream: Upstream) -> Iterator[Reading]:
    name, core = upstream.name, upstream.core
    if isinstance(core, MeteredCA):
        for outcome, durations in core.durations.items():
            yield Reading(families.UPSTREAM_SECONDS, (name, outcome), durations)
        core = core.core
    if isinstance(core, BatchingCA):
        core = core.core
    if not isinstance(core, HttpPool):
        return
    yield Reading(families.UPSTREAM_RETRIES, (name,), core.retries)
    for state in core.states():
        at = name, _without_secrets(state.url)
        yield Reading(families.UPSTREAM_HEALTHY, at, state.healthy)
        yield Reading(families.UPSTREAM_OPEN, at, state.opened_until is not None)
        yield Reading(families.UPSTREAM_OPENINGS, at, state.openings)
        yield Reading(families.UPSTREAM_TRIES, (*at, "answered"), state.answered)
        yield Reading(families.UPSTREAM_TRIES, (*at, "failed"), state.failed)


def _of_store(store: MemoryStore | RedisStore) -> Iterator[Reading]:
    if isinstance(store, RedisStore):
        yield Reading(families.STORE_SECONDS, ("answered",), store.answered)
        yield Reading(families.STORE_SECONDS, ("failed",), store.failed)
        yield Reading(families.STORE_STRANGE, (), store.not_believed)
        yield Reading(families.STORE_FORGETS, (), bool(store.servers.forgets))
        yield Reading(families.STORE_CHANGES, (), store.servers.changes)
        yield Reading(families.STORE_EMPTIED, (), store.emptied)
        for node in store.servers.known:
            state = node.state
            # A user who may not ask INFO has written, all the same.
            is_up = state is not None and (not state.problem or state.problem == UNTOLD)
            yield Reading(families.STORE_MASTER_UP, (node.address,), is_up)
            if state is not None:
                yield Reading(families.STORE_REPLICAS, (node.address,), state.replicas)


# --- what ends --------------------------------------------------------------------------------------------------


def of_tls(tls: ListenerTLS) -> Iterator[Reading]:
    """Read when the certificates end that listeners show, and whether they are those of the files."""
    for setting, certificate in tls.certificates.items():
        yield _expiry("tls", setting, certificate)
        yield Reading(families.FILES_CURRENT, (setting,), setting not in tls.unusable)


def _expiry(use: str, of: str, certificate: Certificate) -> Reading:
    fingerprint = certificate.fingerprint.hex()[:_FINGERPRINT_DIGITS]
    labels = use, of, certificate.subject[:_MAX_CHARACTERS], fingerprint
    return Reading(families.EXPIRY, labels, certificate.not_after.timestamp())


def _certificates(wiring: Wiring) -> Iterator[tuple[str, str, Iterable[Certificate]]]:
    """Yield the certificates that a gateway was given: what for, whose, and which."""
    credential = wiring.credential
    yield "ra", "ra", (credential.certificate,)
    yield "ra_chain", "ra", credential.chain
    operators = set(wiring.domains[0].anchors)
    for name, endpoint in wiring.services.endpoints.items():
        relays = endpoint.registration_authorities
        if relays is not None:
            yield "anchor", relays.domain.name, set(relays.domain.anchors) - operators
            yield "registered_ra", name, relays.certificates
    for name, upstream in wiring.upstreams.items():
        for trusted in (upstream.trust, upstream.issuing):
            yield "anchor", name, set(trusted.anchors) - operators
        yield "pinned", name, upstream.pinned


def _of_wiring(wiring: Wiring) -> Iterator[Reading]:
    yield from of_domains(wiring.domains)
    for use, of, certificates in _certificates(wiring):
        for certificate in certificates:
            yield _expiry(use, of, certificate)
    yield Reading(families.FILES_CURRENT, ("ra",), wiring.credential_is_current)
    for upstream in wiring.upstreams.values():
        yield from _of_upstream(upstream)
    for name, problem in wiring.upstream_problems.items():
        yield Reading(families.UPSTREAM_UP, (name,), not problem)
    yield from _of_store(wiring.store)
    for limit in ("source", "vendor", "all", "background"):
        yield Reading(families.TURNED_AWAY, (limit,), wiring.services.limits.turned_away[limit])
    tables = [wiring.config.operator.revocation]
    tables += [vendor.revocation for vendor in wiring.config.vendors.values()]
    yield from of_revocation(wiring.revocation.states(), tables)


def of_domains(domains: Iterable[TrustDomain]) -> Iterator[Reading]:
    """Read when what trust domains are trusted by ends."""
    for domain in domains:
        for certificate in domain.anchors:
            yield _expiry("anchor", domain.name, certificate)
        for certificate in domain.intermediates:
            yield _expiry("intermediate", domain.name, certificate)


def of_revocation(
    states: Iterable[SourceState], tables: Iterable[RevocationConfig]
) -> Iterator[Reading]:
    """Read what sources of CRLs and OCSP answers have given.

    Args:
        tables: What the configuration says of them.
    """
    named = {str(where) for table in tables for where in (*table.crl_paths, *table.crl_urls)}
    next_updates: dict[tuple[str, str], float] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for state in states:
        fresh = "fresh" if state.fresh else "stale"
        counts[state.domain, state.kind, fresh] += 1
        counts[state.domain, state.kind, "failing"] += bool(state.last_error)
        if state.kind is SourceKind.crl and state.next_update is not None:
            source = source_label(state.source, named)
            moment = state.next_update.timestamp()
            at = state.domain, source
            next_updates[at] = min(moment, next_updates.get(at, moment))
    for at, moment in next_updates.items():
        yield Reading(families.CRL_NEXT_UPDATE, at, moment)
    for what, count in counts.items():
        yield Reading(families.REVOCATION_SOURCES, what, count)


def source_label(source: str, named: Collection[str]) -> str:
    """Return how the source of a CRL is called; its URL may have a password, and a token in its query.

    Args:
        named: The sources that the configuration names.
    """
    return _without_secrets(source) if source in named else LEARNED


def _without_secrets(url: str) -> str:
    url = url.partition("?")[0]
    scheme, separator, rest = url.partition("://")
    if separator:
        host, slash, path = rest.partition("/")
        url = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return url[-_MAX_CHARACTERS:]


# --- what has to be asked ---------------------------------------------------------------------------------------


async def _backlog(store: MemoryStore | RedisStore, limit: int, most: int) -> list[Reading]:
    backlog = await store.backlog()
    found = [
        Reading(families.HELD, (), backlog.held),
        Reading(families.HELD_LIMIT, (), limit),
        Reading(families.SCHEDULED, (), backlog.scheduled),
        Reading(families.OVERDUE, (), backlog.overdue),
    ]
    if isinstance(store, MemoryStore):
        states = store.states()
        found += [Reading(families.TRANSACTIONS, (item,), states.get(item, 0)) for item in State]
        found.append(Reading(families.UNFINISHED, (), store.unfinished))
        found.append(Reading(families.TRANSACTIONS_LIMIT, (), most))
    return found


async def _client_certificates(config: GatewayConfig) -> list[Reading]:
    """Return when the certificates end that are shown to CAs in TLS."""
    return await asyncio.to_thread(
        lambda: [
            _expiry("tls", name, certificate)
            for name, table in config.upstreams.items()
            if isinstance(table, OverHTTP) and table.tls_certificate_path is not None
            for certificate in load_certificates(table.tls_certificate_path, f"upstreams.{name}")
        ]
    )


def meter_gateway(
    metrics: Metrics,
    wiring: Callable[[], Wiring],
    retiring: Callable[[], Iterable[Wiring]],
    store_problem: Callable[[], str],
) -> None:
    """Have the parts of a gateway read.

    Args:
        wiring: Returns the one in force.
        retiring: Returns those that answer their last messages.
        store_problem: Returns what is wrong with the store, "" if nothing is.
    """

    def read() -> Iterator[Reading]:
        now = wiring()
        in_flight = sum(item.in_flight_count for item in (now, *retiring()))
        yield Reading(families.IN_FLIGHT, (), in_flight)
        yield Reading(families.STORE_UP, (Component.gateway,), not store_problem())
        yield from _of_wiring(now)

    async def waiting() -> list[Reading]:
        store = wiring().config.store
        return await _backlog(wiring().store, store.max_held, store.max_transactions)

    metrics.begin(Component.gateway)
    metrics.reads(read)
    metrics.asks(Survey(waiting, _BACKLOG_SECONDS))
    metrics.asks(Survey(lambda: _client_certificates(wiring().config), SLOWLY_SECONDS))


def names_of(wiring: Wiring) -> dict[str, frozenset[str]]:
    """Return the names of a configuration, by the label that has them (`Metrics.keep`)."""
    endpoints = wiring.services.endpoints
    domains = {item.name for item in wiring.domains}
    for endpoint in endpoints.values():
        domains |= {item.name for item in endpoint.origins}
        if endpoint.mac is not None:
            domains.add(endpoint.mac.domain.name)
        if endpoint.registration_authorities is not None:
            domains.add(endpoint.registration_authorities.domain.name)
    return {
        "endpoint": frozenset({*endpoints, "ra", "client"}),
        "domain": frozenset(domains),
        "upstream": frozenset(wiring.upstreams),
    }


def names_of_ca(config: CAServiceConfig) -> dict[str, frozenset[str]]:
    """Return the same of a CA by itself, whose endpoints are its modes."""
    modes = {"ra"} if config.ca.client is None else {"ra", "client"}
    return {"endpoint": frozenset(modes), "domain": frozenset(), "upstream": frozenset()}
