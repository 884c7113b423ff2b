"""Every kind of reload while base stations enrol: what changed holds at once, and none of them fails."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from ra_gateway import logs
from ra_gateway.app.application import Application
from ra_gateway.cmp.mac import MACBounds, MACCredential, SharedSecret, mac_parameters
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.config.reading import load
from ra_gateway.device import client
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.device.values import DeviceIdentity, RequestOptions, operator_trust
from ra_gateway.events import ConfigurationReloaded, Fact, RequestHandled
from ra_gateway.files import replace_file
from ra_gateway.keys import load_certificates
from tests.support.commandline import PASSWORD, succeeded
from tests.support.credentials import cmp_credential
from tests.support.crls import make_crl
from tests.support.load import ROUNDS, under_load
from tests.support.mac import pbm
from tests.support.pki import (
    Authority,
    VendorPKI,
    make_key,
    make_root,
    make_vendor_pki,
    write_certificates,
)
from tests.support.setups import edit, make_setup

HEADER: Final = "domain,identity,subject,san,enabled\n"
SECRETS: Final = "reference,secret,subject,san,single_use,expires\n"

TABLES: Final = """
[server.tls]
certificate_path = "tls.pem"
key_path = "tls.key"

[vendors.acme.revocation]
mode = "hard"
crl_paths = ["root.crl", "sub.crl"]

[inventory]
csv_path = "devices.csv"

[endpoints.mac]
paths = ["/mac"]
upstream = "bundled"
strictness = "lenient"
body_types = ["ir"]

[endpoints.mac.mac]
secrets_path = "secrets.csv"
"""


@dataclass
class Site:
    """A gateway in this process, and what is trusted and listed there."""

    config: Path
    vendor: VendorPKI
    listed: VendorPKI
    tls_root: Authority
    facts: list[Fact] = field(default_factory=list)
    host: str = ""

    def __post_init__(self) -> None:
        directory = self.config.parent
        self.application: Application
        self.tls_root.issue("gateway", san=["ip:127.0.0.1"]).write(directory, "tls")
        write_certificates(directory / "tls-root.pem", self.tls_root.certificate)
        for name in ("devices.csv", "secrets.csv"):
            (directory / name).touch(0o600)
        (directory / "devices.csv").write_text(HEADER)
        (directory / "secrets.csv").write_text(SECRETS)
        self.publish([])
        self.config.write_text(self.config.read_text() + TABLES)
        needs = '[vendors.listed.identity]\ninventory = "required"\nidentity_from = "cn"'
        edit(self.config, "[vendors.listed.identity]", needs)
        edit(self.config, "[log]\n", '[log]\npath = "ra.log"\n')
        self._log = logs.LogSink()

    def heard(self, fact: Fact) -> None:
        """Keep a fact, and write its line."""
        self.facts.append(fact)
        self._log(fact)

    def publish(self, revoked: list[int]) -> None:
        """Publish the CRLs of the vendor."""
        for name, authority, serials in (
            ("root", self.vendor.root, []),
            ("sub", self.vendor.sub, revoked),
        ):
            crl = make_crl(authority, serials, this_update=datetime.now(UTC))
            path = self.config.parent / f"{name}.crl"
            path.touch()
            replace_file(path, crl)

    async def enrol(
        self, identity: CMPCredential | MACCredential, name: str, path: str = "/.well-known/cmp"
    ) -> None:
        """Have a base station enrol and confirm, over a connection of its own."""
        directory = self.config.parent
        enrollment = Enrollment(
            DeviceIdentity(
                identity, operator_trust(*load_certificates(directory / "operator/root.pem", ""))
            ),
            make_key("p256"),
            RequestOptions(subject=f"CN={name}.example.net,O=Example Operator"),
            clock=lambda: datetime.now(UTC),
            random_octets=secrets.token_bytes,
        )
        tls = ssl.create_default_context(cafile=directory / "tls-root.pem")
        async with client.open_session(tls) as session:
            await client.run(enrollment, f"https://{self.host}{path}", session)

    async def enrol_of(self, vendor: VendorPKI, name: str) -> None:
        """Have a base station of a vendor enrol and confirm."""
        await self.enrol(cmp_credential(vendor.device(name)), name)


async def configuration(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """One more vendor."""
    vendor = make_vendor_pki(name)
    vendor.write(site.config.parent / name)
    edit(site.config, 'vendors = ["acme"', f'vendors = ["acme", "{name}"')
    site.config.write_text(
        f'{site.config.read_text()}\n[vendors.{name}]\nanchors_paths = ["{name}/root.pem"]\n\n'
        f'[vendors.{name}.identity]\nsubject = "keep"\nallowed_subjects = ["*"]\nallowed_sans = ["*"]\n'
    )
    return lambda: site.enrol_of(vendor, name)


async def anchors(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """Another root of a vendor, in the place of its own."""
    vendor = make_vendor_pki(name)
    root = site.config.parent / "listed" / "root.pem"
    root.unlink()
    write_certificates(root, vendor.root.certificate)
    site.listed = vendor
    await inventory(site, name)
    return lambda: site.enrol_of(vendor, name)


async def inventory(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """A line for a base station."""
    file = site.config.parent / "devices.csv"
    replace_file(file, f"{file.read_text()}listed,{name},,,true\n".encode())
    return lambda: site.enrol_of(site.listed, name)


async def crls(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """A base station is revoked by its vendor."""
    device = site.vendor.device(name)
    site.publish([device.certificate.serial_number])

    async def is_refused() -> None:
        with pytest.raises(EnrollmentRefused, match="signerNotTrusted"):
            await site.enrol(cmp_credential(device), name)
        handled = [fact for fact in site.facts if isinstance(fact, RequestHandled)]
        assert any("revoked" in fact.detail for fact in handled if f"={name}," in fact.signer)

    return is_refused


async def shared_secrets(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """A secret for a base station that has no certificate."""
    file = site.config.parent / "secrets.csv"
    secret = secrets.token_hex(16)
    row = f'{name},{secret},"CN={name}.example.net,O=Example Operator",,false,\n'
    replace_file(file, f"{file.read_text()}{row}".encode())
    parameters = mac_parameters(pbm(), MACBounds())
    shared = SharedSecret(name.encode(), secret.encode(), b"\x30\x00")
    credential = MACCredential(shared, parameters, parameters.derive(secret.encode()))
    return lambda: site.enrol(credential, name, "/mac")


async def ra_credential(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """Another certificate of the RA, and its key."""
    directory = site.config.parent
    password = directory / "password"
    password.touch(0o600)
    password.write_text(PASSWORD)
    common = ("--password-file", password, "--config", site.config)
    file = directory / f"{name}.p12"
    await asyncio.to_thread(succeeded, "ca", "ra", "issue", "gateway", "--out", file, *common)
    await asyncio.to_thread(succeeded, "ca", "ra", "install", file, *common)
    (fresh, *_) = load_certificates(directory / "ra" / "ra.pem", "")

    async def is_used() -> None:
        assert site.application.services.credential().certificate == fresh
        await site.enrol_of(site.vendor, name)

    return is_used


async def tls(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """Another certificate of the listener."""
    fresh = site.tls_root.issue(name, san=["ip:127.0.0.1"])
    for path in fresh.write(site.config.parent, name):
        path.replace(path.with_name(f"tls{path.suffix}"))

    async def is_shown() -> None:
        host, _, port = site.host.partition(":")
        shown = await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)))
        assert ssl.PEM_cert_to_DER_cert(shown) == fresh.der

    return is_shown


async def log_file(site: Site, name: str) -> Callable[[], Awaitable[None]]:
    """The log file is moved away, as logrotate does it."""
    path = site.config.parent / "ra.log"
    moved = path.rename(path.with_name(f"{name}.log"))

    async def is_gone_on_in() -> None:
        size = moved.stat().st_size
        await site.enrol_of(site.vendor, name)
        assert name in path.read_text()
        assert moved.stat().st_size == size > 0

    return is_gone_on_in


KINDS: Final = (
    configuration,
    anchors,
    inventory,
    crls,
    shared_secrets,
    ra_credential,
    tls,
    log_file,
)


async def test_every_kind_of_reload_under_load(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    listed = make_vendor_pki("listed")
    config = make_setup(tmp_path, vendors={"acme": vendor_pki, "listed": listed})
    site = Site(config, vendor_pki, listed, make_root("TLS root"))
    settings = load(config)
    logs.configure(settings.log.format, settings.log.level, settings.log.path)
    site.application = Application(
        settings, sink=site.heard, read=lambda: load(config), has_log=True
    )
    site.host = "{}:{}".format(*await site.application.start())
    try:
        async with under_load(lambda serial: site.enrol_of(vendor_pki, serial)) as load_:
            await load_.goes_on()
            for number in range(ROUNDS):
                for kind in KINDS:
                    holds = await kind(site, f"{kind.__name__}{number}")
                    await site.application.reload()
                    await holds()
            await load_.goes_on()
    finally:
        await site.application.stop()
    reloads = [fact for fact in site.facts if isinstance(fact, ConfigurationReloaded)]
    assert len(reloads) == len(KINDS) * ROUNDS
