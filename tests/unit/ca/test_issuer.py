"""The issuer: its numbered steps, the last look before signing, and samples of all profiles under a linter."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from ra_gateway.ca import lint, profiles
from ra_gateway.ca.conformance import CheckedTBS, require_conforming
from ra_gateway.ca.derivation import derive
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.reserving import SerialTaken
from ra_gateway.ca.profiles import PROFILES, Profile, purposes_der
from ra_gateway.ca.records import Intent, Operation
from ra_gateway.ca.tbs import plan_tbs
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate, key_identifier
from ra_gateway.cmp.crmf import Extension
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import (
    ConfigError,
    ServiceFailure,
    StoreUnavailable,
    TemplateRefused,
)
from tests.support import pki
from tests.support.pki import OperatorPKI
from tests.support.profiles import NE_IPSEC, NE_TLS, NF, with_crl
from tests.support.requests import san_extension
from tests.support.templates import EVERY_EXTENSION, NOW, SAN, SUBJECT, spki, template

OPERATION = Operation(
    requester="ra1",
    transaction_id=bytes(16),
    request_digest=bytes(32),
    body_type=0,
    cert_req_id=0,
    response_nonce=bytes(16),
    confirm_by=NOW,
    expires_at=NOW + timedelta(days=1),
)
INTENT = Intent(b"", "", "", b"", entity="enb1")


def make_issuer(
    operator: OperatorPKI, random_octets: Callable[[int], bytes] = secrets.token_bytes
) -> Issuer:
    return Issuer(
        Certificate.from_der(operator.issuing.der),
        (Certificate.from_der(operator.root.der),),
        operator.issuing.private_key,
        random_octets,
    )


@pytest.fixture
def ca(operator_pki: OperatorPKI) -> Certificate:
    return Certificate.from_der(operator_pki.issuing.der)


class MemoryLedger(Ledger):
    """What issuance needs of a ledger, as a list of what was done."""

    def __init__(self, *, collisions: int = 0, found: Operation | None = None) -> None:
        self.done: list[str] = []
        self.intents: list[tuple[int, Intent]] = []
        self.stored: list[tuple[Operation, Certificate]] = []
        self._collisions = collisions
        self._found = found

    async def reserve(
        self, operation: Operation, intent: Intent, now: datetime
    ) -> Operation | None:
        if self._collisions:
            self._collisions -= 1
            raise SerialTaken("taken", rule="R153")
        self.done.append("reserve")
        self.intents.append((operation.serial_number, intent))
        return self._found

    async def store(
        self, operation: Operation, certificate: Certificate, now: datetime, **_: bool
    ) -> Operation:
        self.done.append("store")
        operation = replace(operation, certificate_der=certificate.der)
        self.stored.append((operation, certificate))
        return operation


async def answer(certificate: Certificate, changes: tuple[str, ...]) -> bytes:
    return b"answer with " + certificate.fingerprint + repr(changes).encode()


# --- certificates -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(153)
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "ed448", "mldsa44"])
async def test_certificates_are_what_x509_wants(kind: pki.KeyKind) -> None:
    """An independent parser agrees on all there is in it, and its signature verifies."""
    operator = pki.make_operator_pki("Example Operator", kind)
    url = "http://crl.example.net/ne.crl"
    profile = replace(NE_IPSEC, crl_urls=(url,))
    purposes = Extension(OID.extKeyUsage, False, purposes_der([OID.ipsecIKE]))
    asked = template(kind, extensions=(SAN, purposes))
    der = (await make_issuer(operator).certify(asked, profile, NOW)).der
    parsed = x509.load_der_x509_certificate(der)
    parsed.verify_directly_issued_by(operator.issuing.certificate)
    assert parsed.version is x509.Version.v3
    assert 64 <= parsed.serial_number.bit_length() <= 159
    assert parsed.subject.public_bytes() == SUBJECT
    assert parsed.not_valid_before_utc == NOW - timedelta(minutes=5)
    assert parsed.not_valid_after_utc == NOW + timedelta(days=365)
    found = {item.oid.dotted_string: item for item in parsed.extensions}
    usage = found.pop(OID.keyUsage)
    assert usage.critical
    assert isinstance(usage.value, x509.KeyUsage)
    assert usage.value.digital_signature
    assert usage.value.key_encipherment is (kind == "rsa2048")
    assert not usage.value.key_cert_sign
    assert not any(item.critical for item in found.values())
    assert asked.spki_der is not None
    assert found.pop(OID.subjectKeyIdentifier).value == x509.SubjectKeyIdentifier(
        key_identifier(asked.spki_der)
    )
    authority = found.pop(OID.authorityKeyIdentifier).value
    assert isinstance(authority, x509.AuthorityKeyIdentifier)
    assert (
        authority.key_identifier
        == Certificate.from_der(operator.issuing.der).subject_key_identifier
    )
    assert list(found.pop(OID.extKeyUsage).value) == [x509.ObjectIdentifier(OID.ipsecIKE)]
    names = found.pop(OID.subjectAltName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["enb1.example.net"]
    assert found.pop(OID.cRLDistributionPoints).value == x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)]
    )
    assert found == {}


@pytest.mark.requirement(153)
async def test_octets_are_those_of_another_encoder(operator_pki: OperatorPKI) -> None:
    """`CertificateBuilder` makes the same TBSCertificate of the same values, whatever the extensions."""
    policies = replace(EVERY_EXTENSION, certificate_policies=("1.2.3.4", "1.2.3.5"))
    for profile, asked in (
        (NE_IPSEC, template(extensions=(SAN,))),
        (policies, template("rsa2048")),
        (NE_TLS, template(subject_der=None, extensions=(SAN,))),
        (NE_TLS, template(not_after=datetime(2048, 1, 1, tzinfo=UTC))),
    ):
        ours = await make_issuer(operator_pki).certify(asked, profile, NOW)
        parsed = x509.load_der_x509_certificate(ours.der)
        builder = (
            x509.CertificateBuilder()
            .subject_name(parsed.subject)
            .issuer_name(operator_pki.issuing.certificate.subject)
            .public_key(parsed.public_key())
            .serial_number(parsed.serial_number)
            .not_valid_before(parsed.not_valid_before_utc)
            .not_valid_after(parsed.not_valid_after_utc)
        )
        for extension in parsed.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        theirs = builder.sign(operator_pki.issuing.private_key, hashes.SHA256())
        assert theirs.tbs_certificate_bytes == ours.tbs_der


async def test_a_certificate_is_as_if_it_had_been_read(operator_pki: OperatorPKI) -> None:
    """What `sign` puts together from the check equals what decoding the octets gives, field by field."""
    home = "5gc.mnc001.mcc262.3gppnetwork.org"
    san = san_extension(f"dns:amf1.amf.{home}")
    types = Extension(OID.nfTypes, False, bytes.fromhex("30051603414d46"))
    asked = template(subject_der=from_rfc4514(f"O={home},C=DE"), extensions=(san, types))
    made = await make_issuer(operator_pki).certify(asked, NF, NOW)
    read = Certificate.from_der(made.der)
    for field in fields(Certificate):
        assert getattr(made, field.name) == getattr(read, field.name)


@pytest.mark.requirement("T3")
@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072"])
async def test_an_rsa_ca_signs_by_pss_where_that_is_set(kind: pki.KeyKind) -> None:
    """The linter and another library take it; a key of another kind cannot."""
    operator = pki.make_operator_pki("Example Operator", kind)
    issuer = make_issuer(operator)
    issuer.use_pss()
    made = await issuer.certify(template(kind, extensions=(SAN,)), with_crl(profiles.NE_IPSEC), NOW)
    parsed = x509.load_der_x509_certificate(made.der)
    parsed.verify_directly_issued_by(operator.issuing.certificate)
    assert isinstance(parsed.signature_algorithm_parameters, padding.PSS)
    assert lint.lint_profile(with_crl(profiles.NE_IPSEC), issuer) == []
    made.verify_issued_by(issuer.certificate)
    with pytest.raises(ConfigError, match=r"ca\.rsa_pss"):
        make_issuer(pki.make_operator_pki("Example Operator", "p256")).use_pss()


# --- the steps ----------------------------------------------------------------------------------------------------


async def test_issuing(operator_pki: OperatorPKI) -> None:
    """The intent says what is about to be issued; then certificate and answer are stored together."""
    issuer, ledger = make_issuer(operator_pki), MemoryLedger()
    asked = template(reserved=("serialNumber",))
    stored = await issuer.issue(asked, NE_IPSEC, OPERATION, INTENT, ledger, answer, NOW)
    ((operation, certificate),) = ledger.stored
    assert stored is operation
    assert stored.certificate_der == certificate.der
    assert stored.answer == await answer(certificate, ("serialNumber",))
    assert certificate.spki_der == asked.spki_der
    ((serial_number, intent),) = ledger.intents
    assert stored.serial_number == serial_number == certificate.serial_number
    assert intent == Intent(
        subject_der=SUBJECT,
        issuer_id=issuer.id,
        profile="ne_ipsec",
        spki_digest=hashlib.sha256(certificate.spki_der).digest(),
        entity="enb1",
    )
    assert bytes.fromhex(issuer.id) == issuer.certificate.subject_key_identifier


@pytest.mark.requirement(155)
async def test_a_refusal_leaves_no_trace(operator_pki: OperatorPKI) -> None:
    """The profile is asked before the ledger."""
    ledger = MemoryLedger()
    with pytest.raises(TemplateRefused):
        await make_issuer(operator_pki).issue(
            template(), NF, OPERATION, INTENT, ledger, answer, NOW
        )
    assert ledger.done == []


async def test_another_s_operation_is_returned_as_it_is(operator_pki: OperatorPKI) -> None:
    """Nothing is signed, and no answer made."""
    found = replace(OPERATION, answer=b"of before")
    ledger = MemoryLedger(found=found)

    async def never(certificate: Certificate, changes: tuple[str, ...]) -> bytes:
        raise AssertionError

    issuer = make_issuer(operator_pki)
    stored = await issuer.issue(template(), NE_IPSEC, OPERATION, INTENT, ledger, never, NOW)
    assert stored is found
    assert ledger.done == ["reserve"]


async def test_serial_numbers_that_collide_are_drawn_again(operator_pki: OperatorPKI) -> None:
    """Twice; a third collision means that the source of randomness is broken."""
    octets = iter(bytes([i]) * 16 for i in range(8))
    issuer = make_issuer(operator_pki, lambda count: next(octets))
    ledger = MemoryLedger(collisions=2)
    stored = await issuer.issue(template(), NE_IPSEC, OPERATION, INTENT, ledger, answer, NOW)
    assert stored.serial_number == 1 << 126 | int.from_bytes(b"\x02" * 16, "big")
    with pytest.raises(SerialTaken):
        await issuer.issue(
            template(), NE_IPSEC, OPERATION, INTENT, MemoryLedger(collisions=3), answer, NOW
        )


STEPS = ("check", "number", "reserve", "build", "inspect", "sign", "answer", "store")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
async def test_interrupted_at_any_step(
    operator_pki: OperatorPKI, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    """No certificate is signed before its intent is durable, and none is in the ledger unless it is stored."""
    issuer, ledger = make_issuer(operator_pki), MemoryLedger()
    signed: list[int] = []
    sign = issuer.sign

    async def counting(checked: CheckedTBS) -> Certificate:
        assert checked.tbs.serial_number == ledger.intents[0][0]
        signed.append(checked.tbs.serial_number)
        return await sign(checked)

    monkeypatch.setattr(issuer, "sign", counting)
    original = getattr(issuer, step)

    def killed(*arguments: Any) -> Any:
        if after:
            original(*arguments)
        raise Killed

    async def killed_async(*arguments: Any, **options: Any) -> Any:
        if after:
            await original(*arguments, **options)
        raise Killed

    asynchronous = asyncio.iscoroutinefunction(original)
    monkeypatch.setattr(issuer, step, killed_async if asynchronous else killed)
    with pytest.raises(Killed):
        await issuer.issue(template(), NE_IPSEC, OPERATION, INTENT, ledger, answer, NOW)
    position = STEPS.index(step) + after
    assert len(ledger.intents) == (position > STEPS.index("reserve"))
    assert len(signed) == (position > STEPS.index("sign"))
    assert len(ledger.stored) == (position > STEPS.index("store"))


async def test_nothing_leaves_unless_it_was_stored(operator_pki: OperatorPKI) -> None:
    """Also when the ledger fails at the very end."""

    class Failing(MemoryLedger):
        async def store(self, *_: Any, **__: Any) -> Operation:
            raise StoreUnavailable("full", rule="R90")

    with pytest.raises(StoreUnavailable):
        await make_issuer(operator_pki).issue(
            template(), NE_IPSEC, OPERATION, INTENT, Failing(), answer, NOW
        )


def test_only_a_ca_with_its_own_key_issues(operator_pki: OperatorPKI) -> None:
    """A device's certificate, another key, and a CA without key identifier are refused when the CA starts."""
    device, issuing = operator_pki.device(), operator_pki.issuing
    nameless = operator_pki.root.issue_ca("CN=Nameless CA", subject_key_identifier=False)
    for certificate, key in (
        (device.certificate, device.private_key),
        (issuing.certificate, device.private_key),
        (nameless.certificate, nameless.private_key),
    ):
        der = pki.certificate_der(certificate)
        with pytest.raises(ConfigError):
            Issuer(Certificate.from_der(der), (), key, secrets.token_bytes)


# --- the last check -----------------------------------------------------------------------------------------------


@pytest.mark.requirement(153)
@pytest.mark.parametrize(
    "what, changes",
    [
        ("public key", {"spki_der": spki()}),
        ("subject", {"subject_der": from_rfc4514("CN=other")}),
    ],
)
async def test_the_last_check_looks_at_the_octets(
    operator_pki: OperatorPKI, ca: Certificate, what: str, changes: dict[str, Any]
) -> None:
    """A TBSCertificate that is not what was decided is not signed."""
    issued = await make_issuer(operator_pki).certify(template(), NE_IPSEC, NOW)
    plan = plan_tbs(NE_IPSEC, template(spki_der=issued.spki_der), ca, NOW)
    assert require_conforming(issued.tbs_der, plan, NE_IPSEC, ca, NOW).tbs.der == issued.tbs_der
    with pytest.raises(ServiceFailure, match=what):
        require_conforming(issued.tbs_der, replace(plan, **changes), NE_IPSEC, ca, NOW)


@pytest.mark.requirement(153)
@pytest.mark.parametrize(
    "what, options",
    [
        ("basicConstraints", {"basic_constraints": x509.BasicConstraints(True, None)}),
        ("keyUsage", {"key_usage": ("digitalSignature", "keyCertSign")}),
        ("keyUsage", {"key_usage": ("digitalSignature", "keyEncipherment")}),
        ("keyUsage", {"key_usage": None}),
        ("extKeyUsage", {"eku": [OID.cmcRA]}),
        ("serial number", {"serial_number": 1}),
        ("serial number", {"serial_number": (1 << 63) - 1}),
        ("subjectKeyIdentifier", {"subject_key_identifier": False}),
        ("authorityKeyIdentifier", {"authority_key_identifier": False}),
        ("notBefore", {"not_before": NOW + timedelta(days=1)}),
        ("notBefore", {"not_before": NOW - timedelta(days=10_000)}),
        ("notAfter", {"not_after": NOW - timedelta(days=1)}),
        ("notAfter", {"not_after": NOW + timedelta(days=366)}),
        ("signature algorithm", {"hash": hashes.SHA384()}),
        ("subjectAltName", {"san": ["dns:a.example.net"] * 17}),
        ("extension 2.5.29.54", {"extensions": [(x509.InhibitAnyPolicy(0), True)]}),
        (
            "NFTypes",
            {
                "extensions": [
                    (x509.UnrecognizedExtension(x509.ObjectIdentifier(OID.nfTypes), b"0\0"), False)
                ]
            },
        ),
        (
            "authorityInfoAccess",
            {
                "extensions": [
                    (
                        x509.UnrecognizedExtension(
                            x509.ObjectIdentifier(OID.authorityInfoAccess), b"0\0"
                        ),
                        False,
                    )
                ]
            },
        ),
    ],
)
def test_the_last_check_knows_what_no_certificate_may_have(
    operator_pki: OperatorPKI, ca: Certificate, what: str, options: Any
) -> None:
    """Each invariant by a certificate that violates it."""
    bad = Certificate.from_der(operator_pki.device(**options).der)
    plan = plan_tbs(NE_IPSEC, template(subject_der=bad.subject_der, spki_der=bad.spki_der), ca, NOW)
    with pytest.raises(ServiceFailure, match=f"violates ne_ipsec: .*{what}"):
        require_conforming(bad.tbs_der, plan, NE_IPSEC, ca, NOW)


@pytest.mark.requirement(153)
@pytest.mark.parametrize("critical", [False, True])
def test_the_last_check_knows_what_is_never_critical(
    operator_pki: OperatorPKI, ca: Certificate, critical: bool
) -> None:
    """authorityKeyIdentifier and NFTypes, right but for that (RFC 5280 4.2.1.1, RFC 9310 3)."""
    types = asn1.tlv(0x30, asn1.tlv(0x16, b"AMF"))
    issuing: Any = operator_pki.issuing.certificate.public_key()
    extensions = [
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing), critical),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier(OID.nfTypes), types), critical),
    ]
    until = NOW + timedelta(days=300)
    made = operator_pki.device(
        authority_key_identifier=False, extensions=extensions, not_before=NOW, not_after=until
    )
    bad, profile = Certificate.from_der(made.der), replace(NE_IPSEC, nf_types=frozenset({"AMF"}))
    plan = plan_tbs(NE_IPSEC, template(subject_der=bad.subject_der, spki_der=bad.spki_der), ca, NOW)
    if critical:
        with pytest.raises(ServiceFailure, match=": authorityKeyIdentifier, NFTypes "):
            require_conforming(bad.tbs_der, plan, profile, ca, NOW)
    else:
        require_conforming(bad.tbs_der, plan, profile, ca, NOW)


@pytest.mark.parametrize(
    "granted, checked, what",
    [
        (NE_IPSEC, {"crl_urls": ("http://a.example.net/a.crl",)}, "cRLDistributionPoints"),
        (NE_IPSEC, {"ocsp_url": "http://a.example.net/"}, "authorityInfoAccess"),
        (NE_IPSEC, {"ocsp_no_check": True}, "ocsp-nocheck"),
        (NE_IPSEC, {"certificate_policies": ("1.2.3",)}, "certificatePolicies"),
        (NE_IPSEC, {"san": frozenset({"dns"})}, "subjectAltName"),
        (NE_IPSEC, {"san_critical": True}, "subjectAltName"),
        (NE_IPSEC, {"san_max": 1}, "subjectAltName"),
        (NE_IPSEC, {"purposes": (OID.ipsecIKE,)}, "extKeyUsage"),
        (
            replace(NE_IPSEC, crl_urls=("http://a.example.net/a.crl",)),
            {"crl_urls": ("http://a.example.net/b.crl",)},
            "cRLDistributionPoints",
        ),
        (
            replace(NE_IPSEC, crl_urls=("http://a.example.net/a.crl",)),
            {"crl_urls": ()},
            "2.5.29.31|cRL",
        ),
        (replace(NE_IPSEC, validity_days=366), {"validity_days": 365}, "notAfter"),
    ],
)
async def test_the_last_check_goes_by_the_profile(
    operator_pki: OperatorPKI,
    ca: Certificate,
    granted: Profile,
    checked: dict[str, Any],
    what: str,
) -> None:
    """What the profile says and the octets do not (TS 33.310 6.1.3b: a CRL distribution point, once configured)."""
    asked = template(extensions=(SAN,))
    issued = await make_issuer(operator_pki).certify(asked, granted, NOW)
    plan = plan_tbs(granted, asked, ca, NOW)
    with pytest.raises(ServiceFailure, match=what):
        require_conforming(issued.tbs_der, plan, replace(granted, **checked), ca, NOW)


async def test_the_last_check_survives_any_octets(
    operator_pki: OperatorPKI, ca: Certificate
) -> None:
    """A TBSCertificate with one octet changed or cut off is refused, or differs where nothing is demanded."""
    issued = await make_issuer(operator_pki).certify(template(), NE_IPSEC, NOW)
    plan = plan_tbs(NE_IPSEC, template(spki_der=issued.spki_der), ca, NOW)
    der = issued.tbs_der
    accepted = []
    for position in range(len(der)):
        changed = bytes((*der[:position], der[position] ^ 0x01, *der[position + 1 :]))
        for octets in (changed, der[:position]):
            try:
                require_conforming(octets, plan, NE_IPSEC, ca, NOW)
            except ServiceFailure:
                continue
            accepted.append((octets, position))
    start = der.index(issued.serial_number.to_bytes(16, "big"))
    free = set(range(start, start + 16))  # any serial number will do,
    # and any second of the validity; of what is later than allowed it is told above.
    validity_der = asn1.parts(der, 8, "TBSCertificate")[4]
    free |= set(range(der.index(validity_der) + 2, der.index(validity_der) + len(validity_der)))
    assert {position for _, position in accepted} <= free
    assert all(len(octets) == len(der) for octets, _ in accepted)


# --- the linter ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "ed448", "mldsa87"])
def test_built_in_profiles_are_clean(kind: pki.KeyKind) -> None:
    """A linter that is not ours finds nothing in samples of all profiles, with all kinds of keys."""
    issuer = make_issuer(pki.make_operator_pki("Example Operator", kind))
    full = [
        derive(
            profile,
            f"full_{name}",
            crl_urls=["http://a.example.net/{issuer}.crl", "ldap://a.example.net/cn=ca"],
            delta_crl_url="http://a.example.net/{issuer}-delta.crl",
            ocsp_url="http://o.example.net/",
            ca_issuers_url="http://a.example.net/{issuer}.cer",
            certificate_policies=["1.3.6.1.4.1.99999.1"],
            san_max=1,
        )
        for name, profile in PROFILES.items()
    ]
    lint.require_clean([*map(with_crl, PROFILES.values()), *full], issuer)


def test_the_linter_is_listened_to(operator_pki: OperatorPKI) -> None:
    """Its findings stop the CA, with the name of the profile; what is waived is waived for a reason."""
    issuer = make_issuer(operator_pki)
    encipherment = frozenset({0, 2})
    bad = replace(NE_IPSEC, name="bad", key_usage=encipherment, key_kinds=frozenset({"ed25519"}))
    with pytest.raises(ConfigError, match=r"ca\.profiles\.bad: .*break RFC 5280: error pkix\."):
        lint.require_clean([NE_IPSEC, bad], issuer)
    signing = PROFILES["token_signing"]
    for (applies, reason), there, message in zip(
        lint.WAIVED.values(),
        (NF, signing),
        ("", "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        strict=True,
    ):
        assert (applies(there, message), applies(NE_IPSEC, message)) == (True, False)
        assert "33.310" in reason


def test_a_profile_that_fits_nothing_is_seen(operator_pki: OperatorPKI) -> None:
    """Also where no certificate can be made at all."""
    nothing = replace(NE_IPSEC, san_required=True, san=frozenset(), key_kinds=frozenset({"p256"}))
    (finding,) = lint.lint_profile(nothing, make_issuer(operator_pki))
    assert finding.startswith(
        "no certificate can be made for a key of kind p256: no SubjectAltName"
    )
