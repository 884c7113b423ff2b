"""The gateway: one message in, one answer out, by ten numbered steps.

     1 decode         bytes -> PKIMessage
     2 header         version, IDs, nonces, whether the type is taken here
     3 authenticate   signer, path to a trust domain
     4 authorize      proof of possession, which identity the device may have, which CA is asked; then what holds only
                      for a while: messageTime, that the signer is not revoked, and that there is room (`rates`)
     5 re-protect     under the RA's signature; the result is part of what step 6 stores
     6 open           the transaction is stored; a retransmission is answered from the store
     7 forward        to the CA
     8 check answer   protection, IDs, nonces, key, issuer, subject; what the device is told is planned
     9 respond        what was planned, signed by the RA, with the certificates a device needs
    10 advance        compare-and-set in the store; who loses the race answers what the winner stored

The message for the CA is signed (5) before the transaction is stored (6), so that whichever node continues after a
crash sends the very same bytes; a request that an operator has to approve is signed when it leaves. The answer is
signed (9) before it is stored (10), so that a retransmission gets the very same bytes. `ca_exchange` has the last four,
as they may go on in the background.

What follows a request takes the same steps: `confirmation` (certConf, error) and `polling` (pollReq). genm changes
nothing anywhere: it does without steps 6 and 9, unless its device has to wait. What other RAs nested is taken apart
before (`nested`), and each message inside is answered for itself. `retransmission` answers what came before, and takes
over what another node has left behind; `unconfirmed` looks after certificates that nobody confirmed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.cmp.bodies import NO_QUESTION, gen_msg_body
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, RESPONSE_TO, BodyType
from ra_gateway.cmp.header_checks import (
    check_header,
    check_message_time,
    check_version,
    with_transaction_id,
)
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.requests import read_question
from ra_gateway.cmp.responder import Reply, Single, Unreadable
from ra_gateway.cmp.verification import Authenticated
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    MalformedMessage,
    RateExceeded,
    ServiceFailure,
    SignerNotTrusted,
    StatusUnavailable,
    TransactionInUse,
)
from ra_gateway.events import Outcome, Stage
from ra_gateway.ra import (
    approval,
    ca_exchange,
    forgiveness,
    nested,
    responses,
    retransmission,
    transactions,
)
from ra_gateway.ra.authentication import authenticate_request, check_status, find_shared_secret
from ra_gateway.ra.authorization import (
    AuthorizedOperation,
    authorize_operation,
    fitting_routes,
    signed,
    upstream_of,
)
from ra_gateway.ra.confirmation import confirm, take_error
from ra_gateway.ra.context import RequestContext, event_of, unreadable_event
from ra_gateway.ra.forwarding import message_for_ca
from ra_gateway.ra.general_messages import answered_here, told_unasked
from ra_gateway.ra.polling import poll
from ra_gateway.ra.services import Services
from ra_gateway.ra.settings import Variant
from ra_gateway.ra.transaction import Exchange, State, Transaction, TransactionKey

OPERATIONS: Final[Mapping[str, frozenset[BodyType]]] = {
    "initialization": frozenset({BodyType.ir}),
    "certification": frozenset({BodyType.cr}),
    "keyupdate": frozenset({BodyType.kur}),
    "pkcs10": frozenset({BodyType.p10cr}),
    "revocation": frozenset({BodyType.rr}),
    "getcacerts": frozenset({BodyType.genm}),
    "getrootupdate": frozenset({BodyType.genm}),
    "getcertreqtemplate": frozenset({BodyType.genm}),
    "getcrls": frozenset({BodyType.genm}),
}
"""Operation labels of RFC 9483 6.1 that name a request taken here; followers may use any of them."""


class Gateway:
    """Answers devices' messages (RFC 9483 5, TS 33.310 9)."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str = "", operation: str = "", peer: str = ""
    ) -> Reply:
        """Answer one message; whatever happens inside, the answer is a DER PKIMessage.

        Args:
            der: What was received.
            endpoint: Name of the endpoint it was sent to.
            profile: Name out of the path below /p/, "" for none.
            operation: Operation label out of the path, "" for none.
            peer: Where it came from, for the event.
        """
        services = self._services
        started = services.monotonic()
        try:
            where = services.endpoints[endpoint]
            message = with_transaction_id(PKIMessage.from_der(der), where.rules)  # step 1
        except MalformedMessage as error:
            unreadable = Unreadable.of(der, error)
            reply = await responses.unreadable(services, unreadable)
            services.sink(unreadable_event(unreadable, endpoint, peer, self._elapsed_ms(started)))
            return reply
        context = RequestContext(
            where,
            message,
            message.digest,
            where.upstream,
            operation=operation,
            profile=profile,
            peer=peer,
            started=started,
        )
        context.report.passed.append((Stage.decode, services.monotonic()))
        return Reply(await self._handled(context), understood=True)

    async def _handled(self, context: RequestContext) -> bytes:
        """Answer a decoded message, whatever becomes of it, and tell of it."""
        services = self._services
        bug: Exception | None = None
        try:
            if context.message.body_type is not BodyType.nested:
                response = await _answer(services, context)
            elif isinstance(inside := await nested.unwrap(services, context), Single):
                # From here on as if it had come plain.
                context = nested.inner(context, inside.message)
                response = await _answer(services, context)
            else:
                response = await nested.answer_batch(services, context, inside, self._handled)
        except CMPError as error:
            await find_shared_secret(services, context)
            response = await responses.refuse(services, context, error)
        except Exception as error:  # an answer always leaves; the event carries the cause
            bug = error
            failure = ServiceFailure(f"{type(error).__name__}: {error}", rule="bug")
            response = await responses.refuse(services, context, failure)
        services.sink(event_of(context, self._elapsed_ms(context.started), bug))
        report = context.report
        if report.authenticated is not None and report.refusal is None:
            services.begun.note(context.message.header.transaction_id or b"", services.monotonic())
        return response

    def _elapsed_ms(self, started: float) -> float:
        return (self._services.monotonic() - started) * 1000.0


async def _answer(services: Services, context: RequestContext) -> bytes:
    _check_header(context)  # step 2
    body_type = context.message.body_type
    answer = _open if body_type in CERT_RESPONSE_TO else _ANSWERS[body_type]
    return await answer(services, context)


def _check_header(context: RequestContext) -> None:
    """Check version, body type, label, IDs and nonces, before anything is computed."""
    endpoint, header = context.endpoint, context.message.header
    check_version(header)
    body_type = context.message.body_type
    if body_type not in endpoint.body_types and body_type not in _FOLLOWERS:
        if body_type in RESPONSE_TO:
            raise HeaderRefused(f"{body_type.name} is not taken at this endpoint", rule="R142")
        raise HeaderRefused(f"{body_type.name} is not a request served here", rule="R9")
    labelled = OPERATIONS.get(context.operation)
    if context.operation and body_type not in _FOLLOWERS and body_type not in (labelled or ()):
        raise HeaderRefused(f"{body_type.name} sent to .../{context.operation}", rule="R149")
    rules = endpoint.rules.relaxed_by(endpoint.loosest_quirks)
    check_header(header, rules, first=body_type in RESPONSE_TO)


# --- ir, cr, kur, p10cr, rr -----------------------------------------------------------------------------------


async def _open(services: Services, context: RequestContext) -> bytes:
    """Answer a message that opens an operation.

    Raises:
        CMPError: It is refused.
    """
    now = services.clock()
    context, authenticated, key = await authenticate_request(services, context, now)  # step 3
    context.report.passed.append((Stage.authenticate, services.monotonic()))
    context, operation = await authorize_operation(services, context, authenticated, now)  # step 4
    context.report.passed.append((Stage.authorize, services.monotonic()))
    live = await _check_time_and_status(services, context, authenticated, key, now)
    if live is not None:
        return await retransmission.respond(services, context, live)
    context.report.passed.append((Stage.status, services.monotonic()))
    domain = authenticated.domain.name
    if key.transaction_id in services.begun and (live := await _repeated(services, context, key)):
        return await retransmission.respond(services, context, live)  # and holds nothing meanwhile
    try:
        await services.limits.admit(domain)
    except RateExceeded:
        live = await _repeated(services, context, key)
        if live is None:
            raise
        return await retransmission.respond(services, context, live)
    try:
        # step 5
        transaction = await _prepare(services, context, authenticated, key, operation, now)
        context.report.passed.append((Stage.sign, services.monotonic()))
        if authenticated.domain.forgives:
            await forgiveness.note_taken(services, context, authenticated, now)
        transaction, live = await _store(services, context, transaction, now)  # step 6
    except BaseException:  # whoever begins nothing, however often, leaves the rate to the others
        services.limits.give_back(domain)
        raise
    # Before the CA has answered: its device may repeat it.
    services.begun.note(key.transaction_id, services.monotonic())
    if live is not None:
        services.limits.give_back(domain)
        return await retransmission.respond(services, context, live)
    services.sink(transactions.changed(transaction))
    if operation.held:
        return approval.told(context, transaction)
    return await ca_exchange.ask(services, context, transaction)  # steps 7 to 10


async def _repeated(
    services: Services, context: RequestContext, key: TransactionKey
) -> Transaction | None:
    """Return the transaction of a message that came before; None for one that is new."""
    live = await services.store.load(key)
    return None if live is None or live.exchange_for(context.digest) is None else live


async def _store(
    services: Services, context: RequestContext, transaction: Transaction, now: datetime
) -> tuple[Transaction, Transaction | None]:
    """Store a new transaction; returns it, and the one that is live under its key already, if there is."""
    live, repeatable = None, False
    if transaction.state is State.HELD:
        live = await services.store.load(transaction.key)  # which is not to be listed again
        if live is None:
            transaction = await approval.hold(services, context, transaction, now)
    else:
        repeatable = ca_exchange.may_ask_again(context.upstream, transaction)
    if live is None:
        live = await services.store.create(transaction, repeatable=repeatable)
    return transaction, live


async def _check_time_and_status(
    services: Services,
    context: RequestContext,
    authenticated: Authenticated,
    key: TransactionKey,
    now: datetime,
) -> Transaction | None:
    """Check what holds only for a while: messageTime, and that the signer is not revoked.

    It comes after the rest, as a message that fails here may be a retransmission, which has to be told from a new one.

    Returns:
        The transaction of a message that is too late by that, and came before: the device may have been without
        power for an hour, and its certificate may have been superseded and revoked by what it got. None otherwise.

    Raises:
        CMPError: It is too late, and new.
    """
    message = context.message
    try:
        rules = context.endpoint.rules.relaxed_by(authenticated.domain.quirks)
        check_message_time(message.header, rules, now)
        if authenticated.domain.forgives:
            await forgiveness.check_new(services, context, authenticated, now)
        await check_status(services, context, authenticated, now)
    except (HeaderRefused, SignerNotTrusted, StatusUnavailable) as error:
        live = await _repeated(services, context, key)
        if live is None:
            raise
        if live.state is State.REQUESTED and message.body_type is not BodyType.rr:
            # It has got nothing yet: what the CA is asked for now is for a signer that is good now.
            if not isinstance(error, HeaderRefused):
                raise
            await check_status(services, context, authenticated, now)
        return live
    return None


async def _prepare(
    services: Services,
    context: RequestContext,
    authenticated: Authenticated,
    key: TransactionKey,
    operation: AuthorizedOperation,
    now: datetime,
) -> Transaction:
    """Return what another node needs to go on, the signed message for the CA included (step 5)."""
    endpoint, upstream, message = context.endpoint, context.upstream, context.message
    if operation.variant is not Variant.reprotect and not message.has_own_id:
        raise MalformedMessage("no transactionID, and it has to go up unchanged", rule="R4")
    credential, domain = services.credential(), authenticated.domain
    reprotects = operation.variant is Variant.reprotect
    ids = services.fresh_ids() if upstream.settings.ids == "map" and reprotects else None
    # What is held is made and signed when it leaves: until then there is nothing that a CA would take.
    opening = Exchange(context.digest, b"")
    asked_type = message.body_type
    if upstream.settings.ir_as_cr:
        asked_type = upstream.asked_type(message.body_type, operation.variant)
    if not operation.held:
        upstream_der, upstream_nonce = await message_for_ca(
            endpoint,
            upstream,
            message,
            operation.body_der,
            operation.variant,
            credential,
            now,
            ids=ids,
            asked_type=asked_type,
            device=(operation.vendor, operation.identity),
        )
        opening = Exchange(context.digest, upstream_der, upstream_nonce=upstream_nonce)
    lifetime = services.lifetime
    if operation.held:
        lifetime = max(lifetime, timedelta(seconds=endpoint.settings.approval_seconds))
    return Transaction(
        key=key,
        state=State.HELD if operation.held else State.REQUESTED,
        version=0,
        body_type=message.body_type,
        endpoint=endpoint.name,
        upstream=upstream.name,
        variant=operation.variant.value,
        signer_der=authenticated.requester.der,
        sender_nonce=message.header.sender_nonce or b"",
        subject_der=operation.subject_der,
        cert_req_id=operation.cert_req_id,
        public_key_der=operation.public_key_der,
        possession=operation.possession.value,
        san=operation.san,
        target_der=operation.target_der,
        info_type=operation.info_type,
        implicit_asked=message.header.implicit_confirm,
        opening=opening,
        lease_until=services.clock() + upstream.lease_of(message.body_type),
        created_at=now,
        expires_at=now + lifetime,
        unsent=operation.held,
        request_der=message.der if operation.held else b"",
        profile=context.profile,
        ca_transaction_id=b"" if ids is None else ids.transaction_id,
        credential_digest=credential.certificate.digest,
        quirks_of=domain.origin or (domain.name if domain.name in endpoint.operator_of else ""),
        relay_digest=context.nested_by,
        asked_as="" if asked_type is message.body_type else asked_type.name,
    )


# --- genm -----------------------------------------------------------------------------------------------------


async def _inform(services: Services, context: RequestContext) -> bytes:
    """Answer a genm, here or by the CA; a retransmission is simply answered again, unless its device has to wait.

    Raises:
        CMPError: It is refused.
    """
    now, endpoint, message = services.clock(), context.endpoint, context.message
    context, authenticated, key = await authenticate_request(services, context, now)
    asks = message.body_content != NO_QUESTION or not endpoint.rules.lenient
    question = read_question(signed(authenticated)) if asks else None
    rules = endpoint.rules.relaxed_by(authenticated.domain.quirks)
    check_message_time(message.header, rules, now)
    await check_status(services, context, authenticated, now)
    live = await services.store.load(key)
    if live is not None:
        if live.exchange_for(context.digest) is None:
            raise TransactionInUse("another request lives under this transactionID", rule="R12")
        return await retransmission.respond(services, context, live)
    context.report.outcome = Outcome.informed
    if question is None:
        told = told_unasked(endpoint.information)
        return await responses.stateless(services, context, gen_msg_body(BodyType.genp, told))
    answer = await answered_here(question, endpoint.information)
    if answer is not None:
        return await responses.stateless(services, context, gen_msg_body(BodyType.genp, [answer]))
    routes = fitting_routes(context, authenticated)
    route = next((item for item in routes if item.takes_subject("")), None)
    upstream = upstream_of(context, authenticated, route, "")
    context, info_type = context.routed(upstream), question.question.info_type
    if not upstream.settings.genm:
        raise HeaderRefused(
            f"genm asks for {info_type}, and {upstream.name} answers none", rule="R138"
        )
    variant = upstream.variant_for(
        BodyType.genm, signed_by_device=context.shared is None and not context.relayed
    )
    operation = AuthorizedOperation(variant, message.body_der, info_type=info_type)
    transaction = await _prepare(services, context, authenticated, key, operation, now)
    return await ca_exchange.ask(services, context, transaction, stored=False)


_ANSWERS: Final[Mapping[BodyType, Callable[[Services, RequestContext], Awaitable[bytes]]]] = {
    BodyType.rr: _open,
    BodyType.genm: _inform,
    BodyType.certConf: confirm,
    BodyType.error: take_error,
    BodyType.pollReq: poll,
}
"""What answers a message, by its body type; requests for a certificate, whichever there are, open an operation."""

_FOLLOWERS: Final = frozenset({BodyType.certConf, BodyType.error, BodyType.pollReq})
