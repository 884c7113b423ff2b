"""docs/capacity.md: its examples are what its formulas and figures give; the figures are measured in integration."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

import pytest

from tests.support.capacity import ROWS, figure

FLEETS: Final = (1_000, 10_000, 100_000)
FLOOR_SECONDS: Final = 0.65e-3
GATEWAY, CA = 7, 5


def night(count: int) -> float:
    return count / (8 * 3600)


def power_cut(count: int) -> float:
    return count / 600


def processes(count: int) -> int:
    return max(ceil(power_cut(count) * GATEWAY * FLOOR_SECONDS / 0.5) + 1, 2)


def after_five_years(count: int) -> float:
    return count * (figure("ledger, enrolment") + 5 * figure("ledger, renewal")) / 1000


EXAMPLES: Final[dict[str, Callable[[int], float]]] = {
    "calm: renewals a day": lambda n: n * 86_400 / 28_500_000,
    "a night: *E*, a second": night,
    "a night: Redis, MB": lambda n: night(n) * 3600 * figure("Redis, renewal confirmed") / 1000,
    "a power cut: *E*, a second": power_cut,
    "a power cut: gateways, cores": lambda n: power_cut(n) * GATEWAY * FLOOR_SECONDS,
    "a power cut: CA, cores": lambda n: power_cut(n) * CA * FLOOR_SECONDS,
    "a power cut: Redis, MB": lambda n: n * figure("Redis, enrolment confirmed") / 1000,
    "gateway processes": processes,
    "their memory with 1,000 connections each, MB": lambda n: processes(n) * (130 + 10),
    "ledger after five years, MB": after_five_years,
    "a power cut: towards base stations, Mbit/s": lambda n: (
        power_cut(n) * (figure("messages, enrolment") + 2) * 8 / 1000
    ),
}


@pytest.mark.parametrize("row", EXAMPLES)
def test_examples_are_reckoned_by_the_formulas(row: str) -> None:
    """Within what rounding to two digits may change."""
    told = [float(cell.replace(",", "")) for cell in ROWS[row]]
    assert told == [pytest.approx(EXAMPLES[row](count), rel=0.05) for count in FLEETS]


def test_every_example_is_reckoned() -> None:
    heading = [f"{count:,}" for count in FLEETS]
    assert ROWS[""] == heading
    rows = list(ROWS)
    assert rows[rows.index("") + 1 :] == list(EXAMPLES)
