"""Clocks that can be believed: what cannot be undone must not hang on one reading of the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

STEP_SECONDS: Final = 60.0
"""A wall clock that moves so much more, or less, than time has passed was set, or is wrong."""

CALM_SECONDS: Final = 3600.0
"""How long it must have run evenly since then: devices have had their time, and somebody has seen the log."""

Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def elapsed_seconds() -> float:
    """Return seconds since some moment, never set and counting while the machine sleeps where the system can tell."""
    clock_id = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock_id is None else time.clock_gettime(clock_id)


class SteadyClock:
    """Tells whether the wall clock has run evenly, for what cannot be undone: revoking, forgetting, signing CRLs.

    Compared are two clocks at each call. NTP that corrects by less than a minute an hour goes unnoticed, and so does
    a machine that sleeps. After a step, forward or backward, the answer is no until an hour has passed without another.

    Args:
        clock: The wall clock.
        elapsed: Seconds, never set.
    """

    def __init__(
        self,
        clock: Clock = now,
        elapsed: Callable[[], float] = elapsed_seconds,
        *,
        step_seconds: float = STEP_SECONDS,
        calm_seconds: float = CALM_SECONDS,
    ) -> None:
        self._clock, self._elapsed = clock, elapsed
        self._step_seconds, self._calm_seconds = step_seconds, calm_seconds
        self._anchor = clock(), elapsed()
        self._stepped_at: float | None = None

    def __call__(self) -> bool:
        """Return whether the wall clock can be believed now; a step is logged when it is seen."""
        wall, elapsed = self._clock(), self._elapsed()
        anchor_wall, anchor_elapsed = self._anchor
        step = (wall - anchor_wall).total_seconds() - (elapsed - anchor_elapsed)
        if abs(step) > self._step_seconds:
            import structlog  # takes long, and commands want to know the time, too

            structlog.get_logger().error(
                "clock.stepped",
                by_seconds=round(step),
                detail="nothing is revoked, forgotten or signed by this clock until it has run evenly for "
                f"{self._calm_seconds:.0f} s, or this process is started anew with a clock that is right",
            )
            self._anchor, self._stepped_at = (wall, elapsed), elapsed
        elif elapsed - anchor_elapsed >= CALM_SECONDS:
            self._anchor = wall, elapsed  # what adds up slowly is the frequency, not a step
        if self._stepped_at is None:
            return True
        if elapsed - self._stepped_at < self._calm_seconds:
            return False
        import structlog

        structlog.get_logger().warning("clock.steady_again")
        self._stepped_at = None
        return True


def unstepped(clock: Clock = now, elapsed: Callable[[], float] = elapsed_seconds) -> Clock:
    """Return a clock that begins at the wall clock's time and is never set: lifetimes are counted by it."""
    wall, moment = clock(), elapsed()
    return lambda: wall + timedelta(seconds=elapsed() - moment)


def always_steady() -> bool:
    """Return that the clock can be believed, where nobody compares."""
    return True
