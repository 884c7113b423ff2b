"""What RFC 9810 allows and its profiles do not: taken by a lenient endpoint, refused by the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ra_gateway.ca.records import CertificateStatus
from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import cert_confirm_content, gen_msg_content
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertTemplate, cert_req_msg_der
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import PKIMessage, body
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.ra.general_messages import Information
from ra_gateway.ra.settings import Approval, Informing, Variant
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.asserts import assert_refused, assert_served
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import Desk, enrolled
from tests.support.harness import World
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.polling import EVERY_TYPE, Operation, approve

MakeWorld = Callable[..., World]
OTHERS = (Strictness.three_gpp, Strictness.strict)


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    def make(strictness: Strictness = Strictness.lenient, **options: Any) -> World:
        return World.make(
            vendor_pki,
            operator_pki,
            rules=HeaderRules(strictness=strictness),
            endpoint={"body_types": EVERY_TYPE, **options},
        )

    return make


# --- rr -------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(132)
async def test_an_rr_need_not_say_why(make_world: MakeWorld) -> None:
    """crlEntryDetails is OPTIONAL (RFC 9810 5.3.9)."""
    world = make_world()
    device = world.operator.device()
    asked = requests.details(cmp_certificate(device.certificate), reason=None)
    answer = await world.ask(await requests.rr(world, device, asked))
    assert status_of(answer).status is PKIStatus.accepted
    for strictness in OTHERS:
        world = make_world(strictness)
        der = await requests.rr(world, device, asked)
        await assert_refused(world, der, "badRequest", rule="R132", body_type=BodyType.rp)


@pytest.mark.requirement(132)
async def test_the_bundled_ca_revokes_without_a_reason(ca: Desk, client: Desk) -> None:
    """For an RA, and for the device itself."""
    issued = await ca.enrol()
    answer = await ca.send(await ca.revocation(issued.certificate, reason=None))
    assert status_of(answer).status is PKIStatus.accepted
    assert await ca.status(issued.certificate) is CertificateStatus.revoked
    own = await enrolled(client, template=CertTemplate())
    der = await client.revocation(own.certificate, reason=None, signer=own.entity)
    assert status_of(await client.send(der)).status is PKIStatus.accepted


# --- certConf -------------------------------------------------------------------------------------------------


EMPTY = body(BodyType.certConf, asn1.tlv(0x30))


@pytest.mark.requirement(101, 106)
async def test_a_certconf_without_a_status_rejects(make_world: MakeWorld) -> None:
    """RFC 9810 5.3.18; the CA is told in words."""
    world = make_world()
    device = world.device()
    ir = await requests.request(world, cmp_credential(device), make_key("p256"))
    answer = await assert_served(world, ir)
    done = await world.ask(await follow(device, answer, EMPTY, now=world.clock()))
    assert done.body_type is BodyType.pkiconf
    assert [event.outcome for event in world.events] == ["issued", "rejected"]
    (status,) = cert_confirm_content(world.ca.messages[-1].body_content)
    assert status.status_info is not None
    assert (status.status_info.status, len(status.cert_hash)) == (PKIStatus.rejection, 32)
    for strictness in OTHERS:
        world = make_world(strictness)
        ir = await requests.request(world, cmp_credential(device), make_key("p256"))
        answer = await assert_served(world, ir)
        der = await follow(device, answer, EMPTY, now=world.clock())
        refused = await world.ask(der)
        assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badRequest"])


@pytest.mark.requirement(101, 106)
async def test_the_bundled_ca_takes_it_too(ca: Desk, client: Desk) -> None:
    """The certificate is rejected."""
    for desk, asked in ((ca, None), (client, CertTemplate())):
        issued = await desk.enrol(template=asked)
        answer = await desk.send(await desk.confirmation(issued, body_der=EMPTY))
        assert answer.body_type is BodyType.pkiconf
        assert await desk.status(issued.certificate) is CertificateStatus.rejected


# --- transactionID --------------------------------------------------------------------------------------------


@pytest.fixture
def device(vendor_pki: VendorPKI) -> Credential:
    return cmp_credential(vendor_pki.device("ENB-1"))


@pytest.mark.requirement(4)
@pytest.mark.parametrize("none", [None, b""])
async def test_who_has_no_transaction_id_is_given_one(
    make_world: MakeWorld, none: bytes | None
) -> None:
    """The same for the same message, so that it gets one certificate; the rest of the dialogue goes by it."""
    world = make_world()
    device = world.device()
    der = await requests.request(
        world, cmp_credential(device), make_key("p256"), transaction_id=none
    )
    answer = await world.ask(der)
    given = answer.header.transaction_id
    assert given is not None
    assert len(given) == 16
    assert world.ca.messages[0].header.transaction_id == given
    assert await world.ask(der) == answer
    assert len(world.ca.received) == 1
    confirmed = await world.ask(await requests.confirmation(world, device, answer))
    assert confirmed.body_type is BodyType.pkiconf
    assert {event.transaction_id for event in world.events} == {given.hex()}


@pytest.mark.requirement(4)
async def test_a_held_request_without_transaction_id(make_world: MakeWorld) -> None:
    """It keeps what it was given."""
    world = make_world(approval=Approval.required)
    operation = await Operation.begin(world, BodyType.ir, transaction_id=None)
    await operation.send()
    await approve(world)
    await operation.poll()
    assert operation.answer.body_type is BodyType.ip
    assert status_of(operation.answer).issued


@pytest.mark.requirement(4)
async def test_only_what_goes_up_under_the_ras_own_protection(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Unchanged, it would have none at the CA either, or another."""
    world = World.make(vendor_pki, operator_pki, upstream={"requests": Variant.nested})
    der = await requests.request(
        world, cmp_credential(world.device()), make_key("p256"), transaction_id=None
    )
    answer = await world.ask(der)
    assert fail_names(answer) == ["badDataFormat"]
    assert world.ca.received == []


@pytest.mark.requirement(4)
async def test_other_endpoints_want_one(make_world: MakeWorld, device: Credential) -> None:
    """badDataFormat; and of what continues an operation always."""
    for strictness in OTHERS:
        world = make_world(strictness)
        der = await requests.request(world, device, make_key("p256"), transaction_id=None)
        await assert_refused(world, der, "badDataFormat", rule="R4")
    world = make_world()
    certconf = await requests.message(world, device, EMPTY, transaction_id=None)
    assert fail_names(await world.ask(certconf)) == ["badDataFormat"]


@pytest.mark.requirement(4)
async def test_the_bundled_ca_gives_one(ca: Desk, client: Desk) -> None:
    """In both modes; certConf comes with it."""
    for desk, asked in ((ca, None), (client, CertTemplate())):
        issued = await desk.enrol(header=desk.header(transaction_id=None), template=asked)
        assert len(issued.answer.header.transaction_id or b"") == 16
        again = PKIMessage.from_der((await desk.ca.handle(issued.request, mode=desk.mode)).der)
        assert again == issued.answer
        await desk.confirm(issued)


# --- templates ------------------------------------------------------------------------------------------------


async def without_times() -> bytes:
    """A CertReqMsg as ONAP's CertService sends it, with a validity of no times."""
    key = make_key("p256")
    template = asn1.tlv(
        0x30,
        b"\xa4\x00",
        asn1.tlv(0xA5, from_rfc4514(requests.SUBJECT)),
        asn1.tlv(0xA6, asn1.inner(requests.spki(key))),
    )
    request = asn1.tlv(0x30, asn1.encode(0), template)
    return cert_req_msg_der(request, await requests.popo(request, key))


async def test_a_validity_of_no_times_says_nothing(
    make_world: MakeWorld, device: Credential, ca: Desk
) -> None:
    """badCertTemplate where RFC 4211 5 is read to the letter."""
    content = requests.requests_body(await without_times())
    world = make_world()
    await assert_served(world, await requests.message(world, device, content))
    for strictness in OTHERS:
        world = make_world(strictness)
        der = await requests.message(world, device, content)
        await assert_refused(
            world, der, "badCertTemplate", rule="RFC 4211 5", body_type=BodyType.ip
        )
    assert status_of(await ca.send(await ca.signed(ca.header(), content))).issued


# --- genm -----------------------------------------------------------------------------------------------------

NOTHING = body(BodyType.genm, asn1.tlv(0x30))


@pytest.mark.requirement(138)
async def test_a_genm_that_asks_nothing_is_told_what_there_is(make_world: MakeWorld) -> None:
    """RFC 9810 5.3.19: the server tells what it wishes."""
    told = Information(
        ways={OID.caCerts: Informing.local, OID.certReqTemplate: Informing.local},
        ca_certificates=(cmp_certificate(make_world().operator.issuing.certificate).der,),
    )
    world = make_world(information=told)
    device = cmp_credential(world.operator.device())
    answer = await world.ask(await requests.message(world, device, NOTHING))
    assert answer.body_type is BodyType.genp
    (item,) = gen_msg_content(answer.body_content)
    assert (item.info_type, item.value_der) == (
        OID.caCerts,
        asn1.tlv(0x30, *told.ca_certificates),
    )
    assert world.ca.received == []
    for strictness in OTHERS:
        world = make_world(strictness, information=told)
        der = await requests.message(world, device, NOTHING)
        await assert_refused(world, der, "badRequest", rule="R138")


@pytest.mark.requirement(138)
async def test_the_bundled_ca_tells_what_there_is(ca: Desk) -> None:
    """A genp, also where there is nothing to tell."""
    answer = await ca.send(await ca.signed(ca.header(), NOTHING))
    assert answer.body_type is BodyType.genp
    assert gen_msg_content(answer.body_content) == ()
