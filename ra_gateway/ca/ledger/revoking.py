"""Revoking, releasing, sweeping, and what a CRL has to show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from ra_gateway.ca.ledger import audit, schema
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.operations import (
    INSERT_OPERATIONS,
    answer_facts,
    delete_operations,
    operation_row,
    operations,
)
from ra_gateway.ca.ledger.sql import (
    AnyRow,
    hexadecimal,
    listed,
    moment,
    operation_key,
    padded,
    seconds,
)
from ra_gateway.ca.records import (
    CertificateStatus,
    Operation,
    Reason,
    Revocation,
    RevokedCertificate,
    StoredCRL,
)
from ra_gateway.errors import CMPError, PKIFailureInfo, RequestRefused

SWEEP_ROWS: Final = 1000
"""Changed in one transaction, which issuances wait for: some 10 ms."""

_c, _o, _l = schema.certificates.c, schema.operations.c, schema.crls.c


# --- revoking -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Revoking:
    """A revocation that waits to be stored, with its answer where it was asked for by CMP."""

    revocation: Revocation
    operation: Operation | None
    now: datetime

    @property
    def key(self) -> bytes | None:
        """What finds the operation."""
        if self.operation is None:
            return None
        return operation_key(self.operation.requester, self.operation.transaction_id)


@dataclass(slots=True)
class _Certificate:
    """A row of the batch, as it stands after the items before."""

    status: str
    issuer_id: str
    confirm_by: int | None
    revoked_at: int | None
    reason: int | None
    held_from: str | None


def revoke_many(
    connection: Connection, items: Sequence[Revoking]
) -> list[Operation | Exception | None]:
    """Revoke certificates, or release them from hold.

    Returns:
        For each the operation as stored, None where there is none; or why it is refused.
    """
    serials = padded(hexadecimal(item.revocation.serial_number) for item in items)
    found = {
        row[0]: _Certificate(*row[1:])
        for row in connection.execute(_CERTIFICATES, {"serials": serials})
    }
    keys = [item.key for item in items if item.key is not None]
    stored = operations(connection, keys) if keys else {}
    outcomes: list[Operation | Exception | None] = []
    changes = _Changes()
    for item in items:
        before = stored.get(item.key) if item.key is not None else None
        if before is not None and before.expires_at > item.now:
            outcomes.append(before)
            continue
        try:
            changes.certificates.append(_revoke(found, item))
        except CMPError as error:
            outcomes.append(error)
            continue
        answered: dict[str, str] = {}
        if item.operation is not None and item.key is not None:
            if before is not None:
                changes.expired.append(item.key)
            stored[item.key] = item.operation
            row = operation_row(item.key, item.operation)
            changes.operations.append(row)
            answered = {"requester": item.operation.requester, **answer_facts(row)}
        changes.acts.append(_revocation_act(item.revocation, seconds(item.now), answered))
        outcomes.append(item.operation)
    changes.write(connection)
    return outcomes


@dataclass(slots=True)
class _Changes:
    certificates: list[dict[str, Any]] = field(default_factory=list)
    expired: list[bytes] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)

    def write(self, connection: Connection) -> None:
        if self.certificates:
            connection.execute(_CHANGE, self.certificates)
        delete_operations(connection, self.expired)
        if self.operations:
            INSERT_OPERATIONS.each(connection, self.operations)
        audit.append(connection, self.acts)


def _revoke(found: dict[str, _Certificate], item: Revoking) -> dict[str, Any]:
    """Change a row of the batch and return what to write; or raise why it is refused."""
    revocation, now = item.revocation, seconds(item.now)
    serial = hexadecimal(revocation.serial_number)
    row = found.get(serial)
    if row is None or (revocation.issuer_id and revocation.issuer_id != row.issuer_id):
        raise RequestRefused(
            f"no certificate {serial} of this CA", fail_info=PKIFailureInfo.badCertId, rule="R131"
        )
    if revocation.reason is Reason.removeFromCRL:
        _release(row, serial)
    else:
        _require_revocable(row, serial, revocation.reason, now)
        held = revocation.reason is Reason.certificateHold
        row.held_from = row.status if held else None
        row.status, row.revoked_at = "revoked", now
        if not held:
            row.confirm_by = None
    row.reason = int(revocation.reason)
    return {
        "of_serial": serial,
        "now": now,
        "new_status": row.status,
        "new_confirm_by": row.confirm_by,
        "new_revoked_at": row.revoked_at,
        "new_reason": row.reason,
        "new_held_from": row.held_from,
    }


def _release(row: _Certificate, serial: str) -> None:
    if row.status != CertificateStatus.revoked or row.held_from is None:
        raise RequestRefused(
            f"certificate {serial} is not on hold", fail_info=PKIFailureInfo.badRequest, rule="R129"
        )
    row.status, row.held_from, row.revoked_at = row.held_from, None, None


def _require_revocable(row: _Certificate, serial: str, reason: Reason, now: int) -> None:
    held = row.held_from is not None
    lapsed = row.status == "issued" and (row.confirm_by or 0) < now
    if lapsed or row.status == "rejected" or (row.status == "revoked" and not held):
        raise RequestRefused(
            f"certificate {serial} is {'rejected' if lapsed else row.status} already",
            fail_info=PKIFailureInfo.certRevoked,
            rule="R129",
        )
    if held and reason is Reason.certificateHold:
        raise RequestRefused(
            f"certificate {serial} is on hold already",
            fail_info=PKIFailureInfo.certRevoked,
            rule="R129",
        )


def _revocation_act(revocation: Revocation, now: int, answered: dict[str, str]) -> Act:
    released = revocation.reason is Reason.removeFromCRL
    return Act(
        now,
        revocation.actor,
        "release" if released else "revoke",
        hexadecimal(revocation.serial_number),
        answered if released else {"reason": revocation.reason.name, **answered},
    )


_CERTIFICATES: Final = select(
    _c.serial, _c.status, _c.issuer_id, _c.confirm_by, _c.revoked_at, _c.reason, _c.held_from
).where(_c.serial.in_(listed("serials")), _c.status != "reserved")
_CHANGE: Final = (
    update(schema.certificates)
    .where(_c.serial == bindparam("of_serial"))
    .values(
        status=bindparam("new_status"),
        confirm_by=bindparam("new_confirm_by"),
        revoked_at=bindparam("new_revoked_at"),
        reason=bindparam("new_reason"),
        held_from=bindparam("new_held_from"),
        changed_at=bindparam("now"),
    )
)


# --- sweeping -------------------------------------------------------------------------------------------------


def reject_lapsed(connection: Connection, now: int) -> list[bytes]:
    """Reject certificates that were not confirmed in time, at most SWEEP_ROWS; return them (DER)."""
    rows = connection.execute(_LAPSED, {"now": now}).all()
    if rows:
        connection.execute(
            _REJECT,
            [{"of_serial": serial, "now": now} for serial, _, _ in rows],
        )
        detail = {"why": "not confirmed in time"}
        audit.append(
            connection,
            [Act(now, requester, "reject", serial, detail) for serial, requester, _ in rows],
        )
    return [der for _, _, der in rows]


def forget_expired(connection: Connection, now: int) -> int:
    """Delete operations that have expired, at most SWEEP_ROWS; return how many."""
    keys = connection.scalars(_EXPIRED, {"now": now}).all()
    delete_operations(connection, keys)
    return len(keys)


_LAPSED: Final = (
    select(_c.serial, _c.requester, _c.der)
    .where(_c.status == "issued", _c.confirm_by < bindparam("now"))
    .limit(SWEEP_ROWS)
)
_REJECT: Final = (
    update(schema.certificates)
    .where(_c.serial == bindparam("of_serial"))
    .values(
        status="rejected",
        reason=int(Reason.cessationOfOperation),
        revoked_at=bindparam("now"),
        confirm_by=None,
        changed_at=bindparam("now"),
    )
)
_EXPIRED: Final = select(_o.key).where(_o.expires_at <= bindparam("now")).limit(SWEEP_ROWS)


# --- CRLs -----------------------------------------------------------------------------------------------------


def revoked(
    connection: Connection, issuer_id: str, at: int, since: int | None
) -> list[RevokedCertificate]:
    """Return what a CRL of that moment shows; a delta only what changed at `since` or later."""
    parameters: dict[str, Any] = {"issuer": issuer_id, "at": at}
    if since is None:
        rows = connection.execute(_REVOKED, parameters)
    else:
        rows = connection.execute(_REVOKED_SINCE, parameters | {"since": since})
    return [
        RevokedCertificate(int(serial, 16), moment(changed if at_ is None else at_), Reason(reason))
        for serial, at_, changed, reason in rows
    ]


def last_change(connection: Connection, issuer_id: str) -> int | None:
    """Return when something last changed that a CRL has to show."""
    changed: int | None = connection.scalar(_LAST_CHANGE, {"issuer": issuer_id})
    return changed


def newest_crl(connection: Connection, issuer_id: str, delta: bool) -> StoredCRL | None:
    """Return the CRL with the highest number, full or delta."""
    row = connection.execute(
        _NEWEST_DELTA if delta else _NEWEST_FULL, {"issuer": issuer_id}
    ).one_or_none()
    return None if row is None else _crl(row)


def _crl(row: AnyRow) -> StoredCRL:
    return StoredCRL(
        issuer_id=row.issuer_id,
        number=row.number,
        base_number=row.base_number,
        this_update=moment(row.this_update),
        next_update=moment(row.next_update),
        der=row.der,
    )


def store_crl(connection: Connection, crl: StoredCRL) -> bool:
    """Store a CRL unless its number is taken."""
    taken = connection.scalar(_CRL_NUMBER, {"issuer": crl.issuer_id, "of_number": crl.number})
    if taken is not None:
        return False
    connection.execute(
        _INSERT_CRL,
        {
            "issuer_id": crl.issuer_id,
            "number": crl.number,
            "base_number": crl.base_number,
            "this_update": seconds(crl.this_update),
            "next_update": seconds(crl.next_update),
            "der": crl.der,
        },
    )
    detail = {
        "number": str(crl.number),
        "until": str(seconds(crl.next_update)),
        "sha256": hashlib.sha256(crl.der).hexdigest(),
    }
    if crl.base_number is not None:
        detail["base"] = str(crl.base_number)
    audit.append(connection, [Act(seconds(crl.this_update), "ca", "crl", crl.issuer_id, detail)])
    return True


def _newest(full: bool) -> Select[Any]:
    return (
        select(schema.crls)
        .where(
            _l.issuer_id == bindparam("issuer"),
            _l.base_number.is_(None) if full else _l.base_number.is_not(None),
        )
        .order_by(_l.number.desc())
        .limit(1)
    )


_ON_CRL: Final = select(_c.serial, _c.revoked_at, _c.changed_at, _c.reason).where(
    _c.issuer_id == bindparam("issuer"),
    _c.reason.is_not(None),  # has an index of its own
    _c.not_after >= bindparam("at"),
)
_REVOKED: Final = _ON_CRL.where(_c.revoked_at.is_not(None))
# Not "later than": what changed within the second of the last CRL may have come after it.
_REVOKED_SINCE: Final = _ON_CRL.where(_c.changed_at >= bindparam("since"))
_LAST_CHANGE: Final = select(func.max(_c.changed_at)).where(
    _c.issuer_id == bindparam("issuer"), _c.reason.is_not(None)
)
_NEWEST_FULL: Final = _newest(True)
_NEWEST_DELTA: Final = _newest(False)
_CRL_NUMBER: Final = select(_l.number).where(
    _l.issuer_id == bindparam("issuer"), _l.number == bindparam("of_number")
)
_INSERT_CRL: Final = insert(schema.crls).inline()
