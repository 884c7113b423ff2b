"""Every structure of CMP and CRMF that has no message in the other tests, against pyasn1 as the second opinion.

pyasn1-modules has the syntax of RFC 4210 and 4211; what came later is checked against octets written out by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
from pyasn1.codec.der import decoder, encoder
from pyasn1_modules import rfc4211

from ra_gateway.cmp import asn1, structures

SHA256 = structures.AlgorithmIdentifier(
    algorithm=asn1.oid("2.16.840.1.101.3.4.2.1"), parameters=asn1.Null()
)
HMAC_SHA256 = structures.AlgorithmIdentifier(
    algorithm=asn1.oid("1.2.840.113549.2.9"), parameters=None
)
NAME = asn1.element(bytes.fromhex("a4023000"))

OLD: dict[str, tuple[Any, Any]] = {
    "PBMParameter": (
        structures.PBMParameter(salt=b"salt", owf=SHA256, iteration_count=1000, mac=HMAC_SHA256),
        rfc4211.PBMParameter(),
    ),
    "CertId": (structures.CertId(issuer=NAME, serial_number=-1), rfc4211.CertId()),
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


NEWER: dict[str, tuple[type, str]] = {
    # PBKDF2: salt "salt", 1000 iterations, 32 octets, hmacWithSHA256
    "PBKDF2Params": (
        structures.PBKDF2Params,
        "301b040473616c74020203e8020120300c06082a864886f70d02090500",
    ),
    "PBKDF2Params, defaults": (structures.PBKDF2Params, "300a040473616c74020203e8"),
    "PBMAC1Params": (
        structures.PBMAC1Params,
        "301b300b06092a864886f70d01050c300c06082a864886f70d02090500",
    ),
    "RootCaKeyUpdateContent": (structures.RootCaKeyUpdateContent, "300a3000a0023000a1023000"),
    "RootCaKeyUpdateContent, alone": (structures.RootCaKeyUpdateContent, "30023000"),
    "CertReqTemplateContent": (structures.CertReqTemplateContent, "30023000"),
    "CRLStatus by name": (structures.CRLStatus, "3006a104a4023000"),
    "CRLStatus with time": (structures.CRLStatus, "3013a002a000170d3236303130323033303430355a"),
    "CertStatus with hashAlg": (
        structures.CertStatus,
        "30160402abcd020100a00d300b0609608648016503040201",
    ),
}


@pytest.mark.parametrize("name", NEWER)
def test_newer_structures_keep_their_octets(name: str) -> None:
    """What RFC 9810 added decodes, and encodes to the same octets."""
    cls, octets = NEWER[name]
    der = bytes.fromhex(octets)
    assert asn1.encode(asn1.decode(cls, der)) == der
