"""Keys that the CA makes for devices (RFC 9483 4.1.6), end to end: a device, the CA, and an RA in between."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.derivation import derive
from ra_gateway.ca.key_generation import KeyGeneration
from ra_gateway.ca.records import CertificateStatus, EndEntity, Role
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.bodies import cert_rep_body, cert_rep_message, enveloped_data
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.cms import PrivateKeyHolder, open_envelope
from ra_gateway.cmp.cms_signed import open_package
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import (
    RA_VERIFIED_POPO_DER,
    CertTemplate,
    Extension,
    cert_req_msg_der,
    cert_request_der,
)
from ra_gateway.cmp.messages import PKIMessage, body
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import AnswerUntrusted, EnrollmentRefused
from ra_gateway.device.values import DeviceIdentity, RequestOptions, Send, operator_trust
from ra_gateway.errors import PKIFailureInfo, StoreUnavailable
from tests.support import pki
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import ALL, NOW, SUBJECT, Desk, open_desk, public
from tests.support.fleet import enrollment, operate
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.profiles import NE_IPSEC

CM_KGA = "1.3.6.1.5.5.7.3.32"
IDENTITY = "SN-000001"
ENB1 = EndEntity("enb1", SUBJECT, vendor="acme", identity=IDENTITY)
AGREEING = derive(NE_IPSEC, "agreeing", key_usage=["digitalSignature", "keyAgreement"])
"""Certificates of EC keys under this profile can be sent keys in their turn."""

P384 = asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.2.1"), asn1.oid_der("1.3.132.0.34"))
RSA = asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.1.1"), b"\x05\x00")
ED25519 = asn1.tlv(0x30, asn1.oid_der("1.3.101.112"))
ML_DSA_65 = asn1.tlv(0x30, asn1.oid_der("2.16.840.1.101.3.4.3.18"))
ML_KEM_768 = asn1.tlv(0x30, asn1.oid_der("2.16.840.1.101.3.4.4.2"))


def authority(operator: OperatorPKI, eku: tuple[str, ...] = (CM_KGA,)) -> KeyGeneration:
    return KeyGeneration(cmp_credential(operator.issuing.issue("CN=KGA", eku=eku)))


@asynccontextmanager
async def open_ca(
    operator: OperatorPKI,
    vendor: VendorPKI,
    path: Path,
    key_generation: KeyGeneration | None,
) -> AsyncIterator[Desk]:
    """A CA in both modes; the end entity SN-000001 of acme is registered."""
    domain = TrustDomain("acme", DomainKind.vendor, (cmp_certificate(vendor.root.certificate),))
    client = ClientMode({"acme": domain}, "cn", implicit_confirm=True)
    async with open_desk(
        operator,
        path / "ledger.db",
        profile=AGREEING,
        client=client,
        key_generation=key_generation,
    ) as desk:
        desk.mode = Mode.client
        registry = desk.ledger.registry
        await registry.add_entity(ENB1, "test", NOW)
        # It may speak for base stations of client mode, too.
        role = Role("ra1", ALL, (AGREEING.name,), subjects=("*",), sans=("*",), others=True)
        await registry.put_role(role, "test", NOW)
        yield desk


@pytest.fixture
async def desk(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> AsyncIterator[Desk]:
    async with open_ca(operator_pki, vendor_pki, tmp_path, authority(operator_pki)) as desk:
        yield desk


def device(vendor: VendorPKI, kind: Any = "p256", *usages: str) -> tuple[Credential, Any]:
    usage = usages or (("keyEncipherment",) if kind == "rsa2048" else ("keyAgreement",))
    issued = vendor.device(IDENTITY, kind, key_usage=["digitalSignature", *usage])
    return cmp_credential(issued), issued.private_key


async def asked(
    desk: Desk,
    signer: Credential,
    *,
    algorithm_der: bytes | None = None,
    popo: bytes = b"",
    pvno: int = 3,
    body_type: BodyType = BodyType.ir,
) -> bytes:
    """A request for a key put together by hand."""
    hint = None if algorithm_der is None else asn1.tlv(0x30, algorithm_der, b"\x03\x01\x00")
    template = CertTemplate(subject_der=from_rfc4514(SUBJECT), spki_der=hint)
    message = cert_req_msg_der(cert_request_der(template), popo)
    header = desk.header(pvno=pvno, sender_der=signer.sender_der)
    return await desk.signed(header, body(body_type, asn1.tlv(0x30, message)), signer)


# --- it works -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
async def test_a_device_gets_a_key(desk: Desk, vendor_pki: VendorPKI, kind: Any) -> None:
    """By key transport or key agreement, as the device's own key has it; then certConf, and both are its own."""
    credential, key = device(vendor_pki, kind)
    done = await operate(desk, enrollment(desk, credential, None, protection_key=key))
    assert public(done.private_key) == done.certificate.spki_der
    assert await desk.status(done.certificate) is CertificateStatus.confirmed
    (response,) = cert_rep_message(desk.answers[0].body_content).responses
    assert desk.answers[0].header.pvno == 3
    assert response.private_key_der is not None
    assert response.private_key_der[0] == 0xA0  # EnvelopedData, not EncryptedValue


@pytest.mark.parametrize(
    "hint_der, name",
    [
        (None, "ECPrivateKey"),
        (P384, "ECPrivateKey"),
        (RSA, "RSAPrivateKey"),
        (ED25519, "Ed25519PrivateKey"),
        (ML_DSA_65, "MLDSA65PrivateKey"),
    ],
)
async def test_the_kind_of_key_that_is_hinted_at(
    desk: Desk, vendor_pki: VendorPKI, hint_der: bytes | None, name: str
) -> None:
    """An empty publicKey says which; without it the CA chooses."""
    credential, key = device(vendor_pki)
    operation = enrollment(desk, credential, None, protection_key=key, key_algorithm_der=hint_der)
    done = await operate(desk, operation)
    assert type(done.private_key).__name__ == name
    if hint_der is not None:
        spki = asn1.decode(structures.SubjectPublicKeyInfo, done.certificate.spki_der)
        assert asn1.raw(spki.algorithm) == hint_der


async def test_renewal_and_cr_with_a_key_of_the_ca(desk: Desk, vendor_pki: VendorPKI) -> None:
    """What one operation brought protects the next: cr and kur, to the CA itself and nested by the RA."""
    credential, key = device(vendor_pki)
    done = await operate(desk, enrollment(desk, credential, None, protection_key=key))
    for body_type, nested in (
        (BodyType.kur, False),
        (BodyType.cr, False),
        (BodyType.kur, True),
        (BodyType.cr, True),
    ):
        newer = await operate(
            desk,
            enrollment(
                desk,
                done.identity.signing,
                None,
                protection_key=done.private_key,
                body_type=body_type,
            ),
            nested=nested,
        )
        assert newer.certificate.subject_der == done.certificate.subject_der
        assert public(newer.private_key) == newer.certificate.spki_der != done.certificate.spki_der
        done = newer


async def test_an_ir_that_asks_for_a_key_may_be_nested(desk: Desk, vendor_pki: VendorPKI) -> None:
    """The RA knows the vendor, the CA need not; and no end entity is needed."""
    foreign = pki.make_vendor_pki("Known To The RA")
    credential, key = device(foreign)
    done = await operate(desk, enrollment(desk, credential, None, protection_key=key), nested=True)
    assert public(done.private_key) == done.certificate.spki_der
    assert await desk.status(done.certificate) is CertificateStatus.confirmed


async def test_a_nested_request_is_the_devices_own(desk: Desk, vendor_pki: VendorPKI) -> None:
    """What the RA passes on has to be signed by the certificate that the key is encrypted for."""
    credential, _ = device(vendor_pki)
    other, _ = device(vendor_pki)
    der = await asked(desk, replace(credential, signer=other.signer))
    desk.mode = Mode.ra
    refused = (BodyType.error, PKIFailureInfo.badMessageCheck)
    assert await desk.refused(await desk.nest(der)) == refused


async def test_implicit_confirmation_of_a_key_of_the_ca(desk: Desk, vendor_pki: VendorPKI) -> None:
    """No certConf where the CA grants that."""
    credential, key = device(vendor_pki)
    operation = enrollment(desk, credential, None, protection_key=key, implicit_confirm=True)
    done = await operate(desk, operation)
    assert done.confirmed_implicitly
    assert await desk.status(done.certificate) is CertificateStatus.confirmed


# --- the key is nowhere else ----------------------------------------------------------------------------------------


def forms_of(key: Any) -> list[bytes]:
    """Octets that would give a private key away."""
    pkcs8_der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    number = key.private_numbers().private_value.to_bytes(32, "big")
    return [pkcs8_der, number, number.hex().encode(), str(int.from_bytes(number, "big")).encode()]


async def test_the_key_is_neither_stored_nor_logged(
    desk: Desk, vendor_pki: VendorPKI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only its encrypted form is in the ledger, for repeats; nothing at all is in the log."""
    credential, key = device(vendor_pki)
    done = await operate(desk, enrollment(desk, credential, None, protection_key=key))
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    shown = "".join(capsys.readouterr()).encode()
    assert done.certificate.der in stored
    assert [form for form in forms_of(done.private_key) if form in stored + shown] == []


async def test_a_repeat_gets_the_same_answer(desk: Desk, vendor_pki: VendorPKI) -> None:
    """The one that is stored, octet for octet: no second key is made."""
    credential, key = device(vendor_pki)
    operation = enrollment(desk, credential, None, protection_key=key)
    der = await operation.request()
    first = (await desk.ca.handle(der, mode=Mode.client)).der
    assert (await desk.ca.handle(der, mode=Mode.client)).der == first
    assert await desk.ledger.counts() == {CertificateStatus.issued: 1}
    assert isinstance(await operation.receive(first), Send)


async def test_a_key_that_was_not_stored_is_made_anew(
    desk: Desk, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger fails before the answer is stored: nothing left, and a repeat gets another key that works."""
    credential, key = device(vendor_pki)
    operation = enrollment(desk, credential, None, protection_key=key)
    der = await operation.request()

    async def fail(*arguments: Any, **options: Any) -> Any:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as failing:
        failing.setattr(desk.ledger, "store", fail)
        assert await desk.refused(der) == (BodyType.error, PKIFailureInfo.systemUnavail)
    assert CertificateStatus.issued not in await desk.ledger.counts()
    step = await operation.receive((await desk.ca.handle(der, mode=Mode.client)).der)
    assert isinstance(step, Send)
    assert (await desk.ledger.counts())[CertificateStatus.issued] == 1


async def test_the_stored_answer_does_not_stay(
    desk: Desk, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """When the transaction is over, the encrypted form goes as well."""
    credential, key = device(vendor_pki)
    await operate(desk, enrollment(desk, credential, None, protection_key=key))
    message = desk.answers[0]
    request_id = message.header.transaction_id or b""
    assert await desk.ledger.find_operation("client", request_id, desk.clock.now) is not None
    desk.clock.advance(hours=1)
    await desk.ledger.sweep(desk.clock.now)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        assert database.execute("select count(*) from operations").fetchone() == (0,)
    database.close()


# --- it is refused --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(60)
@pytest.mark.parametrize("algorithm_der", [None, P384])
async def test_it_is_off_by_default(
    operator_pki: OperatorPKI,
    vendor_pki: VendorPKI,
    tmp_path: Path,
    algorithm_der: bytes | None,
) -> None:
    """badCertTemplate in ip, and nothing is stored."""
    async with open_ca(operator_pki, vendor_pki, tmp_path, None) as desk:
        credential, _ = device(vendor_pki)
        der = await asked(desk, credential, algorithm_der=algorithm_der)
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)
        assert await desk.ledger.counts() == {}


@pytest.mark.requirement(60)
@pytest.mark.parametrize("bare, pvno", [(False, 2), (True, 2), (True, 3)])
async def test_pvno_2_carries_it_too(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, bare: bool, pvno: int
) -> None:
    """EnvelopedData came with pvno 3, but OpenSSL says 2; it wants the key itself, which others get in a package."""
    maker = replace(authority(operator_pki), bare_keys=bare)
    credential, key = device(vendor_pki)
    async with open_ca(operator_pki, vendor_pki, tmp_path, maker) as desk:
        answer = await desk.send(await asked(desk, credential, pvno=pvno))
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.certificate_der is not None
    holder = PrivateKeyHolder(key, credential.certificate)
    opened = open_envelope(enveloped_data(response.private_key_der or b""), holder)
    signed = asn1.decode(structures.SignedData, opened.content)
    assert signed.encap_content_info.e_content is not None
    content = signed.encap_content_info.e_content
    found: Any
    if bare and pvno == 2:
        found = load_der_private_key(content, None)
    else:
        trust = operator_trust(cmp_certificate(operator_pki.root.certificate))
        package = open_package(opened.content, trust, [], NOW)
        found = load_der_private_key(package.pkcs8_der, None)
    certificate = Certificate.from_der(response.certificate_der)
    assert public(found) == certificate.spki_der


@pytest.mark.parametrize("popo", [RA_VERIFIED_POPO_DER, bytes.fromhex("a203810100")])
async def test_there_is_nothing_to_prove(desk: Desk, vendor_pki: VendorPKI, popo: bytes) -> None:
    """badPOP for a proof of possession of a key that is yet to be made."""
    der = await asked(desk, device(vendor_pki)[0], popo=popo)
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badPOP)


@pytest.mark.parametrize(
    "kind, usage",
    [
        ("rsa2048", "nonRepudiation"),
        ("rsa2048", "keyAgreement"),
        ("p256", "nonRepudiation"),
        ("p256", "keyEncipherment"),
        ("ed25519", "keyAgreement"),
    ],
)
async def test_the_key_usage_that_is_needed(
    desk: Desk, vendor_pki: VendorPKI, kind: Any, usage: str
) -> None:
    """notAuthorized unless the certificate that protects the request is for key transport or agreement."""
    der = await asked(desk, device(vendor_pki, kind, usage)[0])
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)
    assert await desk.ledger.counts() == {}


@pytest.mark.requirement(61)
@pytest.mark.parametrize("algorithm_der", [ML_KEM_768, asn1.tlv(0x30, asn1.oid_der("1.2.3"))])
async def test_a_kind_of_key_that_is_not_made(
    desk: Desk, vendor_pki: VendorPKI, algorithm_der: bytes
) -> None:
    """badCertTemplate for a kind that the profile does not take, or nobody knows."""
    der = await asked(desk, device(vendor_pki)[0], algorithm_der=algorithm_der)
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)


async def test_no_key_is_made_for_a_request_that_is_refused(
    desk: Desk, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a certificate but its key is decided after that is made; one is, of each kind, to look at requests."""
    made = []
    real = KeyGeneration.make_key

    async def make_key(self: KeyGeneration, kind: str) -> Any:
        made.append(kind)
        return await real(self, kind)

    monkeypatch.setattr(KeyGeneration, "make_key", make_key)
    signer = device(vendor_pki)[0]
    purpose = Extension(OID.extKeyUsage, False, asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.3.3")))
    template = CertTemplate(subject_der=from_rfc4514(SUBJECT), extensions=(purpose,))
    message = cert_req_msg_der(cert_request_der(template), b"")
    for _ in range(3):
        header = desk.header(sender_der=signer.sender_der)
        der = await desk.signed(header, body(BodyType.ir, asn1.tlv(0x30, message)), signer)
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)
    assert len(made) == 1
    answer = (await desk.ca.handle(await asked(desk, signer), mode=Mode.client)).der
    assert PKIMessage.from_der(answer).body_type is BodyType.ip
    assert len(made) == 2


async def test_the_ra_gets_no_keys(desk: Desk, operator_pki: OperatorPKI) -> None:
    """A request that the RA protects in the device's place: notAuthorized, whatever the RA's key is for."""
    desk.mode = Mode.ra
    der = await asked(desk, desk.ra, body_type=BodyType.cr)
    assert await desk.refused(der) == (BodyType.cp, PKIFailureInfo.notAuthorized)


# --- the device is careful ------------------------------------------------------------------------------------------


async def test_a_device_takes_keys_of_an_authority_only(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """A key package signed by somebody without cmKGA is not believed."""
    async with open_ca(operator_pki, vendor_pki, tmp_path, authority(operator_pki, ())) as desk:
        credential, key = device(vendor_pki)
        with pytest.raises(AnswerUntrusted, match="cmKGA"):
            await operate(desk, enrollment(desk, credential, None, protection_key=key))


async def test_an_answer_without_the_key(
    desk: Desk, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """An answer without the private key that was asked for is no answer."""
    credential, key = device(vendor_pki)
    operation = enrollment(desk, credential, None, protection_key=key)
    request = PKIMessage.from_der(await operation.request())
    answer = PKIMessage.from_der((await desk.ca.handle(request.der, mode=Mode.client)).der)
    content = cert_rep_message(answer.body_content)
    bare = replace(content.responses[0], private_key_der=None)
    body_der = cert_rep_body(BodyType.ip, replace(content, responses=(bare,)))
    signer = cmp_credential(operator_pki.cmp_signer)
    der = await desk.signed(answer.header, body_der, signer)
    with pytest.raises(AnswerUntrusted, match="without a certificate with its private key"):
        await operation.receive(der)


async def test_what_a_device_needs_to_be_sent_a_key(desk: Desk, vendor_pki: VendorPKI) -> None:
    """Its private key at hand, and the operator's root: without either the operation does not begin."""
    credential, key = device(vendor_pki)
    with pytest.raises(ValueError, match="protection_key"):
        enrollment(desk, credential, None)
    with pytest.raises(ValueError, match="operator root"):
        Enrollment(
            DeviceIdentity(credential),
            None,
            RequestOptions(),
            clock=desk.clock,
            random_octets=bytes,
            protection_key=key,
        )


async def test_a_device_is_told_why_it_gets_no_key(desk: Desk, vendor_pki: VendorPKI) -> None:
    """A refusal that it can believe."""
    credential, key = device(vendor_pki, "p256", "nonRepudiation")
    with pytest.raises(EnrollmentRefused, match="notAuthorized") as caught:
        await operate(desk, enrollment(desk, credential, None, protection_key=key))
    assert caught.value.authenticated
