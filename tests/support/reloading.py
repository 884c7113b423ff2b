"""A gateway or a CA in the tests' process that reads its configuration again when told to, and base stations."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from ra_gateway.app.application import Application
from ra_gateway.app.ca_service import CAService
from ra_gateway.app.running import Service
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.config.reading import load, load_ca
from ra_gateway.device import client
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, Send, operator_trust
from ra_gateway.events import Fact
from ra_gateway.keys import load_certificates
from tests.support.credentials import cmp_credential
from tests.support.pki import VendorPKI, make_key, make_vendor_pki
from tests.support.setups import edit


class Stations:
    """Base stations of a gateway or a CA in this process, which has the facts that happen told.

    Args:
        config: Its file.
    """

    def __init__(self, config: Path) -> None:
        self.config = config
        self.facts: list[Fact] = []
        self.url = ""

    def enrollment(self, credential: CMPCredential | MACCredential, host: str = "A1") -> Enrollment:
        """Return what a base station with a certificate or a shared secret sends, message by message."""
        root = load_certificates(self.config.parent / "operator" / "root.pem", "root")
        return Enrollment(
            DeviceIdentity(credential, operator_trust(*root)),
            make_key("p256"),
            RequestOptions(subject=f"CN={host}.example.net,O=Example Operator"),
            clock=lambda: datetime.now(UTC),
            random_octets=secrets.token_bytes,
        )

    async def run(self, enrollment: Enrollment, path: str = "/.well-known/cmp") -> Certificate:
        """Have a base station enrol and confirm, over HTTP."""
        async with client.open_session() as session:
            done = await client.run(enrollment, f"{self.url}{path}", session)
        credential = done.identity.credential
        assert isinstance(credential, CMPCredential)
        return credential.certificate

    async def enrol(
        self, vendor: VendorPKI, serial: str, path: str = "/.well-known/cmp"
    ) -> Certificate:
        """Have a base station of a vendor enrol and confirm, over HTTP."""
        return await self.run(self.enrollment(cmp_credential(vendor.device(serial)), serial), path)

    async def receive(
        self, enrollment: Enrollment, der: bytes, path: str = "/.well-known/cmp"
    ) -> Send | Done:
        """Have a base station send one message and read the answer."""
        async with client.open_session() as session:
            return await enrollment.receive(await client.post(session, f"{self.url}{path}", der))


class Site(Stations):
    """A gateway in this process that reads its configuration again when told to."""

    def __init__(self, config: Path) -> None:
        super().__init__(config)
        self.application = Application(
            load(config), sink=self.facts.append, read=lambda: load(config)
        )


class CASite(Stations):
    """The bundled CA as a service in this process, in client mode as well."""

    def __init__(self, config: Path) -> None:
        super().__init__(config)
        self.service = CAService(
            load_ca(config), sink=self.facts.append, read=lambda: load_ca(config)
        )


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[Site]:
    """Serve a configuration."""
    site = Site(config)
    async with _started(site.application, site):
        yield site


@asynccontextmanager
async def serving_ca(config: Path) -> AsyncIterator[CASite]:
    """Serve the CA of a configuration."""
    site = CASite(config)
    async with _started(site.service, site):
        yield site


@asynccontextmanager
async def _started(service: Service, site: Stations) -> AsyncIterator[None]:
    try:
        host, port = await service.start()
        site.url = f"http://{host}:{port}"
        yield
    finally:
        await service.stop()


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
