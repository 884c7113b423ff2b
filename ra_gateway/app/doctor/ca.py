"""A CA by itself (`ra-gateway ca serve`): its certificates, its vendors' revocations and its ledger."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from ra_gateway.app.ca import EXPIRY_WARNING
from ra_gateway.app.ca_service import CAService
from ra_gateway.app.doctor.certificates import examine_tls
from ra_gateway.app.doctor.directory import examine_directory
from ra_gateway.app.doctor.environment import examine_codec, examine_safety
from ra_gateway.app.doctor.ledger import examine_ledger
from ra_gateway.app.doctor.registered import examine_registered
from ra_gateway.app.doctor.results import Check, Result, Verdict, not_told
from ra_gateway.app.doctor.revocation import examine_vendors
from ra_gateway.app.listener_tls import tls_tables
from ra_gateway.app.unused import unused_at_the_ca
from ra_gateway.app.warnings import ca_warnings
from ra_gateway.ca.keys import ISSUING, expiries
from ra_gateway.clocks import now
from ra_gateway.config.tables import CAServiceConfig
from ra_gateway.errors import ConfigError

_CA: Final = "CA"


async def examine_ca(
    config: CAServiceConfig, *, clock: Callable[[], datetime] = now
) -> list[Result]:
    """Examine what a CA has and what is around it; nothing is signed.

    Args:
        clock: Aware UTC.
    """
    client = config.ca.client
    vendors = {} if client is None else {name: config.vendors[name] for name in client.vendors}
    ledger = await examine_ledger(config.ca, clock())
    return [
        *not_told(await _loaded(config), ledger),
        *_certificates(config, clock()),
        *examine_tls(tls_tables(config), clock()),
        *await examine_vendors(vendors, clock()),
        *ledger,
        *await examine_registered(config.ca, clock()),
        *await examine_directory(config.ca),
        *examine_safety([*ca_warnings(config, clock()), *unused_at_the_ca(config)]),
        *examine_codec(),
    ]


async def _loaded(config: CAServiceConfig) -> list[Result]:
    check = Check(_CA, "load what `ca serve` loads")
    try:
        await CAService(config).stop()
    except ConfigError as error:
        return check.problems(error)
    return [check.ok("keys, certificates and profiles fit")]


def _certificates(config: CAServiceConfig, moment: datetime) -> list[Result]:
    try:
        soonest = expiries(config.ca.directory_path)
    except ConfigError:
        return []  # the row before says so
    found = []
    for item in soonest:
        tried, until = f"validity of {item.file}", f"{item.not_after:%Y-%m-%d %H:%M} UTC"
        left = item.not_after - moment
        if item.revoked:
            is_ours = item.file == ISSUING
            found.append(
                Check(_CA, f"status of {item.file}").result(
                    Verdict.fault if is_ours else Verdict.warning,
                    "the root has revoked it",
                    "nothing that it issued is believed",
                    "ra-gateway ca roll-issuing" if is_ours else "renew what it issued",
                )
            )
            continue
        if left >= EXPIRY_WARNING:
            found.append(Result(_CA, tried, f"valid for {left.days} days, until {until}"))
            continue
        is_over = item.not_after < moment
        found.append(
            Check(_CA, tried).result(
                Verdict.fault if is_over else Verdict.warning,
                f"expired at {until}" if is_over else f"expires in {left.days} days, at {until}",
                "nobody accepts what rests on it" if is_over else "it is time for a new one",
                "ra-gateway ca renew-signers, ca roll-issuing, ca roll-root, ca cross-sign or ca root-crl",
            )
        )
    return found
