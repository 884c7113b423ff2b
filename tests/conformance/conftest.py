"""Dialogues of a gateway, and of the bundled CA in both its modes, are had as sent and with respelt certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import local_ra
from tests.support.desk import Desk, open_client, open_desk
from tests.support.harness import MakeWorld, World
from tests.support.pki import Credential, OperatorPKI, VendorPKI
from tests.support.respelling import SPELLINGS, TWIN, everything_respelt

DIALOGUES = frozenset(
    f"tests.conformance.test_{name}"
    for name in (
        "ca_client",
        "ca_core",
        "confirmation",
        "flow",
        "nested",
        "p10cr",
        "polling",
        "revocation",
        "rr",
        "transactions",
    )
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have every test of the dialogues twice."""
    if metafunc.module.__name__ in DIALOGUES:
        metafunc.parametrize("certificates", ["as sent", TWIN], indirect=True)


@pytest.fixture(autouse=True)
def certificates(request: pytest.FixtureRequest) -> Iterator[None]:
    """A certificate is what was signed: in other octets, no verdict changes."""
    spelling = getattr(request, "param", "as sent")
    if spelling == "as sent":
        yield
    else:
        with everything_respelt(SPELLINGS[spelling]):
            yield


@pytest.fixture(scope="module")
def ra(operator_pki: OperatorPKI) -> Credential:
    """An RA at another site, which a gateway may know."""
    return local_ra(operator_pki)


@pytest.fixture
async def ca(operator_pki: OperatorPKI, tmp_path: Path) -> AsyncIterator[Desk]:
    """The bundled CA in RA mode."""
    async with open_desk(operator_pki, tmp_path / "ca.db") as desk:
        yield desk


@pytest.fixture
async def client(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> AsyncIterator[Desk]:
    """The bundled CA in client mode, beside the one in RA mode."""
    async with open_client(operator_pki, vendor_pki, tmp_path / "client.db") as desk:
        yield desk


@pytest.fixture
async def desk(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> AsyncIterator[Desk]:
    """A CA in client mode; modules about a CA that serves an RA have one of their own."""
    async with open_client(operator_pki, vendor_pki, tmp_path / "ledger.db") as desk:
        yield desk


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    """Builds a world of the session's PKIs with the settings a test wants."""

    def make(**settings: Any) -> World:
        return World.make(vendor_pki, operator_pki, **settings)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world with the usual settings; modules that want others have one of their own."""
    return make_world()
