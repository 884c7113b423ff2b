"""Files that root makes and replaces for services of other users; `integration/test_owners.py` has such services."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ra_gateway import files


class Owners:
    """What a process that thinks it is root gives to whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: dict[str, tuple[int, int]] = {}
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(os, "fchown", self._give)

    def _give(self, descriptor: int, user: int, group: int) -> None:
        self.given[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = user, group


def test_what_root_replaces_keeps_owner_group_and_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that root alone may read would stop the service that it is for."""
    owners = Owners(monkeypatch)
    for name, mode, kept in (
        ("ra.pem", 0o640, 0o640),
        ("ra.key", 0o400, 0o400),
        ("b.key", 0o666, 0o600),
    ):
        old, new = tmp_path / name, tmp_path / f"{name}.new"
        old.touch()
        old.chmod(mode)
        files.write_new(new, b"x", 0o644 if name == "ra.pem" else 0o600, like=old)
        status = old.stat()
        assert owners.given[str(new)] == (status.st_uid, status.st_gid)
        assert stat.S_IMODE(new.stat().st_mode) == kept


def test_what_root_makes_in_the_directory_of_a_service_is_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def stat_of(path: Path, **options: Any) -> os.stat_result:
        found = list(real(path, **options))
        if path == tmp_path:
            found[4:6] = 1234, 5678
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", stat_of)
    owners = Owners(monkeypatch)
    files.write_new(tmp_path / "root.crl", b"x")
    files.make_directory(tmp_path / "cross")
    assert owners.given == {
        str(tmp_path / "root.crl"): (1234, 5678),
        str(tmp_path / "cross"): (1234, 5678),
    }
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    files.write_new(tmp_path / "own", b"x")
    assert str(tmp_path / "own") not in owners.given
