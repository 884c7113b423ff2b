"""Connections to one Redis server: redis-py makes them and logs in, and what is asked then goes to hiredis at once.

Between its connection and the socket, redis-py has streams, locks, retries and hooks that nobody here has, at nine
tenths of what a call costs this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import hiredis
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import InvalidResponse

_CLOSED_BY_SERVER: Final = "Connection closed by server."
_END_SECONDS: Final = 1.0

_TLS_SECONDS: Final = 60.0
"""How long connections share what was read for TLS; the roots of a system take a tenth of a second to read."""


class Connections:
    """At most so many connections to one server, each for one call at a time.

    Args:
        options: As redis-py's `BlockingConnectionPool` takes them; `max_connections` among them.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._pool: Any = BlockingConnectionPool(**options)  # makes them, and never has one
        self._places = asyncio.Semaphore(options["max_connections"])
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._tls: Any = None  # redis-py's; it reads the files when it is first used
        self._tls_until = 0.0

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send commands in one go, and return the reply to each: an exception where it is an error.

        Raises:
            RedisError, OSError, RuntimeError: The connection cannot be made, or broke. They may have been carried out.
        """
        async with self._places:
            connection = await self._connection()
            try:
                replies = await connection.ask(commands)
            except BaseException as error:
                # Who leaves in between, cancelled say, leaves an answer that would be taken for the next one's.
                self._end([connection])
                if not isinstance(error, asyncio.CancelledError):
                    # The server has ended it, and most likely those that lie idle, too.
                    self.close(only_idle=True)
                raise
            self._idle.append(connection)
            return replies

    async def _connection(self) -> _Connection:
        while self._idle:
            if not (connection := self._idle.pop()).is_closed:
                return connection
            self._end([connection])
        made = self._pool.make_connection()
        if (tls := getattr(made, "ssl_context", None)) is not None:
            now = asyncio.get_running_loop().time()
            if self._tls is None or now >= self._tls_until:
                self._tls, self._tls_until = tls, now + _TLS_SECONDS
            made.ssl_context = self._tls
        try:
            await made.connect()
        except BaseException:
            await made.disconnect(nowait=True)
            raise
        connection = _Connection(made)
        self._open.add(connection)
        return connection

    def close(self, *, only_idle: bool = False) -> None:
        """End connections; others are made when they are needed."""
        self._end(self._idle if only_idle else list(self._open))
        self._idle = []

    async def end(self) -> None:
        """End all connections, and return when they are gone."""
        ending = [connection.lost for connection in self._open]
        self.close()
        if ending:
            await asyncio.wait(ending, timeout=_END_SECONDS)

    def _end(self, connections: Sequence[_Connection]) -> None:
        for connection in connections:
            connection.close()
        self._open.difference_update(connections)


class _Connection(asyncio.Protocol):
    """One connection, taken over from redis-py once it is logged in.

    Args:
        made: redis-py's.
    """

    def __init__(self, made: Any) -> None:
        self._streams = made._reader, made._writer  # the transport ends when nobody has them
        made._reader = made._writer = None
        self._reader: Any = hiredis.Reader(
            protocolError=InvalidResponse, replyError=made._parser.parse_error
        )
        self._replies: list[Any] = []
        self._awaited = 0
        self._answered: asyncio.Future[list[Any]] | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when it is gone."""
        self._transport = self._streams[1].transport
        self._transport.set_protocol(self)

    @property
    def is_closed(self) -> bool:
        return bool(self._transport.is_closing())

    def close(self) -> None:
        """End it at once."""
        self._transport.abort()

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send commands, and return the reply to each."""
        octets = b"".join(hiredis.pack_command(tuple(command)) for command in commands)
        self._answered = asyncio.get_running_loop().create_future()
        self._replies, self._awaited = [], len(commands)
        self._transport.write(octets)
        try:
            return await self._answered
        finally:
            self._answered = None

    def data_received(self, data: bytes) -> None:
        """Take what the server sent."""
        answered = self._answered
        if answered is None or answered.done():
            self.close()  # nobody has asked for anything
            return
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
        except InvalidResponse as error:
            answered.set_exception(error)
            return
        if len(self._replies) == self._awaited:
            answered.set_result(self._replies)
        elif len(self._replies) > self._awaited:
            answered.set_exception(InvalidResponse("more replies than commands"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer."""
        self.lost.set_result(None)
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(NotConnected(str(exc or _CLOSED_BY_SERVER)))
