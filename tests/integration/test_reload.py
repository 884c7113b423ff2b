"""A reload: what changed in the configuration and its files holds for the next message, and nothing fails meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from ra_gateway.app import application
from ra_gateway.cmp.mac import MACBounds, MACCredential, SharedSecret, mac_parameters
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device import client
from ra_gateway.device.errors import AnswerUntrusted, EnrollmentRefused
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import ConfigError
from ra_gateway.events import (
    ConfigurationReloaded,
    Fact,
    InventoryChanged,
    InventoryRefused,
    ReloadRefused,
)
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.stores import inventory
from ra_gateway.stores.secrets import SecretFile
from tests.support.commandline import run, succeeded
from tests.support.credentials import cmp_credential
from tests.support.mac import pbm
from tests.support.pki import VendorPKI
from tests.support.polling import settled
from tests.support.ports import free_port
from tests.support.processes import CAProcess, GatewayProcess, ServerProcess
from tests.support.raw_http import until
from tests.support.redis_server import RedisServer
from tests.support.reloading import other_vendor, serving
from tests.support.setups import edit, make_setup


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """A gateway with the bundled CA and one vendor."""
    return make_setup(tmp_path, vendors={"acme": vendor_pki})


async def test_a_vendor_that_is_added_can_enrol(config: Path, vendor_pki: VendorPKI) -> None:
    async with serving(config) as site:
        rivet = other_vendor(config, "rivet")
        with pytest.raises(EnrollmentRefused):
            await site.enrol(rivet, "R1")
        await site.application.reload()
        await site.enrol(rivet, "R2")
        await site.enrol(vendor_pki, "A1")
    assert [type(fact) for fact in site.facts if isinstance(fact, ConfigurationReloaded)]


async def test_vendors_that_went_are_not_counted_for_ever(config: Path) -> None:
    """The metrics have the names of this configuration, and of the one before for what began with it."""
    async with serving(config) as site:
        before = config.read_text()
        for number in range(3):
            config.write_text(before)
            vendor = other_vendor(config, f"rivet{number}")
            await site.application.reload()
            await site.enrol(vendor, "R1")
        text = (await site.application.management.metrics("")).body.decode()
    counted = re.findall(r'^ra_gateway_messages_total{.*domain="(rivet\d)"', text, re.MULTILINE)
    assert set(counted) == {"rivet1", "rivet2"}
    trusted = re.findall(r'^ra_gateway_certificate_expiry.*of="(rivet\d)"', text, re.MULTILINE)
    assert trusted == ["rivet2"]


async def test_a_store_that_a_reload_brings_back_is_up(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics tell of the store of now, not of what was told of the one before."""
    monkeypatch.setattr(application, "LOOK_SECONDS", 0.01)
    away = "redis://127.0.0.1:1/0"
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=away)

    async with serving(config) as site:

        async def is_up() -> bool:
            text = (await site.application.management.metrics("")).body.decode()
            (value,) = re.findall(
                r'^ra_gateway_store_up{by="gateway"} (.*)$', text, flags=re.MULTILINE
            )
            return float(value) == 1

        assert not await is_up()
        edit(config, away, redis_url)
        await site.application.reload()
        await settled(is_up)


def unreadable(config: Path) -> None:
    config.write_text("[server\n")


def no_anchor(config: Path) -> None:
    (config.parent / "acme" / "root.pem").write_text("nothing")


def another_port(config: Path) -> None:
    edit(config, "[server]\n", "[server]\nmax_connections = 9\n")


def other_store(config: Path) -> None:
    edit(config, 'kind = "memory"\n', 'kind = "memory"\nmax_transactions = 9\n')


def other_ledger(config: Path) -> None:
    edit(config, 'ledger_path = "', 'ledger_path = "other-')


def more_served(config: Path) -> None:
    config.write_text(f"{config.read_text()}\n[ca.status]\nlisten_port = 0\n")


@pytest.mark.parametrize(
    "change, named",
    [
        (unreadable, "is not TOML"),
        (no_anchor, "vendors.acme.anchors_paths[0]"),
        (another_port, "server.max_connections"),
        (other_store, "store.max_transactions"),
        (other_ledger, "ca.ledger_path"),
        (more_served, "ca.status"),
    ],
)
async def test_what_cannot_be_taken_up_changes_nothing(
    config: Path, vendor_pki: VendorPKI, change: Callable[[Path], None], named: str
) -> None:
    async with serving(config) as site:
        before = site.application.config
        change(config)
        with pytest.raises(ConfigError):
            await site.application.reload()
        await site.enrol(vendor_pki, "A1")
        assert site.application.config is before
    refused = [fact for fact in site.facts if isinstance(fact, ReloadRefused)]
    assert len(refused) == 1
    assert any(named in problem for problem in refused[0].problems), refused


MAC = """
[endpoints.mac]
paths = ["/mac"]
upstream = "bundled"
strictness = "lenient"
body_types = ["ir"]

[endpoints.mac.mac]
secrets_path = "secrets.csv"
used_path = "used"
lockout_failures = 2
"""


def by_secret(reference: str, secret: str) -> MACCredential:
    """What protects the messages of a base station that has a shared secret."""
    parameters = mac_parameters(pbm(), MACBounds())
    shared = SharedSecret(reference.encode(), secret.encode(), b"\x30\x00")
    return MACCredential(shared, parameters, parameters.derive(secret.encode()))


@pytest.fixture
def mac_config(config: Path) -> Path:
    """A gateway that takes two shared secrets for single use as well."""
    file = config.with_name("secrets.csv")
    file.touch(0o600)
    rows = (f'{name},{SECRET},"CN={name}.example.net,O=Example Operator",,true,' for name in "ab")
    file.write_text("\n".join(("reference,secret,subject,san,single_use,expires", *rows)) + "\n")
    config.write_text(config.read_text() + MAC)
    return config


SECRET = "correct horse battery staple"


def rename(config: Path) -> None:
    config.write_text(config.read_text().replace("[endpoints.mac", "[endpoints.fresh"))


def nothing(config: Path) -> None:
    pass


def refused_once(config: Path) -> None:
    """Change what is read after the secrets, to something that cannot be used."""
    config.write_text(f'{config.read_text()}\n[inventory]\ncsv_path = "devices.csv"\n')
    config.with_name("devices.csv").write_text("what is this\n")


@pytest.mark.parametrize("change", [nothing, rename])
async def test_a_secret_for_single_use_is_used_once(
    mac_config: Path, change: Callable[[Path], None]
) -> None:
    """Begun before the reload, it is confirmed after it; and nobody begins with it once more, the other one is good."""
    async with serving(mac_config) as site:
        first = site.enrollment(by_secret("a", SECRET), "a")
        step = await site.receive(first, await first.request(), "/mac")
        assert isinstance(step, Send)
        change(mac_config)
        await site.application.reload()
        with pytest.raises(EnrollmentRefused):
            await site.run(site.enrollment(by_secret("a", SECRET), "a"), "/mac")
        await site.run(site.enrollment(by_secret("b", SECRET), "b"), "/mac")
        if change is nothing:  # a transaction keeps to the endpoint that it began with
            assert isinstance(await site.receive(first, step.der, "/mac"), Done)


async def test_the_record_of_used_secrets_is_let_go_in_the_end(mac_config: Path) -> None:
    """Reloads that were refused hold it no longer than others: another gateway then has it."""
    async with serving(mac_config) as site:
        await site.run(site.enrollment(by_secret("a", SECRET), "a"), "/mac")
        before = mac_config.read_text()
        refused_once(mac_config)
        with pytest.raises(ConfigError):
            await site.application.reload()
        mac_config.write_text(before)
        await site.application.reload()
    async with serving(mac_config) as site:
        with pytest.raises(EnrollmentRefused):
            await site.run(site.enrollment(by_secret("a", SECRET), "a"), "/mac")
        await site.run(site.enrollment(by_secret("b", SECRET), "b"), "/mac")


@pytest.mark.parametrize("change", [nothing, rename])
async def test_who_guessed_too_often_is_locked_out_still(
    mac_config: Path, change: Callable[[Path], None]
) -> None:
    async with serving(mac_config) as site:
        for _ in range(2):
            with pytest.raises((EnrollmentRefused, AnswerUntrusted)):
                await site.run(site.enrollment(by_secret("a", "wrong" * 5), "a"), "/mac")
        change(mac_config)
        await site.application.reload()
        with pytest.raises((EnrollmentRefused, AnswerUntrusted)):
            await site.run(site.enrollment(by_secret("a", SECRET), "a"), "/mac")
        await site.run(site.enrollment(by_secret("b", SECRET), "b"), "/mac")


async def test_guesses_count_while_a_reload_is_under_way(mac_config: Path) -> None:
    """It takes as long as CRLs are fetched: what is guessed meanwhile, and what was asked before it, is no gift."""
    clock = lambda: datetime.now(UTC)  # noqa: E731
    file = mac_config.with_name("secrets.csv")
    before = SecretFile(file, clock=clock, used_path=file.with_name("used"), lockout_failures=2)
    after = SecretFile(
        file, clock=clock, used_path=file.with_name("used"), lockout_failures=2, before=before
    )
    for _ in range(2):
        await before.failed(b"a", "192.0.2.1")
    assert await after.find(b"a", "192.0.2.1") is None
    assert await after.find(b"b", "192.0.2.1") is not None


SAME_RA = ("--subject", "CN=ra,O=Example Operator")


async def test_a_transaction_keeps_the_credential_that_it_began_with(
    config: Path, vendor_pki: VendorPKI
) -> None:
    """Another file has the RA's certificate now: the one of before still signs what was begun with it."""
    async with serving(config) as site:
        first = site.enrollment(cmp_credential(vendor_pki.device("A1")))
        step = await site.receive(first, await first.request())
        assert isinstance(step, Send)
        old = site.application.services.credential().certificate
        directory = config.parent
        await asyncio.to_thread(
            succeeded, "ca", "issue-ra", directory / "ca", directory / "next", *SAME_RA
        )
        added = ("--certificate", directory / "next" / "ra.pem", "--config", config)
        await asyncio.to_thread(succeeded, "ca", "ra", "add", "gateway", *added)
        config.write_text(config.read_text().replace('"ra/', '"next/'))
        await site.application.reload()
        await site.application.reload()
        assert site.application.services.credential().certificate != old
        async with client.open_session() as session:
            answer = await client.post(session, f"{site.url}/.well-known/cmp", step.der)
        assert PKIMessage.from_der(answer).header.sender_kid == old.subject_key_identifier
        assert isinstance(await first.receive(answer), Done)
        await site.enrol(vendor_pki, "A2")


async def test_seal_keys_are_changed_without_a_restart(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """Added behind, put in front, the old one removed: what was begun before the last step is confirmed at each."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url)
    config.with_name("next.key").touch(0o600)
    config.with_name("next.key").write_text(secrets.token_hex(32))
    keys = ['["seal.key", "next.key"]', '["next.key", "seal.key"]', '["next.key"]']
    async with serving(config) as site:
        for before, after in pairwise(['["seal.key"]', *keys]):
            first = site.enrollment(cmp_credential(vendor_pki.device("A1")))
            step = await site.receive(first, await first.request())
            assert isinstance(step, Send)
            edit(config, f"seal_key_paths = {before}", f"seal_key_paths = {after}")
            await site.application.reload()
            assert isinstance(await site.receive(first, step.der), Done)


async def test_a_reload_while_redis_is_down(
    tmp_path: Path, vendor_pki: VendorPKI, own_redis_server: RedisServer
) -> None:
    """It is taken up, and the gateway is whole once Redis is back; seals are compared then."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=own_redis_server.url)
    async with serving(config) as site:
        own_redis_server.kill()
        rivet = other_vendor(config, "rivet")
        await site.application.reload()
        with pytest.raises(EnrollmentRefused):
            await site.enrol(rivet, "R1")
        own_redis_server.start()
        await site.enrol(rivet, "R2")
        await until(lambda: own_redis_server.command("EXISTS ra_gateway:seal") == b":1\r\n")


async def test_two_reloads_at_once_come_one_after_the_other(
    config: Path, vendor_pki: VendorPKI
) -> None:
    async with serving(config) as site:
        rivet = other_vendor(config, "rivet")
        await asyncio.gather(*(site.application.reload() for _ in range(3)))
        await site.enrol(rivet, "R1")
        await site.enrol(vendor_pki, "A1")
    assert len([fact for fact in site.facts if isinstance(fact, ConfigurationReloaded)]) == 3


async def test_the_end_waits_for_a_reload_and_admits_no_other(config: Path) -> None:
    """Whatever a reload has opened is closed with the rest."""
    async with serving(config) as site:
        first = asyncio.create_task(site.application.reload())
        await asyncio.sleep(0)
        ending = asyncio.create_task(site.application.stop())
        await asyncio.sleep(0)
        with pytest.raises(ConfigError, match="is about to end"):
            await site.application.reload()
        await first
        await ending
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_a_reload_that_is_broken_off_leaves_nothing_open(
    config: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the signal that ends the process, while CRLs are fetched."""
    async with serving(config) as site:
        tasks = asyncio.all_tasks()
        is_fetching = asyncio.Event()

        async def endless(_: Revocation) -> None:
            is_fetching.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(Revocation, "start", endless)
        reloading = asyncio.create_task(site.application.reload())
        await is_fetching.wait()
        reloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reloading
        assert asyncio.all_tasks() == tasks
        await site.enrol(vendor_pki, "A1")


def test_sighup_during_the_drain_ends_nothing(config: Path) -> None:
    edit(config, "[server]\n", "[server]\nlame_duck_seconds = 1\n")
    with GatewayProcess(config) as gateway:
        os.kill(gateway.pid, signal.SIGTERM)
        gateway.await_event("draining")
        gateway.hang_up()
        assert gateway.stop() == 0


def test_sighup_reloads_and_ends_nothing(config: Path) -> None:
    with GatewayProcess(config) as gateway:
        gateway.hang_up()
        gateway.await_event("config.reloaded")
        edit(config, "[server]\n", "[server]\nmax_connections = 9\n")
        gateway.hang_up()
        refused = gateway.await_event("config.reload_refused")
        assert refused["problems"][0].startswith("server.max_connections: has changed")
        assert gateway.stop() == 0


@pytest.mark.parametrize("kind", [GatewayProcess, CAProcess])
def test_the_log_file_is_opened_anew(config: Path, kind: type[ServerProcess]) -> None:
    """As logrotate wants it, also where the reload is refused; one that cannot be written to refuses the reload."""
    path, table = config.with_name("ra.log"), '[log]\npath = "ra.log"\n'
    edit(config, "[log]\n", table)

    def holds(file: Path, *events: str) -> Callable[[], bool]:
        def told() -> bool:
            lines = file.read_text().splitlines() if file.exists() else []
            return set(events) <= {json.loads(line)["event"] for line in lines}

        return told

    with kind(config) as service:
        assert holds(path, "started")()
        moved = path.rename(path.with_name("ra.log.1"))
        service.hang_up()
        asyncio.run(until(holds(path, "config.reloaded")))
        assert not holds(moved, "config.reloaded")()
        moved = path.rename(path.with_name("ra.log.2"))
        config.with_name("elsewhere").mkdir()
        edit(config, table, '[log]\npath = "elsewhere"\n')
        service.hang_up()
        asyncio.run(until(holds(path, "config.reload_refused")))
        assert "log.path: " in path.read_text()
        edit(config, '[log]\npath = "elsewhere"\n', '[log]\npath = "other.log"\n')
        service.hang_up()
        asyncio.run(until(holds(config.with_name("other.log"), "config.reloaded")))
        assert service.stop() == 0
        assert not service.events
    assert holds(config.with_name("other.log"), "draining")()


def test_logrotate_as_in_the_sample(config: Path) -> None:
    """It moves the file and has the gateway reload, which goes on in a new one."""
    path = config.with_name("ra.log")
    edit(config, "[log]\n", '[log]\npath = "ra.log"\n')
    config.parent.chmod(0o700)
    with GatewayProcess(config) as gateway:
        sample = (Path(__file__).parents[2] / "deploy" / "logrotate.conf").read_text()
        pattern, command = "/var/log/ra_gateway/*.log", "systemctl reload 'ra-gateway*.service'"
        assert sample.count(pattern) == sample.count(command) == 1
        own = sample.replace(pattern, str(path)).replace(command, f"kill -HUP {gateway.pid}")
        rules = config.with_name("logrotate.conf")
        rules.write_text(own)
        rules.chmod(0o644)
        environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"}
        state = config.with_name("logrotate.state")
        subprocess.run(["logrotate", "-f", "-s", state, rules], env=environment, check=True)
        asyncio.run(until(lambda: path.exists() and "config.reloaded" in path.read_text()))
        assert "started" in path.with_name("ra.log.1").read_text()
        assert gateway.stop() == 0


async def test_a_line_of_the_inventory_holds_without_a_reload(
    config: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is listed while the gateway serves can enrol; a list that is bad takes it from nobody."""
    monkeypatch.setattr(inventory, "WATCH_SECONDS", 0.02)
    devices = config.parent / "devices.csv"
    header = "domain,identity,subject,san,enabled\n"
    devices.write_text(header)
    rules = '[vendors.acme.identity]\ninventory = "required"\nidentity_from = "cn"'
    edit(config, "[vendors.acme.identity]", rules)
    config.write_text(f'{config.read_text()}\n[inventory]\ncsv_path = "devices.csv"\n')
    async with serving(config) as site:

        async def has_told(kind: type[Fact]) -> None:
            async def told() -> bool:
                return any(isinstance(fact, kind) for fact in site.facts)

            await settled(told)

        with pytest.raises(EnrollmentRefused):
            await site.enrol(vendor_pki, "A1")
        devices.write_text(f"{header}acme,A1,,,true\n")
        await has_told(InventoryChanged)
        await site.enrol(vendor_pki, "A1")
        devices.write_text(f"{header}acme,A1,,,false\nacme,A2,,,perhaps\n")
        await has_told(InventoryRefused)
        await site.enrol(vendor_pki, "A1")


def test_the_command_says_what_came_of_a_reload(config: Path) -> None:
    """Taken up, refused by the gateway, wrong from the outset, and nobody there."""
    config.write_text(f"{config.read_text()}\n[management]\nlisten_port = {free_port()}\n")

    def told(code: int) -> str:
        ended = run("reload", "--config", config)
        assert ended.exit_code == code, ended
        return ended.stdout + ended.stderr

    def as_json(code: int) -> list[object]:
        ended = run("reload", "--config", config, "--json")
        assert (ended.exit_code, ended.stderr) == (code, "")
        found = json.loads(ended.stdout)
        assert list(found) == ["reloaded", "pid", "configuration", "problems"]
        return list(found.values())

    *before, problems = as_json(1)
    assert before == [False, None, None]
    assert "no service answers at" in str(problems)
    assert "no service answers at http://127.0.0.1:" in told(1)
    with GatewayProcess(config) as gateway:
        other_vendor(config, "rivet")
        assert f"Reloaded: the process {gateway.pid} goes by configuration " in told(0)
        edit(config, "[server]\n", "[server]\nmax_connections = 9\n")
        reloaded, pid, goes_by, problems = as_json(1)
        assert (reloaded, pid) == (False, gateway.pid)
        assert "server.max_connections" in str(problems)
        refused = told(1)
        assert "server.max_connections: has changed" in refused
        assert "goes on with its old configuration" in refused
        edit(config, "max_connections = 9\n", "")
        assert as_json(0) == [True, gateway.pid, goes_by, []]
        unreadable(config)
        told(2)
        assert as_json(2)[:3] == [False, None, None]
        reloads = [event for event in gateway.events if event["event"].startswith("config.reload")]
    came = [event["event"].removeprefix("config.") for event in reloads]
    assert came == ["reloaded", "reload_refused", "reload_refused", "reloaded"]


class NamesAnother(BaseHTTPRequestHandler):
    """Stands where the management listener would, and names a process of somebody else's."""

    pid = 0

    def do_GET(self) -> None:
        body = json.dumps({"pid": self.pid, "reloads": {"count": 0, "refused": 0, "last": None}})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_command_hangs_up_nobody_else(config: Path) -> None:
    """While no gateway runs, any user of the machine may listen there; and all that is Python is one file."""
    script = "import sys; print(flush=True); sys.stdin.read()"
    with (
        HTTPServer(("127.0.0.1", 0), NamesAnother) as server,
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as bystander,
    ):
        assert bystander.stdout is not None
        bystander.stdout.readline()
        NamesAnother.pid = bystander.pid
        asked = threading.Thread(target=server.serve_forever)
        asked.start()
        config.write_text(
            f"{config.read_text()}\n[management]\nlisten_port = {server.server_port}\n"
        )
        ended = run("reload", "--config", config)
        server.shutdown()
        asked.join()
        bystander.communicate()
    assert ended.exit_code == 1
    assert (
        f"names the process {bystander.pid}, which is no service that listens there" in ended.stderr
    )
    assert bystander.returncode == 0
