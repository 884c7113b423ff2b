"""A simulated fleet without a network: when base stations come, what is counted, what is made of it."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.device.fleet.figures import Figures, Histogram, Outcome, Span, Timeline
from ra_gateway.device.fleet.plan import Behaviour, Load, Plan
from ra_gateway.device.fleet.spread import HOURS, USABLE, least_hours, spread
from ra_gateway.device.fleet.summary import carried, summarized, unexpected
from ra_gateway.device.kinds import Fault

URL = "http://127.0.0.1:8080/"


def plan(**values: object) -> Plan:
    """Return a plan with these values."""
    return Plan(**{"url": URL, "behaviour": Behaviour(), **values})  # type: ignore[arg-type]


# --- when they come


def test_a_rate_is_kept_on_average() -> None:
    """Arrivals are a Poisson process: as many as were asked for, at moments that are not even."""
    moments = [moment for _, moment in plan(load=Load.rate, per_second=50, count=5000).share(0)]
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(100, rel=0.1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert variance == pytest.approx(mean**2, rel=0.25)


def test_a_ramp_rises_to_the_rate() -> None:
    """In each quarter of it more come than in the one before; behind it the rate is kept."""
    values = {"load": Load.rate, "per_second": 100, "ramp_seconds": 40, "count": 5000}
    seen = Counter(int(moment // 10) for _, moment in plan(**values).share(0))
    assert [seen[at] for at in range(4)] == pytest.approx([125, 375, 625, 875], rel=0.25)
    assert seen[4] == pytest.approx(1000, rel=0.15)


def test_a_storm_is_due_at_once_and_a_duration_ends_it() -> None:
    """All at 0; with a rate, what would come after the duration does not."""
    assert {moment for _, moment in plan(load=Load.storm, count=9).share(0)} == {0.0}
    values = {"load": Load.rate, "per_second": 10, "duration_seconds": 5, "count": 10_000}
    assert 25 <= len(list(plan(**values).share(0))) <= 80


@pytest.mark.parametrize("load", Load)
def test_processes_share_what_one_would_do(load: Load) -> None:
    """Each number once, at the same moment; all places among those under way are given."""
    values = {"load": load, "per_second": 7, "count": 40, "first": 3, "at_once": 11, "seed": 5}
    alone, several = plan(**values), plan(processes=4, **values)
    shared = sorted(item for process in range(4) for item in several.share(process))
    assert shared == list(alone.share(0))
    assert sum(several.at_once_in(process) for process in range(4)) == 11


def test_a_seed_repeats_all_that_is_left_to_chance() -> None:
    """The same seed: the same moments, losses and faults, whatever the number of processes; another seed: others."""
    one, again, other = (plan(load=Load.rate, per_second=3, seed=seed) for seed in (1, 1, 2))
    assert list(one.share(0)) == list(again.share(0)) != list(other.share(0))
    assert one.chance(7).random() == again.chance(7).random() != one.chance(8).random()
    assert one.chance(7).random() != other.chance(7).random()


# --- what is counted


def test_percentiles_are_right_to_two_percent() -> None:
    """Of durations over six decades; the longest is exact, and nothing is 0."""
    chance = random.Random(3)
    durations = sorted(10 ** chance.uniform(-5, 1) for _ in range(20_000))
    histogram = Histogram()
    assert histogram.percentile(99) == 0
    for duration in chance.sample(durations, len(durations)):
        histogram.add(duration)
    for percent in (50, 90, 99, 99.9):
        exact = durations[int(len(durations) * percent / 100) - 1]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.03)
    assert histogram.percentile(100) == histogram.longest_seconds == durations[-1]
    assert len(histogram.counts) < 1000
    histogram.add(0.0)
    assert histogram.total == 20_001


def test_a_timeline_does_not_grow_for_ever() -> None:
    """A week has as many spans as its bound; nothing that was counted is lost; it merges with a short one."""
    line, short = Timeline(), Timeline()
    for second in range(0, 7 * 86_400, 40):
        line.add(second + 0.5, due=1)
    short.add(3, issued=2)
    assert len(line.spans) <= 1200
    short.merge(line)
    rows = short.rows()
    assert rows[0] == (0, Span(short.width_seconds // 40 + 1, 2, 0))
    assert sum(span.due for _, span in rows) == 7 * 86_400 // 40
    assert rows[1][0] == short.width_seconds == line.width_seconds


def test_processes_add_up() -> None:
    """Counts, histograms and texts are summed, as they come over a pipe; durations of the run are not."""
    parts = []
    for part in (1, 2):
        figures = Figures(begun=part, elapsed_seconds=part, cpu_seconds=(0.5 * part,), held=1)
        figures.operations["ir", "", Outcome.issued] += part
        figures.message("ir", 0.0, 0.5, part)
        figures.reason("no")
        figures.timeline.add(1, due=part)
        parts.append(pickle.loads(pickle.dumps(figures)))  # noqa: S301
    total = Figures.of(parts)
    assert (total.begun, total.held, total.elapsed_seconds) == (3, 2, 2)
    assert total.cpu_seconds == (0.5, 1.0)
    assert total.count(Outcome.issued) == 3
    assert (total.times["ir"].from_due.total, total.times["ir"].from_due.longest_seconds) == (2, 2)
    assert (total.reasons["no"], total.timeline.rows()[1]) == (2, (1, Span(3, 0, 0)))


def test_texts_are_bounded() -> None:
    """What a hostile gateway says, each time otherwise, is only counted from some number on."""
    figures = Figures()
    for number in range(1000):
        figures.reason(f"reason {number}")
    assert len(figures.reasons) == 21
    assert figures.reasons["others"] == 980


# --- what is made of it


def counted(*operations: tuple[str, Outcome, int], seconds: float = 10) -> Figures:
    """Return figures of operations: fault, outcome, count."""
    figures = Figures(elapsed_seconds=seconds, cpu_seconds=(0.1,))
    for fault, outcome, count in operations:
        figures.operations["ir", fault, outcome] += count
    return figures


@pytest.mark.parametrize(
    "operations, said",
    [
        ([("", Outcome.issued, 9), ("", Outcome.lost, 1), ("", Outcome.interrupted, 1)], ""),
        ([("", Outcome.issued, 9), (Fault.pop, Outcome.refused, 1)], ""),
        ([("", Outcome.issued, 9), (Fault.no_time, Outcome.issued, 1)], ""),
        ([("", Outcome.issued, 9), ("", Outcome.refused, 1)], "1 of 10 operations failed: 1 ref"),
        ([("", Outcome.issued, 9), (Fault.pop, Outcome.busy, 2)], "2 of 11 operations failed: 2 b"),
        ([(Fault.pop, Outcome.issued, 3)], "3 with the fault pop got a certificate all the same"),
        ([(Fault.unknown_vendor, Outcome.issued, 1)], "1 with the fault unknown-vendor got"),
        ([], "no operation came to its end"),
    ],
)
def test_what_is_not_as_expected(operations: list[tuple[str, Outcome, int]], said: str) -> None:
    """Failures of sound base stations, certificates for faulty ones; not what was lost on purpose."""
    (*told,) = unexpected(counted(*operations))
    assert len(told) == bool(said)
    assert "".join(told).startswith(said)


def test_some_failures_can_be_allowed_and_two_certificates_never() -> None:
    """As a share of all operations."""
    figures = counted(("", Outcome.issued, 90), ("", Outcome.busy, 10))
    assert unexpected(figures, 0.1) == []
    assert len(unexpected(figures, 0.09)) == 1
    figures.issued_twice = 1
    assert unexpected(figures, 1.0) == ["1 messages were answered with two certificates"]


def test_capacity_is_that_of_the_best_seconds() -> None:
    """Neither the slow beginning nor one lucky second counts."""
    figures = counted(("", Outcome.issued, 175), seconds=20)
    for second in range(20):
        figures.timeline.add(second, due=5, issued=25 if second == 9 else 10 if second > 5 else 1)
    assert carried(plan(), figures).per_second == (4 * 10 + 25) / 5
    short = counted(("", Outcome.issued, 30), seconds=2)
    short.timeline.add(1, issued=30)
    assert carried(plan(), short).per_second == 15


def test_what_capacity_was_bound_by() -> None:
    """More was always asked for; or no more than that; or the simulator itself was late or busy."""
    figures = counted(("", Outcome.issued, 100))
    for second in range(10):
        figures.timeline.add(second, due=10, issued=10)
    asked = plan(load=Load.rate, per_second=10)
    assert carried(plan(), figures).bound == carried(plan(load=Load.storm), figures).bound
    assert [carried(each, figures).bound for each in (plan(), asked)] == ["gateway", "load"]
    figures.timeline.add(9, due=100)  # and did not get them
    assert carried(asked, figures).bound == "gateway"
    figures.cpu_seconds = (0.1, 9.5)
    assert carried(asked, figures).bound == "simulator"
    figures.cpu_seconds = ()
    figures.late.add(0.3)
    assert carried(asked, figures).bound == "simulator"


@pytest.mark.parametrize(
    "behaviour, bound",
    [
        ({"renewals": 1, "renew_after_seconds": 5.0}, "load"),
        ({"renew_after_seconds": 5.0}, "gateway"),
        ({"renewals": 1}, "gateway"),
        ({"lost_requests": 0.01}, "load"),
        ({"lost_answers": 0.01}, "load"),
    ],
)
@pytest.mark.parametrize("load", [Load.at_once, Load.storm])
def test_who_rests_asks_for_nothing(load: Load, behaviour: dict[str, Any], bound: str) -> None:
    """Base stations that wait for their renewal, or for an answer that is lost, keep no gateway busy."""
    asked = plan(load=load, behaviour=Behaviour(**behaviour))
    assert carried(asked, counted(("", Outcome.issued, 100))).bound == bound


def test_renewals_are_spread_until_their_peak_is_carried() -> None:
    """Longer is calmer; the least that is advised is carried, and less than that is not."""
    peaks = [spread(50_000, hours).peak for hours in HOURS]
    assert peaks == sorted(peaks, reverse=True)
    assert spread(36_000, 1).per_second == 10
    assert 11 < spread(36_000, 1).peak < 16
    for devices, per_second in ((10, 1.0), (1000, 20.0), (50_000, 300.0), (1_000_000, 300.0)):
        hours = least_hours(devices, per_second)
        assert spread(devices, hours).peak <= per_second * USABLE
        assert spread(devices, hours / 1.2).peak > per_second * USABLE or hours < 0.01
    assert 0.1 < least_hours(50_000, 300) < 0.15


def test_the_advice_can_be_reckoned_by_hand() -> None:
    """From the values that are printed with it."""
    told = summarized(
        plan(), counted(("", Outcome.issued, 1200)), devices=50_000, allowed=0, interrupted=False
    )
    assert told["carried"]["per_second"] == 120
    advice, least = told["advice"], told["advice"]["least"]
    seconds = advice["least_hours"] * 3600
    assert advice["usable_per_second"] == 60
    assert least["per_second"] == pytest.approx(50_000 / seconds, rel=0.001)
    assert least["windows"] == pytest.approx(seconds / 10, rel=0.001)
    assert least["mean"] == pytest.approx(50_000 / least["windows"], rel=0.001)
    odds = math.log(least["windows"])
    by_hand = least["mean"] + math.sqrt(2 * least["mean"] * odds) + odds / 3
    assert least["most"] == pytest.approx(by_hand, rel=0.001)
    assert least["most"] / 10 == pytest.approx(60, rel=0.06)
    assert least["most"] / 10 <= 60


def test_the_summary_is_json() -> None:
    """With all that was counted, and advice for a fleet of another size."""
    figures = counted(("", Outcome.issued, 100), ("pop", Outcome.refused, 2))
    figures.operation("ir", 0, 0.1, 0.2)
    figures.fail_info["badPOP"] = 2
    figures.validity_seconds = 365 * 86_400
    told = summarized(plan(seed=4), figures, devices=36_500, allowed=0, interrupted=False)
    told = json.loads(json.dumps(told))
    assert (told["as_expected"], told["seed"], told["fail_info"]) == (True, 4, {"badPOP": 2})
    assert told["operations"][1] == {
        "request": "ir", "fault": "pop", "outcome": "refused", "count": 2
    }  # fmt: skip
    (latency,) = told["latencies"]
    assert (latency["name"], latency["p99_ms"]) == ("ir", 200)
    assert latency["sent_p99_ms"] == pytest.approx(100)
    assert told["advice"]["renewals_a_day"] == 100
    assert len(told["advice"]["spreads"]) == len(HOURS)
    nothing = summarized(plan(), Figures(), devices=1, allowed=0, interrupted=True)
    assert (nothing["as_expected"], nothing["advice"]["least_hours"]) == (False, None)


def keys(value: Any, at: str = "") -> Iterator[str]:
    """Yield the names in a JSON value, with the way there; those of objects whose names are counted things end in *."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item, f"{at}[]")
    elif isinstance(value, dict):
        for name, item in value.items():
            place = f"{at}.{name}" if at else name
            yield place
            if place in ("fail_info", "reasons"):
                yield f"{place}.*"
            else:
                yield from keys(item, place)


def test_the_json_is_described() -> None:
    """docs/simulating.md has a row for each value, and no other."""
    figures = counted(("", Outcome.issued, 100))
    figures.operation("ir", 0, 0.1, 0.2)
    figures.timeline.add(1, due=1)
    figures.reason("no")
    told = summarized(plan(), figures, devices=9, allowed=0, interrupted=False)
    page = (Path(__file__).parents[3] / "docs" / "simulating.md").read_text()
    described = re.findall(
        r"`([^`]+)`",
        "".join(re.findall(r"^\| (`.+?`) \| (?!in)", page.split("## The JSON")[1], re.M)),
    )
    assert sorted(described) == sorted(set(keys(told)))
