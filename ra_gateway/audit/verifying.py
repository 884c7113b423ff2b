"""Whether a chain of records is whole: nothing changed, missing, put elsewhere, or cut off at either end.

The database alone cannot show that its newest records were cut off, where whoever did it has set the head back as well:
a head that was noted elsewhere does, as each record does that a stream has carried away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sqlalchemy import Connection, select

from ra_gateway.audit import schema
from ra_gateway.audit.database import AuditDatabase
from ra_gateway.hash_chain import START, chained

REMOVED: Final = "audit.removed"
"""Action of the record that says which ones have left at the beginning, and the hash of the last of them."""

PAGE: Final = 1000
"""Records that are read at a time: half a megabyte."""

MOST_FINDINGS: Final = 100
"""Listed; a trail with more is damaged as a whole."""


class Row(Protocol):
    """A record as it is stored, of this trail or that of the CA's ledger."""

    number: int
    at: int
    actor: str
    action: str
    subject: str
    detail: str
    previous_hash: bytes
    hash: bytes


@dataclass(slots=True)
class Verified:
    """What was found of a trail.

    Args:
        findings: What is wrong, a sentence each.
        first, last: Numbers of the records that are there; 0 for none.
        head: Hash of the last one.
        uncompared: Numbers of noted heads that have left the trail since, with all before them.
    """

    findings: list[str] = field(default_factory=list)
    first: int = 0
    last: int = 0
    head: bytes = START
    uncompared: list[int] = field(default_factory=list)


class ChainCheck:
    """Takes all records of a trail in their order.

    Args:
        noted: Number to hash of heads that were noted elsewhere.
        copied: Whether rows have the columns of `schema.COPIES`, which have to be those of the detail.
    """

    def __init__(self, noted: Mapping[int, bytes], *, copied: bool) -> None:
        self._noted, self._copied = noted, copied
        self._removed: dict[int, str] = {}
        self._before = START
        self.result = Verified()

    def take(self, row: Row) -> None:
        """Take the next record."""
        result, number = self.result, row.number
        previous, hash_ = bytes(row.previous_hash), bytes(row.hash)
        if not result.first:
            result.first, self._before = number, previous
        elif number != result.last + 1:
            self._find(f"records {result.last + 1} to {number - 1} are missing")
        elif previous != result.head:
            self._find(
                f"record {number} does not continue the one before it: one of the two was written anew"
            )
        found = chained(previous, number, row.at, row.actor, row.action, row.subject, row.detail)
        if hash_ != found:
            self._find(f"record {number} was changed: {row.action} of {row.subject!r}")
        if number in self._noted and self._noted[number] != hash_:
            self._find(f"record {number} is another one than the head that was noted")
        result.last, result.head = number, hash_
        self._look_into(row)

    def _look_into(self, row: Row) -> None:
        try:
            detail = json.loads(row.detail)
            if not isinstance(detail, dict):
                raise ValueError("no object")
        except ValueError:
            self._find(f"record {row.number} has a detail that cannot be read")
            return
        if row.action == REMOVED:
            self._removed[int(detail.get("through", "0"))] = str(detail.get("hash", ""))
        if self._copied:
            wrong = [
                name for name, value in schema.copies(detail).items() if getattr(row, name) != value
            ]
            if wrong:
                self._find(
                    f"record {row.number} is found by another {', '.join(wrong)} than it has"
                )

    def end(self, head: tuple[int, bytes] | None) -> Verified:
        """Return what was found.

        Args:
            head: Where the trail ends, by the row that says so; None where it is missing.
        """
        result = self.result
        if result.first > 1:
            if self._removed.get(result.first - 1) != self._before.hex():
                self._find(
                    f"records 1 to {result.first - 1} are missing, and no record says that they were to leave"
                )
        elif result.first == 1 and self._before != START:
            self._find("record 1 is not the first one of its trail")
        if head is None:
            self._find("the row that says where the trail ends is missing")
        elif head[0] > result.last:
            self._find(f"records {result.last + 1} to {head[0]} are missing at the end")
        elif head[0] < result.last:
            self._find(f"the trail should end with record {head[0]}, and does with {result.last}")
        elif head[1] != result.head:
            self._find(f"record {result.last} is not the one that was written last")
        for number in sorted(self._noted):
            if number > result.last:
                self._find(
                    f"the trail ends with record {result.last}, and had record {number} when its head was noted"
                )
            elif number < result.first:
                result.uncompared.append(number)
        return result

    def _find(self, what: str) -> None:
        if len(self.result.findings) < MOST_FINDINGS:
            self.result.findings.append(what)
        elif len(self.result.findings) == MOST_FINDINGS:
            self.result.findings.append("there is more that is wrong than this")


def verify(
    database: AuditDatabase,
    noted: Mapping[int, bytes],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Verified:
    """Return what is wrong with the gateway's trail, all of it read from one state while others go on writing.

    Args:
        progress: Called with the number of the last record that was read, and that of the last there is.

    Raises:
        StoreUnavailable: It cannot be read.
    """

    def read(connection: Connection) -> Verified:
        row = connection.execute(select(schema.head)).first()
        head = None if row is None else (row.number, bytes(row.hash))
        check = ChainCheck(noted, copied=True)
        for rows in pages(connection):
            for item in rows:
                check.take(item)
            progress(check.result.last, check.result.last if head is None else head[0])
        return check.end(head)

    return database.read(read)


def pages(connection: Connection) -> Iterable[Sequence[Any]]:
    """Yield all records in their order, some at a time."""
    r, after = schema.records, 0
    while True:
        statement = select(r).where(r.c.number > after).order_by(r.c.number).limit(PAGE)
        rows = connection.execute(statement).all()
        yield rows
        if len(rows) < PAGE:
            return
        after = rows[-1].number


def verify_rows(
    pages: Iterable[Sequence[Any]], head: tuple[int, bytes] | None, noted: Mapping[int, bytes]
) -> Verified:
    """Return what is wrong with the chain of another trail, such as that of the CA's ledger."""
    check = ChainCheck(noted, copied=False)
    for rows in pages:
        for row in rows:
            check.take(row)
    return check.end(head)
