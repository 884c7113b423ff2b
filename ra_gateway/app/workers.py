"""The parent of several processes that serve on one port: begins, watches, reloads and ends them as one.

It answers no CMP message. It has the sockets, one for each worker, which all of them inherit: so the death of one
resets no connection that waits to be accepted, and another one takes it. It has the management listener, which tells of
all; and it tells the service manager.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from ra_gateway import __version__
from ra_gateway.app.audit import audit_trail
from ra_gateway.app.channel import Asking, Channel, Message, WorkerGone
from ra_gateway.app.configuration_changes import config_digest, require_no_restart
from ra_gateway.app.listener_tls import ListenerTLS
from ra_gateway.app.listener_tls import load as load_tls
from ra_gateway.app.management import Management
from ra_gateway.app.readings import of_tls
from ra_gateway.app.reloading import Reloads
from ra_gateway.app.running import CannotListen, bound, event_sink, log_start, require_apart
from ra_gateway.config.service_tables import ListenerTLSConfig
from ra_gateway.config.source import Source
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.events import Component
from ra_gateway.metrics.families import WORKERS, WORKERS_ENDED, Reading
from ra_gateway.metrics.workers import Snapshot, WorkersMetrics
from ra_gateway.tasks import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, ended, supervised

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.workers")

LOOK_SECONDS: Final = 1.0
"""Between two looks at a worker."""

HUNG_SECONDS: Final = 15.0
_MISSES: Final = 2
"""A worker that answers nothing twice for so long is killed, as systemd does it with a service (WatchdogSec of the
units); not at once, as whoever stopped all processes for a while stopped it, too.
"""

_ANSWER_SECONDS: Final = 3.0
"""How long a scrape waits for workers; those that are late tell nothing this time."""

_START_SECONDS: Final = 120.0
"""CRLs are fetched and keys in an HSM are tried out before a worker serves, or goes over to a configuration."""

_CLOSING_SECONDS: Final = 5.0
"""Beyond a drain, for what is closed behind it."""

_NOT_FOR_WORKERS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


_PYTHON: Final = str(Path(sys.executable).parent.resolve() / Path(sys.executable).name)
"""Of this release, also when the link that led to its directory leads to another one later."""


Sockets = dict[str, list[list[socket.socket]]]
"""Of each worker, by the dotted path of each listener's table."""


class _Worker:
    """One of them, as the parent sees it.

    Args:
        number: From 1 on.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.serves = False
        self.parts: Mapping[str, str] = {}
        self.metrics: Snapshot = []
        self.began_at = self.answered_at = 0.0
        self._asking: Asking | None = None
        self._over: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return 0 if self.process is None else self.process.pid

    async def begin(self, source: Source, sockets: Sockets) -> tuple[str, int]:
        """Begin the process; returns host and port when it serves.

        Raises:
            ConfigError, CannotListen: It could not.
        """
        self.began_at = time.monotonic()
        self.serves, self.parts, self.metrics = False, {}, []
        numbers = {
            setting: [[item.fileno() for item in of_one] for of_one in of_each]
            for setting, of_each in sockets.items()
        }
        inherited = [n for of_each in numbers.values() for of_one in of_each for n in of_one]
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    self.process = _begun(theirs.fileno(), inherited)
                except OSError:
                    ours.close()
                    raise
        except OSError as error:
            raise self._cannot(f"no process can be begun: {error.strerror}") from error
        self._asking = Asking(await Channel.over(ours))
        self._over = asyncio.create_task(self._asking.run())
        try:
            found = await self.told(
                "start",
                _START_SECONDS,
                version=__version__,
                source=source.plain(),
                sockets=numbers,
                worker=self.number,
            )
            self.parts = (await self.ask("look", HUNG_SECONDS))["parts"]
        except WorkerGone as error:
            raise self._cannot(str(error)) from error
        self.answered_at = time.monotonic()
        self.serves = True
        return found["host"], found["port"]

    async def ask(self, what: str, seconds: float, **more: object) -> Message:
        """Ask it, and return its answer.

        Raises:
            WorkerGone: It has ended, or has not answered in time.
        """
        if self._asking is None:
            raise WorkerGone("it has not begun")
        return await self._asking.ask(what, seconds, **more)

    async def told(self, what: str, seconds: float, **more: object) -> Message:
        """Do as `ask`; what the worker raised in place of an answer is raised here.

        Raises:
            ConfigError, CannotListen: That.
        """
        found = await self.ask(what, seconds, **more)
        if "refused" in found:
            raise ConfigError([Problem(**item) for item in found["refused"]])
        if found.get("cannot_listen"):
            raise CannotListen(found["failed"])
        if "failed" in found:
            raise self._cannot(found["failed"])
        return found

    def _cannot(self, why: str) -> ConfigError:
        return ConfigError.of(
            f"worker {self.number}", f"does not do as it is told: {why}", "Look into the log"
        )

    async def over(self) -> None:
        """Wait until it has gone."""
        if self._over is not None:
            await asyncio.wait((self._over,))

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def tell(self) -> None:
        """Write a line that it serves."""
        log.info("worker.started", worker=self.number, pid=self.pid)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None and self.runs:
            self.process.kill()

    async def reap(self) -> int | None:
        """Wait for the end of a process that has gone; returns its exit code, negative for a signal."""
        self.serves = False
        if self.process is None:
            return None
        try:
            code = await asyncio.to_thread(self.process.wait, _CLOSING_SECONDS)
        except subprocess.TimeoutExpired:  # it closed its socket, and goes on
            self.kill()
            code = await asyncio.to_thread(self.process.wait)
        await self.over()
        self.process, self._asking = None, None
        return code


def _begun(number: int, inherited: list[int]) -> subprocess.Popen[bytes]:
    """Begin the process of a worker.

    Args:
        number: File descriptor of its end of the channel.
        inherited: Those of all listeners' sockets.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_FOR_WORKERS}
    # What is sent to all processes while it begins is the parent's business; `worker.main` goes on with that.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        return subprocess.Popen(  # noqa: S603
            [_PYTHON, "-P", "-c", f"from ra_gateway.app.worker import main; main({number})"],
            stdin=subprocess.DEVNULL,
            pass_fds=[number, *inherited],
            env=environment,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Workers:
    """A gateway of several processes (`ra_gateway.app.running.Service`).

    Args:
        source: Of the configuration; read again for each reload.
        read: Returns the configuration of a source; raises ConfigError.

    Raises:
        ConfigError: It cannot be used.
    """

    def __init__(self, source: Source, read: Callable[[Source], GatewayConfig]) -> None:
        self._read, self._source = read, source
        self._kept = source.kept()
        self.config = config = read(self._kept)
        self._ca = config.ca if config.has_bundled_upstream else None
        status = None if self._ca is None else self._ca.status
        require_apart("server", config.server, config.management, status)
        self._metrics = WorkersMetrics(self._ask_metrics)
        self._metrics.begin(Component.gateway)
        self._metrics.add(WORKERS_ENDED, (), 0)
        # Of what it tells itself; each worker has one for what it does.
        self._audit = audit_trail(config.audit)
        self._sink = event_sink(self._metrics, audit=self._audit)
        self._tls = ListenerTLS(self._tables(config))
        self._state = "starting"
        self._sockets: Sockets = {}
        self._workers = [_Worker(number + 1) for number in range(config.server.workers)]
        self._background: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()
        """Held while a worker begins, and while all go over: so none begins with what others leave."""
        self.management = Management(
            config.management,
            config.server.listen_port,
            self._metrics,
            self._parts,
            tls=self._tls.context_of("management.tls"),
            sink=self._sink,
        )
        self.management.configuration = config_digest(config)
        self._reloads = Reloads(Component.gateway, self.management, self._sink, has_log=True)
        self._metrics.reads(self._readings)

    @staticmethod
    def _tables(config: GatewayConfig) -> dict[str, ListenerTLSConfig | None]:
        return {"management.tls": config.management.tls}

    # --- what it tells --------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, str]:
        """Return the parts of all workers that serve; one that is missing leaves the others ready."""
        serving = [worker for worker in self._workers if worker.serves]
        parts = {"process": self._state}
        parts["workers"] = "" if serving else f"none of {len(self._workers)} serves"
        problems: dict[str, dict[str, None]] = {}
        for worker in serving:
            for part, problem in worker.parts.items():
                problems.setdefault(part, {})[problem] = None
        for part, found in problems.items():
            told = "; ".join(filter(None, found))
            parts[part] = "; ".join(filter(None, (parts.get(part, ""), told)))
        return parts

    def _readings(self) -> Iterator[Reading]:
        yield Reading(WORKERS, ("wanted",), len(self._workers))
        yield Reading(WORKERS, ("serving",), sum(worker.serves for worker in self._workers))
        yield from of_tls(self._tls)

    async def _ask_metrics(self) -> list[Snapshot]:
        async def one(worker: _Worker) -> None:
            with suppress(WorkerGone):
                worker.metrics = (await worker.ask("metrics", _ANSWER_SECONDS))["metrics"]

        serving = [worker for worker in self._workers if worker.serves]
        await asyncio.gather(*map(one, serving))
        return [worker.metrics for worker in serving if worker.serves]

    def is_alive(self) -> bool:
        """Tell whether no worker hangs: one that does is killed; where that does not help, a watchdog is for it."""
        oldest = time.monotonic() - 2 * _MISSES * HUNG_SECONDS
        return all(worker.answered_at > oldest for worker in self._workers if worker.serves)

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Bind, begin all workers, and return host and port when each of them serves.

        Raises:
            ConfigError, CannotListen: They cannot.
        """
        if self._audit is not None:
            await self._audit.open()
        await self.management.start()
        server = self.config.server
        self._sockets["server"] = await bound(
            server.listen_host, server.listen_port, "server", len(self._workers)
        )
        if self._ca is not None and self._ca.status is not None:
            status = self._ca.status
            self._sockets["ca.status"] = await bound(
                status.listen_host, status.listen_port, "ca.status", len(self._workers)
            )
        first, *others = self._workers
        # The first by itself: what keeps it from serving is told once, and what it has fetched may serve the others.
        where = await first.begin(self._kept, self._sockets)
        beginning = (worker.begin(self._kept, self._sockets) for worker in others)
        for came in await asyncio.gather(*beginning, return_exceptions=True):
            if isinstance(came, BaseException):
                raise came
        watched: list[tuple[str, Callable[[], Awaitable[object]]]] = [("tls", self._tls.watch)]
        for worker in self._workers:
            watched.append((f"worker {worker.number}", partial(self._keep, worker)))
            watched.append((f"worker {worker.number}.watch", partial(self._watch, worker)))
        self._background = [asyncio.create_task(supervised(*item)) for item in watched]
        self._state = ""
        unready = {part: what for part, what in self._parts().items() if what}
        paths = {name: endpoint.url_paths for name, endpoint in self.config.endpoints.items()}
        log_start(
            self.config, where, self.management.url, paths, unready=unready, workers=len(self._workers)
        )  # fmt: skip
        for worker in self._workers:
            worker.tell()
        return where

    async def _keep(self, worker: _Worker) -> None:
        """Begin a worker anew whenever it has ended, after a pause that grows where that comes to nothing."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            await worker.over()
            lived_seconds = time.monotonic() - worker.began_at
            worker.serves = False
            self._metrics.forget(
                worker.metrics
            )  # before a scrape can find it neither here nor there
            worker.metrics = []
            pid, code = worker.pid, await worker.reap()
            if lived_seconds > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._metrics.add(WORKERS_ENDED)
            log.error(
                "worker.ended",
                worker=worker.number,
                pid=pid,
                exit_code=code,
                again_in_seconds=pause,
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            async with self._changing:
                try:
                    await worker.begin(self._kept, self._sockets)
                    worker.tell()
                except (ConfigError, CannotListen) as error:
                    log.error("worker.cannot_start", worker=worker.number, detail=str(error))
                    worker.kill()

    async def _watch(self, worker: _Worker) -> None:
        """Look at a worker all the time, and end it where it hangs."""
        misses = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not worker.serves:
                misses = 0
                continue
            try:
                worker.parts = (await worker.ask("look", HUNG_SECONDS))["parts"]
                worker.answered_at = time.monotonic()
                misses = 0
            except WorkerGone as error:
                misses += 1
                if misses == _MISSES and worker.runs:
                    log.error(
                        "worker.hangs", worker=worker.number, pid=worker.pid, detail=str(error)
                    )
                    worker.kill()

    async def reload(self) -> None:
        """Have all workers go over to the configuration as it is now, or none.

        Raises:
            ConfigError: It cannot be used, or one worker cannot; nothing has changed.
        """
        try:
            await self._reloads.one(self._go_over)
        except Exception:
            await self._all("leave")
            raise

    async def _go_over(self) -> tuple[GatewayConfig, GatewayConfig]:
        before = self.config
        kept = await asyncio.to_thread(self._source.kept)
        config = await asyncio.to_thread(self._read, kept)
        require_no_restart(self.config, config)
        self._reloads.open_log(config.log)
        tls = await asyncio.to_thread(load_tls, self._tables(config))
        async with self._changing:
            # One after the other: the first that refuses spares the others, and no CRL is fetched by all at once.
            for worker in [item for item in self._workers if item.serves]:
                try:
                    await worker.told("prepare", _START_SECONDS, source=kept.plain())
                except WorkerGone as error:
                    raise ConfigError.of(
                        f"worker {worker.number}", str(error), "Look into the log, and reload again"
                    ) from error
            self.config, self._kept = config, kept
            self._tls.take_up(tls)
            await self._all("take_up")
        return before, config

    async def _all(self, what: str) -> None:
        """Have all that serve do something that cannot be refused; whoever does not begins anew."""

        async def one(worker: _Worker) -> None:
            try:
                await worker.told(what, HUNG_SECONDS)
            except (WorkerGone, ConfigError, CannotListen) as error:
                log.error("worker.failed", worker=worker.number, what=what, detail=str(error))
                worker.kill()

        await asyncio.gather(*(one(worker) for worker in self._workers if worker.serves))

    async def stop(self) -> None:
        """Be unready for a while, have all workers answer what was accepted, then close everything.

        Workers that take longer than they have are killed; so are all at a second signal.
        """
        was_serving, self._state = not self._state, "draining"
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._kill)
        await self._reloads.end()
        background, self._background = self._background, []
        await ended(*background)
        for sockets in (of_one for of_each in self._sockets.values() for of_one in of_each):
            for item in sockets:
                item.close()  # the workers have them, too, and close them when they take no more
        server = self.config.server
        seconds = server.lame_duck_seconds + server.drain_seconds + _CLOSING_SECONDS
        async with AsyncExitStack() as stack:
            if self._audit is not None:
                stack.push_async_callback(self._audit.close)
            stack.push_async_callback(self.management.stop)
            if not was_serving:
                self._kill()
            await asyncio.gather(*(self._end(worker, seconds) for worker in self._workers))

    async def _end(self, worker: _Worker, seconds: float) -> None:
        if worker.process is None:
            return
        if worker.serves:
            with suppress(WorkerGone):
                await worker.ask("stop", seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await worker.over()
        worker.kill()
        await worker.reap()

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()
