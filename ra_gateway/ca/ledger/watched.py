"""A database that tells when it is lost, and when it is found again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeVar

from sqlalchemy import Connection

from ra_gateway.ca.ledger.batches import Batch
from ra_gateway.ca.ledger.database import Database
from ra_gateway.clocks import elapsed_seconds
from ra_gateway.durations import Durations
from ra_gateway.errors import StoreUnavailable
from ra_gateway.events import Component, EventSink, StoreWatch

T = TypeVar("T")
Item = TypeVar("Item")


class WatchedDatabase:
    """Another database, whose failures and answers are noted (`Database`)."""

    def __init__(self, database: Database, sink: EventSink) -> None:
        self._database = database
        self._watch = StoreWatch(sink, Component.ca, elapsed_seconds)
        self.written = {durable: Durations() for durable in (False, True)}
        """How long writing took, until it was committed, by whether it was flushed."""
        self.read_durations = Durations()
        self.open, self.close, self.migrate = database.open, database.close, database.migrate

    @property
    def commit_count(self) -> int:
        return self._database.commit_count

    async def submit(self, function: Batch[Item, T], item: Item, *, durable: bool) -> T:
        started = perf_counter()
        done = await self._watched(self._database.submit(function, item, durable=durable))
        self.written[durable].add(perf_counter() - started)
        return done

    async def read(self, function: Callable[[Connection], T]) -> T:
        started = perf_counter()
        done = await self._watched(self._database.read(function))
        self.read_durations.add(perf_counter() - started)
        return done

    async def read_state(self, function: Callable[[Connection], T]) -> T:
        return await self._watched(self._database.read_state(function))

    async def require_room(self) -> None:
        await self._watched(self._database.require_room())

    async def _watched(self, work: Awaitable[T]) -> T:
        try:
            done = await work
        except StoreUnavailable as error:
            # Without a cause, the ledger refuses by itself: it is closed, say.
            if error.__cause__ is not None:
                self._watch.failed(error.detail)
            raise
        self._watch.answered()
        return done
