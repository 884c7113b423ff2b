"""The transaction store of a single process: nothing survives a restart, nothing is shared.

No method awaits between looking and writing, so on one event loop each of them is atomic as it
stands.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import count, islice
from typing import Final

from ra_gateway.errors import StaleTransaction, StoreUnavailable
from ra_gateway.ra.confirmation_records import ConfirmationNote, ConfirmationRecord
from ra_gateway.ra.ports import Backlog, Clock, DeviceRecord
from ra_gateway.ra.rates import Rate, Taken, drawn
from ra_gateway.ra.transaction import State, Transaction, TransactionKey, too_many

FIND_LIMIT: Final = 8
"""How many signers' transactions `find` returns (the port's limit)."""

_SWEEP_LIMIT: Final = 16
"""Expired transactions removed per `create`: more than the one it adds, so they cannot pile up."""


_RATES_LIMIT: Final = 65_536
"""Rates of which something may be missing: beyond it, those of which nothing is are forgotten at each new one."""


@dataclass(slots=True)
class _Slot:
    """A stored transaction, until when it lives, when the heap will look at it, and who waits for it to change."""

    transaction: Transaction
    ends_at: datetime
    due_at: datetime
    changed: asyncio.Event | None = None

    def wake(self) -> None:
        if self.changed is not None:
            self.changed.set()
            self.changed = None


class MemoryStore:
    """Keeps transactions in this process; for one event loop only.

    Args:
        clock: Turns `expires_at` and the like into a lifetime.
        lifetimes: Counts lifetimes down, and is never set (`unstepped`): a wall clock that jumps must not make the
            store forget what a captured request could have issued twice. By default the clock itself.
        max_transactions: How many live transactions are kept (1 or more); one more is refused, not
            traded for another, because a forgotten transaction could be issued twice.
        max_per_signer: How many of them one signer may have, RAs apart.
        max_held: Most requests that wait for an operator (1 or more); one more is refused.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_transactions: int,
        max_per_signer: int = 128,
        max_held: int = 10_000,
        lifetimes: Clock | None = None,
    ) -> None:
        self._clock = clock
        self._lifetimes = lifetimes or clock
        self._max_transactions = max_transactions
        self._max_per_signer = max_per_signer
        self._slots: dict[TransactionKey, _Slot] = {}
        # The inner dict is used as an ordered set: the oldest transactions are found first.
        self._by_transaction_id: dict[bytes, dict[TransactionKey, None]] = {}
        self._by_signer: dict[tuple[str, bytes], dict[TransactionKey, None]] = {}
        self._due: list[tuple[datetime, int, TransactionKey]] = []
        self._ticket = count()  # keys have no order: it decides between equal times
        self._schedule: dict[TransactionKey, datetime] = {}
        self._max_held = max_held
        self._confirmation_records: dict[bytes, tuple[ConfirmationRecord, datetime]] = {}
        self._device_records: dict[DeviceRecord, dict[bytes, tuple[str, datetime]]] = {
            what: {} for what in DeviceRecord
        }
        self._rates: dict[str, float] = {}
        self._held: dict[tuple[str, bytes, bytes], tuple[TransactionKey, datetime]] = {}

    async def create(
        self, transaction: Transaction, *, repeatable: bool = False
    ) -> Transaction | None:
        """Store a new transaction unless its key is live, and return the live one if it is.

        Raises:
            TooManyTransactions: Its signer has as many as it may have.
            StoreUnavailable: The store is full of live transactions.
        """
        now = self._lifetimes()
        self._sweep(now)
        key = transaction.key
        live = self._live(key, now)
        if live is not None:
            return live.transaction
        self._check_signer(key, now)
        if len(self._slots) >= self._max_transactions:
            raise StoreUnavailable(f"memory store: full, {len(self._slots)} transactions are live")
        ends_at = self._end(transaction.expires_at)
        self._slots[key] = _Slot(transaction, ends_at, ends_at)
        self._by_transaction_id.setdefault(key.transaction_id, {})[key] = None
        self._by_signer.setdefault(key.signer, {})[key] = None
        self._expire(key, ends_at)
        return None

    async def load(self, key: TransactionKey) -> Transaction | None:
        """Return the live transaction under a key, or None."""
        slot = self._live(key, self._lifetimes())
        return None if slot is None else slot.transaction

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        """Return live transactions with this transactionID, whoever signed them (at most 8)."""
        return list(islice(self._sharing(transaction_id), FIND_LIMIT))

    async def replace(self, transaction: Transaction) -> None:
        """Replace the stored version `transaction.version - 1` by this one.

        Raises:
            StaleTransaction: Another version is stored, or none.
        """
        slot = self._live(transaction.key, self._lifetimes())
        expected = transaction.version - 1
        if slot is None or slot.transaction.version != expected:
            found = "none" if slot is None else f"version {slot.transaction.version}"
            raise StaleTransaction(f"expected version {expected} in the store, found {found}")
        slot.transaction, slot.ends_at = transaction, self._end(transaction.expires_at)
        # A later expiry needs no heap entry now: the present one is moved on when it comes due.
        if slot.ends_at < slot.due_at:
            slot.due_at = slot.ends_at
            self._expire(transaction.key, slot.ends_at)
        slot.wake()

    async def take(self, name: str, rate: Rate, wanted: int, owed: int) -> Taken:
        """Take of a rate (`SharedRates`)."""
        now = self._lifetimes().timestamp()
        if name not in self._rates and len(self._rates) >= _RATES_LIMIT:
            self._rates = {key: full_at for key, full_at in self._rates.items() if full_at > now}
        self._rates[name], taken = drawn(self._rates.get(name, now), now, rate, wanted, owed)
        return taken

    async def wait(
        self, key: TransactionKey, *, version: int, timeout_seconds: float
    ) -> Transaction | None:
        """Wait until the stored version is no longer `version` (`TransactionStore.wait`)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            now = self._lifetimes()
            slot = self._live(key, now)
            if slot is None:
                return None
            left_seconds = deadline - loop.time()
            if slot.transaction.version != version or left_seconds <= 0:
                return slot.transaction
            # Nobody calls when a transaction expires, so look again a moment after it does.
            lives_seconds = (slot.ends_at - now).total_seconds() + 0.001
            await _changed(slot, min(left_seconds, lives_seconds))

    async def add(self, key: TransactionKey, due_at: datetime) -> None:
        """Have a transaction looked at from a time on; a later call changes the time."""
        self._schedule[key] = due_at

    async def due(self, now: datetime, *, limit: int) -> list[TransactionKey]:
        """Return the transactions whose time has come, the longest due first."""
        due = [(at, key) for key, at in self._schedule.items() if at <= now]
        return [key for _, key in heapq.nsmallest(limit, due, key=lambda item: item[0])]

    async def remove(self, key: TransactionKey) -> None:
        """Forget a transaction, if it is planned."""
        self._schedule.pop(key, None)

    async def hold(self, key: TransactionKey, until: datetime) -> None:
        """List a request that waits for an operator, in the place of an earlier one by the same requester.

        Raises:
            StoreUnavailable: Too many wait already.
        """
        requester = key.requester
        if requester not in self._held and len(self._held) >= self._max_held:
            now = self._lifetimes()
            self._held = {who: entry for who, entry in self._held.items() if entry[1] > now}
            if len(self._held) >= self._max_held:
                raise StoreUnavailable(
                    f"memory store: {self._max_held} requests wait for approval already"
                )
        self._held[requester] = key, self._end(until)

    async def held(self) -> list[TransactionKey]:
        """Return the requests that are listed."""
        now = self._lifetimes()
        return [key for key, until in self._held.values() if until > now]

    async def unhold(self, key: TransactionKey) -> None:
        """Take a request off the list, unless another one took its place."""
        listed = self._held.get(key.requester)
        if listed is not None and listed[0] == key:
            del self._held[key.requester]

    async def backlog(self) -> Backlog:
        """Return how much waits in the store (`Backlog`)."""
        now = self._clock()
        overdue = sum(due_at <= now for due_at in self._schedule.values())
        return Backlog(len(await self.held()), len(self._schedule), overdue)

    def states(self) -> Mapping[State, int]:
        """Return how many live transactions have each state; takes a millisecond for some thousands of them."""
        now = self._lifetimes()
        return Counter(
            slot.transaction.state for slot in self._slots.values() if slot.ends_at > now
        )

    async def note_confirmation(
        self, certificate: bytes, note: ConfirmationNote, keep_until: datetime
    ) -> ConfirmationRecord:
        """Note what a transaction says of a certificate, and return what is known of it then (`Certificates`).

        Certificates live for years. When the store is full, what was settled the longest ago is forgotten.

        Raises:
            StoreUnavailable: The store is full of certificates that are yet to be confirmed.
        """
        now, keep_until = self._lifetimes(), self._end(keep_until)
        kept = self._confirmation_records
        for gone in [key for key, (_, at) in islice(kept.items(), _SWEEP_LIMIT) if at <= now]:
            del kept[gone]
        before, kept_until = kept.pop(certificate, (ConfirmationRecord(), keep_until))
        if len(kept) >= self._max_transactions:
            oldest = islice(kept.items(), _SWEEP_LIMIT)
            settled = (key for key, (known, _) in oldest if not known.is_awaited(self._clock()))
            kept.pop(next(settled, b""), None)
        if len(kept) >= self._max_transactions:
            raise StoreUnavailable(f"memory store: full, {len(kept)} certificates are remembered")
        after = before.after(*note, self._clock())
        kept[certificate] = after, max(keep_until, kept_until)
        return after

    async def remember(
        self, what: DeviceRecord, key: bytes, text: str, keep_until: datetime
    ) -> None:
        """Remember a text; when the store is full of the kind, what was remembered first is forgotten."""
        self._put(what, key, text, keep_until)

    def _put(self, what: DeviceRecord, key: bytes, text: str, keep_until: datetime) -> None:
        kept = self._device_records[what]
        kept.pop(key, None)
        kept[key] = text, self._end(keep_until)
        if len(kept) > self._max_transactions:
            del kept[next(iter(kept))]

    async def remember_entry(
        self, what: DeviceRecord, key: bytes, entry: str, *, limit: int, keep_until: datetime
    ) -> None:
        """Add an entry to those that are remembered, unless it is among them."""
        entries = self._get(what, key).split()
        if entry not in entries:
            self._put(what, key, " ".join([*entries, entry][-limit:]), keep_until)

    async def remembered(self, what: DeviceRecord, key: bytes) -> str:
        """Return the text that is remembered, "" for none."""
        return self._get(what, key)

    def _get(self, what: DeviceRecord, key: bytes) -> str:
        text, until = self._device_records[what].get(key, ("", None))
        return "" if until is None or until <= self._lifetimes() else text

    async def ping(self) -> None:
        """Check that the store can be written to now.

        Raises:
            StoreUnavailable: The store is full of live transactions.
        """
        self._sweep(self._lifetimes())
        if len(self._slots) >= self._max_transactions:
            raise StoreUnavailable(f"memory store: full, {len(self._slots)} transactions are live")

    async def close(self) -> None:
        """Do nothing: there are no connections to release."""

    def _end(self, at: datetime) -> datetime:
        """Return when a time of the wall clock will have come, on the clock of lifetimes."""
        return self._lifetimes() + (at - self._clock())

    def _check_signer(self, key: TransactionKey, now: datetime) -> None:
        if key.speaks_for_many:
            return
        own = self._by_signer.get(key.signer, {})
        if len(own) >= self._max_per_signer:
            for other in tuple(own):
                self._live(other, now)  # forgets it if it has expired
            if len(own) >= self._max_per_signer:
                raise too_many(self._max_per_signer)

    def _live(self, key: TransactionKey, now: datetime) -> _Slot | None:
        slot = self._slots.get(key)
        if slot is not None and slot.ends_at <= now:
            self._forget(key, slot)
            return None
        return slot

    def _sharing(self, transaction_id: bytes) -> Iterator[Transaction]:
        now = self._lifetimes()
        for key in tuple(self._by_transaction_id.get(transaction_id, ())):
            slot = self._live(key, now)
            if slot is not None:
                yield slot.transaction

    def _forget(self, key: TransactionKey, slot: _Slot) -> None:
        del self._slots[key]
        sharing = self._by_transaction_id[key.transaction_id]
        del sharing[key]
        if not sharing:
            del self._by_transaction_id[key.transaction_id]
        own = self._by_signer[key.signer]
        del own[key]
        if not own:
            del self._by_signer[key.signer]
        slot.wake()

    def _expire(self, key: TransactionKey, due_at: datetime) -> None:
        heapq.heappush(self._due, (due_at, next(self._ticket), key))

    def _sweep(self, now: datetime) -> None:
        for _ in range(_SWEEP_LIMIT):
            if not self._due or self._due[0][0] > now:
                return
            due_at, _ticket, key = heapq.heappop(self._due)
            slot = self._slots.get(key)
            if slot is None or slot.due_at != due_at:
                continue  # the transaction was forgotten on access, or has an earlier entry
            if self._live(key, now) is not None:
                slot.due_at = slot.ends_at
                self._expire(key, slot.due_at)


async def _changed(slot: _Slot, timeout_seconds: float) -> None:
    """Return when the slot changes or is forgotten, or after the timeout."""
    if slot.changed is None:
        slot.changed = asyncio.Event()
    try:
        async with asyncio.timeout(timeout_seconds):
            await slot.changed.wait()
    except TimeoutError:
        return
