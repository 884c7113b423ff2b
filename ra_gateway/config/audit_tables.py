"""What a service is told of its audit trail."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ra_gateway.config.values import DatabaseURLPath
from ra_gateway.settings.files import SecretPath, WrittenPath
from ra_gateway.settings.values import APIURL, Named, Seconds, Table, wrong
from ra_gateway.upstream.tables import OverHTTP


def _syslog_address(text: str) -> str:
    if text.startswith("unix:/"):
        return text
    scheme, separator, place = text.partition("://")
    host, _, port = place.rpartition(":")
    usable = (
        (port.isascii() and port.isdigit() and 0 < int(port) < 65536) if len(port) < 6 else False
    )
    if scheme not in ("udp", "tcp") or not separator or not host or not usable:
        raise wrong(
            "is no address of a syslog server",
            "Write it like udp://log.example.net:514, tcp://log.example.net:601 or unix:/dev/log.",
        )
    return text


class FileStream(Table):
    """`[audit.streams.<name>]`: records go to a file as well, an object of JSON a line."""

    kind: Literal["file"]
    """ "file": appended to a file."""
    path: WrittenPath
    """Appended to, and made with mode 0640; it may be moved away at any time, as logrotate does."""


class SyslogStream(Table):
    """`[audit.streams.<name>]`: records go to syslog as well (RFC 5424, facility 13), as JSON."""

    kind: Literal["syslog"]
    """ "syslog": sent to a syslog server."""
    address: Annotated[str, AfterValidator(_syslog_address)]
    """Where to, like udp://log.example.net:514, tcp://log.example.net:601 (octet counting, RFC 6587) or
    unix:/dev/log. There is no TLS: to another host, let this machine's syslog forward.
    """


class WebhookStream(OverHTTP):
    """`[audit.streams.<name>]`: records are posted to a service as well, signed as Standard Webhooks has it."""

    kind: Literal["webhook"]
    """ "webhook": posted to a service."""
    url: APIURL
    """Where to post, https: {"records": [...]}, at most 100 at a time; any answer of 2xx takes them."""
    secret_path: SecretPath = Field(repr=False)
    """File with the secret by which they are signed, as of `inventory.http.secret_path`; mode 0600."""


AuditStream = FileStream | SyslogStream | WebhookStream


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
    streams: Named[Annotated[AuditStream, Field(discriminator="kind")]] = Field(default={})
    """`[audit.streams.<name>]`: where each record goes as well, once it is in the database."""
