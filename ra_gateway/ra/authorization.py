"""Step 4: what an authenticated device may ask a CA for, where that goes, and whether an operator has to approve it.

Which names it may have is decided by `policy`; here its rules, its routes and the inventory come together.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, Possession
from ra_gateway.cmp.crmf import CertId, cert_id_der
from ra_gateway.cmp.identity import DeviceValues
from ra_gateway.cmp.mac import SharedSecret
from ra_gateway.cmp.malformed import refusal_of
from ra_gateway.cmp.names import (
    NULL_DN,
    canonical,
    directory_name,
    readable,
    readable_text,
    rfc4514,
)
from ra_gateway.cmp.requests import (
    AuthenticatedRequest,
    AuthenticatedRevocation,
    read_request,
    read_revocation,
    used_in_request,
)
from ra_gateway.cmp.signers import certificate_bag
from ra_gateway.cmp.trust import DomainKind, SearchBudget
from ra_gateway.cmp.verification import Authenticated, AuthenticatedMessage
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    POPRefused,
    TemplateRefused,
)
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Endpoint, Route, Upstream
from ra_gateway.ra.policy import (
    AuthorizedRequest,
    IdentityRules,
    authorize,
    subject_asked,
    vendor_identity,
    vouched_for,
)
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.registration import RARights
from ra_gateway.ra.revocation_policy import authorize_revocation
from ra_gateway.ra.services import Services
from ra_gateway.ra.settings import POP, Approval, CertConf, InventoryUse, Variant
from ra_gateway.values import Value


class AuthorizedOperation(Value, frozen=True):
    """What a CA is to be asked, decided and not yet stored; where it goes is in the context beside it.

    Args:
        variant: How it goes up.
        body_der: The body as it is to go up, where it is re-protected.
        subject_der: Subject that is asked for, or whose certificate is to be revoked (encoded Name).
        san: subjectAltName entries the certificate must have; None for no demand.
        target_der: The certificate an rr is about (CertId).
        info_type: What a genm asks for (dotted OID).
        held: Whether an operator has to approve it first.
        vendor, identity: Whose the device is, and what its vendor calls it; "" where that is not known.
    """

    variant: Variant
    body_der: bytes
    subject_der: bytes = b""
    cert_req_id: int = 0
    public_key_der: bytes = b""
    possession: Possession = Possession.proved
    san: tuple[str, ...] | None = None
    target_der: bytes = b""
    info_type: str = ""
    held: bool = False
    vendor: str = ""
    identity: str = ""


async def authorize_operation(
    services: Services, context: RequestContext, authenticated: Authenticated, now: datetime
) -> tuple[RequestContext, AuthorizedOperation]:
    """Decide on an ir, cr, kur, p10cr or rr.

    Returns:
        The context, routed to an upstream, and what that is to be asked.

    Raises:
        CMPError: The device may not have it.
    """
    try:
        if context.message.body_type is BodyType.rr:
            return await _revocation(services, context, signed(authenticated), now)
        return await _certification(services, context, authenticated)
    except MalformedMessage as error:
        raise refusal_of(context.message, error) from error


async def _certification(
    services: Services, context: RequestContext, authenticated: Authenticated
) -> tuple[RequestContext, AuthorizedOperation]:
    _check_vendor_may(context, authenticated)
    endpoint, message = context.endpoint, context.message
    rights = _rights(context, authenticated)
    request = read_request(
        authenticated,
        endpoint.rules,
        ra_verified_allowed=rights is not None and rights.ra_verified,
        accepted=endpoint.accepted,
    )
    report = context.report
    report.quirks = tuple(sorted({*report.quirks, *used_in_request(request, endpoint.rules)}))
    rules = endpoint.identities.get(request.domain.name) if rights is None else rights.identity
    routes = fitting_routes(context, authenticated)
    subject = ""
    if routes or endpoint.settings.only_routes:
        subject = await _subject_to_route_by(services, request, rules, routes)
    # One route decides all: where it goes, by which rules, and whether somebody has to approve it.
    route = next((item for item in routes if item.takes_subject(subject)), None)
    upstream = upstream_of(context, authenticated, route, subject)
    if upstream is not context.upstream:
        context = context.routed(upstream)
    approval = endpoint.settings.approval
    if route is not None:
        approval = approval if route.approval is None else route.approval
        if request.domain.kind is DomainKind.vendor and route.identity is not None:
            rules = route.identity
    entry = await _entry(services, request, rules)
    if approval is Approval.unlisted and rules is not None:
        # Whether the device may have it is then for a person to say, not for the list.
        rules = replace(rules, inventory=InventoryUse.optional)
    authorized = authorize(request, rules, entry, may_complete=True)
    possession = request.possession
    signed_by_device = context.shared is None and not context.relayed
    variant = upstream.variant_for(message.body_type, possession, signed_by_device=signed_by_device)
    _check_deliverable(upstream, possession, signed_by_device=signed_by_device)
    if variant is not Variant.reprotect:
        authorized = authorize(request, rules, entry, may_complete=False)
    elif upstream.settings.kur_names_issuer:
        authorized = authorize(request, rules, entry, may_complete=True, names_issuer=True)
    _check_name_is_free(context, authenticated, authorized)
    if possession is Possession.proved and (
        upstream.settings.pop is POP.ra_verified and variant is Variant.reprotect
    ):
        authorized = vouched_for(authorized)
    held = approval is Approval.required
    if approval is Approval.unlisted and request.domain.kind is not DomainKind.operator:
        held = not await _is_listed(services, request, entry, authorized.subject_der)
    is_pkcs10 = message.body_type is BodyType.p10cr
    told = upstream.settings.device_info
    vendor, identity = _device(request, rules) if told else ("", "")
    return context, AuthorizedOperation(
        variant,
        authorized.body_der,
        authorized.subject_der,
        endpoint.settings.p10cr_cert_req_id if is_pkcs10 else request.request.cert_req_id,
        request.requested_key_der or b"",
        possession,
        authorized.san,
        held=held,
        vendor=vendor,
        identity=identity,
    )


def _device(request: AuthenticatedRequest, rules: IdentityRules | None) -> tuple[str, str]:
    """Return whose a device is and what its vendor calls it, for the CA's records."""
    if request.domain.kind is not DomainKind.vendor or rules is None:
        return "", ""
    try:
        identity = vendor_identity(request.domain, rules, request.signer)
    except NotAuthorized:  # nothing was looked up by it
        identity = DeviceValues(request.signer).get("cn") or request.signer.subject
    return request.domain.name, identity


async def _revocation(
    services: Services, context: RequestContext, authenticated: AuthenticatedMessage, now: datetime
) -> tuple[RequestContext, AuthorizedOperation]:
    request = read_revocation(authenticated, context.endpoint.rules)
    rights = _rights(context, authenticated)
    rules = named = None
    if rights is not None and rights.revoke_on_behalf:
        _check_no_authority_named(context, request)
        rules = rights.identity
        named = await services.signer_status.certificate(
            request.issuer_der, request.serial_number, now
        )
        named = named or _shown_certificate(request, context.endpoint, now)
        _check_no_registered_name(context, request, named)
    operator = context.endpoint.operator
    known = () if operator is None else (*operator.anchors, *operator.intermediates)
    issuers = {item.subject_der for item in (*known, *authenticated.path[1:])}
    authorized = authorize_revocation(request, on_behalf=rules, named=named, issuers=issuers)
    subject = rfc4514(authorized.subject_der)
    routes = fitting_routes(context, authenticated)
    route = next((item for item in routes if item.takes_subject(subject)), None)
    upstream = upstream_of(context, authenticated, route, subject)
    variant = upstream.variant_for(
        BodyType.rr, signed_by_device=context.shared is None and not context.relayed
    )
    target = CertId(directory_name(request.issuer_der), request.serial_number)
    return context.routed(upstream), AuthorizedOperation(
        variant,
        authorized.body_der,
        authorized.subject_der,
        target_der=cert_id_der(target),
    )


def _shown_certificate(
    request: AuthenticatedRevocation, endpoint: Endpoint, now: datetime
) -> Certificate | None:
    """Return the certificate that an rr names, if it came along in extraCerts and the operator vouches for it."""
    if endpoint.operator is None:
        return None
    bag = certificate_bag(request.authenticated.message, endpoint.rules)
    # One for the message: whoever sent it may have sent many certificates of one serial number.
    budget = SearchBudget()
    for item in bag:
        if request.names(item):
            try:
                endpoint.operator.find_path(item, bag, now, budget=budget)
            except CMPError:
                continue
            return item
    return None


def signed(authenticated: Authenticated) -> AuthenticatedMessage:
    """Return what only a signature can protect."""
    if not isinstance(authenticated, AuthenticatedMessage):
        raise AssertionError("a shared secret protects certificate requests only")
    return authenticated


# --- routes ---------------------------------------------------------------------------------------------------


def fitting_routes(context: RequestContext, authenticated: Authenticated) -> list[Route]:
    """Return the routes that fit a request, as far as can be told without its subject."""
    profiles = context.message.header.cert_profiles
    return [
        route
        for route in context.endpoint.routes
        if route.takes(
            profile=context.profile,
            cert_profile=profiles[0] if profiles else "",
            domain=authenticated.domain.name,
            body_type=context.message.body_type,
        )
    ]


def upstream_of(
    context: RequestContext, authenticated: Authenticated, route: Route | None, subject: str
) -> Upstream:
    """Return where a request goes that a route takes, or none.

    Raises:
        HeaderRefused: No route fits, and the endpoint has no other way (badRequest).
    """
    if route is not None:
        return route.upstream
    if context.endpoint.settings.only_routes:
        profiles = ", ".join((context.profile, *context.message.header.cert_profiles)).strip(", ")
        raise HeaderRefused(
            f"no route takes {context.message.body_type.name} of {authenticated.domain.name}"
            f"{f' for profile {profiles}' if profiles else ''}{f' and {subject}' if subject else ''}",
            rule="R64",
        )
    return context.endpoint.upstream


async def _subject_to_route_by(
    services: Services,
    request: AuthenticatedRequest,
    rules: IdentityRules | None,
    routes: list[Route],
) -> str:
    """Return the subject that routes are chosen by, which no route has a say in."""
    entry = None
    if any(route.subjects for route in routes):
        try:
            entry = await _entry(services, request, rules)
        except NotAuthorized:
            # The rules of a route may do without the list; if not, they will find the same.
            entry = None
    return rfc4514(subject_asked(request, rules, entry))


# --- the inventory --------------------------------------------------------------------------------------------


async def _entry(
    services: Services, request: AuthenticatedRequest, rules: IdentityRules | None
) -> InventoryEntry | None:
    """Return what the inventory has of a vendor's device, None where nobody is to look."""
    is_vendor = request.domain.kind is DomainKind.vendor
    if not is_vendor or rules is None or rules.inventory is InventoryUse.none:
        return None
    identity = vendor_identity(request.domain, rules, request.signer)
    if services.inventory is None:
        raise NotAuthorized("no inventory is configured", rule="R145")
    return await services.inventory.find(request.domain.name, identity)


async def _is_listed(
    services: Services,
    request: AuthenticatedRequest,
    entry: InventoryEntry | None,
    subject_der: bytes,
) -> bool:
    """Tell whether the inventory has a device, which for others than vendors' goes by the subject asked for.

    Raises:
        NotAuthorized: It has, and disables it.
    """
    if request.domain.kind is DomainKind.vendor:
        return entry is not None
    if services.inventory is None or subject_der == NULL_DN:
        return False
    found = await services.inventory.find(request.domain.name, rfc4514(subject_der))
    if found is not None and not found.enabled:
        raise NotAuthorized(
            f"{readable(subject_der)} is disabled in the inventory for {request.domain.name}",
            rule="R145",
        )
    return found is not None


# --- who may ask ----------------------------------------------------------------------------------------------


def _check_deliverable(
    upstream: Upstream, possession: Possession, *, signed_by_device: bool
) -> None:
    """Refuse what could not be answered at the end of the way (RFC 9483 4.1.6, RFC 4211 4.2).

    Raises:
        TemplateRefused: A key made by the CA, for a requester who has no key to send it under.
        POPRefused: A certificate that is proof of possession, where the CA does not read certConf.
    """
    if possession is Possession.key_generation and not signed_by_device:
        # The CA cannot encrypt for a secret that only the RA knows, and an RA has no business with the key.
        raise TemplateRefused("a key is to be generated, and no device signed for it", rule="R60")
    if possession is Possession.encr_cert and upstream.settings.certconf is not CertConf.forward:
        raise POPRefused(
            f"proof by decryption, and {upstream.name} is not sent certConf", rule="R72"
        )


def _check_vendor_may(context: RequestContext, authenticated: Authenticated) -> None:
    """Refuse what a vendor certificate is not good for: by default, all but the first certificate (RFC 9483 4.1.2).

    Raises:
        NotAuthorized: It is a cr or p10cr, and the operator has not allowed it.
    """
    domain, body_type = authenticated.domain, context.message.body_type
    if domain.kind is DomainKind.vendor and body_type not in context.endpoint.vendor_types.get(
        domain.name, (body_type,)
    ):
        raise NotAuthorized(
            f"{body_type.name} under a certificate of the vendor {domain.name}, whose devices may not send it "
            f"(vendors.{domain.name}.body_types)",
            rule="R71",
        )


def _rights(context: RequestContext, authenticated: Authenticated) -> RARights | None:
    """Return what an RA may ask for; None where a device, or a shared secret, asks for itself."""
    relays = context.endpoint.registration_authorities
    if relays is None or relays.domain is not authenticated.domain:
        return None
    return relays.rights_of(signed(authenticated).path)


def _check_name_is_free(
    context: RequestContext, authenticated: Authenticated, authorized: AuthorizedRequest
) -> None:
    """Refuse names by which an RA is known to everybody but itself, and whom the operator gave a secret for them.

    Raises:
        NotAuthorized: They would make whoever gets them that RA.
    """
    requester = authenticated.requester
    for name in context.endpoint.reserved:
        if not name.is_part_of(authorized.subject_der, authorized.san or ()):
            continue
        if isinstance(requester, SharedSecret):
            own = name.subject is not None and canonical(requester.subject_der) == name.subject
        else:
            own = context.relayed and name.fits(requester)
        if not own:
            raise NotAuthorized(
                f"{readable(authorized.subject_der)} with "
                f"{readable_text(', '.join(authorized.san or ())) or 'no other names'} has a "
                "name by which an RA is registered here",
                rule="R67",
            )


def _check_no_registered_name(
    context: RequestContext, request: AuthenticatedRevocation, named: Certificate | None
) -> None:
    """Refuse likewise what has the names of another RA, unless it is the one that asks."""
    signer = request.authenticated.signer
    if named is None:
        if context.endpoint.reserved:
            raise NotAuthorized(
                f"{signer.subject} asks for the revocation of a certificate that nobody here knows, which may be an "
                "RA's; it has to come along in extraCerts",
                rule="R130",
            )
        return
    if any(name.fits(named) and not name.fits(signer) for name in context.endpoint.reserved):
        raise NotAuthorized(
            f"{signer.subject} asks for the revocation of {named.subject}, an RA's certificate",
            rule="R130",
        )


def _check_no_authority_named(context: RequestContext, request: AuthenticatedRevocation) -> None:
    """Refuse to have an RA revoke another one, or this one: whoever it may speak for, those are no devices.

    Raises:
        NotAuthorized: It asks for that.
    """
    endpoint = context.endpoint
    relays = endpoint.registration_authorities
    authorities = {item for upstream in endpoint.upstreams.values() for item in upstream.own()}
    authorities |= frozenset() if relays is None else relays.certificates
    signer = request.authenticated.signer
    for item in authorities - {signer}:
        if request.names(item):
            raise NotAuthorized(
                f"{signer.subject} asks for the revocation of {item.subject}, an RA's certificate",
                rule="R130",
            )
