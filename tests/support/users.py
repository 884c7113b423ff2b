"""A service's user who is not root, and files that are to stay that user's."""

from __future__ import annotations

import os
import pkgutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final

import ra_gateway

IS_ROOT: Final = os.geteuid() == 0

SERVICE: Final = 47_110 if IS_ROOT else os.geteuid()
"""User and group of a service: of nobody else on this machine; where the tests do not run as root, their own."""

RUNS_AS: Final = SERVICE if IS_ROOT else None
"""Whom a process of the service is started as."""


_RUN_ALONE: Final = {"__main__", "migrations"}


def become(user: int) -> None:
    """Go on as another user, without a way back.

    What is imported later may lie where only root looks (a Python below /root): all of the program is imported before.
    """
    for module in pkgutil.walk_packages(ra_gateway.__path__, "ra_gateway."):
        if not _RUN_ALONE.intersection(module.name.split(".")):
            import_module(module.name)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


@contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory that every user can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="ra_gateway-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def hand_over(directory: Path) -> None:
    """Give a directory, and all in it, to the service (`chown -R`)."""
    if IS_ROOT:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, SERVICE, SERVICE, follow_symlinks=False)


def give_to_root(directory: Path) -> None:
    """Give a directory alone to root, who lets others in."""
    if IS_ROOT:
        os.chown(directory, 0, 0)
        directory.chmod(0o755)


def taken_away(directory: Path) -> list[str]:
    """Return what in a directory is not the service's."""
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if (path.lstat().st_uid, path.lstat().st_gid)
        != (SERVICE, SERVICE if IS_ROOT else os.getegid())
    )
