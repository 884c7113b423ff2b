"""Exchanges with a CA are counted by how they end, whatever kind it is of."""

from __future__ import annotations

import asyncio

import pytest

from ra_gateway.errors import UpstreamBroken, UpstreamUnavailable
from ra_gateway.upstream.metered import ExchangeOutcome, MeteredCA


class Scripted:
    """A CA that fails as it is told, or hangs."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.asked: list[tuple[bytes, str, float]] = []
        self.closed = False

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        self.asked.append((der, path, deadline_seconds))
        if self.error is not None:
            raise self.error
        return b"answer"

    async def close(self) -> None:
        self.closed = True


def counts(ca: MeteredCA) -> dict[ExchangeOutcome, int]:
    """Return what was counted, but for zeros."""
    return {outcome: sum(item.counts) for outcome, item in ca.durations.items() if any(item.counts)}


async def test_an_answer() -> None:
    core = Scripted(None)
    ca = MeteredCA(core)
    assert await ca.exchange(b"der", path="p", deadline_seconds=3.0) == b"answer"
    assert core.asked == [(b"der", "p", 3.0)]
    assert counts(ca) == {ExchangeOutcome.answered: 1}
    await ca.close()
    assert core.closed


@pytest.mark.parametrize(
    "error, outcome",
    [
        (UpstreamUnavailable("away", delivered=False), ExchangeOutcome.unavailable),
        (UpstreamBroken("no CMP", rule="R91"), ExchangeOutcome.broken),
        (asyncio.CancelledError(), ExchangeOutcome.cancelled),
    ],
)
async def test_what_is_no_answer(error: BaseException, outcome: ExchangeOutcome) -> None:
    ca = MeteredCA(Scripted(error))
    with pytest.raises(type(error)):
        await ca.exchange(b"der", path="", deadline_seconds=3.0)
    assert counts(ca) == {outcome: 1}
