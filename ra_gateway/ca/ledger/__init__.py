"""The CA's memory in SQL: SQLite embedded, or PostgreSQL."""

from ra_gateway.ca.ledger.database import Database
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation, open_ledger
from ra_gateway.ca.ledger.registry import Registry
from ra_gateway.ca.ledger.reserving import SerialTaken

__all__ = ["Database", "Ledger", "LedgerLocation", "Registry", "SerialTaken", "open_ledger"]
