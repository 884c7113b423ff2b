"""The base stations of one process: each begins when it is due, or when another one has ended."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import time
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.device.client import open_session
from ra_gateway.device.fleet.figures import Figures
from ra_gateway.device.fleet.plan import Load, Plan
from ra_gateway.device.fleet.sources import Source
from ra_gateway.device.fleet.station import Station, Surroundings
from ra_gateway.errors import ConfigError

MAX_PREPARED: Final = 2000
"""Base stations that are ready before the first one begins: a storm does not wait for its keys."""

AHEAD_SECONDS: Final = 10.0
"""No base station is ready longer before it is due: its first message has the time at which it was made."""

GRACE_SECONDS: Final = 10.0
"""How long base stations that are under way may go on when the simulation is told to end."""


class Stop:
    """Tells a simulation to end: at the first call no further base station begins, at the second all end at once."""

    def __init__(self) -> None:
        self.soon, self.now = asyncio.Event(), asyncio.Event()

    def __call__(self) -> None:
        (self.now if self.soon.is_set() else self.soon).set()


class _Remembering(AbstractResolver):
    """Asks for the addresses of a host once: a fleet is no load test of the DNS."""

    def __init__(self) -> None:
        self._asking = ThreadedResolver()
        self._asked: dict[tuple[str, int, int], asyncio.Future[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host (aiohttp)."""
        asked = self._asked.get((host, port, family))
        if asked is None or (asked.done() and asked.exception() is not None):
            asked = asyncio.ensure_future(self._asking.resolve(host, port, family))
            self._asked[host, port, family] = asked
        return await asyncio.shield(asked)

    async def close(self) -> None:
        """Keep what was found for the next base station (aiohttp)."""


def _leaves(errors: BaseExceptionGroup[ConfigError]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        yield from _leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)


class Driver:
    """Has the base stations of one process come.

    Args:
        process: Which one, from 0.
        stop: May end it before its time.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        *,
        process: int,
        stop: Stop,
        trust: TrustDomain | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._plan, self._source, self._trust, self._tls = plan, source, trust, tls
        self._numbers = plan.share(process)
        self._prepared: deque[tuple[Station, float]] = deque()
        self._at_once = plan.at_once_in(process)
        self._stop = stop
        self._began = self._cpu_before = 0.0
        self._counted = Figures()

    @property
    def figures(self) -> Figures:
        """What has been counted until now."""
        if self._began:
            self._counted.elapsed_seconds = max(0.0, time.monotonic() - self._began)
            self._counted.cpu_seconds = (time.process_time() - self._cpu_before,)
        return self._counted

    async def run(self, begin: Callable[[], float]) -> Figures:
        """Return what was counted, when all have ended.

        Args:
            begin: Called when what comes first is prepared; returns when the simulation begins, by `time.monotonic`.
        """
        async with self._sessions() as session:
            around = Surroundings(
                plan=self._plan,
                source=self._source,
                figures=self._counted,
                trust=self._trust,
                session=session,
                rest=self._rest,
            )
            cpu_before = time.process_time()
            for number, moment in self._numbers:
                if moment > AHEAD_SECONDS:
                    self._numbers = itertools.chain([(number, moment)], self._numbers)
                    break
                self._prepared.append((await Station(number, around).prepare(), moment))
                await asyncio.sleep(0)
                enough = len(self._prepared) >= min(self._at_once, MAX_PREPARED)
                if enough or self._stop.soon.is_set():
                    break
            self._counted.prepared = len(self._prepared)
            self._cpu_before = time.process_time()
            self._counted.preparing_seconds = self._cpu_before - cpu_before
            self._began = around.began = begin()
            closed = self._plan.load is Load.at_once
            await self._until_stopped(
                self._closed_loop(around) if closed else self._open_loop(around)
            )
        return self.figures

    async def _next(self, around: Surroundings) -> tuple[Station, float] | None:
        """Return the next base station, prepared, and when it is due after the begin; None after the last one."""
        if self._prepared:
            return self._prepared.popleft()
        number, moment = next(self._numbers, (-1, 0.0))
        if number < 0 or await self._rest(around.began + moment - AHEAD_SECONDS - time.monotonic()):
            return None
        return await Station(number, around).prepare(), moment

    async def _until_stopped(self, loop: Coroutine[Any, Any, None]) -> None:
        """Run a loop to its end, or until those under way have had their time after the simulation was stopped."""
        running = asyncio.create_task(loop)
        soon = asyncio.create_task(self._stop.soon.wait())
        now = asyncio.create_task(self._stop.now.wait())
        await asyncio.wait((running, soon), return_when=FIRST_COMPLETED)
        await asyncio.wait((running, now), timeout=GRACE_SECONDS, return_when=FIRST_COMPLETED)
        for task in (running, soon, now):
            task.cancel()
        await asyncio.wait((running, soon, now))
        if not running.cancelled():
            try:
                running.result()
            except* (
                ConfigError
            ) as errors:  # of one base station: what the others saw is told all the same
                self._counted.ended_by = str(next(_leaves(errors)))

    @asynccontextmanager
    async def _sessions(
        self,
    ) -> AsyncIterator[aiohttp.ClientSession | Callable[[], aiohttp.ClientSession]]:
        if self._plan.behaviour.own_connection:
            resolver = _Remembering()
            yield partial(open_session, self._tls, connections=1, resolver=resolver)
        else:
            async with open_session(self._tls, connections=self._at_once) as session:
                yield session

    async def _closed_loop(self, around: Surroundings) -> None:
        await self._rest(around.began - time.monotonic())
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._one_after_the_other(around))

    async def _one_after_the_other(self, around: Surroundings) -> None:
        while not self._over and (found := await self._next(around)) is not None:
            await found[0].live(time.monotonic())

    async def _open_loop(self, around: Surroundings) -> None:
        places, free_at = asyncio.Semaphore(self._at_once), 0.0

        async def in_place(station: Station, due: float) -> None:
            try:
                await station.live(due)
            finally:
                places.release()

        async with asyncio.TaskGroup() as group:
            while (found := await self._next(around)) is not None:
                station, moment = found
                due = around.began + moment
                if await self._rest(due - time.monotonic()):
                    break
                if places.locked() or due < free_at:
                    self._counted.held += 1
                else:
                    self._counted.late.add(time.monotonic() - due)
                if places.locked():
                    await places.acquire()
                    free_at = time.monotonic()
                else:
                    await places.acquire()
                if self._over:
                    break
                group.create_task(in_place(station, due))
                await asyncio.sleep(0)  # those that have begun have their turn

    @property
    def _over(self) -> bool:
        lasts = self._plan.duration_seconds
        return self._stop.soon.is_set() or (
            lasts is not None and time.monotonic() - self._began >= lasts
        )

    async def _rest(self, seconds: float) -> bool:
        """Wait; returns whether the simulation is told to end, and then at once."""
        if seconds > 0 and not self._stop.soon.is_set():
            try:
                await asyncio.wait_for(self._stop.soon.wait(), seconds)
            except TimeoutError:
                return False
        return self._stop.soon.is_set()
