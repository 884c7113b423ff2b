"""CAs that know the gateway by a shared secret (RFC 9483 4.1.5, RFC 9481 6.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType, MACKind
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import ConfigError
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.forwarding import revocation_for_ca
from ra_gateway.ra.services import MappedIDs
from ra_gateway.ra.settings import CertConf, Variant
from ra_gateway.upstream.shared_secret import SecretOfCA
from ra_gateway.upstream.tables import CASecretConfig
from tests.support.answers import fail_names, status_of
from tests.support.chain import ALL_TYPES
from tests.support.credentials import cmp_credential
from tests.support.foreign import SAID, SecretCA, says
from tests.support.harness import Answer, ManualClock, World
from tests.support.mac import HMAC_SHA1, HMAC_SHA512, pbm, pbmac1
from tests.support.pki import OperatorPKI, VendorPKI, other_operator
from tests.support.polling import REQUESTS, Operation

REFERENCE, SECRET = "gateway-1", "a secret between gateway and CA"
NEW = "another secret between the two"

Make = Callable[..., tuple[World, SecretCA, SecretOfCA]]


@pytest.fixture
def make(vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path) -> Make:
    """Worlds whose CA knows the gateway by a secret in a file."""

    def made(
        *, upstream: dict[str, Any] | None = None, ca: dict[str, Any] | None = None, **config: Any
    ) -> tuple[World, SecretCA, SecretOfCA]:
        clock = ManualClock()
        path = tmp_path / "ca.secret"
        path.write_text(SECRET + "\n")
        table = CASecretConfig(reference=REFERENCE, secret_path=path, **config)
        secret = table.open("upstreams.scripted.mac", clock)
        server = SecretCA(operator_pki, clock, secrets={REFERENCE: SECRET}, **(ca or {}))
        world = World.make(
            vendor_pki,
            operator_pki,
            clock=clock,
            ca=server,
            endpoint={"body_types": ALL_TYPES},
            upstream={"secret": secret, **(upstream or {})},
        )
        return world, server, secret

    return made


# --- what goes up ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(73, 80)
@pytest.mark.parametrize("algorithm", list(MACKind))
@pytest.mark.parametrize("body_type", REQUESTS, ids=lambda item: item.name)
async def test_a_certificate_is_asked_for_and_confirmed_under_the_secret(
    make: Make, body_type: BodyType, algorithm: MACKind
) -> None:
    """senderKID and commonName are the reference; no certificate goes along; the device sees nothing of it."""
    world, ca, _ = make(algorithm=algorithm)
    operation = await Operation.begin(world, body_type)
    answer = await operation.send()
    assert (answer.body_type, status_of(answer).issued) == (RESPONSE_TO[body_type], True)
    assert (await operation.send()).der == answer.der
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert ca.references == [REFERENCE, REFERENCE]
    wanted = {MACKind.pbm: OID.passwordBasedMac, MACKind.pbmac1: OID.pbmac1}[algorithm]
    for message in ca.messages:
        assert message.extra_certs == ()
        assert bytes.fromhex("0603550403") in message.header.sender_der
        assert REFERENCE.encode() in message.header.sender_der
        assert wanted in oids_of(message)


def oids_of(message: PKIMessage) -> str:
    algorithm_der = message.header.protection_alg_der or b""
    return asn1.decode(structures.AlgorithmIdentifier, algorithm_der).algorithm.dotted_string


@pytest.mark.requirement(73)
@pytest.mark.parametrize("body_type", [BodyType.rr, BodyType.genm], ids=lambda item: item.name)
async def test_other_requests_go_up_under_it_too(make: Make, body_type: BodyType) -> None:
    """Also the gateway's own rr, for a certificate that nobody confirmed."""
    world, ca, _ = make()
    answer = await (await Operation.begin(world, body_type)).send()
    assert answer.body_type is RESPONSE_TO[body_type], world.events[-1].detail
    await (await Operation.begin(world, BodyType.ir)).send()
    upstream: Upstream = world.endpoint.upstream
    ids = MappedIDs(bytes(16), bytes(16))
    credential = cmp_credential(world.operator.ra)
    rr = await revocation_for_ca(upstream, ca.issued[0], credential, ids, world.clock())
    taken = await ca.exchange(rr, path="", deadline_seconds=1.0)
    assert PKIMessage.from_der(taken).body_type is BodyType.rp


@pytest.mark.requirement(73, 85, 93)
async def test_an_ir_goes_up_as_cr_under_it(make: Make) -> None:
    """Both together, with implicitConfirm, are what Trustpoint wants of who asks for others."""
    world, ca, _ = make(upstream={"ir_as_cr": True, "certconf": CertConf.implicit, "max_pvno": 2})
    operation = await Operation.begin(world, BodyType.ir)
    assert (await operation.send()).body_type is BodyType.ip
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    (up,) = ca.messages
    assert (up.body_type, up.header.pvno, up.header.implicit_confirm) == (BodyType.cr, 2, True)


@pytest.mark.requirement(75, 76)
async def test_what_goes_up_nested_is_signed(make: Make) -> None:
    """RFC 9483 5.2.2 knows no other protection of nested."""
    world, ca, _ = make(upstream={"kur": Variant.nested})
    await (await Operation.begin(world, BodyType.kur)).send()
    assert ca.messages[0].extra_certs == cmp_credential(world.operator.ra).certificates


# --- what comes down ------------------------------------------------------------------------------------------


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    "algorithm_der",
    [None, pbm(salt=b"another salt 123"), pbmac1(), pbmac1(iterations=262_144), b""],
    ids=["as asked", "its own salt", "PBMAC1", "PBMAC1 of many iterations", "a signature"],
)
async def test_answers_under_its_mac_or_its_signature_are_believed(
    make: Make, algorithm_der: bytes | None
) -> None:
    """With parameters of the CA's own as well."""
    world, _, _ = make(ca={"answer_algorithm": algorithm_der})
    operation = await Operation.begin(world, BodyType.ir)
    assert status_of(await operation.send()).issued, world.events[-1].detail
    assert (await operation.confirm()).body_type is BodyType.pkiconf


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    "ca",
    [
        {"answer_secret": "a secret that is another one"},
        {"answer_algorithm": pbmac1(iterations=300_001)},
        {"answer_algorithm": pbm(iterations=10_001)},
        {"answer_algorithm": pbm(mac=HMAC_SHA1)},
    ],
    ids=["another secret", "too many iterations", "too many of PBM", "HMAC-SHA1"],
)
async def test_other_macs_are_not_believed(make: Make, ca: dict[str, Any]) -> None:
    """systemFailure, and nothing of the secret in what is told."""
    world, _, secret = make(ca=ca)
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    told = f"{world.events} {secret.credential} {secret.credential.secret.label}"
    assert SECRET not in told
    assert secret.credential.key.hex() not in told


@pytest.mark.requirement(84)
async def test_hmac_sha1_where_it_is_allowed(make: Make) -> None:
    """And stronger ones always."""
    for mac in (HMAC_SHA1, HMAC_SHA512):
        world, _, _ = make(ca={"answer_algorithm": pbm(mac=mac)}, allow_weak_hmac=True)
        assert status_of(await (await Operation.begin(world, BodyType.ir)).send()).issued


@pytest.mark.requirement(83, 84)
async def test_its_mac_is_no_answer_to_something_else(make: Make) -> None:
    """A message of the gateway's own, sent back to it, is authentic and answers nothing."""
    world, ca, _ = make()
    ca.script = lambda answer: setattr(answer, "octets", ca.received[-1])
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert fail_names(answer) == ["systemFailure"]


@pytest.mark.requirement(84)
async def test_a_ca_without_a_secret_here_answers_under_none(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, make: Make
) -> None:
    """A MAC of whoever is not believed where no secret is configured; nor a stranger's signature where one is."""
    world, ca, _ = make(upstream={"secret": None})
    assert fail_names(await (await Operation.begin(world, BodyType.ir)).send()) == ["systemFailure"]
    world, ca, _ = make(ca={"answer_algorithm": b""})

    def by_a_stranger(answer: Answer) -> None:
        answer.credential = cmp_credential(other_operator().cmp_signer)
        answer.extra_certs = answer.credential.certificates

    ca.script = by_a_stranger
    assert fail_names(await (await Operation.begin(world, BodyType.ir)).send()) == ["systemFailure"]


@pytest.mark.requirement(89)
async def test_a_no_under_the_secret_is_passed_on(make: Make) -> None:
    """As one that is signed."""
    world, ca, _ = make()
    ca.script = says("badCertTemplate")
    answer = await (await Operation.begin(world, BodyType.ir)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badCertTemplate"])
    assert SAID.encode() not in answer.der


# --- the file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [REFERENCE, "gateway-2"])
async def test_a_secret_that_a_reload_brings_is_new_as_well(
    make: Make, tmp_path: Path, reference: str
) -> None:
    """The one that was in its place is believed as long as without a reload; another gateway's is not."""
    world, ca, before = make()
    await (await Operation.begin(world, BodyType.ir)).send()
    path = tmp_path / "ca.secret"
    path.write_text(NEW)
    table = CASecretConfig(reference=reference, secret_path=path)
    after = table.open("upstreams.scripted.mac", world.clock, before)
    after = table.open("upstreams.scripted.mac", world.clock, after)

    async def believed() -> list[str]:
        known = await after.of_answer(ca.messages[0])
        return [credential.secret.secret.decode() for credential in known]

    assert await believed() == ([NEW, SECRET] if reference == REFERENCE else [NEW])
    world.clock.move(hours=2)
    assert await believed() == [NEW]


async def test_a_new_secret_is_taken_up(make: Make, tmp_path: Path) -> None:
    """What was asked under the old one is still answered under that; an unusable file changes nothing."""
    world, ca, secret = make()
    operation = await Operation.begin(world, BodyType.ir)
    old = await operation.send()
    assert status_of(old).issued
    path = tmp_path / "ca.secret"
    path.write_text("short")
    await secret.look()
    assert secret.credential.secret.secret == SECRET.encode()
    path.write_text(NEW)
    await secret.look()
    ca.secrets[REFERENCE] = NEW
    ca.answer_secret = SECRET
    assert (await operation.confirm()).body_type is BodyType.pkiconf, world.events[-1].detail
    ca.answer_secret = None
    assert status_of(await (await Operation.begin(world, BodyType.ir)).send()).issued
    world.clock.move(hours=2)
    ca.answer_secret = SECRET
    late = await Operation.begin(world, BodyType.ir)
    assert fail_names(await late.send()) == ["systemFailure"]


@pytest.mark.parametrize("content", ["", "fifteen letters", "\n"])
def test_a_secret_that_is_too_short_is_refused(tmp_path: Path, content: str) -> None:
    """It could be guessed from one message; the text does not show it."""
    path = tmp_path / "secret"
    path.write_text(content)
    config = CASecretConfig(reference=REFERENCE, secret_path=path)
    with pytest.raises(ConfigError, match=r"upstreams\.x\.mac\.secret_path") as refused:
        config.open("upstreams.x.mac", ManualClock())
    assert not content.strip() or content not in str(refused.value)
    assert str(path) not in repr(config)


async def test_keys_are_kept_and_few(make: Make) -> None:
    """One derivation for each salt of the CA's, of which not many are remembered."""
    _, _, secret = make()
    header = PKIMessage.from_der(await one_message(make)).header
    for number in range(40):
        der = pbm(salt=number.to_bytes(16, "big"))
        message = PKIMessage.from_der(await one_message(make))
        changed = replace(message, header=replace(header, protection_alg_der=der))
        first = await secret.of_answer(changed)
        assert await secret.of_answer(changed) == first
    assert len(secret._derived) <= 16


async def one_message(make: Make) -> bytes:
    world, _, _ = make()
    return (await Operation.begin(world, BodyType.ir)).sent
