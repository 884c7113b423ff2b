"""Each message has one line of the gateway's, and what came of a transaction is told once."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from ra_gateway.cmp.bodies import PKICONF_BODY
from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.settings import Approval
from tests.support import requests
from tests.support.chain import local_ra, nest, registered
from tests.support.credentials import cmp_credential
from tests.support.harness import MakeWorld, World
from tests.support.pki import OperatorPKI
from tests.support.polling import (
    EVERY_TYPE,
    OTHERS,
    REQUESTS,
    Operation,
    approve,
    settled,
    slow_world,
)


def told(world: World) -> list[tuple[str, str]]:
    """Return body type and outcome of each line, oldest first."""
    return [(event.body_type, event.outcome.value) for event in world.events]


async def answered(operation: Operation) -> None:
    """Have the CA answer, and wait until that is stored."""
    assert operation.world.ca.gate is not None
    operation.world.ca.gate.set()

    async def is_there() -> bool:
        return (await operation.stored()).current.planned is not None

    await settled(is_there)


CAME: Final = {BodyType.rr: "revoked", BodyType.genm: "informed"}
"""What comes of a request that is none for a certificate."""


@pytest.mark.parametrize("body_type", [*REQUESTS, *OTHERS])
async def test_what_a_slow_ca_answers(make_world: MakeWorld, body_type: BodyType) -> None:
    """Is told by the poll that brings it; that it has come is told before, and its certConf goes the same way."""
    world = slow_world(make_world)
    operation = await Operation.begin(world, body_type)
    await operation.send()
    await operation.poll()
    await answered(operation)
    await operation.poll()
    name, outcome = body_type.name, CAME.get(body_type, "issued")
    expected = [
        (name, "waiting"),
        ("pollReq", "waiting"),
        (name, "ready"),
        ("pollReq", outcome),
    ]
    assert told(world) == expected
    assert world.events[-1].serial_number or body_type is BodyType.genm
    if body_type in OTHERS:
        return
    world.ca.gate = asyncio.Event()
    await operation.confirm()
    await answered(operation)
    await operation.poll()
    assert told(world)[4:] == [
        ("certConf", "waiting"),
        ("certConf", "ready"),
        ("pollReq", "confirmed"),
    ]


async def test_what_a_slow_ca_refuses(make_world: MakeWorld) -> None:
    """Once, and why."""
    world = slow_world(make_world)
    world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badCertTemplate, text="too long")
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    await answered(operation)
    await operation.poll()
    assert told(world) == [("ir", "waiting"), ("ir", "ready"), ("pollReq", "refused")]
    ready, refused = world.events[1:]
    assert (ready.fail_info, refused.fail_info) == (None, PKIFailureInfo.badCertTemplate)
    assert refused.detail.count("the CA refused") == 1


@pytest.mark.parametrize("refuses", [False, True])
async def test_what_an_operator_approved(make_world: MakeWorld, refuses: bool) -> None:
    """The poll after that is one message, whatever the CA says."""
    world = make_world(endpoint={"approval": Approval.required, "wait_after_seconds": 10.0})
    if refuses:
        world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badCertTemplate)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    await operation.poll()
    await approve(world)
    await operation.poll()
    outcome = "refused" if refuses else "issued"
    assert told(world) == [("ir", "held"), ("pollReq", "held"), ("pollReq", outcome)]
    assert world.events[-1].detail.count("the CA refused") == refuses


async def test_an_enrolment_and_all_its_repeats(make_world: MakeWorld) -> None:
    """A repeat is one, and says so."""
    world = make_world(endpoint={"body_types": EVERY_TYPE})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    await operation.send()
    await operation.confirm()
    await operation.send()
    other = await Operation.begin(world, BodyType.rr)
    await other.send()
    await other.send()
    assert told(world) == [
        ("ir", "issued"), ("ir", "replayed"), ("certConf", "confirmed"), ("certConf", "replayed"),
        ("rr", "revoked"), ("rr", "replayed"),
    ]  # fmt: skip


async def test_what_is_nested(make_world: MakeWorld, operator_pki: OperatorPKI) -> None:
    """One message in another is one; in a batch each has a line, and the batch, too."""
    ra = local_ra(operator_pki)
    world = make_world(
        endpoint={
            "body_types": EVERY_TYPE,
            "registration_authorities": registered(operator_pki, ra),
        }
    )
    single = await Operation.begin(world, BodyType.ir)
    await world.post(await nest(world, ra, single.sent))
    assert told(world) == [("ir", "issued")]
    world.events.clear()
    inner = [(await Operation.begin(world, kind)).sent for kind in (BodyType.ir, BodyType.genm)]
    await world.post(await nest(world, ra, *inner, b"\x30\x00"))
    assert sorted(told(world)) == [
        ("", "refused"), ("genm", "informed"), ("ir", "issued"), ("nested", "batched"),
    ]  # fmt: skip


async def test_what_is_no_message_or_none_for_us(make_world: MakeWorld) -> None:
    world = make_world()
    await world.post(b"\x30\x00")
    await world.post(b"nothing")
    operation = await Operation.begin(world, BodyType.ir)
    await world.post(await operation_of_ca(world, operation))
    assert told(world) == [("", "refused"), ("", "refused"), ("pkiconf", "refused")]


async def operation_of_ca(world: World, operation: Operation) -> bytes:
    return await requests.message(world, cmp_credential(operation.device), PKICONF_BODY)
