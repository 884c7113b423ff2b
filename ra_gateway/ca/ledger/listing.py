"""Certificates as a list for people: the newest first, and without the certificates themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select, true

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.sql import AnyRow, moment, seconds
from ra_gateway.ca.ledger.validity import alive, living_or_held, standing
from ra_gateway.ca.records import NO_ENTITY, CertificateStatus, Reason

_c = schema.certificates.c


@dataclass(frozen=True, slots=True)
class Listed:
    """One certificate of a list.

    Args:
        serial: Hexadecimal.
        vendor, identity: Whose the device is, and what its vendor calls it.
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
    vendor: str
    identity: str


async def newest(
    ledger: Ledger,
    now: datetime,
    *,
    limit: int,
    entity: str = "",
    status: CertificateStatus | None = None,
    expires_within_days: int | None = None,
) -> list[Listed]:
    """Return certificates, the newest first.

    Args:
        now: Aware UTC: what should have been confirmed by then counts as rejected.
        limit: How many at most.
        entity: Only those of this end entity.
        status: Only those that have it.
        expires_within_days: Only those that count as valid, expire so soon, and were not followed by another one of
            their end entity's and profile; then the soonest first.

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
            _c.vendor,
            _c.identity,
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
            true() if expires_within_days is None else _expiring(expires_within_days, now),
        )
        .order_by(_c.id.desc() if expires_within_days is None else _c.not_after)
        .limit(limit)
    )
    rows = await ledger.database.read(lambda connection: connection.execute(statement).all())
    return [_listed(row, seconds(now)) for row in rows]


async def held_by(ledger: Ledger, entity: str, now: datetime, *, even_on_hold: bool) -> list[str]:
    """Return the serial numbers of all certificates of an end entity that count as valid.

    Args:
        even_on_hold: Those too that may be released.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    holds = living_or_held if even_on_hold else alive
    statement = select(_c.serial).where(_c.entity == entity, holds(literal(seconds(now))))
    return await ledger.database.read(
        lambda connection: list(connection.scalars(statement.order_by(_c.id)))
    )


def _expiring(days: int, now: datetime) -> ColumnElement[bool]:
    """Valid, to expire within some days, and the last of its kind that its end entity has."""
    until = seconds(now + timedelta(days=days))
    later = schema.certificates.alias()
    followed = select(later.c.id).where(
        later.c.entity == _c.entity,
        later.c.id > _c.id,
        later.c.profile == _c.profile,
        later.c.status == CertificateStatus.confirmed,
        later.c.not_after > until,
    )
    return and_(
        alive(literal(seconds(now))),
        _c.status != CertificateStatus.superseded,
        _c.not_after <= until,
        or_(_c.entity == NO_ENTITY, ~exists(followed)),
    )


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
        vendor=row.vendor,
        identity=row.identity,
    )
