"""The bundled CA as a process on PostgreSQL, with OpenSSL's clients: enrol, revoke, CRL, OCSP, a new RA certificate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import aiohttp
import pytest
from cryptography import x509

from ra_gateway.keys import load_certificates
from tests.support.commands import run_command
from tests.support.openssl import load_certificate, openssl_cmp, run_openssl
from tests.support.pki import VendorPKI, make_key, write_certificates, write_key
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.setups import edit, http_upstream, make_setup, set_upstream
from tests.support.softhsm import SoftHSM
from tests.support.stations import Station, until

SERIAL = "SN-000001"
SUBJECT = "CN=enb1.ran.example.net,O=Example Operator"
IN_OPENSSL = "/O=Example Operator/CN=enb1.ran.example.net"
CLIENT_PATH = "/client"


class Site(NamedTuple):
    """A CA process with its status listener, and the files around it."""

    directory: Path
    config: Path
    vendor: VendorPKI
    ca: CAProcess
    status_port: int

    @property
    def root(self) -> Path:
        """The operator's root."""
        return self.directory / "operator" / "root.pem"

    @property
    def issuing(self) -> Path:
        """The issuing CA's certificate."""
        return self.directory / "operator" / "issuing.pem"

    def run(self, *arguments: str) -> str:
        """Run `ra-gateway ca ...` with the site's configuration, and return what it says."""
        return ca_command(*arguments, "--config", str(self.config))


def ca_command(*arguments: str) -> str:
    """Run `ra-gateway ca ...`, which must succeed, and return what it says."""
    done = run_command("ca", *arguments)
    assert done.returncode == 0, f"ca {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def configure(directory: Path, vendor: VendorPKI, ledger_url: str | None = None) -> Path:
    """Write a setup with client mode and a status listener; on PostgreSQL where a URL is given."""
    config = make_setup(directory, vendors={"acme": vendor})
    text = config.read_text()
    config.write_text(
        f'{text}\n[ca.client]\nvendors = ["acme"]\nidentity_from = "cn"\n'
        "\n[ca.status]\nlisten_port = 0\ncheck_seconds = 0.2\n"
    )
    if ledger_url is not None:
        url_path = directory / "ledger.url"
        url_path.touch(mode=0o600)
        url_path.write_text(ledger_url)
        edit(config, 'ledger_path = "ca/ledger.sqlite"', 'ledger_url_path = "ledger.url"')
        ca_command("migrate", "--config", str(config))
        register_gateway(directory, config)
    return config


def register_gateway(directory: Path, config: Path) -> None:
    """Make the gateway of a setup known to its CA, with a role for what it does."""
    common = ("--config", str(config))
    privileges = ("--privilege", "issue", "--privilege", "update", "--privilege", "revoke")
    ca_command("role", "add", "ra", *privileges, *common)
    certificate = str(directory / "ra" / "ra.pem")
    ca_command("ra", "add", "gateway", "--role", "ra", "--certificate", certificate, *common)


@contextlib.contextmanager
def running(directory: Path, config: Path, vendor: VendorPKI) -> Iterator[Site]:
    """Run the CA of a configuration."""
    with CAProcess(config) as ca:
        yield Site(directory, config, vendor, ca, status_ports(ca)[-1])


def status_ports(ca: CAProcess) -> list[int]:
    """Return the ports its status listener has had."""
    listens = [event["listen"] for event in ca.events if event["event"] == "ca.status"]
    return [int(where.rpartition(":")[2]) for where in listens]


@pytest.fixture
def site(tmp_path: Path, vendor_pki: VendorPKI, postgres_url: str) -> Iterator[Site]:
    """A CA process on PostgreSQL."""
    config = configure(tmp_path / "site", vendor_pki, postgres_url)
    with running(tmp_path / "site", config, vendor_pki) as site:
        yield site


@dataclass(frozen=True, slots=True)
class Device:
    """A base station's files."""

    directory: Path
    site: Site

    @classmethod
    def made(cls, site: Site, serial: str = SERIAL) -> Device:
        """Make one that leaves the factory now."""
        directory = site.directory / serial
        directory.mkdir()
        entity = site.vendor.device(serial)
        write_certificates(directory / "vendor.pem", entity.certificate)
        write_certificates(directory / "chain.pem", *entity.intermediates)
        write_key(directory / "vendor.key", entity.private_key)
        for name in ("first", "second"):
            write_key(directory / f"{name}.key", make_key("p256"))
        return cls(directory, site)

    def enrol(self, server: str, path: str) -> x509.Certificate:
        """ir to pkiConf with the vendor certificate: first.pem."""
        more = {"extracerts": self.directory / "chain.pem", "subject": IN_OPENSSL}
        return self._certificate("ir", server, path, "vendor", "first", **more)

    def renew(self, server: str, path: str) -> x509.Certificate:
        """kur to pkiConf with first.pem: second.pem."""
        return self._certificate("kur", server, path, "first", "second")

    def _certificate(
        self, command: Literal["ir", "kur"], server: str, path: str, old: str, new: str, **more: Any
    ) -> x509.Certificate:
        openssl_cmp(
            command,
            server=server,
            path=path,
            cert=self.directory / f"{old}.pem",
            key=self.directory / f"{old}.key",
            trusted=self.site.root,
            newkey=self.directory / f"{new}.key",
            certout=self.directory / f"{new}.pem",
            **more,
        ).check()
        return load_certificate(self.directory / f"{new}.pem")

    def revoke(self, name: str) -> None:
        """rr for one of its certificates, signed with it, to the CA itself."""
        openssl_cmp(
            "rr",
            server=self.site.ca.server,
            path=CLIENT_PATH,
            cert=self.directory / f"{name}.pem",
            key=self.directory / f"{name}.key",
            trusted=self.site.root,
            extra_args=(
                *("-oldcert", str(self.directory / f"{name}.pem")),
                *("-revreason", "1"),
            ),
        ).check()


def ocsp_status(site: Site, certificate: Path) -> str:
    """Ask the responder with `openssl ocsp`, which verifies the answer; return good, revoked or unknown."""
    done = run_openssl(
        *("ocsp", "-url", f"http://127.0.0.1:{site.status_port}/ocsp"),
        *("-issuer", site.issuing, "-cert", certificate, "-CAfile", site.root),
    )
    assert "Response verify OK" in done.stderr, done.stderr
    return done.stdout.partition(f"{certificate}: ")[2].partition("\n")[0]


async def fetch_crl(site: Site) -> bytes:
    """Fetch the CRL and verify it with `openssl crl`."""
    url = f"http://127.0.0.1:{site.status_port}/crl/issuing.crl"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        der = await response.read()
    path = site.directory / "issuing.crl"
    path.write_bytes(der)
    done = run_openssl(
        *("crl", "-inform", "DER", "-in", path, "-noout", "-verify", "-CAfile", site.issuing)
    )
    assert "verify OK" in done.stderr, done.stderr
    return der


async def is_on_crl(site: Site, serial_number: int) -> bool:
    """Tell whether a certificate is on the CRL that the status listener serves now."""
    crl = x509.load_der_x509_crl(await fetch_crl(site))
    return crl.get_revoked_certificate_by_serial_number(serial_number) is not None


async def until_on_crl(site: Site, certificate: x509.Certificate) -> None:
    """Wait for the CRL that a revocation makes."""
    for _ in range(200):
        if await is_on_crl(site, certificate.serial_number):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the certificate does not appear on the CRL")


# --- both modes -----------------------------------------------------------------------------------------------


async def test_client_mode_on_postgresql_from_enrolment_to_revocation(site: Site) -> None:
    """openssl cmp enrols, renews and revokes; openssl ocsp and the CRL say so."""
    site.run(
        *("entity", "add", "enb1", "--subject", SUBJECT),
        *("--vendor", "acme", "--identity", SERIAL),
    )
    device = Device.made(site)
    first = device.enrol(site.ca.server, CLIENT_PATH)
    assert first.subject.rfc4514_string() == SUBJECT
    second = device.renew(site.ca.server, CLIENT_PATH)
    assert ocsp_status(site, device.directory / "second.pem") == "good"
    assert not await is_on_crl(site, second.serial_number)
    device.revoke("second")
    assert ocsp_status(site, device.directory / "second.pem") == "revoked"
    await until_on_crl(site, second)
    assert ocsp_status(site, device.directory / "first.pem") == "good"
    assert "revoked" in site.run("show", f"{second.serial_number:x}")
    site.run("verify")


@pytest.mark.parametrize(
    "source",
    [
        'crl_urls = ["http://127.0.0.1:{port}/crl/issuing.crl"]',
        'ocsp_url = "http://127.0.0.1:{port}/ocsp"',
    ],
    ids=["CRL", "OCSP"],
)
def test_renewals_where_the_gateway_insists_on_revocation(
    source: str, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """As check-config advises: the issuing CA is listed, and nobody publishes its own status."""
    config = configure(tmp_path / "site", vendor_pki)
    with running(tmp_path / "site", config, vendor_pki) as site:
        set_upstream(config, http_upstream(site.ca.url, replays_repeats=True))
        table = f'[operator.revocation]\nmode = "hard"\n{source.format(port=site.status_port)}\n'
        config.write_text(f"{config.read_text()}\n{table}")
        assert "operator" not in run_command("check-config", "--config", str(config)).stdout
        device = Device.made(site)
        with GatewayProcess(config) as gateway:
            device.enrol(gateway.server, "/.well-known/cmp")
            device.renew(gateway.server, "/.well-known/cmp")
        told = run_command("doctor", "--quiet", "--config", str(config))
        assert (told.returncode, "revocation" in told.stdout) == (0, False), told.stdout


async def until_revoked(site: Site, reason: str) -> None:
    """Let a device enrol and renew through a gateway, and the operator revoke its certificate for a reason."""
    set_upstream(site.config, http_upstream(site.ca.url, replays_repeats=True))
    device = Device.made(site)
    with GatewayProcess(site.config) as gateway:
        device.enrol(gateway.server, "/.well-known/cmp")
        second = device.renew(gateway.server, "/.well-known/cmp")
    assert ocsp_status(site, device.directory / "second.pem") == "good"
    site.run("revoke", f"{second.serial_number:x}", "--reason", reason)
    assert ocsp_status(site, device.directory / "second.pem") == "revoked"
    await until_on_crl(site, second)


async def test_ra_mode_on_postgresql_through_the_gateway(site: Site) -> None:
    """openssl cmp enrols and renews through the gateway; the operator revokes; openssl ocsp and the CRL say so."""
    await until_revoked(site, "keyCompromise")
    site.run("verify")


def test_an_unregistered_device_gets_nothing_in_client_mode(site: Site) -> None:
    """notAuthorized."""
    device = Device.made(site)
    result = openssl_cmp(
        "ir",
        server=site.ca.server,
        path=CLIENT_PATH,
        cert=device.directory / "vendor.pem",
        key=device.directory / "vendor.key",
        extracerts=device.directory / "chain.pem",
        trusted=site.root,
        newkey=device.directory / "first.key",
        subject=IN_OPENSSL,
    )
    assert result.returncode != 0
    assert result.fail_info == {"notAuthorized"}


# --- the RA's certificate -------------------------------------------------------------------------------------


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client for many base stations."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        yield client


async def test_the_ra_changes_its_certificate_under_load(
    site: Site, session: aiohttp.ClientSession
) -> None:
    """Issued, installed, the old one removed, while base stations enrol without a break: none fails."""
    set_upstream(site.config, http_upstream(site.ca.url, replays_repeats=True))
    password = site.directory / "transport.password"
    password.touch(mode=0o600)
    password.write_text("correct horse battery")
    old = load_certificates(site.directory / "ra" / "ra.pem", "ra")[0]
    enrolled = 0
    stop = asyncio.Event()

    async def load(worker: int) -> None:
        nonlocal enrolled
        number = 0
        while not stop.is_set():
            station = Station(f"enb-{worker}-{number}", site.vendor, site.root)
            await station.enrol(session, gateway)
            enrolled += 1
            number += 1

    async def more() -> None:
        reached = enrolled + 20
        await until(lambda: enrolled >= reached or any(item.done() for item in working), "load")

    with GatewayProcess(site.config) as gateway:
        working = [asyncio.create_task(load(worker)) for worker in range(4)]
        await more()
        file = str(site.directory / "gateway.p12")
        common = ("--password-file", str(password))
        await asyncio.to_thread(site.run, "ra", "issue", "gateway", "--out", file, *common)
        await asyncio.to_thread(site.run, "ra", "install", file, *common)
        await until(
            lambda: any(event["event"] == "ra.credential_changed" for event in gateway.events),
            "taking up the new certificate",
        )
        await more()
        await asyncio.to_thread(
            site.run, "ra", "remove-certificate", "gateway", old.fingerprint.hex()
        )
        await asyncio.sleep(2.5)  # until the CA has forgotten the old one
        await more()
        stop.set()
        await asyncio.gather(*working)
    new = load_certificates(site.directory / "ra" / "ra.pem", "ra")[0]
    assert new != old
    assert all(event.get("fail_info") is None for event in gateway.handled)
    assert enrolled >= 80


# --- the issuing CA's successor -------------------------------------------------------------------------------


def test_an_issuing_ca_has_a_successor(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """After roll-issuing and a restart old certificates renew under the new CA; both CAs' status is told."""
    directory = tmp_path / "site"
    config = configure(directory, vendor_pki)
    with running(directory, config, vendor_pki) as site:
        site.run(
            *("entity", "add", "enb1", "--subject", SUBJECT),
            *("--vendor", "acme", "--identity", SERIAL),
        )
        device = Device.made(site)
        first = device.enrol(site.ca.server, CLIENT_PATH)
        assert site.ca.stop() == 0
        ca_command("roll-issuing", str(directory / "ca"))
        old_issuing = site.issuing.read_bytes()
        site.ca.start()
        site = Site(directory, config, vendor_pki, site.ca, status_ports(site.ca)[-1])
        second = device.renew(site.ca.server, CLIENT_PATH)
        assert first.issuer != second.issuer
        assert ocsp_status(site, device.directory / "first.pem") == "good"
        site.issuing.write_bytes((directory / "ca" / "issuing.pem").read_bytes())
        assert ocsp_status(site, device.directory / "second.pem") == "good"
        site.run("revoke", f"{first.serial_number:x}", "--reason", "superseded")
        site.issuing.write_bytes(old_issuing)
        assert ocsp_status(site, device.directory / "first.pem") == "revoked"
        site.run("verify")


# --- keys in an HSM -------------------------------------------------------------------------------------------


async def test_all_keys_may_be_in_an_hsm(
    tmp_path: Path, vendor_pki: VendorPKI, softhsm: SoftHSM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root, issuing CA, CMP and OCSP signer, and the gateway's own key: SoftHSM2 signs everything end to end."""
    directory = tmp_path / "site"
    config = configure(directory, vendor_pki)
    site_name = tmp_path.name
    (directory / "ca").rename(directory / "ca-in-files")
    uris = {
        name: softhsm.uri(f"{site_name}-{name}", token="ca")
        for name in ("root", "issuing", "cmp", "ocsp")
    }
    key_uris = [part for name, uri in uris.items() for part in ("--key-uri", f"{name}={uri}")]
    ca_command("create", str(directory / "ca"), *key_uris)
    for name in ("ra.pem", "ra.key"):
        (directory / "ra" / name).unlink()
    ca_command(
        *("issue-ra", str(directory / "ca"), str(directory / "ra")),
        *("--key-uri", softhsm.uri(f"{site_name}-ra", token="ra")),
    )
    for name in ("root", "issuing"):
        (directory / "operator" / f"{name}.pem").write_bytes(
            (directory / "ca" / f"{name}.pem").read_bytes()
        )
    register_gateway(directory, config)
    for path in [*sorted(directory.glob("ca/*.key")), directory / "ra" / "ra.key"]:
        assert path.read_text().startswith("pkcs11:"), path
    with running(directory, config, vendor_pki) as site:
        await until_revoked(site, "superseded")
