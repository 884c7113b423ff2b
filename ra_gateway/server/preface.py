"""What comes on a connection before HTTP: the header of a balancer (PROXY protocol), TLS, or one after the other.

Until both are over, HTTP's parser and its task do not exist: a connection that says nothing costs a socket and a small
task. It is counted as any other, and has the time for its headers in all.

Nothing may be read that belongs to TLS. A transport reads what it can get, and may begin with that before a protocol
can stop it (uvloop); so it is left for its own socket, of which nothing has been read yet.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from ra_gateway.server.proxy_protocol import Header, NotProxied

_SHUTDOWN_SECONDS: Final = 1.0
"""How long a client's own end of TLS is waited for, once ours was sent."""

TLSContext = Callable[[], ssl.SSLContext]
"""Returns what the next connection is met with; certificates change while we run."""


class Abortable(Protocol):
    """A transport, or what becomes one."""

    def abort(self) -> None:
        """Close it now."""


class Connection(Protocol):
    """A connection that is counted, and a protocol of asyncio."""

    def open(self, wire: asyncio.Transport) -> bool:
        """Count it; False where there is no room, and it was closed."""

    def begin(self, wire: Abortable) -> None:
        """Note how to close it until it has a transport."""

    def identify(self, peer: str) -> bool:
        """Count it as one of another address; False where that has no room, and it was closed."""

    def refuse(self, reason: str) -> None:
        """Close it and tell why, unless it was closed already."""

    def lose(self) -> None:
        """Forget it: it ended before there was HTTP."""


class Preface(asyncio.Protocol):
    """Reads what comes before HTTP, and hands the connection over.

    Args:
        connection: Whose it is; also what speaks HTTP then.
        is_proxied: Whether a PROXY header comes first.
        tls: None for none.
        seconds: For a TLS handshake.
    """

    def __init__(
        self, connection: Connection, is_proxied: bool, tls: TLSContext | None, seconds: float
    ) -> None:
        self._connection = connection
        self._is_proxied = is_proxied
        self._tls = tls
        self._seconds = seconds
        self._task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = cast(asyncio.Transport, transport)
        if not self._connection.open(wire):
            return
        client = socket.socket(fileno=os.dup(wire.get_extra_info("socket").fileno()))
        client.setblocking(False)
        wire.set_protocol(asyncio.Protocol())
        wire.abort()  # which closes one of two names of the socket, and sends nothing
        self._task = asyncio.get_running_loop().create_task(self._run(client))
        self._connection.begin(self)

    def abort(self) -> None:
        """Close the connection now."""
        self._task.cancel()

    async def _run(self, client: socket.socket) -> None:
        is_ours = True
        try:
            if self._is_proxied:
                source = await _source(client)
                if source and not self._connection.identify(source):
                    return
            is_ours = False
            await self._hand_over(client)
        except NotProxied as error:
            self._connection.refuse(str(error))
        except ssl.SSLError as error:
            self._connection.refuse(f"the TLS handshake failed: {_reason(error)}")
        except OSError:  # the client has gone
            self._connection.lose()
        except asyncio.CancelledError:
            self._connection.lose()
            raise
        finally:
            if is_ours:  # and not the transport's already
                client.close()

    async def _hand_over(self, client: socket.socket) -> None:
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {
                "ssl": self._tls(),
                "ssl_handshake_timeout": self._seconds,
                "ssl_shutdown_timeout": _SHUTDOWN_SECONDS,
            }
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: cast(asyncio.Protocol, self._connection), client, **options
        )


async def _source(client: socket.socket) -> str:
    """Return whom a balancer speaks for, "" if for itself; no octet behind its header is read.

    Raises:
        NotProxied: There is no header.
        OSError: The client has gone.
    """
    loop, header = asyncio.get_running_loop(), Header()
    while header.wanted:
        octets = await loop.sock_recv(client, header.wanted)
        if not octets:
            raise ConnectionResetError("the client has gone")
        header.feed(octets)
    return header.source


def _reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, which is one of its fixed texts."""
    return (error.reason or type(error).__name__).replace("_", " ").lower()
