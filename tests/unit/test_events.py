"""When a store counts as lost, and when as found."""

from __future__ import annotations

from ra_gateway.events import (
    FOUND_AFTER_SECONDS,
    Component,
    Fact,
    StoreFound,
    StoreLost,
    StoreWatch,
)


def test_a_store_is_lost_once_and_found_once() -> None:
    """By its first failure, and by an answer after the last one; one that still fails now and then is not found."""
    now, facts = 100.0, list[Fact]()
    watch = StoreWatch(facts.append, Component.gateway, lambda: now)
    watch.answered()
    assert facts == []
    watch.failed("away")
    watch.failed("still away")
    assert facts == [StoreLost(Component.gateway, "away")]
    now += FOUND_AFTER_SECONDS - 1
    watch.answered()
    watch.failed("it reads, and does not write")
    now += 2
    watch.answered()
    assert len(facts) == 1
    now += FOUND_AFTER_SECONDS
    watch.answered()
    watch.answered()
    assert facts[1:] == [StoreFound(Component.gateway, 2 * FOUND_AFTER_SECONDS + 1)]
