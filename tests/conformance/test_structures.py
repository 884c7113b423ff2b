"""Every structure of CMP and CRMF that has no message in the other tests, against pyasn1 as the second opinion.

pyasn1-modules has the syntax of RFC 4210 and 4211; what came later is checked against octets written out by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
from pyasn1.codec.der import decoder, encoder
from pyasn1_modules import rfc4211

from ra_gateway.cmp import asn1

SHA256 = asn1.AlgorithmIdentifier(
    algorithm=asn1.oid("2.16.840.1.101.3.4.2.1"), parameters=asn1.Null()
)
HMAC_SHA256 = asn1.AlgorithmIdentifier(algorithm=asn1.oid("1.2.840.113549.2.9"), parameters=None)
NAME = asn1.element(bytes.fromhex("a4023000"))
BITS = asn1.bit_string(b"\x01\x02")

OLD: dict[str, tuple[Any, Any]] = {
    "PKIPublicationInfo": (
        asn1.PKIPublicationInfo(
            action=1,
            pub_infos=[
                asn1.SinglePubInfo(pub_method=1, pub_location=None),
            ],
        ),
        rfc4211.PKIPublicationInfo(),
    ),
    "EncryptedValue": (
        asn1.EncryptedValue(
            intended_alg=SHA256,
            symm_alg=None,
            enc_symm_key=BITS,
            key_alg=HMAC_SHA256,
            value_hint=b"hint",
            enc_value=BITS,
        ),
        rfc4211.EncryptedValue(),
    ),
    "PKMACValue": (asn1.PKMACValue(alg_id=HMAC_SHA256, value=BITS), rfc4211.PKMACValue()),
    "PBMParameter": (
        asn1.PBMParameter(salt=b"salt", owf=SHA256, iteration_count=1000, mac=HMAC_SHA256),
        rfc4211.PBMParameter(),
    ),
    "CertId": (asn1.CertId(issuer=NAME, serial_number=-1), rfc4211.CertId()),
}


@pytest.mark.parametrize("name", OLD)
def test_both_decoders_agree(name: str) -> None:
    """pyasn1 reads what we write to its last octet, and writes the same; so do we."""
    ours, spec = OLD[name]
    der = asn1.encode(ours)
    theirs, rest = decoder.decode(der, asn1Spec=spec)
    assert rest == b""
    assert encoder.encode(theirs) == der
    assert asn1.encode(asn1.decode(type(ours), der)) == der


POPO_PRIV_KEYS = {
    "thisMessage": "80020007",
    "subsequentMessage": "810100",
    "dhMAC": "82020007",
    "agreeMAC": "a310300a06082a864886f70d020903020007",
    "encryptedKey": "a40702010031003000",
}


@pytest.mark.parametrize("choice", POPO_PRIV_KEYS)
def test_every_choice_of_popo_priv_key_is_told_by_its_tag(choice: str) -> None:
    """RFC 4211 4.2: tags [0] to [4], implicit."""
    der = bytes.fromhex(POPO_PRIV_KEYS[choice])
    box = asn1.unbox(asn1.POPOPrivKeyBox, der)
    assert box.value.tag == choice
    assert asn1.boxed(box) == der


NEWER: dict[str, tuple[type, str]] = {
    # PBKDF2: salt "salt", 1000 iterations, 32 octets, hmacWithSHA256
    "PBKDF2Params": (
        asn1.PBKDF2Params,
        "301b040473616c74020203e8020120300c06082a864886f70d02090500",
    ),
    "PBKDF2Params, defaults": (asn1.PBKDF2Params, "300a040473616c74020203e8"),
    "PBMAC1Params": (
        asn1.PBMAC1Params,
        "301b300b06092a864886f70d01050c300c06082a864886f70d02090500",
    ),
    "RootCaKeyUpdateContent": (asn1.RootCaKeyUpdateContent, "300a3000a0023000a1023000"),
    "RootCaKeyUpdateContent, alone": (asn1.RootCaKeyUpdateContent, "30023000"),
    "CAKeyUpdAnnContent": (asn1.CAKeyUpdAnnContent, "3006300030003000"),
    "CertReqTemplateContent": (asn1.CertReqTemplateContent, "30023000"),
    "CRLStatus by name": (asn1.CRLStatus, "3006a104a4023000"),
    "CRLStatus with time": (asn1.CRLStatus, "3013a002a000170d3236303130323033303430355a"),
    "KemCiphertextInfo": (asn1.KemCiphertextInfo, "3011300b060960864801650304040104026374"),
    "CertStatus with hashAlg": (
        asn1.CertStatus,
        "30160402abcd020100a00d300b0609608648016503040201",
    ),
}


@pytest.mark.parametrize("name", NEWER)
def test_newer_structures_keep_their_octets(name: str) -> None:
    """What RFC 9810 added decodes, and encodes to the same octets."""
    cls, octets = NEWER[name]
    der = bytes.fromhex(octets)
    assert asn1.encode(asn1.decode(cls, der)) == der
