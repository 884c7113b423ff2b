"""The operations a base station runs, end to end through the pipeline (RFC 9483 4.1.1, 4.1.3; TS 33.310 9)."""

from __future__ import annotations

import asyncio

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import cert_req_messages
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.values import Done, Send
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate
from tests.support.harness import World


async def test_a_base_station_without_the_operator_root_enrols_and_confirms(world: World) -> None:
    """ir, ip, certConf, pkiConf; the root arrives with the ip."""
    enrollment = world.enrollment(world.device(), provisioned=False)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    done = await enrollment.receive(await world.post(step.der))
    assert isinstance(done, Done)
    assert done.certificate == world.ca.issued[0]
    assert done.operator_root == cmp_certificate(world.operator.root.certificate)
    assert [message.body_type for message in world.ca.messages] == [
        BodyType.ir,
        BodyType.certConf,
    ]
    assert [event.outcome for event in world.events] == ["issued", "confirmed"]


async def test_a_renewal_is_protected_by_the_operator_certificate(world: World) -> None:
    """kur, kup, certConf, pkiConf."""
    old = world.operator.device("enb-1.ran.example.net")
    enrollment = world.enrollment(old, body_type=BodyType.kur)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    done = await enrollment.receive(await world.post(step.der))
    assert isinstance(done, Done)
    assert done.certificate.subject_der == cmp_certificate(old.certificate).subject_der


@pytest.mark.requirement(71)
async def test_a_vendor_certificate_cannot_renew(world: World) -> None:
    """A kur by a vendor certificate is refused, and the CA never sees it."""
    enrollment = world.enrollment(world.device(), body_type=BodyType.kur)
    answer = await world.ask(await enrollment.request())
    assert fail_names(answer) == ["signerNotTrusted"]
    assert world.ca.received == []


@pytest.mark.requirement(73, 74)
async def test_the_body_goes_up_as_it_came(world: World) -> None:
    """Nothing is re-encoded: the CA gets the octets the device signed."""
    enrollment = world.enrollment(world.device())
    der = await enrollment.request()
    await world.post(der)
    sent, received = PKIMessage.from_der(der), world.ca.messages[0]
    assert received.body_der == sent.body_der
    assert received.header.transaction_id == sent.header.transaction_id
    assert received.header.sender_nonce == sent.header.sender_nonce
    ra = cmp_certificate(world.operator.ra.certificate)
    assert received.header.sender_name_der == ra.subject_der
    assert received.header.sender_kid == ra.subject_key_identifier
    assert received.extra_certs[0] == ra.der
    assert cert_req_messages(received.body_content)[0].pop != "raVerified"


@pytest.mark.requirement(94)
async def test_a_repeat_in_flight_waits_for_the_first(world: World) -> None:
    """Two nodes, the same ir at once: one issuance, the same octets to both."""
    world.ca.gate = asyncio.Event()
    der = await world.enrollment(world.device()).request()
    other = world.second_gateway()
    tasks = [
        asyncio.create_task(world.post(der)),
        asyncio.create_task(world.post(der, gateway=other)),
    ]
    await asyncio.sleep(0.05)
    world.ca.gate.set()
    first, second = await asyncio.gather(*tasks)
    assert first == second
    assert len(world.ca.received) == 1
