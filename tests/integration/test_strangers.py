"""What a stranger costs is bounded, by calls and octets that are counted; `make bench-strangers` has the times."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from functools import _lru_cache_wrapper
from itertools import cycle, islice
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.bench import strangers
from tests.bench.strangers import Flood, Listener, Row, peer_of
from tests.support.counting import all_objects, profiled
from tests.support.hostile import MAX_OCTETS, SHAPES

pytestmark = pytest.mark.timeout(1200)

MAX_CALLS = 9_000
"""Functions called for one message, in Python and into C: a tenth of a microsecond to a few each."""

SMALL_OCTETS = 4000  # there is room in every shape
MAX_KEPT_OCTETS = 800_000
"""What is remembered, up to its bounds, is renewed meanwhile: some 640,000."""


@pytest.fixture
async def everyone() -> AsyncIterator[list[Listener]]:
    async with strangers.listeners() as found:
        yield found


def calls(count: Callable[[str], None]) -> Any:
    """Return a profiler that tells of every call by the name of what is called."""

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            count(frame.f_code.co_name)
        elif event == "c_call":
            count(argument.__name__)

    return profile


async def test_no_shape_of_message_makes_many_calls(everyone: list[Listener]) -> None:
    """Whatever the shape, at the largest size and at every listener: what is done does not grow with what was sent."""
    dear: dict[str, int] = {}
    for listener in everyone:
        for number, (what, make) in enumerate(listener.shapes.items()):
            if any(kind in what for kind in ("DH of 8192", "DSA of 8192")):
                continue  # a single call: they are in the next test
            sent, called = make(number + 1, MAX_OCTETS), 0

            def count(name: str) -> None:
                nonlocal called
                called += 1

            with profiled(calls(count)):
                await listener.post(sent, peer_of(number))
            if called > MAX_CALLS:
                dear[f"{listener.name}: {what}"] = called
    assert dear == {}


async def test_nothing_dear_is_done_for_a_stranger(everyone: list[Listener]) -> None:
    """No key of a kind that is not used here is loaded, and few at all; few signatures are verified."""
    for listener in everyone:
        for number, what in enumerate(SHAPES):
            if what not in listener.shapes:
                continue
            seen: list[str] = []
            # Twice: keys of our own anchors are loaded once, and remembered.
            for attempt in (0, 1000):
                sent = listener.shapes[what](50 + number + attempt, SMALL_OCTETS)
                seen.clear()
                with profiled(calls(seen.append)):
                    await listener.post(sent, peer_of(number))
            where = f"{listener.name}: {what}"
            odd = any(kind in what for kind in ("DH of", "DSA of", "RSA of", "explicit"))
            assert seen.count("load_der_public_key") <= (0 if odd else 8), where
            assert seen.count("verify") <= 16, where  # ours, and cryptography's inside it


async def test_memory_is_flat(everyone: list[Listener]) -> None:
    """Nine hundred different small messages leave nothing behind once as many have filled what is remembered."""
    pairs = [
        (listener, make)
        for listener in everyone
        for what, make in listener.shapes.items()
        if not any(kind in what for kind in ("DH of", "DSA of", "RSA of", "explicit", "iterations"))
    ]
    posts = enumerate(islice(cycle(pairs), 1800))
    with contextlib.redirect_stderr(strangers.Log()):
        for number, (listener, make) in islice(posts, 900):
            await listener.post(make(number, SMALL_OCTETS), peer_of(number))
        remembered = sizes()
        tracemalloc.start()
        try:
            for number, (listener, make) in posts:
                await listener.post(make(number, SMALL_OCTETS), peer_of(number))
            gc.collect()
            ours = tracemalloc.take_snapshot().filter_traces(
                [tracemalloc.Filter(inclusive=False, filename_pattern="*/tests/support/*")]
            )
        finally:
            tracemalloc.stop()
    assert sum(item.size for item in ours.statistics("filename")) < MAX_KEPT_OCTETS
    grown = {
        name: (remembered.get(name, 0), size)
        for name, size in sizes().items()
        if size > max(2 * remembered.get(name, 0), 8192)
    }
    assert grown == {}


def sizes() -> dict[str, int]:
    """Return how many entries everything has that remembers: functions, and containers of the product's modules."""
    found: dict[str, int] = {}
    for item in all_objects():
        if isinstance(item, _lru_cache_wrapper) and str(item.__module__).startswith("ra_gateway"):
            found[f"{item.__module__}.{item.__name__}"] = item.cache_info().currsize
    for name, module in list(sys.modules.items()):
        if name.startswith("ra_gateway"):
            for attribute, value in vars(module).items():
                if isinstance(value, dict | list | set | OrderedDict):
                    found[f"{name}.{attribute}"] = len(value)
    return found


# --- the instrument ---------------------------------------------------------------------------------------------


def run(tmp_path: Path, shapes: str) -> tuple[int, str, dict[str, Any]]:
    target = tmp_path / "strangers.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.strangers", "--shapes", shapes),
            *("--count", "1", "--flood", "60", "--json", str(target)),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout, json.loads(target.read_text())


def test_the_bench_prints_a_row_for_each_shape(tmp_path: Path) -> None:
    """At every CMP listener, and for the status listener its own; the exit status says whether all is well."""
    status, table, found = run(tmp_path, "^(garbage|huge transactionID|path: slashes)$")
    where = {(row["listener"], row["shape"]) for row in found["rows"]}
    cmp = ("gateway", "gateway mac,ra", "ca ra", "ca client")
    assert where == {
        *((name, what) for name in cmp for what in ("garbage", "huge transactionID")),
        ("status", "path: slashes"),
    }
    assert all(row["cpu_ms"] > 0 for row in found["rows"])
    assert all(row["log_octets"] > 0 for row in found["rows"] if row["listener"] in cmp)
    assert found["flood"]["count"] == 60
    above = any(Row(**row).above for row in found["rows"])
    assert status == (1 if above or Flood(**found["flood"]).growth_octets > 8 * 1024**2 else 0)
    for what in ("garbage", "huge transactionID", "path: slashes"):
        assert any(line.startswith(what) for line in table.splitlines())


def test_a_row_above_the_goal_is_told() -> None:
    """By CPU and by log, each with where; the table marks its line."""
    cheap = Row("gateway", "one", 9, 4.9, None, 4096)
    slow = Row("ca ra", "two", 9, 5.1, 0, 0)
    loud = Row("gateway", "two", 9, 0.1, 0, 4097)
    assert cheap.above == []
    assert slow.above == ["5.1 ms at ca ra"]
    assert loud.above == ["4097 octets of log at gateway"]
    head, one, two = strangers.table([cheap, slow, loud], ["gateway", "ca ra"])
    assert ("ABOVE" in one, "ABOVE" in two) == (False, True)
    assert "ca ra" in head


async def test_what_is_kept_is_noticed() -> None:
    """A listener that keeps what it gets does not pass for one that does not."""
    kept: list[bytes] = []

    async def keeps(sent: bytes, peer: str) -> None:
        kept.append(sent)

    async def forgets(sent: bytes, peer: str) -> None:
        await asyncio.sleep(0)

    def make(number: int, octets: int) -> bytes:
        return bytes(octets)

    assert await strangers.kept_octets(Listener("", keeps, {}), make) >= MAX_OCTETS
    assert await strangers.kept_octets(Listener("", forgets, {}), make) < 4096
