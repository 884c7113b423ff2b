"""How late the event loop is, is measured."""

from __future__ import annotations

import asyncio
import time

from ra_gateway.app.health import BEAT_SECONDS, LoopWatch
from ra_gateway.durations import BOUNDS_SECONDS
from ra_gateway.tasks import ended
from tests.support.patience import PATIENCE_SECONDS


async def test_how_late_the_loop_is_is_counted() -> None:
    """By the time that passed beyond the beat, at each look."""
    now, naps = 0.0, iter((0.1, 0.104, 0.3))

    async def sleep(seconds: float) -> None:
        nonlocal now
        nap = next(naps, None)
        if nap is None:
            await asyncio.Event().wait()
        now += nap or 0.0

    watch = LoopWatch(lambda: now, sleep)
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    await ended(task)
    counted = {
        bound: count
        for bound, count in zip(BOUNDS_SECONDS, watch.late.counts, strict=False)
        if count
    }
    assert counted == {0.001: 1, 0.005: 1, 0.2: 1}


async def test_what_holds_the_loop_up_is_seen() -> None:
    """A step that takes longer than a beat is noticed by the real clock, wherever it stands."""
    watch = LoopWatch()
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    time.sleep(BEAT_SECONDS * 2)  # noqa: ASYNC251 - this is it
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not sum(watch.late.counts):  # noqa: ASYNC110
            await asyncio.sleep(0)
    await ended(task)
    assert watch.late.total_seconds > BEAT_SECONDS / 2
