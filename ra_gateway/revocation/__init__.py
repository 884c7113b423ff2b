"""CRLs of trust domains, fetched and kept current in the background, asked at every request without I/O."""

from ra_gateway.revocation.domain import DomainRevocation, Mode, RevocationSettings, SourceState
from ra_gateway.revocation.refreshing import Revocation

__all__ = ["DomainRevocation", "Mode", "Revocation", "RevocationSettings", "SourceState"]
