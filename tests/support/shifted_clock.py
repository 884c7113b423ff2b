"""A wall clock of a process of the tests that can be set while it runs: by a file that says how far off it is."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

from ra_gateway import clocks


def follow(path: Path) -> None:
    """Have everything in this process that asks `ra_gateway.clocks` for the time be off by the seconds in a file."""

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=float(path.read_text()))

    vars(clocks)["datetime"] = Shifted


def set_clock(path: Path, seconds: float) -> None:
    """Set the clock of a process that follows a file, as a whole: it may read it meanwhile."""
    new = path.with_suffix(".new")
    new.write_text(f"{seconds}")
    os.replace(new, path)
