"""Private keys and certificates from files, and signing: in memory, or in the HSM that a file names."""

from __future__ import annotations

import asyncio
import base64
import os
import shlex
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

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

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    SignatureAlgorithm,
    certificate_hash,
    default_algorithm,
    load_public_key,
    signing_arguments,
)
from ra_gateway.cmp.certificates import (
    KEY_USAGES,
    Certificate,
    key_identifier,
    load_certificate,
    why_unreadable,
)
from ra_gateway.cmp.pem import PEMRefused, looks_like, pem_blocks
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import CMPError, ConfigError, MalformedMessage, missing_extra
from ra_gateway.files import open_to_read, read_bounded, write_new

HSM_SCHEME: Final = b"pkcs11:"
"""What the one line of a key file begins with when the key is in an HSM."""

T = TypeVar("T")


def _pkcs11(setting: str) -> Any:
    """Return the package that speaks to HSMs, which needs the extra `hsm`.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from ra_gateway import pkcs11
    except ModuleNotFoundError as error:
        raise missing_extra(setting, error) from error
    return pkcs11


_SIGNING: Final = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="sign")
"""Its threads sign at the same time: OpenSSL holds no lock of Python's meanwhile."""

_RSA_BITS_IN_LOOP: Final = 2048
_OCTETS_IN_LOOP: Final = 262_144


def is_dear(private_key: Any) -> bool:
    """Tell whether a signature with a key takes long enough to be worth a thread, half a millisecond or more.

    A thread costs a tenth of one, which is more than a signature on P-256.
    """
    family = default_algorithm(private_key.public_key()).family
    bits = getattr(private_key, "key_size", 0)
    return family.startswith("ml-dsa") or (family == "rsa" and bits > _RSA_BITS_IN_LOOP)


class KeySigner:
    """Signs with a private key (`ra_gateway.cmp.protection.Signer`), in a thread where that takes long.

    Args:
        private_key: Of `cryptography`: RSA, EC, Ed25519, Ed448 or ML-DSA; or from `ra_gateway.pkcs11`.
        algorithm: What to sign with; by default what fits the key.
    """

    def __init__(self, private_key: Any, algorithm: SignatureAlgorithm | None = None) -> None:
        self._key = private_key
        self._algorithm = algorithm or default_algorithm(private_key.public_key())
        self._arguments = signing_arguments(self._algorithm)
        self._elsewhere = signs_elsewhere(private_key)
        self._is_dear = is_dear(private_key)

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """The algorithm of every signature it makes."""
        return self._algorithm

    @property
    def weakness(self) -> str:
        """What the attributes of a key in an HSM allow and should not; "" for nothing, and for a file."""
        return str(getattr(self._key, "weakness", ""))

    async def sign(self, octets: bytes) -> bytes:
        """Return the signature over the octets.

        Raises:
            ServiceFailure: The HSM does not sign, or not in time.
        """
        signature: bytes
        if self._elsewhere:
            from ra_gateway import pkcs11

            signature = await pkcs11.in_thread(
                self._key.sign, octets, *self._arguments, seconds=pkcs11.ANSWER_SECONDS
            )
        elif self._is_dear or len(octets) > _OCTETS_IN_LOOP:  # a CRL is hashed for some time
            work = partial(self._key.sign, octets, *self._arguments)
            signature = await asyncio.get_running_loop().run_in_executor(_SIGNING, work)
        else:
            signature = self._key.sign(octets, *self._arguments)
        return signature

    def __repr__(self) -> str:
        return f"<KeySigner {self._algorithm.name}>"


def signs_elsewhere(private_key: Any) -> bool:
    """Tell whether signing with a key waits for another device, and must not be done in the event loop."""
    # Who has such a key has loaded that package: without an HSM it need not be there.
    package: Any = sys.modules.get("ra_gateway.pkcs11")
    return package is not None and isinstance(private_key, package.HSMKey)


MAX_CERTIFICATES: Final = 1024
"""In one PEM file: bundles of all public roots have some 150."""

MAX_ITERATIONS: Final = 10_000_000
"""Of what turns a password into a key; ours have 600,000, and this many cost some seconds."""

_MAX_ELEMENTS: Final = 20_000
_OCTET_STRING: Final = 0x04
_INTEGER: Final = 0x02


class TooDear(ValueError):
    """Whoever made a file chose how long opening it takes, and chose too long."""


def require_affordable(der: bytes) -> None:
    """Make sure that no count of iterations in an encrypted key or a PKCS#12 file is beyond the bound.

    Looked at is every number behind a salt: those of PBKDF2, scrypt, the older ciphers and the MAC of PKCS#12 (RFC 8018
    A, RFC 7292 4). What is inside of what is encrypted was written by somebody who knows the password.

    Raises:
        TooDear: One is.
        MalformedMessage: It is not DER, or has too many elements.
    """
    left = _MAX_ELEMENTS
    todo = [(0, len(der), False)]
    while todo:
        start, end, is_guess = todo.pop()
        try:
            found = asn1.spans(der, start, end, left, "file")
        except MalformedMessage:
            if is_guess:
                continue  # an OCTET STRING that only begins like an element
            raise
        left -= len(found)
        for (before, _, _), (tag, first, last) in pairwise(found):
            if (before, tag) == (_OCTET_STRING, _INTEGER):
                count = int.from_bytes(der[first : min(last, first + 16)], "big")
                if count > MAX_ITERATIONS:
                    raise TooDear(f"more than {MAX_ITERATIONS} iterations to open it")
        todo += [
            (first, last, tag == _OCTET_STRING)
            for tag, first, last in found
            if tag & 0x20 or (tag == _OCTET_STRING and der[first : first + 1] == b"\x30")
        ]


def load_certificates(
    path: Path, setting: str, *, loosely: bool = False
) -> tuple[Certificate, ...]:
    """Read all certificates of a PEM file, in order.

    Args:
        setting: Dotted path of the setting that names the file, for the error.
        loosely: Whether they may be BER that is not DER.

    Raises:
        ConfigError: The file cannot be read, or has no certificate, or one that does not parse.
    """
    todo = "Give a PEM file with one or more certificates"
    try:
        octets = read_bounded(path)
        found = pem_blocks(octets, "CERTIFICATE", MAX_CERTIFICATES)
        if not found:
            seems, todo = _seems(octets, path, todo)
            raise PEMRefused(f"there is none in PEM{seems}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        what = f"no certificate can be read from {path}: {reason}"
        raise ConfigError.of(setting, what, todo) from error
    certificates = []
    for number, der in enumerate(found, 1):
        try:
            certificate = load_certificate(der, loosely=loosely)
            certificate.require_readable()
        except CMPError as error:
            which = f"certificate {number} of {path}" if len(found) > 1 else str(path)
            what = f"{which} cannot be read: {why_unreadable(der)}"
            raise ConfigError.of(setting, what, _REPLACE) from error
        certificates.append(certificate)
    return tuple(certificates)


def _seems(octets: bytes, path: Path, usual: str, *, key: bool = False) -> tuple[str, str]:
    """Return what a file is instead of PEM, in words that may follow, and what to do about it."""
    seen = looks_like(octets, key=key)
    if seen is None:
        return "", usual
    what, command = seen
    name = shlex.quote(str(path))
    todo = f"Run: {command.replace('{file}', name)}, and name {path}.pem" if command else usual
    return f"; it is {what}", todo


_REPLACE: Final = (
    "Have it issued again; where a vendor cannot do that, and it is BER, add ber_certificates to "
    "vendors.<name>.quirks"
)


def load_private_key(path: Path, password: bytes | None, setting: str) -> Any:
    """Read a private key from a PEM file, or find the one in an HSM that the file names.

    Args:
        path: PEM, PKCS#8; or one line, a URI that begins with `pkcs11:` (`ra_gateway.pkcs11.load`).
        password: Decrypts a PEM file; of no use for an HSM, whose PIN has a file of its own.

    Raises:
        ConfigError: It cannot be read, decrypted or found. The text never contains key, password or PIN.
    """
    octets = b""
    try:
        octets = read_bounded(path)
        if not octets.startswith(HSM_SCHEME):
            for der in pem_blocks(octets, "ENCRYPTED PRIVATE KEY", MAX_CERTIFICATES):
                require_affordable(der)
            return load_pem_private_key(octets, password)
    except (OSError, ValueError, TypeError, CMPError) as error:
        usual = (
            "Give a PKCS#8 PEM file, and its password file if it is encrypted; "
            "or a file with the pkcs11: URI of a key in an HSM"
        )
        seems, todo = _seems(octets, path, usual, key=True)
        reason = _reason(
            error, f"not a PEM key{seems}" if seems else "not a PEM key, or wrong password"
        )
        what = f"no private key can be read from {path}: {reason}"
        raise ConfigError.of(setting, what, todo) from error
    # What is not ASCII has no place in a URI, and is refused there.
    return _pkcs11(setting).load(octets.decode("ascii", "replace").rstrip(), path.parent, setting)


def _reason(error: Exception, usual: str) -> str:
    if isinstance(error, TooDear):
        return str(error)
    return str(error.strerror) if isinstance(error, OSError) else usual


def require_private(path: Path, setting: str) -> None:
    """Make sure that nobody but its owner may read or write a file; one that is not there is nobody's.

    Raises:
        ConfigError: Others may; the text says what to run.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError.of(
            setting,
            f"{path} has mode {stat.S_IMODE(mode):04o}: it is not its owner's alone",
            f"Run: chmod 600 {shlex.quote(str(path))}; and find out who has read it",
        )


def require_private_key(path: Path, setting: str) -> None:
    """Make sure that a file with a private key is its owner's alone; one that names a key in an HSM has no secret.

    Raises:
        ConfigError: As `require_private`.
    """
    if not names_hsm_key(path):
        require_private(path, setting)


def names_hsm_key(path: Path) -> bool:
    """Tell whether a file has the name of a key in an HSM, rather than a key."""
    try:
        with open_to_read(path) as file:
            return file.read(len(HSM_SCHEME)) == HSM_SCHEME
    except OSError:
        return False


def make_credential(
    certificate: Certificate, chain: tuple[Certificate, ...], private_key: Any, setting: str
) -> Credential:
    """Return a credential from its parts.

    Args:
        chain: Nothing is sent twice: what stands there again, or is the certificate itself, is left out.

    Raises:
        ConfigError: The key is not the certificate's, or cannot sign.
    """
    try:
        signer = KeySigner(private_key)
    except (CMPError, AttributeError) as error:
        raise ConfigError.of(
            setting, "the private key cannot sign", "Use an RSA, EC, EdDSA or ML-DSA key"
        ) from error
    if private_key.public_key() != load_public_key(certificate.spki_der):
        own = next((item for item in chain if item.spki_der == spki_der(private_key)), None)
        if (
            own is not None and not own.is_ca
        ):  # a CA's key is the wrong one, wherever its certificate stands
            raise ConfigError.of(
                setting,
                f"the order is wrong: the certificate of this key, {own.subject}, stands behind that of "
                f"{certificate.subject}",
                "Put the key's own certificate first in its file, and those of the CAs above it behind it",
            )
        raise ConfigError.of(
            setting,
            f"the private key does not belong to the certificate of {certificate.subject}",
            "Give the key that was certified",
        )
    above = dict.fromkeys(item for item in chain if item != certificate)
    return Credential(certificate, tuple(above), signer)


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
    dns_names: Sequence[str] = (),
) -> Certificate:
    """Make a certificate of a PKI that is being founded; what is issued on request has profiles.

    Args:
        private_key: The subject's; only its public half is used.
        not_before, not_after: Aware UTC.
        path_length: Makes it a CA's (TS 33.310 6.1.4: critical basicConstraints and keyUsage); without
            it, it is that of a signer.
        dns_names: Its subjectAltName, without which it has none.
    """
    is_ca = path_length is not None
    usages = ("keyCertSign", "cRLSign") if is_ca else ("digitalSignature",)
    usage = x509.KeyUsage(*(name in usages for name in KEY_USAGES))
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
    if dns_names:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
        builder = builder.add_extension(names, critical=False)
    signed = builder.sign(issuer_key, certificate_hash(issuer_key.public_key()))
    return Certificate.from_der(signed.public_bytes(Encoding.DER))


def pem(der: bytes, label: str = "CERTIFICATE") -> str:
    """Return a certificate, or what another label names (RFC 7468), as PEM."""
    text = base64.encodebytes(der).decode().replace("\n", "")
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def read_password(path: Path | None) -> bytes | None:
    """Return the content of a password file, without the newline at its end; None without a file.

    Raises:
        OSError: It cannot be read.
    """
    return None if path is None else read_bounded(path).rstrip(b"\r\n")


def write_certificates(path: Path, certificates: Iterable[Certificate]) -> None:
    """Write certificates to a new PEM file that all may read.

    Raises:
        FileExistsError: The file is there already; nothing is ever overwritten.
    """
    write_new(path, "".join(pem(item.der) for item in certificates).encode("ascii"), 0o644)


def write_private_key(path: Path, private_key: Any, password: bytes | None = None) -> None:
    """Write a private key to a new PKCS#8 PEM file that only its owner can read.

    Raises:
        FileExistsError: The file is there already; a key is never overwritten.
    """
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    write_new(path, private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def write_key_reference(path: Path, uri: str) -> None:
    """Write a new key file that names a private key in an HSM; only its owner can read it.

    Raises:
        ConfigError: The URI is not one that `load_private_key` would take.
        FileExistsError: The file is there already; nothing is ever overwritten.
    """
    _pkcs11(str(path)).read_reference(uri, path.parent, str(path))
    write_new(path, f"{uri}\n".encode())


def new_key(path: Path, kind: str, *, password: bytes | None, uri: str | None = None) -> Any:
    """Make a private key in a new file, or in an HSM with a new file that names it.

    Args:
        kind: Out of `KEY_KINDS`; in an HSM out of `ra_gateway.pkcs11.HSM_KEY_KINDS`.
        password: Encrypts the file; of no use for an HSM.
        uri: Names token and key in the HSM; without it the key itself is in the file.

    Returns:
        The private key.

    Raises:
        ConfigError: The HSM cannot be used, or has such a key already; or no key of this kind is made.
        FileExistsError: The file is there already; a key is never overwritten.
    """
    if uri is None:
        if kind not in KEY_KINDS:
            raise ConfigError.of(
                str(path), f"no key of kind {kind}", f"Use one of {', '.join(KEY_KINDS)}"
            )
        private_key = KEY_KINDS[kind]()
        write_private_key(path, private_key, password)
        return private_key
    # The file first: a key in the HSM that nothing names would be in the way of the next attempt.
    write_key_reference(path, uri)
    try:
        return _pkcs11(str(path)).generate(uri, kind, path.parent, str(path))
    except BaseException:
        path.unlink()
        raise
