"""Who may ask the CA, and for what: registered authorities (RA mode) and end entities (client mode).

Two modes serve at once, on paths of their own:

- *RA mode*: a registered authority signs. Its role says what it may have done, and under which profiles. End
  entities come into being with their first certificate.
- *client mode*: devices speak for themselves. Each is a registered end entity, known by what its vendor certificate
  says; later it speaks with the operator certificate it got.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Final

from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.profiles import Profile
from ra_gateway.ca.records import (
    DEFAULT_PROFILE,
    NO_ENTITY,
    Authority,
    EndEntity,
    EntityStatus,
    IssuedCertificate,
    Privilege,
)
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES, BodyType
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.identity import SERIAL_NUMBER_OR_FQDN
from ra_gateway.cmp.messages import PKIHeader
from ra_gateway.cmp.names import (
    NULL_DN,
    canonical,
    fits,
    fits_general_name,
    from_rfc4514,
    general_name_keys,
    general_names,
    general_names_der,
    normalized_general_name,
    readable_text,
    rfc4514,
    same_name,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.trust import Path, TrustDomain
from ra_gateway.errors import (
    HeaderRefused,
    NotAuthorized,
    PKIFailureInfo,
    RequestRefused,
    ServiceFailure,
    SignerNotTrusted,
    TemplateRefused,
)

AUTHORITIES_SECONDS: Final = 2.0
"""How long the registered authorities are remembered: so soon a new certificate is heard, a removed one is not."""


_PRIVILEGE_FOR: Final = {
    BodyType.ir: Privilege.issue,
    BodyType.cr: Privilege.issue,
    BodyType.p10cr: Privilege.issue,
    BodyType.kur: Privilege.update,
    BodyType.rr: Privilege.revoke,
}


class Mode(Enum):
    """Which of the CA's two interfaces a message came to."""

    ra = "ra"
    client = "client"


async def _nobody_asked(domain: str, path: Path, now: datetime) -> None:
    """Do not ask whether a path is revoked."""


@dataclass(frozen=True, slots=True)
class ClientMode:
    """Settings of client mode.

    Args:
        vendors: Trust domains of manufacturers (external CAs) by name.
        identity_from: What of a vendor certificate names the end entity (`DeviceValues.identity`).
        implicit_confirm: Whether a device may do without certConf (TS 33.310: no).
        require_not_revoked: Given a domain's name, a path and the time, raises `SignerNotTrusted` where the
            domain's CRLs or OCSP responders say that a certificate of it is revoked, or `ServiceFailure` where
            that has to be known and is not.
    """

    vendors: Mapping[str, TrustDomain]
    identity_from: str = SERIAL_NUMBER_OR_FQDN
    implicit_confirm: bool = False
    require_not_revoked: Callable[[str, Path, datetime], Awaitable[object]] = _nobody_asked


class RegisteredAuthorities:
    """The registered authorities' certificates, as of at most `AUTHORITIES_SECONDS` ago.

    Args:
        ledger: Where they are registered.
        clock: Returns aware UTC.
        default_profile: Name of the CA's default profile.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], default_profile: str) -> None:
        self._ledger = ledger
        self._default_profile = default_profile
        self._clock = clock
        self._known: dict[Certificate, Authority] = {}
        self._revoked: frozenset[Certificate] = frozenset()
        self.blocked: Mapping[Certificate, str] = {}
        """Certificates of authorities that are blocked, and their names."""
        self._good_until = float("-inf")
        self._refreshing = asyncio.Lock()

    async def certificates(
        self, besides: Mapping[Certificate, Authority] | None = None
    ) -> Mapping[Certificate, Authority]:
        """Return who may sign what the CA hears in RA mode.

        Args:
            besides: What was returned and is not enough: it is read again, unless another caller just did.

        Raises:
            StoreUnavailable: Whether a signer is registered cannot be known now.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._good_until and self._known is not besides:
            return self._known
        async with self._refreshing:
            if loop.time() >= self._good_until or self._known is besides:
                authorities = await self._ledger.registry.authorities()
                self._known = {
                    load_certificate(der): authority
                    for authority in map(self._with_profiles, authorities)
                    if authority.enabled
                    for der in authority.certificates
                }
                self.blocked = {
                    load_certificate(der): authority.name
                    for authority in authorities
                    if not authority.enabled
                    for der in authority.certificates
                }
                self._revoked = await self._ledger.revoked_among(self._known, self._clock())
                self._good_until = loop.time() + AUTHORITIES_SECONDS
        return self._known

    def _with_profiles(self, authority: Authority) -> Authority:
        """Put the name of the CA's default profile where its role has none."""
        names = dict.fromkeys(
            self._default_profile if name == DEFAULT_PROFILE else name
            for name in authority.role.profiles
        )
        return replace(authority, role=replace(authority.role, profiles=tuple(names)))

    def require_not_revoked(self, certificate: Certificate) -> None:
        """Refuse a registered certificate that was revoked: who revokes it need not remember where it is registered.

        Raises:
            SignerNotTrusted: It is one of ours, and revoked or on hold (certRevoked).
        """
        if certificate in self._revoked:
            raise SignerNotTrusted(
                f"{certificate.subject} (serial {certificate.serial_number:x}) is registered for an RA, and revoked",
                fail_info=PKIFailureInfo.certRevoked,
                rule="R23",
            )


def require_privilege(authority: Authority, body_type: BodyType) -> None:
    """Refuse what an authority's role does not include.

    Raises:
        NotAuthorized: It lacks the privilege.
    """
    privilege = _PRIVILEGE_FOR[body_type]
    if privilege not in authority.role.privileges:
        raise NotAuthorized(
            f"{authority.name} lacks the privilege {privilege} (role {authority.role.name})",
            rule="R58",
        )


def require_profile(authority: Authority, profile: str, renewed_as: str = "") -> None:
    """Refuse to let an authority touch certificates of a profile that its role does not name.

    Args:
        renewed_as: Profile that is in the place of that one now; it will do as well.

    Raises:
        NotAuthorized: It does not.
    """
    if not {profile, renewed_as}.intersection(authority.role.profiles):
        raise NotAuthorized(
            f"{authority.name} may not act for the profile {profile or 'of that certificate'} "
            f"(role {authority.role.name})",
            rule="R58",
        )


def require_names(authority: Authority, subject_der: bytes, san_der: bytes | None) -> None:
    """Refuse names that an authority, or its role, is not bound to.

    Who has no patterns at all is bound to none. A device without a subject is known by its SubjectAltName.

    Raises:
        NotAuthorized: A name fits no pattern.
    """
    for bound in (authority.role, authority):
        if not (bound.subjects or bound.sans):
            continue
        names = () if san_der is None else general_names(san_der)
        for name in names:
            # A wildcard would speak for other devices.
            if "*" in name or not any(_admits(pattern, name) for pattern in bound.sans):
                raise _not_bound_to(authority, f"subjectAltName {readable_text(name)}")
        if canonical(subject_der) or not names:
            subject = rfc4514(subject_der)
            if not any(pattern == "*" or fits(subject, pattern) for pattern in bound.subjects):
                raise _not_bound_to(authority, f"subject {readable_text(subject)!r}")


def require_no_wildcard(authority: Authority, san_der: bytes | None) -> None:
    """Refuse a name that would be those of devices that are registered, or withheld, besides the one it is asked for.

    Raises:
        NotAuthorized: There is one.
    """
    for name in () if san_der is None else general_names(san_der):
        if "*" in name:
            raise _not_bound_to(authority, f"subjectAltName {readable_text(name)}")


def _admits(pattern: str, name: str) -> bool:
    return pattern == "*" or fits_general_name(name, pattern)


def _not_bound_to(authority: Authority, name: str) -> NotAuthorized:
    return NotAuthorized(
        f"{name}: {authority.name} is bound to other names (role {authority.role.name})",
        rule="R58",
    )


def require_own(authority: Authority, issued: IssuedCertificate) -> None:
    """Let an authority renew and revoke what it had issued itself (RFC 9483 5.3.2).

    What others had issued is for a role that says so, under the names it is bound to.

    Raises:
        NotAuthorized: It is another's, or the PKI's own.
    """
    certificate = load_certificate(issued.der)
    if issued.entity == NO_ENTITY or certificate.extended_key_usage & PRIVILEGED_PURPOSES:
        raise NotAuthorized("the certificate is that of an entity of the PKI itself", rule="R58")
    if authority.name in (issued.requester, issued.origin):
        return
    if not authority.role.others:
        raise NotAuthorized(
            f"{authority.name} did not have that certificate issued, and its role {authority.role.name} "
            "is not for others'",
            rule="R58",
        )
    require_names(authority, certificate.subject_der, certificate.subject_alt_name_der)


def require_unprivileged(template: CertTemplate, profile: Profile) -> None:
    """Refuse what would let a key speak for the PKI, rather than leave it out silently.

    Raises:
        NotAuthorized: The profile is for the PKI's own.
        TemplateRefused: Such a purpose is asked for.
    """
    if profile.is_privileged:
        raise NotAuthorized(f"the profile {profile.name} is for the PKI's own", rule="R63")
    extension = template.extension(OID.extKeyUsage)
    if extension is None:
        return
    asked = {oid.dotted_string for oid in asn1.unbox(structures.OIDsBox, extension.value).oids}
    if wrong := asked & PRIVILEGED_PURPOSES:
        raise TemplateRefused(
            f"extendedKeyUsage {', '.join(sorted(wrong))} is requested, which is for the PKI's own",
            rule="R63",
        )


def choose_profile(
    header: PKIHeader, allowed: Sequence[str], profiles: Mapping[str, Profile]
) -> Profile:
    """Return the profile a request asks for in certProfile, the first allowed one if it asks for none (R64).

    Args:
        allowed: Names the requester may ask for.
        profiles: All there are.

    Raises:
        HeaderRefused: More than one is named.
        RequestRefused, NotAuthorized: There is no such profile, or the requester may not have it.
        ServiceFailure: The only one it may have is not configured.
    """
    named = header.cert_profiles
    if len(named) > 1:
        raise HeaderRefused(f"{len(named)} names in certProfile, expected one", rule="R64")
    if named and named[0] not in profiles:
        raise RequestRefused(f"there is no profile {named[0]!r}", rule="R64")
    if named and named[0] not in allowed:
        raise NotAuthorized(f"the profile {named[0]!r} is not for this requester", rule="R64")
    name = named[0] if named else next(iter(allowed), "")
    try:
        return profiles[name]
    except KeyError:
        raise ServiceFailure(f"the profile {name!r} is not configured", rule="R64") from None


def require_active(entity: EndEntity | None, who: str) -> EndEntity:
    """Return the end entity, if it is registered and not blocked.

    Raises:
        NotAuthorized: It is not.
    """
    if entity is None:
        raise NotAuthorized(f"no end entity is registered for {who}", rule="R67")
    if entity.status is not EntityStatus.active:
        raise NotAuthorized(f"the end entity {entity.name} is {entity.status}", rule="R58")
    return entity


def entity_template(
    template: CertTemplate, entity: EndEntity, device_der: bytes | None = None
) -> CertTemplate:
    """Complete a device's template from its end entity; what it asks for otherwise is refused (R67).

    Args:
        device_der: Subject of the certificate of ours that the device signed with.

    Raises:
        NotAuthorized: Another subject, or a name that is not the entity's.
    """
    own_der = _subject_of(entity, device_der)
    if device_der is not None and not same_name(device_der, own_der):
        # Its name was another's before, who was deleted.
        raise NotAuthorized(
            f"the certificate is not one of the end entity {entity.name}: {readable_text(entity.subject)}",
            rule="R67",
        )
    asked_der = template.subject_der or NULL_DN
    if asked_der != NULL_DN and not same_name(asked_der, own_der):
        raise NotAuthorized(
            f"the subject is not that of the end entity {entity.name}: {readable_text(entity.subject)}",
            rule="R67",
        )
    names = template.extension(OID.subjectAltName)
    if names is None:
        granted_der = general_names_der(entity.names) if entity.names else None
        return _with_names(template, own_der, granted_der)
    # They are certified as they are asked for, so that they have to read the same.
    own = set(map(normalized_general_name, entity.names))
    foreign = [
        name for name in general_names(names.value) if normalized_general_name(name) not in own
    ]
    if foreign:
        raise NotAuthorized(
            f"{readable_text(', '.join(sorted(foreign)))}: not a name of the end entity {entity.name}",
            rule="R67",
        )
    return replace(template, subject_der=own_der)


def _subject_of(entity: EndEntity, device_der: bytes | None) -> bytes:
    """Return the subject of an end entity.

    RA mode makes end entities of names that cannot be written anew from their text; a device then has a certificate
    with the name itself.
    """
    try:
        return from_rfc4514(entity.subject)
    except ValueError:
        if device_der is None or rfc4514(device_der) != entity.subject:
            raise NotAuthorized(
                f"the subject of the end entity {entity.name} cannot be read", rule="R67"
            ) from None
        return device_der


def renewal_template(template: CertTemplate, old: Certificate) -> CertTemplate:
    """Complete a kur's template from the certificate it renews; names that differ are refused (R70).

    The names are those of the old certificate octet by octet: what is compared by meaning has other spellings,
    which are not certified.

    Raises:
        TemplateRefused: They differ.
    """
    subject_der = template.subject_der or NULL_DN
    if subject_der != NULL_DN and not same_name(subject_der, old.subject_der):
        raise TemplateRefused("the subject is not that of the certificate to renew", rule="R70")
    names = template.extension(OID.subjectAltName)
    if names is not None and (
        general_name_keys(names.value) != general_name_keys(old.subject_alt_name_der)
    ):
        raise TemplateRefused(
            "the SubjectAltName is not that of the certificate to renew", rule="R70"
        )
    template = _with_names(template, old.subject_der, old.subject_alt_name_der)
    critical, value = old.extensions.get(OID.extKeyUsage, (False, b""))
    if template.extension(OID.extKeyUsage) is not None or not value:
        return template
    purposes = Extension(OID.extKeyUsage, critical, value)
    return replace(template, extensions=(*template.extensions, purposes))


def _with_names(template: CertTemplate, subject_der: bytes, san_der: bytes | None) -> CertTemplate:
    """Return a template with these names in place of its own."""
    extensions = tuple(item for item in template.extensions if item.oid != OID.subjectAltName)
    if san_der is not None:
        names = Extension(OID.subjectAltName, subject_der == NULL_DN, san_der)
        extensions = (*extensions, names)
    return replace(template, subject_der=subject_der, extensions=extensions)


def own_template(template: CertTemplate, signer: Certificate) -> CertTemplate:
    """Complete what a device signed with its operator certificate: it gets the identity it has, no other (R67).

    Raises:
        NotAuthorized: It asks for another one.
    """
    try:
        return renewal_template(template, signer)
    except TemplateRefused as error:
        raise NotAuthorized(f"another identity than {signer.subject}", rule="R67") from error
