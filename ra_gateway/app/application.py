"""One gateway process: what outlives a reload (listeners, store, bundled CA), and the wiring that answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, ClassVar

import structlog

from ra_gateway.app.gateway import Wiring
from ra_gateway.app.health import LOOK_SECONDS, Probe
from ra_gateway.app.process import Served, ServiceProcess
from ra_gateway.app.readings import meter_gateway, names_of
from ra_gateway.app.running import require_apart
from ra_gateway.app.store import EMPTIED_TODO, FORGETS_TODO, OTHER_SEAL_KEY, transaction_store
from ra_gateway.app.trust import trust_changes
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import StoreUnavailable, missing_extra
from ra_gateway.events import Component, EventSink
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.services import Services
from ra_gateway.server.shared_sockets import SharedSockets
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.tasks import supervised

if TYPE_CHECKING:
    from ra_gateway.app.ca import BundledService, CAWiring

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.store")


def _bundled(
    config: GatewayConfig, sink: EventSink, sockets: SharedSockets | None
) -> BundledService | None:
    if not config.has_bundled_upstream or config.ca is None:
        return None
    try:
        from ra_gateway.app.ca import BundledService
    except ModuleNotFoundError as error:
        raise missing_extra("ca", error) from error
    return BundledService(config.ca, config.vendors, sink, sockets)


class Application(ServiceProcess[GatewayConfig]):
    """One gateway process: everything that a configuration asks for, wired together."""

    by: ClassVar[Component] = Component.gateway

    def _wire(self) -> Served:
        config = self.config
        ca = config.ca if config.has_bundled_upstream else None
        status = None if ca is None else ca.status
        require_apart("server", config.server, config.management, status)
        self._bundled = _bundled(config, self._sink, self._sockets("ca.status"))
        self._wiring = Wiring(
            config,
            transaction_store(config.store, self._sink),
            None if self._bundled is None else self._bundled.wiring,
            self._sink,
            audit=self._audit,
        )
        self._outgoing: list[Wiring] = []
        self._store_probe = Probe(lambda: self.store.ping())
        self._forgets = ""
        self._seals_compared = False
        meter_gateway(
            self._metrics,
            lambda: self._wiring,
            lambda: self._outgoing,
            lambda: self._store_probe.problem,
        )
        self._metrics.keep(names_of(self._wiring))
        if self._bundled is not None:
            self._bundled.meter(self._metrics)
        return self._wiring, self._wiring.routes, self._wiring.profiles

    @property
    def gateway(self) -> Gateway:
        """What answers messages now."""
        return self._wiring.gateway

    @property
    def services(self) -> Services:
        """What the steps of `gateway` use."""
        return self._wiring.services

    @property
    def store(self) -> MemoryStore | RedisStore:
        """Where transactions are kept now."""
        return self._wiring.store

    def _parts(self) -> dict[str, str]:
        parts = {"process": self._state, "store": self._store_probe.problem}
        if self._bundled is not None:
            parts["ledger"] = self._bundled.problem
        return parts | self._wiring.parts()

    def _paths(self) -> dict[str, Sequence[str]]:
        return {name: endpoint.url_paths for name, endpoint in self.config.endpoints.items()}

    async def _open(self) -> None:
        await self._look_at_store()
        if self._bundled is not None:
            await self._bundled.start()
        await self._wiring.start()
        self._background.append(asyncio.create_task(supervised("store.probe", self._watch_store)))

    async def _take_up(self, config: GatewayConfig) -> Served:
        old = self._wiring
        # Also where the process is to end: what was begun is not left open.
        async with AsyncExitStack() as undo:
            ca = None
            if self._bundled is not None and config.ca is not None:
                ca = await self._bundled.rewired(config.ca, config.vendors)
                undo.push_async_callback(ca.stop, 0.0)
            store = old.store
            # Its URL and keys are in files, which may be others now.
            if config.store.kind == "redis":
                store = transaction_store(config.store, self._sink)
                undo.push_async_callback(store.close)
            # In a thread: keys in an HSM are tried out, and all chains are built anew.
            fresh = await asyncio.to_thread(Wiring, config, store, ca, self._sink, old, self._audit)
            undo.push_async_callback(fresh.stop, 0.0)
            if store is not old.store:
                await self._compare_seals(store)
            await fresh.start()
            await self._agree()
            undo.pop_all()
        self._wiring = fresh
        for change in trust_changes(old.domains, fresh.domains):
            self._sink(change)
        self._metrics.keep(names_of(fresh))
        old_ca = None if self._bundled is None or ca is None else self._bundled.take_up(ca)
        self._reloads.retire(self._retire(old, old_ca))
        return fresh, fresh.routes, fresh.profiles

    async def _retire(self, wiring: Wiring, ca: CAWiring | None) -> None:
        self._outgoing.append(wiring)
        try:
            await wiring.stop(wiring.config.server.drain_seconds)
        finally:
            self._outgoing.remove(wiring)
            if wiring.store is not self.store:
                await wiring.store.close()
            if ca is not None:
                await ca.stop(0.0)

    async def _watch_store(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look_at_store()

    async def _look_at_store(self) -> None:
        await self._store_probe.once()
        if self._store_probe.problem:
            return
        store = self.store
        if not self._seals_compared:
            await self._compare_seals(store)
        if isinstance(store, RedisStore):
            await self._look_at_what_is_kept(store)

    async def _look_at_what_is_kept(self, store: RedisStore) -> None:
        """Tell of a Redis that may forget, and of one that has."""
        with suppress(StoreUnavailable):  # which is told elsewhere
            before = store.emptied
            await store.has_our_mark()
            if store.emptied > before:
                log.error("store.emptied", store=store.name, todo=EMPTIED_TODO)
        forgets = store.servers.forgets
        if forgets != self._forgets:
            self._forgets = forgets
            if forgets:
                log.error("store.forgets", store=store.name, detail=forgets, todo=FORGETS_TODO)
            else:
                log.info("store.keeps", store=store.name)

    async def _compare_seals(self, store: MemoryStore | RedisStore) -> None:
        """Tell when other gateways seal by a key that this one has not; each goes on with what it can open itself.

        Whoever can write to Redis can change the mark, and is not to keep a gateway from starting by that. Where it
        does not answer, they are compared when it is back.
        """
        is_ours = True
        try:
            if isinstance(store, RedisStore):
                is_ours = await store.has_our_mark()
        except StoreUnavailable:  # which is told elsewhere
            self._seals_compared = False
            return
        self._seals_compared = True
        if isinstance(store, RedisStore) and not is_ours:
            log.error(
                "store.other_seal_key",
                key=store.mark_key,
                detail="the gateways that share this Redis seal by a key that is not in store.seal_key_paths: they "
                "do not believe each other's transactions, and base stations fail that come to another one",
                todo=f"{OTHER_SEAL_KEY} {store.mark_key}",
            )

    async def _close(self, left_at: float) -> None:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.store.close)
            if self._bundled is not None:
                stack.push_async_callback(self._bundled.stop)
            await self._wiring.stop(max(left_at - time.monotonic(), 0.0))
