"""What the tables of several kinds of upstreams have in common."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from ra_gateway.cmp.codes import MACKind
from ra_gateway.settings.files import PublicPath, SecretPath
from ra_gateway.settings.values import ProxyURL, Seconds, Table

if TYPE_CHECKING:
    import ssl

    from ra_gateway.upstream.connections import Connections
    from ra_gateway.upstream.shared_secret import SecretOfCA


class IssuingCAs(Table):
    """Which CAs may have issued what comes this way."""

    issuing_ca_paths: tuple[PublicPath, ...] = ()
    """CA certificates, PEM, one of which an issued certificate must chain through; by default the operator's issuing
    CAs and roots. Anything else the CA answers is refused.
    """


class AnswerTrust(Table):
    """Whom the answers of a CA that speaks CMP may be signed by."""

    trust_anchors_paths: tuple[PublicPath, ...] = ()
    """Roots, PEM, that the signer of the CA's answers must chain to; by default the operator's.

    Where one of them is the operator's own, those CAs below them count alone that `operator.intermediates_paths`
    lists, if it lists any.
    """
    ca_certificate_paths: tuple[PublicPath, ...] = ()
    """Certificates, PEM, that may sign the CA's answers as they are: of a CA that signs CMP with its
    certificate-signing key (EJBCA), and of an RA that stands in for the CA, such as another gateway. Without being
    named, only the operator's issuing CAs and certificates with cmcCA may.
    """


class OverHTTP(Table):
    """How HTTP is spoken with a CA."""

    connect_timeout_seconds: Seconds = Field(default=3.0, le=60)
    """Time to connect, in seconds. The default spans one retransmitted SYN (1 s) and its answer."""
    deadline_seconds: Seconds = Field(default=15.0, le=300)
    """Time for a whole exchange with the CA, in seconds; then the device gets systemUnavail. The default lets a CA with
    an HSM and a queue finish, and ends before clients usually give up (30 s).
    """
    tls_ca_path: PublicPath | None = None
    """Roots, PEM, that the certificate of an https URL must chain to; by default those of the system."""
    tls_certificate_path: PublicPath | None = None
    """Certificate, PEM, its chain after it, that the gateway shows to an https URL that asks for one; by default none.
    """
    tls_key_path: SecretPath | None = Field(default=None, repr=False)
    """Secret file with the key of tls_certificate_path, PEM."""
    tls_key_password_path: SecretPath | None = Field(default=None, repr=False)
    """Secret file with the password of tls_key_path; by default it is not encrypted."""
    proxy: ProxyURL | None = None
    """HTTP proxy on the way, like http://proxy.example.net:3128; by default none, whatever the environment says."""
    max_response_bytes: int = Field(default=262_144, ge=4096, le=16_777_216)
    """Largest answer taken from the CA, in bytes. The default is four times the largest request: the answer carries
    chains and caPubs besides the certificate.
    """
    max_connections: int = Field(default=64, ge=1, le=10_000)
    """Most connections to each URL of this CA. The default serves 640 exchanges a second at 100 ms each, more than most
    CAs issue.
    """

    @property
    def tls_roots_path(self) -> Path | None:
        """Roots that TLS trusts; None for those of the system."""
        return self.tls_ca_path

    def tls(self, setting: str, *urls: str | None) -> ssl.SSLContext | None:
        """Return how TLS is spoken with URLs of the CA; None where none of them is https.

        Args:
            setting: Dotted path of this table, for errors.

        Raises:
            ConfigError: A file cannot be used.
        """
        if not any(url is not None and url.lower().startswith("https:") for url in urls):
            return None
        from ra_gateway.upstream.tls import tls_context

        return tls_context(
            setting,
            ca_path=self.tls_roots_path,
            certificate_path=self.tls_certificate_path,
            key_path=self.tls_key_path,
            key_password_path=self.tls_key_password_path,
        )

    def connections(self, setting: str, *urls: str | None) -> Connections:
        """Return connections for URLs of the CA; arguments and errors as of `tls`."""
        from ra_gateway.upstream.connections import Connections

        return Connections(
            connect_timeout_seconds=self.connect_timeout_seconds,
            max_response_bytes=self.max_response_bytes,
            max_connections=self.max_connections,
            ssl_context=self.tls(setting, *urls),
            proxy=self.proxy,
        )


class CASecretConfig(Table):
    """`[upstreams.<name>.mac]`: messages to this CA are protected by a MAC, not by the RA's signature.

    Its answers may be either. What goes up nested is signed as ever.
    """

    reference: str = Field(min_length=1, max_length=64)
    """The name by which the CA knows the secret: senderKID, and commonName of the sender."""
    secret_path: SecretPath = Field(repr=False)
    """File with the secret (a newline at its end is dropped), 16 characters or more; mode 0600. A new one is taken up
    within seconds of its being put there, without a restart.
    """
    algorithm: MACKind = MACKind.pbm
    """ "pbm" is PasswordBasedMac, which every CA knows that has shared secrets; "pbmac1" what RFC 9481 would rather
    have. Both with SHA-256.
    """
    iterations: int = Field(default=1000, ge=100, le=1_000_000)
    """Iterations of the key derivation of what is sent; done once for each secret. The default is what CAs take that
    bound them, as EJBCA does.
    """
    max_iterations: int = Field(default=300_000, ge=100, le=10_000_000)
    """Most iterations of the key derivation of an answer under PBMAC1; one with more is not believed. The default takes
    what current servers send (262144). Of PasswordBasedMac, 10000 are taken, or `iterations` where that is more.
    """
    allow_weak_hmac: bool = False
    """Whether answers under HMAC-SHA1 are believed."""

    def open(
        self, setting: str, clock: Callable[[], datetime], before: SecretOfCA | None = None
    ) -> SecretOfCA:
        """Return the secret in its file.

        Args:
            setting: Dotted path of this table, for errors.
            clock: Aware UTC.
            before: What it takes the place of.

        Raises:
            ConfigError: It cannot be used.
        """
        from ra_gateway.upstream.shared_secret import SecretOfCA

        return SecretOfCA(self, setting, clock, before)
