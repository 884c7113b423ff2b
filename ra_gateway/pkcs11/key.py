"""Private keys in an HSM as objects of `cryptography`, and how they are found there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NoReturn

import pkcs11 as cryptoki
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from ra_gateway.cmp.asn1 import NULL_DER, algorithm_der, oid_der, tlv
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import ConfigError, ServiceFailure
from ra_gateway.pkcs11.reference import Reference, Trouble
from ra_gateway.pkcs11.token import Connection, Token

_DIGEST_INFO: Final = MappingProxyType(
    {
        name: tlv(0x30, algorithm_der(oid, NULL_DER), tlv(0x04, bytes(size)))[:-size]
        for name, oid, size in (
            ("sha256", OID.sha256, 32),
            ("sha384", OID.sha384, 48),
            ("sha512", OID.sha512, 64),
        )
    }
)
"""What precedes a hash in a PKCS #1 v1.5 signature (RFC 8017 9.2, note 1)."""

_PSS_HASHES: Final = MappingProxyType(
    {
        "sha256": (Mechanism.SHA256, cryptoki.MGF.SHA256),
        "sha384": (Mechanism.SHA384, cryptoki.MGF.SHA384),
        "sha512": (Mechanism.SHA512, cryptoki.MGF.SHA512),
    }
)


class HSMKey(ABC):
    """What all keys in an HSM have in common: they sign there, and never leave it."""

    weakness = ""
    """What the key's attributes in the HSM allow and should not."""

    is_known = False
    """Whether it has been tried; from then on no other key may come in its place."""

    def __init__(self, token: Token, reference: Reference, public_key: Any) -> None:
        self._token = token
        self._reference = reference
        self._public_key = public_key

    def public_key(self) -> Any:
        """Return the public key, an object of `cryptography` in memory."""
        return self._public_key

    def private_bytes(self, *_arguments: Any, **_named: Any) -> NoReturn:
        """Refuse: the key never leaves the HSM.

        Raises:
            ConfigError: Always; so do all other methods that would need the key's value.
        """
        raise ConfigError.of(
            f"key in the HSM ({self._reference})",
            "it never leaves the HSM, and serves to sign only",
            "Use a key from a file where the key itself is needed",
        )

    private_bytes_raw = private_numbers = exchange = decrypt = private_bytes

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._reference}>"

    def _require_same(self, session: Any, private: Any) -> None:
        """Make sure that what is found by this name in a new session is the key of before.

        Raises:
            Trouble: It is not, or cannot be told.
        """
        same = read_public(session, private, self._reference)[1] == self._public_key
        try:
            # The public key object may have stayed, and another private key be beside it now.
            self._try(private)
        except InvalidSignature:
            same = False
        if not same:
            raise Trouble(
                f"the token has another key of this name now ({self._reference})",
                "Find out who put it there; it signs nothing for the certificate of the key of before",
            )

    @abstractmethod
    def _try(self, private: Any) -> None:
        """Make sure that a key in the HSM signs what this public key verifies.

        Raises:
            InvalidSignature: It does not.
        """

    def _sign(self, octets: bytes, mechanism: Mechanism, parameter: Any = None) -> bytes:
        def work(connection: Connection) -> bytes:
            key = connection.keys.get(self._reference)
            if key is None:
                key = find_key(connection.session, self._reference)
                if self.is_known:
                    self._require_same(connection.session, key)
                connection.keys[self._reference] = key
            signature: bytes = key.sign(octets, mechanism=mechanism, mechanism_param=parameter)
            return signature

        try:
            return self._token.run(work)
        except Trouble as trouble:
            raise ServiceFailure(f"key in the HSM ({self._reference}): {trouble.what}") from trouble


class HSMECKey(HSMKey, ec.EllipticCurvePrivateKey):
    """A key on P-256, P-384 or P-521."""

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        curve: ec.EllipticCurve = self._public_key.curve
        return curve

    @property
    def key_size(self) -> int:
        """Bits of the curve's order."""
        return self.curve.key_size

    def _try(self, private: Any) -> None:
        signature = _ecdsa_der(private.sign(_TRIAL_DIGEST, mechanism=Mechanism.ECDSA))
        self._public_key.verify(signature, _TRIAL_DIGEST, ec.ECDSA(Prehashed(hashes.SHA256())))

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Return the ECDSA signature, DER; hashed here.

        Raises:
            ServiceFailure: The HSM does not sign.
        """
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise UnsupportedAlgorithm("a key in an HSM signs with ECDSA only")
        # HSMs differ in what they do with a hash that is longer than the order; FIPS 186-5 6.4 cuts it.
        order_size = (self.key_size + 7) // 8
        digest = _digest(signature_algorithm.algorithm, data)[:order_size]
        return _ecdsa_der(self._sign(digest, Mechanism.ECDSA))


class HSMRSAKey(HSMKey, rsa.RSAPrivateKey):
    """An RSA key."""

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        size: int = self._public_key.key_size
        return size

    def _try(self, private: Any) -> None:
        signed = _DIGEST_INFO["sha256"] + _TRIAL_DIGEST
        signature = private.sign(signed, mechanism=Mechanism.RSA_PKCS)
        self._public_key.verify(
            signature, _TRIAL_DIGEST, padding.PKCS1v15(), Prehashed(hashes.SHA256())
        )

    # The abstract class names the padding's class by a private module.
    def sign(self, data: bytes, padding: Any, algorithm: Any) -> bytes:
        """Return the signature with PKCS #1 v1.5 or PSS padding; hashed here.

        Raises:
            ServiceFailure: The HSM does not sign.
        """
        digest = _digest(algorithm, data)
        name = algorithm.name
        if name not in _DIGEST_INFO:
            raise UnsupportedAlgorithm(f"an RSA key in an HSM does not sign with {name}")
        if padding.name == "EMSA-PKCS1-v1_5":
            return self._sign(_DIGEST_INFO[name] + digest, Mechanism.RSA_PKCS)
        salt_length = _salt_length(padding, algorithm, self._public_key)
        return self._sign(digest, Mechanism.RSA_PKCS_PSS, (*_PSS_HASHES[name], salt_length))


class HSMEd25519Key(HSMKey, ed25519.Ed25519PrivateKey):
    """An Ed25519 key; the HSM hashes, as the algorithm demands."""

    def _try(self, private: Any) -> None:
        signature = private.sign(_TRIAL_DIGEST, mechanism=Mechanism.EDDSA)
        self._public_key.verify(signature, _TRIAL_DIGEST)

    def sign(self, data: Any) -> bytes:
        """Return the signature.

        Raises:
            ServiceFailure: The HSM does not sign.
        """
        return self._sign(bytes(data), Mechanism.EDDSA)


_TRIAL_DIGEST: Final = bytes(32)
"""No hash of anything."""


def _ecdsa_der(signature: bytes) -> bytes:
    half = len(signature) // 2
    return encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )


def _digest(algorithm: Any, octets: Any) -> bytes:
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise UnsupportedAlgorithm("a key in an HSM signs what is hashed here, not hashes")
    context = hashes.Hash(algorithm)
    context.update(octets)
    return context.finalize()


def _salt_length(pss: Any, algorithm: hashes.HashAlgorithm, key: rsa.RSAPublicKey) -> int:
    if not isinstance(pss, padding.PSS) or not (
        isinstance(pss.mgf, padding.MGF1) and pss.mgf._algorithm.name == algorithm.name
    ):
        raise UnsupportedAlgorithm(
            "an RSA key in an HSM signs with PKCS #1 v1.5, or PSS and MGF1 with one hash"
        )
    if pss._salt_length is padding.PSS.DIGEST_LENGTH:
        return algorithm.digest_size
    if pss._salt_length is padding.PSS.MAX_LENGTH:
        return padding.calculate_max_pss_salt_length(key, algorithm)
    if not isinstance(pss._salt_length, int):
        raise UnsupportedAlgorithm("a salt length is needed to sign")
    return pss._salt_length


_P256_DER: Final = oid_der(OID.secp256r1)
_P384_DER: Final = oid_der(OID.secp384r1)
_P521_DER: Final = oid_der(OID.secp521r1)
_ED25519_DER: Final = oid_der(OID.ed25519)
_CURVES: Final[Mapping[bytes, ec.EllipticCurve]] = MappingProxyType(
    {_P256_DER: ec.SECP256R1(), _P384_DER: ec.SECP384R1(), _P521_DER: ec.SECP521R1()}
)
_ED25519_NAMES: Final = frozenset({_ED25519_DER, b"\x13\x0cedwards25519"})
CURVE_KINDS: Final[Mapping[str, tuple[KeyType, bytes]]] = MappingProxyType(
    {
        "p256": (KeyType.EC, _P256_DER),
        "p384": (KeyType.EC, _P384_DER),
        "p521": (KeyType.EC, _P521_DER),
        "ed25519": (KeyType.EC_EDWARDS, _ED25519_DER),
    }
)
RSA_KINDS: Final[Mapping[str, int]] = MappingProxyType(
    {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}
)

HSM_KEY_KINDS: Final = (*CURVE_KINDS, *RSA_KINDS)
"""Kinds of private key that can be made and used in an HSM."""


def find_key(session: Any, reference: Reference) -> Any:
    wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if reference.object is not None:
        wanted[Attribute.LABEL] = reference.object
    if reference.id is not None:
        wanted[Attribute.ID] = reference.id
    found = list(session.get_objects(wanted))
    if not found:
        raise cryptoki.NoSuchKey
    if len(found) > 1:
        raise cryptoki.MultipleObjectsReturned
    return found[0]


@dataclass(frozen=True, slots=True)
class Inspected:
    """A private key as it was found.

    Args:
        weakness: What its attributes allow and should not; "" for nothing.
    """

    key_class: type[HSMKey]
    public_key: Any
    weakness: str


def inspect_key(connection: Connection, *, reference: Reference) -> Inspected:
    """Return what a private key is."""
    private = find_key(connection.session, reference)
    key_class, public_key = read_public(connection.session, private, reference)
    return Inspected(key_class, public_key, weakness(private))


_WANTED: Final = (
    (Attribute.SENSITIVE, True, "its value may be read (CKA_SENSITIVE is false)"),
    (Attribute.EXTRACTABLE, False, "it may be taken out of the HSM (CKA_EXTRACTABLE is true)"),
    (Attribute.PRIVATE, True, "it may be used without a login (CKA_PRIVATE is false)"),
)


def weakness(private: Any) -> str:
    """Return what the attributes of a private key allow and should not, in words; "" for nothing."""
    found = []
    for name, wanted, what in _WANTED:
        try:
            if private[name] is not wanted:
                found.append(what)
        except cryptoki.PKCS11Error:  # an HSM that does not tell
            continue
    return "; ".join(found)


def read_public(session: Any, private: Any, reference: Reference) -> tuple[type[HSMKey], Any]:
    """Return the class and the public key of a private key."""
    try:
        public = find_public(session, private)
        if public[Attribute.KEY_TYPE] is KeyType.RSA:
            modulus, exponent = (
                int.from_bytes(public[name], "big")
                for name in (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT)
            )
            return HSMRSAKey, rsa.RSAPublicNumbers(exponent, modulus).public_key()
        parameters, point = public[Attribute.EC_PARAMS], public[Attribute.EC_POINT]
        if parameters in _ED25519_NAMES:
            return HSMEd25519Key, ed25519.Ed25519PublicKey.from_public_bytes(point[-32:])
        curve = _CURVES[parameters]
        # An OCTET STRING with the point in it, or the bare point: HSMs differ.
        size = 1 + 2 * ((curve.key_size + 7) // 8)
        return HSMECKey, ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-size:])
    except (ValueError, KeyError, cryptoki.AttributeTypeInvalid) as error:
        raise Trouble(
            f"the key is of a kind that cannot be used ({reference})",
            f"Use a key of kind {', '.join(HSM_KEY_KINDS)}",
        ) from error


def find_public(session: Any, private: Any) -> Any:
    wanted: dict[Attribute, Any] = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: private[Attribute.KEY_TYPE],
    }
    key_id = private[Attribute.ID]
    if key_id:
        wanted[Attribute.ID] = key_id
    else:
        wanted[Attribute.LABEL] = private[Attribute.LABEL]
    found = list(session.get_objects(wanted))
    if len(found) != 1:
        raise Trouble(
            f"the token has {len(found) or 'no'} public keys that fit the private key",
            "Give it one public key object with the private key's id (CKA_ID)",
        )
    return found[0]
