"""An inventory in a table of SQLite or PostgreSQL, read for each device; `ra-gateway inventory import` alone writes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Engine,
    NullPool,
    TableClause,
    column,
    create_engine,
    delete,
    func,
    insert,
    not_,
    select,
    union_all,
)
from sqlalchemy import table as sql_table
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ra_gateway.cmp.identity import identity_key
from ra_gateway.cmp.names import spellings, split_general_names
from ra_gateway.errors import ConfigError, Problem, StoreUnavailable, printable
from ra_gateway.files import read_bounded
from ra_gateway.postgres_url import UnusableURL, usable_postgres_url
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.stores.inventory import COLUMNS, Listed, uncertifiable
from ra_gateway.stores.rows import refuse

T = TypeVar("T")

_SETTING: Final = "inventory.sql"

_MOST_CHARACTERS: Final = 16_384
"""Of a value, as in a line of a file."""

_MOST_OCTETS: Final = 1_000_000
"""Of a row or a statement in SQLite: it refuses larger ones, and does not make them first."""

_STEPS: Final = 10_000
"""Of SQLite's virtual machine between two looks at the time: some tenths of a millisecond."""

_WRITE_SECONDS: Final = 300.0
"""For a whole list."""

_ENABLED: Final[Mapping[object, bool]] = {True: True, False: False, "true": True, "false": False}
"""By what databases have: a boolean, 1 and 0 (which are equal to it), or a text."""


class SQLInventory:
    """Looks each device up in a table; what cannot be read, or is not clear, admits nobody.

    Args:
        table: Its name, with its schema before a dot where it needs one.
        sqlite_path: File of SQLite; None for PostgreSQL.
        url_path: File that holds the URL of a PostgreSQL database.
        timeout_seconds: To look a device up.
        max_connections: To PostgreSQL.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(
        self,
        *,
        table: str,
        sqlite_path: Path | None,
        url_path: Path | None,
        timeout_seconds: float,
        max_connections: int,
    ) -> None:
        self.name = f"table {table}"
        """What it is called in texts: without user and password."""
        self._timeout_seconds = timeout_seconds
        schema, _, name = table.rpartition(".")
        self._table: TableClause = sql_table(name, *map(column, COLUMNS), schema=schema or None)
        self._errors: tuple[type[Exception], ...] = (SQLAlchemyError, UnusableURL, OSError)
        self._engine: Engine | AsyncEngine
        if sqlite_path is not None:
            self._engine = _sqlite(sqlite_path, timeout_seconds)
        else:
            import asyncpg  # the extra `postgres`

            # What fails while a connection is made comes as it is.
            self._errors += (asyncpg.PostgresError, asyncpg.InterfaceError)
            assert url_path is not None  # the configuration has one of the two
            self._engine = _postgres(url_path, timeout_seconds, max_connections)

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        """Return the entry of a device, or None if it is not listed.

        Raises:
            StoreUnavailable: Nobody can say: no answer in time, two rows, or one that cannot be used.
        """
        query = self.query(domain, identity)
        rows = await self._read(lambda connection: connection.execute(query).all())
        if not rows:
            return None
        try:
            if len(rows) > 1:
                raise ValueError("there are two rows")
            entry = _entry(rows[0])
            if (what := uncertifiable(entry)) is not None:
                raise ValueError(what)
        except ValueError as error:
            raise StoreUnavailable(
                f"the inventory's {self.name}, of {identity[:80]} of {domain}: {error}"
            ) from None
        return entry

    def query(self, domain: str, identity: str) -> CompoundSelect[Any]:
        """Return what finds the rows of a device: each once, two at most."""
        columns = self._table.c
        # Devices of other RAs and shared secrets are known by their subjects.
        keys = [*map(identity_key, spellings(identity) if ":" in domain else (identity,))]
        of_vendor = select(columns.subject, columns.san, columns.enabled).where(
            columns.domain == domain
        )
        # One after the other: for an OR of both, SQLite takes no index, and reads all devices of the vendor.
        in_lower_case, as_it_is = func.lower(columns.identity).in_(keys), columns.identity.in_(keys)
        return union_all(
            of_vendor.where(in_lower_case), of_vendor.where(as_it_is, not_(in_lower_case))
        ).limit(2)

    async def look(self) -> None:
        """Check that the table can be read now.

        Raises:
            StoreUnavailable: It cannot.
        """
        query = select(*self._table.c).limit(1)
        await self._read(lambda connection: connection.execute(query).all())

    async def listed(self, progress: Callable[[int, int], None]) -> list[Listed]:
        """Return all devices.

        Raises:
            StoreUnavailable: The table cannot be read.
            ConfigError: Some of its rows cannot be used.
        """
        return await self._run(lambda connection: self._all(connection, progress), _WRITE_SECONDS)

    async def change(
        self, planned: Callable[[list[Listed]], Mapping[tuple[str, str], Listed]]
    ) -> None:
        """Have the table list other devices, all of them or none.

        Args:
            planned: Returns them by `Listed.key`, out of those that are listed.

        Raises:
            StoreUnavailable: The table cannot be read or written.
            ConfigError: Some of its rows cannot be used, or as `planned`.
        """

        def write(connection: Connection) -> None:
            before = {item.key: item for item in self._all(connection, lambda _done, _total: None)}
            after, columns = planned(list(before.values())), self._table.c
            for key, old in before.items():
                new = after.get(key)
                if new is None or new.entry != old.entry:
                    where = (columns.domain == old.domain, columns.identity == old.identity)
                    connection.execute(delete(self._table).where(*where))
            rows = [
                _row(new)
                for key, new in after.items()
                if key not in before or before[key].entry != new.entry
            ]
            if rows:
                connection.execute(insert(self._table), rows)

        await self._run(write, _WRITE_SECONDS, writes=True)

    async def close(self) -> None:
        """Close the connections."""
        if isinstance(self._engine, AsyncEngine):
            await self._engine.dispose()
        else:
            self._engine.dispose()

    def _all(self, connection: Connection, progress: Callable[[int, int], None]) -> list[Listed]:
        rows = connection.execute(select(*self._table.c)).all()
        found: dict[tuple[str, str], Listed] = {}
        problems: list[Problem] = []
        for number, row in enumerate(rows, 1):
            where = f"{self.name}:row {number}"
            try:
                domain, identity = _name(row.domain, "domain"), _name(row.identity, "identity")
                where = f"{self.name}:{identity[:80]} of {domain[:80]}"
                entry = _entry(row)
                item = Listed(where, f"{identity} of {domain}", domain, identity, entry)
                what = uncertifiable(entry)
                if what is None and item.key in found:
                    what = "is listed twice, as case and blanks make no difference"
                if what is None and item.key[1] not in (identity, identity.lower()):
                    what = f"is found by nobody; write {item.key[1]!r}"
            except ValueError as error:
                what = str(error)
            if what is not None:
                problems.append(Problem(where, what, "Correct the row"))
            else:
                found[item.key] = item
            if number % 500 == 0:
                progress(number, len(rows))
        refuse(problems)
        return list(found.values())

    async def _read(self, function: Callable[[Connection], T]) -> T:
        return await self._run(function, self._timeout_seconds)

    async def _run(
        self, function: Callable[[Connection], T], seconds: float, *, writes: bool = False
    ) -> T:
        """Return what a function does on a connection, in one transaction.

        Raises:
            StoreUnavailable: It cannot, or not in time.
        """
        try:
            async with asyncio.timeout(seconds):
                if isinstance(self._engine, Engine):
                    give_up_at = time.monotonic() + seconds
                    return await asyncio.to_thread(
                        self._run_sqlite, self._engine, function, writes, give_up_at
                    )
                async with self._begun(self._engine, writes) as connection:
                    result: T = await connection.run_sync(function)
                    return result
        except TimeoutError as error:
            raise StoreUnavailable(
                f"the inventory's {self.name} does not answer in time"
            ) from error
        except self._errors as error:
            raise StoreUnavailable(f"the inventory's {self.name}: {_reason(error)}") from error

    @staticmethod
    def _run_sqlite(
        engine: Engine, function: Callable[[Connection], T], writes: bool, give_up_at: float
    ) -> T:
        with engine.connect() as connection:
            # Nothing else ends a thread: a view may have no end, and whoever asked has gone.
            driver = cast(sqlite3.Connection, connection.connection.driver_connection)
            driver.set_progress_handler(lambda: time.monotonic() > give_up_at, _STEPS)
            if not writes:
                connection.exec_driver_sql("PRAGMA query_only = ON")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
            result = function(connection)
            connection.exec_driver_sql("COMMIT")
            return result

    @asynccontextmanager
    async def _begun(self, engine: AsyncEngine, writes: bool) -> AsyncIterator[Any]:
        options = {} if writes else {"postgresql_readonly": True}
        async with engine.connect() as connection:
            await connection.execution_options(**options)
            async with connection.begin():
                yield connection


def _sqlite(path: Path, timeout_seconds: float) -> Engine:
    def connect() -> sqlite3.Connection:
        # rw: a file that is not there is not made. No isolation level: the module begins nothing by itself.
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=timeout_seconds,
            isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_OCTETS)
        return connection

    return create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)


def _postgres(path: Path, timeout_seconds: float, max_connections: int) -> AsyncEngine:
    import asyncpg

    url = usable_postgres_url(read_bounded(path).decode("utf-8-sig", "replace").strip())
    if isinstance(url, UnusableURL):
        raise ConfigError.of(f"{_SETTING}.url_path", f"the URL of the database {url}", url.todo)

    async def connect() -> Any:
        return await asyncpg.connect(
            **url.connection(),
            timeout=timeout_seconds,
            server_settings={"application_name": "ra-gateway inventory"},
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"async_creator_fn": connect},
        pool_size=max_connections,
        max_overflow=0,
        pool_timeout=timeout_seconds,
        pool_pre_ping=True,  # a server that was restarted costs no device its answer
        hide_parameters=True,
    )


def _entry(row: Any) -> InventoryEntry:
    """Return what a row says.

    Raises:
        ValueError: It cannot be used.
    """
    subject, san = _text(row.subject, "subject"), _text(row.san, "san")
    enabled = row.enabled.lower() if isinstance(row.enabled, str) else row.enabled
    if not isinstance(enabled, int | str) or enabled not in _ENABLED:
        raise ValueError("enabled is neither true nor false")
    return InventoryEntry(subject, split_general_names(san), _ENABLED[enabled])


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS:
        raise ValueError(f"{name} is no text, or a very long one")
    return value.strip()


def _name(value: object, name: str) -> str:
    """Return what a row is of, as a file may have it."""
    text = _text(value, name)
    if not text.isprintable():
        char = next(char for char in text if not char.isprintable())
        raise ValueError(f"{name} has a character that cannot be seen, {printable(char)}")
    return text


def _row(item: Listed) -> dict[str, object]:
    entry = item.entry
    return {
        "domain": item.domain,
        "identity": item.key[1],
        "subject": entry.subject,
        "san": " ".join(entry.san),
        "enabled": entry.enabled,
    }


def _reason(error: Exception) -> str:
    """Return what the database said, on one line; parameters and statements are not repeated."""
    said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return printable(" ".join(str(said).split()), 200)
