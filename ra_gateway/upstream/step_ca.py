"""smallstep step-ca: PKCS#10 requests signed under one-time tokens of a JWK provisioner.

The RA holds the provisioner's key. For each request it signs a token (a JWT, RFC 7519, with ES256) that says which
names the certificate may have; step-ca compares them with the request and takes no token twice.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import attributes
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import (
    ConfigError,
    PKIFailureInfo,
    Problem,
    ServiceFailure,
    TemplateRefused,
    UpstreamUnavailable,
)
from ra_gateway.keys import KeySigner
from ra_gateway.upstream import rest
from ra_gateway.upstream.signing import (
    SignedCertificate,
    SigningRequest,
    csr_of,
    require_revocation,
)

TOKEN_SECONDS: Final = 60
"""How long a token is good for: longer than any request is under way, and step-ca forgives a minute of skew."""

_COORDINATE_OCTETS: Final = 32
_TOKEN_SANS: Final = frozenset({"dns", "ip", "email", "uri"})


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


class Provisioner:
    """A JWK provisioner of step-ca, and the RA's hold on its key.

    Args:
        name: As step-ca has it; becomes `iss`.
        private_key: EC on P-256, also one in an HSM.
        setting: Dotted path of the key's setting.
        root: The root of step-ca; its fingerprint becomes `sha`.
        clock: Aware UTC.

    Raises:
        ConfigError: Another kind of key.
    """

    def __init__(
        self,
        name: str,
        private_key: Any,
        *,
        setting: str,
        root: Certificate,
        clock: Callable[[], datetime],
    ) -> None:
        key = private_key.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP256R1
        ):
            raise ConfigError(
                [
                    Problem(
                        setting,
                        "is not an EC key on P-256, which is what ES256 signs with",
                        "Give the key of a JWK provisioner of kind EC, P-256 (step-ca's default)",
                    )
                ]
            )
        self._name = name
        self._signer = KeySigner(private_key)
        self._root = hashlib.sha256(root.der).hexdigest()
        self._clock = clock
        self.key_id = _thumbprint(key)

    async def token(
        self, audience: str, subject: str, *, sans: tuple[str, ...] = (), token_id: str
    ) -> str:
        """Return a one-time token.

        Args:
            audience: URL it is for.
            subject: Name to be certified, or serial number to be revoked.
            sans: Every name in subjectAltName.
            token_id: No two tokens with the same one are taken.

        Raises:
            UpstreamUnavailable: The key cannot sign; nothing was sent.
        """
        now = int(self._clock().timestamp())
        claims: dict[str, object] = {
            "aud": audience,
            "exp": now + TOKEN_SECONDS,
            "iat": now,
            "iss": self._name,
            "jti": token_id,
            "nbf": now,
            "sha": self._root,
            "sub": subject,
        }
        if sans:
            claims["sans"] = list(sans)
        header: dict[str, object] = {"alg": "ES256", "kid": self.key_id, "typ": "JWT"}
        signed = f"{_base64url(_json(header))}.{_base64url(_json(claims))}"
        try:
            signature = await self._signer.sign(signed.encode())
        except ServiceFailure as error:
            raise UpstreamUnavailable(
                f"the provisioner's key: {error.detail}", delivered=False
            ) from error
        return f"{signed}.{_base64url(_raw_signature(signature))}"


def _thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the key's JWK thumbprint (RFC 7638), by which step-ca knows a provisioner's key."""
    numbers = key.public_numbers()
    jwk: dict[str, object] = {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(_COORDINATE_OCTETS, "big")),
        "y": _base64url(numbers.y.to_bytes(_COORDINATE_OCTETS, "big")),
    }
    return _base64url(hashlib.sha256(_json(jwk)).digest())


def _raw_signature(der: bytes) -> bytes:
    """Return an ECDSA signature as JOSE has it: r and s, one after the other (RFC 7518 3.4)."""
    return b"".join(
        number.to_bytes(_COORDINATE_OCTETS, "big") for number in decode_dss_signature(der)
    )


class StepCASigner:
    """A `CertificateSigner` in front of step-ca.

    Args:
        client: Its URL is step-ca's, under a name that step-ca itself has among its `dnsNames`.
        provisioner: Signs the tokens.
    """

    def __init__(self, client: rest.RestClient, provisioner: Provisioner) -> None:
        self._client = client
        self._provisioner = provisioner

    async def sign(self, request: SigningRequest, *, deadline_seconds: float) -> SignedCertificate:
        """Have a PKCS#10 signed.

        Args:
            deadline_seconds: Total time allowed.

        Raises:
            RequestRefused: No PKCS#10, names that no token can have, or step-ca refuses it (400, 403).
            UpstreamUnavailable, UpstreamBroken: As `RestClient.post`; broken is every other status, too.
        """
        csr = rest.pem_csr(csr_of(request))
        sans = _token_sans(request)
        token = await self._provisioner.token(
            self._client.target("1.0/sign"),
            _token_subject(request, sans),
            sans=sans,
            # Not random: were a request ever sent twice, step-ca would refuse the second.
            token_id=request.operation_id.hex(),
        )
        answer = await self._client.post(
            "1.0/sign", {"csr": csr, "ott": token}, deadline_seconds=deadline_seconds
        )
        _require(answer)
        return rest.signed_certificate(answer.document, "crt", "certChain", "ca")

    async def revoke(
        self, issuer_der: bytes, serial_number: int, reason: int, *, deadline_seconds: float
    ) -> None:
        """Have a certificate revoked, "passively": step-ca knows no other way, and has one issuing CA.

        Raises:
            RequestRefused: step-ca refuses; with certRevoked where it was revoked before. Or it is to release it from
                hold.
            UpstreamUnavailable, UpstreamBroken: As `sign`.
        """
        require_revocation(reason)
        serial = str(serial_number)
        token = await self._provisioner.token(
            self._client.target("1.0/revoke"), serial, token_id=secrets.token_hex(32)
        )
        answer = await self._client.post(
            "1.0/revoke",
            {
                "serial": serial,
                "ott": token,
                "reasonCode": reason,
                "reason": "asked for with CMP",
                "passive": True,
            },
            deadline_seconds=deadline_seconds,
        )
        if not answer.succeeded and "already revoked" in answer.text("message"):
            raise rest.refused(answer.text("message"), PKIFailureInfo.certRevoked)
        _require(answer)

    async def look(self) -> None:
        """Check that requests can be sent there now (`Looked`)."""
        await self._client.look()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _require(answer: rest.Answer) -> None:
    """Check that step-ca did what it was asked to do; 401 is about our token, 403 about the request."""
    if answer.succeeded:
        return
    said = answer.text("message")
    if answer.status == HTTPStatus.FORBIDDEN:
        raise rest.refused(said, PKIFailureInfo.notAuthorized)
    raise rest.refused(said) if answer.status in rest.REFUSALS else rest.broken(answer, said)


def _token_sans(request: SigningRequest) -> tuple[str, ...]:
    kinds = [san.partition(":") for san in request.san]
    others = sorted({kind for kind, _, _ in kinds} - _TOKEN_SANS)
    if others:
        raise TemplateRefused(
            f"subjectAltName of kind {', '.join(others)}, which no token of step-ca can name",
            rule="R88",
        )
    return tuple(value for _, _, value in kinds)


def _token_subject(request: SigningRequest, sans: tuple[str, ...]) -> str:
    """Return whom a token is for: step-ca wants the common name among its names, or any name."""
    names = [text for oid, text in attributes(request.subject_der) if oid == OID.commonName]
    subject = next(iter((*reversed(names), *sans)), "")  # of several, step-ca reads the last
    if not subject:
        raise TemplateRefused("neither a common name nor a subjectAltName", rule="R51")
    return subject
