"""A reload: what changed in the configuration and its files holds for the next message, and nothing fails meanwhile."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ra_gateway.app import application
from ra_gateway.app.application import Application
from ra_gateway.config.reading import load
from ra_gateway.device import client
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
from ra_gateway.errors import ConfigError
from ra_gateway.events import ConfigurationReloaded, Fact, ReloadRefused
from ra_gateway.keys import load_certificates
from tests.support.credentials import cmp_credential
from tests.support.pki import VendorPKI, make_key, make_vendor_pki, write_certificates
from tests.support.polling import settled
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, make_setup


class Site:
    """A gateway in this process that reads its configuration again when told to.

    Args:
        config: Its file.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.facts: list[Fact] = []
        self.application = Application(
            load(config), sink=self.facts.append, read=lambda: load(config)
        )
        self.url = ""

    async def enrol(self, vendor: VendorPKI, serial: str) -> None:
        """Have a base station enrol and confirm, over HTTP."""
        root = load_certificates(self.config.parent / "operator" / "root.pem", "root")
        enrollment = Enrollment(
            DeviceIdentity(cmp_credential(vendor.device(serial)), operator_trust(*root)),
            make_key("p256"),
            RequestOptions(subject=f"CN={serial}.example.net,O=Example Operator"),
            clock=lambda: datetime.now(UTC),
            random_octets=secrets.token_bytes,
        )
        async with client.open_session() as session:
            await client.run(enrollment, self.url, session)


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[Site]:
    """Serve a configuration."""
    site = Site(config)
    host, port = await site.application.start()
    site.url = f"http://{host}:{port}/.well-known/cmp"
    try:
        yield site
    finally:
        await site.application.stop()


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """A gateway with the bundled CA and one vendor."""
    return make_setup(tmp_path, vendors={"acme": vendor_pki})


def other_vendor(config: Path, name: str) -> VendorPKI:
    """Make one more vendor, and trust it in the file."""
    vendor = make_vendor_pki(name)
    vendor.write(config.parent / name)
    edit(config, 'vendors = ["acme"', f'vendors = ["acme", "{name}"')
    config.write_text(
        f'{config.read_text()}\n[vendors.{name}]\nanchors_paths = ["{name}/root.pem"]\n\n'
        f'[vendors.{name}.identity]\nsubject = "keep"\nallowed_subjects = ["*"]\nallowed_sans = ["*"]\n'
    )
    return vendor


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


def other_profile(config: Path) -> None:
    edit(config, 'profile = "trial"', 'profile = "ne_ipsec"')


@pytest.mark.parametrize(
    "change, named",
    [
        (unreadable, "is not TOML"),
        (no_anchor, "vendors.acme.anchors_paths[0]"),
        (another_port, "server.max_connections"),
        (other_store, "store.max_transactions"),
        (other_profile, "ca.profile"),
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


async def test_under_load_nothing_fails(config: Path, vendor_pki: VendorPKI) -> None:
    """Vendors come, a file of anchors is replaced, and base stations enrol all the time."""
    async with serving(config) as site:
        over = asyncio.Event()

        async def one_after_the_other(name: str) -> int:
            count = 0
            while not over.is_set():
                await site.enrol(vendor_pki, f"{name}-{count}")
                count += 1
            return count

        stations = [asyncio.create_task(one_after_the_other(f"S{n}")) for n in range(3)]
        root = config.parent / "acme" / "root.pem"
        for number in range(4):
            other_vendor(config, f"rivet{number}")
            if number == 2:
                write_certificates(
                    root, vendor_pki.root.certificate, make_vendor_pki("x").root.certificate
                )
            await asyncio.sleep(0.05)
            await site.application.reload()
        over.set()
        counts = await asyncio.gather(*stations)
    assert all(counts)


def test_sighup_reloads_and_ends_nothing(config: Path) -> None:
    with GatewayProcess(config) as gateway:
        gateway.hang_up()
        gateway.await_event("config.reloaded")
        edit(config, "[server]\n", "[server]\nmax_connections = 9\n")
        gateway.hang_up()
        refused = gateway.await_event("config.reload_refused")
        assert refused["problems"][0].startswith("server.max_connections: has changed")
        assert gateway.stop() == 0
