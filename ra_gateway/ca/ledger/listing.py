"""Certificates as a list for people: the newest first, and without the certificates themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, or_, select, true

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.sql import AnyRow, moment, seconds
from ra_gateway.ca.ledger.validity import standing
from ra_gateway.ca.records import CertificateStatus, Reason

_c = schema.certificates.c


@dataclass(frozen=True, slots=True)
class Listed:
    """One certificate of a list.

    Args:
        serial: Hexadecimal.
        not_before, not_after, revoked_at: Aware UTC.
    """

    serial: str
    status: CertificateStatus
    entity: str
    profile: str
    requester: str
    not_before: datetime
    not_after: datetime
    revoked_at: datetime | None
    reason: Reason | None


async def newest(
    ledger: Ledger,
    now: datetime,
    *,
    limit: int,
    entity: str = "",
    status: CertificateStatus | None = None,
) -> list[Listed]:
    """Return the newest certificates.

    Args:
        now: Aware UTC: what should have been confirmed by then counts as rejected.
        limit: How many at most.
        entity: Only those of this end entity.
        status: Only those that have it.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    statement = (
        select(
            _c.serial,
            _c.status,
            _c.entity,
            _c.profile,
            _c.requester,
            _c.not_before,
            _c.not_after,
            _c.revoked_at,
            _c.reason,
            _c.confirm_by,
        )
        .where(
            _c.der.is_not(None),
            _c.entity == entity if entity else true(),
            true() if status is None else _has(status, now),
        )
        .order_by(_c.id.desc())
        .limit(limit)
    )
    rows = await ledger.database.read(lambda connection: connection.execute(statement).all())
    return [_listed(row, seconds(now)) for row in rows]


def _lapsed(now: datetime) -> ColumnElement[bool]:
    """Not confirmed in time, and the sweep has not come by."""
    return and_(
        _c.status == CertificateStatus.issued, func.coalesce(_c.confirm_by, 0) < seconds(now)
    )


def _has(status: CertificateStatus, now: datetime) -> ColumnElement[bool]:
    if status is CertificateStatus.rejected:
        return or_(_c.status == status, _lapsed(now))
    if status is CertificateStatus.issued:
        return and_(_c.status == status, ~_lapsed(now))
    return _c.status == status


def _listed(row: AnyRow, now: int) -> Listed:
    status, revoked_at, reason = standing(row, now)
    return Listed(
        serial=row.serial,
        status=status,
        entity=row.entity,
        profile=row.profile,
        requester=row.requester,
        not_before=moment(row.not_before),
        not_after=moment(row.not_after),
        revoked_at=revoked_at,
        reason=reason,
    )
