"""An inventory in a table of a real SQLite or PostgreSQL: read for each device, and what is not clear admits nobody."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite as sqlite_dialect

from ra_gateway.config.service_tables import InventorySQLConfig
from ra_gateway.errors import PKIFailureInfo, StoreUnavailable
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.stores.inventory_sql import SQLInventory
from tests.support.commandline import run, succeeded
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.postgres_server import PostgresServer
from tests.support.setups import make_setup

ROOT = Path(__file__).resolve().parents[2]

HEADER = "domain,identity,subject,san,enabled"

TABLE = """
    CREATE TABLE inventory (
        domain text NOT NULL, identity text NOT NULL, subject text, san text, enabled {boolean}
    );
    INSERT INTO inventory VALUES
        ('acme', 'SN1', 'CN=a,O=b', 'dns:a.example.net dns:b.example.net', {yes}),
        ('acme', 'sn2', NULL, NULL, {no}),
        ('acme', 'twice', 'CN=c', '', {yes}),
        ('acme', 'TWICE', 'CN=d', '', {no}),
        ('acme', 'bad name', 'enb-1', '', {yes}),
        ('acme', 'bad san', '', 'enb-1', {yes}),
        ('acme', 'nothing', '', '', NULL);
"""


NAMELESS = """
    DELETE FROM inventory;
    INSERT INTO inventory VALUES
        ('acme', {escape} || '[2J', '', '', true),
        ('acme', {long}, '', '', true),
        ({escape}, 'sn8', '', '', true);
"""

ENDLESS = """
    CREATE VIEW inventory AS
    WITH RECURSIVE t(x) AS (SELECT 0 AS x UNION ALL SELECT x + 1 FROM t)
    SELECT 'acme' AS domain, 'sn' || x AS identity, '' AS subject, '' AS san, 1 AS enabled FROM t WHERE x < 0
"""


class Tables:
    """A database that has the table.

    Args:
        execute: Runs statements on it.
        settings: Of `[inventory.sql]`.
    """

    def __init__(self, execute: Callable[[str], object], settings: dict[str, Path]) -> None:
        self.execute, self.settings = execute, settings
        self.is_postgres = "url_path" in settings
        boolean, yes, no = (
            ("boolean", "true", "false") if self.is_postgres else ("integer", "1", "0")
        )
        execute(TABLE.format(boolean=boolean, yes=yes, no=no))

    def inventory(self, **options: float | str) -> SQLInventory:
        """Return the inventory that reads it."""
        settings = {"timeout_seconds": 20.0, **self.settings, **options}
        return SQLInventory(**dict(InventorySQLConfig.model_validate(settings)))

    def table(self) -> str:
        """Return the table for a configuration."""
        lines = [f'{key} = "{path}"' for key, path in self.settings.items()]
        return "\n".join(("", "[inventory.sql]", "timeout_seconds = 20.0", *lines, ""))


def sqlite_tables(tmp_path: Path) -> Tables:
    path = tmp_path / "devices.sqlite"

    def execute(sql: str) -> None:
        connection = sqlite3.connect(path)
        connection.executescript(sql)
        connection.close()

    return Tables(execute, {"sqlite_path": path})


def postgres_tables(tmp_path: Path, server: PostgresServer) -> Tables:
    url = server.emptied_database()
    path = tmp_path / "inventory.url"
    path.write_text(url)
    path.chmod(0o600)
    database = url.rpartition("/")[2]
    return Tables(lambda sql: server.execute(sql, database=database), {"url_path": path})


@pytest.fixture(params=["sqlite", "postgres"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Tables:
    if request.param == "sqlite":
        return sqlite_tables(tmp_path)
    return postgres_tables(tmp_path, request.getfixturevalue("postgres_server"))


@pytest.fixture
async def inventory(tables: Tables) -> AsyncIterator[SQLInventory]:
    made = tables.inventory()
    yield made
    await made.close()


async def test_a_device_is_looked_up(tables: Tables, inventory: SQLInventory) -> None:
    """However it spells itself; what changes in the table holds for the next one."""
    expected = InventoryEntry("CN=a,O=b", ("dns:a.example.net", "dns:b.example.net"), True)
    assert await inventory.find("acme", "SN1") == expected
    assert await inventory.find("acme", "sn1 ") == expected
    assert await inventory.find("acme", "SN2") == InventoryEntry("", (), False)
    assert await inventory.find("other", "SN1") is None
    assert await inventory.find("acme", "' OR 1=1 --") is None
    tables.execute("INSERT INTO inventory VALUES ('ra:ran', 'serialNumber=1,CN=a', '', '', true)")
    assert await inventory.find("ra:ran", "2.5.4.5=1,CN=a") == InventoryEntry("", (), True)
    tables.execute("DELETE FROM inventory WHERE identity = 'SN1'")
    assert await inventory.find("acme", "SN1") is None


@pytest.mark.parametrize(
    "identity, said",
    [
        ("twice", "two rows"),
        ("bad name", "the subject 'enb-1' cannot be certified"),
        ("bad san", "'enb-1' cannot be certified"),
        ("nothing", "enabled is neither true nor false"),
    ],
)
async def test_a_row_that_is_not_clear_admits_nobody(
    inventory: SQLInventory, identity: str, said: str
) -> None:
    with pytest.raises(StoreUnavailable, match=said) as caught:
        await inventory.find("acme", identity)
    assert caught.value.fail_info is PKIFailureInfo.systemUnavail


@pytest.mark.parametrize(
    "sql", ["DROP TABLE inventory", "ALTER TABLE inventory RENAME COLUMN san TO x"]
)
async def test_a_table_that_is_none_admits_nobody(
    tables: Tables, inventory: SQLInventory, sql: str
) -> None:
    """What the database says is told, and neither the statement nor the URL."""
    tables.execute(sql)
    for asked in (inventory.find("acme", "SN1"), inventory.look()):
        with pytest.raises(StoreUnavailable) as caught:
            await asked
        assert "table inventory" in caught.value.detail
        assert "SELECT" not in caught.value.detail
        assert len(caught.value.detail) < 300


@pytest.mark.parametrize("vendor", ["acme", "ra:ran"])
def test_a_device_is_found_by_an_index(tmp_path: Path, vendor: str) -> None:
    """In the table that docs/registering.md makes: of a million devices, one is not looked for among all."""
    page = (ROOT / "docs/registering.md").read_text()
    path = tmp_path / "devices.sqlite"
    connection = sqlite3.connect(path)
    for begin in ("CREATE TABLE inventory", "CREATE INDEX inventory_lower"):
        connection.execute(page[page.index(f"    {begin}") :].partition(";")[0])
    settings = InventorySQLConfig.model_validate({"sqlite_path": path})
    query = SQLInventory(**dict(settings)).query(vendor, "serialNumber=1,CN=a")
    sql = str(
        query.compile(dialect=sqlite_dialect.dialect(), compile_kwargs={"literal_binds": True})
    )
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    ways = [step for step in plan if " inventory" in step]
    assert len(ways) == 2
    assert all(re.search(r"\(domain=\? AND (identity|<expr>)=\?\)", way) for way in ways), plan


def test_sqlite_that_does_not_answer_is_interrupted(tmp_path: Path) -> None:
    """A thread of the process that reads for ever would hold up others, and its end."""
    path = tmp_path / "devices.sqlite"
    connection = sqlite3.connect(path)
    connection.execute(ENDLESS)
    connection.close()
    settings = InventorySQLConfig.model_validate({"sqlite_path": path, "timeout_seconds": 0.1})
    inventory = SQLInventory(**dict(settings))

    async def look_up() -> None:
        with pytest.raises(StoreUnavailable, match="does not answer in time"):
            await inventory.find("acme", "sn1")

    begun = threading.Thread(target=lambda: asyncio.run(look_up()), daemon=True)
    begun.start()
    begun.join(PATIENCE_SECONDS)  # asyncio.run waits for its threads
    assert not begun.is_alive()


async def test_a_value_of_any_length_is_not_read(tmp_path: Path) -> None:
    tables = sqlite_tables(tmp_path)
    tables.execute(
        "INSERT INTO inventory VALUES ('acme', 'long', hex(zeroblob(2000000)), '', true)"
    )
    with pytest.raises(StoreUnavailable, match="too big"):
        await tables.inventory().find("acme", "long")


async def test_many_devices_at_once(inventory: SQLInventory) -> None:
    """More than there are connections."""
    found = await asyncio.gather(*(inventory.find("acme", "SN1") for _ in range(30)))
    assert all(entry is not None and entry.subject == "CN=a,O=b" for entry in found)


async def test_postgres_that_goes_and_comes(
    own_postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Meanwhile nobody is admitted; and the first device after it costs nothing."""
    inventory = postgres_tables(tmp_path, own_postgres_server).inventory()
    assert await inventory.find("acme", "SN1") is not None
    own_postgres_server.stop()
    with pytest.raises(StoreUnavailable):
        await inventory.find("acme", "SN1")
    own_postgres_server.start()
    assert await inventory.find("acme", "SN1") is not None
    await inventory.close()


async def test_a_table_that_is_locked_is_not_waited_for(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """Longer than `timeout_seconds`."""
    import asyncpg

    tables = postgres_tables(tmp_path, postgres_server)
    inventory = tables.inventory(timeout_seconds=0.3)
    holder = await asyncpg.connect(tables.settings["url_path"].read_text())
    async with holder.transaction():
        await holder.execute("LOCK TABLE inventory")
        with pytest.raises(StoreUnavailable, match="does not answer in time"):
            await inventory.find("acme", "SN1")
    await holder.close()
    await inventory.close()


# --- commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tables: Tables, tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    path = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    path.write_text(path.read_text() + tables.table())
    return path


def test_check_names_the_rows(config: Path) -> None:
    """All of those that admit nobody."""
    assert run("check-config", "--config", config).exit_code == 0
    ended = run("inventory", "check", "--config", config)
    assert ended.exit_code == 2
    assert sorted(line.split(": ")[0] for line in ended.stderr.splitlines()) == [
        f"table inventory:{identity} of acme"
        for identity in ("TWICE", "bad name", "bad san", "nothing")
    ]


def test_check_names_rows_that_have_no_name(config: Path, tables: Tables) -> None:
    """As a database may have them: no text, far too long, or with what moves a terminal's cursor."""
    escape, long = (
        ("chr(27)", "repeat('a', 20000)")
        if tables.is_postgres
        else ("char(27)", "hex(zeroblob(10000))")
    )
    tables.execute(NAMELESS.format(escape=escape, long=long))
    said = ["has a character that cannot be seen, \\x1b"] * 2 + ["is no text, or a very long one"]
    if not tables.is_postgres:  # where a column has texts only
        tables.execute("INSERT INTO inventory VALUES ('acme', x'21', '', '', true)")
        said.append("is no text, or a very long one")
    for command in (("check",), ("export",)):
        ended = run("inventory", *command, "--config", config)
        assert ended.exit_code == 2, ended.stderr
        lines = ended.stderr.splitlines()
        assert len(lines) == len(said)
        assert all(sum(text in line for line in lines) == said.count(text) for text in said)
        assert all(line.startswith("table inventory:row ") for line in lines)


def test_import_and_export(config: Path, tables: Tables, tmp_path: Path) -> None:
    """All or nothing; and what is exported can be imported."""
    tables.execute("DELETE FROM inventory WHERE identity NOT IN ('SN1', 'sn2')")
    given = tmp_path / "given.csv"
    given.write_text(f'{HEADER}\nacme,SN1,"CN=e,O=f",,true\nacme,SN3,CN=g,dns:g.example.net,true\n')
    take = ("inventory", "import", given, "--config", config)
    assert "1 added, 1 changed, 0 removed, 0 as before. Would have 3" in succeeded(
        *take, "--dry-run"
    )
    assert "acme,sn3" not in succeeded("inventory", "export", "--config", config)
    assert succeeded(*take) == (
        "table inventory: 1 added, 1 changed, 0 removed, 0 as before. Has 3 devices now.\n"
    )
    exported = succeeded("inventory", "export", "--config", config)
    assert exported == (
        f'{HEADER}\nacme,sn1,"CN=e,O=f",,true\nacme,sn2,,,false\nacme,sn3,CN=g,dns:g.example.net,true\n'
    )
    given.write_text(f"{HEADER}\nacme,SN3,CN=h,,true\nacme,SN4,CN=h,,true\n")
    assert run(*take).exit_code == 2
    assert succeeded("inventory", "export", "--config", config) == exported
    given.write_text(f"{HEADER}\nacme,SN3,CN=g,dns:g.example.net,true\n")
    assert "0 added, 0 changed, 2 removed, 1 as before" in succeeded(*take, "--replace")
    assert succeeded("inventory", "check", "--config", config) == (
        "table inventory: 1 device of 1 vendor.\n"
    )
