"""The bundled CA: revocation on behalf of a device, and what genm is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ra_gateway.ca.general_messages import Published
from ra_gateway.ca.records import (
    CertificateStatus,
    Privilege,
    Reason,
    Role,
    RootUpdate,
    StoredCRL,
)
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.bodies import gen_msg_body, gen_msg_content, rev_rep_content
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.messages import InfoTypeAndValue, body
from ra_gateway.cmp.names import directory_name
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import PKIFailureInfo
from tests.support.desk import NOW, Desk, open_desk
from tests.support.pki import OperatorPKI

CRL_URL = "http://pki.example.net/crl/issuing.crl"


@pytest.fixture
async def desk(operator_pki: OperatorPKI, tmp_path: Path) -> AsyncIterator[Desk]:
    issuing, root = operator_pki.issuing, operator_pki.root
    published = Published(
        ca_certificates=(issuing.der,),
        root_update=RootUpdate(
            root.der, b"\x30\x03\x02\x01\x01", b"\x30\x03\x02\x01\x02", b"\x30\x03\x02\x01\x03"
        ),
        crl_urls={CRL_URL: "aa"},
        crl_issuers={issuing.certificate.subject.public_bytes(): "aa"},
    )
    async with open_desk(operator_pki, tmp_path / "ledger.db", published=published) as desk:
        yield desk


# --- rr -------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(129, 130)
async def test_an_ra_has_a_certificate_revoked(desk: Desk) -> None:
    """rp accepted, naming it; a repeat gets the same answer, another rr certRevoked."""
    device = await desk.enrol()
    der = await desk.revocation(device.certificate, reason=Reason.keyCompromise)
    answer = await desk.send(der)
    content = rev_rep_content(answer.body_content)
    assert [status.status for status in content.statuses] == [0]
    assert content.rev_certs[0].serial_number == device.certificate.serial_number
    assert (await desk.send(der)).der == answer.der
    found = await desk.ledger.certificate(device.certificate.serial_number, NOW)
    assert found is not None
    assert (found.status, found.reason) == (CertificateStatus.revoked, Reason.keyCompromise)
    again = await desk.revocation(device.certificate)
    assert await desk.refused(again) == (BodyType.rp, PKIFailureInfo.certRevoked)


@pytest.mark.requirement(131)
async def test_a_certificate_that_is_not_there_is_bad_cert_id(
    desk: Desk, operator_pki: OperatorPKI
) -> None:
    """By serial number, and by issuer."""
    device = await desk.enrol()
    unknown = CertTemplate(issuer_der=device.certificate.issuer_der, serial_number=99)
    der = await desk.revocation(device.certificate, template=unknown)
    assert await desk.refused(der) == (BodyType.rp, PKIFailureInfo.badCertId)
    root_der = operator_pki.root.certificate.subject.public_bytes()
    der = await desk.revocation(device.certificate, issuer_der=root_der)
    assert await desk.refused(der) == (BodyType.rp, PKIFailureInfo.badCertId)


@pytest.mark.requirement(131)
@pytest.mark.parametrize("missing", ["issuer_der", "serial_number"])
async def test_an_rr_names_its_certificate(desk: Desk, missing: str) -> None:
    """By issuer and serialNumber, both."""
    device = await desk.enrol()
    named = {"issuer_der": device.certificate.issuer_der, "serial_number": 5} | {missing: None}
    der = await desk.revocation(device.certificate, template=CertTemplate(**named))  # type: ignore[arg-type]
    assert await desk.refused(der) == (BodyType.rp, PKIFailureInfo.addInfoNotAvailable)


@pytest.mark.requirement(132)
@pytest.mark.parametrize(
    "reason, fail_info",
    [
        (7, PKIFailureInfo.badDataFormat),
        (11, PKIFailureInfo.badDataFormat),
    ],
)
async def test_an_rr_has_a_reason(desk: Desk, reason: int, fail_info: PKIFailureInfo) -> None:
    """One of RFC 5280."""
    device = await desk.enrol()
    der = await desk.revocation(device.certificate, reason=reason)
    assert await desk.refused(der) == (BodyType.rp, fail_info)


async def test_a_hold_can_be_released(desk: Desk) -> None:
    """By an rr with removeFromCRL; nothing else can."""
    device = await desk.enrol()
    await desk.confirm(device)
    await desk.send(await desk.revocation(device.certificate, reason=Reason.certificateHold))
    assert await desk.status(device.certificate) is CertificateStatus.revoked
    await desk.send(await desk.revocation(device.certificate, reason=Reason.removeFromCRL))
    assert await desk.status(device.certificate) is CertificateStatus.confirmed


async def test_a_role_is_needed_to_revoke(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """The privilege, and the certificate's profile."""
    path = tmp_path / "ledger.db"
    privileges = frozenset({Privilege.issue})
    async with open_desk(operator_pki, path, privileges=privileges) as desk:
        device = await desk.enrol()
        der = await desk.revocation(device.certificate)
        assert await desk.refused(der) == (BodyType.rp, PKIFailureInfo.notAuthorized)
    async with open_desk(operator_pki, path) as desk:
        await desk.ledger.registry.put_role(Role("ra1", frozenset(Privilege), ("nf",)), "test", NOW)
        der = await desk.revocation(device.certificate)
        assert await desk.refused(der) == (BodyType.rp, PKIFailureInfo.notAuthorized)
        assert await desk.status(device.certificate) is CertificateStatus.issued


@pytest.mark.requirement(130)
async def test_a_nested_rr_is_the_devices_own(desk: Desk) -> None:
    """It may name the certificate that protects it, no other."""
    device, other = await desk.enrol(), await desk.enrol()
    foreign = await desk.revocation(other.certificate, signer=device.entity)
    assert await desk.refused(await desk.nest(foreign)) == (
        BodyType.rp,
        PKIFailureInfo.notAuthorized,
    )
    own = await desk.revocation(device.certificate, signer=device.entity)
    assert (await desk.send(await desk.nest(own))).body_type is BodyType.rp
    assert await desk.status(device.certificate) is CertificateStatus.revoked


# --- genm -----------------------------------------------------------------------------------------------------


async def ask(desk: Desk, info_type: str, value_der: bytes | None = None) -> bytes | None:
    """Send a genm with one question; return the value of the one answer."""
    question = InfoTypeAndValue(info_type, value_der)
    answer = await desk.send(
        await desk.signed(desk.header(), gen_msg_body(BodyType.genm, [question]))
    )
    assert answer.body_type is BodyType.genp
    (told,) = gen_msg_content(answer.body_content)
    expected = {OID.rootCaCert: OID.rootCaKeyUpdate, OID.crlStatusList: OID.crls}
    assert told.info_type == expected.get(info_type, info_type)
    return told.value_der


@pytest.mark.requirement(133)
async def test_ca_certificates_are_told(desk: Desk, operator_pki: OperatorPKI) -> None:
    """The issuing CA's."""
    assert await ask(desk, OID.caCerts) == asn1.tlv(0x30, operator_pki.issuing.der)


@pytest.mark.requirement(134)
async def test_the_successor_of_a_root_is_told(desk: Desk, operator_pki: OperatorPKI) -> None:
    """newWithNew, newWithOld and oldWithNew for the old one; no value for any other."""
    told = await ask(desk, OID.rootCaCert, operator_pki.root.der)
    assert told is not None
    update = asn1.decode(structures.RootCaKeyUpdateContent, told)
    assert asn1.raw(update.new_with_new) == b"\x30\x03\x02\x01\x01"
    assert await ask(desk, OID.rootCaCert, operator_pki.issuing.der) is None


@pytest.mark.requirement(135)
async def test_no_template_is_prescribed(desk: Desk) -> None:
    """certReqTemplate without a value."""
    assert await ask(desk, OID.certReqTemplate) is None


def crl_status(source: bytes, this_update: datetime | None = None) -> bytes:
    time = b"" if this_update is None else asn1.encode(asn1.time(this_update))
    return asn1.tlv(0x30, asn1.tlv(0x30, source, time))


@pytest.mark.requirement(138)
async def test_the_current_crl_is_told(desk: Desk) -> None:
    """Of the active issuing CA (RFC 9810 5.3.19.6), without a value where there is none; unasked as well."""
    assert await ask(desk, OID.currentCRL) is None
    issuer_id = desk.ca._certification.issuer.id
    crl = StoredCRL(issuer_id, 1, None, NOW.replace(microsecond=0), NOW, b"\x30\x01\x00")
    assert await desk.ledger.store_crl(crl)
    assert await ask(desk, OID.currentCRL) == crl.der
    der = await desk.signed(desk.header(), gen_msg_body(BodyType.genm, []))
    told = {
        item.info_type: item.value_der
        for item in gen_msg_content((await desk.send(der)).body_content)
    }
    assert told[OID.currentCRL] == crl.der


@pytest.mark.requirement(136, 137)
async def test_a_newer_crl_is_told(desk: Desk, operator_pki: OperatorPKI) -> None:
    """By distribution point or issuer; none where the device has it, and refused where it is unknown."""
    crl = StoredCRL("aa", 1, None, NOW.replace(microsecond=0), NOW + timedelta(days=1), b"\x30\x00")
    assert await desk.ledger.store_crl(crl)
    by_url, by_other_url = (
        asn1.tlv(0xA0, asn1.tlv(0xA0, asn1.tlv(0x86, url.encode())))
        for url in (CRL_URL, "http://elsewhere.example.net/x.crl")
    )
    name = directory_name(operator_pki.issuing.certificate.subject.public_bytes())
    by_issuer = asn1.tlv(0xA1, asn1.tlv(0x30, name))
    found = asn1.tlv(0x30, crl.der)
    assert await ask(desk, OID.crlStatusList, crl_status(by_url)) == found
    assert await ask(desk, OID.crlStatusList, crl_status(by_issuer)) == found
    unknown = InfoTypeAndValue(OID.crlStatusList, crl_status(by_other_url))
    der = await desk.signed(desk.header(), gen_msg_body(BodyType.genm, [unknown]))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)
    older = crl.this_update - timedelta(seconds=1)
    assert await ask(desk, OID.crlStatusList, crl_status(by_url, older)) == found
    assert await ask(desk, OID.crlStatusList, crl_status(by_url, crl.this_update)) is None


@pytest.mark.requirement(138)
@pytest.mark.parametrize(
    "items",
    [[InfoTypeAndValue(OID.caCerts)] * 2, [InfoTypeAndValue("1.3.6.1.5.5.7.4.99")]],
    ids=["two", "unknown"],
)
async def test_one_known_question_is_asked(desk: Desk, items: list[InfoTypeAndValue]) -> None:
    """badRequest otherwise."""
    der = await desk.signed(desk.header(), gen_msg_body(BodyType.genm, items))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


async def test_a_genm_that_is_none_is_refused(desk: Desk) -> None:
    """badDataFormat."""
    der = await desk.signed(desk.header(), body(BodyType.genm, b"\x04\x00"))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badDataFormat)
