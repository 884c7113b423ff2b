"""Health: what a service waits for, what it tells balancers and systemd, and how it goes."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from ra_gateway.app import application, ca, health, running, systemd
from ra_gateway.app.application import Application
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.config.reading import load
from ra_gateway.errors import ConfigError, StoreUnavailable, UpstreamUnavailable
from ra_gateway.events import Fact, StoreLost, UpstreamDown, UpstreamUp
from ra_gateway.upstream import pool
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.ports import free_port
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.reloading import serving
from tests.support.setups import edit, http_upstream, make_setup


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often."""
    monkeypatch.setattr("ra_gateway.app.application.LOOK_SECONDS", 0.02)
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(health, "CALM_SECONDS", 0.02)
    monkeypatch.setattr(pool, "_HEARD_SECONDS", 0.0)


async def readiness(application: Application) -> tuple[int, dict[str, str]]:
    """Ask; returns the status and the parts that do not work."""
    url = f"{application.management.url}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        told = json.loads(await response.text())
    return response.status, {part: what for part, what in told["parts"].items() if what != "ok"}


async def until(application: Application, status: int) -> dict[str, str]:
    """Wait for a status; returns the parts that do not work then."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found, parts = await readiness(application)
            if found == status:
                return parts
            await asyncio.sleep(0.02)


@asynccontextmanager
async def started(config: Path, facts: list[Fact]) -> AsyncIterator[Application]:
    """Run a gateway."""
    application = Application(load(config), sink=facts.append)
    await application.start()
    try:
        yield application
    finally:
        await application.stop()


async def test_it_starts_without_its_store_and_is_ready_once_that_is_there(
    tmp_path: Path, vendor_pki: VendorPKI, own_redis_server: RedisServer
) -> None:
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=own_redis_server.url)
    own_redis_server.stop()
    facts: list[Fact] = []
    async with started(config, facts) as application:
        status, parts = await readiness(application)
        assert (status, list(parts)) == (503, ["store"])
        assert [fact for fact in facts if isinstance(fact, StoreLost)]
        own_redis_server.start()
        await until(application, 200)
        own_redis_server.stop()
        assert "store" in await until(application, 503)


# asyncio may lose sight of what its server takes at the moment of its close: the test's server, not ours.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_it_is_ready_while_one_of_its_cas_is_there(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    gone = free_port()
    config = make_setup(
        tmp_path,
        vendors={"acme": vendor_pki},
        upstream=http_upstream(f"http://127.0.0.1:{gone}/cmp", connect_timeout_seconds=5.0),
    )
    facts: list[Fact] = []
    async with started(config, facts) as application:
        status, parts = await readiness(application)
        assert (status, list(parts)) == (503, ["upstreams"])
        assert f"127.0.0.1:{gone}" in parts["upstreams"]
        down = [fact for fact in facts if isinstance(fact, UpstreamDown)]
        assert len(down) == 1
        taken: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(partial(_silent, taken), "127.0.0.1", gone)
        await until(application, 200)
        assert len([fact for fact in facts if isinstance(fact, UpstreamUp)]) == 1
        server.close()
        await server.wait_closed()
        await until(application, 503)
        for writer in taken:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        gc.collect()


async def _silent(
    taken: list[asyncio.StreamWriter], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Take a request and hang up: a front door that lets nothing but messages through."""
    taken.append(writer)
    with suppress(OSError):
        await reader.read(1)
    writer.close()


async def test_a_ledger_that_is_away_is_waited_for(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca, "LOOK_SECONDS", 0.02)
    opening, away = Ledger.open, [True]

    async def unless_away(self: Ledger) -> None:
        if away:
            raise StoreUnavailable("ledger: nobody listens there")
        await opening(self)

    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    monkeypatch.setattr(Ledger, "open", unless_away)
    async with started(config, []) as application:
        status, parts = await readiness(application)
        assert (status, parts) == (503, {"ledger": "ledger: nobody listens there"})
        away.clear()
        await until(application, 200)


async def test_before_it_goes_it_is_unready_and_serves_on(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(config, "[server]\n", "[server]\nlame_duck_seconds = 600\n")
    application = Application(load(config))
    host, port = await application.start()
    stopping = asyncio.create_task(application.stop())
    assert await until(application, 503) == {"process": "draining"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}/.well-known/cmp") as response,
    ):
        assert response.status == 405
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    application.config.server.__dict__["lame_duck_seconds"] = 0.0
    await application.stop()


@pytest.fixture
def systemd_socket(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(PATIENCE_SECONDS)
        yield listener


def test_systemd_is_told(
    tmp_path: Path,
    vendor_pki: VendorPKI,
    systemd_socket: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})

    def told(wanted: str) -> list[str]:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            lines = systemd_socket.recv(4096).decode().splitlines()
            if wanted in lines:
                return lines
        raise AssertionError(wanted)

    with GatewayProcess(config) as gateway:
        assert told("READY=1")[1] == f"STATUS=listening on 127.0.0.1:{gateway.port}"
        told("WATCHDOG=1")
        gateway.hang_up()
        assert told("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        assert told("READY=1") == ["READY=1"]
        started = gateway.await_event("started")
        assert started["endpoints"] == ["ran /.well-known/cmp /pkix"]
        assert len(started["digest"]) == 16
        gateway.stop()
        told("STOPPING=1")


async def test_systemd_waits_for_no_reload_that_failed_of_a_bug(
    tmp_path: Path,
    vendor_pki: VendorPKI,
    systemd_socket: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was refused, for whoever asks; the service goes on, and the next one is taken up."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    async with serving(config) as site:

        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(application, "Wiring", broken)
            asked = asyncio.Event()
            asked.set()
            with pytest.raises(RuntimeError):
                await running._reload_when(asked, site.application)
        assert systemd_socket.recv(4096).startswith(b"RELOADING=1")
        assert systemd_socket.recv(4096) == b"READY=1"
        assert site.application.management.status()["reloads"]["last"]["outcome"] == "refused"
        await site.enrol(vendor_pki, "A1")
        await site.application.reload()


def test_nobody_is_told_where_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", "/nowhere/at/all", "@ra-gateway-nobody", "relative"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        systemd.notify(READY=1)


@pytest.mark.parametrize(
    "usec, pid, seconds",
    [
        ("", "", None),
        ("0", "", None),
        ("x", "", None),
        ("10000000", "", 5.0),
        ("10000000", "1", None),
    ],
)
def test_the_watchdog_is_fed_in_half_its_time(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.watchdog_seconds() == seconds
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert systemd.watchdog_seconds() == (5.0 if usec == "10000000" else None)


async def test_a_plain_core_always_would_do() -> None:
    class Core:
        async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
            raise UpstreamUnavailable("no", delivered=False)

        async def close(self) -> None:
            pass

    probe = health.UpstreamProbe("one", Core())
    assert health.none_of([probe]) == "one: was not asked yet"
    await probe.once()
    assert health.none_of([probe]) == ""
    assert health.none_of([]) == ""


@pytest.mark.parametrize(
    "error, problem",
    [
        (UpstreamUnavailable("away", delivered=False), "away"),
        (ConfigError.of("upstreams.one", "is wrong", "Mend it"), "upstreams.one: is wrong"),
        (TypeError("look() takes 2 arguments"), "a bug, TypeError"),
    ],
)
async def test_whatever_a_core_says_is_its_problem_alone(error: Exception, problem: str) -> None:
    """Also a plug-in's with a bug, or another idea of what `look` is: neither start nor reload fails of it."""

    class Core:
        fails = True

        async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
            return b""

        async def close(self) -> None:
            pass

        async def look(self) -> None:
            if self.fails:
                raise error

    core, facts = Core(), list[Fact]()
    probe = health.UpstreamProbe("one", core, facts.append)
    for _ in range(3):
        await probe.once()
    assert probe.problem.startswith(problem)
    core.fails = False
    await probe.once()
    assert probe.problem == ""
    assert [type(fact) for fact in facts] == [UpstreamDown, UpstreamUp]


def test_a_ca_of_its_own_tells_too(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    with CAProcess(make_setup(tmp_path, vendors={"acme": vendor_pki})) as authority:
        started = authority.await_event("started")
    assert started["endpoints"] == ["ra /.well-known/cmp /pkix"]
