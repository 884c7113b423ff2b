"""Half an hour at half of the peak: whether memory and latency stay what they were.

    make soak                      half an hour, and a minute before it to find the peak
    make soak MINUTES=10           shorter; below six minutes nothing is judged
    make soak JSON=FILE            writes all samples, too

Two workers, the bundled CA apart, and Redis that writes everything to disk, as processes of their own, with the
simulated fleet of `ra-gateway simulate` in this one. The fleet finds the peak in a closed loop; then base stations come
in an open loop, each enrols and renews, and so many come that operations are half of the peak. Transactions are
forgotten after two minutes, so that Redis turns over many times.

Memory is judged by its trend in the second half, the median of the slopes between any two samples: whatever lives for
a moment does not count, whatever piles up does. Latency is judged by medians of windows, the last third's against the
first one's, of those windows in which nothing else wanted the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import aiohttp
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from ra_gateway.device.fleet.driving import Stop
from ra_gateway.device.fleet.figures import Figures, Histogram, Outcome
from ra_gateway.device.fleet.plan import Behaviour, Load, Plan
from ra_gateway.device.fleet.running import Material, simulate
from ra_gateway.device.fleet.sources import Origin
from tests.bench.servers import Server, Site, busy_seconds, cpu_seconds, server
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

RETENTION_SECONDS: Final = 120
"""How long transactions are remembered: Redis grows as long, then as much goes as comes."""

WARM_SECONDS: Final = RETENTION_SECONDS + 60
"""Before that, nothing is in a steady state."""

MOST_GROWTH_BYTES: Final = 4_000_000
"""Of anything in the second half: in a quarter of an hour at 60 operations a second, 74 octets of each."""

MOST_SLOWER: Final = {"p50_ms": 1.5, "p99_ms": 2.0, "cpu_us": 1.5}
"""The last third against the first."""

QUIET_CORES: Final = 0.25
"""What all else on the machine may take in a window that latency is judged by."""

_SHORT: Final = {
    "[store]": f"transaction_lifetime_seconds = {RETENTION_SECONDS}",
    "[endpoints.ran]": "message_time_window_seconds = 30\nconfirm_wait_seconds = 60",
    "[ca]": "confirm_wait_seconds = 60",
}
"""What has to be shorter for it, by table of the configuration."""

WORDS: Final = {True: "PASS", False: "FAIL", None: "NOT JUDGED"}

_LEAST_WINDOWS: Final = 5
_ROWS: Final = 15


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment, and in the window since the one before.

    Args:
        seconds: Since the load began.
        memory: Octets, by what has them.
        operations: Enrolments and renewals that ended well.
        failed: Those that did not.
        p50_ms, p99_ms: From when an operation was due to its end, to two percent.
        cpu_us: Of gateway, CA and Redis, for each operation.
        lag_ms: By how much the workers' event loops came late to what was due, on average.
        others: Cores that all else on the machine took.
    """

    seconds: float
    memory: dict[str, int]
    operations: int
    failed: int
    p50_ms: float
    p99_ms: float
    cpu_us: float
    lag_ms: float
    others: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one figure did; `holds` is None where that cannot be told."""

    what: str
    holds: bool | None
    text: str

    def __str__(self) -> str:
        return f"{WORDS[self.holds]:10}  {self.what}: {self.text}"


# --- the judge --------------------------------------------------------------------------------------------------


def judged(samples: Sequence[Sample]) -> list[Verdict]:
    """Tell of each figure whether it stayed what it was."""
    verdicts = [_of_operations(samples)]
    lasted = samples[-1].seconds if samples else 0.0
    if lasted < 2 * WARM_SECONDS:
        text = f"{lasted:.0f} s are too short, {2 * WARM_SECONDS} are needed"
        return [*verdicts, Verdict("memory and latency", None, text)]
    later = [item for item in samples if item.seconds >= lasted / 2]
    verdicts += [_of_memory(name, later) for name in samples[-1].memory]
    return [*verdicts, *(_of_speed(name, samples) for name in MOST_SLOWER)]


def _of_operations(samples: Sequence[Sample]) -> Verdict:
    """None may fail; where others leave too little of the machine, it cannot be told whose fault it was."""
    ended, failed = sum(item.operations for item in samples), sum(item.failed for item in samples)
    quiet = sum(item.failed for item in samples if item.others <= QUIET_CORES)
    text = f"{ended} ended well, {failed} did not, {quiet} of these in quiet windows"
    return Verdict("operations", False if quiet or not ended else None if failed else True, text)


def _of_memory(name: str, samples: Sequence[Sample]) -> Verdict:
    moments = [(item.seconds, item.memory[name]) for item in samples]
    slope = statistics.median(
        (late[1] - early[1]) / (late[0] - early[0])
        for early, late in itertools.combinations(moments, 2)
    )
    grown = slope * (moments[-1][0] - moments[0][0])
    operations = sum(item.operations for item in samples[1:])
    return Verdict(
        name,
        grown <= MOST_GROWTH_BYTES,
        f"{moments[-1][1] / 1e6:.1f} MB, {grown / 1e6:+.2f} in the second half "
        f"({grown / max(1, operations):+.0f} octets an operation); {MOST_GROWTH_BYTES / 1e6:g} at most",
    )


def _of_speed(name: str, samples: Sequence[Sample]) -> Verdict:
    """Judge by quiet windows; the CPU time by all, as others hardly change it."""
    third = samples[-1].seconds / 3
    counted = [item for item in samples if item.operations]
    if name != "cpu_us":
        counted = [item for item in counted if item.others <= QUIET_CORES]
    first = [getattr(item, name) for item in counted if item.seconds <= third]
    last = [getattr(item, name) for item in counted if item.seconds > 2 * third]
    if min(len(first), len(last)) < _LEAST_WINDOWS:
        busy = statistics.median(item.others for item in samples)
        return Verdict(
            name,
            None,
            f"others took {busy:.2f} cores, and left {len(first)} and {len(last)} quiet windows",
        )
    before, after, most = statistics.median(first), statistics.median(last), MOST_SLOWER[name]
    return Verdict(
        name,
        after <= before * most,
        f"{before:.1f} in the first third, {after:.1f} in the last: {after / before:.2f} times, {most:g} at most "
        f"({len(first)} and {len(last)} windows)",
    )


# --- what is watched --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running:
    """What serves, and what it is watched by."""

    site: Site
    gateway: Server
    ca: Server
    redis: RedisServer
    metrics_url: str

    @property
    def pids(self) -> dict[str, int]:
        """Process IDs by name, this process's too."""
        workers = {f"worker {at}": pid for at, pid in enumerate(self.gateway.children, 1)}
        return {
            **workers,
            "parent": self.gateway.pid,
            "CA": self.ca.pid,
            "Redis": self.redis._running.pid,
            "fleet": os.getpid(),
        }

    def memory(self) -> dict[str, int]:
        """Return resident octets of each process, and what Redis says that it uses."""
        found = {name: _resident(pid) for name, pid in self.pids.items()}
        told = re.search(r"^used_memory:(\d+)", self.redis.command("INFO memory").decode(), re.M)
        assert told is not None
        return {**found, "in Redis": int(told[1])}

    def cpu(self) -> tuple[float, float, float]:
        """Return CPU seconds so far: of what serves, of the fleet, of the whole machine."""
        of = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        fleet = of.pop("fleet")
        return sum(of.values()), fleet, busy_seconds()


def _resident(pid: int) -> int:
    told = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert told is not None
    return int(told[1]) * 1024


@contextmanager
def serving(directory: Path) -> Iterator[Running]:
    """Run everything until the block ends."""
    with ExitStack() as stack:
        (directory / "redis").mkdir()
        redis = RedisServer(directory / "redis", persistent=True)
        redis.start()
        stack.callback(redis.stop)
        site = Site.make(directory / "site")
        config = site.directory / "gateway.toml"
        text = config.read_text()
        for table, wanted in _SHORT.items():
            text = text.replace(f"{table}\n", f"{table}\n{wanted}\n", 1)
        of_ca, of_gateway = free_port(), free_port()
        config.write_text(f"{text}\n[management]\nlisten_port = {of_ca}\n")
        ca = stack.enter_context(site.ca())
        config = site.gateway_config("soaked", ca, redis.url)
        config.write_text(config.read_text().replace(f"= {of_ca}\n", f"= {of_gateway}\n"))
        gateway = stack.enter_context(
            server(
                "serve", "--workers", "2", "--config", str(config), log=directory / "gateway.log"
            )
        )
        yield Running(site, gateway, ca, redis, f"http://127.0.0.1:{of_gateway}/metrics")


class Watch:
    """Takes samples of a simulation as it runs."""

    def __init__(self, running: Running, session: aiohttp.ClientSession) -> None:
        self._running, self._session = running, session
        self._at = 0.0
        self._whole = Histogram()
        self._ended = self._failed = 0
        self._cpu = running.cpu()
        self._lag = (0.0, 0.0)

    async def sample(self, figures: Figures) -> Sample:
        """Return what is now, and what was since the last sample."""
        lag = await self._loop_lag()
        cpu, seconds = self._running.cpu(), figures.elapsed_seconds
        serving, fleet, machine = (now - then for now, then in zip(cpu, self._cpu, strict=True))
        whole, ended = Histogram(), figures.count(Outcome.issued)
        for times in figures.whole.values():
            whole.merge(times.from_due)
        window = Histogram()
        window.counts, window.longest_seconds = whole.counts - self._whole.counts, float("inf")
        failed = figures.operations.total() - ended
        looks = lag[0] - self._lag[0]
        found = Sample(
            seconds=round(seconds, 1),
            memory=self._running.memory(),
            operations=ended - self._ended,
            failed=failed - self._failed,
            p50_ms=round(window.percentile(50) * 1000, 2) if window.total else 0.0,
            p99_ms=round(window.percentile(99) * 1000, 2) if window.total else 0.0,
            cpu_us=round(serving / max(1, ended - self._ended) * 1e6, 1),
            lag_ms=round((lag[1] - self._lag[1]) / looks * 1000, 3) if looks else 0.0,
            others=round((machine - serving - fleet) / max(1e-9, seconds - self._at), 3),
        )
        self._at, self._whole, self._cpu, self._lag = seconds, whole, cpu, lag
        self._ended, self._failed = ended, failed
        return found

    async def _loop_lag(self) -> tuple[float, float]:
        """Return how often the workers looked so far, and how late they were in all, seconds."""
        async with self._session.get(self._running.metrics_url) as response:
            told = await response.text()
        wanted = "ra_gateway_loop_lag_duration_seconds"
        found = {
            sample.name.removeprefix(wanted): sample.value
            for family in text_string_to_metric_families(told)
            for sample in family.samples
            if sample.name in (f"{wanted}_count", f"{wanted}_sum")
        }
        return found["_count"], found["_sum"]


# --- the run ----------------------------------------------------------------------------------------------------


def _plan(url: str, seconds: float, **values: object) -> Plan:
    behaviour = Behaviour(
        subject="CN={name}.ran.example.net",
        renewals=1,
        renew_after_seconds=0.0 if "at_once" in values else min(10.0, seconds / 4),
    )
    given = {"count": 1_000_000, "at_once": 1000, **values}
    return Plan(url=url, behaviour=behaviour, duration_seconds=seconds, **given)  # type: ignore[arg-type]


async def find_peak(running: Running, material: Material, seconds: float) -> float:
    """Return how many operations a second are carried in a closed loop, on average."""
    plan = _plan(running.gateway.url, seconds, at_once=16)
    figures = await simulate(plan, material, Stop(), lambda _: None)
    return figures.count(Outcome.issued) / figures.elapsed_seconds


async def soak(
    running: Running,
    material: Material,
    *,
    per_second: float,
    seconds: float,
    every: float,
    report: Callable[[Sample], None],
) -> list[Sample]:
    """Load what serves with so many operations a second, and return what was seen meanwhile.

    Args:
        every: Seconds between samples.
        report: Called with each.
    """
    # Numbers behind those of the peak: a name is enrolled once.
    plan = _plan(
        running.gateway.url, seconds, load=Load.rate, per_second=per_second / 2, first=1_000_001
    )
    live: list[Figures] = []
    samples: list[Sample] = []
    load = asyncio.create_task(
        simulate(plan, material, Stop(), lambda figures: live.append(figures) if not live else None)
    )
    async with aiohttp.ClientSession() as session:
        watch = Watch(running, session)
        while not (load.done() or (samples and samples[-1].seconds + every > seconds)):
            await asyncio.wait((load,), timeout=every)
            if live and live[0].elapsed_seconds:
                samples.append(await watch.sample(live[0]))
                report(samples[-1])
    figures = await load
    if figures.held:
        print(f"{figures.held} base stations began later than due, because 1000 were under way")
    for text, count in figures.reasons.most_common():
        print(f"{count} times: {text}")
    return samples


class _Table:
    """Prints one row for so many samples."""

    def __init__(self, every: int) -> None:
        self._every, self._seen = every, [Sample(0.0, {}, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)]
        self._has_head = False

    def add(self, sample: Sample) -> None:
        if not self._has_head:
            names = "".join(f"{name:>10}" for name in sample.memory)
            print(f"\n   min   ops/s  failed  p50 ms  p99 ms  cpu us  lag ms  others  MB:{names}")
            self._has_head = True
        self._seen.append(sample)
        if len(self._seen) <= self._every:
            return
        before, *seen = self._seen
        self._seen = [sample]
        per_second = sum(item.operations for item in seen) / (sample.seconds - before.seconds)
        middle = {
            name: statistics.median(getattr(item, name) for item in seen)
            for name in ("p50_ms", "p99_ms", "cpu_us", "lag_ms", "others")
        }
        memory = "".join(f"{octets / 1e6:10.1f}" for octets in sample.memory.values())
        print(
            f"{sample.seconds / 60:6.1f} {per_second:7.1f} {sum(item.failed for item in seen):7} "
            f"{middle['p50_ms']:7.1f} {middle['p99_ms']:7.1f} {middle['cpu_us']:7.0f} "
            f"{middle['lag_ms']:7.2f} {middle['others']:7.2f}     {memory}",
            flush=True,
        )


def no_tls() -> None:
    """Return that the gateway is asked without TLS."""


def main() -> None:
    """Find the peak, load half of it, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--peak-seconds", type=float, default=20.0, help="to find the peak in")
    parser.add_argument("--per-second", type=float, help="operations, instead of half of the peak")
    parser.add_argument("--json", type=Path, help="write all samples to this file, too")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    every = min(10.0, max(0.5, seconds / 180))
    with (
        tempfile.TemporaryDirectory(prefix="ra-soak-") as directory,
        serving(Path(directory)) as running,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        vendor = running.site.directory / "vendor"
        material = Material(Origin(vendor / "sub.pem", vendor / "sub.key"), None, no_tls)
        peak = runner.run(find_peak(running, material, arguments.peak_seconds))
        per_second = arguments.per_second or peak / 2
        print(
            f"Peak: {peak:.1f} operations a second. Enrolments and renewals at {per_second:.1f} for "
            f"{arguments.minutes:g} min; P-256, certConf; two workers, CA, Redis and fleet on {os.cpu_count()} cores; "
            f"transactions are kept for {RETENTION_SECONDS} s."
        )
        table = _Table(max(1, round(seconds / every / _ROWS)))
        samples = runner.run(
            soak(
                running,
                material,
                per_second=per_second,
                seconds=seconds,
                every=every,
                report=table.add,
            )
        )
    verdicts = judged(samples)
    print("", *verdicts, sep="\n")
    held = {item.holds for item in verdicts}
    holds = False if False in held else None if None in held else True
    print(f"\n{WORDS[holds]}")
    if arguments.json is not None:
        written = {
            "peak_per_second": peak,
            "per_second": per_second,
            "holds": holds,
            "verdicts": [asdict(item) for item in verdicts],
            "samples": [asdict(item) for item in samples],
        }
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")
    sys.exit({True: 0, False: 1, None: 2}[holds])


if __name__ == "__main__":
    main()
