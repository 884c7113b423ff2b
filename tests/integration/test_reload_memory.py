"""A reload: what the gateway knew before it, it knows after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.clocks import now
from ra_gateway.config.reading import load_ca
from ra_gateway.device import client
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.device.values import Done
from ra_gateway.ra.approval import decide
from ra_gateway.ra.waiting import request_digest, waiting
from ra_gateway.stores.redis import RedisStore
from tests.support.credentials import cmp_credential
from tests.support.crls import make_crl
from tests.support.pki import VendorPKI, make_vendor_pki
from tests.support.ports import free_port
from tests.support.reloading import Site, other_vendor, serving_ca
from tests.support.reloading import serving as site_serving
from tests.support.revocation import Publisher, elsewhere, publishing, serving
from tests.support.setups import edit, http_upstream, make_setup, set_upstream


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    """Serves what a test gives it, 404 at first."""
    async with publishing() as found:
        yield found


class Vendor:
    """A vendor whose CRLs a gateway fetches from one URL; it learns its sub-CA from its base stations.

    Args:
        directory: For the gateway's files.
        mode: Of the vendor's revocation.
    """

    def __init__(
        self, directory: Path, pki: VendorPKI, publisher: Publisher, mode: str = "hard"
    ) -> None:
        self.pki, self.publisher = pki, publisher
        self.config = make_setup(directory, vendors={"acme": pki})
        self.bad, self.good = (pki.device(name) for name in ("BAD", "GOOD"))
        self.config.write_text(
            f'{self.config.read_text()}\n[vendors.acme.revocation]\nmode = "{mode}"\n'
            f'crl_urls = ["{publisher.url("/crls.pem")}"]\n'
        )
        self.publish(self.bad.certificate)

    def publish(self, *revoked: x509.Certificate, number: int = 1) -> None:
        """Serve a CRL of each CA, the sub-CA's with these."""
        moment = datetime.now(UTC) - timedelta(minutes=1)
        pem = b""
        for ca, listed in ((self.pki.root, ()), (self.pki.sub, revoked)):
            der = make_crl(ca, listed, this_update=moment, number=number)
            pem += x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
        self.publisher.handler = serving(pem)

    async def require_known(self, site: Site) -> None:
        """Have the good one enrol, and the bad one refused for what it is."""
        await site.run(site.enrollment(cmp_credential(self.good), "GOOD"))
        with pytest.raises(EnrollmentRefused, match="signerNotTrusted"):
            await site.run(site.enrollment(cmp_credential(self.bad), "BAD"))


def nothing(config: Path) -> None:
    pass


def another_vendor(config: Path) -> None:
    other_vendor(config, "rivet")


def other_times(config: Path) -> None:
    edit(config, 'mode = "hard"', 'mode = "hard"\ngrace_seconds = 60')


def one_more_source(config: Path) -> None:
    edit(config, 'crl_urls = ["', 'crl_urls = ["http://127.0.0.1:1/other.crl", "')


@pytest.mark.parametrize("change", [nothing, another_vendor, other_times, one_more_source])
async def test_crls_outlast_a_reload_while_their_server_is_down(
    tmp_path: Path, vendor_pki: VendorPKI, publisher: Publisher, change: Callable[[Path], None]
) -> None:
    """They are in memory alone; good base stations are served on, and revoked ones refused for that."""
    vendor = Vendor(tmp_path, vendor_pki, publisher)
    async with site_serving(vendor.config) as site:
        await vendor.require_known(site)
        publisher.handler = elsewhere
        change(vendor.config)
        await site.application.reload()
        await site.application.reload()
        await vendor.require_known(site)


async def test_a_reload_fetches_crls_anew(
    tmp_path: Path, vendor_pki: VendorPKI, publisher: Publisher
) -> None:
    """What is published by then holds from then on, an hour before it would be fetched; an older one never."""
    vendor = Vendor(tmp_path, vendor_pki, publisher)
    async with site_serving(vendor.config) as site:
        await vendor.require_known(site)
        vendor.publish(number=2)
        await site.application.reload()
        await site.run(site.enrollment(cmp_credential(vendor.bad), "BAD"))
        vendor.publish(vendor.bad.certificate, number=1)
        await site.application.reload()
        await site.run(site.enrollment(cmp_credential(vendor.bad), "BAD"))


async def test_crls_that_the_new_configuration_does_not_trust_are_left_behind(
    tmp_path: Path, vendor_pki: VendorPKI, publisher: Publisher
) -> None:
    """The anchor is another one now: what CAs below the old one signed says nothing."""
    vendor = Vendor(tmp_path, vendor_pki, publisher)
    async with site_serving(vendor.config) as site:
        await vendor.require_known(site)
        publisher.handler = elsewhere
        make_vendor_pki("acme").write(vendor.config.parent / "acme")
        await site.application.reload()
        states = site.application._wiring.revocation.states()
        assert [(state.issuer, state.fresh) for state in states] == [("", False)]


async def test_a_base_station_that_waits_for_an_operator_polls_on(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """Reloaded while it waits, and once more between the decision and its next poll."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url)
    edit(config, "[endpoints.ran]\n", '[endpoints.ran]\napproval = "required"\n')
    async with site_serving(config) as site:
        pauses = 0

        async def pause(_: float) -> None:
            nonlocal pauses
            pauses += 1
            await site.application.reload()
            if pauses > 1:
                return
            store = site.application.services.store
            assert isinstance(store, RedisStore)
            (held,) = await waiting(store, store)
            digest = request_digest(held)
            await decide(
                store, store, held.key, digest=digest, approve=True, decided_by="alice", clock=now
            )
            await site.application.reload()

        enrollment = site.enrollment(cmp_credential(vendor_pki.device("A1")), "A1")
        async with client.open_session() as session:
            url = f"{site.url}/.well-known/cmp"
            done = await client.run(enrollment, url, session, sleep=pause)
    assert isinstance(done, Done)
    assert pauses


async def test_a_reload_while_the_ca_is_down(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """It is taken up, and who is missing is told; once the CA is back, everybody is served."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(config, "[ca.server]\nlisten_port = 0\n", f"[ca.server]\nlisten_port = {free_port()}\n")
    port = load_ca(config).ca.server.listen_port
    gateway = config.with_name("elsewhere.toml")
    gateway.write_text(config.read_text())
    set_upstream(gateway, http_upstream(f"http://127.0.0.1:{port}/pkix", replays_repeats=True))
    async with site_serving(gateway) as site:
        rivet = other_vendor(gateway, "rivet")
        await site.application.reload()
        assert site.application._parts()["upstreams"]
        with pytest.raises(EnrollmentRefused, match="systemUnavail"):
            await site.enrol(rivet, "R1")
        async with serving_ca(config):
            await site.application.reload()
            assert not site.application._parts()["upstreams"]
            await site.enrol(rivet, "R2")
            await site.enrol(vendor_pki, "A1")
