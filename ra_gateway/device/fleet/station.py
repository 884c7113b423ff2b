"""One base station of a simulated fleet, a coroutine: it enrols, waits, repeats itself, loses messages and renews."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp

from ra_gateway.clocks import now
from ra_gateway.cmp.bodies import cert_rep_message
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.device import client
from ra_gateway.device.client import NotCMP, ServerUnreachable, StillWaiting
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import AnswerUntrusted, EnrollmentFailed, EnrollmentRefused
from ra_gateway.device.faults import (
    faulty_clock,
    faulty_credential,
    faulty_octets,
    faulty_options,
)
from ra_gateway.device.fleet.figures import Figures, Outcome
from ra_gateway.device.fleet.plan import Plan
from ra_gateway.device.fleet.sources import Source
from ra_gateway.device.kinds import Fault
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions
from ra_gateway.errors import CMPError, ConfigError, printable
from ra_gateway.files import make_directory
from ra_gateway.keys import KEY_KINDS, write_certificates, write_private_key

_BUSY = (429, 503)
_MAX_REASON = 200


class LostOnPurpose(EnrollmentFailed):
    """A message, or its answer, was thrown away."""


@dataclass(slots=True)
class Surroundings:
    """What the base stations of one process share.

    Args:
        trust: In the operator's roots; None takes the root from the ip.
        session: Of those that have no connection of their own; or gives one for each that has.
        rest: Waits so many seconds; returns whether the simulation ends meanwhile.
        began: When the simulation began, by `time.monotonic`.
    """

    plan: Plan
    source: Source
    figures: Figures
    trust: TrustDomain | None
    session: aiohttp.ClientSession | Callable[[], aiohttp.ClientSession]
    rest: Callable[[float], Awaitable[bool]]
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class _Operation:
    """What is to be sent.

    Args:
        fault: "" for none.
    """

    request: BodyType
    fault: str
    enrollment: Enrollment


class Station:
    """A base station.

    Args:
        number: Decides, with the plan's seed, all that is left to chance with it.
    """

    def __init__(self, number: int, around: Surroundings) -> None:
        self._number, self._around = number, around
        self._plan, self._figures = around.plan, around.figures
        self._does = around.plan.behaviour
        self._chance = self._plan.chance(number)
        self._due = 0.0
        self._seen: set[tuple[bytes, int]] = set()
        self._session: aiohttp.ClientSession
        self._name = ""
        self._first: _Operation

    async def prepare(self) -> Self:
        """Make keys, certificate and first message before they are needed: it is no part of what is measured.

        Raises:
            ConfigError: Its certificate or key cannot be read.
        """
        faults: tuple[Fault, ...] = ()
        if self._happens(self._does.faulty):
            faults = (self._chance.choice(self._does.faults),)
        self._name, credential = self._around.source.take(self._number)
        identity = DeviceIdentity(faulty_credential(credential, faults), self._around.trust)
        self._first = await self._operation(self._does.request, identity, faults)
        return self

    async def live(self, due: float) -> None:
        """Do all that a base station does, and count it; it is prepared.

        Args:
            due: When it is to begin, by `time.monotonic`; latencies count from then.
        """
        self._figures.begun += 1
        session = self._around.session
        try:
            if isinstance(session, aiohttp.ClientSession):
                self._session = session
                await self._operations(due)
            else:
                async with session() as self._session:
                    await self._operations(due)
        finally:
            self._figures.ended += 1

    async def _operations(self, due: float) -> None:
        done = await self._operate(self._first, due)
        for _ in range(self._does.renewals):
            # A faulty one that is borne all the same has shown what it was for.
            if done is None or self._first.fault:
                break
            if await self._around.rest(self._does.renew_after_seconds):
                break
            renewal = await self._operation(BodyType.kur, done.identity)
            renewed = await self._operate(renewal, time.monotonic())
            if renewed is None:
                break
            done = renewed
        if done is not None and self._plan.out is not None:
            _write(self._plan.out, self._name, done)

    async def _operate(self, operation: _Operation, due: float) -> Done | None:
        """Run one operation; returns None where it fails."""
        began = time.monotonic()
        self._due = due
        self._figures.timeline.add(due - self._around.began, due=1)
        enrollment = operation.enrollment
        done, outcome = None, Outcome.interrupted
        try:
            done = await client.converse(
                enrollment,
                lambda der: self._exchange(enrollment.trace[-1].name, der),
                patience_seconds=self._does.patience_seconds,
                sleep=asyncio.sleep,
            )
            outcome = Outcome.issued
        except EnrollmentFailed as error:
            outcome = _outcome(error)
            self._note(error)
        finally:
            self._count(operation, outcome, due, began)
        if done is not None:
            own = done.certificate
            self._figures.validity_seconds = (own.not_after - own.not_before).total_seconds()
        return done

    # --- what one operation is

    async def _operation(
        self, request: BodyType, identity: DeviceIdentity, faults: tuple[Fault, ...] = ()
    ) -> _Operation:
        enrollment = Enrollment(
            identity,
            KEY_KINDS[self._does.key_kind](),
            faulty_options(self._options(request), faults),
            clock=faulty_clock(now, faults),
            random_octets=faulty_octets(faults) if faults else secrets.token_bytes,
        )
        await enrollment.request()
        return _Operation(request, faults[0] if faults else "", enrollment)

    def _options(self, request: BodyType) -> RequestOptions:
        def filled(text: str) -> str:
            return text.replace("{n}", str(self._number)).replace("{name}", self._name)

        does, renews = self._does, request is BodyType.kur
        return RequestOptions(
            body_type=request,
            subject=None if renews or does.subject is None else filled(does.subject),
            san=() if renews else tuple(map(filled, does.san)),
            implicit_confirm=does.implicit_confirm,
            extra_certs_in_cert_conf=does.certconf_certificates,
        )

    def _count(self, operation: _Operation, outcome: Outcome, due: float, began: float) -> None:
        ended, name = time.monotonic(), operation.request.name
        self._figures.operations[name, operation.fault, outcome] += 1
        issued = outcome is Outcome.issued
        failed = not issued and outcome is not Outcome.interrupted
        self._figures.timeline.add(ended - self._around.began, issued=issued, failed=failed)
        if issued:
            self._figures.operation(name, due, began, ended)

    def _note(self, error: EnrollmentFailed) -> None:
        if isinstance(error, EnrollmentRefused):
            self._figures.fail_info.update(bit.name for bit in error.status_info.fail_info)
            text = f"{error.body_type.name}: {error.status_info}"
        else:
            text = error.what
        self._figures.reason(printable(text, _MAX_REASON))

    # --- messages

    async def _exchange(self, name: str, der: bytes) -> bytes:
        """Send a message until it is answered, and count how long that took."""
        sent = time.monotonic()
        due, self._due = self._due or sent, 0.0
        self._seen.clear()
        answer = await self._answered(der)
        self._figures.message(name, due, sent, time.monotonic())
        if self._happens(self._does.repeated):
            await self._repeat(der, answer)
        self._compare(answer)
        return answer

    async def _answered(self, der: bytes) -> bytes:
        for left in range(self._does.retransmissions, -1, -1):
            try:
                return await self._post(der)
            except (NotCMP, ServerUnreachable, LostOnPurpose) as error:
                if not left or (isinstance(error, NotCMP) and error.status not in _BUSY):
                    raise
                if not (isinstance(error, LostOnPurpose) or _timed_out(error)):
                    await asyncio.sleep(self._pause(error))
            self._figures.retransmitted += 1
        raise AssertionError("not reached")

    def _pause(self, error: EnrollmentFailed) -> float:
        """Return the seconds before a message is sent again: not before it is asked for again."""
        own = self._does.retransmit_after_seconds * self._chance.uniform(0.5, 1.5)
        told = error.retry_after_seconds if isinstance(error, NotCMP) else None
        return max(own, min(told or 0.0, self._does.patience_seconds))

    async def _post(self, der: bytes) -> bytes:
        timeout = self._does.timeout_seconds
        if self._happens(self._does.lost_requests):
            self._figures.lost_requests += 1
            await asyncio.sleep(timeout)
            raise LostOnPurpose("the request was lost, on purpose")
        sent = time.monotonic()
        answer = await client.post(self._session, self._plan.url, der, timeout_seconds=timeout)
        if self._happens(self._does.lost_answers):
            self._figures.lost_answers += 1
            self._compare(answer)
            await asyncio.sleep(max(0.0, sent + timeout - time.monotonic()))
            raise LostOnPurpose("the answer was lost, on purpose")
        return answer

    async def _repeat(self, der: bytes, first: bytes) -> None:
        self._figures.repeated += 1
        try:
            again = await client.post(
                self._session, self._plan.url, der, timeout_seconds=self._does.timeout_seconds
            )
            alike = PKIMessage.from_der(first).body_type is PKIMessage.from_der(again).body_type
        except (EnrollmentFailed, CMPError):
            alike = False
        else:
            self._compare(again)
        self._figures.repeats_failed += not alike

    def _happens(self, share: float) -> bool:
        return share > 0 and self._chance.random() < share

    def _compare(self, answer: bytes) -> None:
        """Remember the certificate in an answer, and count it if another one came for the same message."""
        if not (self._does.repeated or self._does.lost_answers):
            return
        if (certificate := _certificate_in(answer)) is not None and certificate not in self._seen:
            self._figures.issued_twice += bool(self._seen)
            self._seen.add(certificate)


def _certificate_in(answer: bytes) -> tuple[bytes, int] | None:
    """Return issuer and serial number of the certificate in an answer, None if there is none."""
    try:
        message = PKIMessage.from_der(answer)
        if message.body_type not in CERT_RESPONSE_TO.values():
            return None
        for response in cert_rep_message(message.body_content).responses:
            if response.certificate_der is not None:
                certificate = Certificate.from_der(response.certificate_der)
                return certificate.issuer_der, certificate.serial_number
    except CMPError:
        pass  # `Enrollment.receive` says what is wrong with it
    return None


def _timed_out(error: BaseException) -> bool:
    return isinstance(error.__cause__, TimeoutError)


def _outcome(error: EnrollmentFailed) -> Outcome:
    match error:
        case EnrollmentRefused():
            return Outcome.refused
        case NotCMP(status=status):
            return Outcome.busy if status in _BUSY else Outcome.not_cmp
        case ServerUnreachable():
            return Outcome.no_answer if _timed_out(error) else Outcome.unreachable
        case StillWaiting():
            return Outcome.still_waiting
        case AnswerUntrusted():
            return Outcome.untrusted
        case LostOnPurpose():
            return Outcome.lost
        case _:
            return Outcome.unusable


def _write(out: Path, name: str, done: Done) -> None:
    directory = out / name
    try:
        make_directory(directory)
        write_private_key(directory / "key.pem", done.private_key)
        write_certificates(directory / "cert.pem", [done.certificate, *done.chain])
        write_certificates(directory / "root.pem", [done.operator_root])
    except OSError as error:
        raise ConfigError.of(
            "--out",
            f"{name} cannot be written: {error.strerror}",
            f"Make room in {out}, and see that it may be written",
        ) from error
