"""Shared secrets for one certificate: used up before a CA is asked, and given back where nothing came of it."""

from __future__ import annotations

from ra_gateway.cmp import asn1
from ra_gateway.errors import NotAuthorized, ServiceFailure
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.ports import Claim
from ra_gateway.ra.transaction import Transaction


async def claim(context: RequestContext, transaction: Transaction) -> bool:
    """Use up a shared secret that is for one certificate, before the CA is asked for it.

    Returns:
        Whether that was done now: not where it is for more, nor where this transaction did it before.

    Raises:
        NotAuthorized: Another transaction used it up.
        StoreUnavailable: That cannot be told, or not be recorded.
    """
    mac, shared = context.endpoint.mac, context.shared
    if mac is None or shared is None or not shared.secret.single_use:
        return False
    if transaction.confirmation is not None:
        return False
    claim = await mac.secrets.claim(shared.secret.reference, _holder(transaction))
    if claim is Claim.refused:
        raise NotAuthorized(f"the {shared.secret.label} was used before", rule="RFC 9483 4.1.5")
    return claim is Claim.taken


async def claim_unheard(endpoint: Endpoint, transaction: Transaction) -> NotAuthorized | None:
    """Use up a secret as `claim` does, for a device that is not there; returns why the CA must not be asked.

    Raises:
        ServiceFailure: The secret is gone.
        StoreUnavailable: As of `claim`.
    """
    if transaction.signer_der[:1] != b"\x04" or endpoint.mac is None:
        return None
    reference, secrets = asn1.content(asn1.element(transaction.signer_der)), endpoint.mac.secrets
    secret = await secrets.find(reference, "")
    if secret is None:
        raise ServiceFailure("the shared secret of its device is gone")
    if secret.single_use and await secrets.claim(reference, _holder(transaction)) is Claim.refused:
        return NotAuthorized(f"the {secret.label} was used before", rule="RFC 9483 4.1.5")
    return None


async def release(context: RequestContext, transaction: Transaction) -> None:
    """Give a shared secret back: no certificate came of this transaction."""
    mac, shared = context.endpoint.mac, context.shared
    if mac is not None and shared is not None and shared.secret.single_use:
        await mac.secrets.release(shared.secret.reference, _holder(transaction))


def _holder(transaction: Transaction) -> str:
    """Return what tells a transaction from every other, also from one with the same octets later."""
    return f"{transaction.opening.request_digest.hex()}@{transaction.created_at.isoformat()}"
