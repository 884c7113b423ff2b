"""The operator's list of devices, from a CSV file that is read again when it changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ra_gateway.cmp.identity import identity_key
from ra_gateway.cmp.names import (
    canonical,
    from_rfc4514,
    normalized_general_name,
    plain_rfc4514,
    split_general_names,
)
from ra_gateway.cmp.x520 import alternative_name_text_faults, subject_text_faults
from ra_gateway.errors import ConfigError, MalformedMessage, Problem
from ra_gateway.events import EventSink, InventoryChanged, InventoryRefused, unheard
from ra_gateway.files import open_to_read
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.stores.rows import as_line, read_rows, refuse, separator

COLUMNS: Final = ("domain", "identity", "subject", "san", "enabled")

WATCH_SECONDS: Final = 1.0
"""Between two looks at the file; what is the same in two of them is no longer being written."""

_MOST_LINES: Final = 5
"""Told of one kind of line that helps nobody; the rest is counted."""


_STEP: Final = 500
"""Devices between two steps of a progress bar."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One device of a list.

    Args:
        where: File and line, or table and device, for what is wrong with it.
        place: The same within the list, such as "line 3".
    """

    where: str
    place: str
    domain: str
    identity: str
    entry: InventoryEntry

    @property
    def key(self) -> tuple[str, str]:
        """What it is found by."""
        return self.domain, identity_key(_plain(self.identity, self.domain))

    def values(self) -> tuple[str, ...]:
        """Return it by `COLUMNS`."""
        entry = self.entry
        enabled = "true" if entry.enabled else "false"
        return self.domain, self.identity, entry.subject, " ".join(entry.san), enabled


def _plain(identity: str, domain: str) -> str:
    """Return an identity as it is looked up: other RAs' and shared secrets' devices are known by their subjects."""
    return plain_rfc4514(identity) if ":" in domain else identity


def read_list(path: Path, setting: str = "inventory.csv_path") -> Iterator[Listed | Problem]:
    """Yield the devices of a CSV file, and what is wrong with lines that cannot be used.

    Args:
        path: CSV with the header domain,identity,subject,san,enabled; san is separated by blanks.
        setting: Dotted path of what names the file.

    Raises:
        ConfigError: The file cannot be read, or has another header.
    """
    for row in read_rows(path, COLUMNS, setting=setting):
        if isinstance(row, Problem):
            yield row
            continue
        where, values = f"{path}:{row.line}", row.values
        if (what := _unusable(values)) is not None:
            todo = "Give a vendor's name, the device's identity, and true or false"
            yield Problem(where, what, todo)
            continue
        entry = InventoryEntry(
            subject=values["subject"],
            san=split_general_names(values["san"]),
            enabled=values["enabled"].lower() == "true",
        )
        yield Listed(where, f"line {row.line}", values["domain"], values["identity"], entry)


def read_devices(
    path: Path,
    setting: str = "inventory.csv_path",
    before: CSVInventory | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Listed]:
    """Return the devices of a CSV file, whose names can be certified and of which none is listed twice.

    Args:
        before: What was read already and need not be looked at again.
        progress: Called with the number of devices read and of lines, now and then.

    Raises:
        ConfigError: The file cannot be used, or some of its lines; then no line of it counts.
    """
    lines = 0 if progress is None else _lines(path)
    places: dict[tuple[str, str], str] = {}
    problems: list[Problem] = []
    found: list[Listed] = []
    for item in read_list(path, setting):
        if isinstance(item, Problem):
            problems.append(item)
        elif (before is None or before.get(item.key) != item.entry) and (
            what := uncertifiable(item.entry)
        ) is not None:
            problems.append(Problem(item.where, what, "Write another name there"))
        elif item.key in places:
            what = f"{item.identity} of {item.domain} is listed in {places[item.key]} already"
            problems.append(Problem(item.where, what, "Remove one of the lines"))
        else:
            places[item.key] = item.place
            found.append(item)
            if progress is not None and len(found) % _STEP == 0:
                progress(len(found), lines)
    refuse(problems)
    return found


class CSVInventory:
    """Devices by (vendor domain, identity), read once; case and blanks of an identity make no difference.

    Args:
        path: As of `read_list`.
        before: What was read from it before.

    Raises:
        ConfigError: The file cannot be used, or some of its lines; then no line of it counts.
    """

    def __init__(self, path: Path, before: CSVInventory | None = None) -> None:
        self._devices = {item.key: item for item in read_devices(path, before=before)}

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[Listed]:
        return iter(self._devices.values())

    def get(self, key: tuple[str, str]) -> InventoryEntry | None:
        """Return the entry of a device by its key."""
        item = self._devices.get(key)
        return None if item is None else item.entry

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        """Return the entry of a device, or None if it is not listed."""
        return self.get((domain, identity_key(_plain(identity, domain))))


class InventoryFile:
    """A CSV file that is taken up anew, as a whole, when it has changed; until then, and if it is bad, the old stays.

    Args:
        path: As of `read_list`.
        vendors: Those that there are; a line of another one is told.
        sink: Takes that it was taken up, or cannot be.

    Raises:
        ConfigError: The file cannot be used now.
    """

    def __init__(self, path: Path, vendors: Collection[str], sink: EventSink = unheard) -> None:
        self._path, self._vendors, self._sink = path, vendors, sink
        self._seen = self._last = file_state(path)
        self._was_refused = False
        self.current = CSVInventory(path)

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        """Return the entry of a device, or None if it is not listed now."""
        return await self.current.find(domain, identity)

    async def watch(self) -> None:
        """Take up what changes, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look at the file once; take it up if it has changed, and has not since the last look."""
        state = await asyncio.to_thread(file_state, self._path)
        is_settled, self._last = state == self._last, state
        if state == self._seen or not is_settled:
            return
        old = self.current
        try:
            fresh, warnings = await asyncio.to_thread(self._load, old)
        except ConfigError as error:
            self._was_refused = True
            self._seen = state  # told once, and looked at again when it changes again
            self._sink(InventoryRefused(tuple(map(str, error.problems)), len(old)))
            return
        if await asyncio.to_thread(file_state, self._path) != state:
            return  # written while it was read: what was read may be half of it
        self.current, self._seen = fresh, state
        changed = sum(old.get(item.key) not in (None, item.entry) for item in fresh)
        added = sum(old.get(item.key) is None for item in fresh)
        removed = len(old) - (len(fresh) - added)
        if added or changed or removed or self._was_refused:
            self._was_refused = False
            self._sink(InventoryChanged(len(fresh), added, changed, removed, warnings))

    async def close(self) -> None:
        """Nothing is open."""

    def _load(self, before: CSVInventory) -> tuple[CSVInventory, tuple[str, ...]]:
        fresh = CSVInventory(self._path, before)
        return fresh, tuple(map(str, of_no_use(fresh, self._vendors)))


def of_no_use(devices: Iterable[Listed], vendors: Collection[str]) -> Iterator[Problem]:
    """Yield the devices of a list that help nobody: of vendors that there are not, and with another's names.

    What is not enabled has no name to share: so the successor of a device gets its name.
    """
    told = Counter[str]()
    named: dict[object, Listed] = {}
    where = ""
    for item in devices:
        where = where or item.where
        for kind, what, todo in _of_no_use(item, vendors, named):
            told[kind] += 1
            if told[kind] <= _MOST_LINES:
                yield Problem(item.where, what, todo)
    for kind, number in told.items():
        if number > _MOST_LINES:
            more = f"has {number - _MOST_LINES} more lines with such a {kind}"
            yield Problem(where.rpartition(":")[0], more, "Correct them as well")


def _of_no_use(
    item: Listed, vendors: Collection[str], named: dict[object, Listed]
) -> Iterator[tuple[str, str, str]]:
    if item.domain not in vendors:
        known = ", ".join(vendors) or "none"
        what = f"there is no vendor {item.domain!r}; nobody is looked up by this line"
        yield "vendor", what, f"Write one of: {known}"
    if not item.entry.enabled:
        return
    subject = item.entry.subject
    if "=*" in subject or any(":*" in name for name in item.entry.san):
        what = "has a wildcard: it stands for other devices too, and no role that is bound to names has it certified"
        yield "wildcard", what, "Write the device's own name there"
    # What a template makes is another name for each device.
    if subject and "{" not in subject:
        first = named.setdefault(_subject_key(subject), item)
        if first is not item:
            what = f"has the subject of {_place(first, item)}: two devices, and one name for both"
            yield "subject", what, "Give each a subject of its own"
    for name in item.entry.san:
        if "{" in name:
            continue
        first = named.setdefault(f"san {normalized_general_name(name)}", item)
        if first is not item:
            what = f"has {name[:80]!r} of {_place(first, item)}: two devices, and one name for both"
            yield "name", what, "Give each names of its own"


def _place(item: Listed, seen_from: Listed) -> str:
    """Return where a device is listed, seen from another one of the same list or file."""
    is_near = item.where.rpartition(":")[0] == seen_from.where.rpartition(":")[0]
    return item.place if is_near else item.where


def uncertifiable(entry: InventoryEntry) -> str | None:
    """Return why the names of an entry can be in no certificate; None if they can."""
    for fault in subject_text_faults(entry.subject) if entry.subject else ():
        return f"the subject {entry.subject[:80]!r} cannot be certified: {fault}"
    for name in entry.san:
        for fault in alternative_name_text_faults(name, wildcard=True):
            return f"{name[:80]!r} cannot be certified: {fault}"
    return None


def rewritten(path: Path, devices: Mapping[tuple[str, str], Listed]) -> bytes:
    """Return a CSV file with other devices; what stays, its comments and its order are as they were.

    Args:
        path: It can be used.
        devices: By `Listed.key`.

    Raises:
        OSError, ConfigError: It cannot be read any more.
    """
    before = {item.place: item for item in read_devices(path)}
    with open_to_read(path) as file:
        octets = file.read()
    lines = octets.removesuffix(b"\n").split(b"\n")
    header = next(line for line in lines if not line.removeprefix(b"\xef\xbb\xbf").startswith(b"#"))
    sign, end = separator(header), "\r" if header.endswith(b"\r") else ""

    def line_of(item: Listed) -> bytes:
        return f"{as_line(item.values(), sign)}{end}".encode()

    kept: list[bytes] = []
    for number, line in enumerate(lines, 1):
        old = before.get(f"line {number}")
        new = None if old is None else devices.get(old.key)
        if old is None or (new is not None and new.entry == old.entry):
            kept.append(line)
        elif new is not None:
            kept.append(line_of(new))
    known = {item.key for item in before.values()}
    kept += (line_of(item) for key, item in devices.items() if key not in known)
    return b"\n".join((*kept, b""))


def _lines(path: Path) -> int:
    try:
        with open_to_read(path) as file:
            return sum(part.count(b"\n") for part in iter(lambda: file.read(65536), b""))
    except OSError:
        return 0  # whoever reads it says so


def _unusable(values: dict[str, str]) -> str | None:
    missing = [name for name in ("domain", "identity") if not values[name]]
    if missing:
        return f"{' and '.join(missing)} empty"
    if values["enabled"].lower() not in ("true", "false"):
        return "enabled is neither true nor false"
    return None


def _subject_key(subject: str) -> object:
    try:
        return canonical(from_rfc4514(subject))
    except (ValueError, MalformedMessage):
        return f"subject {subject}"


def file_state(path: Path) -> tuple[int, int, int]:
    """Return what tells that a file was changed or replaced."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)  # replaced at this very moment, or gone
    return (status.st_ino, status.st_mtime_ns, status.st_size)
