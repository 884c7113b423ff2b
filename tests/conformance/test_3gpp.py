"""What TS 33.310 clause 9 adds for base stations, and a base station that is older than the rules (R139-R147)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import permutations
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pyasn1.codec.der.decoder import decode as der_decode
from pyasn1.codec.der.encoder import encode as der_encode
from pyasn1.type.univ import BitString
from pyasn1_modules import rfc5280

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS, AlgorithmPolicy, digest
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_rep_message,
    nested_messages,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import Extension, SignaturePOP, cert_req_messages, cert_request_der
from ra_gateway.cmp.header_checks import HeaderRules, relaxed_algorithms
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage, body
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Quirk, Strictness
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.keys import KeySigner
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import CaPubs, CertConf, ImplicitConfirm, Variant
from tests.support import pki, requests
from tests.support.answers import fail_names
from tests.support.asserts import (
    assert_answers,
    assert_refused,
    assert_served,
    signed_again,
    unsigned,
    with_extra_certs,
)
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import ANY_IDENTITY, World

SHA1_RSA = SIGNATURE_ALGORITHMS["rsa-pkcs1-sha1"]


@pytest.fixture
def world(vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI) -> World:
    return World.make(vendor_pki, operator_pki)


@pytest.fixture(scope="module")
def device(vendor_pki: pki.VendorPKI) -> Credential:
    return cmp_credential(vendor_pki.device("ENB-1"))


@pytest.fixture(scope="module")
def key() -> Any:
    return pki.make_key("p256")


# --- extraCerts -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(16, 139, "T32", "T35")
async def test_extra_certs_in_any_order(operator_pki: pki.OperatorPKI, key: Any) -> None:
    """The chain over two vendor CAs is found in every order, among strangers and with or without its root."""
    root = pki.make_root("CN=Deep Radio Root,O=Deep Radio")
    region = root.issue_ca("CN=Deep Radio Region,O=Deep Radio")
    factory = region.issue_ca("CN=Deep Radio Factory,O=Deep Radio")
    world = World.make(pki.VendorPKI("Deep Radio", root, factory), operator_pki)
    credential = cmp_credential(world.device())
    stranger = pki.make_root("CN=Deep Radio Region,O=Deep Radio").der
    needed = [credential.certificate.der, factory.der, region.der]
    for bag in (needed, [*needed, root.der], [*needed, stranger]):
        for shuffled in permutations(bag):
            der = await requests.request(world, credential, key, extra_certs=shuffled)
            await assert_served(world, der)


@pytest.mark.requirement(139)
async def test_extra_certs_with_a_gap(operator_pki: pki.OperatorPKI, key: Any) -> None:
    """Without one of its vendor's CAs a base station cannot be known, in whatever order it sends the rest."""
    root = pki.make_root("CN=Deep Radio Root,O=Deep Radio")
    region = root.issue_ca("CN=Deep Radio Region,O=Deep Radio")
    factory = region.issue_ca("CN=Deep Radio Factory,O=Deep Radio")
    world = World.make(pki.VendorPKI("Deep Radio", root, factory), operator_pki)
    credential = cmp_credential(world.device())
    der = await requests.request(
        world, credential, key, extra_certs=[root.der, factory.der, credential.certificate.der]
    )
    await assert_refused(world, der, "signerNotTrusted", rule="R21")


@pytest.mark.requirement(97, 140)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_the_answer_brings_the_operators_certificates(
    world: World, device: Credential, key: Any, body_type: BodyType
) -> None:
    """RA first, then the issuing chain, the operator's root last, nothing twice; the RA chains to that root.

    A kup leaves the root out.
    """
    asked = requests.template(key)
    if body_type is BodyType.kur:
        device = cmp_credential(world.operator.device())
        asked = requests.template(key, subject_der=device.certificate.subject_der)
    der = await requests.request(world, device, key, asked, body_type=body_type)
    answer = await assert_served(world, der)
    operator = world.operator
    expected = [
        cmp_certificate(item).der
        for item in (
            operator.ra.certificate,
            operator.issuing.certificate,
            operator.root.certificate,
        )
    ]
    sent = expected[:-1] if body_type is BodyType.kur else expected
    assert list(answer.extra_certs) == sent
    trust = TrustDomain("root", DomainKind.operator, (Certificate.from_der(expected[-1]),))
    bag = [Certificate.from_der(item) for item in expected]
    for leaf in (bag[0], world.ca.issued[0]):
        assert [item.der for item in trust.find_path(leaf, bag, world.clock())][1:] == expected[1:]


@pytest.mark.requirement(97, 140)
async def test_certificates_of_two_operator_branches(
    vendor_pki: pki.VendorPKI, device: Credential, key: Any
) -> None:
    """Where the RA's certificate is from another CA than the new one, both chains are there, each once."""
    made = pki.make_operator_pki("Two Branches")
    infra = made.root.issue_ca("CN=Two Branches Infrastructure CA")
    operator = replace(made, ra=infra.issue("CN=Two Branches RA", eku=[pki.CMC_RA]))
    world = World.make(vendor_pki, operator)
    answer = await assert_served(world, await requests.request(world, device, key))
    assert list(answer.extra_certs) == [
        operator.ra.der,
        infra.der,
        operator.issuing.der,
        operator.root.der,
    ]


@pytest.mark.requirement(93, 140)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
@pytest.mark.parametrize("ca_pubs", list(CaPubs))
async def test_ca_pubs_by_configuration(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    device: Credential,
    key: Any,
    body_type: BodyType,
    ca_pubs: CaPubs,
) -> None:
    """Only an ip may bring the operator's root under the RA's signature, and only where that is wanted."""
    world = World.make(vendor_pki, operator_pki, endpoint={"ca_pubs": ca_pubs})
    issuing, root = operator_pki.issuing.der, operator_pki.root.der
    world.ca.script = lambda answer: answer.set_content(replace(answer.content, ca_pubs=(issuing,)))
    asked = requests.template(key)
    if body_type is BodyType.kur:
        device = cmp_credential(operator_pki.device())
        asked = requests.template(key, subject_der=device.certificate.subject_der)
    answer = await assert_served(
        world, await requests.request(world, device, key, asked, body_type=body_type)
    )
    allowed = {CaPubs.drop: (), CaPubs.relay: (issuing,), CaPubs.root: (root,)}[ca_pubs]
    expected = allowed if body_type is BodyType.ir else ()
    assert cert_rep_message(answer.body_content).ca_pubs == expected


# --- what is not part of the profile ------------------------------------------------------------------------------


@pytest.mark.requirement(43, 142, "T31")
@pytest.mark.parametrize("oid", [OID.passwordBasedMac, OID.pbmac1, OID.kemBasedMac])
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_a_shared_secret_is_not_accepted(
    world: World, device: Credential, key: Any, body_type: BodyType, oid: str
) -> None:
    """MAC protection is refused by its kind, and nothing is computed from what it brings."""
    der = await requests.request(world, device, key, body_type=body_type)
    parameters = asn1.tlv(0x30, asn1.tlv(0x04, bytes(8)), b"\x02\x04\x7f\xff\xff\xff")
    algorithm = asn1.tlv(0x30, asn1.oid_der(oid), parameters)
    macked = unsigned(der, protection=bytes(20), protection_alg_der=algorithm, extra_certs=())
    await assert_refused(world, macked, "wrongIntegrity", rule="R43")


@pytest.mark.requirement(9, 142, "T31")
@pytest.mark.parametrize(
    "body_type, rule",
    [
        (BodyType.p10cr, "R142"),
        (BodyType.rr, "R142"),
        (BodyType.genm, "R142"),
        (BodyType.krr, "R9"),
        (BodyType.ccr, "R9"),
    ],
)
async def test_operations_the_profile_does_not_have(
    world: World, device: Credential, body_type: BodyType, rule: str
) -> None:
    """Neither p10cr nor rr, and nothing else but ir, cr and kur, opens an operation."""
    der = await requests.message(world, device, body(body_type, asn1.tlv(0x30)))
    await assert_refused(world, der, "badRequest", rule=rule)


@pytest.mark.requirement(142)
async def test_an_endpoint_may_take_less(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, device: Credential, key: Any
) -> None:
    """An endpoint for ir alone takes neither cr nor kur."""
    world = World.make(vendor_pki, operator_pki, endpoint={"body_types": frozenset({BodyType.ir})})
    for body_type in (BodyType.cr, BodyType.kur):
        der = await requests.request(world, device, key, body_type=body_type)
        await assert_refused(world, der, "badRequest", rule="R142")
    await assert_served(world, await requests.request(world, device, key))


@pytest.mark.requirement(60, 142)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_keys_are_made_on_the_device(
    world: World, device: Credential, key: Any, body_type: BodyType
) -> None:
    """Central key generation, asked for with pvno 3 and no key, is refused in the body."""
    if body_type is BodyType.kur:
        device = cmp_credential(world.operator.device())
    asked = requests.template(key, spki_der=None)
    der = await requests.request(
        world, device, key, asked, body_type=body_type, popo_der=b"", pvno=3
    )
    await requests.assert_refused_in_body(
        world, der, "badCertTemplate", rule="R60", body_type=BodyType(body_type + 1)
    )


# --- confirmation -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(82, 98, 99, 143)
@pytest.mark.parametrize("grants", [True, False])
@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("setting", list(ImplicitConfirm))
async def test_implicit_confirm(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    device: Credential,
    key: Any,
    setting: ImplicitConfirm,
    asks: bool,
    grants: bool,
) -> None:
    """deny never grants and never asks the CA; relay grants if the device asked and the CA granted."""
    world = World.make(vendor_pki, operator_pki, endpoint={"implicit_confirm": setting})
    world.ca.grant_implicit = grants
    info = (IMPLICIT_CONFIRM,) if asks else ()
    answer = await assert_served(
        world, await requests.request(world, device, key, general_info=info)
    )
    granted = setting is ImplicitConfirm.relay and asks and grants
    assert answer.header.implicit_confirm == granted
    assert (answer.header.info(OID.confirmWaitTime) is None) == granted
    assert answer.header.message_time == world.clock()
    asked_of_ca = world.ca.messages[0].header.implicit_confirm
    assert asked_of_ca == (setting is ImplicitConfirm.relay and asks)


@pytest.mark.requirement(99, 143)
async def test_a_grant_that_nobody_asked_for(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, device: Credential, key: Any
) -> None:
    """A CA that grants what it was not asked for does not deprive the device of its certConf."""
    world = World.make(
        vendor_pki, operator_pki, endpoint={"implicit_confirm": ImplicitConfirm.relay}
    )

    def grant(answer: Any) -> None:
        answer.header = replace(answer.header, general_info=(IMPLICIT_CONFIRM,))

    world.ca.script = grant
    answer = await assert_served(world, await requests.request(world, device, key))
    assert not answer.header.implicit_confirm
    confirmed = await world.ask(await confirmation(world, device, answer))
    assert confirmed.body_der == PKICONF_BODY
    assert len(world.ca.received) == 1  # that CA awaits no certConf


async def confirmation(
    world: World, credential: Credential, answer: PKIMessage, **header: Any
) -> bytes:
    """The certConf that takes the certificate of an answer."""
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.certificate_der is not None
    certificate = Certificate.from_der(response.certificate_der)
    hash_name = certificate.signature_algorithm.hash_name
    status = CertStatus(
        digest(hash_name, certificate.der),
        response.cert_req_id,
        PKIStatusInfo(PKIStatus.accepted),
    )
    return await requests.message(
        world,
        credential,
        cert_confirm_body(status),
        **{
            "recipient_der": answer.header.sender_der,
            "transaction_id": answer.header.transaction_id,
            "recip_nonce": answer.header.sender_nonce,
            **header,
        },
    )


# --- kur ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(73, 75, 81, 144)
@pytest.mark.parametrize("certconf", list(CertConf))
@pytest.mark.parametrize("variant", list(Variant))
async def test_a_renewal_goes_up_as_the_upstream_wants_it(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    key: Any,
    variant: Variant,
    certconf: CertConf,
) -> None:
    """kur, and its certConf in the same way: re-protected, nested, or untouched."""
    world = World.make(vendor_pki, operator_pki, upstream={"kur": variant, "certconf": certconf})
    old = cmp_credential(operator_pki.device())
    asked = requests.template(key, subject_der=old.certificate.subject_der)
    der = await requests.request(world, old, key, asked, body_type=BodyType.kur)
    answer = await assert_served(world, der)
    certconf_der = await confirmation(world, old, answer)
    confirmed = await world.ask(certconf_der)
    assert confirmed.body_der == PKICONF_BODY
    assert_answers(world, PKIMessage.from_der(certconf_der), confirmed)
    asked_implicitly = certconf is CertConf.implicit and variant is Variant.reprotect
    sent = [der] if certconf is CertConf.local or asked_implicitly else [der, certconf_der]
    assert len(world.ca.received) == len(sent)
    for original, received in zip(sent, world.ca.received, strict=True):
        check_variant(world, variant, original, received)


def check_variant(world: World, variant: Variant, original: bytes, received: bytes) -> None:
    """Check how a message of a device reached the CA."""
    if variant is Variant.forward:
        assert received == original
        return
    device, ca = PKIMessage.from_der(original), PKIMessage.from_der(received)
    ra = cmp_credential(world.operator.ra)
    assert ca.header.sender_der == ra.sender_der
    assert ca.header.transaction_id == device.header.transaction_id
    assert ca.header.sender_nonce == device.header.sender_nonce
    assert ca.extra_certs == ra.certificates
    if variant is Variant.nested:
        assert nested_messages(ca.body_content) == (original,)
    else:
        assert ca.body_der == device.body_der
        assert ca.header.recip_nonce == device.header.recip_nonce


@pytest.mark.requirement(71, 144, "T33")
@pytest.mark.parametrize("variant", list(Variant))
async def test_a_vendor_certificate_renews_nothing_whatever_the_upstream(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    device: Credential,
    key: Any,
    variant: Variant,
) -> None:
    """Also where the CA would check the old certificate itself."""
    world = World.make(vendor_pki, operator_pki, upstream={"kur": variant})
    der = await requests.request(world, device, key, body_type=BodyType.kur)
    await assert_refused(world, der, "signerNotTrusted", rule="R21")


# --- algorithms -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(17, 146, "T34")
@pytest.mark.parametrize("name", ["rsa-pkcs1-sha1", "rsa-pkcs1-md5"])
async def test_broken_hashes_in_protection(world: World, key: Any, name: str) -> None:
    """A message protected with SHA-1 or MD5 is refused although the signature verifies."""
    factory = world.device(key="rsa2048")
    der = await requests.request(world, cmp_credential(factory), key)
    await assert_served(world, der)
    weak = await signed_again(
        der, factory, algorithm=SIGNATURE_ALGORITHMS[name], transaction_id=bytes(16)
    )
    await assert_refused(world, weak, "badAlg", rule="R17")


@pytest.mark.requirement(146, "T34")
@pytest.mark.parametrize("name", ["rsa-pkcs1-sha1", "rsa-pkcs1-md5"])
async def test_broken_hashes_in_proof(world: World, device: Credential, name: str) -> None:
    """So is a proof of possession."""
    key = pki.make_key("rsa2048")
    popo_der = await requests.popo(
        cert_request_der(requests.template(key)), key, algorithm=SIGNATURE_ALGORITHMS[name]
    )
    der = await requests.request(world, device, key, popo_der=popo_der)
    await requests.assert_refused_in_body(world, der, "badAlg", rule="R146")


@pytest.mark.requirement(146, "T34")
@pytest.mark.parametrize("level", ["device", "CA"])
async def test_broken_hashes_in_the_vendors_chain(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, key: Any, level: str
) -> None:
    """So is a certificate on the path that was signed with SHA-1."""
    world = World.make(vendor_pki, operator_pki)
    factory = world.device()
    credential = cmp_credential(factory)
    await assert_served(world, await requests.request(world, credential, key))
    if level == "device":
        weak = cmp_certificate(pki.resign_with_sha1(factory.certificate, vendor_pki.sub))
        credential = replace(credential, certificate=weak)
    else:
        weak = cmp_certificate(pki.resign_with_sha1(vendor_pki.sub.certificate, vendor_pki.root))
        credential = replace(credential, chain=(weak,))
    der = await requests.request(world, credential, key)
    await assert_refused(world, der, "badAlg", rule="R17")


@pytest.mark.requirement(61, 146)
async def test_forgiving_an_old_key_is_not_certifying_one(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, device: Credential
) -> None:
    """A domain whose devices may have RSA-1024 from the factory still gets no new certificate for such a key."""
    policy = AlgorithmPolicy(min_rsa_bits=1024)
    world = World.make(vendor_pki, operator_pki, vendor_domain={"algorithms": policy})
    der = await requests.request(world, device, pki.make_key("rsa1024"))
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R61")


# --- two vendors ------------------------------------------------------------------------------------------------------


@dataclass
class Twins:
    """Two vendors whose names are the same down to their CAs; only the keys differ."""

    world: World
    first: pki.VendorPKI
    second: pki.VendorPKI


@pytest.fixture
def twins(operator_pki: pki.OperatorPKI) -> Twins:
    first, second = pki.make_vendor_pki("Twin Radio"), pki.make_vendor_pki("Twin Radio")
    names = ("first", "second")
    domains = tuple(
        TrustDomain(name, DomainKind.vendor, (cmp_certificate(vendor.root.certificate),))
        for name, vendor in zip(names, (first, second), strict=True)
    )
    identities = {
        "first": IdentityRules(allowed_subjects=("CN=first",)),
        "second": IdentityRules(allowed_subjects=("CN=second",)),
    }
    endpoint = {"vendors": domains, "identities": identities}
    return Twins(World.make(first, operator_pki, endpoint=endpoint), first, second)


@pytest.mark.requirement(147)
async def test_vendors_of_one_name_are_kept_apart(twins: Twins, key: Any) -> None:
    """The anchor decides whose rules hold, not the names."""
    world = twins.world
    for name, vendor, other in (
        ("first", twins.first, "second"),
        ("second", twins.second, "first"),
    ):
        credential = cmp_credential(vendor.device("ENB-1"))
        own = requests.template(key, f"CN={name}")
        await assert_served(world, await requests.request(world, credential, key, own))
        assert world.events[-1].domain == name
        wrong = requests.template(key, f"CN={other}")
        der = await requests.request(world, credential, key, wrong)
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(147)
async def test_vendors_of_one_name_do_not_vouch_for_each_other(twins: Twins, key: Any) -> None:
    """The other vendor's CAs, sent along or instead, neither help nor harm."""
    world = twins.world
    credential = cmp_credential(twins.second.device("ENB-1"))
    asked = requests.template(key, "CN=second")
    both = [credential.certificate.der, twins.first.sub.der, twins.second.sub.der]
    der = await requests.request(world, credential, key, asked, extra_certs=both)
    await assert_served(world, der)
    assert world.events[-1].domain == "second"
    crossed = [credential.certificate.der, twins.first.sub.der, twins.second.root.der]
    der = await requests.request(world, credential, key, asked, extra_certs=crossed)
    await assert_refused(world, der, "signerNotTrusted")


@pytest.mark.requirement(147)
async def test_one_transaction_id_of_two_vendors(twins: Twins, key: Any) -> None:
    """Two devices with the same names and the same transactionID do not meet."""
    world = twins.world
    for name, vendor in (("first", twins.first), ("second", twins.second)):
        credential = cmp_credential(vendor.device("ENB-1"))
        der = await requests.request(
            world, credential, key, requests.template(key, f"CN={name}"), transaction_id=bytes(16)
        )
        answer = await world.ask(der)
        assert fail_names(answer) == []
        assert answer.body_type is CERT_RESPONSE_TO[BodyType.ir]
    assert len(world.ca.received) == 2


# --- a legacy base station ------------------------------------------------------------------------------------------

LEGACY_QUIRKS = frozenset(
    set(Quirk) - {Quirk.no_subject, Quirk.wrong_clock, Quirk.ber_certificates}
)
STRICT = HeaderRules(strictness=Strictness.strict, require_message_time=True)
THREE_GPP = HeaderRules(strictness=Strictness.three_gpp)
SERIAL = "00012345678900000012"


def legacy_certificate(issued: pki.Credential, issuer: pki.Authority) -> Certificate:
    """A certificate as that vendor's CA made them: RSA with SHA-1, a negative serial number of 17 octets."""
    changed, _ = der_decode(issued.der, asn1Spec=rfc5280.Certificate())
    tbs = changed["tbsCertificate"]
    tbs["serialNumber"] = -(1 << 130) - 1
    tbs["signature"]["algorithm"] = "1.2.840.113549.1.1.5"
    assert isinstance(issuer.private_key, rsa.RSAPrivateKey)
    signature = issuer.private_key.sign(der_encode(tbs), padding.PKCS1v15(), hashes.SHA1())
    changed["signatureAlgorithm"]["algorithm"] = tbs["signature"]["algorithm"]
    changed["signature"] = BitString.fromOctetString(signature)
    return Certificate.from_der(der_encode(changed))


@dataclass
class LegacyBaseStation:
    """A base station of 2011: RSA-1024 from the factory, four octets of nonce, no clock, SHA-1."""

    vendor: pki.VendorPKI
    credential: Credential
    extra_certs: tuple[bytes, ...]
    new_key: Any

    @classmethod
    def make(cls) -> LegacyBaseStation:
        made = pki.make_root("CN=Legacy Radio Root CA,O=Legacy Radio", "rsa2048")
        root = replace(made, certificate=pki.resign_with_sha1(made.certificate, made))
        sub = root.issue_ca(
            "CN=Legacy Radio Product CA,O=Legacy Radio", "rsa2048", serial_number=1 << 131
        )
        sub = replace(sub, certificate=pki.resign_with_sha1(sub.certificate, root))
        issued = sub.issue(f"CN={SERIAL},O=Legacy Radio", "rsa1024", subject_key_identifier=False)
        leaf = legacy_certificate(issued, sub)
        assert leaf.serial_number < 0
        assert OID.basicConstraints not in leaf.extensions
        chain = (cmp_certificate(sub.certificate),)
        return cls(
            vendor=pki.VendorPKI("Legacy Radio", root, sub),
            credential=Credential(leaf, chain, KeySigner(issued.private_key, SHA1_RSA)),
            extra_certs=(leaf.der, sub.der, root.der),
            new_key=pki.make_key("rsa2048"),
        )

    async def ir(self, world: World, **changes: Any) -> bytes:
        """Its first message."""
        asked = requests.template(
            self.new_key,
            f"CN={SERIAL} eNodeB",
            version=2,
            not_before=datetime(2026, 1, 1, tzinfo=UTC),
            not_after=datetime(2036, 1, 1, tzinfo=UTC),
            extensions=(
                Extension(OID.keyUsage, True, bytes.fromhex("030205a0")),
                requests.san_extension(f"dns:{SERIAL}.enodeb.example.net", critical=True),
            ),
        )
        cert_req_id = changes.pop("cert_req_id", 355)
        signed = cert_request_der(asked, cert_req_id=cert_req_id)
        return await requests.request(
            world,
            self.credential,
            self.new_key,
            cert_req_der=signed,
            popo_der=await requests.popo(signed, self.new_key, algorithm=SHA1_RSA),
            **{
                "extra_certs": self.extra_certs,
                "message_time": None,
                "transaction_id": bytes.fromhex("5c1f0a92"),
                "sender_nonce": bytes.fromhex("3e9d1177"),
                "recip_nonce": bytes(4),
                **changes,
            },
        )

    async def cert_conf(self, world: World, answer: PKIMessage) -> bytes:
        """Its second message: without any certificate, and without a clock too."""
        return await confirmation(
            world,
            self.credential,
            answer,
            extra_certs=(),
            message_time=None,
            sender_nonce=bytes.fromhex("3e9d1178"),
        )


@pytest.fixture(scope="module")
def legacy() -> LegacyBaseStation:
    return LegacyBaseStation.make()


def legacy_world(
    legacy: LegacyBaseStation,
    operator: pki.OperatorPKI,
    *,
    rules: HeaderRules = STRICT,
    without: Sequence[str] = (),
) -> World:
    """A world that forgives this vendor what it has to, less some of it."""
    quirks = LEGACY_QUIRKS - set(without)
    algorithms = relaxed_algorithms(AlgorithmPolicy(), quirks)
    return World.make(
        legacy.vendor,
        operator,
        rules=rules,
        identity=replace(
            ANY_IDENTITY,
            allowed_subjects=("CN={cn} eNodeB",),
            allowed_sans=("dns:{cn}.enodeb.example.net",),
        ),
        vendor_domain={
            "name": "legacy",
            "algorithms": algorithms,
            "quirks": quirks,
        },
    )


@pytest.mark.requirement(5, 6, 7, 17, 19, 29, 34, 47, 107, 139)
@pytest.mark.parametrize(
    "rules, in_ir, in_cert_conf",
    [
        (
            STRICT,
            LEGACY_QUIRKS - {Quirk.missing_extracerts_in_certconf},
            LEGACY_QUIRKS - {Quirk.any_cert_req_id, Quirk.recip_nonce_in_ir},
        ),
        (
            THREE_GPP,
            {Quirk.short_ids, Quirk.sha1, Quirk.rsa1024},
            {Quirk.short_ids, Quirk.sha1, Quirk.rsa1024},
        ),
    ],
    ids=["strict", "3gpp"],
)
async def test_a_legacy_base_station_enrols(
    legacy: LegacyBaseStation,
    operator_pki: pki.OperatorPKI,
    rules: HeaderRules,
    in_ir: set[Quirk],
    in_cert_conf: set[Quirk],
) -> None:
    """With its quirks forgiven it gets, and confirms, a certificate of today; the log says what was forgiven."""
    world = legacy_world(legacy, operator_pki, rules=rules)
    der = await legacy.ir(world)
    answer = await assert_served(world, der)
    (response,) = cert_rep_message(answer.body_content).responses
    assert response.cert_req_id == 355
    issued = world.ca.issued[0]
    assert issued.subject == f"CN={SERIAL} eNodeB"
    assert issued.signature_algorithm.name == "ecdsa-sha256"
    assert load_der_public_key(issued.spki_der) == legacy.new_key.public_key()
    (asked,) = cert_req_messages(world.ca.messages[0].body_content)
    assert asked.cert_req_id == 355
    assert isinstance(asked.pop, SignaturePOP)
    assert world.ca.messages[0].body_der == PKIMessage.from_der(der).body_der

    cert_conf = await legacy.cert_conf(world, answer)
    assert PKIMessage.from_der(cert_conf).extra_certs == ()
    confirmed = await world.ask(cert_conf)
    assert confirmed.body_der == PKICONF_BODY
    assert_answers(world, PKIMessage.from_der(cert_conf), confirmed)
    assert [event.outcome for event in world.events] == ["issued", "confirmed"]
    assert [set(event.quirks) for event in world.events] == [in_ir, in_cert_conf]


@pytest.mark.requirement(5, 6, 7, 17, 19, 29, 47, 146)
@pytest.mark.parametrize(
    "rules, without, fail_info, rule",
    [
        (STRICT, Quirk.short_ids, "badDataFormat", "R5"),
        (STRICT, Quirk.recip_nonce_in_ir, "badRecipientNonce", "R7"),
        (STRICT, Quirk.no_message_time, "badTime", "R29"),
        (STRICT, Quirk.any_cert_req_id, "badRequest", "R47"),
        (STRICT, Quirk.sha1, "badAlg", "R17"),
        (STRICT, Quirk.rsa1024, "badAlg", "R19"),
        (THREE_GPP, Quirk.short_ids, "badSenderNonce", "R6"),
        (THREE_GPP, Quirk.sha1, "badAlg", "R17"),
        (THREE_GPP, Quirk.rsa1024, "badAlg", "R19"),
    ],
)
async def test_a_legacy_base_station_that_is_not_forgiven(
    legacy: LegacyBaseStation,
    operator_pki: pki.OperatorPKI,
    rules: HeaderRules,
    without: Quirk,
    fail_info: str,
    rule: str,
) -> None:
    """Each single thing it needs is refused for what it is when it is not granted."""
    world = legacy_world(legacy, operator_pki, rules=rules, without=[without])
    der = await legacy.ir(world)
    if rule == "R47":
        await requests.assert_refused_in_body(world, der, fail_info, rule=rule, cert_req_id=355)
    else:
        await assert_refused(world, der, fail_info, rule=rule)


@pytest.mark.requirement(33, 34)
async def test_a_legacy_base_stations_cert_conf_that_is_not_forgiven(
    legacy: LegacyBaseStation, operator_pki: pki.OperatorPKI
) -> None:
    """To the letter, certConf brings the certificate it is signed with; one that does confirms."""
    world = legacy_world(legacy, operator_pki, without=[Quirk.missing_extracerts_in_certconf])
    answer = await assert_served(world, await legacy.ir(world))
    refused = await world.ask(await legacy.cert_conf(world, answer))
    assert (refused.body_type, fail_names(refused)) == (BodyType.error, ["badMessageCheck"])
    assert world.events[-1].rule == "R33"
    complete = await confirmation(
        world, legacy.credential, answer, message_time=None, sender_nonce=bytes(4)
    )
    assert (await world.ask(complete)).body_der == PKICONF_BODY


@pytest.mark.requirement(17, 18, "T4")
@pytest.mark.parametrize("kind", ["p384", "p521", "ed25519", "ed448"])
@pytest.mark.parametrize("where", ["signer", "requested"])
async def test_curves_of_the_profile(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, kind: Any, where: str
) -> None:
    """The list of TS 33.310 6.1.1 is open: any that is supported will do."""
    world = World.make(vendor_pki, operator_pki, rules=THREE_GPP)
    signer, key = cast(
        "tuple[Any, Any]", ("p256", kind) if where == "requested" else (kind, "p256")
    )
    device = cmp_credential(world.device(key=signer))
    await assert_served(world, await requests.request(world, device, pki.make_key(key)))


@pytest.mark.requirement(18, 61, "T4")
@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP192R1()], ids=["P-224", "P-192"])
@pytest.mark.parametrize("strictness", Strictness)
async def test_a_curve_below_256_bits(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    curve: ec.EllipticCurve,
    strictness: Strictness,
) -> None:
    """Is neither certified nor signs anything."""
    world = World.make(vendor_pki, operator_pki, rules=HeaderRules(strictness=strictness))
    weak = ec.generate_private_key(curve)
    der = await requests.request(world, cmp_credential(world.device()), weak)
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R61")
    device = cmp_credential(world.device(key=weak))
    der = await requests.request(world, device, pki.make_key("p256"))
    assert fail_names(await world.ask(der)) == ["badAlg"]
    assert world.ca.received == []


@pytest.mark.requirement(17, 18)
@pytest.mark.parametrize("kind", ["mldsa65"])
@pytest.mark.parametrize("where", ["signer", "requested"])
async def test_algorithms_outside_of_the_profile(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, kind: Any, where: str
) -> None:
    """TS 33.310 6.1.1 has no ML-DSA; an endpoint that is not held to it takes it."""
    for rules, taken in ((THREE_GPP, False), (HeaderRules(), True)):
        world = World.make(vendor_pki, operator_pki, rules=rules)
        signer: Any
        key: Any
        signer, key = ("p256", kind) if where == "requested" else (kind, "p256")
        device = cmp_credential(world.device(key=signer))
        der = await requests.request(world, device, pki.make_key(key))
        if taken:
            await assert_served(world, der)
        elif where == "requested":
            await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R61")
        else:
            answer = await world.ask(der)
            assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badAlg"])
            assert world.ca.received == []


@pytest.mark.requirement(7, 29, 47, "T39", "T41")
@pytest.mark.parametrize(
    "quirk", [Quirk.recip_nonce_in_ir, Quirk.no_message_time, Quirk.any_cert_req_id]
)
async def test_what_a_3gpp_endpoint_does_not_mind(
    legacy: LegacyBaseStation, operator_pki: pki.OperatorPKI, quirk: Quirk
) -> None:
    """Outside strict mode a recipNonce, no messageTime and a certReqId of 355 need no forgiveness."""
    world = legacy_world(legacy, operator_pki, rules=THREE_GPP, without=[quirk])
    await assert_served(world, await legacy.ir(world))


@pytest.mark.requirement(6)
async def test_forgiveness_is_for_one_vendor_only(
    legacy: LegacyBaseStation, operator_pki: pki.OperatorPKI, vendor_pki: pki.VendorPKI
) -> None:
    """Another vendor at the same endpoint gets none of it."""
    lenient = legacy_world(legacy, operator_pki).endpoint
    modern = World.make(vendor_pki, operator_pki).endpoint
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={
            "vendors": (*lenient.vendors, *modern.vendors),
            "identities": {**lenient.identities, **modern.identities},
        },
    )
    await assert_served(world, await legacy.ir(world))
    device, key = cmp_credential(world.device()), pki.make_key("p256")
    await assert_served(world, await requests.request(world, device, key))
    der = await requests.request(world, device, key, sender_nonce=bytes(4))
    await assert_refused(world, der, "badSenderNonce", rule="R6")


@pytest.mark.requirement(34, 35, 105)
async def test_a_legacy_base_stations_cert_conf_by_another_key(
    legacy: LegacyBaseStation, operator_pki: pki.OperatorPKI
) -> None:
    """Without extraCerts the signer is the one that opened the transaction: the new key confirms nothing."""
    world = legacy_world(legacy, operator_pki)
    answer = await assert_served(world, await legacy.ir(world))
    thief = replace(legacy.credential, signer=KeySigner(legacy.new_key, SHA1_RSA))
    der = await confirmation(world, thief, answer, extra_certs=(), message_time=None)
    await assert_refused(world, der, "badMessageCheck", rule="R15")
    confirmed = await world.ask(await legacy.cert_conf(world, answer))
    assert confirmed.body_der == PKICONF_BODY


@pytest.mark.requirement(16, 139)
async def test_a_legacy_base_stations_certificates_in_any_order(
    legacy: LegacyBaseStation, operator_pki: pki.OperatorPKI
) -> None:
    """Its self-signed root among them, in any order, and outside the protection."""
    world = legacy_world(legacy, operator_pki, rules=THREE_GPP)
    for number, shuffled in enumerate(permutations(legacy.extra_certs)):
        der = await legacy.ir(world, transaction_id=bytes((number, 0, 0, 1)))
        await assert_served(world, with_extra_certs(der, shuffled))
