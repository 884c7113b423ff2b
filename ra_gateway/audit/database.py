"""The database of the audit trail, SQLite or PostgreSQL, for one thread that may wait.

Work is a function over a `sqlalchemy.Connection` and runs in one transaction. PostgreSQL is spoken to by asyncpg, as
everywhere here, in an event loop of the thread's own: nobody else's has to wait for it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine, NullPool, create_engine, insert, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ra_gateway.audit import schema
from ra_gateway.errors import ConfigError, StoreUnavailable, printable
from ra_gateway.files import make_file, read_bounded
from ra_gateway.hash_chain import START
from ra_gateway.keys import require_private
from ra_gateway.postgres_url import PostgresURL, UnusableURL, usable_postgres_url

T = TypeVar("T")

LOCK_SECONDS: Final = 5.0
"""How long another process may hold the head of the chain; a batch takes milliseconds."""

CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 60.0
"""Of PostgreSQL: a batch takes milliseconds, a search in a large trail that no index helps some seconds."""

_CREATE_LOCK: Final = 0x72612D6175646974 % (1 << 63)
"""Key of the advisory lock ("ra-audit") of PostgreSQL under which the tables are made."""


class AuditDatabase(Protocol):
    """What the trail needs of a database; used by one thread at a time, which may be another one later."""

    name: str
    """What it is called in texts: without user and password."""

    def write(self, function: Callable[[Connection], T]) -> T:
        """Return what a function does in one transaction, once it is durable; when it raises, nothing of it stays.

        Raises:
            StoreUnavailable: It cannot be done; perhaps it was committed all the same.
        """

    def read(self, function: Callable[[Connection], T]) -> T:
        """Return what a function reads, all of it from one state.

        Raises:
            StoreUnavailable: It cannot be read.
        """

    def close(self) -> None:
        """Disconnect, in the thread that used it last."""


def make_tables(connection: Connection) -> None:
    """Make the tables if there are none, in a transaction that nobody else makes them in.

    Raises:
        StoreUnavailable: They are of another release.
    """
    schema.metadata.create_all(connection)
    row = connection.execute(select(schema.head)).first()
    if row is None:
        # Where there are records, somebody has deleted it: a chain that began anew would hide them.
        if connection.scalar(select(schema.records.c.number).limit(1)) is not None:
            return
        connection.execute(
            insert(schema.head).values(id=1, format=schema.FORMAT, number=0, hash=START)
        )
    elif row.format != schema.FORMAT:
        raise StoreUnavailable(f"the audit trail has format {row.format}, of another release")


def failures() -> tuple[type[Exception], ...]:
    """Return what a database fails with; OSError covers TimeoutError."""
    driver: Any = sys.modules.get("asyncpg")
    of_postgres = (driver.PostgresError, driver.InterfaceError) if driver else ()
    return (SQLAlchemyError, sqlite3.Error, OSError, UnusableURL, *of_postgres)


def _unavailable(name: str, error: Exception) -> StoreUnavailable:
    said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    why = printable(" ".join(str(said).split()), 200) or type(said).__name__
    return StoreUnavailable(f"the audit trail in {name}: {why}")


# --- SQLite ---------------------------------------------------------------------------------------------------


class SQLiteAudit:
    """A file, its owner's alone.

    Args:
        path: Made if it does not exist, unless it is only read; its directory must exist.
    """

    def __init__(self, path: Path, *, reads_only: bool = False) -> None:
        self._path, self._reads_only = path, reads_only
        self.name = str(path)
        self._connection: Connection | None = None

    def write(self, function: Callable[[Connection], T]) -> T:
        return self._run(function, "BEGIN IMMEDIATE")

    def read(self, function: Callable[[Connection], T]) -> T:
        return self._run(function, "BEGIN")

    def _run(self, function: Callable[[Connection], T], begin: str) -> T:
        try:
            connection = self._open()
            with connection.begin():
                connection.exec_driver_sql(begin)
                return function(connection)
        except ConfigError as error:  # others may read it
            raise StoreUnavailable(str(error)) from error
        except failures() as error:
            self.close()  # the file may have been replaced, or moved to another disk
            raise _unavailable(self.name, error) from error

    def _open(self) -> Connection:
        if self._connection is None:
            if self._reads_only:
                self._path.stat()  # SQLite says of a file that is not there that it cannot open it
            else:
                make_file(self._path)
            require_private(self._path, "audit.sqlite_path")
            engine: Engine = create_engine(
                "sqlite://", creator=self._connect, poolclass=NullPool, hide_parameters=True
            )
            connection = engine.connect()
            if not self._reads_only:
                with connection.begin():
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    make_tables(connection)
            self._connection = connection
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        # No isolation level: the module begins no transaction by itself.
        mode = "ro" if self._reads_only else "rw"
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}", uri=True, timeout=LOCK_SECONDS,
            isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        if not self._reads_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        return connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError, sqlite3.Error):
                connection.close()


# --- PostgreSQL -----------------------------------------------------------------------------------------------


class PostgresAudit:
    """A database of a PostgreSQL server.

    Args:
        url: Where it is.
        makes: Whether its tables are made where there are none.
    """

    name = "PostgreSQL"

    def __init__(self, url: PostgresURL, *, makes: bool = True) -> None:
        self._url, self._makes = url, makes
        self._runner: asyncio.Runner | None = None
        self._engine: AsyncEngine | None = None

    def write(self, function: Callable[[Connection], T]) -> T:
        return self._run(function, {"isolation_level": "READ COMMITTED"})

    def read(self, function: Callable[[Connection], T]) -> T:
        return self._run(
            function, {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        )

    def _run(self, function: Callable[[Connection], T], options: dict[str, Any]) -> T:
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            return self._runner.run(self._transact(function, options))
        except failures() as error:
            with suppress(*failures()):
                self._runner.run(self._dispose())
            raise _unavailable(self.name, error) from error

    async def _transact(self, function: Callable[[Connection], T], options: dict[str, Any]) -> T:
        if self._engine is None:
            engine = self._new_engine()
            if self._makes:
                async with engine.begin() as connection:
                    await connection.execute(_ALONE, {"key": _CREATE_LOCK})
                    await connection.run_sync(make_tables)
            self._engine = engine
        async with self._engine.connect() as connection:
            connection = await connection.execution_options(**options)
            async with connection.begin():
                return await connection.run_sync(function)

    async def _dispose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    def _new_engine(self) -> AsyncEngine:
        async def connect() -> Any:
            import asyncpg

            return await asyncpg.connect(
                **self._url.connection(),
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                server_settings={
                    "application_name": "ra-gateway audit",
                    "lock_timeout": f"{LOCK_SECONDS:.0f}s",
                    "synchronous_commit": "on",
                    "idle_in_transaction_session_timeout": f"{2 * COMMAND_SECONDS:.0f}s",
                },
            )

        return create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": connect},
            pool_size=1,
            max_overflow=0,
            pool_timeout=CONNECT_SECONDS,
            hide_parameters=True,
        )

    def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            with suppress(*failures()):
                runner.run(self._dispose())
            runner.close()


_ALONE: Final = text("SELECT pg_advisory_xact_lock(:key)")


def open_database(
    sqlite_path: Path | None, url_path: Path | None, *, reads_only: bool = False
) -> AuditDatabase:
    """Return the database of a configuration; nothing is connected yet.

    Args:
        url_path: File that holds the URL of a PostgreSQL database; one of the two is given.
        reads_only: Whether nothing is made in it.

    Raises:
        ConfigError: The URL cannot be used; its text repeats nothing of it.
    """
    if sqlite_path is not None:
        return SQLiteAudit(sqlite_path, reads_only=reads_only)
    assert url_path is not None  # the configuration has one of the two
    try:
        import asyncpg  # noqa: F401 - the extra `postgres`; better missed now than at the first connection
    except ModuleNotFoundError as error:
        from ra_gateway.errors import missing_extra

        raise missing_extra("audit.url_path", error) from error
    url = usable_postgres_url(read_bounded(url_path).decode("utf-8-sig", "replace").strip())
    if isinstance(url, UnusableURL):
        raise ConfigError.of("audit.url_path", f"the URL of the database {url}", url.todo)
    return PostgresAudit(url, makes=not reads_only)
