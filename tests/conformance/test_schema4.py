"""Transactions that the release before this one stored, of devices that wait while the gateway is updated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ra_gateway.cmp.bodies import cert_rep_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.ra.settings import ImplicitConfirm
from ra_gateway.ra.transaction import Transaction
from ra_gateway.stores.memory import MemoryStore
from tests.support.answers import fail_names
from tests.support.harness import World
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import EVERY_TYPE, REQUESTS, Operation, settled, slow_world

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    def make(**options: Any) -> World:
        return World.make(vendor_pki, operator_pki, **options)

    return make


def written_by_schema_4(world: World, transaction: Transaction) -> dict[str, bytes]:
    """The fields as that release kept them: the CA's last answer as it came, and the path that was found."""
    fields = transaction.to_fields()
    exchange = "opening" if transaction.confirmation is None else "confirmation"
    planned = transaction.current.planned
    for name in list(fields):
        if ".planned." in name or name.endswith(".upstream_nonce"):
            del fields[name]
    fields["plain"] = fields["plain"].replace(b'"schema":5', b'"schema":4')
    if planned is not None:
        fields[f"{exchange}.answer_der"] = list(world.ca.answered.values())[-1]
        path = (transaction.certificate_der, *planned.chain) if planned.chain else ()
        for place, der in enumerate(path):
            fields[f"{exchange}.answer_path.{place}"] = der
    return fields


async def updated(world: World, operation: Operation) -> None:
    """Put what that release would have stored in the place of what is."""
    stored = await operation.stored()
    read = Transaction.from_fields(written_by_schema_4(world, stored))
    world.store = store = MemoryStore(world.clock, max_transactions=10)
    assert await store.create(replace(read, version=0)) is None
    world.gateway = world.second_gateway()


async def answered_while_waiting(world: World, body_type: BodyType, **header: Any) -> Operation:
    """An operation whose device was told to wait, and whose CA has answered since."""
    operation = await Operation.begin(world, body_type, **header)
    await operation.send()
    await answered(world, operation)
    return operation


async def answered(world: World, operation: Operation) -> None:
    """Let the CA answer, and wait until that is stored."""
    operation.assert_waiting()
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def planned() -> bool:
        return (await operation.stored()).current.planned is not None

    await settled(planned)


@pytest.mark.parametrize("body_type", sorted(EVERY_TYPE))
async def test_an_answer_that_came_before_the_update(
    make_world: MakeWorld, body_type: BodyType
) -> None:
    """It is delivered after it, with the chain that the device needs, and can be confirmed."""
    world = slow_world(make_world)
    operation = await answered_while_waiting(world, body_type)
    await updated(world, operation)
    answer = await operation.poll()
    assert fail_names(answer) == [] if body_type is not BodyType.genm else answer.body_type
    if body_type in REQUESTS:
        (response,) = cert_rep_message(answer.body_content).responses
        assert response.certificate_der == world.ca.issued[-1].der
        assert response.cert_req_id == operation.cert_req_id
        assert world.operator.issuing.der in answer.extra_certs
        assert (world.operator.root.der in answer.extra_certs) is (body_type is not BodyType.kur)
        assert (await operation.confirm()).body_type is BodyType.pkiconf


async def test_a_pkiconf_that_came_before_the_update(make_world: MakeWorld) -> None:
    """It is delivered after it."""
    world = slow_world(make_world)
    assert world.ca.gate is not None
    world.ca.gate.set()
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.gate.clear()
    await operation.confirm()
    await answered(world, operation)
    await updated(world, operation)
    assert (await operation.poll()).body_type is BodyType.pkiconf


async def test_a_rejection_that_came_before_the_update(make_world: MakeWorld) -> None:
    """So is what the CA said when it refused."""
    world = slow_world(make_world)
    world.ca.script = lambda answer: answer.reject()
    operation = await answered_while_waiting(world, BodyType.ir)
    await updated(world, operation)
    answer = await operation.poll()
    (response,) = cert_rep_message(answer.body_content).responses
    assert not response.status_info.issued
    assert world.events[-1].outcome == "refused"


async def test_implicit_confirm_that_was_granted_before_the_update(make_world: MakeWorld) -> None:
    """The device is told so."""
    world = slow_world(make_world, endpoint={"implicit_confirm": ImplicitConfirm.relay})
    request = await world.enrollment(world.device(), implicit_confirm=True).request()
    operation = await Operation.begin(
        world, BodyType.ir, general_info=PKIMessage.from_der(request).header.general_info
    )
    await operation.send()
    await answered(world, operation)
    await updated(world, operation)
    assert (await operation.poll()).header.implicit_confirm


async def test_a_request_that_is_being_asked_during_the_update(make_world: MakeWorld) -> None:
    """A repeat sends the same bytes once more, and finds the answer that fits them."""
    world = slow_world(make_world, upstream={"replays_repeats": True, "ids": "map"})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    await updated(world, operation)
    world.clock.move(minutes=5)
    assert world.ca.gate is not None
    world.ca.gate.set()
    assert (await operation.poll()).body_type in (BodyType.ip, BodyType.pollRep)
    assert world.ca.received[0] == world.ca.received[-1]
    assert world.events[-1].fail_info is None
