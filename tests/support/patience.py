"""How long tests wait for what is going to happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

PATIENCE_SECONDS: Final = 300.0
"""Ends a test that would wait for ever; says nothing of how fast the machine is."""


def await_text(path: Path, text: str, alive: Callable[[], bool]) -> None:
    """Wait until a text is in a file that a process writes.

    Args:
        alive: Whether the process still runs.

    Raises:
        AssertionError: It ended without it, or took too long; the message is what the file has.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while text not in f"\n{path.read_text() if path.exists() else ''}":
        assert alive(), path.read_text()
        assert time.monotonic() < give_up_at, path.read_text()
        time.sleep(0.02)
