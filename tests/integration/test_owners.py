"""A service that is not root's, and root at the command line: what the service needs stays its own."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.client import post
from ra_gateway.keys import load_certificates
from tests.support.commandline import PASSWORD
from tests.support.commands import run_command
from tests.support.load import ROUNDS, under_load
from tests.support.pki import VendorPKI
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, make_setup
from tests.support.stations import Station, until
from tests.support.users import (
    IS_ROOT,
    RUNS_AS,
    give_to_root,
    hand_over,
    open_directory,
    taken_away,
)


@pytest.fixture
def config(vendor_pki: VendorPKI) -> Iterator[Path]:
    """A gateway with the bundled CA, all of whose files are its user's."""
    with open_directory() as directory:
        path = make_setup(directory / "site", vendors={"acme": vendor_pki})
        hand_over(directory / "site")
        yield path


def service(config: Path) -> GatewayProcess:
    """A gateway that is not root's."""
    return GatewayProcess(config, config.parent.with_name("serve.log"), user=RUNS_AS)


def typed(*arguments: str | Path) -> str:
    """Run a command as whoever runs the tests, in a process of its own; it has to succeed."""
    ended = run_command(*arguments)
    assert ended.returncode == 0, ended
    return ended.stdout


async def enrolled(gateway: GatewayProcess, vendor: VendorPKI, serial: str) -> bytes:
    """Have a base station enrol and confirm; returns the keyIdentifier of who signed the answers."""
    root = gateway.config_path.parent / "operator" / "root.pem"
    station = Station(serial, vendor, root)
    async with aiohttp.ClientSession() as session:
        answer = await station.request(session, gateway)
        confirmation = await station.confirmation(answer)
        await station.finish(await post(session, gateway.url, confirmation))
    return PKIMessage.from_der(answer).header.sender_kid or b""


async def test_root_rolls_the_ra_of_a_service_under_load(
    config: Path, vendor_pki: VendorPKI
) -> None:
    """No request fails, the key stays the service's, and the service goes by it; so does one that starts anew."""
    site = config.parent
    ra = [site / "ra" / name for name in ("ra.pem", "ra.key")]
    modes = [0o640, 0o400]
    for path, mode in zip(ra, modes, strict=True):
        path.chmod(mode)
    password = site.with_name("password")
    password.touch(0o600)
    password.write_text(PASSWORD)
    signers: list[bytes] = []

    def roll(number: int) -> Certificate:
        """Issue a certificate, and install it; returns the one before."""
        (before, *_) = load_certificates(ra[0], "ra")
        file = site.with_name(f"ra-{number}.p12")
        common = ("--password-file", password, "--config", config)
        typed("ca", "ra", "issue", "gateway", "--out", file, *common)
        typed("ca", "ra", "install", file, *common)
        return before

    def signer() -> bytes:
        """Return the keyIdentifier of the certificate that is installed."""
        return load_certificates(ra[0], "ra")[0].subject_key_identifier or b""

    with service(config) as gateway:

        async def enrol(serial: str) -> None:
            signers.append(await enrolled(gateway, vendor_pki, serial))

        async with under_load(enrol) as load:
            await load.goes_on()
            for number in range(ROUNDS):
                before = await asyncio.to_thread(roll, number)
                await until(lambda: signer() in signers, "the new certificate")
                await load.goes_on()
                removed = ("ca", "ra", "remove-certificate", "gateway", before.fingerprint.hex())
                await asyncio.to_thread(typed, *removed, "--config", config)
                await load.goes_on()
        assert len(set(signers)) == 1 + ROUNDS
        assert gateway.stop() == 0
    with service(config) as gateway:
        assert await enrolled(gateway, vendor_pki, "enb-again") == signer()
    assert taken_away(site) == []
    assert [stat.S_IMODE(path.stat().st_mode) for path in ra] == modes


def test_what_root_makes_for_a_service_is_the_services(config: Path) -> None:
    """A ledger that root brings back, or is the first to open; what commands write beside it; and the CA's files."""
    site = config.parent
    typed("ca", "backup", site / "dump", "--config", config)
    (site / "ca" / "ledger.sqlite").unlink()
    typed("ca", "list", "--config", config)
    (site / "ca" / "ledger.sqlite").unlink()
    typed("ca", "restore", site / "dump", "--config", config)
    typed("ca", "verify", "--config", config)
    typed("ca", "root-crl", site / "ca", "--first")
    typed("ca", "renew-signers", site / "ca")
    assert taken_away(site) == []


def test_the_key_of_the_root_is_brought_by_root(config: Path) -> None:
    """It takes a change that keeps it to be the service's, or to stay where it is; nothing is changed before."""
    site = config.parent
    key = site / "ca" / "root.key"
    give_to_root(key)
    key.chmod(0o600)
    if IS_ROOT:
        before = (site / "ca" / "root.pem").read_bytes()
        ended = run_command("ca", "roll-root", site / "ca")
        assert ended.returncode == 2
        assert f"{key}: cannot be kept" in ended.stderr
        assert f"chown --reference={site}/ca {key}" in ended.stderr
        assert (site / "ca" / "root.pem").read_bytes() == before
    offline = site.with_name("root.key")
    offline.touch(0o600)
    offline.write_bytes(key.read_bytes())
    key.unlink()
    typed("ca", "roll-root", site / "ca", "--root-key", offline)
    assert taken_away(site) == []


async def test_root_changes_the_ca_of_a_service_whose_directory_is_roots(
    config: Path, vendor_pki: VendorPKI
) -> None:
    """What takes the place of a file, and what is kept of it, is the service's, who starts with it."""
    site = config.parent
    (site / "var").mkdir()
    (site / "ca" / "ledger.sqlite").rename(site / "var" / "ledger.sqlite")
    edit(config, '"ca/ledger.sqlite"', '"var/ledger.sqlite"')
    hand_over(site)
    give_to_root(site / "ca")
    (site / "ca" / "issuing.key").chmod(0o400)
    typed("ca", "verify", "--config", config)
    typed("ca", "roll-issuing", site / "ca")
    typed("ca", "renew-signers", site / "ca")
    assert stat.S_IMODE((site / "ca" / "issuing.key").stat().st_mode) == 0o400
    assert taken_away(site) == (["ca"] if IS_ROOT else [])
    both = '["operator/issuing.pem", "ca/issuing.pem"]'
    edit(config, 'intermediates_paths = ["operator/issuing.pem"]', f"intermediates_paths = {both}")
    with service(config) as gateway:
        await enrolled(gateway, vendor_pki, "enb-1")
