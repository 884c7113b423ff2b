"""Signature algorithms: AlgorithmIdentifier in and out, verification, and what a trust domain allows.

The library underneath verifies SHA-1 and MD5 without complaint, so the allow-list is here and everything that
verifies anything goes through it (RFC 9481 3, RFC 9881, TS 33.310 6.1.1 and 9.5.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.edwards import edwards_fault, is_on_edwards_curve
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import CMPError, MalformedMessage, PKIFailureInfo

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "md5": hashes.MD5(),  # noqa: S303 - known so that it can be refused by name
    "sha1": hashes.SHA1(),  # noqa: S303 - as above
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
HASH_NAMES: Final = {
    OID.md5: "md5",
    OID.sha1: "sha1",
    OID.sha256: "sha256",
    OID.sha384: "sha384",
    OID.sha512: "sha512",
}
"""Dotted OIDs of hashes to their names here."""

_PSS_DEFAULT_SALT_OCTETS: Final = 20
_MAX_PSS_SALT_OCTETS: Final = (
    64  # the longest hash's length; RFC 4055 recommends salt = hash length
)


class AlgorithmRefused(CMPError):
    """An algorithm or key that is unknown, or not allowed where it was used."""

    fail_info = PKIFailureInfo.badAlg
    phrase = "A signature algorithm or key that is not allowed here was used."


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """One signature algorithm with its parameters.

    Args:
        name: As in a trust domain's allow-list, for example "ecdsa-sha256".
        der: The AlgorithmIdentifier.
        family: "rsa", "ec", "ed25519", "ed448" or "ml-dsa-44/65/87": the keys it fits.
        hash_name: Digest of certificates signed with it (RFC 9810 5.3.18), "" if it has none of its own.
        salt_length: RSASSA-PSS only, octets.
    """

    name: str
    der: bytes
    family: str
    hash_name: str = ""
    salt_length: int | None = None


def _pss_der(hash_name: str) -> bytes:
    hash_oid = next(oid for oid, name in HASH_NAMES.items() if name == hash_name)
    digest = asn1.algorithm_der(hash_oid, asn1.NULL_DER)
    return asn1.algorithm_der(
        OID.rsassaPSS,
        asn1.tlv(
            0x30,
            asn1.tlv(0xA0, digest),
            asn1.tlv(0xA1, asn1.algorithm_der(OID.mgf1, digest)),
            asn1.tlv(0xA2, asn1.encode(_HASHES[hash_name].digest_size)),
        ),
    )


def _build_known() -> tuple[dict[str, SignatureAlgorithm], dict[bytes, SignatureAlgorithm]]:
    by_name: dict[str, SignatureAlgorithm] = {}
    by_der: dict[bytes, SignatureAlgorithm] = {}

    def add(algorithm: SignatureAlgorithm, *also: bytes) -> None:
        by_name[algorithm.name] = algorithm
        for der in (algorithm.der, *also):
            by_der[der] = algorithm

    for oid, digest in (
        (OID.md5WithRSAEncryption, "md5"),
        (OID.sha1WithRSAEncryption, "sha1"),
        (OID.sha256WithRSAEncryption, "sha256"),
        (OID.sha384WithRSAEncryption, "sha384"),
        (OID.sha512WithRSAEncryption, "sha512"),
    ):
        # RFC 4055 5 demands NULL; some encoders leave it out.
        add(
            SignatureAlgorithm(
                f"rsa-pkcs1-{digest}", asn1.algorithm_der(oid, asn1.NULL_DER), "rsa", digest
            ),
            asn1.algorithm_der(oid),
        )
    for oid, digest in (
        (OID.ecdsaWithSHA1, "sha1"),
        (OID.ecdsaWithSHA256, "sha256"),
        (OID.ecdsaWithSHA384, "sha384"),
        (OID.ecdsaWithSHA512, "sha512"),
    ):
        add(SignatureAlgorithm(f"ecdsa-{digest}", asn1.algorithm_der(oid), "ec", digest))
    for digest in ("sha256", "sha384", "sha512"):
        add(
            SignatureAlgorithm(
                f"rsa-pss-{digest}",
                _pss_der(digest),
                "rsa",
                digest,
                salt_length=_HASHES[digest].digest_size,
            )
        )
    # RFC 9481 3.3: certHash for Ed25519 is SHA-512, for Ed448 SHAKE256 with 512 bits of output.
    add(SignatureAlgorithm("ed25519", asn1.algorithm_der(OID.ed25519), "ed25519", "sha512"))
    add(SignatureAlgorithm("ed448", asn1.algorithm_der(OID.ed448), "ed448", "shake256"))
    for oid, name in (
        (OID.mlDSA44, "ml-dsa-44"),
        (OID.mlDSA65, "ml-dsa-65"),
        (OID.mlDSA87, "ml-dsa-87"),
    ):
        add(SignatureAlgorithm(name, asn1.algorithm_der(oid), name))
    return by_name, by_der


SIGNATURE_ALGORITHMS, _BY_DER = _build_known()
"""Every signature algorithm this project can verify, by name."""

LEGACY_ALGORITHMS: Final = frozenset(
    {"rsa-pkcs1-md5", "rsa-pkcs1-sha1", "rsa-pss-sha1", "ecdsa-sha1"}
)
"""Refused unless a trust domain names them."""

DEFAULT_ALGORITHMS: Final = frozenset(SIGNATURE_ALGORITHMS) - LEGACY_ALGORITHMS
DEFAULT_CURVES: Final = frozenset({"P-256", "P-384", "P-521"})


def signature_algorithm(der: bytes) -> SignatureAlgorithm:
    """Recognise an AlgorithmIdentifier.

    Raises:
        AlgorithmRefused: Unknown, or with parameters that have no safe meaning.
    """
    known = _BY_DER.get(der)
    return known if known is not None else _parse_uncommon(der)


@remembered(entries=64, max_octets=128)
def _parse_uncommon(der: bytes) -> SignatureAlgorithm:
    identifier = asn1.decode(structures.AlgorithmIdentifier, der)
    oid = identifier.algorithm.dotted_string
    if oid != OID.rsassaPSS:
        # Parameters that ECDSA, EdDSA and ML-DSA do not have come here too (RFC 5758 3.2, RFC 8410 3, RFC 9881 2).
        known = any(asn1.oid_der(oid) in other for other in _BY_DER)
        why = "has parameters that it must not have" if known else "is not known"
        raise AlgorithmRefused(f"signature algorithm {oid} {why}", rule="R17")
    if identifier.parameters is None:
        raise AlgorithmRefused("RSASSA-PSS without parameters", rule="R20")
    params = asn1.decode(structures.RSASSAPSSParams, asn1.raw(identifier.parameters))
    digest = _pss_hash(params.hash_algorithm)
    mask = "sha1"
    if params.mask_gen_algorithm is not None:
        if params.mask_gen_algorithm.algorithm.dotted_string != OID.mgf1:
            raise AlgorithmRefused("RSASSA-PSS with a mask generation other than MGF1", rule="R20")
        if params.mask_gen_algorithm.parameters is None:
            raise AlgorithmRefused("MGF1 without a hash", rule="R20")
        mask = _pss_hash(
            asn1.decode(
                structures.AlgorithmIdentifier, asn1.raw(params.mask_gen_algorithm.parameters)
            ),
        )
    if mask != digest:
        raise AlgorithmRefused(f"RSASSA-PSS with {digest} but MGF1 with {mask}", rule="R20")
    salt = _PSS_DEFAULT_SALT_OCTETS if params.salt_length is None else params.salt_length
    if not 0 <= salt <= _MAX_PSS_SALT_OCTETS or params.trailer_field not in (None, 1):
        raise AlgorithmRefused(f"RSASSA-PSS with salt length {asn1.shown(salt)}", rule="R20")
    if params.salt_length == _PSS_DEFAULT_SALT_OCTETS or params.trailer_field is not None:
        raise AlgorithmRefused(
            "RSASSA-PSS with a default written out, which DER leaves out", rule="R20"
        )
    return SignatureAlgorithm(f"rsa-pss-{digest}", der, "rsa", digest, salt_length=salt)


def _pss_hash(identifier: structures.AlgorithmIdentifier | None) -> str:
    """Return the hash of PSS or its mask; SHA-1, the DEFAULT of RFC 4055 3.1, must not be written out."""
    if identifier is None:
        return "sha1"
    name = _hash_name(identifier, "R20")
    if name == "sha1":
        raise AlgorithmRefused(
            "RSASSA-PSS with a default written out, which DER leaves out", rule="R20"
        )
    return name


def _hash_name(identifier: structures.AlgorithmIdentifier, rule: str) -> str:
    oid = identifier.algorithm.dotted_string
    name = HASH_NAMES.get(oid)
    if name is None:
        raise AlgorithmRefused(f"hash algorithm {oid} is not known", rule=rule)
    require_no_parameters(identifier, rule=rule)
    return name


def require_no_parameters(identifier: structures.AlgorithmIdentifier, *, rule: str) -> None:
    """Make sure that a hash, or an HMAC with one, has NULL or nothing for parameters (RFC 4055 2.1, RFC 5754 2).

    Raises:
        AlgorithmRefused: Others, which would be one more spelling.
    """
    if identifier.parameters is not None and asn1.raw(identifier.parameters) != asn1.NULL_DER:
        oid = identifier.algorithm.dotted_string
        raise AlgorithmRefused(f"algorithm {oid} has parameters", rule=rule)


def hash_algorithm(identifier: structures.AlgorithmIdentifier) -> str:
    """Return the name of a hash AlgorithmIdentifier.

    Raises:
        AlgorithmRefused: Unknown, or with parameters other than NULL.
    """
    return _hash_name(identifier, "R103")


def digest(hash_name: str, octets: bytes) -> bytes:
    """Hash octets; `hash_name` is one of sha1, sha256, sha384, sha512 or shake256 (512 bits)."""
    algorithm = hashes.SHAKE256(64) if hash_name == "shake256" else _HASHES[hash_name]
    context = hashes.Hash(algorithm)
    context.update(octets)
    return context.finalize()


MAX_RSA_BITS: Final = 8192
"""What a domain allows unless told otherwise; each doubling costs whoever verifies four times as much."""

_MOST_RSA_BITS: Final = 16_384  # what OpenSSL verifies with at most
_MAX_RSA_EXPONENT_BITS: Final = 64  # OpenSSL's bound for long moduli; nearly all are 65537

_RSA_KEY_DER: Final = asn1.algorithm_der(OID.rsaEncryption, asn1.NULL_DER)
_EC_KEYS: Final = {
    asn1.algorithm_der(OID.ecPublicKey, asn1.oid_der(oid)): (curve, octets)
    for oid, curve, octets in (
        (OID.secp256r1, "P-256", 32),
        (OID.secp384r1, "P-384", 48),
        (OID.secp521r1, "P-521", 66),
    )
}
"""AlgorithmIdentifiers to the curve and the octets of a coordinate; explicit parameters are none of them."""

_OTHER_KEYS: Final = {
    asn1.algorithm_der(oid): (name, octets)
    for oid, name, octets in (
        (OID.ed25519, "ed25519", 32),
        (OID.ed448, "ed448", 57),
        (OID.mlDSA44, "ml-dsa-44", 1312),
        (OID.mlDSA65, "ml-dsa-65", 1952),
        (OID.mlDSA87, "ml-dsa-87", 2592),
        (OID.mlKEM768, "ml-kem-768", 1184),
        (OID.mlKEM1024, "ml-kem-1024", 1568),
    )
}
"""AlgorithmIdentifiers to the family and the octets of the key."""

KEY_ALGORITHMS: Final = {der: name for der, (name, _) in (*_EC_KEYS.items(), *_OTHER_KEYS.items())}
"""AlgorithmIdentifiers of public keys to the curve or the family; RSA is not among them."""


class PublicKeyKind(NamedTuple):
    """What the octets of a SubjectPublicKeyInfo say of the key.

    Args:
        family: As of `key_family`; "" for a key that cannot sign.
        name: For people.
        curve: "P-256" and so on, "" for other families.
        rsa_bits: Of the modulus, 0 for other families.
    """

    family: str
    name: str
    curve: str = ""
    rsa_bits: int = 0


@remembered(entries=512, max_octets=1024)
def public_key_kind(spki_der: bytes) -> PublicKeyKind:
    """Judge a SubjectPublicKeyInfo by its octets alone.

    Loading a key can be dear (a group of Diffie-Hellman is tested for primality), and whoever sends it is not
    known yet: what is not on the list here is not loaded, whatever the library underneath can do with it.

    Raises:
        MalformedMessage: It does not parse, or its key has another length than its algorithm wants, or is one
            of Ed25519 or Ed448 that no private key belongs to, or in a second spelling.
        AlgorithmRefused: Its algorithm, its curve or the size of its modulus is not supported.
    """
    outer = asn1.members(spki_der, 2, "SubjectPublicKeyInfo")
    if [tag for tag, _, _ in outer] != [0x30, 0x03]:
        raise MalformedMessage("not a SubjectPublicKeyInfo", rule="R1")
    (_, _, middle), (_, bits, end) = outer
    ((_, start, _),) = asn1.spans(spki_der, 0, len(spki_der), 1, "SubjectPublicKeyInfo")
    algorithm_der, key = spki_der[start:middle], spki_der[bits + 1 : end]
    if spki_der[bits : bits + 1] != b"\x00":
        raise MalformedMessage("public key with unused bits", rule="R1")
    if algorithm_der == _RSA_KEY_DER:
        size = _rsa_bits(key)
        return PublicKeyKind("rsa", f"RSA-{size}", rsa_bits=size)
    if (on_curve := _EC_KEYS.get(algorithm_der)) is not None:
        curve, octets = on_curve
        if (key[:1], len(key) - 1) not in (
            (b"\x04", 2 * octets),
            (b"\x02", octets),
            (b"\x03", octets),
        ):
            raise MalformedMessage(f"public key: not a point of {curve}", rule="R1")
        return PublicKeyKind("ec", curve, curve=curve)
    if (other := _OTHER_KEYS.get(algorithm_der)) is not None:
        name, octets = other
        if len(key) != octets:
            raise MalformedMessage(f"public key: {len(key)} octets, {name} has {octets}", rule="R1")
        if fault := edwards_fault(name, key):
            raise MalformedMessage(f"public key: {name}, {fault} (RFC 8032)", rule="R1")
        return PublicKeyKind("" if name.startswith("ml-kem") else name, name)
    oid = asn1.decode(structures.AlgorithmIdentifier, algorithm_der).algorithm.dotted_string
    what = "on a curve" if oid == OID.ecPublicKey else f"of an algorithm ({oid})"
    raise AlgorithmRefused(f"a public key {what} that is not supported", rule="R61")


def _rsa_bits(key: bytes) -> int:
    """Return the size of an RSAPublicKey's modulus."""
    numbers = asn1.members(key, 2, "RSAPublicKey")
    if [tag for tag, _, _ in numbers] != [0x02, 0x02]:
        raise MalformedMessage("not an RSAPublicKey", rule="R1")
    (_, start, middle), (_, exponent_start, end) = numbers
    if 8 * (middle - start) > _MOST_RSA_BITS + 8:
        raise AlgorithmRefused(
            f"an RSA key of some {8 * (middle - start)} bits; at most {_MOST_RSA_BITS} are read",
            rule="R19",
        )
    if 8 * (end - exponent_start) > _MAX_RSA_EXPONENT_BITS + 8:
        raise AlgorithmRefused(
            f"an RSA key whose exponent has more than {_MAX_RSA_EXPONENT_BITS} bits", rule="R19"
        )
    modulus = int.from_bytes(key[start:middle], "big", signed=True)
    exponent = int.from_bytes(key[exponent_start:end], "big", signed=True)
    if modulus <= 0 or exponent < 3 or not exponent & 1:
        raise MalformedMessage("no modulus and exponent of RSA", rule="R1")
    if modulus.bit_length() > _MOST_RSA_BITS or exponent.bit_length() > _MAX_RSA_EXPONENT_BITS:
        raise AlgorithmRefused("an RSA key whose modulus or exponent is too long", rule="R19")
    return modulus.bit_length()


@remembered(entries=256, max_octets=4096)
def load_public_key(spki_der: bytes) -> PublicKeyTypes:
    """Load a SubjectPublicKeyInfo; remembered, since the key asked for comes back in the certificate.

    Only what `public_key_kind` knows is loaded.

    Raises:
        MalformedMessage: It does not parse.
        AlgorithmRefused: Its algorithm, curve or size is not supported.
    """
    public_key_kind(spki_der)
    try:
        key = load_der_public_key(spki_der)
    except UnsupportedAlgorithm as error:
        raise AlgorithmRefused(f"public key: {error}", rule="R61") from error
    except ValueError as error:
        raise MalformedMessage(f"public key: {error}", rule="R1") from error
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)) and not (
        is_on_edwards_curve(key_family(key), key.public_bytes_raw())
    ):
        raise MalformedMessage(f"public key: not a point of {key_family(key)}", rule="R1")
    return key


@remembered(entries=1024, max_octets=4096)
def canonical_spki(spki_der: bytes) -> bytes:
    """Return a SubjectPublicKeyInfo as it is compared: the same octets for every spelling of one key.

    A compressed point is another spelling of the key. What is no key that this project knows, such as an RSA key
    without NULL, is returned as it is: it is never loaded, and never certified.
    """
    try:
        key = load_public_key(spki_der)
    except CMPError:
        return spki_der
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_family(key: PublicKeyTypes) -> str:
    """Return which family of signature algorithms a key fits, "" if none."""
    return _family_of(type(key))


@lru_cache(maxsize=64)
def _family_of(kind: type) -> str:
    return next((name for base, name in _FAMILIES if issubclass(kind, base)), "")


_FAMILIES: Final[tuple[tuple[type, str], ...]] = (
    (ec.EllipticCurvePublicKey, "ec"),
    (rsa.RSAPublicKey, "rsa"),
    (ed25519.Ed25519PublicKey, "ed25519"),
    (ed448.Ed448PublicKey, "ed448"),
    (mldsa.MLDSA44PublicKey, "ml-dsa-44"),
    (mldsa.MLDSA65PublicKey, "ml-dsa-65"),
    (mldsa.MLDSA87PublicKey, "ml-dsa-87"),
)

KEM_PUBLIC_KEYS: Final = (mlkem.MLKEM768PublicKey, mlkem.MLKEM1024PublicKey)
"""Keys that cannot sign; possession is proved by decrypting (RFC 9935, RFC 9810 5.2.8)."""

_ECDSA: Final = {name: ec.ECDSA(algorithm) for name, algorithm in _HASHES.items()}
_PKCS1: Final = padding.PKCS1v15()


def verify_signature(
    algorithm: SignatureAlgorithm, key: PublicKeyTypes, signature: bytes, octets: bytes
) -> None:
    """Verify a signature; whether the algorithm is allowed is `AlgorithmPolicy`'s question.

    Raises:
        InvalidSignature: It does not verify.
        AlgorithmRefused: The key is of another kind than the algorithm.
    """
    if key_family(key) != algorithm.family:
        raise AlgorithmRefused(
            f"{algorithm.name} with a key of kind {key_family(key) or type(key).__name__}",
            rule="R18",
        )
    if len(signature) > _max_signature_octets(key):
        raise InvalidSignature
    # key_family has told the kinds apart; the signatures of `verify` differ, hence Any.
    verify: Callable[..., None] = getattr(key, "verify")  # noqa: B009
    if algorithm.family == "ec":
        verify(signature, octets, _ECDSA[algorithm.hash_name])
    elif algorithm.family == "rsa":
        verify(signature, octets, rsa_padding(algorithm), _HASHES[algorithm.hash_name])
    else:
        verify(signature, octets)


def _max_signature_octets(key: Any) -> int:
    family = key_family(
        key
    )  # isinstance asks an abstract class, which takes longer than all of this
    if family == "rsa":
        return (int(key.key_size) + 7) // 8
    if family == "ec":
        # Two INTEGERs, with a zero in front, in a SEQUENCE
        return 2 * ((int(key.key_size) + 7) // 8) + 9
    return _SIGNATURE_OCTETS[family]


_SIGNATURE_OCTETS: Final = {
    "ed25519": 64,
    "ed448": 114,
    "ml-dsa-44": 2420,
    "ml-dsa-65": 3309,
    "ml-dsa-87": 4627,
}


def signing_arguments(algorithm: SignatureAlgorithm) -> tuple[Any, ...]:
    """Return what a private key's `sign` wants after the octets."""
    if algorithm.family == "ec":
        return (_ECDSA[algorithm.hash_name],)
    if algorithm.family == "rsa":
        return rsa_padding(algorithm), _HASHES[algorithm.hash_name]
    return ()


def rsa_padding(algorithm: SignatureAlgorithm) -> padding.PKCS1v15 | padding.PSS:
    """Return the padding of an RSA signature algorithm."""
    if algorithm.salt_length is None:
        return _PKCS1
    return padding.PSS(padding.MGF1(_HASHES[algorithm.hash_name]), algorithm.salt_length)


def default_algorithm(key: PublicKeyTypes) -> SignatureAlgorithm:
    """Return the algorithm we sign with for a key: as strong as the key, never RSASSA-PSS.

    PSS is left out because EJBCA does not apply its parameters.

    Raises:
        AlgorithmRefused: The key cannot sign.
    """
    family = key_family(key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        hash_name = (
            "sha256" if key.key_size <= 256 else "sha384" if key.key_size <= 384 else "sha512"
        )
        return SIGNATURE_ALGORITHMS[f"ecdsa-{hash_name}"]
    if family == "rsa":
        return SIGNATURE_ALGORITHMS["rsa-pkcs1-sha256"]
    if family:
        return SIGNATURE_ALGORITHMS[family]
    raise AlgorithmRefused(f"a key of kind {type(key).__name__} cannot sign")


def pss_algorithm(key: PublicKeyTypes) -> SignatureAlgorithm:
    """Return RSASSA-PSS as strong as an RSA key.

    Raises:
        AlgorithmRefused: The key is no RSA key.
    """
    if not isinstance(key, rsa.RSAPublicKey):
        raise AlgorithmRefused("RSASSA-PSS is for RSA keys", rule="T3")
    return SIGNATURE_ALGORITHMS[f"rsa-pss-{'sha256' if key.key_size <= 3072 else 'sha384'}"]


def certificate_hash(key: PublicKeyTypes) -> Any:
    """Return the hash that certificates are signed with by a key, None where the key has its own.

    Raises:
        AlgorithmRefused: The key cannot sign.
    """
    algorithm = default_algorithm(key)
    return _HASHES[algorithm.hash_name] if algorithm.family in ("rsa", "ec") else None


@dataclass(frozen=True, slots=True)
class AlgorithmPolicy:
    """What one trust domain allows.

    Args:
        signatures: Names out of `SIGNATURE_ALGORITHMS`.
        min_rsa_bits: Smallest RSA modulus.
        curves: Out of "P-256", "P-384", "P-521".
        families: Kinds of keys (as of `key_family`); None for every one that is supported.
        max_rsa_bits: Largest RSA modulus.
    """

    signatures: frozenset[str] = DEFAULT_ALGORITHMS
    min_rsa_bits: int = 2048
    curves: frozenset[str] = DEFAULT_CURVES
    families: frozenset[str] | None = None
    max_rsa_bits: int = MAX_RSA_BITS

    @property
    def forgives(self) -> bool:
        """Whether it allows what is refused everywhere else."""
        return self.min_rsa_bits < 2048 or not self.signatures <= DEFAULT_ALGORITHMS

    def require_signature(
        self, algorithm: SignatureAlgorithm, use: str, whose: object = ""
    ) -> None:
        """Refuse an algorithm that is not on the list.

        Args:
            use: Where it was found, for the text; `whose` is put before it, and only then turned into text.

        Raises:
            AlgorithmRefused: It is not.
        """
        if algorithm.name not in self.signatures:
            raise AlgorithmRefused(
                f"{_text(whose, use)} with {algorithm.name}; allowed here: {', '.join(sorted(self.signatures))}",
                rule="R17",
            )

    def require_key(self, spki_der: bytes, use: str, whose: object = "") -> None:
        """Refuse a key that is too weak, too dear or of another kind, by its octets alone: it is not loaded.

        Args:
            spki_der: SubjectPublicKeyInfo.
            use, whose: As of `require_signature`.

        Raises:
            AlgorithmRefused: It is.
            MalformedMessage: It does not parse.
        """
        kind = public_key_kind(spki_der)
        if kind.curve and kind.curve not in self.curves:
            raise AlgorithmRefused(f"{_text(whose, use)} on curve {kind.curve}", rule="R61")
        if kind.rsa_bits and kind.rsa_bits < self.min_rsa_bits:
            raise AlgorithmRefused(
                f"{_text(whose, use)} with {kind.name}; the least allowed is {self.min_rsa_bits}",
                rule="R19",
            )
        if kind.rsa_bits > self.max_rsa_bits:
            raise AlgorithmRefused(
                f"{_text(whose, use)} with {kind.name}; the most allowed is {self.max_rsa_bits}",
                rule="R19",
            )
        if self.families is not None and kind.family not in self.families:
            raise AlgorithmRefused(
                f"{_text(whose, use)} of kind {kind.name}; allowed here: "
                f"{', '.join(sorted(self.families))}",
                rule="TS 33.310 6.1.1",
            )
        if not kind.family:
            raise AlgorithmRefused(f"{_text(whose, use)} of kind {kind.name}", rule="R61")


_PROFILED_FAMILIES: Final = frozenset({"rsa", "ec", "ed25519", "ed448"})
_UNPROFILED_SIGNATURES: Final = frozenset(
    name
    for name, algorithm in SIGNATURE_ALGORITHMS.items()
    if algorithm.family not in _PROFILED_FAMILIES
)


@lru_cache(maxsize=64)
def within_ts_33310(policy: AlgorithmPolicy) -> AlgorithmPolicy:
    """Return a policy less what TS 33.310 6.1.1 and 9.5.1 do not know; what it forgives its devices stays.

    The list of curves there is open: of 256 bits or more, or one of those of RFC 7748.
    """
    return replace(
        policy, signatures=policy.signatures - _UNPROFILED_SIGNATURES, families=_PROFILED_FAMILIES
    )


def _text(whose: object, use: str) -> str:
    return f"{whose} {use}" if whose else use
