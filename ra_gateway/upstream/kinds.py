"""The table of every kind of upstream, and what `open` makes of it; its client is imported by whoever opens one alone.

A kind of another package comes by an entry point, under `kind = "plugin"` (`plugins`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, get_args

from pydantic import Field

from ra_gateway.ra.settings import CertConf, IssuingSettings, Unconfirmed, UpstreamSettings
from ra_gateway.settings.files import PublicPath, SecretPath
from ra_gateway.settings.values import APIURL, CMPURL, PathSegments, Seconds
from ra_gateway.upstream.tables import AnswerTrust, CASecretConfig, IssuingCAs, OverHTTP

if TYPE_CHECKING:
    from ra_gateway.ra.ports import CACore
    from ra_gateway.upstream.plugins import UpstreamContext
    from ra_gateway.upstream.pool import HttpPool
    from ra_gateway.upstream.rest import RestSigner
    from ra_gateway.upstream.signing import CertificateSigner
    from ra_gateway.upstream.step_ca import StepCASigner
    from ra_gateway.upstream.vault import VaultSigner


class Order(StrEnum):
    """Which URL an exchange begins with."""

    active_standby = "active_standby"  # the first that works
    round_robin = "round_robin"  # each in turn


class BundledUpstream(UpstreamSettings, IssuingCAs):
    """The CA that comes with the gateway, in the same process; needs `[ca]`."""

    deadline_seconds: ClassVar[float] = 15.0
    kind: Literal["bundled"]
    """ "bundled": the CA of `[ca]`, in this process."""
    device_info: bool = True
    """Whether the ledger is told whose a base station is and what its vendor calls it, for `ca history`."""
    replays_repeats: bool = True
    """Whether the CA answers an identical repeat with the same answer; the bundled one does, so after a crash the
    gateway may ask it again.
    """


class CMPHTTPUpstream(UpstreamSettings, IssuingCAs, AnswerTrust, OverHTTP):
    """A CA that speaks CMP over HTTP: EJBCA, another bundled CA, any of RFC 9483."""

    kind: Literal["cmp_http"]
    """ "cmp_http": a CA that speaks CMP over HTTP."""
    url: CMPURL | None = None
    """Where to post, http or https, like http://ca.example.net:8080/ejbca/publicweb/cmp/ra. Required, unless urls is
    given.
    """
    urls: tuple[CMPURL, ...] = Field(default=(), max_length=16)
    """In place of url: several that lead to the same CA, whose nodes share what they know. Another one is tried where
    that cannot issue twice: when the first never had the message, when the message asks for no certificate, or with
    replays_repeats.
    """
    order: Order = Order.active_standby
    """Which of urls an exchange begins with: "active_standby" the first that works; "round_robin" each in turn."""
    replays_repeats: bool = False
    """Whether the CA answers an identical repeat with the same answer. true for a CA that does not (EJBCA) may issue
    twice; with false, a request the CA may have seen is not sent again. With urls, whether each gives the answers of
    the others.
    """
    late_answer_seconds: float = Field(default=45.0, ge=0, le=300, allow_inf_nan=False)
    """How long beyond deadline_seconds the answer to a request for a certificate is awaited that must not be asked for
    again (replays_repeats is false), in seconds; 0 for not at all. Its device polls or tries again meanwhile; what it
    does not fetch is seen to as unconfirmed says. The default has a CA that stood still for a minute lose nothing. At
    most half of max_connections are kept for it, and none for batches.
    """
    try_deadline_seconds: Seconds = Field(default=5.0, le=300)
    """Time after which an exchange turns to the next of urls, in seconds, if it may. The default leaves time for three
    within deadline_seconds, and is more than connecting takes.
    """
    breaker_failures: int = Field(default=5, ge=1, le=1000)
    """So many exchanges failed in a row at a URL, and it is left out for a while. The default is more than one lost
    connection causes, and soon reached when a CA is gone. Answers that are not CMP do not count, HTTP 429 and 503 count
    at once.
    """
    breaker_seconds: Seconds = Field(default=5.0, le=60)
    """How long it is left out at first, in seconds; then one exchange tries it, and each time that fails the time
    doubles, up to 60 s. The default is less than devices wait before they try again.
    """
    probe_seconds: float = Field(default=10.0, ge=0, le=3600, allow_inf_nan=False)
    """Time between two probes of each of urls, in seconds; 0 for none. A probe is a HEAD request, which cannot issue
    anything. The default finds a dead one within breaker_seconds or two, at no load worth counting. A single URL is not
    probed.
    """
    mac: CASecretConfig | None = None
    """`[upstreams.<name>.mac]`: a secret that protects messages to this CA in place of the RA's signature."""
    batch_window_ms: int = Field(default=0, ge=0, le=10_000)
    """How long a message waits for others, in milliseconds, so that they go up together as one nested (a batch, RFC
    9483 5.2.2.2); 0, the default, sends each at once, as most CAs take it. The bundled CA and another gateway take
    batches.
    """
    batch_max: int = Field(default=16, ge=2, le=1000)
    """Most messages of one batch. The default keeps the answers, at 8 kB each with their chains, within half of
    max_response_bytes.
    """
    batch_max_bytes: int = Field(default=61_440, ge=4096, le=16_777_216)
    """Most bytes of all messages of one batch. The default leaves 4 kB for the signature around it below the largest
    body that a gateway takes (its server.max_body_bytes).
    """

    @property
    def awaits_late_seconds(self) -> float:
        """How long beyond the deadline an answer is awaited that must not be asked for again."""
        return 0.0 if self.replays_repeats or self.batch_window_ms else self.late_answer_seconds

    @property
    def every_url(self) -> tuple[str, ...]:
        """The URLs, in order of preference, by whichever key they were given."""
        return self.urls if self.url is None else (self.url,)

    def open(self, context: UpstreamContext) -> HttpPool:
        """Return the CA at its URLs; nothing is connected yet.

        Raises:
            ConfigError: Files that the table names cannot be used.
        """
        from ra_gateway.upstream.pool import HttpPool

        connections = self.connections(context.setting, *self.every_url)
        return HttpPool(self, connections, clock=context.clock)


class SigningUpstream(IssuingSettings, IssuingCAs, OverHTTP):
    """A CA with a REST API. The gateway answers certConf itself, and key updates go up under its own name."""

    recipient: ClassVar[None] = None

    unconfirmed: Unconfirmed = Unconfirmed.revoke
    """What becomes of a certificate that its device rejects or does not confirm in time: "revoke" has the API revoke
    it; "report" logs it; "leave" does nothing.
    """


class StepCAUpstream(SigningUpstream):
    """smallstep step-ca (docs/ca-step-ca.md); serves p10cr and rr."""

    kind: Literal["step_ca"]
    """ "step_ca": smallstep step-ca."""
    replays_repeats: ClassVar[bool] = False
    url: APIURL
    """Where step-ca is, https, under a name it has among its dnsNames, like https://ca.example.net:9000."""
    root_path: PublicPath
    """Root certificate of step-ca, PEM: its fingerprint is in every token, and it is what TLS trusts, unless
    tls_ca_path is given.
    """
    provisioner: str = Field(min_length=1)
    """Name of the JWK provisioner, as `step ca provisioner list` has it."""
    provisioner_key_path: SecretPath = Field(repr=False)
    """Its private key, EC on P-256, PEM (PKCS#8), or one line that names a key in an HSM (docs/hsm.md); mode 0600."""
    provisioner_key_password_path: SecretPath | None = Field(default=None, repr=False)
    """File with the key's password (a newline at its end is dropped); mode 0600. Without it the key must be
    unencrypted.
    """

    @property
    def tls_roots_path(self) -> Path:
        """Roots that TLS trusts: step-ca's own, unless the table names others."""
        return self.tls_ca_path or self.root_path

    def open(self, context: UpstreamContext) -> StepCASigner:
        """Return step-ca; nothing is connected yet.

        Raises:
            ConfigError: Files that the table names cannot be used.
        """
        from ra_gateway.keys import load_certificates, load_private_key, read_password
        from ra_gateway.upstream.rest import RestClient
        from ra_gateway.upstream.step_ca import Provisioner, StepCASigner

        setting = context.setting
        (root, *_) = load_certificates(self.root_path, f"{setting}.root_path[0]")
        path = self.provisioner_key_password_path
        provisioner = Provisioner(
            self.provisioner,
            load_private_key(
                self.provisioner_key_path,
                read_password(path),
                f"{setting}.provisioner_key_path",
            ),
            setting=f"{setting}.provisioner_key_path",
            root=root,
            clock=context.clock,
        )
        client = RestClient(self.url, self.connections(setting, self.url))
        return StepCASigner(client, provisioner)


class VaultUpstream(SigningUpstream):
    """The PKI engine of HashiCorp Vault or OpenBao (docs/ca-vault.md); serves p10cr and rr."""

    kind: Literal["vault"]
    """ "vault": Vault or OpenBao."""
    replays_repeats: ClassVar[bool] = False
    url: APIURL
    """Where Vault is, https, like https://vault.example.net:8200."""
    mount: PathSegments = "pki"
    """Where the PKI engine is mounted."""
    role: PathSegments
    """Role of the engine that decides what is issued."""
    verbatim: bool = False
    """Whether subject and extensions are taken from the request as they are (sign-verbatim). Otherwise (sign) common
    name and subjectAltName are, and the rest of the subject is the role's.
    """
    namespace: PathSegments | None = None
    """Namespace of Vault Enterprise or OpenBao; by default none."""
    token_path: SecretPath = Field(repr=False)
    """File with the token, mode 0600; read for each request, so that Vault Agent may renew it."""

    def open(self, context: UpstreamContext) -> VaultSigner:
        """Return the engine; nothing is connected yet.

        Raises:
            ConfigError: Files that the table names cannot be used.
        """
        from ra_gateway.upstream.rest import RestClient
        from ra_gateway.upstream.vault import VaultSigner

        client = RestClient(self.url, self.connections(context.setting, self.url))
        return VaultSigner(self, client)


class RestUpstream(SigningUpstream):
    """An API that certifies public keys (docs/upstream-plugins.md); serves every request but genm."""

    kind: Literal["rest"]
    """ "rest": an API that certifies public keys."""
    url: APIURL
    """Where requests for certificates are posted, https."""
    revoke_url: APIURL | None = None
    """Where revocations are posted, https; by default rr is rejected."""
    token_path: SecretPath | None = Field(default=None, repr=False)
    """File with the token that is sent as Authorization: Bearer, mode 0600, read for each request; by default none, for
    an API that knows the gateway by tls_certificate_path.
    """
    replays_repeats: bool = False
    """Whether the API answers a repeated request, which has the same request_id_field, with the same certificate. With
    false, a request it may have seen is not sent again.
    """
    public_key_field: str = Field(default="publicKey", min_length=1)
    """JSON member with the public key: base64 of SubjectPublicKeyInfo."""
    subject_field: str = "subject"
    """JSON member with the subject, in the form of RFC 4514; "" leaves it out, as in the next three."""
    san_field: str = "subjectAltNames"
    """JSON member with the list of names, such as "dns:enb1.example.net" and "ip:192.0.2.1"."""
    csr_field: str = "csr"
    """JSON member with the PKCS#10 of a p10cr, PEM."""
    request_id_field: str = "requestId"
    """JSON member with 64 hexadecimal digits, the same when a request is sent again."""
    certificate_field: str = Field(default="certificate", min_length=1)
    """JSON member of answers with the certificate, PEM or base64 of DER."""
    chain_field: str = "chain"
    """JSON member of answers with CA certificates, the same or a list."""
    error_field: str = "error"
    """JSON member of answers 400 and 422 that says what is wrong."""

    def open(self, context: UpstreamContext) -> RestSigner:
        """Return the API; nothing is connected yet.

        Raises:
            ConfigError: Files that the table names cannot be used.
        """
        from ra_gateway.upstream.rest import RestClient, RestSigner

        connections = self.connections(context.setting, self.url, self.revoke_url)
        return RestSigner(
            self,
            RestClient(self.url, connections),
            None if self.revoke_url is None else RestClient(self.revoke_url, connections),
        )


class PluginUpstream(UpstreamSettings, IssuingCAs, AnswerTrust):
    """A CA that another package knows how to speak to (docs/upstream-plugins.md)."""

    kind: Literal["plugin"]
    """ "plugin": a CA of another package."""
    certconf: Literal[CertConf.forward, CertConf.local] = CertConf.local
    """ "local" has the gateway answer certConf; "forward", for plug-ins that speak CMP themselves, lets the CA."""
    plugin: str = Field(min_length=1)
    """Name of an entry point in the group ra_gateway.upstreams of an installed package."""
    settings: Mapping[str, object] = Field(default={})
    """Whatever the plug-in wants to be told; no secrets, but files of such."""
    replays_repeats: bool = False
    """Whether the CA answers an identical repeat with the same answer. With false, a request it may have seen is not
    sent again.
    """
    deadline_seconds: Seconds = Field(default=15.0, le=300)
    """Time for a whole exchange with the CA, in seconds; then the device gets systemUnavail. The default is that of the
    other kinds.
    """

    def open(self, context: UpstreamContext) -> CACore | CertificateSigner:
        """Return what the plug-in makes; errors as of `make_plugin`."""
        from ra_gateway.upstream.plugins import make_plugin

        inner = replace(context, setting=f"{context.setting}.settings")
        return make_plugin(self.plugin, self.settings, inner)


RemoteUpstream = CMPHTTPUpstream | StepCAUpstream | VaultUpstream | RestUpstream | PluginUpstream
UpstreamConfig = BundledUpstream | RemoteUpstream
"""The table of an upstream: which one is told by its `kind`."""

TABLES: Final[Mapping[str, type[BundledUpstream | RemoteUpstream]]] = {
    get_args(table.model_fields["kind"].annotation)[0]: table for table in get_args(UpstreamConfig)
}
"""The table of every kind, by its name."""
