"""An RA's key and certificate: made at the CA, carried over as PKCS#12, installed at the gateway.

RFC 9810 and TS 33.310 leave the way open ("transported manually"). The CA takes the old and the new certificate
while both are registered, so that the gateway may be loaded anew at any time in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from ra_gateway.ca.files import require_absent
from ra_gateway.ca.hierarchy import (
    SIGNER_DAYS,
    SignerNames,
    certify_signer,
    issued_by,
    parse_subject,
    require_kind,
)
from ra_gateway.ca.keys import load_ca
from ra_gateway.ca.profiles import RA
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import CMPError, ConfigError
from ra_gateway.files import make_directory, read_bounded, read_with_status, write_new
from ra_gateway.keys import (
    TooDear,
    make_credential,
    new_key,
    pem,
    require_affordable,
    write_certificates,
)
from ra_gateway.owners import directory_at

KDF_ROUNDS: Final = 600_000
"""Iterations of PBKDF2 with HMAC-SHA-256, as OWASP advises; a third of a second once per transport."""


async def issue_ra_certificate(
    directory: Path,
    subject: str,
    *,
    now: datetime,
    target: Path | None = None,
    stem: str = "ra",
    key_kind: str = "p256",
    validity_days: int = SIGNER_DAYS,
    ca_password: bytes | None = None,
    password: bytes | None = None,
    key_uri: str | None = None,
    names: SignerNames = SignerNames(),  # noqa: B008 - it cannot change
) -> Certificate:
    """Make an RA's key and certificate: STEM.pem (with the issuing CA's behind it) and STEM.key.

    No ledger learns of it: register the certificate with the CA.

    Args:
        directory: The CA's.
        subject: RFC 4514 string, for example "CN=ra1,O=Example Operator".
        now: Aware UTC.
        target: Directory for the files, by default the CA's.
        ca_password: Of the CA's keys; `password` encrypts the RA's.
        key_uri: Of the key to be made in an HSM; STEM.key then names it.
        names: Further names in the certificate.

    Raises:
        ConfigError: The CA cannot be loaded, the subject is no name, or a file exists already.
    """
    subject_der = parse_subject(subject)
    kind = require_kind(key_kind)
    path = (target or directory) / stem
    certificate_path, key_path = Path(f"{path}.pem"), Path(f"{path}.key")
    require_absent((certificate_path, key_path))
    issuer = load_ca(directory, now=now, password=ca_password).issuers[0]
    profile = replace(RA, validity_days=validity_days)
    try:
        key = new_key(key_path, kind, password=password, uri=key_uri)
        certificate = await certify_signer(issuer, profile, subject_der, key, now, names)
        chain = (item for item in issuer.chain if not item.self_issued)
        write_certificates(certificate_path, (certificate, issuer.certificate, *chain))
    except OSError as error:
        raise _unwritable(path, error) from error
    return certificate


# --- Transport --------------------------------------------------------------------------------------------------


def export_pkcs12(
    path: Path,
    certificate: Certificate,
    private_key: Any,
    chain: Iterable[Certificate],
    password: bytes,
) -> None:
    """Write key, certificate and chain to a new PKCS#12 file that only its owner can read.

    Args:
        chain: Certificates above, in any order.
        password: UTF-8, not empty; encrypts with PBES2 (PBKDF2, AES-256-CBC) and protects with HMAC-SHA-256.

    Raises:
        ConfigError: The file exists already or cannot be written, the password is empty, or the key cannot leave
            its HSM or is of a kind that PKCS#12 does not take.
    """
    require_absent((path,))
    if not password:
        raise ConfigError.of(
            "password", "is empty", "Give the password that protects the file on its way"
        )
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(KDF_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password)
    )
    try:
        octets = pkcs12.serialize_key_and_certificates(
            None,
            private_key,
            x509.load_der_x509_certificate(certificate.der),
            [x509.load_der_x509_certificate(item.der) for item in chain],
            encryption,
        )
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError.of(
            str(path),
            f"this key cannot be exported: {error}",
            "Make the key at the gateway instead",
        ) from error
    try:
        write_new(path, octets)
    except OSError as error:
        raise _unwritable(path, error) from error


def import_pkcs12(path: Path, password: bytes) -> tuple[Certificate, tuple[Certificate, ...], Any]:
    """Read a PKCS#12 file.

    Returns:
        The certificate, those above it (nearest first, as far as they are there), and the private key.

    Raises:
        ConfigError: It cannot be read or decrypted, or lacks key or certificate, or they do not belong together.
    """
    try:
        octets = read_bounded(path)
        require_affordable(octets)
        found = pkcs12.load_pkcs12(octets, password)
        others = [
            Certificate.from_der(item.certificate.public_bytes(Encoding.DER))
            for item in found.additional_certs
        ]
        certificate = (
            None
            if found.cert is None
            else Certificate.from_der(found.cert.certificate.public_bytes(Encoding.DER))
        )
    except (OSError, ValueError, UnsupportedAlgorithm, CMPError) as error:
        reason = "not PKCS#12, or wrong password"
        if isinstance(error, OSError | TooDear):
            reason = str(getattr(error, "strerror", error))
        raise ConfigError.of(
            str(path),
            f"cannot be read: {reason}",
            "Give the file as it was exported, and its password",
        ) from error
    if certificate is None or found.key is None:
        raise ConfigError.of(str(path), "lacks the key or its certificate", "Export both")
    make_credential(certificate, (), found.key, str(path))
    return certificate, _in_order(certificate, others), found.key


def _in_order(certificate: Certificate, others: list[Certificate]) -> tuple[Certificate, ...]:
    chain: list[Certificate] = []
    last = certificate
    while not issued_by(last, last):
        above = next((item for item in others if item not in chain and issued_by(last, item)), None)
        if above is None:
            break
        chain.append(above)
        last = above
    return tuple(chain)


def install_ra(
    p12_path: Path,
    password: bytes,
    *,
    certificate_path: Path,
    key_path: Path,
    key_password: bytes | None = None,
    check: Callable[[Credential], object] | None = None,
) -> Certificate:
    """Put an RA's key and certificate from PKCS#12 where the gateway reads them.

    The new files are complete before the first of them counts. What they replace is kept as FILE.1, FILE.2...; the
    key is replaced first, the certificate last, each at once. Where both are one file, readers see the old pair or
    the new one; where they are two, a gateway that loads them in the instant between finds that they do not
    belong together, and a process that dies there is to be run again. Load the gateway anew afterwards.

    Args:
        certificate_path, key_path: Of the gateway's settings; they may be the same file.
        key_password: Encrypts the key; that of the gateway's settings.
        check: Raises where the gateway could not do with what is about to be installed; nothing is written then.

    Returns:
        The certificate that is installed.

    Raises:
        ConfigError: The PKCS#12 file cannot be used, or the others cannot be written.
    """
    certificate, chain, key = import_pkcs12(p12_path, password)
    if check is not None:
        check(make_credential(certificate, chain, key, str(p12_path)))
    encryption = NoEncryption() if key_password is None else BestAvailableEncryption(key_password)
    contents = {key_path: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)}
    above = (item for item in chain if not item.self_issued)
    pems = "".join(pem(item.der) for item in (certificate, *above)).encode("ascii")
    contents[certificate_path] = contents.get(certificate_path, b"") + pems
    try:
        _replace(contents, secret=key_path)
    except OSError as error:
        raise _unwritable(key_path, error) from error
    return certificate


def _replace(contents: Mapping[Path, bytes], *, secret: Path) -> None:
    with ExitStack() as stack:
        for path in contents:
            make_directory(path.parent)
        places = {path: stack.enter_context(directory_at(path.parent)) for path in contents}
        for path, octets in contents.items():
            beside = path.with_name(f"{path.name}.new")
            with suppress(FileNotFoundError):  # of an attempt that was interrupted
                os.unlink(beside.name, dir_fd=places[path])
            old = read_with_status(path)
            like = None if old is None else old[1]
            write_new(beside, octets, 0o600 if path == secret else 0o644, like=like)
            if old is not None and old[0] != octets:
                _keep(path, *old)
        for path, place in places.items():
            os.replace(f"{path.name}.new", path.name, src_dir_fd=place, dst_dir_fd=place)
        for place in places.values():
            os.fsync(place)


def _keep(path: Path, octets: bytes, status: os.stat_result) -> None:
    """Copy what is going to be replaced, unless it is known from before."""
    number = 1
    while (kept := read_with_status(path.with_name(f"{path.name}.{number}"))) is not None:
        if kept[0] == octets:
            return
        number += 1
    write_new(path.with_name(f"{path.name}.{number}"), octets, like=status)


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError.of(
        str(path.parent),
        f"{error.filename or path} cannot be written: {error.strerror}",
        "Choose a directory that can be written to",
    )
