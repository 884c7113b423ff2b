"""ML-DSA from the device to the root, ML-KEM keys by encrypted certificates, and fleets of all kinds at one CA."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem, rsa

from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.derivation import derive
from ra_gateway.ca.profiles import ENCRYPTION, Profile
from ra_gateway.ca.records import CertificateStatus, EndEntity
from ra_gateway.cmp.bodies import cert_confirm_content, cert_rep_message, enveloped_data
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.cms import PrivateKeyHolder, open_envelope
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import ENCR_CERT_POPO_DER, CertTemplate, Extension
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.errors import CertificateRejected
from ra_gateway.device.values import Done, EncryptionOnly
from ra_gateway.errors import CMPError, PKIFailureInfo
from tests.support import pki
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import NOW, SUBJECT, Desk, Enrolment, open_desk, public
from tests.support.fleet import enrollment, operate
from tests.support.harness import World
from tests.support.pki import KeyKind, OperatorPKI, VendorPKI, make_operator_pki, make_vendor_pki
from tests.support.profiles import NE_IPSEC, NE_TLS

KEM_KINDS: list[Any] = [mlkem.MLKEM768PrivateKey, mlkem.MLKEM1024PrivateKey]
KEY_ENCIPHERMENT = frozenset({2})
SHA512 = "2.16.840.1.101.3.4.2.3"


def kem_key() -> Any:
    return KEM_KINDS[0].generate()


def rsa_key() -> rsa.RSAPrivateKey:
    """A key of its own: those of the test PKI come from a small pool."""
    return rsa.generate_private_key(65537, 2048)


@asynccontextmanager
async def open_kem(
    operator: OperatorPKI, path: Path, profile: Profile = ENCRYPTION
) -> AsyncIterator[Desk]:
    async with open_desk(operator, path / "ledger.db", profile=profile) as desk:
        yield desk


@pytest.fixture
async def desk(operator_pki: OperatorPKI, tmp_path: Path) -> AsyncIterator[Desk]:
    """A CA that certifies keys for encryption, and its RA."""
    async with open_kem(operator_pki, tmp_path) as desk:
        yield desk


async def encrypted(desk: Desk, key: Any, **options: Any) -> tuple[bytes, PKIMessage]:
    """A request with encrCert, and its answer."""
    der = await desk.request(
        key=key, popo=ENCR_CERT_POPO_DER, header=desk.header(pvno=3), **options
    )
    return der, await desk.send(der)


def opened(key: Any, answer: PKIMessage) -> Certificate:
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.encrypted_cert_der is not None, response.status_info
    content = open_envelope(enveloped_data(response.encrypted_cert_der), PrivateKeyHolder(key))
    return Certificate.from_der(content.content)


# --- ML-KEM -------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(72)
@pytest.mark.parametrize(
    "make", [*(kind.generate for kind in KEM_KINDS), rsa_key], ids=["768", "1024", "rsa"]
)
async def test_a_certificate_that_only_its_owner_can_read(
    desk: Desk, make: Callable[[], Any]
) -> None:
    """The certificate itself is nowhere in the answer; keyUsage is keyEncipherment alone; certConf confirms it."""
    key = make()
    der, answer = await encrypted(desk, key)
    certificate = opened(key, answer)
    assert certificate.spki_der == public(key)
    assert certificate.key_usage == KEY_ENCIPHERMENT
    assert certificate.der not in answer.der
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.certificate_der is None
    assert await desk.status(certificate) is CertificateStatus.issued
    enrolment = Enrolment(key, der, answer, certificate, response.status_info)
    await desk.confirm(enrolment, pvno=3)
    assert await desk.status(certificate) is CertificateStatus.confirmed


@pytest.mark.requirement(72, 102)
async def test_who_cannot_decrypt_confirms_nothing(desk: Desk) -> None:
    """certHash is the proof of possession: a wrong one is badCertId, and in the end the certificate is rejected."""
    key = kem_key()
    der, answer = await encrypted(desk, key)
    certificate = opened(key, answer)
    (response,) = cert_rep_message(answer.body_content).responses
    enrolment = Enrolment(key, der, answer, certificate, response.status_info)
    guessed = await desk.confirmation(enrolment, cert_hash=bytes(32), pvno=3)
    assert await desk.refused(guessed) == (BodyType.error, PKIFailureInfo.badCertId)
    desk.clock.advance(hours=1)
    await desk.ledger.sweep(desk.clock.now)
    assert await desk.status(certificate) is CertificateStatus.rejected


@pytest.mark.requirement(72)
async def test_possession_is_confirmed_aloud(desk: Desk) -> None:
    """implicitConfirm is not granted: without certConf nobody knows that the device has the key."""
    key = kem_key()
    header = desk.header(pvno=3, general_info=(IMPLICIT_CONFIRM,))
    answer = await desk.send(await desk.request(key=key, popo=ENCR_CERT_POPO_DER, header=header))
    assert not answer.header.implicit_confirm
    assert await desk.status(opened(key, answer)) is CertificateStatus.issued


async def test_a_repeat_gets_the_same_envelope(desk: Desk) -> None:
    """Stored as it was sent: the second one is not another certificate."""
    der, answer = await encrypted(desk, kem_key())
    assert (await desk.send(der)).der == answer.der


@pytest.mark.requirement(72)
async def test_encr_cert_comes_with_pvno_2_as_well(desk: Desk) -> None:
    """OpenSSL asks so, and reads the answer; what to make of the version is for the RA in front."""
    key = kem_key()
    answer = await desk.send(await desk.request(key=key, popo=ENCR_CERT_POPO_DER))
    assert answer.header.pvno == 2
    assert opened(key, answer).spki_der == public(key)


@pytest.mark.requirement(54, 72)
@pytest.mark.parametrize("kind", ["p256", "ed25519", "mldsa44"])
async def test_who_can_sign_signs(operator_pki: OperatorPKI, tmp_path: Path, kind: KeyKind) -> None:
    """badPOP for encrCert with a key that can sign."""
    async with open_kem(operator_pki, tmp_path, NE_IPSEC) as desk:
        der = await desk.request(
            key=pki.make_key(kind), popo=ENCR_CERT_POPO_DER, header=desk.header(pvno=3)
        )
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badPOP)


@pytest.mark.requirement(54, 72)
async def test_an_rsa_key_that_may_sign_signs(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """badPOP for encrCert under a profile that grants digitalSignature."""
    async with open_kem(operator_pki, tmp_path, NE_IPSEC) as desk:
        der = await desk.request(key=rsa_key(), popo=ENCR_CERT_POPO_DER, header=desk.header(pvno=3))
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badPOP)


@pytest.mark.requirement(72)
@pytest.mark.parametrize(
    "popo", ["a203810101", "a303810100", "a20480020000"], ids=["challenge", "agreement", "this"]
)
async def test_other_indirect_proofs_are_not_offered(desk: Desk, popo: str) -> None:
    """badCertTemplate for an ML-KEM key with any other proof than encrCert: nothing else can show possession."""
    key = kem_key()
    der = await desk.request(key=key, popo=bytes.fromhex(popo), header=desk.header(pvno=3))
    assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)


@pytest.mark.requirement(61)
async def test_a_profile_has_to_name_ml_kem(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """Profiles of base stations take none; one derived with the key kind does, and its keyUsage is as it must be."""
    key = kem_key()
    async with open_kem(operator_pki, tmp_path, NE_IPSEC) as desk:
        der = await desk.request(key=key, popo=ENCR_CERT_POPO_DER, header=desk.header(pvno=3))
        assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.badCertTemplate)
    (tmp_path / "more").mkdir()
    derived = derive(NE_TLS, "kem_tls", key_kinds=["p256", "mlkem768"])
    async with open_kem(operator_pki, tmp_path / "more", derived) as desk:
        asked = Extension(OID.keyUsage, True, bytes.fromhex("03020780"))
        template = CertTemplate(subject_der=from_rfc4514(SUBJECT), extensions=(asked,))
        _, answer = await encrypted(desk, key, template=template)
        (response,) = cert_rep_message(answer.body_content).responses
        assert opened(key, answer).key_usage == KEY_ENCIPHERMENT
        assert "keyUsage" in " ".join(response.status_info.status_string)


# --- the device ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_client(
    operator: OperatorPKI, path: Path, profile: Profile, *vendors: VendorPKI
) -> AsyncIterator[Desk]:
    """A CA in client mode: each vendor is a domain and has one end entity, its device SN-000001."""
    client = ClientMode(
        {
            vendor.name: TrustDomain(
                vendor.name, DomainKind.vendor, (cmp_certificate(vendor.root.certificate),)
            )
            for vendor in vendors
        },
        "cn",
    )
    async with open_desk(operator, path / "ledger.db", profile=profile, client=client) as desk:
        desk.mode = Mode.client
        for number, vendor in enumerate(vendors):
            entity = EndEntity(
                f"enb{number}",
                f"CN=enb{number}.example.net",
                vendor=vendor.name,
                identity="SN-000001",
            )
            await desk.ledger.registry.add_entity(entity, "test", NOW)
        yield desk


@pytest.mark.requirement(72)
@pytest.mark.parametrize("kind", KEM_KINDS)
async def test_a_device_gets_a_certificate_for_ml_kem(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, kind: Any
) -> None:
    """It asks, decrypts and confirms by itself; what it has then encrypts and does not sign."""
    async with open_client(operator_pki, tmp_path, ENCRYPTION, vendor_pki) as desk:
        credential = cmp_credential(vendor_pki.device())
        key = kind.generate()
        done = await operate(desk, enrollment(desk, credential, key, subject=None))
        assert done.certificate.spki_der == public(key)
        assert await desk.status(done.certificate) is CertificateStatus.confirmed
        signer = done.identity.signing.signer
        assert isinstance(signer, EncryptionOnly)
        with pytest.raises(CMPError):
            await signer.sign(b"anything")


@pytest.mark.requirement(72, 101)
async def test_a_device_can_reject_what_it_decrypted(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """certConf with rejection, and the certificate is rejected in the ledger."""
    seen: list[Certificate] = []

    def find_fault(certificate: Certificate) -> str:
        seen.append(certificate)
        return "it does not please"

    async with open_client(operator_pki, tmp_path, ENCRYPTION, vendor_pki) as desk:
        operation = enrollment(
            desk,
            cmp_credential(vendor_pki.device()),
            rsa_key(),
            encr_cert=True,
            subject=None,
            find_fault=find_fault,
        )
        with pytest.raises(CertificateRejected):
            await operate(desk, operation)
        assert await desk.status(seen[0]) is CertificateStatus.rejected


# --- ML-DSA all the way ---------------------------------------------------------------------------------------------


def sent(done_messages: list[Any], body_type: BodyType) -> PKIMessage:
    (der,) = [item.der for item in done_messages if item.body_type is body_type]
    return PKIMessage.from_der(der)


@pytest.mark.requirement(104, 157)
@pytest.mark.parametrize("kind", ["mldsa44", "mldsa65", "mldsa87"])
@pytest.mark.parametrize("pvno", [2, 3])
async def test_ml_dsa_from_device_to_root(tmp_path: Path, kind: KeyKind, pvno: int) -> None:
    """Vendor, device, CA, its CMP signer and the new key: hashAlg SHA-512 with pvno 3, SHA-512 unsaid with 2."""
    vendor = make_vendor_pki("Quantum Radio", kind)
    async with open_client(
        make_operator_pki("Quantum Operator", kind), tmp_path, NE_IPSEC, vendor
    ) as desk:
        operation = enrollment(
            desk,
            cmp_credential(vendor.device(key=kind)),
            pki.make_key(kind),
            subject=None,
            pvno=pvno,
        )
        done = await operate(desk, operation)
        assert await desk.status(done.certificate) is CertificateStatus.confirmed
        (status,) = cert_confirm_content(sent(operation.trace, BodyType.certConf).body_content)
        named = status.hash_alg and status.hash_alg.algorithm.dotted_string
        assert named == (SHA512 if pvno == 3 else None)
        # kur by the new certificate, whose protection, key and hash are ML-DSA's as well.
        newer = await operate(
            desk,
            enrollment(
                desk,
                done.identity.signing,
                pki.make_key(kind),
                body_type=BodyType.kur,
                pvno=pvno,
            ),
        )
        assert await desk.status(newer.certificate) is CertificateStatus.confirmed


@pytest.mark.requirement(157)
@pytest.mark.parametrize("kind", ["mldsa44", "mldsa87"])
@pytest.mark.parametrize("pvno", [2, 3])
async def test_ml_dsa_through_the_gateway(kind: KeyKind, pvno: int) -> None:
    """The RA's key too: what it re-protects and relays is ML-DSA's on both sides."""
    vendor = make_vendor_pki("Quantum Radio", kind)
    world = World.make(vendor, make_operator_pki("Quantum Operator", kind))
    new_key = pki.make_key(kind)
    operation = world.enrollment(world.device(key=kind), new_key=new_key, pvno=pvno)
    step: Any = await operation.receive(await world.post(await operation.request()))
    done = await operation.receive(await world.post(step.der))
    assert isinstance(done, Done)
    assert done.certificate.spki_der == public(new_key)
    (ra_signature,) = {
        message.header.protection_alg_der for message in world.ca.messages
    }  # ir and certConf upstream
    assert ra_signature == cmp_certificate(world.operator.ra.certificate).algorithm_der


@pytest.mark.requirement(157)
@pytest.mark.parametrize("ca_kind", ["p256", "rsa2048", "mldsa65"])
async def test_a_mixed_fleet_at_one_ca(tmp_path: Path, ca_kind: KeyKind) -> None:
    """RSA, P-256, Ed25519 and ML-DSA devices enrol and renew side by side, whatever key the CA has."""
    kinds: list[KeyKind] = ["rsa2048", "p256", "ed25519", "mldsa44"]
    vendors = [make_vendor_pki(f"Vendor {kind}", kind) for kind in kinds]
    operator = make_operator_pki("Mixed Operator", ca_kind)

    def fresh(kind: KeyKind) -> Any:
        return rsa_key() if kind == "rsa2048" else pki.make_key(kind)

    async with open_client(operator, tmp_path, NE_IPSEC, *vendors) as desk:
        for vendor, kind in zip(vendors, kinds, strict=True):
            credential = cmp_credential(vendor.device(key=kind))
            done = await operate(desk, enrollment(desk, credential, fresh(kind), subject=None))
            # A renewal may change the kind of key: from each to ML-DSA, and from that to P-256.
            other: KeyKind = "mldsa44" if kind != "mldsa44" else "p256"
            newer = await operate(
                desk,
                enrollment(desk, done.identity.signing, fresh(other), body_type=BodyType.kur),
            )
            assert newer.certificate.subject_der == done.certificate.subject_der
        assert await desk.ledger.counts() == {
            CertificateStatus.superseded: len(kinds),
            CertificateStatus.confirmed: len(kinds),
        }
