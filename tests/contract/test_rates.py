"""What every store promises of rates that nodes share (`SharedRates` in ra_gateway/ra/rates.py)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest
from redis.asyncio import Redis

from ra_gateway.errors import RateExceeded, StoreUnavailable
from ra_gateway.ra.rates import Limits, Rate
from ra_gateway.stores.redis import RedisStore
from tests.support.redis_server import SEAL_KEY
from tests.support.transactions import Node, nodes, system_clock

SLOW: Final = Rate(0.001, 20)
"""What comes back of it while a test runs is none."""


@pytest.fixture
async def node(store_url: str | None) -> AsyncIterator[Node]:
    async with nodes(store_url, system_clock) as node:
        yield node


async def admitted(limits: Limits, count: int) -> int:
    results = await asyncio.gather(
        *(limits.admit("acme radio") for _ in range(count)), return_exceptions=True
    )
    assert all(result is None or isinstance(result, RateExceeded) for result in results)
    return results.count(None)


async def test_two_gateways_share_one_limit(node: Node) -> None:
    """Both together let in the burst, whoever is faster, and a third one that comes later nobody."""
    gateways = [
        Limits(node(), time.monotonic, every=Rate(100.0, 10_000), vendors={"acme radio": SLOW})
        for _ in range(3)
    ]
    counts = await asyncio.gather(*(admitted(gateway, 40) for gateway in gateways[:2]))
    assert sum(counts) == SLOW.burst
    assert await admitted(gateways[2], 40) == 0


async def test_what_was_let_in_unasked_counts(node: Node) -> None:
    """An address that has had its first messages on one node has so many fewer on all."""
    store = node()
    assert await store.take("source:c0000201", SLOW, 1, owed=15) == (1, 0.0)
    assert (await node().take("source:c0000201", SLOW, 10, owed=0)).granted == 4
    count, wait_seconds = await store.take("source:c0000201", SLOW, 10, owed=0)
    assert count == 0
    assert 990 < wait_seconds <= 1000
    assert (await store.take("source:c0000202", SLOW, 10, owed=0)).granted == 10


async def test_a_rate_comes_back(node: Node) -> None:
    """With time there is room again, as much as the rate says."""
    fast = Rate(100_000.0, 50)
    store = node()
    assert (await store.take("all", fast, 50, owed=0)).granted == 50
    async with asyncio.timeout(5):
        while not (await store.take("all", fast, 50, owed=0)).granted:  # noqa: ASYNC110  # time passes
            await asyncio.sleep(0.001)


STRANGE: Final = [b"nan", b"inf", b"1e300", b"-5", b"", b"x" * 1000, b"0x10"]


async def test_what_others_wrote_gives_no_more_than_a_burst(redis_url: str) -> None:
    """Whoever can write to Redis can use up a rate, and gets nothing by it; no text makes a question fail."""
    store = RedisStore(redis_url, clock=system_clock, seal_keys=[SEAL_KEY])
    client = Redis.from_url(redis_url)
    try:
        for text in STRANGE:
            await client.set("ra:rate:all", text)
            assert (await store.take("all", SLOW, 100, owed=0)).granted in (0, SLOW.burst)
            assert 0 < await client.pttl("ra:rate:all") <= SLOW.burst * 1_000_000 + 1000
        await client.delete("ra:rate:all")
        await client.rpush("ra:rate:all", "a", "b")
        assert (await store.take("all", SLOW, 100, owed=0)).granted == SLOW.burst
    finally:
        await client.aclose()
        await store.close()


async def test_a_store_that_is_closed_lets_nobody_in(redis_url: str) -> None:
    """Without the store there is no limit that could be kept, and no transaction either."""
    store = RedisStore(redis_url, clock=system_clock, seal_keys=[SEAL_KEY])
    await store.close()
    with pytest.raises(StoreUnavailable):
        await Limits(store, time.monotonic, every=SLOW).admit("acme radio")
