"""What each key of a dialect does on the wire, and how far the oddities of real CAs are borne."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    RevRepContent,
    cert_confirm_body,
    cert_rep_message,
    error_body,
    nested_messages,
    rev_rep_body,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_messages, certification_request, popo_signing_key_input
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import CMP2000, CMP2021, PKIMessage
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.ra.general_messages import Information
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import (
    POP,
    CAQuirk,
    CertConf,
    ImplicitConfirm,
    Informing,
    SubjectRule,
    Variant,
)
from ra_gateway.ra.transaction import State
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_answers
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Answer, MakeWorld, ManualClock, Script, World
from tests.support.pki import OperatorPKI, VendorPKI, make_key, other_operator
from tests.support.polling import EVERY_TYPE, REQUESTS, Operation, WaitingCA

SHORT = {"transaction_id": b"\x00\x00\x00\x07", "sender_nonce": b"\x01\x02\x03\x04"}
"""As a real base station has them: four octets each."""


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    def make(endpoint: dict[str, Any] | None = None, **upstream: Any) -> World:
        fields = {"body_types": EVERY_TYPE, **(endpoint or {})}
        options = {
            key: upstream.pop(key)
            for key in ("rules", "vendor_domain", "identity", "ca", "clock")
            if key in upstream
        }
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
        **({} if subject else await over_key_input(cmp_credential(old), key)),
    )
    answer = await world.ask(der)
    assert status_of(answer).issued, world.events[-1].detail
    (kur,) = world.ca.messages
    template = asked(kur).template
    certificate = cmp_certificate(old.certificate)
    changed = named or not subject
    assert template.issuer_der == (certificate.issuer_der if named else None)
    assert (asked(kur).pop == "raVerified") is changed
    assert template.subject_der == certificate.subject_der
    assert (asked(kur).old_cert_id() is not None) is changed


async def over_key_input(old: Credential, key: Any) -> dict[str, Any]:
    """Proof of possession for a request without a subject: over poposkInput."""
    octets = popo_signing_key_input(old.sender_der, requests.spki(key))
    return {"popo_der": await requests.popo(octets, key, input_der=octets)}


@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_other_requests_name_no_issuer(make_world: MakeWorld, body_type: BodyType) -> None:
    """kur_names_issuer is about kur alone."""
    world = make_world(kur_names_issuer=True)
    operation = await Operation.begin(world, body_type)
    await operation.send()
    (request,) = world.ca.messages
    assert asked(request).template.issuer_der is None
    assert request.body_der == PKIMessage.from_der(operation.sent).body_der


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
    der = await requests.request(world, cmp_credential(world.device()), key, popo_der=proof)
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
        ids="map",
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
    assert [
        len(item or b"") for item in (ir.transaction_id, ir.sender_nonce, cert_conf.sender_nonce)
    ] == [16] * 3
    assert len({ir.sender_nonce, cert_conf.sender_nonce, SHORT["sender_nonce"]}) == 3
    assert cert_conf.recip_nonce == answer.header.sender_nonce


@pytest.mark.parametrize("body_type", sorted(EVERY_TYPE))
async def test_every_operation_with_mapped_ids(make_world: MakeWorld, body_type: BodyType) -> None:
    """Whatever is asked, the CA sees other IDs than the device sent."""
    world = make_world(ids="map")
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
    world = make_world(ids="map", replays_repeats=True)
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
    world = make_world(ids="map")
    operation = await Operation.begin(world, BodyType.ir)
    sent = PKIMessage.from_der(operation.sent).header

    def script(answer: Answer) -> None:
        answer.header = replace(answer.header, transaction_id=sent.transaction_id)

    world.ca.script = script
    assert fail_names(await operation.send()) == ["systemFailure"]
    assert "transactionID" in world.events[-1].detail


async def test_polling_with_mapped_ids(make_world: MakeWorld, operator_pki: OperatorPKI) -> None:
    """pollReq goes up under the transaction's ID for the CA, and a fresh nonce."""
    clock = ManualClock()
    ca = WaitingCA(operator_pki, clock, delays=frozenset({BodyType.ir}))
    world = mapped_world(make_world, ca=ca, clock=clock)
    operation = await Operation.begin(world, BodyType.ir, **SHORT)
    await operation.send()
    operation.assert_waiting()
    await operation.poll()
    assert status_of(await operation.poll()).issued, world.events[-1].detail
    assert (await operation.confirm()).body_type is BodyType.pkiconf, world.events[-1].detail
    headers = [message.header for message in ca.messages]
    types = [BodyType.ir, BodyType.pollReq, BodyType.pollReq, BodyType.certConf]
    assert [message.body_type for message in ca.messages] == types
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
async def test_implicit_confirmation_is_asked_of_the_ca(
    make_world: MakeWorld, granted: bool
) -> None:
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


@pytest.mark.parametrize("certconf", [CertConf.local, CertConf.implicit])
async def test_a_wrong_cert_hash_is_refused_where_the_ca_awaits_none(
    make_world: MakeWorld, certconf: CertConf
) -> None:
    """certHash is the gateway's to check then."""
    world = make_world(certconf=certconf)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    status = CertStatus(digest("sha256", b"another certificate"), 0)
    der = await follow(
        operation.device, operation.answer, cert_confirm_body(status), now=world.clock()
    )
    assert fail_names(await world.ask(der)) == ["badCertId"]
    assert world.events[-1].outcome == "refused"


@pytest.mark.requirement(82)
@pytest.mark.parametrize("asks", [True, False])
async def test_a_grant_reaches_who_asked_where_the_endpoint_relays(
    make_world: MakeWorld, asks: bool
) -> None:
    """The gateway's own wish for implicitConfirm is no wish of the device's."""
    world = make_world({"implicit_confirm": ImplicitConfirm.relay}, certconf=CertConf.implicit)
    enrollment = world.enrollment(world.device(), implicit_confirm=asks)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Done if asks else Send)
    assert world.ca.messages[0].header.implicit_confirm
    infos = [item.info_type for item in world.ca.messages[0].header.general_info]
    assert infos.count(OID.implicitConfirm) == 1


# --- genm -----------------------------------------------------------------------------------------------------


async def test_a_ca_that_answers_no_genm_is_not_asked(make_world: MakeWorld) -> None:
    """What is not answered here is refused, and the operator is told of which CA."""
    world = make_world(genm=False)
    answer = await (await Operation.begin(world, BodyType.genm)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badRequest"])
    event = world.events[-1]
    assert (event.outcome, event.rule) == ("refused", "R138")
    assert "scripted answers none" in event.detail
    assert world.ca.received == []


async def test_what_is_answered_here_needs_no_ca(make_world: MakeWorld) -> None:
    """caCerts out of the configuration come whatever the CA is like."""
    information = Information(ways={OID.caCerts: Informing.local})
    world = make_world({"information": information}, genm=False)
    answer = await (await Operation.begin(world, BodyType.genm)).send()
    assert answer.body_type is BodyType.genp
    assert world.ca.received == []


# --- tolerated: rejections without protection -----------------------------------------------------------------


def unprotected_rejection(answer: Answer) -> None:
    """As EJBCA refuses what is wrong with a request: unsigned, between names that mean nothing."""
    answer.reject(PKIFailureInfo.incorrectData, text="wrong number of DNSNAME")
    answer.protected = False
    answer.extra_certs = ()
    answer.header = replace(
        answer.header,
        sender_der=directory_name(from_rfc4514("CN=fooIssuer")),
        recipient_der=directory_name(from_rfc4514("CN=fooSubject")),
        sender_kid=None,
        protection_alg_der=None,
    )


BORNE = frozenset({CAQuirk.unprotected_rejection})


@pytest.mark.requirement(84, 89)
@pytest.mark.parametrize("body_type", REQUESTS)
@pytest.mark.parametrize("borne", [True, False])
async def test_a_rejection_without_protection(
    make_world: MakeWorld, body_type: BodyType, borne: bool
) -> None:
    """Where borne, its failInfo reaches the device under the RA's signature, its text the log; else systemFailure."""
    world = make_world(tolerate=BORNE if borne else frozenset())
    world.ca.script = unprotected_rejection
    operation = await Operation.begin(world, body_type)
    answer = await operation.send()
    assert_answers(world, PKIMessage.from_der(operation.sent), answer)
    if borne:
        assert answer.body_type is CERT_RESPONSE_TO[body_type]
        assert fail_names(answer) == ["incorrectData"]
        assert status_of(answer).status_string == (
            "The certification authority refused the request.",
        )
        assert (await operation.stored()).state is State.FAILED
        (response,) = cert_rep_message(answer.body_content).responses
        assert (response.cert_req_id, response.certificate_der) == (operation.cert_req_id, None)
    else:
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    event = world.events[-1]
    assert event.outcome == ("refused" if borne else "failed")
    assert ("DNSNAME" in event.detail) is borne
    assert (await operation.send()).der == answer.der


def without_protection(answer: Answer) -> None:
    answer.protected = False


def granted_with_mods(answer: Answer) -> None:
    answer.set_response(status_info=PKIStatusInfo(PKIStatus.grantedWithMods))
    answer.protected = False


def rejected_with_a_certificate(answer: Answer) -> None:
    info = PKIStatusInfo(PKIStatus.rejection, ("no",))
    answer.set_response(status_info=info)
    answer.protected = False


def waiting(answer: Answer) -> None:
    answer.set_response(status_info=PKIStatusInfo(PKIStatus.waiting), certificate_der=None)
    answer.protected = False


def twice(answer: Answer) -> None:
    unprotected_rejection(answer)
    answer.set_content(replace(answer.content, responses=answer.content.responses * 2))


def nobody(answer: Answer) -> None:
    unprotected_rejection(answer)
    answer.set_content(replace(answer.content, responses=()))


def with_ca_pubs(answer: Answer) -> None:
    unprotected_rejection(answer)
    answer.set_content(replace(answer.content, ca_pubs=answer.extra_certs))


def another_transaction(answer: Answer) -> None:
    unprotected_rejection(answer)
    answer.header = replace(answer.header, transaction_id=bytes(16))


def another_nonce(answer: Answer) -> None:
    unprotected_rejection(answer)
    answer.header = replace(answer.header, recip_nonce=bytes(16))


def no_nonce(answer: Answer) -> None:
    unprotected_rejection(answer)
    answer.header = replace(answer.header, sender_nonce=None)


def broken_signature(answer: Answer) -> None:
    answer.reject(PKIFailureInfo.incorrectData, text="wrong number of DNSNAME")
    answer.credential = cmp_credential(other_operator().cmp_signer)


@pytest.mark.requirement(83, 84, 96)
@pytest.mark.parametrize(
    "script",
    [
        without_protection,
        granted_with_mods,
        rejected_with_a_certificate,
        waiting,
        twice,
        nobody,
        another_transaction,
        another_nonce,
        no_nonce,
        broken_signature,
    ],
)
async def test_nothing_else_without_protection_is_believed(
    make_world: MakeWorld, script: Script
) -> None:
    """No certificate, no word to wait, no answer to something else: a failure of the CA towards the device."""
    world = make_world(tolerate=BORNE)
    world.ca.script = script
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    assert_answers(world, PKIMessage.from_der(operation.sent), answer)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert world.events[-1].detail.startswith("scripted")


@pytest.mark.requirement(84)
async def test_an_unprotected_rp_is_never_believed(make_world: MakeWorld) -> None:
    """That a certificate is revoked already would end the care for it."""
    world = make_world(tolerate=BORNE)

    def script(answer: Answer) -> None:
        info = PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.certRevoked,))
        answer.body_der = rev_rep_body(RevRepContent((info,)))
        answer.protected = False

    world.ca.script = script
    answer = await (await Operation.begin(world, BodyType.rr)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])


@pytest.mark.requirement(85, 89)
@pytest.mark.parametrize("protected", [True, False])
@pytest.mark.parametrize("bit", [PKIFailureInfo.systemUnavail, None])
async def test_an_error_of_the_ca_s_own_is_a_failure_whoever_signed_it(
    make_world: MakeWorld, protected: bool, bit: PKIFailureInfo | None
) -> None:
    """It counts as failure without being trusted for more; its text is for the operator."""
    world = make_world()

    def script(answer: Answer) -> None:
        bits = () if bit is None else (bit,)
        info = PKIStatusInfo(PKIStatus.rejection, ("not an authorized administrator",), bits)
        answer.body_der = error_body(info)
        answer.protected = protected

    world.ca.script = script
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    assert_answers(world, PKIMessage.from_der(operation.sent), answer)
    expected = bit or PKIFailureInfo.systemFailure
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, [expected.name])
    assert "not an authorized administrator" in world.events[-1].detail
    assert b"administrator" not in answer.der


# --- tolerated: pkiConf ---------------------------------------------------------------------------------------


@pytest.mark.requirement(84)
@pytest.mark.parametrize("borne", [True, False])
@pytest.mark.parametrize("takes", [True, False])
async def test_a_pkiconf_without_protection(
    make_world: MakeWorld, borne: bool, takes: bool
) -> None:
    """It says no more than that the CA does not read certConf; the device gets the RA's own."""
    oddities = frozenset({CAQuirk.unprotected_pkiconf} if borne else set())
    world = make_world(tolerate=oddities)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.script = without_protection
    answer = await operation.confirm(takes=takes)
    assert_answers(world, PKIMessage.from_der(operation.sent), answer)
    if borne:
        assert answer.body_type is BodyType.pkiconf
        assert world.events[-1].outcome == ("confirmed" if takes else "rejected")
    else:
        assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])


BARE = frozenset({CAQuirk.pkiconf_without_certificates})


def bare(answer: Answer) -> None:
    """As Nokia's and Insta's: no certificates, and no senderKID."""
    answer.extra_certs = ()
    answer.header = replace(answer.header, sender_kid=None)


@pytest.mark.requirement(84)
@pytest.mark.parametrize("borne", [True, False])
async def test_a_pkiconf_without_certificates(make_world: MakeWorld, borne: bool) -> None:
    """Who signed the ip may sign it, where that is borne."""
    world = make_world(tolerate=BARE if borne else frozenset())
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.script = bare
    answer = await operation.confirm()
    if borne:
        assert answer.body_type is BodyType.pkiconf, world.events[-1].detail
    else:
        assert fail_names(answer) == ["systemFailure"]


@pytest.mark.requirement(84)
async def test_a_bare_pkiconf_by_a_stranger(make_world: MakeWorld) -> None:
    """Only signers of earlier answers that were valid do."""
    world = make_world(tolerate=BARE)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()

    def script(answer: Answer) -> None:
        bare(answer)
        answer.credential = cmp_credential(other_operator().cmp_signer)

    world.ca.script = script
    assert fail_names(await operation.confirm()) == ["systemFailure"]


@pytest.mark.requirement(84)
async def test_a_bare_ip_is_not_borne(make_world: MakeWorld) -> None:
    """What leaves certificates out is pkiConf alone."""
    world = make_world(tolerate=BARE)
    first = await Operation.begin(world, BodyType.ir)
    await first.send()
    await first.confirm()
    world.ca.script = bare
    second = await Operation.begin(world, BodyType.ir)
    assert fail_names(await second.send()) == ["systemFailure"]


async def test_few_signers_are_remembered(make_world: MakeWorld) -> None:
    """The oldest goes when there are more than a CA can have."""
    world = make_world(tolerate=BARE)
    upstream = world.endpoint.upstream
    signers = [cmp_certificate(world.operator.device(f"signer-{n}").certificate) for n in range(10)]
    for signer in signers:
        upstream.remember(signer)
    assert list(upstream.seen) == signers[2:]


# --- what is borne of every CA --------------------------------------------------------------------------------


async def test_the_recipient_of_an_answer_is_not_looked_at(make_world: MakeWorld) -> None:
    """EJBCA names the new certificate's subject there, which is no secret and no promise."""
    world = make_world()

    def script(answer: Answer) -> None:
        name = directory_name(from_rfc4514("CN=enb-1.ran.example.net"))
        answer.header = replace(answer.header, recipient_der=name)

    world.ca.script = script
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    assert status_of(answer).issued
    assert_answers(world, PKIMessage.from_der(operation.sent), answer)


@pytest.mark.requirement(90, 91)
@pytest.mark.parametrize(
    "failure, told",
    [
        (
            UpstreamUnavailable("HTTP 503 without a CMP message: '<html>'", delivered=True),
            "systemUnavail",
        ),
        (UpstreamBroken("HTTP 500 without a CMP message: ''", rule="R91"), "systemFailure"),
    ],
)
async def test_http_without_a_message(
    make_world: MakeWorld, failure: UpstreamBroken | UpstreamUnavailable, told: str
) -> None:
    """A page in place of CMP is told as it is: too busy, or broken."""
    world = make_world()
    world.ca.failure, world.ca.failures = failure, 1
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, [told])
    assert failure.detail in world.events[-1].detail
