"""What every store promises of its schedule and its list for operators (`Schedule`, `Approvals` in ports.py).

`node()` opens a store as one more gateway node would, as in the contract of transactions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from ra_gateway.errors import StoreUnavailable
from ra_gateway.ra.ports import Backlog
from ra_gateway.ra.transaction import TransactionKey
from ra_gateway.stores.redis import RedisStore
from tests.support.harness import ManualClock
from tests.support.transactions import Node, new_transaction, nodes, system_clock

MAX_HELD = 3
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(system_clock())


@pytest.fixture
async def node(store_url: str | None, clock: ManualClock) -> AsyncIterator[Node]:
    async with nodes(store_url, clock, max_held=MAX_HELD) as node:
        yield node


def key(number: int, *, signer: int | None = None, domain: str = "acme radio") -> TransactionKey:
    """A transaction's key; its signer is another one for each number, unless it is given."""
    who = number if signer is None else signer
    return TransactionKey(domain, who.to_bytes(32, "big"), number.to_bytes(16, "big"))


# --- the schedule -----------------------------------------------------------------------------------------------


async def test_what_is_planned_is_due_from_its_time_on(node: Node, clock: ManualClock) -> None:
    """For every node; not before."""
    await node().add(key(1), clock() + HOUR)
    assert await node().due(clock() + HOUR - timedelta(seconds=1), limit=9) == []
    assert await node().due(clock() + HOUR, limit=9) == [key(1)]
    assert await node().due(clock() + HOUR, limit=9) == [key(1)]


async def test_a_new_transaction_is_planned_with_what_it_is(node: Node, clock: ManualClock) -> None:
    """By the same step; one that is not stored changes nothing of the plan of the one that is."""
    first, store = new_transaction(b"first"), node()
    assert await store.create(first, look_at=clock() + HOUR) is None
    assert await store.load(first.key) == first
    assert await node().due(clock() + HOUR - timedelta(seconds=1), limit=9) == []
    assert await node().due(clock() + HOUR, limit=9) == [first.key]
    assert await node().create(first, look_at=clock()) == first
    assert await node().due(clock(), limit=9) == []
    assert await node().create(new_transaction(b"another")) is None
    assert await node().backlog() == Backlog(held=0, scheduled=1, overdue=0)


async def test_the_longest_due_comes_first(node: Node, clock: ManualClock) -> None:
    """And no more at once than was asked for."""
    for number in (3, 1, 2):
        await node().add(key(number), clock() + number * HOUR)
    assert await node().due(clock() + 9 * HOUR, limit=2) == [key(1), key(2)]
    assert await node().due(clock() + 2 * HOUR, limit=9) == [key(1), key(2)]


async def test_a_later_plan_takes_the_place_of_the_first(node: Node, clock: ManualClock) -> None:
    """Sooner or later, it stands there once."""
    await node().add(key(1), clock() + HOUR)
    await node().add(key(1), clock() + 2 * HOUR)
    assert await node().due(clock() + HOUR, limit=9) == []
    await node().add(key(1), clock())
    assert await node().due(clock() + 9 * HOUR, limit=9) == [key(1)]


async def test_what_is_dropped_is_not_due(node: Node, clock: ManualClock) -> None:
    """Dropping what is not there is nothing."""
    await node().add(key(1), clock())
    await node().add(key(2), clock())
    await node().remove(key(1))
    await node().remove(key(1))
    assert await node().due(clock(), limit=9) == [key(2)]


async def test_the_backlog(node: Node, clock: ManualClock) -> None:
    """What waits is counted for all nodes; what is over is not."""
    assert await node().backlog() == (0, 0, 0)
    for number in range(3):
        await node().add(key(number), clock() + (number - 1) * HOUR)
    await node().hold(key(7), clock() + HOUR)
    await node().hold(key(8), clock() + 3 * HOUR)
    assert await node().backlog() == Backlog(held=2, scheduled=3, overdue=2)
    clock.move(hours=2)
    assert await node().backlog() == Backlog(held=1, scheduled=3, overdue=3)


async def test_what_somebody_else_wrote_is_no_backlog(redis_url: str, clock: ManualClock) -> None:
    """And no reason to call the store lost."""
    async with nodes(redis_url, clock) as node:
        store, client = node(), Redis.from_url(redis_url)
        assert isinstance(store, RedisStore)
        for name in (store._schedule, *store._held_keys):
            await client.set(name, "mine")
        assert await store.backlog() == (0, 0, 0)
        await client.aclose()


@pytest.mark.parametrize("transaction_id", [b"", b"x", bytes(range(256)) * 4])
async def test_keys_of_any_length_come_back_whole(
    node: Node, clock: ManualClock, transaction_id: bytes
) -> None:
    """Domains with blanks and colons as well."""
    odd = TransactionKey("mac:a b", bytes(32), transaction_id)
    await node().add(odd, clock())
    await node().hold(odd, clock() + HOUR)
    assert await node().due(clock(), limit=9) == [odd]
    assert await node().held() == [odd]


# --- requests that wait for an operator -----------------------------------------------------------------------


async def test_what_is_held_is_listed_until_it_is_not(node: Node, clock: ManualClock) -> None:
    """For every node."""
    await node().hold(key(1), clock() + HOUR)
    await node().hold(key(2), clock() + HOUR)
    assert set(await node().held()) == {key(1), key(2)}
    await node().unhold(key(1))
    await node().unhold(key(1))
    assert await node().held() == [key(2)]


async def test_the_newest_of_a_requester_takes_the_place(node: Node, clock: ManualClock) -> None:
    """The same signer in another domain is another requester."""
    await node().hold(key(1, signer=7), clock() + HOUR)
    await node().hold(key(2, signer=7), clock() + HOUR)
    await node().hold(key(3, signer=7, domain="rivet"), clock() + HOUR)
    await node().unhold(key(1, signer=7))
    assert set(await node().held()) == {key(2, signer=7), key(3, signer=7, domain="rivet")}


async def test_each_request_of_an_ra_is_listed(node: Node, clock: ManualClock) -> None:
    """It asks for many devices; a repeat takes its own place."""
    first, second = (key(number, signer=7, domain="ra:ran") for number in (1, 2))
    for each in (first, second, first):
        await node().hold(each, clock() + HOUR)
    assert set(await node().held()) == {first, second}
    await node().unhold(first)
    assert await node().held() == [second]


async def test_what_has_expired_is_not_listed(node: Node, clock: ManualClock) -> None:
    """Each for itself, and from its newest time."""
    await node().hold(key(1), clock() + HOUR)
    await node().hold(key(2), clock() + 2 * HOUR)
    clock.move(hours=1)
    assert await node().held() == [key(2)]
    clock.move(hours=1)
    assert await node().held() == []


async def test_a_full_list_takes_no_more(node: Node, clock: ManualClock) -> None:
    """But a newer request of one that is on it; and what has expired makes room."""
    for number in range(MAX_HELD):
        await node().hold(key(number), clock() + HOUR)
    with pytest.raises(StoreUnavailable):
        await node().hold(key(9), clock() + HOUR)
    await node().hold(key(5, signer=1), clock() + 3 * HOUR)
    assert set(await node().held()) == {key(0), key(5, signer=1), key(2)}
    clock.move(hours=2)
    await node().hold(key(9), clock() + HOUR)
    assert set(await node().held()) == {key(5, signer=1), key(9)}


async def test_many_at_once(node: Node, clock: ManualClock) -> None:
    """The list never has more than it may."""
    tries = [node().hold(key(number), clock() + HOUR) for number in range(20)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(result is None for result in results) == MAX_HELD
    assert len(await node().held()) == MAX_HELD
