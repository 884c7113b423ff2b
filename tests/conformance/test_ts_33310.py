"""TS 33.310 9.5 to the letter: what a base station says, and what it is answered (T31 to T51)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from ra_gateway.cmp.bodies import PKICONF_BODY, cert_rep_message
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import cert_req_messages
from ra_gateway.cmp.header_checks import HeaderRules, Strictness
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.polling import poll_rep_content, poll_req_body
from ra_gateway.ra.transaction import Transaction
from tests.support import pki, requests
from tests.support.answers import fail_names, follow
from tests.support.asserts import assert_refused, assert_served
from tests.support.credentials import cmp_credential
from tests.support.desk import open_client
from tests.support.harness import MakeWorld, World
from tests.support.polling import WaitingCA

THREE_GPP: Final = HeaderRules(strictness=Strictness.three_gpp)
LENIENT: Final = HeaderRules(strictness=Strictness.lenient)
ODD_IDS: Final = (-1, 355, 2**31, -(2**63), 2**70)
"""certReqIds that no RFC 9483 client sends: it knows 0 alone."""


@pytest.fixture(params=[THREE_GPP, LENIENT], ids=["3gpp", "lenient"])
def world(request: Any, make_world: MakeWorld) -> World:
    return make_world(rules=request.param)


@pytest.fixture
def base_station(make_world: MakeWorld) -> World:
    """A world of base stations alone: strictness "3gpp"."""
    return make_world(rules=THREE_GPP)


@pytest.fixture(scope="module")
def key() -> Any:
    return pki.make_key("p256")


async def asked_for(
    world: World, body_type: BodyType, key: Any, **options: Any
) -> tuple[pki.Credential, bytes]:
    """Who asks, a base station as it left the factory or one of the operator's, and its request."""
    operators = body_type is BodyType.kur
    device = world.operator.device() if operators else world.device()
    signer = cmp_credential(device)
    subject = signer.certificate.subject_der if operators else from_rfc4514(requests.SUBJECT)
    asked = requests.template(key, subject_der=subject)
    return device, await requests.request(world, signer, key, asked, body_type=body_type, **options)


# --- certReqId ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("T41", 107)
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_the_cert_req_id_of_the_request_is_repeated(
    world: World, key: Any, body_type: BodyType, cert_req_id: int
) -> None:
    """It goes up, comes back, is the same when the request is sent again, and certConf has to name it."""
    device, der = await asked_for(world, body_type, key, cert_req_id=cert_req_id)
    answer = await assert_served(world, der)
    (response,) = cert_rep_message(answer.body_content).responses
    assert (answer.body_type, response.cert_req_id) == (CERT_RESPONSE_TO[body_type], cert_req_id)
    (asked,) = cert_req_messages(world.ca.messages[0].body_content)
    assert asked.cert_req_id == cert_req_id
    assert await world.post(der) == answer.der
    (stored,) = await world.store.find(answer.header.transaction_id or b"")
    assert Transaction.from_fields(stored.to_fields()).cert_req_id == cert_req_id
    for other in (0, cert_req_id + 1):
        wrong = requests.confirmation_body(answer, other)
        der = await follow(device, answer, wrong, now=world.clock())
        refused = await world.ask(der)
        assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRequest"])
        assert world.events[-1].rule == "R107"
    assert len(world.ca.received) == 1
    confirmed = await world.ask(await requests.confirmation(world, device, answer))
    assert confirmed.body_der == PKICONF_BODY
    assert [item.body_type for item in world.ca.messages] == [body_type, BodyType.certConf]
    assert not any(event.quirks for event in world.events)


@pytest.mark.requirement("T41", 112)
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
async def test_the_cert_req_id_of_a_refused_request_is_repeated(
    world: World, key: Any, cert_req_id: int
) -> None:
    """By the RA as by the CA."""
    device = cmp_credential(world.device())
    der = await requests.request(world, device, key, cert_req_id=cert_req_id, popo_der=b"")
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R53", cert_req_id=cert_req_id)
    world.ca.script = lambda answer: answer.reject()
    answer = await world.ask(await requests.request(world, device, key, cert_req_id=cert_req_id))
    (response,) = cert_rep_message(answer.body_content).responses
    assert (response.cert_req_id, response.certificate_der) == (cert_req_id, None)


@pytest.mark.requirement("T41", 85)
async def test_a_ca_that_answers_another_cert_req_id(base_station: World, key: Any) -> None:
    """What it sends is no answer to this request."""
    world = base_station
    world.ca.script = lambda answer: answer.set_response(cert_req_id=0)
    der = await requests.request(world, cmp_credential(world.device()), key, cert_req_id=-1)
    refused = await world.ask(der)
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["systemFailure"])
    assert world.events[-1].rule == "R85"


@pytest.mark.requirement("T41", 117, 118)
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
async def test_the_cert_req_id_of_the_request_is_polled_for(
    make_world: MakeWorld, key: Any, cert_req_id: int
) -> None:
    """pollReq and pollRep name it between base station and RA, and between RA and CA."""
    world = make_world(rules=THREE_GPP)
    waiting = WaitingCA(world.operator, world.clock)
    world = make_world(rules=THREE_GPP, ca=waiting, clock=world.clock)
    device = world.device()
    answer = await world.ask(
        await requests.request(world, cmp_credential(device), key, cert_req_id=cert_req_id)
    )
    (response,) = cert_rep_message(answer.body_content).responses
    assert (response.cert_req_id, response.certificate_der) == (cert_req_id, None)
    wrong = await follow(device, answer, poll_req_body(0), now=world.clock())
    await assert_refused(world, wrong, "badRequest", rule="R119")
    for expected in (BodyType.pollRep, BodyType.ip):
        world.clock.move(seconds=30)
        der = await follow(device, answer, poll_req_body(cert_req_id), now=world.clock())
        answer = await world.ask(der)
        assert answer.body_type is expected, world.events[-1].detail
        if expected is BodyType.pollRep:
            assert poll_rep_content(answer.body_content).cert_req_id == cert_req_id
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.cert_req_id == cert_req_id


@pytest.mark.requirement("T41")
@pytest.mark.parametrize("cert_req_id", ODD_IDS)
async def test_the_bundled_ca_repeats_the_cert_req_id(
    operator_pki: pki.OperatorPKI, vendor_pki: pki.VendorPKI, tmp_path: Path, cert_req_id: int
) -> None:
    """To devices that come to it themselves."""
    async with open_client(operator_pki, vendor_pki, tmp_path / "ca.db") as desk:
        enrolment = await desk.enrol(cert_req_id=cert_req_id)
        (response,) = cert_rep_message(enrolment.answer.body_content).responses
        assert response.cert_req_id == cert_req_id
        kind, _ = await desk.refused(await desk.confirmation(enrolment, cert_req_id=0))
        assert kind is BodyType.error
        await desk.confirm(enrolment, cert_req_id=cert_req_id)
