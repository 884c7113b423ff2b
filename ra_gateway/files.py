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
from typing import BinaryIO, Final

from ra_gateway.owners import directory_at, file_at

MAX_OCTETS: Final = 16_777_216
"""Of a file that is read as a whole: hundreds of times what any of ours has."""

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

_GIVEN_OPEN: Final = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""What a process was started with, such as <(...) of a shell, which is a pipe: whoever started it ends it."""


def open_to_read(path: Path) -> BinaryIO:
    """Open a file; nobody is waited for where something else is in its place.

    A service looks at its files again and again: a FIFO would hold a thread for ever, and with it the service's end.

    Raises:
        OSError: It cannot be read, or is no file.
    """
    if str(path).startswith(_GIVEN_OPEN):
        return path.open("rb")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, most: int = MAX_OCTETS) -> bytes:
    """Return what a file holds; of one that is far larger than any of ours, an error.

    Raises:
        OSError: It cannot be read, is no file, or has more octets than `most`.
    """
    with open_to_read(path) as file:
        octets = file.read(most + 1)
    if len(octets) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} octets", str(path))
    return octets


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, for their owner alone, whatever the umask.

    Raises:
        OSError: It cannot be made.
    """
    for missing in reversed([item for item in (path, *path.parents) if not item.exists()]):
        with directory_at(missing.parent) as parent:
            with suppress(FileExistsError):
                os.mkdir(missing.name, 0o700, dir_fd=parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            made = os.open(missing.name, flags, dir_fd=parent)
            try:
                if not os.listdir(made):  # and so what was made just now
                    _give(made, os.fstat(parent))
            finally:
                os.close(made)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def status_of(path: Path) -> os.stat_result | None:
    """Return whose a file is, and its mode; None if there is none.

    Raises:
        OSError: It cannot be said; or root would be led there by a link of somebody else's.
    """
    with suppress(FileNotFoundError), file_at(path) as (directory, name):
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    return None


def read_with_status(path: Path) -> tuple[bytes, os.stat_result] | None:
    """Return what is in a file, and what `status_of` says of just that one; None if there is none.

    Raises:
        OSError: It cannot be read, or is no file; or as `status_of`.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        suppress(FileNotFoundError),
        file_at(path) as (directory, name),
        os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file,
    ):
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a file", str(path))
        return file.read(), status
    return None


def open_new(path: Path, mode: int = 0o600, *, like: os.stat_result | None = None) -> int:
    """Make an empty file with just this mode, whatever the umask; returns a descriptor to read and write it.

    Args:
        like: Of a file whose place it will take, and whose owner, group and mode it gets; what is for its owner alone
            by `mode` stays so.

    Raises:
        FileExistsError: The file is there already; nothing is ever overwritten.
        OSError: It cannot be made.
    """
    # Created with its mode, not given it afterwards: there is no moment at which others can open it.
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with directory_at(path.parent) as directory:
        descriptor = os.open(path.name, flags, mode, dir_fd=directory)
        try:
            _give(descriptor, os.fstat(directory) if like is None else like)
            if like is None:
                os.fchmod(descriptor, mode)
            else:
                _set_mode(descriptor, mode, like)
        except BaseException:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=directory)
            raise
    return descriptor


def make_file(path: Path) -> None:
    """Make an empty file for its owner alone, if there is none; one that is there is not even opened.

    Raises:
        OSError: It cannot be made.
    """
    with suppress(FileExistsError):
        os.close(open_new(path))


def write_new(
    path: Path, octets: bytes, mode: int = 0o600, *, like: os.stat_result | None = None
) -> None:
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
            _set_mode(descriptor, os.fstat(descriptor).st_mode, other.stat())
    finally:
        os.close(descriptor)


def _give(descriptor: int, like: os.stat_result) -> None:
    # The group of root's own directories is that of who may look into them, not of what is made there.
    is_roots_directory = stat.S_ISDIR(like.st_mode) and like.st_uid == 0
    if os.geteuid() == 0 and not is_roots_directory:
        os.fchown(descriptor, like.st_uid, like.st_gid)


def _set_mode(descriptor: int, mode: int, like: os.stat_result) -> None:
    allowed = 0o777 if mode & _OTHERS else stat.S_IRWXU
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & allowed)


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
