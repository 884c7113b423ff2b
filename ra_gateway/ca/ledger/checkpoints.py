"""Checkpoints: where the audit trail ended at some moments, kept in a file outside of the database.

The chain of the trail needs no key: whoever can write to the database can write all of it anew, or cut it off. A
checkpoint has number and hash of a line that was the last one, and an HMAC with a key that is in a file beside it;
a trail that does not have that line any more was changed since. The file is appended to and never written anew.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from ra_gateway.ca.ledger import audit
from ra_gateway.ca.ledger.database import write
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.errors import ConfigError
from ra_gateway.files import make_file, open_new, open_to_read

CHECKPOINTS: Final = "checkpoints"
"""Usual name of the file."""

_KEY_SUFFIX: Final = ".secret"
"""Behind the file's name: its key."""

_KEY_OCTETS: Final = 32
_MOST_OCTETS: Final = 64 << 20
"""Of the file: one checkpoint an hour for 40 years."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the trail ended.

    Args:
        number: Of the last line; 0 before the first.
        hash: 32 octets, of that line.
        at: Aware UTC.
    """

    number: int
    hash: bytes
    at: datetime


class TrailRewritten(Exception):
    """The trail does not have the line of the last checkpoint any more."""


class Checkpoints:
    """The file and its key.

    Args:
        path: Of the file; the key is beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key_path = path.with_name(path.name + _KEY_SUFFIX)

    def read(self) -> list[Checkpoint]:
        """Return all checkpoints in their order; none if there is no file yet.

        Raises:
            ConfigError: The file or the key cannot be read, or a line is not as it was written.
            OSError: Likewise.
        """
        if not self.path.exists():
            return []
        with open_to_read(self.path) as file:
            octets = file.read(_MOST_OCTETS + 1)
        if len(octets) > _MOST_OCTETS:
            raise self._wrong("is larger than any that was written here")
        return self._parse(octets, self._key())

    async def append(self, ledger: Ledger, now: datetime) -> bool:
        """Write down where the trail ends, unless the last checkpoint says so already.

        Args:
            now: Aware UTC.

        Returns:
            Whether there was something new to write.

        Raises:
            TrailRewritten: It does not go on from the last checkpoint; nothing is written then.
            ConfigError, OSError: As `read`; or the file cannot be written to.
            StoreUnavailable: The database does not answer.
        """
        known = await asyncio.to_thread(self.read)
        number, hash_ = await self._end(ledger, known)
        if known and number == known[-1].number:
            return False
        await asyncio.to_thread(self._append, Checkpoint(number, hash_, now))
        return True

    async def compare(self, ledger: Ledger) -> None:
        """Find out whether the trail goes on from the last checkpoint; nothing is written.

        Raises:
            As `append`.
        """
        await self._end(ledger, await asyncio.to_thread(self.read))

    async def _end(self, ledger: Ledger, known: list[Checkpoint]) -> tuple[int, bytes]:
        """Return number and hash of the last line."""
        last = known[-1] if known else Checkpoint(0, bytes(32), datetime.fromtimestamp(0, UTC))

        def look(connection: Connection) -> tuple[int, bytes, bytes | None]:
            return *audit.durable_head(connection), audit.hash_of(connection, last.number)

        number, hash_, hash_then = await write(ledger.database, look)
        if hash_then != last.hash:
            raise TrailRewritten(
                f"the audit trail does not have the line {last.number} any more with which it ended on "
                f"{last.at:%Y-%m-%d %H:%M:%S} UTC"
            )
        return number, hash_

    def _append(self, checkpoint: Checkpoint) -> None:
        key = self._key(make=True)
        make_file(self.path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.path, flags), "a+b") as file:
            os.fchmod(file.fileno(), 0o600)
            # Two processes may append: each line's HMAC covers that of the line before.
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            octets = file.read(_MOST_OCTETS + 1)
            self._parse(octets, key)
            previous = octets.splitlines()[-1] if octets else b""
            file.write(_line(checkpoint, previous, key))
            file.flush()
            os.fsync(file.fileno())

    def _parse(self, octets: bytes, key: bytes) -> list[Checkpoint]:
        found: list[Checkpoint] = []
        previous = b""
        for index, line in enumerate(octets.splitlines(keepends=True), 1):
            try:
                values = json.loads(line)
                checkpoint = Checkpoint(
                    values["number"],
                    bytes.fromhex(values["hash"]),
                    datetime.fromtimestamp(values["at"], UTC),
                )
                expected = _line(checkpoint, previous, key)
            except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
                raise self._wrong(f"has something else than a checkpoint in line {index}") from None
            if not hmac.compare_digest(expected, line):
                raise self._wrong(f"has a line {index} that was not written here, or was changed")
            found.append(checkpoint)
            previous = line.rstrip(b"\n")
        return found

    def _key(self, *, make: bool = False) -> bytes:
        if make and not self._key_path.exists():
            if self.path.exists() and self.path.stat().st_size:
                raise self._wrong(f"has checkpoints, and their key {self._key_path} is gone")
            with os.fdopen(open_new(self._key_path), "wb") as file:
                file.write(secrets.token_bytes(_KEY_OCTETS))
                file.flush()
                os.fsync(file.fileno())
        with open_to_read(self._key_path) as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(_KEY_OCTETS + 1)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError.of(
                str(self._key_path),
                f"is a secret file with mode {stat.S_IMODE(mode):04o}: not its owner's alone",
                f"Run: chmod 600 {self._key_path}",
            )
        if len(key) != _KEY_OCTETS:
            raise self._wrong(f"cannot be checked: {self._key_path} is not its key")
        return key

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError.of(
            str(self.path),
            what,
            "Find out who wrote to it; restore both files from a backup, or move both away to begin anew",
        )


def _line(checkpoint: Checkpoint, previous: bytes, key: bytes) -> bytes:
    values: dict[str, object] = {
        "number": checkpoint.number,
        "hash": checkpoint.hash.hex(),
        "at": int(checkpoint.at.timestamp()),
    }
    text = json.dumps(values, separators=(",", ":")).encode()
    values["hmac"] = hmac.new(key, previous + b"\n" + text, hashlib.sha256).hexdigest()
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"
