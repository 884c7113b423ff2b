"""Signers are asked about at OCSP responders (R23), which are never those that a stranger names (R137)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID
from structlog.testing import capture_logs

from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.device.values import Send
from ra_gateway.errors import SignerNotTrusted
from ra_gateway.revocation import ocsp as revocation_ocsp
from ra_gateway.revocation.settings import Mode, NonceUse, OCSPSettings
from ra_gateway.revocation.sources import SourceKind, SourceState
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate
from tests.support.crls import make_crl, replace_file
from tests.support.harness import ManualClock
from tests.support.ocsp import Responder, Script, delegate, responding, script_for
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_root
from tests.support.revocation import (
    HOUR,
    Desk,
    Handler,
    compressed,
    dripping,
    elsewhere,
    endless,
    page,
    publishing,
)


@pytest.fixture
def script(vendor_pki: VendorPKI) -> Script:
    """Of a responder for both of the vendor's CAs."""
    return script_for(vendor_pki.root, vendor_pki.sub)


@pytest.fixture
async def responder(script: Script) -> AsyncIterator[Responder]:
    """Runs; its clock stands still."""
    async with responding(script, ManualClock()) as found:
        yield found


class Site:
    """A desk that asks a responder, and moves the responder's time along with its own."""

    def __init__(
        self, vendor: VendorPKI, operator: OperatorPKI, responder: Responder, **settings: Any
    ) -> None:
        ocsp = settings.pop("ocsp", {})
        self.desk = Desk(
            vendor,
            operator,
            ocsp=OCSPSettings(**{"url": responder.url, "timeout_seconds": 2.0, **ocsp}),
            **settings,
        )
        self.responder = responder

    def pass_time(self, **delta: float) -> None:
        """Move the clocks."""
        self.desk.clock.move(**delta)
        self.desk.seconds += timedelta(**delta).total_seconds()
        self.responder.script.this_update = self.desk.clock.now

    async def ask(self, device: Credential) -> list[str]:
        """Send an ir and return the failInfo."""
        return await self.desk.ask(device)

    @property
    def detail(self) -> str:
        """Of the last message."""
        return self.desk.last[2]


@pytest.fixture
async def make_site(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, responder: Responder
) -> AsyncIterator[Callable[..., Site]]:
    """Makes sites that ask the responder, and clears them away."""
    made: list[Site] = []

    def make(**settings: Any) -> Site:
        made.append(Site(vendor_pki, operator_pki, settings.pop("at", responder), **settings))
        return made[-1]

    yield make
    for site in made:
        await site.desk.revocation.stop()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """Hard, with a responder and no CRL."""
    return make_site()


# --- what responders say --------------------------------------------------------------------------------------


@pytest.mark.requirement(23)
async def test_a_revoked_device_is_refused_and_a_good_one_is_not(site: Site) -> None:
    """The whole path is asked about, once for each certificate, not for each message."""
    good, revoked = site.desk.world.device("ENB-1"), site.desk.world.device("ENB-2")
    site.responder.script.revoked = {revoked.certificate.serial_number}
    assert await site.ask(good) == []
    assert site.responder.asked_count == 2
    for _ in range(3):
        assert await site.ask(good) == []
        assert await site.ask(revoked) == ["signerNotTrusted"]
    assert site.responder.asked_count == 3
    assert "is revoked since 2025-12-01T00:00:00Z: its OCSP responder says so" in site.detail


@pytest.mark.requirement(23)
async def test_a_device_below_a_revoked_ca_is_refused_by_ocsp(site: Site) -> None:
    """The sub-CA is asked about like the device."""
    site.responder.script.revoked = {site.desk.vendor.sub.certificate.serial_number}
    assert await site.ask(site.desk.world.device()) == ["signerNotTrusted"]


@pytest.mark.requirement(23)
async def test_a_device_revoked_meanwhile_cannot_confirm_by_ocsp(
    make_site: Callable[..., Site],
) -> None:
    """A later message of an operation is refused by what is known; nobody is asked for it."""
    site = make_site(ocsp={"max_cache_seconds": 60.0})
    device = site.desk.world.device()
    enrollment = site.desk.world.enrollment(device)
    step = await enrollment.receive(await site.desk.world.post(await enrollment.request()))
    assert isinstance(step, Send)
    site.responder.script.revoked = {device.certificate.serial_number}
    site.pass_time(seconds=61)
    assert await site.ask(device) == ["signerNotTrusted"]
    asked_count = site.responder.asked_count
    assert fail_names(await site.desk.world.ask(step.der)) == ["signerNotTrusted"]
    assert site.responder.asked_count == asked_count


@pytest.mark.requirement(23)
@pytest.mark.parametrize("changed", [{}, {"max_cache_seconds": 60.0}])
async def test_what_a_responder_said_outlasts_a_reload(
    make_site: Callable[..., Site], changed: dict[str, float]
) -> None:
    """Who is revoked stays so, though nobody answers any more; who is good does while the settings are the same."""
    before = make_site()
    good, revoked = before.desk.world.device("ENB-1"), before.desk.world.device("ENB-2")
    before.responder.script.revoked = {revoked.certificate.serial_number}
    assert await before.ask(good) == []
    assert await before.ask(revoked) == ["signerNotTrusted"]
    before.responder.script.octets = b"gone"
    site = make_site(ocsp=changed, before=before.desk.revocation)
    await site.desk.revocation.start()
    assert await site.ask(good) == (["systemUnavail"] if changed else [])
    assert await site.ask(revoked) == ["signerNotTrusted"]


@pytest.mark.requirement(23)
async def test_a_certificate_the_responder_does_not_know(
    make_site: Callable[..., Site], responder: Responder
) -> None:
    """Nobody can tell: hard refuses, soft accepts with a note."""
    for mode, expected in ((Mode.hard, ["systemUnavail"]), (Mode.soft, [])):
        site = make_site(mode=mode)
        device = site.desk.world.device()
        responder.script.unknown = {device.certificate.serial_number}
        assert await site.ask(device) == expected
        assert f"OCSP responder {responder.url}: does not know the certificate" in site.detail


@pytest.mark.requirement(23)
async def test_revocation_outlasts_its_answer(site: Site) -> None:
    """With the responder gone for days it still holds; a newer answer ends it (a hold that was released)."""
    device = site.desk.world.device()
    site.responder.script.revoked = {device.certificate.serial_number}
    assert await site.ask(device) == ["signerNotTrusted"]
    site.pass_time(days=3)
    site.responder.script.octets = b"gone"
    assert await site.ask(device) == ["signerNotTrusted"]
    site.responder.script.octets = None
    site.responder.script.revoked.clear()
    site.pass_time(minutes=1)
    assert await site.ask(device) == []


@pytest.mark.requirement(23)
async def test_an_older_answer_frees_nobody(site: Site) -> None:
    """Played back while it has not expired, after a newer one said revoked."""
    device = site.desk.world.device()
    script = site.responder.script
    script.lifetime, script.nonce = timedelta(days=7), "omit"
    script.revoked = {device.certificate.serial_number}
    assert await site.ask(device) == ["signerNotTrusted"]
    site.pass_time(hours=2)
    script.revoked.clear()
    script.this_update = site.desk.clock.now - timedelta(hours=3)
    with capture_logs() as logs:
        assert await site.ask(device) == ["signerNotTrusted"]
    (refused,) = (line for line in logs if line["event"] == "revocation.responder_failed")
    assert "older than the one in use" in refused["detail"]


@pytest.mark.requirement(23)
async def test_one_of_crl_and_ocsp_is_enough(
    make_site: Callable[..., Site], vendor_pki: VendorPKI, responder: Responder, tmp_path: Path
) -> None:
    """To refuse: what the CRL lists is not even asked about. To accept: a fresh CRL while the responder fails."""
    world_now = ManualClock().now
    listed, said = vendor_pki.device("ENB-1"), vendor_pki.device("ENB-2")
    paths = (tmp_path / "root.crl", tmp_path / "sub.crl")
    replace_file(paths[0], make_crl(vendor_pki.root, this_update=world_now - HOUR))
    crl = make_crl(vendor_pki.sub, [listed.certificate], this_update=world_now - HOUR)
    replace_file(paths[1], crl)
    site = make_site(crl_paths=paths)
    await site.desk.refresh()
    responder.script.revoked = {said.certificate.serial_number}
    assert await site.ask(listed) == ["signerNotTrusted"]
    assert responder.asked_count == 0
    assert await site.ask(said) == ["signerNotTrusted"]
    assert responder.asked_count == 1  # the root's CRL is enough for the sub-CA
    responder.script.octets = b"broken"
    assert await site.ask(vendor_pki.device("ENB-3")) == []


# --- what is not believed -------------------------------------------------------------------------------------


def _expired(script: Script, vendor: VendorPKI) -> None:
    script.this_update = ManualClock().now - timedelta(days=1)


def _from_the_future(script: Script, vendor: VendorPKI) -> None:
    script.this_update = ManualClock().now + timedelta(minutes=6)


def _by_a_stranger(script: Script, vendor: VendorPKI) -> None:
    script.sign_with(vendor.sub, make_root("Stranger"))


def _by_a_namesake(script: Script, vendor: VendorPKI) -> None:
    namesake = make_root(vendor.sub.certificate.subject.rfc4514_string())
    script.sign_with(vendor.sub, delegate(namesake))


def _by_another_cas_responder(script: Script, vendor: VendorPKI) -> None:
    script.sign_with(vendor.sub, delegate(vendor.root))


def _by_a_device(script: Script, vendor: VendorPKI) -> None:
    script.sign_with(vendor.sub, vendor.device("ENB-9"))


def _about_another(script: Script, vendor: VendorPKI) -> None:
    script.serial_offset = 1


def _with_another_nonce(script: Script, vendor: VendorPKI) -> None:
    script.nonce = "wrong"


def _without_its_certificate(script: Script, vendor: VendorPKI) -> None:
    script.include = False


def _by_one_who_may_be_revoked(script: Script, vendor: VendorPKI) -> None:
    script.sign_with(vendor.sub, delegate(vendor.sub, extensions=()))


def _garbage(script: Script, vendor: VendorPKI) -> None:
    script.octets = b"\x30\x03\x0a\x01\x07"


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "wrong, text",
    [
        (_expired, "has expired: it is good until 2026-01-01T04:04:05Z"),
        (_from_the_future, "ahead of our clock"),
        (_by_a_stranger, "was issued by CN=Stranger"),
        (_by_a_namesake, "was not certified by the key of"),
        (_by_another_cas_responder, "was issued by"),
        (_by_a_device, "has no extended key usage OCSPSigning"),
        (_about_another, "answers about another certificate"),
        (_with_another_nonce, "its nonce is that of another question"),
        (_without_its_certificate, "nor by a responder whose certificate comes along"),
        (_by_one_who_may_be_revoked, "has no id-pkix-ocsp-nocheck"),
        (_garbage, "not an OCSP answer that can be read"),
    ],
)
async def test_answers_that_do_not_count(site: Site, wrong: Any, text: str) -> None:
    """Hard refuses the device with systemUnavail; the reason is in the log."""
    wrong(site.responder.script, site.desk.vendor)
    assert await site.ask(site.desk.world.device()) == ["systemUnavail"]
    assert text in site.detail


@pytest.mark.requirement(23)
@pytest.mark.parametrize("nonce", ["echo", "omit"])
async def test_the_issuer_itself_may_sign(site: Site, nonce: str) -> None:
    """Without any delegate; nonces are optional."""
    vendor = site.desk.vendor
    for ca in (vendor.root, vendor.sub):
        site.responder.script.sign_with(ca, ca)
    site.responder.script.include, site.responder.script.nonce = False, nonce
    assert await site.ask(site.desk.world.device()) == []


@pytest.mark.requirement(23)
async def test_an_answer_without_next_update_is_of_the_moment(site: Site) -> None:
    """Good for five minutes, by which clocks may differ."""
    site.responder.script.lifetime = None
    device = site.desk.world.device()
    for seconds, asked_count in ((0, 2), (200, 2), (110, 4)):
        site.pass_time(seconds=seconds)
        assert await site.ask(device) == []
        assert site.responder.asked_count == asked_count


# --- what it costs --------------------------------------------------------------------------------------------


@pytest.mark.requirement(23)
async def test_an_answer_is_used_until_its_end_or_the_cap(
    make_site: Callable[..., Site], responder: Responder
) -> None:
    """nextUpdate is a week away, the cap ten minutes."""
    responder.script.lifetime = timedelta(days=7)
    site = make_site(ocsp={"max_cache_seconds": 600.0})
    device = site.desk.world.device()
    for seconds, asked_count in ((0, 2), (449, 2), (152, 4)):
        site.pass_time(seconds=seconds)
        assert await site.ask(device) == []
        assert responder.asked_count == asked_count


@pytest.mark.requirement(23)
async def test_an_answer_that_ends_soon_is_renewed_beforehand(site: Site) -> None:
    """Nobody waits for it: after three quarters of its time, messages pass while the responder hangs."""
    device = site.desk.world.device()
    assert await site.ask(device) == []
    site.pass_time(minutes=55)
    site.responder.script.gate = gate = asyncio.Event()
    assert await site.ask(device) == []
    gate.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while site.desk.state.entries < 4:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    site.responder.script.octets = b"gone"
    site.pass_time(minutes=20)
    assert await site.ask(device) == []


@pytest.mark.requirement(23)
async def test_many_messages_wait_for_one_answer(site: Site) -> None:
    """Two requests for twenty messages at once: one about the device, one about the sub-CA."""
    device = site.desk.world.device()
    site.responder.script.gate = gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(site.ask(device)) for _ in range(20)]
        while site.responder.asked_count < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        asked[0].cancel()
        gate.set()
    assert [task.result() for task in asked[1:]] == [[]] * 19
    assert site.responder.asked_count == 2


@pytest.mark.requirement(23)
@pytest.mark.parametrize(
    "handler, text",
    [
        (endless, "more than 65536 bytes"),
        (dripping, "not received within 300 s"),
        (elsewhere, "HTTP 302 (redirects are not followed)"),
        (compressed, "Content-Encoding 'gzip'"),
        (page, "not an OCSP answer that can be read"),
    ],
)
async def test_a_hostile_responder_costs_little(
    make_site: Callable[..., Site], handler: Handler, text: str
) -> None:
    """It ends at a limit; the next messages of that device do not even ask, until 15 s are over."""
    async with publishing() as publisher:
        publisher.handler = handler
        responder = Responder(script_for(), publisher)
        site = make_site(at=responder, ocsp={"timeout_seconds": PATIENCE_SECONDS})
        device = site.desk.world.device()
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            assert await site.ask(device) == ["systemUnavail"]
        assert asyncio.get_running_loop().time() - began < 2 * PATIENCE_SECONDS
        assert publisher.asked == ["/ocsp"] * 2
        assert text in site.desk.state.last_error
        site.pass_time(seconds=16)
        assert await site.ask(device) == ["systemUnavail"]
        assert len(publisher.asked) in (3, 4)


@pytest.mark.requirement(23)
async def test_a_message_does_not_wait_for_ever(
    make_site: Callable[..., Site], responder: Responder
) -> None:
    """Within the deadline hard refuses; the next message of that device asks again after 15 s."""
    site = make_site(ocsp={"timeout_seconds": 0.2})
    responder.script.gate = gate = asyncio.Event()
    device = site.desk.world.device()
    assert await site.ask(device) == ["systemUnavail"]
    assert "within 0.2 s" in site.detail
    responders = site.desk.revocation._domains["acme"]._responders
    assert responders is not None
    while responders._look_ups:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    gate.set()
    site.pass_time(seconds=16)
    assert await site.ask(device) == []


@pytest.mark.requirement(23)
async def test_a_dead_responder_is_left_alone_for_a_while(
    make_site: Callable[..., Site], responder: Responder
) -> None:
    """After three failures no connection is tried for 15 s, whatever the device; then it works again."""
    site = make_site()
    handler, responder.publisher.handler = responder.publisher.handler, elsewhere
    devices = [site.desk.world.device(f"ENB-{number}") for number in range(5)]
    for device in devices:
        assert await site.ask(device) == ["systemUnavail"]
    assert responder.asked_count in (3, 4)
    assert "not asked for a while: HTTP 302" in site.detail
    responder.publisher.handler = handler
    site.pass_time(seconds=31)
    for device in devices:
        assert await site.ask(device) == []


async def test_what_is_remembered_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer that was wanted longest ago is forgotten, never the sub-CA's; failures likewise."""
    monkeypatch.setattr(revocation_ocsp, "MAX_ANSWERS", 2)
    monkeypatch.setattr(revocation_ocsp, "MAX_FAILURES", 2)
    devices = [site.desk.world.device(f"ENB-{number}") for number in range(3)]
    for device in devices:
        assert await site.ask(device) == []
    assert site.responder.asked_count == 4
    responders = site.desk.revocation._domains["acme"]._responders
    assert responders is not None
    assert len(responders._good) == 2
    site.responder.script.octets = b"gone"
    for number in range(3, 6):
        assert await site.ask(site.desk.world.device(f"ENB-{number}")) == ["systemUnavail"]
    assert len(responders._failures) == 2


async def test_answers_are_remembered_by_issuer_key_and_serial_number(site: Site) -> None:
    """Another spelling of a revoked certificate is the same one; the certificate itself is not kept."""
    device = site.desk.world.device()
    site.responder.script.revoked = {device.certificate.serial_number}
    assert await site.ask(device) == ["signerNotTrusted"]
    responders = site.desk.revocation._domains["acme"]._responders
    assert responders is not None
    own = cmp_certificate(device.certificate)
    assert list(responders._revoked) == [own.id]
    outer = asn1.parts(own.der, 3, "")
    other = Certificate.from_der(
        asn1.tlv(0x30, outer[0], outer[1], asn1.tlv(0x03, b"\x00", own.signature + b"\x00"))
    )
    with pytest.raises(SignerNotTrusted):
        responders.require_not_revoked(other)


async def test_a_domain_that_insists_on_its_nonce(make_site: Callable[..., Site]) -> None:
    """A responder that makes its answers beforehand is of no use to it."""
    site = make_site(ocsp={"nonce": NonceUse.require})
    assert await site.ask(site.desk.world.device("ENB-1")) == []
    site.responder.script.nonce = "omit"
    assert await site.ask(site.desk.world.device("ENB-2")) == ["systemUnavail"]
    assert "has no nonce" in site.detail
    other = make_site(ocsp={"nonce": NonceUse.off})
    assert await other.ask(other.desk.world.device("ENB-2")) == []


async def test_look_ups_under_way_are_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that finds them all taken is told so at once."""
    monkeypatch.setattr(revocation_ocsp, "MAX_LOOK_UPS", 0)
    assert await site.ask(site.desk.world.device()) == ["systemUnavail"]
    assert "more than 0 OCSP requests are under way" in site.detail
    assert site.responder.asked_count == 0


# --- whom certificates name -----------------------------------------------------------------------------------


def with_responder(*urls: str) -> dict[str, Any]:
    names = [x509.UniformResourceIdentifier(url) for url in urls]
    method = AuthorityInformationAccessOID.OCSP
    access = x509.AuthorityInformationAccess([x509.AccessDescription(method, n) for n in names])
    return {"extensions": [(access, False)]}


def learning(*hosts: str) -> dict[str, Any]:
    """Settings under which only those responders are known that certificates name."""
    return {
        "mode": Mode.soft,
        "allowed_hosts": frozenset(hosts),
        "ocsp": {"url": "", "from_certificates": True},
    }


@pytest.mark.requirement(23)
async def test_a_responder_that_the_certificate_names_is_asked(
    make_site: Callable[..., Site], responder: Responder
) -> None:
    """Where its host is allowed, at the first message; the first that answers is enough."""
    site = make_site(**learning(responder.publisher.host))
    dead = responder.url.replace("/ocsp", "/dead") + "?"
    device = site.desk.world.device("ENB-1", **with_responder("http://other/", responder.url, dead))
    responder.script.revoked = {device.certificate.serial_number}
    assert await site.ask(device) == ["signerNotTrusted"]
    assert responder.publisher.asked == ["/ocsp"]


@pytest.mark.requirement(23, 137)
@pytest.mark.parametrize(
    "url, hosts",
    [
        ("http://{host}/ocsp", {"127.0.0.1", "ocsp.example"}),
        ("http://user@{host}/ocsp", {"{host}"}),
        ("ftp://{host}/ocsp", {"{host}"}),
        ("http://{host}x/ocsp", {"{host}"}),
    ],
)
async def test_other_responders_are_not_asked(
    make_site: Callable[..., Site],
    responder: Responder,
    url: str,
    hosts: set[str],
) -> None:
    """Another host or port, another scheme, a user name: nobody can tell."""
    host = responder.publisher.host
    site = make_site(**learning(*(item.format(host=host) for item in hosts)))
    device = site.desk.world.device("ENB-1", **with_responder(url.format(host=host)))
    assert await site.ask(device) == []
    assert "no OCSP responder is known for it" in site.detail
    assert responder.asked_count == 0


@pytest.mark.requirement(23, 137)
async def test_a_stranger_has_nobody_asked(
    make_site: Callable[..., Site], responder: Responder
) -> None:
    """Neither with a certificate that chains to no anchor, nor with one that merely travels along."""
    site = make_site(**learning(responder.publisher.host))
    named = with_responder(responder.url)
    assert await site.ask(make_root("Stranger").issue("ENB-1", **named)) == ["signerNotTrusted"]
    device = site.desk.world.device()
    bystander = site.desk.vendor.device("ENB-2", **named)
    assert await site.ask(replace(device, chain=(bystander.certificate, *device.chain))) == []
    assert responder.asked_count == 0


async def test_how_many_responders_certificates_may_name(
    make_site: Callable[..., Site],
    responder: Responder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the bound, new ones are not asked; what was asked before is."""
    monkeypatch.setattr(revocation_ocsp, "MAX_RESPONDERS", 1)
    site = make_site(**learning(responder.publisher.host))
    for number in range(3):
        named = with_responder(f"{responder.url}/{number}")
        assert await site.ask(site.desk.world.device(f"ENB-{number}", **named)) == []
    assert responder.publisher.asked == ["/ocsp/0"]
    assert "certificates name more than 1" in site.detail


# --- what is shown --------------------------------------------------------------------------------------------


async def test_the_known_cas_are_asked_about_at_the_start(
    make_site: Callable[..., Site], responder: Responder
) -> None:
    """So that a responder that fails is told of before a base station has to wait."""
    site = make_site()
    await site.desk.revocation.start()
    now = site.desk.clock.now
    assert site.desk.state == SourceState(
        domain="acme",
        source=responder.url,
        this_update=now,
        next_update=now + timedelta(minutes=65),
        entries=1,
        fresh=True,
        fetched_at=now,
        kind=SourceKind.ocsp,
    )
    await site.desk.revocation.stop()


async def test_every_question_has_a_nonce_of_its_own(site: Site) -> None:
    """Two certificates, two nonces."""
    drawn = itertools.count(1)
    nonces: list[int] = []

    def random_octets(count: int) -> bytes:
        nonces.append(next(drawn))
        return nonces[-1].to_bytes(count, "big")

    responders = site.desk.revocation._domains["acme"]._responders
    assert responders is not None
    responders._random_octets = random_octets
    assert await site.ask(site.desk.world.device()) == []
    assert nonces == [1, 2]
