"""Background tasks die loudly, and are begun anew."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from ra_gateway.tasks import ended, supervised


class Scripted:
    """Work that dies of one thing after the other, then goes on for ever."""

    def __init__(self, *deaths: BaseException | None) -> None:
        self.deaths, self.beginnings, self.pauses = list(deaths), 0, list[float]()
        self.alive = asyncio.Event()

    async def work(self) -> None:
        self.beginnings += 1
        if self.deaths:
            death = self.deaths.pop(0)
            if death is not None:
                raise death
            return
        self.alive.set()
        await asyncio.Event().wait()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def begun_anew(self, task: asyncio.Task[None]) -> None:
        """Wait until it goes on for ever, or nobody begins it any more."""
        alive = asyncio.create_task(self.alive.wait())
        await asyncio.wait({task, alive}, return_when=asyncio.FIRST_COMPLETED)
        alive.cancel()
        assert not task.done()


async def test_whatever_a_task_dies_of_it_is_begun_anew() -> None:
    """An exception, an end that should not be, a cancellation of something inside; each is told with its cause."""
    deaths = [RuntimeError("poison"), None, asyncio.CancelledError(), ValueError("again")]
    scripted = Scripted(*deaths)
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(supervised("sweeping", scripted.work, sleep=scripted.sleep))
        await scripted.begun_anew(task)
    assert scripted.beginnings == 5
    assert [line["exc_info"] for line in logs] == deaths
    assert {(line["event"], line["task"], line["log_level"]) for line in logs} == {
        ("task.died", "sweeping", "error")
    }
    assert scripted.pauses == [1, 2, 4, 8]
    await ended(task)
    assert task.cancelled()


async def test_the_pause_has_a_bound() -> None:
    """A minute; who waits for the task to come back knows how long."""
    scripted = Scripted(*[RuntimeError()] * 12)
    task = asyncio.create_task(supervised("sweeping", scripted.work, sleep=scripted.sleep))
    await scripted.begun_anew(task)
    assert max(scripted.pauses) == scripted.pauses[-1] == 60
    await ended(task)


@pytest.mark.parametrize("deaths", [[], [RuntimeError()]])
async def test_it_ends_when_it_is_cancelled(deaths: list[BaseException]) -> None:
    """While it works, and while it pauses."""
    scripted = Scripted(*deaths)
    task = asyncio.create_task(supervised("sweeping", scripted.work))
    for _ in range(9):
        await asyncio.sleep(0)
    assert scripted.beginnings == 1
    await ended(task)
    assert task.cancelled()


async def test_an_end_outlives_tasks_that_failed() -> None:
    """What one of them died of keeps nobody from stopping in order."""

    async def dies() -> None:
        raise RuntimeError

    tasks = [asyncio.create_task(dies()), asyncio.create_task(asyncio.sleep(9999))]
    await asyncio.sleep(0)
    await ended(*tasks)
    assert all(task.done() for task in tasks)
