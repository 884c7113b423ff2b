"""Revoked signers are refused (R23), and where nobody can tell, the domain's mode decides."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID
from structlog.testing import capture_logs

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.values import Send
from ra_gateway.errors import SignerNotTrusted, StatusUnavailable, UpstreamUnavailable
from ra_gateway.ra.signer_status import SignerStatus
from ra_gateway.revocation import domain as domain_module
from ra_gateway.revocation.domain import DomainRevocation
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.revocation.settings import Mode, RevocationSettings
from ra_gateway.revocation.sources import SourceState
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate
from tests.support.crls import make_crl, replace_file
from tests.support.harness import ManualClock, World, make_gateway
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_root
from tests.support.revocation import (
    HOUR,
    Crls,
    Desk,
    Handler,
    Publisher,
    compressed,
    dripping,
    elsewhere,
    endless,
    page,
    publishing,
    serving,
)


@pytest.fixture
def crls(tmp_path: Path, vendor_pki: VendorPKI) -> Crls:
    """Fresh ones that list nothing."""
    return Crls(tmp_path, vendor_pki, ManualClock().now)


@pytest.fixture
def desk(crls: Crls, vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> Desk:
    """Both files, hard."""
    return Desk(vendor_pki, operator_pki, crl_paths=crls.paths)


# --- what is revoked ------------------------------------------------------------------------------------------


@pytest.mark.requirement(23)
async def test_a_revoked_device_is_refused_and_another_is_not(desk: Desk, crls: Crls) -> None:
    """signerNotTrusted; the log says which CRL lists it, the device does not hear it."""
    revoked, good = desk.world.device("ENB-1"), desk.world.device("ENB-2")
    crls.sub(revoked.certificate, number=5)
    await desk.refresh()
    assert await desk.ask(good) == []
    assert await desk.ask(revoked) == ["signerNotTrusted"]
    outcome, rule, detail = desk.last
    assert (outcome, rule) == ("refused", "R23")
    assert "is revoked: the CRL number 5 of CN=" in detail


@pytest.mark.requirement(23)
async def test_a_device_below_a_revoked_ca_is_refused(desk: Desk, crls: Crls) -> None:
    """The whole path is checked, without the anchor."""
    crls.root(crls.vendor.sub.certificate)
    await desk.refresh()
    assert await desk.ask(desk.world.device()) == ["signerNotTrusted"]
    assert crls.vendor.sub.certificate.subject.rfc4514_string() in desk.last[2]


@pytest.mark.requirement(23)
async def test_a_serial_number_counts_for_its_issuer_only(desk: Desk, crls: Crls) -> None:
    """The root's CRL says nothing about what the sub-CA issued."""
    device = desk.world.device()
    crls.root(device.certificate)
    await desk.refresh()
    assert await desk.ask(device) == []


@pytest.mark.requirement(23)
async def test_what_an_expired_crl_lists_is_revoked(desk: Desk, crls: Crls) -> None:
    """Revocation does not lapse; also where the domain is soft."""
    device = desk.world.device()
    crls.sub(device.certificate, lifetime=timedelta(minutes=1))
    await desk.refresh()
    assert await desk.ask(device) == ["signerNotTrusted"]


@pytest.mark.requirement(23)
async def test_a_device_revoked_meanwhile_cannot_confirm(desk: Desk, crls: Crls) -> None:
    """A certConf is refused too; but a repeat of what was answered gets the same answer."""
    await desk.refresh()
    device = desk.world.device()
    enrollment = desk.world.enrollment(device)
    first = await enrollment.request()
    answer = await desk.world.post(first)
    step = await enrollment.receive(answer)
    assert isinstance(step, Send)
    crls.sub(device.certificate, number=2)
    await desk.refresh(11)
    assert fail_names(await desk.world.ask(step.der)) == ["signerNotTrusted"]
    assert await desk.world.post(first) == answer


# --- what nobody can tell -------------------------------------------------------------------------------------


@pytest.mark.requirement(23)
async def test_hard_refuses_until_every_ca_has_a_fresh_crl(desk: Desk, crls: Crls) -> None:
    """systemUnavail: nothing is wrong with the device. The log says which CRL is missing since when."""
    device = desk.world.device()
    crls.paths[0].unlink()
    await desk.refresh()
    assert await desk.ask(device) == ["systemUnavail"]
    outcome, rule, detail = desk.last
    root = crls.vendor.root.certificate.subject.rfc4514_string()
    assert (outcome, rule) == ("failed", "R23")
    assert f"no CRL of {root} was received since 2026-01-02T03:04:05Z" in detail
    assert (
        "root.crl: cannot be read: No such file or directory, since 2026-01-02T03:04:05Z" in detail
    )
    crls.root()
    await desk.refresh(16)
    assert await desk.ask(device) == []


@pytest.mark.requirement(23)
async def test_hard_refuses_when_a_crl_has_expired(desk: Desk, crls: Crls) -> None:
    """The old one is named, and since when it is too old."""
    await desk.refresh()
    desk.clock.move(days=7)
    assert await desk.ask(desk.world.device()) == ["systemUnavail"]
    assert "is too old since 2026-01-09T02:04:05Z" in desk.last[2]


@pytest.mark.requirement(23)
async def test_soft_accepts_and_notes_it(
    crls: Crls, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Without any CRL; a revoked device is refused all the same once there is one."""
    desk = Desk(vendor_pki, operator_pki, mode=Mode.soft, crl_paths=crls.paths)
    device = desk.world.device()
    assert await desk.ask(device) == []
    assert desk.last[0] == "issued"
    assert desk.last[2].startswith("accepted although nobody can tell whether CN=ENB-1")
    crls.sub(device.certificate)
    await desk.refresh()
    assert await desk.ask(device) == ["signerNotTrusted"]


@pytest.mark.requirement(23)
async def test_grace_and_greatest_age(
    crls: Crls, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """nextUpdate is stretched by the one and cut by the other."""
    for seconds, setting, expected in (
        (7 * 86400, {"grace_seconds": 7200.0}, []),
        (7 * 86400, {}, ["systemUnavail"]),
        (7200, {"max_age_seconds": 3600.0}, ["systemUnavail"]),
        (7200, {}, []),
    ):
        desk = Desk(vendor_pki, operator_pki, crl_paths=crls.paths, **setting)
        await desk.refresh()
        desk.clock.move(seconds=seconds)
        assert await desk.ask(desk.world.device()) == expected


@pytest.mark.requirement(23)
async def test_a_sub_ca_that_only_devices_send_is_enough(
    crls: Crls, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Its CRL was fetched before; it is verified when the first path brings the CA."""
    desk = Desk(vendor_pki, operator_pki, crl_paths=crls.paths, intermediates=())
    revoked = desk.world.device("ENB-9")
    crls.sub(revoked.certificate)
    await desk.refresh()
    assert "no CA certificate known here" in str([s.last_error for s in desk.revocation.states()])
    assert await desk.ask(revoked) == ["signerNotTrusted"]
    assert await desk.ask(desk.world.device()) == []
    assert [state.last_error for state in desk.revocation.states()] == ["", ""]
    await desk.refresh(3600)
    assert [state.last_error for state in desk.revocation.states()] == ["", ""]


# --- what is not believed -------------------------------------------------------------------------------------


@pytest.mark.requirement(23)
async def test_a_crl_by_another_key_is_refused_and_the_old_one_kept(desk: Desk, crls: Crls) -> None:
    """A stranger with the sub-CA's name cannot free a revoked device."""
    device = desk.world.device()
    crls.sub(device.certificate)
    await desk.refresh()
    impostor = make_root(crls.vendor.sub.certificate.subject.rfc4514_string())
    crls.sub(by=impostor, number=99)
    with capture_logs() as logs:
        await desk.refresh(11)
    assert await desk.ask(device) == ["signerNotTrusted"]
    (failure,) = (line for line in logs if line["event"] == "revocation.failed")
    assert "was not signed by the key of" in failure["detail"]


@pytest.mark.requirement(23)
async def test_an_older_crl_does_not_replace_a_newer(desk: Desk, crls: Crls) -> None:
    """Played back, it would free whom the newer one lists."""
    device = desk.world.device()
    crls.sub(device.certificate, number=8)
    await desk.refresh()
    crls.sub(number=7)
    await desk.refresh(11)
    assert await desk.ask(device) == ["signerNotTrusted"]
    state = next(s for s in desk.revocation.states() if s.last_error)
    assert (state.number, state.entries) == (8, 1)
    assert "is older than the one in use" in state.last_error
    crls.sub(number=9)
    await desk.refresh(60)
    assert await desk.ask(device) == []


@pytest.mark.requirement(23)
async def test_a_new_file_is_picked_up(desk: Desk, crls: Crls) -> None:
    """Within ten seconds, and told in the log with sizes and ages; an unchanged one is not even read."""
    device = desk.world.device()
    await desk.refresh()
    crls.sub(device.certificate, number=2)
    with capture_logs() as logs:
        await desk.refresh(11)
    (line,) = logs
    assert line["event"] == "revocation.refreshed"
    assert {key: line[key] for key in ("domain", "number", "entries", "age_seconds")} == {
        "domain": "acme",
        "number": 2,
        "entries": 1,
        "age_seconds": 3611,
    }
    assert line["size_bytes"] == crls.paths[1].stat().st_size
    assert await desk.ask(device) == ["signerNotTrusted"]


@pytest.mark.requirement(23)
async def test_a_crl_of_other_distribution_points_does_not_make_fresh(
    desk: Desk, crls: Crls
) -> None:
    """It says nothing about certificates that name no such point, unless it lists them."""
    url = x509.UniformResourceIdentifier("http://crl.example/1")
    scope = x509.IssuingDistributionPoint([url], None, False, False, None, False, False)
    device, revoked = desk.world.device("ENB-1"), desk.world.device("ENB-2")
    crls.sub(revoked.certificate, extensions=[(scope, True)])
    await desk.refresh()
    assert await desk.ask(device) == ["systemUnavail"]
    assert "covers it" in desk.last[2]
    assert await desk.ask(revoked) == ["signerNotTrusted"]


# --- over HTTP ------------------------------------------------------------------------------------------------


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    """Listens on a free port."""
    async with publishing() as found:
        yield found


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "handler, text",
    [
        (endless, r"more than 100000 bytes"),
        (dripping, r"not received within 300 s"),
        (elsewhere, r"HTTP 302 \(redirects are not followed\)"),
        (compressed, r"Content-Encoding 'gzip'"),
        (page, r"neither DER nor PEM"),
    ],
)
async def test_a_hostile_publisher_costs_little(
    publisher: Publisher,
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    handler: Handler,
    text: str,
) -> None:
    """It ends at a limit; nothing else is asked for; it is tried again later and later."""
    publisher.handler = handler
    desk = Desk(
        vendor_pki,
        operator_pki,
        crl_urls=(publisher.url(),),
        max_crl_bytes=100_000,
        timeout_seconds=PATIENCE_SECONDS,
    )
    await desk.refresh()
    assert publisher.asked == ["/sub.crl"]
    assert re.search(text, desk.state.last_error), desk.state.last_error
    for wait, count in ((14, 1), (2, 2), (28, 2), (3, 3)):
        await desk.refresh(wait)
        assert len(publisher.asked) == count
    await desk.revocation.stop()


@pytest.mark.requirement(23)
async def test_a_configured_url_is_fetched_and_fetched_again(
    publisher: Publisher, vendor_pki: VendorPKI, operator_pki: OperatorPKI, crls: Crls
) -> None:
    """After refresh_seconds, in the background; what it has is shown."""
    device = vendor_pki.device()
    first = make_crl(vendor_pki.sub, this_update=crls.now - HOUR)
    second = make_crl(vendor_pki.sub, [device.certificate], this_update=crls.now - HOUR, number=2)
    publisher.handler = serving(first)
    desk = Desk(vendor_pki, operator_pki, crl_urls=(publisher.url(),), crl_paths=crls.paths[:1])
    await desk.refresh()
    assert await desk.ask(device) == []
    publisher.handler = serving(second)
    await desk.refresh(3599)
    assert await desk.ask(device) == []
    await desk.refresh(2)
    assert await desk.ask(device) == ["signerNotTrusted"]
    state = desk.revocation.states()[-1]
    assert state == SourceState(
        domain="acme",
        source=publisher.url(),
        issuer=cmp_certificate(vendor_pki.sub.certificate).subject,
        number=2,
        this_update=crls.now - HOUR,
        next_update=crls.now - HOUR + timedelta(days=7),
        entries=1,
        fresh=True,
        fetched_at=crls.now + timedelta(seconds=3601),
    )
    await desk.revocation.stop()


@pytest.mark.requirement(23)
async def test_processes_that_begin_together_do_not_fetch_together(
    publisher: Publisher, vendor_pki: VendorPKI, operator_pki: OperatorPKI, crls: Crls
) -> None:
    publisher.handler = serving(make_crl(vendor_pki.sub, this_update=crls.now - HOUR))
    workers = [
        Desk(vendor_pki, operator_pki, crl_urls=(publisher.url(),), early_share=share)
        for share in (0.05, 0.1)
    ]
    asked = []
    for seconds in (0, 3230, 20, 160, 20):
        for desk in workers:
            await desk.refresh(seconds)
        asked.append(len(publisher.asked))
    assert asked == [2, 2, 3, 3, 4]
    for desk in workers:
        await desk.revocation.stop()


@pytest.mark.requirement(23)
async def test_fetched_crls_outlast_a_restart(
    publisher: Publisher,
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    crls: Crls,
    tmp_path: Path,
) -> None:
    """Kept in a directory and verified anew: with the publisher away, the revoked is refused, the good taken."""
    device, revoked = vendor_pki.device("ENB-1"), vendor_pki.device("ENB-2")
    crl = make_crl(vendor_pki.sub, [revoked.certificate], this_update=crls.now - HOUR)
    publisher.handler = serving(crl)
    settings: dict[str, Any] = {
        "crl_urls": (publisher.url(),),
        "crl_paths": crls.paths[:1],
        "crl_cache_path": tmp_path / "kept",
    }
    first = Desk(vendor_pki, operator_pki, **settings)
    await first.refresh()
    await first.revocation.stop()
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.read_bytes() == crl

    publisher.handler = page
    for octets, expected in (
        (crl, ([], ["signerNotTrusted"])),
        (make_crl(make_root("Stranger"), this_update=crls.now), (["systemUnavail"],) * 2),
        (b"0", (["systemUnavail"],) * 2),
    ):
        kept.write_bytes(octets)
        second = Desk(vendor_pki, operator_pki, **settings)
        await second.refresh()
        assert (await second.ask(device), await second.ask(revoked)) == expected
        await second.revocation.stop()


def with_point(url: str) -> dict[str, Any]:
    name = x509.UniformResourceIdentifier(url)
    points = [x509.DistributionPoint([name], None, None, None)]
    return {"extensions": [(x509.CRLDistributionPoints(points), False)]}


@pytest.mark.requirement(23)
async def test_urls_of_certificates_are_used_where_the_host_is_allowed(
    publisher: Publisher, vendor_pki: VendorPKI, operator_pki: OperatorPKI, crls: Crls
) -> None:
    """The first message teaches the URL and is refused; the next one finds the CRL."""
    publisher.handler = serving(make_crl(vendor_pki.sub, this_update=crls.now - HOUR))
    desk = Desk(
        vendor_pki,
        operator_pki,
        crl_paths=crls.paths[:1],
        from_certificates=True,
        allowed_hosts=frozenset({publisher.host}),
    )
    device = desk.world.device("ENB-1", **with_point(publisher.url()))
    await desk.refresh()
    assert await desk.ask(device) == ["systemUnavail"]
    await desk.refresh()
    assert (publisher.asked, await desk.ask(device)) == (["/sub.crl"], [])
    await desk.revocation.stop()


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "url, hosts",
    [
        ("http://{host}/sub.crl", {"127.0.0.1", "crl.example"}),
        ("http://user@{host}/sub.crl", {"{host}"}),
        ("ftp://{host}/sub.crl", {"{host}"}),
        ("file:///etc/passwd", {"{host}", ""}),
        ("http://{host}x/sub.crl", {"{host}"}),
    ],
)
async def test_other_urls_of_certificates_are_not_used(
    publisher: Publisher,
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    url: str,
    hosts: set[str],
) -> None:
    """Another host or port, another scheme, or a user name."""
    desk = Desk(
        vendor_pki,
        operator_pki,
        from_certificates=True,
        allowed_hosts=frozenset(host.format(host=publisher.host) for host in hosts),
    )
    device = desk.world.device("ENB-1", **with_point(url.format(host=publisher.host)))
    assert await desk.ask(device) == ["systemUnavail"]
    await desk.refresh()
    assert (publisher.asked, desk.revocation.states()) == ([], [])


@pytest.mark.requirement(23)
async def test_a_stranger_teaches_no_url(
    publisher: Publisher, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Neither a certificate that chains to no anchor, nor one that merely travels along."""
    desk = Desk(
        vendor_pki,
        operator_pki,
        from_certificates=True,
        allowed_hosts=frozenset({publisher.host}),
    )
    stranger = make_root("Stranger").issue("ENB-1", **with_point(publisher.url("/a")))
    bystander = vendor_pki.device("ENB-2", **with_point(publisher.url("/b")))
    assert await desk.ask(stranger) == ["signerNotTrusted"]
    device = desk.world.device()
    along = replace(device, chain=(bystander.certificate, *device.chain))
    assert await desk.ask(along) == ["systemUnavail"]
    await desk.refresh()
    assert publisher.asked == []


async def test_the_background_task_fetches_when_taught(
    publisher: Publisher, vendor_pki: VendorPKI, operator_pki: OperatorPKI, crls: Crls
) -> None:
    """At once, and not at the next round; a stop ends it."""
    publisher.handler = serving(make_crl(vendor_pki.sub, this_update=crls.now - HOUR))
    desk = Desk(
        vendor_pki,
        operator_pki,
        crl_paths=crls.paths[:1],
        from_certificates=True,
        allowed_hosts=frozenset({publisher.host}),
    )
    await desk.revocation.start()
    device = desk.world.device("ENB-1", **with_point(publisher.url()))
    assert await desk.ask(device) == ["systemUnavail"]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(desk.revocation.states()) < 2 or not desk.revocation.states()[1].fresh:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert await desk.ask(device) == []
    await desk.revocation.stop()
    await desk.revocation.stop()


# --- what costs, and what a revoked CA says -------------------------------------------------------------------


async def test_a_page_of_begin_lines_costs_one_look(
    publisher: Publisher, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Searching for each END from each BEGIN of 20 MB takes a day, under the interpreter's lock."""
    publisher.handler = serving(b"-----BEGIN X509 CRL-----\n" * 700_000)
    desk = Desk(vendor_pki, operator_pki, crl_urls=(publisher.url(),))
    await desk.refresh()
    assert "700000 blocks of PEM with X509 CRL; at most 16 are read" in desk.state.last_error
    await desk.revocation.stop()


async def test_a_start_does_not_wait_for_what_is_slow_to_read(
    desk: Desk, crls: Crls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the timeouts of its fetches; what is read later counts then."""
    goes_on, began = threading.Event(), threading.Event()
    opened = domain_module._open

    def slow(octets: bytes) -> Any:
        began.set()
        assert goes_on.wait(300)
        return opened(octets)

    monkeypatch.setattr(domain_module, "_open", slow)
    monkeypatch.setattr(DomainRevocation, "patience_seconds", 0.1)
    await desk.revocation.start()
    assert await asyncio.to_thread(began.wait, 300)
    assert await desk.ask(desk.world.device()) == ["systemUnavail"]
    goes_on.set()
    async with asyncio.timeout(300):
        while not all(state.fresh for state in desk.revocation.states()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    assert await desk.ask(desk.world.device()) == []
    await desk.revocation.stop()


async def test_one_crl_is_read_at_a_time(
    desk: Desk, crls: Crls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all sources of a domain; in threads, for the loop has others to serve."""
    reading: list[str] = []
    most: list[int] = []
    opened = domain_module._open

    def noted(octets: bytes) -> Any:
        reading.append(threading.current_thread().name)
        most.append(len(reading))
        time.sleep(0.05)
        found = opened(octets)
        assert threading.current_thread() is not threading.main_thread()
        reading.pop()
        return found

    monkeypatch.setattr(domain_module, "_open", noted)
    await desk.refresh()
    assert (max(most), len(most)) == (1, 2)


async def test_crls_of_nobody_known_are_kept_within_bounds(
    crls: Crls, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """As many octets as one CRL may have; what is more is read again when a path brings its issuer."""
    most = len(make_crl(vendor_pki.sub, this_update=crls.now - HOUR)) + 10
    paths = [crls.paths[1], *(crls.paths[1].with_name(f"{i}.crl") for i in range(3))]
    for path in paths[1:]:
        path.write_bytes(crls.paths[1].read_bytes())
    desk = Desk(
        vendor_pki,
        operator_pki,
        crl_paths=(crls.paths[0], *paths),
        intermediates=(),
        max_crl_bytes=most,
    )
    await desk.refresh()
    sources = desk.revocation._domains["acme"]._sources.values()
    assert sum(len(item.der) for source in sources for item in source.parked) <= most
    assert sum(len(source.awaited) for source in sources) == 3
    assert await desk.ask(desk.world.device()) == []
    await desk.refresh()
    assert [state.last_error for state in desk.revocation.states()] == [""] * 5
    assert not any(source.awaited or source.parked for source in sources)


async def test_a_revoked_ca_teaches_nothing(
    crls: Crls, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Neither itself nor its CRLs are taken up, also where they were fetched before."""
    desk = Desk(vendor_pki, operator_pki, crl_paths=crls.paths, intermediates=())
    crls.root(vendor_pki.sub.certificate)
    await desk.refresh()
    domain = desk.revocation._domains["acme"]
    assert await desk.ask(desk.world.device()) == ["signerNotTrusted"]
    assert not domain._learned_cas
    assert [len(source.crls) for source in domain._sources.values()] == [1, 0]


async def test_a_crl_of_a_revoked_ca_does_not_count_against_its_successor(
    crls: Crls, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Whoever has its key cannot have the devices of the CA that took its name refused."""
    sub = vendor_pki.sub
    successor = vendor_pki.root.issue_ca(sub.certificate.subject.rfc4514_string())
    device = successor.issue("CN=ENB-5,O=ACME Radio")
    third = crls.paths[1].with_name("successor.crl")
    third.write_bytes(make_crl(successor, this_update=crls.now - HOUR))
    crls.sub(device.certificate)
    desk = Desk(
        vendor_pki,
        operator_pki,
        crl_paths=(*crls.paths, third),
        intermediates=(sub, successor),
    )
    await desk.refresh()
    assert await desk.ask(device) == ["signerNotTrusted"]
    crls.root(sub.certificate, number=2)
    await desk.refresh(11)
    assert await desk.ask(device) == []
    assert await desk.ask(desk.world.device()) == ["signerNotTrusted"]


# --- what the CA in this process revoked ----------------------------------------------------------------------


@dataclass
class Memory:
    """A CA's memory."""

    revoked: dict[Certificate, datetime]

    async def revoked_at(
        self, certificate: Certificate, now: datetime, *, listed: bool = False
    ) -> datetime | None:
        return self.revoked.get(certificate)

    async def confirmed(self, certificate: Certificate, now: datetime) -> bool:
        return False


@pytest.mark.requirement(23)
async def test_what_the_bundled_ca_revoked_cannot_renew(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """A kur is refused at once, without any CRL; another operator certificate and a vendor's are not."""
    world = World.make(vendor_pki, operator_pki)
    revoked, good = operator_pki.device("enb1"), operator_pki.device("enb2")
    memory = Memory({cmp_certificate(revoked.certificate): world.clock.now - HOUR})
    world.gateway = make_gateway(
        world.endpoint,
        operator_pki,
        world.store,
        world.clock,
        world.events,
        signer_status=SignerStatus(None, memory),
    )

    async def renew(device: Credential) -> list[str]:
        request = await world.enrollment(device, body_type=BodyType.kur).request()
        return list(fail_names(await world.ask(request)))

    assert await renew(revoked) == ["signerNotTrusted"]
    assert "was revoked by the bundled CA on 2026-01-02T02:04:05Z" in world.events[-1].detail
    assert await renew(good) == []


@pytest.mark.requirement(23)
@pytest.mark.parametrize("replays", [True, False])
@pytest.mark.parametrize("late_minutes", [0, 30])
async def test_what_was_begun_before_the_revocation_is_not_asked_for_after_it(
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    replays: bool,
    late_minutes: int,
) -> None:
    """A repeat of what the CA never heard of is a new request to it; one that was answered has its answer."""
    memory = Memory({})
    world = World.make(vendor_pki, operator_pki, upstream={"replays_repeats": replays})
    world.gateway = make_gateway(
        world.endpoint,
        operator_pki,
        world.store,
        world.clock,
        world.events,
        signer_status=SignerStatus(None, memory),
    )
    device = operator_pki.device("enb1")
    answered, begun = [
        await world.enrollment(device, body_type=BodyType.kur).request() for _ in "ab"
    ]
    answer = await world.post(answered)
    world.ca.failure, world.ca.failures = UpstreamUnavailable("down", delivered=False), 1
    assert fail_names(await world.ask(begun)) == ["systemUnavail"]
    memory.revoked[cmp_certificate(device.certificate)] = world.clock.now
    world.clock.move(minutes=late_minutes)
    assert fail_names(await world.ask(begun)) == ["signerNotTrusted"]
    assert await world.post(answered) == answer
    assert len(world.ca.issued) == 1


# --- a CA that nobody publishes anything about ----------------------------------------------------------------


class Renewals:
    """An operator's domain in mode hard, whose root publishes nothing; its issuing CA's CRL is in a file."""

    def __init__(self, directory: Path, operator: OperatorPKI) -> None:
        self.directory, self.operator, self.clock = directory, operator, ManualClock()
        self.seconds = 0.0
        self.issuing = cmp_certificate(operator.issuing.certificate)
        self.put("issuing", operator.issuing)

    def put(self, name: str, ca: Any, *revoked: Any, **options: Any) -> None:
        options.setdefault("this_update", self.clock.now - HOUR)
        replace_file(self.directory / f"{name}.crl", make_crl(ca, revoked, **options))

    async def renew(self, *names: str, listed: bool = True, kind: str = "operator") -> str:
        """Return what becomes of a device's kur, with CRLs of these names: "" when it is taken."""
        root = cmp_certificate(self.operator.root.certificate)
        domain = TrustDomain(
            "operator", DomainKind[kind], (root,), (self.issuing,) if listed else ()
        )
        paths = tuple(self.directory / f"{name}.crl" for name in names)
        found = Revocation([(domain, RevocationSettings(crl_paths=paths))], self.clock)
        device = cmp_certificate(self.operator.device().certificate)
        path = domain.find_path(device, (self.issuing,), self.clock.now)
        try:
            for _ in range(2):  # what the first one teaches counts for the second
                await found.fetch()
                with suppress(StatusUnavailable):
                    await found.check("operator", path, self.clock.now)
            return "; ".join(await found.check("operator", path, self.clock.now))
        except (SignerNotTrusted, StatusUnavailable) as error:
            return error.detail
        finally:
            await found.stop()


@pytest.fixture
def renewals(tmp_path: Path, operator_pki: OperatorPKI) -> Renewals:
    """Nothing of the root."""
    return Renewals(tmp_path, operator_pki)


async def test_a_ca_that_the_operator_lists_stands_by_that(renewals: Renewals) -> None:
    """Where its root publishes nothing; for vendors, and where it is not listed, hard is hard."""
    root = renewals.operator.root.certificate.subject.rfc4514_string()
    assert await renewals.renew("issuing") == ""
    for otherwise in ({"listed": False}, {"kind": "vendor"}):
        assert f"no CRL of {root} was received" in await renewals.renew("issuing", **otherwise)


async def test_what_a_root_publishes_counts_for_a_ca_that_is_listed(renewals: Renewals) -> None:
    """Revoked is revoked; a CRL that is too old, or that cannot be had, leaves it open."""
    renewals.put("root", renewals.operator.root)
    assert await renewals.renew("issuing", "root") == ""
    renewals.put("root", renewals.operator.root, lifetime=timedelta(minutes=1))
    assert "is too old since" in await renewals.renew("issuing", "root")
    renewals.put("root", renewals.operator.root, renewals.operator.issuing.certificate)
    assert "is revoked: the CRL" in await renewals.renew("issuing", "root")
    (renewals.directory / "root.crl").unlink()
    assert "root.crl: cannot be read" in await renewals.renew("issuing", "root")


@pytest.mark.parametrize("named", ["CRL", "OCSP"])
async def test_a_ca_that_names_where_its_status_is_needs_it(
    tmp_path: Path, operator_pki: OperatorPKI, named: str
) -> None:
    """Its root does publish, so that the source is only missing in the configuration."""
    point = x509.UniformResourceIdentifier("http://pki.example.net/root")
    extensions: dict[str, x509.ExtensionType] = {
        "CRL": x509.CRLDistributionPoints([x509.DistributionPoint([point], None, None, None)]),
        "OCSP": x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, point)]
        ),
    }
    issuing = operator_pki.root.issue_ca("CN=Issuing 2", extensions=[(extensions[named], False)])
    renewals = Renewals(tmp_path, replace(operator_pki, issuing=issuing))
    assert "no CRL of" in await renewals.renew("issuing")
