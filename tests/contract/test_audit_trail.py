"""The audit trail over both of its databases: one chain, whoever writes; nothing lost, changed or hidden unseen."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ra_gateway.audit import trail as trail_module
from ra_gateway.audit.database import AuditDatabase, PostgresAudit, SQLiteAudit, open_database
from ra_gateway.audit.retention import remove_older
from ra_gateway.audit.searching import Query, search
from ra_gateway.audit.trail import AuditTrail
from ra_gateway.audit.verifying import Verified, verify
from ra_gateway.errors import StoreUnavailable
from ra_gateway.events import Component, Outcome, PersonActed, RequestHandled, TransactionChanged
from ra_gateway.postgres_url import parse_postgres_url
from tests.support.postgres_server import PostgresServer
from tests.support.stations import until

Open = Callable[[], AuditDatabase]


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Open the same database, each time by a connection of its own."""
    made: list[AuditDatabase] = []
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""

    def open_() -> AuditDatabase:
        database = (
            PostgresAudit(parse_postgres_url(url))
            if url
            else SQLiteAudit(tmp_path / "audit.sqlite")
        )
        made.append(database)
        return database

    yield open_
    for database in made:
        database.close()


def act(number: int, **detail: str) -> PersonActed:
    """Return a fact."""
    return PersonActed("operator:ann", "test", f"CN=enb-{number}", tuple(detail.items()))


@asynccontextmanager
async def writing(database: AuditDatabase, **options: Any) -> AsyncIterator[AuditTrail]:
    """Have a trail written; at the end all is."""
    options.setdefault("clock_ms", lambda: time.time_ns() // 1_000_000)
    trail = AuditTrail(database, node="test", **options)
    await trail.open()
    try:
        yield trail
    finally:
        await trail.close()


async def verified(database: AuditDatabase, noted: dict[int, bytes] | None = None) -> Verified:
    """Verify off the loop: PostgreSQL has one of its own there."""

    def check() -> Verified:
        try:
            return verify(database, noted or {})
        finally:
            database.close()

    return await asyncio.to_thread(check)


async def found(database: AuditDatabase, query: Query) -> list[int]:
    """Return the numbers of what is found."""

    def look() -> list[int]:
        try:
            return [item.number for item in search(database, query, newest_first=False)]
        finally:
            database.close()

    return await asyncio.to_thread(look)


async def spoilt(database: AuditDatabase, *statements: str) -> None:
    """Do to a database what nobody should."""

    def spoil() -> None:
        def work(connection: Any) -> None:
            for statement in statements:
                connection.execute(text(statement))

        database.write(work)
        database.close()

    await asyncio.to_thread(spoil)


async def test_what_is_told_is_one_chain(opened: Open) -> None:
    """Over two lives of the trail; what is no record leaves none."""
    for _ in range(2):
        async with writing(opened()) as trail:
            for number in range(3):
                trail(act(number))
            trail(TransactionChanged("aa", "ca", "REQUESTED"))
        assert trail.written == 3
        assert trail.waiting == 0
    result = await verified(opened())
    assert result.findings == []
    assert (result.first, result.last) == (1, 6)


async def test_many_writers_keep_one_chain(opened: Open) -> None:
    """As several workers do: each record is there once."""
    async with writing(opened()) as one, writing(opened()) as other:
        for number in range(300):
            one(act(number, transaction_id=f"a{number:x}"))
            other(act(number, transaction_id=f"b{number:x}"))
            if number % 50 == 0:
                await asyncio.sleep(0)
    result = await verified(opened())
    assert (result.findings, result.last) == ([], 600)
    assert len(await found(opened(), Query(transaction_id="a1f"))) == 1


@pytest.mark.parametrize(
    "statement, finding",
    [
        ("UPDATE gateway_audit SET detail = '{\"node\":\"x\"}' WHERE number = 4", "record 4 was changed"),
        ("UPDATE gateway_audit SET actor = 'operator:bob' WHERE number = 9", "record 9 was changed"),
        ("UPDATE gateway_audit SET at = at + 1 WHERE number = 9", "record 9 was changed"),
        ("DELETE FROM gateway_audit WHERE number = 4", "records 4 to 4 are missing"),
        ("DELETE FROM gateway_audit WHERE number = 1", "records 1 to 1 are missing"),
        ("DELETE FROM gateway_audit WHERE number > 7", "records 8 to 9 are missing at the end"),
        ("DELETE FROM gateway_audit", "records 1 to 9 are missing at the end"),
        ("DELETE FROM gateway_audit_head", "the row that says where the trail ends is missing"),
        ("UPDATE gateway_audit SET serial_number = 'bb' WHERE number = 3", "found by another serial_number"),
        ("UPDATE gateway_audit SET serial_number = NULL WHERE number = 3", "found by another serial_number"),
    ],
)  # fmt: skip
async def test_what_was_done_to_it_is_found(opened: Open, statement: str, finding: str) -> None:
    """A record that was changed, that is missing, or that no search finds any more."""
    async with writing(opened()) as trail:
        for number in range(9):
            trail(act(number, serial_number="aa"))
    assert (await verified(opened())).findings == []
    await spoilt(opened(), statement)
    assert any(finding in item for item in (await verified(opened())).findings)


async def test_two_records_that_were_exchanged_are_found(opened: Open) -> None:
    """Each with its own hashes."""
    async with writing(opened()) as trail:
        for number in range(5):
            trail(act(number))
    await spoilt(
        opened(),
        "UPDATE gateway_audit SET number = -2 WHERE number = 2",
        "UPDATE gateway_audit SET number = 2 WHERE number = 3",
        "UPDATE gateway_audit SET number = 3 WHERE number = -2",
    )
    findings = (await verified(opened())).findings
    assert any("record 2" in item for item in findings)
    assert any("record 3" in item for item in findings)


async def test_a_head_that_was_set_back_is_found_by_one_that_was_noted(opened: Open) -> None:
    """The database alone cannot tell; whoever has noted a head can."""
    async with writing(opened()) as trail:
        for number in range(5):
            trail(act(number))
    whole = await verified(opened())
    await spoilt(
        opened(),
        "DELETE FROM gateway_audit WHERE number > 3",
        "UPDATE gateway_audit_head SET number = 3, hash = (SELECT hash FROM gateway_audit WHERE number = 3)",
    )
    assert (await verified(opened())).findings == []
    noted = {whole.last: whole.head}
    assert (await verified(opened(), noted)).findings == [
        "the trail ends with record 3, and had record 5 when its head was noted"
    ]
    async with writing(opened()) as trail:
        for number in range(5):
            trail(act(number))
    assert (await verified(opened(), noted)).findings == [
        "record 5 is another one than the head that was noted"
    ]


async def test_old_records_leave_in_their_order(opened: Open) -> None:
    """And the rest verifies, twice; one that should have stayed is missed."""
    now = 1_000_000
    async with writing(opened(), clock_ms=lambda: now) as trail:
        for number in range(6):
            trail(act(number))
            await asyncio.sleep(0)
            now += 1000

    def remove(before_ms: int) -> int:
        database = opened()
        try:
            return remove_older(database, before_ms, at_ms=now, actor="gateway", node="test")
        finally:
            database.close()

    assert await asyncio.to_thread(remove, 1_002_000) == 2
    result = await verified(opened(), {1: bytes(32)})
    assert (result.findings, result.first, result.last) == ([], 3, 7)
    assert result.uncompared == [1]
    assert await asyncio.to_thread(remove, 1_003_000) == 1
    result = await verified(opened())
    assert (result.findings, result.first, result.last) == ([], 4, 8)
    assert await asyncio.to_thread(remove, now + 1) == 4
    result = await verified(opened())
    assert (result.findings, result.first, result.last) == ([], 8, 9)
    await spoilt(opened(), "DELETE FROM gateway_audit WHERE number = 8")
    assert (await verified(opened())).findings == [
        "records 1 to 8 are missing, and no record says that they were to leave"
    ]


async def test_records_are_found_by_what_they_have(opened: Open) -> None:
    """Each way for itself, and several together."""
    request = RequestHandled(
        by=Component.gateway, endpoint="main", peer="192.0.2.1", body_type="ir",
        outcome=Outcome.refused, transaction_id="5b1f", duration_ms=1.5, domain="acme",
        signer="CN=SN-0001,O=Acme", serial_number="1a2b", rule="R26", detail="no\x1b[2J",
    )  # fmt: skip
    async with writing(opened(), clock_ms=lambda: 5000) as trail:
        trail(act(1))
        trail(request)
    for query in (
        Query(transaction_id="5B1F"),
        Query(device="CN=SN-0001,O=Acme"),
        Query(device="CN=SN-*"),
        Query(serial_number="0x00:1A:2B"),
        Query(domain="acme"),
        Query(rule="R26"),
        Query(outcome="refused"),
        Query(action="message", since=5000, until=5001),
    ):
        assert await found(opened(), query) == [2], query
    assert await found(opened(), Query(device="CN=enb-1")) == [1]
    assert await found(opened(), Query(device="CN=SN-*", rule="R1")) == []
    assert await found(opened(), Query(since=5001)) == []
    assert await found(opened(), Query(until=5000)) == []


async def test_a_million_would_be_found_by_an_index(opened: Open) -> None:
    """Whatever is found by has one, which the database takes; none sorts what it has found."""
    async with writing(opened()) as trail:
        trail(act(1))

    def plans() -> list[str]:
        database = opened()
        from ra_gateway.audit import searching

        def explain(connection: Any) -> list[str]:
            is_sqlite = connection.dialect.name == "sqlite"
            found = []
            if not is_sqlite:
                connection.execute(text("SET LOCAL enable_seqscan = off"))
                connection.execute(text("SET LOCAL enable_bitmapscan = off"))
            for query in (
                Query(transaction_id="5b1f"),
                Query(serial_number="1a"),
                Query(rule="R26"),
                Query(action="issue"),
                Query(since=1, until=2),
            ):
                statement = searching._page(query, None, newest_first=True)
                compiled = str(
                    statement.compile(
                        dialect=connection.dialect, compile_kwargs={"literal_binds": True}
                    )
                )
                how = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
                rows = connection.exec_driver_sql(how + compiled).all()
                found.append("\n".join(str(row[-1]) for row in rows))
            return found

        try:
            return database.read(explain)
        finally:
            database.close()

    for plan in await asyncio.to_thread(plans):
        assert "gateway_audit_by_" in plan, plan
        assert "TEMP B-TREE" not in plan, plan
        assert "Sort" not in plan, plan


async def test_whoever_answers_waits_for_what_was_told(opened: Open) -> None:
    """In the required mode: then it is in the database, as another connection sees."""
    async with writing(opened(), required=True) as trail:
        trail(act(1, transaction_id="5b1f"))
        await trail.durable()
        assert await found(opened(), Query(transaction_id="5b1f")) == [1]
        await trail.durable()  # nothing was told since


async def test_what_there_is_no_room_for_is_told(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, and its number is in the trail; who answers does not go on as if it were there."""
    trail = AuditTrail(opened(), node="test", clock_ms=lambda: 1, required=True, most_waiting=5)
    before = trail.lost
    for number in range(8):
        trail(act(number))
    assert trail.lost == 3
    with pytest.raises(StoreUnavailable):
        await trail.durable(before)
    await trail.open()
    await trail.close()
    result = await verified(opened())
    assert (result.findings, result.last) == ([], 6)
    (number,) = await found(opened(), Query(action="audit.lost"))
    assert number == 6


async def test_a_database_that_is_away_gets_all_of_it_later(
    own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, nothing twice; until then nobody who has to wait goes on."""
    monkeypatch.setattr(trail_module, "AGAIN_SECONDS", 0.1)
    url = parse_postgres_url(own_postgres_server.emptied_database())
    async with writing(PostgresAudit(url), required=True, wait_seconds=20.0) as trail:
        trail(act(1))
        await trail.durable()
        own_postgres_server.stop()
        trail(act(2))
        with pytest.raises(StoreUnavailable):
            await trail.durable()
        assert trail.problem
        trail(act(3))
        own_postgres_server.start()
        await until(lambda: not trail.waiting, "all is written")
        await trail.durable()
    result = await verified(PostgresAudit(url))
    assert (result.findings, result.last) == ([], 3)


async def test_a_commit_whose_end_nobody_saw_is_not_repeated(opened: Open) -> None:
    """The database has taken the batch, and the connection is gone before it says so."""

    class CutOff:
        """Takes the first batch, and says that it has not."""

        def __init__(self, database: AuditDatabase) -> None:
            self._database, self.name, self.was_cut = database, database.name, False
            self.read = database.read
            self.close = database.close

        def write(self, function: Callable[[Any], Any]) -> Any:
            result = self._database.write(function)
            if not self.was_cut:
                self.was_cut = True
                raise StoreUnavailable("cut off")
            return result

    async with writing(CutOff(opened()), required=True) as trail:
        trail(act(1))
        with pytest.raises(StoreUnavailable):
            await trail.durable()
        trail(act(2))
    result = await verified(opened())
    assert (result.findings, result.last) == ([], 2)


_CHILD = """
import asyncio, sys, time
from pathlib import Path
from ra_gateway.audit.database import open_database
from ra_gateway.audit.trail import AuditTrail
from ra_gateway.events import PersonActed
async def main():
    sqlite, url, name = sys.argv[1:]
    database = open_database(Path(sqlite) if sqlite else None, Path(url) if url else None)
    trail = AuditTrail(database, node=name, clock_ms=lambda: time.time_ns() // 1_000_000, required=True)
    await trail.open()
    number = 0
    while True:
        trail(PersonActed("operator:ann", "test", f"{name} {number}"))
        await trail.durable()
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


async def test_processes_that_are_killed_leave_one_whole_chain(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str
) -> None:
    """Two write at once and are killed in the middle: what each was told is durable is there, in both databases."""
    url_path = tmp_path / "url"
    url_path.write_text(postgres_url)
    url_path.chmod(0o600)
    for sqlite_path in (tmp_path / "audit.sqlite", None):
        where = [str(sqlite_path or ""), "" if sqlite_path else str(url_path)]
        children = [
            subprocess.Popen(
                [sys.executable, "-c", _CHILD, *where, name],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for name in ("a", "b")
        ]  # fmt: skip
        said = {}
        for child in children:
            assert child.stdout is not None
            for _ in range(20):
                assert await asyncio.to_thread(child.stdout.readline)
        for child in children:
            child.kill()
        for name, child in zip("ab", children, strict=True):
            assert child.stdout is not None
            rest = child.stdout.read().split("\n")
            child.wait()
            child.stdout.close()
            said[name] = 20 + len(rest) - 1
        result = await verified(open_database(sqlite_path, None if sqlite_path else url_path))
        assert result.findings == []

        def subjects(where: Path | None = sqlite_path) -> list[str]:
            database = open_database(where, None if where else url_path)
            try:
                return [item.subject for item in search(database, Query(), newest_first=False)]
            finally:
                database.close()

        there = await asyncio.to_thread(subjects)
        for name, count in said.items():
            own = [item for item in there if item.startswith(name)]
            assert own[:count] == [f"{name} {number}" for number in range(count)]
            assert len(own) <= count + 1


async def test_a_file_that_others_may_read_takes_nothing(tmp_path: Path) -> None:
    """It is said what to do, and what waits comes once that is done."""
    path = tmp_path / "audit.sqlite"
    path.touch(0o644)
    path.chmod(0o644)
    async with writing(SQLiteAudit(path), required=True) as trail:
        trail(act(1))
        with pytest.raises(StoreUnavailable, match="chmod 600"):
            await trail.durable()
        path.chmod(0o600)
        await until(lambda: not trail.waiting, "it is written")


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Names of base stations are nobody else's business."""
    path = tmp_path / "audit.sqlite"
    database = SQLiteAudit(path)
    database.write(lambda connection: None)
    database.close()
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
