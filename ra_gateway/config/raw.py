"""The raw tables of a file, before anything about them is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ra_gateway.errors import Problem

Raw = Mapping[str, Any]
"""A file, or a table of one, before anything about it is known."""

Rule = Callable[[Raw], Iterator[Problem]]
"""Yields what is wrong."""


def table_of(raw: object, *keys: str) -> Raw:
    """Return a table of the raw file, empty if it is absent or no table."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw if isinstance(raw, dict) else {}


def rows_of(raw: Raw, key: str) -> Iterator[tuple[str, Raw]]:
    """Yield name and table of each table below a key."""
    for name in table_of(raw, key):
        yield name, table_of(raw, key, name)


def value_of(table: Raw, model: type[BaseModel], key: str) -> Any:
    """Return a raw value, or the model's default where the file is silent."""
    return table.get(key, model.model_fields[key].default)


def exceeds(left: object, right: object) -> bool:
    """Return whether two raw values are numbers and the first is larger."""
    if isinstance(left, bool) or isinstance(right, bool):
        return False
    return isinstance(left, int | float) and isinstance(right, int | float) and left > right
