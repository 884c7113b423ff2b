"""An X.509 certificate as this project needs it: raw parts for comparing, parsed parts for checking."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ra_gateway.cmp import asn1, ber, structures
from ra_gateway.cmp.algorithms import (
    SignatureAlgorithm,
    load_public_key,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.names import CanonicalName, canonical, readable
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import Memory, once
from ra_gateway.errors import CMPError, MalformedMessage

MAX_CERTIFICATE_OCTETS: Final = 32_768
"""With ML-DSA-87 key and signature a certificate has some 8,000."""

MAX_EXTENSIONS: Final = 24
"""Extensions of one certificate; vendors' have a dozen."""

_SHORT_OCTETS: Final = 2048
"""Of extensions that are counted when they are decoded: there is no room for many."""

_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_KEY_IDENTIFIER: Final = 0x80


KEY_USAGES: Final = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)
"""Names of the bits of KeyUsage, in order (RFC 5280 4.2.1.3)."""


class KeyUsage:
    """Bit numbers of KeyUsage (RFC 5280 4.2.1.3)."""

    digitalSignature: Final = 0
    nonRepudiation: Final = 1
    keyCertSign: Final = 5
    cRLSign: Final = 6


@dataclass(frozen=True, slots=True)
class CertificateID:
    """What names a certificate towards CRLs, OCSP and CMP: its issuer and serial number (RFC 5280 4.1.2.2).

    Args:
        issuer: Canonical, so that two spellings of one name are one issuer.
    """

    issuer: CanonicalName
    serial_number: int


@dataclass(frozen=True, eq=False)
class Certificate:
    """One certificate; two of them are equal when their issuer signed the same TBSCertificate.

    The octets around it are not under the signature: an ECDSA signature (r, s) has the twin (r, n-s), and
    whoever holds a certificate can write it in another spelling. Nothing is looked up or compared by `der`.

    Args:
        der: The whole certificate, as it arrived.
        tbs_der: TBSCertificate, what the issuer signed.
        digest: SHA-256 of `tbs_der`, 32 octets: the key under which a certificate is remembered.
        algorithm_der: AlgorithmIdentifier of the issuer's signature.
        serial_number: May be negative or long: vendors exist that issue such.
        not_before, not_after: Aware UTC, both inclusive.
        subject_der, issuer_der: Names.
        spki_der: SubjectPublicKeyInfo.
        extensions: Dotted OID to (critical, value octets).
        not_der: What is not DER about the octets that came, where they were read nevertheless (`ber`); "" for nothing.
            All but `der` and `tbs_der` is then as the DER has it that they mean. Who trusts it has to say so.
    """

    der: bytes
    tbs_der: bytes
    digest: bytes
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
    not_der: str = ""

    @classmethod
    def from_der(cls, der: bytes) -> Certificate:
        """Decode a certificate.

        Raises:
            MalformedMessage: It is not one, or larger than any; it has an extension twice; its version does not
                exist, or does not have what it holds; or the algorithm it is signed with is not the one that is
                under the signature.
        """
        if len(der) > MAX_CERTIFICATE_OCTETS:
            raise MalformedMessage(
                f"a certificate of {len(der)} octets; at most {MAX_CERTIFICATE_OCTETS} are read",
                rule="R1",
            )
        outer = asn1.decode(structures.Certificate, der)
        tbs_der, algorithm_der, _ = asn1.parts(der, 3, "Certificate")
        fields = asn1.parts(tbs_der, 10, "TBSCertificate")
        for field in fields[6:]:
            if field[0] == _EXTENSIONS and len(field) > _SHORT_OCTETS:
                _count_extensions(field)
        tbs = asn1.decode(structures.TBSCertificate, tbs_der)
        if len(tbs.extensions or ()) > MAX_EXTENSIONS:
            raise MalformedMessage(f"more than {MAX_EXTENSIONS} extensions", rule="R1")
        if fields[0][0] == _VERSION:  # it may be left out
            del fields[0]
        _, signature_der, issuer_der, _, subject_der, spki_der = fields[:6]
        if signature_der != algorithm_der:
            raise MalformedMessage(
                "certificate whose signatureAlgorithm is not the one in its TBSCertificate",
                rule="RFC 5280 4.1.1.2",
            )
        _check_version(tbs)
        extensions: dict[str, tuple[bool, bytes]] = {}
        for extension in tbs.extensions or ():
            oid = extension.extn_id.dotted_string
            if oid in extensions:
                raise MalformedMessage(f"certificate with extension {oid} twice", rule="R1")
            extensions[oid] = (extension.critical, extension.extn_value)
        return cls(
            der=der,
            tbs_der=tbs_der,
            digest=hashlib.sha256(tbs_der).digest(),
            algorithm_der=algorithm_der,
            signature=asn1.octets_of(outer.signature, "certificate signature"),
            version=(tbs.version or 0) + 1,
            serial_number=tbs.serial_number,
            not_before=asn1.time_of(tbs.validity.not_before),
            not_after=asn1.time_of(tbs.validity.not_after),
            subject_der=subject_der,
            issuer_der=issuer_der,
            spki_der=spki_der,
            extensions=extensions,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.tbs_der == other.tbs_der

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"<Certificate {self.subject} serial {self.serial_number:x}>"

    def __str__(self) -> str:
        return self.subject

    @once
    def id(self) -> CertificateID:
        """Issuer and serial number.

        Raises:
            MalformedMessage: The issuer is not a Name.
        """
        return CertificateID(self.issuer_name, self.serial_number)

    @once
    def subject_name(self) -> CanonicalName:
        """The subject as it compares (`names.canonical`).

        Raises:
            MalformedMessage: The subject is not a Name.
        """
        return canonical(self.subject_der)

    @once
    def issuer_name(self) -> CanonicalName:
        """The issuer as it compares.

        Raises:
            MalformedMessage: The issuer is not a Name.
        """
        return canonical(self.issuer_der)

    @once
    def fingerprint(self) -> bytes:
        """SHA-256 of `der`, 32 octets, as `openssl x509 -fingerprint -sha256` prints it: for people to read."""
        return hashlib.sha256(self.der).digest()

    @once
    def subject(self) -> str:
        """The subject for people: an RFC 4514 string, or hex where it cannot be written as one."""
        return _shown(self.subject_der)

    @once
    def issuer(self) -> str:
        """The issuer for people, as `subject`."""
        return _shown(self.issuer_der)

    @once
    def public_key(self) -> PublicKeyTypes:
        """The subject's key.

        Raises:
            MalformedMessage, AlgorithmRefused: As `load_public_key`.
        """
        return load_public_key(self.spki_der)

    @once
    def signature_algorithm(self) -> SignatureAlgorithm:
        """The algorithm the issuer signed with.

        Raises:
            AlgorithmRefused: Unknown.
        """
        return signature_algorithm(self.algorithm_der)

    @once
    def subject_key_identifier(self) -> bytes | None:
        """Value of the SubjectKeyIdentifier extension, if there is one."""
        found = self.extensions.get(OID.subjectKeyIdentifier)
        return asn1.decode(bytes, found[1]) if found else None

    @once
    def authority_key_identifier(self) -> bytes | None:
        """keyIdentifier of the AuthorityKeyIdentifier extension, if there is one."""
        found = self.extensions.get(OID.authorityKeyIdentifier)
        if not found:
            return None
        # By its tag: the issuer's names beside it, of which there may be any number, are not looked at.
        for tag, start, end in asn1.members(found[1], 3, "AuthorityKeyIdentifier"):
            if tag == _KEY_IDENTIFIER:
                return found[1][start:end]
        return None

    @once
    def key_usage(self) -> frozenset[int] | None:
        """Bits of the KeyUsage extension, None if it is absent."""
        found = self.extensions.get(OID.keyUsage)
        if not found:
            return None
        return frozenset(asn1.set_bits(asn1.decode(asn1.BitString, found[1])))

    @once
    def basic_constraints(self) -> tuple[bool, int | None]:
        """(cA, pathLenConstraint); (False, None) if the extension is absent."""
        found = self.extensions.get(OID.basicConstraints)
        if not found:
            return False, None
        constraints = asn1.decode(structures.BasicConstraints, found[1])
        return constraints.ca, constraints.path_len_constraint

    def require_readable(self) -> None:
        """Read all that is otherwise read when it is needed: of a certificate that is configured, it shows at once.

        Raises:
            MalformedMessage: Something does not parse.
        """
        _ = self.subject_name, self.issuer_name

    @property
    def is_ca(self) -> bool:
        """Whether the certificate says that its key may sign certificates."""
        return self.basic_constraints[0]

    @once
    def extended_key_usage(self) -> frozenset[str]:
        """Purposes of the ExtendedKeyUsage extension in dotted form; empty if absent."""
        found = self.extensions.get(OID.extKeyUsage)
        if not found:
            return frozenset()
        return frozenset(oid.dotted_string for oid in asn1.unbox(structures.OIDsBox, found[1]).oids)

    @property
    def subject_alt_name_der(self) -> bytes | None:
        """Value of the SubjectAltName extension, if there is one."""
        found = self.extensions.get(OID.subjectAltName)
        return found[1] if found else None

    @once
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name."""
        return self.subject_der == self.issuer_der or self.subject_name == self.issuer_name

    @once
    def is_v1_root(self) -> bool:
        """Whether it is of version 1, which has no extensions to say that it is a CA, and signed with its own key."""
        if self.version != 1 or not self.self_issued:
            return False
        try:
            self.verify_issued_by(self)
        except (InvalidSignature, CMPError):
            return False
        return True

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


def _count_extensions(field: bytes) -> None:
    """Count the extensions before one of them is decoded."""
    for inside in asn1.parts(field, 1, "extensions"):
        asn1.members(inside, MAX_EXTENSIONS, "extensions")


def _check_version(tbs: structures.TBSCertificate) -> None:
    """Refuse what a version does not have (RFC 5280 4.1): unique identifiers before 2, extensions before 3."""
    # DER leaves out a DEFAULT, but vendors write version [0] 0: the octets are under the signature.
    version = (tbs.version or 0) + 1
    has_unique_ids = tbs.issuer_unique_id is not None or tbs.subject_unique_id is not None
    least = 3 if tbs.extensions is not None else 2 if has_unique_ids else 1
    if not least <= version <= 3:
        # Not in the text: as a decimal number, a long one is an error of its own (sys.int_info).
        raise MalformedMessage("certificate of a version that is none", rule="RFC 5280 4.1.2.1")
    if tbs.extensions is not None and not tbs.extensions:
        raise MalformedMessage("certificate with empty extensions", rule="RFC 5280 4.1.2.9")


def _shown(name_der: bytes) -> str:
    try:
        return readable(name_der)
    except MalformedMessage:
        return f"#{name_der.hex()}"


_MEMORY_OCTETS: Final = 4_194_304
"""Some 4,000 certificates of usual size; what is decoded of each takes a few times its octets."""

_KNOWN: Final[Memory[Certificate]] = Memory(_MEMORY_OCTETS)


def load_certificate(der: bytes, *, loosely: bool = False) -> Certificate:
    """Decode a certificate that came with a message, the fields by which paths are chosen included.

    Args:
        loosely: Whether it may be BER that is not DER: it then says so (`Certificate.not_der`).

    Names are made comparable where they are compared: most that come along are not. Nor is it remembered for having
    been asked for: `keep_certificates` is told whose came with an authentic message.

    Raises:
        MalformedMessage: As `Certificate.from_der`; or a key identifier, basicConstraints or a usage does not parse.
    """
    known = _KNOWN.get(der)
    if known is not None:
        return known
    try:
        certificate = _read_through(Certificate.from_der(der))
    except MalformedMessage as error:
        if not loosely:
            raise
        return _loosely(der, error)
    if not loosely:
        return certificate
    try:
        return _loosely(der, MalformedMessage("it is DER", rule="R1"))
    except MalformedMessage:
        return certificate


def _read_through(certificate: Certificate) -> Certificate:
    # Read here, where a stray certificate is passed over, rather than in the midst of a path search.
    _ = certificate.subject_key_identifier, certificate.authority_key_identifier
    _ = certificate.basic_constraints, certificate.key_usage, certificate.extended_key_usage
    return certificate


def _loosely(octets: bytes, error: MalformedMessage) -> Certificate:
    """Decode a certificate that is no DER.

    Args:
        error: Why it is none.
    """
    if len(octets) > MAX_CERTIFICATE_OCTETS:
        raise error
    der, faults = ber.as_der(octets)
    if not faults:
        raise error
    meant = Certificate.from_der(der)
    ((_, start, end),) = asn1.spans(octets, 0, len(octets), 1, "Certificate")
    tbs_der = octets[start : asn1.spans(octets, start, end, 3, "Certificate")[0][2]]
    certificate = replace(
        meant,
        der=octets,
        tbs_der=tbs_der,
        digest=hashlib.sha256(tbs_der).digest(),
        not_der="; ".join(faults),
    )
    return _read_through(certificate)


def why_unreadable(der: bytes) -> str:
    """Return why a certificate cannot be read as DER, with its subject where it could be read otherwise."""
    try:
        certificate = load_certificate(der, loosely=True)
    except MalformedMessage as error:
        return error.detail
    return f"{certificate.subject} is encoded wrongly: {certificate.not_der}"


def readable_certificates(ders: Iterable[bytes]) -> list[Certificate]:
    """Decode certificates that came with a message, in order; one that does not parse is left out."""
    found = []
    for der in ders:
        try:
            found.append(load_certificate(der))
        except MalformedMessage:
            # extraCerts is not protected: a stray element must not void an otherwise good message.
            continue
    return found


def keep_certificates(certificates: Iterable[Certificate]) -> None:
    """Remember certificates of whom a signature from an anchor down has authenticated.

    A device's certificate comes with each of its messages, a CA's with all.
    """
    for certificate in certificates:
        if not certificate.not_der:  # who comes next may be of those who take DER only
            _KNOWN.keep(certificate.der, certificate)


def key_identifier(spki_der: bytes) -> bytes:
    """Return a key identifier: the SHA-1 of the key (RFC 5280 4.2.1.2, method 1), as TS 33.310 6.1.3c.3 wants it.

    It names a key and secures nothing.
    """
    key = asn1.decode(structures.SubjectPublicKeyInfo, spki_der).subject_public_key.as_bytes()
    return hashlib.sha1(key, usedforsecurity=False).digest()
