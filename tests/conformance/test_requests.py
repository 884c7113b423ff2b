"""Certificate requests that are not in order: templates and proof of possession (RFC 9483 4.1, RFC 4211)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, x25519

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import (
    RA_VERIFIED_POPO_DER,
    CertTemplate,
    Control,
    Extension,
    cert_req_messages,
    cert_request_der,
    popo_signing_key_input,
    signature_popo_der,
)
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage, body
from ra_gateway.cmp.names import NULL_DN, directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import SubjectRule
from tests.support import requests
from tests.support.asserts import assert_refused
from tests.support.credentials import cmp_credential
from tests.support.harness import ANY_IDENTITY, World
from tests.support.pki import OperatorPKI, VendorPKI, make_key

STRICT = HeaderRules(strictness=Strictness.strict)


@pytest.fixture
def strict_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki, rules=STRICT)


@pytest.fixture(scope="module")
def device(vendor_pki: VendorPKI) -> Credential:
    return cmp_credential(vendor_pki.device("ENB-1"))


@pytest.fixture(scope="module")
def key() -> Any:
    return make_key("p256")


async def assert_issued(world: World, der: bytes) -> PKIMessage:
    """Check that a request is answered with a certificate; return what the CA got."""
    answer = await world.ask(der)
    assert [event.outcome for event in world.events] == ["issued"], world.events
    assert answer.body_type is BodyType.ip
    return world.ca.messages[0]


# --- one request, certReqId 0 -----------------------------------------------------------------------------------


@pytest.mark.requirement(46, 112, "T40")
@pytest.mark.parametrize("count", [0, 2])
async def test_a_message_with_another_number_of_requests_than_one(
    world: World, device: Credential, key: Any, count: int
) -> None:
    """None or two CertReqMsg, each in order by itself: refused in the ip."""
    request = cert_request_der(requests.template(key))
    one = asn1.tlv(0x30, request, await requests.popo(request, key))
    der = await requests.message(world, device, requests.requests_body(*[one] * count))
    await requests.assert_refused_in_body(world, der, "badRequest", rule="R46")


@pytest.mark.requirement(47, 112)
@pytest.mark.parametrize("cert_req_id", [-1, 1, 355])
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_another_cert_req_id_than_zero(
    strict_world: World, device: Credential, key: Any, body_type: BodyType, cert_req_id: int
) -> None:
    """To the letter of RFC 9483, a certReqId other than 0 is refused in ip, cp and kup."""
    world = strict_world
    if body_type is BodyType.kur:
        device = cmp_credential(world.operator.device())
    der = await requests.request(world, device, key, body_type=body_type, cert_req_id=cert_req_id)
    await requests.assert_refused_in_body(
        world,
        der,
        "badRequest",
        rule="R47",
        body_type=BodyType(body_type + 1),
        cert_req_id=cert_req_id,
    )


@pytest.mark.requirement(64, 113)
async def test_one_cert_profile_at_most(world: World, device: Credential, key: Any) -> None:
    """Two names in certProfile are an error; one goes up to the CA as it came."""
    names = [asn1.encode(name) for name in ("gNB", "eNB")]

    def profiles(*names: bytes) -> InfoTypeAndValue:
        return InfoTypeAndValue(OID.certProfile, asn1.tlv(0x30, *names))

    two = await requests.request(world, device, key, general_info=(profiles(*names),))
    await assert_refused(world, two, "badRequest", rule="R64")
    world.events.clear()
    one = await requests.request(world, device, key, general_info=(profiles(names[0]),))
    received = await assert_issued(world, one)
    assert received.header.cert_profiles == ("gNB",)


@pytest.mark.requirement(64, 113)
@pytest.mark.parametrize("value_der", [None, b"\x05\x00", b"\x30\x03\x02\x01\x05"])
async def test_a_malformed_cert_profile(
    world: World, device: Credential, key: Any, value_der: bytes | None
) -> None:
    """A certProfile that is no list of names is an error."""
    info = InfoTypeAndValue(OID.certProfile, value_der)
    der = await requests.request(world, device, key, general_info=(info,))
    rule = "R64" if value_der is None else "R1"
    await assert_refused(world, der, "badDataFormat", rule=rule)


@pytest.mark.requirement(9, 142)
async def test_pkcs10_is_not_taken(world: World, device: Credential) -> None:
    """Where body_types lacks p10cr, no CSR of any version or signature gets through."""
    der = await requests.message(world, device, body(BodyType.p10cr, asn1.tlv(0x30)))
    await assert_refused(world, der, "badRequest", rule="R142")


# --- the template -----------------------------------------------------------------------------------------------


@pytest.mark.requirement(48, 112)
@pytest.mark.parametrize("version", [0, 1, 3])
async def test_another_version_than_v3(
    world: World, device: Credential, key: Any, version: int
) -> None:
    """A template may say version 2 (v3), or nothing."""
    der = await requests.request(world, device, key, requests.template(key, version=version))
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R48")


@pytest.mark.requirement(48)
async def test_version_2_is_v3(world: World, device: Credential, key: Any) -> None:
    """A template that says version 2 is taken."""
    await assert_issued(
        world, await requests.request(world, device, key, requests.template(key, version=2))
    )


def with_reserved_fields(key: Any) -> bytes:
    """A CertRequest whose template sets what only a CA may choose."""
    uid = asn1.bit_string(b"\x01")
    reserved = replace(
        requests.template(key).build(),
        serial_number=4711,
        signing_alg=asn1.decode(
            structures.AlgorithmIdentifier, SIGNATURE_ALGORITHMS["ecdsa-sha256"].der
        ),
        issuer_uid=uid,
        subject_uid=uid,
    )
    return asn1.encode(structures.CertRequest(cert_req_id=0, cert_template=reserved, controls=None))


@pytest.mark.requirement(49, 112)
async def test_fields_that_are_the_cas_own_strict(
    strict_world: World, device: Credential, key: Any
) -> None:
    """serialNumber, signingAlg and the UIDs are refused where RFC 9483 is read to the letter."""
    der = await requests.request(strict_world, device, key, cert_req_der=with_reserved_fields(key))
    await requests.assert_refused_in_body(
        strict_world,
        der,
        "badCertTemplate",
        rule="R49",
        detail="serialNumber, signingAlg, issuerUID, subjectUID",
    )


@pytest.mark.requirement(49)
async def test_fields_that_are_the_cas_own_lenient(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, device: Credential, key: Any
) -> None:
    """Elsewhere they are ignored, and a template that the RA completes has them no more."""
    replacing = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn},O=Operator")
    world = World.make(vendor_pki, operator_pki, identity=replacing)
    received = await assert_issued(
        world, await requests.request(world, device, key, cert_req_der=with_reserved_fields(key))
    )
    assert cert_req_messages(received.body_content)[0].template.reserved == ()
    assert world.ca.issued[0].serial_number != 4711


@pytest.mark.requirement(50)
async def test_a_template_that_names_another_issuer(
    strict_world: World, device: Credential, key: Any
) -> None:
    """Clients copy the vendor's CA into the template; that alone is no reason to refuse."""
    issuer = device.certificate.issuer_der
    await assert_issued(
        strict_world,
        await requests.request(
            strict_world, device, key, requests.template(key, issuer_der=issuer)
        ),
    )


@pytest.mark.requirement(51, 112)
async def test_a_template_that_names_nobody_strict(
    strict_world: World, device: Credential, key: Any
) -> None:
    """The NULL-DN without subjectAltName is refused in the ip."""
    der = await requests.request(
        strict_world, device, key, requests.template(key, subject_der=NULL_DN)
    )
    await requests.assert_refused_in_body(strict_world, der, "badCertTemplate", rule="R51")


@pytest.mark.requirement(51, 112)
@pytest.mark.parametrize("subject_der", [NULL_DN, None])
async def test_a_template_that_names_nobody(
    world: World, device: Credential, key: Any, subject_der: bytes | None
) -> None:
    """Where subjects are only ever kept, the NULL-DN or none at all is refused in the ip."""
    asked = requests.template(key, subject_der=subject_der)
    popo_der = None
    if subject_der is None:
        input_der = popo_signing_key_input(device.sender_der, requests.spki(key))
        popo_der = await requests.popo(input_der, key, input_der=input_der)
    der = await requests.request(world, device, key, asked, popo_der=popo_der)
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R51")


@pytest.mark.requirement(52)
async def test_a_template_that_names_itself_by_san(
    strict_world: World, device: Credential, key: Any
) -> None:
    """The NULL-DN with a subjectAltName is taken, and goes up as it came."""
    asked = requests.template(key, subject_der=NULL_DN, san=["dns:enb-1.ran.example.net"])
    der = await requests.request(strict_world, device, key, asked)
    received = await assert_issued(strict_world, der)
    assert received.body_der == PKIMessage.from_der(der).body_der
    assert strict_world.ca.issued[0].subject_der == NULL_DN


@pytest.mark.requirement(52, 67)
async def test_a_name_by_san_that_policy_does_not_allow(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, device: Credential, key: Any
) -> None:
    """Patterns that all want a CN do not allow the NULL-DN."""
    identity = replace(ANY_IDENTITY, allowed_subjects=("CN=*",))
    world = World.make(vendor_pki, operator_pki, identity=identity)
    asked = requests.template(key, subject_der=NULL_DN, san=["dns:enb-1.ran.example.net"])
    der = await requests.request(world, device, key, asked)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(60, 112, "T42")
@pytest.mark.parametrize("how", ["absent", "empty"])
async def test_a_template_without_a_key(
    world: World, device: Credential, key: Any, how: str
) -> None:
    """Keys are not generated here: no publicKey, or only a hint at its algorithm, is refused."""
    empty = asn1.tlv(
        0x30,
        asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.2.1"), asn1.oid_der("1.2.840.10045.3.1.7")),
        b"\x03\x01\x00",
    )
    asked = requests.template(key, spki_der=empty if how == "empty" else None)
    der = await requests.request(world, device, key, asked, popo_der=b"")
    await requests.assert_refused_in_body(
        world, der, "badCertTemplate", rule="R60", detail="publicKey"
    )


def _key(name: str) -> Any:
    match name:
        case "RSA-1024":
            return make_key("rsa1024")
        case "P-224":
            return ec.generate_private_key(ec.SECP224R1())
        case "secp256k1":
            return ec.generate_private_key(ec.SECP256K1())
        case "brainpool":
            return ec.generate_private_key(ec.BrainpoolP256R1())
        case "DSA":
            return dsa.generate_private_key(1024)  # noqa: S505 - refused for its kind
        case _:
            return x25519.X25519PrivateKey.generate()


@pytest.mark.requirement(61, 112)
@pytest.mark.parametrize("name", ["RSA-1024", "P-224", "secp256k1", "brainpool", "DSA", "X25519"])
async def test_a_key_that_is_not_good_enough(
    world: World, device: Credential, key: Any, name: str
) -> None:
    """Keys too short, on another curve or of another kind are refused before POP is looked at."""
    asked = requests.template(_key(name))
    der = await requests.request(world, device, key, asked, popo_der=b"")
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R61")


@pytest.mark.requirement(61)
@pytest.mark.parametrize("spoiled", ["point", "algorithm"])
async def test_a_key_that_is_none(world: World, device: Credential, key: Any, spoiled: str) -> None:
    """A point that is not on its curve, or an unknown algorithm, is no key."""
    octets = bytearray(requests.spki(key))
    if spoiled == "point":
        octets[-1] ^= 0x01
    else:
        octets[octets.index(b"\x2a\x86\x48\xce\x3d\x02\x01") + 6] = 0x09
    asked = requests.template(key, spki_der=bytes(octets))
    der = await requests.request(world, device, key, asked)
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R61")


@pytest.mark.requirement(54, 61)
@pytest.mark.parametrize("octet", [b"\x00", b"\xff"])
@pytest.mark.parametrize("length", [0, 1, 256, 257])
async def test_an_rsa_key_that_nothing_verifies_with(
    world: World, device: Credential, octet: bytes, length: int
) -> None:
    """An even modulus is no key either; whatever is said to be its signature is a bad proof."""
    key = make_key("rsa2048")
    octets = bytearray(requests.spki(key))
    octets[-6] &= 0xFE  # the modulus ends before the five octets of the exponent, 65537
    asked = requests.template(key, spki_der=bytes(octets))
    algorithm = SIGNATURE_ALGORITHMS["rsa-pkcs1-sha256"].der
    popo_der = signature_popo_der(algorithm, octet * length)
    der = await requests.request(world, device, key, asked, popo_der=popo_der)
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R54")


@pytest.mark.requirement(62)
@pytest.mark.parametrize("same_key", [True, False])
async def test_the_vendor_certificates_own_key(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, same_key: bool
) -> None:
    """Whether the pre-provisioned key may be certified is the policy's to say (TS 33.310 9.2)."""
    world = World.make(vendor_pki, operator_pki, identity=replace(ANY_IDENTITY, same_key=same_key))
    factory = world.device()
    der = await requests.request(world, cmp_credential(factory), factory.private_key)
    if same_key:
        await assert_issued(world, der)
    else:
        await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R62")


def _purpose(oid: str) -> Extension:
    return Extension(OID.extKeyUsage, False, asn1.tlv(0x30, asn1.oid_der(oid)))


def _usage(*bits: int) -> Extension:
    return Extension(OID.keyUsage, True, asn1.encode(asn1.named_bits(list(bits))))


POWERS = {
    "cA": Extension(OID.basicConstraints, True, bytes.fromhex("30030101ff")),
    "keyCertSign": _usage(0, 5),
    "cRLSign": _usage(6),
    "cmcRA": _purpose(OID.cmcRA),
    "cmcCA": _purpose(OID.cmcCA),
    "cmKGA": _purpose(OID.cmKGA),
}


@pytest.mark.requirement(63, 112)
@pytest.mark.parametrize("power", POWERS)
async def test_the_powers_of_a_ca_or_an_ra(
    world: World, device: Credential, key: Any, power: str
) -> None:
    """No base station may ask for a certificate that can issue, or vouch for others."""
    asked = requests.template(key, extensions=(POWERS[power],))
    der = await requests.request(world, device, key, asked)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R63")


@pytest.mark.requirement(63)
async def test_extensions_of_an_end_entity(world: World, device: Credential, key: Any) -> None:
    """cA FALSE, digitalSignature and an ordinary purpose are fine."""
    extensions = (
        Extension(OID.basicConstraints, True, b"\x30\x00"),
        _usage(0),
        _purpose("1.3.6.1.5.5.7.3.17"),
    )
    asked = requests.template(key, extensions=extensions)
    await assert_issued(world, await requests.request(world, device, key, asked))


@pytest.mark.requirement(63, 67)
async def test_an_extension_twice(world: World, device: Credential, key: Any) -> None:
    """An innocent subjectAltName does not hide a second one that a CA might read instead."""
    extensions = (requests.san_extension("dns:enb-1.ran.example.net"),)
    asked = requests.template(key, extensions=extensions, san=["dns:victim.example.net"])
    der = await requests.request(world, device, key, asked)
    await requests.assert_refused_in_body(
        world, der, "badCertTemplate", rule="RFC 5280 4.2", detail="twice"
    )


@pytest.mark.requirement(63, 67)
@pytest.mark.parametrize("where", ["regInfo", "controls"])
async def test_a_second_template(world: World, device: Credential, key: Any, where: str) -> None:
    """A template beside the template, which a CA would use instead, does not get past the checks."""
    smuggled = requests.template(key, "CN=victim.example.net", extensions=(POWERS["cA"],))
    if where == "regInfo":
        attribute = asn1.tlv(0x30, asn1.oid_der(OID.regInfoCertReq), cert_request_der(smuggled))
        der = await requests.request(world, device, key, reg_info_der=asn1.tlv(0x30, attribute))
    else:
        control = Control(OID.altCertTemplate, asn1.encode(smuggled.build()))
        der = await requests.request(world, device, key, controls=(control,))
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="RFC 4211 7.2")


# --- proof of possession ----------------------------------------------------------------------------------------


@pytest.mark.requirement(53, 112, "T43")
async def test_no_proof_of_possession(world: World, device: Credential, key: Any) -> None:
    """A signing key without popo is refused in the ip."""
    der = await requests.request(world, device, key, popo_der=b"")
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R53")


@pytest.mark.requirement(54, 112)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_a_proof_over_another_request(
    world: World, device: Credential, key: Any, body_type: BodyType
) -> None:
    """A signature over a CertRequest that asks for something else proves nothing: ip, cp, kup."""
    if body_type is BodyType.kur:
        device = cmp_credential(world.operator.device())
    other = cert_request_der(requests.template(key, "CN=other.example.net"))
    der = await requests.request(
        world, device, key, body_type=body_type, popo_der=await requests.popo(other, key)
    )
    await requests.assert_refused_in_body(
        world, der, "badPOP", rule="R54", body_type=BodyType(body_type + 1)
    )


@pytest.mark.requirement(54)
async def test_a_proof_by_another_key(world: World, device: Credential, key: Any) -> None:
    """Whoever holds another key holds nothing, be it of the same kind."""
    signed = cert_request_der(requests.template(key))
    popo_der = await requests.popo(signed, make_key("p256"))
    der = await requests.request(world, device, key, popo_der=popo_der)
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R54")


@pytest.mark.requirement(54)
@pytest.mark.parametrize("name", ["rsa-pkcs1-sha256", "ed25519", "ecdsa-sha384"])
async def test_a_proof_that_names_another_algorithm(
    world: World, device: Credential, key: Any, name: str
) -> None:
    """The algorithm must fit the key, and be the one that made the signature."""
    popo_der = await requests.popo(cert_request_der(requests.template(key)), key)
    actual = SIGNATURE_ALGORITHMS["ecdsa-sha256"].der
    named = SIGNATURE_ALGORITHMS[name].der
    changed = asn1.tlv(0xA1, asn1.content(asn1.element(popo_der)).replace(actual, named))
    der = await requests.request(world, device, key, popo_der=changed)
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R54")


@pytest.mark.requirement(54, 146)
async def test_a_proof_with_sha1(world: World, device: Credential, key: Any) -> None:
    """A proof whose hash is broken is refused although it verifies."""
    popo_der = await requests.popo(
        cert_request_der(requests.template(key)),
        key,
        algorithm=SIGNATURE_ALGORITHMS["ecdsa-sha1"],
    )
    der = await requests.request(world, device, key, popo_der=popo_der)
    await requests.assert_refused_in_body(world, der, "badAlg", rule="R146")


@pytest.mark.requirement(55)
@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048", "ed25519", "ed448", "mldsa44"])
async def test_a_proof_over_the_request_as_received(
    strict_world: World, device: Credential, kind: Any
) -> None:
    """Without poposkInput the whole CertRequest is signed, extensions and controls included."""
    key = make_key(kind)
    control = Control("1.3.6.1.5.5.7.5.1.1", asn1.encode("token"))
    asked = requests.template(key, san=["dns:enb-1.ran.example.net"])
    der = await requests.request(strict_world, device, key, asked, controls=(control,))
    received = await assert_issued(strict_world, der)
    assert received.body_der == PKIMessage.from_der(der).body_der


DERIVE = IdentityRules(subject=SubjectRule.derive, subject_template="CN={cn},O=Operator")


async def without_subject(
    world: World,
    device: Credential,
    key: Any,
    *,
    input_der: bytes | None = None,
    signer: Any = None,
    asked: CertTemplate | None = None,
) -> bytes:
    """An ir whose template has no subject, with poposkInput."""
    input_der = input_der or popo_signing_key_input(device.sender_der, requests.spki(key))
    popo_der = await requests.popo(input_der, signer or key, input_der=input_der)
    asked = asked or requests.template(key, None)
    return await requests.request(world, device, key, asked, popo_der=popo_der)


@pytest.fixture
def deriving(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki, identity=DERIVE)


@pytest.mark.requirement(56, 141, "T42", "T44")
async def test_a_proof_over_poposk_input(deriving: World, device: Credential, key: Any) -> None:
    """Without a subject, sender and key are signed; the RA then vouches for the proof."""
    received = await assert_issued(deriving, await without_subject(deriving, device, key))
    assert cert_req_messages(received.body_content)[0].pop == "raVerified"


@pytest.mark.requirement(56, 77, 78, 112, 141, "T44")
@pytest.mark.parametrize(
    "fault, rule",
    [
        ("other key", "R56"),
        ("other sender", "R56"),
        ("sender is no directoryName", "R56"),
        ("MAC", "R56"),
        ("signed by other key", "R54"),
        ("signature over the request", "R54"),
    ],
)
async def test_a_poposk_input_that_does_not_fit(
    deriving: World, device: Credential, key: Any, fault: str, rule: str
) -> None:
    """It must name the template's key and the protecting sender, and be what was signed."""
    own, signer = requests.spki(key), key
    input_der = popo_signing_key_input(device.sender_der, own)
    match fault:
        case "other key":
            signer = make_key("p256")
            input_der = popo_signing_key_input(device.sender_der, requests.spki(signer))
        case "other sender":
            other = directory_name(from_rfc4514("CN=ENB-2,O=ACME Radio"))
            input_der = popo_signing_key_input(other, own)
        case "sender is no directoryName":
            input_der = popo_signing_key_input(asn1.tlv(0x82, b"enb-1.example.net"), own)
        case "MAC":
            algorithm = asn1.tlv(0x30, asn1.oid_der(OID.passwordBasedMac))
            mac = asn1.tlv(0x30, algorithm, b"\x03\x02\x00\x01")
            input_der = asn1.tlv(0x30, mac, own)
        case "signed by other key":
            signer = make_key("p256")
    der = await without_subject(deriving, device, key, input_der=input_der, signer=signer)
    if fault == "signature over the request":
        signed = cert_request_der(requests.template(key, None))
        popo_der = await requests.popo(signed, key, input_der=input_der)
        der = await requests.request(
            deriving, device, key, requests.template(key, None), popo_der=popo_der
        )
    await requests.assert_refused_in_body(deriving, der, "badPOP", rule=rule)


@pytest.mark.requirement(55, 56)
async def test_a_poposk_input_where_there_must_be_none(
    world: World, device: Credential, key: Any
) -> None:
    """With subject and key in the template, the CertRequest is to be signed and nothing else."""
    der = await without_subject(world, device, key, asked=requests.template(key))
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R56")


@pytest.mark.requirement(56)
async def test_a_poposk_input_strict(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, device: Credential, key: Any
) -> None:
    """RFC 9483 has no poposkInput; a domain that may omit the subject still may not use it there."""
    world = World.make(
        vendor_pki,
        operator_pki,
        rules=STRICT,
        identity=DERIVE,
        vendor_domain={"quirks": frozenset({"no_subject"})},
    )
    der = await without_subject(world, device, key)
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R56")


@pytest.mark.requirement(57, 59, 112)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_ra_verified_by_a_device(
    world: World, device: Credential, key: Any, body_type: BodyType
) -> None:
    """Only an RA may say that it verified possession: notAuthorized in ip, cp, kup."""
    if body_type is BodyType.kur:
        device = cmp_credential(world.operator.device())
    der = await requests.request(
        world, device, key, body_type=body_type, popo_der=RA_VERIFIED_POPO_DER
    )
    await requests.assert_refused_in_body(
        world, der, "notAuthorized", rule="R57", body_type=BodyType(body_type + 1)
    )


@pytest.mark.requirement(72, 112, "T43")
@pytest.mark.parametrize(
    "popo_hex, name", [("a203810100", "keyEncipherment"), ("a303810101", "keyAgreement")]
)
async def test_proof_by_decryption(
    world: World, device: Credential, popo_hex: str, name: str
) -> None:
    """Indirect proof (encrCert, challengeResp) is not offered: badPOP."""
    key = make_key("rsa2048")
    der = await requests.request(world, device, key, popo_der=bytes.fromhex(popo_hex))
    await requests.assert_refused_in_body(world, der, "badPOP", rule="R72", detail=name)


@pytest.mark.requirement(155)
async def test_a_refusal_leaves_the_device_free_to_try_again(
    world: World, device: Credential, key: Any
) -> None:
    """A refused request opens nothing: the same transactionID may be used by the corrected one."""
    transaction_id = bytes(range(16))
    wrong = await requests.request(world, device, key, popo_der=b"", transaction_id=transaction_id)
    await requests.assert_refused_in_body(world, wrong, "badPOP", rule="R53")
    world.events.clear()
    await assert_issued(
        world, await requests.request(world, device, key, transaction_id=transaction_id)
    )
    assert world.ca.issued[0].spki_der == requests.spki(key)
