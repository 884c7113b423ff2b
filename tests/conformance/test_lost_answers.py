"""A CA's answer is lost and its device never comes back: what was issued is found again, or told of (R111)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ra_gateway.cmp.bodies import rev_req_content
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage
from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.events import AnswerLost, Outcome
from ra_gateway.ra.settings import CertConf, ImplicitConfirm, Unconfirmed
from ra_gateway.ra.transaction import State, Transaction
from tests.support.answers import fail_names, status_of
from tests.support.harness import Answer, MakeWorld, World, changed
from tests.support.mac import ONCE, ir
from tests.support.mac import make_world as mac_world
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import Operation, written_secrets
from tests.support.unconfirmed import WAIT_SECONDS, node_of, revocations, work

LOCAL = {"certconf": CertConf.local, "unconfirmed": Unconfirmed.revoke}
REPLAYS = {**LOCAL, "replays_repeats": True}

AFTER_LEASE = 60
"""Seconds."""


def listening(world: World) -> list[AnswerLost]:
    """Return where what is told to be lost will be."""
    told: list[AnswerLost] = []
    before = node_of(world).sink

    def sink(fact: Any) -> None:
        if isinstance(fact, AnswerLost):
            told.append(fact)
        before(fact)

    node_of(world).sink = sink
    return told


def lose_answer(world: World, times: int = 1) -> None:
    """The CA issues, and nobody hears of it."""
    world.ca.failure = UpstreamUnavailable("cut off", delivered=True)
    world.ca.failures, world.ca.failure_loses_answer = times, True


async def lost(
    make_world: MakeWorld, *, replays: bool, **upstream: Any
) -> tuple[World, Operation, list[AnswerLost]]:
    """An operation whose certificate the CA has issued, and whose answer was lost."""
    world = make_world(upstream={**LOCAL, "replays_repeats": replays, **upstream})
    world.ca.replays, told = replays, listening(world)
    operation = await Operation.begin(world, BodyType.ir)
    lose_answer(world)
    assert fail_names(await operation.send()) == ["systemUnavail"]
    return world, operation, told


async def died(
    make_world: MakeWorld, *, replays: bool
) -> tuple[World, Operation, list[AnswerLost]]:
    """The same, by a gateway that dies before the answer is there."""
    world = make_world(upstream={**LOCAL, "replays_repeats": replays})
    world.ca.replays, told = replays, listening(world)
    operation = await Operation.begin(world, BodyType.ir)
    world.ca.failure, world.ca.failures = SystemExit(), 1
    world.ca.failure_loses_answer = True
    with pytest.raises(SystemExit):
        await operation.send()
    return world, operation, told


def transaction_id(operation: Operation) -> str:
    return (PKIMessage.from_der(operation.sent).header.transaction_id or b"").hex()


async def stored(operation: Operation) -> Transaction:
    (found,) = await operation.world.store.find(bytes.fromhex(transaction_id(operation)))
    return found


def assert_revoked(world: World) -> None:
    """Assert that the CA was asked to revoke the one certificate that it has issued."""
    (certificate,), (rr,) = world.ca.issued, revocations(world)
    template = rev_req_content(rr.body_content)[0].template
    assert template.serial_number == certificate.serial_number


@pytest.mark.parametrize("how", [lost, died])
async def test_a_ca_that_replays_is_asked_again(make_world: MakeWorld, how: Any) -> None:
    """By the same octets, once nobody is busy with it; what it then says is revoked when its time is over."""
    world, operation, told = await how(make_world, replays=True)
    await work(world)
    if how is died:
        assert len(world.ca.received) == 1  # its lease is not over
    await work(world, seconds=AFTER_LEASE)
    first, again = world.ca.received
    assert first == again
    assert (await stored(operation)).state is State.ISSUED
    await work(world, seconds=1)
    assert revocations(world) == []
    await work(world, seconds=WAIT_SECONDS + AFTER_LEASE)
    assert_revoked(world)
    assert (await stored(operation)).state is State.WITHDRAWN
    assert [event.outcome for event in world.events if event.body_type == "rr"] == [Outcome.revoked]
    assert told == []


async def test_a_device_that_comes_back_gets_it(make_world: MakeWorld) -> None:
    """Until it is revoked: by its own message, however often, and it confirms as ever."""
    world, operation, told = await lost(make_world, replays=True)
    await work(world, seconds=AFTER_LEASE)
    first = await operation.send()
    assert status_of(first).issued
    assert (await operation.send()).der == first.der
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    await work(world, days=1)
    assert revocations(world) == []
    assert (len(world.ca.issued), told) == (1, [])


async def test_a_device_that_comes_back_too_late(make_world: MakeWorld) -> None:
    """Its certificate is revoked: it is refused, and begins anew."""
    world, operation, _ = await lost(make_world, replays=True)
    await work(world, seconds=AFTER_LEASE)
    await work(world, seconds=WAIT_SECONDS + AFTER_LEASE)
    assert_revoked(world)
    assert fail_names(await operation.send()) == ["badRequest"]


async def test_the_ca_is_asked_as_long_as_it_takes(make_world: MakeWorld) -> None:
    """It is away for hours, longer than transactions live otherwise."""
    world, operation, told = await lost(make_world, replays=True)
    world.ca.failure_loses_answer, world.ca.failures = False, 1000
    for _ in range(12):
        await work(world, minutes=30)
    world.ca.failures = 0
    await work(world, hours=1)
    assert (await stored(operation)).state is State.ISSUED
    await work(world, hours=1)
    assert_revoked(world)
    assert told == []


async def test_a_ca_that_never_answers_again(make_world: MakeWorld) -> None:
    """When it is not asked any more that is told, once, and nothing is claimed to be withdrawn."""
    world, operation, told = await lost(make_world, replays=True)
    world.ca.failure_loses_answer, world.ca.failures = False, 10_000
    await work(world, seconds=AFTER_LEASE)
    for _ in range(24 * 8):
        await work(world, hours=1)
    assert [fact.transaction_id for fact in told] == [transaction_id(operation)]
    assert Outcome.revoked not in {event.outcome for event in world.events}


@pytest.mark.parametrize("how", [lost, died])
async def test_a_ca_that_does_not_replay(make_world: MakeWorld, how: Any) -> None:
    """It is not asked again; the operator is told, once, whose certificate to look for, and where."""
    world, operation, told = await how(make_world, replays=False)
    await work(world, seconds=AFTER_LEASE)
    await work(world, minutes=30)
    assert fail_names(await operation.send()) == ["systemUnavail"]
    assert len(world.ca.received) == 1
    (fact,) = told
    assert fact.upstream == "scripted"
    assert fact.transaction_id == transaction_id(operation)
    assert fact.subject == world.ca.issued[0].subject
    assert len(fact.key_sha256) == 64
    assert Outcome.revoked not in {event.outcome for event in world.events}


async def test_a_ca_that_was_not_reached_has_issued_nothing(make_world: MakeWorld) -> None:
    """It is not asked for what no device wants any more, and nothing is told."""
    for replays in (True, False):
        world = make_world(upstream={**LOCAL, "replays_repeats": replays})
        told = listening(world)
        operation = await Operation.begin(world, BodyType.ir)
        world.ca.failure = UpstreamUnavailable("refused", delivered=False)
        world.ca.failures = 2
        assert fail_names(await operation.send()) == ["systemUnavail"]
        assert fail_names(await operation.send()) == ["systemUnavail"]
        for _ in range(9):
            await work(world, minutes=10)
        assert (len(world.ca.received), told) == (2, [])


async def test_a_ca_that_refuses_when_it_is_asked_again(make_world: MakeWorld) -> None:
    """Nothing was issued, or it says so: its device hears it."""
    world, operation, told = await lost(make_world, replays=True)
    world.ca.replays = False
    world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badRequest)
    await work(world, seconds=AFTER_LEASE)
    assert (await stored(operation)).state is State.REFUSED
    assert fail_names(await operation.send()) == ["badRequest"]
    assert told == []


async def test_an_answer_that_cannot_be_relayed(make_world: MakeWorld) -> None:
    """What the CA says when it is asked again is checked as ever: another subject is revoked at once."""

    def other(answer: Answer) -> None:
        if answer.request.body_type is BodyType.ir:
            answer.set_response(cert_req_id=7)

    world, operation, _ = await lost(make_world, replays=True)
    world.ca.replays, world.ca.script = False, other
    await work(world, seconds=AFTER_LEASE)
    await work(world)
    (rr,) = revocations(world)
    template = rev_req_content(rr.body_content)[0].template
    assert template.serial_number == world.ca.issued[-1].serial_number
    assert fail_names(await operation.send()) != []


async def test_implicit_confirmation_of_a_device_that_is_gone(make_world: MakeWorld) -> None:
    """The CA takes it for confirmed: it is revoked at once, as its device would never say that it has it."""
    world = make_world(
        upstream=REPLAYS | {"certconf": CertConf.forward},
        endpoint={"implicit_confirm": ImplicitConfirm.relay},
    )
    world.ca.replays = True
    operation = await Operation.begin(world, BodyType.ir, general_info=(IMPLICIT_CONFIRM,))
    lose_answer(world)
    await operation.send()
    await work(world, seconds=AFTER_LEASE)
    await work(world)
    assert_revoked(world)


async def test_a_ca_that_withdraws_by_itself(make_world: MakeWorld) -> None:
    """It is left alone: `unconfirmed` is "leave"."""
    world, _, told = await lost(
        make_world, replays=True, certconf=CertConf.forward, unconfirmed=Unconfirmed.leave
    )
    await work(world, hours=1)
    assert (len(world.ca.received), told) == (1, [])


async def test_a_secret_for_one_certificate_is_used_up(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Any
) -> None:
    """Also where the CA is asked for a device that does not come back."""
    world = mac_world(vendor_pki, operator_pki, written_secrets(tmp_path))
    upstream = changed(world.endpoint.upstream, **REPLAYS)
    world.endpoint = replace(world.endpoint, upstream=upstream)
    world.gateway = world.second_gateway()
    reference, secret = ONCE
    lose_answer(world)
    assert fail_names(await world.ask(await ir(world, reference=reference, secret=secret))) != []
    world.ca.replays = True
    await work(world, seconds=AFTER_LEASE)
    another = await world.ask(await ir(world, reference=reference, secret=secret))
    assert fail_names(another) == ["notAuthorized"]
