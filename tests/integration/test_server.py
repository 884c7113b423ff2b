"""The CMP listener, over real sockets and mostly by raw HTTP: clients are not as polite as libraries."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from ra_gateway.server.cmp import OPERATIONS, CMPListener, Route, Routes
from tests.support.loops import on_uvloop, run_on_uvloop
from tests.support.patience import PATIENCE_SECONDS
from tests.support.raw_http import (
    CMP_TYPE,
    PATH,
    PROFILES,
    ROUTES,
    Client,
    Echo,
    Response,
    request,
    served,
    until,
)

# --- Routes ---------------------------------------------------------------------------------------


@pytest.mark.requirement(149)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    "path, route",
    [
        (PATH, Route("ran", "", "")),
        *((f"{PATH}/{label}", Route("ran", "", label)) for label in OPERATIONS),
        (f"{PATH}/p/lab", Route("lab", "lab", "")),
        *((f"{PATH}/p/lab/{label}", Route("lab", "lab", label)) for label in OPERATIONS),
        ("/ejbca/publicweb/cmp/ran", Route("ran", "", "")),
        ("/pkix", Route("ran", "", "")),
    ],
)
def test_a_path_is_found_with_and_without_a_slash(path: str, slash: str, route: Route) -> None:
    """Labels and profiles below the well-known path, and legacy paths as they are."""
    assert Routes(ROUTES, PROFILES).resolve(path + slash) == route


@pytest.mark.requirement(149)
@pytest.mark.parametrize(
    "target", [f"{PATH}?x=1", f"http://gateway{PATH}/", "/.well-known/c%6Dp", "//pkix"[1:]]
)
def test_another_spelling_of_a_target_is_the_same_path(target: str) -> None:
    """Queries, absolute targets and percent-encoding make no difference."""
    assert Routes(ROUTES, PROFILES).resolve(target) == Route("ran", "", "")


@pytest.mark.requirement(149)
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/.well-known",
        f"{PATH}x",
        f"{PATH}/unknown",
        f"{PATH}/Initialization",
        f"{PATH}/p",
        f"{PATH}/p/other",
        f"{PATH}/p/lab/unknown",
        f"{PATH}/initialization/initialization",
        "/pkix/initialization",
        "//pkix",
        "http://[",
        f"{PATH}%2Finitialization",
        f"{PATH}%2finitialization",
        f"{PATH}/p%2Flab",
        "/.well-known%2fcmp",
        "%2Fpkix",
        "/pkix%2F",
        f"{PATH}/p/lab%2Finitialization",
        f"{PATH}/./initialization",
        f"{PATH}/x/../initialization",
        f"{PATH}/%2e%2e/cmp",
        "/pkix/%2e",
        f"{PATH};x=1",
        f"{PATH}%3Bx",
        f"{PATH}%3Fx",
        f"{PATH}%23x",
        f"{PATH}#x",
        f"{PATH}%00",
        f"{PATH}\0",
        f"{PATH}%C3%A4",
        f"{PATH}\xe4",
        f"{PATH}%252Finitialization",
        f"{PATH}//initialization",
        f"{PATH}/p//lab",
        "/.WELL-KNOWN/cmp",
        f"{PATH}/p/LAB",
        f"http://gateway{PATH}%2Finitialization",
        f"http://user@gateway{PATH[1:]}",
        f"http:{PATH}",
        f"ftp://gateway{PATH}",
    ],
)
def test_other_paths_are_not_found(path: str) -> None:
    """Nothing is guessed."""
    assert Routes(ROUTES, PROFILES).resolve(path) is None


def test_an_exact_path_goes_before_a_label_and_a_profile() -> None:
    """What the operator wrote out wins over what follows from it, and still says what it means."""
    routes = Routes(
        {f"{PATH}/keyupdate/": "renewal", PATH: "ran", f"{PATH}/p/lab": "exact"}, {"lab": "lab"}
    )
    assert routes.resolve(f"{PATH}/keyupdate") == Route("renewal", "", "keyupdate")
    assert routes.resolve(f"{PATH}/initialization") == Route("ran", "", "initialization")
    assert routes.resolve(f"{PATH}/p/lab/nested") == Route("exact", "lab", "nested")


def test_a_profile_may_be_named_like_an_operation() -> None:
    """What follows /p/ is a name."""
    assert Routes({}, {"nested": "x"}).resolve(f"{PATH}/p/nested") == Route("x", "nested", "")


# --- Answers --------------------------------------------------------------------------------------


@pytest.mark.requirement(150)
async def test_a_cmp_answer_is_200_whatever_it_says() -> None:
    """HTTP reports the transport, CMP its own outcome; no cache may keep an answer."""
    async with served() as (_, echo, _, connect):
        answer = await (await connect()).post(b"a rejection", path=f"{PATH}/p/lab/keyupdate/")
        assert (answer.status, answer.body) == (200, b"0a rejection")
        assert answer.headers["content-type"] == CMP_TYPE
        assert answer.headers["cache-control"] == "no-store"
        assert abs(parsedate_to_datetime(answer.headers["date"]) - datetime.now(UTC)) < timedelta(
            hours=1
        )
        assert answer.headers.keys() == {
            "content-type", "cache-control", "content-length", "date", "server"
        }  # fmt: skip
        assert echo.calls == [(b"a rejection", "lab", "lab", "keyupdate", "127.0.0.1")]


@pytest.mark.requirement(150)
async def test_octets_that_are_no_pkimessage_are_answered_400_with_a_cmp_error() -> None:
    """The handler says that it understood nothing; its error goes out all the same."""
    async with served() as (_, _, _, connect):
        answer = await (await connect()).post(b"not understood")
        assert (answer.status, answer.body) == (400, b"0not understood")
        assert answer.headers["content-type"] == CMP_TYPE


@pytest.mark.requirement(148, "T52")
async def test_what_is_not_cmp_never_reaches_the_handler() -> None:
    """405 with Allow, 404, 415, 400: by fixed texts, on a connection that stays usable."""
    async with served() as (listener, echo, _, connect):
        client = await connect()
        refused = [
            (405, await client.post(b"", method="GET")),
            (405, await client.post(b"x", method="PUT")),
            (404, await client.post(b"x", path="/nothing/here")),
            (404, await client.post(b"x", path="/nothing", method="GET")),
            (415, await client.post(b"x", content_type="text/plain")),
            (415, await client.post(b"x", content_type=f"{CMP_TYPE}2")),
            (415, await client.post(b"x", content_type=None)),
            (415, await client.post(gzip.compress(b"x"), headers="Content-Encoding: gzip\r\n")),
            (400, await client.post(b"")),
            (400, await client.post(b"", length=-1)),
        ]
        assert [answer.status for _, answer in refused] == [status for status, _ in refused]
        assert refused[0][1].headers["allow"] == "POST"
        for _, answer in refused:
            assert answer.headers["content-type"].startswith("text/plain")
            assert b"here" not in answer.body
        assert echo.calls == []
        assert listener.counters.requests_refused == len(refused)
        assert (await client.post(b"now")).status == 200


@pytest.mark.requirement(148)
async def test_a_refused_head_has_no_body() -> None:
    """RFC 9110 9.3.2; the next answer would be misread otherwise. It is a probe, and no refusal that is told."""
    async with served() as (listener, _, _, connect):
        client = await connect()
        client.send(request(b"", method="HEAD"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 ")
        assert (await client.post(b"now")).status == 200
        assert listener.counters.requests_refused == 0


@pytest.mark.requirement(148)
@pytest.mark.parametrize(
    "content_type",
    ["Application/PKIXCMP", f"{CMP_TYPE}; charset=x", f"{CMP_TYPE} ;q=1", f"{CMP_TYPE}-poll"],
)
async def test_a_media_type_may_be_spelled_differently(content_type: str) -> None:
    """Case and parameters are ignored, and the name of RFC 2510 is still in use."""
    async with served() as (_, _, _, connect):
        assert (await (await connect()).post(b"x", content_type=content_type)).status == 200


@pytest.mark.requirement(148)
async def test_a_body_above_the_limit_is_413_and_not_read_to_its_end() -> None:
    """At the announcement where there is one, else as soon as it is too long."""
    async with served(max_body_bytes=100, body_timeout_seconds=0.3) as (_, echo, _, connect):
        assert (await (await connect()).post(b"x" * 100)).status == 200
        assert (await (await connect()).post(b"x" * 101)).status == 413
        announced = await connect()
        announced.send(request(b"x", length=10**12))
        assert (await announced.response()).status == 413
        chunked = await connect()
        chunked.send(request(b"", length=-1, headers="Transfer-Encoding: chunked\r\n"))
        for _ in range(3):
            chunked.send(b"32\r\n" + b"x" * 50 + b"\r\n")
        answer = await chunked.response()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await chunked.is_closed()
        assert len(echo.calls) == 1


async def test_a_body_of_thousands_of_chunks_is_cut_off() -> None:
    """Each chunk costs something, and a body within the limit could have as many as octets."""
    facts: list[Any] = []
    async with served(sink=facts.append) as (listener, echo, _, connect):
        for count, is_taken in ((1500, True), (3000, False)):
            client = await connect()
            client.send(request(b"", length=-1, headers="Transfer-Encoding: chunked\r\n"))
            client.send(b"1\r\nx\r\n" * count + b"0\r\n\r\n")
            if is_taken:
                assert (await client.response()).status == 200
            else:
                assert await client.is_closed()
        assert [call[0] for call in echo.calls] == [b"x" * 1500]
        assert listener.counters.requests_refused == 1
        (told,) = facts
        assert (told.peer, told.status, "lines" in told.reason) == ("127.0.0.1", None, True)


@pytest.mark.parametrize(
    "headers", ["X: " + "a" * 3000 + "\r\n", "X: a\r\n" * 100], ids=["a long one", "many"]
)
async def test_a_head_that_is_too_large_is_400(headers: str) -> None:
    """A connection may keep its head in memory for as long as it has time for it."""
    async with served() as (_, echo, _, connect):
        client = await connect()
        client.send(request(b"x", headers=headers))
        assert (await client.response()).status == 400
        assert await client.is_closed()
        assert echo.calls == []


async def test_a_chunked_body_within_the_limit_is_one_message() -> None:
    """However it is cut, and however it arrives."""
    async with served() as (_, echo, _, connect):
        client = await connect()
        client.send(request(b"", length=-1, headers="Transfer-Encoding: chunked\r\n"))
        for octets in (b"3\r\nabc\r\n", b"1\r", b"\nd\r\n", b"0\r\n\r\n"):
            await asyncio.sleep(0.005)
            client.send(octets)
        assert (await client.response()).body == b"0abcd"
        assert (await client.post(b"again")).status == 200
        assert [call[0] for call in echo.calls] == [b"abcd", b"again"]


async def test_a_body_may_come_octet_by_octet() -> None:
    """TCP keeps no boundaries."""
    async with served() as (_, _, _, connect):
        client = await connect()
        for octet in request(b"drip"):
            client.send(bytes((octet,)))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.response()).body == b"0drip"


async def test_a_client_that_expects_100_is_told_to_go_on() -> None:
    """curl waits a second for it; nobody needs it."""
    async with served() as (_, _, _, connect):
        client = await connect()
        client.send(request(b"", length=4, headers="Expect: 100-continue\r\n"))
        assert (await client.response()).status == 100
        client.send(b"body")
        assert (await client.response()).body == b"0body"


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"0\x82\x01\x00 a bare PKIMessage\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        request(b"x", headers="Transfer-Encoding: chunked\r\n"),
        request(b"x", headers="X: " + "y" * 9000 + "\r\n"),
        request(b"x", headers="X: y\r\n" * 200),
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
    ],
    ids=["tls", "bare", "length", "smuggling", "long", "many", "no host"],
)
async def test_what_is_not_http_is_400_and_closed(octets: bytes) -> None:
    """By a fixed text that repeats nothing of it."""
    async with served() as (_, echo, _, connect):
        client = await connect()
        client.send(octets)
        answer = await client.response()
        assert answer.status == 400
        assert answer.body == b"This is not an HTTP request with a CMP message.\n"
        assert await client.is_closed()
        assert echo.calls == []


async def test_a_failure_inside_says_nothing_about_it(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers answer everything; if one has a bug, the log has it and the client has 500."""
    async with served() as (_, _, _, connect):
        client = await connect()
        with caplog.at_level(logging.ERROR):
            answer = await client.post(b"raise")
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert "secret detail" in caplog.text
        assert (await client.post(b"now")).status == 200


# --- Connections ----------------------------------------------------------------------------------


async def test_http_1_0_closes_unless_asked_to_stay() -> None:
    """OpenSSL's client and some base stations speak HTTP/1.0, with keep-alive."""
    async with served() as (_, _, _, connect):
        client = await connect()
        kept = "Connection: keep-alive\r\n"
        for _ in range(2):
            answer = await client.post(b"x", version="1.0", headers=kept)
            assert (answer.status, answer.version) == (200, "HTTP/1.0")
            assert answer.headers["connection"] == "keep-alive"
        answer = await client.post(b"last", version="1.0")
        assert (answer.body, "connection" in answer.headers) == (b"0last", False)
        assert await client.is_closed()


async def test_http_1_1_stays_unless_asked_to_close() -> None:
    """The other way round."""
    async with served() as (listener, _, _, connect):
        client = await connect()
        for _ in range(3):
            answer = await client.post(b"x")
            assert (answer.version, "connection" in answer.headers) == ("HTTP/1.1", False)
        assert listener.connections_count == 1
        assert (await client.post(b"x", headers="Connection: close\r\n")).status == 200
        assert await client.is_closed()


@pytest.mark.requirement(151)
async def test_many_clients_behind_one_connection_get_their_own_answers() -> None:
    """A proxy sends requests of all its clients over one connection, one by one or at once."""
    async with served() as (_, echo, _, connect):
        client = await connect()
        bodies = [b"message %d " % n * (n + 1) for n in range(50)]
        assert [(await client.post(body)).body for body in bodies] == [b"0" + b for b in bodies]
        client.send(b"".join(request(body) for body in bodies))
        assert [(await client.response()).body for _ in bodies] == [b"0" + b for b in bodies]
        assert [call[0] for call in echo.calls] == bodies * 2


@pytest.mark.requirement(151)
async def test_many_connections_do_not_mix() -> None:
    """Answers that are held back and then come all at once still find their way."""
    async with served() as (listener, echo, _, connect):
        clients = [await connect() for _ in range(30)]
        echo.may_answer.clear()
        for number, client in enumerate(clients):
            client.send(request(b"client %d" % number))
        await until(lambda: listener.in_flight_count == 30)
        echo.may_answer.set()
        answers = [(await client.response()).body for client in clients]
        assert answers == [b"0client %d" % number for number in range(30)]
        assert listener.in_flight_count == 0


async def under_way(
    listener: CMPListener, echo: Echo, connect: Callable[[], Awaitable[Client]], count: int = 1
) -> list[Client]:
    """Return clients each of which has one request that waits for its answer."""
    echo.may_answer.clear()
    clients = [await connect() for _ in range(count)]
    for client in clients:
        client.send(request(b"x"))
    await until(lambda: listener.in_flight_count == count)
    return clients


async def test_a_client_that_leaves_does_not_stop_what_it_asked_for() -> None:
    """The certificate may be issued already; its transaction must reach its end."""
    async with served() as (listener, echo, _, connect):
        (client,) = await under_way(listener, echo, connect)
        client.writer.transport.abort()
        await until(lambda: listener.connections_count == 0)
        assert (listener.in_flight_count, echo.cancelled) == (1, 0)
        echo.may_answer.set()
        await until(lambda: listener.in_flight_count == 0)
        assert (await (await connect()).post(b"next")).status == 200


async def test_a_client_may_leave_in_the_middle_of_a_body() -> None:
    """Nothing is handed over, nothing is logged as a failure, and the next client is served."""
    async with served() as (listener, echo, _, connect):
        for octets in (request(b"ab", length=3), request(b"ab", length=3)[:-2], b"POST"):
            client = await connect()
            client.send(octets)
            await client.writer.drain()
            await asyncio.sleep(0.01)
            client.writer.transport.abort()
        await until(lambda: listener.connections_count == 0)
        assert echo.calls == []
        assert (await (await connect()).post(b"next")).status == 200


# --- Limits and deadlines -------------------------------------------------------------------------


@pytest.mark.requirement(152)
@pytest.mark.parametrize("first", [b"", b"POST /.well"], ids=["silent", "dripping"])
async def test_headers_that_do_not_come_end_the_connection(first: bytes) -> None:
    """From its opening on, and however many octets drip in."""
    async with served(header_timeout_seconds=0.2) as (listener, _, _, connect):
        client = await connect()
        client.send(first)

        async def drip() -> None:
            while first and not client.writer.is_closing():
                client.send(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await client.is_closed()
        dripping.cancel()
        await until(lambda: listener.connections_count == 0)
        assert listener.counters.connections_timed_out == 1


@pytest.mark.requirement(152)
async def test_headers_of_a_later_request_have_the_same_time() -> None:
    """Counted from their first octet, not from the answer before."""
    async with served(header_timeout_seconds=1, idle_timeout_seconds=600) as (_, _, _, connect):
        client = await connect()
        await client.post(b"x")
        assert not await client.is_closed(seconds=2)
        client.send(request(b"y"))
        assert (await client.response()).status == 200
        client.send(b"POST ")
        assert await client.is_closed()


@pytest.mark.requirement(152)
async def test_a_body_that_does_not_come_is_408() -> None:
    """However many octets drip in; then the connection is closed."""
    async with served(body_timeout_seconds=1) as (_, echo, _, connect):
        client = await connect()
        client.send(request(b"ab", length=100))
        for _ in range(3):
            await asyncio.sleep(0.05)
            client.send(b"c")
        answer = await client.response()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await client.is_closed()
        assert echo.calls == []


@pytest.mark.requirement(152)
async def test_idle_connections_are_closed() -> None:
    """And those that work are not, however long it takes."""
    async with served(header_timeout_seconds=1, idle_timeout_seconds=1) as served_:
        listener, echo, _, connect = served_
        idle, busy = await connect(), await connect()
        await idle.post(b"x")
        echo.may_answer.clear()
        busy.send(request(b"y"))
        assert await idle.is_closed()
        await asyncio.sleep(1)
        assert listener.connections_count == 1
        echo.may_answer.set()
        assert (await busy.response()).status == 200


@pytest.mark.requirement(152)
async def test_a_client_that_takes_no_answers_is_cut_off() -> None:
    """It pipelines requests and never reads: neither memory nor the connection is its to keep."""
    async with served(body_timeout_seconds=1, idle_timeout_seconds=1) as served_:
        listener, echo, _, connect = served_
        client = await connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        flood = request(b"x" * 60_000)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while listener.connections_count or not echo.calls:
                    client.send(flood)
                    await asyncio.wait_for(client.writer.drain(), 2)
        except (TimeoutError, ConnectionError):
            pass
        await until(lambda: listener.connections_count == 0)
        assert listener.counters.connections_timed_out == 1


async def test_for_a_connection_too_many_the_longest_idle_one_goes() -> None:
    """Whoever opened connections and says nothing shuts nobody out; who said something last stays. It is told."""
    facts: list[Any] = []
    async with served(max_connections=3, sink=facts.append) as (listener, _, _, connect):
        silent, first, second = await connect(), await connect(), await connect()
        await first.post(b"x")
        await second.post(b"x")
        third = await connect()
        assert (await third.post(b"z")).status == 200
        assert await silent.is_closed()
        assert (await second.post(b"y")).status == 200
        fourth = await connect()
        assert (await fourth.post(b"z")).status == 200
        assert await first.is_closed()
        assert listener.connections_count == 3
        assert listener.counters.connections_let_go == 2
        assert listener.counters.connections_refused == 0
    assert [(fact.status, fact.peer) for fact in facts] == [(None, "127.0.0.1")] * 2
    assert facts[0].reason == "closed for another one: as many connections are open as may be"


async def test_a_connection_with_a_request_in_flight_never_goes() -> None:
    """Where all are at work, it is the newcomer that is closed, at once; one that leaves makes room."""
    facts: list[Any] = []
    async with served(max_connections=2, sink=facts.append) as (listener, echo, _, connect):
        working = await under_way(listener, echo, connect, 2)
        assert await (await connect()).is_closed()
        assert (listener.connections_count, listener.counters.connections_refused) == (2, 1)
        (told,) = facts
        assert (told.peer, told.status, told.reason) == ("127.0.0.1", None, "too many connections")
        echo.may_answer.set()
        assert [(await client.response()).status for client in working] == [200, 200]
        assert (await (await connect()).post(b"z")).status == 200


async def test_bodies_that_do_not_come_shut_nobody_out() -> None:
    """A body that is waited for is the client's turn as well: its connection goes for another."""
    async with served(max_connections=2) as (listener, echo, _, connect):
        slow = [await connect(), await connect()]
        for client in slow:
            client.send(request(b"", length=10))
        await until(lambda: listener.connections_count == 2)
        await until(lambda: all(c.phase == 5 for c in listener.room.connections))
        assert (await (await connect()).post(b"z")).status == 200
        assert await slow[0].is_closed()
        slow[1].send(b"0123456789")
        assert (await slow[1].response()).status == 200
        assert len(echo.calls) == 2


async def test_one_address_has_no_more_than_its_share() -> None:
    """Among its own, the longest idle one goes; those of other addresses stay, whoever waits longer."""
    async with served(max_connections=9, max_connections_per_address=2) as (listener, _, port, _):

        async def connect(address: str) -> Client:
            return Client(
                *await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            )

        neighbour = await connect("127.0.0.2")
        await until(lambda: listener.connections_count == 1)
        greedy, counters = [], listener.counters
        for number in range(4):
            greedy.append(await connect("127.0.0.3"))
            await until(
                lambda: listener.connections_count + counters.connections_let_go == 1 + len(greedy)
            )
            assert listener.connections_count == 1 + min(number + 1, 2)
        assert [await client.is_closed() for client in greedy[:2]] == [True, True]
        for client in (neighbour, *greedy[2:]):
            assert (await client.post(b"x")).status == 200
        for client in (neighbour, *greedy):
            client.writer.close()
        await until(lambda: listener.connections_count == 0)
        assert not listener.room.networks
        assert not listener.room.waiting


async def test_requests_above_the_limit_are_503_and_cost_nothing() -> None:
    """The client is told when to come back, and may stay connected."""
    async with served(max_requests_in_flight=2) as (listener, echo, _, connect):
        working = await under_way(listener, echo, connect, 2)
        late = await connect()
        answer = await late.post(b"late")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert echo.entered == 2
        echo.may_answer.set()
        assert [(await client.response()).status for client in working] == [200, 200]
        assert (await late.post(b"late")).body == b"0late"


# --- Start and end --------------------------------------------------------------------------------


async def test_a_taken_port_is_an_error() -> None:
    """Two gateways on one port would share its requests at random."""
    async with served() as (_, echo, port, _):
        second = CMPListener(echo, host="127.0.0.1", port=port, routes=ROUTES, profiles={})
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await second.drain(1)


async def test_draining_answers_what_was_received() -> None:
    """Requests in flight are answered, the idle are closed at once, newcomers find nobody."""
    async with served() as (listener, echo, port, connect):
        echo.may_answer.clear()
        working = [await connect() for _ in range(20)]
        for number, client in enumerate(working):
            client.send(request(b"%d" % number))
        await until(lambda: listener.in_flight_count == 20)
        silent, reading = await connect(), await connect()
        reading.send(request(b"ha", length=4))
        await asyncio.sleep(0.05)
        draining = asyncio.create_task(listener.drain(PATIENCE_SECONDS))
        assert await silent.is_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        reading.send(b"lf")
        await until(lambda: listener.in_flight_count == 21)
        assert not draining.done()
        echo.may_answer.set()
        answers = [await client.response() for client in (*working, reading)]
        assert [a.body for a in answers] == [b"0%d" % n for n in range(20)] + [b"0half"]
        assert {answer.headers["connection"] for answer in answers} == {"close"}
        await asyncio.wait_for(draining, PATIENCE_SECONDS)
        assert all([await client.is_closed() for client in working])
        assert echo.cancelled == 0


async def test_draining_has_an_end() -> None:
    """What does not finish in time is cancelled, and its client sees a closed connection."""
    async with served() as (listener, echo, _, connect):
        (client,) = await under_way(listener, echo, connect)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await listener.drain(0.1)
        assert echo.cancelled == 1
        assert await client.is_closed()
        await until(lambda: listener.connections_count == 0)


async def test_draining_under_load_breaks_no_answer() -> None:
    """Clients that never pause see whole answers only, the last of which says that it is."""
    async with served() as (listener, echo, _, connect):
        clients = [await connect() for _ in range(20)]
        answered = 0
        broken = bytearray()

        async def run(client: Client) -> Response | None:
            nonlocal answered
            last = None
            while not (last and last.headers.get("connection") == "close"):
                try:
                    last = await client.post(b"x")
                except asyncio.IncompleteReadError as error:
                    broken.extend(error.partial)
                    return None
                except ConnectionError:
                    return None
                answered += 1
            return last

        running = [asyncio.create_task(run(client)) for client in clients]
        await until(lambda: answered > 200)
        await listener.drain(PATIENCE_SECONDS)
        last = await asyncio.gather(*running)
        assert (answered, bytes(broken)) == (len(echo.calls), b"")
        assert all(response is None or response.status == 200 for response in last)
        assert sum(response is not None for response in last) > 10


@pytest.mark.parametrize("turns", range(4))
async def test_a_request_that_has_just_come_is_answered(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is parsed, and its handler is yet to begin, or has just begun, when the listener is drained."""
    monkeypatch.setattr("ra_gateway.server.listener._GRACE_SECONDS", 0)
    async with served() as (listener, echo, _, connect):
        clients = [await connect() for _ in range(3)]
        await until(lambda: len(listener.room.connections) == 3)
        for connection in listener.room.connections:
            connection.data_received(request(b"x"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await listener.drain(PATIENCE_SECONDS)
        answers = [await client.response() for client in clients]
        assert [answer.status for answer in answers] == [200] * 3
        assert len(echo.calls) == 3


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_has_just_come_is_closed(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is accepted, and yet to be counted, when the listener is drained: it does not wait for others' answers."""
    monkeypatch.setattr("ra_gateway.server.listener._GRACE_SECONDS", 0)

    async def drained() -> None:
        async with served() as (listener, echo, port, connect):
            (client,) = await under_way(listener, echo, connect)
            with socket.create_connection(("127.0.0.1", port)) as newcomer:
                newcomer.setblocking(False)
                for _ in range(turns):
                    await asyncio.sleep(0)
                draining = asyncio.create_task(listener.drain(PATIENCE_SECONDS))
                with suppress(ConnectionResetError):  # nobody has accepted it
                    received = asyncio.get_running_loop().sock_recv(newcomer, 1)
                    assert await asyncio.wait_for(received, 10) == b""
            assert not draining.done()
            echo.may_answer.set()
            assert (await client.response()).status == 200
            await draining

    run_on_uvloop(drained)


async def test_draining_twice_or_before_the_start_does_nothing() -> None:
    """Shutdown comes from more than one side."""
    async with served() as (listener, _, _, _):
        await listener.drain(1)
        await listener.drain(1)
    idle = CMPListener(Echo(), host="127.0.0.1", port=0, routes={}, profiles={})
    await idle.drain(1)


@on_uvloop(globals())
def test_the_same_holds_on_uvloop(test: Callable[[], Any]) -> None:
    """The gateway runs on uvloop, whose transports differ in small ways."""
    run_on_uvloop(test)


async def test_what_is_refused_below_cmp_is_told() -> None:
    """Peer, method, path, status and reason; few in so many seconds, and then how many there were."""
    facts: list[Any] = []
    async with served(sink=facts.append) as (listener, _, _, connect):
        cases = {
            request(b"x", path="/wrong?secret=1"): ("POST", "/wrong", 404),
            request(b"", method="GET", length=-1): ("GET", PATH, 405),
            request(b"x", content_type="text/plain"): ("POST", PATH, 415),
            request(b""): ("POST", PATH, 400),
            request(b"x" * 2000, length=10_000_000): ("POST", PATH, 413),
            b"nonsense\r\n\r\n": ("", "", 400),
        }
        for octets, expected in cases.items():
            client = await connect()
            client.send(octets)
            await client.response()
            fact = facts[-1]
            assert (fact.method, fact.path, fact.status) == expected
            assert (fact.peer, bool(fact.reason)) == ("127.0.0.1", True)
            assert "secret" not in repr(fact)
        for number in range(20):
            client = await connect()
            client.send(request(b"x", path=f"/\x7f{'a' * 500}{number}"))
            await client.response()
        assert len(facts) == 10
        assert all(len(fact.path) <= 128 and fact.path.isprintable() for fact in facts)
        assert listener.counters.requests_refused == 26
        assert listener.counters.refusals_untold == 16
        listener._told_since -= 10.0
        client = await connect()
        client.send(request(b"x", path="/wrong"))
        await client.response()
        assert (facts[-1].refused, facts[-1].untold) == (27, 16)
