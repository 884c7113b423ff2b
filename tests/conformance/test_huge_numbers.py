"""Integers of any length are legal DER; none of them may be more than a refusal."""

from __future__ import annotations

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import cert_confirm_content, error_msg_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import MalformedMessage
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
