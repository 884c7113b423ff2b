"""One of several processes that serve on one port: it does what its parent (`ra_gateway.app.workers`) asks for."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

import structlog
import uvloop

from ra_gateway import __version__, logs
from ra_gateway.app.application import Application
from ra_gateway.app.channel import Channel, Message, answer
from ra_gateway.app.process import Among
from ra_gateway.app.running import CannotListen, settle
from ra_gateway.config.reading import load
from ra_gateway.config.source import Source
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, GatewayError
from ra_gateway.events import ConfigurationReloaded, Fact, ReloadRefused
from ra_gateway.metrics.workers import snapshot
from ra_gateway.server.shared_sockets import SharedSockets

_OTHERS: Final = ConfigError.of(
    "workers", "do not all go over", "The log of the parent has more of it"
)


class Worker:
    """A gateway that begins, reloads and ends when its parent says so."""

    def __init__(self) -> None:
        self._application: Application | None = None
        self._config: GatewayConfig | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._verdict: asyncio.Future[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    async def reply(self, question: Message) -> Message:
        """Do what the parent asks for, and return what came of it."""
        what: Callable[[Message], Any] = getattr(self, f"_{question['what']}")
        try:
            found: Message = await what(question) or {}
        except ConfigError as error:
            return {"refused": [asdict(item) for item in error.problems]}
        except GatewayError as error:
            return {"failed": str(error), "cannot_listen": isinstance(error, CannotListen)}
        except Exception as error:
            structlog.get_logger().exception("worker.failed", what=question["what"])
            return {"failed": f"a bug, {type(error).__name__}: the log has more of it"}
        return found

    async def _start(self, question: Message) -> Message:
        """Serve by a configuration, on sockets that were inherited."""
        if question["version"] != __version__:
            raise ConfigError.of(
                "process",
                f"runs version {question['version']}, and {__version__} is what is installed now",
                "Restart it",
            )
        config = load(Source.of_plain(question["source"]))
        logs.configure(config.log.format, config.log.level, config.log.path)
        sockets = {}
        for setting, of_each in question["sockets"].items():
            found = [[socket.socket(fileno=number) for number in numbers] for numbers in of_each]
            own = found.pop(question["worker"] - 1)
            sockets[setting] = SharedSockets(own, [item for items in found for item in items])
        log = logs.LogSink()

        def tell(fact: Fact) -> None:
            if not isinstance(fact, ConfigurationReloaded | ReloadRefused):  # the parent tells
                log(fact)

        self._application = Application(
            config,
            sink=tell,
            read=self._next,
            has_log=True,
            among=Among(sockets, self._agree),
        )
        host, port = await self._application.start()
        settle()
        return {"host": host, "port": port}

    async def _look(self, _: Message) -> Message:
        assert self._application is not None
        return {"parts": self._application.management.readiness()}

    async def _metrics(self, _: Message) -> Message:
        assert self._application is not None
        metrics = self._application.metrics
        await metrics.refresh()
        return {"metrics": snapshot(metrics.registry)}

    # --- reloading ------------------------------------------------------------------------------------------------

    async def _prepare(self, question: Message) -> None:
        """Get ready to go over to another configuration; what keeps this worker from it is raised."""
        assert self._application is not None
        self._config = load(Source.of_plain(question["source"]))
        loop = asyncio.get_running_loop()
        self._ready, self._verdict = loop.create_future(), loop.create_future()
        reloading = self._reloading = asyncio.create_task(self._application.reload())
        await asyncio.wait((reloading, self._ready), return_when=asyncio.FIRST_COMPLETED)
        if self._reloading is not reloading:  # it was left meanwhile, or ends
            raise _OTHERS
        if reloading.done():
            self._reloading = None
            await reloading

    def _next(self) -> GatewayConfig:
        assert self._config is not None
        return self._config

    async def _agree(self) -> None:
        """Wait for the parent's word, between what can be undone and the switch."""
        assert self._ready is not None
        assert self._verdict is not None
        self._ready.set_result(None)
        await self._verdict

    async def _take_up(self, _: Message) -> None:
        if self._reloading is not None and self._verdict is not None:
            self._verdict.set_result(None)
            reloading, self._reloading = self._reloading, None
            await reloading

    async def _leave(self, _: Message) -> None:
        """Go on as before, in the log file that is under its path now."""
        if self._reloading is None or self._verdict is None:
            with suppress(ConfigError):  # then the one that was moved is written on
                logs.reopen()
            return
        reloading, self._reloading = self._reloading, None
        if self._ready is not None and self._ready.done():
            self._verdict.set_exception(_OTHERS)
        else:  # the parent has not waited for it
            reloading.cancel()
        with suppress(ConfigError, asyncio.CancelledError):
            await reloading

    # --- the end --------------------------------------------------------------------------------------------------

    async def _stop(self, _: Message) -> None:
        await self.stop()

    async def stop(self, *, lame_duck: bool = True) -> None:
        """Answer what was accepted, then close everything; again waits for the same.

        Args:
            lame_duck: Whether to go on for a while, as where a balancer has to see it.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._close(lame_duck))
        await self._stopping
        self.ended.set()

    async def _close(self, lame_duck: bool) -> None:
        await self._leave({})
        if self._application is not None:
            await self._application.stop(lame_duck=lame_duck)


async def work(end: socket.socket) -> None:
    """Work for the parent at the other end of a socket, which is closed, until it says so or is gone."""
    channel = await Channel.over(end)
    worker = Worker()
    answering = asyncio.create_task(answer(channel, worker.reply))
    ended = asyncio.create_task(worker.ended.wait())
    await asyncio.wait((answering, ended), return_when=asyncio.FIRST_COMPLETED)
    if not worker.ended.is_set():  # the parent has died, and the next one wants the port
        await worker.stop(lame_duck=False)
    channel.close()
    answering.cancel()


def main(number: int) -> None:
    """Begin a worker (`Workers` has the command).

    Args:
        number: File descriptor of the socket to its parent.
    """
    # The parent decides: what its terminal or its service manager sends goes to all processes.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(socket.socket(fileno=number)))
