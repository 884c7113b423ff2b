"""One port that several processes listen on, each with a socket of its own, and with an eye on those of the others."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

_AT_ONCE: Final = 16
"""Connections that are taken off a queue before something else gets its turn."""

_LOOK_SECONDS: Final = 0.1
"""Between two looks for what waits for another process: it has ended, hangs, or has more to do than this one."""

_FULL_SECONDS: Final = 1.0
"""Until a process that could not accept, having too many open files, tries again."""

_log = logging.getLogger(__name__)

Protocol = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class SharedSockets:
    """Sockets of one port, bound with SO_REUSEPORT: the kernel spreads connections over those that listen.

    Args:
        own: Of this process, one for each address of the listener's host.
        others: Of the other processes.
    """

    own: Sequence[socket.socket]
    others: Sequence[socket.socket] = ()


class SharedServer:
    """Takes connections of sockets that are shared."""

    def __init__(self, sockets: SharedSockets, protocol: Protocol) -> None:
        self._sockets, self._protocol = sockets, protocol
        self.sockets = sockets.own
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.TimerHandle | None = None
        self._is_open = False
        self._accepted: set[asyncio.Task[None]] = set()

    def start(self, backlog: int) -> tuple[str, int]:
        """Begin to listen, and return the address and port.

        Args:
            backlog: Connections that the kernel holds.

        Raises:
            OSError: Another service listens there.
        """
        self._is_open = True
        for item in (*self._sockets.own, *self._sockets.others):
            item.setblocking(False)
        for item in self._sockets.own:
            item.listen(backlog)
            self._watch(item)
        self._look()
        host, port = self._sockets.own[0].getsockname()[:2]
        return host, port

    def _watch(self, item: socket.socket) -> None:
        if self._is_open:
            self._loop.add_reader(item, self._take_own, item)

    def _take_own(self, item: socket.socket) -> None:
        try:
            self._take(item)
        except OSError:  # no file descriptor is left, or no memory
            _log.exception("a connection cannot be accepted")
            self._loop.remove_reader(item)
            self._loop.call_later(_FULL_SECONDS, self._watch, item)

    def _look(self) -> None:
        for item in self._sockets.others:
            try:
                self._take(item)
            except OSError:  # it does not listen yet; what is wrong with this process is told above
                continue
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _take(self, item: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = item.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            task = self._loop.create_task(self._connect(accepted))
            self._accepted.add(task)
            task.add_done_callback(self._accepted.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError:  # its client has gone already
            accepted.close()

    def close(self) -> None:
        """Take no more connections."""
        self._is_open = False
        if self._looking is not None:
            self._looking.cancel()
        for item in self._sockets.own:
            self._loop.remove_reader(item)
        for item in (*self._sockets.own, *self._sockets.others):
            item.close()
