"""One process that answers CMP, gateway or CA: how it starts, goes over to another configuration, and ends."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from ra_gateway import __version__
from ra_gateway.app.audit import Recorded, audit_trail
from ra_gateway.app.configuration_changes import config_digest, require_no_restart
from ra_gateway.app.health import LoopWatch
from ra_gateway.app.listener_tls import ListenerTLS, cmp_server, tls_tables
from ra_gateway.app.listener_tls import load as load_tls
from ra_gateway.app.management import Management
from ra_gateway.app.readings import of_audit, of_listener, of_process, of_tls
from ra_gateway.app.reloading import Reloads
from ra_gateway.app.running import cmp_listener, event_sink, listen, log_start
from ra_gateway.cmp.selfcheck import require_codec
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.events import Component, EventSink, ServiceStarted
from ra_gateway.metrics import Metrics, families
from ra_gateway.metrics.families import Reading
from ra_gateway.server.cmp import CMPHandler
from ra_gateway.server.shared_sockets import SharedSockets
from ra_gateway.tasks import ended, supervised

C = TypeVar("C", GatewayConfig, CAServiceConfig)

Served = tuple[CMPHandler, Mapping[str, str], Mapping[str, str]]
"""What answers, and what it answers at: `routes` and `profiles` of a `CMPListener`."""


@dataclass(frozen=True, slots=True)
class Among:
    """What a process has from the parent that runs it beside others which do the same.

    Args:
        sockets: What to listen on, by the dotted path of each listener's table.
        agree: Returns when all are ready to go over to another configuration; raises ConfigError where one is not.
    """

    sockets: Mapping[str, SharedSockets]
    agree: Callable[[], Awaitable[None]]


class ServiceProcess(ABC, Generic[C]):
    """Listener, management, TLS and metrics of one process, around what answers by a configuration.

    Args:
        sink: Takes what happens (`ra_gateway.events`) in place of the log, the bundled CA's facts included.
        read: Reads the configuration again, for `reload`; raises ConfigError.
        has_log: Whether the process's log is this service's, which then goes over with the rest.
        among: Where it is one of several; the parent then has the management listener, and tells of the start.

    Raises:
        ConfigError: On construction, when files that the configuration names cannot be used.
    """

    by: ClassVar[Component]

    def __init__(
        self,
        config: C,
        *,
        sink: EventSink | None = None,
        read: Callable[[], C] | None = None,
        has_log: bool = False,
        among: Among | None = None,
    ) -> None:
        require_codec()
        self._among = among
        self.config: C = config
        """The configuration in force."""
        self._read: Callable[[], C] | None = read
        self._metrics = Metrics()
        self._audit = audit_trail(config.audit)
        self._sink = event_sink(self._metrics, sink, self._audit)
        self._state = "starting"
        self._background: list[asyncio.Task[None]] = []
        self._loop_watch = LoopWatch()
        handler, routes, profiles = self._recorded(self._wire())
        self._tls = ListenerTLS(tls_tables(config))
        setting, server = cmp_server(config)
        self.listener = cmp_listener(
            handler,
            server,
            routes=routes,
            profiles=profiles,
            sink=self._sink,
            by=self.by,
            tls=self._tls.context_of(f"{setting}.tls"),
            sockets=self._sockets(setting),
        )
        self.management = Management(
            config.management.model_copy(update={} if among is None else {"enabled": False}),
            server.listen_port,
            self._metrics,
            self._all_parts,
            by=self.by,
            tls=self._tls.context_of("management.tls"),
            sink=self._sink,
        )
        self.management.configuration = config_digest(config)
        self._reloads = Reloads(self.by, self.management, self._sink, has_log=has_log)
        self._metrics.reads(self._readings)
        self._metrics.reads(of_process(self.by, lambda: self.config))

    @abstractmethod
    def _wire(self) -> Served:
        """Make what answers by the configuration, and have it metered."""

    @abstractmethod
    async def _open(self) -> None:
        """Begin what has to be there before messages come."""

    @abstractmethod
    async def _take_up(self, config: C) -> Served:
        """Make what answers by another configuration, and retire the one before; or raise, and change nothing."""

    @abstractmethod
    async def _close(self, left_at: float) -> None:
        """Answer what was accepted until then (`time.monotonic`), and close what was opened."""

    @abstractmethod
    def _parts(self) -> dict[str, str]:
        """Return what has to work, with what is wrong with it, "" if nothing is."""

    @abstractmethod
    def _paths(self) -> dict[str, Sequence[str]]:
        """Return the name of each endpoint, with its paths."""

    def _recorded(self, served: Served) -> Served:
        """Return what serves, so that no answer leaves before its record where that is required."""
        handler, routes, profiles = served
        if self._audit is not None and self._audit.required:
            handler = Recorded(handler, self._audit)
        return handler, routes, profiles

    def _all_parts(self) -> dict[str, str]:
        """Return the parts, with the audit trail where nothing is answered without it."""
        if self._audit is None or not self._audit.required:
            return self._parts()
        return self._parts() | {"audit": self._audit.problem}

    def _sockets(self, setting: str) -> SharedSockets | None:
        return None if self._among is None else self._among.sockets.get(setting)

    async def _agree(self) -> None:
        """Wait until nothing keeps the others, if there are any, from going over as well; the last word before it."""
        if self._among is not None:
            await self._among.agree()

    @property
    def metrics(self) -> Metrics:
        """What it counts, and what is read at its parts."""
        return self._metrics

    def is_alive(self) -> bool:
        """Tell whether all works that a watchdog is to stand for: here that is the event loop alone."""
        return True

    def _readings(self) -> Iterator[Reading]:
        yield from of_listener("cmp", self.listener)
        yield from of_tls(self._tls)
        yield Reading(families.LOOP_LAG, (), self._loop_watch.late)
        if self._audit is not None:
            yield from of_audit(self._audit)

    async def start(self) -> tuple[str, int]:
        """Open what is there, and listen; returns host and port.

        Where the store, the ledger or a CA does not answer yet, it starts all the same, and is ready once they do.

        Raises:
            ConfigError: The ledger of the bundled CA cannot be used.
            CannotListen: The address or the port cannot be had.
        """
        if self._audit is not None:
            await self._audit.open()
        await self.management.start()
        await self._open()
        for name, work in (("tls", self._tls.watch), ("loop", self._loop_watch.run)):
            self._background.append(asyncio.create_task(supervised(name, work)))
        setting, server = cmp_server(self.config)
        where = await listen(self.listener, server.listen_host, server.listen_port, setting)
        self._state = ""
        unready = {part: what for part, what in self._all_parts().items() if what}
        self._sink(ServiceStarted(self.by, __version__, config_digest(self.config)))
        if self._among is None:
            log_start(self.config, where, self.management.url, self._paths(), unready=unready)
        return where

    async def reload(self) -> None:
        """Read the configuration and all files that it names again, and go by them from the next message on.

        What is being answered is answered by the rules it began with. All of it is taken up, or nothing.

        Raises:
            ConfigError: It cannot be used, or changes what takes a restart; nothing has changed.
        """
        await self._reloads.one(self._go_over)

    async def _go_over(self) -> tuple[C, C]:
        before = self.config
        config = self.config if self._read is None else await asyncio.to_thread(self._read)
        require_no_restart(self.config, config)
        self._reloads.open_log(config.log)
        tls = await asyncio.to_thread(load_tls, tls_tables(config))
        served = self._recorded(await self._take_up(config))
        # All of it at once: from here on nothing waits.
        self.config = config
        self._tls.take_up(tls)
        self.listener.serve(*served)
        return before, config

    async def stop(self, *, lame_duck: bool = True) -> None:
        """Be unready for a while, unless that is not wanted, answer what was accepted, then close everything."""
        is_serving, self._state = not self._state, "draining"
        await self._reloads.end()
        _, server = cmp_server(self.config)
        if is_serving and lame_duck:
            await asyncio.sleep(server.lame_duck_seconds)
        background, self._background = self._background, []
        await ended(*background)
        left_at = time.monotonic() + server.drain_seconds
        async with AsyncExitStack() as stack:
            if self._audit is not None:
                stack.push_async_callback(self._audit.close)
            stack.push_async_callback(self.management.stop)
            stack.push_async_callback(self._close, left_at)
            await self.listener.drain(server.drain_seconds)
            await self._reloads.retired()
