"""What is likely to be behind what a CA says, and what to change: known_errors.toml, and how it is read."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Final

from ra_gateway.app.doctor.results import Verdict
from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import PKIFailureInfo


@dataclass(frozen=True, slots=True)
class Cause:
    """One row.

    Args:
        cause: What is likely to be wrong.
        setting: What to change; "{name}" stands for the name of the upstream.
        text: Part of the text, in small letters; "" for any.
        fail_info: One of the bits; None for any or none.
        requests: Which requests it is about; empty for all.
        verdict: warning where base stations may be served all the same.
    """

    cause: str
    setting: str
    text: str = ""
    fail_info: PKIFailureInfo | None = None
    requests: frozenset[BodyType] = frozenset()
    verdict: Verdict = Verdict.fault

    def fits(self, text: str, fail_info: Collection[PKIFailureInfo], request: BodyType) -> bool:
        """Tell whether the row is about an answer to a request; `text` in small letters."""
        return (
            self.text in text
            and (self.fail_info is None or self.fail_info in fail_info)
            and (not self.requests or request in self.requests)
        )


@cache
def known_errors() -> tuple[Cause, ...]:
    """Return all rows, in the order in which they are tried."""
    data = resources.files(__package__).joinpath("known_errors.toml").read_text("utf-8")
    table = tomllib.loads(data)
    return tuple(_row(row, table["ra_rights"]) for row in table["known_errors"])


def _row(row: dict[str, Any], ra_rights: str) -> Cause:
    return Cause(
        row["cause"],
        row["setting"].replace("{ra_rights}", ra_rights),
        row.get("text", ""),
        PKIFailureInfo[row["fail_info"]] if "fail_info" in row else None,
        frozenset(BodyType[name] for name in row.get("requests", ())),
        Verdict(row.get("verdict", "fault")),
    )


def of_other_cas(text: str) -> str:
    """Return a cause or setting without the parts of it that are about EJBCA; "" where all of it is.

    Args:
        text: Parts are separated by semicolons.
    """
    parts = [part for part in text.split("; ") if "EJBCA" not in part and "alias" not in part]
    return "; ".join(parts).removeprefix("or ")


def _elsewhere(row: Cause) -> Cause | None:
    """Return what a row says of another CA than EJBCA; None where that is nothing."""
    cause, setting = of_other_cas(row.cause), of_other_cas(row.setting)
    return replace(row, cause=cause, setting=setting) if cause and setting else None


UNKNOWN: Final = Cause(
    "the CA does not say; its log does",
    "the CA's settings for this gateway; its log has the reason",
)


def explain(
    text: str,
    fail_info: Collection[PKIFailureInfo],
    request: BodyType,
    *,
    is_ejbca: bool = True,
    answered: bool = True,
) -> Cause:
    """Return what is likely to be behind an answer.

    Args:
        text: statusString, or what the HTTP client says.
        request: What it answers.
        is_ejbca: Whether the CA may be EJBCA, whose words other CAs use for other things.
        answered: Whether there was an answer: without one, only the text tells.
    """
    folded = text.casefold()
    for row in known_errors():
        if row.fits(folded, fail_info, request) and (answered or row.text):
            found = row if is_ejbca else _elsewhere(row)
            if found is not None:
                return found
    return UNKNOWN


def explain_text(text: str) -> list[Cause]:
    """Return every row that a line of a log may be about: by its text, else by the names of failInfo in it."""
    folded = text.casefold()
    found = [row for row in known_errors() if row.text and row.text in folded]
    return found or [
        row
        for row in known_errors()
        if row.fail_info is not None and not row.text and row.fail_info.name.casefold() in folded
    ]
