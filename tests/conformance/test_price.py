"""What a message costs before its sender is known: counted in keys, names, signatures and elements, not in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from ra_gateway.cmp import algorithms, asn1, certificates, mac, names, structures, trust
from ra_gateway.cmp.algorithms import (
    AlgorithmPolicy,
    AlgorithmRefused,
    load_public_key,
    public_key_kind,
    signature_algorithm,
)
from ra_gateway.cmp.bodies import cert_confirm_content, error_msg_content, rev_req_content
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.crmf import cert_req_messages, certification_request
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.remembering import Memory
from ra_gateway.cmp.trust import Bag, DomainKind, NoPath, SearchBudget, TrustDomain
from ra_gateway.cmp.verification import authenticate
from ra_gateway.errors import CMPError, MalformedMessage, SignerNotTrusted
from tests.support import pki, requests, strangers
from tests.support.asserts import assert_refused
from tests.support.harness import ANY_IDENTITY, World, cmp_certificate, cmp_credential, status_of
from tests.support.pki import KeyKind, OperatorPKI, VendorPKI, make_key, make_vendor_pki
from tests.support.strangers import FOREIGN_KEYS, SHAPES, Stranger


@dataclass
class Counter:
    """How often the dear things were done, and with what."""

    loaded: list[bytes]
    verified: list[bytes]
    canonical: list[bytes]
    decoded: list[bytes]
    copied: list[bytes]
    derived: list[int]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts, around the real parts."""
    counts = Counter([], [], [], [], [], [])

    def count(place: Any, name: str, into: list[Any], what: Callable[..., Any]) -> None:
        real = getattr(place, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            into.append(what(*arguments))
            return real(*arguments, **options)

        monkeypatch.setattr(place, name, counting)

    count(algorithms, "load_der_public_key", counts.loaded, lambda der: der)
    count(certificates, "verify_signature", counts.verified, lambda *given: given[2])
    count(names, "_rdns", counts.canonical, lambda der: der)
    count(asn1, "decode", counts.decoded, lambda cls, der: der)
    count(asn1, "raw", counts.copied, lambda element: b"")
    count(mac.MACParameters, "derive", counts.derived, lambda self, secret: self.iterations)
    return counts


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> World:
    """A gateway with three vendors of which one is meant."""
    first = World.make(vendor_pki, operator_pki)
    others = [
        replace(
            first.endpoint.vendors[0],
            name=f"vendor {number}",
            anchors=(cmp_certificate(make_vendor_pki("Other").root.certificate),),
        )
        for number in range(2)
    ]
    vendors = (*others, *first.endpoint.vendors)
    return World.make(vendor_pki, operator_pki, endpoint={"vendors": vendors})


@pytest.fixture
async def stranger(world: World) -> Stranger:
    heard = PKIMessage.from_der(await world.enrollment(world.device()).request())
    return Stranger(heard, cmp_certificate(world.vendor.root.certificate))


# --- whole messages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
async def test_a_strangers_message_costs_little(
    world: World, stranger: Stranger, counter: Counter, name: str
) -> None:
    """Whatever its shape: no key of its own is loaded, and the rest is bounded whatever its length."""
    der = strangers.shape(name, stranger)
    counts = vars(counter)
    for items in counts.values():
        items.clear()
    await world.post(der)
    assert world.events[-1].outcome == "refused"
    assert world.events[-1].bug is None
    own = {cmp_certificate(world.vendor.root.certificate).spki_der}
    assert set(counter.loaded) <= own
    assert len(counter.verified) <= 6
    assert len(counter.canonical) <= 16
    assert len(counter.decoded) <= 100
    assert len(counter.copied) <= 300
    assert not counter.derived
    assert len(world.events[-1].detail) <= 4 * strangers.MAX_BODY_OCTETS


def test_bodies_are_counted_before_they_are_decoded(counter: Counter) -> None:
    """Whoever sends them: what is inside a request, at whatever depth, and before anything of it is looked at."""
    empty, null = strangers.sequence(), b"\x05\x00"
    pair = strangers.sequence(asn1.oid_der("1.2.3"), null)
    extension = strangers.extension("1.2.3", b"")
    template = asn1.tlv(0xA9, extension * 2000)
    key = strangers.P256_KEY
    attributes = strangers.context(
        0, strangers.sequence(asn1.oid_der("1.2.3"), asn1.tlv(0x31)) * 2000
    )
    info = strangers.sequence(b"\x02\x01\x00", empty, key, attributes)
    texts = strangers.sequence(b"\x02\x01\x02", strangers.sequence(b"\x0c\x00" * 2000))
    request = strangers.sequence(b"\x02\x01\x00", empty)
    for read, content in (
        (
            cert_req_messages,
            [strangers.sequence(strangers.sequence(b"\x02\x01\x00", strangers.sequence(template)))],
        ),
        (
            cert_req_messages,
            [
                strangers.sequence(
                    strangers.sequence(b"\x02\x01\x00", empty, strangers.sequence(pair * 2000))
                )
            ],
        ),
        (cert_req_messages, [strangers.sequence(request, strangers.sequence(pair * 2000))]),
        (certification_request, [info, strangers.ECDSA, asn1.tlv(0x03, b"\x00")]),
        (rev_req_content, [strangers.sequence(empty, strangers.sequence(extension * 2000))]),
        (cert_confirm_content, [strangers.sequence(b"\x04\x00\x02\x01\x00", texts)]),
        (error_msg_content, [texts]),
    ):
        with pytest.raises(MalformedMessage, match="512"):
            read(strangers.sequence(*content))
    assert counter.decoded == []


def test_headers_and_certificates_are_counted_before_they_are_decoded(
    stranger: Stranger, counter: Counter
) -> None:
    """Decoding thirty thousand elements costs as much as a hundred signatures, and anybody sends them."""
    infos = strangers.sequence(strangers.sequence(asn1.oid_der("1.2.3")) * 6000)
    texts = strangers.sequence(b"\x0c\x00" * 20_000)
    extensions = [strangers.extension(f"1.2.{number}", b"") for number in range(3000)]
    for read, der, what, outside in (
        (PKIMessage.from_der, stranger.message(b"\x05\x00" * 30_000), "extraCerts", 0),
        (PKIMessage.from_der, stranger.message(general_info=infos), "generalInfo", 1),
        (PKIMessage.from_der, stranger.message(free_text=texts), "freeText", 1),
        (Certificate.from_der, stranger.signer(*extensions), "extensions", 1),
    ):
        counter.decoded.clear()
        with pytest.raises(MalformedMessage, match=f"more than [0-9]+ elements in {what}"):
            read(der)
        assert counter.decoded == [der] * outside  # where it is left closed what they are in


async def test_one_request_is_all_that_is_decoded(world: World, counter: Counter) -> None:
    """A known device's second CertReqMsg has its whole message refused, unseen."""
    enrollment = world.enrollment(world.device())
    sent = PKIMessage.from_der(await enrollment.request())
    one = asn1.inner(sent.body_content)
    credential = cmp_credential(world.device())
    many = await protect(
        sent.header,
        asn1.tlv(0xA0, strangers.sequence(one * 60)),
        credential,
        credential.certificates,
    )
    counter.decoded.clear()
    await world.post(many)
    assert (world.events[-1].rule, world.events[-1].bug) == ("R46", None)
    assert one not in counter.decoded
    assert len(counter.decoded) <= 60


@pytest.mark.parametrize("octets, iterations", [(32, 5000), (33, 2500), (64, 2500)])
def test_a_block_of_a_key_costs_as_much_as_its_iterations(octets: int, iterations: int) -> None:
    """PBKDF2 runs all iterations for each block (RFC 8018 5.2), so that is what is bounded."""
    hmac = strangers.sequence(asn1.oid_der("1.2.840.113549.2.9"))

    def parameters(count: int) -> bytes:
        pbkdf2 = strangers.sequence(
            asn1.tlv(0x04, bytes(16)), asn1.encode(count), asn1.encode(octets), hmac
        )
        function = strangers.sequence(asn1.oid_der("1.2.840.113549.1.5.12"), pbkdf2)
        return strangers.sequence(
            asn1.oid_der("1.2.840.113549.1.5.14"), strangers.sequence(function, hmac)
        )

    bounds = mac.MACBounds(max_iterations=5000)
    assert mac.mac_parameters(parameters(iterations), bounds).iterations == iterations
    with pytest.raises(AlgorithmRefused, match="iterations"):
        mac.mac_parameters(parameters(iterations + 1), bounds)


@pytest.mark.parametrize("kind, most", [("p256", 6), ("p384", 3), ("p521", 3)])
def test_wrong_signatures_that_are_slow_to_verify_are_fewer(
    counter: Counter, kind: KeyKind, most: int
) -> None:
    """On a longer curve one takes eight times as long, and a search that tried them all has an end."""
    root = cmp_certificate(make_vendor_pki("Slow", kind).root.certificate)
    budget = SearchBudget()
    for number in range(20):
        name = from_rfc4514(f"CN={number}")
        forged = Certificate.from_der(strangers.forged(name, root.subject_der, root.spki_der))
        with pytest.raises((InvalidSignature, SignerNotTrusted)):
            budget.verify_link(forged, root)
    assert len(counter.verified) == most
    assert budget.is_spent


def test_names_of_a_bag_are_read_within_a_budget(stranger: Stranger, counter: Counter) -> None:
    """Chains in order, whose issuers are named by the very octets of their subjects, are found all the same."""
    names = [strangers.long_name(15, f"{number}") for number in range(40)]
    bag = [
        Certificate.from_der(
            strangers.forged(
                names[2 * number], names[2 * number + 1], stranger.key_der, strangers.CA
            )
        )
        for number in range(16)
    ]
    above = strangers.forged(names[38], stranger.anchor.subject_der, stranger.key_der, strangers.CA)
    leaf = Certificate.from_der(stranger.signer(issuer=names[38]))
    domain = TrustDomain("v", DomainKind.vendor, (stranger.anchor,))
    now = leaf.not_before + timedelta(days=365)
    with pytest.raises(NoPath):
        domain.find_path(leaf, bag, now)
    assert len({*counter.canonical}) <= 14
    with pytest.raises(SignerNotTrusted, match="was not signed by the key"):
        domain.find_path(leaf, [*bag, Certificate.from_der(above)], now)


async def test_a_strangers_certificates_are_not_kept(
    world: World, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an authentic message's certificates are remembered, so nobody else pushes them out."""
    memory: Memory[Certificate] = Memory(1_000_000)
    monkeypatch.setattr(certificates, "_KNOWN", memory)
    for _ in range(20):
        await world.post(strangers.shape("three forged leaves", stranger))
    assert len(memory) == 0
    der = await world.enrollment(world.device("ENB-7")).request()
    await world.post(der)
    extra_certs = PKIMessage.from_der(der).extra_certs
    assert memory.get(extra_certs[0]) is load_certificate(extra_certs[0])


async def test_more_certificates_than_the_endpoint_takes_are_not_decoded(
    world: World, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted first."""
    decoded: list[bytes] = []
    real = Certificate.from_der

    def counting(der: bytes) -> Certificate:
        decoded.append(der)
        return real(der)

    monkeypatch.setattr(certificates.Certificate, "from_der", counting)
    load_certificate(stranger.signer())
    assert decoded.pop()
    bag = [stranger.signer() for _ in range(17)]
    await assert_refused(world, stranger.message(*bag), "badRequest", rule="RFC 9483 3.3")
    assert not set(decoded) & set(bag)


@pytest.mark.requirement(5)
@pytest.mark.parametrize("octets", [64, 65, 60_000])
async def test_a_transaction_id_has_64_octets_at_most(world: World, octets: int) -> None:
    """It is kept, and written into every line of the log."""
    device = world.device()
    heard = PKIMessage.from_der(await world.enrollment(device).request())
    header = replace(heard.header, transaction_id=bytes(octets))
    der = await protect(header, heard.body_der, cmp_credential(device), heard.extra_certs)
    answer = await world.ask(der)
    if octets > 64:
        assert world.events[-1].rule == "R5"
        assert answer.body_type.name == "error"
    else:
        assert answer.body_type.name == "ip"


# --- keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FOREIGN_KEYS)
def test_a_key_off_the_list_is_not_loaded(counter: Counter, name: str) -> None:
    """Judged by algorithm, curve and length, whatever the library could make of it."""
    with pytest.raises((AlgorithmRefused, MalformedMessage)):
        load_public_key(FOREIGN_KEYS[name])
    with pytest.raises((AlgorithmRefused, MalformedMessage)):
        AlgorithmPolicy().require_key(FOREIGN_KEYS[name], "has a key")
    assert not counter.loaded


@pytest.mark.requirement(61)
@pytest.mark.parametrize("name", FOREIGN_KEYS)
async def test_a_key_off_the_list_is_not_certified(
    world: World, counter: Counter, name: str
) -> None:
    """In a template it is badCertTemplate, also from a device that is known."""
    asked = requests.template(make_key("p256"), spki_der=FOREIGN_KEYS[name])
    device = cmp_credential(world.device())
    der = await requests.request(world, device, make_key("p256"), asked, popo_der=b"")
    await requests.assert_refused_in_body(world, der, "badCertTemplate", rule="R61")
    assert FOREIGN_KEYS[name] not in counter.loaded


@pytest.mark.parametrize(
    "kind", ["p256", "p384", "p521", "rsa2048", "ed25519", "ed448", "mldsa44", "mldsa65"]
)
def test_a_key_on_the_list_is_judged_as_it_is_loaded(kind: KeyKind) -> None:
    """The octets say what the library says."""
    spki_der = requests.spki(make_key(kind))
    judged, key = public_key_kind(spki_der), load_public_key(spki_der)
    assert judged.family == algorithms.key_family(key)
    assert judged.rsa_bits == (getattr(key, "key_size", 0) if judged.family == "rsa" else 0)


@pytest.mark.requirement(19)
def test_a_domain_bounds_rsa_keys_on_both_sides() -> None:
    """8192 bits unless told otherwise; the key is not loaded to find out."""
    for bits, most in ((8193, 8192), (4097, 4096), (16_384, 16_383)):
        with pytest.raises(AlgorithmRefused, match=str(most)) as caught:
            AlgorithmPolicy(max_rsa_bits=most).require_key(strangers.rsa_key(bits), "has a key")
        assert caught.value.rule == "R19"
        AlgorithmPolicy(max_rsa_bits=bits).require_key(strangers.rsa_key(bits), "has a key")


def test_a_key_is_touched_after_the_signature_over_it(
    vendor_pki: VendorPKI, stranger: Stranger, world: World, counter: Counter
) -> None:
    """A forged CA, alone or above others, and a forged leaf below a true CA: nobody's key is looked at."""
    anchor = cmp_certificate(vendor_pki.root.certificate)
    foreign = FOREIGN_KEYS["dhKeyAgreement"]
    name, lower = names.from_rfc4514("CN=Sub"), names.from_rfc4514("CN=Below")
    ca = Certificate.from_der(strangers.forged(name, anchor.subject_der, foreign, strangers.CA))
    below = Certificate.from_der(strangers.forged(lower, name, foreign, strangers.CA))
    leaf = Certificate.from_der(stranger.signer(issuer=name, key=foreign))
    lowest = Certificate.from_der(stranger.signer(issuer=lower, key=foreign))
    direct = Certificate.from_der(stranger.signer(key=foreign))
    domain = world.endpoint.vendors[-1]
    for chain in ((leaf, ca), (lowest, below, ca), (direct,)):
        with pytest.raises(CMPError, match="was not signed by"):
            domain.find_path(chain[0], chain[1:], world.clock())
    assert foreign not in counter.loaded


# --- names, elements, algorithms --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name_der",
    [
        strangers.long_name(16),
        strangers.sequence(strangers.rdn(*map(str, range(17)))),
        strangers.sequence(*(strangers.rdn("a", "b") for _ in range(9))),
        strangers.sequence(strangers.rdn("x" * 5000)),
        b"\x30\x02\x1f\x01",
    ],
    ids=["RDNs", "attributes", "both", "octets", "long tag"],
)
def test_a_name_beyond_the_bounds_is_not_decoded(counter: Counter, name_der: bytes) -> None:
    """Its elements are counted by their headers."""
    for function in (names.canonical, names.rfc4514, names.attributes):
        with pytest.raises(MalformedMessage):
            function(name_der)
    assert not counter.decoded


def test_a_name_within_the_bounds_is_read() -> None:
    """Sixteen attributes, each in an RDN of its own or all in one."""
    assert len(names.canonical(strangers.long_name(15))) == 16
    together = strangers.sequence(strangers.rdn(*map(str, range(10, 26))))
    assert len(names.canonical(together)[0]) == 16


def test_elements_cannot_hide_from_being_counted() -> None:
    """Lengths that point elsewhere, and tags of several octets, are refused rather than skipped."""
    element = b"\x05\x00"
    assert len(asn1.spans(element * 9, 0, 18, 9, "list")) == 9
    for der in (
        element * 10,
        b"\x30\x82\x00",
        b"\x04\x05abc",
        b"\x1f\x84\x01\x00",
        b"\x04\x84\xff\xff\xff\xff",
    ):
        with pytest.raises(MalformedMessage):
            asn1.spans(der, 0, len(der), 9, "list")


def test_canonical_names_are_made_once_for_a_certificate(
    stranger: Stranger, counter: Counter
) -> None:
    """However often a search for paths looks at them."""
    name = strangers.long_name(15, "once")
    certificate = Certificate.from_der(stranger.signer(issuer=name))
    for _ in range(10):
        assert certificate.issuer_name == certificate.issuer_name
    assert counter.canonical.count(name) == 1


@pytest.mark.parametrize(
    "parameters",
    [b"\x05\x00", b"\x30\x00", b"\x06\x01\x2a"],
    ids=["NULL", "empty", "OID"],
)
@pytest.mark.parametrize("oid", ["1.2.840.10045.4.3.2", "1.3.101.112", "2.16.840.1.101.3.4.3.17"])
def test_algorithms_without_parameters_have_none(oid: str, parameters: bytes) -> None:
    """One spelling each: ECDSA, EdDSA and ML-DSA."""
    signature_algorithm(strangers.sequence(asn1.oid_der(oid)))
    with pytest.raises(AlgorithmRefused, match="must not have"):
        signature_algorithm(strangers.sequence(asn1.oid_der(oid), parameters))


@pytest.mark.parametrize("parameters", [b"\x30\x00", b"\x05\x01\x00", b"\x04\x00"])
def test_hashes_have_null_or_nothing(parameters: bytes) -> None:
    """In PSS and in hashAlg: other parameters would be other spellings of one certificate."""
    sha256 = asn1.oid_der("2.16.840.1.101.3.4.2.1")
    for given in (b"", b"\x05\x00"):
        hashed = strangers.sequence(sha256, given)
        assert (
            algorithms.hash_algorithm(asn1.decode(structures.AlgorithmIdentifier, hashed))
            == "sha256"
        )
    hashed = strangers.sequence(sha256, parameters)
    with pytest.raises(CMPError):
        algorithms.hash_algorithm(asn1.decode(structures.AlgorithmIdentifier, hashed))
    mask = strangers.sequence(asn1.oid_der("1.2.840.113549.1.1.8"), hashed)
    pss = strangers.sequence(
        strangers.context(0, hashed),
        strangers.context(1, mask),
        strangers.context(2, b"\x02\x01\x20"),
    )
    with pytest.raises(CMPError):
        signature_algorithm(strangers.sequence(asn1.oid_der("1.2.840.113549.1.1.10"), pss))


def test_what_is_remembered_is_bounded_in_octets() -> None:
    """The oldest go first, and what is larger than all of the memory is not kept."""
    memory: Memory[int] = Memory(1000)
    for number in range(100):
        memory.keep(bytes(99) + bytes([number]), number)
    assert len(memory) == 10
    assert memory.get(bytes(99) + bytes([99])) == 99
    assert memory.get(bytes(99) + bytes([0])) is None
    memory.keep(bytes(1001), 0)
    assert len(memory) == 10


@pytest.mark.parametrize(
    "function, short, long",
    [
        (asn1.known_element, asn1.tlv(0x04, bytes(100)), asn1.tlv(0x04, bytes(10_000))),
        (names.canonical, strangers.long_name(2), strangers.sequence(strangers.rdn("x" * 3000))),
        (names.rfc4514, strangers.long_name(2), strangers.sequence(strangers.rdn("x" * 3000))),
        (public_key_kind, strangers.P256_KEY, strangers.rsa_key(16_000)),
    ],
)
def test_what_is_long_is_not_remembered(
    function: Callable[[bytes], Any], short: bytes, long: bytes
) -> None:
    """Thousands of results may be kept, so that each of them has to be small: strangers choose what is looked at."""
    assert function(short) is function(bytes(bytearray(short)))
    assert function(long) is not function(bytes(bytearray(long)))


async def test_the_last_of_many_vendors_is_found(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """What the search in other vendors' domains takes of the budget is not missing for its own."""
    others = [
        TrustDomain(f"other{number}", DomainKind.vendor, (cmp_certificate(root.certificate),))
        for number, root in enumerate(pki.make_root(f"Other {number}") for number in range(160))
    ]
    own = World.make(vendor_pki, operator_pki).endpoint.vendors
    vendors = (*others, *own)
    world = World.make(
        vendor_pki,
        operator_pki,
        endpoint={"vendors": vendors, "identities": {item.name: ANY_IDENTITY for item in vendors}},
    )
    answer = await world.ask(await world.enrollment(world.device()).request())
    assert status_of(answer).issued


def _vendors(stranger: Stranger, count: int) -> list[TrustDomain]:
    """Trust domains of roots of their own, but every fourth of the one that is an anchor to the stranger."""
    return [
        TrustDomain(
            f"vendor {number}",
            DomainKind.vendor,
            (
                stranger.anchor
                if number % 4 == 3
                else cmp_certificate(pki.make_root(f"Vendor {number}").certificate),
            ),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("vendors", [1, 10, 40])
@pytest.mark.parametrize("anchor", [True, False], ids=["an anchor's", "nobody's"])
def test_many_vendors_cost_little_more_than_one(
    stranger: Stranger,
    counter: Counter,
    monkeypatch: pytest.MonkeyPatch,
    vendors: int,
    anchor: bool,
) -> None:
    """CAs of one name that certify themselves, and one that an anchor has certified, so it says."""
    name = from_rfc4514("CN=Namesake")
    above = stranger.anchor.subject_der if anchor else from_rfc4514("CN=Nobody")
    issuers = [name] * 12 + [above]
    cas = [strangers.forged(name, issuer, stranger.key_der, strangers.CA) for issuer in issuers]
    signers = [stranger.signer(issuer=name) for _ in range(3)]
    domains = _vendors(stranger, vendors)
    message = PKIMessage.from_der(stranger.message(*signers, *cas))
    looked: list[Certificate] = []
    real = trust._leads_on

    def counting(candidate: Certificate, budget: SearchBudget) -> bool:
        looked.append(candidate)
        return real(candidate, budget)

    monkeypatch.setattr(trust, "_leads_on", counting)
    vars(counter)["verified"].clear()
    now = stranger.anchor.not_before + timedelta(days=1)
    with pytest.raises(SignerNotTrusted) as caught:
        authenticate(message, domains, HeaderRules(extra_certs_max_count=16), now)
    sharing = sum(domain.anchors == (stranger.anchor,) for domain in domains)
    assert len(looked) <= (24 + 4 * sharing if anchor else 0)
    assert len(counter.verified) <= 6
    assert len(caught.value.detail) < 600


def test_certificates_of_one_device_do_not_take_from_each_other() -> None:
    """A domain in which a path was found may be searched again: a renewed certificate has its twin in the message."""
    vendor = make_vendor_pki("ACME Radio")
    root, sub = (cmp_certificate(item.certificate) for item in (vendor.root, vendor.sub))
    leaves = [cmp_certificate(vendor.device("ENB-1").certificate) for _ in range(5)]
    domain = TrustDomain("acme", DomainKind.vendor, (root,))
    budget, bag = SearchBudget(candidates=0), Bag([*leaves, sub])
    for leaf in leaves:
        path = domain.find_path(leaf, bag, sub.not_before + timedelta(days=1), budget=budget)
        assert path == (leaf, sub, root)


@pytest.mark.parametrize("count", [certificates.MAX_EXTENSIONS, certificates.MAX_EXTENSIONS + 1])
def test_short_extensions_are_counted_as_well(stranger: Stranger, count: int) -> None:
    """So few octets are decoded before they are counted."""
    name = from_rfc4514("CN=Many")
    many = [
        asn1.tlv(0x30, asn1.oid_der(f"1.3.6.1.4.1.99999.{n}"), asn1.tlv(0x04, b"\x05\x00"))
        for n in range(count)
    ]
    der = strangers.forged(name, name, stranger.key_der, *many)
    if count == certificates.MAX_EXTENSIONS:
        assert len(Certificate.from_der(der).extensions) == count
    else:
        with pytest.raises(MalformedMessage, match="more than 24 extensions"):
            Certificate.from_der(der)


@pytest.mark.parametrize("count", [asn1.MAX_ELEMENTS, asn1.MAX_ELEMENTS + 1])
def test_elements_of_a_sequence_are_counted(count: int) -> None:
    """One more than are read is refused before any is decoded."""
    octets = asn1.tlv(0x30, asn1.oid_der("1.2.3") * count)
    if count == asn1.MAX_ELEMENTS:
        assert len(asn1.unbox(structures.OIDsBox, octets).oids) == count
    else:
        with pytest.raises(MalformedMessage, match="more than 256 elements"):
            asn1.unbox(structures.OIDsBox, octets)
