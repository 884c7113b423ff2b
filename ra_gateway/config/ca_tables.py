"""The tables of the bundled CA: what it issues, whom it hears, what it publishes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from ra_gateway.ca.profiles import SubjectForm
from ra_gateway.ca.records import Reenroll
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.config.service_tables import ListenerConfig, ServerConfig
from ra_gateway.config.values import (
    DEFAULT_IDENTITY_FROM,
    CADirectory,
    DatabaseURL,
    DatabaseURLPath,
    Domain,
    IdentityFrom,
    LDAPServer,
    PublishedURL,
    URLPath,
)
from ra_gateway.ldap import PORTS, Directory
from ra_gateway.settings.files import PublicPath, SecretPath, WrittenPath
from ra_gateway.settings.values import Name, Named, Seconds, Table, WholeSeconds


class CAServerConfig(ServerConfig):
    """The HTTP listener of `ra-gateway ca serve`; as `[server]`, on another port."""

    listen_port: int = Field(default=8081, ge=0, le=65535)
    """TCP port; 0 takes a free one. The default is the one beside the gateway's."""


class CAClientConfig(Table):
    """Client mode: devices that speak to the CA themselves, each a registered end entity."""

    paths: tuple[URLPath, ...] = Field(default=("/client",), min_length=1)
    """URL paths of `ra-gateway ca serve` that are client mode's; below them the operation labels of RFC 9483 are served
    too.
    """
    vendors: tuple[str, ...] = Field(min_length=1)
    """Names of the `[vendors.<name>]` whose devices may ask for a first certificate; of those tables anchors,
    intermediates, algorithms and quirks count here.
    """
    identity_from: IdentityFrom = DEFAULT_IDENTITY_FROM
    """What of the vendor certificate names the end entity; as in `vendors.<name>.identity`."""
    implicit_confirm: bool = False
    """Whether a device that asks for it may do without certConf; TS 33.310 always has certConf."""
    strictness: Strictness = Strictness.three_gpp
    """ "lenient" accepts what RFC 9810 allows and can be processed safely, "3gpp" follows TS 33.310, "strict" follows
    RFC 9483 to the letter. No setting weakens authentication.
    """


class CAStatusConfig(ListenerConfig):
    """The status listener: CRLs, OCSP and CA certificates, over HTTP, for everybody."""

    listen_port: int = Field(default=8082, ge=0, le=65535)
    """TCP port; 0 takes a free one. The default is the one beside the CA's."""
    crl_hours: int = Field(default=24, ge=1, le=8760)
    """From one full CRL to the next, in hours. The default is the usual one of CAs."""
    overlap_hours: int = Field(default=24, ge=1, le=8760)
    """How long a full CRL stays valid after its successor is due, in hours: so long may the CA be away before verifiers
    miss it. The default is a day to repair it.
    """
    delta_minutes: int = Field(default=0, ge=0, le=10_080)
    """From one delta CRL to the next, in minutes; a revocation makes one at once. 0 makes none, and each revocation a
    full CRL; the default is right up to some 10,000 revoked.
    """
    check_seconds: Seconds = Field(default=5.0, ge=0.1, le=3600)
    """From one look for revocations to the next, in seconds, and so the least time between two CRLs. The default is
    soon enough for people, and a hundredth of what a CRL of 100,000 entries costs.
    """
    ocsp: bool = True
    """Whether OCSP is answered."""
    ocsp_validity_minutes: int = Field(default=60, ge=1, le=10_080)
    """How long clients and caches may keep an OCSP answer, in minutes. The default is how long a revocation may go
    unseen by them.
    """
    ocsp_max_age_seconds: int = Field(default=300, ge=0, le=604_800)
    """How long an HTTP cache may keep an OCSP answer unasked, in seconds; never beyond the answer's own end. The
    default is that of CRLs: a revocation is seen soon through caches, too.
    """


class CALDAPConfig(Table):
    """The LDAP directory that the CA's CRLs and certificates are published to, beside the status listener."""

    url: LDAPServer
    """Its address, like "ldaps://ldap.example.net" or "ldap://127.0.0.1:389"; what is published is below `entry`."""
    entry: str = Field(min_length=1)
    """DN of an issuing CA's entry, like "cn={issuer},ou=PKI,o=Example"; `{issuer}` stands for the CA's key identifier,
    so that each has its own. One that is named by cn is made if there is none, if its parent exists.
    """
    start_tls: bool = False
    """Whether TLS begins after the connection is made (StartTLS), at an ldap URL."""
    ca_path: PublicPath | None = None
    """CAs that the directory's certificate may be below, PEM; by default those that the system trusts."""
    bind_dn: str = ""
    """Who logs in, a DN; by default nobody."""
    bind_password_path: SecretPath | None = Field(default=None, repr=False)
    """File with the password of `bind_dn`; mode 0600. It is not sent without TLS, except to this machine."""

    def directory(self, password: str) -> Directory:
        """Return the server."""
        parts = urlsplit(self.url)
        return Directory(
            parts.hostname or "",
            parts.port or PORTS[parts.scheme],
            parts.scheme == "ldaps",
            self.start_tls,
            None if self.ca_path is None else str(self.ca_path),
            self.bind_dn,
            password,
        )


class CAProfileConfig(Table):
    """A certificate profile of your own: a built-in one, and what is different.

    Usages and attributes go by name (digitalSignature, serverAuth, CN) or dotted number. What is left out is as in
    `base`. `{issuer}` in a URL stands for the issuing CA's key identifier.
    """

    base: Name
    """The built-in profile to start from; `ra-gateway ca profiles` lists them."""
    validity_days: int | None = Field(default=None, ge=1, le=3650)
    """Longest validity, in days; the default is that of the base."""
    key_usage: tuple[str, ...] | None = None
    """Key usages every certificate has; keyEncipherment and dataEncipherment only with RSA keys, keyAgreement only with
    EC keys.
    """
    extended_key_usage: tuple[str, ...] | None = None
    """Extended key usages given when none is asked for."""
    allowed_extended_key_usage: tuple[str, ...] | None = None
    """Extended key usages that may be asked for."""
    key_kinds: tuple[str, ...] | None = None
    """Kinds of key that are certified."""
    min_rsa_exponent: int | None = Field(default=None, ge=3, le=65_537)
    """Least public exponent of an RSA key; the default is that of the base, 65537 (TS 33.310 6.1.1)."""
    max_rsa_bits: int | None = Field(default=None, ge=2048, le=16_384)
    """Longest RSA key, in bits; the default is that of the base, 8192."""
    stronger_keys: bool | None = None
    """Whether keys are certified that are stronger than the issuing CA's, which TS 33.310 6.1.1 forbids."""
    subject_form: SubjectForm | None = None
    """What a subject looks like: "ts33310" is (C), O, CN or a DNS domain in components with CN (TS 33.310 6.1.1),
    "network_function" C and the home domain as O (6.1.3c.3), "any" whatever X.520 allows.
    """
    domains: tuple[str, ...] | None = None
    """DNS domains that names lie in, in place of `ca.domains`; [] allows any."""
    organisations: tuple[str, ...] | None = None
    """Values of O, in place of `ca.organisations`; [] allows any."""
    required_subject: tuple[str, ...] | None = None
    """Attributes the subject must have."""
    allowed_subject: tuple[str, ...] | None = None
    """Attributes the subject may have."""
    san: tuple[str, ...] | None = None
    """Kinds of SubjectAltName, like ["dns", "ip"]."""
    san_required: bool | None = None
    """Whether there must be a SubjectAltName; a CN that is an FQDN makes it where none is asked for."""
    san_max: int | None = Field(default=None, ge=1, le=100)
    """Most names in the SubjectAltName; the default is that of the base."""
    server_dns: bool | None = None
    """Whether a TLS server's certificate must have a DNS name."""
    sepp_names: bool | None = None
    """Whether DNS names must be those of a SEPP with the operator's code."""
    instance_uri: bool | None = None
    """Whether there must be a URI `urn:uuid:...` that names the network function's instance: TS 33.310 asks for it from
    V19.5 on, and advises it before.
    """
    crl_required: bool | None = None
    """Whether nothing is issued without the URL of a CRL."""
    nf_types: tuple[str, ...] | None = None
    """Types of network functions that nfTypes may hold; [] leaves the extension out."""
    nf_types_required: bool | None = None
    """Whether there must be nfTypes; a profile of one type gives that unasked."""
    crl_urls: tuple[str, ...] | None = None
    """URLs of the CRL, in place of `ca.crl_url`."""
    delta_crl_url: str | None = None
    """URL of the delta CRL; "" leaves it out."""
    ocsp_url: str | None = None
    """URL of the OCSP responder; "" leaves it out."""
    ca_issuers_url: str | None = None
    """URL of the issuing CA's certificate; "" leaves it out."""
    certificate_policies: tuple[str, ...] | None = None
    """Certificate policies, dotted numbers."""


class CAConfig(Table):
    """The bundled CA; needed by an upstream of kind bundled and by `ra-gateway ca serve`."""

    directory_path: CADirectory
    """Directory with root.pem and certificates and keys of issuing CA, CMP signer and OCSP signer, as `ra-gateway ca
    create` makes them; the keys of mode 0600. The root's key is not needed here.
    """
    ledger_path: WrittenPath | None = None
    """SQLite file of everything issued; made at the first start. Its directory must exist. For one machine; several
    need PostgreSQL and `ledger_url_path`.
    """
    ledger_url_path: DatabaseURLPath | None = Field(default=None, repr=False)
    """File that holds the URL of a PostgreSQL database, like postgresql://ca:password@db.example.net/ledger; mode 0600.
    In place of `ledger_path`. Another machine is spoken to with TLS, its certificate and name checked, unless `sslmode`
    in the URL says otherwise.
    """
    ledger_url: DatabaseURL | None = Field(default=None, repr=False)
    """The URL itself; only without a password. In place of `ledger_url_path`."""
    checkpoints_path: WrittenPath | None = None
    """File that `ra-gateway ca serve`, `ca verify` and `ca backup` append to where the audit trail ends, so that a
    trail that was cut off or written anew is told; best where whoever can write to the database cannot. Its key is in
    the file of this name and `.secret`. By default `checkpoints` beside `ledger_path`; with PostgreSQL in
    `directory_path`, which the service may not be able to write to.
    """
    backup_hours: int | None = Field(default=None, ge=0, le=8760)
    """How old the last `ra-gateway ca backup` may become before an alert (RAGatewayBackupOld), in hours; 0 for none, as
    where PostgreSQL's own backups are relied on. The default is 48 once a backup was made; a number also holds where
    none ever was.
    """
    key_password_path: SecretPath | None = Field(default=None, repr=False)
    """File with the password of the keys; mode 0600. Without it they must be unencrypted, or in an HSM."""
    profile: Name = "ne_ipsec"
    """Certificate profile of what is issued unless a role or an end entity says otherwise: a built-in one of TS 33.310
    6.1 (`ra-gateway ca profiles` lists them) or one of `[ca.profiles]`.
    """
    validity_days: int = Field(default=365, ge=1, le=3650)
    """Validity of issued certificates, in days, never beyond the issuing CA's own. The default has each base station
    renew once a year.
    """
    domains: tuple[Domain, ...] = ()
    """DNS domains of this operator, such as ["ran.example.net"]: a name in another one is not certified (TS 33.310
    6.1). Empty allows any, with a warning.
    """
    organisations: tuple[str, ...] = ()
    """Values of O that are this operator's; another one is not certified. Empty allows any."""
    crl_url: PublishedURL | None = None
    """URL of the CRL, http, or ldap with the attribute that holds it, put into every certificate as its distribution
    point; the built-in profiles for IPsec and TLS issue nothing without it. The status listener has it as
    http://HOST:8082/crl/{issuer}.crl.
    """
    delta_crl_url: PublishedURL | None = None
    """URL of the delta CRL, http, put into full CRLs and certificates (freshestCRL)."""
    ocsp_url: PublishedURL | None = None
    """URL of the OCSP responder, http, put into every certificate."""
    ca_issuers_url: PublishedURL | None = None
    """URL of the issuing CA's certificate, http, put into every certificate."""
    confirm_wait_seconds: WholeSeconds = Field(default=300, ge=1, le=86_400)
    """How long the CA awaits certConf, in seconds: it says so in its answers, the gateway passes that on to devices,
    and a certificate not confirmed by then is revoked. The default is that of the endpoints.
    """
    reenroll: Reenroll = Reenroll.allow
    """Whether a device that holds a confirmed, valid certificate may ask for a first one again (ir; cr and p10cr under
    a vendor certificate, or signed by an RA in its device's place), as after a factory reset: "window" lets it for
    `reenroll_window_hours` after it was first seen or registered, or as long as `ra-gateway ca entity open` says.
    """
    reenroll_window_hours: int = Field(default=24, ge=1, le=8760)
    """For `reenroll = "window"`, in hours. The default is a day of commissioning."""
    rsa_pss: bool = False
    """Whether an issuing CA with an RSA key signs certificates and CRLs by RSASSA-PSS; PKCS #1 v1.5 is not recommended
    (TS 33.310 6.1.1), and verified by older devices.
    """
    unique_key: bool = True
    """Whether a key that a living certificate of another end entity has is refused (duplicateCertReq)."""
    revoke_superseded: bool = False
    """Whether the old certificate is revoked (superseded) as soon as its renewal is confirmed; otherwise it stays valid
    until it expires.
    """
    key_generation: bool = False
    """Whether the CA makes keys for devices that ask for that (RFC 9483 4.1.6) and sends them encrypted for the
    certificate that protects the request. `ra-gateway ca renew-signers --key-generation` makes the signer that this
    needs.
    """
    bare_keys: bool = False
    """Whether such a key is sent as it is, and not in an AsymmetricKeyPackage, to who says version 2 of CMP: OpenSSL
    3.5 does, and reads nothing else. It is signed and encrypted either way.
    """
    profiles: Named[CAProfileConfig] = Field(default={})
    """Certificate profiles of your own."""
    renew_as: Named[Name] = Field(default={})
    """By which profile certificates are renewed (kur) that were issued under another, such as { ne_ipsec =
    "as_they_are" }: for devices whose certificates do not fit that one any more. The role of their RA has to have the
    new profile.
    """
    client: CAClientConfig | None = None
    """Client mode; without it only RAs are heard."""
    status: CAStatusConfig | None = None
    """The status listener, and the making of CRLs; without it there are neither."""
    ldap: CALDAPConfig | None = None
    """Where CRLs are published besides; needs `[ca.status]`, which has them made."""
    server: CAServerConfig = CAServerConfig()
    """The HTTP listener of `ra-gateway ca serve`; unused in process."""

    @property
    def database(self) -> Path | str:
        """Return where the ledger is: a file, or the URL of a database.

        Raises:
            OSError: The file with the URL cannot be read.
        """
        if self.ledger_url_path is not None:
            return self.ledger_url_path.read_text(encoding="utf-8-sig", errors="replace").strip()
        if self.ledger_url is not None:
            return self.ledger_url
        assert self.ledger_path is not None  # one of the three: rules.py sees to it
        return self.ledger_path
