"""The first tables of the ledger. What this makes stays as it is; what comes later is a revision of its own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NUMBER, _SMALL, _TEXT, _OCTETS = sa.BigInteger, sa.SmallInteger, sa.Text, sa.LargeBinary


def upgrade() -> None:
    _table(
        "audit",
        sa.Column("number", _ID, autoincrement=False, nullable=False),
        *_columns(_NUMBER, "at"),
        *_columns(_TEXT, "actor", "action", "subject", "detail"),
        *_columns(_OCTETS, "previous_hash", "hash"),
        key=("number",),
    )
    _table(
        "audit_head",
        sa.Column("id", _SMALL(), autoincrement=False, nullable=False),
        *_columns(_NUMBER, "number"),
        *_columns(_OCTETS, "hash"),
        sa.CheckConstraint("id = 1", name=op.f("audit_head_one_row_check")),
        key=("id",),
    )
    _table(
        "certificates",
        sa.Column("id", _ID, nullable=False),
        *_columns(_TEXT, "serial", "status", "requester", "entity"),
        *_columns(_OCTETS, "subject_key"),
        *_columns(_TEXT, "issuer_id", "profile"),
        *_columns(_OCTETS, "spki_digest"),
        *_columns(_SMALL, "unique_key"),
        *_columns(_NUMBER, "reserved_at"),
        *_columns(_NUMBER, "issued_at", "changed_at", "not_before", "not_after", nullable=True),
        *_columns(_NUMBER, "confirm_by", "revoked_at", nullable=True),
        *_columns(_SMALL, "reason", nullable=True),
        *_columns(_TEXT, "held_from", nullable=True),
        *_columns(_OCTETS, "fingerprint", "der", nullable=True),
        sa.CheckConstraint(
            "status = 'reserved' OR der IS NOT NULL", name=op.f("certificates_issued_has_der_check")
        ),
        sa.UniqueConstraint("serial", name=op.f("certificates_serial_key")),
        key=("id",),
    )
    op.create_index("certificates_by_entity", "certificates", ["entity", "id"])
    op.create_index("certificates_by_key", "certificates", ["spki_digest"])
    op.create_index("certificates_by_status", "certificates", ["status", "confirm_by"])
    listed = _where("reason IS NOT NULL")
    op.create_index("certificates_on_crl", "certificates", ["issuer_id", "not_after"], **listed)
    op.create_index(
        "certificates_on_delta_crl", "certificates", ["issuer_id", "changed_at"], **listed
    )
    _table(
        "crls",
        *_columns(_TEXT, "issuer_id"),
        *_columns(_NUMBER, "number"),
        *_columns(_NUMBER, "base_number", nullable=True),
        *_columns(_NUMBER, "this_update", "next_update"),
        *_columns(_OCTETS, "der"),
        key=("issuer_id", "number"),
    )
    full = _where("base_number IS NULL")
    op.create_index("crls_full", "crls", ["issuer_id", "number"], **full)
    _table(
        "entities",
        *_columns(_TEXT, "name", "subject"),
        *_columns(_OCTETS, "subject_key"),
        *_columns(_TEXT, "names", "profile", "vendor", "identity", "status", "created_by"),
        *_columns(_NUMBER, "created_at"),
        *_columns(_NUMBER, "enroll_until", nullable=True),
        sa.UniqueConstraint("subject_key", name=op.f("entities_subject_key_key")),
        key=("name",),
        sqlite_with_rowid=False,
    )
    named = _where("identity <> ''")
    op.create_index(
        "entities_by_identity", "entities", ["vendor", "identity"], unique=True, **named
    )
    _table(
        "operations",
        *_columns(_OCTETS, "key"),
        *_columns(_TEXT, "requester"),
        *_columns(_OCTETS, "transaction_id", "request_digest"),
        *_columns(_SMALL, "body_type"),
        *_columns(_TEXT, "cert_req_id"),
        *_columns(_OCTETS, "signer_der"),
        *_columns(_TEXT, "serial"),
        *_columns(_TEXT, "old_serial", nullable=True),
        *_columns(_OCTETS, "response_nonce", "answer"),
        *_columns(_NUMBER, "confirm_by", nullable=True),
        *_columns(_OCTETS, "confirm_digest", "confirm_answer"),
        *_columns(_NUMBER, "expires_at"),
        key=("key",),
    )
    op.create_index("operations_by_expiry", "operations", ["expires_at"])
    _table("roles", *_columns(_TEXT, "name", "privileges", "profiles"), key=("name",))
    _table(
        "authorities",
        *_columns(_TEXT, "name", "role"),
        *_columns(_SMALL, "enabled"),
        *_columns(_NUMBER, "created_at"),
        sa.ForeignKeyConstraint(["role"], ["roles.name"], name=op.f("authorities_role_fkey")),
        key=("name",),
    )
    _table(
        "authority_certificates",
        sa.Column("id", _ID, nullable=False),
        *_columns(_TEXT, "authority"),
        *_columns(_OCTETS, "fingerprint", "der"),
        *_columns(_NUMBER, "added_at"),
        sa.ForeignKeyConstraint(
            ["authority"],
            ["authorities.name"],
            name=op.f("authority_certificates_authority_fkey"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("fingerprint", name=op.f("authority_certificates_fingerprint_key")),
        key=("id",),
    )
    op.create_index("authority_certificates_by_authority", "authority_certificates", ["authority"])
    op.execute(
        sa.text("INSERT INTO audit_head VALUES (1, 0, :hash)").bindparams(
            sa.bindparam("hash", bytes(32), sa.LargeBinary())
        )
    )


def _columns(kind: Any, *names: str, nullable: bool = False) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind(), nullable=nullable) for name in names]


def _table(name: str, *parts: Any, key: tuple[str, ...], **options: Any) -> None:
    op.create_table(
        name, *parts, sa.PrimaryKeyConstraint(*key, name=op.f(f"{name}_pkey")), **options
    )


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}
