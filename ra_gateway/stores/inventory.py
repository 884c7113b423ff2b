"""The operator's list of devices, from a CSV file."""

from __future__ import annotations

from pathlib import Path

from ra_gateway.cmp.identity import identity_key
from ra_gateway.cmp.names import split_general_names
from ra_gateway.cmp.x520 import alternative_name_text_faults, subject_text_faults
from ra_gateway.errors import Problem
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.stores.rows import Row, read_rows, refuse

COLUMNS = ("domain", "identity", "subject", "san", "enabled")


class CSVInventory:
    """Devices by (vendor domain, identity), read once; case and blanks of an identity make no difference.

    Args:
        path: CSV with the header domain,identity,subject,san,enabled; san is separated by blanks.

    Raises:
        ConfigError: The file cannot be used, or some of its lines; then no line of it counts.
    """

    def __init__(self, path: Path) -> None:
        self._entries: dict[tuple[str, str], InventoryEntry] = {}
        lines: dict[tuple[str, str], int] = {}
        problems: list[Problem] = []
        for row in read_rows(path, COLUMNS, setting="inventory.csv_path"):
            if isinstance(row, Problem):
                problems.append(row)
                continue
            values = row.values
            key = values["domain"], identity_key(values["identity"])
            if (what := _unusable(row)) is not None:
                todo = "Give a vendor's name, the device's identity, and true or false"
                problems.append(Problem(f"{path}:{row.line}", what, todo))
            elif (what := _uncertifiable(row)) is not None:
                problems.append(Problem(f"{path}:{row.line}", what, "Write another name there"))
            elif key in lines:
                what = f"{values['identity']} of {key[0]} is listed in line {lines[key]} already"
                problems.append(Problem(f"{path}:{row.line}", what, "Remove one of the lines"))
            else:
                lines[key] = row.line
                self._entries[key] = InventoryEntry(
                    subject=values["subject"],
                    san=split_general_names(values["san"]),
                    enabled=values["enabled"].lower() == "true",
                )
        refuse(problems)

    def __len__(self) -> int:
        return len(self._entries)

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        """Return the entry of a device, or None if it is not listed."""
        return self._entries.get((domain, identity_key(identity)))


def _unusable(row: Row) -> str | None:
    missing = [name for name in ("domain", "identity") if not row.values[name]]
    if missing:
        return f"{' and '.join(missing)} empty"
    if row.values["enabled"].lower() not in ("true", "false"):
        return "enabled is neither true nor false"
    return None


def _uncertifiable(row: Row) -> str | None:
    subject, san = row.values["subject"], split_general_names(row.values["san"])
    for fault in subject_text_faults(subject) if subject else ():
        return f"the subject {subject[:80]!r} cannot be certified: {fault}"
    for name in san:
        for fault in alternative_name_text_faults(name, wildcard=True):
            return f"{name[:80]!r} cannot be certified: {fault}"
    return None
