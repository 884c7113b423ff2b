"""The PKCS #10 of a base station (RFC 2986), for a p10cr."""

from __future__ import annotations

from typing import Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.oids import OID

_VERSION_1: Final = b"\x02\x01\x00"


def request_info_der(template: CertTemplate) -> bytes:
    """Return the CertificationRequestInfo that asks for what a template does."""
    extensions = [
        asn1.encode(
            structures.Extension(
                extn_id=asn1.oid(item.oid), critical=item.critical, extn_value=item.value
            )
        )
        for item in template.extensions
    ]
    attributes = b""
    if extensions:
        values = asn1.tlv(0x31, asn1.tlv(0x30, *extensions))
        attributes = asn1.tlv(0x30, asn1.oid_der(OID.extensionRequest), values)
    return asn1.tlv(
        0x30,
        _VERSION_1,
        template.subject_der or NULL_DN,
        template.spki_der or b"",
        asn1.tlv(0xA0, attributes),
    )


def request_der(info_der: bytes, algorithm_der: bytes, signature: bytes) -> bytes:
    """Return the whole request, signed with the key that it is for."""
    return asn1.tlv(0x30, info_der, algorithm_der, asn1.tlv(0x03, b"\0", signature))
