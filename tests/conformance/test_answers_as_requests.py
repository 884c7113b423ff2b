"""What an RA signs in answer to anybody, sent by a stranger to the RA above it as if it were a request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import PKIStatusInfo, error_body, nested_body, nested_messages
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, assemble, body
from ra_gateway.cmp.protection import protect
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.settings import Unconfirmed, Variant
from ra_gateway.ra.transaction import State
from tests.support import requests
from tests.support.answers import fail_names, follow
from tests.support.chain import ENDPOINT, Chain, local_ra, make_chain, nest, registered
from tests.support.credentials import cmp_credential
from tests.support.harness import World
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_key
from tests.support.unconfirmed import revocations, work

Spoiled = Callable[[PKIHeader], bytes]
"""Makes of a header a message that anybody can send, and that gets an error."""


def unprotected(header: PKIHeader) -> bytes:
    return assemble(header.to_der(), body(BodyType.pollReq, asn1.tlv(0x30)), None)


def unprotected_request(header: PKIHeader) -> bytes:
    return assemble(header.to_der(), body(BodyType.ir, asn1.tlv(0x30)), None)


def unreadable(header: PKIHeader) -> bytes:
    return asn1.tlv(0x30, header.to_der(), b"\xb9\x00", b"\xa1\x02\x30\x00")


SUBJECTS = {
    BodyType.ir: requests.SUBJECT,
    BodyType.kur: "CN=enb-7,O=Example Operator",
}

SPOILED = [unprotected, unprotected_request, unreadable]


async def answered(world: World, der: bytes) -> PKIMessage:
    reply = await world.gateway.handle(der, endpoint=ENDPOINT, peer="203.0.113.66")
    return PKIMessage.from_der(reply.der)


async def issued(chain: Chain, device: Credential, body_type: BodyType = BodyType.ir) -> PKIMessage:
    """Return the answer that brings a device its certificate through both."""
    credential, key = cmp_credential(device), make_key("p256")
    der = await requests.request(
        chain.lower,
        credential,
        key,
        requests.template(key, SUBJECTS[body_type]),
        body_type=body_type,
        sender_kid=credential.certificate.subject_key_identifier,
    )
    answer = await answered(chain.lower, der)
    assert answer.body_type is {BodyType.ir: BodyType.ip, BodyType.kur: BodyType.kup}[body_type]
    return answer


async def signed_error(chain: Chain, answer: PKIMessage, spoiled: Spoiled) -> bytes:
    """Return an error that the lower RA signs for a stranger who saw an answer: with its transactionID and nonce."""
    seen = PKIHeader(
        sender_der=ANYONE,
        recipient_der=ANYONE,
        transaction_id=answer.header.transaction_id,
        sender_nonce=answer.header.sender_nonce,
    )
    error = await answered(chain.lower, spoiled(seen))
    assert error.body_type is BodyType.error
    assert error.protection is not None
    return error.der


async def nested(chain: Chain, der: bytes) -> bytes:
    """Return a message inside nested, as the lower RA wraps it."""
    header = PKIMessage.from_der(der).header
    outer = PKIHeader(
        sender_der=chain.ra.sender_der,
        recipient_der=ANYONE,
        message_time=chain.lower.clock(),
        transaction_id=header.transaction_id,
        sender_nonce=header.sender_nonce,
        recip_nonce=header.recip_nonce,
    )
    return await protect(outer, nested_body(der), chain.ra, chain.ra.certificates)


async def assert_nothing_ended(chain: Chain, device: Credential, answer: PKIMessage) -> None:
    """The device can still confirm what it got, at both."""
    for world in (chain.upper, chain.lower):
        (found,) = await world.store.find(answer.header.transaction_id or b"")
        assert found.state is State.ISSUED
    sent = await requests.confirmation(chain.lower, device, answer)
    assert (await answered(chain.lower, sent)).body_type is BodyType.pkiconf
    assert (chain.upper.events[-1].body_type, chain.upper.events[-1].outcome) == (
        "certConf",
        "confirmed",
    )


@pytest.mark.requirement(92, 115)
@pytest.mark.parametrize("spoiled", SPOILED, ids=lambda item: item.__name__)
async def test_an_error_that_an_ra_signed_for_a_stranger_ends_nothing(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, spoiled: Spoiled
) -> None:
    """An ir that goes up under the RA's own signature; nothing is revoked for it either."""
    chain = make_chain(
        vendor_pki, operator_pki, upper={"upstream": {"unconfirmed": Unconfirmed.revoke}}
    )
    device = chain.lower.device()
    answer = await issued(chain, device)
    error = await signed_error(chain, answer, spoiled)
    refusal = await answered(chain.upper, error)
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    await work(chain.upper, seconds=1)
    assert revocations(chain.upper) == []
    await assert_nothing_ended(chain, device, answer)


@pytest.mark.requirement(92, 115)
@pytest.mark.parametrize("variant", list(Variant), ids=lambda item: item.name)
async def test_nor_does_it_for_a_renewal_however_it_went_up(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, variant: Variant
) -> None:
    """A kur that the RA signs, nests, or passes on as it came."""
    chain = make_chain(vendor_pki, operator_pki, lower={"upstream": {"kur": variant}})
    device = operator_pki.device("enb-7")
    answer = await issued(chain, device, BodyType.kur)
    error = await signed_error(chain, answer, unreadable)
    refusal = await answered(chain.upper, error)
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    await assert_nothing_ended(chain, device, answer)


@pytest.mark.requirement(92, 115)
async def test_nor_when_an_ra_nests_it(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> None:
    """What is inside counts by whose signature it has; the device's own error still ends its transaction."""
    chain = make_chain(vendor_pki, operator_pki, lower={"upstream": {"kur": Variant.nested}})
    device = operator_pki.device("enb-7")
    answer = await issued(chain, device, BodyType.kur)
    error = await signed_error(chain, answer, unreadable)
    refusal = await answered(chain.upper, await nested(chain, error))
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    (found,) = await chain.upper.store.find(answer.header.transaction_id or b"")
    assert found.state is State.ISSUED
    no = error_body(PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.incorrectData,)))
    own = await follow(device, answer, no, now=chain.lower.clock())
    ended = await answered(chain.upper, await nested(chain, own))
    assert ended.body_type is BodyType.pkiconf


@pytest.mark.requirement(9, 92, 115)
async def test_no_other_answer_of_an_ra_is_taken_for_a_request(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """The ip itself, and the nested that answers a batch, which the upper RA takes apart as one."""
    site = local_ra(operator_pki, "Site RA")
    below = {"endpoint": {"registration_authorities": registered(operator_pki, site)}}
    chain = make_chain(vendor_pki, operator_pki, lower=below)
    device = chain.lower.device()
    answer = await issued(chain, device)
    refusal = await answered(chain.upper, answer.der)
    assert (refusal.body_type, fail_names(refusal)) == (BodyType.error, ["badRequest"])
    seen = PKIHeader(
        sender_der=ANYONE,
        recipient_der=ANYONE,
        transaction_id=answer.header.transaction_id,
        sender_nonce=answer.header.sender_nonce,
    )
    other = replace(seen, transaction_id=bytes(16))
    batch = await nest(chain.lower, site, unprotected(seen), unreadable(other))
    told = await answered(chain.lower, batch)
    assert told.body_type is BodyType.nested
    inside = [
        PKIMessage.from_der(item)
        for item in nested_messages((await answered(chain.upper, told.der)).body_content)
    ]
    assert [(item.body_type, *fail_names(item)) for item in inside] == [
        (BodyType.error, "badRequest")
    ] * 2
    await assert_nothing_ended(chain, device, answer)
