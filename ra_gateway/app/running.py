"""Listening and running: what every service of ours does, whatever it serves."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any, Final, Protocol, TypeVar, cast

import structlog
from pydantic import BaseModel

from ra_gateway import __version__
from ra_gateway.app.configuration_changes import config_digest
from ra_gateway.app.huge_pages import use_huge_pages
from ra_gateway.app.systemd import keep_alive, notify, notify_reloading
from ra_gateway.clocks import SteadyClock
from ra_gateway.config.service_tables import ListenerConfig, ManagementConfig, ServerConfig
from ra_gateway.errors import ConfigError, GatewayError, ServiceFailure
from ra_gateway.events import Component, EventSink
from ra_gateway.logs import LogSink, fan_out
from ra_gateway.metrics import Metrics
from ra_gateway.peers import Networks
from ra_gateway.server.cmp import CMPHandler, CMPListener
from ra_gateway.server.listener import ListenerLimits, ListenerProxies
from ra_gateway.server.preface import TLSContext
from ra_gateway.server.shared_sockets import SharedSockets
from ra_gateway.tasks import ended as tasks_ended
from ra_gateway.tasks import supervised

C = TypeVar("C")

STEADY: Final = SteadyClock()
"""Whether the wall clock of this process can be believed for what cannot be undone."""


def event_sink(
    metrics: Metrics, told: EventSink | None = None, audit: EventSink | None = None
) -> EventSink:
    """Return what takes the facts of a service (`ra_gateway.events`): every sink stands here.

    Args:
        told: In place of the log.
        audit: The audit trail, if there is one.
    """
    sinks: list[EventSink] = [LogSink() if told is None else told, metrics]
    return fan_out(*sinks, *(() if audit is None else (audit,)))


class CannotListen(GatewayError):
    """The configured address or port is not to be had."""


class Listener(Protocol):
    """A server that has not begun to listen."""

    async def start(self) -> tuple[str, int]:
        """Listen; returns host and port."""


def require_apart(
    setting: str,
    server: ServerConfig,
    management: ManagementConfig,
    status: ListenerConfig | None,
) -> None:
    """Refuse two listeners of one process in one place, before the second finds its port taken.

    Args:
        setting: Dotted path of the table of `server`.

    Raises:
        ConfigError: Two would be in the way of each other.
    """
    listeners = {setting: (server.listen_host, server.listen_port)}
    if management.enabled:
        port = management.port_beside(server.listen_port)
        listeners["management"] = (management.listen_host, port)
    if status is not None:
        listeners["ca.status"] = (status.listen_host, status.listen_port)
    for (one, (host, port)), (other, (elsewhere, taken)) in combinations(listeners.items(), 2):
        if port == taken != 0 and (host == elsewhere or _EVERYWHERE & {host, elsewhere}):
            raise ConfigError.of(
                f"{other}.listen_port",
                f"is {taken}, where {one} listens",
                "Give each listener a port of its own",
            )


_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104


async def listen(listener: Listener, host: str, port: int, setting: str) -> tuple[str, int]:
    """Start a listener; returns host and port.

    Args:
        host, port: Where it is to listen, for the error.
        setting: Dotted path of the table that says so.

    Raises:
        CannotListen: The address or the port cannot be had.
    """
    try:
        return await listener.start()
    except OSError as error:
        raise _cannot_listen(error, host, port, setting) from error


async def bound(host: str, port: int, setting: str, count: int) -> list[list[socket.socket]]:
    """Return sockets for several processes that are to listen on one port: of each, one for each address of the host.

    They are bound with SO_REUSEPORT. Another service that listens there is in the way all the same.

    Args:
        setting: As of `listen`.
        count: Of processes.

    Raises:
        CannotListen: The address or the port cannot be had.
    """
    of_each: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            with socket.socket(family, kind, protocol) as alone:
                _bind(alone, address)
                for sockets in of_each:
                    sockets.append(socket.socket(family, kind, protocol))
                    sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    _bind(sockets[-1], alone.getsockname())
    except OSError as error:
        for item in (item for sockets in of_each for item in sockets):
            item.close()
        raise _cannot_listen(error, host, port, setting) from error
    return of_each


def _bind(item: socket.socket, address: Any) -> None:
    item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if item.family == socket.AF_INET6:  # as asyncio has it
        item.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    item.bind(address)


def _cannot_listen(error: OSError, host: str, port: int, setting: str) -> CannotListen:
    reason = str(error.strerror or error)
    if error.errno == errno.EADDRINUSE:
        reason = "another process listens there already"
    elif error.errno == errno.EACCES:
        reason = "this user may not listen there"
    return CannotListen(
        f"cannot listen on {host}:{port}: {reason}. "
        f"Change {setting}.listen_host or {setting}.listen_port, or stop what is in the way"
    )


def cmp_listener(
    handler: CMPHandler,
    config: ServerConfig,
    *,
    routes: Mapping[str, str],
    profiles: Mapping[str, str],
    sink: EventSink,
    by: Component,
    tls: TLSContext | None,
    sockets: SharedSockets | None = None,
) -> CMPListener:
    """Return a listener with the limits of a configuration, which has them under the same names."""
    limits = {name: getattr(config, name) for name in ListenerLimits.__annotations__}
    return CMPListener(
        handler,
        routes=routes,
        profiles=profiles,
        sink=sink,
        by=by,
        host=config.listen_host,
        port=config.listen_port,
        tls=tls,
        sockets=sockets,
        **proxies(config),
        **cast(ListenerLimits, limits),
    )


def proxies(config: ListenerConfig) -> ListenerProxies:
    """Return whom a listener believes for whom they speak."""
    return {
        "trusted_proxies": Networks(config.trusted_proxies),
        "proxy_protocol": config.proxy_protocol == "on",
        "forwarded_for": config.forwarded_for == "on",
    }


def log_start(
    config: BaseModel,
    where: tuple[str, int],
    management_url: str,
    endpoints: Mapping[str, Sequence[str]],
    *,
    unready: Mapping[str, str],
    workers: int = 1,
) -> None:
    """Write the line by which a log shows what began, and with which configuration.

    Args:
        where: Host and port.
        endpoints: Name to its paths.
        unready: Parts that do not work yet, and why.
        workers: Processes that serve.
    """
    structlog.get_logger().info(
        "started",
        version=__version__,
        digest=config_digest(config),
        listen="{}:{}".format(*where),
        management=management_url,
        endpoints=[f"{name} {' '.join(paths)}" for name, paths in endpoints.items()],
        **({"workers": workers} if workers > 1 else {}),
        **({"unready": dict(unready)} if unready else {}),
    )


def catch_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets, from now on."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    return ended


_SWITCH_SECONDS: Final = 0.001
"""How long a thread may keep Python to itself while the event loop waits, at each of its steps while a CRL is read; by
default five times as long.
"""


def settle() -> None:
    """Have the loop go before threads, the garbage collector look at little, and memory lie on huge pages.

    Messages make few cycles and many short-lived objects; by default their number alone would have all
    modules and settings, which never go away, walked over and over.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    use_huge_pages()


class Service(Protocol):
    """What can be started and stopped."""

    async def start(self) -> tuple[str, int]:
        """Take requests; returns host and port."""

    async def reload(self) -> None:
        """Read the configuration again and go by it; or raise `ConfigError` and go on as before."""

    async def stop(self) -> None:
        """Answer what was accepted, then close everything."""

    def is_alive(self) -> bool:
        """Tell whether all works that a watchdog is to stand for, besides this event loop."""


def check(make: Callable[[C], Service], config: C) -> None:
    """Load everything that a service with a configuration would load, and leave no trace.

    Raises:
        ConfigError: Files that it names cannot be used.
    """

    async def open_and_close() -> None:
        await make(config).stop()

    asyncio.run(open_and_close())


async def _reload_when(asked: asyncio.Event, service: Service) -> None:
    while True:
        await asked.wait()
        asked.clear()
        notify_reloading()
        try:
            with suppress(ConfigError):  # of which the service has told
                await service.reload()
        finally:
            notify(READY=1)


async def run_until_signalled(service: Service, started: Callable[[str, int], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; at SIGHUP reload. A start that was not awaited is given up.

    Args:
        started: Called with host and port when requests are taken.

    Raises:
        ConfigError, StoreUnavailable, CannotListen: The service could not start.
    """
    ended = catch_signals()  # before anybody can know that it is up, and end it
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))  # put off until now
    starting, ending = asyncio.create_task(service.start()), asyncio.create_task(ended.wait())
    await asyncio.wait((starting, ending), return_when=asyncio.FIRST_COMPLETED)
    try:
        if (
            ended.is_set()
        ):  # a CRL that does not come, and the workers after the first, may take minutes
            await tasks_ended(starting)
            await service.stop()
            return
        host, port = await starting
    except (ConfigError, ServiceFailure, CannotListen):
        await service.stop()
        raise
    settle()
    started(host, port)
    notify(READY=1, STATUS=f"listening on {host}:{port}")
    alive = asyncio.create_task(supervised("watchdog", lambda: keep_alive(service.is_alive)))
    reloading = asyncio.create_task(supervised("reload", lambda: _reload_when(asked, service)))
    await ending
    notify(STOPPING=1)
    await tasks_ended(reloading)
    structlog.get_logger().info("draining", listen=f"{host}:{port}")
    await service.stop()
    await tasks_ended(alive)
