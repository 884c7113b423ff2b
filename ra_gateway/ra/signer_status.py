"""Whether the signer of an authenticated message was revoked meanwhile (R23)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.trust import DomainKind
from ra_gateway.cmp.verification import AuthenticatedMessage
from ra_gateway.errors import AlreadyRevoked, SignerNotTrusted
from ra_gateway.ra.ports import CertificateRecords, IssuedCertificates, RevocationStatus

_OURS: Final = frozenset({DomainKind.operator, DomainKind.registration_authority})
"""Domains whose certificates the bundled CA may have issued."""


@dataclass(frozen=True, slots=True)
class SignerStatus:
    """Asks whoever knows; nobody, unless given.

    Args:
        domains: Knows what CRLs and OCSP responders say of trust domains' certificates.
        issued: Knows what the CA in this process revoked: at once, without a CRL.
        records: Knows what the CA in this process issued.
    """

    domains: RevocationStatus | None = None
    issued: IssuedCertificates | None = None
    records: CertificateRecords | None = None

    async def certificate(
        self, issuer_der: bytes, serial_number: int, now: datetime
    ) -> Certificate | None:
        """Return a certificate that the CA in this process issued, None if nobody here knows it.

        Raises:
            StoreUnavailable: The CA's ledger cannot be asked.
        """
        if self.records is None:
            return None
        return await self.records.certificate(issuer_der, serial_number, now)

    async def check(
        self, authenticated: AuthenticatedMessage, now: datetime, *, listed: bool = False
    ) -> tuple[str, ...]:
        """Refuse a message whose signer, or a CA above it, was revoked.

        Args:
            listed: Whether it is another RA's, which the configuration lists as it is (`authenticate_registered`): the
                CA in this process need not have a record of it.

        Returns:
            Notes for the operator: what could not be told, where the domain lets that pass.

        Raises:
            SignerNotTrusted: It was revoked.
            StatusUnavailable: Nobody can tell, and the domain insists.
            StoreUnavailable: The CA's ledger cannot be asked.
        """
        domain, signer = authenticated.domain, authenticated.signer
        if self.issued is not None and domain.kind in _OURS:
            revoked_at = await self.issued.revoked_at(signer, now, listed=listed)
            if revoked_at is not None:
                detail = (
                    f"{signer.subject} (serial {signer.serial_number:x}) was revoked by the bundled CA on "
                    f"{revoked_at:%Y-%m-%dT%H:%M:%SZ}"
                )
                if _of_itself(authenticated):
                    raise AlreadyRevoked(detail, rule="R129")
                raise SignerNotTrusted(detail, rule="R23")
        if self.domains is None:
            return ()
        name = domain.revoked_as or domain.name
        try:
            return await self.domains.check(name, authenticated.path, now)
        except SignerNotTrusted as error:
            if _of_itself(authenticated):
                await self.domains.check(name, authenticated.path[1:], now)  # or a CA above it
                raise AlreadyRevoked(error.detail, rule="R129") from error
            raise


def _of_itself(authenticated: AuthenticatedMessage) -> bool:
    """Tell whether a device asks for the revocation of the certificate that it signs with: it may have no other's."""
    is_rr = authenticated.message.body_type is BodyType.rr
    return is_rr and authenticated.domain.kind is DomainKind.operator


NOBODY_ASKED: Final = SignerStatus()
"""For a gateway that knows of no revocation."""
