"""pollReq: a device that was told to wait asks for its answer (RFC 9483 4.4).

Three kinds of waiting look alike to a device. A request is held for an operator; a CA is slow, and the
exchange with it goes on here; or the CA itself has told to wait, and is polled with the device's own pollReq.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial

from ra_gateway.cmp.codes import BodyType, is_cert_req_id
from ra_gateway.cmp.header_checks import check_fresh_nonce
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.polling import poll_req_body, poll_req_content, polled_cert_req_id
from ra_gateway.errors import (
    HeaderRefused,
    PKIFailureInfo,
    StoreUnavailable,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.events import Outcome, Stage
from ra_gateway.ra import ca_exchange, machine, responses, retransmission, transactions
from ra_gateway.ra.authentication import find_transaction
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.forwarding import check_same_upstream, follow_up_for_ca
from ra_gateway.ra.response_checks import CheckedResponse, validate
from ra_gateway.ra.services import Services
from ra_gateway.ra.settings import Variant
from ra_gateway.ra.transaction import OUTSTANDING, Event, State, Transaction
from ra_gateway.ra.transactions import Overtaken


async def poll(services: Services, context: RequestContext) -> bytes:
    """Answer a pollReq: the answer that is awaited, or that it is not there yet.

    Raises:
        CMPError: It is refused.
    """
    context, _, transaction, before, _ = await find_transaction(services, context)
    if before is not None:
        return await retransmission.respond(services, context, transaction)
    check_fresh_nonce(context.message.header, transaction.sender_nonce, context.endpoint.rules)
    cert_req_id = _check(context, transaction)
    if transaction.state in OUTSTANDING:
        if transaction.current.ca_nonce:
            return await _pass_on(services, context, transaction, cert_req_id)
        return await _reconsider(
            services, context, await retransmission.go_on(services, context, transaction)
        )
    if transaction.state is State.HELD:
        return await _answer_poll_rep(services, context, transaction, cert_req_id)
    return await _deliver(services, context, transaction)


def _check(context: RequestContext, transaction: Transaction) -> int:
    """Check that a pollReq is about what the device was told to wait for; returns its certReqId.

    Raises:
        HeaderRefused: It is not (badRequest), or returns another nonce than it was given (badRecipientNonce).
        MalformedMessage: It does not parse.
    """
    message, confirming, current = context.message, transaction.confirmation, transaction.current
    cert_req_id = poll_req_content(message.body_content)
    known = message.header.recip_nonce in _known_nonces(transaction)
    if not (known if current.delivered else current.waiting):
        raise HeaderRefused("no answer is being waited for under this transactionID", rule="R119")
    awaited = transaction.body_type if confirming is None else BodyType.certConf
    expected = polled_cert_req_id(awaited, transaction.cert_req_id)
    if not is_cert_req_id(cert_req_id, expected, awaited):
        raise HeaderRefused(f"certReqId {cert_req_id} in pollReq, expected {expected}", rule="R119")
    if not known:
        raise HeaderRefused(
            "recipNonce is not the senderNonce of the last answer that the device may have",
            fail_info=PKIFailureInfo.badRecipientNonce,
            rule="R8",
        )
    return cert_req_id


def _known_nonces(transaction: Transaction) -> set[bytes]:
    """Return the nonces that a pollReq may return.

    RFC 9810 5.1.1 has recipNonce be the senderNonce of the message before, as the device knows it: that of the last
    answer; where it has not got that one, the nonce that its last pollReq returned, or that of the answer that told it
    to wait, which it gets again for its request.
    """
    current, polling = transaction.current, transaction.polling
    nonces = {transaction.polling_nonce}
    if current.waiting and current.response_der:
        nonces.add(PKIMessage.from_der(current.response_der).header.sender_nonce or b"")
    if polling is not None:
        nonces.add(polling.recip_nonce)
    return nonces - {b""}


def _is_behind(context: RequestContext, transaction: Transaction) -> bool:
    """Tell whether a device polls without the last answer, which it has not got.

    It gets the final answer where that is there, as any pollReq does, and otherwise the nonce of the last answer once
    more. Nothing moves for it, and the CA is not polled, so that a pollReq which somebody else sends again does not cut
    off a device that is further.
    """
    return context.message.header.recip_nonce != transaction.polling_nonce


async def _reconsider(services: Services, context: RequestContext, live: Transaction) -> bytes:
    """Decide anew on a transaction that changed meanwhile: its answer has come, or another pollReq."""
    exchange = live.exchange_for(context.digest)
    if exchange is not None and exchange.response_der is not None:
        context.report.outcome = Outcome.replayed
        return exchange.response_der
    cert_req_id = _check(context, live)
    if live.state in (State.HELD, *OUTSTANDING):
        return await _answer_poll_rep(services, context, live, cert_req_id)
    return await _deliver(services, context, live)


# --- the answer is here ---------------------------------------------------------------------------------------


async def _deliver(services: Services, context: RequestContext, transaction: Transaction) -> bytes:
    """Give the device the answer that came while it was waiting (R118), as often as it asks."""
    late = await retransmission.late_response(services, context, transaction)
    return await _store(
        services,
        context,
        transaction,
        partial(machine.delivered, late=late, polling_digest=context.digest),
        late.der,
    )


async def _store(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    step: transactions.Step,
    response_der: bytes,
) -> bytes:
    """Store what a pollReq changed; where something else came first, it is decided on anew."""
    after = await transactions.change(services.store, services.sink, transaction, step)
    if isinstance(after, Overtaken):
        return await _reconsider(services, context, transactions.require(after.live))
    return response_der


# --- not yet --------------------------------------------------------------------------------------------------


async def _answer_poll_rep(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    cert_req_id: int,
    *,
    lease_until: datetime | None = None,
) -> bytes:
    """Tell the device to ask again later (R117).

    Args:
        lease_until: Until then one node is busy with the transaction; None leaves it.
    """
    behind = _is_behind(context, transaction)
    nonce = transaction.current.ca_nonce if _goes_up_unchanged(transaction) else b""
    der, sender_nonce = await responses.not_yet(
        services,
        context,
        transaction,
        cert_req_id,
        nonce or (transaction.polling_nonce if behind else b""),
    )
    held = transaction.state is State.HELD
    context.report.outcome = Outcome.held if held else Outcome.waiting
    step = partial(
        machine.polled,
        request_digest=context.digest,
        response_der=der,
        recip_nonce=b"" if behind else transaction.polling_nonce,
        sender_nonce=sender_nonce,
        lease_until=lease_until,
    )
    return await _store(services, context, transaction, step, der)


def _goes_up_unchanged(transaction: Transaction) -> bool:
    """Tell whether the CA sees the device's own pollReq, so that this has to return the CA's nonce."""
    return Variant(transaction.variant) is not Variant.reprotect


# --- the CA has said to wait ----------------------------------------------------------------------------------


async def _pass_on(
    services: Services, context: RequestContext, transaction: Transaction, cert_req_id: int
) -> bytes:
    """Poll the CA with the device's pollReq, under the protection its request went up with (R81)."""
    upstream, message, report = context.upstream, context.message, context.report
    check_same_upstream(context, transaction)
    of_the_ca = message.header.recip_nonce == transaction.current.ca_nonce
    told_by_ra = _goes_up_unchanged(transaction) and not of_the_ca
    if told_by_ra or _is_behind(context, transaction):
        # This answer has the nonce that the next pollReq is to return: that one can go up.
        return await _answer_poll_rep(services, context, transaction, cert_req_id)
    taken = await _taken(services, context, transaction)
    if taken is None:
        live = await transactions.load(services.store, transaction.key)
        return await _reconsider(services, context, live)
    ca_nonce = taken.current.ca_nonce
    sent = await follow_up_for_ca(
        services,
        context,
        taken,
        _poll_req_for_ca(context, taken, cert_req_id),
        recip_nonce=ca_nonce,
    )
    try:
        await services.about_to_forward(taken, BodyType.pollReq, sent.der)
    except StoreUnavailable as error:
        report.notes.append(error.detail)
        return await _answer_poll_rep(
            services, context, taken, cert_req_id, lease_until=services.clock()
        )
    try:
        context.report.passed.append((Stage.open, services.monotonic()))
        answer_der = await upstream.core.exchange(
            sent.der, path=upstream.settings.path, deadline_seconds=upstream.deadline_seconds
        )
        context.report.passed.append((Stage.ca, services.monotonic()))
        secrets = await upstream.answer_credentials(answer_der) if upstream.secret else ()
        now, nonces = services.clock(), (taken.current.upstream_nonce, sent.sender_nonce)
        checked = validate(taken, answer_der, nonces, context.endpoint, upstream, now, secrets)
    except UpstreamUnavailable as error:
        services.upstream_failed(taken, error)
        # As long as the transaction lives, a CA that does not answer is one that is slow.
        report.notes.append(error.detail)
        return await _answer_poll_rep(
            services, context, taken, cert_req_id, lease_until=services.clock()
        )
    except UpstreamBroken as error:
        services.upstream_failed(taken, error)
        report.notes.append(error.detail)
        await ca_exchange.fail_polled(services, context, taken, error)
        live = await transactions.load(services.store, taken.key)
        return await _reconsider(services, context, live)
    settled = await ca_exchange.settle_polled(services, context, taken, checked)
    if checked.event is Event.deferred and settled.state in OUTSTANDING:
        ca_exchange.note(context, checked)
        return await _relay_poll_rep(services, context, settled, checked)
    return await _reconsider(services, context, settled)


def _poll_req_for_ca(context: RequestContext, transaction: Transaction, cert_req_id: int) -> bytes:
    """Return the body of a pollReq with the certReqId that the CA gave, which after a p10cr may be another."""
    known = transaction.ca_cert_req_id
    if transaction.body_type is not BodyType.p10cr or transaction.confirmation is not None:
        known = cert_req_id
    return context.message.body_der if known == cert_req_id else poll_req_body(known)


async def _taken(
    services: Services, context: RequestContext, transaction: Transaction
) -> Transaction | None:
    """Take over a transaction; where another pollReq has it, wait for that one a moment and return None."""
    if transaction.lease_until <= services.clock():
        return await retransmission.take_over(services, context, transaction)
    await services.store.wait(
        transaction.key,
        version=transaction.version,
        timeout_seconds=context.endpoint.settings.wait_after_seconds or 0.001,
    )
    return None


async def _relay_poll_rep(
    services: Services, context: RequestContext, transaction: Transaction, checked: CheckedResponse
) -> bytes:
    """Relay the CA's pollRep; the next pollReq has to return its nonce."""
    der, _ = await responses.render(services, context, transaction, checked.planned)
    step = partial(
        machine.polled,
        request_digest=context.digest,
        response_der=der,
        recip_nonce=transaction.polling_nonce,
        sender_nonce=transaction.current.ca_nonce,
    )
    return await _store(services, context, transaction, step, der)
