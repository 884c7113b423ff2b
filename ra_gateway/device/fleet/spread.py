"""Over how long the renewals of a fleet should be spread, and what peak that leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_LONGEST_HOURS: Final = 366 * 24.0

HOURS: Final = (1 / 6, 1, 8, 24, 7 * 24, 30 * 24)
"""Ten minutes, an hour, a night, a day, a week, a month."""

USABLE: Final = 0.5
"""Of what was measured: the rest is for repeats, first enrolments, and the node that is being restarted."""

_PEAK_SECONDS: Final = 10
"""Within which what comes at once may be worked off: devices wait so long without sending again."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What a fleet asks of a gateway that renews within some hours.

    Args:
        per_second: Renewals a second, on average.
        peak: The same in the busiest ten seconds that are to be expected.
        windows: How many times ten seconds there are.
        mean, most: Renewals in one of them, on average and in the busiest.
    """

    hours: float
    per_second: float
    peak: float
    windows: float
    mean: float
    most: float


def spread(devices: int, hours: float) -> Spread:
    """Reckon with devices that each choose a moment at random within so many hours."""
    seconds = hours * 3600
    windows = max(1.0, seconds / _PEAK_SECONDS)
    mean = devices / windows
    # Of a Poisson process: what is exceeded in one window of all of them (Bernstein).
    odds = math.log(windows)
    most = min(float(devices), mean + math.sqrt(2 * mean * odds) + odds / 3)
    peak = most / min(seconds, _PEAK_SECONDS)
    return Spread(hours, devices / seconds, peak, windows, mean, most)


def least_hours(devices: int, per_second: float) -> float:
    """Return over how many hours renewals have to be spread at least, so that the peak is carried.

    Args:
        per_second: What was measured, above 0; `USABLE` of it is used.
    """
    usable = per_second * USABLE
    hours = devices / usable / 3600
    while spread(devices, hours).peak > usable and hours < _LONGEST_HOURS:
        hours *= 1.05
    return hours
