"""Whose connection is closed before its request was whole is found in the log: too slow, or for another's sake."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from ra_gateway.peers import Networks
from tests.support.raw_http import PATH, Served, request, served, until

PROXIED: Final[dict[str, Any]] = {
    "trusted_proxies": Networks(["127.0.0.0/8"]),
    "proxy_protocol": True,
}


def no_certificate() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


Case = Callable[[Served], Awaitable[object]]


async def slow_head(gateway: Served) -> None:
    client = await gateway.connect()
    client.send(b"POST /.well")
    assert await client.is_closed()


async def slow_body(gateway: Served) -> None:
    client = await gateway.connect()
    client.send(request(b"ab", length=100))
    assert (await client.response()).status == 408


async def slow_handshake(gateway: Served) -> None:
    client = await gateway.connect()
    client.send(b"\x16\x03\x01\x02\x00\x01")
    assert await client.is_closed()


async def two_clients(gateway: Served) -> None:
    first = await gateway.connect()
    await until(lambda: gateway.listener.connections_count == 1)
    assert (await (await gateway.connect()).post(b"x")).status == 200
    assert await first.is_closed()


async def takes_no_answer(gateway: Served) -> None:
    client = await gateway.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(200):
        client.send(request(b"x" * 60_000))
    await until(lambda: gateway.listener.counters.connections_timed_out == 1)


CASES: Final[dict[str, tuple[dict[str, Any], Case, tuple[str, str, int | None], str]]] = {
    "a head that is slow": ({"header_timeout_seconds": 0.1}, slow_head, ("", "", None), "headers"),
    "a body that is slow": (
        {"body_timeout_seconds": 0.2}, slow_body, ("POST", PATH, 408), "not arrive in time",
    ),
    "a handshake that stops": (
        {"header_timeout_seconds": 0.1, "tls": no_certificate}, slow_handshake, ("", "", None), "headers",
    ),
    "a PROXY header that stops": (
        {"header_timeout_seconds": 0.1, **PROXIED}, slow_head, ("", "", None), "",
    ),
    "one too many": ({"max_connections": 1}, two_clients, ("", "", None), "for another one"),
    "one too many of its address": (
        {"max_connections_per_address": 1}, two_clients, ("", "", None), "for another one",
    ),
    "an answer that nobody takes": (
        {"body_timeout_seconds": 0.5}, takes_no_answer, ("", "", None), "did not take its answer",
    ),
}  # fmt: skip


@pytest.mark.requirement(152)
@pytest.mark.parametrize("name", CASES)
async def test_who_is_cut_off_is_told(name: str) -> None:
    """Once, with who it was and why, and counted with all that were refused."""
    limits, case, place, reason = CASES[name]
    facts: list[Any] = []
    async with served(sink=facts.append, **limits) as gateway:
        await case(gateway)
    (told,) = facts
    assert (told.method, told.path, told.status) == place
    assert (told.peer, told.refused) == ("127.0.0.1", 1)
    assert reason in told.reason


async def test_who_is_cut_off_fills_no_log() -> None:
    """As with all that is refused: a few lines, and then how many there were."""
    facts: list[Any] = []
    async with served(sink=facts.append, max_connections=1) as gateway:
        for _ in range(30):
            await gateway.connect()
        await until(lambda: gateway.listener.counters.connections_let_go == 29)
    assert [fact.refused for fact in facts] == [*range(1, 11)]
    assert gateway.listener.counters.refusals_untold == 19


async def test_idle_connections_are_no_news() -> None:
    """Nor is who comes and goes: that is what keep-alive and health checks of balancers do."""
    facts: list[Any] = []
    async with served(sink=facts.append, idle_timeout_seconds=0.1) as gateway:
        client = await gateway.connect()
        await client.post(b"x")
        assert await client.is_closed()
        (await gateway.connect()).writer.close()
        await until(lambda: not gateway.listener.room.connections)
    assert facts == []
