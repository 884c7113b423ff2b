"""What root does in directories of others: nobody leads it elsewhere by a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ra_gateway import keys
from ra_gateway.ca.files import changing
from ra_gateway.ca.ledger import checkpoints
from ra_gateway.owners import as_ourselves, as_owner, directory_at, is_roots_alone
from ra_gateway.pkcs11 import token
from ra_gateway.pkcs11.reference import Trouble
from ra_gateway.stores.files import replace_file
from tests.support.owners import THEIRS, Owners


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> Owners:
    return Owners(monkeypatch)


@pytest.fixture
def service(tmp_path: Path, owners: Owners) -> Path:
    """The directory of a service; beside it is one of root's."""
    for name in ("service", "etc"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc" / "shadow").write_bytes(b"root's")
    owners.theirs(tmp_path / "service")
    return tmp_path / "service"


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
        octets, status = keys.read_with_status(old)
        keys.write_new(new, b"x", 0o644 if name == "ra.pem" else 0o600, like=status)
        assert octets == b"old"
        assert owners.given[str(new)] == THEIRS
        assert stat.S_IMODE(new.stat().st_mode) == kept


def test_what_root_makes_in_the_directory_of_a_service_is_the_services(
    service: Path, owners: Owners
) -> None:
    keys.write_new(service / "root.crl", b"x")
    keys.make_directory(service / "cross")
    assert owners.given == {
        str(service / "root.crl"): THEIRS,
        str(service / "cross"): THEIRS,
    }
    owners.rights.append(THEIRS[0])
    keys.write_new(service / "own", b"x")
    assert str(service / "own") not in owners.given


def make_file(way: Path) -> None:
    keys.write_new(way / "x.sh", b"x")


def make_directory(way: Path) -> None:
    keys.make_directory(way / "x.d")


def read(way: Path) -> None:
    keys.read_with_status(way / "shadow")


def replace(way: Path) -> None:
    replace_file(way / "shadow", b"x")


@pytest.mark.parametrize("act", [make_file, make_directory, read, replace])
@pytest.mark.parametrize("way", ["link", "link/..", "inner/link"])
def test_no_link_of_a_service_leads_root_elsewhere(
    service: Path, owners: Owners, act: Callable[[Path], None], way: str
) -> None:
    etc = service.parent / "etc"
    (service / "inner").mkdir()
    for link in (service / "link", service / "inner" / "link"):
        link.symlink_to(etc if way != "link/.." else etc / "below")
        owners.theirs(link)
    (etc / "below").mkdir()
    with pytest.raises(OSError, match="a link of somebody else leads there"):
        act(service / way)
    assert sorted(item.name for item in etc.iterdir()) == ["below", "shadow"]
    assert (etc / "shadow").read_bytes() == b"root's"
    assert owners.given == {}


@pytest.mark.parametrize("act", [keys.read_with_status, lambda path: replace_file(path, b"x")])
def test_no_link_of_a_service_is_a_file_to_root(
    service: Path, owners: Owners, act: Callable[[Path], object]
) -> None:
    """Of root's links, too, that lie where a service may move them."""
    for name in ("theirs", "roots"):
        (service / name).symlink_to(service.parent / "etc" / "shadow")
        if name == "theirs":
            owners.theirs(service / name)
        with pytest.raises(OSError, match="a link of somebody else leads there"):
            act(service / name)
    assert (service.parent / "etc" / "shadow").read_bytes() == b"root's"


def test_other_links_lead_where_they_lead(service: Path, owners: Owners) -> None:
    etc = service.parent / "etc"
    (etc / "key").symlink_to("shadow")
    (etc / "ours").symlink_to("../service")
    (service / "of-them").mkdir()
    (service / "current").symlink_to("of-them")
    owners.theirs(service / "current", service / "of-them")
    assert keys.read_with_status(etc / "key")[0] == b"root's"
    replace_file(etc / "key", b"new")
    assert (etc / "key").is_symlink()
    assert (etc / "shadow").read_bytes() == b"new"
    keys.write_new(etc / "ours" / "current" / "x", b"x")
    assert (service / "of-them" / "x").exists()
    (etc / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        keys.read_with_status(etc / "round")
    with pytest.raises(OSError, match="symbolic links"), directory_at(etc / "round"):
        pass


def test_a_directory_that_was_exchanged_is_not_given_away(
    service: Path, owners: Owners, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def exchanged(name: str, mode: int, *, dir_fd: int) -> None:
        real(name, mode, dir_fd=dir_fd)
        (service / name).rmdir()
        (service / name).symlink_to(service.parent / "etc")

    monkeypatch.setattr(os, "mkdir", exchanged)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        keys.make_directory(service / "cross")
    assert owners.given == {}


def test_a_change_of_a_ca_has_no_more_rights_than_its_owner(service: Path, owners: Owners) -> None:
    """What is moved there from one path to another would come anywhere, by a link in place of a directory."""
    with changing(service, "renew-signers") as change:
        assert os.geteuid() == THEIRS[0]
        assert change is not None
        with as_ourselves():
            assert os.geteuid() == 0
        assert os.geteuid() == THEIRS[0]
    assert owners.rights == [0, THEIRS[0], 0, THEIRS[0], 0]
    with as_owner(service.parent / "etc" / "not" / "yet"):
        assert os.geteuid() == 0


def test_root_runs_no_library_of_a_service(service: Path, owners: Owners) -> None:
    """A key file, which is the service's, says which one is loaded."""
    etc = service.parent / "etc"
    (service / "evil.so").touch()
    (service / "link.so").symlink_to(etc / "shadow")
    (etc / "link.so").symlink_to(service / "evil.so")
    (etc / "hsm.so").touch(0o755)
    (etc / "ours.so").symlink_to("hsm.so")
    (etc / "loose.so").touch()
    (etc / "loose.so").chmod(0o664)
    (etc / "theirs.so").touch()
    owners.theirs(etc / "theirs.so", service / "evil.so")
    safe = [path.name for path in sorted(etc.glob("*.so")) if is_roots_alone(path)]
    assert safe == ["hsm.so", "ours.so"]
    refused = (service / "evil.so", service / "link.so", etc / "link.so", etc / "nowhere.so")
    assert not any(map(is_roots_alone, refused))
    with pytest.raises(Trouble, match="belongs to others than root"):
        token._library(service / "evil.so")


def test_root_gives_no_file_away_that_is_in_two_places(service: Path, owners: Owners) -> None:
    """Of the two that root appends checkpoints to, one is its own and new, the other a link to what it has."""
    os.link(service.parent / "etc" / "shadow", service / "linked")
    (service / "new").touch()
    for name in ("linked", "new"):
        with directory_at(service) as directory, (service / name).open("ab") as file:
            checkpoints._hand_over(file.fileno(), directory)
    assert owners.given == {str(service / "new"): THEIRS}
