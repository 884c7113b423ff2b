"""What the doctor says of the files of TLS, and of an inventory in a table or behind a URL."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ra_gateway.app.doctor.ca import examine_ca
from ra_gateway.app.doctor.examination import examine
from ra_gateway.app.doctor.results import Result, Verdict
from ra_gateway.config.reading import load, load_ca
from tests.support.pki import VendorPKI, make_root, write_certificates
from tests.support.setups import edit, make_setup

ROOT = make_root("TLS root")


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path, vendors={"acme": vendor_pki})


async def troubles(config: Path, *, of_ca: bool = False) -> list[Result]:
    """All rows that are not well, but for what is merely less safe than it could be."""
    if of_ca:
        found = await examine_ca(load_ca(config, check_files=False))
    else:
        found = await examine(load(config, check_files=False))
    return [row for row in found if row.verdict is not Verdict.ok and row.subject != "safety"]


def with_tls(config: Path, table: str, *, days: int = 300, fitting: bool = True) -> None:
    """Give a listener a certificate that has so many days left, and its key or another one."""
    now = datetime.now(UTC)
    dates = {"not_before": now - timedelta(days=400), "not_after": now + timedelta(days=days)}
    ROOT.issue("gateway", san=["dns:localhost"], **dates).write(config.parent, "tls")
    if not fitting:
        other = ROOT.issue("other", **dates)
        write_certificates(config.parent / "tls.pem", other.certificate)
    lines = 'certificate_path = "tls.pem"\nkey_path = "tls.key"\n'
    config.write_text(f"{config.read_text()}\n[{table}]\n{lines}")


@pytest.mark.parametrize(
    "table, of_ca", [("server.tls", False), ("management.tls", False), ("ca.server.tls", True)]
)
async def test_the_certificates_of_listeners_are_looked_at(
    config: Path, table: str, of_ca: bool
) -> None:
    with_tls(config, table)
    assert await troubles(config, of_ca=of_ca) == []


@pytest.mark.parametrize(
    "days, verdict, said",
    [(-1, Verdict.fault, "expired at"), (9, Verdict.warning, "expires in")],
)
@pytest.mark.parametrize(
    "table, of_ca", [("server.tls", False), ("management.tls", False), ("ca.server.tls", True)]
)
async def test_a_certificate_of_a_listener_that_ends_is_told(
    config: Path, table: str, of_ca: bool, days: int, verdict: Verdict, said: str
) -> None:
    with_tls(config, table, days=days)
    (row,) = await troubles(config, of_ca=of_ca)
    assert (row.verdict, row.subject) == (verdict, "TLS of listeners")
    assert said in row.came_back
    assert row.setting.startswith(f"{table}.certificate_path")


@pytest.mark.parametrize("table", ["server.tls", "management.tls"])
async def test_a_key_that_does_not_fit_is_no_matter_of_an_upstream(
    config: Path, table: str
) -> None:
    """And is told once, though the CA in this process is not loaded for it either."""
    with_tls(config, table, fitting=False)
    (row,) = await troubles(config)
    assert (row.verdict, row.subject) == (Verdict.fault, "TLS of listeners")
    assert row.setting == f"{table}.key_path"
    assert "does not belong to" in row.came_back


def with_table(config: Path, *rows: tuple[object, ...]) -> None:
    """Give a gateway an inventory in a table of SQLite."""
    columns = "domain text, identity text, subject text, san text, enabled boolean"
    with sqlite3.connect(config.parent / "oam.sqlite") as connection:
        connection.execute(f"CREATE TABLE inventory ({columns})")
        connection.executemany("INSERT INTO inventory VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    asks_for(config, '[inventory.sql]\nsqlite_path = "oam.sqlite"\n')


def asks_for(config: Path, table: str) -> None:
    """Have a vendor's devices looked up in an inventory."""
    heading = "[vendors.acme.identity]\n"
    edit(config, heading, f'{table}\n{heading}inventory = "required"\n')


async def test_each_row_of_a_table_is_looked_at(config: Path) -> None:
    """As each line of a file is: what cannot be used, and what helps nobody."""
    with_table(config, ("acme", "A1", "enb-1", "", True), ("acme", "A2", None, None, "perhaps"))
    found = await troubles(config)
    assert [(row.subject, row.verdict) for row in found] == [("inventory", Verdict.fault)] * 2
    assert found[0].setting == "table inventory:A1 of acme"
    assert "'enb-1' cannot be certified" in found[0].came_back


async def test_a_row_of_a_table_that_helps_nobody_is_told(config: Path) -> None:
    with_table(config, ("acme", "A1", "", "", True), ("emca", "A2", "", "", True))
    (row,) = await troubles(config)
    assert (row.subject, row.verdict) == ("inventory", Verdict.warning)
    assert row.tried == "table inventory:A2 of emca"
    assert "no vendor 'emca'" in row.came_back


async def test_a_table_that_is_well_says_how_many(config: Path) -> None:
    with_table(config, ("acme", "A1", "", "", True))
    (row,) = [row for row in await examine(load(config)) if row.subject == "inventory"]
    assert (row.verdict, row.came_back) == (Verdict.ok, "1 device of 1 vendor")


async def test_a_service_that_is_down_is_named_with_its_setting(
    config: Path, unused_tcp_port: int
) -> None:
    """In words, and not in those of a library that speaks of TLS where there is none."""
    secret = config.parent / "webhook.secret"
    secret.write_text("whsec_" + "A" * 44)
    secret.chmod(0o600)
    url = f"http://127.0.0.1:{unused_tcp_port}/x"
    asks_for(config, f'[inventory.http]\nurl = "{url}"\nsecret_path = "webhook.secret"\n')
    (row,) = await troubles(config)
    assert (row.subject, row.setting) == ("inventory", "inventory.http.url")
    assert "ssl:default" not in row.came_back
    assert "onnection refused" in row.came_back
