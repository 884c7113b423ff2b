"""A request whose body, or a value in it, does not parse, under a good header and protection (RFC 9483 3.6.4).

The answer is of the request's own kind and names the request; the log names the field. Nothing is forwarded.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import cert_rep_message, error_msg_content, nested_messages
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import cert_req_msg_der
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, assemble, body
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.errors import PKIFailureInfo
from tests.support import pki, requests
from tests.support.answers import fail_names, status_of
from tests.support.asserts import assert_answers, assert_refused
from tests.support.chain import ALL_TYPES, nest, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import Desk, open_client, open_desk
from tests.support.harness import World
from tests.support.pki import OperatorPKI, VendorPKI, make_key

KEY = make_key("p256")
SUBJECT_DER = from_rfc4514(requests.SUBJECT)
CERT_REQ_ID = 0


def field(number: int, *content: bytes, primitive: bool = False) -> bytes:
    """A field of CertTemplate by its number."""
    return asn1.tlv((0x80 if primitive else 0xA0) | number, *content)


def extension(oid: str, value: bytes, *more: bytes) -> bytes:
    return asn1.tlv(0x30, asn1.oid_der(oid), *more, asn1.tlv(0x04, value))


def extensions(*items: bytes) -> bytes:
    return field(9, *items)


SUBJECT = field(5, SUBJECT_DER)
PUBLIC_KEY = field(6, asn1.inner(requests.spki(KEY)))


def san(*names: bytes) -> bytes:
    return extensions(extension(OID.subjectAltName, asn1.tlv(0x30, *names)))


def name(value: bytes, tag: int = 0x0C) -> bytes:
    attribute = asn1.tlv(0x30, asn1.oid_der(OID.commonName), asn1.tlv(tag, value))
    return asn1.tlv(0x30, asn1.tlv(0x31, attribute))


EC_KEY = asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.2.1"), asn1.oid_der("1.2.840.10045.3.1.7"))

TEMPLATES: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "a UTCTime that is none": (
        "validity",
        (field(4, field(0, asn1.tlv(0x17, b"991332000000Z"))), SUBJECT, PUBLIC_KEY),
    ),
    "a GeneralizedTime that is none": (
        "validity",
        (field(4, field(1, asn1.tlv(0x18, b"20260231000000Z"))), SUBJECT, PUBLIC_KEY),
    ),
    "an octet string for validity": ("validity", (field(4, b"\x04\x00"), SUBJECT, PUBLIC_KEY)),
    "a version of no octets": ("version", (field(0, primitive=True), SUBJECT, PUBLIC_KEY)),
    "a version of 20000 bits": (
        "version",
        (field(0, b"\x01" * 2500, primitive=True), SUBJECT, PUBLIC_KEY),
    ),
    "a serial number of 20000 bits": (
        "serialNumber",
        (field(1, b"\x01" * 2500, primitive=True), SUBJECT, PUBLIC_KEY),
    ),
    "a signingAlg that is a NULL": ("signingAlg", (field(2, b"\x05\x00"), SUBJECT, PUBLIC_KEY)),
    "an issuer that is no Name": ("issuer", (field(3, b"\x02\x01\x05"), SUBJECT, PUBLIC_KEY)),
    "a subject that is a text": ("subject", (field(5, asn1.tlv(0x0C, b"enb")), PUBLIC_KEY)),
    "a subject that is no UTF-8": ("subject", (field(5, name(b"\xff\xfe")), PUBLIC_KEY)),
    "a subject twice": ("subject", (SUBJECT, SUBJECT, PUBLIC_KEY)),
    "two subjects": ("subject", (field(5, SUBJECT_DER, SUBJECT_DER), PUBLIC_KEY)),
    "a key before its subject": ("subject", (PUBLIC_KEY, SUBJECT)),
    "a key twice": ("publicKey", (SUBJECT, PUBLIC_KEY, PUBLIC_KEY)),
    "a key that is no SubjectPublicKeyInfo": ("publicKey", (SUBJECT, field(6, b"\x02\x01\x01"))),
    "a key on no curve that there is": (
        "",
        (
            SUBJECT,
            field(
                6,
                asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.2.1"), asn1.oid_der("1.3.132.0.99")),
                asn1.tlv(0x03, b"\x00\x04", bytes(64)),
            ),
        ),
    ),
    "a point that is not on its curve": (
        "",
        (SUBJECT, field(6, EC_KEY, asn1.tlv(0x03, b"\x00\x04", b"\x01" * 64))),
    ),
    "a key with unused bits": (
        "",
        (SUBJECT, field(6, EC_KEY, asn1.tlv(0x03, b"\x01\x04", bytes(64)))),
    ),
    "an issuerUID that is none": ("issuerUID", (SUBJECT, PUBLIC_KEY, field(7, primitive=True))),
    "a field that there is not": ("[10]", (SUBJECT, PUBLIC_KEY, field(10, b"\x05\x00"))),
    "no extension in extensions": ("extensions", (SUBJECT, PUBLIC_KEY, extensions())),
    "an extension without a value": (
        "extensions",
        (SUBJECT, PUBLIC_KEY, extensions(asn1.tlv(0x30, asn1.oid_der(OID.keyUsage)))),
    ),
    "critical in BER": (
        "extensions",
        (
            SUBJECT,
            PUBLIC_KEY,
            extensions(extension(OID.keyUsage, b"\x03\x02\x07\x80", b"\x01\x01\x01")),
        ),
    ),
    "an address of three octets": (
        "subjectAltName",
        (SUBJECT, PUBLIC_KEY, san(asn1.tlv(0x87, b"\xc0\x00\x02"))),
    ),
    "a domain that is no ASCII": (
        "subjectAltName",
        (SUBJECT, PUBLIC_KEY, san(asn1.tlv(0x82, "enb\u00e9.example.net".encode()))),
    ),
    "no name in subjectAltName": ("subjectAltName", (SUBJECT, PUBLIC_KEY, san())),
    "a subjectAltName of no octets": (
        "subjectAltName",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.subjectAltName, b""))),
    ),
    "a directoryName that is no Name": (
        "subjectAltName",
        (SUBJECT, PUBLIC_KEY, san(asn1.tlv(0xA4, b"\x05\x00"))),
    ),
    "a keyUsage that is an INTEGER": (
        "keyUsage",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.keyUsage, b"\x02\x01\x05"))),
    ),
    "a keyUsage that breaks off": (
        "keyUsage",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.keyUsage, b"\x03\x09\x07\x80"))),
    ),
    "no purpose in extKeyUsage": (
        "extKeyUsage",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.extKeyUsage, b"\x30\x00"))),
    ),
    "an extKeyUsage of numbers": (
        "extKeyUsage",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.extKeyUsage, b"\x30\x03\x02\x01\x01"))),
    ),
    "basicConstraints that are a BOOLEAN": (
        "basicConstraints",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.basicConstraints, b"\x01\x01\xff"))),
    ),
    "a subjectKeyIdentifier that is a text": (
        "subjectKeyIdentifier",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.subjectKeyIdentifier, b"\x0c\x01a"))),
    ),
    "an authorityKeyIdentifier that is none": (
        "authorityKeyIdentifier",
        (SUBJECT, PUBLIC_KEY, extensions(extension(OID.authorityKeyIdentifier, b"\x04\x01a"))),
    ),
    "an unknown extension that is no DER": (
        "1.3.6.1.4.1.99999.1",
        (SUBJECT, PUBLIC_KEY, extensions(extension("1.3.6.1.4.1.99999.1", b"\x30\x05\x01"))),
    ),
    "trailing octets in an unknown extension": (
        "1.3.6.1.4.1.99999.1",
        (SUBJECT, PUBLIC_KEY, extensions(extension("1.3.6.1.4.1.99999.1", b"\x05\x00\x00"))),
    ),
    "an extension twice": (
        "2.5.29.15",
        (
            SUBJECT,
            PUBLIC_KEY,
            extensions(*[extension(OID.keyUsage, b"\x03\x02\x07\x80")] * 2),
        ),
    ),
}


async def cert_req_msg(
    *fields: bytes,
    controls: bytes = b"",
    popo: bytes | None = None,
    reg_info: bytes = b"",
    cert_req_id: int = CERT_REQ_ID,
) -> bytes:
    """A CertReqMsg with a good proof of possession over whatever its template holds."""
    request = asn1.tlv(0x30, asn1.encode(cert_req_id), asn1.tlv(0x30, *fields), controls)
    if popo is None:
        popo = await requests.popo(request, KEY)
    return cert_req_msg_der(request, popo + reg_info)


async def parts() -> dict[str, tuple[str, str, bytes]]:
    """What may be wrong beside the template: failInfo, part of the log's detail, and the CertReqMsg."""
    good = (SUBJECT, PUBLIC_KEY)
    pop = await requests.popo(b"", KEY)
    bad_control = asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der(OID.oldCertID)))
    algorithm, signature = asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.4.3.2")), b"\x03\x02\x00\x01"
    return {
        "controls without a control": (
            "badCertTemplate",
            "controls",
            await cert_req_msg(*good, controls=b"\x30\x00"),
        ),
        "a control without a value": (
            "badCertTemplate",
            "controls",
            await cert_req_msg(*good, controls=bad_control),
        ),
        "regInfo without a value": (
            "badCertTemplate",
            "regInfo",
            await cert_req_msg(*good, reg_info=bad_control),
        ),
        "an unknown choice of popo": (
            "badPOP",
            "popo",
            await cert_req_msg(*good, popo=b"\xa4\x00"),
        ),
        "two proofs": ("badPOP", "popo", await cert_req_msg(*good, popo=pop + pop)),
        "a proof without a signature": (
            "badPOP",
            "popo",
            await cert_req_msg(*good, popo=asn1.tlv(0xA1, algorithm)),
        ),
        "a proof with unused bits": (
            "badPOP",
            "popo",
            await cert_req_msg(*good, popo=asn1.tlv(0xA1, algorithm, b"\x03\x02\x01\x00")),
        ),
        "an algorithm that is a text": (
            "badPOP",
            "",
            await cert_req_msg(*good, popo=asn1.tlv(0xA1, b"\x0c\x01a", signature)),
        ),
        "raVerified with a value": (
            "badPOP",
            "popo",
            await cert_req_msg(*good, popo=b"\x80\x01\x00"),
        ),
        "a certReqId that is a text": (
            "badDataFormat",
            "certReqId",
            cert_req_msg_der(asn1.tlv(0x30, b"\x0c\x010", asn1.tlv(0x30, *good)), pop),
        ),
        "no template": (
            "badDataFormat",
            "",
            cert_req_msg_der(asn1.tlv(0x30, b"\x02\x01\x00"), pop),
        ),
    }


PARTS = (
    "controls without a control",
    "a control without a value",
    "regInfo without a value",
    "an unknown choice of popo",
    "two proofs",
    "a proof without a signature",
    "a proof with unused bits",
    "an algorithm that is a text",
    "raVerified with a value",
    "a certReqId that is a text",
    "no template",
)


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: pki.Credential) -> World:
    """A gateway that takes everything, and messages from another RA."""
    endpoint = {
        "body_types": ALL_TYPES,
        "registration_authorities": registered(operator_pki, ra),
    }
    return World.make(vendor_pki, operator_pki, endpoint=endpoint)


@pytest.fixture(scope="module")
def device(vendor_pki: VendorPKI) -> Credential:
    return cmp_credential(vendor_pki.device("ENB-1"))


# --- the gateway ----------------------------------------------------------------------------------------------


@pytest.mark.requirement(1, 112, 114)
@pytest.mark.parametrize("what", TEMPLATES)
async def test_a_template_that_does_not_parse_is_a_bad_template(
    world: World, device: Credential, what: str
) -> None:
    """badCertTemplate in the ip, whatever is wrong in it; the log says in which field."""
    named, fields = TEMPLATES[what]
    content = requests.requests_body(await cert_req_msg(*fields))
    answer = await assert_refused(
        world,
        await requests.message(world, device, content),
        "badCertTemplate",
        body_type=BodyType.ip,
    )
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.cert_req_id == CERT_REQ_ID
    assert named in world.events[-1].detail
    assert "ParseError" not in world.events[-1].detail


@pytest.mark.requirement(1, 112)
@pytest.mark.parametrize("what", PARTS)
async def test_what_is_malformed_beside_the_template(
    world: World, device: Credential, what: str
) -> None:
    """badPOP for the proof, badCertTemplate for controls and regInfo, badDataFormat for the request as such."""
    fail_info, named, message = (await parts())[what]
    der = await requests.message(world, device, requests.requests_body(message))
    await assert_refused(world, der, fail_info, body_type=BodyType.ip)
    assert named in world.events[-1].detail


@pytest.mark.requirement(1, 112)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
async def test_the_answer_is_of_the_requests_own_kind(world: World, body_type: BodyType) -> None:
    """cp to cr, kup to kur."""
    device = cmp_credential(world.operator.device())
    message = await cert_req_msg(*TEMPLATES["an address of three octets"][1])
    content = requests.requests_body(message, body_type=body_type)
    der = await requests.message(world, device, content)
    await assert_refused(world, der, "badCertTemplate", body_type=CERT_RESPONSE_TO[body_type])


@pytest.mark.requirement(68)
async def test_an_old_cert_id_that_is_none_is_a_bad_template(world: World) -> None:
    """A control that is there, and holds something else."""
    control = asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der(OID.oldCertID), b"\x02\x01\x01"))
    message = await cert_req_msg(SUBJECT, PUBLIC_KEY, controls=control)
    content = requests.requests_body(message, body_type=BodyType.kur)
    der = await requests.message(world, cmp_credential(world.operator.device()), content)
    await assert_refused(world, der, "badCertTemplate", body_type=BodyType.kup)
    assert "oldCertID" in world.events[-1].detail


@pytest.mark.requirement(1, 66, 112)
@pytest.mark.parametrize(
    "content, fail_info",
    [
        (b"\x30\x00", "badDataFormat"),
        (b"\x02\x01\x00", "badDataFormat"),
        (asn1.tlv(0x30, b"\x05\x00", EC_KEY, b"\x03\x02\x00\x01"), "badCertTemplate"),
        (
            asn1.tlv(
                0x30,
                asn1.tlv(0x30, b"\x02\x01\x00", b"\x0c\x01a", requests.spki(KEY), b"\xa0\x00"),
                EC_KEY,
                b"\x03\x02\x00\x01",
            ),
            "badCertTemplate",
        ),
        (
            asn1.tlv(
                0x30,
                asn1.tlv(0x30, b"\x02\x01\x00", SUBJECT_DER, b"\x30\x00", b"\xa0\x00"),
                EC_KEY,
                b"\x03\x02\x00\x01",
            ),
            "badCertTemplate",
        ),
        (
            asn1.tlv(
                0x30,
                asn1.tlv(0x30, b"\x02\x01\x00", SUBJECT_DER, requests.spki(KEY), b"\xa0\x00"),
                EC_KEY,
                b"\x03\x02\x01\x00",
            ),
            "badPOP",
        ),
    ],
    ids=["empty", "a number", "no info", "subject", "key", "signature"],
)
async def test_a_pkcs10_that_does_not_parse(world: World, content: bytes, fail_info: str) -> None:
    """In the cp, with certReqId -1."""
    der = await requests.p10cr(world, world.operator.device(), content)
    answer = await assert_refused(world, der, fail_info, body_type=BodyType.cp)
    assert cert_rep_message(answer.body_content).responses[0].cert_req_id == -1


@pytest.mark.requirement(1, 65, 112)
async def test_an_extension_request_that_does_not_parse(world: World) -> None:
    """Whether as a list, or in one of its values."""
    for value in (b"\x05\x00", asn1.tlv(0x30, extension(OID.keyUsage, b"\x05"))):
        attribute = asn1.tlv(0x30, asn1.oid_der(OID.extensionRequest), asn1.tlv(0x31, value))
        request = await requests.made_by_hand(KEY, attributes=asn1.tlv(0xA0, attribute))
        der = await requests.p10cr(world, world.operator.device(), request)
        await assert_refused(world, der, "badCertTemplate", body_type=BodyType.cp)


@pytest.mark.requirement(1, 112, 132)
@pytest.mark.parametrize(
    "details, fail_info, named",
    [
        ((b"\x0c\x01a",), "badCertTemplate", "certDetails"),
        ((asn1.tlv(0x30, b"\x0c\x01a"),), "badCertTemplate", "certDetails"),
        (
            (asn1.tlv(0x30, field(1, b"\x05", primitive=True), field(3, b"\x05\x00")),),
            "badCertTemplate",
            "issuer",
        ),
        (
            (asn1.tlv(0x30, field(1, b"\x05", primitive=True), field(3, SUBJECT_DER)), b"\x30\x00"),
            "badDataFormat",
            "crlEntryDetails",
        ),
        (
            (
                asn1.tlv(0x30, field(1, b"\x05", primitive=True), field(3, SUBJECT_DER)),
                asn1.tlv(0x30, extension(OID.reasonCode, b"\x02\x01\x01")),
            ),
            "badDataFormat",
            "reasonCode",
        ),
    ],
    ids=["no template", "certDetails", "issuer", "no entry", "reasonCode"],
)
async def test_an_rr_that_does_not_parse(
    world: World, details: tuple[bytes, ...], fail_info: str, named: str
) -> None:
    """In the rp."""
    content = body(BodyType.rr, asn1.tlv(0x30, asn1.tlv(0x30, *details)))
    der = await requests.message(world, cmp_credential(world.operator.device()), content)
    await assert_refused(world, der, fail_info, body_type=BodyType.rp)
    assert named in world.events[-1].detail


@pytest.mark.requirement(1, 112, 124, 125)
async def test_nested_and_in_a_batch(world: World, ra: pki.Credential, device: Credential) -> None:
    """As if it had come plain."""
    bad = requests.requests_body(await cert_req_msg(*TEMPLATES["an address of three octets"][1]))
    one = await requests.message(world, device, bad)
    answer = await world.ask(await nest(world, ra, one))
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badCertTemplate"])
    other = await requests.message(world, device, bad)
    good = await requests.request(world, device, KEY)
    batch = await world.ask(await nest(world, ra, other, good))
    refused, served = map(PKIMessage.from_der, nested_messages(batch.body_content))
    assert (refused.body_type, fail_names(refused)) == (BodyType.ip, ["badCertTemplate"])
    assert status_of(served).issued


# --- the bundled CA -------------------------------------------------------------------------------------------


@pytest.fixture(params=["RA mode", "client mode"])
async def desk(
    request: pytest.FixtureRequest,
    operator_pki: OperatorPKI,
    vendor_pki: VendorPKI,
    tmp_path: Path,
) -> AsyncIterator[Desk]:
    opened = (
        open_desk(operator_pki, tmp_path / "ledger.db")
        if request.param == "RA mode"
        else open_client(operator_pki, vendor_pki, tmp_path / "ledger.db")
    )
    async with opened as desk:
        yield desk


@pytest.mark.requirement(1, 112)
async def test_the_bundled_ca_refuses_them_alike(desk: Desk) -> None:
    """badCertTemplate for every template, and nothing in the ledger."""
    for what, (_, fields) in TEMPLATES.items():
        content = requests.requests_body(await cert_req_msg(*fields))
        found = await desk.refused(await desk.signed(desk.header(), content))
        assert found == (BodyType.ip, PKIFailureInfo.badCertTemplate), what
    for what, (fail_info, _, message) in (await parts()).items():
        content = requests.requests_body(message)
        found = await desk.refused(await desk.signed(desk.header(), content))
        assert found == (BodyType.ip, PKIFailureInfo[fail_info]), what
    assert await desk.ledger.counts() == {}


# --- a message that does not parse, though its header does ----------------------------------------------------


def _reassembled(message: PKIMessage, *parts: bytes) -> bytes:
    return asn1.tlv(0x30, message.header_der, message.body_der, *parts)


def broken(der: bytes) -> dict[str, tuple[str, bytes]]:
    """Messages that are none, and what the log has to name."""
    message = PKIMessage.from_der(der)
    protection = asn1.tlv(0xA0, asn1.tlv(0x03, b"\x00", message.protection or b""))
    certificates = asn1.tlv(0xA1, asn1.tlv(0x30, *message.extra_certs))
    header = asn1.inner(message.header_der)

    def headed(*more: bytes) -> bytes:
        return asn1.tlv(
            0x30, asn1.tlv(0x30, header, *more), message.body_der, protection, certificates
        )

    return {
        "empty extraCerts": ("extraCerts", _reassembled(message, protection, b"\xa1\x02\x30\x00")),
        "a certificate that is none": (
            "extraCerts",
            _reassembled(message, protection, asn1.tlv(0xA1, asn1.tlv(0x30, b"\x30\x05\x01"))),
        ),
        "extraCerts before protection": (
            "protection",
            _reassembled(message, certificates, protection),
        ),
        "protection as an OCTET STRING": (
            "protection",
            _reassembled(message, b"\xa0\x03\x04\x01\x00", certificates),
        ),
        "body choice 27": (
            "body",
            asn1.tlv(0x30, message.header_der, b"\xbb" + message.body_der[1:], protection),
        ),
        "freeText without a text": ("freeText", headed(b"\xa7\x02\x30\x00")),
        "generalInfo without an entry": ("generalInfo", headed(b"\xa8\x02\x30\x00")),
        "a header field that there is not": ("[9]", headed(b"\xa9\x02\x05\x00")),
        "recipNonce as an INTEGER": ("recipNonce", headed(b"\xa6\x03\x02\x01\x05")),
        "one octet too many": ("PKIMessage", der + b"\x00"),
        "the last octet missing": ("PKIMessage", der[:-1]),
    }


BROKEN = (
    "empty extraCerts",
    "a certificate that is none",
    "extraCerts before protection",
    "protection as an OCTET STRING",
    "body choice 27",
    "freeText without a text",
    "generalInfo without an entry",
    "a header field that there is not",
    "recipNonce as an INTEGER",
    "one octet too many",
    "the last octet missing",
)


@pytest.mark.requirement(1, 113, 114)
@pytest.mark.parametrize("what", BROKEN)
async def test_where_the_ids_can_be_read_the_error_has_them_and_is_protected(
    world: World, device: Credential, what: str
) -> None:
    """A client drops what has other IDs than its own, and would wait until it gives up."""
    good = await requests.request(world, device, KEY)
    named, der = broken(good)[what]
    reply = await world.gateway.handle(der, endpoint=world.endpoint.name)
    answer = PKIMessage.from_der(reply.der)
    assert (reply.understood, answer.body_type) == (True, BodyType.error)
    assert fail_names(answer) == ["badDataFormat"]
    assert_answers(world, PKIMessage.from_der(good), answer)
    assert world.ca.received == []
    event = world.events[-1]
    assert event.transaction_id == (answer.header.transaction_id or b"").hex()
    assert named in event.detail
    assert "ParseError" not in event.detail


@pytest.mark.requirement(1, 113, 114)
async def test_the_bundled_ca_protects_its_error_too(desk: Desk) -> None:
    """In both modes."""
    good = await desk.request()
    for what, (_, der) in broken(good).items():
        reply = await desk.ca.handle(der, mode=desk.mode)
        answer = PKIMessage.from_der(reply.der)
        assert reply.understood, what
        assert answer.protection is not None
        assert error_msg_content(answer.body_content).status_info.fail_info == (
            PKIFailureInfo.badDataFormat,
        )
        asked = PKIMessage.from_der(good).header
        assert answer.header.transaction_id == asked.transaction_id
        assert answer.header.recip_nonce == asked.sender_nonce


@pytest.mark.requirement(1, 125)
async def test_a_member_of_a_batch_that_is_no_message(
    world: World, ra: pki.Credential, device: Credential
) -> None:
    """Its own IDs, and a line in the log of its own."""
    good = await requests.request(world, device, KEY)
    other = await requests.request(world, device, make_key("p256"))
    _, der = broken(other)["empty extraCerts"]
    header = PKIHeader(
        sender_der=cmp_credential(ra).sender_der,
        recipient_der=ANYONE,
        message_time=world.clock(),
        transaction_id=secrets.token_bytes(16),
        sender_nonce=secrets.token_bytes(16),
    )
    nested = body(BodyType.nested, asn1.tlv(0x30, der, good))
    signer = cmp_credential(ra)
    answer = await world.ask(await protect(header, nested, signer, signer.certificates))
    refused, served = map(PKIMessage.from_der, nested_messages(answer.body_content))
    assert fail_names(refused) == ["badDataFormat"]
    assert refused.header.transaction_id == PKIMessage.from_der(other).header.transaction_id
    assert refused.protection is not None
    assert status_of(served).issued
    assert any("extraCerts" in event.detail for event in world.events)


@pytest.mark.requirement(1)
async def test_ids_that_cannot_be_read_are_not_made_up(world: World) -> None:
    """An unprotected error, as ever: nobody could tell whom it is for."""
    bare = PKIHeader(
        sender_der=ANYONE,
        recipient_der=directory_name(cmp_certificate(world.operator.ra.certificate).subject_der),
    )
    der = assemble(bare.to_der(), b"\xbb\x00", None)
    reply = await world.gateway.handle(der, endpoint=world.endpoint.name)
    answer: Any = PKIMessage.from_der(reply.der)
    assert (reply.understood, answer.protection) == (False, None)
