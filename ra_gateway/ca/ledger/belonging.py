"""Whose ledger a ledger is: the issuing CAs that its certificates and CRLs name."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, select, true
from sqlalchemy.exc import SQLAlchemyError

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import CMPError, ConfigError


def issuer_ids(certificates: Iterable[Certificate]) -> frozenset[str]:
    """Return the names under which a ledger knows issuing CAs: their key identifiers, in hex."""
    return frozenset((item.subject_key_identifier or b"").hex() for item in certificates)


async def require_own_ledger(ledger: Ledger, issuers: Collection[str]) -> None:
    """Refuse the ledger of another CA; the empty one is anybody's.

    Args:
        ledger: Open.
        issuers: All issuing CAs of this one, retired ones too, by `issuer_ids`.

    Raises:
        ConfigError: It names issuing CAs, and none of these.
        StoreUnavailable: The database does not answer.
    """
    await ledger.database.read_state(
        lambda connection: require_own_rows(connection, issuers, "ledger")
    )


def require_own_file(path: Path, issuers: Collection[str]) -> None:
    """Refuse what `require_own_ledger` refuses, as far as a file of SQLite shows it; nothing is made or locked.

    Raises:
        ConfigError: As `require_own_ledger`.
    """

    def connect() -> sqlite3.Connection:
        # What is in the write-ahead log alone is seen when it is opened to be used.
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            require_own_rows(connection, issuers, "ca.ledger_path")
    except SQLAlchemyError:
        return  # it is not there, of an older release, or changing: whoever opens it says what is wrong


def require_own_rows(connection: Connection, issuers: Collection[str], where: str) -> None:
    """Refuse what `require_own_ledger` refuses, in whatever transaction this is.

    Args:
        where: Names the ledger in the refusal.

    Raises:
        ConfigError: As `require_own_ledger`.
    """
    certificates, crls = schema.certificates.c, schema.crls.c
    issued = certificates.der.is_not(None)
    # A large ledger of our own is known by its first row; only another CA's is read to its end.
    for column, condition in ((certificates.issuer_id, issued), (crls.issuer_id, true())):
        mine = select(column).where(condition, column.in_(issuers)).limit(1)
        if connection.scalar(mine) is not None:
            return
    first = select(certificates.issuer_id, certificates.der).where(issued).limit(1)
    found, der = connection.execute(first).one_or_none() or (None, None)
    found = found or connection.scalar(select(crls.issuer_id).limit(1))
    if found is None:
        return
    try:
        name = "" if der is None else f" {Certificate.from_der(der).issuer}"
    except CMPError:
        name = ""
    raise ConfigError.of(
        where,
        f"is of another CA: its certificates and CRLs are of{name} (key identifier {found}), and "
        "ca.directory_path has no such issuing CA",
        "Give the ledger of this CA, or its directory in ca.directory_path, with all of retired/",
    )
