"""Test PKIs in memory: always of the same shape, with new keys, in a few milliseconds.

Certificates carry SubjectKeyIdentifier and AuthorityKeyIdentifier unless a test switches them off,
and are valid from 2020 to 2049, so that a test may choose any moment in between as its `now`.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from pyasn1.codec.der.decoder import decode as der_decode
from pyasn1.codec.der.encoder import encode as der_encode
from pyasn1.type.univ import BitString
from pyasn1_modules import rfc5280

KeyKind = Literal[
    "p256",
    "p384",
    "p521",
    "rsa1024",
    "rsa2048",
    "rsa3072",
    "ed25519",
    "ed448",
    "mldsa44",
    "mldsa65",
    "mldsa87",
]
PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey
    | rsa.RSAPublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
Hash: TypeAlias = hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | hashes.SHA224

VALID_FROM: Final = datetime(2020, 1, 1, tzinfo=UTC)
VALID_UNTIL: Final = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)

_SHA1_WITH_RSA: Final = "1.2.840.113549.1.1.5"
_ECDSA_WITH_SHA1: Final = "1.2.840.10045.4.1"

CMC_CA: Final = "1.3.6.1.5.5.7.3.27"
CMC_RA: Final = "1.3.6.1.5.5.7.3.28"

KEY_USAGES: Final = {
    "digitalSignature": "digital_signature",
    "nonRepudiation": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign",
    "cRLSign": "crl_sign",
    "encipherOnly": "encipher_only",
    "decipherOnly": "decipher_only",
}
"""Bits of keyUsage in their order (RFC 5280 4.2.1.3), and what `x509.KeyUsage` calls them."""

RSA_POOL_SIZE: Final = 4
"""RSA keys made per size and process, used in turn: four in a row are distinct."""

_rsa_pools: defaultdict[int, list[rsa.RSAPrivateKey]] = defaultdict(list)
_rsa_turns: defaultdict[int, itertools.count[int]] = defaultdict(itertools.count)


class CertificateOptions(TypedDict, total=False):
    """How a certificate differs from the usual one.

    Args:
        key_usage: Bits as spelled in RFC 5280 ("digitalSignature"); None leaves the extension out.
        eku: Extended key usages, dotted.
        san: Names such as "dns:enb1.example.net", "ip:192.0.2.1", "uri:...", "email:...".
        not_before: Aware UTC.
        not_after: Aware UTC.
        hash: Digest of the signature; ignored by keys that bring their own.
        rsa_padding: For an RSA issuer: PSS instead of PKCS #1 v1.5.
        basic_constraints: None leaves the extension out.
        subject_key_identifier: False leaves it out.
        authority_key_identifier: False leaves it out.
        serial_number: Positive; random when absent.
        extensions: Further extensions with their criticality.
    """

    key_usage: Collection[str] | None
    eku: Sequence[str]
    san: Sequence[str]
    not_before: datetime
    not_after: datetime
    hash: Hash
    rsa_padding: padding.PSS | padding.PKCS1v15 | None
    basic_constraints: x509.BasicConstraints | None
    subject_key_identifier: bool
    authority_key_identifier: bool
    serial_number: int
    extensions: Sequence[tuple[x509.ExtensionType, bool]]


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate with its private key and its issuers.

    Args:
        private_key: Belongs to the certificate.
        chain: Issuers, nearest first, the self-signed root last; empty for a root.
    """

    certificate: x509.Certificate
    private_key: PrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        """DER of the certificate."""
        return certificate_der(self.certificate)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key (PKCS #8, not encrypted) and return both paths."""
        return (
            write_certificates(directory / f"{name}.pem", self.certificate),
            write_key(directory / f"{name}.key", self.private_key),
        )


@dataclass(frozen=True, slots=True)
class Credential(Certified):
    """An end entity's."""

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """The chain without its root: what a device sends along."""
        return self.chain[:-1]


@dataclass(frozen=True, slots=True)
class Authority(Certified):
    """A certification authority that signs whatever a test needs."""

    def issue_ca(
        self,
        common_name: str,
        key: KeyKind | PrivateKey = "p256",
        *,
        path_length: int | None = None,
        **options: Unpack[CertificateOptions],
    ) -> Authority:
        """Issue a subordinate CA.

        Args:
            common_name: A common name, or a whole RFC 4514 string if it contains "=".
            key: A kind to generate, or the key itself.
            path_length: pathLenConstraint.
            options: See `CertificateOptions`.
        """
        private_key = make_key(key) if isinstance(key, str) else key
        certificate = self.sign(
            common_name, private_key.public_key(), **_ca_options(path_length, options)
        )
        return Authority(certificate, private_key, (self.certificate, *self.chain))

    def issue(
        self,
        subject: str | x509.Name,
        key: KeyKind | PrivateKey = "p256",
        **options: Unpack[CertificateOptions],
    ) -> Credential:
        """Issue an end-entity certificate, by default with keyUsage digitalSignature.

        Args:
            subject: A common name, an RFC 4514 string if it contains "=", or a Name.
            key: A kind to generate, or the key itself.
            options: See `CertificateOptions`.
        """
        private_key = make_key(key) if isinstance(key, str) else key
        certificate = self.sign(subject, private_key.public_key(), **options)
        return Credential(certificate, private_key, (self.certificate, *self.chain))

    def sign(
        self,
        subject: str | x509.Name,
        public_key: PublicKey,
        **options: Unpack[CertificateOptions],
    ) -> x509.Certificate:
        """Sign a certificate for a key of which only the public half is at hand."""
        return _sign(
            subject=make_name(subject),
            public_key=public_key,
            issuer=self.certificate.subject,
            issuer_key=self.private_key,
            issuer_ski=_ski_of(self.certificate),
            options=options,
        )


@dataclass(frozen=True, slots=True)
class VendorPKI:
    """A manufacturer: root -> sub -> devices."""

    name: str
    root: Authority
    sub: Authority

    def device(
        self,
        serial: str = "SN-000001",
        key: KeyKind | PrivateKey = "p256",
        **options: Unpack[CertificateOptions],
    ) -> Credential:
        """Issue the certificate that a base station leaves the factory with.

        Args:
            serial: Serial number of the device, its common name.
            key: A kind to generate, or the key itself.
            options: See `CertificateOptions`.
        """
        return self.sub.issue(f"CN={serial},O={self.name}", key, **options)

    def write(self, directory: Path) -> None:
        """Write root.pem, sub.pem and sub.key."""
        write_certificates(directory / "root.pem", self.root.certificate)
        self.sub.write(directory, "sub")


@dataclass(frozen=True, slots=True)
class OperatorPKI:
    """An operator: root -> issuing CA -> the RA, and the signer of the CA's CMP answers."""

    name: str
    root: Authority
    issuing: Authority
    ra: Credential
    cmp_signer: Credential

    def device(
        self,
        common_name: str = "enb1.example.net",
        key: KeyKind | PrivateKey = "p256",
        **options: Unpack[CertificateOptions],
    ) -> Credential:
        """Issue an operator certificate to a base station, as an enrolment would."""
        return self.issuing.issue(f"CN={common_name},O={self.name}", key, **options)

    def write(self, directory: Path) -> None:
        """Write root.pem and certificate and key of issuing, ra and cmp-signer."""
        write_certificates(directory / "root.pem", self.root.certificate)
        self.issuing.write(directory, "issuing")
        self.ra.write(directory, "ra")
        self.cmp_signer.write(directory, "cmp-signer")


def make_root(
    common_name: str,
    key: KeyKind | PrivateKey = "p256",
    *,
    path_length: int | None = None,
    **options: Unpack[CertificateOptions],
) -> Authority:
    """Make a self-signed root; arguments as of `Authority.issue_ca`."""
    private_key = make_key(key) if isinstance(key, str) else key
    name = make_name(common_name)
    certificate = _sign(
        subject=name,
        public_key=private_key.public_key(),
        issuer=name,
        issuer_key=private_key,
        issuer_ski=None,
        options=_ca_options(path_length, options),
    )
    return Authority(certificate, private_key)


def make_vendor_pki(name: str = "ACME Radio", key: KeyKind = "p256") -> VendorPKI:
    """Make the PKI of a manufacturer; `key` is the kind of both its CAs."""
    root = make_root(f"CN={name} Root CA,O={name}", key)
    sub = root.issue_ca(f"CN={name} Device CA,O={name}", key, path_length=0)
    return VendorPKI(name, root, sub)


def make_operator_pki(name: str = "Example Operator", key: KeyKind = "p256") -> OperatorPKI:
    """Make the PKI of an operator; `key` is the kind of every key in it."""
    root = make_root(f"CN={name} Root CA,O={name}", key)
    issuing = root.issue_ca(f"CN={name} Issuing CA,O={name}", key, path_length=0)
    return OperatorPKI(
        name=name,
        root=root,
        issuing=issuing,
        ra=issuing.issue(f"CN={name} RA,O={name}", key, eku=[CMC_RA]),
        cmp_signer=issuing.issue(f"CN={name} CMP,O={name}", key, eku=[CMC_CA]),
    )


def other_operator() -> OperatorPKI:
    """An operator that nobody here trusts."""
    return make_operator_pki("Other Operator")


def make_key(kind: KeyKind) -> PrivateKey:
    """Make a private key; RSA keys come in turn from a pool, because they are slow to find."""
    match kind:
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "rsa1024":
            return _rsa_key(1024)
        case "rsa2048":
            return _rsa_key(2048)
        case "rsa3072":
            return _rsa_key(3072)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case "mldsa44":
            return mldsa.MLDSA44PrivateKey.generate()
        case "mldsa65":
            return mldsa.MLDSA65PrivateKey.generate()
        case "mldsa87":
            return mldsa.MLDSA87PrivateKey.generate()


def make_name(subject: str | x509.Name) -> x509.Name:
    """Make a Name of a common name, or of an RFC 4514 string (most specific first) with an "="."""
    if isinstance(subject, x509.Name):
        return subject
    return x509.Name.from_rfc4514_string(subject if "=" in subject else f"CN={subject}")


def resign_with_sha1(certificate: x509.Certificate, issuer: Authority) -> x509.Certificate:
    """Return the same certificate signed with SHA-1, which `CertificateBuilder` refuses to do.

    Args:
        certificate: Issued by `issuer`, not with PSS.
        issuer: Has an RSA or EC key.
    """
    changed, _ = der_decode(certificate_der(certificate), asn1Spec=rfc5280.Certificate())
    tbs = changed["tbsCertificate"]
    if isinstance(issuer.private_key, rsa.RSAPrivateKey):
        tbs["signature"]["algorithm"] = _SHA1_WITH_RSA
        signature = issuer.private_key.sign(der_encode(tbs), padding.PKCS1v15(), hashes.SHA1())
    else:
        assert isinstance(issuer.private_key, ec.EllipticCurvePrivateKey)
        tbs["signature"]["algorithm"] = _ECDSA_WITH_SHA1
        signature = issuer.private_key.sign(der_encode(tbs), ec.ECDSA(hashes.SHA1()))
    changed["signatureAlgorithm"]["algorithm"] = tbs["signature"]["algorithm"]
    changed["signature"] = BitString.fromOctetString(signature)
    return x509.load_der_x509_certificate(der_encode(changed))


def certificate_der(certificate: x509.Certificate) -> bytes:
    """Return the DER of a certificate."""
    return certificate.public_bytes(serialization.Encoding.DER)


def key_pem(private_key: PrivateKey) -> bytes:
    """Return a private key as PKCS #8 PEM, not encrypted."""
    return private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write_certificates(path: Path, *certificates: x509.Certificate) -> Path:
    """Write certificates into one PEM file, in the given order, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates))
    return path


def write_key(path: Path, private_key: PrivateKey) -> Path:
    """Write a private key that only its owner may read, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(key_pem(private_key))
    return path


def _rsa_key(key_bits: int) -> rsa.RSAPrivateKey:
    pool, turn = _rsa_pools[key_bits], next(_rsa_turns[key_bits])
    if turn < RSA_POOL_SIZE:
        pool.append(rsa.generate_private_key(65537, key_bits))
    return pool[turn % RSA_POOL_SIZE]


def _ca_options(path_length: int | None, options: CertificateOptions) -> CertificateOptions:
    usual: CertificateOptions = {
        "key_usage": ("keyCertSign", "cRLSign"),
        "basic_constraints": x509.BasicConstraints(ca=True, path_length=path_length),
    }
    return {**usual, **options}


def _sign(
    *,
    subject: x509.Name,
    public_key: PublicKey,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    issuer_ski: x509.SubjectKeyIdentifier | None,
    options: CertificateOptions,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(options.get("serial_number") or x509.random_serial_number())
        .not_valid_before(options.get("not_before", VALID_FROM))
        .not_valid_after(options.get("not_after", VALID_UNTIL))
    )
    for extension, critical in _extensions(public_key, issuer_key, issuer_ski, options):
        builder = builder.add_extension(extension, critical)
    return builder.sign(
        issuer_key,
        signature_hash(issuer_key, options.get("hash")),
        rsa_padding=options.get("rsa_padding"),
    )


def signature_hash(private_key: PrivateKey, wanted: Hash | None = None) -> Hash | None:
    """Return the digest to sign with, None where the key brings its own."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        return wanted or hashes.SHA256()
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        usual: dict[int, Hash] = {384: hashes.SHA384(), 521: hashes.SHA512()}
        return wanted or usual.get(private_key.key_size, hashes.SHA256())
    return None


def _extensions(
    public_key: PublicKey,
    issuer_key: PrivateKey,
    issuer_ski: x509.SubjectKeyIdentifier | None,
    options: CertificateOptions,
) -> Iterable[tuple[x509.ExtensionType, bool]]:
    if (basic_constraints := options.get("basic_constraints")) is not None:
        yield basic_constraints, True
    if (usages := options.get("key_usage", ("digitalSignature",))) is not None:
        yield _key_usage(usages), True
    if options.get("subject_key_identifier", True):
        yield x509.SubjectKeyIdentifier.from_public_key(public_key), False
    if options.get("authority_key_identifier", True):
        if issuer_ski is None:
            yield (
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                False,
            )
        else:
            yield (
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_ski),
                False,
            )
    if eku := options.get("eku"):
        yield x509.ExtendedKeyUsage(x509.ObjectIdentifier(oid) for oid in eku), False
    if san := options.get("san"):
        yield x509.SubjectAlternativeName(_general_name(entry) for entry in san), False
    yield from options.get("extensions", ())


def _key_usage(usages: Collection[str]) -> x509.KeyUsage:
    if unknown := set(usages) - set(KEY_USAGES):
        raise ValueError(f"no such key usage: {sorted(unknown)}")
    return x509.KeyUsage(**{argument: usage in usages for usage, argument in KEY_USAGES.items()})


def _general_name(entry: str) -> x509.GeneralName:
    kind, _, value = entry.partition(":")
    match kind:
        case "dns":
            return x509.DNSName(value)
        case "ip":
            return x509.IPAddress(ipaddress.ip_address(value))
        case "uri":
            return x509.UniformResourceIdentifier(value)
        case "email":
            return x509.RFC822Name(value)
        case "dn":
            return x509.DirectoryName(x509.Name.from_rfc4514_string(value))
        case _:
            raise ValueError(f"no such kind of name: {entry!r}")


def _ski_of(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return None
