"""TS 33.310 9.5 to the letter: what a base station says, and what it is answered (T31 to T51)."""

from __future__ import annotations

import secrets
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from ra_gateway.ca.authorization import Mode
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import HASH_NAMES, digest, signature_algorithm
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_rep_message,
    error_body,
    nested_messages,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertId, CertTemplate, SignaturePOP, cert_req_messages
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import ANYONE, CMP2021, IMPLICIT_CONFIRM, PKIMessage
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.polling import poll_rep_content, poll_req_body
from ra_gateway.cmp.protection import verify_protection
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import Done, RequestOptions, Send
from ra_gateway.ra.response_checks import chain_for
from ra_gateway.ra.settings import ImplicitConfirm
from ra_gateway.ra.transaction import Transaction
from tests.support import pki, requests
from tests.support.answers import fail_names, follow
from tests.support.asserts import assert_refused, assert_served
from tests.support.chain import local_ra, nest, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import SUBJECT, open_client
from tests.support.harness import MakeWorld, World
from tests.support.polling import WaitingCA

THREE_GPP: Final = HeaderRules(strictness=Strictness.three_gpp)
LENIENT: Final = HeaderRules(strictness=Strictness.lenient)
ODD_IDS: Final = (-1, 355, 2**31, -(2**63), 2**70)
"""certReqIds that no RFC 9483 client sends: it knows 0 alone."""


@pytest.fixture(params=[THREE_GPP, LENIENT], ids=["3gpp", "lenient"])
def world(request: Any, make_world: MakeWorld) -> World:
    return make_world(rules=request.param)


@pytest.fixture
def base_station(make_world: MakeWorld) -> World:
    """A world of base stations alone: strictness "3gpp"."""
    return make_world(rules=THREE_GPP)


@pytest.fixture(scope="module")
def key() -> Any:
    return pki.make_key("p256")


async def asked_for(
    world: World, body_type: BodyType, key: Any, **options: Any
) -> tuple[pki.Credential, bytes]:
    """Who asks, a base station as it left the factory or one of the operator's, and its request."""
    operators = body_type is BodyType.kur
    device = world.operator.device() if operators else world.device()
    signer = cmp_credential(device)
    subject = signer.certificate.subject_der if operators else from_rfc4514(requests.SUBJECT)
    asked = requests.template(key, subject_der=subject)
    return device, await requests.request(world, signer, key, asked, body_type=body_type, **options)


# --- certReqId ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("T41", 107)
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_the_cert_req_id_of_the_request_is_repeated(
    world: World, key: Any, body_type: BodyType, cert_req_id: int
) -> None:
    """It goes up, comes back, is the same when the request is sent again, and certConf has to name it."""
    device, der = await asked_for(world, body_type, key, cert_req_id=cert_req_id)
    answer = await assert_served(world, der)
    (response,) = cert_rep_message(answer.body_content).responses
    assert (answer.body_type, response.cert_req_id) == (CERT_RESPONSE_TO[body_type], cert_req_id)
    (asked,) = cert_req_messages(world.ca.messages[0].body_content)
    assert asked.cert_req_id == cert_req_id
    assert await world.post(der) == answer.der
    (stored,) = await world.store.find(answer.header.transaction_id or b"")
    assert Transaction.from_fields(stored.to_fields()).cert_req_id == cert_req_id
    for other in (0, cert_req_id + 1):
        wrong = requests.confirmation_body(answer, other)
        der = await follow(device, answer, wrong, now=world.clock())
        refused = await world.ask(der)
        assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRequest"])
        assert world.events[-1].rule == "R107"
    assert len(world.ca.received) == 1
    confirmed = await world.ask(await requests.confirmation(world, device, answer))
    assert confirmed.body_der == PKICONF_BODY
    assert [item.body_type for item in world.ca.messages] == [body_type, BodyType.certConf]
    assert not any(event.quirks for event in world.events)


@pytest.mark.requirement("T41", 112)
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
async def test_the_cert_req_id_of_a_refused_request_is_repeated(
    world: World, key: Any, cert_req_id: int
) -> None:
    """By the RA as by the CA."""
    device = cmp_credential(world.device())
    der = await requests.request(world, device, key, cert_req_id=cert_req_id, popo_der=b"")
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R53", cert_req_id=cert_req_id)
    world.ca.script = lambda answer: answer.reject()
    answer = await world.ask(await requests.request(world, device, key, cert_req_id=cert_req_id))
    (response,) = cert_rep_message(answer.body_content).responses
    assert (response.cert_req_id, response.certificate_der) == (cert_req_id, None)


@pytest.mark.requirement("T41", 85)
async def test_a_ca_that_answers_another_cert_req_id(base_station: World, key: Any) -> None:
    """What it sends is no answer to this request."""
    world = base_station
    world.ca.script = lambda answer: answer.set_response(cert_req_id=0)
    der = await requests.request(world, cmp_credential(world.device()), key, cert_req_id=-1)
    refused = await world.ask(der)
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["systemFailure"])
    assert world.events[-1].rule == "R85"


@pytest.mark.requirement("T41", 117, 118)
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
async def test_the_cert_req_id_of_the_request_is_polled_for(
    make_world: MakeWorld, key: Any, cert_req_id: int
) -> None:
    """pollReq and pollRep name it between base station and RA, and between RA and CA."""
    world = make_world(rules=THREE_GPP)
    waiting = WaitingCA(world.operator, world.clock)
    world = make_world(rules=THREE_GPP, ca=waiting, clock=world.clock)
    device = world.device()
    answer = await world.ask(
        await requests.request(world, cmp_credential(device), key, cert_req_id=cert_req_id)
    )
    (response,) = cert_rep_message(answer.body_content).responses
    assert (response.cert_req_id, response.certificate_der) == (cert_req_id, None)
    wrong = await follow(device, answer, poll_req_body(0), now=world.clock())
    await assert_refused(world, wrong, "badRequest", rule="R119")
    for expected in (BodyType.pollRep, BodyType.ip):
        world.clock.move(seconds=30)
        der = await follow(device, answer, poll_req_body(cert_req_id), now=world.clock())
        answer = await world.ask(der)
        assert answer.body_type is expected, world.events[-1].detail
        if expected is BodyType.pollRep:
            assert poll_rep_content(answer.body_content).cert_req_id == cert_req_id
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.cert_req_id == cert_req_id


@pytest.mark.requirement("T41", 124, 125)
@pytest.mark.parametrize("how", ["nested", "in place", "batch"])
@pytest.mark.parametrize("strictness", [Strictness.three_gpp, Strictness.lenient])
async def test_the_cert_req_id_comes_through_another_ra(
    make_world: MakeWorld, operator_pki: pki.OperatorPKI, key: Any, how: str, strictness: Strictness
) -> None:
    """It is the device's, whoever brings it."""
    ra = local_ra(operator_pki)
    relays = registered(operator_pki, ra)
    world = make_world(
        rules=HeaderRules(strictness=strictness), endpoint={"registration_authorities": relays}
    )
    signer = ra if how == "in place" else world.device()

    async def ask(der: bytes) -> PKIMessage:
        if how == "in place":
            return await world.ask(der)
        if how == "nested":
            return await world.ask(await nest(world, ra, der))
        other = await requests.request(world, cmp_credential(world.device()), key)
        batch = await world.ask(await nest(world, ra, der, other))
        return PKIMessage.from_der(nested_messages(batch.body_content)[0])

    der = await requests.request(world, cmp_credential(signer), key, cert_req_id=355)
    answer = await ask(der)
    (response,) = cert_rep_message(answer.body_content).responses
    assert (response.cert_req_id, response.certificate_der is None) == (355, False)
    wrong = await follow(signer, answer, requests.confirmation_body(answer, 0), now=world.clock())
    assert fail_names(await ask(wrong)) == ["badRequest"]
    confirmed = await ask(await requests.confirmation(world, signer, answer))
    assert confirmed.body_der == PKICONF_BODY


@pytest.mark.requirement("T41")
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
async def test_the_bundled_ca_repeats_the_cert_req_id(
    operator_pki: pki.OperatorPKI, vendor_pki: pki.VendorPKI, tmp_path: Path, cert_req_id: int
) -> None:
    """To devices that come to it themselves."""
    async with open_client(operator_pki, vendor_pki, tmp_path / "ca.db") as desk:
        enrolment = await desk.enrol(cert_req_id=cert_req_id)
        (response,) = cert_rep_message(enrolment.answer.body_content).responses
        assert response.cert_req_id == cert_req_id
        kind, _ = await desk.refused(await desk.confirmation(enrolment, cert_req_id=0))
        assert kind is BodyType.error
        await desk.confirm(enrolment, cert_req_id=cert_req_id)


# --- which certificates go along ------------------------------------------------------------------------------------


@pytest.mark.requirement("T46", "T48", 97)
@pytest.mark.parametrize("strictness", Strictness)
@pytest.mark.parametrize("kup_root", [False, True])
async def test_the_root_goes_to_who_may_not_have_it(
    make_world: MakeWorld, key: Any, strictness: Strictness, kup_root: bool
) -> None:
    """Into ip and cp always, into kup where a client wants it there; the rest is the same."""
    rules = HeaderRules(strictness=strictness)
    world = make_world(rules=rules, endpoint={"kup_root": kup_root})
    operator = world.operator
    for body_type in (BodyType.ir, BodyType.cr, BodyType.kur):
        _, der = await asked_for(world, body_type, key)
        answer = await assert_served(world, der)
        has_root = kup_root or body_type is not BodyType.kur
        root = [operator.root.der] if has_root else []
        assert list(answer.extra_certs) == [operator.ra.der, operator.issuing.der, *root]


@pytest.mark.requirement("T51", 100)
@pytest.mark.parametrize(
    "strictness, configured, sent",
    [
        (Strictness.three_gpp, None, False),
        (Strictness.three_gpp, True, True),
        (Strictness.lenient, None, True),
        (Strictness.lenient, False, False),
        (Strictness.strict, None, True),
    ],
)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_pki_conf_without_certificates(
    make_world: MakeWorld,
    body_type: BodyType,
    strictness: Strictness,
    configured: bool | None,
    sent: bool,
) -> None:
    """None for base stations, unless configured; it is verified with those of the answer before."""
    world = make_world(
        rules=HeaderRules(strictness=strictness), endpoint={"pkiconf_certificates": configured}
    )
    operators = body_type is BodyType.kur
    device = world.operator.device("enb-1.ran.example.net") if operators else world.device()
    again = strictness is Strictness.strict
    enrollment = world.enrollment(device, body_type=body_type, extra_certs_in_cert_conf=again)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    der = await world.post(step.der)
    confirmed = PKIMessage.from_der(der)
    expected = (world.operator.ra.der, world.operator.issuing.der) if sent else ()
    assert (confirmed.body_der, confirmed.extra_certs) == (PKICONF_BODY, expected)
    assert confirmed.header.sender_der == cmp_credential(world.operator.ra).sender_der
    assert await world.post(step.der) == der
    assert isinstance(await enrollment.receive(der), Done)


@pytest.mark.requirement("T51", 101, 115)
@pytest.mark.parametrize("gives_up", ["certConf", "error"])
async def test_pki_conf_for_a_rejected_certificate(
    base_station: World, key: Any, gives_up: str
) -> None:
    """It has no certificates either; a refusal of certConf has, as its reader may have kept nothing."""
    world = base_station
    device, der = await asked_for(world, BodyType.ir, key)
    answer = await assert_served(world, der)
    wrong = await follow(device, answer, requests.confirmation_body(answer, 7), now=world.clock())
    refused = await world.ask(wrong)
    assert refused.extra_certs == (world.operator.ra.der, world.operator.issuing.der)
    if gives_up == "certConf":
        der = await requests.confirmation(world, device, answer, rejects=True)
    else:
        body_der = error_body(PKIStatusInfo(PKIStatus.rejection))
        der = await follow(device, answer, body_der, now=world.clock())
    confirmed = await world.ask(der)
    assert (confirmed.body_der, confirmed.extra_certs) == (PKICONF_BODY, ())


@pytest.mark.requirement("T51", 124)
@pytest.mark.parametrize("how", ["nested", "in place"])
async def test_other_ras_get_the_certificates_of_a_pki_conf(
    make_world: MakeWorld, operator_pki: pki.OperatorPKI, key: Any, how: str
) -> None:
    """The node of theirs that gets it need not be the one that got the answer before."""
    ra = local_ra(operator_pki)
    relays = registered(operator_pki, ra)
    world = make_world(rules=THREE_GPP, endpoint={"registration_authorities": relays})
    signer = ra if how == "in place" else world.device()
    der = await requests.request(world, cmp_credential(signer), key)
    answer = await world.ask(der if how == "in place" else await nest(world, ra, der))
    der = await requests.confirmation(world, signer, answer)
    confirmed = await world.ask(der if how == "in place" else await nest(world, ra, der))
    expected = (operator_pki.ra.der, operator_pki.issuing.der)
    assert (confirmed.body_der, confirmed.extra_certs) == (PKICONF_BODY, expected)


@pytest.mark.requirement("T46", "T48", "T51")
@pytest.mark.parametrize("strictness", Strictness)
async def test_the_bundled_ca_sends_devices_what_they_need(
    operator_pki: pki.OperatorPKI,
    vendor_pki: pki.VendorPKI,
    tmp_path: Path,
    strictness: Strictness,
) -> None:
    """The root in ip and not in kup, and pkiConf by strictness."""
    rules = HeaderRules(strictness=strictness)
    signer, issuing = operator_pki.cmp_signer.der, operator_pki.issuing.der
    expected = () if strictness is Strictness.three_gpp else (signer, issuing)
    async with open_client(operator_pki, vendor_pki, tmp_path / "ca.db", rules=rules) as desk:
        first = await desk.enrol()
        assert first.answer.extra_certs == (signer, issuing, operator_pki.root.der)
        der = await desk.confirmation(first)
        reply = await desk.ca.handle(der, mode=Mode.client)
        confirmed = PKIMessage.from_der(reply.der)
        assert (confirmed.body_der, confirmed.extra_certs) == (PKICONF_BODY, expected)
        second = await desk.enrol(
            BodyType.kur,
            signer=first.entity,
            template=CertTemplate(subject_der=from_rfc4514(SUBJECT)),
        )
        assert second.answer.extra_certs == (signer, issuing)


@pytest.mark.requirement("T46", "T48", 118)
@pytest.mark.parametrize("how", ["polled for", "without confirmation"])
async def test_a_kup_that_comes_otherwise(make_world: MakeWorld, key: Any, how: str) -> None:
    """An answer that was waited for, or needs no certConf, brings the same certificates as any."""
    clock = make_world().clock
    world = make_world(
        rules=THREE_GPP,
        clock=clock,
        endpoint={"implicit_confirm": ImplicitConfirm.relay},
        ca=WaitingCA(make_world().operator, clock, polls=0) if how == "polled for" else None,
    )
    operator = world.operator
    for body_type, root in ((BodyType.ir, [operator.root.der]), (BodyType.kur, [])):
        device, der = await asked_for(
            world, body_type, key, general_info=(IMPLICIT_CONFIRM,) if how != "polled for" else ()
        )
        answer = await world.ask(der)
        if how == "polled for":
            assert list(answer.extra_certs) == [operator.ra.der, operator.issuing.der]
            der = await follow(device, answer, poll_req_body(0), now=world.clock())
            answer = await world.ask(der)
        assert answer.body_type is CERT_RESPONSE_TO[body_type], world.events[-1].detail
        assert answer.header.implicit_confirm is (how != "polled for")
        assert list(answer.extra_certs) == [operator.ra.der, operator.issuing.der, *root]


@pytest.mark.requirement("T48")
def test_a_kup_leaves_out_nothing_but_the_root(base_station: World) -> None:
    """A new root's key certified by an older one of the same name is needed; an anchor need not be a root."""
    endpoint, operator = base_station.endpoint, base_station.operator
    issuing, root = map(cmp_certificate, (operator.issuing.certificate, operator.root.certificate))
    twin = cmp_certificate(pki.make_root(root.subject).certificate)
    assert twin.self_issued
    kur = BodyType.kur
    assert chain_for(endpoint, kur, (issuing, twin, root)) == (issuing.der, twin.der)
    assert chain_for(endpoint, kur, (issuing,)) == (issuing.der,)
    assert chain_for(endpoint, kur, ()) == ()
    assert chain_for(endpoint, BodyType.ir, (issuing, root)) == (issuing.der, root.der)


# --- 9.5.3 and 9.5.4 as a whole -----------------------------------------------------------------------------------


@pytest.mark.requirement(
    "T35", "T36", "T37", "T39", "T40", "T42", "T43", "T45", "T47", "T49", "T50"
)
@pytest.mark.parametrize("recipient", [None, "CN=Example Operator RA,O=Example Operator"])
async def test_enrolment_and_renewal_to_the_letter(
    base_station: World, recipient: str | None
) -> None:
    """Each field of 9.5.3 and 9.5.4 in all eight messages, with the RA's name known beforehand and without."""
    world = base_station
    ra = cmp_credential(world.operator.ra)
    device = world.device()
    enrollment = world.enrollment(device, provisioned=False, recipient=recipient)
    first = await all_messages(world, enrollment)
    assert_to_the_letter(first.messages, cmp_certificate(device.certificate), ra.certificate)
    recipient_der = ANYONE if recipient is None else ra.sender_der
    assert first.messages[0].header.recipient_der == recipient_der

    identity, old = first.done.identity, first.done.certificate
    renewal = Enrollment(
        identity,
        pki.make_key("p256"),
        RequestOptions(BodyType.kur),
        clock=world.clock,
        random_octets=secrets.token_bytes,
    )
    second = await all_messages(world, renewal)
    assert_to_the_letter(second.messages, old, ra.certificate)
    kur = second.messages[0]
    (asked,) = cert_req_messages(kur.body_content)
    assert asked.old_cert_id() == CertId(directory_name(old.issuer_der), old.serial_number)
    assert kur.extra_certs == identity.credential.certificates
    assert asked.template.subject_der == old.subject_der == second.done.certificate.subject_der


class Dialogue(NamedTuple):
    messages: list[PKIMessage]
    done: Done


async def all_messages(world: World, enrollment: Enrollment) -> Dialogue:
    """Have an operation, and return its four messages and what came of it."""
    request = await enrollment.request()
    answer = await world.post(request)
    step = await enrollment.receive(answer)
    assert isinstance(step, Send)
    confirmed = await world.post(step.der)
    done = await enrollment.receive(confirmed)
    assert isinstance(done, Done)
    ders = (request, answer, step.der, confirmed)
    return Dialogue([PKIMessage.from_der(der) for der in ders], done)


def assert_to_the_letter(messages: list[PKIMessage], signer: Certificate, ra: Certificate) -> None:
    """Assert what 9.5.2 to 9.5.4 ask of a request, its answer, certConf and pkiConf."""
    request, answer, conf, confirmed = messages
    for message, own, other in (
        (request, signer, ra),
        (answer, ra, signer),
        (conf, signer, ra),
        (confirmed, ra, signer),
    ):
        header = message.header
        verify_protection(message, signature_algorithm(header.protection_alg_der or b""), own)
        assert header.sender_der == directory_name(own.subject_der)
        assert message is request or header.recipient_der == directory_name(other.subject_der)
        assert len(header.transaction_id or b"") == len(header.sender_nonce or b"") == 16
        assert header.transaction_id == request.header.transaction_id
    assert len({item.header.sender_nonce for item in messages}) == 4
    for sent, received in pairwise(messages):
        assert received.header.recip_nonce == sent.header.sender_nonce
    (asked,) = cert_req_messages(request.body_content)
    assert isinstance(asked.pop, SignaturePOP)
    assert asked.template.spki_der is not None
    content = cert_rep_message(answer.body_content)
    (response,) = content.responses
    assert (response.cert_req_id, response.encrypted) == (asked.cert_req_id, False)
    assert response.certificate_der is not None
    assert [item.body_type for item in messages[2:]] == [BodyType.certConf, BodyType.pkiconf]
    assert (conf.extra_certs, confirmed.extra_certs) == ((), ())


@pytest.mark.requirement("T38", 5, 6)
@pytest.mark.parametrize("octets", [8, 12, 15, 16, 20])
async def test_a_transaction_id_of_eight_octets_and_more(
    base_station: World, key: Any, octets: int
) -> None:
    """Needs no forgiveness, here or at the CA; a senderNonce of fewer than 16 octets does."""
    world = base_station
    device = world.device()
    transaction_id = secrets.token_bytes(octets)
    der = await requests.request(world, cmp_credential(device), key, transaction_id=transaction_id)
    answer = await assert_served(world, der)
    assert answer.header.transaction_id == transaction_id
    assert world.ca.messages[0].header.transaction_id == transaction_id
    confirmed = await world.ask(await requests.confirmation(world, device, answer))
    assert confirmed.body_der == PKICONF_BODY
    assert not any(event.quirks for event in world.events)
    nonce = secrets.token_bytes(octets - 5)
    short = await requests.request(world, cmp_credential(device), key, sender_nonce=nonce)
    await assert_refused(world, short, "badSenderNonce", rule="R6")


@pytest.mark.requirement("T39", 7, 8)
@pytest.mark.parametrize("recip_nonce", [bytes(16), bytes(1), b"", b"anything at all."])
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_the_recip_nonce_of_a_first_message_is_disregarded(
    base_station: World, key: Any, body_type: BodyType, recip_nonce: bytes
) -> None:
    """Without forgiveness; that of certConf is not."""
    world = base_station
    device, der = await asked_for(world, body_type, key, recip_nonce=recip_nonce)
    answer = await assert_served(world, der)
    conf = requests.confirmation_body(answer, 0)
    wrong = await follow(device, answer, conf, now=world.clock(), recip_nonce=recip_nonce)
    refused = await world.ask(wrong)
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRecipientNonce"])
    confirmed = await world.ask(await requests.confirmation(world, device, answer))
    assert confirmed.body_der == PKICONF_BODY
    assert not any(event.quirks for event in world.events)


@pytest.mark.requirement("T32", "T33")
async def test_each_certificate_is_for_its_own_operation(base_station: World, key: Any) -> None:
    """An ir up to a vendor's root, a kur up to the operator's."""
    world = base_station
    for body_type, device in (
        (BodyType.ir, world.operator.device()),
        (BodyType.kur, world.device()),
    ):
        der = await requests.request(world, cmp_credential(device), key, body_type=body_type)
        await assert_refused(world, der, "signerNotTrusted", rule="R21")
        _, der = await asked_for(world, body_type, key)
        await assert_served(world, der)


@pytest.mark.requirement("T35", "T47", 33)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_a_request_brings_the_certificate_of_its_signer(
    base_station: World, key: Any, body_type: BodyType
) -> None:
    """In extraCerts; without it nobody can say who asks."""
    _, der = await asked_for(base_station, body_type, key, extra_certs=())
    await assert_refused(base_station, der, "badMessageCheck", rule="R33")


@pytest.mark.requirement("T34", 103)
@pytest.mark.parametrize("name", ["md5", "sha1"])
async def test_a_broken_hash_in_cert_conf(base_station: World, key: Any, name: str) -> None:
    """What names the certificate has to be one of 6.1.1 as well."""
    world = base_station
    device, der = await asked_for(world, BodyType.ir, key, pvno=CMP2021)
    answer = await assert_served(world, der)
    (response,) = cert_rep_message(answer.body_content).responses
    oid = next(oid for oid, known in HASH_NAMES.items() if known == name)
    octets = digest(name, response.certificate_der or b"")
    algorithm = structures.AlgorithmIdentifier(algorithm=asn1.oid(oid), parameters=None)
    body_der = cert_confirm_body(CertStatus(octets, 0, None, algorithm))
    der = await follow(device, answer, body_der, now=world.clock(), pvno=CMP2021)
    await assert_refused(world, der, "badAlg", rule="R103")
