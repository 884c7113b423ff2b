"""The ledger's SQLite file: who may read it, what is refused, what a crash leaves; and what is prepared once."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, bindparam, create_engine, insert, select, text

from ra_gateway.ca.ledger import database as database_module
from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.database import write
from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.ca.ledger.sql import Prepared, listed, operation_key, padded
from ra_gateway.ca.records import CertificateStatus, Reason, Reenroll, Revocation
from ra_gateway.errors import ConfigError, StoreUnavailable
from ra_gateway.events import Fact, StoreLost
from tests.support.ledgers import NOW, intent, issue, operation
from tests.support.patience import PATIENCE_SECONDS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    ledger = open_ledger(path)
    await ledger.open()
    yield ledger
    await ledger.close()


# --- the file -------------------------------------------------------------------------------------------------


async def test_the_file_is_private(path: Path, ledger: Ledger) -> None:
    """Nobody else may read subjects, in it or beside it."""
    await issue(ledger)
    files = list(path.parent.glob("ledger.db*"))
    assert len(files) == 3
    assert [file.stat().st_mode & 0o077 for file in files] == [0, 0, 0]


async def test_the_file_survives_a_restart(path: Path) -> None:
    """What was stored is found."""
    first = open_ledger(path)
    await first.open()
    item = await issue(first)
    await first.close()
    second = open_ledger(path)
    await second.open()
    assert await second.find_operation(item.requester, item.transaction_id, NOW) == item
    await second.close()


async def test_what_was_stored_is_in_the_file_while_it_is_open(path: Path, ledger: Ledger) -> None:
    """Another connection sees it without any close."""
    await issue(ledger, confirmed=False)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT status FROM certificates").fetchall() == [("issued",)]


async def test_another_process_that_comes_and_goes_does_no_harm(path: Path, ledger: Ledger) -> None:
    """Its close must not take the write-ahead log with it: nothing here may drop this process's locks on the file."""
    look = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]);"
        "print(connection.execute('SELECT count(*) FROM certificates').fetchone()[0])"
    )

    def seen_elsewhere() -> int:
        return int(subprocess.check_output([sys.executable, "-c", look, str(path)], text=True))

    await ledger.counts()  # also the connection for long reads came and went
    for number in range(1, 4):
        await issue(ledger, f"enb{number}")
        assert seen_elsewhere() == number
    await ledger.close()
    assert seen_elsewhere() == 3


async def test_only_durable_work_is_flushed(ledger: Ledger) -> None:
    """An intent is committed with synchronous=NORMAL (1), a certificate with FULL (2)."""

    def synchronous(connection: Connection) -> object:
        return connection.scalar(text("PRAGMA synchronous"))

    for durable, expected in ((False, 1), (True, 2), (False, 1)):
        assert await write(ledger._database, synchronous, durable=durable) == expected


async def test_reading_waits_for_no_writer(path: Path, ledger: Ledger) -> None:
    """Another process holds the file for writing: lookups go on, writing goes on after it."""
    item = await issue(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(issue(ledger, "enb2"))
        await asyncio.sleep(0.05)
        assert await ledger.certificate(item.serial_number, NOW) is not None
        assert not waiting.done()
        other.execute("ROLLBACK")
    await waiting


async def test_a_file_that_stays_locked_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """StoreUnavailable, after one wait for all that was queued."""
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 0.2)
    ledger = open_ledger(path)
    await ledger.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(PATIENCE_SECONDS):
            results = await asyncio.gather(
                *(ledger.reserve(operation(), intent(), NOW) for _ in range(20)),
                return_exceptions=True,
            )
        assert {type(result) for result in results} == {StoreUnavailable}
        other.execute("ROLLBACK")
    assert await ledger.reserve(operation(), intent(), NOW) is None
    await ledger.close()


async def test_a_full_disk_is_told_though_nobody_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is had and what is stored is read, so that neither tells: `ping` looks at the room."""
    facts: list[Fact] = []
    ledger = open_ledger(path, facts.append)
    await ledger.open()
    try:
        await ledger.ping()
        room = os.statvfs(path)
        full = SimpleNamespace(f_bavail=0, f_frsize=room.f_frsize)
        monkeypatch.setattr(os, "statvfs", lambda _path: full)
        with pytest.raises(StoreUnavailable, match="No space left on device"):
            await ledger.ping()
        assert [type(fact) for fact in facts] == [StoreLost]
        monkeypatch.setattr(os, "statvfs", lambda _path: room)
        await ledger.ping()
    finally:
        await ledger.close()


async def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    """Not SQLite; of an earlier kind; in no directory. It is left as it is."""
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"x" * 4096)
    earlier = tmp_path / "earlier.db"
    with closing(sqlite3.connect(earlier)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("CREATE TABLE certificates (id INTEGER PRIMARY KEY)")
        connection.commit()
    for path in (garbage, earlier, tmp_path / "none" / "ledger.db"):
        with pytest.raises(ConfigError, match=r"ca\.ledger_path"):
            await open_ledger(path).open()
    assert garbage.read_bytes() == b"x" * 4096


_ISSUES_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from ra_gateway.ca.ledger.ledger import open_ledger
from tests.support.ledgers import issue

async def run():
    ledger = open_ledger(Path(sys.argv[1]))
    await ledger.open()
    async def worker(number):
        for turn in range(10**6):
            item = await issue(ledger, f"enb{number}-{turn}", confirmed=False)
            print(f"{item.serial_number:x}", flush=True)
    await asyncio.gather(*(worker(number) for number in range(16)))

asyncio.run(run())
"""


async def test_a_kill_loses_nothing_that_was_reported(path: Path) -> None:
    """kill -9 amid a burst: what left has its row, and no row is issued without a certificate."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ISSUES_FOR_EVER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    left = [process.stdout.readline().strip() for _ in range(200)]
    process.send_signal(signal.SIGKILL)
    left += [line.strip() for line in process.stdout.read().splitlines(keepends=True)][:-1]
    process.wait()
    process.stdout.close()
    ledger = open_ledger(path)
    await ledger.open()
    for serial in left:
        issued = await ledger.certificate(int(serial, 16), NOW)
        assert issued is not None
        assert issued.status == CertificateStatus.issued
        assert issued.der
    await ledger.close()


async def test_no_statement_reads_a_whole_table(path: Path, ledger: Ledger) -> None:
    """Issuing, confirming, renewing, revoking, sweeping and looking up go by an index, whatever their number."""
    said: list[str] = []

    def listen(connection: Connection) -> None:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.set_trace_callback(said.append)

    await write(ledger._database, listen)
    await ledger._database.read(listen)
    await issue(ledger, reenroll=Reenroll.deny)
    old = await issue(ledger)
    changes = {"old_serial_number": old.serial_number}
    await issue(ledger, changes=changes, revoke_superseded=True)
    lapsed = await issue(ledger, confirmed=False)
    kept = await issue(ledger)
    revocation = Revocation(kept.serial_number, Reason.keyCompromise, "ra1")
    await ledger.revoke(revocation, NOW, operation=operation())
    await ledger.sweep(lapsed.expires_at)
    await ledger.find_operation("ra1", b"unknown", NOW)
    await ledger.certificate(kept.serial_number, NOW)
    await ledger.newest_certificate(intent().subject_der, NOW)
    await ledger.last_revocation_at("ab" * 20)
    await ledger.newest_crl("ab" * 20, delta=False)
    await ledger.newest_crl("ab" * 20, delta=True)
    statements = {line for line in said if line.startswith(("SELECT", "UPDATE", "DELETE"))}
    assert len(statements) > 40
    with closing(sqlite3.connect(path)) as other:
        scans = {
            step[3]
            for statement in statements
            for step in other.execute(f"EXPLAIN QUERY PLAN {statement}")
            if step[3].startswith("SCAN")
        }
    assert scans == {"SCAN audit_head"}  # its one row


# --- what is prepared once ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, expected", [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (255, 256), (256, 256)]
)
def test_a_list_is_padded_to_a_power_of_two(count: int, expected: int) -> None:
    """With its last value."""
    values = list(range(count))
    assert padded(values) == values + [count - 1] * (expected - count)


def test_a_prepared_statement_does_what_the_statement_does() -> None:
    """Rows of one value or many; lists of any length, beside other values."""
    roles = schema.roles
    into = Prepared(insert(roles).inline())
    found = Prepared(
        select(roles.c.name).where(
            roles.c.profiles == bindparam("profiles"), roles.c.name.in_(listed("these"))
        )
    )
    gone = Prepared(roles.delete().where(roles.c.name == bindparam("of_name")))
    with create_engine("sqlite://").connect() as connection:
        schema.metadata.create_all(connection)
        rows = [{"name": str(n), "privileges": "[]", "profiles": str(n % 2)} for n in range(10)]
        into.each(connection, rows[:1])
        into.each(connection, rows[1:])
        for names, expected in ((["1"], {"1"}), (list("0123456"), {"1", "3", "5"})):
            assert set(found.among(connection, names, profiles="1").scalars()) == expected
        gone.each(connection, [{"of_name": "1"}])
        gone.each(connection, [{"of_name": "3"}, {"of_name": "5"}])
        assert set(found.among(connection, list("0123456"), profiles="1").scalars()) == set()


def test_an_operation_key_tells_where_the_requester_ends() -> None:
    """Otherwise one requester could claim a transactionID of another."""
    assert operation_key("ra", b"1x") != operation_key("ra1", b"x")
