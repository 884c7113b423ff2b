"""Clocks that are set, machines that sleep, and what must not happen by one reading of a clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from ra_gateway.clocks import CALM_SECONDS, STEP_SECONDS, SteadyClock, elapsed_seconds, unstepped
from ra_gateway.stores.memory import MemoryStore
from tests.support.transactions import new_transaction


class Machine:
    """A wall clock and one that counts; both by hand."""

    def __init__(self) -> None:
        self.wall, self.elapsed = datetime(2026, 1, 2, tzinfo=UTC), 5000.0

    def run(self, seconds: float, *, step: float = 0.0) -> None:
        self.wall += timedelta(seconds=seconds + step)
        self.elapsed += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


def steady_clock(machine: Machine) -> SteadyClock:
    return SteadyClock(lambda: machine.wall, lambda: machine.elapsed)


@pytest.mark.parametrize("step", [61.0, 400.0, 86_400.0, -61.0, -86_400.0])
def test_a_step(machine: Machine, step: float) -> None:
    """Forward or backward: not believed from the first look on, said once, and believed after an even hour."""
    steady = steady_clock(machine)
    machine.run(10)
    assert steady()
    machine.run(10, step=step)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            assert not steady()
            machine.run(10)
    assert [(line["event"], line["by_seconds"]) for line in logs] == [
        ("clock.stepped", round(step))
    ]
    machine.run(CALM_SECONDS)
    with structlog.testing.capture_logs() as logs:
        assert steady()
        assert steady()
    assert [line["event"] for line in logs] == ["clock.steady_again"]


def test_an_excursion(machine: Machine) -> None:
    """There and back: the hour counts from the last step."""
    steady = steady_clock(machine)
    machine.run(10, step=400)
    assert not steady()
    machine.run(CALM_SECONDS - 10, step=-400)
    assert not steady()
    machine.run(CALM_SECONDS - 10)
    assert not steady()
    machine.run(10)
    assert steady()


def test_what_is_no_step(machine: Machine) -> None:
    """A machine that slept, small corrections of NTP, and a clock that runs a little fast for months."""
    steady = steady_clock(machine)
    machine.run(86_400)  # asleep: both clocks count it
    assert steady()
    machine.run(10, step=STEP_SECONDS - 1)
    assert steady()
    machine.run(CALM_SECONDS)
    assert steady()
    for _ in range(10_000):
        machine.run(600, step=0.06)  # 100 ppm
        assert steady()


def test_steps_that_add_up(machine: Machine) -> None:
    """Many small ones in a short time are a large one."""
    steady = steady_clock(machine)
    looks = []
    for _ in range(5):
        machine.run(10, step=30)
        looks.append(steady())
    assert looks[:2] == [True, True]
    assert not any(looks[2:])


def test_the_real_clocks() -> None:
    """They run, and agree."""
    assert SteadyClock()()
    before = elapsed_seconds()
    assert elapsed_seconds() >= before
    clock = unstepped()
    assert clock() <= clock()
    assert abs(clock() - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
async def test_the_memory_store_forgets_nothing_by_a_step(machine: Machine, step: float) -> None:
    """A captured request finds its transaction, whatever the wall clock says meanwhile."""
    lifetimes = unstepped(lambda: machine.wall, lambda: machine.elapsed)
    store = MemoryStore(lambda: machine.wall, lifetimes=lifetimes, max_transactions=9)
    transaction: Any = new_transaction(expires_at=machine.wall + timedelta(hours=1))
    await store.create(transaction)
    machine.run(60, step=step)
    assert await store.load(transaction.key) == transaction
    other = new_transaction(b"made meanwhile", expires_at=machine.wall + timedelta(hours=1))
    await store.create(other)
    machine.run(60, step=-step)
    assert await store.create(new_transaction(created_at=machine.wall)) == transaction
    assert await store.load(other.key) == other
    machine.run(3600)
    assert await store.load(transaction.key) is None
    assert await store.load(other.key) is None
