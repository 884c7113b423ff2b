"""Shared secrets of devices, from a CSV file; which are used up is kept in a second file.

For one process: who guessed, and what is used up, no other one knows. The second file is locked by who writes to it, so
that a secret cannot be used once here and once there.

A reference travels in the clear, so whoever saw it can send wrong MACs under it. They are therefore counted for each
peer and reference: they slow down who sends them, and nobody elsewhere. Who guesses from many addresses is not slowed
down as a whole; the length of the secrets stops that.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ra_gateway.cmp.mac import SharedSecret, reference_fingerprint
from ra_gateway.cmp.names import (
    NULL_DN,
    from_rfc4514,
    general_names,
    general_names_der,
    plain_rfc4514,
    split_general_names,
)
from ra_gateway.cmp.x520 import alternative_name_text_faults, subject_text_faults
from ra_gateway.errors import Problem, StoreUnavailable
from ra_gateway.files import make_file, open_to_read
from ra_gateway.peers import network_of
from ra_gateway.ra.ports import Claim, Clock
from ra_gateway.stores.rows import read_rows, refuse

COLUMNS: Final = ("reference", "secret", "subject", "san", "single_use", "expires")

MIN_SECRET_OCTETS: Final = 16
"""Whoever records one message can guess at leisure: 16 random octets or characters are beyond that."""

_MAX_REFERENCE_OCTETS: Final = 64  # ub-common-name: sender's commonName holds it (RFC 9483 3.1)


_NETWORK_SHARE: Final = 20
"""So many times the failures of one reference, under any, and a peer gets one try at each at a time."""

_MAX_COUNTED: Final = 4096
"""Pairs of peer and reference that are remembered, and peers: 1 MB each. Who failed longest ago goes first."""


@dataclass(slots=True)
class _Bucket:
    """Failures that drain steadily.

    Args:
        level: How many there were when last looked at.
        at: When that was.
    """

    level: float
    at: datetime


class _Buckets:
    """A bounded table of failures by who failed; one drains in so many seconds."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._buckets: OrderedDict[tuple[bytes, bytes], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def share(self, others: _Buckets) -> None:
        """Count together with others: what they still count until they are gone counts here, too."""
        self._buckets = others._buckets

    def level(self, key: tuple[bytes, bytes], now: datetime) -> float:
        """Return how many failures there are still."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0.0
        drained = max((now - bucket.at).total_seconds(), 0.0) / self._drain_seconds
        return max(bucket.level - drained, 0.0)

    def add(self, key: tuple[bytes, bytes], now: datetime, *, most: int) -> None:
        """Count one more, up to a level."""
        self._buckets[key] = _Bucket(min(self.level(key, now) + 1.0, float(most)), now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MAX_COUNTED:
            self._buckets.popitem(last=False)


class _UsedSecrets:
    """Who holds which secret for single use, in a file that one process writes.

    Args:
        path: None has none.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.users: set[SecretFile] = set()
        self._holders: dict[str, str] = {}
        self._file: int | None = None
        self._writing = asyncio.Lock()

    async def claim(self, key: str, holder: str) -> Claim:
        """Record that somebody uses a secret.

        Raises:
            StoreUnavailable: It cannot be recorded.
        """
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

    async def release(self, key: str, holder: str) -> None:
        """Record that this holder uses it no longer.

        Raises:
            StoreUnavailable: It cannot be recorded.
        """
        async with self._writing:
            if self._holders.get(key) != holder:
                return
            try:
                await asyncio.to_thread(self._append, key, "")
            except OSError as error:
                raise _unavailable(error) from error
            del self._holders[key]

    async def close(self, user: SecretFile) -> None:
        """Let another process have the file, once the last user has closed it."""
        self.users.discard(user)
        async with self._writing:
            if not self.users and self._file is not None:
                os.close(self._file)
                self._file = None

    def _open(self) -> None:
        if self._file is not None:
            return
        if self.path is None:
            raise OSError("no file to record it in")
        make_file(self.path)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open_to_read(self.path) as listed:
                self._holders = _holders(listed.read().decode("ascii"))
        except OSError:
            os.close(file)
            raise
        except ValueError as error:
            os.close(file)
            raise OSError(f"{self.path} is damaged") from error
        self._file = file

    def _append(self, key: str, holder: str) -> None:
        if self._file is None:
            raise OSError("the file is closed")
        # One leading newline: a line that a crash cut short must not swallow the next.
        line = f"\n{key} {holder}\n".encode("ascii")
        if os.write(self._file, line) != len(line):
            raise OSError("the line was not written whole")
        os.fsync(self._file)


class SecretFile:
    """Shared secrets by reference, read once.

    Args:
        path: CSV with the header reference,secret,subject,san,single_use,expires; subject may be a glob pattern, san
            is separated by blanks, and may have patterns then, expires is a time with its offset from UTC, or empty.
        clock: Aware UTC.
        used_path: Where the fingerprints of secrets for single use go that were used; None refuses such secrets.
        lockout_failures: So many wrong MACs a peer may send under one reference within the time, at once or not.
        lockout_seconds: The time; beyond, the peer gets one try each time it divided by that number has passed.
        before: What this takes the place of: who has guessed, and what was used, does not begin anew.

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
        before: SecretFile | None = None,
    ) -> None:
        self.path, self.used_path = path, used_path
        self._clock = clock
        self._lockout_failures = lockout_failures
        self._secrets: dict[bytes, SharedSecret] = {}
        drain_seconds = lockout_seconds / lockout_failures
        self._by_reference = _Buckets(drain_seconds)
        self._by_network = _Buckets(drain_seconds / _NETWORK_SHARE)
        self._used = _UsedSecrets(used_path)
        if before is not None:
            self._by_reference.share(before._by_reference)
            self._by_network.share(before._by_network)
            if before._used.path == used_path:
                self._used = before._used
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
            if secret.single_use and self._used.path is None:
                yield Problem(
                    where,
                    "is for single use, but nothing records what was used",
                    "Set used_path beside secrets_path, or single_use to false",
                )
            self._secrets[secret.reference] = secret

    async def find(self, reference: bytes, peer: str) -> SharedSecret | None:
        """Return the secret of a reference, or None if there is none, or the peer guessed too often."""
        secret = self._secrets.get(reference)
        if secret is None or not self._may_try(network_of(peer), reference, self._clock()):
            return None
        return secret

    async def failed(self, reference: bytes, peer: str) -> None:
        """Count a wrong MAC, unless the peer has no try left anyway."""
        network, now = network_of(peer), self._clock()
        if reference in self._secrets and self._may_try(network, reference, now):
            most = self._lockout_failures
            self._by_reference.add((network, reference), now, most=most)
            self._by_network.add((network, b""), now, most=most * _NETWORK_SHARE)

    def _may_try(self, network: bytes, reference: bytes, now: datetime) -> bool:
        full = float(self._lockout_failures)
        level = self._by_reference.level((network, reference), now)
        if self._by_network.level((network, b""), now) > full * _NETWORK_SHARE - 1.0:
            full = 1.0  # under other references: one that it has not tried yet is still as good as ever
        return level <= full - 1.0

    async def claim(self, reference: bytes, holder: str) -> Claim:
        """Use up a secret; recorded on disk before this returns.

        Raises:
            StoreUnavailable: It cannot be recorded.
        """
        return await self._used.claim(reference_fingerprint(reference).hex(), holder)

    async def release(self, reference: bytes, holder: str) -> None:
        """Give back what this holder claimed.

        Raises:
            StoreUnavailable: It cannot be recorded.
        """
        await self._used.release(reference_fingerprint(reference).hex(), holder)

    def take_up(self) -> None:
        """Keep the record open until this one closes it, whoever shares it."""
        self._used.users.add(self)

    async def close(self) -> None:
        """Close the record, unless who took this one's place still writes it."""
        await self._used.close(self)


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
    pattern = plain_rfc4514(subject) if _is_pattern(subject) else ""
    try:
        subject_der = NULL_DN if pattern else from_rfc4514(subject)
        if pattern != "*":
            from_rfc4514(subject)
    except ValueError as error:
        raise ValueError("subject is not a Name like CN=enb-1,O=Example") from error
    san = split_general_names(row["san"])
    if not pattern and any(map(_is_pattern, san)):
        raise ValueError("san has a pattern, but subject has none")
    try:
        plain = [name for name in san if not _is_pattern(name)]
        if plain == list(san) and san:
            san = general_names(general_names_der(san))
        else:
            general_names_der(plain)
    except ValueError as error:
        raise ValueError("san has an entry that is not like dns:enb-1.example.net") from error
    for fault in () if pattern else subject_text_faults(subject):
        raise ValueError(f"subject cannot be certified: {fault}")
    for name in plain:
        for fault in alternative_name_text_faults(name, wildcard=True):
            raise ValueError(f"san cannot be certified: {fault}")
    return SharedSecret(
        reference,
        octets,
        subject_der,
        san,
        single_use == "true",
        _expiry(row["expires"]),
        subjects=pattern,
    )


def _is_pattern(text: str) -> bool:
    return "*" in text or "?" in text


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
