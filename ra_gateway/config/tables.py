"""The tables of the gateway, and the whole of what it and the bundled CA alone are told."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.quirks import Quirk, Strictness
from ra_gateway.config.audit_tables import AuditConfig
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.dialects import DialectConfig
from ra_gateway.config.service_tables import (
    GatewayServerConfig,
    InventoryHTTPConfig,
    InventorySQLConfig,
    LimitsConfig,
    LogConfig,
    ManagementConfig,
    StoreConfig,
)
from ra_gateway.config.trust_tables import (
    AlgorithmsConfig,
    OperatorConfig,
    RAConfig,
    RevocationConfig,
)
from ra_gateway.config.values import (
    DEFAULT_IDENTITY_FROM,
    WELL_KNOWN_PATH,
    IdentityFrom,
    IssuedSubjectPattern,
    RequestType,
    SANName,
    SANPattern,
    SANTemplate,
    SubjectPattern,
    SubjectTemplate,
    URLPath,
    served_paths,
)
from ra_gateway.ra.settings import Approval, EndpointSettings, Informing, InventoryUse, SubjectRule
from ra_gateway.settings.files import PublicPath, SecretPath, WrittenPath
from ra_gateway.settings.values import DN, ByName, Name, Named, Table, WholeSeconds
from ra_gateway.upstream.kinds import UpstreamConfig


class IdentityConfig(Table):
    """Which subject and names a vendor's devices may get."""

    subject: SubjectRule = SubjectRule.keep
    """ "keep": the subject the device asks for, refused when absent; "derive": the same, but made from
    `subject_template` when absent; "replace": always from the inventory or `subject_template`. A subject that is
    changed voids the device's proof of possession: the gateway verifies it first and says raVerified to the CA.
    """
    subject_template: SubjectTemplate | None = None
    """Subject to make, in the form of RFC 4514, like "CN={cn}.ran.example.net,O=Example", with placeholders from the
    vendor certificate: an attribute of its subject ({cn}, {serial_number}, {o}, {ou}, {c}, {l}, {st}, {street},
    {title}, {postal_code}, {dn_qualifier}, {pseudonym}, {uid}, {dc}, or an OID like {2.5.4.13}), {fqdn}, its dNSName
    (in lower case; TS 33.310 9.4.4), {host}, the first label of that, which names one device only where all of the
    vendor's are in one domain, or {serial}, its own number in hexadecimal. Required for derive and replace, unless the
    inventory is required.
    """
    allowed_subjects: tuple[SubjectPattern, ...] = ()
    """Patterns (* and ?) over the RFC 4514 form of a subject the device asks for, each wildcard within one attribute
    ("*" alone allows every subject); may hold the same placeholders. Attributes go by their short or long names, like
    serialNumber=ENB-0001; one that is rarer than those of RFC 5280 has to stand here by name or OID. Empty allows none;
    needed for keep and derive.
    """
    san_template: tuple[SANTemplate, ...] = ()
    """SubjectAltName entries to put in, like "dns:{host}.ran.example.net", "ip:192.0.2.1", "uri:urn:uuid:{uid}",
    "email:{host}@example.net" or "dn:CN={host},O=Example".
    """
    allowed_sans: tuple[SANPattern, ...] = ()
    """Patterns over SubjectAltName entries the device asks for, like "dns:*.ran.example.net", "uri:urn:uuid:*" or
    "dn:CN=*,O=Example", compared as RFC 5280 7.2 to 7.5 has it; empty allows none; a wildcard name is never allowed.
    """
    inventory: InventoryUse = InventoryUse.none
    """ "required" refuses devices that `[inventory]` does not list; "optional" lets an entry, where there is one,
    decide.
    """
    identity_from: IdentityFrom = DEFAULT_IDENTITY_FROM
    """What of the vendor certificate names the device in the inventory: "fqdn" is the one dNSName in its SubjectAltName
    (or of several the one that is its CN too), the others are attributes of its subject. By default the serialNumber,
    or the FQDN of a certificate that has no serialNumber, as TS 33.310 9.4.4 has it; one that names two devices by that
    is refused. Case and blanks make no difference.
    """
    same_key: bool = True
    """Whether the key of the vendor certificate itself may be certified: TS 33.310 lets a base station enrol its
    pre-provisioned key.
    """


VendorRequestType = Annotated[BodyType, ByName((BodyType.ir, BodyType.cr, BodyType.p10cr))]


class VendorConfig(Table):
    """The trust domain of one manufacturer: whose devices may ask for a first certificate."""

    enabled: bool = True
    """false refuses this vendor's devices without losing its settings."""
    anchors_paths: tuple[PublicPath, ...] = Field(min_length=1)
    """The vendor's root certificates, PEM. Nothing else is trusted for its devices."""
    intermediates_paths: tuple[PublicPath, ...] = ()
    """The vendor's sub-CA certificates, PEM, for devices that do not send them."""
    algorithms: AlgorithmsConfig = AlgorithmsConfig()
    """What signatures and keys of this vendor's devices may be."""
    body_types: tuple[VendorRequestType, ...] = Field(default=(BodyType.ir,), min_length=1)
    """What this vendor's devices may ask for a certificate by, where the endpoint takes it. A vendor certificate is for
    the first one, by ir (RFC 9483 4.1.1); cr and p10cr are for who has one of the operator's already, and for devices
    that know no better where they are listed here.
    """
    quirks: tuple[Quirk, ...] = ()
    """Rules this vendor's devices break and are forgiven for; each use is logged. What is forgiven here (legacy
    signatures of messages included, not of certificates) is remembered with each certificate that they get, and
    forgiven when they renew it.
    """
    operator_subjects: tuple[IssuedSubjectPattern, ...] = ()
    """Patterns over the subjects of operator certificates that this vendor's devices have, like
    "CN=*.ran.example.net,O=Example", as of a route's `subjects`: what this vendor's devices are forgiven is forgiven
    to them, also where it is not remembered: where they enrolled before their quirks were listed, or elsewhere, or the
    store was lost. Where it is remembered, that counts: with such patterns, of every certificate, so that a device of
    another vendor has nothing of a name that fits.
    """
    requests_per_second: float | None = Field(default=None, gt=0, le=100_000, allow_inf_nan=False)
    """Most new requests a second of this vendor's devices, at all gateways with the same store together; more are
    refused with systemUnavail, and may come again. So one vendor's faulty devices leave the CA to the others. By
    default there is no limit; `[limits]` has that of all.
    """
    revocation: RevocationConfig = RevocationConfig()
    """How it is known which of this vendor's certificates were revoked."""
    identity: IdentityConfig = IdentityConfig()
    """Which subject and names this vendor's devices may get."""


class InventoryConfig(Table):
    """The operator's list of devices: a file, or what is asked for each device."""

    csv_path: PublicPath | None = None
    """CSV file with the header domain,identity,subject,san,enabled: vendor name, identity in its certificate (as
    `identity_from` finds it), subject to certify, names to certify (dns:, ip:, uri:, email: or dn:, separated by
    blanks), true or false. Commas may be semicolons, and lines that begin with # are comments. A changed file is taken
    up within some seconds.
    """
    http: InventoryHTTPConfig | None = None
    """A service of yours that is asked."""
    sql: InventorySQLConfig | None = None
    """A table of a database."""


KeyKindName = Literal["p256", "p384", "p521", "ed25519", "ed448", "rsa2048", "rsa3072", "rsa4096"]


class GenmConfig(Table):
    """Who answers what devices ask by genm, where `body_types` has it.

    "forward" asks the CA, "local" answers here, "deny" refuses.
    """

    ca_certs: Informing = Informing.forward
    """caCerts; "local" tells the CA certificates of `operator.intermediates_paths`."""
    root_ca_cert: Informing = Informing.forward
    """rootCaCert, after an update of the root; "local" tells the one of `new_root_path`, or that there is none."""
    cert_req_template: Informing = Informing.forward
    """certReqTemplate; "local" tells `template_subject` and `template_keys`, or that nothing is prescribed."""
    crl_status_list: Informing = Informing.forward
    """crlStatusList, for a newer CRL; "local" tells those of `crl_paths`."""
    others: Literal[Informing.forward, Informing.deny] = Informing.forward
    """Every other question; most CAs refuse it."""
    old_root_path: PublicPath | None = None
    """Root that is being replaced, PEM."""
    new_root_path: PublicPath | None = None
    """Root that takes its place, PEM."""
    new_with_old_path: PublicPath | None = None
    """The new root's key, certified by the old root, PEM."""
    old_with_new_path: PublicPath | None = None
    """The old root's key, certified by the new root, PEM."""
    template_subject: str | None = None
    """What the subject should look like, as of RFC 4514; an empty value, as in "CN=,O=Example", is for the device to
    fill in.
    """
    template_keys: tuple[KeyKindName, ...] = ()
    """Kinds of keys that the device may choose from."""
    crl_paths: tuple[PublicPath, ...] = ()
    """CRLs, PEM or DER, read again when a file changes; each is found by its issuer, and by the distribution point it
    names, or that the certificate of whoever asks or the RA's own names, where the CRL names none. For any other one
    is answered badRequest.
    """


class MACConfig(Table):
    """Shared secrets of devices that have no certificate yet: ir, cr and p10cr under a MAC (PBM, PBMAC1).

    Not with strictness "3gpp". Wrong MACs are counted by each process for itself; of several workers each takes its
    share of `lockout_failures`, one at least.
    """

    secrets_path: SecretPath
    """CSV file with the header reference,secret,subject,san,single_use,expires: senderKID, at least 16 characters, the
    subject and the names (separated by blanks) it may ask for, true or false, and a time like 2027-01-31T00:00:00Z or
    nothing; mode 0600. Read at the start. A subject with * or ? is a pattern, each wildcard within one attribute ("*"
    alone is any subject), for a client that asks for several under one secret; its names may then be patterns too.
    """
    used_path: WrittenPath | None = None
    """File that records which secrets for single use were used, required for such; made when the first one is. Not with
    the redis store: no other process reads it.
    """
    min_iterations: int = Field(default=100, ge=1, le=1_000_000)
    """Least iterations of the key derivation; fewer are refused with badAlg. openssl uses 500 unless told otherwise."""
    max_iterations: int = Field(default=2_048, ge=1, le=1_000_000)
    """Most iterations; more are refused before anything is computed. Whoever knows a reference, which travels in the
    clear, can make the gateway compute so many: those of the default take 1 to 2 ms of CPU, beside the event loop.
    openssl and EJBCA use 500 to 1024.
    """
    max_pbkdf_iterations: int | None = Field(default=None, ge=1, le=2_000_000)
    """Most iterations of PBMAC1, whose derivation is PBKDF2; the default is `max_iterations`. Clients that use PBMAC1
    want 8192 (Bouncy Castle) to 262144, and the latter take some 0.1 s of CPU: for known references alone, two at a
    time, one for each peer, and not again for the certConf. A key that is longer than its hash counts twice.
    """
    quirks: tuple[Quirk, ...] = ()
    """Rules that devices with a shared secret may break; each use is logged."""
    allow_weak_hmac: bool = False
    """Whether HMAC-SHA1 is taken; openssl up to 3.0 uses it unless told otherwise (-mac hmacWithSHA256)."""
    allow_weak_owf: bool = False
    """Whether SHA-1 is taken as one-way function of PasswordBasedMac; ONAP's CertService uses nothing else."""
    lockout_failures: int = Field(default=5, ge=1, le=1000)
    """Wrong MACs that one peer (IPv4 address or IPv6 /64) may send under one reference within `lockout_seconds`; then
    it gets one try each time the one divided by the other has passed. Other peers are not slowed down: the reference
    travels in the clear. By default five: a device that knows its secret needs one.
    """
    lockout_seconds: WholeSeconds = Field(default=900, le=86_400)
    """Time for `lockout_failures`, in seconds; by default what leaves a guesser some 500 attempts a day, one every
    three minutes. Beyond 20 times as many wrong MACs under any references, a peer gets one try at each reference in
    that time.
    """


class RouteConfig(Table):
    """Where requests go that fit every condition given, and by which rules; the first route that fits counts."""

    profiles: tuple[Name, ...] = Field(
        default=(), description=f"Names of the path {WELL_KNOWN_PATH}/p/<name> it was sent to."
    )
    cert_profiles: tuple[str, ...] = ()
    """Names in certProfile of the header."""
    domains: tuple[str, ...] = ()
    """Who vouched for the device: names of `[vendors.<name>]`, "operator" for one that has an operator certificate."""
    body_types: tuple[RequestType, ...] = ()
    """Types of request."""
    subjects: tuple[IssuedSubjectPattern, ...] = ()
    """Patterns like "CN=*.ran.example.net,O=Example" for the subject that is asked for; where the request names none,
    or the vendor's own rules replace it, for the one that these give. Case and blanks make no difference.
    """
    upstream: str
    """Name of the `[upstreams.<name>]` that these requests go to."""
    identity: IdentityConfig | None = None
    """Takes the place of the vendor's identity rules, for what this route takes."""
    approval: Approval | None = None
    """Takes the place of the endpoint's, for what this route takes."""


class RARightsConfig(Table):
    """What single RAs may ask for; nothing of the table above holds for them, and what is left out they may not."""

    certificate_paths: tuple[PublicPath, ...] = Field(min_length=1)
    """Their certificates: some of those in `registration_authorities.certificate_paths`."""
    allowed_subjects: tuple[SubjectPattern, ...] = ()
    """As above, for these RAs alone."""
    allowed_sans: tuple[SANPattern, ...] = ()
    """As above, for these RAs alone."""
    ra_verified: bool = False
    """As above, for these RAs alone."""
    revoke_on_behalf: bool = False
    """As above, for these RAs alone."""


class RANameConfig(Table):
    """An RA that is known by its names, so that it may renew its certificate without a change here.

    It may always have another certificate with its own names. Nobody else gets one with any of them at any endpoint of
    this gateway, but whom a line of shared secrets gives this very subject; nothing of the table above holds for it.
    """

    subject: DN | None = None
    """Subject of its certificate, in the form of RFC 4514."""
    sans: tuple[SANName, ...] = ()
    """SubjectAltName entries that its certificate has to have, like "dns:occm.example.net"; all of them, and the
    subject as well where that is given.
    """
    issuer_paths: tuple[PublicPath, ...] = ()
    """CAs of the operator, PEM, one of which has to stand above its certificate; by default any under the operator's
    roots. A CA that issues to no devices is safest.
    """
    allowed_subjects: tuple[SubjectPattern, ...] = ()
    """As above, for this RA alone."""
    allowed_sans: tuple[SANPattern, ...] = ()
    """As above, for this RA alone."""
    ra_verified: bool = False
    """As above, for this RA alone."""
    revoke_on_behalf: bool = False
    """As above, for this RA alone."""


class RegistrationAuthoritiesConfig(Table):
    """Other RAs in front of this gateway: they may come in place of their devices (docs/deployment.md)."""

    certificate_paths: tuple[PublicPath, ...] = ()
    """Their certificates, PEM, exactly those that protect their messages; list the old and the new one while a
    certificate is being renewed. Each must also chain to an operator root, unless `anchors_paths` is given. Required
    unless there are `names`.
    """
    anchors_paths: tuple[PublicPath, ...] = ()
    """Roots, PEM, that these certificates chain to, in place of the operator's."""
    allowed_subjects: tuple[SubjectPattern, ...] = ()
    """Patterns (* and ?) over the RFC 4514 form of the subjects they may ask for under their own protection, each
    wildcard within one attribute ("*" alone allows every subject). Empty allows none: they may then only nest what
    devices sign.
    """
    allowed_sans: tuple[SANPattern, ...] = ()
    """Patterns over SubjectAltName entries they may ask for, like "dns:*.ran.example.net"; empty allows none; a
    wildcard name is never allowed.
    """
    ra_verified: bool = False
    """Whether they may say raVerified: that they have verified the proof of possession themselves. An RA that sets
    subjects, or fills in a kur, has to.
    """
    revoke_on_behalf: bool = False
    """Whether they may have certificates revoked (rr) that are not their own: those whose names they may ask for.
    Unless `allowed_subjects` has "*", the certificate must be known to the CA in this process, or come along in
    extraCerts, as from another gateway. Needed for the rr of devices that they re-protect, and for certificates that
    nobody confirmed.
    """
    nested: bool = True
    """Whether they may send messages inside nested: one as its device signed it, or a batch."""
    batch_max: int = Field(default=64, ge=1, le=1000)
    """Most messages in one batch; all are worked on at the same time. The default is what fits into twice the default
    of `server.max_body_bytes`, at 2 kB each, so that the latter is what bounds.
    """
    rights: tuple[RARightsConfig, ...] = Field(default=(), max_length=256)
    """`[[endpoints.<name>.registration_authorities.rights]]`: what single RAs may, so that each is bound to its own
    devices' names.
    """
    names: tuple[RANameConfig, ...] = Field(default=(), max_length=256)
    """`[[endpoints.<name>.registration_authorities.names]]`: RAs that are known by the names in their operator
    certificate, and what each may.
    """


class _Service(Table):
    """Who may come to an endpoint, with what, and where that goes."""

    paths: tuple[URLPath, ...] = Field(
        default=(),
        description="Exact URL paths; a slash at the end makes no difference. Below "
        f"{WELL_KNOWN_PATH} the operation labels of RFC 9483 (initialization, keyupdate, ...) "
        "are served too.",
    )
    profiles: tuple[Name, ...] = Field(
        default=(), description=f"Profile names; each is served at {WELL_KNOWN_PATH}/p/<name>."
    )
    vendors: tuple[str, ...] = ()
    """Names of the `[vendors.<name>]` whose devices may send ir here."""
    operator: bool = True
    """Whether devices with an operator certificate may send kur here, and what else `body_types` has but ir."""
    body_types: tuple[RequestType, ...] = Field(default=(BodyType.ir, BodyType.kur), min_length=1)
    """Requests that may open a transaction here. TS 33.310 has neither cr (a further certificate), nor p10cr (a
    PKCS#10), nor rr (a device has its own certificate revoked), nor genm (it asks); with another strictness than
    "3gpp", cr is among the default.
    """
    genm: GenmConfig = GenmConfig()
    """Who answers genm."""
    mac: MACConfig | None = None
    """Shared secrets; without this table, protection by MAC is refused."""
    registration_authorities: RegistrationAuthoritiesConfig | None = None
    """Other RAs; without this table, only devices are served, and nested is refused."""
    upstream: str
    """Name of the `[upstreams.<name>]` that requests go to."""
    routes: tuple[RouteConfig, ...] = Field(default=(), max_length=256)
    """`[[endpoints.<name>.routes]]`: requests that go elsewhere, or by other rules."""


def default_body_types(strictness: str) -> list[str]:
    """Return the `body_types` of an endpoint that names none."""
    return ["ir", "kur"] if strictness == Strictness.three_gpp else ["ir", "cr", "kur"]


class EndpointConfig(EndpointSettings, _Service):
    """URLs, who may use them for what, and where their requests go."""

    @model_validator(mode="after")
    def _take_the_default(self) -> Self:
        if "body_types" not in self.model_fields_set:
            taken = default_body_types(self.strictness)
            object.__setattr__(self, "body_types", tuple(BodyType[name] for name in taken))
        return self

    @property
    def url_paths(self) -> tuple[str, ...]:
        """Return every URL path served, profiles included, without a slash at the end."""
        return tuple(served_paths(self.paths, self.profiles))


class GatewayConfig(Table):
    """Everything one gateway process is told."""

    server: GatewayServerConfig = GatewayServerConfig()
    """The HTTP listener."""
    management: ManagementConfig = ManagementConfig()
    """Metrics and health."""
    log: LogConfig = LogConfig()
    """Logging."""
    store: StoreConfig = StoreConfig()
    """The transaction store."""
    limits: LimitsConfig = LimitsConfig()
    """Most requests a second."""
    audit: AuditConfig | None = None
    """The audit trail."""
    ra: RAConfig
    """The gateway's own credential."""
    operator: OperatorConfig
    """The operator's trust domain."""
    vendors: Named[VendorConfig] = Field(default={})
    """The manufacturers' trust domains."""
    inventory: InventoryConfig | None = None
    """The operator's list of devices."""
    upstreams: Named[Annotated[UpstreamConfig, Field(discriminator="kind")]] = Field(min_length=1)
    """The ways to CAs."""
    dialects: Named[DialectConfig] = Field(default={})
    """Dialects of your own, for upstreams to name."""
    ca: CAConfig | None = None
    """The bundled CA."""
    endpoints: Named[EndpointConfig] = Field(min_length=1)
    """The URLs served."""

    @property
    def has_bundled_upstream(self) -> bool:
        """Return whether an upstream is the bundled CA in this process (then `ca` is not None)."""
        return any(upstream.kind == "bundled" for upstream in self.upstreams.values())


class CAServiceConfig(Table):
    """What `ra-gateway ca serve` is told: `[ca]`, `[vendors]`, `[management]`, `[log]`, `[audit]`; alone or beside a
    gateway's.
    """

    management: ManagementConfig = ManagementConfig()
    """Metrics and health."""
    log: LogConfig = LogConfig()
    """Logging."""
    audit: AuditConfig | None = None
    """The audit trail."""
    vendors: Named[VendorConfig] = Field(default={})
    """The manufacturers' trust domains, for client mode."""
    ca: CAConfig
    """The bundled CA."""
