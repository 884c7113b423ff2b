"""The metrics of several workers of one service as one: what each of them exposes, put together by the parent."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from ra_gateway.metrics.collecting import MAX_SERIES, Metrics
from ra_gateway.metrics.families import FAMILIES, Kind, Together

Sample = tuple[str, Mapping[str, str], float]

Snapshot = list[tuple[str, str, str, list[Sample]]]
"""Name, type, meaning and samples of each metric of a process; lists in place of tuples where it came as JSON."""

REST_SECONDS: Final = 1.0
"""Workers are asked at most so often, however many scrape."""

_MOST_SAMPLES: Final = 20 * MAX_SERIES
"""Of one metric of workers that have ended; a histogram has some twenty for each series."""

_TOGETHER: Final = {
    "process_resident_memory_bytes": Together.sum,
    "process_virtual_memory_bytes": Together.sum,
    "process_start_time_seconds": Together.least,
    "process_max_fds": Together.least,
} | {
    family.name.removesuffix("_total") if family.kind is Kind.counter else family.name: rule
    for family in FAMILIES
    if (rule := family.together) is not None
}


def _together(name: str, kind: str) -> Together:
    return _TOGETHER.get(name, Together.most if kind == Kind.gauge else Together.sum)


def snapshot(registry: CollectorRegistry) -> Snapshot:
    """Return what a process exposes now, as JSON can have it."""
    return [
        (
            metric.name,
            metric.type,
            metric.documentation,
            [(item.name, item.labels, float(item.value)) for item in metric.samples],
        )
        for metric in registry.collect()
    ]


class _Sums:
    """Samples of several processes, put together one after the other."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, found: Snapshot, *, by_parent: bool = False, ended: bool = False) -> None:
        """Add what a process has exposed.

        Args:
            by_parent: It is the parent's own.
            ended: It has ended: what it counted is kept alone, as counters do not shrink.
        """
        for name, kind, meaning, samples in found:
            rule = _together(name, kind)
            if rule is Together.parent and not by_parent:
                continue
            if ended and (rule is not Together.sum or kind == Kind.gauge):
                continue
            self._kinds.setdefault(name, (kind, meaning))
            values = self._values.setdefault(name, {})
            for sample, labels, value in samples:
                key = sample, tuple(labels.items())
                before = values.get(key)
                if before is None:
                    if not ended or len(values) < _MOST_SAMPLES:
                        values[key] = value
                elif rule is Together.sum:
                    values[key] = before + value
                else:
                    values[key] = (min if rule is Together.least else max)(before, value)

    def snapshot(self) -> Snapshot:
        """Return what came of it."""
        return [
            (name, *self._kinds[name], [(sample, dict(labels), value) for (sample, labels), value in values.items()])
            for name, values in self._values.items()
        ]  # fmt: skip


class WorkersMetrics(Metrics):
    """Metrics of all workers of a service, and of their parent.

    Args:
        ask: Returns what each worker exposes that answers.
    """

    def __init__(self, ask: Callable[[], Awaitable[Iterable[Snapshot]]]) -> None:
        super().__init__()
        self._ask = ask
        self._asked_at = float("-inf")
        self._workers: list[Snapshot] = []
        self._ended = _Sums()
        self.exposed = CollectorRegistry()
        self.exposed.register(_Exposed(self))

    async def refresh(self) -> None:
        """Ask workers, unless they were asked just now."""
        if time.monotonic() - self._asked_at < REST_SECONDS:
            return
        self._asked_at = time.monotonic()
        await super().refresh()
        self._workers = list(await self._ask())

    def forget(self, found: Snapshot) -> None:
        """Keep what a worker counted that has ended.

        Args:
            found: What it told last; what it counted since nobody has seen.
        """
        self._ended.add(found, ended=True)
        self._workers = [item for item in self._workers if item is not found]

    def together(self) -> Iterator[Metric]:
        """Yield all metrics as they are now."""
        sums = _Sums()
        sums.add(snapshot(self.registry), by_parent=True)
        for found in (self._ended.snapshot(), *self._workers):
            sums.add(found)
        for name, kind, meaning, samples in sums.snapshot():
            metric = Metric(name, meaning, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, dict(labels), value)
            yield metric


class _Exposed:
    """What a registry asks (`prometheus_client.registry.Collector`)."""

    def __init__(self, metrics: WorkersMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Say nothing to the registry, which would otherwise collect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        return self._metrics.together()
