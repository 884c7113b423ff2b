"""Names at the gateway and at the bundled CA: which are certified, and which mean the same (RFC 5280 4.1.2 and 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import NameOID

from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.records import Role
from ra_gateway.cmp import asn1
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import (
    CertId,
    CertTemplate,
    Control,
    Extension,
    cert_id_der,
    cert_req_messages,
)
from ra_gateway.cmp.names import (
    canonical,
    decoded,
    directory_name,
    fits,
    fits_alike,
    fits_general_name,
    from_rfc4514,
    general_name_key,
    general_name_keys,
    general_names_der,
    name_template,
    rfc4514,
    same_name,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.x520 import ATTRIBUTE_FORMS
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import SubjectRule, Variant
from tests.support import pki, requests
from tests.support.answers import fail_names, status_of
from tests.support.asserts import assert_refused, assert_served
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import ALL, ENB1, IDENTITY, NOW, Desk, open_desk, vendor_domain
from tests.support.harness import Answer, World
from tests.support.profiles import NE_TLS
from tests.support.requests import extension_request, made_by_hand, p10cr

BAD_TEMPLATE = PKIFailureInfo.badCertTemplate
REQUESTS = (BodyType.ir, BodyType.cr, BodyType.p10cr, BodyType.kur)


def utf8_name(*values: tuple[str, str], tag: int = 0x0C) -> bytes:
    """A Name of attributes of one string type."""
    encoding = {0x1E: "utf-16-be", 0x1C: "utf-32-be", 0x14: "latin-1"}.get(tag, "utf-8")
    return asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(tag, text.encode(encoding))))
            for oid, text in values
        ),
    )


# --- what means the same ----------------------------------------------------------------------------------------

ALIKE = [
    ("dns:ENB-1.Example.NET", "dns:enb-1.example.net"),
    ("dns:enb-1.example.net.", "dns:enb-1.example.net"),
    ("dns:XN--Zrich-KVA.example", "dns:xn--zrich-kva.example"),
    ("uri:HTTPS://ENB-1.Example.net/A", "uri:https://enb-1.example.net/A"),
    ("uri:https://User@ENB-1.example.net:443/", "uri:https://User@enb-1.example.net:443/"),
    ("uri:URN:uuid:1", "uri:urn:uuid:1"),
    ("email:Ops@EXAMPLE.net", "email:Ops@example.net"),
    ("ip:2001:DB8:0:0::1", "ip:2001:db8::1"),
    ("dn:CN=ENB-1,O=Example  Operator", "dn:CN=enb-1,O=example operator"),
    ("dn:CN=Zu\u0308rich", "dn:CN=z\u00fcrich"),
    ("dn:CN=a+OU=b", "dn:OU=B+CN=A"),
    ("other:a00506012aa0000c", "other:a00506012aa0000c"),
]
DIFFERENT = [
    ("dns:enb-1.example.net", "dns:enb-1.example.com"),
    ("dns:example.net", "uri:example.net"),
    ("dns:enb-1.example.net", "dns:enb-1.example.net.."),
    ("uri:https://enb-1.example.net/A", "uri:https://enb-1.example.net/a"),
    ("uri:https://enb-1.example.net/?A", "uri:https://enb-1.example.net/?a"),
    ("uri:https://User@enb-1.example.net/", "uri:https://user@enb-1.example.net/"),
    ("uri:https://enb-1.example.net", "uri:http://enb-1.example.net"),
    ("uri:urn:uuid:A", "uri:urn:uuid:a"),
    ("email:Ops@example.net", "email:ops@example.net"),
    ("ip:192.0.2.1", "ip:::ffff:192.0.2.1"),
    ("dn:CN=enb-1", "dn:CN=enb-2"),
    ("dn:CN=a,O=b", "dn:O=b,CN=a"),
    ("dn:CN=a\\,O=b", "dn:CN=a,O=b"),
    ("dn:CN=a\uff0cO=b", "dn:CN=a,O=b"),
    ("dn:CN=enb\u200b1", "dn:CN=enb1"),
    ("other:a00506012aa0000c", "other:a00506012aa0000d"),
]  # fmt: skip


@pytest.mark.requirement(70)
@pytest.mark.parametrize("one, other", ALIKE)
def test_general_names_that_mean_the_same_have_one_key(one: str, other: str) -> None:
    """RFC 5280 7.2 to 7.5, for every kind; keys of keys are the keys."""
    assert general_name_key(one) == general_name_key(other)
    assert general_name_key(general_name_key(one)) == general_name_key(one)


@pytest.mark.requirement(70)
@pytest.mark.parametrize("one, other", DIFFERENT)
def test_general_names_that_mean_something_else_do_not(one: str, other: str) -> None:
    """A path, a local part and a value that nobody knows have a case that counts."""
    assert general_name_key(one) != general_name_key(other)


@pytest.mark.requirement(70)
@pytest.mark.parametrize(
    "one, other, same",
    [
        ("caf\u00e9", "cafe\u0301", True),
        ("\uff45nb-1", "enb-1", True),
        ("\ufb01ber", "FIBER", True),
        ("\u1f52", "\u03a5\u0313\u0300", True),
        ("\u212aiosk", "kiosk", True),
        ("stra\u00dfe", "STRASSE", True),
        (" a  b ", "A\u00a0B", True),
        ("a b", "ab", False),
        ("cafe", "caf\u00e9", False),
        ("enb\u200b1", "enb1", False),
        ("a\u00ad", "a", False),
    ],
)
def test_subjects_compare_in_their_normal_form(one: str, other: str, same: bool) -> None:
    """RFC 4518: case folded, NFKC, blanks that mean nothing; what nobody sees makes another name."""
    names = [utf8_name((OID.commonName, text)) for text in (one, other)]
    assert same_name(*names) is same
    assert (canonical(names[0]) == canonical(names[1])) is same
    if one.strip() == one:
        assert fits_alike(f"CN={one}", f"CN={other}") is same


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "name, pattern, fit",
    [
        ("dns:ENB-1.ran.example.net", "dns:enb-*.RAN.example.net", True),
        ("uri:HTTPS://enb-1.example.net/A", "uri:https://*.EXAMPLE.net/A", True),
        ("uri:https://enb-1.example.net/a", "uri:https://*.example.net/A", False),
        ("email:ops@Example.net", "email:ops@EXAMPLE.*", True),
        ("email:OPS@example.net", "email:ops@example.net", False),
        ("ip:2001:db8::1", "ip:2001:DB8:*", True),
        ("dns:enb-1.example.net", "dns:enb-?.example.com", False),
    ],
)
def test_patterns_go_by_the_same_case(name: str, pattern: str, fit: bool) -> None:
    """Of what is written as it is asked for, only what no reader tells apart is the same."""
    assert fits_general_name(name, pattern) is fit


@pytest.mark.requirement(67)
def test_a_pattern_may_have_its_letters_in_either_form() -> None:
    """An editor writes \u00fc as one character or as two; a case of its own stays another name for who is certified."""
    for text in ("CN=Z\u00fcrich-1,O=X", "CN=Zu\u0308rich-1,O=X"):
        for pattern in ("CN=Z\u00fcrich-*,O=X", "CN=Zu\u0308rich-*,O=X"):
            assert fits(text, pattern)
    assert not fits("CN=Z\u00dcRICH-1,O=X", "CN=Z\u00fcrich-*,O=X")


@pytest.mark.requirement(137)
@pytest.mark.parametrize(
    "text", ["CN=,O=Example", "C=DE,CN=", "2.5.4.5=,CN=x", "DC=,DC=net", "C=", "CN=+2.5.4.5=1"]
)
def test_a_name_to_fill_in_has_the_types_that_its_attributes_have(text: str) -> None:
    """A device that copies it and fills in what is empty asks for a name that is certified."""
    found = decoded(name_template(text))
    assert rfc4514(name_template(text)) == text
    for attribute in (item for rdn in found for item in rdn):
        form = ATTRIBUTE_FORMS[attribute.type.dotted_string]
        assert attribute.value.tag_bytes[0] in form.tags


# --- the gateway ------------------------------------------------------------------------------------------------


@pytest.fixture
def key() -> Any:
    return pki.make_key("p256")


@pytest.fixture
def world(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki, endpoint={"body_types": frozenset(REQUESTS)})


OLD = ("dns:enb-1.example.net", "ip:2001:db8::1")
RESPELT = ("dns:ENB-1.Example.NET", "ip:2001:db8::1")


@pytest.mark.requirement(67, 70)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
async def test_a_renewal_may_write_its_dns_name_in_another_case(
    world: World, key: Any, body_type: BodyType
) -> None:
    """It is the same name; what goes up is the old certificate's spelling."""
    old = world.operator.device("enb-1", san=OLD)
    certificate = cmp_certificate(old.certificate)
    asked = requests.template(key, certificate.subject, RESPELT)
    der = await requests.request(world, cmp_credential(old), key, asked, body_type=body_type)
    await assert_served(world, der)
    (up,) = cert_req_messages(world.ca.messages[-1].body_content)
    assert up.template.subject_alt_name_der == certificate.subject_alt_name_der


@pytest.mark.requirement(67, 70)
async def test_a_request_that_cannot_be_changed_may_too(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """A PKCS#10, and a kur that goes up as it is."""
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={"body_types": frozenset(REQUESTS)},
        upstream={"kur": Variant.forward, "requests": Variant.forward},
    )
    old = world.operator.device("enb-1", san=OLD)
    subject = cmp_certificate(old.certificate).subject
    attributes = extension_request(requests.san_extension(*RESPELT))
    request = await made_by_hand(key, subject=subject, attributes=attributes)
    assert fail_names(await world.ask(await p10cr(world, old, request))) == []
    asked = requests.template(key, subject, RESPELT)
    der = await requests.request(world, cmp_credential(old), key, asked, body_type=BodyType.kur)
    await assert_served(world, der)


@pytest.mark.requirement(70)
async def test_another_case_of_what_has_a_case_is_another_name(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """The path of a URI, the local part of a mailbox: badCertTemplate in kup."""
    world = World.make(vendor_pki, operator_pki)
    for had, asked in (
        ("uri:https://enb-1.example.net/A", "uri:https://enb-1.example.net/a"),
        ("email:Ops@example.net", "email:ops@example.net"),
    ):
        old = world.operator.device("enb-1", san=[had])
        subject = cmp_certificate(old.certificate).subject
        der = await requests.request(
            world,
            cmp_credential(old),
            key,
            requests.template(key, subject, [asked]),
            body_type=BodyType.kur,
        )
        await assert_refused(world, der, "badCertTemplate", rule="R70", body_type=BodyType.kup)


@pytest.mark.requirement(67)
async def test_allowed_names_are_allowed_in_every_case(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """In the request, in the pattern and in the vendor certificate; a path is not."""
    rules = IdentityRules(
        allowed_subjects=("*",),
        allowed_sans=("dns:{cn}.RAN.example.net", "uri:https://ran.example.net/{cn}"),
    )
    world = World.make(vendor_pki, operator_pki, identity=rules)
    device = cmp_credential(world.vendor.sub.issue("CN=ENB-1"))
    for name, told in (
        ("dns:enb-1.ran.EXAMPLE.net", []),
        ("uri:HTTPS://RAN.example.net/ENB-1", []),
        ("uri:https://ran.example.net/enb-1", ["notAuthorized"]),
        ("dns:enb-2.ran.example.net", ["notAuthorized"]),
    ):
        der = await requests.request(world, device, key, requests.template(key, san=[name]))
        assert fail_names(await world.ask(der)) == told


@pytest.mark.requirement(75, 141)
async def test_who_asks_for_what_it_gets_may_ask_in_another_case(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any
) -> None:
    """Its own proof of possession may stand, also where the request cannot be changed."""
    rules = IdentityRules(
        subject=SubjectRule.replace,
        subject_template="CN={cn}.example.net,O=Operator",
        san_template=("dns:{cn}.example.net",),
    )
    world = World.make(
        vendor_pki,
        operator_pki,
        identity=rules,
        endpoint={
            "body_types": frozenset(REQUESTS),
            "vendor_types": {"acme": frozenset(REQUESTS)},
        },
    )
    device = world.vendor.sub.issue("CN=enb-1")
    attributes = extension_request(requests.san_extension("dns:ENB-1.example.NET"))
    request = await made_by_hand(
        key, subject="CN=enb-1.example.net,O=Operator", attributes=attributes
    )
    assert fail_names(await world.ask(await p10cr(world, device, request))) == []


@pytest.mark.requirement(88)
async def test_a_ca_may_write_a_name_in_another_case(world: World, key: Any) -> None:
    """A DNS name, or the host of a URI; another path is another name, and the certificate is not relayed."""

    def issuing(*names: str) -> Any:
        def script(answer: Answer) -> None:
            template = cert_req_messages(answer.request.body_content)[0].template
            public_key: Any = load_der_public_key(template.spki_der or b"")
            issued = world.operator.issuing.sign(requests.SUBJECT, public_key, san=list(names))
            answer.set_response(certificate_der=pki.certificate_der(issued))

        return script

    asked = requests.template(key, san=["dns:enb-1.example.net", "uri:https://ran.example.net/A"])
    device = cmp_credential(world.device())
    for names, served in (
        (("dns:ENB-1.example.net", "uri:HTTPS://RAN.example.net/A"), True),
        (("dns:ENB-1.example.net", "uri:https://ran.example.net/a"), False),
    ):
        world.ca.script = issuing(*names)
        answer = await world.ask(await requests.request(world, device, key, asked))
        assert status_of(answer).issued is served


@pytest.mark.requirement(70)
@pytest.mark.parametrize("composed", [True, False])
async def test_a_subject_in_nfd_is_that_in_nfc(world: World, key: Any, composed: bool) -> None:
    """A device asks for the one and has the other: it is renewed under the octets that it has."""
    one, other = "Z\u00fcrich-1", "Zu\u0308rich-1"
    if not composed:
        one, other = "enb-1", "\uff45nb-1"
    old = world.operator.issuing.issue(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]))
    asked = requests.template(key, subject_der=utf8_name((OID.commonName, other)))
    der = await requests.request(world, cmp_credential(old), key, asked, body_type=BodyType.kur)
    await assert_served(world, der)
    (up,) = cert_req_messages(world.ca.messages[-1].body_content)
    assert up.template.subject_der == cmp_certificate(old.certificate).subject_der


# --- what is certified, for every request -------------------------------------------------------------------------

UNFIT: dict[str, CertTemplate] = {
    "65 letters": CertTemplate(subject_der=utf8_name((OID.commonName, "x" * 65))),
    "TeletexString": CertTemplate(subject_der=utf8_name((OID.commonName, "enb-1"), tag=0x14)),
    "BMPString": CertTemplate(subject_der=utf8_name((OID.commonName, "enb-1"), tag=0x1E)),
    "UniversalString": CertTemplate(subject_der=utf8_name((OID.commonName, "enb-1"), tag=0x1C)),
    "an at sign": CertTemplate(subject_der=utf8_name((OID.commonName, "a@b"), tag=0x13)),
    "serialNumber in UTF8String": CertTemplate(subject_der=utf8_name((OID.serialNumber, "1"))),
    "an unknown attribute": CertTemplate(subject_der=utf8_name(("1.2.3.4.5", "x"))),
    "no UTF-8": CertTemplate(
        subject_der=asn1.tlv(
            0x30,
            asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der(OID.commonName), b"\x0c\x01\xff")),
        )
    ),
    "an empty RDN": CertTemplate(subject_der=b"\x30\x02\x31\x00"),
    "a long Name": CertTemplate(subject_der=utf8_name((OID.surname, "x" * 5_000))),
    "17 attributes": CertTemplate(subject_der=utf8_name(*[(OID.organizationalUnitName, "x")] * 17)),
    **{
        f"SAN: {case}": CertTemplate(
            subject_der=from_rfc4514("CN=enb-1"),
            extensions=(Extension(OID.subjectAltName, False, asn1.tlv(0x30, *names)),),
        )
        for case, names in {
            "three octets": (asn1.tlv(0x87, bytes(3)),),
            "no names": (),
            "UTF-8 in a DNS name": (asn1.tlv(0x82, "zürich.example.net".encode()),),
            "a relative URI": (asn1.tlv(0x86, b"/enb-1"),),
            "a URI whose host is no FQDN": (asn1.tlv(0x86, b"https://enb-1/"),),
            "x400Address": (asn1.tlv(0xA3, asn1.tlv(0x30)),),
            "a directoryName": (directory_name(utf8_name((OID.serialNumber, "1"))),),
            "no directoryName": (asn1.tlv(0xA4, b"\x0c\x01a"),),
        }.items()
    },
}  # fmt: skip


BY_NAME = {"RFC 5280 A.1", "RFC 5280 4.1.2.4", "RFC 5280 4.2.1.6"}
RULES = {
    BodyType.ir: BY_NAME,
    BodyType.cr: BY_NAME,
    BodyType.p10cr: BY_NAME,
    BodyType.kur: BY_NAME | {"R70"},  # another subject than the old one has the same failInfo
}


@pytest.mark.requirement(48, 67)
@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("body_type", REQUESTS)
async def test_what_is_no_name_is_refused_in_the_answer_to_the_request(
    world: World, key: Any, case: str, body_type: BodyType
) -> None:
    """badCertTemplate in ip, cp or kup: the rest of the message is well. Nothing goes up."""
    unfit = UNFIT[case]
    if body_type is BodyType.ir:
        signer, template = world.device(), replace(unfit, spki_der=requests.spki(key))
    else:
        # Of a foreign CA of the operator, which has issued such a name.
        signer = world.operator.device("enb-1")
        template = replace(unfit, spki_der=requests.spki(key))
    if body_type is BodyType.p10cr:
        attributes = extension_request(*unfit.extensions) if unfit.extensions else b"\xa0\x00"
        request = await made_by_hand(key, subject_der=unfit.subject_der, attributes=attributes)
        der = await p10cr(world, signer, request)
    else:
        der = await requests.request(
            world, cmp_credential(signer), key, template, body_type=body_type
        )
    answer = await world.ask(der)
    assert answer.body_type is CERT_RESPONSE_TO[body_type]
    assert fail_names(answer) == ["badCertTemplate"]
    assert world.events[-1].rule in RULES[body_type]
    assert world.ca.received == []


# --- the bundled CA ---------------------------------------------------------------------------------------------


@pytest.fixture
async def desk(
    operator_pki: pki.OperatorPKI, vendor_pki: pki.VendorPKI, tmp_path: Path
) -> AsyncIterator[Desk]:
    """A CA with both modes: ra1 may have what it asks for, and enb1 is registered for client mode."""
    async with open_desk(
        operator_pki,
        tmp_path / "ledger.db",
        client=ClientMode({"acme": vendor_domain(vendor_pki)}, "cn"),
        profile=NE_TLS,
    ) as desk:
        await desk.ledger.registry.add_entity(replace(ENB1, profile="ne_tls"), "test", NOW)
        yield desk


@pytest.mark.requirement(48, 67)
@pytest.mark.parametrize("mode", list(Mode))
async def test_the_bundled_ca_refuses_what_is_no_name(
    desk: Desk, vendor_pki: pki.VendorPKI, mode: Mode
) -> None:
    """In RA mode and in client mode, in ip, cp and kup; nothing is issued."""
    old = await desk.enrol(template=CertTemplate(subject_der=from_rfc4514("CN=enb7,O=Operator")))
    await desk.confirm(old)
    cert_id = CertId(directory_name(old.certificate.issuer_der), old.certificate.serial_number)
    old_id = Control(OID.oldCertID, cert_id_der(cert_id))
    counts = await desk.ledger.counts()
    desk.mode = mode
    for case, unfit in UNFIT.items():
        for body_type in (BodyType.ir, BodyType.cr, BodyType.kur):
            signer = None
            if mode is Mode.client:
                vendor = body_type is BodyType.ir
                signer = cmp_credential(vendor_pki.device(IDENTITY)) if vendor else old.entity
            controls = (old_id,) if body_type is BodyType.kur else ()
            der = await desk.request(body_type, template=unfit, signer=signer, controls=controls)
            told = (CERT_RESPONSE_TO[body_type], BAD_TEMPLATE)
            assert await desk.refused(der) == told, (case, body_type)
    assert await desk.ledger.counts() == counts


@pytest.mark.requirement(70)
@pytest.mark.parametrize("mode", list(Mode))
async def test_the_bundled_ca_renews_under_the_old_spelling(desk: Desk, mode: Mode) -> None:
    """A DNS name in another case, an address with zeros: the old octets are certified."""
    names = ("dns:enb7.example.net", "ip:2001:db8::1", "uri:https://enb7.example.net/A")
    template = CertTemplate(
        subject_der=from_rfc4514("CN=Z\u00fcrich,O=Operator"),
        extensions=(Extension(OID.subjectAltName, False, general_names_der(names)),),
    )
    old = await desk.enrol(template=template)
    await desk.confirm(old)
    desk.mode = mode
    signer = old.entity if mode is Mode.client else None
    respelt = ("uri:HTTPS://ENB7.example.net/A", "dns:ENB7.Example.net", "ip:2001:db8:0::1")
    for subject in ("CN=Z\u00fcrich,O=Operator", "CN=ZU\u0308RICH,O=operator"):
        asked = CertTemplate(
            subject_der=from_rfc4514(subject),
            extensions=(Extension(OID.subjectAltName, False, general_names_der(respelt)),),
        )
        for body_type in (BodyType.kur, BodyType.cr) if signer else (BodyType.kur,):
            new = await desk.enrol(body_type, template=asked, signer=signer)
            assert new.certificate.subject_der == old.certificate.subject_der
            assert new.certificate.subject_alt_name_der == old.certificate.subject_alt_name_der
    other = CertTemplate(
        subject_der=old.certificate.subject_der,
        extensions=(
            Extension(
                OID.subjectAltName,
                False,
                general_names_der((*names[:2], "uri:https://enb7.example.net/a")),
            ),
        ),
    )
    der = await desk.request(BodyType.kur, template=other, signer=signer)
    assert (await desk.refused(der))[1] is BAD_TEMPLATE


@pytest.mark.requirement(67)
async def test_a_registered_device_may_write_its_names_in_another_case(
    desk: Desk, vendor_pki: pki.VendorPKI
) -> None:
    """Only those that it asks for are certified."""
    desk.mode = Mode.client
    name = ENB1.names[0]
    kind, _, value = name.partition(":")
    extension = Extension(OID.subjectAltName, False, general_names_der([f"{kind}:{value.upper()}"]))
    new = await desk.enrol(
        signer=cmp_credential(vendor_pki.device(IDENTITY)),
        template=CertTemplate(extensions=(extension,)),
    )
    assert general_name_keys(new.certificate.subject_alt_name_der) == {general_name_key(name)}


@pytest.mark.requirement(58)
async def test_a_role_s_patterns_go_by_meaning(desk: Desk) -> None:
    """An RA that is bound to a domain is bound to it in every case, and to a path in its own."""
    role = Role(
        "bound",
        ALL,
        ("ne_tls",),
        ("CN=enb*",),
        ("dns:*.NORTH.example.net", "uri:https://north.example.net/A"),
    )
    await desk.ledger.registry.put_role(role, "test", NOW)
    await desk.ledger.registry.put_authority("ra1", role.name, "test", NOW)
    desk.ca._authentication.registered._good_until = float("-inf")
    for name, told in (
        ("dns:ENB7.north.Example.net", None),
        ("uri:https://NORTH.example.net/A", None),
        ("uri:https://north.example.net/a", PKIFailureInfo.notAuthorized),
        ("dns:enb7.south.example.net", PKIFailureInfo.notAuthorized),
    ):
        extension = Extension(OID.subjectAltName, False, general_names_der([name]))
        asked = CertTemplate(subject_der=from_rfc4514("CN=enb7"), extensions=(extension,))
        if told is None:
            await desk.enrol(template=asked)
        else:
            der = await desk.request(template=asked)
            assert (await desk.refused(der))[1] is told
