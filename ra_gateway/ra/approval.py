"""Requests that wait for an operator: who waits, and what was decided."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from functools import partial
from typing import Final

from ra_gateway.cmp.names import readable
from ra_gateway.errors import GatewayError, ServiceFailure
from ra_gateway.events import Outcome, unheard
from ra_gateway.ra import machine, responses, retransmission, transactions
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.ports import Approvals, Clock, TransactionStore
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import State, Transaction, TransactionKey
from ra_gateway.ra.transactions import Overtaken

HANDLE_DIGITS: Final = 20
"""Hex digits of a digest that are shown, 80 bits: whoever sends requests chooses what is in them."""

MIN_HANDLE_DIGITS: Final = 16
"""Fewer are no handle: another request that begins alike could be made on purpose."""


class NotHeld(GatewayError):
    """A request is not waiting any more: it was decided on, withdrawn, or has expired."""


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


async def decide(
    store: TransactionStore,
    approvals: Approvals,
    key: TransactionKey,
    *,
    digest: str,
    approve: bool,
    decided_by: str,
    clock: Clock,
) -> Transaction:
    """Approve or deny a request; the device learns of it with its next pollReq.

    Args:
        digest: Of the request that was shown (`request_digest`): what took its place meanwhile is not decided on.
        decided_by: Who decides, for the record.

    Returns:
        The transaction as it is then.

    Raises:
        NotHeld: It is not waiting any more.
        StoreUnavailable: The store cannot be asked.
    """
    held = await store.load(key)
    if held is None or held.state is not State.HELD:
        raise await _not_held(approvals, held)
    if request_digest(held) != digest:
        raise NotHeld("another request took the place of the one that was shown; list them again")
    after = await transactions.change(
        store,
        unheard,  # no certificate comes of a decision by itself
        held,
        partial(machine.decided, approved=approve, decided_by=decided_by, now=clock()),
        # The device may poll meanwhile.
        while_=lambda live: live.state is State.HELD and request_digest(live) == digest,
    )
    if isinstance(after, Overtaken):
        raise await _not_held(approvals, after.live)
    await approvals.unhold(key)
    return after


async def _not_held(approvals: Approvals, found: Transaction | None) -> NotHeld:
    if found is not None and found.state is not State.HELD:
        await approvals.unhold(found.key)
    return NotHeld("the request is not waiting any more")


async def hold(
    services: Services, context: RequestContext, transaction: Transaction, now: datetime
) -> bytes:
    """Store a request for an operator to decide on, and tell the device to wait.

    Raises:
        CMPError: It is refused.
    """
    if services.approvals is None:
        raise ServiceFailure("approval is configured, but nothing keeps what waits for it")
    live = await services.store.load(transaction.key)
    if live is not None:
        return await retransmission.respond(services, context, live)
    response = await responses.waiting(services, context, transaction)
    held = machine.opened_waiting(transaction, *response, now)
    await services.approvals.hold(held.key, held.expires_at)
    live = await services.store.create(held)
    if live is not None:
        return await retransmission.respond(services, context, live)
    services.sink(transactions.changed(held))
    context.report.outcome = Outcome.held
    context.report.notes.append(f"{readable(held.subject_der)} waits for approval")
    return response.der
