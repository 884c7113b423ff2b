"""Reserving serial numbers and transactionIDs before the key is used, for all that waits at once; as `issuing`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from sqlalchemy import Connection, bindparam, case, false, insert, literal_column, select, true

from ra_gateway.ca.ledger import audit, schema, withholding
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.end_entities import entity_added
from ra_gateway.ca.ledger.operations import (
    INSERT_OPERATIONS,
    OfOperation,
    StoredOperation,
    delete_operations,
    operation_row,
    resolve,
)
from ra_gateway.ca.ledger.sql import (
    LONGEST_NAME,
    Prepared,
    alternative_names,
    asked_identifiers,
    directory_name_keys,
    hexadecimal,
    identity_key,
    key_identifier,
    listed,
    nameless_name,
    seconds,
    seconds_or_none,
    unique_name,
)
from ra_gateway.ca.ledger.validity import duplicate_key, key_holders
from ra_gateway.ca.records import NO_ENTITY, EntityStatus, Intent, Operation, Reenroll
from ra_gateway.cmp.names import canonical, general_names, readable, rfc4514
from ra_gateway.errors import CMPError, NotAuthorized, ServiceFailure, TemplateRefused

_c, _o, _e = schema.certificates.c, schema.operations.c, schema.entities.c


class SerialTaken(ServiceFailure):
    """The serial number is in the ledger already; draw another one."""


@dataclass(frozen=True)
class Reservation(OfOperation):
    """An intent that waits to be stored."""

    intent: Intent
    now: datetime

    @cached_property
    def identity(self) -> bytes:
        """What finds the end entity."""
        return identity_key(self.intent.subject_der, self.intent.san_der)

    @cached_property
    def names(self) -> frozenset[bytes]:
        """What finds whom the names are withheld for."""
        return asked_identifiers(self.intent.subject_der, self.intent.san_der)

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
    outcomes: list[Operation | Exception | StoredOperation | None] = []
    for item in items:
        try:
            outcomes.append(reserving.judge(item))
        except CMPError as error:
            outcomes.append(error)
    reserving.write()
    return resolve(connection, outcomes)


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

    def judge(self, item: Reservation) -> StoredOperation | None:
        """Collect what an item adds to the database, or raise why it is refused."""
        operation, intent, key = item.operation, item.intent, item.key
        claim = self._claims.get(key)
        now = seconds(item.now)
        if claim is not None and claim[2] > now:
            if claim[1] or claim[0] != operation.request_digest:
                return StoredOperation(key)
        elif claim is not None:
            self._expired.append(key)
            claim = None
        serial = hexadecimal(operation.serial_number)
        if serial in self._serials:
            raise SerialTaken(f"serial number {serial} is in the ledger already", rule="R153")
        name = self._entity_for(item)
        self._require_unused_key(intent, name)
        # It is accepted; nothing is collected before.
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
                "vendor": intent.vendor,
                "identity": intent.identity,
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
            name = unique_name(name, key)
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
        """Write what was collected."""
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
    name = readable(item.intent.subject_der)
    if not name:
        return nameless_name(item.intent.san_der, item.identity)
    return name if len(name) <= LONGEST_NAME else unique_name(name, item.identity)


def _names_for(item: Reservation) -> str:
    """Return what an end entity that is made may be called besides its subject, as JSON."""
    if item.intent.san_der is None or rfc4514(item.intent.subject_der):
        return "[]"
    return json.dumps(general_names(item.intent.san_der))


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
_INSERT_ENTITIES: Final = Prepared(insert(schema.entities).inline())
_INSERT_CERTIFICATES: Final = Prepared(insert(schema.certificates).inline())
