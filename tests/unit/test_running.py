"""How a service is run: it ends when it is told to, however far it has come."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from ra_gateway.app.running import run_until_signalled
from tests.support.patience import PATIENCE_SECONDS


class Slow:
    """A service whose start waits for something that does not come."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def start(self) -> tuple[str, int]:
        self.told.append("start")
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            self.told.append("given up")
        raise AssertionError

    async def reload(self) -> None:
        raise AssertionError

    async def stop(self) -> None:
        self.told.append("stop")

    def is_alive(self) -> bool:
        return True


async def test_a_start_that_is_not_awaited_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ra_gateway.app.running.settle", lambda: None)
    service, begun = Slow(), []
    async with asyncio.timeout(PATIENCE_SECONDS / 10):
        await run_until_signalled(service, lambda host, port: begun.append((host, port)))
    assert service.told == ["start", "given up", "stop"]
    assert not begun
