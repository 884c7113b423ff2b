"""What a node has seen of the transactions in a store that others can write to, too."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from ra_gateway.ra.transaction import State, Transaction

_MOST: Final = 65_536
"""Transactions whose newest version is remembered, some 25 MB."""

_LET_GO: Final = 2
"""As many whose time is over go for each that is seen: they cannot pile up."""

_MOST_AWAITED: Final = 1024
_MOST_OCTETS: Final = 16_384
"""Of transactions that are kept whole, 16 MB in all."""

Age = tuple[datetime, int]
"""When a transaction began, and its version: of two under one key, the greater is the newer."""


def age_of(transaction: Transaction) -> Age:
    """Return when a transaction began, and its version."""
    return transaction.created_at, transaction.version


class _Seen(NamedTuple):
    age: Age
    seal: bytes
    until: float


class Seen:
    """The newest versions that were read or written here, and the transactions whose devices are about to confirm.

    Args:
        monotonic: Seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._newest: OrderedDict[str, _Seen] = OrderedDict()
        self._awaited: OrderedDict[bytes, Transaction] = OrderedDict()

    def note(self, name: str, transaction: Transaction, seal: bytes, lifetime_ms: int) -> None:
        """Remember which version is there, and for how long it has to be."""
        age, before = age_of(transaction), self._newest.pop(name, None)
        if before is not None and before.age > age:
            age, seal = before.age, before.seal
        now = self._monotonic()
        self._newest[name] = _Seen(age, seal, now + lifetime_ms / 1000)
        for oldest, seen in list(itertools.islice(self._newest.items(), _LET_GO)):
            if len(self._newest) > _MOST or seen.until <= now:
                del self._newest[oldest]

    def age(self, name: str) -> Age | None:
        """Return the newest version that must be there; None where there need be none."""
        seen = self._newest.get(name)
        if seen is None or self._monotonic() < seen.until:
            return seen and seen.age
        self.forget(name)
        return None

    def seal(self, name: str, age: Age) -> bytes:
        """Return the seal of a version; empty where another one is the newest."""
        seen = self._newest.get(name)
        return seen.seal if seen is not None and seen.age == age else b""

    def forget(self, name: str) -> None:
        """Forget a transaction that need not be there."""
        self._newest.pop(name, None)

    def __len__(self) -> int:
        return len(self._newest)

    def clear(self) -> None:
        """Forget all, as a node that has just begun."""
        self._newest.clear()
        self._awaited.clear()

    def await_confirmation(self, transaction: Transaction, octets: int) -> None:
        """Keep a transaction that was just stored, if its device was given a certificate and is to confirm it."""
        transaction_id = transaction.key.transaction_id
        self._awaited.pop(transaction_id, None)
        told = transaction.state is State.ISSUED and not transaction.opening.waiting
        if not told or octets > _MOST_OCTETS:
            return
        self._awaited[transaction_id] = transaction
        if len(self._awaited) > _MOST_AWAITED:
            self._awaited.popitem(last=False)

    def awaited(self, transaction_id: bytes, now: datetime) -> Transaction | None:
        """Return a transaction that was kept, once, if it still lives."""
        transaction = self._awaited.pop(transaction_id, None)
        return transaction if transaction is not None and now < transaction.expires_at else None
