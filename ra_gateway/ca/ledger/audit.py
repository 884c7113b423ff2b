"""The audit trail: what was done, each line bound to the one before by its hash.

Lines are appended in the database transaction of the act itself: there is no act without its line, and no line of
an act that did not happen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.sql import AnyRow, Prepared, moment
from ra_gateway.ca.records import AuditEntry

_quoted: Final = json.encoder.encode_basestring_ascii
"""A JSON string of a text; an encoder for whole values would be built anew for each, and take ten times as long."""


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


def canonical_detail(detail: dict[str, str]) -> str:
    """Return facts as JSON with sorted keys and without blanks."""
    return "{" + ",".join(f"{_quoted(k)}:{_quoted(v)}" for k, v in sorted(detail.items())) + "}"


def chained(
    previous: bytes, number: int, at: int, actor: str, action: str, subject: str, detail: str
) -> bytes:
    """Return the hash of a line: SHA-256 over the hash of the one before and the line as a JSON list.

    Args:
        previous: 32 octets; zeros before the first line.
        detail: As stored: JSON with sorted keys and without blanks.
    """
    texts = ",".join(map(_quoted, (actor, action, subject, detail)))
    line = f"[{number},{at},{texts}]"
    return hashlib.sha256(previous + line.encode()).digest()


def entries(connection: Connection, after: int, limit: int) -> list[AuditEntry]:
    """Return lines in their order, those behind line `after`."""
    rows = connection.execute(_ENTRIES, {"after": after, "most": limit})
    return [_entry(row) for row in rows]


def require_writable(connection: Connection) -> None:
    """Return if this transaction could append.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It could not.
    """
    connection.execute(_LOCK_HEAD).one()


def _entry(row: AnyRow) -> AuditEntry:
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
