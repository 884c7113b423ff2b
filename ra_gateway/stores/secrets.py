"""Shared secrets of devices, from a CSV file; which are used up is kept in a second file.

For one process: what is locked, and what is used up, no other one knows. The second file is locked by who
writes to it, so that a secret cannot be used once here and once there.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ra_gateway.cmp.mac import SharedSecret, reference_fingerprint
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.errors import Problem, StoreUnavailable
from ra_gateway.ra.ports import Claim, Clock
from ra_gateway.stores.rows import read_rows, refuse

COLUMNS: Final = ("reference", "secret", "subject", "san", "single_use", "expires")

MIN_SECRET_OCTETS: Final = 16
"""Whoever records one message can guess at leisure: 16 random octets or characters are beyond that."""

_MAX_REFERENCE_OCTETS: Final = 64  # ub-common-name: sender's commonName holds it (RFC 9483 3.1)


class SecretFile:
    """Shared secrets by reference, read once.

    Args:
        path: CSV with the header reference,secret,subject,san,single_use,expires; san is separated by blanks,
            expires is a time with its offset from UTC, or empty.
        clock: Aware UTC.
        used_path: Where the fingerprints of secrets for single use go that were used; None refuses such secrets.
        lockout_failures: So many wrong MACs within the time lock a reference.
        lockout_seconds: The time, and how long the lock lasts from the last failure on.

    Raises:
        ConfigError: Every unusable line, at once; no text repeats a secret.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        used_path: Path | None = None,
        lockout_failures: int = 5,
        lockout_seconds: float = 900.0,
    ) -> None:
        self._clock = clock
        self._used_path = used_path
        self._window = timedelta(seconds=lockout_seconds)
        self._lockout_failures = lockout_failures
        self._secrets: dict[bytes, SharedSecret] = {}
        # Only of references that exist, and no more times than lock one: bounded by the file.
        self._failures: dict[bytes, deque[datetime]] = {}
        self._locked_until: dict[bytes, datetime] = {}
        self._holders: dict[str, str] = {}
        self._file: int | None = None
        self._writing = asyncio.Lock()
        refuse(list(self._read(path)))

    def __repr__(self) -> str:
        return f"SecretFile({len(self._secrets)} secrets)"

    def __len__(self) -> int:
        return len(self._secrets)

    def _read(self, path: Path) -> Iterator[Problem]:
        for row in read_rows(path, COLUMNS):
            if isinstance(row, Problem):
                yield row
                continue
            where = f"{path}:{row.line}"
            try:
                secret = _secret(row.values)
            except ValueError as error:
                yield Problem(where, str(error), "Correct the line")
                continue
            if secret.reference in self._secrets:
                yield Problem(where, "its reference is listed twice", "Remove one of the lines")
            if secret.single_use and self._used_path is None:
                yield Problem(
                    where,
                    "is for single use, but nothing records what was used",
                    "Set used_path beside secrets_path, or single_use to false",
                )
            self._secrets[secret.reference] = secret

    async def find(self, reference: bytes) -> SharedSecret | None:
        """Return the secret of a reference, or None if there is none or it is locked."""
        locked_until = self._locked_until.get(reference)
        if locked_until is not None:
            if self._clock() < locked_until:
                return None
            del self._locked_until[reference]
        return self._secrets.get(reference)

    async def failed(self, reference: bytes) -> None:
        """Count a wrong MAC, unless the reference is locked already."""
        if reference not in self._secrets or await self.find(reference) is None:
            return
        times = self._failures.setdefault(reference, deque(maxlen=self._lockout_failures))
        now = self._clock()
        times.append(now)
        if len(times) == self._lockout_failures and now - times[0] < self._window:
            self._locked_until[reference] = now + self._window
            del self._failures[reference]

    async def claim(self, reference: bytes, holder: str) -> Claim:
        """Use up a secret; recorded on disk before this returns.

        Raises:
            StoreUnavailable: It cannot be recorded.
        """
        key = reference_fingerprint(reference).hex()
        async with self._writing:
            try:
                await asyncio.to_thread(self._open)
                found = self._holders.get(key)
                if found is not None:
                    return Claim.held if found == holder else Claim.refused
                await asyncio.to_thread(self._append, key, holder)
            except OSError as error:
                raise _unavailable(error) from error
            self._holders[key] = holder
            return Claim.taken

    async def release(self, reference: bytes, holder: str) -> None:
        """Give back what this holder claimed.

        Raises:
            StoreUnavailable: It cannot be recorded.
        """
        key = reference_fingerprint(reference).hex()
        async with self._writing:
            if self._holders.get(key) != holder:
                return
            try:
                await asyncio.to_thread(self._append, key, "")
            except OSError as error:
                raise _unavailable(error) from error
            del self._holders[key]

    async def close(self) -> None:
        """Close the file, and let another process have it."""
        async with self._writing:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> None:
        if self._file is not None:
            return
        if self._used_path is None:
            raise OSError("no file to record it in")
        file = os.open(self._used_path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._holders = _holders(self._used_path.read_text(encoding="ascii"))
        except OSError:
            os.close(file)
            raise
        except ValueError as error:
            os.close(file)
            raise OSError(f"{self._used_path} is damaged") from error
        self._file = file

    def _append(self, key: str, holder: str) -> None:
        if self._file is None:
            raise OSError("the file is closed")
        # One leading newline: a line that a crash cut short must not swallow the next.
        line = f"\n{key} {holder}\n".encode("ascii")
        if os.write(self._file, line) != len(line):
            raise OSError("the line was not written whole")
        os.fsync(self._file)


def _holders(text: str) -> dict[str, str]:
    """Return who holds what, by the lines of the file: the last one on a secret counts."""
    found: dict[str, str] = {}
    for line in filter(None, text.splitlines()):
        key, _, holder = line.partition(" ")
        if holder or line.endswith(" "):
            found[key] = holder
        else:
            found.setdefault(key, "?")  # cut short: somebody was about to use it
    return {key: holder for key, holder in found.items() if holder}


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"used shared secrets cannot be recorded: {error}", rule="R95")


def _secret(row: dict[str, str]) -> SharedSecret:
    """Return the secret of a line.

    Raises:
        ValueError: It cannot be used; the text does not repeat it.
    """
    reference = row["reference"].encode()
    octets = row["secret"].encode()
    if not 1 <= len(reference) <= _MAX_REFERENCE_OCTETS:
        raise ValueError(f"reference must have 1 to {_MAX_REFERENCE_OCTETS} octets")
    if len(octets) < MIN_SECRET_OCTETS:
        raise ValueError(f"secret has less than {MIN_SECRET_OCTETS} octets")
    single_use = row["single_use"].lower()
    if single_use not in ("true", "false"):
        raise ValueError("single_use must be true or false")
    subject = row["subject"]
    if not subject:
        raise ValueError("subject is empty")
    try:
        subject_der = from_rfc4514(subject)
    except ValueError as error:
        raise ValueError("subject is not a Name like CN=enb-1,O=Example") from error
    san = tuple(row["san"].split())
    try:
        if san:
            general_names_der(san)
    except ValueError as error:
        raise ValueError("san has an entry that is not like dns:enb-1.example.net") from error
    return SharedSecret(
        reference, octets, subject_der, san, single_use == "true", _expiry(row["expires"])
    )


def _expiry(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("expires is not a time like 2027-01-31T00:00:00Z") from error
    if moment.tzinfo is None:
        raise ValueError("expires lacks its offset from UTC; write 2027-01-31T00:00:00Z")
    return moment.astimezone(UTC)
