"""A way between two processes that loses, slows, stalls and cuts what goes over it, by chance: a TCP proxy here."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

CHUNK_BYTES: Final = 65_536
"""Of one read: what our gateways, their CA and Redis say at once is shorter, and so comes whole."""


class Fate(StrEnum):
    """What becomes of what one side has said, or of the answer to it."""

    passed = "passed"
    lost_before = "lost before delivery"
    lost_after = "answer lost"
    slowed = "slowed"
    stalled = "stalled"
    cut = "answer cut"


@dataclass
class FaultyWay:
    """Listens on a free port of loopback, and leads to another one; an async context manager.

    Args:
        port: Returns where it leads to; nobody need listen there.
        share: Of what goes over it, how much meets with a fate other than to pass.
        slow_seconds: Something that is slowed takes at most so much longer.
        stall_seconds: So long an answer is kept that is stalled, and then lost.
        fates: How often each was met with.
    """

    port: Callable[[], int]
    chance: random.Random
    share: float
    slow_seconds: float
    stall_seconds: float
    fates: Counter[Fate] = field(default_factory=Counter)
    own_port: int = 0
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.own_port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # asyncio has the log say of a connection that was cancelled.
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self.port())
            with contextlib.closing(back):
                await _Connection(self, reader, writer, there, back).run()

    def draw(self) -> Fate:
        """Draw what becomes of what was said."""
        others = [fate for fate in Fate if fate is not Fate.passed]
        fate = self.chance.choice(others) if self.chance.random() < self.share else Fate.passed
        self.fates[fate] += 1
        return fate


@dataclass
class _Connection:
    """One connection through it; `fate` is that of the next answer."""

    way: FaultyWay
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    there: asyncio.StreamReader
    back: asyncio.StreamWriter
    fate: Fate = Fate.passed

    async def run(self) -> None:
        """Carry what is said until one side, or fate, ends it."""
        both = [asyncio.create_task(each) for each in (self._forth(), self._answers())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _forth(self) -> None:
        while said := await self.reader.read(CHUNK_BYTES):
            fate = self.way.draw()
            if fate is Fate.lost_before:
                return
            if fate is Fate.slowed:
                await asyncio.sleep(self.way.chance.random() * self.way.slow_seconds)
            elif fate is not Fate.passed:
                self.fate = fate
            self.back.write(said)
            await self.back.drain()

    async def _answers(self) -> None:
        while said := await self.there.read(CHUNK_BYTES):
            if self.fate is Fate.stalled:
                await asyncio.sleep(self.way.stall_seconds)
            elif self.fate is Fate.cut:
                self.writer.write(said[: len(said) // 2])
                await self.writer.drain()
            if self.fate is not Fate.passed:
                return
            self.writer.write(said)
            await self.writer.drain()
