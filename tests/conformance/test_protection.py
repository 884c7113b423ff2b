"""Who protects a message, with what, and whether it verifies (R13-R22, R24-R27, R32-R36, R139, R146)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    DEFAULT_ALGORITHMS,
    SIGNATURE_ALGORITHMS,
    AlgorithmPolicy,
    SignatureAlgorithm,
)
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import cert_req_messages, cert_req_msg_der, signature_popo_der
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import ANYONE, PKIMessage, assemble, body
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protected_part
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.values import Done, Send
from ra_gateway.keys import KeySigner
from ra_gateway.stores.memory import MemoryStore
from tests.support.answers import fail_names
from tests.support.asserts import (
    assert_refused,
    assert_served,
    resigned,
    signed_again,
    unsigned,
    with_extra_certs,
)
from tests.support.credentials import cmp_certificate
from tests.support.harness import MakeWorld, ManualClock, World
from tests.support.pki import (
    CMC_CA,
    CMC_RA,
    Authority,
    Credential,
    KeyKind,
    OperatorPKI,
    VendorPKI,
    certificate_der,
    make_key,
    make_root,
    make_vendor_pki,
)

STRICT = HeaderRules(strictness=Strictness.strict)


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    """Builds a world of the session's PKIs with the settings a test wants."""

    def make(**settings: Any) -> World:
        return World.make(settings.pop("vendor", vendor_pki), operator_pki, **settings)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


@pytest.fixture(params=["p256", "rsa2048"])
def device(request: pytest.FixtureRequest, vendor_pki: VendorPKI) -> Credential:
    """A base station with an ECDSA key, and one with an RSA key."""
    return vendor_pki.device("ENB-1", request.param)


def allowing(*names: str, min_rsa_bits: int = 2048) -> dict[str, Any]:
    """Settings of a vendor domain that also takes these algorithms."""
    policy = AlgorithmPolicy(DEFAULT_ALGORITHMS | set(names), min_rsa_bits=min_rsa_bits)
    return {"algorithms": policy}


async def ir(world: World, device: Credential, **options: Any) -> bytes:
    """A conforming ir of a base station."""
    return await world.enrollment(device, **options).request()


# --- R13, R14: protection there or not --------------------------------------------------------------------------


@pytest.mark.requirement(13, "T35")
async def test_an_unprotected_request_is_refused(world: World, device: Credential) -> None:
    """No protection at all: badMessageCheck."""
    der = unsigned(await ir(world, device), protection_alg_der=None)
    await assert_refused(world, der, "badMessageCheck", rule="R13")


@pytest.mark.requirement(14)
async def test_half_a_protection_is_refused(world: World, device: Credential) -> None:
    """protectionAlg without protection, and the reverse: badMessageCheck."""
    der = await ir(world, device)
    signature = PKIMessage.from_der(der).protection
    await assert_refused(world, unsigned(der), "badMessageCheck", rule="R14")
    without = unsigned(der, protection=signature, protection_alg_der=None)
    await assert_refused(world, without, "badMessageCheck", rule="R14")


# --- R15: every octet counts ------------------------------------------------------------------------------------


async def refuses_altered(world: World, der: bytes) -> str:
    """Send an altered message; return the failInfo, after checking that nothing came of it."""
    forwarded = len(world.ca.received)
    answer = await world.ask(der)
    assert answer.body_type in (BodyType.error, BodyType.ip)
    assert len(world.ca.received) == forwarded
    event = world.events[-1]
    assert (event.outcome, event.bug, bool(event.detail)) == ("refused", None, True)
    (name,) = fail_names(answer)
    return name


@pytest.mark.requirement(15)
async def test_one_flipped_bit_anywhere_is_refused(
    make_world: MakeWorld, device: Credential
) -> None:
    """One bit in any octet of header, body or signature: refused, never forwarded, nothing stored."""
    clock = ManualClock()
    store = MemoryStore(clock, max_transactions=1)
    world = make_world(clock=clock, store=store)
    der = await ir(world, device)
    extra_certs = asn1.tlv(0xA1, asn1.tlv(0x30, *PKIMessage.from_der(der).extra_certs))
    protected_octets = len(der.removesuffix(extra_certs))
    assert protected_octets < len(der)
    seen = set()
    for position, bit in itertools.product(range(protected_octets), range(0, 8, 2)):
        flipped = bytearray(der)
        # Even bits of even octets, odd ones of odd octets: every octet, and every bit somewhere.
        flipped[position] ^= 1 << (bit + position % 2)
        seen.add(await refuses_altered(world, bytes(flipped)))
    assert "badMessageCheck" in seen
    await store.ping()  # which it refuses as soon as it holds one transaction


def _values(message: PKIMessage) -> dict[str, bytes]:
    """Octets inside a message whose change leaves the DER in order."""
    (request,) = cert_req_messages(message.body_content)
    assert message.header.sender_nonce is not None
    assert message.header.transaction_id is not None
    assert request.template.spki_der is not None
    return {
        "transactionID": message.header.transaction_id,
        "senderNonce": message.header.sender_nonce,
        "publicKey": request.template.spki_der[-32:],
        "subject": b"enb-1.ran.example.net",
    }


@pytest.mark.requirement(15)
@pytest.mark.parametrize("field", ["transactionID", "senderNonce", "publicKey", "subject"])
async def test_a_changed_value_is_a_bad_message_check(
    world: World, device: Credential, field: str
) -> None:
    """What still parses after a bit was flipped fails at the signature, before anything else is looked at."""
    der = await ir(world, device)
    value = _values(PKIMessage.from_der(der))[field]
    changed = value[:-1] + bytes([value[-1] ^ 1])
    assert der.count(value) == 1
    await assert_refused(world, der.replace(value, changed), "badMessageCheck", rule="R15")


@pytest.mark.requirement(15)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda signature: b"",
        lambda signature: bytes(len(signature)),
        lambda signature: signature[:-1],
        lambda signature: signature + b"\x00",
        lambda signature: bytes([signature[0] ^ 1]) + signature[1:],
        lambda signature: signature[:-1] + bytes([signature[-1] ^ 0x80]),
        lambda signature: signature * 2,
        lambda signature: bytes.fromhex("3006020100020100"),
        lambda signature: bytes.fromhex("3006020101020101"),
    ],
    ids=["empty", "zeros", "short", "long", "first bit", "last bit", "twice", "r=s=0", "r=s=1"],
)
async def test_a_broken_signature_is_a_bad_message_check(
    world: World, device: Credential, spoil: Callable[[bytes], bytes]
) -> None:
    """A signature that does not verify is refused, whatever its form."""
    der = await ir(world, device)
    signature = PKIMessage.from_der(der).protection
    assert signature is not None
    await assert_refused(
        world, unsigned(der, protection=spoil(signature)), "badMessageCheck", rule="R15"
    )


@pytest.mark.requirement(15)
async def test_header_and_body_of_two_messages_do_not_mix(world: World, device: Credential) -> None:
    """The signature covers header and body together."""
    one = PKIMessage.from_der(await ir(world, device))
    other = PKIMessage.from_der(await ir(world, device))
    mixed = assemble(one.header_der, other.body_der, one.protection, one.extra_certs)
    await assert_refused(world, mixed, "badMessageCheck", rule="R15")


# --- R16, R32-R34, R139: extraCerts -----------------------------------------------------------------------------


@pytest.mark.requirement(16, 139, 32)
async def test_extra_certs_may_come_in_any_order(make_world: MakeWorld) -> None:
    """A vendor chain of four certificates is accepted in all orders, with or without its root."""
    root = make_root("CN=Deep Root,O=Deep")
    first = root.issue_ca("CN=Deep One,O=Deep")
    second = first.issue_ca("CN=Deep Two,O=Deep")
    device = second.issue("CN=ENB-4,O=Deep")
    world = make_world(vendor_domain={"anchors": (cmp_certificate(root.certificate),)})
    parts = [device.der, second.der, first.der, root.der]
    for order in itertools.permutations(parts):
        await assert_served(world, with_extra_certs(await ir(world, device), order))
    for order in itertools.permutations(parts[:3]):
        await assert_served(world, with_extra_certs(await ir(world, device), order))


@pytest.mark.requirement(16)
async def test_strangers_in_extra_certs_do_no_harm(
    world: World, device: Credential, foreign_vendor_pki: VendorPKI
) -> None:
    """Certificates of others, doubles and octets that are no certificate are passed over."""
    der = await ir(world, device)
    own = PKIMessage.from_der(der).extra_certs
    strange = foreign_vendor_pki.device()
    junk = [asn1.tlv(0x30), asn1.encode(5), asn1.tlv(0x30, strange.der)]
    for extra_certs in (
        [*own, strange.der, foreign_vendor_pki.sub.der, foreign_vendor_pki.root.der],
        [strange.der, foreign_vendor_pki.root.der, *own],
        [*own, *own, *own],
        [*junk, *own],
        [*own, *junk],
    ):
        fresh = await ir(world, device)
        await assert_served(world, with_extra_certs(fresh, extra_certs))


@pytest.mark.requirement(16)
@pytest.mark.parametrize("oid", ["2.5.29.14", "2.5.29.35", "2.5.29.15", "2.5.29.19", "2.5.29.37"])
async def test_a_stray_certificate_that_does_not_parse_does_no_harm(world: World, oid: str) -> None:
    """extraCerts is not protected: anybody on the line may add a certificate with broken extensions."""
    device = world.device()
    broken = broken_extension(world.vendor, oid)
    for places in itertools.permutations([broken, device.der, world.vendor.sub.der]):
        await assert_served(world, with_extra_certs(await ir(world, device), places))


def broken_extension(vendor: VendorPKI, oid: str) -> bytes:
    """A certificate of the vendor's CA by name, with one extension whose content is not what it should be."""
    return certificate_der(
        vendor.root.sign(
            vendor.sub.certificate.subject,
            make_key("p256").public_key(),
            subject_key_identifier=False,
            authority_key_identifier=False,
            key_usage=None,
            extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x05"), False)],
        )
    )


@pytest.mark.requirement(16)
async def test_more_certificates_than_are_read_are_refused(
    world: World, device: Credential
) -> None:
    """The number of extraCerts is limited; at the limit the message is still served."""
    der = await ir(world, device)
    own = PKIMessage.from_der(der).extra_certs
    filler = cmp_certificate(world.operator.root.certificate).der
    limit = world.endpoint.rules.extra_certs_max_count
    many = with_extra_certs(der, [*own, *[filler] * (limit - len(own) + 1)])
    await assert_refused(world, many, "badRequest", rule="RFC 9483 3.3")
    await assert_served(world, with_extra_certs(der, [*own, *[filler] * (limit - len(own))]))


@pytest.mark.requirement(16)
async def test_look_alikes_do_not_hide_the_real_chain(world: World, device: Credential) -> None:
    """As many look-alike CAs as an endpoint reads, in front of the real one, cost the device nothing."""
    der = await ir(world, device)
    own = PKIMessage.from_der(der).extra_certs
    count = world.endpoint.rules.extra_certs_max_count - len(own)
    fake_root = make_root(world.vendor.root.certificate.subject.rfc4514_string())
    options: dict[str, Any] = {"subject_key_identifier": False, "authority_key_identifier": False}
    name = world.vendor.sub.certificate.subject.rfc4514_string()
    fakes = [fake_root.issue_ca(name, **options).der for _ in range(count)]
    await assert_served(world, with_extra_certs(der, [*fakes, *own]))
    again = await ir(world, device)
    await assert_served(world, with_extra_certs(again, [own[0], *fakes, *own[1:]]))


@pytest.mark.requirement(32)
async def test_a_strict_endpoint_wants_the_signer_first(
    make_world: MakeWorld, device: Credential
) -> None:
    """RFC 9483 to the letter: the protecting certificate is the first of the extraCerts."""
    world = make_world(rules=STRICT)
    der = await ir(world, device)
    signer, *chain = PKIMessage.from_der(der).extra_certs
    swapped = with_extra_certs(der, [*chain, signer])
    await assert_refused(world, swapped, "badMessageCheck", rule="R32")
    await assert_served(world, der)


@pytest.mark.requirement(32)
async def test_of_twins_the_one_that_signed_is_found(world: World) -> None:
    """A renewed vendor certificate has its predecessor's name and key; the valid one counts."""
    old = world.device("ENB-1", not_after=datetime(2025, 1, 1, tzinfo=UTC))
    new = world.device("ENB-1", old.private_key)
    der = await ir(world, new)
    await assert_served(
        world, with_extra_certs(der, [old.der, *PKIMessage.from_der(der).extra_certs])
    )
    (stored,) = await world.store.find(PKIMessage.from_der(der).header.transaction_id or b"")
    assert stored.signer_der == new.der


@pytest.mark.requirement(33)
async def test_a_first_message_without_certificates_is_refused(
    world: World, device: Credential
) -> None:
    """Nobody can tell who signed it: badMessageCheck."""
    der = with_extra_certs(await ir(world, device), [])
    await assert_refused(world, der, "badMessageCheck", rule="R33")


@pytest.mark.requirement(33)
async def test_a_chain_without_its_intermediate(
    make_world: MakeWorld, device: Credential, vendor_pki: VendorPKI
) -> None:
    """signerNotTrusted, unless the domain knows the intermediate itself."""
    world = make_world()
    der = with_extra_certs(await ir(world, device), [device.der])
    await assert_refused(world, der, "signerNotTrusted", rule="R21")
    known = (cmp_certificate(vendor_pki.sub.certificate),)
    await assert_served(make_world(vendor_domain={"intermediates": known}), der)


async def confirmation(world: World, device: Credential) -> bytes:
    """Enrol as far as the certConf, and return it unsent."""
    enrollment = world.enrollment(device)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    return step.der


@pytest.mark.requirement(34)
async def test_a_cert_conf_needs_no_certificates(world: World, device: Credential) -> None:
    """The certificate of the first request is remembered."""
    enrollment = world.enrollment(device, extra_certs_in_cert_conf=False)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    assert PKIMessage.from_der(step.der).extra_certs == ()
    assert isinstance(await enrollment.receive(await world.post(step.der)), Done)


@pytest.mark.requirement(34)
async def test_what_a_cert_conf_carries_is_not_asked(
    world: World, device: Credential, foreign_vendor_pki: VendorPKI
) -> None:
    """The remembered certificate decides, not what is in the extraCerts of the certConf."""
    der = with_extra_certs(
        await confirmation(world, device), [foreign_vendor_pki.device().der, b"\x30\x00"]
    )
    assert (await world.ask(der)).body_type is BodyType.pkiconf


@pytest.mark.requirement(35)
@pytest.mark.parametrize("key", ["p256", "rsa2048"])
async def test_another_device_cannot_confirm(world: World, key: KeyKind) -> None:
    """A certConf signed by another credential is refused, even one with the same name from the same CA."""
    der = await confirmation(world, world.device("ENB-1", key))
    for other in (world.device("ENB-2", key), world.device("ENB-1", key)):
        own = cmp_certificate(other.certificate)
        changed = await signed_again(
            der,
            other,
            extra_certs=[other.der, world.vendor.sub.der],
            sender_der=directory_name(own.subject_der),
            sender_kid=own.subject_key_identifier,
        )
        await assert_refused(world, changed, "badMessageCheck", rule="R35")
        pretending = await signed_again(der, other, extra_certs=[other.der])
        await assert_refused(world, pretending, "badMessageCheck")
    assert (await world.ask(der)).body_type is BodyType.pkiconf


@pytest.mark.requirement(35, 105)
async def test_the_new_certificate_cannot_confirm_itself(world: World) -> None:
    """certConf is protected by the credential of the request, never by the new key."""
    device, new_key = world.device(), make_key("p256")
    enrollment = world.enrollment(device, new_key=new_key)
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    (issued,) = world.ca.issued
    der = await signed_again(
        step.der,
        new_key,
        extra_certs=[issued.der],
        sender_der=directory_name(issued.subject_der),
        sender_kid=issued.subject_key_identifier,
    )
    await assert_refused(world, der, "badMessageCheck", rule="R35")


PBM = asn1.tlv(
    0x30,
    asn1.oid_der(OID.passwordBasedMac),
    asn1.tlv(
        0x30,
        asn1.encode(bytes(16)),
        asn1.tlv(0x30, asn1.oid_der("2.16.840.1.101.3.4.2.1")),
        asn1.encode(10_000),
        asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.2.9")),
    ),
)
MACS = {
    "PasswordBasedMac": PBM,
    "PBMAC1": asn1.tlv(0x30, asn1.oid_der(OID.pbmac1), b"\x30\x00"),
    "DHBasedMac": asn1.tlv(0x30, asn1.oid_der(OID.dhBasedMac)),
    "KemBasedMac": asn1.tlv(0x30, asn1.oid_der(OID.kemBasedMac)),
}


@pytest.mark.requirement(35, 43, 142)
@pytest.mark.parametrize("algorithm_der", MACS.values(), ids=MACS.keys())
async def test_a_mac_is_the_wrong_integrity(
    world: World, device: Credential, algorithm_der: bytes
) -> None:
    """Shared secrets are not taken here, in a first message or in a later one: wrongIntegrity."""
    der = await ir(world, device)
    mac = unsigned(der, protection=bytes(32), extra_certs=[], protection_alg_der=algorithm_der)
    await assert_refused(world, mac, "wrongIntegrity", rule="R43")
    later = await confirmation(world, device)
    mac = unsigned(later, protection=bytes(32), protection_alg_der=algorithm_der)
    await assert_refused(world, mac, "wrongIntegrity")
    assert (await world.ask(later)).body_type is BodyType.pkiconf


# --- R17-R20: algorithms ----------------------------------------------------------------------------------------


async def protected_with(world: World, device: Credential, algorithm: SignatureAlgorithm) -> bytes:
    """An ir of a device, signed with an algorithm that fits its key."""
    return await signed_again(await ir(world, device), device, algorithm=algorithm)


KEY_OF_FAMILY: dict[str, KeyKind] = {
    "rsa": "rsa2048",
    "ec": "p256",
    "ed25519": "ed25519",
    "ed448": "ed448",
    "ml-dsa-44": "mldsa44",
    "ml-dsa-65": "mldsa65",
    "ml-dsa-87": "mldsa87",
}


@pytest.mark.requirement(17, 20)
@pytest.mark.parametrize("name", sorted(SIGNATURE_ALGORITHMS))
async def test_each_algorithm_is_taken_where_it_is_allowed_and_only_there(
    make_world: MakeWorld, name: str
) -> None:
    """The list of the trust domain decides, and the signature verifies in each case."""
    algorithm = SIGNATURE_ALGORITHMS[name]
    chain = {"ecdsa-sha256"}
    allowed = make_world(vendor_domain={"algorithms": AlgorithmPolicy(frozenset({name} | chain))})
    device = allowed.device("ENB-1", KEY_OF_FAMILY[algorithm.family])
    der = await protected_with(allowed, device, algorithm)
    # The POP needs an algorithm of its own, and the default of a new P-256 key is on the list.
    await assert_served(allowed, der)
    others = frozenset(SIGNATURE_ALGORITHMS) - {name} | (chain - {name})
    refusing = make_world(vendor_domain={"algorithms": AlgorithmPolicy(others)})
    if name not in chain:
        await assert_refused(refusing, der, "badAlg", rule="R17")


@pytest.mark.requirement(17, 146)
@pytest.mark.parametrize(
    "name, key",
    [
        ("rsa-pkcs1-md5", "rsa2048"),
        ("rsa-pkcs1-sha1", "rsa2048"),
        ("ecdsa-sha1", "p256"),
    ],
)
async def test_weak_hashes_are_refused_unless_the_domain_says_so(
    make_world: MakeWorld, name: str, key: KeyKind
) -> None:
    """SHA-1 and MD5 are badAlg although the signature verifies; a domain may allow one by its name."""
    world = make_world()
    device = world.device("ENB-1", key)
    der = await protected_with(world, device, SIGNATURE_ALGORITHMS[name])
    await assert_refused(world, der, "badAlg", rule="R17")
    await assert_served(make_world(vendor_domain=allowing(name)), der)


@pytest.mark.requirement(17)
@pytest.mark.parametrize(
    "oid",
    [
        "1.2.840.10040.4.3",  # id-dsa-with-sha1
        "1.2.840.113549.1.1.2",  # md2WithRSAEncryption
        "1.2.840.113549.1.1.1",  # rsaEncryption: a key, not a signature
        "1.2.840.10045.4.3.1",  # ecdsa-with-SHA224
        "2.16.840.1.101.3.4.2.1",  # sha256: a hash
        "1.3.6.1.5.5.7.6.2",  # id-alg-noSignature
        "1.3.6.1.4.1.99999.7",
    ],
)
async def test_unknown_algorithms_are_bad(world: World, device: Credential, oid: str) -> None:
    """An OID that nobody here can verify: badAlg."""
    identifier = asn1.tlv(0x30, asn1.oid_der(oid), b"\x05\x00")
    der = await signed_again(await ir(world, device), device, protection_alg_der=identifier)
    await assert_refused(world, der, "badAlg", rule="R17")


@pytest.mark.requirement(17)
@pytest.mark.parametrize(
    "identifier",
    [b"\x05\x00", b"\x30\x00", asn1.encode(5), asn1.tlv(0x30, asn1.encode(5))],
    ids=["NULL", "empty", "INTEGER", "no OID"],
)
async def test_an_algorithm_that_does_not_parse_is_refused(
    world: World, device: Credential, identifier: bytes
) -> None:
    """protectionAlg that is no AlgorithmIdentifier: badDataFormat."""
    der = await signed_again(await ir(world, device), device, protection_alg_der=identifier)
    await assert_refused(world, der, "badDataFormat", rule="R1")


@pytest.mark.requirement(18)
@pytest.mark.parametrize("claimed", sorted(DEFAULT_ALGORITHMS))
@pytest.mark.parametrize("key", ["p256", "rsa2048", "ed25519"])
async def test_an_algorithm_of_another_kind_than_the_key(
    world: World, key: KeyKind, claimed: str
) -> None:
    """RSA with an EC key and so on: badAlg. Another hash than was used: the signature does not verify."""
    algorithm = SIGNATURE_ALGORITHMS[claimed]
    device = world.device("ENB-1", key)
    der = await signed_again(await ir(world, device), device, protection_alg_der=algorithm.der)
    used = KeySigner(device.private_key).algorithm
    if used == algorithm:
        await assert_served(world, der)
    elif used.family == algorithm.family:
        await assert_refused(world, der, "badMessageCheck", rule="R15")
    else:
        await assert_refused(world, der, "badAlg", rule="R18")


@pytest.mark.requirement(19, 146)
async def test_a_short_rsa_key_is_refused_unless_the_domain_says_so(
    make_world: MakeWorld,
) -> None:
    """RSA-1024 in the protecting certificate: badAlg; a domain may set another minimum."""
    world = make_world()
    device = world.device("ENB-1", "rsa1024")
    der = await ir(world, device)
    await assert_refused(world, der, "badAlg", rule="R19")
    await assert_served(make_world(vendor_domain=allowing(min_rsa_bits=1024)), der)
    await assert_refused(
        make_world(vendor_domain=allowing(min_rsa_bits=1025)), der, "badAlg", rule="R19"
    )


@pytest.mark.requirement(19)
async def test_a_domain_may_want_longer_keys(make_world: MakeWorld) -> None:
    """With a minimum of 3072 bits RSA-2048 is refused."""
    world = make_world(vendor_domain=allowing(min_rsa_bits=3072))
    await assert_refused(
        world, await ir(world, world.device("ENB-1", "rsa2048")), "badAlg", rule="R19"
    )


@pytest.mark.requirement(17)
async def test_a_curve_off_the_list_is_refused(make_world: MakeWorld) -> None:
    """A domain that allows P-256 only refuses a P-384 device."""
    policy = AlgorithmPolicy(curves=frozenset({"P-256"}))
    world = make_world(vendor_domain={"algorithms": policy})
    await assert_refused(world, await ir(world, world.device("ENB-1", "p384")), "badAlg")


SHA1, SHA256, SHA384 = "1.3.14.3.2.26", "2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.2"
SHA224, MGF1 = "2.16.840.1.101.3.4.2.4", "1.2.840.113549.1.1.8"
NULL = b"\x05\x00"


def identifier(oid: str, parameters: bytes = b"") -> bytes:
    """An AlgorithmIdentifier."""
    return asn1.tlv(0x30, asn1.oid_der(oid), parameters)


def pss(
    hash_oid: str | None = SHA256,
    mask_oid: str | None = SHA256,
    salt: int | None = 32,
    *,
    trailer: int | None = None,
    generator: str = MGF1,
    null: bytes = NULL,
) -> bytes:
    """An AlgorithmIdentifier of RSASSA-PSS; None leaves a field to its DEFAULT."""
    parts = []
    if hash_oid:
        parts.append(asn1.tlv(0xA0, identifier(hash_oid, null)))
    if mask_oid:
        parts.append(asn1.tlv(0xA1, identifier(generator, identifier(mask_oid, null))))
    if salt is not None:
        parts.append(asn1.tlv(0xA2, asn1.encode(salt)))
    if trailer is not None:
        parts.append(asn1.tlv(0xA3, asn1.encode(trailer)))
    return identifier("1.2.840.113549.1.1.10", asn1.tlv(0x30, *parts))


async def pss_protected(
    world: World,
    device: Credential,
    algorithm_der: bytes,
    *,
    digest: hashes.HashAlgorithm,
    mask: hashes.HashAlgorithm | None = None,
    salt: int,
) -> bytes:
    """An ir really signed with RSASSA-PSS as told, under whatever AlgorithmIdentifier."""
    message = PKIMessage.from_der(await ir(world, device))
    header_der = replace(message.header, protection_alg_der=algorithm_der).to_der()
    assert isinstance(device.private_key, rsa.RSAPrivateKey)
    signature = device.private_key.sign(
        protected_part(header_der, message.body_der),
        padding.PSS(padding.MGF1(mask or digest), salt),
        digest,
    )
    return assemble(header_der, message.body_der, signature, message.extra_certs)


_S256, _S384, _S1 = hashes.SHA256(), hashes.SHA384(), hashes.SHA1()


@pytest.mark.requirement(20)
@pytest.mark.parametrize(
    "algorithm_der, digest, salt",
    [
        (pss(), _S256, 32),
        (pss(null=b""), _S256, 32),
        (pss(salt=0), _S256, 0),
        (pss(salt=None), _S256, 20),
        (pss(salt=64), _S256, 64),
        (pss(SHA384, SHA384, 48), _S384, 48),
        (pss(SHA384, SHA384, 32), _S384, 32),
    ],
    ids=["usual", "no NULL", "salt 0", "default salt", "salt 64", "384", "384 salt 32"],
)
async def test_pss_parameters_are_honoured(
    world: World, algorithm_der: bytes, digest: hashes.HashAlgorithm, salt: int
) -> None:
    """Hash, mask and salt length are those of the parameters, not of a convention."""
    device = world.device("ENB-1", "rsa2048")
    der = await pss_protected(world, device, algorithm_der, digest=digest, salt=salt)
    await assert_served(world, der)


@pytest.mark.requirement(20)
@pytest.mark.parametrize(
    "algorithm_der, digest, salt",
    [
        (pss(salt=21), _S256, 32),
        (pss(salt=None), _S256, 32),
        (pss(), _S256, 20),
        (pss(SHA384, SHA384, 48), _S256, 48),
        (pss(), _S384, 32),
    ],
    ids=["salt shorter", "default salt", "salt longer", "hash 384", "hash 256"],
)
async def test_pss_with_other_parameters_than_it_says_does_not_verify(
    world: World, algorithm_der: bytes, digest: hashes.HashAlgorithm, salt: int
) -> None:
    """A signature made otherwise than its parameters say is a bad one."""
    device = world.device("ENB-1", "rsa2048")
    der = await pss_protected(world, device, algorithm_der, digest=digest, salt=salt)
    await assert_refused(world, der, "badMessageCheck", rule="R15")


@pytest.mark.requirement(20)
@pytest.mark.parametrize(
    "algorithm_der, digest, mask, salt",
    [
        (pss(SHA256, SHA384), _S256, _S384, 32),
        (pss(SHA256, None), _S256, _S1, 32),
        (pss(SHA256, SHA1), _S256, _S1, 32),
        (pss(SHA224, SHA224), hashes.SHA224(), None, 32),
        (pss(generator="1.2.840.113549.1.1.99"), _S256, None, 32),
        (pss(salt=65), _S256, None, 65),
        (pss(salt=-1), _S256, None, 32),
        (pss(salt=2**70), _S256, None, 32),
        (pss(trailer=2), _S256, None, 32),
        (pss(trailer=1), _S256, None, 32),
        (pss(salt=20), _S256, None, 20),
        (pss(null=b"\x30\x00"), _S256, None, 32),
        (identifier("1.2.840.113549.1.1.10"), _S1, None, 20),
    ],
    ids=[
        "mask 384",
        "mask by default",
        "mask SHA-1",
        "SHA-224",
        "other generator",
        "salt 65",
        "salt -1",
        "salt huge",
        "trailer",
        "default trailer written out",
        "default salt written out",
        "hash with parameters",
        "no parameters",
    ],
)
async def test_pss_with_unsafe_parameters_is_a_bad_algorithm(
    world: World,
    algorithm_der: bytes,
    digest: hashes.HashAlgorithm,
    mask: hashes.HashAlgorithm | None,
    salt: int,
) -> None:
    """Mixed hashes, unknown hashes and generators, odd salts: badAlg, even if the signature verifies."""
    device = world.device("ENB-1", "rsa2048")
    der = await pss_protected(world, device, algorithm_der, digest=digest, mask=mask, salt=salt)
    await assert_refused(world, der, "badAlg", rule="R20")


@pytest.mark.requirement(17, 20)
async def test_pss_by_default_is_sha1(make_world: MakeWorld) -> None:
    """Empty parameters mean SHA-1, and that has to be allowed by its name."""
    world = make_world()
    device = world.device("ENB-1", "rsa2048")
    der = await pss_protected(world, device, pss(None, None, None), digest=_S1, salt=20)
    await assert_refused(world, der, "badAlg", rule="R17")
    await assert_served(make_world(vendor_domain=allowing("rsa-pss-sha1")), der)


@pytest.mark.requirement(158, 139)
@pytest.mark.parametrize(
    "key", ["p384", "p521", "rsa2048", "ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"]
)
async def test_vendors_of_every_kind_of_key(make_world: MakeWorld, key: KeyKind) -> None:
    """A vendor chain and a device of one kind of key enrol and confirm; a broken signature is refused."""
    vendor = make_vendor_pki("Modern Radio", key)
    world = make_world(vendor=vendor)
    device = vendor.device("ENB-1", key)
    assert (await world.ask(await confirmation(world, device))).body_type is BodyType.pkiconf
    der = await ir(world, device)
    signature = PKIMessage.from_der(der).protection or b""
    broken = bytes([signature[0] ^ 1]) + signature[1:]
    await assert_refused(world, unsigned(der, protection=broken), "badMessageCheck", rule="R15")


# --- R21-R25: the signer's certificate --------------------------------------------------------------------------


@pytest.mark.requirement(21, 54)
async def test_nothing_of_the_body_is_verified_for_a_stranger(
    world: World, foreign_vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the proof nor the key in the template of who is not authentic: it would be work for anybody."""
    for name in ("_verify_pop", "load_public_key"):
        monkeypatch.setattr(f"ra_gateway.cmp.requests.{name}", lambda *_: pytest.fail("looked at"))
    foreign = await ir(world, foreign_vendor_pki.device())
    await assert_refused(world, foreign, "signerNotTrusted", rule="R21")
    genuine = await ir(world, world.device())
    altered = unsigned(genuine, protection=b"no signature")
    await assert_refused(world, altered, "badMessageCheck", rule="R15")


@pytest.mark.requirement(21)
async def test_a_foreign_vendor_is_not_trusted(world: World, foreign_vendor_pki: VendorPKI) -> None:
    """A chain to no configured anchor: signerNotTrusted, and the log names the issuer."""
    device = foreign_vendor_pki.device()
    answer = await assert_refused(world, await ir(world, device), "signerNotTrusted", rule="R21")
    assert answer.body_type is BodyType.error
    assert "Foreign Radio Device CA" in world.events[-1].detail


@pytest.mark.requirement(21)
async def test_no_configured_trust_means_nothing_is_accepted(make_world: MakeWorld) -> None:
    """Neither an endpoint without vendors nor a vendor without anchors accepts anything."""
    nobody: list[dict[str, Any]] = [
        {"endpoint": {"vendors": (), "identities": {}}},
        {"vendor_domain": {"anchors": ()}},
    ]
    for settings in nobody:
        world = make_world(**settings)
        der = await ir(world, world.device())
        await assert_refused(world, der, "signerNotTrusted", rule="R21")


@pytest.mark.requirement(21)
async def test_an_operator_certificate_cannot_open_an_ir(world: World) -> None:
    """ir is for vendor certificates; what has an operator certificate renews it."""
    device = world.operator.device()
    await assert_refused(world, await ir(world, device), "signerNotTrusted", rule="R21")


@pytest.mark.requirement(22)
@pytest.mark.parametrize(
    "validity",
    [
        {"not_after": datetime(2026, 1, 2, 3, 4, 4, tzinfo=UTC)},
        {"not_before": datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)},
    ],
    ids=["expired", "not yet valid"],
)
@pytest.mark.parametrize("key", ["p256", "rsa2048"])
async def test_a_certificate_outside_its_validity_is_not_trusted(
    world: World, validity: dict[str, Any], key: KeyKind
) -> None:
    """One second too late, or too early: signerNotTrusted."""
    device = world.device("ENB-1", key, **validity)
    await assert_refused(world, await ir(world, device), "signerNotTrusted", rule="R22")


@pytest.mark.requirement(22)
async def test_the_last_second_of_validity_counts(world: World) -> None:
    """notBefore and notAfter are both inside."""
    now = world.clock()
    device = world.device("ENB-1", not_before=now, not_after=now)
    await assert_served(world, await ir(world, device))


@pytest.mark.requirement(22)
async def test_a_certificate_that_expires_on_the_way_cannot_confirm(world: World) -> None:
    """The dates are checked again for certConf."""
    device = world.device("ENB-1", not_after=datetime(2026, 1, 2, 3, 5, tzinfo=UTC))
    der = await confirmation(world, device)
    world.clock.move(seconds=60)
    await assert_refused(world, der, "signerNotTrusted", rule="R22")


@pytest.mark.requirement(24)
async def test_a_root_in_extra_certs_is_no_anchor(world: World) -> None:
    """A whole chain of somebody else's, root included, proves nothing, whatever names it bears."""
    for name in ("Somebody", "ACME Radio"):
        impostor = make_vendor_pki(name)
        device = impostor.device()
        chain = [device.der, impostor.sub.der, impostor.root.der]
        der = with_extra_certs(await ir(world, device), chain)
        await assert_refused(world, der, "signerNotTrusted", rule="R21")
        der = with_extra_certs(der, [*chain, world.vendor.root.der, world.vendor.sub.der])
        await assert_refused(world, der, "signerNotTrusted", rule="R21")


@pytest.mark.requirement(24)
async def test_a_self_signed_device_is_no_anchor(world: World) -> None:
    """A device that signed its own certificate is nobody's."""
    own = make_root("CN=ENB-1,O=ACME Radio", basic_constraints=None, key_usage=["digitalSignature"])
    device = Credential(own.certificate, own.private_key, (own.certificate,))
    der = with_extra_certs(await ir(world, device), [device.der])
    await assert_refused(world, der, "signerNotTrusted", rule="R21")


@pytest.mark.requirement(25)
@pytest.mark.parametrize(
    "usage", [["keyEncipherment"], ["keyAgreement", "dataEncipherment"], ["keyCertSign"]]
)
@pytest.mark.parametrize("key", ["p256", "rsa2048"])
async def test_a_key_that_may_not_sign_is_refused(
    world: World, usage: list[str], key: KeyKind
) -> None:
    """keyUsage without digitalSignature and nonRepudiation: badMessageCheck."""
    device = world.device("ENB-1", key, key_usage=usage)
    await assert_refused(world, await ir(world, device), "badMessageCheck", rule="R25")


@pytest.mark.requirement(25, "T13", "T28")
@pytest.mark.parametrize("usage", [["nonRepudiation"], ["nonRepudiation", "keyEncipherment"]])
@pytest.mark.parametrize("strictness", Strictness)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.kur])
async def test_a_key_for_non_repudiation_signs(
    make_world: MakeWorld, usage: list[str], strictness: Strictness, body_type: BodyType
) -> None:
    """TS 33.310 9.4.4 and 6.1.3 leave the choice; to the letter, RFC 9483 3.2 has digitalSignature alone."""
    world = make_world(rules=HeaderRules(strictness=strictness))
    owner = world.operator.issuing if body_type is BodyType.kur else world.vendor.sub
    device = owner.issue("CN=enb-1.ran.example.net", key_usage=usage)
    enrollment = world.enrollment(device, body_type=body_type)
    der = await enrollment.request()
    if strictness is Strictness.strict:
        await assert_refused(world, der, "badMessageCheck", rule="R25")
        return
    await assert_served(world, der)
    (answer,) = await world.store.find(enrollment.transaction_id)
    step = await enrollment.receive(answer.opening.response_der or b"")
    assert isinstance(step, Send)
    assert (await world.ask(step.der)).body_type is BodyType.pkiconf


@pytest.mark.requirement(25)
@pytest.mark.parametrize("usage", [None, ["digitalSignature", "keyEncipherment"]])
async def test_a_key_that_may_sign_is_accepted(world: World, usage: list[str] | None) -> None:
    """digitalSignature among others, or no keyUsage at all."""
    await assert_served(world, await ir(world, world.device("ENB-1", key_usage=usage)))


# --- R26, R27: sender and senderKID -----------------------------------------------------------------------------


@pytest.mark.requirement(26, "T36")
@pytest.mark.parametrize(
    "sender",
    [
        directory_name(from_rfc4514("CN=ENB-2,O=ACME Radio")),
        directory_name(from_rfc4514("CN=ENB-1,O=ACME Radio,C=FI")),
        directory_name(from_rfc4514("O=ACME Radio")),
        asn1.tlv(0x82, b"enb-1.example.net"),
        asn1.tlv(0x81, b"enb-1@example.net"),
    ],
    ids=["other device", "longer", "shorter", "dNSName", "rfc822Name"],
)
async def test_a_sender_that_is_not_the_signer_is_refused(
    world: World, device: Credential, sender: bytes
) -> None:
    """sender is the subject of the protecting certificate, else badMessageCheck."""
    der = await signed_again(await ir(world, device), device, sender_der=sender)
    await assert_refused(world, der, "badMessageCheck", rule="R26")


@pytest.mark.requirement(26)
async def test_the_sender_is_compared_by_meaning(world: World, device: Credential) -> None:
    """Another string type, another case, more blanks: the same name."""
    other = asn1.tlv(
        0x30,
        asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der("2.5.4.10"), asn1.tlv(0x13, b"acme  RADIO"))),
        asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der("2.5.4.3"), asn1.tlv(0x13, b"enb-1"))),
    )
    der = await signed_again(await ir(world, device), device, sender_der=directory_name(other))
    await assert_served(world, der)


@pytest.mark.requirement(26)
async def test_a_nameless_sender_is_known_by_its_key_identifier(
    world: World, device: Credential
) -> None:
    """The NULL-DN will do with a senderKID, and is refused without one."""
    der = await signed_again(await ir(world, device), device, sender_der=ANYONE)
    await assert_served(world, der)
    der = await signed_again(await ir(world, device), device, sender_der=ANYONE, sender_kid=None)
    await assert_refused(world, der, "badMessageCheck", rule="R26")


@pytest.mark.requirement(27)
@pytest.mark.parametrize("kid", [b"", bytes(20), b"ENB-1"], ids=["empty", "zeros", "text"])
async def test_a_wrong_key_identifier_is_refused(
    world: World, device: Credential, kid: bytes
) -> None:
    """senderKID that is not the certificate's SubjectKeyIdentifier: badMessageCheck."""
    der = await signed_again(await ir(world, device), device, sender_kid=kid)
    await assert_refused(world, der, "badMessageCheck", rule="R27")


@pytest.mark.requirement(27)
async def test_the_key_identifier_of_another_certificate_is_refused(
    world: World, device: Credential
) -> None:
    """It must be the signer's, not just that of some certificate that came along."""
    kid = cmp_certificate(world.vendor.sub.certificate).subject_key_identifier
    der = await signed_again(await ir(world, device), device, sender_kid=kid)
    await assert_refused(world, der, "badMessageCheck")


@pytest.mark.requirement(27)
async def test_the_key_identifier_may_be_absent(make_world: MakeWorld, device: Credential) -> None:
    """sender alone will do, except at a strict endpoint and for a certificate that has one."""
    world = make_world()
    der = await signed_again(await ir(world, device), device, sender_kid=None)
    await assert_served(world, der)
    await assert_refused(make_world(rules=STRICT), der, "badMessageCheck", rule="R27")


@pytest.mark.requirement(27)
@pytest.mark.parametrize("kid", [None, b"anything"])
async def test_a_certificate_without_key_identifier(
    make_world: MakeWorld, kid: bytes | None
) -> None:
    """Nothing to compare with: the name decides, and the signature."""
    for rules in (HeaderRules(), STRICT):
        world = make_world(rules=rules)
        device = world.device("ENB-1", subject_key_identifier=False)
        der = await signed_again(await ir(world, device), device, sender_kid=kid)
        await assert_served(world, der)


# --- R36: credentials that are no device's ----------------------------------------------------------------------


def ca_as_device(authority: Authority) -> Credential:
    """A CA's certificate and key, used like a device's."""
    chain = (*authority.chain, authority.certificate)
    return Credential(authority.certificate, authority.private_key, chain)


@pytest.mark.requirement(36)
async def test_a_ca_cannot_enrol_as_a_device(world: World) -> None:
    """The vendor's CA, even one whose key may sign messages, is no base station."""
    able = world.vendor.root.issue_ca(
        "CN=Signing CA,O=ACME Radio", key_usage=["digitalSignature", "keyCertSign"]
    )
    der = with_extra_certs(await ir(world, ca_as_device(able)), [able.der, world.vendor.root.der])
    await assert_refused(world, der, "notAuthorized", rule="R36", body_type=BodyType.ip)
    for usual in (world.vendor.sub, world.vendor.root):
        der = with_extra_certs(await ir(world, ca_as_device(usual)), [usual.der])
        await assert_refused(world, der, "badMessageCheck", rule="R25")


@pytest.mark.requirement(36)
@pytest.mark.parametrize("purpose", [CMC_RA, CMC_CA, OID.cmKGA])
async def test_an_ra_cannot_enrol_as_a_device(world: World, purpose: str) -> None:
    """A certificate with the purpose of an RA, CA or key generation authority: notAuthorized."""
    device = world.device("RA-1", eku=[purpose])
    der = await ir(world, device)
    await assert_refused(world, der, "notAuthorized", rule="R36", body_type=BodyType.ip)
    manager = world.operator.device("ra-1", eku=[purpose])
    der = await ir(world, manager, body_type=BodyType.kur)
    await assert_refused(world, der, "notAuthorized", rule="R36", body_type=BodyType.kup)


@pytest.mark.requirement(36)
@pytest.mark.parametrize("asked, told", [(BodyType.kur, BodyType.kup), (BodyType.cr, BodyType.cp)])
async def test_the_gateways_own_credential_opens_nothing(
    world: World, asked: BodyType, told: BodyType
) -> None:
    """What the RA signs is not taken from outside as a device's request."""
    der = await ir(world, world.operator.ra, body_type=asked)
    await assert_refused(world, der, "notAuthorized", rule="R36", body_type=told)


@pytest.mark.requirement(36)
async def test_who_only_shows_a_ca_certificate_learns_nothing(world: World) -> None:
    """Without its key an RA's certificate gets the answer of any broken signature."""
    manager = world.device("RA-1", eku=[CMC_RA])
    der = await signed_again(await ir(world, manager), make_key("p256"))
    await assert_refused(world, der, "badMessageCheck", rule="R15")


# --- R146: weak hashes anywhere ---------------------------------------------------------------------------------


def with_weak_hash(device: Credential, world: World, where: str, name: str) -> Credential:
    """The same device under a chain in which one certificate is signed with a weak hash."""
    vendor = world.vendor
    sub, leaf = vendor.sub.certificate, device.certificate
    if where == "intermediate":
        sub = resigned(sub, vendor.root, SIGNATURE_ALGORITHMS[name])
    else:
        leaf = resigned(leaf, vendor.sub, SIGNATURE_ALGORITHMS[name])
    return Credential(leaf, device.private_key, (sub, vendor.root.certificate))


@pytest.fixture(scope="module")
def rsa_vendor() -> VendorPKI:
    """A vendor whose CAs have RSA keys."""
    return make_vendor_pki("RSA Radio", "rsa2048")


@pytest.mark.requirement(146, 17)
@pytest.mark.parametrize("name", ["rsa-pkcs1-sha1", "rsa-pkcs1-md5", "ecdsa-sha1"])
@pytest.mark.parametrize("where", ["intermediate", "device"])
async def test_a_weak_hash_in_the_vendor_chain_is_refused(
    make_world: MakeWorld, rsa_vendor: VendorPKI, vendor_pki: VendorPKI, name: str, where: str
) -> None:
    """SHA-1 or MD5 under any certificate of the chain: badAlg, unless the domain allows it by name."""
    vendor = rsa_vendor if name.startswith("rsa") else vendor_pki
    world = make_world(vendor=vendor)
    key: KeyKind = "rsa2048" if vendor is rsa_vendor else "p256"
    device = with_weak_hash(world.device("ENB-1", key), world, where, name)
    der = await ir(world, device)
    await assert_refused(world, der, "badAlg", rule="R17")
    await assert_served(make_world(vendor=vendor, vendor_domain=allowing(name)), der)


@pytest.mark.requirement(146)
async def test_a_weak_hash_under_the_anchor_itself_does_not_matter(
    make_world: MakeWorld, vendor_pki: VendorPKI
) -> None:
    """An anchor is trusted because it is configured; its signature on itself proves nothing."""
    root = resigned(
        vendor_pki.root.certificate, vendor_pki.root, SIGNATURE_ALGORITHMS["ecdsa-sha1"]
    )
    world = make_world(vendor_domain={"anchors": (cmp_certificate(root),)})
    await assert_served(world, await ir(world, world.device()))


@pytest.mark.requirement(146)
@pytest.mark.parametrize(
    "key, name",
    [("p256", "ecdsa-sha1"), ("rsa2048", "rsa-pkcs1-sha1"), ("rsa2048", "rsa-pkcs1-md5")],
)
async def test_a_weak_hash_in_the_proof_of_possession_is_refused(
    make_world: MakeWorld, key: KeyKind, name: str
) -> None:
    """POP with SHA-1 or MD5: badAlg in the ip, unless the domain allows it by name."""
    world = make_world()
    device, new_key = world.device(), make_key(key)
    der = await ir(world, device, new_key=new_key)
    (request,) = cert_req_messages(PKIMessage.from_der(der).body_content)
    signer = KeySigner(new_key, SIGNATURE_ALGORITHMS[name])
    popo = signature_popo_der(signer.algorithm.der, await signer.sign(request.cert_req_der))
    body_der = body(BodyType.ir, asn1.tlv(0x30, cert_req_msg_der(request.cert_req_der, popo)))
    weak = await signed_again(der, device, body_der=body_der)
    await assert_refused(world, weak, "badAlg", rule="R146", body_type=BodyType.ip)
    allowed = make_world(vendor_domain=allowing(name))
    await assert_served(allowed, weak)
    assert load_der_public_key(request.template.spki_der or b"") == new_key.public_key()


# --- domains ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(17, 146)
async def test_one_vendors_allowance_is_not_anothers(
    make_world: MakeWorld, vendor_pki: VendorPKI, foreign_vendor_pki: VendorPKI
) -> None:
    """SHA-1 allowed to one vendor at an endpoint stays refused to the other."""
    old = TrustDomain(
        "foreign",
        DomainKind.vendor,
        (cmp_certificate(foreign_vendor_pki.root.certificate),),
        **allowing("ecdsa-sha1"),
    )
    world = make_world()
    vendors = (*world.endpoint.vendors, old)
    identities = {domain.name: world.endpoint.identities["acme"] for domain in vendors}
    world = make_world(endpoint={"vendors": vendors, "identities": identities})
    weak = SIGNATURE_ALGORITHMS["ecdsa-sha1"]
    await assert_served(world, await protected_with(world, foreign_vendor_pki.device(), weak))
    der = await protected_with(world, vendor_pki.device(), weak)
    await assert_refused(world, der, "badAlg", rule="R17")


@pytest.mark.requirement(147)
async def test_two_vendors_of_one_name_stay_apart(make_world: MakeWorld) -> None:
    """Same DNs, other keys: each device belongs to the domain whose root signed its chain."""
    one, other = make_vendor_pki("Twin Radio"), make_vendor_pki("Twin Radio")
    worlds = make_world()
    domains = tuple(
        TrustDomain(name, DomainKind.vendor, (cmp_certificate(vendor.root.certificate),))
        for name, vendor in (("one", one), ("other", other))
    )
    identity = worlds.endpoint.identities["acme"]
    world = make_world(
        endpoint={"vendors": domains, "identities": {"one": identity, "other": identity}}
    )
    for name, vendor in (("one", one), ("other", other)):
        await assert_served(world, await ir(world, vendor.device("ENB-1")))
        assert world.events[-1].domain == name
    only_one = make_world(vendor=one)
    crossed = other.device("ENB-1")
    for chain in ([one.sub.der], [other.sub.der], [one.sub.der, other.sub.der, other.root.der]):
        der = with_extra_certs(await ir(only_one, crossed), [crossed.der, *chain])
        await assert_refused(only_one, der, "signerNotTrusted", rule="R21")


@pytest.mark.requirement(147)
async def test_the_same_device_name_of_two_vendors_is_two_signers(make_world: MakeWorld) -> None:
    """One vendor's device cannot confirm what the other's namesake asked for."""
    one, other = make_vendor_pki("Twin Radio"), make_vendor_pki("Twin Radio")
    domains = tuple(
        TrustDomain(name, DomainKind.vendor, (cmp_certificate(vendor.root.certificate),))
        for name, vendor in (("one", one), ("other", other))
    )
    identity = make_world().endpoint.identities["acme"]
    world = make_world(
        endpoint={"vendors": domains, "identities": {"one": identity, "other": identity}}
    )
    first, second = one.device("ENB-1"), other.device("ENB-1")
    der = await confirmation(world, first)
    own = cmp_certificate(second.certificate)
    stolen = await signed_again(
        der,
        second,
        extra_certs=[second.der, other.sub.der],
        sender_kid=own.subject_key_identifier,
    )
    await assert_refused(world, stolen, "badMessageCheck", rule="R35")
    assert (await world.ask(der)).body_type is BodyType.pkiconf
