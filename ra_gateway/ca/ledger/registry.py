"""Who is registered: end entities, roles, and the authorities that have them.

Every change and its line of the audit trail are one database transaction. What cannot be registered is a
`ConfigError` whose problems say what to do: it is an operator who registers.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final, NoReturn

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from ra_gateway.ca.ledger import audit, schema, withholding
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.database import Database, write
from ra_gateway.ca.ledger.sql import (
    AnyRow,
    listed,
    moment,
    moment_or_none,
    padded,
    seconds,
    seconds_or_none,
    subject_key,
)
from ra_gateway.ca.records import (
    CLIENT,
    NO_ENTITY,
    Authority,
    CertificateStatus,
    EndEntity,
    EntityStatus,
    Privilege,
    Role,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import NULL_DN, from_rfc4514, general_names_der
from ra_gateway.errors import CMPError, ConfigError, Problem

LONGEST_TEXT: Final = 200
"""Characters of an end entity's name or identity: enough for a full subject, little in an index."""

MOST_PROBLEMS: Final = 20
"""Bad rows of an import that are told one by one: who has more made one mistake in all of them."""

CHUNK: Final = 512
"""Names per question, far below what either database takes; and per line of the audit trail."""

RESERVED_NAMES: Final = frozenset({CLIENT, "ca", "migration", "operator"})
"""What operations of client mode are filed under, and who else acts in the audit trail; no authority's names."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_KINDS_OF_NAMES: Final = ("dns:", "ip:")

_entities, _roles = schema.entities, schema.roles

_BY_IDENTITY: Final = select(_entities).where(
    and_(
        _entities.c.vendor == bindparam("vendor"),
        _entities.c.identity == bindparam("identity"),
        # The index holds none without an identity, and is used only where that is ruled out.
        _entities.c.identity != "",
    )
)
"""Made once: it is asked for whatever message of a vendor's device comes."""
_authorities, _certificates = schema.authorities, schema.authority_certificates


class Registry:
    """End entities, roles and authorities of a ledger; every method raises `StoreUnavailable` when that fails.

    Args:
        database: The ledger's, open.

    Who changes something is the `actor` of the audit trail; `now` is aware UTC.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- end entities -----------------------------------------------------------------------------------------

    async def add_entity(self, entity: EndEntity, actor: str, now: datetime) -> None:
        """Register an end entity.

        Raises:
            ConfigError: It cannot be registered as it is, or something of it is taken.
        """
        await self._add([_Row(f"entity {entity.name}", entity)], actor, now)

    async def import_entities(
        self,
        entities: Sequence[EndEntity],
        actor: str,
        now: datetime,
        *,
        lines: Sequence[int] = (),
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Register many end entities, all of them or none, and return how many.

        Args:
            lines: Number of the line that each comes from, for the problems; by default 1, 2, ...
            progress: Called with the number of those checked so far, from another thread.

        Raises:
            ConfigError: The first 20 that cannot be registered, line by line.
        """
        numbers = lines or range(1, len(entities) + 1)
        rows = [
            _Row(f"line {number}", entity) for number, entity in zip(numbers, entities, strict=True)
        ]
        await self._add(rows, actor, now, progress)
        return len(rows)

    async def _add(
        self,
        rows: Sequence[_Row],
        actor: str,
        now: datetime,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        if not rows:
            return
        # All that takes long comes before the writer's turn: others wait for that.
        await asyncio.to_thread(_check_rows, rows, progress)
        taken = await self._database.read(lambda connection: _taken(connection, rows))
        if not taken:
            values = [_values(row, now) for row in rows]
            acts = _added(values, actor, now)
            try:
                await write(self._database, lambda connection: _insert(connection, values, acts))
            except _Taken:  # by another process, since we looked
                taken = await self._database.read(lambda connection: _taken(connection, rows))
            else:
                return
        raise _few(taken)

    async def entity(self, name: str) -> EndEntity | None:
        """Return an end entity by its name."""
        return await self._one_entity(_entities.c.name == name)

    async def entity_by_subject(self, subject_der: bytes) -> EndEntity | None:
        """Return the end entity whose certificates have a subject, in whatever spelling.

        Raises:
            MalformedMessage: Not a Name.
        """
        return await self._one_entity(_entities.c.subject_key == subject_key(subject_der))

    async def entity_by_identity(self, vendor: str, identity: str) -> EndEntity | None:
        """Return the end entity that a vendor's certificate names."""
        return await self._first_entity(_BY_IDENTITY, vendor=vendor, identity=identity)

    async def _one_entity(self, condition: ColumnElement[bool]) -> EndEntity | None:
        return await self._first_entity(select(_entities).where(condition))

    async def _first_entity(self, statement: Select[Any], **values: str) -> EndEntity | None:
        row = await self._database.read(
            lambda connection: connection.execute(statement, values).first()
        )
        return None if row is None else _entity(row)

    async def entities(
        self, *, after: str = "", limit: int = 100, pattern: str = ""
    ) -> list[EndEntity]:
        """Return end entities in the order of their names.

        Args:
            after: Name of the last one of the page before.
            limit: How many at most.
            pattern: What name, subject or identity has to be like; `*` and `?` stand for any characters,
                upper and lower case are one.
        """
        statement = select(_entities).order_by(_entities.c.name).limit(limit)
        if after:
            statement = statement.where(_entities.c.name > after)
        if pattern:
            statement = statement.where(_like(pattern))
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [_entity(row) for row in rows]

    async def set_entity_status(
        self, name: str, status: EntityStatus, actor: str, now: datetime
    ) -> None:
        """Block an end entity, or make it active again.

        Raises:
            ConfigError: There is none of this name.
        """
        blocked = status is EntityStatus.blocked
        action = "entity.block" if blocked else "entity.unblock"
        await self._change_entity(
            name,
            {"status": status.value},
            Act(seconds(now), actor, action, name, {}),
            withholding.withhold_entity if blocked else withholding.give_back,
        )

    async def open_window(
        self, name: str, until: datetime | None, actor: str, now: datetime
    ) -> None:
        """Let an end entity that holds a certificate enrol again until a moment; None ends that.

        Raises:
            ConfigError: There is none of this name.
        """
        detail = {"until": "" if until is None else until.isoformat(timespec="seconds")}
        await self._change_entity(
            name,
            {"enroll_until": seconds_or_none(until)},
            Act(seconds(now), actor, "entity.open", name, detail),
        )

    async def _change_entity(
        self,
        name: str,
        values: Mapping[str, Any],
        act: Act,
        then: Callable[[Connection, str], None] | None = None,
    ) -> None:
        def change(connection: Connection) -> None:
            statement = update(_entities).where(_entities.c.name == name).values(values)
            if not connection.execute(statement).rowcount:
                _unknown_entity(name)
            if then is not None:
                then(connection, name)
            audit.append(connection, [act])

        await write(self._database, change)

    async def delete_entity(self, name: str, actor: str, now: datetime) -> None:
        """Delete an end entity; its certificates' history stays.

        Raises:
            ConfigError: There is none of this name, or it holds a valid certificate.
        """

        def remove(connection: Connection) -> None:
            row = connection.execute(select(_entities).where(_entities.c.name == name)).first()
            if row is None:
                _unknown_entity(name)
            _require_no_valid_certificate(connection, name, now)
            connection.execute(delete(_entities).where(_entities.c.name == name))
            withholding.give_back(connection, name)
            act = Act(seconds(now), actor, "entity.delete", name, {"subject": row.subject})
            audit.append(connection, [act])

        await write(self._database, remove)

    # --- roles ------------------------------------------------------------------------------------------------

    async def put_role(self, role: Role, actor: str, now: datetime) -> None:
        """Make a role, or change what there is under its name.

        Raises:
            ConfigError: Its name cannot be used, or it lets nothing be done.
        """
        _require_role(role)
        values = {
            "privileges": json.dumps(sorted(role.privileges)),
            "profiles": json.dumps(role.profiles),
            "subjects": json.dumps(role.subjects),
            "sans": json.dumps(role.sans),
            "others": int(role.others),
        }

        def put(connection: Connection) -> None:
            change = update(_roles).where(_roles.c.name == role.name).values(values)
            if not connection.execute(change).rowcount:
                connection.execute(insert(_roles).values(name=role.name, **values))
            detail = _stored(connection, _roles, role.name)
            audit.append(connection, [Act(seconds(now), actor, "role.put", role.name, detail)])

        await write(self._database, put)

    async def roles(self) -> list[Role]:
        """Return all roles in the order of their names."""
        statement = select(_roles).order_by(_roles.c.name)
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [_role(row.name, row) for row in rows]

    async def delete_role(self, name: str, actor: str, now: datetime) -> None:
        """Delete a role that nobody has.

        Raises:
            ConfigError: There is none of this name, or an authority has it.
        """

        def remove(connection: Connection) -> None:
            members = select(_authorities.c.name).where(_authorities.c.role == name)
            names = connection.scalars(members.order_by(_authorities.c.name)).all()
            if names:
                raise _problem(
                    f"role {name}",
                    f"is the role of {', '.join(names)}",
                    "Delete them first with `ra-gateway ca ra delete NAME`, or give them another role",
                )
            if not connection.execute(delete(_roles).where(_roles.c.name == name)).rowcount:
                _unknown_role(name)
            audit.append(connection, [Act(seconds(now), actor, "role.delete", name, {})])

        await write(self._database, remove)

    # --- authorities ------------------------------------------------------------------------------------------

    async def put_authority(
        self,
        name: str,
        role_name: str,
        actor: str,
        now: datetime,
        *,
        subjects: Sequence[str] | None = None,
        sans: Sequence[str] | None = None,
        certificate_der: bytes | None = None,
    ) -> None:
        """Register an authority, or give it another role or other names, and a certificate with them.

        Args:
            subjects, sans: Patterns as of `Authority`; None leaves those it has.
            certificate_der: As of `add_authority_certificate`: if it is refused, nothing changes.

        Raises:
            ConfigError: Its name or a pattern cannot be used, there is no such role, or the certificate is refused.
        """
        certificate = (
            None if certificate_der is None else _authority_certificate(name, certificate_der, now)
        )
        _require_patterns(f"ra {name}", subjects or (), sans or ())
        _require_name("ra", name)
        if name in RESERVED_NAMES:
            raise _problem(
                f"ra {name}",
                "is how the CA calls itself, its operators, or the devices of client mode",
                "Choose another name",
            )

        def put(connection: Connection) -> None:
            if connection.scalar(select(_roles.c.name).where(_roles.c.name == role_name)) is None:
                _unknown_role(role_name)
            values = {"role": role_name} | {
                column: json.dumps(patterns)
                for column, patterns in (("subjects", subjects), ("sans", sans))
                if patterns is not None
            }
            change = update(_authorities).where(_authorities.c.name == name).values(values)
            if not connection.execute(change).rowcount:
                connection.execute(
                    insert(_authorities).values(
                        name=name, enabled=1, created_at=seconds(now), **values
                    )
                )
            detail = _stored(connection, _authorities, name)
            audit.append(connection, [Act(seconds(now), actor, "authority.put", name, detail)])
            if certificate is not None:
                _add_certificate(connection, name, certificate, actor, now)

        await write(self._database, put)

    async def add_authority_certificate(
        self, name: str, der: bytes, actor: str, now: datetime
    ) -> None:
        """Let an authority sign with one more certificate; one that it has already changes nothing.

        Raises:
            ConfigError: There is no such authority; or the certificate is none, a CA's, expired, or another
                authority's.
        """
        certificate = _authority_certificate(name, der, now)

        def add(connection: Connection) -> None:
            _require_authority(connection, name)
            _add_certificate(connection, name, certificate, actor, now)

        await write(self._database, add)

    async def remove_authority_certificate(
        self, name: str, fingerprint: bytes, actor: str, now: datetime
    ) -> None:
        """Have a certificate of an authority heard no more.

        Args:
            fingerprint: SHA-256 of the certificate, 32 octets.

        Raises:
            ConfigError: The authority has no such certificate.
        """

        def remove(connection: Connection) -> None:
            _require_authority(connection, name)
            statement = delete(_certificates).where(
                _certificates.c.authority == name, _certificates.c.fingerprint == fingerprint
            )
            if not connection.execute(statement).rowcount:
                raise _problem(
                    f"ra {name}",
                    f"has no certificate with the fingerprint {fingerprint.hex()}",
                    f"`ra-gateway ca ra show {name}` lists those it has",
                )
            detail = {"fingerprint": fingerprint.hex()}
            act = Act(seconds(now), actor, "authority.certificate.remove", name, detail)
            audit.append(connection, [act])

        await write(self._database, remove)

    async def set_authority_enabled(
        self, name: str, enabled: bool, actor: str, now: datetime
    ) -> None:
        """Have an authority heard or not.

        Raises:
            ConfigError: There is none of this name.
        """

        def change(connection: Connection) -> None:
            _require_authority(connection, name)
            statement = update(_authorities).where(_authorities.c.name == name)
            connection.execute(statement.values(enabled=int(enabled)))
            action = "authority.unblock" if enabled else "authority.block"
            audit.append(connection, [Act(seconds(now), actor, action, name, {})])

        await write(self._database, change)

    async def delete_authority(self, name: str, actor: str, now: datetime) -> None:
        """Delete an authority and forget its certificates, which stay valid until they are revoked.

        Raises:
            ConfigError: There is none of this name.
        """

        def remove(connection: Connection) -> None:
            if not connection.execute(
                delete(_authorities).where(_authorities.c.name == name)
            ).rowcount:
                _unknown_authority(name)
            audit.append(connection, [Act(seconds(now), actor, "authority.delete", name, {})])

        await write(self._database, remove)

    async def authorities(self) -> list[Authority]:
        """Return all authorities in the order of their names."""
        return await self._database.read(_all_authorities)


# --- end entities ---------------------------------------------------------------------------------------------


class _Taken(Exception):
    """A name, subject or identity was taken between the look and the act."""


@dataclass(slots=True)
class _Row:
    """An end entity on its way in.

    Args:
        where: For problems.
        key: Of its subject, once it was checked.
    """

    where: str
    entity: EndEntity
    key: bytes = b""

    def problem(self, what: str, todo: str) -> Problem:
        return Problem(self.where, what, todo)


def _check_rows(rows: Sequence[_Row], progress: Callable[[int], None] | None) -> None:
    """Check each by itself and all together; fills in the keys.

    Raises:
        ConfigError: The first ones that are wrong.
    """
    problems: list[Problem] = []
    names: dict[str, _Row] = {}
    keys: dict[bytes, _Row] = {}
    identities: dict[tuple[str, str], _Row] = {}
    for count, row in enumerate(rows, 1):
        problems += list(_row_problems(row)) or _repeats(row, names, keys, identities)
        if progress is not None and (count % 1000 == 0 or count == len(rows)):
            progress(count)
    if problems:
        raise _few(problems)


def _row_problems(row: _Row) -> Iterator[Problem]:
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


def _subject_problems(row: _Row) -> Iterator[Problem]:
    try:
        subject_der = from_rfc4514(row.entity.subject)
    except ValueError:
        subject_der = NULL_DN
    if subject_der != NULL_DN:
        row.key = subject_key(subject_der)
        return
    yield row.problem(
        f"the subject {row.entity.subject[:80]!r} is no name",
        "Write it like CN=enb1.example.net,O=Operator; in a CSV file in quotation marks",
    )


def _names_problems(row: _Row) -> Iterator[Problem]:
    for name in row.entity.names:
        try:
            if name.startswith(_KINDS_OF_NAMES):
                general_names_der([name])
                continue
        except ValueError:
            pass
        yield row.problem(
            f"{name[:80]!r} is no name for a SubjectAltName",
            "Write it like dns:enb1.example.net or ip:192.0.2.1",
        )


def _repeats(
    row: _Row,
    names: dict[str, _Row],
    keys: dict[bytes, _Row],
    identities: dict[tuple[str, str], _Row],
) -> Iterator[Problem]:
    entity = row.entity
    todo = "Leave one of the two"
    if (first := names.setdefault(entity.name, row)) is not row:
        yield row.problem(f"has the name {entity.name!r} of {first.where}", todo)
    if (first := keys.setdefault(row.key, row)) is not row:
        yield row.problem(f"has the subject of {first.where}", todo)
    identity = (entity.vendor, entity.identity)
    if entity.identity and (first := identities.setdefault(identity, row)) is not row:
        yield row.problem(f"has vendor and identity of {first.where}", todo)


def _taken(connection: Connection, rows: Sequence[_Row]) -> list[Problem]:
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
        by_identity = {row.entity.identity: row for row in rows if row.entity.vendor == vendor}
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


def _values(row: _Row, now: datetime) -> dict[str, Any]:
    entity = row.entity
    return {
        "name": entity.name,
        "subject": entity.subject,
        "subject_key": row.key,
        "names": json.dumps([_as_read(name) for name in entity.names]),
        "profile": entity.profile,
        "vendor": entity.vendor,
        "identity": entity.identity,
        "status": entity.status.value,
        "created_by": entity.created_by,
        "created_at": seconds(now),
        "enroll_until": seconds_or_none(entity.enroll_until),
    }


def _as_read(name: str) -> str:
    """Return a name as it is read from a certificate: an IPv6 address has many spellings."""
    kind, _, value = name.partition(":")
    return f"ip:{ip_address(ip_address(value).packed)}" if kind == "ip" else name


def _added(rows: Sequence[Mapping[str, Any]], actor: str, now: datetime) -> list[Act]:
    if len(rows) == 1:
        return [entity_added(rows[0], actor, now)]
    # One line for many: while theirs are written and chained, nobody else can write.
    acts = []
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        subject = f"{some[0]['name']} ... {some[-1]['name']}"
        detail = {row["name"]: audit.canonical_detail(audit.facts(_entities, row)) for row in some}
        acts.append(Act(seconds(now), actor, "entity.import", subject, detail))
    return acts


def entity_added(row: Mapping[str, Any], actor: str, now: datetime) -> Act:
    """Return what the audit trail says of a new row of `entities`."""
    return Act(seconds(now), actor, "entity.add", row["name"], audit.facts(_entities, row))


def _stored(connection: Connection, table: Table, name: str) -> dict[str, str]:
    """Return a row as it is now, for the audit trail."""
    row = connection.execute(select(table).where(table.c.name == name)).one()
    return audit.facts(table, row._asdict())


def _entity(row: Row[Any]) -> EndEntity:
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


def _like(pattern: str) -> ColumnElement[bool]:
    escaped = re.sub(r"[\\%_]", r"\\\g<0>", pattern)
    wanted = escaped.replace("*", "%").replace("?", "_")
    columns = (_entities.c.name, _entities.c.subject, _entities.c.identity)
    return or_(*(column.ilike(wanted, escape="\\") for column in columns))


def _require_no_valid_certificate(connection: Connection, name: str, now: datetime) -> None:
    certificates = schema.certificates
    at = seconds(now)
    unconfirmed = certificates.c.status == CertificateStatus.issued
    settled = certificates.c.status.in_([CertificateStatus.confirmed, CertificateStatus.superseded])
    in_time = or_(certificates.c.confirm_by.is_(None), certificates.c.confirm_by >= at)
    statement = (
        select(certificates.c.serial)
        .where(
            certificates.c.entity == name,
            # One on hold may come back.
            or_(settled, and_(unconfirmed, in_time), certificates.c.held_from.is_not(None)),
            certificates.c.not_after >= at,
        )
        .order_by(certificates.c.id.desc())
    )
    serials = connection.scalars(statement).all()
    if serials:
        raise _problem(
            f"entity {name}",
            f"holds {len(serials)} valid certificate(s): {', '.join(serials[:3])}"
            f"{', ...' if len(serials) > 3 else ''}",
            "Revoke them first: ra-gateway ca revoke SERIAL --reason cessationOfOperation",
        )


def _unknown_entity(name: str) -> NoReturn:
    raise _problem(
        f"entity {name}", "is not registered", "`ra-gateway ca entity list` shows all there are"
    )


# --- roles ----------------------------------------------------------------------------------------------------


def _role(name: str, row: AnyRow) -> Role:
    return Role(
        name,
        frozenset(Privilege(text) for text in json.loads(row.privileges)),
        tuple(json.loads(row.profiles)),
        tuple(json.loads(row.subjects)),
        tuple(json.loads(row.sans)),
        bool(row.others),
    )


def _patterns_detail(subjects: Sequence[str], sans: Sequence[str]) -> dict[str, str]:
    """Return patterns for the audit trail, as JSON: they hold commas."""
    found = (("subjects", subjects), ("sans", sans))
    return {name: json.dumps(list(patterns)) for name, patterns in found if patterns}


def _require_patterns(where: str, subjects: Iterable[str], sans: Iterable[str]) -> None:
    for pattern in (*subjects, *sans):
        if not 0 < len(pattern) <= LONGEST_TEXT or not pattern.isprintable():
            raise _problem(
                where,
                f"the pattern {pattern[:40]!r} cannot be used",
                f"Use 1 to {LONGEST_TEXT} printable characters, such as CN=enb-*,O=Operator or "
                "dns:enb-*.example.net",
            )
    for pattern in sans:
        if pattern != "*" and ":" not in pattern:
            raise _problem(
                where,
                f"the pattern {pattern[:40]!r} fits no SubjectAltName",
                "Begin it with the kind of name, such as dns:enb-*.example.net or ip:192.0.2.*",
            )


def _require_role(role: Role) -> None:
    _require_name("role", role.name)
    if not role.privileges:
        raise _problem(
            f"role {role.name}",
            "lets nothing be done",
            f"Give it some of the privileges {', '.join(Privilege)}",
        )
    if not role.profiles or len(set(role.profiles)) != len(role.profiles):
        raise _problem(
            f"role {role.name}",
            "names no certificate profile, or one twice",
            "Name those it may ask for, the usual one first; `ra-gateway ca profiles` lists them",
        )
    _require_patterns(f"role {role.name}", role.subjects, role.sans)
    if role.others and not (role.subjects or role.sans):
        raise _problem(
            f"role {role.name}",
            "may act for others' certificates, whatever their names",
            'Name the subjects and other names it may act for; "*" stands for any',
        )


def _unknown_role(name: str) -> NoReturn:
    raise _problem(
        f"role {name}",
        "does not exist",
        f"Make it with `ra-gateway ca role add {name}`; `ra-gateway ca role list` shows all there are",
    )


# --- authorities ----------------------------------------------------------------------------------------------


def _all_authorities(connection: Connection) -> list[Authority]:
    certificates: dict[str, list[bytes]] = {}
    for name, der in connection.execute(_AUTHORITY_CERTIFICATES):
        certificates.setdefault(name, []).append(der)
    return [
        Authority(
            row.name,
            _role(row.role, row),
            tuple(certificates.get(row.name, ())),
            bool(row.enabled),
            tuple(json.loads(row.own_subjects)),
            tuple(json.loads(row.own_sans)),
        )
        for row in connection.execute(_AUTHORITIES)
    ]


_AUTHORITY_CERTIFICATES: Final = select(_certificates.c.authority, _certificates.c.der).order_by(
    _certificates.c.id
)
_AUTHORITIES: Final = (
    select(
        _authorities.c.name,
        _authorities.c.role,
        _authorities.c.enabled,
        _authorities.c.subjects.label("own_subjects"),
        _authorities.c.sans.label("own_sans"),
        _roles.c.privileges,
        _roles.c.profiles,
        _roles.c.subjects,
        _roles.c.sans,
        _roles.c.others,
    )
    .join(_roles, _roles.c.name == _authorities.c.role)
    .order_by(_authorities.c.name)
)


def _add_certificate(
    connection: Connection, name: str, certificate: Certificate, actor: str, now: datetime
) -> None:
    # Another spelling of a certificate is the same certificate, and there are few of them.
    owner = next(
        (
            authority
            for authority, known in connection.execute(_AUTHORITY_CERTIFICATES)
            if Certificate.from_der(known) == certificate
        ),
        None,
    )
    if owner == name:
        return
    if owner is not None:
        raise _problem(
            f"ra {name}",
            f"the certificate of {certificate.subject} is registered for {owner}",
            f"Remove it there first: ra-gateway ca ra remove-certificate {owner} "
            f"{certificate.fingerprint.hex()}",
        )
    connection.execute(
        insert(_certificates).values(
            authority=name,
            fingerprint=certificate.fingerprint,
            der=certificate.der,
            added_at=seconds(now),
        )
    )
    detail = {
        "fingerprint": certificate.fingerprint.hex(),
        "serial": f"{certificate.serial_number:x}",
        "subject": certificate.subject,
    }
    act = Act(seconds(now), actor, "authority.certificate.add", name, detail)
    withholding.withhold(connection, NO_ENTITY, [certificate])
    audit.append(connection, [act])


def _authority_certificate(name: str, der: bytes, now: datetime) -> Certificate:
    try:
        certificate = Certificate.from_der(der)
        is_ca = certificate.is_ca
    except CMPError as error:
        raise _problem(
            f"ra {name}", f"not a certificate: {error.detail}", "Give the RA's own, in PEM"
        ) from error
    if is_ca:
        raise _problem(
            f"ra {name}",
            f"the certificate of {certificate.subject} is a CA's",
            "Give the one of the RA's own key: nothing that the CA's key signs may pass for the RA's",
        )
    if certificate.not_after < now:
        raise _problem(
            f"ra {name}",
            f"the certificate of {certificate.subject} expired {certificate.not_after:%Y-%m-%d}",
            "Issue a new one with `ra-gateway ca ra issue`",
        )
    return certificate


def _require_authority(connection: Connection, name: str) -> None:
    if connection.scalar(select(_authorities.c.name).where(_authorities.c.name == name)) is None:
        _unknown_authority(name)


def _unknown_authority(name: str) -> NoReturn:
    raise _problem(f"ra {name}", "is not registered", "`ra-gateway ca ra list` shows all there are")


# --- problems -------------------------------------------------------------------------------------------------


def _require_name(kind: str, name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise _problem(
            f"{kind} {name[:80]!r}",
            "is not a possible name",
            "Use letters, digits, - and _, at most 64, the first a letter or a digit",
        )


def _few(problems: list[Problem]) -> ConfigError:
    if not problems:
        problems = [Problem("import", "something was registered meanwhile", "Do it again")]
    more = len(problems) - MOST_PROBLEMS
    told = problems[:MOST_PROBLEMS]
    if more > 0:
        told.append(Problem("import", f"{more} more problem(s) like these", "Correct these first"))
    return ConfigError(told)


def _problem(path: str, what: str, todo: str) -> ConfigError:
    return ConfigError([Problem(path, what, todo)])
