"""Whose a certificate's device is, and what its vendor calls it; nobody said so before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("vendor", "identity"):
        op.add_column("certificates", sa.Column(name, sa.Text(), nullable=False, server_default=""))
