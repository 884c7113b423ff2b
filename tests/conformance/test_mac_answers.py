"""MAC to the end: what protects the answer to a message under a MAC, and what its key may cost."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import error_body
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.mac import MACBounds, MACParameters
from ra_gateway.cmp.messages import PKIMessage, assemble
from ra_gateway.cmp.polling import poll_req_body
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.responder import status_of
from ra_gateway.errors import HeaderRefused
from ra_gateway.ra import mac_keys
from tests.support import requests
from tests.support.answers import fail_names
from tests.support.asserts import assert_refused, assert_signed
from tests.support.credentials import cmp_credential
from tests.support.harness import World
from tests.support.mac import (
    OTHER,
    REFERENCE,
    SECRET,
    assert_maced,
    cert_conf,
    ir,
    maced,
    make_world,
    pbm,
    pbmac1,
    sender,
)
from tests.support.pki import OperatorPKI, VendorPKI, make_key

PEERS_ITERATIONS = 262_144


@pytest.fixture
def csv_path(tmp_path: Path) -> Path:
    path = tmp_path / "secrets.csv"
    rows = [
        "reference,secret,subject,san,single_use,expires",
        f"{REFERENCE},{SECRET},{requests.SUBJECT},,false,",
        f"{OTHER[0]},{OTHER[1]},CN=enb-2.ran.example.net,,false,",
    ]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def world(vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path) -> World:
    return make_world(vendor_pki, operator_pki, csv_path)


async def test_nothing_is_derived_for_a_message_without_its_mac(
    world: World, derived: list[bytes]
) -> None:
    """protectionAlg alone is refused before."""
    message = PKIMessage.from_der(await ir(world))
    der = assemble(message.header_der, message.body_der, None, message.extra_certs)
    for _ in range(3):
        await assert_refused(world, der, "badMessageCheck", rule="R14")
    assert derived == []


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The secrets that keys are derived from, as they are."""
    found: list[bytes] = []
    derive = MACParameters.derive

    def watched(parameters: MACParameters, secret: bytes) -> bytes:
        found.append(secret)
        return derive(parameters, secret)

    monkeypatch.setattr(MACParameters, "derive", watched)
    return found


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.requirement(35, 41)
@pytest.mark.parametrize(
    "asked, fail_info",
    [
        ({"sender_der": sender("CN=enb-2.ran.example.net")}, "badMessageCheck"),
        ({"transaction_id": None}, "badDataFormat"),
        ({"sender_nonce": None}, "badSenderNonce"),
        ({"sender_nonce": b"short"}, "badSenderNonce"),
        ({"pvno": 1}, "unsupportedVersion"),
        ({"subject": "CN=enb-2"}, "notAuthorized"),
        ({"popo_der": b""}, "badPOP"),
        ({"body_type": BodyType.kur}, "wrongIntegrity"),
        ({"body_type": BodyType.rr}, "wrongIntegrity"),
        ({"body_type": BodyType.genm}, "wrongIntegrity"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_a_refusal_after_a_verified_mac_has_a_mac(
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    csv_path: Path,
    asked: dict[str, Any],
    fail_info: str,
) -> None:
    """Whatever else is wrong with a message: whoever holds only a secret can verify nothing else."""
    types = frozenset({*["ir", "cr", "kur", "p10cr", "rr", "genm"]})
    world = make_world(
        vendor_pki,
        operator_pki,
        csv_path,
        strictness=Strictness.strict,
        body_types=frozenset(BodyType[name] for name in types),
    )
    der = await ir(world, **asked)
    answer = await world.ask(der)
    assert list(fail_names(answer)) == [fail_info]
    assert_maced(answer, der)
    assert world.ca.received == []


@pytest.mark.requirement(142)
async def test_a_type_that_is_not_taken_is_refused_under_the_mac(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path
) -> None:
    """Also where nothing would have had to be verified to refuse it."""
    world = make_world(
        vendor_pki, operator_pki, csv_path, body_types=frozenset({BodyType.ir, BodyType.kur})
    )
    der = await ir(world, body_type=BodyType.cr)
    answer = await world.ask(der)
    assert world.events[-1].rule == "R142"
    assert_maced(answer, der)


@pytest.mark.requirement(41)
async def test_what_did_not_verify_is_refused_by_signature(world: World) -> None:
    """A wrong secret and an unknown reference, also where the message is refused for another reason."""
    wrong: list[dict[str, Any]] = [
        {"secret": OTHER[1]},
        {"reference": "nobody"},
        {"secret": OTHER[1], "pvno": 1},
        {"reference": "nobody", "sender_nonce": None},
        {"algorithm_der": pbm(iterations=99)},
    ]
    for asked in wrong:
        answer = await world.ask(await ir(world, **asked))
        assert_signed(world, answer)


@pytest.mark.requirement(41)
async def test_wrong_macs_of_messages_that_are_refused_anyway_are_counted(
    world: World, derived: list[bytes]
) -> None:
    """Who guesses by messages that are wrong otherwise is slowed down as well."""
    for _ in range(5):
        await world.ask(await ir(world, secret=OTHER[1], sender_nonce=None))
    assert len(derived) == 3  # lockout_failures


# --- another kind of protection -------------------------------------------------------------------------------


def follower(world: World, answer: PKIMessage, body_der: bytes) -> bytes:
    """A message under a MAC that continues the transaction of an answer."""
    header = replace(
        PKIMessage.from_der(cert_conf(world, answer)).header,
        protection_alg_der=None,
        sender_nonce=secrets.token_bytes(16),
    )
    return maced(header, body_der)


@pytest.mark.requirement(35)
async def test_a_mac_cannot_continue_what_a_signature_began(world: World) -> None:
    """certConf, pollReq and error: wrongIntegrity, under the MAC if it verifies; the transaction stays as it is."""
    device = world.device()
    answer = await world.ask(
        await requests.request(world, cmp_credential(device), make_key("p256"))
    )
    assert answer.body_type is BodyType.ip
    refused = error_body(status_of(HeaderRefused("no", rule="R9")))
    messages = [
        cert_conf(world, answer),
        follower(world, answer, poll_req_body(0)),
        follower(world, answer, refused),
    ]
    for der in messages:
        response = await world.ask(der)
        assert list(fail_names(response)) == ["wrongIntegrity"]
        assert world.events[-1].rule == "R35"
        assert_maced(response, der)
    confirmation = await requests.confirmation(world, device, answer)
    assert (await world.ask(confirmation)).body_type is BodyType.pkiconf


@pytest.mark.requirement(35)
async def test_a_signature_cannot_continue_what_a_mac_began(world: World) -> None:
    """The other way round."""
    answer = await world.ask(await ir(world))
    confirmation = await requests.confirmation(world, world.device(), answer)
    refusal = await assert_refused(world, confirmation, "wrongIntegrity", rule="R35")
    assert_signed(world, refusal)
    assert (await world.ask(cert_conf(world, answer))).body_type is BodyType.pkiconf


# --- cost -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(39)
async def test_a_dear_key_is_derived_once(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, csv_path: Path, derived: list[bytes]
) -> None:
    """PBMAC1 as peers send it, where the endpoint says so: once for ir, certConf and what is sent again."""
    bounds = MACBounds(max_pbkdf_iterations=PEERS_ITERATIONS)
    world = make_world(vendor_pki, operator_pki, csv_path, bounds=bounds)
    algorithm_der = pbmac1(iterations=PEERS_ITERATIONS)
    der = await ir(world, algorithm_der=algorithm_der)
    answer = await world.ask(der)
    assert answer.body_type is BodyType.ip
    assert_maced(answer, der)
    assert await world.ask(der) == answer
    header = replace(PKIMessage.from_der(cert_conf(world, answer)).header, protection_alg_der=None)
    confirmation = maced(
        header, PKIMessage.from_der(cert_conf(world, answer)).body_der, SECRET, algorithm_der
    )
    last = await world.ask(confirmation)
    assert last.body_type is BodyType.pkiconf
    assert_maced(last, confirmation)
    assert derived == [SECRET.encode()]


@pytest.mark.requirement(40)
@pytest.mark.parametrize(
    "algorithm_der",
    [
        pbm(iterations=2_049),
        pbmac1(iterations=PEERS_ITERATIONS + 1),
        pbmac1(iterations=PEERS_ITERATIONS // 2 + 1, key_octets=64),
    ],
)
async def test_the_bound_of_pbmac1_is_its_own(
    vendor_pki: VendorPKI,
    operator_pki: OperatorPKI,
    csv_path: Path,
    derived: list[bytes],
    algorithm_der: bytes,
) -> None:
    """PasswordBasedMac keeps its own, and a key of two blocks costs twice."""
    bounds = MACBounds(max_pbkdf_iterations=PEERS_ITERATIONS)
    world = make_world(vendor_pki, operator_pki, csv_path, bounds=bounds)
    der = await ir(world)
    message = PKIMessage.from_der(der)
    header_der = replace(message.header, protection_alg_der=algorithm_der).to_der()
    octets = asn1.tlv(0x30, header_der, message.body_der, asn1.tlv(0xA0, asn1.tlv(0x03, bytes(33))))
    await assert_refused(world, octets, "badAlg", rule="R40")
    assert derived == []


@pytest.mark.requirement(40, 41)
async def test_nobody_has_many_keys_derived_at_once(world: World, derived: list[bytes]) -> None:
    """Wrong MACs that come at the same time are counted one by one; unknown references cost nothing."""
    derivations = world.gateway._services.derivations
    wrong = [await ir(world, secret=OTHER[1]) for _ in range(12)]
    await asyncio.gather(*(world.ask(der) for der in wrong))
    assert len(derived) == 3  # lockout_failures
    unknown = [await ir(world, reference=f"nobody-{number}") for number in range(5)]
    await asyncio.gather(*(world.ask(der) for der in unknown))
    assert len(derived) == 3
    assert not derivations._turns
    assert not derivations._kept  # nothing is remembered of who was wrong


@pytest.mark.requirement(40, 41)
async def test_keys_that_are_kept_are_bounded(
    world: World, derived: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that nobody used for the longest time goes first, and is derived again."""
    monkeypatch.setattr(mac_keys, "_MOST_KEPT", 2)
    salts = [pbm(salt=bytes([number]) * 16) for number in range(3)]
    for number, is_derived in ((0, True), (1, True), (0, False), (2, True), (0, False), (1, True)):
        before = len(derived)
        await world.ask(await ir(world, algorithm_der=salts[number]))
        assert len(derived) - before == is_derived
    assert len(world.gateway._services.derivations._kept) == 2
