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


def of_problems(subject: str, tried: str, error: ConfigError) -> list[Result]:
    """Return what is wrong with settings as faults, one for each problem."""
    return [
        Result(subject, tried, problem.what, Verdict.fault, problem.todo, problem.path)
        for problem in error.problems
    ]


def worst(results: Iterable[Result]) -> Verdict:
    """Return the worst verdict of some results."""
    found = {item.verdict for item in results}
    return next((item for item in (Verdict.fault, Verdict.warning) if item in found), Verdict.ok)
