"""A simulated fleet whose gateway is busy, silent or wrong, and one that is told to end while it waits."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.resolver import ThreadedResolver
from aiohttp.test_utils import TestServer

from ra_gateway.app.application import Application
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.config.reading import load
from ra_gateway.device.client import open_session, post
from ra_gateway.device.fleet.driving import Stop
from ra_gateway.device.fleet.figures import Figures, Outcome
from ra_gateway.device.fleet.plan import Behaviour, Load, Plan
from ra_gateway.device.fleet.running import Material, ProcessEnded, simulate
from ra_gateway.device.fleet.sources import Origin
from ra_gateway.device.fleet.station import Station
from ra_gateway.device.fleet.summary import unexpected
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup

Answering = Callable[[bytes], Awaitable[bytes | int]]
"""Takes a message; returns an answer, or an HTTP status without one."""


@asynccontextmanager
async def server(
    answering: Answering, headers: Mapping[str, str] | None = None
) -> AsyncIterator[str]:
    """Answer messages for as long as the block lasts; gives the URL."""

    async def handle(request: web.Request) -> web.Response:
        answer = await answering(await request.read())
        if isinstance(answer, int):
            return web.Response(status=answer, headers=headers)
        return web.Response(body=answer, content_type="application/pkixcmp")

    app = web.Application()
    app.router.add_post("/", handle)
    served = TestServer(app)
    await served.start_server(shutdown_timeout=0)
    try:
        yield str(served.make_url("/"))
    finally:
        await served.close()


@pytest.fixture
async def gateway(vendor_pki: VendorPKI, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a gateway in this process, beside whose configuration the vendor is."""
    application = Application(
        load(make_setup(tmp_path, vendors={"acme": vendor_pki})), sink=lambda _: None
    )
    host, port = await application.start()
    yield f"http://{host}:{port}/.well-known/cmp"
    await application.stop()


@pytest.fixture
def material(vendor_pki: VendorPKI, tmp_path: Path) -> Material:
    """Base stations of the vendor."""
    vendor_pki.write(tmp_path / "vendor")
    vendor = tmp_path / "vendor"
    return Material(Origin(vendor / "sub.pem", vendor / "sub.key"), None, no_tls)


def no_tls() -> None:
    """Return that there is none."""


def plan(url: str, *, count: int = 2, processes: int = 1, **behaviour: float) -> Plan:
    """Return a plan for a few base stations, one after the other in each process."""
    does = {"subject": "CN={name}", "retransmit_after_seconds": 0.001, **behaviour}
    return Plan(
        url=url,
        behaviour=Behaviour(**does),  # type: ignore[arg-type]
        count=count,
        at_once=processes,
        processes=processes,
    )


async def never(_: bytes) -> int:
    """Let a base station wait for an answer for ever."""
    await asyncio.Event().wait()
    return 0


async def busy(_: bytes) -> int:
    """Say that there is too much to do."""
    return 503


async def ran(what: Plan, material: Material, stop: Stop | None = None) -> Figures:
    """Run a plan to its end."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await simulate(what, material, stop or Stop(), lambda _: None)


async def test_who_is_told_that_it_is_too_much_comes_again(material: Material) -> None:
    """As often as it may, and then gives up; a 404 is no reason to come again."""
    async with server(busy) as url:
        figures = await ran(plan(url, retransmissions=2), material)
        assert figures.operations == {("ir", "", Outcome.busy): 2}
        assert figures.retransmitted == 4
        figures = await ran(plan(f"{url}elsewhere"), material)
        assert figures.operations == {("ir", "", Outcome.not_cmp): 2}
        assert figures.retransmitted == 0


@pytest.mark.parametrize(
    "told, patience, least",
    [("1", 600.0, 1.0), ("3600", 0.5, 0.5), ("0", 600.0, 0.0), ("soon", 600.0, 0.0)],
)
async def test_who_is_told_when_to_come_again_does_not_come_before(
    told: str, patience: float, least: float, material: Material
) -> None:
    """Retry-After is heeded, as long as patience lasts; what cannot be read is none."""
    async with server(busy, {"Retry-After": told}) as url:
        what = plan(url, count=1, retransmissions=1, patience_seconds=patience)
        figures = await ran(what, material)
    assert figures.operations == {("ir", "", Outcome.busy): 1}
    assert figures.retransmitted == 1
    assert figures.elapsed_seconds > least


async def test_a_full_disk_ends_it_in_words(
    gateway: str, material: Material, tmp_path: Path
) -> None:
    """What was counted until then is told, and that it is not as expected."""
    (tmp_path / "out").write_text("")
    what = replace(plan(gateway, count=5), out=tmp_path / "out")
    figures = await ran(what, material)
    assert figures.operations == {("ir", "", Outcome.issued): 1}
    (said,) = unexpected(figures)
    assert said.startswith("it was ended by an error: --out: sim-1 cannot be written: ")


async def test_no_answer_is_waited_for_no_longer_than_the_timeout(material: Material) -> None:
    """What is sent again then is counted; nothing that had no answer has a latency."""
    async with server(never) as url:
        what = plan(url, count=1, retransmissions=1, timeout_seconds=0.05)
        figures = await ran(what, material)
    assert figures.operations == {("ir", "", Outcome.no_answer): 1}
    assert (figures.retransmitted, figures.times) == (1, {})


async def test_busy_for_a_while(gateway: str, material: Material) -> None:
    """Each message is refused once with 503: all enrol, with the same octets, and latency has it all in it."""
    seen: list[bytes] = []

    async def sometimes(der: bytes) -> bytes | int:
        seen.append(der)
        if seen.count(der) == 1:
            return 503
        async with open_session() as session:
            return await post(session, gateway, der)

    async with server(sometimes) as url:
        figures = await ran(plan(url, retransmit_after_seconds=0.05), material)
    assert figures.operations == {("ir", "", Outcome.issued): 2}
    assert (figures.retransmitted, len(seen), len(set(seen))) == (4, 8, 4)
    assert all(times.from_due.percentile(50) > 0.02 for times in figures.times.values())


async def test_two_certificates_for_one_request_are_seen(gateway: str, material: Material) -> None:
    """A repeat that is answered with another certificate is never as expected, however much may fail."""
    answers: dict[bytes, bytes] = {}

    async def forgetful(der: bytes) -> bytes:
        repeated, asks = der in answers, PKIMessage.from_der(der).body_type is BodyType.ir
        others = [answer for other, answer in answers.items() if other != der]
        if repeated and asks and others:
            return others[0]
        async with open_session() as session:
            answers[der] = await post(session, gateway, der)
        return answers[der]

    async with server(forgetful) as url:
        figures = await ran(plan(url, repeated=1.0), material)
    assert figures.operations == {("ir", "", Outcome.issued): 2}
    assert (figures.issued_twice, figures.repeated) == (1, 4)
    assert unexpected(figures, 1.0) == ["1 messages were answered with two certificates"]


@pytest.mark.parametrize("processes", [1, 2])
async def test_told_twice_it_ends_at_once(processes: int, material: Material) -> None:
    """Who still waits for an answer is counted as interrupted; until then, reports tell how far it is."""
    stop, waits, told = Stop(), asyncio.Event(), asyncio.Event()

    def report(figures: Figures) -> None:
        if figures.begun and figures.cpu_seconds:
            told.set()

    async def silent(der: bytes) -> int:
        waits.set()
        return await never(der)

    async with server(silent) as url:
        async with asyncio.TaskGroup() as group:
            what = plan(url, processes=processes, count=9)
            running = group.create_task(simulate(what, material, stop, report))
            await asyncio.wait_for(waits.wait(), PATIENCE_SECONDS)
            await asyncio.wait_for(told.wait(), PATIENCE_SECONDS)
            stop()
            await asyncio.sleep(0.2)
            assert not running.done()
            stop()
        figures = running.result()
    assert {outcome for _, _, outcome in figures.operations} == {Outcome.interrupted}
    assert 1 <= figures.begun == figures.ended <= processes


async def test_a_process_that_is_lost_is_told(material: Material) -> None:
    """The others end, too."""
    waits = asyncio.Event()

    async def silent(der: bytes) -> int:
        waits.set()
        return await never(der)

    async with server(silent) as url:
        running = asyncio.create_task(ran(plan(url, processes=2), material))
        await waits.wait()
        multiprocessing.active_children()[0].kill()
        with pytest.raises(ProcessEnded):
            await running
    assert multiprocessing.active_children() == []


async def test_a_host_is_looked_up_once(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many base stations have a connection of their own to it; again after a failure alone."""
    asked: list[str] = []
    resolve = ThreadedResolver.resolve

    async def counted(self: ThreadedResolver, host: str, *more: Any) -> Any:
        asked.append(host)
        if len(asked) == 1:
            raise OSError("no such host")
        return await resolve(self, host, *more)

    monkeypatch.setattr(ThreadedResolver, "resolve", counted)
    async with server(busy) as url:
        by_name = url.replace("127.0.0.1", "localhost")
        figures = await ran(plan(by_name, count=4, retransmissions=1), material)
    assert figures.operations == {("ir", "", Outcome.busy): 4}
    assert asked == ["localhost", "localhost"]


async def test_nobody_is_ready_long_before_it_is_due(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first message has the time at which it was made, and would be refused for it (badTime)."""
    stop, made = Stop(), list[Station]()
    prepare = Station.prepare

    async def counted(self: Station) -> Station:
        made.append(self)
        return await prepare(self)

    monkeypatch.setattr(Station, "prepare", counted)
    seldom = replace(plan("http://127.0.0.1:1/", count=9), load=Load.rate, per_second=0.001)
    assert next(seldom.share(0))[1] > 60
    async with asyncio.timeout(PATIENCE_SECONDS):
        figures = await simulate(replace(seldom, at_once=9), material, stop, lambda figures: stop())
    assert (figures.begun, figures.prepared, made) == (0, 0, [])


async def test_a_slow_gateway_does_not_slow_arrivals(material: Material) -> None:
    """Open loop: what waits for its turn has waited since it was due; a closed loop asks for it only then."""

    async def slow(_: bytes) -> int:
        await asyncio.sleep(0.1)
        return 404

    async with server(slow) as url:
        closed = plan(url, count=6)
        storm = Plan(
            url=url, behaviour=closed.behaviour, load=Load.storm, count=6, at_once=2
        )  # fmt: skip
        figures = await ran(storm, material)
        assert (figures.held, figures.begun) == (4, 6)
        # Two at a time, each for 0.1 s: the last ones were due at the begin, and ended 0.3 s later.
        assert figures.elapsed_seconds > 0.3
        assert figures.timeline.rows()[0][1].due == 6
        assert (await ran(closed, material)).held == 0
