"""What a device is forgiven, as long as it lives: at its enrolment, by whatever credential, and ever after."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmPolicy, digest
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertStatus,
    cert_confirm_body,
    cert_rep_message,
    gen_msg_body,
    rev_req_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.header_checks import HeaderRules, relaxed_algorithms
from ra_gateway.cmp.messages import (
    ANYONE,
    InfoTypeAndValue,
    PKIHeader,
    PKIMessage,
    assemble,
    body,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.quirks import Quirk, Strictness
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.errors import StoreUnavailable
from ra_gateway.ra import forgiveness
from ra_gateway.ra.ports import DeviceRecord
from ra_gateway.ra.settings import Approval
from ra_gateway.stores.memory import MemoryStore
from tests.support import mac, pki, requests
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import World, changed
from tests.support.old_device import OldDevice

STRICT = HeaderRules(Strictness.strict, require_message_time=True)

NEEDED = (
    Quirk.short_ids,
    Quirk.recip_nonce_in_ir,
    Quirk.no_message_time,
    Quirk.any_cert_req_id,
    Quirk.sha1,
)
"""What every request of this device needs at a strict endpoint."""

REFUSED = {
    Quirk.short_ids: ("badDataFormat", "R5"),
    Quirk.recip_nonce_in_ir: ("badRecipientNonce", "R7"),
    Quirk.no_message_time: ("badTime", "R29"),
    Quirk.any_cert_req_id: ("badRequest", "R47"),
    Quirk.sha1: ("badAlg", "R17"),
}
"""What it is told where one of them is not forgiven."""


def forgiving(
    vendor: pki.VendorPKI,
    operator: pki.OperatorPKI,
    *,
    of_vendor: Iterable[Quirk] = (),
    of_operator: Iterable[Quirk] = (),
    **fields: Any,
) -> World:
    """A strict world whose domains forgive some."""
    world = World.make(
        vendor,
        operator,
        rules=STRICT,
        vendor_domain={
            "quirks": frozenset(of_vendor),
            "algorithms": relaxed_algorithms(AlgorithmPolicy(), [*of_vendor]),
        },
        **fields,
    )
    return with_operator(world, of_operator)


def with_operator(world: World, quirks: Iterable[Quirk]) -> World:
    """The world whose operator's own domain forgives something."""
    operator = world.endpoint.operator
    assert operator is not None
    endpoint = replace(world.endpoint, operator=replace(operator, quirks=frozenset(quirks)))
    return replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))


async def refusal(world: World, der: bytes) -> tuple[str, str]:
    """Post what is to be refused; returns failInfo and rule, and asserts that nothing went on."""
    forwarded = len(world.ca.received)
    answer = await world.ask(der)
    assert len(world.ca.received) == forwarded
    (bit,) = fail_names(answer)
    return bit, world.events[-1].rule


ALL = frozenset({*NEEDED, Quirk.missing_extracerts_in_certconf})
CLOCKLESS = ALL - {Quirk.no_message_time} | {Quirk.wrong_clock}
EPOCH = datetime(1970, 1, 1, 0, 2, tzinfo=UTC)


# --- what is configured -------------------------------------------------------------------------------------------


@pytest.mark.requirement(5, 7, 17, 29, 34, 47, 66)
async def test_what_the_operators_domain_forgives_holds_for_renewal(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """A device that was let in renews, confirms and renews again; the log says what was forgiven."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL, of_operator=ALL)
    device = await OldDevice.of(world).enrol()
    device = await device.enrol(BodyType.kur)
    assert set(world.events[-2].quirks) == set(NEEDED)
    await device.enrol(BodyType.kur)


@pytest.mark.requirement(5, 7, 17, 29, 47)
@pytest.mark.parametrize("quirk", NEEDED)
async def test_what_the_operators_domain_does_not_forgive(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, quirk: Quirk
) -> None:
    """Each single thing is refused for what it is."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL, of_operator=ALL)
    device = await OldDevice.of(world).enrol()
    stricter = with_operator(
        forgiving(vendor_pki, operator_pki, of_vendor=ALL - {quirk}, store=world.store),
        ALL - {quirk},
    )
    kur = await replace(device, world=stricter).request(BodyType.kur)
    assert await refusal(stricter, kur) == REFUSED[quirk]


@pytest.mark.requirement(17, 146)
async def test_the_operators_quirks_forgive_its_own_certificates_nothing(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """A device may sign with SHA-1; a certificate that its operator's CA is said to have signed so is refused."""
    world = forgiving(vendor_pki, operator_pki, of_operator=ALL)
    key = pki.make_key("p256")
    issued = operator_pki.issuing.issue("CN=enb-1.ran.example.net", key)
    weak = pki.resign_with_sha1(issued.certificate, operator_pki.issuing)
    device = OldDevice(world, key, cmp_credential(issued))
    device = device.renewing(cmp_certificate(weak))
    assert await refusal(world, await device.request(BodyType.kur)) == ("badAlg", "R17")


# --- shared secrets -----------------------------------------------------------------------------------------------

MAC_QUIRKS = frozenset(NEEDED)


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    path = tmp_path / "secrets.csv"
    path.write_text(
        "reference,secret,subject,san,single_use,expires\n"
        f"{mac.REFERENCE},{mac.SECRET},{requests.SUBJECT},,false,\n"
    )
    return path


def mac_world(
    vendor: pki.VendorPKI, operator: pki.OperatorPKI, csv_path: Path, quirks: Iterable[Quirk]
) -> World:
    """A strict world where devices come in by secrets, and are forgiven something."""
    world = mac.make_world(vendor, operator, csv_path, rules=STRICT)
    access = world.endpoint.mac
    assert access is not None
    domain: TrustDomain = replace(access.domain, quirks=frozenset(quirks))
    endpoint = replace(world.endpoint, mac=replace(access, domain=domain))
    return replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))


async def mac_ir(world: World, body_type: BodyType = BodyType.ir, **fields: Any) -> bytes:
    """What the old device sends where it has a secret."""
    device = OldDevice.of(world)
    header = device.header(
        sender_der=mac.sender(f"CN={mac.REFERENCE}"), sender_kid=mac.REFERENCE.encode(), **fields
    )
    return mac.maced(header, await device.body(body_type, pki.make_key("p256")))


@pytest.mark.requirement(5, 7, 17, 29, 47)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_quirks_of_devices_with_a_secret(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, csv_path: Path, body_type: BodyType
) -> None:
    """They are forgiven as a vendor's are, in certConf too."""
    world = mac_world(vendor_pki, operator_pki, csv_path, MAC_QUIRKS)
    answer = await world.ask(await mac_ir(world, body_type))
    assert fail_names(answer) == [], world.events[-1].detail
    assert set(world.events[-1].quirks) == MAC_QUIRKS
    (response,) = cert_rep_message(answer.body_content).responses
    status = CertStatus(digest("sha256", response.certificate_der or b""), 355)
    header = PKIHeader(
        sender_der=mac.sender(f"CN={mac.REFERENCE}"),
        sender_kid=mac.REFERENCE.encode(),
        recipient_der=ANYONE,
        transaction_id=answer.header.transaction_id,
        sender_nonce=bytes(4),
        recip_nonce=answer.header.sender_nonce,
    )
    confirmed = await world.ask(mac.maced(header, cert_confirm_body(status)))
    assert confirmed.body_der == PKICONF_BODY, world.events[-1].detail
    assert set(world.events[-1].quirks) == {Quirk.short_ids, Quirk.no_message_time}


@pytest.mark.requirement(5, 7, 17, 29, 47)
@pytest.mark.parametrize("quirk", NEEDED)
async def test_quirks_that_devices_with_a_secret_are_not_forgiven(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, csv_path: Path, quirk: Quirk
) -> None:
    """Nor are they forgiven for their vendor's sake: nobody knows whose a secret is."""
    world = mac_world(vendor_pki, operator_pki, csv_path, MAC_QUIRKS - {quirk})
    assert (
        await refusal(world, await mac_ir(world))
        == {
            **REFUSED,
            Quirk.sha1: ("badAlg", "R146"),
        }[quirk]
    )


# --- what is remembered -------------------------------------------------------------------------------------------


@pytest.mark.requirement(5, 7, 17, 29, 34, 47, 66)
async def test_what_a_device_was_forgiven_holds_as_long_as_it_renews(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """Nothing is configured for the operator's domain: each certificate leads back to the vendor."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    device = await OldDevice.of(world).enrol()
    for _ in range(3):
        device = await device.enrol(BodyType.kur)
        assert set(world.events[-2].quirks) == set(NEEDED)
        assert Quirk.missing_extracerts_in_certconf in world.events[-1].quirks
    await device.enrol(BodyType.cr)


@pytest.mark.requirement(5, 7, 17, 29, 47)
@pytest.mark.parametrize("quirk", NEEDED)
async def test_a_quirk_that_its_vendor_has_no_more(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, quirk: Quirk
) -> None:
    """What counts is what the vendor's table says now; it is refused for what it is."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    device = await OldDevice.of(world).enrol()
    stricter = forgiving(vendor_pki, operator_pki, of_vendor=ALL - {quirk}, store=world.store)
    kur = await replace(device, world=stricter).request(BodyType.kur)
    assert await refusal(stricter, kur) == REFUSED[quirk]


@pytest.mark.requirement(34)
async def test_a_cert_conf_without_certificate_at_renewal(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """It is forgiven by what the transaction says of its device."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    device = await OldDevice.of(world).enrol()
    answer = await world.ask(await device.request(BodyType.kur))
    (response,) = cert_rep_message(answer.body_content).responses
    status = CertStatus(digest("sha256", response.certificate_der or b""), 355)
    der = await device.follow(answer, cert_confirm_body(status))
    less = ALL - {Quirk.missing_extracerts_in_certconf}
    stricter = forgiving(vendor_pki, operator_pki, of_vendor=less, store=world.store)
    assert await refusal(stricter, der) == ("badMessageCheck", "R33")
    assert (await world.ask(der)).body_der == PKICONF_BODY


LOST = "vendors.<name>.operator_subjects"


@pytest.mark.requirement(17)
async def test_a_name_does_not_bring_what_another_vendors_devices_are_forgiven(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """A device of a vendor that is forgiven nothing asked for it: where it came from is remembered, at each renewal."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    legacy = world.endpoint.vendors[0]
    modern = replace(legacy, name="modern", quirks=frozenset(), algorithms=AlgorithmPolicy())
    endpoint = replace(
        world.endpoint,
        vendors=(modern,),
        identities={"modern": world.endpoint.identities["acme"]},
        origins=(legacy,),
        origin_subjects={"acme": ("CN=*.ran.example.net",)},
    )
    world = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    signer, body_type = world.device(), BodyType.ir
    for _ in range(3):
        key, credential = pki.make_key("p256"), cmp_credential(signer)
        kid = credential.certificate.subject_key_identifier
        der = await requests.request(world, credential, key, body_type=body_type, sender_kid=kid)
        answer = await world.ask(der)
        (response,) = cert_rep_message(answer.body_content).responses
        certificate = Certificate.from_der(response.certificate_der or b"")
        thief = OldDevice(world, key, credential).renewing(certificate)
        assert await refusal(world, await thief.request(BodyType.kur)) == ("badAlg", "R17")
        assert world.events[-1].quirks == ()
        signer, body_type = issued(operator_pki, key, certificate), BodyType.kur


@pytest.mark.requirement(17)
async def test_what_is_remembered_counts_before_a_name(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """A device keeps what it was forgiven where a pattern of another vendor fits its subject."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    acme = world.endpoint.vendors[0]
    other = replace(acme, name="other", quirks=frozenset(), algorithms=AlgorithmPolicy())
    device = await OldDevice.of(world).enrol()
    endpoint = replace(
        world.endpoint, origins=(other,), origin_subjects={"other": ("CN=*.ran.example.net",)}
    )
    world = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    await replace(device, world=world).enrol(BodyType.kur)


def issued(operator: pki.OperatorPKI, key: Any, certificate: Certificate) -> pki.Credential:
    chain = (operator.issuing.certificate, operator.root.certificate)
    return pki.Credential(x509.load_der_x509_certificate(certificate.der), key, chain)


@pytest.mark.requirement(5, 7, 17, 29, 47)
@pytest.mark.parametrize("quirk", NEEDED)
async def test_what_is_not_remembered_is_not_forgiven(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, quirk: Quirk
) -> None:
    """A store that lost it fails closed, and the log says which key to set; that is then enough."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    device = await OldDevice.of(world).enrol()
    lost = forgiving(vendor_pki, operator_pki, of_vendor=ALL, of_operator=ALL - {quirk})
    device = replace(device, world=lost)
    assert await refusal(lost, await device.request(BodyType.kur)) == REFUSED[quirk]
    assert LOST in lost.events[-1].detail
    assert requests.SUBJECT in lost.events[-1].detail
    assert lost.events[-1].signer == requests.SUBJECT
    named = replace(lost.endpoint, origin_subjects={"acme": ("cn=*.RAN.example.net",)})
    told = replace(lost, endpoint=named, gateway=lost.second_gateway(named))
    await replace(device, world=told).enrol(BodyType.kur)


async def test_a_device_that_needs_nothing_hears_nothing_of_it(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """Another refusal does not speak of quirks, nor does one of a quirk that nobody has."""
    world = forgiving(vendor_pki, operator_pki, of_vendor={Quirk.short_ids})
    issued = operator_pki.device("enb-7")
    device, key = cmp_credential(issued), pki.make_key("p256")
    for fields, rule in (
        ({"message_time": None}, "R29"),
        ({"cert_req_id": 7}, "R47"),
        ({"body_type": BodyType.ir}, "R21"),
    ):
        wanted: dict[str, Any] = {"body_type": BodyType.kur, **fields}
        kid = device.certificate.subject_key_identifier
        asked = requests.template(key, f"CN=enb-7,O={operator_pki.name}")
        der = await requests.request(world, device, key, asked, sender_kid=kid, **wanted)
        _, found = await refusal(world, der)
        assert (found, LOST in world.events[-1].detail) == (rule, False)


async def test_nobody_is_looked_up_before_a_signature(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only shows a device's certificate makes nobody look for what is remembered of it."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    device = await OldDevice.of(world).enrol()
    asked: list[bytes] = []
    remembered = MemoryStore.remembered

    async def spied(store: MemoryStore, what: DeviceRecord, key: bytes) -> str:
        asked.append(key)
        return await remembered(store, what, key)

    monkeypatch.setattr(MemoryStore, "remembered", spied)
    thief = replace(device, key=pki.make_key("p256")).renewing(device.credential.certificate)
    assert (await refusal(world, await thief.request(BodyType.kur)))[0] == "badMessageCheck"
    assert asked == []
    await device.enrol(BodyType.kur)
    assert len(asked) == 1


async def test_other_devices_of_the_operator_are_forgiven_nothing(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """Not those that came by a vendor who has no quirks, either."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    legacy = world.endpoint.vendors[0]
    modern = replace(legacy, name="modern", quirks=frozenset())
    endpoint = replace(
        world.endpoint,
        vendors=(modern,),
        identities={"modern": world.endpoint.identities["acme"]},
        origins=(legacy,),
    )
    at_modern = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    key, made = pki.make_key("p256"), cmp_credential(world.device())
    kid = made.certificate.subject_key_identifier
    answer = await at_modern.ask(await requests.request(world, made, key, sender_kid=kid))
    (response,) = cert_rep_message(answer.body_content).responses
    other = OldDevice(at_modern, key, made).renewing(
        Certificate.from_der(response.certificate_der or b"")
    )
    assert (await refusal(at_modern, await other.request(BodyType.kur)))[1] in ("R5", "R17")
    # One of the legacy vendor's, at an endpoint that is not for its vendor.
    device = await OldDevice.of(world).enrol()
    await replace(device, world=at_modern).enrol(BodyType.kur)


@pytest.mark.requirement(17, 146)
async def test_legacy_signatures_of_a_vendor_hold_for_renewal(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """They may be listed as algorithms instead of quirks; only those that are no more than legacy are remembered."""
    quirks = ALL - {Quirk.sha1}
    world = forgiving(vendor_pki, operator_pki, of_vendor=quirks)
    (vendor,) = world.endpoint.vendors
    listed = AlgorithmPolicy(signatures=frozenset({"ecdsa-sha1", "ecdsa-sha256"}))
    endpoint = replace(world.endpoint, vendors=(replace(vendor, algorithms=listed),))
    world = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    device = await OldDevice.of(world).enrol()
    await device.enrol(BodyType.kur)
    relaxed = world.endpoint.operator_of["acme"]
    assert relaxed.forgiven_signatures == {"ecdsa-sha1"}
    assert "ecdsa-sha1" not in relaxed.algorithms.signatures


@pytest.mark.requirement(5, 7, 17, 29, 47)
async def test_a_device_that_came_by_a_secret_renews(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, csv_path: Path
) -> None:
    """What was forgiven under a shared secret holds for its renewal as well."""
    world = mac_world(vendor_pki, operator_pki, csv_path, MAC_QUIRKS)
    key = pki.make_key("p256")
    device = OldDevice(world, key, cmp_credential(world.device()))
    header = device.header(
        sender_der=mac.sender(f"CN={mac.REFERENCE}"), sender_kid=mac.REFERENCE.encode()
    )
    answer = await world.ask(mac.maced(header, await device.body(BodyType.ir, key)))
    (response,) = cert_rep_message(answer.body_content).responses
    device = device.renewing(Certificate.from_der(response.certificate_der or b""))
    kur = PKIMessage.from_der(await world.post(await device.request(BodyType.kur)))
    assert (kur.body_type, fail_names(kur)) == (BodyType.kup, []), world.events[-1].detail


# --- clocks that were never set -----------------------------------------------------------------------------------


@pytest.mark.requirement(29)
@pytest.mark.parametrize(
    "clock", [EPOCH, datetime(2016, 3, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)]
)
async def test_a_device_whose_clock_was_never_set(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, clock: datetime
) -> None:
    """It enrols, confirms and renews; the log says what was forgiven (TS 33.320 6.3.1)."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=CLOCKLESS)
    device = await replace(OldDevice.of(world), message_time=clock).enrol()
    assert all(Quirk.wrong_clock in event.quirks for event in world.events)
    await device.enrol(BodyType.kur)
    assert all(Quirk.wrong_clock in event.quirks for event in world.events)


@pytest.mark.requirement(29)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_a_clock_that_is_not_forgiven(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, body_type: BodyType
) -> None:
    """no_message_time forgives its absence only; and wrong_clock forgives no absence."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=ALL)
    device = OldDevice.of(world)
    if body_type is BodyType.kur:
        device = await device.enrol()
    device = replace(device, message_time=EPOCH)
    assert await refusal(world, await device.request(body_type)) == ("badTime", "R29")
    without = forgiving(vendor_pki, operator_pki, of_vendor=CLOCKLESS, store=world.store)
    device = replace(device, world=without, message_time=None)
    assert await refusal(without, await device.request(body_type)) == ("badTime", "R29")


@pytest.mark.requirement(29, 92)
async def test_a_request_by_a_wrong_clock_is_taken_once(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """Its repeat gets the stored answer; years later, when no transaction is left of it, it is refused."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=CLOCKLESS)
    device = replace(OldDevice.of(world), message_time=EPOCH)
    der = await device.request(BodyType.ir)
    first = await world.post(der)
    assert await world.post(der) == first
    renewed = await device.enrol()
    kur = await renewed.request(BodyType.kur)
    assert PKIMessage.from_der(await world.post(kur)).body_type is BodyType.kup
    world.clock.move(days=20)
    for old in (der, kur):
        assert await refusal(world, old) == ("badTime", "R29")
        assert "came before" in world.events[-1].detail
    # Whoever has the message cannot spell it otherwise: what counts is what the signature covers.
    stripped = PKIMessage.from_der(der)
    certificates = [*stripped.extra_certs, cmp_certificate(operator_pki.root.certificate).der]
    respelt = assemble(stripped.header_der, stripped.body_der, stripped.protection, certificates)
    assert await refusal(world, respelt) == ("badTime", "R29")
    # The device itself makes a new one.
    await device.enrol()


async def test_what_is_remembered_of_a_device_without_a_clock_is_bounded(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last requests, in one record, those with the right time too: they may come again later."""
    monkeypatch.setattr(forgiveness, "REQUESTS_REMEMBERED", 2)
    world = forgiving(vendor_pki, operator_pki, of_vendor=CLOCKLESS)
    device = replace(OldDevice.of(world), message_time=EPOCH)
    sent = [await device.request(BodyType.ir) for _ in range(3)]
    for der in sent:
        await world.post(der)
    timely = await replace(device, message_time=world.clock()).request(BodyType.ir)
    await world.post(timely)
    key = device.credential.certificate.digest
    assert isinstance(world.store, MemoryStore)
    kept = (await world.store.remembered(DeviceRecord.requests, key)).split()
    assert kept == [PKIMessage.from_der(der).digest.hex() for der in (sent[2], timely)]
    world.clock.move(days=2)
    assert await refusal(world, timely) == ("badTime", "R29")


@pytest.mark.requirement(29, 92)
@pytest.mark.parametrize("replays", [False, True])
@pytest.mark.parametrize("broken", ["remember_entry", "create"])
async def test_a_store_that_fails_while_a_request_by_a_wrong_clock_is_taken(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    replays: bool,
) -> None:
    """Its octets are taken once at most, however late they come again; and the device gets its certificate."""
    world = forgiving(
        vendor_pki, operator_pki, of_vendor=CLOCKLESS, upstream={"replays_repeats": replays}
    )
    device = replace(OldDevice.of(world), message_time=EPOCH)
    der = await device.request(BodyType.ir)

    async def fails(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, broken, fails)
        assert await refusal(world, der) == ("systemUnavail", "")
    assert world.ca.received == []
    world.clock.move(seconds=60)
    answer = await world.ask(der)
    if broken == "create":  # it may have been stored for all that is known
        assert fail_names(answer) == ["badTime"]
    else:
        assert answer.body_type is BodyType.ip
        assert fail_names(answer) == []
    issued = len(world.ca.issued)
    for _ in range(2):
        world.clock.move(days=20)
        assert await refusal(world, der) == ("badTime", "R29")
    assert len(world.ca.issued) == issued
    await device.enrol()


@pytest.mark.requirement(29)
async def test_requests_by_a_wrong_clock_that_come_at_once(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """At two nodes: each is remembered, and none is taken again."""
    world = forgiving(vendor_pki, operator_pki, of_vendor=CLOCKLESS)
    other = world.second_gateway()
    device = replace(OldDevice.of(world), message_time=EPOCH)
    sent = [await device.request(BodyType.ir) for _ in range(6)]
    nodes = [world.gateway, other] * 3
    await asyncio.gather(
        *(world.post(der, gateway=node) for der, node in zip(sent, nodes, strict=True))
    )
    world.clock.move(days=20)
    for der in sent:
        assert await refusal(world, der) == ("badTime", "R29")


@pytest.mark.requirement(29, 145)
async def test_repeats_of_one_request_drive_out_no_other(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever recorded one that waits for approval sends it again and again; an older one is still known."""
    monkeypatch.setattr(forgiveness, "REQUESTS_REMEMBERED", 3)
    world = forgiving(vendor_pki, operator_pki, of_vendor=CLOCKLESS)
    device = replace(OldDevice.of(world), message_time=EPOCH)
    old = await device.request(BodyType.ir)
    await world.post(old)
    world.clock.move(days=20)
    endpoint = changed(world.endpoint, approval=Approval.required)
    held = replace(world, endpoint=endpoint, gateway=world.second_gateway(endpoint))
    timely = await replace(device, message_time=world.clock()).request(BodyType.ir)
    for _ in range(4):
        await held.post(timely)
    assert [event.outcome for event in held.events[-4:]] == ["held", *["replayed"] * 3]
    assert await refusal(world, old) == ("badTime", "R29")


@pytest.mark.requirement(29, 145)
async def test_devices_with_one_secret_drive_out_no_request_of_each_other(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    csv_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many have it: the first request is still known after those of all others."""
    monkeypatch.setattr(forgiveness, "REQUESTS_REMEMBERED", 2)
    quirks = MAC_QUIRKS - {Quirk.no_message_time} | {Quirk.wrong_clock}
    world = mac_world(vendor_pki, operator_pki, csv_path, quirks)
    sent = [await mac_ir(world, message_time=EPOCH) for _ in range(4)]
    for der in sent:
        assert (await world.ask(der)).body_type is BodyType.ip
    world.clock.move(days=20)
    for der in sent:
        assert await refusal(world, der) == ("badTime", "R29")


# --- whatever a device sends ----------------------------------------------------------------------------------------


@pytest.mark.requirement(5, 7, 17, 29, 116, 131, 134)
@pytest.mark.parametrize("clock", [None, EPOCH], ids=["no time", "1970"])
async def test_what_a_device_sends_besides_is_forgiven_too(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, clock: datetime | None
) -> None:
    """rr, genm and p10cr under its operator certificate; and pollReq, without any certificate."""
    types = frozenset({BodyType.kur, BodyType.ir, BodyType.rr, BodyType.genm, BodyType.p10cr})
    quirks = ALL if clock is None else CLOCKLESS
    world = forgiving(vendor_pki, operator_pki, of_vendor=quirks, endpoint={"body_types": types})
    device = await replace(OldDevice.of(world), message_time=clock).enrol()
    own = device.credential
    question = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts, None)])
    csr = requests.csr(device.key, requests.SUBJECT)
    revoked = rev_req_body(requests.details(own.certificate))
    for body_der, answered in (
        (question, BodyType.genp),
        (body(BodyType.p10cr, csr), BodyType.cp),
        (revoked, BodyType.rp),
    ):
        der = await protect(device.header(), body_der, own, own.certificates)
        answer = await world.ask(der)
        assert answer.body_type is answered, world.events[-1].detail
        assert world.events[-1].rule == "", world.events[-1].detail


@pytest.mark.requirement(5, 17, 29, 34, 116)
async def test_a_poll_of_a_device_that_renews(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """Its CA is slow: it is told to wait, and polls as it does everything else."""
    world = forgiving(
        vendor_pki, operator_pki, of_vendor=ALL, endpoint={"wait_after_seconds": 0.02}
    )
    device = await OldDevice.of(world).enrol()
    world.ca.gate = asyncio.Event()
    answer = await world.ask(await device.request(BodyType.kur))
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.status_info.status is PKIStatus.waiting
    poll = body(BodyType.pollReq, asn1.tlv(0x30, asn1.tlv(0x30, asn1.encode(355))))
    told = await world.ask(await device.follow(answer, poll))
    assert told.body_type is BodyType.pollRep, world.events[-1].detail
    world.ca.gate.set()
    for _ in range(100):
        answer = await world.ask(await device.follow(told, poll))
        if answer.body_type is BodyType.kup:
            break
        told = answer
    assert (answer.body_type, fail_names(answer)) == (BodyType.kup, [])
    renewed = Certificate.from_der(
        cert_rep_message(answer.body_content).responses[0].certificate_der or b""
    )
    await device.renewing(renewed).enrol(BodyType.kur)
