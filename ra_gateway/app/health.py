"""Whether what a service leans on works: its store, its CAs, its ledger, asked every now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Final

import structlog

from ra_gateway.clocks import elapsed_seconds
from ra_gateway.durations import Durations
from ra_gateway.errors import GatewayError, ServiceFailure
from ra_gateway.events import EventSink, UpstreamDown, UpstreamUp, unheard
from ra_gateway.ra.ports import CACore, look

LOOK_SECONDS: Final = 2.0
"""Between two looks at what does not work, or was not asked yet; balancers look about as often."""

CALM_SECONDS: Final = 10.0
"""Between two looks at a CA that works."""

_NOT_YET: Final = "was not asked yet"


class Probe:
    """Something that has to be asked whether it works; its last answer counts.

    Args:
        ask: Checks that it does; raises `ServiceFailure` if not.
        calm_seconds: Between two looks while it does.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[object]], calm_seconds: float = LOOK_SECONDS
    ) -> None:
        self._ask, self._calm_seconds = ask, calm_seconds
        self.problem = _NOT_YET
        """What is wrong, "" if nothing is."""

    async def once(self) -> None:
        """Ask now."""
        try:
            await self._ask()
        except ServiceFailure as error:
            self.problem = error.detail
        except GatewayError as error:
            self.problem = str(error)
        except (
            Exception
        ) as error:  # a bug, or a plug-in's: it is to end neither a start nor a reload
            problem = f"a bug, {type(error).__name__}: the log has more of it"
            if problem != self.problem:
                structlog.get_logger().exception("probe.failed")
            self.problem = problem
        else:
            self.problem = ""

    async def run(self) -> None:
        """Ask every now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS if self.problem else self._calm_seconds)
            await self.once()


class UpstreamProbe(Probe):
    """A CA that has to be asked whether it is there; tells when it goes, and when it comes back.

    Args:
        name: Of the upstream.
    """

    def __init__(self, name: str, core: CACore, sink: EventSink = unheard) -> None:
        super().__init__(lambda: look(core), CALM_SECONDS)
        self.name = name
        self._sink = sink
        self._down_at: float | None = None

    async def once(self) -> None:
        await super().once()
        if self.problem and self._down_at is None:
            self._down_at = elapsed_seconds()
            self._sink(UpstreamDown(self.name, self.problem))
        elif not self.problem and self._down_at is not None:
            down_seconds, self._down_at = elapsed_seconds() - self._down_at, None
            self._sink(UpstreamUp(self.name, down_seconds))


def none_of(probes: Iterable[UpstreamProbe]) -> str:
    """Return what is wrong with all of some CAs; "" as soon as one works."""
    problems = {probe.name: probe.problem for probe in probes}
    if not problems or not all(problems.values()):
        return ""
    return "; ".join(f"{name}: {problem}" for name, problem in problems.items())


BEAT_SECONDS: Final = 0.1


class LoopWatch:
    """Measures how late the event loop comes to what is due: as long as one step of it takes, all others wait.

    Ten looks a second cost next to nothing, and are late as often, and by as much, as messages that arrive at any time.

    Args:
        clock: Seconds, never set; the loop's own time stands still within a step.
        sleep: Between two looks.
    """

    def __init__(
        self,
        clock: Callable[[], float] = perf_counter,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self.late = Durations()
        """By how much it was late, at each look."""

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            due = self._clock() + BEAT_SECONDS
            await self._sleep(BEAT_SECONDS)
            self.late.add(max(0.0, self._clock() - due))
