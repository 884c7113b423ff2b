"""error from a device, which gives up after its request was answered (RFC 9810 5.3.21, RFC 9483 3.6)."""

from __future__ import annotations

from typing import Any

import pytest

from ra_gateway.cmp.bodies import PKICONF_BODY, PKIStatusInfo, error_body
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage, body
from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.ra.settings import Unconfirmed
from ra_gateway.ra.transaction import State
from tests.support.answers import fail_names, follow
from tests.support.asserts import assert_answers
from tests.support.harness import World
from tests.support.pki import Credential, OperatorPKI, VendorPKI
from tests.support.unconfirmed import revocations, work

GIVES_UP = error_body(
    PKIStatusInfo(PKIStatus.rejection, ("no disk space",), (PKIFailureInfo.incorrectData,))
)


async def enrolled(world: World, device: Credential, **options: Any) -> PKIMessage:
    """Return the answer to an ir or kur, not yet confirmed."""
    return await world.ask(await world.enrollment(device, **options).request())


@pytest.mark.requirement(115)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_an_error_is_acknowledged_and_told(world: World, body_type: BodyType) -> None:
    """pkiConf under the RA's protection; what the device said and which certificate it is are in the event."""
    device = world.device() if body_type is BodyType.ir else world.operator.device()
    answer = await enrolled(world, device, body_type=body_type)
    der = await follow(device, answer, GIVES_UP, now=world.clock())
    acknowledged = await world.ask(der)
    assert acknowledged.body_der == PKICONF_BODY
    assert_answers(world, PKIMessage.from_der(der), acknowledged)
    event = world.events[-1]
    assert (event.body_type, event.outcome) == ("error", "rejected")
    assert event.serial_number == f"{world.ca.issued[0].serial_number:x}"
    assert "incorrectData" in event.detail
    assert "no disk space" in event.detail
    (found,) = await world.store.find(answer.header.transaction_id or b"")
    assert (found.state, found.confirm_status) == (State.REJECTED, False)
    assert len(world.ca.received) == 1


@pytest.mark.requirement(115)
async def test_its_repeat_gets_the_stored_answer(world: World) -> None:
    """At another node, too."""
    device = world.device()
    answer = await enrolled(world, device)
    der = await follow(device, answer, GIVES_UP, now=world.clock())
    first = await world.post(der)
    assert await world.post(der, gateway=world.second_gateway()) == first
    assert world.events[-1].outcome == "replayed"


@pytest.mark.requirement(115)
@pytest.mark.parametrize("withdrawn", [False, True])
async def test_one_that_is_signed_anew(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, withdrawn: bool
) -> None:
    """Its pkiConf was lost: it gets another, whatever became of the certificate, which is revoked once."""
    world = World.make(vendor_pki, operator_pki, upstream={"unconfirmed": Unconfirmed.revoke})
    device = world.device()
    answer = await enrolled(world, device)
    assert (
        await world.ask(await follow(device, answer, GIVES_UP, now=world.clock()))
    ).body_der == PKICONF_BODY
    if withdrawn:
        await work(world)
    der = await follow(device, answer, GIVES_UP, now=world.clock())
    acknowledged = await world.ask(der)
    assert acknowledged.body_der == PKICONF_BODY
    assert_answers(world, PKIMessage.from_der(der), acknowledged)
    assert await world.post(der) == acknowledged.der
    wrong = await world.ask(
        await follow(device, answer, GIVES_UP, now=world.clock(), recip_nonce=bytes(16))
    )
    assert fail_names(wrong) == ["badRecipientNonce"]
    await work(world, minutes=10)
    assert len(revocations(world)) == 1


@pytest.mark.requirement(115)
async def test_an_error_that_is_none_ends_nothing(world: World) -> None:
    """badDataFormat, and the certificate can still be confirmed."""
    device = world.device()
    enrollment = world.enrollment(device)
    answer = PKIMessage.from_der(await world.post(await enrollment.request()))
    broken = body(BodyType.error, b"\x30\x00")
    refusal = await world.ask(await follow(device, answer, broken, now=world.clock()))
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badDataFormat"])
    step = await enrollment.receive(answer.der)
    assert (await world.ask(step.der)).body_type is BodyType.pkiconf  # type: ignore[union-attr]


@pytest.mark.requirement(115)
async def test_an_error_while_the_ca_is_being_asked_ends_nothing(world: World) -> None:
    """There is nothing yet that could be given up; the request's repeat is still served."""
    device = world.device()
    world.ca.failure, world.ca.failures = UpstreamUnavailable("gone", delivered=False), 1
    request = await world.enrollment(device).request()
    refusal = await world.ask(request)
    der = await follow(device, refusal, GIVES_UP, now=world.clock())
    assert fail_names(await world.ask(der)) == ["badRequest"]
    assert (await world.ask(request)).body_type is BodyType.ip


@pytest.mark.requirement(35, 115)
async def test_the_new_key_does_not_speak_for_the_old(world: World) -> None:
    """As with certConf: the credential of the request, not what was just issued."""
    device = world.device()
    answer = await enrolled(world, device)
    other = world.operator.device("enb-1.ran.example.net")
    der = await follow(other, answer, GIVES_UP, now=world.clock())
    assert fail_names(await world.ask(der)) == ["badMessageCheck"]
    (found,) = await world.store.find(answer.header.transaction_id or b"")
    assert found.state is State.ISSUED
