"""Files that settings name: whether they exist, and who may read them."""

from __future__ import annotations

import os
import shlex
import stat
from itertools import islice
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, ValidationInfo

from ra_gateway.settings.values import did_you_mean, wrong


def resolve(path: Path, info: ValidationInfo) -> Path:
    """Return a path of the file, which starts at its directory."""
    return Path(info.context["directory"], path) if info.context else path


def checks_files(info: ValidationInfo) -> bool:
    """Tell whether files are looked at, and not only named."""
    return bool(info.context and info.context["check_files"])


def _refuse_pem(path: Path) -> None:
    if "-----BEGIN" in str(path) or "\n" in str(path):
        raise wrong(
            "holds the material itself, where the name of a file belongs",
            "Write the material to a file and give that file's path here.",
        )


_OF_FILES: Final = frozenset(
    (".key", ".pem", ".der", ".p12", ".pfx", ".url", ".txt", ".csv", ".pin", ".password", ".secret", ".token")
)  # fmt: skip


def _shown(path: Path, secret: bool, directory: Path | None) -> str:
    """Return what a file is called in a text: a secret may have been written where its file's name belongs.

    Args:
        directory: Of the configuration; a path that leads on from there, into one that exists, is no secret.
    """
    is_path = path.suffix.lower() in _OF_FILES or (
        directory is not None and path.parent.is_dir() and path.parent not in (directory, Path("/"))
    )
    is_url = any(part.endswith(":") for part in path.parts)  # which has a password, like as not
    if secret and (is_url or not is_path):
        # What is in no directory may be a secret that has slashes.
        where = f" in {path.parent}" if path.parent.is_dir() else ""
        return f"the file it names{where} (not shown: it might be the secret itself)"
    return str(path)


def check_file(path: Path, *, secret: bool, directory: Path | None = None) -> None:
    """Refuse a file that cannot be read, or a secret that others can read.

    Args:
        directory: Of the configuration that names it.
    """
    _refuse_pem(path)
    shown = _shown(path, secret, directory)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a possible file name"
        raise wrong(
            f"cannot use {shown}: {reason}",
            "Give the path of an existing file; a relative path starts at this file's directory."
            f"{_neighbour(path)}",
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise wrong(f"{shown} is not a file", "Give the path of a file.")
    if not os.access(path, os.R_OK):
        raise wrong(
            f"{shown} may not be read", "Make it readable for the user the gateway runs as."
        )
    if status.st_size == 0:
        raise wrong(f"{shown} is empty", "Write its content, or correct the path.")
    if secret and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise wrong(
            f"is a secret file with mode {stat.S_IMODE(status.st_mode):04o}: not its owner's alone",
            f"Run: chmod 600 {shlex.quote(str(path))}",
        )


def _neighbour(path: Path) -> str:
    """Return a question with the file in the same directory that has nearly the name of one that is not there."""
    try:
        return did_you_mean(
            path.name, tuple(item.name for item in islice(path.parent.iterdir(), 1000))
        )
    except (OSError, ValueError):
        return ""


def _read_file(path: Path, info: ValidationInfo, *, secret: bool) -> Path:
    _refuse_pem(path)
    path = resolve(path, info)
    if checks_files(info):
        check_file(
            path, secret=secret, directory=info.context["directory"] if info.context else None
        )
    return path


def _public_file(path: Path, info: ValidationInfo) -> Path:
    return _read_file(path, info, secret=False)


def secret_file(path: Path, info: ValidationInfo) -> Path:
    """Return the path of a file that only its owner may read."""
    return _read_file(path, info, secret=True)


def _written_file(path: Path, info: ValidationInfo) -> Path:
    path = resolve(path, info)
    if checks_files(info):
        if not path.parent.is_dir():
            raise wrong(
                f"the directory {path.parent} does not exist",
                "Create it; what is in it is made when it is needed.",
            )
        if not os.access(path.parent, os.W_OK):
            raise wrong(
                f"the directory {path.parent} may not be written to",
                "Give the gateway's user that right.",
            )
    return path


PublicPath = Annotated[Path, AfterValidator(_public_file)]
SecretPath = Annotated[Path, AfterValidator(secret_file)]
WrittenPath = Annotated[Path, AfterValidator(_written_file)]
