"""Files of root and of others, to a process that need not be root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

THEIRS = 1234, 5678


class Owners:
    """Has this process take itself for root: files are root's but those that are said to be others'.

    Args:
        monkeypatch: Ends it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: dict[str, tuple[int, int]] = {}
        """By path, what was given to whom."""
        self.rights: list[int] = [0]
        """Whose rights were taken, one after the other."""
        self._theirs: set[tuple[int, int]] = set()
        monkeypatch.setattr(os, "stat", self._told(os.stat))
        monkeypatch.setattr(os, "lstat", self._told(os.lstat))
        monkeypatch.setattr(os, "fstat", self._told(os.fstat))
        monkeypatch.setattr(os, "getuid", lambda: 0)
        monkeypatch.setattr(os, "geteuid", lambda: self.rights[-1])
        monkeypatch.setattr(os, "seteuid", self.rights.append)
        monkeypatch.setattr(os, "setegid", lambda _group: None)
        monkeypatch.setattr(os, "setgroups", lambda _groups: None)
        monkeypatch.setattr(os, "fchown", self._fchown)

    def theirs(self, *paths: Path) -> None:
        """Have files, directories and links be somebody else's."""
        self._theirs |= {_identity(os.lstat(path)) for path in paths}

    def _told(self, real: Any) -> Any:
        def told(*arguments: Any, **named: Any) -> os.stat_result:
            found = real(*arguments, **named)
            values = list(found)
            values[4:6] = THEIRS if _identity(found) in self._theirs else (0, 0)
            return os.stat_result(
                values, {name: getattr(found, name) for name in dir(found) if name[:3] == "st_"}
            )

        return told

    def _fchown(self, descriptor: int, user: int, group: int) -> None:
        self.given[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = user, group


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
