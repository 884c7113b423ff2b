"""The bundled CA as a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ra_gateway.app.ca import BundledService
from ra_gateway.app.process import Served, ServiceProcess
from ra_gateway.app.readings import names_of_ca
from ra_gateway.app.running import require_apart
from ra_gateway.config.tables import CAServiceConfig
from ra_gateway.events import Component


class CAService(ServiceProcess[CAServiceConfig]):
    """The bundled CA as a process of its own (`ra-gateway ca serve`)."""

    by: ClassVar[Component] = Component.ca

    def _wire(self) -> Served:
        config = self.config
        require_apart("ca.server", config.ca.server, config.management, config.ca.status)
        self._bundled = BundledService(config.ca, config.vendors, self._sink)
        self._bundled.meter(self._metrics)
        self._metrics.keep(names_of_ca(config))
        return self._bundled.wiring, self._bundled.wiring.routes, {}

    def _parts(self) -> dict[str, str]:
        return {"process": self._state, "ledger": self._bundled.problem}

    def _paths(self) -> dict[str, Sequence[str]]:
        routes = self._bundled.wiring.routes
        return {
            mode: tuple(path for path, known in routes.items() if known == mode)
            for mode in dict.fromkeys(routes.values())
        }

    async def _open(self) -> None:
        await self._bundled.start()

    async def _take_up(self, config: CAServiceConfig) -> Served:
        fresh = await self._bundled.rewired(config.ca, config.vendors)
        old = self._bundled.take_up(fresh)
        self._reloads.retire(old.stop(config.ca.server.drain_seconds))
        self._metrics.keep(names_of_ca(config))
        return fresh, fresh.routes, {}

    async def _close(self, left_at: float) -> None:
        await self._bundled.stop()
