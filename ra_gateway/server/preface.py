"""What comes on a connection before HTTP: the header of a balancer (PROXY protocol), TLS, or one after the other.

Until both are over, HTTP's parser and its task do not exist: a connection that says nothing costs a socket and a few
octets. It is counted as any other, and has the time for its headers in all.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

from ra_gateway.server.proxy_protocol import Header, NotProxied

_SHUTDOWN_SECONDS: Final = 1.0
"""How long a client's own end of TLS is waited for, once ours was sent."""

TLSContext = Callable[[], ssl.SSLContext]
"""Returns what the next connection is met with; certificates change while we run."""


class Connection(Protocol):
    """A connection that is counted, and speaks HTTP when it is told to."""

    def open(self, wire: asyncio.Transport) -> bool:
        """Count it; False where there is no room, and it was closed."""

    def identify(self, peer: str) -> bool:
        """Count it as one of another address; False where that has no room, and it was closed."""

    def refuse(self, reason: str) -> None:
        """Close it and tell why, unless it was closed already."""

    def lose(self) -> None:
        """Forget it: it ended before there was HTTP."""

    def speak(self, transport: asyncio.Transport, octets: bytes) -> None:
        """Begin with HTTP, of which some may have come already."""


class Preface(asyncio.BufferedProtocol):
    """Reads what comes before HTTP, and hands the connection over.

    Args:
        connection: Whose it is.
        is_proxied: Whether a PROXY header comes first.
        tls: None for none.
        seconds: For a TLS handshake.
    """

    def __init__(
        self, connection: Connection, is_proxied: bool, tls: TLSContext | None, seconds: float
    ) -> None:
        self._connection = connection
        self._header = Header() if is_proxied else None
        self._tls = tls
        self._seconds = seconds
        self._buffer = bytearray()
        self._wire: asyncio.Transport
        self._handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        if not self._connection.open(self._wire):
            return
        if self._header is None:
            self._go_on()

    def get_buffer(self, sizehint: int) -> bytearray:
        # No octet more than belongs to the header: what follows may be TLS, which reads for itself.
        self._buffer = bytearray(1 if self._header is None else self._header.wanted)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        header = self._header
        if header is None or not header.wanted:  # it was refused
            return
        try:
            header.feed(bytes(self._buffer[:nbytes]))
        except NotProxied as error:
            header.wanted = 0
            self._connection.refuse(str(error))
            return
        if not header.wanted and (not header.source or self._connection.identify(header.source)):
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.lose()

    def _go_on(self) -> None:
        self._wire.pause_reading()
        if self._tls is not None:
            self._handshake = asyncio.ensure_future(self._shake_hands(self._tls()))
            return
        self._connection.speak(self._wire, b"")
        self._wire.resume_reading()

    async def _shake_hands(self, context: ssl.SSLContext) -> None:
        early = _Early(self._connection)
        try:
            secured = await asyncio.get_running_loop().start_tls(
                self._wire,
                early,
                context,
                server_side=True,
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except ssl.SSLError as error:
            self._connection.refuse(f"the TLS handshake failed: {_reason(error)}")
            return
        except (OSError, RuntimeError):  # the client has gone, or has been sent away
            self._connection.lose()
            return
        if secured is None or early.is_lost or self._wire.is_closing():
            self._connection.lose()
            return
        self._connection.speak(secured, bytes(early.octets))


class _Early(asyncio.Protocol):
    """Keeps what comes with the end of the handshake, until HTTP begins in the next turn of the event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.octets = bytearray()
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.octets += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._connection.lose()


def _reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, which is one of its fixed texts."""
    return (error.reason or type(error).__name__).replace("_", " ").lower()
