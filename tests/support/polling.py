"""Delayed delivery in tests: operations of every kind, devices that poll, and a CA that says waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_rep_message,
    gen_msg_body,
    nested_messages,
    rev_req_body,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_id_of
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage, body
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.polling import (
    PollRep,
    poll_rep_body,
    poll_rep_content,
    poll_req_body,
    polled_cert_req_id,
    waiting_body,
)
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.responder import reply_header
from ra_gateway.ra.approval import decide
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.transaction import Transaction
from ra_gateway.ra.waiting import request_digest, waiting
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_answers
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Answer, ScriptedCA, World
from tests.support.mac import ONCE, OTHER, REFERENCE, SECRET
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Credential, make_key
from tests.support.requests import csr, details

WAIT_AFTER_SECONDS: Final = 0.1
"""How long a device is held up in these tests: real time, unlike leases, which the world's clock decides."""

KNOWN: Final = (REFERENCE, SECRET)

REJECTS: Final = PKIStatusInfo(PKIStatus.rejection, ("no",))

EVERY_TYPE: Final = frozenset(
    {BodyType.ir, BodyType.cr, BodyType.kur, BodyType.p10cr, BodyType.rr, BodyType.genm}
)

REQUESTS: Final = (BodyType.ir, BodyType.cr, BodyType.kur, BodyType.p10cr)
"""What is answered with a certificate."""

OTHERS: Final = (BodyType.rr, BodyType.genm)


@dataclass(slots=True)
class Operation:
    """One operation of a base station, message by message.

    Args:
        sent: The last message that is not a pollReq.
    """

    world: World
    device: Credential
    body_type: BodyType
    sent: bytes = b""
    answer: PKIMessage = field(init=False)

    @classmethod
    async def begin(cls, world: World, body_type: BodyType, **header: Any) -> Operation:
        """Make the request; nothing is sent yet."""
        operators = body_type in (BodyType.kur, BodyType.rr, BodyType.genm)
        device = world.operator.device("enb-1.ran.example.net") if operators else world.device()
        match body_type:
            case BodyType.rr:
                body_der = rev_req_body(details(cmp_certificate(device.certificate)))
            case BodyType.genm:
                body_der = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
            case BodyType.p10cr:
                body_der = body(BodyType.p10cr, csr(make_key("p256")))
            case _:
                request = await world.enrollment(device, body_type=body_type).request()
                body_der = PKIMessage.from_der(request).body_der
        der = await requests.message(world, cmp_credential(device), body_der, **header)
        return cls(world, device, body_type, der)

    @property
    def awaited(self) -> BodyType:
        """Type of the message whose answer is awaited."""
        return PKIMessage.from_der(self.sent).body_type

    @property
    def cert_req_id(self) -> int:
        """By which certReqId its answer is polled for."""
        return polled_cert_req_id(self.awaited, -1 if self.awaited is BodyType.p10cr else 0)

    async def send(self, *, gateway: Gateway | None = None) -> PKIMessage:
        """Send the request, or the certConf."""
        self.answer = await self.world.ask(self.sent, gateway=gateway)
        return self.answer

    async def poll_req(self, cert_req_id: int | None = None, **options: Any) -> bytes:
        """The pollReq that belongs after the last answer, with anything changed."""
        asked = self.cert_req_id if cert_req_id is None else cert_req_id
        signer = options.pop("signer", self.device)
        return await follow(
            signer, self.answer, poll_req_body(asked), now=self.world.clock(), **options
        )

    async def poll(self, *, gateway: Gateway | None = None) -> PKIMessage:
        """Poll once, and check that the answer belongs to the pollReq."""
        der = await self.poll_req()
        self.answer = await self.world.ask(der, gateway=gateway)
        assert_answers(self.world, PKIMessage.from_der(der), self.answer)
        return self.answer

    async def confirm(self, *, takes: bool = True, gateway: Gateway | None = None) -> PKIMessage:
        """Send certConf for the certificate that the last answer brought."""
        await self.make_cert_conf(takes=takes)
        return await self.send(gateway=gateway)

    async def make_cert_conf(self, *, takes: bool = True) -> None:
        """Make that certConf; it is what is sent next."""
        (response,) = cert_rep_message(self.answer.body_content).responses
        status = CertStatus(
            digest("sha256", response.certificate_der or b""),
            response.cert_req_id,
            None if takes else REJECTS,
        )
        self.sent = await follow(
            self.device, self.answer, cert_confirm_body(status), now=self.world.clock()
        )

    async def stored(self) -> Transaction:
        """The transaction in the store."""
        (found,) = await self.world.store.find(self.answer.header.transaction_id or b"")
        return found

    def assert_waiting(self) -> None:
        """Assert that the last answer tells to wait, in the form that belongs to the request (R116)."""
        expected = CERT_RESPONSE_TO.get(self.awaited, BodyType.error)
        assert (self.answer.body_type, fail_names(self.answer)) == (expected, [])
        assert status_of(self.answer).status is PKIStatus.waiting
        if expected is not BodyType.error:
            (response,) = cert_rep_message(self.answer.body_content).responses
            assert (response.cert_req_id, response.certificate_der) == (self.cert_req_id, None)

    def assert_not_yet(self, seconds: int = 10) -> None:
        """Assert that the last answer tells to poll again (R117)."""
        assert self.answer.body_type is BodyType.pollRep, self.world.events[-1].detail
        assert poll_rep_content(self.answer.body_content) == PollRep(self.cert_req_id, seconds)


def slow_world(make: Callable[..., World], **options: Any) -> World:
    """A world whose devices are told to wait after a moment, and whose CA answers when its gate opens."""
    endpoint = {
        "body_types": EVERY_TYPE,
        "wait_after_seconds": WAIT_AFTER_SECONDS,
        **options.pop("endpoint", {}),
    }
    world = make(endpoint=endpoint, **options)
    world.ca.gate = asyncio.Event()
    return world


def written_secrets(directory: Path) -> Path:
    """Write a file of shared secrets, one of them for single use."""
    path = directory / "secrets.csv"
    rows = [
        "reference,secret,subject,san,single_use,expires",
        *(
            f"{reference},{secret},{requests.SUBJECT},,false,"
            for reference, secret in (KNOWN, OTHER)
        ),
        f"{ONCE[0]},{ONCE[1]},{requests.SUBJECT},,true,",
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


async def settled(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something in the background has happened."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110  # what is awaited is in a store
            await asyncio.sleep(0.005)


async def approve(world: World, *, yes: bool = True, by: str = "alice") -> Transaction:
    """Decide on the one request that waits."""
    assert isinstance(world.store, MemoryStore | RedisStore)
    (held,) = await waiting(world.store, world.store)
    return await decide(
        world.store,
        world.store,
        held.key,
        digest=request_digest(held),
        approve=yes,
        decided_by=by,
        clock=world.clock,
    )


@dataclass(slots=True)
class WaitingCA(ScriptedCA):
    """A CA that tells to wait itself, and answers when it was polled often enough.

    Args:
        polls: How many pollReqs get a pollRep first.
        delays: To which messages it says waiting.
        first_nonce: Whether the final answer returns the request's nonce instead of the last pollReq's.
        nonces: Its senderNonces, the newest last; a pollReq has to return that.
        cert_req_id: certReqId in its words to wait; by default that of the request.
    """

    polls: int = 1
    delays: frozenset[BodyType] = EVERY_TYPE | {BodyType.certConf}
    first_nonce: bool = False
    pending: PKIMessage | None = None
    nonces: list[bytes] = field(default_factory=list)
    cert_req_id: int | None = None

    async def _process(self, request: PKIMessage) -> bytes:
        if request.body_type is BodyType.nested:
            request = PKIMessage.from_der(nested_messages(request.body_content)[0])
        if request.body_type is BodyType.pollReq:
            assert self.pending is not None
            assert request.header.recip_nonce == self.nonces[-1]
            if self.polls > 0:
                self.polls -= 1
                asked = polled_cert_req_id(self.pending.body_type, self._id_of(self.pending))
                return await self._say(request, poll_rep_body(PollRep(asked, 7)))
            pending, self.pending = self.pending, None
            if not self.first_nonce:
                nonce = request.header.sender_nonce
                pending = replace(pending, header=replace(pending.header, sender_nonce=nonce))
            return await ScriptedCA._process(self, pending)
        if request.body_type in self.delays:
            self.pending = request
            waiting = waiting_body(request.body_type, self._id_of(request))
            return await self._say(request, waiting)
        return await ScriptedCA._process(self, request)

    def _id_of(self, request: PKIMessage) -> int:
        return cert_req_id_of(request) if self.cert_req_id is None else self.cert_req_id

    async def _say(self, request: PKIMessage, body_der: bytes) -> bytes:
        credential = cmp_credential(self.operator.cmp_signer)
        self.nonces.append(len(self.nonces).to_bytes(16, "big"))
        header = reply_header(request.header, sender_nonce=self.nonces[-1], now=self.clock())
        answer = Answer(request, header, body_der, credential, credential.certificates)
        self.script(answer)
        return await protect(answer.header, answer.body_der, credential, answer.extra_certs)
