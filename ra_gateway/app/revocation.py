"""Who knows what was revoked: CRLs and OCSP responders of the trust domains, and the bundled CA's ledger."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ra_gateway.ca.records import CertificateStatus
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.names import canonical
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.config.trust_tables import RevocationConfig
from ra_gateway.errors import SignerNotTrusted
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.revocation.settings import Mode, OCSPSettings, RevocationSettings

_EARLY_SHARE: Final = secrets.randbelow(1000) / 10_000
"""Up to a tenth, of this process."""

_CONFIRMED: Final = frozenset({CertificateStatus.confirmed, CertificateStatus.superseded})

if TYPE_CHECKING:
    from ra_gateway.ca.ledger.ledger import Ledger  # the extra `ca`


class LedgerStatus:
    """What the bundled CA in this process issued and revoked (`ra_gateway.ra.ports.IssuedCertificates`).

    Args:
        ledger: The CA's; opened and closed by whoever runs the CA.
        issuers: The issuing CAs, retired ones included.
    """

    def __init__(self, ledger: Ledger, issuers: Iterable[Certificate]) -> None:
        self._ledger = ledger
        self._issuers = frozenset(canonical(issuer.subject_der) for issuer in issuers)

    async def revoked_at(
        self, certificate: Certificate, now: datetime, *, listed: bool = False
    ) -> datetime | None:
        """Return since when a certificate is revoked; None if it is not, or another CA issued it.

        Args:
            listed: Whether the configuration lists this very certificate.

        Raises:
            SignerNotTrusted: It names one of our issuing CAs, the ledger does not know it, and nobody has listed it.
        """
        issued = await self._ledger.record_of(certificate, now)
        if issued is not None:
            return issued.revoked_at
        if certificate.id.issuer in self._issuers and not listed:
            raise SignerNotTrusted(
                f"{certificate.subject} (serial {certificate.serial_number:x}) names {certificate.issuer} as its "
                "issuer, but the bundled CA's ledger has no such certificate",
                rule="R23",
            )
        return None

    async def confirmed(self, certificate: Certificate, now: datetime) -> bool:
        """Tell whether this CA issued a certificate and was told that its device takes it."""
        issued = await self._ledger.record_of(certificate, now)
        return issued is not None and issued.status in _CONFIRMED

    async def certificate(
        self, issuer_der: bytes, serial_number: int, now: datetime
    ) -> Certificate | None:
        """Return a certificate that the CA issued, None if it did not."""
        if canonical(issuer_der) not in self._issuers:
            return None
        issued = await self._ledger.certificate(serial_number, now)
        if issued is None:
            return None
        certificate = load_certificate(issued.der)
        return certificate if certificate.id.issuer == canonical(issuer_der) else None


def revocation(
    tables: Iterable[tuple[TrustDomain, RevocationConfig]], before: Revocation | None = None
) -> Revocation:
    """Return what knows of trust domains' revocations; nothing is fetched yet.

    Args:
        tables: Each domain, and what its configuration says of revocation.
        before: What this takes the place of.
    """
    return Revocation(
        [(domain, _settings(table)) for domain, table in tables if table.mode is not Mode.off],
        now,
        before=before,
        early_share=_EARLY_SHARE,
    )


def revocation_tables(
    config: GatewayConfig, operator: TrustDomain, vendors: Mapping[str, TrustDomain]
) -> list[tuple[TrustDomain, RevocationConfig]]:
    """Return each domain of a gateway, and what its configuration says of revocation."""
    return [
        (operator, config.operator.revocation),
        *((vendors[name], vendor.revocation) for name, vendor in config.vendors.items()),
    ]


def gateway_revocation(
    config: GatewayConfig,
    operator: TrustDomain,
    vendors: Mapping[str, TrustDomain],
    *,
    keeps_crls: bool = True,
    before: Revocation | None = None,
) -> Revocation:
    """Return what knows of revocations in all domains of a gateway; nothing is fetched yet.

    Args:
        vendors: By name.
        keeps_crls: False to neither read nor write the directories of fetched CRLs.
        before: What this takes the place of.
    """
    changes = {} if keeps_crls else {"crl_cache_path": None}
    tables = revocation_tables(config, operator, vendors)
    return revocation(
        ((domain, table.model_copy(update=changes)) for domain, table in tables), before
    )


def _settings(config: RevocationConfig) -> RevocationSettings:
    names = {item.name for item in fields(RevocationSettings)} - {"allowed_hosts", "ocsp"}
    return RevocationSettings(
        **{name: getattr(config, name) for name in names},
        allowed_hosts=frozenset(config.allowed_hosts),
        ocsp=OCSPSettings(
            url=config.ocsp_url or "",
            from_certificates=config.ocsp_from_certificates,
            timeout_seconds=config.ocsp_timeout_seconds,
            max_cache_seconds=config.ocsp_cache_seconds,
            nonce=config.ocsp_nonce,
        ),
    )
