"""What an authenticated device may have: its identity kept, derived, replaced, or refused.

Pure decisions over values; what must be looked up (the inventory's entry) comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import InitVar, dataclass, replace
from typing import Final

from ra_gateway.cmp import crmf
from ra_gateway.cmp.algorithms import canonical_spki
from ra_gateway.cmp.asn1 import tlv
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.identity import SERIAL_NUMBER_OR_FQDN, DeviceValues
from ra_gateway.cmp.mac import SharedSecret
from ra_gateway.cmp.messages import body
from ra_gateway.cmp.names import (
    NULL_DN,
    attribute_oids,
    directory_name,
    fits_general_name,
    general_name_keys,
    general_names,
    general_names_der,
    name_of,
    normalized_general_name,
    oids_in,
    readable,
    readable_text,
    reads_alike,
    rfc4514,
    same_name,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.requests import (
    AuthenticatedRequest,
)
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.x520 import require_certifiable, told_first
from ra_gateway.errors import NotAuthorized, PKIFailureInfo, RequestRefused, TemplateRefused
from ra_gateway.ra.patterns import check_allowed, san_from, subject_from
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.settings import InventoryUse, SubjectRule


@dataclass(frozen=True, slots=True)
class IdentityRules:
    """How one vendor's devices get their operator identity.

    Args:
        subject_template: RFC 4514 string with placeholders such as {cn}, for derive and replace.
        allowed_subjects: Glob patterns, placeholders allowed, over the RFC 4514 string of a subject that the
            device asks for; none match: refused. A wildcard stays within its attribute, but "*" alone
            allows every subject.
        san_template: Texts such as "dns:{cn}.ran.example.net", set whenever the subject is set.
        allowed_sans: Glob patterns over such texts, for subjectAltName entries the device asks for; an
            entry that is a wildcard itself is refused.
        identity_from: Placeholder whose value is looked up in the inventory, or `SERIAL_NUMBER_OR_FQDN`.
        same_key: Whether the key of the vendor certificate itself may be certified (TS 33.310 9.2 lets
            the pre-provisioned key be enrolled).
        enabled: Whether the vendor's devices are served at all.
        own_names: Whether the signer may have the names of its own certificate: another RA that is known by them.
    """

    subject: SubjectRule = SubjectRule.keep
    subject_template: str | None = None
    allowed_subjects: tuple[str, ...] = ()
    san_template: tuple[str, ...] = ()
    allowed_sans: tuple[str, ...] = ()
    inventory: InventoryUse = InventoryUse.none
    identity_from: str = SERIAL_NUMBER_OR_FQDN
    same_key: bool = True
    enabled: bool = True
    own_names: bool = False


_SEAL: Final = Seal(__name__)


@proof(_SEAL)
class AuthorizedRequest:
    """A request that may go to the CA, as it is to go there.

    Args:
        body_der: The body as received, or ours with raVerified where the identity was set.
        subject_der: Subject the certificate must have.
        san: subjectAltName entries the certificate must have; None where none were asked for.
        completed: Whether the template was changed, which the device's POP did not survive.
    """

    request: AuthenticatedRequest
    body_der: bytes
    subject_der: bytes
    san: tuple[str, ...] | None
    completed: bool
    seal: InitVar[Seal]


def subject_asked(
    request: AuthenticatedRequest, rules: IdentityRules | None, entry: InventoryEntry | None
) -> bytes:
    """Return the subject by which a request is routed: the one asked for, where its signer has a choice.

    Where it has none, or names nobody, it is the one that follows from who signed.

    Args:
        rules: Of the vendor's domain, never of a route.
        entry: The inventory's, by these rules.
    """
    requester = request.authenticated.requester
    subject_der = request.request.template.subject_der
    asked = subject_der if subject_der is not None and subject_der != NULL_DN else None
    if isinstance(requester, SharedSecret):
        return (asked or NULL_DN) if requester.subjects else requester.subject_der
    if request.domain.kind is DomainKind.operator:
        return request.signer.subject_der
    if request.domain.kind is not DomainKind.vendor or rules is None:
        return asked or NULL_DN
    listed = "" if entry is None else entry.subject
    if not listed and (asked is not None and rules.subject is not SubjectRule.replace):
        return asked
    text = listed or ("" if rules.subject is SubjectRule.keep else rules.subject_template or "")
    if not text:
        return asked or NULL_DN
    try:
        return subject_from(text, DeviceValues(request.signer), request.signer)
    except NotAuthorized:
        return asked or NULL_DN


def vendor_identity(domain: TrustDomain, rules: IdentityRules, signer: Certificate) -> str:
    """Return what identifies a device in the inventory.

    Raises:
        NotAuthorized: The vendor certificate does not say it, says it more than once, or contradicts itself.
    """
    return DeviceValues(signer).identity(rules.identity_from, domain.name)


def authorize(
    request: AuthenticatedRequest,
    rules: IdentityRules | None,
    entry: InventoryEntry | None,
    *,
    may_complete: bool,
    names_issuer: bool = False,
) -> AuthorizedRequest:
    """Decide which identity an authenticated device may have.

    Args:
        rules: Of the vendor's domain, or of other RAs; None for a request that an operator certificate or a shared
            secret protects.
        entry: The inventory's, None if the device is not in it.
        may_complete: Whether the request may be changed (it goes up re-protected).
        names_issuer: Whether a kur has to name the issuer of the old certificate for the CA.

    Raises:
        NotAuthorized: The device, or the identity it asks for, is not allowed.
        TemplateRefused: The template lacks what only the device can give, or contradicts its old certificate.
        RequestRefused: oldCertID is not the protecting certificate (badCertId).
    """
    requester, template = request.authenticated.requester, request.request.template
    if isinstance(requester, SharedSecret):
        return _authorize_secret(request, requester, may_complete=may_complete)
    if request.domain.kind is DomainKind.operator:
        with told_first(template.subject_der, template.subject_alt_name_der):
            return _authorize_known(request, may_complete=may_complete, names_issuer=names_issuer)
    if request.domain.kind is DomainKind.registration_authority and rules is not None:
        return _authorize_relayed(request, rules)
    if request.message.body_type is BodyType.kur or rules is None:
        raise NotAuthorized("a vendor certificate cannot authorise this request", rule="R71")
    if not rules.enabled:
        raise NotAuthorized(f"vendor {request.domain.name} is disabled", rule="R145")
    if not rules.same_key and _has_key(request, request.signer):
        raise TemplateRefused("the key of the vendor certificate is not certified here", rule="R62")
    _check_inventory(request, rules, entry)
    return _authorize_vendor(request, rules, entry, may_complete=may_complete)


def _has_key(request: AuthenticatedRequest, certificate: Certificate) -> bool:
    """Tell whether a request asks for the key that a certificate has, however either is spelled."""
    key_der = request.requested_key_der
    return key_der is not None and canonical_spki(key_der) == canonical_spki(certificate.spki_der)


def _check_inventory(
    request: AuthenticatedRequest, rules: IdentityRules, entry: InventoryEntry | None
) -> None:
    if rules.inventory is InventoryUse.required and entry is None:
        raise NotAuthorized(
            f"{request.signer.subject} is not in the inventory of {request.domain.name} "
            f"(identity {vendor_identity(request.domain, rules, request.signer)})",
            rule="R145",
        )
    if entry is not None and not entry.enabled:
        raise NotAuthorized(f"{request.signer.subject} is disabled in the inventory", rule="R145")


def _authorize_vendor(
    request: AuthenticatedRequest,
    rules: IdentityRules,
    entry: InventoryEntry | None,
    *,
    may_complete: bool,
) -> AuthorizedRequest:
    template = request.request.template
    san = _requested_san(template)
    asked = template.subject_der if template.subject_der != NULL_DN or san else None
    listed = entry if entry is not None and entry.subject else None
    if listed is None and asked is not None and rules.subject is not SubjectRule.replace:
        check_allowed(rfc4514(asked), rules.allowed_subjects, "subject", request.signer)
        for name in san or ():
            check_allowed(name, rules.allowed_sans, "subjectAltName", request.signer)
        return _kept(request, asked, san, named=oids_in(rules.allowed_subjects))
    if listed is None and rules.subject is SubjectRule.keep:
        raise TemplateRefused("the template has no subject", rule="R51")
    text = (rules.subject_template or "") if listed is None else listed.subject
    if not text:
        raise NotAuthorized(f"no subject is configured for {request.signer.subject}", rule="R141")
    values = DeviceValues(request.signer)
    subject_der = subject_from(text, values, request.signer)
    own_san = (entry.san if entry is not None else ()) or rules.san_template
    san_der = san_from(own_san, values, request.signer)
    set_san = () if san_der is None else general_names(san_der)
    own_names = asked is not None and reads_alike(asked, subject_der)
    if asked is not None and own_names and set(_normalized(san)) == set(_normalized(set_san)):
        # It asks for what it gets: its own POP may stand.
        return _kept(request, asked, san, named=attribute_oids(subject_der))
    return _completed(request, subject_der, san_der, may_complete=may_complete)


def _authorize_known(
    request: AuthenticatedRequest, *, may_complete: bool, names_issuer: bool
) -> AuthorizedRequest:
    """A device with an operator certificate gets the identity it has, no other (R67, R70)."""
    old, template = request.signer, request.request.template
    is_update = request.message.body_type is BodyType.kur
    if is_update:
        _check_old_cert_id(request, old)
    subject = template.subject_der if template.subject_der != NULL_DN else None
    if subject is not None and not same_name(subject, old.subject_der):
        raise _other_identity(is_update, f"subject {readable(subject)}", old)
    san, san_der = _requested_san(template), template.subject_alt_name_der
    old_der = old.subject_alt_name_der
    old_san = None if old_der is None else general_names(old_der)
    if san is not None and general_name_keys(san_der) != general_name_keys(old_der):
        raise _other_identity(is_update, f"subjectAltName {readable_text(', '.join(san))}", old)
    alike = subject is None or reads_alike(subject, old.subject_der)
    alike = alike and (san is None or _normalized(san) == _normalized(old_san))
    if request.message.body_type is BodyType.p10cr:
        if subject is None or not alike or (san is None and old_san):
            raise _unchangeable(f"its names are not those of the certificate of {old.subject}")
        return _kept_old(request, old, san)
    issuer_der = old.issuer_der if is_update and names_issuer else None
    unnamed = issuer_der is not None and template.issuer_der != issuer_der
    own = (old.subject_der, old.subject_alt_name_der)
    respelled = (template.subject_der, template.subject_alt_name_der) != own
    if not alike or ((respelled or unnamed) and may_complete):
        return _completed(
            request,
            old.subject_der,
            old.subject_alt_name_der,
            may_complete=may_complete,
            issuer_der=issuer_der,
            established=True,
        )
    return _kept_old(request, old, san)


def _kept_old(
    request: AuthenticatedRequest, old: Certificate, san: tuple[str, ...] | None
) -> AuthorizedRequest:
    return _kept(request, old.subject_der, san, established=True)


def _normalized(names: Iterable[str] | None) -> list[str]:
    """Return other names so that lists are equal that read the same; what they differ in then has no meaning."""
    return sorted(map(normalized_general_name, names or ()))


def _authorize_relayed(request: AuthenticatedRequest, rules: IdentityRules) -> AuthorizedRequest:
    """Another RA vouches for whose request it is; for whom it may vouch is configured (RFC 9483 5.1.2).

    Only that RA knows the device and its old certificate, so that nothing can be filled in here.
    """
    template, signer = request.request.template, request.signer
    san = _requested_san(template)
    subject = template.subject_der
    if subject is None or (subject == NULL_DN and not san):
        raise TemplateRefused(f"the template that {signer.subject} sent has no subject", rule="R51")
    if rules.own_names and same_name(subject, signer.subject_der):
        own = general_name_keys(signer.subject_alt_name_der)
        if general_name_keys(template.subject_alt_name_der) <= own:
            return _kept(request, subject, san, named=attribute_oids(signer.subject_der))
    check_allowed(rfc4514(subject), rules.allowed_subjects, "subject", signer)
    for name in san or ():
        check_allowed(name, rules.allowed_sans, "subjectAltName", signer)
    return _kept(request, subject, san, named=oids_in(rules.allowed_subjects))


def _authorize_secret(
    request: AuthenticatedRequest, secret: SharedSecret, *, may_complete: bool
) -> AuthorizedRequest:
    """A shared secret is for one subject, or those of a pattern, and for no name that is not listed with it (R67)."""
    template = request.request.template
    subject = template.subject_der if template.subject_der != NULL_DN else None
    san = _requested_san(template)
    if secret.subjects and subject is None:
        raise TemplateRefused(
            f"a template without subject, under the {secret.label}, which is for several",
            rule="R51",
        )
    if secret.subjects:
        others = sorted(name for name in san or () if not _is_among(name, secret.san))
    else:
        own = _normalized(secret.san)
        others = sorted(name for name in san or () if normalized_general_name(name) not in own)
    if others or (subject is not None and not secret.is_for(subject)):
        asked = readable_text(", ".join(others)) or f"subject {readable(subject or NULL_DN)}"
        raise NotAuthorized(f"{asked} is asked for with the {secret.label}", rule="R67")
    if subject is not None and secret.subjects:
        return _kept(request, subject, san, named=oids_in([secret.subjects]))
    if subject is not None and reads_alike(subject, secret.subject_der):
        return _kept(request, subject, san, named=attribute_oids(secret.subject_der))
    own_san = general_names_der(san or secret.san) if san or secret.san else None
    return _completed(request, secret.subject_der, own_san, may_complete=may_complete)


def _is_among(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a subjectAltName entry fits a pattern; a wildcard name never does: it would speak for others."""
    return "*" not in name and any(
        item == "*" or fits_general_name(name, item) for item in patterns
    )


def _other_identity(is_update: bool, asked: str, old: Certificate) -> RequestRefused:
    detail = f"{asked} is asked for with the certificate of {old.subject}"
    return TemplateRefused(detail, rule="R70") if is_update else NotAuthorized(detail, rule="R67")


def _check_old_cert_id(request: AuthenticatedRequest, old: Certificate) -> None:
    named = request.request.old_cert_id()
    if named is None:
        return
    issuer = name_of(named.issuer_der)
    if (
        named.serial_number != old.serial_number
        or issuer is None
        or not same_name(issuer, old.issuer_der)
    ):
        raise RequestRefused(
            "oldCertID is not the certificate that protects the kur",
            fail_info=PKIFailureInfo.badCertId,
            rule="R68",
        )


def _kept(
    request: AuthenticatedRequest,
    subject_der: bytes,
    san: tuple[str, ...] | None,
    *,
    named: Collection[str] = (),
    established: bool = False,
) -> AuthorizedRequest:
    """Let a request go up as it is.

    Args:
        named: Attributes that somebody named for this subject; others than the usual ones have to be among them.
        established: Whether the subject is that of a certificate which there is.
    """
    template = request.request.template
    # What reads the same may be of other string types, and it is the template that goes up.
    asked_der = subject_der if template.subject_der in (None, NULL_DN) else template.subject_der
    require_certifiable(
        asked_der or NULL_DN,
        template.subject_alt_name_der,
        named=named,
        established_der=subject_der if established else None,
    )
    return AuthorizedRequest(request, request.message.body_der, subject_der, san, False, _SEAL)


def _completed(
    request: AuthenticatedRequest,
    subject_der: bytes,
    san_der: bytes | None,
    *,
    may_complete: bool,
    issuer_der: bytes | None = None,
    established: bool = False,
) -> AuthorizedRequest:
    """Set the identity; the device's signature over its own CertRequest is then void (RFC 9483 5.2.3.2)."""
    if request.message.body_type is BodyType.p10cr:
        raise _unchangeable(f"the identity would be {readable(subject_der)}")
    if not may_complete:
        raise NotAuthorized(
            "the identity has to be set by the RA, but this request must go up unchanged",
            rule="R75",
        )
    require_certifiable(
        subject_der,
        san_der,
        named=attribute_oids(subject_der),
        established_der=subject_der if established else None,
    )
    asked = request.request.template
    extensions = tuple(item for item in asked.extensions if item.oid != OID.subjectAltName)
    if san_der is not None:
        # RFC 5280 4.2.1.6: critical exactly when the subject is empty.
        extensions += (crmf.Extension(OID.subjectAltName, subject_der == NULL_DN, san_der),)
    template = replace(
        asked,
        subject_der=subject_der,
        extensions=extensions,
        version=None,
        serial_number=None,
        issuer_der=issuer_der,
    )
    controls = list(request.request.controls)
    if _lacks_old_cert_id(request):
        controls.append(_old_cert_id(request.signer))
    message = crmf.cert_req_msg_der(
        crmf.cert_request_der(template, cert_req_id=request.request.cert_req_id, controls=controls),
        crmf.RA_VERIFIED_POPO_DER,
    )
    changed = body(request.message.body_type, tlv(0x30, message))
    san = None if san_der is None else general_names(san_der)
    return AuthorizedRequest(request, changed, subject_der, san, True, _SEAL)


def vouched_for(authorized: AuthorizedRequest) -> AuthorizedRequest:
    """Return a request with the RA's word in place of the device's proof, for a CA that wants it so.

    A PKCS#10 cannot be had without its proof, and what the RA has changed has its word already.
    """
    request = authorized.request
    if authorized.completed or request.request.is_pkcs10:
        return authorized
    cert_req_der = request.request.cert_req_der
    if _lacks_old_cert_id(request) and request.domain.kind is DomainKind.operator:
        # Without the device's proof, only this says whose renewal it is.
        cert_req_der = crmf.with_control(cert_req_der, _old_cert_id(request.signer))
    message = crmf.cert_req_msg_der(cert_req_der, crmf.RA_VERIFIED_POPO_DER)
    changed = body(request.message.body_type, tlv(0x30, message))
    return AuthorizedRequest(request, changed, authorized.subject_der, authorized.san, True, _SEAL)


def _lacks_old_cert_id(request: AuthenticatedRequest) -> bool:
    return request.message.body_type is BodyType.kur and request.request.old_cert_id() is None


def _old_cert_id(old: Certificate) -> crmf.Control:
    named = crmf.CertId(directory_name(old.issuer_der), old.serial_number)
    return crmf.Control(OID.oldCertID, crmf.cert_id_der(named))


def _unchangeable(why: str) -> TemplateRefused:
    """Return the refusal of a PKCS#10 whose names the RA would have to set.

    A PKCS#10 can only be sent on as the device signed it. To turn it into a cr with raVerified (RFC 9483
    5.2.3.2) would be possible, but the CA would then speak of another request than the device: cp and certConf
    would need another certReqId on either side, and the CA would lose the proof it was sent.
    """
    return TemplateRefused(
        f"the names in a PKCS#10 cannot be set by the RA: {why}",
        rule="R67",
        phrase="The names in a PKCS#10 request cannot be changed here; ask for the right ones, or use cr.",
    )


def _requested_san(template: crmf.CertTemplate) -> tuple[str, ...] | None:
    san_der = template.subject_alt_name_der
    return None if san_der is None else general_names(san_der)
