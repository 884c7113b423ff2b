"""Which certificates count as valid, and whose keys they hold."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    case,
    false,
    literal_column,
    null,
    select,
    true,
    update,
)

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.sql import AnyRow, Prepared, listed, moment_or_none
from ra_gateway.ca.records import CertificateStatus, Reason
from ra_gateway.errors import PKIFailureInfo, RequestRefused

_c = schema.certificates.c


def alive(at: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a certificate counts as valid at a moment (seconds) and has not expired.

    One that was not confirmed in time does not, whether or not the sweep came by. This is written as CASE because
    SQLite would take the index by status for anything simpler, and so read half the ledger.
    """
    confirmed = case(
        (_c.status == literal_column("'issued'"), _c.confirm_by >= at),
        (_c.status == literal_column("'confirmed'"), true()),
        (_c.status == literal_column("'superseded'"), true()),
        else_=false(),
    )
    return and_(confirmed, _c.not_after >= at)


def living_or_held(at: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a certificate is `alive`, or was when it was put on hold: it may come back."""
    return case((_c.held_from.is_not(None), _c.not_after >= at), else_=alive(at))


def standing(row: AnyRow, now: int) -> tuple[CertificateStatus, datetime | None, Reason | None]:
    """Return status, time and reason of revocation of a row at a moment: the sweep may not have come by."""
    status, revoked_at, reason = row.status, row.revoked_at, row.reason
    if status == CertificateStatus.issued and (row.confirm_by or 0) < now:
        status, revoked_at = CertificateStatus.rejected, row.confirm_by
        reason = Reason.cessationOfOperation
    gone = revoked_at is not None
    return CertificateStatus(status), moment_or_none(revoked_at), Reason(reason) if gone else None


def changed(**values: Any) -> Update:
    """Return the statement that changes columns of a certificate (`of_serial`) at a moment (`now`)."""
    statement = update(schema.certificates).where(_c.serial == bindparam("of_serial"))
    return statement.values(**values, changed_at=bindparam("now"))


def ended(status: CertificateStatus, reason: Reason) -> Update:
    """Return the statement after which a certificate (`of_serial`) does not count any more, from `now` on."""
    return changed(
        status=literal_column(f"'{status}'"),
        reason=literal_column(str(int(reason))),
        revoked_at=bindparam("now"),
        confirm_by=null(),
    )


def has_status(status: str) -> ColumnElement[bool]:
    """Return the condition that a certificate has a status, where something else finds it; see `alive`."""
    return case((_c.status == literal_column(f"'{status}'"), true()), else_=false())


def key_holders(
    connection: Connection, digests: Iterable[bytes], now: int
) -> dict[bytes, set[str]]:
    """Return for each key (SHA-256) the end entities that hold living certificates of it."""
    wanted = list(digests)
    holders: dict[bytes, set[str]] = {}
    if wanted:
        for digest, name in _KEY_HOLDERS.among(connection, wanted, now=now):
            holders.setdefault(digest, set()).add(name)
    return holders


def duplicate_key() -> RequestRefused:
    """Return the refusal of a key that is another end entity's."""
    return RequestRefused(
        "another end entity holds a valid certificate for this key",
        fail_info=PKIFailureInfo.duplicateCertReq,
        rule="R62",
    )


_KEY_HOLDERS: Final = Prepared(
    select(_c.spki_digest, _c.entity)
    .where(_c.spki_digest.in_(listed("these")), living_or_held(bindparam("now")))
    .distinct()
)
