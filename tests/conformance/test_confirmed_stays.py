"""What any transaction confirmed is never revoked because another one was not: a CA may give a certificate twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from ra_gateway.cmp.bodies import cert_rep_message, rev_req_content
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import UpstreamUnavailable
from ra_gateway.ra.confirmation_records import (
    TRANSACTIONS_LIMIT,
    ConfirmationRecord,
    ConfirmationStatus,
    certificate_key,
)
from ra_gateway.ra.settings import CertConf, Unconfirmed
from ra_gateway.ra.transaction import Event, State
from ra_gateway.ra.unconfirmed import schedule
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate
from tests.support.harness import Answer, MakeWorld, ManualClock, World
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.polling import Operation
from tests.support.redis_server import SEAL_KEY
from tests.support.respelling import SPELLINGS, respelt_message
from tests.support.unconfirmed import WAIT_SECONDS, node_of, revocations, work

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class ReplayingCA:
    """Has a world's CA give the certificate of the first answer to every request for the same key."""

    world: World
    first: bytes | None = None

    def __call__(self, answer: Answer) -> None:
        if answer.request.body_type is not BodyType.ir:
            return
        if self.first is None:
            self.first = self.world.ca.issued[0].der
        else:
            answer.set_response(certificate_der=self.first)


@pytest.fixture(params=["memory", "redis"])
async def make_world(
    request: pytest.FixtureRequest, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> AsyncIterator[MakeWorld]:
    stores: list[Any] = []

    def make(**upstream: Any) -> World:
        clock = ManualClock()
        if request.param == "redis":
            url = request.getfixturevalue("redis_url")
            stores.append(RedisStore(url, clock=clock, seal_keys=[SEAL_KEY]))
        else:
            stores.append(MemoryStore(clock, max_transactions=1000))
        usual = {"certconf": CertConf.local, "unconfirmed": Unconfirmed.revoke}
        return World.make(
            vendor_pki, operator_pki, upstream={**usual, **upstream}, store=stores[-1], clock=clock
        )

    yield make
    for store in stores:
        await store.close()


async def enrolled_twice(world: World) -> tuple[Operation, Operation]:
    """Two devices that ask for the same key, and have got the same certificate."""
    key = make_key("p256")
    world.ca.script = ReplayingCA(world)
    operations = []
    for serial in ("ENB-1", "ENB-2"):
        device = world.device(serial)
        operation = Operation(world, device, BodyType.ir)
        operation.sent = await world.enrollment(device, new_key=key).request()
        await operation.send()
        operations.append(operation)
    first, second = operations
    assert (await first.stored()).certificate_der == (await second.stored()).certificate_der
    return first, second


@pytest.mark.requirement(111)
@pytest.mark.parametrize("which", [0, 1])
async def test_a_certificate_that_another_requester_got_as_well(
    make_world: MakeWorld, which: int
) -> None:
    """One confirms, the other never does: no rr, and the operator hears why, once."""
    world = make_world()
    operations = await enrolled_twice(world)
    assert (await operations[which].confirm()).body_type is BodyType.pkiconf
    for _ in range(3):
        await work(world, seconds=WAIT_SECONDS + 1)
    assert revocations(world) == []
    told = [event for event in world.events if event.outcome == "unconfirmed"]
    assert ["another transaction confirmed" in event.detail for event in told] == [True]


async def test_a_rejection_by_another_requester(make_world: MakeWorld) -> None:
    """Whoever rejects the certificate that a device has confirmed does not get it revoked."""
    world = make_world()
    first, second = await enrolled_twice(world)
    await first.confirm()
    await second.confirm(takes=False)
    await work(world, minutes=1)
    assert revocations(world) == []


async def test_long_after_it_was_confirmed(make_world: MakeWorld) -> None:
    """The transaction that confirmed it is forgotten by then; what it said is not."""
    world = make_world()
    key = make_key("p256")
    world.ca.script = ReplayingCA(world)
    operation = Operation(world, world.device("ENB-1"), BodyType.ir)
    operation.sent = await world.enrollment(operation.device, new_key=key).request()
    await operation.send()
    await operation.confirm()
    world.clock.move(days=20)
    late = Operation(world, world.device("ENB-2"), BodyType.ir)
    late.sent = await world.enrollment(late.device, new_key=key).request()
    await late.send()
    await work(world, hours=1)
    assert revocations(world) == []


async def test_a_certificate_that_another_device_may_yet_confirm(make_world: MakeWorld) -> None:
    """It is withdrawn when nobody is awaited any more, and not before."""
    world = make_world()
    key = make_key("p256")
    world.ca.script = ReplayingCA(world)
    for number, serial in enumerate(("ENB-1", "ENB-2")):
        operation = Operation(world, world.device(serial), BodyType.ir)
        operation.sent = await world.enrollment(operation.device, new_key=key).request()
        await operation.send()
        if number == 0:
            world.clock.move(seconds=WAIT_SECONDS - 10)
    await work(world, seconds=20)
    assert revocations(world) == []
    for _ in range(3):
        await work(world, seconds=WAIT_SECONDS)
    asked = {
        rev_req_content(rr.body_content)[0].template.serial_number for rr in revocations(world)
    }
    assert asked == {world.ca.issued[0].serial_number}


async def test_what_is_being_withdrawn_is_not_confirmed(make_world: MakeWorld) -> None:
    """The CA is asked to revoke it already: the second device is told that it comes too late."""
    world = make_world()
    key = make_key("p256")
    world.ca.script = ReplayingCA(world)
    first = Operation(world, world.device("ENB-1"), BodyType.ir)
    first.sent = await world.enrollment(first.device, new_key=key).request()
    await first.send()
    world.ca.failure, world.ca.failures = UpstreamUnavailable("down", delivered=True), 1
    await work(world, seconds=WAIT_SECONDS + 1)
    second = Operation(world, world.device("ENB-2"), BodyType.ir)
    second.sent = await world.enrollment(second.device, new_key=key).request()
    await second.send()
    refused = await second.confirm()
    assert refused.body_type is BodyType.error
    assert world.events[-1].rule == "R111"


async def test_a_ca_that_issues_anew(make_world: MakeWorld) -> None:
    """Each request has a certificate of its own: the confirmed one stays, the other one goes."""
    world = make_world()
    operations = [await Operation.begin(world, BodyType.ir) for _ in "ab"]
    for operation in operations:
        await operation.send()
    await operations[0].confirm()
    await work(world, seconds=WAIT_SECONDS + 1)
    assert len(revocations(world)) == 1
    assert (await operations[0].stored()).state is State.CONFIRMED
    assert (await operations[1].stored()).state is State.WITHDRAWN


async def test_a_confirmation_that_the_ca_refuses_is_none(make_world: MakeWorld) -> None:
    """The device is told that it came to nothing; then the certificate is not its own."""
    world = make_world(certconf=CertConf.forward)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()

    def broken(answer: Answer) -> None:
        if answer.request.body_type is BodyType.certConf:
            answer.octets = b"no CMP"

    world.ca.script = broken
    assert (await operation.confirm()).body_type is BodyType.error
    assert (await operation.stored()).state is State.FAILED
    await work(world, seconds=WAIT_SECONDS + 1)
    assert len(revocations(world)) == 1


async def test_a_confirmed_certificate_in_an_answer_that_cannot_be_relayed(
    make_world: MakeWorld,
) -> None:
    """A CA that answers with somebody else's certificate does not have the gateway revoke it."""
    world = make_world()
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    await operation.confirm()
    world.ca.script = lambda answer: answer.set_response(certificate_der=world.ca.issued[0].der)
    other = await Operation.begin(world, BodyType.ir)
    await other.send()
    assert world.events[-1].outcome == "failed"
    world.ca.script = lambda answer: None
    await work(world, seconds=WAIT_SECONDS + 1)
    assert revocations(world) == []


@pytest.mark.parametrize("which", range(30))
async def test_a_cert_conf_and_the_rr_of_another_at_once(make_world: MakeWorld, which: int) -> None:
    """However they interleave, a certificate that was confirmed is not revoked."""
    world = make_world()
    first, second = await enrolled_twice(world)
    world.clock.move(seconds=WAIT_SECONDS)
    answers = []

    async def later() -> None:
        for _ in range(which):
            await asyncio.sleep(0)
        answers.append(await first.confirm())

    await asyncio.gather(later(), work(world))
    assert (answers[0].body_type is BodyType.pkiconf) is (revocations(world) == [])
    assert await second.stored()


async def test_a_certificate_that_was_rejected_while_another_cert_conf_was_taken(
    make_world: MakeWorld,
) -> None:
    """What the store has settled counts: the node that began to take the other certConf came too late, or died."""
    world = make_world()
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    stored, now = await operation.stored(), world.clock()
    await node_of(world).note_confirmation(
        stored, stored.certificate_der, ConfirmationStatus.confirmed, now
    )
    await operation.confirm(takes=False)
    await work(world, minutes=1)
    assert len(revocations(world)) == 1


@pytest.mark.requirement(111)
@pytest.mark.parametrize("late", ["delivers", "answers"])
async def test_a_late_node_does_not_unsay_a_confirmation(make_world: MakeWorld, late: str) -> None:
    """It says that the device is awaited, which has confirmed; another transaction has the same certificate."""
    world = make_world()
    first, second = await enrolled_twice(world)
    assert (await first.confirm()).body_type is BodyType.pkiconf
    stored = await first.stored()
    stale = replace(stored, state=State.ISSUED, confirmation=None)
    if late == "answers":
        stale = replace(stale, state=State.REQUESTED)
    context: Any = SimpleNamespace(upstream=world.endpoint.upstream)
    until = world.clock() + timedelta(seconds=WAIT_SECONDS)
    await schedule(node_of(world), context, stale, Event.issued, stored.certificate_der, until)
    for _ in range(4):
        await work(world, seconds=WAIT_SECONDS + 1)
    assert revocations(world) == []
    assert await second.stored()


# --- another spelling of the device's certificate -----------------------------------------------------------------


@pytest.mark.requirement(12)
@pytest.mark.parametrize("replays", [True, False])
@pytest.mark.parametrize("when", ["at once", "after certConf", "while it is asked"])
async def test_an_ir_with_its_certificate_spelt_otherwise(
    make_world: MakeWorld, replays: bool, when: str
) -> None:
    """Whoever has seen an ir sends it again so: no second transaction, no second certificate, and no rr."""
    world = make_world(replays_repeats=replays)
    world.ca.replays = replays
    operation = await Operation.begin(world, BodyType.ir)
    copy = respelt_message(operation.sent, SPELLINGS["twin of an ECDSA signature"])
    assert copy != operation.sent
    if when == "while it is asked":
        world.ca.gate = asyncio.Event()
        asked = [asyncio.create_task(world.post(der)) for der in (operation.sent, copy)]
        while not world.ca.received:  # noqa: ASYNC110  # it appends to a list
            await asyncio.sleep(0)
        world.ca.gate.set()
        assert len(set(await asyncio.gather(*asked))) == 1
    answer = await operation.send()
    if when == "at once":
        assert await world.post(copy) == answer.der
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert await world.post(copy) == answer.der
    assert len(world.ca.issued) == 1
    for _ in range(3):
        await work(world, seconds=WAIT_SECONDS + 1)
    assert revocations(world) == []
    assert (await operation.stored()).state is State.CONFIRMED


@pytest.mark.requirement(95)
@pytest.mark.parametrize("replays", [True, False])
async def test_what_redis_lost_is_not_issued_twice(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, redis_url: str, replays: bool
) -> None:
    """The same certificate where the CA replays; otherwise the device is to begin anew, and hears so."""
    clock = ManualClock()
    store = RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY])
    world = World.make(
        vendor_pki, operator_pki, upstream={"replays_repeats": replays}, store=store, clock=clock
    )
    world.ca.replays = replays
    operation = await Operation.begin(world, BodyType.ir)
    first = await operation.send()
    async with Redis.from_url(redis_url) as raw:
        await raw.flushall()
    again = await operation.send()
    assert len(world.ca.issued) == 1
    if replays:
        issued = [cert_rep_message(each.body_content).responses for each in (first, again)]
        assert issued[0] == issued[1]
        assert (await operation.confirm()).body_type is BodyType.pkiconf
    else:
        assert fail_names(again) == ["transactionIdInUse"]
    await store.close()


async def begun_again(world: World, redis_url: str, *lost: str) -> Operation:
    """An operation whose device confirmed, what Redis lost of it, and its ir, sent once more by whoever saw it."""
    world.ca.replays = True
    operation = await Operation.begin(world, BodyType.ir)
    captured = operation.sent
    await operation.send()
    async with Redis.from_url(redis_url) as raw:
        kept = {key: await raw.dump(key) async for key in raw.scan_iter("ra:{certificate}:*")}
        await operation.confirm()
        for pattern in lost:
            for key in [key async for key in raw.scan_iter(pattern)]:
                await raw.delete(key)
                if key in kept and "put back" in lost:
                    await raw.restore(key, 0, kept[key] or b"")
    world.clock.move(seconds=1)
    assert PKIMessage.from_der(await world.post(captured)).body_type is BodyType.ip
    assert len(world.ca.issued) == 1
    return operation


@pytest.mark.requirement(111)
@pytest.mark.parametrize("make_world", ["redis"], indirect=True)
@pytest.mark.parametrize(
    "lost",
    [
        ["ra:{????????????????????????????????}*"],
        ["ra:{????????????????????????????????}*", "ra:{certificate}:*"],
        ["ra:{????????????????????????????????}*", "ra:{certificate}:*", "put back"],
    ],
    ids=["transaction", "transaction and certificate", "transaction, and certificate put back"],
)
async def test_what_redis_lost_does_not_get_a_certificate_revoked(
    make_world: MakeWorld, redis_url: str, lost: list[str]
) -> None:
    """The captured ir opens the transaction anew and nobody confirms it; its device did so before."""
    world = make_world(replays_repeats=True)
    await begun_again(world, redis_url, *lost)
    for _ in range(3):
        await work(world, seconds=WAIT_SECONDS + 1)
    assert revocations(world) == []


# --- what is known of a certificate -----------------------------------------------------------------------------


def test_nothing_said_is_forgotten_in_a_store() -> None:
    """There and back; what is none is refused."""
    record = ConfirmationRecord().after("a", ConfirmationStatus.confirmed, NOW, NOW)
    record = record.after("b", ConfirmationStatus.awaited, NOW + HOUR, NOW)
    assert ConfirmationRecord.from_bytes(record.to_bytes()) == record
    for wrong in (b"", b"[]", b"{}", b'{"withdrawn":1,"confirmed_by":[],"awaited":[]}'):
        with pytest.raises(ValueError, match=r"confirmation record|Expecting"):
            ConfirmationRecord.from_bytes(wrong)


def test_what_many_say_stays_small_and_true() -> None:
    """Whatever others add, what was confirmed stays so, and who is awaited longest is not forgotten."""
    record = ConfirmationRecord().after("device", ConfirmationStatus.awaited, NOW + 9 * HOUR, NOW)
    for number in range(100):
        record = record.after(f"{number}", ConfirmationStatus.awaited, NOW + HOUR, NOW)
    assert len(record.awaited) == TRANSACTIONS_LIMIT
    assert "device" in record.awaited
    for number in range(100):
        record = record.after(f"{number}", ConfirmationStatus.confirmed, NOW, NOW)
    assert len(record.to_bytes()) < 2000
    record = record.after("5", ConfirmationStatus.awaited, NOW + HOUR, NOW)
    assert "5" in record.confirmed_by
    assert "5" not in record.after("5", ConfirmationStatus.unconfirmed, NOW, NOW).confirmed_by
    assert (
        record.after("5", ConfirmationStatus.withdrawn, NOW, NOW + 99 * HOUR).status
        is ConfirmationStatus.confirmed
    )


def test_a_certificate_is_known_by_issuer_and_serial_number(operator_pki: OperatorPKI) -> None:
    """In every process alike; another serial number is another certificate."""
    key: Any = make_key("p256").public_key()
    one, other = (cmp_certificate(operator_pki.issuing.sign("CN=a", key)) for _ in "ab")
    assert certificate_key(one) == certificate_key(type(one).from_der(one.der))
    assert certificate_key(one) != certificate_key(other)
