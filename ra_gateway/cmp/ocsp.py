"""OCSP as its clients speak it: asking about one certificate, and what makes an answer count (RFC 6960, RFC 5019).

No I/O, no clock, no randomness. `ask` makes a request; only `read_answer` makes an `OCSPStatus`, and only of an
answer about that very certificate, still fresh, signed by its issuer or by a responder the issuer certified for it.

Anybody may send an answer. Hence its order: elements are counted and names measured before any is decoded; a
responder's certificate is looked into after its issuer's signature verified, its key is loaded last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import ocsp

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import (
    AlgorithmPolicy,
    digest,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.crl import MAX_CLOCK_SKEW, MAX_POINTS, URI_TAG, require_short_name
from ra_gateway.cmp.names import same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.errors import CMPError, MalformedMessage, OCSPRefused

_SHA1_DER: Final = asn1.algorithm_der(OID.sha1, asn1.NULL_DER)

_EXTENSIONS_TAG: Final = 0xA1
_VERSION_TAG: Final = 0xA0
_BY_NAME_TAG: Final = 0xA1

_MAX_CERTIFICATES: Final = 8
"""In an answer: the responder's own, and those above it."""

_MAX_CERTIFICATE_OCTETS: Final = 16_384
"""With an ML-DSA-87 key and signature a certificate has some 8,000."""

_MAX_STATUSES: Final = 32
"""In an answer; one was asked for, and RFC 5019 2.2.1 wants one."""

_MAX_EXTENSIONS: Final = 16

_PROCESSED_EXTENSIONS: Final = frozenset({OID.keyUsage, OID.extKeyUsage, OID.basicConstraints})
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
        nonce: An answer that has one has this one; empty for a question without.
        der: The OCSPRequest.
    """

    certificate: Certificate
    issuer: Certificate
    nonce: bytes
    der: bytes


_SEAL: Final = Seal(__name__)


@proof(_SEAL)
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


# --- asking ---------------------------------------------------------------------------------------------------


def ask(certificate: Certificate, issuer: Certificate, nonce: bytes) -> OCSPQuestion:
    """Return the question whether a certificate is revoked.

    Args:
        issuer: Whose key verified the certificate's signature.
        nonce: 32 octets, drawn anew (RFC 9654 2.1); empty to send none.
    """
    serial_der = asn1.encode(certificate.serial_number)
    hashes_der = [asn1.tlv(0x04, octets) for octets in _issuer_hashes(certificate, issuer)]
    # SHA-1 names the issuer here and protects nothing: all responders know it (RFC 5019 2.1.1).
    cert_id_der = asn1.tlv(0x30, _SHA1_DER, *hashes_der, serial_der)
    extensions_der = b""
    if nonce:
        nonce_der = asn1.tlv(
            0x30, asn1.oid_der(OID.ocspNonce), asn1.tlv(0x04, asn1.tlv(0x04, nonce))
        )
        extensions_der = asn1.tlv(0xA2, asn1.tlv(0x30, nonce_der))
    tbs_der = asn1.tlv(0x30, asn1.tlv(0x30, asn1.tlv(0x30, cert_id_der)), extensions_der)
    return OCSPQuestion(certificate, issuer, nonce, asn1.tlv(0x30, tbs_der))


def _issuer_hashes(certificate: Certificate, issuer: Certificate) -> tuple[bytes, bytes]:
    return digest("sha1", certificate.issuer_der), _key_hash(issuer)


def _key_hash(certificate: Certificate) -> bytes:
    """Return the SHA-1 of a key without tag, length and unused bits: in CertID and in ResponderID."""
    spki = asn1.decode(structures.SubjectPublicKeyInfo, certificate.spki_der)
    return digest("sha1", spki.subject_public_key.as_bytes())


@lru_cache(maxsize=128)
def responder_urls(certificate: Certificate) -> tuple[str, ...]:
    """Return where a certificate says its status can be asked for (AuthorityInfoAccess, RFC 5280 4.2.2.1).

    An extension that does not parse names no place.
    """
    found = certificate.extensions.get(OID.authorityInfoAccess)
    if found is None:
        return ()
    try:
        descriptions = [
            asn1.parts(item, 2, "AccessDescription", least=2)
            for item in asn1.parts(found[1], MAX_POINTS, "AuthorityInfoAccess")
        ]
    except MalformedMessage:
        return ()
    at_ocsp = asn1.oid_der(OID.ocsp)
    urls = (
        asn1.inner(name)
        for method, name in descriptions
        if method == at_ocsp and name[0] == URI_TAG
    )
    return tuple(dict.fromkeys(url.decode("ascii") for url in urls if url.isascii()))


# --- reading --------------------------------------------------------------------------------------------------


def read_answer(
    der: bytes,
    question: OCSPQuestion,
    algorithms: AlgorithmPolicy,
    now: datetime,
    require_responder: Callable[[Certificate], None],
    *,
    require_nonce: bool = False,
) -> OCSPStatus:
    """Read the answer to a question.

    Args:
        algorithms: What the answer, and a responder's certificate, may be signed with.
        now: Aware UTC.
        require_responder: Raises `CMPError` or `OCSPRefused` if a responder that the issuer certified may
            itself be revoked.
        require_nonce: Refuse an answer without the question's nonce.

    Raises:
        OCSPRefused: Not an answer, not to this question, not by whom it has to be, or not of now.
    """
    try:
        parts = _opened(der)
        if parts is not None:
            _require_signed(parts, question, algorithms, now, require_responder)
        response = ocsp.load_der_ocsp_response(der)
        if parts is None or response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise OCSPRefused(f"the responder answers {response.response_status.name}")
        if parts.tbs_der != response.tbs_response_bytes:
            raise OCSPRefused("not DER")
        _check_extensions(response, question.nonce, require_nonce)
        return _status(_single(response, parts.singles, question), now)
    except MalformedMessage as error:
        raise OCSPRefused(f"not an OCSP answer that can be read: {error.detail}") from error
    except CMPError as error:
        raise OCSPRefused(error.detail) from error
    except (ValueError, IndexError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise OCSPRefused(f"not an OCSP answer that can be read: {error}") from error


@dataclass(frozen=True, slots=True)
class _Parts:
    """Of an answer, as they came; none was decoded, and none of them is large or many.

    Args:
        responder_id: ResponderID.
        singles: SingleResponses.
        certificates: That came along.
    """

    tbs_der: bytes
    algorithm_der: bytes
    signature: bytes
    responder_id: bytes
    singles: list[bytes]
    certificates: list[bytes]


def _opened(der: bytes) -> _Parts | None:
    """Return the parts of an answer; None of one that says that there is none."""
    outer = asn1.parts(der, 2, "OCSPResponse")
    if len(outer) == 1:
        return None
    (response_bytes,) = asn1.parts(outer[1], 1, "responseBytes")
    _, octets = asn1.parts(response_bytes, 2, "ResponseBytes")
    tbs_der, algorithm_der, signature_der, *along = asn1.parts(
        asn1.inner(octets), 4, "BasicOCSPResponse"
    )
    signature = asn1.decode(asn1.BitString, signature_der)
    fields = asn1.parts(tbs_der, 5, "ResponseData")
    if fields[0][0] == _VERSION_TAG:
        del fields[0]
    responder_id, _, responses_der, *extensions = fields
    singles = asn1.parts(responses_der, _MAX_STATUSES, "responses")
    for single in singles:
        *_, last = asn1.parts(single, 5, "SingleResponse")
        if last[0] == _EXTENSIONS_TAG:
            _count_extensions(last)
    for tagged in extensions:
        _count_extensions(tagged)
    return _Parts(
        tbs_der,
        algorithm_der,
        asn1.octets_of(signature, "the signature of the answer"),
        responder_id,
        singles,
        _certificates(along),
    )


def _count_extensions(tagged: bytes) -> None:
    asn1.parts(asn1.inner(tagged), _MAX_EXTENSIONS, "list of extensions")


def _certificates(along: list[bytes]) -> list[bytes]:
    if not along:
        return []
    (sequence,) = asn1.parts(along[0], 1, "certs")
    try:
        found = asn1.parts(sequence, _MAX_CERTIFICATES, "certs")
    except MalformedMessage:
        raise OCSPRefused(
            f"more than {_MAX_CERTIFICATES} certificates come along, or they are not DER"
        ) from None
    for der in found:
        if len(der) > _MAX_CERTIFICATE_OCTETS:
            raise OCSPRefused(
                f"a certificate of {len(der)} octets comes along; they have {_MAX_CERTIFICATE_OCTETS} at most"
            )
    return found


def _require_signed(
    parts: _Parts,
    question: OCSPQuestion,
    algorithms: AlgorithmPolicy,
    now: datetime,
    require_responder: Callable[[Certificate], None],
) -> None:
    algorithm = signature_algorithm(parts.algorithm_der)
    algorithms.require_signature(algorithm, "is signed", "the answer")
    refusal: OCSPRefused | None = None
    for responder in _named_responders(parts, question.issuer):
        try:
            if not _is_same_ca(responder, question.issuer):
                _require_delegated(responder, question.issuer, algorithms, now)
                require_responder(responder)
            verify_signature(algorithm, responder.public_key, parts.signature, parts.tbs_der)
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


def _named_responders(parts: _Parts, issuer: Certificate) -> Iterator[Certificate]:
    """Yield the issuer and the certificates that came along, as far as the answer says that they made it."""
    (value,) = asn1.parts(parts.responder_id, 1, "responderID")
    by_name = parts.responder_id[0] == _BY_NAME_TAG
    if by_name:
        require_short_name(value, "responder's name")
    for certificate in (issuer, *map(_decoded_certificate, parts.certificates)):
        if by_name:
            names_it = same_name(value, certificate.subject_der)
        else:
            names_it = value == asn1.tlv(0x04, _key_hash(certificate))
        if names_it:
            yield certificate


def _decoded_certificate(der: bytes) -> Certificate:
    certificate = Certificate.from_der(der)
    for name_der in (certificate.subject_der, certificate.issuer_der):
        require_short_name(name_der, "name in a certificate that comes along")
    return certificate


def _is_same_ca(one: Certificate, other: Certificate) -> bool:
    return one.spki_der == other.spki_der and same_name(one.subject_der, other.subject_der)


def _require_delegated(
    responder: Certificate, issuer: Certificate, algorithms: AlgorithmPolicy, now: datetime
) -> None:
    """Refuse a responder that the issuer itself did not certify as one (RFC 6960 4.2.2.2).

    Nothing of its certificate but the issuer's name counts before the issuer's signature has verified, and its
    key is not loaded before it is known to be a responder's.
    """
    if not same_name(responder.issuer_der, issuer.subject_der):
        raise OCSPRefused(
            f"the responder {responder} was issued by {responder.issuer}, not by {issuer}"
        )
    algorithms.require_signature(responder.signature_algorithm, "is signed", responder)
    try:
        responder.verify_issued_by(issuer)
    except InvalidSignature as error:
        raise OCSPRefused(
            f"the responder {responder} was not certified by the key of {issuer}"
        ) from error
    usage = responder.key_usage
    unknown = {oid for oid, (critical, _) in responder.extensions.items() if critical}
    unknown -= _PROCESSED_EXTENSIONS
    why = ""
    if OID.ocspSigning not in responder.extended_key_usage:
        why = "has no extended key usage OCSPSigning"
    elif usage is not None and KeyUsage.digitalSignature not in usage:
        why = "has a keyUsage without digitalSignature"
    elif not responder.valid_at(now):
        why = f"is valid from {_text(responder.not_before)} to {_text(responder.not_after)} only"
    elif unknown:
        why = f"has critical extensions not known here: {', '.join(sorted(unknown))}"
    if why:
        raise OCSPRefused(f"the responder {responder} {why}")
    algorithms.require_key(responder.spki_der, "has a key", responder)


def _check_extensions(response: ocsp.OCSPResponse, nonce: bytes, require_nonce: bool) -> None:
    is_there = False
    for extension in response.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            # Responders that make answers beforehand leave it out (RFC 5019 4); a wrong one is a replay.
            is_there = True
            if extension.value.nonce != nonce:
                raise OCSPRefused("its nonce is that of another question")
        elif extension.critical:
            oid = extension.oid.dotted_string
            raise OCSPRefused(f"has the critical extension {oid}, which is not known here")
    if require_nonce and not is_there:
        raise OCSPRefused('has no nonce, which this domain insists on (ocsp_nonce = "require")')


def _single(
    response: ocsp.OCSPResponse, raw: list[bytes], question: OCSPQuestion
) -> ocsp.OCSPSingleResponse:
    """Return the one of the responses whose CertID is that of the question."""
    serial_number = question.certificate.serial_number
    wanted = ("sha1", *_issuer_hashes(question.certificate, question.issuer), serial_number)
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
    last_der = asn1.parts(single_der, 5, "SingleResponse")[-1]
    if last_der[0] == _EXTENSIONS_TAG:
        items = asn1.unbox(structures.ExtensionsBox, asn1.inner(last_der)).extensions
        if any(item.critical for item in items):
            raise OCSPRefused("its status has a critical extension, which is not known here")
    return single


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
