"""device -> local RA -> RA -> CA: a gateway behind a gateway, every operation, re-protected and nested."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import CertificateStatus
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_rep_message,
    error_body,
    gen_msg_body,
    rev_req_body,
)
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage, body
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.polling import poll_req_body
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.settings import Variant
from tests.support import desk as desks
from tests.support import requests
from tests.support.answers import fail_names, follow, status_of
from tests.support.chain import Chain, make_chain
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.desk import open_desk
from tests.support.harness import ManualClock, World
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_key
from tests.support.requests import confirmation, csr, details

WAYS = list(itertools.product(("reprotect", "nested"), repeat=2))
FIRST_SUBJECT = "CN=enb-1.ran.example.net,O=Example Operator"

MakeChain = Callable[..., Awaitable["Line"]]


@dataclass(slots=True)
class Line:
    """A chain that ends at the bundled CA."""

    chain: Chain
    ledger: Ledger
    lower_way: Variant
    upper_way: Variant

    @property
    def device_side(self) -> World:
        return self.chain.lower

    async def ask(self, der: bytes) -> PKIMessage:
        """Send a message of a device to the local RA."""
        return await self.chain.lower.ask(der)

    async def status(self, certificate: Certificate) -> CertificateStatus | None:
        found = await self.ledger.certificate(certificate.serial_number, self.chain.lower.clock.now)
        return None if found is None else found.status

    async def enrol(self, enrollment: Enrollment) -> Done:
        """Take one operation from the request to pkiConf."""
        step = await enrollment.receive(await self.device_side.post(await enrollment.request()))
        assert isinstance(step, Send)
        step = await enrollment.receive(await self.device_side.post(step.der))
        assert isinstance(step, Done)
        return step

    async def first(self, device: Credential | None = None) -> Credential:
        """Return the operator credential of a device that has enrolled."""
        key = make_key("p256")
        enrollment = self.device_side.enrollment(
            device or self.device_side.device(), new_key=key, subject=FIRST_SUBJECT
        )
        done = await self.enrol(enrollment)
        return _credential(done.certificate, key, self.device_side.operator)


def _credential(certificate: Certificate, key: Any, operator: OperatorPKI) -> Credential:
    found = x509.load_der_x509_certificate(certificate.der)
    return Credential(found, key, (operator.issuing.certificate, operator.root.certificate))


@pytest.fixture
async def make_line(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> AsyncIterator[MakeChain]:
    """Lines: how the lower and the upper gateway pass requests on, and what is configured besides."""
    clock = ManualClock(desks.NOW)
    async with open_desk(operator_pki, tmp_path / "ledger.db", clock=clock) as desk:  # type: ignore[arg-type]

        async def make(lower_way: str, upper_way: str, **lower: Any) -> Line:
            below, above = Variant(lower_way), Variant(upper_way)
            chain = make_chain(
                vendor_pki,
                operator_pki,
                upper={
                    "clock": clock,
                    "upstream": {"core": desk.ca, "kur": above, "requests": above},
                },
                lower={
                    "endpoint": lower.pop("endpoint", {}),
                    "upstream": {"kur": below, "requests": below, **lower},
                },
            )
            return Line(chain, desk.ledger, below, above)

        yield make


@pytest.fixture(params=WAYS, ids=["-".join(ways) for ways in WAYS])
async def line(request: pytest.FixtureRequest, make_line: MakeChain) -> Line:
    """Every combination of ways."""
    return await make_line(*request.param)


@pytest.mark.requirement(58, 73, 76, 80, 81, 124)
async def test_ir_then_cr_then_kur(line: Line) -> None:
    """A device enrols, gets a second certificate, and renews the first; each is confirmed at the CA."""
    device = await line.first()
    first = cmp_certificate(device.certificate)
    assert await line.status(first) is CertificateStatus.confirmed
    below = line.device_side
    second = await line.enrol(
        below.enrollment(device, body_type=BodyType.cr, subject=FIRST_SUBJECT)
    )
    assert await line.status(second.certificate) is CertificateStatus.confirmed
    renewed = await line.enrol(below.enrollment(device, body_type=BodyType.kur))
    assert await line.status(renewed.certificate) is CertificateStatus.confirmed
    assert await line.status(first) is CertificateStatus.superseded
    wanted = BodyType.nested if line.lower_way is Variant.nested else BodyType.ir
    assert line.chain.link.messages[0].body_type is wanted


@pytest.mark.requirement(124)
async def test_p10cr(line: Line) -> None:
    """A PKCS#10 comes through whole, by the operator certificate and by the vendor's."""
    below, device = line.device_side, await line.first()
    for signer, subject in ((device, FIRST_SUBJECT), (below.device("ENB-2"), "CN=enb-2")):
        key = make_key("p256")
        pkcs10 = body(BodyType.p10cr, csr(key, subject))
        der = await requests.message(below, cmp_credential(signer), pkcs10)
        answer = await line.ask(der)
        assert answer.body_type is BodyType.cp
        assert status_of(answer).issued, below.events[-1].detail
        done = await line.ask(await confirmation(below, signer, answer))
        assert done.body_type is BodyType.pkiconf


@pytest.mark.requirement(129, 130)
async def test_rr(line: Line) -> None:
    """The device gives up its certificate: on its behalf, or by its own signature inside nested."""
    device = await line.first()
    own = cmp_certificate(device.certificate)
    der = await requests.message(
        line.device_side, cmp_credential(device), rev_req_body(details(own))
    )
    answer = await line.ask(der)
    assert status_of(answer).status is PKIStatus.accepted
    assert await line.status(own) is CertificateStatus.revoked


@pytest.mark.requirement(133)
async def test_genm(line: Line) -> None:
    """The CA's answer comes down to the device."""
    device = line.device_side.device()
    asked = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.certReqTemplate)])
    answer = await line.ask(await requests.message(line.device_side, cmp_credential(device), asked))
    assert answer.body_type is BodyType.genp


@pytest.mark.requirement(101)
async def test_a_device_rejects_its_certificate(line: Line) -> None:
    """The rejection reaches the CA, which lets the certificate count no more."""
    below, device = line.device_side, line.device_side.device()
    der = await below.enrollment(device, subject=FIRST_SUBJECT).request()
    answer = await line.ask(der)
    done = await line.ask(await confirmation(below, device, answer, rejects=True))
    assert done.body_type is BodyType.pkiconf
    (response,) = cert_rep_message(answer.body_content).responses
    certificate = load_certificate(response.certificate_der or b"")
    assert await line.status(certificate) is CertificateStatus.rejected


@pytest.mark.requirement(115)
async def test_a_device_gives_up(line: Line) -> None:
    """Its error is answered by the RA next to it, and goes no further."""
    below, device = line.device_side, line.device_side.device()
    answer = await line.ask(await below.enrollment(device, subject=FIRST_SUBJECT).request())
    sent = len(line.chain.link.received)
    failed = error_body(PKIStatusInfo(PKIStatus.rejection, (), (PKIFailureInfo.systemFailure,)))
    done = await line.ask(await follow(device, answer, failed, now=below.clock()))
    assert done.body_type is BodyType.pkiconf
    assert len(line.chain.link.received) == sent


@pytest.mark.requirement(89)
async def test_the_cas_refusal_comes_down(line: Line) -> None:
    """What the CA says no to reaches the device with its failInfo, through both RAs."""
    below = line.device_side
    device, key = below.device(), make_key("p256")
    der = await requests.request(
        below,
        cmp_credential(device),
        key,
        requests.template(key, "CN=Example Operator RA,O=Example Operator"),
    )
    answer = await line.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["notAuthorized"])
    assert below.events[-1].outcome == "refused"


@pytest.mark.requirement(78)
async def test_a_broken_proof_stops_at_the_first_ra(line: Line) -> None:
    """badPOP from the RA next to the device; the next one never hears of it."""
    below, key = line.device_side, make_key("p256")
    template = requests.template(key)
    wrong = await requests.popo(b"something else", key)
    der = await requests.request(
        below, cmp_credential(below.device()), key, template, popo_der=wrong
    )
    assert fail_names(await line.ask(der)) == ["badPOP"]
    assert line.chain.link.received == []


@pytest.mark.requirement(12, 94)
async def test_a_repeat_gets_the_same_answer(line: Line) -> None:
    """One certificate, however often the device asks, and if the local RA asks again too."""
    below = line.device_side
    der = await below.enrollment(below.device(), subject=FIRST_SUBJECT).request()
    first = await below.post(der)
    assert first == await below.post(der)
    assert len(line.chain.link.received) == 1
    (up,) = line.chain.link.received
    repeated = await line.chain.link.exchange(up, path="", deadline_seconds=5.0)
    again = PKIMessage.from_der(repeated)
    assert status_of(again).issued
    assert line.chain.upper.events[-1].outcome == "replayed"


# --- a slow CA ------------------------------------------------------------------------------------------------


async def _poll(world: World, device: Credential, answer: PKIMessage) -> PKIMessage:
    for _ in range(200):
        der = await follow(device, answer, poll_req_body(0), now=world.clock())
        answer = await world.ask(der)
        if answer.body_type is not BodyType.pollRep:
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError("still waiting")


@pytest.mark.requirement(116, 117, 118, 121)
@pytest.mark.parametrize("slow", ["upper", "both"])
@pytest.mark.parametrize("way", ["reprotect", "nested"])
async def test_a_device_polls_along_the_chain(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, way: str, slow: str
) -> None:
    """The upper RA tells to wait, and the lower passes that on, or tells so itself: the certificate comes at last."""
    variant = Variant(way)
    chain = make_chain(
        vendor_pki,
        operator_pki,
        upper={"endpoint": {"wait_after_seconds": 0.02, "check_after_seconds": 0}},
        lower={
            "endpoint": {
                "wait_after_seconds": 0.01 if slow == "both" else None,
                "check_after_seconds": 0,
            },
            "upstream": {"requests": variant, "kur": variant},
        },
    )
    below = chain.lower
    chain.upper.ca.gate = asyncio.Event()
    device = below.device()
    waiting = await below.ask(await below.enrollment(device, subject=FIRST_SUBJECT).request())
    assert status_of(waiting).status is PKIStatus.waiting
    early = await below.ask(await follow(device, waiting, poll_req_body(0), now=below.clock()))
    assert early.body_type is BodyType.pollRep
    chain.upper.ca.gate.set()
    answer = await _poll(below, device, early)
    assert (answer.body_type, status_of(answer).issued) == (BodyType.ip, True)
    done = await below.ask(await confirmation(below, device, answer))
    if done.body_type is BodyType.error and status_of(done).status is PKIStatus.waiting:
        polled = await follow(device, done, poll_req_body(-1), now=below.clock())
        done = await below.ask(polled)
    assert done.body_type is BodyType.pkiconf
    assert len(chain.upper.ca.issued) == 1


# --- what the upper one allows --------------------------------------------------------------------------------


@pytest.mark.requirement(130)
async def test_what_the_upper_ra_refuses_is_no_fault_of_the_device(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """A local RA that may not revoke, nor ask for a name: the refusal comes down with its failInfo."""
    chain = make_chain(vendor_pki, operator_pki, relays={"revoke_on_behalf": False})
    below = chain.lower
    device = below.operator.device()
    der = await requests.message(
        below, cmp_credential(device), rev_req_body(details(cmp_certificate(device.certificate)))
    )
    answer = await below.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.rp, ["notAuthorized"])
    assert chain.upper.ca.received == []
    assert chain.upper.events[-1].rule == "R130"
