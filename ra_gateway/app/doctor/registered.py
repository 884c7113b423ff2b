"""The RAs that are registered with the bundled CA: whom it hears, for how long, and whether this gateway is one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from ra_gateway.app.ca import EXPIRY_WARNING
from ra_gateway.app.doctor.results import Check, Result
from ra_gateway.app.ledger import ca_ledger
from ra_gateway.ca.records import Authority
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import ConfigError, StoreUnavailable
from ra_gateway.keys import load_certificates

_REGISTERED: Final = "registered RAs"


async def examine_registered(
    config: CAConfig, now: datetime, own_path: Path | None = None
) -> list[Result]:
    """Look at the RAs in a ledger that exists; one that cannot be used has rows of its own.

    Args:
        now: Aware UTC.
        own_path: The RA certificate of the gateway that has this CA as an upstream.
    """
    try:
        where = config.database
        if isinstance(where, Path) and not where.exists():
            return []
        ledger = ca_ledger(config)
        await ledger.open()
        try:
            authorities = await ledger.registry.authorities()
        finally:
            await ledger.close()
    except (ConfigError, StoreUnavailable, OSError):
        return []
    own = _certificate(own_path)
    found = [_of_authority(item, own, now) for item in authorities]
    return [*found, *_unknown(authorities, own, own_path)]


def _certificate(path: Path | None) -> Certificate | None:
    try:
        return None if path is None else load_certificates(path, "ra.certificate_path")[0]
    except ConfigError:
        return None


def _unknown(
    authorities: list[Authority], own: Certificate | None, path: Path | None
) -> Iterator[Result]:
    """Yield that the CA hears nothing of this gateway, if it knows its certificate of no RA."""
    if own is None or any(own in map(load_certificate, item.certificates) for item in authorities):
        return
    names = ", ".join(item.name for item in authorities) or "none"
    yield Check(_REGISTERED, f"this gateway's {own.subject}").fault(
        f"serial number {own.serial_number:x} is registered for no RA; there are: {names}",
        "the bundled CA does not know the gateway, and refuses all that it sends (signerNotTrusted)",
        f"ra-gateway ca ra add NAME --role ROLE --certificate {shlex.quote(str(path))}; or ra.certificate_path",
    )


def _of_authority(authority: Authority, own: Certificate | None, now: datetime) -> Result:
    certificates = [load_certificate(der) for der in authority.certificates]
    is_own = own is not None and own in certificates
    check = Check(_REGISTERED, f"{authority.name}{' (this gateway)' if is_own else ''}")
    report = check.fault if is_own else check.warning
    issue = f"ra-gateway ca ra issue {authority.name} --out FILE, and ca ra install at the gateway"
    if not authority.enabled:
        return report(
            "blocked",
            "the bundled CA refuses all that this RA sends (signerNotTrusted)",
            f"ra-gateway ca ra unblock {authority.name}; or ca ra delete, if it is gone",
        )
    if not certificates:
        return report("no certificate", "the bundled CA cannot know this RA by anything", issue)
    last = max(certificates, key=lambda item: item.not_after)
    until = f"{last.not_after:%Y-%m-%d %H:%M} UTC"
    if now > last.not_after:
        return report(
            f"its last certificate expired at {until}", "nothing it sends is believed", issue
        )
    left = last.not_after - now
    if left < EXPIRY_WARNING:
        came_back = f"its last certificate expires in {left.days} days, at {until}"
        return check.warning(came_back, "it is time for a new one", issue)
    count = f"{len(certificates)} certificate{'s' * (len(certificates) != 1)}"
    return check.ok(f"{count}, role {authority.role.name}, until {until}")
