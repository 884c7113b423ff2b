"""A CMP listener with a handler that echoes, and raw HTTP to it: clients are not as polite as libraries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from ra_gateway.cmp.responder import Reply
from ra_gateway.server.cmp import CMPListener
from tests.support.patience import PATIENCE_SECONDS

PATH = "/.well-known/cmp"
ROUTES = {PATH: "ran", "/ejbca/publicweb/cmp/ran": "ran", "/pkix/": "ran"}
PROFILES = {"lab": "lab"}
CMP_TYPE = "application/pkixcmp"


class Echo:
    """Answers with the request and where it was posted; can be held back."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, str, str, str, str]] = []
        self.entered = 0
        self.cancelled = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str, operation: str, peer: str
    ) -> Reply:
        self.calls.append((der, endpoint, profile, operation, peer))
        self.entered += 1
        if der == b"raise":
            raise RuntimeError("secret detail")
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Reply(b"0" + der, der != b"not understood")


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    version: str


class Client:
    """One connection, and raw HTTP on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def response(self, seconds: float = PATIENCE_SECONDS) -> Response:
        async with asyncio.timeout(seconds):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii")
            status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
            headers = {name.lower(): text for name, text in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        version, status, _ = status_line.split(" ", 2)
        return Response(int(status), headers, body, version)

    async def post(self, body: bytes, **more: Any) -> Response:
        self.send(request(body, **more))
        return await self.response()

    async def is_closed(self, seconds: float = PATIENCE_SECONDS) -> bool:
        """Return whether the server closes within this time, without another octet."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False


def request(
    body: bytes,
    *,
    path: str = PATH,
    method: str = "POST",
    version: str = "1.1",
    content_type: str | None = CMP_TYPE,
    headers: str = "",
    length: int | None = None,
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: gateway"]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return ("\r\n".join(lines) + "\r\n" + headers + "\r\n").encode() + body


class Served(NamedTuple):
    listener: CMPListener
    echo: Echo
    port: int
    connect: Callable[[], Awaitable[Client]]


@asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[Served]:
    echo = Echo()
    listener = CMPListener(
        echo, host="127.0.0.1", port=0, routes=ROUTES, profiles=PROFILES, **limits
    )
    host, port = await listener.start()
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection(host, port)))
        return clients[-1]

    try:
        yield Served(listener, echo, port, connect)
    finally:
        echo.may_answer.set()
        await listener.drain(1)
        for client in clients:
            client.writer.close()
        await asyncio.gather(
            *(client.writer.wait_closed() for client in clients), return_exceptions=True
        )


async def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is awaited is on the other side of a socket
            await asyncio.sleep(0.005)
