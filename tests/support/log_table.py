"""Lines of the log, held against the table that docs/log-fields.md is written from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from ra_gateway.cmp.codes import BodyType
from ra_gateway.log_lines import FIELDS, FRAME, LINES, MESSAGE, Kind, Line


def line_of(event: str) -> Line | None:
    """Return what the table has of a line's name."""
    return MESSAGE if event in BodyType.__members__ else LINES.get(event)


def faults(told: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a line, as JSON has it, is not as the table says."""
    name = told["event"]
    if "logger" in told:  # a library's
        return
    line = line_of(name)
    if line is None:
        yield f"{name} is no line"
        return
    if told["level"] not in line.levels:
        yield f"{name} has no level {told['level']}"
    for field, value in told.items():
        if field not in FRAME and field not in line.fields:
            yield f"{name} has no field {field}"
        elif field not in told.get("cut", "").split(", ") and not _FITS[
            (FRAME.get(field) or FIELDS[field]).kind
        ](value):
            yield f"{name}: {field} is {value!r}"


def _is_moment(value: Any) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FITS: Final[dict[Kind, Callable[[Any], bool]]] = {
    Kind.text: lambda value: isinstance(value, str),
    Kind.hex: lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]*", value) is not None,
    Kind.moment: _is_moment,
    Kind.whole: _is_whole,
    Kind.number: lambda value: type(value) in (int, float),
    Kind.texts: _are_texts,
    Kind.numbers: lambda value: isinstance(value, list) and all(map(_is_whole, value)),
    Kind.named: lambda value: isinstance(value, dict) and _are_texts(list(value.values())),
}
