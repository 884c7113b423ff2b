"""Delayed delivery: a slow CA, a CA that says waiting, and devices that poll (RFC 9483 4.4; R116 to R121)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import CertStatus, cert_confirm_body, cert_rep_message
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, body, confirm_wait_time_of
from ra_gateway.cmp.polling import poll_req_body
from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.settings import Approval, Variant
from ra_gateway.ra.transaction import State
from tests.support.answers import fail_names, follow, status_of
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.faults import Faults, Strike, die, fail, faulty_gateway
from tests.support.harness import Answer, MakeWorld, ManualClock, World, changed, make_gateway
from tests.support.mac import ONCE, OTHER, assert_maced, cert_conf, ir, maced, sender
from tests.support.mac import make_world as mac_world
from tests.support.pki import CMC_CA, OperatorPKI, VendorPKI, certificate_der, other_operator
from tests.support.polling import (
    EVERY_TYPE,
    KNOWN,
    OTHERS,
    REQUESTS,
    WAIT_AFTER_SECONDS,
    Operation,
    WaitingCA,
    approve,
    settled,
    slow_world,
    written_secrets,
)

FINAL = {
    BodyType.rr: State.REVOKED,
    BodyType.genm: State.INFORMED,
}


@pytest.fixture
def slow(make_world: MakeWorld) -> World:
    return slow_world(make_world)


def gate(world: World) -> asyncio.Event:
    assert world.ca.gate is not None
    return world.ca.gate


async def answered(operation: Operation) -> None:
    """Open the gate, and wait until the answer is in the store."""
    gate(operation.world).set()

    async def there() -> bool:
        return (await operation.stored()).current.planned is not None

    await settled(there)


# --- a slow CA ------------------------------------------------------------------------------------------------


@pytest.mark.requirement(116, 117, 118, 90)
@pytest.mark.parametrize("body_type", [*REQUESTS, *OTHERS])
async def test_a_slow_ca_is_waited_for(slow: World, body_type: BodyType) -> None:
    """waiting, pollRep, and in the end the CA's answer, which was asked for once."""
    operation = await Operation.begin(slow, body_type)
    await operation.send()
    operation.assert_waiting()
    assert slow.events[-1].outcome == "waiting"
    await operation.poll()
    operation.assert_not_yet()
    await answered(operation)
    answer = await operation.poll()
    assert answer.body_type is RESPONSE_TO[body_type]
    transaction = await operation.stored()
    assert len(slow.ca.received) == 1
    if body_type in CERT_RESPONSE_TO:
        assert status_of(answer).issued
        assert transaction.state is State.ISSUED
        confirmed = await operation.confirm()
        assert confirmed.body_type is BodyType.pkiconf
    else:
        assert transaction.state is FINAL[body_type]


@pytest.mark.requirement(116, 117, 118)
@pytest.mark.parametrize("takes", [True, False])
async def test_a_slow_pkiconf_is_waited_for(slow: World, takes: bool) -> None:
    """certConf is answered with an error that says waiting, polled for with certReqId -1, and answered."""
    operation = await Operation.begin(slow, BodyType.ir)
    gate(slow).set()
    await operation.send()
    gate(slow).clear()
    await operation.confirm(takes=takes)
    operation.assert_waiting()
    assert (await operation.stored()).state is State.CONFIRMING
    await operation.poll()
    operation.assert_not_yet()
    await answered(operation)
    answer = await operation.poll()
    assert answer.body_type is BodyType.pkiconf
    assert (await operation.stored()).state is (State.CONFIRMED if takes else State.REJECTED)
    assert [m.body_type for m in slow.ca.messages] == [BodyType.ir, BodyType.certConf]


async def test_a_fast_ca_makes_nobody_wait(make_world: MakeWorld) -> None:
    """An answer within the time goes straight to the device."""
    world = slow_world(make_world, endpoint={"wait_after_seconds": 60.0})
    gate(world).set()
    operation = await Operation.begin(world, BodyType.ir)
    assert status_of(await operation.send()).issued
    assert (await operation.stored()).opening.waiting is False


async def test_where_waiting_is_off_a_slow_ca_is_system_unavail(make_world: MakeWorld) -> None:
    """wait_after_seconds None: the device is held up until the deadline, as before."""
    world = slow_world(make_world, endpoint={"wait_after_seconds": None})
    operation = await Operation.begin(world, BodyType.ir)
    task = asyncio.create_task(operation.send())
    await asyncio.sleep(5 * WAIT_AFTER_SECONDS)
    assert not task.done()
    gate(world).set()
    assert status_of(await task).issued


@pytest.mark.requirement(120)
async def test_polls_that_come_early_are_borne(slow: World) -> None:
    """Ten polls at once after each other do no harm, and ask nobody."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    for _ in range(10):
        await operation.poll()
        operation.assert_not_yet()
    await answered(operation)
    assert status_of(await operation.poll()).issued
    assert len(slow.ca.received) == 1


@pytest.mark.requirement(94)
async def test_repeats_get_the_stored_answers(slow: World) -> None:
    """Of the request while it has to wait, of each last pollReq, and of the one that brought the answer."""
    operation = await Operation.begin(slow, BodyType.ir)
    told = (await operation.send()).der
    assert await slow.post(operation.sent) == told
    early = await operation.poll_req()
    not_yet = await slow.post(early)
    assert await slow.post(early) == not_yet
    assert await slow.post(operation.sent) == told
    operation.answer = PKIMessage.from_der(not_yet)
    await answered(operation)
    last = await operation.poll_req()
    final = await slow.post(last)
    assert slow.events[-1].outcome == "issued"
    assert await slow.post(last) == final
    assert slow.events[-1].outcome == "replayed"
    again = await slow.post(operation.sent)
    assert status_of(PKIMessage.from_der(again)).issued
    assert await slow.post(operation.sent) == again
    assert await slow.post(last) == final
    operation.answer = PKIMessage.from_der(final)
    confirmed = (await operation.confirm()).der
    assert await slow.post(operation.sent) == confirmed
    assert await slow.post(last) == final
    assert len(slow.ca.received) == 2


# --- polls that are not in order ------------------------------------------------------------------------------


async def refused_poll(operation: Operation, der: bytes, *fail_info: str) -> None:
    """A pollReq is refused with an error, and the one that belongs there works all the same."""
    world = operation.world
    refused = await world.ask(der)
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, list(fail_info))
    assert world.events[-1].outcome == "refused"
    await operation.poll()
    operation.assert_not_yet()


@pytest.mark.requirement(119)
@pytest.mark.parametrize("body_type,asked", [(BodyType.ir, 1), (BodyType.ir, -1), (BodyType.rr, 1)])
async def test_another_cert_req_id(slow: World, body_type: BodyType, asked: int) -> None:
    """pollReq names what is waited for: the request's certReqId, -1 for what has none."""
    operation = await Operation.begin(slow, body_type)
    await operation.send()
    await refused_poll(operation, await operation.poll_req(asked), "badRequest")


@pytest.mark.requirement(8)
async def test_another_recip_nonce(slow: World) -> None:
    """pollReq returns the nonce of the last answer, not one of its own."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    wrong = await operation.poll_req(recip_nonce=bytes(16))
    await refused_poll(operation, wrong, "badRecipientNonce")
    stale = await operation.poll_req()
    await operation.poll()
    await operation.poll()
    await refused_poll(
        operation, await operation.poll_req(recip_nonce=bytes(16)), "badRecipientNonce"
    )
    assert stale != b""


@pytest.mark.requirement(8)
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("recip_nonce", [None, b""])
async def test_no_recip_nonce(slow: World, recip_nonce: bytes | None, there: bool) -> None:
    """A pollReq continues a transaction, and so returns a nonce: the first one, too, whether the answer is there."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    if there:
        await answered(operation)
    refused = await slow.ask(await operation.poll_req(recip_nonce=recip_nonce))
    assert fail_names(refused) == ["badRecipientNonce"]
    if there:
        assert status_of(await operation.poll()).issued
        gate(slow).clear()
        await operation.confirm()
        refused = await slow.ask(await operation.poll_req(recip_nonce=recip_nonce))
        assert fail_names(refused) == ["badRecipientNonce"]
        gate(slow).set()


@pytest.mark.requirement(119)
async def test_polling_for_what_is_there(slow: World) -> None:
    """Where no answer is awaited, or not any more, a pollReq is badRequest."""
    gate(slow).set()
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    refused = await slow.ask(await operation.poll_req())
    assert fail_names(refused) == ["badRequest"]
    unknown = await slow.ask(await operation.poll_req(transaction_id=bytes(16)))
    assert fail_names(unknown) == ["badRequest"]
    assert status_of(operation.answer).issued


@pytest.mark.requirement(119)
async def test_polling_again_after_the_answer(slow: World) -> None:
    """What was delivered is not delivered to another pollReq."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    await answered(operation)
    await operation.poll()
    refused = await slow.ask(await operation.poll_req())
    assert fail_names(refused) == ["badRequest"]
    assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(35)
async def test_somebody_else_polls(slow: World) -> None:
    """Only who began the operation gets its answer."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    await refused_poll(
        operation, await operation.poll_req(signer=slow.device("ENB-2")), "badMessageCheck"
    )


@pytest.mark.requirement(119)
async def test_a_malformed_poll_req(slow: World) -> None:
    """No entry, two entries, numbers of any length: an error, and the operation goes on."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    entry = bytes.fromhex("3003020100")
    for content, name in (
        (b"", "badRequest"),
        (entry + entry, "badRequest"),
        (asn1.tlv(0x30, asn1.encode(2**600)), "badDataFormat"),
        (b"\x05\x00", "badDataFormat"),
    ):
        poll = body(BodyType.pollReq, asn1.tlv(0x30, content))
        der = await follow(operation.device, operation.answer, poll, now=slow.clock())
        await refused_poll(operation, der, name)


async def test_cert_conf_before_the_answer(slow: World) -> None:
    """A certificate that the device was not given cannot be confirmed, nor rejected."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    for _ in range(2):
        status = CertStatus(bytes(32), 0)
        der = await follow(
            operation.device, operation.answer, cert_confirm_body(status), now=slow.clock()
        )
        assert fail_names(await slow.ask(der)) == ["badRequest"]
        await answered(operation)
    assert status_of(await operation.poll()).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf


# --- several nodes, and nodes that die ------------------------------------------------------------------------


async def test_any_node_answers(slow: World) -> None:
    """One node asks the CA, another is polled, a third takes the certConf."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    await operation.poll(gateway=slow.second_gateway())
    operation.assert_not_yet()
    await answered(operation)
    assert status_of(await operation.poll(gateway=slow.second_gateway())).issued
    confirmed = await operation.confirm(gateway=slow.second_gateway())
    assert confirmed.body_type is BodyType.pkiconf
    assert len(slow.ca.received) == 2


@pytest.mark.requirement(94)
@pytest.mark.parametrize("there", [False, True])
async def test_the_same_poll_at_two_nodes(slow: World, there: bool) -> None:
    """Both give the same octets, whether the answer is there or not."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    if there:
        await answered(operation)
    der = await operation.poll_req()
    other = slow.second_gateway()
    first, second = await asyncio.gather(slow.post(der), slow.post(der, gateway=other))
    assert first == second
    expected = BodyType.ip if there else BodyType.pollRep
    assert PKIMessage.from_der(first).body_type is expected


async def test_a_repeat_elsewhere_is_told_to_wait_as_well(slow: World) -> None:
    """The request at two nodes at once: one CA exchange, and the same octets from both."""
    operation = await Operation.begin(slow, BodyType.ir)
    other = slow.second_gateway()
    first, second = await asyncio.gather(
        slow.post(operation.sent), slow.post(operation.sent, gateway=other)
    )
    assert first == second
    assert len(slow.ca.received) == 1


async def abandoned(world: World, body_type: BodyType = BodyType.ir) -> Operation:
    """An operation whose node died while it was asking the CA, its device told to wait."""
    operation = await Operation.begin(world, body_type)
    dying = make_gateway(
        world.endpoint, world.operator, world.store, world.clock, world.events, world.inventory
    )
    await operation.send(gateway=dying)
    operation.assert_waiting()
    await dying._services.drain(0)
    gate(world).set()
    await operation.poll()
    operation.assert_not_yet()
    assert len(world.ca.received) == 1
    world.clock.move(seconds=30)
    return operation


@pytest.mark.requirement(95)
async def test_a_node_dies_and_the_ca_may_be_asked_again(make_world: MakeWorld) -> None:
    """When the lease has ended, the next poll has another node ask with the very same message."""
    world = slow_world(make_world, upstream={"replays_repeats": True})
    operation = await abandoned(world)
    assert status_of(await operation.poll()).issued
    assert world.ca.received[0] == world.ca.received[1]
    assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(95)
async def test_a_node_dies_and_the_ca_must_not_be_asked_again(slow: World) -> None:
    """A CA that would issue twice is not asked; the device is told that the operation failed."""
    operation = await abandoned(slow)
    answer = await operation.poll()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemUnavail"])
    assert "has stored no answer in time" in slow.events[-1].detail
    assert len(slow.ca.received) == 1
    assert (await operation.stored()).state is State.FAILED


@pytest.mark.parametrize("body_type", OTHERS)
async def test_a_node_dies_and_nothing_can_be_issued_twice(
    slow: World, body_type: BodyType
) -> None:
    """rr and genm are asked again, whatever the CA."""
    operation = await abandoned(slow, body_type)
    assert (await operation.poll()).body_type is RESPONSE_TO[body_type]
    assert len(slow.ca.received) == 2


async def test_a_shutdown_waits_for_the_ca(slow: World) -> None:
    """drain returns when the answer is in the store; another node delivers it."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    asyncio.get_running_loop().call_later(0.05, gate(slow).set)
    await slow.gateway._services.drain(5)
    assert (await operation.stored()).state is State.ISSUED
    assert status_of(await operation.poll(gateway=slow.second_gateway())).issued


async def test_a_slow_answer_after_another_node_s(make_world: MakeWorld) -> None:
    """A node that was slower than its lease changes nothing any more: one answer is kept."""
    world = slow_world(make_world, upstream={"replays_repeats": True}, ca=None)
    world.ca.replays = True
    late = asyncio.Event()
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send(gateway=faulty_gateway(world, Faults(), gate=late))
    gate(world).set()
    world.clock.move(seconds=30)
    final = await operation.poll()
    assert status_of(final).issued
    late.set()
    await asyncio.sleep(0.02)
    assert (await operation.stored()).state is State.ISSUED
    assert (await operation.confirm()).body_type is BodyType.pkiconf


# --- the CA fails meanwhile -----------------------------------------------------------------------------------


async def test_a_ca_that_was_not_reached_is_tried_with_each_poll(make_world: MakeWorld) -> None:
    """Approved or released, the request goes up as soon as the CA is there."""
    world = slow_world(make_world)
    operation = await Operation.begin(world, BodyType.ir)
    core = world.ca
    core.failure, core.failures = UpstreamUnavailable("down", delivered=False), 2
    held = changed(world.endpoint, approval=Approval.required)
    await operation.send(gateway=world.second_gateway(held))
    operation.assert_waiting()
    await approve(world)
    for _ in range(2):
        await operation.poll()
        operation.assert_not_yet()
        assert "failed" in [event.outcome for event in world.events]
    gate(world).set()
    assert status_of(await operation.poll()).issued
    assert len(core.issued) == 1


async def test_a_lost_exchange_is_a_failure_where_it_may_have_issued(slow: World) -> None:
    """The CA may have seen the request and does not replay: told at the next poll, once and for all."""
    operation = await Operation.begin(slow, BodyType.ir)
    slow.ca.script = lost
    await operation.send()
    gate(slow).set()
    await settled(lambda: in_state(operation, State.FAILED))
    last = await operation.poll_req()
    first = await slow.ask(last)
    assert (first.body_type, fail_names(first)) == (BodyType.error, ["systemUnavail"])
    assert (await slow.ask(last)).der == first.der
    assert len(slow.ca.received) == 1


def lost(answer: Answer) -> None:
    raise UpstreamUnavailable("the connection broke", delivered=True)


def garbled(answer: Answer) -> None:
    answer.octets = b"\x30\x00"


async def in_state(operation: Operation, state: State) -> bool:
    return (await operation.stored()).state is state


@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.rr, BodyType.genm])
async def test_a_broken_answer_is_a_failure_at_the_next_poll(
    slow: World, body_type: BodyType
) -> None:
    """systemFailure; what was wrong is in the log line of the exchange."""
    operation = await Operation.begin(slow, body_type)
    slow.ca.script = garbled
    await operation.send()
    gate(slow).set()
    await settled(lambda: in_state(operation, State.FAILED))
    answer = await operation.poll()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert (await operation.stored()).current.delivered


async def test_the_ca_s_refusal_is_delivered(slow: World) -> None:
    """A rejection that came while the device waited reaches it as it is."""
    operation = await Operation.begin(slow, BodyType.ir)
    slow.ca.script = lambda answer: answer.reject(PKIFailureInfo.badCertTemplate, text="too long")
    await operation.send()
    await answered(operation)
    answer = await operation.poll()
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badCertTemplate"])
    assert status_of(answer).status_string == ("too long",)
    assert (await operation.stored()).state is State.REFUSED


async def test_a_device_that_goes_away_while_it_is_held_up(slow: World) -> None:
    """Its connection breaks before it is told to wait; its repeat gets what the CA answered."""
    operation = await Operation.begin(slow, BodyType.ir)
    task = asyncio.create_task(slow.post(operation.sent))
    await asyncio.sleep(WAIT_AFTER_SECONDS / 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate(slow).set()
    answer = await operation.send()
    assert status_of(answer).issued
    assert len(slow.ca.received) == 1


@pytest.mark.parametrize("strike", [die, fail])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(1, 14))
async def test_a_fault_anywhere(make_world: MakeWorld, at: int, done: bool, strike: Strike) -> None:
    """Whichever step fails, the operation ends in one certificate, or in one failure; never in two certificates."""
    world = slow_world(make_world, upstream={"replays_repeats": True}, ca=None)
    world.ca.replays = True
    operation = await Operation.begin(world, BodyType.ir)
    faults = Faults(at=at, done=done, strike=strike)
    faulty = faulty_gateway(world, faults)
    der = operation.sent
    for attempt in range(12):
        gateway = faulty if attempt < 3 else world.gateway
        if attempt == 2:
            gate(world).set()
        # As a device does: what is not answered, or not well, is sent again as it is.
        task = asyncio.create_task(world.ask(der, gateway=gateway))
        (answer,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(answer, PKIMessage) and answer.body_type is not BodyType.error:
            operation.answer = answer
            if answer.body_type is BodyType.ip and status_of(answer).issued:
                break
            der = await operation.poll_req()
        world.clock.move(seconds=30)
    assert status_of(operation.answer).issued
    assert len(world.ca.issued) == 1
    assert (await operation.confirm()).body_type is BodyType.pkiconf


# --- the CA says waiting --------------------------------------------------------------------------------------


@pytest.fixture
def waiting_world(make_world: MakeWorld, operator_pki: OperatorPKI) -> MakeWorld:
    """Worlds whose CA tells to wait, and gives its answer to the second pollReq."""

    def make(*, ca: dict[str, Any] | None = None, **options: Any) -> World:
        clock = ManualClock()
        core = WaitingCA(operator_pki, clock, **(ca or {}))
        endpoint = {"body_types": EVERY_TYPE, **options.pop("endpoint", {})}
        return make_world(ca=core, clock=clock, endpoint=endpoint, **options)

    return make


@pytest.mark.requirement(116, 117, 118, 121)
@pytest.mark.parametrize("variant", list(Variant))
@pytest.mark.parametrize("body_type", [*REQUESTS, *OTHERS])
async def test_the_ca_s_waiting_is_relayed(
    waiting_world: MakeWorld, body_type: BodyType, variant: Variant
) -> None:
    """The device polls the CA through the RA, under the protection its request went up with, to the very end."""
    world = waiting_world(upstream={"requests": variant, "kur": variant})
    operation = await Operation.begin(world, body_type)
    await operation.send()
    operation.assert_waiting()
    await operation.poll()
    operation.assert_not_yet(seconds=7)
    answer = await operation.poll()
    assert answer.body_type is RESPONSE_TO[body_type], world.events[-1].detail
    sent = (
        [BodyType.nested] * 3 if variant is Variant.nested else [body_type, *[BodyType.pollReq] * 2]
    )
    if body_type is BodyType.genm:
        sent = [body_type, *[BodyType.pollReq] * 2]
    assert [m.body_type for m in world.ca.messages] == sent
    if body_type in CERT_RESPONSE_TO:
        assert status_of(answer).issued
        await operation.confirm()
        operation.assert_waiting()
        assert (await operation.poll()).body_type is BodyType.pkiconf
        assert (await operation.stored()).state is State.CONFIRMED


@pytest.mark.requirement(118)
@pytest.mark.parametrize("first_nonce", [False, True])
async def test_either_nonce_of_the_final_answer(
    waiting_world: MakeWorld, first_nonce: bool
) -> None:
    """The CA may return the request's nonce or the last pollReq's; the device always gets its pollReq's."""
    world = waiting_world(ca={"polls": 0, "first_nonce": first_nonce})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert status_of(await operation.poll()).issued


@pytest.mark.requirement(121)
@pytest.mark.parametrize("variant", list(Variant))
async def test_the_ra_tells_to_wait_and_then_the_ca_does(
    waiting_world: MakeWorld, variant: Variant
) -> None:
    """Whoever told the device to wait, it goes on polling, and gets the CA's answer."""
    world = waiting_world(
        upstream={"requests": variant},
        endpoint={"wait_after_seconds": WAIT_AFTER_SECONDS},
    )
    world.ca.gate = asyncio.Event()
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    world.ca.gate.set()

    async def told() -> bool:
        return (await operation.stored()).current.ca_nonce != b""

    await settled(told)
    # A pollReq that goes up unchanged has to return the CA's nonce, which the device must be told first.
    for seconds in (7,) if variant is Variant.reprotect else (10, 7):
        await operation.poll()
        operation.assert_not_yet(seconds)
    assert status_of(await operation.poll()).issued


@pytest.mark.requirement(121)
@pytest.mark.parametrize("variant", list(Variant))
async def test_the_ca_is_gone_for_one_poll(waiting_world: MakeWorld, variant: Variant) -> None:
    """A poll that does not reach the CA is answered here; the next one does, whichever way it goes up."""
    world = waiting_world(ca={"polls": 0}, upstream={"requests": variant})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.failure, world.ca.failures = UpstreamUnavailable("down", delivered=True), 1
    await operation.poll()
    operation.assert_not_yet()
    assert "down" in world.events[-1].detail
    assert status_of(await operation.poll()).issued


async def test_a_broken_answer_to_a_poll(waiting_world: MakeWorld) -> None:
    """The operation has failed, and the device is told so at once, and again."""
    world = waiting_world()
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.script = lambda answer: setattr(
        answer, "header", replace(answer.header, recip_nonce=b"x" * 16)
    )
    der = await operation.poll_req()
    first = await world.ask(der)
    assert (first.body_type, fail_names(first)) == (BodyType.error, ["systemFailure"])
    assert "recipNonce" in world.events[-1].detail
    assert (await world.ask(der)).der == first.der
    assert (await operation.stored()).state is State.FAILED
    assert len(world.ca.received) == 2


async def test_the_ca_refuses_after_all(waiting_world: MakeWorld) -> None:
    """Its rejection comes by the poll."""
    world = waiting_world(ca={"polls": 0})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badCertTemplate)
    answer = await operation.poll()
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badCertTemplate"])
    assert (await operation.stored()).state is State.REFUSED
    assert world.events[-1].detail.count("the CA refused") == 1


@pytest.mark.requirement(94)
async def test_one_poll_at_two_nodes_polls_the_ca_once(waiting_world: MakeWorld) -> None:
    """The second node waits for what the first one gets."""
    world = waiting_world(ca={"polls": 0}, endpoint={"wait_after_seconds": 2.0})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    der = await operation.poll_req()
    other = world.second_gateway()
    first, second = await asyncio.gather(world.post(der), world.post(der, gateway=other))
    assert first == second
    assert len(world.ca.received) == 2


async def test_the_ca_s_waiting_may_last_longer_than_a_transaction(
    waiting_world: MakeWorld,
) -> None:
    """A CA where a person decides has as long as an operator here."""
    world = waiting_world(ca={"polls": 3})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    for _ in range(3):
        world.clock.move(hours=5)
        await operation.poll()
        operation.assert_not_yet(seconds=7)
    world.clock.move(hours=5)
    assert status_of(await operation.poll()).issued
    world.clock.move(minutes=50)
    await operation.confirm()
    operation.assert_waiting()


# --- under a shared secret ------------------------------------------------------------------------------------


@pytest.fixture
def secrets_csv(tmp_path: Path) -> Path:
    return written_secrets(tmp_path)


@dataclass(slots=True)
class ByMAC:
    """An enrolment under a MAC that is told to wait."""

    world: World
    secret: str
    reference: str
    sent: bytes
    answer: PKIMessage

    def poll_req(self, **header: Any) -> bytes:
        usual = PKIHeader(
            sender_der=sender(f"CN={self.reference}"),
            sender_kid=self.reference.encode(),
            recipient_der=ANYONE,
            message_time=self.world.clock(),
            transaction_id=self.answer.header.transaction_id,
            sender_nonce=secrets.token_bytes(16),
            recip_nonce=self.answer.header.sender_nonce,
        )
        return maced(replace(usual, **header), poll_req_body(0), self.secret)

    async def poll(self) -> PKIMessage:
        der = self.poll_req()
        self.answer = await self.world.ask(der)
        assert_maced(self.answer, der, self.secret, self.reference)
        return self.answer


async def waiting_by_mac(
    vendor: VendorPKI, operator: OperatorPKI, csv_path: Path, reference: str, secret: str
) -> ByMAC:
    world = mac_world(vendor, operator, csv_path, wait_after_seconds=WAIT_AFTER_SECONDS)
    world.ca.gate = asyncio.Event()
    der = await ir(world, reference=reference, secret=secret)
    answer = await world.ask(der)
    assert_maced(answer, der, secret, reference)
    assert status_of(answer).status is PKIStatus.waiting
    return ByMAC(world, secret, reference, der, answer)


async def ca_answers(by_mac: ByMAC) -> None:
    gate(by_mac.world).set()

    async def there() -> bool:
        (found,) = await by_mac.world.store.find(by_mac.answer.header.transaction_id or b"")
        return found.current.planned is not None

    await settled(there)


@pytest.mark.requirement(44, 117, 118)
@pytest.mark.parametrize("reference,secret", [KNOWN, ONCE])
async def test_a_device_polls_by_its_secret(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, secrets_csv: Path, reference: str, secret: str
) -> None:
    """Every answer has the MAC of its pollReq, also where the secret is for single use."""
    by_mac = await waiting_by_mac(vendor_pki, operator_pki, secrets_csv, reference, secret)
    assert (await by_mac.poll()).body_type is BodyType.pollRep
    await ca_answers(by_mac)
    answer = await by_mac.poll()
    assert status_of(answer).issued
    world = by_mac.world
    confirmed = await world.ask(cert_conf(world, answer, reference=reference, secret=secret))
    assert confirmed.body_type is BodyType.pkiconf
    world.ca.gate = None
    again = await world.ask(await ir(world, reference=reference, secret=secret))
    names = [] if reference == KNOWN[0] else ["notAuthorized"]
    assert fail_names(again) == names


@pytest.mark.requirement(35)
async def test_another_secret_does_not_poll(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, secrets_csv: Path
) -> None:
    """The answer is for who began, by the secret with which it began."""
    by_mac = await waiting_by_mac(vendor_pki, operator_pki, secrets_csv, *KNOWN)
    other = replace(by_mac, reference=OTHER[0], secret=OTHER[1])
    assert fail_names(await by_mac.world.ask(other.poll_req())) == ["badMessageCheck"]
    wrong = replace(by_mac, secret=OTHER[1])
    assert fail_names(await by_mac.world.ask(wrong.poll_req())) == ["badMessageCheck"]
    assert (await by_mac.poll()).body_type is BodyType.pollRep
    gate(by_mac.world).set()


async def test_a_secret_comes_back_when_the_ca_refuses(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, secrets_csv: Path
) -> None:
    """Nothing was issued while the device waited: its secret for single use is good for another try."""
    by_mac = await waiting_by_mac(vendor_pki, operator_pki, secrets_csv, *ONCE)
    world = by_mac.world
    world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badCertTemplate)
    await ca_answers(by_mac)
    assert fail_names(await by_mac.poll()) == ["badCertTemplate"]
    world.ca.script, world.ca.gate = lambda answer: None, None
    world.endpoint = changed(world.endpoint, wait_after_seconds=60.0)
    gateway = world.second_gateway()
    again = await world.ask(await ir(world, reference=ONCE[0], secret=ONCE[1]), gateway=gateway)
    assert status_of(again).issued


# --- devices that do not poll -----------------------------------------------------------------------------------


@pytest.mark.requirement(116, 118)
@pytest.mark.parametrize("body_type", [*REQUESTS, *OTHERS])
async def test_a_device_that_knows_no_waiting_repeats_its_request(
    slow: World, body_type: BodyType
) -> None:
    """It gets the same answer until the CA's is there; then that one, and that one again."""
    operation = await Operation.begin(slow, body_type)
    first = await operation.send()
    operation.assert_waiting()
    assert (await operation.send()).der == first.der
    await answered(operation)
    answer = await operation.send()
    assert answer.body_type is RESPONSE_TO[body_type]
    assert answer.header.recip_nonce == PKIMessage.from_der(operation.sent).header.sender_nonce
    assert (await operation.send()).der == answer.der
    assert len(slow.ca.received) == 1
    assert not (await operation.stored()).current.waiting
    if body_type in CERT_RESPONSE_TO:
        assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(94, 116)
async def test_a_repeat_takes_over_what_a_dead_node_began(make_world: MakeWorld) -> None:
    """Its device was told to wait, and nobody asks the CA any more: the repeat has it asked again."""
    world = slow_world(make_world, upstream={"replays_repeats": True})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    world.clock.move(seconds=world.endpoint.upstream.deadline_seconds + 60)
    gate(world).set()
    other = world.second_gateway()
    answer = await operation.send(gateway=other)
    assert status_of(answer).issued
    assert len(set(world.ca.received)) == 1


# --- what was checked when it came ----------------------------------------------------------------------------


def brief_signer(world: World) -> Callable[[Answer], None]:
    """Has a world's CA sign by a key whose certificate is about to expire."""
    brief = world.operator.issuing.issue(
        "CN=Brief CMP", "p256", eku=[CMC_CA], not_after=world.clock() + timedelta(minutes=5)
    )

    def script(answer: Answer) -> None:
        answer.credential = cmp_credential(brief)
        answer.extra_certs = (*answer.credential.certificates, *answer.extra_certs)

    return script


def elsewhere(world: World) -> Endpoint:
    """The world's endpoint, whose CA answers under another root from now on."""
    upstream = world.endpoint.upstream
    stranger = replace(
        upstream.trust, anchors=(cmp_certificate(other_operator().root.certificate),)
    )
    return replace(world.endpoint, upstream=replace(upstream, trust=stranger, issuing=stranger))


def pinned(world: World) -> Endpoint:
    """The world's endpoint, where another signer of the CA is pinned from now on."""
    upstream = replace(
        world.endpoint.upstream, pinned=(cmp_certificate(world.operator.ra.certificate),)
    )
    return replace(world.endpoint, upstream=upstream)


@pytest.mark.requirement(118)
@pytest.mark.parametrize("change", ["signer expired", "another root", "another pin"])
@pytest.mark.parametrize("body_type", [*REQUESTS, *OTHERS])
async def test_an_answer_that_was_checked_is_not_judged_again(
    make_world: MakeWorld, body_type: BodyType, change: str
) -> None:
    """It was good when it came: whatever becomes of the CA's signer, the device gets its certificate."""
    world = slow_world(make_world)
    world.ca.script = brief_signer(world)
    operation = await Operation.begin(world, body_type)
    await operation.send()
    await answered(operation)
    gateway = world.gateway
    if change == "signer expired":
        world.clock.move(minutes=6)
    else:
        endpoint = elsewhere(world) if change == "another root" else pinned(world)
        gateway = world.second_gateway(endpoint)
    answer = await operation.poll(gateway=gateway)
    assert answer.body_type is RESPONSE_TO[body_type], world.events[-1].detail
    if body_type in CERT_RESPONSE_TO:
        assert status_of(answer).issued
        root = certificate_der(world.operator.root.certificate)
        # Who renews has the root (TS 33.310 9.5.4.4).
        assert (root in answer.extra_certs) is (body_type is not BodyType.kur)
        transaction = await operation.stored()
        assert cmp_certificate_of(answer) == transaction.certificate_der


@pytest.mark.parametrize("takes", [True, False])
async def test_a_pkiconf_that_was_checked_is_not_judged_again(
    make_world: MakeWorld, takes: bool
) -> None:
    """Nor is what the CA said to certConf."""
    world = slow_world(make_world)
    world.ca.gate.set()  # type: ignore[union-attr]
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.gate = asyncio.Event()
    world.ca.script = brief_signer(world)
    await operation.confirm(takes=takes)
    operation.assert_waiting()
    await answered(operation)
    world.clock.move(minutes=6)
    answer = await operation.poll(gateway=world.second_gateway(elsewhere(world)))
    assert answer.body_type is BodyType.pkiconf, world.events[-1].detail


def cmp_certificate_of(answer: PKIMessage) -> bytes | None:
    return cert_rep_message(answer.body_content).responses[0].certificate_der


# --- answers that are lost --------------------------------------------------------------------------------------


@pytest.mark.requirement(8, 117)
async def test_poll_reps_that_are_lost(slow: World) -> None:
    """A pollReq that is signed anew returns the nonce of what its device has got, however many answers were lost."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    for _ in range(2):
        got = operation.answer
        for _ in range(3):
            operation.answer = got
            await operation.poll()
            operation.assert_not_yet()
    await answered(operation)
    operation.answer = got
    assert status_of(await operation.poll()).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(8, 117)
async def test_a_poll_req_that_somebody_else_sends_again(slow: World) -> None:
    """It gets an answer, and does not cut off a device that is further; one between is refused."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    ders = []
    for _ in range(4):
        ders.append(await operation.poll_req())
        operation.answer = await slow.ask(ders[-1])
    again = PKIMessage.from_der(await slow.post(ders[0]))
    assert again.body_type is BodyType.pollRep
    assert again.header.sender_nonce == operation.answer.header.sender_nonce
    assert fail_names(await slow.ask(ders[1])) == ["badRecipientNonce"]
    await operation.poll()
    operation.assert_not_yet()


@pytest.mark.requirement(8, 118)
@pytest.mark.parametrize("again", ["the first pollReq", "the request"])
async def test_somebody_else_is_given_the_answer(slow: World, again: str) -> None:
    """What is sent again gets it, too, and its octets once more; the device is not cut off."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    first = await operation.poll_req()
    operation.answer = await slow.ask(first)
    await operation.poll()
    operation.assert_not_yet()
    await answered(operation)
    der = first if again == "the first pollReq" else operation.sent
    given = await slow.post(der)
    assert status_of(PKIMessage.from_der(given)).issued
    until = (await operation.stored()).confirm_until
    slow.clock.move(seconds=60)
    assert await slow.post(der) == given
    answer = await operation.poll()
    assert status_of(answer).issued
    assert (await operation.stored()).confirm_until == until
    assert await slow.post(operation.sent) == await slow.post(operation.sent)
    assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(8, 118)
@pytest.mark.parametrize("body_type", [*REQUESTS, *OTHERS])
async def test_a_lost_answer_is_polled_for_again(slow: World, body_type: BodyType) -> None:
    """By pollReqs signed anew, as often as it is lost; each has its own answer, and its time to confirm is one."""
    operation = await Operation.begin(slow, body_type)
    await operation.send()
    waiting = await operation.poll()
    await answered(operation)
    told = set()
    for _ in range(3):
        operation.answer = waiting
        answer = await operation.poll()
        assert answer.body_type is RESPONSE_TO[body_type]
        told.add(confirm_wait_time_of(answer.header))
        slow.clock.move(seconds=5)
    if body_type in CERT_RESPONSE_TO:
        stored = (await operation.stored()).confirm_until
        assert stored is not None
        assert all(until is not None and until <= stored for until in told)
        assert (await operation.confirm()).body_type is BodyType.pkiconf
        operation.answer = waiting
        assert fail_names(await slow.ask(await operation.poll_req())) == ["badRequest"]
    assert len(slow.ca.received) <= 2


@pytest.mark.requirement(111)
async def test_a_lost_answer_that_is_polled_for_too_late(slow: World) -> None:
    """The device had as long as it was told at first."""
    operation = await Operation.begin(slow, BodyType.ir)
    waiting = await operation.send()
    await answered(operation)
    await operation.poll()
    slow.clock.move(seconds=400)
    operation.answer = waiting
    assert fail_names(await slow.ask(await operation.poll_req())) == ["badRequest"]
    assert slow.events[-1].rule == "R111"


@pytest.mark.requirement(118)
@pytest.mark.parametrize("takes", [True, False])
async def test_a_lost_pkiconf_is_polled_for_again(slow: World, takes: bool) -> None:
    """What became of the certConf is not lost with the answer that told it."""
    operation = await Operation.begin(slow, BodyType.ir)
    gate(slow).set()
    await operation.send()
    gate(slow).clear()
    waiting = await operation.confirm(takes=takes)
    await answered(operation)
    for _ in range(2):
        operation.answer = waiting
        assert (await operation.poll()).body_type is BodyType.pkiconf
    assert (await operation.stored()).state is (State.CONFIRMED if takes else State.REJECTED)


@pytest.mark.requirement(118)
async def test_a_lost_failure_is_polled_for_again(slow: World) -> None:
    """And told to the request as well, which is not told to wait for ever."""
    operation = await Operation.begin(slow, BodyType.ir)
    slow.ca.script = lost
    waiting = await operation.send()
    gate(slow).set()
    await settled(lambda: in_state(operation, State.FAILED))
    for _ in range(2):
        operation.answer = waiting
        assert fail_names(await operation.poll()) == ["systemUnavail"]
    assert fail_names(await operation.send()) == ["systemUnavail"]


@pytest.mark.requirement(12)
@pytest.mark.parametrize("takes", [True, False])
async def test_a_request_repeated_after_the_end(slow: World, takes: bool) -> None:
    """It is neither told to wait for ever nor answered with what belongs to the certConf."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    request = operation.sent
    await answered(operation)
    await operation.poll()
    confirmed = await operation.confirm(takes=takes)
    assert confirmed.body_type is BodyType.pkiconf
    assert fail_names(await slow.ask(request)) == ["transactionIdInUse"]
    assert (await operation.send()).der == confirmed.der


@pytest.mark.requirement(12)
async def test_a_request_that_waits_while_its_device_confirms(slow: World) -> None:
    """A repeat is not answered with the pkiConf."""
    operation = await Operation.begin(slow, BodyType.ir)
    await operation.send()
    node, passed = slow.second_gateway(), asyncio.Event()
    store = SlowToWake(slow.store, passed)
    node._services.store = store
    repeat = asyncio.create_task(slow.ask(operation.sent, gateway=node))
    await store.waits.wait()
    await answered(operation)
    await operation.poll()
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    passed.set()
    assert fail_names(await repeat) == ["transactionIdInUse"]


class SlowToWake:
    """A node's store, which is slow to tell it of a change."""

    def __init__(self, store: Any, passed: asyncio.Event) -> None:
        self.store, self.passed, self.waits = store, passed, asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def wait(self, *args: Any, **options: Any) -> Any:
        self.waits.set()
        await self.passed.wait()
        return await self.store.wait(*args, **options)


@pytest.mark.requirement(8, 116)
async def test_a_device_that_repeats_its_request_and_polls_on(slow: World) -> None:
    """Its request has it told to wait once more, in the same octets, and that answer's nonce is good."""
    operation = await Operation.begin(slow, BodyType.ir)
    first = await operation.send()
    for _ in range(3):
        await operation.poll()
    assert (await operation.send()).der == first.der
    await operation.poll()
    operation.assert_not_yet()
    await operation.poll()
    operation.assert_not_yet()


@pytest.mark.requirement(8, 121)
@pytest.mark.parametrize("variant", list(Variant))
async def test_a_lost_answer_of_a_ca_that_is_polled(
    waiting_world: MakeWorld, variant: Variant
) -> None:
    """The CA is polled by the pollReq after the next: the device has to be told the CA's nonce first."""
    world = waiting_world(ca={"polls": 2}, upstream={"requests": variant})
    operation = await Operation.begin(world, BodyType.ir)
    waiting = await operation.send()
    await operation.poll()
    operation.answer = waiting
    asked = len(world.ca.received)
    await operation.poll()
    operation.assert_not_yet()
    assert len(world.ca.received) == asked
    await operation.poll()
    operation.assert_not_yet(seconds=7)
    assert status_of(await operation.poll()).issued


@pytest.mark.requirement(116, 118)
@pytest.mark.parametrize("body_type", [*REQUESTS, *OTHERS])
async def test_a_request_repeated_after_its_answer_was_polled(
    slow: World, body_type: BodyType
) -> None:
    """The answer to the pollReq was lost: the request gets it as well, and the same octets from then on."""
    operation = await Operation.begin(slow, body_type)
    await operation.send()
    await answered(operation)
    await operation.poll()
    answer = await operation.send()
    assert answer.body_type is RESPONSE_TO[body_type]
    assert answer.header.recip_nonce == PKIMessage.from_der(operation.sent).header.sender_nonce
    assert slow.events[-1].outcome == "replayed"
    assert (await operation.send()).der == answer.der
    if body_type in CERT_RESPONSE_TO:
        assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert len(slow.ca.issued) == (body_type in CERT_RESPONSE_TO)


@pytest.mark.requirement(109, 118)
async def test_a_cert_conf_repeated_after_its_answer_was_polled(slow: World) -> None:
    """pkiConf for it, too."""
    operation = await Operation.begin(slow, BodyType.ir)
    gate(slow).set()
    await operation.send()
    gate(slow).clear()
    await operation.confirm()
    await answered(operation)
    await operation.poll()
    answer = await operation.send()
    assert answer.body_type is BodyType.pkiconf
    assert answer.header.recip_nonce == PKIMessage.from_der(operation.sent).header.sender_nonce
