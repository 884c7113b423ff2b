"""What stands in a configuration and never takes effect: said by `check-config` and by the doctor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from ra_gateway.app.name_warnings import of_devices
from ra_gateway.config.service_tables import InventorySQLConfig
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig, IdentityConfig
from ra_gateway.errors import ConfigError, Problem, StoreUnavailable
from ra_gateway.ra.settings import InventoryUse
from ra_gateway.stores.inventory import CSVInventory, Listed, of_no_use
from ra_gateway.stores.rows import read_rows
from ra_gateway.stores.secrets import COLUMNS as SECRETS

_MOST_LINES: Final = 5
"""Told of one file."""


def unused_tables(config: GatewayConfig) -> Iterator[Problem]:
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
    store = config.store
    for key in ("redis_url", "redis_url_path"):
        if store.kind == "memory" and getattr(store, key) is not None:
            yield Problem(
                f"store.{key}",
                'is not used, since store.kind is "memory": transactions end with this process',
                'Set store.kind to "redis"; or take it out',
            )
    if config.inventory is not None and not _is_looked_at(config):
        yield Problem(
            "inventory",
            "is read, and nobody looks at it: no device is admitted or refused by it",
            'Set inventory = "required" or "optional" in vendors.NAME.identity or in a route\'s',
        )


def unused_at_the_ca(config: CAServiceConfig) -> Iterator[Problem]:
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
    """Yield the lines of the inventory that help nobody, where it is a file: as `of_list`.

    What is wrong with a table of SQLite is told, too, and what the bundled CA refuses of it: the service starts with
    it, and admits by each row that is well.
    """
    if config.inventory is None:
        return
    if config.inventory.sql is not None and config.inventory.sql.sqlite_path is not None:
        yield from _of_table(config, config.inventory.sql)
    if config.inventory.csv_path is None:
        return
    try:
        devices = CSVInventory(config.inventory.csv_path)
    except ConfigError:
        return  # whoever loads it to use it says what is wrong
    yield from of_whole_list(config, [*devices])


def _of_table(config: GatewayConfig, table: InventorySQLConfig) -> Iterator[Problem]:
    from ra_gateway.stores.inventory_sql import SQLInventory  # the extra `ca`

    try:
        devices = asyncio.run(SQLInventory(**dict(table)).listed(lambda _done, _all: None))
    except ConfigError as error:
        yield from error.problems
    except StoreUnavailable as error:
        todo = "Make it as docs/registering.md has it; until then no device is admitted by it"
        yield Problem("inventory.sql", f"cannot be read: {error.detail}", todo)
    else:
        yield from of_whole_list(config, devices)
        yield from of_devices(config, devices)


def of_list(config: GatewayConfig, devices: Iterable[Listed]) -> Iterator[Problem]:
    """Yield the devices of a list, or of a part of it, that help nobody."""
    yield from of_no_use(devices, domains(config))


def of_whole_list(config: GatewayConfig, devices: Sequence[Listed]) -> Iterator[Problem]:
    """Yield as `of_list`, and the vendors that the list is not asked about, or whose devices it refuses all."""
    yield from of_list(config, devices)
    yield from _not_looked_up(config, devices)
    enabled = {item.domain for item in devices if item.entry.enabled}
    for name, vendor in config.vendors.items():
        required = vendor.enabled and vendor.identity.inventory is InventoryUse.required
        if required and name not in enabled:
            yield Problem(
                f"vendors.{name}.identity.inventory",
                f"is required, and no device of {name} is listed and enabled: all are refused (notAuthorized)",
                f"List its devices, with the domain {name}",
            )


def _not_looked_up(config: GatewayConfig, devices: Iterable[Listed]) -> Iterator[Problem]:
    known = domains(config)
    if not any(known.values()):
        return  # which is told of the inventory as a whole
    lines: dict[str, list[Listed]] = {}
    for item in devices:
        if not known.get(item.domain, True):
            lines.setdefault(item.domain, []).append(item)
    for name, found in lines.items():
        more = f", nor by {len(found) - 1} more" if len(found) > 1 else ""
        yield Problem(
            found[0].where,
            f"{name} does not go by the inventory; nobody is looked up by this line{more}",
            f'Set inventory = "required" or "optional" in vendors.{name}.identity; or take it out',
        )


def of_secrets(config: GatewayConfig, now: datetime) -> Iterator[Problem]:
    """Yield the first lines of files of shared secrets whose time is over.

    Args:
        now: Aware UTC.
    """
    for endpoint in config.endpoints.values():
        if endpoint.mac is not None:
            yield from islice(_expired(endpoint.mac.secrets_path, now), _MOST_LINES)


def _expired(path: Path, now: datetime) -> Iterator[Problem]:
    with suppress(ConfigError, ValueError, TypeError):  # whoever loads it says what is wrong
        for row in read_rows(path, SECRETS):
            end = "" if isinstance(row, Problem) else row.values["expires"]
            if not end or isinstance(row, Problem) or datetime.fromisoformat(end) > now:
                continue
            yield Problem(
                f"{path}:{row.line}",
                f"expired at {datetime.fromisoformat(end).astimezone(UTC):%Y-%m-%d %H:%M} UTC: nobody gets in by it",
                "Take the line out; or give it another secret and a later time",
            )


def domains(config: GatewayConfig) -> dict[str, bool]:
    """Return what may stand as a domain in the inventory, and whether it is looked up there.

    Those are the vendors, and for requests that come by other RAs or under shared secrets "ra:" or "mac:" and the
    endpoint's name.
    """
    found = {
        name: vendor.identity.inventory is not InventoryUse.none
        for name, vendor in config.vendors.items()
    }
    for name, endpoint in config.endpoints.items():
        unlisted = endpoint.approval == "unlisted"
        for route in endpoint.routes:
            looks = route.identity is not None and route.identity.inventory is not InventoryUse.none
            if looks or route.approval == "unlisted":
                served = route.domains or endpoint.vendors
                found |= {vendor: True for vendor in served if vendor in config.vendors}
            unlisted = unlisted or route.approval == "unlisted"
        if unlisted:
            found |= dict.fromkeys((*endpoint.vendors, f"ra:{name}", f"mac:{name}"), True)
    return found
