"""The context of commands on the CA's ledger: the configuration, the open ledger, and who acts."""

from __future__ import annotations

import getpass
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ra_gateway.cli.output import run
from ra_gateway.config.source import Source

if TYPE_CHECKING:
    from ra_gateway.ca.ledger.ledger import Ledger
    from ra_gateway.config.ca_tables import CAConfig

T = TypeVar("T")

OPERATOR = "operator"
"""`created_by` of what the command line makes."""


def actor() -> str:
    """Return who acts, for the audit trail: the user, also behind sudo."""
    try:
        user = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{OPERATOR}:{user}"


def with_ledger(source: Source, work: Callable[[Ledger, CAConfig], Awaitable[T]]) -> T:
    """Run some work on the ledger of a configuration, and return its result.

    Raises:
        ConfigError, StoreUnavailable: It cannot be used.
    """
    from ra_gateway import logs
    from ra_gateway.app.ledger import ca_ledger
    from ra_gateway.config.reading import load_ca

    config = load_ca(source).ca
    logs.configure("console", "warning")  # what is done is said by the command itself

    async def main() -> T:
        ledger = ca_ledger(config)
        await ledger.open()
        try:
            return await work(ledger, config)
        finally:
            await ledger.close()

    return run(main())
