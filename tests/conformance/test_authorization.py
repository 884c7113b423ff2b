"""Who may what at the gateway: which certificates count as a device's, what they may ask for, and what is relayed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ra_gateway.ca.access import Mode
from ra_gateway.ca.core import IssuancePolicy
from ra_gateway.ca.records import Reenroll
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.certificates import ExtensionOID
from ra_gateway.cmp.codes import OID, PRIVILEGED_PURPOSES, RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import (
    CertId,
    CertStatus,
    CertTemplate,
    Control,
    Extension,
    InfoTypeAndValue,
    PKIStatusInfo,
    RevDetails,
    body,
    cert_confirm_body,
    cert_id_der,
    cert_req_messages,
    error_body,
    rev_req_body,
)
from ra_gateway.cmp.names import directory_name, from_rfc4514, rfc4514
from ra_gateway.cmp.replies import IMPLICIT_CONFIRM
from ra_gateway.errors import PKIFailureInfo
from tests.conformance.test_ca_client import open_client
from tests.conformance.test_p10cr import made_by_hand, p10cr
from tests.support import pki, requests
from tests.support.asserts import assert_refused, assert_served
from tests.support.desk import SUBJECT, Desk, open_desk
from tests.support.harness import (
    Answer,
    World,
    cmp_certificate,
    cmp_credential,
    fail_names,
    follow,
    status_of,
)
from tests.support.polling import EVERY_TYPE, Operation

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


@pytest.fixture
def world(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki)


@pytest.fixture
def key() -> Any:
    return pki.make_key("p256")


def purposes(*dotted: str) -> Extension:
    """An ExtendedKeyUsage to ask for."""
    oids = b"".join(asn1.oid_der(item) for item in dotted)
    return Extension(ExtensionOID.extKeyUsage, False, asn1.tlv(0x30, oids))


# --- privileged purposes ----------------------------------------------------------------------------------------


@pytest.mark.requirement(36)
@pytest.mark.parametrize("purpose", sorted(PRIVILEGED_PURPOSES))
async def test_who_speaks_for_the_pki_is_no_device(world: World, key: Any, purpose: str) -> None:
    """An OCSP signer, and whoever may do anything, open nothing; not beside a usual purpose either."""
    eku = [SERVER_AUTH, purpose]
    factory = cmp_credential(world.device("X-1", eku=eku))
    der = await requests.request(world, factory, key)
    await assert_refused(world, der, "notAuthorized", rule="R36", body_type=BodyType.ip)
    signer = cmp_credential(world.operator.device("x-1", eku=eku))
    for asked, told in ((BodyType.cr, BodyType.cp), (BodyType.kur, BodyType.kup)):
        der = await requests.request(world, signer, key, body_type=asked)
        await assert_refused(world, der, "notAuthorized", rule="R36", body_type=told)


@pytest.mark.requirement(63)
@pytest.mark.parametrize("purpose", sorted(PRIVILEGED_PURPOSES))
async def test_nobody_asks_for_what_speaks_for_the_pki(
    world: World, key: Any, purpose: str
) -> None:
    """Alone or beside a usual purpose; no CA hears of it."""
    for asked in (purposes(purpose), purposes(SERVER_AUTH, purpose)):
        der = await requests.request(
            world, cmp_credential(world.device()), key, requests.template(key, extensions=(asked,))
        )
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R63")


def issuing(world: World, **options: Any) -> Any:
    """A script that issues what was asked for, with more in it."""

    def script(answer: Answer) -> None:
        if answer.request.body_type is BodyType.certConf:
            return
        template = cert_req_messages(answer.request.body_content)[0].template
        issued = world.operator.issuing.sign(
            rfc4514(template.subject_der or b""),
            load_der_public_key(template.spki_der or b""),  # type: ignore[arg-type]
            **options,
        )
        answer.set_response(certificate_der=pki.certificate_der(issued))

    return script


@pytest.mark.requirement(87)
@pytest.mark.parametrize(
    "options",
    [
        *({"eku": [SERVER_AUTH, purpose]} for purpose in sorted(PRIVILEGED_PURPOSES)),
        {"key_usage": ["digitalSignature", "keyCertSign"]},
        {"key_usage": ["digitalSignature", "cRLSign"]},
    ],
    ids=str,
)
async def test_what_speaks_for_the_pki_is_not_relayed(
    world: World, key: Any, options: dict[str, Any]
) -> None:
    """Whatever a CA issues: a base station with it would be an OCSP responder, an RA or a CA."""
    world.ca.script = issuing(world, **options)
    device = cmp_credential(world.device())
    answer = await world.ask(await requests.request(world, device, key))
    assert fail_names(answer) == ["systemFailure"]
    assert (world.events[-1].outcome, world.events[-1].rule) == ("failed", "R87")


@pytest.mark.requirement(87)
async def test_a_usual_purpose_is_relayed(world: World, key: Any) -> None:
    """The check is not blind to what a base station needs."""
    world.ca.script = issuing(world, eku=[SERVER_AUTH])
    await assert_served(world, await requests.request(world, cmp_credential(world.device()), key))


# --- who answers for a CA ---------------------------------------------------------------------------------------


def signed_by(credential: pki.Credential) -> Any:
    """A script whose answers another credential protects."""

    def script(answer: Answer) -> None:
        answer.credential = cmp_credential(credential)
        answer.extra_certs = (*answer.credential.certificates, answer.extra_certs[-1])

    return script


async def answered(world: World, key: Any) -> list[str]:
    """failInfo of the answer to an ir."""
    der = await requests.request(world, cmp_credential(world.device()), key)
    return list(fail_names(await world.ask(der)))


@pytest.mark.requirement(84)
async def test_an_ra_does_not_answer_for_the_ca(world: World, key: Any) -> None:
    """cmcRA under the operator's root: another RA's certificate, and the gateway's own."""
    other = world.operator.issuing.issue("CN=Other RA", eku=[pki.CMC_RA])
    for credential in (other, world.operator.ra):
        world.ca.script = signed_by(credential)
        assert await answered(world, key) == ["systemFailure"]
        assert world.events[-1].rule == "R84"
        assert "ca_certificate_paths" in world.events[-1].detail


@pytest.mark.requirement(84)
async def test_another_ca_of_the_operator_does_not_answer_for_the_ca(world: World, key: Any) -> None:
    """A CA certificate below the operator's root that nobody listed; the listed issuing CA may."""
    branch = world.operator.root.issue_ca("CN=Branch CA", key_usage=["digitalSignature"])
    world.ca.script = signed_by(
        pki.Credential(branch.certificate, branch.private_key, (world.operator.root.certificate,))
    )
    assert await answered(world, key) == ["systemFailure"]
    assert world.events[-1].rule == "R84"


@pytest.mark.requirement(84)
@pytest.mark.parametrize("own", [False, True])
async def test_who_stands_in_for_the_ca_is_named(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any, own: bool
) -> None:
    """An RA that is pinned may answer, but never with the gateway's own certificate."""
    other = operator_pki.issuing.issue("CN=Other RA", eku=[pki.CMC_RA])
    certificate = cmp_certificate(other.certificate)
    mine = (certificate,) if own else ()
    world = World.make(
        vendor_pki, operator_pki, upstream={"pinned": (certificate,), "own": lambda: mine}
    )
    world.ca.script = signed_by(other)
    assert await answered(world, key) == (["systemFailure"] if own else [])


@pytest.mark.requirement(84)
async def test_the_gateways_own_certificate_with_cmc_ca_answers_for_nobody(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """A reflected message stays one, whatever the certificate says."""
    both = operator_pki.issuing.issue("CN=RA", eku=[pki.CMC_RA, pki.CMC_CA])
    mine = (cmp_certificate(both.certificate),)
    world = World.make(vendor_pki, operator_pki, upstream={"own": lambda: mine})
    world.ca.script = signed_by(both)
    assert await answered(world, key) == ["systemFailure"]
    assert "own certificate" in world.events[-1].detail


# --- what stands twice ------------------------------------------------------------------------------------------


@pytest.fixture(params=[Mode.ra, Mode.client], ids=["RA mode", "client mode"])
async def ca(
    request: Any, vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, tmp_path: Path
) -> AsyncIterator[Desk]:
    """The bundled CA, by either of its faces."""
    ledger = tmp_path / "ledger.db"
    if request.param is Mode.ra:
        async with open_desk(operator_pki, ledger) as desk:
            yield desk
    else:
        async with open_client(operator_pki, vendor_pki, ledger) as desk:
            yield desk


def utf8(*names: str) -> bytes:
    """A certProfile value."""
    return asn1.tlv(0x30, *(asn1.encode(name) for name in names))


TIME = asn1.tlv(0x18, b"20300101000000Z")
DOUBLED_INFO = {
    "certProfile": (
        InfoTypeAndValue(OID.certProfile, utf8("ne_ipsec")),
        InfoTypeAndValue(OID.certProfile, utf8("ne_tls")),
    ),
    "certProfile, the same": (InfoTypeAndValue(OID.certProfile, utf8("ne_ipsec")),) * 2,
    "certProfile, apart": (
        InfoTypeAndValue(OID.certProfile, utf8("ne_ipsec")),
        InfoTypeAndValue("1.3.6.1.4.1.99999.7"),
        InfoTypeAndValue(OID.certProfile, utf8("ne_tls")),
    ),
    "implicitConfirm": (IMPLICIT_CONFIRM, IMPLICIT_CONFIRM),
    "confirmWaitTime": (InfoTypeAndValue(OID.confirmWaitTime, TIME),) * 2,
    "an unknown one": (InfoTypeAndValue("1.3.6.1.4.1.99999.7", b"\x05\x00"),) * 2,
    "two names": (InfoTypeAndValue(OID.certProfile, utf8("ne_ipsec", "ne_tls")),),
    "no name": (InfoTypeAndValue(OID.certProfile, utf8()),),
    "an empty name": (InfoTypeAndValue(OID.certProfile, utf8("")),),
    "confirmWaitTime without value": (InfoTypeAndValue(OID.confirmWaitTime),),
}


@pytest.mark.requirement(64)
@pytest.mark.parametrize("case", DOUBLED_INFO)
async def test_general_info_says_nothing_twice(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any, case: str
) -> None:
    """Whoever comes next may read the second where the gateway read the first; in every kind of request."""
    everything = {"body_types": EVERY_TYPE}
    world = World.make(vendor_pki, operator_pki, endpoint=everything)
    info = DOUBLED_INFO[case]
    for body_type in sorted(EVERY_TYPE):
        operation = await Operation.begin(world, body_type, general_info=info)
        await assert_refused(world, operation.sent, "badRequest")


@pytest.mark.requirement(64)
@pytest.mark.parametrize("case", DOUBLED_INFO)
async def test_the_bundled_ca_reads_nothing_twice(ca: Desk, case: str) -> None:
    """The same at both faces of the CA; one of each is fine."""
    for body_type in (BodyType.ir, BodyType.cr):
        der = await ca.request(body_type, header=ca.header(general_info=DOUBLED_INFO[case]))
        assert await ca.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)
    once = (InfoTypeAndValue(OID.certProfile, utf8("ne_ipsec")), IMPLICIT_CONFIRM)
    await ca.enrol(header=ca.header(general_info=once))


@pytest.mark.requirement(64)
async def test_a_cert_conf_says_nothing_twice(world: World) -> None:
    """What follows a request is read in the same way."""
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    certificate = world.ca.issued[0]
    status = CertStatus(digest("sha256", certificate.der), 0)
    der = await follow(
        operation.device,
        answer,
        cert_confirm_body(status),
        now=world.clock(),
        general_info=DOUBLED_INFO["an unknown one"],
    )
    await assert_refused(world, der, "badRequest", rule="RFC 9483 3.1")


def old_cert_id(*serial_numbers: int) -> tuple[Control, ...]:
    """oldCertID controls."""
    issuer = directory_name(from_rfc4514("CN=Issuer"))
    return tuple(
        Control(OID.oldCertID, cert_id_der(CertId(issuer, number))) for number in serial_numbers
    )


UTF8_PAIRS = "1.3.6.1.5.5.7.5.2.1"
DOUBLED_CONTROLS = {
    "oldCertID": old_cert_id(1, 2),
    "oldCertID, the same": old_cert_id(1, 1),
    "regToken": (Control("1.3.6.1.5.5.7.5.1.1", asn1.encode("a")),) * 2,
    "an unknown one": (Control("1.3.6.1.4.1.99999.8", b"\x05\x00"),) * 2,
}


@pytest.mark.requirement(68)
@pytest.mark.parametrize("case", DOUBLED_CONTROLS)
async def test_no_control_stands_twice(world: World, key: Any, case: str) -> None:
    """The first would be judged here, and the second perhaps by the CA."""
    old = cmp_credential(world.operator.device())
    for signer, body_type in (
        (cmp_credential(world.device()), BodyType.ir),
        (old, BodyType.cr),
        (old, BodyType.kur),
    ):
        der = await requests.request(
            world, signer, key, body_type=body_type, controls=DOUBLED_CONTROLS[case]
        )
        told = BodyType(body_type + 1)
        await requests.assert_refused_in_body(
            world, der, "badCertTemplate", rule="RFC 4211 6", body_type=told
        )


@pytest.mark.requirement(68)
@pytest.mark.parametrize("case", DOUBLED_CONTROLS)
async def test_the_bundled_ca_reads_no_control_twice(ca: Desk, case: str) -> None:
    """At both its faces."""
    der = await ca.request(controls=DOUBLED_CONTROLS[case])
    assert await ca.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)


async def test_no_reg_info_stands_twice(world: World, key: Any) -> None:
    """It is under no proof of possession, but a CA may read it."""
    pair = asn1.tlv(0x30, asn1.oid_der(UTF8_PAIRS), asn1.encode("Subject?x%"))
    device = cmp_credential(world.device())
    der = await requests.request(world, device, key, reg_info_der=asn1.tlv(0x30, pair, pair))
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="RFC 4211 6")


@pytest.mark.requirement(66)
async def test_no_attribute_of_a_pkcs10_stands_twice(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """A challengePassword, say; one is of no account."""
    world = World.make(
        vendor_pki, operator_pki, endpoint={"body_types": frozenset({BodyType.p10cr})}
    )
    password = asn1.tlv(
        0x30, asn1.oid_der("1.2.840.113549.1.9.7"), asn1.tlv(0x31, asn1.encode("secret"))
    )
    for count in (2, 1):
        asked = await made_by_hand(key, attributes=asn1.tlv(0xA0, password * count))
        answer = await world.ask(await p10cr(world, world.device(), asked))
        assert fail_names(answer) == (["badCertTemplate"] if count == 2 else [])


@pytest.mark.requirement(132)
async def test_an_rr_says_nothing_twice(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI
) -> None:
    """Two reasons, or two dates of invalidity."""
    world = World.make(vendor_pki, operator_pki, endpoint={"body_types": EVERY_TYPE})
    device = world.operator.device("enb-1")
    certificate = cmp_certificate(device.certificate)
    named = CertTemplate(
        issuer_der=certificate.issuer_der, serial_number=certificate.serial_number
    )
    reason = Extension(OID.reasonCode, False, b"\x0a\x01\x01")
    invalid = Extension("2.5.29.24", False, TIME)
    for entry in ((reason, reason), (reason, invalid, invalid)):
        body_der = rev_req_body(RevDetails(named, entry))
        der = await requests.message(world, cmp_credential(device), body_der)
        answer = await world.ask(der)
        assert answer.body_type is BodyType.rp
        assert status_of(answer).status is PKIStatus.rejection
        assert world.ca.received == []


# --- vendors are for ir -----------------------------------------------------------------------------------------


@pytest.mark.requirement(71)
@pytest.mark.parametrize("allowed", [{BodyType.ir}, {BodyType.ir, BodyType.cr, BodyType.p10cr}])
async def test_a_vendor_certificate_is_for_the_first_one(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, allowed: set[BodyType]
) -> None:
    """cr and p10cr presuppose a certificate of this PKI; where they are allowed, they are served."""
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={"body_types": EVERY_TYPE, "vendor_types": {"acme": frozenset(allowed)}},
    )
    for body_type in (BodyType.ir, BodyType.cr, BodyType.p10cr):
        operation = await Operation.begin(world, body_type)
        if body_type in allowed:
            assert status_of(await operation.send()).issued
        else:
            told = RESPONSE_TO[body_type]
            await assert_refused(
                world, operation.sent, "notAuthorized", rule="R71", body_type=told
            )
            assert "vendors.acme.body_types" in world.events[-1].detail


@pytest.mark.requirement(71)
async def test_an_operator_certificate_is_for_further_ones(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """What a vendor's devices may not send, the operator's may."""
    world = World.make(
        vendor_pki, operator_pki, endpoint={"vendor_types": {"acme": frozenset({BodyType.ir})}}
    )
    device = world.operator.device()
    subject = cmp_certificate(device.certificate).subject
    asked = requests.template(key, subject)
    der = await requests.request(world, cmp_credential(device), key, asked, body_type=BodyType.cr)
    await assert_served(world, der)


@pytest.mark.parametrize("reenroll", [Reenroll.deny, Reenroll.window])
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.p10cr])
async def test_reenroll_counts_what_an_ra_signs_in_its_device_s_place(
    operator_pki: pki.OperatorPKI, tmp_path: Path, reenroll: Reenroll, body_type: BodyType
) -> None:
    """The CA cannot tell a vendor's cr from another one then; a kur goes on."""
    policy = IssuancePolicy(reenroll=reenroll)
    async with open_desk(operator_pki, tmp_path / "ledger.db", policy=policy) as desk:
        first = await desk.enrol()
        await desk.confirm(first)
        desk.clock.advance(hours=25)
        if body_type is BodyType.cr:
            der = await desk.request(BodyType.cr)
        else:
            pkcs10 = await made_by_hand(pki.make_key("p256"), subject=SUBJECT)
            der = await desk.signed(desk.header(), body(BodyType.p10cr, pkcs10))
        assert (await desk.refused(der))[0] is BodyType.cp
        await desk.enrol(BodyType.kur)


# --- one transactionID of two devices -----------------------------------------------------------------------------


@pytest.mark.requirement(12)
@pytest.mark.parametrize("protected", [True, False])
async def test_a_transaction_id_that_another_device_has(
    world: World, key: Any, protected: bool
) -> None:
    """The CA complains of the second, and it is told what to do; a complaint without cause stays the CA's fault."""
    ids = {"transaction_id": b"\0\0\0\1\0\0\0\1" * 2}

    def script(answer: Answer) -> None:
        if seen:
            bits = (PKIFailureInfo.transactionIdInUse,)
            answer.body_der = error_body(PKIStatusInfo(PKIStatus.rejection, (), bits))
            answer.protected = protected
        seen.append(answer)

    seen: list[Answer] = []
    world.ca.script = script
    first = await requests.request(world, cmp_credential(world.device("ENB-1")), key, **ids)
    await assert_served(world, first)
    second = await requests.request(world, cmp_credential(world.device("ENB-2")), key, **ids)
    answer = await world.ask(second)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["transactionIdInUse"])
    assert (await world.ask(second)).der == answer.der
    alone = await requests.request(world, cmp_credential(world.device("ENB-3")), key)
    assert fail_names(await world.ask(alone)) == ["systemFailure"]
