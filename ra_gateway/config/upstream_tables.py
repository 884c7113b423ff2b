"""The ways to CAs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from ra_gateway.ra.endpoints import CertConf, IssuingSettings, Unconfirmed, UpstreamSettings
from ra_gateway.settings.files import PublicPath, SecretPath
from ra_gateway.settings.values import (
    APIURL,
    CMPURL,
    PathSegments,
    ProxyURL,
    Seconds,
    Table,
)
from ra_gateway.upstream.pool import Order


class IssuingCAs(Table):
    """Which CAs may have issued what comes this way."""

    issuing_ca_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="CA certificates, PEM, one of which an issued certificate must chain through; "
        "by default the operator's issuing CAs and roots. Anything else the CA answers is refused.",
    )


class OverHTTP(Table):
    """How HTTP is spoken with a CA."""

    connect_timeout_seconds: Seconds = Field(
        default=3.0,
        le=60,
        description="Time to connect, in seconds. The default spans one retransmitted SYN (1 s) "
        "and its answer.",
    )
    deadline_seconds: Seconds = Field(
        default=15.0,
        le=300,
        description="Time for a whole exchange with the CA, in seconds; then the device gets "
        "systemUnavail. The default lets a CA with an HSM and a queue finish, and ends before "
        "clients usually give up (30 s).",
    )
    tls_ca_path: PublicPath | None = Field(
        default=None,
        description="Roots, PEM, that the certificate of an https URL must chain to; by default those of the "
        "system.",
    )
    tls_certificate_path: PublicPath | None = Field(
        default=None,
        description="Certificate, PEM, its chain after it, that the gateway shows to an https URL that asks for "
        "one; by default none.",
    )
    tls_key_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="Secret file with the key of tls_certificate_path, PEM.",
    )
    tls_key_password_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="Secret file with the password of tls_key_path; by default it is not encrypted.",
    )
    proxy: ProxyURL | None = Field(
        default=None,
        description="HTTP proxy on the way, like http://proxy.example.net:3128; by default none, whatever the "
        "environment says.",
    )
    max_response_bytes: int = Field(
        default=262_144,
        ge=4096,
        le=16_777_216,
        description="Largest answer taken from the CA, in bytes. The default is four times the "
        "largest request: the answer carries chains and caPubs besides the certificate.",
    )
    max_connections: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Most connections to each URL of this CA. The default serves 640 exchanges a second at "
        "100 ms each, more than most CAs issue.",
    )


class AnswerTrust(Table):
    """Whom the answers of a CA that speaks CMP may be signed by."""

    trust_anchors_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Roots, PEM, that the signer of the CA's answers must chain to; by default "
        "the operator's.",
    )
    ca_certificate_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Certificates, PEM, that may sign the CA's answers as they are: of a CA that "
        "signs CMP with its certificate-signing key (EJBCA), and of an RA that stands in for the CA, such as "
        "another gateway. Without being named, only the operator's issuing CAs and certificates with cmcCA may.",
    )


class BundledUpstream(UpstreamSettings, IssuingCAs):
    """The CA that comes with the gateway, in the same process; needs `[ca]`."""

    deadline_seconds: ClassVar[float] = 15.0
    kind: Literal["bundled"] = Field(description='"bundled": the CA of `[ca]`, in this process.')
    replays_repeats: bool = Field(
        default=True,
        description="Whether the CA answers an identical repeat with the same answer; the bundled "
        "one does, so after a crash the gateway may ask it again.",
    )


class CMPHTTPUpstream(UpstreamSettings, IssuingCAs, AnswerTrust, OverHTTP):
    """A CA that speaks CMP over HTTP: EJBCA, another bundled CA, any of RFC 9483."""

    kind: Literal["cmp_http"] = Field(description='"cmp_http": a CA that speaks CMP over HTTP.')
    url: CMPURL | None = Field(
        default=None,
        description="Where to post, http or https, like "
        "http://ca.example.net:8080/ejbca/publicweb/cmp/ra. Required, unless urls is given.",
    )
    urls: tuple[CMPURL, ...] = Field(
        default=(),
        max_length=16,
        description="In place of url: several that lead to the same CA, whose nodes share what they know. "
        "Another one is tried where that cannot issue twice: when the first never had the message, when the "
        "message asks for no certificate, or with replays_repeats.",
    )
    order: Order = Field(
        default=Order.active_standby,
        description='Which of urls an exchange begins with: "active_standby" the first that works; '
        '"round_robin" each in turn.',
    )
    replays_repeats: bool = Field(
        default=False,
        description="Whether the CA answers an identical repeat with the same answer. true for a "
        "CA that does not (EJBCA) may issue twice; with false, a request the CA may have seen is "
        "not sent again. With urls, whether each gives the answers of the others.",
    )
    try_deadline_seconds: Seconds = Field(
        default=5.0,
        le=300,
        description="Time after which an exchange turns to the next of urls, in seconds, if it may. The default "
        "leaves time for three within deadline_seconds, and is more than connecting takes.",
    )
    breaker_failures: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="So many exchanges failed in a row at a URL, and it is left out for a while. The default is "
        "more than one lost connection causes, and soon reached when a CA is gone. Answers that are not CMP do "
        "not count, HTTP 429 and 503 count at once.",
    )
    breaker_seconds: Seconds = Field(
        default=5.0,
        le=60,
        description="How long it is left out at first, in seconds; then one exchange tries it, and each time that "
        "fails the time doubles, up to 60 s. The default is less than devices wait before they try again.",
    )
    probe_seconds: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Time between two probes of each of urls, in seconds; 0 for none. A probe is a HEAD request, "
        "which cannot issue anything. The default finds a dead one within breaker_seconds or two, at no load "
        "worth counting. A single URL is not probed.",
    )
    batch_window_ms: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="How long a message waits for others, in milliseconds, so that they go up together as one nested "
        "(a batch, RFC 9483 5.2.2.2); 0, the default, sends each at once, as most CAs take it. The bundled CA and "
        "another gateway take batches.",
    )
    batch_max: int = Field(
        default=16,
        ge=2,
        le=1000,
        description="Most messages of one batch. The default keeps the answers, at 8 kB each with their chains, "
        "within half of max_response_bytes.",
    )
    batch_max_bytes: int = Field(
        default=61_440,
        ge=4096,
        le=16_777_216,
        description="Most bytes of all messages of one batch. The default leaves 4 kB for the signature around it "
        "below the largest body that a gateway takes (its server.max_body_bytes).",
    )

    @property
    def every_url(self) -> tuple[str, ...]:
        """The URLs, in order of preference, by whichever key they were given."""
        return self.urls if self.url is None else (self.url,)


# --- CAs that speak no CMP ------------------------------------------------------------------------------------


class _SigningUpstream(IssuingSettings, IssuingCAs, OverHTTP):
    """A CA with a REST API. The gateway answers certConf itself, and key updates go up under its own name."""

    recipient: ClassVar[None] = None

    unconfirmed: Unconfirmed = Field(
        default=Unconfirmed.revoke,
        description="What becomes of a certificate that its device rejects or does not confirm in time: "
        '"revoke" has the API revoke it; "report" logs it; "leave" does nothing.',
    )


class StepCAUpstream(_SigningUpstream):
    """smallstep step-ca (docs/ca-step-ca.md); serves p10cr and rr."""

    kind: Literal["step_ca"] = Field(description='"step_ca": smallstep step-ca.')
    replays_repeats: ClassVar[bool] = False
    url: APIURL = Field(
        description="Where step-ca is, https, under a name it has among its dnsNames, like "
        "https://ca.example.net:9000.",
    )
    root_path: PublicPath = Field(
        description="Root certificate of step-ca, PEM: its fingerprint is in every token, and it is what TLS "
        "trusts, unless tls_ca_path is given.",
    )
    provisioner: str = Field(
        min_length=1,
        description="Name of the JWK provisioner, as `step ca provisioner list` has it.",
    )
    provisioner_key_path: SecretPath = Field(
        repr=False,
        description="Its private key, EC on P-256, PEM (PKCS#8), or one line that names a key in an HSM "
        "(docs/hsm.md); mode 0600.",
    )
    provisioner_key_password_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="File with the key's password (a newline at its end is dropped); mode 0600. Without it the "
        "key must be unencrypted.",
    )


class VaultUpstream(_SigningUpstream):
    """The PKI engine of HashiCorp Vault or OpenBao (docs/ca-vault.md); serves p10cr and rr."""

    kind: Literal["vault"] = Field(description='"vault": Vault or OpenBao.')
    replays_repeats: ClassVar[bool] = False
    url: APIURL = Field(description="Where Vault is, https, like https://vault.example.net:8200.")
    mount: PathSegments = Field(default="pki", description="Where the PKI engine is mounted.")
    role: PathSegments = Field(description="Role of the engine that decides what is issued.")
    verbatim: bool = Field(
        default=False,
        description="Whether subject and extensions are taken from the request as they are (sign-verbatim). "
        "Otherwise (sign) common name and subjectAltName are, and the rest of the subject is the role's.",
    )
    namespace: PathSegments | None = Field(
        default=None, description="Namespace of Vault Enterprise or OpenBao; by default none."
    )
    token_path: SecretPath = Field(
        repr=False,
        description="File with the token, mode 0600; read for each request, so that Vault Agent may renew it.",
    )


class RestUpstream(_SigningUpstream):
    """An API that certifies public keys (docs/upstream-plugins.md); serves every request but genm."""

    kind: Literal["rest"] = Field(description='"rest": an API that certifies public keys.')
    url: APIURL = Field(description="Where requests for certificates are posted, https.")
    revoke_url: APIURL | None = Field(
        default=None, description="Where revocations are posted, https; by default rr is rejected."
    )
    token_path: SecretPath | None = Field(
        default=None,
        repr=False,
        description="File with the token that is sent as Authorization: Bearer, mode 0600, read for each "
        "request; by default none, for an API that knows the gateway by tls_certificate_path.",
    )
    replays_repeats: bool = Field(
        default=False,
        description="Whether the API answers a repeated request, which has the same request_id_field, with the "
        "same certificate. With false, a request it may have seen is not sent again.",
    )
    public_key_field: str = Field(
        default="publicKey",
        min_length=1,
        description="JSON member with the public key: base64 of SubjectPublicKeyInfo.",
    )
    subject_field: str = Field(
        default="subject",
        description='JSON member with the subject, in the form of RFC 4514; "" leaves it out, as in the next '
        "three.",
    )
    san_field: str = Field(
        default="subjectAltNames",
        description='JSON member with the list of names, such as "dns:enb1.example.net" and "ip:192.0.2.1".',
    )
    csr_field: str = Field(
        default="csr", description="JSON member with the PKCS#10 of a p10cr, PEM."
    )
    request_id_field: str = Field(
        default="requestId",
        description="JSON member with 64 hexadecimal digits, the same when a request is sent again.",
    )
    certificate_field: str = Field(
        default="certificate",
        min_length=1,
        description="JSON member of answers with the certificate, PEM or base64 of DER.",
    )
    chain_field: str = Field(
        default="chain",
        description="JSON member of answers with CA certificates, the same or a list.",
    )
    error_field: str = Field(
        default="error", description="JSON member of answers 400 and 422 that says what is wrong."
    )


class PluginUpstream(UpstreamSettings, IssuingCAs, AnswerTrust):
    """A CA that another package knows how to speak to (docs/upstream-plugins.md)."""

    kind: Literal["plugin"] = Field(description='"plugin": a CA of another package.')
    certconf: Literal[CertConf.forward, CertConf.local] = Field(
        default=CertConf.local,
        description='"local" has the gateway answer certConf; "forward", for plug-ins that speak CMP themselves, '
        "lets the CA.",
    )
    plugin: str = Field(
        min_length=1,
        description="Name of an entry point in the group ra_gateway.upstreams of an installed package.",
    )
    settings: Mapping[str, object] = Field(
        default={},
        description="Whatever the plug-in wants to be told; no secrets, but files of such.",
    )
    replays_repeats: bool = Field(
        default=False,
        description="Whether the CA answers an identical repeat with the same answer. With false, a request it "
        "may have seen is not sent again.",
    )
    deadline_seconds: Seconds = Field(
        default=15.0,
        le=300,
        description="Time for a whole exchange with the CA, in seconds; then the device gets systemUnavail. The "
        "default is that of the other kinds.",
    )


UpstreamConfig = (
    BundledUpstream
    | CMPHTTPUpstream
    | StepCAUpstream
    | VaultUpstream
    | RestUpstream
    | PluginUpstream
)
