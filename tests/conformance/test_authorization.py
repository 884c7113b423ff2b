"""Who may what at the gateway: which certificates count as a device's, what they may ask for, and what is relayed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from ra_gateway.ca.authorization import Mode
from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.records import Reenroll
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmRefused, canonical_spki, digest, public_key_kind
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    RevDetails,
    cert_confirm_body,
    error_body,
    rev_req_body,
)
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES, RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import (
    CertId,
    CertTemplate,
    Control,
    Extension,
    cert_id_der,
    cert_req_messages,
)
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, InfoTypeAndValue, body
from ra_gateway.cmp.names import directory_name, from_rfc4514, rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import InventoryUse, SubjectRule
from tests.support import pki, requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_refused, assert_served
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import SUBJECT, Desk, open_client, open_desk
from tests.support.harness import Answer, World
from tests.support.polling import EVERY_TYPE, Operation
from tests.support.requests import made_by_hand, p10cr

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
    return Extension(OID.extKeyUsage, False, asn1.tlv(0x30, oids))


# --- privileged purposes ----------------------------------------------------------------------------------------


def test_which_purposes_speak_for_the_pki() -> None:
    """One that is left out would be anybody's to have: the rest of these tests go by the list."""
    assert {
        "1.3.6.1.5.5.7.3.9",  # OCSPSigning
        "1.3.6.1.5.5.7.3.27",  # cmcCA
        "1.3.6.1.5.5.7.3.28",  # cmcRA
        "1.3.6.1.5.5.7.3.29",  # cmcArchive
        "1.3.6.1.5.5.7.3.32",  # cmKGA
        "2.5.29.37.0",  # anyExtendedKeyUsage
    } == PRIVILEGED_PURPOSES


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
async def test_another_ca_of_the_operator_does_not_answer_for_the_ca(
    world: World, key: Any
) -> None:
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
    named = CertTemplate(issuer_der=certificate.issuer_der, serial_number=certificate.serial_number)
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
            await assert_refused(world, operation.sent, "notAuthorized", rule="R71", body_type=told)
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
    ids: dict[str, Any] = {"transaction_id": b"\0\0\0\1\0\0\0\1" * 2}

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


@pytest.mark.requirement(67, 145)
@pytest.mark.parametrize("subject", ["2.5.4.5=SN-1,2.5.4.5=SN-2", "2.5.4.5=SN-2+2.5.4.5=SN-1"])
@pytest.mark.parametrize("rule", ["pattern", "template", "inventory"])
async def test_two_identities_in_a_vendor_certificate_are_none(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any, subject: str, rule: str
) -> None:
    """notAuthorized: which of two serialNumbers counts is nobody's to guess, in whatever order they stand."""
    rules = {
        "pattern": IdentityRules(allowed_subjects=("CN={serial_number}",)),
        "template": IdentityRules(SubjectRule.replace, "CN={serial_number}"),
        "inventory": IdentityRules(allowed_subjects=("*",), inventory=InventoryUse.optional),
    }[rule]
    world = World.make(vendor_pki, operator_pki, identity=rules)
    twice = cmp_credential(vendor_pki.sub.issue(subject))
    for asked in ("CN=SN-1", "CN=SN-2"):
        template = requests.template(key, subject_der=from_rfc4514(asked))
        der = await requests.request(world, twice, key, template)
        assert fail_names(await world.ask(der)) == ["notAuthorized"]
    assert world.ca.received == []


# --- names that may be certified ----------------------------------------------------------------------------------

CN = "2.5.4.3"
UNFIT_VALUES = {
    "NUL": (CN, b"\x0c", "enb\0-1"),
    "CR LF": (CN, b"\x0c", "enb\r\n-1"),
    "ESC": (CN, b"\x0c", "enb\x1b[2J"),
    "DEL": (CN, b"\x0c", "enb\x7f"),
    "C1": (CN, b"\x0c", "enb\x9b2J"),
    "right-to-left override": (CN, b"\x0c", "enb\u202e1"),
    "isolate": (CN, b"\x0c", "enb\u2066"),
    "zero width": (CN, b"\x0c", "enb\u200b1"),
    "byte order mark": (CN, b"\x0c", "\ufeffenb"),
    "soft hyphen": (CN, b"\x0c", "enb\u00ad1"),
    "tag": (CN, b"\x0c", "enb\U000e0041"),
    "line separator": (CN, b"\x0c", "enb\u20281"),
    "variation selector": (CN, b"\x0c", "enb\ufe0f1"),
    "grapheme joiner": (CN, b"\x0c", "enb\u034f1"),
    "filler": (CN, b"\x0c", "enb1\u1160"),
    "blank of another script": (CN, b"\x0c", "enb1\u2800"),
    "wide letters": (CN, b"\x0c", "\uff45nb1"),
    "superscript": (CN, b"\x0c", "enb\u00b9"),
    "long s": (CN, b"\x0c", "en\u017fb1"),
    "accent apart from its letter": (CN, b"\x0c", "cafe\u0301"),
    "no-break space": (CN, b"\x0c", "enb\u00a01"),
    "private use": (CN, b"\x0c", "enb\ue000"),
    "unassigned": (CN, b"\x0c", "enb\U000e0080"),
    "empty": (CN, b"\x0c", ""),
    "blanks": (CN, b"\x0c", "  "),
    "65 letters": (CN, b"\x0c", "x" * 65),
    "3 kB": (CN, b"\x0c", "x" * 3_000),
    "a long organisation": ("2.5.4.10", b"\x0c", "x" * 65),
    "a long unit": ("2.5.4.11", b"\x0c", "x" * 65),
    "a long serialNumber": ("2.5.4.5", b"\x13", "1" * 65),
    "a long country": ("2.5.4.6", b"\x13", "DEU"),
    "no country": ("2.5.4.6", b"\x13", "1!"),
    "an unknown attribute": ("1.3.6.1.4.1.99999.3", b"\x0c", "a\x07"),
    "in a BMPString": (CN, b"\x1e", "enb\u202e1"),
    "in a TeletexString": (CN, b"\x14", "enb\x1b"),
}


def named(oid: str, tag: bytes, text: str) -> bytes:
    """A Name of a usual attribute and an unusual one."""
    encodings = {b"\x1e": "utf-16-be", b"\x14": "latin-1"}
    octets = text.encode(encodings.get(tag, "utf-8"))
    usual = (asn1.oid_der("2.5.4.7"), asn1.tlv(0x0C, b"Here"))
    unusual = (asn1.oid_der(oid), asn1.tlv(tag[0], octets))
    rdns = (asn1.tlv(0x31, asn1.tlv(0x30, *pair)) for pair in (usual, unusual))
    return asn1.tlv(0x30, *rdns)


@pytest.mark.requirement(67)
@pytest.mark.parametrize("case", UNFIT_VALUES)
async def test_names_that_mislead_are_not_certified(world: World, key: Any, case: str) -> None:
    """Whatever the patterns admit: in a subject, and in a directoryName; the attribute is named."""
    oid, _, _ = UNFIT_VALUES[case]
    name = named(*UNFIT_VALUES[case])
    san = Extension(OID.subjectAltName, False, asn1.tlv(0x30, directory_name(name)))
    device = cmp_credential(world.device())
    for asked in (
        requests.template(key, subject_der=name),
        requests.template(key, extensions=(san,)),
    ):
        answer = await world.ask(await requests.request(world, device, key, asked))
        info = status_of(answer)
        assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badCertTemplate"])
        (text,) = info.status_string
        assert {CN: "CN", "2.5.4.6": "C", "2.5.4.10": "O", "2.5.4.11": "OU"}.get(oid, oid) in text
    assert world.ca.received == []


@pytest.mark.requirement(67)
@pytest.mark.parametrize("case", UNFIT_VALUES)
async def test_the_bundled_ca_does_not_certify_them_either(
    operator_pki: pki.OperatorPKI, tmp_path: Path, case: str
) -> None:
    """Whichever RA vouches for them."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        der = await desk.request(template=CertTemplate(subject_der=named(*UNFIT_VALUES[case])))
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)


UNFIT_SANS = {
    "NUL in a DNS name": (0x82, b"enb\0.example.net"),
    "underscore": (0x82, b"e_nb.example.net"),
    "blank": (0x82, b"enb .example.net"),
    "hyphen first": (0x82, b"-enb.example.net"),
    "a dot at the end": (0x82, b"enb.example.net."),
    "two dots": (0x82, b"enb..example.net"),
    "a label of 64": (0x82, b"x" * 64 + b".net"),
    "254 octets": (0x82, b".".join([b"x" * 63] * 3 + [b"y" * 62])),
    "a line feed at the end": (0x82, b"enb.example.net\n"),
    "no scheme": (0x86, b"//example.net/x"),
    "a blank in a URI": (0x86, b"https://example.net/ x"),
    "ESC in a URI": (0x86, b"https://example.net/\x1b"),
    "a long URI": (0x86, b"https://example.net/" + b"x" * 2_000),
    "no mailbox": (0x81, b"example.net"),
    "LF in a mailbox": (0x81, b"a\n@example.net"),
    "ESC in a principal name": (
        0xA0,
        asn1.oid_der("1.3.6.1.4.1.311.20.2.3") + b"\xa0\x03\x0c\x01\x1b",
    ),
    "a long other name": (0xA0, asn1.oid_der("1.2.3.4") + asn1.tlv(0xA0, asn1.tlv(4, bytes(300)))),
}


@pytest.mark.requirement(67)
@pytest.mark.parametrize("case", UNFIT_SANS)
async def test_alternative_names_that_mislead_are_not_certified(
    world: World, key: Any, operator_pki: pki.OperatorPKI, tmp_path: Path, case: str
) -> None:
    """At the gateway and at the CA."""
    tag, octets = UNFIT_SANS[case]
    san = Extension(OID.subjectAltName, False, asn1.tlv(0x30, asn1.tlv(tag, octets)))
    asked = requests.template(key, extensions=(san,))
    der = await requests.request(world, cmp_credential(world.device()), key, asked)
    answer = await world.ask(der)
    assert fail_names(answer) == ["badCertTemplate"]
    assert world.ca.received == []
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        template = CertTemplate(subject_der=from_rfc4514(SUBJECT), extensions=(san,))
        refused = await desk.refused(await desk.request(template=template))
        assert refused == (BodyType.ip, PKIFailureInfo.badCertTemplate)


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "subject",
    [
        "CN=" + "x" * 64,
        "CN=Zürich-Ω-中",
        "C=DE,O=Telecom",
        "2.5.4.5=" + "1" * 64,
        "CN=enb-1,OU=RAN,O=A\\, B & C (D)",
        "DC=example,DC=net",
    ],
)
async def test_usual_names_are_certified(world: World, key: Any, subject: str) -> None:
    """The bounds are X.520's, and other scripts than Latin are no fault."""
    san = [
        "dns:enb-1.ran.example.net",
        "ip:192.0.2.1",
        "ip:2001:db8::1",
        "uri:urn:uuid:1-2",
        "email:a.b@example.net",
    ]
    asked = requests.template(key, subject, san)
    await assert_served(
        world, await requests.request(world, cmp_credential(world.device()), key, asked)
    )


@pytest.mark.requirement(141)
async def test_names_that_the_gateway_makes_are_judged_too(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """A vendor's certificate may hold anything, and so may the inventory."""
    rules = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn},O=Operator")
    world = World.make(vendor_pki, operator_pki, identity=rules)
    for text in ("enb\n1", "enb\u202e1"):
        factory = vendor_pki.sub.issue(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]))
        der = await requests.request(world, cmp_credential(factory), key)
        await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="RFC 5280 A.1")


# --- the old names, and the same key, however spelled -------------------------------------------------------------


@pytest.mark.requirement(70)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
@pytest.mark.parametrize(
    "asked",
    ["CN=ENB-1.EXAMPLE.NET,O=EXAMPLE OPERATOR", "CN=enb-1.example.net,O=Example  Operator",
     "CN=enb-1.example.net,O=Example Operator", "CN=enb-1.example.net,O=Example Operator".replace("s", "\u017f")],
)  # fmt: skip
async def test_a_renewal_has_the_old_names_as_they_were_spelled(
    world: World, key: Any, body_type: BodyType, asked: str
) -> None:
    """Case, blanks, string types and letters that fold into others do not pass from a request into a certificate."""
    # PrintableString, unlike what is asked for.
    name = asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(0x13, text)))
            for oid, text in (("2.5.4.10", b"Example Operator"), (CN, b"enb-1.example.net"))
        ),
    )
    old = world.operator.issuing.issue(
        x509.Name(
            [
                x509.NameAttribute(oid, text, _type=_ASN1Type.PrintableString)
                for oid, text in (
                    (NameOID.ORGANIZATION_NAME, "Example Operator"),
                    (NameOID.COMMON_NAME, "enb-1.example.net"),
                )
            ]
        )
    )
    assert cmp_certificate(old.certificate).subject_der == name
    der = await requests.request(
        world, cmp_credential(old), key, requests.template(key, asked), body_type=body_type
    )
    await world.ask(der)
    (up,) = cert_req_messages(world.ca.messages[-1].body_content)
    assert up.template.subject_der == name


@pytest.mark.requirement(70)
async def test_a_renewal_has_the_old_alternative_names_once(world: World, key: Any) -> None:
    """Doubled, or in another order, they mean the same; what goes up are the old octets."""
    names = ("dns:enb-1.example.net", "ip:192.0.2.1")
    old = world.operator.device("enb-1", san=names)
    certificate = cmp_certificate(old.certificate)
    for asked in (names[::-1], (*names, names[0])):
        template = requests.template(key, certificate.subject, asked)
        der = await requests.request(
            world, cmp_credential(old), key, template, body_type=BodyType.kur
        )
        await assert_served(world, der)
        (up,) = cert_req_messages(world.ca.messages[-1].body_content)
        san = up.template.extension(OID.subjectAltName)
        assert san is not None
        assert san.value == certificate.subject_alt_name_der


@pytest.mark.requirement(67)
async def test_a_pkcs10_spells_the_old_names(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """It cannot be changed on its way, so that another spelling is refused."""
    world = World.make(
        vendor_pki, operator_pki, endpoint={"body_types": frozenset({BodyType.p10cr})}
    )
    old = world.operator.device("enb-1")
    subject = cmp_certificate(old.certificate).subject
    for asked, told in (
        (subject.upper().replace("CN=ENB", "CN=enb"), ["badCertTemplate"]),
        (subject, []),
    ):
        der = await p10cr(world, old, await made_by_hand(key, subject=asked))
        assert fail_names(await world.ask(der)) == told


@pytest.mark.requirement(62)
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
async def test_the_same_key_is_the_same_however_it_is_spelled(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, kind: Any
) -> None:
    """A compressed point evades no `same_key = false`; an RSA key without NULL is no key that is known here."""
    rules = IdentityRules(allowed_subjects=("*",), same_key=False)
    world = World.make(vendor_pki, operator_pki, identity=rules)
    device = world.device(key=kind)
    private = device.private_key
    spki_der = requests.spki(private)
    point = asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.2.1"), asn1.oid_der("1.2.840.10045.3.1.7"))
    if kind == "p256":
        short = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        other = asn1.tlv(0x30, point, asn1.tlv(0x03, b"\0", short))
    else:
        inner = private.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        bare = asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.1.1"))
        other = asn1.tlv(0x30, bare, asn1.tlv(0x03, b"\0", inner))
    assert other != spki_der
    if kind == "p256":
        assert canonical_spki(other) == canonical_spki(spki_der)
    else:  # RFC 3279 2.3.1: NULL has to be there; no key without it is loaded
        with pytest.raises(AlgorithmRefused):
            public_key_kind(other)
    for spelling in (spki_der, other):
        asked = requests.template(private, spki_der=spelling)
        der = await requests.request(world, cmp_credential(device), private, asked)
        assert fail_names(await world.ask(der)) == ["badCertTemplate"]
