"""Reserving, storing and confirming, for all that waits at once.

Each function reads what the database says about a batch, decides in Python, and writes; see `database.py` for why
nothing can come in between. Refusals are results, not exceptions: they leave nothing behind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    SmallInteger,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
    update,
)

from ra_gateway.ca.ledger import audit, schema, withholding
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.registry import entity_added
from ra_gateway.ca.ledger.sql import (
    LONGEST_NAME,
    AnyRow,
    Prepared,
    alternative_names,
    directory_name_keys,
    hexadecimal,
    identity_key,
    key_identifier,
    listed,
    moment,
    moment_or_none,
    name_identifiers,
    nameless_name,
    number_or_none,
    operation_key,
    seconds,
    seconds_or_none,
)
from ra_gateway.ca.records import (
    NO_ENTITY,
    EntityStatus,
    Intent,
    Operation,
    Reason,
    Reenroll,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.names import canonical, general_names, rfc4514
from ra_gateway.errors import (
    CMPError,
    NotAuthorized,
    PKIFailureInfo,
    RequestRefused,
    ServiceFailure,
    StoreUnavailable,
    TemplateRefused,
)


class SerialTaken(ServiceFailure):
    """The serial number is in the ledger already; draw another one."""


_c, _o, _e = schema.certificates.c, schema.operations.c, schema.entities.c


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


def _living_or_held(at: ColumnElement[int]) -> ColumnElement[bool]:
    """Return the condition that a certificate is `alive`, or was when it was put on hold: it may come back."""
    return case((_c.held_from.is_not(None), _c.not_after >= at), else_=alive(at))


def _has_status(status: str) -> ColumnElement[bool]:
    """Return the condition that a certificate has a status, where something else finds it; see `alive`."""
    return case((_c.status == literal_column(f"'{status}'"), true()), else_=false())


# --- operations -----------------------------------------------------------------------------------------------


def operations(connection: Connection, keys: Iterable[bytes]) -> dict[bytes, Operation]:
    """Return the operations with these keys, expired ones too."""
    return {row.key: _operation(row) for row in _OPERATIONS.among(connection, keys)}


def _operation(row: AnyRow) -> Operation:
    return Operation(
        requester=row.requester,
        transaction_id=row.transaction_id,
        request_digest=row.request_digest,
        body_type=row.body_type,
        cert_req_id=int(row.cert_req_id),
        response_nonce=row.response_nonce,
        confirm_by=moment_or_none(row.confirm_by),
        expires_at=moment(row.expires_at),
        signer_der=row.signer_der,
        old_serial_number=number_or_none(row.old_serial),
        serial_number=int(row.serial, 16),
        answer=row.answer,
        certificate_der=row.der or b"",
        confirm_digest=row.confirm_digest,
        confirm_answer=row.confirm_answer,
    )


def operation_row(key: bytes, operation: Operation) -> dict[str, Any]:
    """Return an operation as a row."""
    return {
        "key": key,
        "requester": operation.requester,
        "transaction_id": operation.transaction_id,
        "request_digest": operation.request_digest,
        "body_type": int(operation.body_type),
        "cert_req_id": str(operation.cert_req_id),
        "signer_der": operation.signer_der,
        "serial": hexadecimal(operation.serial_number),
        "old_serial": None
        if operation.old_serial_number is None
        else hexadecimal(operation.old_serial_number),
        "response_nonce": operation.response_nonce,
        "answer": operation.answer,
        "confirm_by": seconds_or_none(operation.confirm_by),
        "confirm_digest": operation.confirm_digest,
        "confirm_answer": operation.confirm_answer,
        "expires_at": seconds(operation.expires_at),
    }


def operation_digest(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of an operation as it was answered, which the audit trail has."""
    return _digest(*(row[name] for name in _IN_DIGEST))


def confirmation_digest(digest: bytes, answer: bytes) -> str:
    """Return the SHA-256 (hex) of what a confirmation adds to an operation."""
    return _digest(digest, answer)


def _digest(*values: object) -> str:
    digest = hashlib.sha256()
    for value in values:
        octets = value if isinstance(value, bytes) else str(value).encode()
        digest.update(b"%d:" % len(octets))
        digest.update(octets)
    return digest.hexdigest()


def answer_facts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what the audit trail says of an answered operation."""
    return {
        "transaction_id": row["transaction_id"].hex(),
        "expires": str(row["expires_at"]),
        "operation": operation_digest(row),
    }


_IN_DIGEST: Final = tuple(
    column.name
    for column in schema.operations.columns
    if column.name not in ("confirm_digest", "confirm_answer")
)


def delete_operations(connection: Connection, keys: Sequence[bytes]) -> None:
    """Delete operations, to make room for others with their keys."""
    if keys:
        _DELETE_OPERATIONS.each(connection, [{"of_key": key} for key in keys])


_OPERATIONS: Final = Prepared(
    select(schema.operations, _c.der)
    .outerjoin(schema.certificates, _c.serial == _o.serial)
    .where(_o.key.in_(listed("these")))
)
_DELETE_OPERATIONS: Final = Prepared(delete(schema.operations).where(_o.key == bindparam("of_key")))
INSERT_OPERATIONS: Final = Prepared(insert(schema.operations).inline())


# --- reserving ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reservation:
    """An intent that waits to be stored."""

    operation: Operation
    intent: Intent
    now: datetime

    @cached_property
    def key(self) -> bytes:
        """What finds the operation."""
        return operation_key(self.operation.requester, self.operation.transaction_id)

    @cached_property
    def identity(self) -> bytes:
        """What finds the end entity."""
        return identity_key(self.intent.subject_der, self.intent.san_der)

    @cached_property
    def names(self) -> frozenset[bytes]:
        """What finds whom the names are withheld for."""
        return name_identifiers(self.intent.subject_der, self.intent.san_der)

    @cached_property
    def other_subjects(self) -> frozenset[bytes]:
        """What finds the end entities whose subjects are among its other names."""
        return directory_name_keys(self.intent.san_der)

    @cached_property
    def key_identifier(self) -> bytes:
        """What finds whom the key is withheld for."""
        return key_identifier(self.intent.spki_digest)


def reserve_many(
    connection: Connection, items: Sequence[Reservation]
) -> list[Operation | Exception | None]:
    """Store intents: serial numbers, claims on transactionIDs, and the end entities that are new.

    Returns:
        For each None when the claim is its own; the stored operation, if that has an answer or is another
        request's; or why it is refused.
    """
    reserving = _Reserving(connection, items)
    outcomes: list[Operation | Exception | _Stored | None] = []
    for item in items:
        try:
            outcomes.append(reserving.judge(item))
        except CMPError as error:
            outcomes.append(error)
    reserving.write()
    return _resolve(connection, outcomes)


@dataclass(frozen=True, slots=True)
class _Stored:
    """Stands for the operation with a key, as the batch leaves it."""

    key: bytes


@dataclass(slots=True)
class _Entity:
    name: str
    status: str = EntityStatus.active
    enroll_until: int | None = None
    vendor: str = ""
    profile: str = ""


class _Reserving:
    """What the database says about a batch of intents, and what is to be added."""

    def __init__(self, connection: Connection, items: Sequence[Reservation]) -> None:
        self._connection = connection
        self._now = seconds(max(item.now for item in items))
        self._claims = self._find_claims(items)
        self._serials = self._find_serials(items)
        self._by_name, self._by_subject = self._find_entities(items)
        self._holders = key_holders(
            connection,
            {item.intent.spki_digest for item in items if item.intent.unique_key},
            self._now,
        )
        self._enrolled = self._find_enrolled(items)
        self._withheld = withholding.holders(
            connection,
            {found for item in items for found in (item.key_identifier, *item.names)},
        )
        self._expired: list[bytes] = []
        self._entities: list[dict[str, Any]] = []
        self._acts: list[Act] = []
        self._certificates: list[dict[str, Any]] = []
        self._operations: list[dict[str, Any]] = []

    # What there is.

    def _find_claims(self, items: Sequence[Reservation]) -> dict[bytes, tuple[bytes, bool, int]]:
        rows = _CLAIMS.among(self._connection, [item.key for item in items])
        return {
            key: (digest, answer != b"", expires_at) for key, digest, answer, expires_at in rows
        }

    def _find_serials(self, items: Sequence[Reservation]) -> set[str]:
        wanted = [hexadecimal(item.operation.serial_number) for item in items]
        return set(_SERIALS.among(self._connection, wanted).scalars())

    def _find_entities(
        self, items: Sequence[Reservation]
    ) -> tuple[dict[str, _Entity], dict[bytes, _Entity]]:
        subjects = {item.identity: item for item in items if item.intent.entity is None}
        by_subject: dict[bytes, _Entity] = {}
        wanted = {*subjects, *(key for item in items for key in item.other_subjects)}
        if wanted:
            rows = _ENTITIES_BY_SUBJECT.among(self._connection, wanted)
            by_subject = {row[0]: _Entity(*row[1:]) for row in rows}
        # Also the names that entities which have to be made would get.
        names = {item.intent.entity for item in items if item.intent.entity} | {
            _name_for(item) for key, item in subjects.items() if key not in by_subject
        }
        by_name: dict[str, _Entity] = {}
        if names:
            rows = _ENTITIES_BY_NAME.among(self._connection, names)
            by_name = {row[0]: _Entity(*row) for row in rows}
        return by_name, by_subject

    def _find_enrolled(self, items: Sequence[Reservation]) -> set[str]:
        names = set()
        for item in items:
            if item.intent.enrolls and item.intent.reenroll is not Reenroll.allow:
                entity = self._known(item)
                if entity is not None:
                    names.add(entity.name)
        if not names:
            return set()
        return set(_ENROLLED.among(self._connection, names, now=self._now).scalars())

    def _known(self, item: Reservation) -> _Entity | None:
        if item.intent.entity is None:
            return self._by_subject.get(item.identity)
        return self._by_name.get(item.intent.entity)

    # What becomes of it.

    def judge(self, item: Reservation) -> _Stored | None:
        """Note what an item adds, or raise why it is refused."""
        operation, intent, key = item.operation, item.intent, item.key
        claim = self._claims.get(key)
        now = seconds(item.now)
        if claim is not None and claim[2] > now:
            if claim[1] or claim[0] != operation.request_digest:
                return _Stored(key)
        elif claim is not None:
            self._expired.append(key)
            claim = None
        serial = hexadecimal(operation.serial_number)
        if serial in self._serials:
            raise SerialTaken(f"serial number {serial} is in the ledger already", rule="R153")
        name = self._entity_for(item)
        self._require_unused_key(intent, name)
        # It is accepted; nothing is noted before.
        self._serials.add(serial)
        if intent.unique_key:
            self._holders.setdefault(intent.spki_digest, set()).add(name)
        if claim is None:
            self._claims[key] = (operation.request_digest, False, seconds(operation.expires_at))
            self._operations.append(operation_row(key, operation) | {"answer": b""})
        self._certificates.append(
            {
                "serial": serial,
                "status": "reserved",
                "requester": operation.requester,
                "entity": name,
                "subject_key": item.identity,
                "issuer_id": intent.issuer_id,
                "profile": intent.profile,
                "spki_digest": intent.spki_digest,
                "unique_key": int(intent.unique_key),
                "reserved_at": now,
                "origin": intent.origin or operation.requester,
            }
        )
        return None

    def _entity_for(self, item: Reservation) -> str:
        """Return the name of an item's end entity, which may have the certificate."""
        intent = item.intent
        if intent.entity == NO_ENTITY:
            return NO_ENTITY
        entity = self._known(item)
        if not intent.own:
            self._require_not_withheld(item, entity)
        if entity is None:
            if intent.entity is not None:
                raise NotAuthorized(f"there is no end entity {intent.entity}", rule="R58")
            return self._new_entity(item)
        if entity.status == EntityStatus.blocked:
            raise NotAuthorized(f"the end entity {entity.name} is blocked", rule="R58")
        if intent.on_behalf and entity.vendor:
            _require_served(intent, entity.name, entity.profile)
        if intent.enrolls and entity.name in self._enrolled:
            _require_reenroll(intent, entity, seconds(item.now))
        return entity.name

    def _require_not_withheld(self, item: Reservation, entity: _Entity | None) -> None:
        """Refuse what is the PKI's own, a blocked end entity's under whatever other name, or not an RA's to give."""
        keys = self._withheld.get(item.key_identifier, set())
        names: set[withholding.Holder] = set()
        for found in item.names:
            names |= self._withheld.get(found, set())
        names |= {
            withholding.Holder(other.name, other.status == EntityStatus.blocked, other.profile)
            for key in item.other_subjects
            if (other := self._by_subject.get(key)) is not None
            if other.vendor or other.status == EntityStatus.blocked
        }
        if any(holder.entity == NO_ENTITY for holder in names):
            raise NotAuthorized("a name of an entity of the PKI itself", rule="R67")
        if any(holder.entity == NO_ENTITY for holder in keys):
            raise TemplateRefused("the key is that of an entity of the PKI itself", rule="R62")
        for holder in names | keys:
            if holder.blocked:
                raise NotAuthorized(
                    f"a name or the key of the end entity {holder.entity}, which is blocked",
                    rule="R58",
                )
            own = entity is not None and entity.name == holder.entity
            if item.intent.on_behalf and not own:
                _require_served(item.intent, holder.entity, holder.profile)

    def _new_entity(self, item: Reservation) -> str:
        subject_der, san_der = item.intent.subject_der, item.intent.san_der
        if not canonical(subject_der) and not alternative_names(san_der):
            raise TemplateRefused("neither subject nor SubjectAltName", rule="R51")
        key, name = item.identity, _name_for(item)
        if name in self._by_name:  # an operator's name for somebody else
            name = f"{name[: LONGEST_NAME - 20]} #{key.hex()[:16]}"
        self._require_unused_key(item.intent, name)
        windowed = item.intent.reenroll is Reenroll.window
        until = seconds_or_none(item.intent.enroll_until) if windowed else None
        entity = _Entity(name, enroll_until=until)
        self._by_name[name] = self._by_subject[key] = entity
        self._entities.append(
            {
                "name": name,
                "subject": rfc4514(subject_der),
                "subject_key": key,
                "names": _names_for(item),
                "profile": item.intent.profile,
                "vendor": "",
                "identity": "",
                "status": str(EntityStatus.active),
                "created_by": item.operation.requester,
                "created_at": seconds(item.now),
                "enroll_until": until,
            }
        )
        self._acts.append(entity_added(self._entities[-1], item.operation.requester, item.now))
        return name

    def _require_unused_key(self, intent: Intent, name: str) -> None:
        if intent.unique_key and self._holders.get(intent.spki_digest, set()) - {name}:
            raise duplicate_key()

    def write(self) -> None:
        """Add what was noted."""
        delete_operations(self._connection, self._expired)
        if self._entities:
            _INSERT_ENTITIES.each(self._connection, self._entities)
        if self._certificates:
            _INSERT_CERTIFICATES.each(self._connection, self._certificates)
        if self._operations:
            INSERT_OPERATIONS.each(self._connection, self._operations)
        audit.append(self._connection, self._acts)


def _require_reenroll(intent: Intent, entity: _Entity, now: int) -> None:
    if intent.reenroll is Reenroll.deny:
        raise NotAuthorized(
            f"the end entity {entity.name} holds a valid certificate and may not enrol again",
            rule="R58",
        )
    if intent.reenroll is Reenroll.window and (entity.enroll_until or 0) < now:
        raise NotAuthorized(
            f"the end entity {entity.name} holds a valid certificate, and no window is open for it "
            "to enrol again",
            rule="R58",
        )


def _require_served(intent: Intent, name: str, profile: str) -> None:
    """Let an RA have what is registered for client mode only where its names and profiles say so."""
    if profile not in intent.registered_profiles:
        raise NotAuthorized(
            f"the end entity {name} is registered for client mode; an RA needs a role that names its subject and "
            "its profile",
            rule="R58",
        )


def _name_for(item: Reservation) -> str:
    name = rfc4514(item.intent.subject_der)
    if not name:
        return nameless_name(item.intent.san_der, item.identity)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 20]} #{item.identity.hex()[:16]}"


def _names_for(item: Reservation) -> str:
    """Return what an end entity that is made may be called besides its subject, as JSON."""
    if item.intent.san_der is None or rfc4514(item.intent.subject_der):
        return "[]"
    return json.dumps(general_names(item.intent.san_der))


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


def _resolve(
    connection: Connection, outcomes: Sequence[Operation | Exception | _Stored | None]
) -> list[Operation | Exception | None]:
    """Put stored operations where they are stood for."""
    keys = {outcome.key for outcome in outcomes if isinstance(outcome, _Stored)}
    if not keys:
        return [outcome for outcome in outcomes if not isinstance(outcome, _Stored)]
    found = operations(connection, keys)
    return [
        found.get(outcome.key) if isinstance(outcome, _Stored) else outcome for outcome in outcomes
    ]


_CLAIMS: Final = Prepared(
    select(_o.key, _o.request_digest, _o.answer, _o.expires_at).where(_o.key.in_(listed("these")))
)
_SERIALS: Final = Prepared(select(_c.serial).where(_c.serial.in_(listed("these"))))
_ENTITIES_BY_SUBJECT: Final = Prepared(
    select(_e.subject_key, _e.name, _e.status, _e.enroll_until, _e.vendor, _e.profile).where(
        _e.subject_key.in_(listed("these"))
    )
)
_ENTITIES_BY_NAME: Final = Prepared(
    select(_e.name, _e.status, _e.enroll_until, _e.vendor, _e.profile).where(
        _e.name.in_(listed("these"))
    )
)
_ENROLLED: Final = Prepared(
    select(_c.entity)
    .where(
        _c.entity.in_(listed("these")),
        # One on hold may come back; its device does not get another meanwhile.
        case(
            (_c.status == literal_column("'confirmed'"), true()),
            (_c.held_from == literal_column("'confirmed'"), true()),
            else_=false(),
        ),
        _c.not_after >= bindparam("now"),
    )
    .distinct()
)
_KEY_HOLDERS: Final = Prepared(
    select(_c.spki_digest, _c.entity)
    .where(_c.spki_digest.in_(listed("these")), _living_or_held(bindparam("now")))
    .distinct()
)
_INSERT_ENTITIES: Final = Prepared(insert(schema.entities).inline())
_INSERT_CERTIFICATES: Final = Prepared(insert(schema.certificates).inline())


# --- storing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Issued:
    """A certificate that waits to be stored with its answer."""

    operation: Operation
    certificate: Certificate
    now: datetime
    revoke_superseded: bool

    @cached_property
    def key(self) -> bytes:
        """What finds the operation."""
        return operation_key(self.operation.requester, self.operation.transaction_id)


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
    outcomes: list[Operation | Exception | _Stored | None] = []
    certificates, answers, acts, renewed = [], [], [], []
    for item in items:
        operation, key = item.operation, item.key
        if claims.get(key) != operation.request_digest:
            outcomes.append(_Stored(key))
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
        for outcome in _resolve(connection, outcomes)
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
    ).where(_c.serial.in_(listed("these")), _has_status("reserved"))
)
_STORE_ANSWERS: Final = Prepared(
    update(schema.operations)
    .where(_o.key == bindparam("new_key"))
    .values({name: bindparam(f"new_{name}") for name in _ANSWERED})
)
_STORE_CERTIFICATES: Final = Prepared(
    update(schema.certificates)
    .where(_c.serial == bindparam("of_serial"))
    .values(
        status=bindparam("new_status"),
        fingerprint=bindparam("new_fingerprint"),
        der=bindparam("new_der"),
        not_before=bindparam("new_not_before"),
        not_after=bindparam("new_not_after"),
        confirm_by=bindparam("new_confirm_by"),
        issued_at=bindparam("now"),
        changed_at=bindparam("now"),
    )
)


# --- confirming -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Confirmation:
    """A certConf that waits to be stored."""

    operation: Operation
    accepted: bool
    digest: bytes
    answer: bytes
    now: datetime
    revoke_superseded: bool

    @cached_property
    def key(self) -> bytes:
        """What finds the operation."""
        return operation_key(self.operation.requester, self.operation.transaction_id)

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
    outcomes: list[Operation | Exception | _Stored | None] = []
    certificates, answers, acts, renewed = [], [], [], []
    for item in items:
        operation, now = item.operation, seconds(item.now)
        serial = hexadecimal(operation.serial_number)
        row = waiting.get(serial)
        if row is None or row.confirm_by < now:
            outcomes.append(_Stored(item.key))
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
    return _resolve(connection, outcomes)


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
    .where(_c.serial.in_(listed("these")), _has_status("issued"))
)
_WITHDRAWN: Final = Prepared(
    select(_c.serial).where(
        _c.serial.in_(listed("these")),
        _has_status("revoked"),
        # What another renewal replaced says nothing against this one.
        _c.reason != literal_column(str(int(Reason.superseded))),
    )
)
_CONFIRM_CERTIFICATES: Final = Prepared(
    update(schema.certificates)
    .where(_c.serial == bindparam("of_serial"))
    .values(
        status=bindparam("new_status"),
        # One that was on hold stays known as released: delta CRLs have to show that.
        reason=func.coalesce(bindparam("new_reason", type_=SmallInteger), _c.reason),
        revoked_at=bindparam("new_revoked_at"),
        confirm_by=null(),
        changed_at=bindparam("now"),
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
    update(schema.certificates)
    .where(_c.serial == bindparam("of_serial"), alive(bindparam("now")))
    .values(status=literal_column("'superseded'"), confirm_by=null(), changed_at=bindparam("now"))
)
_REVOKE_SUPERSEDED: Final = Prepared(
    update(schema.certificates)
    .where(_c.serial == bindparam("of_serial"))
    .values(
        status=literal_column("'revoked'"),
        reason=literal_column(str(int(Reason.superseded))),
        confirm_by=null(),
        revoked_at=bindparam("now"),
        changed_at=bindparam("now"),
    )
)
