"""Servers that answer without an end, or with what is meant for a terminal: every client of ours gives them up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest

from ra_gateway.connector import MAX_HEAD_OCTETS
from ra_gateway.device import client
from ra_gateway.device.errors import EnrollmentFailed
from ra_gateway.errors import GatewayError, printable
from ra_gateway.revocation.fetching import Downloader, Limits
from ra_gateway.upstream.http import HttpCA
from ra_gateway.upstream.rest import RestClient

SECONDS = 300.0
MOST_SENT = (
    32_000_000  # what the two sockets' buffers may hold, with room; the server stops at twice of it
)


@dataclass
class Server:
    """A server on a socket; says how much it could send."""

    url: str
    sent_octets: int = 0


@asynccontextmanager
async def sending(head: bytes, again: bytes) -> AsyncIterator[Server]:
    """Answer every request with octets, and then with others again and again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while again and server.sent_octets < 2 * MOST_SENT:
                writer.write(again)
                await writer.drain()
                server.sent_octets += len(again)
        except OSError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    server = Server(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    async with listening:
        yield server


async def by_enroll(url: str) -> None:
    async with client.open_session() as session:
        await client.post(session, url, b"0", timeout_seconds=SECONDS)


async def by_cmp(url: str) -> None:
    ca = HttpCA(url)
    try:
        await ca.exchange(b"0", path="", deadline_seconds=SECONDS)
    finally:
        await ca.close()


async def by_probe(url: str) -> None:
    ca = HttpCA(url)
    try:
        await ca.probe(deadline_seconds=SECONDS)
    finally:
        await ca.close()


async def by_rest(url: str) -> None:
    rest = RestClient(url)
    try:
        await rest.post("", {}, deadline_seconds=SECONDS)
    finally:
        await rest.close()


async def by_download(url: str) -> None:
    downloader = Downloader()
    try:
        await downloader.get(url, Limits(65_536, SECONDS))
    finally:
        await downloader.close()


CLIENTS = [by_enroll, by_cmp, by_probe, by_rest, by_download]
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n" * 1000
ENDLESS = {
    "100 Continue": (b"", CONTINUE),
    "103 with headers": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n" * 1000),
    "one header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 16_000),
    "reason": (b"HTTP/1.1 200 ", b"x" * 16_000),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Type: application/pkixcmp\r\n\r\n", b"0" * 16_000),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/pkixcmp\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\n0\r\n" * 2000,
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/pkixcmp\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X-Trailer: value\r\n" * 1000,
    ),
}


@pytest.mark.parametrize(
    "ask, endless",
    [
        (ask, endless)
        for ask in CLIENTS
        for endless in ENDLESS
        if ask is not by_probe or endless not in ("body", "chunks", "trailers")  # HEAD has none
    ],
)
async def test_what_has_no_end_is_given_up(
    ask: Callable[[str], Awaitable[None]], endless: str
) -> None:
    """By octets, long before the deadline, which is minutes away."""
    async with sending(*ENDLESS[endless]) as server:
        with pytest.raises((GatewayError, EnrollmentFailed)):
            await ask(server.url)
        assert server.sent_octets < MOST_SENT


@pytest.mark.parametrize("ask", CLIENTS)
async def test_a_usual_interim_answer_is_passed_over(
    ask: Callable[[str], Awaitable[None]],
) -> None:
    """RFC 9110 15.2; and a short body that comes in one read with its head does not count as head."""
    body = b"0" * (MAX_HEAD_OCTETS - 100)
    if ask is by_rest:
        body = b'{"a":"%b"}' % body
    head = b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    kind = b"application/pkixcmp"
    content = b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body))
    async with sending(head + content + (b"" if ask is by_probe else body), b"") as server:
        await ask(server.url)


async def test_an_answer_says_nothing_to_the_terminal() -> None:
    """Neither by its reason phrase, nor by its content type, nor by what is wrong with it."""
    bad = "\x1b]0;owned\x07\u202e\x9b".encode()
    heads = [
        b"HTTP/1.1 404 No%bt\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n" % bad,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/%bhtml\r\nContent-Length: 0\r\n\r\n" % bad,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n"
        b"Content-Type: application/pkixcmp\r\nContent-Length: 0\r\n\r\n" % bad,
        b"HTTP/1.1 200 OK\r\nX-%b: y\r\n\r\n" % bad,
        b"%b\r\n\r\n" % bad,
        b"HTTP/1.1 200 " + b"x" * 8000 + b"\r\nContent-Length: 0\r\n\r\n",
    ]
    for head in heads:
        for ask in CLIENTS:
            async with sending(head, b"") as server:
                try:
                    await ask(server.url)
                except (GatewayError, EnrollmentFailed) as error:
                    text = str(error)
                    assert text.replace("\n", "").isprintable()
                    assert len(text) < 700


async def test_enroll_unpacks_nothing() -> None:
    """A kilobyte of gzip may be a megabyte."""
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: application/pkixcmp\r\n"
        b"Content-Length: 2\r\n\r\n\x1f\x8b"
    )
    async with sending(head, b"") as server:
        with pytest.raises(client.NotCMP, match="Content-Encoding gzip"):
            await by_enroll(server.url)


async def test_the_connector_is_used() -> None:
    """aiohttp's own attribute for it may be called otherwise some day."""
    async with client.open_session() as session:
        assert isinstance(session.connector, aiohttp.TCPConnector)
        protocol = session.connector._factory()
        assert type(protocol).__module__ == "ra_gateway.connector"


def test_texts_of_others_are_cleaned_and_cut() -> None:
    """Line ends, escapes, C1 and what turns the direction of writing are shown, not done."""
    assert printable("plain text, ä") == "plain text, ä"
    assert printable("a\nb\x1b[2J\x9b\u202e\u2066\x7f") == ("a\\nb\\x1b[2J\\x9b\\u202e\\u2066\\x7f")
    assert len(printable("\x00" * 500, 200)) <= 200
    assert len(printable("x" * 11, 10)) == 10
