"""The trails of a configuration read as one: the gateway's, and that of the bundled CA's ledger.

Each stays where it is: the ledger's is written in the transaction of each act, and proves its tables. Here they are
merged by time, in one form.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ra_gateway.app.audit_acts import audit_database
from ra_gateway.audit import searching, verifying
from ra_gateway.audit.searching import Found, Query
from ra_gateway.audit.verifying import Verified
from ra_gateway.config.audit_tables import AuditConfig
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.reading import is_of_ca_alone, load, load_ca
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ra_gateway.audit.database import AuditDatabase
    from ra_gateway.ca.ledger.ledger import Ledger

T = TypeVar("T")

GATEWAY: Final = "gateway"
CA: Final = "ca"

_BEHIND_ALL: Final = 1 << 62
_MOST_SERIALS: Final = 100
"""Of a transaction, by which the CA's lines of it are found."""


class LedgerTrail:
    """The trail of a ledger, for a caller without an event loop.

    Args:
        runner: Runs what the ledger does.
    """

    def __init__(self, ledger: Ledger, runner: asyncio.Runner) -> None:
        self._ledger, self._runner = ledger, runner

    def _read(self, function: Callable[[Any], T]) -> T:
        return self._runner.run(self._ledger.database.read(function))

    def pages(self) -> Iterator[Sequence[Any]]:
        """Yield all lines as they are stored, in their order, some at a time."""
        from ra_gateway.ca.ledger import audit

        after = 0
        while rows := self._read(lambda c, after=after: audit.stored(c, after, verifying.PAGE)):  # type: ignore[misc]
            yield rows
            after = rows[-1].number

    def verify(self) -> Verified:
        """Return what is wrong with its chain; `ca verify` compares it with the tables, too."""
        from ra_gateway.ca.ledger import audit

        def pages(connection: Connection) -> Iterator[Sequence[Any]]:
            after = 0
            while rows := audit.stored(connection, after, verifying.PAGE):
                yield rows
                after = rows[-1].number

        def work(connection: Connection) -> Verified:
            return verifying.verify_rows(pages(connection), audit.head(connection), {})

        return self._runner.run(self._ledger.database.read_state(work))

    def oldest_first(self, query: Query) -> Iterator[Found]:
        """Yield what fits, in the order of the trail."""
        for rows in self.pages():
            for row in rows:
                if (found := _found(row)).fits(query):
                    yield found

    def newest_first(self, query: Query, serials: Sequence[str]) -> Iterator[Found]:
        """Yield what fits, the newest first.

        Args:
            serials: Of the certificates of the transaction that is asked for.
        """
        from ra_gateway.ca.ledger import audit

        if query.transaction_id:
            if not serials:
                return
            query = query._replace(transaction_id="")
        subjects = list(serials) or ([query.serial] if query.serial else [])
        before = _BEHIND_ALL
        while True:
            rows = self._read(
                lambda c, before=before: audit.newest(c, before, searching.PAGE, subjects)  # type: ignore[misc]
            )
            for row in rows:
                found = _found(row)
                if query.since is not None and found.at < query.since - _CLOCKS_MS:
                    return
                if found.fits(query):
                    yield found
            if len(rows) < searching.PAGE:
                return
            before = rows[-1].number


_CLOCKS_MS: Final = 3_600_000
"""By how much the clocks of hosts that write one trail differ, at most: lines are in the order of their numbers."""


def _found(row: Any) -> Found:
    return Found(
        CA,
        row.number,
        row.at * 1000,
        row.actor,
        row.action,
        row.subject,
        json.loads(row.detail),
        bytes(row.hash),
    )


class Trails:
    """All trails of a configuration.

    Args:
        gateway: The gateway's; None without one.
        ledger: The ledger's; None without one.
    """

    def __init__(self, gateway: AuditDatabase | None, ledger: LedgerTrail | None) -> None:
        self._gateway, self._ledger = gateway, ledger

    def verify(
        self, noted: Mapping[int, bytes], progress: Callable[[int, int], None]
    ) -> dict[str, Verified]:
        """Return what is wrong with each, by its name.

        Args:
            noted: Heads of the gateway's trail that were noted elsewhere.
        """
        found = {}
        if self._gateway is not None:
            found[GATEWAY] = verifying.verify(self._gateway, noted, progress)
        if self._ledger is not None:
            found[CA] = self._ledger.verify()
        return found

    def search(self, query: Query, limit: int) -> list[Found]:
        """Return the newest records that fit, the oldest of them first."""
        of_gateway: list[Found] = []
        if self._gateway is not None:
            found = searching.search(self._gateway, query, newest_first=True)
            of_gateway = list(islice(found, limit))
        of_ca: Iterable[Found] = ()
        if self._ledger is not None:
            serials: list[str] = []
            if query.transaction_id:
                serials = [item.detail.get("serial_number", "") for item in of_gateway]
                serials = sorted({*serials} - {""})[:_MOST_SERIALS]
            of_ca = islice(self._ledger.newest_first(query, serials), limit)
        together = sorted([*of_gateway, *of_ca], key=_when)
        return together[-limit:]

    def export(self, query: Query) -> Iterator[Found]:
        """Yield all records that fit in the order of time, read page by page."""
        found: list[Iterator[Found]] = []
        if self._gateway is not None:
            found.append(searching.search(self._gateway, query, newest_first=False))
        if self._ledger is not None:
            found.append(self._ledger.oldest_first(query))
        return merge(*found, key=_when)


def _when(item: Found) -> tuple[int, str, int]:
    return item.at, item.trail, item.number


def tables(source: Source) -> tuple[AuditConfig | None, CAConfig | None]:
    """Return what a configuration says of its trail, and of its bundled CA.

    Raises:
        ConfigError: It cannot be used.
    """
    if is_of_ca_alone(source):
        ca_alone = load_ca(source)
        return ca_alone.audit, ca_alone.ca
    config = load(source)
    return config.audit, config.ca


@contextmanager
def trails(source: Source, which: str = "") -> Iterator[Trails]:
    """Open the trails of a configuration, to read them.

    Args:
        which: "gateway" or "ca"; "" for all there are.

    Raises:
        ConfigError: There is none, or it cannot be used.
        StoreUnavailable: It cannot be read.
    """
    audit, ca = tables(source)
    if which == CA:
        audit = None
    if which == GATEWAY:
        ca = None
    if audit is None and ca is None:
        raise ConfigError.of(
            "audit",
            "is missing: no trail is kept",
            'Add the table, with sqlite_path = "audit.sqlite"',
        )
    database = None if audit is None else audit_database(audit, reads_only=True)
    with asyncio.Runner() as runner:
        ledger = None
        if ca is not None:
            from ra_gateway.app.ledger import ca_ledger

            ledger = ca_ledger(ca)
            runner.run(ledger.open())
        try:
            yield Trails(database, None if ledger is None else LedgerTrail(ledger, runner))
        finally:
            if ledger is not None:
                runner.run(ledger.close())
            if database is not None:
                database.close()
