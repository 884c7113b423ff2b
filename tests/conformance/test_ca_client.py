"""The bundled CA in client mode: devices that speak for themselves, each a registered end entity."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.records import (
    CertificateStatus,
    EndEntity,
    EntityStatus,
    Reason,
    Reenroll,
    Revocation,
)
from ra_gateway.cmp.bodies import PKIStatusInfo, gen_msg_body
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, InfoTypeAndValue, PKIMessage
from ra_gateway.cmp.names import from_rfc4514, general_names, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.errors import PKIFailureInfo, SignerNotTrusted
from tests.support import pki
from tests.support.credentials import cmp_credential
from tests.support.desk import (
    ENB1,
    IDENTITY,
    NAMES,
    NOW,
    SUBJECT,
    Desk,
    Enrolment,
    enrolled,
    open_client,
    open_desk,
    vendor_domain,
)
from tests.support.pki import OperatorPKI, VendorPKI


async def confirm_as(desk: Desk, enrolment: Enrolment, signer: Credential) -> None:
    await desk.confirm(enrolment, signer=signer)


# --- the first certificate ------------------------------------------------------------------------------------


async def test_a_device_enrols_and_confirms_with_its_vendor_certificate(desk: Desk) -> None:
    """ip, then pkiConf; the certificate is its end entity's."""
    enrolment = await desk.enrol(template=CertTemplate(subject_der=from_rfc4514(SUBJECT)))
    assert enrolment.answer.body_type is BodyType.ip
    assert enrolment.certificate.subject_der == from_rfc4514(SUBJECT)
    assert await desk.status(enrolment.certificate) is CertificateStatus.issued
    await desk.confirm(enrolment)
    assert await desk.status(enrolment.certificate) is CertificateStatus.confirmed


@pytest.mark.requirement(141)
async def test_what_the_template_leaves_out_comes_from_the_end_entity(desk: Desk) -> None:
    """Subject and names."""
    enrolment = await desk.enrol(template=CertTemplate())
    assert enrolment.certificate.subject_der == from_rfc4514(SUBJECT)
    names_der = enrolment.certificate.subject_alt_name_der
    assert names_der is not None
    assert general_names(names_der) == NAMES
    assert enrolment.status.status is PKIStatus.accepted


async def test_a_device_may_ask_for_fewer_names_than_it_may_have(desk: Desk) -> None:
    """It gets those it asks for."""
    asked = Extension(OID.subjectAltName, False, general_names_der(NAMES[:1]))
    enrolment = await desk.enrol(template=CertTemplate(extensions=(asked,)))
    assert enrolment.certificate.subject_alt_name_der == asked.value


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "template",
    [
        CertTemplate(subject_der=from_rfc4514("CN=enb2.example.net,O=Example Operator")),
        CertTemplate(
            extensions=(
                Extension(OID.subjectAltName, False, general_names_der(["dns:enb2.example.net"])),
            )
        ),
    ],
    ids=["another subject", "another name"],
)
async def test_another_identity_is_refused(desk: Desk, template: CertTemplate) -> None:
    """notAuthorized in ip, and nothing is stored."""
    der = await desk.request(template=template)
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)
    assert await desk.ledger.counts() == {}


@pytest.mark.requirement(67)
async def test_a_device_without_end_entity_is_refused(desk: Desk, vendor_pki: VendorPKI) -> None:
    """Also with a good vendor certificate."""
    stranger = cmp_credential(vendor_pki.device("SN-000002"))
    der = await desk.request(signer=stranger, template=CertTemplate())
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)


@pytest.mark.requirement(21)
async def test_a_vendor_nobody_trusts_is_refused(desk: Desk, foreign_vendor_pki: VendorPKI) -> None:
    """signerNotTrusted, although the identity is that of an end entity."""
    der = await desk.request(signer=cmp_credential(foreign_vendor_pki.device(IDENTITY)))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)


@pytest.mark.requirement(23)
async def test_a_vendor_certificate_that_its_maker_revoked_is_refused(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """What the vendor's CRLs say is asked with the whole path; a refusal leaves nothing behind."""
    asked: list[tuple[str, int]] = []

    async def refuse(domain: str, path: tuple[Certificate, ...], now: datetime) -> None:
        asked.append((domain, len(path)))
        raise SignerNotTrusted("on the CRL", rule="R23")

    client = ClientMode({"acme": vendor_domain(vendor_pki)}, "cn", require_not_revoked=refuse)
    async with open_desk(operator_pki, tmp_path / "ledger.db", client=client) as desk:
        desk.mode = Mode.client
        await desk.ledger.registry.add_entity(ENB1, "test", NOW)
        der = await desk.request(signer=cmp_credential(vendor_pki.device(IDENTITY)))
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)
        assert await desk.ledger.counts() == {}
    assert asked == [("acme", 3)]


async def test_the_same_identity_of_another_vendor_is_another_device(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """End entities belong to one vendor."""
    other = replace(ENB1, vendor="other")
    async with open_client(operator_pki, vendor_pki, tmp_path / "ledger.db", other) as desk:
        der = await desk.request(template=CertTemplate())
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)


async def test_a_blocked_end_entity_gets_nothing(desk: Desk) -> None:
    """Neither a first certificate nor a renewal; unblocked, both."""
    enrolment = await enrolled(desk)
    registry = desk.ledger.registry
    await registry.set_entity_status("enb1", EntityStatus.blocked, "test", NOW)
    assert await desk.refused(await desk.request()) == (BodyType.ip, PKIFailureInfo.notAuthorized)
    kur = await desk.request(BodyType.kur, signer=enrolment.entity, template=CertTemplate())
    assert (await desk.refused(kur))[1] is PKIFailureInfo.notAuthorized
    await registry.set_entity_status("enb1", EntityStatus.active, "test", NOW)
    await desk.enrol(BodyType.kur, signer=enrolment.entity, template=CertTemplate())


async def test_a_blocked_end_entity_is_told_nothing(desk: Desk) -> None:
    """Not even what genm would tell everybody else."""
    question = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
    assert (await desk.send(await desk.signed(desk.header(), question))).body_type is BodyType.genp
    await desk.ledger.registry.set_entity_status("enb1", EntityStatus.blocked, "test", NOW)
    der = await desk.signed(desk.header(), question)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.notAuthorized)


@pytest.mark.requirement(29)
@pytest.mark.parametrize("seconds", [-301, 301])
async def test_a_clock_that_is_off_is_told_so(desk: Desk, seconds: int) -> None:
    """badTime, for a request and for its confirmation."""
    then = NOW + timedelta(seconds=seconds)
    der = await desk.request(header=desk.header(message_time=then))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badTime)
    enrolment = await desk.enrol()
    der = await desk.confirmation(enrolment, message_time=then)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badTime)


@pytest.mark.requirement(12, 29)
async def test_a_repeat_that_comes_late_gets_the_stored_answer(desk: Desk) -> None:
    """A device that was without power repeats what was answered, and is not told badTime."""
    der = await desk.request()
    answer = await desk.send(der)
    desk.clock.advance(seconds=301)
    assert (await desk.send(der)).der == answer.der


@pytest.mark.requirement(57)
async def test_a_device_cannot_vouch_for_itself(desk: Desk) -> None:
    """raVerified is notAuthorized."""
    der = await desk.request(popo=b"\x80\x00")
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)


async def test_an_operator_certificate_is_no_vendor_certificate(desk: Desk) -> None:
    """ir with it: signerNotTrusted."""
    enrolment = await enrolled(desk)
    der = await desk.request(BodyType.ir, signer=enrolment.entity, template=CertTemplate())
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)


async def test_an_ra_certificate_is_not_heard_in_client_mode(
    desk: Desk, operator_pki: OperatorPKI
) -> None:
    """An RA has a path of its own; here it is nobody's device."""
    ra = cmp_credential(operator_pki.ra)
    for body_type in (BodyType.ir, BodyType.cr, BodyType.kur):
        refusal = await desk.refused(await desk.request(body_type, signer=ra))
        assert refusal[1] in (PKIFailureInfo.signerNotTrusted, PKIFailureInfo.notAuthorized)
    assert await desk.ledger.counts() == {}


async def test_a_device_is_not_heard_in_ra_mode(desk: Desk) -> None:
    """Its certificate is not registered there."""
    desk.mode = Mode.ra
    der = await desk.request()
    assert (await desk.refused(der))[1] is PKIFailureInfo.signerNotTrusted


async def test_client_mode_that_is_not_configured_hears_nobody(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """badRequest."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        desk.mode = Mode.client
        der = await desk.request(signer=cmp_credential(vendor_pki.device(IDENTITY)))
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


# --- repeats --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(12, 94)
async def test_a_repeat_gets_the_stored_answer(desk: Desk) -> None:
    """One certificate, also when its renewal made the old one look superseded."""
    der = await desk.request()
    first = await desk.send(der)
    assert (await desk.send(der)).der == first.der
    assert await desk.ledger.counts() == {CertificateStatus.issued: 1}


@pytest.mark.requirement(12)
async def test_a_transaction_id_belongs_to_the_device_that_used_it_first(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """Another device with the same one: transactionIdInUse."""
    enb2 = EndEntity("enb2", "CN=enb2", vendor="acme", identity="SN-000002")
    async with open_client(operator_pki, vendor_pki, tmp_path / "ledger.db", ENB1, enb2) as desk:
        header = desk.header()
        await desk.enrol(header=header)
        der = await desk.request(
            header=header,
            template=CertTemplate(),
            signer=cmp_credential(vendor_pki.device("SN-000002")),
        )
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.transactionIdInUse)


# --- confirmation ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(34)
async def test_certconf_need_not_carry_the_certificate(desk: Desk) -> None:
    """The CA remembers what protected the request."""
    enrolment = await desk.enrol()
    message = PKIMessage.from_der(await desk.confirmation(enrolment))
    bare = await protect(message.header, message.body_der, desk.ra, ())
    assert (await desk.send(bare)).body_type is BodyType.pkiconf


@pytest.mark.requirement(35)
async def test_only_the_certificate_of_the_request_may_confirm(
    desk: Desk, vendor_pki: VendorPKI
) -> None:
    """Neither another device's nor the new one."""
    enrolment = await desk.enrol()
    for signer in (cmp_credential(vendor_pki.device("SN-000009")), enrolment.entity):
        der = await desk.confirmation(enrolment, signer=signer)
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badMessageCheck)
    await desk.confirm(enrolment)


async def test_a_rejected_certificate_is_revoked(desk: Desk) -> None:
    """By certConf with rejection."""
    enrolment = await desk.enrol()
    await desk.confirm(enrolment, status_info=PKIStatusInfo(PKIStatus.rejection))
    assert await desk.status(enrolment.certificate) is CertificateStatus.rejected
    listed = await desk.ledger.revoked(await issuer_id(desk, enrolment), at=NOW)
    assert [entry.serial_number for entry in listed] == [enrolment.certificate.serial_number]


async def test_what_nobody_confirms_is_revoked(desk: Desk) -> None:
    """When confirmWaitTime is over."""
    enrolment = await desk.enrol()
    desk.clock.advance(seconds=301)
    assert await desk.ledger.sweep(desk.clock.now) == 1
    listed = await desk.ledger.revoked(await issuer_id(desk, enrolment), at=desk.clock.now)
    assert [entry.serial_number for entry in listed] == [enrolment.certificate.serial_number]


async def issuer_id(desk: Desk, enrolment: Enrolment) -> str:
    found = await desk.ledger.certificate(enrolment.certificate.serial_number, NOW)
    assert found is not None
    return found.issuer_id


@pytest.mark.requirement(82)
@pytest.mark.parametrize("granted", [True, False])
async def test_implicit_confirm_is_granted_only_where_it_is_configured(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, granted: bool
) -> None:
    """TS 33.310 knows none."""
    path = tmp_path / "ledger.db"
    async with open_client(operator_pki, vendor_pki, path, implicit_confirm=granted) as desk:
        enrolment = await desk.enrol(header=desk.header(general_info=(IMPLICIT_CONFIRM,)))
        assert enrolment.answer.header.implicit_confirm is granted
        status = CertificateStatus.confirmed if granted else CertificateStatus.issued
        assert await desk.status(enrolment.certificate) is status


# --- renewal --------------------------------------------------------------------------------------------------


async def test_a_device_renews_with_its_operator_certificate(desk: Desk) -> None:
    """kup; the old certificate is superseded once the new one is confirmed."""
    old = await enrolled(desk)
    new = await desk.enrol(BodyType.kur, signer=old.entity, template=CertTemplate())
    assert new.answer.body_type is BodyType.kup
    assert new.certificate.subject_der == old.certificate.subject_der
    assert new.certificate.subject_alt_name_der == old.certificate.subject_alt_name_der
    assert await desk.status(old.certificate) is CertificateStatus.confirmed
    await confirm_as(desk, new, old.entity)
    assert await desk.status(old.certificate) is CertificateStatus.superseded


async def test_a_superseded_certificate_may_be_revoked_at_once(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """By configuration."""
    path, policy = tmp_path / "ledger.db", IssuancePolicy(revoke_superseded=True)
    async with open_client(operator_pki, vendor_pki, path, policy=policy) as desk:
        old = await enrolled(desk)
        new = await desk.enrol(BodyType.kur, signer=old.entity, template=CertTemplate())
        await confirm_as(desk, new, old.entity)
        assert await desk.status(old.certificate) is CertificateStatus.revoked


@pytest.mark.requirement(71)
async def test_a_vendor_certificate_renews_nothing(desk: Desk) -> None:
    """signerNotTrusted."""
    await enrolled(desk)
    der = await desk.request(BodyType.kur)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)


@pytest.mark.requirement(69)
async def test_a_rejected_certificate_renews_nothing(desk: Desk) -> None:
    """certRevoked."""
    old = await desk.enrol()
    await desk.confirm(old, status_info=PKIStatusInfo(PKIStatus.rejection))
    der = await desk.request(BodyType.kur, signer=old.entity, template=CertTemplate())
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.certRevoked)


@pytest.mark.requirement(70)
async def test_a_renewal_keeps_the_names(desk: Desk) -> None:
    """badCertTemplate."""
    old = await enrolled(desk)
    other = CertTemplate(subject_der=from_rfc4514("CN=enb7"))
    der = await desk.request(BodyType.kur, signer=old.entity, template=other)
    assert await desk.refused(der) == (BodyType.kup, PKIFailureInfo.badCertTemplate)


@pytest.mark.requirement(23)
@pytest.mark.parametrize("body_type", [BodyType.kur, BodyType.cr])
async def test_a_certificate_that_was_revoked_confirms_nothing(
    desk: Desk, body_type: BodyType
) -> None:
    """Whoever stole its key keeps nothing of what was begun before that was noticed; a repeat is answered as before."""
    old = await enrolled(desk)
    done, begun = [
        await desk.enrol(body_type, signer=old.entity, template=CertTemplate()) for _ in "ab"
    ]
    confirmed = await desk.confirmation(done, signer=old.entity)
    answer = await desk.send(confirmed)
    revocation = Revocation(old.certificate.serial_number, Reason.keyCompromise, "alice")
    await desk.ledger.revoke(revocation, desk.clock.now)
    der = await desk.confirmation(begun, signer=old.entity)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.certRevoked)
    assert (await desk.send(confirmed)).der == answer.der
    assert await desk.status(done.certificate) is CertificateStatus.confirmed
    assert await desk.status(begun.certificate) is CertificateStatus.issued
    desk.clock.advance(seconds=301)
    assert await desk.status(begun.certificate) is CertificateStatus.rejected


async def test_who_was_blocked_meanwhile_confirms_nothing(desk: Desk) -> None:
    """notAuthorized; rejecting the certificate is still taken."""
    begun = await desk.enrol()
    await desk.ledger.registry.set_entity_status("enb1", EntityStatus.blocked, "test", NOW)
    der = await desk.confirmation(begun)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.notAuthorized)
    await desk.confirm(begun, status_info=PKIStatusInfo(PKIStatus.rejection))
    assert await desk.status(begun.certificate) is CertificateStatus.rejected


@pytest.mark.requirement(23)
async def test_a_vendor_certificate_that_its_maker_revoked_meanwhile_confirms_nothing(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """signerNotTrusted, where the vendor's CRLs have it by then."""
    revoked: list[str] = []

    async def check(domain: str, path: tuple[Certificate, ...], now: datetime) -> None:
        if domain in revoked:
            raise SignerNotTrusted("on the CRL", rule="R23")

    client = ClientMode({"acme": vendor_domain(vendor_pki)}, "cn", require_not_revoked=check)
    async with open_desk(operator_pki, tmp_path / "ledger.db", client=client) as desk:
        desk.mode = Mode.client
        await desk.ledger.registry.add_entity(ENB1, "test", NOW)
        device = cmp_credential(vendor_pki.device(IDENTITY))
        begun = await desk.enrol(signer=device)
        revoked.append("acme")
        der = await desk.confirmation(begun, signer=device)
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)
        revoked.clear()
        await desk.confirm(begun, signer=device)


# --- a second bootstrap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(Reenroll))
async def test_a_factory_reset_follows_the_policy(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, policy: Reenroll
) -> None:
    """deny and a window that is over refuse it, as ir and as cr; what was never confirmed does not count."""
    path, settings = tmp_path / "ledger.db", IssuancePolicy(reenroll=policy)
    async with open_client(operator_pki, vendor_pki, path, policy=settings) as desk:
        await desk.enrol()  # its ip is lost
        await enrolled(desk)
        for body_type, answer in ((BodyType.ir, BodyType.ip), (BodyType.cr, BodyType.cp)):
            der = await desk.request(body_type)
            if policy is Reenroll.allow:
                assert (await desk.send(der)).body_type is answer
            else:
                assert await desk.refused(der) == (answer, PKIFailureInfo.notAuthorized)
        until = NOW + timedelta(hours=1)
        await desk.ledger.registry.open_window("enb1", until, "test", NOW)
        der = await desk.request()
        if policy is Reenroll.deny:
            assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)
        else:
            assert (await desk.send(der)).body_type is BodyType.ip


async def test_a_certificate_on_hold_is_held_all_the_same(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """Under `deny`: it may come back, and there would be two. Revoked for good, its device may begin anew."""
    path, settings = tmp_path / "ledger.db", IssuancePolicy(reenroll=Reenroll.deny)
    async with open_client(operator_pki, vendor_pki, path, policy=settings) as desk:
        serial = (await enrolled(desk)).certificate.serial_number
        await desk.ledger.revoke(Revocation(serial, Reason.certificateHold, "test"), NOW)
        der = await desk.request()
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)
        await desk.ledger.revoke(Revocation(serial, Reason.keyCompromise, "test"), NOW)
        await desk.enrol()


@pytest.mark.requirement(62)
async def test_a_key_belongs_to_one_end_entity(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """duplicateCertReq for another's; its own may be certified again."""
    enb2 = EndEntity("enb2", "CN=enb2", vendor="acme", identity="SN-000002")
    async with open_client(operator_pki, vendor_pki, tmp_path / "ledger.db", ENB1, enb2) as desk:
        key = pki.make_key("p256")
        await desk.confirm(await desk.enrol(key=key))
        await desk.enrol(key=key)
        other = cmp_credential(vendor_pki.device("SN-000002"))
        der = await desk.request(key=key, signer=other, template=CertTemplate())
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.duplicateCertReq)


# --- revocation -----------------------------------------------------------------------------------------------


@pytest.mark.requirement(129)
async def test_a_device_has_its_own_certificate_revoked(desk: Desk) -> None:
    """rp accepted; from then on it renews nothing, and a second rr is certRevoked."""
    device = await enrolled(desk)
    header = desk.header()
    der = await desk.revocation(device.certificate, signer=device.entity, header=header)
    answer = await desk.send(der)
    assert answer.body_type is BodyType.rp
    assert await desk.status(device.certificate) is CertificateStatus.revoked
    again = await desk.revocation(device.certificate, signer=device.entity)
    assert (await desk.refused(again))[1] is PKIFailureInfo.certRevoked
    kur = await desk.request(BodyType.kur, signer=device.entity, template=CertTemplate())
    assert (await desk.refused(kur))[1] is PKIFailureInfo.certRevoked


@pytest.mark.requirement(130)
async def test_a_device_cannot_have_anothers_revoked(desk: Desk) -> None:
    """notAuthorized, the same for one that does not exist."""
    device = await enrolled(desk)
    other = await enrolled(desk)
    for certificate in (other.certificate, replace(other.certificate, serial_number=7)):
        der = await desk.revocation(certificate, signer=device.entity)
        assert await desk.refused(der) == (BodyType.rp, PKIFailureInfo.notAuthorized)
    assert await desk.status(other.certificate) is CertificateStatus.confirmed


async def test_a_vendor_certificate_revokes_nothing(desk: Desk) -> None:
    """signerNotTrusted."""
    device = await enrolled(desk)
    der = await desk.revocation(device.certificate)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)


async def test_who_is_blocked_may_still_give_up_its_certificate(desk: Desk) -> None:
    """rp accepted."""
    device = await enrolled(desk)
    await desk.ledger.registry.set_entity_status("enb1", EntityStatus.blocked, "test", NOW)
    der = await desk.revocation(device.certificate, signer=device.entity)
    assert (await desk.send(der)).body_type is BodyType.rp
    assert await desk.status(device.certificate) is CertificateStatus.revoked


async def test_certconf_for_nothing_is_refused(desk: Desk) -> None:
    """badRequest: there is no such transaction, nor one that awaits it."""
    enrolment = await desk.enrol()
    der = await desk.confirmation(enrolment, transaction_id=secrets.token_bytes(16))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


# --- quirks -------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(5, 6, 47, 66)
async def test_what_a_vendors_devices_are_forgiven_holds_for_their_renewals(
    operator_pki: OperatorPKI,
    vendor_pki: VendorPKI,
    foreign_vendor_pki: VendorPKI,
    tmp_path: Path,
) -> None:
    """The end entity knows its vendor; the device of a vendor who has no quirks is forgiven nothing."""
    quirks = frozenset({"short_ids", "any_cert_req_id", "rsa1024"})
    quirky = replace(vendor_domain(vendor_pki), quirks=quirks)
    client = ClientMode({"acme": quirky, "other": vendor_domain(foreign_vendor_pki, "other")}, "cn")
    modern = replace(ENB1, name="enb2", subject="CN=enb2", names=(), vendor="other")

    def short(desk: Desk) -> dict[str, Any]:
        octets = secrets.token_bytes(4)
        return {"header": desk.header(transaction_id=octets, sender_nonce=octets), "cert_req_id": 9}

    async def confirm(desk: Desk, enrolment: Enrolment, signer: Credential) -> None:
        nonce = secrets.token_bytes(4)
        await desk.confirm(enrolment, signer=signer, sender_nonce=nonce, cert_req_id=9)

    async with open_desk(operator_pki, tmp_path / "ca.db", client=client) as desk:
        desk.mode, desk.ra = Mode.client, cmp_credential(vendor_pki.device(IDENTITY))
        for entity in (ENB1, modern):
            await desk.ledger.registry.add_entity(entity, "test", NOW)
        enrolment = await desk.enrol(**short(desk))
        await confirm(desk, enrolment, desk.ra)
        for body_type in (BodyType.kur, BodyType.kur, BodyType.cr):
            signer, template = enrolment.entity, CertTemplate()
            enrolment = await desk.enrol(body_type, signer=signer, template=template, **short(desk))
            await confirm(desk, enrolment, signer)
        desk.ra = cmp_credential(foreign_vendor_pki.device(IDENTITY))
        other = await enrolled(desk, template=CertTemplate())
        kur = await desk.request(
            BodyType.kur, signer=other.entity, template=CertTemplate(), **short(desk)
        )
        assert await desk.refused(kur) == (BodyType.error, PKIFailureInfo.badSenderNonce)
