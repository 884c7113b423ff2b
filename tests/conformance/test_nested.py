"""Other RAs in front of the gateway: under their own protection, and nested, one message or a batch."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    error_body,
    gen_msg_body,
    nested_body,
    nested_messages,
    rev_req_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import RA_VERIFIED_POPO_DER, cert_req_messages
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage, body
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.polling import poll_req_body
from ra_gateway.cmp.trust import Path
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.events import Outcome
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.registration import RARights
from ra_gateway.ra.signer_status import SignerStatus
from ra_gateway.ra.transaction import State
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import (
    assert_answers,
    assert_refused,
    assert_served,
    signed_again,
    unsigned,
)
from tests.support.chain import ALL_TYPES, local_ra, nest, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import MakeWorld, World, make_gateway
from tests.support.pki import CMC_RA, Credential, OperatorPKI, VendorPKI, make_key, other_operator
from tests.support.requests import confirmation, details


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential) -> MakeWorld:
    """Worlds whose gateway knows the RA; arguments are what it may do."""

    def make(**relays: Any) -> World:
        return World.make(
            vendor_pki,
            operator_pki,
            endpoint={
                "body_types": ALL_TYPES,
                "registration_authorities": registered(operator_pki, ra, **relays),
            },
        )

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


async def request(world: World, signer: Credential, key: Any = None, **options: Any) -> bytes:
    """A certificate request under somebody's protection."""
    return await requests.request(world, cmp_credential(signer), key or make_key("p256"), **options)


async def members(world: World, answer: PKIMessage) -> list[PKIMessage]:
    assert answer.body_type is BodyType.nested
    return [PKIMessage.from_der(der) for der in nested_messages(answer.body_content)]


# --- under the RA's own protection ----------------------------------------------------------------------------


@pytest.mark.requirement(58, 73, 74)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_an_ra_asks_in_place_of_its_device(
    world: World, ra: Credential, body_type: BodyType
) -> None:
    """What it vouches for goes up as it came, the device's proof included; certConf is the RA's as well."""
    der = await request(world, ra, body_type=body_type)
    answer = await assert_served(world, der)
    (up,) = world.ca.messages
    assert up.body_der == PKIMessage.from_der(der).body_der
    assert (world.events[-1].domain, world.events[-1].quirks) == ("ra:ran", ())
    done = await world.ask(await confirmation(world, ra, answer))
    assert done.body_type is BodyType.pkiconf


@pytest.mark.requirement(58, 59)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_what_an_ra_verified_goes_up_so(
    world: World, ra: Credential, body_type: BodyType
) -> None:
    """raVerified of a registered RA is accepted and passed on; the template is kept."""
    der = await request(world, ra, body_type=body_type, popo_der=RA_VERIFIED_POPO_DER)
    await assert_served(world, der)
    (up,) = world.ca.messages
    assert up.body_der == PKIMessage.from_der(der).body_der
    assert cert_req_messages(up.body_content)[0].pop == "raVerified"


@pytest.mark.requirement(57)
async def test_an_ra_vouches_for_proofs_only_where_it_may(
    make_world: MakeWorld, ra: Credential
) -> None:
    """Without ra_verified, its raVerified is refused like a device's."""
    world = make_world(ra_verified=False)
    der = await request(world, ra, popo_der=RA_VERIFIED_POPO_DER)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R57")


@pytest.mark.requirement(67)
async def test_an_ra_asks_for_the_names_it_may_ask_for(
    make_world: MakeWorld, ra: Credential
) -> None:
    """Patterns bound what an RA can have certified, whatever its devices are."""
    world = make_world(
        identity=IdentityRules(
            allowed_subjects=("CN=*.north.example.net",), allowed_sans=("dns:*.north.example.net",)
        )
    )
    key = make_key("p256")
    for asked in (
        requests.template(key, "CN=enb-1.south.example.net"),
        requests.template(key, "CN=enb-1.north.example.net,O=Other"),
        requests.template(key, "CN=enb-1.north.example.net", ["dns:enb-1.south.example.net"]),
        requests.template(key, "CN=enb-1.north.example.net", ["dns:*.north.example.net"]),
    ):
        der = await request(world, ra, key, asked=asked)
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    good = requests.template(key, "CN=enb-1.north.example.net", ["dns:enb-1.north.example.net"])
    await assert_served(world, await request(world, ra, key, asked=good))


@pytest.mark.requirement(67)
async def test_each_ra_may_have_rights_of_its_own(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """One bound to its own names, without raVerified; what is said for all others does not widen them."""
    north = local_ra(operator_pki, "RA North")
    own = RARights(IdentityRules(allowed_subjects=("CN=*.north.example.net",)))
    relays = registered(operator_pki, ra, north, rights={cmp_certificate(north.certificate): own})
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={"body_types": ALL_TYPES, "registration_authorities": relays},
    )
    key = make_key("p256")
    here, there = (
        requests.template(key, f"CN=enb-1.{site}.example.net") for site in ("north", "south")
    )
    for body_type in (BodyType.ir, BodyType.cr, BodyType.kur):
        der = await request(world, north, key, asked=there, body_type=body_type)
        told = BodyType(body_type + 1)
        await requests.assert_refused_in_body(
            world, der, "notAuthorized", rule="R67", body_type=told
        )
        await assert_served(
            world, await request(world, north, key, asked=here, body_type=body_type)
        )
        await assert_served(world, await request(world, ra, key, asked=there, body_type=body_type))
    der = await request(world, north, key, asked=here, popo_der=RA_VERIFIED_POPO_DER)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R57")
    device = cmp_certificate(world.operator.device().certificate)
    der = await requests.message(world, cmp_credential(north), rev_req_body(details(device)))
    await assert_refused(world, der, "notAuthorized", rule="R130", body_type=BodyType.rp)


@pytest.mark.requirement(130)
async def test_an_ra_revokes_within_its_names(
    make_world: MakeWorld, ra: Credential, operator_pki: OperatorPKI
) -> None:
    """What it could not have enrolled it does not revoke; whose a serial number is, the certificate says, if shown."""
    rules = IdentityRules(
        allowed_subjects=("CN=*.north.example.net,O=*",), allowed_sans=("dns:*.north.example.net",)
    )
    world = make_world(identity=rules)
    signer = cmp_credential(ra)

    async def revoke(device: Credential, *, shown: bool = True) -> PKIStatus:
        certificate = cmp_certificate(device.certificate)
        extra = (*signer.certificates, *([certificate.der] if shown else []))
        der = await requests.message(
            world, signer, rev_req_body(details(certificate)), extra_certs=extra
        )
        return status_of(await world.ask(der)).status

    north = operator_pki.device("enb-1.north.example.net", san=["dns:enb-1.north.example.net"])
    assert await revoke(north) is PKIStatus.accepted
    asked = len(world.ca.received)
    assert await revoke(north, shown=False) is PKIStatus.rejection
    assert "extraCerts" in world.events[-1].detail
    for other in (
        operator_pki.device("enb-1.south.example.net"),
        operator_pki.device("enb-1.north.example.net", san=["dns:enb-1.south.example.net"]),
        # Another operator's certificate that says what it likes.
        other_operator().device("enb-1.north.example.net"),
    ):
        assert await revoke(other) is PKIStatus.rejection
        assert world.events[-1].rule in ("R67", "R130", "R131")
    assert len(world.ca.received) == asked


@pytest.mark.requirement(130)
async def test_what_the_ca_in_this_process_issued_need_not_be_shown(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """Its ledger knows whose a serial number is."""
    rules = IdentityRules(allowed_subjects=("CN=*.north.example.net,O=*",))
    relays = registered(operator_pki, ra, identity=rules)
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={"body_types": ALL_TYPES, "registration_authorities": relays},
    )
    devices = [operator_pki.device(f"enb-1.{site}.example.net") for site in ("north", "south")]
    issued = {
        item.serial_number: item for item in (cmp_certificate(d.certificate) for d in devices)
    }

    class Issued:
        async def certificate(
            self, issuer_der: bytes, serial_number: int, now: datetime
        ) -> Certificate | None:
            return issued.get(serial_number)

    gateway = make_gateway(
        world.endpoint,
        operator_pki,
        world.store,
        world.clock,
        world.events,
        signer_status=SignerStatus(records=Issued()),
    )
    told = []
    for certificate in issued.values():
        der = await requests.message(world, cmp_credential(ra), rev_req_body(details(certificate)))
        told.append(status_of(await world.ask(der, gateway=gateway)).status)
    assert told == [PKIStatus.accepted, PKIStatus.rejection]


@pytest.mark.requirement(51)
async def test_an_ra_says_whose_request_it_is(world: World, ra: Credential) -> None:
    """A template without subject is refused: the RA alone knows the device."""
    key = make_key("p256")
    for asked in (requests.template(key, None), requests.template(key, "")):
        der = await request(world, ra, key, asked=asked)
        await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R51")


@pytest.mark.requirement(130)
async def test_an_ra_revokes_on_behalf(make_world: MakeWorld, ra: Credential) -> None:
    """Its rr for a device's certificate goes up where it may, and is refused where it may not."""
    own = cmp_certificate(ra.certificate)
    for allowed in (True, False):
        world = make_world(revoke_on_behalf=allowed)
        device = cmp_certificate(world.operator.device().certificate)
        der = await requests.message(world, cmp_credential(ra), rev_req_body(details(device)))
        if allowed:
            answer = await world.ask(der)
            assert status_of(answer).status is PKIStatus.accepted
            assert world.events[-1].outcome == "revoked"
            assert world.events[-1].serial_number != f"{own.serial_number:x}"
        else:
            await assert_refused(world, der, "notAuthorized", rule="R130", body_type=BodyType.rp)


@pytest.mark.requirement(130)
async def test_an_ra_revokes_no_ra(make_world: MakeWorld, ra: Credential) -> None:
    """Neither this gateway nor another RA, although any name is its to ask for; itself it may."""
    world = make_world(revoke_on_behalf=True, identity=IdentityRules(allowed_subjects=("*",)))
    this, other = (cmp_certificate(local_ra(world.operator).certificate) for _ in range(2))
    relays = world.endpoint.registration_authorities
    assert relays is not None
    world.endpoint = replace(
        world.endpoint,
        upstream=replace(world.endpoint.upstream, own=lambda: (this,)),
        registration_authorities=replace(relays, certificates=relays.certificates | {other}),
    )
    world.gateway = world.second_gateway()
    for certificate in (this, other):
        der = await requests.message(world, cmp_credential(ra), rev_req_body(details(certificate)))
        await assert_refused(world, der, "notAuthorized", rule="R130", body_type=BodyType.rp)
    own = rev_req_body(details(cmp_certificate(ra.certificate)))
    answer = await world.ask(await requests.message(world, cmp_credential(ra), own))
    assert status_of(answer).status is PKIStatus.accepted


@pytest.mark.requirement(130)
async def test_a_device_still_revokes_its_own_certificate_only(world: World) -> None:
    """That RAs may revoke gives devices no right."""
    one, other = world.operator.device("enb-1"), world.operator.device("enb-2")
    asked = rev_req_body(details(cmp_certificate(other.certificate)))
    der = await requests.message(world, cmp_credential(one), asked)
    await assert_refused(world, der, "notAuthorized", rule="R130", body_type=BodyType.rp)


async def test_an_ra_asks_questions_and_gives_up(world: World, ra: Credential) -> None:
    """genm is answered to an RA; it ends a transaction of its own by certConf, not by the error it signs anybody."""
    asked = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
    answer = await world.ask(await requests.message(world, cmp_credential(ra), asked))
    assert answer.body_type is BodyType.genp
    issued = await assert_served(world, await request(world, ra))
    failed = error_body(PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.systemFailure,)))
    refused = await world.ask(await follow(ra, issued, failed, now=world.clock()))
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRequest"])
    done = await world.ask(await confirmation(world, ra, issued, rejects=True))
    assert done.body_type is BodyType.pkiconf
    (found,) = await world.store.find(issued.header.transaction_id or b"")
    assert found.state is State.REJECTED


@pytest.mark.requirement(12, 94)
async def test_devices_of_one_ra_that_share_a_transaction_id_do_not_mix(
    world: World, ra: Credential
) -> None:
    """The second is refused with transactionIdInUse; the first gets, confirms and keeps its own certificate."""
    ids = {"transaction_id": b"\0\0\0\1"}
    first = await assert_served(world, await request(world, ra, **ids))
    second = await request(world, ra, asked=None, key=make_key("p256"), **ids)
    await assert_refused(world, second, "transactionIdInUse", rule="R12")
    done = await world.ask(await confirmation(world, ra, first))
    assert done.body_type is BodyType.pkiconf
    assert len(world.ca.issued) == 1


@pytest.mark.requirement(35)
async def test_a_transaction_is_continued_by_the_ra_that_began_it(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """Another registered RA cannot confirm, nor reject, what this one asked for."""
    other = local_ra(operator_pki, "Other Site RA")
    relays = registered(operator_pki, ra, other)
    world = World.make(vendor_pki, operator_pki, endpoint={"registration_authorities": relays})
    answer = await assert_served(world, await request(world, ra))
    await assert_refused(
        world, await confirmation(world, other, answer), "badMessageCheck", rule="R35"
    )


@pytest.mark.requirement(35)
async def test_an_ra_that_is_no_longer_registered_continues_nothing(
    world: World, ra: Credential
) -> None:
    """A transaction outlives the registration, the right to continue it does not."""
    answer = await assert_served(world, await request(world, ra))
    relays = replace(registered(world.operator, ra), certificates=frozenset())
    without = world.second_gateway(replace(world.endpoint, registration_authorities=relays))
    reply = await world.ask(await confirmation(world, ra, answer), gateway=without)
    assert fail_names(reply) == ["badRequest"]


@pytest.mark.requirement(36, 123)
async def test_who_is_not_registered_is_no_ra(
    world: World, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """Another RA certificate of the same operator is refused like a device's that claims to be an RA."""
    stranger = local_ra(operator_pki, "Stranger RA")
    der = await request(world, stranger, body_type=BodyType.cr)
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R36", body_type=BodyType.cp
    )


@pytest.mark.requirement(123)
async def test_a_registered_name_alone_makes_no_ra(
    world: World, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """A certificate for an RA's name and another key is not registered, whoever issued it."""
    twin = operator_pki.issuing.issue(ra.certificate.subject, "p256", eku=[CMC_RA])
    der = await request(world, twin, sender_kid=None)
    answer = await world.ask(await signed_again(der, twin, sender_kid=None))
    assert fail_names(answer) in (["notAuthorized"], ["badMessageCheck"])
    assert world.ca.received == []


async def test_an_expired_registration_authority_is_refused(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Being registered is no substitute for a valid path."""
    old = operator_pki.issuing.issue("CN=Old RA,O=Example Operator", "p256", eku=[CMC_RA])
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={"registration_authorities": registered(operator_pki, old)},
    )
    world.clock.now = cmp_certificate(old.certificate).not_after + timedelta(days=1)
    der = await request(world, old)
    answer = await world.ask(der)
    assert fail_names(answer) == ["signerNotTrusted"]
    assert world.ca.received == []


# --- one message inside nested --------------------------------------------------------------------------------


@pytest.mark.requirement(124)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_a_nested_request_is_answered_as_if_it_came_plain(
    world: World, ra: Credential, body_type: BodyType
) -> None:
    """The answer is plain and to the device's own message; so it is with certConf, nested or not."""
    if body_type is BodyType.ir:
        device, subject = world.device(), requests.SUBJECT
    else:
        device, subject = world.operator.device("enb-1.ran.example.net"), None
    enrollment = world.enrollment(device, body_type=body_type, subject=subject)
    der = await enrollment.request()
    answer = await world.ask(await nest(world, ra, der))
    assert_answers(world, PKIMessage.from_der(der), answer)
    assert status_of(answer).issued
    assert "nested by CN=Local RA" in world.events[-1].detail
    assert len(world.events) == 1
    step = await enrollment.receive(answer.der)
    done = await world.ask(await nest(world, ra, step.der))  # type: ignore[union-attr]
    assert done.body_type is BodyType.pkiconf


@pytest.mark.requirement(124, 129)
async def test_other_messages_are_nested_too(world: World, ra: Credential) -> None:
    """rr, genm, an error, and a pollReq with nothing to wait for are answered as if they came plain."""
    device = world.operator.device()
    own = cmp_credential(device)
    rr = await requests.message(
        world, own, rev_req_body(details(cmp_certificate(device.certificate)))
    )
    assert status_of(await world.ask(await nest(world, ra, rr))).status is PKIStatus.accepted
    asked = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
    genm = await requests.message(world, own, asked)
    assert (await world.ask(await nest(world, ra, genm))).body_type is BodyType.genp
    issued = await assert_served(world, await request(world, world.device()))
    polled = await follow(device, issued, poll_req_body(0), now=world.clock())
    answer = await world.ask(await nest(world, ra, polled))
    assert fail_names(answer) == ["badMessageCheck"]  # another device's transaction


@pytest.mark.requirement(116, 117, 118, 124)
async def test_a_device_polls_through_nested(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential
) -> None:
    """A slow CA: waiting, pollRep and the certificate all reach a device whose messages come nested."""
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={
            "registration_authorities": registered(operator_pki, ra),
            "wait_after_seconds": 0.01,
        },
    )
    device = world.device()
    world.ca.gate = asyncio.Event()
    waiting = await world.ask(await nest(world, ra, await request(world, device)))
    assert status_of(waiting).status is PKIStatus.waiting
    polled = await follow(device, waiting, poll_req_body(0), now=world.clock())
    early = await world.ask(await nest(world, ra, polled))
    assert early.body_type is BodyType.pollRep
    world.ca.gate.set()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if any(event.outcome == "issued" for event in world.events):
            break
    polled = await follow(device, early, poll_req_body(0), now=world.clock())
    answer = await world.ask(await nest(world, ra, polled))
    assert (answer.body_type, status_of(answer).issued) == (BodyType.ip, True)


async def test_what_is_said_of_the_ra_stands_in_the_event_of_its_message(
    world: World, ra: Credential
) -> None:
    """Its status could not be told, and its domain lets that pass: the operator reads of it."""

    class Unsure:
        async def check(self, domain: str, path: Path, now: datetime) -> tuple[str, ...]:
            return (f"no status of {path[0].subject}",)

    world.gateway._services.signer_status = SignerStatus(domains=Unsure())
    device = world.device()
    await world.ask(await nest(world, ra, await request(world, device)))
    assert f"no status of {cmp_certificate(ra.certificate).subject}" in world.events[-1].detail


@pytest.mark.requirement(12, 94)
async def test_a_repeat_is_the_devices_however_it_comes(world: World, ra: Credential) -> None:
    """Plain, nested, and nested anew are the same request: one certificate, one answer."""
    der = await request(world, world.device())
    first = await world.post(await nest(world, ra, der))
    assert first == await world.post(der)
    assert first == await world.post(await nest(world, ra, der))
    assert len(world.ca.received) == 1


@pytest.mark.requirement(122)
@pytest.mark.parametrize(
    "header, fail_info",
    [
        ({"transaction_id": bytes(16)}, "badRequest"),
        ({"sender_nonce": bytes(16)}, "badSenderNonce"),
    ],
)
async def test_ids_outside_and_inside_are_the_same(
    world: World, ra: Credential, header: dict[str, Any], fail_info: str
) -> None:
    """Another transactionID: badRequest; another senderNonce: badSenderNonce."""
    der = await nest(world, ra, await request(world, world.device()), **header)
    await assert_refused(world, der, fail_info, rule="R122")


@pytest.mark.requirement(13, 43)
async def test_nested_is_protected_by_signature(world: World, ra: Credential) -> None:
    """A MAC around a message is refused with wrongIntegrity, no protection with badMessageCheck."""
    der = await nest(world, ra, await request(world, world.device()))
    algorithm = asn1.tlv(0x30, asn1.oid_der(OID.passwordBasedMac))
    mac = unsigned(der, protection=bytes(20), protection_alg_der=algorithm)
    await assert_refused(world, mac, "wrongIntegrity", rule="R43")
    bare = unsigned(der, protection_alg_der=None)
    await assert_refused(world, bare, "badMessageCheck", rule="R13")


@pytest.mark.requirement(15)
async def test_a_changed_nested_is_refused(world: World, ra: Credential) -> None:
    """The signature around covers header and content: each changed octet is badMessageCheck."""
    der = await nest(world, ra, await request(world, world.device()))
    message = PKIMessage.from_der(der)
    for place in (message.body_der[-9:], (message.protection or b"")[-9:]):
        changed = bytearray(der)
        changed[der.index(place) + 4] ^= 1
        await assert_refused(world, bytes(changed), "badMessageCheck", rule="R15")


@pytest.mark.requirement(123)
async def test_devices_cannot_nest(world: World, operator_pki: OperatorPKI) -> None:
    """Neither by a vendor's nor by the operator's certificate, nor an RA that is not registered."""
    der = await request(world, world.device())
    for signer in (world.device("ENB-2"), world.operator.device(), local_ra(operator_pki, "No RA")):
        await assert_refused(world, await nest(world, signer, der), "notAuthorized", rule="R123")


@pytest.mark.requirement(21, 123)
async def test_strangers_cannot_nest(world: World, foreign_vendor_pki: VendorPKI) -> None:
    """Who has no path to any root is not trusted."""
    der = await nest(world, foreign_vendor_pki.device(), await request(world, world.device()))
    await assert_refused(world, der, "signerNotTrusted", rule="R21")


@pytest.mark.requirement(57, 123)
async def test_a_devices_ra_verified_stays_the_devices(world: World, ra: Credential) -> None:
    """Inside nested it is refused all the same: the RA signs around it and asserts nothing."""
    inner = await request(world, world.device(), popo_der=RA_VERIFIED_POPO_DER)
    answer = await world.ask(await nest(world, ra, inner))
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["notAuthorized"])
    assert world.events[-1].rule == "R57"
    assert world.ca.received == []


@pytest.mark.requirement(128)
async def test_nested_inside_nested_is_refused(world: World, ra: Credential) -> None:
    """One level is the depth."""
    once = await nest(world, ra, await request(world, world.device()))
    await assert_refused(world, await nest(world, ra, once), "badRequest", rule="R128")


@pytest.mark.requirement(9)
async def test_nested_is_for_endpoints_that_know_ras(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: Credential, make_world: MakeWorld
) -> None:
    """Without registered RAs, or where they may not nest, it is a type nobody supports."""
    for world in (World.make(vendor_pki, operator_pki), make_world(nested=False)):
        der = await nest(world, ra, await request(world, world.device()))
        await assert_refused(world, der, "badRequest", rule="R9")


async def test_what_is_inside_has_to_be_a_message(world: World, ra: Credential) -> None:
    """Nothing inside, or octets that are no PKIMessage, are refused."""
    ids = {"transaction_id": secrets.token_bytes(16), "sender_nonce": secrets.token_bytes(16)}
    inner = await request(world, world.device())
    for content, fail_info in (
        (nested_body(), "badDataFormat"),
        (nested_body(asn1.tlv(0x30)), "badDataFormat"),
        (body(BodyType.nested, asn1.tlv(0x04, b"?")), "badDataFormat"),
    ):
        der = await signed_again(await nest(world, ra, inner, **ids), ra, body_der=content)
        await assert_refused(world, der, fail_info)


@pytest.mark.requirement(29)
async def test_an_old_nested_is_refused(world: World, ra: Credential) -> None:
    """messageTime of the outer header counts as well."""
    inner = await request(world, world.device())
    der = await nest(world, ra, inner, message_time=world.clock() - timedelta(hours=1))
    await assert_refused(world, der, "badTime", rule="R29")


@pytest.mark.requirement(149)
async def test_a_single_message_has_the_label_of_what_is_inside(
    world: World, ra: Credential
) -> None:
    """.../nested is for batches."""
    inner = await request(world, world.device())
    der = await nest(world, ra, inner)
    for label, body_type in (
        ("nested", BodyType.error),
        ("keyupdate", BodyType.error),
        ("initialization", BodyType.ip),
    ):
        answer = await world.ask(der, operation=label)
        assert answer.body_type is body_type


# --- batches --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(125)
async def test_a_batch_is_answered_by_a_batch(world: World, ra: Credential) -> None:
    """One answer for each member in their order, refusals included; IDs of the batch outside, theirs inside."""
    good = [await request(world, world.device(f"ENB-{number}")) for number in range(3)]
    bad = await request(world, world.device("ENB-9"), popo_der=RA_VERIFIED_POPO_DER)
    relayed = await request(world, ra)
    sent = [good[0], bad, relayed, *good[1:]]
    der = await nest(world, ra, *sent)
    answer = await world.ask(der, operation="nested")
    assert_answers(world, PKIMessage.from_der(der), answer)
    found = await members(world, answer)
    for asked, told in zip(sent, found, strict=True):
        assert_answers(world, PKIMessage.from_der(asked), told)
    assert [status_of(told).issued for told in found] == [True, False, True, True, True]
    assert len(world.ca.issued) == 4
    assert [event.outcome for event in world.events].count(Outcome.batched) == 1
    assert len(world.events) == 6


@pytest.mark.requirement(125)
async def test_members_of_a_batch_are_asked_for_at_the_same_time(
    world: World, ra: Credential
) -> None:
    """All of them are at the CA before the first is answered."""
    world.ca.gate = asyncio.Event()
    sent = [await request(world, world.device(f"ENB-{number}")) for number in range(4)]
    task = asyncio.create_task(world.ask(await nest(world, ra, *sent)))
    for _ in range(100):
        await asyncio.sleep(0.01)
        if len(world.ca.received) == 4:
            break
    assert len(world.ca.received) == 4
    world.ca.gate.set()
    assert all(status_of(told).issued for told in await members(world, await task))


@pytest.mark.requirement(125)
async def test_a_batch_of_one_has_its_own_ids(world: World, ra: Credential) -> None:
    """Both IDs differ from those inside: it is a batch, and answered by one."""
    inner = await request(world, world.device())
    ids = {"transaction_id": secrets.token_bytes(16), "sender_nonce": secrets.token_bytes(16)}
    answer = await world.ask(await nest(world, ra, inner, **ids))
    (told,) = await members(world, answer)
    assert_answers(world, PKIMessage.from_der(inner), told)
    assert answer.header.transaction_id == ids["transaction_id"]


@pytest.mark.requirement(125)
async def test_certconf_and_rr_come_in_one_batch(world: World, ra: Credential) -> None:
    """Members need not be of one kind, nor of one step."""
    one, other = world.device(), world.operator.device()
    issued = await assert_served(world, await request(world, one))
    rr = await requests.message(
        world, cmp_credential(other), rev_req_body(details(cmp_certificate(other.certificate)))
    )
    answer = await world.ask(await nest(world, ra, await confirmation(world, one, issued), rr))
    found = await members(world, answer)
    assert [told.body_type for told in found] == [BodyType.pkiconf, BodyType.rp]


@pytest.mark.requirement(126)
async def test_the_same_id_twice_in_a_batch_is_refused(world: World, ra: Credential) -> None:
    """Of two members, or of a member and the batch: nobody could tell the answers apart."""
    ids = {"transaction_id": secrets.token_bytes(16)}
    twins = [await request(world, world.device(f"ENB-{number}"), **ids) for number in range(2)]
    await assert_refused(world, await nest(world, ra, *twins), "badRequest", rule="R126")
    others = [twins[0], await request(world, world.device("ENB-3"))]
    await assert_refused(world, await nest(world, ra, *others, **ids), "badRequest", rule="R126")


@pytest.mark.requirement(128)
async def test_nested_inside_a_batch_is_refused_for_itself(world: World, ra: Credential) -> None:
    """The others are served: to be in a batch with it is no fault of theirs."""
    once = await nest(world, ra, await request(world, world.device("ENB-1")))
    answer = await world.ask(await nest(world, ra, once, await request(world, world.device())))
    refused, served = await members(world, answer)
    assert fail_names(refused) == ["badRequest"]
    assert status_of(served).issued
    assert "R128" in {event.rule for event in world.events}


@pytest.mark.requirement(1, 125)
async def test_a_member_that_is_no_message_gets_an_answer_of_its_own(
    world: World, ra: Credential
) -> None:
    """badDataFormat in its place, and the others are served."""
    good = await request(world, world.device())
    der = await nest(world, ra, good, good)
    der = await signed_again(der, ra, body_der=nested_body(asn1.tlv(0x30), good))
    unreadable, served = await members(world, await world.ask(der))
    assert fail_names(unreadable) == ["badDataFormat"]
    assert status_of(served).issued


async def test_a_batch_has_a_largest_size(make_world: MakeWorld, ra: Credential) -> None:
    """One more message than configured, and the whole batch is refused."""
    world = make_world(batch_max=2)
    sent = [await request(world, world.device(f"ENB-{number}")) for number in range(3)]
    await assert_refused(world, await nest(world, ra, *sent), "badRequest")
    answer = await world.ask(await nest(world, ra, *sent[:2]))
    assert len(await members(world, answer)) == 2


@pytest.mark.requirement(149)
async def test_a_batch_has_a_label_of_its_own(world: World, ra: Credential) -> None:
    """.../nested takes batches, a label of one operation does not."""
    sent = [await request(world, world.device(f"ENB-{number}")) for number in range(2)]
    der = await nest(world, ra, *sent)
    assert fail_names(await world.ask(der, operation="initialization")) == ["badRequest"]
    assert (await world.ask(der, operation="nested")).body_type is BodyType.nested


@pytest.mark.requirement(114)
async def test_a_bug_in_one_member_harms_no_other(world: World, ra: Credential) -> None:
    """Whatever happens to one message, the batch is answered whole."""
    events: list[Any] = []
    gateway = make_gateway(world.endpoint, world.operator, world.store, world.clock, events)
    good = await request(world, world.device())
    failing = await request(world, world.device("ENB-2"))
    create = world.store.create

    async def broken(transaction: Any, **options: Any) -> Any:
        if transaction.key.transaction_id == PKIMessage.from_der(failing).header.transaction_id:
            raise RuntimeError("bug")
        return await create(transaction, **options)

    world.store.create = broken  # type: ignore[method-assign]
    answer = await world.ask(await nest(world, ra, failing, good), gateway=gateway)
    refused, served = await members(world, answer)
    assert fail_names(refused) == ["systemFailure"]
    assert status_of(served).issued


async def test_an_ra_may_leave_its_certificate_out(world: World, ra: Credential) -> None:
    """It is registered, and found without extraCerts."""
    sent = [await request(world, world.device(f"ENB-{number}")) for number in range(2)]
    answer = await world.ask(await nest(world, ra, *sent, extra_certs=()))
    assert len(await members(world, answer)) == 2
