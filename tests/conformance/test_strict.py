"""RFC 9483 to the letter: what a strict endpoint refuses that the others forgive."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import nested_body
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import (
    ENCR_CERT_POPO_DER,
    CertTemplate,
    cert_req_msg_der,
    cert_request_der,
)
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.settings import Approval
from tests.support import pki, requests
from tests.support.answers import fail_names, follow
from tests.support.asserts import assert_refused, assert_served, signed_again
from tests.support.chain import ALL_TYPES, nest, registered
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import SUBJECT, open_client, open_desk
from tests.support.harness import World
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.polling import Operation

MakeWorld = Callable[..., World]
FORGIVING = (Strictness.lenient, Strictness.three_gpp)


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI, ra: pki.Credential) -> MakeWorld:
    def make(strictness: Strictness = Strictness.strict, **endpoint: Any) -> World:
        return World.make(
            vendor_pki,
            operator_pki,
            rules=HeaderRules(strictness=strictness),
            endpoint={
                "body_types": ALL_TYPES,
                "registration_authorities": registered(operator_pki, ra),
                **endpoint,
            },
        )

    return make


async def ir(world: World, **header: Any) -> bytes:
    return await requests.request(world, cmp_credential(world.device()), make_key("p256"), **header)


# --- nested ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(5, 6, 126)
@pytest.mark.parametrize(
    "change, fail_info",
    [
        ({"transaction_id": b"\x01"}, "badDataFormat"),
        ({"sender_nonce": b"\x01"}, "badSenderNonce"),
        ({"recip_nonce": bytes(16)}, "badRecipientNonce"),
    ],
)
async def test_a_batch_has_ids_of_an_ras_own(
    make_world: MakeWorld, ra: pki.Credential, change: dict[str, bytes], fail_info: str
) -> None:
    """What devices are forgiven is nothing that an RA needs."""
    world = make_world()
    der = await nest(world, ra, await ir(world), await ir(world), **change)
    await assert_refused(world, der, fail_info)
    if "sender_nonce" in change:
        return
    for strictness in FORGIVING:
        world = make_world(strictness)
        der = await nest(world, ra, await ir(world), await ir(world), **change)
        assert (await world.ask(der)).body_type is BodyType.nested


@pytest.mark.requirement(4, 122)
async def test_a_message_inside_has_a_transaction_id(
    make_world: MakeWorld, ra: pki.Credential
) -> None:
    """badDataFormat, and not that two IDs differ."""
    world = make_world()
    inner = await ir(world, transaction_id=None)
    header = {"transaction_id": secrets.token_bytes(16)}
    await assert_refused(world, await nest(world, ra, inner, **header), "badDataFormat", rule="R4")


# --- generalInfo ----------------------------------------------------------------------------------------------


@pytest.mark.requirement(31)
@pytest.mark.parametrize(
    "value_der", [asn1.encode("soon"), b"\x02\x01\x05", b"\x17\x0d260101000000Z"]
)
async def test_confirm_wait_time_is_a_generalized_time(
    make_world: MakeWorld, value_der: bytes
) -> None:
    """badDataFormat, in an error."""
    info = (InfoTypeAndValue(OID.confirmWaitTime, value_der),)
    world = make_world()
    await assert_refused(world, await ir(world, general_info=info), "badDataFormat")
    for strictness in FORGIVING:
        world = make_world(strictness)
        await assert_served(world, await ir(world, general_info=info))


@pytest.mark.requirement(64)
@pytest.mark.parametrize("value_der", [asn1.encode("eNB"), b"\x30\x05\x13\x03eNB", b"\x05\x00"])
async def test_cert_profile_is_a_list_of_utf8_strings(
    make_world: MakeWorld, value_der: bytes
) -> None:
    """badDataFormat, wherever."""
    info = (InfoTypeAndValue(OID.certProfile, value_der),)
    for strictness in Strictness:
        world = make_world(strictness)
        await assert_refused(world, await ir(world, general_info=info), "badDataFormat", rule="R1")


# --- what follows ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(37)
async def test_a_certconf_has_a_nonce_of_its_own(make_world: MakeWorld) -> None:
    """badSenderNonce; with another one it is taken."""
    for strictness in Strictness:
        world = make_world(strictness)
        device = world.device()
        der = await requests.request(world, cmp_credential(device), make_key("p256"))
        answer = await assert_served(world, der)
        nonce = PKIMessage.from_der(der).header.sender_nonce
        confirmation = await requests.confirmation(world, device, answer)
        replayed = await signed_again(confirmation, device, sender_nonce=nonce)
        if strictness is Strictness.strict:
            await assert_refused(world, replayed, "badSenderNonce", rule="R37")
            assert (await world.ask(confirmation)).body_type is BodyType.pkiconf
        else:
            assert (await world.ask(replayed)).body_type is BodyType.pkiconf


@pytest.mark.requirement(37, 117)
async def test_a_poll_req_has_a_nonce_of_its_own(make_world: MakeWorld) -> None:
    """badSenderNonce; the next pollReq is taken."""
    for strictness in Strictness:
        world = make_world(strictness, approval=Approval.required)
        operation = await Operation.begin(world, BodyType.ir)
        operation.answer = await world.ask(operation.sent)
        operation.assert_waiting()
        nonce = PKIMessage.from_der(operation.sent).header.sender_nonce
        replayed = await operation.poll_req(sender_nonce=nonce)
        if strictness is Strictness.strict:
            await assert_refused(world, replayed, "badSenderNonce", rule="R37")
            await operation.poll()
        else:
            operation.answer = await world.ask(replayed)
        operation.assert_not_yet()


@pytest.mark.requirement(37)
@pytest.mark.parametrize("strictness", [Strictness.lenient, Strictness.strict])
async def test_the_bundled_ca_wants_a_new_nonce_in_a_certconf(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, strictness: Strictness
) -> None:
    """From its own devices."""
    rules = HeaderRules(strictness=strictness)
    async with open_client(operator_pki, vendor_pki, tmp_path / "client.db", rules=rules) as desk:
        issued = await desk.enrol(template=CertTemplate(subject_der=from_rfc4514(SUBJECT)))
        nonce = PKIMessage.from_der(issued.request).header.sender_nonce
        replayed = await desk.confirmation(issued, sender_nonce=nonce)
        if strictness is Strictness.strict:
            assert await desk.refused(replayed) == (BodyType.error, PKIFailureInfo.badSenderNonce)
            await desk.confirm(issued)
        else:
            assert (await desk.send(replayed)).body_type is BodyType.pkiconf


@pytest.mark.requirement(107)
async def test_a_pkcs10_is_confirmed_by_minus_one(make_world: MakeWorld) -> None:
    """Erratum 8806; elsewhere 0 does as well."""
    for strictness in Strictness:
        world = make_world(strictness)
        device = world.operator.device()
        names = requests.csr(make_key("p256"), cmp_certificate(device.certificate).subject)
        answer = await assert_served(world, await requests.p10cr(world, device, names))
        der = await follow(device, answer, requests.confirmation_body(answer, 0), now=world.clock())
        if strictness is Strictness.strict:
            assert fail_names(await world.ask(der)) == ["badRequest"]
            der = await follow(
                device, answer, requests.confirmation_body(answer, -1), now=world.clock()
            )
        assert (await world.ask(der)).body_type is BodyType.pkiconf


# --- keys -----------------------------------------------------------------------------------------------------


def rsa_spki(bits: int) -> bytes:
    """An RSA key of so many bits that nobody has."""
    modulus = (1 << (bits - 1)) | 1
    key = asn1.tlv(0x30, asn1.encode(modulus), asn1.encode(65537))
    algorithm = asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.1.1"), b"\x05\x00")
    return asn1.tlv(0x30, algorithm, asn1.tlv(0x03, b"\x00", key))


@pytest.mark.requirement(61)
@pytest.mark.parametrize("bits", [8193, 18_000, 60_000])
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.p10cr])
async def test_an_rsa_key_that_is_too_long(
    make_world: MakeWorld, bits: int, body_type: BodyType
) -> None:
    """badCertTemplate, before anything is computed with it."""
    world = make_world(Strictness.lenient)
    signer = cmp_credential(
        world.operator.device() if body_type is BodyType.p10cr else world.device()
    )
    proof = b"\x03\x02\x00\x01"
    algorithm = asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.1.11"), b"\x05\x00")
    if body_type is BodyType.ir:
        asked = requests.template(make_key("p256"))
        popo = asn1.tlv(0xA1, algorithm, proof)
        der = await requests.request(
            world, signer, make_key("p256"), replace(asked, spki_der=rsa_spki(bits)), popo_der=popo
        )
    else:
        info = asn1.tlv(
            0x30,
            asn1.encode(0),
            from_rfc4514(requests.SUBJECT),
            rsa_spki(bits),
            b"\xa0\x00",
        )
        der = await requests.p10cr(world, signer, asn1.tlv(0x30, info, algorithm, proof))
    answer_type = BodyType.ip if body_type is BodyType.ir else BodyType.cp
    await assert_refused(world, der, "badCertTemplate", body_type=answer_type)


@pytest.mark.requirement(61)
async def test_the_bundled_ca_certifies_no_such_key(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """In both modes, whatever the proof of possession."""
    template = CertTemplate(subject_der=from_rfc4514(SUBJECT), spki_der=rsa_spki(18_000))
    algorithm = asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.1.11"), b"\x05\x00")
    for opened in (
        open_desk(operator_pki, tmp_path / "ledger.db"),
        open_client(operator_pki, vendor_pki, tmp_path / "client.db"),
    ):
        async with opened as desk:
            for popo in (asn1.tlv(0xA1, algorithm, b"\x03\x02\x00\x01"), ENCR_CERT_POPO_DER):
                message = cert_req_msg_der(cert_request_der(template), popo)
                content = requests.requests_body(message)
                der = await desk.signed(desk.header(pvno=3), content)
                assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)


@pytest.mark.requirement(6, 126)
async def test_the_bundled_ca_reads_the_ids_of_a_batch(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """A nonce of one octet is badSenderNonce, though a device's behind an RA would be forgiven."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        short = desk.header(sender_nonce=b"\x01")
        members = [await desk.request(), await desk.request()]
        batch = await desk.signed(short, nested_body(*members))
        assert await desk.refused(batch) == (BodyType.error, PKIFailureInfo.badSenderNonce)
        assert (await desk.enrol(header=short)).answer.body_type is BodyType.ip
