"""An RA certificate that is renewed while transactions live: each keeps the credential that it began with (R80)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.device.values import Send
from ra_gateway.ra.settings import Approval
from tests.support.answers import status_of
from tests.support.credentials import cmp_credential
from tests.support.harness import Answer, MakeWorld, World
from tests.support.mac import cert_conf, ir
from tests.support.mac import make_world as mac_world
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import (
    KNOWN,
    WAIT_AFTER_SECONDS,
    Operation,
    approve,
    settled,
    written_secrets,
)

pytestmark = pytest.mark.requirement(80)


def renew(world: World) -> None:
    """Give the RA another certificate and key; those of before are kept for what lives."""
    services = world.gateway._services
    before = services.credential()
    after = cmp_credential(world.operator.issuing.issue("CN=RA 2,O=Example Operator"))
    services.credential = lambda: after
    services.other_credentials = lambda: (before,)


def leading(messages: list[PKIMessage]) -> set[bytes]:
    """The certificates that messages begin their extraCerts with."""
    return {message.extra_certs[0] for message in messages}


async def test_renewed_between_the_request_and_cert_conf(world: World) -> None:
    """The CA and the device see one credential; whoever begins after that sees the new one."""
    operation = await Operation.begin(world, BodyType.ir)
    first = await operation.send()
    renew(world)
    last = await operation.confirm()
    assert last.body_type is BodyType.pkiconf
    assert len(world.ca.messages) == 2
    assert leading(world.ca.messages) == leading([first, last])
    another = await Operation.begin(world, BodyType.ir)
    assert leading([await another.send()]).isdisjoint(leading([first]))


async def test_renewed_while_the_ca_is_asked(world: World) -> None:
    """The CA gets certConf under the credential that the request went up with, and the device the same."""

    def renewed(answer: Answer) -> None:
        if answer.request.body_type is BodyType.ir:
            renew(world)

    world.ca.script = renewed
    operation = await Operation.begin(world, BodyType.ir)
    first = await operation.send()
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert len(leading(world.ca.messages)) == 1
    assert leading([first]) == leading(world.ca.messages)


async def test_renewed_while_a_request_is_held(make_world: MakeWorld) -> None:
    """What the CA gets once it is approved, and certConf after it, have one signer."""
    world = make_world(endpoint={"approval": Approval.required})
    operation = await Operation.begin(world, BodyType.ir)
    held = await operation.send()
    renew(world)
    await approve(world)
    assert status_of(await operation.poll()).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert len(world.ca.messages) == 2
    assert leading(world.ca.messages) == leading([held])


async def test_the_credential_of_a_held_request_is_gone(make_world: MakeWorld) -> None:
    """It is decided days later, and the RA has been renewed twice: the current one signs, to the end."""
    world = make_world(endpoint={"approval": Approval.required})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    renew(world)
    renew(world)
    await approve(world)
    operation.answer = await world.ask(await operation.poll_req())
    assert status_of(operation.answer).issued
    renew(world)
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert len(leading(world.ca.messages)) == 1


async def test_a_device_under_a_secret_confirms_after_a_renewal(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Its answers have a MAC and no certificates by which the signer of its request could be told."""
    csv_path = written_secrets(tmp_path)
    world = mac_world(vendor_pki, operator_pki, csv_path, wait_after_seconds=WAIT_AFTER_SECONDS)
    world.ca.gate = asyncio.Event()
    reference, secret = KNOWN
    der = await ir(world, reference=reference, secret=secret)
    waiting = await world.ask(der)
    renew(world)
    world.ca.gate.set()

    async def there() -> bool:
        (found,) = await world.store.find(waiting.header.transaction_id or b"")
        return found.current.planned is not None

    await settled(there)
    answer = await world.ask(der)
    assert status_of(answer).issued
    confirmed = await world.ask(cert_conf(world, answer, reference=reference, secret=secret))
    assert confirmed.body_type is BodyType.pkiconf
    assert len(world.ca.messages) == 2
    assert len(leading(world.ca.messages)) == 1


async def test_confirmed_at_a_gateway_that_has_another_credential(make_world: MakeWorld) -> None:
    """Its pkiConf carries the certificates that a base station has not seen yet: one that takes another signer can."""
    world = make_world(rules=HeaderRules(strictness=Strictness.three_gpp))
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    renew(world)
    world.gateway._services.other_credentials = tuple
    der = await world.post(step.der)
    certificates = world.gateway._services.credential().certificates
    assert PKIMessage.from_der(der).extra_certs == certificates
    assert await world.post(step.der) == der
