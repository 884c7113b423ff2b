"""A certificate that the CA has issued and that its transaction cannot hold, or holds no more: kept, or revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from ra_gateway.cmp.bodies import CertResponse, PKIStatusInfo
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.endpoints import CertConf, Unconfirmed
from ra_gateway.ra.transaction import State
from tests.support.faults import Faults, ReadOnlyStore, faulty_gateway
from tests.support.harness import Answer, MakeWorld, ManualClock, fail_names, status_of
from tests.support.polling import Operation, settled, slow_world
from tests.support.unconfirmed import node_of, revocations, work

REVOKING = {"certconf": CertConf.local, "unconfirmed": Unconfirmed.revoke}


async def test_a_store_that_is_gone_when_the_ca_has_issued(make_world: MakeWorld) -> None:
    """The device is told to try again, and gets what was issued; the CA is not asked again, and would issue anew."""
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = make_world(store=store, clock=clock)
    operation = await Operation.begin(world, BodyType.ir)

    def lost(answer: Answer) -> None:
        store.gone = True

    world.ca.script = lost
    assert fail_names(await operation.send()) == ["systemUnavail"]
    store.gone = False
    world.ca.script = lambda answer: None

    async def issued() -> bool:
        return (await operation.stored()).state is State.ISSUED

    await settled(issued)
    assert status_of(await operation.send()).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert len(world.ca.issued) == 1


async def test_a_node_that_was_slower_than_its_lease(make_world: MakeWorld) -> None:
    """Another node had to give the transaction up: what the slow one gets after that is revoked."""
    world = make_world(upstream=REVOKING)
    operation = await Operation.begin(world, BodyType.ir)
    late = asyncio.Event()
    node = faulty_gateway(world, Faults(), gate=late)
    services, stored = node._services, node_of(world)
    services.schedule = stored.schedule
    services.confirmation_records = stored.confirmation_records
    slow = asyncio.create_task(world.post(operation.sent, gateway=node))

    async def asked() -> bool:
        return bool(world.ca.received)

    await settled(asked)
    world.clock.move(seconds=30)
    failed = await operation.send()
    assert fail_names(failed) == ["systemUnavail"]
    late.set()
    assert await slow == failed.der
    assert "after its answer was given up" in world.events[-1].detail
    assert world.events[-1].serial_number == f"{world.ca.issued[0].serial_number:x}"
    await work(world)
    assert len(revocations(world)) == 1
    assert (await operation.stored()).state is State.WITHDRAWN


def another_cert_req_id(answer: Answer) -> None:
    answer.set_response(cert_req_id=7)


def accepted_and_failed(answer: Answer) -> None:
    info = PKIStatusInfo(PKIStatus.accepted, (), (PKIFailureInfo.badPOP,))
    answer.set_response(status_info=info)


def rejected_and_issued(answer: Answer) -> None:
    answer.set_response(status_info=PKIStatusInfo(PKIStatus.rejection, ("no",)))


def two_responses(answer: Answer) -> None:
    content = answer.content
    no = CertResponse(1, PKIStatusInfo(PKIStatus.rejection, ("no",)))
    answer.set_content(replace(content, responses=(no, *content.responses)))


@pytest.mark.parametrize(
    "script", [another_cert_req_id, accepted_and_failed, rejected_and_issued, two_responses]
)
async def test_an_answer_that_cannot_be_relayed(
    make_world: MakeWorld, script: Callable[[Answer], None]
) -> None:
    """What came with it was issued all the same: it is revoked."""
    world = make_world(upstream=REVOKING)

    def broken(answer: Answer) -> None:
        if answer.request.body_type is BodyType.ir:
            script(answer)

    world.ca.script = broken
    operation = await Operation.begin(world, BodyType.ir)
    assert fail_names(await operation.send()) != []
    assert (await operation.stored()).state is State.FAILED
    await work(world)
    assert len(revocations(world)) == 1
    assert (await operation.stored()).state is State.WITHDRAWN


async def test_a_poll_whose_answer_another_node_was_faster_with(make_world: MakeWorld) -> None:
    """Its device gets what was stored: no failure of a node's own making."""
    world = slow_world(make_world, upstream={"replays_repeats": True})
    world.ca.replays = True
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def planned() -> bool:
        return (await operation.stored()).current.planned is not None

    await settled(planned)
    der = await operation.poll_req()
    first, second = await asyncio.gather(
        world.post(der), world.post(der, gateway=world.second_gateway())
    )
    assert first == second
    assert all(event.bug is None for event in world.events)
