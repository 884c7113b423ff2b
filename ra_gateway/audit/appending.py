"""Appending to the chain of the audit trail, in a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, insert, select, update

from ra_gateway.audit import schema
from ra_gateway.audit.records import Record
from ra_gateway.hash_chain import canonical_detail, chained


def lock_head(connection: Connection) -> tuple[int, bytes]:
    """Return number and hash of the last record; until the end of this transaction nobody else appends."""
    number, hash_ = connection.execute(_LOCK_HEAD).one()
    return number, hash_


def append(connection: Connection, records: Sequence[Record]) -> tuple[list[bytes], int]:
    """Append records in the order given; returns the hash of each, and the number of the last one."""
    number, previous = lock_head(connection)
    rows, hashes = [], []
    for record in records:
        number += 1
        detail = canonical_detail(record.detail)
        hash_ = chained(
            previous, number, record.at, record.actor, record.action, record.subject, detail
        )
        rows.append(
            {
                "number": number,
                "at": record.at,
                "actor": record.actor,
                "action": record.action,
                "subject": record.subject,
                "detail": detail,
                "previous_hash": previous,
                "hash": hash_,
                **schema.copies(record.detail),
            }
        )
        hashes.append(hash_)
        previous = hash_
    if rows:
        connection.execute(_APPEND, rows)
        connection.execute(_MOVE_HEAD, {"to_number": number, "to_hash": previous})
    return hashes, number


def has(connection: Connection, number: int, hash_: bytes) -> bool:
    """Tell whether a record is in the trail."""
    found = connection.scalar(_HASH, {"wanted": number})
    return found is not None and bytes(found) == hash_


_head, _r = schema.head.c, schema.records.c
_LOCK_HEAD: Final = select(_head.number, _head.hash).with_for_update()
_MOVE_HEAD: Final = update(schema.head).values(
    number=bindparam("to_number"), hash=bindparam("to_hash")
)
_APPEND: Final = insert(schema.records).inline()
_HASH: Final = select(_r.hash).where(_r.number == bindparam("wanted"))
