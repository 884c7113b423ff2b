"""A reload of the bundled CA, alone or in the gateway's process: profiles, vendors, keys, status, and nothing fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ra_gateway.ca.certification import Certification
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import ConfigError, StoreUnavailable
from ra_gateway.events import ConfigurationReloaded, ReloadRefused
from tests.support.commandline import succeeded
from tests.support.credentials import cmp_credential
from tests.support.pki import VendorPKI
from tests.support.polling import settled
from tests.support.reloading import CASite, other_vendor, serving, serving_ca
from tests.support.setups import edit, make_setup

CLIENT = "/client"


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """A gateway with the bundled CA and one vendor, which client mode knows as well."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    path.write_text(
        f'{path.read_text()}\n[ca.status]\nlisten_port = 0\n\n[ca.client]\nidentity_from = "cn"\nvendors = [ "acme" ]\n'
    )
    return path


@pytest.fixture
def ca_config(config: Path) -> Path:
    """The same for the CA alone, which knows the base stations A1 to A9."""
    register(config, "acme")
    return config


def register(config: Path, vendor: str, first: int = 1) -> None:
    """Make end entities of nine of a vendor's base stations: A1 to A9, say."""
    rows = [
        f'{vendor}{number},"CN=A{number}.example.net,O=Example Operator",,,{vendor},A{number}'
        for number in range(first, first + 9)
    ]
    file = config.with_name("stations.csv")
    file.write_text("\n".join(("name,subject,names,profile,vendor,identity", *rows)) + "\n")
    succeeded("ca", "entity", "import", file, "--config", config)


def shorter(config: Path) -> None:
    """Have certificates issued for ten days from now on."""
    edit(config, 'profile = "trial"', 'profile = "trial"\nvalidity_days = 10')


def days_of(certificate: Certificate) -> int:
    """For how long a certificate is valid."""
    return round((certificate.not_after - certificate.not_before) / timedelta(days=1))


async def test_certificates_are_issued_as_the_configuration_has_it_now(
    ca_config: Path, vendor_pki: VendorPKI
) -> None:
    """By the CA alone; what it was asked before the reload is done as it was then."""
    async with serving_ca(ca_config) as site:
        began, may_go_on = asyncio.Event(), asyncio.Event()
        certify = Certification.certify

        async def held(self: Certification, *arguments: Any) -> Any:
            began.set()
            await may_go_on.wait()
            return await certify(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Certification, "certify", held)
            first = asyncio.create_task(site.enrol(vendor_pki, "A1", CLIENT))
            waiting = asyncio.create_task(began.wait())
            await asyncio.wait({first, waiting}, return_when=asyncio.FIRST_COMPLETED)
        shorter(ca_config)
        await site.service.reload()
        assert days_of(await site.enrol(vendor_pki, "A2", CLIENT)) == 10
        may_go_on.set()
        assert days_of(await first) == 365
    assert [fact for fact in site.facts if isinstance(fact, ConfigurationReloaded)]


async def test_the_ca_in_the_gateways_process_is_reloaded_with_it(
    config: Path, vendor_pki: VendorPKI
) -> None:
    async with serving(config) as site:
        assert days_of(await site.enrol(vendor_pki, "A1")) == 365
        shorter(config)
        await site.application.reload()
        assert days_of(await site.enrol(vendor_pki, "A2")) == 10


async def test_vendors_of_client_mode_come_and_go(ca_config: Path, vendor_pki: VendorPKI) -> None:
    rivet = other_vendor(ca_config, "rivet")
    async with serving_ca(ca_config) as site:
        await asyncio.to_thread(register, ca_config, "rivet", 11)
        with pytest.raises(EnrollmentRefused, match="signerNotTrusted"):
            await site.enrol(rivet, "A11", CLIENT)
        edit(ca_config, '[ "acme" ]', '["rivet"]')
        await site.service.reload()
        await site.enrol(rivet, "A11", CLIENT)
        with pytest.raises(EnrollmentRefused, match="signerNotTrusted"):
            await site.enrol(vendor_pki, "A1", CLIENT)


@pytest.mark.parametrize("kind", [serving_ca, serving])
async def test_another_issuing_ca_is_taken_up(
    config: Path, vendor_pki: VendorPKI, kind: Callable[..., Any]
) -> None:
    """Its successor issues; what the retired one issued and nobody has confirmed is confirmed."""
    path = "/.well-known/cmp"
    if kind is serving_ca:
        path = CLIENT
        await asyncio.to_thread(register, config, "acme")
    async with kind(config) as site:
        first = site.enrollment(cmp_credential(vendor_pki.device("A1")), "A1")
        step = await site.receive(first, await first.request(), path)
        assert isinstance(step, Send)
        await asyncio.to_thread(succeeded, "ca", "roll-issuing", config.parent / "ca")
        (config.parent / "operator" / "next.pem").write_bytes(
            (config.parent / "ca" / "issuing.pem").read_bytes()
        )
        both = '["operator/issuing.pem", "operator/next.pem"]'
        config.write_text(config.read_text().replace('["operator/issuing.pem"]', both))
        await (site.service if isinstance(site, CASite) else site.application).reload()
        assert "G2" in (await site.enrol(vendor_pki, "A2", path)).issuer
        done = await site.receive(first, step.der, path)
        assert isinstance(done, Done)


def unreadable(config: Path) -> None:
    config.write_text("[ca\n")


def other_directory(config: Path) -> None:
    edit(config, 'directory_path = "ca"', 'directory_path = "elsewhere"')
    config.with_name("elsewhere").symlink_to(config.with_name("ca"))


def no_profile(config: Path) -> None:
    edit(config, 'profile = "trial"', 'profile = "nothing"')


def no_key(config: Path) -> None:
    config.with_name("ca").joinpath("issuing.key").unlink()


def other_limit(config: Path) -> None:
    edit(config, "[ca.server]\n", "[ca.server]\nmax_connections = 9\n")


def two_faults(config: Path) -> None:
    other_limit(config)
    edit(config, "[ca.status]\n", "[ca.status]\nmax_connections = 9\n")


@pytest.mark.parametrize(
    "change, named",
    [
        (unreadable, ["is not TOML"]),
        (other_directory, ["ca.directory_path: has changed"]),
        (no_profile, ["ca.profile"]),
        (no_key, ["issuing.key"]),
        (other_limit, ["ca.server.max_connections: has changed"]),
        (two_faults, ["ca.status.max_connections", "ca.server.max_connections"]),
    ],
)
async def test_what_the_ca_cannot_take_up_changes_nothing(
    ca_config: Path, vendor_pki: VendorPKI, change: Callable[[Path], None], named: list[str]
) -> None:
    async with serving_ca(ca_config) as site:
        shorter(ca_config)
        change(ca_config)
        with pytest.raises(ConfigError):
            await site.service.reload()
        assert days_of(await site.enrol(vendor_pki, "A1", CLIENT)) == 365
    (refused,) = [fact for fact in site.facts if isinstance(fact, ReloadRefused)]
    assert len(refused.problems) == len(named)
    for problem, name in zip(refused.problems, named, strict=True):
        assert name in problem


async def test_under_load_the_ca_fails_nothing(ca_config: Path, vendor_pki: VendorPKI) -> None:
    async with serving_ca(ca_config) as site:
        over = asyncio.Event()

        async def again_and_again(serial: str) -> int:
            count = 0
            while not over.is_set():
                await site.enrol(vendor_pki, serial, CLIENT)
                count += 1
            return count

        stations = [asyncio.create_task(again_and_again(f"A{n}")) for n in (1, 2, 3)]
        for _ in range(4):
            await asyncio.sleep(0.05)
            await site.service.reload()
        over.set()
        assert all(await asyncio.gather(*stations))


async def answer_of(url: str) -> int:
    """Return the HTTP status."""
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status


async def test_status_is_served_as_the_configuration_has_it_now(ca_config: Path) -> None:
    """OCSP is switched off; the CRL is served on while the ledger does not answer."""
    async with serving_ca(ca_config) as site:
        status = site.service._bundled.status
        assert status is not None
        assert status._server is not None
        url = "http://{}:{}".format(*status._server.sockets[0].getsockname()[:2])
        edit(ca_config, "[ca.status]\n", "[ca.status]\nocsp = false\n")

        async def is_made() -> bool:
            return await answer_of(f"{url}/crl/issuing.crl") == 200

        async def down(*_: object, **__: object) -> None:
            raise StoreUnavailable("down")

        await settled(is_made)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "newest_crl", down)
            await site.service.reload()
            assert await is_made()
            assert await answer_of(f"{url}/ocsp/MAA=") == 404
