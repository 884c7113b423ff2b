"""The PKI secrets engine of HashiCorp Vault and of OpenBao: PKCS#10 requests signed under a role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.upstream import rest
from ra_gateway.upstream.kinds import VaultUpstream
from ra_gateway.upstream.signing import (
    SignedCertificate,
    SigningRequest,
    csr_of,
    require_revocation,
)

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
        settings: Its table.
        client: Its URL is Vault's, without /v1.
    """

    def __init__(self, settings: VaultUpstream, client: rest.RestClient) -> None:
        self._settings = settings
        self._client = client
        mount, verb = (
            settings.mount.removesuffix("/"),
            "sign-verbatim" if settings.verbatim else "sign",
        )
        self._sign_path = f"v1/{mount}/{verb}/{settings.role.removesuffix('/')}"
        self._revoke_path = f"v1/{mount}/revoke"
        # Only requests with this header pass a Vault agent that asks for it, against forged ones.
        self._headers = {"X-Vault-Request": "true"}
        if settings.namespace:
            self._headers["X-Vault-Namespace"] = settings.namespace

    async def sign(self, request: SigningRequest, *, deadline_seconds: float) -> SignedCertificate:
        """Have a PKCS#10 signed.

        Args:
            deadline_seconds: Total time allowed.

        Raises:
            RequestRefused: No PKCS#10, or the role does not allow it (400).
            UpstreamUnavailable, UpstreamBroken: As `RestClient.post`; broken is every other status, too.
        """
        csr = rest.pem_csr(csr_of(request))
        data = await self._post(self._sign_path, {"csr": csr, "format": "pem"}, deadline_seconds)
        return rest.signed_certificate(data, "certificate", "ca_chain", "issuing_ca")

    async def revoke(
        self, issuer_der: bytes, serial_number: int, reason: int, *, deadline_seconds: float
    ) -> None:
        """Have a certificate revoked; once more is harmless. The engine needs no issuer, and keeps no reason.

        Raises:
            RequestRefused: The engine does not know it (badCertId), refuses (400), or is to release it from hold.
            UpstreamUnavailable, UpstreamBroken: As `sign`.
        """
        require_revocation(reason)
        octets = serial_number.to_bytes((serial_number.bit_length() + 7) // 8 or 1, "big")
        data = await self._post(
            self._revoke_path, {"serial_number": octets.hex(":")}, deadline_seconds
        )
        # Engines that share a queue between clusters say so; older ones say nothing but the time.
        state = data.get("state", "revoked")
        if state != "revoked":
            raise UpstreamUnavailable(
                f"the revocation is {rest.readable(state) or 'in no readable state'}",
                delivered=True,
            )

    async def look(self) -> None:
        """Check that requests can be sent there now (`Looked`)."""
        await self._client.look()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _post(
        self, path: str, document: Mapping[str, object], deadline_seconds: float
    ) -> Mapping[str, object]:
        """Post and return `data` of the answer."""
        headers = {
            **self._headers,
            "X-Vault-Token": await rest.read_token(self._settings.token_path),
        }
        answer = await self._client.post(
            path, document, headers=headers, deadline_seconds=deadline_seconds
        )
        if not answer.succeeded:
            said = _errors(answer)
            if answer.status not in rest.REFUSALS or said.lower().startswith(_OUR_FAULT):
                raise rest.broken(answer, said)
            unknown = path == self._revoke_path and "not found" in said
            raise rest.refused(
                said, PKIFailureInfo.badCertId if unknown else PKIFailureInfo.badRequest
            )
        data = answer.document.get("data")
        return data if isinstance(data, dict) else {}


def _errors(answer: rest.Answer) -> str:
    found = answer.document.get("errors")
    if not isinstance(found, list):
        return ""
    return rest.readable("; ".join(text for text in found[:8] if isinstance(text, str)))
