"""The inventory that a configuration asks for: opened for the gateway; read, written and compared for commands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ra_gateway.app.name_warnings import of_devices
from ra_gateway.app.unused import domains, of_list
from ra_gateway.clocks import now
from ra_gateway.config.service_tables import InventorySQLConfig
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, Problem, missing_extra
from ra_gateway.events import EventSink, unheard
from ra_gateway.files import replace_file
from ra_gateway.ra.ports import Inventory
from ra_gateway.stores.inventory import (
    COLUMNS,
    InventoryFile,
    Listed,
    file_state,
    read_devices,
    rewritten,
)
from ra_gateway.stores.rows import as_line

if TYPE_CHECKING:
    from ra_gateway.stores.inventory_sql import SQLInventory

Progress = Callable[[int, int], None]
"""Called with the number of devices done and in all."""

Devices = Mapping[tuple[str, str], Listed]
"""By `Listed.key`."""


class OpenInventory(Inventory, Protocol):
    """An inventory that is in use until it is closed."""

    async def look(self) -> None:
        """Check that devices can be looked up there now.

        Raises:
            ServiceFailure: They cannot.
        """

    async def close(self) -> None:
        """Close what is open."""


def open_inventory(config: GatewayConfig, sink: EventSink = unheard) -> OpenInventory | None:
    """Return what the gateway looks devices up in; None if it has no inventory. Nothing is connected yet.

    Raises:
        ConfigError: It cannot be used.
    """
    if config.inventory is None:
        return None
    if config.inventory.csv_path is not None:
        return InventoryFile(config.inventory.csv_path, domains(config), sink)
    if config.inventory.http is not None:
        from ra_gateway.app.inventory_webhook import WebhookInventory

        return WebhookInventory(config.inventory.http, now, time.monotonic)
    if config.inventory.sql is not None:
        return _sql(config.inventory.sql)
    raise _missing()


def _sql(config: InventorySQLConfig) -> SQLInventory:
    try:
        from ra_gateway.stores.inventory_sql import SQLInventory

        return SQLInventory(**dict(config))
    except ModuleNotFoundError as error:
        raise missing_extra("inventory.sql", error) from error


# --- for commands -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """What an import changes.

    Args:
        devices: As many are listed then.
        warnings: What helps nobody of it, a sentence each.
    """

    devices: int
    added: int
    changed: int
    removed: int
    same: int
    warnings: tuple[str, ...]


def name_of(config: GatewayConfig) -> str:
    """Return what the inventory is called."""
    table = config.inventory
    if table is not None and table.sql is not None:
        return f"table {table.sql.table}"
    return str(table.http.url if table is not None and table.http is not None else _file(config))


def devices_of(path: Path, progress: Progress) -> list[Listed]:
    """Return the devices of a file that somebody gives.

    Raises:
        ConfigError: The file cannot be used, or some of its lines.
    """
    return read_devices(path, str(path), progress=progress)


async def listed(config: GatewayConfig, progress: Progress) -> list[Listed]:
    """Return the devices of the inventory.

    Raises:
        ConfigError: There is none, or it cannot be used.
        StoreUnavailable: Its database does not answer.
    """
    if config.inventory is None or config.inventory.sql is None:
        return read_devices(_file(config), progress=progress)
    inventory = _sql(config.inventory.sql)
    try:
        return await inventory.listed(progress)
    finally:
        await inventory.close()


def warnings(devices: Iterable[Listed], config: GatewayConfig) -> list[str]:
    """Return what of a list helps nobody, in sentences."""
    known = list(devices)
    return [*map(str, of_list(config, known)), *map(str, of_devices(config, known))]


def summary(devices: Sequence[Listed]) -> str:
    """Return how many devices there are, and of whom."""
    vendors = len({item.domain for item in devices})
    disabled = sum(not item.entry.enabled for item in devices)
    said = f"{len(devices)} device{'s' * (len(devices) != 1)} of {vendors} vendor{'s' * (vendors != 1)}"
    return f"{said}, {disabled} not enabled" if disabled else said


def as_csv(devices: Iterable[Listed]) -> bytes:
    """Return a list as a file, sorted by vendor and identity."""
    rows = (as_line(item.values()) for item in sorted(devices, key=lambda item: item.key))
    return "\n".join((as_line(COLUMNS), *rows, "")).encode()


def as_json(devices: Iterable[Listed]) -> bytes:
    """Return a list as JSON: an object with the columns of a file for each device, sorted likewise."""
    objects = [
        {
            "domain": item.domain,
            "identity": item.identity,
            "subject": item.entry.subject,
            "san": item.entry.san,
            "enabled": item.entry.enabled,
        }
        for item in sorted(devices, key=lambda item: item.key)
    ]
    return (json.dumps(objects, indent=2) + "\n").encode()


async def take_in(
    config: GatewayConfig,
    devices: Sequence[Listed],
    *,
    replace: bool,
    despite_warnings: bool,
    dry_run: bool,
    progress: Progress,
) -> Taken:
    """Take devices into the inventory, all of them or none.

    Args:
        replace: Take out what is not among them.
        despite_warnings: Take in also what helps nobody.
        dry_run: Change nothing.

    Raises:
        ConfigError: There is no inventory, it cannot be used or written, or some of the devices help nobody.
        StoreUnavailable: Its database does not answer, or refuses.
    """
    given = {item.key: item for item in devices}
    taken: list[Taken] = []

    def planned(listed_now: list[Listed]) -> Devices:
        before = {item.key: item for item in listed_now}
        after: Devices = given if replace else before | given
        # Of the whole: a new device may have the name of one that is listed.
        idle = of_list(config, after.values())
        new = [problem for problem in idle if problem.path in {item.where for item in devices}]
        if new and not despite_warnings:
            todo = "Correct the file; or give --despite-warnings"
            raise ConfigError([*new, Problem("nothing", "was changed", todo)])
        taken.append(_compared(before, given, after, tuple(map(str, new))))
        return after

    if dry_run:
        planned(await listed(config, progress))
    elif config.inventory is None or config.inventory.sql is None:
        _rewrite(_file(config), planned)
    else:
        inventory = _sql(config.inventory.sql)
        try:
            await inventory.change(planned)
        finally:
            await inventory.close()
    progress(len(devices), len(devices))
    return taken[0]


def _compared(before: Devices, given: Devices, after: Devices, warnings: tuple[str, ...]) -> Taken:
    known = [(before[key].entry, item.entry) for key, item in given.items() if key in before]
    same = sum(old == new for old, new in known)
    return Taken(
        devices=len(after),
        added=len(given) - len(known),
        changed=len(known) - same,
        removed=len(before.keys() - after.keys()),
        same=same,
        warnings=warnings,
    )


def _rewrite(path: Path, planned: Callable[[list[Listed]], Devices]) -> None:
    seen = file_state(path)
    octets = rewritten(path, planned(read_devices(path)))
    if file_state(path) != seen:
        what = "was changed by somebody else meanwhile; nothing was changed by this"
        raise ConfigError.of(str(path), what, "Try again")
    if octets != path.read_bytes():
        replace_file(path, octets)


def _file(config: GatewayConfig) -> Path:
    """Return where the list is, of which there is one."""
    if config.inventory is None:
        raise _missing()
    if config.inventory.csv_path is None:
        what = "is asked device by device: there is no list here to read or to write"
        raise ConfigError.of(
            "inventory.http", what, "Give a FILE to check; or ask who keeps the list"
        )
    return config.inventory.csv_path


def _missing() -> ConfigError:
    todo = "Add the table [inventory] with csv_path"
    return ConfigError.of("inventory", "is not in the configuration", todo)
