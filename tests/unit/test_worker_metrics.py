"""What several workers expose, put together."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

from ra_gateway.durations import Durations
from ra_gateway.events import Component
from ra_gateway.metrics import Metrics, families
from ra_gateway.metrics.families import FAMILIES, Kind, Reading, Together
from ra_gateway.metrics.workers import Snapshot, WorkersMetrics, snapshot


def worker(**values: float) -> Metrics:
    """Return the metrics of a worker that has some values, by the names of families."""
    metrics = Metrics()
    metrics.begin(Component.gateway)
    metrics.reads(
        lambda: [Reading(getattr(families, name), ("a",) * len(getattr(families, name).labels), value)
                 for name, value in values.items()]
    )  # fmt: skip
    return metrics


def sent(metrics: Metrics) -> Snapshot:
    """Return it as it comes to the parent."""
    found: Snapshot = json.loads(json.dumps(snapshot(metrics.registry)))
    return found


def exposed(parent: WorkersMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    parent._texts.clear()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(parent.exposition("")[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_each_metric_is_put_together_by_its_rule() -> None:
    one = worker(CONNECTIONS=3, READY=1, HELD=7, REQUESTS=10, UPSTREAM_DOWNS=2, RELOADS=5)
    other = worker(CONNECTIONS=4, READY=0, HELD=6, REQUESTS=20, UPSTREAM_DOWNS=3, RELOADS=5)
    durations = Durations()
    durations.add(0.002)
    for item in (one, other):
        item.reads(lambda: [Reading(families.STORE_SECONDS, ("answered",), durations)])

    async def ask() -> list[Snapshot]:
        return [sent(one), sent(other)]

    parent = WorkersMetrics(ask)
    parent.begin(Component.gateway)
    await parent.refresh()
    found = exposed(parent)
    assert found["ra_gateway_http_connections"] == {("a",): 7}
    assert found["ra_gateway_ready"] == {("a",): 0}
    assert found["ra_gateway_approvals_held"] == {(): 7}
    assert found["ra_gateway_http_requests_total"] == {("a",): 30}
    assert found["ra_gateway_upstream_downs_total"] == {("a",): 3}
    assert found["ra_gateway_reloads_total"] == {
        ("gateway", "reloaded"): 0,
        ("gateway", "refused"): 0,
    }
    assert found["ra_gateway_store_round_trip_duration_seconds_count"] == {("answered",): 2}
    # Of all three processes.
    own = one.registry.get_sample_value("process_resident_memory_bytes")
    assert own is not None
    assert found["process_resident_memory_bytes"][()] > 2.5 * own


async def test_counters_do_not_shrink_when_a_worker_ends() -> None:
    first = sent(worker(REQUESTS=10, CONNECTIONS=3))
    alive = [first]

    async def ask() -> list[Snapshot]:
        return alive

    parent = WorkersMetrics(ask)
    await parent.refresh()
    parent.forget(first)
    found = exposed(parent)
    assert found["ra_gateway_http_requests_total"] == {("a",): 10}
    assert "ra_gateway_http_connections" not in found
    alive[:] = [sent(worker(REQUESTS=1, CONNECTIONS=1))]
    parent._asked_at = float("-inf")
    await parent.refresh()
    assert exposed(parent)["ra_gateway_http_requests_total"] == {("a",): 11}


async def test_workers_are_asked_once_however_many_scrape() -> None:
    asked = 0

    async def ask() -> list[Snapshot]:
        nonlocal asked
        asked += 1
        return []

    parent = WorkersMetrics(ask)
    for _ in range(5):
        await parent.refresh()
    assert asked == 1


def test_what_says_that_something_works_is_the_least_of_all() -> None:
    """A gauge has a rule where the most of it would hide what is wrong in one worker."""
    told = ("_up", "_ready", "_healthy", "_current", "_steady", "_successful")
    rules = {item.name: item.together for item in FAMILIES if item.kind is Kind.gauge}
    good = {name for name in rules if name.endswith(told)}
    assert good
    assert {rules[name] for name in good} <= {Together.least, Together.parent}
    ends = {name for name in rules if "expiry" in name or "next_update" in name}
    assert {rules[name] for name in ends} == {Together.least}
