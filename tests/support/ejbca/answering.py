"""How EJBCA protects and addresses its answers."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    SIGNATURE_ALGORITHMS,
    AlgorithmRefused,
    SignatureAlgorithm,
    default_algorithm,
    key_family,
    signature_algorithm,
    signing_arguments,
)
from ra_gateway.cmp.bodies import (
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    cert_rep_body,
    error_body,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, PKIStatus
from ra_gateway.cmp.mac import MACCredential, compute_mac
from ra_gateway.cmp.messages import (
    ANYONE,
    CMP2000,
    IMPLICIT_CONFIRM,
    PKIHeader,
    PKIMessage,
    assemble,
)
from ra_gateway.cmp.names import directory_name, from_rfc4514, rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protected_part
from tests.support.ejbca.configuration import CA
from tests.support.ejbca.refusals import Refused

FOO_ISSUER: Final = directory_name(from_rfc4514("CN=fooIssuer"))
FOO_SUBJECT: Final = directory_name(from_rfc4514("CN=fooSubject"))
"""What rejections in ip, cp and kup have where names belong."""


def header_of(
    request: PKIHeader, *, sender_der: bytes, recipient_der: bytes, now: datetime
) -> PKIHeader:
    """Return the header of an answer; implicitConfirm is granted to whoever asks."""
    return PKIHeader(
        pvno=CMP2000,
        sender_der=sender_der,
        recipient_der=recipient_der,
        message_time=now,
        transaction_id=request.transaction_id,
        sender_nonce=secrets.token_bytes(16),
        recip_nonce=request.sender_nonce,
        general_info=(IMPLICIT_CONFIRM,) if request.info(OID.implicitConfirm) else (),
    )


def ca_sender(ca: CA) -> bytes:
    """Return the CA's name as a GeneralName, rebuilt from a string: its string types may be others."""
    return directory_name(from_rfc4514(rfc4514(ca.certificate.subject_der)))


def reversed_name(general_name_der: bytes) -> bytes:
    """Return a directoryName with its RDNs in reverse."""
    name = asn1.element(asn1.inner(general_name_der))
    rdns: list[bytes] = []
    rest = asn1.content(name)
    while rest:
        length = 2 + rest[1]  # RDNs of names in tests are short
        rdns.insert(0, rest[:length])
        rest = rest[length:]
    return directory_name(asn1.tlv(0x30, *rdns))


def _copied_algorithm(ca: CA, request: PKIHeader) -> SignatureAlgorithm:
    """Return the CA key's algorithm with the digest of the request's; RSA as in PKCS #1 v1.5."""
    key: Any = ca.authority.private_key
    usual = default_algorithm(key.public_key())
    family = {"rsa": "rsa-pkcs1", "ec": "ecdsa"}.get(key_family(key.public_key()))
    try:
        asked = signature_algorithm(request.protection_alg_der or b"\x30\x00").hash_name
    except AlgorithmRefused:
        asked = ""
    return SIGNATURE_ALGORITHMS.get(f"{family}-{asked}", usual)


def signed(
    ca: CA,
    request: PKIHeader,
    header: PKIHeader,
    body_der: bytes,
    also: tuple[bytes, ...] = (),
) -> bytes:
    """Return an answer under the CA's certificate-signing key, with its chain.

    Args:
        also: Further extraCerts.
    """
    algorithm = _copied_algorithm(ca, request)
    header_der = replace(
        header,
        protection_alg_der=algorithm.der,
        sender_kid=ca.certificate.subject_key_identifier,
    ).to_der()
    key: Any = ca.authority.private_key
    signature = key.sign(protected_part(header_der, body_der), *signing_arguments(algorithm))
    return assemble(header_der, body_der, signature, (*ca.chain, *also))


def under_mac(mac: MACCredential, header: PKIHeader, body_der: bytes) -> bytes:
    """Return an answer under the shared secret of the request."""
    header_der = replace(
        header, protection_alg_der=mac.parameters.der, sender_kid=mac.secret.reference
    ).to_der()
    protection = compute_mac(mac.parameters, mac.key, protected_part(header_der, body_der))
    return assemble(header_der, body_der, protection)


def unprotected(header: PKIHeader, body_der: bytes) -> bytes:
    """Return an answer that anybody could have made."""
    return assemble(header.to_der(), body_der, None)


def status_of(refusal: Refused) -> PKIStatusInfo:
    """Return the status that tells of a refusal."""
    return PKIStatusInfo(PKIStatus.rejection, (refusal.text,), refusal.fail_info)


def rejection(request: PKIMessage, cert_req_id: int, refusal: Refused, now: datetime) -> bytes:
    """Return a rejection in ip, cp or kup: with names that nobody has, and unprotected."""
    header = header_of(request.header, sender_der=FOO_ISSUER, recipient_der=FOO_SUBJECT, now=now)
    response = CertResponse(cert_req_id, status_of(refusal))
    return unprotected(
        replace(header, general_info=()),
        cert_rep_body(CERT_RESPONSE_TO[request.body_type], CertRepMessage((response,))),
    )


def unreadable(refusal: Refused) -> bytes:
    """Return the answer to octets that are no CMP message: it belongs to nothing."""
    header = PKIHeader(
        sender_der=ANYONE,
        recipient_der=ANYONE,
        transaction_id=secrets.token_bytes(16),
        sender_nonce=secrets.token_bytes(16),
    )
    return unprotected(header, error_body(status_of(refusal)))
