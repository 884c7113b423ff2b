"""Several messages for one CA in one exchange: batches in nested (RFC 9483 5.2.2.2).

A `CACore` around a `CACore`. What devices ask within a short time is signed around as one message, and each gets its
own answer out of the answer. A batch says nothing of its members: each has its own protection, and its answer too,
which whoever asked checks as ever. The signature around the answers is checked here, so that nobody in between can
withhold one of them unnoticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Final

import structlog

from ra_gateway.cmp.bodies import error_msg_content, nested_body, nested_messages
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.header_checks import NONCE_OCTETS, HeaderRules, check_answer_header
from ra_gateway.cmp.messages import ANYONE, CMP2000, PKIHeader, PKIMessage
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import authenticate_answer, check_authority
from ra_gateway.errors import (
    CMPError,
    MalformedMessage,
    PKIFailureInfo,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.ra.ports import CACore, look

_ANSWER_RULES: Final = HeaderRules(Strictness.lenient, extra_certs_max_count=64)

_CA_TROUBLE: Final = frozenset({PKIFailureInfo.systemUnavail, PKIFailureInfo.systemFailure})

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.upstream")


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How batches to one CA are made.

    Args:
        name: Of the upstream, for logs.
        recipient_der: GeneralName that they are addressed to.
        trust: What the protection of the answers must chain to.
        pinned: Certificates that may protect answers without a path of their own.
        window_seconds: How long a message waits for company.
        batch_max: Most messages of one batch, 2 or more.
        max_bytes: Most octets of all messages of one batch.
        issuing: Domains of issuing CAs, which may protect answers, besides those of `trust`.
    """

    name: str
    recipient_der: bytes
    trust: TrustDomain
    pinned: tuple[Certificate, ...] = ()
    window_seconds: float = 0.02
    batch_max: int = 16
    max_bytes: int = 61_440
    issuing: tuple[TrustDomain, ...] = ()


@dataclass(slots=True, eq=False)
class _Member:
    der: bytes
    transaction_id: bytes
    deadline: float
    answer: asyncio.Future[bytes]


@dataclass(slots=True, eq=False)
class _Batch:
    """Messages that wait to be sent together; `timer` sends them."""

    members: list[_Member] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    def takes(self, member: _Member, settings: BatchSettings) -> bool:
        """Tell whether a message may join: answers are told apart by their transactionID."""
        size = sum(len(item.der) for item in self.members) + len(member.der)
        ids = [item.transaction_id for item in self.members]
        return size <= settings.max_bytes and member.transaction_id not in ids


@dataclass(eq=False, repr=False)
class BatchingCA:
    """Sends messages that come within a short time as one (`CACore`).

    Args:
        core: How the CA is reached.
        credential: The RA's, called for each batch.
        clock: Aware UTC.
        random_octets: Draws as many random octets as it is asked for.
    """

    core: CACore
    settings: BatchSettings
    _: KW_ONLY
    credential: Callable[[], Credential]
    clock: Callable[[], datetime]
    random_octets: Callable[[int], bytes]
    _open: dict[str, _Batch] = field(default_factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        """Deliver one message, perhaps together with others, and return the answer (`CACore`)."""
        message = PKIMessage.from_der(der)
        if message.body_type is BodyType.nested:
            # Nested inside nested is refused everywhere (one level is the depth that all bear).
            return await self.core.exchange(der, path=path, deadline_seconds=deadline_seconds)
        loop = asyncio.get_running_loop()
        member = _Member(
            der,
            message.header.transaction_id or b"",
            loop.time() + deadline_seconds,
            loop.create_future(),
        )
        self._join(path, member)
        try:
            async with asyncio.timeout_at(member.deadline):
                return await member.answer
        except TimeoutError as error:
            raise UpstreamUnavailable(
                f"{self.settings.name} did not answer a batch in {deadline_seconds:g} s",
                delivered=True,
            ) from error

    async def look(self) -> None:
        """Check that messages can be sent there now (`Looked`)."""
        await look(self.core)

    async def close(self) -> None:
        """Send nothing more, and release connections."""
        waiting, self._open = self._open, {}
        for batch in waiting.values():
            _cancel_timer(batch)
            for member in batch.members:
                _fail(member, UpstreamUnavailable("the gateway is stopping", delivered=False))
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.core.close()

    # --- collecting -----------------------------------------------------------------------------------------------

    def _join(self, path: str, member: _Member) -> None:
        batch = self._open.get(path)
        if batch is not None and not batch.takes(member, self.settings):
            self._send(path)
            batch = None
        if batch is None:
            batch = self._open[path] = _Batch()
            loop = asyncio.get_running_loop()
            batch.timer = loop.call_later(self.settings.window_seconds, self._send, path)
        batch.members.append(member)
        if len(batch.members) >= self.settings.batch_max:
            self._send(path)

    def _send(self, path: str) -> None:
        batch = self._open.pop(path)
        _cancel_timer(batch)
        members = [item for item in batch.members if not item.answer.done()]  # some gave up
        if members:
            task = asyncio.create_task(self._deliver(path, members))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, path: str, members: Sequence[_Member]) -> None:
        """Send messages and give each its answer, or the reason why there is none."""
        try:
            if len(members) == 1:
                (member,) = members
                _give(member, await self._exchange(path, member.der, members))
            else:
                await self._deliver_batch(path, members)
        except UpstreamUnavailable as error:
            for item in members:
                _fail(
                    item,
                    UpstreamUnavailable(error.detail, delivered=error.delivered, rule=error.rule),
                )
        except CMPError as error:
            detail = f"{self.settings.name}: {error}"
            for item in members:
                _fail(item, UpstreamBroken(detail, fail_info=_trouble(error), rule=error.rule))
        except Exception as error:
            # A bug; whoever waits is told at least that there will be no answer.
            log.exception("upstream.batch", upstream=self.settings.name)
            for item in members:
                _fail(item, UpstreamUnavailable(f"the batch failed: {error!r}", delivered=True))
        except asyncio.CancelledError:
            for item in members:
                _fail(item, UpstreamUnavailable("the gateway is stopping", delivered=True))
            raise

    async def _exchange(self, path: str, der: bytes, members: Sequence[_Member]) -> bytes:
        # Whoever has less time than this stops waiting by itself.
        left = max(item.deadline for item in members) - asyncio.get_running_loop().time()
        return await self.core.exchange(der, path=path, deadline_seconds=max(left, 0.001))

    # --- batches --------------------------------------------------------------------------------------------------

    async def _deliver_batch(self, path: str, members: Sequence[_Member]) -> None:
        random = self.random_octets(2 * NONCE_OCTETS)
        header = PKIHeader(
            pvno=CMP2000,
            sender_der=ANYONE,
            recipient_der=self.settings.recipient_der,
            message_time=self.clock(),
            transaction_id=random[:NONCE_OCTETS],
            sender_nonce=random[NONCE_OCTETS:],
        )
        credential = self.credential()
        body_der = nested_body(*(item.der for item in members))
        batch_der = await protect(header, body_der, credential, credential.certificates)
        answers = self._read(await self._exchange(path, batch_der, members), header)
        for item in members:
            answer = answers.pop(item.transaction_id, None)
            if answer is None:
                why = f"{self.settings.name} left a message out of its answer to a batch"
                _fail(item, UpstreamUnavailable(why, delivered=True, rule="R127"))
            else:
                _give(item, answer)
        if answers:
            log.warning("upstream.batch", upstream=self.settings.name, unexpected=len(answers))

    def _read(self, der: bytes, asked: PKIHeader) -> dict[bytes, bytes]:
        """Return the answers in the answer to a batch, by transactionID; of two for one, the first.

        Raises:
            CMPError: It must not be used.
        """
        name, trust, pinned = self.settings.name, self.settings.trust, self.settings.pinned
        message = PKIMessage.from_der(der)
        if message.body_type is BodyType.error:
            told = error_msg_content(message.body_content).status_info
            bits = [bit for bit in told.fail_info if bit in _CA_TROUBLE]
            raise UpstreamBroken(
                f"{name} answered a batch with error: {told}",
                fail_info=bits[0] if bits else None,
                rule="R89",
            )
        if message.body_type is not BodyType.nested:
            raise UpstreamBroken(
                f"{name} answered a batch with {message.body_type.name}", rule="R85"
            )
        authenticated = authenticate_answer(message, trust, pinned, _ANSWER_RULES, self.clock())
        own = (self.credential().certificate,)
        check_authority(authenticated.signer, pinned, (trust, *self.settings.issuing), own)
        check_answer_header(
            message.header,
            transaction_id=asked.transaction_id or b"",
            sender_nonces=(asked.sender_nonce or b"",),
        )
        answers: dict[bytes, bytes] = {}
        for member_der in nested_messages(message.body_content):
            try:
                member = PKIMessage.from_der(member_der)
            except MalformedMessage:
                continue  # whose answer it was is not known: theirs is missing
            answers.setdefault(member.header.transaction_id or b"", member_der)
        return answers


def _cancel_timer(batch: _Batch) -> None:
    if batch.timer is not None:
        batch.timer.cancel()


def _give(member: _Member, answer: bytes) -> None:
    if not member.answer.done():
        member.answer.set_result(answer)


def _fail(member: _Member, error: CMPError) -> None:
    if not member.answer.done():
        member.answer.set_exception(error)


def _trouble(error: CMPError) -> PKIFailureInfo | None:
    """Return the failInfo of the CA's own failure, None for what is wrong with its answer."""
    return error.fail_info if isinstance(error, UpstreamBroken) else None
