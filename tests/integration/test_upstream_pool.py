"""Several URLs of one CA: who is asked, who is asked again, and who is left out; with real servers and real TLS."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from yarl import URL

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import ANYONE, PKIHeader, assemble, body
from ra_gateway.errors import ConfigError, UpstreamBroken, UpstreamUnavailable
from ra_gateway.upstream.connections import Connections
from ra_gateway.upstream.kinds import CMPHTTPUpstream, Order
from ra_gateway.upstream.pool import LONGEST_PAUSE_SECONDS, Breaker, HttpPool, issues_nothing
from ra_gateway.upstream.tls import tls_context
from tests.support.http_ca import ANSWER, CMP_TYPE, Script, ScriptedCA, Visit, answering, hang
from tests.support.loops import on_uvloop, run_on_uvloop
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Authority, VendorPKI, make_root
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.setups import make_setup, set_upstream
from tests.support.stations import Station

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def message(body_type: BodyType, number: int = 0) -> bytes:
    """Return a message of some type, another one for each number; what it says is of no interest here."""
    header = PKIHeader(ANYONE, ANYONE, transaction_id=number.to_bytes(16, "big"))
    return assemble(header.to_der(), body(body_type, b"\x30\x00"), None)


IR = message(BodyType.ir)
RR = message(BodyType.rr)


class Node(NamedTuple):
    """One URL's server."""

    server: ScriptedCA
    listener: asyncio.Server

    async def die(self) -> None:
        """Refuse connections and end those that are there."""
        self.listener.close()
        await self.server.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/cmp"

    @property
    def visits_count(self) -> int:
        return len(self.server.visits)


async def node(script: Script, *, port: int = 0, tls: ssl.SSLContext | None = None) -> Node:
    server = ScriptedCA(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    return Node(server, listener)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def pooled(*urls: str, **settings: Any) -> CMPHTTPUpstream:
    return CMPHTTPUpstream(kind="cmp_http", urls=urls, **{"late_answer_seconds": 0.0} | settings)


@asynccontextmanager
async def pool(
    *scripts: Script, connections: Connections | None = None, **settings: Any
) -> AsyncIterator[tuple[HttpPool, list[Node]]]:
    """Serve scripts and pool their URLs, without probes and with half of all chance."""
    async with AsyncExitStack() as stack:
        nodes = [await node(script) for script in scripts]
        for item in nodes:
            stack.push_async_callback(item.die)
        means: dict[str, Any] = {"random": lambda: 0.0, "clock": lambda: NOW}
        means |= {
            key: settings.pop(key) for key in ("monotonic", "sleep", "random") if key in settings
        }
        ca = HttpPool(
            pooled(*(item.url for item in nodes), **{"probe_seconds": 0} | settings),
            connections or Connections(connect_timeout_seconds=30),
            **means,
        )
        stack.push_async_callback(ca.close)
        yield ca, nodes


async def ask(ca: HttpPool, der: bytes = IR, *, seconds: float = 60) -> bytes:
    return await ca.exchange(der, path="", deadline_seconds=seconds)


async def unavailable(ca: HttpPool, der: bytes = IR, *, seconds: float = 20) -> UpstreamUnavailable:
    with pytest.raises(UpstreamUnavailable) as caught:
        await ask(ca, der, seconds=seconds)
    return caught.value


async def drop(visit: Visit) -> None:
    visit.close()


async def drip(visit: Visit) -> None:
    visit.answer(body=b"0", length=1000)
    while not visit.writer.is_closing():
        visit.writer.write(b"x")
        await visit.writer.drain()
        await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  # what is awaited is on the other side
            await asyncio.sleep(0.005)


# --- Which messages may be repeated ---------------------------------------------------------------


@pytest.mark.parametrize("body_type", BodyType)
def test_only_some_messages_issue_nothing(body_type: BodyType) -> None:
    """Confirmations, polling, revocations, questions and errors; never what is nested."""
    harmless = {"certConf", "pollReq", "rr", "genm", "error", "pkiconf"}
    assert issues_nothing(message(body_type)) is (body_type.name in harmless)


def test_what_is_no_message_may_issue() -> None:
    """Nobody knows what a CA makes of it."""
    assert not issues_nothing(b"0\x03abc")


# --- Order ----------------------------------------------------------------------------------------


async def test_active_and_standby() -> None:
    """All goes to the first as long as it works."""
    async with pool(answering(), answering()) as (ca, nodes):
        for _ in range(4):
            assert await ask(ca) == ANSWER
        assert [item.visits_count for item in nodes] == [4, 0]


async def test_round_robin() -> None:
    """Each gets its share, over connections that are kept."""
    async with pool(answering(), answering(), answering(), order=Order.round_robin) as (ca, nodes):
        for _ in range(9):
            assert await ask(ca) == ANSWER
        assert [item.visits_count for item in nodes] == [3, 3, 3]
        assert [item.server.connections_count for item in nodes] == [1, 1, 1]


async def test_the_path_is_appended_at_every_url() -> None:
    """A CA-side alias is the same at all nodes."""
    async with pool(answering(), answering(), order=Order.round_robin) as (ca, nodes):
        for _ in range(2):
            await ca.exchange(IR, path="ran", deadline_seconds=60)
        targets = [item.server.visits[0].head.split(" ")[1] for item in nodes]
        assert targets == ["/cmp/ran", "/cmp/ran"]


def counts(ca: HttpPool) -> tuple[int | tuple[int, int, int], ...]:
    """Return how many retries there were; then, of each URL, exchanges answered and failed, and openings."""
    states = ca.states()
    return ca.retries, *((item.answered, item.failed, item.openings) for item in states)


# --- Trying the next one --------------------------------------------------------------------------


@pytest.mark.requirement(90)
async def test_what_was_not_delivered_goes_to_the_next() -> None:
    """Whatever it asks for."""
    async with pool(answering(), answering()) as (ca, nodes):
        await nodes[0].die()
        assert await ask(ca, IR) == ANSWER
        assert nodes[1].visits_count == 1
        assert counts(ca) == (1, (0, 1, 0), (1, 0, 0))


async def test_a_late_answer_is_awaited_by_as_many_as_may() -> None:
    """Beyond the deadline, at which the URL counts as failed; half of the connections stay for others."""
    awake = asyncio.Event()

    async def late(visit: Visit) -> None:
        await awake.wait()
        visit.answer()

    async with pool(late, late_answer_seconds=300.0, max_connections=2) as (ca, _):
        first = asyncio.create_task(ask(ca, seconds=0.2))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not ca.states()[0].failed:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await unavailable(ca, seconds=0.2)).delivered
        assert ca.states()[0].failed == 2
        awake.set()
        assert await first == ANSWER
        assert (ca.states()[0].answered, ca.states()[0].failed) == (1, 2)


@pytest.mark.requirement(90)
@pytest.mark.parametrize("script", [drop, hang, drip, answering(503, b"<html>", content_type=None)])
async def test_a_request_that_may_have_been_seen_is_not_repeated(script: Script) -> None:
    """The CA could issue a second certificate."""
    async with pool(script, answering()) as (ca, nodes):
        error = await unavailable(ca, IR, seconds=1)
        assert error.delivered
        assert [item.visits_count for item in nodes] == [1, 0]


@pytest.mark.requirement(90)
@pytest.mark.parametrize("script", [drop, hang, drip, answering(404, b"<html>", content_type=None)])
@pytest.mark.parametrize("der, replays", [(IR, True), (RR, False)], ids=["replayed", "rr"])
async def test_what_cannot_issue_twice_is_repeated(
    script: Script, der: bytes, replays: bool
) -> None:
    """The CA replays, or nothing is issued anyway; a try ends at its own deadline."""
    settings: dict[str, Any] = {"replays_repeats": replays, "try_deadline_seconds": 0.2}
    async with pool(script, answering(), **settings) as (ca, nodes):
        assert await ask(ca, der) == ANSWER
        assert [item.visits_count for item in nodes] == [1, 1]


def slow(seconds: float) -> Script:
    async def script(visit: Visit) -> None:
        await asyncio.sleep(seconds)
        visit.answer()

    return script


async def test_a_request_that_was_sent_may_take_longer_than_a_try() -> None:
    """Giving it up would gain nothing, since it must not be repeated."""
    async with pool(slow(2), answering(), try_deadline_seconds=1) as (ca, nodes):
        assert await ask(ca, IR) == ANSWER
        assert [item.visits_count for item in nodes] == [1, 0]


async def test_the_last_one_may_use_the_time_that_is_left() -> None:
    """There is nobody else to turn to."""
    async with pool(hang, slow(1), try_deadline_seconds=0.5) as (ca, _):
        assert await ask(ca, RR) == ANSWER


async def test_who_waits_for_a_connection_of_a_ca_that_hangs_turns_to_the_next() -> None:
    """Connections are counted for each host, so that the standby has its own."""
    connections = Connections(max_connections=1)
    async with pool(hang, answering(), connections=connections, try_deadline_seconds=0.1) as (
        ca,
        nodes,
    ):
        first = asyncio.create_task(unavailable(ca, IR, seconds=3))
        await until(lambda: nodes[0].visits_count == 1)
        assert await ask(ca, IR) == ANSWER
        assert (await first).delivered


async def test_what_one_may_have_seen_counts_as_delivered_though_the_next_did_not() -> None:
    """The caller must not think that nothing was issued."""
    async with pool(drop, answering(), replays_repeats=True) as (ca, nodes):
        await nodes[1].die()
        error = await unavailable(ca, IR)
        assert error.delivered
        assert "another URL may have had the message" in error.detail


async def test_all_tries_together_end_at_the_deadline() -> None:
    """However many URLs there are."""
    began = asyncio.get_running_loop().time()
    async with pool(hang, hang, hang, hang, try_deadline_seconds=0.5) as (ca, nodes):
        assert (await unavailable(ca, RR, seconds=1.2)).delivered
        assert 1.2 <= asyncio.get_running_loop().time() - began < 60
        visits = [item.visits_count for item in nodes]
        assert (visits[0], visits[3]) == (1, 0)


async def test_a_cmp_message_in_an_error_is_the_answer() -> None:
    """RFC 9811 3.3: nobody else is asked."""
    async with pool(answering(500, content_type=CMP_TYPE), answering()) as (ca, nodes):
        assert await ask(ca, RR) == ANSWER
        assert nodes[1].visits_count == 0


def keeps_any(connections: Connections, port: int) -> bool:
    """Tell whether a connection to a port is kept for the next exchange: its end was not noticed yet."""
    return bool(connections.host(URL(f"http://127.0.0.1:{port}")).idle)


@pytest.mark.parametrize("replays", [False, True])
async def test_the_active_url_dies_under_load(replays: bool) -> None:
    """Nothing fails that a retry could save, and nothing is sent twice to a CA that does not replay."""
    answered_count = 0

    async def work(visit: Visit) -> None:
        nonlocal answered_count
        await asyncio.sleep(0.01)
        visit.answer()
        answered_count += 1

    connections = Connections()
    settings = {"replays_repeats": replays, "try_deadline_seconds": PATIENCE_SECONDS}
    async with pool(work, work, connections=connections, **settings) as (ca, nodes):
        begun: set[bytes] = set()
        dead = asyncio.Event()
        failed: dict[bytes, UpstreamUnavailable] = {}
        begun_before: set[bytes] = set()

        async def enrol(number: int) -> None:
            der = message(BodyType.ir, number)
            await asyncio.sleep(number * 0.002)
            if number >= 100:
                await dead.wait()  # some come after it, however slow this machine is
            begun.add(der)
            try:
                assert await ask(ca, der, seconds=PATIENCE_SECONDS) == ANSWER
            except UpstreamUnavailable as error:
                failed[der] = error

        async def kill() -> None:
            await until(lambda: answered_count > 30)
            await nodes[0].die()
            await until(lambda: not keeps_any(connections, nodes[0].server.port))
            begun_before.update(begun)
            dead.set()

        await asyncio.gather(*(enrol(number) for number in range(150)), kill())
        first, second = ([visit.body for visit in item.server.visits] for item in nodes)
        assert len(second) > 20
        if replays:
            assert failed == {}
        else:
            # Whoever had sent to the one that died; everybody who came later was served.
            assert failed.keys() <= begun_before
            assert all(error.delivered for error in failed.values())
            assert len({*first, *second, *failed}) == 150
            assert not {*first, *failed} & {*second}
        assert [state.healthy for state in ca.states()] == [False, True]


async def test_another_ca_is_not_delayed() -> None:
    """One that hangs, with all its connections and more in use, and one that works."""
    async with (
        pool(hang, connections=Connections(max_connections=2)) as (hanging, _),
        pool(answering()) as (working, _),
    ):
        waiting = [asyncio.create_task(ask(hanging, seconds=PATIENCE_SECONDS)) for _ in range(20)]
        await asyncio.sleep(0.05)
        for _ in range(20):
            assert await ask(working) == ANSWER
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


# --- Leaving one out ------------------------------------------------------------------------------


async def test_the_breaker_opens_and_closes() -> None:
    """After enough failures nothing is sent there; then one trial, and if it succeeds all is well."""
    clock = Clock()
    async with pool(drop, answering(), monotonic=clock, breaker_failures=3, breaker_seconds=4) as (
        ca,
        nodes,
    ):
        for _ in range(3):
            await unavailable(ca, IR)
        state = ca.states()[0]
        assert (state.healthy, state.consecutive_failures) == (False, 3)
        assert state.opened_until == NOW + timedelta(seconds=4)
        assert state.last_error == "ServerDisconnectedError: Server disconnected"
        assert await ask(ca, IR) == ANSWER
        assert [item.visits_count for item in nodes] == [3, 1]
        clock.seconds += 4
        nodes[0].server.script = answering()
        assert await ask(ca, IR) == ANSWER
        assert [item.visits_count for item in nodes] == [4, 1]
        assert ca.states()[0].healthy
        assert ca.states()[0].opened_until is None
        assert counts(ca) == (0, (1, 3, 1), (1, 0, 0))


async def test_one_exchange_is_the_trial() -> None:
    """The others go elsewhere meanwhile; when it is cancelled, the next one is the trial."""
    clock = Clock()
    async with pool(drop, answering(), monotonic=clock, breaker_failures=1) as (ca, nodes):
        await unavailable(ca, IR)
        clock.seconds += 5
        nodes[0].server.script = hang
        trial = asyncio.create_task(ask(ca, IR))
        await until(lambda: nodes[0].visits_count == 2)
        assert await ask(ca, IR) == ANSWER
        assert nodes[0].visits_count == 2
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        nodes[0].server.script = answering()
        assert await ask(ca, IR) == ANSWER
        assert nodes[0].visits_count == 3


async def test_when_all_are_left_out_the_answer_comes_at_once() -> None:
    """Nothing was delivered, and the reason is told."""
    async with pool(drop, breaker_failures=1, monotonic=Clock()) as (ca, nodes):
        await unavailable(ca, IR)
        error = await unavailable(ca, IR)
        assert not error.delivered
        assert error.detail == (
            f"no URL is tried at the moment: {nodes[0].url}: ServerDisconnectedError: Server disconnected"
        )
        assert nodes[0].visits_count == 1


async def test_an_answer_that_is_not_cmp_leaves_nobody_out() -> None:
    """EJBCA says HTTP 500 to some requests: one device must not take the CA away from the others."""
    async with pool(answering(500, b"<html>", content_type=None), breaker_failures=1) as (ca, _):
        for _ in range(3):
            with pytest.raises(UpstreamBroken):
                await ask(ca, IR)
        assert ca.states()[0].healthy
        assert ca.states()[0].last_error == "HTTP 500 without a CMP message: '<html>'"


@pytest.mark.parametrize(
    "status, headers, seconds",
    [
        (503, "", 1),
        (429, "", 1),
        (503, "Retry-After: 7\r\n", 7),
        (429, "Retry-After: 99999\r\n", LONGEST_PAUSE_SECONDS),
    ],
)
async def test_who_is_busy_is_left_alone(status: int, headers: str, seconds: float) -> None:
    """At once, as long as it asks for but within bounds; the next exchange goes to the next URL."""
    busy = answering(status, b"<html>Slow down", content_type="text/html", headers=headers)
    async with pool(busy, answering(), monotonic=Clock()) as (ca, nodes):
        assert (await unavailable(ca, IR)).delivered
        assert ca.states()[0].opened_until == NOW + timedelta(seconds=seconds)
        assert await ask(ca, IR) == ANSWER
        assert [item.visits_count for item in nodes] == [1, 1]


def test_the_pauses_of_a_breaker_grow_within_bounds() -> None:
    """Twice as long each time, less some chance, and from the beginning after a success."""
    breaker = Breaker(2, 5, lambda: 0.5)

    def fail(now: float) -> float | None:
        breaker.fail(now, reached=True, trial=breaker.begin())
        return breaker.opened_until and round(breaker.opened_until - now, 3)

    assert fail(0) is None
    assert [fail(now) for now in (0, 100, 200, 300, 400, 500)] == [4.5, 9.0, 18.0, 36.0, 54.0, 54.0]
    breaker.succeed()
    assert [fail(1000), fail(1000)] == [None, 4.5]


def test_late_failures_do_not_prolong_a_pause() -> None:
    """What was under way when the breaker opened says nothing new."""
    breaker = Breaker(1, 5, lambda: 0.0)
    assert breaker.fail(0, reached=True, trial=False)
    assert not breaker.fail(4, reached=True, trial=False, pause_seconds=50)
    assert breaker.opened_until == 5
    assert [breaker.admits(now) for now in (4.9, 5.0)] == [False, True]


# --- Probes ---------------------------------------------------------------------------------------


class Rounds:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._next = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await self._next.wait()
        self._next.clear()

    async def done(self) -> None:
        """Await the end of the next round."""
        count = len(self.seconds)
        self._next.set()
        await until(lambda: len(self.seconds) > count)


async def test_probes_find_a_dead_url_before_a_request_is_lost() -> None:
    """And that it is back. What the front door says to a HEAD moves it to the end, not out."""
    rounds = Rounds()
    async with pool(answering(), answering(), probe_seconds=10, sleep=rounds) as (ca, nodes):
        await ask(ca, IR)
        await until(lambda: len(rounds.seconds) == 1)
        assert rounds.seconds == [10]
        nodes[0].server.probe_status = 502
        await rounds.done()
        assert ca.states()[0].last_error == "probe: HTTP 502 without a CMP message: ''"
        assert [state.healthy for state in ca.states()] == [False, True]
        await ask(ca, IR)
        assert [item.visits_count for item in nodes] == [1, 1]
        await nodes[1].die()
        await ask(ca, IR)
        assert nodes[0].visits_count == 2
        nodes[0].server.probe_status = 405
        await rounds.done()
        assert [state.healthy for state in ca.states()] == [True, False]


async def test_a_probe_closes_the_breaker_of_a_url_that_could_not_be_reached() -> None:
    """But not of one that took requests and answered none: a HEAD proves nothing about those."""
    rounds = Rounds()
    settings: dict[str, Any] = {
        "probe_seconds": 10,
        "sleep": rounds,
        "breaker_failures": 1,
        "monotonic": Clock(),
    }
    async with pool(answering(), drop, **settings) as (ca, nodes):
        port = nodes[0].server.port
        await nodes[0].die()
        assert (await unavailable(ca, IR)).delivered
        assert [state.opened_until is None for state in ca.states()] == [False, False]
        again = await node(answering(), port=port)
        await until(lambda: bool(rounds.seconds))
        await rounds.done()
        assert [state.opened_until is None for state in ca.states()] == [True, False]
        assert await ask(ca, IR) == ANSWER
        await again.die()


@pytest.mark.parametrize("count, seconds", [(1, 0.01), (2, 0.0)])
async def test_probes_that_nobody_wants(count: int, seconds: float) -> None:
    """None where they are off, and none of a single URL."""
    async with pool(*[answering()] * count, probe_seconds=seconds) as (ca, nodes):
        await ask(ca)
        await asyncio.sleep(0.05)
        assert [item.server.probes_count for item in nodes] == [0] * count


async def test_after_closing_nothing_is_sent() -> None:
    """No probes either, and closing twice is harmless."""
    async with pool(answering(), answering(), probe_seconds=0.01) as (ca, nodes):
        await ask(ca)
        await ca.close()
        await ca.close()
        count = nodes[0].server.probes_count
        assert not (await unavailable(ca)).delivered
        await asyncio.sleep(0.05)
        assert nodes[0].server.probes_count == count


# --- TLS ------------------------------------------------------------------------------------------


class Site(NamedTuple):
    """A TLS server's context that asks for a client certificate, and the client's files."""

    server: ssl.SSLContext
    root: Path
    certificate: Path
    key: Path


def tls_server(directory: Path, root: Authority) -> ssl.SSLContext:
    certificate, key = root.issue("ca.example.net", san=["ip:127.0.0.1"]).write(directory, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.fixture
def site(tmp_path: Path) -> Site:
    root = make_root("TLS Root")
    root_path, _ = root.write(tmp_path, "root")
    server = tls_server(tmp_path, root)
    server.load_verify_locations(root_path)
    server.verify_mode = ssl.CERT_REQUIRED
    return Site(server, root_path, *root.issue("gateway").write(tmp_path, "client"))


@asynccontextmanager
async def over_tls(
    server: ssl.SSLContext, client: ssl.SSLContext, **settings: Any
) -> AsyncIterator[tuple[HttpPool, Node]]:
    item = await node(answering(), tls=server)
    url = item.url.replace("http:", "https:")
    ca = HttpPool(pooled(url), Connections(ssl_context=client, **settings))
    try:
        yield ca, item
    finally:
        await ca.close()
        await item.die()


def mutual(site: Site) -> ssl.SSLContext:
    return tls_context(
        "upstreams.x", ca_path=site.root, certificate_path=site.certificate, key_path=site.key
    )


async def test_mutual_tls(site: Site) -> None:
    """Each side knows the other, over one connection that is kept."""
    async with over_tls(site.server, mutual(site)) as (ca, item):
        assert [await ask(ca) for _ in range(3)] == [ANSWER] * 3
        assert item.server.connections_count == 1


async def test_a_server_with_another_root_gets_nothing(site: Site, tmp_path: Path) -> None:
    """The private roots are the only ones, and the message is not delivered."""
    (tmp_path / "other").mkdir()
    other = tls_server(tmp_path / "other", make_root("Other Root"))
    async with over_tls(other, mutual(site)) as (ca, item):
        error = await unavailable(ca)
        assert (error.delivered, item.visits_count) == (False, 0)
        assert "CERTIFICATE_VERIFY_FAILED" in error.detail


@contextmanager
def refusing(server: ssl.SSLContext) -> Iterator[str]:
    """Serve one connection whose client certificate the server does not like, and yield its URL.

    In a thread: a TLS server of asyncio drops the connection without an alert.
    """

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            connection.settimeout(3)
            # Memory in place of the socket, which a failed handshake would close before the alert is read.
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = server.wrap_bio(incoming, outgoing, server_side=True)
            while octets := connection.recv(65536):
                incoming.write(octets)
                with suppress(ssl.SSLError):
                    tls.do_handshake()
                connection.sendall(outgoing.read())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/cmp"
        thread.join()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shown", ["none", "foreign"])
async def test_a_client_certificate_that_the_server_does_not_like(
    site: Site, tmp_path: Path, shown: str, version: ssl.TLSVersion
) -> None:
    """The message is not delivered, although a client of TLS 1.3 hears of it after having sent."""
    site.server.maximum_version = version
    certificate = key = None
    if shown == "foreign":
        certificate, key = make_root("Foreign").issue("gateway").write(tmp_path, "foreign")
    context = tls_context(
        "upstreams.x", ca_path=site.root, certificate_path=certificate, key_path=key
    )
    with refusing(site.server) as url:
        ca = HttpPool(pooled(url), Connections(ssl_context=context))
        error = await unavailable(ca)
        await ca.close()
    assert (error.delivered, "_ALERT_" in error.detail) == (False, True)


TLS_FAULTS = {
    "tls_ca_path": {"no roots": "No such file", "broken roots": "no certificate or crl found"},
    "tls_certificate_path": {
        "other key": "key values mismatch",
        "no key": "No such file",
        "encrypted key": "cannot be used",
        "wrong password": "cannot be used",
    },
    "tls_key_password_path": {"no password": "No such file"},
}
"""What is told, by the setting that is named and the fault."""


@pytest.mark.parametrize(
    "setting, fault", [(setting, fault) for setting in TLS_FAULTS for fault in TLS_FAULTS[setting]]
)
def test_tls_files_that_cannot_be_used(
    site: Site, tmp_path: Path, setting: str, fault: str
) -> None:
    """The operator is told which setting, and never asked on a terminal."""
    paths = {"ca_path": site.root, "certificate_path": site.certificate, "key_path": site.key}
    nowhere, password = tmp_path / "nowhere", tmp_path / "password"
    password.write_text("wrong\n")
    key = serialization.load_pem_private_key(site.key.read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"right"),
        )
    )
    broken = tmp_path / "broken.pem"
    broken.write_text("no PEM")
    _, other_key = make_root("Other").write(tmp_path, "other")
    paths |= {
        "no roots": {"ca_path": nowhere},
        "broken roots": {"ca_path": broken},
        "other key": {"key_path": other_key},
        "no key": {"key_path": nowhere},
        "encrypted key": {"key_path": encrypted},
        "wrong password": {"key_path": encrypted, "key_password_path": password},
        "no password": {"key_path": encrypted, "key_password_path": nowhere},
    }[fault]
    with pytest.raises(ConfigError) as caught:
        tls_context("upstreams.x", **paths)
    (problem,) = caught.value.problems
    assert problem.path == f"upstreams.x.{setting}"
    assert TLS_FAULTS[setting][fault] in problem.what
    password.write_text("right\nmore\n")
    tls_context(
        "upstreams.x",
        certificate_path=site.certificate,
        key_path=encrypted,
        key_password_path=password,
    )


# --- Proxy ----------------------------------------------------------------------------------------


class Relay:
    """Passes octets on to a port of this machine, both ways."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.join(reader, writer, self.port)

    async def join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        port: int,
        first: bytes = b"",
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        far_writer.write(first)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._tasks.add(asyncio.create_task(self._pass_on(source, sink)))

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while octets := await source.read(65536):
                sink.write(octets)
        except ConnectionError:
            pass  # One of the two has gone.
        finally:
            sink.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Proxy(Relay):
    """A small HTTP proxy: CONNECT, and requests with an absolute URL."""

    def __init__(self) -> None:
        super().__init__()
        self.request_lines: list[str] = []
        self.refuses = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, rest = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n", 1)
        method, target, _ = line.decode().split(" ")
        self.request_lines.append(f"{method} {target}")
        if self.refuses:
            writer.write(b"HTTP/1.1 403 Not For You\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        address = target.removeprefix("http://").partition("/")[0]
        first = b""
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = target.removeprefix(f"http://{address}")
            first = f"{method} {path} HTTP/1.1\r\n".encode() + rest
        await self.join(reader, writer, int(address.partition(":")[2]), first)


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[Proxy, str]]:
    item = Proxy()
    listener = await asyncio.start_server(item.serve, "127.0.0.1", 0)
    yield item, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    listener.close()
    await item.stop()


async def test_https_through_a_proxy(site: Site, proxy: tuple[Proxy, str]) -> None:
    """CONNECT once; mutual TLS is spoken with the CA, not with the proxy."""
    between, url = proxy
    async with over_tls(site.server, mutual(site), proxy=url) as (ca, item):
        assert [await ask(ca) for _ in range(3)] == [ANSWER] * 3
        assert between.request_lines == [f"CONNECT 127.0.0.1:{item.server.port}"]


async def test_http_through_a_proxy(proxy: tuple[Proxy, str]) -> None:
    """Asked with the absolute URL."""
    between, url = proxy
    async with pool(answering(), connections=Connections(proxy=url)) as (ca, nodes):
        assert await ask(ca) == ANSWER
        assert between.request_lines == [f"POST {nodes[0].url}"]


async def test_a_proxy_that_does_not_connect(site: Site, proxy: tuple[Proxy, str]) -> None:
    """Nothing is delivered then."""
    between, url = proxy
    between.refuses = True
    async with over_tls(site.server, mutual(site), proxy=url) as (ca, item):
        error = await unavailable(ca)
        assert error.detail == "the proxy does not connect: HTTP 403 Not For You"
        assert (error.delivered, item.visits_count) == (False, 0)


# --- With a gateway -------------------------------------------------------------------------------


async def test_no_enrolment_fails_when_the_active_url_dies(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Two ways to the bundled CA, which replays: base stations notice nothing."""
    config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki})
    async with AsyncExitStack() as stack:
        ca = stack.enter_context(CAProcess(config))
        address = urlsplit(ca.url)
        assert address.port is not None
        relays = [Relay(address.port) for _ in range(2)]
        doors = [await asyncio.start_server(relay.serve, "127.0.0.1", 0) for relay in relays]
        ports = [door.sockets[0].getsockname()[1] for door in doors]
        urls = [f"http://127.0.0.1:{port}{address.path}" for port in ports]
        set_upstream(
            config, f'kind = "cmp_http"\nurls = {json.dumps(urls)}\nreplays_repeats = true\n'
        )
        gateway = stack.enter_context(GatewayProcess(config))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        root = tmp_path / "setup" / "operator" / "root.pem"
        at_once = asyncio.Semaphore(8)
        finished: list[str] = []

        async def enrol(number: int) -> None:
            async with at_once:
                await Station(f"enb-{number}", vendor_pki, root).enrol(session, gateway)
            finished.append(f"enb-{number}")

        async def kill() -> None:
            await until(lambda: len(finished) >= 10)
            assert len(finished) < 30
            doors[0].close()
            await relays[0].stop()

        await asyncio.gather(*(enrol(number) for number in range(40)), kill())
        assert len(finished) == 40
        doors[1].close()
        await relays[1].stop()


@on_uvloop(globals())
def test_the_same_holds_on_uvloop(test: Callable[[], Any]) -> None:
    """The gateway runs on uvloop, whose transports differ in small ways."""
    run_on_uvloop(test)
