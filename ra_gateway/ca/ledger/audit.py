"""The audit trail: what was done, each line bound to the one before by its hash.

Lines are appended in the database transaction of the act itself: there is no act without its line, and no line of
an act that did not happen. A line has all that its act has written, so that `replay` can tell from the lines alone
what every table has to hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Table, bindparam, insert, select, update

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.sql import AnyRow, Prepared, moment
from ra_gateway.ca.records import AuditEntry
from ra_gateway.hash_chain import START, canonical_detail, chained


class Act(NamedTuple):
    """What is to be appended.

    Args:
        at: Seconds since 1970, UTC.
        subject: A serial number in hexadecimal, or a name.
        detail: Facts; no secrets.
    """

    at: int
    actor: str
    action: str
    subject: str
    detail: dict[str, str]


def append(connection: Connection, acts: Sequence[Act]) -> None:
    """Append to the trail, in the order given."""
    if not acts:
        return
    number, previous = connection.execute(_LOCK_HEAD).one()
    rows = []
    for act in acts:
        number += 1
        detail = canonical_detail(act.detail)
        hash_ = chained(previous, number, act.at, act.actor, act.action, act.subject, detail)
        rows.append(
            {
                "number": number,
                "at": act.at,
                "actor": act.actor,
                "action": act.action,
                "subject": act.subject,
                "detail": detail,
                "previous_hash": previous,
                "hash": hash_,
            }
        )
        previous = hash_
    _APPEND.each(connection, rows)
    connection.execute(_MOVE_HEAD, {"to_number": number, "to_hash": previous})


def facts(table: Table, row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row as the facts of a line: column to text, without what names the row, its dates and what is empty."""
    return {
        column.name: _fact(column.name, row[column.name])
        for column in table.columns
        if not (column.primary_key or column.name.endswith("_at"))
        and row[column.name] not in (None, "", "[]")
    }


def _fact(name: str, value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str) and name in _LISTS:
        items, separator = json.loads(value), _LISTS[name]
        if not any(separator in item for item in items):
            return separator.join(items)
    return str(value)


_LISTS: Final = {"names": " ", "privileges": ",", "profiles": ","}
"""Columns with JSON lists, and what stands between their items for people."""


def durable_head(connection: Connection) -> tuple[int, bytes]:
    """Return number and hash of the last line; when this is committed durably, so is that line."""
    number, hash_ = connection.execute(_LOCK_HEAD).one()
    # A transaction that changes nothing would not be flushed.
    connection.execute(_MOVE_HEAD, {"to_number": number, "to_hash": hash_})
    return number, hash_


def hash_of(connection: Connection, number: int) -> bytes | None:
    """Return the hash of a line, None if there is none of this number."""
    if number == 0:
        return START
    found: bytes | None = connection.scalar(select(_audit.c.hash).where(_audit.c.number == number))
    return found


def entries(connection: Connection, after: int, limit: int) -> list[AuditEntry]:
    """Return lines in their order, those behind line `after`."""
    rows = connection.execute(_ENTRIES, {"after": after, "most": limit})
    return [entry(row) for row in rows]


def stored(connection: Connection, after: int, limit: int) -> Sequence[AnyRow]:
    """Return lines as they are stored, those behind line `after`: for whoever checks their hashes."""
    return connection.execute(_ENTRIES, {"after": after, "most": limit}).all()


def newest(
    connection: Connection, before: int, limit: int, subjects: Sequence[str] = ()
) -> Sequence[AnyRow]:
    """Return lines as they are stored, the newest first, those in front of line `before`.

    Args:
        subjects: Of which one the lines are; empty for all.
    """
    statement = select(_audit).where(_audit.c.number < before)
    if subjects:
        statement = statement.where(_audit.c.subject.in_(subjects))
    return connection.execute(statement.order_by(_audit.c.number.desc()).limit(limit)).all()


def head(connection: Connection) -> tuple[int, bytes] | None:
    """Return number and hash of the last line, as the row says that says so; None where it is missing."""
    row = connection.execute(select(_head.c.number, _head.c.hash)).first()
    return None if row is None else (row.number, bytes(row.hash))


def require_writable(connection: Connection) -> None:
    """Check that this transaction could append.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It could not.
    """
    connection.execute(_LOCK_HEAD).one()


def entry(row: AnyRow) -> AuditEntry:
    """Return a row as a line."""
    return AuditEntry(
        number=row.number,
        at=moment(row.at),
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        detail=json.loads(row.detail),
        previous_hash=row.previous_hash,
        hash=row.hash,
    )


_audit, _head = schema.audit, schema.audit_head

# Whoever appends holds the head until the commit: the chain does not fork.
_LOCK_HEAD: Final = select(_head.c.number, _head.c.hash).with_for_update()
_MOVE_HEAD: Final = update(_head).values(number=bindparam("to_number"), hash=bindparam("to_hash"))
_APPEND: Final = Prepared(insert(_audit).inline())
_ENTRIES: Final = (
    select(_audit)
    .where(_audit.c.number > bindparam("after"))
    .order_by(_audit.c.number)
    .limit(bindparam("most"))
)
