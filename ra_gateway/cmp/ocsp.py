"""OCSP as its clients speak it: asking about one certificate, and what makes an answer count (RFC 6960, RFC 5019).

No I/O, no clock, no randomness. `ask` makes a request; only `read_answer` makes an `OCSPStatus`, and only of an
answer about that very certificate, still fresh, signed by its issuer or by a responder the issuer certified for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import ocsp

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    AlgorithmPolicy,
    digest,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.certificates import Certificate, ExtensionOID, InvalidSignature, KeyUsage
from ra_gateway.cmp.crl import MAX_CLOCK_SKEW, URI_TAG, elements
from ra_gateway.cmp.names import same_name
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.errors import CMPError, MalformedMessage, OCSPRefused

OCSP_NO_CHECK: Final = "1.3.6.1.5.5.7.48.1.5"
"""In a responder's certificate: nobody needs to ask about it while it is valid (RFC 6960 4.2.2.2.1)."""

_OCSP: Final = "1.3.6.1.5.5.7.48.1"
_NONCE: Final = "1.3.6.1.5.5.7.48.1.2"
_OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"
_AUTHORITY_INFO_ACCESS: Final = "1.3.6.1.5.5.7.1.1"
_SHA1_DER: Final = asn1.tlv(0x30, asn1.oid_der("1.3.14.3.2.26"), b"\x05\x00")

_SINGLE_EXTENSIONS_TAG: Final = 0xA1

_MAX_CERTIFICATES: Final = 8
"""In an answer: the responder's own, and those above it."""

_PROCESSED_EXTENSIONS: Final = frozenset(
    {ExtensionOID.keyUsage, ExtensionOID.extKeyUsage, ExtensionOID.basicConstraints}
)
"""Of a responder's certificate, where they are critical."""


class CertStatus(StrEnum):
    """What a responder says of a certificate (RFC 6960 2.2)."""

    good = "good"
    revoked = "revoked"
    unknown = "unknown"  # to this responder


@dataclass(frozen=True, slots=True)
class OCSPQuestion:
    """A question about one certificate.

    Args:
        issuer: On a validated path: its key verified `certificate`.
        nonce: An answer that has one has this one.
        der: The OCSPRequest.
    """

    certificate: Certificate
    issuer: Certificate
    nonce: bytes
    der: bytes


_SEAL: Final = Seal(__name__)


@proof
class OCSPStatus:
    """What an answer in order says.

    Args:
        this_update: Aware UTC, when it was known to be right.
        fresh_until: Aware UTC: its nextUpdate. One without is of the moment, and fresh for as long as clocks
            may differ.
        revoked_at: Aware UTC, None unless revoked.
    """

    status: CertStatus
    this_update: datetime
    fresh_until: datetime
    revoked_at: datetime | None
    seal: InitVar[Seal]

    def __post_init__(self, seal: Seal) -> None:
        _SEAL.require(seal)


# --- asking ---------------------------------------------------------------------------------------------------


def ask(certificate: Certificate, issuer: Certificate, nonce: bytes) -> OCSPQuestion:
    """Return the question whether a certificate is revoked.

    Args:
        issuer: Whose key verified the certificate's signature.
        nonce: 1 to 32 octets, drawn anew (RFC 8954 2.1).
    """
    serial_der = asn1.encode(certificate.serial_number)
    hashes_der = [asn1.tlv(0x04, octets) for octets in _issuer_hashes(certificate, issuer)]
    # SHA-1 names the issuer here and protects nothing: all responders know it (RFC 5019 2.1.1).
    cert_id_der = asn1.tlv(0x30, _SHA1_DER, *hashes_der, serial_der)
    nonce_der = asn1.tlv(0x30, asn1.oid_der(_NONCE), asn1.tlv(0x04, asn1.tlv(0x04, nonce)))
    tbs_der = asn1.tlv(
        0x30,
        asn1.tlv(0x30, asn1.tlv(0x30, cert_id_der)),
        asn1.tlv(0xA2, asn1.tlv(0x30, nonce_der)),
    )
    return OCSPQuestion(certificate, issuer, nonce, asn1.tlv(0x30, tbs_der))


def _issuer_hashes(certificate: Certificate, issuer: Certificate) -> tuple[bytes, bytes]:
    return digest("sha1", certificate.issuer_der), _key_hash(issuer)


def _key_hash(certificate: Certificate) -> bytes:
    """Return the SHA-1 of a key without tag, length and unused bits: in CertID and in ResponderID."""
    spki = asn1.decode(asn1.SubjectPublicKeyInfo, certificate.spki_der)
    return digest("sha1", spki.subject_public_key.as_bytes())


@lru_cache(maxsize=1024)
def responder_urls(certificate: Certificate) -> tuple[str, ...]:
    """Return where a certificate says its status can be asked for (AuthorityInfoAccess, RFC 5280 4.2.2.1).

    An extension that does not parse names no place.
    """
    found = certificate.extensions.get(_AUTHORITY_INFO_ACCESS)
    if found is None:
        return ()
    try:
        descriptions = [elements(asn1.inner(item)) for item in elements(asn1.inner(found[1]))]
        names = [name for method, name in descriptions if method == asn1.oid_der(_OCSP)]
    except (MalformedMessage, IndexError, ValueError):
        return ()
    urls = (asn1.inner(name) for name in names if name[0] == URI_TAG)
    return tuple(dict.fromkeys(url.decode("ascii") for url in urls if url.isascii()))


# --- reading --------------------------------------------------------------------------------------------------


def read_answer(
    der: bytes,
    question: OCSPQuestion,
    algorithms: AlgorithmPolicy,
    now: datetime,
    require_responder: Callable[[Certificate], None],
) -> OCSPStatus:
    """Read the answer to a question.

    Args:
        algorithms: What the answer, and a responder's certificate, may be signed with.
        now: Aware UTC.
        require_responder: Raises `CMPError` or `OCSPRefused` if a responder that the issuer certified may
            itself be revoked.

    Raises:
        OCSPRefused: Not an answer, not to this question, not by whom it has to be, or not of now.
    """
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise OCSPRefused(f"the responder answers {response.response_status.name}")
        _require_signed(der, response, question, algorithms, now, require_responder)
        _check_extensions(response, question.nonce)
        return _status(_single(response, question), now)
    except CMPError as error:
        raise OCSPRefused(error.detail) from error
    except (ValueError, IndexError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise OCSPRefused(f"not an OCSP answer that can be read: {error}") from error


def _require_signed(
    der: bytes,
    response: ocsp.OCSPResponse,
    question: OCSPQuestion,
    algorithms: AlgorithmPolicy,
    now: datetime,
    require_responder: Callable[[Certificate], None],
) -> None:
    tbs_der, algorithm_der, *_ = parts = _basic_response(der)
    if tbs_der != response.tbs_response_bytes:
        raise OCSPRefused("not DER")
    algorithm = signature_algorithm(algorithm_der)
    algorithms.require_signature(algorithm, "is signed", "the answer")
    refusal: OCSPRefused | None = None
    for responder in _named_responders(response, question.issuer, parts[3:]):
        try:
            if not _is_same_ca(responder, question.issuer):
                _require_delegated(responder, question.issuer, algorithms, now)
                require_responder(responder)
            verify_signature(algorithm, responder.public_key, response.signature, tbs_der)
        except InvalidSignature:
            refusal = refusal or OCSPRefused(f"was not signed by the key of {responder}")
        except CMPError as error:
            refusal = refusal or OCSPRefused(error.detail)
        except OCSPRefused as error:
            refusal = refusal or error
        else:
            return
    raise refusal or OCSPRefused(
        f"signed neither by {question.issuer} nor by a responder whose certificate comes along"
    )


def _basic_response(der: bytes) -> list[bytes]:
    """Return the parts of BasicOCSPResponse as they came: what is signed, algorithm, signature, certificates."""
    response_bytes = asn1.inner(elements(asn1.inner(der))[1])
    basic = asn1.inner(elements(asn1.inner(response_bytes))[1])
    return elements(asn1.inner(basic))


def _named_responders(
    response: ocsp.OCSPResponse, issuer: Certificate, certificates: list[bytes]
) -> Iterator[Certificate]:
    """Yield the issuer and the certificates that came along, as far as the answer says that they made it."""
    along: list[bytes] = []
    if certificates:
        along = elements(asn1.inner(asn1.inner(certificates[0])))
    if len(along) > _MAX_CERTIFICATES:
        raise OCSPRefused(f"{len(along)} certificates come along; at most {_MAX_CERTIFICATES} do")
    name, key_hash = response.responder_name, response.responder_key_hash
    for certificate in (issuer, *map(Certificate.from_der, along)):
        by_key = key_hash is not None and key_hash == _key_hash(certificate)
        if by_key or (name is not None and same_name(name.public_bytes(), certificate.subject_der)):
            yield certificate


def _is_same_ca(one: Certificate, other: Certificate) -> bool:
    return one.spki_der == other.spki_der and same_name(one.subject_der, other.subject_der)


def _require_delegated(
    responder: Certificate, issuer: Certificate, algorithms: AlgorithmPolicy, now: datetime
) -> None:
    """Refuse a responder that the issuer itself did not certify as one (RFC 6960 4.2.2.2)."""
    usage = responder.key_usage
    unknown = {oid for oid, (critical, _) in responder.extensions.items() if critical}
    unknown -= _PROCESSED_EXTENSIONS
    why = ""
    if not same_name(responder.issuer_der, issuer.subject_der):
        why = f"was issued by {responder.issuer}, not by {issuer}"
    elif _OCSP_SIGNING not in responder.extended_key_usage:
        why = "has no extended key usage OCSPSigning"
    elif usage is not None and KeyUsage.digitalSignature not in usage:
        why = "has a keyUsage without digitalSignature"
    elif not responder.valid_at(now):
        why = f"is valid from {_text(responder.not_before)} to {_text(responder.not_after)} only"
    elif unknown:
        why = f"has critical extensions not known here: {', '.join(sorted(unknown))}"
    if why:
        raise OCSPRefused(f"the responder {responder} {why}")
    algorithms.require_key(responder.public_key, "has a key", responder)
    algorithms.require_signature(responder.signature_algorithm, "is signed", responder)
    try:
        responder.verify_issued_by(issuer)
    except InvalidSignature as error:
        raise OCSPRefused(
            f"the responder {responder} was not certified by the key of {issuer}"
        ) from error


def _check_extensions(response: ocsp.OCSPResponse, nonce: bytes) -> None:
    for extension in response.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            # Responders that make answers beforehand leave it out (RFC 5019 4); a wrong one is a replay.
            if extension.value.nonce != nonce:
                raise OCSPRefused("its nonce is that of another question")
        elif extension.critical:
            oid = extension.oid.dotted_string
            raise OCSPRefused(f"has the critical extension {oid}, which is not known here")


def _single(response: ocsp.OCSPResponse, question: OCSPQuestion) -> ocsp.OCSPSingleResponse:
    """Return the one of the responses whose CertID is that of the question."""
    serial_number = question.certificate.serial_number
    wanted = ("sha1", *_issuer_hashes(question.certificate, question.issuer), serial_number)
    raw = _raw_singles(response.tbs_response_bytes)
    found = [
        (single, single_der)
        for single, single_der in zip(response.responses, raw, strict=True)
        if wanted
        == (
            single.hash_algorithm.name,
            single.issuer_name_hash,
            single.issuer_key_hash,
            single.serial_number,
        )
    ]
    if len(found) != 1:
        what = "twice about this certificate" if found else "about another certificate"
        raise OCSPRefused(f"answers {what} (serial {serial_number:x} was asked about)")
    single, single_der = found[0]
    last_der = elements(asn1.inner(single_der))[-1]
    if last_der[0] == _SINGLE_EXTENSIONS_TAG:
        items = asn1.unbox(asn1.ExtensionsBox, asn1.inner(last_der)).extensions
        if any(item.critical for item in items):
            raise OCSPRefused("its status has a critical extension, which is not known here")
    return single


def _raw_singles(tbs_der: bytes) -> list[bytes]:
    """Return each SingleResponse of a ResponseData: in it, the one SEQUENCE without a tag of its own."""
    (responses_der,) = (part for part in elements(asn1.inner(tbs_der)) if part[0] == 0x30)
    return elements(asn1.inner(responses_der))


def _status(single: ocsp.OCSPSingleResponse, now: datetime) -> OCSPStatus:
    this_update, next_update = single.this_update_utc, single.next_update_utc
    if this_update > now + MAX_CLOCK_SKEW:
        raise OCSPRefused(f"its thisUpdate is {_text(this_update)}, ahead of our clock")
    # Clocks differ: an answer of a minute's validity must not be refused by who is two minutes ahead.
    fresh_until = (next_update or this_update) + MAX_CLOCK_SKEW
    if fresh_until < now:
        raise OCSPRefused(f"has expired: it is good until {_text(next_update or this_update)}")
    return OCSPStatus(
        CertStatus(single.certificate_status.name.lower()),
        this_update,
        fresh_until,
        single.revocation_time_utc,
        _SEAL,
    )


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
