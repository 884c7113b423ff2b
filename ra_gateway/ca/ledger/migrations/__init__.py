"""How the tables came to be what `schema.py` declares, for Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from ra_gateway.ca.ledger.schema import HEAD


def config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, without a file.

    Args:
        connection: What is migrated.
    """
    made = Config(attributes={"connection": connection})
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


def upgrade(connection: Connection) -> None:
    """Bring the tables to HEAD inside the transaction that the caller began."""
    command.upgrade(config(connection), HEAD)
