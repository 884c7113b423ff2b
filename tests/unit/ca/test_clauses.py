"""What clause 6 of TS 33.310 lets be certified, and the check of the same in the octets that are going to be signed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ra_gateway.ca.clauses import strength_bits
from ra_gateway.ca.conformance import require_conforming
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.profiles import (
    ENODEB_IPSEC,
    GNODEB_IPSEC,
    NE_IPSEC,
    NE_TLS,
    NF,
    PROFILES,
    SCP,
    SEG,
    SEPP,
    TLS_CLIENT,
    TLS_SERVER,
    TOKEN_SIGNING,
    Profile,
    SubjectForm,
)
from ra_gateway.ca.tbs import TBSPlan, complete, plan_tbs
from ra_gateway.ca.weak_keys import small_primes, weakness
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.names import from_rfc4514, general_names
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import PKIFailureInfo, ServiceFailure, TemplateRefused
from tests.support import pki
from tests.support.pki import OperatorPKI
from tests.support.profiles import loose, with_crl
from tests.support.requests import san_extension, spki
from tests.support.templates import NOW, template

HOME: Final = "5gc.mnc001.mcc262.3gppnetwork.org"
HOST: Final = "enb1.example.net"
UUID: Final = "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
NF_SUBJECT: Final = from_rfc4514(f"O={HOME},C=DE")
IPSEC: Final = (NE_IPSEC, ENODEB_IPSEC, GNODEB_IPSEC, SEG)
TLS: Final = (NE_TLS, TLS_CLIENT, TLS_SERVER)


def nf_types(*names: str) -> Extension:
    elements = (asn1.tlv(0x16, name.encode()) for name in names)
    return Extension(OID.nfTypes, False, asn1.tlv(0x30, *elements))


def name(*attributes: tuple[str, int, str]) -> bytes:
    """Return the DER of a Name from OIDs, tags and texts, an RDN for each."""
    return asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(tag, text.encode())))
            for oid, tag, text in attributes
        ),
    )


C: Final = (OID.countryName, 0x13, "DE")
O: Final = (OID.organizationName, 0x0C, "Example Operator")  # noqa: E741 - as in the standard
OU: Final = (OID.organizationalUnitName, 0x0C, "servers")
CN: Final = (OID.commonName, 0x0C, HOST)
DC1: Final = (OID.domainComponent, 0x16, "example")
DC2: Final = (OID.domainComponent, 0x16, "net")


@pytest.fixture
def ca(operator_pki: OperatorPKI) -> Certificate:
    return Certificate.from_der(operator_pki.issuing.der)


def planned(profile: Profile, asked: CertTemplate, ca: Certificate) -> TBSPlan:
    return plan_tbs(with_crl(profile), complete(profile, asked), ca, NOW)


def refused(profile: Profile, asked: CertTemplate, ca: Certificate) -> TemplateRefused:
    with pytest.raises(TemplateRefused) as caught:
        planned(profile, asked, ca)
    assert caught.value.fail_info is PKIFailureInfo.badCertTemplate
    return caught.value


def granted(plan: TBSPlan, oid: str) -> tuple[bool, bytes] | None:
    for der in plan.extensions:
        critical, value = x509_extension(der)
        if der.startswith(asn1.oid_der(oid), 2):
            return critical, value
    return None


def x509_extension(der: bytes) -> tuple[bool, bytes]:
    parts = asn1.parts(der, 3, "Extension")
    return len(parts) == 3, asn1.inner(parts[-1])


# --- the subject --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("T1", "T8")
@pytest.mark.parametrize("profile", [*IPSEC, *TLS], ids=lambda profile: profile.name)
def test_forms_of_a_subject(ca: Certificate, profile: Profile) -> None:
    """(C), O, CN, or the components of a domain with CN, at either end of them; all other forms are refused."""
    san = (san_extension(f"dns:{HOST}"),)
    for good in (
        (O, CN),
        (C, O, CN),
        (CN, DC1, DC2),
        (CN, OU, DC1, DC2),
        (DC2, DC1, OU, CN),
        (DC2, DC1, CN),
    ):
        planned(profile, template(subject_der=name(*good), extensions=san), ca)
    # fmt: off
    bad: list[bytes] = [
        name(*attributes)
        for attributes in (
            (CN, O), (O, C, CN), (C, CN, O), (CN,), (O,), (C, CN), (O, CN, CN), (O, O, CN), (C, C, O, CN), (O, OU, CN),
            (OU, O, CN), (O, CN, (OID.serialNumber, 0x13, "1")), (O, CN, (OID.localityName, 0x0C, "Bonn")), (DC2, CN),
            (CN, DC2), (DC1, CN, DC2), (OU, CN, DC1, DC2), (O, DC2, DC1, CN), (),
        )
    ]
    # fmt: on
    # The attributes of one RDN stand in the order of their octets (X.690 11.6).
    short = (OID.organizationName, 0x0C, "Op")
    bad += [
        asn1.tlv(0x30, asn1.tlv(0x31, *(asn1.inner(asn1.inner(name(item))) for item in joined)))
        for joined in ((CN, O), (short, CN))
    ]
    for subject_der in bad:
        error = refused(profile, template(subject_der=subject_der, extensions=san), ca)
        assert error.rule == "T8"
        assert "not of the form (C), O, CN" in error.detail
        planned(loose(profile), template(subject_der=subject_der, extensions=san), ca)


@pytest.mark.requirement("T8")
@pytest.mark.parametrize("tag", [0x13, 0x14, 0x16, 0x1E])
@pytest.mark.parametrize("which", ["O", "CN"])
def test_o_and_cn_are_utf8_strings(ca: Certificate, which: str, tag: int) -> None:
    """In both forms, and for network functions; it is the CA's to refuse and not to write anew."""
    wide = "\0E\0x" if tag == 0x1E else "Example"
    other = (OID.organizationName if which == "O" else OID.commonName, tag, wide)
    san = (san_extension(f"dns:{HOST}"),)
    form = (other, CN) if which == "O" else (O, other)
    error = refused(NE_IPSEC, template(subject_der=name(*form), extensions=san), ca)
    assert (error.rule, error.detail) == ("T8", f"{which} is no UTF8String (TS 33.310 6.1.1)")
    if which == "CN":
        refused(SEG, template(subject_der=name(other, DC1, DC2), extensions=san), ca)


@pytest.mark.requirement("T1")
@pytest.mark.parametrize(
    "subject, san, good",
    [
        ("CN=a.ran.example.net,O=Op", "dns:a.ran.example.net", True),
        ("CN=a.RAN.example.net,O=op", "dns:A.ran.EXAMPLE.net", True),
        ("CN=a,O=Op", "dns:ran.example.net", True),
        ("CN=a,O=Op", "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", True),
        ("CN=a,O=Op", "uri:https://a.ran.example.net:8443/x", True),
        ("CN=a,O=Op", "ip:192.0.2.1", True),
        ("CN=a,O=Op", "email:noc@ran.example.net", True),
        ("CN=a,DC=ran,DC=example,DC=net", "ip:192.0.2.1", True),
        ("CN=a.other.example.net,O=Op", "ip:192.0.2.1", False),
        ("CN=a,O=Other", "ip:192.0.2.1", False),
        ("CN=a,O=Op", "dns:a.other.example.net", False),
        ("CN=a,O=Op", "dns:anran.example.net", False),
        ("CN=a,O=Op", "dns:ran.example.net.evil.example", False),
        ("CN=a,O=Op", "uri:https://a.other.example/", False),
        ("CN=a,O=Op", "uri:https://ran.example.net@other.example/", False),
        ("CN=a,O=Op", "email:noc@example.net", False),
        ("CN=a,DC=core,DC=example,DC=net", "ip:192.0.2.1", False),
    ],
)
def test_names_lie_in_the_operators_own_domain(
    ca: Certificate, subject: str, san: str, good: bool
) -> None:
    """Every kind of name that has a domain; without a list nothing is compared."""
    own = replace(NE_IPSEC, domains=("ran.example.net",), organisations=("Op",))
    asked = template(subject_der=from_rfc4514(subject), extensions=(san_extension(san),))
    planned(NE_IPSEC, asked, ca)
    if good:
        planned(own, asked, ca)
    else:
        error = refused(own, asked, ca)
        assert error.rule == "T1"
        assert "(TS 33.310 6.1)" in error.detail


HOSTS_OF_OTHERS: Final = (
    "*.evil.org",
    "*.ran.example.net",
    "a.evil.org.",
    "https://evil.org",
    "evil.org:443",
    "evil.org/a",
    "a_b.evil.org",
    "user@evil.org",
    "user@ran.example.net",
    "10.1.2.3",
    "2001:db8::1",
    "evil.org ",
    " evil.org",
    "evil.0rg",
    "evil\u3002org",
    "evil\uff0eorg",
    "evil\uff61org",
    "m\u00fcnchen.evil.org",
    "evil\u2024org",
    "seg1.evil.org; seg1.ran.example.net",
    "a.ran.example.net.",
)


@pytest.mark.requirement("T1")
@pytest.mark.parametrize("text", HOSTS_OF_OTHERS)
def test_a_cn_that_reads_like_a_host_is_one_of_the_domain(ca: Certificate, text: str) -> None:
    """However it is spelt, in the subject, in DC form and in a directoryName; a word is none."""
    own, cn = replace(NE_TLS, domains=("ran.example.net",)), (OID.commonName, 0x0C, text)
    ran = (OID.domainComponent, 0x16, "ran")
    directory_name = asn1.tlv(0x30, asn1.tlv(0xA4, name(O, cn)))
    beside = (Extension(OID.subjectAltName, False, directory_name),)
    good = (OID.commonName, 0x0C, "SEG 1 (north), rack-2")
    for asked in (
        template(subject_der=name(O, cn)),
        template(subject_der=name(cn, ran, DC1, DC2)),
        template(subject_der=name(O, good), extensions=beside),
    ):
        planned(NE_TLS, asked, ca)
        error = refused(own, asked, ca)
        assert (error.rule, "domain of the operator" in error.detail) == ("T1", True)
    planned(own, template(subject_der=name(O, good)), ca)


@pytest.mark.requirement("T1")
@pytest.mark.parametrize("host, good", [("a.ran.example.net", True), ("a.evil.org", False)])
@pytest.mark.parametrize(
    "uri",
    [
        "sip:{}",
        "sip:john.doe@{}",
        "SIPS:u:secret@{}:5061;transport=tcp",
        "sip:u@{}?subject=x",
        "sip:u;x=y@{}",
        "sip:u@ran.example.net;maddr={}",
        "sip:{};x=@ran.example.net",
        "sip:{}@ran.example.net@ran.example.net;u@{}",
        "sip:%75%40{}",
        "mailto:john.doe@{}",
        "mailto:a@ran.example.net,b@{}",
        "mailto:a@ran.example.net?cc=b@{}",
        "diameter:{}",
        "https:{}",
        "https:/{}/x",
        "aaa://{}:3868",
        "pres:a@{}",
        "tel:+1;phone-context={}",
        "tel:+1;isub=1;Phone-Context={};x=y",
    ],
)
def test_hosts_of_uris_lie_in_the_domain(ca: Certificate, uri: str, host: str, good: bool) -> None:
    """Of those with an authority and of those without."""
    san = asn1.tlv(0x30, asn1.tlv(0x86, uri.replace("{}", host).encode()))
    asked = template(extensions=(Extension(OID.subjectAltName, False, san),))
    own = replace(loose(NE_IPSEC), domains=("ran.example.net", "example.net"))
    if good:
        planned(own, asked, ca)
    else:
        assert refused(own, asked, ca).rule == "T1"


@pytest.mark.requirement("T1")
def test_a_dot_of_a_host_in_a_uri_may_be_escaped(ca: Certificate) -> None:
    """It is a dot to whoever resolves the URI (RFC 3986 2.4)."""
    own = replace(loose(NE_IPSEC), domains=("ran.example.net", "example.net"))
    for host, good in (("a%2Eran%2eexample%2Enet", True), ("a%2Eevil%2Eorg", False)):
        san = asn1.tlv(0x30, asn1.tlv(0x86, f"sip:u@{host}".encode()))
        asked = template(extensions=(Extension(OID.subjectAltName, False, san),))
        if good:
            planned(own, asked, ca)
        else:
            assert refused(own, asked, ca).rule == "T1"


@pytest.mark.requirement("T1")
@pytest.mark.parametrize(
    "uri",
    [
        "sip:u@evil",
        "sip:evil",
        "sips:evil:5061",
        "xmpp:u@evil/resource",
        "mailto:u@evil",
        "sip:u%2540evil.com",
        "pres:a@evil%252Ecom",
        "pres:a@evil%25252Ecom",
        "tel:+1;phone-context=evil",
        "tel:+1;phone-context=evil%2Ecom",
    ],
)
def test_hosts_of_uris_in_disguise_lie_in_no_domain(ca: Certificate, uri: str) -> None:
    """Of one label, or encoded twice."""
    san = asn1.tlv(0x30, asn1.tlv(0x86, uri.encode()))
    asked = template(extensions=(Extension(OID.subjectAltName, False, san),))
    assert refused(replace(loose(NE_IPSEC), domains=("example.net",)), asked, ca).rule == "T1"


@pytest.mark.requirement("T1")
@pytest.mark.parametrize(
    "bad, good",
    [
        ("UID=gw.evil.com", "UID=gw.example.net"),
        ("1.2.840.113549.1.9.2=gw.evil.com", "1.2.840.113549.1.9.2=gw.example.net"),
        ("1.2.840.113549.1.9.8=gw.evil.com", "1.2.840.113549.1.9.8=192.0.2.1"),
        ("1.2.840.113549.1.9.1=x@evil.com", "1.2.840.113549.1.9.1=x@example.net"),
        ("UID=x@evil.com", "UID=x"),
    ],
)
def test_hosts_of_other_attributes_lie_in_the_domain(ca: Certificate, bad: str, good: str) -> None:
    """In the subject and in a directoryName."""
    own = replace(of_all_kinds(loose(NE_IPSEC)), domains=("example.net",))
    for text, fits in ((bad, False), (good, True)):
        for asked in (
            template(subject_der=from_rfc4514(f"CN=enb1,{text},O=Op")),
            template(extensions=(san_extension(f"dn:CN=enb1,{text}"),)),
        ):
            if fits:
                planned(own, asked, ca)
            else:
                assert refused(own, asked, ca).rule == "T1"


@pytest.mark.requirement("T1")
@pytest.mark.parametrize(
    "labels, good",
    [
        (("net", "example", "CN"), True),
        (("net", "example", "ran", "CN"), True),
        (("CN", "example", "net"), True),
        (("CN", "core", "example", "org"), True),
        (("CN", "com", "evil", "example", "net"), False),
        (("CN", "com", "example", "net"), False),
        (("com", "evil", "O", "example", "net"), False),
        (("com", "evil", "CN"), False),
        (("CN", "evil", "com"), False),
    ],
)
def test_components_of_a_domain_have_no_second_reading(
    ca: Certificate, labels: tuple[str, ...], good: bool
) -> None:
    """Last in the subject they are a domain of the operator as it is listed: RFC 2247 reads them from the end."""
    plain = {"CN": (OID.commonName, 0x0C, "enb1"), "O": O}
    subject = name(*(plain.get(item, (OID.domainComponent, 0x16, item)) for item in labels))
    own = replace(of_all_kinds(loose(NE_IPSEC)), domains=("example.net", "core.example.org"))
    beside = Extension(OID.subjectAltName, False, asn1.tlv(0x30, asn1.tlv(0xA4, subject)))
    for asked in (template(subject_der=subject), template(extensions=(beside,))):
        if good:
            planned(own, asked, ca)
        else:
            assert refused(own, asked, ca).rule == "T1"


@pytest.mark.requirement("T1")
@pytest.mark.parametrize(
    "uri",
    [
        "tel:+49.228.1",
        "tel:+1;phone-context=+49",
        "data:text/plain,a.evil.org",
        "urn:example:a.evil.org",
        "urn:oid:1.2.3",
        "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "https://192.0.2.1/index.html",
        "https://[2001:db8::1]/index.html",
        "sip:u@192.0.2.1:5060",
        "sip:u@[2001:db8::1]",
    ],
)
def test_uris_without_a_name_of_a_host(ca: Certificate, uri: str) -> None:
    """They lie in no domain, and need not."""
    san = asn1.tlv(0x30, asn1.tlv(0x86, uri.encode()))
    asked = template(extensions=(Extension(OID.subjectAltName, False, san),))
    planned(replace(loose(NE_IPSEC), domains=("example.net",)), asked, ca)


@pytest.mark.requirement("T1")
def test_components_of_a_domain_are_read_from_their_own_end(ca: Certificate) -> None:
    """With CN after them the top comes first, with CN before them it comes last."""
    own = replace(NE_IPSEC, domains=("ran.example.net",))
    cn = (OID.commonName, 0x0C, "enb-1")
    san = (san_extension("ip:192.0.2.1"),)
    for label, good in (("ran", True), ("core", False)):
        third = (OID.domainComponent, 0x16, label)
        for attributes in ((cn, third, DC1, DC2), (DC2, DC1, third, cn)):
            asked = template(subject_der=name(*attributes), extensions=san)
            if good:
                planned(own, asked, ca)
            else:
                error = refused(own, asked, ca)
                assert (error.rule, error.detail[:3]) == ("T1", "DC ")
    turned = (DC2, DC1, (OID.domainComponent, 0x16, "ran"))[::-1]
    for attributes in ((cn, *turned[::-1]), (*turned, cn)):
        asked = template(subject_der=name(*attributes), extensions=san)
        assert refused(own, asked, ca).rule == "T1"


@pytest.mark.requirement("T1")
def test_a_name_in_another_encoding_is_read(ca: Certificate) -> None:
    """A BMPString hides no foreign domain, and a directoryName no other organisation."""
    cn = asn1.tlv(
        0x30, asn1.oid_der(OID.commonName), asn1.tlv(0x1E, "a.evil.example".encode("utf-16-be"))
    )
    subject_der = asn1.tlv(0x30, asn1.tlv(0x31, cn))
    own = replace(loose(NE_IPSEC), domains=("ran.example.net",))
    assert refused(own, template(subject_der=subject_der), ca).rule == "T1"
    foreign = asn1.tlv(0x30, asn1.tlv(0xA4, from_rfc4514("CN=x,O=Other")))
    asked = template(extensions=(Extension(OID.subjectAltName, False, foreign),))
    own = replace(NE_IPSEC, organisations=("Example Operator",))
    assert refused(own, asked, ca).rule == "T1"


# --- SubjectAltName and the place of the CRL ----------------------------------------------------------------------


@pytest.mark.requirement("T12")
@pytest.mark.parametrize("profile", IPSEC, ids=lambda profile: profile.name)
def test_a_san_is_made_of_an_fqdn_and_demanded_else(ca: Certificate, profile: Profile) -> None:
    """Not critical; a CN that is no host, or no CN at all, is nothing to make one of."""
    plan = planned(profile, template(subject_der=name(O, CN)), ca)
    found = granted(plan, OID.subjectAltName)
    assert found is not None
    assert (found[0], general_names(found[1])) == (False, (f"dns:{HOST}",))
    for other in (
        "enb-1",
        "192.0.2.1",
        "a b.example.net",
        "*.example.net",
        "-a.example.net",
        "a..net",
        "example.123",
    ):
        subject_der = name(O, (OID.commonName, 0x0C, other))
        error = refused(profile, template(subject_der=subject_der), ca)
        assert error.rule == "T12"
        assert "no SubjectAltName" in error.detail
    asked = template(subject_der=name(O, CN), extensions=(san_extension("ip:192.0.2.1"),))
    assert complete(profile, asked) is asked
    assert (
        granted(planned(loose(profile), template(subject_der=name(CN)), ca), OID.subjectAltName)
        is None
    )


@pytest.mark.requirement("T12")
def test_no_name_is_made_that_the_profile_does_not_grant(ca: Certificate) -> None:
    """A profile without DNS names gets none of a CN, and says what it lacks."""
    addresses = replace(NE_IPSEC, san=frozenset({"ip"}))
    asked = template(subject_der=name(O, CN))
    assert complete(addresses, asked) is asked
    error = refused(addresses, asked, ca)
    assert (error.rule, "no SubjectAltName" in error.detail) == ("T12", True)


@pytest.mark.requirement("T15")
@pytest.mark.parametrize("profile", TLS, ids=lambda profile: profile.name)
def test_tls_has_no_rule_on_other_names(ca: Certificate, profile: Profile) -> None:
    """None is asked for, and none is made."""
    assert (
        granted(planned(profile, template(subject_der=name(O, CN)), ca), OID.subjectAltName) is None
    )


@pytest.mark.requirement("T14", "T15")
@pytest.mark.parametrize("profile", [*IPSEC, *TLS, NF, SCP, SEPP], ids=lambda profile: profile.name)
def test_no_certificate_without_the_place_of_its_crl(ca: Certificate, profile: Profile) -> None:
    """Peers refuse them (6.3.1); it is the operator's to configure, and not the device's fault."""
    with pytest.raises(ServiceFailure, match=r"CRL distribution point .*set ca\.crl_url") as caught:
        plan_tbs(profile, template(), ca, NOW)
    assert caught.value.rule == "T14"


# --- keys ---------------------------------------------------------------------------------------------------------


def rsa_spki(bits: int, exponent: int) -> bytes:
    modulus = ((1 << bits) - 1) // 3 * 2 + 1
    while math.gcd(modulus, small_primes()) > 1:
        modulus -= 2
    return of_modulus(modulus, exponent)


def of_modulus(modulus: int, exponent: int = 65_537) -> bytes:
    numbers = asn1.tlv(0x30, asn1.encode(modulus), asn1.encode(exponent))
    algorithm = asn1.algorithm_der(OID.rsaEncryption, asn1.NULL_DER)
    return asn1.tlv(0x30, algorithm, asn1.tlv(0x03, b"\0", numbers))


SUBJECT_AND_SAN: Final[dict[str, Any]] = {
    "subject_der": name(O, CN),
    "extensions": (san_extension(f"dns:{HOST}"),),
}


@pytest.mark.requirement("T6")
@pytest.mark.parametrize(
    "profile", [NE_IPSEC, NE_TLS, PROFILES["encryption"]], ids=lambda profile: profile.name
)
def test_the_public_exponent_of_rsa(ca: Certificate, profile: Profile) -> None:
    """65537 at least."""
    for exponent in (3, 5, 17, 257, 65_535):
        asked = template(**SUBJECT_AND_SAN, spki_der=rsa_spki(2048, exponent))
        error = refused(profile, asked, ca)
        assert error.rule == "T6"
        assert f"with the exponent {exponent}; the least is 65537" in error.detail
        planned(replace(profile, min_rsa_exponent=3), asked, ca)
    for exponent in (65_537, 0x1000001):
        planned(profile, template(**SUBJECT_AND_SAN, spki_der=rsa_spki(2048, exponent)), ca)


@pytest.mark.requirement("T5")
@pytest.mark.parametrize(
    "bits, good", [(2048, True), (4096, True), (8192, True), (8200, False), (16_384, False)]
)
def test_the_size_of_an_rsa_key(bits: int, good: bool) -> None:
    """4096 bits are certified by a CA that is strong enough, 18,000 by none."""
    strong = Certificate.from_der(pki.make_operator_pki("Example Operator", "p521").issuing.der)
    asked = template(**SUBJECT_AND_SAN, spki_der=rsa_spki(bits, 65_537))
    if good:
        planned(NE_IPSEC, asked, strong)
    else:
        assert refused(NE_IPSEC, asked, strong).rule == "T5"
    assert refused(NE_IPSEC, template(**SUBJECT_AND_SAN, spki_der=rsa_spki(18_000, 65_537)), strong)


MERSENNE: Final = (1 << 1279) - 1
"""A prime, as 2**2203 - 1 is."""


def product(first: int) -> int:
    """The product of numbers without small divisors from one on, of 2048 bits or some more."""
    found, number = 1, first | 1
    while found.bit_length() < 2048:
        if all(number % divisor for divisor in range(3, math.isqrt(number) + 1, 2)):
            found *= number
        number += 2
    return found


def close() -> int:
    other = MERSENNE + 2
    while math.gcd(other, small_primes()) > 1:
        other += 2
    return MERSENNE * other


def of_infineon() -> int:
    """A product of two numbers that are powers of 65537 modulo all small primes."""
    step = math.prod(number for number in range(2, 168) if is_prime(number))
    found = []
    for exponent in (5, 7):
        number = pow(65_537, exponent, step) + step * (1 << 900 + exponent)
        while math.gcd(number, small_primes()) > 1:
            number += step
        found.append(number)
    return found[0] * found[1]


def is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


@pytest.mark.requirement(61)
@pytest.mark.parametrize(
    "modulus, what",
    [
        (lambda: 751 * ((1 << 2040) + 1), "small factor"),
        (lambda: 1 << 2047, "small factor"),
        (lambda: product(757), "small factor"),
        (lambda: product(20_000), "small factor"),
        (lambda: MERSENNE * MERSENNE, "a square"),
        (close, "close to each other"),
        (of_infineon, "CVE-2017-15361"),
        (lambda: (1 << 2203) - 1, "a prime"),
    ],
    ids=["751", "two", "from 757", "from 20000", "square", "close", "Infineon", "prime"],
)
def test_a_modulus_that_gives_the_key_away(
    ca: Certificate, modulus: Callable[[], int], what: str
) -> None:
    """It is nobody's secret, whatever the profile."""
    for profile in (NE_IPSEC, loose(NE_TLS)):
        asked = template(**SUBJECT_AND_SAN, spki_der=of_modulus(modulus()))
        error = refused(profile, asked, ca)
        assert error.rule == "R61"
        assert what in error.detail


@pytest.mark.requirement(61)
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
@pytest.mark.parametrize("number", [1, 2, 16, -1, -2])
def test_a_small_private_key(ca: Certificate, curve: Any, number: int) -> None:
    """1 makes the generator the public key; a negative one is as small."""
    public = ec.derive_private_key(abs(number), curve).public_key().public_numbers()
    if number < 0:
        prime = {256: P256, 384: P384, 521: (1 << 521) - 1}[curve.key_size]
        public = ec.EllipticCurvePublicNumbers(public.x, prime - public.y, curve)
    der = public.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    asked = template(**SUBJECT_AND_SAN, spki_der=der)
    error = refused(loose(NE_IPSEC), asked, ca)
    assert (error.rule, "a small number" in error.detail) == ("R61", True)


P256: Final = (1 << 256) - (1 << 224) + (1 << 192) + (1 << 96) - 1
P384: Final = (1 << 384) - (1 << 128) - (1 << 96) + (1 << 32) - 1


@pytest.mark.requirement(61)
@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p256", "p384", "p521", "ed25519"])
def test_a_key_as_it_is_made_gives_nothing_away(kind: pki.KeyKind) -> None:
    """What is seen of weak ones is in no other."""
    assert weakness(spki(pki.make_key(kind))) == ""


@pytest.mark.requirement(61)
def test_a_purpose_is_granted_once(ca: Certificate) -> None:
    """However often it is asked for it would be read once."""
    purpose = asn1.oid_der(OID.serverAuth)
    extension = Extension(OID.extKeyUsage, False, asn1.tlv(0x30, purpose, purpose))
    asked = template(extensions=(san_extension(f"dns:{HOST}"), extension))
    assert "a purpose twice" in refused(loose(NE_TLS), asked, ca).detail


STRENGTHS: Final[dict[Any, int]] = {
    "rsa2048": 112,
    "p256": 128,
    "ed25519": 128,
    "mldsa44": 128,
    "rsa4096": 152,
    "p384": 192,
    "mldsa65": 192,
    "ed448": 224,
    "p521": 256,
    "mldsa87": 256,
}


@pytest.mark.requirement("T7")
def test_the_signing_key_is_as_strong_as_the_signed_one() -> None:
    """Each kind of key under each; a looser profile takes what its CA is too weak for."""
    for size, bits in (
        (2048, 112),
        (3071, 112),
        (3072, 128),
        (6144, 176),
        (7680, 192),
        (15_360, 256),
    ):
        assert strength_bits(rsa_spki(size, 65_537)) == bits
    keys = {
        kind: rsa_spki(4096, 65_537) if kind == "rsa4096" else spki(pki.make_key(kind))
        for kind in STRENGTHS
    }
    assert {kind: strength_bits(der) for kind, der in keys.items()} == STRENGTHS
    for signing in ("rsa2048", "p256", "ed25519", "p384", "ed448", "mldsa65", "p521"):
        issuer = Certificate.from_der(
            pki.make_operator_pki("Example Operator", signing).issuing.der
        )
        for kind, spki_der in keys.items():
            asked = template(**SUBJECT_AND_SAN, spki_der=spki_der)
            planned(loose(NE_IPSEC), asked, issuer)
            if STRENGTHS[kind] <= STRENGTHS[signing]:
                planned(NE_IPSEC, asked, issuer)
            else:
                error = refused(NE_IPSEC, asked, issuer)
                assert error.rule == "T7"
                assert "weaker than that (TS 33.310 6.1.1)" in error.detail


# --- network functions --------------------------------------------------------------------------------------------

AMF: Final[dict[str, Any]] = {
    "subject_der": NF_SUBJECT,
    "extensions": (san_extension(f"dns:amf1.amf.{HOME}"), nf_types("AMF")),
}


def amf(*extensions: Extension, **changes: Any) -> CertTemplate:
    return template(**{**AMF, **({"extensions": extensions} if extensions else {}), **changes})


@pytest.mark.requirement("T16")
@pytest.mark.parametrize(
    "subject_der",
    [
        from_rfc4514("O=Example Operator,C=DE"),
        from_rfc4514(f"O={HOME}"),
        from_rfc4514(f"C=DE,O={HOME}"),
        from_rfc4514("O=5gc.mnc1.mcc262.3gppnetwork.org,C=DE"),
        from_rfc4514("O=epc.mnc001.mcc262.3gppnetwork.org,C=DE"),
        from_rfc4514(f"O=x.{HOME},C=DE"),
        from_rfc4514(f"O={HOME}.evil.example,C=DE"),
        name(C, (OID.organizationName, 0x13, HOME)),
    ],
)
def test_a_network_function_has_its_home_domain(ca: Certificate, subject_der: bytes) -> None:
    """As O, after C."""
    for good in (NF_SUBJECT, from_rfc4514(f"CN=amf1,O={HOME},C=DE")):
        planned(NF, amf(subject_der=good), ca)
    alone = f"5gc.nid000007ed9d5.{HOME[4:]}"
    san = san_extension(f"dns:amf1.amf.{alone}")
    planned(NF, amf(san, nf_types("AMF"), subject_der=from_rfc4514(f"O={alone},C=DE")), ca)
    for profile in (NF, TOKEN_SIGNING):
        refused(profile, amf(subject_der=subject_der), ca)
    own = replace(NF, domains=("mnc002.mcc262.3gppnetwork.org",), organisations=("Op",))
    assert refused(own, amf(), ca).rule == "T1"
    planned(replace(own, domains=(HOME,)), amf(), ca)


@pytest.mark.requirement("T16")
def test_three_years_are_three_years(operator_pki: OperatorPKI, ca: Certificate) -> None:
    """From notBefore, which lies back, to notAfter, whose second counts."""
    longest = replace(with_crl(NF), validity_days=1095)
    plan = plan_tbs(longest, amf(), ca, NOW)
    assert plan.not_after - plan.not_before == timedelta(days=1095, seconds=-1)
    later = replace(plan, not_after=plan.not_after + timedelta(seconds=1))
    issuer = Issuer(ca, (), operator_pki.issuing.private_key, bytes)
    issuer.inspect(issuer.build(plan, 1 << 126), plan, longest, NOW)
    with pytest.raises(ServiceFailure, match="validity"):
        issuer.inspect(issuer.build(later, 1 << 126), later, longest, NOW)


@pytest.mark.requirement("T17", "T18")
def test_a_server_has_a_dns_name(ca: Certificate) -> None:
    """An address beside it does no harm, and alone will do for a client; the extension is critical."""
    types = nf_types("AMF")
    host, address = f"dns:amf1.amf.{HOME}", "ip:192.0.2.1"
    plan = planned(NF, amf(san_extension(host, address), types), ca)
    found = granted(plan, OID.subjectAltName)
    assert found is not None
    assert found[0]
    for names in ((address,), (UUID,), (address, UUID)):
        error = refused(NF, amf(san_extension(*names), types), ca)
        assert error.rule == "T18"
        client = Extension(OID.extKeyUsage, False, asn1.tlv(0x30, asn1.oid_der(OID.clientAuth)))
        planned(NF, amf(san_extension(*names), types, client), ca)
    assert refused(NF, amf(types), ca).rule == "T12"


@pytest.mark.requirement("T19")
@pytest.mark.parametrize(
    "types, what",
    [
        (None, "no nfTypes"),
        (("amf",), "nfTypes holds amf"),
        (("AMF", "AMFF"), "nfTypes holds AMFF"),
        (("SEPP",), "nfTypes holds SEPP; nf allows the types of TS 29.510 6.1.6.3.3 but SCP, SEPP"),
        (("AMF", "SCP"), "nfTypes holds SCP"),
        (("AMF", "AMF"), "a name twice"),
        (("AMF", "SMF", "AMF"), "a name twice"),
        ((), "no list of names"),
        (("A" * 33,), "no list of names"),
    ],
)
def test_types_of_network_functions(
    ca: Certificate, types: tuple[str, ...] | None, what: str
) -> None:
    """Those of TS 29.510, each once; an operator may name others."""
    san = san_extension(f"dns:amf1.amf.{HOME}")
    extensions = (san,) if types is None else (san, nf_types(*types))
    assert what in refused(NF, amf(*extensions), ca).detail
    for good in (("AMF",), ("AMF", "SMF"), ("5G_EIR", "NRF")):
        planned(NF, amf(san, nf_types(*good)), ca)
    planned(replace(NF, nf_types=frozenset({"MINE"})), amf(san, nf_types("MINE")), ca)


@pytest.mark.requirement("T20")
@pytest.mark.parametrize(
    "uri",
    [
        None,
        "uri:urn:uuid:F81D4FAE-7dec-11d0-a765",
        "uri:urn:uuid:g81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "uri:urn:oid:1.2.3",
        f"uri:https://amf1.amf.{HOME}/",
    ],
)
def test_the_uri_of_an_instance(ca: Certificate, uri: str | None) -> None:
    """Advised by V16, demanded from V19.5 on, which is a setting; another URN is none at any time."""
    names = (f"dns:amf1.amf.{HOME}", *((uri,) if uri else ()))
    asked, later = amf(san_extension(*names), nf_types("AMF")), replace(NF, instance_uri=True)
    assert refused(later, asked, ca).rule == "T20"
    if uri is not None and uri.startswith("uri:urn:"):
        assert refused(NF, asked, ca).rule == "T20"
    else:
        planned(NF, asked, ca)
    planned(later, amf(san_extension(names[0], UUID), nf_types("AMF")), ca)


@pytest.mark.requirement("T20")
@pytest.mark.parametrize(
    "uris",
    [
        (UUID, "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf7"),
        (UUID, UUID.upper().replace("URI:", "uri:")),
        ("uri:urn:uuid:00000000-0000-0000-0000-000000000000",),
        ("uri:urn:uuid:FFFFFFFF-ffff-ffff-ffff-ffffffffffff",),
    ],
)
def test_an_instance_is_one(ca: Certificate, uris: tuple[str, ...]) -> None:
    """Not two, nor nobody's or everybody's."""
    host = f"dns:amf1.amf.{HOME}"
    asked = amf(san_extension(host, *uris), nf_types("AMF"))
    for profile in (NF, TOKEN_SIGNING):
        error = refused(profile, asked, ca)
        assert (error.rule, "urn:uuid:" in error.detail) == ("T20", True)


@pytest.mark.requirement("T16")
@pytest.mark.parametrize(
    "host",
    [
        "amf1.example.net",
        "amf.5gc.mnc002.mcc262.3gppnetwork.org",
        "amf.mnc001.mcc262.3gppnetwork.org",
        f"amf.{HOME}.evil.org",
        f"evil{HOME}",
        "amf.5gc.mnc001.mcc262.ipxnetwork.org",
    ],
)
def test_hosts_of_a_network_function_lie_in_its_home_domain(ca: Certificate, host: str) -> None:
    """That of O; also beside a good one."""
    good, types = f"dns:amf1.amf.{HOME.upper()}", nf_types("AMF")
    planned(NF, amf(san_extension(good, f"dns:{HOME}"), types), ca)
    for profile in (NF, TOKEN_SIGNING):
        asked = amf(san_extension(good, f"dns:{host}", UUID), types)
        assert refused(profile, asked, ca).rule == "T16"
    planned(replace(NF, subject_form=SubjectForm.any), amf(san_extension(f"dns:{host}"), types), ca)


ELSEWHERE: Final = (
    ("CN=amf.5gc.mnc999.mcc310.3gppnetwork.org", ()),
    ("CN=evil.com", ()),
    ("CN=192.0.2.1", ()),
    ("CN=x@evil.com", ()),
    ("", ("uri:https://amf.5gc.mnc999.mcc310.3gppnetwork.org/",)),
    ("", ("uri:https://evil.com/x",)),
    ("", ("uri:https://sepp.5gc.mnc001.mcc263.3gppnetwork.org/",)),
    ("", ("uri:sip:amf@evil.com",)),
    ("", ("email:amf@evil.com",)),
    ("", ("dn:CN=evil.com",)),
    ("", ("dn:O=5gc.mnc999.mcc310.3gppnetwork.org",)),
    ("", ("dn:DC=evil,DC=com",)),
)


@pytest.mark.requirement("T16", "T22")
@pytest.mark.parametrize("subject, names", ELSEWHERE)
@pytest.mark.parametrize("profile", [NF, SCP, SEPP, TOKEN_SIGNING], ids=lambda item: item.name)
def test_no_name_of_a_network_function_lies_elsewhere(
    ca: Certificate, profile: Profile, subject: str, names: tuple[str, ...]
) -> None:
    """Wherever a reader may take a host from, beside a good one, and for a SCP alone."""
    types = () if profile is not NF else (nf_types("AMF"),)
    subject_der = from_rfc4514(",".join(filter(None, (subject, f"O={HOME}", "C=DE"))))
    good = {"sepp": f"dns:sepp.{HOME}", "scp": "ip:192.0.2.1"}.get(profile.name, f"dns:amf.{HOME}")
    all_names = [(good, UUID, *names), *([names] if profile is SCP and names else [])]
    for some in all_names:
        extensions = (san_extension(*some), *types)
        asked = template(subject_der=subject_der, extensions=extensions)
        assert "home domain that O says" in refused(of_all_kinds(profile), asked, ca).detail


def of_all_kinds(profile: Profile) -> Profile:
    return replace(profile, san=frozenset({"dns", "ip", "uri", "email", "dn"}))


@pytest.mark.requirement("T16", "T22")
def test_names_of_a_network_function_that_lie_at_home(ca: Certificate) -> None:
    """A commonName that is no host, or one at home; URIs at home."""
    for subject in ("CN=AMF 1", f"CN=amf.{HOME.upper()}", f"CN=amf.{HOME}"):
        der = from_rfc4514(f"{subject},O={HOME},C=DE")
        names = (
            f"dns:amf.{HOME}",
            UUID,
            f"uri:https://amf.{HOME}:8443/x",
            "uri:https://192.0.2.1/",
        )
        asked = template(subject_der=der, extensions=(san_extension(*names), nf_types("AMF")))
        planned(NF, asked, ca)
    sepp = san_extension(f"dns:sepp.{HOME}", "uri:https://sepp.5gc.mnc001.mcc262.ipxnetwork.org/")
    planned(SEPP, template(subject_der=NF_SUBJECT, extensions=(sepp,)), ca)


@pytest.mark.requirement("T22")
@pytest.mark.parametrize("sepp", [f"sepp1.{HOME}", f"a.SEPP-2.b.{HOME}", f"sepp.{HOME}"])
@pytest.mark.parametrize("profile", [NF, SCP, TOKEN_SIGNING], ids=lambda item: item.name)
def test_a_sepp_s_name_is_a_sepp_s(ca: Certificate, profile: Profile, sepp: str) -> None:
    """As DNS name, in a URI and as commonName."""
    types = () if profile is not NF else (nf_types("AMF"),)
    for subject, name in (
        (NF_SUBJECT, f"dns:{sepp}"),
        (NF_SUBJECT, f"uri:https://{sepp}/"),
        (NF_SUBJECT, f"dn:CN={sepp}"),
        (from_rfc4514(f"CN={sepp},O={HOME},C=DE"), f"uri:https://amf.{HOME}/"),
    ):
        san = san_extension(name, f"dns:amf.{HOME}", UUID)
        asked = template(subject_der=subject, extensions=(san, *types))
        error = refused(of_all_kinds(profile), asked, ca)
        assert (error.rule, "name of a SEPP" in error.detail) == ("T22", True)


@pytest.mark.requirement("T22")
def test_scp_and_sepp(ca: Certificate) -> None:
    """Their type is given unasked; a SEPP has the operator's code in its names, a SCP may do with an address."""
    plan = planned(
        SCP, template(subject_der=NF_SUBJECT, extensions=(san_extension("ip:192.0.2.1"),)), ca
    )
    assert granted(plan, OID.nfTypes) == (False, nf_types("SCP").value)
    refused(SCP, amf(san_extension("ip:192.0.2.1"), nf_types("AMF")), ca)
    for good in (f"sepp.{HOME}", f"sepp1.sepp.{HOME}", "sepp.5gc.mnc001.mcc262.ipxnetwork.org"):
        plan = planned(
            SEPP, template(subject_der=NF_SUBJECT, extensions=(san_extension(f"dns:{good}"),)), ca
        )
        assert granted(plan, OID.nfTypes) == (False, nf_types("SEPP").value)
    for bad in (
        "sepp.example.net",
        f"amf.{HOME}",
        f"sepp.{HOME}.example.net",
        "sepp.5gc.mnc1.mcc262.3gppnetwork.org",
        "sepp.5gc.mnc002.mcc262.3gppnetwork.org",
        "sepp.5gc.mnc001.mcc263.ipxnetwork.org",
    ):
        asked = template(subject_der=NF_SUBJECT, extensions=(san_extension(f"dns:{bad}"),))
        assert refused(SEPP, asked, ca).rule == "T22"
    client = Extension(OID.extKeyUsage, False, asn1.tlv(0x30, asn1.oid_der(OID.clientAuth)))
    nameless = (san_extension("ip:192.0.2.1"), client)
    assert refused(SEPP, template(subject_der=NF_SUBJECT, extensions=nameless), ca).rule == "T22"


@pytest.mark.requirement("T21")
def test_certificates_that_sign_tokens(ca: Certificate) -> None:
    """digitalSignature, id-kp-jwt and the URI of the instance, and no TLS beside it."""
    plan = planned(
        TOKEN_SIGNING, template(subject_der=NF_SUBJECT, extensions=(san_extension(UUID),)), ca
    )
    assert granted(plan, OID.extKeyUsage) == (
        False,
        asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.3.37")),
    )
    assert granted(plan, OID.keyUsage) == (True, bytes.fromhex("03020780"))
    assert refused(TOKEN_SIGNING, amf(), ca).rule == "T20"


# --- the check of what is going to be signed ----------------------------------------------------------------------


@pytest.mark.requirement("T1", "T6", "T7", "T8", "T12", "T14")
@pytest.mark.parametrize(
    "what, options, changes",
    [
        ("subject", {}, {"subject_form": SubjectForm.network_function}),
        ("CN", {}, {"domains": ("ran.example.net",)}),
        ("subject", {}, {"organisations": ("Other",)}),
        ("public key", {"key": "p384"}, {}),
        ("public key", {"key": rsa.generate_private_key(3, 2048)}, {}),
        ("subjectAltName", {"san": []}, {}),
        ("cRLDistributionPoints", {}, {}),
        ("validity", {}, {"longest_validity_days": 300}),
        ("NFTypes", {}, {"nf_types": frozenset({"AMF"}), "nf_types_required": True}),
        ("subjectAltName", {}, {"sepp_names": True}),
        ("subjectAltName", {}, {"instance_uri": True}),
    ],
)
def test_the_last_check_knows_the_clauses(
    operator_pki: OperatorPKI, ca: Certificate, what: str, options: Any, changes: Any
) -> None:
    """Of octets that somebody else put together; each fault is named."""
    made = Certificate.from_der(
        operator_pki.device(**{"san": ["dns:enb1.example.net"], **options}).der
    )
    profile = replace(with_crl(NE_IPSEC), **changes)
    plan = TBSPlan(made.subject_der, made.spki_der, made.not_before, made.not_after, ())
    with pytest.raises(ServiceFailure, match="violates ne_ipsec: ") as caught:
        require_conforming(made.tbs_der, plan, profile, ca, NOW)
    assert what in caught.value.detail.partition(": ")[2].split(", ")


@pytest.mark.requirement("T14")
def test_the_last_check_wants_the_place_of_a_crl_also_where_none_is_configured(
    operator_pki: OperatorPKI, ca: Certificate
) -> None:
    """A profile that demands one signs nothing without, whoever put the octets together."""
    made = Certificate.from_der(operator_pki.device(san=["dns:enb1.example.net"]).der)
    plan = TBSPlan(made.subject_der, made.spki_der, made.not_before, made.not_after, ())
    assert NE_IPSEC.crl_required
    assert not NE_IPSEC.crl_urls
    with pytest.raises(ServiceFailure, match=r"violates ne_ipsec: .*cRLDistributionPoints"):
        require_conforming(made.tbs_der, plan, NE_IPSEC, ca, NOW)
    silent = replace(NE_IPSEC, crl_required=False)
    with pytest.raises(ServiceFailure) as caught:
        require_conforming(made.tbs_der, plan, silent, ca, NOW)
    assert "cRLDistributionPoints" not in caught.value.detail


@pytest.mark.requirement("T2", "T9", "T13", "T16")
@pytest.mark.parametrize(
    "profile", [*IPSEC, *TLS, NF, SCP, SEPP, TOKEN_SIGNING], ids=lambda profile: profile.name
)
async def test_what_every_profile_issues(
    operator_pki: OperatorPKI, ca: Certificate, profile: Profile
) -> None:
    """Version 3, critical keyUsage with digitalSignature and nothing critical that the clause has not so; SHA-1 IDs."""
    issuer = Issuer(ca, (), operator_pki.issuing.private_key, lambda count: b"\x55" * count)
    subject_der = (
        NF_SUBJECT if profile.subject_form is SubjectForm.network_function else name(O, CN)
    )
    names = [
        f"dns:{'sepp' if profile is SEPP else 'amf'}.{HOME}",
        *([UUID] if "nf" in profile.name or profile is TOKEN_SIGNING else []),
    ]
    types = (nf_types("NRF"),) if profile is NF else ()
    asked = template(subject_der=subject_der, extensions=(san_extension(*names), *types))
    certificate = await issuer.certify(asked, with_crl(profile), NOW)
    parsed = x509.load_der_x509_certificate(certificate.der)
    assert parsed.version is x509.Version.v3
    assert parsed.signature_hash_algorithm is not None
    assert parsed.signature_hash_algorithm.name == "sha256"
    critical = {item.oid.dotted_string for item in parsed.extensions if item.critical}
    assert critical == {OID.keyUsage, *([OID.subjectAltName] if profile.san_critical else [])}
    assert parsed.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    identifier = parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(parsed.public_key())
    assert parsed.extensions.get_extension_for_class(x509.CRLDistributionPoints)
