"""Each CA: reached step by step, and asked by probes what it thinks of this gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from ra_gateway.app.application import Application
from ra_gateway.app.doctor.certificates import authorities
from ra_gateway.app.doctor.connectivity import examine_connectivity
from ra_gateway.app.doctor.known_errors import explain
from ra_gateway.app.doctor.probes import SUBJECT, Probe, Prober
from ra_gateway.app.doctor.responses import (
    ProbeResponse,
    ResponseCheck,
    assess,
    kur_wants_the_device,
    not_authorised,
    of_clock,
    of_kur,
    read,
    refused,
    refused_alone,
    shown_by,
)
from ra_gateway.app.doctor.results import Check, Result, Verdict
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.protection import Credential
from ra_gateway.config.service_tables import StoreConfig
from ra_gateway.config.tables import EndpointConfig, GatewayConfig
from ra_gateway.errors import (
    ConfigError,
    GatewayError,
    MalformedMessage,
    ServiceFailure,
    UpstreamUnavailable,
)
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.settings import CertConf, Variant
from ra_gateway.upstream.kinds import (
    BundledUpstream,
    CMPHTTPUpstream,
    PluginUpstream,
    UpstreamConfig,
)
from ra_gateway.upstream.metered import MeteredCA

if TYPE_CHECKING:
    from ra_gateway.ca.core import BundledCA

_ENDPOINT: Final = "doctor"

_FIRST: Final = (BodyType.ir, BodyType.cr, BodyType.p10cr)
"""Requests for a certificate; the first that base stations may send is tried."""

_NEW: Final = frozenset(_FIRST)

_EJBCA_BYTES: Final = 100_000
"""EJBCA takes no larger message."""

_ROOM_BYTES: Final = 8192
"""What the gateway's own header, chain and signature add to a base station's message."""


class UpstreamExaminer:
    """Examines the upstreams of a configuration.

    Args:
        subject, san: Whom the ir asks a certificate for.
        clock: Aware UTC.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        subject: str = SUBJECT,
        san: tuple[str, ...] = (),
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._config = config
        self._subject = subject
        self._san = san
        self._clock = clock

    async def examine(self, name: str) -> list[Result]:
        """Examine one upstream, each of its URLs by itself."""
        upstream = self._config.upstreams[name]
        if isinstance(upstream, BundledUpstream):
            return await self._probe(name, upstream, None)
        if isinstance(upstream, CMPHTTPUpstream):
            found = _of_ejbca(name, upstream, self._config)
            for url in upstream.every_url:
                alone = upstream.model_copy(update={"url": url, "urls": ()})
                found += await self._reach_and_probe(name, url, alone)
            return found
        if isinstance(upstream, PluginUpstream):
            return [Result(f"upstream {name}", "reach it", "not tried: only its plug-in can")]
        # No probes: behind a REST API there is nobody who verifies a proof of possession.
        return (await examine_connectivity(name, upstream.url, upstream)).results

    async def _reach_and_probe(
        self, name: str, url: str, upstream: CMPHTTPUpstream
    ) -> list[Result]:
        connectivity = await examine_connectivity(name, url, upstream)
        if not connectivity.reachable:
            return connectivity.results
        return connectivity.results + await self._probe(name, upstream, connectivity.skew_seconds)

    async def _probe(
        self, name: str, upstream: UpstreamConfig, skew_seconds: float | None
    ) -> list[Result]:
        try:
            async with self._wired(name, upstream) as (way, credential):
                prober = Prober(
                    way.protecting(credential),
                    way.recipient_der,
                    self._clock,
                    self._subject,
                    self._san,
                )
                probed = _ProbedUpstream(
                    way, self._config, self._clock, is_ejbca=_is_ejbca(upstream, self._config)
                )
                for probe in await self._probes(way, prober):
                    if not await probed.ask(probe):
                        break
                return probed.results(skew_seconds) + self._unprobed(way)
        except ConfigError as error:
            return Check(f"upstream {name}", "send probes").problems(error)
        except (GatewayError, OSError) as error:
            what = f"could not be sent: {error}"
            cause = "what signs or keeps the messages of this gateway failed"
            return [
                Check(f"upstream {name}", "send probes").fault(what, cause, "ra.key_path; [ca]")
            ]

    async def _probes(self, way: Upstream, prober: Prober) -> list[Probe]:
        """Return the probes that go up as the gateway's own messages do."""
        types = _body_types(self._config, way.name)
        probes = []
        if types & _NEW and way.settings.requests is Variant.reprotect:
            asked = next(item for item in _FIRST if item in types)
            probes.append(await prober.first(way.asked_type(asked, Variant.reprotect)))
        if BodyType.kur in types and way.settings.kur is Variant.reprotect:
            probes.append(await prober.kur())
        # The gateway has certificates revoked that base stations reject, whether they may ask for it or not.
        probes.append(await prober.rr())
        if BodyType.genm in types and way.settings.genm:
            probes.append(await prober.genm())
        return probes

    def _unprobed(self, way: Upstream) -> list[Result]:
        """Return rows about what goes up as its base station signed it: only that could try."""
        types = _body_types(self._config, way.name)
        variants = {"requests": way.settings.requests} if types & _NEW else {}
        if BodyType.kur in types:
            variants["kur"] = way.settings.kur
        return [
            Result(f"upstream {way.name}", key, f"not tried: {variant} wants a base station's key")
            for key, variant in variants.items()
            if variant is not Variant.reprotect
        ]

    @asynccontextmanager
    async def _wired(
        self, name: str, upstream: UpstreamConfig
    ) -> AsyncIterator[tuple[Upstream, Credential]]:
        """Wire one upstream as the gateway does, without all that is not on the way to it."""
        endpoint = EndpointConfig.model_construct(upstream=name)
        application = Application(
            self._config.model_copy(
                update={
                    "upstreams": {name: upstream},
                    "endpoints": {_ENDPOINT: endpoint},
                    "vendors": _vendors_of_the_ca(self._config, upstream),
                    "inventory": None,
                    "store": StoreConfig(),
                }
            )
        )
        way = application.services.endpoints[_ENDPOINT].upstream
        try:
            if isinstance(upstream, BundledUpstream):
                core = way.core.core if isinstance(way.core, MeteredCA) else way.core
                await cast("BundledCA", core).start()
            yield way, application.services.credential()
        finally:
            await application.stop()


def _vendors_of_the_ca(config: GatewayConfig, upstream: UpstreamConfig) -> dict[str, Any]:
    """Return the vendors' tables that the bundled CA needs itself."""
    client = config.ca.client if config.ca is not None else None
    if not isinstance(upstream, BundledUpstream) or client is None:
        return {}
    return {name: config.vendors[name] for name in client.vendors}


def _body_types(config: GatewayConfig, name: str) -> set[BodyType]:
    """Return what base stations may ask of an upstream."""
    found: set[BodyType] = set()
    for endpoint in config.endpoints.values():
        if endpoint.upstream == name:
            found.update(endpoint.body_types)
        for route in endpoint.routes:
            if route.upstream == name:
                found.update(route.body_types or endpoint.body_types)
    return found or {BodyType.ir, BodyType.kur}  # nothing leads there yet: what most will ask


def _is_ejbca(upstream: UpstreamConfig, config: GatewayConfig) -> bool:
    """Tell whether a CA is EJBCA, by its URL or its dialect."""
    if not isinstance(upstream, CMPHTTPUpstream):
        return False
    own = config.dialects.get(upstream.dialect or "")
    names = (upstream.dialect, None if own is None else own.base)
    return any(name is not None and name.startswith("ejbca") for name in names) or any(
        "ejbca" in url or "/publicweb/cmp" in url for url in upstream.every_url
    )


def _of_ejbca(name: str, upstream: CMPHTTPUpstream, config: GatewayConfig) -> list[Result]:
    """Compare settings with what EJBCA does, where the URL says that it is one."""
    if not any("/publicweb/cmp" in url for url in upstream.every_url):
        return []
    subject, setting = f"upstream {name}", f"upstreams.{name}"
    largest = config.server.max_body_bytes + _ROOM_BYTES
    found = [
        Result(
            subject,
            "size of messages",
            f"up to {largest} bytes with what the gateway adds; EJBCA takes {_EJBCA_BYTES}",
        )
    ]
    if largest > _EJBCA_BYTES:
        found[0] = replace(
            found[0],
            verdict=Verdict.warning,
            cause="EJBCA answers larger messages with HTTP 400",
            setting=f"server.max_body_bytes = {_EJBCA_BYTES - _ROOM_BYTES} or less",
        )
    if upstream.certconf is CertConf.forward:
        found.append(
            Check(subject, "who reads certConf").warning(
                "EJBCA is to, and does not",
                "a certificate that its base station rejects stays valid",
                f'{setting}.dialect = "ejbca-ra", or certconf = "local" and unconfirmed = "revoke"',
            )
        )
    if upstream.replays_repeats:
        found.append(
            Check(subject, "what becomes of a repeat").fault(
                "EJBCA is said to answer it as before, and does not",
                "a request that is sent again issues a second certificate",
                f"{setting}.replays_repeats = false",
            )
        )
    return found


class _ProbedUpstream:
    """What came of the probes of one upstream."""

    def __init__(
        self,
        way: Upstream,
        config: GatewayConfig,
        clock: Callable[[], datetime],
        *,
        is_ejbca: bool,
    ) -> None:
        self._way = way
        self._clock = clock
        self._is_ejbca = is_ejbca
        self._named = authorities(
            config,
            (*way.pinned, *way.issuing.anchors, *way.trust.anchors, *way.trust.intermediates),
        )
        self._rows: list[Result] = []
        self._alone: dict[int, Result] = {}
        self._proofs: list[Result] = []
        self._shown: list[Certificate] = []
        self._responses: dict[BodyType, ProbeResponse] = {}
        self._skew: timedelta | None = None

    async def ask(self, probe: Probe) -> bool:
        """Send a probe and assess what comes back; returns whether the CA answers, so that others are worth while."""
        way, name = self._way, self._way.name
        try:
            octets = await way.core.exchange(
                probe.der, path=way.settings.path, deadline_seconds=way.deadline_seconds
            )
            response = read(octets)
            mac = await way.answer_credentials(octets)
        except (ServiceFailure, MalformedMessage) as error:
            cause = explain(
                error.detail, (), probe.request, is_ejbca=self._is_ejbca, answered=False
            )
            self._rows.append(refused(name, probe, error.detail, cause))
            return not isinstance(error, UpstreamUnavailable)
        received_at = self._clock()
        self._responses[probe.request] = response
        if probe.request in _NEW and not_authorised(response, is_ejbca=self._is_ejbca):
            self._alone[len(self._rows)] = refused_alone(name, probe, response)
        self._rows.append(self._assessed(probe, response))
        check = ResponseCheck(way, self._named, received_at, self._is_ejbca, mac)
        self._proofs.append(check.of_protection(probe, response))
        self._shown += shown_by(response)
        message_time = response.message.header.message_time
        if message_time is not None and self._skew is None:
            self._skew = message_time - received_at
        return True

    def results(self, skew_seconds: float | None) -> list[Result]:
        """Return all rows.

        Args:
            skew_seconds: By the Date header, for a CA whose messages have no time.
        """
        name, found = self._way.name, list(self._rows)
        if any(row.verdict is Verdict.ok for row in found):
            # Who takes one of them knows the RA: what it refuses besides need not be a right that is missing.
            for place, row in self._alone.items():
                if found[place].verdict is Verdict.fault:
                    found[place] = row
        found = _told_once(found)
        found += _different(self._proofs)
        if self._responses:
            check = ResponseCheck(self._way, self._named, self._clock(), self._is_ejbca)
            recipient = check.of_recipient(self._shown)
            if recipient is not None:
                found.append(recipient)
        if self._skew is not None:
            found.append(of_clock(name, "messageTime", self._skew))
        elif skew_seconds is not None:
            found.append(of_clock(name, "HTTP Date", timedelta(seconds=skew_seconds)))
        return found

    def _assessed(self, probe: Probe, response: ProbeResponse) -> Result:
        """Return the row of an answer, explained better where that to the ir helps."""
        row = assess(self._way.name, probe, response, is_ejbca=self._is_ejbca)
        first = next((self._responses[item] for item in _FIRST if item in self._responses), None)
        renewing = probe.request is BodyType.kur and row.verdict is not Verdict.ok
        if renewing and first is not None and kur_wants_the_device(first, response):
            return of_kur(self._way.name, probe, response)
        return row


def _told_once(results: Iterable[Result]) -> list[Result]:
    """Return the results with one row for what went wrong with several probes in the same way."""
    found: dict[tuple[str, str, str, str], Result] = {}
    for item in results:
        key = (item.came_back, item.cause, item.setting, "" if item.cause else item.tried)
        first = found.setdefault(key, item)
        if first is not item:
            found[key] = replace(first, tried=f"{first.tried}; {item.tried}")
    return list(found.values())


def _different(results: Iterable[Result]) -> list[Result]:
    """Return the results that say something new: most answers are signed by the same."""
    found: dict[tuple[str, str, str], Result] = {}
    for item in results:
        found.setdefault((item.came_back, item.cause, item.setting), item)
    return list(found.values())
