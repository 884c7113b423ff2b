"""Dialogues of a gateway, and of the bundled CA in both its modes, are had as sent and with respelt certificates."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
