"""Who knows what was revoked: CRLs of the configured trust domains, and the bundled CA's ledger."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from ra_gateway.app.running import now
from ra_gateway.ca.ledger import Ledger
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.config import RevocationConfig
from ra_gateway.revocation import Mode, Revocation, RevocationSettings


class LedgerStatus:
    """What the bundled CA in this process revoked (`ra_gateway.ra.ports.IssuedCertificates`).

    Args:
        ledger: The CA's; opened and closed by whoever runs the CA.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def revoked_at(self, certificate: Certificate, now: datetime) -> datetime | None:
        """Return since when a certificate is revoked; None if it is not, or another CA issued it."""
        issued = await self._ledger.certificate(
            certificate.serial_number, now, fingerprint=certificate.fingerprint
        )
        return None if issued is None else issued.revoked_at


def revocation(
    tables: Iterable[tuple[TrustDomain, RevocationConfig]],
) -> Revocation:
    """Return what keeps the CRLs of trust domains; nothing is fetched yet.

    Args:
        tables: Each domain, and what its configuration says of revocation.
    """
    return Revocation(
        [(domain, _settings(table)) for domain, table in tables if table.mode != "off"], now
    )


def _settings(config: RevocationConfig) -> RevocationSettings:
    return RevocationSettings(
        mode=Mode(config.mode),
        crl_paths=config.crl_paths,
        crl_urls=config.crl_urls,
        from_certificates=config.from_certificates,
        allowed_hosts=frozenset(config.allowed_hosts),
        refresh_seconds=config.refresh_seconds,
        timeout_seconds=config.timeout_seconds,
        max_crl_bytes=config.max_crl_bytes,
        grace_seconds=config.grace_seconds,
        max_age_seconds=config.max_age_seconds,
    )
