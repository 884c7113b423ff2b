"""What docs/registering.md says can be done as it stands there."""

from __future__ import annotations

import asyncio
import re
import shlex
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

from ra_gateway.app.doctor.environment import examine_inventory
from ra_gateway.app.doctor.results import Verdict
from ra_gateway.cmp.names import rfc4514
from ra_gateway.config.reading import load
from ra_gateway.stores.inventory import CSVInventory
from ra_gateway.stores.secrets import SecretFile
from tests.support.commandline import run, succeeded
from tests.support.page_site import make_page_site
from tests.support.pki import VendorPKI
from tests.support.setups import edit

PAGE: Final = Path(__file__).parents[2] / "docs" / "registering.md"


def block(begin: str) -> str:
    """The indented block of the page whose first line begins so."""
    found = re.search(rf"^    {re.escape(begin)}.*(?:\n    .*)*", PAGE.read_text(), re.MULTILINE)
    assert found is not None, begin
    return dedent(found[0])


@pytest.mark.requirement("T27")
async def test_the_inventory_of_the_page(tmp_path: Path) -> None:
    """It is read, and finds the device by the FQDN of its certificate."""
    path = tmp_path / "inventory.csv"
    path.write_text(block("domain,identity"))
    inventory = CSVInventory(path)
    entry = await inventory.find("acme", "enb-0001.acme-radio.example")
    assert entry is not None
    assert (entry.subject, entry.san) == (
        "CN=enb1.ran.example.net,O=Example Operator",
        ("dns:enb1.ran.example.net",),
    )
    other = await inventory.find("oldcorp", "21305500")
    assert other is not None
    assert other.san == ("dns:enb7.ran.example.net", "ip:192.0.2.7")
    disabled = await inventory.find("acme", "ENB-0002.acme-radio.example")
    assert disabled is not None
    assert not disabled.enabled


@pytest.mark.requirement("T53")
def test_the_end_entities_of_the_page(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """A base station and a network function are registered by the commands as they stand there."""
    config = make_page_site(tmp_path / "site", PAGE.name, vendor_pki, runs=False)
    for name in ("enb-1", "amf1"):
        _, *arguments = shlex.split(block(f"ra-gateway ca entity add {name}").replace("\\\n", " "))
        assert succeeded(*arguments, "--config", config) == f"Registered {name}.\n"
    told = succeeded("ca", "entity", "show", "amf1", "--config", config)
    assert "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6" in told
    assert re.search(r"Profile: +nf\n", told)
    assert re.search(r"Identity: +amf1\.acme-core\.example\n", told)


@pytest.mark.requirement("T53")
async def test_the_secret_of_the_page(tmp_path: Path) -> None:
    """A reference and a secret for one subject, with the FQDN and the URI of the instance."""
    path = tmp_path / "secrets.csv"
    path.touch(0o600)
    path.write_text(block("reference,secret"))
    secrets = SecretFile(
        path, clock=lambda: datetime(2027, 1, 1, tzinfo=UTC), used_path=tmp_path / "used"
    )
    secret = await secrets.find(b"amf1", "192.0.2.1")
    assert secret is not None
    assert secret.single_use
    assert rfc4514(secret.subject_der).endswith("O=5gc.mnc001.mcc001.3gppnetwork.org,C=FI")
    assert secret.san[1].startswith("uri:urn:uuid:")


MAC = """
[endpoints.mac]
paths = ["/mac"]
upstream = "bundled"
strictness = "lenient"
body_types = ["ir"]

[endpoints.mac.mac]
secrets_path = "secrets.csv"
used_path = "used"

[endpoints.mac.registration_authorities]
certificate_paths = ["ra/ra.pem"]
allowed_subjects = ["CN=*.5gc.mnc001.mcc001.3gppnetwork.org,O=5gc.mnc001.mcc001.3gppnetwork.org,C=FI"]
allowed_sans = ["dns:*.5gc.mnc001.mcc001.3gppnetwork.org", "uri:urn:uuid:*"]
ra_verified = true
"""


def in_a_table(config: Path) -> None:
    """Have the inventory's file replaced by a table of SQLite with the same devices."""
    devices = CSVInventory(config.with_name("devices.csv"))
    with closing(sqlite3.connect(config.with_name("devices.sqlite"))) as database, database:
        database.execute(
            "CREATE TABLE inventory (domain TEXT, identity TEXT, subject TEXT, san TEXT, enabled INTEGER)"
        )
        for item in devices:
            row = (item.domain, item.identity, item.entry.subject, " ".join(item.entry.san))
            database.execute(
                "INSERT INTO inventory VALUES (?, ?, ?, ?, ?)", (*row, item.entry.enabled)
            )
    table = '[inventory.sql]\nsqlite_path = "devices.sqlite"'
    edit(config, '[inventory]\ncsv_path = "devices.csv"', table)


@pytest.mark.requirement("T1", "T53")
def test_what_the_ca_is_going_to_refuse_is_told(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Of end entities, of lines with names, and of another RA's patterns: with the domains of `init` alone, not with
    the page's.
    """
    config = make_page_site(tmp_path / "site", PAGE.name, vendor_pki, runs=False)
    domain = '"5gc.mnc001.mcc001.3gppnetwork.org"'
    edit(config, "[vendors.acme.identity]", '[vendors.acme.identity]\ninventory = "optional"')
    config.write_text(f'{config.read_text()}{MAC}\n[inventory]\ncsv_path = "devices.csv"\n')
    config.with_name("devices.csv").write_text(block("domain,identity"))
    file = config.with_name("secrets.csv")
    file.touch(0o600)
    file.write_text(block("reference,secret"))

    def told() -> list[str]:
        lines = succeeded("check-config", "--config", config).splitlines()
        return [line for line in lines if "refuse" in line]

    def added(name: str, *, renamed: str) -> str:
        _, *words = shlex.split(block(f"ra-gateway ca entity add {name}").replace("\\\n", " "))
        return succeeded(*(renamed if word == name else word for word in words), "-c", config)

    assert told() == []
    edit(config, f'domains = ["ran.example.net", {domain}]', 'domains = ["ran.example.net"]')
    assert "warning" not in added("enb-1", renamed="enb-1")
    assert "going to refuse the names of amf1: O lies in no domain of the operator" in added(
        "amf1", renamed="amf1"
    )
    secret, *patterns = told()[::-1]
    assert "secrets.csv:2: has names that the bundled CA refuses" in secret
    assert "O lies in no domain of the operator" in secret
    assert [line.split('"')[1][:5] for line in patterns] == ["uri:u", "dns:*", "CN=*."]
    edit(config, 'organisations = ["Example Operator"]', 'organisations = ["Another"]')
    first = "devices.csv:2: has names that the bundled CA refuses"
    assert first in "".join(told())
    assert first in run("inventory", "check", "--config", config).stdout
    in_a_table(config)
    row = "warning: table inventory:enb-0001.acme-radio.example of acme: has names that the bundled CA refuses"
    assert [line for line in told() if line.startswith(row)] != []
    assert row in run("inventory", "check", "--config", config).stdout
    *_, warned = asyncio.run(examine_inventory(load(config)))
    assert "the bundled CA refuses" in warned.came_back
    assert (warned.verdict, warned.tried) == (
        Verdict.warning,
        "table inventory:enb-0001.acme-radio.example of acme",
    )
    rows = "name,subject,names,profile,vendor,identity\n"
    other = 'enb-2,"CN=enb2.ran.example.net,O=Example Operator",,,acme,2\n'
    csv = config.with_name("entities.csv")
    csv.write_text(rows + other)
    said = succeeded("ca", "entity", "import", csv, "--config", config)
    assert "Registered 1 end entity." in said
    assert "refuse the names of enb-2: O is none of the operator's own" in said
