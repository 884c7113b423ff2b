"""What a gateway does with one message, as a value: the real pipeline, stopped wherever it asks something outside.

Between two such calls the pipeline is a function of what it was told, once time and randomness are given. So what it
is in the middle of is what it was told so far, and it can be had again at any time by being told the same once more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from ra_gateway.cmp.algorithms import SignatureAlgorithm
from ra_gateway.cmp.protection import Signer
from ra_gateway.errors import StaleTransaction, StoreUnavailable, UpstreamUnavailable
from ra_gateway.events import Fact, RequestHandled
from ra_gateway.ra.confirmation_records import ConfirmationNote, ConfirmationRecord
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import Transaction, TransactionKey
from ra_gateway.ra.unconfirmed import UnconfirmedCertificates

BEGINNING: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

ENDPOINT: Final = "ran"


def moment(seconds: float) -> datetime:
    """Return a time of the worlds' clock."""
    return BEGINNING + timedelta(seconds=seconds)


def seconds_at(at: datetime) -> float:
    """Return what the worlds' clock shows at a time."""
    return (at - BEGINNING).total_seconds()


def drawn(*what: object) -> bytes:
    """Return 32 octets that are others for everything else."""
    return hashlib.sha256(repr(what).encode()).digest()


@dataclass(frozen=True, slots=True)
class RememberedSigner:
    """A key that signs the same octets by the same signature: ECDSA draws another one each time."""

    signer: Signer
    signatures: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return self.signer.algorithm

    async def sign(self, octets: bytes) -> bytes:
        if octets not in self.signatures:
            self.signatures[octets] = await self.signer.sign(octets)
        return self.signatures[octets]


# --- an event loop that does nothing of its own accord --------------------------------------------------------


class _Loop(asyncio.AbstractEventLoop):
    """Runs what is ready, and its timers when it is told to; its clock is set from outside."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: Any) -> None:
        """Say nothing: what is left of a process that died is nobody's fault."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle in self._timers:  # not one that has gone off
            self._timers.remove(handle)

    @property
    def next_timer(self) -> float | None:
        return min((timer.when() for timer in self._timers), default=None)

    def run(self) -> None:
        """Run until nothing is ready."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(before)

    def ring(self) -> None:
        """Have those timers go off whose time has come."""
        due = [timer for timer in self._timers if timer.when() <= self.now]
        self._timers = [timer for timer in self._timers if timer not in due]
        self._ready.extend(due)
        self.run()


# --- what a process asks and is told --------------------------------------------------------------------------


class Call(NamedTuple):
    """What a process asks outside, and waits for.

    Args:
        number: Counts the calls of the process, from 1.
    """

    number: int
    name: str
    arguments: tuple[Any, ...]


class Raised(NamedTuple):
    """An error, as what a call leads to."""

    name: str

    def error(self) -> Exception:
        match self.name:
            case "stale":
                return StaleTransaction("another version is stored")
            case "store":
                return StoreUnavailable("no answer")
            case _:
                return UpstreamUnavailable("no answer", delivered=self.name == "delivered")


class Told(NamedTuple):
    """What a process is told.

    Args:
        number: Of the call that this is the result of; 0 rings its timers.
        at: When, in seconds.
    """

    number: int
    result: Any
    at: float


class View(NamedTuple):
    """What can be seen of a process that waits.

    Args:
        calls: What it waits for.
        timer: When it goes on without, None for never.
        reply: What it answers, once it does.
        bugs: Errors that nobody expected.
    """

    calls: tuple[Call, ...]
    timer: float | None
    reply: bytes | None
    bugs: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether there is more to come than its reply."""
        return bool(self.calls) or self.timer is not None


class Start(NamedTuple):
    """How a process begins: with a message, or with none to work through the agenda.

    Args:
        name: Tells it from all others.
        at: When, in seconds.
    """

    name: str
    message: bytes | None
    at: float


class Outside:
    """Store, agenda and CA of one process, which ask whoever drives it."""

    def __init__(self, call: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._call = call

    async def create(self, transaction: Transaction, *, repeatable: bool = False) -> Any:
        return await self._call("create", transaction)

    async def load(self, key: TransactionKey) -> Any:
        return await self._call("load", key)

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        return list(await self._call("find", transaction_id))

    def awaited(self, transaction_id: bytes) -> None:
        """Nothing is remembered within a process: what it would replace is as well asked for."""

    async def replace(self, transaction: Transaction) -> None:
        await self._call("replace", transaction)

    async def wait(self, key: TransactionKey, *, version: int, timeout_seconds: float) -> Any:
        until = asyncio.get_running_loop().time() + timeout_seconds
        return await self._call("wait", key, version, until)

    async def add(self, key: TransactionKey, due_at: datetime) -> None:
        await self._call("add", key, due_at)

    async def due(self, now: datetime, *, limit: int) -> list[TransactionKey]:
        return list(await self._call("due", now))

    async def remove(self, key: TransactionKey) -> None:
        await self._call("remove", key)

    async def note_confirmation(
        self, certificate: bytes, note: ConfirmationNote, keep_until: datetime
    ) -> ConfirmationRecord:
        octets = await self._call("note_confirmation", certificate, note)
        return ConfirmationRecord.from_bytes(octets)

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> Any:
        return await self._call("exchange", der)

    async def ping(self) -> None:
        """Nothing pings."""

    async def close(self) -> None:
        """There is nothing to close."""


MakeServices = Callable[["Process"], Services]


class Process:
    """A gateway that handles one message, or works through its agenda, while it is being driven."""

    def __init__(self, start: Start, make_services: MakeServices) -> None:
        self.outside = Outside(self._ask)
        self._loop = _Loop(start.at)  # type: ignore[abstract]  # with what a pipeline needs of one
        self._name = start.name
        self._waiting: dict[int, tuple[Call, asyncio.Future[Any]]] = {}
        self._asked = self._draws = 0
        self._bugs: list[str] = []
        services = make_services(self)
        work: Coroutine[Any, Any, Any] = (
            UnconfirmedCertificates(services).work()
            if start.message is None
            else Gateway(services).handle(start.message, endpoint=ENDPOINT)
        )
        self._task = self._loop.create_task(work)
        self._loop.run()

    async def _ask(self, name: str, *arguments: Any) -> Any:
        self._asked += 1
        call = Call(self._asked, name, arguments)
        future = self._loop.create_future()
        self._waiting[call.number] = call, future
        return await future

    def tell(self, told: Told) -> None:
        """Give it what it waits for, and run it until it waits again."""
        self._loop.now = told.at
        if told.number == 0:
            self._loop.ring()
            return
        _, future = self._waiting.pop(told.number)
        if not future.done():
            if isinstance(told.result, Raised):
                future.set_exception(told.result.error())
            else:
                future.set_result(told.result)
        self._loop.run()

    def clock(self) -> datetime:
        return moment(self._loop.now)

    def monotonic(self) -> float:
        return self._loop.now

    def random_octets(self, size: int) -> bytes:
        self._draws += 1
        return drawn(self._name, self._draws)[:size]

    def sink(self, fact: Fact) -> None:
        if isinstance(fact, RequestHandled) and fact.bug is not None:
            self._bugs.append(f"{type(fact.bug).__name__}: {fact.bug}")

    def view(self) -> View:
        """Return what can be seen of it."""
        reply, bugs = None, list(self._bugs)
        if self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            if error is None:
                reply = getattr(self._task.result(), "der", None)
            elif not isinstance(error, StoreUnavailable):  # the agenda is worked through again
                bugs.append(f"{type(error).__name__}: {error}")
        calls = tuple(call for call, future in self._waiting.values() if not future.done())
        return View(calls, self._loop.next_timer, reply, tuple(bugs))


class Processes:
    """Knows processes by numbers, and tells what each becomes by what it is told; remembers all of it."""

    def __init__(self, make_services: MakeServices) -> None:
        self.views: list[View] = []
        self.runs = 0
        self._make_services = make_services
        self._histories: list[tuple[Start, tuple[Told, ...]]] = []
        self._after: dict[tuple[int, Told], int] = {}
        self._begun: dict[Start, int] = {}
        self._running: dict[int, Process] = {}

    def begin(self, start: Start) -> int:
        """Return the number of a process that has just begun."""
        if start not in self._begun:
            self._begun[start] = self._keep(start, (), self._run(start))
        return self._begun[start]

    def tell(self, number: int, told: Told) -> int:
        """Return the number of what a process becomes by being told something."""
        known = self._after.get((number, told))
        if known is None:
            start, history = self._histories[number]
            process = self._running.pop(number, None)
            if process is None:
                process = self._run(start)
                for earlier in history:
                    process.tell(earlier)
            process.tell(told)
            known = self._after[number, told] = self._keep(start, (*history, told), process)
        return known

    def _run(self, start: Start) -> Process:
        self.runs += 1
        return Process(start, self._make_services)

    def _keep(self, start: Start, history: tuple[Told, ...], process: Process) -> int:
        number, view = len(self.views), process.view()
        self.views.append(view)
        self._histories.append((start, history))
        if view.works:
            self._running[number] = process
        return number
