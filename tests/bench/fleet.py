"""What a gateway's memory store costs with 10^3, 10^5 and 10^6 live transactions: time, memory, collector's pauses.

    make bench-fleet                           prints the table (10^6 takes some 8 GB and a minute or two)
    make bench-fleet SIZES=1000,100000         these sizes alone

Each size has a process of its own. In it a base station enrols until it has a certificate to confirm. So many copies of
that transaction, each with octets of its own, are put into the store and into its schedule. Then base stations enrol
and confirm through the gateway, without HTTP and with a CA in the same process, whose time is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from ra_gateway.app.running import settle
from ra_gateway.device.values import Send
from ra_gateway.ra.transaction import State, Transaction, TransactionKey
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.values import replace
from tests.support.harness import ManualClock, ScriptedCA, World
from tests.support.pki import make_operator_pki, make_vendor_pki

SIZES: Final = (1000, 100_000, 1_000_000)

_ENROLMENTS: Final = 200
_LIFETIME_SECONDS: Final = 3600
_COLUMNS: Final = (
    ("transactions", 12), ("gateway us", 10), ("due us", 8), ("backlog us", 10), ("states us", 9), ("octets each", 11),
    ("process MB", 10), ("full collection ms", 18), ("longest pause ms", 16),
)  # fmt: skip


@dataclass
class TimedCA:
    """A CA whose time is counted."""

    ca: ScriptedCA
    seconds: float = 0.0

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        began = time.process_time()
        try:
            return await self.ca.exchange(der, path=path, deadline_seconds=deadline_seconds)
        finally:
            self.seconds += time.process_time() - began

    async def close(self) -> None:
        """Do nothing."""


@dataclass
class Pauses:
    """The collector's, as it calls back."""

    seconds: list[float] = field(default_factory=list)
    _began: float = 0.0

    def __call__(self, phase: str, _info: Any) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds.append(time.perf_counter() - self._began)


def _resident_octets() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _copy(of: Transaction, number: int, lives: timedelta) -> Transaction:
    """Return a transaction like another one, of another device, that shares no octets with it."""
    name = number.to_bytes(32, "big")
    own = {
        item: bytes(bytearray(getattr(of, item)))
        for item in ("signer_der", "certificate_der", "subject_der", "public_key_der")
    }
    response_der = bytes(bytearray(of.opening.response_der or b""))
    return replace(
        of,
        key=TransactionKey(of.key.domain, name, name[16:]),
        expires_at=of.created_at + lives,
        opening=replace(of.opening, request_digest=name, response_der=response_der),
        **own,
    )


async def _micros(call: Callable[[], Awaitable[object]], times: int = 200) -> float:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        found.append(time.perf_counter() - began)
    return statistics.median(found) * 1e6


async def measure(size: int) -> dict[str, float]:
    """Fill a store and return the figures by column."""
    clock = ManualClock()
    store = MemoryStore(clock, max_transactions=size + 2 * _ENROLMENTS)
    operator = make_operator_pki()
    ca = TimedCA(ScriptedCA(operator, clock))
    world = World.make(
        make_vendor_pki(), operator, store=store, clock=clock, ca=ca,  # type: ignore[arg-type]
    )  # fmt: skip
    seconds = 0.0

    async def post(der: bytes) -> bytes:
        nonlocal seconds
        began = time.process_time()
        answer = await world.post(der)
        seconds += time.process_time() - began
        return answer

    async def enrol(number: int, *, confirm: bool = True) -> None:
        enrolment = world.enrollment(world.device(f"ENB-{number}"))
        step = await enrolment.receive(await post(await enrolment.request()))
        assert isinstance(step, Send), step
        if confirm:
            await enrolment.receive(await post(step.der))

    await enrol(0, confirm=False)
    (issued,) = store._transactions.values()
    assert issued.state is State.ISSUED
    settle()
    before = _resident_octets()
    for number in range(size):
        lives = timedelta(seconds=60 + number * _LIFETIME_SECONDS / size)
        transaction = _copy(issued, number, lives)
        await store.create(transaction)
        await store.add(transaction.key, transaction.expires_at)
    grown = _resident_octets() - before
    await enrol(1)
    ca.seconds = seconds = 0.0
    pauses = Pauses()
    gc.callbacks.append(pauses)
    for number in range(_ENROLMENTS):
        await enrol(number + 2)
    gateway_us = (seconds - ca.seconds) / _ENROLMENTS * 1e6
    began = time.perf_counter()
    gc.collect()
    full_ms = (time.perf_counter() - began) * 1e3
    gc.callbacks.remove(pauses)
    due_at = clock() + timedelta(seconds=60)

    async def states() -> object:
        return store.states()

    longest_ms = max(pauses.seconds[:-1], default=0) * 1e3  # the last one is the full one
    figures = (
        size,
        gateway_us,
        await _micros(lambda: store.due(due_at, limit=100)),
        await _micros(store.backlog),
        await _micros(states),
        grown / size,
        _resident_octets() / 1e6,
        full_ms,
        longest_ms,
    )
    return {name: figure for (name, _), figure in zip(_COLUMNS, figures, strict=True)}


def main() -> None:
    """Measure each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--one", type=int, help="measure one size here, and print JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(asyncio.run(measure(arguments.one))))
        return
    print("  ".join(f"{name:>{width}}" for name, width in _COLUMNS))
    for size in arguments.sizes.split(","):
        told = subprocess.run(
            [sys.executable, "-m", "tests.bench.fleet", "--one", size],
            stdout=subprocess.PIPE,
            check=True,
        )
        figures = json.loads(told.stdout)
        cells = (
            f"{figures[name]:>{width}.{0 if figures[name] >= 100 else 1}f}"
            for name, width in _COLUMNS
        )
        print("  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
