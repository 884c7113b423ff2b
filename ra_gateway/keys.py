"""Private keys and certificates from files, and signing with a key that is in memory."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ra_gateway.cmp.algorithms import (
    SignatureAlgorithm,
    certificate_hash,
    default_algorithm,
    load_public_key,
    signing_arguments,
)
from ra_gateway.cmp.certificates import Certificate, key_identifier
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import CMPError, ConfigError, Problem


class KeySigner:
    """Signs with a private key held in memory (`ra_gateway.cmp.protection.Signer`).

    Args:
        private_key: Of `cryptography`: RSA, EC, Ed25519, Ed448 or ML-DSA.
        algorithm: What to sign with; by default what fits the key.
    """

    def __init__(self, private_key: Any, algorithm: SignatureAlgorithm | None = None) -> None:
        self._key = private_key
        self._algorithm = algorithm or default_algorithm(private_key.public_key())
        self._arguments = signing_arguments(self._algorithm)

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """The algorithm of every signature it makes."""
        return self._algorithm

    async def sign(self, octets: bytes) -> bytes:
        """Return the signature over the octets."""
        signature: bytes = self._key.sign(octets, *self._arguments)
        return signature

    def __repr__(self) -> str:
        return f"<KeySigner {self._algorithm.name}>"


def load_certificates(path: Path, setting: str) -> tuple[Certificate, ...]:
    """Read all certificates of a PEM file, in order.

    Args:
        setting: Dotted path of the setting that names the file, for the error.

    Raises:
        ConfigError: The file cannot be read, or has no certificate, or one that does not parse.
    """
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
        return tuple(Certificate.from_der(item.public_bytes(Encoding.DER)) for item in found)
    except (OSError, ValueError, CMPError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else "not a certificate in PEM, or broken"
        )
        raise ConfigError(
            [
                Problem(
                    setting,
                    f"no certificate can be read from {path}: {reason}",
                    "Give a PEM file with one or more certificates",
                )
            ]
        ) from error


def load_private_key(path: Path, password: bytes | None, setting: str) -> Any:
    """Read a private key from a PEM file.

    Raises:
        ConfigError: It cannot be read or decrypted. The text never contains key or password.
    """
    try:
        return load_pem_private_key(path.read_bytes(), password)
    except (OSError, ValueError, TypeError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else "not a PEM key, or wrong password"
        )
        raise ConfigError(
            [
                Problem(
                    setting,
                    f"no private key can be read from {path}: {reason}",
                    "Give a PKCS#8 PEM file, and its password file if it is encrypted",
                )
            ]
        ) from error


def make_credential(
    certificate: Certificate, chain: tuple[Certificate, ...], private_key: Any, setting: str
) -> Credential:
    """Return a credential from its parts.

    Raises:
        ConfigError: The key is not the certificate's, or cannot sign.
    """
    try:
        signer = KeySigner(private_key)
    except (CMPError, AttributeError) as error:
        raise ConfigError(
            [Problem(setting, "the private key cannot sign", "Use an RSA, EC, EdDSA or ML-DSA key")]
        ) from error
    if private_key.public_key() != load_public_key(certificate.spki_der):
        raise ConfigError(
            [
                Problem(
                    setting,
                    f"the private key does not belong to the certificate of {certificate.subject}",
                    "Give the key that was certified",
                )
            ]
        )
    return Credential(certificate, chain, signer)


def load_credential(
    certificate_path: Path,
    key_path: Path,
    *,
    chain_paths: tuple[Path, ...] = (),
    password: bytes | None = None,
    setting: str,
) -> Credential:
    """Read a certificate, its key and its chain.

    Args:
        certificate_path: PEM; certificates after the first count as chain.
        chain_paths: PEM files with the certificates up to, not including, the root.
        setting: Dotted path of the table these settings are in.

    Raises:
        ConfigError: As the functions above.
    """
    own = load_certificates(certificate_path, f"{setting}.certificate_path")
    chain = own[1:]
    for index, path in enumerate(chain_paths):
        chain += load_certificates(path, f"{setting}.chain_paths[{index}]")
    key = load_private_key(key_path, password, f"{setting}.key_path")
    roots = tuple(item for item in chain if item.self_issued)
    return make_credential(
        own[0], tuple(item for item in chain if item not in roots), key, f"{setting}.key_path"
    )


KEY_KINDS: Final[Mapping[str, Callable[[], Any]]] = MappingProxyType(
    {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
        "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
        "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ed448": ed448.Ed448PrivateKey.generate,
        "mldsa44": mldsa.MLDSA44PrivateKey.generate,
        "mldsa65": mldsa.MLDSA65PrivateKey.generate,
        "mldsa87": mldsa.MLDSA87PrivateKey.generate,
    }
)
"""Kinds of private key that can be made, and how."""


def spki_der(private_key: Any) -> bytes:
    """Return the SubjectPublicKeyInfo that belongs to a private key."""
    octets: bytes = private_key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return octets


def sign_certificate(
    subject: x509.Name,
    private_key: Any,
    issuer: x509.Name,
    issuer_key: Any,
    *,
    not_before: datetime,
    not_after: datetime,
    path_length: int | None = None,
) -> Certificate:
    """Make a certificate of a PKI that is being founded; what is issued on request has profiles.

    Args:
        private_key: The subject's; only its public half is used.
        not_before, not_after: Aware UTC.
        path_length: Makes it a CA's (TS 33.310 6.1.4: critical basicConstraints and keyUsage); without
            it, it is that of a signer.
    """
    is_ca = path_length is not None
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    identifiers = [key_identifier(spki_der(key)) for key in (private_key, issuer_key)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(identifiers[0]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(identifiers[1], None, None), critical=False)
    )
    signed = builder.sign(issuer_key, certificate_hash(issuer_key.public_key()))
    return Certificate.from_der(signed.public_bytes(Encoding.DER))


def pem(certificate_der: bytes) -> str:
    """Return a certificate as PEM."""
    text = base64.encodebytes(certificate_der).decode().replace("\n", "")
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def write_certificates(path: Path, certificates: Iterable[Certificate]) -> None:
    """Write certificates to a new PEM file.

    Raises:
        FileExistsError: The file is there already; nothing is ever overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="ascii") as file:
        file.write("".join(pem(item.der) for item in certificates))


def write_private_key(path: Path, private_key: Any, password: bytes | None = None) -> None:
    """Write a private key to a new PKCS#8 PEM file that only its owner can read.

    Raises:
        FileExistsError: The file is there already; a key is never overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    octets = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    # Created with its mode, not given it afterwards: there is no moment at which others can open it.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(octets)
