"""The inventory's file is taken up when it has changed, as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ra_gateway.errors import ConfigError
from ra_gateway.events import Fact, InventoryChanged, InventoryRefused
from ra_gateway.stores.inventory import InventoryFile

HEADER = "domain,identity,subject,san,enabled\n"


class Desk:
    """An inventory's file, and what is told of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: list[Fact] = []
        self.write("acme,1,CN=a,,true\n")
        self.inventory = InventoryFile(path, ["acme"], self.facts.append)

    def write(self, rows: str) -> None:
        """Put another file in its place."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(HEADER + rows)
        fresh.replace(self.path)

    async def looks(self) -> list[Fact]:
        """Look as often as it takes, and return what was told."""
        for _ in range(3):
            await self.inventory.look()
        told, self.facts[:] = list(self.facts), []
        return told

    async def subjects(self) -> list[str | None]:
        """Return the subjects of devices 1 to 3."""
        found = [await self.inventory.find("acme", str(number)) for number in (1, 2, 3)]
        return [None if entry is None else entry.subject for entry in found]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "devices.csv")


async def test_a_changed_file_holds(desk: Desk) -> None:
    """With what it brings, and nothing is told of one that stays."""
    assert await desk.looks() == []
    desk.write("acme,1,CN=b,,true\nacme,2,CN=c,,true\n")
    assert await desk.looks() == [InventoryChanged(2, added=1, changed=1, removed=0)]
    assert await desk.subjects() == ["CN=b", "CN=c", None]
    desk.write("acme,2,CN=c,,true\n")
    assert await desk.looks() == [InventoryChanged(1, added=0, changed=0, removed=1)]
    assert await desk.subjects() == [None, "CN=c", None]


def a_wrong_line(desk: Desk) -> None:
    desk.write("acme,1,CN=b,,true\nacme,2,enb,,true\n")


def a_double(desk: Desk) -> None:
    desk.write("acme,1,CN=b,,true\nacme,1,CN=c,,true\n")


def emptied(desk: Desk) -> None:
    desk.path.write_text("")


def gone(desk: Desk) -> None:
    desk.path.unlink()


def a_directory(desk: Desk) -> None:
    gone(desk)
    desk.path.mkdir()


def of_another_encoding(desk: Desk) -> None:
    desk.path.write_bytes((HEADER + "acme,1,CN=b,,true\n").encode("utf-16"))


@pytest.mark.parametrize(
    "change, said",
    [
        (a_wrong_line, "devices.csv:3: the subject 'enb' cannot be certified"),
        (a_double, "devices.csv:3: 1 of acme is listed in line 2 already"),
        (emptied, "another header"),
        (gone, "cannot be read"),
        (a_directory, "cannot be read"),
        (of_another_encoding, "is no CSV in UTF-8"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
async def test_a_bad_file_is_told_once_and_the_old_list_stays(
    desk: Desk, change: object, said: str
) -> None:
    """And a good one in its place is taken up."""
    assert callable(change)
    change(desk)
    (refused,) = await desk.looks()
    assert isinstance(refused, InventoryRefused)
    assert refused.devices == 1
    assert any(said in problem for problem in refused.problems), refused
    assert await desk.looks() == []
    assert await desk.subjects() == ["CN=a", None, None]
    if desk.path.is_dir():
        desk.path.rmdir()
    desk.write("acme,3,CN=d,,true\n")
    assert await desk.looks() == [InventoryChanged(1, added=1, changed=0, removed=1)]


async def test_the_list_of_before_ends_a_refusal(desk: Desk) -> None:
    """Who put it back is told that all is well."""
    desk.write("acme,1,,,perhaps\n")
    (refused,) = await desk.looks()
    assert isinstance(refused, InventoryRefused)
    desk.write("acme,1,CN=a,,true\n")
    assert await desk.looks() == [InventoryChanged(1, 0, 0, 0)]


async def test_a_file_that_is_being_written_is_left_alone(desk: Desk) -> None:
    """Half of it may be a list by itself, which would refuse the devices of the other half."""
    await desk.inventory.look()
    with desk.path.open("w") as file:
        file.write(HEADER + "acme,2,CN=b,,true\n")
        file.flush()
        await desk.inventory.look()
        assert await desk.subjects() == ["CN=a", None, None]
        file.write("acme,3,CN=c,,true\n")
        file.flush()
        await desk.inventory.look()
        assert await desk.subjects() == ["CN=a", None, None]
    assert await desk.looks() == [InventoryChanged(2, added=2, changed=0, removed=1)]


async def test_lines_that_help_nobody_are_told(desk: Desk) -> None:
    """By file and line; the others hold."""
    desk.write("acne,1,CN=a,,true\nacme,2,CN=b,,true\nacme,3,CN=b,,true\n")
    (changed,) = await desk.looks()
    assert isinstance(changed, InventoryChanged)
    assert [text.split(": ")[:2] for text in changed.warnings] == [
        [
            f"{desk.path}:2",
            "there is no vendor 'acne'; nobody is looked up by this line. Write one of",
        ],
        [f"{desk.path}:4", "has the subject of line 3"],
    ]
    assert await desk.subjects() == [None, "CN=b", "CN=b"]


def test_a_bad_file_at_the_start_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    path.write_text(HEADER + "acme,1,CN=a,,perhaps\n")
    with pytest.raises(ConfigError, match="neither true nor false"):
        InventoryFile(path, ["acme"])


async def test_a_file_that_was_only_touched_is_not_told(desk: Desk) -> None:
    os.utime(desk.path, ns=(1, 1))
    assert await desk.looks() == []


async def test_a_device_that_is_known_by_its_subject_may_be_written_either_way(desk: Desk) -> None:
    """As the log shows it, or as it is looked up: those of other RAs and of shared secrets."""
    desk.write(
        'ra:ran,"serialNumber=1, CN=a",,,true\nmac:ran,"2.5.4.5=2,CN=a",,,true\n'
        "acme,serialNumber=3,,,true\n"
    )
    await desk.looks()
    assert await desk.inventory.find("ra:ran", "2.5.4.5=1,CN=a") is not None
    assert await desk.inventory.find("mac:ran", "2.5.4.5=2,CN=a") is not None
    assert await desk.inventory.find("acme", "2.5.4.5=3") is None
