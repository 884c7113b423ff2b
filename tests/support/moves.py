"""How often control moves between the files of a room while something runs: what a reader has to follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import ra_gateway.ra
from ra_gateway.ra.transaction import Transaction

ROOM = Path(ra_gateway.ra.__file__).parent


@dataclass(slots=True)
class Moves:
    """Calls from one file of the room into another, in their order: (from, to)."""

    calls: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def counted_moves() -> Iterator[Moves]:
    """Count while something runs how often a file of `ra_gateway/ra` calls another one."""
    moves = Moves()

    read = {
        item.fget.__code__
        for item in vars(Transaction).values()
        if isinstance(item, property) and item.fget is not None
    }  # a property of what is stored reads like a field of it
    seen: set[FrameType] = set()  # a coroutine that goes on is not called once more

    def profile(frame: FrameType, event: str, _: Any) -> None:
        caller = frame.f_back
        if event != "call" or caller is None or frame in seen or frame.f_code in read:
            return
        came_from, went_to = Path(caller.f_code.co_filename), Path(frame.f_code.co_filename)
        if came_from != went_to and came_from.parent == went_to.parent == ROOM:
            seen.add(frame)
            moves.calls.append((came_from.name, went_to.name))

    sys.setprofile(profile)
    try:
        yield moves
    finally:
        sys.setprofile(None)
