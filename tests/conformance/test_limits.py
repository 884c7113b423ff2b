"""Too many new requests: who is refused is told so, leaves nothing behind, and is served when it comes again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.values import Done, Send
from ra_gateway.events import Outcome
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.rates import Limits, Rate
from ra_gateway.ra.settings import Approval
from ra_gateway.ra.transaction import Transaction
from ra_gateway.stores.memory import MemoryStore
from tests.support.answers import fail_names, status_of
from tests.support.harness import ManualClock, World
from tests.support.pki import OperatorPKI, VendorPKI

TWO = Rate(0.01, 2)
"""Two at once, and one more in a hundred seconds."""


def limited(world: World, gateway: Gateway, **rates: Any) -> Gateway:
    """Give a gateway limits that it shares by the world's store, and that go by the world's clock."""
    services = gateway._services
    services.limits = Limits(world.store, lambda: world.clock().timestamp(), **rates)  # type: ignore[arg-type]
    return gateway


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> World:
    world = World.make(vendor_pki, operator_pki)
    limited(world, world.gateway, vendors={"acme": TWO})
    return world


async def request(world: World, serial: str) -> tuple[Any, bytes]:
    enrollment = world.enrollment(world.device(serial))
    return enrollment, await enrollment.request()


async def stored(world: World, der: bytes) -> int:
    return len(await world.store.find(PKIMessage.from_der(der).header.transaction_id or b""))


async def test_one_too_many_is_refused_and_served_later(world: World) -> None:
    """Two gateways share a vendor's rate: the third ir gets systemUnavail, signed, and the same octets a cert later."""
    gateways = [world.gateway, limited(world, world.second_gateway(), vendors={"acme": TWO})]
    for gateway, serial in zip(gateways, ("ENB-1", "ENB-2"), strict=True):
        _, der = await request(world, serial)
        assert (await world.ask(der, gateway=gateway)).body_type is BodyType.ip
    enrollment, der = await request(world, "ENB-3")
    for gateway in gateways:
        refusal = await world.ask(der, gateway=gateway)
        assert fail_names(refusal) == ["systemUnavail"]
        assert refusal.protection is not None
    event = world.events[-1]
    assert (event.outcome, event.domain) == (Outcome.refused, "acme")
    assert "vendors.acme.requests_per_second" in event.detail
    assert await stored(world, der) == 0
    assert len(world.ca.messages) == 2
    world.clock.move(seconds=101)
    step = await enrollment.receive(await world.post(der))
    assert isinstance(step, Send)
    assert isinstance(await enrollment.receive(await world.post(step.der)), Done)


async def test_what_was_begun_is_finished_however_full_it_is(world: World) -> None:
    """Repeats and certConf are answered where nothing new is let in, and use up nothing."""
    enrollment, der = await request(world, "ENB-1")
    answer = await world.post(der)
    for _ in range(10):
        assert await world.post(der) == answer
    _, other = await request(world, "ENB-2")
    assert (await world.ask(other)).body_type is BodyType.ip  # the repeats took nothing
    _, late = await request(world, "ENB-3")
    assert fail_names(await world.ask(late)) == ["systemUnavail"]
    assert await world.post(der) == answer
    step = await enrollment.receive(answer)
    assert isinstance(step, Send)
    assert isinstance(await enrollment.receive(await world.post(step.der)), Done)


async def test_only_what_is_authentic_uses_up_a_vendors_rate(world: World) -> None:
    """A stranger's messages, and a device's that may not have what it asks for, leave the rate as it is."""
    for _ in range(5):
        _, der = await request(world, "ENB-1")
        assert fail_names(await world.ask(der[:-1] + bytes([der[-1] ^ 1])))
    for serial in ("ENB-1", "ENB-2"):
        _, der = await request(world, serial)
        assert (await world.ask(der)).body_type is BodyType.ip


async def test_one_vendor_does_not_use_up_anothers(world: World) -> None:
    """The limit of a vendor that is not this device's is none of its business; that of all is."""
    limited(world, world.gateway, vendors={"other": Rate(0.01, 1)}, every=Rate(0.01, 3))
    for serial in ("ENB-1", "ENB-2", "ENB-3"):
        _, der = await request(world, serial)
        assert (await world.ask(der)).body_type is BodyType.ip
    _, der = await request(world, "ENB-4")
    assert fail_names(await world.ask(der)) == ["systemUnavail"]
    assert "limits.requests_per_second" in world.events[-1].detail


class FarStore(MemoryStore):
    """A store that takes a while, as Redis does."""

    async def create(self, transaction: Transaction, *, repeatable: bool = False) -> Any:
        await asyncio.sleep(0.01)
        return await super().create(transaction, repeatable=repeatable)


async def test_repeats_that_come_at_once_leave_room_for_what_is_new(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Whoever sends a captured request over and over holds nothing of the rate while it is looked up."""
    clock = ManualClock()
    store = FarStore(clock, max_transactions=100)
    world = World.make(vendor_pki, operator_pki, store=store, clock=clock)
    limited(world, world.gateway, vendors={"acme": TWO})
    _, der = await request(world, "ENB-1")
    answer = await world.post(der)
    _, new = await request(world, "ENB-2")
    *repeats, served = await asyncio.gather(*(world.post(der) for _ in range(20)), world.post(new))
    assert set(repeats) == {answer}
    assert PKIMessage.from_der(served).body_type is BodyType.ip


async def test_a_held_request_that_is_repeated_uses_up_nothing(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Also at a gateway that has not seen it before, and while it waits for an operator."""
    world = World.make(vendor_pki, operator_pki, endpoint={"approval": Approval.required})
    gateways = [world.gateway, world.second_gateway()]
    for gateway in gateways:
        limited(world, gateway, vendors={"acme": TWO})
    _, der = await request(world, "ENB-1")
    for _ in range(4):
        for gateway in gateways:
            status = status_of(await world.ask(der, gateway=gateway))
            assert status.status is PKIStatus.waiting
    _, other = await request(world, "ENB-2")
    # What the first repeat took and gave back there, that gateway has.
    assert status_of(await world.ask(other, gateway=gateways[1])).status is PKIStatus.waiting
    _, late = await request(world, "ENB-3")
    for gateway in gateways:
        assert fail_names(await world.ask(late, gateway=gateway)) == ["systemUnavail"]


async def test_what_opens_no_transaction_uses_up_nothing(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """One device that begins more than it may, held or not, leaves its vendor's rate to the others."""
    for approval in (Approval.none, Approval.required):
        clock = ManualClock()
        store = MemoryStore(clock, max_transactions=100, max_per_signer=1)
        world = World.make(
            vendor_pki, operator_pki, store=store, clock=clock, endpoint={"approval": approval}
        )
        limited(world, world.gateway, vendors={"acme": TWO})
        device = world.device("ENB-1")
        await world.post(await world.enrollment(device).request())
        for _ in range(4):
            refused = await world.ask(await world.enrollment(device).request())
            assert "max_transactions_per_signer" in world.events[-1].detail
            assert fail_names(refused)
        _, der = await request(world, "ENB-2")
        assert (await world.ask(der)).body_type is BodyType.ip
