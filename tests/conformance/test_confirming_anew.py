"""A certConf signed anew, after one that came to nothing: few base stations keep the octets of their messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ra_gateway.cmp.bodies import PKICONF_BODY
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import UpstreamUnavailable
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.settings import CertConf, Unconfirmed, Variant
from ra_gateway.ra.transaction import State
from tests.support.answers import fail_names
from tests.support.faults import Faults, fail, faulty_gateway
from tests.support.harness import Answer, World
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import Operation, WaitingCA, settled, slow_world
from tests.support.unconfirmed import WAIT_SECONDS, node_of, revocations, work

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    """Worlds whose RA revokes what is not confirmed."""

    def make(**options: Any) -> World:
        upstream = {"unconfirmed": Unconfirmed.revoke, **options.pop("upstream", {})}
        return World.make(vendor_pki, operator_pki, upstream=upstream, **options)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


class Confirming:
    """A base station that signs each certConf anew."""

    def __init__(self, operation: Operation) -> None:
        self.operation, self.issued = operation, operation.answer

    async def send(self, *, takes: bool = True, **where: Any) -> PKIMessage:
        self.operation.answer = self.issued
        return await self.operation.confirm(takes=takes, **where)

    async def state(self) -> State:
        return (await self.operation.stored()).state


async def issued(world: World) -> Confirming:
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    return Confirming(operation)


def another_node(world: World, faults: Faults, gate: asyncio.Event | None = None) -> Gateway:
    gateway = faulty_gateway(world, faults, gate=gate)
    node, first = gateway._services, node_of(world)
    node.schedule, node.confirmation_records = first.schedule, first.confirmation_records
    return gateway


def confirmations(world: World) -> int:
    """How many certConf have reached the CA."""
    return [message.body_type for message in world.ca.messages].count(BodyType.certConf)


def away(world: World, times: int = 1, *, delivered: bool = False) -> None:
    world.ca.failure = UpstreamUnavailable("away", delivered=delivered)
    world.ca.failures = times


@pytest.mark.requirement(109)
@pytest.mark.parametrize("delivered", [True, False])
@pytest.mark.parametrize("takes", [True, False])
async def test_after_the_ca_was_away(world: World, delivered: bool, takes: bool) -> None:
    """It goes to the CA in the place of the first, and its answer is the device's."""
    device = await issued(world)
    away(world, 2, delivered=delivered)
    for _ in range(2):
        assert fail_names(await device.send(takes=takes)) == ["systemUnavail"]
        assert await device.state() is State.CONFIRMING
    answer = await device.send(takes=takes)
    assert answer.body_der == PKICONF_BODY
    asked = PKIMessage.from_der(device.operation.sent)
    assert answer.header.recip_nonce == asked.header.sender_nonce
    assert await device.state() is (State.CONFIRMED if takes else State.REJECTED)
    assert (await device.operation.send()).der == answer.der


@pytest.mark.requirement(109)
async def test_certconfirmed_is_said_of_what_is_confirmed(world: World) -> None:
    """The octets of the first one, once another has taken its place and is answered."""
    device = await issued(world)
    away(world)
    await device.send()
    first = device.operation.sent
    await device.send()
    assert fail_names(await world.ask(first)) == ["certConfirmed"]
    assert await device.state() is State.CONFIRMED
    assert confirmations(world) == 2


@pytest.mark.requirement(109)
@pytest.mark.parametrize("takes", [True, False])
async def test_one_that_says_the_opposite(world: World, takes: bool) -> None:
    """The first decides, settled or not; the other is never told that the certificate is confirmed."""
    device = await issued(world)
    away(world)
    await device.send(takes=takes)
    first = device.operation.sent
    assert fail_names(await device.send(takes=not takes)) == ["badRequest"]
    assert world.events[-1].rule == "R109"
    assert (await world.ask(first)).body_type is BodyType.pkiconf
    after = ["certConfirmed"] if takes else ["badRequest"]
    assert fail_names(await device.send(takes=not takes)) == after
    assert confirmations(world) == 2


@pytest.mark.requirement(94, 109)
async def test_while_the_ca_is_asked_about_the_first(world: World) -> None:
    """It waits for what becomes of it, and goes up itself where no answer came."""
    device = await issued(world)
    world.ca.gate = asyncio.Event()
    faults = Faults(at=4, done=True, strike=fail)  # find, sign, replace, exchange
    first = asyncio.create_task(device.send(gateway=another_node(world, faults)))

    async def asked() -> bool:
        return confirmations(world) == 1

    await settled(asked)
    second = asyncio.create_task(device.send())
    await asyncio.sleep(0.01)
    assert confirmations(world) == 1
    world.ca.gate.set()
    assert fail_names(await first) == ["systemUnavail"]
    assert (await second).body_type is BodyType.pkiconf
    assert confirmations(world) == 2


@pytest.mark.requirement(94, 109)
async def test_the_answer_to_the_first_comes_late(world: World) -> None:
    """A node that was slower than its lease does not answer the second with what belongs to the first."""
    device = await issued(world)
    gates = [asyncio.Event(), asyncio.Event()]
    nodes = [another_node(world, Faults(), gate) for gate in gates]
    tasks = []
    for number, node in enumerate(nodes):
        tasks.append(asyncio.create_task(device.send(gateway=node)))

        async def asked(count: int = number + 1) -> bool:
            return confirmations(world) == count

        await settled(asked)
        world.clock.move(seconds=world.endpoint.upstream.lease.total_seconds())
    gates[0].set()
    assert fail_names(await tasks[0]) == ["systemUnavail"]
    assert await device.state() is State.CONFIRMING
    gates[1].set()
    answer = await tasks[1]
    assert answer.body_type is BodyType.pkiconf
    asked_last = PKIMessage.from_der(device.operation.sent)
    assert answer.header.recip_nonce == asked_last.header.sender_nonce


@pytest.mark.requirement(109, 116)
async def test_instead_of_polling(make_world: MakeWorld) -> None:
    """Told to wait, the device does not poll: systemUnavail while the CA is asked, and then the truth."""
    world = slow_world(make_world)
    assert world.ca.gate is not None
    world.ca.gate.set()
    device = await issued(world)
    world.ca.gate.clear()
    await device.send()
    device.operation.assert_waiting()
    assert fail_names(await device.send()) == ["systemUnavail"]
    world.ca.gate.set()
    await node_of(world).drain(5)
    assert fail_names(await device.send()) == ["certConfirmed"]
    assert await device.state() is State.CONFIRMED


@pytest.mark.requirement(121)
@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("got", ["the first", "the last"])
async def test_while_the_ca_itself_wants_to_be_polled(
    make_world: MakeWorld, operator_pki: OperatorPKI, variant: Variant, got: str
) -> None:
    """The CA has the first one: the device is told to poll, once more; repeats get the same octets."""
    upstream = {"requests": variant}
    make = make_world(upstream=upstream)
    core = WaitingCA(operator_pki, make.clock, polls=0, delays=frozenset({BodyType.certConf}))
    world = make_world(ca=core, clock=make.clock, upstream=upstream)
    device = await issued(world)
    waiting = await device.send()
    device.operation.assert_waiting()
    asked = len(world.ca.received)
    for _ in range(2):
        anew = await device.send()
        device.operation.assert_waiting()
        assert world.events[-1].outcome == "waiting"
        assert (await device.operation.send()).der == anew.der
    assert len(world.ca.received) == asked
    device.operation.answer = anew if got == "the last" else waiting
    assert (await device.operation.poll()).body_type is BodyType.pkiconf
    assert await device.state() is State.CONFIRMED
    assert (await device.operation.send()).body_type is BodyType.pkiconf


# --- the schedule -----------------------------------------------------------------------------------------------


@pytest.mark.requirement(111)
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("unconfirmed", [Unconfirmed.report, Unconfirmed.revoke])
async def test_one_that_came_to_nothing_is_reported(
    make_world: MakeWorld, unconfirmed: Unconfirmed, takes: bool
) -> None:
    """Once, when the time to confirm is over; nothing is revoked, as the device may yet send its certConf again."""
    world = make_world(upstream={"unconfirmed": unconfirmed})
    device = await issued(world)
    away(world)
    await device.send(takes=takes)
    for _ in range(5):
        await work(world, seconds=WAIT_SECONDS - 1)
    told = [event for event in world.events if event.outcome == "unconfirmed"]
    assert ["not answered yet" in event.detail for event in told] == [True]
    assert revocations(world) == []
    assert (await device.send(takes=takes)).body_type is BodyType.pkiconf


@pytest.mark.requirement(111)
async def test_one_that_the_ca_refuses_after_the_report(world: World) -> None:
    """The certificate is looked after all the same."""
    device = await issued(world)
    away(world)
    await device.send()
    await work(world, seconds=WAIT_SECONDS + 1)

    def broken(answer: Answer) -> None:
        if answer.request.body_type is BodyType.certConf:
            answer.octets = b"no CMP"

    world.ca.script = broken
    assert fail_names(await device.send()) == ["systemFailure"]
    await work(world, seconds=1)
    assert len(revocations(world)) == 1


@pytest.mark.requirement(111)
async def test_one_that_is_on_its_way_is_not_reported(world: World) -> None:
    """As long as the lease lasts, a node is busy with it."""
    device = await issued(world)
    world.clock.move(seconds=WAIT_SECONDS)
    world.ca.gate = asyncio.Event()
    task = asyncio.create_task(device.send())

    async def asked() -> bool:
        return confirmations(world) == 1

    await settled(asked)
    await work(world, seconds=1)
    assert world.events[-1].outcome != "unconfirmed"
    world.ca.gate.set()
    assert (await task).body_type is BodyType.pkiconf


async def test_one_that_is_answered_here(make_world: MakeWorld) -> None:
    """certconf = local: the node that took the first one died; the next one is taken, also after confirmWaitTime."""
    world = make_world(upstream={"certconf": CertConf.local})
    device = await issued(world)
    faults = Faults(at=3)  # find, replace, sign
    task = asyncio.create_task(device.send(gateway=another_node(world, faults)))
    await asyncio.gather(task, return_exceptions=True)
    assert await device.state() is State.CONFIRMING, faults.calls
    world.clock.move(seconds=WAIT_SECONDS + 1)
    assert (await device.send()).body_type is BodyType.pkiconf


@pytest.mark.requirement(111)
async def test_one_that_could_not_be_signed_for_the_ca(world: World) -> None:
    """It did not count: a certificate that is never confirmed after that is revoked."""
    device = await issued(world)
    faults = Faults(at=2, strike=fail)  # find, sign
    answer = await device.send(gateway=another_node(world, faults))
    assert fail_names(answer) == ["systemFailure"]
    assert faults.calls[1] == "sign"
    await work(world, seconds=WAIT_SECONDS + 1)
    await work(world, minutes=2)
    assert len(revocations(world)) == 1


@pytest.mark.requirement(111)
@pytest.mark.parametrize("certconf", [CertConf.local, CertConf.forward])
async def test_one_whose_node_dies_before_it_is_stored(
    make_world: MakeWorld, certconf: CertConf
) -> None:
    """The device has confirmed, and nobody can tell what it was answered: reported once, and not revoked."""
    world = make_world(upstream={"certconf": certconf})
    device = await issued(world)
    faults = Faults(at=2 if certconf is CertConf.local else 3)  # find, sign for the CA, replace
    task = asyncio.create_task(device.send(gateway=another_node(world, faults)))
    await asyncio.gather(task, return_exceptions=True)
    assert (faults.calls[-1], await device.state()) == ("replace", State.ISSUED)
    for _ in range(5):
        await work(world, seconds=WAIT_SECONDS + 1)
    told = [event for event in world.events if event.outcome == "unconfirmed"]
    assert ["not seen to its end" in event.detail for event in told] == [True]
    assert revocations(world) == []
