"""Certificates that nobody confirmed: reported, or revoked at the CA, once, also after a crash (R111)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from ra_gateway.clocks import SteadyClock
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    RevRepContent,
    error_body,
    rev_rep_body,
    rev_req_content,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import confirm_wait_time, confirm_wait_time_of
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.events import Outcome
from ra_gateway.ra.agenda import UnconfirmedCertificates
from ra_gateway.ra.ports import ConfirmationRecords, Schedule
from ra_gateway.ra.services import Services
from ra_gateway.ra.settings import CertConf, Unconfirmed
from ra_gateway.ra.signer_status import SignerStatus
from ra_gateway.ra.transaction import State
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.tasks import ended
from tests.support.answers import fail_names, follow
from tests.support.credentials import cmp_certificate
from tests.support.faults import Faults, Strike, die, fail, faulty_gateway
from tests.support.harness import Answer, MakeWorld, ManualClock, World
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.polling import Operation, settled, slow_world
from tests.support.redis_server import SEAL_KEY
from tests.support.unconfirmed import WAIT_SECONDS, node_of, revocations, work


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    """Worlds whose RA answers certConf itself, and revokes what is not confirmed."""

    def make(**options: Any) -> World:
        usual = {"certconf": CertConf.local, "unconfirmed": Unconfirmed.revoke}
        upstream = {**usual, **options.pop("upstream", {})}
        return World.make(vendor_pki, operator_pki, upstream=upstream, **options)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


async def issued(world: World, body_type: BodyType = BodyType.ir) -> Operation:
    """An operation that has its certificate, and is to confirm it."""
    operation = await Operation.begin(world, body_type)
    await operation.send()
    return operation


def assert_revoked(world: World, certificate: Certificate, reason: int = 5) -> None:
    """Assert that exactly one rr went up, that it is the RA's, and for this certificate."""
    (rr,) = revocations(world)
    details = rev_req_content(rr.body_content)
    assert len(details) == 1
    assert details[0].template.serial_number == certificate.serial_number
    assert details[0].template.issuer_der == certificate.issuer_der
    (entry,) = details[0].crl_entry_details
    assert (entry.oid, entry.value) == (OID.reasonCode, bytes((0x0A, 1, reason)))
    assert rr.header.message_time == world.clock()
    event = world.events[-1]
    assert (event.outcome, event.body_type, event.rule) == ("revoked", "rr", "R111")
    assert event.serial_number == f"{certificate.serial_number:x}"


async def nothing_is_scheduled(world: World) -> bool:
    schedule = node_of(world).schedule
    assert schedule is not None
    world.clock.move(days=365)
    return await schedule.due(world.clock(), limit=9) == []


# --- what is withdrawn ----------------------------------------------------------------------------------------


@pytest.mark.requirement(111)
async def test_a_certificate_that_is_never_confirmed(world: World) -> None:
    """Nothing happens while certConf is awaited; after that the CA revokes, once."""
    operation = await issued(world)
    await work(world, seconds=WAIT_SECONDS - 1)
    assert revocations(world) == []
    await work(world, seconds=2)
    assert_revoked(world, world.ca.issued[0])
    assert "did not confirm" in world.events[-1].detail
    assert (await operation.stored()).state is State.WITHDRAWN
    await work(world, hours=5)
    assert len(revocations(world)) == 1
    assert await nothing_is_scheduled(world)


@pytest.mark.requirement(111)
async def test_a_late_cert_conf_is_refused(world: World) -> None:
    """badRequest, whether it takes the certificate or rejects it."""
    operation = await issued(world)
    answer = operation.answer
    await work(world, seconds=WAIT_SECONDS + 1)
    for takes in (True, False):
        operation.answer = answer
        refused = await operation.confirm(takes=takes)
        assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRequest"])
        assert world.events[-1].rule == "R111"
    assert len(revocations(world)) == 1


async def test_a_certificate_that_is_rejected(world: World) -> None:
    """The device gets its pkiConf at once; the rr follows."""
    operation = await issued(world)
    assert (await operation.confirm(takes=False)).body_type is BodyType.pkiconf
    await work(world)
    assert_revoked(world, world.ca.issued[0])
    assert "rejected" in world.events[-1].detail
    assert await world.post(operation.sent) == operation.answer.der


@pytest.mark.parametrize("certconf", [CertConf.local, CertConf.forward])
async def test_a_device_gives_up(make_world: MakeWorld, certconf: CertConf) -> None:
    """Its error ends at the RA, so that the CA has to be told by an rr, also one that reads certConf."""
    world = make_world(upstream={"certconf": certconf})
    operation = await issued(world)
    told = error_body(PKIStatusInfo(PKIStatus.rejection, ("no",)))
    der = await follow(operation.device, operation.answer, told, now=world.clock())
    assert (await world.ask(der)).body_type is BodyType.pkiconf
    await work(world)
    assert_revoked(world, world.ca.issued[0])


async def test_a_ca_that_was_told_of_the_rejection(make_world: MakeWorld) -> None:
    """It has seen the certConf itself: no rr."""
    world = make_world(upstream={"certconf": CertConf.forward})
    operation = await issued(world)
    assert (await operation.confirm(takes=False)).body_type is BodyType.pkiconf
    await work(world, days=1)
    assert revocations(world) == []
    assert await nothing_is_scheduled(world)


async def test_a_certificate_that_is_confirmed(world: World) -> None:
    """It stays, and is forgotten after the time for repeats."""
    operation = await issued(world)
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert (await operation.stored()).expires_at == world.clock() + node_of(world).lifetime
    await work(world, minutes=30)
    assert revocations(world) == []
    assert await nothing_is_scheduled(world)


async def test_a_certificate_for_another_key(world: World) -> None:
    """The CA's mistake is not relayed, and does not stay valid."""
    operation = await Operation.begin(world, BodyType.ir)
    key: Any = make_key("p256").public_key()
    foreign = cmp_certificate(world.operator.issuing.sign("CN=enb-1.ran.example.net", key))
    world.ca.script = lambda answer: answer.set_response(certificate_der=foreign.der)
    assert fail_names(await operation.send()) == ["systemFailure"]
    world.ca.script = lambda answer: None
    await work(world)
    assert_revoked(world, foreign)
    assert "could not be relayed" in world.events[-1].detail
    assert await world.post(operation.sent) == operation.answer.der


async def test_an_implicit_confirmation_needs_none(make_world: MakeWorld) -> None:
    """The CA granted it to the RA, the device was told to confirm: then the RA alone awaits that."""
    world = make_world(upstream={"certconf": CertConf.implicit})
    await issued(world)
    await work(world, seconds=WAIT_SECONDS + 1)
    assert_revoked(world, world.ca.issued[0])


async def test_a_certificate_that_was_never_fetched(make_world: MakeWorld) -> None:
    """Its device was told to wait and never came back, or came too late."""
    world = slow_world(make_world)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def there() -> bool:
        return (await operation.stored()).state is State.ISSUED

    await settled(there)
    await work(world, seconds=WAIT_SECONDS + 9)
    assert revocations(world) == []
    await work(world, seconds=2)
    assert_revoked(world, world.ca.issued[0])
    refused = await world.ask(await operation.poll_req())
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRequest"])


async def test_a_device_that_fetches_late_has_its_time_to_confirm(make_world: MakeWorld) -> None:
    """confirmWaitTime counts from the moment the device gets its certificate."""
    world = slow_world(make_world)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert world.ca.gate is not None
    world.ca.gate.set()
    await node_of(world).drain(5)
    world.clock.move(seconds=WAIT_SECONDS)
    await operation.poll()
    await work(world, seconds=WAIT_SECONDS - 5)
    assert revocations(world) == []
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    await work(world, minutes=10)
    assert revocations(world) == []
    assert await nothing_is_scheduled(world)


@pytest.mark.parametrize(
    "told, seconds",
    [
        (datetime(1970, 1, 1, tzinfo=UTC), WAIT_SECONDS),
        (None, WAIT_SECONDS),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), 7 * 86_400),
    ],
)
async def test_a_ca_whose_clock_is_wrong_costs_no_certificate(
    world: World, told: datetime | None, seconds: int
) -> None:
    """A time that is over counts as none, and one beyond all measure is cut; the device is told what counts."""
    world.ca.script = saying(told or world.clock())
    operation = await issued(world)
    until = world.clock() + timedelta(seconds=seconds)
    assert confirm_wait_time_of(operation.answer.header) == until
    await work(world, seconds=seconds - 1)
    assert revocations(world) == []
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    await issued(world)
    await work(world, seconds=seconds + 1)
    assert_revoked(world, world.ca.issued[1])


def saying(until: datetime) -> Callable[[Answer], None]:
    """A CA that says until when it awaits certConf."""

    def script(answer: Answer) -> None:
        if answer.request.body_type is BodyType.ir:
            answer.header = replace(answer.header, general_info=(confirm_wait_time(until),))

    return script


@pytest.mark.parametrize("reason", [0, 4, 5])
async def test_the_reason_is_configured(make_world: MakeWorld, reason: int) -> None:
    """unconfirmed_reason is the CRLReason of the rr."""
    world = make_world(upstream={"unconfirmed_reason": reason})
    await issued(world)
    await work(world, seconds=WAIT_SECONDS + 1)
    assert_revoked(world, world.ca.issued[0], reason)


# --- report, leave, and a changed configuration ---------------------------------------------------------------


async def test_where_it_is_only_reported(make_world: MakeWorld) -> None:
    """One event, no rr, and the state stays."""
    world = make_world(upstream={"unconfirmed": Unconfirmed.report})
    operation = await issued(world)
    await work(world, seconds=WAIT_SECONDS + 1)
    event = world.events[-1]
    assert (event.outcome, event.rule) == ("unconfirmed", "R111")
    assert event.serial_number == f"{world.ca.issued[0].serial_number:x}"
    count = len(world.events)
    await work(world, hours=1)
    assert len(world.events) == count
    assert revocations(world) == []
    assert (await operation.stored()).state is State.ISSUED


async def test_where_it_is_left(make_world: MakeWorld) -> None:
    """Nothing is planned; a rejection that the CA does not hear of is noted."""
    world = make_world(upstream={"unconfirmed": Unconfirmed.leave})
    operation = await issued(world)
    assert await node_of(world).schedule.due(world.clock(), limit=9) == []  # type: ignore[union-attr]
    await operation.confirm(takes=False)
    assert "the CA was not told" in world.events[-1].detail
    assert await nothing_is_scheduled(world)


async def test_an_upstream_that_is_gone(world: World) -> None:
    """The configuration has changed meanwhile: the operator is told of the certificate."""
    await issued(world)
    upstream = replace(world.endpoint.upstream, name="another")
    world.gateway = world.second_gateway(replace(world.endpoint, upstream=upstream))
    await work(world, seconds=WAIT_SECONDS + 1)
    event = world.events[-1]
    assert (event.outcome, event.upstream) == ("unconfirmed", "scripted")
    assert "not configured any more" in event.detail
    assert revocations(world) == []


# --- what the CA says -----------------------------------------------------------------------------------------


async def test_a_ca_that_is_down(world: World) -> None:
    """It is tried again, less and less often, until it answers."""
    await issued(world)
    world.ca.failure, world.ca.failures = UpstreamUnavailable("down", delivered=False), 2
    await work(world, seconds=WAIT_SECONDS + 1)
    assert (world.events[-1].outcome, "down" in world.events[-1].detail) == ("failed", True)
    await work(world, seconds=30)
    assert len(revocations(world)) == 1
    await work(world, seconds=31)
    assert len(revocations(world)) == 2
    await work(world, hours=1)
    assert [event.outcome for event in world.events[-3:]] == ["failed", "failed", "revoked"]
    await work(world, days=1)
    assert len(revocations(world)) == 3


async def test_a_ca_that_stays_down(world: World) -> None:
    """Every hour at most, and after a week the last attempt says that it was the last."""
    await issued(world)
    world.ca.failure, world.ca.failures = UpstreamUnavailable("down", delivered=False), 9999
    for _ in range(24 * 8):
        await work(world, hours=1)
    details = [event.detail for event in world.events if event.outcome == "failed"]
    assert 24 * 6 < len(details) < 24 * 7 + 9
    assert "not tried any more" in details[-1]
    assert not any("not tried any more" in detail for detail in details[:-1])
    assert await nothing_is_scheduled(world)


def answering(*fail_info: PKIFailureInfo, by: BodyType = BodyType.rp) -> Callable[[Answer], None]:
    def script(answer: Answer) -> None:
        if answer.request.body_type is BodyType.rr:
            info = PKIStatusInfo(PKIStatus.rejection, ("no",), fail_info)
            is_rp = by is BodyType.rp
            answer.body_der = rev_rep_body(RevRepContent((info,))) if is_rp else error_body(info)

    return script


@pytest.mark.parametrize("by", [BodyType.rp, BodyType.error])
async def test_a_ca_that_has_revoked_it_already(world: World, by: BodyType) -> None:
    """certRevoked is as good as done, in rp or in error."""
    operation = await issued(world)
    world.ca.script = answering(PKIFailureInfo.certRevoked, by=by)
    await work(world, seconds=WAIT_SECONDS + 1)
    assert (await operation.stored()).state is State.WITHDRAWN
    assert world.events[-1].outcome == "revoked"


async def test_a_ca_that_refuses(world: World) -> None:
    """It is told once, with the CA's reason, and not asked again: a person has to see to it."""
    operation = await issued(world)
    world.ca.script = answering(PKIFailureInfo.notAuthorized)
    await work(world, seconds=WAIT_SECONDS + 1)
    assert (await operation.stored()).state is State.FAILED
    event = world.events[-1]
    assert (event.outcome, "refuses" in event.detail, "notAuthorized" in event.detail) == (
        "failed", True, True,
    )  # fmt: skip
    await work(world, days=1)
    assert len(revocations(world)) == 1


@pytest.mark.parametrize("fail_info", ["badRequest", "badDataFormat", "badCertId"])
async def test_a_ca_that_refuses_by_an_error(world: World, fail_info: str) -> None:
    """It signs one for anybody, who may put it in the place of its rp: asked again."""
    await issued(world)
    world.ca.script = answering(PKIFailureInfo[fail_info], by=BodyType.error)
    await work(world, seconds=WAIT_SECONDS + 1)
    assert fail_info in world.events[-1].detail
    world.ca.script = lambda answer: None
    await work(world, hours=1)
    assert world.events[-1].outcome == "revoked"


async def test_a_broken_answer(world: World) -> None:
    """It may have been revoked, or not: asked again."""
    await issued(world)
    world.ca.script = lambda answer: setattr(answer, "octets", b"\x30\x00")
    await work(world, seconds=WAIT_SECONDS + 1)
    world.ca.script = answering(PKIFailureInfo.certRevoked)
    await work(world, hours=1)
    assert world.events[-1].outcome == "revoked"


# --- crashes and several nodes --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FaultySchedule:
    """A schedule that fails where its faults say."""

    schedule: Schedule
    faults: Faults

    async def add(self, key: Any, due_at: Any) -> None:
        await self.faults.around("add", lambda: self.schedule.add(key, due_at))

    async def due(self, now: Any, *, limit: int) -> Any:
        return await self.faults.around("due", lambda: self.schedule.due(now, limit=limit))

    async def remove(self, key: Any) -> None:
        await self.faults.around("remove", lambda: self.schedule.remove(key))


@dataclass
class FaultyRecords:
    """What became of certificates, behind faults."""

    inner: ConfirmationRecords
    faults: Faults

    async def note_confirmation(self, *args: Any) -> Any:
        return await self.faults.around(
            "note_confirmation", lambda: self.inner.note_confirmation(*args)
        )


def faulty_node(world: World, faults: Faults) -> Services:
    node = faulty_gateway(world, faults)._services
    assert isinstance(world.store, MemoryStore | RedisStore)
    return replace(
        node,
        schedule=FaultySchedule(world.store, faults),
        confirmation_records=FaultyRecords(world.store, faults),
    )


@pytest.mark.requirement(111)
@pytest.mark.parametrize("strike", [die, fail])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(1, 10))
async def test_a_fault_between_any_two_steps(
    world: World, at: int, done: bool, strike: Strike
) -> None:
    """Another node, or the same one later, finishes it: the CA revokes once, and says certRevoked after that."""
    operation = await issued(world)
    revoked: list[int] = []

    def revokes_once(answer: Answer) -> None:
        if answer.request.body_type is not BodyType.rr:
            return
        if revoked:
            answering(PKIFailureInfo.certRevoked)(answer)
        revoked.append(1)

    world.ca.script = revokes_once
    world.clock.move(seconds=WAIT_SECONDS + 1)
    faults = Faults(at=at, done=done, strike=strike)
    task = asyncio.create_task(UnconfirmedCertificates(faulty_node(world, faults)).work())
    await asyncio.gather(task, return_exceptions=True)
    for _ in range(3):
        await work(world, minutes=10)
    assert (await operation.stored()).state is State.WITHDRAWN
    assert 1 <= len(revoked) <= 2
    assert [event.outcome for event in world.events].count(Outcome.revoked) in (1, 2)
    assert await nothing_is_scheduled(world)


@pytest.mark.parametrize("strike", [die, fail])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(1, 8))
async def test_a_fault_while_a_rejection_is_taken(
    make_world: MakeWorld, at: int, done: bool, strike: Strike
) -> None:
    """However the node dies that took the rejection: repeated or not, the certificate is revoked in the end."""
    world = make_world()
    operation = await issued(world)
    answer = operation.answer
    faults = Faults(at=at, done=done, strike=strike)
    gateway = faulty_gateway(world, faults)
    gateway._services.schedule = FaultySchedule(world.store, faults)  # type: ignore[arg-type]
    task = asyncio.create_task(operation.confirm(takes=False, gateway=gateway))
    await asyncio.gather(task, return_exceptions=True)
    world.clock.move(seconds=30)
    if at % 2:  # the device repeats its message
        assert (await world.ask(operation.sent)).body_type is BodyType.pkiconf
    for _ in range(4):
        await work(world, minutes=10)
    operation.answer = answer
    assert (await operation.stored()).state in (State.WITHDRAWN, State.CONFIRMING)
    if at % 2:
        assert len(revocations(world)) == 1


async def test_two_nodes_work_at_once(make_world: MakeWorld) -> None:
    """One rr for each certificate."""
    world = make_world()
    for _ in range(5):
        await issued(world)
    world.clock.move(seconds=WAIT_SECONDS + 1)
    nodes = [faulty_node(world, Faults()) for _ in range(3)]
    await asyncio.gather(*(UnconfirmedCertificates(node).work() for node in nodes))
    asked = [
        rev_req_content(rr.body_content)[0].template.serial_number for rr in revocations(world)
    ]
    assert len(asked) == len(world.ca.issued)
    assert set(asked) == {item.serial_number for item in world.ca.issued}
    await work(world, hours=1)
    assert len(revocations(world)) == 5


async def test_a_cert_conf_and_the_rr_at_once(world: World) -> None:
    """Whichever is first: confirmed and not revoked, or revoked and not confirmed."""
    operation = await issued(world)
    world.clock.move(seconds=WAIT_SECONDS)
    node = faulty_node(world, Faults())
    answer, _ = await asyncio.gather(operation.confirm(), UnconfirmedCertificates(node).work())
    confirmed = answer.body_type is BodyType.pkiconf
    assert confirmed is (revocations(world) == [])


async def fetched_late(make_world: MakeWorld) -> Operation:
    """A certificate whose device has not fetched it when its time is over."""
    world = slow_world(make_world)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert world.ca.gate is not None
    world.ca.gate.set()
    await node_of(world).drain(5)
    world.clock.move(seconds=WAIT_SECONDS + 11)
    return operation


@pytest.mark.requirement(111)
async def test_a_poll_while_the_certificate_is_being_withdrawn(make_world: MakeWorld) -> None:
    """It is not delivered: the device could not confirm it any more."""
    operation = await fetched_late(make_world)
    world = operation.world
    faults = Faults(at=4)  # due, load, note_confirmation, sign
    task = asyncio.create_task(UnconfirmedCertificates(faulty_node(world, faults)).work())
    await asyncio.gather(task, return_exceptions=True)
    assert faults.calls[-1] == "sign"
    refused = await world.ask(await operation.poll_req())
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRequest"])
    assert world.events[-1].rule == "R111"
    await work(world, seconds=WAIT_SECONDS + 1)
    assert_revoked(world, world.ca.issued[0])


@pytest.mark.requirement(111)
async def test_a_certificate_that_is_being_delivered_is_not_withdrawn(
    make_world: MakeWorld,
) -> None:
    """Its device is awaited from the moment that the answer is signed."""
    operation = await fetched_late(make_world)
    world, answer = operation.world, operation.answer
    faults = Faults(at=5)  # find, sign, note_confirmation, add, replace
    gateway = faulty_gateway(world, faults)
    node = faulty_node(world, faults)
    gateway._services.schedule = node.schedule
    gateway._services.confirmation_records = node.confirmation_records
    task = asyncio.create_task(operation.poll(gateway=gateway))
    await asyncio.gather(task, return_exceptions=True)
    assert faults.calls[-1] == "replace"
    # As a node that found it due before the other one put that off.
    await UnconfirmedCertificates(node_of(world))._look_at((await operation.stored()).key)
    assert revocations(world) == []
    operation.answer = answer
    await operation.poll()
    assert (await operation.confirm()).body_type is BodyType.pkiconf


async def test_one_bad_transaction_does_not_stop_the_others(world: World) -> None:
    """A bug, or a key that cannot sign, is told and tried again; the run goes on."""
    await issued(world)
    node = node_of(world)
    good = node.credential

    def broken() -> Any:
        raise RuntimeError("no key")

    node.credential = broken
    await work(world, seconds=WAIT_SECONDS + 1)
    assert (world.events[-1].outcome, type(world.events[-1].bug)) == ("failed", RuntimeError)
    node.credential = good
    await work(world, minutes=2)
    assert world.events[-1].outcome == "revoked"


async def test_it_runs_until_it_is_stopped(world: World) -> None:
    """run works through what is due, outlives a store that is away, and ends when cancelled."""
    await issued(world)
    world.clock.move(seconds=WAIT_SECONDS + 1)
    faults = Faults(at=1, strike=fail)
    task = asyncio.create_task(UnconfirmedCertificates(faulty_node(world, faults)).run(0.01))

    async def revoked() -> bool:
        return world.events[-1].outcome == "revoked"

    await settled(revoked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_restart(make_world: MakeWorld, redis_url: str) -> None:
    """What is to be withdrawn is in Redis: another process does it."""
    clock = ManualClock()
    first = RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY])
    world = make_world(store=first, clock=clock)
    await issued(world)
    await first.close()
    second = RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY])
    world.store = second
    world.gateway = world.second_gateway()
    await work(world, seconds=WAIT_SECONDS + 1)
    assert_revoked(world, world.ca.issued[0])
    await second.close()


# --- clocks that were set ---------------------------------------------------------------------------------------


@pytest.fixture
def elapsed() -> list[float]:
    """Seconds that have really passed, in its one item."""
    return [0.0]


@pytest.fixture
def stepping(world: World, elapsed: list[float]) -> World:
    """A world that compares its clock with what has really passed."""
    node_of(world).steady = SteadyClock(world.clock, lambda: elapsed[0])
    return world


@pytest.mark.requirement(111)
async def test_a_clock_that_was_set_revokes_nothing(stepping: World, elapsed: list[float]) -> None:
    """400 seconds ahead for a minute: the device's time is not over, and it confirms when the clock is right again."""
    operation = await issued(stepping)
    await work(stepping, seconds=400)
    assert revocations(stepping) == []
    stepping.clock.move(seconds=-340)
    elapsed[0] += 60
    await work(stepping)
    assert revocations(stepping) == []
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert (await operation.stored()).state is State.CONFIRMED


async def test_a_cert_conf_while_the_clock_is_wrong(stepping: World) -> None:
    """It is taken: that it comes late is the clock's word alone."""
    operation = await issued(stepping)
    stepping.clock.move(seconds=WAIT_SECONDS + 200)
    assert (await operation.confirm()).body_type is BodyType.pkiconf


async def test_it_goes_on_when_the_clock_has_run_evenly(
    stepping: World, elapsed: list[float]
) -> None:
    """A clock that was wrong before, and was set right, stops nothing for ever."""
    await issued(stepping)
    await work(stepping, days=1)
    for _ in range(59):
        elapsed[0] += 60
        await work(stepping, minutes=1)
        assert revocations(stepping) == []
    elapsed[0] += 120
    await work(stepping, minutes=2)
    assert_revoked(stepping, stepping.ca.issued[0])


# --- a schedule that others write to -------------------------------------------------------------------------------


async def test_poison_in_the_schedule(make_world: MakeWorld, redis_url: str) -> None:
    """It is dropped, and what belongs there is seen to; the task lives and ends when it is told to."""
    clock = ManualClock()
    async with Redis.from_url(redis_url) as raw:
        store = RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY])
        world = make_world(store=store, clock=clock)
        operation = await issued(world)
        stranger = replace((await operation.stored()).key, transaction_id=b"no such")
        for member in (b"poison", b"\xff", b"a b", b"x" * 300_000, b"00 00 acme"):
            await raw.zadd("ra:agenda", {member: 0})
        await store.add(stranger, clock())
        clock.move(seconds=WAIT_SECONDS + 1)
        task = asyncio.create_task(UnconfirmedCertificates(node_of(world)).run(0.01))

        async def seen_to() -> bool:
            return task.done() or await raw.zcard("ra:agenda") == 0

        await settled(seen_to)
        assert not task.done()
        assert_revoked(world, world.ca.issued[0])
        await ended(task)
        await store.close()


# --- what the CA in this process knows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Confirmed:
    """A ledger that has everything as confirmed, or nothing."""

    everything: bool

    async def revoked_at(self, certificate: Certificate, now: Any, *, listed: bool = False) -> None:
        return None

    async def confirmed(self, certificate: Certificate, now: Any) -> bool:
        return self.everything


@pytest.mark.parametrize("everything", [True, False])
async def test_what_the_ledger_has_as_confirmed(make_world: MakeWorld, everything: bool) -> None:
    """Through another gateway, say: it stays, though its device gave up here."""
    world = make_world(upstream={"certconf": CertConf.forward})
    node_of(world).signer_status = SignerStatus(None, Confirmed(everything))
    operation = await issued(world)
    told = error_body(PKIStatusInfo(PKIStatus.rejection, ("no",)))
    await world.ask(await follow(operation.device, operation.answer, told, now=world.clock()))
    await work(world)
    assert (revocations(world) == []) is everything
    assert (world.events[-1].outcome == "unconfirmed") is everything
