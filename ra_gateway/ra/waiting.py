"""Requests that wait for an operator: who waits, and what each is known by; `approval` decides on them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from ra_gateway.ra.transaction import State, Transaction

if TYPE_CHECKING:
    from ra_gateway.ra.ports import Approvals, TransactionStore

HANDLE_DIGITS: Final = 20
"""Hex digits of a digest that are shown, 80 bits: whoever sends requests chooses what is in them."""

MIN_HANDLE_DIGITS: Final = 16
"""Fewer are no handle: another request that begins alike could be made on purpose."""


def request_digest(request: Transaction) -> str:
    """Return what a request is decided on by, in hex: SHA-256 over who asks, the message, and what is asked for."""
    asked = (
        request.key.domain,
        request.key.signer_digest.hex(),
        request.key.transaction_id.hex(),
        request.opening.request_digest.hex(),
        request.created_at.isoformat(),
        request.endpoint,
        request.upstream,
        request.body_type.name,
        request.subject_der.hex(),
        request.san,
        request.public_key_der.hex(),
    )
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


async def waiting(store: TransactionStore, approvals: Approvals) -> list[Transaction]:
    """Return the requests that wait for a decision, oldest first; what no longer waits leaves the list.

    Raises:
        StoreUnavailable: The store cannot be asked.
    """
    found = []
    for key in await approvals.held():
        transaction = await store.load(key)
        if transaction is None:
            continue  # perhaps for us alone: what has expired leaves the list by itself
        if transaction.state is State.HELD:
            found.append(transaction)
        else:
            await approvals.unhold(key)
    return sorted(found, key=lambda transaction: transaction.created_at)
