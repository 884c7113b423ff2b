"""What a certificate is going to say, decided from profile and template; and the check of the octets to be signed.

The template only suggests: what is granted differs from what was asked for wherever the profile says so, and
the answer then has status grantedWithMods (RFC 4211 5: all but the key may be altered). What a certificate
must not lack, or must not have, is no matter of degree, and refused.

Both run for every certificate, so what is the same for all of one profile and issuing CA is encoded once, and the
rest is put together from octets. The check at the end reads those octets anew.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from ra_gateway.ca.profiles import (
    CLOCK_SKEW,
    EC_KEY_KINDS,
    KEM_KEY_KINDS,
    KEM_KEY_USAGE,
    SAN_TAGS,
    Profile,
    purposes_der,
)
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import default_algorithm
from ra_gateway.cmp.certificates import Certificate, ExtensionOID
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.remembering import remembered
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.errors import MalformedMessage, ServiceFailure, TemplateRefused

CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"
FRESHEST_CRL: Final = "2.5.29.46"
AUTHORITY_INFO_ACCESS: Final = "1.3.6.1.5.5.7.1.1"
OCSP_NO_CHECK: Final = "1.3.6.1.5.5.7.48.1.5"
NF_TYPES: Final = "1.3.6.1.5.5.7.1.34"

OCSP_ACCESS: Final = "1.3.6.1.5.5.7.48.1"
CA_ISSUERS_ACCESS: Final = "1.3.6.1.5.5.7.48.2"

MIN_SERIAL_BITS: Final = 64  # R153
MAX_SERIAL_BITS: Final = 159  # RFC 5280 4.1.2.2: 20 octets, positive

PROFILE_RULE: Final = "TS 33.310 6.1"
"""Before issuing, a CA checks that the request fits the profile."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a certificate is going to say; signature and serial number are missing.

    Args:
        extensions: DER of each Extension, in order.
        changes: What differs from the request, in words; empty if nothing does.
    """

    subject_der: bytes
    spki_der: bytes
    not_before: datetime
    not_after: datetime
    extensions: tuple[bytes, ...]
    changes: tuple[str, ...] = ()


_SEAL: Final = Seal(__name__)


@dataclass(frozen=True, slots=True)
class TBSCertificate:
    """What was read from the octets of a certificate that is to be signed."""

    der: bytes
    serial_number: int
    not_before: datetime
    not_after: datetime
    subject_der: bytes
    spki_der: bytes
    extensions: dict[str, tuple[bool, bytes]]


@proof
class CheckedTBS:
    """A TBSCertificate that keeps to its profile: what the signing key wants to see."""

    tbs: TBSCertificate
    seal: InitVar[Seal]

    def __post_init__(self, seal: Seal) -> None:
        _SEAL.require(seal)


# --- deciding -----------------------------------------------------------------------------------------------------


def draw_up(
    profile: Profile, template: CertTemplate, issuer: Certificate, now: datetime
) -> Blueprint:
    """Decide what a certificate says: the template as far as the profile and the issuing CA allow.

    The template's issuer is not looked at: OpenSSL puts the vendor's CA there.

    Args:
        template: Has a publicKey whose strength was checked, and no extension twice.
        issuer: The issuing CA's certificate; has a SubjectKeyIdentifier.
        now: Aware UTC.

    Raises:
        TemplateRefused: What the profile demands is missing, what it does not allow is there, something does
            not parse, or the validity asked for is over.
        ServiceFailure: The issuing CA itself is not valid now.
    """
    if template.spki_der is None:
        raise TemplateRefused("no publicKey", rule="R60")
    changes = list(template.reserved)
    not_before, not_after = _validity(profile, template, issuer, now, changes)
    constant = _constants(profile, issuer)
    subject_der = template.subject_der or NULL_DN
    requested = {item.oid: item.value for item in template.extensions}
    try:
        kind, identifier = _read_key(template.spki_der)
        _require_key_kind(profile, kind)
        _require_subject(profile, subject_der)
        extensions = (
            _key_usage(profile, requested, kind, changes),
            _SUBJECT_KEY_IDENTIFIER_HEAD + identifier,
            constant.authority_der,
            _purposes(profile, requested, changes),
            _names(profile, requested, subject_der),
            *constant.others_der,
            _nf_types(profile, requested),
        )
    except MalformedMessage as error:
        raise TemplateRefused(error.detail, rule=error.rule) from error
    for oid in requested.keys() - _DECIDED:
        if oid == NF_TYPES and profile.nf_types:
            continue
        value = b"\x04\x14" + identifier if oid == ExtensionOID.subjectKeyIdentifier else None
        if requested[oid] != constant.values.get(oid, value):
            changes.append(f"extension {oid}")
    return Blueprint(
        subject_der,
        template.spki_der,
        not_before,
        not_after,
        tuple(filter(None, extensions)),
        tuple(changes),
    )


def _validity(
    profile: Profile, template: CertTemplate, issuer: Certificate, now: datetime, changes: list[str]
) -> tuple[datetime, datetime]:
    now = now.replace(microsecond=0)  # certificates know whole seconds only
    if not issuer.valid_at(now):
        raise ServiceFailure(f"the issuing CA {issuer.subject} is not valid now", rule="R153")
    earliest = max(now - CLOCK_SKEW, issuer.not_before)
    latest = min(now + timedelta(days=profile.validity_days), issuer.not_after)
    not_before, not_after = earliest, latest
    if template.not_before is not None:
        # Between the two it is a backdating of the device's own, smaller than ours.
        not_before = template.not_before if earliest <= template.not_before <= now else earliest
    if template.not_after is not None:
        if template.not_after <= now:
            raise TemplateRefused(
                f"validity until {template.not_after:%Y-%m-%dT%H:%M:%SZ} is over", rule="R153"
            )
        not_after = min(template.not_after, latest)
    if template.not_before not in (None, not_before) or template.not_after not in (None, not_after):
        changes.append("validity")
    return not_before, not_after


def _require_key_kind(profile: Profile, kind: str) -> None:
    if kind not in profile.key_kinds:
        raise TemplateRefused(
            f"a key of kind {kind or 'unknown'}; "
            f"{profile.name} takes {', '.join(sorted(profile.key_kinds))}",
            rule="R61",
        )


def _require_subject(profile: Profile, subject_der: bytes) -> None:
    found = _read_attributes(subject_der)
    missing = profile.required_attributes.keys() - found
    if missing:
        names = ", ".join(sorted(profile.required_attributes[oid] for oid in missing))
        raise TemplateRefused(
            f"the subject lacks {names}, which {profile.name} demands", rule=PROFILE_RULE
        )
    if profile.allowed_attributes and not profile.allowed_attributes.issuperset(found):
        raise TemplateRefused(
            f"the subject has other attributes than {', '.join(sorted(profile.allowed_subject))}, "
            f"all that {profile.name} allows",
            rule=PROFILE_RULE,
        )


def _key_usage(
    profile: Profile, requested: dict[str, bytes], kind: str, changes: list[str]
) -> bytes:
    least, allowed = _allowed_usage(profile, kind)
    granted = allowed
    value = requested.get(ExtensionOID.keyUsage)
    if value is not None:
        bits = _read_bits(value)
        if least <= bits <= allowed:
            granted = bits
        else:
            changes.append("keyUsage")
    return _key_usage_extension(granted)


def _allowed_usage(profile: Profile, kind: str) -> tuple[frozenset[int], frozenset[int]]:
    """Return the KeyUsage bits that a certificate for a kind of key must have, and those that it may have."""
    if kind in KEM_KEY_KINDS:
        return KEM_KEY_USAGE, KEM_KEY_USAGE
    least = profile.key_usage
    if kind == "rsa":
        return least, least | profile.rsa_key_usage
    if kind in EC_KEY_KINDS:
        return least, least | profile.ec_key_usage
    return least, least


def _purposes(profile: Profile, requested: dict[str, bytes], changes: list[str]) -> bytes:
    granted = profile.purposes
    value = requested.get(ExtensionOID.extKeyUsage)
    if value is not None:
        asked = _read_purposes(value)
        granted = tuple(oid for oid in asked if oid in profile.allowed_purposes)
        if granted != asked:
            granted = granted or profile.purposes
            changes.append("extKeyUsage")
    return _purposes_extension(granted)


def _names(profile: Profile, requested: dict[str, bytes], subject_der: bytes) -> bytes:
    value = requested.get(ExtensionOID.subjectAltName)
    if value is None:
        if profile.san_required:
            raise TemplateRefused(
                f"no SubjectAltName, which {profile.name} demands", rule=PROFILE_RULE
            )
        if subject_der == NULL_DN:
            raise TemplateRefused("neither subject nor SubjectAltName", rule="R51")
        return b""
    tags = _read_names(value)
    if not profile.san_tags.issuperset(tags):
        kinds = sorted({_KINDS.get(tag, f"[{tag & 0x1F}]") for tag in tags} - profile.san)
        raise TemplateRefused(
            f"SubjectAltName holds names of kind {', '.join(kinds)}; "
            f"{profile.name} allows {', '.join(sorted(profile.san)) or 'none at all'}",
            rule=PROFILE_RULE,
        )
    if len(tags) > profile.san_max:
        raise TemplateRefused(
            f"SubjectAltName holds {len(tags)} names; {profile.name} allows {profile.san_max}",
            rule=PROFILE_RULE,
        )
    # RFC 5280 4.2.1.6: critical if it is the only name there is.
    critical = profile.san_critical or subject_der == NULL_DN
    return _extension(ExtensionOID.subjectAltName, value, critical=critical)


def _nf_types(profile: Profile, requested: dict[str, bytes]) -> bytes:
    value = requested.get(NF_TYPES)
    if value is None or not profile.nf_types:
        return b""
    names = _members(value, 0, len(value))
    good = all(
        tag == 0x16 and 1 <= end - start <= _MAX_NF_TYPE and value[start:end].isascii()
        for tag, _, start, end in names
    )
    if not names or not good:
        raise MalformedMessage("NFTypes is no list of names", rule="RFC 9310 3")
    return _extension(NF_TYPES, value)


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


def _members(der: bytes, position: int, end: int, count: int | None = None) -> list[Element]:
    """Return the elements in the one SEQUENCE between two positions; arguments as of `elements`."""
    ((tag, _, start, _),) = elements(der, position, end, 1)
    if tag != 0x30:
        raise MalformedMessage(f"tag {tag:02x} where a SEQUENCE belongs", rule="R1")
    return elements(der, start, end, count)


# Functions of octets alone may remember: what was read for the decision is not read differently for the check.


@remembered(entries=256, max_octets=1024)
def _read_key(spki_der: bytes) -> tuple[str, bytes]:
    """Return the kind of a key ("" if not known) and its identifier, as `certificates.key_identifier` does."""
    (_, start, _, middle), (tag, _, bits, end) = _members(spki_der, 0, len(spki_der), 2)
    if tag != 0x03 or bits == end:
        raise MalformedMessage("not a SubjectPublicKeyInfo", rule="R1")
    kind = _KEY_ALGORITHMS.get(spki_der[start:middle], "")
    return kind, hashlib.sha256(spki_der[bits + 1 : end]).digest()[:20]


def _read_attributes(name_der: bytes) -> set[bytes]:
    """Return the content octets of the OIDs of a Name's attributes."""
    found = set()
    for rdn_tag, _, rdn_start, rdn_end in _members(name_der, 0, len(name_der)):
        if rdn_tag != 0x31 or rdn_start == rdn_end:
            raise MalformedMessage("not a RelativeDistinguishedName", rule="R1")
        for _, start, _, end in elements(name_der, rdn_start, rdn_end):
            (tag, _, oid_start, oid_end), _ = _members(name_der, start, end, 2)
            if tag != 0x06:
                raise MalformedMessage("not an attribute of a Name", rule="R1")
            found.add(name_der[oid_start:oid_end])
    return found


@remembered(entries=256, max_octets=1024)
def _read_names(general_names_der: bytes) -> tuple[int, ...]:
    """Return the tags of GeneralNames, each of which has the form of its kind."""
    tags = []
    for tag, _, start, end in _members(general_names_der, 0, len(general_names_der)):
        content = general_names_der[start:end]
        form = _FORMS.get(tag)
        if form is not None and form.fullmatch(content) is None:
            raise MalformedMessage(
                f"SubjectAltName: {content.hex()} is no name of kind {_KINDS[tag]}",
                rule="RFC 5280 4.2.1.6",
            )
        if tag == SAN_TAGS["dn"]:
            _read_attributes(content)
        tags.append(tag)
    if not tags:
        raise MalformedMessage("SubjectAltName without names", rule="RFC 5280 4.2.1.6")
    return tuple(tags)


_KINDS: Final = MappingProxyType({tag: kind for kind, tag in SAN_TAGS.items()})

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

_MAX_NF_TYPE: Final = 32
"""Octets of a name of a network function's type (RFC 9310 3)."""


@remembered(entries=256, max_octets=1024)
def _read_bits(value: bytes) -> frozenset[int]:
    return frozenset(asn1.set_bits(asn1.decode(asn1.BitString, value)))


@remembered(entries=256, max_octets=1024)
def _read_purposes(value: bytes) -> tuple[str, ...]:
    return tuple(oid.dotted_string for oid in asn1.unbox(structures.OIDsBox, value).oids)


@remembered(entries=256, max_octets=1024)
def _read_extension(extension_der: bytes) -> tuple[str, bool, bytes]:
    item = asn1.decode(structures.Extension, extension_der)
    return item.extn_id.dotted_string, item.critical, item.extn_value


@remembered(entries=256, max_octets=1024)
def _read_time(time_der: bytes) -> datetime:
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
def _uris(value: bytes) -> tuple[str, ...]:
    """Return all that is tagged as a URI, at any depth."""
    found: list[str] = []
    for tag, _, start, end in elements(value, 0, len(value)):
        if tag == SAN_TAGS["uri"]:
            found.append(value[start:end].decode("ascii", "replace"))
        elif tag & 0x20:
            found += _uris(value[start:end])
    return tuple(found)


# --- encoding -----------------------------------------------------------------------------------------------------


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return asn1.tlv(0x30, _extension_head(oid, critical), asn1.tlv(0x04, value))


@lru_cache(maxsize=64)
def _extension_head(oid: str, critical: bool) -> bytes:
    return asn1.oid_der(oid) + (b"\x01\x01\xff" if critical else b"")


_SUBJECT_KEY_IDENTIFIER_HEAD: Final = _extension(
    ExtensionOID.subjectKeyIdentifier, b"\x04\x14" + bytes(20)
)[:-20]


@lru_cache(maxsize=256)
def _named_bits(bits: frozenset[int]) -> bytes:
    return asn1.encode(asn1.named_bits(sorted(bits)))


@lru_cache(maxsize=256)
def _key_usage_extension(bits: frozenset[int]) -> bytes:
    return _extension(ExtensionOID.keyUsage, _named_bits(bits), critical=True)


@lru_cache(maxsize=256)
def _purposes_extension(purposes: tuple[str, ...]) -> bytes:
    return _extension(ExtensionOID.extKeyUsage, purposes_der(purposes)) if purposes else b""


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
class _Constants:
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
def _constants(profile: Profile, issuer: Certificate) -> _Constants:
    identifier = issuer.subject_key_identifier
    if identifier is None:
        raise ServiceFailure("the issuing CA has no SubjectKeyIdentifier", rule="R153")

    def filled(*urls: str) -> tuple[str, ...]:
        return tuple(url.replace("{issuer}", identifier.hex()) for url in urls if url)

    points, freshest = filled(*profile.crl_urls), filled(profile.delta_crl_url)
    ocsp, ca_issuers = filled(profile.ocsp_url), filled(profile.ca_issuers_url)
    values: dict[str, bytes] = {}
    if points:
        values[CRL_DISTRIBUTION_POINTS] = distribution_points(*points)
    if freshest:
        values[FRESHEST_CRL] = distribution_points(*freshest)
    if ocsp or ca_issuers:
        values[AUTHORITY_INFO_ACCESS] = authority_info_access(
            (
                *((OCSP_ACCESS, url) for url in ocsp),
                *((CA_ISSUERS_ACCESS, url) for url in ca_issuers),
            )
        )
    if profile.ocsp_no_check:
        values[OCSP_NO_CHECK] = b"\x05\x00"
    if profile.certificate_policies:
        values[ExtensionOID.certificatePolicies] = asn1.tlv(
            0x30, *(asn1.tlv(0x30, asn1.oid_der(oid)) for oid in profile.certificate_policies)
        )
    authority = asn1.tlv(0x30, asn1.tlv(0x80, identifier))
    return _Constants(
        _extension(ExtensionOID.authorityKeyIdentifier, authority),
        tuple(_extension(oid, value) for oid, value in values.items()),
        {ExtensionOID.authorityKeyIdentifier: authority, **values},
        default_algorithm(issuer.public_key).der,
        {
            oid: uris
            for oid, uris in (
                (CRL_DISTRIBUTION_POINTS, points),
                (FRESHEST_CRL, freshest),
                (AUTHORITY_INFO_ACCESS, ocsp + ca_issuers),
            )
            if uris
        },
    )


def _key_algorithms() -> dict[bytes, str]:
    """Return the AlgorithmIdentifiers of public keys and the kinds they are of."""
    rsa = asn1.oid_der("1.2.840.113549.1.1.1")
    found = {asn1.tlv(0x30, rsa, b"\x05\x00"): "rsa", asn1.tlv(0x30, rsa): "rsa"}
    for kind, curve in (
        ("p256", "1.2.840.10045.3.1.7"),
        ("p384", "1.3.132.0.34"),
        ("p521", "1.3.132.0.35"),
    ):
        found[asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.2.1"), asn1.oid_der(curve))] = kind
    for kind, oid in (
        ("ed25519", "1.3.101.112"),
        ("ed448", "1.3.101.113"),
        ("mldsa44", "2.16.840.1.101.3.4.3.17"),
        ("mldsa65", "2.16.840.1.101.3.4.3.18"),
        ("mldsa87", "2.16.840.1.101.3.4.3.19"),
        ("mlkem768", "2.16.840.1.101.3.4.4.2"),
        ("mlkem1024", "2.16.840.1.101.3.4.4.3"),
    ):
        found[asn1.tlv(0x30, asn1.oid_der(oid))] = kind
    return found


_KEY_ALGORITHMS: Final = MappingProxyType(_key_algorithms())


def key_kind_of(algorithm_der: bytes) -> str:
    """Return the kind of key that an AlgorithmIdentifier in SubjectPublicKeyInfo names, "" if not known."""
    return _KEY_ALGORITHMS.get(algorithm_der, "")


# --- checking -----------------------------------------------------------------------------------------------------


def require_conforming(
    tbs_der: bytes,
    blueprint: Blueprint,
    profile: Profile,
    issuer: Certificate,
    now: datetime,
) -> CheckedTBS:
    """Check a TBSCertificate, as it is going to be signed, against what no certificate of ours may violate.

    Reads the octets again rather than the values they were made of, so that a mistake in between shows.

    Args:
        issuer: The issuing CA's certificate.
        now: Aware UTC.

    Raises:
        ServiceFailure: It violates one (R153).
    """
    constant = _constants(profile, issuer)
    try:
        tbs, signature_der, issuer_der = _read_tbs(tbs_der)
        violated = [
            *_violated_fields(tbs, blueprint, profile, issuer, now),
            *_violated_extensions(tbs, profile, constant),
        ]
    except MalformedMessage as error:
        raise ServiceFailure(
            f"the certificate to be signed is broken: {error.detail}", rule="R153"
        ) from error
    if signature_der != constant.algorithm_der:
        violated.append("signature algorithm")
    if issuer_der != issuer.subject_der:
        violated.append("issuer")
    if violated:
        raise ServiceFailure(
            f"the certificate to be signed violates {profile.name}: {', '.join(violated)}",
            rule="R153",
        )
    return CheckedTBS(tbs, _SEAL)


_VERSION_3: Final = b"\xa0\x03\x02\x01\x02"
_TBS_TAGS: Final = [0xA0, 0x02, 0x30, 0x30, 0x30, 0x30, 0x30, 0xA3]
"""No issuerUniqueID and no subjectUniqueID: those fields are not to be used (RFC 5280 4.1.2.8)."""


def _read_tbs(der: bytes) -> tuple[TBSCertificate, bytes, bytes]:
    """Return what a TBSCertificate says, with DER of its signature algorithm and issuer."""
    fields = _members(der, 0, len(der), len(_TBS_TAGS))
    if [field[0] for field in fields] != _TBS_TAGS or der[
        fields[0][1] : fields[1][1]
    ] != _VERSION_3:
        raise MalformedMessage("not the fields of a certificate of version 3", rule="R1")
    octets = [der[start:end] for _, start, _, end in fields]
    _, _, start, end = fields[1]
    serial_number = int.from_bytes(der[start:end], "big", signed=True)
    (_, start, _, middle), _ = elements(der, fields[4][2], fields[4][3], 2)
    not_before, not_after = _read_time(der[start:middle]), _read_time(der[middle : fields[4][3]])
    extensions: dict[str, tuple[bool, bytes]] = {}
    for _, start, _, end in _members(der, fields[7][2], fields[7][3]):
        oid, critical, value = _read_extension(der[start:end])
        if oid in extensions:
            raise MalformedMessage(f"extension {oid} twice", rule="R1")
        extensions[oid] = critical, value
    return (
        TBSCertificate(der, serial_number, not_before, not_after, octets[5], octets[6], extensions),
        octets[2],
        octets[3],
    )


def _violated_fields(
    tbs: TBSCertificate, blueprint: Blueprint, profile: Profile, issuer: Certificate, now: datetime
) -> list[str]:
    bits = tbs.serial_number.bit_length()
    latest = min(now + timedelta(days=profile.validity_days), issuer.not_after)
    invariants = {
        "serial number": tbs.serial_number > 0 and MIN_SERIAL_BITS <= bits <= MAX_SERIAL_BITS,
        "subject": tbs.subject_der == blueprint.subject_der,
        "public key": tbs.spki_der == blueprint.spki_der,
        "notBefore": issuer.not_before <= tbs.not_before <= now,
        "notAfter": now < tbs.not_after <= latest,
    }
    return [name for name, holds in invariants.items() if not holds]


def _violated_extensions(tbs: TBSCertificate, profile: Profile, constant: _Constants) -> list[str]:
    critical, value = tbs.extensions.get(ExtensionOID.keyUsage, (False, _NO_BITS))
    usage = _read_bits(value)
    kind, identifier = _read_key(tbs.spki_der)
    least, allowed = _allowed_usage(profile, kind)
    invariants = {
        "keyUsage": critical and least <= usage <= allowed and value == _named_bits(usage),
        "extKeyUsage": _purposes_conform(tbs, profile),
        "subjectAltName": _names_conform(tbs, profile),
        "subjectKeyIdentifier": tbs.extensions.get(ExtensionOID.subjectKeyIdentifier)
        == (False, b"\x04\x14" + identifier),
    }
    violated = [name for name, holds in invariants.items() if not holds]
    for oid, expected in constant.values.items():
        critical, value = tbs.extensions.get(oid, (True, b""))
        uris = constant.uris.get(oid)
        if critical or (value != expected if uris is None else _uris(value) != uris):
            violated.append(_EXTENSIONS[oid])
    possible = _POSSIBLE | {NF_TYPES} if profile.nf_types else _POSSIBLE
    for oid in tbs.extensions.keys() - possible - constant.values.keys():
        violated.append(_EXTENSIONS.get(oid, f"extension {oid}"))
    return violated


def _purposes_conform(tbs: TBSCertificate, profile: Profile) -> bool:
    found = tbs.extensions.get(ExtensionOID.extKeyUsage)
    if found is None:
        return not profile.purposes
    purposes = _read_purposes(found[1])
    return not found[0] and bool(purposes) and profile.allowed_purposes.issuperset(purposes)


def _names_conform(tbs: TBSCertificate, profile: Profile) -> bool:
    found = tbs.extensions.get(ExtensionOID.subjectAltName)
    only_name = tbs.subject_der == NULL_DN
    if found is None:
        return not (profile.san_required or only_name)
    tags = _read_names(found[1])
    return (
        found[0] == (profile.san_critical or only_name)
        and profile.san_tags.issuperset(tags)
        and len(tags) <= profile.san_max
    )


_NO_BITS: Final = b"\x03\x01\x00"

_POSSIBLE: Final = frozenset(
    {
        ExtensionOID.keyUsage,
        ExtensionOID.extKeyUsage,
        ExtensionOID.subjectAltName,
        ExtensionOID.subjectKeyIdentifier,
    }
)

_DECIDED: Final = frozenset(
    {
        ExtensionOID.keyUsage,
        ExtensionOID.extKeyUsage,
        ExtensionOID.subjectAltName,
        # One that says "no CA" (R63 refused the other) says nothing.
        ExtensionOID.basicConstraints,
    }
)
"""Requested extensions of which it has been told, or need not be, whether they were granted as they are."""

_EXTENSIONS: Final = MappingProxyType(
    {
        ExtensionOID.basicConstraints: "basicConstraints",
        ExtensionOID.authorityKeyIdentifier: "authorityKeyIdentifier",
        ExtensionOID.certificatePolicies: "certificatePolicies",
        CRL_DISTRIBUTION_POINTS: "cRLDistributionPoints",
        FRESHEST_CRL: "freshestCRL",
        AUTHORITY_INFO_ACCESS: "authorityInfoAccess",
        OCSP_NO_CHECK: "ocsp-nocheck",
        NF_TYPES: "NFTypes",
    }
)
"""Names of extensions, for texts."""
