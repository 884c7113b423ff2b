"""The operator's list of devices, from a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from ra_gateway.errors import ConfigError, Problem
from ra_gateway.ra.ports import InventoryEntry

COLUMNS = ("domain", "identity", "subject", "san", "enabled")


class CSVInventory:
    """Devices by (vendor domain, identity), read once.

    Args:
        path: CSV with the header domain,identity,subject,san,enabled; san is separated by blanks.

    Raises:
        ConfigError: Every unusable line, at once.
    """

    def __init__(self, path: Path) -> None:
        self._entries: dict[tuple[str, str], InventoryEntry] = {}
        problems: list[Problem] = []
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ConfigError(
                    [
                        Problem(
                            "inventory.csv_path",
                            f"{path} has another header",
                            f"Begin the file with the line {','.join(COLUMNS)}",
                        )
                    ]
                )
            for row in reader:
                where = f"{path}:{reader.line_num}"
                self._add(row, where, problems)
        if problems:
            raise ConfigError(problems)

    def _add(self, row: dict[str, str | None], where: str, problems: list[Problem]) -> None:
        domain, identity = row["domain"] or "", row["identity"] or ""
        enabled = (row["enabled"] or "").strip().lower()
        if not domain or not identity or enabled not in ("true", "false"):
            problems.append(
                Problem(
                    where,
                    "domain, identity or enabled is unusable",
                    "Give a vendor's name, the device's identity, and true or false",
                )
            )
        elif (domain, identity) in self._entries:
            problems.append(
                Problem(where, f"{identity} is listed twice", "Remove one of the lines")
            )
        else:
            self._entries[domain, identity] = InventoryEntry(
                subject=(row["subject"] or "").strip(),
                san=tuple((row["san"] or "").split()),
                enabled=enabled == "true",
            )

    def __len__(self) -> int:
        return len(self._entries)

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        """Return the entry of a device, or None if it is not listed."""
        return self._entries.get((domain, identity))
