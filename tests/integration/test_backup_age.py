"""How old the last backup of the ledger is: in its audit trail, and in the metrics of whoever serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.ca.ledger.backups import Backups, record_backup
from ra_gateway.ca.ledger.ledger import LedgerLocation
from ra_gateway.ca.records import Privilege, Role
from tests.support.commandline import succeeded
from tests.support.ledgers import NOW, opened
from tests.support.pki import VendorPKI
from tests.support.reloading import serving, serving_ca
from tests.support.scraping import scraped
from tests.support.setups import edit, make_setup

LAST, DUE = "ra_gateway_ca_backup_timestamp_seconds", "ra_gateway_ca_backup_due_timestamp_seconds"
HOUR = 3600


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path / "site", vendors={"acme": vendor_pki})


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_the_trail_knows_the_last_one(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where: LedgerLocation = tmp_path / "ledger.sqlite"
    if kind == "postgresql":
        where = request.getfixturevalue("postgres_url")
    async with opened(where) as ledger:
        backups = Backups(ledger)
        assert await backups.read() == (None, None)
        role = Role("ra", frozenset({Privilege.issue}), ("ne_ipsec",))
        await ledger.registry.put_role(role, "operator", NOW)
        assert await backups.read() == (None, NOW)
        for hours in (1, 2):
            at = NOW + timedelta(hours=hours)
            await record_backup(ledger, tmp_path / "dump", 7, "operator", at)
            await ledger.registry.put_role(role, "operator", at)
            for known in (backups, Backups(ledger), backups):
                assert await known.read() == (at, NOW)


@pytest.mark.parametrize("kind", [serving, serving_ca])
async def test_its_age_is_told(config: Path, kind: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is awaited before the first one, then the next within two days; the trail and the tables agree."""
    async with kind(config) as site:
        assert await scraped(site, LAST) == await scraped(site, DUE) == {}
        for name in ("one", "two"):
            told = await asyncio.to_thread(
                succeeded, "ca", "backup", tmp_path / name, "--config", config
            )
            assert told.startswith("Wrote ")
        (last,) = (await scraped(site, LAST)).values()
        assert await scraped(site, DUE) == {(): last + 48 * HOUR}
    assert "agree" in await asyncio.to_thread(succeeded, "ca", "verify", "--config", config)


async def test_what_an_operator_wants(config: Path, tmp_path: Path) -> None:
    """A backup within so many hours, though none was ever made; or none at all, though one was."""
    before = config.read_text()
    edit(config, "[ca]\n", "[ca]\nbackup_hours = 26\n")
    async with serving_ca(config) as site:
        assert await scraped(site, LAST) == {}
        (due,) = (await scraped(site, DUE)).values()
        await asyncio.to_thread(succeeded, "ca", "backup", tmp_path / "one", "--config", config)
        (last,) = (await scraped(site, LAST)).values()
        assert await scraped(site, DUE) == {(): last + 26 * HOUR}
        assert due <= last + 26 * HOUR
        config.write_text(before)
        edit(config, "[ca]\n", "[ca]\nbackup_hours = 0\n")
        await site.service.reload()
        assert await scraped(site, DUE) == {}
        assert await scraped(site, LAST) == {(): last}
