"""What each key of a dialect does on the wire, and how far the oddities of real CAs are borne."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, OID, BodyType
from ra_gateway.cmp.messages import (
    CMP2000,
    CMP2021,
    InfoTypeAndValue,
    PKIMessage,
    cert_rep_message,
    cert_req_messages,
    certification_request,
    gen_msg_body,
    nested_messages,
)
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.verification import HeaderRules, Strictness
from ra_gateway.device.enrollment import Done, Enrollment, EnrollmentRefused, Send
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.ra.policy import IdentityRules, SubjectRule
from ra_gateway.ra.routes import POP, CertConf, ImplicitConfirm, Oddity, Unconfirmed, Variant
from tests.support import requests
from tests.support.harness import (
    Answer,
    World,
    cmp_certificate,
    cmp_credential,
    fail_names,
    follow,
    status_of,
)
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.polling import EVERY_TYPE, REQUESTS, Operation, SayingWait

MakeWorld = Callable[..., World]

SHORT = {"transaction_id": b"\x00\x00\x00\x07", "sender_nonce": b"\x01\x02\x03\x04"}
"""As a real base station has them: four octets each."""


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    def make(endpoint: dict[str, Any] | None = None, **upstream: Any) -> World:
        fields = {"body_types": EVERY_TYPE, **(endpoint or {})}
        options = {key: upstream.pop(key) for key in ("rules", "vendor_domain", "identity", "ca") if key in upstream}
        return World.make(vendor_pki, operator_pki, endpoint=fields, upstream=upstream, **options)

    return make


def asked(message: PKIMessage) -> Any:
    """The one request in an ir, cr, kur or p10cr, also inside nested."""
    if message.body_type is BodyType.nested:
        message = PKIMessage.from_der(nested_messages(message.body_content)[0])
    if message.body_type is BodyType.p10cr:
        return certification_request(message.body_content)
    return cert_req_messages(message.body_content)[0]


# --- kur_names_issuer -----------------------------------------------------------------------------------------


@pytest.mark.requirement(75, 77)
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("subject", [True, False])
async def test_a_kur_names_the_issuer_where_the_ca_needs_it(
    make_world: MakeWorld, named: bool, subject: bool
) -> None:
    """Subject and issuer of the old certificate are in the template, by raVerified; else the POP stays."""
    world = make_world(kur_names_issuer=named)
    old = world.operator.device("enb-1.ran.example.net", san=["dns:enb-1.ran.example.net"])
    key = make_key("p256")
    text = cmp_certificate(old.certificate).subject if subject else None
    der = await requests.request(
        world,
        cmp_credential(old),
        key,
        requests.template(key, text, san=("dns:enb-1.ran.example.net",)),
        body_type=BodyType.kur,
        **({} if subject else await without_subject(key)),
    )
    answer = await world.ask(der)
    assert status_of(answer).issued, world.events[-1].detail
    (kur,) = world.ca.messages
    template = asked(kur).template
    certificate = cmp_certificate(old.certificate)
    changed = named or not subject
    assert template.issuer_der == (certificate.issuer_der if named else None)
    assert asked(kur).pop == ("raVerified" if changed else "signature")
    assert template.subject_der == certificate.subject_der
    assert (asked(kur).old_cert_id() is not None) is changed


async def without_subject(key: Any) -> dict[str, Any]:
    """A request without subject, possession of whose key is proved by poposkInput."""
    return {}


@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_other_requests_name_no_issuer(make_world: MakeWorld, body_type: BodyType) -> None:
    """kur_names_issuer is about kur alone."""
    world = make_world(kur_names_issuer=True)
    operation = await Operation.begin(world, body_type)
    await operation.send()
    (request,) = world.ca.messages
    assert (asked(request).template.issuer_der, asked(request).pop) == (None, "signature")


@pytest.mark.parametrize("variant", [Variant.forward, Variant.nested])
async def test_what_goes_up_as_it_came_names_no_issuer(
    make_world: MakeWorld, variant: Variant
) -> None:
    """A kur that is passed on untouched stays so, whatever else the CA would like."""
    world = make_world(kur=variant, kur_names_issuer=True, pop=POP.ra_verified)
    operation = await Operation.begin(world, BodyType.kur)
    answer = await operation.send()
    assert status_of(answer).issued
    (message,) = world.ca.messages
    if variant is Variant.forward:
        assert message.der == operation.sent
    else:
        assert nested_messages(message.body_content) == (operation.sent,)


# --- pop ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(77)
@pytest.mark.parametrize("body_type", REQUESTS)
async def test_the_ra_vouches_for_possession(make_world: MakeWorld, body_type: BodyType) -> None:
    """raVerified takes the place of the device's proof; a PKCS#10 keeps its own, which is part of it."""
    world = make_world(pop=POP.ra_verified)
    operation = await Operation.begin(world, body_type)
    answer = await operation.send()
    assert status_of(answer).issued
    (message,) = world.ca.messages
    sent = PKIMessage.from_der(operation.sent)
    if body_type is BodyType.p10cr:
        assert message.body_der == sent.body_der
    else:
        assert asked(message).pop == "raVerified"
        assert asked(message).cert_req_der == asked(sent).cert_req_der


@pytest.mark.requirement(78)
async def test_the_ra_does_not_vouch_for_what_did_not_verify(make_world: MakeWorld) -> None:
    """A wrong proof is refused here, whatever the CA would be told."""
    world = make_world(pop=POP.ra_verified)
    key = make_key("p256")
    proof = await requests.popo(b"something else", key)
    der = await requests.request(
        world, cmp_credential(world.device()), key, popo_der=proof
    )
    answer = await world.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badPOP"])
    assert world.ca.received == []


# --- max_pvno -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(3)
@pytest.mark.parametrize("pvno", [CMP2000, CMP2021])
@pytest.mark.parametrize("most", [CMP2000, CMP2021])
@pytest.mark.parametrize("variant", [Variant.reprotect, Variant.nested])
async def test_the_version_that_the_ca_sees(
    make_world: MakeWorld, pvno: int, most: int, variant: Variant
) -> None:
    """At most what it speaks, in all messages; the device always gets its own back."""
    world = make_world(requests=variant, max_pvno=most)
    operation = await Operation.begin(world, BodyType.ir, pvno=pvno)
    answer = await operation.send()
    assert status_of(answer).issued
    (message,) = world.ca.messages
    assert (message.header.pvno, answer.header.pvno) == (min(pvno, most), pvno)


# --- requests -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(75, 81)
@pytest.mark.parametrize("body_type", REQUESTS)
@pytest.mark.parametrize("variant", list(Variant))
async def test_requests_go_up_as_configured_and_cert_conf_as_they_did(
    make_world: MakeWorld, body_type: BodyType, variant: Variant
) -> None:
    """ir, cr and p10cr by `requests`, kur by `kur`; certConf in the same way."""
    key = "kur" if body_type is BodyType.kur else "requests"
    world = make_world(**{key: variant})
    operation = await Operation.begin(world, body_type)
    request = operation.sent
    assert status_of(await operation.send()).issued, world.events[-1].detail
    assert (await operation.confirm()).body_type is BodyType.pkiconf, world.events[-1].detail
    for sent, message in zip((request, operation.sent), world.ca.messages, strict=True):
        device = PKIMessage.from_der(sent)
        match variant:
            case Variant.forward:
                assert message.der == sent
            case Variant.nested:
                assert nested_messages(message.body_content) == (sent,)
            case Variant.reprotect:
                assert (message.body_der, message.der == sent) == (device.body_der, False)


async def test_an_identity_cannot_be_set_in_what_goes_up_unchanged(make_world: MakeWorld) -> None:
    """The gateway refuses it as not authorised, and the CA hears nothing."""
    rules = IdentityRules(subject=SubjectRule.replace, subject_template="CN=other")
    world = make_world(requests=Variant.nested, identity=rules)
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert fail_names(answer) == ["notAuthorized"]
    assert world.events[-1].rule == "R75"
    assert world.ca.received == []


# --- ids = map ------------------------------------------------------------------------------------------------


def mapped_world(make_world: MakeWorld, **options: Any) -> World:
    """A CA that is shown no ID of a device; its vendor's devices have short ones."""
    return make_world(
        map_ids=True,
        rules=HeaderRules(Strictness.lenient),
        vendor_domain={"quirks": frozenset({"short_ids"})},
        **options,
    )


@pytest.mark.requirement(5, 6, 73)
async def test_short_ids_are_mapped_and_mapped_back(make_world: MakeWorld) -> None:
    """The CA sees one transactionID of 16 octets and fresh nonces; the device sees its own."""
    world = mapped_world(make_world)
    operation = await Operation.begin(world, BodyType.ir, **SHORT)
    answer = await operation.send()
    assert status_of(answer).issued, world.events[-1].detail
    assert answer.header.transaction_id == SHORT["transaction_id"]
    assert answer.header.recip_nonce == SHORT["sender_nonce"]
    confirmed = await operation.confirm()
    assert confirmed.body_type is BodyType.pkiconf, world.events[-1].detail
    assert confirmed.header.transaction_id == SHORT["transaction_id"]
    assert confirmed.header.recip_nonce == PKIMessage.from_der(operation.sent).header.sender_nonce
    ir, cert_conf = (message.header for message in world.ca.messages)
    assert ir.transaction_id == cert_conf.transaction_id != SHORT["transaction_id"]
    assert [len(item or b"") for item in (ir.transaction_id, ir.sender_nonce, cert_conf.sender_nonce)] == [16] * 3
    assert len({ir.sender_nonce, cert_conf.sender_nonce, SHORT["sender_nonce"]}) == 3
    assert cert_conf.recip_nonce == answer.header.sender_nonce


@pytest.mark.parametrize("body_type", sorted(EVERY_TYPE))
async def test_every_operation_with_mapped_ids(make_world: MakeWorld, body_type: BodyType) -> None:
    """Whatever is asked, the CA sees other IDs than the device sent."""
    world = make_world(map_ids=True)
    operation = await Operation.begin(world, body_type)
    answer = await operation.send()
    assert world.events[-1].outcome in ("issued", "revoked", "informed"), world.events[-1].detail
    sent, (received,) = PKIMessage.from_der(operation.sent).header, world.ca.messages
    assert answer.header.transaction_id == sent.transaction_id
    assert answer.header.recip_nonce == sent.sender_nonce
    assert received.header.transaction_id != sent.transaction_id
    assert received.header.sender_nonce != sent.sender_nonce


async def test_a_repeat_with_mapped_ids_gets_the_same_answer(make_world: MakeWorld) -> None:
    """The CA is asked once, and a node that takes over asks under the same IDs."""
    world = make_world(map_ids=True, replays_repeats=True)
    operation = await Operation.begin(world, BodyType.ir)
    world.ca.failure, world.ca.failures = UpstreamUnavailable("away", delivered=True), 1
    assert fail_names(await operation.send()) == ["systemUnavail"]
    answer = await operation.send()
    assert status_of(answer).issued
    assert (await operation.send()).der == answer.der
    first, second = world.ca.received
    assert first == second


async def test_the_device_s_ids_in_an_answer_are_refused(make_world: MakeWorld) -> None:
    """A CA that was shown other IDs must answer with these."""
    world = make_world(map_ids=True)
    operation = await Operation.begin(world, BodyType.ir)
    sent = PKIMessage.from_der(operation.sent).header

    def script(answer: Answer) -> None:
        answer.header = replace(answer.header, transaction_id=sent.transaction_id)

    world.ca.script = script
    assert fail_names(await operation.send()) == ["systemFailure"]
    assert "transactionID" in world.events[-1].detail


async def test_polling_with_mapped_ids(make_world: MakeWorld) -> None:
    """pollReq goes up under the transaction's ID for the CA, and a fresh nonce."""
    world = mapped_world(make_world)
    saying = SayingWait(world.ca, times=2)
    operation = await Operation.begin(world, BodyType.ir, **SHORT)
    await operation.send()
    await operation.poll()
    answer = await operation.poll()
    assert status_of(answer).issued, world.events[-1].detail
    assert (await operation.confirm()).body_type is BodyType.pkiconf, world.events[-1].detail
    headers = [PKIMessage.from_der(der).header for der in saying.received]
    assert len({header.transaction_id for header in headers}) == 1
    assert len({header.sender_nonce for header in headers}) == len(headers)
    assert headers[0].transaction_id != SHORT["transaction_id"]


# --- certconf -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(80)
@pytest.mark.parametrize("takes", [True, False])
async def test_a_local_cert_conf_stays_here(make_world: MakeWorld, takes: bool) -> None:
    """The gateway answers pkiConf; the CA hears of neither yes nor no."""
    world = make_world(certconf=CertConf.local)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert (await operation.confirm(takes=takes)).body_type is BodyType.pkiconf
    assert [message.body_type for message in world.ca.messages] == [BodyType.ir]
    assert world.events[-1].outcome == ("confirmed" if takes else "rejected")


@pytest.mark.requirement(80, 82)
@pytest.mark.parametrize("granted", [True, False])
async def test_implicit_confirmation_is_asked_of_the_ca(make_world: MakeWorld, granted: bool) -> None:
    """Where it is granted the gateway answers certConf; where not, the CA does. The device always confirms."""
    world = make_world(certconf=CertConf.implicit)
    world.ca.grant_implicit = granted
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    assert world.ca.messages[0].header.implicit_confirm
    assert not answer.header.implicit_confirm
    assert (await operation.confirm()).body_type is BodyType.pkiconf, world.events[-1].detail
    types = [message.body_type for message in world.ca.messages]
    assert types == ([BodyType.ir] if granted else [BodyType.ir, BodyType.certConf])


async def test_a_wrong_cert_conf_is_refused_where_the_ca_awaits_none(make_world: MakeWorld) -> None:
    """certHash is the gateway's to check then."""
    world = make_world(certconf=CertConf.implicit)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    body_der = PKIMessage.from_der(await _confirmation(operation)).body_der
    spoilt = body_der.replace(body_der[8:16], bytes(8))
    der = await follow(operation.device, operation.answer, spoilt, now=world.clock())
    answer = await world.ask(der)
    assert fail_names(answer) == ["badCertId"]
    assert world.events[-1].outcome == "refused"


async def _confirmation(operation: Operation) -> bytes:
    world = operation.world
    copy = replace(operation)
    copy.answer = operation.answer
    copy.world = replace(world, gateway=_Deaf(world.gateway))
    del copy
    from ra_gateway.cmp.algorithms import digest
    from ra_gateway.cmp.messages import CertStatus, cert_confirm_body

    (response,) = cert_rep_message(operation.answer.body_content).responses
    status = CertStatus(digest("sha256", response.certificate_der or b""), 0, None)
    return await follow(
        operation.device, operation.answer, cert_confirm_body(status), now=world.clock()
    )
