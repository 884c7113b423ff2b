"""Files that are replaced as a whole, by root or by whoever owns them."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from ra_gateway.owners import file_at


def replace_file(path: Path, octets: bytes) -> None:
    """Put other octets in the place of a file, which keeps owner, group and mode; readers see the old or the new.

    Raises:
        OSError: It cannot be written, or not be given to its owner; nothing has changed.
    """
    with file_at(path) as (directory, name):  # where a link leads, and stays one
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        fresh = f".{name}.{secrets.token_hex(8)}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(fresh, flags, 0o600, dir_fd=directory), "wb") as file:
                made = os.fstat(file.fileno())
                if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                os.fchmod(file.fileno(), status.st_mode & 0o777)
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=directory)
            raise
        os.fsync(directory)
