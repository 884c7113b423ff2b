"""`ra-gateway audit` over a gateway's trail and that of the ledger: as the page says, and what is found is said."""

from __future__ import annotations

import csv
import getpass
import io
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp.certificates import Certificate
from tests.support.commandline import run
from tests.support.pki import make_vendor_pki
from tests.support.printed import Prompt, to_run
from tests.support.reloading import serving
from tests.support.setups import make_setup


@dataclass
class Site:
    """A site with a trail, where one base station has enrolled.

    Args:
        certificate: Its own.
    """

    config: Path
    certificate: Certificate

    def audit(self, *arguments: str) -> Any:
        """Run a command on it."""
        return run("audit", *arguments, "--config", self.config)

    def spoil(self, statement: str, name: str = "audit.sqlite") -> None:
        """Write to a database what nobody should."""
        with sqlite3.connect(self.config.parent / name) as connection:
            connection.execute(statement)
        connection.close()


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    """The site; its gateway has ended."""
    vendor = make_vendor_pki("Acme")
    config = make_setup(tmp_path / "site", vendors={"acme": vendor})
    config.write_text(f'{config.read_text()}\n[audit]\nsqlite_path = "audit.sqlite"\n')
    async with serving(config) as served:
        certificate = await served.enrol(vendor, "A1")
    return Site(config, certificate)


def test_both_trails_are_one(site: Site) -> None:
    """A transaction has what the gateway did and what the CA did, by time; verified, found, given out."""
    ended = site.audit("verify")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert "gateway: records 1 to " in ended.stdout
    assert "ca: records 1 to " in ended.stdout
    serial = f"{site.certificate.serial_number:x}"
    by_serial = json.loads(site.audit("search", "--serial", serial, "--json").stdout)
    assert {item["trail"] for item in by_serial} == {"gateway", "ca"}
    transaction_id = next(
        item["detail"]["transaction_id"] for item in by_serial if item["trail"] == "gateway"
    )
    found = json.loads(site.audit("search", "--transaction", transaction_id, "--json").stdout)
    assert {"forward", "message", "issue", "confirm"} <= {item["action"] for item in found}
    assert [item["at"] for item in found] == sorted(item["at"] for item in found)
    assert any(item["trail"] == "ca" for item in found)
    table = site.audit("search", "--device", "CN=A1*", "--limit", "3")
    assert (table.exit_code, table.stdout.splitlines()[0].split("\t")[0]) == (0, "Time (UTC)")
    rows = list(csv.DictReader(io.StringIO(site.audit("export").stdout)))
    lines = [json.loads(line) for line in site.audit("export", "--json").stdout.splitlines()]
    assert [row["hash"] for row in rows] == [line["hash"] for line in lines]
    assert {row["trail"] for row in rows} == {"gateway", "ca"}
    assert len(site.audit("export", "--until", "2020-01-01").stdout.splitlines()) == 1


def test_what_the_page_says(site: Site, tmp_path: Path) -> None:
    """Each command of audit.md succeeds, and finds something."""
    prompt = Prompt(
        tmp_path,
        texts={
            "5b1f03c9": f"{site.certificate.serial_number:x}",
            "--outcome refused": "--outcome issued",
            "--since 2026-11-01": "--since 2025-01-01",
            "--until 2026-12-01": "--until 2100-01-01",
            "SN-000001": "A1",
        },
        environment={"RA_GATEWAY_CONFIG": str(site.config)},
    )
    commands = [item.text for item in to_run("docs/audit.md")]
    assert len(commands) == 6
    for command in commands:
        assert len(prompt.succeeds(command).splitlines()) > 0, command
    assert len((tmp_path / "november.csv").read_text().splitlines()) > 10


def test_what_was_done_to_a_trail_is_said(site: Site) -> None:
    """Of either; a head that was noted elsewhere tells of the end."""
    verified = json.loads(site.audit("verify", "--json").stdout)["gateway"]
    noted = f"{verified['last']}:{verified['head']}"
    assert site.audit("verify", "--head", noted).exit_code == 0
    site.spoil("UPDATE audit SET actor = 'operator:eve' WHERE number = 2", "ca/ledger.sqlite")
    ended = site.audit("verify")
    assert ended.exit_code == 1
    assert "ca: record 2 was changed" in ended.stderr
    assert site.audit("verify", "--trail", "gateway").exit_code == 0
    site.spoil("DELETE FROM gateway_audit WHERE number = (SELECT number FROM gateway_audit_head)")
    ended = site.audit("verify", "--trail", "gateway")
    assert "missing at the end" in ended.stderr
    site.spoil(
        "UPDATE gateway_audit_head SET (number, hash) = "
        "(SELECT number, hash FROM gateway_audit ORDER BY number DESC LIMIT 1)"
    )
    assert site.audit("verify", "--trail", "gateway").exit_code == 0
    ended = site.audit("verify", "--trail", "gateway", "--head", noted, "--json")
    assert ended.exit_code == 1
    assert len(json.loads(ended.stdout)["gateway"]["findings"]) == 1


def test_what_a_person_does_has_the_persons_name(site: Site) -> None:
    """A reload that nobody takes up was asked for all the same."""
    assert run("reload", "--config", site.config).exit_code != 0
    (asked,) = json.loads(site.audit("search", "--action", "reload.asked", "--json").stdout)
    assert asked["actor"] == f"operator:{getpass.getuser()}"
    assert asked["detail"]["digest"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("verify", "--head", "12:ab"), "is no head"),
        (("search", "--since", "yesterday"), "is no time"),
    ],
)
def test_what_cannot_be_read_is_said(site: Site, arguments: tuple[str, ...], said: str) -> None:
    """At the option that has it."""
    ended = site.audit(*arguments)
    assert (ended.exit_code, said in ended.stderr) == (2, True)


def test_without_a_trail_there_is_nothing_to_read(tmp_path: Path) -> None:
    """A trail that was never begun."""
    config = make_setup(tmp_path / "site", vendors={})
    config.write_text(f'{config.read_text()}\n[audit]\nsqlite_path = "audit.sqlite"\n')
    ended = run("audit", "search", "--config", config)
    assert (ended.exit_code, "audit.sqlite" in ended.stderr) == (1, True)
