"""Delayed delivery: a slow CA, a CA that says waiting, and devices that poll (RFC 9483 4.4; R116 to R121)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ra_gateway.cmp.codes import CERT_RESPONSE_TO, RESPONSE_TO, BodyType
from ra_gateway.ra.transaction import State
from tests.support.harness import World, status_of
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import OTHERS, REQUESTS, Operation, settled, slow_world

MakeWorld = Callable[..., World]

FINAL = {
    BodyType.rr: State.REVOKED,
    BodyType.genm: State.INFORMED,
}


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    def make(**options: Any) -> World:
        return World.make(vendor_pki, operator_pki, **options)

    return make


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
        return (await operation.stored()).current.answer_der is not None

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
