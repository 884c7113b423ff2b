"""The extensions that a request asks for: none that no certificate can have, and none with the powers of a CA or an RA.

What a profile grants is its CA's to say; here is what RFC 5280 rules out for any end entity, whoever issues.
"""

from __future__ import annotations

from typing import Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.certificates import KeyUsage
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES
from ra_gateway.cmp.crmf import CertTemplate, Extension, doubled
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage, NotAuthorized, TemplateRefused

_OF_CAS_ONLY: Final = {
    OID.nameConstraints: "nameConstraints (RFC 5280 4.2.1.10)",
    OID.policyMappings: "policyMappings (RFC 5280 4.2.1.5)",
    OID.policyConstraints: "policyConstraints (RFC 5280 4.2.1.11)",
    OID.inhibitAnyPolicy: "inhibitAnyPolicy (RFC 5280 4.2.1.14)",
}

_NEVER_CRITICAL: Final = {
    OID.subjectKeyIdentifier: "subjectKeyIdentifier (RFC 5280 4.2.1.2)",
    OID.authorityKeyIdentifier: "authorityKeyIdentifier (RFC 5280 4.2.1.1)",
    OID.freshestCRL: "freshestCRL (RFC 5280 4.2.1.15)",
    OID.authorityInfoAccess: "authorityInfoAccess (RFC 5280 4.2.2.1)",
}


def check_requested_extensions(template: CertTemplate) -> None:
    """Refuse extensions that contradict each other, are empty, or are a CA's or an RA's.

    Args:
        template: Has no extension twice.

    Raises:
        TemplateRefused: No certificate of an end entity can have them (badCertTemplate).
        NotAuthorized: A CA's or an RA's certificate can, and no device may ask for one.
    """
    is_ca: bool | None = None  # nothing said
    for extension in template.extensions:
        if (name := _OF_CAS_ONLY.get(extension.oid)) is not None:
            raise _impossible(f"{name} is for certificates of CAs only")
        if extension.critical and (name := _NEVER_CRITICAL.get(extension.oid)) is not None:
            raise _impossible(f"{name} is critical")
        if extension.oid == OID.basicConstraints:
            is_ca = _is_ca(extension)
        elif extension.oid == OID.subjectAltName and extension.value == _NO_ELEMENTS:
            raise _impossible("subjectAltName without names (RFC 5280 4.2.1.6)")
    usage = template.extension(OID.keyUsage)
    if usage is not None:
        _check_usage(usage, is_ca)
    if is_ca:
        raise NotAuthorized("a CA certificate is requested (basicConstraints)", rule="R63")
    purposes = template.extension(OID.extKeyUsage)
    if purposes is not None:
        _check_purposes(purposes)


_NO_ELEMENTS: Final = b"\x30\x00"


def _is_ca(extension: Extension) -> bool:
    try:
        constraints = asn1.decode(structures.BasicConstraints, extension.value)
    except MalformedMessage as error:
        raise _impossible(f"basicConstraints: {error.detail}") from error
    length = constraints.path_len_constraint
    if length is not None and (length < 0 or not constraints.ca):
        what = "a negative" if length < 0 else "cA FALSE and a"
        raise _impossible(f"basicConstraints with {what} pathLenConstraint (RFC 5280 4.2.1.9)")
    return constraints.ca


def _check_usage(extension: Extension, is_ca: bool | None) -> None:
    try:
        bits = set(asn1.set_bits(asn1.decode(asn1.BitString, extension.value)))
    except MalformedMessage as error:
        raise _impossible(f"keyUsage: {error.detail}") from error
    if not bits:
        raise _impossible("keyUsage without a usage (RFC 5280 4.2.1.3)")
    if KeyUsage.keyCertSign in bits and is_ca is False:
        raise _impossible("keyCertSign beside basicConstraints with cA FALSE (RFC 5280 4.2.1.9)")
    if bits & {KeyUsage.keyCertSign, KeyUsage.cRLSign}:
        raise NotAuthorized("keyCertSign or cRLSign is requested", rule="R63")


def _check_purposes(extension: Extension) -> None:
    try:
        oids = [oid.dotted_string for oid in asn1.unbox(structures.OIDsBox, extension.value).oids]
    except MalformedMessage as error:
        raise _impossible(f"extKeyUsage: {error.detail}") from error
    if not oids:
        raise _impossible("extKeyUsage without a purpose (RFC 5280 4.2.1.12)")
    if twice := doubled(oids):
        raise _impossible(f"extKeyUsage with {', '.join(sorted(twice))} twice")
    if PRIVILEGED_PURPOSES.intersection(oids):
        raise NotAuthorized(
            "an extended key usage that no device may have is requested", rule="R63"
        )


def _impossible(what: str) -> TemplateRefused:
    return TemplateRefused(what, rule="RFC 5280 4.2")
