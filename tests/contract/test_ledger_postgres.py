"""The ledger on a PostgreSQL server that fails."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ra_gateway.ca.ledger.database import MIGRATION_LOCK, PostgresDatabase
from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.errors import ConfigError, StoreUnavailable
from tests.support.ledgers import NOW, intent, issue, opened, operation
from tests.support.postgres_server import PostgresServer


async def test_a_database_without_tables_is_refused(postgres_url: str) -> None:
    """The text says which command makes them."""
    with pytest.raises(ConfigError, match="ra-gateway ca migrate"):
        await open_ledger(postgres_url).open()


async def test_a_killed_server_is_told_and_its_return_noticed(
    own_postgres_server: PostgresServer,
) -> None:
    """StoreUnavailable meanwhile, without the password; what was durable before is there after."""
    async with opened(own_postgres_server.new_database()) as ledger:
        kept = await issue(ledger)
        own_postgres_server.kill()
        for _ in range(2):
            for failing in (
                ledger.reserve(operation(), intent(), NOW),
                ledger.counts(),
                ledger.ping(),
                ledger._database.read_state(lambda connection: None),
            ):
                with pytest.raises(StoreUnavailable) as failure:
                    await failing
                assert "correct-horse" not in str(failure.value)
        own_postgres_server.start()
        await ledger.ping()
        assert await ledger.certificate(kept.serial_number, NOW) is not None
        await issue(ledger, "enb2")


async def test_a_restart_between_requests_is_not_noticed(
    own_postgres_server: PostgresServer,
) -> None:
    """Connections of before are replaced and what failed on them is repeated."""
    async with opened(own_postgres_server.new_database()) as ledger:
        await issue(ledger, "enb1")
        await asyncio.gather(*(ledger.counts() for _ in range(10)))
        own_postgres_server.stop()
        own_postgres_server.start()
        await issue(ledger, "enb2")
        assert sum((await ledger.counts()).values()) == 2


async def test_work_that_is_cut_off_is_told_and_nothing_is_half_done(
    own_postgres_server: PostgresServer,
) -> None:
    """A kill amid a burst: every certificate that was reported stored is there afterwards."""
    async with opened(own_postgres_server.new_database()) as ledger:
        tasks = [asyncio.create_task(issue(ledger, f"enb{n}", confirmed=False)) for n in range(300)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(own_postgres_server.kill)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        own_postgres_server.start()
        stored = [result for result in results if not isinstance(result, BaseException)]
        assert {type(r) for r in results if isinstance(r, BaseException)} <= {StoreUnavailable}
        for item in stored:
            assert await ledger.find_operation(item.requester, item.transaction_id, NOW) == item


async def test_a_server_that_does_not_answer_is_given_up() -> None:
    """It takes connections and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ca:correct-horse@127.0.0.1:{silent.getsockname()[1]}/ledger"
        ledger = Ledger(PostgresDatabase(url, connect_seconds=0.2))
        with pytest.raises(StoreUnavailable) as failure:
            await ledger.open()
    assert "correct-horse" not in str(failure.value)


async def test_a_statement_that_takes_too_long_is_given_up(postgres_url: str) -> None:
    """Reading and writing; the ledger works on."""
    from sqlalchemy import text

    from ra_gateway.ca.ledger.database import write

    database = PostgresDatabase(postgres_url, command_seconds=0.5)
    await database.migrate()
    await database.open()
    with pytest.raises(StoreUnavailable):
        await database.read(lambda connection: connection.execute(text("SELECT pg_sleep(5)")))
    with pytest.raises(StoreUnavailable):
        await write(database, lambda connection: connection.execute(text("SELECT pg_sleep(5)")))
    assert await database.read(lambda connection: connection.scalar(text("SELECT 1"))) == 1
    assert await write(database, lambda connection: connection.scalar(text("SELECT 1"))) == 1
    await database.close()


# --- who may stop it --------------------------------------------------------------------------------------------


async def test_a_role_without_rights_cannot_stop_issuance(
    own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes every advisory lock there is a key for, and asks for the locks of tables: the ledger writes on."""
    monkeypatch.setattr("ra_gateway.ca.ledger.database.LOCK_SECONDS", 1.0)
    url = own_postgres_server.new_database()
    own_postgres_server.execute("CREATE ROLE stranger LOGIN PASSWORD 'stranger'")
    async with opened(url) as ledger:
        stranger = await asyncpg.connect(
            url.replace("postgres:correct-horse", "stranger:stranger"),
            database=url.rpartition("/")[2],
        )
        try:
            await stranger.execute(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
            for statement in (
                "LOCK TABLE audit_head",
                "SELECT * FROM audit_head FOR UPDATE",
                "SELECT * FROM audit_head",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with stranger.transaction():
                        await stranger.execute(statement)
            await issue(ledger, "enb1")
            await ledger.ping()
            other = open_ledger(url)
            with pytest.raises(
                StoreUnavailable, match=r"stranger \(process \d+\) has held its lock"
            ):
                await other.migrate()
        finally:
            await stranger.close()


async def test_whoever_holds_the_lock_too_long_is_named(
    own_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague with the right forgot a transaction: the error says whose, and the ledger works on afterwards."""
    monkeypatch.setattr("ra_gateway.ca.ledger.database.LOCK_SECONDS", 1.0)
    url = own_postgres_server.new_database()
    async with opened(url) as ledger:
        holder = await asyncpg.connect(url)
        try:
            await holder.execute("BEGIN")
            await holder.execute("SELECT * FROM audit_head FOR UPDATE")
            process = await holder.fetchval("SELECT pg_backend_pid()")
            told = rf"postgres \(process {process}\) has held its lock for 1 s"
            with pytest.raises(StoreUnavailable, match=told):
                await issue(ledger, "enb1")
            await holder.execute("ROLLBACK")
            await issue(ledger, "enb1")
        finally:
            await holder.close()


# --- who may listen ---------------------------------------------------------------------------------------------


def resolved_here(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a name lead to this machine, as that of another one."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        return real("127.0.0.1" if host == name else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_somebody_in_between_is_not_given_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """He says that there is no TLS, or shows a certificate of his own, and asks for the password in the clear."""
    resolved_here(monkeypatch, "db.example.test")
    heard, ended = bytearray(), asyncio.Event()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octets := await reader.read(4096):
            heard.extend(octets)
            if octets[4:8] == (80877103).to_bytes(4, "big"):  # SSLRequest
                writer.write(b"N")
            else:
                writer.write(b"R\0\0\0\x08\0\0\0\x03")  # AuthenticationCleartextPassword
        writer.close()
        ended.set()

    async with await asyncio.start_server(between, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"postgresql://ca:correct-horse@db.example.test:{port}/ledger"
        with pytest.raises(StoreUnavailable):
            await open_ledger(url).open()
        await ended.wait()
    assert heard
    assert b"correct-horse" not in heard


@pytest.mark.parametrize(
    "name, query, is_reached",
    [
        ("db.example.test", "sslrootcert=ROOT", True),
        ("other.example.test", "sslrootcert=ROOT", False),
        ("other.example.test", "sslrootcert=ROOT&sslmode=verify-ca", True),
        ("db.example.test", "", False),
        ("db.example.test", "sslmode=require", True),
        ("db.example.test", "sslmode=disable", True),
    ],
)
async def test_the_certificate_and_name_of_a_server_are_checked(
    own_postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    query: str,
    is_reached: bool,
) -> None:
    """A real server with a certificate of a root of its own."""
    url = own_postgres_server.new_database()
    root = own_postgres_server.speak_tls("db.example.test")
    (tmp_path / "root.pem").write_bytes(root)
    resolved_here(monkeypatch, name)
    url = url.replace("127.0.0.1", name)
    ledger = open_ledger(f"{url}?{query.replace('ROOT', str(tmp_path / 'root.pem'))}".rstrip("?"))
    if not is_reached:
        with pytest.raises(StoreUnavailable):
            await ledger.migrate()
        return
    await ledger.migrate()
    await ledger.open()
    await ledger.ping()
    await ledger.close()
