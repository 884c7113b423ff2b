"""The policy as pure functions, the text form of names it decides by, and the seals on what it hands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import assume, given
from hypothesis import strategies as st

from ra_gateway.cmp import asn1, verification
from ra_gateway.cmp import requests as cmp_requests
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.identity import DeviceValues
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import (
    attributes,
    escape_rfc4514,
    fits_alike,
    from_rfc4514,
    rfc4514,
)
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.requests import AuthenticatedConfirmation, AuthenticatedRequest, read_request
from ra_gateway.cmp.verification import AuthenticatedMessage, authenticate
from ra_gateway.cmp.x520 import require_certifiable
from ra_gateway.errors import CMPError, MalformedMessage, NotAuthorized, TemplateRefused
from ra_gateway.ra.patterns import check_allowed, san_from
from ra_gateway.ra.policy import AuthorizedRequest, IdentityRules, authorize, vendor_identity
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.settings import InventoryUse, SubjectRule
from tests.support import pki, requests
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import World

CN, SERIAL_NUMBER, ORG, OU = "2.5.4.3", "2.5.4.5", "2.5.4.10", "2.5.4.11"
MADE = "CN={cn}.ran.example.net,O=Operator"


@dataclass
class Desk:
    """Makes authenticated requests for the policy to decide on."""

    world: World
    key: Any

    async def request(
        self,
        asked: CertTemplate | None = None,
        *,
        credential: Credential | None = None,
        body_type: BodyType = BodyType.ir,
    ) -> AuthenticatedRequest:
        credential = credential or self.vendor_credential()
        der = await requests.request(self.world, credential, self.key, asked, body_type=body_type)
        endpoint, message = self.world.endpoint, PKIMessage.from_der(der)
        authenticated = authenticate(
            message, endpoint.domains_for[body_type], HeaderRules(), self.world.clock()
        )
        return read_request(authenticated, HeaderRules())

    def vendor_credential(self, *more: tuple[x509.ObjectIdentifier, str]) -> Credential:
        names = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ACME Radio"),
            x509.NameAttribute(NameOID.COMMON_NAME, "enb-1"),
            *(x509.NameAttribute(oid, value) for oid, value in more),
        ]
        return cmp_credential(self.world.vendor.sub.issue(x509.Name(names)))


@pytest.fixture
def desk(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> Desk:
    return Desk(World.make(vendor_pki, operator_pki), pki.make_key("p256"))


def refusal(
    request: AuthenticatedRequest,
    rules: IdentityRules | None,
    entry: InventoryEntry | None = None,
    *,
    may_complete: bool = True,
) -> tuple[type[CMPError], str]:
    """The kind and the rule of a refusal."""
    with pytest.raises(CMPError) as caught:
        authorize(request, rules, entry, may_complete=may_complete)
    return type(caught.value), caught.value.rule


# --- seals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls",
    [AuthenticatedMessage, AuthenticatedRequest, AuthenticatedConfirmation, AuthorizedRequest],
)
def test_a_proof_cannot_be_made_elsewhere(cls: Any) -> None:
    """Whatever is given for the seal, only the module that checked can make the value."""
    count = len(cls.__dataclass_fields__) - 1
    for seal in (None, object(), True, "seal"):
        with pytest.raises(TypeError, match="only ra_gateway"):
            cls(*[None] * count, seal)


async def test_a_proof_is_frozen(desk: Desk) -> None:
    """What was decided cannot be changed afterwards."""
    rules = IdentityRules(allowed_subjects=("*",))
    authorized = authorize(await desk.request(), rules, None, may_complete=True)
    with pytest.raises(AttributeError):
        authorized.subject_der = b""  # type: ignore[misc]
    with pytest.raises(AttributeError):
        authorized.request.requested_key_der = b""  # type: ignore[misc]


# --- authorize ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(67)
async def test_kept(desk: Desk) -> None:
    """An allowed subject is kept: same octets up, nothing completed."""
    request = await desk.request(requests.template(desk.key, san=["dns:enb-1.example.net"]))
    rules = IdentityRules(allowed_subjects=("CN=*",), allowed_sans=("dns:*",))
    authorized = authorize(request, rules, None, may_complete=False)
    assert authorized.body_der == request.message.body_der
    assert authorized.subject_der == from_rfc4514(requests.SUBJECT)
    assert (authorized.san, authorized.completed) == (("dns:enb-1.example.net",), False)


@pytest.mark.requirement(77, 141)
async def test_replaced(desk: Desk) -> None:
    """A replaced subject makes a new body, marked as completed."""
    request = await desk.request()
    rules = IdentityRules(
        subject=SubjectRule.replace, subject_template=MADE, san_template=("dns:{cn}.example.net",)
    )
    authorized = authorize(request, rules, None, may_complete=True)
    assert authorized.completed
    assert authorized.body_der != request.message.body_der
    assert rfc4514(authorized.subject_der) == "CN=enb-1.ran.example.net,O=Operator"
    assert authorized.san == ("dns:enb-1.example.net",)


@pytest.mark.requirement(75)
async def test_what_must_go_up_unchanged_is_not_completed(desk: Desk) -> None:
    """Where nothing may change, an identity that has to be set is a refusal."""
    rules = IdentityRules(subject=SubjectRule.replace, subject_template=MADE)
    request = await desk.request()
    assert refusal(request, rules, may_complete=False) == (NotAuthorized, "R75")


@pytest.mark.requirement(71)
@pytest.mark.parametrize("rules", [None, IdentityRules(allowed_subjects=("*",))])
async def test_no_rules_no_certificate(desk: Desk, rules: IdentityRules | None) -> None:
    """A vendor's request without rules is refused, as is its kur with any."""
    request = await desk.request()
    if rules is not None:
        authenticated = request.authenticated
        assert isinstance(authenticated, AuthenticatedMessage)
        kur = AuthenticatedMessage(
            replace(request.message, body_type=BodyType.kur),
            authenticated.signer,
            authenticated.domain,
            authenticated.path,
            verification._SEAL,
        )
        request = AuthenticatedRequest(
            kur, request.request, request.requested_key_der, request.possession, cmp_requests._SEAL
        )
    assert refusal(request, rules) == (NotAuthorized, "R71")


@pytest.mark.requirement(62)
async def test_the_vendor_certificates_key(desk: Desk) -> None:
    """same_key = False refuses the key of the protecting certificate and no other."""
    rules = IdentityRules(allowed_subjects=("*",), same_key=False)
    authorize(await desk.request(), rules, None, may_complete=True)
    factory = desk.world.device()
    desk.key = factory.private_key
    request = await desk.request(credential=cmp_credential(factory))
    assert refusal(request, rules) == (TemplateRefused, "R62")


@pytest.mark.requirement(145)
@pytest.mark.parametrize("use", list(InventoryUse))
async def test_who_is_listed(desk: Desk, use: InventoryUse) -> None:
    """Only required wants an entry; a disabled one always refuses."""
    rules = IdentityRules(allowed_subjects=("*",), inventory=use)
    request = await desk.request()
    if use is InventoryUse.required:
        assert refusal(request, rules) == (NotAuthorized, "R145")
    else:
        authorize(request, rules, None, may_complete=True)
    authorize(request, rules, InventoryEntry(), may_complete=True)
    assert refusal(request, rules, InventoryEntry(enabled=False)) == (NotAuthorized, "R145")


@pytest.mark.requirement(145)
async def test_a_listed_subject_wins(desk: Desk) -> None:
    """The entry's subject is given; its names too, or the rules' where it has none."""
    rules = IdentityRules(allowed_subjects=("*",), san_template=("dns:{cn}.example.net",))
    request = await desk.request()
    entry = InventoryEntry(subject="CN=site-{cn},O=Operator")
    authorized = authorize(request, rules, entry, may_complete=True)
    assert rfc4514(authorized.subject_der) == "CN=site-enb-1,O=Operator"
    assert authorized.san == ("dns:enb-1.example.net",)
    entry = replace(entry, san=("dns:*.site.example.net", "ip:192.0.2.1"))
    authorized = authorize(request, rules, entry, may_complete=True)
    assert authorized.san == entry.san


@pytest.mark.requirement(145)
async def test_a_listed_subject_is_certified_as_it_is_listed(desk: Desk) -> None:
    """What only means the same is another name to whoever reads it."""
    entry = InventoryEntry(subject="CN=enb-1,O=Operator")
    for asked, completed in (("CN=enb-1,O=Operator", False), ("CN=ENB-1,O=Operator", True)):
        request = await desk.request(requests.template(desk.key, asked))
        authorized = authorize(request, IdentityRules(), entry, may_complete=True)
        assert authorized.completed is completed
        assert rfc4514(authorized.subject_der) == "CN=enb-1,O=Operator"
    assert refusal(request, IdentityRules(), entry, may_complete=False) == (NotAuthorized, "R75")


@pytest.mark.parametrize("name", ["dns:ä.example.net", "ip:host", "dn:x", "dns:", "nonsense"])
async def test_listed_names_that_are_none(desk: Desk, name: str) -> None:
    """An inventory line that holds no subjectAltName refuses its device, and breaks nothing."""
    entry = InventoryEntry(subject="CN=site", san=(name,))
    assert refusal(await desk.request(), IdentityRules(), entry) == (NotAuthorized, "R141")


@pytest.mark.requirement(145)
def test_what_identifies_a_device(desk: Desk) -> None:
    """Each placeholder can be the key."""
    (domain,) = desk.world.endpoint.vendors
    signer = desk.vendor_credential(
        (NameOID.SERIAL_NUMBER, "SN-1"), (NameOID.ORGANIZATIONAL_UNIT_NAME, "RAN")
    ).certificate
    found = {
        name: vendor_identity(domain, IdentityRules(identity_from=name), signer)
        for name in ("cn", "serial_number", "o", "ou", "serial")
    }
    assert found == {
        "cn": "enb-1",
        "serial_number": "SN-1",
        "o": "ACME Radio",
        "ou": "RAN",
        "serial": f"{signer.serial_number:x}",
    }
    with pytest.raises(NotAuthorized, match="has no serial_number"):
        vendor_identity(domain, IdentityRules(), desk.vendor_credential().certificate)


@pytest.mark.requirement(67, 141, 145)
async def test_what_a_vendor_certificate_says_twice_it_does_not_say(desk: Desk) -> None:
    """Neither of two serial numbers is looked up, put into a name, or matched; what stands there once is."""
    credential = desk.vendor_credential(
        (NameOID.SERIAL_NUMBER, "SN-1"), (NameOID.SERIAL_NUMBER, "SN-2")
    )
    (domain,) = desk.world.endpoint.vendors
    with pytest.raises(NotAuthorized, match="has no serial_number, or more than one"):
        vendor_identity(domain, IdentityRules(), credential.certificate)
    made = IdentityRules(subject=SubjectRule.replace, subject_template="CN={serial_number}")
    names = IdentityRules(
        subject=SubjectRule.replace,
        subject_template="CN={cn}",
        san_template=("dns:{serial_number}",),
    )
    request = await desk.request(credential=credential)
    assert refusal(request, made) == (NotAuthorized, "R141")
    assert refusal(request, names) == (NotAuthorized, "R141")
    for name in ("SN-1", "SN-2"):
        asked = await desk.request(requests.template(desk.key, f"CN={name}"), credential=credential)
        allowed = IdentityRules(allowed_subjects=("CN={serial_number}",))
        assert refusal(asked, allowed) == (NotAuthorized, "R67")
    asked = await desk.request(requests.template(desk.key, "CN=enb-1"), credential=credential)
    authorize(asked, IdentityRules(allowed_subjects=("CN={cn}",)), None, may_complete=False)


# --- patterns -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "pattern, allowed, refused",
    [
        ("*", ["CN=a,OU=b,O=c", ""], []),
        ("", [""], ["CN=a"]),
        ("CN=*", ["CN=a"], ["CN=a,O=c", "O=c,CN=a"]),
        ("CN=*,O=c", ["CN=a,O=c", "CN=a\\,OU=b,O=c"], ["CN=a,O=d", "CN=a,OU=b,O=c"]),
        ("CN=*,O=c", [], ["CN=a+OU=b,O=c", "CN=a\\\\,OU=b,O=c"]),
        ("CN=*+OU=*,O=c", ["CN=a+OU=b,O=c"], []),
        ("CN=*,*,O=c", ["CN=a,OU=b,O=c"], []),
        ("CN=a\\,b", ["CN=a\\,b"], []),
        ("CN=enb-?", ["CN=enb-1"], ["CN=enb-12"]),
        ("CN=enb-?,O=c", [], ["CN=enb-,O=c"]),
        ("CN=enb-[0-9]", ["CN=enb-7"], []),
        ("CN={cn}", ["CN=enb-1"], ["CN=enb-2"]),
        ("CN={cn}*", ["CN=enb-1.ran"], []),
        ("{ou}", [], ["CN=enb-1"]),
    ],
)
async def test_patterns_over_subjects(
    desk: Desk, pattern: str, allowed: list[str], refused: list[str]
) -> None:
    """A wildcard stays within its attribute; "*" alone allows everything."""
    rules = IdentityRules(allowed_subjects=(pattern,), allowed_sans=("*",))
    for subject in (*allowed, *refused):
        san = [] if subject else ["dns:enb-1.example.net"]
        request = await desk.request(requests.template(desk.key, subject, san))
        if subject in allowed:
            assert not authorize(request, rules, None, may_complete=True).completed
        else:
            assert refusal(request, rules) == (NotAuthorized, "R67")


@pytest.mark.parametrize(
    "text, pattern, fit",
    [
        ("OU=Lab+CN=Core-1,O=X", "CN=core-*+OU=*,O=x", True),
        ("CN=Core-1+OU=Lab,O=X", "OU=*+CN=core-*,O=x", True),
        ("OU=Lab,CN=Core-1,O=X", "CN=core-*,OU=*,O=x", False),
        ("OU=Lab,CN=Core-1,O=X", "CN=core-*+OU=*,O=x", False),
        ("OU=a\\\\,CN=b+O=c", "O=c+CN=b,OU=*", False),
        ("OU=a\\\\,O=c+CN=b", "OU=a\\\\,CN=*+O=c", True),
        ("CN=a\\+b", "CN=b\\+a", False),
    ],
)
def test_attributes_of_one_rdn_have_no_order(text: str, pattern: str, fit: bool) -> None:
    """It follows from their octets: a device changes it by writing one of them as another type of string."""
    assert fits_alike(text, pattern) is fit


@pytest.mark.parametrize("again", ["enb-1", "ENB-1", "enb-2"])
def test_an_attribute_twice_in_one_rdn_is_not_certified(again: str) -> None:
    """Who compares may see one, who reads the text sees two (X.501 9.3); in two RDNs it is no fault."""
    one, other = (
        asn1.tlv(0x30, asn1.oid_der(CN), asn1.tlv(tag, value.encode()))
        for tag, value in ((0x13, "enb-1"), (0x0C, again))
    )
    with pytest.raises(TemplateRefused, match="twice"):
        require_certifiable(asn1.tlv(0x30, asn1.tlv(0x31, *sorted((one, other)))), None)
    require_certifiable(asn1.tlv(0x30, asn1.tlv(0x31, one), asn1.tlv(0x31, other)), None)


# --- names as text --------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=16)


@given(value=TEXTS)
@pytest.mark.requirement(67, 141)
def test_a_value_in_a_template_stays_one_value(value: str) -> None:
    """Any text, escaped into an RFC 4514 string, is read back as that one attribute."""
    assume(len(value.encode()) <= 64)
    name = from_rfc4514(f"CN={escape_rfc4514(value)},OU=RAN,O=Operator")
    assert attributes(name) == [(ORG, "Operator"), (OU, "RAN"), (CN, value)]


@given(st.lists(st.tuples(st.sampled_from([CN, ORG, OU, SERIAL_NUMBER]), TEXTS), max_size=4))
@pytest.mark.requirement(67)
def test_the_text_of_a_name_is_unambiguous(pairs: Sequence[tuple[str, str]]) -> None:
    """A name's text, read again, has the same attributes: no two different names look alike."""
    # PrintableString and the 64 octets of a CN are the reader's limits, not the writer's.
    assume(all(oid not in (CN, SERIAL_NUMBER) or len(v.encode()) <= 64 for oid, v in pairs))
    assume(all(oid != SERIAL_NUMBER or v.isascii() for oid, v in pairs))
    name = asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(0x0C, text.encode())))
            for oid, text in pairs
        ),
    )
    assert attributes(from_rfc4514(rfc4514(name))) == list(pairs)


@pytest.mark.requirement(1)
def test_an_empty_rdn_is_no_name() -> None:
    """A RelativeDistinguishedName without attributes would vanish in a text, so that it is refused."""
    operator = asn1.content(asn1.element(from_rfc4514("O=Operator")))
    with pytest.raises(MalformedMessage):
        rfc4514(asn1.tlv(0x30, operator, asn1.tlv(0x31)))


@pytest.mark.requirement(67)
def test_a_value_that_is_no_text_does_not_look_like_one() -> None:
    """A BIT STRING is written in hexadecimal, and a text that spells the same is escaped (RFC 4514 2.4)."""
    bits, text = b"\x03\x02\x00\x01", b"\x0c\x09#03020001"
    names = [
        asn1.tlv(0x30, asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der("2.5.4.45"), value)))
        for value in (bits, text)
    ]
    assert [rfc4514(name) for name in names] == ["2.5.4.45=#03020001", "2.5.4.45=\\#03020001"]


def test_texts_of_names_agree_with_the_library() -> None:
    """For names that X.520 allows, the text is the one that `cryptography` writes."""
    for text in ("CN=enb-1,O=A\\, B", "CN=a+OU=b,C=DE", "2.5.4.5=1,DC=net", "CN=\\#x\\ ", ""):
        name = x509.Name.from_rfc4514_string(text)
        assert rfc4514(name.public_bytes()) == name.rfc4514_string()


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "cn, what, pattern, good, bad",
    [
        (
            r"enb1\,O\=Evil",
            "subjectAltName",
            "dn:CN={cn},O=X",
            r"dn:CN=enb1\,O\=Evil,O=X",
            "dn:CN=enb1,O=Evil,O=X",
        ),
        ("\uff0a", "subjectAltName", "dn:CN={cn},O=X", None, "dn:CN=enb2,O=X"),
        ("*", "subject", "CN={cn},O=X", "CN=*,O=X", "CN=enb2,O=X"),
    ],
)
def test_what_a_pattern_is_filled_with_fits_itself_alone(
    vendor_pki: pki.VendorPKI, cn: str, what: str, pattern: str, good: str | None, bad: str
) -> None:
    """Neither another RDN nor a wildcard comes of it, also where it becomes one when names are compared."""
    signer = cmp_certificate(vendor_pki.sub.issue(f"CN={cn},O=ACME").certificate)
    with pytest.raises(NotAuthorized, match="is not allowed"):
        check_allowed(bad, (pattern,), what, signer)
    if good is not None:
        check_allowed(good, (pattern,), what, signer)


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "cn, pattern, asked",
    [
        ("evil.com/x", "uri:https://{cn}.example.net/*", "uri:https://evil.com/x.example.net/a"),
        ("evil.com#", "uri:https://{cn}.example.net/", "uri:https://evil.com#.example.net/"),
        ("evil.com:1/", "uri:https://{cn}.example.net/", "uri:https://evil.com:1/.example.net/"),
        ("evil.com?", "uri:https://{cn}.example.net/", "uri:https://evil.com?.example.net/"),
        ("u@evil.com/", "uri:https://{cn}.example.net/", "uri:https://u@evil.com/.example.net/"),
        ("x@evil.com;", "uri:sip:{cn}@example.net", "uri:sip:x@evil.com;@example.net"),
        ("x@evil.com,y", "uri:mailto:{cn}@example.net", "uri:mailto:x@evil.com,y@example.net"),
        ("x%40evil.com%2Cy", "uri:mailto:{cn}@a.net", "uri:mailto:x%40evil.com%2Cy@a.net"),
        ("x@evil.com", "email:{cn}", "email:x@evil.com"),
    ],
)
def test_what_a_pattern_is_filled_with_ends_no_host(
    vendor_pki: pki.VendorPKI, cn: str, pattern: str, asked: str
) -> None:
    """A vendor certificate puts into a pattern what it may put into a template."""
    text = escape_rfc4514(cn)
    signer = cmp_certificate(vendor_pki.sub.issue(f"CN={text},O=ACME").certificate)
    with pytest.raises(NotAuthorized, match="is not allowed"):
        check_allowed(asked, (pattern,), "subjectAltName", signer)
    good = cmp_certificate(vendor_pki.sub.issue("CN=SN_1.a-b:c,O=ACME").certificate)
    check_allowed("dns:SN_1.a-b:c.example.net", ("dns:{cn}.example.net",), "subjectAltName", good)


@pytest.mark.requirement(141)
def test_no_directory_name_is_made_a_wildcard(vendor_pki: pki.VendorPKI) -> None:
    """As no other name is."""
    for cn, good in (("enb1", True), ("*.example.net", False)):
        signer = cmp_certificate(vendor_pki.sub.issue(f"CN={cn},O=ACME").certificate)
        if good:
            assert san_from(["dn:CN={cn},O=X"], DeviceValues(signer), signer)
        else:
            with pytest.raises(NotAuthorized, match="has no cn"):
                san_from(["dn:CN={cn},O=X"], DeviceValues(signer), signer)
