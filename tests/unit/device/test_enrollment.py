"""The simulated base station: what it sends, and what it does not let itself be told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ra_gateway.cmp.algorithms import digest, signature_algorithm
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    cert_confirm_content,
    cert_rep_body,
    error_body,
)
from ra_gateway.cmp.codes import CMP_CONTENT_TYPE, BodyType, PKIStatus
from ra_gateway.cmp.crmf import SignaturePOP, cert_req_messages
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import ANYONE, IMPLICIT_CONFIRM, PKIMessage, assemble
from ra_gateway.cmp.names import (
    directory_name,
    general_names_der,
)
from ra_gateway.cmp.polling import PollRep, poll_rep_body, poll_req_content
from ra_gateway.cmp.protection import verify_protection
from ra_gateway.cmp.requests import read_request
from ra_gateway.cmp.responder import reply_header
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import authenticate
from ra_gateway.device import client
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import AnswerUntrusted, CertificateRejected, EnrollmentRefused
from ra_gateway.device.values import (
    DeviceIdentity,
    Direction,
    Done,
    RequestOptions,
    Send,
    operator_trust,
)
from ra_gateway.errors import PKIFailureInfo
from tests.support import pki
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.dialogue import NAME, NOW, RA, octets_source


@pytest.fixture
def ra(operator_pki: pki.OperatorPKI) -> RA:
    return RA(operator_pki)


@pytest.fixture
def vendor_device(vendor_pki: pki.VendorPKI, ra: RA) -> DeviceIdentity:
    """A base station as it leaves the factory, with the operator's root provisioned."""
    return DeviceIdentity(cmp_credential(vendor_pki.device()), operator_trust(ra.root))


def enrollment(identity: DeviceIdentity, *, key: Any = None, **options: Any) -> Enrollment:
    options.setdefault("subject", NAME)
    find_fault = options.pop("find_fault", lambda item: "")
    return Enrollment(
        identity,
        key or pki.make_key("p256"),
        RequestOptions(**options),
        clock=lambda: NOW,
        random_octets=octets_source(),
        find_fault=find_fault,
    )


async def complete(operation: Enrollment, ra: RA) -> Done:
    """Run an operation against an RA that does everything right."""
    step = await operation.receive(await ra.answer(await operation.request()))
    assert isinstance(step, Send)
    done = await operation.receive(await ra.pkiconf(step.der))
    assert isinstance(done, Done)
    return done


def der_of(key: pki.PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


# --- what it sends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "mldsa44"])
@pytest.mark.parametrize("subject", [NAME, "", None])
@pytest.mark.requirement(55, 56)
async def test_what_it_asks_passes_the_checks_of_the_gateway(
    vendor_pki: pki.VendorPKI, vendor_device: DeviceIdentity, subject: str | None, kind: pki.KeyKind
) -> None:
    """An ir is authentic and proves possession, with and without a subject in the template."""
    key = pki.make_key(kind)
    san = ("dns:enb1.example.net", "ip:192.0.2.1")
    operation = enrollment(
        vendor_device, key=key, subject=subject, san=san, cert_profile="eNB", implicit_confirm=True
    )
    message = PKIMessage.from_der(await operation.request())
    domain = TrustDomain("acme", DomainKind.vendor, (cmp_certificate(vendor_pki.root.certificate),))
    request = read_request(authenticate(message, [domain], HeaderRules(), NOW), HeaderRules())
    assert request.public_key_der == der_of(key)
    assert message.header.recip_nonce is None
    assert message.header.message_time == NOW
    assert message.header.implicit_confirm
    assert message.header.cert_profiles == ("eNB",)
    assert message.header.recipient_der == ANYONE
    pop = request.request.pop
    assert isinstance(pop, SignaturePOP)
    assert (pop.input_der is not None) == (subject is None)
    (extension,) = request.request.template.extensions
    assert extension.value == general_names_der(san)
    assert extension.critical == (not subject)


async def test_a_request_is_made_once(vendor_device: DeviceIdentity) -> None:
    """A retransmission has the same octets; another operation shares none of its identifiers."""
    operation = enrollment(vendor_device)
    first = await operation.request()
    assert await operation.request() == first
    assert len(operation.trace) == 1


async def test_options_show_in_the_message(vendor_device: DeviceIdentity) -> None:
    """No clock, another certReqId and a known recipient."""
    operation = enrollment(
        vendor_device, message_time=False, cert_req_id=355, recipient="CN=Operator CA"
    )
    message = PKIMessage.from_der(await operation.request())
    assert message.header.message_time is None
    assert cert_req_messages(message.body_content)[0].cert_req_id == 355
    name = x509.Name.from_rfc4514_string("CN=Operator CA").public_bytes()
    assert message.header.recipient_der == directory_name(name)


@pytest.mark.requirement(8, 80, 102)
async def test_enrolment_and_renewal(vendor_device: DeviceIdentity, ra: RA) -> None:
    """ir, ip, certConf, pkiconf; then kur, kup, certConf, pkiconf with what came out of the first."""
    first = enrollment(vendor_device, san=("dns:enb1.example.net",))
    done = await complete(first, ra)
    assert done.operator_root == ra.root
    assert [item.subject for item in done.chain] == [
        cmp_certificate(ra.operator.issuing.certificate).subject
    ]
    assert not done.confirmed_implicitly
    conf = PKIMessage.from_der(first.trace[2].der)
    (status,) = cert_confirm_content(conf.body_content)
    assert status.cert_hash == digest("sha256", done.certificate.der)
    assert status.takes_certificate

    renewal = enrollment(done.identity, body_type=BodyType.kur, subject=None)
    renewed = await complete(renewal, ra)
    assert renewed.certificate.subject == done.certificate.subject
    assert renewed.certificate.spki_der != done.certificate.spki_der

    kur = PKIMessage.from_der(renewal.trace[0].der)
    (request,) = cert_req_messages(kur.body_content)
    old_id = request.old_cert_id()
    assert old_id is not None
    assert old_id.serial_number == done.certificate.serial_number
    assert old_id.issuer_der == directory_name(done.certificate.issuer_der)
    assert request.template.subject_der == done.certificate.subject_der
    assert request.template.extensions[0].value == done.certificate.subject_alt_name_der
    assert kur.extra_certs[0] == done.certificate.der
    assert kur.header.recipient_der == directory_name(done.certificate.issuer_der)


async def test_the_dialogue_can_be_told(vendor_device: DeviceIdentity, ra: RA) -> None:
    """The trace has each message with direction, type, size and status."""
    operation = enrollment(vendor_device)
    await complete(operation, ra)
    told = [(item.direction, item.name, str(item.status or "")) for item in operation.trace]
    assert told == [
        (Direction.sent, "ir", ""),
        (Direction.received, "ip", "accepted"),
        (Direction.sent, "certConf", "accepted"),
        (Direction.received, "pkiconf", ""),
    ]
    assert all(item.size_bytes == len(item.der) for item in operation.trace)


@pytest.mark.requirement(34, "T49", "T50")
@pytest.mark.parametrize("again", [False, True])
async def test_cert_conf_without_extra_certs(
    vendor_device: DeviceIdentity, ra: RA, again: bool
) -> None:
    """certConf is by the key of the request, and leaves its certificates out unless told otherwise."""
    operation = enrollment(vendor_device, **({"extra_certs_in_cert_conf": True} if again else {}))
    await complete(operation, ra)
    request, _, conf, _ = (PKIMessage.from_der(item.der) for item in operation.trace)
    signer = vendor_device.signing
    assert request.extra_certs == signer.certificates
    assert conf.extra_certs == (signer.certificates if again else ())
    assert conf.header.sender_der == request.header.sender_der == signer.sender_der
    assert conf.header.sender_kid == signer.certificate.subject_key_identifier
    algorithm = signature_algorithm(conf.header.protection_alg_der or b"")
    verify_protection(conf, algorithm, signer.certificate)


@pytest.mark.requirement(99)
@pytest.mark.parametrize("asked", [True, False])
async def test_implicit_confirmation_counts_only_if_asked_for(
    vendor_device: DeviceIdentity, ra: RA, asked: bool
) -> None:
    """A grant nobody asked for does not keep the device from confirming."""
    operation = enrollment(vendor_device, implicit_confirm=asked)
    answer = await ra.answer(await operation.request(), general_info=(IMPLICIT_CONFIRM,))
    step = await operation.receive(answer)
    if asked:
        assert isinstance(step, Done)
        assert step.confirmed_implicitly
    else:
        assert isinstance(step, Send)


# --- what it takes for an operator's root ---------------------------------------------------------------------


@pytest.mark.requirement(140)
@pytest.mark.parametrize("where", ["extraCerts", "caPubs"])
async def test_root_taken_from_the_ip(vendor_device: DeviceIdentity, ra: RA, where: str) -> None:
    """Without a provisioned root, the one that came with the ip is taken, if everything rests on it."""
    operation = enrollment(replace(vendor_device, trust=None))
    chain = cmp_credential(ra.operator.ra).certificates
    root = ra.root.der
    answer = await ra.answer(
        await operation.request(),
        extra_certs=(*chain, root) if where == "extraCerts" else chain,
        ca_pubs=(root,) if where == "caPubs" else (),
    )
    step = await operation.receive(answer)
    assert isinstance(step, Send)
    done = await operation.receive(await ra.pkiconf(step.der))
    assert isinstance(done, Done)
    assert done.operator_root == ra.root
    assert done.identity.trust is not None
    assert done.identity.trust.anchors == (ra.root,)


@pytest.mark.requirement(24)
async def test_root_that_only_one_of_both_rests_on(vendor_device: DeviceIdentity, ra: RA) -> None:
    """A root is not taken that vouches for the sender alone, nor for the new certificate alone."""
    foreign = pki.make_operator_pki("Somebody Else")
    everything = (
        *cmp_credential(foreign.ra).certificates,
        pki.certificate_der(foreign.root.certificate),
        cmp_certificate(ra.operator.issuing.certificate).der,
        ra.root.der,
    )
    operation = enrollment(replace(vendor_device, trust=None))
    answer = await ra.answer(
        await operation.request(), signer=cmp_credential(foreign.ra), extra_certs=everything
    )
    with pytest.raises(AnswerUntrusted):
        await operation.receive(answer)


async def test_no_root_at_all(vendor_device: DeviceIdentity, ra: RA) -> None:
    """TS 33.310 9.2: neither provisioned nor in the ip, and the device aborts."""
    operation = enrollment(replace(vendor_device, trust=None))
    answer = await ra.answer(
        await operation.request(), extra_certs=cmp_credential(ra.operator.ra).certificates
    )
    with pytest.raises(AnswerUntrusted, match="none came with the ip"):
        await operation.receive(answer)


@pytest.mark.requirement(24)
async def test_provisioned_root_is_the_only_one(vendor_device: DeviceIdentity) -> None:
    """With a provisioned root, another that comes with the ip means nothing."""
    foreign = RA(pki.make_operator_pki("Somebody Else"))
    operation = enrollment(vendor_device)
    with pytest.raises(AnswerUntrusted, match="no path"):
        await operation.receive(await foreign.answer(await operation.request()))


@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
def test_only_an_ir_does_without_a_root(vendor_device: DeviceIdentity, body_type: BodyType) -> None:
    """Later operations begin with the root of the first."""
    with pytest.raises(ValueError, match="operator root"):
        enrollment(replace(vendor_device, trust=None), body_type=body_type)


def test_other_message_types_are_no_enrolment(vendor_device: DeviceIdentity) -> None:
    """rr asks for no certificate."""
    with pytest.raises(ValueError, match="rr"):
        enrollment(vendor_device, body_type=BodyType.rr)


# --- answers it does not believe ------------------------------------------------------------------------------

SPOILT_HEADERS = {
    "another transactionID": {"transaction_id": bytes(16)},
    "no transactionID": {"transaction_id": None},
    "another recipNonce": {"recip_nonce": bytes(16)},
    "no recipNonce": {"recip_nonce": None},
    "short senderNonce": {"sender_nonce": bytes(8)},
    "no senderNonce": {"sender_nonce": None},
    "pvno 1": {"pvno": 1},
}


@pytest.mark.requirement(2, 4, 6, 8, 83)
@pytest.mark.parametrize("spoilt", SPOILT_HEADERS.values(), ids=SPOILT_HEADERS.keys())
async def test_answer_with_a_wrong_header(
    vendor_device: DeviceIdentity, ra: RA, spoilt: dict[str, Any]
) -> None:
    """It is not believed, changes nothing, and the right one may still follow."""
    operation = enrollment(vendor_device)
    request = await operation.request()
    with pytest.raises(AnswerUntrusted):
        await operation.receive(await ra.answer(request, **spoilt))
    step = await operation.receive(await ra.answer(request))
    assert isinstance(step, Send)
    with pytest.raises(AnswerUntrusted):
        await operation.receive(await ra.pkiconf(step.der, **spoilt))
    assert isinstance(await operation.receive(await ra.pkiconf(step.der)), Done)


@pytest.mark.requirement(15, 84)
async def test_changed_answer(vendor_device: DeviceIdentity, ra: RA) -> None:
    """One changed bit in header, body or signature, and it is not believed."""
    operation = enrollment(vendor_device)
    answer = await ra.answer(await operation.request())
    message = PKIMessage.from_der(answer)
    assert message.protection is not None
    for part in (message.header_der, message.body_der, message.protection):
        at = answer.index(part) + len(part) - 3
        spoilt = answer[:at] + bytes((answer[at] ^ 1,)) + answer[at + 1 :]
        with pytest.raises(AnswerUntrusted):
            await operation.receive(spoilt)


@pytest.mark.requirement(13, 84)
async def test_unprotected_answer(vendor_device: DeviceIdentity, ra: RA) -> None:
    """A certificate in an unprotected ip is not taken."""
    operation = enrollment(vendor_device)
    message = PKIMessage.from_der(await ra.answer(await operation.request()))
    header = replace(message.header, protection_alg_der=None)
    naked = assemble(header.to_der(), message.body_der, None, message.extra_certs)
    with pytest.raises(AnswerUntrusted, match="not protected"):
        await operation.receive(naked)


@pytest.mark.requirement(25)
async def test_signer_without_digital_signature(vendor_device: DeviceIdentity, ra: RA) -> None:
    """TS 33.310: what signs CMP has digitalSignature in its keyUsage."""
    signer = ra.operator.issuing.issue("RA", key_usage=["keyEncipherment"])
    operation = enrollment(vendor_device)
    answer = await ra.answer(await operation.request(), signer=cmp_credential(signer))
    with pytest.raises(AnswerUntrusted, match="digitalSignature"):
        await operation.receive(answer)


async def test_answer_of_another_type(vendor_device: DeviceIdentity, ra: RA) -> None:
    """A cp does not answer an ir, nor a pkiconf; nor an ip a certConf."""
    operation = enrollment(vendor_device)
    request = await operation.request()
    good = CertResponse(0, PKIStatusInfo(PKIStatus.accepted), ra.issue(request))
    wrong = cert_rep_body(BodyType.cp, CertRepMessage((good,)))
    for body_der in (wrong, PKICONF_BODY):
        with pytest.raises(AnswerUntrusted, match="expected was ip"):
            await operation.receive(await ra.answer(request, body_der=body_der))
    ip = await ra.answer(request)
    step = await operation.receive(ip)
    assert isinstance(step, Send)
    with pytest.raises(AnswerUntrusted, match="expected was pkiconf"):
        await operation.receive(ip)
    spoilt = await ra.pkiconf(step.der, body_der=b"\xb3\x02\x30\x00")
    with pytest.raises(AnswerUntrusted, match="not NULL"):
        await operation.receive(spoilt)


@pytest.mark.requirement(96)
async def test_response_that_contradicts_itself(vendor_device: DeviceIdentity, ra: RA) -> None:
    """Another certReqId, accepted without a certificate, or accepted with failInfo."""
    operation = enrollment(vendor_device)
    request = await operation.request()
    accepted = PKIStatusInfo(PKIStatus.accepted)
    issued = ra.issue(request)
    torn = PKIStatusInfo(PKIStatus.accepted, (), (PKIFailureInfo.badPOP,))
    for response, why in (
        (CertResponse(1, accepted, issued), "certReqId 1"),
        (CertResponse(0, accepted), "without a plain certificate"),
        (CertResponse(0, torn, issued), "with failInfo"),
    ):
        with pytest.raises(AnswerUntrusted, match=why):
            await operation.receive(await ra.answer(request, response=response))
    for responses in ((), (CertResponse(0, accepted, issued),) * 2):
        body_der = cert_rep_body(BodyType.ip, CertRepMessage(responses))
        with pytest.raises(AnswerUntrusted, match="exactly one"):
            await operation.receive(await ra.answer(request, body_der=body_der))


@pytest.mark.parametrize("octets", [b"", b"<html>", b"\x30\x03\x02\x01\x02"])
async def test_answer_that_is_no_message(vendor_device: DeviceIdentity, octets: bytes) -> None:
    """It is not believed, and the trace has it."""
    operation = enrollment(vendor_device)
    await operation.request()
    with pytest.raises(AnswerUntrusted):
        await operation.receive(octets)
    assert (operation.trace[-1].name, operation.trace[-1].der) == ("not CMP", octets)


async def test_pkiconf_by_somebody_else(vendor_device: DeviceIdentity, ra: RA) -> None:
    """Another base station of the operator cannot confirm, though its certificate has the same root."""
    operation = enrollment(vendor_device)
    step = await operation.receive(await ra.answer(await operation.request()))
    assert isinstance(step, Send)
    other = cmp_credential(ra.operator.device("enb2.example.net"))
    spoilt = await ra.pkiconf(step.der, signer=other, extra_certs=other.certificates)
    with pytest.raises(AnswerUntrusted, match="somebody else"):
        await operation.receive(spoilt)


# --- refusals -------------------------------------------------------------------------------------------------

NO = PKIStatusInfo(PKIStatus.rejection, ("No.",), (PKIFailureInfo.notAuthorized,))


@pytest.mark.requirement(89, 112)
@pytest.mark.parametrize("provisioned", [True, False])
async def test_refusal_in_ip(vendor_device: DeviceIdentity, ra: RA, provisioned: bool) -> None:
    """It is told with its status; without an operator's root nobody knows whose refusal it is."""
    identity = vendor_device if provisioned else replace(vendor_device, trust=None)
    operation = enrollment(identity)
    answer = await ra.answer(await operation.request(), response=CertResponse(0, NO))
    with pytest.raises(EnrollmentRefused, match="refused with ip: rejection notAuthorized") as e:
        await operation.receive(answer)
    assert (e.value.status_info, e.value.authenticated) == (NO, provisioned)
    assert "admit this device" in e.value.todo
    assert operation.trace[-1].status == NO


@pytest.mark.requirement(113, 114)
@pytest.mark.parametrize("protected", [True, False])
async def test_refusal_in_error(vendor_device: DeviceIdentity, ra: RA, protected: bool) -> None:
    """The operator's ends the operation; anybody's is called what it is, and the true answer may follow."""
    operation = enrollment(vendor_device)
    if protected:
        answer = await ra.answer(await operation.request(), body_der=error_body(NO))
    else:
        request = PKIMessage.from_der(await operation.request())
        header = reply_header(request.header, sender_nonce=bytes(16), now=NOW)
        answer = assemble(header.to_der(), error_body(NO), None)
    with pytest.raises(EnrollmentRefused) as e:
        await operation.receive(answer)
    assert (e.value.body_type, e.value.authenticated) == (BodyType.error, protected)
    assert ("not authenticated" in str(e.value)) is not protected
    good = await ra.answer(await operation.request())
    if protected:
        with pytest.raises(RuntimeError):
            await operation.receive(good)
    else:
        assert isinstance(await operation.receive(good), Send)


async def test_error_instead_of_pkiconf(vendor_device: DeviceIdentity, ra: RA) -> None:
    """A refused certConf ends the operation."""
    operation = enrollment(vendor_device)
    step = await operation.receive(await ra.answer(await operation.request()))
    assert isinstance(step, Send)
    with pytest.raises(EnrollmentRefused):
        await operation.receive(await ra.pkiconf(step.der, body_der=error_body(NO)))


# --- waiting --------------------------------------------------------------------------------------------------

WAITING = PKIStatusInfo(PKIStatus.waiting)


def _poll_rep(seconds: int, cert_req_id: int = 0) -> bytes:
    return poll_rep_body(PollRep(cert_req_id, seconds))


@pytest.mark.requirement(117, 118)
@pytest.mark.parametrize("original_nonce", [False, True])
async def test_it_polls_when_told_to_wait(
    vendor_device: DeviceIdentity, ra: RA, original_nonce: bool
) -> None:
    """At once, and then as it is told; for the pkiConf as well."""
    operation = enrollment(vendor_device)
    request = await operation.request()
    nonce = PKIMessage.from_der(request).header.sender_nonce
    step = await operation.receive(await ra.answer(request, response=CertResponse(0, WAITING)))
    assert isinstance(step, Send)
    assert step.after_seconds == 0
    for seconds, expected in ((7, 7), (0, 1)):
        poll = PKIMessage.from_der(step.der)
        assert (poll.body_type, poll_req_content(poll.body_content)) == (BodyType.pollReq, 0)
        assert poll.header.recip_nonce == ra.nonce
        step = await operation.receive(await ra.answer(step.der, body_der=_poll_rep(seconds)))
        assert isinstance(step, Send)
        assert step.after_seconds == expected
    response = CertResponse(0, PKIStatusInfo(PKIStatus.accepted), ra.issue(request))
    body_der = cert_rep_body(BodyType.ip, CertRepMessage((response,)))
    header: dict[str, Any] = {"recip_nonce": nonce} if original_nonce else {}
    step = await operation.receive(await ra.answer(step.der, body_der=body_der, **header))
    assert isinstance(step, Send)
    assert PKIMessage.from_der(step.der).body_type is BodyType.certConf
    step = await operation.receive(await ra.pkiconf(step.der, body_der=error_body(WAITING)))
    assert isinstance(step, Send)
    assert poll_req_content(PKIMessage.from_der(step.der).body_content) == -1
    step = await operation.receive(await ra.answer(step.der, body_der=_poll_rep(3, -1)))
    assert isinstance(step, Send)
    assert isinstance(await operation.receive(await ra.pkiconf(step.der)), Done)


async def test_who_has_no_root_yet_polls_too(vendor_device: DeviceIdentity, ra: RA) -> None:
    """The root comes with the last answer."""
    operation = enrollment(replace(vendor_device, trust=None))
    request = await operation.request()
    step = await operation.receive(await ra.answer(request, response=CertResponse(0, WAITING)))
    assert isinstance(step, Send)


async def test_waiting_is_believed_from_the_operator_only(
    vendor_device: DeviceIdentity, ra: RA
) -> None:
    """Nor is a pollRep that was not asked for, nor one about something else."""
    operation = enrollment(vendor_device)
    request = await operation.request()
    stranger = cmp_credential(pki.make_operator_pki("Other Operator").ra)
    waiting = CertResponse(0, WAITING)
    with pytest.raises(AnswerUntrusted):
        await operation.receive(await ra.answer(request, response=waiting, signer=stranger))
    with pytest.raises(AnswerUntrusted):
        await operation.receive(await ra.answer(request, body_der=_poll_rep(1)))
    step = await operation.receive(await ra.answer(request, response=waiting))
    assert isinstance(step, Send)
    with pytest.raises(AnswerUntrusted, match="certReqId 5"):
        await operation.receive(await ra.answer(step.der, body_der=_poll_rep(1, 5)))
    with pytest.raises(EnrollmentRefused, match="cannot be"):
        await operation.receive(await ra.answer(step.der, body_der=error_body(WAITING)))


# --- certificates it rejects ----------------------------------------------------------------------------------


def _for_another_key(ra: RA) -> bytes:
    return pki.certificate_der(ra.operator.issuing.sign(NAME, pki.make_key("p256").public_key()))


async def _rejected(operation: Enrollment, ra: RA, answer: bytes, why: str) -> None:
    step = await operation.receive(answer)
    assert isinstance(step, Send)
    (status,) = cert_confirm_content(PKIMessage.from_der(step.der).body_content)
    assert not status.takes_certificate
    assert operation.trace[-1].status == status.status_info
    with pytest.raises(CertificateRejected, match=why):
        await operation.receive(await ra.pkiconf(step.der))


@pytest.mark.requirement(86, 101)
async def test_certificate_for_another_key(vendor_device: DeviceIdentity, ra: RA) -> None:
    """It is rejected with certConf."""
    operation = enrollment(vendor_device)
    response = CertResponse(0, PKIStatusInfo(PKIStatus.accepted), _for_another_key(ra))
    answer = await ra.answer(await operation.request(), response=response)
    await _rejected(operation, ra, answer, "another key")


@pytest.mark.requirement(87, 101)
async def test_certificate_of_another_ca(vendor_device: DeviceIdentity, ra: RA) -> None:
    """It is rejected with certConf although the answer is authentic."""
    operation = enrollment(vendor_device)
    request = await operation.request()
    foreign = RA(pki.make_operator_pki("Somebody Else"))
    response = CertResponse(0, PKIStatusInfo(PKIStatus.accepted), foreign.issue(request))
    await _rejected(operation, ra, await ra.answer(request, response=response), "no path")


@pytest.mark.requirement(101)
async def test_certificate_the_device_does_not_want(vendor_device: DeviceIdentity, ra: RA) -> None:
    """Whoever drives the device may have an opinion of its own."""
    operation = enrollment(vendor_device, find_fault=lambda item: f"{item.subject} is not me")
    await _rejected(operation, ra, await ra.answer(await operation.request()), "is not me")


@pytest.mark.requirement(101)
async def test_renewal_under_another_name(vendor_device: DeviceIdentity, ra: RA) -> None:
    """A kup must bring the old subject."""
    done = await complete(enrollment(vendor_device), ra)
    key = pki.make_key("p256")
    operation = enrollment(done.identity, key=key, body_type=BodyType.kur, subject=None)
    other = pki.certificate_der(ra.operator.issuing.sign("CN=enb2", key.public_key()))
    response = CertResponse(0, PKIStatusInfo(PKIStatus.accepted), other)
    answer = await ra.answer(await operation.request(), response=response)
    await _rejected(operation, ra, answer, "subject changed")


async def test_bad_certificate_with_implicit_confirmation(
    vendor_device: DeviceIdentity, ra: RA
) -> None:
    """Nobody can be told; it is still not taken."""
    operation = enrollment(vendor_device, implicit_confirm=True)
    response = CertResponse(0, PKIStatusInfo(PKIStatus.accepted), _for_another_key(ra))
    answer = await ra.answer(
        await operation.request(), response=response, general_info=(IMPLICIT_CONFIRM,)
    )
    with pytest.raises(CertificateRejected):
        await operation.receive(answer)


# --- misuse ---------------------------------------------------------------------------------------------------


async def test_answers_only_when_awaited(vendor_device: DeviceIdentity, ra: RA) -> None:
    """Before the request and after the end there is nothing to receive."""
    operation = enrollment(vendor_device)
    with pytest.raises(RuntimeError):
        await operation.receive(b"")
    done_operation = enrollment(vendor_device)
    await complete(done_operation, ra)
    with pytest.raises(RuntimeError):
        await done_operation.receive(b"")


# --- over HTTP ------------------------------------------------------------------------------------------------

Handler = Callable[[web.Request], Any]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def _serve(handler: Handler) -> TestServer:
    app = web.Application()
    app.router.add_post("/cmp", handler)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    return server


async def test_run_over_http(
    vendor_device: DeviceIdentity, ra: RA, session: aiohttp.ClientSession
) -> None:
    """Each message is posted as application/pkixcmp until the operation is done."""

    async def handler(request: web.Request) -> web.Response:
        assert request.content_type == CMP_CONTENT_TYPE
        der = await request.read()
        answer = (
            ra.pkiconf if PKIMessage.from_der(der).body_type is BodyType.certConf else ra.answer
        )
        return web.Response(body=await answer(der), content_type=CMP_CONTENT_TYPE)

    server = await _serve(handler)
    async with server:
        done = await client.run(enrollment(vendor_device), str(server.make_url("/cmp")), session)
    assert done.certificate.issuer == cmp_certificate(ra.operator.issuing.certificate).subject


@pytest.mark.parametrize("patience_seconds", [20.0, 19.0])
async def test_it_waits_as_it_is_told(
    vendor_device: DeviceIdentity,
    ra: RA,
    session: aiohttp.ClientSession,
    patience_seconds: float,
) -> None:
    """Between polls it sleeps; after as much as it may be told to wait it gives up."""
    answers: list[dict[str, Any]] = [
        {"response": CertResponse(0, WAITING)},
        *[{"body_der": _poll_rep(10)}] * 2,
    ]
    first: list[bytes] = []
    slept: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        der = await request.read()
        first.append(der)
        if answers:
            body = await ra.answer(der, **answers.pop(0))
        elif PKIMessage.from_der(der).body_type is BodyType.certConf:
            body = await ra.pkiconf(der)
        else:
            response = CertResponse(0, PKIStatusInfo(PKIStatus.accepted), ra.issue(first[0]))
            content = cert_rep_body(BodyType.ip, CertRepMessage((response,)))
            body = await ra.answer(der, body_der=content)
        return web.Response(body=body, content_type=CMP_CONTENT_TYPE)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    server = await _serve(handler)
    async with server:
        running = client.run(
            enrollment(vendor_device),
            str(server.make_url("/cmp")),
            session,
            patience_seconds=patience_seconds,
            sleep=sleep,
        )
        if patience_seconds == 20.0:
            assert isinstance(await running, Done)
            assert slept == [10, 10]
        else:
            with pytest.raises(client.StillWaiting):
                await running
            assert slept == [10]


@pytest.mark.requirement(91)
async def test_cmp_in_an_http_error_is_read(
    vendor_device: DeviceIdentity, ra: RA, session: aiohttp.ClientSession
) -> None:
    """RFC 9811 3.4: a PKIMessage may come with a 4xx or 5xx."""

    async def handler(request: web.Request) -> web.Response:
        body = await ra.answer(await request.read(), body_der=error_body(NO))
        return web.Response(body=body, content_type=CMP_CONTENT_TYPE, status=503)

    server = await _serve(handler)
    async with server:
        with pytest.raises(EnrollmentRefused):
            await client.run(enrollment(vendor_device), str(server.make_url("/cmp")), session)


@pytest.mark.parametrize(
    "path, status, todo",
    [("/elsewhere", 404, "path of the URL"), ("/cmp", 503, "Try again later")],
)
async def test_http_error_without_cmp(
    session: aiohttp.ClientSession, path: str, status: int, todo: str
) -> None:
    """The status is told, and what to do about it."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="sorry", status=503)

    server = await _serve(handler)
    async with server:
        with pytest.raises(client.NotCMP, match=f"HTTP {status}") as e:
            await client.post(session, str(server.make_url(path)), b"")
    assert (e.value.status, todo in e.value.todo) == (status, True)


async def test_answer_without_end(session: aiohttp.ClientSession) -> None:
    """What is longer than any answer is not read to its end."""

    async def handler(request: web.Request) -> web.Response:
        body = bytes(client.MAX_ANSWER_BYTES + 1)
        return web.Response(body=body, content_type=CMP_CONTENT_TYPE)

    server = await _serve(handler)
    async with server:
        with pytest.raises(client.NotCMP, match="longer than"):
            await client.post(session, str(server.make_url("/cmp")), b"")


async def test_no_answer_in_time(session: aiohttp.ClientSession) -> None:
    """The wait ends."""

    async def handler(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    server = await _serve(handler)
    async with server:
        with pytest.raises(client.ServerUnreachable, match=r"within 0\.05 s"):
            await client.post(session, str(server.make_url("/cmp")), b"", timeout_seconds=0.05)


async def test_nobody_listens(session: aiohttp.ClientSession) -> None:
    """A refused connection is told with what to check."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(client.ServerUnreachable, match="gateway is running"):
        await client.post(session, f"http://127.0.0.1:{port}/cmp", b"")


async def test_no_url(session: aiohttp.ClientSession) -> None:
    """A URL that is none is told with an example."""
    with pytest.raises(client.ServerUnreachable, match="is not a URL"):
        await client.post(session, "gateway", b"")
