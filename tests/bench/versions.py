"""Two versions of the gateway against each other, in one run: what a full enrolment costs each of them.

    python -m tests.bench.versions --against COMMIT|DIRECTORY [--pairs 3] [--rounds 30] [--enrolments 40]

Both gateways are in front of the same CA, and base stations enrol at them in turn, a few at a time. So whatever else
the machine does meets both. Of each, the lower quartile of the rounds counts, in CPU time of its process; the median
of the rounds' own ratios stands beside. Several pairs of processes are started, and the one in the middle counts.
Nothing but the sources differs: libraries are those of this Python.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from tests.bench import floors
from tests.bench.floors import Floor
from tests.bench.servers import ROOT, Server, Site, drive, prepare, server
from tests.support.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a run showed, in microseconds of CPU for one full enrolment.

    Args:
        ratio: The new version's share of the old one's.
        median_ratio: Of the rounds one by one.
        floor_us, loaded_floor_us, inside_floor_us: What its signatures cost alone, beside the load, and as timed
            inside the new gateway.
    """

    store: str
    rounds: int
    old_us: float
    new_us: float
    ratio: float
    median_ratio: float
    floor_us: float
    loaded_floor_us: float
    inside_floor_us: float

    def __str__(self) -> str:
        multiples = "  ".join(
            f"{floor_us:9.0f} {self.new_us / floor_us:6.2f}"
            for floor_us in (self.floor_us, self.loaded_floor_us, self.inside_floor_us)
        )
        return (
            f"{self.store:7} {self.old_us:7.0f} {self.new_us:7.0f} {self.ratio:6.3f} "
            f"{self.median_ratio:7.3f}  {multiples}"
        )


HEADER = (
    "store    old us  new us  ratio  median   floor us  ratio  loaded us  ratio  inside us  ratio"
)


def lower_quartile(values: Sequence[float]) -> float:
    """Return what a quarter of the values stay below: the quieter moments of a shared machine."""
    return sorted(values)[len(values) // 4]


def compare(
    store: str, old_tree: Path, rounds: int, enrolments: int, audit: str = "off"
) -> Comparison:
    """Have base stations enrol at both, in turn.

    Args:
        audit: "on" or "required": the new one keeps an audit trail in SQLite.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ra-bench-")))
        redis = RedisServer(directory)
        if store == "redis":
            redis.start()
            stack.callback(redis.stop)
        site = Site.make(directory / "site")
        ca = stack.enter_context(site.ca())

        def gateway(name: str, tree: Path, database: int, **how: Sequence[str]) -> Server:
            url = f"{redis.url.removesuffix('0')}{database}" if store == "redis" else None
            config = site.gateway_config(name, ca, url, tree)
            if audit != "off" and name != "old":
                required = str(audit == "required").lower()
                table = f'\n[audit]\nsqlite_path = "{name}.audit"\nrequired = {required}\n'
                config.write_text(config.read_text() + table)
            running = server(
                *("serve", "--config", str(config)), log=directory / f"{name}.log", tree=tree, **how
            )
            return (inside if how else stack).enter_context(running)

        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))

        def cost_us(gateway: Server, count: int) -> float:
            devices = runner.run(prepare(site.vendor, count, implicit=False))
            before = gateway.cpu_seconds
            runner.run(drive(gateway.url, devices, 8, implicit=False))
            return (gateway.cpu_seconds - before) / count * 1e6

        timed_path = directory / "inside.txt"
        with ExitStack() as inside:
            pair = gateway("old", old_tree, 0), gateway("new", ROOT, 1)
            timed = gateway(
                "timed", ROOT, 2, program=("-m", "tests.bench.floors", "serve", str(timed_path))
            )
            for each in (*pair, timed):
                cost_us(each, 40)
            floor, took = floors.measure_alone(), ([0.0] * 0, [0.0] * 0)
            with floors.under_load() as loaded:
                for number in range(rounds):
                    for which in (0, 1) if number % 2 else (1, 0):
                        took[which].append(cost_us(pair[which], enrolments))
                    if number % 4 == 0:
                        cost_us(timed, enrolments)
        # All have ended, and the timed one has written.
        timed_floor = Floor.parse(timed_path.read_text())
    old_us, new_us = map(lower_quartile, took)
    return Comparison(
        store,
        rounds,
        old_us,
        new_us,
        new_us / old_us,
        statistics.median(new / old for old, new in zip(*took, strict=True)),
        *(item.of(implicit=False) for item in (floor, loaded[0], timed_floor)),
    )


def typical(found: Sequence[Comparison]) -> Comparison:
    """Return the pair in the middle: how a process's memory happens to lie is worth some percent of its CPU."""
    return sorted(found, key=lambda each: each.ratio)[len(found) // 2]


def sources(version: str, target: Path) -> Path:
    """Return the directory with the sources of a commit, or the one that is named."""
    if Path(version, "ra_gateway").is_dir():
        return Path(version).resolve()
    packed = subprocess.run(
        ["git", "archive", version, "ra_gateway"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(target, filter="data")
    return target


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", required=True, help="a commit, or a directory of sources")
    parser.add_argument("--store", choices=("memory", "redis"), action="append")
    parser.add_argument("--pairs", type=int, default=3, help="of processes, old and new")
    parser.add_argument("--rounds", type=int, default=30, help="of all pairs together")
    parser.add_argument("--enrolments", type=int, default=40, help="of a round, at each")
    parser.add_argument(
        "--audit", choices=("off", "on", "required"), default="off", help="of the new version"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="ra-bench-") as directory:
        old_tree = sources(arguments.against, Path(directory))
        print(f"full enrolments with P-256, {arguments.against} (old) against this version (new)\n")
        print(HEADER)
        for store in arguments.store or ("memory", "redis"):
            rounds = max(arguments.rounds // arguments.pairs, 1)
            pairs = []
            for _ in range(arguments.pairs):
                pairs.append(
                    compare(store, old_tree, rounds, arguments.enrolments, arguments.audit)
                )
                print(pairs[-1], flush=True)
            found.append(typical(pairs))
            print(f"{found[-1]}  (the pair in the middle)", flush=True)
    if arguments.json is not None:
        figures = [asdict(item) for item in found]
        arguments.json.write_text(json.dumps({"figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
