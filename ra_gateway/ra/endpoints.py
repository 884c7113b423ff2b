"""Where requests come from and go to, as data: endpoints towards devices, upstreams towards CAs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.header_checks import HeaderRules, Strictness
from ra_gateway.cmp.mac import MACBounds, MACCredential, mac_protected
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import fits_alike
from ra_gateway.cmp.protection import Credential, Protecting
from ra_gateway.cmp.requests import Possession
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import forgiving
from ra_gateway.errors import CMPError, UpstreamBroken
from ra_gateway.ra.dialects import DIALECTS
from ra_gateway.ra.general_messages import Information
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import CACore, CASecret, SharedSecrets
from ra_gateway.ra.registration import RegisteredName, RegistrationAuthorities
from ra_gateway.settings.values import DN, CAPath, Name, Table, WholeSeconds


class Variant(StrEnum):
    """How a request goes up (RFC 9483 5.2)."""

    reprotect = "reprotect"  # under the RA's signature
    nested = "nested"  # untouched, inside an RA-signed nested message
    forward = "forward"  # untouched


class CertConf(StrEnum):
    """Who answers certConf."""

    forward = "forward"  # the CA
    local = "local"  # the RA: for CAs that do not read certConf
    # The RA, which asks the CA for implicitConfirm; the CA where that grants none
    implicit = "implicit"


class Unconfirmed(StrEnum):
    """What becomes of a certificate that its device rejected, or never confirmed."""

    leave = "leave"  # nothing: the CA looks after it
    report = "report"  # the operator is told
    revoke = "revoke"  # an rr to the CA, again and again until it is answered


class POP(StrEnum):
    """What a CA sees of the proof of possession, where a request goes up re-protected."""

    keep = "keep"  # the device's, unless the RA had to change what it proves
    ra_verified = "raverified"  # the RA's word, always


class CAQuirk(StrEnum):
    """What some CAs answer, and where it is told never to be taken as more than it is."""

    # An ip, cp or kup that says no: it counts as no
    unprotected_rejection = "unprotected_rejection"
    unprotected_pkiconf = "unprotected_pkiconf"  # the CA did not read the certConf anyway
    # By a signer of earlier answers, who is not sent again
    pkiconf_without_certificates = "pkiconf_without_certificates"


_REMEMBERED_SIGNERS: Final = 8
"""Of one CA's answers: a CA has one or two, and may be changing them."""

_LEASE_MARGIN_SECONDS: Final = 5.0
"""A node gives up its exchange with the CA this much before another one may take over."""


class Approval(StrEnum):
    """Which requests for a certificate wait until an operator has decided."""

    none = "none"
    required = "required"  # all
    unlisted = "unlisted"  # of devices that the inventory does not list


class ImplicitConfirm(StrEnum):
    """Whether a grant of the CA reaches the device (TS 33.310 profiles explicit confirmation)."""

    deny = "deny"
    relay = "relay"


class CaPubs(StrEnum):
    """What caPubs of an ip holds towards the device."""

    drop = "drop"
    relay = "relay"
    root = "root"


class IssuingSettings(Table):
    """What is set of every way to a CA."""

    expected_subject: Literal["requested", "any"] = "requested"
    """ "requested" refuses a certificate with another subject than asked for; "any" is for test servers that always
    return the same one.
    """
    unconfirmed: Unconfirmed = Unconfirmed.leave
    """What becomes of a certificate that its device rejects or does not confirm in time: "leave" trusts the CA to see
    to it; "report" logs it; "revoke" has the CA revoke it, for a CA that does not read certConf.
    """
    unconfirmed_reason: Literal[0, 4, 5] = 5
    """reasonCode of that revocation: 0 unspecified, 4 superseded, 5 cessationOfOperation. The default says that the
    certificate is not used any more, nor replaced.
    """


class UpstreamSettings(IssuingSettings):
    """What is set of a way to a CA that speaks CMP, as it stands in the file."""

    kur: Variant = Variant.reprotect
    """How a key update goes up: "reprotect" signed by the RA (CA in RA mode; the CA relies on the gateway's check of
    the old key); "nested" untouched inside an RA-signed message; "forward" untouched.
    """
    dialect: Name | None = Field(
        default=None,
        description="Sets what this kind of CA needs for the keys below that the table leaves out: "
        f"{', '.join(DIALECTS)}, or one of `[dialects.<name>]`.",
    )
    requests: Variant = Variant.reprotect
    """How ir, cr, p10cr and rr go up, as kur does. With another value than "reprotect" the gateway cannot set a
    device's identity: a request that would need it is refused.
    """
    ir_as_cr: bool = False
    """Whether an ir goes up as cr, for a CA that takes ir from devices alone: its cp comes down as ip. Only where
    requests is "reprotect".
    """
    key_generation: Literal[Variant.nested, Variant.forward] = Variant.nested
    """How a request goes up whose key the CA is to make, which must stay as its device protected it."""
    certconf: CertConf = CertConf.forward
    """ "forward" lets the CA answer certConf; "local" has the gateway answer it, for a CA that ignores confirmations
    (EJBCA); "implicit" asks the CA for implicitConfirm, and has the gateway answer certConf where that is granted.
    """
    pop: POP = POP.keep
    """ "keep" sends the device's proof of possession on, unless its request had to be changed; "raverified" always
    sends the gateway's word for it. It was verified either way.
    """
    kur_names_issuer: bool = False
    """Whether a kur names the issuer of the old certificate in its template, for a CA that finds that certificate by
    subject and issuer (EJBCA).
    """
    max_pvno: Literal[2, 3] = 3
    """Highest version of CMP that the CA speaks. The default leaves it to the device."""
    ids: Literal["keep", "map"] = "keep"
    """ "keep" shows the CA the device's transactionID and senderNonce; "map" others of 16 octets, for a CA that refuses
    the short ones of some base stations.
    """
    send_root: bool = False
    """Whether messages to the CA carry the root of the RA certificate too, for a CA that wants the whole chain; by
    default extraCerts end below it (RFC 9483 3.3). `ra-gateway check-config` says what goes up.
    """
    genm: bool = True
    """Whether the CA answers genm; if not, a question that is for the CA is refused."""
    tolerate: tuple[CAQuirk, ...] = ()
    """What is borne of the CA's answers. "unprotected_rejection": a rejection without protection counts as one;
    "unprotected_pkiconf": so does a pkiConf; "pkiconf_without_certificates": a pkiConf may be signed by whoever signed
    an earlier answer.
    """
    path: CAPath = Field(default="", max_length=200)
    """Profile or alias on the CA's side, appended to its URL after a slash."""
    recipient: DN | None = None
    """Recipient in messages to the CA, in the form of RFC 4514; by default the issuer of the RA certificate. EJBCA
    selects its CA by it.
    """
    orig_message: bool = False
    """Whether the device's own message goes along as origPKIMessage, for a CA that wants to see its protection and
    proof of possession.
    """
    device_info: bool = False
    """Whether requests of base stations say whose they are and what their vendor calls them (utf8Pairs in generalInfo),
    for a bundled CA in a process of its own, whose ledger keeps it; by default only the one in this process is told.
    """
    rr_certificate: bool = False
    """Whether an rr carries the certificate that it names among its extraCerts: for a gateway behind which this one is
    an RA bound to names. EJBCA takes it for the signer's.
    """


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
    own: Callable[[], Collection[Certificate]] = tuple
    seen: dict[Certificate, None] = field(default_factory=dict, repr=False, compare=False)
    secret: CASecret | None = field(default=None, repr=False)
    protects_otherwise: bool = field(init=False, compare=False)
    """Whether `protecting` returns something else than it is given."""
    lease: timedelta = field(init=False, compare=False)
    """How long a node may be busy with one exchange before another one takes over."""

    def __post_init__(self) -> None:
        lease = timedelta(seconds=self.deadline_seconds + _LEASE_MARGIN_SECONDS)
        object.__setattr__(self, "lease", lease)
        otherwise = self.secret is not None or self.settings.send_root
        object.__setattr__(self, "protects_otherwise", otherwise)

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


class EndpointSettings(Table):
    """What is set of an endpoint besides who may come and where that goes, as it stands in the file."""

    p10cr_cert_req_id: Literal[-1, 0] = -1
    """certReqId in answers to p10cr: -1 as RFC 9810 has it (erratum 8806 of RFC 9483), 0 for devices and other RAs that
    want that.
    """
    key_generation: bool = False
    """Whether a request without a key is taken, for the CA to make one (RFC 9483 4.1.6); not with strictness "3gpp"."""
    encrypted_certificates: bool = False
    """Whether a key that cannot sign (ML-KEM, RSA for encryption) may be certified: the certificate comes encrypted,
    and certConf proves that it could be read. Not with strictness "3gpp".
    """
    only_routes: bool = False
    """Whether a request that no route fits is refused, in place of going to `upstream`."""
    implicit_confirm: ImplicitConfirm = ImplicitConfirm.deny
    """ "deny" always runs certConf and pkiConf, as TS 33.310 has it; "relay" grants implicitConfirm when the device
    asks for it and the CA grants it.
    """
    strictness: Strictness = Strictness.three_gpp
    """ "lenient" accepts what RFC 9810 allows and can be processed safely, "3gpp" follows TS 33.310, "strict" follows
    RFC 9483 to the letter. No setting weakens authentication.
    """
    message_time_window_seconds: WholeSeconds = Field(default=300, ge=1, le=86_400)
    """How far messageTime may be from the gateway's clock, either way, in seconds; beyond it: badTime. Less than half
    of `store.transaction_lifetime_seconds`. The default is the usual one of CMP servers (XiPKI) and of Kerberos.
    """
    require_message_time: bool = False
    """Whether a message without messageTime is refused; real base stations often send none."""
    ca_pubs: CaPubs = CaPubs.drop
    """caPubs of ip: "drop" leaves it out (the operator root is in extraCerts), "relay" passes the CA's on, "root" puts
    the operator roots in.
    """
    kup_root: bool = False
    """Whether kup carries the operator's root, for a client that wants a self-signed certificate in every answer
    (ONAP's CertService). It has the root already, so that TS 33.310 9.5.4.4 leaves it out; ip and cp always carry it.
    """
    pkiconf_certificates: bool | None = None
    """Whether pkiConf carries the certificates of its signer, for a client that forgets those of the answer before.
    Unset, it does, but for base stations at strictness "3gpp": TS 33.310 9.5.4.5 has none there. Other RAs always get
    them for what they sign or nest; one that passes on a device's messages as they are ("forward") gets what the device
    does, and has to `tolerate` "pkiconf_without_certificates".
    """
    extra_certs_max_count: int = Field(default=12, ge=1, le=256)
    """Most certificates in extraCerts of a request; more are refused before a path is sought. The default is four times
    a vendor's usual chain of three.
    """
    confirm_wait_seconds: WholeSeconds = Field(default=300, ge=1, le=86_400)
    """confirmWaitTime told to the device where the CA does not set one, in seconds: by then it should send certConf.
    The default is that of other CMP servers (XiPKI).
    """
    wait_after_seconds: float = Field(default=10.0, ge=0, le=300, allow_inf_nan=False)
    """A device whose CA has not answered by then is told to wait and poll, in seconds; 0 for never: it is held up until
    the upstream's deadline, and then gets systemUnavail. The default is less than that deadline (15 s), and well before
    clients give up (some 30 s).
    """
    check_after_seconds: WholeSeconds = Field(default=10, le=86_400)
    """How long a device that waits is told to let pass between two polls, in seconds, where the CA does not say. The
    default is as long as one poll may last, so that a waiting device takes up half a connection.
    """
    approval: Approval = Approval.none
    """Which requests for a certificate wait until an operator decides (`ra-gateway approvals`): "required" all;
    "unlisted" those of devices that `[inventory]` does not list: all but renewals and other requests under an operator
    certificate. What comes by other RAs or under shared secrets is listed by the domain `ra:` or `mac:` and the
    endpoint's name, and by the subject asked for in the place of the identity. Their devices poll meanwhile. Needs
    `store.kind` = "redis".
    """
    approval_seconds: WholeSeconds = Field(default=604_800, ge=60, le=2_592_000)
    """How long a request waits for an operator at most, in seconds, or for a CA that says waiting; then the device has
    to begin again. The default of a week outlasts a long weekend.
    """


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
