"""RAs of other makers in front of the gateway, which pass kur on as it came and sign what follows themselves."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_confirm_content,
    cert_rep_message,
    error_body,
)
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.polling import poll_rep_content, poll_req_content
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.transaction import State
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_refused
from tests.support.chain import ALL_TYPES, local_ra, registered
from tests.support.foreign import SiemensRA
from tests.support.harness import ANY_IDENTITY, Answer, MakeWorld, ManualClock, Script, World
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_key
from tests.support.polling import Operation, WaitingCA, settled
from tests.support.requests import confirmation, csr, p10cr

SUBJECTS = IdentityRules(
    allowed_subjects=("CN=enb-*.ran.example.net,O=*",), allowed_sans=("dns:*",)
)
OTHERS = IdentityRules(allowed_subjects=("CN=*.south.example.net,O=*",), allowed_sans=("dns:*",))


@pytest.fixture(scope="module")
def other_ra(operator_pki: OperatorPKI) -> Credential:
    return local_ra(operator_pki, "Other RA")


@pytest.fixture
def world(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential, other_ra: Credential
) -> World:
    return a_world(vendor_pki, operator_pki, ra, other_ra)


def a_world(
    vendor: VendorPKI,
    operator: OperatorPKI,
    *authorities: Credential,
    endpoint: dict[str, Any] | None = None,
    **relays: Any,
) -> World:
    """A gateway that knows RAs, with what they may do."""
    relays.setdefault("identity", SUBJECTS)
    return World.make(
        vendor,
        operator,
        endpoint={
            "body_types": ALL_TYPES,
            "registration_authorities": registered(operator, *authorities, **relays),
            **(endpoint or {}),
        },
    )


async def renewed(world: World, ra: Credential, **options: Any) -> tuple[SiemensRA, Operation]:
    """A kur that came through an RA, and its kup."""
    siemens = SiemensRA(world, ra, **options)
    operation = await Operation.begin(world, BodyType.kur)
    operation.answer = await siemens.ask(operation.sent)
    assert operation.answer.body_type is BodyType.kup
    return siemens, operation


@pytest.mark.requirement(35, 75)
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("nests", [False, True])
async def test_an_ra_confirms_a_kur_that_it_passed_on(
    world: World, ra: Credential, nests: bool, takes: bool
) -> None:
    """Under its own signature, as plain message; its retransmission gets the same octets."""
    siemens, operation = await renewed(world, ra, nests=nests)
    await operation.make_cert_conf(takes=takes)
    answer = await siemens.ask(operation.sent)
    assert answer.body_type is BodyType.pkiconf, world.events[-1].detail
    assert (await operation.stored()).state is (State.CONFIRMED if takes else State.REJECTED)
    assert await world.post(siemens.passed[-1].der) == answer.der
    assert (world.events[-1].domain, world.events[-1].outcome) == ("ra:ran", "replayed")


@pytest.mark.requirement(35, 105)
async def test_the_device_may_still_confirm_itself(world: World, ra: Credential) -> None:
    """The RA's certConf is taken besides the device's, not in its place."""
    _, operation = await renewed(world, ra)
    assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(35)
async def test_no_other_ra_confirms_what_one_nested(
    world: World, ra: Credential, other_ra: Credential
) -> None:
    """Whose signature was around the kur is known; nobody else's will do, nor another device's."""
    _, operation = await renewed(world, ra, nests=True)
    for signer in (other_ra, world.operator.device("enb-2.ran.example.net")):
        der = await confirmation(world, signer, operation.answer)
        await assert_refused(world, der, "badMessageCheck", rule="R35")


@pytest.mark.requirement(35, 67)
async def test_an_ra_confirms_for_devices_that_it_may_speak_for(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """What it could not have asked for itself, it cannot confirm either."""
    world = a_world(vendor_pki, operator_pki, ra, identity=OTHERS)
    _, operation = await renewed(world, ra)
    der = await confirmation(world, ra, operation.answer)
    await assert_refused(world, der, "badMessageCheck", rule="R35")
    assert (await operation.stored()).state is State.ISSUED


@pytest.mark.requirement(35)
async def test_an_ra_that_has_not_seen_the_answer_confirms_nothing(
    world: World, ra: Credential
) -> None:
    """The nonce of the answer went to whoever sent the kur, and to nobody else."""
    _, operation = await renewed(world, ra)
    made = PKIMessage.from_der(await confirmation(world, ra, operation.answer))
    now, nonce = world.clock(), bytes(16)
    der = await follow(ra, operation.answer, made.body_der, now=now, recip_nonce=nonce)
    await assert_refused(world, der, "badMessageCheck", rule="R35")


@pytest.mark.requirement(35, 36)
async def test_who_is_not_registered_or_not_valid_confirms_nothing(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """Also an RA of the same operator; and registered is not enough where the certificate has expired."""
    world = a_world(vendor_pki, operator_pki, ra)
    _, operation = await renewed(world, ra)
    unknown = await confirmation(world, local_ra(operator_pki, "Unknown RA"), operation.answer)
    await assert_refused(world, unknown, "badMessageCheck", rule="R35")
    old = operator_pki.issuing.issue(
        "CN=Old RA", "p256", eku=["1.3.6.1.5.5.7.3.28"],
        not_after=world.clock() - timedelta(days=1),
    )  # fmt: skip
    world = a_world(vendor_pki, operator_pki, old)
    operation = await Operation.begin(world, BodyType.kur)
    await operation.send()
    late = await confirmation(world, old, operation.answer)
    await assert_refused(world, late, "signerNotTrusted")


@pytest.mark.requirement(115)
@pytest.mark.parametrize("nests", [False, True])
async def test_an_ra_cannot_give_up_by_error(world: World, ra: Credential, nests: bool) -> None:
    """It signs errors for anybody who asks it for something; it has certConf to say no."""
    siemens, operation = await renewed(world, ra, nests=nests)
    no = PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.systemFailure,))
    operation.sent = await follow(
        operation.device, operation.answer, error_body(no), now=world.clock()
    )
    await siemens.ask(operation.sent)
    await assert_refused(world, siemens.passed[-1].der, "badRequest", rule="R115")
    assert (await operation.stored()).state is State.ISSUED
    await operation.make_cert_conf(takes=False)
    assert (await siemens.ask(operation.sent)).body_type is BodyType.pkiconf


@pytest.mark.requirement(118)
async def test_an_ra_polls_for_its_device(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """A slow CA: pollReq under the RA's signature for a kur that it passed on."""
    world = a_world(vendor_pki, operator_pki, ra, endpoint={"wait_after_seconds": 0.05})
    world.ca.gate = asyncio.Event()
    siemens = SiemensRA(world, ra)
    operation = await Operation.begin(world, BodyType.kur)
    operation.answer = await siemens.ask(operation.sent)
    operation.assert_waiting()
    operation.answer = await siemens.ask(await operation.poll_req())
    operation.assert_not_yet()
    world.ca.gate.set()

    async def issued() -> bool:
        return (await operation.stored()).state is State.ISSUED

    await settled(issued)
    operation.answer = await siemens.ask(await operation.poll_req())
    assert status_of(operation.answer).issued
    await operation.make_cert_conf()
    assert (await siemens.ask(operation.sent)).body_type is BodyType.pkiconf


@pytest.mark.requirement(58, 73, 81)
@pytest.mark.parametrize(
    "body_type",
    [BodyType.ir, BodyType.cr, BodyType.rr, BodyType.genm],
    ids=lambda item: item.name,
)
async def test_everything_else_comes_under_the_ra_s_signature(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential, body_type: BodyType
) -> None:
    """ir and cr are confirmed, rr and genm answered, as the RA reads it."""
    world = a_world(vendor_pki, operator_pki, ra, identity=ANY_IDENTITY)
    siemens = SiemensRA(world, ra)
    operation = await Operation.begin(world, body_type)
    operation.answer = await siemens.ask(operation.sent)
    assert operation.answer.body_type is RESPONSE_TO[body_type], world.events[-1].detail
    assert body_type is BodyType.genm or not fail_names(operation.answer)
    if body_type in (BodyType.ir, BodyType.cr):
        await operation.make_cert_conf()
        assert (await siemens.ask(operation.sent)).body_type is BodyType.pkiconf


# --- p10cr ----------------------------------------------------------------------------------------------------


def cert_req_id_of(answer: PKIMessage) -> int:
    (response,) = cert_rep_message(answer.body_content).responses
    return response.cert_req_id


def answering_with(cert_req_id: int) -> Script:
    """A CA with a certReqId of its own in cp."""

    def script(answer: Answer) -> None:
        if answer.body_der[0] & 0x1F == BodyType.cp:
            answer.set_response(cert_req_id=cert_req_id)

    return script


@pytest.mark.requirement(85, 107)
@pytest.mark.parametrize("ca_says", [-1, 0])
@pytest.mark.parametrize("own", [-1, 0])
async def test_cert_req_id_of_p10cr_is_the_endpoint_s(
    make_world: MakeWorld, own: int, ca_says: int
) -> None:
    """Whatever the CA says: that is what certConf has towards the CA."""
    world = make_world(endpoint={"body_types": ALL_TYPES, "p10cr_cert_req_id": own})
    world.ca.script = answering_with(ca_says)
    operation = await Operation.begin(world, BodyType.p10cr)
    answer = await operation.send()
    assert cert_req_id_of(answer) == own
    assert (await operation.send()).der == answer.der
    assert (await operation.confirm()).body_type is BodyType.pkiconf, world.events[-1].detail
    (up,) = cert_confirm_content(world.ca.messages[-1].body_content)
    assert up.cert_req_id == ca_says


@pytest.mark.requirement(112)
@pytest.mark.parametrize("own", [-1, 0])
async def test_a_refusal_of_p10cr_has_it_too(make_world: MakeWorld, own: int) -> None:
    """Ours, the CA's, and the CA's by an error."""
    world = make_world(endpoint={"body_types": ALL_TYPES, "p10cr_cert_req_id": own})
    spoilt = bytearray(csr(make_key("p256")))
    spoilt[-1] ^= 1
    mine = await world.ask(await p10cr(world, world.device(), bytes(spoilt)))
    assert (fail_names(mine), cert_req_id_of(mine)) == (["badPOP"], own)
    no = PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.badCertTemplate,))

    def by_error(answer: Answer) -> None:
        answer.body_der = error_body(no)

    for script in (lambda answer: answer.reject(PKIFailureInfo.badCertTemplate), by_error):
        world.ca.script = script
        answer = await (await Operation.begin(world, BodyType.p10cr)).send()
        assert (fail_names(answer), cert_req_id_of(answer)) == (["badCertTemplate"], own)


@pytest.mark.requirement(116, 117, 118)
@pytest.mark.parametrize("ca_says", [-1, 0])
@pytest.mark.parametrize("own", [-1, 0])
async def test_a_p10cr_that_waits_is_polled_for_by_it(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, own: int, ca_says: int
) -> None:
    """By the device with the endpoint's, at the CA with the CA's own."""
    clock = ManualClock()
    ca = WaitingCA(operator_pki, clock, script=answering_with(ca_says), cert_req_id=ca_says)
    endpoint = {"body_types": ALL_TYPES, "p10cr_cert_req_id": own}
    world = World.make(vendor_pki, operator_pki, ca=ca, clock=clock, endpoint=endpoint)
    operation = await Operation.begin(world, BodyType.p10cr)
    assert cert_req_id_of(await operation.send()) == own
    operation.answer = await world.ask(await operation.poll_req(own))
    assert poll_rep_content(operation.answer.body_content).cert_req_id == own
    operation.answer = await world.ask(await operation.poll_req(own))
    assert cert_req_id_of(operation.answer) == own
    polled = [item for item in ca.messages if item.body_type is BodyType.pollReq]
    assert [poll_req_content(item.body_content) for item in polled] == [ca_says] * 2


@pytest.mark.requirement(85)
async def test_an_ra_that_wants_0_gets_its_p10cr_confirmed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """The RA lets through what has certReqId 0, and nothing else."""
    endpoint = {"p10cr_cert_req_id": 0}
    world = a_world(vendor_pki, operator_pki, ra, endpoint=endpoint, identity=ANY_IDENTITY)
    siemens = SiemensRA(world, ra)
    operation = await Operation.begin(world, BodyType.p10cr)
    operation.answer = await siemens.ask(operation.sent)
    await operation.make_cert_conf()
    assert (await siemens.ask(operation.sent)).body_type is BodyType.pkiconf
