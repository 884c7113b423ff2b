"""nested: what other RAs pass on under their signature, one message or a batch (RFC 9483 5.2.2).

A message inside is answered as if it had come plain, and authenticated for itself: who signs around it shows that
an RA let it pass, and is no substitute for the protection inside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from ra_gateway.cmp.bodies import nested_body
from ra_gateway.cmp.header_checks import check_header, check_message_time, check_version
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.responder import Batch, Single, Unreadable, read_nested
from ra_gateway.cmp.trust import SearchBudget
from ra_gateway.cmp.verification import AuthenticatedMessage, authenticate, authenticate_registered
from ra_gateway.errors import CMPError, HeaderRefused, NotAuthorized, SignerNotTrusted
from ra_gateway.events import Outcome
from ra_gateway.ra import responses
from ra_gateway.ra.context import Report, RequestContext, unreadable_event
from ra_gateway.ra.registration import RegistrationAuthorities
from ra_gateway.ra.services import Services
from ra_gateway.tasks import all_of

LABEL: Final = "nested"
"""Operation label of batches (RFC 9483 6.1); a single message has the label of what is inside."""


async def unwrap(services: Services, context: RequestContext) -> Single | Batch:
    """Return what is inside a nested message.

    Raises:
        CMPError: It is refused, whatever is inside.
    """
    message, endpoint, report = context.message, context.endpoint, context.report
    check_version(message.header)
    relays = endpoint.registration_authorities
    if context.wrapped:
        raise HeaderRefused("nested inside nested", rule="R128")
    if relays is None or not relays.nested:
        raise HeaderRefused("nested is not taken at this endpoint", rule="R9")
    now = services.clock()
    report.authenticated = authenticated = _authenticate(context, relays, now)
    rules = endpoint.rules.relaxed_by(authenticated.domain.quirks)
    check_message_time(message.header, rules, now)
    report.notes += await services.signer_status.check(
        authenticated, now, listed=authenticated.signer in relays.certificates
    )
    inside = read_nested(authenticated, batch_max=relays.batch_max)
    if isinstance(inside, Batch):
        # Its IDs are the RA's own, and what devices are forgiven is none of its business.
        check_header(message.header, endpoint.rules, first=True)
    if context.operation and (context.operation == LABEL) is isinstance(inside, Single):
        what = "a single message" if isinstance(inside, Single) else "a batch"
        raise HeaderRefused(f"{what} sent to .../{context.operation}", rule="R149")
    return inside


def _authenticate(
    context: RequestContext, relays: RegistrationAuthorities, now: datetime
) -> AuthenticatedMessage:
    endpoint, message = context.endpoint, context.message
    budget = SearchBudget()
    try:
        return authenticate_registered(
            message,
            relays.certificates,
            relays.domain,
            endpoint.rules,
            now,
            by_name=relays.registers,
            budget=budget,
        )
    except SignerNotTrusted as error:
        try:
            device = authenticate(message, endpoint.vendors, endpoint.rules, now, budget=budget)
        except CMPError:
            raise error from None
    raise NotAuthorized(f"{device.signer.subject} is a device, and no RA", rule="R123")


def inner(outer: RequestContext, message: PKIMessage) -> RequestContext:
    """Return the context of a message that was inside."""
    authenticated = outer.report.authenticated
    assert isinstance(authenticated, AuthenticatedMessage)  # `unwrap` came first
    return RequestContext(
        outer.endpoint,
        message,
        message.digest,
        outer.endpoint.upstream,
        Report(notes=[f"nested by {authenticated.signer.subject}", *outer.report.notes]),
        operation="" if outer.operation == LABEL else outer.operation,
        profile=outer.profile,
        peer=outer.peer,
        started=outer.started,
        wrapped=True,
        nested_by=authenticated.signer.digest,
    )


async def answer_batch(
    services: Services,
    outer: RequestContext,
    batch: Batch,
    handled: Callable[[RequestContext], Awaitable[bytes]],
) -> bytes:
    """Answer the messages of a batch, all at the same time, and return the batch of answers in their order.

    Args:
        handled: Answers one message, whatever it is.
    """

    async def answer(member: PKIMessage | Unreadable) -> bytes:
        if isinstance(member, Unreadable):
            duration_ms = (services.monotonic() - outer.started) * 1000.0
            services.sink(unreadable_event(member, outer.endpoint.name, outer.peer, duration_ms))
            return (await responses.unreadable(services, member)).der
        return await handled(inner(outer, member))

    answers = await all_of(answer(member) for member in batch.members)
    outer.report.outcome = Outcome.batched
    outer.report.notes.append(f"{len(answers)} messages")
    return await responses.stateless(services, outer, nested_body(*answers))
