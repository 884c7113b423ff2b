"""Whoever else can write to the Redis of the nodes gains nothing by it: no certificate, no crash, no long wait."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from ra_gateway.errors import ConfigError, PKIFailureInfo, StoreUnavailable, TransactionInUse
from ra_gateway.ra.approval import NotHeld, decide
from ra_gateway.ra.confirmation_records import ConfirmationNote, ConfirmationStatus
from ra_gateway.ra.transaction import Event, State, Transaction, TransactionKey, advance
from ra_gateway.ra.waiting import request_digest, waiting
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.sealing import NotSealed, Seals, load_seal_keys, packed, unpacked
from tests.support.redis_server import SEAL_KEY
from tests.support.transactions import new_transaction, system_clock

ID = b"t" * 16
INDEX = f"ra:{{{ID.hex()}}}"
HOUR = timedelta(hours=1)
Nodes = tuple[RedisStore, RedisStore]


def hash_key(signer: int = 1) -> str:
    return f"{INDEX}:acme-radio:{signer:064x}"


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Any]:
    """Redis, as a neighbour on its network has it."""
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def nodes(redis_url: str) -> AsyncIterator[Nodes]:
    """One node that wrote, and one that has seen nothing yet."""
    writer, reader = (RedisStore(redis_url, clock=system_clock, seal_keys=[SEAL_KEY]) for _ in "ab")
    yield writer, reader
    await writer.close()
    await reader.close()


async def created(store: RedisStore) -> Transaction:
    transaction = new_transaction()
    await store.create(transaction)
    return transaction


async def assert_lost(store: RedisStore, transaction: Transaction) -> None:
    """It is not read, and neither it nor another one begins under its key; another transactionID is free."""
    with structlog.testing.capture_logs() as logs:
        assert await store.load(transaction.key) is None
    assert [line["event"] for line in logs] in (["store.not_believed"], [])
    assert transaction not in await store.find(transaction.key.transaction_id)
    with pytest.raises(TransactionInUse) as caught:
        await store.create(new_transaction())
    assert caught.value.fail_info is PKIFailureInfo.transactionIdInUse
    assert await store.create(new_transaction(secrets.token_bytes(16))) is None


@pytest.mark.parametrize("at", [0, 31, 32, 40, 200, -1])
async def test_an_octet_that_was_changed(nodes: Nodes, raw: Any, at: int) -> None:
    """In the seal or in what is sealed; each node tells."""
    writer, reader = nodes
    transaction = await created(writer)
    record = bytearray(await raw.hget(hash_key(), "record"))
    record[at] ^= 1
    await raw.hset(hash_key(), "record", bytes(record))
    with structlog.testing.capture_logs() as logs:
        assert await reader.load(transaction.key) is None
    (line,) = logs
    assert (line["log_level"], line["key"]) == ("error", hash_key())
    await assert_lost(reader, transaction)
    await assert_lost(writer, transaction)


async def test_every_field_is_under_the_seal(nodes: Nodes, raw: Any) -> None:
    """A record with any one field changed is not believed, whatever seal it keeps."""
    writer, reader = nodes
    transaction = await created(writer)
    record = await raw.hget(hash_key(), "record")
    fields = unpacked(record[32:])
    for name in fields:
        changed = packed({**fields, name: fields[name] + b"0"})
        await raw.hset(hash_key(), "record", record[:32] + changed)
        assert await reader.load(transaction.key) is None, name
    await raw.hset(hash_key(), "record", record)
    assert await reader.load(transaction.key) == transaction


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": b"1"},
        {"version": b"00"},
        {"version": b"0" * 1000},
        {"version": b"\xff"},
        {"record": b""},
        {"record": b"x" * 31},
        {"record": b"x" * 5_000_000},
        {"more": b"x"},
    ],
    ids=["version", "padded", "long version", "no text", "empty", "short", "huge", "a field more"],
)
async def test_a_record_of_another_shape(nodes: Nodes, raw: Any, wrong: dict[str, bytes]) -> None:
    """Neither believed nor loaded beyond a bound."""
    writer, reader = nodes
    transaction = await created(writer)
    await raw.hset(hash_key(), mapping=wrong)
    await assert_lost(reader, transaction)
    async with asyncio.timeout(60):
        waited = await reader.wait(transaction.key, version=7, timeout_seconds=60)
    assert waited is None


async def set_string(raw: Any, key: str) -> None:
    await raw.set(key, "strange")


async def push(raw: Any, key: str) -> None:
    await raw.lpush(key, "strange")


async def stream(raw: Any, key: str) -> None:
    await raw.xadd(key, {"a": "b"})


@pytest.mark.parametrize("strange", [set_string, push, stream])
async def test_another_type_under_each_key(nodes: Nodes, raw: Any, strange: Any) -> None:
    """A record of another type is lost state; index, schedule and list are begun anew, and it is said."""
    store, _ = nodes
    mine = new_transaction()
    await strange(raw, hash_key())
    await assert_lost(store, mine)
    for key in (INDEX, "ra:agenda", "ra:{held}", "ra:{held}:until"):
        await raw.flushall()
        await strange(raw, key)
        store._reported_at = -1e9
        with structlog.testing.capture_logs() as logs:
            other = new_transaction(signer=9)
            assert await store.find(ID) == []
            assert await store.create(other) is None
            await store.add(other.key, system_clock())
            await store.hold(other.key, system_clock() + HOUR)
            assert await store.due(system_clock() + HOUR, limit=9) == [other.key]
            assert await store.held() == [other.key]
        assert await store.find(ID) == [other]
        assert key == INDEX or [line["event"] for line in logs] == ["store.not_believed"]
        store._seen.clear()


async def test_a_record_under_another_key(nodes: Nodes, raw: Any) -> None:
    """Two records that change places are both lost."""
    writer, reader = nodes
    mine = [new_transaction(signer=signer) for signer in (1, 2)]
    for each in mine:
        await writer.create(each)
    records = [await raw.hget(hash_key(signer), "record") for signer in (1, 2)]
    await raw.hset(hash_key(1), "record", records[1])
    await raw.hset(hash_key(2), "record", records[0])
    assert [await reader.load(each.key) for each in mine] == [None, None]
    assert await reader.find(ID) == []


async def test_an_index_that_leads_elsewhere(nodes: Nodes, raw: Any) -> None:
    """What is found has this transactionID, whatever the index says."""
    store, _ = nodes
    other = new_transaction(b"other")
    await store.create(other)
    await raw.sadd(INDEX, f"ra:{{{b'other'.hex()}}}:acme-radio:{1:064x}", "x" * 1000, b"\xff")
    assert await store.find(ID) == []


async def test_an_older_version_that_was_put_back(nodes: Nodes, raw: Any) -> None:
    """Its seal verifies; the node that has seen a newer one does not believe it."""
    writer, _ = nodes
    first = await created(writer)
    old = await raw.hgetall(hash_key())
    await writer.replace(advance(first, Event.issued))
    await raw.hset(hash_key(), mapping=old)
    await assert_lost(writer, first)


async def test_a_record_that_was_removed(nodes: Nodes, raw: Any) -> None:
    """The node that has seen it begins nothing new under its key before it would have expired."""
    writer, _ = nodes
    transaction = await created(writer)
    await raw.delete(hash_key())
    await assert_lost(writer, transaction)


async def test_a_record_that_was_removed_and_can_be_asked_for_again(nodes: Nodes, raw: Any) -> None:
    """At a CA that replays, what Redis has lost begins anew; an older version of it is another matter."""
    writer, _ = nodes
    transaction = await created(writer)
    await writer.replace(advance(transaction, Event.issued))
    await raw.delete(hash_key())
    assert await writer.create(transaction, repeatable=True) is None
    assert await writer.load(transaction.key) == transaction
    await writer.replace(advance(transaction, Event.taken_over))
    await raw.hset(hash_key(), "record", b"strange")
    for store in nodes:
        with pytest.raises(TransactionInUse):
            await store.create(transaction, repeatable=True)


async def test_what_began_later_under_the_same_key_is_newer(nodes: Nodes, raw: Any) -> None:
    """Another node began it anew, when the former one was lost or had expired: every node finds it."""
    first_node, second_node = nodes
    first = await created(first_node)
    changed = advance(first, Event.issued)
    await first_node.replace(changed)
    old = await raw.hgetall(hash_key())
    await raw.delete(hash_key())
    second = new_transaction()
    assert await second_node.create(second) is None
    assert await first_node.find(ID) == [second]
    assert await first_node.load(second.key) == second
    await raw.hset(hash_key(), mapping=old)
    for store in nodes:
        assert await store.find(ID) == []
        assert await store.load(second.key) is None


async def test_a_record_that_never_expires_does_not_block_its_key_for_ever(
    nodes: Nodes, raw: Any
) -> None:
    """It goes when the transaction that it kept from being would have gone."""
    _, store = nodes
    await raw.hset(hash_key(), mapping={"version": "0", "record": "x"})
    with pytest.raises(TransactionInUse):
        await store.create(new_transaction())
    assert 0 < await raw.pttl(hash_key()) <= 300_000


async def test_strange_members_are_dropped_and_told(nodes: Nodes, raw: Any) -> None:
    """In schedule and list; what belongs there is found as ever, and the log is not filled."""
    store, _ = nodes
    key = TransactionKey("acme", bytes(32), ID)
    strange = [
        b"x",
        b"",
        b"\xff\xfe",
        b"zz yy acme",
        b"00 11",
        b"AB " + b"00" * 32 + b" acme",
        b"0" * 200_000,
    ]
    for member in strange:
        await raw.zadd("ra:agenda", {member: 0})
        await raw.hset("ra:{held}", member, member)
        await raw.zadd("ra:{held}:until", {member: 9e12})
    await raw.zadd("ra:{held}:until", {b"no such": 9e12})
    await store.add(key, system_clock())
    await store.hold(key, system_clock() + HOUR)
    with structlog.testing.capture_logs() as logs:
        assert await store.due(system_clock() + HOUR, limit=64) == [key]
        assert await store.held() == [key]
    assert [line["event"] for line in logs] == ["store.not_believed"]
    assert await raw.zcard("ra:agenda") == 1
    assert await raw.hlen("ra:{held}") == 1
    assert await raw.zcard("ra:{held}:until") == 1


async def test_the_standing_of_a_certificate_is_sealed(nodes: Nodes, raw: Any) -> None:
    """Nobody can say that it was not confirmed: what does not verify is no answer."""
    store, _ = nodes
    later = system_clock() + HOUR
    mine = ConfirmationNote("mine", ConfirmationStatus.confirmed, later)
    other = ConfirmationNote("other", ConfirmationStatus.withdrawn, later)
    await store.note_confirmation(b"c" * 32, mine, later)
    name = f"ra:{{certificate}}:{(b'c' * 32).hex()}"
    sealed = await raw.get(name)
    for wrong in (b"", b"x", sealed[:-1], sealed.replace(b"false", b"true ")):
        await raw.set(name, wrong)
        with pytest.raises(StoreUnavailable):
            await store.note_confirmation(b"c" * 32, other, later)
    await raw.rename(name, f"ra:{{certificate}}:{(b'd' * 32).hex()}")
    with pytest.raises(StoreUnavailable):
        await store.note_confirmation(b"d" * 32, other, later)


async def test_keys_can_be_changed(redis_url: str) -> None:
    """The first key seals, and each one opens; a node without the key sees lost state."""
    new = b"n" * 32
    stores = [
        RedisStore(redis_url, clock=system_clock, seal_keys=keys)
        for keys in ([SEAL_KEY], [SEAL_KEY, new], [new, SEAL_KEY], [new])
    ]
    old = new_transaction()
    await stores[0].create(old)
    fresh = new_transaction(b"fresh")
    await stores[2].create(fresh)
    assert [await store.load(old.key) for store in stores] == [old, old, old, None]
    assert [await store.load(fresh.key) for store in stores] == [None, fresh, fresh, fresh]
    for store in stores:
        await store.close()


async def test_who_has_another_key_takes_nothing_off_the_list(redis_url: str) -> None:
    """A tool with an old key sees no request; those who have the right one still do, and decide on it."""
    right, wrong = (
        RedisStore(redis_url, clock=system_clock, seal_keys=[key]) for key in (SEAL_KEY, b"w" * 32)
    )
    held = new_transaction(state=State.HELD)
    await right.create(held)
    await right.hold(held.key, held.expires_at)
    assert await waiting(wrong, wrong) == []
    with pytest.raises(NotHeld):
        await decide(
            wrong,
            wrong,
            held.key,
            digest=request_digest(held),
            approve=True,
            decided_by="alice",
            clock=system_clock,
        )
    assert await waiting(right, right) == [held]
    await right.close()
    await wrong.close()


@pytest.mark.parametrize("keys", [[], [b"short"], [SEAL_KEY, b""]])
def test_a_store_without_a_key_is_none(keys: list[bytes]) -> None:
    """There is no default."""
    with pytest.raises(ValueError, match="32 octets"):
        RedisStore("redis://localhost", clock=system_clock, seal_keys=keys)


def test_a_seal_says_what_it_is_of() -> None:
    """Parts of a name cannot move into each other."""
    seals = Seals([SEAL_KEY])
    sealed = seals.seal(b"x", "ab", "c")
    assert seals.open(sealed, "ab", "c") == b"x"
    for name in (("a", "bc"), ("abc",), ("ab", "c", ""), ("c", "ab")):
        with pytest.raises(NotSealed):
            seals.open(sealed, *name)
    assert SEAL_KEY.decode() not in repr(seals)


def test_key_files_that_cannot_be_used(tmp_path: Any) -> None:
    """Missing, too short, too long: each is said; white space does not count."""
    good, short, long = (tmp_path / name for name in ("good", "short", "long"))
    good.write_bytes(b"  " + b"k" * 64 + b"\n")
    short.write_bytes(b"k" * 31 + b"  \n\n")
    long.write_bytes(b"k" * 5000)
    assert load_seal_keys([good]) == [b"k" * 64]
    for paths in ([], [short], [long], [tmp_path / "missing"], [good, short]):
        with pytest.raises(ConfigError, match=r"store\.seal_key_paths"):
            load_seal_keys(paths)


# --- the mark of the nodes' key -------------------------------------------------------------------------------

MARK = "ra:seal"
OLD, NEW = b"o" * 32, b"n" * 32


async def is_ours(url: str, *keys: bytes, leave: bool = True) -> bool:
    """Ask as a node with these keys does at its start, or as one that only looks."""
    store = RedisStore(url, clock=system_clock, seal_keys=keys)
    try:
        return await store.has_our_mark(leave=leave)
    finally:
        await store.close()


async def test_a_node_with_another_key_is_found(redis_url: str, raw: Any) -> None:
    """The first one leaves the mark, for good; who only looks leaves none, and nobody takes another's away."""
    assert await is_ours(redis_url, NEW, leave=False)
    assert await raw.exists(MARK) == 0
    assert await is_ours(redis_url, OLD)
    mark = await raw.get(MARK)
    assert not await is_ours(redis_url, NEW)
    assert not await is_ours(redis_url, NEW, leave=False)
    assert (await raw.get(MARK), await raw.ttl(MARK)) == (mark, -1)
    assert await is_ours(redis_url, OLD)


async def test_a_change_of_keys_step_by_step(redis_url: str) -> None:
    """Behind, in front, alone; also while the nodes are restarted one after the other."""
    for keys in (
        (OLD,),
        (OLD, NEW),
        (OLD,),
        (NEW, OLD),
        (OLD, NEW),
        (NEW, OLD),
        (NEW,),
        (NEW, OLD),
    ):
        assert await is_ours(redis_url, *keys), keys
    assert not await is_ours(redis_url, OLD)


@pytest.mark.parametrize(
    "wrong",
    [b"", b"x", b"x" * 100, b"x" * 5_000_000, None],
    ids=["empty", "short", "no seal", "huge", "list"],
)
async def test_a_mark_that_was_changed(redis_url: str, raw: Any, wrong: bytes | None) -> None:
    """It is told of, and not mended: it may be another node's."""
    if wrong is None:
        await raw.lpush(MARK, "x")
    else:
        await raw.set(MARK, wrong)
    assert not await is_ours(redis_url, NEW)
    await raw.delete(MARK)
    assert await is_ours(redis_url, NEW)
