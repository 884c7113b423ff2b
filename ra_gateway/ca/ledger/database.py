"""One interface to two databases: SQLite in threads of its own, PostgreSQL through asyncpg.

Work is a synchronous function over a `sqlalchemy.Connection`, the same for both. Who writes queues a function and
an item; one writer takes all that is queued, gives each function its items together, all in one database
transaction, and commits once (group commit). A burst of issuances so shares statements and one flush to the disk.
If anything in the batch fails, it is rolled back and its items run one by one, so that a bad one fails alone.

There is one writer at a time over all processes: SQLite's BEGIN IMMEDIATE, on PostgreSQL a lock on the one row of
`audit_head`, which only a role that may write to the ledger can take. Hence what a function has read in its
transaction stays true until its commit, and functions may read, decide and write in three statements instead of
guarding every row.

*Intents* are committed without a flush (SQLite: synchronous=NORMAL; PostgreSQL: synchronous_commit=off): they
survive the end of the process and are seen by every other one. *Durable* work is flushed, along with every commit
before it.

Reading has connections of its own and waits for no commit. It sees what was committed before it was asked for.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, NullPool, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ra_gateway.ca.ledger.batches import (
    Batch,
    Queue,
    Run,
    Work,
    each,
    failures,
    is_lost,
    is_refusal,
    run_apart,
    run_together,
    unavailable,
)
from ra_gateway.ca.ledger.schema import HEAD
from ra_gateway.errors import ConfigError, StoreUnavailable, missing_extra
from ra_gateway.files import make_file
from ra_gateway.keys import require_private
from ra_gateway.postgres_url import PostgresURL, UnusableURL, parse_postgres_url

T = TypeVar("T")
Item = TypeVar("Item")

LOCK_SECONDS: Final = 5.0
"""How long another process may hold the database; a commit takes milliseconds."""

CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 10.0
"""Of PostgreSQL; a statement takes milliseconds, and a CMP client waits for some 30 seconds."""

READ_CONNECTIONS: Final = 4
"""Of PostgreSQL, beside the writer's: a lookup takes a fraction of a millisecond."""

PREPARED_STATEMENTS: Final = 512
"""Per connection: some 40 statements, those with lists in up to nine lengths (see `sql.padded`)."""

MIGRATION_LOCK: Final = 0x72612D6C6564676572 % (1 << 63)
"""Key of the advisory lock ("ra-ledger") that whoever migrates holds on PostgreSQL: there may be no tables yet. Any
role of the database can take it, so nothing but a migration waits for it."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of rows so far and in all, where all of a database is read or written."""

_Connector: TypeAlias = Callable[[], Awaitable[Any]]

MIGRATING: Final = threading.Lock()
"""Held by whoever migrates: Alembic has one environment per process."""


LEAST_ROOM_OCTETS: Final = 256 * 1024
"""Free below SQLite's file, or it counts as full: what a rush of certificates writes at once."""


class Database(Protocol):
    """What the ledger needs of a database; every method raises `StoreUnavailable` when it fails.

    It is used from the event loop that opened it.
    """

    @property
    def commit_count(self) -> int:
        """Commits since it was opened: with many requests at once, fewer than pieces of work."""

    async def open(self) -> None:
        """Connect; SQLite is made or migrated, PostgreSQL has to be migrated.

        Raises:
            ConfigError: It cannot be used as it is.
        """

    async def close(self) -> None:
        """Finish what is queued and disconnect."""

    async def migrate(self) -> None:
        """Bring the schema to that of this release.

        Raises:
            ConfigError: It is of a newer one, or no ledger.
        """

    async def submit(self, function: Batch[Item, T], item: Item, *, durable: bool) -> T:
        """Have an item written together with others of the same function; return its result when committed."""

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Return what a function reads; it should take milliseconds."""

    async def read_state(self, function: Callable[[Connection], T]) -> T:
        """Return what a function reads in many statements that all see one state; it may take its time."""

    async def require_room(self) -> None:
        """Return if there is room for what is written next, as far as that can be seen from here."""


async def write(
    database: Database, function: Callable[[Connection], T], *, durable: bool = True
) -> T:
    """Run one function in the writer's transaction; when it raises, nothing of it stays."""
    result: T = await database.submit(each, function, durable=durable)
    return result


# --- SQLite ---------------------------------------------------------------------------------------------------


class SQLiteDatabase:
    """A file; a thread writes and a thread reads.

    Args:
        path: Made if it does not exist; its directory must.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: _SQLiteThread | None = None
        self._reader: _SQLiteThread | None = None

    @property
    def commit_count(self) -> int:
        return 0 if self._writer is None else self._writer.commit_count

    async def open(self) -> None:
        if self._writer is None:
            writing, reading = await asyncio.to_thread(self._connect)
            self._writer = _SQLiteThread(writing, "ca-ledger-writer", reads=False)
            self._reader = _SQLiteThread(reading, "ca-ledger-reader", reads=True)

    def _connect(self) -> tuple[Connection, Connection]:
        writing = _sqlite_connect(self._path)
        try:
            with MIGRATING, writing.begin():
                # Two processes may start at once.
                writing.exec_driver_sql("BEGIN IMMEDIATE")
                _require_or_migrate(writing, _unusable_file(self._path))
            return writing, _sqlite_connect(self._path)
        except (SQLAlchemyError, sqlite3.Error) as error:
            writing.close()
            raise _unusable_file(self._path)(unavailable(error).detail) from error
        except ConfigError:
            writing.close()
            raise

    async def migrate(self) -> None:
        if self._writer is None:
            for connection in await asyncio.to_thread(self._connect):
                connection.close()

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        reader, self._reader = self._reader, None
        if writer is not None and reader is not None:
            await writer.close()
            await reader.close()

    async def submit(self, function: Batch[Item, T], item: Item, *, durable: bool) -> T:
        if self._writer is None:
            raise _closed()
        return await self._writer.queue.put(function, item, durable=durable)

    async def read(self, function: Callable[[Connection], T]) -> T:
        if self._reader is None:
            raise _closed()
        result: T = await self._reader.queue.put(each, function, durable=False)
        return result

    async def read_state(self, function: Callable[[Connection], T]) -> T:
        if self._reader is None:
            raise _closed()
        try:
            return await asyncio.to_thread(self._read_state, function)
        except failures() as error:
            raise unavailable(error) from error

    async def require_room(self) -> None:
        # A lock is had on a full disk, too, and what is read is there: only what is written for good is not.
        try:
            disk = await asyncio.to_thread(os.statvfs, self._path)
        except OSError as error:
            raise unavailable(error) from error
        if disk.f_bavail * disk.f_frsize < LEAST_ROOM_OCTETS:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            raise unavailable(full) from full

    def _read_state(self, function: Callable[[Connection], T]) -> T:
        with _sqlite_connect(self._path) as connection:
            connection.exec_driver_sql("BEGIN")
            return function(connection)


class _SQLiteThread:
    """A connection, the thread that uses it, and the queue in front of it."""

    def __init__(self, connection: Connection, name: str, *, reads: bool) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._work = self._read if reads else self._write
        self._flushing = True
        self.commit_count = 0
        self.queue = Queue(self._run, name)

    async def _run(self, batch: Sequence[Work]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._work, batch)

    async def close(self) -> None:
        """Finish what is queued and close the connection."""
        await self.queue.close()
        self._thread.shutdown()
        self._connection.close()

    def _read(self, batch: Sequence[Work]) -> None:
        try:
            self._connection.exec_driver_sql("BEGIN")
            for work in batch:
                try:
                    (work.outcome,) = work.function(self._connection, [work.item])
                except Exception as error:  # belongs to whoever asked; the others go on
                    work.outcome = error
            self._connection.rollback()
        except Exception as error:
            _fail(batch, error)

    def _write(self, batch: Sequence[Work]) -> None:
        try:
            try:
                self._commit(batch, run_together)
            except Exception as error:
                if len(batch) == 1 or not is_refusal(error):
                    raise
                self._commit(batch, run_apart)
        except Exception as error:
            _fail(batch, error)

    def _commit(self, batch: Sequence[Work], run: Run) -> None:
        self._flush_on_commit(any(work.durable for work in batch))
        with self._connection.begin():
            self._connection.exec_driver_sql("BEGIN IMMEDIATE")
            run(self._connection, batch)
        self.commit_count += 1

    def _flush_on_commit(self, wanted: bool) -> None:
        if wanted != self._flushing:
            # The flush covers the whole write-ahead log, hence also what was committed without one.
            _raw(self._connection).execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._flushing = wanted


def _fail(batch: Sequence[Work], error: Exception) -> None:
    """Tell that nothing of a batch is certain to be stored, not even what succeeded."""
    for work in batch:
        work.outcome = error


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the ledger is closed")


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def side_files(path: Path) -> tuple[Path, ...]:
    """Return the files that SQLite keeps beside its database."""
    return tuple(path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal"))


def _sqlite_connect(path: Path) -> Connection:
    def connect() -> sqlite3.Connection:
        # No isolation level: the module begins no transaction by itself.
        return sqlite3.connect(
            path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )

    engine: Engine = create_engine(
        "sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True
    )
    try:
        # SQLite gives its side files owner and mode of the main one; subjects are nobody else's business. One that
        # exists is not opened here: closing any descriptor of it would drop the locks (POSIX) that this process's
        # connections hold on it, and another process that ends would then delete the write-ahead log under them.
        make_file(path)
        for file in (path, *side_files(path)):
            require_private(file, "ca.ledger_path")
        connection = engine.connect()
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        raise _unusable_file(path)(str(error)) from error
    try:
        raw = _raw(connection)
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA foreign_keys = ON")
        # 64 MiB: of a large ledger, the inner pages of the indices.
        raw.execute("PRAGMA cache_size = -65536")
    except sqlite3.Error as error:
        connection.close()
        raise _unusable_file(path)(str(error)) from error
    return connection


def _unusable_file(path: Path) -> Callable[[str], ConfigError]:
    return lambda why: ConfigError.of(
        "ca.ledger_path",
        f"the ledger {path} cannot be used: {why}",
        "Give a file of a bundled CA, or a new one in a directory that can be written to",
    )


# --- PostgreSQL -----------------------------------------------------------------------------------------------


class PostgresDatabase:
    """A database of a PostgreSQL server; a task of the event loop that opened it writes.

    Args:
        url: As `parse_postgres_url` takes it.
        connect_seconds, command_seconds: How long a connection and a statement may take.

    Raises:
        ConfigError: The URL cannot be used; its text repeats nothing of it.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        command_seconds: float = COMMAND_SECONDS,
    ) -> None:
        try:
            import asyncpg  # noqa: F401 - the extra `postgres`; better missed now than at the first connection
        except ModuleNotFoundError as error:
            raise missing_extra("ca.ledger_url_path", error) from error
        self._connect = _postgres_connector(_taken_apart(url), connect_seconds, command_seconds)
        self._engine: AsyncEngine | None = None
        self._idle: list[AsyncConnection] = []
        self._reading = asyncio.Semaphore(READ_CONNECTIONS)
        self._queue: Queue | None = None
        self._commit_count = 0

    @property
    def commit_count(self) -> int:
        return self._commit_count

    async def open(self) -> None:
        if self._engine is not None:
            return
        engine = _postgres_engine(self._connect)
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_require_current)
        except failures() as error:
            await engine.dispose()
            raise unavailable(error) from error
        except BaseException:
            await engine.dispose()
            raise
        self._engine = engine
        self._queue = Queue(lambda batch: self._run(engine, batch), "ca-ledger-writer")

    async def migrate(self) -> None:
        engine = _postgres_engine(self._connect)
        await asyncio.to_thread(MIGRATING.acquire)
        try:
            async with engine.connect() as connection, connection.begin():
                await connection.run_sync(_begin_migration)
                await connection.run_sync(_require_or_migrate, _unusable_server)
        except failures() as error:
            raise await _locked(engine, error) from error
        finally:
            MIGRATING.release()
            await engine.dispose()

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        queue, self._queue = self._queue, None
        if engine is not None and queue is not None:
            await queue.close()
            while self._idle:
                await self._idle.pop().close()
            await engine.dispose()

    async def submit(self, function: Batch[Item, T], item: Item, *, durable: bool) -> T:
        if self._queue is None:
            raise _closed()
        return await self._queue.put(function, item, durable=durable)

    async def read(self, function: Callable[[Connection], T]) -> T:
        return await self._read(function, self._read_idle)

    async def read_state(self, function: Callable[[Connection], T]) -> T:
        return await self._read(function, _postgres_read_state)

    async def require_room(self) -> None:
        """Return: with a full disk its server takes no transactions, or ends."""

    async def _read(
        self,
        function: Callable[[Connection], T],
        read: Callable[[AsyncEngine, Callable[[Connection], T]], Awaitable[T]],
    ) -> T:
        if self._engine is None:
            raise _closed()
        try:
            try:
                return await read(self._engine, function)
            except failures() as error:
                if not is_lost(error):
                    raise
            # The server was restarted, perhaps; reading may be repeated, over a new connection.
            while self._idle:
                await self._idle.pop().close()
            return await read(self._engine, function)
        except failures() as error:
            raise unavailable(error) from error

    async def _read_idle(self, engine: AsyncEngine, function: Callable[[Connection], T]) -> T:
        """Read over a connection that is kept: the engine's pool would take as long as the lookup."""
        async with self._reading:
            connection = self._idle.pop() if self._idle else await _postgres_reader(engine)
            try:
                result = await connection.run_sync(_read_once, function)
            except DBAPIError as error:
                if error.connection_invalidated:
                    await connection.close()
                else:
                    self._idle.append(connection)
                raise
            except BaseException:  # a timeout or a cancellation: in what state it is nobody knows
                await _abandon(connection)
                raise
            if self._engine is engine:
                self._idle.append(connection)
            else:
                await connection.close()
            return result

    async def _run(self, engine: AsyncEngine, batch: Sequence[Work]) -> None:
        run, reconnected = run_together, False
        while True:
            transaction = _PostgresTransaction(engine)
            try:
                await transaction.run(batch, run)
                self._commit_count += 1
                return
            except Exception as error:
                if transaction.committing:
                    pass  # perhaps it was committed, so it must not be repeated
                elif is_lost(error) and not reconnected:
                    reconnected = True  # from before a restart of the server, perhaps
                    continue
                elif (
                    run is run_together
                    and len(batch) > 1
                    and transaction.begun
                    and is_refusal(error)
                ):
                    run = run_apart
                    continue
                _fail(batch, error if transaction.begun else await _locked(engine, error))
                return


class _PostgresTransaction:
    """One attempt at one batch."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.begun = False
        self.committing = False

    async def run(self, batch: Sequence[Work], run: Run) -> None:
        durable = any(work.durable for work in batch)
        async with self._engine.connect() as connection:
            try:
                await connection.run_sync(_begin_postgres, durable)
                self.begun = True
                await connection.run_sync(run, batch)
                self.committing = True
                await connection.commit()
            except TimeoutError:
                await connection.invalidate()  # it would not answer a ROLLBACK either
                raise


def _begin_postgres(connection: Connection, durable: bool) -> None:
    # The commit of one that is durable flushes what was committed before it, too.
    if connection.execute(_BEGIN, {"synchronous": "on" if durable else "off"}).first() is None:
        raise StoreUnavailable("ledger: audit_head has no row, which all who write lock")


_BEGIN: Final = text(
    "SELECT set_config('synchronous_commit', :synchronous, true) FROM audit_head FOR UPDATE"
)


def _begin_migration(connection: Connection) -> None:
    connection.execute(_BEGIN_MIGRATION, {"key": MIGRATION_LOCK})
    if inspect(connection).has_table("audit_head"):
        connection.execute(text("SELECT id FROM audit_head FOR UPDATE"))


_BEGIN_MIGRATION: Final = text("SELECT pg_advisory_xact_lock(:key)")


async def _locked(engine: AsyncEngine, error: Exception) -> Exception:
    """Return a failure to begin, with the names of those who hold the lock if that is why."""
    orig = error.orig if isinstance(error, DBAPIError) else error
    if getattr(orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
        return error if isinstance(error, StoreUnavailable) else unavailable(error)
    holders: list[str] = []
    with suppress(*failures()):
        async with engine.connect() as connection:
            found = await connection.execute(_HOLDERS, {"key": MIGRATION_LOCK})
            holders = [f"{row.usename} (process {row.pid})" for row in found]
    who = ", ".join(holders) or "somebody who has let go of it since"
    locked = StoreUnavailable(f"ledger: {who} has held its lock for {LOCK_SECONDS:.0f} s")
    locked.__cause__ = error
    return locked


_LOCK_NOT_AVAILABLE: Final = "55P03"
# Of a lock on a row, pg_locks shows the one on the table that comes with it.
_HOLDERS: Final = text(
    "SELECT DISTINCT l.pid, coalesce(a.usename, 'a role that is not told') AS usename "
    "FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.granted AND l.pid <> pg_backend_pid() "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND ((l.locktype = 'relation' AND l.relation = to_regclass('audit_head') AND l.mode <> 'AccessShareLock') "
    "OR (l.locktype = 'advisory' AND l.objsubid = 1 AND (l.classid::bigint << 32 | l.objid::bigint) = :key)) "
    "ORDER BY l.pid LIMIT 3"
)


async def _postgres_reader(engine: AsyncEngine) -> AsyncConnection:
    connection = await engine.connect()
    return await connection.execution_options(isolation_level="AUTOCOMMIT")


def _read_once(connection: Connection, function: Callable[[Connection], T]) -> T:
    try:
        return function(connection)
    finally:
        connection.rollback()  # nothing that the server hears of


async def _postgres_read_state(engine: AsyncEngine, function: Callable[[Connection], T]) -> T:
    async with engine.connect() as connection:
        connection = await connection.execution_options(isolation_level="REPEATABLE READ")
        try:
            return await connection.run_sync(function)
        except TimeoutError:
            await connection.invalidate()  # it would not answer a ROLLBACK either
            raise


async def _abandon(connection: AsyncConnection) -> None:
    with suppress(*failures()):
        await connection.invalidate()
    with suppress(*failures()):
        await connection.close()


def _taken_apart(url: str) -> PostgresURL:
    try:
        return parse_postgres_url(url)
    except UnusableURL as error:
        problem = _unusable_url(error)
    # Outside: whatever else failed on the way there may show the URL.
    raise problem


def _unusable_url(error: UnusableURL) -> ConfigError:
    return ConfigError.of("ca.ledger", f"the URL of the database {error}", error.todo)


def _postgres_connector(
    url: PostgresURL, connect_seconds: float, command_seconds: float
) -> _Connector:
    async def connect() -> Any:
        import asyncpg

        try:
            connection = url.connection()
        except UnusableURL as error:
            raise _unusable_url(error) from None
        return await asyncpg.connect(
            **connection,
            timeout=connect_seconds,
            command_timeout=command_seconds,
            server_settings={
                "application_name": "ra-gateway ca",
                "lock_timeout": f"{LOCK_SECONDS:.0f}s",
                "idle_in_transaction_session_timeout": f"{2 * command_seconds:.0f}s",
            },
        )

    return connect


def _postgres_engine(connect: _Connector) -> AsyncEngine:
    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args={
            "async_creator_fn": connect,
            "prepared_statement_cache_size": PREPARED_STATEMENTS,
        },
        pool_size=READ_CONNECTIONS + 2,  # the writer's, and one for `read_state`
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        hide_parameters=True,
    )


def _unusable_server(why: str) -> ConfigError:
    return ConfigError.of(
        "ca.ledger",
        f"the PostgreSQL database of the ledger cannot be used: {why}",
        "Run `ra-gateway ca migrate --config FILE` of the newest release in use",
    )


# --- schema ---------------------------------------------------------------------------------------------------


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _require_current(connection: Connection) -> None:
    revision = _revision(connection)
    _require_not_newer(revision, _unusable_server)
    if revision is None:
        raise _unusable_server("it has no tables of a ledger yet")
    if revision != HEAD:
        raise _unusable_server(
            f"its schema {revision} is of an older release, this one needs {HEAD}"
        )


def _require_not_newer(revision: str | None, unusable: Callable[[str], ConfigError]) -> None:
    if revision is not None and revision > HEAD:  # they are numbers of four digits
        raise unusable(f"its schema {revision} was made by a newer release, this one knows {HEAD}")


def _require_or_migrate(connection: Connection, unusable: Callable[[str], ConfigError]) -> None:
    """Migrate to HEAD, inside the transaction of the caller, who holds the database's lock and MIGRATING."""
    revision = _revision(connection)
    _require_not_newer(revision, unusable)
    if revision is None and inspect(connection).has_table("certificates"):
        raise unusable("its tables are not those of this release's ledger")
    if revision != HEAD:
        # Alembic takes a while to load, and is needed once in a release.
        from ra_gateway.ca.ledger.migrations import upgrade

        upgrade(connection)
