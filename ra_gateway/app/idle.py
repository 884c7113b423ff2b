"""What stands in a configuration and never takes effect: said by `check-config` and by the doctor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ra_gateway.config.tables import CAServiceConfig, GatewayConfig, IdentityConfig
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.ra.policy import InventoryUse
from ra_gateway.stores.inventory import CSVInventory, Listed, of_no_use


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
    """Yield the lines of the inventory that help nobody, where it is a file: as `of_list`."""
    if config.inventory is None or config.inventory.csv_path is None:
        return
    try:
        devices = CSVInventory(config.inventory.csv_path)
    except ConfigError:
        return  # whoever loads it to use it says what is wrong
    yield from of_list(config, devices)


def of_list(config: GatewayConfig, devices: Iterable[Listed]) -> Iterator[Problem]:
    """Yield the devices of a list that help nobody: of vendors that there are not, and of names given twice."""
    yield from of_no_use(devices, config.vendors)
