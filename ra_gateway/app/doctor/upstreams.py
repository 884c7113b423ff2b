"""Each way to a CA: reached step by step, and asked what it thinks of this gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from ra_gateway.app.doctor.answers import (
    Told,
    Witness,
    judge,
    kur_wants_the_device,
    of_clock,
    of_kur,
    read,
    refused,
    shown_by,
)
from ra_gateway.app.doctor.causes import explain
from ra_gateway.app.doctor.findings import Finding, Verdict, of_problems
from ra_gateway.app.doctor.material import authorities
from ra_gateway.app.doctor.probes import SUBJECT, Probe, Prober
from ra_gateway.app.doctor.reaching import examine_way
from ra_gateway.app.gateway import Application
from ra_gateway.app.running import now
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
from ra_gateway.ra.endpoints import CertConf, Upstream, Variant
from ra_gateway.upstream.kinds import BundledUpstream, UpstreamConfig
from ra_gateway.upstream.plugins import PluginUpstream
from ra_gateway.upstream.pool import CMPHTTPUpstream

if TYPE_CHECKING:
    from ra_gateway.ca.core import BundledCA

_ENDPOINT: Final = "doctor"

_NEW: Final = frozenset({BodyType.ir, BodyType.cr, BodyType.p10cr})

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

    async def examine(self, name: str) -> list[Finding]:
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
            return [Finding(f"upstream {name}", "reach it", "not tried: only its plug-in can")]
        # No probes: behind a REST API there is nobody who verifies a proof of possession.
        return (await examine_way(name, upstream.url, upstream)).findings

    async def _reach_and_probe(
        self, name: str, url: str, upstream: CMPHTTPUpstream
    ) -> list[Finding]:
        reached = await examine_way(name, url, upstream)
        if not reached.is_open:
            return reached.findings
        return reached.findings + await self._probe(name, upstream, reached.skew_seconds)

    async def _probe(
        self, name: str, upstream: UpstreamConfig, skew_seconds: float | None
    ) -> list[Finding]:
        try:
            async with self._wired(name, upstream) as (way, credential):
                prober = Prober(
                    credential, way.recipient_der, self._clock, self._subject, self._san
                )
                asked = _Asked(way, self._config, self._clock)
                for probe in await self._probes(way, prober):
                    if not await asked.ask(probe):
                        break
                return asked.findings(skew_seconds) + self._unprobed(way)
        except ConfigError as error:
            return of_problems(f"upstream {name}", "send probes", error)
        except (GatewayError, OSError) as error:
            what = f"could not be sent: {error}"
            cause = "what signs or keeps the messages of this gateway failed"
            return [
                Finding(
                    f"upstream {name}",
                    "send probes",
                    what,
                    Verdict.fault,
                    cause,
                    "ra.key_path; [ca]",
                )
            ]

    async def _probes(self, way: Upstream, prober: Prober) -> list[Probe]:
        """Return the probes that go up as the gateway's own messages do."""
        types = _body_types(self._config, way.name)
        probes = []
        if types & _NEW and way.settings.requests is Variant.reprotect:
            probes.append(await prober.ir())
        if BodyType.kur in types and way.settings.kur is Variant.reprotect:
            probes.append(await prober.kur())
        # The gateway has certificates revoked that base stations reject, whether they may ask for it or not.
        probes.append(await prober.rr())
        if BodyType.genm in types and way.settings.genm:
            probes.append(await prober.genm())
        return probes

    def _unprobed(self, way: Upstream) -> list[Finding]:
        """Return rows about what goes up as its base station signed it: only that could try."""
        types = _body_types(self._config, way.name)
        variants = {"requests": way.settings.requests} if types & _NEW else {}
        if BodyType.kur in types:
            variants["kur"] = way.settings.kur
        return [
            Finding(f"upstream {way.name}", key, f"not tried: {variant} wants a base station's key")
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
                await cast("BundledCA", way.core).start()
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


def _of_ejbca(name: str, upstream: CMPHTTPUpstream, config: GatewayConfig) -> list[Finding]:
    """Compare settings with what EJBCA does, where the URL says that it is one."""
    if not any("/publicweb/cmp" in url for url in upstream.every_url):
        return []
    subject, setting = f"upstream {name}", f"upstreams.{name}"
    largest = config.server.max_body_bytes + _ROOM_BYTES
    found = [
        Finding(
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
            Finding(
                subject,
                "who reads certConf",
                "EJBCA is to, and does not",
                Verdict.warning,
                "a certificate that its base station rejects stays valid",
                f'{setting}.dialect = "ejbca-ra", or certconf = "local" and unconfirmed = "revoke"',
            )
        )
    if upstream.replays_repeats:
        found.append(
            Finding(
                subject,
                "what becomes of a repeat",
                "EJBCA is said to answer it as before, and does not",
                Verdict.fault,
                "a request that is sent again issues a second certificate",
                f"{setting}.replays_repeats = false",
            )
        )
    return found


class _Asked:
    """What came of the probes of one upstream."""

    def __init__(self, way: Upstream, config: GatewayConfig, clock: Callable[[], datetime]) -> None:
        self._way = way
        self._clock = clock
        self._named = authorities(
            config,
            (*way.pinned, *way.issuing.anchors, *way.trust.anchors, *way.trust.intermediates),
        )
        self._rows: list[Finding] = []
        self._proofs: list[Finding] = []
        self._shown: list[Certificate] = []
        self._told: dict[BodyType, Told] = {}
        self._skew: timedelta | None = None

    async def ask(self, probe: Probe) -> bool:
        """Send a probe and judge what comes back; returns whether the CA answers, so that others are worth while."""
        way, name = self._way, self._way.name
        try:
            octets = await way.core.exchange(
                probe.der, path=way.settings.path, deadline_seconds=way.deadline_seconds
            )
            told = read(octets)
        except (ServiceFailure, MalformedMessage) as error:
            cause = explain(error.detail, (), probe.request)
            self._rows.append(refused(name, probe, error.detail, cause))
            return not isinstance(error, UpstreamUnavailable)
        received_at = self._clock()
        self._told[probe.request] = told
        self._rows.append(self._judged(probe, told))
        self._proofs.append(Witness(way, self._named, received_at).of_protection(probe, told))
        self._shown += shown_by(told)
        message_time = told.message.header.message_time
        if message_time is not None and self._skew is None:
            self._skew = message_time - received_at
        return True

    def findings(self, skew_seconds: float | None) -> list[Finding]:
        """Return all rows.

        Args:
            skew_seconds: What the Date header told, in case that messages do not tell it.
        """
        name, found = self._way.name, list(self._rows)
        found += _different(self._proofs)
        if self._told:
            witness = Witness(self._way, self._named, self._clock())
            recipient = witness.of_recipient(self._shown)
            if recipient is not None:
                found.append(recipient)
        if self._skew is not None:
            found.append(of_clock(name, "messageTime", self._skew))
        elif skew_seconds is not None:
            found.append(of_clock(name, "HTTP Date", timedelta(seconds=skew_seconds)))
        return found

    def _judged(self, probe: Probe, told: Told) -> Finding:
        """Return the row of an answer, explained better where that to the ir helps."""
        row = judge(self._way.name, probe, told)
        first = self._told.get(BodyType.ir)
        renewing = probe.request is BodyType.kur and row.verdict is not Verdict.ok
        if renewing and first is not None and kur_wants_the_device(first, told):
            return of_kur(self._way.name, probe, told)
        return row


def _different(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that say something new: most answers are signed by the same."""
    found: dict[tuple[str, str, str], Finding] = {}
    for item in findings:
        found.setdefault((item.came_back, item.cause, item.setting), item)
    return list(found.values())
