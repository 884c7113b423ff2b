"""What is particular to the memory store: it is bounded, and follows the clock it is given."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ra_gateway.errors import PKIFailureInfo, StoreUnavailable
from ra_gateway.ra.confirmation_records import ConfirmationStatus
from ra_gateway.ra.transaction import Event, advance
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
        return (
            await store.note_confirmation(name, f"{number}", status, clock.now + MINUTE, years)
        ).status

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
    assert len(store._slots) <= 40
    assert len(store._due) <= 60
    assert len(store._by_transaction_id) == len(store._slots)


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
