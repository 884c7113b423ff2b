"""Files and directories that are made or replaced, by root or by whoever owns them.

Root makes and replaces them for services of other users: a file of root's alone would take a key, or the ledger, from
the service that it is for. So what takes the place of a file keeps its owner, group and mode, and what is new belongs
to whom its directory belongs.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, for their owner alone, whatever the umask.

    Raises:
        OSError: It cannot be made.
    """
    for missing in reversed([item for item in (path, *path.parents) if not item.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
        give_like(missing, missing.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def open_new(path: Path, mode: int = 0o600, *, like: Path | None = None) -> int:
    """Make an empty file with just this mode, whatever the umask; returns a descriptor to read and write it.

    Args:
        like: A file whose place it will take, and whose owner, group and mode it gets if that is there; what is
            for its owner alone by `mode` stays so.

    Raises:
        FileExistsError: The file is there already; nothing is ever overwritten.
        OSError: It cannot be made.
    """
    # Created with its mode, not given it afterwards: there is no moment at which others can open it.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        if like is not None and like.exists():
            _give(descriptor, like.stat())
            _set_mode(descriptor, mode, like)
        else:
            _give(descriptor, path.parent.stat())
            os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def make_file(path: Path) -> None:
    """Make an empty file for its owner alone, if there is none; one that is there is not even opened.

    Raises:
        OSError: It cannot be made.
    """
    with suppress(FileExistsError):
        os.close(open_new(path))


def write_new(path: Path, octets: bytes, mode: int = 0o600, *, like: Path | None = None) -> None:
    """Write a new file with just this mode, whatever the umask, to the disk; its directory is made if need be.

    Args:
        like: As `open_new` has it.

    Raises:
        FileExistsError: The file is there already; nothing is ever overwritten.
        OSError: It cannot be written.
    """
    make_directory(path.parent)
    with os.fdopen(open_new(path, mode, like=like), "wb") as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())


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
    synchronize(path.parent)


def give_like(path: Path, other: Path, *, mode: bool = False) -> None:
    """Where root has made a file or directory: give it to the owner and group of another one.

    Args:
        mode: Give it the other one's mode as well, except that what is for its owner alone stays so.

    Raises:
        OSError: It cannot be given away.
    """
    # By a descriptor: its directory may be somebody's who would like root to give away what a link leads to.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(descriptor, other.stat())
        if mode:
            _set_mode(descriptor, os.fstat(descriptor).st_mode, other)
    finally:
        os.close(descriptor)


def _give(descriptor: int, like: os.stat_result) -> None:
    # The group of root's own directories is that of who may look into them, not of what is made there.
    is_roots_directory = stat.S_ISDIR(like.st_mode) and like.st_uid == 0
    if os.geteuid() == 0 and not is_roots_directory:
        os.fchown(descriptor, like.st_uid, like.st_gid)


def _set_mode(descriptor: int, mode: int, like: Path) -> None:
    allowed = 0o777 if mode & _OTHERS else stat.S_IRWXU
    os.fchmod(descriptor, stat.S_IMODE(like.stat().st_mode) & allowed)


def synchronize(path: Path) -> None:
    """Write a file, or what a directory lists, to the disk.

    Raises:
        OSError: It cannot be written.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
