"""What `check-config` says of an inventory, a store and secrets that are of no use to anybody."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.support.commandline import succeeded
from tests.support.pki import VendorPKI
from tests.support.setups import edit, make_setup


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path, vendors={"acme": vendor_pki})


def warned(config: Path, about: str) -> list[str]:
    """What it is warned of that has to do with something; its directory has the name of the test."""
    lines = succeeded("check-config", config).replace(f"{config.parent}/", "").splitlines()
    found = [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]
    return [line for line in found if about in line]


# --- a table in a file -----------------------------------------------------------------------------------------


def asks_for(config: Path, table: str) -> None:
    """Have a vendor's devices looked up in an inventory."""
    heading = "[vendors.acme.identity]\n"
    edit(config, heading, f'{table}\n{heading}inventory = "required"\n')


@pytest.mark.parametrize(
    "made, said",
    [
        ("CREATE TABLE devices (a)", "no such table: inventory"),
        ("CREATE TABLE inventory (domain, identity, subject, enabled)", "no such column"),
        (
            "CREATE TABLE inventory (domain, identity, subject, san, enabled);"
            "INSERT INTO inventory VALUES ('acme', 'A1', 'enb-1', '', 1)",
            "'enb-1' cannot be certified",
        ),
        (
            "CREATE TABLE inventory (domain, identity, subject, san, enabled);"
            "INSERT INTO inventory VALUES ('acme', 'A0', '', '', 1);"
            "INSERT INTO inventory VALUES ('emca', 'A1', '', '', 1)",
            "no vendor 'emca'",
        ),
    ],
)
def test_a_table_in_a_file_is_read(config: Path, made: str, said: str) -> None:
    """Each is a warning, for the service starts with it: whom a row admits is decided when a device comes."""
    with sqlite3.connect(config.parent / "oam.sqlite") as connection:
        connection.executescript(made)
    connection.close()
    asks_for(config, '[inventory.sql]\nsqlite_path = "oam.sqlite"\n')
    (line,) = warned(config, "inventory")
    assert said in line


def test_a_table_in_a_file_that_is_no_database(config: Path) -> None:
    (config.parent / "oam.sqlite").write_text("this is no database\n")
    asks_for(config, '[inventory.sql]\nsqlite_path = "oam.sqlite"\n')
    (line,) = warned(config, "inventory")
    assert "file is not a database" in line


# --- lists of nobody --------------------------------------------------------------------------------------------


def with_lines(config: Path, *lines: str) -> None:
    text = "\n".join(("domain,identity,subject,san,enabled", *lines, ""))
    (config.parent / "devices.csv").write_text(text)


RIVET = """
[vendors.rivet]
anchors_paths = ["acme/root.pem"]
[vendors.rivet.identity]
allowed_subjects = ["CN={cn}.ran.example.net,O=Example Operator"]
"""


def test_a_line_of_a_vendor_that_does_not_look_there(config: Path) -> None:
    asks_for(config, '[inventory]\ncsv_path = "devices.csv"\n')
    config.write_text(config.read_text() + RIVET)
    with_lines(config, "acme,A1,,,true", "rivet,R1,,,true")
    (line,) = warned(config, "devices.csv")
    assert "devices.csv:3: rivet does not go by the inventory" in line
    assert 'Set inventory = "required" or "optional" in vendors.rivet.identity' in line


@pytest.mark.parametrize(
    "names", ['"CN=*.ran.example.net,O=Example Operator",', ",dns:a.ran.example.net dns:*.ran.example.net"]
)  # fmt: skip
def test_a_wildcard_is_no_name_of_one_device(config: Path, names: str) -> None:
    """The CA refuses it to an RA whose role is bound to names, as `init` makes it."""
    asks_for(config, '[inventory]\ncsv_path = "devices.csv"\n')
    with_lines(config, f"acme,A1,{names},true")
    (line,) = warned(config, "devices.csv")
    assert line.startswith("devices.csv:2: has a wildcard: ")
    assert line.endswith("Write the device's own name there")


def test_a_required_inventory_that_lists_nobody(config: Path) -> None:
    asks_for(config, '[inventory]\ncsv_path = "devices.csv"\n')
    with_lines(config, "acme,A1,,,false")
    (line,) = warned(config, "inventory")
    assert line.startswith("vendors.acme.identity.inventory: is required, and no device of acme is")
    with_lines(config, "acme,A1,,,true")
    assert warned(config, "inventory") == []


def test_lines_of_other_ras_and_of_secrets_are_looked_up(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Where approval is for the unlisted: those have no vendor, and the name of their endpoint."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url="redis://127.0.0.1:1/0")
    edit(config, "[endpoints.ran]\n", '[endpoints.ran]\napproval = "unlisted"\n')
    config.write_text(config.read_text() + '\n[inventory]\ncsv_path = "devices.csv"\n')
    lines = ("ra:ran,CN=a,,,true", "mac:ran,CN=b,,,true", "ra:rna,CN=c,,,true", "acme,1,,,true")
    with_lines(config, *lines)
    (line,) = warned(config, "devices.csv")
    assert "devices.csv:4: there is no vendor 'ra:rna'" in line


def test_a_redis_that_nobody_uses(config: Path) -> None:
    edit(config, 'kind = "memory"', 'kind = "memory"\nredis_url = "redis://127.0.0.1:1/0"')
    (line,) = warned(config, "redis")
    assert line.startswith('store.redis_url: is not used, since store.kind is "memory"')


def test_a_secret_that_has_expired(config: Path) -> None:
    """Its line is told; one without an end, or whose end is to come, is not."""
    rows = [
        f'reference-{end[:4]},secret-of-16-octets,"CN=a.ran.example.net,O=Example Operator",,false,{end}'
        for end in ("2020-01-31T00:00:00Z", "2999-01-31T00:00:00Z")
    ]
    secrets = config.parent / "secrets.csv"
    secrets.write_text("\n".join(("reference,secret,subject,san,single_use,expires", *rows, "")))
    secrets.chmod(0o600)
    edit(config, "[endpoints.ran]\n", '[endpoints.ran]\nstrictness = "lenient"\n')
    config.write_text(config.read_text() + '\n[endpoints.ran.mac]\nsecrets_path = "secrets.csv"\n')
    (line,) = warned(config, "expired")
    assert "secrets.csv:2: expired at 2020-01-31 00:00 UTC: nobody gets in by it" in line
