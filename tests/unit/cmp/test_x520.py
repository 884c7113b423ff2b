"""Which names may be certified: each attribute's type and bound, characters, and the forms of other names."""

from __future__ import annotations

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.names import NULL_DN, directory_name, from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.x520 import (
    ATTRIBUTE_FORMS,
    IA5_STRING,
    PRINTABLE_STRING,
    UTF8_STRING,
    alternative_name_faults,
    require_certifiable,
    subject_faults,
)
from ra_gateway.errors import TemplateRefused

TELETEX, UNIVERSAL, BMP, NUMERIC, BITS = 0x14, 0x1C, 0x1E, 0x12, 0x03
DIRECTORY = (OID.commonName, OID.organizationName, OID.organizationalUnitName, OID.localityName,
             OID.stateOrProvinceName, OID.streetAddress, OID.title, OID.userId, OID.pseudonym)  # fmt: skip


def name(oid: str, tag: int, octets: bytes) -> bytes:
    """A Name of one attribute."""
    attribute = asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(tag, octets))
    return asn1.tlv(0x30, asn1.tlv(0x31, attribute))


def faults(oid: str, tag: int, octets: bytes) -> str:
    """What is wrong with an attribute, as sentences; "" if nothing is."""
    return "; ".join(map(str, subject_faults(name(oid, tag, octets))))


BOUNDS = {
    OID.commonName: 64, OID.organizationName: 64, OID.organizationalUnitName: 64, OID.localityName: 128,
    OID.stateOrProvinceName: 128, OID.serialNumber: 64, OID.title: 64, OID.pseudonym: 128, OID.userId: 256,
    OID.surname: 32768, OID.name: 32768, OID.givenName: 32768, OID.initials: 32768, OID.generationQualifier: 32768,
    OID.domainComponent: 63, OID.emailAddress: 255, OID.streetAddress: 128,
}  # fmt: skip


@pytest.mark.parametrize("oid", BOUNDS)
def test_upper_bounds_are_those_of_x520(oid: str) -> None:
    """As many characters as RFC 5280 A.1 allows, and one more; the sentence has attribute, number and rule."""
    most = BOUNDS[oid]
    assert ATTRIBUTE_FORMS[oid].most == most
    if most > 4096 or oid == OID.emailAddress:  # no Name so long is read
        return
    tag = ATTRIBUTE_FORMS[oid].tags[0]
    assert faults(oid, tag, b"x" * most) == ""
    assert f"has {most + 1} characters; {most} are allowed (RFC 5280 A.1)" in faults(
        oid, tag, b"x" * (most + 1)
    )


def test_bounds_are_in_characters() -> None:
    """Not in octets: 64 letters of another script are no more than 64."""
    assert faults(OID.commonName, UTF8_STRING, ("中" * 64).encode()) == ""
    assert "attribute CN has 65 characters" in faults(
        OID.commonName, UTF8_STRING, ("中" * 65).encode()
    )


@pytest.mark.parametrize("oid", DIRECTORY)
@pytest.mark.parametrize(
    "tag, text",
    [(TELETEX, "TeletexString"), (UNIVERSAL, "UniversalString"), (BMP, "BMPString"), (IA5_STRING, "IA5String"),
     (NUMERIC, "NumericString"), (BITS, "no character string"), (0x04, "no character string")],
)  # fmt: skip
def test_a_directory_string_is_utf8_or_printable(oid: str, tag: int, text: str) -> None:
    """RFC 5280 4.1.2.4, whatever is in it."""
    for good in (UTF8_STRING, PRINTABLE_STRING):
        assert faults(oid, good, b"1234") == ""
    found = faults(oid, tag, b"\0\0\0a")
    assert text in found
    assert "it has to be UTF8String or PrintableString (RFC 5280 4.1.2.4)" in found


@pytest.mark.parametrize(
    "oid, tag, octets",
    [
        (OID.serialNumber, UTF8_STRING, b"SN-1"),
        (OID.countryName, UTF8_STRING, b"DE"),
        (OID.dnQualifier, UTF8_STRING, b"1"),
        (OID.domainComponent, UTF8_STRING, b"net"),
        (OID.domainComponent, PRINTABLE_STRING, b"net"),
        (OID.emailAddress, UTF8_STRING, b"a@example.net"),
    ],
)
def test_an_attribute_with_one_type_has_that(oid: str, tag: int, octets: bytes) -> None:
    """PrintableString or IA5String."""
    (only,) = ATTRIBUTE_FORMS[oid].tags
    assert faults(oid, only, octets) == ""
    assert "it has to be" in faults(oid, tag, octets)


@pytest.mark.parametrize(
    "octets", [b"", b"D", b"DEU", b"D1", b"--", b"  ", "Ä".encode() + b"A"[:0], b"d\0"]
)
def test_a_country_is_two_letters(octets: bytes) -> None:
    """Of ISO 3166."""
    assert "attribute C" in faults(OID.countryName, PRINTABLE_STRING, octets)


@pytest.mark.parametrize("odd", ["@", "*", "&", "_", "!", ";", "\n", "\x7f", "\xe4"])
def test_a_printable_string_has_its_characters_only(odd: str) -> None:
    """X.680 41.4; the octets of UTF-8 under its tag are none of them either."""
    for text in (odd, f"a{odd}", f"{odd}b"):
        for oid in (OID.commonName, OID.serialNumber):
            assert "attribute" in faults(oid, PRINTABLE_STRING, text.encode())
    assert faults(OID.commonName, PRINTABLE_STRING, b"Az09 '()+,-./:=?") == ""


@pytest.mark.parametrize(
    "octets",
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xc3", b"\xe0\x80\xaf"],
    ids=["no UTF-8", "overlong NUL", "a surrogate", "above U+10FFFF", "cut off", "overlong slash"],
)
def test_utf8_is_well_formed(octets: bytes) -> None:
    """RFC 3629."""
    assert "attribute CN is not what its type says" in faults(OID.commonName, UTF8_STRING, octets)


@pytest.mark.parametrize(
    "text", ["\0", "\x1b", "\x85", "\u00ad", "\u200b", "\u200f", "\u202e", "\u2066", "\u2028", "\ue000", "\U000f0000",
             "\ufdd0", "\uffff", "\u0378", "\u034f", "\u115f", "\u3164", "\ufe0f", "\u1680", "\U000e0041"]
)  # fmt: skip
def test_what_nobody_sees_is_in_no_name(text: str) -> None:
    """Control, format, bidirectional, private and unassigned characters, and letters without a shape; it is named."""
    for around in ("{}", "enb{}1", "{}enb1", "enb1{}"):
        found = faults(OID.commonName, UTF8_STRING, around.format(text).encode())
        assert f"U+{ord(text):04X}" in found or "is empty" in found


@pytest.mark.parametrize("text", ["", " ", "   ", "\u3000"])
def test_no_attribute_is_empty(text: str) -> None:
    """Nor blank."""
    assert "is empty" in faults(OID.organizationName, UTF8_STRING, text.encode())


@pytest.mark.parametrize(
    "text", ["é", "中", "Ω-1", "שלום", "Zürich", "a b", "𝛑"[:0] + "ß", "İstanbul"]
)
def test_other_scripts_are_no_fault(text: str) -> None:
    """In the form that they are compared in."""
    assert faults(OID.commonName, UTF8_STRING, text.encode()) == ""


def test_attributes_that_nobody_knows_need_somebody_who_names_them() -> None:
    """As a profile does; they have text of a usual type then."""
    unknown = name("1.3.6.1.4.1.99999.3", UTF8_STRING, b"x")
    (fault,) = subject_faults(unknown)
    assert str(fault).startswith(
        "attribute 1.3.6.1.4.1.99999.3 is of a type that is not allowed here"
    )
    assert subject_faults(unknown, named={"1.3.6.1.4.1.99999.3"}) == []
    bmp = name("1.3.6.1.4.1.99999.3", BMP, b"\0x")
    assert subject_faults(bmp, named={"1.3.6.1.4.1.99999.3"})


def test_types_of_a_name_that_was_certified_before_may_stay() -> None:
    """RFC 5280 4.1.2.4; octet by octet, and nothing else is forgiven."""
    old = name(OID.commonName, BMP, "enb-1".encode("utf-16-be"))
    assert subject_faults(old)
    assert subject_faults(old, established_der=old) == []
    assert subject_faults(old, established_der=name(OID.commonName, UTF8_STRING, b"enb-1"))
    misleading = name(OID.commonName, BMP, "enb\u202e1".encode("utf-16-be"))
    assert subject_faults(misleading, established_der=misleading)


@pytest.mark.parametrize(
    "octets",
    [b"", b"\x30", b"\x31\x00", b"\x30\x02\x31\x00", b"\x30\x80\x00\x00", b"\x30\x03\x31\x01\x30", b"\x30" * 40,
     asn1.tlv(0x30, *[asn1.content(asn1.element(from_rfc4514("CN=a")))] * 17),
     name(OID.commonName, UTF8_STRING, b"x" * 5_000)],
)  # fmt: skip
def test_octets_that_are_no_name_are_told(octets: bytes) -> None:
    """A fault, never an exception."""
    assert subject_faults(octets)
    assert alternative_name_faults(asn1.tlv(0x30, asn1.tlv(0xA4, octets)))


def test_an_rdn_has_an_attribute_once() -> None:
    """X.501 9.3: two values would be one name in two orders; another attribute may stand beside it."""

    def joined(*attributes: tuple[str, bytes]) -> bytes:
        found = [
            asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(UTF8_STRING, value))
            for oid, value in attributes
        ]
        return asn1.tlv(0x30, asn1.tlv(0x31, *found))

    good, bad = ((oid, b"enb-2") for oid in (OID.organizationName, OID.commonName))
    assert subject_faults(joined((OID.commonName, b"enb-1"), good)) == []
    (fault,) = subject_faults(joined((OID.commonName, b"enb-1"), bad))
    assert fault.why == "has an attribute twice in one RDN"


def test_no_subject_is_no_fault() -> None:
    """Whether it may be absent is not the question here."""
    assert subject_faults(NULL_DN) == []


# --- GeneralNames ---------------------------------------------------------------------------------------------

UPN = asn1.oid_der("1.3.6.1.4.1.311.20.2.3")

GOOD = {
    "a host": (0x82, b"enb-1.ran.example.net"),
    "capitals": (0x82, b"ENB-1.Example.NET"),
    "an A-label": (0x82, b"xn--zrich-kva.example.net"),
    "digits": (0x82, b"1and1.example"),
    "a label of 63": (0x82, b"x" * 63 + b".net"),
    "IPv4": (0x87, b"\xc0\x00\x02\x01"),
    "IPv6": (0x87, bytes(16)),
    "a URL": (0x86, b"https://enb-1.example.net:8443/a/b;c=1?d=e&f#g"),
    "a URL of an address": (0x86, b"https://192.0.2.1/"),
    "a URL of an IPv6 address": (0x86, b"http://[2001:db8::1]:80"),
    "a URN": (0x86, b"urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
    "a percent sign": (0x86, b"https://example.net/%7Ea"),
    "SIP": (0x86, b"sip:enb1@example.net"),
    "a mailbox": (0x81, b"a.b+c@example.net"),
    "a registered ID": (0x88, b"\x2a\x03\x04"),
    "a principal name": (0xA0, UPN + b"\xa0\x08\x0c\x06a@b.c1"),
    "a hardware module name": (
        0xA0,
        asn1.oid_der("1.3.6.1.5.5.7.8.4")
        + asn1.tlv(0xA0, asn1.tlv(0x30, asn1.oid_der("1.2.3"), asn1.tlv(4, b"\x00\xff"))),
    ),
    "a directory name": (0xA4, from_rfc4514("CN=enb-1,O=Example,C=DE")),
}

BAD = {
    "an empty host": (0x82, b""),
    "a dot": (0x82, b"."),
    "a dot first": (0x82, b".example.net"),
    "a dot last": (0x82, b"example.net."),
    "two dots": (0x82, b"a..example.net"),
    "an underscore": (0x82, b"e_nb.example.net"),
    "a hyphen first": (0x82, b"-a.example.net"),
    "a hyphen last": (0x82, b"a-.example.net"),
    "a label of 64": (0x82, b"x" * 64 + b".net"),
    "254 octets": (0x82, b".".join([b"x" * 63] * 3 + [b"y" * 62])),
    "Latin-1": (0x82, b"z\xfcrich.example.net"),
    "UTF-8": (0x82, "zürich.example.net".encode()),
    "NUL": (0x82, b"a\0.example.net"),
    "a blank": (0x82, b"a b.example.net"),
    "LF": (0x82, b"a.example.net\n"),
    "a wildcard inside": (0x82, b"a.*.example.net"),
    "part of a wildcard": (0x82, b"a*.example.net"),
    "only a wildcard": (0x82, b"*"),
    "no address": (0x87, b""),
    "3 octets": (0x87, b"\xc0\x00\x02"),
    "5 octets": (0x87, bytes(5)),
    "address and mask": (0x87, bytes(8)),
    "17 octets": (0x87, bytes(17)),
    "32 octets": (0x87, bytes(32)),
    "no URI": (0x86, b""),
    "no scheme": (0x86, b"//example.net/"),
    "a path": (0x86, b"/etc"),
    "a host only": (0x86, b"example.net"),
    "only a scheme": (0x86, b"https:"),
    "a digit first": (0x86, b"1http://example.net"),
    "no host": (0x86, b"https:///x"),
    "a host of one label": (0x86, b"https://localhost/x"),
    "a host with a blank": (0x86, b"https://exa mple.net/"),
    "a broken percent sign": (0x86, b"https://example.net/%zz"),
    "a bracket": (0x86, b"https://example.net/[x"),
    "a backslash": (0x86, b"https://example.net\\x"),
    "a high port": (0x86, b"https://example.net:65536/"),
    "no port": (0x86, b"https://example.net:http/"),
    "no IPv6 address": (0x86, b"https://[::g]/"),
    "two fragments": (0x86, b"https://example.net/#a#b"),
    "CR LF in a URI": (0x86, b"https://example.net/\r\n"),
    "an IRI": (0x86, "https://example.net/ü".encode()),
    "1,025 octets": (0x86, b"https://example.net/" + b"x" * 1_005),
    "no at sign": (0x81, b"example.net"),
    "no local part": (0x81, b"@example.net"),
    "no host of a mailbox": (0x81, b"a@"),
    "two at signs": (0x81, b"a@b@example.net"),
    "a local part of 65": (0x81, b"x" * 65 + b"@example.net"),
    "dots": (0x81, b"a..b@example.net"),
    "a dot in front": (0x81, b".a@example.net"),
    "a display name": (0x81, b"A <a@example.net>"),
    "no OID": (0x88, b""),
    "an OID cut off": (0x88, b"\x2a\x83"),
    "a padded OID": (0x88, b"\x2a\x80\x03"),
    "a long OID": (0x88, b"\x2a" + b"\x01" * 63),
    "an empty DN": (0xA4, NULL_DN),
    "a long CN": (0xA4, name(OID.commonName, UTF8_STRING, b"x" * 65)),
    "a BMPString": (0xA4, name(OID.commonName, BMP, b"\0x")),
    "no other name": (0xA0, b""),
    "no type": (0xA0, b"\xa0\x03\x0c\x01a"),
    "a type that is no OID": (0xA0, b"\x04" + UPN[1:] + b"\xa0\x03\x0c\x01a"),
    "no value": (0xA0, UPN),
    "a value with another tag": (0xA0, UPN + b"\xa1\x03\x0c\x01a"),
    "an empty value": (0xA0, UPN + b"\xa0\x00"),
    "two values": (0xA0, UPN + b"\xa0\x06\x0c\x01a\x0c\x01b"),
    "a control character": (0xA0, UPN + b"\xa0\x03\x0c\x01\x1b"),
    "a control character deep inside": (0xA0, UPN + b"\xa0\x05\x30\x03\x0c\x01\x1b"),
    "no UTF-8": (0xA0, UPN + b"\xa0\x03\x0c\x01\xff"),
    "a BOOLEAN of no kind": (0xA0, UPN + b"\xa0\x03\x01\x01\x05"),
    "an empty INTEGER": (0xA0, UPN + b"\xa0\x02\x02\x00"),
    "a padded INTEGER": (0xA0, UPN + b"\xa0\x04\x02\x02\x00\x01"),
    "a long other name": (0xA0, UPN + asn1.tlv(0xA0, asn1.tlv(4, bytes(300)))),
    "x400Address": (0xA3, b""),
    "ediPartyName": (0xA5, b"\xa1\x03\x0c\x01a"),
    "a primitive directoryName": (0x84, b""),
    "a constructed dNSName": (0xA2, b"\x82\x01a"),
    "an unknown kind": (0x89, b"a"),
    "no GeneralName": (0x0C, b"a"),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_names_of_every_kind_are_certified(case: str) -> None:
    """RFC 5280 4.2.1.6."""
    tag, octets = GOOD[case]
    assert alternative_name_faults(asn1.tlv(0x30, asn1.tlv(tag, octets))) == []


@pytest.mark.parametrize("case", BAD)
def test_names_of_another_form_are_not(case: str) -> None:
    """Beside a good one too; the sentence begins with the kind."""
    tag, octets = BAD[case]
    good = asn1.tlv(0x82, b"enb-1.example.net")
    found = alternative_name_faults(asn1.tlv(0x30, good, asn1.tlv(tag, octets)))
    assert found
    assert str(found[0]).startswith("subjectAltName")


def test_a_wildcard_is_for_who_may_have_one() -> None:
    """The leftmost label, and whole."""
    san = asn1.tlv(0x30, asn1.tlv(0x82, b"*.example.net"))
    assert alternative_name_faults(san) == []
    assert [fault.why for fault in alternative_name_faults(san, wildcard=False)] == [
        "is a wildcard"
    ]
    require_certifiable(NULL_DN, san)
    with pytest.raises(TemplateRefused, match="dNSName is a wildcard"):
        require_certifiable(NULL_DN, san, qualified=True)


@pytest.mark.parametrize(
    "text", ["*.example.net", "f*.example.net", "*\u3002example.net", "x *.org"]
)
def test_a_cn_is_no_wildcard_where_a_dns_name_may_not_be_one(text: str) -> None:
    """Nor is that of a directoryName; a star alone is none."""
    directory_name = asn1.tlv(0x30, asn1.tlv(0xA4, from_rfc4514(f"CN={text},O=x")))
    for names in ((from_rfc4514(f"CN={text},O=x"), None), (NULL_DN, directory_name)):
        require_certifiable(*names)
        with pytest.raises(TemplateRefused, match="is a wildcard"):
            require_certifiable(*names, qualified=True)
    require_certifiable(from_rfc4514("CN=Star *,O=x"), None, qualified=True)


UNFIT_AT_A_CA = [
    *("ip:0.0.0.0", "ip:0.1.2.3", "ip:127.0.0.1", "ip:127.9.9.9", "ip:224.0.0.1", "ip:240.0.0.1"),
    *("ip:255.255.255.255", "ip:::", "ip:::1", "ip:ff02::1"),
    *("ip:::ffff:127.0.0.1", "ip:::ffff:0.0.0.0", "ip:::ffff:224.0.0.1"),
    *("uri:https://127.0.0.1/", "uri:https://[::1]:8443/x", "uri:sip:u@127.0.0.1"),
    *("dns:xn--a.example.net", "dns:xn--999999999.example.net", "dns:a.xn--zz-.example.net"),
    *("dns:xn--abc-.example.net", "dns:XN--A.example.net", "email:x@xn--a.example.net"),
    *("uri:https://xn--a.example.net/", "dns:a.localhost", "dns:a.invalid"),
    *("uri:javascript:alert(1)", "uri:JavaScript:alert(1)", "uri:data:text/html;base64,AAAA"),
    *("uri:vbscript:x", "uri:about:blank", "uri:file:/etc/passwd", "uri:http:a.example.net"),
    *("uri:https:/a.example.net/x", "uri:https://u@a.example.net/", "uri:http://u:p@a.example.net"),
    *("uri:urn:uuid:zz", "uri:urn:x", "uri:urn:x:y", "uri:urn:uuid:", "uri:urn:example:"),
    "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf67",
    *("dn:CN=127.0.0.1", "dn:CN=xn--a.example.net"),
]
FIT_AT_A_CA = [
    *("ip:192.0.2.1", "ip:10.0.0.1", "ip:169.254.1.1", "ip:2001:db8::1", "ip:fe80::1"),
    *("dns:xn--bcher-kva.example.net", "dns:XN--BCHER-KVA.example.net", "dns:ab--cd.example.net"),
    *("uri:https://a.example.net:8443/x@y", "uri:sip:u@a.example.net", "uri:mailto:a@example.net"),
    *("uri:urn:uuid:F81D4FAE-7dec-11d0-a765-00a0c91e6bf6", "uri:urn:example:a", "uri:tel:+1"),
    *("uri:spiffe://example.net/x", "uri:ldap://a.example.net/o=x"),
]


@pytest.mark.parametrize("name", UNFIT_AT_A_CA)
def test_a_ca_of_the_operator_s_certifies_nothing_that_is_nobody_s(name: str) -> None:
    """Addresses and domains of no host, labels that only look like punycode, URIs that name nobody."""
    with pytest.raises(TemplateRefused):
        require_certifiable(NULL_DN, general_names_der([name]), qualified=True)


@pytest.mark.parametrize("name", FIT_AT_A_CA)
def test_a_ca_of_the_operator_s_certifies_what_is_somebody_s(name: str) -> None:
    """Once: the same name in another case is the same."""
    require_certifiable(NULL_DN, general_names_der([name]), qualified=True)
    for other in (name, name.upper() if name[:4] == "dns:" else name):
        twice = general_names_der([name, name[:4] + other[4:], "dns:other.example.net"])
        with pytest.raises(TemplateRefused, match="a name twice"):
            require_certifiable(NULL_DN, twice, qualified=True)


@pytest.mark.parametrize("cn", ["127.0.0.1", "xn--a.example.net", "a.localhost", "::1"])
def test_nor_as_a_common_name(cn: str) -> None:
    """A reader may take it for a host."""
    with pytest.raises(TemplateRefused):
        require_certifiable(from_rfc4514(f"CN={cn},O=x"), None, qualified=True)


@pytest.mark.parametrize("octets", [b"", b"\x30", b"\x30\x00", b"\x30\x80\x00\x00", b"\x0c\x01a",
                                    asn1.tlv(0x30, *[asn1.tlv(0x82, b"a.net")] * 65)])  # fmt: skip
def test_octets_that_are_no_general_names_are_told(octets: bytes) -> None:
    """A fault, never an exception; nor are there none, or too many."""
    assert alternative_name_faults(octets)


def test_a_directory_name_is_judged_as_a_subject_is() -> None:
    """The sentence says where."""
    der = asn1.tlv(0x30, directory_name(name(OID.serialNumber, UTF8_STRING, b"1")))
    (fault,) = alternative_name_faults(der)
    assert str(fault).startswith(
        "subjectAltName directoryName attribute serialNumber (2.5.4.5) is a value of type UTF8String"
    )
