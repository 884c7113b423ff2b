"""Changing the keys of a CA that is in use: its issuing CA, its root, its signers.

Each is one `files.changing`: all or nothing, and repeated if it was interrupted. Whoever serves the CA loads it
anew afterwards; what was issued before stays valid.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ra_gateway.ca.files import SETTING, CAFiles, Change, changing
from ra_gateway.ca.hierarchy import (
    ISSUING_DAYS,
    OPTIONAL_SIGNERS,
    ROOT_DAYS,
    SIGNERS,
    SignerNames,
    as_config_error,
    ca_extensions,
    certify_anew,
    certify_ca,
    kind_of,
    parse_subject,
    require_kind,
    signer_subject,
    successor_subject,
)
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.keys import (
    certificate_of,
    commit_checked,
    load_issuer,
    load_unchecked,
    make_signer,
    roots_of,
)
from ra_gateway.ca.profiles import CLOCK_SKEW
from ra_gateway.ca.root_record import (
    looks,
    own_certificates,
    peers_certificates,
    require_not_a_peers,
    require_unrevoked,
)
from ra_gateway.cmp.algorithms import load_public_key
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import ConfigError
from ra_gateway.keys import load_certificates, load_private_key, require_private_key, spki_der
from ra_gateway.owners import as_ourselves


async def roll_issuing(
    directory: Path,
    *,
    now: datetime,
    password: bytes | None = None,
    root_key_path: Path | None = None,
    root_password: bytes | None = None,
    subject: str | None = None,
    key_kind: str | None = None,
    key_uris: Mapping[str, str] | None = None,
) -> Certificate:
    """Make a new issuing CA below the root, with CMP and OCSP signers of its own; the old one goes to retired/N/.

    Args:
        now: Aware UTC.
        password: Of the keys in files, the old and the new ones.
        root_key_path: By default root.key in the directory.
        root_password: Of the root's key, if it is another one.
        subject: Of the new issuing CA (RFC 4514); by default the old one's with " G2", " G3"... at its CN, the first
            that nobody has below the root.
        key_kind: By default that of the old issuing CA, for all three keys.
        key_uris: "issuing", "cmp", "ocsp" to the URI of a key to be made in an HSM.

    Returns:
        The certificate of the new issuing CA.

    Raises:
        ConfigError: The CA or the root's key cannot be loaded, the root cannot have a CA below it or has expired,
            or files cannot be written; all is as it was.
    """
    with changing(
        directory, "roll-issuing", archive="retired", key_uris=key_uris, password=password
    ) as change:
        if change is None:
            return _active(directory)
        files = change.files
        old = load_unchecked(files, now, password)
        root, issuing = old.root, old.issuers[0].certificate
        require_living(root, now)
        path_length = root.basic_constraints[1]
        if path_length is not None and path_length < 1:
            raise ConfigError.of(
                SETTING,
                f"the root {root.subject} allows no CA below it (pathLenConstraint 0)",
                "Import an issuing CA of another root into another directory",
            )
        root_key = load_root_key(files, root, password, root_key_path, root_password)
        subject_der = _successor(change, issuing) if subject is None else parse_subject(subject)
        _require_new_name(files, subject_der)
        kind = kind_of(issuing) if key_kind is None else require_kind(key_kind)
        key = change.new_key("issuing", kind)
        with as_config_error(str(files.path)):
            certificate = certify_ca(
                subject_der,
                spki_der(key),
                root,
                root_key,
                not_before=max(now - CLOCK_SKEW, root.not_before),
                not_after=min(now + timedelta(days=ISSUING_DAYS), root.not_after),
                extensions=ca_extensions(0, issuing),
            )
        if issuing.spki_der == root.spki_der and not files.has("root.key"):
            # It issued itself so far; the next rollover finds its key where a root's belongs.
            change.import_key("root", files.find("issuing.key"), root_key)
        change.write("issuing", (certificate,))
        issuer = Issuer(certificate, (root,), key, secrets.token_bytes)
        for role in _signers(files):
            signer_der = signer_subject(certificate, role)
            require_not_a_peers(files, signer_der)
            names = _signer_names(files, role)
            await make_signer(change, role, issuer, signer_der, kind, now, names)
        commit_checked(change, now)
    return _active(directory)


def roll_root(
    directory: Path,
    *,
    now: datetime,
    password: bytes | None = None,
    root_key_path: Path | None = None,
    root_password: bytes | None = None,
    key_kind: str | None = None,
    key_uris: Mapping[str, str] | None = None,
) -> Certificate:
    """Make a new root of the same name, cross certificates, and certify the issuing CA anew (RFC 9810 4.4).

    The issuing CA keeps key, name and end of validity; `roll_issuing` gives it a longer one. The new root's key is
    root.key in the directory; the old one, if it was there, goes to retired-roots/N/ with all that is replaced.

    Args:
        now: Aware UTC.
        password: Of the keys in files.
        root_key_path: Of the old root; by default root.key in the directory.
        root_password: Of the root's key, the old and the new one, if it is another one.
        key_kind: By default that of the old root.
        key_uris: "root" to the URI of a key to be made in an HSM.

    Returns:
        The certificate of the new root.

    Raises:
        ConfigError: As `roll_issuing`; or the root issues itself, without an issuing CA, or has revoked that.
    """
    with changing(
        directory, "roll-root", archive="retired-roots", key_uris=key_uris, password=password
    ) as change:
        if change is None:
            return certificate_of(CAFiles(directory), "root")
        files = change.files
        keys = load_unchecked(files, now, password)
        old, issuing = keys.root, keys.issuers[0].certificate
        if issuing.spki_der == old.spki_der:
            raise ConfigError.of(
                SETTING,
                f"the root {old.subject} issues itself, there is no issuing CA to be certified anew",
                f"First run: ra-gateway ca roll-issuing {files.path}",
            )
        require_living(old, now)
        require_living(issuing, now)
        require_unrevoked(files, old, (issuing,))
        old_key = load_root_key(files, old, password, root_key_path, root_password)
        kind = kind_of(old) if key_kind is None else require_kind(key_kind)
        key = change.new_key("root", kind, root_password)
        start = now - CLOCK_SKEW
        with as_config_error(str(files.path)):
            new = certify_ca(
                old.subject_der,
                spki_der(key),
                None,
                key,
                not_before=start,
                not_after=now + timedelta(days=ROOT_DAYS),
                extensions=old.extensions,
            )
            # Until the old one expires: whoever trusts it alone needs it no longer than that.
            new_with_old = certify_anew(new, old, old_key, start, old.not_after)
            old_with_new = certify_anew(old, new, key, old.not_before, old.not_after)
            anew = certify_anew(issuing, new, key, start, min(issuing.not_after, new.not_after))
        for name, certificate in (
            ("root", new),
            ("old-root", old),
            ("root-new-with-old", new_with_old),
            ("root-old-with-new", old_with_new),
            ("issuing", anew),
        ):
            change.write(name, (certificate,))
        commit_checked(change, now)
    return new


async def renew_signers(
    directory: Path,
    *,
    now: datetime,
    password: bytes | None = None,
    within_days: int | None = None,
    key_kind: str | None = None,
    key_uris: Mapping[str, str] | None = None,
    key_generation: bool = False,
    cmp_names: SignerNames = SignerNames(),  # noqa: B008 - it cannot change
) -> tuple[str, ...]:
    """Make new CMP and OCSP signers; the old ones go to retired-signers/N/.

    Args:
        now: Aware UTC.
        password: Of the keys in files.
        within_days: Only those that expire so soon, or are missing; None for all. Retired issuing CAs' OCSP signers
            are renewed too.
        key_kind: By default that of the issuing CA in question.
        key_uris: "cmp", "ocsp", "retired/1/ocsp"... to the URI of a key to be made in an HSM.
        key_generation: A key generation authority too, where there is none yet; one that there is, is always
            renewed with the others.
        cmp_names: What the CMP signer's certificate is to say from now on, and is made for in any case; what is not
            given stays as it is.

    Returns:
        Names of the certificate files that were made, such as "cmp.pem"; empty if none was due.

    Raises:
        ConfigError: An issuing CA cannot be loaded, has expired or was revoked, or files cannot be written.
    """
    with changing(
        directory, "renew-signers", archive="retired-signers", key_uris=key_uris, password=password
    ) as change:
        if change is None:
            return ()
        wanted = {*_signers(change.files), *(OPTIONAL_SIGNERS if key_generation else ())}
        due = _due(change.files, now, within_days, sorted(wanted))
        if cmp_names != SignerNames() and "cmp" not in due:
            due.append("cmp")
        roots = roots_of(change.files)
        for name in due:
            prefix = name.removesuffix(name.rpartition("/")[2])
            issuer = load_issuer(change.files, prefix, roots, password)
            if not prefix:
                require_unrevoked(change.files, roots[0], (issuer.certificate, *issuer.chain))
            subject_der = _signer_subject(change.files, name, issuer.certificate)
            require_not_a_peers(change.files, subject_der)
            kind = kind_of(issuer.certificate) if key_kind is None else require_kind(key_kind)
            names = _signer_names(change.files, name)
            if name == "cmp":
                names = SignerNames(
                    cmp_names.san_der or names.san_der, cmp_names.crl_urls or names.crl_urls
                )
            await make_signer(change, name, issuer, subject_der, kind, now, names)
        if due:
            commit_checked(change, now)
        return tuple(f"{name}.pem" for name in due)


def _names(files: CAFiles) -> list[bytes]:
    return [item.subject_der for item in own_certificates(files)]


def _require_new_name(files: CAFiles, subject_der: bytes) -> None:
    if looks(subject_der) in map(looks, _names(files)):
        raise ConfigError.of(
            "subject",
            "an issuing CA, the root or one of their signers has this name already",
            "Give another one: CRLs of two keys must not be mistaken for each other",
        )
    require_not_a_peers(files, subject_der)


def _successor(change: Change, issuing: Certificate) -> bytes:
    peers = (item.subject_der for _, item in peers_certificates(change.files))
    taken = [looks(name) for name in (*_names(change.files), *peers)]
    generation = int(change.archive.rpartition("/")[2]) + 1
    while looks(successor_subject(issuing, generation)) in taken:
        generation += 1
    return successor_subject(issuing, generation)


def _signers(files: CAFiles) -> list[str]:
    """Return the names of the signers that an issuing CA has, or its successor has to have."""
    return [*SIGNERS, *(name for name in OPTIONAL_SIGNERS if files.has(f"{name}.pem"))]


def _due(
    files: CAFiles, now: datetime, within_days: int | None, signers: Sequence[str]
) -> list[str]:
    names = list(signers)
    for name in files.numbered("retired"):
        if now <= load_certificates(files.find(f"{name}/issuing.pem"), SETTING)[0].not_after:
            names.append(f"{name}/ocsp")
    if within_days is None:
        return names
    end = now + timedelta(days=within_days)
    return [
        name
        for name in names
        if not (files.has(f"{name}.pem") and files.has(f"{name}.key"))
        or certificate_of(files, name).not_after <= end
    ]


def _signer_subject(files: CAFiles, name: str, issuing: Certificate) -> bytes:
    if files.has(f"{name}.pem"):
        return certificate_of(files, name).subject_der
    return signer_subject(issuing, name.rpartition("/")[2])


def _signer_names(files: CAFiles, name: str) -> SignerNames:
    return (
        SignerNames.of(certificate_of(files, name)) if files.has(f"{name}.pem") else SignerNames()
    )


def load_root_key(
    files: CAFiles,
    root: Certificate,
    password: bytes | None,
    root_key_path: Path | None,
    root_password: bytes | None,
) -> Any:
    """Return the root's private key.

    Raises:
        ConfigError: It cannot be loaded, or is another one's.
    """
    path = root_key_path or files.find("root.key")
    if root_key_path is None and not path.exists():
        issuing_key_path = files.find("issuing.key")
        if _active(files.path).spki_der != root.spki_der:
            raise ConfigError.of(
                "root key",
                f"{path} is not there, and the root's key is needed",
                "Fetch it from where it is kept, or give the path of its file",
            )
        path, root_password = issuing_key_path, None  # a root that issues itself
    with as_ourselves():  # it may be root's, or somewhere where its user may not look
        key = load_private_key(path, root_password or password, "root key")
        require_private_key(path, "root key")
    if key.public_key() != load_public_key(root.spki_der):
        raise ConfigError.of(
            "root key", f"{path} is not the key of {root.subject}", "Give the key of root.pem"
        )
    return key


def _active(directory: Path) -> Certificate:
    return load_certificates(CAFiles(directory).find("issuing.pem"), SETTING)[0]


def require_living(certificate: Certificate, now: datetime) -> None:
    if not certificate.valid_at(now):
        raise ConfigError.of(
            SETTING,
            f"the certificate of {certificate.subject} is not valid now",
            "Check the clock; if it is right, make a new CA in another directory",
        )
