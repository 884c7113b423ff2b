"""Where requests come from and go to, as data: endpoints towards devices, upstreams towards CAs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType, Possession
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.mac import MACBounds, MACCredential, mac_protected
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import fits_alike
from ra_gateway.cmp.protection import Credential, Protecting
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import forgiving
from ra_gateway.errors import CMPError, UpstreamBroken
from ra_gateway.ra.general_messages import Information
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import CACore, CASecret, SharedSecrets
from ra_gateway.ra.registration import RegisteredName, RegistrationAuthorities
from ra_gateway.ra.settings import (
    Approval,
    EndpointSettings,
    UpstreamSettings,
    Variant,
)

_ISSUES_NOTHING: Final = frozenset({BodyType.rr, BodyType.genm})

_REMEMBERED_SIGNERS: Final = 8
"""Of one CA's answers: a CA has one or two, and may be changing them."""

_LEASE_MARGIN_SECONDS: Final = 5.0
"""A node gives up its exchange with the CA this much before another one may take over."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One CA and how it wants to be spoken to.

    Args:
        settings: As they are configured.
        recipient_der: GeneralName that requests are addressed to: the issuing CA.
        trust: What the protection of the CA's answers must chain to.
        pinned: Certificates that may protect answers without a path of their own.
        issuing: What issued certificates must chain to.
        deadline_seconds: Total time for one exchange.
        replays_repeats: Whether the CA answers a repeated message with the same certificate, so that
            asking again after an unanswered request cannot issue twice.
        late_answer_seconds: How long beyond that the core awaits an answer that must not be asked for again.
        own: Returns the RA's own certificates, which protect no answer of a CA.
        seen: Signers of its answers that were valid.
        secret: What the RA shares with the CA, and protects its messages with; None where it signs them.
    """

    name: str
    core: CACore
    recipient_der: bytes
    trust: TrustDomain
    issuing: TrustDomain
    settings: UpstreamSettings = field(default_factory=UpstreamSettings)
    pinned: tuple[Certificate, ...] = ()
    deadline_seconds: float = 15.0
    replays_repeats: bool = False
    late_answer_seconds: float = 0.0
    own: Callable[[], Collection[Certificate]] = tuple
    seen: dict[Certificate, None] = field(default_factory=dict, repr=False, compare=False)
    secret: CASecret | None = field(default=None, repr=False)
    protects_otherwise: bool = field(init=False, compare=False)
    """Whether `protecting` returns something else than it is given."""
    lease: timedelta = field(init=False, compare=False)
    """How long a node may be busy with one exchange before another one takes over."""
    _lease_once: timedelta = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        lease = timedelta(seconds=self.deadline_seconds + _LEASE_MARGIN_SECONDS)
        object.__setattr__(self, "lease", lease)
        once = lease + timedelta(seconds=self.late_answer_seconds)
        object.__setattr__(self, "_lease_once", once)
        otherwise = self.secret is not None or self.settings.send_root
        object.__setattr__(self, "protects_otherwise", otherwise)

    def may_be_asked_again(self, body_type: BodyType) -> bool:
        """Tell whether a request that the CA may have seen can be sent once more: nothing is issued twice."""
        return self.replays_repeats or body_type in _ISSUES_NOTHING

    def lease_of(self, body_type: BodyType) -> timedelta:
        """Return how long a node may be busy with a request before another one takes over."""
        return self.lease if self.may_be_asked_again(body_type) else self._lease_once

    def asked_type(self, body_type: BodyType, variant: Variant) -> BodyType:
        """Return as what type a request goes up."""
        as_cr = self.settings.ir_as_cr and variant is Variant.reprotect
        return BodyType.cr if as_cr and body_type is BodyType.ir else body_type

    def signing(self, credential: Credential) -> Credential:
        """Return what signs for this CA: the RA's credential, with the chain that the CA wants."""
        return credential.with_root if self.settings.send_root else credential

    def protecting(self, credential: Credential, *, signing: bool = False) -> Protecting:
        """Return what protects messages to this CA: the secret that it shares with the RA, or the RA's signature.

        Args:
            signing: Whether it has to be the signature.
        """
        if signing or self.secret is None:
            return self.signing(credential)
        return self.secret.credential

    async def answer_credentials(self, answer_der: bytes) -> tuple[MACCredential, ...]:
        """Return what an answer under a MAC may be protected with; nothing for others.

        Raises:
            UpstreamBroken: Its MAC cannot be verified.
        """
        if self.secret is None:
            return ()
        try:
            message = PKIMessage.from_der(answer_der)
            return await self.secret.of_answer(message) if mac_protected(message) else ()
        except CMPError as error:
            raise UpstreamBroken(f"{self.name}: {error}", rule="R84") from error

    def remember(self, signer: Certificate) -> None:
        """Remember who protected a valid answer, for one that comes without its certificate."""
        if signer not in self.seen:
            while len(self.seen) >= _REMEMBERED_SIGNERS:
                del self.seen[next(iter(self.seen))]
            self.seen[signer] = None

    def variant_for(
        self,
        body_type: BodyType,
        possession: Possession = Possession.proved,
        *,
        signed_by_device: bool = True,
    ) -> Variant:
        """Return how a request goes up.

        Args:
            signed_by_device: What another RA or a shared secret protects is never nested: the CA knows devices, and
                could not tell who that is.
        """
        if possession is Possession.key_generation:
            return self.settings.key_generation
        variant = self.settings.kur if body_type is BodyType.kur else self.settings.requests
        vouched_for = variant is Variant.nested and not signed_by_device
        return Variant.reprotect if body_type is BodyType.genm or vouched_for else variant


@dataclass(frozen=True, slots=True)
class MACAccess:
    """How devices come in by a shared secret (RFC 9483 4.1.5).

    Args:
        domain: Without anchors; says which algorithms requested keys and their POP may have, and what its devices
            are forgiven.
    """

    domain: TrustDomain
    secrets: SharedSecrets
    bounds: MACBounds = field(default_factory=MACBounds)


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests of an endpoint go where, and by which rules; an empty condition is always met.

    Args:
        profiles: Names out of the path below /p/.
        cert_profiles: Names in certProfile of the header.
        domains: Names of the trust domain that vouched for the signer.
        body_types: Of the request.
        subjects: Glob patterns over the RFC 4514 string of the subject asked for (`ra.policy.subject_asked`), without
            regard to case and blanks: one name goes one way, however a device spells it.
        upstream: Where to.
        identity: Takes the place of the domain's identity rules.
        approval: Takes the place of the endpoint's.
    """

    name: str
    upstream: Upstream
    profiles: frozenset[str] = frozenset()
    cert_profiles: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    body_types: frozenset[BodyType] = frozenset()
    subjects: tuple[str, ...] = ()
    identity: IdentityRules | None = None
    approval: Approval | None = None

    def takes(self, *, profile: str, cert_profile: str, domain: str, body_type: BodyType) -> bool:
        """Tell whether a request fits, as far as is known before its subject is decided."""
        return (
            (not self.profiles or profile in self.profiles)
            and (not self.cert_profiles or cert_profile in self.cert_profiles)
            and (not self.domains or domain in self.domains)
            and (not self.body_types or body_type in self.body_types)
        )

    def takes_subject(self, subject: str) -> bool:
        """Tell whether a subject (RFC 4514 string) fits."""
        return not self.subjects or any(fits_alike(subject, pattern) for pattern in self.subjects)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One service towards devices: who may come, with what, and where it goes.

    Args:
        vendors: Domains whose certificates may open an ir or genm, and what `vendor_types` says, with their identity
            rules beside them.
        vendor_types: Which requests for a certificate a vendor's devices may open, by the domain's name; ir, cr and
            p10cr for one that is not listed.
        operator: Domain whose certificates may open a cr, kur, p10cr, rr or genm; None where none may.
        body_types: Requests taken at all, out of ir, cr, kur, p10cr, rr and genm. The profile of
            TS 33.310 has neither of the last three.
        settings: As they are configured.
        rules: What is asked of headers and algorithms, out of the settings.
        information: How genm is answered.
        mac: Shared secrets for ir, cr and p10cr; None where only signatures are taken.
        routes: The first that fits a request decides where it goes; `upstream` is for those that none fits.
        registration_authorities: Other RAs that may come in place of their devices; None for none.
        accepted: Other ways than a signature in which possession of a key may be shown, or not be needed.
        reserved: Names of registered RAs, of this endpoint and all others: nobody else gets a certificate with them.
        origins: Domains, here or at other endpoints, by which devices with an operator certificate may have come, and
            that forgive something: what they forgive holds for these devices' operator certificates too.
        origin_subjects: Patterns over the subjects of such certificates, by the name of the domain, for those of which
            it is not remembered; as of `Route.subjects`.
    """

    name: str
    upstream: Upstream
    vendors: tuple[TrustDomain, ...] = ()
    identities: Mapping[str, IdentityRules] = field(default_factory=dict)
    operator: TrustDomain | None = None
    body_types: frozenset[BodyType] = frozenset({BodyType.ir, BodyType.cr, BodyType.kur})
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    rules: HeaderRules = field(default_factory=HeaderRules)
    information: Information = field(default_factory=Information)
    mac: MACAccess | None = None
    routes: tuple[Route, ...] = ()
    registration_authorities: RegistrationAuthorities | None = None
    accepted: frozenset[Possession] = frozenset()
    reserved: tuple[RegisteredName, ...] = ()
    vendor_types: Mapping[str, frozenset[BodyType]] = field(default_factory=dict)
    origins: tuple[TrustDomain, ...] = ()
    origin_subjects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    upstreams: Mapping[str, Upstream] = field(init=False, compare=False)
    """Every upstream that requests of this endpoint may go to, by name."""
    domains: Mapping[str, TrustDomain] = field(init=False, compare=False)
    """Every domain whose devices, or RAs, may come here, by name."""
    domains_for: Mapping[BodyType, tuple[TrustDomain, ...]] = field(init=False, compare=False)
    """The domains that may vouch for a request of a type (R71: never a vendor for a kur); the operator's forgives all
    that it may forgive anybody (`ra.forgiveness`)."""
    operator_of: Mapping[str, TrustDomain] = field(init=False, compare=False)
    """The operator's domain for devices that came by another one, by its name: by one that forgives something; by any,
    where a device without a record may have what its subject says."""
    loosest_quirks: frozenset[str] = field(init=False, compare=False)
    """Every quirk that any of the endpoint's domains has: for checks before the domain is known."""

    def __post_init__(self) -> None:
        upstreams = (self.upstream, *(route.upstream for route in self.routes))
        access = () if self.mac is None else (self.mac.domain,)
        named = any(self.origin_subjects.values())
        origins = {
            item.name: item
            for item in (*self.origins, *self.vendors, *access)
            if item.forgives or named
        }
        operator: tuple[TrustDomain, ...] = ()
        loosest: tuple[TrustDomain, ...] = ()
        operator_of: dict[str, TrustDomain] = {}
        if self.operator is not None:
            operator_of = {name: forgiving(self.operator, item) for name, item in origins.items()}
            operator = (self.operator,)
            loosest = (forgiving(self.operator, *origins.values()),) if origins else operator
        relays = self.registration_authorities
        domains = (*self.vendors, *operator, *(() if relays is None else (relays.domain,)))
        names = () if relays is None else relays.names
        object.__setattr__(self, "reserved", tuple(dict.fromkeys((*self.reserved, *names))))
        quirks = frozenset[str]().union(
            *(domain.quirks for domain in (*domains, *access, *loosest))
        )
        object.__setattr__(self, "upstreams", {item.name: item for item in upstreams})
        by_type = dict.fromkeys(RESPONSE_TO, (*loosest, *self.vendors))
        by_type |= {BodyType.ir: self.vendors, BodyType.kur: loosest, BodyType.rr: loosest}
        object.__setattr__(self, "domains", {item.name: item for item in domains})
        object.__setattr__(self, "domains_for", by_type)
        object.__setattr__(self, "loosest_quirks", quirks)
        object.__setattr__(self, "operator_of", operator_of)

    def domain_of(self, name: str, origin: str) -> TrustDomain | None:
        """Return one of the domains whose devices, or RAs, may come here, None where there is no such any more.

        Args:
            origin: Name of the domain whose quirks hold for the device, "" for none but its own domain's.
        """
        domain = self.domains.get(name)
        return self.operator_of.get(origin, domain) if domain is self.operator else domain
