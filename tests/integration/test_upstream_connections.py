"""What a client over a parser gets wrong: answers in pieces, octets that nobody asked for, connections that end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from ra_gateway.errors import ServiceFailure, UpstreamUnavailable
from ra_gateway.upstream.connections import Connection, Connections, NotHTTP, Response
from ra_gateway.upstream.http import HttpCA
from ra_gateway.upstream.rest import RestClient
from tests.support.http_ca import ANSWER, CMP_TYPE, MESSAGE, tls_contexts
from tests.support.loops import let_pass, on_uvloop, run_on_uvloop
from tests.support.patience import PATIENCE_SECONDS

HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: {CMP_TYPE}\r\n".encode()


def whole(body: bytes = ANSWER) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


WHOLE = whole()
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Server:
    """A server on a socket, and what came to it over each of its connections."""

    port: int = 0
    heard: list[bytearray] = field(default_factory=list)
    ended_count: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/cmp"


Talk = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter, bytearray], Awaitable[None]]
"""Serves a connection, of which it gets the number, and puts what it hears there."""


@asynccontextmanager
async def served(
    talk: Talk, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server, tasks = Server(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.heard.append(bytearray())
        try:
            await talk(len(server.heard) - 1, reader, writer, server.heard[-1])
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            server.ended_count += 1
            writer.close()

    listener = await asyncio.start_server(serve, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def request(reader: asyncio.StreamReader, heard: bytearray) -> bytes:
    """Read a request, and return its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.startswith(b"Content-Length:")
    )
    body = await reader.readexactly(length)
    heard += head + body
    return body


def saying(*answers: bytes, close: bool = False) -> Talk:
    """Answer the first request with octets, the next one with others, and all after them with a usual answer."""
    left = list(answers)

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        while True:
            await request(reader, heard)
            writer.write(left.pop(0) if left else WHOLE)
            await writer.drain()
            if close:
                return

    return talk


@asynccontextmanager
async def asking(server: Server, **settings: Any) -> AsyncIterator[HttpCA]:
    ca = HttpCA(server.url, Connections(**settings))
    try:
        yield ca
    finally:
        await ca.close()


async def ask(ca: HttpCA, message: bytes = MESSAGE, seconds: float = PATIENCE_SECONDS) -> bytes:
    return await ca.exchange(message, path="", deadline_seconds=seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  # what is awaited is on the other side
            await asyncio.sleep(0.005)


# --- Answers in pieces ----------------------------------------------------------------------------


async def read(*pieces: bytes, end: bool = False, bodyless: bool = False) -> tuple[bytes, bool]:
    """Return the body of an answer that comes in pieces, and whether its connection may be used again."""
    ours, theirs = socket.socketpair()
    connection = Connection(lambda _: None)
    await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
    try:
        answer = connection.ask(b"?", Response(lambda _: 1000, bodyless))
        for piece in pieces:
            connection.data_received(piece)
        if end:
            connection.eof_received()
        if not answer.done():
            answer.cancel()
            raise EOFError
        return bytes(answer.result().content), connection.reusable
    finally:
        connection.end()
        theirs.close()
        await asyncio.sleep(0)


ANSWERS = {
    "length": (HEAD + b"Content-Length: 5\r\n\r\n0body", b"0body", True),
    "nothing": (HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "chunks": (HEAD + CHUNKED + b"2;x=y\r\n0b\r\n3\r\nody\r\n0\r\nX: y\r\n\r\n", b"0body", True),
    "interim": (
        b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\nHTTP/1.1 103 \r\n\r\n"
        + HEAD
        + b"Content-Length: 5\r\n\r\n0body",
        b"0body",
        True,
    ),
    "the last": (HEAD + b"Content-Length: 1\r\nConnection: close\r\n\r\n0", b"0", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n0", b"0", False),
    "an offer": (
        HEAD + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\n0",
        b"0",
        True,
    ),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_in_pieces_is_the_same_answer(kind: str) -> None:
    """Cut at every octet, and octet by octet."""
    octets, body, keeps = ANSWERS[kind]
    for cut in range(len(octets)):
        assert await read(octets[:cut], octets[cut:]) == (body, keeps)
        with pytest.raises(EOFError):
            await read(octets[:cut])
    assert await read(*(octets[at : at + 1] for at in range(len(octets)))) == (body, keeps)


async def test_an_answer_without_length_ends_with_the_connection() -> None:
    """But its head does not, and neither does one that has a length, or chunks."""
    octets = HEAD + b"\r\n0body"
    head_octets = len(octets) - 5
    for cut in range(len(octets)):
        assert await read(octets[:cut], octets[cut:], end=True) == (b"0body", False)
    for cut in range(head_octets):
        with pytest.raises(ConnectionError):
            await read(octets[:cut], end=True)
    for framing in (b"Content-Length: 6\r\n\r\n0body", CHUNKED + b"5\r\n0body\r\n"):
        with pytest.raises(ConnectionError):
            await read(HEAD + framing, end=True)


NO_ANSWERS = {
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n0bodyx",
    "the same length twice": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n0body",
    "a list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\n0body",
    "length and chunks": HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"5\r\n0body\r\n0\r\n\r\n",
    "chunks and length": HEAD
    + CHUNKED.removesuffix(b"\r\n")
    + b"Content-Length: 5\r\n\r\n5\r\n0body\r\n0\r\n\r\n",
    "a signed length": HEAD + b"Content-Length: +5\r\n\r\n0body",
    "a length of words": HEAD + b"Content-Length: five\r\n\r\n0body",
    "a length without end": HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n0body",
    "a signed chunk": HEAD + CHUNKED + b"+5\r\n0body\r\n0\r\n\r\n",
    "a chunk of 2^64": HEAD + CHUNKED + b"10000000000000005\r\n0body\r\n0\r\n\r\n",
    "a chunk that is longer": HEAD + CHUNKED + b"4\r\n0body\r\n0\r\n\r\n",
    "line ends without CR": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 5\n\n0body",
    "a blank before the colon": HEAD + b"Content-Length : 5\r\n\r\n0body",
    "NUL in a header": HEAD + b"X: a\0b\r\nContent-Length: 5\r\n\r\n0body",
    "another protocol": b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n0body",
    "another one, unnamed": b"HTTP/1.1 101 Switching Protocols\r\n\r\n0body",
    "a request": b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n0body",
    "HTTP/3": b"HTTP/3.0 200 OK\r\nContent-Length: 5\r\n\r\n0body",
    "ICY": b"ICY 200 OK\r\nContent-Length: 5\r\n\r\n0body",
    "chunks of next to nothing": HEAD + CHUNKED + b"1;" + b"x" * 70_000,
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
async def test_what_can_be_read_in_two_ways_is_no_answer(kind: str) -> None:
    """Whoever stands between might take another part of it for the body."""
    octets = NO_ANSWERS[kind]
    with pytest.raises(NotHTTP):
        await read(octets)
    with pytest.raises(NotHTTP):
        await read(*(octets[at : at + 1] for at in range(len(octets))))


# --- Octets that nobody asked for -----------------------------------------------------------------


@pytest.mark.parametrize(
    "behind", [b"x", whole(b"0\x03of others"), b"\0", b"HTTP/1.1 100 Continue\r\n"]
)
async def test_what_stands_behind_an_answer_answers_nothing(behind: bytes) -> None:
    """The answer counts, and its connection does not go on."""
    assert await read(WHOLE + behind) == (ANSWER, False)
    assert await read(WHOLE, behind) == (ANSWER, False)
    async with served(saying(WHOLE + behind)) as server, asking(server) as ca:
        assert await ask(ca) == ANSWER
        assert await ask(ca) == ANSWER
        assert len(server.heard) == 2


async def test_what_comes_while_nobody_asks_ends_the_connection() -> None:
    """It would be the answer to what is asked next."""
    say, said = asyncio.Event(), asyncio.Event()

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        await request(reader, heard)
        writer.write(WHOLE)
        if number == 0:
            await say.wait()
            writer.write(whole(b"0\x03of others"))
        await writer.drain()
        said.set()
        await reader.read()

    async with served(talk) as server, asking(server) as ca:
        assert await ask(ca) == ANSWER
        say.set()
        await said.wait()
        await until(lambda: server.ended_count == 1)
        assert await ask(ca) == ANSWER
        assert len(server.heard) == 2


async def test_an_answer_before_its_request_is_none() -> None:
    """Nothing is sent to who speaks first: SSH, mail, or an answer meant for somebody else."""
    ours, theirs = socket.socketpair()
    connection = Connection(lambda _: None)
    await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
    theirs.send(WHOLE)
    await until(lambda: connection.over)
    assert isinstance(connection.failure, NotHTTP)
    assert not connection.reusable
    theirs.close()


@pytest.mark.parametrize("status", [200, 405])
async def test_an_answer_to_head_is_a_head(status: int) -> None:
    """Whatever length it speaks of; its connection is not used again."""
    head = b"HTTP/1.1 %d X\r\nContent-Length: 500\r\n\r\n" % status
    assert await read(head, bodyless=True) == (b"", False)
    assert await read(head + b"body", bodyless=True) == (b"", False)


# --- Connections that end -------------------------------------------------------------------------


async def test_a_server_that_only_listens_no_longer_is_heard() -> None:
    """It has closed its half; the answer before that is whole, or it is not."""

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        await request(reader, heard)
        writer.write((HEAD + b"\r\n" + ANSWER, WHOLE, WHOLE[:-1])[number])
        writer.write_eof()
        await reader.read()

    connections = Connections()
    async with served(talk) as server:
        ca = HttpCA(server.url, connections)
        for _ in range(2):
            assert await ask(ca) == ANSWER
            await until(lambda: not connections.host(URL(server.url)).idle)
        with pytest.raises(UpstreamUnavailable) as caught:
            await ask(ca)
        assert caught.value.delivered
        assert len(server.heard) == 3
        await ca.close()


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
async def test_a_late_answer_meets_nobody(how: str) -> None:
    """Its connection is gone before the next exchange, which gets its own answer."""
    late = asyncio.Event()

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        while body := await request(reader, heard):
            if body == b"0late":
                await late.wait()
            writer.write(whole(body + b" answered"))

    async with served(talk) as server, asking(server, max_connections=1) as ca:
        await ask(ca)
        task = asyncio.create_task(ask(ca, b"0late", 0.1 if how == "deadline" else 300))
        await until(lambda: server.heard[0].endswith(b"0late"))
        if how == "cancelled":
            task.cancel()
        with pytest.raises((asyncio.CancelledError, UpstreamUnavailable)):
            await task
        late.set()
        for number in range(3):
            message = b"0%d" % number
            assert await ask(ca, message) == message + b" answered"
        assert len(server.heard) == 2


async def test_whoever_gives_up_while_it_gets_a_connection_leaves_it_to_the_next() -> None:
    """However near to each other the two are: there is one connection, and it never gets lost."""
    async with served(saying()) as server, asking(server, max_connections=1) as ca:
        for turns in range(40):
            tasks = [asyncio.create_task(ask(ca)) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks[:3]:
                task.cancel()
            await asyncio.gather(*tasks[:3], return_exceptions=True)
            assert await tasks[3] == ANSWER
            assert await ask(ca) == ANSWER


async def test_a_connection_whose_end_is_yet_to_be_told_is_not_used() -> None:
    """The loop tells of a reset in its next turn; what is asked until then goes over another one."""
    connections = Connections()
    async with served(saying()) as server:
        ca = HttpCA(server.url, connections)
        assert await ask(ca) == ANSWER
        connections.host(URL(server.url)).idle[0].transport.abort()
        assert await ask(ca) == ANSWER
        assert len(server.heard) == 2
        assert len(connections.host(URL(server.url)).idle) == 1
        await ca.close()


async def test_closing_ends_who_waits_for_a_connection() -> None:
    """It was not delivered, other than what was sent."""

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        await request(reader, heard)
        await reader.read()

    async with served(talk) as server, asking(server, max_connections=1) as ca:
        tasks = [asyncio.create_task(ask(ca)) for _ in range(3)]
        await until(lambda: bool(server.heard and server.heard[0]))
        await ca.close()
        failures = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(error, "delivered", None) for error in failures] == [True, False, False]


async def test_closing_ends_who_waits_for_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error, as whoever waits for anything else: nobody has cancelled it."""
    asked = asyncio.Event()

    async def addresses(host: str, port: int, **_: Any) -> list[Any]:
        asked.set()
        await asyncio.sleep(PATIENCE_SECONDS)
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
    ca = HttpCA("http://ca.invalid/cmp")
    tasks = [asyncio.create_task(ask(ca)) for _ in range(2)]
    await asked.wait()
    await ca.close()
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(error, "delivered", None) for error in failures] == [False, False]


async def test_an_answer_before_the_request_was_read_ends_the_connection() -> None:
    """A front door refuses what is large by its head; what is left of it would be taken for a request."""

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WHOLE)
        await asyncio.sleep(PATIENCE_SECONDS)

    async with served(talk) as server, asking(server) as ca:
        for _ in range(2):
            assert await ask(ca, bytes(30_000_000)) == ANSWER
        assert len(server.heard) == 2


async def test_an_idle_connection_is_ended_before_the_server_would_do_so() -> None:
    """After fifteen seconds without an exchange, not before; each for itself."""
    async with served(saying()) as server, asking(server) as ca:
        await asyncio.gather(ask(ca), ask(ca))
        let_pass(10)
        await ask(ca)
        assert server.ended_count == 0
        let_pass(10)
        await until(lambda: server.ended_count == 1)
        await ask(ca)
        assert (len(server.heard), server.ended_count) == (2, 1)
        let_pass(20)
        await until(lambda: server.ended_count == 2)


# --- What is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "a\r\n\r\nPOST / HTTP/1.1"])
async def test_a_header_is_one_line(token: str) -> None:
    """Whatever a file with a token holds: nothing of it is sent, and nothing is told."""
    async with served(saying()) as server:
        client = RestClient(server.url)
        with pytest.raises(UpstreamUnavailable) as caught:
            await client.post("", {}, headers={"Authorization": token}, deadline_seconds=60)
        await client.close()
        assert (caught.value.delivered, server.heard) == (False, [])
        assert "POST" not in caught.value.detail


@pytest.mark.parametrize(
    "path", ["a b", "a\r\nX: y", "a HTTP/1.1\r\nX: y\r\n\r\nPOST /b", "ä", "a#b"]
)
async def test_a_path_stays_within_the_request_line(path: str) -> None:
    """Configurations have none of these; URLs spell them by their numbers."""
    async with served(saying()) as server, asking(server) as ca:
        assert await ca.exchange(MESSAGE, path=path, deadline_seconds=60) == ANSWER
        line, *lines = bytes(server.heard[0]).split(b"\r\n\r\n")[0].split(b"\r\n")
        assert len(line.split(b" ")) == 3
        assert [name.partition(b":")[0] for name in lines] == [
            b"Host", b"Accept-Encoding", b"Content-Type", b"Content-Length"
        ]  # fmt: skip


async def test_user_and_password_of_a_url_are_sent() -> None:
    """To whom they are meant for: the CA's to the CA, the proxy's to the proxy (RFC 7617)."""
    async with served(saying()) as server:
        ca = HttpCA(
            "http://ra:s%40fe@ca.invalid:81/cmp", Connections(proxy=f"http://me:x@127.0.0.1:{server.port}")
        )  # fmt: skip
        assert await ask(ca) == ANSWER
        await ca.close()
        head = bytes(server.heard[0])
        assert head.startswith(b"POST http://ca.invalid:81/cmp HTTP/1.1\r\nHost: ca.invalid:81\r\n")
        assert b"\r\nAuthorization: Basic cmE6c0BmZQ==\r\n" in head
        assert b"\r\nProxy-Authorization: Basic bWU6eA==\r\n" in head


@pytest.mark.parametrize("behind", [b"", b"x"])
async def test_a_tunnel_is_asked_for_with_the_proxys_password_alone(behind: bytes) -> None:
    """And what the proxy says behind its answer is not taken for the CA's."""

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        heard += await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 Connected\r\nContent-Length: 7\r\n\r\n" + behind)
        if not behind:
            writer.close()
        heard += await reader.read()

    async with served(talk) as server:
        proxy = f"http://me:x@127.0.0.1:{server.port}"
        ca = HttpCA("https://ra:secret@[2001:db8::1]/cmp", Connections(proxy=proxy))
        with pytest.raises(UpstreamUnavailable) as caught:
            await ask(ca)
        await ca.close()
        assert not caught.value.delivered
        assert bytes(server.heard[0]).startswith(
            b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n"
            b"Proxy-Authorization: Basic bWU6eA==\r\n\r\n"
        )


# --- Addresses ------------------------------------------------------------------------------------


async def test_an_address_of_ipv6() -> None:
    """In brackets, as it is in the URL."""
    async with served(saying(), host="::1") as server:
        ca = HttpCA(f"http://[::1]:{server.port}/cmp")
        assert await ask(ca) == ANSWER
        await ca.close()
        assert f"\r\nHost: [::1]:{server.port}\r\n".encode() in server.heard[0]


async def test_a_host_of_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one counts where nobody is; one question to DNS serves all who ask at once."""
    asked: list[str] = []

    async def addresses(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        await asyncio.sleep(0)
        tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*tcp, (f"127.0.0.{last}", port)) for last in (3, 2, 1)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
    async with served(saying()) as server:
        ca = HttpCA(f"http://ca.invalid:{server.port}/cmp")
        assert await asyncio.gather(*(ask(ca) for _ in range(5))) == [ANSWER] * 5
        await ca.close()
        assert asked == ["ca.invalid"]


async def test_an_address_that_takes_connections_only_does_not_hide_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever their families are: who has IPv6 on the way to nowhere still has IPv4."""
    server_tls, client_tls = tls_contexts(tmp_path)

    async def mute(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        await reader.read()

    async def addresses(host: str, port: int, **_: Any) -> list[Any]:
        tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *tcp, ("::1", port, 0, 0)),
            (socket.AF_INET, *tcp, ("127.0.0.1", port)),
        ]

    async with (
        served(saying(), tls=server_tls) as server,
        served(mute, host="::1", port=server.port) as deaf,
    ):
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
        connections = Connections(connect_timeout_seconds=0.5, ssl_context=client_tls)
        ca = HttpCA(f"https://127.0.0.1:{server.port}/", connections)
        assert await ask(ca) == ANSWER
        assert len(deaf.heard) == 1
        await ca.close()


async def test_who_cannot_be_connected_to_and_why() -> None:
    """In words for the operator."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        ca = HttpCA(f"http://127.0.0.1:{port}/")
        with pytest.raises(ServiceFailure, match=f"cannot connect to 127.0.0.1:{port}: .*refused"):
            await ask(ca)
        await ca.close()


async def test_who_leaves_in_the_handshake_is_told_of_in_words() -> None:
    """The loop says nothing but what kind of error it is."""

    async def leave(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        heard += await reader.read(1)

    async with served(leave) as server:
        ca = HttpCA(f"https://127.0.0.1:{server.port}/")
        with pytest.raises(UpstreamUnavailable, match=f"{server.port}: [A-Za-z]+"):
            await ask(ca)
        await ca.close()


async def test_a_loop_that_refuses_a_socket_says_that_nothing_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As uvloop does by RuntimeError, of a socket whose number another one had that is not yet gone."""

    async def refuse(*_: Any) -> None:
        raise RuntimeError("File descriptor 7 is used by transport")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", refuse)
    ca = HttpCA("http://127.0.0.1:9/")
    with pytest.raises(UpstreamUnavailable, match="is used by transport") as caught:
        await ask(ca)
    assert not caught.value.delivered
    await ca.close()


async def test_urls_of_one_host_share_its_connections() -> None:
    """Its port counts, and whether TLS is spoken."""
    connections = Connections()
    hosts = [
        connections.host(URL(url))
        for url in ("http://a/x", "http://u:p@A:80/y?z", "https://a/x", "http://a:81/x")
    ]
    assert [hosts.index(host) for host in hosts] == [0, 0, 2, 3]
    await connections.close()


async def ssh(
    number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    heard += await reader.read()


async def test_who_speaks_first_is_no_http_server() -> None:
    """The operator is told so, if it is quicker than we are; else that what it said is none."""
    async with served(ssh) as server, asking(server) as ca:
        with pytest.raises(ServiceFailure, match="not HTTP") as caught:
            await ask(ca)
        assert getattr(caught.value, "delivered", True) or not server.heard[0]


async def test_a_proxy_that_is_none_has_delivered_nothing() -> None:
    """Another URL of the CA may have the message."""
    async with served(ssh) as server:
        ca = HttpCA("https://ca.invalid/", Connections(proxy=f"http://127.0.0.1:{server.port}"))
        with pytest.raises(UpstreamUnavailable, match="not HTTP") as caught:
            await ask(ca)
        assert not caught.value.delivered
        await ca.close()


async def test_a_connection_that_ends_while_it_is_made_is_forgotten(tmp_path: Path) -> None:
    """A server that speaks with the last of the handshake is heard before who waits for the connection knows of it."""
    server_tls, client_tls = tls_contexts(tmp_path)
    server_tls.maximum_version = ssl.TLSVersion.TLSv1_2
    connections = Connections(ssl_context=client_tls)
    async with served(ssh, tls=server_tls) as server:
        ca = HttpCA(server.url.replace("http:", "https:"), connections)
        for _ in range(5):
            with pytest.raises(ServiceFailure, match="not HTTP"):
                await ask(ca)
        assert not connections.host(URL(ca.shown_url))._used
        await ca.close()


async def test_a_certificate_is_not_refused_by_who_has_answered() -> None:
    """What a server says of it after the beginning of an answer does not take the message back."""

    async def talk(
        number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
    ) -> None:
        await request(reader, heard)
        await reader.read()

    alert = ssl.SSLError(1, "alert")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    for octets in range(2):
        connections = Connections()
        async with served(talk) as server:
            ca = HttpCA(server.url, connections)
            failing = asyncio.create_task(ask(ca))
            used = connections.host(URL(server.url))._used
            await until(lambda used=used: bool(used))  # type: ignore[misc]
            (connection,) = used
            await until(lambda heard=server.heard: any(heard))  # type: ignore[misc]
            if octets:
                connection.data_received(WHOLE[:1])
            connection.connection_lost(alert)
            with pytest.raises(UpstreamUnavailable) as caught:
                await failing
            assert caught.value.delivered == bool(octets)
            await ca.close()


@on_uvloop({name: value for name, value in globals().items() if "idle_connection" not in name})
def test_the_same_holds_on_uvloop(test: Callable[[], Any]) -> None:
    """The gateway runs on uvloop, whose transports differ in small ways."""
    run_on_uvloop(test)
