"""Metrics and health of a service, behind its management listener."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ra_gateway import __version__
from ra_gateway.app.readings import of_listener
from ra_gateway.app.running import listen
from ra_gateway.config.service_tables import ManagementConfig
from ra_gateway.events import Component, EventSink, unheard
from ra_gateway.metrics import Metrics
from ra_gateway.metrics.families import BUILD, READY, Reading
from ra_gateway.server.management import Exposition, ManagementListener
from ra_gateway.server.preface import TLSContext


class Management:
    """What the management listener of one service tells.

    Args:
        config: Its table.
        service_port: Of the listener for CMP: by default ours follows it.
        metrics: Counts the service's facts.
        parts: Returns what has to work for devices to be sent here, with what is wrong with it, "" if nothing is.
        tls: What connections are met with; None for HTTP without TLS.
        sink: Takes what its listener refuses.
    """

    def __init__(
        self,
        config: ManagementConfig,
        service_port: int,
        metrics: Metrics,
        parts: Callable[[], Mapping[str, str]],
        by: Component = Component.gateway,
        tls: TLSContext | None = None,
        sink: EventSink = unheard,
    ) -> None:
        self._metrics = metrics
        self._plain = tls is None
        self._parts = parts
        self._host, self._port = config.listen_host, config.port_beside(service_port)
        names = (self._host.lower(), socket.gethostname().lower(), *config.server_names)
        self.listener = (
            ManagementListener(
                self,
                names if tls is None else None,
                host=self._host,
                port=self._port,
                by=by,
                tls=tls,
                sink=sink,
            )
            if config.enabled
            else None
        )
        self.url = ""
        """Of the listener, once it listens."""
        self.configuration = ""
        """Digest of the configuration in force."""
        self._reloads: dict[str, Any] = {"count": 0, "refused": 0, "last": None}
        metrics.reads(self._readings)

    def reloaded(self, configuration: str, problems: Iterable[str] = ()) -> None:
        """Count a reload, for `status`.

        Args:
            configuration: Digest of the one that is in force now.
            problems: Why it was refused, if it was.
        """
        self.configuration, problems = configuration, list(problems)
        self._reloads["refused" if problems else "count"] += 1
        outcome = "refused" if problems else "reloaded"
        self._reloads["last"] = {"outcome": outcome, "problems": problems}

    async def start(self) -> None:
        """Listen, if that is wanted.

        Raises:
            CannotListen: The address or the port cannot be had.
        """
        if self.listener is not None:
            host, port = await listen(self.listener, self._host, self._port, "management")
            scheme = "http" if self._plain else "https"
            self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def stop(self) -> None:
        """Close, last of all: until then it tells how far the end is."""
        if self.listener is not None:
            await self.listener.drain(0.0)
        await self._metrics.stop()

    async def metrics(self, accept: str) -> Exposition:
        """Return all metrics (`ManagementHandler`)."""
        await self._metrics.refresh()
        return Exposition(*self._metrics.exposition(accept))

    def _readings(self) -> Iterator[Reading]:
        yield Reading(BUILD, (__version__,), 1)
        for part, problem in self.readiness().items():
            yield Reading(READY, (part,), not problem)
        if self.listener is not None:
            yield from of_listener("management", self.listener)

    def readiness(self) -> dict[str, str]:
        """Return every part and what is wrong with it (`ManagementHandler`)."""
        return dict(self._parts())

    def status(self) -> dict[str, Any]:
        """Return which process this is and what came of its reloads (`ManagementHandler`)."""
        own = {"pid": os.getpid(), "version": __version__, "configuration": self.configuration}
        return {**own, "reloads": self._reloads}
