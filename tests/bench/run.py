"""The benchmark: full and implicit-confirm enrolments through a gateway, with the crypto floors beside them.

Gateway, CA and load are processes of their own, on loopback. What is quoted is the gateway's CPU time per
enrolment as a multiple of the *floor*: the CPU time of the signature operations that one enrolment cannot do
without, measured in the same run in three ways (`tests.bench.floors`). Absolute times depend on the machine; the
ratios much less.

    make bench                  prints the table
    make bench JSON=FILE        writes the same as JSON
    make bench AGAINST=COMMIT   compares with an older commit (`tests.bench.versions`)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from tests.bench import floors
from tests.bench.floors import Floor
from tests.bench.servers import Site, drive, prepare, server
from tests.support.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Figure:
    """What one run showed."""

    store: str
    confirmation: str
    enrolments: int
    concurrency: int
    enrolments_per_second: float
    p50_ms: float
    p99_ms: float
    gateway_cpu_us: float
    ca_cpu_us: float
    floor_us: float
    ratio: float
    loaded_floor_us: float
    loaded_ratio: float
    inside_floor_us: float
    inside_ratio: float


def run_one(
    store: str, *, implicit: bool, enrolments: int, concurrency: int, floor: Floor
) -> Figure:
    """Run one combination in fresh processes."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ra-bench-")))
        redis_url = None
        if store == "redis":
            (directory / "redis").mkdir()
            redis = RedisServer(directory / "redis")
            redis.start()
            stack.callback(redis.stop)
            redis_url = redis.url
        site = Site.make(directory / "site")
        ca = stack.enter_context(site.ca())
        serve = "serve", "--config", str(site.gateway_config("gateway-1", ca, redis_url))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))

        def enrol(url: str, count: int) -> list[float]:
            devices = runner.run(prepare(site.vendor, count, implicit=implicit))
            return runner.run(drive(url, devices, concurrency, implicit=implicit))

        with server(*serve, log=directory / "gateway.log") as gateway:
            enrol(gateway.url, 20)
            devices = runner.run(prepare(site.vendor, enrolments, implicit=implicit))
            with floors.under_load() as sampled:
                before = gateway.cpu_seconds, ca.cpu_seconds
                started = time.perf_counter()
                waits = runner.run(drive(gateway.url, devices, concurrency, implicit=implicit))
                elapsed = time.perf_counter() - started
                after = gateway.cpu_seconds, ca.cpu_seconds
        timed = directory / "inside.txt"
        program = "-m", "tests.bench.floors", "serve", str(timed)
        with server(*serve, log=directory / "timed.log", program=program) as gateway:
            enrol(gateway.url, max(20, enrolments // 4))
        inside = Floor.parse(timed.read_text())
    floor_us, loaded_us, inside_us = (
        item.of(implicit=implicit) for item in (floor, sampled[0], inside)
    )
    gateway_us = (after[0] - before[0]) / enrolments * 1e6
    waits.sort()
    return Figure(
        store=store,
        confirmation="implicit" if implicit else "certConf",
        enrolments=enrolments,
        concurrency=concurrency,
        enrolments_per_second=round(enrolments / elapsed, 1),
        p50_ms=round(statistics.median(waits), 2),
        p99_ms=round(waits[int(len(waits) * 0.99)], 2),
        gateway_cpu_us=round(gateway_us, 1),
        ca_cpu_us=round((after[1] - before[1]) / enrolments * 1e6, 1),
        floor_us=round(floor_us, 1),
        ratio=round(gateway_us / floor_us, 2),
        loaded_floor_us=round(loaded_us, 1),
        loaded_ratio=round(gateway_us / loaded_us, 2),
        inside_floor_us=round(inside_us, 1),
        inside_ratio=round(gateway_us / inside_us, 2),
    )


def main() -> None:
    """Run every combination and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enrolments", type=int, default=600, help="per combination")
    parser.add_argument("--concurrency", type=int, default=8, help="base stations at once")
    parser.add_argument("--store", choices=("memory", "redis"), action="append")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    figures = []
    for store in arguments.store or ("memory", "redis"):
        for implicit in (False, True):
            floor = floors.measure_alone()
            figures.append(
                run_one(
                    store,
                    implicit=implicit,
                    enrolments=arguments.enrolments,
                    concurrency=arguments.concurrency,
                    floor=floor,
                )
            )
    print(
        f"P-256, vendor chain of three, {arguments.concurrency} base stations at once, "
        f"{os.cpu_count()} cores for load, gateway, CA and store together\n"
    )
    print(
        "store   confirm   enrol/s  p50 ms  p99 ms  gateway us  CA us  floor us  ratio  "
        "loaded us  ratio  inside us  ratio"
    )
    for figure in figures:
        print(
            f"{figure.store:7} {figure.confirmation:9} {figure.enrolments_per_second:7.0f} "
            f"{figure.p50_ms:7.2f} {figure.p99_ms:7.2f} {figure.gateway_cpu_us:11.0f} "
            f"{figure.ca_cpu_us:6.0f} {figure.floor_us:9.0f} {figure.ratio:6.2f} "
            f"{figure.loaded_floor_us:10.0f} {figure.loaded_ratio:6.2f} "
            f"{figure.inside_floor_us:10.0f} {figure.inside_ratio:6.2f}"
        )
    print(f"\nfloor: verify {floor.verify_us:.1f} us, sign {floor.sign_us:.1f} us (CPU time)")
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps(
                {
                    "cores": os.cpu_count(),
                    "verify_us": round(floor.verify_us, 1),
                    "sign_us": round(floor.sign_us, 1),
                    "figures": [asdict(figure) for figure in figures],
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
