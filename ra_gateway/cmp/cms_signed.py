"""A private key on its way to its owner: AsymmetricKeyPackage in SignedData (RFC 9483 4.1.6, RFC 5958, RFC 5652 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import (
    AlgorithmRefused,
    SignatureAlgorithm,
    digest,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.errors import CMPError, MalformedMessage, PKIFailureInfo

_MOST_CERTIFICATES: Final = 16
"""As many as extraCerts of an answer may hold."""

_DIGESTS: Final = MappingProxyType(
    {
        "sha256": asn1.algorithm_der(OID.sha256),
        "sha384": asn1.algorithm_der(OID.sha384),
        "sha512": asn1.algorithm_der(OID.sha512),
        # RFC 8419 3.1: with Ed448 SHAKE256 with 512 bits of output, written as id-shake256-len.
        "shake256": asn1.algorithm_der(OID.shake256Len, asn1.encode(512)),
    }
)
_DIGEST_NAMES: Final = MappingProxyType(
    {
        **{der: name for name, der in _DIGESTS.items()},
        # RFC 5754 2: parameters should be absent, NULL has to be taken as well.
        **{
            asn1.tlv(0x30, asn1.inner(der), asn1.NULL_DER): name
            for name, der in _DIGESTS.items()
            if name != "shake256"
        },
    }
)


class PackageRefused(CMPError):
    """A key package that nobody vouches for who may."""

    fail_info = PKIFailureInfo.badMessageCheck
    phrase = "The key package is not signed by a key generation authority."


@dataclass(frozen=True, slots=True)
class KeyPackage:
    """One private key.

    Args:
        pkcs8_der: PrivateKeyInfo (version 0), as libraries read it.
        public_key: Content octets of the BIT STRING in its SubjectPublicKeyInfo.
    """

    pkcs8_der: bytes = field(repr=False)
    public_key: bytes


def key_package_der(pkcs8_der: bytes, spki_der: bytes) -> bytes:
    """Return an AsymmetricKeyPackage with one key: version 1, with its public key (RFC 9483 4.1.6).

    Args:
        pkcs8_der: PrivateKeyInfo or OneAsymmetricKey.
    """
    key = asn1.decode(structures.OneAsymmetricKey, pkcs8_der)
    public_key = asn1.decode(structures.SubjectPublicKeyInfo, spki_der).subject_public_key
    return asn1.boxed(
        structures.AsymmetricKeyPackageBox(
            keys=[
                structures.OneAsymmetricKey(
                    version=1,
                    private_key_algorithm=key.private_key_algorithm,
                    private_key=key.private_key,
                    attributes=None,
                    public_key=public_key,
                )
            ]
        )
    )


def read_key_package(der: bytes) -> KeyPackage:
    """Read an AsymmetricKeyPackage with one key and its public key.

    Raises:
        MalformedMessage: It is none.
    """
    keys = asn1.unbox(structures.AsymmetricKeyPackageBox, der).keys
    if len(keys) != 1 or keys[0].version != 1 or keys[0].public_key is None:
        raise MalformedMessage(
            "not one OneAsymmetricKey of version 1 with its publicKey", rule="RFC 9483 4.1.6"
        )
    key = keys[0]
    assert key.public_key is not None
    pkcs8_der = asn1.tlv(
        0x30,
        asn1.encode(0),
        asn1.raw(key.private_key_algorithm),
        asn1.encode(key.private_key),
    )
    return KeyPackage(pkcs8_der, asn1.octets_of(key.public_key, "publicKey"))


async def sign_package(package_der: bytes, credential: Credential) -> bytes:
    """Return a SignedData around an AsymmetricKeyPackage.

    Args:
        credential: Of the key generation authority; its certificate has a SubjectKeyIdentifier.

    Raises:
        MalformedMessage: It has none.
        ServiceFailure: The key cannot sign.
    """
    identifier = credential.certificate.subject_key_identifier
    if identifier is None:
        raise MalformedMessage("the signer has no SubjectKeyIdentifier", rule="RFC 9483 4.1.6")
    algorithm = credential.signer.algorithm
    hash_name = _hash_name(algorithm)
    attributes = asn1.set_of(
        [
            _attribute(OID.contentType, asn1.oid_der(OID.keyPackage)),
            _attribute(OID.messageDigest, asn1.encode(digest(hash_name, package_der))),
        ]
    )
    identified = asn1.decode(structures.AlgorithmIdentifier, _DIGESTS[hash_name])
    info = structures.SignerInfo(
        version=3,
        sid=asn1.element(asn1.tlv(0x80, identifier)),
        digest_algorithm=identified,
        signed_attrs=attributes,
        signature_algorithm=asn1.element(algorithm.der),
        signature=await credential.signer.sign(_signed_octets(attributes)),
        unsigned_attrs=None,
    )
    return asn1.encode(
        structures.SignedData(
            version=3,
            digest_algorithms=asn1.set_of([identified]),
            encap_content_info=structures.EncapsulatedContentInfo(
                e_content_type=asn1.oid(OID.keyPackage), e_content=package_der
            ),
            certificates=asn1.set_of([asn1.element(der) for der in credential.certificates]),
            crls=None,
            signer_infos=asn1.set_of([info]),
        )
    )


def _hash_name(algorithm: SignatureAlgorithm) -> str:
    # ML-DSA has no hash of its own; with it SHA-512 has to be known by everybody (RFC 9882 3.3).
    return algorithm.hash_name or "sha512"


def _attribute(dotted: str, value_der: bytes) -> structures.Attribute:
    return structures.Attribute(
        type=asn1.oid(dotted), values=asn1.set_of([asn1.element(value_der)])
    )


def _signed_octets(attributes: structures.SetOfAttributes) -> bytes:
    """Return what is signed: the attributes under SET OF's own tag (RFC 5652 5.4)."""
    return asn1.inner(asn1.encode(structures.AttributesBox(attributes=attributes)))


def open_package(
    der: bytes, trust: TrustDomain, bag: list[Certificate], now: datetime
) -> KeyPackage:
    """Verify a SignedData and return the key in it.

    Args:
        trust: Anchors that the key generation authority must chain to.
        bag: Certificates that may lie on its path, besides those that come along.
        now: Aware UTC.

    Raises:
        MalformedMessage: It does not conform.
        AlgorithmRefused: An algorithm is not known or not allowed.
        SignerNotTrusted, PackageRefused: It is not signed by a key generation authority of this PKI.
    """
    data = asn1.decode(structures.SignedData, der)
    infos = data.signer_infos.as_list()
    content = data.encap_content_info
    if data.version != 3 or len(infos) != 1 or infos[0].version != 3:
        raise MalformedMessage(
            "not a SignedData of version 3 with one signer", rule="RFC 9483 4.1.6"
        )
    if content.e_content_type.dotted_string != OID.keyPackage or content.e_content is None:
        raise MalformedMessage("SignedData of something else than a key package", rule="R1")
    info = infos[0]
    certificates = [] if data.certificates is None else data.certificates.as_list()
    carried = [Certificate.from_der(asn1.raw(item)) for item in certificates[:_MOST_CERTIFICATES]]
    signer = _signer(asn1.raw(info.sid), carried)
    trust.find_path(signer, [*carried, *bag], now)
    _require_key_generation_authority(signer)
    algorithm = signature_algorithm(asn1.raw(info.signature_algorithm))
    trust.algorithms.require_signature(algorithm, "the key package is signed")
    _verify(info, algorithm, signer, content.e_content)
    return read_key_package(content.e_content)


def _signer(sid_der: bytes, certificates: list[Certificate]) -> Certificate:
    for certificate in certificates:
        identifier = certificate.subject_key_identifier
        if identifier is not None and sid_der == asn1.tlv(0x80, identifier):
            return certificate
    raise PackageRefused("the certificate of the signer is missing", rule="RFC 9483 4.1.6")


def _require_key_generation_authority(signer: Certificate) -> None:
    usage = signer.key_usage
    if OID.cmKGA not in signer.extended_key_usage:
        raise PackageRefused(f"{signer.subject} lacks cmKGA", rule="RFC 9483 4.1.6")
    if usage is not None and KeyUsage.digitalSignature not in usage:
        raise PackageRefused(
            f"keyUsage of {signer.subject} lacks digitalSignature", rule="RFC 9483 4.1.6"
        )


def _verify(
    info: structures.SignerInfo, algorithm: SignatureAlgorithm, signer: Certificate, content: bytes
) -> None:
    hash_name = _DIGEST_NAMES.get(asn1.encode(info.digest_algorithm))
    if hash_name is None or (algorithm.hash_name and algorithm.hash_name != hash_name):
        raise AlgorithmRefused("a digest that does not fit the signature", rule="RFC 5652 5.3")
    if info.signed_attrs is None:
        raise PackageRefused("no signedAttrs", rule="RFC 9483 4.1.6")
    values: dict[str, bytes] = {}
    for attribute in info.signed_attrs.as_list():
        found = attribute.values.as_list()
        if len(found) != 1 or attribute.type.dotted_string in values:
            raise MalformedMessage("a signed attribute that has not one value", rule="RFC 5652 11")
        values[attribute.type.dotted_string] = asn1.raw(found[0])
    if values.get(OID.contentType) != asn1.oid_der(OID.keyPackage):
        raise PackageRefused("contentType is not that of a key package", rule="RFC 5652 11.1")
    if values.get(OID.messageDigest) != asn1.encode(digest(hash_name, content)):
        raise PackageRefused("messageDigest is not that of the content", rule="RFC 5652 11.2")
    try:
        verify_signature(
            algorithm, signer.public_key, info.signature, _signed_octets(info.signed_attrs)
        )
    except InvalidSignature as error:
        raise PackageRefused(
            "the signature of the key package does not verify", rule="RFC 5652 5.4"
        ) from error
