"""`ra-gateway inventory`: a list of devices is looked at, taken in and given out, and nothing is half done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.commandline import run, succeeded
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup

HEADER = "domain,identity,subject,san,enabled"


class Site:
    """A configuration with an inventory, and a file to take into it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.listed = config.parent / "devices.csv"
        self.given = config.parent / "given.csv"
        config.write_text(f'{config.read_text()}\n[inventory]\ncsv_path = "devices.csv"\n')
        self.listed.write_text(
            f"# north\n{HEADER}\nacme,1,CN=one,,true\n# the old one\nacme,2,,,false\n"
        )

    def give(self, *rows: str) -> None:
        """Write the file to take in."""
        self.given.write_text("\n".join((HEADER, *rows, "")))

    def take(self, *options: str) -> str:
        """Take it in."""
        return succeeded("inventory", "import", self.given, *options, "--config", self.config)


@pytest.fixture
def site(tmp_path: Path, vendor_pki: VendorPKI) -> Site:
    return Site(make_setup(tmp_path, vendors={"acme": vendor_pki}))


def test_check(site: Site) -> None:
    """What the configuration names, or another file before it is taken in."""
    said = succeeded("inventory", "check", "--config", site.config)
    assert said == f"{site.listed}: 2 devices of 1 vendor, 1 not enabled.\n"
    site.give(
        "acme,3,,,perhaps",
        "acme,4,enb,,true",
        "acme,5,,dns:_,true",
        "acme,6,,,true",
        "acme,6,,,true",
    )
    ended = run("inventory", "check", site.given, "--config", site.config)
    assert ended.exit_code == 2
    assert [line.partition(": ")[0] for line in ended.stderr.splitlines()] == [
        f"{site.given}:{line}" for line in (2, 3, 4, 6)
    ]
    ended = run("inventory", "check", site.given, "--config", site.config, "--json")
    found = json.loads(ended.stdout)
    assert (ended.exit_code, found["name"], found["good"]) == (2, str(site.given), False)
    assert [item["path"] for item in found["problems"]] == [
        f"{site.given}:{line}" for line in (2, 3, 4, 6)
    ]
    site.give("acne,3,,,true")
    ended = run("inventory", "check", site.given, "--config", site.config, "--json")
    (warning,) = json.loads(ended.stdout)["warnings"]
    assert (ended.exit_code, "there is no vendor 'acne'" in warning) == (1, True)
    ended = run("inventory", "check", site.given, "--config", site.config)
    assert ended.exit_code == 1
    assert f"{site.given}:2: there is no vendor 'acne'" in ended.stdout


def test_import_adds_and_changes(site: Site) -> None:
    """Comments, order and lines that stay are as they were."""
    site.give('acme,1,"CN=uno,O=Example",dns:a.example.net dns:b.example.net,true', "acme,3,,,true")
    said = site.take()
    assert said == (
        f"{site.listed}: 1 added, 1 changed, 0 removed, 0 as before. Has 3 devices now.\n"
    )
    assert site.listed.read_text() == (
        f'# north\n{HEADER}\nacme,1,"CN=uno,O=Example",dns:a.example.net dns:b.example.net,true\n'
        "# the old one\nacme,2,,,false\nacme,3,,,true\n"
    )
    assert "0 added, 0 changed, 0 removed, 2 as before" in site.take()


def test_import_replaces(site: Site) -> None:
    site.give("acme,2,,,false", "acme,3,,,true")
    assert "1 added, 0 changed, 1 removed, 1 as before" in site.take("--replace")
    assert (
        site.listed.read_text()
        == f"# north\n{HEADER}\n# the old one\nacme,2,,,false\nacme,3,,,true\n"
    )


def test_export_for_programs(site: Site) -> None:
    """What is listed, as objects."""
    listed = json.loads(succeeded("inventory", "export", "--json", "--config", site.config))
    assert [sorted(item) for item in listed] == 2 * [
        ["domain", "enabled", "identity", "san", "subject"]
    ]
    assert [item["enabled"] for item in listed].count(False) == 1
    assert all(isinstance(item["san"], list) for item in listed)


def test_import_keeps_separator_and_line_ends(site: Site) -> None:
    """What a spreadsheet has written, it can read again."""
    site.listed.write_bytes(
        b"\xef\xbb\xbf" + HEADER.replace(",", ";").encode() + b"\r\nacme;1;CN=a,O=b;;true\r\n"
    )
    site.give('acme,2,"CN=b,O=b",,true')
    site.take()
    assert site.listed.read_bytes().endswith(
        b'acme;1;CN=a,O=b;;true\r\nacme;2;"CN=b,O=b";;true\r\n'
    )
    assert succeeded("inventory", "check", "--config", site.config).startswith(f"{site.listed}: 2 ")


@pytest.mark.parametrize(
    "rows, said",
    [
        (["acme,3,,,true", "acme,4,enb,,true"], ":3: the subject 'enb' cannot be certified"),
        (["acme,3,,,true", "acne,4,,,true"], ":3: there is no vendor 'acne'"),
        (["acme,3,CN=one,,true"], ":2: has the subject of LISTED:3"),
        (["acme,3,,,true,"], ":2: has more or fewer columns"),
    ],
)
def test_what_is_wrong_changes_nothing(site: Site, rows: list[str], said: str) -> None:
    """Also where it is wrong only beside what is listed already."""
    before = site.listed.read_bytes()
    site.give(*rows)
    ended = run("inventory", "import", site.given, "--config", site.config)
    assert ended.exit_code == 2
    assert f"{site.given}{said.replace('LISTED', str(site.listed))}" in ended.stderr
    assert site.listed.read_bytes() == before
    assert not list(site.listed.parent.glob(".devices*"))


def test_what_helps_nobody_now_can_be_taken_in(site: Site) -> None:
    """A vendor may come later."""
    site.give("later,1,,,true")
    ended = run("inventory", "import", site.given, "--despite-warnings", "--config", site.config)
    assert ended.exit_code == 0
    assert "there is no vendor 'later'" in ended.stderr
    assert "1 added" in ended.stdout


def test_a_dry_run_changes_nothing(site: Site) -> None:
    before = site.listed.read_bytes()
    site.give("acme,3,,,true")
    assert "1 added, 0 changed, 0 removed, 0 as before. Would have 3 devices." in site.take(
        "--dry-run"
    )
    assert site.listed.read_bytes() == before


def test_the_file_keeps_owner_group_and_mode(site: Site) -> None:
    """Whoever runs the command: root, for a service that is not."""
    os.chown(site.listed, 12345, 23456)
    site.listed.chmod(0o640)
    link = site.listed.with_name("link.csv")
    link.symlink_to(site.listed)
    site.config.write_text(site.config.read_text().replace('"devices.csv"', '"link.csv"'))
    site.give("acme,3,,,true")
    site.take()
    status = site.listed.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12345, 23456, 0o640)
    assert link.is_symlink()
    assert "acme,3" in site.listed.read_text()


def test_export_can_be_imported(site: Site, tmp_path: Path) -> None:
    """To standard output, or to a file that is new."""
    site.listed.write_text(
        f'{HEADER}\nacme,2,"CN=a\\,b,O=c",dns:a.example.net,true\nacme,1,,,false\n'
    )
    expected = f'{HEADER}\nacme,1,,,false\nacme,2,"CN=a\\,b,O=c",dns:a.example.net,true\n'
    assert succeeded("inventory", "export", "--config", site.config) == expected
    said = succeeded("inventory", "export", "--out", site.given, "--config", site.config)
    assert said == f"{site.given}: 2 devices of 1 vendor, 1 not enabled.\n"
    assert site.given.read_text() == expected
    assert "0 added, 0 changed, 0 removed, 2 as before" in site.take("--replace")
    assert run("inventory", "export", "--out", site.given, "--config", site.config).exit_code == 1


def test_without_an_inventory(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    for command in ("check", "export"):
        ended = run("inventory", command, "--config", config)
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert "inventory: is not in the configuration" in ended.stderr
