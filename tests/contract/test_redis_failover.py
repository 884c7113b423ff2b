"""The Redis store where servers take over from each other: by Sentinels, and in a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import pytest
from redis.crc import key_slot

from ra_gateway.errors import StoreUnavailable
from ra_gateway.ra.transaction import Event, Transaction, advance
from ra_gateway.stores.redis import RedisStore
from tests.support.patience import PATIENCE_SECONDS
from tests.support.redis_groups import (
    ClusterGroup,
    SentinelGroup,
    cluster_group,
    sentinel_group,
)
from tests.support.redis_server import SEAL_KEY, RedisServer
from tests.support.transactions import new_transaction, system_clock

Group = SentinelGroup | ClusterGroup


@asynccontextmanager
async def opened(url: str, *, timeout_seconds: float = 20.0) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        url, clock=system_clock, seal_keys=[SEAL_KEY], timeout_seconds=timeout_seconds
    )
    try:
        yield store
    finally:
        await store.close()


async def stored(store: RedisStore, number: int) -> Transaction:
    """Store a transaction, and change it, as soon as somebody takes its place."""
    transaction = new_transaction(b"%d" % number, signer=number + 1)
    changed = advance(transaction, Event.issued, certificate_der=b"c")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                # What failed may be stored, in either version.
                if await store.create(transaction) in (None, transaction):
                    await store.replace(changed)
                return changed
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def loaded(store: RedisStore, transaction: Transaction) -> Transaction | None:
    """Load it as soon as somebody has its place."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await store.load(transaction.key)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("make", [sentinel_group, cluster_group])
@pytest.mark.requirement(95)
async def test_what_was_stored_is_there_after_a_master_was_killed(
    make: Callable[[Path], AbstractContextManager[Group]], tmp_path: Path
) -> None:
    """The one that takes over has every transaction that was told to be stored, in its last version."""
    with make(tmp_path) as group:
        async with opened(group.url, timeout_seconds=2.0) as store:
            before = await asyncio.gather(*(stored(store, number) for number in range(40)))
            killed = {node.address for node in store.servers.known}
            group.servers[0].kill()
            after = await asyncio.gather(*(stored(store, 100 + number) for number in range(40)))
            async with opened(group.url) as other:
                for each in (*before, *after):
                    assert await loaded(other, each) == each
            async with asyncio.timeout(PATIENCE_SECONDS):
                # A server of a Cluster that has not heard of it yet may have been asked last.
                while (masters := {node.address for node in store.servers.known}) == killed:
                    await store.ping()
                    await asyncio.sleep(0.05)
            assert killed - masters == {f"127.0.0.1:{group.servers[0].port}"}
            assert len(masters) == len(killed)
            assert store.servers.changes >= 1


async def test_what_no_replica_has_is_not_told_to_be_stored(tmp_path: Path) -> None:
    """A replica that hangs follows, and has nothing: a failover might lose it. Without one nobody is waited for."""
    with sentinel_group(tmp_path) as group:
        replica = group.servers[1]
        async with opened(group.url) as store:
            await store.create(new_transaction(b"1"))
            replica.pause()
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas have what was written"):
                await store.create(new_transaction(b"2"))
            replica.resume()
            await store.create(new_transaction(b"3"))
            replica.kill()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while group.servers[0].command("INFO replication").count(b"slave0") > 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await store.create(new_transaction(b"4"))


async def test_a_slot_that_is_moved_is_followed(
    cluster_of_redis: ClusterGroup, cluster_url: str
) -> None:
    """While it is moved (ASK; Redis then takes no script that makes two keys), and afterwards (MOVED)."""
    transaction = new_transaction(b"\x01")
    index = b"ra:{01}"
    slot = key_slot(index)
    masters = cluster_of_redis.servers[:3]
    (owner,) = (each for each in masters if b"MOVED" not in each.command(f"GET {index.decode()}"))
    other = masters[masters.index(owner) - 1]
    async with opened(cluster_url) as store:
        await store.ping()
        move(slot, owner, other)
        assert await store.load(transaction.key) is None
        with pytest.raises(StoreUnavailable, match="are being moved"):
            await store.create(transaction)
        settle(slot, masters, other)
        try:
            assert await store.create(transaction) is None
            assert other.command(f"CLUSTER COUNTKEYSINSLOT {slot}") == b":2\r\n"
            assert await store.find(b"\x01") == [transaction]
        finally:
            other.command("FLUSHALL")
            move(slot, other, owner)
            settle(slot, masters, owner)


def move(slot: int, owner: RedisServer, other: RedisServer) -> None:
    """Begin to move a slot."""
    ids = [each.command("CLUSTER MYID").split()[1].decode() for each in (owner, other)]
    other.command(f"CLUSTER SETSLOT {slot} IMPORTING {ids[0]}")
    owner.command(f"CLUSTER SETSLOT {slot} MIGRATING {ids[1]}")


def settle(slot: int, masters: list[RedisServer], owner: RedisServer) -> None:
    """End it: the slot is another one's."""
    name = owner.command("CLUSTER MYID").split()[1].decode()
    for each in (owner, *masters):
        each.command(f"CLUSTER SETSLOT {slot} NODE {name}")


async def test_a_cluster_by_the_url_of_one_server_is_told(cluster_of_redis: ClusterGroup) -> None:
    """What to write instead is said."""
    url = cluster_of_redis.servers[0].url
    async with opened(url) as store:
        with pytest.raises(
            StoreUnavailable, match=r"write redis\+cluster:// in the place of redis://"
        ):
            await asyncio.gather(*(store.load(new_transaction(b"%d" % n).key) for n in range(9)))
