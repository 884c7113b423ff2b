"""The bundled CA core, spoken to in CMP only: what a registered RA, and anyone else, gets from it."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.app.revocation import LedgerStatus
from ra_gateway.ca.ledger.database import SQLiteDatabase
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import Authority, CertificateStatus, Operation, Privilege
from ra_gateway.cmp import asn1, crmf, structures
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_rep_message,
    error_body,
    error_msg_content,
    nested_body,
    nested_messages,
)
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import (
    CertId,
    CertTemplate,
    Control,
    Extension,
)
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage, assemble, body, confirm_wait_time
from ra_gateway.cmp.names import directory_name, from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.errors import (
    PKIFailureInfo,
    StoreUnavailable,
    UpstreamUnavailable,
)
from ra_gateway.keys import KeySigner
from tests.support import pki
from tests.support.ber import SHAPES, respelt
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import CONFIRM_WAIT_SECONDS, NOW, RULES, SUBJECT, Desk, Enrolment, open_desk
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.profiles import NE_IPSEC


@pytest.fixture
async def desk(operator_pki: OperatorPKI, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        yield desk


async def assert_nothing_issued(desk: Desk) -> None:
    assert await desk.ledger.counts() == {}


# --- enrolment ------------------------------------------------------------------------------------------------


@pytest.mark.requirement(3, 8, 96, 100, 112)
@pytest.mark.parametrize("pvno", [2, 3])
async def test_an_enrolment_walks_ir_ip_certconf_pkiconf(desk: Desk, pvno: int) -> None:
    """ir, ip, certConf, pkiConf; each answer in the version of its request."""
    enrolment = await desk.enrol(header=desk.header(pvno=pvno))
    assert enrolment.answer.body_type is BodyType.ip
    assert enrolment.answer.header.pvno == pvno
    assert enrolment.status == PKIStatusInfo(PKIStatus.accepted)
    assert enrolment.certificate.subject == SUBJECT
    assert await desk.status(enrolment.certificate) is CertificateStatus.issued
    answer = await desk.confirm(enrolment, pvno=pvno)
    assert answer.header.pvno == pvno
    assert await desk.status(enrolment.certificate) is CertificateStatus.confirmed


@pytest.mark.requirement(37)
async def test_nonces_are_fresh(desk: Desk) -> None:
    """ip and pkiConf of two enrolments: four nonces."""
    for _ in range(2):
        await desk.confirm(await desk.enrol())
    assert len({answer.header.sender_nonce for answer in desk.answers}) == 4


@pytest.mark.requirement(97, 140)
async def test_extra_certs_hold_both_chains_once_and_the_root_last(desk: Desk) -> None:
    """CMP signer, issuing CA (of both), operator root."""
    answer = (await desk.enrol()).answer
    operator = desk.operator
    assert answer.extra_certs == tuple(
        pki.certificate_der(item)
        for item in (
            operator.cmp_signer.certificate,
            operator.issuing.certificate,
            operator.root.certificate,
        )
    )


@pytest.mark.requirement(98, 99)
async def test_confirm_wait_time_comes_with_message_time(desk: Desk) -> None:
    """What was not asked for is not granted: the answer says until when certConf is awaited."""
    header = (await desk.enrol()).answer.header
    assert header.general_info == (
        confirm_wait_time(NOW + timedelta(seconds=CONFIRM_WAIT_SECONDS)),
    )
    assert header.message_time == NOW.replace(microsecond=0)


@pytest.mark.requirement(98, 110)
async def test_implicit_confirm_is_granted_when_asked_for(desk: Desk) -> None:
    """The certificate counts as confirmed, and a certConf after that is certConfirmed."""
    enrolment = await desk.enrol(header=desk.header(general_info=(IMPLICIT_CONFIRM,)))
    assert enrolment.answer.header.general_info == (IMPLICIT_CONFIRM,)
    assert await desk.status(enrolment.certificate) is CertificateStatus.confirmed
    assert await desk.refused(await desk.confirmation(enrolment)) == (
        BodyType.error,
        PKIFailureInfo.certConfirmed,
    )


@pytest.mark.requirement(47)
async def test_a_device_s_odd_cert_req_id_is_echoed(desk: Desk) -> None:
    """The RA let it pass; the CA repeats it in ip and wants it in certConf."""
    enrolment = await desk.enrol(cert_req_id=2**70)
    (response,) = cert_rep_message(enrolment.answer.body_content).responses
    assert response.cert_req_id == 2**70
    assert await desk.refused(await desk.confirmation(enrolment, cert_req_id=0)) == (
        BodyType.error,
        PKIFailureInfo.badRequest,
    )
    await desk.confirm(enrolment, cert_req_id=2**70)


@pytest.mark.requirement(5, 7)
async def test_short_ids_that_the_ra_let_pass_are_accepted(desk: Desk) -> None:
    """transactionID of 4 octets, senderNonce of 8, and a recipNonce in the ir."""
    enrolment = await desk.enrol(
        header=desk.header(transaction_id=b"1234", sender_nonce=b"12345678", recip_nonce=b"x")
    )
    await desk.confirm(enrolment)


@pytest.mark.requirement(50)
async def test_a_foreign_template_issuer_is_overridden_and_told(
    desk: Desk, vendor_pki: VendorPKI
) -> None:
    """OpenSSL names the vendor's CA there; who asked for another issuer is told that it is not that one."""
    enrolment = await desk.enrol(
        template=CertTemplate(
            subject_der=from_rfc4514(SUBJECT),
            issuer_der=cmp_certificate(vendor_pki.sub.certificate).subject_der,
        )
    )
    assert enrolment.status == PKIStatusInfo(
        PKIStatus.grantedWithMods, ("Changed or left out: issuer.",)
    )
    issuing = cmp_certificate(desk.operator.issuing.certificate)
    assert enrolment.certificate.issuer == issuing.subject
    right = CertTemplate(subject_der=from_rfc4514(SUBJECT), issuer_der=issuing.subject_der)
    assert (await desk.enrol(template=right)).status.status is PKIStatus.accepted


async def test_changes_are_told(desk: Desk) -> None:
    """A longer validity than the profile allows: grantedWithMods."""
    enrolment = await desk.enrol(
        template=CertTemplate(
            subject_der=from_rfc4514(SUBJECT), not_after=NOW + timedelta(days=9999)
        )
    )
    assert enrolment.status == PKIStatusInfo(
        PKIStatus.grantedWithMods, ("Changed or left out: validity.",)
    )


@pytest.mark.requirement(93)
async def test_ca_pubs_come_in_ip_only_and_only_if_configured(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """The root in ip; none in cp."""
    async with open_desk(operator_pki, tmp_path / "ledger.db", ca_pubs=True) as desk:
        ip = (await desk.enrol()).answer
        assert cert_rep_message(ip.body_content).ca_pubs == (operator_pki.root.der,)
        cp = (await desk.enrol(BodyType.cr)).answer
        assert cp.body_type is BodyType.cp
        assert cert_rep_message(cp.body_content).ca_pubs == ()


@pytest.mark.requirement(58)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_ra_verified_is_accepted_from_the_ra(desk: Desk, body_type: BodyType) -> None:
    """A registered RA may vouch for possession."""
    await desk.confirm(await desk.enrol(body_type, popo=crmf.RA_VERIFIED_POPO_DER))


@pytest.mark.requirement(104, 157)
@pytest.mark.parametrize(
    "kind, hash_name",
    [
        ("p384", "sha384"),
        ("rsa2048", "sha256"),
        ("ed25519", "sha512"),
        ("ed448", "shake256"),
        ("mldsa44", "sha512"),
    ],
)
async def test_every_kind_of_key_issues_and_is_confirmed(
    kind: pki.KeyKind, hash_name: str, tmp_path: Path
) -> None:
    """A PKI of each kind of key; certHash is by the algorithm that signed the certificate."""
    async with open_desk(
        pki.make_operator_pki("Example Operator", kind), tmp_path / "ledger.db"
    ) as desk:
        # RSA keys come from a small pool, all of which the PKI itself has.
        device_key = pki.make_key("p256" if kind == "rsa2048" else kind)
        enrolment = await desk.enrol(key=device_key)
        desk.domain.find_path(enrolment.certificate, (), NOW)
        await desk.confirm(enrolment, cert_hash=digest(hash_name, enrolment.certificate.der))


# --- confirmation ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(101)
async def test_a_rejected_certificate_is_rejected_in_the_ledger(desk: Desk) -> None:
    """pkiConf for the device; the certificate counts as revoked."""
    enrolment = await desk.enrol()
    status = PKIStatusInfo(PKIStatus.rejection, fail_info=(PKIFailureInfo.incorrectData,))
    await desk.confirm(enrolment, status_info=status)
    assert await desk.status(enrolment.certificate) is CertificateStatus.rejected


@pytest.mark.requirement(8)
@pytest.mark.parametrize("recip_nonce", [None, b"another nonce...", b""])
async def test_recip_nonce_of_certconf_must_be_that_of_ip(
    desk: Desk, recip_nonce: bytes | None
) -> None:
    """badRecipientNonce, and the certificate still waits."""
    enrolment = await desk.enrol()
    der = await desk.confirmation(enrolment, recip_nonce=recip_nonce)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRecipientNonce)
    assert await desk.status(enrolment.certificate) is CertificateStatus.issued


@pytest.mark.requirement(102)
async def test_a_wrong_cert_hash_confirms_nothing(desk: Desk) -> None:
    """badCertId; the right certConf is still heard afterwards."""
    enrolment = await desk.enrol()
    wrong = await desk.confirmation(enrolment, cert_hash=bytes(32))
    assert await desk.refused(wrong) == (BodyType.error, PKIFailureInfo.badCertId)
    assert await desk.status(enrolment.certificate) is CertificateStatus.issued
    await desk.confirm(enrolment)


@pytest.mark.requirement(103)
async def test_hash_alg_needs_pvno_3(desk: Desk) -> None:
    """With pvno 2 badRequest; with 3 the named hash counts."""
    sha512 = structures.AlgorithmIdentifier(
        algorithm=asn1.oid("2.16.840.1.101.3.4.2.3"), parameters=None
    )
    enrolment = await desk.enrol()
    options: dict[str, Any] = {
        "hash_alg": sha512,
        "cert_hash": digest("sha512", enrolment.certificate.der),
    }
    der = await desk.confirmation(enrolment, **options)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)
    await desk.confirm(enrolment, pvno=3, **options)


@pytest.mark.requirement(105)
async def test_the_new_key_does_not_sign_certconf(desk: Desk) -> None:
    """It is no registered RA's."""
    enrolment = await desk.enrol()
    der = await desk.confirmation(enrolment, signer=enrolment.entity)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)
    assert await desk.status(enrolment.certificate) is CertificateStatus.issued


@pytest.mark.requirement(106)
async def test_certconf_has_exactly_one_status(desk: Desk) -> None:
    """Two: badRequest."""
    enrolment = await desk.enrol()
    one = asn1.content(
        asn1.element(PKIMessage.from_der(await desk.confirmation(enrolment)).body_content)
    )
    der = await desk.confirmation(
        enrolment, body_der=body(BodyType.certConf, asn1.tlv(0x30, *[one] * 2))
    )
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


@pytest.mark.requirement(108)
async def test_accepted_with_fail_info_is_refused(desk: Desk) -> None:
    """badRequest."""
    enrolment = await desk.enrol()
    der = await desk.confirmation(
        enrolment,
        status_info=PKIStatusInfo(PKIStatus.accepted, fail_info=(PKIFailureInfo.badAlg,)),
    )
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


@pytest.mark.requirement(109)
async def test_a_repeated_certconf_gets_the_stored_pkiconf(desk: Desk) -> None:
    """The same octets, also where the RA signed anew; another certConf gets certConfirmed."""
    enrolment = await desk.enrol()
    nonce = secrets.token_bytes(16)
    first = await desk.confirm(enrolment, sender_nonce=nonce)
    again = await desk.confirm(enrolment, sender_nonce=nonce)
    assert again.der == first.der
    rejection = PKIStatusInfo(PKIStatus.rejection)
    der = await desk.confirmation(enrolment, status_info=rejection)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.certConfirmed)
    assert await desk.status(enrolment.certificate) is CertificateStatus.confirmed


@pytest.mark.requirement(11)
async def test_certconf_for_an_unknown_transaction_is_refused(desk: Desk) -> None:
    """badRequest."""
    enrolment = await desk.enrol()
    der = await desk.confirmation(enrolment, transaction_id=None)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badDataFormat)
    der = await desk.confirmation(enrolment, transaction_id=secrets.token_bytes(16))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


@pytest.mark.requirement(111)
async def test_a_certificate_not_confirmed_in_time_is_rejected(desk: Desk) -> None:
    """A certConf after confirmWaitTime comes too late."""
    enrolment = await desk.enrol()
    desk.clock.advance(seconds=CONFIRM_WAIT_SECONDS + 1)
    assert await desk.status(enrolment.certificate) is CertificateStatus.rejected
    assert await desk.refused(await desk.confirmation(enrolment)) == (
        BodyType.error,
        PKIFailureInfo.badCertId,
    )
    desk.clock.advance(days=1)
    await desk.enrol()
    assert await desk.ledger.sweep(desk.clock.now) == 1
    assert await desk.ledger.counts() == {
        CertificateStatus.rejected: 1,
        CertificateStatus.issued: 1,
    }


@pytest.mark.requirement(35)
async def test_another_registered_ra_cannot_confirm(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """Transactions belong to the RA that opened them."""
    second = operator_pki.issuing.issue("CN=RA 2", eku=[pki.CMC_RA])
    async with open_desk(operator_pki, tmp_path / "ledger.db", others={"ra2": second}) as desk:
        enrolment = await desk.enrol()
        der = await desk.confirmation(enrolment, signer=cmp_credential(second))
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)
        await desk.confirm(enrolment)


# --- repeats and collisions -----------------------------------------------------------------------------------


@pytest.mark.requirement(12, 94)
async def test_a_repeat_gets_the_stored_answer(desk: Desk) -> None:
    """The same octets, and the same request signed anew by the RA: one certificate, one answer."""
    key = pki.make_key("p256")
    header = desk.header()
    message = PKIMessage.from_der(await desk.request(key=key, header=header))
    first = await desk.send(message.der)
    assert (await desk.send(message.der)).der == first.der
    resigned = await desk.signed(
        replace(header, message_time=NOW + timedelta(seconds=9)), message.body_der
    )
    assert resigned != message.der
    assert (await desk.send(resigned)).der == first.der
    assert await desk.ledger.counts() == {CertificateStatus.issued: 1}


@pytest.mark.requirement(12, 29, 94)
async def test_a_repeat_that_comes_late_gets_the_stored_answer(desk: Desk) -> None:
    """Of a request and of its certConf, whose messageTime is too old by then; anything else is told badTime."""
    key = pki.make_key("p256")
    der = await desk.request(key=key)
    answer = await desk.send(der)
    confirmation = await desk.confirmation(desk.received(key, der, answer))
    confirmed = await desk.send(confirmation)
    header = desk.header(transaction_id=PKIMessage.from_der(der).header.transaction_id)
    another = await desk.request(header=header)
    desk.clock.advance(seconds=RULES.message_time_window_seconds + 1)
    assert (await desk.send(der)).der == answer.der
    assert (await desk.send(confirmation)).der == confirmed.der
    assert await desk.refused(another) == (BodyType.error, PKIFailureInfo.badTime)
    assert await desk.ledger.counts() == {CertificateStatus.confirmed: 1}


@pytest.mark.requirement(12, 94)
async def test_simultaneous_repeats_yield_one_certificate(desk: Desk) -> None:
    """Ten times the same ir at once."""
    der = await desk.request()
    answers = await asyncio.gather(*(desk.send(der) for _ in range(10)))
    assert len({answer.der for answer in answers}) == 1
    assert await desk.ledger.counts() == {CertificateStatus.issued: 1}


@pytest.mark.requirement(94)
async def test_two_processes_on_one_ledger_yield_one_certificate(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """The claim on the transactionID is in the file, not in memory."""
    path = tmp_path / "ledger.db"
    async with open_desk(operator_pki, path) as one, open_desk(operator_pki, path) as other:
        for _ in range(10):
            der = await one.request()
            answers = await asyncio.gather(one.send(der), other.send(der))
            assert answers[0].der == answers[1].der
        counts = await one.ledger.counts()
        assert counts.pop(CertificateStatus.issued) == 10
        assert set(counts) <= {CertificateStatus.reserved}  # the losers never got a certificate


@pytest.mark.requirement(12)
async def test_another_request_under_a_live_transaction_id_is_refused(desk: Desk) -> None:
    """transactionIdInUse, also while the first is at work; the first is unharmed."""
    header = desk.header()
    first = await desk.request(header=header)
    second = await desk.request(header=header)
    answer, refusal = await asyncio.gather(desk.send(first), desk.refused(second))
    assert refusal == (BodyType.error, PKIFailureInfo.transactionIdInUse)
    assert await desk.refused(second) == (BodyType.error, PKIFailureInfo.transactionIdInUse)
    assert (await desk.send(first)).der == answer.der
    assert await desk.ledger.counts() == {CertificateStatus.issued: 1}


async def test_after_a_restart_repeat_and_certconf_still_work(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """The ledger is on disk before the answer leaves."""
    path = tmp_path / "ledger.db"
    async with open_desk(operator_pki, path) as desk:
        enrolment = await desk.enrol()
        nonce = secrets.token_bytes(16)
        certconf = await desk.confirmation(enrolment, sender_nonce=nonce)
    async with open_desk(operator_pki, path) as desk:
        assert (await desk.send(enrolment.request)).der == enrolment.answer.der
        pkiconf = await desk.send(certconf)
        assert pkiconf.body_type is BodyType.pkiconf
    async with open_desk(operator_pki, path) as desk:
        assert (await desk.send(certconf)).der == pkiconf.der


async def test_an_expired_transaction_id_may_be_used_again(desk: Desk) -> None:
    """After confirmWaitTime and twice the window of messageTime."""
    first = await desk.enrol(header=desk.header(transaction_id=b"reused"))
    desk.clock.advance(seconds=CONFIRM_WAIT_SECONDS + 2 * RULES.message_time_window_seconds + 1)
    second = await desk.enrol(header=desk.header(transaction_id=b"reused"))
    assert first.certificate != second.certificate


# --- renewal --------------------------------------------------------------------------------------------------


def old_cert_id(certificate: Certificate) -> tuple[Control, ...]:
    cert_id = CertId(directory_name(certificate.issuer_der), certificate.serial_number)
    return (Control(OID.oldCertID, crmf.cert_id_der(cert_id)),)


NAMES = (Extension(OID.subjectAltName, False, general_names_der(["dns:enb1.example.net"])),)


@pytest.fixture
async def enrolled(desk: Desk) -> Enrolment:
    """A device with a confirmed certificate for two names."""
    enrolment = await desk.enrol(
        template=CertTemplate(subject_der=from_rfc4514(SUBJECT), extensions=NAMES)
    )
    await desk.confirm(enrolment)
    return enrolment


@pytest.mark.requirement(59, 144, 156)
@pytest.mark.parametrize(
    "popo, named",
    [(None, True), (None, False), (crmf.RA_VERIFIED_POPO_DER, True)],
    ids=["signature-oldCertID", "signature-subject", "raVerified-oldCertID"],
)
async def test_a_renewal_by_the_ra(
    desk: Desk, enrolled: Enrolment, popo: bytes | None, named: bool
) -> None:
    """Names are copied where absent; the old certificate stays valid, and is superseded once confirmed."""
    old = enrolled.certificate
    template = CertTemplate() if named else CertTemplate(subject_der=old.subject_der)
    renewal = await desk.enrol(
        BodyType.kur,
        template=template,
        controls=old_cert_id(old) if named else (),
        popo=popo,
    )
    assert renewal.answer.body_type is BodyType.kup
    assert renewal.status.status is PKIStatus.accepted
    assert renewal.certificate.subject_der == old.subject_der
    assert renewal.certificate.subject_alt_name_der == old.subject_alt_name_der
    assert await desk.status(old) is CertificateStatus.confirmed
    await desk.confirm(renewal)
    assert await desk.status(old) is CertificateStatus.superseded
    assert await desk.status(renewal.certificate) is CertificateStatus.confirmed
    assert (await desk.send(renewal.request)).der == renewal.answer.der


async def test_an_implicitly_confirmed_renewal_supersedes_at_once(
    desk: Desk, enrolled: Enrolment
) -> None:
    """There is no later moment."""
    await desk.enrol(
        BodyType.kur,
        controls=old_cert_id(enrolled.certificate),
        header=desk.header(general_info=(IMPLICIT_CONFIRM,)),
    )
    assert await desk.status(enrolled.certificate) is CertificateStatus.superseded


@pytest.mark.requirement(156)
async def test_a_rejected_renewal_leaves_the_old_certificate_as_it_was(
    desk: Desk, enrolled: Enrolment
) -> None:
    """Only acceptance supersedes."""
    renewal = await desk.enrol(BodyType.kur, controls=old_cert_id(enrolled.certificate))
    await desk.confirm(renewal, status_info=PKIStatusInfo(PKIStatus.rejection))
    assert await desk.status(enrolled.certificate) is CertificateStatus.confirmed
    again = await desk.refused(
        await desk.request(BodyType.kur, controls=old_cert_id(renewal.certificate))
    )
    assert again == (BodyType.kup, PKIFailureInfo.certRevoked)


async def test_the_newest_certificate_of_a_subject_is_the_one_renewed(
    desk: Desk, enrolled: Enrolment
) -> None:
    """Names are compared by meaning, not by encoding."""
    second = await desk.enrol()
    await desk.confirm(second)
    loud = CertTemplate(subject_der=from_rfc4514(SUBJECT.upper()))
    renewal = await desk.enrol(BodyType.kur, template=loud)
    await desk.confirm(renewal)
    assert await desk.status(enrolled.certificate) is CertificateStatus.confirmed
    assert await desk.status(second.certificate) is CertificateStatus.superseded


@pytest.mark.requirement(68)
async def test_a_renewal_of_an_unknown_certificate_is_refused(
    desk: Desk, enrolled: Enrolment
) -> None:
    """By serial number, by issuer, by subject: badCertId in kup."""
    wrong_serial = (
        Control(
            OID.oldCertID,
            crmf.cert_id_der(CertId(directory_name(enrolled.certificate.issuer_der), -5)),
        ),
    )
    wrong_issuer = (
        Control(
            OID.oldCertID,
            crmf.cert_id_der(
                CertId(
                    directory_name(enrolled.certificate.subject_der),
                    enrolled.certificate.serial_number,
                )
            ),
        ),
    )
    nobody = CertTemplate(subject_der=from_rfc4514("CN=nobody"))
    for der in (
        await desk.request(BodyType.kur, controls=wrong_serial, cert_req_id=7),
        await desk.request(BodyType.kur, controls=wrong_issuer, cert_req_id=7),
        await desk.request(BodyType.kur, template=nobody, cert_req_id=7),
        await desk.request(
            BodyType.kur, template=CertTemplate(), popo=crmf.RA_VERIFIED_POPO_DER, cert_req_id=7
        ),
    ):
        assert await desk.refused(der) == (BodyType.kup, PKIFailureInfo.badCertId)
        (response,) = cert_rep_message(desk.answers[-1].body_content).responses
        assert response.cert_req_id == 7


@pytest.mark.requirement(69)
async def test_a_renewal_of_an_expired_certificate_is_refused(
    desk: Desk, enrolled: Enrolment
) -> None:
    """signerNotTrusted when it is named; by subject alone it is not even found."""
    desk.clock.advance(days=366)
    named = await desk.request(BodyType.kur, controls=old_cert_id(enrolled.certificate))
    assert await desk.refused(named) == (BodyType.kup, PKIFailureInfo.signerNotTrusted)
    unnamed = await desk.request(BodyType.kur)
    assert await desk.refused(unnamed) == (BodyType.kup, PKIFailureInfo.badCertId)


@pytest.mark.requirement(70)
async def test_a_renewal_under_another_name_is_refused(desk: Desk, enrolled: Enrolment) -> None:
    """Another subject, or another SubjectAltName: badCertTemplate in kup."""
    controls = old_cert_id(enrolled.certificate)
    other_names = (
        Extension(OID.subjectAltName, False, general_names_der(["dns:enb2.example.net"])),
    )
    for template in (
        CertTemplate(subject_der=from_rfc4514("CN=enb2.example.net,O=Example Operator")),
        CertTemplate(subject_der=from_rfc4514(SUBJECT), extensions=other_names),
    ):
        der = await desk.request(BodyType.kur, controls=controls, template=template)
        assert await desk.refused(der) == (BodyType.kup, PKIFailureInfo.badCertTemplate)


# --- who may speak --------------------------------------------------------------------------------------------


@pytest.mark.requirement(21, 58)
async def test_a_foreign_ra_is_refused(desk: Desk, vendor_pki: VendorPKI) -> None:
    """signerNotTrusted: no path to the operator's root, whatever its certificate says."""
    stranger = vendor_pki.sub.issue("CN=RA", eku=[pki.CMC_RA])
    der = await desk.request(signer=cmp_credential(stranger))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)
    await assert_nothing_issued(desk)


@pytest.mark.requirement(58, 155)
@pytest.mark.parametrize("eku", [[], [pki.CMC_RA]], ids=["device", "unregistered RA"])
async def test_an_operator_certificate_that_is_not_registered_is_refused(
    desk: Desk, eku: list[str]
) -> None:
    """signerNotTrusted: also for the registered RA's own name, and with cmcRA."""
    other = desk.operator.issuing.issue(desk.operator.ra.certificate.subject, eku=eku)
    der = await desk.request(signer=cmp_credential(other))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)
    await assert_nothing_issued(desk)


@pytest.mark.requirement(22)
async def test_an_expired_ra_certificate_is_refused(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """signerNotTrusted although registered."""
    expired = operator_pki.issuing.issue("CN=RA", not_after=NOW - timedelta(days=1))
    async with open_desk(operator_pki, tmp_path / "ledger.db", registered=(expired,)) as desk:
        der = await desk.request(signer=cmp_credential(expired))
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.signerNotTrusted)


async def test_old_and_new_certificate_of_an_ra_are_accepted(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """During a change of certificates."""
    new = operator_pki.issuing.issue(operator_pki.ra.certificate.subject, eku=[pki.CMC_RA])
    async with open_desk(
        operator_pki, tmp_path / "ledger.db", registered=(operator_pki.ra, new)
    ) as desk:
        for signer in (operator_pki.ra, new):
            enrolment = await desk.enrol(signer=cmp_credential(signer))
            await desk.confirm(enrolment, signer=cmp_credential(signer))


@pytest.mark.requirement(12, 80, 100)
async def test_an_ra_may_change_its_certificate_between_ip_and_certconf(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """The transaction is the RA's: the new certificate gets the stored answer, and confirms it."""
    new = operator_pki.issuing.issue(operator_pki.ra.certificate.subject, eku=[pki.CMC_RA])
    renewed = cmp_credential(new)
    async with open_desk(
        operator_pki, tmp_path / "ledger.db", registered=(operator_pki.ra, new)
    ) as desk:
        key = pki.make_key("p256")
        enrolment = await desk.enrol(key=key)
        first = PKIMessage.from_der(enrolment.request)
        repeat = await desk.send(await desk.signed(first.header, first.body_der, renewed))
        assert repeat == enrolment.answer
        await desk.confirm(enrolment, signer=renewed)
        assert await desk.ledger.counts() == {CertificateStatus.confirmed: 1}


async def test_changes_of_the_registered_are_heard_while_the_ca_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocked RA, and a certificate that was removed, are heard no more; what is added is."""
    monkeypatch.setattr("ra_gateway.ca.authorization.AUTHORITIES_SECONDS", 0.0)
    registry, signer = desk.ledger.registry, desk.ra.certificate
    refused = (BodyType.error, PKIFailureInfo.signerNotTrusted)
    await desk.enrol()
    await registry.set_authority_enabled("ra1", False, "test", NOW)
    assert await desk.refused(await desk.request()) == refused
    answer = await desk.send(await desk.request())
    (told,) = error_msg_content(answer.body_content).status_info.status_string
    assert told == "The RA that the certificate is registered for is blocked here."
    await registry.set_authority_enabled("ra1", True, "test", NOW)
    await desk.enrol()
    new = desk.operator.issuing.issue("CN=RA new", eku=[pki.CMC_RA])
    await registry.add_authority_certificate(
        "ra1", pki.certificate_der(new.certificate), "test", NOW
    )
    await registry.remove_authority_certificate("ra1", signer.fingerprint, "test", NOW)
    assert await desk.refused(await desk.request()) == refused
    await desk.enrol(signer=cmp_credential(new))


async def test_what_was_registered_a_moment_ago_is_heard_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's script need not wait between issuing and installing; what stays unknown is asked for once."""
    registry = desk.ledger.registry
    new = desk.operator.issuing.issue("CN=RA new", eku=[pki.CMC_RA])
    refused = (BodyType.error, PKIFailureInfo.signerNotTrusted)
    await desk.enrol()
    assert await desk.refused(await desk.request(signer=cmp_credential(new))) == refused
    await registry.add_authority_certificate(
        "ra1", pki.certificate_der(new.certificate), "test", NOW
    )
    await desk.enrol(signer=cmp_credential(new))
    asked = 0
    authorities = registry.authorities

    async def counted() -> Sequence[Authority]:
        nonlocal asked
        asked += 1
        return await authorities()

    monkeypatch.setattr(registry, "authorities", counted)
    other = desk.operator.issuing.issue("CN=enb7")
    messages = [await desk.request(signer=cmp_credential(other)) for _ in range(5)]
    for der in messages:
        assert await desk.refused(der) == refused
    assert asked == 5


@pytest.mark.requirement(34)
async def test_a_registered_ra_need_not_send_its_certificate(desk: Desk) -> None:
    """The CA has it."""
    enrolment = await desk.enrol()
    message = PKIMessage.from_der(await desk.confirmation(enrolment))
    der = await protect(message.header, message.body_der, desk.ra, ())
    assert (await desk.send(der)).body_type is BodyType.pkiconf


@pytest.mark.requirement(155)
@pytest.mark.parametrize(
    "privileges, body_type",
    [
        (frozenset({Privilege.update}), BodyType.ir),
        (frozenset({Privilege.revoke}), BodyType.cr),
        (frozenset({Privilege.issue}), BodyType.kur),
    ],
)
async def test_a_privilege_is_needed(
    operator_pki: OperatorPKI,
    tmp_path: Path,
    privileges: frozenset[Privilege],
    body_type: BodyType,
) -> None:
    """notAuthorized in the body's own answer."""
    path = tmp_path / "ledger.db"
    async with open_desk(operator_pki, path, privileges=privileges) as desk:
        der = await desk.request(body_type)
        assert await desk.refused(der) == (
            CERT_RESPONSE_TO[body_type],
            PKIFailureInfo.notAuthorized,
        )
        await assert_nothing_issued(desk)


@pytest.mark.requirement(13, 15, 114)
async def test_protection_is_needed_and_verified(desk: Desk) -> None:
    """Without it, and with a flipped bit in it: badMessageCheck, in a signed error."""
    der = await desk.request()
    message = PKIMessage.from_der(der)
    bare = replace(message.header, protection_alg_der=None).to_der()
    unprotected = asn1.tlv(0x30, bare, message.body_der)
    assert await desk.refused(unprotected) == (BodyType.error, PKIFailureInfo.badMessageCheck)
    broken = message.header_der[:-1] + bytes([message.header_der[-1] ^ 1])
    flipped = der.replace(message.header_der, broken)
    reply = PKIMessage.from_der((await desk.ca.handle(flipped)).der)
    assert error_msg_content(reply.body_content).status_info.fail_info == (
        PKIFailureInfo.badMessageCheck,
    )
    await assert_nothing_issued(desk)


@pytest.mark.requirement(29)
async def test_a_stale_message_is_refused(desk: Desk) -> None:
    """badTime."""
    der = await desk.request(header=desk.header(message_time=NOW - timedelta(hours=1)))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badTime)


@pytest.mark.requirement(2, 113)
@pytest.mark.parametrize("pvno, answered", [(1, 2), (4, 3)])
async def test_other_versions_are_refused(desk: Desk, pvno: int, answered: int) -> None:
    """unsupportedVersion in the nearest version that is supported."""
    der = await desk.request(header=desk.header(pvno=pvno))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.unsupportedVersion)
    assert desk.answers[-1].header.pvno == answered


@pytest.mark.requirement(9, 10, 115)
@pytest.mark.parametrize(
    "body_der",
    [
        body(BodyType.pollReq, b"\x30\x00"),
        body(BodyType.krr, b"\x30\x00"),
        body(BodyType.pkiconf, b"\x05\x00"),
        error_body(PKIStatusInfo(PKIStatus.rejection)),
    ],
    ids=["pollReq", "krr", "pkiconf", "error"],
)
async def test_other_bodies_are_refused(desk: Desk, body_der: bytes) -> None:
    """badRequest."""
    der = await desk.signed(desk.header(), body_der)
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


@pytest.mark.requirement(1)
@pytest.mark.parametrize("octets", [b"", b"\x30\x00", b"nonsense", b"\x30\x80\x00\x00"])
async def test_octets_that_are_no_message_get_an_unprotected_error(
    desk: Desk, octets: bytes
) -> None:
    """badDataFormat, and HTTP learns that it was not understood."""
    reply = await desk.ca.handle(octets)
    assert not reply.understood
    answer = PKIMessage.from_der(reply.der)
    assert answer.protection is None
    assert error_msg_content(answer.body_content).status_info.fail_info == (
        PKIFailureInfo.badDataFormat,
    )


# --- what may be asked for ------------------------------------------------------------------------------------


@pytest.mark.requirement(53, 54, 112, 155)
async def test_possession_must_be_proved(desk: Desk) -> None:
    """No proof, and another key's proof: badPOP in ip; nothing in the ledger."""
    prover = KeySigner(pki.make_key("p256"))
    foreign = crmf.signature_popo_der(prover.algorithm.der, await prover.sign(b"something else"))
    for popo in (b"", foreign):
        der = await desk.request(popo=popo)
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badPOP)
    await assert_nothing_issued(desk)


@pytest.mark.requirement(46)
async def test_two_requests_in_one_message_are_refused(desk: Desk) -> None:
    """badRequest in ip."""
    der = await desk.request(copies=2)
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badRequest)


@pytest.mark.requirement(48, 51, 61)
async def test_unacceptable_templates_are_refused(desk: Desk) -> None:
    """A version 1 certificate, no name at all, a weak key: badCertTemplate in ip."""
    for der in (
        await desk.request(template=CertTemplate(subject_der=from_rfc4514(SUBJECT), version=0)),
        await desk.request(template=CertTemplate(), popo=crmf.RA_VERIFIED_POPO_DER),
        await desk.request(key=pki.make_key("rsa1024")),
    ):
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)
    await assert_nothing_issued(desk)


@pytest.mark.requirement(63)
@pytest.mark.parametrize(
    "extension",
    [
        Extension(OID.basicConstraints, True, bytes.fromhex("30030101ff")),
        Extension(OID.keyUsage, True, bytes.fromhex("03020204")),
        Extension(OID.extKeyUsage, False, asn1.tlv(0x30, asn1.oid_der(OID.cmcRA))),
    ],
    ids=["CA", "keyCertSign", "cmcRA"],
)
async def test_authority_cannot_be_asked_for(desk: Desk, extension: Extension) -> None:
    """notAuthorized in ip."""
    template = CertTemplate(subject_der=from_rfc4514(SUBJECT), extensions=(extension,))
    der = await desk.request(template=template)
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)


@pytest.mark.requirement(62, 67)
async def test_names_and_keys_of_the_pki_itself_cannot_be_had(desk: Desk) -> None:
    """Who held one could pass for the CA or the RA."""
    operator = desk.operator
    for entity in (operator.ra, operator.cmp_signer, operator.issuing, operator.root):
        subject = cmp_certificate(entity.certificate).subject_der
        der = await desk.request(template=CertTemplate(subject_der=subject))
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)
        der = await desk.request(key=entity.private_key)
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)
    await assert_nothing_issued(desk)


# --- nested ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(35, 68, 124, 144)
async def test_a_nested_renewal(desk: Desk, enrolled: Enrolment) -> None:
    """The device's kur inside the RA's nested; answers are plain, certConf comes nested as well."""
    key = pki.make_key("p256")
    kur = await desk.request(BodyType.kur, key=key, signer=enrolled.entity)
    renewal = desk.received(key, kur, await desk.send(await desk.nest(kur)))
    assert renewal.answer.body_type is BodyType.kup
    assert renewal.answer.header.recipient_der == directory_name(enrolled.certificate.subject_der)
    assert renewal.certificate.subject_alt_name_der == enrolled.certificate.subject_alt_name_der

    plain = await desk.confirmation(renewal)
    assert await desk.refused(plain) == (BodyType.error, PKIFailureInfo.badMessageCheck)
    by_new_key = await desk.nest(await desk.confirmation(renewal, signer=renewal.entity))
    assert await desk.refused(by_new_key) == (BodyType.error, PKIFailureInfo.badMessageCheck)

    # The device leaves its certificate out of certConf, as it may.
    message = PKIMessage.from_der(await desk.confirmation(renewal, signer=enrolled.entity))
    certconf = await protect(message.header, message.body_der, enrolled.entity, ())
    assert (await desk.send(await desk.nest(certconf))).body_type is BodyType.pkiconf
    assert await desk.status(enrolled.certificate) is CertificateStatus.superseded


@pytest.mark.requirement(29, 124)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_what_an_ra_nests_needs_no_clock(
    desk: Desk, enrolled: Enrolment, vendor_pki: VendorPKI, body_type: BodyType
) -> None:
    """The RA's own message says when that was; what comes plain, and the RA's own message, are held to the clock."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    signer = enrolled.entity
    if body_type is BodyType.ir:
        signer = cmp_credential(vendor_pki.device("SN-000001"))
    key = pki.make_key("p256")
    header = desk.header(message_time=epoch)
    inner = await desk.request(body_type, key=key, signer=signer, header=header)
    late = await desk.nest(inner, message_time=epoch)
    assert (await desk.refused(late))[1] is PKIFailureInfo.badTime
    made = desk.received(key, inner, await desk.send(await desk.nest(inner)))
    confirmation = await desk.confirmation(made, signer=signer, message_time=epoch)
    assert (await desk.send(await desk.nest(confirmation))).body_type is BodyType.pkiconf
    plain = await desk.request(header=desk.header(message_time=epoch))
    assert (await desk.refused(plain))[1] is PKIFailureInfo.badTime


@pytest.mark.requirement(1, 124)
async def test_a_vendor_certificate_that_is_not_der_and_that_an_ra_nests(
    desk: Desk, vendor_pki: VendorPKI
) -> None:
    """The RA knows the vendors, and has let it pass."""
    made = vendor_pki.device("SN-000001")
    shape, _ = SHAPES["critical by 01"]
    der = respelt(pki.certificate_der(made.certificate), vendor_pki.sub, shape)
    certificate = load_certificate(der, loosely=True)
    signer = Credential(certificate, (), KeySigner(made.private_key))
    enrolment = desk.received(
        key := pki.make_key("p256"),
        inner := await desk.request(key=key, signer=signer),
        await desk.send(await desk.nest(inner)),
    )
    confirmation = await desk.confirmation(enrolment, signer=signer)
    assert (await desk.send(await desk.nest(confirmation))).body_type is BodyType.pkiconf


@pytest.mark.requirement(122)
async def test_nested_ids_must_be_those_inside(desk: Desk, enrolled: Enrolment) -> None:
    """Another transactionID: badRequest; another senderNonce: badSenderNonce."""
    kur = await desk.request(BodyType.kur, signer=enrolled.entity)
    other = secrets.token_bytes(16)
    assert await desk.refused(await desk.nest(kur, transaction_id=other)) == (
        BodyType.error,
        PKIFailureInfo.badRequest,
    )
    assert await desk.refused(await desk.nest(kur, sender_nonce=other)) == (
        BodyType.error,
        PKIFailureInfo.badSenderNonce,
    )


@pytest.mark.requirement(59, 123)
async def test_nested_from_anyone_else_is_refused(desk: Desk, enrolled: Enrolment) -> None:
    """A device that nests: notAuthorized; and raVerified inside is the device's word: notAuthorized."""
    kur = await desk.request(BodyType.kur, signer=enrolled.entity)
    by_device = await desk.nest(kur, enrolled.entity)
    assert await desk.refused(by_device) == (BodyType.error, PKIFailureInfo.notAuthorized)
    verified = await desk.request(
        BodyType.kur, signer=enrolled.entity, popo=crmf.RA_VERIFIED_POPO_DER
    )
    assert await desk.refused(await desk.nest(verified)) == (
        BodyType.kup,
        PKIFailureInfo.notAuthorized,
    )


@pytest.mark.requirement(128)
async def test_nested_in_nested_is_refused(desk: Desk, enrolled: Enrolment) -> None:
    """badRequest; so is the same message twice."""
    kur = await desk.request(BodyType.kur, signer=enrolled.entity)
    nested = await desk.nest(kur)
    header = PKIMessage.from_der(kur).header
    for der in (
        await desk.nest(nested),
        await desk.signed(header, nested_body(kur, kur)),
    ):
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


@pytest.mark.requirement(36, 71)
async def test_a_nested_renewal_by_a_vendor_certificate_is_refused(
    desk: Desk, vendor_pki: VendorPKI
) -> None:
    """signerNotTrusted; and an RA's certificate is no device's: notAuthorized."""
    by_vendor = await desk.request(BodyType.kur, signer=cmp_credential(vendor_pki.device()))
    assert await desk.refused(await desk.nest(by_vendor)) == (
        BodyType.error,
        PKIFailureInfo.signerNotTrusted,
    )
    by_ra = await desk.request(BodyType.kur)
    assert await desk.refused(await desk.nest(by_ra)) == (
        BodyType.kup,
        PKIFailureInfo.notAuthorized,
    )


@pytest.mark.requirement(68, 69)
async def test_a_nested_renewal_must_be_signed_by_the_certificate_it_renews(
    desk: Desk, enrolled: Enrolment
) -> None:
    """oldCertID of another: badCertId; a rejected certificate signs nothing any more."""
    second = await desk.enrol()
    kur = await desk.request(
        BodyType.kur, signer=enrolled.entity, controls=old_cert_id(second.certificate)
    )
    assert await desk.refused(await desk.nest(kur)) == (BodyType.kup, PKIFailureInfo.badCertId)
    await desk.confirm(second, status_info=PKIStatusInfo(PKIStatus.rejection))
    kur = await desk.request(BodyType.kur, signer=second.entity)
    assert await desk.refused(await desk.nest(kur)) == (
        BodyType.error,
        PKIFailureInfo.certRevoked,
    )


async def test_a_nested_cr(desk: Desk, enrolled: Enrolment) -> None:
    """A device asks for a second certificate with its first; an operator certificate not from here cannot."""
    key = pki.make_key("p256")
    cr = await desk.request(BodyType.cr, key=key, signer=enrolled.entity)
    second = desk.received(key, cr, await desk.send(await desk.nest(cr)))
    confirmation = await desk.confirmation(second, signer=enrolled.entity)
    assert (await desk.send(await desk.nest(confirmation))).body_type is BodyType.pkiconf
    assert await desk.status(enrolled.certificate) is CertificateStatus.confirmed
    unknown = await desk.request(BodyType.cr, signer=cmp_credential(desk.operator.device()))
    assert await desk.refused(await desk.nest(unknown)) == (
        BodyType.error,
        PKIFailureInfo.signerNotTrusted,
    )


@pytest.mark.requirement(124)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr])
async def test_a_nested_first_request(
    desk: Desk, vendor_pki: VendorPKI, body_type: BodyType
) -> None:
    """The RA that nests it knows the vendor; certConf comes nested too, by the vendor certificate."""
    device = cmp_credential(vendor_pki.device())
    key = pki.make_key("p256")
    der = await desk.request(body_type, key=key, signer=device)
    first = desk.received(key, der, await desk.send(await desk.nest(der)))
    stranger = cmp_credential(vendor_pki.device("SN-OTHER"))
    wrong = await desk.nest(await desk.confirmation(first, signer=stranger))
    assert await desk.refused(wrong) == (BodyType.error, PKIFailureInfo.badMessageCheck)
    certconf = await desk.confirmation(first, signer=device)
    assert (await desk.send(await desk.nest(certconf))).body_type is BodyType.pkiconf
    assert await desk.status(first.certificate) is CertificateStatus.confirmed


@pytest.mark.requirement(123)
async def test_what_an_ra_nests_is_signed_by_its_device(desk: Desk, enrolled: Enrolment) -> None:
    """No ir by a certificate of ours, which may have been revoked; no raVerified; no broken signature."""
    own = await desk.request(signer=enrolled.entity)
    assert await desk.refused(await desk.nest(own)) == (
        BodyType.error,
        PKIFailureInfo.signerNotTrusted,
    )
    vendor = cmp_credential(pki.make_vendor_pki("Some Radio").device())
    verified = await desk.request(signer=vendor, popo=crmf.RA_VERIFIED_POPO_DER)
    assert await desk.refused(await desk.nest(verified)) == (
        BodyType.ip,
        PKIFailureInfo.notAuthorized,
    )
    message = PKIMessage.from_der(await desk.request(signer=vendor))
    forged = assemble(message.header_der, message.body_der, bytes(70), message.extra_certs)
    assert await desk.refused(await desk.nest(forged)) == (
        BodyType.error,
        PKIFailureInfo.badMessageCheck,
    )


# --- batches --------------------------------------------------------------------------------------------------


async def batch(desk: Desk, *members: bytes) -> list[PKIMessage]:
    answer = await desk.send(await desk.signed(desk.header(), nested_body(*members)))
    assert answer.body_type is BodyType.nested
    return [PKIMessage.from_der(der) for der in nested_messages(answer.body_content)]


@pytest.mark.requirement(125)
async def test_a_batch(desk: Desk) -> None:
    """Each member is answered for itself, in order: certificates, a refusal, certConf in the next batch."""
    keys = [pki.make_key("p256") for _ in range(3)]
    sent = [
        await desk.request(key=key, template=CertTemplate(subject_der=from_rfc4514(f"CN=enb{n}")))
        for n, key in enumerate(keys)
    ]
    sent.insert(1, await desk.request(popo=b""))
    answers = await batch(desk, *sent)
    assert [item.header.transaction_id for item in answers] == [
        PKIMessage.from_der(der).header.transaction_id for der in sent
    ]
    (response,) = cert_rep_message(answers.pop(1).body_content).responses
    assert response.status_info.fail_info == (PKIFailureInfo.badPOP,)
    sent.pop(1)
    made = [
        desk.received(key, der, answer)
        for key, der, answer in zip(keys, sent, answers, strict=True)
    ]
    confirmed = await batch(desk, *[await desk.confirmation(item) for item in made])
    assert {item.body_type for item in confirmed} == {BodyType.pkiconf}


@pytest.mark.requirement(125, 128)
async def test_being_in_a_batch_is_no_approval(desk: Desk, vendor_pki: VendorPKI) -> None:
    """A member by a device's own protection is refused, one that is nested itself too; the rest is served."""
    by_device = await desk.request(signer=cmp_credential(vendor_pki.device()))
    nested = await desk.nest(await desk.request(signer=cmp_credential(vendor_pki.device())))
    refused, too_deep, served = await batch(desk, by_device, nested, await desk.request())
    assert error_msg_content(refused.body_content).status_info.fail_info == (
        PKIFailureInfo.signerNotTrusted,
    )
    assert error_msg_content(too_deep.body_content).status_info.fail_info == (
        PKIFailureInfo.badRequest,
    )
    assert served.body_type is BodyType.ip


@pytest.mark.requirement(126)
async def test_a_batch_with_the_same_id_twice(desk: Desk) -> None:
    """badRequest for the batch as a whole."""
    header = desk.header()
    twins = [await desk.request(header=header) for _ in range(2)]
    der = await desk.signed(desk.header(), nested_body(*twins))
    assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.badRequest)


# --- when something breaks ------------------------------------------------------------------------------------


class BrokenLedger(Ledger):
    """Fails where a test says so."""

    failing: str = ""
    error: Exception = StoreUnavailable("disk full")

    async def reserve(self, *args: Any, **kwargs: Any) -> Operation | None:
        if self.failing == "reserve":
            raise self.error
        return await super().reserve(*args, **kwargs)

    async def store(self, *args: Any, **kwargs: Any) -> Operation:
        if self.failing == "store":
            raise self.error
        return await super().store(*args, **kwargs)


@pytest.mark.requirement(155)
@pytest.mark.parametrize("failing", ["reserve", "store"])
async def test_no_certificate_leaves_that_is_not_in_the_ledger(
    operator_pki: OperatorPKI, tmp_path: Path, failing: str
) -> None:
    """systemUnavail; the repeat after that is issued under a serial number of its own."""
    ledger = BrokenLedger(SQLiteDatabase(tmp_path / "ledger.db"))
    async with open_desk(operator_pki, tmp_path / "ledger.db", ledger=ledger) as desk:
        ledger.failing = failing
        key = pki.make_key("p256")
        der = await desk.request(key=key)
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.systemUnavail)
        assert CertificateStatus.issued not in await ledger.counts()
        ledger.failing = ""
        enrolment = desk.received(key, der, await desk.send(der))
        await desk.confirm(enrolment)
        assert (await ledger.counts())[CertificateStatus.confirmed] == 1


async def test_an_unexpected_error_is_answered_and_logged(
    operator_pki: OperatorPKI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """systemFailure without a word of what happened; the log has it."""
    ledger = BrokenLedger(SQLiteDatabase(tmp_path / "ledger.db"))
    async with open_desk(operator_pki, tmp_path / "ledger.db", ledger=ledger) as desk:
        ledger.failing, ledger.error = "store", ZeroDivisionError("inner secret")
        reply = await desk.ca.handle(await desk.request())
        assert b"secret" not in reply.der
        info = error_msg_content(PKIMessage.from_der(reply.der).body_content).status_info
        assert info.fail_info == (PKIFailureInfo.systemFailure,)
        assert "inner secret" in capsys.readouterr().out


async def test_a_ca_without_its_random_source_issues_nothing(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """The same serial number again and again: systemFailure, not a second certificate with it."""
    async with open_desk(
        operator_pki, tmp_path / "ledger.db", random_octets=lambda count: bytes(count)
    ) as desk:
        await desk.enrol()
        refusal = await desk.refused(await desk.request())
        assert refusal == (BodyType.error, PKIFailureInfo.systemFailure)
        assert await desk.ledger.counts() == {CertificateStatus.issued: 1}


async def test_a_deadline_that_passes_is_told_and_the_work_is_finished(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """The caller learns that the CA saw the message; its repeat gets the answer."""

    class SlowLedger(Ledger):
        async def store(self, *args: Any, **kwargs: Any) -> Operation:
            await released.wait()
            return await super().store(*args, **kwargs)

    released = asyncio.Event()
    ledger = SlowLedger(SQLiteDatabase(tmp_path / "ledger.db"))
    async with open_desk(operator_pki, tmp_path / "ledger.db", ledger=ledger) as desk:
        der = await desk.request()
        with pytest.raises(UpstreamUnavailable) as raised:
            await desk.ca.exchange(der, deadline_seconds=0.05)
        assert raised.value.delivered
        released.set()
        answer = PKIMessage.from_der(await desk.ca.exchange(der, path="", deadline_seconds=10))
        assert answer.body_type is BodyType.ip
        assert await ledger.counts() == {CertificateStatus.issued: 1}


async def test_many_issuances_share_few_commits(desk: Desk, tmp_path: Path) -> None:
    """Fifty that wait for the file are reserved in two commits: the first that came, and all others."""
    requests = [await desk.request() for _ in range(50)]
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sending = asyncio.gather(*(desk.send(der) for der in requests))
        for _ in range(10):  # until each of them waits for the ledger
            await asyncio.sleep(0)
        other.execute("ROLLBACK")
    answers = await sending
    assert {answer.body_type for answer in answers} == {BodyType.ip}
    assert await desk.ledger.counts() == {CertificateStatus.issued: 50}
    assert desk.ledger.commit_count <= 2 + 50


async def test_what_the_ledger_tells_of_confirmation(desk: Desk) -> None:
    """Confirmed once certConf has come; not before, and not for a certificate of somebody else."""
    status = LedgerStatus(desk.ledger, ())
    enrolment = await desk.enrol()
    assert not await status.confirmed(enrolment.certificate, desk.clock.now)
    await desk.confirm(enrolment)
    assert await status.confirmed(enrolment.certificate, desk.clock.now)
    stranger = Certificate.from_der(pki.certificate_der(desk.operator.ra.certificate))
    assert not await status.confirmed(stranger, desk.clock.now)


async def test_the_ledger_tells_of_a_certificate_by_its_own_issuer(desk: Desk) -> None:
    """A serial number is one issuer's, also where the ledger has several issuers'."""
    issuing, root = (
        cmp_certificate(desk.operator.issuing.certificate),
        cmp_certificate(desk.operator.root.certificate),
    )
    status = LedgerStatus(desk.ledger, (issuing, root))
    certificate = (await desk.enrol()).certificate
    asked = certificate.serial_number, desk.clock.now
    assert await status.certificate(issuing.subject_der, *asked) == certificate
    assert await status.certificate(root.subject_der, *asked) is None


async def test_nothing_is_swept_by_a_clock_that_was_set(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that has yet to confirm does not lose its certificate to it."""
    enrolment = await desk.enrol()
    desk.clock.advance(days=1)
    looked, sweeps = asyncio.Event(), []
    sweep = desk.ledger.sweep

    def steady() -> bool:
        looked.set()
        return False

    async def swept(now: Any) -> int:
        looked.set()
        sweeps.append(now)
        return await sweep(now)

    monkeypatch.setattr(desk.ca, "_steady", steady)
    monkeypatch.setattr(desk.ledger, "sweep", swept)
    task = asyncio.create_task(desk.ca._sweep_forever())
    await looked.wait()
    task.cancel()
    assert sweeps == []
    desk.clock.advance(days=-1)
    assert (await desk.confirm(enrolment)).body_type is BodyType.pkiconf


@pytest.mark.requirement(61)
@pytest.mark.parametrize("strictness", Strictness)
@pytest.mark.parametrize("kind", ["ed25519", "ed448", "p521", "mldsa44"])
async def test_ra_mode_certifies_the_kinds_of_keys_that_the_profile_says(
    operator_pki: OperatorPKI, tmp_path: Path, kind: pki.KeyKind, strictness: Strictness
) -> None:
    """Whatever client mode is set to; what the profile does not name is refused."""
    rules = HeaderRules(strictness=strictness)
    async with open_desk(operator_pki, tmp_path / "any.db", rules=rules) as desk:
        enrolment = await desk.enrol(key=pki.make_key(kind))
        await desk.confirm(enrolment)
    only = replace(NE_IPSEC, key_kinds=frozenset({"p256"}))
    async with open_desk(operator_pki, tmp_path / "one.db", rules=rules, profile=only) as desk:
        request = await desk.request(key=pki.make_key(kind))
        assert await desk.refused(request) == (BodyType.ip, PKIFailureInfo.badCertTemplate)
