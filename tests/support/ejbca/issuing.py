"""How EJBCA makes a certificate: names from the end entity, the rest from its profile."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import load_public_key
from ra_gateway.cmp.certificates import KEY_USAGES, Certificate
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import rfc4514
from ra_gateway.cmp.oids import OID
from tests.support.ejbca.configuration import CA, CertificateProfile
from tests.support.ejbca.database import EndEntity
from tests.support.pki import CertificateOptions, certificate_der

_SET_OTHERWISE: Final = (OID.subjectAltName, OID.keyUsage)


def issue(
    ca: CA,
    profile: CertificateProfile,
    entity: EndEntity,
    template: CertTemplate,
    now: datetime,
    *,
    custom_serial_number: bool,
) -> Certificate:
    """Issue a certificate to an end entity for a template's key.

    Args:
        custom_serial_number: Whether the alias lets the template set it; the profile must, too.
    """
    options: CertificateOptions = {
        "san": entity.san,
        "key_usage": profile.key_usage,
        "not_before": now,
        "not_after": now + timedelta(days=profile.validity_days),
    }
    if profile.allow_validity_override:
        options["not_before"] = template.not_before or options["not_before"]
        options["not_after"] = template.not_after or options["not_after"]
    options["not_after"] = min(options["not_after"], ca.certificate.not_after)
    asked_usage = template.extension(OID.keyUsage)
    if profile.allow_key_usage_override and asked_usage is not None:
        bits = asn1.set_bits(asn1.decode(asn1.BitString, asked_usage.value))
        options["key_usage"] = [KEY_USAGES[bit] for bit in bits]
    if profile.allow_extension_override:
        options["extensions"] = [
            (x509.UnrecognizedExtension(x509.ObjectIdentifier(item.oid), item.value), item.critical)
            for item in template.extensions
            if item.oid not in _SET_OTHERWISE
        ]
    if (
        profile.allow_custom_serial_number
        and custom_serial_number
        and template.serial_number is not None
    ):
        options["serial_number"] = template.serial_number
    key: Any = load_public_key(template.spki_der or b"")
    issued = ca.authority.sign(rfc4514(entity.subject_der), key, **options)
    return Certificate.from_der(certificate_der(issued))
