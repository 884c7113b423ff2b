"""A certificate that the CA has issued and that its transaction cannot hold, or holds no more: kept, or revoked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp.bodies import CertResponse, PKIStatusInfo, rev_req_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import IMPLICIT_CONFIRM, PKIMessage
from ra_gateway.errors import PKIFailureInfo, UpstreamBroken, UpstreamUnavailable
from ra_gateway.ra.confirmation_records import certificate_key
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.ports import CACore
from ra_gateway.ra.response_checks import CheckedResponse, validate
from ra_gateway.ra.settings import CertConf, ImplicitConfirm, Unconfirmed
from ra_gateway.ra.transaction import State
from ra_gateway.stores.memory import MemoryStore
from tests.support import requests
from tests.support.answers import fail_names, status_of
from tests.support.credentials import cmp_credential
from tests.support.faults import Faults, ReadOnlyStore, fail, faulty_gateway
from tests.support.harness import Answer, MakeWorld, ManualClock, World, changed
from tests.support.mac import ONCE, ir
from tests.support.mac import make_world as mac_world
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import Operation, WaitingCA, settled, slow_world, written_secrets
from tests.support.unconfirmed import WAIT_SECONDS, node_of, revocations, work

REVOKING = {"certconf": CertConf.local, "unconfirmed": Unconfirmed.revoke}


def assert_revoked(world: World, *certificates: Certificate) -> None:
    """Assert that the CA was asked to revoke these, and no others."""
    asked = [rev_req_content(rr.body_content)[0].template for rr in revocations(world)]
    assert [item.serial_number for item in asked] == [item.serial_number for item in certificates]


def node_on(world: World, core: CACore) -> Gateway:
    """Another node, which reaches the CA its own way."""
    upstream = replace(world.endpoint.upstream, core=core)
    return world.second_gateway(replace(world.endpoint, upstream=upstream))


@dataclass(slots=True)
class SlowWay:
    """A way to the CA on which answers are held up until `late` is set; with `instead` it leads to something else."""

    ca: CACore
    late: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    instead: bytes | UpstreamUnavailable | None = None

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        answer = self.instead
        if answer is None:
            answer = await self.ca.exchange(der, path=path, deadline_seconds=deadline_seconds)
        self.asked.set()
        await self.late.wait()
        if isinstance(answer, UpstreamUnavailable):
            raise answer
        return answer

    async def close(self) -> None:
        return None


async def asked_by_a_slow_node(
    world: World, der: bytes, instead: bytes | UpstreamUnavailable | None = None
) -> tuple[asyncio.Task[bytes], asyncio.Event]:
    """Have a node ask the CA whose lease ends before the answer is there."""
    way = SlowWay(world.ca, instead=instead)
    slow = asyncio.create_task(world.post(der, gateway=node_on(world, way)))
    await way.asked.wait()
    world.clock.move(seconds=30)
    return slow, way.late


async def assert_got(operation: Operation) -> None:
    """Assert that the certificate is kept and handed out after all, and that the CA issued none besides."""

    async def issued() -> bool:
        return (await operation.stored()).state is State.ISSUED

    await settled(issued)
    assert status_of(await operation.send()).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert len(operation.world.ca.issued) == 1


async def test_a_store_that_is_gone_when_the_ca_has_issued(make_world: MakeWorld) -> None:
    """The device is told to try again, and gets what was issued; the CA is not asked again, and would issue anew."""
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = make_world(store=store, clock=clock)
    operation = await Operation.begin(world, BodyType.ir)

    def lost(answer: Answer) -> None:
        store.gone = True

    world.ca.script = lost
    assert fail_names(await operation.send()) == ["systemUnavail"]
    store.gone = False
    world.ca.script = lambda answer: None
    await assert_got(operation)


def refuse(answer: Answer) -> None:
    answer.reject(PKIFailureInfo.badRequest)


def be_unreachable(answer: Answer) -> None:
    raise UpstreamUnavailable("connection refused", delivered=False)


@pytest.mark.parametrize(
    "what, is_confirmation",
    [(None, False), (refuse, False), (be_unreachable, False), (None, True), (be_unreachable, True)],
)
async def test_a_store_that_is_gone_when_the_ca_has_answered_otherwise(
    make_world: MakeWorld, what: Callable[[Answer], None] | None, is_confirmation: bool
) -> None:
    """Who repeats the message is answered once the store is back, before the lease of who has asked is over."""
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = make_world(store=store, clock=clock)
    operation = await Operation.begin(world, BodyType.ir)
    if is_confirmation:
        await operation.send()
        await operation.make_cert_conf()

    def lost(answer: Answer) -> None:
        store.gone = True
        if what is not None:
            what(answer)

    world.ca.script = lost
    assert fail_names(await operation.send()) == ["systemUnavail"]
    store.gone = False
    world.ca.script = lambda answer: None

    async def is_settled() -> bool:
        stored = await operation.stored()
        return stored.current.response_der is not None or stored.lease_until <= clock()

    await settled(is_settled)
    answer = await operation.send()
    if what is refuse:
        assert fail_names(answer) == ["badRequest"]
    elif is_confirmation:
        assert answer.body_type is BodyType.pkiconf
    else:
        assert status_of(answer).issued


async def test_a_node_that_was_slower_than_its_lease(make_world: MakeWorld) -> None:
    """Another node had to give the transaction up: what the slow one gets after that is revoked."""
    world = make_world(upstream=REVOKING)
    operation = await Operation.begin(world, BodyType.ir)
    slow, late = await asked_by_a_slow_node(world, operation.sent)
    failed = await operation.send()
    assert fail_names(failed) == ["systemUnavail"]
    late.set()
    assert await slow == failed.der
    assert "after its transaction was given up" in world.events[-1].detail
    assert world.events[-1].serial_number == f"{world.ca.issued[0].serial_number:x}"
    await work(world)
    assert_revoked(world, world.ca.issued[0])


def another_cert_req_id(answer: Answer) -> None:
    answer.set_response(cert_req_id=7)


def accepted_and_failed(answer: Answer) -> None:
    info = PKIStatusInfo(PKIStatus.accepted, (), (PKIFailureInfo.badPOP,))
    answer.set_response(status_info=info)


def rejected_and_issued(answer: Answer) -> None:
    answer.set_response(status_info=PKIStatusInfo(PKIStatus.rejection, ("no",)))


def two_responses(answer: Answer) -> None:
    content = answer.content
    no = CertResponse(1, PKIStatusInfo(PKIStatus.rejection, ("no",)))
    answer.set_content(replace(content, responses=(no, *content.responses)))


@pytest.mark.parametrize(
    "script", [another_cert_req_id, accepted_and_failed, rejected_and_issued, two_responses]
)
async def test_an_answer_that_cannot_be_relayed(
    make_world: MakeWorld, script: Callable[[Answer], None]
) -> None:
    """What came with it was issued all the same: it is revoked."""
    world = make_world(upstream=REVOKING)

    def broken(answer: Answer) -> None:
        if answer.request.body_type is BodyType.ir:
            script(answer)

    world.ca.script = broken
    operation = await Operation.begin(world, BodyType.ir)
    assert fail_names(await operation.send()) != []
    assert (await operation.stored()).state is State.FAILED
    world.ca.script = lambda answer: None
    await work(world)
    assert_revoked(world, world.ca.issued[0])
    assert (await operation.stored()).state is State.WITHDRAWN


async def test_an_answer_that_cannot_be_relayed_while_the_store_is_gone(
    make_world: MakeWorld,
) -> None:
    """Both at once: it is revoked when the store is back."""
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = make_world(store=store, clock=clock, upstream=REVOKING)

    def broken(answer: Answer) -> None:
        another_cert_req_id(answer)
        store.gone = True

    world.ca.script = broken
    operation = await Operation.begin(world, BodyType.ir)
    assert fail_names(await operation.send()) == ["systemUnavail"]
    store.gone, world.ca.script = False, lambda answer: None

    async def failed() -> bool:
        return (await operation.stored()).state is State.FAILED

    await settled(failed)
    await work(world)
    assert_revoked(world, world.ca.issued[0])


async def test_a_slow_node_and_an_answer_that_cannot_be_relayed(make_world: MakeWorld) -> None:
    """Another node had given the transaction up."""
    world = make_world(upstream=REVOKING)
    world.ca.script = another_cert_req_id
    operation = await Operation.begin(world, BodyType.ir)
    slow, late = await asked_by_a_slow_node(world, operation.sent)
    await operation.send()
    late.set()
    await slow
    world.ca.script = lambda answer: None
    await work(world)
    assert_revoked(world, world.ca.issued[0])


async def test_another_node_was_refused_meanwhile(make_world: MakeWorld) -> None:
    """The device has the CA's rejection: what the first node gets after that is revoked."""
    world = make_world(upstream={**REVOKING, "replays_repeats": True})
    operation = await Operation.begin(world, BodyType.ir)
    slow, late = await asked_by_a_slow_node(world, operation.sent)
    world.ca.script = lambda answer: answer.reject(PKIFailureInfo.badRequest)
    refused = await operation.send()
    assert fail_names(refused) == ["badRequest"]
    world.ca.script = lambda answer: None
    late.set()
    assert await slow == refused.der
    await work(world)
    assert_revoked(world, world.ca.issued[0])
    assert (await operation.stored()).state is State.REFUSED


async def test_a_store_that_has_lost_the_transaction(make_world: MakeWorld) -> None:
    """Nothing knows of it any more but the node that asked: what it gets is revoked, and the device begins anew."""
    world = make_world(upstream=REVOKING)
    operation = await Operation.begin(world, BodyType.ir)
    slow, late = await asked_by_a_slow_node(world, operation.sent)
    fresh = MemoryStore(world.clock, max_transactions=10)
    assert isinstance(world.store, MemoryStore)
    world.store.__dict__.update(fresh.__dict__)
    late.set()
    assert fail_names(PKIMessage.from_der(await slow)) == ["systemUnavail"]
    await work(world)
    assert_revoked(world, world.ca.issued[0])
    assert status_of(await operation.send()).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert_revoked(world, world.ca.issued[0])


async def test_a_key_that_cannot_sign_when_the_ca_has_issued(make_world: MakeWorld) -> None:
    """The device gets its certificate as soon as the RA's key signs again, and the CA is not asked again."""
    world = make_world(upstream=REVOKING)
    faults = Faults(at=4, strike=fail)  # sign, create, exchange, sign
    node = faulty_gateway(world, faults)
    node._services.schedule = node_of(world).schedule
    node._services.confirmation_records = node_of(world).confirmation_records
    operation = await Operation.begin(world, BodyType.ir)
    assert fail_names(await operation.send(gateway=node)) != []
    await assert_got(operation)


async def test_what_can_never_be_stored_is_told(make_world: MakeWorld) -> None:
    """At the latest when the process ends: with its serial number, for the operator to see to."""
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = make_world(store=store, clock=clock)

    def lost(answer: Answer) -> None:
        store.gone = True

    world.ca.script = lost
    operation = await Operation.begin(world, BodyType.ir)
    assert fail_names(await operation.send()) == ["systemUnavail"]
    await node_of(world).drain(0.0)
    event = world.events[-1]
    assert "could not be stored" in event.detail
    assert event.serial_number == f"{world.ca.issued[0].serial_number:x}"


async def test_a_shutdown_tries_once_more(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the pause between attempts is by then."""
    monkeypatch.setattr(
        "ra_gateway.ra.late_certificates._FIRST_PAUSE_SECONDS", 10 * PATIENCE_SECONDS
    )
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = make_world(store=store, clock=clock)

    def lost(answer: Answer) -> None:
        store.gone = True

    world.ca.script = lost
    operation = await Operation.begin(world, BodyType.ir)
    assert fail_names(await operation.send()) == ["systemUnavail"]
    store.gone = False
    await node_of(world).drain(PATIENCE_SECONDS)
    assert (await operation.stored()).state is State.ISSUED


async def test_what_is_begun_while_the_process_ends_is_waited_for(make_world: MakeWorld) -> None:
    """The CA answers an exchange in the background when the store is gone: that is told before the end."""
    clock = ManualClock()
    store = ReadOnlyStore(clock, max_transactions=10)
    world = slow_world(make_world, store=store, clock=clock)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()

    def lost(answer: Answer) -> None:
        store.gone = True

    world.ca.script = lost
    assert world.ca.gate is not None
    ending = asyncio.create_task(node_of(world).drain(PATIENCE_SECONDS))
    await asyncio.sleep(0)
    world.ca.gate.set()
    await ending
    assert "could not be stored" in world.events[-1].detail
    assert not node_of(world)._tasks


async def test_a_withdrawn_certificate_is_not_granted(make_world: MakeWorld) -> None:
    """A CA gives it to a device that will not confirm: it gets an error, as it would never learn of the end."""
    world = make_world(
        upstream={"unconfirmed": Unconfirmed.revoke},
        endpoint={"implicit_confirm": ImplicitConfirm.relay},
    )
    first = await Operation.begin(world, BodyType.ir)
    await first.send()
    await work(world, seconds=WAIT_SECONDS + 1)
    assert_revoked(world, world.ca.issued[0])
    certificate_der = world.ca.issued[0].der

    def again(answer: Answer) -> None:
        if answer.request.body_type is BodyType.ir:
            answer.set_response(certificate_der=certificate_der)

    world.ca.script = again
    body_der = PKIMessage.from_der(first.sent).body_der
    der = await requests.message(
        world, cmp_credential(first.device), body_der, general_info=(IMPLICIT_CONFIRM,)
    )
    answer = await world.ask(der)
    assert (fail_names(answer), world.events[-1].rule) == (["badRequest"], "R111")
    (stored,) = await world.store.find(PKIMessage.from_der(der).header.transaction_id or b"")
    assert stored.state is State.FAILED


async def test_a_broken_answer_to_a_poll_that_another_node_has_taken_over(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """The device is told to ask again: the other node has the CA's answer yet to come."""
    clock = ManualClock()
    ca = WaitingCA(operator_pki, clock, polls=0, delays=frozenset({BodyType.ir}))
    world = World.make(
        vendor_pki, operator_pki, clock=clock, ca=ca, endpoint={"wait_after_seconds": 0.05}
    )
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    der = await operation.poll_req()
    first, lost = await asked_by_a_slow_node(world, der, b"<html>504</html>")
    second, answered = await asked_by_a_slow_node(world, await operation.poll_req())
    lost.set()
    assert PKIMessage.from_der(await first).body_type is BodyType.pollRep
    answered.set()
    await second
    assert [event.bug for event in world.events if event.bug] == []


@pytest.mark.parametrize("certconf", [False, True])
async def test_a_slow_node_does_not_fail_what_another_has_taken_over(
    make_world: MakeWorld, certconf: bool
) -> None:
    """Its CA's answer was lost: that says nothing of the other's, which has yet to come."""
    upstream = {"unconfirmed": Unconfirmed.revoke, "replays_repeats": True}
    world = make_world(upstream=upstream)
    world.ca.replays = True
    operation = await Operation.begin(world, BodyType.ir)
    if certconf:
        await operation.send()
        await operation.make_cert_conf()
    first, lost = await asked_by_a_slow_node(world, operation.sent, b"<html>504</html>")
    second, answered = await asked_by_a_slow_node(world, operation.sent)
    lost.set()
    assert fail_names(PKIMessage.from_der(await first)) == ["systemUnavail"]
    answered.set()
    operation.answer = PKIMessage.from_der(await second)
    if not certconf:
        assert status_of(operation.answer).issued
        await operation.confirm()
    assert operation.answer.body_type is BodyType.pkiconf
    assert (await operation.stored()).state is State.CONFIRMED
    await work(world, days=1)
    assert_revoked(world)


async def test_its_transaction_id_is_the_device_s_by_chance(make_world: MakeWorld) -> None:
    """Another transaction of the same signer lives where the lone certificate would: it is revoked all the same."""
    world = make_world(upstream=REVOKING)
    operation = await Operation.begin(world, BodyType.ir)
    slow, late = await asked_by_a_slow_node(world, operation.sent)
    await operation.send()
    stored = await operation.stored()
    key = replace(stored.key, transaction_id=certificate_key(world.ca.issued[0]))
    assert await world.store.create(replace(stored, key=key, version=0)) is None
    late.set()
    await slow
    await work(world)
    assert_revoked(world, world.ca.issued[0])


async def test_another_node_is_about_to_be_given_the_same(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node cannot relay it, as its rules are others; the other can: it is not revoked in between."""
    world = make_world(upstream={**REVOKING, "replays_repeats": True})
    world.ca.replays = True
    refuses = [True]

    def strictly(*args: Any) -> CheckedResponse:
        checked = validate(*args)
        if not refuses:
            return checked
        refuses.clear()
        assert checked.certificate is not None
        error = UpstreamBroken("not by the rules of this node")
        error.certificate_der = checked.certificate.der
        raise error

    monkeypatch.setattr("ra_gateway.ra.ca_exchange.validate", strictly)
    operation = await Operation.begin(world, BodyType.ir)
    first, refused = await asked_by_a_slow_node(world, operation.sent)
    way = SlowWay(world.ca)
    second = asyncio.create_task(world.post(operation.sent, gateway=node_on(world, way)))
    await way.asked.wait()
    refused.set()
    await first
    await work(world)
    assert_revoked(world)
    way.late.set()
    operation.answer = PKIMessage.from_der(await second)
    assert status_of(operation.answer).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    await work(world, days=1)
    assert_revoked(world)


async def test_a_slow_node_does_not_give_back_what_another_uses(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """It did not reach the CA, and its lease is over: the secret is the other's."""
    world = mac_world(vendor_pki, operator_pki, written_secrets(tmp_path))
    reference, secret = ONCE
    der = await ir(world, reference=reference, secret=secret)
    refused = UpstreamUnavailable("connection refused", delivered=False)
    upstream = changed(world.endpoint.upstream, replays_repeats=True)
    world.endpoint = replace(world.endpoint, upstream=upstream)
    first, lost = await asked_by_a_slow_node(world, der, refused)
    second, answered = await asked_by_a_slow_node(world, der)
    lost.set()
    assert fail_names(PKIMessage.from_der(await first)) == ["systemUnavail"]
    answered.set()
    assert status_of(PKIMessage.from_der(await second)).issued
    another = await world.ask(await ir(world, reference=reference, secret=secret))
    assert fail_names(another) == ["notAuthorized"]


async def test_a_secret_is_given_back_before_the_transaction(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """In between another node may take the transaction over, and is to claim the secret for itself."""
    world = mac_world(vendor_pki, operator_pki, written_secrets(tmp_path))
    reference, secret = ONCE
    der = await ir(world, reference=reference, secret=secret)
    world.ca.failure = UpstreamUnavailable("connection refused", delivered=False)
    world.ca.failures = 1
    mac = world.endpoint.mac
    assert mac is not None
    given_back: list[State] = []
    release = mac.secrets.release

    async def noted(reference: bytes, holder: str) -> None:
        (found,) = await world.store.find(PKIMessage.from_der(der).header.transaction_id or b"")
        given_back.append(found.state)
        assert found.lease_until > world.clock()
        await release(reference, holder)

    mac.secrets.release = noted  # type: ignore[method-assign]
    assert fail_names(await world.ask(der)) == ["systemUnavail"]
    assert given_back == [State.REQUESTED]
    assert status_of(await world.ask(der)).issued
    another = await world.ask(await ir(world, reference=reference, secret=secret))
    assert fail_names(another) == ["notAuthorized"]


async def test_a_poll_whose_answer_another_node_was_faster_with(make_world: MakeWorld) -> None:
    """Its device gets what was stored: no failure of a node's own making."""
    world = slow_world(make_world, upstream={"replays_repeats": True})
    world.ca.replays = True
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def planned() -> bool:
        return (await operation.stored()).current.planned is not None

    await settled(planned)
    der = await operation.poll_req()
    first, second = await asyncio.gather(
        world.post(der), world.post(der, gateway=world.second_gateway())
    )
    assert first == second
    assert [event.bug for event in world.events if event.bug] == []
