"""The way to a CA over HTTP, against servers that misbehave on purpose."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.upstream.connections import Connections
from ra_gateway.upstream.http import HttpCA, UpstreamBusy
from tests.support.http_ca import (
    ANSWER,
    CMP_TYPE,
    MESSAGE,
    Script,
    ScriptedCA,
    Visit,
    answering,
    hang,
    tls_contexts,
)
from tests.support.loops import on_uvloop, run_on_uvloop


@asynccontextmanager
async def scripted(
    script: Script, *, tls: ssl.SSLContext | None = None, path: str = "/cmp", **settings: Any
) -> AsyncIterator[tuple[HttpCA, ScriptedCA]]:
    server = ScriptedCA(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    scheme = "https" if tls else "http"
    ca = HttpCA(f"{scheme}://127.0.0.1:{server.port}{path}", Connections(**settings))
    try:
        yield ca, server
    finally:
        await ca.close()
        listener.close()
        await server.stop()


async def ask(
    ca: HttpCA, message: bytes = MESSAGE, *, path: str = "", seconds: float = 60
) -> bytes:
    return await ca.exchange(message, path=path, deadline_seconds=seconds)


async def unavailable(ca: HttpCA, *, seconds: float = 20) -> UpstreamUnavailable:
    with pytest.raises(UpstreamUnavailable) as caught:
        await ask(ca, seconds=seconds)
    assert caught.value.fail_info is PKIFailureInfo.systemUnavail
    return caught.value


async def broken(ca: HttpCA, *, seconds: float = 20) -> UpstreamBroken:
    with pytest.raises(UpstreamBroken) as caught:
        await ask(ca, seconds=seconds)
    assert caught.value.fail_info is PKIFailureInfo.systemFailure
    return caught.value


# --- What is sent ---------------------------------------------------------------------------------


async def test_a_message_is_posted_as_it_is() -> None:
    """With the media type and a length, and with nothing that tells about us."""
    async with scripted(answering()) as (ca, server):
        assert await ask(ca) == ANSWER
        request_line, *lines = server.visits[0].head.removesuffix("\r\n\r\n").split("\r\n")
        assert request_line == "POST /cmp HTTP/1.1"
        assert sorted(line.lower() for line in lines) == [
            "accept-encoding: identity",
            f"content-length: {len(MESSAGE)}",
            f"content-type: {CMP_TYPE}",
            f"host: 127.0.0.1:{server.port}",
        ]
        assert server.visits[0].body == MESSAGE


@pytest.mark.parametrize("base", ["/ejbca/cmp", "/ejbca/cmp/"])
async def test_a_path_is_appended_to_the_url(base: str) -> None:
    """A CA-side alias; without one the URL stays as configured."""
    async with scripted(answering(), path=base) as (ca, server):
        await ask(ca, path="ran")
        await ask(ca, path="p/lab/nested")
        await ask(ca)
        targets = [visit.head.split(" ")[1] for visit in server.visits]
        assert targets == ["/ejbca/cmp/ran", "/ejbca/cmp/p/lab/nested", base]


async def test_connections_are_reused() -> None:
    """One after the other over one; at once over no more than the limit."""
    async with scripted(answering(), max_connections=2) as (ca, server):
        for _ in range(5):
            await ask(ca)
        assert server.connections_count == 1
        await asyncio.gather(*(ask(ca) for _ in range(20)))
        assert server.connections_count == 2


async def test_answers_find_their_questions() -> None:
    """Many exchanges at once over few connections, answered in any order."""

    async def script(visit: Visit) -> None:
        await asyncio.sleep(0.001 * (visit.number % 5))
        visit.answer(body=visit.body + b" answered")

    async with scripted(script, max_connections=8) as (ca, _):
        messages = [b"0%d" % number for number in range(100)]
        answers = await asyncio.gather(*(ask(ca, message) for message in messages))
        assert answers == [message + b" answered" for message in messages]


async def test_no_cookie_comes_back() -> None:
    """Exchanges must not depend on one another."""
    async with scripted(answering(headers="Set-Cookie: a=b\r\n")) as (ca, server):
        await ask(ca)
        await ask(ca)
        assert "cookie" not in server.visits[1].head.lower()


async def test_proxy_settings_of_the_environment_have_no_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where requests for certificates go stands in the configuration only."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with scripted(answering()) as (ca, _):
        assert await ask(ca) == ANSWER


# --- What comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, content_type",
    [
        (200, CMP_TYPE),
        (200, "application/pkixcmp-poll; x=y"),
        (200, "text/html"),
        (200, "application/octet-stream"),
        (200, None),
        (201, CMP_TYPE),
    ],
)
async def test_success_with_something_like_der_is_the_answer(
    status: int, content_type: str | None
) -> None:
    """Some CAs forget the media type; what the octets say is decided by who decodes them."""
    async with scripted(answering(status, content_type=content_type)) as (ca, _):
        assert await ask(ca) == ANSWER


@pytest.mark.requirement(91)
@pytest.mark.parametrize("status", [400, 403, 404, 500, 502, 503, 504])
async def test_a_cmp_message_counts_whatever_the_status(status: int) -> None:
    """RFC 9811 3.3: the reason for the refusal is in it."""
    async with scripted(answering(status, content_type="Application/PKIXCMP;a=b")) as (ca, server):
        assert await ask(ca) == ANSWER
        assert await ask(ca) == ANSWER
        assert server.connections_count == 1


@pytest.mark.requirement(91)
@pytest.mark.parametrize("status", [400, 401, 404, 405, 500, 501])
@pytest.mark.parametrize(
    "body, content_type",
    [
        (b"<html>\n <b>It\x00\x1b[31m  broke</b></html>", "text/html"),
        (b"<html> <b>It[31m broke</b></html>", CMP_TYPE),
    ],
)
async def test_an_error_without_cmp_is_a_broken_ca(
    status: int, body: bytes, content_type: str
) -> None:
    """Its status and beginning are for the log, without control characters."""
    async with scripted(answering(status, body, content_type=content_type)) as (ca, _):
        error = await broken(ca)
        assert error.detail == (
            f"HTTP {status} without a CMP message: '<html> <b>It[31m broke</b></html>'"
        )


async def test_der_with_another_media_type_is_no_cmp_in_an_error() -> None:
    """Only success is given the benefit of the doubt."""
    async with scripted(answering(500, content_type="text/plain")) as (ca, _):
        await broken(ca)


@pytest.mark.requirement(90, 91)
@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_html_from_a_gateway_or_rate_limit_is_unavailable(status: int) -> None:
    """However long the page is; the CA behind may have seen the message."""
    page = b"<html>" + b"x" * 500_000
    async with scripted(answering(status, page, content_type="text/html")) as (ca, _):
        error = await unavailable(ca)
        assert error.delivered
        assert error.detail == f"HTTP {status} without a CMP message: '<html>{'x' * 74}'"


@pytest.mark.parametrize(
    "status, headers, seconds",
    [
        (503, "", None),
        (429, "Retry-After: 7\r\n", 7.0),
        (503, "Retry-After: 0\r\n", 0.0),
        (503, "Retry-After: soon\r\n", None),
        (503, "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n", None),
        (
            503,
            "Date: Fri, 31 Dec 1999 23:59:50 GMT\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n",
            9.0,
        ),
        (503, "Date: Fri, 31 Dec 1999 23:59:50 GMT\r\nRetry-After: yesterday\r\n", None),
    ],
)
async def test_who_is_busy_may_say_for_how_long(
    status: int, headers: str, seconds: float | None
) -> None:
    """RFC 9110 10.2.3: in seconds or as a date, which is compared with the server's own clock."""
    async with scripted(answering(status, b"<html>", headers=headers)) as (ca, _):
        error = await unavailable(ca)
        assert isinstance(error, UpstreamBusy)
        assert error.retry_after_seconds == seconds


@pytest.mark.parametrize("status", [200, 404, 405, 500])
async def test_a_probe_is_content_with_any_answer(status: int) -> None:
    """There is nothing to get at the URL; that somebody says so is a sign of life."""
    async with scripted(hang) as (ca, server):
        server.probe_status = status
        await ca.probe(deadline_seconds=2)
        assert (server.probes_count, server.visits) == (1, [])


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_probe_hears_of_trouble_behind_the_front_door(status: int) -> None:
    """Whoever stands in front of a CA says so when it is gone."""
    async with scripted(hang) as (ca, server):
        server.probe_status = status
        with pytest.raises(UpstreamUnavailable):
            await ca.probe(deadline_seconds=2)


async def test_what_is_not_sent_in_time_is_given_up() -> None:
    """What is sent may take until the deadline."""

    may_answer = asyncio.Event()

    async def script(visit: Visit) -> None:
        await may_answer.wait()
        visit.answer()

    async with scripted(script, max_connections=1) as (ca, server):
        first = asyncio.create_task(
            ca.exchange(MESSAGE, path="", deadline_seconds=300, unsent_seconds=60)
        )
        while not server.visits:  # noqa: ASYNC110  # what is awaited is on the other side
            await asyncio.sleep(0.005)
        with pytest.raises(UpstreamUnavailable) as caught:
            await ca.exchange(MESSAGE, path="", deadline_seconds=300, unsent_seconds=0.1)
        assert not caught.value.delivered
        may_answer.set()
        assert await first == ANSWER
        assert len(server.visits) == 1


async def test_a_password_in_the_url_is_not_told() -> None:
    """Neither in errors nor to who asks for the URL."""
    ca = HttpCA("http://ra:secret@ca.invalid/cmp")
    assert ca.shown_url == "http://ca.invalid/cmp"
    assert "secret" not in (await unavailable(ca, seconds=0.5)).detail
    await ca.close()


@pytest.mark.parametrize("status", [200, 500])
async def test_an_empty_answer_is_broken(status: int) -> None:
    """No CMP request has an empty answer."""
    async with scripted(answering(status, b"")) as (ca, _):
        assert (await broken(ca)).detail == f"HTTP {status} without a CMP message: ''"


async def test_success_that_is_no_der_is_broken() -> None:
    """A login page, for example."""
    async with scripted(answering(200, b"<html>Log in", content_type="text/html")) as (ca, _):
        assert "Log in" in (await broken(ca)).detail


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """A permanent one would take the gateway out of service for good (RFC 9811 3.4)."""
    location = "Location: /elsewhere\r\n"
    async with scripted(answering(status, headers=location)) as (ca, server):
        assert f"HTTP {status}" in (await broken(ca)).detail
        assert len(server.visits) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "unheard-of"])
async def test_compressed_answers_are_refused_unopened(encoding: str) -> None:
    """They could unpack to any size, and nobody asked for them."""
    bomb = gzip.compress(bytes(50_000_000), 1)
    async with scripted(answering(200, bomb, headers=f"Content-Encoding: {encoding}\r\n")) as (
        ca,
        _,
    ):
        assert "Content-Encoding" in (await broken(ca)).detail


async def test_an_answer_above_the_limit_is_refused_unread() -> None:
    """As soon as it is too long, announced or not; its connection is not used again."""

    async def script(visit: Visit) -> None:
        if visit.number == 0:
            visit.answer(body=b"1\r\n0\r\n", headers="Transfer-Encoding: chunked\r\n", length=-1)
            while not visit.writer.is_closing():
                visit.writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
                await visit.writer.drain()
        visit.answer(body=b"0" * (5000 if visit.number == 1 else 5001))

    async with scripted(script, max_response_bytes=5000) as (ca, server):
        assert "more than 5000 bytes" in (await broken(ca)).detail
        assert await ask(ca) == b"0" * 5000
        assert "more than 5000 bytes" in (await broken(ca)).detail
        assert server.connections_count == 2


@pytest.mark.parametrize(
    "octets",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x0a" * 3,
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["ssh", "tls", "length", "two lengths", "long", "chunk"],
)
async def test_what_is_not_http_leaves_as_our_own_error(octets: bytes) -> None:
    """Nothing of aiohttp's escapes, and the CA may have seen the message."""

    async def script(visit: Visit) -> None:
        visit.writer.write(octets)
        await visit.writer.drain()
        visit.close()

    async with scripted(script) as (ca, _):
        with pytest.raises((UpstreamBroken, UpstreamUnavailable)) as caught:
            await ask(ca)
        assert getattr(caught.value, "delivered", True)


# --- No answer ------------------------------------------------------------------------------------


@pytest.mark.requirement(90)
async def test_nobody_listening_is_unavailable_and_not_delivered() -> None:
    """The request may be sent elsewhere or again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ca = HttpCA(f"http://127.0.0.1:{taken.getsockname()[1]}/")
        error = await unavailable(ca)
        assert not error.delivered
        await ca.close()


@pytest.mark.requirement(90)
async def test_an_unknown_host_is_unavailable_and_not_delivered() -> None:
    """RFC 6761: .invalid never resolves."""
    ca = HttpCA("http://ca.invalid/cmp")
    assert not (await unavailable(ca)).delivered
    await ca.close()


@pytest.mark.requirement(90)
async def test_a_connection_that_does_not_open_is_unavailable_and_not_delivered() -> None:
    """Within the connect timeout, long before the deadline."""
    # A listen queue of one that is full: Linux answers further SYNs with nothing.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        ca = HttpCA(
            f"http://127.0.0.1:{full.getsockname()[1]}/", Connections(connect_timeout_seconds=0.2)
        )
        error = await unavailable(ca)
        assert (error.delivered, "no connection in time" in error.detail) == (False, True)
        await ca.close()
        for client in waiting:
            client.close()


@pytest.mark.requirement(90)
async def test_waiting_for_a_free_connection_counts_and_is_not_delivered() -> None:
    """The deadline holds for all of it."""
    async with scripted(hang, max_connections=1) as (ca, server):
        first = asyncio.create_task(unavailable(ca, seconds=2))
        while not server.visits:  # noqa: ASYNC110  # what is awaited is on the other side
            await asyncio.sleep(0.005)
        second = await unavailable(ca, seconds=0.2)
        assert not second.delivered
        assert (await first).delivered
        assert len(server.visits) == 1


@pytest.mark.requirement(90)
async def test_an_answer_that_does_not_come_is_unavailable_and_may_be_delivered() -> None:
    """At the deadline; the connection is not used again."""
    async with scripted(hang) as (ca, server):
        error = await unavailable(ca, seconds=1)
        assert error.delivered
        assert "no answer in time" in error.detail
        server.script = answering()
        assert await ask(ca) == ANSWER
        assert server.connections_count == 2


@pytest.mark.requirement(90)
@pytest.mark.parametrize("status", [200, 500, 503])
async def test_an_answer_that_drips_ends_at_the_deadline(status: int) -> None:
    """Each octet in time, the whole never."""

    async def script(visit: Visit) -> None:
        visit.answer(status, b"0", length=1000)
        while not visit.writer.is_closing():
            visit.writer.write(b"x")
            await visit.writer.drain()
            await asyncio.sleep(0.02)

    async with scripted(script) as (ca, _):
        assert (await unavailable(ca, seconds=1)).delivered


@pytest.mark.requirement(90)
@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("sent", ["nothing", "head", "half"])
async def test_a_connection_lost_after_the_request_may_be_delivered(sent: str, how: str) -> None:
    """In whatever state the answer is; nothing is sent a second time."""

    async def script(visit: Visit) -> None:
        if sent == "head":
            visit.writer.write(b"HTTP/1.1 200 OK\r\nContent-")
        if sent == "half":
            visit.answer(length=1000)
        await visit.writer.drain()
        if how == "close":
            visit.close()
        else:
            visit.writer.transport.abort()

    async with scripted(script) as (ca, server):
        assert (await unavailable(ca)).delivered
        assert len(server.visits) == 1


@pytest.mark.requirement(90)
async def test_a_connection_that_the_ca_closed_while_idle_is_not_used() -> None:
    """The close has been seen by then, so nothing is lost by it."""

    async def script(visit: Visit) -> None:
        visit.answer()
        await visit.writer.drain()
        visit.close()

    async with scripted(script) as (ca, server):
        for _ in range(3):
            assert await ask(ca) == ANSWER
            await asyncio.sleep(0.02)
        assert server.connections_count == 3


async def test_a_message_on_a_connection_that_is_just_being_closed_is_not_repeated() -> None:
    """Nobody can tell whether the CA has processed it; the caller decides."""

    async def script(visit: Visit) -> None:
        if visit.number == 0:
            visit.answer()
        else:
            visit.close()

    async with scripted(script) as (ca, server):
        assert await ask(ca) == ANSWER
        assert (await unavailable(ca)).delivered
        assert (server.connections_count, len(server.visits)) == (1, 2)


async def test_cancelling_passes_through_and_frees_the_connection() -> None:
    """The device's side may be shutting down."""
    async with scripted(hang, max_connections=1) as (ca, server):
        asking = asyncio.create_task(ask(ca))
        while not server.visits:  # noqa: ASYNC110  # what is awaited is on the other side
            await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        server.script = answering()
        assert await ask(ca) == ANSWER


async def test_after_closing_nothing_is_sent() -> None:
    """What was under way fails as unavailable, and closing twice is harmless."""
    async with scripted(hang) as (ca, server):
        asking = asyncio.create_task(unavailable(ca))
        while not server.visits:  # noqa: ASYNC110  # what is awaited is on the other side
            await asyncio.sleep(0.005)
        await ca.close()
        assert (await asking).delivered
        await ca.close()
        assert not (await unavailable(ca)).delivered
        assert len(server.visits) == 1


# --- TLS ------------------------------------------------------------------------------------------


async def test_https_with_a_context_of_ones_own(tmp_path: Path) -> None:
    """A site's own TLS root."""
    server_tls, client_tls = tls_contexts(tmp_path)
    async with scripted(answering(), tls=server_tls, ssl_context=client_tls) as (ca, server):
        assert await ask(ca) == ANSWER
        assert await ask(ca) == ANSWER
        assert server.connections_count == 1


@pytest.mark.requirement(90)
async def test_a_tls_server_that_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    """The handshake fails before anything is sent."""
    server_tls, _ = tls_contexts(tmp_path)
    async with scripted(answering(), tls=server_tls) as (ca, server):
        error = await unavailable(ca)
        assert not error.delivered
        assert "CERTIFICATE_VERIFY_FAILED" in error.detail
        assert server.visits == []


@on_uvloop(globals())
def test_the_same_holds_on_uvloop(test: Callable[[], Any]) -> None:
    """The gateway runs on uvloop, whose transports differ in small ways."""
    run_on_uvloop(test)
