"""Certificates that nobody confirmed: what has to be stored for them to be reported, or revoked at the CA.

A device that rejects its certificate, or never confirms it, leaves a valid certificate at a CA that does not hear
of certConf. A request for one is scheduled before the CA is asked, as its answer may be lost (`finds_again`), and the
transaction again when the certificate is issued (`schedule`). `agenda` works through the schedule.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from ra_gateway.cmp.codes import CERT_RESPONSE_TO
from ra_gateway.cmp.names import rfc4514
from ra_gateway.errors import (
    ConfirmationRefused,
    HeaderRefused,
    PKIFailureInfo,
)
from ra_gateway.events import AnswerLost
from ra_gateway.ra.confirmation_records import ConfirmationStatus
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.services import Services
from ra_gateway.ra.settings import CertConf, Unconfirmed
from ra_gateway.ra.transaction import Event, State, Transaction

# --- what the pipeline says of certificates -------------------------------------------------------------------


def knows_alone(upstream: Upstream, transaction: Transaction) -> bool:
    """Tell whether the CA does not hear of the device's certConf."""
    return upstream.settings.certconf is CertConf.local or transaction.confirm_locally


async def schedule(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    event: Event,
    certificate_der: bytes,
    until: datetime | None,
) -> datetime | None:
    """Have it looked at what becomes of a certificate, before the state says that it was issued, or rejected.

    Args:
        event: What is about to happen to the transaction.
        certificate_der: What the CA has issued; empty where that is encrypted, or nothing.
        until: Until then the device may confirm, None where it need not.

    Returns:
        How long the transaction is to live for it, None for no longer than it does.

    Raises:
        HeaderRefused: The device is about to get what is being withdrawn.
    """
    upstream, now = context.upstream, services.clock()
    if event is Event.granted and certificate_der:
        status = ConfirmationStatus.confirmed
        if await _note(services, upstream, transaction, certificate_der, status, now):
            # Without certConf the device would never learn of it.
            raise HeaderRefused("the CA gave a certificate that is being withdrawn", rule="R111")
    if event is Event.issued and until is not None:
        if certificate_der:
            withdrawn = await _note(
                services, upstream, transaction, certificate_der, ConfirmationStatus.awaited, until
            )
            if withdrawn and transaction.state is State.ISSUED:
                raise HeaderRefused(
                    "the certificate was not fetched in time, and is being withdrawn", rule="R111"
                )
        return await look_after(services, upstream, transaction, until)
    if event is Event.rejected and knows_alone(upstream, transaction):
        lives_until = await look_after(services, upstream, transaction, now)
        if lives_until is None:
            context.report.notes.append(
                "the CA was not told that the device rejects its certificate"
            )
        return lives_until
    if event is Event.rejected and services.schedule is not None:
        await services.schedule.remove(transaction.key)  # the CA was told, and looks after it
    return None


def is_looked_after(services: Services, upstream: Upstream) -> bool:
    """Tell whether the RA sees to certificates that nobody confirms."""
    leaves = upstream.settings.unconfirmed is Unconfirmed.leave
    return services.schedule is not None and not leaves


def finds_again(services: Services, upstream: Upstream, transaction: Transaction) -> bool:
    """Tell whether the RA sees to what a CA issues for a transaction, though its answer be lost and nobody ask again.

    A CA that revokes by itself what is not confirmed needs none of it: it has `unconfirmed` at "leave".
    """
    return transaction.body_type in CERT_RESPONSE_TO and is_looked_after(services, upstream)


def tell_lost(services: Services, transaction: Transaction, why: str) -> None:
    """Tell that it cannot be known whether a CA has issued a certificate for a transaction: an operator has to look."""
    key = transaction.public_key_der
    services.sink(
        AnswerLost(
            upstream=transaction.upstream,
            endpoint=transaction.endpoint,
            domain=transaction.key.domain,
            transaction_id=transaction.key.transaction_id.hex(),
            ca_transaction_id=(
                transaction.ca_transaction_id or transaction.key.transaction_id
            ).hex(),
            subject=rfc4514(transaction.subject_der) or "",
            key_sha256=hashlib.sha256(key).hexdigest() if key else "",
            asked_at=transaction.created_at,
            detail=why,
        )
    )


async def disown(
    services: Services, upstream: Upstream, transaction: Transaction, certificate_der: bytes
) -> None:
    """Note that a transaction does not hold a certificate that was issued for it: its device will not confirm it."""
    status = ConfirmationStatus.unconfirmed
    await _note(services, upstream, transaction, certificate_der, status, services.clock())


async def look_after(
    services: Services, upstream: Upstream, transaction: Transaction, due_at: datetime
) -> datetime | None:
    """Have a certificate looked after from a time on, if that is configured.

    Returns:
        How long the transaction is to live for it, None where nobody looks.
    """
    if services.schedule is None or not is_looked_after(services, upstream):
        return None
    await services.schedule.add(transaction.key, due_at)
    return max(transaction.expires_at, due_at + services.act_lifetime)


async def note_accepted(services: Services, upstream: Upstream, transaction: Transaction) -> None:
    """Note that a device takes its certificate: from then on nobody else's silence gets it revoked.

    Raises:
        ConfirmationRefused: It is being revoked already.
    """
    der, until = transaction.certificate_der, transaction.confirm_until or transaction.expires_at
    if der and await _note(
        services, upstream, transaction, der, ConfirmationStatus.confirmed, until
    ):
        raise ConfirmationRefused(
            "certConf for a certificate that another transaction brought, and that is withdrawn",
            fail_info=PKIFailureInfo.badRequest,
            rule="R111",
        )


async def _note(
    services: Services,
    upstream: Upstream,
    transaction: Transaction,
    certificate_der: bytes,
    status: ConfirmationStatus,
    until: datetime,
) -> bool:
    """Note what a transaction says of a certificate, where certificates are revoked that nobody confirms.

    Returns:
        Whether it is being withdrawn.
    """
    if upstream.settings.unconfirmed is not Unconfirmed.revoke:
        return False
    record = await services.note_confirmation(transaction, certificate_der, status, until)
    return record.status is ConfirmationStatus.withdrawn
