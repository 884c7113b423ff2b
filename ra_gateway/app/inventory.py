"""The inventory that a configuration asks for: opened for the gateway; read, written and compared for commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ra_gateway.app.running import now
from ra_gateway.app.webhook import WebhookInventory
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.events import EventSink, unheard
from ra_gateway.ra.ports import Inventory
from ra_gateway.stores.files import replace_file
from ra_gateway.stores.inventory import (
    COLUMNS,
    InventoryFile,
    Listed,
    file_state,
    of_no_use,
    read_devices,
    rewritten,
)
from ra_gateway.stores.rows import as_line

Progress = Callable[[int, int], None]
"""Called with the number of devices done and in all."""


class OpenInventory(Inventory, Protocol):
    """An inventory that is in use until it is closed."""

    async def look(self) -> None:
        """Return if devices can be looked up there now.

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
        return InventoryFile(config.inventory.csv_path, config.vendors, sink)
    if config.inventory.http is not None:
        return WebhookInventory(config.inventory.http, now, time.monotonic)
    raise _missing()


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
    """
    return read_devices(_file(config), progress=progress)


def warnings(devices: Iterable[Listed], config: GatewayConfig) -> list[str]:
    """Return what of a list helps nobody, in sentences."""
    return [str(problem) for problem in of_no_use(devices, config.vendors)]


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
    """
    path = _file(config)
    seen = file_state(path)
    before = {item.key: item for item in await listed(config, lambda _done, _total: None)}
    given = {item.key: item for item in devices}
    after = given if replace else before | given
    # Of the whole: a new device may have the name of one that is listed.
    idle = list(of_no_use(after.values(), config.vendors))
    new = [problem for problem in idle if problem.path in {item.where for item in devices}]
    if new and not despite_warnings:
        todo = "Correct the file; or give --despite-warnings"
        raise ConfigError([*new, Problem("nothing", "was changed", todo)])
    same = sum(key in before and before[key].entry == item.entry for key, item in given.items())
    changed = sum(key in before and before[key].entry != item.entry for key, item in given.items())
    if not dry_run and (len(after) != len(before) or same != len(given)):
        octets = rewritten(path, after)
        if file_state(path) != seen:
            what = "was changed by somebody else meanwhile; nothing was changed by this"
            raise ConfigError.of(str(path), what, "Try again")
        replace_file(path, octets)
    progress(len(after), len(after))
    return Taken(
        devices=len(after),
        added=len(given) - same - changed,
        changed=changed,
        removed=len(before.keys() - after.keys()),
        same=same,
        warnings=tuple(map(str, new)),
    )


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
