"""Several URLs of one CA, as one `CACore`: what one of them fails to do, the next one does.

An exchange is tried at each URL once at most, and at a further one only where that cannot issue twice: the message
was certainly not delivered, or is of a type that issues nothing, or the CA answers a repeat with the answer it gave,
at whichever of its nodes.

A URL that fails again and again is left out for a while (its breaker opens), then one exchange finds out whether it
is back. An answer is a success here even if it is not CMP: what a message provokes must not take the CA away from
all other devices.

Probes find a dead URL before an exchange has to, and a live one again. They only move URLs to the end, so that a CA
whose front door refuses probes stays reachable.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import MalformedMessage, ServiceFailure, UpstreamBroken, UpstreamUnavailable
from ra_gateway.tasks import supervised
from ra_gateway.upstream.connections import Connections
from ra_gateway.upstream.http import HttpCA, UpstreamBusy, had_connection
from ra_gateway.upstream.kinds import CMPHTTPUpstream, Order

LONGEST_PAUSE_SECONDS: Final = 60.0
"""A breaker never stays open longer: an hour's Retry-After, say, should not outlive what caused it."""

_BUSY_SECONDS: Final = 1.0
"""First pause after HTTP 429 or 503 without Retry-After; rate limits usually count by the second."""

_JITTER: Final = 0.2
"""Share of a pause that is left to chance, so that gateways that failed together do not return together."""

_PROBE_SECONDS: Final = 5.0
"""For an answer to a probe: a CA that is slower would fail exchanges too."""

_ISSUING_NOTHING: Final = frozenset(
    0xA0 | body_type
    for body_type in (
        BodyType.certConf,
        BodyType.pollReq,
        BodyType.rr,
        BodyType.genm,
        BodyType.error,
        BodyType.pkiconf,
    )
)
"""Body tags. nested is not among them: there may be requests inside."""

_HEARD_SECONDS: Final = 10.0
"""A CA that was heard of within this time need not be asked whether it is there."""

_RANDOM: Final = secrets.SystemRandom()

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.upstream")


def issues_nothing(der: bytes) -> bool:
    """Tell from a message's type that no CA issues a certificate for it, however often it gets it."""
    try:
        tag = asn1.decode(structures.PKIMessage, der).body.tag_bytes
    except MalformedMessage:
        return False
    return len(tag) == 1 and tag[0] in _ISSUING_NOTHING


@dataclass(frozen=True, slots=True)
class URLState:
    """How one URL is doing.

    Args:
        url: Without user name and password.
        healthy: Whether exchanges go there as usual: the breaker is closed, and the last probe was answered.
        opened_until: Aware UTC; until then nothing is sent there, from then on one exchange at a time. None if its
            breaker is closed.
        consecutive_failures: Since the last answer.
        last_error: Of the last exchange or probe that failed, "" if none did; stays when it is healthy again.
        answered, failed: How many exchanges went so, since the start.
        openings: How often it was left out.
    """

    url: str
    healthy: bool
    opened_until: datetime | None
    consecutive_failures: int
    last_error: str
    answered: int = 0
    failed: int = 0
    openings: int = 0


class Breaker:
    """Decides when a URL is left out; knows neither clocks nor URLs: `now` is in seconds of any clock.

    Args:
        max_failures: It opens at so many in a row.
        seconds: How long it stays open at first; twice as long each time the trial that follows fails.
        random: Between 0 and 1.
    """

    def __init__(self, max_failures: int, seconds: float, random: Callable[[], float]) -> None:
        self._max_failures = max_failures
        self._seconds = seconds
        self._random = random
        self._openings = 0
        self._trial = False
        self._reached = True
        self.failures = 0
        self.opened_until: float | None = None

    def admits(self, now: float) -> bool:
        """Tell whether an exchange may go there: it is closed, or open long enough and nobody is trying."""
        return self.opened_until is None or (now >= self.opened_until and not self._trial)

    def begin(self) -> bool:
        """Begin an exchange that was admitted.

        Returns:
            Whether it is the trial of an open breaker, to be handed to `end`.
        """
        self._trial = self.opened_until is not None
        return self._trial

    def end(self, trial: bool) -> None:
        """End an exchange, however it went; cancelled ones are neither a success nor a failure."""
        if trial:
            self._trial = False

    def succeed(self) -> None:
        """Close."""
        self._openings = self.failures = 0
        self._trial, self.opened_until = False, None

    def fail(
        self, now: float, *, reached: bool, trial: bool, pause_seconds: float | None = None
    ) -> bool:
        """Count a failure.

        Args:
            reached: Whether the message may have got there.
            pause_seconds: Open at once, and so long at first.

        Returns:
            Whether it opened.
        """
        self.failures += 1
        self._reached = reached
        # Exchanges that were under way when it opened say nothing new.
        opens = trial or (
            self.opened_until is None
            and (pause_seconds is not None or self.failures >= self._max_failures)
        )
        if opens:
            first = self._seconds if pause_seconds is None else pause_seconds
            pause = min(first * 2.0 ** min(self._openings, 16), LONGEST_PAUSE_SECONDS)
            self._openings += 1
            self.opened_until = now + pause * (1 - _JITTER * self._random())
        return opens

    def reachable(self) -> None:
        """Close if it opened for want of a connection, now that there is one again."""
        if self.opened_until is not None and not self._reached:
            self.succeed()


class _Member:
    """One URL of the pool."""

    def __init__(self, ca: HttpCA, breaker: Breaker) -> None:
        self.ca = ca
        self.breaker = breaker
        self.answers_probes = True
        self.takes_connections = True
        self.last_error = ""
        self.answered = self.failed = self.openings = 0


class HttpPool:
    """A `CACore` over several URLs of one CA.

    Args:
        settings: Its table. All URLs lead to the same CA, to whose nodes it is all one which they are asked.
        connections: Of this CA alone, so that another one's trouble does not use them up.
        clock: Aware UTC, for what is shown.
        monotonic: Seconds.
        sleep: Waits between probes.
        random: Between 0 and 1.
    """

    def __init__(
        self,
        settings: CMPHTTPUpstream,
        connections: Connections,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self._connections = connections
        self._members = [
            _Member(
                HttpCA(url, connections),
                Breaker(settings.breaker_failures, settings.breaker_seconds, random),
            )
            for url in settings.every_url
        ]
        self._settings = settings
        # One URL alone is not probed.
        self._probe_seconds = settings.probe_seconds if len(self._members) > 1 else 0
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._random = random
        self._late_seconds = settings.awaits_late_seconds
        self._late_count = 0
        self._turn = 0
        self.retries = 0
        """How often an exchange turned to another URL, after one had failed."""
        self._probing: asyncio.Task[None] | None = None
        self._closed = False
        self._heard_at = -math.inf

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        """Deliver one PKIMessage at one of the URLs and return the answer (`CACore`).

        An answer that must not be asked for again is awaited for longer than the deadline (`late_answer_seconds`).

        Raises:
            UpstreamUnavailable: None answered, or all are left out; `delivered` if any may have seen the message.
            UpstreamBroken: The last answer is not CMP.
        """
        if self._probing is None and self._probe_seconds and not self._closed:
            every_seconds = self._probe_seconds
            self._probing = asyncio.create_task(
                supervised("upstream.probes", lambda: self._probe_for_ever(every_seconds))
            )
        end = self._monotonic() + deadline_seconds
        members = self._admitting()
        tried = False
        replays = self._settings.replays_repeats
        nothing = not replays and issues_nothing(der)
        repeatable = replays or (len(members) > 1 and nothing)
        failure: ServiceFailure | None = None
        delivered = False
        for number, member in enumerate(members, 1):
            left = end - self._monotonic()
            # Meanwhile another exchange may have found out about it.
            if left <= 0 or not member.breaker.admits(self._monotonic()):
                continue
            # With nobody left to turn to, waiting is the better choice.
            patience = (
                left if number == len(members) else min(left, self._settings.try_deadline_seconds)
            )
            self.retries += tried
            tried = True
            try:
                return await self._try(
                    member,
                    der,
                    path,
                    deadline_seconds=patience if repeatable else left,
                    unsent_seconds=patience,
                    late_seconds=0.0 if nothing or repeatable else self._late_seconds,
                )
            except (UpstreamUnavailable, UpstreamBroken) as error:
                failure = error
                delivered |= getattr(error, "delivered", True)
            if delivered and not repeatable:
                break
        raise self._summed_up(failure, delivered)

    async def look(self) -> None:
        """Check that messages can be sent to one of the URLs now (`Looked`).

        A URL that takes connections and answers no probe will do: some let nothing but messages through.

        Raises:
            UpstreamUnavailable: To none.
        """
        if self._settings.probe_seconds and self._monotonic() - self._heard_at > _HEARD_SECONDS:
            await asyncio.gather(*(self._probe(member) for member in self._members))
        if not any(
            member.takes_connections and member.breaker.opened_until is None
            for member in self._members
        ):
            raise self._summed_up(None, delivered=False)

    def states(self) -> tuple[URLState, ...]:
        """Return how each URL is doing, in the order of the configuration."""
        return tuple(self._state(member) for member in self._members)

    async def close(self) -> None:
        """Stop probing and close the connections; exchanges under way fail."""
        self._closed = True
        probing, self._probing = self._probing, None
        if probing is not None:
            probing.cancel()
            with suppress(asyncio.CancelledError):
                await probing
        await self._connections.close()

    def _admitting(self) -> list[_Member]:
        """Return where an exchange may go, best first."""
        members, now = self._members, self._monotonic()
        if self._settings.order is Order.round_robin:
            first = self._turn = (self._turn + 1) % len(members)
            members = members[first:] + members[:first]
        return sorted(
            (member for member in members if member.breaker.admits(now)),
            key=lambda member: not member.answers_probes,
        )

    async def _try(
        self,
        member: _Member,
        der: bytes,
        path: str,
        *,
        deadline_seconds: float,
        unsent_seconds: float,
        late_seconds: float,
    ) -> bytes:
        trial, late = member.breaker.begin(), False

        def overdue() -> float:
            nonlocal late
            if 2 * (self._late_count + 1) > self._settings.max_connections:
                return 0.0
            late = True
            self._late_count += 1
            what = f"no answer in time from {member.ca.shown_url}"
            self._fail(member, UpstreamUnavailable(what, delivered=True), trial)
            return late_seconds

        try:
            answer = await member.ca.exchange(
                der,
                path=path,
                deadline_seconds=deadline_seconds,
                unsent_seconds=unsent_seconds,
                overdue=overdue if late_seconds else None,
            )
        except UpstreamUnavailable as error:
            if not late:
                self._fail(member, error, trial)
            raise
        except UpstreamBroken as error:
            self._succeed(member)
            member.last_error = error.detail
            raise
        finally:
            self._late_count -= late
            member.breaker.end(trial)
        self._succeed(member)
        return answer

    def _succeed(self, member: _Member) -> None:
        member.answered += 1
        if member.breaker.opened_until is not None:
            log.info("upstream.url_back", url=member.ca.shown_url)
        member.breaker.succeed()
        member.takes_connections = True
        self._heard_at = self._monotonic()

    def _fail(self, member: _Member, error: UpstreamUnavailable, trial: bool) -> None:
        member.failed += 1
        member.last_error = error.detail
        self._heard_at = -math.inf
        pause = None
        if isinstance(error, UpstreamBusy):
            asked = error.retry_after_seconds
            pause = _BUSY_SECONDS if asked is None else asked
        opened = member.breaker.fail(
            self._monotonic(), reached=error.delivered, trial=trial, pause_seconds=pause
        )
        if opened:
            member.openings += 1
            log.warning(
                "upstream.url_left_out",
                url=member.ca.shown_url,
                failures=member.breaker.failures,
                detail=error.detail,
            )

    def _summed_up(self, failure: ServiceFailure | None, delivered: bool) -> ServiceFailure:
        """Return what to raise when no URL gave an answer."""
        if failure is None:
            last = "; ".join(f"{item.ca.shown_url}: {item.last_error}" for item in self._members)
            return UpstreamUnavailable(f"no URL is tried at the moment: {last}", delivered=False)
        if isinstance(failure, UpstreamUnavailable) and delivered and not failure.delivered:
            return UpstreamUnavailable(
                f"{failure.detail}; another URL may have had the message", delivered=True
            )
        return failure

    def _state(self, member: _Member) -> URLState:
        breaker = member.breaker
        until = None
        if breaker.opened_until is not None:
            until = self._clock() + timedelta(seconds=breaker.opened_until - self._monotonic())
        return URLState(
            url=member.ca.shown_url,
            healthy=until is None and member.answers_probes,
            opened_until=until,
            consecutive_failures=breaker.failures,
            last_error=member.last_error,
            answered=member.answered,
            failed=member.failed,
            openings=member.openings,
        )

    async def _probe_for_ever(self, seconds: float) -> None:
        while True:
            await asyncio.gather(*(self._probe(member) for member in self._members))
            await self._sleep(seconds * (1 - _JITTER * self._random()))

    async def _probe(self, member: _Member) -> None:
        try:
            await member.ca.probe(deadline_seconds=_PROBE_SECONDS)
        except ServiceFailure as error:
            member.last_error = f"probe: {error.detail}"
            if member.answers_probes:
                log.warning("upstream.probe_failed", url=member.ca.shown_url, detail=error.detail)
            member.answers_probes = False
            member.takes_connections = had_connection(error)
            return
        if not member.answers_probes:
            log.info("upstream.probe_answered", url=member.ca.shown_url)
        member.answers_probes = member.takes_connections = True
        member.breaker.reachable()
        self._heard_at = self._monotonic()
