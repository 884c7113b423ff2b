"""The tables of the ledger, the same on SQLite and on PostgreSQL.

Times are whole seconds since 1970 (UTC), serial numbers hexadecimal texts, lists JSON texts. What may be of any
length (a name, a transactionID) is found by its SHA-256: the index entries of both databases are bounded.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

HEAD: Final = "0004"
"""Revision of the migrations that makes what is declared here."""

# Only INTEGER is SQLite's own row number.
_ID: Final = BigInteger().with_variant(Integer(), "sqlite")


class Blob(LargeBinary):
    """Octets that go to the driver as they are; SQLAlchemy would wrap each value."""

    def bind_processor(self, dialect: Any) -> None:
        """Return that there is nothing to do."""
        return None


metadata: Final = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)


def _where(condition: str) -> dict[str, Any]:
    """Return what makes an index one of some rows only."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


certificates: Final = Table(
    "certificates",
    metadata,
    Column("id", _ID, primary_key=True),  # grows with the order of reservation
    Column("serial", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("requester", Text, nullable=False),
    # A name and no reference: it outlives the entity; "": the CA's signers.
    Column("entity", Text, nullable=False),
    Column("subject_key", Blob(), nullable=False),  # see `sql.identity_key`
    Column("issuer_id", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("spki_digest", Blob(), nullable=False),
    Column("unique_key", SmallInteger, nullable=False),  # 1: nobody else may have this key
    Column("reserved_at", BigInteger, nullable=False),
    Column("issued_at", BigInteger),
    Column("changed_at", BigInteger),  # when it got its present status
    Column("not_before", BigInteger),
    Column("not_after", BigInteger),
    Column("confirm_by", BigInteger),  # NULL once it needs no confirmation
    Column("revoked_at", BigInteger),
    Column("reason", SmallInteger),  # CRLReason; removeFromCRL: was on hold once
    Column("held_from", Text),  # on hold: the status to which it is released
    Column("fingerprint", Blob()),  # SHA-256
    Column("der", Blob()),
    # Who vouched for the device at first; "": the requester.
    Column("origin", Text, nullable=False, server_default=""),
    # Whose the device is, and what its vendor calls it; for people alone, and without an index: issuing pays for those.
    Column("vendor", Text, nullable=False, server_default=""),
    Column("identity", Text, nullable=False, server_default=""),
    UniqueConstraint("serial"),
    CheckConstraint("status = 'reserved' OR der IS NOT NULL", name="issued_has_der"),
    Index("certificates_by_entity", "entity", "id"),
    Index("certificates_by_key", "spki_digest"),
    Index("certificates_by_status", "status", "confirm_by"),
    Index("certificates_on_crl", "issuer_id", "not_after", **_where("reason IS NOT NULL")),
    Index("certificates_on_delta_crl", "issuer_id", "changed_at", **_where("reason IS NOT NULL")),
)
"""Serial numbers and what became of them; a row is never deleted, so that none is used twice."""

operations: Final = Table(
    "operations",
    metadata,
    Column("key", Blob(), primary_key=True),  # see `sql.operation_key`
    Column("requester", Text, nullable=False),
    Column("transaction_id", Blob(), nullable=False),
    Column("request_digest", Blob(), nullable=False),
    Column("body_type", SmallInteger, nullable=False),
    Column("cert_req_id", Text, nullable=False),  # an INTEGER of any length
    Column("signer_der", Blob(), nullable=False),
    Column("serial", Text, nullable=False),
    Column("old_serial", Text),
    Column("response_nonce", Blob(), nullable=False),
    Column("answer", Blob(), nullable=False),  # empty until there is one
    Column("confirm_by", BigInteger),
    Column("confirm_digest", Blob(), nullable=False),
    Column("confirm_answer", Blob(), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("operations_by_expiry", "expires_at"),
)
"""Claims on transactionIDs and the answers given; deleted when they have expired."""

entities: Final = Table(
    "entities",
    metadata,
    Column("name", Text, primary_key=True),
    Column("subject", Text, nullable=False),  # RFC 4514, for people
    Column("subject_key", Blob(), nullable=False),
    Column("names", Text, nullable=False),  # JSON list
    Column("profile", Text, nullable=False),
    Column("vendor", Text, nullable=False),
    Column("identity", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("enroll_until", BigInteger),
    UniqueConstraint("subject_key"),
    Index("entities_by_identity", "vendor", "identity", unique=True, **_where("identity <> ''")),
    sqlite_with_rowid=False,  # one tree fewer to write to
)

roles: Final = Table(
    "roles",
    metadata,
    Column("name", Text, primary_key=True),
    Column("privileges", Text, nullable=False),  # JSON list, sorted
    Column("profiles", Text, nullable=False),  # JSON list, in order
    Column("subjects", Text, nullable=False, server_default="[]"),  # JSON list of patterns
    Column("sans", Text, nullable=False, server_default="[]"),
    Column("others", SmallInteger, nullable=False, server_default="0"),
)

authorities: Final = Table(
    "authorities",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, ForeignKey("roles.name"), nullable=False),
    Column("enabled", SmallInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("subjects", Text, nullable=False, server_default="[]"),  # JSON list of patterns
    Column("sans", Text, nullable=False, server_default="[]"),
)

authority_certificates: Final = Table(
    "authority_certificates",
    metadata,
    Column("id", _ID, primary_key=True),  # grows with the order of addition
    Column("authority", Text, ForeignKey("authorities.name", ondelete="CASCADE"), nullable=False),
    Column("fingerprint", Blob(), nullable=False),  # SHA-256; tells one authority
    Column("der", Blob(), nullable=False),
    Column("added_at", BigInteger, nullable=False),
    UniqueConstraint("fingerprint"),
    Index("authority_certificates_by_authority", "authority"),
)

withheld: Final = Table(
    "withheld",
    metadata,
    Column("identifier", Blob(), nullable=False),  # of a name or a key: see `sql.name_identifiers`
    Column("entity", Text, nullable=False),  # for whose sake; "": the PKI's own
    PrimaryKeyConstraint("identifier", "entity"),
    Index("withheld_by_entity", "entity"),
)
"""Names and keys that are somebody's alone: the PKI's, a blocked end entity's, or registered for client mode."""

crls: Final = Table(
    "crls",
    metadata,
    Column("issuer_id", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("base_number", BigInteger),  # NULL: a full one
    Column("this_update", BigInteger, nullable=False),
    Column("next_update", BigInteger, nullable=False),
    Column("der", Blob(), nullable=False),
    PrimaryKeyConstraint("issuer_id", "number"),
    Index("crls_full", "issuer_id", "number", **_where("base_number IS NULL")),
)

audit: Final = Table(
    "audit",
    metadata,
    Column("number", _ID, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON object
    Column("previous_hash", Blob(), nullable=False),
    Column("hash", Blob(), nullable=False),
)

audit_head: Final = Table(
    "audit_head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),  # always 1
    Column("number", BigInteger, nullable=False),
    Column("hash", Blob(), nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
"""Where the chain of `audit` ends: one row, made by the migration, that all who append lock."""
