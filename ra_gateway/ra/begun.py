"""Which transactions this node has seen begun: what they send is answered first when there is too much."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ra_gateway.cmp.header_checks import MAX_ID_OCTETS

_MOST: Final = 65_536
"""Transactions that are remembered, the latest: 10 MB at most."""

_RIDES: Final = 64
"""Messages that a transactionID lets through before others: it travels in the clear, and is no proof of anything."""


class Begun:
    """Remembers transactionIDs of messages that were authentic; whose they are does not matter here."""

    def __init__(self) -> None:
        self._rides: OrderedDict[bytes, int] = OrderedDict()

    def note(self, transaction_id: bytes) -> None:
        """Remember a transaction; what it has used up already stays so, and an ID that is too long to keep is not."""
        if not 0 < len(transaction_id) <= MAX_ID_OCTETS:
            return
        if transaction_id in self._rides:
            self._rides.move_to_end(transaction_id)
            return
        self._rides[transaction_id] = _RIDES
        if len(self._rides) > _MOST:
            self._rides.popitem(last=False)

    def __contains__(self, transaction_id: bytes) -> bool:
        return transaction_id in self._rides

    def ride(self, transaction_id: bytes) -> bool:
        """Return whether a message under a transactionID goes before others now, and count it if so."""
        left = self._rides.get(transaction_id, 0)
        if left:
            self._rides[transaction_id] = left - 1
        return left > 0
