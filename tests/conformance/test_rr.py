"""rr through the gateway: a device has its own certificate revoked, by the RA that the CA heeds (RFC 9483 4.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    RevRepContent,
    cert_confirm_body,
    error_body,
    rev_rep_body,
    rev_rep_content,
    rev_req_body,
)
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertId
from ra_gateway.cmp.messages import PKIMessage, body
from ra_gateway.cmp.names import directory_name
from ra_gateway.errors import PKIFailureInfo, UpstreamUnavailable
from ra_gateway.ra.transaction import State
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_answers, assert_refused
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Answer, World
from tests.support.pki import Credential, OperatorPKI, VendorPKI
from tests.support.requests import details, rr

TAKEN = {"body_types": frozenset({BodyType.ir, BodyType.kur, BodyType.rr})}


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki, endpoint=TAKEN)


@pytest.fixture
def device(world: World) -> Credential:
    """A base station with its operator certificate."""
    return world.operator.device("enb-1.ran.example.net")


async def state(world: World, der: bytes) -> State:
    (found,) = await world.store.find(PKIMessage.from_der(der).header.transaction_id or b"")
    return found.state


@pytest.mark.requirement(73, 74, 88, 129)
async def test_a_device_has_its_own_certificate_revoked(world: World, device: Credential) -> None:
    """The rr goes up as it came under the RA's protection; the rp comes down as it came."""
    der = await rr(world, device)
    answer = await world.ask(der)
    assert answer.body_type is BodyType.rp
    assert rev_rep_content(answer.body_content).statuses == (PKIStatusInfo(PKIStatus.accepted),)
    assert_answers(world, PKIMessage.from_der(der), answer)
    (up,) = world.ca.messages
    assert up.body_der == PKIMessage.from_der(der).body_der
    assert up.header.sender_name_der == cmp_certificate(world.operator.ra.certificate).subject_der
    assert up.header.sender_nonce == PKIMessage.from_der(der).header.sender_nonce
    (event,) = world.events
    own = cmp_certificate(device.certificate)
    assert (event.outcome, event.serial_number) == ("revoked", f"{own.serial_number:x}")
    assert await state(world, der) is State.REVOKED


@pytest.mark.requirement(94, 129)
async def test_a_repeat_gets_the_stored_answer(world: World, device: Credential) -> None:
    """At once, and at another node while the first is waiting: the CA is asked once."""
    world.ca.gate = asyncio.Event()
    der = await rr(world, device)
    tasks = [
        asyncio.create_task(world.post(der)),
        asyncio.create_task(world.post(der, gateway=world.second_gateway())),
    ]
    await asyncio.sleep(0.05)
    world.ca.gate.set()
    first, second = await asyncio.gather(*tasks)
    assert first == second == await world.post(der)
    assert len(world.ca.received) == 1


@pytest.mark.requirement(12)
async def test_another_request_under_its_transaction_id(world: World, device: Credential) -> None:
    """transactionIdInUse; the first is unharmed."""
    der = await rr(world, device)
    answer = await world.post(der)
    transaction_id = PKIMessage.from_der(der).header.transaction_id
    other = await rr(world, device, transaction_id=transaction_id)
    assert fail_names(await world.ask(other)) == ["transactionIdInUse"]
    assert await world.post(der) == answer


@pytest.mark.requirement(112, 130, 131)
@pytest.mark.parametrize("other", ["serial_number", "issuer_der", "both"])
async def test_a_device_cannot_revoke_another(world: World, device: Credential, other: str) -> None:
    """notAuthorized in an rp, badCertId for an issuer that nobody is, and the CA never sees it."""
    theirs = cmp_certificate(world.operator.device("enb-2.ran.example.net").certificate)
    own = cmp_certificate(device.certificate)
    asked = {
        "serial_number": details(own, serial_number=theirs.serial_number),
        "issuer_der": details(own, issuer_der=own.subject_der),
        "both": details(theirs),
    }[other]
    der = await rr(world, device, asked)
    unknown = other == "issuer_der"
    fail_info, rule = ("badCertId", "R131") if unknown else ("notAuthorized", "R130")
    await assert_refused(world, der, fail_info, rule=rule, body_type=BodyType.rp)


@pytest.mark.requirement(130)
async def test_a_device_does_not_release_itself_from_hold(world: World, device: Credential) -> None:
    """Before this gateway has heard of the hold, say: the RA would sign it, and the CA do it."""
    asked = details(cmp_certificate(device.certificate), reason=8)
    der = await rr(world, device, asked)
    await assert_refused(world, der, "notAuthorized", rule="R130", body_type=BodyType.rp)


@pytest.mark.requirement(71, 130)
async def test_a_vendor_certificate_revokes_nothing(world: World) -> None:
    """It is not of the operator's domain."""
    der = await rr(world, world.device())
    await assert_refused(world, der, "signerNotTrusted")


@pytest.mark.requirement(131, 132)
@pytest.mark.parametrize(
    "change, fail_info, rule",
    [
        ({"serial_number": None}, "addInfoNotAvailable", "R131"),
        ({"issuer_der": None}, "addInfoNotAvailable", "R131"),
        ({"reason": 7}, "badDataFormat", "R132"),
    ],
    ids=["no serialNumber", "no issuer", "unknown reason"],
)
async def test_what_is_missing(
    world: World, device: Credential, change: dict[str, Any], fail_info: str, rule: str
) -> None:
    """An rr names its certificate and says why."""
    asked = details(cmp_certificate(device.certificate), **change)
    der = await rr(world, device, asked)
    await assert_refused(world, der, fail_info, rule=rule, body_type=BodyType.rp)


@pytest.mark.requirement(131)
async def test_one_certificate_at_a_time(world: World, device: Credential) -> None:
    """None, or two, are badRequest."""
    one = rev_req_body(details(cmp_certificate(device.certificate)))
    inside = asn1.content(asn1.element(PKIMessage.from_der(await rr(world, device)).body_content))
    assert one == body(BodyType.rr, asn1.tlv(0x30, inside))
    for content in (b"", inside * 2):
        der = await requests.message(
            world, cmp_credential(device), body(BodyType.rr, asn1.tlv(0x30, content))
        )
        await assert_refused(world, der, "badRequest", rule="R131", body_type=BodyType.rp)


async def test_an_rr_that_is_none(world: World, device: Credential) -> None:
    """badDataFormat, in the rp."""
    der = await requests.message(
        world, cmp_credential(device), body(BodyType.rr, b"\x30\x03\x02\x01\x00")
    )
    await assert_refused(world, der, "badDataFormat", body_type=BodyType.rp)


@pytest.mark.requirement(89, 112, 129)
@pytest.mark.parametrize("fail_info", [PKIFailureInfo.certRevoked, PKIFailureInfo.badCertId])
async def test_a_rejection_is_relayed(
    world: World, device: Credential, fail_info: PKIFailureInfo
) -> None:
    """The CA's failInfo and text reach the device in an rp, and the log."""
    info = PKIStatusInfo(PKIStatus.rejection, ("no",), (fail_info,))

    def script(answer: Answer) -> None:
        answer.body_der = rev_rep_body(RevRepContent((info,)))

    world.ca.script = script
    der = await rr(world, device)
    answer = await world.ask(der)
    assert (answer.body_type, status_of(answer)) == (BodyType.rp, info)
    (event,) = world.events
    assert (event.outcome, event.fail_info) == ("refused", fail_info)
    assert await state(world, der) is State.REFUSED
    assert await world.post(der) == answer.der


OTHER_CERTIFICATE = CertId(directory_name(asn1.tlv(0x30)), 5)


def _says(*statuses: PKIStatusInfo, rev_certs: tuple[CertId, ...] = ()) -> Callable[[Answer], None]:
    def script(answer: Answer) -> None:
        answer.body_der = rev_rep_body(RevRepContent(statuses, rev_certs))

    return script


def _error(answer: Answer) -> None:
    answer.body_der = error_body(PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.badTime,)))


def _unprotected(answer: Answer) -> None:
    answer.protected = False


def _another_type(answer: Answer) -> None:
    answer.body_der = body(BodyType.genp, asn1.tlv(0x30))


def _another_nonce(answer: Answer) -> None:
    answer.header = replace(answer.header, recip_nonce=bytes(16))


ACCEPTED = PKIStatusInfo(PKIStatus.accepted)


@pytest.mark.requirement(83, 84, 85)
@pytest.mark.parametrize(
    "script",
    [
        _unprotected,
        _another_type,
        _another_nonce,
        _error,
        _says(ACCEPTED, ACCEPTED),
        _says(ACCEPTED, rev_certs=(OTHER_CERTIFICATE,)),
        _says(PKIStatusInfo(PKIStatus.accepted, (), (PKIFailureInfo.badTime,))),
        _says(PKIStatusInfo(PKIStatus.waiting)),
    ],
    ids=["unprotected", "genp", "nonce", "error", "two", "another", "failInfo", "waiting"],
)
async def test_a_broken_rp_is_not_relayed(
    world: World, device: Credential, script: Callable[[Answer], None]
) -> None:
    """systemFailure, of which nothing is the device's fault; a repeat gets the same."""
    world.ca.script = script
    der = await rr(world, device)
    answer = await world.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert await state(world, der) is State.FAILED
    assert await world.post(der) == answer.der


async def test_the_certificate_that_was_revoked_may_be_named(
    world: World, device: Credential
) -> None:
    """revCerts with the device's own certificate is what is expected."""
    own = cmp_certificate(device.certificate)
    cert_id = CertId(directory_name(own.issuer_der), own.serial_number)
    world.ca.script = _says(ACCEPTED, rev_certs=(cert_id,))
    answer = await world.ask(await rr(world, device))
    assert rev_rep_content(answer.body_content).rev_certs == (cert_id,)


@pytest.mark.requirement(90)
async def test_a_ca_that_did_not_answer_is_asked_again(world: World, device: Credential) -> None:
    """Nothing can be issued twice: the repeat goes up once more, with the same octets."""
    world.ca.failure, world.ca.failures = UpstreamUnavailable("gone", delivered=True), 1
    der = await rr(world, device)
    assert fail_names(await world.ask(der)) == ["systemUnavail"]
    assert (await world.ask(der)).body_type is BodyType.rp
    first, second = world.ca.received
    assert first == second


@pytest.mark.requirement(11)
async def test_nothing_is_to_be_confirmed(world: World, device: Credential) -> None:
    """An rr has no certConf, and no error either."""
    answer = await world.ask(await rr(world, device))
    for body_der in (
        cert_confirm_body(CertStatus(bytes(32), 0)),
        error_body(PKIStatusInfo(PKIStatus.rejection)),
    ):
        der = await follow(device, answer, body_der, now=world.clock())
        assert fail_names(await world.ask(der)) == ["badRequest"]
    assert len(world.ca.received) == 1


@pytest.mark.requirement(142)
async def test_the_3gpp_profile_has_no_rr(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> None:
    """Refused, unless the endpoint's body_types lists it."""
    world = World.make(vendor_pki, operator_pki)
    der = await rr(world, world.operator.device())
    await assert_refused(world, der, "badRequest", rule="R142")


@pytest.mark.requirement(149)
async def test_the_label_names_the_operation(world: World, device: Credential) -> None:
    """.../revocation takes rr."""
    der = await rr(world, device)
    assert fail_names(await world.ask(der, operation="keyupdate")) == ["badRequest"]
    assert (await world.ask(der, operation="revocation")).body_type is BodyType.rp


@pytest.mark.requirement(29)
async def test_an_old_rr_revokes_nothing(world: World, device: Credential) -> None:
    """messageTime outside the window is badTime: a recorded rr cannot be played again."""
    der = await rr(world, device)
    world.clock.move(seconds=301)
    assert fail_names(await world.ask(der)) == ["badTime"]
    assert world.ca.received == []
