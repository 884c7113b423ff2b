"""Group commit: work that waits is gathered into batches and committed together, whatever the database."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ra_gateway.errors import StoreUnavailable

T = TypeVar("T")
Item = TypeVar("Item")

MAX_BATCH: Final = 256
"""Pieces of work per commit: some 30 ms of work, so that the first in the queue does not wait for the last."""

GATHER_SECONDS: Final = 0.01
"""How long a batch may grow before it is begun. A CMP client does not notice; a batch ten times as large costs a
third per piece of work."""

Batch: TypeAlias = Callable[[Connection, Sequence[Item]], Sequence[T | Exception]]
"""Does a piece of work for every item; returns a result or an exception for each, in their order.

An item whose result is an exception has left nothing in the database.
"""

Run: TypeAlias = "Callable[[Connection, Sequence[Work]], None]"


def failures() -> tuple[type[Exception], ...]:
    """Return what a database fails with; OSError covers TimeoutError."""
    # What the driver of PostgreSQL raises exists where it was loaded; for SQLite alone it never is.
    driver: Any = sys.modules.get("asyncpg")
    of_postgres = (driver.PostgresError, driver.InterfaceError) if driver else ()
    return (SQLAlchemyError, sqlite3.Error, OSError, *of_postgres)


@dataclass(slots=True, eq=False)
class Work:
    """An item that waits for its function, and whoever waits for it."""

    function: Batch[Any, Any]
    item: Any
    durable: bool
    future: asyncio.Future[Any]
    outcome: Any = None  # a result or an exception

    def deliver(self) -> None:
        """Give the outcome to who waits for it."""
        if self.future.done():  # whoever asked was cancelled
            return
        if isinstance(self.outcome, failures()):
            self.future.set_exception(unavailable(self.outcome))
        elif isinstance(self.outcome, Exception):
            self.future.set_exception(self.outcome)
        else:
            self.future.set_result(self.outcome)


class Queue:
    """Takes all work that waits, has it run, and answers those who wait; one batch at a time.

    Args:
        run: Sets the outcome of every piece of a batch; raises nothing.
        name: Of the task.
    """

    def __init__(self, run: Callable[[Sequence[Work]], Awaitable[None]], name: str) -> None:
        self._run = run
        self._waiting: deque[Work] = deque()
        self._filled = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._serve(), name=name)

    async def put(self, function: Batch[Item, T], item: Item, *, durable: bool) -> T:
        """Return the outcome of an item when its batch is done."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(Work(function, item, durable, future))
        self._filled.set()
        return await future

    async def close(self) -> None:
        """Finish what is queued; `put` must not be called any more."""
        self._closing = True
        self._filled.set()
        await self._task

    async def _serve(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._filled.clear()
                await self._filled.wait()
                continue
            await self._gather()
            size = min(MAX_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            await self._run(batch)
            for work in batch:
                work.deliver()

    async def _gather(self) -> None:
        """Wait while every turn of the event loop brings more: whoever is busy there comes here next."""
        loop = asyncio.get_running_loop()
        deadline, seen = loop.time() + GATHER_SECONDS, 0
        while seen < len(self._waiting) < MAX_BATCH and loop.time() < deadline:
            seen = len(self._waiting)
            await asyncio.sleep(0)


def each(connection: Connection, functions: Sequence[Callable[[Connection], Any]]) -> Sequence[Any]:
    """Run functions that have nothing in common, one after the other."""
    return [function(connection) for function in functions]


def run_together(connection: Connection, batch: Sequence[Work]) -> None:
    """Give each function its items at once; an exception spoils the whole batch."""
    groups: dict[Batch[Any, Any], list[Work]] = {}
    for work in batch:
        groups.setdefault(work.function, []).append(work)
    for function, group in groups.items():
        outcomes = function(connection, [work.item for work in group])
        for work, outcome in zip(group, outcomes, strict=True):
            work.outcome = outcome


def run_apart(connection: Connection, batch: Sequence[Work]) -> None:
    """Run each item by itself; an exception spoils that item alone."""
    for work in batch:
        savepoint = connection.begin_nested()
        try:
            (work.outcome,) = work.function(connection, [work.item])
        except Exception as error:  # belongs to whoever asked; the others go on
            if not is_refusal(error):
                raise
            savepoint.rollback()
            work.outcome = error
        else:
            savepoint.commit()


def is_refusal(error: Exception) -> bool:
    """Tell whether a statement or an item was refused, over a connection that works."""
    if isinstance(error, DBAPIError):
        return not error.connection_invalidated and not _is_busy(error)
    return not isinstance(error, failures())


def is_lost(error: Exception) -> bool:
    """Tell whether a connection was lost, or none was had, without a wait."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error, failures()) and not isinstance(error, TimeoutError | SQLAlchemyError)


def _is_busy(error: DBAPIError) -> bool:
    """Tell whether another process held the file: each item would wait as long again."""
    return str(getattr(error.orig, "sqlite_errorname", "")).startswith("SQLITE_BUSY")


def unavailable(error: Exception) -> StoreUnavailable:
    """Return a database's failure as ours, without statement, values, URL or password."""
    reason = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    # SQLAlchemy puts "<class '...'>: " before what asyncpg says; further lines may hold values.
    said = str(reason).partition("\n")[0].rpartition(">: ")[2]
    failure = StoreUnavailable(f"ledger: {said or type(reason).__name__}")
    failure.__cause__ = error
    return failure
