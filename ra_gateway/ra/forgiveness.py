"""By whose quirks a device is judged under its operator certificate: what it was forgiven holds as long as it renews.

With each certificate that is issued to a device which is forgiven something, the name of the domain by which it came is
remembered; what that one forgives, it forgives as it is configured now. Nobody is looked up before a signature from the
operator's root down has verified: until then the operator's domain forgives all that it may forgive anybody, and what
was needed is checked again by what holds for this device.
"""

from __future__ import annotations

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import fits_alike
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import AuthenticatedMessage, judged_by
from ra_gateway.errors import StoreUnavailable
from ra_gateway.ra.confirmation_records import certificate_key
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.services import Services
from ra_gateway.ra.transaction import Transaction


def origin_of(domain: TrustDomain) -> str:
    """Return the name of the domain by which a device came, "" where nothing is forgiven for that."""
    if domain.kind is DomainKind.operator:
        return domain.quirks_of
    if domain.kind is DomainKind.registration_authority:
        return ""  # an RA's devices are forgiven by the RA
    return domain.name if domain.forgives else ""


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
    if operator is None or not endpoint.operator_of or authenticated.domain.name != operator.name:
        return authenticated
    context.report.authenticated = authenticated
    origin = _named(endpoint, signer)
    if not origin and services.quirk_records is not None:
        origin = await services.quirk_records.quirks_of(certificate_key(signer))
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
    """Remember with a certificate by which domain its device came, if that forgives anything.

    Where that cannot be stored, the device gets its certificate nevertheless, and the log says what is lost.
    """
    if not transaction.quirks_of or services.quirk_records is None:
        return
    try:
        await services.quirk_records.remember_quirks(
            certificate_key(certificate), transaction.quirks_of, certificate.not_after
        )
    except StoreUnavailable as error:
        context.report.notes.append(
            f"by whose quirks its device came is not remembered: {error.detail}"
        )
