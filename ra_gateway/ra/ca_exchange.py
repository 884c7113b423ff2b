"""Steps 7 to 10: one exchange with the CA, in the background where a device cannot wait.

A transaction's current message, signed and stored before, goes to the CA; what comes back is checked, and settles the
transaction. A device is held up at most as long as its endpoint says: after that it is told to wait and poll
(RFC 9483 4.4), while the exchange goes on here and leaves what the device is to be told in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from ra_gateway.cmp.bodies import PKIStatusInfo
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.verification import AuthenticatedMessage
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    NotAuthorized,
    PKIFailureInfo,
    StoreUnavailable,
    TransactionInUse,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.events import Outcome, Stage
from ra_gateway.ra import (
    forgiveness,
    late_certificates,
    machine,
    responses,
    single_use,
    transactions,
    unconfirmed,
)
from ra_gateway.ra.context import RequestContext, event_of
from ra_gateway.ra.endpoints import Endpoint, Upstream
from ra_gateway.ra.response_checks import CheckedResponse, planned_confirmation, validate
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import Event, State, Transaction
from ra_gateway.ra.transactions import Overtaken

_NOTHING_CAME: Final = frozenset({Event.refused, Event.failed, Event.deferred})
"""What a CA's answer may mean that brings a transaction nothing."""


_TOLD_BY_THE_POLL: Final = frozenset(
    {Outcome.issued, Outcome.revoked, Outcome.informed, Outcome.confirmed, Outcome.rejected}
)
"""Of what comes of an exchange, as well as what the CA refused; why we failed is told by whoever knows."""


@dataclass(slots=True)
class _CAExchange:
    """One exchange with the CA.

    Args:
        stored: Whether the transaction is in the store; a genm is not until its device has to wait.
        told_to_wait: Whether the device was told to wait, and that is stored.
        detached: Whether nobody awaits the answer here any more: the exchange has an event of its own.
        polled_for: Whether a pollReq waits for what comes of it, and tells of it then.
        unheard: Whether nobody is there to be answered: who sends its message again gets what is planned.
        untouched: Whether it is certain that the CA has seen nothing of the transaction before.
        settling: Whether the CA has answered, so that waiting a little longer is worth it.
        overtaken: What somebody else has made of the transaction before this exchange could.
        writing: Held while the transaction is being changed.
    """

    context: RequestContext
    transaction: Transaction
    stored: bool = True
    told_to_wait: bool = False
    detached: bool = False
    polled_for: bool = False
    unheard: bool = False
    untouched: bool = False
    settling: bool = False
    overtaken: Overtaken | None = None
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


async def ask(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    *,
    stored: bool = True,
    untouched: bool = True,
) -> bytes:
    """Send a transaction's current message to the CA and return the answer for the device.

    Args:
        stored: False for a genm, which is stored only when its device has to wait.
        untouched: Whether it is certain that the CA has seen nothing of the transaction before.

    Raises:
        CMPError: The device is to be refused.
    """
    exchange = _CAExchange(context, transaction, stored, untouched=untouched)
    patience, upstream = context.endpoint.settings.wait_after_seconds, context.upstream
    local = stored and not transaction.current.upstream_der
    waits = bool(patience) and patience < upstream.deadline_seconds
    once = upstream.late_answer_seconds and not may_ask_again(upstream, transaction)
    if local or not (waits or once):
        return await _run(services, exchange)
    task = services.spawn(_run_in_background(services, exchange))
    await asyncio.wait({task}, timeout=patience if waits else upstream.deadline_seconds)
    if task.done() or exchange.settling:
        return await asyncio.shield(task)
    if waits:
        return await _defer(services, exchange)
    # The device may repeat its message; until then the answer is awaited without it.
    exchange.detached, exchange.context = True, context.detached()
    error = UpstreamUnavailable(f"no answer in time from {upstream.name}", delivered=True)
    services.upstream_failed(transaction, error)
    raise error


async def resume(
    services: Services, context: RequestContext, taken: Transaction, *, before: Transaction
) -> bytes:
    """Go on where another node stopped, with the bytes it had prepared.

    Args:
        taken, before: The transaction once it was taken over, and as it was found.

    Raises:
        CMPError: The device is to be refused.
    """
    error = _must_not_resend(context.upstream, taken, before)
    if error is not None:
        return await _fail(services, _CAExchange(context, taken), error)
    return await ask(services, context, taken, untouched=before.may_retry)


async def ask_unheard(
    services: Services,
    endpoint: Endpoint,
    upstream: Upstream,
    found: Transaction,
    expires_at: datetime,
) -> Transaction | None:
    """Go on with a request whose device does not come back: where the CA replays, it is asked by the same octets.

    Args:
        found: Its lease is over.
        expires_at: As long as it is to live.

    Returns:
        The transaction as it is then, None where another node has it.

    Raises:
        CMPError: Nothing came of it.
    """
    step = partial(
        machine.taken_over,
        lease_until=services.clock() + upstream.lease_of(found.body_type),
        credential_digest=services.credential_of(found).certificate.digest,
        expires_at=expires_at,
    )
    taken = await transactions.change(services.store, services.sink, found, step)
    if isinstance(taken, Overtaken):
        return None
    message = PKIMessage.from_der(taken.current.upstream_der)
    context = RequestContext(
        endpoint, message, b"", upstream, profile=taken.profile, started=services.monotonic()
    )
    exchange = _CAExchange(
        context, taken, told_to_wait=True, unheard=True, untouched=found.may_retry
    )
    error: CMPError | None = _must_not_resend(upstream, taken, found)
    if error is None:
        error = await single_use.claim_unheard(endpoint, taken)
    if error is None:
        await _run(services, exchange)
    else:
        await _fail(services, exchange, error)
    return exchange.transaction if exchange.overtaken is None else None


async def resume_in_background(
    services: Services, context: RequestContext, taken: Transaction, *, before: Transaction
) -> None:
    """Go on with an exchange whose device polls; returns when the CA has answered, or the device must not wait longer.

    Args:
        taken, before: As of `resume`.
    """
    error = _must_not_resend(context.upstream, taken, before)
    if error is not None:
        context.report.notes.append(error.detail)
        await fail_polled(services, context, taken, error)
        return
    exchange = _CAExchange(
        context.detached(),
        taken,
        told_to_wait=True,
        detached=True,
        polled_for=True,
        untouched=before.may_retry,
    )
    task = services.spawn(_run_in_background(services, exchange))
    await asyncio.wait({task}, timeout=context.endpoint.settings.wait_after_seconds or None)
    exchange.polled_for = False
    if task.done():
        context.report.notes[:] = exchange.context.report.notes


async def _run_in_background(services: Services, exchange: _CAExchange) -> bytes:
    """Run an exchange; if nobody waits for it any more, report what became of it."""
    bug: Exception | None = None
    try:
        return await _run(services, exchange)
    except Exception as error:
        if not exchange.detached:
            raise
        report = exchange.context.report
        report.outcome = Outcome.failed
        if isinstance(error, CMPError):
            report.refusal = error
        else:
            bug = error
    finally:
        if exchange.detached:
            _tell(services, exchange, bug)
    return b""


def _tell(services: Services, exchange: _CAExchange, bug: Exception | None) -> None:
    """Tell what became of an exchange that no message waits for; what it was, the pollReq that fetches it tells."""
    report = exchange.context.report
    answered = report.outcome in _TOLD_BY_THE_POLL or report.rejection is not None
    if answered and report.refusal is None and bug is None:
        if exchange.polled_for:
            return
        report.outcome, report.rejection = Outcome.ready, None
    elapsed_ms = (services.monotonic() - exchange.context.started) * 1000.0
    services.sink(event_of(exchange.context, elapsed_ms, bug))


async def _run(services: Services, exchange: _CAExchange) -> bytes:
    context, transaction = exchange.context, exchange.transaction
    endpoint, upstream = context.endpoint, context.upstream
    sent = transaction.current
    try:
        if services.audit is not None and sent.upstream_der:
            asked = BodyType.certConf if transaction.confirmation else transaction.body_type
            await services.about_to_forward(transaction, asked, sent.upstream_der)
        claimed = context.shared is not None and await single_use.claim(context, transaction)
    except NotAuthorized as error:
        exchange.settling = True
        return await _fail(services, exchange, error)
    except StoreUnavailable:
        exchange.settling = True
        await _release(services, exchange)
        raise
    if not sent.upstream_der:  # the CA does not hear of certConf
        return await _conclude(services, exchange, planned_confirmation(transaction, None))
    try:
        context.report.passed.append((Stage.open, services.monotonic()))
        answer_der = await upstream.core.exchange(  # step 7
            sent.upstream_der,
            path=upstream.settings.path,
            deadline_seconds=upstream.deadline_seconds,
        )
        context.report.passed.append((Stage.ca, services.monotonic()))
        exchange.settling = True
        secrets = () if upstream.secret is None else await upstream.answer_credentials(answer_der)
        now, nonces = services.clock(), (sent.upstream_nonce,)
        checked = validate(  # step 8
            transaction, answer_der, nonces, endpoint, upstream, now, secrets
        )
    except (UpstreamUnavailable, UpstreamBroken) as error:
        exchange.settling = True
        services.upstream_failed(transaction, error)
        if not _harmless_to_repeat(error, upstream, transaction):
            return await _fail(services, exchange, error)
        # Nothing was issued, or asking again yields the same: the device's next message may try. The secret is given
        # back before the lease: whoever takes over claims it anew.
        unasked = isinstance(error, UpstreamUnavailable) and not error.delivered
        if claimed and unasked and services.clock() < transaction.lease_until:
            await single_use.release(context, transaction)
        sure = unasked and exchange.untouched
        await _release(services, exchange, may_retry=sure or not upstream.replays_repeats)
        raise
    return await _conclude(services, exchange, checked)


async def _conclude(services: Services, exchange: _CAExchange, checked: CheckedResponse) -> bytes:
    """Settle a transaction by what the CA answered, and return what the device is answered."""
    note(exchange.context, checked)
    attempt = partial(_settle, services, exchange, checked)
    response_der = await _insist(services, exchange, attempt, issued=checked.issued)
    return _answer(exchange, response_der)


async def _insist(
    services: Services,
    exchange: _CAExchange,
    attempt: Callable[[], Awaitable[bytes]],
    *,
    issued: bool,
) -> bytes:
    """Attempt to store what came of an exchange; it is stored later where the store is gone, or the CA has issued.

    Otherwise whoever repeats the message would have to wait for the end of a lease whose holder has long been answered.
    """
    try:
        return await attempt()
    except Exception as error:
        if exchange.stored and (issued or isinstance(error, StoreUnavailable)):
            context = exchange.context.detached()
            again = late_certificates.store_later(
                services, context, exchange.transaction, attempt, issued=issued
            )
            services.spawn(again)
        raise


async def _settle(services: Services, exchange: _CAExchange, checked: CheckedResponse) -> bytes:
    """Sign the response (step 9), and store what a CA's answer makes of a transaction; returns the response."""
    context, transaction, now = exchange.context, exchange.transaction, services.clock()
    settings = context.endpoint.settings
    response_der, until = b"", None
    if not exchange.told_to_wait:
        response_der, until = await responses.render(
            services, context, transaction, checked.planned, issues=checked.event is Event.issued
        )
    elif checked.event is Event.issued:
        # The device has yet to ask for it, and is told then until when it is to confirm.
        seconds = settings.check_after_seconds + settings.confirm_wait_seconds
        until = now + timedelta(seconds=seconds)
    waits = exchange.told_to_wait
    undecided = exchange.unheard and checked.event is Event.deferred
    unsure = checked.denied and (exchange.unheard or not waits)
    if undecided or (unsure and may_ask_again(context.upstream, transaction)):
        # Whoever asks next gets what the CA may have done.
        await _release(services, exchange, may_retry=not context.upstream.replays_repeats)
        return response_der
    certificate_der = b"" if checked.certificate is None else checked.certificate.der
    if exchange.unheard and checked.event is Event.granted:
        # The CA awaits no certConf, and its device may never come back.
        what = f"{context.upstream.name} granted implicitConfirm to a device that is gone"
        error = UpstreamBroken(what, rule="R111")
        error.certificate_der = certificate_der
        return await _fail(services, exchange, error)
    step: Callable[..., Transaction]
    expires_at: datetime | None
    if checked.event is Event.deferred:
        lives_until = transaction.created_at + timedelta(seconds=settings.approval_seconds)
        step = partial(machine.deferred_by_ca, now=now, until=lives_until)
    else:
        if checked.event is Event.accepted:
            expires_at = min(transaction.expires_at, now + services.lifetime)
        else:
            try:
                expires_at = await unconfirmed.schedule(
                    services, context, transaction, checked.event, certificate_der, until
                )
            except HeaderRefused as error:
                return await _fail(services, exchange, error)
        if checked.issued and checked.certificate is not None and transaction.quirks_of:
            await forgiveness.remember(services, context, transaction, checked.certificate)
        step = partial(
            machine.answered,
            confirm_until=until,
            expires_at=expires_at,
            unheard=exchange.unheard,
        )
    await _store(
        services,
        exchange,
        partial(step, checked=checked, response_der=response_der),
        create=checked.event is Event.deferred,
        late=checked.event not in _NOTHING_CAME,
        certificate_der=certificate_der,
    )
    if exchange.overtaken is None and exchange.transaction.state is State.REFUSED:
        await single_use.release(context, transaction)
    return response_der


async def _fail(services: Services, exchange: _CAExchange, error: CMPError) -> bytes:
    """Settle a transaction that must not be asked again; its retransmissions get this same error."""
    context, transaction = exchange.context, exchange.transaction
    error = await _explained(services, transaction, error)
    response_der = b""
    if not exchange.unheard:
        response_der = await responses.refuse(services, context, error, transaction=transaction)
    if (
        _may_have_issued(error)
        and transaction.state is State.REQUESTED
        and unconfirmed.finds_again(services, context.upstream, transaction)
    ):
        unconfirmed.tell_lost(services, transaction, error.detail)
    attempt = partial(_store_failure, services, exchange, error, response_der)
    issued = isinstance(error, UpstreamBroken) and bool(error.certificate_der)
    return _answer(exchange, await _insist(services, exchange, attempt, issued=issued))


async def _store_failure(
    services: Services, exchange: _CAExchange, error: CMPError, response_der: bytes
) -> bytes:
    transaction, certificate_der, expires_at = exchange.transaction, b"", None
    if isinstance(error, UpstreamBroken):
        certificate_der = error.certificate_der
    if certificate_der or transaction.confirmation is not None:
        expires_at = await unconfirmed.look_after(
            services, exchange.context.upstream, transaction, services.clock()
        )
    step = partial(
        machine.failed,
        fail_info=error.fail_info.name,
        response_der=response_der,
        certificate_der=certificate_der,
        expires_at=expires_at,
        unheard=exchange.unheard,
    )
    await _store(services, exchange, step, certificate_der=certificate_der)
    return response_der


async def _release(services: Services, exchange: _CAExchange, *, may_retry: bool = True) -> None:
    async def attempt() -> bytes:
        step = partial(machine.released, now=services.clock(), may_retry=may_retry)
        await _store(services, exchange, step)
        return b""

    await _insist(services, exchange, attempt, issued=False)


async def _store(
    services: Services,
    exchange: _CAExchange,
    step: transactions.Step,
    *,
    create: bool = False,
    late: bool = False,
    certificate_der: bytes = b"",
) -> None:
    """Store what becomes of a transaction (step 10), unless somebody else was faster, as the exchange then says.

    Args:
        create: Whether it is to be stored even if it was not before.
        late: Whether it counts from a node whose lease is over and that another one has taken over from, too: what
            the CA has done, but not that it could not be asked, or said no.
        certificate_der: What the CA has issued for it.

    Raises:
        TransactionInUse: It was not stored before, and there is another one now.
    """
    async with exchange.writing:
        before = exchange.transaction
        if not exchange.stored:
            if create:
                await _create(services, exchange, replace(step(before), version=0))
            return
        after = await transactions.change(
            services.store,
            services.sink,
            before,
            step,
            while_=lambda live: (
                _still_asked(live, before) and (late or live.lease_until == before.lease_until)
            ),
        )
        if isinstance(after, Overtaken):
            await late_certificates.keep_alone(
                services, exchange.context, before, certificate_der, after.live
            )
            exchange.overtaken = after
        else:
            exchange.transaction = after


def _answer(exchange: _CAExchange, response_der: bytes) -> bytes:
    """Return what the device is told, which must see one answer only.

    A node that was slower than its lease may have been overtaken, and another one may have told the device to wait.

    Raises:
        StoreUnavailable: Another node has the transaction, and no answer yet.
    """
    if exchange.overtaken is not None:
        return _answer_of(exchange.overtaken.live, exchange.transaction)
    current = exchange.transaction.current
    return (current.response_der if current.waiting else None) or response_der


async def _create(services: Services, exchange: _CAExchange, transaction: Transaction) -> None:
    """Store a transaction that nothing had to be remembered of until now."""
    repeatable = may_ask_again(exchange.context.upstream, transaction)
    if await services.store.create(transaction, repeatable=repeatable) is not None:
        raise TransactionInUse("another request lives under this transactionID", rule="R12")
    services.sink(transactions.changed(transaction))
    exchange.transaction, exchange.stored = transaction, True


def _still_asked(live: Transaction, before: Transaction) -> bool:
    """Tell whether the answer to a transaction's message is still outstanding, whoever changed it meanwhile."""
    current = live.current
    return (
        live.state is before.state
        and current.request_digest == before.current.request_digest
        and current.planned is None
        and (current.response_der is None or current.waiting)
    )


def _answer_of(live: Transaction | None, before: Transaction) -> bytes:
    """Return what another node has answered to the same message.

    Raises:
        StoreUnavailable: Nothing yet.
    """
    answered = None if live is None else live.exchange_for(before.current.request_digest)
    if (
        answered is None or not answered.response_der
    ):  # empty: what came is for the device's next message
        raise StoreUnavailable("overtaken by a node that has no answer yet")
    return answered.response_der


# --- a device that has to wait --------------------------------------------------------------------------------


async def defer(services: Services, context: RequestContext, transaction: Transaction) -> bytes:
    """Tell a device to wait and poll whose CA another node, or another message of it, is asking."""
    return await _defer(services, _CAExchange(context, transaction))


async def _defer(services: Services, exchange: _CAExchange) -> bytes:
    """Tell a device to wait and poll; the exchange goes on without it."""
    context = exchange.context
    exchange.detached, exchange.context = True, context.detached()
    async with exchange.writing:
        before = exchange.transaction
        if before.current.waiting:
            exchange.told_to_wait = True
            context.report.outcome = Outcome.replayed
            return _answer_of(before, before)  # another node told it the same
        response = await responses.waiting(services, context, before)
        context.report.outcome = Outcome.waiting
        if not exchange.stored:
            told = machine.opened_waiting(before, *response, before.lease_until)
            await _create(services, exchange, told)
            exchange.told_to_wait = True
            return response.der
        after = await transactions.change(
            services.store,
            services.sink,
            before,
            partial(
                machine.deferred,
                response_der=response.der,
                sender_nonce=response.sender_nonce,
            ),
            while_=lambda live: _still_asked(live, before) and not live.current.waiting,
        )
        if isinstance(after, Overtaken):
            context.report.outcome = Outcome.replayed
            return _answer_of(after.live, before)
        # Not before: a device that could not be told so gets its answer when it sends its message again.
        exchange.transaction, exchange.told_to_wait = after, True
        return response.der


# --- a device that polls --------------------------------------------------------------------------------------


async def fail_polled(
    services: Services, context: RequestContext, transaction: Transaction, error: CMPError
) -> None:
    """End a transaction whose device polls, and whose CA must not be asked again."""
    await _fail(services, _CAExchange(context.detached(), transaction, told_to_wait=True), error)


async def settle_polled(
    services: Services, context: RequestContext, transaction: Transaction, checked: CheckedResponse
) -> Transaction:
    """Settle a transaction by what the CA answered to a pollReq, and return it as it is then."""
    exchange = _CAExchange(context.detached(), transaction, told_to_wait=True)
    await _conclude(services, exchange, checked)
    if exchange.overtaken is None:
        return exchange.transaction
    return transactions.require(exchange.overtaken.live)


# --- what is said of it ---------------------------------------------------------------------------------------


def note(context: RequestContext, checked: CheckedResponse) -> None:
    """Put into a message's report what the CA answered."""
    report = context.report
    report.outcome = checked.outcome
    if checked.certificate is not None:
        report.certificate = checked.certificate
    elif checked.event is Event.revoked:
        note_revoked(context)
    if checked.rejection is not None:
        note_rejection(context, checked.rejection)


def note_revoked(context: RequestContext) -> None:
    """Report the signer's certificate as the one that was revoked; not where an RA or a secret speaks for a device."""
    authenticated = context.report.authenticated
    if isinstance(authenticated, AuthenticatedMessage) and not context.relayed:
        context.report.certificate = authenticated.signer


def note_rejection(context: RequestContext, rejection: PKIStatusInfo) -> None:
    """Put into a message's report why the CA refused."""
    context.report.rejection = rejection
    said = f"the CA refused: {rejection}"
    if said not in context.report.notes:
        context.report.notes.append(said)


# --- whether a CA may be asked again --------------------------------------------------------------------------


def may_ask_again(upstream: Upstream, transaction: Transaction) -> bool:
    """Tell whether a CA that may have seen a message can be sent it once more: nothing is issued twice."""
    return (
        upstream.may_be_asked_again(transaction.body_type) or transaction.confirmation is not None
    )


def _must_not_resend(
    upstream: Upstream, taken: Transaction, before: Transaction
) -> UpstreamUnavailable | None:
    """Return why a transaction whose lease is over must not be asked again; None where it may."""
    if may_ask_again(upstream, taken) or before.may_retry:
        return None
    # Whoever held the lease is gone, or frozen, or has no store; it may have been answered. This CA would issue again.
    return UpstreamUnavailable(
        "whoever asked the CA has stored no answer in time, and asked again this CA could issue twice",
        delivered=True,
    )


def _may_have_issued(error: CMPError) -> bool:
    """Tell whether a CA that was asked may have issued a certificate that nobody has seen."""
    if isinstance(error, UpstreamUnavailable):
        return error.delivered
    return isinstance(error, UpstreamBroken) and not error.certificate_der


def _harmless_to_repeat(
    error: UpstreamUnavailable | UpstreamBroken, upstream: Upstream, transaction: Transaction
) -> bool:
    if isinstance(error, UpstreamUnavailable):
        return not error.delivered or may_ask_again(upstream, transaction)
    unavailable = error.fail_info is PKIFailureInfo.systemUnavail
    return unavailable and transaction.confirmation is not None


async def _explained(services: Services, transaction: Transaction, error: CMPError) -> CMPError:
    """Return the device's own fault in the place of a CA's complaint about a transactionID that another device has."""
    if not isinstance(error, UpstreamBroken) or not error.id_in_use:
        return error
    others = await services.store.find(transaction.key.transaction_id)
    if any(
        item.key != transaction.key and item.upstream == transaction.upstream for item in others
    ):
        return TransactionInUse(error.detail, rule="R12")
    return error
