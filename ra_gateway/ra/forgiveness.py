"""By whose quirks a device is judged under its operator certificate: what it was forgiven holds as long as it renews.

With each certificate that is issued to a device which is forgiven something, the name of the domain by which it came is
remembered; what that one forgives, it forgives as it is configured now. Where subjects are configured to have what a
vendor's devices are forgiven, it is remembered with every certificate: who merely took such a name came otherwise.
Nobody is looked up before a signature from the operator's root down has verified: until then the operator's domain
forgives all that it may forgive anybody, and what was needed is checked again by what holds for this device.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.header_checks import forgives_clocks, is_far_off
from ra_gateway.cmp.names import fits_alike
from ra_gateway.cmp.verification import Authenticated, AuthenticatedMessage, judged_by
from ra_gateway.errors import StoreUnavailable, TimeRefused
from ra_gateway.ra.confirmation_records import certificate_key
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.ports import DeviceRecord
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import Transaction


async def settle(
    services: Services, context: RequestContext, authenticated: AuthenticatedMessage
) -> AuthenticatedMessage:
    """Return a message that opens an operation as of what its signer's domain forgives this very device.

    Raises:
        AlgorithmRefused, HeaderRefused, MalformedMessage: It needs what is not forgiven.
        StoreUnavailable: It cannot be asked.
    """
    endpoint = context.endpoint
    operator, signer = endpoint.operator, authenticated.signer
    if operator is None or authenticated.domain.name != operator.name:
        return authenticated
    context.report.authenticated = authenticated  # the log names it, should what follows refuse
    origin = ""
    if services.device_records is not None:
        key = certificate_key(signer)
        origin = await services.device_records.remembered(DeviceRecord.quirks, key)
    if origin not in endpoint.operator_of:
        origin = _named(endpoint, signer)
    domain = endpoint.operator_of.get(origin)
    if domain is None:
        domain = operator
        context.report.unforgiven = dict.fromkeys(
            authenticated.domain.quirks, _UNKNOWN.format(signer=signer)
        )
    return judged_by(authenticated, domain, endpoint.rules)


_UNKNOWN = (
    "nothing is remembered of what {signer} was forgiven when it enrolled: if its vendor's devices are to be "
    "forgiven this, name their subjects in vendors.<name>.operator_subjects, or the quirk in operator.quirks"
)


def _named(endpoint: Endpoint, signer: Certificate) -> str:
    """Return the domain whose subjects are configured to have a certificate's, "" for none."""
    for name, patterns in endpoint.origin_subjects.items():
        if any(fits_alike(signer.subject, pattern) for pattern in patterns):
            return name
    return ""


async def remember(
    services: Services, context: RequestContext, transaction: Transaction, certificate: Certificate
) -> None:
    """Remember with a certificate by which domain its device came, which forgives it something.

    Where that cannot be stored, the device gets its certificate nevertheless, and the log says what is lost.
    """
    if services.device_records is None:
        return
    try:
        await services.device_records.remember(
            DeviceRecord.quirks,
            certificate_key(certificate),
            transaction.quirks_of,
            certificate.not_after,
        )
    except StoreUnavailable as error:
        context.report.notes.append(
            f"by whose quirks its device came is not remembered: {error.detail}"
        )


# --- clocks that were never set -------------------------------------------------------------------------------

REQUESTS_REMEMBERED: Final = 64
"""Of one certificate, the last that were taken; a device enrols a few times in its life."""

_LONGEST: Final = timedelta(days=3653)
"""How long is remembered what came under a shared secret that never ends."""


async def check_new(
    services: Services, context: RequestContext, authenticated: Authenticated, now: datetime
) -> None:
    """Refuse a request that was taken before, where its messageTime is far off and forgiven, and does not tell.

    Raises:
        TimeRefused: It was.
        StoreUnavailable: It cannot be asked.
    """
    rules = context.endpoint.rules.relaxed_by(authenticated.domain.quirks)
    if not (forgives_clocks(rules) and is_far_off(context.message.header, rules, now)):
        return
    if context.digest.hex() in await _taken(services, context, authenticated):
        raise TimeRefused(
            "messageTime is far off, which this device is forgiven, and the message came before",
            rule="R29",
        )


async def note_taken(
    services: Services, context: RequestContext, authenticated: Authenticated, now: datetime
) -> None:
    """Remember that a request was taken of a device whose clock may be wrong, as long as its credential lives.

    Also where messageTime is right: it will be far off when the message comes again. It is remembered before its
    transaction is: whatever fails in between, no CA is asked for what can be asked for again.

    Raises:
        StoreUnavailable: It cannot be stored, or what is stored cannot be read.
    """
    rules = context.endpoint.rules.relaxed_by(authenticated.domain.quirks)
    if services.device_records is None or not forgives_clocks(rules):
        return
    sender = authenticated.requester
    ends = sender.not_after if isinstance(sender, Certificate) else sender.expires_at
    await services.device_records.remember_entry(
        DeviceRecord.requests,
        _sender_key(context, authenticated),
        context.digest.hex(),
        limit=REQUESTS_REMEMBERED,
        keep_until=min(ends or now + _LONGEST, now + _LONGEST),
    )


async def _taken(
    services: Services, context: RequestContext, authenticated: Authenticated
) -> list[str]:
    if services.device_records is None:
        return []
    key = _sender_key(context, authenticated)
    return (await services.device_records.remembered(DeviceRecord.requests, key)).split()


def _sender_key(context: RequestContext, authenticated: Authenticated) -> bytes:
    """Return what the requests of a sender are remembered by; a shared secret may be that of many devices."""
    sender = authenticated.requester
    if isinstance(sender, Certificate):
        return sender.digest
    return hashlib.sha256(sender.digest + context.digest).digest()
