"""What stands in a configuration and never takes effect: said by `check-config` and by the doctor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ra_gateway.cmp.names import canonical, from_rfc4514
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig, IdentityConfig
from ra_gateway.errors import ConfigError, MalformedMessage, Problem
from ra_gateway.ra.policy import InventoryUse
from ra_gateway.stores.inventory import COLUMNS
from ra_gateway.stores.rows import Row, read_rows

_MOST_LINES: Final = 5
"""Told of one kind of wrong line; the rest is counted."""


def of_idle(config: GatewayConfig) -> Iterator[Problem]:
    """Yield the tables that no request comes to: nobody is refused for them, and nobody is served either."""
    client = config.ca.client if config.ca is not None else None
    served = {name for endpoint in config.endpoints.values() for name in endpoint.vendors}
    served |= set(() if client is None else client.vendors)
    for name, vendor in config.vendors.items():
        if vendor.enabled and name not in served:
            yield Problem(
                f"vendors.{name}",
                "is in no endpoint: its base stations are strangers, and are refused (signerNotTrusted)",
                f'Add "{name}" to vendors of an endpoint; or set enabled = false',
            )
    asked = {endpoint.upstream for endpoint in config.endpoints.values()}
    asked |= {route.upstream for endpoint in config.endpoints.values() for route in endpoint.routes}
    for name in config.upstreams:
        if name not in asked:
            yield Problem(
                f"upstreams.{name}",
                "is named by no endpoint and no route: nothing is sent there",
                "Name it in an endpoint or a route; or take it out",
            )
    if config.inventory is not None and not _is_looked_at(config):
        yield Problem(
            "inventory",
            "is read, and nobody looks at it: no device is admitted or refused by it",
            'Set inventory = "required" or "optional" in vendors.NAME.identity or in a route\'s',
        )


def of_idle_at_the_ca(config: CAServiceConfig) -> Iterator[Problem]:
    """Yield the vendors in the file of a CA by itself that nobody comes by."""
    client = config.ca.client
    served = () if client is None else client.vendors
    for name, vendor in config.vendors.items():
        if vendor.enabled and name not in served:
            yield Problem(
                f"vendors.{name}",
                "is not in ca.client.vendors: its base stations are strangers, and are refused (signerNotTrusted)",
                f'Add "{name}" there; or take the table out',
            )


def _identities(config: GatewayConfig) -> Iterator[IdentityConfig]:
    for vendor in config.vendors.values():
        yield vendor.identity
    for endpoint in config.endpoints.values():
        yield from (route.identity for route in endpoint.routes if route.identity is not None)


def _is_looked_at(config: GatewayConfig) -> bool:
    return (
        any(item.inventory is not InventoryUse.none for item in _identities(config))
        or any(endpoint.approval == "unlisted" for endpoint in config.endpoints.values())
        or any(
            route.approval == "unlisted"
            for endpoint in config.endpoints.values()
            for route in endpoint.routes
        )
    )


def of_inventory(config: GatewayConfig) -> Iterator[Problem]:
    """Yield the lines of the inventory that help nobody: of vendors that there are not, and of names given twice."""
    if config.inventory is None:
        return
    path = config.inventory.csv_path
    told = Counter[str]()
    lines: dict[object, int] = {}
    for row in _rows(config):
        vendor, subject = row.values["domain"], row.values["subject"]
        if vendor not in config.vendors:
            told["vendor"] += 1
            if told["vendor"] <= _MOST_LINES:
                known = ", ".join(config.vendors) or "none"
                what = f"there is no vendor {vendor!r}; nobody is looked up by this line"
                yield Problem(f"{path}:{row.line}", what, f"Write one of: {known}")
        # What a template makes is another name for each device.
        if not subject or "{" in subject:
            continue
        first = lines.setdefault(_key(subject), row.line)
        if first != row.line:
            told["subject"] += 1
            if told["subject"] <= _MOST_LINES:
                yield Problem(
                    f"{path}:{row.line}",
                    f"has the subject of line {first}: two devices, and one name for both",
                    "Give each a subject of its own",
                )
    for what, number in told.items():
        if number > _MOST_LINES:
            more = f"has {number - _MOST_LINES} more lines with such a {what}"
            yield Problem(str(path), more, "Correct them as well")


def _rows(config: GatewayConfig) -> Iterator[Row]:
    assert config.inventory is not None
    try:
        for row in read_rows(config.inventory.csv_path, COLUMNS):
            if isinstance(row, Row):
                yield row
    except ConfigError:
        return  # whoever loads it to use it says what is wrong


def _key(subject: str) -> object:
    try:
        return canonical(from_rfc4514(subject))
    except (ValueError, MalformedMessage):
        return subject
