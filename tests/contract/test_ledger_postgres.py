"""The ledger on a PostgreSQL server that fails."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ra_gateway.ca.ledger import Ledger, open_ledger
from ra_gateway.ca.ledger.database import PostgresDatabase
from ra_gateway.errors import ConfigError, StoreUnavailable
from tests.contract.ledgers import NOW, intent, issue, operation
from tests.support.postgres_server import PostgresServer


async def test_a_database_without_tables_is_refused(postgres_url: str) -> None:
    """The text says which command makes them."""
    with pytest.raises(ConfigError, match="ra-gateway ca migrate"):
        await open_ledger(postgres_url).open()


async def test_a_killed_server_is_told_and_its_return_noticed(
    own_postgres_server: PostgresServer,
) -> None:
    """StoreUnavailable meanwhile, without the password; what was durable before is there after."""
    ledger = open_ledger(own_postgres_server.new_database())
    await ledger.migrate()
    await ledger.open()
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
    await ledger.close()


async def test_a_restart_between_requests_is_not_noticed(
    own_postgres_server: PostgresServer,
) -> None:
    """Connections of before are replaced and what failed on them is repeated."""
    ledger = open_ledger(own_postgres_server.new_database())
    await ledger.migrate()
    await ledger.open()
    await issue(ledger, "enb1")
    await asyncio.gather(*(ledger.counts() for _ in range(10)))
    own_postgres_server.stop()
    own_postgres_server.start()
    await issue(ledger, "enb2")
    assert sum((await ledger.counts()).values()) == 2
    await ledger.close()


async def test_work_that_is_cut_off_is_told_and_nothing_is_half_done(
    own_postgres_server: PostgresServer,
) -> None:
    """A kill amid a burst: every certificate that was reported stored is there afterwards."""
    ledger = open_ledger(own_postgres_server.new_database())
    await ledger.migrate()
    await ledger.open()
    tasks = [asyncio.create_task(issue(ledger, f"enb{n}", confirmed=False)) for n in range(300)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(own_postgres_server.kill)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    own_postgres_server.start()
    stored = [result for result in results if not isinstance(result, BaseException)]
    assert {type(r) for r in results if isinstance(r, BaseException)} <= {StoreUnavailable}
    for item in stored:
        assert await ledger.find_operation(item.requester, item.transaction_id, NOW) == item
    await ledger.close()


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
