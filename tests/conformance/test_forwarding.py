"""What goes up to the CA, and what of its answers comes down (RFC 9483 5.2, TS 33.310 9.5.4.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import load_public_key
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    PKIStatusInfo,
    cert_rep_body,
    cert_rep_message,
    error_body,
    nested_messages,
)
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_messages
from ra_gateway.cmp.device_info import device_info, device_of
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage, body
from ra_gateway.cmp.names import directory_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import Done, Send, operator_trust
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import CaPubs, ImplicitConfirm, SubjectRule, Variant
from tests.support.answers import fail_names, status_of
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Answer, MakeWorld, Script, World, changed
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import (
    CertificateOptions,
    Credential,
    OperatorPKI,
    certificate_der,
    make_key,
    other_operator,
)


def renewal(world: World, **options: Any) -> Enrollment:
    """A kur by a base station that has an operator certificate."""
    old = world.operator.device("enb-1.ran.example.net", san=["dns:enb-1.ran.example.net"])
    return world.enrollment(old, body_type=BodyType.kur, **options)


async def finish(world: World, enrollment: Enrollment) -> Done:
    """Run an operation to its good end."""
    step = await enrollment.receive(await world.post(await enrollment.request()))
    while isinstance(step, Send):
        step = await enrollment.receive(await world.post(step.der))
    return step


async def refused_by_the_ra(world: World, enrollment: Enrollment, name: str) -> PKIMessage:
    """Send a request whose answer must be an RA-signed error, without anything of the CA in it."""
    request = PKIMessage.from_der(await enrollment.request())
    answer = await world.ask(request.der)
    assert answer.body_type is BodyType.error
    assert fail_names(answer) == [name]
    assert answer.header.recip_nonce == request.header.sender_nonce
    assert answer.header.transaction_id == request.header.transaction_id
    signed_by_the_ra(world, answer)
    return answer


def signed_by_the_ra(world: World, answer: PKIMessage) -> None:
    """Check what an operator's device checks: the RA's signature and its path to the root."""
    trust = operator_trust(cmp_certificate(world.operator.root.certificate))
    signer = authenticate_answer(answer, trust, (), HeaderRules(), world.clock()).signer
    assert signer == cmp_certificate(world.operator.ra.certificate)


def body_types(world: World) -> list[BodyType]:
    return [message.body_type for message in world.ca.messages]


# --- up: re-protected -----------------------------------------------------------------------------------------


@pytest.mark.requirement(73, 74)
@pytest.mark.parametrize("san", [(), ("dns:enb-1.ran.example.net", "ip:192.0.2.1")])
async def test_an_ir_goes_up_under_the_ra_and_otherwise_as_it_came(
    world: World, san: tuple[str, ...]
) -> None:
    """The RA is sender and signer; body, transactionID, nonces and POP are the device's."""
    device = world.device()
    enrollment = world.enrollment(device, san=san, cert_profile="eNB")
    sent = PKIMessage.from_der(await enrollment.request())
    await world.post(sent.der)
    (received,) = world.ca.messages
    ra = cmp_certificate(world.operator.ra.certificate)
    assert received.body_der == sent.body_der
    assert received.header.sender_der == directory_name(ra.subject_der)
    assert received.header.sender_kid == ra.subject_key_identifier
    assert received.header.recipient_der == world.endpoint.upstream.recipient_der
    assert received.header.transaction_id == sent.header.transaction_id
    assert received.header.sender_nonce == sent.header.sender_nonce
    assert received.header.recip_nonce is None
    assert received.header.general_info == sent.header.general_info
    assert received.header.pvno == sent.header.pvno
    assert received.header.message_time == world.clock()
    assert received.extra_certs == cmp_credential(world.operator.ra).certificates
    signed_by_the_ra(world, received)


@pytest.mark.requirement(80)
async def test_a_cert_conf_goes_up_under_the_same_credential(world: World) -> None:
    """Its body, certHash included, and its nonces are the device's."""
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    await world.post(step.der)
    sent, received = PKIMessage.from_der(step.der), world.ca.messages[1]
    assert received.body_der == sent.body_der
    assert received.header.transaction_id == sent.header.transaction_id
    assert received.header.sender_nonce == sent.header.sender_nonce
    assert received.header.recip_nonce == sent.header.recip_nonce
    assert received.extra_certs == world.ca.messages[0].extra_certs
    signed_by_the_ra(world, received)


@pytest.mark.requirement(77)
async def test_a_request_that_the_ra_completes_says_ra_verified(make_world: MakeWorld) -> None:
    """A subject set by the RA voids the device's POP, which was verified before."""
    rules = IdentityRules(
        subject=SubjectRule.replace, subject_template="CN={cn}", allowed_subjects=("*",)
    )
    world = make_world(identity=rules)
    await world.post(await world.enrollment(world.device("ENB-7")).request())
    (request,) = cert_req_messages(world.ca.messages[0].body_content)
    assert request.pop == "raVerified"
    assert world.ca.issued[0].subject == "CN=ENB-7"


@pytest.mark.requirement(78)
async def test_a_request_to_be_completed_with_a_bad_pop_stays_here(make_world: MakeWorld) -> None:
    """raVerified is never said of a proof that did not verify."""
    world = make_world(identity=IdentityRules(subject=SubjectRule.replace, subject_template="CN=x"))
    device = world.device()
    sent = PKIMessage.from_der(await world.enrollment(device).request())
    # The last octets of the body are the POP's signature.
    spoilt = sent.body_der[:-1] + bytes([sent.body_der[-1] ^ 1])
    credential = cmp_credential(device)
    der = await protect(sent.header, spoilt, credential, credential.certificates)
    answer = await world.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badPOP"])
    assert world.ca.received == []


@pytest.mark.requirement(79)
async def test_orig_pki_message_holds_the_octets_received(make_world: MakeWorld) -> None:
    """The CA gets the device's own message along, byte for byte, and nothing else changes."""
    world = make_world(upstream={"orig_message": True})
    enrollment = world.enrollment(world.device())
    der = await enrollment.request()
    step = await enrollment.receive(await world.post(der))
    assert isinstance(step, Send)
    await world.post(step.der)
    originals = [message.header.info(OID.origPKIMessage) for message in world.ca.messages]
    assert [item.value_der if item else None for item in originals] == [
        asn1.tlv(0x30, der),
        asn1.tlv(0x30, step.der),
    ]


@pytest.mark.requirement(79)
@pytest.mark.parametrize("orig_message", [False, True])
async def test_an_original_of_the_device_s_choice_does_not_go_up(
    make_world: MakeWorld, orig_message: bool
) -> None:
    """Under the RA's signature it would be the RA's word for what somebody else had sent."""
    world = make_world(upstream={"orig_message": orig_message})
    device = world.device()
    other = await world.enrollment(world.device()).request()
    made = PKIMessage.from_der(await world.enrollment(device).request())
    told = InfoTypeAndValue(OID.origPKIMessage, asn1.tlv(0x30, other))
    header = replace(made.header, general_info=(*made.header.general_info, told))
    credential = cmp_credential(device)
    der = await protect(header, made.body_der, credential, credential.certificates)
    assert (await world.ask(der)).body_type is BodyType.ip
    info = world.ca.messages[0].header.general_info
    values = [item.value_der for item in info if item.info_type == OID.origPKIMessage]
    assert values == ([asn1.tlv(0x30, der)] if orig_message else [])


@pytest.mark.requirement(79)
@pytest.mark.parametrize("told", [False, True])
async def test_whose_a_device_is_the_ra_says_or_nobody(make_world: MakeWorld, told: bool) -> None:
    """A CA that is to know gets vendor and identity from the RA; what the device writes there does not go up."""
    world = make_world(upstream={"device_info": told})
    device = world.device()
    made = PKIMessage.from_der(await world.enrollment(device).request())
    header = replace(made.header, general_info=device_info("other", "SN-666"))
    credential = cmp_credential(device)
    der = await protect(header, made.body_der, credential, credential.certificates)
    assert (await world.ask(der)).body_type is BodyType.ip
    info = world.ca.messages[0].header.general_info
    vendor, identity = device_of(info)
    assert (vendor == "acme", identity != "") == (told, told)
    assert identity != "SN-666"
    assert len([item for item in info if item.info_type == OID.utf8Pairs]) == told


@pytest.mark.requirement(30, 82)
async def test_general_info_goes_up_with_what_is_unknown_in_it(make_world: MakeWorld) -> None:
    """An endpoint that relays grants leaves generalInfo and freeText alone."""
    world = make_world(endpoint={"implicit_confirm": ImplicitConfirm.relay})
    device = world.device()
    made = PKIMessage.from_der(await world.enrollment(device, implicit_confirm=True).request())
    header = replace(
        made.header,
        free_text=("Grüße",),
        general_info=(
            *made.header.general_info,
            InfoTypeAndValue("1.3.6.1.4.1.99999.1"),
            InfoTypeAndValue("1.3.6.1.4.1.99999.2", b"\x04\x01x"),
        ),
    )
    credential = cmp_credential(device)
    await world.post(await protect(header, made.body_der, credential, credential.certificates))
    (received,) = world.ca.messages
    assert received.header.general_info == header.general_info
    assert received.header.free_text == header.free_text


@pytest.mark.requirement(82, 98, 143)
async def test_an_endpoint_that_denies_implicit_confirm_does_not_ask_for_it(world: World) -> None:
    """The wish is taken out on the way up, so that the CA awaits the certConf that will come."""
    enrollment = world.enrollment(world.device(), implicit_confirm=True, cert_profile="eNB")
    answer = await world.ask(await enrollment.request())
    (received,) = world.ca.messages
    assert [item.info_type for item in received.header.general_info] == [OID.certProfile]
    assert [item.info_type for item in answer.header.general_info] == [OID.confirmWaitTime]


@pytest.mark.requirement(82, 99, 143)
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("granted", [True, False])
async def test_implicit_confirm_is_granted_if_asked_for_and_granted_by_the_ca(
    make_world: MakeWorld, asked: bool, granted: bool
) -> None:
    """A relaying endpoint grants exactly then; else it awaits certConf."""
    world = make_world(endpoint={"implicit_confirm": ImplicitConfirm.relay})

    def script(answer: Answer) -> None:
        info = (InfoTypeAndValue(OID.implicitConfirm, b"\x05\x00"),) if granted else ()
        answer.header = replace(answer.header, general_info=info)

    world.ca.script = script
    answer = await world.ask(
        await world.enrollment(world.device(), implicit_confirm=asked).request()
    )
    assert [item.info_type for item in answer.header.general_info] == [
        OID.implicitConfirm if asked and granted else OID.confirmWaitTime
    ]


# --- up: kur --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(75, 81, 144)
async def test_a_kur_to_be_reprotected_is_signed_by_the_ra(world: World) -> None:
    """As an ir: the body untouched, the RA's signature, and certConf the same way."""
    enrollment = renewal(world)
    sent = PKIMessage.from_der(await enrollment.request())
    await finish(world, enrollment)
    kur, cert_conf = world.ca.messages
    assert (kur.body_type, kur.body_der) == (BodyType.kur, sent.body_der)
    assert cert_conf.body_type is BodyType.certConf
    for message in (kur, cert_conf):
        signed_by_the_ra(world, message)


@pytest.mark.requirement(75, 76, 81, 144)
async def test_a_kur_to_be_nested_is_wrapped_whole(make_world: MakeWorld) -> None:
    """One member, the device's octets; transactionID and nonces of both levels are equal."""
    world = make_world(upstream={"kur": Variant.nested})
    enrollment = renewal(world)
    await finish(world, enrollment)
    sent = [item.der for item in enrollment.trace if item.direction == "sent"]
    assert body_types(world) == [BodyType.nested, BodyType.nested]
    for outer, inner_der in zip(world.ca.messages, sent, strict=True):
        inner = PKIMessage.from_der(inner_der)
        assert nested_messages(outer.body_content) == (inner_der,)
        assert outer.header.transaction_id == inner.header.transaction_id
        assert outer.header.sender_nonce == inner.header.sender_nonce
        assert outer.header.recip_nonce == inner.header.recip_nonce
        signed_by_the_ra(world, outer)


@pytest.mark.requirement(75, 81, 144)
async def test_a_kur_to_be_forwarded_goes_up_octet_for_octet(make_world: MakeWorld) -> None:
    """Header, body, protection and extraCerts, of the kur and of its certConf."""
    world = make_world(upstream={"kur": Variant.forward})
    enrollment = renewal(world)
    await finish(world, enrollment)
    assert world.ca.received == [item.der for item in enrollment.trace if item.direction == "sent"]


@pytest.mark.requirement(81)
async def test_a_cert_conf_keeps_to_the_way_its_kur_went(make_world: MakeWorld) -> None:
    """A node that was configured anew meanwhile still follows what the transaction says."""
    world = make_world(upstream={"kur": Variant.nested})
    enrollment = renewal(world)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    upstream = changed(world.endpoint.upstream, kur=Variant.reprotect)
    node = world.second_gateway(replace(world.endpoint, upstream=upstream))
    await world.post(step.der, gateway=node)
    assert body_types(world) == [BodyType.nested, BodyType.nested]


@pytest.mark.requirement(75, 143)
@pytest.mark.parametrize("variant", [Variant.nested, Variant.forward])
async def test_a_grant_for_a_kur_that_could_not_be_changed_ends_here(
    make_world: MakeWorld, variant: Variant
) -> None:
    """The CA granted implicitConfirm and awaits nothing, so the RA answers the device's certConf."""
    world = make_world(upstream={"kur": variant})
    enrollment = renewal(world, implicit_confirm=True)
    done = await finish(world, enrollment)
    assert done.confirmed_implicitly is False
    assert len(world.ca.received) == 1


@pytest.mark.requirement(75)
@pytest.mark.parametrize("variant", [Variant.nested, Variant.forward])
async def test_a_kur_that_must_stay_as_it_is_may_leave_out_its_subject(
    make_world: MakeWorld, variant: Variant
) -> None:
    """The RA completes nothing then; what the CA makes of it must be the old identity."""
    world = make_world(upstream={"kur": variant})
    old = world.operator.device("enb-1.ran.example.net")
    name = cmp_certificate(old.certificate).subject
    key: Any = make_key("p256")
    issued = cmp_certificate(world.operator.issuing.sign(name, key.public_key()))

    def script(answer: Answer) -> None:
        if answer.request.body_type is BodyType.kur:
            answer.set_response(certificate_der=issued.der)

    world.ca.script = script
    enrollment = world.enrollment(old, body_type=BodyType.kur, new_key=key)
    assert (await finish(world, enrollment)).certificate == issued


@pytest.mark.requirement(36, 75)
@pytest.mark.parametrize("variant", list(Variant))
async def test_no_kur_goes_up_before_the_checks_passed(
    make_world: MakeWorld, variant: Variant
) -> None:
    """An expired operator certificate renews nothing, whichever way kur goes up."""
    world = make_world(upstream={"kur": variant})
    old = world.operator.device("enb-1.ran.example.net", not_after=datetime(2026, 1, 1, tzinfo=UTC))
    answer = await world.ask(await world.enrollment(old, body_type=BodyType.kur).request())
    assert fail_names(answer) == ["signerNotTrusted"]
    assert world.ca.received == []


@pytest.mark.requirement(73)
async def test_the_vendor_certificate_never_goes_up(world: World) -> None:
    """Neither ir nor certConf carries a certificate of the vendor's."""
    device = world.device()
    await finish(world, world.enrollment(device))
    vendors = {device.der, *(certificate_der(item) for item in device.chain)}
    for message in world.ca.messages:
        assert vendors.isdisjoint(message.extra_certs)
        assert device.der not in message.der


# --- down: what is relayed ------------------------------------------------------------------------------------


@pytest.mark.requirement(88, 96)
async def test_an_ip_comes_down_under_the_ra_with_the_ca_s_body(world: World) -> None:
    """Status, certificate, nonces and transactionID are the CA's; sender and signer are the RA."""
    bodies: list[bytes] = []
    nonces: list[bytes | None] = []

    def script(answer: Answer) -> None:
        accepted = PKIStatusInfo(PKIStatus.grantedWithMods, ("as you wished, nearly",))
        answer.set_response(status_info=accepted)
        bodies.append(answer.body_der)
        nonces.append(answer.header.sender_nonce)

    world.ca.script = script
    request = PKIMessage.from_der(await world.enrollment(world.device()).request())
    answer = await world.ask(request.der)
    assert answer.body_type is BodyType.ip
    assert [answer.body_der] == bodies
    assert [answer.header.sender_nonce] == nonces
    assert answer.header.recip_nonce == request.header.sender_nonce
    assert answer.header.transaction_id == request.header.transaction_id
    assert answer.header.recipient_der == request.header.sender_der
    ra = cmp_certificate(world.operator.ra.certificate)
    assert answer.header.sender_der == directory_name(ra.subject_der)
    assert answer.header.sender_kid == ra.subject_key_identifier
    signed_by_the_ra(world, answer)


@pytest.mark.requirement(97, 140)
async def test_an_ip_brings_every_certificate_a_base_station_needs_once(world: World) -> None:
    """The RA's first, then its chain, which is the issuing chain too, then the operator's root."""
    answer = await world.ask(await world.enrollment(world.device()).request())
    operator = world.operator
    assert list(answer.extra_certs) == [
        certificate_der(operator.ra.certificate),
        operator.issuing.der,
        operator.root.der,
    ]


@pytest.mark.requirement(140)
async def test_an_ip_brings_the_root_when_only_the_issuing_ca_is_configured(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """Naming the CA that may issue narrows what is accepted, not what a base station is given."""
    issuing = TrustDomain(
        "issuing", DomainKind.operator, (cmp_certificate(operator_pki.issuing.certificate),)
    )
    world = make_world(upstream={"issuing": issuing}, endpoint={"ca_pubs": CaPubs.root})
    answer = await world.ask(await world.enrollment(world.device()).request())
    assert operator_pki.root.der in answer.extra_certs
    assert cert_rep_message(answer.body_content).ca_pubs == (operator_pki.root.der,)


@pytest.mark.requirement(89, 96)
@pytest.mark.parametrize("fail_info", [(), ("badCertTemplate",), ("badRequest", "badCertId")])
async def test_a_rejection_comes_down_with_its_fail_info(
    world: World, fail_info: Sequence[str]
) -> None:
    """In an ip, without certificate, confirmWaitTime or operator root."""
    bits = [PKIFailureInfo[name] for name in fail_info]
    world.ca.script = lambda answer: answer.reject(*bits, text="not today")
    answer = await world.ask(await world.enrollment(world.device()).request())
    assert answer.body_type is BodyType.ip
    assert status_of(answer) == PKIStatusInfo(PKIStatus.rejection, ("not today",), tuple(bits))
    assert cert_rep_message(answer.body_content).responses[0].certificate_der is None
    assert answer.header.general_info == ()
    assert world.operator.root.der not in answer.extra_certs
    signed_by_the_ra(world, answer)


@pytest.mark.requirement(93)
@pytest.mark.parametrize("ca_pubs", list(CaPubs))
async def test_ca_pubs_of_an_ip_follow_the_endpoint(make_world: MakeWorld, ca_pubs: CaPubs) -> None:
    """Dropped, relayed, or the operator's root, whatever the CA sent."""
    world = make_world(endpoint={"ca_pubs": ca_pubs})
    sent = (world.operator.issuing.der,)
    world.ca.script = lambda answer: answer.set_content(replace(answer.content, ca_pubs=sent))
    answer = await world.ask(await world.enrollment(world.device()).request())
    expected = {CaPubs.drop: (), CaPubs.relay: sent, CaPubs.root: (world.operator.root.der,)}
    assert cert_rep_message(answer.body_content).ca_pubs == expected[ca_pubs]
    signed_by_the_ra(world, answer)


@pytest.mark.requirement(93)
@pytest.mark.parametrize("ca_pubs", list(CaPubs))
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
async def test_ca_pubs_never_come_in_cp_or_kup(
    make_world: MakeWorld, ca_pubs: CaPubs, body_type: BodyType
) -> None:
    """A device that has an operator certificate takes no roots from here."""
    world = make_world(endpoint={"ca_pubs": ca_pubs})

    def script(answer: Answer) -> None:
        answer.set_content(replace(answer.content, ca_pubs=(world.operator.root.der,)))

    world.ca.script = script
    old = world.operator.device("enb-1.ran.example.net")
    subject = cmp_certificate(old.certificate).subject
    enrollment = world.enrollment(old, body_type=body_type, subject=subject)
    answer = await world.ask(await enrollment.request())
    content = cert_rep_message(answer.body_content)
    assert content.responses[0].status_info.issued
    assert content.ca_pubs == ()


# --- down: what is not relayed --------------------------------------------------------------------------------


def _header(**changes: Any) -> Script:
    def script(answer: Answer) -> None:
        answer.header = replace(answer.header, **changes)

    return script


def _unprotected(answer: Answer) -> None:
    answer.protected = False


def _broken_signature(answer: Answer) -> None:
    # Another key under the right name and certificate.
    other = cmp_credential(other_operator().cmp_signer)
    answer.credential = replace(answer.credential, signer=other.signer)


def _foreign_ca(answer: Answer) -> None:
    foreign = other_operator()
    answer.credential = cmp_credential(foreign.cmp_signer)
    answer.extra_certs = (*answer.credential.certificates, foreign.root.der)


def _other_body(answer: Answer) -> None:
    answer.body_der = cert_rep_body(BodyType.cp, answer.content)


def _pkiconf(answer: Answer) -> None:
    answer.body_der = PKICONF_BODY


def _no_response(answer: Answer) -> None:
    answer.set_content(replace(answer.content, responses=()))


def _two_responses(answer: Answer) -> None:
    (response,) = answer.content.responses
    answer.set_content(replace(answer.content, responses=(response, response)))


def _other_cert_req_id(answer: Answer) -> None:
    answer.set_response(cert_req_id=1)


def _no_certificate(answer: Answer) -> None:
    answer.set_response(certificate_der=None)


def _accepted_with_fail_info(answer: Answer) -> None:
    info = PKIStatusInfo(PKIStatus.accepted, (), (PKIFailureInfo.badRequest,))
    answer.set_response(status_info=info)


def _rejection_with_certificate(answer: Answer) -> None:
    info = PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.badRequest,))
    answer.set_response(status_info=info)


def _rejection_with_encrypted_certificate(answer: Answer) -> None:
    _encrypted_certificate(answer)
    answer.body_der = answer.body_der.replace(
        asn1.tlv(0x30, b"\x02\x01\x00"), asn1.tlv(0x30, b"\x02\x01\x02")
    )


def _waiting_with_certificate(answer: Answer) -> None:
    answer.set_response(status_info=PKIStatusInfo(PKIStatus.waiting))


def _revocation_warning(answer: Answer) -> None:
    answer.set_response(status_info=PKIStatusInfo(PKIStatus.revocationWarning))


def _certified_pair(pair: bytes) -> bytes:
    status = asn1.tlv(0x30, b"\x02\x01\x00")
    response = asn1.tlv(0x30, b"\x02\x01\x00", status, pair)
    return body(BodyType.ip, asn1.tlv(0x30, asn1.tlv(0x30, response)))


def _encrypted_certificate(answer: Answer) -> None:
    enveloped = asn1.tlv(0xA0, b"\x02\x01\x02")
    answer.body_der = _certified_pair(asn1.tlv(0x30, asn1.tlv(0xA1, enveloped)))


def _with_private_key(answer: Answer) -> None:
    der = answer.content.responses[0].certificate_der or b""
    enveloped = asn1.tlv(0xA0, b"\x02\x01\x02")
    answer.body_der = _certified_pair(
        asn1.tlv(0x30, asn1.tlv(0xA0, der), asn1.tlv(0xA0, enveloped))
    )


def _not_a_certificate(answer: Answer) -> None:
    answer.set_response(certificate_der=b"\x30\x03\x02\x01\x00")


def _octets(octets: bytes) -> Script:
    def script(answer: Answer) -> None:
        answer.octets = octets

    return script


def _cut_short(answer: Answer) -> None:
    answer.octets = b"\x30\x82\x10\x00" + answer.body_der


def _broken_body(answer: Answer) -> None:
    answer.body_der = body(BodyType.ip, b"\x30\x03\x02\x01\x00")


def _no_nonce(answer: Answer) -> None:
    answer.header = replace(answer.header, sender_nonce=None)


def _twice(info_type: str, value_der: bytes | None) -> Script:
    def script(answer: Answer) -> None:
        entry = InfoTypeAndValue(info_type, value_der)
        kept = [item for item in answer.header.general_info if item.info_type != info_type]
        answer.header = replace(answer.header, general_info=(*kept, entry, entry))

    return script


BROKEN_ANSWERS: dict[str, tuple[Script, str]] = {
    "another transactionID": (_header(transaction_id=bytes(16)), "R83"),
    "no transactionID": (_header(transaction_id=None), "R83"),
    "another recipNonce": (_header(recip_nonce=bytes(16)), "R83"),
    "no recipNonce": (_header(recip_nonce=None), "R83"),
    "no senderNonce": (_no_nonce, "R83"),
    "implicitConfirm twice": (_twice(OID.implicitConfirm, b"\x05\x00"), "RFC 9483 3.1"),
    "an unknown infoType twice": (_twice("1.3.6.1.4.1.99999.1", None), "RFC 9483 3.1"),
    "no protection": (_unprotected, "R84"),
    "a broken signature": (_broken_signature, "R84"),
    "a foreign CA": (_foreign_ca, "R84"),
    "cp for ip": (_other_body, "R85"),
    "pkiConf for ip": (_pkiconf, "R85"),
    "no CertResponse": (_no_response, "R85"),
    "two CertResponses": (_two_responses, "R85"),
    "another certReqId": (_other_cert_req_id, "R85"),
    "waiting with certificate": (_waiting_with_certificate, "R116"),
    "revocationWarning": (_revocation_warning, "R85"),
    "accepted without certificate": (_no_certificate, "R96"),
    "accepted with failInfo": (_accepted_with_fail_info, "R96"),
    "rejection with certificate": (_rejection_with_certificate, "R96"),
    "rejection with encryptedCert": (_rejection_with_encrypted_certificate, "R96"),
    "encryptedCert": (_encrypted_certificate, "R96"),
    "a private key": (_with_private_key, "R96"),
    "no X.509": (_not_a_certificate, "R87"),
    "a broken body": (_broken_body, "R1"),
    "no octets": (_octets(b""), "R84"),
    "text": (_octets(b"<html>502 Bad Gateway</html>"), "R84"),
    "a cut message": (_cut_short, "R84"),
}


@pytest.mark.requirement(83, 84, 85, 87, 92, 96, "T45")
@pytest.mark.parametrize("case", BROKEN_ANSWERS)
async def test_a_broken_answer_is_not_relayed(world: World, case: str) -> None:
    """The device is told that we failed, not what the CA said; its repeat hears the same; nothing goes up."""
    world.ca.script, rule = BROKEN_ANSWERS[case]
    enrollment = world.enrollment(world.device())
    answer = await refused_by_the_ra(world, enrollment, "systemFailure")
    assert status_of(answer).status_string == (UpstreamBroken.phrase,)
    assert world.events[-1].outcome == "failed"
    assert world.events[-1].rule == rule
    assert await world.post(await enrollment.request()) == answer.der
    assert body_types(world) == [BodyType.ir]


def _certificate(**options: Any) -> Callable[[World], Script]:
    """Make an issuer of certificates that differ from what was asked for in one thing."""

    def make(world: World) -> Script:
        def script(answer: Answer) -> None:
            asked = cert_req_messages(answer.request.body_content)[0].template
            key: Any = load_public_key(asked.spki_der or b"")
            issuer = options.get("issuer", world.operator).issuing
            subject = options.get("subject", "CN=enb-1.ran.example.net")
            usual: CertificateOptions = {"san": ["dns:enb-1.ran.example.net"]}
            issued = issuer.sign(
                subject, options.get("key", key), **{**usual, **options.get("fields", {})}
            )
            answer.set_response(certificate_der=certificate_der(issued))

        return script

    return make


_BEFORE = datetime(2026, 1, 2, 3, 4, 4, tzinfo=UTC)
_LATER = datetime(2026, 1, 2, 3, 14, 5, tzinfo=UTC)

WRONG_CERTIFICATES: dict[str, tuple[Callable[[World], Script], str]] = {
    "another key": (_certificate(key=make_key("p256").public_key()), "R86"),
    "a foreign issuer": (_certificate(issuer=other_operator()), "R87"),
    "a CA": (
        _certificate(fields={"basic_constraints": x509.BasicConstraints(True, None)}),
        "R87",
    ),
    "expired": (_certificate(fields={"not_after": _BEFORE}), "R87"),
    "not yet valid": (_certificate(fields={"not_before": _LATER}), "R87"),
    "another subject": (_certificate(subject="CN=enb-2.ran.example.net"), "R88"),
    "a longer subject": (_certificate(subject="CN=enb-1.ran.example.net,O=x"), "R88"),
    "no subjectAltName": (_certificate(fields={"san": []}), "R88"),
    "another subjectAltName": (_certificate(fields={"san": ["dns:enb-2.example.net"]}), "R88"),
}


async def test_a_ca_whose_clock_is_a_little_ahead_is_believed(world: World) -> None:
    """A certificate that begins within the next minutes is relayed, not wasted."""
    begins = world.clock() + timedelta(minutes=2)
    world.ca.script = _certificate(fields={"not_before": begins})(world)
    answer = await world.ask(await world.enrollment(world.device()).request())
    assert status_of(answer).issued


@pytest.mark.requirement(86, 87, 88)
@pytest.mark.parametrize("case", WRONG_CERTIFICATES)
async def test_a_certificate_that_was_not_asked_for_is_not_relayed(world: World, case: str) -> None:
    """Key, issuer, validity, subject and names must be those of the request."""
    make, rule = WRONG_CERTIFICATES[case]
    world.ca.script = make(world)
    enrollment = world.enrollment(world.device(), san=("dns:enb-1.ran.example.net",))
    await refused_by_the_ra(world, enrollment, "systemFailure")
    assert world.events[-1].rule == rule
    assert body_types(world) == [BodyType.ir]


@pytest.mark.requirement(88)
async def test_a_certificate_with_more_names_and_another_spelling_is_relayed(world: World) -> None:
    """A CA may add names, and encode the subject its own way; case does not matter in either."""
    world.ca.script = _certificate(
        subject="CN=ENB-1.RAN.example.net",
        fields={"san": ["ip:192.0.2.1", "dns:ENB-1.ran.example.net"]},
    )(world)
    enrollment = world.enrollment(world.device(), san=("dns:enb-1.ran.example.net",))
    answer = await world.ask(await enrollment.request())
    assert status_of(answer).status is PKIStatus.accepted


@pytest.mark.requirement(84)
async def test_a_base_station_cannot_answer_for_the_ca(world: World) -> None:
    """A device's operator certificate chains to the operator's root, and still is not the CA's."""
    insider = cmp_credential(world.operator.device("enb-666.ran.example.net"))

    def script(answer: Answer) -> None:
        answer.credential = insider
        answer.extra_certs = insider.certificates
        answer.reject(PKIFailureInfo.badRequest)

    world.ca.script = script
    await refused_by_the_ra(world, world.enrollment(world.device()), "systemFailure")
    assert world.events[-1].rule == "R84"


@pytest.mark.requirement(84)
async def test_a_ca_that_signs_with_its_certificate_key_can_be_pinned(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """Such a CA's certificate has no digitalSignature and often comes without a chain (EJBCA)."""
    issuing = operator_pki.issuing
    credential = cmp_credential(Credential(issuing.certificate, issuing.private_key, ()))
    nobody = TrustDomain("none", DomainKind.operator, ())
    world = make_world(upstream={"pinned": (credential.certificate,), "trust": nobody})

    def script(answer: Answer) -> None:
        answer.credential, answer.extra_certs = credential, ()

    world.ca.script = script
    await finish(world, world.enrollment(world.device()))
    assert [event.outcome for event in world.events] == ["issued", "confirmed"]


# --- down: errors of the CA -----------------------------------------------------------------------------------


def _error(*bits: PKIFailureInfo, protected: bool = True) -> Script:
    def script(answer: Answer) -> None:
        text = ("ORA-00942: table or view does not exist",)
        answer.body_der = error_body(PKIStatusInfo(PKIStatus.rejection, text, bits))
        answer.protected = protected

    return script


@pytest.mark.requirement(84, 85, 92)
@pytest.mark.parametrize("protected", [True, False])
@pytest.mark.parametrize(
    "bits, expected",
    [
        ((), "systemFailure"),
        ((PKIFailureInfo.systemUnavail,), "systemUnavail"),
        ((PKIFailureInfo.systemFailure,), "systemFailure"),
        ((PKIFailureInfo.notAuthorized,), "systemFailure"),
        ((PKIFailureInfo.transactionIdInUse,), "systemFailure"),
    ],
)
async def test_an_error_of_the_ca_is_our_failure_not_the_device_s(
    world: World, bits: tuple[PKIFailureInfo, ...], expected: str, protected: bool
) -> None:
    """Its text is for the log; the device is told whether it is worth trying again."""
    world.ca.script = _error(*bits, protected=protected)
    answer = await refused_by_the_ra(world, world.enrollment(world.device()), expected)
    assert b"ORA-00942" not in answer.der
    assert "ORA-00942" in world.events[-1].detail
    assert body_types(world) == [BodyType.ir]


@pytest.mark.requirement(84)
async def test_an_unprotected_rejection_is_not_believed(world: World) -> None:
    """Anybody on the line could have sent it: the device hears of a failure, not of a rejection."""

    def script(answer: Answer) -> None:
        answer.reject(PKIFailureInfo.badCertTemplate)
        answer.protected = False

    world.ca.script = script
    await refused_by_the_ra(world, world.enrollment(world.device()), "systemFailure")


@pytest.mark.requirement(84)
async def test_an_unprotected_error_never_opens_anything(world: World) -> None:
    """An error with status accepted is a failure like any other."""

    def script(answer: Answer) -> None:
        answer.body_der = error_body(PKIStatusInfo(PKIStatus.accepted))
        answer.protected = False

    world.ca.script = script
    await refused_by_the_ra(world, world.enrollment(world.device()), "systemFailure")


@pytest.mark.requirement(84)
async def test_an_error_that_does_not_parse_is_a_failure(world: World) -> None:
    """The content of error is checked no less than any other."""

    def script(answer: Answer) -> None:
        answer.body_der = body(BodyType.error, b"\x30\x00")

    world.ca.script = script
    await refused_by_the_ra(world, world.enrollment(world.device()), "systemFailure")


# --- no answer ------------------------------------------------------------------------------------------------


@pytest.mark.requirement(90, 92)
@pytest.mark.parametrize("replays", [True, False])
async def test_a_ca_that_cannot_be_reached_is_tried_again_by_the_device_s_repeat(
    make_world: MakeWorld, replays: bool
) -> None:
    """Nothing was delivered: the very same message goes up again, at once."""
    world = make_world(upstream={"replays_repeats": replays})
    world.ca.failure = UpstreamUnavailable("connection refused", delivered=False)
    world.ca.failures = 1
    enrollment = world.enrollment(world.device())
    await refused_by_the_ra(world, enrollment, "systemUnavail")
    done = await finish(world, enrollment)
    assert [done.certificate] == world.ca.issued
    assert world.ca.received[0] == world.ca.received[1]
    assert body_types(world) == [BodyType.ir, BodyType.ir, BodyType.certConf]


@pytest.mark.requirement(90, 92)
async def test_a_lost_answer_is_asked_for_again_where_the_ca_replays(make_world: MakeWorld) -> None:
    """The CA issued, its answer was lost, and the repeat gets that same certificate."""
    world = make_world(upstream={"replays_repeats": True})
    world.ca.replays = world.ca.failure_loses_answer = True
    world.ca.failure = UpstreamUnavailable("no answer in 15 s", delivered=True)
    world.ca.failures = 1
    enrollment = world.enrollment(world.device())
    await refused_by_the_ra(world, enrollment, "systemUnavail")
    done = await finish(world, enrollment)
    assert [done.certificate] == world.ca.issued


@pytest.mark.requirement(90, 92)
async def test_a_lost_answer_is_final_where_the_ca_would_issue_again(world: World) -> None:
    """The repeat gets the same error, and the CA is not asked a second time."""
    world.ca.failure_loses_answer = True
    world.ca.failure = UpstreamUnavailable("no answer in 15 s", delivered=True)
    world.ca.failures = 1
    enrollment = world.enrollment(world.device())
    answer = await refused_by_the_ra(world, enrollment, "systemUnavail")
    world.clock.move(seconds=60)
    assert await world.post(await enrollment.request()) == answer.der
    assert body_types(world) == [BodyType.ir]
    assert len(world.ca.issued) == 1


@pytest.mark.requirement(90)
async def test_an_unreachable_ca_stays_retryable_however_often_it_fails(
    make_world: MakeWorld,
) -> None:
    """Ten refused connections, ten errors, then a certificate; one transaction all the while."""
    world = make_world()
    world.ca.failure = UpstreamUnavailable("connection refused", delivered=False)
    world.ca.failures = 10
    enrollment = world.enrollment(world.device())
    for _ in range(10):
        await refused_by_the_ra(world, enrollment, "systemUnavail")
        world.clock.move(seconds=60)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    assert len(world.ca.issued) == 1


@pytest.mark.requirement(90)
async def test_an_answer_that_is_not_cmp_over_the_transport_is_a_failure(world: World) -> None:
    """What the adapter calls broken is final: the CA may have issued."""
    world.ca.failure, world.ca.failures = UpstreamBroken("HTTP 500 text/html", rule="R91"), 1
    enrollment = world.enrollment(world.device())
    answer = await refused_by_the_ra(world, enrollment, "systemFailure")
    assert world.events[-1].rule == "R91"
    assert await world.post(await enrollment.request()) == answer.der
    assert len(world.ca.received) == 1


@pytest.mark.requirement(90)
async def test_a_repeat_does_not_wait_longer_than_the_deadline(make_world: MakeWorld) -> None:
    """While the first is in flight, a repeat is told in time that the CA is still being asked."""
    world = make_world(upstream={"deadline_seconds": 0.05})
    world.ca.gate = asyncio.Event()
    enrollment = world.enrollment(world.device())
    first = asyncio.create_task(world.post(await enrollment.request()))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await refused_by_the_ra(world, enrollment, "systemUnavail")
    world.ca.gate.set()
    step = await enrollment.receive(await first)
    assert isinstance(step, Send)
    assert len(world.ca.received) == 1
