"""What a certificate is going to say, decided from profile and template.

The template only suggests: what is granted differs from what was asked for wherever the profile says so, and
the answer then has status grantedWithMods (RFC 4211 5: all but the key may be altered). What a certificate
must not lack, or must not have, is no matter of degree, and refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.ca.extensions import (
    KINDS_OF_NAMES,
    MAX_NF_TYPE,
    SUBJECT_KEY_IDENTIFIER_HEAD,
    allowed_usage,
    constant_extensions,
    extension_der,
    key_usage_extension,
    purposes_extension,
    read_attributes,
    read_bits,
    read_key,
    read_names,
    read_purposes,
)
from ra_gateway.ca.profiles import CLOCK_SKEW, Profile
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import NULL_DN, same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage, ServiceFailure, TemplateRefused

PROFILE_RULE: Final = "TS 33.310 6.1"
"""Before issuing, a CA checks that the request fits the profile."""


@dataclass(frozen=True, slots=True)
class TBSPlan:
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


def plan_tbs(
    profile: Profile, template: CertTemplate, issuer: Certificate, now: datetime
) -> TBSPlan:
    """Decide what a certificate says: the template as far as the profile and the issuing CA allow.

    Another issuer in the template is a change, and no reason to refuse: OpenSSL puts the vendor's CA there.

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
    constant = constant_extensions(profile, issuer)
    subject_der = template.subject_der or NULL_DN
    requested = {item.oid: item.value for item in template.extensions}
    try:
        if template.issuer_der and not same_name(template.issuer_der, issuer.subject_der):
            changes.append("issuer")
        kind, identifier = read_key(template.spki_der)
        _require_key_kind(profile, kind)
        _require_subject(profile, subject_der)
        extensions = (
            _key_usage(profile, requested, kind, changes),
            SUBJECT_KEY_IDENTIFIER_HEAD + identifier,
            constant.authority_der,
            _purposes(profile, requested, changes),
            _names(profile, requested, subject_der),
            *constant.others_der,
            _nf_types(profile, requested),
        )
    except MalformedMessage as error:
        raise TemplateRefused(error.detail, rule=error.rule) from error
    for oid in requested.keys() - _DECIDED:
        if oid == OID.nfTypes and profile.nf_types:
            continue
        value = b"\x04\x14" + identifier if oid == OID.subjectKeyIdentifier else None
        if requested[oid] != constant.values.get(oid, value):
            changes.append(f"extension {oid}")
    return TBSPlan(
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
    found = read_attributes(subject_der)
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
    least, allowed = allowed_usage(profile, kind)
    granted = allowed
    value = requested.get(OID.keyUsage)
    if value is not None:
        bits = read_bits(value)
        if least <= bits <= allowed:
            granted = bits
        else:
            changes.append("keyUsage")
    return key_usage_extension(granted)


def _purposes(profile: Profile, requested: dict[str, bytes], changes: list[str]) -> bytes:
    granted = profile.purposes
    value = requested.get(OID.extKeyUsage)
    if value is not None:
        asked = read_purposes(value)
        granted = tuple(oid for oid in asked if oid in profile.allowed_purposes)
        if granted != asked:
            granted = granted or profile.purposes
            changes.append("extKeyUsage")
    return purposes_extension(granted)


def _names(profile: Profile, requested: dict[str, bytes], subject_der: bytes) -> bytes:
    value = requested.get(OID.subjectAltName)
    if value is None:
        if profile.san_required:
            raise TemplateRefused(
                f"no SubjectAltName, which {profile.name} demands", rule=PROFILE_RULE
            )
        if subject_der == NULL_DN:
            raise TemplateRefused("neither subject nor SubjectAltName", rule="R51")
        return b""
    tags = read_names(value)
    if not profile.san_tags.issuperset(tags):
        kinds = sorted({KINDS_OF_NAMES.get(tag, f"[{tag & 0x1F}]") for tag in tags} - profile.san)
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
    return extension_der(OID.subjectAltName, value, critical=critical)


def _nf_types(profile: Profile, requested: dict[str, bytes]) -> bytes:
    value = requested.get(OID.nfTypes)
    if value is None or not profile.nf_types:
        return b""
    names = asn1.parts(value, asn1.MAX_ELEMENTS, "NFTypes", tag=0x30)
    if not names or not all(
        name[0] == 0x16 and 1 <= len(asn1.inner(name)) <= MAX_NF_TYPE and name.isascii()
        for name in names
    ):
        raise MalformedMessage("NFTypes is no list of names", rule="RFC 9310 3")
    return extension_der(OID.nfTypes, value)


_DECIDED: Final = frozenset(
    {
        OID.keyUsage,
        OID.extKeyUsage,
        OID.subjectAltName,
        # One that says "no CA" (R63 refused the other) says nothing.
        OID.basicConstraints,
    }
)
"""Requested extensions that are decided one by one, or change nothing."""
