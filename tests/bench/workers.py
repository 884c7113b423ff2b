"""Enrolments a second by one and by two workers, with the CA in them and apart, and what the cores did meanwhile.

    make bench-workers            prints the table
    make bench-workers JSON=FILE  writes the same as JSON

Load, workers, CA and Redis share the cores of the machine: on two of them, two workers cannot be twice as fast, as
something else has to run, too. What load and Redis took is therefore told, and what everything else on the machine did.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from tests.bench.servers import Site, busy_seconds, cpu_seconds, drive, prepare, server
from tests.support.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Figure:
    """What one run showed; shares are of one core."""

    workers: int
    ca: str
    enrolments_per_second: float
    p50_ms: float
    p99_ms: float
    gateway_cpu_us: float
    ca_cpu_us: float
    gateway_cores: float
    ca_cores: float
    load_cores: float
    redis_cores: float
    other_cores: float
    """What everything else on the machine took: a run beside other work says little."""
    least_share: float
    """Of the enrolments' CPU, the worker that did least."""


def run_one(workers: int, *, apart: bool, enrolments: int, concurrency: int) -> Figure:
    """Run one combination in fresh processes, full enrolments with Redis as the store."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ra-bench-")))
        (directory / "redis").mkdir()
        redis = RedisServer(directory / "redis")
        redis.start()
        stack.callback(redis.stop)
        site = Site.make(directory / "site")
        ca = stack.enter_context(site.ca() if apart else nullcontext())
        if ca is not None:
            config = site.gateway_config("gateway-1", ca, redis.url)
        else:
            config = site.directory / "in-process.toml"
            text = (site.directory / "gateway.toml").read_text()
            store = f'kind = "redis"\nredis_url = "{redis.url}"'
            config.write_text(text.replace('kind = "memory"', store))
        gateway = stack.enter_context(
            server(
                "serve", "--workers", str(workers), "--config", str(config),
                log=directory / "gateway.log",
            )
        )  # fmt: skip
        serving = gateway.children if workers > 1 else [gateway.pid]
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))

        def cpu() -> list[float]:
            apart_seconds = 0.0 if ca is None else ca.cpu_seconds
            others = [time.process_time(), cpu_seconds(redis._running.pid)]
            return [busy_seconds(), apart_seconds, *others, *map(cpu_seconds, serving)]

        def enrol(count: int) -> tuple[list[float], float, list[float]]:
            devices = runner.run(prepare(site.vendor, count, implicit=False))
            before, began_at = cpu(), time.perf_counter()
            waits = runner.run(drive(gateway.url, devices, concurrency, implicit=False))
            elapsed = time.perf_counter() - began_at
            return sorted(waits), elapsed, [b - a for a, b in zip(before, cpu(), strict=True)]

        enrol(20 * workers)
        waits, elapsed, (busy, of_ca, of_load, of_redis, *by_worker) = enrol(enrolments)
        of_gateway = sum(by_worker)
        return Figure(
            workers=workers,
            ca="apart" if apart else "in process",
            enrolments_per_second=round(enrolments / elapsed, 1),
            p50_ms=round(statistics.median(waits), 2),
            p99_ms=round(waits[int(len(waits) * 0.99)], 2),
            gateway_cpu_us=round(of_gateway / enrolments * 1e6, 1),
            ca_cpu_us=round(of_ca / enrolments * 1e6, 1),
            gateway_cores=round(of_gateway / elapsed, 2),
            ca_cores=round(of_ca / elapsed, 2),
            load_cores=round(of_load / elapsed, 2),
            redis_cores=round(of_redis / elapsed, 2),
            other_cores=round((busy - of_ca - of_load - of_redis - of_gateway) / elapsed, 2),
            least_share=round(min(by_worker) / of_gateway, 2),
        )


def main() -> None:
    """Run every combination and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enrolments", type=int, default=600, help="per combination")
    parser.add_argument("--concurrency", type=int, default=16, help="base stations at once")
    parser.add_argument("--rounds", type=int, default=3, help="of which the quickest counts")
    parser.add_argument("--workers", type=int, action="append", help="by default 1 and 2")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    print(
        f"P-256, certConf, Redis, {arguments.concurrency} base stations at once, {os.cpu_count()} cores for load, "
        "workers, CA and Redis together\n"
    )
    print(
        "workers  CA          enrol/s  p50 ms  p99 ms  gateway us  CA us   cores: gateway   CA  load  Redis  "
        "others  least worker"
    )
    wanted = [
        (workers, apart) for apart in (False, True) for workers in arguments.workers or (1, 2)
    ]
    found: dict[tuple[int, bool], list[Figure]] = {item: [] for item in wanted}
    for _ in range(arguments.rounds):
        for workers, apart in wanted:
            found[workers, apart].append(
                run_one(
                    workers,
                    apart=apart,
                    enrolments=arguments.enrolments,
                    concurrency=arguments.concurrency,
                )
            )
    figures = [
        max(of_one, key=lambda item: item.enrolments_per_second) for of_one in found.values()
    ]
    for figure in figures:
        print(
            f"{figure.workers:7}  {figure.ca:10} {figure.enrolments_per_second:8.0f} {figure.p50_ms:7.2f} "
            f"{figure.p99_ms:7.2f} {figure.gateway_cpu_us:11.0f} {figure.ca_cpu_us:6.0f} "
            f"{figure.gateway_cores:16.2f} {figure.ca_cores:4.2f}  {figure.load_cores:4.2f} "
            f"{figure.redis_cores:6.2f} {figure.other_cores:7.2f} {figure.least_share:13.2f}"
        )
    if arguments.json is not None:
        written = {"cores": os.cpu_count(), "figures": [asdict(figure) for figure in figures]}
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
