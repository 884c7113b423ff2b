"""A configuration file as it was read, before anything about it is known: what rules that cross tables look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from ra_gateway.config.tables import EndpointConfig, default_body_types
from ra_gateway.config.values import texts
from ra_gateway.errors import Problem

Raw = Mapping[str, Any]
"""A file, or a table of one, before anything about it is known."""

Rule = Callable[[Raw], Iterator[Problem]]
"""Yields what is wrong."""


def table_at(raw: object, *keys: str) -> Raw:
    """Return a table of the raw file, empty if it is absent or no table."""
    for key in keys:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw if isinstance(raw, dict) else {}


def rows_at(raw: Raw, key: str) -> Iterator[tuple[str, Raw]]:
    """Yield name and table of each table in a raw table of tables."""
    for name in table_at(raw, key):
        yield name, table_at(raw, key, name)


def listed_at(table: Raw, key: str) -> Iterator[tuple[int, Any]]:
    """Return index and value of what a raw list holds; nothing if it is no list."""
    found = table.get(key)
    return enumerate(found if isinstance(found, list) else ())


def domains_in(raw: Raw) -> Iterator[tuple[str, Raw]]:
    """Yield dotted path and table of each trust domain."""
    yield "operator", table_at(raw, "operator")
    for name, vendor in rows_at(raw, "vendors"):
        yield f"vendors.{name}", vendor


def value_at(table: Raw, model: type[BaseModel], key: str) -> Any:
    """Return a raw value, or the model's default where the file is silent."""
    return table.get(key, model.model_fields[key].default)


def types_taken(endpoint: Raw) -> set[str]:
    """Return the raw `body_types` of an endpoint, or what it takes without."""
    strictness = value_at(endpoint, EndpointConfig, "strictness")
    return set(texts(endpoint.get("body_types", default_body_types(strictness))))


def exceeds(left: object, right: object) -> bool:
    """Return whether two raw values are numbers and the first is larger."""
    if isinstance(left, bool) or isinstance(right, bool):
        return False
    return isinstance(left, int | float) and isinstance(right, int | float) and left > right


def crossed(
    path: str, table: Raw, model: type[BaseModel], least: str, most: str
) -> Iterator[Problem]:
    """Yield what is wrong where a lower bound is above the upper one."""
    if exceeds(value_at(table, model, least), value_at(table, model, most)):
        yield Problem(f"{path}.{least}", f"is above {most}", "Lower it, or raise the other.")
