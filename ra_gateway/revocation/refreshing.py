"""All trust domains' CRLs and responders (`ra_gateway.ra.ports.RevocationStatus`).

Each domain's CRLs are refreshed by a task of its own; responders are asked when a message wants to know.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Final

import structlog

from ra_gateway.cmp.trust import Path, TrustDomain
from ra_gateway.revocation.domain import DomainRevocation
from ra_gateway.revocation.fetching import Downloader, Environment
from ra_gateway.revocation.settings import RevocationSettings
from ra_gateway.revocation.sources import SourceState
from ra_gateway.tasks import ended, supervised

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.revocation")

_LONGEST_PAUSE_SECONDS: Final = 60.0
"""Of a domain that has nothing to fetch yet."""


class Revocation:
    """Knows which certificates of trust domains were revoked.

    Args:
        domains: With their settings; others are not asked about.
        clock: Aware UTC.
        monotonic: Seconds, for when to fetch.
        random_octets: Draws as many random octets as it is asked for.
        before: What this takes the place of; `start` goes on from what it knows.
        early_share: As of `Environment`: another one in each process, so that those which began at one time do not
            come to a server at one time for ever.
    """

    def __init__(
        self,
        domains: Iterable[tuple[TrustDomain, RevocationSettings]],
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        random_octets: Callable[[int], bytes] = secrets.token_bytes,
        before: Revocation | None = None,
        early_share: float = 0.0,
    ) -> None:
        self._before = before
        self._clock = clock
        self._monotonic = monotonic
        self._downloader = Downloader()
        self._woken: dict[str, asyncio.Event] = {}
        self._domains: dict[str, DomainRevocation] = {}
        for domain, settings in domains:
            woken = self._woken[domain.name] = asyncio.Event()
            self._domains[domain.name] = DomainRevocation(
                domain,
                settings,
                Environment(clock, monotonic, random_octets, self._downloader, early_share),
                learned=woken.set,
            )
        self._tasks: list[asyncio.Task[None]] = []

    async def check(self, domain: str, path: Path, now: datetime) -> tuple[str, ...]:
        """Refuse a path with a certificate that was revoked (`RevocationStatus`)."""
        known = self._domains.get(domain)
        return () if known is None else await known.check(path, now)

    def states(self) -> list[SourceState]:
        """Return what each source of each domain has given."""
        now = self._clock()
        return [state for domain in self._domains.values() for state in domain.states(now)]

    async def fetch(self) -> None:
        """Try every source once, each within its timeout: CRLs, then responders about the CAs that are known."""
        domains = self._domains.values()
        await asyncio.gather(*(domain.refresh() for domain in domains))
        await asyncio.gather(*(domain.look_up_cas() for domain in domains))

    async def start(self) -> None:
        """Begin to fetch in the background; waits for every source once, but not longer than for its timeouts.

        What is large, or wrong, may take longer to read than to fetch; until then nobody can tell.
        """
        self._go_on()
        tried = {name: asyncio.Event() for name in self._domains}
        self._tasks = [
            asyncio.create_task(
                supervised(
                    f"revocation.{name}",
                    partial(self._run, domain, self._woken[name], tried[name]),
                )
            )
            for name, domain in self._domains.items()
        ]
        with suppress(TimeoutError):
            seconds = max((item.patience_seconds for item in self._domains.values()), default=0.0)
            async with asyncio.timeout(seconds):
                for event in tried.values():
                    await event.wait()

    def _go_on(self) -> None:
        before, self._before = self._before, None
        for name, domain in self._domains.items():
            if before is not None and name in before._domains:
                domain.go_on_from(before._domains[name])

    async def stop(self) -> None:
        """End refreshing and close connections; again is harmless."""
        tasks, self._tasks = self._tasks, []
        await ended(*tasks)
        await asyncio.gather(*(domain.stop() for domain in self._domains.values()))
        await self._downloader.close()

    async def _run(
        self, domain: DomainRevocation, woken: asyncio.Event, tried: asyncio.Event
    ) -> None:
        try:
            await domain.refresh()
            await domain.look_up_cas()
        except Exception:  # a bug must not end the refreshing of the domain
            log.exception("revocation.bug", domain=domain.domain.name)
        finally:
            tried.set()
        while True:
            due, moment = domain.due, self._monotonic()
            pause = _LONGEST_PAUSE_SECONDS if due is None else max(due - moment, 0.0)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await woken.wait()
            woken.clear()
            await domain.refresh()
