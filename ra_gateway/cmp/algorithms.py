"""Signature algorithms: AlgorithmIdentifier in and out, verification, and what a trust domain allows.

The library underneath verifies SHA-1 and MD5 without complaint, so the allow-list is here and everything that
verifies anything goes through it (RFC 9481 3, RFC 9881, TS 33.310 6.1.1 and 9.5.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from ra_gateway.cmp import asn1
from ra_gateway.errors import CMPError, MalformedMessage, PKIFailureInfo

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "md5": hashes.MD5(),  # noqa: S303 - known so that it can be refused by name
    "sha1": hashes.SHA1(),  # noqa: S303 - as above
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_HASH_OIDS: Final = {
    "1.2.840.113549.2.5": "md5",
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
_RSASSA_PSS: Final = "1.2.840.113549.1.1.10"
_MGF1: Final = "1.2.840.113549.1.1.8"
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


def _identifier(dotted: str, parameters: bytes = b"") -> bytes:
    return asn1.tlv(0x30, asn1.oid_der(dotted), parameters)


_NULL: Final = b"\x05\x00"


def _pss_der(hash_name: str) -> bytes:
    hash_oid = next(oid for oid, name in _HASH_OIDS.items() if name == hash_name)
    digest = _identifier(hash_oid, _NULL)
    return _identifier(
        _RSASSA_PSS,
        asn1.tlv(
            0x30,
            asn1.tlv(0xA0, digest),
            asn1.tlv(0xA1, _identifier(_MGF1, digest)),
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

    for arc, digest in ((4, "md5"), (5, "sha1"), (11, "sha256"), (12, "sha384"), (13, "sha512")):
        oid = f"1.2.840.113549.1.1.{arc}"
        # RFC 4055 5 demands NULL; some encoders leave it out.
        add(
            SignatureAlgorithm(f"rsa-pkcs1-{digest}", _identifier(oid, _NULL), "rsa", digest),
            _identifier(oid),
        )
    for oid, digest in (
        ("1.2.840.10045.4.1", "sha1"),
        ("1.2.840.10045.4.3.2", "sha256"),
        ("1.2.840.10045.4.3.3", "sha384"),
        ("1.2.840.10045.4.3.4", "sha512"),
    ):
        add(SignatureAlgorithm(f"ecdsa-{digest}", _identifier(oid), "ec", digest))
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
    add(SignatureAlgorithm("ed25519", _identifier("1.3.101.112"), "ed25519", "sha512"))
    add(SignatureAlgorithm("ed448", _identifier("1.3.101.113"), "ed448", "shake256"))
    for arc, size in ((17, 44), (18, 65), (19, 87)):
        name = f"ml-dsa-{size}"
        add(SignatureAlgorithm(name, _identifier(f"2.16.840.1.101.3.4.3.{arc}"), name))
    return by_name, by_der


SIGNATURE_ALGORITHMS, _BY_DER = _build_known()
"""Every signature algorithm this project can verify, by name."""

LEGACY_ALGORITHMS: Final = frozenset(
    {"rsa-pkcs1-md5", "rsa-pkcs1-sha1", "rsa-pss-sha1", "ecdsa-sha1"}
)
"""Refused unless a trust domain names them."""

DEFAULT_ALGORITHMS: Final = frozenset(SIGNATURE_ALGORITHMS) - LEGACY_ALGORITHMS
DEFAULT_CURVES: Final = frozenset({"P-256", "P-384", "P-521"})
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def signature_algorithm(der: bytes) -> SignatureAlgorithm:
    """Recognise an AlgorithmIdentifier.

    Raises:
        AlgorithmRefused: Unknown, or with parameters that have no safe meaning.
    """
    known = _BY_DER.get(der)
    return known if known is not None else _parse_uncommon(der)


@lru_cache(maxsize=64)
def _parse_uncommon(der: bytes) -> SignatureAlgorithm:
    identifier = asn1.decode(asn1.AlgorithmIdentifier, der)
    oid = identifier.algorithm.dotted_string
    if oid != _RSASSA_PSS:
        raise AlgorithmRefused(f"signature algorithm {oid} is not known", rule="R17")
    if identifier.parameters is None:
        raise AlgorithmRefused("RSASSA-PSS without parameters", rule="R20")
    params = asn1.decode(asn1.RSASSAPSSParams, asn1.raw(identifier.parameters))
    digest = _pss_hash(params.hash_algorithm)
    mask = "sha1"
    if params.mask_gen_algorithm is not None:
        if params.mask_gen_algorithm.algorithm.dotted_string != _MGF1:
            raise AlgorithmRefused("RSASSA-PSS with a mask generation other than MGF1", rule="R20")
        if params.mask_gen_algorithm.parameters is None:
            raise AlgorithmRefused("MGF1 without a hash", rule="R20")
        mask = _pss_hash(
            asn1.decode(asn1.AlgorithmIdentifier, asn1.raw(params.mask_gen_algorithm.parameters))
        )
    if mask != digest:
        raise AlgorithmRefused(f"RSASSA-PSS with {digest} but MGF1 with {mask}", rule="R20")
    salt = 20 if params.salt_length is None else params.salt_length
    if not 0 <= salt <= _MAX_PSS_SALT_OCTETS or params.trailer_field not in (None, 1):
        raise AlgorithmRefused(f"RSASSA-PSS with salt length {salt}", rule="R20")
    return SignatureAlgorithm(f"rsa-pss-{digest}", der, "rsa", digest, salt_length=salt)


def _pss_hash(identifier: asn1.AlgorithmIdentifier | None) -> str:
    if identifier is None:
        return "sha1"  # the DEFAULT of RFC 4055 3.1
    oid = identifier.algorithm.dotted_string
    name = _HASH_OIDS.get(oid)
    if name is None:
        raise AlgorithmRefused(f"hash algorithm {oid} is not known", rule="R20")
    return name


def hash_algorithm(identifier: asn1.AlgorithmIdentifier) -> str:
    """Return the name of a hash AlgorithmIdentifier.

    Raises:
        AlgorithmRefused: Unknown.
    """
    oid = identifier.algorithm.dotted_string
    name = _HASH_OIDS.get(oid)
    if name is None:
        raise AlgorithmRefused(f"hash algorithm {oid} is not known", rule="R103")
    return name


def digest(hash_name: str, octets: bytes) -> bytes:
    """Hash octets; `hash_name` is one of sha1, sha256, sha384, sha512 or shake256 (512 bits)."""
    algorithm = hashes.SHAKE256(64) if hash_name == "shake256" else _HASHES[hash_name]
    context = hashes.Hash(algorithm)
    context.update(octets)
    return context.finalize()


@lru_cache(maxsize=1024)
def load_public_key(spki_der: bytes) -> PublicKeyTypes:
    """Load a SubjectPublicKeyInfo; remembered, since the key asked for comes back in the certificate.

    Raises:
        MalformedMessage: It does not parse.
        AlgorithmRefused: Its algorithm or curve is not supported.
    """
    try:
        return load_der_public_key(spki_der)
    except UnsupportedAlgorithm as error:
        raise AlgorithmRefused(f"public key: {error}", rule="R61") from error
    except ValueError as error:
        raise MalformedMessage(f"public key: {error}", rule="R1") from error


@lru_cache(maxsize=1024)
def canonical_spki(spki_der: bytes) -> bytes:
    """Return a SubjectPublicKeyInfo as it is compared: the same octets for every spelling of one key.

    A compressed point, an RSA key without NULL, or one that is marked for RSASSA-PSS, is another spelling of the
    key. What is no key that this project knows is returned as it is.
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
    # key_family has told the kinds apart; the signatures of `verify` differ, hence Any.
    verify: Callable[..., None] = getattr(key, "verify")  # noqa: B009
    if algorithm.family == "ec":
        verify(signature, octets, _ECDSA[algorithm.hash_name])
    elif algorithm.family == "rsa":
        verify(signature, octets, rsa_padding(algorithm), _HASHES[algorithm.hash_name])
    else:
        verify(signature, octets)


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
    """

    signatures: frozenset[str] = DEFAULT_ALGORITHMS
    min_rsa_bits: int = 2048
    curves: frozenset[str] = DEFAULT_CURVES
    families: frozenset[str] | None = None

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

    def require_key(self, key: PublicKeyTypes, use: str, whose: object = "") -> None:
        """Refuse a key that is too weak; arguments as of `require_signature`.

        Raises:
            AlgorithmRefused: It is.
        """
        if isinstance(key, ec.EllipticCurvePublicKey):
            curve = _CURVE_NAMES.get(key.curve.name, key.curve.name)
            if curve not in self.curves:
                raise AlgorithmRefused(f"{_text(whose, use)} on curve {curve}", rule="R61")
        elif isinstance(key, rsa.RSAPublicKey) and key.key_size < self.min_rsa_bits:
            raise AlgorithmRefused(
                f"{_text(whose, use)} with RSA-{key.key_size}; the least allowed is {self.min_rsa_bits}",
                rule="R19",
            )
        if self.families is not None and key_family(key) not in self.families:
            raise AlgorithmRefused(
                f"{_text(whose, use)} of kind {key_family(key) or type(key).__name__}; allowed here: "
                f"{', '.join(sorted(self.families))}",
                rule="TS 33.310 6.1.1",
            )
        if not key_family(key):
            raise AlgorithmRefused(f"{_text(whose, use)} of kind {type(key).__name__}", rule="R61")


_PROFILED_FAMILIES: Final = frozenset({"rsa", "ec"})
_PROFILED_CURVES: Final = frozenset({"P-256", "P-384"})
_UNPROFILED_SIGNATURES: Final = frozenset(
    name
    for name, algorithm in SIGNATURE_ALGORITHMS.items()
    if algorithm.family not in _PROFILED_FAMILIES
)


@lru_cache(maxsize=64)
def within_ts_33310(policy: AlgorithmPolicy) -> AlgorithmPolicy:
    """Return a policy less what TS 33.310 6.1.1 and 9.5.1 do not know; what it forgives its devices stays."""
    return replace(
        policy,
        signatures=policy.signatures - _UNPROFILED_SIGNATURES,
        curves=policy.curves & _PROFILED_CURVES,
        families=_PROFILED_FAMILIES,
    )


def with_legacy(policy: AlgorithmPolicy, *, sha1: bool, rsa1024: bool) -> AlgorithmPolicy:
    """Return a policy that forgives devices SHA-1 in signatures, or RSA keys of 1024 bits."""
    signatures = policy.signatures
    if sha1:
        signatures |= frozenset(name for name in LEGACY_ALGORITHMS if name.endswith("sha1"))
    least = min(policy.min_rsa_bits, 1024) if rsa1024 else policy.min_rsa_bits
    return replace(policy, signatures=signatures, min_rsa_bits=least)


def _text(whose: object, use: str) -> str:
    return f"{whose} {use}" if whose else use


__all__ = [
    "DEFAULT_ALGORITHMS",
    "DEFAULT_CURVES",
    "KEM_PUBLIC_KEYS",
    "LEGACY_ALGORITHMS",
    "SIGNATURE_ALGORITHMS",
    "AlgorithmPolicy",
    "AlgorithmRefused",
    "InvalidSignature",
    "SignatureAlgorithm",
    "certificate_hash",
    "default_algorithm",
    "digest",
    "hash_algorithm",
    "key_family",
    "load_public_key",
    "rsa_padding",
    "signature_algorithm",
    "signing_arguments",
    "verify_signature",
]
