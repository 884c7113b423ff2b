"""What a service is told of its audit trail."""

from __future__ import annotations

from pydantic import Field

from ra_gateway.config.values import DatabaseURLPath
from ra_gateway.settings.files import WrittenPath
from ra_gateway.settings.values import Seconds, Table


class AuditConfig(Table):
    """The audit trail: who asked what, by which rule it was decided, what was forwarded and issued, and what people
    did, as a chain of records in SQL (docs/audit.md). Without this table there is none; needs the extra `ca`.
    """

    sqlite_path: WrittenPath | None = None
    """File of SQLite, made with mode 0600; processes of one host may share it."""
    url_path: DatabaseURLPath | None = Field(default=None, repr=False)
    """File that holds the URL of a PostgreSQL database, like postgresql://ra:password@db.example.net/audit; mode 0600.
    In place of `sqlite_path`, for several hosts; needs the extra `postgres`. The tables are made where there are none.
    """
    required: bool = False
    """Whether no answer leaves, and nothing goes to a CA, before its record is durable. While the database takes none,
    devices then get HTTP 503 or systemUnavail. By default records follow within a second, and those of the last one may
    be lost where the process is killed.
    """
    wait_seconds: Seconds = Field(default=5.0, le=60)
    """How long an answer waits for its record, with `required`, in seconds. A commit takes milliseconds; the default
    covers a failover of the database, and leaves most of a device's patience (some 30 s) to the CA.
    """
    retention_days: int | None = Field(default=None, ge=1, le=36_500)
    """How long records are kept, in days; older ones leave, and the rest still verifies. By default all are kept."""
    max_waiting: int = Field(default=100_000, ge=1000, le=10_000_000)
    """Most records that wait for a database that takes none; further ones are lost, which is told by log, metric and
    the trail itself. At some 1 kB each the default is 100 MB, and lasts three minutes at 100 enrolments a second.
    """
