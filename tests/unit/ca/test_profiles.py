"""Profiles: what a template yields under them, what is refused, and what an operator may derive."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ra_gateway.ca import derivation
from ra_gateway.ca.derivation import derive
from ra_gateway.ca.profiles import (
    PROFILES,
    RA,
    SIGNING_KEY_KINDS,
    Profile,
    SubjectForm,
    purposes_der,
)
from ra_gateway.ca.tbs import TBSPlan, plan_tbs
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import Extension
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import ConfigError, PKIFailureInfo, ServiceFailure, TemplateRefused
from tests.support import pki
from tests.support.pki import OperatorPKI
from tests.support.profiles import ENODEB_IPSEC, NE_IPSEC, NE_TLS, NF, TLS_CLIENT, TLS_SERVER
from tests.support.requests import san_extension
from tests.support.templates import EVERY_EXTENSION, NOW, SAN, SUBJECT, template

HOME = "5gc.mnc001.mcc262.3gppnetwork.org"
NF_SUBJECT = from_rfc4514(f"O={HOME},C=DE")


def key_usage(octets: str) -> Extension:
    return Extension(OID.keyUsage, True, bytes.fromhex(octets))


def purposes(*dotted: str) -> Extension:
    return Extension(OID.extKeyUsage, False, purposes_der(dotted))


def extensions(plan: TBSPlan) -> dict[str, Extension]:
    """What a plan grants, read with the codec."""
    read = [asn1.decode(structures.Extension, der) for der in plan.extensions]
    return {
        item.extn_id.dotted_string: Extension(
            item.extn_id.dotted_string, item.critical, item.extn_value
        )
        for item in read
    }


@pytest.fixture
def ca(operator_pki: OperatorPKI) -> Certificate:
    return Certificate.from_der(operator_pki.issuing.der)


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
        plan = plan_tbs(NE_IPSEC, template(not_before=not_before, not_after=not_after), ca, NOW)
        assert (plan.not_before, plan.not_after, plan.changes) == (begins, ends, changes)


def test_validity_stays_within_the_issuing_ca_s(operator_pki: OperatorPKI) -> None:
    """It is a minute old and has ten days left; before and after that it issues nothing."""
    begins, ends = NOW - timedelta(minutes=1), NOW + timedelta(days=10)
    young = operator_pki.root.issue_ca("CN=Young CA", not_before=begins, not_after=ends)
    certificate = Certificate.from_der(young.der)
    plan = plan_tbs(NE_IPSEC, template(), certificate, NOW)
    assert (plan.not_before, plan.not_after, plan.changes) == (begins, ends, ())
    for moment in (begins - timedelta(days=1), ends + timedelta(days=1)):
        with pytest.raises(ServiceFailure):
            plan_tbs(NE_IPSEC, template(), certificate, moment)


def test_a_validity_that_is_over_is_refused(ca: Certificate) -> None:
    """Nobody wants such a certificate."""
    with pytest.raises(TemplateRefused):
        plan_tbs(NE_IPSEC, template(not_after=NOW - timedelta(days=1)), ca, NOW)


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
    asked = () if requested is None else (key_usage(requested),)
    plan = plan_tbs(NE_IPSEC, template(kind, extensions=asked), ca, NOW)
    assert extensions(plan)[OID.keyUsage] == key_usage(granted)
    assert plan.changes == changes


@pytest.mark.parametrize(
    "profile, requested, granted, changes",
    [
        (NE_IPSEC, (), (), ()),
        (NE_IPSEC, (OID.ipsecIKE,), (OID.ipsecIKE,), ()),
        (NE_TLS, (), (OID.serverAuth, OID.clientAuth), ()),
        (NE_TLS, (OID.clientAuth,), (OID.clientAuth,), ()),
        (TLS_SERVER, (), (OID.serverAuth,), ()),
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
    """What was asked for, or what the profile gives by itself."""
    asked = (purposes(*requested),) if requested else ()
    plan = plan_tbs(profile, template(extensions=asked), ca, NOW)
    expected = purposes(*granted) if granted else None
    assert extensions(plan).get(OID.extKeyUsage) == expected
    assert plan.changes == changes


@pytest.mark.requirement("T21")
@pytest.mark.parametrize(
    "profile, asked",
    [
        (NE_IPSEC, (OID.ipsecIKE, OID.serverAuth)),
        (NE_IPSEC, (OID.serverAuth,)),
        (NE_IPSEC, ("1.2.3.4",)),
        (TLS_CLIENT, (OID.serverAuth,)),
        (NE_TLS, (OID.clientAuth, OID.jwt)),
        (PROFILES["token_signing"], (OID.serverAuth,)),
    ],
)
def test_a_purpose_off_the_list_is_refused(
    ca: Certificate, profile: Profile, asked: tuple[str, ...]
) -> None:
    """Replaced by another one, it would be a certificate for something else than the device is."""
    asks = template(subject_der=NF_SUBJECT, extensions=(purposes(*asked),))
    with pytest.raises(TemplateRefused, match=r"extKeyUsage holds .*; .* allows") as caught:
        plan_tbs(replace(profile, crl_required=False), asks, ca, NOW)
    assert caught.value.fail_info is PKIFailureInfo.badCertTemplate


@pytest.mark.requirement(49)
def test_what_is_not_granted_is_told(ca: Certificate) -> None:
    """Unknown extensions and reserved fields are left out, never copied; "not a CA" is no wish."""
    unknown = Extension("1.2.3.4", True, b"\x05\x00")
    no_ca = Extension(OID.basicConstraints, True, b"\x30\x00")
    plan = plan_tbs(
        NE_IPSEC,
        template(extensions=(unknown, no_ca, SAN), serial_number=5, reserved=("serialNumber",)),
        ca,
        NOW,
    )
    assert plan.changes == ("serialNumber", "extension 1.2.3.4")
    assert extensions(plan).keys() == {
        OID.keyUsage,
        OID.subjectKeyIdentifier,
        OID.authorityKeyIdentifier,
        OID.subjectAltName,
    }


@pytest.mark.requirement(51, 52)
def test_some_name_is_needed(ca: Certificate) -> None:
    """SubjectAltName alone will do, and is critical then; neither is refused, and so is nonsense."""
    plan = plan_tbs(NE_IPSEC, template(subject_der=b"\x30\x00", extensions=(SAN,)), ca, NOW)
    assert replace(SAN, critical=True) in extensions(plan).values()
    broken = Extension(OID.subjectAltName, False, b"\x04\x00")
    for asked in (
        template(subject_der=None),
        template(subject_der=b"\x30\x00"),
        template(extensions=(broken,)),
        template(extensions=(Extension(OID.keyUsage, True, b"\x05\x00"),)),
        template(spki_der=None),
    ):
        with pytest.raises(TemplateRefused):
            plan_tbs(NE_IPSEC, asked, ca, NOW)


@pytest.mark.requirement(61)
def test_only_kinds_of_keys_that_a_profile_takes(ca: Certificate) -> None:
    """Each kind is known by its AlgorithmIdentifier; what the profile does not name is refused."""
    kinds: dict[str, pki.KeyKind] = {
        "p256": "p256",
        "p384": "p384",
        "p521": "p521",
        "rsa": "rsa2048",
        "ed25519": "ed25519",
        "ed448": "ed448",
        "mldsa44": "mldsa44",
        "mldsa65": "mldsa65",
        "mldsa87": "mldsa87",
    }
    assert kinds.keys() == SIGNING_KEY_KINDS
    for kind, made in kinds.items():
        asked = template(made)
        plan_tbs(replace(NE_IPSEC, key_kinds=frozenset({kind})), asked, ca, NOW)
        others = replace(NE_IPSEC, key_kinds=SIGNING_KEY_KINDS - {kind})
        with pytest.raises(
            TemplateRefused, match=f"a key of kind {kind}; ne_ipsec takes"
        ) as caught:
            plan_tbs(others, asked, ca, NOW)
        assert (caught.value.rule, caught.value.fail_info) == (
            "R61",
            PKIFailureInfo.badCertTemplate,
        )
    unknown = asn1.tlv(
        0x30, asn1.tlv(0x30, asn1.oid_der("1.2.3")), asn1.tlv(0x03, b"\x00", bytes(32))
    )
    with pytest.raises(TemplateRefused, match="unknown"):
        plan_tbs(NE_IPSEC, template(spki_der=unknown), ca, NOW)


def test_network_functions(ca: Certificate) -> None:
    """C, O and a SubjectAltName, which is critical; nfTypes if asked for (TS 33.310 6.1.3c)."""
    nf_types = Extension(OID.nfTypes, False, bytes.fromhex("300a1603414d46160353 4d46"))
    urn = san_extension(f"dns:amf1.amf.{HOME}", "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
    asked = template(subject_der=NF_SUBJECT, extensions=(urn, nf_types))
    plan = plan_tbs(NF, asked, ca, NOW)
    found = extensions(plan)
    assert found[OID.subjectAltName] == replace(urn, critical=True)
    assert found[OID.nfTypes] == nf_types
    assert found[OID.extKeyUsage] == purposes(OID.serverAuth, OID.clientAuth)
    assert plan.changes == ()
    assert NF.longest_validity_days == 1095
    elsewhere = plan_tbs(NE_TLS, asked, ca, NOW)
    assert OID.nfTypes not in extensions(elsewhere)
    assert elsewhere.changes == (f"extension {OID.nfTypes}",)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"subject_der": SUBJECT}, "the subject lacks C, which nf demands"),
        ({"subject_der": from_rfc4514("CN=x")}, "the subject lacks C, O, which nf demands"),
        (
            {"subject_der": from_rfc4514("L=Bonn,O=x,C=DE")},
            "other attributes than C, CN, O, OU, all that nf allows",
        ),
        ({"extensions": ()}, "no SubjectAltName, which nf demands"),
        (
            {"extensions": (san_extension("email:a@example.net"),)},
            "names of kind email; nf allows dns, ip",
        ),
        (
            {"extensions": (san_extension(*(f"dns:n{i}.example.net" for i in range(17))),)},
            "holds 17 names; nf allows 16",
        ),
        (
            {"extensions": (Extension(OID.subjectAltName, False, b"\x30\x03\x88\x01*"),)},
            r"names of kind \[8\]",
        ),
        ({"extensions": (SAN, Extension(OID.nfTypes, False, b"\x30\x00"))}, "NFTypes"),
        ({"extensions": (SAN, Extension(OID.nfTypes, False, b"\x30\x03\x0c\x01x"))}, "NFTypes"),
    ],
)
def test_what_a_profile_does_not_allow_is_refused(
    ca: Certificate, changes: dict[str, Any], sentence: str
) -> None:
    """With badCertTemplate or, where it does not parse, badDataFormat's class; and one sentence."""
    asked = replace(template(subject_der=NF_SUBJECT, extensions=(SAN,)), **changes)
    with pytest.raises(TemplateRefused, match=sentence) as caught:
        plan_tbs(NF, asked, ca, NOW)
    assert caught.value.fail_info is PKIFailureInfo.badCertTemplate
    assert caught.value.rule


@pytest.mark.parametrize(
    "names",
    [
        "3000",
        "3002" + "8200",
        "3005" + "8203612062",  # a blank
        "3005" + "8203c3a964",  # not ASCII
        "3006" + "8204c0000201" + "00",  # trailing octets
        "3005" + "8703c00002",  # three octets of address
        "3005" + "8603613a20",  # a URI of nothing
        "3003" + "860161",  # no scheme
        "3003" + "810161",  # no @
        "3005" + "a4033001ff",  # not a Name
        "3082000382016 1".replace(" ", ""),  # a length in more octets than needed
        "30808201610000",  # of indefinite length
        "3084ffffffff8201",  # longer than all there is
        "30",
        "",
    ],
)
def test_names_have_the_form_of_their_kind(ca: Certificate, names: str) -> None:
    """SubjectAltName is copied as it is, and therefore read first."""
    broken = Extension(OID.subjectAltName, False, bytes.fromhex(names))
    with pytest.raises(TemplateRefused):
        plan_tbs(NE_IPSEC, template(extensions=(broken,)), ca, NOW)


@pytest.mark.parametrize("subject", ["02 01 05", "30 02 31 00", "3004 3102 3000", "3003 310130"])
def test_a_subject_is_a_name(ca: Certificate, subject: str) -> None:
    """It is copied as it is, and therefore read first."""
    with pytest.raises(TemplateRefused):
        plan_tbs(NE_IPSEC, template(subject_der=bytes.fromhex(subject)), ca, NOW)


@pytest.mark.parametrize("kind", ["dns", "ip", "uri", "email", "dn"])
def test_kinds_of_names(ca: Certificate, kind: str) -> None:
    """A profile takes the kinds it names and no others; with none, SubjectAltName is refused."""
    names = {
        "dns": san_extension("dns:a.example.net"),
        "ip": san_extension("ip:2001:db8::1"),
        "uri": san_extension("uri:https://a.example.net/"),
        "email": san_extension("email:a@example.net"),
        "dn": Extension(OID.subjectAltName, False, asn1.tlv(0x30, asn1.tlv(0xA4, SUBJECT))),
    }
    for name, extension in names.items():
        profile = replace(NE_IPSEC, san=frozenset({kind}))
        asked = template(extensions=(extension,))
        if name == kind:
            assert extension in extensions(plan_tbs(profile, asked, ca, NOW)).values()
        else:
            with pytest.raises(TemplateRefused, match=f"of kind {name}; ne_ipsec allows {kind}"):
                plan_tbs(profile, asked, ca, NOW)
    with pytest.raises(TemplateRefused, match="none at all"):
        plan_tbs(replace(NE_IPSEC, san=frozenset()), template(extensions=(names[kind],)), ca, NOW)


def test_extensions_that_follow_from_the_profile(ca: Certificate) -> None:
    """Distribution points, access, policies and ocsp-nocheck as RFC 5280 and 6960 write them."""
    assert ca.subject_key_identifier is not None
    identifier = ca.subject_key_identifier.hex().encode()
    found = {
        oid: item.value
        for oid, item in extensions(plan_tbs(EVERY_EXTENSION, template(), ca, NOW)).items()
    }

    def uri(octets: bytes) -> bytes:
        return asn1.tlv(0x86, octets)

    def point(*octets: bytes) -> bytes:
        name = asn1.tlv(0xA0, asn1.tlv(0xA0, *map(uri, octets)))
        return asn1.tlv(0x30, asn1.tlv(0x30, name))

    def access(method: str, octets: bytes) -> bytes:
        return asn1.tlv(0x30, asn1.oid_der(method), uri(octets))

    assert found[OID.cRLDistributionPoints] == point(
        b"http://a.example.net/" + identifier + b".crl", b"ldap://b.example.net/cn=ca"
    )
    assert found[OID.freshestCRL] == point(b"http://a.example.net/d.crl")
    assert found[OID.authorityInfoAccess] == asn1.tlv(
        0x30,
        access("1.3.6.1.5.5.7.48.1", b"http://o.example.net/"),
        access("1.3.6.1.5.5.7.48.2", b"http://a.example.net/" + identifier + b".cer"),
    )
    assert found[OID.ocspNoCheck] == b"\x05\x00"
    assert found[OID.certificatePolicies] == bytes.fromhex("3007300506032a0304")


def test_asking_for_what_is_given_anyway_changes_nothing(ca: Certificate) -> None:
    """Key identifiers and the CRL's place in a template, equal to ours, are no wish of its own."""
    profile = replace(NE_IPSEC, crl_urls=("http://a.example.net/a.crl",))
    asked = template()
    given = extensions(plan_tbs(profile, asked, ca, NOW))
    again = plan_tbs(profile, replace(asked, extensions=tuple(given.values())), ca, NOW)
    assert again.changes == ()
    identifier = Extension(OID.subjectKeyIdentifier, False, b"\x04\x01\x00")
    other = plan_tbs(profile, replace(asked, extensions=(identifier,)), ca, NOW)
    assert other.changes == (f"extension {OID.subjectKeyIdentifier}",)


def test_built_in_profiles() -> None:
    """By these names roles and configuration know them; base stations get what other elements get."""
    assert list(PROFILES) == [
        "ne_ipsec",
        "enodeb_ipsec",
        "gnodeb_ipsec",
        "seg",
        "ne_tls",
        "tls_client",
        "tls_server",
        "nf",
        "scp",
        "sepp",
        "token_signing",
        "encryption",
        "ra",
        "cmp_signer",
        "ocsp_signer",
    ]
    assert all(name == profile.name for name, profile in PROFILES.items())
    assert replace(ENODEB_IPSEC, name="ne_ipsec") == NE_IPSEC


def test_derived_profiles(ca: Certificate) -> None:
    """Every field of a table in the configuration arrives; the rest is the base's."""
    values: dict[str, object] = {
        "validity_days": 90,
        "key_usage": ["digitalSignature", "nonRepudiation", "keyEncipherment", "keyAgreement"],
        "extended_key_usage": ["serverAuth", "1.2.3.4"],
        "allowed_extended_key_usage": ["serverAuth", "clientAuth", "1.2.3.4"],
        "key_kinds": ["p256", "rsa"],
        "min_rsa_exponent": 3,
        "max_rsa_bits": 4096,
        "stronger_keys": False,
        "subject_form": "network_function",
        "domains": ["example.net"],
        "organisations": ["Example Operator"],
        "required_subject": ["CN"],
        "allowed_subject": ["CN", "O", "1.2.3.5"],
        "san": ["dns"],
        "san_required": True,
        "san_max": 2,
        "server_dns": True,
        "sepp_names": True,
        "instance_uri": False,
        "crl_required": True,
        "nf_types": ["AMF", "MINE"],
        "nf_types_required": True,
        "crl_urls": ["http://a.example.net/{issuer}.crl"],
        "delta_crl_url": "http://a.example.net/delta.crl",
        "ocsp_url": "http://o.example.net:8080/ocsp",
        "ca_issuers_url": "http://a.example.net/ca.cer",
        "certificate_policies": ["1.3.6.1.4.1.99999.1"],
    }
    assert tuple(values) == tuple(derivation._READERS)
    assert derive(NE_TLS, "small_cells", **values) == Profile(
        name="small_cells",
        key_usage=frozenset({0, 1}),
        rsa_key_usage=frozenset({2}),
        ec_key_usage=frozenset({4}),
        purposes=(OID.serverAuth, "1.2.3.4"),
        allowed_purposes=frozenset({OID.serverAuth, OID.clientAuth, "1.2.3.4"}),
        validity_days=90,
        key_kinds=frozenset({"p256", "rsa"}),
        min_rsa_exponent=3,
        max_rsa_bits=4096,
        stronger_keys=False,
        subject_form=SubjectForm.network_function,
        domains=("example.net",),
        organisations=("Example Operator",),
        required_subject=("CN",),
        allowed_subject=frozenset({"CN", "O", "1.2.3.5"}),
        san=frozenset({"dns"}),
        san_required=True,
        san_max=2,
        server_dns=True,
        sepp_names=True,
        crl_required=True,
        nf_types=frozenset({"AMF", "MINE"}),
        nf_types_required=True,
        crl_urls=("http://a.example.net/{issuer}.crl",),
        delta_crl_url="http://a.example.net/delta.crl",
        ocsp_url="http://o.example.net:8080/ocsp",
        ca_issuers_url="http://a.example.net/ca.cer",
        certificate_policies=("1.3.6.1.4.1.99999.1",),
    )
    assert derive(NE_TLS, "same") == replace(NE_TLS, name="same")
    narrowed = derive(NE_TLS, "narrowed", extended_key_usage=["serverAuth"])
    assert narrowed.allowed_purposes == {OID.serverAuth}
    with pytest.raises(TemplateRefused, match="narrowed allows"):
        plan_tbs(narrowed, template(extensions=(purposes(OID.clientAuth),)), ca, NOW)
    assert derive(RA, "ra_short", extended_key_usage=["cmcRA"]).purposes == (OID.cmcRA,)


@pytest.mark.parametrize(
    "field, value, what",
    [
        ("validity", 5, "is no field"),
        ("name", "x", "is no field"),
        ("validity_days", 0, "not a whole number from 1 to 1095, as nf allows"),
        ("validity_days", 1096, "1095"),
        ("validity_days", True, "True"),
        ("validity_days", "90", "'90'"),
        ("key_usage", ["digitalSignature", "keyCertSign"], "keyCertSign"),
        ("key_usage", ["digitalSignature", "encipherOnly"], "encipherOnly"),
        ("key_usage", ["keyEncipherment"], "lacks digitalSignature"),
        ("key_usage", "digitalSignature", "not a list"),
        ("extended_key_usage", ["webAuth"], "webAuth, which is no extended key usage"),
        ("extended_key_usage", ["serverAuth", "cmcRA"], "speak for the PKI"),
        ("allowed_extended_key_usage", ["serverAuth", "clientAuth", "OCSPSigning"], "PKI"),
        ("extended_key_usage", ["2.5.29.37.0"], "anything|PKI"),
        ("allowed_extended_key_usage", ["clientAuth"], "lacks 1.3.6.1.5.5.7.3.1"),
        ("key_kinds", [], "is empty"),
        ("key_kinds", ["rsa1024"], "rsa1024"),
        ("required_subject", ["Name"], "Name, which is no attribute"),
        ("required_subject", ["1.02"], "1.02"),
        ("required_subject", ["1.50"], "1.50"),
        ("required_subject", ["C", "ST"], None),
        ("allowed_subject", ["CN"], None),
        ("san", ["ipv4"], "ipv4, which is no kind of name"),
        ("san", ["dns", "dns"], "twice"),
        ("san", [], "is empty, but a SubjectAltName is required"),
        ("san_required", "yes", "'yes'"),
        ("san_max", 0, "from 1 to 100"),
        ("san", ["ip"], "lacks dns, which server_dns demands"),
        ("instance_uri", "yes", "not a boolean"),
        ("min_rsa_exponent", 1, "from 3 to 65537"),
        ("max_rsa_bits", 1024, "from 2048 to 16384"),
        ("subject_form", "C O CN", "no form of a subject"),
        ("domains", ["*.example.net"], "no DNS domain"),
        ("nf_types", ["an AMF"], "no type of a network function"),
        ("nf_types", [], "is empty, but nfTypes are required"),
        ("crl_urls", ["https://a.example.net/"], "https://a.example.net/"),
        ("crl_urls", "http://a.example.net/", "not a list"),
        ("crl_urls", ["http://a.example.net/{serial}"], "serial"),
        ("crl_urls", ["http:///a.crl"], "http:///a.crl"),
        ("crl_urls", ["http://a.example.net/a b"], "a b"),
        ("crl_urls", ["http://a.example.net:99999/"], "99999"),
        ("crl_urls", [""], "no URL"),
        ("delta_crl_url", "http://a.example.net/d", "without crl_urls"),
        ("ocsp_url", "ldap://a.example.net/", "ldap"),
        ("ocsp_url", ["http://a.example.net/"], "not a string"),
        ("ca_issuers_url", "http://ä.example.net/", "no URL"),
        ("certificate_policies", ["anyPolicy"], "no certificate policy"),
    ],
)
def test_what_an_operator_can_get_wrong(field: str, value: object, what: str | None) -> None:
    """Where, what, and what to do about it."""
    with pytest.raises(ConfigError) as caught:
        derive(NF, "mine", **{field: value})
    (problem,) = caught.value.problems
    if what is None:
        assert problem.path == "ca.profiles.mine.allowed_subject"
        assert "which required_subject demands" in problem.what
    else:
        assert problem.path.startswith("ca.profiles.mine.")
        assert any(part in problem.what for part in what.split("|"))
    assert problem.todo


def test_all_that_is_wrong_is_told_at_once() -> None:
    """The name included."""
    with pytest.raises(ConfigError) as caught:
        derive(NE_IPSEC, "ne_tls", validity_days=0, san=["x"])
    assert [problem.path for problem in caught.value.problems] == [
        "ca.profiles.ne_tls",
        "ca.profiles.ne_tls.validity_days",
        "ca.profiles.ne_tls.san",
    ]
    for name in ("", "a b", "-a", "a" * 65, "a/b"):
        with pytest.raises(ConfigError, match="no name for a profile"):
            derive(NE_IPSEC, name)
