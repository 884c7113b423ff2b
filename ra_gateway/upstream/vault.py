"""The PKI secrets engine of HashiCorp Vault and of OpenBao: PKCS#10 requests signed under a role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.upstream.rest import (
    REFUSALS,
    Answer,
    RestClient,
    TokenFile,
    broken,
    pem_csr,
    readable,
    refused,
    signed_certificate,
)
from ra_gateway.upstream.signing import SignedCertificate, SigningRequest, csr_of

_OUR_FAULT: Final = (
    "unknown role",
    "unsupported path",
    "no handler for route",
    "missing client token",
)
"""Beginnings of what Vault says with status 400 when the path or the token is wrong, not the request."""


class VaultSigner:
    """A `CertificateSigner` in front of a PKI secrets engine.

    Args:
        client: Its URL is Vault's, without /v1.
        mount: Where the engine is mounted, such as "pki" or "ran/pki".
        role: Decides what is issued.
        token: Read for each request, so that an agent may renew it.
        verbatim: Sign with `sign-verbatim`: subject and extensions as in the request. Otherwise with `sign`,
            which takes common name and subjectAltName from it, and the rest of the subject from the role.
        namespace: Of Vault Enterprise and OpenBao; "" for none.
    """

    def __init__(
        self,
        client: RestClient,
        *,
        mount: str,
        role: str,
        token: TokenFile,
        verbatim: bool = False,
        namespace: str = "",
    ) -> None:
        self._client = client
        self._sign_path = f"v1/{mount}/{'sign-verbatim' if verbatim else 'sign'}/{role}"
        self._revoke_path = f"v1/{mount}/revoke"
        self._token = token
        # Only requests with this header pass a Vault agent that asks for it, against forged ones.
        self._headers = {"X-Vault-Request": "true"}
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace

    async def sign(self, request: SigningRequest, *, deadline_seconds: float) -> SignedCertificate:
        """Have a PKCS#10 signed.

        Args:
            deadline_seconds: Total time allowed.

        Raises:
            RequestRefused: No PKCS#10, or the role does not allow it (400).
            UpstreamUnavailable, UpstreamBroken: As `RestClient.post`; broken is every other status, too.
        """
        csr = pem_csr(csr_of(request))
        data = await self._post(self._sign_path, {"csr": csr, "format": "pem"}, deadline_seconds)
        chain = data.get("ca_chain") or data.get("issuing_ca")
        return signed_certificate(data.get("certificate"), chain, "certificate")

    async def revoke(
        self, issuer_der: bytes, serial_number: int, reason: int, *, deadline_seconds: float
    ) -> None:
        """Have a certificate revoked; once more is harmless.

        Args:
            issuer_der: Ignored: the engine finds the issuer by the serial number.
            reason: Ignored: the engine's CRLs have no reasons.
            deadline_seconds: Total time allowed.

        Raises:
            RequestRefused: The engine does not know it (badCertId), or refuses (400).
            UpstreamUnavailable, UpstreamBroken: As `sign`.
        """
        octets = serial_number.to_bytes((serial_number.bit_length() + 7) // 8 or 1, "big")
        data = await self._post(
            self._revoke_path, {"serial_number": octets.hex(":")}, deadline_seconds
        )
        # Engines that share a queue between clusters say so; older ones say nothing but the time.
        state = data.get("state", "revoked")
        if state != "revoked":
            raise UpstreamUnavailable(
                f"the revocation is {readable(state) or 'in no readable state'}", delivered=True
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(
        self, path: str, document: Mapping[str, object], deadline_seconds: float
    ) -> Mapping[str, object]:
        """Post and return `data` of the answer."""
        headers = {**self._headers, "X-Vault-Token": await self._token.read()}
        answer = await self._client.post(
            path, document, headers=headers, deadline_seconds=deadline_seconds
        )
        if not answer.succeeded:
            said = _errors(answer)
            if answer.status not in REFUSALS or said.lower().startswith(_OUR_FAULT):
                raise broken(answer, said)
            unknown = path == self._revoke_path and "not found" in said
            raise refused(said, PKIFailureInfo.badCertId if unknown else PKIFailureInfo.badRequest)
        data = answer.document.get("data")
        return data if isinstance(data, dict) else {}


def _errors(answer: Answer) -> str:
    found = answer.document.get("errors")
    if not isinstance(found, list):
        return ""
    return readable("; ".join(text for text in found[:8] if isinstance(text, str)))
