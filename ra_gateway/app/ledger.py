"""The bundled CA's ledger that a configuration asks for, for services and for commands."""

from __future__ import annotations

from typing import Final

from ra_gateway.ca.ledger.checkpoints import CHECKPOINTS, Checkpoints
from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import ConfigError
from ra_gateway.events import EventSink, unheard

_SQLITE: Final = b"SQLite format 3\0"


def ca_ledger(config: CAConfig, sink: EventSink = unheard) -> Ledger:
    """Return the CA's ledger; nothing is opened yet."""
    return open_ledger(config.database, sink)


def require_database(config: CAConfig) -> None:
    """Refuse another file than SQLite's in place of the ledger; one that is not there yet is made.

    Raises:
        ConfigError: It is something else.
    """
    begin = b""
    if config.ledger_path is not None and config.ledger_path.is_file():
        with config.ledger_path.open("rb") as stream:
            begin = stream.read(len(_SQLITE))
    if begin and begin != _SQLITE:
        raise ConfigError.of(
            "ca.ledger_path",
            f"{config.ledger_path} is no database of SQLite",
            "Give the ledger of a bundled CA, or a path where nothing is yet",
        )


def ca_checkpoints(config: CAConfig) -> Checkpoints:
    """Return where the CA writes down how far its audit trail goes."""
    directory = config.directory_path if config.ledger_path is None else config.ledger_path.parent
    return Checkpoints(config.checkpoints_path or directory / CHECKPOINTS)
