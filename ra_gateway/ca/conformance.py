"""The check of the octets that are going to be signed, against what no certificate of ours may violate.

It reads those octets anew, whatever they were put together from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import InitVar, dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from ra_gateway.ca.clauses import faults
from ra_gateway.ca.extensions import (
    ConstantExtensions,
    allowed_usage,
    constant_extensions,
    named_bits,
    read_bits,
    read_extension,
    read_key,
    read_names,
    read_purposes,
    read_uris,
    read_validity,
)
from ra_gateway.ca.profiles import Profile
from ra_gateway.ca.tbs import TBSPlan, longest_validity
from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmRefused
from ra_gateway.cmp.certificates import MAX_EXTENSIONS, Certificate
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.errors import MalformedMessage, ServiceFailure

MIN_SERIAL_BITS: Final = 64  # R153
MAX_SERIAL_BITS: Final = 159  # RFC 5280 4.1.2.2: 20 octets, positive

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


@proof(_SEAL)
class CheckedTBS:
    """A TBSCertificate that keeps to its profile: what the signing key wants to see."""

    tbs: TBSCertificate
    seal: InitVar[Seal]


def require_conforming(
    tbs_der: bytes,
    plan: TBSPlan,
    profile: Profile,
    issuer: Certificate,
    now: datetime,
    *,
    algorithm_der: bytes | None = None,
) -> CheckedTBS:
    """Check a TBSCertificate, as it is going to be signed, against what no certificate of ours may violate.

    Reads the octets again rather than the values they were made of, so that a mistake in between shows.

    Args:
        issuer: The issuing CA's certificate.
        now: Aware UTC.
        algorithm_der: Of the signature; by default what fits the issuing CA's key.

    Raises:
        ServiceFailure: It violates one (R153).
    """
    constant = constant_extensions(profile, issuer)
    try:
        tbs, signature_der, issuer_der = _read_tbs(tbs_der)
        violated = [
            *_violated_fields(tbs, plan, profile, issuer, now),
            *_violated_extensions(tbs, profile, constant),
            *_violated_clauses(tbs, profile, issuer),
        ]
    except (AlgorithmRefused, MalformedMessage) as error:
        raise ServiceFailure(
            f"the certificate to be signed is broken: {error.detail}", rule="R153"
        ) from error
    if signature_der != (algorithm_der or constant.algorithm_der):
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
    fields = asn1.parts(der, len(_TBS_TAGS), "TBSCertificate", tag=0x30)
    if [field[0] for field in fields] != _TBS_TAGS or fields[0] != _VERSION_3:
        raise MalformedMessage("not the fields of a certificate of version 3", rule="R1")
    _, serial_der, signature_der, issuer_der, validity_der, subject_der, spki_der, tagged = fields
    serial_number = int.from_bytes(asn1.inner(serial_der), "big", signed=True)
    extensions: dict[str, tuple[bool, bytes]] = {}
    for extension_der in asn1.parts(asn1.inner(tagged), MAX_EXTENSIONS, "Extensions", tag=0x30):
        oid, critical, value = read_extension(extension_der)
        if oid in extensions:
            raise MalformedMessage(f"extension {oid} twice", rule="R1")
        extensions[oid] = critical, value
    return (
        TBSCertificate(
            der, serial_number, *read_validity(validity_der), subject_der, spki_der, extensions
        ),
        signature_der,
        issuer_der,
    )


def _violated_fields(
    tbs: TBSCertificate, plan: TBSPlan, profile: Profile, issuer: Certificate, now: datetime
) -> list[str]:
    bits = tbs.serial_number.bit_length()
    latest = min(now + timedelta(days=profile.validity_days), issuer.not_after)
    invariants = {
        "serial number": tbs.serial_number > 0 and MIN_SERIAL_BITS <= bits <= MAX_SERIAL_BITS,
        "subject": tbs.subject_der == plan.subject_der,
        "public key": tbs.spki_der == plan.spki_der,
        "notBefore": issuer.not_before <= tbs.not_before <= now,
        "notAfter": now < tbs.not_after <= latest,
        "validity": tbs.not_after - tbs.not_before <= longest_validity(profile),
    }
    return [name for name, holds in invariants.items() if not holds]


def _violated_extensions(
    tbs: TBSCertificate, profile: Profile, constant: ConstantExtensions
) -> list[str]:
    critical, value = tbs.extensions.get(OID.keyUsage, (False, _NO_BITS))
    usage = read_bits(value)
    kind, identifier = read_key(tbs.spki_der)
    least, allowed = allowed_usage(profile, kind)
    invariants = {
        "keyUsage": critical and least <= usage <= allowed and value == named_bits(usage),
        "extKeyUsage": _purposes_conform(tbs, profile),
        "subjectAltName": _names_conform(tbs, profile),
        "subjectKeyIdentifier": tbs.extensions.get(OID.subjectKeyIdentifier)
        == (False, b"\x04\x14" + identifier),
    }
    violated = [name for name, holds in invariants.items() if not holds]
    for oid, expected in constant.values.items():
        critical, value = tbs.extensions.get(oid, (True, b""))
        uris = constant.uris.get(oid)
        if critical or (value != expected if uris is None else read_uris(value) != uris):
            violated.append(_EXTENSIONS[oid])
    if profile.crl_required and OID.cRLDistributionPoints not in tbs.extensions:
        violated.append("cRLDistributionPoints")
    possible = _POSSIBLE | {OID.nfTypes} if profile.nf_types else _POSSIBLE
    for oid in tbs.extensions.keys() - possible - constant.values.keys():
        violated.append(_EXTENSIONS.get(oid, f"extension {oid}"))
    return violated


def _violated_clauses(tbs: TBSCertificate, profile: Profile, issuer: Certificate) -> Iterator[str]:
    _, purposes = tbs.extensions.get(OID.extKeyUsage, (False, None))
    _, san_der = tbs.extensions.get(OID.subjectAltName, (False, None))
    critical, nf_types_der = tbs.extensions.get(OID.nfTypes, (False, None))
    if critical:
        yield "NFTypes"
    for fault in faults(
        profile,
        issuer,
        subject_der=tbs.subject_der,
        spki_der=tbs.spki_der,
        purposes=() if purposes is None else read_purposes(purposes),
        san_der=san_der,
        nf_types_der=nf_types_der if profile.nf_types else None,
    ):
        yield fault.field


def _purposes_conform(tbs: TBSCertificate, profile: Profile) -> bool:
    found = tbs.extensions.get(OID.extKeyUsage)
    if found is None:
        return not profile.purposes
    purposes = read_purposes(found[1])
    once = 0 < len(purposes) == len(set(purposes))
    return not found[0] and once and profile.allowed_purposes.issuperset(purposes)


def _names_conform(tbs: TBSCertificate, profile: Profile) -> bool:
    found = tbs.extensions.get(OID.subjectAltName)
    only_name = tbs.subject_der == NULL_DN
    if found is None:
        return not (profile.san_required or only_name)
    tags = read_names(found[1])
    return (
        found[0] == (profile.san_critical or only_name)
        and profile.san_tags.issuperset(tags)
        and len(tags) <= profile.san_max
    )


_NO_BITS: Final = b"\x03\x01\x00"

_POSSIBLE: Final = frozenset(
    {OID.keyUsage, OID.extKeyUsage, OID.subjectAltName, OID.subjectKeyIdentifier}
)

_EXTENSIONS: Final = MappingProxyType(
    {
        OID.basicConstraints: "basicConstraints",
        OID.authorityKeyIdentifier: "authorityKeyIdentifier",
        OID.certificatePolicies: "certificatePolicies",
        OID.cRLDistributionPoints: "cRLDistributionPoints",
        OID.freshestCRL: "freshestCRL",
        OID.authorityInfoAccess: "authorityInfoAccess",
        OID.ocspNoCheck: "ocsp-nocheck",
        OID.nfTypes: "NFTypes",
    }
)
"""Names of extensions, for texts."""
