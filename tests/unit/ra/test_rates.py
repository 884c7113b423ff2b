"""How many are let in: what nodes share is never exceeded, costs few round trips, and is forgotten in a stated way."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from ra_gateway.errors import RateExceeded, StoreUnavailable
from ra_gateway.ra.rates import Allowance, Limits, Rate, Taken, drawn

RATE: Final = Rate(100.0, 200)
VENDOR: Final = Rate(1.0, 5)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shared:
    """What is left of rates, in one place; counts how often it is asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.full_at: dict[str, float] = {}
        self.asked = 0
        self.is_away = False

    async def take(self, name: str, rate: Rate, wanted: int, owed: int) -> Taken:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("no answer")
        now = self.clock()
        self.full_at[name], taken = drawn(self.full_at.get(name, now), now, rate, wanted, owed)
        return taken


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shared(clock: Clock) -> Shared:
    return Shared(clock)


async def admitted(limits: Limits, count: int, domain: str = "acme") -> int:
    """How many of so many that come at the same time are let in."""
    results = await asyncio.gather(
        *(limits.admit(domain) for _ in range(count)), return_exceptions=True
    )
    assert all(result is None or isinstance(result, RateExceeded) for result in results)
    return results.count(None)


async def test_nodes_together_take_a_burst_and_then_the_rate(shared: Shared, clock: Clock) -> None:
    """Three nodes, all of which get more than they may take: never more than the burst, and the rate from then on."""
    nodes = [Limits(shared, clock, every=RATE) for _ in range(3)]
    assert sum([await admitted(node, 150) for node in nodes]) == RATE.burst
    taken = 0
    for _ in range(100):
        clock.now += 0.1
        taken += sum([await admitted(node, 10) for node in nodes])
    # What a node took last and has not used yet is a batch at most.
    assert 1000 - 3 * RATE.batch <= taken <= 1000


async def test_a_batch_costs_one_round_trip(shared: Shared, clock: Clock) -> None:
    """Where there is room, one in ten asks; where there is none, nobody asks before there may be some."""
    limits = Limits(shared, clock, every=RATE)
    assert await admitted(limits, 200) == 200
    assert shared.asked == 20
    assert await admitted(limits, 500) == 0
    assert shared.asked == 21
    clock.now += 0.5
    assert await admitted(limits, 500) == 50


async def test_what_a_node_took_and_did_not_use_does_not_come_on_top(
    shared: Shared, clock: Clock
) -> None:
    """A node that took a batch and was idle has none of it once the burst is full again."""
    nodes = [Limits(shared, clock, every=RATE) for _ in range(3)]
    for node in nodes:
        await node.admit("acme")
    clock.now += RATE.burst / RATE.per_second
    assert sum([await admitted(node, 200) for node in nodes]) == RATE.burst


async def test_one_vendor_has_nothing_of_what_is_the_others(shared: Shared, clock: Clock) -> None:
    """A vendor's limit holds for its devices alone; what it refuses is not counted among all."""
    limits = Limits(shared, clock, every=RATE, vendors={"acme": VENDOR})
    assert await admitted(limits, 20) == 5
    with pytest.raises(RateExceeded, match=r"vendors\.acme\.requests_per_second") as caught:
        await limits.admit("acme")
    assert "try again" in caught.value.phrase
    assert await admitted(limits, 300, "other") == RATE.burst - 5
    with pytest.raises(RateExceeded, match=r"limits\.requests_per_second"):
        await limits.admit("other")
    clock.now += 1  # there is one of the vendor, and of all there is too
    assert await admitted(limits, 20) == 1
    assert set(limits.turned_away) == {"vendor", "all"}


async def test_what_all_refuse_is_not_taken_of_the_vendors(shared: Shared, clock: Clock) -> None:
    """A device that was refused for all's sake has not used up its vendor's rate."""
    limits = Limits(shared, clock, every=Rate(0.5, 1), vendors={"acme": Rate(0.001, 2)})
    assert await admitted(limits, 10) == 1
    clock.now += 2
    assert await admitted(limits, 10) == 1


async def test_a_repeat_gives_back_what_it_took(shared: Shared, clock: Clock) -> None:
    """What turns out to be nothing new leaves room for what is."""
    limits = Limits(shared, clock, vendors={"acme": VENDOR})
    for _ in range(50):
        await limits.admit("acme")
        limits.give_back("acme")
    assert await admitted(limits, 20) == 5


async def test_a_source_sends_a_few_without_a_round_trip(shared: Shared, clock: Clock) -> None:
    """The first messages of an address cost the store nothing; they are told to it with the first question."""
    rate = Rate(10.0, 20)
    limits = Limits(shared, clock, source=rate)
    for number in range(100):
        assert await limits.wait_of_source(b"%d" % number) == 0
    assert shared.asked == 0
    waits = [await limits.wait_of_source(b"0") for _ in range(100)]
    assert waits.count(0) == rate.burst - 1
    assert waits[-1] == pytest.approx(0.1)
    # On another node it has no more than what that lets in unasked.
    other = Limits(shared, clock, source=rate)
    assert [await other.wait_of_source(b"0") for _ in range(100)].count(0) == rate.batch


async def test_addresses_do_not_fill_a_memory(
    shared: Shared, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more addresses than are counted, those that were quiet longest are forgotten."""
    monkeypatch.setattr("ra_gateway.ra.rates._MOST_SOURCES", 100)
    limits = Limits(shared, clock, source=Rate(1.0, 1))
    for number in range(1000):
        await limits.wait_of_source(number.to_bytes(4, "big"))
        await limits.wait_of_source(b"loud")
    assert len(limits._sources) == 100
    assert await limits.wait_of_source(b"loud") > 0


async def test_nobody_queues_for_a_store_that_is_away(shared: Shared, clock: Clock) -> None:
    """The first one waits for the store; all others are told at once, until it is asked anew after a second."""
    limits = Limits(shared, clock, every=RATE)
    shared.is_away = True
    results = await asyncio.gather(
        *(limits.admit("acme") for _ in range(100)), return_exceptions=True
    )
    assert {type(result) for result in results} == {StoreUnavailable}
    assert shared.asked == 1
    shared.is_away = False
    clock.now += 1
    assert await admitted(limits, 10) == 10


async def test_a_clock_that_was_set_back_closes_nothing_for_good(
    shared: Shared, clock: Clock
) -> None:
    """What is missing according to the store is never more than a burst."""
    limits = Limits(shared, clock, every=RATE)
    shared.full_at["all"] = clock.now + 1e9
    assert await admitted(limits, 10) == 0
    clock.now += 1
    assert await admitted(limits, 500) == 100


def test_rates_of_one_an_hour_and_of_a_hundred_thousand_a_second() -> None:
    """Neither loses one by a clock's last digit."""
    for rate in (Rate(1 / 3600, 1), Rate(0.3, 7), Rate(7.0, 70), Rate(100_000.0, 1_000_000)):
        full_at, taken = drawn(0.0, 1.7e9, rate, rate.burst, 0)
        assert taken.granted == rate.burst
        full_at, taken = drawn(full_at, 1.7e9, rate, 1, 0)
        assert taken.granted == 0
        assert taken.wait_seconds == pytest.approx(1 / rate.per_second, rel=0.1)
        assert 1 <= rate.batch <= rate.burst


async def test_an_allowance_asks_for_no_more_than_a_batch(shared: Shared, clock: Clock) -> None:
    """So a node that ends loses a batch at most."""
    allowance = Allowance("all", RATE, shared, clock)
    await allowance.take()
    assert shared.full_at["all"] == pytest.approx(clock.now + RATE.batch / RATE.per_second)
