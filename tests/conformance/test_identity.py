"""Which identity a device gets: kept, derived, replaced, looked up, or refused (RFC 9483 4.1, 5.2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import (
    CertId,
    CertTemplate,
    Control,
    Extension,
    SignaturePOP,
    cert_id_der,
    cert_req_messages,
    cert_request_der,
    popo_signing_key_input,
)
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import (
    attributes,
    directory_name,
    from_rfc4514,
    general_names,
    general_names_der,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.settings import InventoryUse, SubjectRule, Variant
from tests.support import pki, requests
from tests.support.asserts import assert_refused, assert_served
from tests.support.credentials import cmp_credential
from tests.support.harness import ANY_IDENTITY, ListedDevices, World

CN, ORG, OU = "2.5.4.3", "2.5.4.10", "2.5.4.11"


class Scene:
    """Worlds with one vendor and one operator, differing in their rules."""

    def __init__(self, vendor: pki.VendorPKI, operator: pki.OperatorPKI) -> None:
        self.vendor, self.operator = vendor, operator
        self.key = pki.make_key("p256")

    def world(self, identity: IdentityRules = ANY_IDENTITY, **options: Any) -> World:
        return World.make(self.vendor, self.operator, identity=identity, **options)

    def device(self, *values: str, serial_number: str = "") -> Credential:
        """A vendor credential with these common names, the least specific first."""
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ACME Radio")]
        if serial_number:
            names.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial_number))
        names += [x509.NameAttribute(NameOID.COMMON_NAME, value) for value in values]
        return cmp_credential(self.vendor.sub.issue(x509.Name(names)))

    def old(self, **options: Any) -> Credential:
        """An operator certificate, as an earlier enrolment gave it."""
        return cmp_credential(self.operator.device(**options))

    async def ask_for(
        self, world: World, device: Credential, *subject: tuple[str, str], **options: Any
    ) -> bytes:
        """An ir for a subject of these attributes, in the order of their encoding."""
        asked = requests.template(
            self.key, None, options.pop("san", ()), subject_der=encoded(subject)
        )
        return await requests.request(world, device, self.key, asked, **options)

    async def ask_for_none(
        self,
        world: World,
        device: Credential,
        *,
        body_type: BodyType = BodyType.ir,
        signer: Any = None,
        asked: CertTemplate | None = None,
        cert_req_id: int = 0,
    ) -> bytes:
        """A request without a subject; `signer` is a key that wrongly makes the proof."""
        input_der = popo_signing_key_input(device.sender_der, requests.spki(self.key))
        popo_der = await requests.popo(input_der, signer or self.key, input_der=input_der)
        return await requests.request(
            world,
            device,
            self.key,
            asked or requests.template(self.key, None),
            body_type=body_type,
            popo_der=popo_der,
            cert_req_id=cert_req_id,
        )


def encoded(subject: Sequence[tuple[str, str]]) -> bytes:
    """A Name of (dotted OID, text), whatever the text."""
    return asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(0x0C, text.encode())))
            for oid, text in subject
        ),
    )


def received_template(world: World) -> CertTemplate:
    """The template as the CA got it."""
    (request,) = cert_req_messages(world.ca.messages[-1].body_content)
    return request.template


def received_pop(world: World) -> SignaturePOP | str | None:
    """The proof of possession as the CA got it."""
    (request,) = cert_req_messages(world.ca.messages[-1].body_content)
    return request.pop


@pytest.fixture
def scene(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> Scene:
    return Scene(vendor_pki, operator_pki)


# --- the subject a device asks for ------------------------------------------------------------------------------


@pytest.mark.requirement(67, 112)
async def test_nothing_configured_allows_nothing(scene: Scene) -> None:
    """Without patterns no subject can be asked for."""
    world = scene.world(IdentityRules())
    der = await scene.ask_for(world, scene.device("ENB-1"), (CN, "ENB-1"))
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R67", detail="nothing is configured"
    )


HOSTILE = [
    "*",
    "?",
    "[a-z]",
    "[!x]",
    "x,O=Evil",
    "x+OU=Evil",
    "#0c0141",
    " x",
    "x ",
    "a=b",
    'a"b\\c;<d>',
    "\\",
    "\\,",
    "{cn}",
    "{serial}",
    "%s",
    "Zürich-Ω-中-\U0001f4e1",
    "x" * 64,
]
"""Common names of vendor certificates that mean something to a pattern, a template or a name."""


@pytest.mark.requirement(67)
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_placeholder_stands_for_itself(scene: Scene, name: str) -> None:
    """A vendor name full of wildcards, commas or escapes allows exactly itself."""
    world = scene.world(IdentityRules(allowed_subjects=("CN={cn},O=Operator",)))
    device = scene.device(name)
    for other in ("victim", "a", "x", "", name.strip() + "y", "*"):
        if other != name:
            der = await scene.ask_for(world, device, (ORG, "Operator"), (CN, other))
            await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    for more in ((ORG, "Operator"), (OU, "Evil"), (CN, name)), ((ORG, "Evil"), (CN, "x")):
        der = await scene.ask_for(world, device, *more)
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    der = await scene.ask_for(world, device, (ORG, "Operator"), (CN, name))
    await assert_served(world, der)
    assert received_template(world).subject_der == encoded(((ORG, "Operator"), (CN, name)))


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "subject",
    [
        ((ORG, "Operator"), (CN, "y.ran.example.net"), (OU, "Core"), (CN, "x")),
        ((ORG, "Operator"), (OU, "Core"), (CN, "x.ran.example.net")),
        ((ORG, "Operator"), (CN, "x.ran.example.org")),
        ((ORG, "Operator"),),
        ((CN, "x.ran.example.net"),),
        ((CN, "x.ran.example.net"), (ORG, "Operator")),
        ((ORG, "operator"), (CN, "x.ran.example.net")),
    ],
)
async def test_a_wildcard_stays_in_its_attribute(
    scene: Scene, subject: tuple[tuple[str, str], ...]
) -> None:
    """A pattern of two attributes allows neither more nor fewer, nor another order."""
    world = scene.world(IdentityRules(allowed_subjects=("CN=*.ran.example.net,O=Operator",)))
    der = await scene.ask_for(world, scene.device("ENB-1"), *subject)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(67)
async def test_a_wildcard_stays_in_its_rdn(scene: Scene) -> None:
    """An RDN of two attributes does not pass for one."""
    world = scene.world(IdentityRules(allowed_subjects=("CN=*,O=Operator",)))
    two = x509.RelativeDistinguishedName(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "x"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Core"),
        ]
    )
    operator = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Operator")
    name = x509.Name([x509.RelativeDistinguishedName([operator]), two]).public_bytes()
    asked = requests.template(scene.key, subject_der=name)
    der = await requests.request(world, scene.device("ENB-1"), scene.key, asked)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(67)
@pytest.mark.parametrize("text", ["", "x" * 65, "x" * 3_000, "\0", "\x7f", "\ufeffx"])
async def test_a_subject_that_no_certificate_should_have(scene: Scene, text: str) -> None:
    """Whatever stands in a name is refused by policy, not stumbled over."""
    world = scene.world(IdentityRules(allowed_subjects=("CN=enb-?",)))
    der = await scene.ask_for(world, scene.device("ENB-1"), (CN, text))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(67)
@pytest.mark.parametrize("value_hex", ["030200ff", "0500", "02012a", "130161", "1e020061"])
async def test_a_subject_of_another_string_type(scene: Scene, value_hex: str) -> None:
    """Types that are no text are hexadecimal in a pattern's eyes; another encoding of a text is the text."""
    world = scene.world(IdentityRules(allowed_subjects=("CN=b",)))
    attribute = asn1.tlv(0x30, asn1.oid_der(CN), bytes.fromhex(value_hex))
    name = asn1.tlv(0x30, asn1.tlv(0x31, attribute))
    asked = requests.template(scene.key, subject_der=name)
    der = await requests.request(world, scene.device("ENB-1"), scene.key, asked)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(67)
async def test_a_placeholder_the_certificate_lacks(scene: Scene) -> None:
    """A pattern whose placeholder has no value allows nothing; the next one may."""
    patterns = ("CN={serial_number}", "CN={cn}")
    world = scene.world(IdentityRules(allowed_subjects=patterns))
    device = scene.device("ENB-1")
    der = await scene.ask_for(world, device, (CN, ""))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    await assert_served(world, await scene.ask_for(world, device, (CN, "ENB-1")))


# --- the subject the RA makes -----------------------------------------------------------------------------------


@pytest.mark.requirement(77, 141)
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_derived_subject_has_the_attributes_of_its_template(
    scene: Scene, name: str
) -> None:
    """Whatever the vendor put into its CN becomes one value, nothing else."""
    template = "CN={cn},OU=RAN,O=Operator"
    world = scene.world(IdentityRules(subject=SubjectRule.derive, subject_template=template))
    await assert_served(world, await scene.ask_for_none(world, scene.device(name)))
    subject = received_template(world).subject_der
    assert subject is not None
    assert attributes(subject) == [(ORG, "Operator"), (OU, "RAN"), (CN, name)]
    assert received_pop(world) == "raVerified"


@pytest.mark.requirement(141)
@pytest.mark.parametrize(
    "name, template",
    [
        ("x" * 64, "CN={cn}.ran.example.net"),
        ("ENB-1", "CN={serial_number}"),
        ("ENB-1", ""),
        ("ENB-1", "CN={cn"),
        ("ENB-1", "CN={0}"),
        ("ENB-1", "CN={}"),
        ("ENB-1", "CN={cn.__class__.nothing}"),
        ("ENB-1", "no name"),
    ],
)
async def test_a_subject_that_cannot_be_made(scene: Scene, name: str, template: str) -> None:
    """A template that yields no subject for this device refuses it, and says why in the log."""
    world = scene.world(IdentityRules(subject=SubjectRule.derive, subject_template=template))
    der = await scene.ask_for_none(world, scene.device(name))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R141")


@pytest.mark.requirement(141)
async def test_derive_keeps_a_subject_that_is_asked_for(scene: Scene) -> None:
    """derive is for templates without subject; others are checked and kept, POP and all."""
    world = scene.world(
        IdentityRules(
            subject=SubjectRule.derive,
            subject_template="CN={cn}",
            allowed_subjects=("CN=enb-1.ran.example.net",),
        )
    )
    device = scene.device("ENB-1")
    der = await scene.ask_for(world, device, (CN, "enb-1.ran.example.net"))
    await assert_served(world, der)
    assert world.ca.messages[0].body_der == PKIMessage.from_der(der).body_der
    der = await scene.ask_for(world, device, (CN, "enb-2.ran.example.net"))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(77, 141)
async def test_replace_overrules_what_is_asked_for(scene: Scene) -> None:
    """replace sets the subject whatever the template says, and leaves the rest of the request alone."""
    world = scene.world(
        IdentityRules(
            subject=SubjectRule.replace,
            subject_template="CN={cn}.ran.example.net,O=Operator",
            san_template=("dns:{cn}.ran.example.net", "uri:urn:serial:{serial}"),
        ),
    )
    device = scene.device("enb-1")
    usage = Extension(OID.keyUsage, True, bytes.fromhex("03020780"))
    asked = requests.template(
        scene.key,
        "CN=victim.example.net",
        ["dns:victim.example.net"],
        extensions=(usage,),
        version=2,
        not_after=datetime(2027, 1, 1, tzinfo=UTC),
    )
    token = Control("1.3.6.1.5.5.7.5.1.1", asn1.encode("token"))
    der = await requests.request(world, device, scene.key, asked, controls=(token,), cert_req_id=7)
    await assert_served(world, der)
    (received,) = cert_req_messages(world.ca.messages[0].body_content)
    sans = ("dns:enb-1.ran.example.net", f"uri:urn:serial:{device.certificate.serial_number:x}")
    assert (received.cert_req_id, received.pop, received.controls) == (7, "raVerified", (token,))
    assert received.template == CertTemplate(
        subject_der=from_rfc4514("CN=enb-1.ran.example.net,O=Operator"),
        spki_der=requests.spki(scene.key),
        not_after=asked.not_after,
        extensions=(
            usage,
            Extension(OID.subjectAltName, False, general_names_der(sans)),
        ),
    )


@pytest.mark.requirement(74, 77)
async def test_what_is_asked_for_is_what_is_given(scene: Scene) -> None:
    """A request that asks for the very identity it gets keeps its own proof of possession."""
    world = scene.world(
        IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn},O=Operator")
    )
    der = await scene.ask_for(world, scene.device("ENB-1"), (ORG, "Operator"), (CN, "ENB-1"))
    await assert_served(world, der)
    assert world.ca.messages[0].body_der == PKIMessage.from_der(der).body_der


@pytest.mark.requirement(77, 78, 141)
@pytest.mark.parametrize("rule", [SubjectRule.derive, SubjectRule.replace])
@pytest.mark.parametrize("inventory", [InventoryUse.none, InventoryUse.required])
async def test_a_broken_proof_is_never_turned_into_ra_verified(
    scene: Scene, rule: SubjectRule, inventory: InventoryUse
) -> None:
    """Where the RA would complete the template, it verifies the device's proof first."""
    listed = ListedDevices({("acme", "ENB-1"): InventoryEntry(subject="CN=enb-1.ran.example.net")})
    world = scene.world(
        IdentityRules(
            subject=rule,
            subject_template="CN={cn}",
            inventory=inventory,
            identity_from="cn",
        ),
        inventory=listed,
    )
    device = scene.device("ENB-1")
    thief = pki.make_key("p256")
    der = await scene.ask_for_none(world, device, signer=thief)
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R54")
    wrong = await requests.popo(cert_request_der(requests.template(scene.key)), thief)
    der = await requests.request(world, device, scene.key, popo_der=wrong)
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R54")
    assert listed.asked == []
    await assert_served(world, await scene.ask_for_none(world, device))


# --- subjectAltName ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "allowed, asked",
    [
        ((), "dns:enb-1.ran.example.net"),
        (("dns:{cn}.ran.example.net",), "dns:enb-2.ran.example.net"),
        (("dns:*.ran.example.net",), "dns:enb-1.example.net"),
        (("dns:*.ran.example.net",), "uri:enb-1.ran.example.net"),
        (("dns:*.ran.example.net",), "dns:*.ran.example.net"),
        (("*",), "dns:*.ran.example.net"),
        (("ip:192.0.2.*",), "ip:198.51.100.1"),
        (("dns:{serial_number}",), "dns:"),
    ],
)
async def test_a_subject_alt_name_that_is_not_allowed(
    scene: Scene, allowed: tuple[str, ...], asked: str
) -> None:
    """Each name must fit a pattern, and none may be a wildcard itself."""
    world = scene.world(IdentityRules(allowed_subjects=("*",), allowed_sans=allowed))
    kind, _, value = asked.partition(":")
    san_der = asn1.tlv(0x30, asn1.tlv(0x82, b"")) if not value else general_names_der([asked])
    asked_template = requests.template(
        scene.key, extensions=(Extension(OID.subjectAltName, False, san_der),)
    )
    der = await requests.request(world, scene.device("enb-1"), scene.key, asked_template)
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R67", detail=f"subjectAltName '{kind}:"
    )


@pytest.mark.requirement(67)
async def test_one_name_of_two_that_is_not_allowed(scene: Scene) -> None:
    """An allowed name does not cover for the other; both allowed are kept in their order."""
    allowed = ("dns:{cn}.ran.example.net", "ip:192.0.2.*")
    world = scene.world(IdentityRules(allowed_subjects=("*",), allowed_sans=allowed))
    device = scene.device("enb-1")
    good = ["ip:192.0.2.7", "dns:enb-1.ran.example.net"]
    for sans in ([*good, "dns:victim.example.net"], ["email:a@example.net", *good]):
        asked = requests.template(scene.key, san=sans)
        der = await requests.request(world, device, scene.key, asked)
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")
    asked = requests.template(scene.key, san=good)
    await assert_served(world, await requests.request(world, device, scene.key, asked))
    assert received_template(world).extension(OID.subjectAltName) == (requests.san_extension(*good))


@pytest.mark.requirement(67)
async def test_names_of_other_kinds_are_matched_as_they_are_written(scene: Scene) -> None:
    """directoryName and otherName are allowed by a pattern that names them, and by no other."""
    world = scene.world(IdentityRules(allowed_subjects=("*",), allowed_sans=("dns:*",)))
    other = asn1.tlv(0xA0, asn1.oid_der("1.3.6.1.4.1.311.20.2.3"), asn1.tlv(0xA0, b"\x0c\x01a"))
    for name in (directory_name(from_rfc4514("CN=victim")), other):
        extension = Extension(OID.subjectAltName, False, asn1.tlv(0x30, name))
        asked = requests.template(scene.key, extensions=(extension,))
        der = await requests.request(world, scene.device("enb-1"), scene.key, asked)
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(67, 141)
@pytest.mark.parametrize("name", ["*", "*.core", "x,y", "Zürich", "a b", "a/b", "x@y", "a\nb", " "])
async def test_a_vendor_name_that_is_no_host_name(scene: Scene, name: str) -> None:
    """A subjectAltName is not made of a vendor name that would be a wildcard, or no name at all."""
    world = scene.world(
        IdentityRules(
            subject=SubjectRule.derive,
            subject_template="CN={cn}",
            san_template=("dns:{cn}.ran.example.net",),
        )
    )
    der = await scene.ask_for_none(world, scene.device(name))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R141")


@pytest.mark.requirement(141)
async def test_a_derived_address_must_be_one(scene: Scene) -> None:
    """An ip: template takes an address out of the vendor certificate, and refuses anything else."""
    world = scene.world(
        IdentityRules(
            subject=SubjectRule.derive, subject_template="CN={cn}", san_template=("ip:{cn}",)
        )
    )
    der = await scene.ask_for_none(world, scene.device("192.0.2.256"))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R141")
    await assert_served(world, await scene.ask_for_none(world, scene.device("2001:db8::1")))
    extension = received_template(world).extension(OID.subjectAltName)
    assert extension is not None
    assert general_names(extension.value) == ("ip:2001:db8::1",)


# --- inventory and vendors --------------------------------------------------------------------------------------

LISTED = InventoryEntry(subject="CN=site-7,O=Operator", san=("dns:site-7.ran.example.net",))


@pytest.mark.requirement(145)
@pytest.mark.parametrize(
    "use, entry, served",
    [
        (InventoryUse.optional, None, True),
        (InventoryUse.optional, InventoryEntry(), True),
        (InventoryUse.optional, InventoryEntry(enabled=False), False),
        (InventoryUse.required, None, False),
        (InventoryUse.required, InventoryEntry(), True),
        (InventoryUse.required, InventoryEntry(enabled=False), False),
        (InventoryUse.none, InventoryEntry(enabled=False), True),
    ],
)
async def test_the_inventory_admits_or_refuses(
    scene: Scene, use: InventoryUse, entry: InventoryEntry | None, served: bool
) -> None:
    """required wants an entry, optional only respects one; a disabled entry refuses in both."""
    listed = ListedDevices({} if entry is None else {("acme", "SN-1"): entry})
    identity = IdentityRules(allowed_subjects=("*",), allowed_sans=("*",), inventory=use)
    world = scene.world(identity, inventory=listed)
    device = scene.device("ENB-1", serial_number="SN-1")
    der = await scene.ask_for(world, device, (CN, "enb-1"))
    if served:
        await assert_served(world, der)
    else:
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R145")
    assert listed.asked == ([] if use is InventoryUse.none else [("acme", "SN-1")])


@pytest.mark.requirement(145)
async def test_a_device_without_what_the_inventory_goes_by(scene: Scene) -> None:
    """A vendor certificate without serialNumber cannot be looked up by it."""
    identity = IdentityRules(allowed_subjects=("*",), inventory=InventoryUse.optional)
    world = scene.world(identity, inventory=ListedDevices())
    der = await scene.ask_for(world, scene.device("ENB-1"), (CN, "enb-1"))
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R145", detail="serial_number"
    )


@pytest.mark.requirement(145)
async def test_an_inventory_that_is_not_there(scene: Scene) -> None:
    """Rules that need an inventory refuse everybody while there is none."""
    identity = IdentityRules(
        allowed_subjects=("*",), inventory=InventoryUse.optional, identity_from="cn"
    )
    world = scene.world(identity)
    der = await scene.ask_for(world, scene.device("ENB-1"), (CN, "enb-1"))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R145")


@pytest.mark.requirement(77, 141, 145)
@pytest.mark.parametrize("rule", list(SubjectRule))
async def test_the_inventory_knows_best(scene: Scene, rule: SubjectRule) -> None:
    """The recorded subject and names are given whatever the rules and the device say."""
    identity = IdentityRules(
        subject=rule,
        subject_template="CN=other",
        allowed_subjects=("*",),
        inventory=InventoryUse.required,
        identity_from="cn",
    )
    world = scene.world(identity, inventory=ListedDevices({("acme", "ENB-1"): LISTED}))
    device = scene.device("ENB-1")
    for der in (
        await scene.ask_for_none(world, device),
        await scene.ask_for(world, device, (CN, "enb-1"), san=["dns:victim.example.net"]),
    ):
        await assert_served(world, der)
        assert received_template(world).subject_der == from_rfc4514(LISTED.subject)
        extension = received_template(world).extension(OID.subjectAltName)
        assert extension == requests.san_extension(*LISTED.san)
        assert received_pop(world) == "raVerified"


@pytest.mark.requirement(145)
async def test_a_vendor_that_is_disabled(scene: Scene) -> None:
    """No device of a disabled vendor is served, whatever it asks for."""
    world = scene.world(IdentityRules(allowed_subjects=("*",), allowed_sans=("*",), enabled=False))
    device = scene.device("ENB-1")
    der = await scene.ask_for(world, device, (CN, "enb-1"))
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R145", detail="vendor acme is disabled"
    )
    der = await scene.ask_for(world, device, (CN, "enb-1"), body_type=BodyType.cr)
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R145", body_type=BodyType.cp
    )


@pytest.mark.requirement(145)
async def test_a_vendor_without_rules(scene: Scene) -> None:
    """A domain that nobody wrote identity rules for serves nobody."""
    world = scene.world(endpoint={"identities": {}})
    der = await scene.ask_for(world, scene.device("ENB-1"), (CN, "enb-1"))
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R71")


# --- cr and kur with an operator certificate ----------------------------------------------------------------------

SAN = ("dns:enb1.example.net", "ip:192.0.2.1")


async def renewal(
    scene: Scene,
    world: World,
    old: Credential,
    *,
    subject: str | None = None,
    san: Sequence[str] = (),
    named: CertId | None = None,
    body_type: BodyType = BodyType.kur,
    **fields: Any,
) -> bytes:
    """A kur or cr; without a subject the old certificate's is asked for."""
    fields.setdefault("subject_der", old.certificate.subject_der)
    if subject is not None:
        fields["subject_der"] = from_rfc4514(subject)
    controls = () if named is None else (Control(OID.oldCertID, cert_id_der(named)),)
    asked = requests.template(scene.key, None, san, **fields)
    return await requests.request(
        world, old, scene.key, asked, body_type=body_type, controls=controls
    )


@pytest.mark.requirement(67, 70, 112)
@pytest.mark.parametrize(
    "body_type, fail_info, rule",
    [(BodyType.cr, "notAuthorized", "R67"), (BodyType.kur, "badCertTemplate", "R70")],
)
@pytest.mark.parametrize(
    "subject, san",
    [
        ("CN=victim.example.net,O=Example Operator", SAN),
        ("CN=enb1.example.net", SAN),
        ("CN=enb1.example.net,OU=x,O=Example Operator", SAN),
        (None, ("dns:victim.example.net",)),
        (None, (*SAN, "dns:victim.example.net")),
        (None, SAN[:1]),
    ],
)
async def test_another_identity_than_the_old_certificates(
    scene: Scene,
    body_type: BodyType,
    fail_info: str,
    rule: str,
    subject: str | None,
    san: tuple[str, ...],
) -> None:
    """An operator certificate gets its own subject and names again, no more and no less."""
    world, old = scene.world(), scene.old(san=SAN)
    der = await renewal(scene, world, old, subject=subject, san=san, body_type=body_type)
    await requests.assert_refused_in_body(
        world, der, fail_info, rule=rule, body_type=BodyType(body_type + 1)
    )


@pytest.mark.requirement(67, 70)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
async def test_the_same_identity_in_another_order_or_encoding(
    scene: Scene, body_type: BodyType
) -> None:
    """The names count, not their order; the subject counts, not its string type or case."""
    world, old = scene.world(), scene.old(san=SAN)
    subject = "CN=ENB1.example.net,O=example  operator"
    der = await renewal(scene, world, old, subject=subject, san=SAN[::-1], body_type=body_type)
    await assert_served(world, der)


@pytest.mark.requirement(68, 112)
@pytest.mark.parametrize("fault", ["serialNumber", "issuer", "issuer kind", "vendor"])
async def test_an_old_cert_id_of_another_certificate(scene: Scene, fault: str) -> None:
    """oldCertID must name the certificate that protects the kur: badCertId in the kup."""
    world, old = scene.world(), scene.old()
    issuer, serial = directory_name(old.certificate.issuer_der), old.certificate.serial_number
    match fault:
        case "serialNumber":
            named = CertId(issuer, serial + 1)
        case "issuer":
            named = CertId(directory_name(from_rfc4514("CN=Other CA")), serial)
        case "issuer kind":
            named = CertId(asn1.tlv(0x82, b"ca.example.net"), serial)
        case _:
            factory = scene.device("ENB-1").certificate
            named = CertId(directory_name(factory.issuer_der), factory.serial_number)
    der = await renewal(scene, world, old, named=named)
    await requests.assert_refused_in_body(
        world, der, "badCertId", rule="R68", body_type=BodyType.kup
    )


@pytest.mark.requirement(69, 113)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
async def test_an_old_certificate_that_has_expired(scene: Scene, body_type: BodyType) -> None:
    """An expired certificate renews nothing, from its last second on."""
    world = scene.world()
    end = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    old = scene.old(not_before=datetime(2025, 1, 1, tzinfo=UTC), not_after=end)
    assert world.clock() == end
    await assert_served(world, await renewal(scene, world, old, body_type=body_type))
    world.clock.move(seconds=1)
    der = await renewal(scene, world, old, body_type=body_type)
    await assert_refused(world, der, "signerNotTrusted", rule="R22")


@pytest.mark.requirement(71, 113)
async def test_a_certificate_of_another_operator(scene: Scene) -> None:
    """The right names under another operator's root renew nothing."""
    world = scene.world()
    other = cmp_credential(pki.make_operator_pki(scene.operator.name).device())
    for body_type in (BodyType.kur, BodyType.cr):
        der = await renewal(scene, world, other, body_type=body_type)
        answer = await assert_refused(world, der, "signerNotTrusted")
        assert answer.body_type is BodyType.error


@pytest.mark.requirement(71, 113)
async def test_an_operator_certificate_does_not_enrol_anew(scene: Scene) -> None:
    """ir is for vendor certificates; who has an operator certificate uses cr or kur."""
    world, old = scene.world(), scene.old()
    der = await renewal(scene, world, old, body_type=BodyType.ir)
    await assert_refused(world, der, "signerNotTrusted", rule="R21")


async def without_subject(
    scene: Scene, world: World, old: Credential, body_type: BodyType = BodyType.kur
) -> bytes:
    return await scene.ask_for_none(world, old, body_type=body_type)


@pytest.mark.requirement(59, 70, 75, 77)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.kur])
async def test_a_renewal_without_subject_is_completed(scene: Scene, body_type: BodyType) -> None:
    """The CA gets the old certificate's subject and names, in a kur with oldCertID, and raVerified."""
    world, old = scene.world(), scene.old(san=SAN)
    await assert_served(world, await without_subject(scene, world, old, body_type))
    (received,) = cert_req_messages(world.ca.messages[0].body_content)
    critical, san_der = old.certificate.extensions[OID.subjectAltName]
    assert received.template == CertTemplate(
        subject_der=old.certificate.subject_der,
        spki_der=requests.spki(scene.key),
        extensions=(Extension(OID.subjectAltName, critical, san_der),),
    )
    assert received.pop == "raVerified"
    old_id = CertId(directory_name(old.certificate.issuer_der), old.certificate.serial_number)
    assert received.old_cert_id() == (old_id if body_type is BodyType.kur else None)


@pytest.mark.requirement(70)
async def test_a_renewal_keeps_names_of_every_kind(scene: Scene) -> None:
    """Names that cannot be written as text are copied octet for octet."""
    world = scene.world()
    upn = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")
    location = x509.DirectoryName(x509.Name.from_rfc4514_string("CN=site"))
    names = x509.SubjectAlternativeName([upn, location])
    old = scene.old(extensions=[(names, False)])
    await requests_reach_the_ca(world, await without_subject(scene, world, old))
    extension = received_template(world).extension(OID.subjectAltName)
    assert extension is not None
    assert extension.value == names.public_bytes()


async def requests_reach_the_ca(world: World, der: bytes) -> None:
    """Post a request for names that the scripted CA cannot issue; what it received is what counts."""
    before = len(world.ca.received)
    await world.ask(der)
    assert len(world.ca.received) == before + 1


@pytest.mark.requirement(78)
async def test_a_renewal_with_a_broken_proof_is_not_completed(scene: Scene) -> None:
    """The operator certificate does not make up for a proof that does not verify."""
    world, old = scene.world(), scene.old()
    der = await scene.ask_for_none(world, old, body_type=BodyType.kur, signer=pki.make_key("p256"))
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R54", body_type=BodyType.kup)


@pytest.mark.requirement(75)
@pytest.mark.parametrize("variant", [Variant.nested, Variant.forward])
async def test_a_renewal_that_goes_up_untouched_is_not_completed(
    scene: Scene, variant: Variant
) -> None:
    """Where the CA sees the device's own protection, nothing in its message may change."""
    world, old = scene.world(upstream={"kur": variant}), scene.old()
    der = await without_subject(scene, world, old)
    world.ca.script = lambda answer: answer.reject(text="no subject")
    await world.ask(der)
    (received,) = world.ca.received
    assert der == received if variant is Variant.forward else der in received


@pytest.mark.requirement(67, 70)
async def test_a_renewal_in_order(scene: Scene) -> None:
    """A renewal in order ends with a certificate for the old subject, with the old names and a new key."""
    world, old = scene.world(), scene.old(san=SAN)
    named = CertId(directory_name(old.certificate.issuer_der), old.certificate.serial_number)
    await assert_served(world, await renewal(scene, world, old, san=SAN, named=named))
    issued: Certificate = world.ca.issued[0]
    assert issued.subject_der == old.certificate.subject_der
    assert issued.spki_der == requests.spki(scene.key)
    assert issued.subject_alt_name_der == old.certificate.subject_alt_name_der
