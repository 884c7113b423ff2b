"""How long exchanges with a CA take, whichever way it is reached."""

from __future__ import annotations

from enum import StrEnum
from time import perf_counter

from ra_gateway.durations import Durations
from ra_gateway.errors import UpstreamBroken, UpstreamUnavailable
from ra_gateway.ra.ports import CACore


class ExchangeOutcome(StrEnum):
    """How an exchange ended."""

    answered = "answered"
    unavailable = "unavailable"  # without an answer
    broken = "broken"  # with one that is not CMP
    cancelled = "cancelled"  # by us


class MeteredCA:
    """A `CACore` whose exchanges are counted.

    Args:
        core: The CA.
    """

    def __init__(self, core: CACore) -> None:
        self.core = core
        self.durations = {outcome: Durations() for outcome in ExchangeOutcome}

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        """Deliver one message and return the answer (`CACore`)."""
        started, outcome = perf_counter(), ExchangeOutcome.cancelled
        try:
            answer = await self.core.exchange(der, path=path, deadline_seconds=deadline_seconds)
            outcome = ExchangeOutcome.answered
        except UpstreamUnavailable:
            outcome = ExchangeOutcome.unavailable
            raise
        except UpstreamBroken:
            outcome = ExchangeOutcome.broken
            raise
        finally:
            self.durations[outcome].add(perf_counter() - started)
        return answer

    async def close(self) -> None:
        """Release connections."""
        await self.core.close()
