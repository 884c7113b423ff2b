"""p10cr through the gateway and at the bundled CA: a PKCS#10 in, a cp with certReqId -1 out (RFC 9483 4.1.4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.records import CertificateStatus, Reenroll
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_confirm_content,
    cert_rep_message,
)
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage, body
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import SubjectRule
from ra_gateway.ra.transaction import State
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_answers, assert_served
from tests.support.credentials import cmp_certificate
from tests.support.desk import open_client, open_desk
from tests.support.harness import ANY_IDENTITY, Answer, World
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.requests import confirmation_body, csr, made_by_hand, p10cr

TAKEN = {"body_types": frozenset({BodyType.ir, BodyType.p10cr})}
OPERATOR_SUBJECT = "enb-1.ran.example.net"


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki, endpoint=TAKEN)


@pytest.fixture
def key() -> Any:
    return make_key("p256")


async def refused(world: World, der: bytes, fail_info: str, rule: str) -> str:
    """Send a p10cr that is refused in a cp with certReqId -1; return why."""
    answer = await requests.assert_refused_in_body(
        world, der, fail_info, rule=rule, body_type=BodyType.cp, cert_req_id=-1
    )
    assert world.ca.received == []
    assert status_of(answer).status is PKIStatus.rejection
    return world.events[-1].detail


# --- through the gateway --------------------------------------------------------------------------------------


@pytest.mark.requirement(73, 74, 88, 107)
@pytest.mark.parametrize("ca_says", [-1, 0])
@pytest.mark.parametrize("device_says", [-1, 0])
async def test_a_pkcs10_is_certified_and_confirmed(
    world: World, key: Any, ca_says: int, device_says: int
) -> None:
    """p10cr, cp, certConf, pkiConf: the PKCS#10 goes up as it came; each side has the certReqId it is used to."""

    def script(answer: Answer) -> None:
        if answer.request.body_type is BodyType.p10cr:
            answer.set_response(cert_req_id=ca_says)

    world.ca.script = script
    device = world.device()
    der = await p10cr(world, device, csr(key, requests.SUBJECT, "enb-1.ran.example.net"))
    answer = await assert_served(world, der)
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.cert_req_id == -1
    assert response.certificate_der == world.ca.issued[0].der
    assert world.ca.issued[0].spki_der == requests.spki(key)
    up = world.ca.messages[0]
    assert up.body_der == PKIMessage.from_der(der).body_der
    assert up.header.sender_name_der == cmp_certificate(world.operator.ra.certificate).subject_der

    cert_conf = await follow(
        device, answer, confirmation_body(answer, device_says), now=world.clock()
    )
    assert (await world.ask(cert_conf)).body_type is BodyType.pkiconf
    (status,) = cert_confirm_content(world.ca.messages[1].body_content)
    assert status.cert_req_id == ca_says
    (sent,) = cert_confirm_content(PKIMessage.from_der(cert_conf).body_content)
    assert status == replace(sent, cert_req_id=ca_says)
    assert [event.outcome for event in world.events] == ["issued", "confirmed"]
    assert await world.post(der) == answer.der


@pytest.mark.requirement(107)
async def test_another_cert_req_id_in_cert_conf(world: World, key: Any) -> None:
    """Neither -1 nor 0 is badRequest, and the transaction goes on."""
    device = world.device()
    answer = await world.ask(await p10cr(world, device, csr(key)))
    wrong = await follow(device, answer, confirmation_body(answer, 1), now=world.clock())
    assert fail_names(await world.ask(wrong)) == ["badRequest"]
    right = await follow(device, answer, confirmation_body(answer, -1), now=world.clock())
    assert (await world.ask(right)).body_type is BodyType.pkiconf


@pytest.mark.requirement(85)
async def test_another_cert_req_id_in_the_answer(world: World, key: Any) -> None:
    """A CA that answers 1 did not answer this."""
    world.ca.script = lambda answer: answer.set_response(cert_req_id=1)
    answer = await world.ask(await p10cr(world, world.device(), csr(key)))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])


@pytest.mark.requirement(89, 112)
async def test_a_rejection_is_relayed(world: World, key: Any) -> None:
    """The CA's failInfo reaches the device in a cp."""
    world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badCertTemplate)
    der = await p10cr(world, world.device(), csr(key))
    answer = await world.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.cp, ["badCertTemplate"])
    assert cert_rep_message(answer.body_content).responses[0].cert_req_id == -1
    assert_answers(world, PKIMessage.from_der(der), answer)


@pytest.mark.requirement(54, 65, 112)
async def test_a_bad_self_signature(world: World, key: Any) -> None:
    """badPOP in a cp with certReqId -1; nothing reaches the CA."""
    good = csr(key)
    broken = good[:-1] + bytes([good[-1] ^ 1])
    await refused(world, await p10cr(world, world.device(), broken), "badPOP", "R65")


@pytest.mark.requirement(54, 65)
async def test_a_self_signature_by_another_key(world: World, key: Any) -> None:
    """The key that is asked for has to be the one that signs."""
    other, good = make_key("p256"), csr(key)
    body_der = asn1.decode(structures.CertificationRequest, good)
    info = asn1.raw(body_der.certification_request_info)
    forged = info.replace(requests.spki(key), requests.spki(other))
    der = await p10cr(world, world.device(), good.replace(info, forged))
    await refused(world, der, "badPOP", "R65")


@pytest.mark.requirement(66, 112)
@pytest.mark.parametrize("version", [1, 2])
async def test_another_version(world: World, key: Any, version: int) -> None:
    """A PKCS#10 is of version 0."""
    der = await p10cr(world, world.device(), await made_by_hand(key, version=version))
    await refused(world, der, "badCertTemplate", "R66")


async def test_attributes_may_be_absent(world: World, key: Any) -> None:
    """Some encoders leave them out; nothing is asked for by them."""
    await assert_served(
        world, await p10cr(world, world.device(), await made_by_hand(key, attributes=b""))
    )


def _attribute(oid: str, *values: bytes) -> bytes:
    return asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(0x31, *values))


_NO_EXTENSIONS = asn1.encode(
    structures.ExtensionsBox(
        extensions=[
            structures.Extension(
                extn_id=asn1.oid("2.5.29.15"), critical=True, extn_value=b"\x03\x01\x00"
            )
        ]
    )
)


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(_attribute(OID.msExtensionRequest, _NO_EXTENSIONS), id="Microsoft's"),
        pytest.param(_attribute(OID.extensionRequest), id="no value"),
        pytest.param(
            _attribute(OID.extensionRequest, _NO_EXTENSIONS, _NO_EXTENSIONS), id="two values"
        ),
        pytest.param(_attribute(OID.extensionRequest, _NO_EXTENSIONS) * 2, id="twice"),
    ],
)
async def test_extensions_asked_for_in_a_way_that_a_ca_may_read_otherwise(
    world: World, key: Any, attributes: bytes
) -> None:
    """What the CA certifies has to be what was checked here."""
    request = await made_by_hand(key, attributes=asn1.tlv(0xA0, attributes))
    await refused(
        world, await p10cr(world, world.device(), request), "badCertTemplate", "RFC 2985 5.4.2"
    )


@pytest.mark.parametrize(
    "content", [b"\x30\x00", b"\x05\x00", b"\x30\x03\x02\x01\x00"], ids=lambda der: der.hex()
)
async def test_what_is_no_pkcs10(world: World, content: bytes) -> None:
    """badDataFormat, in the cp."""
    answer = await world.ask(await p10cr(world, world.device(), content))
    assert (answer.body_type, fail_names(answer)) == (BodyType.cp, ["badDataFormat"])
    assert world.events[-1].bug is None


@pytest.mark.requirement(63)
async def test_a_ca_certificate_is_not_asked_for(world: World, key: Any) -> None:
    """basicConstraints in extensionRequest are read like those of a template."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string("CN=x"))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    await refused(world, await p10cr(world, world.device(), request), "notAuthorized", "R63")


@pytest.mark.requirement(61)
async def test_a_short_key_is_not_certified(world: World) -> None:
    """RSA with 1024 bits."""
    der = await p10cr(world, world.device(), csr(make_key("rsa1024")))
    await refused(world, der, "badCertTemplate", "R61")


@pytest.mark.requirement(12)
async def test_another_request_under_its_transaction_id(world: World, key: Any) -> None:
    """transactionIdInUse, and the first is unharmed."""
    device = world.device()
    der = await p10cr(world, device, csr(key))
    answer = await world.ask(der)
    transaction_id = answer.header.transaction_id
    other = await p10cr(world, device, csr(make_key("p256")), transaction_id=transaction_id)
    assert fail_names(await world.ask(other)) == ["transactionIdInUse"]
    assert await world.post(der) == answer.der


# --- identity -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "subject, names",
    [("CN=enb-2.ran.example.net", ()), (requests.SUBJECT, ("enb-2.ran.example.net",))],
)
async def test_a_vendor_device_gets_what_its_domain_allows(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, key: Any, subject: str, names: tuple[str, ...]
) -> None:
    """Subject and subjectAltName of the extensionRequest are held against the patterns."""
    identity = IdentityRules(allowed_subjects=(requests.SUBJECT,), allowed_sans=("dns:enb-1.*",))
    world = World.make(vendor_pki, operator_pki, endpoint=TAKEN, identity=identity)
    der = await p10cr(world, world.device(), csr(key, subject, *names))
    await refused(world, der, "notAuthorized", "R67")
    await assert_served(
        world, await p10cr(world, world.device(), csr(key, requests.SUBJECT, "enb-1.example.net"))
    )


@pytest.mark.requirement(67, 141)
async def test_an_identity_that_the_ra_would_have_to_set(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, key: Any
) -> None:
    """The RA cannot sign a PKCS#10 anew: refused, unless the device asks for just what it gets."""
    identity = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn}")
    world = World.make(vendor_pki, operator_pki, endpoint=TAKEN, identity=identity)
    device = world.device("ENB-1")
    detail = await refused(world, await p10cr(world, device, csr(key)), "badCertTemplate", "R67")
    assert "CN=ENB-1" in detail
    await assert_served(world, await p10cr(world, device, csr(key, "CN=ENB-1")))


async def test_the_refusal_says_what_to_do(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, key: Any
) -> None:
    """The device reads that a PKCS#10 cannot be changed."""
    identity = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn}")
    world = World.make(vendor_pki, operator_pki, endpoint=TAKEN, identity=identity)
    answer = await world.ask(await p10cr(world, world.device(), csr(key)))
    assert "PKCS#10" in status_of(answer).status_string[0]


@pytest.mark.requirement(51)
async def test_a_pkcs10_without_a_subject(world: World, key: Any) -> None:
    """A vendor's device has to say who it wants to be."""
    der = await p10cr(world, world.device(), await made_by_hand(key, subject=""))
    await refused(world, der, "badCertTemplate", "R51")


@pytest.mark.requirement(67)
async def test_an_operator_device_gets_its_own_identity(world: World, key: Any) -> None:
    """As with cr: the names of its certificate, all of them and no others."""
    names = (OPERATOR_SUBJECT,)
    device = world.operator.device(OPERATOR_SUBJECT, san=[f"dns:{OPERATOR_SUBJECT}"])
    subject = device.certificate.subject.rfc4514_string()
    other = await p10cr(world, device, csr(key, "CN=enb-2.ran.example.net", *names))
    await refused(world, other, "notAuthorized", "R67")
    fewer = await p10cr(world, device, csr(key, subject))
    await refused(world, fewer, "badCertTemplate", "R67")
    nameless = await p10cr(world, device, await made_by_hand(key, subject=""))
    await refused(world, nameless, "badCertTemplate", "R67")
    await assert_served(world, await p10cr(world, device, csr(key, subject, *names)))


@pytest.mark.requirement(21, 145)
async def test_strangers_and_the_disabled_are_refused(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, foreign_vendor_pki: VendorPKI, key: Any
) -> None:
    """As with ir: no path, or a vendor that is switched off."""
    disabled = IdentityRules(allowed_subjects=("*",), enabled=False)
    world = World.make(vendor_pki, operator_pki, endpoint=TAKEN, identity=disabled)
    await refused(world, await p10cr(world, world.device(), csr(key)), "notAuthorized", "R145")
    world = World.make(vendor_pki, operator_pki, endpoint=TAKEN, identity=ANY_IDENTITY)
    answer = await world.ask(await p10cr(world, foreign_vendor_pki.device("ENB-1"), csr(key)))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["signerNotTrusted"])


@pytest.mark.requirement(142)
async def test_the_label_names_the_operation(world: World, key: Any) -> None:
    """.../pkcs10 takes p10cr and nothing else."""
    der = await p10cr(world, world.device(), csr(key))
    answer = await world.ask(der, operation="initialization")
    assert fail_names(answer) == ["badRequest"]
    assert (await world.ask(der, operation="pkcs10")).body_type is BodyType.cp


# --- at the bundled CA ----------------------------------------------------------------------------------------


@pytest.mark.requirement(54, 65, 107)
@pytest.mark.parametrize("confirms", [-1, 0])
async def test_the_bundled_ca_certifies_a_pkcs10(
    operator_pki: OperatorPKI, tmp_path: Path, key: Any, confirms: int
) -> None:
    """From a registered RA: -1 in cp, certConf with -1 or 0; a broken signature is badPOP."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        request = csr(key, "CN=enb1.example.net,O=Example Operator", "enb1.example.net")
        der = await desk.signed(desk.header(), body(BodyType.p10cr, request))
        enrolment = desk.received(key, der, await desk.send(der))
        (response,) = cert_rep_message(enrolment.answer.body_content).responses
        assert (enrolment.answer.body_type, response.cert_req_id) == (BodyType.cp, -1)
        assert (await desk.send(der)).der == enrolment.answer.der
        await desk.confirm(enrolment, cert_req_id=confirms)
        assert await desk.status(enrolment.certificate) is CertificateStatus.confirmed

        broken = request[:-1] + bytes([request[-1] ^ 1])
        der = await desk.signed(desk.header(), body(BodyType.p10cr, broken))
        assert await desk.refused(der) == (BodyType.cp, PKIFailureInfo.badPOP)
        (response,) = cert_rep_message(desk.answers[-1].body_content).responses
        assert response.cert_req_id == -1
        assert response.status_info.status is PKIStatus.rejection


@pytest.mark.requirement(108)
async def test_a_device_may_reject_what_it_got(world: World, key: Any) -> None:
    """certConf with rejection and certReqId -1."""
    device = world.device()
    answer = await world.ask(await p10cr(world, device, csr(key)))
    (response,) = cert_rep_message(answer.body_content).responses
    no = PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.incorrectData,))
    certificate_der = response.certificate_der or b""
    body_der = cert_confirm_body(CertStatus(digest("sha256", certificate_der), -1, no))
    der = await follow(device, answer, body_der, now=world.clock())
    assert (await world.ask(der)).body_type is BodyType.pkiconf
    (found,) = await world.store.find(answer.header.transaction_id or b"")
    assert found.state is State.REJECTED


@pytest.mark.requirement(65, 67, 71)
async def test_a_device_enrols_at_the_bundled_ca_by_itself(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """Client mode: the names that a PKCS#10 leaves out are its end entity's; it counts as an enrolment."""
    policy = IssuancePolicy(reenroll=Reenroll.deny)
    async with open_client(operator_pki, vendor_pki, tmp_path / "ledger.db", policy=policy) as desk:
        first, second = make_key("p256"), make_key("p256")
        request = await made_by_hand(first, subject="")
        der = await desk.signed(desk.header(), body(BodyType.p10cr, request))
        enrolment = desk.received(first, der, await desk.send(der))
        await desk.confirm(enrolment, cert_req_id=-1)
        assert enrolment.certificate.subject == "CN=enb1.example.net,O=Example Operator"

        again = body(BodyType.p10cr, await made_by_hand(second, subject=""))
        by_vendor = await desk.signed(desk.header(), again)
        assert await desk.refused(by_vendor) == (BodyType.cp, PKIFailureInfo.notAuthorized)
        by_itself = await desk.signed(desk.header(), again, enrolment.entity)
        assert (await desk.send(by_itself)).body_type is BodyType.cp
        desk.received(second, by_itself, desk.answers[-1])
