"""The extensions of certificates as octets: encoding them, and reading what a request or a certificate has.

Both run for every certificate, so what is the same for all of one profile and issuing CA is encoded once.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
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
from ra_gateway.cmp.algorithms import default_algorithm
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import MalformedMessage, ServiceFailure

# --- reading DER --------------------------------------------------------------------------------------------------

Element = tuple[int, int, int, int]
"""Tag octet, and where in the octets around it the element begins, its content begins, and both end."""


def elements(der: bytes, position: int, end: int, count: int | None = None) -> list[Element]:
    """Return the elements that lie side by side between two positions.

    Several times faster than the codec, where only the structure of a few levels is asked for.

    Args:
        count: How many there must be.

    Raises:
        MalformedMessage: Not DER, or not that many.
    """
    found: list[Element] = []
    try:
        while position < end:
            tag, length = der[position], der[position + 1]
            content = position + 2
            if length >= 0x80:
                content += length & 0x7F
                length = int.from_bytes(der[position + 2 : content], "big")
                if length < 0x80 or not der[position + 2]:
                    raise MalformedMessage("an element whose length is not DER", rule="R1")
            if tag & 0x1F == 0x1F:
                raise MalformedMessage("an element with a tag of several octets", rule="R1")
            found.append((tag, position, content, content + length))
            position = content + length
    except IndexError:
        position = -1
    if position != end or (count is not None and len(found) != count):
        raise MalformedMessage("elements are missing, too many, or too long", rule="R1")
    return found


def members(der: bytes, position: int, end: int, count: int | None = None) -> list[Element]:
    """Return the elements in the one SEQUENCE between two positions; arguments as of `elements`."""
    ((tag, _, start, _),) = elements(der, position, end, 1)
    if tag != 0x30:
        raise MalformedMessage(f"tag {tag:02x} where a SEQUENCE belongs", rule="R1")
    return elements(der, start, end, count)


# Functions of octets alone may remember: what was read for the decision is not read differently for the check.


@remembered(entries=256, max_octets=1024)
def read_key(spki_der: bytes) -> tuple[str, bytes]:
    """Return the kind of a key ("" if not known) and its identifier, as `certificates.key_identifier` does."""
    (_, start, _, middle), (tag, _, bits, end) = members(spki_der, 0, len(spki_der), 2)
    if tag != 0x03 or bits == end:
        raise MalformedMessage("not a SubjectPublicKeyInfo", rule="R1")
    kind = _KEY_ALGORITHMS.get(spki_der[start:middle], "")
    return kind, hashlib.sha256(spki_der[bits + 1 : end]).digest()[:20]


def read_attributes(name_der: bytes) -> set[bytes]:
    """Return the content octets of the OIDs of a Name's attributes."""
    found = set()
    for rdn_tag, _, rdn_start, rdn_end in members(name_der, 0, len(name_der)):
        if rdn_tag != 0x31 or rdn_start == rdn_end:
            raise MalformedMessage("not a RelativeDistinguishedName", rule="R1")
        for _, start, _, end in elements(name_der, rdn_start, rdn_end):
            (tag, _, oid_start, oid_end), _ = members(name_der, start, end, 2)
            if tag != 0x06:
                raise MalformedMessage("not an attribute of a Name", rule="R1")
            found.add(name_der[oid_start:oid_end])
    return found


@remembered(entries=256, max_octets=1024)
def read_names(general_names_der: bytes) -> tuple[int, ...]:
    """Return the tags of GeneralNames, each of which has the form of its kind."""
    tags = []
    for tag, _, start, end in members(general_names_der, 0, len(general_names_der)):
        content = general_names_der[start:end]
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
def read_time(time_der: bytes) -> datetime:
    """Return UTCTime or GeneralizedTime, in the one form that RFC 5280 4.1.2.5 allows."""
    tag, text = time_der[0], time_der[2:].decode("ascii", "replace")
    form = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}.get(tag, "")
    try:
        moment = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedMessage(f"a time {text!r}", rule="R1") from error
    if time_der != _time(moment):
        raise MalformedMessage(f"a time {text!r}", rule="R1")
    return moment


@remembered(entries=256, max_octets=1024)
def read_uris(value: bytes) -> tuple[str, ...]:
    """Return all that is tagged as a URI, at any depth."""
    found: list[str] = []
    for tag, _, start, end in elements(value, 0, len(value)):
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


def validity_der(not_before: datetime, not_after: datetime) -> bytes:
    """Return the DER of a Validity."""
    return asn1.tlv(0x30, _time(not_before), _time(not_after))


@lru_cache(maxsize=256)
def _time(moment: datetime) -> bytes:
    return asn1.encode(asn1.time(moment.astimezone(UTC)))


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
        values[OID.ocspNoCheck] = b"\x05\x00"
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


def _key_algorithms() -> dict[bytes, str]:
    """Return the AlgorithmIdentifiers of public keys and the kinds they are of."""
    rsa = asn1.oid_der(OID.rsaEncryption)
    found = {asn1.tlv(0x30, rsa, b"\x05\x00"): "rsa", asn1.tlv(0x30, rsa): "rsa"}
    for kind, curve in (
        ("p256", OID.secp256r1),
        ("p384", OID.secp384r1),
        ("p521", OID.secp521r1),
    ):
        found[asn1.tlv(0x30, asn1.oid_der(OID.ecPublicKey), asn1.oid_der(curve))] = kind
    for kind, oid in (
        ("ed25519", OID.ed25519),
        ("ed448", OID.ed448),
        ("mldsa44", OID.mlDSA44),
        ("mldsa65", OID.mlDSA65),
        ("mldsa87", OID.mlDSA87),
        ("mlkem768", OID.mlKEM768),
        ("mlkem1024", OID.mlKEM1024),
    ):
        found[asn1.tlv(0x30, asn1.oid_der(oid))] = kind
    return found


_KEY_ALGORITHMS: Final = MappingProxyType(_key_algorithms())


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
