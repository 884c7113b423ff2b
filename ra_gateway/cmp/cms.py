"""EnvelopedData as CMP has it: one recipient, AES, and four ways to hand over the content's key (RFC 5652 6).

    ktri    RSA                  RSAES-OAEP with SHA-256; PKCS #1 v1.5 is opened, never made
    kari    P-256, P-384, P-521  ephemeral-static Diffie-Hellman, X9.63 KDF, AES key wrap (RFC 5753)
    pwri    a shared secret      PBKDF2, AES key wrap (RFC 9481 4.4)
    ori     ML-KEM-768, -1024    KEMRecipientInfo, HKDF-SHA256, AES key wrap (RFC 9629, RFC 9936)

What draws random bits comes in as a `Randomness`; opening needs none. Why a content does not open is told in one
sentence whatever it was: the difference between a wrong key and a wrong padding is nobody's to know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import KEM_PUBLIC_KEYS, AlgorithmRefused
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.mac import MAX_SALT_OCTETS, MIN_SALT_OCTETS
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import CMPError, MalformedMessage, PKIFailureInfo

KEMPublicKey = mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey

MIN_ITERATIONS: Final = 1_000
MAX_ITERATIONS: Final = 200_000
"""Of PBKDF2 when opening: RFC 8018 4.2 asks for a thousand at least; the most takes a tenth of a second."""

_PBKDF2_ITERATIONS: Final = 100_000
_KEY_OCTETS: Final = 32
"""AES-256 throughout: as strong as the strongest key that is handed over, and one size for wrap and content."""
_UKM_OCTETS: Final = 16
_SALT_OCTETS: Final = 16
_BLOCK_OCTETS: Final = 16

_AES_WRAP: Final = MappingProxyType({OID.aes128Wrap: 16, OID.aes192Wrap: 24, OID.aes256Wrap: 32})
_AES_CBC: Final = MappingProxyType({OID.aes128CBC: 16, OID.aes192CBC: 24, OID.aes256CBC: 32})

_HASHES: Final[MappingProxyType[str, hashes.HashAlgorithm]] = MappingProxyType(
    {
        OID.sha256: hashes.SHA256(),
        OID.sha384: hashes.SHA384(),
        OID.sha512: hashes.SHA512(),
    }
)
_PRFS: Final = MappingProxyType(
    {
        OID.hmacWithSHA256: "sha256",
        OID.hmacWithSHA384: "sha384",
        OID.hmacWithSHA512: "sha512",
    }
)
_ECDH_SCHEMES: Final[MappingProxyType[str, hashes.HashAlgorithm]] = MappingProxyType(
    {
        OID.ecdhWithSHA256KDF: hashes.SHA256(),
        OID.ecdhWithSHA384KDF: hashes.SHA384(),
        OID.ecdhWithSHA512KDF: hashes.SHA512(),
    }
)
_SCHEME_OF: Final = MappingProxyType(
    {
        "secp256r1": OID.ecdhWithSHA256KDF,
        "secp384r1": OID.ecdhWithSHA384KDF,
        "secp521r1": OID.ecdhWithSHA512KDF,
    }
)


class EnvelopeRefused(CMPError):
    """An EnvelopedData that does not open, for whatever reason of cryptography."""

    fail_info = PKIFailureInfo.badMessageCheck
    phrase = "The encrypted content cannot be opened."


class Randomness(Protocol):
    """The acts of encryption that draw random bits."""

    def octets(self, count: int) -> bytes:
        """Return that many octets, unpredictable."""

    def ephemeral_key(self, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        """Return a fresh private key on a curve."""

    def encrypt(self, key: rsa.RSAPublicKey, octets: bytes, padding: rsa_padding.OAEP) -> bytes:
        """Return octets encrypted with an RSA key."""

    def encapsulate(self, key: KEMPublicKey) -> tuple[bytes, bytes]:
        """Return a fresh shared secret and its encapsulation (ciphertext)."""


# --- who can open it ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRecipient:
    """Somebody with a private key: RSA, EC or ML-KEM.

    Args:
        rid_der: By what the recipient knows itself: [0] key identifier, or IssuerAndSerialNumber.
    """

    public_key: PublicKeyTypes
    rid_der: bytes

    @classmethod
    def of(cls, certificate: Certificate) -> KeyRecipient:
        """Return the holder of a certificate, named by its key identifier if it has one (RFC 9483 4.1.6)."""
        identifier = certificate.subject_key_identifier
        rid_der = (
            _issuer_and_serial(certificate) if identifier is None else asn1.tlv(0x80, identifier)
        )
        return cls(certificate.public_key, rid_der)


@dataclass(frozen=True, slots=True)
class PasswordRecipient:
    """Somebody with a shared secret, that of the request's MAC (RFC 9483 4.1.6.3)."""

    secret: bytes = field(repr=False)


Recipient = KeyRecipient | PasswordRecipient


def _issuer_and_serial(certificate: Certificate) -> bytes:
    return asn1.encode(
        structures.IssuerAndSerialNumber(
            issuer=asn1.element(certificate.issuer_der), serial_number=certificate.serial_number
        )
    )


def _names(rid_der: bytes, certificate: Certificate) -> bool:
    identifier = certificate.subject_key_identifier
    if identifier is not None and rid_der == asn1.tlv(0x80, identifier):
        return True
    return rid_der == _issuer_and_serial(certificate)


def can_receive(certificate: Certificate) -> bool:
    """Tell whether a certificate's key may be encrypted to: RSA and ML-KEM for keyEncipherment, EC for keyAgreement.

    A certificate without KeyUsage restricts nothing (RFC 5280 4.2.1.3).

    Raises:
        MalformedMessage, AlgorithmRefused: Its key cannot be read.
    """
    key, usage = certificate.public_key, certificate.key_usage
    if isinstance(key, (rsa.RSAPublicKey, *KEM_PUBLIC_KEYS)):
        return usage is None or _KEY_ENCIPHERMENT in usage
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _SCHEME_OF and (usage is None or _KEY_AGREEMENT in usage)
    return False


_KEY_ENCIPHERMENT: Final = 2
_KEY_AGREEMENT: Final = 4


# --- making -------------------------------------------------------------------------------------------------------


def envelop(
    content: bytes, content_type: str, recipient: Recipient, randomness: Randomness
) -> bytes:
    """Return an EnvelopedData for one recipient.

    Args:
        content: DER of the content, or plain octets of id-data.
        content_type: Dotted.

    Raises:
        AlgorithmRefused: Nothing can be encrypted for a key of this kind.
    """
    key, iv = randomness.octets(_KEY_OCTETS), randomness.octets(_BLOCK_OCTETS)
    info, version = _recipient_info(recipient, key, randomness)
    padder = padding.PKCS7(8 * _BLOCK_OCTETS).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    encrypted = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    encrypted_content_info = asn1.encode(
        structures.EncryptedContentInfo(
            content_type=asn1.oid(content_type),
            content_encryption_algorithm=_algorithm(OID.aes256CBC, asn1.encode(iv)),
            encrypted_content=encrypted,
        )
    )
    return asn1.tlv(0x30, asn1.encode(version), asn1.tlv(0x31, info), encrypted_content_info)


def _recipient_info(recipient: Recipient, key: bytes, randomness: Randomness) -> tuple[bytes, int]:
    """Return the DER of a RecipientInfo and the version it gives the EnvelopedData.

    RFC 5652 6.1: 3 with pwri or ori, else 2 (RFC 9483 4.1.6; for pwri as its erratum 7833 says).
    """
    if isinstance(recipient, PasswordRecipient):
        return asn1.tlv(0xA3, asn1.inner(_pwri(recipient, key, randomness))), 3
    public_key = recipient.public_key
    if isinstance(public_key, rsa.RSAPublicKey):
        return _ktri(public_key, recipient.rid_der, key, randomness), 2
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in _SCHEME_OF:
        return asn1.tlv(0xA1, asn1.inner(_kari(public_key, recipient.rid_der, key, randomness))), 2
    if isinstance(public_key, KEM_PUBLIC_KEYS):
        return asn1.tlv(0xA4, asn1.inner(_kemri(public_key, recipient.rid_der, key, randomness))), 3
    raise AlgorithmRefused(
        f"nothing can be encrypted for a key of kind {type(public_key).__name__}", rule="R60"
    )


def _ktri(
    public_key: rsa.RSAPublicKey, rid_der: bytes, key: bytes, randomness: Randomness
) -> bytes:
    # OAEP, not PKCS #1 v1.5: RFC 9481 4.2 has both, every client library of today opens OAEP, and nobody who
    # can ask a device for its opinion of ciphertexts learns anything of the key (RFC 8017 7.2).
    encrypted = randomness.encrypt(public_key, key, _oaep(hashes.SHA256()))
    sha256_der = asn1.algorithm_der(OID.sha256, asn1.NULL_DER)
    mask_der = asn1.algorithm_der(OID.mgf1, sha256_der)
    parameters = asn1.tlv(0x30, asn1.tlv(0xA0, sha256_der), asn1.tlv(0xA1, mask_der))
    return asn1.encode(
        structures.KeyTransRecipientInfo(
            version=2 if rid_der[0] == 0x80 else 0,
            rid=asn1.element(rid_der),
            key_encryption_algorithm=_algorithm(OID.rsaesOAEP, parameters),
            encrypted_key=encrypted,
        )
    )


def _oaep(algorithm: hashes.HashAlgorithm) -> rsa_padding.OAEP:
    return rsa_padding.OAEP(rsa_padding.MGF1(algorithm), algorithm, None)


def _kari(
    public_key: ec.EllipticCurvePublicKey, rid_der: bytes, key: bytes, randomness: Randomness
) -> bytes:
    ephemeral = randomness.ephemeral_key(public_key.curve)
    ukm = randomness.octets(_UKM_OCTETS)
    scheme = _SCHEME_OF[public_key.curve.name]
    wrap_der = _algorithm_der(OID.aes256Wrap)
    secret = ephemeral.exchange(ec.ECDH(), public_key)
    encrypted = aes_key_wrap(_ecdh_key(scheme, secret, wrap_der, _KEY_OCTETS, ukm), key)
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    originator = structures.OriginatorPublicKey(
        algorithm=_algorithm(OID.ecPublicKey), public_key=asn1.bit_string(point)
    )
    if rid_der[0] == 0x80:  # here a key identifier is in a SEQUENCE of its own
        rid_der = asn1.tlv(0xA0, asn1.encode(asn1.inner(rid_der)))
    return asn1.encode(
        structures.KeyAgreeRecipientInfo(
            version=3,
            originator=asn1.element(asn1.tlv(0xA1, asn1.inner(asn1.encode(originator)))),
            ukm=ukm,
            key_encryption_algorithm=_algorithm(scheme, wrap_der),
            recipient_encrypted_keys=[
                structures.RecipientEncryptedKey(rid=asn1.element(rid_der), encrypted_key=encrypted)
            ],
        )
    )


def _ecdh_key(scheme: str, secret: bytes, wrap_der: bytes, octets: int, ukm: bytes | None) -> bytes:
    shared_info = asn1.encode(
        structures.ECCCMSSharedInfo(
            key_info=asn1.element(wrap_der),
            entity_u_info=ukm,
            supp_pub_info=(8 * octets).to_bytes(4, "big"),
        )
    )
    return X963KDF(_ECDH_SCHEMES[scheme], octets, shared_info).derive(secret)


def _pwri(recipient: PasswordRecipient, key: bytes, randomness: Randomness) -> bytes:
    salt = randomness.octets(_SALT_OCTETS)
    parameters = asn1.encode(
        structures.PBKDF2Params(
            salt=salt,
            iteration_count=_PBKDF2_ITERATIONS,
            key_length=_KEY_OCTETS,
            prf=_algorithm(OID.hmacWithSHA256, asn1.NULL_DER),
        )
    )
    wrapping = hashlib.pbkdf2_hmac(
        "sha256", recipient.secret, salt, _PBKDF2_ITERATIONS, _KEY_OCTETS
    )
    return asn1.encode(
        structures.PasswordRecipientInfo(
            version=0,
            key_derivation_algorithm=_algorithm(OID.pbkdf2, parameters),
            key_encryption_algorithm=_algorithm(OID.aes256Wrap),
            encrypted_key=aes_key_wrap(wrapping, key),
        )
    )


def _kemri(public_key: KEMPublicKey, rid_der: bytes, key: bytes, randomness: Randomness) -> bytes:
    secret, ciphertext = randomness.encapsulate(public_key)
    wrapping = _kem_key(secret, _algorithm_der(OID.aes256Wrap), _KEY_OCTETS, None)
    info = structures.KEMRecipientInfo(
        version=0,
        rid=asn1.element(rid_der),
        kem=_algorithm(_kem_oid(public_key)),
        kemct=ciphertext,
        kdf=_algorithm(OID.hkdfWithSHA256),
        kek_length=_KEY_OCTETS,
        ukm=None,
        wrap=_algorithm(OID.aes256Wrap),
        encrypted_key=aes_key_wrap(wrapping, key),
    )
    return asn1.encode(
        structures.OtherRecipientInfo(
            ori_type=asn1.oid(OID.oriKEM), ori_value=asn1.element(asn1.encode(info))
        )
    )


def _kem_oid(key: KEMPublicKey) -> str:
    return OID.mlKEM768 if isinstance(key, mlkem.MLKEM768PublicKey) else OID.mlKEM1024


def _kem_key(secret: bytes, wrap_der: bytes, octets: int, ukm: bytes | None) -> bytes:
    info = asn1.encode(
        structures.CMSORIforKEMOtherInfo(wrap=asn1.element(wrap_der), kek_length=octets, ukm=ukm)
    )
    return HKDF(hashes.SHA256(), octets, None, info).derive(secret)


def _algorithm(dotted: str, parameters_der: bytes | None = None) -> structures.AlgorithmIdentifier:
    return structures.AlgorithmIdentifier(
        algorithm=asn1.oid(dotted),
        parameters=None if parameters_der is None else asn1.element(parameters_der),
    )


def _algorithm_der(dotted: str) -> bytes:
    return asn1.encode(_algorithm(dotted))


# --- opening ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrivateKeyHolder:
    """Who opens with a private key.

    Args:
        private_key: Of `cryptography`: RSA, EC or ML-KEM.
        certificate: What the recipient must be named by; None where the key has no certificate yet.
    """

    private_key: Any = field(repr=False)
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class SecretHolder:
    """Who opens with a shared secret."""

    secret: bytes = field(repr=False)


Holder = PrivateKeyHolder | SecretHolder


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of an EnvelopedData and its dotted type."""

    content_type: str
    content: bytes = field(repr=False)


def open_envelope(der: bytes, holder: Holder) -> Opened:
    """Open an EnvelopedData that is for one recipient.

    Raises:
        MalformedMessage: It does not conform.
        AlgorithmRefused: An algorithm is not known, weak, or dearer than it may be.
        EnvelopeRefused: It is for somebody else, or was changed.
    """
    envelope = asn1.decode(structures.EnvelopedData, der)
    if envelope.version not in (0, 2, 3):
        raise MalformedMessage("EnvelopedData of an unknown version", rule="R1")
    # `unbox` wants the SET itself: its tag is that of a SET OF, or it does not decode.
    box = asn1.unbox(structures.TLVsBox, asn1.raw(envelope.recipient_infos))
    infos = [asn1.raw(item) for item in box.items.as_list()]
    if len(infos) != 1:
        raise MalformedMessage(f"{len(infos)} RecipientInfos, expected one", rule="R1")
    content = asn1.decode(
        structures.EncryptedContentInfo, asn1.raw(envelope.encrypted_content_info)
    )
    cipher = content.content_encryption_algorithm
    size = _AES_CBC.get(cipher.algorithm.dotted_string)
    if size is None or cipher.parameters is None:
        raise AlgorithmRefused(
            f"content encryption by {cipher.algorithm.dotted_string}", rule="RFC 9481 5"
        )
    iv = asn1.decode(bytes, asn1.raw(cipher.parameters))
    if len(iv) != _BLOCK_OCTETS or content.encrypted_content is None:
        raise MalformedMessage("EncryptedContentInfo without content or initial vector", rule="R1")
    key = _content_key(infos[0], holder)
    return Opened(
        content.content_type.dotted_string, _decrypt(content.encrypted_content, key, iv, size)
    )


def _decrypt(encrypted: bytes, key: bytes, iv: bytes, size: int) -> bytes:
    if len(key) != size:
        raise _does_not_open()
    try:
        decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        unpadder = padding.PKCS7(8 * _BLOCK_OCTETS).unpadder()
        padded = decryptor.update(encrypted) + decryptor.finalize()
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise _does_not_open() from error


def _does_not_open() -> EnvelopeRefused:
    return EnvelopeRefused("the content does not open with this key", rule="RFC 5652 6")


def _content_key(info_der: bytes, holder: Holder) -> bytes:
    reader = _READERS.get(info_der[0])
    if reader is None:
        raise MalformedMessage(f"RecipientInfo with tag {info_der[0]:02x}", rule="R1")
    try:
        # Its tag is IMPLICIT: underneath all of them are SEQUENCEs.
        return reader(b"\x30" + info_der[1:], holder)
    except (InvalidUnwrap, ValueError) as error:
        raise _does_not_open() from error


def _key_of(holder: Holder, kinds: tuple[type, ...], rid_der: bytes) -> Any:
    if not isinstance(holder, PrivateKeyHolder) or not isinstance(holder.private_key, kinds):
        raise EnvelopeRefused("it is for a key of another kind", rule="RFC 5652 6.2")
    if holder.certificate is not None and not _names(rid_der, holder.certificate):
        # RFC 9483 4.1.6, errata 8183 and 8184: the certificate that protects the request is named.
        raise EnvelopeRefused(
            f"it is not for the holder of {holder.certificate.subject}", rule="RFC 9483 4.1.6"
        )
    return holder.private_key


def _open_ktri(der: bytes, holder: Holder) -> bytes:
    info = asn1.decode(structures.KeyTransRecipientInfo, der)
    rid_der = asn1.raw(info.rid)
    _require_version(info.version, 2 if rid_der[0] == 0x80 else 0)
    private_key = _key_of(holder, (rsa.RSAPrivateKey,), rid_der)
    dotted = info.key_encryption_algorithm.algorithm.dotted_string
    if dotted == OID.rsaEncryption:
        # Taken because some CAs know nothing else. What arrives here is signed by the CA, and the library
        # answers a wrong padding with a random key, so that nobody learns of it.
        key: bytes = private_key.decrypt(info.encrypted_key, rsa_padding.PKCS1v15())
    elif dotted == OID.rsaesOAEP:
        scheme = _oaep(_oaep_hash(info.key_encryption_algorithm))
        key = private_key.decrypt(info.encrypted_key, scheme)
    else:
        raise AlgorithmRefused(f"key transport by {dotted}", rule="RFC 9481 4.2")
    return key


def _oaep_hash(identifier: structures.AlgorithmIdentifier) -> hashes.HashAlgorithm:
    """Return the hash of RSAES-OAEP; that of its mask generation must be the same, and neither SHA-1."""
    if identifier.parameters is None:
        raise AlgorithmRefused("RSAES-OAEP with SHA-1", rule="RFC 9481 4.2")
    # The first three fields are those of RSASSA-PSS; in the place of the salt there may be a label.
    parameters = asn1.decode(structures.RSASSAPSSParams, asn1.raw(identifier.parameters))
    mask = parameters.mask_gen_algorithm
    named = parameters.hash_algorithm
    if named is None or mask is None or mask.parameters is None:
        raise AlgorithmRefused("RSAES-OAEP with SHA-1", rule="RFC 9481 4.2")
    of_mask = asn1.decode(structures.AlgorithmIdentifier, asn1.raw(mask.parameters))
    found = _HASHES.get(named.algorithm.dotted_string)
    if found is None or of_mask.algorithm != named.algorithm:
        raise AlgorithmRefused("RSAES-OAEP with a hash that is not allowed", rule="RFC 9481 4.2")
    return found


def _open_kari(der: bytes, holder: Holder) -> bytes:
    info = asn1.decode(structures.KeyAgreeRecipientInfo, der)
    _require_version(info.version, 3)
    if len(info.recipient_encrypted_keys) != 1:
        raise MalformedMessage("several RecipientEncryptedKeys, expected one", rule="R1")
    recipient = info.recipient_encrypted_keys[0]
    rid_der = asn1.raw(recipient.rid)
    if rid_der[0] == 0xA0:
        found = asn1.decode(structures.RecipientKeyIdentifier, b"\x30" + rid_der[1:])
        rid_der = asn1.tlv(0x80, found.subject_key_identifier)
    private_key = _key_of(holder, (ec.EllipticCurvePrivateKey,), rid_der)
    originator_der = asn1.raw(info.originator)
    if originator_der[0] != 0xA1:
        raise AlgorithmRefused("key agreement without an ephemeral key", rule="RFC 9481 4.1")
    originator = asn1.decode(structures.OriginatorPublicKey, b"\x30" + originator_der[1:])
    point = asn1.octets_of(originator.public_key, "originatorKey")
    scheme = info.key_encryption_algorithm.algorithm.dotted_string
    if scheme not in _ECDH_SCHEMES or info.key_encryption_algorithm.parameters is None:
        raise AlgorithmRefused(f"key agreement by {scheme}", rule="RFC 9481 4.1")
    wrap_der = asn1.raw(info.key_encryption_algorithm.parameters)
    octets = _wrap_octets(asn1.decode(structures.AlgorithmIdentifier, wrap_der))
    # A point that is not on the curve is refused by the library.
    public_key = ec.EllipticCurvePublicKey.from_encoded_point(private_key.curve, point)
    secret = private_key.exchange(ec.ECDH(), public_key)
    key = _ecdh_key(scheme, secret, wrap_der, octets, info.ukm)
    return aes_key_unwrap(key, recipient.encrypted_key)


def _open_pwri(der: bytes, holder: Holder) -> bytes:
    info = asn1.decode(structures.PasswordRecipientInfo, der)
    _require_version(info.version, 0)
    if not isinstance(holder, SecretHolder):
        raise EnvelopeRefused("it is for a shared secret, and there is none", rule="RFC 5652 6.2.4")
    derivation = info.key_derivation_algorithm
    if derivation is None or derivation.algorithm.dotted_string != OID.pbkdf2:
        raise AlgorithmRefused("key derivation other than by PBKDF2", rule="RFC 9481 4.4")
    if derivation.parameters is None:
        raise MalformedMessage("PBKDF2 without parameters", rule="R1")
    octets = _wrap_octets(info.key_encryption_algorithm)
    parameters = asn1.decode(structures.PBKDF2Params, asn1.raw(derivation.parameters))
    # Before anything is computed: the costs are the sender's choice.
    if not MIN_ITERATIONS <= parameters.iteration_count <= MAX_ITERATIONS:
        raise AlgorithmRefused(
            f"PBKDF2 of {asn1.shown(parameters.iteration_count)} iterations; "
            f"{MIN_ITERATIONS} to {MAX_ITERATIONS} are allowed",
            rule="RFC 9481 4.4",
        )
    if not MIN_SALT_OCTETS <= len(parameters.salt) <= MAX_SALT_OCTETS:
        raise AlgorithmRefused(
            f"PBKDF2 with {len(parameters.salt)} octets of salt", rule="RFC 9481 4.4"
        )
    prf = "" if parameters.prf is None else parameters.prf.algorithm.dotted_string
    if prf not in _PRFS:
        raise AlgorithmRefused("PBKDF2 with another PRF than HMAC-SHA-2", rule="RFC 9481 4.4")
    if parameters.key_length not in (None, octets):
        raise MalformedMessage("PBKDF2 for a key of another length than the wrap's", rule="R1")
    key = hashlib.pbkdf2_hmac(
        _PRFS[prf], holder.secret, parameters.salt, parameters.iteration_count, octets
    )
    return aes_key_unwrap(key, info.encrypted_key)


def _open_ori(der: bytes, holder: Holder) -> bytes:
    other = asn1.decode(structures.OtherRecipientInfo, der)
    if other.ori_type.dotted_string != OID.oriKEM:
        raise AlgorithmRefused(
            f"OtherRecipientInfo {other.ori_type.dotted_string}", rule="RFC 5652 6.2.5"
        )
    info = asn1.decode(structures.KEMRecipientInfo, asn1.raw(other.ori_value))
    _require_version(info.version, 0)
    kinds = (mlkem.MLKEM768PrivateKey, mlkem.MLKEM1024PrivateKey)
    private_key = _key_of(holder, kinds, asn1.raw(info.rid))
    if info.kem.algorithm.dotted_string != _kem_oid(private_key.public_key()):
        raise EnvelopeRefused("it is for a key of another kind", rule="RFC 9629 3")
    if info.kdf.algorithm.dotted_string != OID.hkdfWithSHA256:
        raise AlgorithmRefused(
            f"key derivation by {info.kdf.algorithm.dotted_string}", rule="RFC 9936 2.2"
        )
    octets = _wrap_octets(info.wrap)
    if info.kek_length != octets:
        raise MalformedMessage("kekLength is not that of the key wrap", rule="R1")
    secret = private_key.decapsulate(info.kemct)
    key = _kem_key(secret, asn1.encode(info.wrap), octets, info.ukm)
    return aes_key_unwrap(key, info.encrypted_key)


_READERS: Final[MappingProxyType[int, Callable[[bytes, Holder], bytes]]] = MappingProxyType(
    {0x30: _open_ktri, 0xA1: _open_kari, 0xA3: _open_pwri, 0xA4: _open_ori}
)


def _wrap_octets(identifier: structures.AlgorithmIdentifier) -> int:
    octets = _AES_WRAP.get(identifier.algorithm.dotted_string)
    if octets is None:
        raise AlgorithmRefused(
            f"key wrap by {identifier.algorithm.dotted_string}", rule="RFC 9481 4.3"
        )
    return octets


def _require_version(found: int, expected: int) -> None:
    if found != expected:
        raise MalformedMessage(f"RecipientInfo of another version than {expected}", rule="R1")
