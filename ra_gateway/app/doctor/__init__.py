"""The doctor: looks at everything around a gateway, without having anything issued, and says what to change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from ra_gateway.app.doctor.causes import CAUSES, Cause, explain, explain_text
from ra_gateway.app.doctor.findings import Finding, Verdict, worst
from ra_gateway.app.doctor.ledger import examine_ledger, ledger_warnings
from ra_gateway.app.doctor.material import examine_material
from ra_gateway.app.doctor.probes import SUBJECT
from ra_gateway.app.doctor.surroundings import (
    examine_codec,
    examine_inventory,
    examine_safety,
    examine_store,
)
from ra_gateway.app.doctor.upstreams import UpstreamExaminer
from ra_gateway.app.running import now
from ra_gateway.config import GatewayConfig

__all__ = [
    "CAUSES",
    "SUBJECT",
    "Cause",
    "Finding",
    "Verdict",
    "examine",
    "explain",
    "explain_text",
    "ledger_warnings",
    "worst",
]


async def examine(
    config: GatewayConfig,
    *,
    subject: str = SUBJECT,
    san: tuple[str, ...] = (),
    clock: Callable[[], datetime] = now,
) -> list[Finding]:
    """Examine a gateway's material and surroundings, and send probes to each of its upstreams.

    Args:
        subject: RFC 4514 string, whom probes ask a certificate for; for a CA that is particular about names.
        san: Names such as "dns:enb1.example.net", likewise.
        clock: Aware UTC.
    """
    found = examine_material(config, clock())
    found += await examine_store(config.store)
    found += examine_inventory(config)
    found += await examine_ledger(config.ca)
    found += examine_safety(config)
    found += examine_codec()
    examiner = UpstreamExaminer(config, subject=subject, san=san, clock=clock)
    for name in config.upstreams:
        found += await examiner.examine(name)
    return found
