"""Counts facts, asks the parts of a service, and writes what came of both for Prometheus."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Final

import structlog
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics

from ra_gateway.cmp.codes import BodyType
from ra_gateway.durations import BOUNDS_SECONDS, Durations
from ra_gateway.errors import GatewayError
from ra_gateway.events import (
    AnswerLost,
    CertificateConfirmed,
    CertificateIssued,
    CertificatesWithdrawn,
    Component,
    ConfigurationReloaded,
    CredentialChanged,
    CRLPublished,
    Fact,
    InventoryChanged,
    InventoryRefused,
    ReloadRefused,
    RequestHandled,
    StoreLost,
    TransactionChanged,
    UpstreamDown,
    UpstreamFailed,
)
from ra_gateway.metrics import families
from ra_gateway.metrics.families import FAMILIES, Family, Kind, Reading

MAX_SERIES: Final = 1000
"""Values of one metric. Labels are bounded by themselves; should one not be, no device fills a memory by it."""

OTHER: Final = "other"
"""Value of every label of what is beyond that."""

ANSWER_SECONDS: Final = 1.0
"""How long a scrape waits for parts that have to be asked; Prometheus gives up after ten."""

REST_FACTOR: Final = 20.0
"""A text is kept for so many times the time that it took to write: whoever scrapes without end takes a twentieth of the
process, or two with two formats."""

_MOST_REST_SECONDS: Final = 2.0

_NAMES: Final = ("endpoint", "domain", "upstream")
"""Labels whose values are names of the configuration, which a reload may change."""

_EVENTS: Final = ("issued", "confirmed", "rejected", "unconfirmed", "lost")

_BODY_TYPES: Final = frozenset(item.name for item in BodyType)

_BUCKETS: Final = (*(f"{bound:g}" for bound in BOUNDS_SECONDS), "+Inf")

Reader = Callable[[], Iterable[Reading]]
"""Reads values that are at hand, whenever somebody scrapes."""


class Survey:
    """Values that have to be asked for: the last ones count, and they are asked for again when somebody scrapes.

    Args:
        ask: Returns them; what it raises of our own errors leaves none.
        every_seconds: Not more often.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[Iterable[Reading]]], every_seconds: float
    ) -> None:
        self._ask = ask
        self._every_seconds = every_seconds
        self._due_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self.readings: tuple[Reading, ...] = ()

    def begin(self) -> asyncio.Task[None] | None:
        """Ask, if it is time; returns what is being waited for."""
        if self._asking is None or self._asking.done():
            self._asking = None
            if time.monotonic() >= self._due_at:
                self._asking = asyncio.create_task(self._run())
        return self._asking

    async def _run(self) -> None:
        try:
            self.readings = tuple(await self._ask())
        except (GatewayError, OSError):  # which are told elsewhere
            self.readings = ()
        except Exception:  # a bug
            structlog.get_logger().exception("metrics.failed")
            self.readings = ()
        self._due_at = time.monotonic() + self._every_seconds

    async def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking


class Metrics:
    """All metrics of one process; a sink for its facts (`ra_gateway.events.EventSink`).

    Args:
        rest_factor: How long a text is kept, in times of what it took to write; by default `REST_FACTOR`.
    """

    def __init__(self, rest_factor: float | None = None) -> None:
        self.registry = self.exposed = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._counts: dict[Family, dict[tuple[str, ...], float]] = {
            family: {} for family in FAMILIES if family.kind is not Kind.histogram
        }
        self._durations: dict[Family, dict[tuple[str, ...], Durations]] = {
            family: {} for family in FAMILIES if family.kind is Kind.histogram
        }
        self._names: Mapping[str, frozenset[str]] = {}
        self._readers: list[Reader] = []
        self._surveys: list[Survey] = []
        self._rest_factor = REST_FACTOR if rest_factor is None else rest_factor
        self._texts: dict[str, tuple[bytes, float]] = {}
        """By Content-Type, with the time until which they are good."""

    def add(self, family: Family, labels: tuple[str, ...] = (), number: float = 1) -> None:
        """Count what no fact tells of."""
        self._count(family, labels, number)

    def begin(self, by: Component) -> None:
        """Begin what a component counts at 0: what appears with its first value has not grown for Prometheus."""
        for outcome in ("reloaded", "refused"):
            self._count(families.RELOADS, (by, outcome), 0)
        self._set(families.RELOAD_GOOD, (by,), 1)
        self._count(families.STORE_LOSSES, (by,), 0)
        if by is Component.ca:
            for event in _EVENTS[:-1]:  # a CA loses sight of no answer of its own
                self._count(families.CERTIFICATES, (by, "", event), 0)
        if by is Component.gateway:
            self._count(families.CREDENTIAL_CHANGES, (), 0)
            for outcome in ("changed", "refused"):
                self._count(families.INVENTORY_READS, (outcome,), 0)
            self._set(families.INVENTORY_CURRENT, (), 1)

    def reads(self, reader: Reader) -> None:
        """Read values at each scrape."""
        self._readers.append(reader)

    def asks(self, survey: Survey) -> None:
        """Ask for values at a scrape, if it is time."""
        self._surveys.append(survey)

    # --- facts ------------------------------------------------------------------------------------------------

    def __call__(self, event: Fact) -> None:
        """Count one fact."""
        match event:
            case RequestHandled():
                self._count_message(event)
            case TransactionChanged():
                self._count(families.ENTERED, (event.state,))
            case CertificateIssued():
                self._count(families.CERTIFICATES, (event.by, event.upstream, "issued"))
            case CertificateConfirmed():
                self._count(families.CERTIFICATES, (event.by, event.upstream, "confirmed"))
            case CertificatesWithdrawn():
                what = "rejected" if event.rejected else "unconfirmed"
                given_back = event.by, event.upstream, what
                self._count(families.CERTIFICATES, given_back, len(event.certificates))
            case AnswerLost():
                self._count(families.CERTIFICATES, (Component.gateway, event.upstream, "lost"))
            case UpstreamFailed():
                why = event.upstream, event.fail_info.name or "", event.rule
                self._count(families.UPSTREAM_FAILURES, why)
            case UpstreamDown():
                self._count(families.UPSTREAM_DOWNS, (event.upstream,))
            case StoreLost():
                self._count(families.STORE_LOSSES, (event.by,))
            case CRLPublished():
                crl = event.issuer_id, "full" if event.base_number is None else "delta"
                self._count(families.CA_CRLS, crl)
            case CredentialChanged():
                self._count(families.CREDENTIAL_CHANGES, ())
            case ConfigurationReloaded():
                self._count(families.RELOADS, (event.by, "reloaded"))
                self._set(families.RELOAD_GOOD, (event.by,), 1)
                if event.by is Component.gateway:  # which reads the inventory as well
                    self._set(families.INVENTORY_CURRENT, (), 1)
            case InventoryChanged():
                self._count(families.INVENTORY_READS, ("changed",))
                self._set(families.INVENTORY_CURRENT, (), 1)
            case InventoryRefused():
                self._count(families.INVENTORY_READS, ("refused",))
                self._set(families.INVENTORY_CURRENT, (), 0)
            case ReloadRefused():
                self._count(families.RELOADS, (event.by, "refused"))
                self._set(families.RELOAD_GOOD, (event.by,), 0)

    def _count_message(self, event: RequestHandled) -> None:
        body_type = event.body_type if event.body_type in _BODY_TYPES else "unreadable"
        fail_info = "" if event.fail_info is None else event.fail_info.name or ""
        labels = (
            event.by, event.endpoint, event.domain, body_type, event.outcome, fail_info, event.rule,
        )  # fmt: skip
        self._count(families.MESSAGES, labels)
        self._add(families.MESSAGE_SECONDS, (event.by, body_type), event.duration_ms / 1000.0)
        for stage, seconds in event.stages:
            self._add(families.STAGE_SECONDS, (stage,), seconds)

    def _count(self, family: Family, labels: tuple[str, ...], number: float = 1) -> None:
        counts = self._counts[family]
        before = counts.get(labels)
        if before is None:
            labels = _bounded(labels, counts)
            before = counts.get(labels, 0)
        counts[labels] = before + number

    def _set(self, family: Family, labels: tuple[str, ...], value: float) -> None:
        counts = self._counts[family]
        counts[_bounded(labels, counts)] = value

    def _add(self, family: Family, labels: tuple[str, ...], seconds: float) -> None:
        durations = self._durations[family]
        found = durations.get(labels)
        if found is None:
            found = durations.setdefault(_bounded(labels, durations), Durations())
        found.add(seconds)

    def keep(self, names: Mapping[str, frozenset[str]]) -> None:
        """Forget what was counted under names that are neither of this configuration nor of the one before.

        Messages that began under the one before are counted yet; so many reloads leave no more than two names for one.

        Args:
            names: Those of the configuration in force, by label.
        """
        known = {
            label: names[label] | self._names.get(label, names[label]) | {"", OTHER}
            for label in _NAMES
        }
        for counted in (self._counts, self._durations):
            for family, values in counted.items():
                for labels in [key for key in values if not _is_known(family, key, known)]:
                    del values[labels]
        for upstream in names["upstream"]:
            self._count(families.UPSTREAM_DOWNS, (upstream,), 0)
            for event in _EVENTS:
                self._count(families.CERTIFICATES, (Component.gateway, upstream, event), 0)
        self._names = names

    # --- scraping ---------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Ask the parts that have to be asked; what has no answer within a second is told next time."""
        asked = [task for survey in self._surveys if (task := survey.begin()) is not None]
        if asked:
            await asyncio.wait(asked, timeout=ANSWER_SECONDS)

    async def stop(self) -> None:
        """Ask no more."""
        for survey in self._surveys:
            await survey.stop()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, as OpenMetrics where an Accept header asks for it, and the Content-Type."""
        try:
            _, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library compares what may be no number: version=x
            content_type = ""
        # In one version each: a text is kept for the next one who asks, and clients choose versions as they like.
        if content_type.startswith("application/openmetrics-text"):
            return self._text_of(openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST)
        return self._text_of(generate_latest, CONTENT_TYPE_PLAIN_0_0_4)

    def _text_of(
        self, encode: Callable[[CollectorRegistry], bytes], content_type: str
    ) -> tuple[bytes, str]:
        text, good_until = self._texts.get(content_type, (b"", -math.inf))
        if time.monotonic() >= good_until:
            began_at = time.thread_time()
            text = encode(self.exposed)
            rest_seconds = self._rest_factor * (time.thread_time() - began_at)
            self._texts[content_type] = (
                text,
                time.monotonic() + min(rest_seconds, _MOST_REST_SECONDS),
            )
        return text, content_type

    def describe(self) -> Iterable[Metric]:
        """Say nothing to the registry, which would otherwise collect (`prometheus_client.registry.Collector`)."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics as they are now (`prometheus_client.registry.Collector`)."""
        values: dict[Family, dict[tuple[str, ...], float | Durations]] = {
            family: dict(self._counts.get(family) or self._durations.get(family) or {})
            for family in FAMILIES
        }
        left_out = 0
        for family, labels, value in self._readings():
            of_family = values[family]
            if len(of_family) < MAX_SERIES or labels in of_family:
                of_family[labels] = value
            else:
                left_out += 1
        values[families.LEFT_OUT][()] = left_out
        return (_metric(family, of_family) for family, of_family in values.items())

    def _readings(self) -> Iterator[Reading]:
        for reader in self._readers:
            try:
                yield from reader()
            except Exception:  # a bug must not hide what all others say
                structlog.get_logger().exception("metrics.failed")
        for survey in self._surveys:
            yield from survey.readings


def _bounded(labels: tuple[str, ...], known: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    if labels in known or len(known) < MAX_SERIES:
        return labels
    return (OTHER,) * len(labels)


def _is_known(family: Family, labels: tuple[str, ...], known: Mapping[str, frozenset[str]]) -> bool:
    pairs = zip(family.labels, labels, strict=True)
    return all(name not in known or value in known[name] for name, value in pairs)


def _metric(family: Family, values: Mapping[tuple[str, ...], float | Durations]) -> Metric:
    name, meaning, labels = family.name, family.meaning, family.labels
    match family.kind:
        case Kind.histogram:
            histogram = HistogramMetricFamily(name, meaning, labels=labels)
            for key, value in values.items():
                assert isinstance(value, Durations)
                sums = [float(item) for item in accumulate(value.counts)]
                buckets = list(zip(_BUCKETS, sums, strict=True))
                histogram.add_metric(key, buckets, value.total_seconds)
            return histogram
        case Kind.counter:
            counter = CounterMetricFamily(name, meaning, labels=labels)
            for key, value in values.items():
                assert isinstance(value, float | int)
                counter.add_metric(key, value)
            return counter
        case Kind.gauge:
            gauge = GaugeMetricFamily(name, meaning, labels=labels)
            for key, value in values.items():
                assert isinstance(value, float | int)
                gauge.add_metric(key, value)
            return gauge
