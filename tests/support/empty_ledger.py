"""Ledgers in files, without the time that migrations take."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.logs import LogSink

_migrated: list[bytes] = []


async def prepare() -> None:
    """Make the empty ledger that `put` writes, once in a process."""
    if not _migrated:
        with TemporaryDirectory() as directory:
            first = open_ledger(Path(directory, "ledger.sqlite"), LogSink())
            await first.migrate()
            await first.close()
            _migrated.append(Path(directory, "ledger.sqlite").read_bytes())


def put(path: Path) -> None:
    """Write an empty ledger where there is none; after `prepare`."""
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(_migrated[0])


async def new_ledger(path: Path) -> Ledger:
    """A ledger in a file, not open yet; where there is none, an empty one is put."""
    await prepare()
    put(path)
    return open_ledger(path, LogSink())
