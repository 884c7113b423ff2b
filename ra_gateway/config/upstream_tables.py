"""The ways to CAs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ra_gateway.config.values import CMPURL, DN, ProxyURL, PublicPath, Seconds, SecretPath, Table


class _Upstream(Table):
    """Settings of every way to a CA."""

    kur: Literal["reprotect", "nested", "forward"] = Field(
        default="reprotect",
        description='How a key update goes up: "reprotect" signed by the RA (CA in RA mode; the '
        'CA relies on the gateway\'s check of the old key); "nested" untouched inside an '
        'RA-signed message; "forward" untouched.',
    )
    certconf: Literal["forward", "local"] = Field(
        default="forward",
        description='"forward" lets the CA answer certConf; "local" has the gateway answer it, '
        "for a CA that ignores confirmations (EJBCA).",
    )
    recipient: DN | None = Field(
        default=None,
        description="Recipient in messages to the CA, in the form of RFC 4514; by default the "
        "issuer of the RA certificate. EJBCA selects its CA by it.",
    )
    issuing_ca_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="CA certificates, PEM, one of which an issued certificate must chain through; "
        "by default the operator's issuing CAs and roots. Anything else the CA answers is refused.",
    )
    expected_subject: Literal["requested", "any"] = Field(
        default="requested",
        description='"requested" refuses a certificate with another subject than asked for; "any" '
        "is for test servers that always return the same one.",
    )
    orig_message: bool = Field(
        default=False,
        description="Whether the device's own message goes along as origPKIMessage, for a CA that "
        "wants to see its protection and proof of possession.",
    )


class BundledUpstream(_Upstream):
    """The CA that comes with the gateway, in the same process; needs `[ca]`."""

    kind: Literal["bundled"] = Field(description='"bundled": the CA of `[ca]`, in this process.')
    replays_repeats: bool = Field(
        default=True,
        description="Whether the CA answers an identical repeat with the same answer; the bundled "
        "one does, so after a crash the gateway may ask it again.",
    )


class CMPHTTPUpstream(_Upstream):
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
    order: Literal["active_standby", "round_robin"] = Field(
        default="active_standby",
        description='Which of urls an exchange begins with: "active_standby" the first that works; '
        '"round_robin" each in turn.',
    )
    trust_anchors_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Roots, PEM, that the signer of the CA's answers must chain to; by default "
        "the operator's.",
    )
    ca_certificate_paths: tuple[PublicPath, ...] = Field(
        default=(),
        description="Certificates, PEM, that may sign the CA's answers as they are, for a CA that "
        "signs CMP with its certificate-signing key (EJBCA).",
    )
    replays_repeats: bool = Field(
        default=False,
        description="Whether the CA answers an identical repeat with the same answer. true for a "
        "CA that does not (EJBCA) may issue twice; with false, a request the CA may have seen is "
        "not sent again. With urls, whether each gives the answers of the others.",
    )
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

    @property
    def every_url(self) -> tuple[str, ...]:
        """The URLs, in order of preference, by whichever key they were given."""
        return self.urls if self.url is None else (self.url,)


UpstreamConfig = BundledUpstream | CMPHTTPUpstream
