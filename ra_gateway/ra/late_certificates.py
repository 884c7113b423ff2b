"""Certificates that a CA has issued and that their transaction cannot hold: not yet, or not any more.

The store may be gone when the CA answers, the RA's key may not sign, another node may have given the transaction up
meanwhile. Until it is stored, one process knows of the certificate, and nobody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.errors import CMPError, MalformedMessage
from ra_gateway.events import CertificateIssued, Component, Outcome
from ra_gateway.ra import machine, transactions, unconfirmed
from ra_gateway.ra.confirmation_records import certificate_key
from ra_gateway.ra.context import RequestContext, event_of
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import OUTSTANDING, Transaction

_FIRST_PAUSE_SECONDS: Final = 1.0

_LONGEST_PAUSE_SECONDS: Final = 60.0


async def store_later(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    attempt: Callable[[], Awaitable[bytes]],
    *,
    issued: bool,
) -> bytes:
    """Store what came of an exchange with a CA as soon as that can be done, as long as its transaction may live.

    A process that is to end tries once more at once.

    Args:
        attempt: Stores it, or raises.
        issued: Whether it is a certificate, which is told where it can never be stored.
    """
    seconds = (transaction.expires_at - services.clock()).total_seconds()
    ends, pause = services.monotonic() + seconds, _FIRST_PAUSE_SECONDS
    stored, last, bug = False, False, None
    try:
        while not stored and not last and services.monotonic() < ends:
            await services.pause(pause)
            last = services.draining.is_set()
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                await attempt()
                stored = True
            except CMPError as error:
                context.report.refusal = error
            except Exception as error:  # tried again all the same: the key may not sign, say
                bug = error
    finally:  # a shutdown included
        if issued and not stored:
            context.report.outcome = Outcome.failed
            context.report.notes.append("the CA issued a certificate that could not be stored")
            elapsed_ms = (services.monotonic() - context.started) * 1000.0
            services.sink(event_of(context, elapsed_ms, bug))
    return b""


async def keep_alone(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    certificate_der: bytes,
    live: Transaction | None,
) -> None:
    """Give a certificate a transaction of its own, unless the one that it was issued for holds it: it is looked after.

    Args:
        transaction: What it was issued for, as this node knew it.
        live: As it is stored now, None where it is gone.

    Raises:
        StoreUnavailable: It cannot be stored.
    """
    if not certificate_der or (live is not None and _holds(live, certificate_der)):
        return
    try:
        # The same at every attempt, so that a second one finds what the first has stored.
        transaction_id = certificate_key(load_certificate(certificate_der))
    except MalformedMessage:
        return  # what is no certificate cannot be revoked
    context.report.outcome = Outcome.failed
    context.report.notes.append("the CA issued a certificate after its transaction was given up")
    upstream, now = context.upstream, services.clock()
    expires_at = now + services.act_lifetime
    alone = machine.alone(transaction, transaction_id, certificate_der, now, expires_at)
    if not unconfirmed.is_looked_after(services, upstream):
        return
    found = await services.store.create(alone)
    if found is not None and not _holds(found, certificate_der):
        # A transaction of the device's own has that transactionID, by whatever chance.
        transaction_id = services.fresh_ids().transaction_id
        alone = machine.alone(transaction, transaction_id, certificate_der, now, expires_at)
        found = await services.store.create(alone)
    if found is None:
        services.sink(transactions.changed(alone))
        services.sink(
            CertificateIssued(
                Component.gateway, transaction_id.hex(), certificate_der, upstream.name
            )
        )
    await unconfirmed.disown(services, upstream, transaction, certificate_der)
    # Another node may be asking the CA, which may give it the same certificate.
    asked = live is not None and live.state in OUTSTANDING
    due_at = live.lease_until if live is not None and asked else now
    await unconfirmed.look_after(services, upstream, alone, due_at)


def _holds(live: Transaction, certificate_der: bytes) -> bool:
    if live.certificate_der in (b"", certificate_der):
        return bool(live.certificate_der)
    try:
        return load_certificate(live.certificate_der).id == load_certificate(certificate_der).id
    except MalformedMessage:
        return False
