"""The sink that writes the audit trail: facts go into a queue, and one thread appends them in batches.

A batch is one transaction, which locks the head of the chain: processes that share a trail write one after the other,
and the chain does not fork. What a database did not take is tried again until it does, in its order, and nothing twice.
The queue is bounded. What there is no room for is counted, told in the log, and its number stands in the trail.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection

from ra_gateway.audit import appending, records
from ra_gateway.audit.database import AuditDatabase
from ra_gateway.audit.records import RECORDED, Record
from ra_gateway.errors import StoreUnavailable
from ra_gateway.events import Fact

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.audit")

MOST_IN_BATCH: Final = 500
"""Some 20 ms of work."""

GATHER_SECONDS: Final = 0.1
"""How long records that nobody waits for are gathered: a batch costs a commit, however small."""

AWAITED_SECONDS: Final = 0.002
"""How long those are gathered that somebody waits for: at a time when many do, they share a commit."""

AGAIN_SECONDS: Final = 1.0
"""Between two attempts at a database that does not take a batch."""

KEEPING_SECONDS: Final = 3600.0
"""Between two looks for records that may go."""


class Stream(Protocol):
    """What gets each record once it is in the database, as well."""

    name: str
    lost: int
    problem: str

    def put(self, number: int, record: Record, hash_: bytes) -> None:
        """Take one record; neither waits nor raises."""

    def close(self, seconds: float) -> None:
        """Hand over what waits, within so long, and end."""


class AuditTrail:
    """Takes facts (`ra_gateway.events.EventSink`), from any thread, and appends them.

    Args:
        database: Used by a thread of the trail's own.
        node: Which process this is.
        clock_ms: Milliseconds since 1970, UTC.
        required: Whether who answers waits until what was told before is durable (`durable`).
        most_waiting: Records that wait for the database, at most.
        wait_seconds: How long who answers waits.
        keep: Has records leave that are old; called now and then, with the database; None keeps all.
        streams: Get what was written.
    """

    def __init__(
        self,
        database: AuditDatabase,
        *,
        node: str,
        clock_ms: Callable[[], int],
        required: bool = False,
        most_waiting: int = 100_000,
        wait_seconds: float = 5.0,
        keep: Callable[[AuditDatabase], int] | None = None,
        streams: Sequence[Stream] = (),
    ) -> None:
        self._database, self._node, self._clock_ms = database, node, clock_ms
        self.required = required
        self._most_waiting, self._wait_seconds = most_waiting, wait_seconds
        self._keep, self.streams = keep, tuple(streams)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Fact]] = deque()
        self._waiters: deque[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._told = self._written = 0
        self._untold_losses = 0
        self._closing_at: float | None = None
        self._is_idle = False
        self._attempt: tuple[int, bytes] | None = None
        self._hashes: list[bytes] = []
        self._thread: threading.Thread | None = None
        self.lost = 0
        """Records that there was no room for."""
        self.written = 0
        """Records that are in the trail, by this process."""
        self.removed = 0
        """Records that have left it, as they were too old."""
        self.problem = ""
        """Why the database takes nothing; "" if it does."""

    @property
    def waiting(self) -> int:
        """Records that are not in the database yet."""
        return self._told - self._written

    def __call__(self, fact: Fact) -> None:
        """Have a fact recorded, if it is one that is."""
        if type(fact) not in RECORDED:
            return
        with self._changed:
            if len(self._waiting) >= self._most_waiting or self._closing_at is not None:
                self.lost += 1
                self._untold_losses += 1
                is_first = self._untold_losses == 1
            else:
                is_first = False
                self._waiting.append((self._clock_ms(), fact))
                self._told += 1
                # A thread that gathers is not woken for each.
                if self._is_idle or len(self._waiting) >= MOST_IN_BATCH:
                    self._changed.notify()
        if is_first:
            log.error(
                "audit.lost",
                detail=self.problem or "it is written too slowly",
                waiting=self._most_waiting,
                todo="see that the database of the audit trail takes records; until then further ones are lost",
            )

    async def durable(self, lost_before: int | None = None) -> None:
        """Return when all that was told is in the database, or at once where nobody is to wait for that.

        Args:
            lost_before: What `lost` was before it was told; None for now.

        Raises:
            StoreUnavailable: It is not, and whoever waits for it must not go on.
        """
        if not self.required:
            return
        with self._changed:
            if self._untold_losses or (lost_before is not None and self.lost != lost_before):
                raise StoreUnavailable("the audit trail has no room for another record")
            if self._written >= self._told:
                return
            if self.problem:
                raise StoreUnavailable(self.problem)
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((self._told, loop, future))
            self._changed.notify()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await future
        except TimeoutError as error:
            raise StoreUnavailable("the audit trail does not take records in time") from error

    # --- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to write; what was told before is written, too."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
            self._thread.start()

    async def close(self, seconds: float = 5.0) -> None:
        """Write what waits, within so many seconds, and disconnect."""
        with self._changed:
            self._closing_at = time.monotonic() + seconds
            self._changed.notify()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.to_thread(thread.join)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        next_keeping = 0.0
        while True:
            batch = self._taken()
            if batch:
                if not self._insist(batch):
                    break
            elif self._closing_at is not None:
                break
            if self._keep is not None and time.monotonic() >= next_keeping:
                next_keeping = time.monotonic() + KEEPING_SECONDS
                self._keep_what_may_stay(self._keep)
        if left := self.waiting:
            log.error(
                "audit.lost",
                detail=self.problem,
                waiting=left,
                todo="the process has ended before the database took them",
            )
        self._database.close()
        for stream in self.streams:
            stream.close(max(0.1, (self._closing_at or 0.0) - time.monotonic()))

    def _taken(self) -> list[tuple[int, Fact]]:
        """Return what is to be written next; nothing at the end, or where it is time to look after other things."""
        with self._changed:
            if not self._waiting and self._closing_at is None and not self._untold_losses:
                self._is_idle = True
                self._changed.wait(KEEPING_SECONDS)
                self._is_idle = False
            is_awaited = bool(self._waiters)
        if is_awaited:
            time.sleep(
                AWAITED_SECONDS
            )  # and not by the condition, which each record that comes would end
        with self._changed:
            if not self._waiters and len(self._waiting) < MOST_IN_BATCH and not self._closing_at:
                gather_until = time.monotonic() + GATHER_SECONDS
                while (left := gather_until - time.monotonic()) > 0 and not (
                    self._waiters or self._closing_at or len(self._waiting) >= MOST_IN_BATCH
                ):
                    self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(min(MOST_IN_BATCH, len(self._waiting)))]

    def _insist(self, batch: Sequence[tuple[int, Fact]]) -> bool:
        """Write a batch, however often it takes; returns False where the end came first."""
        made = [self._record(at, fact) for at, fact in batch]
        losses = self._untold_losses
        if losses:
            made.append(records.lost(self._clock_ms(), losses, self._node))
        self._attempt = None
        while True:
            try:
                first = self._database.write(lambda connection: self._append(connection, made))
                break
            except StoreUnavailable as error:
                self._failed(error.detail)
            except Exception as error:  # a bug; as long as it is there, nothing can be written
                log.exception("audit.failed")
                self._failed(f"a bug, {type(error).__name__}")
            with self._changed:
                left = AGAIN_SECONDS
                if self._closing_at is not None:
                    left = min(left, self._closing_at - time.monotonic())
                    if left <= 0:
                        return False
            time.sleep(left)
        self._wrote(len(batch), losses)
        for number, (record, hash_) in enumerate(zip(made, self._hashes, strict=True), first):
            for stream in self.streams:
                stream.put(number, record, hash_)
        return True

    def _record(self, at: int, fact: Fact) -> Record:
        try:
            return records.record_of(at, fact, self._node)
        except Exception as error:  # a bug; that something was told is recorded all the same
            log.exception("audit.failed", fact=type(fact).__name__)
            detail = {"fact": type(fact).__name__, "bug": type(error).__name__, "node": self._node}
            return Record(at, "gateway", "audit.unreadable", "", detail)

    def _append(self, connection: Connection, made: Sequence[Record]) -> int:
        """Append records, unless a former attempt has, the end of which nobody saw; returns the first one's number."""
        if self._attempt is not None and appending.has(connection, *self._attempt):
            return self._attempt[0] - len(made) + 1
        self._hashes, number = appending.append(connection, made)
        self._attempt = number, self._hashes[-1]
        return number - len(made) + 1

    def _failed(self, why: str) -> None:
        with self._changed:
            is_first, self.problem = not self.problem, why
            waiters, self._waiters = list(self._waiters), deque()
        if is_first:
            log.error(
                "audit.down",
                detail=why,
                todo="see that the database of the audit trail is up and takes records",
            )
        for _, loop, future in waiters:
            _settle(loop, future, StoreUnavailable(why))

    def _wrote(self, count: int, losses: int) -> None:
        ready = []
        with self._changed:
            self._written += count
            self.written += count + (1 if losses else 0)
            self._untold_losses -= losses
            was_down, self.problem = bool(self.problem), ""
            while self._waiters and self._waiters[0][0] <= self._written:
                ready.append(self._waiters.popleft())
        if was_down or losses:
            log.info("audit.up", records=count, lost=losses)
        for _, loop, future in ready:
            _settle(loop, future, None)

    def _keep_what_may_stay(self, keep: Callable[[AuditDatabase], int]) -> None:
        try:
            self.removed += keep(self._database)
        except StoreUnavailable as error:
            log.error("audit.down", detail=error.detail, todo="old records stay until it is up")


def _settle(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], error: Exception | None
) -> None:
    def settle() -> None:
        if future.done():  # whoever waited has gone
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop has ended, and whoever waited with it
        return
