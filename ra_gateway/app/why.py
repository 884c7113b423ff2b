"""Why one base station fails: the log, the inventory, the bundled CA's ledger and the trust, joined in a few sentences.

Everything is read and nothing is changed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ra_gateway.app.doctor.own_texts import explain_line
from ra_gateway.app.inventory import name_of, open_inventory
from ra_gateway.app.log_reader import Line, LogReader, plain_hex, word
from ra_gateway.app.trust import certificates
from ra_gateway.app.unused import unused_at_the_ca, unused_tables
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.header_checks import takes_ber
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.errors import ConfigError, ServiceFailure, StoreUnavailable, printable
from ra_gateway.ra.ports import Inventory
from ra_gateway.ra.settings import InventoryUse

if TYPE_CHECKING:
    from ra_gateway.ca.ledger.history import History
    from ra_gateway.ca.ledger.ledger import Ledger
    from ra_gateway.ca.records import EndEntity, IssuedCertificate

Config = GatewayConfig | CAServiceConfig
"""A gateway's, or that of a CA by itself."""

_EVENTS: Final = 50
"""Of a base station's history, the last ones, its newest certificate among them."""

_FAILED: Final = ("refused", "rejected", "failed", "unconfirmed")
_WAITS: Final = ("held", "waiting", "ready")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is known of a base station.

    Args:
        source: "log", "inventory", "ledger" or "trust".
        said: A sentence without its full stop.
        todo: What to do, "" where nothing is to be done.
    """

    source: str
    said: str
    todo: str = ""


async def explain(config: Config, log: LogReader, now: datetime) -> list[Finding]:
    """Return all that is known of a base station, what failed first.

    Args:
        log: Has been read.
        now: Aware UTC.
    """
    found = [*of_log(log)]
    failing = any(_cause(lines) is not None for lines in log.transactions()[-1:])
    of_ca, called = await of_ledger(config, log, now)
    names = list(dict.fromkeys((*log.identities(), *called)))
    found += await of_inventory(config, names, log)
    found += of_ca
    # Of who was served nothing is to be said of vendors.
    if failing or not log.transactions():
        found += of_trust(config, log, now)
    return [
        Finding(item.source, printable(item.said, 1000), printable(item.todo, 1000))
        for item in found
    ]


# --- the log ----------------------------------------------------------------------------------------------------


def of_log(log: LogReader) -> Iterator[Finding]:
    """Yield what the log says."""
    found = log.transactions()
    if log.its_own_below_cmp:
        yield _below_cmp(log, f"{_many(log.its_own_below_cmp, 'request')} of it failed below CMP")
    if not found:
        yield from () if log.its_own_below_cmp else _of_silence(log)
        return
    failed = [item for item in found if _cause(item) is not None]
    last = found[-1]
    cause = _cause(last)
    if cause is None:
        said = f"the last of {_many(len(found), 'transaction')} is {_outcome(last)}{_at(last[-1])}"
        if failed:
            said += f"; {len(failed)} of them failed, the last{_at(failed[-1][-1])}"
        yield Finding("log", said, _waiting(last))
        if not failed:
            return
        cause = _cause(failed[-1])
        assert cause is not None
    alike = sum(_same(_cause(item), cause) for item in failed)
    name = cause.get("body_type") or cause.get("event", "")
    rule = f", {cause['rule']}" if cause.get("rule") else ""
    who = "the bundled CA" if cause.get("event", "").startswith("ca.") else "the gateway"
    times = f" ({alike} times so)" if alike > 1 else ""
    detail = cause.get("detail", "no reason is told")
    said = f"{who} refused {name}{_at(cause)}{times}: {detail} ({cause.get('fail_info', '')}{rule})"
    yield Finding("log", said)
    for meaning in explain_line(json.dumps(cause))[:2]:
        yield Finding("log", f"{_WHO[meaning.who]}: {meaning.cause}", meaning.todo)


_WHO: Final = {
    "device": "it is a matter of the device or its vendor",
    "operator": "it is a matter of the operator's settings",
    "ca": "it is a matter of the CA",
}
_GIVE_A_LOG: Final = "journalctl -u ra-gateway -o cat | ra-gateway why {what} --log -"


def _of_silence(log: LogReader) -> Iterator[Finding]:
    if not log.lines:
        yield Finding("log", "no log was given", _GIVE_A_LOG.format(what=log.what))
        return
    if log.unreadable == log.lines:
        yield Finding(
            "log", f"none of {_many(log.lines, 'line')} is JSON", 'Set log.format = "json"'
        )
        return
    said = f"none of {_many(log.lines, 'line')} is about it: no message of it came so far as CMP"
    todo = "Look at address, port and path that it has, at what is in between, and for another of its names"
    yield Finding("log", said, todo)
    if log.below_cmp:
        whom = f"the last from {log.last_below_cmp.get('peer', 'nobody')}"
        said = f"{_many(log.below_cmp, 'request')} of anybody failed below CMP, {whom}"
        yield _below_cmp(log, said, "Compare the peer with the address of the base station. ")


def _below_cmp(log: LogReader, said: str, first: str = "") -> Finding:
    last = log.last_below_cmp
    if not first:
        said += f", the last{_at(last)}"
    request = " ".join(last.get(name, "") for name in ("method", "path", "status", "reason"))
    todo = "In the base station, write a path of endpoints.NAME.paths; CMP is POST, of application/pkixcmp"
    return Finding("log", f"{said}: {request.strip().rstrip('.')}", f"{first}{todo}")


def _cause(lines: list[Line]) -> Line | None:
    """Return the line that says why a transaction failed, the CA's own where it told; None if it did not fail."""
    if _outcome(lines) not in _FAILED:
        return None
    failed = [line for line in lines if line.get("fail_info") or line.get("outcome") in _FAILED]
    of_ca = [line for line in failed if line.get("event") in ("ca.refused", "ca.failed")]
    return (of_ca or failed)[-1]


def _outcome(lines: list[Line]) -> str:
    """Return how a transaction stands: by the gateway's last line, or the CA's where there is none."""
    of_gateway = [line for line in lines if not line.get("event", "").startswith("ca.")]
    last = (of_gateway or lines)[-1]
    if "outcome" in last:
        return last["outcome"]
    return "refused" if last.get("event") in ("ca.refused", "ca.failed") else "answered"


def _same(one: Line | None, other: Line) -> bool:
    names = ("event", "fail_info", "rule")
    return one is not None and all(one.get(name) == other.get(name) for name in names)


def _waiting(lines: list[Line]) -> str:
    if _outcome(lines) not in _WAITS:
        return ""
    return "ra-gateway approvals list, and approvals approve, if it is held; else the CA has not answered yet"


def _at(line: Line) -> str:
    moment = line.get("timestamp", "")
    return f" at {moment[:19]}Z" if moment else ""


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


# --- the ledger -------------------------------------------------------------------------------------------------


async def of_ledger(
    config: Config, log: LogReader, now: datetime
) -> tuple[list[Finding], list[str]]:
    """Return what the bundled CA knows, if there is one, and what vendors call the device by its certificates.

    Args:
        now: Aware UTC.
    """
    if config.ca is None:
        return [], []
    try:
        from ra_gateway.app.ledger import ca_ledger  # the extra `ca`

        where = config.ca.database
        if isinstance(where, Path) and not where.exists():
            return [], []
        ledger = ca_ledger(config.ca)
        async with AsyncExitStack() as stack:
            await ledger.open()
            stack.push_async_callback(ledger.close)
            known = await _history(ledger, log)
            found = [item async for item in _of_open_ledger(ledger, config, log, now, known)]
            return found, [] if known is None else [identity for _, identity in known.devices]
    except (ConfigError, StoreUnavailable, OSError, ModuleNotFoundError) as error:
        why = getattr(error, "detail", None) or str(error)
        return [Finding("ledger", f"it cannot be read: {why}", "Run: ra-gateway doctor")], []


async def _history(ledger: Ledger, log: LogReader) -> History | None:
    """Return what became of the device that is meant, in RA mode too, where end entities have no identity."""
    from ra_gateway.ca.ledger.history import history  # the extra `ca`

    for name in dict.fromkeys((log.what, *log.identities())):
        try:
            found = await history(ledger, name, limit=_EVENTS)
        except ConfigError:
            continue
        texts = [identity for _, identity in found.devices]
        for entity, registered in found.entities.items():
            texts += [entity, "" if registered is None else registered.subject]
        serials = {event.entry.subject for event in found.events}
        # Not for a part of another device's name.
        if plain_hex(name) in serials or any(map(word(name).search, texts)):
            if plain_hex(log.what) in serials:
                log.numbers.add(plain_hex(log.what))
            return found
    return None


async def _of_open_ledger(
    ledger: Ledger,
    config: Config,
    log: LogReader,
    now: datetime,
    known: History | None,
) -> AsyncIterator[Finding]:
    entities = [] if known is None else [item for item in known.entities.values() if item]
    for name in log.identities():
        entities += await _entities(ledger, config, name)
    for entity in {item.name: item for item in entities}.values():
        yield _of_entity(entity)
    issued: dict[int, IssuedCertificate] = {}
    for number in (*_newest(known), *log.serial_numbers()):
        found = await ledger.certificate(number, now)
        if found is not None:
            issued[number] = found
    for subject in log.subjects():
        found = await ledger.newest_certificate(subject, now)
        if found is not None:
            issued[found.serial_number] = found
    for item in [*issued.values()][-3:]:
        yield _of_certificate(item, now)


def _newest(known: History | None) -> list[int]:
    """Return the serial number of the newest certificate of each end entity that is meant."""
    if known is None:
        return []
    events = [item for item in known.events if item.entry.action == "issue"]
    return [
        int(number, 16) for number in {item.entity: item.entry.subject for item in events}.values()
    ]


async def _entities(ledger: Ledger, config: Config, name: str) -> list[EndEntity]:
    found = [await ledger.registry.entity(name)]
    found += [await ledger.registry.entity_by_identity(vendor, name) for vendor in config.vendors]
    return [item for item in found if item is not None]


def _of_entity(entity: EndEntity) -> Finding:
    said = f"the end entity {entity.name} is {entity.status}"
    if entity.vendor:
        said += f" ({entity.identity} of {entity.vendor})"
    unblock = f"ra-gateway ca entity unblock {shlex.quote(entity.name)}"
    return Finding("ledger", said, unblock if entity.status == "blocked" else "")


def _of_certificate(item: IssuedCertificate, now: datetime) -> Finding:
    certificate = Certificate.from_der(item.der)
    until = f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
    said = f"certificate {item.serial_number:x} for {certificate.subject} is {item.status}, until {until}"
    if item.revoked_at is not None:
        reason = "" if item.reason is None else f" ({item.reason.name})"
        said += f"; revoked at {item.revoked_at:%Y-%m-%d %H:%M} UTC{reason}"
        return Finding(
            "ledger", said, "It renews nothing any more: have the device enrol anew (ir)"
        )
    if now > certificate.not_after:
        return Finding("ledger", f"{said}: it has expired", "Have the device enrol anew (ir)")
    return Finding("ledger", said)


# --- the inventory ----------------------------------------------------------------------------------------------


def _domains(config: Config, log: LogReader) -> list[str]:
    """Return the vendors that vouched for it; all, where none is known to have."""
    told = {line.get("domain", "") for lines in log.transactions() for line in lines}
    return [name for name in config.vendors if name in told] or list(config.vendors)


async def of_inventory(config: Config, names: list[str], log: LogReader) -> list[Finding]:
    """Return what the inventory says; a CA by itself has none.

    Args:
        names: What may name the device there.
    """
    if not isinstance(config, GatewayConfig) or config.inventory is None:
        return []
    try:
        inventory = open_inventory(config)
    except ConfigError as error:
        return [Finding("inventory", str(item.what), item.todo) for item in error.problems[:2]]
    assert inventory is not None
    try:
        return await _looked_up(inventory, config, names, log)
    except ServiceFailure as error:
        todo = "See that it answers: until then no device is admitted by it"
        return [Finding("inventory", error.detail, todo)]
    finally:
        await inventory.close()


async def _looked_up(
    inventory: Inventory, config: GatewayConfig, names: list[str], log: LogReader
) -> list[Finding]:
    domains = _domains(config, log)
    for domain in domains:
        for name in names:
            entry = await inventory.find(domain, name)
            if entry is None:
                continue
            said = f"{name} of {domain} is listed, {'enabled' if entry.enabled else 'not enabled'}"
            if entry.subject:
                said += f", with the subject {entry.subject}"
            todo = "" if entry.enabled else "Set enabled = true in its line"
            return [Finding("inventory", said, todo)]
    wanting = [
        name for name in domains if config.vendors[name].identity.inventory is InventoryUse.required
    ]
    # Of whom no vendor vouches no line would help.
    if not wanting or not names or log.issuers():
        return []
    who = names[0] if len(names) == 1 else f"none of {', '.join(names)}"
    under = "under none of" if len(names) == 1 else "under"
    said = f"{who} is listed {under} {', '.join(domains)}; {wanting[0]} requires it"
    return [Finding("inventory", said, f"Add a line to {name_of(config)}")]


# --- the trust --------------------------------------------------------------------------------------------------


def of_trust(config: Config, log: LogReader, now: datetime) -> Iterator[Finding]:
    """Yield what is wrong with the vendors that vouch for it, or might.

    Args:
        now: Aware UTC.
    """
    domains = _domains(config, log)
    unused = (
        unused_tables(config) if isinstance(config, GatewayConfig) else unused_at_the_ca(config)
    )
    served = {problem.path: problem for problem in unused}
    issuers = log.issuers()
    known: set[str] = set()
    for name in domains:
        vendor = config.vendors[name]
        if not vendor.enabled:
            yield Finding("trust", f"{name} is disabled", f"Set vendors.{name}.enabled = true")
        if (problem := served.get(f"vendors.{name}")) is not None:
            yield Finding("trust", f"{name} {problem.what}", problem.todo)
        paths = (*vendor.anchors_paths, *vendor.intermediates_paths)
        try:
            found = certificates(paths, f"vendors.{name}", loosely=takes_ber(vendor.quirks))
        except ConfigError as error:
            yield from (Finding("trust", item.what, item.todo) for item in error.problems[:2])
            continue
        known |= {item.subject for item in found}
        for item in found:
            if not item.valid_at(now):
                yield Finding(
                    "trust",
                    f"{item.subject} of {name} is valid from {item.not_before:%Y-%m-%d} to "
                    f"{item.not_after:%Y-%m-%d}: nobody below it is believed",
                    f"Add the certificate that follows it to vendors.{name}.anchors_paths or intermediates_paths",
                )
    for issuer in issuers:
        if issuer in known:
            yield Finding(
                "trust",
                f"a CA of the name {issuer} is configured, and did not sign this certificate: the vendor has another "
                "key of that name",
                "Ask the vendor for it, and add it beside the old one",
            )
        else:
            yield Finding(
                "trust",
                f"its certificate was issued by {issuer}, none of the CAs that are configured for "
                f"{', '.join(domains) or 'anybody'}",
                "If the vendor says that it is its own: add it to intermediates_paths, or its root to anchors_paths",
            )
