"""Protection by a shared secret: PasswordBasedMac and PBMAC1 (RFC 9481 6.1, RFC 9483 4.1.5).

Costs are checked before anything is computed: iteration count and salt come from a stranger. A key is derived for
references that are known, and for no other: a reference travels in the clear, so that the time by which it shows that
it exists tells nobody more than one message that is overheard, while a derivation for all others is work for anybody.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import HASH_NAMES, AlgorithmRefused, require_no_parameters
from ra_gateway.cmp.codes import MACKind
from ra_gateway.cmp.messages import PKIHeader, PKIMessage, Protector
from ra_gateway.cmp.names import (
    NULL_DN,
    attributes,
    directory_name,
    escape_rfc4514,
    fits,
    from_rfc4514,
    rfc4514,
    same_name,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage

MIN_SALT_OCTETS: Final = 8
MAX_SALT_OCTETS: Final = 64
"""RFC 4211 4.4 and RFC 8018 4.1 ask for 8 octets at least; implementations in the field use 8 to 64."""

_MIN_KEY_OCTETS: Final = 16
_MAX_KEY_OCTETS: Final = 64
_MAX_REFERENCE_OCTETS: Final = 128

_SHA1: Final = "sha1"
_FUNCTIONS: Final = {
    _SHA1: hashlib.sha1,
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
_HMACS: Final = {
    OID.hmacSHA1: _SHA1,
    OID.hmacWithSHA1: _SHA1,
    OID.hmacWithSHA256: "sha256",
    OID.hmacWithSHA384: "sha384",
    OID.hmacWithSHA512: "sha512",
}


@dataclass(frozen=True, slots=True)
class MACBounds:
    """What an endpoint lets a MAC cost, and how weak it may be.

    Args:
        min_iterations, max_iterations: Of the key derivation, both included.
        max_pbkdf_iterations: Of PBMAC1, if that may have others: PBKDF2 is computed by OpenSSL, while other threads
            go on. A key of several blocks counts as often.
        hmac_sha1: Whether HMAC-SHA1 is taken as MAC and as PRF.
        owf_sha1: Whether SHA-1 is taken as one-way function of PasswordBasedMac.
    """

    min_iterations: int = 100
    max_iterations: int = 2_048
    max_pbkdf_iterations: int | None = None
    hmac_sha1: bool = False
    owf_sha1: bool = False


@dataclass(frozen=True)
class SharedSecret:
    """What a device and the RA both know, and whom it speaks for.

    Args:
        reference: senderKID of the messages it protects.
        secret: Never shown.
        subject_der: The one Name it may ask a certificate for; the NULL-DN where `subjects` says which.
        san: subjectAltName entries it may ask for; patterns, where `subjects` is one.
        subjects: Glob pattern over the RFC 4514 string of the Names it may ask for, "*" for any; empty for the one.
        single_use: Whether one certificate is all it is good for.
        expires_at: Aware UTC, None for never.
    """

    reference: bytes
    secret: bytes = field(repr=False)
    subject_der: bytes
    san: tuple[str, ...] = ()
    single_use: bool = False
    expires_at: datetime | None = None
    subjects: str = ""

    def is_for(self, subject_der: bytes) -> bool:
        """Tell whether it may ask for a certificate with a Name."""
        if not self.subjects:
            return same_name(subject_der, self.subject_der)
        if subject_der == NULL_DN:
            return False
        return self.subjects == "*" or fits(rfc4514(subject_der), self.subjects)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the reference, 32 octets: what transactions know it by."""
        return reference_fingerprint(self.reference)

    @property
    def fingerprint(self) -> bytes:
        """What logs know it by: the same."""
        return self.digest

    @cached_property
    def der(self) -> bytes:
        """The reference as OCTET STRING, which no certificate can be."""
        return asn1.encode(self.reference)

    @property
    def label(self) -> str:
        """How logs call it: the beginning of its reference."""
        text = self.reference.decode("utf-8", "replace")
        return f"shared secret {text[: min(4, len(text) // 2)]}..."


def mac_reference(header: PKIHeader, *, by_sender: bool) -> bytes:
    """Return the reference of the shared secret that protects a message: its senderKID.

    Args:
        by_sender: Whether the commonName of sender will do where there is no senderKID (RFC 9810 5.1.1).
    """
    if header.sender_kid is not None or not by_sender:
        return header.sender_kid or b""
    try:
        named = attributes(header.sender_name_der or NULL_DN)
    except MalformedMessage:
        return b""
    texts = [text for oid, text in named if oid == OID.commonName]
    return texts[0].encode()[:_MAX_REFERENCE_OCTETS] if len(texts) == 1 else b""


def reference_fingerprint(reference: bytes) -> bytes:
    """Return the SHA-256 of a reference."""
    return hashlib.sha256(reference).digest()


@dataclass(frozen=True, slots=True)
class MACParameters:
    """A password-based MAC whose cost and strength were found acceptable.

    Args:
        der: The AlgorithmIdentifier.
        derivation_hash: OWF of PasswordBasedMac, or hash of the PRF of PBMAC1.
        key_octets: Of PBMAC1; None for PasswordBasedMac.
        mac_hash: Of the HMAC.
    """

    der: bytes
    salt: bytes
    iterations: int
    derivation_hash: str
    mac_hash: str
    key_octets: int | None = None

    def derive(self, secret: bytes) -> bytes:
        """Return the key of the HMAC; costs `iterations` hashes."""
        if self.key_octets is not None:
            return hashlib.pbkdf2_hmac(
                self.derivation_hash, secret, self.salt, self.iterations, self.key_octets
            )
        # RFC 4211 4.4: so many hashes in all; an HMAC takes BASEKEY as it is.
        key = secret + self.salt
        hashed = _FUNCTIONS[self.derivation_hash]
        for _ in range(self.iterations):
            key = hashed(key).digest()
        return key

    def credential(self, secret: SharedSecret) -> MACCredential:
        """Return what protects, and is checked, with a secret; as dear as `derive`, so not for an event loop."""
        return MACCredential(secret, self, self.derive(secret.secret))


def mac_protected(message: PKIMessage) -> bool:
    """Tell whether a message says that a password-based MAC protects it."""
    algorithm_der = message.header.protection_alg_der
    if algorithm_der is None:
        return False
    oid = asn1.decode(structures.AlgorithmIdentifier, algorithm_der).algorithm.dotted_string
    return oid in (OID.passwordBasedMac, OID.pbmac1)


def mac_parameters(der: bytes, bounds: MACBounds) -> MACParameters:
    """Read the AlgorithmIdentifier of a password-based MAC, and refuse what is too dear or too weak.

    Raises:
        AlgorithmRefused: It is, or a part of it is not known (R40).
        MalformedMessage: It does not parse.
    """
    identifier = asn1.decode(structures.AlgorithmIdentifier, der)
    oid = identifier.algorithm.dotted_string
    content = b"" if identifier.parameters is None else asn1.raw(identifier.parameters)
    if oid == OID.passwordBasedMac:
        return _pbm(der, asn1.decode(structures.PBMParameter, content), bounds)
    if oid == OID.pbmac1:
        return _pbmac1(der, asn1.decode(structures.PBMAC1Params, content), bounds)
    raise AlgorithmRefused(f"{oid} is no password-based MAC", rule="R40")


def _pbm(der: bytes, parameters: structures.PBMParameter, bounds: MACBounds) -> MACParameters:
    most = bounds.max_iterations
    _check_cost(parameters.salt, parameters.iteration_count, bounds.min_iterations, most)
    owf = parameters.owf.algorithm.dotted_string
    name = HASH_NAMES.get(owf, "")
    if name == _SHA1 and not bounds.owf_sha1:
        raise AlgorithmRefused(
            "PasswordBasedMac with SHA-1 as one-way function, which is not allowed here", rule="R40"
        )
    if name not in _FUNCTIONS:
        raise AlgorithmRefused(f"PasswordBasedMac with the one-way function {owf}", rule="R40")
    require_no_parameters(parameters.owf, rule="R40")
    return MACParameters(
        der,
        parameters.salt,
        parameters.iteration_count,
        name,
        _hmac(parameters.mac, bounds),
    )


def _pbmac1(der: bytes, parameters: structures.PBMAC1Params, bounds: MACBounds) -> MACParameters:
    derivation = parameters.key_derivation_func
    oid = derivation.algorithm.dotted_string
    if oid != OID.pbkdf2 or derivation.parameters is None:
        raise AlgorithmRefused(f"PBMAC1 with the key derivation {oid}", rule="R40")
    pbkdf2 = asn1.decode(structures.PBKDF2Params, asn1.raw(derivation.parameters))
    mac_hash = _hmac(parameters.message_auth_scheme, bounds)
    # RFC 8018 A.2: the length is optional, and hmacWithSHA1 the default of the PRF.
    octets = pbkdf2.key_length
    if octets is None:
        octets = hashlib.new(mac_hash).digest_size
    if not _MIN_KEY_OCTETS <= octets <= _MAX_KEY_OCTETS:
        raise AlgorithmRefused(f"PBMAC1 with a key of {asn1.shown(octets)} octets", rule="R40")
    prf = _SHA1 if pbkdf2.prf is None else _hmac(pbkdf2.prf, bounds)
    if prf == _SHA1 and not bounds.hmac_sha1:
        raise AlgorithmRefused("PBKDF2 with HMAC-SHA1, which is not allowed here", rule="R40")
    blocks = -(-octets // hashlib.new(prf).digest_size)
    most = bounds.max_pbkdf_iterations or bounds.max_iterations
    most //= blocks  # each block of a key costs all iterations again
    _check_cost(pbkdf2.salt, pbkdf2.iteration_count, bounds.min_iterations, most)
    return MACParameters(der, pbkdf2.salt, pbkdf2.iteration_count, prf, mac_hash, octets)


def made_parameters(kind: MACKind, salt: bytes, iterations: int) -> MACParameters:
    """Return the parameters of a MAC of our own."""
    hmac_der = asn1.tlv(0x30, asn1.oid_der(OID.hmacWithSHA256))
    if kind is MACKind.pbm:
        owf_der = asn1.tlv(0x30, asn1.oid_der(OID.sha256))
        content = (asn1.encode(salt), owf_der, asn1.encode(iterations), hmac_der)
        der = asn1.tlv(0x30, asn1.oid_der(OID.passwordBasedMac), asn1.tlv(0x30, *content))
        return MACParameters(der, salt, iterations, "sha256", "sha256")
    octets = hashlib.sha256().digest_size
    prf_der = asn1.tlv(0x30, asn1.oid_der(OID.hmacWithSHA256), asn1.NULL_DER)
    pbkdf2 = (asn1.encode(salt), asn1.encode(iterations), asn1.encode(octets), prf_der)
    derivation_der = asn1.tlv(0x30, asn1.oid_der(OID.pbkdf2), asn1.tlv(0x30, *pbkdf2))
    scheme_der = asn1.tlv(0x30, derivation_der, hmac_der)
    der = asn1.tlv(0x30, asn1.oid_der(OID.pbmac1), scheme_der)
    return MACParameters(der, salt, iterations, "sha256", "sha256", octets)


def _check_cost(salt: bytes, iterations: int, least: int, most: int) -> None:
    """Refuse a derivation that is too dear or too weak."""
    if not least <= iterations <= most:
        raise AlgorithmRefused(
            f"a MAC of {asn1.shown(iterations)} iterations; {least} to {most} are allowed",
            rule="R40",
        )
    if not MIN_SALT_OCTETS <= len(salt) <= MAX_SALT_OCTETS:
        raise AlgorithmRefused(
            f"a MAC with {len(salt)} octets of salt; {MIN_SALT_OCTETS} to {MAX_SALT_OCTETS} are allowed",
            rule="R40",
        )


def _hmac(identifier: structures.AlgorithmIdentifier, bounds: MACBounds) -> str:
    oid = identifier.algorithm.dotted_string
    name = _HMACS.get(oid)
    if name is None:
        raise AlgorithmRefused(f"MAC algorithm {oid} is not known", rule="R40")
    if name == _SHA1 and not bounds.hmac_sha1:
        raise AlgorithmRefused("HMAC-SHA1, which is not allowed here", rule="R40")
    require_no_parameters(identifier, rule="R40")
    return name


@dataclass(frozen=True)
class MACCredential:
    """Protects answers with the secret and the parameters of the request (RFC 9810 5.1.3.1).

    Salt and iterations stay the same throughout a transaction, as RFC 9810 recommends, so that neither side
    derives a key twice.
    """

    secret: SharedSecret
    parameters: MACParameters
    key: bytes = field(repr=False)

    @cached_property
    def protector(self) -> Protector:
        """What headers of messages protected with it say: sender's commonName and senderKID are the reference."""
        name = escape_rfc4514(self.secret.reference.decode("utf-8"))
        sender_der = directory_name(from_rfc4514(f"CN={name}"))
        return Protector(sender_der, self.secret.reference, self.parameters.der)

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """None: no certificate protects (RFC 9483 4.1.5)."""
        return ()

    async def protection(self, octets: bytes) -> bytes:
        """Return the MAC over a ProtectedPart."""
        return compute_mac(self.parameters, self.key, octets)


def compute_mac(parameters: MACParameters, key: bytes, octets: bytes) -> bytes:
    """Return the HMAC over octets with a derived key."""
    return hmac.digest(key, octets, parameters.mac_hash)
