"""Root in directories of others, who could put something else in the place of what root is about to use.

Services have directories of their own, and their operators are root. What root makes or moves there by a path, the
service's user leads elsewhere by a link: into /etc, with root's rights.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_LINKS: Final = 40
"""As the kernel has it."""

_LED: Final = "a link of somebody else leads there"


@contextmanager
def directory_at(path: Path) -> Iterator[int]:
    """Open a directory; what is done by its descriptor happens there, whatever becomes of the path meanwhile.

    Raises:
        OSError: It cannot be opened; or root would be led to it by a link that its owner did not make.
    """
    descriptor, _ = _opened(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def file_at(path: Path) -> Iterator[tuple[int, str]]:
    """Open the directory of a file, and say what it is called there: neither is a link.

    Raises:
        OSError: As `directory_at`.
    """
    for _ in range(_MOST_LINKS):
        with directory_at(path.parent) as directory:
            try:
                status = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                status = None
            if status is None or not stat.S_ISLNK(status.st_mode):
                yield directory, path.name
                return
            if os.geteuid() == 0 and (status.st_uid or os.fstat(directory).st_uid):
                raise OSError(errno.ELOOP, _LED, str(path))
            path = path.parent / os.readlink(path.name, dir_fd=directory)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def is_roots_alone(path: Path) -> bool:
    """Tell whether nobody but root can write to a file, or put something else in its place."""
    try:
        with as_ourselves(), file_at(path) as (directory, name):
            places = (os.fstat(directory), os.stat(name, dir_fd=directory, follow_symlinks=False))
            descriptor, is_roots = _opened(path.resolve().parent)
    except OSError:
        return False
    os.close(descriptor)
    return is_roots and not any(
        status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) for status in places
    )


@contextmanager
def as_owner(path: Path) -> Iterator[None]:
    """As root, do what follows with the rights of whoever else has a directory.

    Only for commands: all threads of the process have these rights meanwhile.

    Args:
        path: A directory, which need not exist yet.

    Raises:
        OSError: The way cannot be looked at.
    """
    if os.geteuid() != 0:
        yield
        return
    existing = next(item for item in (path, *path.absolute().parents) if os.path.lexists(item))
    with directory_at(existing) as descriptor:
        status = os.fstat(descriptor)
    if not status.st_uid:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups(_groups_of(status))
    try:
        os.setegid(status.st_gid)
        os.seteuid(status.st_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


@contextmanager
def as_ourselves() -> Iterator[None]:
    """Within `as_owner`, do what follows as root again: read what root named, and nothing else."""
    user, group = os.geteuid(), os.getegid()
    if user == os.getuid() or os.getuid() != 0:
        yield
        return
    os.seteuid(0)
    try:
        yield
    finally:
        os.setegid(group)
        os.seteuid(user)


def _groups_of(status: os.stat_result) -> list[int]:
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return [status.st_gid]
    return os.getgrouplist(name, status.st_gid)


def _opened(path: Path) -> tuple[int, bool]:
    """Return the descriptor of a directory, and whether nobody but root can lead elsewhere, there and on the way.

    Raises:
        OSError: As `directory_at`.
    """
    if os.geteuid() != 0:
        return os.open(path, _DIRECTORY), False
    steps = list(reversed(path.absolute().parts[1:]))
    at = os.open("/", _DIRECTORY)
    is_roots = True
    leader: int | None = None
    links = 0
    try:
        while steps:
            step = steps.pop()
            status = os.stat(step, dir_fd=at, follow_symlinks=False)
            here = os.fstat(at)
            is_roots = is_roots and not status.st_uid
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                leader = here.st_uid or status.st_uid or leader
                target = Path(os.readlink(step, dir_fd=at)).parts
                if target[0] == "/":
                    at = _replaced(at, os.open("/", _DIRECTORY))
                    target = target[1:]
                steps += reversed(target)
            else:
                at = _replaced(at, os.open(step, _DIRECTORY | os.O_NOFOLLOW, dir_fd=at))
                # Where others may rename what is not theirs, they put a directory of theirs in place of the next one.
                loose = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                is_roots = is_roots and not (loose and not status.st_mode & stat.S_ISVTX)
        if leader is not None and os.fstat(at).st_uid != leader:
            raise OSError(errno.ELOOP, _LED, str(path))
    except OSError as error:
        os.close(at)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return at, is_roots


def _replaced(old: int, new: int) -> int:
    os.close(old)
    return new
