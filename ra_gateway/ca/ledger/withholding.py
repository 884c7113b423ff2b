"""Names and keys that are somebody's alone: the PKI's own, those of blocked end entities, and registered names.

An end entity is blocked with all that names it: its subject, its other names and its keys would otherwise serve
whoever holds them under another subject. And what is registered for client mode is not for an RA to give away.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.sql import (
    Prepared,
    key_identifier,
    listed,
    name_identifiers,
    registered_identifiers,
)
from ra_gateway.ca.records import NO_ENTITY, EntityStatus
from ra_gateway.cmp.algorithms import canonical_spki
from ra_gateway.cmp.certificates import Certificate

CHUNK: Final = 512
"""Identifiers per question, far below what either database takes."""

_w, _c, _e = schema.withheld.c, schema.certificates.c, schema.entities.c


@dataclass(frozen=True, slots=True)
class Holder:
    """For whose sake something is withheld.

    Args:
        entity: Name of an end entity, `NO_ENTITY` for the PKI.
        blocked: Nobody gets it; otherwise no RA that may not have its profile (client mode).
    """

    entity: str
    blocked: bool
    profile: str


def holders(connection: Connection, identifiers: Iterable[bytes]) -> dict[bytes, set[Holder]]:
    """Return for names and keys for whose sake they are withheld."""
    found: dict[bytes, set[Holder]] = {}
    wanted = list(identifiers)
    for start in range(0, len(wanted), CHUNK):
        rows = _WITHHELD.among(connection, wanted[start : start + CHUNK])
        for identifier, entity, status, profile in rows:
            holder = Holder(entity, status == EntityStatus.blocked, profile or "")
            found.setdefault(identifier, set()).add(holder)
    return found


def withhold(connection: Connection, entity: str, certificates: Iterable[Certificate]) -> None:
    """Withhold the names and keys of certificates; again changes nothing."""
    _add(connection, entity, set().union(*map(identifiers_of, certificates)))


def identifiers_of(certificate: Certificate) -> set[bytes]:
    """Return what finds the names and the key of a certificate."""
    names = name_identifiers(certificate.subject_der, certificate.subject_alt_name_der)
    return {*names, key_identifier(sha256(canonical_spki(certificate.spki_der)).digest())}


def withhold_entity(connection: Connection, name: str) -> None:
    """Withhold what an end entity is registered with, and what its certificates hold."""
    _add(connection, name, identifiers_of_entity(connection, name))


def identifiers_of_entity(
    connection: Connection, name: str, before: int | None = None
) -> set[bytes]:
    """Return what finds the names that an end entity is registered with, and the names and keys of its certificates.

    Args:
        before: Leave out certificates that were issued then or later (seconds).
    """
    row = connection.execute(select(_e.subject, _e.names).where(_e.name == name)).one()
    found = set(registered_identifiers(row.subject, json.loads(row.names)))
    held = select(_c.der, _c.spki_digest).where(_c.entity == name, _c.der.is_not(None))
    if before is not None:
        held = held.where(_c.issued_at < before)
    for der, digest in connection.execute(held).all():
        certificate = Certificate.from_der(der)
        found |= name_identifiers(certificate.subject_der, certificate.subject_alt_name_der)
        found.add(key_identifier(digest))
    return found


def withhold_registered(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Withhold the names of new end entities of client mode, given as rows of their table.

    The host that a subject names is one of them: `tbs.complete` makes a dNSName of it.
    """
    new = [
        {"identifier": identifier, "entity": row["name"]}
        for row in rows
        if row["vendor"]
        for identifier in registered_identifiers(row["subject"], json.loads(row["names"]))
    ]
    if new:
        connection.execute(insert(schema.withheld), new)


def give_back(connection: Connection, entity: str) -> None:
    """Withhold no more for the sake of an end entity than what it is registered with, if it still is."""
    assert entity != NO_ENTITY  # a key that spoke for the PKI once is never a device's
    connection.execute(delete(schema.withheld).where(_w.entity == entity))
    columns = select(_e.name, _e.vendor, _e.subject, _e.names)
    rows = connection.execute(columns.where(_e.name == entity))
    withhold_registered(connection, [dict(row) for row in rows.mappings()])


def _add(connection: Connection, entity: str, identifiers: Iterable[bytes]) -> None:
    wanted = sorted(identifiers)
    if not wanted:
        return
    known = {
        found
        for found, whose in holders(connection, wanted).items()
        if any(holder.entity == entity for holder in whose)
    }
    new = [
        {"identifier": identifier, "entity": entity}
        for identifier in wanted
        if identifier not in known
    ]
    if new:
        connection.execute(insert(schema.withheld), new)


_WITHHELD: Final = Prepared(
    select(_w.identifier, _w.entity, _e.status, _e.profile)
    .outerjoin(schema.entities, _e.name == _w.entity)
    .where(_w.identifier.in_(listed("these")))
)
