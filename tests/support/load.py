"""Base stations that enrol one after the other all the time, while something is done to what serves them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.support.patience import PATIENCE_SECONDS

STATIONS: Final = 3

ROUNDS: Final = int(os.environ.get("ROUNDS_UNDER_LOAD", "1"))
"""How often what is done under load is done; `make under-load` asks for more."""

PAUSE_SECONDS: Final = 0.2 if ROUNDS == 1 else 0.0
"""Between two enrolments of a station: among other tests it leaves them something of the machine."""


@dataclass
class Load:
    """How far they have come.

    Args:
        counts: Enrolments so far, by station.
    """

    counts: list[int] = field(default_factory=lambda: [0] * STATIONS)

    @property
    def count(self) -> int:
        """Enrolments so far."""
        return sum(self.counts)

    async def goes_on(self) -> None:
        """Wait until each station has enrolled once more, from beginning to end."""
        wanted = [count + 2 for count in self.counts]  # the one under way may have begun before
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(count < least for count, least in zip(self.counts, wanted, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def under_load(enrol: Callable[[str], Awaitable[object]]) -> AsyncIterator[Load]:
    """Have base stations enrol for as long as the block lasts; the first that fails ends it with its error.

    Args:
        enrol: Has one enrol and confirm; called with a serial number of its own.
    """
    load, over = Load(), asyncio.Event()

    async def keep_enrolling(station: int) -> None:
        while not over.is_set():
            await enrol(f"enb-{station}-{load.counts[station]}")
            load.counts[station] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async with asyncio.TaskGroup() as group:
        for station in range(STATIONS):
            group.create_task(keep_enrolling(station))
        yield load
        await load.goes_on()
        over.set()
