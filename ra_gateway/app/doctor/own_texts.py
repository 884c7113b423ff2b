"""What our own texts mean: all that the gateway or the bundled CA refuses or fails with, known by literal parts."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from ra_gateway import errors
from ra_gateway.app.doctor.known_errors import explain_text, known_errors
from ra_gateway.errors import CMPError

_LONGEST_LINE: Final = 65_536
"""Characters that are looked at; our own lines have 4096 octets at most."""

_AROUND_WORDS: Final = " ,.:;()'\""
_LEAST_SHARE: Final = 0.6
"""Of the literal letters, for a text that has not all of them to be taken for one of ours."""

LEAST_LITERAL: Final = 8
"""Letters of a text that are the same whenever it is said; one with fewer is known by its rule or class alone."""


@dataclass(frozen=True, slots=True)
class OwnText:
    """One text that the code has.

    Args:
        error: Name of the exception's class.
        rule: Requirement or clause; "" where it has none.
        pieces: Its literal parts, in order.
    """

    error: str
    rule: str
    pieces: tuple[str, ...]

    @property
    def length(self) -> int:
        """How many letters and digits are literal."""
        return sum(char.isalnum() for piece in self.pieces for char in piece)

    def is_in(self, text: str) -> bool:
        """Tell whether a text has all literal parts in their order; devices choose much of what is between."""
        at = 0
        for piece in self.pieces:
            if (at := text.find(piece, at)) < 0:
                return False
            at += len(piece)
        return True

    def share_in(self, text: str) -> float:
        """Return which part of the literal letters a text has, in order: people quote lines as they recall them."""
        at = had = 0
        for piece in self.pieces:
            words = piece.strip(_AROUND_WORDS)
            if words and (found := text.find(words, at)) >= 0:
                at = found + len(words)
                had += sum(map(str.isalnum, words))
        return had / self.length


@dataclass(frozen=True, slots=True)
class Meaning:
    """What is behind a text.

    Args:
        who: Has to act: "device", "operator" or "ca".
        todo: What to do.
    """

    who: str
    cause: str
    todo: str


@cache
def own_texts() -> tuple[OwnText, ...]:
    """Return every text, those with the most literal letters first."""
    data = resources.files(__package__).joinpath("own_texts.json").read_text("utf-8")
    found = [OwnText(error, rule, tuple(pieces)) for error, rule, pieces in json.loads(data)]
    return tuple(sorted(found, key=lambda item: -item.length))


@cache
def _telling() -> tuple[OwnText, ...]:
    return tuple(item for item in own_texts() if item.length >= LEAST_LITERAL)


@cache
def _table() -> dict[str, Any]:
    data = resources.files(__package__).joinpath("own_errors.toml").read_text("utf-8")
    return tomllib.loads(data)


def recognised(text: str, rule: str = "") -> OwnText | None:
    """Return the text of ours that a line has, that with the most literal letters; None where it has none.

    Args:
        rule: As the line tells it, "" if it does not: texts of this rule come first.
    """
    found = [item for item in _telling() if item.is_in(text)]
    of_rule = [item for item in found if rule and item.rule == rule]
    return next(iter(of_rule or found), None)


def meaning(error: str, rule: str, text: str = "") -> Meaning | None:
    """Return what is behind an exception: by its text, else its rule, else its class.

    Args:
        error: Name of its class; "" where only the rule is known.
    """
    folded = text.casefold()
    table = _table()
    for row in table["rows"]:
        if row.get("text", "") in folded and row.get("rule", rule) == rule:
            return _meaning(row)
    row = table["classes"].get(error)
    return None if row is None else _meaning(row)


def _meaning(row: dict[str, str]) -> Meaning:
    return Meaning(row["who"], row["cause"], row["todo"])


def explain_own(text: str, rule: str = "", fail_info: str = "") -> Meaning | None:
    """Return what a line of our log, or what a device was told, is about; None where it is none of ours.

    Args:
        text: A line or the detail in it, or a statusString.
        rule, fail_info: As of the line.
    """
    found = recognised(text, rule)
    if found is not None:
        return meaning(found.error, found.rule or rule, text)
    for error in _classes():
        if error.phrase in text:
            return meaning(error.__name__, rule)
    if not rule:
        return None
    name = next((item.__name__ for item in _classes() if item.fail_info.name == fail_info), "")
    return meaning(name, rule, text)


def explain_line(line: str) -> list[Meaning]:
    """Return what may be behind a line of a log, or a text out of one: ours, or else what CAs are known to say.

    Args:
        line: Text; or JSON, of which detail, rule and fail_info count.
    """
    fields = _fields(line[:_LONGEST_LINE])
    text = fields.get("detail", line[:_LONGEST_LINE])
    found = recognised(text, fields.get("rule", ""))
    own = explain_own(text, fields.get("rule", ""), fields.get("fail_info", ""))
    folded = text.casefold()
    # Its statusString, or the failInfo that it gave: "ca answered with error: rejection badTime ...".
    of_cas = any(row.text and row.text in folded for row in known_errors()) or (
        "answered with" in folded and bool(explain_text(text))
    )
    # What a CA said stands in our own words: the CA's are the ones that tell.
    quotes = found is not None and (found.error.startswith("Upstream") or "CA" in found.pieces[0])
    if own is not None and not (of_cas and (quotes or found is None)):
        return [own]
    said = [
        Meaning("ca", row.cause, row.setting.replace("{name}", "<name>"))
        for row in explain_text(text)
    ]
    return said or _recalled(text)


def _recalled(text: str) -> list[Meaning]:
    """Return what a text of ours is about of which parts are missing."""
    share, found = max(
        ((item.share_in(text), item) for item in _telling()), key=lambda pair: pair[0]
    )
    own = meaning(found.error, found.rule, text) if share >= _LEAST_SHARE else None
    return [] if own is None else [own]


def _fields(line: str) -> dict[str, str]:
    """Return the texts of a line that is JSON, wherever in it that begins; none of one that is not."""
    try:
        found = json.loads(line[line.index("{") :])
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or "detail" not in found:
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, str)}


@cache
def _classes() -> tuple[type[CMPError], ...]:
    """Return every class of refusals that has a sentence of its own for the wire."""
    found = [item for item in vars(errors).values() if isinstance(item, type)]
    return tuple(item for item in found if issubclass(item, CMPError) and "phrase" in vars(item))
