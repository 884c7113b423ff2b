"""How EJBCA reads and verifies: octets made DER first, signatures by their OID alone."""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import load_public_key, signature_algorithm, verify_signature
from ra_gateway.cmp.crmf import CertReqMsg, SignaturePOP
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import name_of, rfc4514
from ra_gateway.errors import CMPError, MalformedMessage

_RSASSA_PSS_DER: Final = asn1.oid_der("1.2.840.113549.1.1.10")
_SHA1: Final = hashes.SHA1()
_UNAPPLIED_PSS: Final = padding.PSS(padding.MGF1(_SHA1), 20)
"""RSASSA-PSS as it is without parameters, which is how EJBCA verifies all of it."""


def decoded(octets: bytes) -> PKIMessage:
    """Decode a message; one in BER is read as the DER that says the same.

    Raises:
        MalformedMessage: It is neither.
    """
    try:
        return PKIMessage.from_der(octets)
    except MalformedMessage:
        try:
            der, end = _der_at(octets, 0)
        except (IndexError, RecursionError) as error:
            raise MalformedMessage("not even BER") from error
        if end != len(octets):
            raise
        return PKIMessage.from_der(der)


def _der_at(octets: bytes, start: int) -> tuple[bytes, int]:
    """Return one element with lengths as DER has them, and where it ends; tags are of one octet."""
    tag, first = octets[start], octets[start + 1]
    begin = start + 2
    end: int | None = None
    if first < 0x80:
        end = begin + first
    elif first > 0x80:
        begin += first & 0x7F
        end = begin + int.from_bytes(octets[start + 2 : begin], "big")
    if end is not None and end > len(octets):
        raise IndexError
    if end is not None and not tag & 0x20:
        return asn1.tlv(tag, octets[begin:end]), end
    parts: list[bytes] = []
    at = begin
    while at != end and (end is not None or octets[at : at + 2] != b"\0\0"):
        part, at = _der_at(octets, at)
        parts.append(part)
    return asn1.tlv(tag, *parts), at if end is not None else at + 2


def verify(algorithm_der: bytes, key: Any, signature: bytes, octets: bytes) -> None:
    """Verify a signature: whatever the hash, and parameters of RSASSA-PSS unread.

    Raises:
        InvalidSignature: It does not verify.
    """
    if _RSASSA_PSS_DER in algorithm_der[:16] and hasattr(key, "key_size"):
        key.verify(signature, octets, _UNAPPLIED_PSS, _SHA1)
        return
    try:
        verify_signature(signature_algorithm(algorithm_der), key, signature, octets)
    except CMPError as error:
        raise InvalidSignature from error


def possession_proved(asked: CertReqMsg, *, ra_verified_allowed: bool) -> bool:
    """Tell whether the requester has shown to have the key it asks a certificate for."""
    if asked.pop == "raVerified":
        return ra_verified_allowed
    spki_der = asked.template.spki_der
    if not isinstance(asked.pop, SignaturePOP) or spki_der is None:
        return False  # keyEncipherment and keyAgreement are not supported
    signed = asked.cert_req_der
    if asked.pop.input_der is not None:
        if not _names_the_template(asked.pop, asked):
            return False
        signed = asked.pop.input_der
    try:
        verify(asked.pop.algorithm_der, load_public_key(spki_der), asked.pop.signature, signed)
    except (InvalidSignature, CMPError):
        return False
    return True


def _names_the_template(pop: SignaturePOP, asked: CertReqMsg) -> bool:
    """Tell whether POPOSigningKeyInput has the template's subject, compared as a string, and its key."""
    sender_der = asn1.inner(pop.auth_info_der) if pop.auth_info_der[:1] == b"\xa0" else b""
    named, subject_der = name_of(sender_der), asked.template.subject_der
    return (
        named is not None
        and subject_der is not None
        and rfc4514(named) == rfc4514(subject_der)
        and pop.public_key_der == asked.template.spki_der
    )
