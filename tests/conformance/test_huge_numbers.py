"""Integers of any length are legal DER; none of them may be more than a refusal."""

from __future__ import annotations

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmRefused, signature_algorithm
from ra_gateway.cmp.bodies import cert_confirm_content, error_msg_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.mac import MACBounds, mac_parameters
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage
from tests.support import mac
from tests.support.pki import make_root

HUGE = 1 << 20_000
"""More than the 4300 decimal digits that Python is willing to write into a text."""


@pytest.mark.requirement(1)
def test_a_huge_status_is_malformed() -> None:
    """In certConf and in error, where a device may put one."""
    info = asn1.tlv(0x30, asn1.encode(HUGE))
    status = asn1.tlv(0x30, asn1.tlv(0x04, bytes(32)), asn1.encode(0), info)
    with pytest.raises(MalformedMessage, match="PKIStatus of 20001 bits"):
        cert_confirm_content(asn1.tlv(0x30, status))
    with pytest.raises(MalformedMessage, match="PKIStatus of 20001 bits"):
        error_msg_content(asn1.tlv(0x30, info))


@pytest.mark.requirement(1)
def test_a_huge_error_code_is_malformed() -> None:
    """It would be written to the log."""
    info = asn1.tlv(0x30, asn1.encode(2))
    with pytest.raises(MalformedMessage, match="errorCode of 20001 bits"):
        error_msg_content(asn1.tlv(0x30, info, asn1.encode(HUGE)))


@pytest.mark.requirement(1)
def test_a_certificate_of_a_huge_version_is_malformed() -> None:
    """Nobody has verified it when its version is looked at."""
    tbs, algorithm, signature = asn1.parts(make_root("Any Root").der, 3, "a certificate")
    fields = asn1.parts(tbs, 10, "TBSCertificate")
    fields[0] = asn1.tlv(0xA0, asn1.encode(HUGE))
    with pytest.raises(MalformedMessage, match="a version that is none"):
        Certificate.from_der(asn1.tlv(0x30, asn1.tlv(0x30, *fields), algorithm, signature))


@pytest.mark.parametrize(
    "number, told", [(1000, "1000"), (HUGE, "a number of 20001 bits")], ids=["small", "huge"]
)
def test_a_number_beyond_a_bound_is_told_as_people_read_it(number: int, told: str) -> None:
    """Iterations and lengths of keys and salts: in decimal, and by their size where nobody would read them."""
    with pytest.raises(AlgorithmRefused, match=f"a MAC of {told} iterations; 100 to 999 are"):
        mac_parameters(mac.pbm(iterations=number), MACBounds(max_iterations=999))
    with pytest.raises(AlgorithmRefused, match=f"a key of {told} octets"):
        mac_parameters(mac.pbmac1(key_octets=number), MACBounds())
    salt = asn1.tlv(0xA2, asn1.encode(number))
    with pytest.raises(AlgorithmRefused, match=f"salt length {told}"):
        signature_algorithm(asn1.algorithm_der(OID.rsassaPSS, pss_parameters(salt)))


def pss_parameters(salt: bytes) -> bytes:
    """SHA-256 and MGF1 with it, and a salt's length."""
    sha256 = asn1.algorithm_der(OID.sha256)
    mask = asn1.algorithm_der(OID.mgf1, sha256)
    return asn1.tlv(0x30, asn1.tlv(0xA0, sha256), asn1.tlv(0xA1, mask), salt)
