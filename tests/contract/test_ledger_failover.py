"""The ledger where another PostgreSQL server takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import Operation
from ra_gateway.errors import StoreUnavailable
from tests.support.ledgers import NOW, certificate, intent, opened, operation
from tests.support.patience import PATIENCE_SECONDS
from tests.support.postgres_server import PostgresServer

_COUNT = 40


@pytest.fixture
def standby(own_postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server that has each commit of `own_postgres_server` before it counts."""
    server = own_postgres_server.standby()
    try:
        yield server
    finally:
        # A commit that waits for it would keep the first one from its end.
        own_postgres_server.kill()
        server.remove()


async def issued(ledger: Ledger, item: Operation, name: str) -> Operation:
    """Issue, and repeat what failed until somebody takes it, as a base station does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                taken = await ledger.reserve(item, intent(name), NOW)
                if taken is not None:
                    return taken
                return await ledger.store(item, certificate(item.serial_number), NOW)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.requirement(95)
async def test_a_standby_takes_over_amid_a_burst(
    own_postgres_server: PostgresServer, standby: PostgresServer
) -> None:
    """By the URL of both: nothing that was told is lost, and each operation has one certificate in the end."""
    url = own_postgres_server.new_database()
    both = url.replace(
        f":{own_postgres_server.port}/", f":{own_postgres_server.port},127.0.0.1:{standby.port}/"
    )
    async with opened(f"{both}?target_session_attrs=read-write") as ledger:
        items = [operation() for _ in range(2 * _COUNT)]

        def begun(numbers: range) -> list[asyncio.Task[Operation]]:
            return [
                asyncio.create_task(issued(ledger, items[number], f"enb{number}"))
                for number in numbers
            ]

        tasks = begun(range(_COUNT))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(own_postgres_server.kill)
        told = [task.result() for task in tasks if task.done()]
        tasks += begun(range(_COUNT, 2 * _COUNT))
        await asyncio.to_thread(standby.promote)
        stored = await asyncio.gather(*tasks)
        for before in told:
            found = await ledger.find_operation(before.requester, before.transaction_id, NOW)
            assert found == before
        assert len({each.serial_number for each in stored}) == 2 * _COUNT
        assert sum((await ledger.counts()).values()) == 2 * _COUNT
        trail = await ledger.audit_entries()
        assert [line.number for line in trail] == list(range(1, len(trail) + 1))
