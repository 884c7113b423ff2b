"""All that the doctor looks at, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from ra_gateway.app.doctor.certificates import examine_certificates
from ra_gateway.app.doctor.environment import (
    examine_codec,
    examine_inventory,
    examine_safety,
    examine_store,
)
from ra_gateway.app.doctor.probes import SUBJECT
from ra_gateway.app.doctor.results import Check, Result, not_told
from ra_gateway.app.doctor.revocation import examine_revocation
from ra_gateway.app.doctor.upstreams import UpstreamExaminer
from ra_gateway.app.warnings import of_safety
from ra_gateway.clocks import now
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import missing_extra


async def examine(
    config: GatewayConfig,
    *,
    subject: str = SUBJECT,
    san: tuple[str, ...] = (),
    clock: Callable[[], datetime] = now,
) -> list[Result]:
    """Examine a gateway's certificates, store and other services, and send probes to each of its upstreams.

    Args:
        subject: RFC 4514 string, whom probes ask a certificate for; for a CA that is particular about names.
        san: Names such as "dns:enb1.example.net", likewise.
        clock: Aware UTC.
    """
    found = examine_certificates(config, clock())
    found += await examine_revocation(config, clock())
    found += await examine_store(config.store)
    found += await examine_inventory(config)
    if config.ca is not None:
        found += await _examine_bundled_ca(config, config.ca, clock())
    found += examine_safety(of_safety(config))
    found += examine_codec()
    examiner = UpstreamExaminer(config, subject=subject, san=san, clock=clock)
    for name in config.upstreams:
        found += not_told(await examiner.examine(name), found)
    return found


async def _examine_bundled_ca(
    config: GatewayConfig, ca: CAConfig, moment: datetime
) -> list[Result]:
    try:  # the extra `ca`
        from ra_gateway.app.doctor.directory import examine_directory
        from ra_gateway.app.doctor.ledger import examine_ledger
        from ra_gateway.app.doctor.registered import examine_registered
    except ModuleNotFoundError as error:
        return Check("ledger", "look at it").problems(missing_extra("ca", error))
    is_ours = any(upstream.kind == "bundled" for upstream in config.upstreams.values())
    own_path = config.ra.certificate_path if is_ours else None
    return [
        *await examine_ledger(ca, moment),
        *await examine_registered(ca, moment, own_path),
        *await examine_directory(ca),
    ]
