"""What the doctor says of one thing it looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from ra_gateway.errors import ConfigError


class Verdict(StrEnum):
    """How bad it is; a fault keeps base stations from being served, or will."""

    ok = "ok"
    warning = "warning"
    fault = "fault"


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the doctor's table.

    Args:
        subject: What was looked at, like "upstream ejbca".
        tried: What was done.
        came_back: What was seen.
        cause: What is likely to be behind it, "" if all is well.
        setting: What to change, and on which side, "" if nothing is to be changed.
    """

    subject: str
    tried: str
    came_back: str
    verdict: Verdict = Verdict.ok
    cause: str = ""
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the doctor looks at, and the rows that may come of it; arguments as of `Result`."""

    subject: str
    tried: str

    def ok(self, came_back: str) -> Result:
        """Return the row of what is well."""
        return Result(self.subject, self.tried, came_back)

    def warning(self, came_back: str, cause: str, setting: str) -> Result:
        """Return the row of a warning."""
        return self.result(Verdict.warning, came_back, cause, setting)

    def fault(self, came_back: str, cause: str, setting: str) -> Result:
        """Return the row of a fault."""
        return self.result(Verdict.fault, came_back, cause, setting)

    def result(self, verdict: Verdict, came_back: str, cause: str, setting: str) -> Result:
        """Return the row of what is wrong, with its verdict."""
        return Result(self.subject, self.tried, came_back, verdict, cause, setting)

    def problems(self, error: ConfigError) -> list[Result]:
        """Return what is wrong with settings as faults, one for each problem."""
        return [self.fault(item.what, item.todo, item.path) for item in error.problems]


def not_told(rows: Iterable[Result], before: Iterable[Result]) -> list[Result]:
    """Leave out what kept something from being tried where it is told as what it is: a file of TLS, say."""
    told = {(row.setting, row.came_back) for row in before if row.verdict is Verdict.fault}
    return [row for row in rows if (row.setting, row.came_back) not in told]


def worst(results: Iterable[Result]) -> Verdict:
    """Return the worst verdict of some results."""
    found = {item.verdict for item in results}
    return next((item for item in (Verdict.fault, Verdict.warning) if item in found), Verdict.ok)
