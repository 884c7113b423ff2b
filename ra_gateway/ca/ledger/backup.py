"""The whole ledger in one file, and back: for safety, and from one kind of database to the other.

A dump is gzip of lines of JSON: a header with the revision of the schema and the number of rows of each table;
for each table a line that names it and its columns, and its rows as lists, binary values in base64; and a trailer
with the SHA-256 of all octets before it. It is read from one state of the database while others go on writing,
and holds no private key. Its digest tells damage, not forgery: keep dumps where nobody can change them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import (
    Connection,
    LargeBinary,
    Table,
    func,
    insert,
    select,
    text,
    update,
)

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.belonging import require_own_rows
from ra_gateway.ca.ledger.database import Progress, write
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.errors import ConfigError
from ra_gateway.files import open_new, synchronize

FORMAT: Final = "ra-gateway ledger 1"

ROWS: Final = 1000
"""Read and written at a time: a megabyte or two, and a moment for the progress bar."""

COMPRESSION: Final = 3
"""Of gzip's nine; keys and signatures, which most of it is, do not compress any further."""

MOST_LINE_OCTETS: Final = 4 << 20
"""Of a row as JSON; the longest is a line of the audit trail about the import of 512 end entities."""

MOST_CRL_OCTETS: Final = 256 << 20
"""Of a row with a CRL: some million revoked certificates."""

MOST_RATIO: Final = 100
"""What a dump unpacks to, over its size; keys, hashes and signatures leave it below ten."""

_SLACK_OCTETS: Final = 1 << 20

_CHUNK_OCTETS: Final = 8 << 20
"""Of lines that are inserted at a time, unless one alone is longer."""

TABLES: Final[tuple[Table, ...]] = tuple(schema.metadata.sorted_tables)
"""Those that others refer to come first."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """What a dump holds.

    Args:
        at: ISO 8601, as of the dump.
        counts: Rows by table.
    """

    at: str
    counts: Mapping[str, int]

    @property
    def row_count(self) -> int:
        """Rows of all tables."""
        return sum(self.counts.values())


# --- writing --------------------------------------------------------------------------------------------------


async def dump(
    ledger: Ledger, path: Path, now: datetime, progress: Progress | None = None
) -> Dumped:
    """Write the whole ledger to a new file that only its owner can read.

    Args:
        path: Must not exist; it appears when it is complete.
        now: Aware UTC.
        progress: May be called from another thread.

    Raises:
        ConfigError: The file exists.
        StoreUnavailable: The database does not answer; there is no file then.
        OSError: The file cannot be written.
    """
    with _new_file(path) as file:
        return await ledger.database.read_state(
            lambda connection: _dump(connection, file, now, progress)
        )


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that gets its name when all is written and on the disk."""
    if path.exists():
        raise _exists(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(open_new(beside), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _move(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _move(beside: Path, path: Path) -> None:
    try:
        os.close(open_new(path))
    except FileExistsError:  # made meanwhile; what is there stays
        raise _exists(path) from None
    beside.replace(path)
    synchronize(path.parent)


class _Writer:
    """Writes lines and takes their digest."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def __call__(self, value: object) -> None:
        line = _line(value)
        self._digest.update(line)
        self._file.write(line)

    def end(self) -> None:
        self._file.write(_line(_trailer(self._digest.hexdigest())))


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _trailer(digest: str) -> dict[str, str]:
    return {"sha256": digest}


def _dump(
    connection: Connection, file: IO[bytes], now: datetime, progress: Progress | None
) -> Dumped:
    # Reading is repeated when the connection was lost.
    file.seek(0)
    file.truncate()
    counts = {
        table.name: connection.scalar(select(func.count()).select_from(table)) or 0
        for table in TABLES
    }
    dumped = Dumped(now.isoformat(timespec="seconds"), counts)
    done = 0
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed:
        put = _Writer(packed)
        put({"format": FORMAT, "schema": schema.HEAD, "at": dumped.at, "counts": counts})
        for table in TABLES:
            put({"table": table.name, "columns": table.columns.keys()})
            for row in _rows(connection, table):
                put(row)
                done += 1
                if progress is not None and done % ROWS == 0:
                    progress(done, dumped.row_count)
        put.end()
    if progress is not None:
        progress(done, dumped.row_count)
    return dumped


def _rows(connection: Connection, table: Table) -> Iterator[list[Any]]:
    statement = select(table).order_by(*table.primary_key.columns)
    binary = _binary(table)
    for row in connection.execute(statement, execution_options={"yield_per": ROWS}):
        values = list(row)
        for index in binary:
            if values[index] is not None:
                values[index] = base64.b64encode(values[index]).decode("ascii")
        yield values


def _binary(table: Table) -> list[int]:
    return [
        index for index, column in enumerate(table.columns) if isinstance(column.type, LargeBinary)
    ]


# --- reading --------------------------------------------------------------------------------------------------


async def restore(
    path: Path,
    ledger: Ledger,
    progress: Progress | None = None,
    issuers: Collection[str] | None = None,
) -> Dumped:
    """Fill an empty ledger from a dump: with all that it holds, or nothing.

    Args:
        ledger: Open; SQLite or PostgreSQL, whichever the dump is of.
        issuers: All issuing CAs of the CA whose ledger it is to be, by `issuer_id`; None lets it be anybody's.
        progress: May be called from another thread.

    Raises:
        ConfigError: The file is no complete, unaltered dump of this release's ledger, or of another CA's; or the
            ledger is not empty.
        StoreUnavailable: The database does not answer.
        OSError: The file cannot be read.
    """
    dumped = read_dump(path)
    await write(ledger.database, lambda connection: _restore(connection, path, progress, issuers))
    return dumped


def read_dump(path: Path) -> Dumped:
    """Read a dump from end to end, and say what it holds.

    Raises:
        ConfigError: It is none, or not complete, or was altered.
        OSError: It cannot be read.
    """
    with _reading(path) as lines:
        header = next(lines, b"")
        for _ in lines:
            pass
    return _header(path, header)


@contextmanager
def _reading(path: Path) -> Iterator[Iterator[bytes]]:
    try:
        with path.open("rb") as packed, gzip.GzipFile(fileobj=packed, mode="rb") as file:
            yield _verified(path, file, os.fstat(packed.fileno()).st_size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path) from error


def _verified(path: Path, file: gzip.GzipFile, size: int) -> Iterator[bytes]:
    """Yield all lines before the trailer, which has to confirm them in the end."""
    digest = hashlib.sha256()
    last = b""
    most, left = MOST_LINE_OCTETS, size * MOST_RATIO + _SLACK_OCTETS
    # Never more than a line is unpacked at a time, and of all no more than any dump has.
    while line := file.readline(min(most, left) + 1):
        left -= len(line)
        if left < 0:
            raise _bomb(path, f"unpacks to more than {MOST_RATIO} times its size")
        if len(line) > most:
            raise _bomb(path, f"has a line of more than {most >> 20} MiB")
        if last:
            digest.update(last)
            yield last
        last = line
        if line.startswith(b'{"table":'):
            most = MOST_CRL_OCTETS if line.startswith(_CRLS) else MOST_LINE_OCTETS
    if last != _line(_trailer(digest.hexdigest())):
        raise _damaged(path)


_CRLS: Final = b'{"table":"crls"'


def _header(path: Path, line: bytes) -> Dumped:
    try:
        header = json.loads(line)
        known = header["format"] == FORMAT
        revision = header["schema"]
        dumped = Dumped(header["at"], header["counts"])
        counts = dumped.counts.values()
        known = known and isinstance(dumped.at, str) and all(type(item) is int for item in counts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if not known:
        raise _damaged(path)
    if revision != schema.HEAD:
        raise ConfigError.of(
            str(path),
            f"is the dump of a ledger with schema {revision}, this release has {schema.HEAD}",
            "Restore it with the release that wrote it, then run `ra-gateway ca migrate` of this one",
        )
    return dumped


def _restore(
    connection: Connection, path: Path, progress: Progress | None, issuers: Collection[str] | None
) -> None:
    _require_empty(connection)
    done = 0
    try:
        with _reading(path) as lines:
            dumped = _header(path, next(lines, b""))
            for table, rows in _chunks(lines):
                done += len(rows)
                if done > dumped.row_count:
                    raise _damaged(path)
                _put(connection, table, rows)
                if progress is not None:
                    progress(done, dumped.row_count)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(path) from error
    if done != dumped.row_count:
        raise _damaged(path)
    if issuers is not None:
        require_own_rows(connection, issuers, str(path))
    if connection.dialect.name == "postgresql":
        _go_on_counting(connection)


def _put(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if table is not schema.audit_head:
        connection.execute(insert(table).inline(), rows)
        return
    # Its one row was made by the migration, and is the lock that this transaction holds.
    (row,) = rows
    connection.execute(update(table).values(row))


def _chunks(lines: Iterator[bytes]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Yield rows of one table at a time, and the table."""
    tables = {table.name: table for table in TABLES}
    table: Table | None = None
    columns: Sequence[str] = ()
    binary: list[int] = []
    rows: list[dict[str, Any]] = []
    octets = 0
    for line in lines:
        value = json.loads(line)
        if table is not None and isinstance(value, list):
            for index in binary:
                if value[index] is not None:
                    value[index] = base64.b64decode(value[index], validate=True)
            rows.append(dict(zip(columns, value, strict=True)))
            octets += len(line)
            if len(rows) < ROWS and octets < _CHUNK_OCTETS:
                continue
        if rows and table is not None:
            yield table, rows
            rows, octets = [], 0
        if isinstance(value, list):
            continue
        table, columns = tables[value["table"]], value["columns"]
        if list(columns) != table.columns.keys():
            raise ValueError(f"columns of {table.name}")
        binary = _binary(table)
    if rows and table is not None:
        yield table, rows


def _require_empty(connection: Connection) -> None:
    for table in TABLES:
        statement = select(table).limit(1)
        if table is schema.audit_head:  # which the migration made
            statement = statement.where(schema.audit_head.c.number > 0)
        if connection.execute(statement).first() is not None:
            raise ConfigError.of(
                "ca",
                f"the ledger is not empty: it has rows in {table.name}",
                "Restore into a new SQLite file, or a new database after `ra-gateway ca migrate`",
            )


def _go_on_counting(connection: Connection) -> None:
    """Let PostgreSQL's sequences go on behind the highest numbers that came from the dump."""
    for table in (schema.certificates, schema.authority_certificates):
        highest = connection.scalar(select(func.max(table.c.id)))
        if highest is not None:
            connection.execute(
                text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :highest)"),
                {"table": table.name, "highest": highest},
            )


def _damaged(path: Path) -> ConfigError:
    return ConfigError.of(
        str(path),
        "is not a complete, unaltered dump of a ledger",
        "Give a file that `ra-gateway ca backup` wrote, and another copy of it if this one is damaged",
    )


def _bomb(path: Path, what: str) -> ConfigError:
    return ConfigError.of(
        str(path),
        f"{what}, which no dump of a ledger does",
        "Give a file that `ra-gateway ca backup` wrote, from where nobody else can write",
    )


def _exists(path: Path) -> ConfigError:
    return ConfigError.of(
        str(path), "exists already", "Choose another name: a dump is never overwritten"
    )
