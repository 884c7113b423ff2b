"""Parsing, version, IDs, nonces, time and body types, at the gateway (R1-R12, R28-R31, R37)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import CertStatus, cert_confirm_body, error_body, nested_body
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.malformed import header_of
from ra_gateway.cmp.messages import (
    ANYONE,
    IMPLICIT_CONFIRM,
    InfoTypeAndValue,
    PKIMessage,
    assemble,
    body,
)
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.quirks import Quirk, Strictness
from ra_gateway.cmp.responder import status_of
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import MalformedMessage
from ra_gateway.ra.settings import ImplicitConfirm, Variant
from tests.support.answers import fail_names
from tests.support.asserts import assert_refused, assert_served, signed_again, unsigned
from tests.support.credentials import cmp_certificate
from tests.support.harness import MakeWorld, World
from tests.support.pki import Credential, VendorPKI

STRICT = HeaderRules(strictness=Strictness.strict)


@pytest.fixture(params=["p256", "rsa2048"])
def device(request: pytest.FixtureRequest, vendor_pki: VendorPKI) -> Credential:
    """A base station with an ECDSA key, and one with an RSA key."""
    return vendor_pki.device("ENB-1", request.param)


async def ir(world: World, device: Credential, **options: Any) -> bytes:
    """A conforming ir of a base station."""
    return await world.enrollment(device, **options).request()


# --- R1: octets -----------------------------------------------------------------------------------------------


async def refuses_to_read(world: World, der: bytes) -> PKIMessage:
    """Send octets that are no PKIMessage and check the answer; returns it."""
    reply = await world.gateway.handle(der, endpoint=world.endpoint.name, peer="192.0.2.7")
    answer = PKIMessage.from_der(reply.der)
    assert fail_names(answer) == ["badDataFormat"]
    # Whose IDs can be read gets them back, and protected (R114).
    readable = header_of(der) is not None
    assert (reply.understood, answer.protection is not None) == (readable, readable)
    assert len(answer.header.transaction_id or b"") == 16
    assert len(answer.header.sender_nonce or b"") == 16
    assert world.ca.received == []
    event = world.events[-1]
    assert (event.outcome, bool(event.rule), bool(event.detail)) == ("refused", True, True)
    assert event.bug is None
    return answer


@pytest.mark.requirement(1, 114)
@pytest.mark.parametrize("length, kept", [(0, False), (1, True), (64, True), (65, False)])
def test_of_octets_that_are_no_message_little_is_repeated(length: int, kept: bool) -> None:
    """IDs that no header may have are none; nor does a sender of any length come back."""
    name = asn1.tlv(0x86, bytes(1020))

    def header(item: bytes, sender: bytes = name) -> bytes:
        tagged = (asn1.tlv(0xA4, item), asn1.tlv(0xA5, asn1.tlv(0x04, b"n")))
        return asn1.tlv(0x30, asn1.tlv(0x30, b"\x02\x01\x02", sender, ANYONE, *tagged))

    octets = b"i" * length
    found = header_of(header(asn1.tlv(0x04, octets)))
    assert found is not None
    assert found.transaction_id == (octets if kept else None)
    assert (found.sender_der, found.sender_nonce) == (name, b"n")
    longer = header_of(header(asn1.tlv(0x04, b"i"), asn1.tlv(0x86, bytes(1021))))
    assert longer is not None
    assert longer.sender_der == ANYONE
    other = header_of(header(asn1.tlv(0x0C, octets)))
    assert other is not None
    assert other.transaction_id is None


def _indefinite(der: bytes) -> bytes:
    """BER: the outer SEQUENCE with indefinite length."""
    return b"\x30\x80" + asn1.content(asn1.element(der)) + b"\x00\x00"


def _long_length(der: bytes) -> bytes:
    """BER: the outer length in one octet more than it needs."""
    content = asn1.content(asn1.element(der))
    return b"\x30\x84" + len(content).to_bytes(4, "big") + content


def _unused_bits(der: bytes) -> bytes:
    """A signature of which one bit is declared unused."""
    message = PKIMessage.from_der(der)
    assert message.protection is not None
    return asn1.tlv(
        0x30,
        message.header_der,
        message.body_der,
        asn1.tlv(0xA0, asn1.tlv(0x03, b"\x01", message.protection[:-1], b"\x00")),
        asn1.tlv(0xA1, asn1.tlv(0x30, *message.extra_certs)),
    )


def _empty_extra_certs(der: bytes) -> bytes:
    message = PKIMessage.from_der(der)
    empty = asn1.tlv(0xA1, asn1.tlv(0x30))
    return asn1.tlv(0x30, message.header_der, message.body_der, empty)


def _empty_general_info(der: bytes) -> bytes:
    message = PKIMessage.from_der(der)
    header = asn1.content(asn1.element(message.header_der)) + asn1.tlv(0xA8, asn1.tlv(0x30))
    return assemble(asn1.tlv(0x30, header), message.body_der, message.protection)


def _body_tag(tag: bytes) -> Callable[[bytes], bytes]:
    def change(der: bytes) -> bytes:
        message = PKIMessage.from_der(der)
        return assemble(message.header_der, tag + message.body_der[1:], message.protection)

    return change


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda der: b"",
    "one octet": lambda der: b"\x30",
    "text": lambda der: b"GET / HTTP/1.1\r\n\r\n",
    "zeros": lambda der: bytes(1000),
    "trailing octet": lambda der: der + b"\x00",
    "message twice": lambda der: der + der,
    "last octet missing": lambda der: der[:-1],
    "half of it": lambda der: der[: len(der) // 2],
    "only the header": lambda der: PKIMessage.from_der(der).header_der,
    "indefinite length": _indefinite,
    "length in too many octets": _long_length,
    "enormous length": lambda der: b"\x30\x88\x7f" + b"\xff" * 7 + der,
    "a SET": lambda der: b"\x31" + der[1:],
    "unused bits in protection": _unused_bits,
    "empty extraCerts": _empty_extra_certs,
    "empty generalInfo": _empty_general_info,
    "body choice 27": _body_tag(b"\xbb"),
    "body tag of two octets": _body_tag(b"\xbf\x1f"),
    "primitive body": _body_tag(b"\x80"),
    "universal body": _body_tag(b"\x30"),
    "depth of a thousand": lambda der: b"\x30\x80" * 1000,
}


@pytest.mark.requirement(1)
@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_octets_that_are_no_pkimessage_get_bad_data_format(
    world: World, change: Callable[[bytes], bytes]
) -> None:
    """What is not one complete DER PKIMessage is answered with badDataFormat and goes nowhere."""
    await refuses_to_read(world, change(await ir(world, world.device())))


@pytest.mark.requirement(1)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(der=st.binary(max_size=200))
@example(der=b"\x30\x00")
async def test_any_octets_are_answered(make_world: MakeWorld, der: bytes) -> None:
    """Random octets never crash the gateway and never reach the CA."""
    await refuses_to_read(make_world(), der)


@pytest.mark.requirement(1)
async def test_every_prefix_of_a_message_is_answered(world: World) -> None:
    """A message cut off anywhere is badDataFormat."""
    der = await ir(world, world.device())
    for length in range(0, len(der), 7):
        await refuses_to_read(world, der[:length])


@pytest.mark.requirement(1)
async def test_a_body_that_does_not_parse_gets_bad_data_format(world: World) -> None:
    """A well-protected ir whose body is no CertReqMessages is refused."""
    device = world.device()
    for content in (b"", b"\x05\x00", b"\x30\x03\x02\x01\x00", b"\x04\x02ab"):
        der = await signed_again(
            await ir(world, device), device, body_der=body(BodyType.ir, content)
        )
        await assert_refused(world, der, "badDataFormat", rule="R1", body_type=BodyType.ip)


# --- R2, R3: version ------------------------------------------------------------------------------------------


@pytest.mark.requirement(2)
@pytest.mark.parametrize("sent, answered", [(1, 2), (0, 2), (-1, 2), (4, 3), (127, 3), (2**40, 3)])
async def test_other_versions_are_unsupported(
    world: World, device: Credential, sent: int, answered: int
) -> None:
    """Too low is answered with the lowest version we speak, too high with the highest."""
    der = await signed_again(await ir(world, device), device, pvno=sent)
    await assert_refused(world, der, "unsupportedVersion", rule="R2", pvno=answered)


@pytest.mark.requirement(3)
@pytest.mark.parametrize("pvno", [2, 3])
async def test_the_answer_has_the_version_of_the_request(
    world: World, device: Credential, pvno: int
) -> None:
    """pvno 2 is answered with 2, and 3 with 3: an ip as well as an error."""
    der = await signed_again(await ir(world, device), device, pvno=pvno)
    assert (await assert_served(world, der)).header.pvno == pvno
    other = await signed_again(await ir(world, device), device, pvno=pvno, sender_nonce=None)
    assert (await assert_refused(world, other, "badSenderNonce")).header.pvno == pvno


# --- R4, R5: transactionID ------------------------------------------------------------------------------------


@pytest.mark.requirement(4)
@pytest.mark.parametrize("transaction_id", [None, b""])
async def test_a_message_without_transaction_id_is_refused(
    make_world: MakeWorld, device: Credential, transaction_id: bytes | None
) -> None:
    """No transactionID, no operation: badDataFormat where RFC 9483 is followed."""
    world = make_world(rules=HeaderRules(strictness=Strictness.three_gpp))
    der = await signed_again(await ir(world, device), device, transaction_id=transaction_id)
    await assert_refused(world, der, "badDataFormat", rule="R4")


@pytest.mark.requirement(5)
@pytest.mark.parametrize("length", [1, 4, 15, 16, 17, 64])
async def test_transaction_ids_of_any_length_are_taken(
    world: World, device: Credential, length: int
) -> None:
    """Base stations send short IDs; each is stored under all of its octets."""
    transaction_id = bytes(range(1, length + 1))
    der = await signed_again(await ir(world, device), device, transaction_id=transaction_id)
    await assert_served(world, der)
    (stored,) = await world.store.find(transaction_id)
    assert stored.key.transaction_id == transaction_id


@pytest.mark.requirement(5)
async def test_ids_that_differ_in_leading_zeros_are_different(world: World) -> None:
    """transactionID is an octet string, not a number."""
    device = world.device()
    for transaction_id in (b"\x01", b"\x00\x01", b"\x01\x00"):
        der = await signed_again(await ir(world, device), device, transaction_id=transaction_id)
        await assert_served(world, der)


@pytest.mark.requirement(5)
async def test_a_strict_endpoint_wants_sixteen_octets(make_world: MakeWorld) -> None:
    """RFC 9483 to the letter refuses a short transactionID, unless the vendor's quirk allows it."""
    world = make_world(rules=STRICT)
    device = world.device()
    der = await signed_again(await ir(world, device), device, transaction_id=bytes(15))
    await assert_refused(world, der, "badDataFormat", rule="R5")
    lenient = make_world(rules=STRICT, vendor_domain={"quirks": frozenset({Quirk.short_ids})})
    await assert_served(lenient, der)


# --- R6-R8: nonces --------------------------------------------------------------------------------------------


@pytest.mark.requirement(6)
@pytest.mark.parametrize("nonce", [None, b"", bytes(1), bytes(15)])
async def test_a_short_sender_nonce_is_refused(
    world: World, device: Credential, nonce: bytes | None
) -> None:
    """A senderNonce has at least 128 bits."""
    der = await signed_again(await ir(world, device), device, sender_nonce=nonce)
    await assert_refused(world, der, "badSenderNonce", rule="R6")


@pytest.mark.requirement(6)
async def test_a_long_sender_nonce_comes_back_whole(world: World, device: Credential) -> None:
    """More than 16 octets are fine, and recipNonce repeats all of them."""
    nonce = bytes(range(40))
    der = await signed_again(await ir(world, device), device, sender_nonce=nonce)
    assert (await assert_served(world, der)).header.recip_nonce == nonce


@pytest.mark.requirement(6)
async def test_the_quirk_for_short_nonces_is_one_vendors_only(
    make_world: MakeWorld, vendor_pki: VendorPKI, foreign_vendor_pki: VendorPKI
) -> None:
    """A vendor with the quirk may send short nonces; its neighbour at the same endpoint may not."""
    anchors = (cmp_certificate(foreign_vendor_pki.root.certificate),)
    quirky = TrustDomain("foreign", DomainKind.vendor, anchors, quirks=frozenset({Quirk.short_ids}))
    world = make_world()
    vendors = (*world.endpoint.vendors, quirky)
    identities = {domain.name: world.endpoint.identities["acme"] for domain in vendors}
    world = make_world(endpoint={"vendors": vendors, "identities": identities})
    strange = foreign_vendor_pki.device("ENB-7")
    der = await signed_again(await ir(world, strange), strange, sender_nonce=b"short")
    await assert_served(world, der)
    usual = vendor_pki.device("ENB-8")
    der = await signed_again(await ir(world, usual), usual, sender_nonce=b"short")
    await assert_refused(world, der, "badSenderNonce", rule="R6")


@pytest.mark.requirement(7)
async def test_recip_nonce_in_a_first_message(make_world: MakeWorld, device: Credential) -> None:
    """It is ignored; a strict endpoint refuses it, unless the vendor's quirk allows it."""
    world = make_world()
    der = await signed_again(await ir(world, device), device, recip_nonce=bytes(16))
    await assert_served(world, der)
    strict = make_world(rules=STRICT)
    await assert_refused(strict, der, "badRecipientNonce", rule="R7")
    quirks = frozenset({Quirk.recip_nonce_in_ir})
    await assert_served(make_world(rules=STRICT, vendor_domain={"quirks": quirks}), der)


async def confirmation(world: World, device: Credential) -> bytes:
    """Enrol as far as the certConf, and return it unsent."""
    enrollment = world.enrollment(device)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    return step.der


@pytest.mark.requirement(8)
@pytest.mark.parametrize("nonce", [None, b"", bytes(16), b"short"])
async def test_a_cert_conf_must_return_the_nonce_of_the_ip(
    world: World, device: Credential, nonce: bytes | None
) -> None:
    """Any other recipNonce is badRecipientNonce; the right certConf still completes afterwards."""
    der = await confirmation(world, device)
    wrong = await signed_again(der, device, recip_nonce=nonce)
    await assert_refused(world, wrong, "badRecipientNonce", rule="R8")
    assert (await world.ask(der)).body_type is BodyType.pkiconf


@pytest.mark.requirement(8, "T39")
async def test_a_cert_conf_needs_a_sender_nonce_of_its_own(
    world: World, device: Credential
) -> None:
    """R6 holds for later messages too."""
    der = await confirmation(world, device)
    await assert_refused(
        world, await signed_again(der, device, sender_nonce=None), "badSenderNonce", rule="R6"
    )


# --- R9-R12: body types and transactions ------------------------------------------------------------------------

_POLL_REQ = bytes.fromhex("30053003020100")
_NOT_SERVED = sorted(
    set(BodyType)
    - {BodyType.ir, BodyType.cr, BodyType.kur, BodyType.certConf, BodyType.error, BodyType.pollReq}
)


@pytest.mark.requirement(9, 10)
@pytest.mark.parametrize("body_type", _NOT_SERVED, ids=lambda kind: kind.name)
async def test_types_that_are_not_served_are_bad_requests(
    world: World, body_type: BodyType
) -> None:
    """Answers sent by a device, announcements, and operations this endpoint does not offer: badRequest."""
    device = world.device()
    der = await ir(world, device)
    content = asn1.content(asn1.element(PKIMessage.from_der(der).body_der))
    sent = nested_body(der) if body_type is BodyType.nested else body(body_type, content)
    await assert_refused(
        world,
        await signed_again(der, device, body_der=sent),
        "badRequest",
        rule="R142" if body_type in RESPONSE_TO else "R9",
    )


@pytest.mark.requirement(9, 142)
async def test_an_endpoint_takes_only_its_own_types(make_world: MakeWorld) -> None:
    """A kur at an endpoint for first enrolment is a badRequest."""
    world = make_world(endpoint={"body_types": frozenset({BodyType.ir})})
    der = await ir(world, world.operator.device(), body_type=BodyType.kur)
    await assert_refused(world, der, "badRequest", rule="R142")


@pytest.mark.requirement(11)
@pytest.mark.parametrize(
    "follower, rule",
    [
        (cert_confirm_body(CertStatus(bytes(32), 0)), "R11"),
        (body(BodyType.pollReq, _POLL_REQ), "R11"),
        (error_body(status_of(MalformedMessage("no"))), "R11"),
    ],
    ids=["certConf", "pollReq", "error"],
)
async def test_followers_of_nothing_are_bad_requests(
    world: World, device: Credential, follower: bytes, rule: str
) -> None:
    """certConf, pollReq and error under a transactionID nobody knows: badRequest."""
    der = await signed_again(
        await ir(world, device), device, body_der=follower, recip_nonce=bytes(16)
    )
    await assert_refused(world, der, "badRequest", rule=rule)


@pytest.mark.requirement(12)
async def test_another_request_under_a_live_id_harms_nothing(
    world: World, device: Credential
) -> None:
    """It gets transactionIdInUse, and the operation it collided with completes."""
    enrollment = world.enrollment(device)
    first = await enrollment.request()
    transaction_id = PKIMessage.from_der(first).header.transaction_id
    step = await enrollment.receive(await world.post(first))
    assert isinstance(step, Send)
    other = await signed_again(await ir(world, device), device, transaction_id=transaction_id)
    await assert_refused(world, other, "transactionIdInUse", rule="R12")
    assert isinstance(await enrollment.receive(await world.post(step.der)), Done)
    await assert_refused(world, other, "transactionIdInUse", rule="R12")


@pytest.mark.requirement(12)
@pytest.mark.parametrize(
    "change",
    [
        {"message_time": None},
        {"sender_nonce": bytes(range(16))},
        {"free_text": ("again",)},
    ],
    ids=["time", "nonce", "text"],
)
async def test_the_same_wish_in_other_octets_is_another_request(
    world: World, change: dict[str, Any]
) -> None:
    """Only a byte-identical repeat is a repeat."""
    device = world.device()
    der = await ir(world, device)
    await assert_served(world, der)
    again = await signed_again(der, device, **change)
    await assert_refused(world, again, "transactionIdInUse", rule="R12")


@pytest.mark.requirement(12)
async def test_two_devices_may_draw_the_same_id(world: World) -> None:
    """The transactionID is looked up together with its signer, so that nobody can occupy another's."""
    first, second = world.device("ENB-1"), world.device("ENB-2")
    one, other = world.enrollment(first), world.enrollment(second)
    transaction_id = PKIMessage.from_der(await one.request()).header.transaction_id
    der = await signed_again(await other.request(), second, transaction_id=transaction_id)
    await assert_served(world, await one.request())
    answer = await world.ask(der)
    assert answer.body_type is BodyType.ip
    assert len(await world.store.find(transaction_id or b"")) == 2


# --- R28-R31: recipient, time, generalInfo ----------------------------------------------------------------------


@pytest.mark.requirement(28, "T37")
@pytest.mark.parametrize(
    "recipient",
    [
        ANYONE,
        directory_name(from_rfc4514("CN=Another CA,O=Somebody")),
        asn1.tlv(0x82, b"ca.example.net"),
        asn1.tlv(0x86, b"https://ca.example.net/"),
    ],
    ids=["NULL-DN", "stranger", "dNSName", "URI"],
)
async def test_any_recipient_will_do(world: World, device: Credential, recipient: bytes) -> None:
    """A message is not refused for the name it is addressed to."""
    der = await signed_again(await ir(world, device), device, recipient_der=recipient)
    await assert_served(world, der)


@pytest.mark.requirement(29)
@pytest.mark.parametrize("seconds", [-300, -299, 0, 299, 300])
async def test_a_time_inside_the_window_is_taken(world: World, seconds: int) -> None:
    """messageTime may differ from our clock by the window, both ends included."""
    device = world.device()
    moment = world.clock() + timedelta(seconds=seconds)
    der = await signed_again(await ir(world, device), device, message_time=moment)
    await assert_served(world, der)


@pytest.mark.requirement(29)
@pytest.mark.parametrize("seconds", [-86400 * 3650, -301, 301, 86400])
async def test_a_time_outside_the_window_is_bad(
    world: World, device: Credential, seconds: int
) -> None:
    """Older or newer than the window is badTime."""
    moment = world.clock() + timedelta(seconds=seconds)
    der = await signed_again(await ir(world, device), device, message_time=moment)
    await assert_refused(world, der, "badTime", rule="R29")


@pytest.mark.requirement(29)
async def test_time_may_be_absent_unless_it_is_demanded(make_world: MakeWorld) -> None:
    """A device without a clock is served, unless the endpoint demands messageTime of its vendor."""
    demanding = HeaderRules(require_message_time=True)
    world = make_world()
    der = await ir(world, world.device(), message_time=False)
    await assert_served(world, der)
    await assert_refused(make_world(rules=demanding), der, "badTime", rule="R29")
    quirks = frozenset({Quirk.no_message_time})
    await assert_served(make_world(rules=demanding, vendor_domain={"quirks": quirks}), der)


@pytest.mark.requirement(29)
async def test_a_cert_conf_from_the_past_is_bad(world: World, device: Credential) -> None:
    """The window holds for certConf as well, and a refused one can be sent again properly."""
    der = await confirmation(world, device)
    moment = world.clock() - timedelta(hours=1)
    old = await signed_again(der, device, message_time=moment)
    await assert_refused(world, old, "badTime", rule="R29")
    assert (await world.ask(der)).body_type is BodyType.pkiconf


UNKNOWN_INFO = (
    InfoTypeAndValue("1.3.6.1.4.1.99999.1", asn1.encode("anything")),
    InfoTypeAndValue("1.3.6.1.4.1.99999.2"),
)


@pytest.mark.requirement(30)
async def test_unknown_general_info_is_ignored_and_passed_on(
    world: World, device: Credential
) -> None:
    """generalInfo and freeText that nobody here knows reach the CA under the RA's protection."""
    der = await signed_again(
        await ir(world, device), device, general_info=UNKNOWN_INFO, free_text=("hello", "Grüß Gott")
    )
    answer = await assert_served(world, der)
    sent = world.ca.messages[0].header
    assert sent.general_info == UNKNOWN_INFO
    assert sent.free_text == ("hello", "Grüß Gott")
    assert not set(UNKNOWN_INFO) & set(answer.header.general_info)


@pytest.mark.requirement(30)
async def test_an_unchanged_kur_keeps_everything(make_world: MakeWorld) -> None:
    """With kur = forward the CA gets the very octets, unknown generalInfo included."""
    world = make_world(upstream={"kur": Variant.forward})
    device = world.operator.device("enb-1.ran.example.net")
    der = await signed_again(
        await ir(world, device, body_type=BodyType.kur),
        device,
        general_info=UNKNOWN_INFO,
        free_text=("hello",),
    )
    await assert_served(world, der)
    assert world.ca.received == [der]


@pytest.mark.requirement(31)
async def test_implicit_confirm_with_a_value(make_world: MakeWorld, device: Credential) -> None:
    """implicitConfirm has the value NULL; another one is a badRequest at a strict endpoint only."""
    odd = replace(IMPLICIT_CONFIRM, value_der=asn1.encode(1))
    world = make_world()
    der = await signed_again(await ir(world, device), device, general_info=(odd,))
    await assert_served(world, der)
    await assert_refused(make_world(rules=STRICT), der, "badRequest", rule="R31")
    granting = {"implicit_confirm": ImplicitConfirm.relay}
    usual = await signed_again(der, device, general_info=(IMPLICIT_CONFIRM,))
    answer = await assert_served(make_world(rules=STRICT, endpoint=granting), usual)
    assert answer.header.info(OID.implicitConfirm) == IMPLICIT_CONFIRM


# --- R37: our nonces --------------------------------------------------------------------------------------------


@pytest.mark.requirement(37)
async def test_our_nonces_never_repeat(world: World) -> None:
    """Every answer has 16 fresh octets, whether it refuses, cannot read, or serves."""
    device = world.device()
    der = await ir(world, device)
    bad = unsigned(der, protection_alg_der=None)
    answers = [await world.ask(octets) for octets in [bad] * 100 + [b"\x30\x00"] * 100 + [der]]
    nonces = {answer.header.sender_nonce for answer in answers}
    assert len(nonces) == len(answers)
    assert {len(nonce or b"") for nonce in nonces} == {16}
    unread = {answer.header.transaction_id for answer in answers[100:200]}
    assert len(unread) == 100
    assert not unread & nonces


@pytest.mark.requirement(37)
async def test_a_repeat_gets_the_stored_octets(world: World, device: Credential) -> None:
    """The one exception: a byte-identical repeat gets the first answer, nonce and all."""
    der = await ir(world, device)
    first = await world.post(der)
    assert await world.post(der) == first
    assert len(world.ca.received) == 1
