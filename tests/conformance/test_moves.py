"""How far a reader has to go: calls from one file of the gateway's heart into another, counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.ra.settings import Approval
from tests.support.harness import World
from tests.support.moves import counted_moves
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import EVERY_TYPE, Operation, approve

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    def make(**options: Any) -> World:
        endpoint = {"body_types": EVERY_TYPE, **options}
        return World.make(vendor_pki, operator_pki, endpoint=endpoint)

    return make


async def test_moves_of_an_enrolment(make_world: MakeWorld) -> None:
    """An ir, the same once more, and its certConf; five each are for limits that nodes share, and what was begun."""
    operation = await Operation.begin(make_world(), BodyType.ir)
    with counted_moves() as request:
        await operation.send()
    with counted_moves() as retransmission:
        await operation.send()
    with counted_moves() as confirmation:
        await operation.confirm()
    assert operation.answer.body_type is BodyType.pkiconf
    for name, moves, most in (
        ("ir", request, 29),
        ("retransmission", retransmission, 16),
        ("certConf", confirmation, 24),
    ):
        print(f"{name}: {len(moves.calls)} moves")  # noqa: T201  # what the test is there to tell
        assert 0 < len(moves.calls) <= most, moves.calls


async def test_moves_of_a_poll_after_approval(make_world: MakeWorld) -> None:
    """The request is decided on again, the CA is asked, and the answer delivered."""
    world = make_world(approval=Approval.required)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    await approve(world)
    with counted_moves() as moves:
        await operation.poll()
    assert operation.answer.body_type is BodyType.ip
    print(f"poll: {len(moves.calls)} moves")  # noqa: T201  # what the test is there to tell
    assert 0 < len(moves.calls) <= 42, moves.calls
