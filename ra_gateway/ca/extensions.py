"""The extensions of certificates as octets: encoding them, and reading what a request or a certificate has.

Both run for every certificate, so what is the same for all of one profile and issuing CA is encoded once.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from ra_gateway.ca.profiles import (
    EC_KEY_KINDS,
    KEM_KEY_KINDS,
    KEM_KEY_USAGE,
    SAN_TAGS,
    Profile,
    purposes_der,
)
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import KEY_ALGORITHMS, default_algorithm
from ra_gateway.cmp.asn1 import MAX_ELEMENTS
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import MalformedMessage, ServiceFailure

# --- reading ------------------------------------------------------------------------------------------------------

# Functions of octets alone may remember: what was read for the decision is not read differently for the check.


@remembered(entries=256, max_octets=1024)
def read_key(spki_der: bytes) -> tuple[str, bytes]:
    """Return the kind of a key ("" if not known) and its identifier, as `certificates.key_identifier` does."""
    algorithm_der, key_der = asn1.parts(spki_der, 2, "SubjectPublicKeyInfo", least=2, tag=0x30)
    bits = asn1.inner(key_der)
    if key_der[0] != 0x03 or not bits:
        raise MalformedMessage("not a SubjectPublicKeyInfo", rule="R1")
    identifier = hashlib.sha1(bits[1:], usedforsecurity=False).digest()
    return _KEY_ALGORITHMS.get(algorithm_der, ""), identifier


def read_attributes(name_der: bytes) -> set[bytes]:
    """Return the content octets of the OIDs of a Name's attributes."""
    found = set()
    for rdn in asn1.parts(name_der, MAX_ELEMENTS, "Name", tag=0x30):
        for attribute in asn1.parts(rdn, MAX_ELEMENTS, "RDN", least=1, tag=0x31):
            oid, _ = asn1.parts(attribute, 2, "AttributeTypeAndValue", least=2, tag=0x30)
            if oid[0] != 0x06:
                raise MalformedMessage("not an attribute of a Name", rule="R1")
            found.add(asn1.inner(oid))
    return found


@remembered(entries=256, max_octets=1024)
def read_names(general_names_der: bytes) -> tuple[int, ...]:
    """Return the tags of GeneralNames, each of which has the form of its kind."""
    tags = []
    for name in asn1.parts(general_names_der, MAX_ELEMENTS, "GeneralNames", tag=0x30):
        tag, content = name[0], asn1.inner(name)
        form = _FORMS.get(tag)
        if form is not None and form.fullmatch(content) is None:
            raise MalformedMessage(
                f"SubjectAltName: {content.hex()} is no name of kind {KINDS_OF_NAMES[tag]}",
                rule="RFC 5280 4.2.1.6",
            )
        if tag == SAN_TAGS["dn"]:
            read_attributes(content)
        tags.append(tag)
    if not tags:
        raise MalformedMessage("SubjectAltName without names", rule="RFC 5280 4.2.1.6")
    return tuple(tags)


KINDS_OF_NAMES: Final = MappingProxyType({tag: kind for kind, tag in SAN_TAGS.items()})

_FORMS: Final = MappingProxyType(
    {
        SAN_TAGS["email"]: re.compile(rb"[\x21-\x3f\x41-\x7e]+@[A-Za-z0-9._-]+"),
        # A little more than RFC 1034: the underscores that are met in practice, and wildcards.
        SAN_TAGS["dns"]: re.compile(rb"(?=.{1,253}$)[A-Za-z0-9_*-]{1,63}(\.[A-Za-z0-9_-]{1,63})*"),
        SAN_TAGS["uri"]: re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+"),
        SAN_TAGS["ip"]: re.compile(rb"(?s:.{4}|.{16})"),
    }
)
"""What the content octets of names look like."""

MAX_NF_TYPE: Final = 32
"""Octets of a name of a network function's type (RFC 9310 3)."""


@remembered(entries=256, max_octets=1024)
def read_bits(value: bytes) -> frozenset[int]:
    """Return the bits that a BIT STRING sets."""
    return frozenset(asn1.set_bits(asn1.decode(asn1.BitString, value)))


@remembered(entries=256, max_octets=1024)
def read_purposes(value: bytes) -> tuple[str, ...]:
    """Return the dotted OIDs of an ExtKeyUsage."""
    return tuple(oid.dotted_string for oid in asn1.unbox(structures.OIDsBox, value).oids)


@remembered(entries=256, max_octets=1024)
def read_extension(extension_der: bytes) -> tuple[str, bool, bytes]:
    """Return OID, criticality and value of an Extension."""
    item = asn1.decode(structures.Extension, extension_der)
    return item.extn_id.dotted_string, item.critical, item.extn_value


@remembered(entries=256, max_octets=1024)
def read_validity(validity_der: bytes) -> tuple[datetime, datetime]:
    """Return notBefore and notAfter, each in the one form that RFC 5280 4.1.2.5 allows."""
    validity = asn1.decode(structures.Validity, validity_der)
    found = asn1.time_of(validity.not_before), asn1.time_of(validity.not_after)
    if validity_der != write_validity(*found):
        raise MalformedMessage("not a Validity in the form that certificates have", rule="R1")
    return found


@remembered(entries=256, max_octets=1024)
def read_uris(value: bytes) -> tuple[str, ...]:
    """Return all that is tagged as a URI, at any depth."""
    found: list[str] = []
    for tag, start, end in asn1.spans(value, 0, len(value), MAX_ELEMENTS, "URLs", strict=True):
        if tag == SAN_TAGS["uri"]:
            found.append(value[start:end].decode("ascii", "replace"))
        elif tag & 0x20:
            found += read_uris(value[start:end])
    return tuple(found)


# --- encoding -----------------------------------------------------------------------------------------------------


def extension_der(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Return the DER of an Extension."""
    return asn1.tlv(0x30, _extension_head(oid, critical), asn1.tlv(0x04, value))


@lru_cache(maxsize=64)
def _extension_head(oid: str, critical: bool) -> bytes:
    return asn1.oid_der(oid) + (b"\x01\x01\xff" if critical else b"")


SUBJECT_KEY_IDENTIFIER_HEAD: Final = extension_der(
    OID.subjectKeyIdentifier, b"\x04\x14" + bytes(20)
)[:-20]


@lru_cache(maxsize=256)
def named_bits(bits: frozenset[int]) -> bytes:
    """Return the DER of a BIT STRING that sets these bits."""
    return asn1.encode(asn1.named_bits(sorted(bits)))


@lru_cache(maxsize=256)
def key_usage_extension(bits: frozenset[int]) -> bytes:
    """Return a KeyUsage extension."""
    return extension_der(OID.keyUsage, named_bits(bits), critical=True)


@lru_cache(maxsize=256)
def purposes_extension(purposes: tuple[str, ...]) -> bytes:
    """Return an ExtKeyUsage extension, b"" for no purposes."""
    return extension_der(OID.extKeyUsage, purposes_der(purposes)) if purposes else b""


def distribution_points(*urls: str) -> bytes:
    """Return the value of a CRLDistributionPoints or FreshestCRL extension (RFC 5280 4.2.1.13, 4.2.1.15).

    All URLs are in one distribution point: they are ways to the same CRL.
    """
    full_name = asn1.tlv(0xA0, *(asn1.tlv(0x86, url.encode("ascii")) for url in urls))
    return asn1.tlv(0x30, asn1.tlv(0x30, asn1.tlv(0xA0, full_name)))


def authority_info_access(locations: tuple[tuple[str, str], ...]) -> bytes:
    """Return the value of an AuthorityInfoAccess extension from pairs of access method and URL."""
    return asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x30, asn1.oid_der(method), asn1.tlv(0x86, url.encode("ascii")))
            for method, url in locations
        ),
    )


def write_validity(not_before: datetime, not_after: datetime) -> bytes:
    """Return the DER of a Validity from aware UTC, from 1950 on."""
    return asn1.tlv(0x30, asn1.time_der(not_before), asn1.time_der(not_after))


@dataclass(frozen=True, slots=True)
class ConstantExtensions:
    """What is the same in all certificates of one profile and issuing CA.

    Args:
        authority_der: The AuthorityKeyIdentifier extension.
        others_der: The extensions that follow from the profile alone.
        values: Dotted OIDs and values of all of them.
        algorithm_der: Of the issuing CA's signatures.
        uris: The URLs that each of the extensions with URLs must have, in order.
    """

    authority_der: bytes
    others_der: tuple[bytes, ...]
    values: dict[str, bytes]
    algorithm_der: bytes
    uris: dict[str, tuple[str, ...]]


@lru_cache(maxsize=256)
def constant_extensions(profile: Profile, issuer: Certificate) -> ConstantExtensions:
    """Return what is the same in all certificates of a profile and issuing CA.

    Raises:
        ServiceFailure: The issuing CA has no SubjectKeyIdentifier.
    """
    identifier = issuer.subject_key_identifier
    if identifier is None:
        raise ServiceFailure("the issuing CA has no SubjectKeyIdentifier", rule="R153")

    def filled(*urls: str) -> tuple[str, ...]:
        return tuple(url.replace("{issuer}", identifier.hex()) for url in urls if url)

    points, freshest = filled(*profile.crl_urls), filled(profile.delta_crl_url)
    ocsp, ca_issuers = filled(profile.ocsp_url), filled(profile.ca_issuers_url)
    values: dict[str, bytes] = {}
    if points:
        values[OID.cRLDistributionPoints] = distribution_points(*points)
    if freshest:
        values[OID.freshestCRL] = distribution_points(*freshest)
    if ocsp or ca_issuers:
        values[OID.authorityInfoAccess] = authority_info_access(
            (
                *((OID.ocsp, url) for url in ocsp),
                *((OID.caIssuers, url) for url in ca_issuers),
            )
        )
    if profile.ocsp_no_check:
        values[OID.ocspNoCheck] = asn1.NULL_DER
    if profile.certificate_policies:
        values[OID.certificatePolicies] = asn1.tlv(
            0x30, *(asn1.tlv(0x30, asn1.oid_der(oid)) for oid in profile.certificate_policies)
        )
    authority = asn1.tlv(0x30, asn1.tlv(0x80, identifier))
    return ConstantExtensions(
        extension_der(OID.authorityKeyIdentifier, authority),
        tuple(extension_der(oid, value) for oid, value in values.items()),
        {OID.authorityKeyIdentifier: authority, **values},
        default_algorithm(issuer.public_key).der,
        {
            oid: uris
            for oid, uris in (
                (OID.cRLDistributionPoints, points),
                (OID.freshestCRL, freshest),
                (OID.authorityInfoAccess, ocsp + ca_issuers),
            )
            if uris
        },
    )


_KEY_ALGORITHMS: Final = MappingProxyType(
    {
        **{der: name.replace("-", "").lower() for der, name in KEY_ALGORITHMS.items()},
        asn1.algorithm_der(OID.rsaEncryption, asn1.NULL_DER): "rsa",
        asn1.algorithm_der(OID.rsaEncryption): "rsa",
    }
)
"""AlgorithmIdentifiers of public keys to the kinds of keys as profiles name them."""


def key_kind_of(algorithm_der: bytes) -> str:
    """Return the kind of key that an AlgorithmIdentifier in SubjectPublicKeyInfo names, "" if not known."""
    return _KEY_ALGORITHMS.get(algorithm_der, "")


def allowed_usage(profile: Profile, kind: str) -> tuple[frozenset[int], frozenset[int]]:
    """Return the KeyUsage bits that a certificate for a kind of key must have, and those that it may have."""
    if kind in KEM_KEY_KINDS:
        return KEM_KEY_USAGE, KEM_KEY_USAGE
    least = profile.key_usage
    if kind == "rsa":
        return least, least | profile.rsa_key_usage
    if kind in EC_KEY_KINDS:
        return least, least | profile.ec_key_usage
    return least, least
