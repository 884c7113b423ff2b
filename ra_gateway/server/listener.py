"""What all HTTP listeners have in common: deadlines, limits, draining. What is served is a subclass's business.

aiohttp's low-level server parses HTTP and runs one handler task for each request. What it leaves
open is here:

- Deadlines. aiohttp has a keep-alive timeout only. Each connection therefore notes what it is
  doing and since when, and one sweep over all connections, a few times within the shortest limit,
  ends those that stay in a phase for too long: no timers are set and cancelled for each request.
- What comes before HTTP: TLS, and a balancer's word on whom it speaks for (`preface`). Where there is neither, a
  connection is HTTP's from its first octet.
- Limits to connections, of one address and in all, to requests in the handler, to heads, and to bodies, whole or
  chunked: to their octets, and to how many chunks they come in.
  A connection too many is not turned away while another one waits for its client: the one that has waited longest
  goes. So whoever opens connections and says nothing shuts nobody out.

Nothing that a client sent is repeated to it, and the text of a refusal is fixed.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import ClassVar, Final, NotRequired, ParamSpec, Required, TypedDict, TypeVar, cast

from aiohttp import web

from ra_gateway.errors import printable
from ra_gateway.events import Component, EventSink, HTTPRefused, unheard
from ra_gateway.peers import Networks, forwarded_client, network_of
from ra_gateway.server.connection_limits import PROXIES, Counters, Room
from ra_gateway.server.preface import Abortable, Preface, TLSContext
from ra_gateway.server.shared_sockets import SharedServer, SharedSockets

P = ParamSpec("P")
T = TypeVar("T")

_BACKLOG: Final = 1024
"""Connections the kernel holds until we accept them: a site of a thousand base stations at once."""

_LINGERING_SECONDS: Final = 1.0
"""How long the rest of a refused body is read and dropped.

Closing at once would reset the connection, and the client would not see why it was refused.
"""

_MAX_HEADERS: Final = 64
_MAX_FIELD_OCTETS: Final = 2048
"""Of a head, which each connection may hold for as long as it has time for its headers; proxies add a dozen."""

_MAX_LINES: Final = 4096
"""Line ends that a connection sends before it gets an answer. The chunks of a body have two each, and cost what a
message costs; in octets as they come there is one in 65,536. A hundred requests sent ahead have some five each."""

_GRACE_SECONDS: Final = 0.02
"""How long a drain waits for requests that have arrived but are not yet with the handler."""

_CANCELLATION_SECONDS: Final = 1.0
"""How long a drain waits for a handler that it cancelled."""

RETRY: Final = {"Retry-After": "1"}
"""Told with 503: what is in flight is a queue of less than a second, except when something behind us hangs."""

_MOST_TOLD: Final = 10
_TELLING_SECONDS: Final = 10.0
"""Refusals that are told in so many seconds; of the rest their number."""

_MAX_METHOD_CHARS: Final = 16
_MAX_PATH_CHARS: Final = 128

_NEVER_SECONDS: Final = 10.0**9

_log = logging.getLogger(__name__)


# What a connection is doing; all but WORKING have a time limit, READING (a body) one of its own. Plain
# numbers, because Python 3.11 looks members of an Enum up ten times as slowly, and every request passes
# through all of these.
_HEADERS: Final = 0
_WORKING: Final = 1
_ANSWERING: Final = 2
_IDLE: Final = 3
_CLOSING: Final = 4
_READING: Final = 5

_WAITING: Final = (_HEADERS, _READING, _IDLE, _CLOSING)
"""Phases in which it is the client's turn and no request is being answered."""


_TOO_SLOW: Final = {
    _HEADERS: "the headers of a request did not come in time",
    _ANSWERING: "the client did not take its answer in time",
}
"""What is told of clients that are too slow; a body has a status, and idle connections are no news."""


class Refusal(Exception):
    """A request is answered with an HTTP status and the listener's fixed text for it.

    Args:
        headers: Besides the usual ones.
    """

    def __init__(self, status: HTTPStatus, **headers: str) -> None:
        self.status = status
        self.headers = headers


# Without a Server header of ours, aiohttp tells the versions of Python and of itself.
SERVER: Final[Mapping[str, str]] = {"Server": "ra_gateway"}
NOT_STORED: Final[Mapping[str, str]] = {"Cache-Control": "no-store", **SERVER}


class _Connection(web.RequestHandler):
    """aiohttp's connection, which also knows its phase and does not tell what it stumbled over."""

    __slots__ = ("_lines", "_listener", "_room", "_wire", "network", "peer", "phase", "since")

    def __init__(
        self, listener: Listener, server: web.Server, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            # The sweep closes idle connections. 0 would not switch aiohttp's timer off.
            keepalive_timeout=_NEVER_SECONDS,
            # A compressed body could unpack to any size; Content-Encoding is refused instead.
            auto_decompress=False,
            # A connection buffers up to twice this before it stops reading.
            read_bufsize=listener.max_body_bytes,
            max_headers=_MAX_HEADERS,
            max_field_size=_MAX_FIELD_OCTETS,
            lingering_time=min(_LINGERING_SECONDS, listener.body_timeout_seconds),
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
        )
        self._listener = listener
        self._room = listener.room
        self._wire: Abortable | None = None
        self._lines = 0
        self.peer = ""
        self.network = b""
        self.phase = _WORKING
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast(asyncio.Transport, transport)
        if self._wire is None and not self.open(wire):
            return
        self._wire = wire
        super().connection_made(transport)

    def open(self, wire: asyncio.Transport) -> bool:
        """Count the connection; False where there is no room, and it was closed."""
        # None if the client has gone already. A listener on "::" sees IPv4 as ::ffff:192.0.2.1.
        address = wire.get_extra_info("peername") or ("",)
        self.peer = str(address[0]).removeprefix("::ffff:")
        self.network = self._listener.network_of(self.peer)
        if not self._listener.admit(self):
            # Nothing of this connection may reach aiohttp, not even its end.
            wire.set_protocol(asyncio.Protocol())
            wire.abort()
            return False
        self._wire = wire
        self.enter(_HEADERS)
        return True

    def identify(self, peer: str) -> bool:
        """Count it as one of another address; False where that has no room, and it was closed."""
        self.peer = peer
        if not self._room.move(self, self._listener.network_of(peer)):
            self.refuse("too many connections")
            return False
        return True

    def refuse(self, reason: str) -> None:
        """Close it before there is HTTP and tell why, unless it was closed already."""
        if self._room.leave(self):
            self._listener.refuse_connection(self.peer, reason)
            assert self._wire is not None
            self._wire.abort()

    def lose(self) -> None:
        """Forget it: it ended before there was HTTP."""
        self._room.leave(self)

    def begin(self, wire: Abortable) -> None:
        """Note how to close it until it has a transport."""
        self._wire = wire

    def connection_lost(self, exc: BaseException | None) -> None:
        self._room.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.phase is _IDLE:
            self.enter(_HEADERS)
        self._lines += data.count(b"\r\n")
        if self._lines > _MAX_LINES:  # not parsed, and not answered: parsing is what costs
            self._listener.counters.refuse(None)
            self._listener.tell_refusal(self.peer, None, "more lines than a request has")
            assert self._wire is not None
            self._wire.abort()
            return
        super().data_received(data)
        if self._messages and self.phase is _HEADERS:  # its handler begins in a turn or two
            self.enter(_WORKING)

    def enter(self, phase: int) -> None:
        """Note that a phase begins."""
        if phase is _ANSWERING:
            self._lines = 0
        waits = phase in _WAITING
        if waits or self.phase in _WAITING:
            self._room.note(self, waits=waits)
        self.phase = phase
        self.since = self._loop.time()

    def expire(self) -> None:
        """Close, or cut off a client that does not take what was sent to it."""
        if self.phase in _TOO_SLOW:
            self._listener.tell_cut_off(self.peer, _TOO_SLOW[self.phase])
        if self.phase in (_ANSWERING, _CLOSING) or self.transport is None:
            assert self._wire is not None
            self._wire.abort()
        else:
            self.enter(_CLOSING)
            self.force_close()

    def force_close(self) -> None:
        """Close, also where HTTP has not begun yet."""
        if self.transport is None and self._wire is not None:
            self._wire.abort()
        super().force_close()

    def let_go(self) -> None:
        """Close now: another connection needs the room."""
        assert self._wire is not None
        self._listener.tell_cut_off(
            self.peer, "closed for another one: as many connections are open as may be"
        )
        if self.phase is _IDLE:  # what was answered last may still be on its way
            self.force_close()
        else:
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse what is not HTTP; aiohttp's own answer would quote it."""
        if status != HTTPStatus.BAD_REQUEST:
            _log.error("the listener for %s failed", self._listener.serves, exc_info=exc)
        return self._listener.refuse_unreadable(self)


class ListenerLimits(TypedDict, total=False):
    """What a listener bears before it says no: arguments of `Listener`."""

    max_body_bytes: int
    header_timeout_seconds: float
    body_timeout_seconds: float
    idle_timeout_seconds: float
    max_connections: int
    max_connections_per_address: int
    max_requests_in_flight: int


class ListenerProxies(TypedDict, total=False):
    """Whom it believes for whom they speak."""

    trusted_proxies: Networks
    proxy_protocol: bool
    forwarded_for: bool


class ListenerSettings(ListenerLimits, ListenerProxies):
    """Where it listens as well."""

    host: Required[str]
    port: Required[int]
    sink: NotRequired[EventSink]
    by: NotRequired[Component]
    tls: NotRequired[TLSContext | None]
    sockets: NotRequired[SharedSockets | None]


class Listener(ABC):
    """Listens for HTTP/1.0 and HTTP/1.1.

    Args:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        max_body_bytes: Larger bodies are refused (413) without being read to their end.
        header_timeout_seconds: From the opening of a connection, or the first octet of a later
            request, to the end of its headers. Then the connection is closed.
        body_timeout_seconds: To receive a body (then 408), and for a client to take its answer.
        idle_timeout_seconds: Between an answer and the next request.
        max_connections: For one more, the connection is closed that has waited longest for its client; the
            new one where none waits.
        max_connections_per_address: The same for those of one IPv4 address or one IPv6 /64, among themselves.
        max_requests_in_flight: In the handler; further ones get 503.
        sink, by: Takes what was refused here, and whose listener it is.
        tls: What new connections are met with; None for HTTP without TLS.
        trusted_proxies: Who is believed for whom it speaks.
        proxy_protocol: Whether they, and nobody else, connect, with a PROXY header first.
        forwarded_for: Whether X-Forwarded-For counts in their requests.
        sockets: What to listen on in place of host and port, where other processes do, too.

    The reasons for the numbers are in the configuration reference.
    """

    name: ClassVar[str]
    """What it is called in metrics and in the log."""

    serves: ClassVar[str]
    """What is served, for the log."""

    most_of_limit: ClassVar[float] = 1.0
    """Of `max_requests_in_flight`, what is never exceeded; a subclass chooses what comes on top of 1."""

    refusals: ClassVar[Mapping[HTTPStatus, str]]
    """What a client is told, whatever it was that it sent."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        max_body_bytes: int = 65_536,
        header_timeout_seconds: float = 10.0,
        body_timeout_seconds: float = 10.0,
        idle_timeout_seconds: float = 75.0,
        max_connections: int = 1000,
        max_connections_per_address: int = 500,
        max_requests_in_flight: int = 256,
        sink: EventSink = unheard,
        by: Component = Component.gateway,
        tls: TLSContext | None = None,
        trusted_proxies: Networks = Networks(),  # noqa: B008  # cannot be changed
        proxy_protocol: bool = False,
        forwarded_for: bool = False,
        sockets: SharedSockets | None = None,
    ) -> None:
        self._tls = tls
        self._sockets = sockets
        self._trusted_proxies = trusted_proxies
        self._proxy_protocol = proxy_protocol
        self._forwarded_for = forwarded_for
        self._sink = sink
        self._by = by
        self._told_since = -math.inf
        self._told_count = 0
        self.max_body_bytes = max_body_bytes
        self.body_timeout_seconds = body_timeout_seconds
        self._max_requests_in_flight = max_requests_in_flight
        self.counters = Counters()
        self._host = host
        self._port = port
        self.room: Room[_Connection] = Room(
            max_connections, max_connections_per_address, self.counters
        )
        self._tasks: set[asyncio.Task[object]] = set()
        self._in_flight_count = 0
        self._draining = False
        self._server: asyncio.Server | SharedServer | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._patience_seconds = (
            header_timeout_seconds,
            math.inf,
            body_timeout_seconds,
            idle_timeout_seconds,
            body_timeout_seconds,
            math.inf,
        )

    # --- What a subclass says and uses ------------------------------------------------------------

    @abstractmethod
    async def respond(self, request: web.BaseRequest, peer: str) -> web.Response:
        """Answer a request whose headers have arrived.

        Args:
            peer: The client's IP address.

        Raises:
            Refusal: The request is answered with that status.
        """

    async def handled(
        self, handle: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Have a handler answer, within the limit to requests in flight.

        Raises:
            Refusal: There are too many; or the handler failed, which goes to the log only.
        """
        if self.is_above(self.most_of_limit):
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **RETRY)
        self.counters.requests += 1
        self._in_flight_count += 1
        try:
            return await handle(*args, **kwargs)
        except Refusal:
            raise
        except Exception:
            # A bug: handlers answer everything. The client is told no more than that it failed.
            _log.exception("the handler of %s failed", self.serves)
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR) from None
        finally:
            self._in_flight_count -= 1

    def is_above(self, share: float) -> bool:
        """Return whether requests in the handler take a share of their limit."""
        return self._in_flight_count >= math.ceil(share * self._max_requests_in_flight)

    async def body(self, request: web.BaseRequest) -> bytes:
        """Return the body of a request.

        Raises:
            Refusal: It is too large, too slow or broken.
        """
        content = request.content
        limit = self.max_body_bytes
        if (request.content_length or 0) > limit:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            if content.is_eof():
                body = content.read_nowait()
            else:
                body = await self._remaining_body(request)
        except web.RequestPayloadError:
            raise Refusal(HTTPStatus.BAD_REQUEST) from None
        if len(body) > limit:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return body

    async def _remaining_body(self, request: web.BaseRequest) -> bytes:
        """Read until the end, or until there is more than we take."""
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        if request.headers.get("Expect", "").lower() == "100-continue" and request.version.minor:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        parts = bytearray()
        connection = cast(_Connection, request.protocol)
        connection.enter(_READING)
        try:
            async with asyncio.timeout(self.body_timeout_seconds):
                while part := await request.content.readany():
                    parts += part
                    if len(parts) > self.max_body_bytes:
                        break
        except TimeoutError:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT) from None
        finally:
            connection.enter(_WORKING)
        return bytes(parts)

    # --- Life -------------------------------------------------------------------------------------

    @property
    def limits(self) -> tuple[int, int]:
        """Most connections, and most requests in the handler."""
        return self.room.limit, self._max_requests_in_flight

    @property
    def connections_count(self) -> int:
        """Return how many connections are open."""
        return len(self.room.connections)

    @property
    def in_flight_count(self) -> int:
        """Return how many requests are in the handler."""
        return self._in_flight_count

    async def start(self) -> tuple[str, int]:
        """Begin to listen, and return the address and port.

        Raises:
            OSError: The address cannot be had, or the port is taken.
        """
        loop = asyncio.get_running_loop()
        server = web.Server(self._serve)

        def accepting() -> asyncio.BaseProtocol:
            return self._accepting(_Connection(self, server, loop))

        if self._sockets is not None:
            shared = self._server = SharedServer(self._sockets, accepting)
            host, port = shared.start(_BACKLOG)
        else:
            listening = self._server = await loop.create_server(
                accepting, self._host, self._port, backlog=_BACKLOG
            )
            host, port = listening.sockets[0].getsockname()[:2]
        self._sweep(loop)
        return host, port

    def _accepting(self, connection: _Connection) -> asyncio.BaseProtocol:
        """Return what hears the first octets of a connection."""
        if self._tls is None and not self._proxy_protocol:
            return connection
        # The sweep comes before the end of a handshake's own time: it counts whom it ends.
        return Preface(
            connection, self._proxy_protocol, self._tls, 2 * self._patience_seconds[_HEADERS]
        )

    async def drain(self, seconds: float) -> None:
        """Stop: accept nothing new, answer what was received, then close.

        Args:
            seconds: Time for that; handlers that are still at work then are cancelled.
        """
        if self._server is None or self._draining:
            return
        self._draining = True
        self._server.close()
        await asyncio.sleep(_GRACE_SECONDS)
        for connection in [c for c in self.room.connections if not _is_busy(c)]:
            connection.force_close()
        if not await self._is_quiet(seconds):
            for task in self._tasks:
                task.cancel()
            await self._is_quiet(_CANCELLATION_SECONDS)
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self.room.connections):
            connection.force_close()

    async def _is_quiet(self, seconds: float) -> bool:
        """Wait until no request is at work, those included whose handlers are yet to begin."""
        try:
            async with asyncio.timeout(seconds):
                while self._tasks or any(map(_is_busy, self.room.connections)):  # noqa: ASYNC110  # phases set no event
                    await asyncio.sleep(_GRACE_SECONDS)
        except TimeoutError:
            return False
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        patience = self._patience_seconds
        for connection in [c for c in self.room.connections if now - c.since > patience[c.phase]]:
            self.counters.connections_timed_out += 1
            connection.expire()
        # A limit is exceeded by at most a quarter of the shortest one, or a second.
        interval = min(1.0, min(patience) / 4)
        self._sweeping = loop.call_later(interval, self._sweep, loop)

    # --- What a connection asks -------------------------------------------------------------------

    def admit(self, connection: _Connection) -> bool:
        """Return whether a connection may stay, and count it if so."""
        if self._proxy_protocol and connection.peer not in self._trusted_proxies:
            self.refuse_connection(connection.peer, "comes from none of the trusted proxies")
            return False
        if not self.room.take(connection):
            self.refuse_connection(connection.peer, "too many connections")
            return False
        return True

    def network_of(self, peer: str) -> bytes:
        """Return what connections of an address are counted under."""
        believes = self._proxy_protocol or self._forwarded_for
        return PROXIES if believes and peer in self._trusted_proxies else network_of(peer)

    def refuse_connection(self, peer: str, reason: str) -> None:
        """Count and tell that a connection was not taken."""
        self.counters.connections_refused += 1
        self.tell_refusal(peer, None, reason)

    def refuse_unreadable(self, connection: _Connection) -> web.StreamResponse:
        """Answer 400 to what is not HTTP, and close."""
        status = HTTPStatus.BAD_REQUEST
        self.counters.refuse(status)
        self.tell_refusal(connection.peer, status, self.refusals[status])
        connection.enter(_CLOSING)
        response = self.refused(Refusal(HTTPStatus.BAD_REQUEST))
        response.force_close()
        return response

    def tell_cut_off(self, peer: str, reason: str) -> None:
        """Count and tell that a connection was closed before its request was whole and answered."""
        self.counters.connections_cut_off += 1
        self.tell_refusal(peer, None, reason)

    def tell_refusal(
        self, peer: str, status: int | None, reason: str, request: web.BaseRequest | None = None
    ) -> None:
        """Tell of a refusal, unless several were told just now: a stranger fills no log."""
        now = asyncio.get_running_loop().time()
        if now - self._told_since >= _TELLING_SECONDS:
            self._told_since, self._told_count = now, 0
        if self._told_count >= _MOST_TOLD:
            self.counters.refusals_untold += 1
            return
        self._told_count += 1
        untold, self.counters.refusals_untold = self.counters.refusals_untold, 0
        method = path = ""
        if request is not None:
            method = printable(request.method, _MAX_METHOD_CHARS)
            path = printable(request.raw_path.partition("?")[0], _MAX_PATH_CHARS)
        refused = self.counters.all_refused
        status = None if status is None else int(status)
        self._sink(
            HTTPRefused(
                self._by, self.name, peer, method, path, status, reason.strip(), refused, untold
            )
        )

    # --- One request ------------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(_Connection, request.protocol)
        task = cast("asyncio.Task[object]", asyncio.current_task())
        self._tasks.add(task)
        if connection.phase is not _WORKING:
            connection.enter(_WORKING)
        try:
            return await self._answer(request, connection)
        except ConnectionError:  # the client has gone; there is nobody to take this
            return self.refused(Refusal(HTTPStatus.BAD_REQUEST))
        finally:
            self._tasks.discard(task)

    async def _answer(
        self, request: web.BaseRequest, connection: _Connection
    ) -> web.StreamResponse:
        peer = connection.peer
        try:
            if self._forwarded_for:
                fields = request.headers.getall("X-Forwarded-For", ())
                peer = forwarded_client(peer, fields, self._trusted_proxies)
                if not self.room.move(connection, self.network_of(peer)):
                    raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **RETRY)
            response = await self.respond(request, peer)
        except Refusal as refusal:
            self.counters.refuse(refusal.status)
            self.tell_refusal(peer, refusal.status, self.refusals[refusal.status], request)
            response = self.refused(refusal)
        keep = self._keeps(request)
        if not keep:
            response.force_close()
        connection.enter(_ANSWERING)
        await response.prepare(request)
        await response.write_eof()
        await request.writer.drain()
        connection.enter(_IDLE if keep else _CLOSING)
        return response

    def _keeps(self, request: web.BaseRequest) -> bool:
        # With the rest of a body still to come, the next request could not be told from it.
        return request.keep_alive and request.content.is_eof() and not self._draining

    def refused(self, refusal: Refusal) -> web.Response:
        """Return the answer that tells of a refusal."""
        return web.Response(
            status=refusal.status,
            text=self.refusals[refusal.status],
            headers={**NOT_STORED, **refusal.headers},
        )


def _is_busy(connection: _Connection) -> bool:
    return connection.phase in (_WORKING, _READING, _ANSWERING)


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Return whether a body is compressed, which no listener takes."""
    return headers.get("Content-Encoding", "identity").strip().lower() != "identity"
