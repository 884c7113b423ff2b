"""Step 9: every message to a device is made here, and nowhere else.

A response is a function of what is planned and of the header that asks: the same for an answer that comes at once,
for one that was polled for, and for a refusal.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ra_gateway.cmp.bodies import PKICONF_BODY
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.header_checks import NONCE_OCTETS
from ra_gateway.cmp.messages import (
    IMPLICIT_CONFIRM,
    InfoTypeAndValue,
    PKIHeader,
    assemble,
    confirm_wait_time,
    time_told,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.polling import PollRep, poll_rep_body, waiting_body
from ra_gateway.cmp.protection import Protecting, protect
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.responder import (
    Reply,
    Unreadable,
    protect_reply,
    refusal_body,
    reply_header,
    unreadable_reply,
)
from ra_gateway.errors import CMPError, ServiceFailure
from ra_gateway.events import Outcome
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import PlannedResponse, Transaction
from ra_gateway.values import replace

_LONGEST_CONFIRM_WAIT: Final = timedelta(days=7)
"""A base station confirms within a minute; an operator may have to be asked first."""


class Response(NamedTuple):
    """A message to a device, and its senderNonce, which the device's next message returns."""

    der: bytes
    sender_nonce: bytes


def _credential_for(
    services: Services, context: RequestContext, transaction: Transaction
) -> Protecting:
    """Return what protects the answer to a message: one credential from a transaction's first to its last (R80)."""
    return services.credential_of(transaction) if context.shared is None else context.shared


class Rendered(NamedTuple):
    """A message to a device, and until when the device is awaited to confirm its certificate, if it is."""

    der: bytes
    confirm_until: datetime | None


async def render(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    planned: PlannedResponse,
    *,
    issues: bool = False,
) -> Rendered:
    """Return what is planned as the answer to a message of a transaction: the request itself, or a pollReq.

    Args:
        issues: Whether it brings a certificate that the device is to confirm.
    """
    header = _reply(services, context.message.header, planned.sender_nonce)
    until = None
    if planned.implicit_confirm:
        header = replace(header, general_info=(IMPLICIT_CONFIRM,))
    elif issues:
        until, item = _confirm_until(context.endpoint, planned, services.clock())
        header = replace(header, general_info=(item,))
    credential = _credential_for(services, context, transaction)
    if planned.body_der == PKICONF_BODY and not _confirms_with_certificates(context):
        return Rendered(await protect(header, planned.body_der, credential, ()), until)
    # The chain of an ip ends with the operator's root, which a base station may know from here only
    # (TS 33.310 9.5.4.3).
    der = await protect_reply(header, planned.body_der, credential, planned.chain)
    return Rendered(der, until)


def _confirms_with_certificates(context: RequestContext) -> bool:
    """Tell whether a pkiConf carries the certificates of its signer: to base stations it does not (TS 33.310 9.5.4.5).

    Another RA may never have seen the answer before: it has more than one node.
    """
    configured = context.endpoint.settings.pkiconf_certificates
    if context.wrapped or context.relayed:
        return True
    if configured is None:
        return context.endpoint.rules.strictness is not Strictness.three_gpp
    return configured


def _confirm_until(
    endpoint: Endpoint, planned: PlannedResponse, now: datetime
) -> tuple[datetime, InfoTypeAndValue]:
    """Return until when the device is awaited to confirm its certificate, and how it is told.

    As the CA says, within reason: its clock may be wrong, and what is not confirmed by then is revoked.
    """
    told = time_told(planned.confirm_wait_der) if planned.confirm_wait_der else None
    if told is None or told <= now:
        until = now + timedelta(seconds=endpoint.settings.confirm_wait_seconds)
    elif told > now + _LONGEST_CONFIRM_WAIT:
        until = now + _LONGEST_CONFIRM_WAIT
    else:
        return told, InfoTypeAndValue(OID.confirmWaitTime, planned.confirm_wait_der)
    return until, confirm_wait_time(until)


def _reply(services: Services, asked: PKIHeader, sender_nonce: bytes = b"") -> PKIHeader:
    nonce = sender_nonce or services.random_octets(NONCE_OCTETS)
    return reply_header(asked, sender_nonce=nonce, now=services.clock())


# --- what the RA says of its own ------------------------------------------------------------------------------


async def waiting(
    services: Services, context: RequestContext, transaction: Transaction, sender_nonce: bytes = b""
) -> Response:
    """Return the answer that tells a device to wait (R116).

    Args:
        sender_nonce: Of the answer; empty for one that the RA draws.
    """
    header = _reply(services, context.message.header, sender_nonce)
    body_der = waiting_body(context.message.body_type, transaction.cert_req_id)
    credential = _credential_for(services, context, transaction)
    return Response(await protect_reply(header, body_der, credential), header.sender_nonce or b"")


async def not_yet(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    cert_req_id: int,
    sender_nonce: bytes,
) -> Response:
    """Return the answer that tells a device to poll again later (R117).

    Args:
        cert_req_id: Of the pollReq.
        sender_nonce: Of the answer; empty for one that the RA draws.
    """
    header = _reply(services, context.message.header, sender_nonce)
    body_der = poll_rep_body(PollRep(cert_req_id, context.endpoint.settings.check_after_seconds))
    credential = _credential_for(services, context, transaction)
    return Response(await protect_reply(header, body_der, credential), header.sender_nonce or b"")


async def stateless(services: Services, context: RequestContext, body_der: bytes) -> bytes:
    """Return an answer that no transaction keeps: a genp of the RA's own, or the answers to a batch."""
    header = _reply(services, context.message.header)
    return await protect_reply(header, body_der, services.credential())


async def unreadable(services: Services, what: Unreadable) -> Reply:
    """Return the answer to octets that are no PKIMessage."""
    return await unreadable_reply(
        what, services.credential(), now=services.clock(), random_octets=services.random_octets
    )


async def refuse(
    services: Services,
    context: RequestContext,
    error: CMPError,
    *,
    body_type: BodyType | None = None,
    cert_req_id: int | None = None,
    transaction: Transaction | None = None,
) -> bytes:
    """Return the answer that says no: the failInfo and a fixed phrase, protected (R114).

    Args:
        body_type: Of the message that is refused; by default the one that is answered.
        cert_req_id: Likewise.
        transaction: What it ends, if anything: its credential signs.
    """
    report = context.report
    report.refusal = error
    report.outcome = Outcome.failed if isinstance(error, ServiceFailure) else Outcome.refused
    header = _reply(services, context.message.header)
    if cert_req_id is None and context.message.body_type is BodyType.p10cr:
        cert_req_id = context.endpoint.settings.p10cr_cert_req_id
    body_der = refusal_body(error, context.message, body_type=body_type, cert_req_id=cert_req_id)
    try:
        if report.shared is not None:
            return await protect_reply(header, body_der, report.shared)
        credential = services.credential()
        if transaction is not None:
            credential = services.credential_of(transaction)
        return await protect_reply(header, body_der, credential)
    except Exception as failure:  # the key cannot sign: an unprotected error is all that is left
        report.notes.append(f"the answer could not be signed: {type(failure).__name__}")
        return assemble(header.to_der(), body_der, None)
