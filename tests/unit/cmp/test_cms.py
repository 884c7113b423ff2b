"""EnvelopedData and signed key packages, with `openssl cms` and pyasn1 as second opinions."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der import decoder
from pyasn1_modules import rfc5652, rfc8018

from ra_gateway.ca.key_generation import SystemRandomness
from ra_gateway.cmp import asn1, cms, structures
from ra_gateway.cmp.algorithms import AlgorithmPolicy, AlgorithmRefused
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.cms import (
    EnvelopeRefused,
    KeyRecipient,
    PasswordRecipient,
    PrivateKeyHolder,
    SecretHolder,
    can_receive,
    envelop,
    open_envelope,
)
from ra_gateway.cmp.cms_signed import (
    PackageRefused,
    key_package_der,
    open_package,
    read_key_package,
    sign_package,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import CMPError, MalformedMessage
from ra_gateway.keys import KeySigner
from tests.support import pki
from tests.support.openssl import openssl_path
from tests.support.pki import OperatorPKI

CONTENT = b"what nobody else may read"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
RANDOM = SystemRandomness()
CM_KGA = "1.3.6.1.5.5.7.3.32"
USAGES = {
    "rsa2048": "keyEncipherment",
    "p256": "keyAgreement",
    "p384": "keyAgreement",
    "p521": "keyAgreement",
}


def ours(certificate: x509.Certificate) -> Certificate:
    return Certificate.from_der(pki.certificate_der(certificate))


def recipient(operator: OperatorPKI, kind: Any, **options: Any) -> tuple[Certificate, Any]:
    issued = operator.issuing.issue("CN=recipient", kind, key_usage=[USAGES[kind]], **options)
    return ours(issued.certificate), issued.private_key


def content_info(envelope_der: bytes) -> bytes:
    """ContentInfo around an EnvelopedData, as files hold it."""
    return asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.7.3"), asn1.tlv(0xA0, envelope_der))


def openssl_cms(directory: Path, *arguments: str, given: bytes) -> bytes:
    (directory / "in").write_bytes(given)
    done = subprocess.run(
        [openssl_path(), "cms", *arguments, "-in", "in", "-out", "out"],
        cwd=directory,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return (directory / "out").read_bytes()


def write_recipient(directory: Path, certificate: Certificate, key: Any) -> None:
    loaded = x509.load_der_x509_certificate(certificate.der)
    pki.write_certificates(directory / "r.pem", loaded)
    pki.write_key(directory / "r.key", key)


# --- key transport and key agreement ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(USAGES))
@pytest.mark.parametrize("identified", [True, False])
def test_openssl_opens_what_we_make(
    operator_pki: OperatorPKI, tmp_path: Path, kind: str, identified: bool
) -> None:
    """For RSA (OAEP) and all three curves, the recipient named by key identifier or issuer and serial number."""
    certificate, key = recipient(operator_pki, kind, subject_key_identifier=identified)
    write_recipient(tmp_path, certificate, key)
    der = content_info(envelop(CONTENT, OID.data, KeyRecipient.of(certificate), RANDOM))
    arguments = ("-decrypt", "-binary", "-inform", "DER", "-recip", "r.pem", "-inkey", "r.key")
    assert openssl_cms(tmp_path, *arguments, given=der) == CONTENT


@pytest.mark.parametrize("kind", list(USAGES))
@pytest.mark.parametrize("more", [(), ("-keyid",)])
def test_we_open_what_openssl_makes(
    operator_pki: OperatorPKI, tmp_path: Path, kind: str, more: tuple[str, ...]
) -> None:
    """PKCS #1 v1.5 for RSA, as OpenSSL does unasked, and SHA-2 with the curves."""
    certificate, key = recipient(operator_pki, kind)
    write_recipient(tmp_path, certificate, key)
    agreed = ("-keyopt", "ecdh_kdf_md:sha384") if kind != "rsa2048" else ()
    arguments = ("-encrypt", "-binary", "-aes-128-cbc", *more, "-outform", "DER")
    der = openssl_cms(tmp_path, *arguments, "-recip", "r.pem", *agreed, given=CONTENT)
    opened = open_envelope(enveloped_in(der), PrivateKeyHolder(key, certificate))
    assert (opened.content_type, opened.content) == (OID.data, CONTENT)


def enveloped_in(content_info_der: bytes) -> bytes:
    members = asn1.inner(content_info_der)
    return asn1.inner(members[2 + members[1] :])


@pytest.mark.parametrize("digest, opens", [("sha256", True), ("sha512", True), ("sha1", False)])
def test_oaep_of_openssl(
    operator_pki: OperatorPKI, tmp_path: Path, digest: str, opens: bool
) -> None:
    """OAEP with SHA-2 is opened, with SHA-1 it is not."""
    certificate, key = recipient(operator_pki, "rsa2048")
    write_recipient(tmp_path, certificate, key)
    der = openssl_cms(
        tmp_path,
        *("-encrypt", "-binary", "-aes-256-cbc", "-outform", "DER", "-recip", "r.pem"),
        *("-keyopt", "rsa_padding_mode:oaep", "-keyopt", f"rsa_oaep_md:{digest}"),
        *(("-keyopt", f"rsa_mgf1_md:{digest}") if opens else ()),
        given=CONTENT,
    )
    holder = PrivateKeyHolder(key, certificate)
    if opens:
        assert open_envelope(enveloped_in(der), holder).content == CONTENT
    else:
        with pytest.raises(AlgorithmRefused, match="SHA-1"):
            open_envelope(enveloped_in(der), holder)


def test_versions_and_names(operator_pki: OperatorPKI) -> None:
    """As RFC 9483 4.1.6 wants them: versions of RecipientInfo and EnvelopedData, and the key identifier."""
    seen = {}
    for kind in ("rsa2048", "p256"):
        certificate, _ = recipient(operator_pki, kind)
        envelope = read(envelop(CONTENT, OID.data, KeyRecipient.of(certificate), RANDOM))
        (info,) = envelope["recipientInfos"]
        if kind == "rsa2048":
            rid = info["ktri"]["rid"]["subjectKeyIdentifier"]
            seen[kind] = int(envelope["version"]), int(info["ktri"]["version"])
        else:
            (key,) = info["kari"]["recipientEncryptedKeys"]
            rid = key["rid"]["rKeyId"]["subjectKeyIdentifier"]
            seen[kind] = int(envelope["version"]), int(info["kari"]["version"])
        assert bytes(rid) == certificate.subject_key_identifier
    certificate, _ = recipient(operator_pki, "rsa2048", subject_key_identifier=False)
    (info,) = read(envelop(CONTENT, OID.data, KeyRecipient.of(certificate), RANDOM))[
        "recipientInfos"
    ]
    named = info["ktri"]["rid"]["issuerAndSerialNumber"]
    assert (int(info["ktri"]["version"]), int(named["serialNumber"])) == (
        0,
        certificate.serial_number,
    )
    assert seen == {"rsa2048": (2, 2), "p256": (2, 3)}


def read(envelope_der: bytes) -> Any:
    """An EnvelopedData as pyasn1 reads it."""
    value, rest = decoder.decode(envelope_der, asn1Spec=rfc5652.EnvelopedData())
    assert rest == b""
    return value


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_who_else_cannot_open_it(operator_pki: OperatorPKI, kind: str) -> None:
    """Neither another key nor another certificate of one's own: it names who asked (errata 8183, 8184)."""
    certificate, key = recipient(operator_pki, kind)
    other, other_key = recipient(operator_pki, kind)
    der = envelop(CONTENT, OID.data, KeyRecipient.of(certificate), RANDOM)
    for holder in (
        PrivateKeyHolder(other_key, certificate),
        PrivateKeyHolder(other_key),
        PrivateKeyHolder(key, other),
        PrivateKeyHolder(mlkem.MLKEM768PrivateKey.generate()),
        SecretHolder(b"secret"),
    ):
        with pytest.raises(EnvelopeRefused):
            open_envelope(der, holder)


# --- shared secrets -----------------------------------------------------------------------------------------------


def test_a_password_opens_it_by_another_road() -> None:
    """pyasn1, hashlib and the bare primitives find what we put in; the versions are 3 and 0 (erratum 7833)."""
    secret = b"a secret of two"
    envelope = read(envelop(CONTENT, OID.data, PasswordRecipient(secret), RANDOM))
    (info,) = envelope["recipientInfos"]
    found = info["pwri"]
    assert (int(envelope["version"]), int(found["version"])) == (3, 0)
    parameters, _ = decoder.decode(
        bytes(found["keyDerivationAlgorithm"]["parameters"]), asn1Spec=rfc8018.PBKDF2_params()
    )
    key = hashlib.pbkdf2_hmac(
        "sha256",
        secret,
        bytes(parameters["salt"]["specified"]),
        int(parameters["iterationCount"]),
        int(parameters["keyLength"]),
    )
    assert decrypted(envelope, aes_key_unwrap(key, bytes(found["encryptedKey"]))) == CONTENT


def test_a_password_opens_it() -> None:
    """The right one does, a wrong one does not."""
    der = envelop(CONTENT, OID.data, PasswordRecipient(b"right"), RANDOM)
    assert open_envelope(der, SecretHolder(b"right")).content == CONTENT
    with pytest.raises(EnvelopeRefused):
        open_envelope(der, SecretHolder(b"wrong"))


@pytest.mark.parametrize("iterations", [1, cms.MIN_ITERATIONS - 1, cms.MAX_ITERATIONS + 1, 10**30])
def test_what_a_password_may_cost(iterations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few iterations are weak, too many dear: refused before any is made."""
    der = envelop(CONTENT, OID.data, PasswordRecipient(b"secret"), RANDOM)
    count = asn1.encode(cms._PBKDF2_ITERATIONS)
    changed = grown(der, count, asn1.encode(iterations))

    def costly(*arguments: Any) -> bytes:
        raise AssertionError("it was computed")

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", costly)
    with pytest.raises(AlgorithmRefused, match="iterations"):
        open_envelope(changed, SecretHolder(b"secret"))


def grown(der: bytes, old: bytes, new: bytes) -> bytes:
    """DER with one element replaced by another, and the lengths around it mended."""
    if der == old:
        return new
    if not der[0] & 0x20 or old not in der:
        return der
    rest, parts = asn1.inner(der), []
    while rest:
        length = (
            rest[1] if rest[1] < 0x80 else int.from_bytes(rest[2 : 2 + (rest[1] & 0x7F)], "big")
        )
        size = 2 + (rest[1] & 0x7F if rest[1] >= 0x80 else 0) + length
        parts.append(grown(rest[:size], old, new))
        rest = rest[size:]
    return asn1.tlv(der[0], *parts)


# --- ML-KEM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [mlkem.MLKEM768PrivateKey, mlkem.MLKEM1024PrivateKey])
def test_ml_kem(kind: Any) -> None:
    """KEMRecipientInfo (RFC 9629): its owner opens it, another key of the kind does not."""
    key, other = kind.generate(), kind.generate()
    der = envelop(CONTENT, OID.data, KeyRecipient(key.public_key(), b"\x80\x01\x05"), RANDOM)
    assert open_envelope(der, PrivateKeyHolder(key)).content == CONTENT
    with pytest.raises(EnvelopeRefused):
        open_envelope(der, PrivateKeyHolder(other))
    envelope = read(der)
    (info,) = envelope["recipientInfos"]
    assert int(envelope["version"]) == 3
    assert str(info["ori"]["oriType"]) == "1.2.840.113549.1.9.16.13.3"


@pytest.mark.parametrize("kind", [mlkem.MLKEM768PrivateKey, mlkem.MLKEM1024PrivateKey])
def test_ml_kem_by_another_road(kind: Any) -> None:
    """pyasn1, hmac and the bare primitives find what we put in, by the text of RFC 9629 and RFC 5869."""
    key = kind.generate()
    rid_der = bytes.fromhex("30083003020101020105")  # shaped like IssuerAndSerialNumber
    made = envelop(CONTENT, OID.data, KeyRecipient(key.public_key(), rid_der), RANDOM)
    envelope = read(made)
    (info,) = envelope["recipientInfos"]
    found, rest = decoder.decode(bytes(info["ori"]["oriValue"]))
    assert rest == b""
    version, rid, kem, ciphertext, kdf, length, wrap, encrypted_key = (found[i] for i in range(8))
    assert (int(version), int(rid[1]), int(length)) == (0, 5, 32)
    arc = 2 if kind is mlkem.MLKEM768PrivateKey else 3
    assert [str(kem[0])] == [f"2.16.840.1.101.3.4.4.{arc}"]
    assert [str(kdf[0])] == ["1.2.840.113549.1.9.16.3.28"]
    assert [str(wrap[0])] == ["2.16.840.1.101.3.4.1.45"]
    # CMSORIforKEMOtherInfo: wrap, kekLength 32, no ukm.
    other_info = bytes.fromhex("3010300b060960864801650304012d020120")
    pseudorandom = hmac.digest(bytes(32), key.decapsulate(bytes(ciphertext)), "sha256")
    wrapping = hmac.digest(pseudorandom, other_info + b"\x01", "sha256")
    content_key = aes_key_unwrap(wrapping, bytes(encrypted_key))
    assert decrypted(envelope, content_key) == CONTENT


def decrypted(envelope: Any, content_key: bytes) -> bytes:
    content = envelope["encryptedContentInfo"]
    iv, _ = decoder.decode(bytes(content["contentEncryptionAlgorithm"]["parameters"]))
    decryptor = Cipher(algorithms.AES256(content_key), modes.CBC(bytes(iv))).decryptor()
    padded = decryptor.update(bytes(content["encryptedContent"])) + decryptor.finalize()
    return padded[: -padded[-1]]


# --- what does not open -------------------------------------------------------------------------------------------


_KEY = ec.generate_private_key(ec.SECP256R1())
_ENVELOPE = envelop(CONTENT, OID.data, KeyRecipient(_KEY.public_key(), b"\x80\x01\x05"), RANDOM)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(_ENVELOPE) - 1), st.integers(1, 255))
def test_a_changed_envelope(position: int, flip: int) -> None:
    """Any octet changed: it opens to something else, or is refused in our own words, never by a crash."""
    changed = bytearray(_ENVELOPE)
    changed[position] ^= flip
    try:
        open_envelope(bytes(changed), PrivateKeyHolder(_KEY))
    except CMPError:
        return


def test_for_whom_nothing_can_be_encrypted(operator_pki: OperatorPKI) -> None:
    """Ed25519 only signs; and KeyUsage has to allow it, if it is there."""
    signing = ours(operator_pki.issuing.issue("CN=a", "ed25519").certificate)
    assert not can_receive(signing)
    with pytest.raises(AlgorithmRefused):
        envelop(CONTENT, OID.data, KeyRecipient.of(signing), RANDOM)
    for kind, usage in USAGES.items():
        issue = operator_pki.issuing.issue
        assert can_receive(ours(issue("CN=a", kind, key_usage=[usage]).certificate))  # type: ignore[arg-type]
        assert can_receive(ours(issue("CN=a", kind, key_usage=None).certificate))  # type: ignore[arg-type]
        plain = issue("CN=a", kind, key_usage=["digitalSignature"])  # type: ignore[arg-type]
        assert not can_receive(ours(plain.certificate))


# --- signed key packages ------------------------------------------------------------------------------------------


def authority(
    operator: OperatorPKI, kind: Any = "p256", eku: tuple[str, ...] = (CM_KGA,), **options: Any
) -> Credential:
    issued = operator.issuing.issue("CN=KGA", kind, eku=eku, **options)
    chain = tuple(ours(item) for item in issued.intermediates)
    return Credential(ours(issued.certificate), chain, KeySigner(issued.private_key))


def trust(operator: OperatorPKI, **options: Any) -> TrustDomain:
    root = ours(operator.root.certificate)
    return TrustDomain("operator", DomainKind.operator, (root,), **options)


def package(key: Any) -> bytes:
    pkcs8_der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return key_package_der(pkcs8_der, public(key))


def public(key: Any) -> bytes:
    octets: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return octets


@pytest.mark.parametrize(
    "kind", ["p256", "p384", "rsa2048", "ed25519", "ed448", "mldsa44", "mldsa87"]
)
async def test_a_signed_key_arrives(operator_pki: OperatorPKI, kind: Any) -> None:
    """Signed by keys of every kind; the key is of the same kind, and is the one that was put in."""
    key = pki.make_key(kind)
    der = await sign_package(package(key), authority(operator_pki, kind))
    found = open_package(der, trust(operator_pki), [], NOW)
    loaded = load_der_private_key(found.pkcs8_der, None)
    assert public(loaded) == public(key)
    bits = asn1.decode(structures.SubjectPublicKeyInfo, public(key)).subject_public_key
    assert found.public_key == bits.as_bytes()


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
async def test_openssl_verifies_a_signed_key(
    operator_pki: OperatorPKI, tmp_path: Path, kind: Any
) -> None:
    """`openssl cms -verify` finds signature and path good, and the package inside."""
    operator_pki.root.write(tmp_path, "root")
    wanted = package(pki.make_key("p256"))
    signed = await sign_package(wanted, authority(operator_pki, kind))
    der = asn1.tlv(0x30, asn1.oid_der(OID.signedData), asn1.tlv(0xA0, signed))
    arguments = ("-verify", "-binary", "-inform", "DER", "-CAfile", "root.pem", "-purpose", "any")
    assert openssl_cms(tmp_path, *arguments, given=der) == wanted


async def test_the_shape_of_a_signed_key(operator_pki: OperatorPKI) -> None:
    """SignedData and SignerInfo of version 3, signer by key identifier, two signed attributes, the chain along."""
    kga = authority(operator_pki)
    der = await sign_package(package(pki.make_key("p256")), kga)
    signed, rest = decoder.decode(der, asn1Spec=rfc5652.SignedData())
    assert rest == b""
    (info,) = signed["signerInfos"]
    assert (int(signed["version"]), int(info["version"])) == (3, 3)
    assert bytes(info["sid"]["subjectKeyIdentifier"]) == kga.certificate.subject_key_identifier
    assert [str(item["attrType"]) for item in info["signedAttrs"]] == [
        "1.2.840.113549.1.9.3",
        "1.2.840.113549.1.9.4",
    ]
    assert len(signed["certificates"]) == 1 + len(kga.chain)
    assert str(signed["encapContentInfo"]["eContentType"]) == "2.16.840.1.101.2.1.2.78.5"


async def test_who_may_not_sign_keys(operator_pki: OperatorPKI) -> None:
    """Nobody without cmKGA, of another PKI, expired, without digitalSignature; nor with a forbidden algorithm."""
    octets = package(pki.make_key("p256"))
    stranger = pki.make_operator_pki("Somebody Else")
    refused = (
        authority(operator_pki, eku=()),
        authority(operator_pki, eku=("1.3.6.1.5.5.7.3.28",)),
        authority(operator_pki, key_usage=["keyAgreement"]),
        authority(operator_pki, not_after=NOW - timedelta(days=1)),
        authority(stranger),
    )
    for credential in refused:
        with pytest.raises(CMPError):
            open_package(await sign_package(octets, credential), trust(operator_pki), [], NOW)
    few = AlgorithmPolicy(signatures=frozenset({"ml-dsa-44"}))
    signed = await sign_package(octets, authority(operator_pki))
    with pytest.raises(CMPError):
        open_package(signed, trust(operator_pki, algorithms=few), [], NOW)


async def test_a_changed_signed_key(operator_pki: OperatorPKI) -> None:
    """Another content, another attribute, another signature: refused."""
    key, other = pki.make_key("p256"), pki.make_key("p256")
    der = await sign_package(package(key), authority(operator_pki))
    swapped = der.replace(package(key), package(other))
    with pytest.raises(PackageRefused, match="messageDigest"):
        open_package(swapped, trust(operator_pki), [], NOW)
    data = asn1.decode(structures.SignedData, der)
    signature = data.signer_infos.as_list()[0].signature
    broken = der.replace(signature, bytes((*signature[:-1], signature[-1] ^ 1)))
    with pytest.raises(PackageRefused, match="does not verify"):
        open_package(broken, trust(operator_pki), [], NOW)


def test_a_package_has_one_key_with_its_public_key() -> None:
    """Two keys, or version 0 without public key, are refused."""
    der = package(pki.make_key("p256"))
    for wrong in (asn1.tlv(0x30, asn1.inner(der) * 2), asn1.tlv(0x30)):
        with pytest.raises(MalformedMessage):
            read_key_package(wrong)
    bare = pki.make_key("ed25519").private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(MalformedMessage):
        read_key_package(asn1.tlv(0x30, bare))


async def test_nothing_here_shows_a_key(operator_pki: OperatorPKI) -> None:
    """reprs hold neither keys nor secrets nor what was opened."""
    der = envelop(CONTENT, OID.data, PasswordRecipient(b"hush-hush"), RANDOM)
    opened = open_envelope(der, SecretHolder(b"hush-hush"))
    key = read_key_package(package(pki.make_key("p256")))
    shown = f"{opened!r}{SecretHolder(b'hush-hush')!r}{PasswordRecipient(b'hush-hush')!r}{key!r}"
    assert "hush" not in shown
    assert "nobody else" not in shown
    assert "pkcs8" not in shown
