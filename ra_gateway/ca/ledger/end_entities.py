"""End entities as rows: what of new ones is wrong or taken, and how they are added."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError

from ra_gateway.ca.ledger import audit, schema, withholding
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.database import Database, write
from ra_gateway.ca.ledger.sql import (
    listed,
    moment,
    moment_or_none,
    padded,
    seconds,
    seconds_or_none,
    subject_key,
)
from ra_gateway.ca.ledger.validity import living_or_held
from ra_gateway.ca.records import EndEntity, EntityStatus
from ra_gateway.cmp.hosts import fqdn_of
from ra_gateway.cmp.names import (
    NULL_DN,
    from_rfc4514,
    general_names,
    general_names_der,
    spellings,
)
from ra_gateway.cmp.x520 import alternative_name_text_faults, subject_text_faults
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.hash_chain import canonical_detail

LONGEST_TEXT: Final = 200
"""Characters of an end entity's name or identity: enough for a full subject, little in an index."""

MOST_PROBLEMS: Final = 20
"""Bad rows of an import that are listed one by one: who has more made one mistake in all of them."""

CHUNK: Final = 512
"""Names per question, far below what either database takes; and per line of the audit trail."""

_entities = schema.entities


class _Taken(Exception):
    """A name, subject or identity was taken between the look and the act."""


@dataclass(slots=True)
class NewEntity:
    """An end entity on its way in.

    Args:
        where: For problems.
        key: Of its subject, once it was checked.
    """

    where: str
    entity: EndEntity
    key: bytes = b""

    @property
    def identity(self) -> str:
        """What it is found by: an FQDN in lower case, as certificates are read."""
        return fqdn_of(self.entity.identity) or self.entity.identity

    def problem(self, what: str, todo: str) -> Problem:
        """Return what is wrong with it."""
        return Problem(self.where, what, todo)


async def add_entities(
    database: Database,
    rows: Sequence[NewEntity],
    actor: str,
    now: datetime,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Register new end entities, all of them or none.

    Raises:
        ConfigError: What cannot be registered, row by row.
    """
    if not rows:
        return
    # All that takes long comes before the writer's turn: others wait for that.
    await asyncio.to_thread(_check_rows, rows, progress)
    taken = await database.read(lambda connection: _taken(connection, rows))
    if not taken:
        values = [_values(row, now) for row in rows]
        acts = _added(values, actor, now)
        try:
            await write(database, lambda connection: _insert(connection, values, acts))
        except _Taken:  # by another process, since we looked
            taken = await database.read(lambda connection: _taken(connection, rows))
        else:
            return
    raise _few(taken)


def _check_rows(rows: Sequence[NewEntity], progress: Callable[[int], None] | None) -> None:
    """Check each by itself and all together; fills in the keys.

    Raises:
        ConfigError: The first ones that are wrong.
    """
    problems: list[Problem] = []
    names: dict[str, NewEntity] = {}
    keys: dict[bytes, NewEntity] = {}
    identities: dict[tuple[str, str], NewEntity] = {}
    for count, row in enumerate(rows, 1):
        problems += list(_row_problems(row)) or _repeats(row, names, keys, identities)
        if progress is not None and (count % 1000 == 0 or count == len(rows)):
            progress(count)
    if problems:
        raise _few(problems)


def _row_problems(row: NewEntity) -> Iterator[Problem]:
    entity = row.entity
    for what, text in (("name", entity.name), ("identity", entity.identity)):
        if len(text) > LONGEST_TEXT or not text.isprintable() or text != text.strip():
            yield row.problem(
                f"the {what} {text[:40]!r} cannot be used",
                f"Use at most {LONGEST_TEXT} printable characters, no blanks around them",
            )
    if not entity.name:
        yield row.problem("has no name", "Give it one, such as the name of the site")
    yield from _subject_problems(row)
    yield from _names_problems(row)
    if bool(entity.vendor) != bool(entity.identity):
        yield row.problem(
            "has a vendor or an identity without the other",
            "Give both for client mode, neither for RA mode",
        )


def _subject_problems(row: NewEntity) -> Iterator[Problem]:
    try:
        subject_der = from_rfc4514(row.entity.subject)
    except ValueError:
        subject_der = NULL_DN
    if subject_der != NULL_DN:
        row.key = subject_key(subject_der)
        for fault in subject_text_faults(row.entity.subject):
            yield row.problem(
                f"the subject {row.entity.subject[:80]!r} cannot be certified: {fault}",
                "Write another value there",
            )
        return
    yield row.problem(
        f"the subject {row.entity.subject[:80]!r} is no name",
        "Write it like CN=enb1.example.net,O=Operator; in a CSV file in quotation marks",
    )


def _names_problems(row: NewEntity) -> Iterator[Problem]:
    for name in row.entity.names:
        try:
            general_names_der([name])
        except ValueError:
            yield row.problem(
                f"{name[:80]!r} is no name for a SubjectAltName",
                "Write it like dns:enb1.example.net, ip:192.0.2.1, uri:urn:uuid:..., email:ran@example.net, dn:CN=enb1",
            )
            continue
        for fault in alternative_name_text_faults(name):
            yield row.problem(
                f"{name[:80]!r} is no name that is certified: {fault}", "Write another name there"
            )


def _repeats(
    row: NewEntity,
    names: dict[str, NewEntity],
    keys: dict[bytes, NewEntity],
    identities: dict[tuple[str, str], NewEntity],
) -> Iterator[Problem]:
    entity = row.entity
    todo = "Leave one of the two"
    if (first := names.setdefault(entity.name, row)) is not row:
        yield row.problem(f"has the name {entity.name!r} of {first.where}", todo)
    if (first := keys.setdefault(row.key, row)) is not row:
        yield row.problem(f"has the subject of {first.where}", todo)
    identity = (entity.vendor, row.identity)
    if entity.identity and (first := identities.setdefault(identity, row)) is not row:
        yield row.problem(f"has vendor and identity of {first.where}", todo)


def _taken(connection: Connection, rows: Sequence[NewEntity]) -> list[Problem]:
    """Return what of new end entities is taken by registered ones."""
    todo = "Choose another, or delete that one first with `ra-gateway ca entity delete NAME`"
    order = {row.where: number for number, row in enumerate(rows)}
    by_name = {row.entity.name: row for row in rows}
    by_key = {row.key: row for row in rows}
    problems = [
        by_name[row.name].problem(f"an end entity {row.name!r} is registered already", todo)
        for row in _found(connection, _BY_NAMES, by_name)
    ]
    problems += [
        mine.problem(f"its subject is that of the end entity {row.name!r}", todo)
        for row in _found(connection, _BY_KEYS, by_key)
        if row.name != (mine := by_key[row.subject_key]).entity.name
    ]
    for vendor in {row.entity.vendor for row in rows if row.entity.identity}:
        by_identity = {row.identity: row for row in rows if row.entity.vendor == vendor}
        problems += [
            mine.problem(f"its vendor and identity are those of the end entity {row.name!r}", todo)
            for row in _found(connection, _BY_IDENTITIES, by_identity, vendor=vendor)
            if row.name != (mine := by_identity[row.identity]).entity.name
        ]
    return sorted(problems, key=lambda problem: order[problem.path])


def _found(
    connection: Connection, statement: Select[Any], values: Iterable[Any], **more: str
) -> Iterator[Row[Any]]:
    listed_values = list(values)
    for start in range(0, len(listed_values), CHUNK):
        chunk = padded(listed_values[start : start + CHUNK])
        yield from connection.execute(statement, {"values": chunk, **more})


_BY_NAMES: Final = select(_entities.c.name).where(_entities.c.name.in_(listed("values")))
_BY_KEYS: Final = select(_entities.c.name, _entities.c.subject_key).where(
    _entities.c.subject_key.in_(listed("values"))
)
_BY_IDENTITIES: Final = select(_entities.c.name, _entities.c.identity).where(
    _entities.c.vendor == bindparam("vendor"),
    _entities.c.identity != "",
    _entities.c.identity.in_(listed("values")),
)


def _insert(
    connection: Connection, values: Sequence[Mapping[str, Any]], acts: Sequence[Act]
) -> None:
    try:
        connection.execute(_INSERT_ENTITY, values)
    except IntegrityError as error:
        raise _Taken from error
    withholding.withhold_registered(connection, values)
    audit.append(connection, acts)


_INSERT_ENTITY: Final = insert(_entities).inline()


def _values(row: NewEntity, now: datetime) -> dict[str, Any]:
    entity = row.entity
    return {
        "name": entity.name,
        "subject": entity.subject,
        "subject_key": row.key,
        "names": json.dumps([_as_read(name) for name in entity.names]),
        "profile": entity.profile,
        "vendor": entity.vendor,
        "identity": row.identity,
        "status": entity.status.value,
        "created_by": entity.created_by,
        "created_at": seconds(now),
        "enroll_until": seconds_or_none(entity.enroll_until),
    }


def _as_read(name: str) -> str:
    """Return a name as it is read from a certificate: an address and a directoryName have many spellings."""
    return general_names(general_names_der([name]))[0]


def _added(rows: Sequence[Mapping[str, Any]], actor: str, now: datetime) -> list[Act]:
    if len(rows) == 1:
        return [entity_added(rows[0], actor, now)]
    # One line for many: while theirs are written and chained, nobody else can write.
    acts = []
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        subject = f"{some[0]['name']} ... {some[-1]['name']}"
        detail = {row["name"]: canonical_detail(audit.facts(_entities, row)) for row in some}
        acts.append(Act(seconds(now), actor, "entity.import", subject, detail))
    return acts


def entity_added(row: Mapping[str, Any], actor: str, now: datetime) -> Act:
    """Return what the audit trail says of a new row of `entities`."""
    return Act(seconds(now), actor, "entity.add", row["name"], audit.facts(_entities, row))


def entity_of(row: Row[Any]) -> EndEntity:
    """Return a row of `entities` as a record."""
    return EndEntity(
        name=row.name,
        subject=row.subject,
        names=tuple(json.loads(row.names)),
        profile=row.profile,
        vendor=row.vendor,
        identity=row.identity,
        status=EntityStatus(row.status),
        created_by=row.created_by,
        created_at=moment(row.created_at),
        enroll_until=moment_or_none(row.enroll_until),
    )


def matching(pattern: str) -> ColumnElement[bool]:
    """Return the condition that name, subject or identity are like a pattern; see `Registry.entities`."""
    columns = (_entities.c.name, _entities.c.subject, _entities.c.identity)
    wanted = map(_like, spellings(pattern))
    return or_(*(column.ilike(text, escape="\\") for text in wanted for column in columns))


def _like(pattern: str) -> str:
    escaped = re.sub(r"[\\%_]", r"\\\g<0>", pattern)
    return escaped.replace("*", "%").replace("?", "_")


def require_no_valid_certificate(connection: Connection, name: str, now: datetime) -> None:
    """Refuse to forget an end entity that holds a valid certificate.

    Raises:
        ConfigError: It does.
    """
    certificates = schema.certificates.c
    valid = select(certificates.serial).where(
        certificates.entity == name, living_or_held(literal(seconds(now)))
    )
    serials = connection.scalars(valid.order_by(certificates.id.desc())).all()
    if serials:
        raise ConfigError.of(
            f"entity {name}",
            f"holds {len(serials)} valid certificate(s): {', '.join(serials[:3])}"
            f"{', ...' if len(serials) > 3 else ''}",
            "Revoke them first: ra-gateway ca revoke SERIAL --reason cessationOfOperation",
        )


def unknown(kind: str, name: str) -> NoReturn:
    """Raise that there is no end entity ("entity") or RA ("ra") of a name."""
    lists = {"entity": "`ra-gateway ca entity list`", "ra": "`ra-gateway ca ra list`"}
    raise ConfigError.of(
        f"{kind} {name}", "is not registered", f"{lists[kind]} shows all there are"
    )


def _few(problems: list[Problem]) -> ConfigError:
    if not problems:
        problems = [Problem("import", "something was registered meanwhile", "Do it again")]
    more = len(problems) - MOST_PROBLEMS
    listed_problems = problems[:MOST_PROBLEMS]
    if more > 0:
        listed_problems.append(
            Problem("import", f"{more} more problem(s) like these", "Correct these first")
        )
    return ConfigError(listed_problems)
