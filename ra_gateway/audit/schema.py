"""The tables of the audit trail, the same in SQLite and PostgreSQL.

What is searched for stands in columns of its own beside the detail that it is copied from: the chain binds the detail,
and whoever verifies compares the copies with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)

_ID: Final = BigInteger().with_variant(Integer(), "sqlite")
# By octets in both: then what begins with a text is a range of the index, whatever the language of the server.
_FOUND: Final = Text().with_variant(Text(collation="C"), "postgresql")

COPIES: Final[Mapping[str, str]] = {
    "transaction_id": "transaction_id",
    "signer": "signer",
    "serial_number": "serial_number",
    "domain": "domain",
    "rule": "rule",
    "outcome": "outcome",
}
"""Columns that are found by, and the key of the detail that each is copied from."""

metadata: Final = MetaData()

records: Final = Table(
    "gateway_audit",
    metadata,
    Column("number", _ID, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),  # milliseconds since 1970, UTC
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", _FOUND, nullable=False),
    Column("detail", Text, nullable=False),  # JSON object
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    *(Column(name, _FOUND) for name in COPIES),  # NULL where the detail has none
)

head: Final = Table(
    "gateway_audit_head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),  # always 1
    Column("format", SmallInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="gateway_audit_one_row"),
)
"""Where the chain ends: one row that all who append lock, so that it does not fork."""

FORMAT: Final = 1
"""Of these tables."""

_r = records.c
INDICES: Final = (
    Index("gateway_audit_by_time", _r.at, _r.number),
    Index("gateway_audit_by_action", _r.action, _r.at, _r.number),
    *(
        Index(
            f"gateway_audit_by_{column.name}",
            column,
            _r.at,
            _r.number,
            sqlite_where=column.is_not(None),
            postgresql_where=column.is_not(None),
        )
        for column in (_r.transaction_id, _r.signer, _r.serial_number, _r.rule)
    ),
    Index(
        "gateway_audit_by_subject",
        _r.subject,
        _r.at,
        _r.number,
        sqlite_where=_r.subject != "",
        postgresql_where=_r.subject != "",
    ),
)
"""What is asked for comes in the order of time, out of as many rows as there are of it."""


def copies(detail: Mapping[str, str]) -> dict[str, str | None]:
    """Return the columns that a detail is found by."""
    return {column: detail.get(key) or None for column, key in COPIES.items()}
