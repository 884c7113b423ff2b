"""`serve --workers 2` as real processes: one service, whatever happens to one of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ra_gateway.device.client import ServerUnreachable, post
from tests.support.commandline import succeeded
from tests.support.commands import run_command
from tests.support.load import under_load
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.ports import free_port
from tests.support.processes import GatewayProcess
from tests.support.reloading import other_vendor
from tests.support.setups import edit, make_setup
from tests.support.stations import Station, until

Samples = dict[str, dict[tuple[str, ...], float]]


class Gateway(GatewayProcess):
    """A gateway of two workers."""

    def __init__(self, config: Path, vendor: VendorPKI, management_port: int) -> None:
        super().__init__(config)
        self.vendor, self.management_url = vendor, f"http://127.0.0.1:{management_port}"
        self._names = 0

    @property
    def workers(self) -> dict[int, int]:
        """Process ID of each worker by its number, as the log has it."""
        return {
            event["worker"]: event["pid"]
            for event in self.events
            if event["event"] == "worker.started"
        }

    def station(self, vendor: VendorPKI | None = None) -> Station:
        """Make a base station that leaves the factory now."""
        self._names += 1
        root = self.config_path.parent / "operator" / "root.pem"
        return Station(f"enb-{self._names}", vendor or self.vendor, root)

    async def has_told(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for lines of the log, and return them."""
        await until(lambda: len(self.told(event)) >= count, f"{count} {event}")
        return self.told(event)

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line["event"] == event]

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the management listener."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.management_url}{path}") as response,
        ):
            return response.status, await response.text()

    async def scraped(self) -> Samples:
        """Return all samples by name and values of their labels."""
        found: Samples = {}
        for family in text_string_to_metric_families((await self.get("/metrics"))[1]):
            for sample in family.samples:
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
        return found

    async def reads(self, name: str, wanted: object) -> None:
        """Wait until a metric has certain values, or a certain sum of them."""
        seen: Any = None
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            seen = (await self.scraped()).get(name, {})
            if wanted in (seen, sum(seen.values()), set(seen)):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{name} is {seen}, not {wanted}")


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a worker: what comes meanwhile, the other one takes."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that opens a connection for each request, as each may come to another worker."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        yield client


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI, redis_url: str) -> Path:
    """A site with the CA in the workers."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki}, redis_url=redis_url)
    trail = '[audit]\nsqlite_path = "audit.sqlite"\n\n'
    edit(config, "[server]\n", f"{trail}[server]\nworkers = 2\nlame_duck_seconds = 60\n")
    config.write_text(f"{config.read_text()}\n[management]\nlisten_port = {free_port()}\n")
    return config


def gateway_of(config: Path, vendor: VendorPKI) -> Gateway:
    port = int(config.read_text().rpartition("listen_port = ")[2])
    return Gateway(config, vendor, port)


@pytest.fixture
def gateway(config: Path, vendor_pki: VendorPKI) -> Iterator[Gateway]:
    """Two workers that serve."""
    with gateway_of(config, vendor_pki) as running:
        yield running


async def test_two_serve_as_one_also_when_one_is_killed(
    gateway: Gateway, session: aiohttp.ClientSession
) -> None:
    good = gateway.config_path.read_text()
    await both_serve_and_count(gateway, session)
    await one_is_killed_under_load(gateway, session)
    ending = asyncio.create_task(asyncio.to_thread(gateway.stop))
    await until_unready(gateway)
    os.kill(gateway.pid, signal.SIGTERM)  # who cannot wait says so twice
    assert await ending == 0
    await until(lambda: not any(map(_runs, gateway.workers.values())), "the end of all")
    # One was killed while it wrote, another one began: all of them have kept one chain.
    gateway.config_path.write_text(good)
    await asyncio.to_thread(succeeded, "audit", "verify", "--config", gateway.config_path)
    assert len(await recorded(gateway.config_path, "start")) == 3


async def recorded(config: Path, action: str) -> list[str]:
    """Return which processes have told of something in the audit trail."""
    search = ("audit", "search", "--action", action, "--json", "--config", config)
    return [
        item["detail"]["node"] for item in json.loads(await asyncio.to_thread(succeeded, *search))
    ]


async def both_serve_and_count(gateway: Gateway, session: aiohttp.ClientSession) -> None:
    """Have each worker take part in two enrolments, and add up what they count."""
    lines = [event["event"] for event in gateway.events if event["event"] != "config.warning"]
    assert lines[:3] == ["started", "worker.started", "worker.started"]
    assert gateway.told("started")[0]["workers"] == 2
    first, second = gateway.workers.values()
    assert first != second != gateway.pid
    for one, other in ((first, second), (second, first)):
        station = gateway.station()
        with frozen(one):
            confirmation = await station.confirmation(await station.request(session, gateway))
        with frozen(other):
            await station.finish(await post(session, gateway.url, confirmation))
    await gateway.reads("ra_gateway_messages_in_flight", 0.0)
    samples = await gateway.scraped()
    of_gateway = {
        k: v for k, v in samples["ra_gateway_messages_total"].items() if k[0] == "gateway"
    }
    assert sum(of_gateway.values()) == samples["ra_gateway_http_requests_total"]["cmp",] == 4
    assert samples["ra_gateway_certificates_total"]["gateway", "confirmed", "bundled"] == 2
    assert samples["ra_gateway_workers"] == {("wanted",): 2, ("serving",): 2}
    assert len(samples["ra_gateway_configuration_info"]) == 1
    assert samples["ra_gateway_http_connections_limit"]["cmp",] == 2000
    assert samples["ra_gateway_reloads_total"] == {
        ("gateway", "reloaded"): 0,
        ("gateway", "refused"): 0,
    }
    assert (await gateway.get("/livez"))[0] == (await gateway.get("/readyz"))[0] == 200


async def enrolled(gateway: Gateway, station: Station, session: aiohttp.ClientSession) -> None:
    """Enrol as a base station does: what is not answered is sent again."""
    confirmation = await station.confirmation(await station.insist(session, gateway))
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await station.finish(await post(session, gateway.url, confirmation))
            return
        except ServerUnreachable:
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.1)


async def one_is_killed_under_load(gateway: Gateway, session: aiohttp.ClientSession) -> None:
    """Have a worker die: no base station fails for good, and the next one goes by what is in force, not by the file."""
    before = gateway.workers
    async with under_load(lambda _: enrolled(gateway, gateway.station(), session)) as load:
        await load.goes_on()
        counted = sum((await gateway.scraped())["ra_gateway_messages_total"].values())
        gateway.config_path.write_text("nothing of this holds")
        os.kill(before[1], signal.SIGKILL)
        (ended,) = await gateway.has_told("worker.ended")
        assert (ended["worker"], ended["pid"], ended["exit_code"]) == (1, before[1], -9)
        await gateway.has_told("worker.started", 3)
        await load.goes_on()
        after = gateway.workers
        assert after[2] == before[2]
        with frozen(before[2]):
            await enrolled(gateway, gateway.station(), session)
        await gateway.reads("ra_gateway_workers", {("wanted",): 2, ("serving",): 2})
    samples = await gateway.scraped()
    assert sum(samples["ra_gateway_messages_total"].values()) > counted
    assert samples["ra_gateway_workers_ended_total"] == {(): 1}
    assert len(samples["ra_gateway_configuration_info"]) == 1


async def test_all_go_over_or_none_and_end_as_one(
    config: Path,
    vendor_pki: VendorPKI,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edit(config, "lame_duck_seconds = 60", "lame_duck_seconds = 1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(config.with_name("notify")))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(config.with_name("notify")))
        monkeypatch.setenv("WATCHDOG_USEC", "200000000")
        with gateway_of(config, vendor_pki) as gateway:
            await all_go_over_or_none(gateway, session)
            await all_end_as_one(gateway, session)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(systemd.recv(4096).decode().splitlines()[0])
    assert len({*(await recorded(config, "reload"))}) == 3  # by the parent, and by each worker
    assert len({*(await recorded(config, "reload.refused"))}) >= 1
    assert len(await recorded(config, "reload.asked")) == 1
    # Of the parent alone: what is told of a reload is told once.
    reloads = 3 * ["RELOADING=1", "READY=1"]
    assert told == ["READY=1", "WATCHDOG=1", *reloads, "STOPPING=1"]


async def all_go_over_or_none(gateway: Gateway, session: aiohttp.ClientSession) -> None:
    """Have the configuration read again, three times."""
    config = gateway.config_path
    (digest,) = (await gateway.scraped())["ra_gateway_configuration_info"]
    good = config.read_text()
    workers = gateway.workers
    # What the parent refuses, and what it can be read as, with a file in it that only a worker looks into.
    for times, bad in enumerate(
        (good + "[nonsense]\n", good.replace("acme/root.pem", "gateway.toml"))
    ):
        config.write_text(bad)
        gateway.hang_up()
        refused = (await gateway.has_told("config.reload_refused", times + 1))[-1]
        assert refused["problems"]
        for one in workers.values():
            with frozen(one):
                await enrolled(gateway, gateway.station(), session)
        await gateway.reads("ra_gateway_configuration_info", {digest})
    config.write_text(good)
    fresh = other_vendor(config, "fresh")
    assert "Reloaded: the process" in await asyncio.to_thread(
        succeeded, "reload", "--config", config
    )
    for one in workers.values():
        with frozen(one):
            await enrolled(gateway, gateway.station(fresh), session)
    ((now,),) = [tuple((await gateway.scraped())["ra_gateway_configuration_info"])]
    assert now != digest
    assert gateway.workers == workers
    samples = await gateway.scraped()
    assert samples["ra_gateway_reloads_total"] == {
        ("gateway", "reloaded"): 1,
        ("gateway", "refused"): 2,
    }
    assert samples["ra_gateway_last_reload_successful"] == {("gateway",): 1}
    assert len(gateway.told("config.reloaded")) == 1


async def all_end_as_one(gateway: Gateway, session: aiohttp.ClientSession) -> None:
    """Have the gateway end under load: what it began is answered."""
    over = asyncio.Event()
    done = 0

    async def keep_enrolling() -> None:
        nonlocal done
        while not over.is_set():
            await gateway.station().enrol(session, gateway)  # the first that fails ends the test
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(keep_enrolling())
        await until(lambda: done > 6, "enrolling")
        ended = group.create_task(asyncio.to_thread(gateway.stop))
        await until_unready(gateway)
        at_the_signal = done
        await until(lambda: done > at_the_signal, "enrolling as a lame duck")
        over.set()
    assert ended.result() == 0
    assert len(gateway.told("draining")) == 1
    await until(lambda: not any(map(_runs, gateway.workers.values())), "the end of all")
    with pytest.raises(ServerUnreachable):
        await post(session, gateway.url, b"")


async def until_unready(gateway: Gateway) -> None:
    """Wait until balancers are told to turn away."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while (await gateway.get("/readyz"))[0] == 200:
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_the_memory_store_is_refused(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    refused = run_command("serve", "--workers", "2", "--config", config)
    assert refused.returncode == 2
    assert "server.workers (from --workers): is 2 with store.kind" in refused.stderr
    assert 'Set store.kind to "redis"' in refused.stderr


def test_what_keeps_workers_from_serving_is_told_once(config: Path, vendor_pki: VendorPKI) -> None:
    """By the parent, in the words of the worker, and nothing goes on."""
    (config.parent / "acme" / "root.pem").write_text("no certificate")
    refused = run_command("serve", "--config", config)
    assert refused.returncode == 2
    assert refused.stderr.count("vendors.acme.anchors_paths") == 1
