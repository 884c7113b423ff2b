"""The bundled CA as a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ra_gateway.app.ca import BundledService
from ra_gateway.app.changes import config_digest, require_no_ca_restart
from ra_gateway.app.listener_tls import ListenerTLS, ca_tls_tables
from ra_gateway.app.listener_tls import load as load_tls
from ra_gateway.app.management import Management
from ra_gateway.app.readings import names_of_ca, of_listener, of_process, of_tls
from ra_gateway.app.reloading import Reloads
from ra_gateway.app.running import cmp_listener, event_sink, listen, log_start, require_apart
from ra_gateway.cmp.selfcheck import require_codec
from ra_gateway.config.tables import CAServiceConfig
from ra_gateway.events import Component, EventSink
from ra_gateway.metrics import Metrics
from ra_gateway.tasks import ended, supervised


class CAService:
    """The bundled CA as a process of its own (`ra-gateway ca serve`).

    Args:
        sink: Takes what happens (`ra_gateway.events`) in place of the log.
        read: Reads the configuration again, for `reload`; raises ConfigError.
        has_log: Whether the process's log is this service's, which then goes over with the rest.

    Raises:
        ConfigError: On construction, when files that the configuration names cannot be used.
    """

    def __init__(
        self,
        config: CAServiceConfig,
        *,
        sink: EventSink | None = None,
        read: Callable[[], CAServiceConfig] | None = None,
        has_log: bool = False,
    ) -> None:
        require_codec()
        require_apart("ca.server", config.ca.server, config.management, config.ca.status)
        self._config, self._read = config, read
        metrics = Metrics()
        sink = event_sink(metrics, sink)
        self._bundled = BundledService(config.ca, config.vendors, sink)
        self._tls = ListenerTLS(ca_tls_tables(config))
        self._watching: asyncio.Task[None] | None = None
        self.listener = cmp_listener(
            self._bundled.wiring,
            config.ca.server,
            routes=self._bundled.wiring.routes,
            profiles={},
            sink=sink,
            by=Component.ca,
            tls=self._tls.context_of("ca.server.tls"),
        )
        self._state = "starting"
        self.management = Management(
            config.management,
            config.ca.server.listen_port,
            metrics,
            lambda: {"process": self._state, "ledger": self._bundled.problem},
            by=Component.ca,
            tls=self._tls.context_of("management.tls"),
            sink=sink,
        )
        self._bundled.meter(metrics)
        self.management.configuration = config_digest(config)
        self._reloads = Reloads(Component.ca, self.management, sink, has_log=has_log)
        metrics.reads(
            lambda: (
                *of_listener("cmp", self.listener),
                *of_tls(self._tls),
            )
        )
        metrics.reads(of_process(Component.ca, lambda: self._config))
        metrics.keep(names_of_ca(config))
        self._metrics = metrics

    async def start(self) -> tuple[str, int]:
        """Open the ledger and listen; returns host and port.

        Raises:
            ConfigError: The ledger cannot be used.
            CannotListen: The address or the port cannot be had.
        """
        await self.management.start()
        await self._bundled.start()
        server = self._config.ca.server
        where = await listen(self.listener, server.listen_host, server.listen_port, "ca.server")
        self._watching = asyncio.create_task(supervised("tls", self._tls.watch))
        self._state = ""
        unready = {"ledger": self._bundled.problem} if self._bundled.problem else {}
        routes = self._bundled.wiring.routes
        modes = {
            mode: tuple(path for path, known in routes.items() if known == mode)
            for mode in dict.fromkeys(routes.values())
        }
        log_start(self._config, where, self.management.url, modes, unready=unready)
        return where

    async def reload(self) -> None:
        """Read the configuration and all files that it names again, and go by them from the next message on.

        What is being answered is answered by the rules it began with. All of it is taken up, or nothing.

        Raises:
            ConfigError: It cannot be used, or changes what takes a restart; nothing has changed.
        """
        await self._reloads.one(self._go_over)

    async def _go_over(self) -> CAServiceConfig:
        config = self._config if self._read is None else await asyncio.to_thread(self._read)
        require_no_ca_restart(self._config, config)
        self._reloads.open_log(config.log)
        tls = await asyncio.to_thread(load_tls, ca_tls_tables(config))
        fresh = await self._bundled.rewired(config.ca, config.vendors)
        self._config = config
        self._tls.take_up(tls)
        self.listener.serve(fresh, fresh.routes, {})
        self._metrics.keep(names_of_ca(config))
        old = self._bundled.take_up(fresh)
        self._reloads.retire(old.stop(config.ca.server.drain_seconds))
        return config

    async def stop(self) -> None:
        """Answer what was accepted, then close the ledger."""
        is_serving, self._state = not self._state, "draining"
        await self._reloads.end()
        if is_serving:
            await asyncio.sleep(self._config.ca.server.lame_duck_seconds)
        if self._watching is not None:
            await ended(self._watching)
        await self.listener.drain(self._config.ca.server.drain_seconds)
        await self._reloads.retired()
        await self._bundled.stop()
        await self.management.stop()
