"""What people do by hand in the audit trail, and the trail's database, for who has no trail open."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ra_gateway.config.audit_tables import AuditConfig
from ra_gateway.errors import StoreUnavailable, missing_extra
from ra_gateway.events import PersonActed

if TYPE_CHECKING:
    from ra_gateway.audit.database import AuditDatabase


def node() -> str:
    """Return what this process is called in records: its host, and its number there."""
    return f"{socket.gethostname()}:{os.getpid()}"


def clock_ms() -> int:
    """Return milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def audit_database(config: AuditConfig, *, reads_only: bool = False) -> AuditDatabase:
    """Return the database of a trail; nothing is connected yet.

    Raises:
        ConfigError: It cannot be used, or a library is missing.
    """
    try:
        from ra_gateway.audit.database import open_database
    except ModuleNotFoundError as error:
        raise missing_extra("audit", error) from error
    return open_database(config.sqlite_path, config.url_path, reads_only=reads_only)


def record_act(
    config: AuditConfig | None, actor: str, action: str, subject: str, detail: Mapping[str, str]
) -> None:
    """Have the trail say what somebody does by hand, before it is done, and return when that is durable.

    Args:
        actor: Who, as "operator:NAME".
        detail: Facts by the names of the log's fields; no secrets.

    Raises:
        StoreUnavailable: It cannot be recorded, and must be.
    """
    if config is None:
        return
    database = audit_database(config)
    from ra_gateway.audit.appending import append
    from ra_gateway.audit.records import record_of

    record = record_of(
        clock_ms(), PersonActed(actor, action, subject, tuple(detail.items())), node()
    )
    try:
        database.write(lambda connection: append(connection, [record]))
    except StoreUnavailable as error:
        if config.required:
            raise
        import structlog  # takes long, and what is decided by hand is to begin at once

        structlog.get_logger().error(
            "audit.down",
            detail=error.detail,
            todo="what was done by hand is not in the audit trail; write it down",
        )
    finally:
        database.close()
