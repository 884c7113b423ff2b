"""Revoked base stations are turned away by a gateway process; `openssl cmp` is the base station."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from ra_gateway.cli.main import app
from tests.support.crls import make_crl
from tests.support.openssl import Result, load_certificate, openssl_cmp_async
from tests.support.pki import Credential, VendorPKI, make_key, write_certificates, write_key
from tests.support.processes import GatewayProcess
from tests.support.setups import make_setup
from tests.support.stations import until


class Publisher:
    """The vendor's CRLs over HTTP; what is not there yet is 404."""

    def __init__(self, server: TestServer) -> None:
        self.server = server
        self.crls: dict[str, bytes] = {}
        self.asked_count = 0

    def publish(self, vendor: VendorPKI, *revoked: Any, number: int = 1) -> None:
        """Put out the root's CRL and the sub-CA's."""
        for name, ca, listed in (("root", vendor.root, ()), ("sub", vendor.sub, revoked)):
            moment = datetime.now(UTC) - timedelta(minutes=1)
            self.crls[f"/{name}.crl"] = make_crl(ca, listed, this_update=moment, number=number)

    async def answer(self, request: web.Request) -> web.Response:
        """Serve a CRL."""
        self.asked_count += 1
        if request.path not in self.crls:
            raise web.HTTPNotFound
        return web.Response(body=self.crls[request.path])


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    """Listens on a free port."""
    application = web.Application()
    server = TestServer(application, host="127.0.0.1")
    found = Publisher(server)
    application.router.add_get("/{tail:.*}", found.answer)
    await server.start_server()
    yield found
    await server.close()


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[GatewayProcess]:
    """Run a gateway; its start waits for CRLs that this event loop serves."""
    gateway = GatewayProcess(config)
    await asyncio.to_thread(gateway.start)
    try:
        yield gateway
    finally:
        gateway.kill()


class Site:
    """A gateway with the bundled CA, and base stations of one vendor."""

    def __init__(self, directory: Path, vendor: VendorPKI) -> None:
        self.directory, self.vendor = directory, vendor
        self.config = make_setup(directory, vendors={"acme": vendor})

    def ask_for_crls(self, mode: str, publisher: Publisher) -> None:
        """Have the gateway fetch the vendor's CRLs every second."""
        urls = [str(publisher.server.make_url(path)) for path in ("/root.crl", "/sub.crl")]
        self.config.write_text(
            f"{self.config.read_text()}\n[vendors.acme.revocation]\nmode = {mode!r}\n"
            f"crl_urls = {urls}\nrefresh_seconds = 1\n"
        )

    async def ask(
        self, gateway: GatewayProcess, credential: Credential, command: Any = "ir"
    ) -> Result:
        """Run one operation; the new certificate and its key are new.pem and new.key."""
        cert, key = credential.write(self.directory, "own")
        new_key = self.directory / "next.key"
        write_key(new_key, make_key("p256"))
        result = await openssl_cmp_async(
            command,
            server=gateway.server,
            cert=cert,
            key=key,
            newkey=new_key,
            extracerts=write_certificates(self.directory / "extra.pem", *credential.intermediates),
            trusted=self.directory / "operator" / "root.pem",
            certout=self.directory / "new.pem",
            extra_args=() if command == "kur" else ("-subject", "/O=Example Operator/CN=enb-7"),
        )
        if result.returncode == 0:
            new_key.rename(self.directory / "new.key")
        return result


@pytest.fixture
def site(tmp_path: Path, vendor_pki: VendorPKI) -> Site:
    """Not running yet."""
    return Site(tmp_path, vendor_pki)


@pytest.mark.requirement(23)
async def test_hard_from_no_crl_to_a_revoked_device(site: Site, publisher: Publisher) -> None:
    """Refused without CRLs, enrolled with them, refused once the vendor has revoked it."""
    site.ask_for_crls("hard", publisher)
    device = site.vendor.device("ENB-7")
    async with running(site.config) as gateway:
        result = await site.ask(gateway, device)
        assert (result.returncode, result.fail_info) == (1, frozenset({"systemUnavail"})), (
            result.output
        )
        event = gateway.handled[-1]
        assert (event["outcome"], event["rule"]) == ("failed", "R23")
        assert "HTTP 404, since" in event["detail"]
        assert event["detail"] not in result.output

        publisher.publish(site.vendor)
        await until(lambda: refreshed(gateway, 1), "the fetch of both CRLs")
        (await site.ask(gateway, device)).check()

        publisher.publish(site.vendor, device.certificate, number=2)
        await until(lambda: refreshed(gateway, 2), "the fetch of the new CRL")
        result = await site.ask(gateway, device)
        assert (result.returncode, result.fail_info) == (1, frozenset({"signerNotTrusted"})), (
            result.output
        )
        assert gateway.handled[-1]["rule"] == "R23"
        (await site.ask(gateway, site.vendor.device("ENB-8"))).check()
        assert await asyncio.to_thread(gateway.stop) == 0


def refreshed(gateway: GatewayProcess, number: int) -> bool:
    """Tell whether both CAs' CRLs with a number were taken up; the sub-CA's waits for a path."""
    events = [e for e in gateway.events if e["event"].startswith("revocation.")]
    fetched = {e["source"] for e in events if e.get("number") == number}
    return len(fetched) == 2


@pytest.mark.requirement(23)
async def test_soft_accepts_and_logs(site: Site, publisher: Publisher) -> None:
    """The line of the message says which CRL is missing."""
    site.ask_for_crls("soft", publisher)
    async with running(site.config) as gateway:
        (await site.ask(gateway, site.vendor.device("ENB-7"))).check()
        issued = next(event for event in gateway.handled if event["outcome"] == "issued")
        assert "accepted although nobody can tell" in issued["detail"]
        assert any(event["event"] == "revocation.failed" for event in gateway.events)
        assert publisher.asked_count >= 2


@pytest.mark.requirement(23)
async def test_what_the_bundled_ca_revoked_is_refused_at_once(site: Site) -> None:
    """Enrol, renew, revoke with the CLI while the gateway runs: no kur, without any CRL."""
    async with running(site.config) as gateway:
        (await site.ask(gateway, site.vendor.device("ENB-7"))).check()
        operator = enrolled(site)
        (await site.ask(gateway, operator, "kur")).check()
        operator = enrolled(site)
        serial = f"{operator.certificate.serial_number:x}"
        revoked = await asyncio.to_thread(
            CliRunner().invoke,
            app,
            [
                *("ca", "revoke", serial, "--reason", "keyCompromise"),
                *("--config", str(site.config)),
            ],
        )
        assert revoked.exit_code == 0, revoked.output
        result = await site.ask(gateway, operator, "kur")
        assert (result.returncode, result.fail_info) == (1, frozenset({"signerNotTrusted"})), (
            result.output
        )
        assert "was revoked by the bundled CA" in gateway.handled[-1]["detail"]


def enrolled(site: Site) -> Credential:
    """Return the credential that the last operation brought."""
    key: Any = load_pem_private_key((site.directory / "new.key").read_bytes(), None)
    chain = (
        load_certificate(site.directory / "ca" / "issuing.pem"),
        load_certificate(site.directory / "operator" / "root.pem"),
    )
    return Credential(load_certificate(site.directory / "new.pem"), key, chain)
