"""error in the place of a CA's answer: under its protection it is a no, of anybody else a failure (RFC 9483 3.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ra_gateway.cmp.bodies import cert_rep_message
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken
from ra_gateway.ra.settings import Variant
from ra_gateway.ra.transaction import State
from tests.support.answers import fail_names, status_of
from tests.support.asserts import assert_answers
from tests.support.credentials import cmp_credential
from tests.support.foreign import SAID, says
from tests.support.harness import Answer, MakeWorld, World
from tests.support.pki import other_operator
from tests.support.polling import (
    EVERY_TYPE,
    REQUESTS,
    Operation,
    settled,
    slow_world,
)

PASSED_ON = [
    ("badCertTemplate",),
    ("badPOP",),
    ("badAlg",),
    ("badRequest",),
    ("badCertId", "certRevoked"),
]
ABOUT_THE_RA = [
    ("badMessageCheck",),
    ("signerNotTrusted",),
    ("notAuthorized",),
    ("badTime",),
    ("wrongAuthority",),
    ("unsupportedVersion",),
    ("badCertTemplate", "signerNotTrusted"),
    ("badRecipientNonce",),
    ("transactionIdInUse",),
    (),
]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(endpoint={"body_types": EVERY_TYPE})


@pytest.mark.requirement(89, 112, 160)
@pytest.mark.parametrize("fail_info", PASSED_ON, ids="+".join)
@pytest.mark.parametrize(
    "body_type", [*REQUESTS, BodyType.rr, BodyType.genm], ids=lambda item: item.name
)
async def test_what_it_says_of_the_request_reaches_the_device(
    world: World, body_type: BodyType, fail_info: tuple[str, ...]
) -> None:
    """Its failInfo in the answer of the request's kind; its text in the log alone, and the request is refused."""
    world.ca.script = says(*fail_info)
    operation = await Operation.begin(world, body_type)
    answer = await operation.send()
    assert_answers(world, PKIMessage.from_der(operation.sent), answer)
    expected = BodyType.error if body_type is BodyType.genm else RESPONSE_TO[body_type]
    assert answer.body_type is expected
    assert status_of(answer).status is PKIStatus.rejection
    assert tuple(fail_names(answer)) == fail_info
    if body_type in REQUESTS:
        (response,) = cert_rep_message(answer.body_content).responses
        assert (response.cert_req_id, response.certificate_der) == (operation.cert_req_id, None)
    event = world.events[-1]
    assert (event.outcome, event.rule, event.fail_info) == (
        "refused", "R89", PKIFailureInfo[fail_info[0]],
    )  # fmt: skip
    assert SAID in event.detail
    if body_type is not BodyType.genm:
        assert SAID.encode() not in answer.der
    if body_type in REQUESTS:
        assert (await operation.stored()).state is State.FAILED
        assert (await operation.send()).der == answer.der
        assert len(world.ca.received) == 1


@pytest.mark.requirement(89, 92, 94)
@pytest.mark.parametrize("name", ["badDataFormat", "badRequest", "badCertTemplate"])
@pytest.mark.parametrize("body_type", [*REQUESTS, BodyType.rr], ids=lambda item: item.name)
async def test_a_no_that_anybody_can_have_of_it_is_not_the_end(
    make_world: MakeWorld, body_type: BodyType, name: str
) -> None:
    """The CA has done it, and somebody puts an error that it signed for him in the place of its answer.

    Where it answers a repeat as it did before, the device's own repeat gets that, and nothing is done twice.
    """
    world = make_world(endpoint={"body_types": EVERY_TYPE}, upstream={"replays_repeats": True})
    world.ca.script = says(name)
    operation = await Operation.begin(world, body_type)
    refused = await operation.send()
    assert (refused.body_type, fail_names(refused)) == (RESPONSE_TO[body_type], [name])
    assert (await operation.stored()).state is State.REQUESTED
    world.ca.script = lambda answer: None
    done = await operation.send()
    assert (done.body_type, fail_names(done)) == (RESPONSE_TO[body_type], [])
    assert world.ca.received[0] == world.ca.received[1]
    if body_type in REQUESTS:
        assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(85, 89)
@pytest.mark.parametrize("fail_info", ABOUT_THE_RA, ids=lambda item: "+".join(item) or "nothing")
async def test_what_it_says_of_the_ra_s_message_is_no_fault_of_the_device(
    world: World, fail_info: tuple[str, ...]
) -> None:
    """systemFailure; its fixed text is another one than for an answer that cannot be used."""
    world.ca.script = says(*fail_info)
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert status_of(answer).status_string != (UpstreamBroken.phrase,)
    assert SAID in world.events[-1].detail
    assert SAID.encode() not in answer.der


@pytest.mark.requirement(75, 89)
@pytest.mark.parametrize("name", ["badMessageCheck", "signerNotTrusted", "notAuthorized"])
@pytest.mark.parametrize("variant", list(Variant))
async def test_of_a_message_that_went_up_untouched_it_is_the_device_s(
    make_world: MakeWorld, variant: Variant, name: str
) -> None:
    """Who reads the device's own protection may complain of it; around it is the RA's."""
    world = make_world(upstream={"kur": variant, "requests": variant})
    world.ca.script = says(name)
    answer = await (await Operation.begin(world, BodyType.kur)).send()
    untouched = variant is Variant.forward
    assert answer.body_type is (BodyType.kup if untouched else BodyType.error)
    assert fail_names(answer) == [name if untouched else "systemFailure"]


def _unprotected(answer: Answer) -> None:
    answer.protected = False


def _by_a_stranger(answer: Answer) -> None:
    answer.credential = cmp_credential(other_operator().cmp_signer)
    answer.extra_certs = answer.credential.certificates


def _to_another_message(answer: Answer) -> None:
    answer.header = replace(answer.header, recip_nonce=bytes(16))


def _of_another_transaction(answer: Answer) -> None:
    answer.header = replace(answer.header, transaction_id=bytes(16))


NOT_BELIEVED: list[Callable[[Answer], None]] = [
    _unprotected,
    _by_a_stranger,
    _to_another_message,
    _of_another_transaction,
]


@pytest.mark.requirement(83, 84, 89)
@pytest.mark.parametrize("spoil", NOT_BELIEVED)
@pytest.mark.parametrize(
    "bit, told", [("badCertTemplate", "systemFailure"), ("systemUnavail", "systemUnavail")]
)
async def test_what_anybody_could_have_said_is_a_failure(
    world: World, spoil: Callable[[Answer], None], bit: str, told: str
) -> None:
    """No failInfo but the CA's own trouble is taken from it, and the operator reads why it is not believed."""

    def script(answer: Answer) -> None:
        says(bit)(answer)
        spoil(answer)

    world.ca.script = script
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, [told])
    assert status_of(answer).status_string == (UpstreamBroken.phrase,)
    event = world.events[-1]
    assert event.outcome == "failed"
    assert "cannot be believed" in event.detail
    assert SAID in event.detail


@pytest.mark.requirement(85, 89)
@pytest.mark.parametrize("name", ["systemUnavail", "systemFailure"])
async def test_its_own_trouble_is_told_as_that(world: World, name: str) -> None:
    """As ever."""
    world.ca.script = says(name)
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, [name])


@pytest.mark.requirement(89)
async def test_an_error_that_does_not_say_no_is_none(world: World) -> None:
    """Status accepted with a failInfo is nothing to pass on."""
    world.ca.script = says("badCertTemplate", status=PKIStatus.accepted)
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert fail_names(answer) == ["systemFailure"]


@pytest.mark.requirement(89, 109)
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("name", ["badCertId", "badRequest", "certRevoked"])
async def test_a_cert_conf_that_the_ca_refuses(world: World, name: str, takes: bool) -> None:
    """The device is told by an error with that failInfo; nothing counts as confirmed."""
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.ca.script = says(name)
    answer = await operation.confirm(takes=takes)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, [name])
    assert SAID in world.events[-1].detail
    assert SAID.encode() not in answer.der
    assert (await operation.stored()).state is State.FAILED
    assert (await operation.send()).der == answer.der


@pytest.mark.requirement(89, 118)
async def test_a_device_that_polls_gets_it_too(make_world: MakeWorld) -> None:
    """In the ip that it waits for."""
    world = slow_world(make_world)
    world.ca.script = says("badCertTemplate")
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def refused() -> bool:
        return (await operation.stored()).state is State.FAILED

    await settled(refused)
    answer = await operation.poll()
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badCertTemplate"])
    assert SAID.encode() not in answer.der
