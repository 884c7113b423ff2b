"""What tests do with event loops: run on a second one, and let time pass."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import uvloop


def on_uvloop(module: Mapping[str, Any]) -> pytest.MarkDecorator:
    """Parametrize a test with `test`, each coroutine test of a module (its `globals()`) that takes no fixture."""
    tests = [
        test
        for name, test in sorted(module.items())
        if name.startswith("test_")
        and inspect.iscoroutinefunction(test)
        and not inspect.signature(test).parameters
    ]
    return pytest.mark.parametrize(
        "test", tests, ids=lambda test: test.__name__.removeprefix("test_")
    )


def run_on_uvloop(test: Callable[[], Any]) -> None:
    """Run a coroutine test on the loop that the gateway has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def let_pass(seconds: float) -> None:
    """Put the running loop's clock forward: what is waited for is due so much earlier."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]
