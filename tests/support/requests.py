"""Certificate requests put together by hand, so that a test can get any one thing wrong."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SignatureAlgorithm, digest
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    RevDetails,
    cert_confirm_body,
    cert_rep_message,
    rev_req_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import (
    CertTemplate,
    Control,
    Extension,
    cert_request_der,
    signature_popo_der,
)
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, body
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.keys import KeySigner
from tests.support import pki
from tests.support.answers import follow
from tests.support.asserts import assert_refused
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import World

SUBJECT = "CN=enb-1.ran.example.net"
KEY_COMPROMISE = 1


def spki(key: Any) -> bytes:
    """SubjectPublicKeyInfo of a private key."""
    octets: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return octets


def san_extension(*names: str, critical: bool = False) -> Extension:
    """A subjectAltName of texts such as "dns:enb1.example.net"."""
    return Extension(OID.subjectAltName, critical, general_names_der(names))


def template(
    key: Any, subject: str | None = SUBJECT, san: Sequence[str] = (), **fields: Any
) -> CertTemplate:
    """A template for a key, with a subject as RFC 4514 string and subjectAltName entries.

    Args:
        fields: Of `CertTemplate`; `extensions` come before the subjectAltName.
    """
    extensions = (*fields.pop("extensions", ()), *([san_extension(*san)] if san else ()))
    return CertTemplate(
        **{
            "subject_der": None if subject is None else from_rfc4514(subject),
            "spki_der": spki(key),
            "extensions": extensions,
            **fields,
        }
    )


async def popo(
    signed: bytes,
    key: Any,
    *,
    algorithm: SignatureAlgorithm | None = None,
    input_der: bytes | None = None,
) -> bytes:
    """POPOSigningKey with a key's signature over some octets; `input_der` is sent as poposkInput."""
    signer = KeySigner(key, algorithm)
    return signature_popo_der(signer.algorithm.der, await signer.sign(signed), input_der)


async def message(
    world: World,
    credential: Credential,
    body_der: bytes,
    *,
    extra_certs: Iterable[bytes] | None = None,
    **header: Any,
) -> bytes:
    """A message that opens an operation; `header` are fields of `PKIHeader`."""
    usual = PKIHeader(
        sender_der=credential.sender_der,
        recipient_der=ANYONE,
        message_time=world.clock(),
        transaction_id=secrets.token_bytes(16),
        sender_nonce=secrets.token_bytes(16),
    )
    certificates = credential.certificates if extra_certs is None else extra_certs
    return await protect(replace(usual, **header), body_der, credential, certificates)


def requests_body(*cert_req_msgs: bytes, body_type: BodyType = BodyType.ir) -> bytes:
    """The body of an ir, cr or kur around whole CertReqMsg."""
    return body(body_type, asn1.tlv(0x30, *cert_req_msgs))


async def request(
    world: World,
    credential: Credential,
    key: Any,
    asked: CertTemplate | None = None,
    *,
    body_type: BodyType = BodyType.ir,
    cert_req_id: int = 0,
    controls: Iterable[Control] = (),
    cert_req_der: bytes | None = None,
    popo_der: bytes | None = None,
    reg_info_der: bytes = b"",
    **header: Any,
) -> bytes:
    """An ir, cr or kur that is in order, but for what the arguments say.

    Args:
        key: The new key; it signs the proof of possession.
        asked: The template; by default `template(key)`.
        cert_req_der: Instead of one made of template, certReqId and controls.
        popo_der: Instead of a signature over the CertRequest; b"" for none.
        header: Fields of `PKIHeader`, or `extra_certs`.
    """
    if cert_req_der is None:
        cert_req_der = cert_request_der(
            asked or template(key), cert_req_id=cert_req_id, controls=controls
        )
    if popo_der is None:
        popo_der = await popo(cert_req_der, key)
    cert_req_msg = asn1.tlv(0x30, cert_req_der, popo_der, reg_info_der)
    return await message(
        world, credential, requests_body(cert_req_msg, body_type=body_type), **header
    )


async def assert_refused_in_body(
    world: World,
    der: bytes,
    *fail_info: str,
    rule: str,
    detail: str = "",
    body_type: BodyType = BodyType.ip,
    cert_req_id: int = 0,
) -> PKIMessage:
    """Post a request and assert that it is refused in its ip, cp or kup (R112), without a certificate.

    Args:
        fail_info: Names of the failInfo bits expected.
        rule: What the event must name.
        detail: Part of the event's detail.
        cert_req_id: In the answer.
    """
    answer = await assert_refused(world, der, *fail_info, rule=rule, body_type=body_type)
    (response,) = cert_rep_message(answer.body_content).responses
    assert (response.cert_req_id, response.certificate_der) == (cert_req_id, None)
    assert detail in world.events[-1].detail
    return answer


def details(
    certificate: Certificate, *, reason: int | None = KEY_COMPROMISE, **template: Any
) -> RevDetails:
    named = {"issuer_der": certificate.issuer_der, "serial_number": certificate.serial_number}
    code = asn1.tlv(0x0A, bytes((reason or 0,)))
    return RevDetails(
        CertTemplate(**{**named, **template}),
        () if reason is None else (Extension(OID.reasonCode, False, code),),
    )


async def rr(
    world: World, device: pki.Credential, asked: RevDetails | None = None, **header: Any
) -> bytes:
    """An rr for the certificate that protects it, or for another."""
    asked = asked or details(cmp_certificate(device.certificate))
    return await message(world, cmp_credential(device), rev_req_body(asked), **header)


def csr(key: Any, subject: str = SUBJECT, *names: str, hash_algorithm: Any = None) -> bytes:
    """A PKCS#10, as cryptography makes it."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string(subject))
    if names:
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(san, critical=False)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"ignored")
    return builder.sign(key, hash_algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


async def made_by_hand(
    key: Any,
    *,
    version: int = 0,
    subject: str = SUBJECT,
    subject_der: bytes | None = None,
    attributes: bytes = b"\xa0\x00",
) -> bytes:
    """A PKCS#10 with a good signature over whatever is wrong in it."""
    signer = KeySigner(key)
    info = asn1.tlv(
        0x30,
        asn1.encode(version),
        subject_der or from_rfc4514(subject),
        spki(key),
        attributes,
    )
    signature = await signer.sign(info)
    return asn1.tlv(0x30, info, signer.algorithm.der, asn1.tlv(0x03, b"\x00", signature))


def extension_request(*extensions: Extension) -> bytes:
    """The attributes of a PKCS#10 that asks for extensions."""
    wanted = asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x30, asn1.oid_der(item.oid), asn1.tlv(0x04, item.value))
            for item in extensions
        ),
    )
    request = asn1.tlv(0x30, asn1.oid_der(OID.extensionRequest), asn1.tlv(0x31, wanted))
    return asn1.tlv(0xA0, request)


async def p10cr(world: World, credential: Any, request: bytes, **header: Any) -> bytes:
    if not isinstance(credential, Credential):
        credential = cmp_credential(credential)
    return await message(world, credential, body(BodyType.p10cr, request), **header)


def confirmation_body(answer: PKIMessage, cert_req_id: int) -> bytes:
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.certificate_der is not None
    return cert_confirm_body(
        CertStatus(digest("sha256", response.certificate_der), cert_req_id, None)
    )


async def confirmation(
    world: World, signer: pki.Credential, answer: PKIMessage, *, rejects: bool = False
) -> bytes:
    """The certConf for an answer."""
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.certificate_der is not None
    info = PKIStatusInfo(PKIStatus.rejection) if rejects else None
    status = CertStatus(digest("sha256", response.certificate_der), response.cert_req_id, info)
    return await follow(signer, answer, cert_confirm_body(status), now=world.clock())
