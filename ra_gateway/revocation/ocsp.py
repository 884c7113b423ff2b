"""What OCSP responders say of one trust domain's certificates, asked for when a message wants to know.

A look-up happens only for certificates of a path to an anchor, in a message that its key protected. It waits for a
bounded time, is one for all messages that wait for it, and is remembered: an answer until its nextUpdate or the cap,
a failure for some seconds. Two things outlast that: a certificate said to be revoked stays so until a newer answer
says otherwise; and an answer whose time is nearly over is renewed without anybody waiting, so that a short outage of
the responder goes unnoticed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, TypeVar

import structlog

from ra_gateway.cmp.algorithms import AlgorithmPolicy
from ra_gateway.cmp.certificates import Certificate, CertificateID
from ra_gateway.cmp.ocsp import CertStatus, OCSPStatus, ask, read_answer, responder_urls
from ra_gateway.errors import OCSPRefused, SignerNotTrusted, StatusRefused, printable
from ra_gateway.revocation.fetching import Environment, Limits
from ra_gateway.revocation.settings import NonceUse, OCSPSettings

MAX_ANSWERS: Final = 65_536
"""Remembered for a domain, some 500 octets each; where there are more devices, the longest unheard is forgotten."""

MAX_FAILURES: Final = 4_096
"""Remembered for a domain, with their text."""

MAX_LOOK_UPS: Final = 256
"""Under way for a domain; messages above that are told that nobody can tell."""

MAX_CONNECTIONS: Final = 16
"""To a domain's responders at once."""

MAX_RESPONDERS: Final = 64
"""That certificates of a domain may name: a vendor has a handful."""

MAX_URLS_PER_CERTIFICATE: Final = 3

MAX_ANSWER_BYTES: Final = 65_536
"""An answer with its responder's certificate has some 2,000 octets, with ML-DSA-87 some 20,000."""

RETRY_SECONDS: Final = 15.0
"""From a look-up that failed to the next for that certificate; and how long a dead responder is left alone."""

_FAILURES_UNTIL_REST: Final = 3
"""One after another, of a responder that cannot be reached."""

_MAX_TEXT: Final = 500

_RENEWED_AFTER: Final = 0.75
"""Of an answer's time."""

NONCE_OCTETS: Final = 32  # RFC 9654 2.1

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.revocation")

K = TypeVar("K")
T = TypeVar("T")

_Asked = tuple[CertificateID, bytes]
"""What a question is about: issuer, serial number and, as in CertID, the issuer's key (its SHA-256)."""


@dataclass(slots=True)
class ResponderState:
    """How one responder has been doing.

    Args:
        answers: That were in order, since the start.
        this_update, fresh_until: Of the newest one, aware UTC.
        answered_at: When it came.
        last_error: Why the last attempt failed; "" when it did not.
        failing_since: First of the attempts that failed without one that succeeded after it.
        unreached: Attempts in a row without an HTTP answer.
        rests_until: Monotonic seconds before which it is not asked.
    """

    url: str
    answers: int = 0
    this_update: datetime | None = None
    fresh_until: datetime | None = None
    answered_at: datetime | None = None
    last_error: str = ""
    failing_since: datetime | None = None
    unreached: int = 0
    rests_until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Held:
    """An answer in use; both moments aware UTC."""

    asked: _Asked
    status: OCSPStatus
    until: datetime
    renewed_at: datetime


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why a look-up came to nothing, and until when (monotonic seconds) it is not tried again."""

    why: str
    until: float


class Responders:
    """The responders of one trust domain, and what they said.

    Args:
        domain: Its name, for the log.
        algorithms: What the domain allows.
        is_allowed: Tells whether a URL of a certificate may be connected to.
        require_responder: Called with a responder's certificate and its issuer; as of `read_answer`.
        is_optional: Tells of a certificate and its issuer whether a responder need not know it to be well.
    """

    def __init__(
        self,
        domain: str,
        algorithms: AlgorithmPolicy,
        settings: OCSPSettings,
        environment: Environment,
        *,
        is_allowed: Callable[[str], bool],
        require_responder: Callable[[Certificate, Certificate], None],
        is_optional: Callable[[Certificate, Certificate], bool],
    ) -> None:
        self._domain = domain
        self._algorithms = algorithms
        self._settings = settings
        self._clock = environment.clock
        self._monotonic = environment.monotonic
        self._random_octets = environment.random_octets
        self._downloader = environment.downloader
        self._is_allowed = is_allowed
        self._require_responder = require_responder
        self._is_optional = is_optional
        self._cap = timedelta(seconds=settings.max_cache_seconds)
        self._good: OrderedDict[_Asked, _Held] = OrderedDict()
        self._revoked: OrderedDict[CertificateID, _Held] = OrderedDict()
        self._failures: OrderedDict[_Asked, _Failed] = OrderedDict()
        self._look_ups: dict[_Asked, asyncio.Task[None]] = {}
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)
        self._states: dict[str, ResponderState] = {}
        if settings.url:
            self._states[settings.url] = ResponderState(settings.url)

    def go_on_from(self, before: Responders, *, with_good: bool) -> None:
        """Know at once what others said to another one under the same rules for signatures.

        Args:
            with_good: Whether a responder that was believed then is believed now. Who was called revoked stays so.
        """
        self._revoked = OrderedDict(before._revoked)
        if with_good and before._settings == self._settings:
            self._good = OrderedDict(before._good)
            self._states = {url: replace(state) for url, state in before._states.items()}

    # --- asking -----------------------------------------------------------------------------------------------

    async def look_up(
        self, pairs: Iterable[tuple[Certificate, Certificate]], now: datetime
    ) -> None:
        """Find out about certificates of which nothing is known now; waits at most `timeout_seconds`.

        Args:
            pairs: Each with its issuer, of a validated path.
        """
        awaited = {
            task
            for certificate, issuer in pairs
            if (task := self._look_up(certificate, issuer, now)) is not None
        }
        if awaited:
            # Neither the deadline nor a message that ends early ends a look-up: others wait for it, or will ask.
            await asyncio.wait(awaited, timeout=self._settings.timeout_seconds)

    def require_not_revoked(self, certificate: Certificate) -> None:
        """Refuse a certificate of which a responder said that it is revoked.

        Raises:
            SignerNotTrusted: One did, and no newer answer says otherwise.
        """
        held = self._revoked.get(certificate.id)
        if held is not None:
            since = held.status.revoked_at or held.status.this_update
            raise SignerNotTrusted(
                f"{certificate.subject} (serial {certificate.serial_number:x}) is revoked since "
                f"{since:%Y-%m-%dT%H:%M:%SZ}: its OCSP responder says so",
                rule="R23",
            )

    def unknown(self, certificate: Certificate, issuer: Certificate, now: datetime) -> str:
        """Return why no responder tells that a certificate is not revoked; "" if one does."""
        asked = _asked(certificate, issuer)
        held = self._good.get(asked)
        if held is not None and now <= held.until:
            return ""
        failed = self._failures.get(asked)
        if failed is not None:
            return failed.why
        if asked in self._look_ups:
            return f"no OCSP answer within {self._settings.timeout_seconds:g} s"
        if not self._urls(certificate):
            return "no OCSP responder is known for it"
        return f"more than {MAX_LOOK_UPS} OCSP requests are under way"

    def states(self) -> list[ResponderState]:
        """Return how each responder has been doing."""
        return list(self._states.values())

    async def stop(self) -> None:
        """End all look-ups."""
        tasks = list(self._look_ups.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look_up(
        self, certificate: Certificate, issuer: Certificate, now: datetime
    ) -> asyncio.Task[None] | None:
        """Begin a look-up if there is need for one; returns what has to be waited for."""
        asked = _asked(certificate, issuer)
        held = _used(self._good, asked) or self._said_revoked(asked)
        answered = held is not None and now <= held.until
        if held is not None and answered and now < held.renewed_at:
            return None
        task = self._look_ups.get(asked)
        if task is None and self._may_ask(certificate, asked):
            task = asyncio.create_task(self._ask(certificate, issuer))
            self._look_ups[asked] = task
            task.add_done_callback(lambda _: self._look_ups.pop(asked, None))
        return None if answered else task

    def _may_ask(self, certificate: Certificate, asked: _Asked) -> bool:
        failed = self._failures.get(asked)
        if failed is not None and self._monotonic() < failed.until:
            return False
        return len(self._look_ups) < MAX_LOOK_UPS and bool(self._urls(certificate))

    def _urls(self, certificate: Certificate) -> list[str]:
        """Return whom to ask about a certificate: the configured responder, then those it names."""
        urls = [self._settings.url] if self._settings.url else []
        if self._settings.from_certificates:
            urls += filter(self._is_allowed, responder_urls(certificate))
        return list(dict.fromkeys(urls))[:MAX_URLS_PER_CERTIFICATE]

    # --- one look-up ------------------------------------------------------------------------------------------

    async def _ask(self, certificate: Certificate, issuer: Certificate) -> None:
        """Ask one responder after the other until one answers; what comes of it is remembered."""
        urls = self._urls(certificate)
        refusals = []
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                await self._connections.acquire()
            try:
                for url in urls:
                    try:
                        await self._ask_at(url, certificate, issuer, len(urls))
                        return
                    except StatusRefused as error:
                        refusals.append(f"OCSP responder {url}: {printable(str(error), _MAX_TEXT)}")
            finally:
                self._connections.release()
        except TimeoutError:
            refusals.append(f"{MAX_CONNECTIONS} OCSP requests before it are not answered")
        except Exception as error:  # a bug must not leave the message without a verdict
            log.exception("revocation.bug", domain=self._domain, source=", ".join(urls))
            refusals.append(f"{type(error).__name__}: {error}")
        failed = _Failed("; ".join(refusals), self._monotonic() + RETRY_SECONDS)
        _put(self._failures, _asked(certificate, issuer), failed, MAX_FAILURES)

    async def _ask_at(
        self, url: str, certificate: Certificate, issuer: Certificate, url_count: int
    ) -> None:
        state = self._state(url)
        if self._monotonic() < state.rests_until:
            raise OCSPRefused(f"not asked for a while: {state.last_error}")
        use = self._settings.nonce
        nonce = b"" if use is NonceUse.off else self._random_octets(NONCE_OCTETS)
        question = ask(certificate, issuer, nonce)
        # All of them have to fit into the time that a message waits.
        limits = Limits(MAX_ANSWER_BYTES, self._settings.timeout_seconds / url_count)
        try:
            octets = await self._downloader.post(
                url, question.der, "application/ocsp-request", limits
            )
        except StatusRefused as error:
            self._failed(state, str(error), reached=False)
            raise
        now = self._clock()
        try:
            status = read_answer(
                octets,
                question,
                self._algorithms,
                now,
                lambda responder: self._require_responder(responder, issuer),
                require_nonce=use is NonceUse.require,
            )
            self._take(certificate, issuer, status, now)
        except StatusRefused as error:
            if not self._is_optional(certificate, issuer):
                self._failed(state, str(error), reached=True)
            raise
        self._succeeded(state, status, now)
        if status.status is CertStatus.unknown:
            raise OCSPRefused("does not know the certificate")

    def _take(
        self, certificate: Certificate, issuer: Certificate, status: OCSPStatus, now: datetime
    ) -> None:
        """Put an answer in the place of what was known.

        Raises:
            OCSPRefused: Played back, it would free whom a newer one called revoked, or the reverse.
        """
        asked = _asked(certificate, issuer)
        held = self._said_revoked(asked) or self._good.get(asked)
        until = min(status.fresh_until, now + self._cap)
        if held is not None and status.this_update < held.status.this_update:
            if status.status is not held.status.status:
                raise OCSPRefused("its answer is older than the one in use; the newer one is kept")
            status, until = held.status, max(held.until, until)
        # Not at once even where the responder gives the same answer until it ends.
        renewed_at = max(
            now + (until - now) * _RENEWED_AFTER, now + timedelta(seconds=RETRY_SECONDS)
        )
        entry = _Held(asked, status, until, renewed_at)
        if status.status is CertStatus.unknown:
            self._good.pop(asked, None)  # what it called revoked stays so
            return
        self._failures.pop(asked, None)
        if status.status is CertStatus.good:
            if self._said_revoked(asked) is not None:
                del self._revoked[asked[0]]
            _put(self._good, asked, entry, MAX_ANSWERS)
        else:
            self._good.pop(asked, None)
            _put(self._revoked, asked[0], entry, MAX_ANSWERS)
            log.warning(
                "revocation.revoked",
                domain=self._domain,
                subject=certificate.subject,
                serial_number=f"{certificate.serial_number:x}",
            )

    def _said_revoked(self, asked: _Asked) -> _Held | None:
        """Return the answer that it is revoked, if it was about this key of the issuer's name."""
        held = _used(self._revoked, asked[0])
        return held if held is not None and held.asked == asked else None

    # --- how responders are doing -----------------------------------------------------------------------------

    def _state(self, url: str) -> ResponderState:
        state = self._states.get(url)
        if state is None:
            if len(self._states) >= MAX_RESPONDERS + bool(self._settings.url):
                raise OCSPRefused(f"not asked: certificates name more than {MAX_RESPONDERS}")
            state = self._states[url] = ResponderState(url)
        return state

    def _succeeded(self, state: ResponderState, status: OCSPStatus, now: datetime) -> None:
        if state.last_error or not state.answers:
            log.info(
                "revocation.responder_answers",
                domain=self._domain,
                source=state.url,
                this_update=status.this_update.isoformat(),
                fresh_seconds=round((status.fresh_until - now).total_seconds()),
            )
        state.answers += 1
        state.this_update, state.fresh_until = status.this_update, status.fresh_until
        state.answered_at = now
        state.last_error, state.failing_since, state.unreached = "", None, 0

    def _failed(self, state: ResponderState, why: str, *, reached: bool) -> None:
        why = printable(why, _MAX_TEXT)  # there may be names in it of whoever answered
        is_new = why != state.last_error
        state.last_error = why
        state.failing_since = state.failing_since or self._clock()
        state.unreached = 0 if reached else state.unreached + 1
        if state.unreached >= _FAILURES_UNTIL_REST:
            state.rests_until = self._monotonic() + RETRY_SECONDS
        if is_new:  # not once for each base station
            log.warning(
                "revocation.responder_failed",
                domain=self._domain,
                source=state.url,
                detail=why,
                failing_since=state.failing_since.isoformat(),
            )


def _asked(certificate: Certificate, issuer: Certificate) -> _Asked:
    return certificate.id, sha256(issuer.spki_der).digest()


def _used(known: OrderedDict[K, T], key: K) -> T | None:
    value = known.get(key)
    if value is not None:
        known.move_to_end(key)
    return value


def _put(known: OrderedDict[K, T], key: K, value: T, most: int) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > most:
        known.popitem(last=False)
