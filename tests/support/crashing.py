"""CA processes that kill themselves (SIGKILL) at a point of their work that the test names.

A *nursery* is a process that has everything imported and nothing opened. For each job it forks a child: that opens
a bundled CA on a real ledger, handles what it is given, and writes each answer to a pipe, as a server would to its
socket. Such a child knows nothing of the ones before, as a process started anew, and is there in milliseconds.

    with Nursery(operator, directory) as nursery:
        killed = nursery.run(Job(where, (request,), kill_at="step.sign.after"))
        answers = nursery.run(Job(where, (request,))).answers

What the points are called is in `tests/integration/test_ca_crash.py`.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy import Engine, event

from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.ledger import ledger as ledger_module
from ra_gateway.ca.ledger import revoking as revoking_module
from ra_gateway.ca.ledger.database import _PostgresTransaction, _SQLiteThread
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation, open_ledger
from tests.support import linting
from tests.support.desk import NOW, Clock, Desk, open_desk
from tests.support.pki import Authority, Credential, OperatorPKI

CHILD_SECONDS: Final = 300
"""A child that takes longer hangs, and is ended."""

STEPS: Final = ("check", "number", "reserve", "build", "inspect", "sign", "answer", "store")
"""Of `Issuer.issue`."""

LEDGER_CALLS: Final = ("reserve", "store", "confirm", "revoke", "sweep")
WORKS: Final = {
    "reserve": (ledger_module, "reserve_many"),
    "store": (ledger_module, "store_many"),
    "confirm": (ledger_module, "confirm_many"),
    "revoke": (ledger_module, "revoke_many"),
    "reject": (revoking_module, "reject_lapsed"),
    "forget": (revoking_module, "forget_expired"),
}
"""Functions that run inside the database's transactions."""

_FRAME: Final = struct.Struct(">II")


@dataclass(frozen=True)
class Job:
    """What a child has to do.

    Args:
        where: The ledger.
        messages: DER, handled one after the other.
        together: Handle them all at once.
        kill_at: The point, "" to live; `nth` counts from 1 how often it was reached.
        kill_after: Seconds from the point to the kill, while the work goes on; None kills at it.
        now: What its clock shows.
        sweeps: Wait until the CA has swept, before the messages.
    """

    where: LedgerLocation
    messages: tuple[bytes, ...] = ()
    together: bool = False
    kill_at: str = ""
    nth: int = 1
    kill_after: float | None = None
    now: datetime = NOW
    sweeps: bool = False
    revoke_superseded: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a child left behind.

    Args:
        killed: Whether SIGKILL ended it; otherwise it finished.
        written: For each message the octets of the answer that came out, perhaps not all.
    """

    killed: bool
    written: tuple[bytes, ...]
    complete: tuple[bool, ...]

    @property
    def answers(self) -> tuple[bytes, ...]:
        """All answers of a child that finished."""
        assert not self.killed
        assert all(self.complete)
        return self.written


# --- in the test's process ------------------------------------------------------------------------------------


class Nursery:
    """The process that children come from; a context manager.

    Args:
        operator: The CA's keys and certificates.
        directory: For its files.
    """

    def __init__(self, operator: OperatorPKI, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "nursery.log"
        operator.write(directory)
        operator.root.write(directory, "root")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.crashing",
                    str(self._directory),
                    str(linting.delivery() or ""),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.communicate(timeout=CHILD_SECONDS)

    def run(self, job: Job) -> Outcome:
        """Have a child do a job, and return when it has ended.

        Raises:
            AssertionError: It failed; the text has its log.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()
            status, octets = pickle.load(self._process.stdout)  # noqa: S301 - our own child
        except (OSError, EOFError) as error:
            raise AssertionError(f"the nursery is gone:\n{self._log.read_text()}") from error
        assert status in (0, -signal.SIGKILL), f"{status}:\n{self._log.read_text()[-5000:]}"
        return _outcome(len(job.messages), octets, killed=status != 0)


def _outcome(count: int, octets: bytes, *, killed: bool) -> Outcome:
    written, complete = [b""] * count, [False] * count
    while len(octets) >= _FRAME.size:
        index, size = _FRAME.unpack_from(octets)
        written[index] = octets[_FRAME.size : _FRAME.size + size]
        complete[index] = len(written[index]) == size
        octets = octets[_FRAME.size + size :]
    return Outcome(killed, tuple(written), tuple(complete))


# --- in the child ---------------------------------------------------------------------------------------------


class _Killer:
    """Ends this process where its job says."""

    def __init__(self, job: Job) -> None:
        self.armed = False
        self._job = job
        self._seen: Counter[str] = Counter()
        self._running = ""  # the function that runs inside the transaction
        self._ran: list[str] = []  # those of the transaction that is open

    def reached(self, point: str) -> None:
        """Note a point, and die if it is the one."""
        if not self.armed:
            return
        self._seen[point] += 1
        if point == self._job.kill_at and self._seen[point] == self._job.nth:
            if self._job.kill_after is None:
                _die(0)
            else:
                threading.Thread(target=_die, args=(self._job.kill_after,), daemon=True).start()

    def await_death(self) -> None:
        """Return unless the kill is on its way."""
        if self._job.kill_after is not None and self._seen[self._job.kill_at] >= self._job.nth:
            time.sleep(CHILD_SECONDS)

    def lay(self) -> None:
        """Put the points into the code."""
        for step in STEPS:
            self._around(Issuer, step, f"step.{step}")
        for call in LEDGER_CALLS:
            self._around(Ledger, call, f"ledger.{call}")
        for work, (module, name) in WORKS.items():
            setattr(module, name, self._inside(work, getattr(module, name)))
        event.listen(Engine, "after_cursor_execute", self._executed)
        event.listen(Engine, "commit", self._committing)
        # Both return when a transaction is committed, and nobody was told.
        self._around(_SQLiteThread, "_commit", "", self._committed)
        self._around(_PostgresTransaction, "run", "", self._committed)

    def _around(
        self, owner: type, name: str, point: str, then: Callable[[], None] | None = None
    ) -> None:
        wrapped: Callable[..., Any] = getattr(owner, name)
        then = then or functools.partial(self.reached, f"{point}.after")

        @functools.wraps(wrapped)
        def plain(*arguments: Any, **options: Any) -> Any:
            self.reached(f"{point}.before")
            result = wrapped(*arguments, **options)
            then()
            return result

        @functools.wraps(wrapped)
        async def awaited(*arguments: Any, **options: Any) -> Any:
            self.reached(f"{point}.before")
            result = await wrapped(*arguments, **options)
            then()
            return result

        setattr(owner, name, awaited if asyncio.iscoroutinefunction(wrapped) else plain)

    def _inside(self, work: str, wrapped: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(wrapped)
        def run(*arguments: Any) -> Any:
            self.reached(f"{work}.begun")
            self._running = work
            result = wrapped(*arguments)
            self._running = ""
            self._ran.append(work)
            return result

        return run

    def _executed(self, *_: Any) -> None:
        if self._running:
            self.reached(f"{self._running}.statement")

    def _committing(self, _: Any) -> None:
        for work in self._ran:
            self.reached(f"{work}.committing")

    def _committed(self) -> None:
        ran, self._ran = self._ran, []
        for work in ran:
            self.reached(f"{work}.committed")


def _die(after_seconds: float) -> None:
    time.sleep(after_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


async def _work(job: Job, operator: OperatorPKI, output: BinaryIO) -> None:
    killer = _Killer(job)
    killer.lay()
    killer.armed = job.sweeps  # the CA sweeps as soon as it has started
    swept = _signal_after(Ledger, "sweep")
    desk_of = open_desk(
        operator,
        Path(),
        clock=Clock(job.now),
        ledger=open_ledger(job.where),
        policy=IssuancePolicy(revoke_superseded=job.revoke_superseded),
    )
    async with desk_of as desk:
        await swept.wait()
        killer.armed = True
        handling = [
            _handle(index, der, desk, killer, output) for index, der in enumerate(job.messages)
        ]
        if job.together:
            await asyncio.gather(*handling)
        else:
            for one in handling:
                await one
        killer.await_death()


def _signal_after(owner: type, name: str) -> asyncio.Event:
    done, wrapped = asyncio.Event(), getattr(owner, name)

    async def call(*arguments: Any) -> Any:
        try:
            return await wrapped(*arguments)
        finally:
            done.set()

    setattr(owner, name, call)
    return done


async def _handle(index: int, der: bytes, desk: Desk, killer: _Killer, output: BinaryIO) -> None:
    killer.reached("request")
    reply = await desk.ca.handle(der)
    killer.reached("answer.none")
    half = len(reply.der) // 2
    output.write(_FRAME.pack(index, len(reply.der)) + reply.der[:half])
    killer.reached("answer.half")
    output.write(reply.der[half:])
    killer.reached("answer.whole")


# --- in the nursery -------------------------------------------------------------------------------------------


def _load_operator(directory: Path) -> OperatorPKI:
    def load(name: str, *chain: Authority) -> tuple[Any, Any, tuple[x509.Certificate, ...]]:
        return (
            x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes()),
            serialization.load_pem_private_key((directory / f"{name}.key").read_bytes(), None),
            tuple(item.certificate for item in chain),
        )

    root = Authority(*load("root"))
    issuing = Authority(*load("issuing", root))
    ra, cmp_signer = (Credential(*load(name, issuing, root)) for name in ("ra", "cmp-signer"))
    return OperatorPKI("operator", root, issuing, ra, cmp_signer)


def _bear(job: Job, operator: OperatorPKI) -> tuple[int, bytes]:
    """Return how a child ended (as `Popen.returncode`), and what it wrote."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            signal.alarm(CHILD_SECONDS)
            with open(writing, "wb", buffering=0) as output:
                asyncio.run(_work(job, operator, output))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as written:
        octets = written.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), octets


async def _warm_up(operator: OperatorPKI, directory: Path) -> None:
    """Issue, renew and revoke once, on a ledger that nobody looks at: what that imports and prepares, children have."""
    async with open_desk(operator, directory / "warm.db") as desk:
        first = await desk.enrol()
        await desk.confirm(first)
        await desk.ca.handle(await desk.revocation(first.certificate))


def _serve(operator: OperatorPKI, jobs: BinaryIO, outcomes: BinaryIO) -> None:
    while True:
        try:
            job = pickle.load(jobs)  # noqa: S301 - our own parent
        except EOFError:
            return
        pickle.dump(_bear(job, operator), outcomes)
        outcomes.flush()


def main(directory: Path, delivery: str) -> None:
    """Do jobs from standard input until its end."""
    linting.watch()
    linting.deliver(Path(delivery) if delivery else None)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    jobs, outcomes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    operator = _load_operator(directory)
    asyncio.run(_warm_up(operator, directory))
    assert threading.active_count() == 1  # a child would lack the others
    gc.collect()
    gc.freeze()  # children look through what they make alone
    _serve(operator, jobs, outcomes)


if __name__ == "__main__":
    # By its name, so that jobs are unpickled as what they were pickled.
    from tests.support import crashing

    crashing.main(Path(sys.argv[1]), sys.argv[2])
