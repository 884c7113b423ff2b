"""What the stores remember of devices as long as their certificates live (`DeviceRecords`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from ra_gateway.errors import StoreUnavailable
from ra_gateway.ra.ports import DeviceRecord, DeviceRecords
from ra_gateway.ra.transaction import Transaction
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.sealing import packed, unpacked
from tests.support.harness import ManualClock
from tests.support.patience import PATIENCE_SECONDS
from tests.support.redis_server import SEAL_KEY
from tests.support.transactions import new_transaction, nodes, system_clock

HOUR = timedelta(hours=1)
QUIRKS, REQUESTS = DeviceRecord.quirks, DeviceRecord.requests
FIRST, SECOND = b"\x01" * 32, b"\x02" * 32
NAME = f"ra:quirks:{FIRST.hex()}"


@pytest.fixture
async def store(store_url: str | None) -> AsyncIterator[Any]:
    async with nodes(store_url, system_clock) as node:
        yield node()


@pytest.fixture
async def pair(store_url: str | None) -> AsyncIterator[tuple[Any, Any]]:
    """One store as two nodes have it."""
    async with nodes(store_url, system_clock) as node:
        yield node(), node()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, clock=system_clock, seal_keys=[SEAL_KEY])
    yield store
    await store.close()


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Any]:
    """Redis, as a neighbour on its network has it."""
    async with Redis.from_url(redis_url) as client:
        yield client


async def test_a_domain_is_remembered_with_a_certificate(store: DeviceRecords) -> None:
    """With that certificate only; the last word counts."""
    now = system_clock()
    assert await store.remembered(QUIRKS, FIRST) == ""
    await store.remember(QUIRKS, FIRST, "acme", now + HOUR)
    await store.remember(QUIRKS, FIRST, "mac:ran", now + HOUR)
    assert await store.remembered(QUIRKS, FIRST) == "mac:ran"
    assert await store.remembered(QUIRKS, SECOND) == ""
    assert await store.remembered(REQUESTS, FIRST) == ""


async def test_it_lives_as_long_as_the_certificate(store: DeviceRecords) -> None:
    """Of one that has ended, nothing is kept."""
    now = system_clock()
    await store.remember(QUIRKS, FIRST, "acme", now + timedelta(seconds=0.3))
    await store.remember(QUIRKS, SECOND, "acme", now - HOUR)
    assert await store.remembered(QUIRKS, SECOND) == ""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await store.remembered(QUIRKS, FIRST):  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.02)


async def test_entries_are_added_by_many_at_once(pair: tuple[Any, Any]) -> None:
    """None is lost, and one that is there already is not added again, nor does it drive out another."""
    entries = {f"{number:064x}" for number in range(12)}

    async def add(store: DeviceRecords, entry: str) -> None:
        await store.remember_entry(
            REQUESTS, FIRST, entry, limit=12, keep_until=system_clock() + HOUR
        )

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(add(store, entry) for store in pair for entry in entries))
    for store in pair:
        kept = (await store.remembered(REQUESTS, FIRST)).split()
        assert (len(kept), set(kept)) == (12, entries)
    await add(pair[0], "new")
    assert (await pair[1].remembered(REQUESTS, FIRST)).split() == [*kept[1:], "new"]
    assert await pair[1].remembered(REQUESTS, SECOND) == ""


async def test_memory_is_bounded() -> None:
    """What was remembered first goes first."""
    clock = ManualClock()
    store = MemoryStore(clock, max_transactions=4)
    for number in range(6):
        await store.remember(QUIRKS, bytes([number]) * 32, "acme", clock() + HOUR)
    kept = [bool(await store.remembered(QUIRKS, bytes([number]) * 32)) for number in range(6)]
    assert kept == [False, False, True, True, True, True]


@pytest.mark.parametrize("how", ["changed", "of another certificate", "list", "long", "empty"])
async def test_what_no_node_wrote_is_not_believed(redis: RedisStore, raw: Any, how: str) -> None:
    """It is told, and counts as nothing: a neighbour in Redis has no device forgiven anything."""
    now = system_clock()
    await redis.remember(QUIRKS, SECOND, "acme", now + HOUR)
    sealed = await raw.get(f"ra:quirks:{SECOND.hex()}")
    match how:
        case "changed":
            await raw.set(NAME, sealed[:-1] + b"f")
        case "of another certificate":
            await raw.set(NAME, sealed)
        case "list":
            await raw.rpush(NAME, sealed)
        case "long":
            await raw.set(NAME, sealed * 100_000)
        case "empty":
            await raw.set(NAME, b"")
    with structlog.testing.capture_logs() as logs:
        assert await redis.remembered(QUIRKS, FIRST) == ""
    assert [(line["event"], line["key"]) for line in logs] == [("store.not_believed", NAME)]


@pytest.mark.parametrize("how", ["changed", "of another device", "list", "long", "empty"])
async def test_requests_that_cannot_be_read_are_not_none(
    redis: RedisStore, raw: Any, how: str
) -> None:
    """Whoever took them for none would take each of them again; nothing is written over them either."""
    until = system_clock() + HOUR
    name = f"ra:requests:{FIRST.hex()}"
    await redis.remember_entry(REQUESTS, FIRST, "taken", limit=64, keep_until=until)
    await redis.remember_entry(REQUESTS, SECOND, "taken", limit=64, keep_until=until)
    sealed = await raw.get(f"ra:requests:{SECOND.hex()}")
    await raw.delete(name)
    match how:
        case "changed":
            await raw.set(name, sealed[:-1] + b"f")
        case "of another device":
            await raw.set(name, sealed)
        case "list":
            await raw.rpush(name, sealed)
        case "long":
            await raw.set(name, sealed * 100_000)
        case "empty":
            await raw.set(name, b"")
    before = await raw.dump(name)
    with pytest.raises(StoreUnavailable, match=name):
        await redis.remembered(REQUESTS, FIRST)
    with pytest.raises(StoreUnavailable, match=name):
        await redis.remember_entry(REQUESTS, FIRST, "new", limit=64, keep_until=until)
    assert await raw.dump(name) == before


async def test_a_store_that_cannot_be_asked_says_so(redis: RedisStore) -> None:
    """It does not say that nothing is remembered."""
    await redis.close()
    for call in (
        redis.remembered(QUIRKS, FIRST),
        redis.remember(QUIRKS, FIRST, "acme", system_clock() + HOUR),
        redis.remember_entry(REQUESTS, FIRST, "new", limit=64, keep_until=system_clock() + HOUR),
    ):
        with pytest.raises(StoreUnavailable):
            await call


def test_a_transaction_of_before_there_were_such_records() -> None:
    """It is read, as one whose device is forgiven nothing but by its own domain."""
    transaction = new_transaction()
    fields = transaction.to_fields()
    plain = fields["plain"].replace(b',"quirks_of":""', b"")
    assert plain != fields["plain"]
    old = unpacked(packed({**fields, "plain": plain}))
    assert Transaction.from_fields(old) == transaction
