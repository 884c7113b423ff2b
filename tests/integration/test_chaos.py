"""Chaos: gateways, CA and store are killed, frozen and set wrong, and what they say is lost, while base stations live.

`make chaos` does it longer (DISTURBANCES), with a Redis, behind Sentinels and in a Cluster; CHAOS_SEED has the same
choices made again.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from ra_gateway.cmp.certificates import Certificate
from tests.support.chaos import STORES, Account, Population, chaos_site
from tests.support.pki import VendorPKI

DISTURBANCES: Final = int(os.environ.get("DISTURBANCES", "0"))
"""Of the long form; 0 for the short one."""

SHORT: Final = 6

SHARE: Final = {"redis": 0.8, "sentinel": 0.08, "cluster": 0.12}
"""Of the disturbances of the long form: a failover takes seconds."""


@pytest.mark.parametrize("store", STORES if DISTURBANCES else STORES[:1])
async def test_everybody_has_one_certificate_in_the_end(
    tmp_path: Path, vendor_pki: VendorPKI, store: str
) -> None:
    """Ledger, audit trail and base stations agree one to one: nothing is issued twice, lost, or left to nobody."""
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
    sys.stdout.write(f"CHAOS_SEED={seed} with {store}\n")
    begun = time.monotonic()
    count = round(DISTURBANCES * SHARE[store]) or SHORT
    confirm_seconds = 30 if DISTURBANCES else 8
    async with chaos_site(
        tmp_path, vendor_pki, seed, store=store, confirm_seconds=confirm_seconds
    ) as site:
        population = Population(site, 12 if DISTURBANCES else 4, 0.5)
        async with population.living():
            await site.disturb(count, 1.0 if DISTURBANCES else 0.5)
        await site.settle()
        account = site.account()
    in_use = {_serial(station.accepted[-1]) for station in population.stations}
    accepted = [_serial(der) for station in population.stations for der in station.accepted]
    found = {
        "twice": _twice(account),
        "lost": sorted(serial for serial in in_use if account.status.get(serial) != "confirmed"),
        "orphans": sorted(_living(account) - set(accepted)),
        "not in the audit trail": sorted(set(account.status) ^ set(account.issued)),
        "confirmed otherwise than accepted": sorted(set(account.confirmed) ^ set(accepted)),
    }
    fates = {
        f"{name}: {fate}": n for name, way in site.ways.items() for fate, n in way.fates.items()
    }
    sys.stdout.write(
        f"{store}: {len(population.stations)} base stations, {site.kills} kills,"
        f" {len(account.status)} certificates issued, {len(accepted)} accepted,"
        f" {time.monotonic() - begun:.0f} s\n  {dict(sorted(site.counts.items()))}\n"
        f"  {dict(sorted(fates.items()))}\n"
        f"  {', '.join(f'{len(what)} {name}' for name, what in found.items())}\n"
    )
    assert not any(found.values()), found
    assert len(accepted) == len(set(accepted)) == len(account.confirmed)


def _serial(der: bytes) -> str:
    return f"{Certificate.from_der(der).serial_number:x}"


def _twice(account: Account) -> list[str]:
    """Return transactionIDs for which there is more than one certificate."""
    transactions = list(account.issued.values())
    return sorted({each for each in transactions if transactions.count(each) > 1})


def _living(account: Account) -> set[str]:
    """Return what verifiers take: what was issued and neither rejected nor revoked."""
    return {
        serial for serial, status in account.status.items() if status not in ("rejected", "revoked")
    }
