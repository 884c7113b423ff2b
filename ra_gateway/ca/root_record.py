"""What the root has signed, and what it has revoked: files of the CA's directory, read where its key is not at hand.

cross/SERIAL.pem            other operators' CAs
root.crl                    what is published
retired-crls/N/root.crl     a copy of each, made with it: where root.crl is lost, or an older one is put back, the
                            newest of them all counts
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from ra_gateway.ca.files import SETTING, CAFiles
from ra_gateway.ca.records import StoredCRL
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crl import CRLContent, decode_crl, open_crl
from ra_gateway.cmp.names import attributes, folded, same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import ConfigError, CRLRefused
from ra_gateway.files import read_bounded
from ra_gateway.keys import load_certificates

ROOT_CRL: Final = "root.crl"
CROSS: Final = "cross"
COPIES: Final = "retired-crls"

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")


def own_certificates(files: CAFiles) -> list[Certificate]:
    """Return the CAs and signers of the directory, those that are no longer in use too.

    Raises:
        ConfigError: A file cannot be read.
    """
    names = (name for name in files.names(".pem") if not _of_a_peer(name))
    return [item for name in names for item in load_certificates(files.find(name), SETTING)]


def peers_certificates(files: CAFiles) -> list[tuple[str, Certificate]]:
    """Return files and certificates of other operators' CAs, the revoked ones too.

    Raises:
        ConfigError: A file cannot be read.
    """
    return [
        (name, load_certificates(files.find(name), SETTING)[0])
        for name in files.names(".pem")
        if _of_a_peer(name)
    ]


def _of_a_peer(name: str) -> bool:
    return name.startswith(f"{CROSS}/")


_LOOK_ALIKES: Final = str.maketrans(
    # After folding: Cyrillic, Greek, and what one Latin letter is taken for.
    "\u0430\u0432\u0435\u0456\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0458\u0501\u04bb\u051b\u051d"
    "\u03b1\u03b2\u03b5\u03b6\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7"
    "l1|0",
    "abeikmhopctyxsjdhqw" + "abezhikmnoptyx" + "iiio",
)


def looks(name_der: bytes) -> list[tuple[str, str]]:
    """Return a Name as somebody takes it in who reads it: without order, alphabets and case.

    Raises:
        MalformedMessage: Not a Name.
    """
    found = ((oid, folded(text).translate(_LOOK_ALIKES)) for oid, text in attributes(name_der))
    return sorted(found)


def is_named_for(certificate: Certificate, own: Certificate) -> bool:
    """Tell whether a subject has an organisation that looks like one of another certificate's subject."""
    theirs, ours = (
        {item for item in looks(one.subject_der) if item[0] == OID.organizationName}
        for one in (certificate, own)
    )
    return bool(theirs & ours)


def require_not_a_peers(files: CAFiles, subject_der: bytes) -> None:
    """Make sure that a subject looks like that of no other operator's CA that the root certified.

    Raises:
        ConfigError: It does.
    """
    for name, item in peers_certificates(files):
        if looks(item.subject_der) == looks(subject_der):
            raise ConfigError.of(
                "subject",
                f"{files.path / name} certifies another operator's CA of this name",
                "Give another one: two CAs below one root must not be mistaken for each other",
            )


def signed_by(files: CAFiles, root: Certificate) -> dict[int, Certificate]:
    """Return by serial number all that a root signed, but for what makes the root itself known.

    Another operator's CA is among them whatever its name is.

    Raises:
        ConfigError: A file cannot be read.
    """
    own = (item for item in own_certificates(files) if not item.self_issued)
    peers = (item for _, item in peers_certificates(files))
    return {
        item.serial_number: item
        for item in (*own, *peers)
        if same_name(item.issuer_der, root.subject_der)
    }


class FoundCRL(NamedTuple):
    """A CRL of the root, as it lies in a file.

    Args:
        name: Of the file, relative to the CA's directory.
    """

    name: str
    der: bytes
    content: CRLContent

    @property
    def number(self) -> int:
        """Its cRLNumber; 0 where it has none."""
        return self.content.number or 0


def root_crl_names(files: CAFiles) -> list[str]:
    """Return the names of the files with CRLs of the root: the copies, the oldest first, and what is published."""
    copies = (f"{name}/{ROOT_CRL}" for name in reversed(files.numbered(COPIES)))
    return [name for name in (*copies, ROOT_CRL) if files.has(name)]


def root_crl(files: CAFiles) -> FoundCRL | None:
    """Return the newest CRL of the root, None if there is none.

    Raises:
        ConfigError: It cannot be read.
    """
    # A copy is made with each, so that the last one is the newest.
    found = [_read(files, name) for name in root_crl_names(files)[-2:]]
    return max(reversed(found), key=lambda item: item.number, default=None)


def _read(files: CAFiles, name: str) -> FoundCRL:
    path = files.find(name)
    try:
        der = read_bounded(path)
        return FoundCRL(name, der, decode_crl(open_crl(der)))
    except (OSError, ValueError, CRLRefused) as error:
        raise ConfigError.of(
            SETTING, f"{path} cannot be read: {error}", f"Put its copy of {COPIES} in its place"
        ) from error


def cross_certificates(files: CAFiles) -> list[tuple[str, Certificate]]:
    """Return files and certificates of other operators' CAs that the root did not revoke, the last to end last.

    Raises:
        ConfigError: A file cannot be read.
    """
    crl = root_crl(files)
    revoked = frozenset[int]() if crl is None else crl.content.revoked
    found = peers_certificates(files)
    living = [item for item in found if item[1].serial_number not in revoked]
    return sorted(living, key=lambda item: item[1].not_after)


def revoked_by_root(
    files: CAFiles, root: Certificate, certificates: Iterable[Certificate]
) -> list[Certificate]:
    """Return those of some certificates that a root signed, and revoked.

    Raises:
        ConfigError: Its CRL cannot be read.
    """
    crl = root_crl(files)
    revoked = frozenset[int]() if crl is None else crl.content.revoked
    return [
        item
        for item in certificates
        if item.serial_number in revoked and same_name(item.issuer_der, root.subject_der)
    ]


def require_unrevoked(
    files: CAFiles, root: Certificate, certificates: Iterable[Certificate]
) -> None:
    """Make sure that no CA of a chain was revoked by the root.

    Raises:
        ConfigError: One was, or the root's CRL cannot be read.
    """
    for certificate in revoked_by_root(files, root, certificates):
        raise ConfigError.of(
            SETTING,
            f"the root has revoked the certificate of {certificate.subject}, "
            f"serial number {certificate.serial_number:x}",
            f"Nothing that it issues is believed; run: ra-gateway ca roll-issuing {files.path}",
        )


class RootCRL:
    """The root's CRL as it lies in the CA's directory, read again when the files change, and never an older one.

    Args:
        directory: The CA's.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state: object = None
        self._crl: StoredCRL | None = None

    def __call__(self) -> StoredCRL | None:
        """Return it, None if there was none so far that can be read."""
        try:
            files = CAFiles(self._directory)
            names = root_crl_names(files)[-2:]
            facts = [(name, files.find(name).stat()) for name in names]
            state = [(name, item.st_mtime_ns, item.st_ino) for name, item in facts]
            if state != self._state:
                self._take(root_crl(files))
                self._state = state
        except (OSError, ConfigError) as error:
            log.error("ca.root_crl_unusable", file=str(self._directory), detail=str(error))
        return self._crl

    def _take(self, found: FoundCRL | None) -> None:
        known = 0 if self._crl is None else self._crl.number
        if found is not None and found.number >= known:
            content = found.content
            until = content.next_update or content.this_update
            self._crl = StoredCRL("", found.number, None, content.this_update, until, found.der)
        if self._crl is not None and (
            found is None or found.number < known or found.name != ROOT_CRL
        ):
            log.error(
                "ca.root_crl_behind",
                file=str(self._directory / ROOT_CRL),
                number=self._crl.number,
                todo="put back the newest, which is served on, from retired-crls or from where it is published",
            )
