"""What root does in directories of others: nobody leads it elsewhere by a link."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from ra_gateway import files
from ra_gateway.ca.files import changing
from ra_gateway.owners import as_ourselves, as_owner, directory_at, is_roots_alone
from ra_gateway.pkcs11 import token
from ra_gateway.pkcs11.reference import Trouble
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


def make_file(way: Path) -> None:
    files.write_new(way / "x.sh", b"x")


def make_directory(way: Path) -> None:
    files.make_directory(way / "x.d")


def read(way: Path) -> None:
    files.read_with_status(way / "shadow")


def replace(way: Path) -> None:
    files.replace_file(way / "shadow", b"x")


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


@pytest.mark.parametrize(
    "act", [files.read_with_status, lambda path: files.replace_file(path, b"x")]
)
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
    found = files.read_with_status(etc / "key")
    assert found is not None
    assert found[0] == b"root's"
    files.replace_file(etc / "key", b"new")
    assert (etc / "key").is_symlink()
    assert (etc / "shadow").read_bytes() == b"new"
    files.write_new(etc / "ours" / "current" / "x", b"x")
    assert (service / "of-them" / "x").exists()
    (etc / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        files.read_with_status(etc / "round")
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
        files.make_directory(service / "cross")
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


def test_what_others_can_put_another_directory_in_place_of_is_not_roots(
    service: Path, owners: Owners
) -> None:
    etc = service.parent / "etc"
    below = etc / "vendor" / "lib"
    below.mkdir(parents=True)
    (below / "hsm.so").touch(0o755)
    (etc / "by-link.so").symlink_to(below / "hsm.so")
    for mode, safe in ((0o755, True), (0o775, False), (0o777, False), (0o1777, True)):
        (etc / "vendor").chmod(mode)
        for path in (below / "hsm.so", etc / "by-link.so"):
            assert is_roots_alone(path) is safe


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
    refused = (service / "evil.so", service / "link.so", etc / "link.so", etc / "nowhere.so")
    for rights in (nullcontext, lambda: as_owner(service)):
        with rights():
            safe = [path.name for path in sorted(etc.glob("*.so")) if is_roots_alone(path)]
            assert not any(map(is_roots_alone, refused))
            with pytest.raises(Trouble, match="belongs to others than root"):
                token._library(service / "evil.so")
        assert safe == ["hsm.so", "ours.so"]
