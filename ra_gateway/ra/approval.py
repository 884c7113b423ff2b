"""What an operator decides on the requests that wait (`waiting`)."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from ra_gateway.cmp.names import readable
from ra_gateway.errors import GatewayError, ServiceFailure
from ra_gateway.events import Outcome, unheard
from ra_gateway.ra import machine, responses, transactions
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.ports import Approvals, Clock, TransactionStore
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import State, Transaction, TransactionKey
from ra_gateway.ra.transactions import Overtaken
from ra_gateway.ra.waiting import request_digest


class NotHeld(GatewayError):
    """A request is not waiting any more: it was decided on, withdrawn, or has expired."""


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
) -> Transaction:
    """List a request for an operator to decide on; returns its transaction, yet to be stored, whose device waits.

    Raises:
        StoreUnavailable: Too many wait already.
    """
    if services.approvals is None:
        raise ServiceFailure("approval is configured, but nothing keeps what waits for it")
    response = await responses.waiting(services, context, transaction)
    held = machine.opened_waiting(transaction, *response, now)
    await services.approvals.hold(held.key, held.expires_at)
    return held


def told(context: RequestContext, held: Transaction) -> bytes:
    """Return what the device of a request is told that an operator has to decide on."""
    assert held.opening.response_der is not None
    context.report.outcome = Outcome.held
    context.report.notes.append(f"{readable(held.subject_der)} waits for approval")
    return held.opening.response_der
