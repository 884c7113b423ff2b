"""What is particular to the memory store: it is bounded, and follows the clock it is given."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ra_gateway.errors import PKIFailureInfo, StoreUnavailable, TransactionInUse
from ra_gateway.ra.confirmation_records import ConfirmationNote, ConfirmationStatus
from ra_gateway.ra.rates import Rate
from ra_gateway.ra.transaction import Event, Exchange, State, Transaction, advance
from ra_gateway.stores.memory import MemoryStore
from tests.support.harness import ManualClock
from tests.support.transactions import new_transaction

START = datetime(2030, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


async def test_a_full_store_refuses_and_forgets_nothing() -> None:
    """One more than allowed is refused as systemUnavail; what is live stays."""
    store = MemoryStore(ManualClock(START), max_transactions=2)
    kept = [new_transaction(signer=n, expires_at=START + MINUTE) for n in (1, 2)]
    for transaction in kept:
        await store.create(transaction)
    with pytest.raises(StoreUnavailable, match="full, 2 transactions are live") as caught:
        await store.create(new_transaction(signer=3, expires_at=START + MINUTE))
    assert caught.value.fail_info is PKIFailureInfo.systemUnavail
    with pytest.raises(StoreUnavailable, match="full"):
        await store.ping()
    assert [await store.load(transaction.key) for transaction in kept] == kept
    assert await store.create(kept[0]) == kept[0]


async def test_expired_transactions_make_room() -> None:
    """A full store takes new transactions as soon as old ones have expired."""
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=2)
    for signer in (1, 2):
        await store.create(new_transaction(signer=signer, expires_at=START + MINUTE))
    clock.now += MINUTE
    await store.ping()
    assert await store.create(new_transaction(signer=3, expires_at=START + 2 * MINUTE)) is None


async def test_certificates_of_years_do_not_fill_the_store() -> None:
    """What was settled makes room, the oldest first; what is awaited stays, and then the store is full."""
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=4)
    years = START + timedelta(days=1000)

    async def note_confirmation(number: int, status: ConfirmationStatus) -> ConfirmationStatus:
        name = number.to_bytes(32, "big")
        note = ConfirmationNote(f"{number}", status, clock.now + MINUTE)
        return (await store.note_confirmation(name, note, years)).status

    await note_confirmation(0, ConfirmationStatus.awaited)
    for number in range(1, 100):
        await note_confirmation(number, ConfirmationStatus.confirmed)
    assert await note_confirmation(99, ConfirmationStatus.withdrawn) is ConfirmationStatus.confirmed
    for number in (101, 102, 103):
        await note_confirmation(number, ConfirmationStatus.awaited)
    with pytest.raises(StoreUnavailable, match="full, 4 certificates"):
        await note_confirmation(104, ConfirmationStatus.awaited)
    clock.now += MINUTE
    await note_confirmation(104, ConfirmationStatus.awaited)


async def test_expired_transactions_do_not_pile_up() -> None:
    """However many come and go, only what is live (and a few to be swept) is in memory."""
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=1000)
    for number in range(3000):
        clock.now += timedelta(seconds=1)
        first = new_transaction(
            number.to_bytes(16, "big"), expires_at=clock.now + timedelta(seconds=10)
        )
        await store.create(first)
        later = clock.now + timedelta(seconds=10 + number % 20 - 5)
        await store.replace(advance(first, Event.issued, expires_at=later))
    assert len(store._transactions) <= 40
    assert len(store._ends) == len(store._by_transaction_id) == len(store._transactions)


async def test_a_transaction_expires_by_the_given_clock() -> None:
    """Live until the instant before `expires_at`, gone at it."""
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=2)
    transaction = new_transaction(expires_at=START + MINUTE)
    await store.create(transaction)
    clock.now = START + MINUTE - timedelta(microseconds=1)
    assert await store.load(transaction.key) == transaction
    clock.now = START + MINUTE
    assert await store.load(transaction.key) is None


async def test_a_replacement_wakes_who_waits_without_delay() -> None:
    """The waiting task runs in the next turns of the event loop, not after some pause."""
    store = MemoryStore(ManualClock(START), max_transactions=2)
    first = new_transaction(expires_at=START + MINUTE)
    changed = advance(first, Event.issued)
    await store.create(first)
    waiting = asyncio.create_task(store.wait(first.key, version=0, timeout_seconds=60))
    await asyncio.sleep(0)
    await store.replace(changed)
    for _ in range(5):
        await asyncio.sleep(0)
    assert waiting.done()
    assert waiting.result() == changed


def finished(number: int, ends: datetime, **changes: Any) -> list[Transaction]:
    """A transaction as it opens, and after each change up to its end."""
    opened = new_transaction(signer=number, expires_at=ends, **changes)
    issued = advance(opened, Event.issued)
    confirming = advance(issued, Event.confirm, confirmation=Exchange(b"", b""))
    return [opened, issued, confirming, advance(confirming, Event.accepted)]


async def run(store: MemoryStore, versions: list[Transaction]) -> None:
    """Store a transaction, and each change."""
    await store.create(versions[0])
    for version in versions[1:]:
        await store.replace(version)


@pytest.mark.requirement(94, 95)
async def test_what_is_finished_makes_room_and_does_not_begin_anew() -> None:
    """The oldest goes first; what is live stays, and the transactionID of what went is taken until it would end."""
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=3)
    ends = START + MINUTE
    live = new_transaction(signer=9, expires_at=ends)
    await store.create(live)
    done = [finished(number, ends) for number in range(6)]
    for versions in done:
        await run(store, versions)
    assert await store.load(live.key) == live
    kept = [await store.load(versions[0].key) for versions in done]
    assert kept == [None, None, None, None, done[4][-1], done[5][-1]]
    assert store.unfinished == 1
    with pytest.raises(TransactionInUse):
        await store.create(done[0][0])
    assert await store.create(done[5][0]) == done[5][-1]
    assert await store.create(done[1][0], repeatable=True) is None
    clock.now = ends
    again = new_transaction(signer=0, expires_at=ends + MINUTE)
    assert await store.create(again) is None


async def test_what_is_owed_to_a_device_or_planned_is_not_finished() -> None:
    """A certificate that a device is yet to poll for stays, and so does what the schedule is to look at."""
    store = MemoryStore(ManualClock(START), max_transactions=2)
    ends = START + MINUTE
    waiting = new_transaction(
        signer=1, expires_at=ends, opening=Exchange(b"d", b"u", b"wait", waiting=True)
    )
    await run(store, [waiting, advance(waiting, Event.granted)])
    planned = finished(2, ends)
    await run(store, planned)
    await store.add(planned[0].key, ends)
    with pytest.raises(StoreUnavailable, match="full"):
        await store.create(new_transaction(signer=3, expires_at=ends))
    await store.remove(planned[0].key)
    assert await store.create(new_transaction(signer=3, expires_at=ends)) is None
    assert await store.load(waiting.key) is not None


async def test_a_store_that_let_go_of_ten_times_its_size_is_full() -> None:
    """What may not begin anew is never forgotten early, so its memory is bounded by refusing."""
    store = MemoryStore(ManualClock(START), max_transactions=1)
    for number in range(11):
        await run(store, finished(number, START + MINUTE))
    with pytest.raises(StoreUnavailable, match="full"):
        await store.create(new_transaction(signer=99, expires_at=START + MINUTE))


async def test_the_states_are_counted_as_they_change() -> None:
    """By state, until they are forgotten."""
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=10)
    await run(store, finished(1, START + MINUTE))
    await store.create(new_transaction(signer=2, expires_at=START + MINUTE))
    assert +Counter(store.states()) == {State.CONFIRMED: 1, State.REQUESTED: 1}
    clock.now += MINUTE
    await store.ping()
    assert +Counter(store.states()) == {}


@pytest.mark.parametrize("same_id", [False, True])
async def test_no_step_takes_longer_with_many_transactions(same_id: bool) -> None:
    """Counted in what the interpreter does: lines and calls, with a thousand and with thirty thousand of them."""
    small, large = [await steps_of_each_call(count, same_id=same_id) for count in (1000, 30_000)]
    assert {name for name in small if large[name] > small[name] + 20} == set()


async def steps_of_each_call(count: int, *, same_id: bool) -> dict[str, int]:
    """Return how many lines of Python each method of a store runs through that has so many transactions."""
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=count, max_held=count + 1)
    versions: list[Transaction] = []
    for number in range(count):
        ends = START + timedelta(seconds=60 + number // 10)
        transaction_id = b"same" if same_id else number.to_bytes(16, "big")
        versions = finished(number, ends, transaction_id=transaction_id)
        await run(store, versions)
        await store.add(versions[0].key, ends)
        await store.remove(versions[0].key)
        await store.add(versions[0].key, ends)
        await store.hold(versions[0].key, ends)
    more = finished(count, START + MINUTE)
    await store.remove(next(iter(store._finished)))
    calls = {
        "create": lambda: store.create(more[0]),
        "replace": lambda: store.replace(more[1]),
        "load": lambda: store.load(more[0].key),
        "find": lambda: store.find(versions[0].key.transaction_id),
        "add": lambda: store.add(more[0].key, START + MINUTE),
        "hold": lambda: store.hold(more[0].key, START + MINUTE),
        "unhold": lambda: store.unhold(more[0].key),
        "due": lambda: store.due(START + MINUTE, limit=2),
        "backlog": store.backlog,
        "remove": lambda: store.remove(more[0].key),
        "states": lambda: counted(store),
    }
    return {name: await lines_of(call) for name, call in calls.items()}


async def counted(store: MemoryStore) -> Mapping[State, int]:
    return store.states()


async def lines_of(call: Callable[[], Awaitable[object]]) -> int:
    """Return how many lines of Python a call runs through."""
    lines = 0

    def trace(_frame: object, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        await call()
    finally:
        sys.settrace(before)
    return lines


async def test_rates_of_many_addresses_are_seldom_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has a network of addresses neither makes each message walk over all of them, nor fills a memory."""
    monkeypatch.setattr("ra_gateway.stores.memory._RATES_LIMIT", 16)
    clock = ManualClock(START)
    store = MemoryStore(clock, max_transactions=1)
    walked, kept = 0, store._rates
    for number in range(1000):
        await store.take(f"source:{number:08x}", Rate(1.0, 10), 1, owed=0)
        walked += store._rates is not kept
        kept = store._rates
    assert len(kept) == 1000
    assert walked < 10
    clock.now += MINUTE
    for number in range(1000, 3000):
        await store.take(f"source:{number:08x}", Rate(1.0, 10), 1, owed=0)
    assert f"source:{1:08x}" not in store._rates
