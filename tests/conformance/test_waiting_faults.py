"""What becomes of a certificate whose device could not be told to wait, or came too late for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from ra_gateway.cmp.bodies import PKIStatusInfo, RevRepContent, rev_rep_body
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.agenda import UnconfirmedCertificates
from ra_gateway.ra.settings import CertConf, Unconfirmed
from ra_gateway.ra.transaction import State
from tests.support.answers import fail_names, status_of
from tests.support.faults import ReadOnlyStore, SignerInside
from tests.support.harness import Answer, ManualClock, World
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import REQUESTS, Operation, WaitingCA, settled, slow_world

MakeWorld = Callable[..., World]


@pytest.mark.parametrize("body_type", REQUESTS)
async def test_a_store_that_is_gone_when_the_device_is_to_wait(
    make_world: MakeWorld, body_type: BodyType
) -> None:
    """The device hears systemUnavail; the CA answers meanwhile, and the device's own retry gets the certificate."""
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = slow_world(make_world, store=store, clock=clock)
    operation = await Operation.begin(world, body_type)
    store.gone = True
    assert fail_names(await operation.send()) == ["systemUnavail"]
    store.gone = False
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def issued() -> bool:
        return (await operation.stored()).state is State.ISSUED

    await settled(issued)
    assert status_of(await operation.send()).issued
    assert len(world.ca.issued) == 1
    assert (await operation.confirm()).body_type is BodyType.pkiconf


def refused_to_revoke(answer: Answer) -> None:
    if answer.request.body_type is BodyType.rr:
        no = PKIStatusInfo(PKIStatus.rejection, ("no",), (PKIFailureInfo.badRequest,))
        answer.body_der = rev_rep_body(RevRepContent((no,)))


async def test_a_certificate_that_came_to_nothing_is_not_delivered(make_world: MakeWorld) -> None:
    """Nobody fetched it, and the CA refuses to revoke it: it could not be confirmed any more."""
    upstream = {"certconf": CertConf.local, "unconfirmed": Unconfirmed.revoke}
    world = slow_world(make_world, upstream=upstream)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def issued() -> bool:
        return (await operation.stored()).state is State.ISSUED

    await settled(issued)
    world.ca.script = refused_to_revoke
    world.clock.move(seconds=400)
    await UnconfirmedCertificates(world.gateway._services).work()
    assert (await operation.stored()).state is State.FAILED
    answer = PKIMessage.from_der(await world.post(await operation.poll_req()))
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badRequest"])
    assert world.events[-1].rule == "R111"


async def test_an_upstream_that_is_gone_while_another_node_polls_it(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Said at once, and not only when the other node's lease is over."""
    clock = ManualClock()
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={"wait_after_seconds": 0.02},
        clock=clock,
        ca=WaitingCA(operator_pki, clock),
    )
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    found = await operation.stored()
    leased = clock() + timedelta(seconds=20)
    await world.store.replace(replace(found, version=found.version + 1, lease_until=leased))
    elsewhere = replace(world.endpoint, upstream=replace(world.endpoint.upstream, name="other"))
    gateway = world.second_gateway(elsewhere)
    answer = await world.ask(await operation.poll_req(), gateway=gateway)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert world.events[-1].rule == "R81"


async def test_the_lease_begins_when_the_message_is_signed(make_world: MakeWorld) -> None:
    """However long the signature takes, the exchange has the whole of its lease."""
    world = slow_world(make_world)
    usual = world.gateway._services.credential()

    async def slowly(sign: Callable[[], Awaitable[bytes]]) -> bytes:
        world.clock.move(seconds=10)
        return await sign()

    slow = replace(usual, signer=SignerInside(usual.signer, slowly))
    world.gateway._services.credential = lambda: slow
    began = world.clock()
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    lease = world.endpoint.upstream.lease
    assert (await operation.stored()).lease_until == began + timedelta(seconds=10) + lease
    assert world.ca.gate is not None
    world.ca.gate.set()
