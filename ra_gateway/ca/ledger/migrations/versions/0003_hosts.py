"""Hosts and addresses that subjects name are withheld too, and addresses of IPv4 in one form."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from ra_gateway.ca.ledger import withholding
from ra_gateway.cmp.certificates import Certificate

revision = "0003"
down_revision = "0002"

_PKI_PROFILES = ("ra", "cmp_signer", "ocsp_signer", "kga_signer")


def upgrade() -> None:
    connection = op.get_bind()
    names = connection.execute(
        sa.text("SELECT name FROM entities WHERE vendor <> '' AND name <> '' ORDER BY name")
    )
    for (name,) in names.all():
        withholding.give_back(connection, name)
    blocked = sa.text("SELECT name FROM entities WHERE status = 'blocked' AND name <> ''")
    for (name,) in connection.execute(blocked).all():
        withholding.give_back(connection, name)
        withholding.withhold_entity(connection, name)
    listed = ", ".join(f"'{name}'" for name in _PKI_PROFILES)
    own = sa.text(
        f"SELECT der FROM certificates WHERE profile IN ({listed}) AND der IS NOT NULL "  # noqa: S608 - constants
        "UNION ALL SELECT der FROM authority_certificates"
    )
    for (der,) in connection.execute(own).all():
        withholding.withhold(connection, "", [Certificate.from_der(der)])
