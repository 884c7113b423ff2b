"""Old records leave the trail: from its beginning on, in their order, and none between others.

In the same transaction a record is appended that says up to which number they have left, and the hash of the last of
them: from there the rest verifies.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, bindparam, delete, func, select

from ra_gateway.audit import appending, schema
from ra_gateway.audit.database import AuditDatabase
from ra_gateway.audit.records import Record
from ra_gateway.audit.verifying import REMOVED

MOST_AT_ONCE: Final = 10_000
"""That leave in one transaction: others wait for the head meanwhile, some 100 ms."""


def remove_older(
    database: AuditDatabase, before_ms: int, *, at_ms: int, actor: str, node: str
) -> int:
    """Have the records leave that are older than a time and have none before them that is not; returns how many.

    Args:
        before_ms: Milliseconds since 1970, UTC.
        actor: Who has it done.

    Raises:
        StoreUnavailable: The database does not answer.
    """

    def remove(connection: Connection) -> int:
        end, _ = appending.lock_head(connection)
        first: int | None = connection.scalar(_FIRST)
        # The last one stays, whatever its age: a trail is never without a record that continues it.
        until = end if first is None else min(end, first + MOST_AT_ONCE)
        if first is None:
            return 0
        stays: int | None = connection.scalar(_FIRST_TO_STAY, {"before": before_ms, "until": until})
        through = (until if stays is None else stays) - 1
        if through < first:
            return 0
        hash_ = connection.scalar(_HASH, {"wanted": through})
        if hash_ is None:  # what is missing is for whoever verifies
            return 0
        detail = {
            "through": str(through),
            "hash": bytes(hash_).hex(),
            "records": str(through - first + 1),
            "node": node,
        }
        appending.append(connection, [Record(at_ms, actor, REMOVED, "", detail)])
        connection.execute(_REMOVE, {"through": through})
        return through - first + 1

    count = 0
    while removed := database.write(remove):
        count += removed
        if removed < MOST_AT_ONCE:
            break
    return count


_r = schema.records.c
_FIRST: Final = select(func.min(_r.number))
_FIRST_TO_STAY: Final = select(func.min(_r.number)).where(
    _r.at >= bindparam("before"), _r.number <= bindparam("until")
)
_HASH: Final = select(_r.hash).where(_r.number == bindparam("wanted"))
_REMOVE: Final = delete(schema.records).where(_r.number <= bindparam("through"))
