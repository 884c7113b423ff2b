"""Files that root makes and replaces for services of other users; `integration/test_owners.py` has such services."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ra_gateway import files
from tests.support.owners import THEIRS, Owners


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> Owners:
    return Owners(monkeypatch)


def test_what_root_replaces_keeps_owner_group_and_mode(tmp_path: Path, owners: Owners) -> None:
    """A key that root alone may read would stop the service that it is for."""
    for name, mode, kept in (
        ("ra.pem", 0o640, 0o640),
        ("ra.key", 0o400, 0o400),
        ("b.key", 0o666, 0o600),
    ):
        old, new = tmp_path / name, tmp_path / f"{name}.new"
        old.write_bytes(b"old")
        old.chmod(mode)
        owners.theirs(old)
        status = files.status_of(old)
        assert files.read_with_status(old) == (b"old", status)
        files.write_new(new, b"x", 0o644 if name == "ra.pem" else 0o600, like=status)
        assert owners.given[str(new)] == THEIRS
        assert stat.S_IMODE(new.stat().st_mode) == kept


def test_what_root_makes_in_the_directory_of_a_service_is_the_services(
    tmp_path: Path, owners: Owners
) -> None:
    service = tmp_path / "service"
    service.mkdir()
    owners.theirs(service)
    files.write_new(service / "root.crl", b"x")
    files.make_directory(service / "cross")
    assert owners.given == {
        str(service / "root.crl"): THEIRS,
        str(service / "cross"): THEIRS,
    }
    owners.rights.append(THEIRS[0])
    files.write_new(service / "own", b"x")
    assert str(service / "own") not in owners.given
