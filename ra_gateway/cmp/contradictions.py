"""Where a template that names a certificate says something else of it than it says itself (RFC 9483 4.2)."""

from __future__ import annotations

from ra_gateway.cmp.algorithms import canonical_spki
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import general_name_keys, same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import PKIFailureInfo, RequestRefused

_UNKNOWN_TO_US = frozenset({"issuerUID", "subjectUID"})
"""Fields that no certificate has any more (RFC 5280 4.1.2.8)."""


def require_consistent(template: CertTemplate, certificate: Certificate) -> None:
    """Refuse a template of a certificate in which a field is not the certificate's; absent ones say nothing.

    Raises:
        RequestRefused: badCertId; the text names the first such field.
        MalformedMessage: A name in it does not parse.
    """
    field = _first(template, certificate)
    if field:
        raise RequestRefused(
            f"certDetails has another {field} than the certificate with serial number "
            f"{certificate.serial_number:x}",
            fail_info=PKIFailureInfo.badCertId,
            rule="R131",
            phrase="What the request says of the certificate does not fit the certificate.",
        )


def _first(template: CertTemplate, certificate: Certificate) -> str:
    if template.version not in (None, certificate.version - 1):
        return "version"
    if template.serial_number not in (None, certificate.serial_number):
        return "serialNumber"
    for name, asked, own in (
        ("issuer", template.issuer_der, certificate.issuer_der),
        ("subject", template.subject_der, certificate.subject_der),
    ):
        if asked is not None and not same_name(asked, own):
            return name
    if template.not_before not in (None, certificate.not_before):
        return "notBefore"
    if template.not_after not in (None, certificate.not_after):
        return "notAfter"
    key_der = template.spki_der
    if key_der is not None and canonical_spki(key_der) != canonical_spki(certificate.spki_der):
        return "publicKey"
    for name in template.reserved:
        if name in _UNKNOWN_TO_US:
            return name
    for item in template.extensions:
        _, own_value = certificate.extensions.get(item.oid, (False, b""))
        if item.oid == OID.subjectAltName:
            if general_name_keys(item.value) != general_name_keys(own_value or None):
                return "subjectAltName"
        elif item.value != own_value:
            return f"extension {item.oid}"
    return ""
