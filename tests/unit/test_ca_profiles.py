"""Profiles and the issuer: what a template yields, and that the octets are what X.509 wants."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.profiles import (
    CLIENT_AUTH,
    CRL_DISTRIBUTION_POINTS,
    IPSEC_IKE,
    NE_IPSEC,
    NE_TLS,
    RA,
    SERVER_AUTH,
    Profile,
    draw_up,
    purposes_der,
    require_conforming,
)
from ra_gateway.cmp.certificates import Certificate, ExtensionOID
from ra_gateway.cmp.codes import OID
from ra_gateway.cmp.messages import CertTemplate, Extension
from ra_gateway.cmp.names import from_rfc4514, general_names_der
from ra_gateway.errors import ConfigError, ServiceFailure, TemplateRefused
from tests.support import pki
from tests.support.pki import OperatorPKI

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SUBJECT = from_rfc4514("CN=enb1.example.net,O=Example Operator")
SAN = Extension(
    ExtensionOID.subjectAltName, False, general_names_der(["dns:enb1.example.net", "ip:192.0.2.1"])
)


def spki(kind: pki.KeyKind = "p256") -> bytes:
    return (
        pki.make_key(kind)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def template(kind: pki.KeyKind = "p256", **changes: Any) -> CertTemplate:
    return replace(CertTemplate(subject_der=SUBJECT, spki_der=spki(kind)), **changes)


def key_usage(octets: str) -> Extension:
    return Extension(ExtensionOID.keyUsage, True, bytes.fromhex(octets))


def purposes(*dotted: str) -> Extension:
    return Extension(ExtensionOID.extKeyUsage, False, purposes_der(dotted))


@pytest.fixture
def ca(operator_pki: OperatorPKI) -> Certificate:
    return Certificate.from_der(operator_pki.issuing.der)


def make_issuer(operator: OperatorPKI, profile: Profile = NE_IPSEC) -> Issuer:
    return Issuer(
        Certificate.from_der(operator.issuing.der),
        (Certificate.from_der(operator.root.der),),
        operator.issuing.private_key,
        profile,
        secrets.token_bytes,
    )


@pytest.mark.requirement(153)
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "ed448", "mldsa44"])
def test_certificates_are_what_x509_wants(kind: pki.KeyKind) -> None:
    """An independent parser agrees on all there is in it, and its signature verifies."""
    operator = pki.make_operator_pki("Example Operator", kind)
    profile = replace(NE_IPSEC, crl_url="http://crl.example.net/ne.crl")
    asked = template(kind, extensions=(SAN, purposes(IPSEC_IKE)))
    der = make_issuer(operator, profile).certify(asked, NOW).der
    parsed = x509.load_der_x509_certificate(der)
    parsed.verify_directly_issued_by(operator.issuing.certificate)
    assert parsed.version is x509.Version.v3
    assert 64 <= parsed.serial_number.bit_length() <= 159
    assert parsed.subject.public_bytes() == SUBJECT
    assert parsed.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert parsed.not_valid_after_utc == NOW + timedelta(days=365)
    found = {item.oid.dotted_string: item for item in parsed.extensions}
    usage = found.pop(ExtensionOID.keyUsage)
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert usage.value.digital_signature
    assert usage.value.key_encipherment is (kind == "rsa2048")
    assert not usage.value.key_cert_sign
    assert not any(item.critical for item in found.values())
    assert found.pop(ExtensionOID.subjectKeyIdentifier)
    authority = found.pop(ExtensionOID.authorityKeyIdentifier).value
    assert isinstance(authority, x509.AuthorityKeyIdentifier)
    assert (
        authority.key_identifier
        == Certificate.from_der(operator.issuing.der).subject_key_identifier
    )
    assert list(found.pop(ExtensionOID.extKeyUsage).value) == [x509.ObjectIdentifier(IPSEC_IKE)]
    names = found.pop(ExtensionOID.subjectAltName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["enb1.example.net"]
    points = found.pop(CRL_DISTRIBUTION_POINTS).value
    assert isinstance(points, x509.CRLDistributionPoints)
    assert points == x509.CRLDistributionPoints(
        [
            x509.DistributionPoint(
                [x509.UniformResourceIdentifier(profile.crl_url)], None, None, None
            )
        ]
    )
    assert found == {}


@pytest.mark.requirement(153)
def test_octets_are_those_of_another_encoder(operator_pki: OperatorPKI) -> None:
    """`CertificateBuilder` makes the same TBSCertificate of the same values."""
    asked = template(extensions=(SAN,))
    ours = make_issuer(operator_pki).certify(asked, NOW)
    parsed = x509.load_der_x509_certificate(ours.der)
    builder = (
        x509.CertificateBuilder()
        .subject_name(parsed.subject)
        .issuer_name(operator_pki.issuing.certificate.subject)
        .public_key(parsed.public_key())
        .serial_number(parsed.serial_number)
        .not_valid_before(NOW - timedelta(minutes=5))
        .not_valid_after(NOW + timedelta(days=365))
    )
    for extension in parsed.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    theirs = builder.sign(operator_pki.issuing.private_key, hashes.SHA256())
    assert theirs.tbs_certificate_bytes == ours.tbs_der


def test_validity_is_clipped_and_a_shorter_one_is_granted(ca: Certificate) -> None:
    """Wishes within the profile's bounds are met; the others are met as far as possible, and told."""
    day = timedelta(days=1)
    cases = [
        (None, None, NOW - timedelta(minutes=5), NOW + 365 * day, ()),
        (NOW, NOW + 30 * day, NOW, NOW + 30 * day, ()),
        (None, NOW + 400 * day, NOW - timedelta(minutes=5), NOW + 365 * day, ("validity",)),
        (NOW - 30 * day, None, NOW - timedelta(minutes=5), NOW + 365 * day, ("validity",)),
        (NOW + day, None, NOW - timedelta(minutes=5), NOW + 365 * day, ("validity",)),
    ]
    for not_before, not_after, begins, ends, changes in cases:
        plan = draw_up(NE_IPSEC, template(not_before=not_before, not_after=not_after), ca, NOW)
        assert (plan.not_before, plan.not_after, plan.changes) == (begins, ends, changes)


def test_validity_stays_within_the_issuing_ca_s(operator_pki: OperatorPKI) -> None:
    """It is a minute old and has ten days left; before and after that it issues nothing."""
    begins, ends = NOW - timedelta(minutes=1), NOW + timedelta(days=10)
    young = operator_pki.root.issue_ca("CN=Young CA", not_before=begins, not_after=ends)
    certificate = Certificate.from_der(young.der)
    plan = draw_up(NE_IPSEC, template(), certificate, NOW)
    assert (plan.not_before, plan.not_after, plan.changes) == (begins, ends, ())
    for moment in (begins - timedelta(days=1), ends + timedelta(days=1)):
        with pytest.raises(ServiceFailure):
            draw_up(NE_IPSEC, template(), certificate, moment)


def test_a_validity_that_is_over_is_refused(ca: Certificate) -> None:
    """Nobody wants such a certificate."""
    with pytest.raises(TemplateRefused):
        draw_up(NE_IPSEC, template(not_after=NOW - timedelta(days=1)), ca, NOW)


@pytest.mark.parametrize(
    "kind, requested, granted, changes",
    [
        ("p256", None, "03020780", ()),
        ("p256", "03020780", "03020780", ()),
        ("p256", "030205a0", "03020780", ("keyUsage",)),
        ("rsa2048", None, "030205a0", ()),
        ("rsa2048", "03020780", "03020780", ()),
        ("rsa2048", "03020520", "030205a0", ("keyUsage",)),
    ],
)
def test_key_usage(
    ca: Certificate,
    kind: pki.KeyKind,
    requested: str | None,
    granted: str,
    changes: tuple[str, ...],
) -> None:
    """digitalSignature always; keyEncipherment for RSA unless the device leaves it out."""
    extensions = () if requested is None else (key_usage(requested),)
    plan = draw_up(NE_IPSEC, template(kind, extensions=extensions), ca, NOW)
    (usage,) = [item for item in plan.extensions if item.oid == ExtensionOID.keyUsage]
    assert usage == key_usage(granted)
    assert plan.changes == changes


@pytest.mark.parametrize(
    "profile, requested, granted, changes",
    [
        (NE_IPSEC, (), (), ()),
        (NE_IPSEC, (IPSEC_IKE,), (IPSEC_IKE,), ()),
        (NE_IPSEC, (IPSEC_IKE, SERVER_AUTH), (IPSEC_IKE,), ("extKeyUsage",)),
        (NE_IPSEC, (SERVER_AUTH,), (), ("extKeyUsage",)),
        (NE_TLS, (), (SERVER_AUTH, CLIENT_AUTH), ()),
        (NE_TLS, (CLIENT_AUTH,), (CLIENT_AUTH,), ()),
        (RA, (), (OID.cmcRA,), ()),
    ],
)
def test_purposes(
    ca: Certificate,
    profile: Profile,
    requested: tuple[str, ...],
    granted: tuple[str, ...],
    changes: tuple[str, ...],
) -> None:
    """What the profile allows of what was asked for, or what it gives by itself."""
    extensions = (purposes(*requested),) if requested else ()
    plan = draw_up(profile, template(extensions=extensions), ca, NOW)
    found = tuple(item for item in plan.extensions if item.oid == ExtensionOID.extKeyUsage)
    assert found == ((purposes(*granted),) if granted else ())
    assert plan.changes == changes


@pytest.mark.requirement(49)
def test_what_is_not_granted_is_told(ca: Certificate) -> None:
    """Unknown extensions and reserved fields are left out, never copied; "not a CA" is no wish."""
    unknown = Extension("1.2.3.4", True, b"\x05\x00")
    no_ca = Extension(ExtensionOID.basicConstraints, True, b"\x30\x00")
    plan = draw_up(
        NE_IPSEC,
        template(extensions=(unknown, no_ca, SAN), serial_number=5, reserved=("serialNumber",)),
        ca,
        NOW,
    )
    assert plan.changes == ("serialNumber", "extension 1.2.3.4")
    assert {item.oid for item in plan.extensions} == {
        ExtensionOID.keyUsage,
        ExtensionOID.subjectKeyIdentifier,
        ExtensionOID.authorityKeyIdentifier,
        ExtensionOID.subjectAltName,
    }


@pytest.mark.requirement(51, 52)
def test_some_name_is_needed(ca: Certificate) -> None:
    """SubjectAltName alone will do, and is critical then; neither is refused, and so is nonsense."""
    plan = draw_up(NE_IPSEC, template(subject_der=b"\x30\x00", extensions=(SAN,)), ca, NOW)
    assert replace(SAN, critical=True) in plan.extensions
    broken = Extension(ExtensionOID.subjectAltName, False, b"\x04\x00")
    for asked in (
        template(subject_der=None),
        template(subject_der=b"\x30\x00"),
        template(extensions=(broken,)),
        template(extensions=(Extension(ExtensionOID.keyUsage, True, b"\x05\x00"),)),
        template(spki_der=None),
    ):
        with pytest.raises(TemplateRefused):
            draw_up(NE_IPSEC, asked, ca, NOW)


@pytest.mark.requirement(153)
@pytest.mark.parametrize(
    "what, changes",
    [
        ("public key", {"spki_der": spki()}),
        ("subject", {"subject_der": from_rfc4514("CN=other")}),
    ],
)
def test_the_last_check_looks_at_the_octets(
    operator_pki: OperatorPKI, ca: Certificate, what: str, changes: dict[str, Any]
) -> None:
    """A TBSCertificate that is not what was decided is not signed."""
    issued = make_issuer(operator_pki).certify(template(), NOW)
    asked = template(spki_der=issued.spki_der)
    plan = draw_up(NE_IPSEC, asked, ca, NOW)
    require_conforming(issued.tbs_der, plan, NE_IPSEC, ca, NOW)
    with pytest.raises(ServiceFailure, match=what):
        require_conforming(issued.tbs_der, replace(plan, **changes), NE_IPSEC, ca, NOW)


@pytest.mark.requirement(153)
@pytest.mark.parametrize(
    "what, options",
    [
        ("basicConstraints", {"basic_constraints": x509.BasicConstraints(True, None)}),
        ("keyUsage", {"key_usage": ("digitalSignature", "keyCertSign")}),
        ("extKeyUsage", {"eku": [OID.cmcRA]}),
        ("serial number", {"serial_number": 1}),
        ("key identifiers", {"authority_key_identifier": False}),
        ("notBefore", {"not_before": NOW + timedelta(days=1)}),
        ("notAfter", {"not_after": NOW - timedelta(days=1)}),
        ("broken", {"key_usage": None}),
    ],
)
def test_the_last_check_knows_what_no_certificate_may_have(
    operator_pki: OperatorPKI, ca: Certificate, what: str, options: Any
) -> None:
    """Each invariant by a certificate that violates it."""
    bad = Certificate.from_der(operator_pki.device(**options).der)
    plan = draw_up(NE_IPSEC, template(subject_der=bad.subject_der, spki_der=bad.spki_der), ca, NOW)
    with pytest.raises(ServiceFailure, match=what):
        require_conforming(bad.tbs_der, plan, NE_IPSEC, ca, NOW)


def test_a_missing_crl_distribution_point_is_seen(
    operator_pki: OperatorPKI, ca: Certificate
) -> None:
    """Mandatory once configured (TS 33.310 6.1.3b)."""
    issued = make_issuer(operator_pki).certify(template(), NOW)
    profile = replace(NE_IPSEC, crl_url="http://crl.example.net/ne.crl")
    plan = draw_up(profile, template(spki_der=issued.spki_der), ca, NOW)
    with pytest.raises(ServiceFailure, match="CRL"):
        require_conforming(issued.tbs_der, plan, profile, ca, NOW)


def test_only_a_ca_with_its_own_key_issues(operator_pki: OperatorPKI) -> None:
    """A device's certificate, and another key, are refused when the CA starts."""
    device = operator_pki.device()
    issuing = operator_pki.issuing
    for certificate, key in (
        (device.certificate, device.private_key),
        (issuing.certificate, device.private_key),
    ):
        der = pki.certificate_der(certificate)
        with pytest.raises(ConfigError):
            Issuer(Certificate.from_der(der), (), key, NE_IPSEC, secrets.token_bytes)
