"""When the ledger was backed up last, as its audit trail says."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection, bindparam, func, select

from ra_gateway.ca.ledger import audit, schema
from ra_gateway.ca.ledger.database import write
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.sql import moment_or_none, seconds

BACKUP: Final = "backup"
"""Action of a line of the trail that changes nothing."""

_audit: Final = schema.audit.c
_LAST: Final = (
    select(_audit.at)
    .where(_audit.action == BACKUP, _audit.number > bindparam("after"))
    .order_by(_audit.number.desc())
    .limit(1)
)


class BackedUp(NamedTuple):
    """How far the ledger is safe.

    Args:
        last: When the last backup was complete; None before the first.
        began: When the ledger got its first line; None while it has none.
    """

    last: datetime | None
    began: datetime | None


async def record_backup(
    ledger: Ledger, file: Path, row_count: int, actor: str, now: datetime
) -> None:
    """Write into the trail that a backup is complete; it is not in that backup itself."""
    act = audit.Act(seconds(now), actor, BACKUP, file.name, {"rows": str(row_count)})
    await write(ledger.database, lambda connection: audit.append(connection, [act]))


class Backups:
    """Reads the trail; each line once, however often it is asked."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._looked_at = 0
        self._last: int | None = None

    async def read(self) -> BackedUp:
        """Return what the trail says now.

        Raises:
            StoreUnavailable: The database does not answer.
        """

        def look(connection: Connection) -> tuple[int, int | None, int | None]:
            end = connection.scalar(select(func.max(_audit.number))) or 0
            last = connection.scalar(_LAST, {"after": self._looked_at})
            return end, last, connection.scalar(select(_audit.at).where(_audit.number == 1))

        # In a large trail the first look takes a while.
        end, last, began = await self._ledger.database.read_state(look)
        self._looked_at = end
        self._last = self._last if last is None else last
        return BackedUp(moment_or_none(self._last), moment_or_none(began))
