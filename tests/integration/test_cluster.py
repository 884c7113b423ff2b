"""Gateways, CA and Redis as processes of their own: what survives kill -9, and what stops in order.

The ledger of the CA is the judge: what it holds is what was issued.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.client import ServerUnreachable, post
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.errors import PKIFailureInfo
from tests.support.commands import run_command
from tests.support.pki import VendorPKI
from tests.support.processes import CAProcess, GatewayProcess, ServerProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, make_setup, set_upstream
from tests.support.stations import Station, issued, until

LEASE_MARGIN_SECONDS = 5.0
"""What a node may be late by before another one takes over, added to the upstream's deadline."""


# --- the cluster ----------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A CA process, and gateways in front of it that share a configuration."""

    directory: Path
    config_path: Path
    vendor: VendorPKI
    ca: CAProcess
    stack: ExitStack

    def gateway(self) -> GatewayProcess:
        """Start one more gateway."""
        return self.stack.enter_context(GatewayProcess(self.config_path))

    def station(self, serial: str = "enb-1") -> Station:
        """Make a base station that leaves the factory now."""
        return Station(serial, self.vendor, self.directory / "operator" / "root.pem")

    @property
    def ledger(self) -> list[tuple[str, bytes]]:
        """Serial number and DER of every certificate the CA has issued."""
        return ledger(self.directory)


def ledger(directory: Path) -> list[tuple[str, bytes]]:
    """Read a CA's ledger: serial number and DER of every certificate, oldest first."""
    path = directory / "ca" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(
            "SELECT serial, der FROM certificates WHERE der IS NOT NULL ORDER BY id"
        ).fetchall()


@contextmanager
def running(
    directory: Path, vendor: VendorPKI, redis_url: str | None, *, deadline_seconds: float = 10.0
) -> Iterator[Cluster]:
    """Run a CA process with a setup around it; gateways are added with `Cluster.gateway`."""
    config = make_setup(directory, vendors={"acme": vendor}, redis_url=redis_url)
    with ExitStack() as stack:
        ca = stack.enter_context(CAProcess(config))
        upstream = http_upstream(
            ca.url,
            replays_repeats=True,
            deadline_seconds=deadline_seconds,
            connect_timeout_seconds=min(deadline_seconds, 2.0),
        )
        set_upstream(config, upstream)
        yield Cluster(directory, config, vendor, ca, stack)


@pytest.fixture
def cluster(tmp_path: Path, vendor_pki: VendorPKI, redis_url: str) -> Iterator[Cluster]:
    """A CA process, and Redis as the gateways' store."""
    with running(tmp_path / "setup", vendor_pki, redis_url) as running_cluster:
        yield running_cluster


@pytest.fixture
def hasty_cluster(tmp_path: Path, vendor_pki: VendorPKI, redis_url: str) -> Iterator[Cluster]:
    """The same, with gateways that wait two seconds for the CA."""
    with running(tmp_path / "s", vendor_pki, redis_url, deadline_seconds=2.0) as running_cluster:
        yield running_cluster


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that opens a connection for each request: servers come and go here."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        yield client


async def until_asked(redis: RedisServer) -> None:
    """Wait until a gateway has stored its intent and sent it to the CA."""
    await until(lambda: redis.command("KEYS ra_gateway:{*") != b"*0\r\n", "storing the intent")
    # Nothing tells from outside that the frozen CA's kernel has the request; it takes a millisecond.
    await asyncio.sleep(0.2)


async def asking(request: Coroutine[Any, Any, bytes], redis: RedisServer) -> asyncio.Task[bytes]:
    """Begin a request; return when the CA is being asked."""
    asked = asyncio.create_task(request)
    await until_asked(redis)
    return asked


@contextmanager
def frozen(process: ServerProcess) -> Iterator[None]:
    """Freeze a process: its connections are accepted by the kernel, nothing is answered."""
    pid = process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


# --- two gateways, one store ----------------------------------------------------------------------


async def test_a_certconf_may_go_to_another_gateway(
    cluster: Cluster, session: aiohttp.ClientSession
) -> None:
    """ir to one gateway and certConf to the other is one enrolment."""
    first, second = cluster.gateway(), cluster.gateway()
    station = cluster.station()
    answer = await station.request(session, first)
    confirmation = await station.confirmation(answer)
    done = await station.finish(await post(session, second.url, confirmation))
    assert [der for _, der in cluster.ledger] == [done.certificate.der]


@pytest.mark.requirement(94)
async def test_the_same_ir_to_both_gateways_at_once_yields_one_certificate(
    cluster: Cluster, session: aiohttp.ClientSession
) -> None:
    """Whoever is asked, and however often at once, the octets of ip and pkiConf are the same."""
    gateways = [cluster.gateway(), cluster.gateway()]
    certificates = []
    for number in range(25):
        station = cluster.station(f"enb-{number}")
        ir = await station.enrollment.request()
        answers = await asyncio.gather(*(post(session, g.url, ir) for g in gateways * 2))
        assert len(set(answers)) == 1
        confirmation = await station.confirmation(answers[0])
        answers = await asyncio.gather(*(post(session, g.url, confirmation) for g in gateways * 2))
        assert len(set(answers)) == 1
        certificates.append((await station.finish(answers[0])).certificate.der)
    assert [der for _, der in cluster.ledger] == certificates


# --- kill -9 of the gateway -----------------------------------------------------------------------


async def test_certconf_completes_after_a_crash_of_the_gateway(
    cluster: Cluster, session: aiohttp.ClientSession
) -> None:
    """A gateway that was killed after ip takes the certConf when it is back."""
    gateway, station = cluster.gateway(), cluster.station()
    confirmation = await station.confirmation(await station.request(session, gateway))
    gateway.restart()
    done = await station.finish(await post(session, gateway.url, confirmation))
    assert [der for _, der in cluster.ledger] == [done.certificate.der]


async def test_a_repeated_ir_gets_the_same_answer_after_a_crash_of_the_gateway(
    cluster: Cluster, session: aiohttp.ClientSession
) -> None:
    """With Redis the repeat gets the very octets of before the crash, and the enrolment completes."""
    gateway, station = cluster.gateway(), cluster.station()
    before = await station.request(session, gateway)
    gateway.restart()
    after = await station.request(session, gateway)
    assert after == before
    done = await station.finish(await post(session, gateway.url, await station.confirmation(after)))
    assert [der for _, der in cluster.ledger] == [done.certificate.der]


@pytest.mark.parametrize("where", ["in process", "over HTTP"])
async def test_the_bundled_ca_replays_what_a_memory_store_forgot(
    where: str, tmp_path: Path, vendor_pki: VendorPKI, session: aiohttp.ClientSession
) -> None:
    """The repeated ir gets the same certificate, although the gateway remembers nothing."""
    with running(tmp_path / "setup", vendor_pki, None) as cluster:
        if where == "in process":
            cluster.ca.kill()
            set_upstream(cluster.config_path, 'kind = "bundled"\n')
        gateway, station = cluster.gateway(), cluster.station()
        before = issued(await station.request(session, gateway))
        gateway.restart()
        answer = await station.request(session, gateway)
        assert issued(answer) == before != b""
        confirmation = await station.confirmation(answer)
        done = await station.finish(await post(session, gateway.url, confirmation))
        assert [der for _, der in cluster.ledger] == [done.certificate.der] == [before]


@pytest.mark.parametrize("ca_dies", [False, True], ids=["CA goes on", "CA dies, too"])
async def test_a_crash_while_the_ca_is_asked_yields_one_certificate(
    ca_dies: bool,
    hasty_cluster: Cluster,
    redis_server: RedisServer,
    session: aiohttp.ClientSession,
) -> None:
    """When the dead gateway's lease is over, the repeated ir gets the one certificate there is."""
    gateway, station = hasty_cluster.gateway(), hasty_cluster.station()
    with frozen(hasty_cluster.ca):
        asked = await asking(station.request(session, gateway), redis_server)
        gateway.kill()
        died_at = time.monotonic()
        with pytest.raises(ServerUnreachable):
            await asked
        if ca_dies:
            hasty_cluster.ca.kill()
    if ca_dies:
        hasty_cluster.ca.start()
    gateway.start()
    answer = await station.insist(session, gateway)
    waited_seconds = time.monotonic() - died_at
    assert [der for _, der in hasty_cluster.ledger] == [issued(answer)]
    # The dead node's lease is respected.
    assert waited_seconds > 2.0 + LEASE_MARGIN_SECONDS - 1.5
    confirmation = await station.confirmation(answer)
    await station.finish(await post(session, gateway.url, confirmation))


async def test_a_crash_while_the_ca_is_told_of_the_confirmation(
    hasty_cluster: Cluster, redis_server: RedisServer, session: aiohttp.ClientSession
) -> None:
    """When the dead gateway's lease is over, the repeated certConf gets its pkiConf."""
    gateway, station = hasty_cluster.gateway(), hasty_cluster.station()
    confirmation = await station.confirmation(await station.request(session, gateway))
    with frozen(hasty_cluster.ca):
        asked = asyncio.create_task(post(session, gateway.url, confirmation))
        await until_asked(redis_server)
        gateway.kill()
        with pytest.raises(ServerUnreachable):
            await asked
    gateway.start()
    answer = b""
    while not answer or PKIMessage.from_der(answer).body_type is BodyType.error:
        answer = await post(session, gateway.url, confirmation)
        await asyncio.sleep(0.1)
    done = await station.finish(answer)
    assert [der for _, der in hasty_cluster.ledger] == [done.certificate.der]


# --- kill -9 of the CA ----------------------------------------------------------------------------


async def test_no_certificate_leaves_a_dying_ca_without_a_row(
    cluster: Cluster, session: aiohttp.ClientSession
) -> None:
    """Whenever the CA dies in a burst, each device has one certificate in the end, and so has the ledger."""
    gateway = cluster.gateway()
    certificates: set[bytes] = set()
    for number, delay_seconds in enumerate((0.01, 0.03, 0.06)):
        stations = [cluster.station(f"enb-{number}-{item}") for item in range(24)]
        for station in stations:
            await station.enrollment.request()
        burst = [asyncio.create_task(station.request(session, gateway)) for station in stations]
        await asyncio.sleep(delay_seconds)
        cluster.ca.kill()
        first = {issued(answer) for answer in await asyncio.gather(*burst)} - {b""}
        assert first <= {der for _, der in cluster.ledger}
        cluster.ca.start()
        answers = await asyncio.gather(*(s.insist(session, gateway) for s in stations))
        assert first <= {issued(answer) for answer in answers}
        for station, answer in zip(stations, answers, strict=True):
            confirmation = await station.confirmation(answer)
            done = await station.finish(await post(session, gateway.url, confirmation))
            certificates.add(done.certificate.der)
    assert len(certificates) == 3 * 24
    assert sorted(der for _, der in cluster.ledger) == sorted(certificates)


# --- stopping in order ----------------------------------------------------------------------------


async def test_sigterm_answers_what_was_accepted(
    cluster: Cluster, redis_server: RedisServer, session: aiohttp.ClientSession
) -> None:
    """After SIGTERM nothing new is accepted, the request under way gets its ip, the exit code is 0."""
    gateway, station = cluster.gateway(), cluster.station()
    with frozen(cluster.ca):
        asked = await asking(station.request(session, gateway), redis_server)
        stopped = asyncio.create_task(asyncio.to_thread(gateway.stop))
        await until(lambda: not accepts(gateway.port), "closing the port")
        with pytest.raises(ServerUnreachable, match="no connection"):
            await cluster.station("enb-2").request(session, gateway)
        assert not asked.done()
        assert not stopped.done()
    assert issued(await asked) == cluster.ledger[0][1]
    assert await stopped == 0


@pytest.mark.requirement(90)
async def test_sigterm_waits_no_longer_than_the_ca_may_take(
    hasty_cluster: Cluster, redis_server: RedisServer, session: aiohttp.ClientSession
) -> None:
    """A CA that does not answer does not keep a gateway from ending: the device is told systemUnavail."""
    gateway, station = hasty_cluster.gateway(), hasty_cluster.station()
    with frozen(hasty_cluster.ca):
        asked = await asking(station.request(session, gateway), redis_server)
        assert await asyncio.to_thread(gateway.stop) == 0
    with pytest.raises(EnrollmentRefused) as refusal:
        await station.enrollment.receive(await asked)
    assert refusal.value.authenticated
    assert refusal.value.status_info.fail_info == (PKIFailureInfo.systemUnavail,)


@pytest.mark.parametrize("kind", [GatewayProcess, CAProcess])
def test_sigterm_ends_an_idle_server_with_exit_code_0(
    kind: type[ServerProcess], tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """SIGTERM right after "listening" is an orderly end, too."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    with kind(config) as server:
        assert server.stop() == 0


def accepts(port: int) -> bool:
    """Return whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- Redis goes, and comes back -------------------------------------------------------------------


@pytest.mark.requirement(95, 114)
async def test_the_gateway_outlives_redis(
    tmp_path: Path,
    vendor_pki: VendorPKI,
    own_redis_server: RedisServer,
    session: aiohttp.ClientSession,
) -> None:
    """Without Redis devices get a signed systemUnavail and the CA is not asked; then all is well again."""
    with running(tmp_path / "setup", vendor_pki, own_redis_server.url) as cluster:
        gateway = cluster.gateway()
        caught = cluster.station("enb-1")
        certificate = issued(await caught.request(session, gateway))
        own_redis_server.kill()
        assert issued(await caught.request(session, gateway)) == b""
        refused = cluster.station("enb-2")
        answer = await refused.request(session, gateway)
        with pytest.raises(EnrollmentRefused) as refusal:
            await refused.enrollment.receive(answer)
        assert refusal.value.authenticated
        assert refusal.value.status_info.fail_info == (PKIFailureInfo.systemUnavail,)
        assert len(cluster.ledger) == 1
        own_redis_server.start()
        await cluster.station("enb-3").enrol(session, gateway)
        assert issued(await refused.insist(session, gateway)) == cluster.ledger[-1][1]
        # The one in the middle of it gets what was issued to it, not another one.
        assert issued(await caught.request(session, gateway)) == certificate == cluster.ledger[0][1]
        assert len(cluster.ledger) == 3


# --- not starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, setting", [(("serve",), "server"), (("ca", "serve"), "ca.server")]
)
def test_a_port_that_is_taken_is_said(
    command: tuple[str, ...], setting: str, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Nobody is told "listening" by a server that does not; the error names the settings to change."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(config.read_text().replace("listen_port = 0", f"listen_port = {port}"))
        ended = run_command(*command, "--config", str(config))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.endswith(
        f"cannot listen on 127.0.0.1:{port}: another process listens there already. "
        f"Change {setting}.listen_host or {setting}.listen_port, or stop what is in the way\n"
    )


def test_a_wrong_setting_is_said_by_serve(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """`serve` refuses what `check-config` refuses, with the same words and exit code."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(config, 'kind = "memory"', 'kind = "memory"\nlifetime = 3')
    told = [run_command(command, "--config", str(config)) for command in ("serve", "check-config")]
    assert [ended.returncode for ended in told] == [2, 2]
    assert told[0].stderr == told[1].stderr
    assert told[0].stderr.startswith("store.lifetime: ")


def test_a_gateway_with_another_seal_key_says_so(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """In the log of its start and in the doctor's table, with what to do. It serves."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url)
    with GatewayProcess(config) as gateway:
        assert "store.other_seal_key" not in gateway.log
    assert run_command("doctor", "--config", str(config)).returncode == 0
    (tmp_path / "seal.key").write_text("another key of a gateway, by mistake\n")
    with GatewayProcess(config) as gateway:
        (event,) = (item for item in gateway.events if item["event"] == "store.other_seal_key")
    assert (event["level"], event["key"]) == ("error", "ra_gateway:seal")
    assert event["todo"].startswith("give all gateways the same keys in store.seal_key_paths")
    told = run_command("doctor", "--quiet", "--config", str(config))
    (fault,) = (row for row in told.stdout.splitlines() if row.startswith("fault"))
    assert (told.returncode, "ra_gateway:seal is sealed by a key" in fault) == (1, True)
