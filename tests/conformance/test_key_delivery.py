"""Keys that the CA makes, and certificates that it encrypts, on their way through the gateway: unbroken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ra_gateway.ca.derivation import derive
from ra_gateway.ca.key_generation import KeyGeneration
from ra_gateway.ca.profiles import ENCRYPTION, Profile
from ra_gateway.ca.records import CertificateStatus
from ra_gateway.cmp.bodies import cert_rep_message, nested_messages
from ra_gateway.cmp.codes import BodyType, Possession
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.device.values import Done
from ra_gateway.ra.settings import CertConf, ImplicitConfirm
from ra_gateway.ra.transaction import State
from tests.support import pki
from tests.support.answers import fail_names
from tests.support.asserts import signed_again
from tests.support.credentials import cmp_credential
from tests.support.desk import Clock, Desk, open_desk
from tests.support.harness import World
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.profiles import NE_IPSEC

AGREEING = derive(NE_IPSEC, "agreeing", key_usage=["digitalSignature", "keyAgreement"])
BOTH = frozenset({Possession.key_generation, Possession.encr_cert})
CM_KGA = "1.3.6.1.5.5.7.3.32"


class Recording:
    """The bundled CA behind the port; keeps what came to it and what it said."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.received: list[bytes] = []
        self.answered: list[bytes] = []

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        self.received.append(der)
        reply = await self._desk.ca.exchange(der, path=path, deadline_seconds=deadline_seconds)
        self.answered.append(reply)
        return reply

    async def close(self) -> None:
        return None


OpenSite = Callable[..., AbstractAsyncContextManager[tuple[World, Desk, Recording]]]


@pytest.fixture
def open_site(operator_pki: OperatorPKI, vendor_pki: VendorPKI, tmp_path: Path) -> OpenSite:
    """A gateway and the bundled CA behind it, in RA mode, that makes keys."""

    @asynccontextmanager
    async def site(
        profile: Profile = AGREEING, *, upstream: dict[str, Any] | None = None, **endpoint: Any
    ) -> AsyncIterator[tuple[World, Desk, Recording]]:
        authority = KeyGeneration(
            cmp_credential(operator_pki.issuing.issue("CN=KGA", eku=(CM_KGA,)))
        )
        clock = Clock()
        async with open_desk(
            operator_pki,
            tmp_path / "ledger.db",
            profile=profile,
            clock=clock,
            key_generation=authority,
        ) as desk:
            core = Recording(desk)
            world = World.make(
                vendor_pki,
                operator_pki,
                upstream={"core": core, "replays_repeats": True, **(upstream or {})},
                endpoint={"accepted": BOTH, **endpoint},
            )
            world.clock.now = clock.now
            yield world, desk, core

    return site


def device(vendor: VendorPKI, kind: Any = "p256") -> pki.Credential:
    usage = "keyEncipherment" if kind == "rsa2048" else "keyAgreement"
    return vendor.device("SN-000001", kind, key_usage=["digitalSignature", usage])


async def run(world: World, operation: Any) -> Done:
    der = await operation.request()
    while True:
        step = await operation.receive(await world.post(der))
        if isinstance(step, Done):
            return step
        der = step.der


def generation(world: World, credential: pki.Credential, **options: Any) -> Any:
    """An operation that asks for a key."""
    return world.enrollment(credential, pvno=3, protection_key=credential.private_key, **options)


# --- keys made by the CA ----------------------------------------------------------------------------------------


@pytest.mark.requirement(60, 75, 81)
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
async def test_a_key_reaches_its_device_and_nobody_else(
    open_site: OpenSite, vendor_pki: VendorPKI, kind: Any
) -> None:
    """The request goes up whole, inside nested; the answer's body comes down as it was; certConf too."""
    async with open_site() as (world, desk, core):
        credential = device(vendor_pki, kind)
        operation = generation(world, credential)
        done = await run(world, operation)
        assert done.private_key is not None
        made = done.private_key.public_key()
        assert done.certificate.spki_der == made.public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        assert await desk.status(done.certificate) is CertificateStatus.confirmed
        up = [PKIMessage.from_der(der) for der in core.received]
        assert [message.body_type for message in up] == [BodyType.nested] * 2
        (inner,) = nested_messages(up[0].body_content)
        assert inner == await operation.request()
        assert [event.outcome for event in world.events] == ["issued", "confirmed"]
        private = repr(done.private_key)
        assert all(private not in repr(event) for event in world.events)


@pytest.mark.requirement(3, 60)
@pytest.mark.parametrize("strictness", [Strictness.lenient, Strictness.strict])
async def test_a_key_asked_for_with_pvno_2(
    open_site: OpenSite, vendor_pki: VendorPKI, strictness: Strictness
) -> None:
    """As OpenSSL asks: a lenient endpoint answers in that version; RFC 9483 3.1 has it no EnvelopedData."""
    async with open_site(rules=HeaderRules(strictness=strictness)) as (world, _, core):
        credential = device(vendor_pki)
        der = await signed_again(await generation(world, credential).request(), credential, pvno=2)
        answer = await world.ask(der)
        if strictness is Strictness.strict:
            assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["unsupportedVersion"])
            assert core.received == []
            return
        (response,) = cert_rep_message(answer.body_content).responses
        assert response.private_key_der is not None, response.status_info
        assert answer.header.pvno == 2


@pytest.mark.requirement(60, 142)
async def test_no_key_is_made_unless_the_endpoint_allows_it(
    open_site: OpenSite, vendor_pki: VendorPKI
) -> None:
    """badCertTemplate by default, and nothing goes up."""
    async with open_site(accepted=frozenset()) as (world, _, core):
        answer = await world.ask(await generation(world, device(vendor_pki)).request())
        assert fail_names(answer) == ["badCertTemplate"]
        assert world.events[-1].rule == "R60"
        assert core.received == []


@pytest.mark.requirement(86)
async def test_what_a_ca_sends_in_place_of_a_key_is_not_relayed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """A plain certificate, for which nobody has the key: systemFailure."""
    world = World.make(vendor_pki, operator_pki, endpoint={"accepted": BOTH})
    answer = await world.ask(await generation(world, device(vendor_pki)).request())
    assert fail_names(answer) == ["systemFailure"]
    assert "without" in world.events[-1].detail


# --- encrypted certificates -------------------------------------------------------------------------------------


@pytest.mark.requirement(72, 82, 102)
@pytest.mark.parametrize("implicit", list(ImplicitConfirm))
async def test_a_key_that_cannot_sign_is_proved_by_reading_its_certificate(
    open_site: OpenSite, vendor_pki: VendorPKI, implicit: ImplicitConfirm
) -> None:
    """ML-KEM: the certificate comes encrypted, is never granted implicitly, and the CA checks certConf."""
    async with open_site(ENCRYPTION, implicit_confirm=implicit) as (world, desk, core):
        operation = world.enrollment(
            device(vendor_pki),
            new_key=mlkem.MLKEM768PrivateKey.generate(),
            pvno=3,
            encr_cert=True,
            implicit_confirm=True,
        )
        done = await run(world, operation)
        assert await desk.status(done.certificate) is CertificateStatus.confirmed
        up = [PKIMessage.from_der(der) for der in core.received]
        assert [message.body_type for message in up] == [BodyType.ir, BodyType.certConf]
        assert up[0].body_der == PKIMessage.from_der(await operation.request()).body_der
        (live,) = await world.store.find(up[0].header.transaction_id or b"")
        assert (live.state, live.certificate_der) == (State.CONFIRMED, b"")


@pytest.mark.requirement(3, 72)
@pytest.mark.parametrize("strictness", [Strictness.lenient, Strictness.strict])
async def test_an_encrypted_certificate_asked_for_with_pvno_2(
    open_site: OpenSite, vendor_pki: VendorPKI, strictness: Strictness
) -> None:
    """As OpenSSL asks, too; strict, it is for pvno 3 alone."""
    async with open_site(ENCRYPTION, rules=HeaderRules(strictness=strictness)) as (world, _, core):
        credential = device(vendor_pki)
        operation = world.enrollment(
            credential, new_key=mlkem.MLKEM768PrivateKey.generate(), pvno=3, encr_cert=True
        )
        answer = await world.ask(await signed_again(await operation.request(), credential, pvno=2))
        if strictness is Strictness.strict:
            assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["unsupportedVersion"])
            assert core.received == []
            return
        (response,) = cert_rep_message(answer.body_content).responses
        assert response.encrypted_cert_der is not None, response.status_info
        assert (response.certificate_der, answer.header.pvno) == (None, 2)


@pytest.mark.requirement(72)
@pytest.mark.parametrize("certconf", [CertConf.local, CertConf.implicit])
async def test_a_ca_that_is_not_sent_cert_conf_cannot_be_proved_anything(
    open_site: OpenSite, vendor_pki: VendorPKI, certconf: CertConf
) -> None:
    """badPOP before anything goes up."""
    async with open_site(ENCRYPTION, upstream={"certconf": certconf}) as (world, _, core):
        operation = world.enrollment(
            device(vendor_pki), new_key=mlkem.MLKEM768PrivateKey.generate(), pvno=3, encr_cert=True
        )
        answer = await world.ask(await operation.request())
        assert fail_names(answer) == ["badPOP"]
        assert core.received == []
