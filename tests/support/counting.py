"""Counting calls of functions, the same every time; and all objects."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def profiled(profile: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    """Have a profiler told of every call; garbage is not collected, since whoever hooks into that is called as well.

    Hypothesis does, for the rest of the process.
    """
    collects = gc.isenabled()
    gc.disable()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        if collects:
            gc.enable()


def all_objects() -> list[Any]:
    """Return every container there is: `gc.get_objects` leaves out what was frozen before the first test."""
    gc.unfreeze()
    found = gc.get_objects()
    gc.freeze()
    return found
