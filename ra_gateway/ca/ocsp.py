"""OCSP answers out of the ledger, signed by delegated responders (RFC 6960, nonces RFC 8954, profile RFC 5019).

Every issuing CA has a responder key of its own, certified by that CA: clients accept no other delegation. Answers
are made when they are asked for, since the ledger knows a revocation at once, and put together here: the builder of
`cryptography` signs while the event loop waits, which an HSM makes long, takes producedAt from the system's clock, and
writes each CertID with NULL parameters, whichever way it was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509 import ocsp

from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import ALIVE, CertificateStatus, IssuedCertificate, Reason
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import (
    CMPError,
    ConfigError,
    MalformedMessage,
    Problem,
    ServiceFailure,
    StoreUnavailable,
)

MAX_REQUEST_OCTETS: Final = 4096
"""A request for one certificate has some 120 octets; with a signature and certificates, some 3,000."""

MAX_QUESTIONS: Final = 16
"""Certificates that one request may ask about; each is looked up, and all are answered under one signature."""

_MAX_NONCE_OCTETS: Final = 128  # RFC 9654 2.1
_MAX_SERIAL_BITS: Final = 159  # RFC 5280 4.1.2.2; no serial number of ours is longer

_HASHES: Final = {
    "sha1": OID.sha1,  # RFC 5019 2.1.1: what clients name certificates by; not a signature
    "sha256": OID.sha256,
    "sha384": OID.sha384,
    "sha512": OID.sha512,
}
_GOOD: Final = asn1.tlv(0x80)
_UNKNOWN: Final = asn1.tlv(0x82)

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")


def _failure(status: ocsp.OCSPResponseStatus) -> bytes:
    return asn1.tlv(0x30, asn1.tlv(0x0A, bytes((status.value,))))


_MALFORMED_REQUEST: Final = _failure(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
_INTERNAL_ERROR: Final = _failure(ocsp.OCSPResponseStatus.INTERNAL_ERROR)
_TRY_LATER: Final = _failure(ocsp.OCSPResponseStatus.TRY_LATER)
_UNAUTHORIZED: Final = _failure(ocsp.OCSPResponseStatus.UNAUTHORIZED)


@dataclass(frozen=True, slots=True)
class OCSPSigner:
    """The delegated responder of one issuing CA.

    Args:
        issuer: The issuing CA's certificate.
        issuer_id: Its key identifier (hex), as in the ledger.
        credential: Certified by that CA, with OCSPSigning and id-pkix-ocsp-nocheck.
    """

    issuer: Certificate
    issuer_id: str
    credential: Credential


@dataclass(frozen=True, slots=True)
class OCSPSettings:
    """How answers are made.

    Args:
        validity_minutes: From thisUpdate to nextUpdate: how long clients may keep an answer.
        max_age_seconds: How long an HTTP cache may keep it, which serves clients that ask anew.
    """

    validity_minutes: int = 60
    max_age_seconds: int = 300


@dataclass(frozen=True, slots=True)
class OCSPAnswer:
    """An OCSPResponse.

    Args:
        this_update: Aware UTC, None for a failure.
        cacheable_until: Aware UTC, nextUpdate at the latest; None where nobody may keep the answer: failures, answers
            with a nonce, and to a serial number that is not known, since it may be issued next.
    """

    der: bytes
    this_update: datetime | None = None
    cacheable_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """One certificate that is asked about.

    Args:
        cert_id_der: CertID as it came; clients compare the one in the answer with theirs.
        nonce: None if there is none.
    """

    signer: OCSPSigner
    serial_number: int
    cert_id_der: bytes
    nonce: bytes | None


class _Malformed(Exception):
    pass


class _Several(_Malformed):
    """Not one certificate is asked about."""


class _Unauthorized(Exception):
    pass


class OCSPResponder:
    """Answers OCSP requests about certificates of our issuing CAs.

    Args:
        signers: One for each issuing CA that is answered for, retired ones too.
        clock: Returns aware UTC.

    Raises:
        ConfigError: A signer's certificate is not a delegated responder's.
    """

    def __init__(
        self,
        signers: Sequence[OCSPSigner],
        ledger: Ledger,
        clock: Callable[[], datetime],
        settings: OCSPSettings,
    ) -> None:
        _require_delegated(signers)
        self._ledger = ledger
        self._clock = clock
        self._validity = timedelta(minutes=settings.validity_minutes)
        self._max_age = min(self._validity, timedelta(seconds=settings.max_age_seconds))
        self._signers = {
            (name, *_issuer_hashes(signer.issuer, name)): signer
            for signer in signers
            for name in _HASHES
        }
        self._responder_ids = {
            signer.issuer_id: asn1.tlv(
                0xA2, asn1.tlv(0x04, _issuer_hashes(signer.credential.certificate, "sha1")[1])
            )
            for signer in signers
        }

    async def answer(self, request_der: bytes) -> OCSPAnswer:
        """Answer a request, whatever it is; only cancellation and bugs leave it as an exception.

        A request may be about several certificates of one issuing CA, whose responder signs for no other; of several
        CAs it is unauthorized. Signatures of requests are not looked at: answers are the same for everybody.

        Args:
            request_der: As it came.
        """
        now = self._clock()
        try:
            questions = self._questions(request_der)
            return await self._answer(questions, now.replace(microsecond=0))
        except _Malformed:
            return OCSPAnswer(_MALFORMED_REQUEST)
        except _Unauthorized:
            return OCSPAnswer(_UNAUTHORIZED)
        except StoreUnavailable as error:
            log.warning("ocsp", outcome="failed", detail=error.detail)
            return OCSPAnswer(_TRY_LATER)
        except ServiceFailure as error:
            log.error("ocsp", outcome="failed", detail=error.detail)
            return OCSPAnswer(_INTERNAL_ERROR)

    def _questions(self, request_der: bytes) -> list[_Question]:
        if len(request_der) > MAX_REQUEST_OCTETS:
            raise _Malformed
        try:
            return [self._read(request_der)]
        except _Several:
            questions = [self._read(der) for der in _taken_apart(request_der)]
        if any(question.signer is not questions[0].signer for question in questions):
            raise _Unauthorized
        return questions

    def _read(self, request_der: bytes) -> _Question:
        """Return what a request about one certificate asks."""
        try:
            request = ocsp.load_der_ocsp_request(request_der)
            nonce = _nonce(request.extensions)
            hash_name = request.hash_algorithm.name
            name_hash, key_hash = request.issuer_name_hash, request.issuer_key_hash
            serial_number = request.serial_number
        except UnsupportedAlgorithm:
            raise _Unauthorized from None  # a hash that none of our names is known by
        except NotImplementedError:  # more than one certificate, or none
            raise _Several from None
        except (ValueError, x509.DuplicateExtension):
            raise _Malformed from None
        signer = self._signers.get((hash_name, name_hash, key_hash))
        if signer is None:
            raise _Unauthorized
        cert_id_der = _cert_id_der(hash_name, name_hash, key_hash, serial_number, request_der)
        return _Question(signer, serial_number, cert_id_der, nonce)

    async def _answer(self, questions: Sequence[_Question], now: datetime) -> OCSPAnswer:
        signer, nonce = questions[0].signer, questions[0].nonce
        if not signer.credential.certificate.valid_at(now):
            raise ServiceFailure(
                f"the OCSP signer {signer.credential.certificate} is not valid now"
            )
        until = now + self._validity
        statuses = [await self._status_der(question, now) for question in questions]
        singles = [
            _single_der(question, status_der, now, until)
            for question, status_der in zip(questions, statuses, strict=True)
        ]
        tbs_der = self._tbs_der(signer, singles, nonce, now)
        der = await _signed(tbs_der, signer.credential)
        is_cacheable = nonce is None and _UNKNOWN not in statuses
        return OCSPAnswer(der, now, now + self._max_age if is_cacheable else None)

    async def _status_der(self, question: _Question, now: datetime) -> bytes:
        if not 0 < question.serial_number < 1 << _MAX_SERIAL_BITS:
            return _UNKNOWN  # nothing the database could be asked for
        found = await self._ledger.certificate(question.serial_number, now)
        if found is None or found.issuer_id != question.signer.issuer_id:
            return _UNKNOWN
        return _cert_status_der(found)

    def _tbs_der(
        self, signer: OCSPSigner, singles: Sequence[bytes], nonce: bytes | None, now: datetime
    ) -> bytes:
        now_der = asn1.encode(asn1.generalized_time(now))
        extensions = b""
        if nonce is not None:
            value = asn1.tlv(0x04, asn1.tlv(0x04, nonce))
            extension = asn1.tlv(0x30, asn1.oid_der(OID.ocspNonce), value)
            extensions = asn1.tlv(0xA1, asn1.tlv(0x30, extension))
        responder_id = self._responder_ids[signer.issuer_id]
        return asn1.tlv(0x30, responder_id, now_der, asn1.tlv(0x30, *singles), extensions)


def _taken_apart(request_der: bytes) -> list[bytes]:
    """Return a request for each certificate that one is about, each with all extensions.

    Raises:
        _Malformed: It is about none, or about more than `MAX_QUESTIONS`; or it is no request.
    """
    try:
        tbs_der = asn1.parts(request_der, 2, "OCSPRequest", least=1, tag=0x30)[0]
        fields = asn1.parts(tbs_der, 4, "TBSRequest", least=1, tag=0x30)
        extensions = [field for field in fields if field[:1] == b"\xa2"]
        (listed,) = (field for field in fields if field[:1] == b"\x30")
        asked = asn1.parts(listed, MAX_QUESTIONS, "requestList", least=1, tag=0x30)
    except (MalformedMessage, ValueError):
        raise _Malformed from None
    return [asn1.tlv(0x30, asn1.tlv(0x30, asn1.tlv(0x30, item), *extensions)) for item in asked]


def _single_der(question: _Question, status_der: bytes, now: datetime, until: datetime) -> bytes:
    return asn1.tlv(
        0x30,
        question.cert_id_der,
        status_der,
        asn1.encode(asn1.generalized_time(now)),
        asn1.tlv(0xA0, asn1.encode(asn1.generalized_time(until))),
    )


def _issuer_hashes(certificate: Certificate, hash_name: str) -> tuple[bytes, bytes]:
    """Return hashes of a certificate's subject and of its key without tag, length and unused bits."""
    spki = asn1.decode(structures.SubjectPublicKeyInfo, certificate.spki_der)
    key = spki.subject_public_key.as_bytes()

    def hashed(octets: bytes) -> bytes:
        return hashlib.new(hash_name, octets, usedforsecurity=False).digest()

    return hashed(certificate.subject_der), hashed(key)


def _nonce(extensions: x509.Extensions) -> bytes | None:
    """Return the nonce of a request, None if it has none.

    Raises:
        _Malformed: Its length is not allowed; or there is another extension that has to be understood.
    """
    nonce = None
    for extension in extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonce = extension.value.nonce
            if not 1 <= len(nonce) <= _MAX_NONCE_OCTETS:
                raise _Malformed
        elif extension.critical:
            raise _Malformed
    return nonce


def _cert_id_der(
    hash_name: str, name_hash: bytes, key_hash: bytes, serial_number: int, request_der: bytes
) -> bytes:
    """Return the CertID of a request, whose hash algorithm has NULL parameters or none."""
    rest = asn1.tlv(0x04, name_hash) + asn1.tlv(0x04, key_hash) + asn1.encode(serial_number)
    oid_der = asn1.oid_der(_HASHES[hash_name])
    with_null = asn1.tlv(0x30, asn1.tlv(0x30, oid_der, asn1.NULL_DER), rest)
    return with_null if with_null in request_der else asn1.tlv(0x30, asn1.tlv(0x30, oid_der), rest)


def _cert_status_der(certificate: IssuedCertificate) -> bytes:
    if certificate.status in ALIVE:
        return _GOOD
    if certificate.status is CertificateStatus.reserved or certificate.revoked_at is None:
        return _UNKNOWN
    reason = certificate.reason or Reason.unspecified
    # RFC 5280 5.3.1: unspecified should be left out.
    reason_der = asn1.tlv(0xA0, asn1.tlv(0x0A, bytes((reason,)))) if reason else b""
    return asn1.tlv(0xA1, asn1.encode(asn1.generalized_time(certificate.revoked_at)), reason_der)


async def _signed(tbs_der: bytes, credential: Credential) -> bytes:
    signature = await credential.signer.sign(tbs_der)
    basic = asn1.tlv(
        0x30,
        tbs_der,
        credential.signer.algorithm.der,
        asn1.tlv(0x03, b"\x00", signature),
        asn1.tlv(0xA0, asn1.tlv(0x30, credential.certificate.der)),
    )
    response_bytes = asn1.tlv(0x30, asn1.oid_der(OID.ocspBasic), asn1.tlv(0x04, basic))
    return asn1.tlv(0x30, asn1.tlv(0x0A, b"\x00"), asn1.tlv(0xA0, response_bytes))


def _require_delegated(signers: Sequence[OCSPSigner]) -> None:
    problems = [
        Problem(
            "ca.status",
            f"the OCSP signer's certificate of {signer.credential.certificate.subject} {wrong}",
            "Give the certificate that the issuing CA made for its OCSP signer",
        )
        for signer in signers
        if (wrong := _what_is_wrong(signer))
    ]
    if problems:
        raise ConfigError(problems)


def _what_is_wrong(signer: OCSPSigner) -> str:
    certificate, issuer = signer.credential.certificate, signer.issuer
    try:
        certificate.verify_issued_by(issuer)
    except (InvalidSignature, CMPError):
        return f"was not issued by {issuer.subject}"
    usage = certificate.key_usage
    if OID.ocspSigning not in certificate.extended_key_usage:
        return "has no extended key usage OCSPSigning"
    if OID.ocspNoCheck not in certificate.extensions:
        return "has no id-pkix-ocsp-nocheck, so that its own status would have to be asked for"
    if usage is not None and KeyUsage.digitalSignature not in usage:
        return "has a keyUsage without digitalSignature"
    return ""
