"""The soak's judge finds what grows, and its harness runs whole; half an hour of it is `make soak`."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.soak import QUIET_CORES, WARM_SECONDS, Sample, judged
from tests.support.patience import PATIENCE_SECONDS


def samples(count: int = 180) -> list[Sample]:
    """Return half an hour in which nothing grows but in its first minutes, with the noise of a real one."""
    chance = random.Random(5)
    return [
        Sample(
            seconds=10.0 * at,
            memory={
                "worker 1": 150_000_000 - 50_000_000 // at + chance.randrange(2_000_000),
                # Redis holds twice as much for a moment whenever it rewrites its file.
                "Redis": (120_000_000 if at % 9 == 0 else 60_000_000) + chance.randrange(1_000_000),
            },
            operations=chance.randrange(400, 600),
            failed=0,
            p50_ms=chance.uniform(40, 60),
            p99_ms=chance.uniform(80, 200),
            cpu_us=chance.uniform(12_000, 18_000),
            lag_ms=1.0,
            others=0.1,
        )
        for at in range(1, count + 1)
    ]


def verdicts(seen: list[Sample]) -> dict[str, bool | None]:
    """Return what was judged of each figure."""
    return {item.what: item.holds for item in judged(seen)}


def test_what_is_flat_passes() -> None:
    """Noise, the first minutes, and what is there for a moment do not count; nor do others now and then."""
    names = {"operations", "worker 1", "Redis", "p50_ms", "p99_ms", "cpu_us"}
    seen = samples()
    assert verdicts(seen) == dict.fromkeys(names, True)
    disturbed = [
        replace(item, others=1.5, p50_ms=900.0, p99_ms=5000.0) if at % 3 and at > 90 else item
        for at, item in enumerate(seen)
    ]
    assert verdicts(disturbed) == dict.fromkeys(names, True)


@pytest.mark.parametrize("name", ["worker 1", "Redis"])
def test_what_grows_fails(name: str) -> None:
    """By 100 octets an operation, which is 5 MB in the second half; half as much may be noise."""
    for octets, holds in ((100, False), (50, True)):
        grown, seen = 0, []
        for item in samples():
            grown += octets * item.operations
            seen.append(replace(item, memory={**item.memory, name: item.memory[name] + grown}))
        found = verdicts(seen)
        assert (found.pop(name), set(found.values())) == (holds, {True})


@pytest.mark.parametrize("name, factor", [("p50_ms", 1.7), ("p99_ms", 2.3), ("cpu_us", 1.7)])
def test_what_gets_slower_fails(name: str, factor: float) -> None:
    """The last third against the first."""
    seen = samples()
    slower = [
        replace(item, **{name: getattr(item, name) * factor}) if item.seconds > 1200 else item
        for item in seen
    ]
    found = verdicts(slower)
    assert (found.pop(name), set(found.values())) == (False, {True})


def test_what_cannot_be_told_is_not_called_good() -> None:
    """A machine on which others work has no latency of ours, and a short run no trend; a failure is one at any time."""
    seen = samples()
    busy = [replace(item, others=QUIET_CORES + 0.5) for item in seen]
    found = verdicts(busy)
    assert (found["p50_ms"], found["p99_ms"], found["cpu_us"], found["Redis"]) == (
        None,
        None,
        True,
        True,
    )
    short = samples(2 * WARM_SECONDS // 10 - 1)
    assert verdicts(short) == {"operations": True, "memory and latency": None}
    for others, holds in ((QUIET_CORES, False), (QUIET_CORES + 0.1, None)):
        short[3] = replace(short[3], failed=1, others=others)
        assert verdicts(short)["operations"] is holds
    assert verdicts([])["operations"] is False


def test_it_runs_whole(tmp_path: Path) -> None:
    """Two workers, CA, Redis and fleet for some seconds: each is watched, and nothing fails; too short for more."""
    target = tmp_path / "soak.json"
    few = ("--minutes", "0.05", "--peak-seconds", "1", "--per-second", "8", "--json", str(target))
    ended = subprocess.run(
        [sys.executable, "-m", "tests.bench.soak", *few],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, ""), ended
    found = json.loads(target.read_text())
    assert found["peak_per_second"] > 0
    assert found["holds"] is None
    watched = {"worker 1", "worker 2", "parent", "CA", "Redis", "fleet", "in Redis"}
    for sample in found["samples"]:
        assert set(sample["memory"]) == watched
        assert min(sample["memory"].values()) > 100_000
        assert sample["failed"] == 0
    assert sum(sample["operations"] for sample in found["samples"]) > 0
    assert "\nPASS        operations: " in ended.stdout
    assert ended.stdout.endswith("\nNOT JUDGED\n")
