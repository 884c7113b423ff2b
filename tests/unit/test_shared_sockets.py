"""Sockets of one port for several processes: who takes which connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from ra_gateway.app.running import CannotListen, bound
from ra_gateway.server.shared_sockets import SharedServer, SharedSockets
from tests.support.patience import PATIENCE_SECONDS

COUNT: Final = 40


class Accepted:
    """Counts connections, and says at once who has taken each."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def __call__(self) -> asyncio.Protocol:
        name = self.name

        class Greeting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.WriteTransport)
                transport.write(name)
                transport.close()

        return Greeting()


@contextmanager
def server(own: list[socket.socket], others: list[socket.socket], name: bytes) -> Iterator[int]:
    """Serve as one of several processes would, which each has file descriptors of its own."""
    found = SharedSockets([item.dup() for item in own], [item.dup() for item in others])
    serving = SharedServer(found, Accepted(name))
    try:
        yield serving.start(128)[1]
    finally:
        serving.close()


async def greeted(port: int) -> bytes:
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        name = await reader.read()
        writer.close()
        return name


async def test_connections_come_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ra_gateway.server.shared_sockets._LOOK_SECONDS", 3600.0)
    first, second = await bound("127.0.0.1", 0, "server", 2)
    with server(first, second, b"1") as port, server(second, first, b"2"):
        names = [await greeted(port) for _ in range(COUNT)]
    assert set(names) == {b"1", b"2"}  # of 40, all to one of two: once in 10^12
    close(first, second)


async def test_what_waits_for_one_that_does_not_take_it_another_one_takes() -> None:
    """It hangs, or has ended and its parent has the socket yet."""
    first, second = await bound("127.0.0.1", 0, "server", 2)
    for item in second:
        item.listen(128)
    with server(first, second, b"1") as port:
        assert {await greeted(port) for _ in range(COUNT)} == {b"1"}
    close(first, second)


async def test_one_that_does_not_listen_yet_is_sent_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ra_gateway.server.shared_sockets._LOOK_SECONDS", 0.01)
    first, second = await bound("127.0.0.1", 0, "server", 2)
    with server(first, second, b"1") as port:
        assert {await greeted(port) for _ in range(COUNT)} == {b"1"}
    close(first, second)


async def test_another_service_on_the_port_is_in_the_way() -> None:
    """Of the same kind, too, though the kernel would let them share it."""
    first, second = await bound("127.0.0.1", 0, "server", 2)
    told = "another process listens there already"
    with server(first, second, b"1") as port, pytest.raises(CannotListen, match=told):
        await bound("127.0.0.1", port, "server", 2)
    close(first, second)
    close(*await bound("::1", 0, "server", 2))


def close(*sockets: list[socket.socket]) -> None:
    for found in sockets:
        for item in found:
            item.close()
