"""Requests under a shared secret: PasswordBasedMac and PBMAC1 (RFC 9483 4.1.5)."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.codes import OID, BodyType
from ra_gateway.cmp.mac import MACBounds, MACParameters
from ra_gateway.cmp.messages import (
    ANYONE,
    CertStatus,
    PKIHeader,
    PKIMessage,
    assemble,
    cert_confirm_body,
    cert_rep_message,
    cert_request_der,
)
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.protection import protected_part
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import HeaderRules, Strictness, authenticate_answer
from ra_gateway.errors import ConfigError, UpstreamUnavailable
from ra_gateway.ra.ports import Claim
from ra_gateway.ra.routes import Endpoint, MACAccess
from ra_gateway.stores.secrets import SecretFile
from tests.conformance.test_p10cr import csr
from tests.support import requests
from tests.support.asserts import assert_refused
from tests.support.harness import ManualClock, World, cmp_certificate, cmp_credential, fail_names
from tests.support.pki import OperatorPKI, VendorPKI, make_key

REFERENCE = "enb-1-ref"
SECRET = "correct horse battery staple"
OTHER = ("enb-2-ref", "another secret of some length")
ONCE = ("once-ref", "a secret good for one thing")
SUBJECT = requests.SUBJECT

SHA1 = "1.3.14.3.2.26"
SHA256 = "2.16.840.1.101.3.4.2.1"
HMAC_SHA1 = "1.3.6.1.5.5.8.1.2"
HMAC_SHA256 = "1.2.840.113549.2.9"
HMAC_SHA512 = "1.2.840.113549.2.11"
NAMES = {HMAC_SHA1: "sha1", HMAC_SHA256: "sha256", HMAC_SHA512: "sha512"}


def identifier(oid: str, *parameters: bytes) -> bytes:
    return asn1.tlv(0x30, asn1.oid_der(oid), *parameters)


def pbm(
    *,
    salt: bytes = b"0123456789abcdef",
    owf: str = SHA256,
    iterations: int = 500,
    mac: str = HMAC_SHA256,
    owf_parameters: bytes = b"",
    mac_parameters: bytes = b"",
) -> bytes:
    parameters = asn1.tlv(
        0x30,
        asn1.encode(salt),
        identifier(owf, owf_parameters),
        asn1.encode(iterations),
        identifier(mac, mac_parameters),
    )
    return identifier(OID.passwordBasedMac, parameters)


def pbmac1(
    *,
    salt: bytes = b"0123456789abcdef",
    iterations: int = 500,
    key_octets: int | None = 32,
    prf: str | None = HMAC_SHA256,
    mac: str = HMAC_SHA256,
    prf_parameters: bytes = b"\x05\x00",
    mac_parameters: bytes = b"",
) -> bytes:
    length = b"" if key_octets is None else asn1.encode(key_octets)
    derivation = asn1.tlv(
        0x30,
        asn1.encode(salt),
        asn1.encode(iterations),
        length,
        b"" if prf is None else identifier(prf, prf_parameters),
    )
    return identifier(
        OID.pbmac1,
        asn1.tlv(
            0x30, identifier("1.2.840.113549.1.5.12", derivation), identifier(mac, mac_parameters)
        ),
    )


def mac_of(algorithm_der: bytes, secret: str, octets: bytes) -> bytes:
    """The MAC, computed here a second time and straight from the RFCs."""
    found = asn1.decode(asn1.AlgorithmIdentifier, algorithm_der)
    content = asn1.raw(found.parameters)
    if found.algorithm.dotted_string == OID.passwordBasedMac:
        p = asn1.decode(asn1.PBMParameter, content)
        key = hashlib.sha256(secret.encode() + p.salt).digest()
        for _ in range(min(p.iteration_count, 30_000) - 1):
            key = hashlib.sha256(key).digest()
        name = NAMES[p.mac.algorithm.dotted_string]
    else:
        q = asn1.decode(asn1.PBMAC1Params, content)
        assert q.key_derivation_func.parameters is not None
        k = asn1.decode(asn1.PBKDF2Params, asn1.raw(q.key_derivation_func.parameters))
        name = NAMES[q.message_auth_scheme.algorithm.dotted_string]
        prf = "sha1" if k.prf is None else NAMES[k.prf.algorithm.dotted_string]
        size = k.key_length or hashlib.new(name).digest_size
        key = hashlib.pbkdf2_hmac(prf, secret.encode(), k.salt, k.iteration_count, size)
    return hmac.new(key, octets, name).digest()


def maced(
    header: PKIHeader, body_der: bytes, secret: str = SECRET, algorithm_der: bytes | None = None
) -> bytes:
    """A message under a MAC."""
    algorithm_der = pbm() if algorithm_der is None else algorithm_der
    header_der = replace(header, protection_alg_der=algorithm_der).to_der()
    return assemble(
        header_der, body_der, mac_of(algorithm_der, secret, protected_part(header_der, body_der))
    )


def sender(name: str) -> bytes:
    return directory_name(from_rfc4514(name))


async def ir(
    world: World,
    *,
    reference: str = REFERENCE,
    secret: str = SECRET,
    algorithm_der: bytes | None = None,
    subject: str | None = SUBJECT,
    body_type: BodyType = BodyType.ir,
    san: tuple[str, ...] = (),
    popo_der: bytes | None = None,
    **header: Any,
) -> bytes:
    """An ir (or another request) under a MAC, in order but for what the arguments say."""
    key = make_key("p256")
    if body_type is BodyType.p10cr:
        body_der = asn1.tlv(0xA0 | BodyType.p10cr, csr(key, subject or ""))
    else:
        request_der = cert_request_der(requests.template(key, subject, san), cert_req_id=0)
        popo = await requests.popo(request_der, key) if popo_der is None else popo_der
        body_der = requests.requests_body(asn1.tlv(0x30, request_der, popo), body_type=body_type)
    usual = PKIHeader(
        sender_der=sender(f"CN={reference}"),
        sender_kid=reference.encode(),
        recipient_der=ANYONE,
        message_time=world.clock(),
        transaction_id=secrets.token_bytes(16),
        sender_nonce=secrets.token_bytes(16),
    )
    return maced(replace(usual, **header), body_der, secret, algorithm_der)


def cert_conf(
    world: World, answer: PKIMessage, *, reference: str = REFERENCE, secret: str = SECRET
) -> bytes:
    """The certConf after an ip, under a MAC."""
    (response,) = cert_rep_message(answer.body_content).responses
    status = CertStatus(digest("sha256", response.certificate_der or b""), response.cert_req_id)
    header = PKIHeader(
        sender_der=sender(f"CN={reference}"),
        sender_kid=reference.encode(),
        recipient_der=ANYONE,
        message_time=world.clock(),
        transaction_id=answer.header.transaction_id,
        sender_nonce=secrets.token_bytes(16),
        recip_nonce=answer.header.sender_nonce,
    )
    return maced(header, cert_confirm_body(status), secret)


def assert_maced(
    answer: PKIMessage, request_der: bytes, secret: str = SECRET, reference: str = REFERENCE
) -> None:
    """Assert that an answer has the MAC of its request's secret and kind."""
    request = PKIMessage.from_der(request_der)
    assert answer.header.protection_alg_der == request.header.protection_alg_der
    assert answer.header.sender_kid == reference.encode()
    assert answer.header.sender_name_der == from_rfc4514(f"CN={reference}")
    assert answer.header.recip_nonce == request.header.sender_nonce
    expected = mac_of(
        request.header.protection_alg_der or b"",
        secret,
        protected_part(answer.header_der, answer.body_der),
    )
    assert answer.protection == expected


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    path = tmp_path / "secrets.csv"
    rows = [
        "reference,secret,subject,san,single_use,expires",
        f"{REFERENCE},{SECRET},{SUBJECT},dns:enb-1.example.net,false,2026-06-01T00:00:00Z",
        f"{OTHER[0]},{OTHER[1]},CN=enb-2.ran.example.net,,false,",
        f"{ONCE[0]},{ONCE[1]},{SUBJECT},,true,",
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


def open_secrets(csv_path: Path, clock: ManualClock) -> SecretFile:
    return SecretFile(
        csv_path, clock=clock, used_path=csv_path.with_suffix(".used"), lockout_failures=3
    )


def make_world(
    vendor: VendorPKI,
    operator: OperatorPKI,
    csv_path: Path,
    *,
    bounds: MACBounds | None = None,
    strictness: Strictness = Strictness.lenient,
    **endpoint: Any,
) -> World:
    clock = ManualClock()
    access = MACAccess(
        TrustDomain("mac:ran", DomainKind.shared_secrets, ()),
        open_secrets(csv_path, clock),
        bounds or MACBounds(),
    )
    types = frozenset({BodyType.ir, BodyType.cr, BodyType.kur, BodyType.p10cr})
    fields = {"mac": access, "body_types": types, "rules": HeaderRules(strictness), **endpoint}
    return World.make(vendor, operator, clock=clock, endpoint=fields)


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path) -> World:
    return make_world(vendor_pki, operator_pki, csv_path)


@pytest.mark.requirement(38, 39, 44)
@pytest.mark.parametrize("strictness", [Strictness.lenient, Strictness.strict])
@pytest.mark.parametrize(
    "algorithm_der",
    [
        pbm(),
        pbm(owf_parameters=b"\x05\x00", mac_parameters=b"\x05\x00"),
        pbmac1(),
        pbmac1(prf_parameters=b"", mac_parameters=b"\x05\x00"),
        pbmac1(key_octets=None),
        pbmac1(mac=HMAC_SHA512, key_octets=64),
    ],
    ids=[
        "PBM",
        "PBM with NULL",
        "PBMAC1",
        "PBMAC1 with and without NULL",
        "PBMAC1 without length",
        "PBMAC1 with SHA-512",
    ],
)
async def test_a_device_enrols_by_its_secret(
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    csv_path: Path,
    algorithm_der: bytes,
    strictness: Strictness,
) -> None:
    """ip and pkiConf have the MAC of the request; upstream the RA signs; extraCerts still lead to the root."""
    world = make_world(vendor_pki, operator_pki, csv_path, strictness=strictness)
    der = await ir(world, algorithm_der=algorithm_der)
    answer = await world.ask(der)
    assert (answer.body_type, world.events[-1].outcome) == (BodyType.ip, "issued")
    assert_maced(answer, der)
    root = cmp_certificate(operator_pki.root.certificate).der
    issuing = cmp_certificate(operator_pki.issuing.certificate).der
    assert answer.extra_certs == (issuing, root)
    confirmation = cert_conf(world, answer)
    last = await world.ask(confirmation)
    assert last.body_type is BodyType.pkiconf
    assert_maced(last, confirmation)
    ra = cmp_credential(operator_pki.ra)
    operator = world.endpoint.operator
    assert operator is not None
    for sent in world.ca.messages:
        found = authenticate_answer(sent, operator, (), HeaderRules(), world.clock())
        assert found.signer == ra.certificate
    assert await world.ask(der) == answer


@pytest.mark.requirement(38, 44)
@pytest.mark.parametrize("body_type", [BodyType.cr, BodyType.p10cr])
async def test_cr_and_p10cr_too(world: World, body_type: BodyType) -> None:
    """The other two requests that a secret may protect."""
    der = await ir(world, body_type=body_type)
    answer = await world.ask(der)
    assert (answer.body_type, world.events[-1].outcome) == (BodyType.cp, "issued")
    assert_maced(answer, der)


@pytest.mark.requirement(40)
@pytest.mark.parametrize(
    "algorithm_der",
    [
        pbm(iterations=0),
        pbm(iterations=99),
        pbm(iterations=5_001),
        pbm(iterations=2**62),
        pbm(salt=bytes(7)),
        pbm(salt=bytes(65)),
        pbm(owf=SHA1),
        pbm(mac=HMAC_SHA1),
        pbmac1(iterations=99),
        pbmac1(iterations=5_001),
        pbmac1(iterations=1 << 20_000),
        pbmac1(key_octets=1 << 20_000),
        pbmac1(salt=bytes(7)),
        pbmac1(salt=bytes(65)),
        pbmac1(prf=None),
        pbmac1(mac=HMAC_SHA1),
        pbmac1(key_octets=15),
        pbmac1(key_octets=65),
        pbm(owf_parameters=b"\x04\x00"),
        pbm(mac_parameters=b"\x30\x00"),
        pbmac1(prf_parameters=b"\x02\x01\x00"),
        pbmac1(mac_parameters=b"\x30\x00"),
    ],
)
async def test_cost_and_strength_have_bounds(
    world: World, monkeypatch: pytest.MonkeyPatch, algorithm_der: bytes
) -> None:
    """What is too dear, too weak or spelt otherwise is refused with badAlg before any key is derived."""
    der = await ir(world)
    message = PKIMessage.from_der(der)
    header_der = replace(message.header, protection_alg_der=algorithm_der).to_der()
    monkeypatch.setattr("ra_gateway.cmp.mac.MACParameters.derive", None)
    await assert_refused(
        world, assemble(header_der, message.body_der, bytes(32)), "badAlg", rule="R40"
    )


@pytest.mark.requirement(38)
async def test_hmac_sha1_where_it_is_allowed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path
) -> None:
    """What OpenSSL 3.0 sends by default is taken where the endpoint says so."""
    world = make_world(vendor_pki, operator_pki, csv_path, bounds=MACBounds(hmac_sha1=True))
    der = await ir(world, algorithm_der=pbm(mac=HMAC_SHA1))
    answer = await world.ask(der)
    assert answer.body_type is BodyType.ip
    assert_maced(answer, der)


@pytest.mark.requirement(41, 159)
async def test_unknown_reference_and_wrong_secret_look_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get the same error, signed by the RA; nothing shows the secret. A key is derived for the known one only."""
    wrong = await ir(world, secret=OTHER[1])
    unknown = await ir(world, reference="enb-9-ref")
    threads: list[threading.Thread] = []
    derive = MACParameters.derive

    def watched(parameters: MACParameters, secret: bytes) -> bytes:
        threads.append(threading.current_thread())
        return derive(parameters, secret)

    monkeypatch.setattr(MACParameters, "derive", watched)
    one = await assert_refused(world, wrong, "badMessageCheck", rule="R41")
    assert world.events[-1].signer == ""
    assert len(threads) == 1
    assert threads.pop() is not threading.current_thread()  # the event loop's
    two = await assert_refused(world, unknown, "badMessageCheck", rule="R41")
    assert not threads
    assert one.body_der == two.body_der
    told = repr([*world.events, world.endpoint.mac])
    assert SECRET not in told
    assert REFERENCE not in told


@pytest.mark.requirement(41)
async def test_any_changed_bit_is_noticed(world: World) -> None:
    """The MAC is over header and body as received."""
    der = await ir(world)
    message = PKIMessage.from_der(der)
    changed = replace(message.header, sender_nonce=bytes(16)).to_der()
    await assert_refused(
        world,
        assemble(changed, message.body_der, message.protection),
        "badMessageCheck",
        rule="R41",
    )


async def guess(world: World, peer: str, **named: Any) -> PKIMessage:
    """Post an ir with a wrong MAC."""
    return await post(world, await ir(world, secret="x" * 20, **named), peer)


async def post(world: World, der: bytes, peer: str) -> PKIMessage:
    """Post a message from an address."""
    reply = await world.gateway.handle(der, endpoint=world.endpoint.name, peer=peer)
    return PKIMessage.from_der(reply.der)


GUESSER, DEVICE = "198.51.100.9", "192.0.2.7"


@pytest.mark.requirement(41)
async def test_who_guesses_is_slowed_down(world: World) -> None:
    """After three wrong MACs a peer gets one try every 300 s, and the same error meanwhile, right or wrong."""
    answers = [await guess(world, GUESSER) for _ in range(3)]
    refused = await post(world, await ir(world), GUESSER)
    assert world.events[-1].rule == "R41"
    assert refused.body_der == answers[0].body_der
    world.clock.move(seconds=299)
    assert (await post(world, await ir(world), GUESSER)).body_type is BodyType.error
    world.clock.move(seconds=2)
    assert (await guess(world, GUESSER)).body_type is BodyType.error
    assert (await post(world, await ir(world), GUESSER)).body_type is BodyType.error
    world.clock.move(seconds=301)
    assert (await post(world, await ir(world), GUESSER)).body_type is BodyType.ip


@pytest.mark.requirement(41)
async def test_who_saw_a_reference_does_not_lock_its_device_out(world: World) -> None:
    """However many wrong MACs come from elsewhere, also in an address block, the device enrols at once."""
    for _ in range(30):
        await guess(world, GUESSER)
        await guess(world, "2001:db8::1")
    assert (await post(world, await ir(world), DEVICE)).body_type is BodyType.ip
    other = await ir(world, reference=OTHER[0], secret=OTHER[1], subject="CN=enb-2.ran.example.net")
    assert (await post(world, other, GUESSER)).body_type is BodyType.ip


@pytest.mark.requirement(41)
async def test_a_block_of_addresses_is_one_peer(world: World) -> None:
    """An IPv6 /64 has as many tries as one address."""
    for number in range(3):
        await guess(world, f"2001:db8::{number + 1}")
    assert (await post(world, await ir(world), "2001:db8::ffff")).body_type is BodyType.error
    assert (await post(world, await ir(world), "2001:db8:0:1::1")).body_type is BodyType.ip


@pytest.mark.requirement(41)
async def test_failures_far_apart_slow_nobody_down(world: World) -> None:
    """Only failures within the time count."""
    for _ in range(4):
        await assert_refused(world, await ir(world, secret="x" * 20), "badMessageCheck")
        world.clock.move(seconds=451)
    assert (await world.ask(await ir(world))).body_type is BodyType.ip


async def test_who_guesses_at_many_references_gets_one_try_at_each(tmp_path: Path) -> None:
    """A peer's wrong MACs count together as well; a reference that it has not tried is not closed to it."""
    path = tmp_path / "many.csv"
    rows = [f"enb-{n}-ref,{SECRET}{n},CN=enb-{n},,false," for n in range(100)]
    path.write_text("\n".join(["reference,secret,subject,san,single_use,expires", *rows]) + "\n")
    secrets = open_secrets(path, ManualClock())
    for number in range(30):
        for _ in range(2):
            await secrets.failed(b"enb-%d-ref" % number, GUESSER)
    for number in range(30, 40):
        assert await secrets.find(b"enb-%d-ref" % number, GUESSER) is not None
        await secrets.failed(b"enb-%d-ref" % number, GUESSER)
        assert await secrets.find(b"enb-%d-ref" % number, GUESSER) is None
        assert await secrets.find(b"enb-%d-ref" % number, DEVICE) is not None


async def test_what_is_remembered_of_guesses_is_bounded(csv_path: Path) -> None:
    """From however many addresses they come."""
    secrets = open_secrets(csv_path, ManualClock())
    for number in range(10_000):
        await secrets.failed(REFERENCE.encode(), f"10.0.{number // 256}.{number % 256}")
        await secrets.failed(b"unknown %d" % number, GUESSER)
    assert len(secrets._by_reference) == len(secrets._by_network) == 4096


async def test_an_expired_secret_is_refused(world: World) -> None:
    """A request under it gets signerNotTrusted under its MAC; what was begun in time may be confirmed."""
    world.clock.move(days=(149))
    world.clock.move(hours=20, minutes=55)
    first = await ir(world)
    answer = await world.ask(first)
    assert answer.body_type is BodyType.ip, world.events[-1].detail
    world.clock.move(minutes=5)
    late = await ir(world)
    refused = await world.ask(late)
    assert list(fail_names(refused)) == ["signerNotTrusted"]
    assert_maced(refused, late)
    assert await world.ask(first) == answer
    assert (await world.ask(cert_conf(world, answer))).body_type is BodyType.pkiconf


async def test_a_secret_for_single_use_brings_one_certificate(world: World, csv_path: Path) -> None:
    """A second transaction is refused, a repeat of the first is answered; a restart forgets nothing."""
    named: dict[str, Any] = {"reference": ONCE[0], "secret": ONCE[1]}
    der = await ir(world, **named)
    answer = await world.ask(der)
    assert answer.body_type is BodyType.ip
    again = await world.ask(await ir(world, **named))
    assert list(fail_names(again)) == ["notAuthorized"]
    assert len(world.ca.received) == 1
    assert await world.ask(der) == answer
    assert (await world.ask(cert_conf(world, answer, **named))).body_type is BodyType.pkiconf
    assert world.endpoint.mac is not None
    first = world.endpoint.mac.secrets
    assert isinstance(first, SecretFile)
    await first.close()
    second = open_secrets(csv_path, world.clock)
    assert await second.claim(ONCE[0].encode(), "another") is Claim.refused
    assert os.stat(csv_path.with_suffix(".used")).st_mode & 0o777 == 0o600
    assert ONCE[1] not in csv_path.with_suffix(".used").read_text()
    await second.close()


async def test_what_brought_no_certificate_does_not_use_a_secret_up(world: World) -> None:
    """A refusal of the CA, or a CA that was never reached, leaves the secret good for another try."""
    named: dict[str, Any] = {"reference": ONCE[0], "secret": ONCE[1]}
    world.ca.script = lambda answer: answer.reject()
    assert (await world.ask(await ir(world, **named))).body_type is BodyType.ip
    world.ca.script = lambda answer: None
    world.ca.failure, world.ca.failures = UpstreamUnavailable("down", delivered=False), 1
    assert list(fail_names(await world.ask(await ir(world, **named)))) == ["systemUnavail"]
    assert (await world.ask(await ir(world, **named))).body_type is BodyType.ip
    assert world.events[-1].outcome == "issued"


async def test_a_lost_answer_uses_a_secret_up(world: World) -> None:
    """The CA may have issued: nobody else may try."""
    named: dict[str, Any] = {"reference": ONCE[0], "secret": ONCE[1]}
    world.ca.failure, world.ca.failures = UpstreamUnavailable("cut", delivered=True), 1
    await world.ask(await ir(world, **named))
    assert list(fail_names(await world.ask(await ir(world, **named)))) == ["notAuthorized"]


@pytest.mark.requirement(35)
async def test_another_credential_cannot_confirm(world: World) -> None:
    """Neither another secret nor the right reference with another secret; the right one then can."""
    answer = await world.ask(await ir(world))
    other = cert_conf(world, answer, reference=OTHER[0], secret=OTHER[1])
    await assert_refused(world, other, "badMessageCheck", rule="R35")
    wrong = cert_conf(world, answer, secret=OTHER[1])
    await assert_refused(world, wrong, "badMessageCheck", rule="R41")
    assert (await world.ask(cert_conf(world, answer))).body_type is BodyType.pkiconf


@pytest.mark.requirement(42)
@pytest.mark.parametrize("body_type", [BodyType.kur, BodyType.rr, BodyType.genm])
async def test_other_requests_take_no_mac(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path, body_type: BodyType
) -> None:
    """kur, rr and genm are for certificates."""
    world = make_world(vendor_pki, operator_pki, csv_path, body_types=frozenset({body_type}))
    await assert_refused(world, await ir(world, body_type=body_type), "wrongIntegrity", rule="R42")


@pytest.mark.requirement(43)
async def test_an_endpoint_without_secrets_takes_no_mac(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path
) -> None:
    """As before: wrongIntegrity."""
    world = make_world(vendor_pki, operator_pki, csv_path, mac=None)
    await assert_refused(world, await ir(world), "wrongIntegrity", rule="R43")


@pytest.mark.requirement(45)
async def test_sender_and_sender_kid_name_the_same(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path
) -> None:
    """Strictly the reference; else the secret's subject or nobody will do, another name never."""
    strict = make_world(vendor_pki, operator_pki, csv_path, strictness=Strictness.strict)
    lenient = make_world(vendor_pki, operator_pki, csv_path)
    for name in (ANYONE, sender(SUBJECT)):
        der = await ir(strict, sender_der=name)
        await assert_refused(strict, der, "badMessageCheck", rule="R45")
        assert (await lenient.ask(await ir(lenient, sender_der=name))).body_type is BodyType.ip
    other = await ir(lenient, sender_der=sender("CN=enb-2.ran.example.net"))
    await assert_refused(lenient, other, "badMessageCheck", rule="R45")
    nameless = await ir(lenient, sender_kid=None)
    await assert_refused(lenient, nameless, "badMessageCheck", rule="R41")


@pytest.mark.requirement(67)
async def test_a_secret_is_for_one_subject(world: World) -> None:
    """Another subject or name is refused under the MAC; what the device leaves out is set by the RA."""
    other: list[dict[str, Any]] = [{"subject": "CN=enb-2"}, {"san": ("dns:enb-2.example.net",)}]
    for asked in other:
        der = await ir(world, **asked)
        answer = await world.ask(der)
        assert (answer.body_type, list(fail_names(answer))) == (BodyType.ip, ["notAuthorized"])
        assert_maced(answer, der)
    assert world.ca.received == []
    assert (await world.ask(await ir(world, subject=None))).body_type is BodyType.ip
    assert world.ca.issued[-1].subject == SUBJECT
    assert world.ca.issued[-1].subject_alt_name_der is not None


@pytest.mark.requirement(53)
async def test_possession_is_still_to_be_proved(world: World) -> None:
    """A secret authenticates a device, not its key."""
    der = await ir(world, popo_der=b"")
    answer = await world.ask(der)
    assert list(fail_names(answer)) == ["badPOP"]
    assert_maced(answer, der)


@pytest.mark.parametrize(
    "row",
    [
        f"ref,short,{SUBJECT},,false,",
        f"ref,{SECRET},nonsense,,false,",
        f"ref,{SECRET},{SUBJECT},nonsense,false,",
        f"ref,{SECRET},{SUBJECT},,maybe,",
        f"ref,{SECRET},{SUBJECT},,true,",
        f"ref,{SECRET},{SUBJECT},,false,tomorrow",
        f"ref,{SECRET},{SUBJECT},,false,2027-01-01T00:00:00",
        f",{SECRET},{SUBJECT},,false,",
        f"ref,{SECRET},{SUBJECT},,false,\nref,{SECRET},{SUBJECT},,false,",
    ],
)
def test_unusable_lines_are_told_without_the_secret(tmp_path: Path, row: str) -> None:
    """The place and the reason, never the secret."""
    path = tmp_path / "secrets.csv"
    path.write_text("reference,secret,subject,san,single_use,expires\n" + row + "\n")
    with pytest.raises(ConfigError) as caught:
        SecretFile(path, clock=ManualClock())
    (problem,) = caught.value.problems
    assert problem.path.startswith(f"{path}:")
    assert SECRET not in str(problem)


def test_the_endpoint_type_has_no_secret_by_default() -> None:
    """Protection by MAC is off unless it is asked for."""
    assert Endpoint.__dataclass_fields__["mac"].default is None
