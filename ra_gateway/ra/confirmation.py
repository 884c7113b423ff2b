"""certConf, and the error by which a device gives up: the end of what a request began."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Final

from ra_gateway.cmp.bodies import PKICONF_BODY, cert_confirm_body, error_msg_content
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.requests import AuthenticatedConfirmation, read_confirmation
from ra_gateway.errors import ConfirmationRefused, HeaderRefused, PKIFailureInfo
from ra_gateway.events import Outcome
from ra_gateway.ra import (
    ca_exchange,
    machine,
    responses,
    retransmission,
    transactions,
    unconfirmed,
)
from ra_gateway.ra.authentication import find_transaction
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.forwarding import MessageForCA, follow_up_for_ca
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import GIVEN_UP, PlannedResponse, State, Transaction
from ra_gateway.ra.transactions import Overtaken

_CONFIRMED: Final = frozenset({State.CONFIRMING, State.CONFIRMED, State.REJECTED, State.GRANTED})
"""States in which a certConf was accepted already, or none is due: another one gets certConfirmed."""


async def confirm(services: Services, context: RequestContext) -> bytes:
    """Answer a certConf: the same steps as for a request, for a message that continues a transaction.

    Raises:
        CMPError: It is refused.
    """
    context, authenticated, transaction, before = await find_transaction(
        services, context
    )  # step 3
    if before is not None:
        return await retransmission.respond(services, context, transaction)
    _check_state(transaction)  # step 4
    if transaction.certificate_der:
        context.report.certificate = load_certificate(transaction.certificate_der)
    confirmation = read_confirmation(
        authenticated,
        context.report.certificate,
        response_nonce=transaction.response_nonce,
        cert_req_id=transaction.cert_req_id,
    )
    takes_certificate = confirmation.status.takes_certificate
    upstream, now = context.upstream, services.clock()
    local = unconfirmed.knows_alone(upstream, transaction)
    awaited_until = transaction.confirm_until or transaction.expires_at
    if local and takes_certificate and now > awaited_until and services.steady():
        # Where the CA awaits nothing, nobody else would hold the device to what it was told.
        raise ConfirmationRefused(
            "certConf after confirmWaitTime", fail_info=PKIFailureInfo.badRequest, rule="R111"
        )
    if takes_certificate:
        await unconfirmed.take(services, upstream, transaction)
    for_ca = MessageForCA(b"", b"")
    if not local:
        body_der = _body_for_ca(context, transaction, confirmation)
        for_ca = await follow_up_for_ca(services, context, transaction, body_der)  # step 5
    after = await transactions.change(  # step 6
        services.store,
        services.sink,
        transaction,
        partial(
            machine.confirming,
            request_digest=context.digest,
            takes_certificate=takes_certificate,
            upstream_der=for_ca.der,
            upstream_nonce=for_ca.sender_nonce,
            lease_until=services.clock() + upstream.lease,
        ),
    )
    if not isinstance(after, Overtaken):
        return await ca_exchange.ask(services, context, after)  # steps 7 to 10
    live = transactions.require(after.live)
    if live.exchange_for(context.digest) is None:
        _check_state(live)
    return await retransmission.respond(services, context, live)


def _check_state(transaction: Transaction) -> None:
    if transaction.state in _CONFIRMED:
        raise ConfirmationRefused(
            f"certConf in state {transaction.state}",
            fail_info=PKIFailureInfo.certConfirmed,
            rule="R110" if transaction.state is State.GRANTED else "R109",
        )
    if transaction.state in GIVEN_UP:
        raise ConfirmationRefused(
            f"certConf in state {transaction.state}: too late",
            fail_info=PKIFailureInfo.badRequest,
            rule="R111",
        )
    if transaction.state is not State.ISSUED or transaction.opening.waiting:
        raise HeaderRefused(f"certConf in state {transaction.state}", rule="R11")


def _body_for_ca(
    context: RequestContext, transaction: Transaction, confirmation: AuthenticatedConfirmation
) -> bytes:
    """Return the body of a certConf with the certReqId that the CA gave: after a p10cr some CAs say 0, some -1."""
    if confirmation.status.cert_req_id == transaction.ca_cert_req_id:
        return context.message.body_der
    return cert_confirm_body(replace(confirmation.status, cert_req_id=transaction.ca_cert_req_id))


async def take_error(services: Services, context: RequestContext) -> bytes:
    """Answer an error from a device: the transaction ends, nothing goes upstream (R115).

    Raises:
        CMPError: It is refused.
    """
    context, _, transaction, before = await find_transaction(services, context)
    report, message = context.report, context.message
    if before is not None and before.response_der is not None:
        report.outcome = Outcome.replayed
        return before.response_der
    if transaction.state is not State.ISSUED:
        raise HeaderRefused(f"error in state {transaction.state}", rule="R115")
    if message.header.recip_nonce != transaction.response_nonce:
        raise HeaderRefused(
            "recipNonce is not the senderNonce of the response",
            fail_info=PKIFailureInfo.badRecipientNonce,
            rule="R8",
        )
    told = error_msg_content(message.body_content).status_info
    der, _ = await responses.render(services, context, transaction, PlannedResponse(PKICONF_BODY))
    report.outcome = Outcome.rejected
    report.notes.append(f"the device sent error instead of certConf: {told}")
    if transaction.certificate_der:
        report.certificate = load_certificate(transaction.certificate_der)
    expires_at = await unconfirmed.look_after(
        services, context.upstream, transaction, services.clock()
    )
    after = await transactions.change(
        services.store,
        services.sink,
        transaction,
        partial(
            machine.refused_by_device,
            request_digest=context.digest,
            response_der=der,
            expires_at=expires_at,
        ),
    )
    if not isinstance(after, Overtaken):
        return der
    return await retransmission.respond(services, context, transactions.require(after.live))
