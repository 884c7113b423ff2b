"""What the root has signed, and what it has revoked: files of the CA's directory, read where its key is not at hand."""

from __future__ import annotations

from typing import Final

from ra_gateway.ca.files import SETTING, CAFiles
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crl import CRLContent, decode_crl, open_crl
from ra_gateway.cmp.names import same_name
from ra_gateway.errors import ConfigError, CRLRefused
from ra_gateway.keys import load_certificates, read_bounded

ROOT_CRL: Final = "root.crl"
CROSS: Final = "cross"


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


def signed_by(files: CAFiles, root: Certificate) -> set[int]:
    """Return the serial numbers of all that a root signed, but for what makes the root itself known.

    Another operator's CA is among them whatever its name is.

    Raises:
        ConfigError: A file cannot be read.
    """
    own = (item for item in own_certificates(files) if not item.self_issued)
    peers = (item for _, item in peers_certificates(files))
    return {
        item.serial_number
        for item in (*own, *peers)
        if same_name(item.issuer_der, root.subject_der)
    }


def root_crl(files: CAFiles) -> CRLContent | None:
    """Return what the root's CRL says, None if there is none.

    Raises:
        ConfigError: It cannot be read.
    """
    path = files.find(ROOT_CRL)
    if not path.exists():
        return None
    try:
        return decode_crl(open_crl(read_bounded(path)))
    except (OSError, ValueError, CRLRefused) as error:
        raise ConfigError.of(SETTING, f"{path} cannot be read: {error}", "Make it anew") from error


def cross_certificates(files: CAFiles) -> list[tuple[str, Certificate]]:
    """Return files and certificates of other operators' CAs that the root did not revoke, the last to end last.

    Raises:
        ConfigError: A file cannot be read.
    """
    content = root_crl(files)
    revoked = frozenset[int]() if content is None else content.revoked
    found = peers_certificates(files)
    living = [item for item in found if item[1].serial_number not in revoked]
    return sorted(living, key=lambda item: item[1].not_after)
