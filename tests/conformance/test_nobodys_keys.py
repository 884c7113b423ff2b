"""Keys of Ed25519 and Ed448 under which anybody signs: nobody is certified for one, and nobody is known by one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ra_gateway.cmp import asn1, crmf
from ra_gateway.cmp.algorithms import AlgorithmPolicy
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.messages import body
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.requests import read_certification_request
from ra_gateway.errors import PKIFailureInfo, TemplateRefused
from ra_gateway.keys import KeySigner
from tests.support.credentials import cmp_credential
from tests.support.desk import IDENTITY, Desk, enrolled, open_client, open_desk
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.profiles import NE_IPSEC, loose, with_crl


class Nobody:
    """A public key of small order and what OpenSSL takes for a signature of Ed25519: R is the identity, S is 0."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def public_key(self) -> Any:
        kind = ed25519.Ed25519PublicKey if len(self._octets) == 32 else ed448.Ed448PublicKey
        return kind.from_public_bytes(self._octets)

    def sign(self, _: bytes) -> bytes:
        return little(1, 2 * len(self._octets))


def little(number: int, octets: int = 32) -> bytes:
    return number.to_bytes(octets, "little")


NOBODY: Final = {
    "identity": Nobody(little(1)),
    "identity with sign": Nobody(little(1 | 1 << 255)),
    "identity, y = p + 1": Nobody(little(2**255 - 18)),
    "identity of ed448": Nobody(little(1, 57)),
    "identity of ed448, y = p + 1": Nobody(little(2**448 - 2**224, 57)),
}
nobodys = pytest.mark.parametrize("key", NOBODY.values(), ids=NOBODY)


@pytest.fixture
async def desk(operator_pki: OperatorPKI, tmp_path: Path) -> AsyncIterator[Desk]:
    profile = with_crl(loose(NE_IPSEC))
    async with open_desk(operator_pki, tmp_path / "ledger.db", profile=profile) as desk:
        yield desk


def test_anybody_signs_for_nobody() -> None:
    """Such keys they are: the library underneath verifies."""
    for name, key in NOBODY.items():
        if "448" not in name:
            key.public_key().verify(key.sign(b""), b"anything")


@pytest.mark.requirement(61)
@nobodys
@pytest.mark.parametrize("popo", [None, crmf.RA_VERIFIED_POPO_DER], ids=["forged", "raVerified"])
async def test_no_certificate_for_nobodys_key(desk: Desk, key: Any, popo: bytes | None) -> None:
    """By ir, cr and kur, whoever proves possession."""
    for body_type in (BodyType.ir, BodyType.cr):
        der = await desk.request(body_type, key=key, popo=popo)
        refusal = (CERT_RESPONSE_TO[body_type], PKIFailureInfo.badCertTemplate)
        assert await desk.refused(der) == refusal
    assert await desk.ledger.counts() == {}
    device = await enrolled(desk)
    template = CertTemplate(subject_der=device.certificate.subject_der)
    der = await desk.request(BodyType.kur, key=key, popo=popo, template=template)
    assert await desk.refused(der) == (BodyType.kup, PKIFailureInfo.badCertTemplate)


def pkcs10(key: Any) -> bytes:
    """A CertificationRequest with a forged proof."""
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    subject_der = from_rfc4514("CN=enb1.example.net,O=Example Operator")
    info = asn1.tlv(0x30, asn1.encode(0), subject_der, spki, asn1.tlv(0xA0))
    oid = OID.ed25519 if len(key.sign(b"")) == 64 else OID.ed448
    proof = asn1.tlv(0x03, b"\0", key.sign(info))
    return asn1.tlv(0x30, info, asn1.algorithm_der(oid), proof)


@pytest.mark.requirement(61)
@nobodys
async def test_no_certificate_for_nobodys_pkcs10(desk: Desk, key: Any) -> None:
    """By p10cr, and for who brings the request by hand."""
    der = await desk.signed(desk.header(), body(BodyType.p10cr, pkcs10(key)))
    assert await desk.refused(der) == (BodyType.cp, PKIFailureInfo.badCertTemplate)
    for of_ca in (False, True):
        with pytest.raises(TemplateRefused, match="RFC 8032") as caught:
            read_certification_request(pkcs10(key), AlgorithmPolicy(), of_ca=of_ca)
        assert caught.value.rule == "R61"


@pytest.mark.requirement(61)
@nobodys
async def test_nobody_signs(operator_pki: OperatorPKI, tmp_path: Path, key: Any) -> None:
    """A certificate for such a key, of before or of another CA, protects no message; even registered."""
    made = operator_pki.issuing.issue("CN=RA,O=Example Operator", key)
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        credential = cmp_credential(made)
        assert isinstance(credential.signer, KeySigner)
        body_type, _ = await desk.refused(await desk.request(signer=credential))
        assert body_type is BodyType.error
        assert await desk.ledger.counts() == {}


@pytest.mark.requirement(61)
@nobodys
async def test_no_device_is_known_by_nobodys_key(
    operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path, key: Any
) -> None:
    """The vendor certified what it should not have: the base station does not enrol."""
    async with open_client(operator_pki, vendor_pki, tmp_path / "ledger.db") as desk:
        desk.ra = cmp_credential(vendor_pki.device(IDENTITY, key))
        body_type, _ = await desk.refused(await desk.request())
        assert body_type is BodyType.error
        assert await desk.ledger.counts() == {}
