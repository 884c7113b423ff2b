"""The transaction store of a single process: nothing survives a restart, nothing is shared.

No method awaits between looking and writing, so on one event loop each of them is atomic as it stands. None of them
takes longer the more transactions there are: one that did would stop all devices at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Final, TypeAlias

from ra_gateway.errors import StaleTransaction, StoreUnavailable, TransactionInUse
from ra_gateway.ra.confirmation_records import ConfirmationNote, ConfirmationRecord
from ra_gateway.ra.ports import Backlog, Clock, DeviceRecord
from ra_gateway.ra.rates import Rate, Taken, drawn
from ra_gateway.ra.transaction import State, Transaction, TransactionKey, too_many
from ra_gateway.stores.timetable import Timetable

FIND_LIMIT: Final = 8
"""How many signers' transactions `find` returns (the port's limit)."""

_SWEEP_LIMIT: Final = 16
"""Expired transactions removed per `create`: more than the one it adds, so they cannot pile up."""

_PING_SWEEP_LIMIT: Final = 1000
"""The same of `ping`, which is called every few seconds; some milliseconds."""

_REMEMBERED_FOR_EACH: Final = 10
"""So many transactions that were let go of are remembered for each one that may be kept, some 150 octets each."""

_RATES_LIMIT: Final = 65_536
"""Rates of which something may be missing: beyond it, those of which nothing is are forgotten whenever there are twice
as many as the last time.
"""


_Index: TypeAlias = dict[bytes, "TransactionKey | tuple[TransactionKey, ...]"]
"""The few keys under a name; mostly one, which then needs no tuple that the garbage collector walks over."""


class MemoryStore:
    """Keeps transactions in this process; for one event loop only.

    Args:
        clock: Turns `expires_at` and the like into a lifetime.
        lifetimes: Counts lifetimes down, and is never set (`unstepped`): a wall clock that jumps must not make the
            store forget what a captured request could have issued twice. By default the clock itself.
        max_transactions: How many transactions are kept (1 or more); one more takes the place of a finished one, or
            is refused: another that is forgotten could be issued twice.
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
        self._transactions: dict[TransactionKey, Transaction] = {}
        self._ends: Timetable[TransactionKey] = Timetable()
        self._states: Counter[State] = Counter()
        # A dict of keys is an ordered set: the oldest are found first.
        self._finished: dict[TransactionKey, None] = {}
        self._let_go: Timetable[bytes] = Timetable()
        self._by_transaction_id: _Index = {}
        """Of each transactionID `FIND_LIMIT` at most, as in Redis: devices that all draw the same one are many."""
        self._by_signer: _Index = {}
        self._changed: dict[TransactionKey, asyncio.Event] = {}
        self._schedule: Timetable[TransactionKey] = Timetable()
        self._max_held = max_held
        self._confirmation_records: dict[bytes, tuple[ConfirmationRecord, datetime]] = {}
        self._device_records: dict[DeviceRecord, dict[bytes, tuple[str, datetime]]] = {
            what: {} for what in DeviceRecord
        }
        self._held: dict[tuple[str, bytes, bytes], TransactionKey] = {}
        self._held_until: Timetable[tuple[str, bytes, bytes]] = Timetable()
        self._rates: dict[str, float] = {}
        self._most_rates = _RATES_LIMIT

    async def create(
        self, transaction: Transaction, *, repeatable: bool = False
    ) -> Transaction | None:
        """Store a new transaction unless its key is live, and return the live one if it is.

        What is finished is let go of when there is no room otherwise, the oldest first, but not what it was: no
        transaction begins anew under its key.

        Raises:
            TooManyTransactions: Its signer has as many as it may have.
            TransactionInUse: The one under its key was let go of.
            StoreUnavailable: The store is full of live transactions.
        """
        now = self._lifetimes()
        self._sweep(now, _SWEEP_LIMIT)
        key = transaction.key
        live = self._live(key, now)
        if live is not None:
            return live
        if not repeatable and len(self._let_go) and _digest(key) in self._let_go:
            raise TransactionInUse(
                "the transaction under this transactionID has ended, and its answer is no longer kept",
                rule="R12",
            )
        self._check_signer(key, now)
        self._make_room()
        self._keep(transaction)
        if len(list(self._sharing(key.transaction_id))) < FIND_LIMIT:
            _add(self._by_transaction_id, key.transaction_id, key)
        if not key.speaks_for_many:
            _add(self._by_signer, _signer(key), key)
        return None

    async def load(self, key: TransactionKey) -> Transaction | None:
        """Return the live transaction under a key, or None."""
        return self._live(key, self._lifetimes())

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        """Return live transactions with this transactionID, whoever signed them (at most 8)."""
        return list(self._sharing(transaction_id))

    def awaited(self, transaction_id: bytes) -> Transaction | None:
        """Return None: to find a transaction costs nothing here."""
        del transaction_id
        return None

    async def replace(self, transaction: Transaction) -> None:
        """Replace the stored version `transaction.version - 1` by this one.

        Raises:
            StaleTransaction: Another version is stored, or none.
        """
        stored = self._live(transaction.key, self._lifetimes())
        expected = transaction.version - 1
        if stored is None or stored.version != expected:
            found = "none" if stored is None else f"version {stored.version}"
            raise StaleTransaction(f"expected version {expected} in the store, found {found}")
        self._states[stored.state] -= 1
        self._keep(transaction)
        self._wake(transaction.key)

    def _keep(self, transaction: Transaction) -> None:
        key = transaction.key
        self._transactions[key] = transaction
        self._states[transaction.state] += 1
        self._ends.put(key, self._end(transaction.expires_at))
        self._finished.pop(key, None)
        if transaction.is_finished:
            self._finished[key] = None

    async def take(self, name: str, rate: Rate, wanted: int, owed: int) -> Taken:
        """Take of a rate (`SharedRates`)."""
        now = self._lifetimes().timestamp()
        if name not in self._rates and len(self._rates) >= self._most_rates:
            self._rates = {key: full_at for key, full_at in self._rates.items() if full_at > now}
            self._most_rates = max(_RATES_LIMIT, 2 * len(self._rates))
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
            stored = self._live(key, now)
            if stored is None:
                return None
            left_seconds = deadline - loop.time()
            if stored.version != version or left_seconds <= 0:
                return stored
            # Nobody calls when a transaction expires, so look again a moment after it does.
            lives_seconds = (self._ends[key] - now).total_seconds() + 0.001
            changed = self._changed.setdefault(key, asyncio.Event())
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_seconds, lives_seconds)):
                    await changed.wait()

    async def add(self, key: TransactionKey, due_at: datetime) -> None:
        """Have a transaction looked at from a time on; a later call changes the time."""
        self._schedule.put(key, due_at)

    async def due(self, now: datetime, *, limit: int) -> list[TransactionKey]:
        """Return the transactions whose time has come, the longest due first."""
        return self._schedule.due(now, limit)

    async def remove(self, key: TransactionKey) -> None:
        """Forget a transaction, if it is planned."""
        self._schedule.discard(key)

    async def hold(self, key: TransactionKey, until: datetime) -> None:
        """List a request that waits for an operator, in the place of an earlier one by the same requester.

        Raises:
            StoreUnavailable: Too many wait already.
        """
        requester = key.requester
        for gone in self._held_until.due(self._lifetimes(), _SWEEP_LIMIT):
            self._unhold(gone)
        if requester not in self._held and len(self._held) >= self._max_held:
            raise StoreUnavailable(
                f"memory store: {self._max_held} requests wait for approval already"
            )
        self._held[requester] = key
        self._held_until.put(requester, self._end(until))

    async def held(self) -> list[TransactionKey]:
        """Return the requests that are listed."""
        now = self._lifetimes()
        return [key for who, key in self._held.items() if self._held_until[who] > now]

    async def unhold(self, key: TransactionKey) -> None:
        """Take a request off the list, unless another one took its place."""
        if self._held.get(key.requester) == key:
            self._unhold(key.requester)

    def _unhold(self, requester: tuple[str, bytes, bytes]) -> None:
        del self._held[requester]
        self._held_until.discard(requester)

    async def backlog(self) -> Backlog:
        """Return how much waits in the store (`Backlog`)."""
        held = len(self._held) - self._held_until.due_count(self._lifetimes())
        overdue = self._schedule.due_count(self._clock())
        return Backlog(held, len(self._schedule), overdue)

    def states(self) -> Mapping[State, int]:
        """Return how many transactions have each state, those included that have expired and are yet to be swept."""
        return self._states

    @property
    def unfinished(self) -> int:
        """How many transactions may not be let go of."""
        return len(self._transactions) - len(self._finished)

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
        self._sweep(self._lifetimes(), _PING_SWEEP_LIMIT)
        self._make_room()

    async def close(self) -> None:
        """Do nothing: there are no connections to release."""

    def _end(self, at: datetime) -> datetime:
        """Return when a time of the wall clock will have come, on the clock of lifetimes."""
        return self._lifetimes() + (at - self._clock())

    def _check_signer(self, key: TransactionKey, now: datetime) -> None:
        if key.speaks_for_many:
            return
        own = _keys(self._by_signer, _signer(key))
        if len(own) >= self._max_per_signer:
            for other in own:
                self._live(other, now)  # forgets it if it has expired
            if len(_keys(self._by_signer, _signer(key))) >= self._max_per_signer:
                raise too_many(self._max_per_signer)

    def _live(self, key: TransactionKey, now: datetime) -> Transaction | None:
        stored = self._transactions.get(key)
        if stored is not None and self._ends[key] <= now:
            self._forget(stored)
            return None
        return stored

    def _sharing(self, transaction_id: bytes) -> Iterator[Transaction]:
        now = self._lifetimes()
        for key in _keys(self._by_transaction_id, transaction_id):
            stored = self._live(key, now)
            if stored is not None:
                yield stored

    def _make_room(self) -> None:
        """Let go of a finished transaction, if there is no room for one more.

        Raises:
            StoreUnavailable: The store is full of live transactions.
        """
        count = len(self._transactions)
        if count < self._max_transactions:
            return
        if len(self._let_go) < self._max_transactions * _REMEMBERED_FOR_EACH:
            for key in list(islice(self._finished, _SWEEP_LIMIT)):
                if key not in self._schedule:
                    self._let_go.put(_digest(key), self._ends[key])
                    self._forget(self._transactions[key])
                    return
                self._finished[key] = self._finished.pop(key)  # behind the others
        raise StoreUnavailable(f"memory store: full, {count} transactions are live")

    def _forget(self, transaction: Transaction) -> None:
        key = transaction.key
        del self._transactions[key]
        self._states[transaction.state] -= 1
        self._ends.discard(key)
        self._finished.pop(key, None)
        _remove(self._by_transaction_id, key.transaction_id, key)
        if not key.speaks_for_many:
            _remove(self._by_signer, _signer(key), key)
        self._wake(key)

    def _wake(self, key: TransactionKey) -> None:
        changed = self._changed.pop(key, None)
        if changed is not None:
            changed.set()

    def _sweep(self, now: datetime, limit: int) -> None:
        for key in self._ends.due(now, limit):
            self._forget(self._transactions[key])
        for digest in self._let_go.due(now, limit):
            self._let_go.discard(digest)


def _signer(key: TransactionKey) -> bytes:
    return key.signer_digest + key.domain.encode()


def _digest(key: TransactionKey) -> bytes:
    named = _signer(key)
    octets = b"%d %b%b" % (len(named), named, key.transaction_id)
    return hashlib.blake2b(octets, digest_size=16).digest()


def _keys(index: _Index, name: bytes) -> tuple[TransactionKey, ...]:
    found = index.get(name, ())
    return (found,) if isinstance(found, TransactionKey) else found


def _add(index: _Index, name: bytes, key: TransactionKey) -> None:
    before = _keys(index, name)
    index[name] = (*before, key) if before else key


def _remove(index: _Index, name: bytes, key: TransactionKey) -> None:
    left = tuple(each for each in _keys(index, name) if each != key)
    if left:
        index[name] = left if len(left) > 1 else left[0]
    else:
        index.pop(name, None)
