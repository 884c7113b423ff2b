"""Who is registered: end entities, roles, and the authorities that have them.

Every change and its line of the audit trail are one database transaction. What cannot be registered is a
`ConfigError` whose problems say what to do: it is an operator who registers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, NoReturn

from sqlalchemy import (
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from ra_gateway.ca.ledger import audit, schema, withholding
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.database import Database, write
from ra_gateway.ca.ledger.end_entities import (
    LONGEST_TEXT,
    NewEntity,
    add_entities,
    entity_of,
    matching,
    require_no_valid_certificate,
    unknown,
)
from ra_gateway.ca.ledger.sql import AnyRow, seconds, seconds_or_none
from ra_gateway.ca.records import (
    CLIENT,
    NO_ENTITY,
    Authority,
    EndEntity,
    EntityStatus,
    Privilege,
    Role,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.hosts import fqdn_of
from ra_gateway.cmp.names import (
    GENERAL_NAME_KINDS,
    plain_general_name,
    plain_rfc4514,
    unfit_attribute,
    unfit_general_name,
)
from ra_gateway.errors import CMPError, ConfigError

RESERVED_NAMES: Final = frozenset({CLIENT, "ca", "migration", "operator"})
"""What operations of client mode are filed under, and who else acts in the audit trail; no authority's names."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)

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
        await add_entities(self._database, [NewEntity(f"entity {entity.name}", entity)], actor, now)

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
            NewEntity(f"line {number}", entity)
            for number, entity in zip(numbers, entities, strict=True)
        ]
        await add_entities(self._database, rows, actor, now, progress)
        return len(rows)

    async def entity(self, name: str) -> EndEntity | None:
        """Return an end entity by its name."""
        return await self._first_entity(select(_entities).where(_entities.c.name == name))

    async def entity_by_identity(self, vendor: str, identity: str) -> EndEntity | None:
        """Return the end entity that a vendor's certificate names; an FQDN in whatever case."""
        found = await self._first_entity(_BY_IDENTITY, vendor=vendor, identity=identity)
        lowered = fqdn_of(identity)
        if found is not None or lowered in (None, identity):
            return found
        return await self._first_entity(_BY_IDENTITY, vendor=vendor, identity=lowered)

    async def _first_entity(self, statement: Select[Any], **values: str | None) -> EndEntity | None:
        row = await self._database.read(
            lambda connection: connection.execute(statement, values).first()
        )
        return None if row is None else entity_of(row)

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
            statement = statement.where(matching(pattern))
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [entity_of(row) for row in rows]

    async def set_entity_status(
        self, name: str, status: EntityStatus, actor: str, now: datetime
    ) -> None:
        """Block an end entity, or make it active again.

        Raises:
            ConfigError: There is none of this name.
        """
        blocked = status is EntityStatus.blocked
        action = "entity.block" if blocked else "entity.unblock"
        await self._change(
            _entities,
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
        act = Act(seconds(now), actor, "entity.open", name, detail)
        await self._change(_entities, name, {"enroll_until": seconds_or_none(until)}, act)

    async def _change(
        self,
        table: Table,
        name: str,
        values: Mapping[str, Any],
        act: Act,
        then: Callable[[Connection, str], None] | None = None,
    ) -> None:
        def change(connection: Connection) -> None:
            statement = update(table).where(table.c.name == name).values(values)
            if not connection.execute(statement).rowcount:
                unknown("entity" if table is _entities else "ra", name)
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
                unknown("entity", name)
            require_no_valid_certificate(connection, name, now)
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
        subjects, sans = _patterns(f"role {role.name}", role.subjects, role.sans)
        values = {
            "privileges": json.dumps(sorted(role.privileges)),
            "profiles": json.dumps(role.profiles),
            "subjects": json.dumps(subjects),
            "sans": json.dumps(sans),
            "others": int(role.others),
        }

        def put(connection: Connection) -> None:
            detail = _put(connection, _roles, role.name, values)
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
                raise ConfigError.of(
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
        own_subjects, own_sans = _patterns(f"ra {name}", subjects or (), sans or ())
        _require_name("ra", name)
        if name in RESERVED_NAMES:
            raise ConfigError.of(
                f"ra {name}",
                "is how the CA calls itself, its operators, or the devices of client mode",
                "Choose another name",
            )

        def put(connection: Connection) -> None:
            if connection.scalar(select(_roles.c.name).where(_roles.c.name == role_name)) is None:
                _unknown_role(role_name)
            values = {"role": role_name} | {
                column: json.dumps(patterns)
                for column, given, patterns in (
                    ("subjects", subjects, own_subjects),
                    ("sans", sans, own_sans),
                )
                if given is not None
            }
            made = {"enabled": 1, "created_at": seconds(now)}
            detail = _put(connection, _authorities, name, values, made)
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
                raise ConfigError.of(
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
        action = "authority.unblock" if enabled else "authority.block"
        act = Act(seconds(now), actor, action, name, {})
        await self._change(_authorities, name, {"enabled": int(enabled)}, act)

    async def delete_authority(self, name: str, actor: str, now: datetime) -> None:
        """Delete an authority and forget its certificates, which stay valid until they are revoked.

        Raises:
            ConfigError: There is none of this name.
        """

        def remove(connection: Connection) -> None:
            statement = delete(_authorities).where(_authorities.c.name == name)
            if not connection.execute(statement).rowcount:
                unknown("ra", name)
            audit.append(connection, [Act(seconds(now), actor, "authority.delete", name, {})])

        await write(self._database, remove)

    async def authorities(self) -> list[Authority]:
        """Return all authorities in the order of their names."""
        return await self._database.read(_all_authorities)


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


def _patterns(
    where: str, subjects: Iterable[str], sans: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return patterns of subjects and of other names as they are compared, if names can fit them."""
    for pattern in (*subjects, *sans):
        if not 0 < len(pattern) <= LONGEST_TEXT or not pattern.isprintable():
            raise ConfigError.of(
                where,
                f"the pattern {pattern[:40]!r} cannot be used",
                f"Use 1 to {LONGEST_TEXT} printable characters, such as CN=enb-*,O=Operator or "
                "dns:enb-*.example.net",
            )
    for pattern in sans:
        if pattern != "*" and not pattern.startswith(GENERAL_NAME_KINDS):
            raise ConfigError.of(
                where,
                f"the pattern {pattern[:40]!r} fits no SubjectAltName",
                "Begin it with the kind of name, such as dns:enb-*.example.net or ip:192.0.2.*; uri:, email: and dn: "
                "are others",
            )
    subjects = tuple(map(plain_rfc4514, subjects))
    sans = tuple(map(plain_general_name, sans))
    unfit = [*map(unfit_attribute, subjects)]
    unfit += [unfit_general_name(pattern) for pattern in sans if pattern != "*"]
    for why in filter(None, unfit):
        todo = "Write patterns like CN=enb-*,O=Operator, with all attributes, and dns:enb-*.example.net"
        raise ConfigError.of(where, f"a pattern fits no name: {why}", todo)
    return subjects, sans


def _require_role(role: Role) -> None:
    _require_name("role", role.name)
    if not role.privileges:
        raise ConfigError.of(
            f"role {role.name}",
            "lets nothing be done",
            f"Give it some of the privileges {', '.join(Privilege)}",
        )
    if not role.profiles or len(set(role.profiles)) != len(role.profiles):
        raise ConfigError.of(
            f"role {role.name}",
            "names no certificate profile, or one twice",
            "Name those it may ask for, the usual one first; `ra-gateway ca profiles` lists them",
        )
    if role.others and not (role.subjects or role.sans):
        raise ConfigError.of(
            f"role {role.name}",
            "may act for others' certificates, whatever their names",
            'Name the subjects and other names it may act for; "*" stands for any',
        )


def _unknown_role(name: str) -> NoReturn:
    raise ConfigError.of(
        f"role {name}",
        "does not exist",
        f"Make it with `ra-gateway ca role add {name}`; `ra-gateway ca role list` shows all there are",
    )


def _put(
    connection: Connection,
    table: Table,
    name: str,
    values: Mapping[str, Any],
    made: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, str]:
    """Change a row, or make it; return it as it is then, for the audit trail.

    Args:
        made: What it has besides where it is made.
    """
    change = update(table).where(table.c.name == name).values(values)
    if not connection.execute(change).rowcount:
        connection.execute(insert(table).values(name=name, **made, **values))
    row = connection.execute(select(table).where(table.c.name == name)).one()
    return audit.facts(table, row._asdict())


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
        raise ConfigError.of(
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
        raise ConfigError.of(
            f"ra {name}", f"not a certificate: {error.detail}", "Give the RA's own, in PEM"
        ) from error
    if is_ca:
        raise ConfigError.of(
            f"ra {name}",
            f"the certificate of {certificate.subject} is a CA's",
            "Give the one of the RA's own key: nothing that the CA's key signs may pass for the RA's",
        )
    if certificate.not_after < now:
        raise ConfigError.of(
            f"ra {name}",
            f"the certificate of {certificate.subject} expired {certificate.not_after:%Y-%m-%d}",
            "Issue a new one with `ra-gateway ca ra issue`",
        )
    return certificate


def _require_authority(connection: Connection, name: str) -> None:
    if connection.scalar(select(_authorities.c.name).where(_authorities.c.name == name)) is None:
        unknown("ra", name)


# --- problems -------------------------------------------------------------------------------------------------


def _require_name(kind: str, name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ConfigError.of(
            f"{kind} {name[:80]!r}",
            "is not a possible name",
            "Use letters, digits, - and _, at most 64, the first a letter or a digit",
        )
