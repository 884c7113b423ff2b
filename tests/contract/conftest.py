"""Fixtures of the tests of stores and ledgers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ra_gateway.ca.ledger.ledger import LedgerLocation


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerLocation:
    """Where a ledger is to be: a file, or a database of its own."""
    if request.param == "sqlite":
        return tmp_path / "ledger.db"
    url: str = request.getfixturevalue("postgres_url")
    return url
