"""The bundled CA's ledger that a configuration asks for, for services and for commands."""

from __future__ import annotations

from ra_gateway.ca.ledger.checkpoints import CHECKPOINTS, Checkpoints
from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.events import EventSink, unheard


def ca_ledger(config: CAConfig, sink: EventSink = unheard) -> Ledger:
    """Return the CA's ledger; nothing is opened yet."""
    return open_ledger(config.database, sink)


def ca_checkpoints(config: CAConfig) -> Checkpoints:
    """Return where the CA writes down how far its audit trail goes."""
    directory = config.directory_path if config.ledger_path is None else config.ledger_path.parent
    return Checkpoints(config.checkpoints_path or directory / CHECKPOINTS)
