"""Cross certificates of the root for other operators' CAs, and the root's CRL (TS 33.310 5.2.1, 7.3).

The root's key is kept off the network, so that both are made by hand, as files of the CA's directory: a certificate
for each peer in `cross/SERIAL.pem`, and `root.crl`, which is with its copies the record of what was revoked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from ra_gateway.ca.clauses import require_key
from ra_gateway.ca.crl import CRLContent, encode_entries
from ra_gateway.ca.extensions import distribution_points
from ra_gateway.ca.files import SETTING, CAFiles, changing
from ra_gateway.ca.hierarchy import as_config_error, ca_extensions, certify_ca
from ra_gateway.ca.keys import certificate_of
from ra_gateway.ca.profiles import CLOCK_SKEW
from ra_gateway.ca.records import Reason, RevokedCertificate
from ra_gateway.ca.rollover import load_root_key, require_living
from ra_gateway.ca.root_record import (
    COPIES,
    CROSS,
    ROOT_CRL,
    cross_certificates,
    looks,
    own_certificates,
    peers_certificates,
    root_crl_names,
    signed_by,
)
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    AlgorithmPolicy,
    canonical_spki,
    default_algorithm,
    signing_arguments,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crl import CRL, open_crl, verify_crl
from ra_gateway.cmp.hosts import is_fqdn
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.requests import read_certification_request
from ra_gateway.cmp.x520 import require_certifiable
from ra_gateway.errors import CMPError, ConfigError, CRLRefused
from ra_gateway.files import read_bounded

_COMPROMISED: Final = (Reason.keyCompromise, Reason.cACompromise, Reason.aACompromise)


@dataclass(frozen=True, slots=True)
class RootKey:
    """How the root's key is had.

    Args:
        password: Of the keys in the directory.
        path: By default root.key in the directory.
        root_password: If it is another one.
    """

    password: bytes | None = None
    path: Path | None = None
    root_password: bytes | None = None

    def load(self, files: CAFiles, root: Certificate) -> Any:
        """Return the private key.

        Raises:
            ConfigError: It cannot be loaded, or is another one's.
        """
        return load_root_key(files, root, self.password, self.path, self.root_password)


def cross_certify(
    directory: Path,
    request_der: bytes,
    key: RootKey,
    *,
    now: datetime,
    days: int,
    crl_url: str,
    permitted: Iterable[str] = (),
    path_length: int = 0,
) -> tuple[Certificate, list[Certificate]]:
    """Certify another operator's CA by the root, from its PKCS #10.

    Args:
        now: Aware UTC.
        days: Validity; never beyond the root's.
        crl_url: Where `root.crl` is published (6.1.4: mandatory).
        permitted: What names alone that CA may certify: those below a DNS name ("dns:op2.example"), and subjects that
            begin with a Name ("dn:O=Op Two"); of a kind that is not there, all.
        path_length: How many CAs may follow it.

    Returns:
        The certificate, and those of the same key, or of a name that looks the same, that are valid as well.

    Raises:
        ConfigError: The root cannot do that, or not now; nothing was written.
        CMPError: The request is none, or not of a CA that can be certified.
    """
    template = read_certification_request(request_der, AlgorithmPolicy(), of_ca=True).template
    subject_der, spki_der = template.subject_der or NULL_DN, template.spki_der or b""
    require_certifiable(subject_der, None)
    with _changing(directory, "cross-sign") as (change, root):
        if subject_der == NULL_DN:
            raise ConfigError.of("request", "has no subject", "A CA needs a name")
        require_living(root, now)
        look, identity = looks(subject_der), canonical_spki(spki_der)
        _require_a_peers(change.files, look, identity, now)
        require_key(spki_der, root)
        allowed = root.basic_constraints[1]
        if allowed is not None and allowed <= path_length:
            raise ConfigError.of(
                SETTING,
                f"the root {root.subject} allows {allowed} CAs below it (pathLenConstraint)",
                "Choose a smaller --path-length",
            )
        extensions = ca_extensions(path_length)
        extensions[OID.cRLDistributionPoints] = (False, distribution_points(crl_url))
        names = [_subtree(name) for name in permitted]
        if names:
            constraints = x509.NameConstraints(names, None)
            extensions[OID.nameConstraints] = (True, constraints.public_bytes())
        with as_config_error(str(directory)):
            certificate = certify_ca(
                subject_der,
                spki_der,
                root,
                key.load(change.files, root),
                not_before=max(now - CLOCK_SKEW, root.not_before),
                not_after=min(now + timedelta(days=days), root.not_after),
                extensions=extensions,
            )
        living = [
            item
            for _, item in cross_certificates(change.files)
            if item.not_after >= now
            and (canonical_spki(item.spki_der) == identity or looks(item.subject_der) == look)
        ]
        change.write(f"{CROSS}/{certificate.serial_number:x}", (certificate,))
        change.commit()
    return certificate, living


def _require_a_peers(
    files: CAFiles, look: list[tuple[str, str]], identity: bytes, now: datetime
) -> None:
    """Refuse a name or a key of ours, and a key of a peer's that was compromised.

    Args:
        look, identity: What `looks` says of the name, and `canonical_spki` of the key.
    """
    for own in own_certificates(files):
        if look == looks(own.subject_der) or identity == canonical_spki(own.spki_der):
            raise ConfigError.of(
                "request",
                f"has the name or the key of {own.subject}, or a name that looks like it",
                "Ask the peer again",
            )
    _, revoked = _listed(files, root_crl_names(files), now)
    for name, item in peers_certificates(files):
        entry = revoked.get(item.serial_number)
        if entry and entry.reason in _COMPROMISED and canonical_spki(item.spki_der) == identity:
            raise ConfigError.of(
                "request",
                f"has the key of {name}, revoked for {entry.reason.name}",
                "Ask the peer for one with another key",
            )


def _subtree(text: str) -> x509.GeneralName:
    kind, separator, value = text.partition(":")
    if kind == "dn":
        try:
            return x509.DirectoryName(x509.Name.from_rfc4514_string(value))
        except ValueError as error:
            raise ConfigError.of(
                "--permit", f"{text} is no Name: {error}", "dn:O=Op Two"
            ) from error
    name = (value if separator else text).removeprefix(".").lower()
    if (separator and kind != "dns") or not is_fqdn(name):
        raise ConfigError.of(
            "--permit", f"{text} is no DNS name", "Write it like op2.example, or dn:O=Op Two"
        )
    return x509.DNSName(name)


def make_root_crl(
    directory: Path,
    key: RootKey,
    *,
    now: datetime,
    days: int,
    revoke: Mapping[int, Reason],
    first: bool = False,
    unknown: bool = False,
) -> tuple[int, datetime, int]:
    """Make the root's CRL anew, with what it listed and what is revoked now.

    Args:
        now: Aware UTC.
        days: Until nextUpdate.
        revoke: Serial numbers of certificates that the root signed.
        unknown: Also of such as no certificate in the directory has: its file was lost.
        first: There never was one; without that word, a directory that has none is taken for one that lost it.

    Returns:
        Its number, nextUpdate, and how many certificates it lists.

    Raises:
        ConfigError: The root cannot do that, its CRLs cannot be read or are not there, or a serial number is not known.
    """
    with _changing(directory, "root-crl") as (change, root):
        require_living(root, now)
        names = root_crl_names(change.files)
        _require_last(directory, names, first)
        last, entries = _listed(change.files, names, now)
        known = signed_by(change.files, root)
        for serial, reason in revoke.items():
            if serial in entries:
                raise ConfigError.of(
                    f"serial number {serial:x}",
                    f"is listed already, since {entries[serial].revoked_at:%Y-%m-%d} ({entries[serial].reason.name})",
                    "Leave it out",
                )
            if serial not in known:
                _require_unknown(directory, root, known, serial, unknown)
            entries[serial] = RevokedCertificate(serial, now.replace(microsecond=0), reason)
        # RFC 5280 3.3: what has expired need not be listed; a peer that is gone stays, which costs little.
        this_update, next_update = (
            now.replace(microsecond=0),
            now.replace(microsecond=0) + timedelta(days=days),
        )
        content = CRLContent(
            # RFC 5280 5.2.3: above each of before, also where a backup was put back, or it was another product's CA.
            max(last + 1, int(now.timestamp())),
            None,
            this_update,
            next_update,
            encode_entries(entries.values()),
        )
        der = _signed(content, root, key.load(change.files, root))
        place = change.archive
        if _lacks_copy(change.files, names):  # it was put there by hand, and is kept in that place
            place = f"{COPIES}/{int(place.rpartition('/')[2]) + 1}"
        change.write_octets(f"{place}/{ROOT_CRL}", der)
        change.write_octets(ROOT_CRL, der)
        change.commit()
    return content.number, next_update, len(entries)


def _signed(content: CRLContent, root: Certificate, private_key: Any) -> bytes:
    algorithm = default_algorithm(private_key.public_key())
    tbs_der = content.tbs_der(root, algorithm.der)
    signature = private_key.sign(tbs_der, *signing_arguments(algorithm))
    return asn1.tlv(0x30, tbs_der, algorithm.der, asn1.tlv(0x03, b"\x00", signature))


@contextmanager
def _changing(directory: Path, action: str) -> Iterator[tuple[Any, Certificate]]:
    if not directory.is_dir():
        raise ConfigError.of(str(directory), "is no directory", "Name the CA's")
    with changing(directory, action, archive=COPIES) as change:
        if change is None:
            raise ConfigError.of(
                str(directory),
                f"an {action} that was interrupted is finished now; nothing else was done",
                f"Look at {directory / CROSS} and {directory / ROOT_CRL}, and repeat if need be",
            )
        root = certificate_of(change.files, "root")
        yield change, root


def _require_last(directory: Path, names: list[str], first: bool) -> None:
    if names and first:
        raise ConfigError.of("--first", f"there is {directory / names[-1]} already", "Leave it out")
    if not names and not first:
        raise ConfigError.of(
            str(directory / ROOT_CRL),
            f"is not there, and no copy in {directory / COPIES}: what it revoked would be good again",
            "Put the last one there, from where it is published; if there never was one: --first",
        )


def _require_unknown(
    directory: Path, root: Certificate, known: Iterable[int], serial: int, unknown: bool
) -> None:
    name, listed = f"serial number {serial:x}", ", ".join(f"{item:x}" for item in sorted(known))
    if serial == root.serial_number:
        raise ConfigError.of(name, f"is the root's own, {root.subject}", f"Choose one of {listed}")
    if not unknown:
        raise ConfigError.of(
            name,
            f"is of none of the certificates in {directory} that the root signed",
            f"Choose one of {listed}; where the file is gone: --unknown",
        )
    if not 0 < serial < 1 << 159:
        raise ConfigError.of(
            name, "is none of RFC 5280: positive, of 20 octets at most", "Look at the certificate"
        )


def _lacks_copy(files: CAFiles, names: list[str]) -> bool:
    octets = {name: read_bounded(files.find(name)) for name in names}
    last = octets.pop(ROOT_CRL, None)
    return last is not None and last not in octets.values()


def _listed(
    files: CAFiles, names: Iterable[str], now: datetime
) -> tuple[int, dict[int, RevokedCertificate]]:
    """Return the highest number of the root's CRLs so far and all that they list, the replaced ones included.

    Raises:
        ConfigError: One cannot be read, was not signed by a root of the directory, or is of a later time than now.
    """
    number, entries = 0, dict[int, RevokedCertificate]()
    roots = [item for item in own_certificates(files) if item.self_issued]
    for path in map(files.find, names):
        try:
            octets = read_bounded(path)
            found = _verified(octets, roots, now)
            crl = x509.load_der_x509_crl(octets)
        except (OSError, ValueError, CMPError, CRLRefused) as error:
            raise ConfigError.of(
                str(path), f"is no CRL of a root in {files.path}: {error}", "Put the right one back"
            ) from error
        number = max(number, found.number or 0)
        entries |= {item.serial_number: _entry(item) for item in crl}
    return number, entries


def _verified(octets: bytes, roots: Iterable[Certificate], now: datetime) -> CRL:
    received, refusal = open_crl(octets), CRLRefused("there is no root")
    for root in roots:
        try:
            return verify_crl(received, root, AlgorithmPolicy(), now)
        except CRLRefused as error:
            refusal = error
    raise refusal


def _entry(item: x509.RevokedCertificate) -> RevokedCertificate:
    try:
        flag = item.extensions.get_extension_for_class(x509.CRLReason).value.reason
        reason = Reason[flag.value]
    except x509.ExtensionNotFound:
        reason = Reason.unspecified
    return RevokedCertificate(item.serial_number, item.revocation_date_utc, reason)
