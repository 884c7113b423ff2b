"""The first tables of the ledger. This file stays as it is; what comes later is a revision of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("audit_pkey")),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("audit_head_one_row_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_head_pkey")),
    )
    op.create_table(
        "certificates",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("requester", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("subject_key", sa.LargeBinary(), nullable=False),
        sa.Column("issuer_id", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("spki_digest", sa.LargeBinary(), nullable=False),
        sa.Column("unique_key", sa.SmallInteger(), nullable=False),
        sa.Column("reserved_at", sa.BigInteger(), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=True),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("not_after", sa.BigInteger(), nullable=True),
        sa.Column("confirm_by", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.SmallInteger(), nullable=True),
        sa.Column("held_from", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("der", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "status = 'reserved' OR der IS NOT NULL", name=op.f("certificates_issued_has_der_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("certificates_pkey")),
        sa.UniqueConstraint("serial", name=op.f("certificates_serial_key")),
    )
    op.create_index("certificates_by_entity", "certificates", ["entity", "id"], unique=False)
    op.create_index("certificates_by_key", "certificates", ["spki_digest"], unique=False)
    op.create_index(
        "certificates_by_status", "certificates", ["status", "confirm_by"], unique=False
    )
    op.create_index(
        "certificates_on_crl",
        "certificates",
        ["issuer_id", "not_after"],
        unique=False,
        sqlite_where=sa.text("reason IS NOT NULL"),
        postgresql_where=sa.text("reason IS NOT NULL"),
    )
    op.create_index(
        "certificates_on_delta_crl",
        "certificates",
        ["issuer_id", "changed_at"],
        unique=False,
        sqlite_where=sa.text("reason IS NOT NULL"),
        postgresql_where=sa.text("reason IS NOT NULL"),
    )
    op.create_table(
        "crls",
        sa.Column("issuer_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("base_number", sa.BigInteger(), nullable=True),
        sa.Column("this_update", sa.BigInteger(), nullable=False),
        sa.Column("next_update", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("issuer_id", "number", name=op.f("crls_pkey")),
    )
    op.create_index(
        "crls_full",
        "crls",
        ["issuer_id", "number"],
        unique=False,
        sqlite_where=sa.text("base_number IS NULL"),
        postgresql_where=sa.text("base_number IS NULL"),
    )
    op.create_table(
        "entities",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_key", sa.LargeBinary(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("enroll_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("entities_pkey")),
        sa.UniqueConstraint("subject_key", name=op.f("entities_subject_key_key")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "entities_by_identity",
        "entities",
        ["vendor", "identity"],
        unique=True,
        sqlite_where=sa.text("identity <> ''"),
        postgresql_where=sa.text("identity <> ''"),
    )
    op.create_table(
        "operations",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("requester", sa.Text(), nullable=False),
        sa.Column("transaction_id", sa.LargeBinary(), nullable=False),
        sa.Column("request_digest", sa.LargeBinary(), nullable=False),
        sa.Column("body_type", sa.SmallInteger(), nullable=False),
        sa.Column("cert_req_id", sa.Text(), nullable=False),
        sa.Column("signer_der", sa.LargeBinary(), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("old_serial", sa.Text(), nullable=True),
        sa.Column("response_nonce", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("confirm_by", sa.BigInteger(), nullable=True),
        sa.Column("confirm_digest", sa.LargeBinary(), nullable=False),
        sa.Column("confirm_answer", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("operations_pkey")),
    )
    op.create_index("operations_by_expiry", "operations", ["expires_at"], unique=False)
    op.create_table(
        "roles",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("privileges", sa.Text(), nullable=False),
        sa.Column("profiles", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("roles_pkey")),
    )
    op.create_table(
        "authorities",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("enabled", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["role"], ["roles.name"], name=op.f("authorities_role_fkey")),
        sa.PrimaryKeyConstraint("name", name=op.f("authorities_pkey")),
    )
    op.create_table(
        "authority_certificates",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["authority"],
            ["authorities.name"],
            name=op.f("authority_certificates_authority_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("authority_certificates_pkey")),
        sa.UniqueConstraint("fingerprint", name=op.f("authority_certificates_fingerprint_key")),
    )
    op.create_index(
        "authority_certificates_by_authority", "authority_certificates", ["authority"], unique=False
    )
    op.execute(
        sa.text("INSERT INTO audit_head VALUES (1, 0, :hash)").bindparams(
            sa.bindparam("hash", bytes(32), sa.LargeBinary())
        )
    )
