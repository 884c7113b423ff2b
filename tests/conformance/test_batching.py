"""Batches towards a CA: what goes up together, whose answer is whose, and what happens when one is missing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ra_gateway.cmp.bodies import PKIStatusInfo, error_body, nested_body, nested_messages
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage
from ra_gateway.cmp.protection import Credential as CMPCredential
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.responder import reply_header
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.upstream.batching import BatchingCA, BatchSettings
from tests.support import requests
from tests.support.answers import fail_names, status_of
from tests.support.chain import make_chain
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import ManualClock, ScriptedCA, World
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_key

DEADLINE_SECONDS = 5.0


@dataclass(slots=True)
class BatchAnswer:
    """What a CA is about to answer a batch with; a script may change any of it."""

    header: PKIHeader
    members: list[bytes]
    credential: CMPCredential
    body_der: bytes | None = None
    octets: bytes | None = None


@dataclass(slots=True)
class Counter:
    """A CA that takes batches: every member is answered by a scripted CA.

    Args:
        paths: Of what it was sent, `sent` those messages.
    """

    ca: ScriptedCA
    script: Callable[[BatchAnswer], None] = lambda answer: None
    failure: Exception | None = None
    sent: list[PKIMessage] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    closed: int = 0

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        message = PKIMessage.from_der(der)
        self.sent.append(message)
        self.paths.append(path)
        if self.failure is not None:
            raise self.failure
        ders = nested_messages(message.body_content) if message.body_type is BodyType.nested else ()
        inside = PKIMessage.from_der(ders[0]) if len(ders) == 1 else None
        if not ders or (inside and inside.header.transaction_id == message.header.transaction_id):
            return await self.ca.exchange(der, path=path, deadline_seconds=deadline_seconds)
        answers = [
            await self.ca.exchange(item, path=path, deadline_seconds=deadline_seconds)
            for item in ders
        ]
        header = reply_header(
            message.header, sender_nonce=secrets.token_bytes(16), now=self.ca.clock()
        )
        answer = BatchAnswer(header, answers, cmp_credential(self.ca.operator.cmp_signer))
        self.script(answer)
        if answer.octets is not None:
            return answer.octets
        body_der = answer.body_der or nested_body(*answer.members)
        credential = answer.credential
        return await protect(answer.header, body_der, credential, credential.certificates)

    async def close(self) -> None:
        self.closed += 1


@dataclass(slots=True)
class Site:
    """A world whose CA is reached in batches."""

    world: World
    counter: Counter
    core: BatchingCA

    async def request(self, serial: str = "ENB-1", **header: Any) -> bytes:
        return await requests.request(
            self.world, cmp_credential(self.world.device(serial)), make_key("p256"), **header
        )

    async def send(self, der: bytes, *, path: str = "") -> PKIMessage:
        answer = await self.core.exchange(der, path=path, deadline_seconds=DEADLINE_SECONDS)
        return PKIMessage.from_der(answer)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeSite:
    """Sites that differ in how they batch; arguments are fields of `BatchSettings`."""

    def make(**settings: Any) -> Site:
        clock = ManualClock()
        ca = ScriptedCA(operator_pki, clock)
        counter = Counter(ca)
        usual = {
            "name": "ca",
            "recipient_der": ANYONE,
            "trust": TrustDomain(
                "operator",
                DomainKind.operator,
                (cmp_certificate(operator_pki.root.certificate),),
                (cmp_certificate(operator_pki.issuing.certificate),),
            ),
            "window_seconds": 0.05,
            "batch_max": 4,
        }
        credential = cmp_credential(operator_pki.ra)
        core = BatchingCA(
            counter,
            BatchSettings(**{**usual, **settings}),
            credential=lambda: credential,
            clock=clock,
            random_octets=secrets.token_bytes,
        )
        world = World.make(
            vendor_pki, operator_pki, ca=ca, clock=clock, upstream={"core": core, "name": "ca"}
        )
        return Site(world, counter, core)

    return make


def ids(message: PKIMessage) -> list[bytes | None]:
    """transactionIDs of the members of a batch."""
    ders = nested_messages(message.body_content)
    return [PKIMessage.from_der(der).header.transaction_id for der in ders]


@pytest.mark.requirement(125)
async def test_what_comes_within_a_moment_goes_up_as_one(make_site: MakeSite) -> None:
    """Signed by the RA under fresh IDs, the members as they are; each gets the answer with its own ID."""
    site = make_site()
    sent = [await site.request(f"ENB-{number}") for number in range(3)]
    answers = await asyncio.gather(*(site.send(der) for der in sent))
    (batch,) = site.counter.sent
    asked = [PKIMessage.from_der(der).header for der in sent]
    assert batch.body_type is BodyType.nested
    assert list(nested_messages(batch.body_content)) == sent
    ra = cmp_certificate(site.world.operator.ra.certificate)
    assert batch.header.sender_name_der == ra.subject_der
    assert batch.extra_certs[0] == ra.der
    assert batch.header.transaction_id not in [header.transaction_id for header in asked]
    assert len(batch.header.transaction_id or b"") == len(batch.header.sender_nonce or b"") == 16
    for header, answer in zip(asked, answers, strict=True):
        assert answer.header.transaction_id == header.transaction_id
        assert answer.header.recip_nonce == header.sender_nonce


async def test_a_lone_message_goes_up_as_it_is(make_site: MakeSite) -> None:
    """Nobody came within the window: there is nothing to batch."""
    site = make_site(window_seconds=0.01)
    der = await site.request()
    assert status_of(await site.send(der)).issued
    assert [message.der for message in site.counter.sent] == [der]


async def test_a_full_batch_does_not_wait(make_site: MakeSite) -> None:
    """At its largest count, or size, it goes at once, and the next begins."""
    site = make_site(window_seconds=3600.0, batch_max=2)
    sent = [await site.request(f"ENB-{number}") for number in range(4)]
    await asyncio.gather(*(site.send(der) for der in sent))
    assert [len(ids(batch)) for batch in site.counter.sent] == [2, 2]
    site = make_site(max_bytes=2 * len(sent[0]) + 100)
    await asyncio.gather(*(site.send(der) for der in sent[:3]))
    assert [message.body_type for message in site.counter.sent] == [BodyType.nested, BodyType.ir]


@pytest.mark.requirement(126)
async def test_the_same_id_never_shares_a_batch(make_site: MakeSite) -> None:
    """Two devices that drew the same transactionID are asked for one after the other."""
    site = make_site()
    same = {"transaction_id": b"\0\0\0\1"}
    first, second = await site.request("ENB-1", **same), await site.request("ENB-2", **same)
    third = await site.request("ENB-3")
    answers = await asyncio.gather(*(site.send(der) for der in (first, second, third)))
    assert [message.body_type for message in site.counter.sent] == [BodyType.ir, BodyType.nested]
    assert ids(site.counter.sent[1]) == [
        answers[1].header.transaction_id,
        answers[2].header.transaction_id,
    ]
    nonces = [PKIMessage.from_der(der).header.sender_nonce for der in (first, second, third)]
    assert [answer.header.recip_nonce for answer in answers] == nonces


async def test_each_path_has_batches_of_its_own(make_site: MakeSite) -> None:
    """What is for two aliases of a CA does not go up together."""
    site = make_site(window_seconds=0.02)
    sent = [await site.request(f"ENB-{number}") for number in range(4)]
    await asyncio.gather(
        *(site.send(der, path=path) for der, path in zip(sent, "abab", strict=True))
    )
    assert sorted(site.counter.paths) == ["a", "b"]


@pytest.mark.requirement(128)
async def test_what_is_nested_already_is_not_batched(make_site: MakeSite) -> None:
    """Nested inside nested would be refused."""
    site = make_site(window_seconds=3600.0)
    inner = await site.request()
    header = PKIMessage.from_der(inner).header
    credential = cmp_credential(site.world.operator.ra)
    nested = await protect(header, nested_body(inner), credential, credential.certificates)
    assert status_of(await site.send(nested)).issued
    assert [message.der for message in site.counter.sent] == [nested]


@pytest.mark.requirement(127)
async def test_a_member_without_an_answer_fails_alone(make_site: MakeSite) -> None:
    """systemUnavail for its device; whoever has an answer gets it, and one too many is dropped."""
    site = make_site()

    def drop_the_second(answer: BatchAnswer) -> None:
        del answer.members[1]

    site.counter.script = drop_the_second
    sent = [await site.request(f"ENB-{number}") for number in range(3)]
    answers = await asyncio.gather(*(site.world.ask(der) for der in sent))
    assert [status_of(answer).issued for answer in answers] == [True, False, True]
    assert fail_names(answers[1]) == ["systemUnavail"]
    assert "R127" in {event.rule for event in site.world.events}


@pytest.mark.requirement(127)
async def test_answers_nobody_asked_for_are_dropped(make_site: MakeSite) -> None:
    """Also a second answer for one member, and octets that are no message: the first counts."""
    site = make_site()
    stranger = make_site()
    other = (await stranger.send(await stranger.request("ENB-9"))).der

    def add(answer: BatchAnswer) -> None:
        forged = PKIMessage.from_der(answer.members[0])
        twin = other.replace(
            PKIMessage.from_der(other).header.transaction_id or b"",
            forged.header.transaction_id or b"",
        )
        answer.members = [*answer.members, twin, other, b"\x30\x00"]

    site.counter.script = add
    sent = [await site.request(f"ENB-{number}") for number in range(2)]
    answers = await asyncio.gather(*(site.send(der) for der in sent))
    nonces = [PKIMessage.from_der(der).header.sender_nonce for der in sent]
    assert [answer.header.recip_nonce for answer in answers] == nonces


def _wrong_id(answer: BatchAnswer) -> None:
    answer.header = replace(answer.header, transaction_id=bytes(16))


def _wrong_nonce(answer: BatchAnswer) -> None:
    answer.header = replace(answer.header, recip_nonce=bytes(16))


def _garbage(answer: BatchAnswer) -> None:
    answer.octets = b"\x30\x03\x02\x01\x00"


def _plain(answer: BatchAnswer) -> None:
    answer.octets = answer.members[0]


def _empty(answer: BatchAnswer) -> None:
    answer.body_der = nested_body()


def _refused(answer: BatchAnswer) -> None:
    info = PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.badRequest,))
    answer.body_der = error_body(info)


@pytest.mark.requirement(83, 84, 85)
@pytest.mark.parametrize("script", [_wrong_id, _wrong_nonce, _garbage, _plain, _empty, _refused])
async def test_an_answer_that_is_no_answer_to_the_batch(
    make_site: MakeSite, script: Callable[[BatchAnswer], None]
) -> None:
    """Every member hears systemFailure; nothing of it is believed."""
    site = make_site()
    site.counter.script = script
    sent = [await site.request(f"ENB-{number}") for number in range(2)]
    answers = await asyncio.gather(*(site.world.ask(der) for der in sent))
    assert [fail_names(answer) for answer in answers] == [["systemFailure"]] * 2


@pytest.mark.requirement(84)
async def test_a_batch_of_answers_is_signed_by_the_ca(
    make_site: MakeSite, operator_pki: OperatorPKI, foreign_vendor_pki: VendorPKI
) -> None:
    """Neither a stranger nor a device with a certificate of the same root can put one together."""
    signers: list[Credential] = [foreign_vendor_pki.device(), operator_pki.device()]
    for signer in signers:
        site = make_site()

        def sign(answer: BatchAnswer, signer: Credential = signer) -> None:
            answer.credential = cmp_credential(signer)

        site.counter.script = sign
        sent = [await site.request(f"ENB-{number}") for number in range(2)]
        results = await asyncio.gather(*(site.send(der) for der in sent), return_exceptions=True)
        assert [type(result) for result in results] == [UpstreamBroken] * 2


@pytest.mark.requirement(90)
@pytest.mark.parametrize("bit", [PKIFailureInfo.systemUnavail, PKIFailureInfo.systemFailure])
async def test_the_cas_trouble_with_a_batch_is_told_as_such(
    make_site: MakeSite, bit: PKIFailureInfo
) -> None:
    """An error for the batch as a whole reaches every device, with what the CA says of itself."""
    site = make_site()

    def refuse(answer: BatchAnswer) -> None:
        answer.body_der = error_body(PKIStatusInfo(PKIStatus.rejection, (), (bit,)))

    site.counter.script = refuse
    sent = [await site.request(f"ENB-{number}") for number in range(2)]
    answers = await asyncio.gather(*(site.world.ask(der) for der in sent))
    assert [fail_names(answer) for answer in answers] == [[bit.name]] * 2


@pytest.mark.requirement(90)
@pytest.mark.parametrize("delivered", [True, False])
async def test_a_ca_out_of_reach_is_so_for_every_member(
    make_site: MakeSite, delivered: bool
) -> None:
    """Each hears by an error of its own, and whether the CA may have seen the messages."""
    site = make_site()
    site.counter.failure = UpstreamUnavailable("gone", delivered=delivered)
    sent = [await site.request(f"ENB-{number}") for number in range(2)]
    results = await asyncio.gather(*(site.send(der) for der in sent), return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamUnavailable] * 2
    assert results[0] is not results[1]
    assert [result.delivered for result in results] == [delivered] * 2  # type: ignore[union-attr]


async def test_a_bug_leaves_nobody_waiting(make_site: MakeSite) -> None:
    """Whatever breaks, every member is told."""
    site = make_site()
    site.counter.failure = RuntimeError("bug")
    sent = [await site.request(f"ENB-{number}") for number in range(2)]
    results = await asyncio.gather(*(site.send(der) for der in sent), return_exceptions=True)
    assert [type(result) for result in results] == [UpstreamUnavailable] * 2


async def test_who_gives_up_before_the_batch_is_sent_is_not_in_it(make_site: MakeSite) -> None:
    """Its message never goes up; the others do."""
    site = make_site()
    sent = [await site.request(f"ENB-{number}") for number in range(2)]
    tasks = [asyncio.create_task(site.send(der)) for der in sent]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert status_of(await tasks[1]).issued
    assert [message.der for message in site.counter.sent] == [sent[1]]


@pytest.mark.requirement(90)
async def test_who_runs_out_of_time_waits_no_longer(make_site: MakeSite) -> None:
    """The time is each message's own, the wait for company included."""
    site = make_site()
    site.world.ca.gate = asyncio.Event()
    sent = [await site.request(f"ENB-{number}") for number in range(2)]
    patient = asyncio.create_task(site.send(sent[0]))
    with pytest.raises(UpstreamUnavailable) as caught:
        await site.core.exchange(sent[1], path="", deadline_seconds=0.1)
    assert caught.value.delivered
    site.world.ca.gate.set()
    assert status_of(await patient).issued


async def test_closing_lets_nobody_wait(make_site: MakeSite) -> None:
    """What waits for company was certainly not delivered; what is under way may have been."""
    site = make_site(window_seconds=0.02, batch_max=2)
    site.world.ca.gate = asyncio.Event()
    sent = [await site.request(f"ENB-{number}") for number in range(3)]
    tasks = [asyncio.create_task(site.send(der)) for der in sent]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await site.core.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result.delivered for result in results] == [True, True, False]  # type: ignore[union-attr]
    assert site.counter.closed == 1


@pytest.mark.requirement(125, 126)
async def test_a_gateway_takes_what_a_gateway_batches(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Five devices behind a local RA enrol and confirm, in batches to the next gateway."""
    chain = make_chain(vendor_pki, operator_pki)
    below = chain.lower
    upstream = below.endpoint.upstream
    core = BatchingCA(
        chain.link,
        BatchSettings("upper", ANYONE, upstream.trust, upstream.pinned, window_seconds=0.1),
        credential=lambda: chain.ra,
        clock=below.clock,
        random_octets=secrets.token_bytes,
    )
    endpoint = replace(below.endpoint, upstream=replace(upstream, core=core))
    gateway = chain.gateway_below(endpoint)

    async def enrol(serial: str) -> None:
        enrollment = below.enrollment(below.device(serial), subject=f"CN={serial}.example.net")
        step = await enrollment.receive(
            await below.post(await enrollment.request(), gateway=gateway)
        )
        await enrollment.receive(await below.post(step.der, gateway=gateway))  # type: ignore[union-attr]

    await asyncio.gather(*(enrol(f"ENB-{number}") for number in range(5)))
    assert [message.body_type for message in chain.link.messages] == [BodyType.nested] * 2
    assert [len(ids(message)) for message in chain.link.messages] == [5, 5]
    assert len(chain.upper.ca.issued) == 5
    outcomes = [event.outcome for event in chain.upper.events]
    assert sorted(set(outcomes)) == ["batched", "confirmed", "issued"]
