"""Requests that wait for an operator: who waits, and what was decided."""

from __future__ import annotations

from ra_gateway.errors import GatewayError, StaleTransaction
from ra_gateway.ra.ports import Approvals, Clock, TransactionStore
from ra_gateway.ra.transaction import Event, State, Transaction, TransactionKey, advance


class NotHeld(GatewayError):
    """A request is not waiting any more: it was decided on, withdrawn, or has expired."""


async def waiting(store: TransactionStore, approvals: Approvals) -> list[Transaction]:
    """Return the requests that wait for a decision, oldest first; what no longer waits leaves the list.

    Raises:
        StoreUnavailable: The store cannot be asked.
    """
    found = []
    for key in await approvals.held():
        transaction = await store.load(key)
        if transaction is None or transaction.state is not State.HELD:
            await approvals.unhold(key)
        else:
            found.append(transaction)
    return sorted(found, key=lambda transaction: transaction.created_at)


async def decide(
    store: TransactionStore,
    approvals: Approvals,
    key: TransactionKey,
    *,
    approve: bool,
    decided_by: str,
    clock: Clock,
) -> Transaction:
    """Approve or deny a request; the device learns of it with its next pollReq.

    Args:
        decided_by: Who decides, for the record.

    Returns:
        The transaction as it is then.

    Raises:
        NotHeld: It is not waiting any more.
        StoreUnavailable: The store cannot be asked.
    """
    while True:
        held = await store.load(key)
        if held is None or held.state is not State.HELD:
            await approvals.unhold(key)
            raise NotHeld("the request is not waiting any more")
        decided = advance(
            held,
            Event.approved if approve else Event.denied,
            decided_by=decided_by,
            lease_until=clock(),
            may_retry=True,
        )
        try:
            await store.replace(decided)
        except StaleTransaction:
            continue  # the device has polled meanwhile
        await approvals.unhold(key)
        return decided
