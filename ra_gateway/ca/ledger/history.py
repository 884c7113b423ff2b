"""One base station's history: the lines of the audit trail about its end entities and all their certificates.

Neither identities nor the trail have an index for it: who issues would pay for that with every certificate, and
who asks can wait until the ledger was read, some five seconds of CPU for a million certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, func, or_, select

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.audit import entry
from ra_gateway.ca.ledger.end_entities import CHUNK, entity_of, matching
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import NO_ENTITY, AuditEntry, EndEntity
from ra_gateway.cmp.names import spellings
from ra_gateway.errors import ConfigError

_a, _c, _e = schema.audit.c, schema.certificates.c, schema.entities.c

MOST_NAMED: Final = 10
"""End entities that are named where several fit."""


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the trail, and whose it is."""

    entity: str
    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class History:
    """What became of a base station.

    Args:
        entities: Its end entities by name; None where one is not registered any more.
        devices: Vendor and identity of each device that had a certificate, the latest last.
        events: The newest, in their order.
    """

    entities: Mapping[str, EndEntity | None]
    devices: tuple[tuple[str, str], ...]
    events: tuple[Event, ...]


async def history(ledger: Ledger, wanted: str, *, limit: int) -> History:
    """Return what became of the base station that is meant.

    Args:
        wanted: What its vendor calls it, the serial number (hex) of a certificate, or its end entity's name or subject;
            or a part of these that no other end entity has.
        limit: How many events at most.

    Raises:
        ConfigError: None is meant, or several end entities have that part.
        StoreUnavailable: The database does not answer.
    """
    return await ledger.database.read_state(
        lambda connection: _history(connection, wanted.strip(), limit)
    )


async def devices(ledger: Ledger, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return vendor and identity of the device that had the newest certificate of each end entity that has had one.

    Args:
        names: Of end entities.

    Raises:
        StoreUnavailable: The database does not answer.
    """

    def find(connection: Connection) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for some in _chunks(names):
            rows = connection.execute(
                select(_c.entity, _c.vendor, _c.identity)
                .where(_c.entity.in_(some), _c.vendor != "")
                .order_by(_c.id)
            )
            found |= {row.entity: (row.vendor, row.identity) for row in rows}
        return found

    return await ledger.database.read(find)


def _history(connection: Connection, wanted: str, limit: int) -> History:
    names = _meant(connection, wanted)
    if not names:
        raise ConfigError.of(
            repr(wanted[:80]),
            "is no end entity's name or subject, no part of one, no serial number, and no identity that is known",
            "`ra-gateway ca entity list` shows who there is",
        )
    rows = connection.execute(
        select(_c.serial, _c.entity, _c.vendor, _c.identity)
        .where(_c.entity.in_(names))
        .order_by(_c.id)
    ).all()
    registered = connection.execute(select(schema.entities).where(_e.name.in_(names)))
    entities: dict[str, EndEntity | None] = dict.fromkeys(names)
    entities |= {row.name: entity_of(row) for row in registered}
    # As a dict to keep their order; the latest last.
    devices = dict.fromkeys((row.vendor, row.identity) for row in reversed(rows) if row.vendor)
    owners = {name: name for name in names} | {row.serial: row.entity for row in rows}
    events = _events(connection, owners)[-limit:]
    return History(entities, tuple(reversed(devices)), tuple(events))


def _meant(connection: Connection, wanted: str) -> list[str]:
    """Return the names of the end entities that are meant: exactly, else by a part of their name or subject."""
    if not wanted:
        return []
    serial = wanted.lower().replace(":", "").removeprefix("0x").lstrip("0")
    exactly = (
        select(_e.name).where(_any_is(wanted, _e.name, _e.subject, _e.identity)),
        select(_c.entity).where(
            _c.entity != NO_ENTITY,
            or_(_any_is(wanted, _c.entity, _c.identity), _c.serial == serial),
        ),
    )
    found = {name for statement in exactly for name in connection.scalars(statement.distinct())}
    if not found:
        like = select(_e.name).where(matching(f"*{wanted}*")).limit(MOST_NAMED + 1)
        found = set(connection.scalars(like))
        if len(found) > 1:
            more = ", ..." if len(found) > MOST_NAMED else ""
            raise ConfigError.of(
                repr(wanted[:80]),
                f"fits several end entities: {'; '.join(sorted(found)[:MOST_NAMED])}{more}",
                "Give the name of one of them",
            )
    return sorted(found)


def _any_is(wanted: str, *columns: ColumnElement[Any]) -> ColumnElement[bool]:
    lowered = [text.lower() for text in spellings(wanted)]
    return or_(*(func.lower(column).in_(lowered) for column in columns))


def _events(connection: Connection, owners: Mapping[str, str]) -> list[Event]:
    found: list[AuditEntry] = []
    for some in _chunks(list(owners)):
        rows = connection.execute(select(schema.audit).where(_a.subject.in_(some)))
        found += map(entry, rows)
    found.sort(key=lambda item: item.number)
    return [Event(owners[item.subject], item) for item in found]


def _chunks(items: Sequence[str]) -> Iterable[Sequence[str]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
