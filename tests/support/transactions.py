"""Transactions as the contract tests store them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ra_gateway.app.store import transaction_store
from ra_gateway.cmp.codes import BodyType
from ra_gateway.config.reading import load
from ra_gateway.ra.ports import TransactionStore
from ra_gateway.ra.transaction import Exchange, State, Transaction, TransactionKey
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.values import replace
from tests.support.redis_server import SEAL_KEY

Store = MemoryStore | RedisStore
Node = Callable[[], Store]


@asynccontextmanager
async def nodes(
    redis_url: str | None, clock: Callable[[], datetime], **limits: Any
) -> AsyncIterator[Node]:
    """Give what connects a node to one store: a Redis, or with no URL the memory of a single process."""
    opened: list[Store] = []
    if redis_url is None:
        opened.append(MemoryStore(clock, max_transactions=1000, **limits))

    def connect() -> Store:
        if redis_url is not None:
            opened.append(RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY], **limits))
        return opened[-1]

    yield connect
    for store in opened:
        await store.close()


def system_clock() -> datetime:
    """Return the time of this machine: Redis counts lifetimes down in real time."""
    return datetime.now(UTC)


def new_transaction(
    transaction_id: bytes = b"t" * 16,
    *,
    signer: int = 1,
    lifetime: timedelta = timedelta(minutes=5),
    **changes: Any,
) -> Transaction:
    """Return a transaction as it is first stored, with every octet value somewhere in it."""
    now = system_clock()
    transaction = Transaction(
        key=TransactionKey("acme-radio", signer.to_bytes(32, "big"), transaction_id),
        state=State.REQUESTED,
        version=0,
        body_type=BodyType.ir,
        endpoint="default",
        upstream="ca",
        variant="reprotect",
        signer_der=bytes(range(256)),
        sender_nonce=b"n" * 16,
        cert_req_id=355,
        subject_der=b"",
        opening=Exchange(b"d" * 32, b"u" * 2500),
        lease_until=now + timedelta(seconds=30),
        created_at=now,
        expires_at=now + lifetime,
    )
    return replace(transaction, **changes)


async def winners(store: TransactionStore, rivals: list[Transaction]) -> list[Transaction]:
    """Create the rivals one after the other and return those that were stored."""
    return [rival for rival in rivals if await store.create(rival) is None]


def in_redis(config: Path, work: Any) -> Any:
    """Do something with the store of the gateway's configuration."""

    async def main() -> Any:
        store = transaction_store(load(config).store)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(main())
