"""Storing and confirming what was issued, for all that waits at once.

Each function reads what the database says about a batch, decides in Python, and writes; see `database.py` for why
nothing can come in between. Refusals are results, not exceptions: they leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    Connection,
    SmallInteger,
    bindparam,
    func,
    literal_column,
    null,
    select,
    update,
)

from ra_gateway.ca.ledger import audit, schema
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.operations import (
    OfOperation,
    StoredOperation,
    answer_facts,
    confirmation_digest,
    operation_row,
    resolve,
)
from ra_gateway.ca.ledger.sql import (
    AnyRow,
    Prepared,
    hexadecimal,
    listed,
    seconds,
    seconds_or_none,
)
from ra_gateway.ca.ledger.validity import (
    alive,
    changed,
    duplicate_key,
    ended,
    has_status,
    key_holders,
)
from ra_gateway.ca.records import CertificateStatus, EntityStatus, Operation, Reason
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import (
    CMPError,
    NotAuthorized,
    PKIFailureInfo,
    RequestRefused,
    ServiceFailure,
    StoreUnavailable,
)

_c, _o, _e = schema.certificates.c, schema.operations.c, schema.entities.c


# --- storing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Issued(OfOperation):
    """A certificate that waits to be stored with its answer."""

    certificate: Certificate
    now: datetime
    revoke_superseded: bool


def store_many(connection: Connection, items: Sequence[Issued]) -> list[Operation | Exception]:
    """Store certificates and answers under claims that have none yet.

    Returns:
        For each what is stored: its own operation, or that of who was faster with the same request; or why it
        was not stored.
    """
    claims: dict[bytes, bytes] = dict(
        _OPEN_CLAIMS.among(connection, [item.key for item in items]).all()
    )
    serials = [hexadecimal(item.operation.serial_number) for item in items]
    reserved = {row.serial: row for row in _RESERVED.among(connection, serials)}
    now = seconds(max(item.now for item in items))
    holders = key_holders(
        connection, {row.spki_digest for row in reserved.values() if row.unique_key}, now
    )
    outcomes: list[Operation | Exception | StoredOperation | None] = []
    certificates, answers, acts, renewed = [], [], [], []
    for item in items:
        operation, key = item.operation, item.key
        if claims.get(key) != operation.request_digest:
            outcomes.append(StoredOperation(key))
            continue
        row = reserved.pop(hexadecimal(operation.serial_number), None)
        if row is None:
            outcomes.append(ServiceFailure("the serial number was not reserved", rule="R153"))
            continue
        if row.unique_key:
            # Of two reserved at the same time with one key, the first to come here gets it.
            others = holders.setdefault(row.spki_digest, set())
            if others - {row.entity}:
                outcomes.append(duplicate_key())
                continue
            others.add(row.entity)
        del claims[key]
        answer = operation_row(key, operation)
        answers.append({f"new_{name}": answer[name] for name in ("key", *_ANSWERED)})
        certificates.append(_certificate_row(row.serial, item))
        acts.append(_issue_act(row, item, answer))
        if operation.confirm_by is None:
            renewed += _renewals(item)
        outcomes.append(replace(operation, certificate_der=item.certificate.der))
    if certificates:
        _STORE_ANSWERS.each(connection, answers)
        _STORE_CERTIFICATES.each(connection, certificates)
        acts += _supersede(connection, renewed)
        audit.append(connection, acts)
    return [
        StoreUnavailable("the operation expired before its certificate was stored")
        if outcome is None
        else outcome
        for outcome in resolve(connection, outcomes)
    ]


def _certificate_row(serial: str, item: Issued) -> dict[str, Any]:
    certificate, confirm_by, now = item.certificate, item.operation.confirm_by, seconds(item.now)
    return {
        "of_serial": serial,
        "new_status": "confirmed" if confirm_by is None else "issued",
        "new_fingerprint": certificate.fingerprint,
        "new_der": certificate.der,
        "new_not_before": seconds(certificate.not_before),
        "new_not_after": seconds(certificate.not_after),
        "new_confirm_by": seconds_or_none(confirm_by),
        "now": now,
    }


def _issue_act(row: AnyRow, item: Issued, answer: Mapping[str, Any]) -> Act:
    operation, certificate = item.operation, item.certificate
    detail = {
        "row": str(row.id),
        "entity": row.entity,
        "profile": row.profile,
        "issuer": row.issuer_id,
        "request": BodyType(operation.body_type).name,
        "fingerprint": certificate.fingerprint.hex(),
        "until": str(seconds(certificate.not_after)),
        **answer_facts(answer),
    }
    if row.origin != operation.requester:
        detail["origin"] = row.origin
    if row.vendor:
        detail["vendor"] = row.vendor
    if row.identity:
        detail["identity"] = row.identity
    if operation.confirm_by is not None:
        detail["confirm_by"] = str(seconds(operation.confirm_by))
    if operation.old_serial_number is not None:
        detail["renews"] = hexadecimal(operation.old_serial_number)
        if operation.confirm_by is None:
            detail |= _supersedes(item)
    return Act(seconds(item.now), operation.requester, "issue", row.serial, detail)


def _supersedes(item: Issued | Confirmation) -> dict[str, str]:
    """Say which certificate is replaced without a line of its own; one that is revoked for it gets one."""
    old = item.operation.old_serial_number
    return {} if old is None or item.revoke_superseded else {"supersedes": hexadecimal(old)}


_ANSWERED: Final = (
    "serial",
    "signer_der",
    "old_serial",
    "response_nonce",
    "answer",
    "confirm_by",
    "expires_at",
)
"""Of an operation: what the attempt that is stored may have chosen otherwise than the one that claimed."""

_OPEN_CLAIMS: Final = Prepared(
    select(_o.key, _o.request_digest).where(
        _o.key.in_(listed("these")), func.length(_o.answer) == literal_column("0")
    )
)
_RESERVED: Final = Prepared(
    select(
        _c.id,
        _c.serial,
        _c.entity,
        _c.profile,
        _c.issuer_id,
        _c.spki_digest,
        _c.unique_key,
        _c.origin,
        _c.vendor,
        _c.identity,
    ).where(_c.serial.in_(listed("these")), has_status("reserved"))
)
_STORE_ANSWERS: Final = Prepared(
    update(schema.operations)
    .where(_o.key == bindparam("new_key"))
    .values({name: bindparam(f"new_{name}") for name in _ANSWERED})
)
_STORE_CERTIFICATES: Final = Prepared(
    changed(
        **{name: bindparam(f"new_{name}") for name in ("status", "fingerprint", "der")},
        **{name: bindparam(f"new_{name}") for name in ("not_before", "not_after", "confirm_by")},
        issued_at=bindparam("now"),
    )
)


# --- confirming -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confirmation(OfOperation):
    """A certConf that waits to be stored."""

    accepted: bool
    digest: bytes
    answer: bytes
    now: datetime
    revoke_superseded: bool

    @property
    def renews(self) -> str | None:
        """Serial number of the certificate that is replaced where this one is accepted."""
        old = self.operation.old_serial_number
        return None if old is None or not self.accepted else hexadecimal(old)


def confirm_many(
    connection: Connection, items: Sequence[Confirmation]
) -> list[Operation | Exception | None]:
    """Store that certificates were accepted or rejected, unless that was decided before.

    Returns:
        For each what is stored; None if it is gone; or why the certificate is not to be taken any more.
    """
    serials = [hexadecimal(item.operation.serial_number) for item in items]
    waiting = {row.serial: row for row in _UNCONFIRMED.among(connection, serials)}
    old = {serial for item in items if (serial := item.renews) is not None}
    withdrawn = set(_WITHDRAWN.among(connection, old).scalars()) if old else set()
    outcomes: list[Operation | Exception | StoredOperation | None] = []
    certificates, answers, acts, renewed = [], [], [], []
    for item in items:
        operation, now = item.operation, seconds(item.now)
        serial = hexadecimal(operation.serial_number)
        row = waiting.get(serial)
        if row is None or row.confirm_by < now:
            outcomes.append(StoredOperation(item.key))
            continue
        if item.accepted and (refusal := _not_taken(item, row, withdrawn)) is not None:
            outcomes.append(refusal)
            continue
        del waiting[serial]
        certificates.append(_confirmed_row(serial, item.accepted, now))
        answers.append({"of_key": item.key, "new_digest": item.digest, "new_answer": item.answer})
        action = "confirm" if item.accepted else "reject"
        detail = {"operation": confirmation_digest(item.digest, item.answer)}
        if item.accepted:
            detail |= _supersedes(item)
        acts.append(Act(now, operation.requester, action, serial, detail))
        if item.accepted:
            renewed += _renewals(item)
        outcomes.append(replace(operation, confirm_digest=item.digest, confirm_answer=item.answer))
    if certificates:
        _CONFIRM_CERTIFICATES.each(connection, certificates)
        _CONFIRM_OPERATIONS.each(connection, answers)
        acts += _supersede(connection, renewed)
        audit.append(connection, acts)
    return resolve(connection, outcomes)


def _not_taken(item: Confirmation, row: AnyRow, withdrawn: set[str]) -> CMPError | None:
    """Return why a certificate is not for its requester any more; what it was asked with has changed meanwhile."""
    if row.entity_status == EntityStatus.blocked:
        return NotAuthorized(f"the end entity {row.entity} is blocked", rule="R58")
    if item.renews in withdrawn:
        return RequestRefused(
            f"the certificate that is renewed, {item.renews}, was revoked meanwhile",
            fail_info=PKIFailureInfo.certRevoked,
            rule="R69",
        )
    return None


def _confirmed_row(serial: str, accepted: bool, now: int) -> dict[str, Any]:
    return {
        "of_serial": serial,
        "new_status": "confirmed" if accepted else "rejected",
        "new_reason": None if accepted else int(Reason.cessationOfOperation),
        "new_revoked_at": None if accepted else now,
        "now": now,
    }


_UNCONFIRMED: Final = Prepared(
    select(_c.serial, _c.confirm_by, _c.entity, _e.status.label("entity_status"))
    .outerjoin(schema.entities, _e.name == _c.entity)
    .where(_c.serial.in_(listed("these")), has_status("issued"))
)
_WITHDRAWN: Final = Prepared(
    select(_c.serial).where(
        _c.serial.in_(listed("these")),
        has_status("revoked"),
        # What another renewal replaced says nothing against this one.
        _c.reason != literal_column(str(int(Reason.superseded))),
    )
)
_CONFIRM_CERTIFICATES: Final = Prepared(
    changed(
        status=bindparam("new_status"),
        # One that was on hold stays known as released: delta CRLs have to show that.
        reason=func.coalesce(bindparam("new_reason", type_=SmallInteger), _c.reason),
        revoked_at=bindparam("new_revoked_at"),
        confirm_by=null(),
    )
)
_CONFIRM_OPERATIONS: Final = Prepared(
    update(schema.operations)
    .where(_o.key == bindparam("of_key"))
    .values(confirm_digest=bindparam("new_digest"), confirm_answer=bindparam("new_answer"))
)


# --- renewing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Renewal:
    """A certificate whose successor was accepted."""

    old_serial: str
    actor: str
    at: int
    revoke: bool


def _renewals(item: Issued | Confirmation) -> list[_Renewal]:
    operation = item.operation
    if operation.old_serial_number is None:
        return []
    old_serial = hexadecimal(operation.old_serial_number)
    return [_Renewal(old_serial, operation.requester, seconds(item.now), item.revoke_superseded)]


def _supersede(connection: Connection, renewals: Sequence[_Renewal]) -> list[Act]:
    """Mark renewed certificates as superseded, or revoke them; return what the audit trail is to say."""
    kept = [renewal for renewal in renewals if not renewal.revoke]
    if kept:
        rows = [{"of_serial": renewal.old_serial, "now": renewal.at} for renewal in kept]
        _SUPERSEDE.each(connection, rows)
    revoked = {renewal.old_serial: renewal for renewal in renewals if renewal.revoke}
    if not revoked:
        return []
    now = max(renewal.at for renewal in revoked.values())
    living = _LIVING.among(connection, revoked, now=now).scalars().all()
    if not living:
        return []
    rows = [{"of_serial": serial, "now": revoked[serial].at} for serial in living]
    _REVOKE_SUPERSEDED.each(connection, rows)
    detail = {"reason": Reason.superseded.name}
    return [
        Act(revoked[serial].at, revoked[serial].actor, "revoke", serial, detail)
        for serial in living
    ]


_LIVING: Final = Prepared(
    select(_c.serial).where(_c.serial.in_(listed("these")), alive(bindparam("now")))
)
_SUPERSEDE: Final = Prepared(
    changed(status=literal_column("'superseded'"), confirm_by=null()).where(alive(bindparam("now")))
)
_REVOKE_SUPERSEDED: Final = Prepared(ended(CertificateStatus.revoked, Reason.superseded))
