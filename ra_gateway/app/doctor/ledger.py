"""The bundled CA's ledger: can it be used, and who else could read or change it on the way."""

from __future__ import annotations

import os
import ssl
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import text

from ra_gateway.app.doctor.results import Check, Result
from ra_gateway.app.ledger import ca_checkpoints
from ra_gateway.ca.keys import issuing_certificates
from ra_gateway.ca.ledger.belonging import require_own_file, require_own_ledger
from ra_gateway.ca.ledger.database import side_files
from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import ConfigError, StoreUnavailable
from ra_gateway.keys import require_private
from ra_gateway.postgres_url import UnusableURL, parse_postgres_url

_LEDGER: Final = "ledger"
_SKEW: Final = timedelta(minutes=1)
"""Between machines that write to one ledger."""

_TLS: Final = text(
    "SELECT CASE WHEN ssl THEN version || ', ' || cipher ELSE '' END FROM pg_stat_ssl "
    "WHERE pid = pg_backend_pid()"
)


def ledger_warnings(config: CAConfig) -> list[str]:
    """Return what the settings of the ledger leave open to others, in sentences."""
    try:
        where = config.database
        weakness = "" if isinstance(where, Path) else parse_postgres_url(where).weakness
    except (OSError, UnusableURL):
        return []
    if not weakness:
        return []
    return [
        f"Whoever stands between here and the ledger's PostgreSQL server {weakness}. Leave sslmode out of its URL."
    ]


async def examine_ledger(config: CAConfig, now: datetime) -> list[Result]:
    """Look at the ledger's files or its server; nothing is made or migrated.

    Args:
        now: Aware UTC.
    """
    try:
        where = config.database
    except OSError as error:
        what = f"{error.filename}: {error.strerror}"
        return [
            Check(_LEDGER, "read its URL").fault(what, "the CA cannot start", "ca.ledger_url_path")
        ]
    try:
        issuers = issuing_certificates(config.directory_path)
    except ConfigError:
        issuers = {}  # which has a row of its own
    found = _files(where, issuers) if isinstance(where, Path) else await _server(where, issuers)
    return [*found, *_checkpoints(config, now)]


def _files(path: Path, issuers: Collection[str]) -> list[Result]:
    check = Check(_LEDGER, "whose it is")
    try:
        if issuers:
            require_own_file(path, issuers)
    except ConfigError as error:
        return check.problems(error)
    check = Check(_LEDGER, f"who may read {path}")
    for file in (path, *side_files(path)):
        try:
            require_private(file, "ca.ledger_path")
        except ConfigError as error:
            return check.problems(error)
    return [check.ok("its owner" if path.exists() else "it is not made yet")]


async def _server(where: str, issuers: Collection[str]) -> list[Result]:
    check = Check(_LEDGER, "connect to PostgreSQL")
    try:
        url = parse_postgres_url(where)
        ledger = open_ledger(where)
        await ledger.open()
        try:
            if issuers:
                await require_own_ledger(ledger, issuers)
            spoken = await ledger.database.read(lambda connection: connection.scalar(_TLS))
        finally:
            await ledger.close()
    except UnusableURL as error:
        return [check.fault(str(error), error.todo, "ca.ledger_url_path")]
    except ConfigError as error:
        return check.problems(error)
    except (StoreUnavailable, OSError, ssl.SSLError) as error:
        return [
            check.fault(
                str(getattr(error, "detail", error)),
                "the server is not there, refuses the password, or its certificate or name is another",
                "ca.ledger_url_path; sslrootcert in it names the root of the server's certificate",
            )
        ]
    came_back = f"{spoken or 'no TLS'}; sslmode {url.tls}"
    if not url.weakness:
        return [check.ok(came_back)]
    return [
        check.warning(
            came_back,
            f"whoever stands in between {url.weakness}",
            "ca.ledger_url_path: leave sslmode out of the URL",
        )
    ]


def _checkpoints(config: CAConfig, now: datetime) -> list[Result]:
    checkpoints = ca_checkpoints(config)
    check = Check(_LEDGER, f"read {checkpoints.path}")
    try:
        known = checkpoints.read()
    except ConfigError as error:
        return check.problems(error)
    except OSError as error:
        return [
            check.warning(
                str(error.strerror),
                "a trail that was cut off or written anew would not be told",
                "ca.checkpoints_path: a file that the CA may write",
            )
        ]
    if not known and not os.access(checkpoints.path.parent, os.W_OK):
        return [
            check.warning(
                "no checkpoint yet, and its directory cannot be written to",
                "a trail that was cut off or written anew would not be told",
                "ca.checkpoints_path: a file that the CA may write",
            )
        ]
    if not known:
        return [check.ok("no checkpoint yet: the CA writes one when it starts")]
    last = known[-1].at
    came_back = (
        f"{len(known)} checkpoint{'s' * (len(known) != 1)}, the last of {last:%Y-%m-%d %H:%M} UTC"
    )
    if last - now <= _SKEW:
        return [check.ok(came_back)]
    return [
        check.warning(
            f"{came_back}, which is still to come",
            "the clock of this machine is wrong now, or was when that was written; a service that was started since "
            "cannot know that it was set",
            "the clock of this machine (NTP)",
        )
    ]
