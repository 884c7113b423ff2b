"""Keys and certificates of the bundled CA as files: made or imported once, loaded at every start.

    root.pem, root.key          the root; its key is needed only for a rollover, keep it elsewhere
    issuing.pem, issuing.key    the issuing CA: signs certificates and CRLs and nothing else; CAs between it and
                                the root stand behind it in issuing.pem
    cmp.pem, cmp.key            signs the CA's CMP messages (RFC 9810 8.6: a key of its own)
    ocsp.pem, ocsp.key          signs the issuing CA's OCSP answers
    kga.pem, kga.key            signs the keys that the CA makes for devices, if it does (RFC 9483 4.1.6)
    retired/N/                  issuing CAs of before, with what signed for them: their CRLs and OCSP answers go
                                on until their own certificates expire
    old-root.pem, root-new-with-old.pem, root-old-with-new.pem
                                after a change of the root: from the old one to the new (RFC 9810 4.4)
    retired-roots/N/, retired-signers/N/
                                what else was replaced; nothing is deleted

A key file may name a key in an HSM. These few certificates are not in the ledger: it holds what was issued on
request. `rollover` changes what is made here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from ra_gateway.ca.files import SETTING, CAFiles, Change, changing, require_absent
from ra_gateway.ca.hierarchy import (
    ISSUING_DAYS,
    KGA,
    OPTIONAL_SIGNERS,
    ROOT_DAYS,
    SIGNERS,
    SignerNames,
    as_config_error,
    ca_extensions,
    ca_subject,
    certify_ca,
    certify_signer,
    issued_by,
    kind_of,
    parse_subject,
    require_kind,
    signer_subject,
)
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.profiles import CLOCK_SKEW
from ra_gateway.ca.records import RootUpdate
from ra_gateway.ca.root_record import (
    cross_certificates,
    require_unrevoked,
    revoked_by_root,
    root_crl,
)
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.names import canonical
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import CMPError, ConfigError, Problem
from ra_gateway.keys import (
    load_certificates,
    load_private_key,
    make_credential,
    require_private,
    require_private_key,
    spki_der,
)

ISSUING: Final = "issuing.pem"

_ROOT_UPDATE: Final = ("old-root", "root-new-with-old", "root-old-with-new")

_READINGS: Final = 20
"""How often a directory is read anew because it changed meanwhile; a change takes a few milliseconds."""


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class CAKeys:
    """The keys of a bundled CA with their certificates, and its roots.

    Args:
        root: Anchor of the operator's trust domain.
        issuers: The active issuing CA, then the retired ones that have not expired, newest first.
        credential: Signs CMP messages.
        ocsp: Signs OCSP answers; by `Issuer.id`, for all of `issuers`.
        root_update: The last change of the root, None before the first.
        old_root: The root before `root`; trusted as well until it expires.
        key_generation: Signs the keys that the CA makes for devices; None for a CA that makes none.
    """

    root: Certificate
    issuers: tuple[Issuer, ...]
    credential: Credential
    ocsp: Mapping[str, Credential]
    root_update: RootUpdate | None = None
    old_root: Certificate | None = None
    key_generation: Credential | None = None


class Expiry(NamedTuple):
    """When a certificate in use expires.

    Args:
        file: Name relative to the CA's directory.
        not_after: Aware UTC.
        revoked: By the root: it has ended already.
    """

    file: str
    subject: str
    not_after: datetime
    revoked: bool = False


# --- Made -------------------------------------------------------------------------------------------------------


async def create_operator_pki(
    directory: Path,
    *,
    now: datetime,
    name: str = "Example Operator",
    key_kind: str = "p256",
    password: bytes | None = None,
    key_uris: Mapping[str, str] | None = None,
    subjects: Mapping[str, str] = MappingProxyType({}),
    cmp_names: SignerNames = SignerNames(),  # noqa: B008 - it cannot change
) -> None:
    """Make root, issuing CA, CMP signer and OCSP signer in a directory, which is made if need be.

    Args:
        now: Aware UTC; validity begins a little earlier.
        name: Organisation in all subjects but those of `subjects`.
        key_kind: Out of `ra_gateway.keys.KEY_KINDS`, for all keys.
        password: Encrypts the keys that are in files.
        key_uris: "root", "issuing", "cmp", "ocsp" to the URI of a key to be made in an HSM; the others are files.
        subjects: "root", "issuing", "cmp", "ocsp" to a subject, RFC 4514.
        cmp_names: Further names of the CMP signer.

    Raises:
        ConfigError: One of the files exists already (none is touched then), or cannot be written.
    """
    require_kind(key_kind)

    def subject(role: str, usual: str) -> bytes:
        return parse_subject(subjects[role]) if role in subjects else ca_subject(name, usual)

    names = {
        "root": subject("root", "Root CA"),
        "issuing": subject("issuing", "Issuing CA"),
        **{role: subject(role, role.upper()) for role in SIGNERS},
    }
    if len({canonical(item) for item in names.values()}) != len(names):
        raise ConfigError.of(
            "subject", "two of them are the same", "Give root, issuing CA and signers other names"
        )
    with changing(directory, "create", key_uris=key_uris, password=password) as change:
        if change is None:
            return
        _require_no_ca(change)
        root_key = change.new_key("root", key_kind)
        issuing_key = change.new_key("issuing", key_kind)
        with as_config_error(str(directory)):
            root = certify_ca(
                names["root"],
                spki_der(root_key),
                None,
                root_key,
                not_before=now - CLOCK_SKEW,
                not_after=now + timedelta(days=ROOT_DAYS),
                extensions=ca_extensions(1),
            )
            issuing = certify_ca(
                names["issuing"],
                spki_der(issuing_key),
                root,
                root_key,
                not_before=now - CLOCK_SKEW,
                not_after=min(now + timedelta(days=ISSUING_DAYS), root.not_after),
                extensions=ca_extensions(0),
            )
        change.write("root", (root,))
        change.write("issuing", (issuing,))
        issuer = Issuer(issuing, (root,), issuing_key, secrets.token_bytes)
        for role in SIGNERS:
            of_signer = cmp_names if role == "cmp" else SignerNames()
            await make_signer(change, role, issuer, names[role], key_kind, now, of_signer)
        commit_checked(change, now)


async def import_ca(
    directory: Path,
    *,
    now: datetime,
    certificate_path: Path,
    key_path: Path,
    chain_paths: tuple[Path, ...] = (),
    key_password: bytes | None = None,
    password: bytes | None = None,
    key_kind: str | None = None,
    key_uris: Mapping[str, str] | None = None,
) -> None:
    """Make a directory of a CA that exists: an issuing CA, or a root that issues itself.

    Args:
        now: Aware UTC.
        certificate_path: The CA's certificate, PEM; more behind it count as chain.
        key_path: Its key: PKCS#8 PEM, or the name of a key in an HSM, which stays there.
        chain_paths: PEM files with the certificates up to and including the root, in any order.
        key_password: Of `key_path`; `password` encrypts what is written.
        key_kind: Of the keys of CMP and OCSP signer; by default that of the CA.
        key_uris: "cmp", "ocsp" to the URI of a key to be made in an HSM.

    Raises:
        ConfigError: They are not a CA that can issue now, there is no way to a root, or there is a CA already.
    """
    certificates = load_certificates(certificate_path, "certificate")
    for path in chain_paths:
        certificates += load_certificates(path, "chain")
    issuing, others = certificates[0], certificates[1:]
    key = load_private_key(key_path, key_password, "key")
    require_private_key(key_path, "key")
    _require_usable(issuing, now)
    issuer = Issuer(issuing, (), key, secrets.token_bytes)
    kind = kind_of(issuing) if key_kind is None else require_kind(key_kind)
    with changing(directory, "import", key_uris=key_uris, password=password) as change:
        if change is None:
            return
        _require_no_ca(change)
        change.import_key("issuing", key_path, key)
        for role in SIGNERS:
            signer = await make_signer(
                change, role, issuer, signer_subject(issuing, role), kind, now
            )
        root, chain = _way_to_root(signer, issuing, others, now)
        change.write("root", (root,))
        change.write("issuing", chain)
        commit_checked(change, now)


def _require_usable(issuing: Certificate, now: datetime) -> None:
    usage = issuing.key_usage or frozenset()
    wrong = ""
    if not issuing.is_ca:
        wrong = "is not a CA's (basicConstraints)"
    elif not usage >= {KeyUsage.keyCertSign, KeyUsage.cRLSign}:
        wrong = "does not allow to sign certificates and CRLs (keyUsage)"
    elif not issuing.valid_at(now):
        wrong = f"is {_period(issuing)}"
    if wrong:
        raise ConfigError.of(
            "certificate",
            f"the certificate of {issuing.subject} {wrong}",
            "Give the certificate of the CA that shall issue",
        )


def _way_to_root(
    signer: Certificate, issuing: Certificate, others: tuple[Certificate, ...], now: datetime
) -> tuple[Certificate, tuple[Certificate, ...]]:
    """Return the root, and what belongs into issuing.pem."""
    # Another certificate of the same key would be another CA to those who compare octets.
    bag = (issuing, *(item for item in others if item.spki_der != issuing.spki_der))
    roots = tuple(item for item in bag if issued_by(item, item))
    domain = TrustDomain("imported", DomainKind.operator, roots)
    try:
        # From a certificate below it: so pathLenConstraint counts the issuing CA too.
        path = domain.find_path(signer, bag, now)
    except CMPError as error:
        raise ConfigError.of(
            "chain",
            f"there is no way from {issuing.subject} to a root: {error.detail}",
            "Give the certificates of all CAs above it, the self-signed root included",
        ) from error
    return path[-1], path[1:-1] or path[1:]


async def make_signer(
    change: Change,
    name: str,
    issuer: Issuer,
    subject_der: bytes,
    key_kind: str,
    now: datetime,
    names: SignerNames = SignerNames(),  # noqa: B008 - it cannot change
) -> Certificate:
    """Make a signer of an issuing CA: for CMP, for OCSP, or a key generation authority.

    Args:
        name: Of its files, without suffix: "cmp", or "retired/1/ocsp".
        names: Further names in it.

    Raises:
        ConfigError: It cannot be made.
    """
    key = change.new_key(name, key_kind)
    role = name.rpartition("/")[2]
    profile = SIGNERS.get(role) or OPTIONAL_SIGNERS[role]
    certificate = await certify_signer(issuer, profile, subject_der, key, now, names)
    change.write(name, (certificate,))
    return certificate


def commit_checked(change: Change, now: datetime) -> None:
    """Commit a change, if its files load as a CA.

    Raises:
        ConfigError: It is not, or cannot be written.
    """
    change.keep()
    load_unchecked(change.result, now, change.password)
    change.commit()


def _require_no_ca(change: Change) -> None:
    stems, suffixes = ("root", "issuing", *SIGNERS), ("pem", "key")
    require_absent(change.files.path / f"{stem}.{suffix}" for stem in stems for suffix in suffixes)


# --- Loaded -----------------------------------------------------------------------------------------------------


def load_ca(
    directory: Path,
    *,
    now: datetime,
    password: bytes | None = None,
) -> CAKeys:
    """Load a CA from its directory, also while it is being changed; root.key is not needed.

    Args:
        now: Aware UTC; retired issuing CAs that have expired are left out.
        password: Of all keys that are in files.

    Raises:
        ConfigError: A file is missing or cannot be used, they do not belong together, what is in use expired, or the
            root revoked it.
    """

    def read(files: CAFiles) -> CAKeys:
        keys = load_unchecked(files, now, password)
        _require_valid(keys, directory, now)
        active = keys.issuers[0]
        require_unrevoked(files, keys.root, (active.certificate, *active.chain))
        return keys

    return _undisturbed(directory, read)


def issuing_certificates(directory: Path) -> dict[str, Certificate]:
    """Return all issuing CAs, also those that have expired, by key identifier in hex.

    Raises:
        ConfigError: A file cannot be read, or holds none.
    """
    files = CAFiles(directory)
    names = ["issuing.pem", *(f"{name}/issuing.pem" for name in files.numbered("retired"))]
    found = [load_certificates(files.find(name), SETTING)[0] for name in names]
    return {(item.subject_key_identifier or b"").hex(): item for item in reversed(found)}


def retired_certificates(directory: Path) -> tuple[Certificate, ...]:
    """Return the certificates of what was replaced in a CA's directory: issuing CAs, roots and signers.

    Raises:
        ConfigError: A file cannot be read, or holds none.
    """
    return tuple(
        certificate
        for path in sorted(directory.glob("retired*/**/*.pem"))
        for certificate in load_certificates(path, str(path))
    )


def _undisturbed(directory: Path, read: Callable[[CAFiles], Result]) -> Result:
    """Return what was read of a directory while nobody changed it; otherwise it is read again."""
    for _ in range(_READINGS):
        files = CAFiles(directory)
        before = files.state()
        try:
            result = read(files)
        except ConfigError:
            if files.state() == before:
                raise
        else:
            if files.state() == before:
                return result
    raise ConfigError.of(SETTING, f"{directory} changes all the time", "Find out what writes there")


def load_unchecked(files: CAFiles, now: datetime, password: bytes | None) -> CAKeys:
    """Load a CA in order to change it: what is in use may have expired.

    Raises:
        ConfigError: As `load_ca`.
    """
    roots = roots_of(files)
    root = roots[0]
    active = load_issuer(files, "", roots, password)
    issuers, ocsp = [active], {active.id: _signer(files, "ocsp", active, password)}
    credential = _signer(files, "cmp", active, password)
    for name in files.numbered("retired"):
        if now > load_certificates(files.find(f"{name}/issuing.pem"), SETTING)[0].not_after:
            continue  # nothing it issued is valid any more, and its key may be gone
        issuer = load_issuer(files, f"{name}/", roots, password)
        issuers.append(issuer)
        ocsp[issuer.id] = _signer(files, f"{name}/ocsp", issuer, password)
    key_generation = None
    if any(files.has(f"{KGA}.{suffix}") for suffix in ("pem", "key")):
        key_generation = _signer(files, KGA, active, password)
    _require_keys_apart(active, credential, ocsp, key_generation)
    update = _root_update(files, root)
    old_root = None if update is None else Certificate.from_der(update.old_root)
    return CAKeys(root, tuple(issuers), credential, ocsp, update, old_root, key_generation)


def roots_of(files: CAFiles) -> tuple[Certificate, ...]:
    """Return the root and those before it, newest first.

    Raises:
        ConfigError: A file cannot be read.
    """
    old = (f"{name}/root" for name in files.numbered("retired-roots"))
    names = ("root", *(name for name in old if files.has(f"{name}.pem")))
    return tuple(certificate_of(files, name) for name in names)


def load_issuer(
    files: CAFiles,
    prefix: str,
    roots: tuple[Certificate, ...],
    password: bytes | None,
) -> Issuer:
    """Load an issuing CA.

    Args:
        prefix: "" for the active one, "retired/1/" for another.
        roots: The root and those before it.

    Raises:
        ConfigError: Its files cannot be used, or none of the roots is above it.
    """
    certificates = load_certificates(files.find(f"{prefix}issuing.pem"), SETTING)
    for certificate, issuer in pairwise(certificates):
        require_issued_by(certificate, issuer)
    chain = certificates[1:]
    if certificates[-1] not in roots:
        root = next((item for item in roots if issued_by(certificates[-1], item)), None)
        if root is None:
            require_issued_by(certificates[-1], roots[0])
        else:
            chain += (root,)
    key = _key(files, f"{prefix}issuing.key", password)
    return Issuer(certificates[0], chain, key, secrets.token_bytes)


def _key(files: CAFiles, name: str, password: bytes | None) -> Any:
    path = files.find(name)
    require_private(path, SETTING)
    return load_private_key(path, password, SETTING)


def _signer(files: CAFiles, name: str, issuer: Issuer, password: bytes | None) -> Credential:
    if not (files.has(f"{name}.pem") and files.has(f"{name}.key")):
        raise ConfigError.of(
            SETTING,
            f"{files.path / name}.pem and .key are not both there"
            + ("; older versions made no OCSP signer" if name.endswith("ocsp") else ""),
            f"Run: ra-gateway ca renew-signers {files.path}",
        )
    certificate = certificate_of(files, name)
    require_issued_by(certificate, issuer.certificate)
    if name.endswith("ocsp") and OID.ocspSigning not in certificate.extended_key_usage:
        raise ConfigError.of(
            SETTING,
            f"{certificate.subject} may not sign OCSP answers (extKeyUsage)",
            f"Move {name}.pem and {name}.key away and run: ra-gateway ca renew-signers {files.path}",
        )
    if name == KGA and OID.cmKGA not in certificate.extended_key_usage:
        raise ConfigError.of(
            SETTING,
            f"{certificate.subject} may not sign keys made for devices (extKeyUsage lacks cmKGA)",
            f"Move {name}.pem and {name}.key away and run: "
            f"ra-gateway ca renew-signers --key-generation {files.path}",
        )
    chain = (issuer.certificate, *issuer.chain)
    key = _key(files, f"{name}.key", password)
    return make_credential(
        certificate, tuple(item for item in chain if not item.self_issued), key, SETTING
    )


def _require_keys_apart(
    active: Issuer,
    credential: Credential,
    ocsp: Mapping[str, Credential],
    key_generation: Credential | None,
) -> None:
    keys = {active.certificate.spki_der: "issuing.key"}
    for file, one in (
        ("cmp.key", credential),
        ("ocsp.key", ocsp[active.id]),
        (f"{KGA}.key", key_generation),
    ):
        if one is None:
            continue
        other = keys.setdefault(one.certificate.spki_der, file)
        if other != file:
            raise ConfigError.of(
                SETTING,
                f"{file} and {other} are the same key",
                "Make a key of its own for each signer (RFC 9810 8.6)",
            )


def _root_update(files: CAFiles, root: Certificate) -> RootUpdate | None:
    if not files.has("old-root.pem"):
        return None
    old, new_with_old, old_with_new = (certificate_of(files, name) for name in _ROOT_UPDATE)
    require_issued_by(new_with_old, old)
    require_issued_by(old_with_new, root)
    if (new_with_old.spki_der, old_with_new.spki_der) != (root.spki_der, old.spki_der):
        raise ConfigError.of(
            SETTING,
            "root-new-with-old.pem and root-old-with-new.pem are not for the keys of root.pem and old-root.pem",
            "Put files of one CA together, as `ra-gateway ca roll-root` makes them",
        )
    return RootUpdate(old.der, root.der, new_with_old.der, old_with_new.der)


def _require_valid(keys: CAKeys, directory: Path, now: datetime) -> None:
    active = keys.issuers[0]
    # Of a root that expired nothing can be made any more: nobody would trust the way to its successor.
    commands = {keys.root: "create"}
    for certificate in (active.certificate, *active.chain):
        commands.setdefault(certificate, "roll-issuing")
    signers = (keys.credential, *keys.ocsp.values(), keys.key_generation)
    for credential in filter(None, signers):
        commands[credential.certificate] = "renew-signers"
    problems = [
        Problem(
            SETTING,
            f"the certificate of {certificate.subject} is {_period(certificate)}",
            f"Check the clock; if it is right: ra-gateway ca {command}"
            + (" OTHER_DIRECTORY" if command == "create" else f" {directory}"),
        )
        for certificate, command in commands.items()
        if not certificate.valid_at(now)
    ]
    if problems:
        raise ConfigError(problems)


def _period(certificate: Certificate) -> str:
    form = "%Y-%m-%dT%H:%M:%SZ"
    return f"valid from {certificate.not_before:{form}} to {certificate.not_after:{form}} only"


def require_issued_by(certificate: Certificate, issuer: Certificate) -> None:
    """Make sure that one certificate was issued by another one's CA.

    Raises:
        ConfigError: It was not.
    """
    if not issued_by(certificate, issuer):
        raise ConfigError.of(
            SETTING,
            f"{certificate.subject} was not issued by {issuer.subject}",
            "Put files of one CA together, as `ra-gateway ca create` makes them",
        )


def certificate_of(files: CAFiles, name: str) -> Certificate:
    """Return the one certificate of NAME.pem.

    Raises:
        ConfigError: There is none, or more than one.
    """
    path = files.find(f"{name}.pem")
    certificates = load_certificates(path, SETTING)
    if len(certificates) != 1:
        raise ConfigError.of(
            SETTING, f"{path} has {len(certificates)} certificates", "Leave one in it"
        )
    return certificates[0]


# --- Shown ------------------------------------------------------------------------------------------------------


def root_ca_key_update(directory: Path) -> RootUpdate | None:
    """Return the last change of the root, None if there was none; no key is needed.

    Raises:
        ConfigError: Its files cannot be used.
    """
    return _undisturbed(directory, lambda files: _root_update(files, certificate_of(files, "root")))


def expiries(directory: Path) -> list[Expiry]:
    """Return when the certificates in use expire, the soonest first; no key is needed.

    Raises:
        ConfigError: A file cannot be read.
    """
    return _undisturbed(directory, _expiries)


def _expiries(files: CAFiles) -> list[Expiry]:
    names = ["root", "issuing", *SIGNERS, *OPTIONAL_SIGNERS, *_ROOT_UPDATE]
    for name in files.numbered("retired"):
        names += [f"{name}/issuing", f"{name}/ocsp"]
    held = {
        f"{name}.pem": load_certificates(files.find(f"{name}.pem"), SETTING)
        for name in names
        if files.has(f"{name}.pem")
    }
    root = held["root.pem"][0]
    found = [
        Expiry(name, item.subject, item.not_after, bool(revoked_by_root(files, root, (item,))))
        for name, items in held.items()
        for item in items
    ]
    crl = root_crl(files)
    # Whoever reads it refuses what the root signed from its nextUpdate on.
    if crl is not None and crl.content.next_update is not None:
        found.append(Expiry(crl.name, "CRL of the root", crl.content.next_update))
    newest = {item.spki_der: (name, item) for name, item in cross_certificates(files)}
    found += [Expiry(name, item.subject, item.not_after) for name, item in newest.values()]
    return sorted(found, key=lambda item: item.not_after)
