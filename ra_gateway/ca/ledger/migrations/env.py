"""What Alembic runs first: it works on the connection it is given, inside its transaction."""

from __future__ import annotations

from alembic import context

from ra_gateway.ca.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's too: the transaction was begun explicitly
)
context.run_migrations()
