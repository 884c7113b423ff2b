"""Certificate profiles as data, and what of a request's template they grant.

A profile decides, the template only suggests: what is granted differs from what was asked for wherever the
profile says so, and the answer then has status grantedWithMods (RFC 4211 5: all but the key may be altered).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import key_family, load_public_key
from ra_gateway.cmp.certificates import Certificate, ExtensionOID, KeyUsage, key_identifier
from ra_gateway.cmp.codes import OID
from ra_gateway.cmp.messages import CertTemplate, Extension
from ra_gateway.cmp.names import NULL_DN, general_names
from ra_gateway.errors import MalformedMessage, ServiceFailure, TemplateRefused

KEY_ENCIPHERMENT: Final = 2
"""Bit number of KeyUsage (RFC 5280 4.2.1.3)."""

CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"

SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"
IPSEC_IKE: Final = "1.3.6.1.5.5.7.3.17"
IKE_INTERMEDIATE: Final = "1.3.6.1.5.5.8.2.2"

CLOCK_SKEW: Final = timedelta(minutes=5)
"""notBefore lies this much back, for base stations whose clock is behind; as far as messageTime may be off."""

MIN_SERIAL_BITS: Final = 64  # R153
MAX_SERIAL_BITS: Final = 159  # RFC 5280 4.1.2.2: 20 octets, positive


@dataclass(frozen=True, slots=True)
class Profile:
    """What certificates of one kind hold.

    Args:
        key_usage: Bits granted to any key; `rsa_key_usage` are granted to RSA keys besides.
        purposes: Extended key usages (dotted) given when none is asked for.
        allowed_purposes: Those that may be asked for.
        validity_days: Longest validity, counted from the moment of issue.
        crl_url: Where the CRL is; "" leaves the extension out.
    """

    name: str
    key_usage: frozenset[int] = frozenset({KeyUsage.digitalSignature})
    rsa_key_usage: frozenset[int] = frozenset()
    purposes: tuple[str, ...] = ()
    allowed_purposes: frozenset[str] = frozenset()
    validity_days: int = 365
    crl_url: str = ""


NE_IPSEC: Final = Profile(
    "ne_ipsec",
    rsa_key_usage=frozenset({KEY_ENCIPHERMENT}),
    allowed_purposes=frozenset({IPSEC_IKE, IKE_INTERMEDIATE}),
)
"""Network elements that speak IKE (TS 33.310 6.1.3b)."""

NE_TLS: Final = Profile(
    "ne_tls",
    purposes=(SERVER_AUTH, CLIENT_AUTH),
    allowed_purposes=frozenset({SERVER_AUTH, CLIENT_AUTH}),
)
"""Network elements that speak TLS (TS 33.310 6.1.3a)."""

RA: Final = Profile("ra", purposes=(OID.cmcRA,), allowed_purposes=frozenset({OID.cmcRA}))
"""The RA's signer (RFC 9483 4.9: cmcRA marks the delegation)."""

CMP_SIGNER: Final = Profile(
    "cmp_signer", purposes=(OID.cmcCA,), allowed_purposes=frozenset({OID.cmcCA})
)
"""The key that protects the CA's own messages (RFC 9810 8.6: not the one that signs certificates)."""

PROFILES: Final = {profile.name: profile for profile in (NE_IPSEC, NE_TLS, RA, CMP_SIGNER)}


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a certificate is going to say; signature and serial number are missing.

    Args:
        changes: What differs from the request, in words; empty if nothing does.
    """

    subject_der: bytes
    spki_der: bytes
    not_before: datetime
    not_after: datetime
    extensions: tuple[Extension, ...]
    changes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Draft:
    extensions: list[Extension] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    def grant(self, oid: str, value: bytes, *, critical: bool = False) -> None:
        self.extensions.append(Extension(oid, critical, value))


def draw_up(
    profile: Profile, template: CertTemplate, issuer: Certificate, now: datetime
) -> Blueprint:
    """Decide what a certificate says: the template as far as the profile and the issuing CA allow.

    The template's issuer is not looked at: OpenSSL puts the vendor's CA there.

    Args:
        template: Has a publicKey whose strength was checked.
        issuer: The issuing CA's certificate; has a SubjectKeyIdentifier.
        now: Aware UTC.

    Raises:
        TemplateRefused: No name at all, a name or extension that does not parse, or a validity in the past.
        ServiceFailure: The issuing CA itself is not valid now.
    """
    if template.spki_der is None:
        raise TemplateRefused("no publicKey", rule="R60")
    draft = _Draft()
    if template.reserved:
        draft.changes.extend(template.reserved)
    not_before, not_after = _validity(profile, template, issuer, now, draft)
    try:
        _draw_key_usage(profile, template, draft)
        draft.grant(
            ExtensionOID.subjectKeyIdentifier, asn1.encode(key_identifier(template.spki_der))
        )
        draft.grant(ExtensionOID.authorityKeyIdentifier, _authority(issuer))
        _draw_purposes(profile, template, draft)
        subject_der = _draw_names(template, draft)
    except MalformedMessage as error:
        raise TemplateRefused(error.detail, rule=error.rule) from error
    if profile.crl_url:
        draft.grant(CRL_DISTRIBUTION_POINTS, crl_distribution_points(profile.crl_url))
    draft.changes.extend(_left_out(template, draft.extensions))
    return Blueprint(
        subject_der,
        template.spki_der,
        not_before,
        not_after,
        tuple(draft.extensions),
        tuple(draft.changes),
    )


def _validity(
    profile: Profile, template: CertTemplate, issuer: Certificate, now: datetime, draft: _Draft
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
        draft.changes.append("validity")
    return not_before, not_after


def _draw_key_usage(profile: Profile, template: CertTemplate, draft: _Draft) -> None:
    assert template.spki_der is not None
    allowed = profile.key_usage
    if profile.rsa_key_usage and key_family(load_public_key(template.spki_der)) == "rsa":
        allowed = allowed | profile.rsa_key_usage
    granted = allowed
    requested = template.extension(ExtensionOID.keyUsage)
    if requested is not None:
        bits = frozenset(asn1.set_bits(asn1.decode(asn1.BitString, requested.value)))
        if profile.key_usage <= bits <= allowed:
            granted = bits
        else:
            draft.changes.append("keyUsage")
    draft.grant(ExtensionOID.keyUsage, asn1.encode(asn1.named_bits(sorted(granted))), critical=True)


def _draw_purposes(profile: Profile, template: CertTemplate, draft: _Draft) -> None:
    granted = profile.purposes
    requested = template.extension(ExtensionOID.extKeyUsage)
    if requested is not None:
        asked = tuple(oid.dotted_string for oid in asn1.unbox(asn1.OIDsBox, requested.value).oids)
        granted = tuple(oid for oid in asked if oid in profile.allowed_purposes)
        if granted != asked:
            granted = granted or profile.purposes
            draft.changes.append("extKeyUsage")
    if granted:
        draft.grant(ExtensionOID.extKeyUsage, purposes_der(granted))


def _draw_names(template: CertTemplate, draft: _Draft) -> bytes:
    subject_der = template.subject_der or NULL_DN
    names = template.extension(ExtensionOID.subjectAltName)
    if names is None:
        if subject_der == NULL_DN:
            raise TemplateRefused("neither subject nor SubjectAltName", rule="R51")
        return subject_der
    general_names(names.value)  # raises unless they are names
    # RFC 5280 4.2.1.6: critical if it is the only name there is.
    draft.grant(ExtensionOID.subjectAltName, names.value, critical=subject_der == NULL_DN)
    return subject_der


def _left_out(template: CertTemplate, granted: Iterable[Extension]) -> list[str]:
    """Return the requested extensions that the certificate lacks, or has with another value."""
    values = {extension.oid: extension.value for extension in granted}
    judged = (ExtensionOID.keyUsage, ExtensionOID.extKeyUsage)
    return [
        f"extension {requested.oid}"
        for requested in template.extensions
        if requested.oid not in judged
        # basicConstraints that says "no CA" (R63 refused the other) says nothing.
        and requested.oid != ExtensionOID.basicConstraints
        and values.get(requested.oid) != requested.value
    ]


def purposes_der(purposes: Iterable[str]) -> bytes:
    """Return the value of an ExtendedKeyUsage extension."""
    return asn1.boxed(asn1.OIDsBox(oids=[asn1.oid(dotted) for dotted in purposes]))


def crl_distribution_points(url: str) -> bytes:
    """Return the value of a CRLDistributionPoints extension with one URL (RFC 5280 4.2.1.13)."""
    full_name = asn1.tlv(0xA0, asn1.tlv(0x86, url.encode("ascii")))
    return asn1.tlv(0x30, asn1.tlv(0x30, asn1.tlv(0xA0, full_name)))


def _authority(issuer: Certificate) -> bytes:
    identifier = issuer.subject_key_identifier
    if identifier is None:
        raise ServiceFailure("the issuing CA has no SubjectKeyIdentifier", rule="R153")
    return asn1.encode(
        asn1.AuthorityKeyIdentifier(
            key_identifier=identifier,
            authority_cert_issuer=None,
            authority_cert_serial_number=None,
        )
    )


def require_conforming(
    tbs_der: bytes,
    blueprint: Blueprint,
    profile: Profile,
    issuer: Certificate,
    now: datetime,
) -> None:
    """Check a TBSCertificate, as it is going to be signed, against what no certificate of ours may violate.

    Reads the octets again rather than the values they were made of, so that a mistake in between shows.

    Raises:
        ServiceFailure: It violates one (R153).
    """
    try:
        tbs = asn1.decode(asn1.TBSCertificate, tbs_der)
        extensions = {item.extn_id.dotted_string: item for item in tbs.extensions or ()}
        usage = asn1.set_bits(
            asn1.decode(asn1.BitString, extensions[ExtensionOID.keyUsage].extn_value)
        )
        not_before = asn1.time_of(tbs.validity.not_before)
        not_after = asn1.time_of(tbs.validity.not_after)
        purposes = _purposes_of(extensions.get(ExtensionOID.extKeyUsage))
    except (MalformedMessage, KeyError) as error:
        raise ServiceFailure(f"the certificate to be signed is broken: {error}") from error
    bits = tbs.serial_number.bit_length()
    invariants = {
        "version": tbs.version == 2,
        "serial number": tbs.serial_number > 0 and MIN_SERIAL_BITS <= bits <= MAX_SERIAL_BITS,
        "issuer": asn1.raw(tbs.issuer) == issuer.subject_der,
        "subject": asn1.raw(tbs.subject) == blueprint.subject_der,
        "public key": asn1.raw(tbs.subject_public_key_info) == blueprint.spki_der,
        "notBefore": issuer.not_before <= not_before <= now,
        "notAfter": now < not_after <= issuer.not_after,
        "an extension twice": len(extensions) == len(tbs.extensions or ()),
        "basicConstraints": ExtensionOID.basicConstraints not in extensions,
        "keyUsage": extensions[ExtensionOID.keyUsage].critical
        and profile.key_usage <= set(usage) <= profile.key_usage | profile.rsa_key_usage,
        "extKeyUsage": purposes <= profile.allowed_purposes,
        "key identifiers": ExtensionOID.subjectKeyIdentifier in extensions
        and ExtensionOID.authorityKeyIdentifier in extensions,
        "CRL distribution point": bool(profile.crl_url) == (CRL_DISTRIBUTION_POINTS in extensions),
    }
    violated = [name for name, holds in invariants.items() if not holds]
    if violated:
        raise ServiceFailure(
            f"the certificate to be signed violates {profile.name}: {', '.join(violated)}",
            rule="R153",
        )


def _purposes_of(extension: asn1.Extension | None) -> set[str]:
    if extension is None:
        return set()
    return {oid.dotted_string for oid in asn1.unbox(asn1.OIDsBox, extension.extn_value).oids}
