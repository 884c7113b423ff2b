"""How long the ledger takes to answer as it grows: generated ledgers, then lookups, revocations and issuances.

    python -m tests.bench.ledger --rows 10000,100000,1000000 [--postgres]

Every certificate has an end entity, a serial number and a key of its own; one in a hundred is revoked. All share
their octets. Figures are the median of single calls, in microseconds, from a process that does nothing else;
issuing is that of many at once, per certificate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg
import uvloop
from sqlalchemy import Connection

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.database import PostgresDatabase, write
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation, open_ledger
from ra_gateway.ca.ledger.sql import subject_key
from ra_gateway.ca.records import Intent, Reason, Revocation
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import canonical, from_rfc4514
from tests.support.ledgers import ISSUER_ID, NOW, certificate, operation
from tests.support.postgres_server import PostgresServer

REVOKED_SHARE: Final = 100
"""One certificate in so many is revoked."""

CALLS: Final = 500
ISSUED: Final = 2000
AT_ONCE: Final = 64

_CERTIFICATE_COLUMNS: Final = (
    "id", "serial", "status", "requester", "entity", "subject_key", "issuer_id", "profile", "spki_digest",
    "unique_key", "reserved_at", "issued_at", "changed_at", "not_before", "not_after", "revoked_at", "reason",
    "fingerprint", "der",
)  # fmt: skip
_ENTITY_COLUMNS: Final = (
    "name", "subject", "subject_key", "names", "profile", "vendor", "identity", "status", "created_by",
    "created_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timing:
    """What one size of ledger showed: microseconds by what was measured."""

    rows: int
    fill_seconds: float
    microseconds: dict[str, float]


# --- filling --------------------------------------------------------------------------------------------------


def serial(number: int) -> int:
    """Return the serial number of the certificate with this number: any order, always the same."""
    return int.from_bytes(sha256(b"%d" % number).digest()[:16], "big") >> 1 | 1 << 126


def subject(number: int) -> bytes:
    """Return the DER of a subject."""
    return _SUBJECT_DER.replace(b"enb00000000", b"enb%08d" % number)


_SUBJECT_DER: Final = from_rfc4514("CN=enb00000000.example.net,O=Example Operator")
_COMPARED: Final = json.dumps([sorted(rdn) for rdn in canonical(_SUBJECT_DER)])


def _subject_key(number: int) -> bytes:
    return sha256(_COMPARED.replace("enb00000000", f"enb{number:08d}").encode()).digest()


def _rows(count: int, made: Certificate) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    assert _subject_key(7) == subject_key(subject(7))
    now, until = int(NOW.timestamp()), int((NOW + timedelta(days=365)).timestamp())
    for number in range(count):
        name, key = f"CN=enb{number:08d}.example.net,O=Example Operator", _subject_key(number)
        revoked = number % REVOKED_SHARE == 0
        yield (
            (
                number + 1, f"{serial(number):x}", "revoked" if revoked else "confirmed", "ra1", name, key,
                ISSUER_ID, "ne_ipsec", sha256(b"key%d" % number).digest(), 1, now, now, now, now, until,
                now if revoked else None, 1 if revoked else None, made.fingerprint, made.der,
            ),
            (name, name, key, "[]", "ne_ipsec", "", "", "active", "ra1", now),
        )  # fmt: skip


def _fill_sqlite(path: Path, count: int, made: Certificate) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN")
        for batch in _batches(count, made):
            _insert(connection, "certificates", _CERTIFICATE_COLUMNS, [row for row, _ in batch])
            _insert(connection, "entities", _ENTITY_COLUMNS, [row for _, row in batch])
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _insert(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: list[Any]
) -> None:
    places = ",".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({','.join(columns)}) VALUES ({places})", rows)  # noqa: S608


async def _fill_postgres(url: str, count: int, made: Certificate) -> None:
    connection = await asyncpg.connect(url)
    for batch in _batches(count, made):
        await connection.copy_records_to_table(
            "certificates", records=[row for row, _ in batch], columns=_CERTIFICATE_COLUMNS
        )
        await connection.copy_records_to_table(
            "entities", records=[row for _, row in batch], columns=_ENTITY_COLUMNS
        )
    await connection.execute("SELECT setval('certificates_id_seq', $1)", count + 1)
    await connection.close()


def _batches(
    count: int, made: Certificate
) -> Iterator[list[tuple[tuple[Any, ...], tuple[Any, ...]]]]:
    batch = []
    for row in _rows(count, made):
        batch.append(row)
        if len(batch) == 10_000:
            yield batch
            batch = []
    yield batch


async def fill(where: LedgerLocation, count: int) -> None:
    """Make a ledger with so many certificates; indices are made at the end, which is faster."""
    ledger = _patient(where)
    await ledger.migrate()
    await ledger.open()
    await write(ledger._database, _drop_indices)
    await ledger.close()
    if isinstance(where, Path):
        _fill_sqlite(where, count, certificate(1))
    else:
        await _fill_postgres(where, count, certificate(1))
    ledger = _patient(where)
    await ledger.open()
    await write(ledger._database, _create_indices)
    await ledger.close()
    if isinstance(where, str):
        connection = await asyncpg.connect(where)
        await connection.execute("VACUUM ANALYZE")
        await connection.close()


def _patient(where: LedgerLocation) -> Ledger:
    """Return a ledger whose statements may take long."""
    if isinstance(where, Path):
        return open_ledger(where)
    return Ledger(PostgresDatabase(where, command_seconds=600))


def _drop_indices(connection: Connection) -> None:
    for index in schema.certificates.indexes:
        index.drop(connection)


def _create_indices(connection: Connection) -> None:
    for index in schema.certificates.indexes:
        index.create(connection)


# --- measuring ------------------------------------------------------------------------------------------------


async def measure(where: LedgerLocation, count: int) -> Timing:
    """Fill a ledger and time it."""
    begun = time.perf_counter()
    await fill(where, count)
    filled = time.perf_counter() - begun
    ledger = open_ledger(where)
    await ledger.open()
    draw = random.Random(1)
    numbers = [draw.randrange(count) for _ in range(CALLS)]
    revocable = iter(
        [number for number in draw.sample(range(count), CALLS) if number % REVOKED_SHARE]
    )

    async def revoke(_: int) -> None:
        revocation = Revocation(serial(next(revocable)), Reason.keyCompromise, "ra1", ISSUER_ID)
        await ledger.revoke(revocation, NOW, operation=operation(answer=b"rp" * 500))

    timings = {
        "status of a serial number": await _median(
            lambda number: ledger.certificate(serial(number), NOW), numbers
        ),
        "newest of a subject (kur)": await _median(
            lambda number: ledger.newest_certificate(subject(number), NOW), numbers
        ),
        "revoke (rr), flushed": await _median(revoke, numbers[: CALLS // 2]),
        "whole CRL, per entry": await _median(lambda _: ledger.revoked(ISSUER_ID, at=NOW), range(5))
        / (count / REVOKED_SHARE),
        "delta CRL without changes": await _median(
            lambda _: ledger.revoked(ISSUER_ID, at=NOW, since=NOW + timedelta(1)), range(50)
        ),
        "time of the last change": await _median(
            lambda _: ledger.last_revocation_at(ISSUER_ID), range(50)
        ),
        "counts": await _median(lambda _: ledger.counts(), range(3)),
        "sweep of nothing": await _median(lambda _: ledger.sweep(NOW), range(20)),
        f"issue, {AT_ONCE} at once, CPU": 0.0,
        f"issue, {AT_ONCE} at once, wall": 0.0,
    }
    cpu, wall = await _issue(ledger, count)
    timings[f"issue, {AT_ONCE} at once, CPU"] = cpu
    timings[f"issue, {AT_ONCE} at once, wall"] = wall
    await ledger.close()
    return Timing(count, filled, timings)


async def _median(call: Callable[[int], Awaitable[object]], numbers: Any) -> float:
    durations = []
    for number in numbers:
        begun = time.perf_counter()
        await call(number)
        durations.append(time.perf_counter() - begun)
    return statistics.median(durations) * 1e6


async def _issue(ledger: Ledger, count: int) -> tuple[float, float]:
    """Return CPU and elapsed time of reserve and store per certificate."""
    made = certificate(1)
    numbers = iter(range(count, count + ISSUED))

    async def worker() -> None:
        for number in numbers:
            item = operation(
                serial_number=serial(number), transaction_id=os.urandom(16), answer=b""
            )
            intent = Intent(subject(number), ISSUER_ID, "ne_ipsec", os.urandom(32))
            assert await ledger.reserve(item, intent, NOW) is None
            await ledger.store(replace(item, answer=b"a" * 2500), made, NOW)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return cpu / ISSUED * 1e6, wall / ISSUED * 1e6


def table(title: str, timings: list[Timing]) -> str:
    """Return the figures as text."""
    lines = [f"{title:32}" + "".join(f"{timing.rows:>12,}" for timing in timings)]
    lines.append("-" * len(lines[0]))
    for name in timings[0].microseconds:
        lines.append(
            f"{name + ' (µs)':32}"
            + "".join(f"{timing.microseconds[name]:>12,.1f}" for timing in timings)
        )
    lines.append(
        f"{'filled in (s)':32}" + "".join(f"{timing.fill_seconds:>12,.1f}" for timing in timings)
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", default="10000,100000,1000000", help="sizes, with commas")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL as well as SQLite")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.rows.split(",")]
    with tempfile.TemporaryDirectory(prefix="ra-gateway-ledger-") as directory:
        timings = []
        for size in sizes:
            path = Path(directory) / f"{size}.sqlite"
            timings.append(uvloop.run(measure(path, size)))
            path.unlink()
        print(table("SQLite, rows", timings), flush=True)
    if arguments.postgres:
        with ExitStack() as stack:
            server = PostgresServer(durable=True)
            stack.callback(server.remove)
            server.start()
            timings = [uvloop.run(measure(server.new_database(), size)) for size in sizes]
            print("\n" + table("PostgreSQL, rows", timings), flush=True)


if __name__ == "__main__":
    main()
