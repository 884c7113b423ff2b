"""A whole simulation: in this process, or shared out among several that begin at the same moment."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import uvloop

from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.device.fleet.driving import Driver, Stop
from ra_gateway.device.fleet.figures import Figures
from ra_gateway.device.fleet.plan import Plan
from ra_gateway.device.fleet.sources import Origin
from ra_gateway.device.values import operator_trust
from ra_gateway.errors import GatewayError
from ra_gateway.keys import load_certificates

REPORT_SECONDS: Final = 0.5
_START_SECONDS: Final = 0.2
"""Between telling processes when to begin and that moment."""


class ProcessEnded(GatewayError):
    """A process of the simulation ended before its time, or could not begin."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a process needs besides the plan; each opens the files for itself.

    Args:
        trusted: Operator's roots, PEM; None takes them from the ip.
        tls: Returns what https needs; of a module, so that it goes to other processes.
    """

    origin: Origin
    trusted: Path | None
    tls: Callable[[], ssl.SSLContext | None]

    def trust(self) -> TrustDomain | None:
        """Return the trust in the operator's roots.

        Raises:
            ConfigError: They cannot be read.
        """
        if self.trusted is None:
            return None
        return operator_trust(*load_certificates(self.trusted, "--trusted"))

    def driver(self, plan: Plan, process: int, stop: Stop) -> Driver:
        """Return what drives the base stations of one process.

        Raises:
            ConfigError: A file cannot be used.
        """
        return Driver(
            plan,
            self.origin.open(),
            process=process,
            stop=stop,
            trust=self.trust(),
            tls=self.tls(),
        )


async def simulate(
    plan: Plan, material: Material, stop: Stop, report: Callable[[Figures], None]
) -> Figures:
    """Run a simulation to its end.

    Args:
        report: Called about twice a second with what has been counted so far.

    Raises:
        ConfigError: A file cannot be used.
        ProcessEnded: One of several processes was lost.
    """
    if plan.processes > 1:
        return await _Several(plan, material, stop, report).run()
    driver = material.driver(plan, 0, stop)
    reporting = asyncio.create_task(_every(lambda: report(driver.figures)))
    try:
        return await driver.run(time.monotonic)
    finally:
        reporting.cancel()


async def _every(call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        call()


# --- several processes ------------------------------------------------------------------------------------------


class _Several:
    """Starts processes, tells them to begin and to end, and adds up what they have counted."""

    def __init__(
        self, plan: Plan, material: Material, stop: Stop, report: Callable[[Figures], None]
    ) -> None:
        self._plan, self._material, self._stop, self._report = plan, material, stop, report
        self._counted: dict[int, Figures] = {}

    async def run(self) -> Figures:
        context = multiprocessing.get_context("spawn")
        processes: list[Any] = []
        pipes: list[Connection] = []
        try:
            for number in range(self._plan.processes):
                ours, theirs = context.Pipe()
                pipes.append(ours)
                process = context.Process(
                    target=_work, args=(self._plan, self._material, number, theirs), daemon=True
                )
                process.start()
                processes.append(process)
                theirs.close()
            await _all([_received(pipe) for pipe in pipes])  # they are prepared
            began = time.monotonic() + _START_SECONDS
            for pipe in pipes:
                pipe.send(began)
            telling = asyncio.create_task(self._tell_the_end(pipes))
            try:
                await _all([self._listen(*item) for item in enumerate(pipes)])
            finally:
                telling.cancel()
        finally:
            for pipe in pipes:
                pipe.close()  # whoever still works ends for it
            for process in processes:
                await asyncio.to_thread(process.join, 5)
                if process.is_alive():
                    process.kill()
        return self._sum()

    async def _listen(self, number: int, pipe: Connection) -> None:
        while True:
            figures, last = await _received(pipe)
            self._counted[number] = figures
            if last:
                return
            if number == 0:
                self._report(self._sum())

    def _sum(self) -> Figures:
        return Figures.of(self._counted.values())

    async def _tell_the_end(self, pipes: list[Connection]) -> None:
        for event in (self._stop.soon, self._stop.now):
            await event.wait()
            for pipe in pipes:
                try:
                    pipe.send(None)
                except OSError:
                    continue  # it has ended already


async def _all(waiting: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """Wait for all, or until one fails; no other one goes on then, as its pipe is closed."""
    tasks = [asyncio.create_task(one) for one in waiting]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _received(pipe: Connection) -> Any:
    """Return what a process sends next.

    Raises:
        ProcessEnded: It has gone.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(pipe.fileno(), ready.set)
    try:
        await ready.wait()
        received = pipe.recv()
    except (EOFError, OSError) as error:
        raise ProcessEnded("a process of the simulation ended before its time") from error
    finally:
        loop.remove_reader(pipe.fileno())
    if isinstance(received, str):
        raise ProcessEnded(received)
    return received


def _work(plan: Plan, material: Material, number: int, pipe: Connection) -> None:
    """Be one process: whatever the terminal sends, the first one tells when to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        suppress(EOFError, BrokenPipeError),  # nobody is left to tell
    ):
        try:
            runner.run(_drive(plan, material, number, pipe))
        except GatewayError as error:
            pipe.send(str(error))


async def _drive(plan: Plan, material: Material, number: int, pipe: Connection) -> None:
    loop, stop = asyncio.get_running_loop(), Stop()
    driver = material.driver(plan, number, stop)

    reporting: list[asyncio.Task[None]] = []

    def begin() -> float:
        pipe.send(None)
        began: float = pipe.recv()
        loop.add_reader(pipe.fileno(), told)
        reporting.append(loop.create_task(_every(lambda: pipe.send((driver.figures, False)))))
        return began

    def told() -> None:
        try:
            pipe.recv()
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            stop()  # nobody is left to tell
        stop()

    figures = await driver.run(begin)
    for task in reporting:
        task.cancel()
    pipe.send((figures, True))
