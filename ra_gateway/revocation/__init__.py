"""CRLs and OCSP answers of trust domains: the former fetched in the background, the latter when they are wanted."""

from ra_gateway.revocation.domain import DomainRevocation
from ra_gateway.revocation.ocsp import NonceUse, OCSPSettings
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.revocation.sources import Mode, RevocationSettings, SourceKind, SourceState

__all__ = [
    "DomainRevocation",
    "Mode",
    "NonceUse",
    "OCSPSettings",
    "Revocation",
    "RevocationSettings",
    "SourceKind",
    "SourceState",
]
