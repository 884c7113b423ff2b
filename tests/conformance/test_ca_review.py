"""The bundled CA against whoever would have more of it than is theirs: borrowed proofs, side doors, odd numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ra_gateway.ca.authorization import Mode
from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.records import CertificateStatus, EndEntity, Reason, Reenroll, Revocation
from ra_gateway.cmp import asn1
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protect
from ra_gateway.errors import PKIFailureInfo
from tests.support import pki
from tests.support.credentials import cmp_credential
from tests.support.desk import ENB1, NOW, Desk, enrolled, open_client, open_desk
from tests.support.pki import OperatorPKI, VendorPKI

ENB2 = EndEntity("enb2", "CN=enb2", vendor="acme", identity="SN-000002")


@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_a_vendor_certificate_enrols_whatever_the_request_is_called(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, body_type: BodyType
) -> None:
    """What `reenroll` forbids by ir is not to be had by cr."""
    policy = IssuancePolicy(reenroll=Reenroll.deny)
    async with open_client(operator_pki, vendor_pki, tmp_path / "l.db", policy=policy) as desk:
        await enrolled(desk)
        der = await desk.request(body_type)
        _, failure = await desk.refused(der)
        assert failure is PKIFailureInfo.notAuthorized


async def test_another_device_does_not_take_over_a_proof_of_possession(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """A captured body under another signature gets no answer of the first one's."""
    async with open_client(operator_pki, vendor_pki, tmp_path / "l.db", ENB1, ENB2) as desk:
        der = await desk.request(template=CertTemplate())
        message = PKIMessage.from_der(der)
        await desk.send(der)
        thief = cmp_credential(vendor_pki.device("SN-000002"))
        stolen = await protect(message.header, message.body_der, thief, thief.certificates)
        assert await desk.refused(stolen) == (BodyType.error, PKIFailureInfo.transactionIdInUse)


async def test_a_repeated_rr_of_a_device_gets_the_stored_answer(desk: Desk) -> None:
    """Although its signer is revoked by then."""
    enrolment = await enrolled(desk)
    der = await desk.revocation(enrolment.certificate, signer=enrolment.entity)
    first = await desk.send(der)
    assert (await desk.send(der)).der == first.der


async def test_a_repeated_kur_gets_the_stored_answer_where_renewal_revokes(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """Although what signed it is revoked by then."""
    policy = IssuancePolicy(revoke_superseded=True)
    async with open_client(operator_pki, vendor_pki, tmp_path / "l.db", policy=policy) as desk:
        old = await enrolled(desk)
        key = pki.make_key("p256")
        der = await desk.request(BodyType.kur, key=key, signer=old.entity, template=CertTemplate())
        new = desk.received(key, der, await desk.send(der))
        await desk.confirm(new, signer=old.entity)
        assert await desk.status(old.certificate) is CertificateStatus.revoked
        assert (await desk.send(der)).der == new.answer.der


async def test_implicit_confirmation_revokes_what_was_renewed(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """As certConf does, where `revoke_superseded` says so."""
    policy = IssuancePolicy(revoke_superseded=True)
    async with open_desk(operator_pki, tmp_path / "l.db", policy=policy) as desk:
        header = desk.header(general_info=(IMPLICIT_CONFIRM,))
        old = await desk.enrol(header=header)
        await desk.enrol(BodyType.kur, header=desk.header(general_info=(IMPLICIT_CONFIRM,)))
        assert await desk.status(old.certificate) is CertificateStatus.revoked


async def test_a_window_opens_with_the_first_request(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """For end entities that come with their first certificate."""
    policy = IssuancePolicy(reenroll=Reenroll.window, reenroll_window=timedelta(hours=2))
    async with open_desk(operator_pki, tmp_path / "l.db", policy=policy) as desk:
        await desk.confirm(await desk.enrol())
        desk.clock.advance(hours=1)
        await desk.confirm(await desk.enrol())
        desk.clock.advance(hours=2)
        assert await desk.refused(await desk.request()) == (
            BodyType.ip,
            PKIFailureInfo.notAuthorized,
        )


@pytest.mark.parametrize(
    "registered, asked",
    [
        ("ip:2001:DB8::1", "ip:2001:db8::1"),
        ("ip:2001:0db8:0::1", "ip:2001:db8::1"),
        ("dns:ENB1.example.net", "dns:enb1.example.net"),
    ],
)
async def test_names_of_an_end_entity_are_compared_by_meaning(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, registered: str, asked: str
) -> None:
    """However the operator wrote them."""
    entity = replace(ENB1, names=(registered,))
    async with open_client(operator_pki, vendor_pki, tmp_path / "l.db", entity) as desk:
        names = Extension(OID.subjectAltName, False, general_names_der([asked]))
        enrolment = await desk.enrol(template=CertTemplate(extensions=(names,)))
        assert enrolment.certificate.subject_alt_name_der == names.value


@pytest.mark.parametrize(
    "octets",
    [b"\x30\x00", b"\x30\x04\xa2\x02\x0c\x00", b"\x30\x05\x82\x03a\x00b"],
    ids=["empty", "constructed", "NUL"],
)
async def test_odd_names_are_refused(desk: Desk, octets: bytes) -> None:
    """badCertTemplate or notAuthorized, and nothing is issued."""
    odd = Extension(OID.subjectAltName, False, octets)
    with capture_logs() as logs:
        await desk.refused(await desk.request(template=CertTemplate(extensions=(odd,))))
    assert [item for item in logs if item["event"] == "ca.failed"] == []
    assert await desk.ledger.counts() == {}


async def test_the_names_of_registered_ras_are_taken_in_client_mode_too(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """Also before any RA has spoken."""
    ra_name = cmp_credential(operator_pki.ra).certificate.subject
    entity = replace(ENB1, subject=ra_name, names=())
    async with open_client(operator_pki, vendor_pki, tmp_path / "l.db", entity) as desk:
        der = await desk.request(template=CertTemplate())
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)


async def test_a_cr_from_an_end_entity_with_a_long_name(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """That RA mode created, of more than 64 octets: is answered, and not by a traceback."""
    long_name = asn1.tlv(
        0x30,
        asn1.tlv(
            0x31, asn1.tlv(0x30, asn1.oid_der("2.5.4.3"), asn1.tlv(0x0C, ("ü" * 40).encode()))
        ),
    )
    async with open_client(operator_pki, vendor_pki, tmp_path / "l.db") as desk:
        ra = cmp_credential(operator_pki.ra)
        desk.mode = Mode.ra
        old = await desk.enrol(template=CertTemplate(subject_der=long_name), signer=ra)
        desk.mode = Mode.client
        for template in (CertTemplate(), CertTemplate(subject_der=long_name)):
            new = await desk.enrol(BodyType.cr, template=template, signer=old.entity)
            assert new.certificate.subject_der == long_name


@pytest.mark.parametrize(
    "number", [-1, 0, 1 << 200, 1 << 20_000], ids=["negative", "zero", "long", "huge"]
)
async def test_numbers_of_any_size_are_refused(desk: Desk, number: int) -> None:
    """As serial number, certReqId, version of the template and pvno: none of them leaves a traceback."""
    enrolment = await enrolled(desk)
    with capture_logs() as logs:
        ders = [
            await desk.revocation(
                enrolment.certificate,
                template=CertTemplate(
                    issuer_der=enrolment.certificate.issuer_der, serial_number=number
                ),
                signer=enrolment.entity,
            ),
            await desk.request(cert_req_id=number or 7),
            await desk.request(header=desk.header(pvno=number)),
        ]
        for der in ders:
            await desk.ca.handle(der, mode=Mode.client)
        desk.mode = Mode.ra
        for der in (
            await desk.revocation(
                enrolment.certificate,
                template=CertTemplate(
                    issuer_der=enrolment.certificate.issuer_der, serial_number=number
                ),
                signer=cmp_credential(desk.operator.ra),
            ),
            await desk.request(cert_req_id=number, signer=cmp_credential(desk.operator.ra)),
        ):
            await desk.ca.handle(der, mode=Mode.ra)
    assert [item for item in logs if item["event"] == "ca.failed"] == []


async def test_a_certificate_that_was_revoked_before_its_confirmation(desk: Desk) -> None:
    """certConf is told that it is revoked."""
    enrolment = await desk.enrol()
    serial = enrolment.certificate.serial_number
    await desk.ledger.revoke(Revocation(serial, Reason.keyCompromise, "test"), desk.clock.now)
    _, failure = await desk.refused(await desk.confirmation(enrolment))
    assert failure is PKIFailureInfo.certRevoked


async def test_a_release_from_hold_stays_on_delta_crls_after_a_confirmation(desk: Desk) -> None:
    """Who has the full CRL that lists it has to hear of it."""
    enrolment = await desk.enrol()
    serial = enrolment.certificate.serial_number
    for reason in (Reason.certificateHold, Reason.removeFromCRL):
        await desk.ledger.revoke(Revocation(serial, reason, "test"), desk.clock.now)
    await desk.confirm(enrolment)
    found = await desk.ledger.certificate(serial, desk.clock.now)
    assert found is not None
    assert found.status is CertificateStatus.confirmed
    listed = await desk.ledger.revoked(found.issuer_id, at=NOW, since=NOW)
    assert [(item.serial_number, item.reason) for item in listed] == [
        (serial, Reason.removeFromCRL)
    ]


async def test_the_nested_cr_of_a_device_is_for_its_own_subject(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Nobody gets another one's name with its own signature."""
    async with open_desk(operator_pki, tmp_path / "l.db") as desk:
        mine = await desk.enrol(template=CertTemplate(subject_der=from_rfc4514("CN=enb2")))
        inner = await desk.request(BodyType.cr, signer=mine.entity)
        assert await desk.refused(await desk.nest(inner)) == (
            BodyType.cp,
            PKIFailureInfo.notAuthorized,
        )
