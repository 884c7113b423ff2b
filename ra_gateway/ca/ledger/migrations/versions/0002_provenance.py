"""Who vouched for a certificate's device, names that roles and RAs are bound to, names and keys withheld.

Devices without a subject were one end entity called "" before: each gets the identity that its SubjectAltName is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from ra_gateway.ca.ledger import audit, withholding
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.sql import identity_key, nameless_name
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import NULL_DN, general_names

revision = "0002"
down_revision = "0001"

CHUNK = 500
_ACTOR = "migration"
PKI_PROFILES = ("ra", "cmp_signer", "ocsp_signer", "kga_signer")


def upgrade() -> None:
    for table in ("roles", "authorities"):
        for name in ("subjects", "sans"):
            op.add_column(table, sa.Column(name, sa.Text(), nullable=False, server_default="[]"))
    op.add_column(
        "roles", sa.Column("others", sa.SmallInteger(), nullable=False, server_default="0")
    )
    op.add_column("certificates", sa.Column("origin", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "withheld",
        sa.Column("identifier", sa.LargeBinary(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("identifier", "entity", name=op.f("withheld_pkey")),
    )
    op.create_index("withheld_by_entity", "withheld", ["entity"], unique=False)
    connection = op.get_bind()
    _origins(connection)
    _nameless(connection)
    _register(connection)
    _withhold(connection)


def _origins(connection: sa.Connection) -> None:
    """Fill in who vouched at first where it is not the requester: a renewal in client mode keeps what there was."""
    of_serial = sa.text(
        "SELECT COALESCE(NULLIF(origin, ''), requester) FROM certificates WHERE serial = :serial"
    )
    change = sa.text("UPDATE certificates SET origin = :origin WHERE serial = :serial")
    changed: dict[str, dict[str, str]] = {}
    renewals = sa.text(
        "SELECT number, subject, detail FROM audit WHERE number > :after AND action = 'issue' "
        "AND actor = 'client' AND detail LIKE '%\"renews\"%' ORDER BY number LIMIT :most"
    )
    after = 0
    while rows := connection.execute(renewals, {"after": after, "most": CHUNK}).all():
        for _, serial, detail in rows:
            origin = connection.scalar(of_serial, {"serial": json.loads(detail)["renews"]})
            if origin not in (None, "client"):
                connection.execute(change, {"serial": serial, "origin": origin})
                changed[serial] = {"origin": origin}
        after = rows[-1].number
    # What was made in RA mode had no certificate in client mode but by one that an RA vouched for.
    made = sa.text(
        "SELECT serial, created_by FROM certificates JOIN entities ON entities.name = entity "
        "WHERE requester = 'client' AND origin = '' AND der IS NOT NULL AND vendor = '' "
        "AND created_by <> 'operator'"
    )
    for serial, origin in connection.execute(made).all():
        connection.execute(change, {"serial": serial, "origin": origin})
        changed[serial] = {"origin": origin}
    _audit(connection, changed)


def _nameless(connection: sa.Connection) -> None:
    """Give each device without a subject an end entity of its own, blocked if all of them were."""
    was = connection.execute(sa.text("SELECT * FROM entities WHERE name = ''")).mappings().first()
    change = sa.text("UPDATE certificates SET entity = :name, subject_key = :key WHERE id = :id")
    made: dict[bytes, str] = {}
    changed: dict[str, dict[str, str]] = {}
    for row in list(_certificates(connection, "entity = ''")):
        certificate = Certificate.from_der(row.der)
        if certificate.subject_der != NULL_DN:
            continue
        san_der = certificate.subject_alt_name_der
        key = identity_key(NULL_DN, san_der)
        if key not in made:
            made[key] = name = nameless_name(san_der, key)
            names = json.dumps(general_names(san_der) if san_der else [])
            own = {"name": name, "subject": "", "subject_key": key, "names": names}
            connection.execute(_ENTITIES.insert(), {**(was or _NEW), **own})
        connection.execute(change, {"id": row.id, "name": made[key], "key": key})
        changed[f"{certificate.serial_number:x}"] = {"entity": made[key]}
    connection.execute(sa.text("DELETE FROM entities WHERE name = ''"))
    at = int(time.time())
    acts = [Act(at, _ACTOR, "entity.add", name, {}) for name in made.values()]
    if was is not None:
        acts.append(Act(at, _ACTOR, "entity.delete", "", {"subject": ""}))
        if was["status"] == "blocked":
            acts += [Act(at, _ACTOR, "entity.block", name, {}) for name in made.values()]
    audit.append(connection, acts)
    _audit(connection, changed)


def _audit(connection: sa.Connection, changed: dict[str, dict[str, str]]) -> None:
    """Have the audit trail say what becomes of certificates, so that `ca verify` does not take it for tampering."""
    at, serials, acts = int(time.time()), sorted(changed), []
    for start in range(0, len(serials), CHUNK):
        detail = {serial: json.dumps(changed[serial]) for serial in serials[start : start + CHUNK]}
        acts.append(Act(at, _ACTOR, "migrate", revision, detail))
    audit.append(connection, acts)


def _withhold(connection: sa.Connection) -> None:
    """Withhold the names and keys of the PKI's own, and of end entities that are blocked."""
    listed = ", ".join(f"'{name}'" for name in PKI_PROFILES)
    for row in list(_certificates(connection, f"profile IN ({listed})")):
        withholding.withhold(connection, "", [Certificate.from_der(row.der)])
    for (der,) in connection.execute(sa.text("SELECT der FROM authority_certificates")).all():
        withholding.withhold(connection, "", [Certificate.from_der(der)])
    for (name,) in connection.execute(
        sa.text("SELECT name FROM entities WHERE status = 'blocked'")
    ).all():
        withholding.withhold_entity(connection, name)


def _register(connection: sa.Connection) -> None:
    """Withhold the names that are registered for client mode from RAs."""
    rows = connection.execute(
        sa.text("SELECT name, subject, vendor, names FROM entities WHERE vendor <> ''")
    )
    withholding.withhold_registered(connection, [dict(row) for row in rows.mappings()])


def _certificates(connection: sa.Connection, condition: str) -> Iterator[sa.Row[Any]]:
    page = sa.text(
        f"SELECT id, der FROM certificates WHERE {condition} AND der IS NOT NULL "  # noqa: S608 - constants
        "AND id > :after ORDER BY id LIMIT :most"
    )
    after = 0
    while rows := connection.execute(page, {"after": after, "most": CHUNK}).all():
        yield from rows
        after = rows[-1].id


_ENTITIES = sa.table(
    "entities",
    *map(sa.column, ("name", "subject", "subject_key", "names", "profile", "vendor", "identity")),
    *map(sa.column, ("status", "created_by", "created_at", "enroll_until")),
)
_NEW = {
    "profile": "",
    "vendor": "",
    "identity": "",
    "status": "active",
    "created_by": "operator",
    "created_at": 0,
    "enroll_until": None,
}
