"""What a certificate is going to say, decided from profile and template.

The template only suggests: what is granted differs from what was asked for wherever the profile says so, and
the answer then has status grantedWithMods (RFC 4211 5: all but the key may be altered). What the CA can decide
itself it adds (`complete`); what a certificate must not lack, or must not have, is no matter of degree, and refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.ca.clauses import faults, host_of, nf_types_value
from ra_gateway.ca.extensions import (
    KINDS_OF_NAMES,
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
from ra_gateway.cmp.algorithms import AlgorithmRefused
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.names import NULL_DN, general_names_der, same_name
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


def complete(profile: Profile, template: CertTemplate) -> CertTemplate:
    """Add to a template what a profile demands and the CA can decide: a SubjectAltName, and NFTypes of one name.

    A CN that is an FQDN makes a dNSName. It is done before the names are judged, so that they are judged like those
    that are asked for.

    Raises:
        MalformedMessage: The subject does not parse.
    """
    more = []
    if (
        profile.san_required
        and "dns" in profile.san
        and template.subject_der
        and template.extension(OID.subjectAltName) is None
        and (host := host_of(template.subject_der))
    ):
        more.append(Extension(OID.subjectAltName, False, general_names_der([f"dns:{host}"])))
    if (
        profile.nf_types_required
        and len(profile.nf_types) == 1
        and template.extension(OID.nfTypes) is None
    ):
        more.append(Extension(OID.nfTypes, False, nf_types_value([*profile.nf_types])))
    return replace(template, extensions=(*template.extensions, *more)) if more else template


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
        ServiceFailure: The issuing CA itself is not valid now, or its profile lacks the URL of its CRL.
    """
    if profile.crl_required and not profile.crl_urls:
        raise ServiceFailure(
            f"{profile.name} demands a CRL distribution point (TS 33.310 6.1.3): set ca.crl_url",
            rule="T14",
        )
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
        purposes = _purposes(profile, requested)
        nf_types = requested.get(OID.nfTypes) if profile.nf_types else None
        extensions = (
            _key_usage(profile, requested, kind, changes),
            SUBJECT_KEY_IDENTIFIER_HEAD + identifier,
            constant.authority_der,
            purposes_extension(purposes),
            _names(profile, requested, subject_der),
            *constant.others_der,
            b"" if nf_types is None else extension_der(OID.nfTypes, nf_types),
        )
        for fault in faults(
            profile,
            issuer,
            subject_der=subject_der,
            spki_der=template.spki_der,
            purposes=purposes,
            san_der=requested.get(OID.subjectAltName),
            nf_types_der=nf_types,
        ):
            raise TemplateRefused(fault.text, rule=fault.rule)
    except (AlgorithmRefused, MalformedMessage) as error:
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
    not_before = earliest
    if template.not_before is not None:
        # Between the two it is a backdating of the device's own, smaller than ours.
        not_before = template.not_before if earliest <= template.not_before <= now else earliest
    not_after = latest = min(
        now + timedelta(days=profile.validity_days),
        not_before + longest_validity(profile),
        issuer.not_after,
    )
    if template.not_after is not None:
        if template.not_after <= now:
            raise TemplateRefused(
                f"validity until {template.not_after:%Y-%m-%dT%H:%M:%SZ} is over", rule="R153"
            )
        not_after = min(template.not_after, latest)
    if template.not_before not in (None, not_before) or template.not_after not in (None, not_after):
        changes.append("validity")
    return not_before, not_after


def longest_validity(profile: Profile) -> timedelta:
    """Return how far notAfter may be from notBefore: the second of notAfter counts (RFC 5280 4.1.2.5)."""
    return timedelta(days=profile.longest_validity_days, seconds=-1)


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


def _purposes(profile: Profile, requested: dict[str, bytes]) -> tuple[str, ...]:
    value = requested.get(OID.extKeyUsage)
    if value is None:
        return profile.purposes
    asked = read_purposes(value)
    foreign = [oid for oid in asked if oid not in profile.allowed_purposes]
    if foreign or not asked:
        raise TemplateRefused(
            f"extKeyUsage holds {', '.join(foreign) or 'nothing'}; {profile.name} allows "
            f"{', '.join(sorted(profile.allowed_purposes)) or 'none at all'}",
            rule=PROFILE_RULE,
        )
    if len(set(asked)) != len(asked):
        raise TemplateRefused("extKeyUsage holds a purpose twice", rule=PROFILE_RULE)
    return asked


def _names(profile: Profile, requested: dict[str, bytes], subject_der: bytes) -> bytes:
    value = requested.get(OID.subjectAltName)
    if value is None:
        if profile.san_required:
            raise TemplateRefused(
                f"no SubjectAltName, which {profile.name} demands, and no FQDN as CN to make one of "
                "(TS 33.310 6.1.3)",
                rule="T12",
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
