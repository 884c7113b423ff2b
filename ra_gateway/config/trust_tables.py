"""The tables of who is believed: the RA's own credential, algorithms, revocation, the operator."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from ra_gateway.cmp.quirks import Quirk
from ra_gateway.config.values import (
    DEFAULT_SIGNATURES,
    CRLSource,
    CurveName,
    FetchedURL,
    Host,
    SignatureName,
)
from ra_gateway.revocation.settings import Mode, NonceUse
from ra_gateway.settings.files import PublicPath, SecretPath, WrittenPath
from ra_gateway.settings.values import Seconds, Table, WholeSeconds


class RAConfig(Table):
    """The gateway's own credential: signs towards the CA and towards devices."""

    certificate_path: PublicPath
    """RA certificate, PEM. It needs digitalSignature, and must chain to the operator root that devices receive."""
    key_path: SecretPath = Field(repr=False)
    """Its private key, PEM (PKCS#8), or one line that names a key in an HSM (docs/hsm.md); mode 0600."""
    key_password_path: SecretPath | None = Field(default=None, repr=False)
    """File with the key's password (a newline at its end is dropped); mode 0600. Without it the key must be
    unencrypted.
    """
    chain_paths: tuple[PublicPath, ...] = ()
    """Intermediate CA certificates from the RA certificate's issuer up to, but without, the root; sent to devices and
    to the CA in extraCerts. A root among them is not: `send_root` of an upstream sends it to a CA that wants it.
    """
    begin_after_seconds: float = Field(default=60, ge=0, le=3600)
    """How many seconds changed files are known before transactions are begun with them: within this time, a minute by
    default, all gateways on one Redis are given them. Until then each ends what another one began. A start or a reload
    begins with them at once, and so does a gateway with its store in memory, or whose certificate has expired.
    """


class AlgorithmsConfig(Table):
    """What signatures and keys may be: in protection, proof of possession and certificates."""

    signatures: tuple[SignatureName, ...] = Field(default=DEFAULT_SIGNATURES, min_length=1)
    """Signature algorithms that are accepted; others get badAlg. The legacy ones (SHA-1, MD5) count only when listed
    here.
    """
    min_rsa_bits: int = Field(default=2048, ge=1024, le=16384)
    """Smallest RSA modulus, in bits; smaller keys get badAlg. The default is the least TS 33.310 lets be used; 1024 is
    for old devices only.
    """
    max_rsa_bits: int = Field(default=8192, ge=2048, le=16384)
    """Largest RSA modulus, in bits; larger keys get badAlg before they are loaded: twice the bits cost four times as
    much to verify with. The default is twice what CAs use for roots.
    """
    curves: tuple[CurveName, ...] = get_args(CurveName)
    """Elliptic curves that are accepted for ECDSA keys; empty for none."""


class RevocationConfig(Table):
    """How it is known which of a trust domain's certificates were revoked."""

    mode: Mode = Mode.off
    """ "off": nobody is asked; "soft": a revoked signer is refused, and one of which nobody can tell is accepted, with
    a note in the log; "hard": that one is refused too, with systemUnavail, until there is a fresh CRL of every CA above
    it, or a fresh OCSP answer about each certificate. A CA of `operator.intermediates_paths` of which nobody publishes
    anything stands by its being listed.
    """
    crl_paths: tuple[PublicPath, ...] = ()
    """Files with CRLs, DER or PEM, looked at every 10 s; replace them by renaming."""
    crl_urls: tuple[CRLSource, ...] = ()
    """http, https, ldap or ldaps URLs of CRLs, the latter like
    ldap://HOST/cn=CA,o=Operator?certificateRevocationList;binary; fetched before the gateway listens, and then in the
    background. Neither redirects nor referrals are followed, and a directory is asked without a login.
    """
    from_certificates: bool = False
    """Whether CRLs are also fetched from the URLs that this domain's certificates name (CRLDistributionPoints), once
    such a certificate protected a message. The first message of each CA is then refused in hard mode, and its repeat
    taken.
    """
    allowed_hosts: tuple[Host, ...] = ()
    """Hosts that URLs of certificates may name, like "crl.vendor.example" (usual port) or "crl.vendor.example:8080"; no
    others are ever connected to. Needed for `from_certificates` and `ocsp_from_certificates`.
    """
    refresh_seconds: WholeSeconds = Field(default=3600, le=604_800)
    """From one fetch to the next, in seconds; earlier when nextUpdate comes first or a fetch failed (after 15 s, then
    twice as long each time). The default bounds how late a revocation is heard of to what most CAs need to publish it.
    """
    timeout_seconds: Seconds = Field(default=10.0, le=300)
    """Time for one fetch, in seconds; the start waits for it once, and no longer. The default is enough for a CRL of
    100,000 entries (5 MB) at 4 Mbit/s.
    """
    max_crl_bytes: int = Field(default=20_000_000, ge=1024, le=1_000_000_000)
    """Largest CRL, in bytes; a larger one is refused. The default holds some 400,000 entries, which take some 50 MB of
    memory.
    """
    grace_seconds: Annotated[int, Field(ge=0)] = Field(default=0, le=2_592_000)
    """How long after its nextUpdate a CRL is still good, in seconds: for issuers that are late. The default takes
    nextUpdate at its word.
    """
    max_age_seconds: Annotated[int, Field(ge=0)] = Field(default=0, le=31_536_000)
    """Longest time since its thisUpdate that a CRL is good, in seconds, whatever its nextUpdate says; 0, the default,
    for no such limit. A CRL without nextUpdate is good only with it.
    """
    crl_cache_path: WrittenPath | None = None
    """Directory where CRLs from URLs are kept across restarts, made if its parent exists; they are verified when they
    are read again. Not to be shared between gateways. Without it, a gateway in hard mode that starts while a CRL's host
    is down refuses that domain.
    """
    ocsp_url: FetchedURL | None = None
    """http or https URL of an OCSP responder for all certificates of this domain. It is asked when a signer's
    certificate is seen, once its message is authenticated, but not about CAs that a fresh CRL covers; the answer is
    remembered. It must be signed by the certificate's issuer, or by a responder that this issuer certified
    (OCSPSigning; in hard mode with id-pkix-ocsp-nocheck, or covered by a CRL).
    """
    ocsp_from_certificates: bool = False
    """Whether the responders that this domain's certificates name (AuthorityInfoAccess) are asked as well, where
    `allowed_hosts` has their host.
    """
    ocsp_timeout_seconds: Seconds = Field(default=3.0, le=30)
    """How long a message waits for OCSP answers, in seconds; then nobody can tell, and `mode` decides. The default is
    well within the time that base stations wait for their own answer.
    """
    ocsp_cache_seconds: WholeSeconds = Field(default=3600, le=604_800)
    """Longest time an OCSP answer is used, in seconds; its nextUpdate may end it earlier. The default bounds how late a
    revocation is heard of to what it is with CRLs (`refresh_seconds`).
    """
    ocsp_nonce: NonceUse = NonceUse.send
    """ "require": an answer without the nonce of our request is refused, so that none can be played back; "send":
    answers made beforehand, which have none (RFC 5019), count until they end; "off": no nonce is sent, for responders
    that cannot bear one. The default works with every responder.
    """


class OperatorConfig(Table):
    """The operator's trust domain: signers of kur (and cr), and issuer of what devices receive."""

    anchors_paths: tuple[PublicPath, ...] = Field(min_length=1)
    """Operator root certificates, PEM; two during a change of the root."""
    intermediates_paths: tuple[PublicPath, ...] = ()
    """Issuing CA certificates below the roots, PEM."""
    algorithms: AlgorithmsConfig = AlgorithmsConfig()
    """What signatures and keys of operator certificates may be."""
    quirks: tuple[Quirk, ...] = ()
    """Rules that every device with an operator certificate may break, when it renews that and in all it asks for under
    it; each use is logged. Signatures over operator certificates are forgiven nothing.
    """
    revocation: RevocationConfig = RevocationConfig()
    """How it is known which operator certificates were revoked. What the bundled CA in this process revoked is known at
    once, whatever stands here.
    """
