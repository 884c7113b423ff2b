"""Files that are replaced as a whole, by root or by whoever owns them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace_file(path: Path, octets: bytes) -> None:
    """Put other octets in the place of a file, which keeps owner, group and mode; readers see the old or the new.

    Raises:
        OSError: It cannot be written, or not be given to its owner; nothing has changed.
    """
    path = path.resolve()  # where a link leads, and stays one
    status = path.stat()
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "wb") as file:
            made = os.fstat(file.fileno())
            if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
