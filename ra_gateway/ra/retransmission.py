"""A message that came before: answered as it was answered, or taken over where the node that had it is gone.

A pollReq meets the same cases: somebody has to ask the CA, or the answer is here.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_rep_message,
    error_msg_content,
    rev_rep_content,
)
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.header_checks import with_transaction_id
from ra_gateway.cmp.messages import PKIMessage, confirm_wait_time
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    NotAuthorized,
    PKIFailureInfo,
    ServiceFailure,
    StoreUnavailable,
    TransactionInUse,
    UpstreamUnavailable,
)
from ra_gateway.events import Outcome
from ra_gateway.ra import ca_exchange, machine, responses, transactions, unconfirmed
from ra_gateway.ra.authentication import (
    authenticate_request,
    check_status,
)
from ra_gateway.ra.authorization import authorize_operation
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.forwarding import MessageForCA, check_same_upstream, message_for_ca
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import (
    GIVEN_UP,
    OUTSTANDING,
    Event,
    Exchange,
    State,
    Transaction,
)
from ra_gateway.ra.transactions import Overtaken

_OUTCOMES: Final = {
    State.ISSUED: Outcome.issued,
    State.GRANTED: Outcome.issued,
    State.REVOKED: Outcome.revoked,
    State.INFORMED: Outcome.informed,
    State.REFUSED: Outcome.refused,
    State.FAILED: Outcome.refused,
}
"""What a device learns that is given what was planned while it waited."""


async def respond(services: Services, context: RequestContext, live: Transaction) -> bytes:
    """Answer a message whose transactionID is live (R12, R94).

    From the store; otherwise by waiting for the node that has the lease, or by taking over.

    Raises:
        CMPError: It is no retransmission, or its answer is not to be had.
    """
    endpoint = context.endpoint
    seconds = context.upstream.deadline_seconds
    if endpoint.settings.wait_after_seconds:
        seconds = min(seconds, endpoint.settings.wait_after_seconds)
    patience = services.monotonic() + seconds
    found: Transaction | None = live
    while found is not None:
        exchange = found.exchange_for(context.digest)
        if exchange is None or found.endpoint != endpoint.name:
            raise _not_the_same(context)
        if exchange.response_der is not None:
            return await _answered_before(services, context, found, exchange)
        now = services.clock()
        if found.lease_until <= now:
            taken = await take_over(services, context, found)
            if taken is not None:
                return await ca_exchange.resume(services, context, taken, before=found)
            found = await services.store.load(live.key)
            continue
        left = min(patience - services.monotonic(), (found.lease_until - now).total_seconds())
        if patience <= services.monotonic():
            if not endpoint.settings.wait_after_seconds:
                raise UpstreamUnavailable("the CA is still being asked", delivered=True)
            return await ca_exchange.defer(services, context, found)
        found = await services.store.wait(
            found.key, version=found.version, timeout_seconds=max(left, 0.001)
        )
    raise StoreUnavailable("the transaction expired while it was being waited for")


def _not_the_same(context: RequestContext) -> CMPError:
    if context.message.body_type is BodyType.certConf:
        return UpstreamUnavailable("another certConf has taken its place", delivered=True)
    return TransactionInUse("another request lives under this transactionID", rule="R12")


async def _answered_before(
    services: Services, context: RequestContext, transaction: Transaction, exchange: Exchange
) -> bytes:
    """Answer a message that was answered before: with the same, or with what a device waits for that does not poll.

    Base stations that know no waiting send their request again, and go on doing so.

    Raises:
        CMPError: It is not to be had any more.
    """
    live, current = transaction, transaction.current
    if exchange is current and live.state in OUTSTANDING and exchange.waiting:
        if not exchange.ca_nonce:
            live = await go_on(services, context, live)
        current = live.current
        found = live.exchange_for(context.digest)
        if found is None:
            raise _not_the_same(context)
        exchange = found
    said = exchange.response_der or b""
    context.report.outcome = Outcome.replayed
    if not exchange.waiting or (exchange is current and live.state in (*OUTSTANDING, State.HELD)):
        return said
    if exchange is not current:  # a pollReq brought its answer
        raise TransactionInUse("its device has gone on under this transactionID", rule="R12")
    late = await late_response(services, context, live)
    if current.delivered:  # a pollReq brought it, and its answer was lost
        context.report.outcome = Outcome.replayed
    after = await transactions.change(
        services.store,
        services.sink,
        live,
        partial(machine.delivered, late=late),
    )
    return said if isinstance(after, Overtaken) else late.der  # where no pollReq was faster


# --- the CA is yet to answer ----------------------------------------------------------------------------------


async def go_on(
    services: Services, context: RequestContext, transaction: Transaction
) -> Transaction:
    """Get a transaction without an answer moving, and return it as it is then, which may be as it was.

    Waits, `wait_after_seconds` at most, for the node that has the lease, or takes over and asks the CA itself.

    Raises:
        StoreUnavailable: It has expired meanwhile.
    """
    if transaction.lease_until > services.clock():
        await services.store.wait(
            transaction.key,
            version=transaction.version,
            timeout_seconds=context.endpoint.settings.wait_after_seconds or 0.001,
        )
    elif (taken := await take_over(services, context, transaction)) is not None:
        if transaction.unsent:
            context.report.notes.append(f"approved by {transaction.decided_by}")
        await ca_exchange.resume_in_background(services, context, taken, before=transaction)
    live = await services.store.load(transaction.key)
    if live is None:
        raise StoreUnavailable("the transaction expired while it was being waited for")
    return live


async def take_over(
    services: Services, context: RequestContext, transaction: Transaction
) -> Transaction | None:
    """Take over a transaction whose lease has ended; None where another node did, or it is refused now.

    Raises:
        ServiceFailure: Its CA is no longer configured, or it cannot be told whether it is refused.
    """
    check_same_upstream(context, transaction)
    now = services.clock()
    upstream, expires_at = None, None
    credential = services.credential_of(transaction)
    if transaction.unsent:
        try:
            upstream = await _approved(services, context, transaction, credential)
        except ServiceFailure:
            raise
        except CMPError as error:
            context.report.notes.append(
                f"refused although {transaction.decided_by} approved it: {error.detail}"
            )
            await transactions.change(
                services.store,
                services.sink,
                transaction,
                partial(machine.refused_after_approval, fail_info=error.fail_info.name),
            )
            return None
        expires_at = max(transaction.expires_at, now + services.lifetime)
    after = await transactions.change(
        services.store,
        services.sink,
        transaction,
        partial(
            machine.taken_over,
            lease_until=services.clock() + _lease(context, transaction),
            credential_digest=credential.certificate.digest,
            upstream=upstream,
            expires_at=expires_at,
        ),
    )
    return None if isinstance(after, Overtaken) else after


def _lease(context: RequestContext, transaction: Transaction) -> timedelta:
    upstream = context.upstream
    confirming = transaction.confirmation is not None
    return upstream.lease if confirming else upstream.lease_of(transaction.body_type)


async def _approved(
    services: Services, context: RequestContext, held: Transaction, credential: Credential
) -> MessageForCA:
    """Decide on a request that an operator approved as if it came now, and return the message for the CA.

    Weeks may have passed: its signer may be revoked, its device struck from the inventory, the rules others.

    Raises:
        CMPError: It would not be taken now, or not for what was approved.
    """
    now, rules = services.clock(), context.endpoint.rules
    message = with_transaction_id(PKIMessage.from_der(held.request_der), rules)
    again = RequestContext(
        context.endpoint,
        message,
        message.digest,
        context.endpoint.upstream,
        profile=held.profile,
        peer=context.peer,
        started=context.started,
    )
    again, authenticated, key = await authenticate_request(services, again, now)
    again, operation = await authorize_operation(services, again, authenticated, now)
    await check_status(services, again, authenticated, now)
    context.report.notes += again.report.notes
    asked = (
        held.key, held.opening.request_digest, held.upstream, held.variant, held.subject_der,
        held.public_key_der, held.san,
    )  # fmt: skip
    allowed = (
        key, again.digest, again.upstream.name, operation.variant.value,
        operation.subject_der, operation.public_key_der, operation.san,
    )  # fmt: skip
    if asked != allowed:
        raise NotAuthorized("what was approved is not what the rules give now", rule="R145")
    return await message_for_ca(
        again.endpoint,
        again.upstream,
        message,
        operation.body_der,
        operation.variant,
        credential,
        now,
        ids=services.mapped_ids(held) if held.ca_transaction_id else None,
        asked_type=held.asked_type,
        device=(operation.vendor, operation.identity),
    )


# --- the CA has answered --------------------------------------------------------------------------------------


async def late_response(
    services: Services, context: RequestContext, transaction: Transaction
) -> machine.LateResponse:
    """Return the answer that came while a device was waiting (R118).

    A device that asks again is told the time to confirm that it was told first: who repeats its messages neither ends
    that time sooner nor puts it off.

    Raises:
        HeaderRefused: The device came too late for its certificate.
    """
    now, current, awaited_until = services.clock(), transaction.current, transaction.confirm_until
    expires_at, planned = transaction.expires_at, current.planned
    if not current.delivered:
        expires_at = max(expires_at, now + services.lifetime)
    if planned is None:
        refusal = await _late_refusal(services, context, transaction)
        return machine.LateResponse(refusal, None, expires_at)
    withdrawn = transaction.state is State.FAILED and transaction.certificate_der
    if (withdrawn or transaction.state in GIVEN_UP) and transaction.confirmation is None:
        raise HeaderRefused(
            "the certificate was not fetched in time, and is withdrawn", rule="R111"
        )
    _note_late(context, transaction)
    issues = transaction.state is State.ISSUED
    if issues and current.delivered and awaited_until is not None:
        if awaited_until <= now:
            raise HeaderRefused("the certificate was not confirmed in time", rule="R111")
        told = confirm_wait_time(awaited_until).value_der or b""
        planned = replace(planned, confirm_wait_der=told)
    der, until = await responses.render(services, context, transaction, planned, issues=issues)
    if until is not None:
        until = max(until, awaited_until or until)
        lives_until = await unconfirmed.schedule(
            services, context, transaction, Event.issued, transaction.certificate_der, until
        )
        expires_at = lives_until or expires_at
    return machine.LateResponse(der, until, expires_at)


def _note_late(context: RequestContext, transaction: Transaction) -> None:
    state, planned = transaction.state, transaction.current.planned
    if transaction.confirmation is None:
        context.report.outcome = _OUTCOMES[state]
    else:
        confirmed = transaction.confirm_status
        context.report.outcome = Outcome.confirmed if confirmed else Outcome.rejected
    if state in (State.ISSUED, State.GRANTED) and transaction.certificate_der:
        context.report.certificate = load_certificate(transaction.certificate_der)
    elif state is State.REVOKED:
        ca_exchange.note_revoked(context)
    elif context.report.outcome is Outcome.refused and planned is not None:
        ca_exchange.note_rejection(context, _rejection_in(planned.body_der))


def _rejection_in(body_der: bytes) -> PKIStatusInfo:
    """Return the status in the body of a rejection that was planned: ip, cp, kup, rp or error."""
    element = asn1.element(body_der)
    content = asn1.content(element)
    match BodyType(body_der[0] & 0x1F):
        case BodyType.rp:
            return rev_rep_content(content).statuses[0]
        case BodyType.error:
            return error_msg_content(content).status_info
        case _:
            return cert_rep_message(content).responses[0].status_info


async def _late_refusal(
    services: Services, context: RequestContext, transaction: Transaction
) -> bytes:
    """Return the answer for a device whose request came to nothing while it waited."""
    error: CMPError
    if transaction.state is State.REFUSED:
        error = NotAuthorized(
            f"{transaction.decided_by or 'an operator'} denied the request", rule="R145"
        )
    elif transaction.failure == PKIFailureInfo.notAuthorized.name:
        error = NotAuthorized("refused while the device waited")
    else:
        fail_info = PKIFailureInfo[transaction.failure or "systemFailure"]
        error = ServiceFailure("failed while the device waited", fail_info=fail_info)
    confirming = transaction.confirmation is not None
    return await responses.refuse(
        services,
        context,
        error,
        body_type=BodyType.certConf if confirming else transaction.body_type,
        cert_req_id=transaction.cert_req_id,
        transaction=transaction,
    )
