"""An X.509 certificate as this project needs it: raw parts for comparing, parsed parts for checking."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    InvalidSignature,
    SignatureAlgorithm,
    load_public_key,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.names import canonical, rfc4514, same_name
from ra_gateway.errors import MalformedMessage


class ExtensionOID:
    """Extensions that are looked at here, in dotted form."""

    subjectKeyIdentifier: Final = "2.5.29.14"
    keyUsage: Final = "2.5.29.15"
    subjectAltName: Final = "2.5.29.17"
    basicConstraints: Final = "2.5.29.19"
    nameConstraints: Final = "2.5.29.30"
    certificatePolicies: Final = "2.5.29.32"
    authorityKeyIdentifier: Final = "2.5.29.35"
    extKeyUsage: Final = "2.5.29.37"


class KeyUsage:
    """Bit numbers of KeyUsage (RFC 5280 4.2.1.3)."""

    digitalSignature: Final = 0
    keyCertSign: Final = 5
    cRLSign: Final = 6


@dataclass(frozen=True, eq=False)
class Certificate:
    """One certificate; two of them are equal when their octets are. What is read once is remembered.

    Args:
        der: The whole certificate.
        fingerprint: SHA-256 of `der`, 32 octets.
        tbs_der: TBSCertificate, what the issuer signed.
        algorithm_der: AlgorithmIdentifier of the issuer's signature.
        serial_number: May be negative or long: vendors exist that issue such.
        not_before, not_after: Aware UTC, both inclusive.
        subject_der, issuer_der: Names.
        spki_der: SubjectPublicKeyInfo.
        extensions: Dotted OID to (critical, value octets).
    """

    der: bytes
    fingerprint: bytes
    tbs_der: bytes
    algorithm_der: bytes
    signature: bytes
    version: int
    serial_number: int
    not_before: datetime
    not_after: datetime
    subject_der: bytes
    issuer_der: bytes
    spki_der: bytes
    extensions: dict[str, tuple[bool, bytes]]

    @classmethod
    def from_der(cls, der: bytes) -> Certificate:
        """Decode a certificate.

        Raises:
            MalformedMessage: It is not one; or it has an extension twice.
        """
        outer = asn1.decode(asn1.Certificate, der)
        tbs_der = asn1.raw(outer.tbs_certificate)
        tbs = asn1.decode(asn1.TBSCertificate, tbs_der)
        extensions: dict[str, tuple[bool, bytes]] = {}
        for extension in tbs.extensions or ():
            oid = extension.extn_id.dotted_string
            if oid in extensions:
                raise MalformedMessage(f"certificate with extension {oid} twice", rule="R1")
            extensions[oid] = (extension.critical, extension.extn_value)
        return cls(
            der=der,
            fingerprint=hashlib.sha256(der).digest(),
            tbs_der=tbs_der,
            algorithm_der=asn1.raw(outer.signature_algorithm),
            signature=asn1.octets_of(outer.signature, "certificate signature"),
            version=(tbs.version or 0) + 1,
            serial_number=tbs.serial_number,
            not_before=asn1.time_of(tbs.validity.not_before),
            not_after=asn1.time_of(tbs.validity.not_after),
            subject_der=asn1.raw(tbs.subject),
            issuer_der=asn1.raw(tbs.issuer),
            spki_der=asn1.raw(tbs.subject_public_key_info),
            extensions=extensions,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"<Certificate {self.subject} serial {self.serial_number:x}>"

    def __str__(self) -> str:
        return self.subject

    @property
    def subject(self) -> str:
        """The subject for people: an RFC 4514 string, or hex where it cannot be written as one."""
        return _shown(self.subject_der)

    @property
    def issuer(self) -> str:
        """The issuer for people, as `subject`."""
        return _shown(self.issuer_der)

    @cached_property
    def public_key(self) -> PublicKeyTypes:
        """The subject's key.

        Raises:
            MalformedMessage, AlgorithmRefused: As `load_public_key`.
        """
        return load_public_key(self.spki_der)

    @cached_property
    def signature_algorithm(self) -> SignatureAlgorithm:
        """The algorithm the issuer signed with.

        Raises:
            AlgorithmRefused: Unknown.
        """
        return signature_algorithm(self.algorithm_der)

    @cached_property
    def subject_key_identifier(self) -> bytes | None:
        """Value of the SubjectKeyIdentifier extension, if there is one."""
        found = self.extensions.get(ExtensionOID.subjectKeyIdentifier)
        return asn1.decode(bytes, found[1]) if found else None

    @cached_property
    def authority_key_identifier(self) -> bytes | None:
        """keyIdentifier of the AuthorityKeyIdentifier extension, if there is one."""
        found = self.extensions.get(ExtensionOID.authorityKeyIdentifier)
        return asn1.decode(asn1.AuthorityKeyIdentifier, found[1]).key_identifier if found else None

    @cached_property
    def key_usage(self) -> frozenset[int] | None:
        """Bits of the KeyUsage extension, None if it is absent."""
        found = self.extensions.get(ExtensionOID.keyUsage)
        if not found:
            return None
        return frozenset(asn1.set_bits(asn1.decode(asn1.BitString, found[1])))

    @cached_property
    def basic_constraints(self) -> tuple[bool, int | None]:
        """(cA, pathLenConstraint); (False, None) if the extension is absent."""
        found = self.extensions.get(ExtensionOID.basicConstraints)
        if not found:
            return False, None
        constraints = asn1.decode(asn1.BasicConstraints, found[1])
        return constraints.ca, constraints.path_len_constraint

    @property
    def is_ca(self) -> bool:
        """Whether the certificate says that its key may sign certificates."""
        return self.basic_constraints[0]

    @cached_property
    def extended_key_usage(self) -> frozenset[str]:
        """Purposes of the ExtendedKeyUsage extension in dotted form; empty if absent."""
        found = self.extensions.get(ExtensionOID.extKeyUsage)
        if not found:
            return frozenset()
        return frozenset(oid.dotted_string for oid in asn1.unbox(asn1.OIDsBox, found[1]).oids)

    @property
    def subject_alt_name_der(self) -> bytes | None:
        """Value of the SubjectAltName extension, if there is one."""
        found = self.extensions.get(ExtensionOID.subjectAltName)
        return found[1] if found else None

    @cached_property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name."""
        return same_name(self.subject_der, self.issuer_der)

    def valid_at(self, moment: datetime) -> bool:
        """Tell whether a moment lies in the validity period."""
        return self.not_before <= moment <= self.not_after

    def verify_issued_by(self, issuer: Certificate) -> None:
        """Verify the signature with an issuer's key; names, dates and policy are the caller's.

        Raises:
            InvalidSignature: It does not verify.
            AlgorithmRefused: Unknown algorithm, or not the kind of the issuer's key.
        """
        verify_signature(self.signature_algorithm, issuer.public_key, self.signature, self.tbs_der)


def _shown(name_der: bytes) -> str:
    try:
        return rfc4514(name_der)
    except MalformedMessage:
        return f"#{name_der.hex()}"


MAX_REMEMBERED_BYTES: Final = 16_384
"""A certificate with ML-DSA-87 key and signature has some 8,000 octets; strangers may send larger ones."""


def load_certificate(der: bytes) -> Certificate:
    """Decode a certificate that came with a message, the fields by which paths are built included.

    Remembered: a device's certificate comes with each of its messages, a CA's with all.

    Raises:
        MalformedMessage: As `Certificate.from_der`; or a name or key identifier does not parse.
    """
    return (_remembered if len(der) <= MAX_REMEMBERED_BYTES else _load)(der)


def _load(der: bytes) -> Certificate:
    certificate = Certificate.from_der(der)
    # Read here, where a stray certificate is passed over, rather than in the midst of a path search.
    _ = canonical(certificate.subject_der), canonical(certificate.issuer_der)
    _ = certificate.subject_key_identifier, certificate.authority_key_identifier
    _ = certificate.basic_constraints
    return certificate


_remembered = lru_cache(maxsize=2048)(_load)


__all__ = ["Certificate", "ExtensionOID", "InvalidSignature", "KeyUsage", "load_certificate"]


def key_identifier(spki_der: bytes) -> bytes:
    """Return a key identifier: 160 bits of the SHA-256 of the key (RFC 7093 2, method 1)."""
    key = asn1.decode(asn1.SubjectPublicKeyInfo, spki_der).subject_public_key.as_bytes()
    return hashlib.sha256(key).digest()[:20]
