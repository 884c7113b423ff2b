"""Room for the first few transactions of a signer, which a node gives without asking the store that all share."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from typing import Final

_SHARE: Final = 8
"""A base station begins once or twice; who has more at a node is counted exactly."""

_NODES: Final = 16
"""So many nodes let a signer have twice its limit at most."""

_MOST_SIGNERS: Final = 32_768
"""Signers whose transactions are counted here, the latest: 15 MB at most."""

Signer = tuple[str, bytes]


class SignerRooms:
    """What signers have begun at this node: of each, the first few transactions that live at once.

    Args:
        limit: Of a signer's live transactions at all nodes together; a small one leaves no room here.
    """

    def __init__(self, limit: int) -> None:
        self._share = min(limit // _NODES, _SHARE)
        self._begun: OrderedDict[Signer, dict[str, datetime]] = OrderedDict()

    def take(self, signer: Signer, name: str, expires_at: datetime, now: datetime) -> bool:
        """Give a transaction room, the same again if it has it; returns whether there was any."""
        if not self._share:
            return False
        begun = self._live(signer, now)
        if name not in begun and len(begun) >= self._share:
            return False
        begun[name] = expires_at
        self._begun[signer] = begun
        self._begun.move_to_end(signer)
        if len(self._begun) > _MOST_SIGNERS:
            self._begun.popitem(last=False)
        return True

    def begun(self, signer: Signer) -> dict[str, datetime]:
        """Return what was given room here, and until when: the store is told when it has to be asked."""
        return self._begun.get(signer, {})

    def _live(self, signer: Signer, now: datetime) -> dict[str, datetime]:
        begun = self._begun.get(signer, {})
        return {name: end for name, end in begun.items() if end > now}
