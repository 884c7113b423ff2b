"""Requests under a shared secret: PasswordBasedMac and PBMAC1 (RFC 9483 4.1.5)."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.mac import MACBounds, MACParameters
from ra_gateway.cmp.messages import (
    ANYONE,
    PKIMessage,
    assemble,
)
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.errors import ConfigError, UpstreamUnavailable
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.ports import Claim
from ra_gateway.stores.secrets import SecretFile
from tests.support import requests
from tests.support.answers import fail_names
from tests.support.asserts import assert_refused
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.foreign import says
from tests.support.harness import ManualClock, World
from tests.support.mac import (
    HMAC_SHA1,
    HMAC_SHA512,
    ONCE,
    OTHER,
    REFERENCE,
    SECRET,
    SHA1,
    assert_maced,
    cert_conf,
    ir,
    make_world,
    open_secrets,
    pbm,
    pbmac1,
    sender,
)
from tests.support.pki import OperatorPKI, VendorPKI

SUBJECT = requests.SUBJECT


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


@pytest.mark.requirement(38, 40)
async def test_sha1_as_one_way_function_where_it_is_allowed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path
) -> None:
    """One thing and HMAC-SHA1 another: the endpoint says so of each."""
    for bounds, fail_info in [
        (MACBounds(owf_sha1=True), None),
        (MACBounds(hmac_sha1=True), "badAlg"),
    ]:
        world = make_world(vendor_pki, operator_pki, csv_path, bounds=bounds)
        der = await ir(world, algorithm_der=pbm(owf=SHA1))
        answer = await world.ask(der)
        assert list(fail_names(answer)) == ([fail_info] if fail_info else [])
        if fail_info is None:
            assert_maced(answer, der)


@pytest.mark.requirement(45, 67)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.p10cr])
async def test_a_secret_may_be_for_the_subjects_of_a_pattern(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path, body_type: BodyType
) -> None:
    """The sender may be the subject that is asked for; another subject, name or sender than it fits is refused."""
    path = tmp_path / "patterns.csv"
    pattern = '"CN=*.nf.example.net,O=Example"'
    path.write_text(
        "reference,secret,subject,san,single_use,expires\n"
        f"{REFERENCE},{SECRET},{pattern},dns:*.nf.example.net ip:192.0.2.1,false,\n"
    )
    world = make_world(vendor_pki, operator_pki, path)
    good = "CN=smf.nf.example.net,O=Example"
    for name in (sender(good), sender(f"CN={REFERENCE}"), ANYONE):
        for subject in (good, "CN=amf.nf.example.net,O=Example"):
            der = await ir(world, subject=subject, sender_der=name, body_type=body_type)
            answer = await world.ask(der)
            assert world.events[-1].outcome == "issued"
            assert_maced(answer, der)
    refused: list[tuple[dict[str, Any], str, str]] = [
        ({"subject": "CN=smf.nf.example.org,O=Example"}, "notAuthorized", "R67"),
        ({"subject": "CN=smf.nf.example.net,O=Example,C=SE"}, "notAuthorized", "R67"),
        ({"subject": good, "sender_der": sender("CN=x")}, "badMessageCheck", "R45"),
        ({"subject": ""}, "badCertTemplate", "R51"),
    ]
    if body_type is not BodyType.p10cr:
        refused += [
            ({"subject": good, "san": (name,)}, "notAuthorized", "R67")
            for name in ("dns:smf.nf.example.org", "ip:192.0.2.2", "dns:*.nf.example.net")
        ]
        for allowed in (("dns:smf.nf.example.net", "dns:SMF2.NF.example.net"), ("ip:192.0.2.1",)):
            assert (await world.ask(await ir(world, subject=good, san=allowed))).body_type in (
                BodyType.ip,
                BodyType.cp,
            )
            assert world.events[-1].outcome == "issued"
    for asked, fail_info, rule in refused:
        answer = await world.ask(await ir(world, body_type=body_type, **asked))
        assert (list(fail_names(answer)), world.events[-1].rule) == ([fail_info], rule)


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


async def test_an_error_of_the_ca_uses_a_secret_up(world: World) -> None:
    """It signs one for anybody, who may put it in the place of its ip: the CA may have issued."""
    named: dict[str, Any] = {"reference": ONCE[0], "secret": ONCE[1]}
    world.ca.script = says("badDataFormat")
    refused = await world.ask(await ir(world, **named))
    assert (refused.body_type, list(fail_names(refused))) == (BodyType.ip, ["badDataFormat"])
    world.ca.script = lambda answer: None
    again = await world.ask(await ir(world, **named))
    assert list(fail_names(again)) == ["notAuthorized"]
    assert len(world.ca.received) == 1


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
    nameless = await ir(lenient, sender_kid=None, sender_der=sender(SUBJECT))
    await assert_refused(lenient, nameless, "badMessageCheck", rule="R41")


@pytest.mark.requirement(41, 45)
async def test_the_sender_may_name_the_secret(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path
) -> None:
    """RFC 9810 5.1.1 asks for senderKID where sender cannot name it; a lenient endpoint knows it by sender."""
    for strictness in Strictness:
        if strictness is Strictness.three_gpp:
            continue  # knows no shared secrets
        world = make_world(vendor_pki, operator_pki, csv_path, strictness=strictness)
        der = await ir(world, sender_kid=None)
        if strictness is Strictness.strict:
            await assert_refused(world, der, "badMessageCheck", rule="R41")
            continue
        answer = await world.ask(der)
        assert answer.body_type is BodyType.ip
        done = await world.ask(cert_conf(world, answer, sender_kid=None))
        assert done.body_type is BodyType.pkiconf


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
        f'ref,{SECRET},"CN=a,C=D1",,false,',
        f"ref,{SECRET},{SUBJECT},dns:e_nb.example.net,false,",
        f",{SECRET},{SUBJECT},,false,",
        f"ref,{SECRET},{SUBJECT},dns:*.example.net,false,",
        f"ref,{SECRET},*nonsense*,,false,",
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
