"""Connections to CAs over HTTP/1.1, kept and reused; each has one exchange at a time.

httptools (llhttp) reads what comes. Around it stand the bounds: a head has an end, with all interim answers before
it, and so has a body; whatever comes unasked, or behind an answer, ends the connection. One whose exchange did not
end as it should is never used again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohappyeyeballs import AddrInfoType, start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from yarl import URL

from ra_gateway.connector import MAX_HEAD_OCTETS
from ra_gateway.errors import UpstreamUnavailable, printable

_KEEPALIVE_SECONDS: Final = 15.0
"""How long an unused connection is kept.

Well below what servers use (nginx 75 s, WildFly 60 s, Tomcat 20 s): when the server closes first, a
request may be on its way already, and nobody can tell whether the CA has seen it.
"""

_PIECE_OCTETS: Final = 16_384
"""As much is looked at at once: a first read may hold the head and all of a short body."""

_NEXT_ADDRESS_SECONDS: Final = 0.25
"""A host's next address is tried beside one that does not connect within this time (RFC 8305)."""

_FRAMING_RATIO: Final = 8
"""Octets of chunks' heads that one octet of a body may have; one octet a chunk makes five."""


class ServerDisconnectedError(ConnectionError):
    """The connection ended before the answer did."""

    def __init__(self) -> None:
        super().__init__("Server disconnected")


class NotHTTP(ValueError):
    """What came is no answer, or has no end."""


class ConnectTimeout(TimeoutError):
    """Nobody took the connection in time."""


class Response:
    """An answer.

    Args:
        limit: Returns how many octets of the body are wanted, once the head is there.
        bodyless: Whether it is a head alone, whatever that says of a body: to HEAD and CONNECT.
    """

    __slots__ = ("bodyless", "content", "headers", "limit", "limit_octets", "reason", "status")

    def __init__(self, limit: Callable[[Response], int], bodyless: bool = False) -> None:
        self.limit = limit
        self.limit_octets = 0
        self.bodyless = bodyless
        self.status = 0
        self.reason = b""
        self.headers: dict[bytes, bytes] = {}
        self.content = bytearray()
        """The body; of one above the limit, its beginning, which is longer than the limit."""

    def header(self, name: bytes, default: str = "") -> str:
        """Return a header by its name in lower case; of several, the first."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1").strip()


class _Enough(Exception):
    """More is not wanted."""


class Connection(asyncio.Protocol):
    """One connection; `ask`, and ask again if it is `reusable` then."""

    def __init__(self, lost: Callable[[Connection], None]) -> None:
        self._lost = lost
        self.transport: Any = None  # of asyncio or uvloop, with TLS or without
        self._parser: Any = None
        self._response: Response | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._received = self._body = 0
        self._finished = True
        self._keep = True
        self.heard = False
        """Whether the server has said anything."""
        self.over = False
        self.failure: Exception | None = None
        self.idle_since = 0.0

    def ask(self, octets: bytes, response: Response) -> asyncio.Future[Response]:
        """Send a whole request and return what will be its answer; only while it is `usable`."""
        self._response, self._answer = response, asyncio.get_running_loop().create_future()
        self._received = self._body = 0
        self._finished = self._keep = False
        self.transport.write(octets)
        return self._answer

    @property
    def usable(self) -> bool:
        """Whether it is open; the loop may be about to tell that it is not."""
        return not (self.over or self.transport.is_closing())

    @property
    def reusable(self) -> bool:
        """Whether the last answer has ended, all of the request is sent, and the server keeps the connection."""
        return self._keep and self.usable and not self.transport.get_write_buffer_size()

    def end(self, error: Exception | None = None) -> None:
        """End it; an answer that is awaited fails."""
        if not self.over:
            self.over, self.failure = True, error
            if self.transport is not None:
                # Without a farewell by TLS, for which the other side would have to be waited for.
                self.transport.abort()
            self._lost(self)
        if not self._finished and self._answer is not None:
            self._finished = True
            if not self._answer.done():
                self._answer.set_exception(error or ServerDisconnectedError())
                self._answer.exception()  # whoever awaits it may be cancelled in the same turn

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on."""
        transport = await asyncio.get_running_loop().start_tls(
            self.transport, self, context, server_hostname=host
        )
        if transport is None or self.over:
            raise ServerDisconnectedError
        self.connection_made(transport)

    # --- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.heard = False  # a proxy's answer is not the server's
        self._parser = HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._finished:
            self.end(NotHTTP("something was said unasked"))
            return
        if len(data) <= _PIECE_OCTETS:
            self._feed(data)
        else:
            for start in range(0, len(data), _PIECE_OCTETS):
                if not self.over:
                    self._feed(data[start : start + _PIECE_OCTETS])

    def eof_received(self) -> None:
        response = self._response
        if (
            not self._finished
            and response is not None
            and response.limit_octets
            and not {b"content-length", b"transfer-encoding"} & response.headers.keys()
        ):
            self._finish()  # its end is the connection's (RFC 9112 6.3)
        self.end()

    def connection_lost(self, error: Exception | None) -> None:
        self.end(error if isinstance(error, OSError) else None)
        self._parser = None  # it knows this protocol

    # --- of the parser --------------------------------------------------------------------------------------------

    def on_status(self, reason: bytes) -> None:
        assert self._response is not None
        self._response.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self._response is not None
        if not self._response.limit_octets:  # later ones are trailers
            self._response.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        response = self._response
        assert response is not None
        response.status = status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise NotHTTP("it wants to speak another protocol")
            return
        response.limit_octets = response.limit(response) + 1
        if response.bodyless:
            self._finish()

    def on_body(self, octets: bytes) -> None:
        response = self._response
        if self._finished or response is None:
            raise _Enough
        self._body += len(octets)
        response.content += octets
        if self._body >= response.limit_octets:
            self._finish()
            raise _Enough

    def on_message_begin(self) -> None:
        if self._finished:
            raise _Enough

    def on_message_complete(self) -> None:
        response = self._response
        assert response is not None
        if response.limit_octets:
            if not self._finished:
                self._keep = self._parser.should_keep_alive()
                self._finish()
        else:  # an interim one
            response.headers.clear()
            response.reason = b""

    def _feed(self, octets: bytes) -> None:
        self._received += len(octets)
        try:
            self._parser.feed_data(octets)
        except (HttpParserError, HttpParserUpgrade) as error:
            # Of an answer that is whole already, it is what stands behind it.
            cause = error.__context__
            self.end(cause if isinstance(cause, NotHTTP) else NotHTTP(str(error)))
            return
        framing = self._received - self._body
        if not self._finished and framing > MAX_HEAD_OCTETS + _FRAMING_RATIO * self._body:
            self.end(NotHTTP(f"the head of the answer has more than {MAX_HEAD_OCTETS} octets"))

    def _finish(self) -> None:
        self._finished = True
        if self._answer is not None and not self._answer.done() and self._response is not None:
            self._answer.set_result(self._response)


class Host:
    """The connections to one host and port, over HTTP or HTTPS.

    Args:
        url: Of which scheme, host and port count.
    """

    def __init__(self, url: URL, connections: Connections) -> None:
        self._connections = connections
        self._url = url
        self._tls = url.scheme == "https"
        self._count = 0
        self._used: set[Connection] = set()
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._lookup: asyncio.Future[list[Any]] | None = None
        self.idle: deque[Connection] = deque()
        """Those that nobody uses, the one that was used last at the end."""

    def take(self) -> Connection | None:
        """Return a connection that is free now, if there is one, to be given to `release`.

        Raises:
            UpstreamUnavailable: They were closed.
        """
        if self._connections.closed:
            raise _closed()
        while self.idle and not self.idle[-1].usable:
            self.idle[-1].end()
        return self.idle.pop() if self.idle else None

    async def wait(self) -> Connection:
        """Return a connection, as `take`, once there is one: a new one, or one that another exchange lets go of.

        Raises:
            UpstreamUnavailable: None can be made; or they were closed.
        """
        connection: Connection | None = None
        if self._count < self._connections.max_connections:
            self._count += 1
        else:
            waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                connection = await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._pass_on(waiter.result())
                elif waiter in self._waiting:
                    self._waiting.remove(waiter)
                raise
        if connection is not None:
            if connection.usable:
                return connection
            connection.end()
        try:
            return await self._open()
        except BaseException:
            self._pass_on(None)
            raise

    def release(self, connection: Connection) -> None:
        """Take a connection back, to be reused if all is well with it."""
        if connection.reusable and not self._connections.closed:
            self._pass_on(connection)
        else:
            connection.end()
            self._pass_on(None)

    def close(self, *, idle_since: float | None = None) -> None:
        """End connections: all of them, or those that have been idle since before a time of the loop."""
        if idle_since is None:
            for connection in list(self._used):
                connection.end()
            while self._waiting:
                if not (waiter := self._waiting.popleft()).done():
                    waiter.set_exception(_closed())
            if self._lookup is not None:
                self._lookup.cancel()
        else:
            while self.idle and self.idle[0].idle_since <= idle_since:
                self.idle[0].end()

    def _pass_on(self, connection: Connection | None) -> None:
        """Let somebody else have a connection, or the room for one."""
        while self._waiting:
            if not (waiter := self._waiting.popleft()).done():
                waiter.set_result(connection)
                return
        if connection is None or connection.over:
            self._count -= 1
        else:
            self.idle.append(connection)
            self._connections.keep(connection)

    def _lost(self, connection: Connection) -> None:
        self._used.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
            self._count -= 1

    async def _open(self) -> Connection:
        connections, proxy = self._connections, self._connections.proxy
        at = self._url if proxy is None else proxy
        try:
            if not self._tls:
                return await self._connect(at, None)
            if proxy is None:
                return await self._connect(at, connections.tls())
            connection = await self._connect(at, None)
            try:
                await self._tunnel(connection, proxy)
            except BaseException:
                connection.end()
                raise
            return connection
        except TimeoutError as error:
            if isinstance(error, ConnectTimeout):
                raise
            raise ConnectTimeout from error
        except (OSError, RuntimeError, UnicodeError) as error:
            raise UpstreamUnavailable(
                f"cannot connect to {at.host}:{at.port}: {_reason(error)}", delivered=False
            ) from error

    async def _connect(self, at: URL, context: ssl.SSLContext | None) -> Connection:
        """Connect to one of the addresses, to each within the time for it."""
        loop = asyncio.get_running_loop()
        host = at.raw_host or ""
        infos: list[AddrInfoType] = list(await self._addresses(host, at.port or 0))
        while True:
            connection = Connection(self._lost)
            try:
                async with asyncio.timeout(self._connections.connect_timeout_seconds):
                    connected = await start_connection(
                        infos, happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, interleave=1, loop=loop
                    )
                    await loop.create_connection(
                        lambda made=connection: made,
                        sock=connected,
                        ssl=context,
                        server_hostname=host.rstrip(".") if context else None,
                    )
                if self._connections.closed:
                    connection.end()
                    raise _closed()
                if connection.over:  # the server spoke, or left, with the last of the handshake
                    raise connection.failure or ServerDisconnectedError
                self._used.add(connection)
                return connection
            except (OSError, RuntimeError):  # a TimeoutError, too, and what uvloop says of a socket
                del infos[0]  # each is the first once: a later one may have been hidden by it
                if not infos:
                    raise

    async def _addresses(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the host's addresses; one question at a time, however many want to know."""
        if self._lookup is None or self._lookup.done():
            loop = asyncio.get_running_loop()
            self._lookup = asyncio.ensure_future(
                loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            self._lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        lookup = self._lookup
        await asyncio.wait([lookup])
        if lookup.cancelled():
            raise _closed()
        return lookup.result()

    async def _tunnel(self, connection: Connection, proxy: URL) -> None:
        host = self._url.host_subcomponent or ""
        target = f"{host}:{self._url.port}"
        headers = {"Host": target} | authorization("Proxy-Authorization", proxy)
        head = head_of(f"CONNECT {target} HTTP/1.1", headers) + b"\r\n"
        response = await connection.ask(head, Response(lambda _: 0, bodyless=True))
        if not 200 <= response.status < 300:
            reason = printable(response.reason.decode("latin-1"), 200)
            raise UpstreamUnavailable(
                f"the proxy does not connect: HTTP {response.status} {reason}", delivered=False
            )
        if connection.over:
            raise ServerDisconnectedError
        async with asyncio.timeout(self._connections.connect_timeout_seconds):
            await connection.start_tls(
                self._connections.tls(), (self._url.raw_host or "").rstrip(".")
            )


class Connections:
    """Connections to one CA, kept and reused, whichever of its URLs they lead to.

    Args:
        connect_timeout_seconds: For TCP and TLS, for each address of the host.
        max_response_bytes: Larger answers are refused, unread.
        max_connections: To each host; further exchanges wait for one, within their deadline.
        ssl_context: How to speak TLS; by default with the system's trust store.
        proxy: URL of an HTTP proxy; by default none, whatever the environment says.
    """

    def __init__(
        self,
        *,
        connect_timeout_seconds: float = 3.0,
        max_response_bytes: int = 262_144,
        max_connections: int = 64,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
    ) -> None:
        self.connect_timeout_seconds = connect_timeout_seconds
        self.max_response_bytes = max_response_bytes
        self.max_connections = max_connections
        self.proxy = None if proxy is None else URL(proxy)
        self.closed = False
        self._ssl_context = ssl_context
        self._hosts: dict[tuple[str, str | None, int | None], Host] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def host(self, url: URL) -> Host:
        """Return the connections that lead to a URL."""
        name = url.scheme, url.raw_host, url.port
        return self._hosts.setdefault(name, Host(url.origin(), self))

    def tls(self) -> ssl.SSLContext:
        """Return how to speak TLS."""
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context

    def keep(self, connection: Connection) -> None:
        """Have an idle connection ended when it has been idle for long."""
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(_KEEPALIVE_SECONDS, self._end_idle, loop)

    async def close(self) -> None:
        """Close the connections; exchanges under way fail."""
        self.closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for host in self._hosts.values():
            host.close()
        await asyncio.sleep(0)  # the loop closes the sockets

    def _end_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        for host in self._hosts.values():
            host.close(idle_since=loop.time() - _KEEPALIVE_SECONDS)
        oldest = [host.idle[0].idle_since for host in self._hosts.values() if host.idle]
        if oldest:
            self._sweep = loop.call_at(min(oldest) + _KEEPALIVE_SECONDS, self._end_idle, loop)


def authorization(header: str, url: URL) -> dict[str, str]:
    """Return the header that tells a URL's user and password (RFC 7617); none if it has none."""
    if url.user is None and url.password is None:
        return {}
    credentials = f"{url.user or ''}:{url.password or ''}"
    return {header: f"Basic {b64encode(credentials.encode()).decode()}"}


def head_of(request_line: str, headers: Mapping[str, str]) -> bytes:
    """Return a request's head, but for its last, empty line.

    Raises:
        UpstreamUnavailable: There is a line's end within a line.
    """
    lines = [request_line, *(f"{name}: {value}" for name, value in headers.items())]
    if not all(line.isprintable() for line in lines):
        raise UpstreamUnavailable("the request is no text of one line each", delivered=False)
    return "".join(f"{line}\r\n" for line in lines).encode()


def in_words(error: Exception) -> str:
    """Return the kind of an error and what it says."""
    return f"{type(error).__name__}: {printable(str(error), 200)}"


def _closed() -> UpstreamUnavailable:
    return UpstreamUnavailable("the connection to the CA was closed", delivered=False)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        # asyncio puts the address in place of the reason.
        number = error.errno or 0
        said = os.strerror(number) if number > 0 else error.strerror
        return printable(said or str(error), 200) or type(error).__name__
    return in_words(error)
