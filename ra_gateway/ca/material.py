"""Keys and certificates of the bundled CA as files: made once, loaded at every start.

    root.pem, root.key          the root; its key is needed only to make an issuing CA, keep it elsewhere
    issuing.pem, issuing.key    the issuing CA: signs certificates and nothing else
    cmp.pem, cmp.key            signs the CA's CMP messages (RFC 9810 8.6: a key of its own)

These few certificates are not in the ledger: it holds what was issued on request.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.profiles import CLOCK_SKEW, CMP_SIGNER, RA, Profile
from ra_gateway.cmp.certificates import Certificate, InvalidSignature
from ra_gateway.cmp.messages import CertTemplate
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import CMPError, ConfigError, Problem
from ra_gateway.keys import (
    KEY_KINDS,
    load_certificates,
    load_credential,
    load_private_key,
    sign_certificate,
    spki_der,
    write_certificates,
    write_private_key,
)

ROOT_DAYS: Final = 20 * 365
ISSUING_DAYS: Final = 10 * 365
SIGNER_DAYS: Final = 3 * 365
"""Of the CMP signer and the RA: changed with two certificates in use at once, hence more often."""

SETTING: Final = "ca"


@dataclass(frozen=True, slots=True)
class CAMaterial:
    """What a bundled CA is made of.

    Args:
        root: Anchor of the operator's trust domain.
        issuer: Makes certificates.
        credential: Signs CMP messages.
    """

    root: Certificate
    issuer: Issuer
    credential: Credential


def create_operator_pki(
    directory: Path,
    *,
    now: datetime,
    name: str = "Example Operator",
    key_kind: str = "p256",
    password: bytes | None = None,
) -> None:
    """Make root, issuing CA and CMP signer in a directory, which is made if need be.

    Args:
        now: Aware UTC; validity begins a little earlier.
        name: Organisation in all subjects.
        key_kind: Out of `ra_gateway.keys.KEY_KINDS`, for all three.
        password: Encrypts the keys.

    Raises:
        ConfigError: One of the files exists already (none is touched then), or cannot be written.
    """
    make_key = _key_maker(key_kind)
    _require_absent(
        directory / f"{stem}.{suffix}"
        for stem in ("root", "issuing", "cmp")
        for suffix in ("pem", "key")
    )
    root_key, issuing_key, cmp_key = make_key(), make_key(), make_key()
    root_name = _name(name, "Root CA")

    def ca_certificate(subject: x509.Name, key: Any, days: int, path_length: int) -> Certificate:
        return sign_certificate(
            subject,
            key,
            root_name,
            root_key,
            not_before=now - CLOCK_SKEW,
            not_after=now + timedelta(days=days),
            path_length=path_length,
        )

    root = ca_certificate(root_name, root_key, ROOT_DAYS, 1)
    issuing = ca_certificate(_name(name, "Issuing CA"), issuing_key, ISSUING_DAYS, 0)
    profile = replace(CMP_SIGNER, validity_days=SIGNER_DAYS)
    issuer = Issuer(issuing, (root,), issuing_key, profile, secrets.token_bytes)
    signer = issuer.certify(_template(_name(name, "CMP").public_bytes(), cmp_key), now)
    _write(directory / "root", (root,), root_key, password)
    _write(directory / "issuing", (issuing,), issuing_key, password)
    _write(directory / "cmp", (signer,), cmp_key, password)


def issue_ra_certificate(
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
) -> Certificate:
    """Make an RA's key and certificate: STEM.pem (with the issuing CA's behind it) and STEM.key.

    Args:
        directory: The CA's.
        subject: RFC 4514 string, for example "CN=ra1,O=Example Operator".
        target: Directory for the files, by default the CA's.
        ca_password: Of the CA's keys; `password` encrypts the RA's.

    Raises:
        ConfigError: The CA cannot be loaded, the subject is no name, or a file exists already.
    """
    make_key = _key_maker(key_kind)
    path = (target or directory) / stem
    _require_absent((Path(f"{path}.pem"), Path(f"{path}.key")))
    profile = replace(RA, validity_days=validity_days)
    material = load_ca(directory, profile=profile, password=ca_password)
    try:
        subject_der = from_rfc4514(subject)
    except ValueError as error:
        raise _problem(
            "subject", f"{subject!r} is no name: {error}", "Write it like CN=ra1,O=Operator"
        ) from error
    key = make_key()
    certificate = material.issuer.certify(_template(subject_der, key), now)
    _write(path, (certificate, material.issuer.certificate), key, password)
    return certificate


def load_ca(
    directory: Path,
    *,
    profile: Profile,
    password: bytes | None = None,
    random_octets: Callable[[int], bytes] = secrets.token_bytes,
) -> CAMaterial:
    """Load a CA from its directory; root.key is not needed.

    Args:
        profile: What is issued.
        password: Of both keys.

    Raises:
        ConfigError: A file is missing or cannot be used, or they do not belong together.
    """
    root = _only(directory / "root.pem", f"{SETTING}.directory_path")
    issuing = _only(directory / "issuing.pem", f"{SETTING}.directory_path")
    key = load_private_key(directory / "issuing.key", password, f"{SETTING}.directory_path")
    credential = load_credential(
        directory / "cmp.pem",
        directory / "cmp.key",
        chain_paths=(directory / "issuing.pem",),
        password=password,
        setting=SETTING,
    )
    if credential.certificate.spki_der == issuing.spki_der:
        raise _problem(
            f"{SETTING}.directory_path",
            "cmp.key is the issuing CA's key",
            "Make a key of its own for CMP messages (RFC 9810 8.6)",
        )
    for certificate, issuer in ((issuing, root), (credential.certificate, issuing)):
        if not _issued_by(certificate, issuer):
            raise _problem(
                f"{SETTING}.directory_path",
                f"{certificate.subject} was not issued by {issuer.subject}",
                "Put files of one CA together, as `ra-gateway ca create` makes them",
            )
    issuer_ = Issuer(issuing, (root,), key, profile, random_octets)
    return CAMaterial(root, issuer_, credential)


def _issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    try:
        certificate.verify_issued_by(issuer)
    except (InvalidSignature, CMPError):
        return False
    return certificate.issuer_der == issuer.subject_der


def _only(path: Path, setting: str) -> Certificate:
    certificates = load_certificates(path, setting)
    if len(certificates) != 1:
        raise _problem(setting, f"{path} has {len(certificates)} certificates", "Leave one in it")
    return certificates[0]


def _key_maker(kind: str) -> Callable[[], Any]:
    try:
        return KEY_KINDS[kind]
    except KeyError:
        raise _problem(
            "key_kind", f"{kind!r} is no kind of key", f"Choose one of {', '.join(KEY_KINDS)}"
        ) from None


def _name(organization: str, role: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{organization} {role}"),
        ]
    )


def _template(subject_der: bytes, key: Any) -> CertTemplate:
    return CertTemplate(subject_der=subject_der, spki_der=spki_der(key))


def _require_absent(paths: Iterable[Path]) -> None:
    problems = [
        Problem(
            str(path), "exists already", "Move it away, or choose another directory or file name"
        )
        for path in paths
        if path.exists()
    ]
    if problems:
        raise ConfigError(problems)


def _write(
    path: Path, certificates: Iterable[Certificate], key: Any, password: bytes | None
) -> None:
    try:
        write_private_key(Path(f"{path}.key"), key, password)
        write_certificates(Path(f"{path}.pem"), certificates)
    except OSError as error:
        raise _problem(
            str(path.parent),
            f"{error.filename or path} cannot be written: {error.strerror}",
            "Choose a directory that can be written to",
        ) from error


def _problem(path: str, what: str, todo: str) -> ConfigError:
    return ConfigError([Problem(path, what, todo)])
