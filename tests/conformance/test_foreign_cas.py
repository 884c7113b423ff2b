"""CAs of other makers behind the gateway, which read its messages more closely than the scripted one does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_confirm_content,
    cert_rep_body,
    cert_rep_message,
    error_body,
    nested_messages,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.forwarding import revocation_for_ca
from ra_gateway.ra.services import MappedIDs
from ra_gateway.ra.settings import Approval, CaPubs, CertConf, Variant
from ra_gateway.ra.transaction import State, Transaction
from tests.support.answers import fail_names, status_of
from tests.support.chain import ALL_TYPES, local_ra, nest, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.foreign import AttentiveCA
from tests.support.harness import Answer, ManualClock, World, changed, make_gateway
from tests.support.pki import Credential, OperatorPKI, VendorPKI
from tests.support.polling import REQUESTS, Operation, WaitingCA, approve

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


@pytest.mark.requirement(73, 76)
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("variant", WAYS)
async def test_the_whole_chain_goes_up_where_it_is_wanted(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, variant: Variant, wanted: bool
) -> None:
    """The root of the RA certificate last, in every message to the CA; the device gets what it always does."""
    world, ca = attentive_world(vendor_pki, operator_pki, variant)
    root = cmp_certificate(operator_pki.root.certificate)
    credential = replace(cmp_credential(operator_pki.ra), root=root)
    upstream = changed(world.endpoint.upstream, send_root=wanted)
    endpoint = replace(world.endpoint, upstream=upstream)
    world.gateway = make_gateway(
        endpoint, operator_pki, world.store, world.clock, world.events, credential=credential
    )
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    chain = [*credential.certificates, *([root.der] if wanted else [])]
    assert [list(item.extra_certs) for item in ca.messages] == [chain, chain]
    rr = await revocation_for_ca(
        upstream, ca.issued[0], credential, MappedIDs(bytes(16), bytes(16)), world.clock()
    )
    assert list(PKIMessage.from_der(rr).extra_certs) == chain


# --- a CA that takes ir from devices alone --------------------------------------------------------------------


def no_ir(answer: Answer) -> None:
    """As Trustpoint: from an RA, a first certificate is asked for by cr."""
    if answer.request.body_type is BodyType.ir:
        no = PKIStatusInfo(PKIStatus.rejection, ("IDevID expected",), (PKIFailureInfo.badRequest,))
        answer.body_der = error_body(no)


def as_cr(vendor: VendorPKI, operator: OperatorPKI, **options: Any) -> World:
    """A gateway in front of such a CA."""
    clock = ManualClock()
    ca = options.pop("ca", AttentiveCA)(operator, clock, script=no_ir)
    return World.make(
        vendor,
        operator,
        clock=clock,
        ca=ca,
        endpoint={"body_types": ALL_TYPES, **options.pop("endpoint", {})},
        upstream={"ir_as_cr": True, **options.pop("upstream", {})},
        **options,
    )


@pytest.mark.requirement(73, 85, 93)
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("ids", ["keep", "map"])
@pytest.mark.parametrize("ca_pubs", list(CaPubs))
async def test_an_ir_goes_up_as_cr(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, ids: str, takes: bool, ca_pubs: CaPubs
) -> None:
    """Its device gets an ip, and confirms it; its retransmissions get the same octets."""
    world = as_cr(vendor_pki, operator_pki, upstream={"ids": ids}, endpoint={"ca_pubs": ca_pubs})
    operation = await Operation.begin(world, BodyType.ir)
    answer = await operation.send()
    assert (answer.body_type, status_of(answer).issued) == (BodyType.ip, True)
    (up,) = world.ca.messages
    sent = PKIMessage.from_der(operation.sent)
    assert (up.body_type, up.body_content) == (BodyType.cr, sent.body_content)
    assert bool(cert_rep_message(answer.body_content).ca_pubs) is (ca_pubs is CaPubs.root)
    assert operator_pki.root.der in answer.extra_certs
    assert (await operation.send()).der == answer.der
    assert (await operation.confirm(takes=takes)).body_type is BodyType.pkiconf
    assert [item.body_type for item in world.ca.messages] == [BodyType.cr, BodyType.certConf]
    assert (await operation.stored()).state is (State.CONFIRMED if takes else State.REJECTED)
    assert [item.outcome for item in world.events][:1] == ["issued"]


@pytest.mark.requirement(89, 112)
@pytest.mark.parametrize("by_error", [True, False])
async def test_a_no_to_an_ir_that_went_up_as_cr(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, by_error: bool
) -> None:
    """In an ip as well, with the CA's failInfo."""
    world = as_cr(vendor_pki, operator_pki)
    no = PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.badCertTemplate,))

    def script(answer: Answer) -> None:
        if by_error:
            answer.body_der = error_body(no)
        else:
            answer.reject(PKIFailureInfo.badCertTemplate)

    world.ca.script = script
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badCertTemplate"])


@pytest.mark.requirement(85)
async def test_an_ip_to_what_went_up_as_cr_is_not_believed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """The CA has to answer what it was asked."""
    world = as_cr(vendor_pki, operator_pki)
    world.ca.script = lambda answer: setattr(
        answer, "body_der", cert_rep_body(BodyType.ip, answer.content)
    )
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])


@pytest.mark.requirement(116, 117, 118)
async def test_an_ir_that_went_up_as_cr_is_polled_for(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """The CA's waiting in cp is one in ip for the device."""
    world = as_cr(vendor_pki, operator_pki, ca=WaitingCA)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    await operation.poll()
    operation.assert_not_yet(seconds=7)
    answer = await operation.poll()
    assert (answer.body_type, status_of(answer).issued) == (BodyType.ip, True)
    await operation.confirm()
    operation.assert_waiting()
    assert (await operation.poll()).body_type is BodyType.pkiconf


@pytest.mark.requirement(94, 145)
async def test_an_ir_that_was_held_goes_up_as_cr(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Once an operator has approved it."""
    world = as_cr(vendor_pki, operator_pki, endpoint={"approval": Approval.required})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    await approve(world)
    answer = await operation.poll()
    assert (answer.body_type, status_of(answer).issued) == (BodyType.ip, True)
    assert world.ca.messages[0].body_type is BodyType.cr


@pytest.mark.requirement(82, 98)
async def test_implicit_confirmation_of_an_ir_that_went_up_as_cr(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """Asked of the CA; the RA answers certConf."""
    world = as_cr(vendor_pki, operator_pki, upstream={"certconf": CertConf.implicit})
    operation = await Operation.begin(world, BodyType.ir)
    assert (await operation.send()).body_type is BodyType.ip
    assert world.ca.messages[0].header.implicit_confirm
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert len(world.ca.received) == 1


async def test_other_requests_go_up_as_they_are(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """cr, kur and p10cr; and a transaction keeps to what it was begun with."""
    world = as_cr(vendor_pki, operator_pki)
    for body_type in (BodyType.cr, BodyType.kur, BodyType.p10cr):
        answer = await (await Operation.begin(world, body_type)).send()
        assert answer.body_type is CERT_RESPONSE_TO[body_type]
    stored = await (await Operation.begin(world, BodyType.ir)).send()
    (found,) = await world.store.find(stored.header.transaction_id or b"")
    assert Transaction.from_fields(found.to_fields()).asked_type is BodyType.cr


# --- Siemens' RA between the gateway and its CA ---------------------------------------------------------------


def behind(
    vendor: VendorPKI, operator: OperatorPKI, **upstream: Any
) -> tuple[World, AttentiveCA, list[int]]:
    """A gateway whose CA is behind another RA, which signs its answers and has certReqId 0 in each of them."""
    clock = ManualClock()
    siemens = cmp_credential(local_ra(operator, "Siemens RA"))
    told: list[int] = []

    def script(answer: Answer) -> None:
        answer.credential = siemens
        answer.extra_certs = siemens.certificates
        if answer.body_der[0] & 0x1F in CERT_RESPONSE_TO.values():
            answer.set_response(cert_req_id=0)
        if answer.request.body_type is BodyType.certConf:
            (status,) = cert_confirm_content(answer.request.body_content)
            told.append(status.cert_req_id)

    ca = AttentiveCA(operator, clock, script=script)
    world = World.make(
        vendor,
        operator,
        clock=clock,
        ca=ca,
        vendor_domain={"quirks": frozenset({"short_ids"})},
        endpoint={"body_types": ALL_TYPES},
        upstream={"pinned": (siemens.certificate,), "ids": "map", **upstream},
    )
    return world, ca, told


@pytest.mark.requirement(73, 80, 84)
@pytest.mark.parametrize("body_type", sorted(ALL_TYPES), ids=lambda item: item.name)
async def test_every_operation_through_siemens_ra(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, body_type: BodyType
) -> None:
    """Its signature is believed as it is named; it sees no short ID, and its own certReqId again in certConf."""
    world, ca, told = behind(vendor_pki, operator_pki)
    from_vendor = body_type in (BodyType.ir, BodyType.p10cr, BodyType.cr)
    ids = {"transaction_id": b"\0\0\0\1", "sender_nonce": b"\0\0\0\2"} if from_vendor else {}
    operation = await Operation.begin(world, body_type, **ids)
    answer = await operation.send()
    assert (answer.body_type, ca.faults) == (RESPONSE_TO[body_type], []), world.events[-1].detail
    if body_type in CERT_RESPONSE_TO:
        assert (await operation.confirm()).body_type is BodyType.pkiconf, world.events[-1].detail
        assert (ca.faults, told) == ([], [0])


@pytest.mark.requirement(75, 76, 81)
@pytest.mark.parametrize("kur", list(Variant))
async def test_a_kur_through_siemens_ra(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, kur: Variant
) -> None:
    """Under the gateway's signature, inside it, or as it came."""
    world, ca, _ = behind(vendor_pki, operator_pki, kur=kur)
    operation = await Operation.begin(world, BodyType.kur)
    answer = await operation.send()
    if kur is Variant.forward:
        # Nobody but the device signed it: this RA wants a registered one in front of it.
        assert ca.faults == ["kur: badMessageCheck"]
        return
    assert status_of(answer).issued, world.events[-1].detail
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert ca.faults == []
