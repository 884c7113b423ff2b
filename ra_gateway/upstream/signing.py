"""A CA that speaks no CMP but signs what it is sent: made a `CACore` by answering CMP in its place.

`SigningCA` is a CMP responder inside the gateway. It reads the message that the RA has protected, has a
`CertificateSigner` certify the key in it, and answers ip, cp, kup or rp under a key that lives as long as the
process. The gateway pins that key's certificate, so that the answer walks through the same checks as one that came
from far away.

Whoever writes a `CertificateSigner` decides between three ways to fail, which devices are told differently:

    RequestRefused        the CA refuses this request: a rejection with its failInfo and `phrase`
    UpstreamUnavailable   nobody answered; `delivered` is False only if certainly nothing was issued
    UpstreamBroken        the answer cannot be used, or the CA refuses the RA itself
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar, runtime_checkable

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ra_gateway.cmp.bodies import (
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevRepContent,
    cert_rep_body,
    rev_rep_body,
)
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import Extension
from ra_gateway.cmp.header_checks import NONCE_OCTETS, RELAYED, HeaderRules
from ra_gateway.cmp.malformed import refusal_of
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import NULL_DN, general_names, same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.requests import (
    REMOVE_FROM_CRL,
    AuthenticatedRequest,
    done_status,
    read_request,
    read_revocation,
)
from ra_gateway.cmp.responder import protect_reply, refusal_body, reply_header
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import AuthenticatedMessage, authenticate_registered
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    MalformedMessage,
    PKIFailureInfo,
    RequestRefused,
    ServiceFailure,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.keys import KeySigner, sign_certificate
from ra_gateway.ra.ports import look

T = TypeVar("T")

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.upstream")

_SUBJECT: Final = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signing upstream")])

_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280 4.1.2.5: no end. The key goes with the process; no clock should end it sooner."""

_CHAIN_MAX_COUNT: Final = 16
"""CA certificates taken with an issued one: far more than any chain has, fewer than the answer's reader takes."""

_GRACE_SECONDS: Final = 1.0
"""How much later than its deadline a signer is cut off, since it knows better whether anything was sent."""

_RULES: Final = HeaderRules(Strictness.lenient).relaxed_by(RELAYED)


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What is to be certified. Proof of possession was verified, and the names are those the RA allows.

    Args:
        body_type: ir, cr, kur or p10cr.
        public_key_der: SubjectPublicKeyInfo.
        subject_der: Name.
        extensions: Those asked for, subjectAltName among them.
        csr_der: The PKCS#10 of a p10cr as the device signed it. None for any other body type: the RA has not
            the device's key, so that nobody can make one.
        not_before, not_after: The validity asked for, aware UTC; None where the device leaves it to the CA.
        operation_id: 32 octets, equal when the same request is sent again, unlike for any other.
    """

    body_type: BodyType
    public_key_der: bytes
    subject_der: bytes
    extensions: tuple[Extension, ...]
    csr_der: bytes | None
    not_before: datetime | None
    not_after: datetime | None
    operation_id: bytes

    @property
    def san(self) -> tuple[str, ...]:
        """The names in subjectAltName, such as "dns:enb1.example.net" or "ip:192.0.2.1"."""
        for extension in self.extensions:
            if extension.oid == OID.subjectAltName:
                return general_names(extension.value)
        return ()


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """What a CA issued.

    Args:
        certificate_der: The certificate.
        chain_der: CA certificates that came with it, in any order; needed where the operator's trust domain
            does not know the issuing CA.
    """

    certificate_der: bytes
    chain_der: tuple[bytes, ...] = ()


@runtime_checkable
class CertificateSigner(Protocol):
    """A CA's API for signing and revoking.

    Both methods raise `RequestRefused`, `UpstreamUnavailable` or `UpstreamBroken`, as above.
    """

    async def sign(self, request: SigningRequest, *, deadline_seconds: float) -> SignedCertificate:
        """Have a certificate issued.

        Args:
            deadline_seconds: Total time allowed.
        """

    async def revoke(
        self, issuer_der: bytes, serial_number: int, reason: int, *, deadline_seconds: float
    ) -> None:
        """Have a certificate revoked; return when it is.

        Args:
            issuer_der: Name of its issuer.
            reason: CRLReason (RFC 5280 5.3.1).
            deadline_seconds: Total time allowed.
        """

    async def close(self) -> None:
        """Release connections."""


def not_offered(sentence: str) -> RequestRefused:
    """Return the refusal of something that a CA's API cannot do.

    Args:
        sentence: What it can do instead, for whoever configures device and gateway; the device is told it too.
    """
    return RequestRefused(sentence, fail_info=PKIFailureInfo.badRequest, phrase=sentence)


def require_revocation(reason: int) -> None:
    """Refuse a release from hold where the CA's API does nothing but revoke, and for good.

    Raises:
        RequestRefused: badRequest.
    """
    if reason == REMOVE_FROM_CRL:
        raise not_offered("The certification authority releases no certificate from hold.")


def csr_of(request: SigningRequest) -> bytes:
    """Return the PKCS#10 of a request, for APIs that take nothing else.

    Raises:
        RequestRefused: There is none.
    """
    if request.csr_der is None:
        raise not_offered(
            f"The certification authority signs PKCS#10 requests only, and a {request.body_type.name} has none: "
            "use p10cr."
        )
    return request.csr_der


@dataclass(eq=False, repr=False)
class SigningCA:
    """A `CACore` in front of a `CertificateSigner`.

    Args:
        name: Of the upstream, for texts.
        signer: Closed with this.
        authorities: Called for the certificates of the RA, the current one and those of before: what they
            protect is heard, nothing else.
        operator: Vouches for them.
        clock: Aware UTC.
        random_octets: Draws as many random octets as it is asked for.
        issuers: The CAs behind the signer. Where they are given, an rr that names another issuer is refused:
            most APIs revoke by serial number alone. Empty takes every issuer.
    """

    name: str
    signer: CertificateSigner
    _: KW_ONLY
    authorities: Callable[[], Collection[Certificate]]
    operator: TrustDomain
    clock: Callable[[], datetime]
    random_octets: Callable[[int], bytes]
    issuers: tuple[Certificate, ...] = ()

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = sign_certificate(
            _SUBJECT, key, _SUBJECT, key, not_before=_NOT_BEFORE, not_after=_NOT_AFTER
        )
        self._credential = Credential(certificate, (), KeySigner(key))

    @property
    def certificate(self) -> Certificate:
        """What protects the answers; to be pinned, as it chains to nothing."""
        return self._credential.certificate

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        """Answer one PKIMessage of the RA.

        Args:
            der: DER of one PKIMessage.
            path: Ignored: the signer's settings say what it asks for.
            deadline_seconds: Total time allowed.

        Raises:
            UpstreamUnavailable: No answer; `delivered` tells whether the CA may have seen the request.
            UpstreamBroken: The signer's answer cannot be used.
        """
        try:
            message = PKIMessage.from_der(der)
        except MalformedMessage as error:
            raise UpstreamBroken(f"{self.name} was sent no PKIMessage: {error}") from error
        chain: tuple[bytes, ...] = ()
        try:
            body_der, chain = await self._answer(message, deadline_seconds)
        except ServiceFailure:
            raise
        except CMPError as error:
            refusal = error
            if isinstance(error, MalformedMessage):
                refusal = refusal_of(message, error)
            log.warning(
                "upstream.refused",
                upstream=self.name,
                transaction_id=(message.header.transaction_id or b"").hex(),
                detail=refusal.detail,
            )
            body_der = refusal_body(refusal, message)
        header = reply_header(
            message.header, sender_nonce=self.random_octets(NONCE_OCTETS), now=self.clock()
        )
        return await protect_reply(header, body_der, self._credential, chain)

    async def look(self) -> None:
        """Check that the signer can be asked now (`Looked`)."""
        await look(self.signer)

    async def close(self) -> None:
        """Close the signer."""
        await self.signer.close()

    async def _answer(
        self, message: PKIMessage, deadline_seconds: float
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """Return the body of the answer, and certificates that go along."""
        if message.body_type not in CERT_RESPONSE_TO and message.body_type is not BodyType.rr:
            raise HeaderRefused(
                f"{self.name} has no answer to {message.body_type.name}", rule="R142"
            )
        authenticated = authenticate_registered(
            message, self.authorities(), self.operator, _RULES, self.clock()
        )
        if message.body_type is BodyType.rr:
            return await self._revoke(authenticated, deadline_seconds), ()
        request = read_request(authenticated, _RULES, ra_verified_allowed=True)
        signed = await self._guarded(
            self.signer.sign(_signing_request(request), deadline_seconds=deadline_seconds),
            deadline_seconds,
        )
        self._check(signed)
        response = CertResponse(
            request.request.cert_req_id, PKIStatusInfo(PKIStatus.accepted), signed.certificate_der
        )
        body_type = CERT_RESPONSE_TO[message.body_type]
        return cert_rep_body(body_type, CertRepMessage((response,))), signed.chain_der

    async def _revoke(self, authenticated: AuthenticatedMessage, deadline_seconds: float) -> bytes:
        asked = read_revocation(authenticated, _RULES)
        if self.issuers and not any(
            same_name(asked.issuer_der, issuer.subject_der) for issuer in self.issuers
        ):
            raise RequestRefused(
                f"the certificate to be revoked is of none of the CAs behind {self.name}",
                fail_info=PKIFailureInfo.badCertId,
                rule="R131",
                phrase="The certificate was issued by another certification authority.",
            )
        await self._guarded(
            self.signer.revoke(
                asked.issuer_der,
                asked.serial_number,
                asked.reason,
                deadline_seconds=deadline_seconds,
            ),
            deadline_seconds,
        )
        return rev_rep_body(RevRepContent((done_status(asked.reason),)))

    async def _guarded(self, call: Awaitable[T], deadline_seconds: float) -> T:
        """Await a signer, which may be anybody's: what it may raise is made what the RA expects."""
        try:
            async with asyncio.timeout(deadline_seconds + _GRACE_SECONDS):
                return await call
        except (RequestRefused, UpstreamUnavailable, UpstreamBroken):
            raise
        except TimeoutError as error:
            raise UpstreamUnavailable(
                f"{self.name} did not answer in {deadline_seconds:g} s", delivered=True
            ) from error
        except CMPError as error:
            raise UpstreamBroken(f"{self.name}: {error}", rule=error.rule) from error
        except Exception as error:
            # A bug in the signer, which may have issued; its text might hold anything, so that only the
            # log has it.
            log.exception("upstream.failed", upstream=self.name)
            raise UpstreamBroken(
                f"{self.name} failed with {type(error).__name__}; the log has more"
            ) from error

    def _check(self, signed: SignedCertificate) -> None:
        """Refuse what is no certificate; whether it is the right one is checked with every CA's answer."""
        if len(signed.chain_der) > _CHAIN_MAX_COUNT:
            raise UpstreamBroken(
                f"{self.name} sent {len(signed.chain_der)} CA certificates; at most "
                f"{_CHAIN_MAX_COUNT} are taken",
                rule="R87",
            )
        try:
            for der in (signed.certificate_der, *signed.chain_der):
                load_certificate(der)
        except MalformedMessage as error:
            raise UpstreamBroken(f"{self.name}: {error}", rule="R87") from error


def _signing_request(request: AuthenticatedRequest) -> SigningRequest:
    message, template = request.message, request.request.template
    operation = (message.header.transaction_id or b"") + message.body_der
    return SigningRequest(
        body_type=message.body_type,
        public_key_der=request.public_key_der,
        subject_der=template.subject_der or NULL_DN,
        extensions=template.extensions,
        csr_der=message.body_content if request.request.is_pkcs10 else None,
        not_before=template.not_before,
        not_after=template.not_after,
        operation_id=hashlib.sha256(operation).digest(),
    )
