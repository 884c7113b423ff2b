"""Whose ledger a ledger is: the issuing CAs that its certificates and CRLs name."""

from __future__ import annotations

from collections.abc import Container

from sqlalchemy import Connection, select

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import CMPError, ConfigError


async def require_own(ledger: Ledger, issuers: Container[str]) -> None:
    """Refuse the ledger of another CA; the empty one is anybody's.

    Args:
        issuers: All issuing CAs of this one, retired ones too, by `issuer_id`.

    Raises:
        ConfigError: It names issuing CAs, and none of these.
        StoreUnavailable: The database does not answer.
    """
    await ledger.database.read(lambda connection: require_own_rows(connection, issuers, "ledger"))


def require_own_rows(connection: Connection, issuers: Container[str], where: str) -> None:
    """Refuse what `require_own` refuses, in whatever transaction this is.

    Args:
        where: Names the ledger in the refusal.

    Raises:
        ConfigError: As `require_own`.
    """
    certificates, crls = schema.certificates.c, schema.crls.c
    issued = certificates.der.is_not(None)
    named = select(certificates.issuer_id).where(issued).union(select(crls.issuer_id))
    found = sorted(connection.scalars(named))
    if not found or any(item in issuers for item in found):
        return
    of_first = select(certificates.der).where(issued, certificates.issuer_id == found[0]).limit(1)
    der = connection.scalar(of_first)
    try:
        name = "" if der is None else f" {Certificate.from_der(der).issuer}"
    except CMPError:
        name = ""
    raise ConfigError.of(
        where,
        f"is of another CA: its certificates and CRLs are of{name} (key identifier {found[0]}), and "
        "ca.directory_path has no such issuing CA",
        "Give the ledger of this CA, or its directory in ca.directory_path, with all of retired/",
    )
