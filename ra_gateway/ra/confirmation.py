"""certConf, and the error by which a device gives up: the end of what a request began."""

from __future__ import annotations

from functools import partial
from typing import Final

from ra_gateway.cmp.bodies import NO_STATUS, PKICONF_BODY, cert_confirm_body, error_msg_content
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.header_checks import check_fresh_nonce
from ra_gateway.cmp.requests import AuthenticatedConfirmation, read_confirmation
from ra_gateway.cmp.verification import Authenticated
from ra_gateway.errors import (
    CMPError,
    ConfirmationRefused,
    HeaderRefused,
    PKIFailureInfo,
    UpstreamUnavailable,
)
from ra_gateway.events import Outcome, Stage
from ra_gateway.ra import ca_exchange, machine, responses, retransmission, transactions, unconfirmed
from ra_gateway.ra.authentication import find_transaction, unknown
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.forwarding import MessageForCA, follow_up_for_ca
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import GIVEN_UP, PlannedResponse, State, Transaction
from ra_gateway.ra.transactions import Overtaken
from ra_gateway.values import replace

_CONFIRMED: Final = frozenset({State.CONFIRMED, State.GRANTED})
"""States in which the certificate is confirmed, so that another certConf gets certConfirmed."""

_AWAITING: Final = frozenset({State.ISSUED, State.CONFIRMING})
"""States in which a certConf may be taken; in the latter, one in the place of another that came to nothing yet."""


async def confirm(services: Services, context: RequestContext) -> bytes:
    """Answer a certConf: the same steps as for a request, for a message that continues a transaction.

    Raises:
        CMPError: It is refused.
    """
    # step 3
    continued = await find_transaction(services, context)
    context, authenticated, transaction, before, remembered = continued
    context.report.passed.append((Stage.authenticate, services.monotonic()))
    while before is None:
        try:
            after = await _take(services, context, authenticated, transaction)
        except CMPError:
            # By what is remembered here. What counts is how the transaction is now.
            live = await services.store.load(transaction.key) if remembered else transaction
            if live == transaction:
                raise
            after = Overtaken(live)
        if not isinstance(after, Overtaken):
            if after.current.waiting:
                context.report.outcome = Outcome.waiting
                return after.current.response_der or b""
            return await ca_exchange.ask(services, context, after)  # steps 7 to 10
        if after.live is None and remembered:
            raise unknown(context.message)
        transaction, remembered = transactions.require(after.live), False
        before = transaction.exchange_for(context.digest)
    return await retransmission.respond(services, context, transaction)


async def _take(
    services: Services,
    context: RequestContext,
    authenticated: Authenticated,
    transaction: Transaction,
) -> Transaction | Overtaken:
    """Check a certConf that did not come before, and store the intent to tell the CA.

    Where the CA has another one, and has told to wait, the device is told so once more.

    Raises:
        CMPError: It is refused.
    """
    _check_state(transaction)  # step 4
    rules = context.endpoint.rules
    check_fresh_nonce(context.message.header, transaction.sender_nonce, rules)
    if transaction.certificate_der:
        context.report.certificate = load_certificate(transaction.certificate_der)
    confirmation = read_confirmation(
        authenticated,
        context.report.certificate,
        response_nonce=transaction.response_nonce,
        cert_req_id=transaction.cert_req_id,
        request=transaction.body_type,
        rules=rules,
    )
    takes_certificate = confirmation.status.takes_certificate
    if transaction.state is State.CONFIRMING:
        if takes_certificate is not transaction.confirm_status:
            raise _another_came_first()
        if transaction.lease_until > services.clock():
            return await _wait_for_the_other(services, context, transaction)
        if transaction.current.ca_nonce:
            return await _tell_to_wait(services, context, transaction)
    upstream, now = context.upstream, services.clock()
    local = unconfirmed.knows_alone(upstream, transaction)
    awaited_until = transaction.confirm_until or transaction.expires_at
    if (
        local
        and takes_certificate
        and transaction.state is State.ISSUED
        and now > awaited_until
        and services.steady()
    ):
        # Where the CA awaits nothing, nobody else would hold the device to what it was told.
        raise ConfirmationRefused(
            "certConf after confirmWaitTime", fail_info=PKIFailureInfo.badRequest, rule="R111"
        )
    for_ca = MessageForCA(b"", b"")
    if not local:
        body_der = _body_for_ca(context, transaction, confirmation)
        for_ca = await follow_up_for_ca(services, context, transaction, body_der)  # step 5
        context.report.passed.append((Stage.sign, services.monotonic()))
    # Not before: what can fail until the transaction says so as well is the store alone.
    if takes_certificate:
        await unconfirmed.note_accepted(services, upstream, transaction)
    return await transactions.change(  # step 6
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


def _check_state(transaction: Transaction) -> None:
    if transaction.state in _CONFIRMED:
        raise ConfirmationRefused(
            f"certConf in state {transaction.state}",
            fail_info=PKIFailureInfo.certConfirmed,
            rule="R110" if transaction.state is State.GRANTED else "R109",
        )
    if transaction.state is State.REJECTED:
        raise _another_came_first()
    if transaction.state in GIVEN_UP:
        raise ConfirmationRefused(
            f"certConf in state {transaction.state}: too late",
            fail_info=PKIFailureInfo.badRequest,
            rule="R111",
        )
    opening = transaction.opening
    if transaction.state not in _AWAITING or (opening.waiting and not opening.delivered):
        raise HeaderRefused(f"certConf in state {transaction.state}", rule="R11")


def _another_came_first() -> ConfirmationRefused:
    """Return the refusal of a certConf where another one decided, which need not have taken the certificate."""
    return ConfirmationRefused(
        "another certConf, or an error, came first",
        fail_info=PKIFailureInfo.badRequest,
        rule="R109",
    )


async def _wait_for_the_other(
    services: Services, context: RequestContext, transaction: Transaction
) -> Overtaken:
    """Wait until the CA has answered another certConf of the device, which says the same, or cannot be asked.

    Raises:
        UpstreamUnavailable: It is still being asked, and the device is not to be held up longer.
    """
    deadline = context.upstream.deadline_seconds
    seconds = min(deadline, context.endpoint.settings.wait_after_seconds or deadline)
    left = min(
        context.started + seconds - services.monotonic(),
        (transaction.lease_until - services.clock()).total_seconds(),
    )
    if left <= 0:
        raise UpstreamUnavailable("another certConf is on its way to the CA", delivered=True)
    return Overtaken(
        await services.store.wait(
            transaction.key, version=transaction.version, timeout_seconds=left
        )
    )


async def _tell_to_wait(
    services: Services, context: RequestContext, transaction: Transaction
) -> Transaction | Overtaken:
    """Tell a device to poll for the answer to a certConf that the CA has, as this one says the same.

    It may have lost the answer that said so, and is given the nonce of the last one: nothing moves for who polls.
    """
    der, _ = await responses.waiting(services, context, transaction, transaction.polling_nonce)
    return await transactions.change(
        services.store,
        services.sink,
        transaction,
        partial(machine.told_again, request_digest=context.digest, response_der=der),
    )


def _body_for_ca(
    context: RequestContext, transaction: Transaction, confirmation: AuthenticatedConfirmation
) -> bytes:
    """Return the body of a certConf with the certReqId that the CA gave: after a p10cr some CAs say 0, some -1.

    A rejection without a word is put into words, as not every CA knows it.
    """
    says_it = context.message.body_content != NO_STATUS or not confirmation.status.cert_hash
    if says_it and confirmation.status.cert_req_id == transaction.ca_cert_req_id:
        return context.message.body_der
    return cert_confirm_body(replace(confirmation.status, cert_req_id=transaction.ca_cert_req_id))


async def take_error(services: Services, context: RequestContext) -> bytes:
    """Answer an error from a device: the transaction ends, nothing goes upstream (R115).

    None is taken under the signature of another RA. Whoever asks an RA for anything is told no by an error with the
    transactionID and nonce that it chose: here that would be the end of somebody else's transaction.

    Raises:
        CMPError: It is refused.
    """
    context, _, transaction, before, _ = await find_transaction(services, context)
    report, message = context.report, context.message
    if context.relayed:
        raise HeaderRefused(
            "error under the signature of an RA, which signs one for anybody", rule="R115"
        )
    if before is not None and before.response_der is not None:
        report.outcome = Outcome.replayed
        return before.response_der
    again = transaction.state in (State.REJECTED, *GIVEN_UP) and not transaction.confirm_status
    if not again and transaction.state is not State.ISSUED:
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
    expires_at = None
    if not again:
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
