"""What the metrics read at the bundled CA, whenever somebody scrapes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from ra_gateway.app.readings import SLOWLY_SECONDS, of_listener
from ra_gateway.ca.crl import CRLPublisher
from ra_gateway.ca.keys import expiries
from ra_gateway.ca.ledger.backups import Backups
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import Authority, CertificateStatus
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.events import Component
from ra_gateway.metrics import Metrics, families
from ra_gateway.metrics.collecting import Survey
from ra_gateway.metrics.families import Reading
from ra_gateway.server.status import StatusListener

_MAX_CHARACTERS: Final = 128

_MOST_AUTHORITIES: Final = 100
"""Of those RAs that end first."""


_BACKUP_HOURS: Final = 48
"""A nightly one may fail once, or take longer."""


def meter_ca(
    metrics: Metrics,
    ledger: Ledger,
    publisher: Callable[[], CRLPublisher],
    status: StatusListener | None,
    config: Callable[[], CAConfig],
    problem: Callable[[], str],
) -> None:
    """Have the parts of the bundled CA read.

    Args:
        publisher: Returns the one of now.
        config: Returns the one of now.
        problem: Returns what is wrong with the ledger, "" if nothing is.
    """

    def read() -> Iterator[Reading]:
        watched = ledger.watched
        yield Reading(families.STORE_UP, (Component.ca,), not problem())
        for durable, durations in watched.written.items():
            yield Reading(families.LEDGER_WRITE_SECONDS, (str(durable).lower(),), durations)
        yield Reading(families.LEDGER_READ_SECONDS, (), watched.read_durations)
        yield Reading(families.LEDGER_COMMITS, (), ledger.commit_count)
        for crl, due_at in publisher().newest():
            at = crl.issuer_id, "full" if crl.base_number is None else "delta"
            yield Reading(families.CA_CRL_DUE, at, due_at.timestamp())
            yield Reading(families.CA_CRL_NEXT_UPDATE, at, crl.next_update.timestamp())
            yield Reading(families.CA_CRL_OCTETS, at, len(crl.der))
        if status is not None:
            yield from of_listener("status", status)

    async def counts() -> list[Reading]:
        found = await ledger.counts()
        return [
            Reading(families.LEDGER_CERTIFICATES, (status,), found.get(status, 0))
            for status in CertificateStatus
        ]

    async def authorities() -> list[Reading]:
        found = await ledger.registry.authorities()
        ends = {item.name: _last_end(item) for item in found if item.enabled and item.certificates}
        return [
            Reading(families.CA_RA_EXPIRY, (name[:_MAX_CHARACTERS],), ends[name])
            for name in sorted(ends, key=ends.__getitem__)[:_MOST_AUTHORITIES]
        ]

    async def ends() -> list[Reading]:
        soonest = await asyncio.to_thread(expiries, config().directory_path)
        return [
            Reading(
                families.CA_EXPIRY,
                (item.file, item.subject[:_MAX_CHARACTERS]),
                item.not_after.timestamp(),
            )
            for item in reversed(soonest)  # of two alike, the one that ends first counts
        ]

    trail = Backups(ledger)

    async def backups() -> list[Reading]:
        last, began = await trail.read()
        hours = config().backup_hours
        found = [] if last is None else [Reading(families.CA_BACKUP, (), last.timestamp())]
        since = last or (began if hours else None)
        if since is not None and hours != 0:
            due_at = since + timedelta(hours=hours or _BACKUP_HOURS)
            found.append(Reading(families.CA_BACKUP_DUE, (), due_at.timestamp()))
        return found

    metrics.begin(Component.ca)
    metrics.reads(read)
    metrics.asks(Survey(counts, SLOWLY_SECONDS))
    metrics.asks(Survey(ends, SLOWLY_SECONDS))
    metrics.asks(Survey(authorities, SLOWLY_SECONDS))
    metrics.asks(Survey(backups, SLOWLY_SECONDS))


def _last_end(authority: Authority) -> float:
    certificates = map(load_certificate, authority.certificates)
    return max(certificate.not_after.timestamp() for certificate in certificates)
