"""What comes before HTTP on a listener: the header of a balancer, TLS, or one after the other; and who counts then."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ra_gateway.peers import Networks
from tests.support.loops import on_uvloop, run_on_uvloop
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Authority, Credential, make_root
from tests.support.raw_http import Client, Served, request, served, until

LOOPBACK = Networks(["127.0.0.0/8"])
ELSEWHERE = Networks(["192.0.2.0/24"])
PROXIED: dict[str, Any] = {"trusted_proxies": LOOPBACK, "proxy_protocol": True}
FORWARDED: dict[str, Any] = {"trusted_proxies": LOOPBACK, "forwarded_for": True}


def v1(source: str) -> bytes:
    return f"PROXY TCP4 {source} 127.0.0.1 12345 8080\r\n".encode()


def v2(source: str) -> bytes:
    addresses = bytes(map(int, source.split("."))) + b"\x7f\x00\x00\x01\x30\x39\x1f\x90"
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0f" + addresses + b"\x04\x00\x00"


LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


def peers(gateway: Served) -> list[str]:
    return [call[4] for call in gateway.echo.calls]


@cache
def root() -> Authority:
    return make_root("TLS root")


@cache
def server(name: str = "gateway") -> Credential:
    return root().issue(name, san=["dns:localhost"])


def server_context(credential: Credential | None = None, *, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, credential or server())
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=root().der)
    return context


def client_context(credential: Credential | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=root().der)
    if credential is not None:
        load(context, credential)
    return context


def load(context: ssl.SSLContext, credential: Credential) -> None:
    with tempfile.TemporaryDirectory() as directory:
        context.load_cert_chain(*credential.write(Path(directory), "x"))


async def secured(gateway: Served, before: bytes = b"", **options: Any) -> Client:
    """Connect, say what comes before TLS, and shake hands."""
    client = await gateway.connect()
    client.send(before)
    await client.writer.start_tls(client_context(**options), server_hostname="localhost")
    return client


# --- The PROXY protocol ---------------------------------------------------------------------------


async def test_the_client_is_who_the_balancer_says() -> None:
    """In both versions, in the packet of the request, before it, or octet by octet."""
    async with served(**PROXIED) as gateway:
        for header in (v1, v2):
            together = await gateway.connect()
            together.send(header("192.0.2.1") + request(b"x"))
            assert (await together.response()).body == b"0x"
            before = await gateway.connect()
            before.send(header("192.0.2.2"))
            await asyncio.sleep(0.02)
            assert (await before.post(b"x")).status == 200
            assert (await before.post(b"x")).status == 200
            slowly = await gateway.connect()
            for octet in header("192.0.2.3") + request(b"x"):
                slowly.send(bytes((octet,)))
                await asyncio.sleep(0)
            assert (await slowly.response()).body == b"0x"
        assert peers(gateway) == ["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"] * 2


async def test_a_balancer_may_speak_for_itself() -> None:
    """As for its checks."""
    async with served(**PROXIED) as gateway:
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            client = await gateway.connect()
            client.send(header)
            assert (await client.post(b"x")).status == 200
        assert peers(gateway) == ["127.0.0.1"] * 2


async def test_nobody_but_a_trusted_proxy_speaks_for_others() -> None:
    """Where a header is expected, others are not let in at all."""
    facts: list[Any] = []
    async with served(trusted_proxies=ELSEWHERE, proxy_protocol=True, sink=facts.append) as gateway:
        client = await gateway.connect()
        client.send(v1("192.0.2.1") + request(b"x"))
        assert await client.is_closed()
        assert not gateway.echo.calls
        assert gateway.listener.counters.connections_refused == 1
    assert [(fact.peer, fact.status) for fact in facts] == [("127.0.0.1", None)]
    assert "trusted" in facts[0].reason


async def test_a_header_that_is_not_asked_for_is_no_http() -> None:
    """Also from a trusted proxy."""
    async with served() as gateway:
        client = await gateway.connect()
        client.send(v1("192.0.2.1") + request(b"x"))
        assert (await client.response()).status == 400


async def test_a_trusted_proxy_without_a_header_is_closed() -> None:
    """It may be somebody behind it who speaks."""
    facts: list[Any] = []
    async with served(**PROXIED, sink=facts.append) as gateway:
        for octets in (
            request(b"x"),
            b"PROXY TCP4 no ne 1 2\r\n" + request(b"x"),
            v2("192.0.2.1")[:14] + b"\xff\xff" + bytes(5000),
        ):
            client = await gateway.connect()
            client.send(octets)
            assert await client.is_closed()
        assert not gateway.echo.calls
        assert not gateway.listener.room.connections
        assert gateway.listener.counters.connections_refused == 3
    assert all("PROXY" in fact.reason for fact in facts)


async def test_a_header_that_does_not_come_ends_the_connection() -> None:
    """It has the time of the HTTP headers, together with them."""
    async with served(**PROXIED, header_timeout_seconds=0.1) as gateway:
        for octets in (b"", b"PROXY TCP4 ", v2("192.0.2.1")[:20], v1("192.0.2.1") + b"POST "):
            client = await gateway.connect()
            client.send(octets)
            assert await client.is_closed()
        assert gateway.listener.counters.connections_timed_out == 4
        assert not gateway.listener.room.connections


async def test_limits_count_the_clients_of_a_balancer() -> None:
    """One of them has its share, and the others theirs; the balancer has none of its own."""
    async with served(**PROXIED, max_connections_per_address=2) as gateway:
        gateway.echo.may_answer.clear()
        for source in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"):
            client = await gateway.connect()
            client.send(v2(source) + request(b"x"))
        await until(lambda: gateway.echo.entered == 5)
        extra = await gateway.connect()
        extra.send(v2("192.0.2.1") + request(b"x"))
        assert await extra.is_closed()
        assert gateway.listener.counters.connections_refused == 1
        gateway.echo.may_answer.set()
    assert not gateway.listener.room.networks
    assert not gateway.listener.room.waiting


async def test_a_balancer_may_open_many_connections_at_once() -> None:
    """More than one address may have: until it is known for whom they are, they are nobody's."""
    async with served(**PROXIED, max_connections_per_address=2) as gateway:
        clients = [await gateway.connect() for _ in range(5)]
        await until(lambda: len(gateway.listener.room.connections) == 5)
        for number, client in enumerate(clients):
            client.send(v2(f"192.0.2.{number}") + request(b"x"))
        assert [(await client.response()).status for client in clients] == [200] * 5
        assert gateway.listener.counters.connections_let_go == 0


async def test_connections_without_a_header_shut_nobody_out() -> None:
    """For one too many, the one goes that has waited longest."""
    async with served(**PROXIED, max_connections=2) as gateway:
        silent = [await gateway.connect() for _ in range(2)]
        await until(lambda: len(gateway.listener.room.connections) == 2)
        client = await gateway.connect()
        client.send(v1("192.0.2.1"))
        assert (await client.post(b"x")).status == 200
        assert await silent[0].is_closed()
        assert gateway.listener.counters.connections_let_go == 1


# --- X-Forwarded-For ------------------------------------------------------------------------------


async def test_a_trusted_proxy_says_whose_each_request_is() -> None:
    """On one connection, of one client after the other."""
    facts: list[Any] = []
    async with served(**FORWARDED, sink=facts.append) as gateway:
        client = await gateway.connect()
        for said in ("192.0.2.1", "203.0.113.9, 192.0.2.2", "192.0.2.3, 127.0.0.2"):
            await client.post(b"x", headers=f"X-Forwarded-For: {said}\r\n")
        await client.post(b"x")
        assert peers(gateway) == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "127.0.0.1"]
        await client.post(b"x", path="/wrong", headers="X-Forwarded-For: 192.0.2.4\r\n")
    assert [fact.peer for fact in facts] == ["192.0.2.4"]


async def test_nobody_else_says_whose_a_request_is() -> None:
    """Neither without the setting nor from another address."""
    for settings in ({"trusted_proxies": LOOPBACK}, FORWARDED | {"trusted_proxies": ELSEWHERE}):
        async with served(**settings) as gateway:
            client = await gateway.connect()
            await client.post(b"x", headers="X-Forwarded-For: 192.0.2.1\r\n")
            assert peers(gateway) == ["127.0.0.1"]


async def test_limits_count_the_clients_of_a_proxy() -> None:
    """As many requests of one client at a time as it may have connections; others are not touched by that."""
    async with served(**FORWARDED, max_connections_per_address=2) as gateway:
        gateway.echo.may_answer.clear()
        for number, source in enumerate(("192.0.2.1", "192.0.2.1", "192.0.2.2"), 1):
            client = await gateway.connect()
            client.send(request(b"x", headers=f"X-Forwarded-For: {source}\r\n"))
            await until(lambda number=number: gateway.echo.entered == number)  # type: ignore[misc]
        extra = await gateway.connect()
        answer = await extra.post(b"x", headers="X-Forwarded-For: 192.0.2.1\r\n")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        gateway.echo.may_answer.set()
        assert (await extra.post(b"x", headers="X-Forwarded-For: 192.0.2.3\r\n")).status == 200
    assert not gateway.listener.room.networks


# --- TLS ------------------------------------------------------------------------------------------


async def test_tls_alone_and_behind_a_header() -> None:
    """Several requests on a connection; the header comes in the clear, before the handshake."""
    async with served(tls=server_context) as gateway:
        client = await secured(gateway)
        for body in (b"x", b"y" * 60_000):
            assert (await client.post(body)).body == b"0" + body
    async with served(tls=server_context, **PROXIED) as gateway:
        for header in (v1, v2):
            client = await secured(gateway, header("192.0.2.1"))
            assert (await client.post(b"x")).status == 200
        assert peers(gateway) == ["192.0.2.1"] * 2


async def received(reader: asyncio.StreamReader) -> bytes:
    octets = await reader.read(65_536)
    assert octets, "closed"
    return octets


async def shaken_at_once(port: int, before: bytes) -> bytes:
    """Have the handshake begin before anybody can have seen the connection, and a request in its last packet."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    early = socket.create_connection(("127.0.0.1", port))
    early.sendall(before + outgoing.read())
    reader, writer = await asyncio.open_connection(sock=early)
    while True:
        incoming.write(await received(reader))
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            writer.write(outgoing.read())
    tls.write(request(b"x"))
    writer.write(outgoing.read())
    answer = b""
    while not answer.endswith(b"0x"):
        incoming.write(await received(reader))
        with contextlib.suppress(ssl.SSLWantReadError):
            answer += tls.read(65_536)
    writer.close()
    return answer


async def test_a_handshake_that_comes_at_once() -> None:
    """With the header or alone, no octet of TLS is lost to who counts the connection and reads the header."""
    for settings, before in (({}, b""), (PROXIED, v1("192.0.2.1")), (PROXIED, v2("192.0.2.1"))):
        async with served(tls=server_context, **settings) as gateway:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await shaken_at_once(gateway.port, before)
            assert answer.startswith(b"HTTP/1.1 200 ")


async def test_who_shakes_no_hands_is_closed() -> None:
    """HTTP in the clear, an old TLS, a client that is missing or has the wrong certificate."""
    facts: list[Any] = []
    async with served(tls=lambda: server_context(mutual=True), sink=facts.append) as gateway:
        plain = await gateway.connect()
        plain.send(request(b"x"))
        assert b"HTTP" not in await plain.reader.read()
        stranger = make_root("another").issue("stranger")
        for credential in (None, stranger):
            try:
                client = await secured(gateway, credential=credential)
                client.send(request(b"x"))
                assert not await client.reader.read(1)  # TLS 1.3: refused behind its own last word
            except (OSError, asyncio.IncompleteReadError):
                pass
        client = await secured(gateway, credential=root().issue("operator"))
        assert (await client.post(b"x")).status == 200
        assert len(gateway.echo.calls) == 1
        assert gateway.listener.counters.connections_refused == 3
        assert len(gateway.listener.room.connections) == 1
    assert [fact.peer for fact in facts] == ["127.0.0.1"] * 3
    assert all(fact.reason.startswith("the TLS handshake failed: ") for fact in facts)
    assert "http request" in facts[0].reason


async def test_a_handshake_that_stops_ends_the_connection() -> None:
    """It has the time of the HTTP headers, together with them; who comes and goes is no news."""
    facts: list[Any] = []
    async with served(tls=server_context, header_timeout_seconds=0.1, sink=facts.append) as gateway:
        for octets in (b"", b"\x16\x03\x01\x02\x00\x01"):
            client = await gateway.connect()
            client.send(octets)
            assert await client.is_closed()
        assert gateway.listener.counters.connections_timed_out == 2
        assert not gateway.listener.room.connections
        assert len(facts) == 2
        facts.clear()
        gone = await gateway.connect()
        gone.writer.close()
        await until(lambda: not gateway.listener.room.connections)
    assert not facts


async def test_a_certificate_may_change_meanwhile() -> None:
    """New connections see the new one; open ones go on."""
    contexts = [server_context()]
    async with served(tls=lambda: contexts[-1]) as gateway:
        early = await secured(gateway)
        contexts.append(server_context(server("another")))
        late = await secured(gateway)
        for client, credential in ((early, server()), (late, server("another"))):
            assert (await client.post(b"x")).status == 200
            shown = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert shown == credential.der


async def test_a_drain_waits_for_requests_and_not_for_handshakes() -> None:
    """What was received over TLS is answered; what has not begun is closed."""
    async with served(tls=server_context) as gateway:
        client = await secured(gateway)
        silent = await gateway.connect()
        await until(lambda: len(gateway.listener.room.connections) == 2)
        gateway.echo.may_answer.clear()
        client.send(request(b"x"))
        await until(lambda: gateway.echo.entered == 1)
        draining = asyncio.create_task(gateway.listener.drain(10))
        assert await silent.is_closed()
        gateway.echo.may_answer.set()
        assert (await client.response()).body == b"0x"
        await draining
        assert await client.is_closed()
        await until(lambda: not gateway.listener.room.connections)


async def test_idle_connections_over_tls_are_closed() -> None:
    """And those whose client does not answer the end of TLS, soon after."""
    async with served(tls=server_context, idle_timeout_seconds=0.1) as gateway:
        client = await secured(gateway)
        assert (await client.post(b"x")).status == 200
        assert await client.is_closed()
        await until(lambda: not gateway.listener.room.connections)


@on_uvloop(globals())
def test_the_same_holds_on_uvloop(test: Callable[[], Any]) -> None:
    """The gateway runs on uvloop, whose transports differ in small ways."""
    run_on_uvloop(test)
