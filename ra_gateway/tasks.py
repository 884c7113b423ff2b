"""Background tasks, whose death is told before they are started again; and work that is done at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0


async def supervised(
    name: str,
    work: Callable[[], Awaitable[object]],
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Do work that is never to end, until cancelled; after its death, whatever it died of, begin it anew.

    Args:
        name: For the log.
        work: Called for each beginning.
        sleep: Between two beginnings: a second, then twice as long each time, at most a minute.
    """
    pause = FIRST_PAUSE_SECONDS
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    while True:
        began = loop.time()
        cause: BaseException | None = None
        try:
            await work()
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            cause = error  # of something inside, not of this task
        except Exception as error:
            cause = error
        if loop.time() - began > LONGEST_PAUSE_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        log.error(
            "task.died", task=name, again_in_seconds=pause, exc_info=cause,
            detail="" if cause is not None else "it ended",
        )  # fmt: skip
        await sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their ends, whatever these are."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do works at the same time and return their results in order; the first that fails ends the others."""
    tasks = []
    async with asyncio.TaskGroup() as group:
        for work in works:
            tasks.append(group.create_task(work))
            await asyncio.sleep(0)  # others get their turn before the next one begins
    return [task.result() for task in tasks]
