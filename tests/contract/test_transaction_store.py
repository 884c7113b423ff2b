"""What every transaction store promises (`TransactionStore` in ra_gateway/ra/ports.py).

`node()` opens a store as one more gateway node would: for Redis a store with a connection of its
own, for memory the one store there is.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import PKIFailureInfo, StaleTransaction, TooManyTransactions
from ra_gateway.ra.ports import TransactionStore
from ra_gateway.ra.transaction import Event, Exchange, State, Transaction, TransactionKey, advance
from tests.support.patience import PATIENCE_SECONDS
from tests.support.transactions import Node, new_transaction, nodes, system_clock

PER_SIGNER = 12


@pytest.fixture
async def node(store_url: str | None) -> AsyncIterator[Node]:
    async with nodes(store_url, system_clock, max_per_signer=PER_SIGNER) as node:
        yield node


async def forgotten(store: TransactionStore, transaction: Transaction) -> None:
    """Wait until a transaction is gone."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await store.load(transaction.key) is not None:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.02)


async def test_what_is_created_is_loaded_field_for_field(node: Node) -> None:
    """Another node sees exactly the transaction that was created."""
    created = new_transaction()
    assert await node().create(created) is None
    assert await node().load(created.key) == created


async def test_what_is_replaced_is_loaded_field_for_field(node: Node) -> None:
    """Every field of the replacement is kept, and nothing of what it replaces."""
    first = new_transaction()
    full = dataclasses.replace(
        first,
        version=1,
        state=State.CONFIRMING,
        body_type=BodyType.kur,
        endpoint="e",
        upstream="u",
        variant="nested",
        signer_der=b"1",
        sender_nonce=b"2",
        cert_req_id=355,
        subject_der=b"4",
        opening=Exchange(b"5", b"6", b"7"),
        confirmation=Exchange(b"8", b"9", b""),
        lease_until=first.lease_until + timedelta(microseconds=1),
        created_at=first.created_at + timedelta(microseconds=1),
        expires_at=first.expires_at + timedelta(minutes=1),
        response_nonce=b"10",
        certificate_der=b"11",
        confirm_status=False,
    )
    bare = dataclasses.replace(
        full, version=2, opening=Exchange(b"5", b""), confirmation=None, certificate_der=b""
    )
    await node().create(first)
    await node().replace(full)
    assert await node().load(first.key) == full
    await node().replace(bare)
    assert await node().load(first.key) == bare


async def test_nothing_is_loaded_or_found_that_was_not_created(node: Node) -> None:
    """An unknown key and an unknown transactionID have no transaction."""
    assert await node().load(new_transaction().key) is None
    assert await node().find(b"unknown") == []


@pytest.mark.requirement(12)
async def test_a_live_key_is_not_created_again(node: Node) -> None:
    """The second create returns the live transaction and changes nothing about it."""
    first = new_transaction()
    second = new_transaction(opening=Exchange(b"other", b"other"), endpoint="other")
    await node().create(first)
    assert await node().create(second) == first
    assert await node().load(first.key) == first


async def test_the_same_transaction_is_not_created_twice(node: Node) -> None:
    """Even a create that is equal to the live transaction has lost."""
    transaction = new_transaction()
    await node().create(transaction)
    assert await node().create(transaction) == transaction


@pytest.mark.parametrize(
    "other",
    [
        TransactionKey("other", b"f" * 32, b"t" * 16),
        TransactionKey("acme", b"g" * 32, b"t" * 16),
        TransactionKey("acme", b"f" * 32, b"u" * 16),
        TransactionKey("acme", b"f" * 32, b"t" * 17),
        TransactionKey("acme", b"f" * 32, b""),
        TransactionKey("acme", b"f" * 32, b"t" * 60_000),
    ],
    ids=["domain", "signer", "id", "longer id", "empty id", "huge id"],
)
@pytest.mark.requirement(5)
async def test_every_part_of_the_key_tells_transactions_apart(
    node: Node, other: TransactionKey
) -> None:
    """A transaction in another domain, of another signer or with another ID is another one."""
    one = new_transaction(key=TransactionKey("acme", b"f" * 32, b"t" * 16))
    another = new_transaction(key=other)
    store = node()
    assert await store.create(one) is None
    assert await store.create(another) is None
    assert await store.load(one.key) == one
    assert await store.load(other) == another


@pytest.mark.requirement(94)
async def test_of_concurrent_creates_exactly_one_wins(node: Node) -> None:
    """However many nodes create at once, one wins and the others are told which."""
    nodes = [node(), node()]
    rivals = [new_transaction(endpoint=f"rival {number}") for number in range(40)]
    live = await asyncio.gather(
        *(nodes[number % 2].create(rival) for number, rival in enumerate(rivals))
    )
    won = [rival for rival, other in zip(rivals, live, strict=True) if other is None]
    assert len(won) == 1
    assert [other for other in live if other is not None] == won * 39
    assert await node().load(won[0].key) == won[0]


async def test_of_concurrent_replacements_exactly_one_wins(node: Node) -> None:
    """A node that replaces what another one has replaced meanwhile learns that it is late."""
    nodes = [node(), node()]
    transaction = new_transaction()
    await nodes[0].create(transaction)
    rivals = [advance(transaction, Event.taken_over, endpoint=f"rival {n}") for n in range(40)]
    results = await asyncio.gather(
        *(nodes[number % 2].replace(rival) for number, rival in enumerate(rivals)),
        return_exceptions=True,
    )
    won = [rival for rival, late in zip(rivals, results, strict=True) if late is None]
    assert len(won) == 1
    assert [type(late) for late in results if late is not None] == [StaleTransaction] * 39
    assert await node().load(transaction.key) == won[0]


@pytest.mark.parametrize("version", [0, 1, 3])
async def test_only_the_directly_preceding_version_is_replaced(node: Node, version: int) -> None:
    """Version 1 is replaced by 2 and by nothing else, and stays as it is otherwise."""
    store = node()
    first = new_transaction()
    stored = advance(first, Event.taken_over)
    await store.create(first)
    await store.replace(stored)
    with pytest.raises(StaleTransaction, match="found version 1"):
        await store.replace(dataclasses.replace(stored, version=version, endpoint="late"))
    assert await store.load(stored.key) == stored


async def test_nothing_is_replaced_where_nothing_is(node: Node) -> None:
    """A transaction that is gone does not come back by a late replacement."""
    store = node()
    late = advance(new_transaction(), Event.issued)
    with pytest.raises(StaleTransaction, match="found none"):
        await store.replace(late)
    assert await store.load(late.key) is None


async def test_a_transaction_is_forgotten_when_it_expires(node: Node) -> None:
    """From `expires_at` on the key is free, and nobody finds the transaction."""
    store = node()
    short = new_transaction(lifetime=timedelta(seconds=2))
    await store.create(short)
    seen = await store.load(short.key)
    assert seen == short or system_clock() >= short.expires_at
    await forgotten(store, short)
    assert system_clock() >= short.expires_at
    assert await store.find(short.key.transaction_id) == []
    with pytest.raises(StaleTransaction):
        await store.replace(advance(short, Event.issued))
    assert await store.create(new_transaction()) is None


async def test_a_replacement_can_give_a_longer_life(node: Node) -> None:
    """The expiry of the latest version counts, for the key and for its transactionID."""
    store = node()
    short = new_transaction(lifetime=timedelta(seconds=2))
    longer = advance(short, Event.issued, expires_at=short.expires_at + timedelta(hours=1))
    other = new_transaction(b"other", lifetime=timedelta(seconds=2))
    await store.create(short)
    await store.replace(longer)
    await store.create(other)
    await forgotten(store, other)
    assert await store.load(short.key) == longer
    assert await store.find(short.key.transaction_id) == [longer]


async def test_a_replacement_can_give_a_shorter_life(node: Node) -> None:
    """An expiry that moves closer is kept, too."""
    store = node()
    first = new_transaction()
    brief = advance(first, Event.issued, expires_at=system_clock() + timedelta(milliseconds=50))
    await store.create(first)
    await store.replace(brief)
    await forgotten(store, first)
    assert system_clock() < first.expires_at


async def test_what_has_expired_already_is_not_live(node: Node) -> None:
    """Storing something that is over leaves nothing behind."""
    store = node()
    over = new_transaction(lifetime=timedelta(seconds=-1))
    assert await store.create(over) is None
    assert await store.load(over.key) is None


async def test_find_returns_the_transactions_of_all_signers(node: Node) -> None:
    """A follower without a certificate is looked up by its transactionID alone."""
    mine = [new_transaction(b"shared", signer=number) for number in range(3)]
    await node().create(new_transaction(b"another"))
    for transaction in mine:
        await node().create(transaction)
    changed = advance(mine[0], Event.issued)
    await node().replace(changed)
    found = await node().find(b"shared")
    assert sorted(found, key=lambda each: each.key.signer_digest) == [changed, *mine[1:]]


async def test_find_returns_at_most_eight(node: Node) -> None:
    """A ninth signer of a transactionID is stored but does not make every lookup longer."""
    store = node()
    mine = [new_transaction(b"shared", signer=number) for number in range(9)]
    assert [await store.create(transaction) for transaction in mine] == [None] * 9
    found = await store.find(b"shared")
    assert sorted(each.key.signer_digest for each in found) == [
        transaction.key.signer_digest for transaction in mine[:8]
    ]
    assert await store.load(mine[8].key) == mine[8]


async def test_expired_transactions_give_their_places_in_find_away(node: Node) -> None:
    """Eight that are gone do not hide the ninth."""
    store = node()
    for number in range(8):
        await store.create(
            new_transaction(b"shared", signer=number, lifetime=timedelta(milliseconds=60))
        )
    keeper = new_transaction(b"shared", signer=8)
    await store.create(keeper)
    await asyncio.sleep(0.1)  # at least: all eight are over
    late = new_transaction(b"shared", signer=9)
    await store.create(late)
    assert late in await store.find(b"shared")


async def test_wait_returns_at_once_what_has_changed_already(node: Node) -> None:
    """Who waits for a version that is past gets the present one."""
    store = node()
    first = new_transaction()
    changed = advance(first, Event.issued)
    await store.create(first)
    await store.replace(changed)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (
            await store.wait(first.key, version=0, timeout_seconds=10 * PATIENCE_SECONDS) == changed
        )


@pytest.mark.requirement(94)
async def test_wait_wakes_when_another_node_replaces(node: Node) -> None:
    """All who wait get the new version soon after it was stored, wherever that was."""
    here, there = node(), node()
    first = new_transaction()
    changed = advance(first, Event.issued)
    await here.create(first)
    waiting = [
        asyncio.create_task(store.wait(first.key, version=0, timeout_seconds=10 * PATIENCE_SECONDS))
        for store in (here, here, there)
    ]
    await asyncio.sleep(0.03)
    assert not any(task.done() for task in waiting)
    await there.replace(changed)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await asyncio.gather(*waiting) == [changed] * 3


async def test_wait_returns_what_is_there_after_the_timeout(node: Node) -> None:
    """Nothing changed: the caller gets the transaction as it is, when its time is up."""
    store = node()
    transaction = new_transaction()
    await store.create(transaction)
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await store.wait(transaction.key, version=0, timeout_seconds=0.08) == transaction
    assert 0.07 <= loop.time() - started < 60
    assert await store.wait(transaction.key, version=0, timeout_seconds=0) == transaction


async def test_wait_ends_when_the_transaction_is_gone(node: Node) -> None:
    """Nothing to wait for, at once or as soon as it expires: None."""
    store = node()
    short = new_transaction(lifetime=timedelta(milliseconds=60))
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await store.wait(short.key, version=0, timeout_seconds=10 * PATIENCE_SECONDS) is None
        await store.create(short)
        assert await store.wait(short.key, version=0, timeout_seconds=10 * PATIENCE_SECONDS) is None


async def test_a_wait_that_is_cancelled_disturbs_nobody(node: Node) -> None:
    """A device that hangs up leaves the others waiting and the store in order."""
    store = node()
    first = new_transaction()
    changed = advance(first, Event.issued)
    await store.create(first)
    gone, patient = (
        asyncio.create_task(store.wait(first.key, version=0, timeout_seconds=10 * PATIENCE_SECONDS))
        for _ in "ab"
    )
    await asyncio.sleep(0.02)
    gone.cancel()
    await asyncio.wait([gone])
    await store.replace(changed)
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await patient == changed


async def test_a_store_that_can_be_written_to_answers_ping(node: Node) -> None:
    """ping returns, and leaves nothing that anyone could find."""
    store = node()
    await store.ping()
    assert await store.find(b"") == []


async def test_a_signer_has_no_more_than_its_share(node: Node) -> None:
    """One more is refused as systemUnavail; repeats, other signers and what is stored are not touched."""
    own = [new_transaction(bytes((n,)) * 16) for n in range(PER_SIGNER + 1)]
    for transaction in own[:-1]:
        assert await node().create(transaction) is None
    with pytest.raises(TooManyTransactions, match="max_transactions_per_signer") as caught:
        await node().create(own[-1])
    assert caught.value.fail_info is PKIFailureInfo.systemUnavail
    assert await node().load(own[-1].key) is None
    assert await node().create(own[0]) == own[0]
    assert await node().create(new_transaction(own[-1].key.transaction_id, signer=2)) is None
    assert await node().load(own[0].key) == own[0]


async def test_an_ra_speaks_for_many(node: Node) -> None:
    """Its transactions are those of its devices: only the store as a whole bounds them."""
    key = TransactionKey("ra:ran", bytes(32), b"")
    for number in range(2 * PER_SIGNER):
        own = dataclasses.replace(key, transaction_id=number.to_bytes(16, "big"))
        assert await node().create(new_transaction(key=own)) is None


async def test_an_expired_transaction_leaves_its_signer_room(node: Node) -> None:
    """Each expiry lets one more in, and nothing of a signer is left when all have expired."""
    short = timedelta(milliseconds=300)
    for number in range(PER_SIGNER):
        lifetime = short if number < 2 else timedelta(minutes=5)
        await node().create(new_transaction(bytes((number,)) * 16, lifetime=lifetime))
    await asyncio.sleep(0.35)
    for number in (100, 101):
        assert await node().create(new_transaction(bytes((number,)) * 16)) is None
    with pytest.raises(TooManyTransactions):
        await node().create(new_transaction(bytes((102,)) * 16))


async def test_two_nodes_together_give_a_signer_no_more(node: Node) -> None:
    """All at once, from two nodes: as many are stored as one signer may have."""
    nodes = node(), node()
    results = await asyncio.gather(
        *(
            nodes[number % 2].create(new_transaction(bytes((number,)) * 16))
            for number in range(3 * PER_SIGNER)
        ),
        return_exceptions=True,
    )
    assert sum(result is None for result in results) == PER_SIGNER
    assert sum(isinstance(result, TooManyTransactions) for result in results) == 2 * PER_SIGNER
