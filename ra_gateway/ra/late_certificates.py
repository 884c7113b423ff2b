"""Certificates that a CA has issued and that their transaction cannot hold: not yet, or not any more.

The store may be gone when the CA answers, the RA's key may not sign, another node may have given the transaction up
meanwhile. Until it is stored, one process knows of the certificate, and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.errors import CMPError, MalformedMessage
from ra_gateway.events import CertificateIssued, Component, Outcome
from ra_gateway.ra import machine, unconfirmed
from ra_gateway.ra.confirmation_records import certificate_key
from ra_gateway.ra.context import RequestContext, event_of
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import Transaction

_FIRST_PAUSE_SECONDS: Final = 1.0

_LONGEST_PAUSE_SECONDS: Final = 60.0


async def store_later(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    attempt: Callable[[], Awaitable[bytes]],
) -> bytes:
    """Store what a CA has issued as soon as that can be done, as long as its transaction may live.

    Args:
        attempt: Stores it, or raises.
    """
    seconds = (transaction.expires_at - services.clock()).total_seconds()
    ends, pause = services.monotonic() + seconds, _FIRST_PAUSE_SECONDS
    stored, bug = False, None
    try:
        while not stored and services.monotonic() < ends:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                await attempt()
                stored = True
            except CMPError as error:
                context.report.refusal = error
            except Exception as error:  # tried again all the same: the key may not sign, say
                bug = error
    finally:  # a shutdown included
        if not stored:
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
    if await services.store.create(alone) is None:
        services.sink(
            CertificateIssued(
                Component.gateway, transaction_id.hex(), certificate_der, upstream.name
            )
        )
    await unconfirmed.disown(services, upstream, transaction, certificate_der)
    await unconfirmed.look_after(services, upstream, alone, now)


def _holds(live: Transaction, certificate_der: bytes) -> bool:
    if live.certificate_der in (b"", certificate_der):
        return bool(live.certificate_der)
    try:
        return load_certificate(live.certificate_der).id == load_certificate(certificate_der).id
    except MalformedMessage:
        return False
