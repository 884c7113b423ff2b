"""CAs of other makers behind the gateway, which read its messages more closely than the scripted one does."""

from __future__ import annotations

import pytest

from ra_gateway.cmp.bodies import nested_messages
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.ra.endpoints import Variant
from ra_gateway.ra.transaction import State
from tests.support.answers import status_of
from tests.support.chain import ALL_TYPES, local_ra, nest, registered
from tests.support.foreign import AttentiveCA
from tests.support.harness import ManualClock, World
from tests.support.pki import Credential, OperatorPKI, VendorPKI
from tests.support.polling import REQUESTS, Operation

WAYS = (Variant.nested, Variant.reprotect)


def attentive_world(
    vendor: VendorPKI, operator: OperatorPKI, variant: Variant, *authorities: Credential
) -> tuple[World, AttentiveCA]:
    """A gateway in front of a CA that checks every header, which everything reaches in one way.

    Args:
        authorities: RAs in front of the gateway.
    """
    clock = ManualClock()
    ca = AttentiveCA(operator, clock)
    world = World.make(
        vendor,
        operator,
        clock=clock,
        ca=ca,
        endpoint={
            "body_types": ALL_TYPES,
            "registration_authorities": registered(operator, *authorities),
        },
        upstream={"requests": variant, "kur": variant},
    )
    return world, ca


@pytest.mark.requirement(76, 81)
@pytest.mark.parametrize("variant", WAYS)
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("body_type", REQUESTS, ids=lambda item: item.name)
async def test_a_certificate_is_confirmed_at_a_ca_that_checks_recip_nonce(
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    body_type: BodyType,
    variant: Variant,
    takes: bool,
) -> None:
    """The outer header of what is nested has transactionID, senderNonce and recipNonce of what is inside."""
    world, ca = attentive_world(vendor_pki, operator_pki, variant)
    operation = await Operation.begin(world, body_type)
    answer = await operation.send()
    assert (answer.body_type, ca.faults) == (CERT_RESPONSE_TO[body_type], [])
    assert (await operation.confirm(takes=takes)).body_type is BodyType.pkiconf
    assert (ca.faults, len(ca.received)) == ([], 2)
    assert (await operation.stored()).state is (State.CONFIRMED if takes else State.REJECTED)


@pytest.mark.requirement(76, 125)
@pytest.mark.parametrize("variant", WAYS)
async def test_what_comes_in_batches_is_confirmed_there_too(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, variant: Variant
) -> None:
    """Each member of a batch goes up for itself, and keeps its own nonces."""
    ra = local_ra(operator_pki)
    world, ca = attentive_world(vendor_pki, operator_pki, variant, ra)
    operations = [await Operation.begin(world, item) for item in REQUESTS]
    for _ in range(2):
        answers = await world.ask(await nest(world, ra, *(item.sent for item in operations)))
        for operation, der in zip(operations, nested_messages(answers.body_content), strict=True):
            operation.answer = PKIMessage.from_der(der)
            if operation.awaited is not BodyType.certConf:
                assert status_of(operation.answer).issued
                await operation.make_cert_conf()
    assert [item.answer.body_type for item in operations] == [BodyType.pkiconf] * len(operations)
    assert (ca.faults, len(ca.received)) == ([], 2 * len(operations))
