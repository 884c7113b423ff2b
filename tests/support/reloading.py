"""A gateway in the tests' process that reads its configuration again when told to, and base stations of it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from ra_gateway.app.application import Application
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.config.reading import load
from ra_gateway.device import client
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, Send, operator_trust
from ra_gateway.events import Fact
from ra_gateway.keys import load_certificates
from tests.support.credentials import cmp_credential
from tests.support.pki import VendorPKI, make_key, make_vendor_pki
from tests.support.setups import edit


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

    async def run(self, enrollment: Enrollment, path: str = "/.well-known/cmp") -> None:
        """Have a base station enrol and confirm, over HTTP."""
        async with client.open_session() as session:
            await client.run(enrollment, f"{self.url}{path}", session)

    async def enrol(self, vendor: VendorPKI, serial: str) -> None:
        """Have a base station of a vendor enrol and confirm, over HTTP."""
        await self.run(self.enrollment(cmp_credential(vendor.device(serial)), serial))

    async def receive(
        self, enrollment: Enrollment, der: bytes, path: str = "/.well-known/cmp"
    ) -> Send | Done:
        """Have a base station send one message and read the answer."""
        async with client.open_session() as session:
            return await enrollment.receive(await client.post(session, f"{self.url}{path}", der))


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[Site]:
    """Serve a configuration."""
    site = Site(config)
    host, port = await site.application.start()
    site.url = f"http://{host}:{port}"
    try:
        yield site
    finally:
        await site.application.stop()


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
