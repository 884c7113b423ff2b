"""Which transactions this node has seen begun: what they send is answered first when there is too much."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Final

from ra_gateway.cmp.header_checks import MAX_ID_OCTETS

_MOST: Final = 65_536
"""Transactions that are remembered, the latest: 10 MB at most."""

_RIDES: Final = 64
"""Messages that a transactionID lets through before others: it travels in the clear, and is no proof of anything."""

_LET_GO: Final = 2
"""As many whose time is over go for each that comes: they cannot pile up, and none is waited for."""


class Begun:
    """Remembers transactionIDs of messages that were authentic; whose they are does not matter here.

    Args:
        lifetime_seconds: For how long after the last of them.
    """

    def __init__(self, lifetime_seconds: float = 3600.0) -> None:
        self._lifetime_seconds = lifetime_seconds
        self._rides: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rides)

    def note(self, transaction_id: bytes, now: float) -> None:
        """Remember a transaction; what it has used up already stays so, and an ID that is too long to keep is not.

        Args:
            now: Seconds of a clock that is never set.
        """
        if not 0 < len(transaction_id) <= MAX_ID_OCTETS:
            return
        rides, _ = self._rides.pop(transaction_id, (_RIDES, 0.0))
        self._rides[transaction_id] = rides, now + self._lifetime_seconds
        for oldest, (_, until) in list(itertools.islice(self._rides.items(), _LET_GO)):
            if len(self._rides) > _MOST or until <= now:
                del self._rides[oldest]

    def __contains__(self, transaction_id: bytes) -> bool:
        return transaction_id in self._rides

    def ride(self, transaction_id: bytes) -> bool:
        """Return whether a message under a transactionID goes before others now, and count it if so."""
        left, until = self._rides.get(transaction_id, (0, 0.0))
        if left:
            self._rides[transaction_id] = left - 1, until
        return left > 0
