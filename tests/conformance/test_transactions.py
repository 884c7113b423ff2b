"""One request, one certificate: repeats, collisions, storms, lost stores and nodes that die (R12, R94, R95)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import StoreUnavailable, UpstreamUnavailable
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.transaction import State, Transaction
from ra_gateway.stores.memory import MemoryStore
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.faults import Faults, Strike, die, fail, faulty_gateway
from tests.support.harness import ANY_IDENTITY, MakeWorld, ScriptedCA, World, make_gateway
from tests.support.pki import Credential, OperatorPKI, VendorPKI, make_vendor_pki

DEADLINE_SECONDS = 0.02
"""For the CA, and so the patience of a repeat: real time, unlike leases, which the world's clock decides."""

LEASE_SECONDS = 6
"""More than any lease with that deadline."""


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    def make(**options: Any) -> World:
        upstream = {"deadline_seconds": DEADLINE_SECONDS, **options.pop("upstream", {})}
        return World.make(vendor_pki, operator_pki, upstream=upstream, **options)

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def irs(world: World) -> int:
    """How many certificate requests reached the CA."""
    return sum(message.body_type is not BodyType.certConf for message in world.ca.messages)


async def stored(world: World, der: bytes) -> list[Transaction]:
    return await world.store.find(PKIMessage.from_der(der).header.transaction_id or b"")


async def with_transaction_id(
    world: World, device: Credential, transaction_id: bytes, **options: Any
) -> bytes:
    """A fresh ir of a device under a given transactionID."""
    made = PKIMessage.from_der(await world.enrollment(device, **options).request())
    header = replace(made.header, transaction_id=transaction_id)
    credential = cmp_credential(device)
    return await protect(header, made.body_der, credential, credential.certificates)


async def finish(world: World, enrollment: Enrollment, answer: bytes) -> Done:
    step = await enrollment.receive(answer)
    while isinstance(step, Send):
        step = await enrollment.receive(await world.post(step.der))
    return step


async def asked(world: World, count: int) -> None:
    """Let other tasks run until the CA has answered so many messages."""
    for _ in range(1000):
        if len(world.ca.received) == count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"the CA was asked {len(world.ca.received)} times, expected {count}")


# --- repeats --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(12, 94)
async def test_a_repeat_is_answered_from_the_store(world: World) -> None:
    """Before and after certConf, at any node: the octets of the first answer, and the CA is not asked."""
    enrollment = world.enrollment(world.device())
    der = await enrollment.request()
    first = await world.post(der)
    assert await world.post(der, gateway=world.second_gateway()) == first
    await finish(world, enrollment, first)
    assert await world.post(der) == first
    assert irs(world) == len(world.ca.issued) == 1
    assert [event.outcome for event in world.events] == [
        "issued",
        "replayed",
        "confirmed",
        "replayed",
    ]


@pytest.mark.requirement(29, 94)
async def test_a_late_repeat_is_still_a_repeat(world: World) -> None:
    """The device lost power for half an hour: its messageTime is stale, its ir is known."""
    der = await world.enrollment(world.device()).request()
    first = await world.post(der)
    world.clock.move(minutes=30)
    assert await world.post(der) == first
    assert irs(world) == 1


@pytest.mark.requirement(12, 29)
async def test_a_late_ir_that_is_no_repeat_is_late(world: World) -> None:
    """Another ir under a live transactionID does not pass with a stale messageTime."""
    device = world.device()
    der = await world.enrollment(device).request()
    transaction_id = PKIMessage.from_der(der).header.transaction_id or b""
    stale = await with_transaction_id(world, device, transaction_id)
    await world.post(der)
    world.clock.move(minutes=30)
    assert fail_names(await world.ask(stale)) == ["badTime"]
    assert irs(world) == 1


@pytest.mark.requirement(29, 94)
async def test_an_ir_outlives_its_transaction_by_nothing(world: World) -> None:
    """When the store forgets, messageTime is too old for the ir to count as new."""
    der = await world.enrollment(world.device()).request()
    await world.post(der)
    world.clock.move(seconds=3601)
    assert await stored(world, der) == []
    assert fail_names(await world.ask(der)) == ["badTime"]
    assert irs(world) == 1


@pytest.mark.requirement(12)
async def test_a_transaction_id_is_free_again_when_its_transaction_is_forgotten(
    world: World,
) -> None:
    """A new ir under an old transactionID is a new operation."""
    device = world.device()
    der = await world.enrollment(device).request()
    await world.post(der)
    world.clock.move(seconds=3601)
    transaction_id = PKIMessage.from_der(der).header.transaction_id or b""
    answer = await world.ask(await with_transaction_id(world, device, transaction_id))
    assert answer.body_type is BodyType.ip
    assert len(world.ca.issued) == 2


@pytest.mark.requirement(89, 94)
async def test_a_repeat_of_a_rejected_request_hears_the_rejection_again(world: World) -> None:
    """The CA is not asked whether it changed its mind."""
    world.ca.script = lambda answer: answer.reject()
    der = await world.enrollment(world.device()).request()
    first = await world.post(der)
    assert await world.post(der) == first
    assert irs(world) == 1
    (transaction,) = await stored(world, der)
    assert transaction.state is State.REFUSED


# --- collisions -----------------------------------------------------------------------------------------------


@pytest.mark.requirement(12)
@pytest.mark.parametrize("moment", ["in flight", "issued", "confirmed"])
async def test_another_request_under_a_live_transaction_id_harms_nothing(
    make_world: MakeWorld, moment: str
) -> None:
    """transactionIdInUse, nothing goes up, and the first operation goes on as if nothing had been."""
    world = make_world()
    device = world.device()
    enrollment = world.enrollment(device)
    world.ca.gate = asyncio.Event()
    first = asyncio.create_task(world.post(await enrollment.request()))
    await asyncio.sleep(0)
    if moment != "in flight":
        world.ca.gate.set()
    if moment == "confirmed":
        await finish(world, enrollment, await first)
    asked = len(world.ca.received)
    other = await with_transaction_id(
        world, device, enrollment.transaction_id, subject="CN=enb-1.other.example.net"
    )
    answer = await world.ask(other)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["transactionIdInUse"])
    assert world.events[-1].rule == "R12"
    assert len(world.ca.received) == asked
    world.ca.gate.set()
    if moment != "confirmed":
        await finish(world, enrollment, await first)
    assert len(world.ca.issued) == 1


@pytest.mark.requirement(12)
async def test_what_is_not_protected_makes_no_other_request(world: World) -> None:
    """A repeat is the same header and body by the same signer: extraCerts in another order, signed once more."""
    device = world.device()
    made = PKIMessage.from_der(await world.enrollment(device).request())
    credential = cmp_credential(device)
    answer = await world.post(made.der)
    der = await protect(made.header, made.body_der, credential, reversed(credential.certificates))
    assert der != made.der
    assert await world.post(der) == answer
    assert len(world.ca.received) == 1


@pytest.mark.requirement(12, 147)
@pytest.mark.parametrize("same_vendor", [True, False])
async def test_two_devices_with_one_transaction_id_do_not_meet(
    make_world: MakeWorld, same_vendor: bool
) -> None:
    """Each gets its own certificate and confirms its own, though a stranger drew the same number."""
    foreign = make_vendor_pki("Beta Radio")
    acme = make_world().endpoint.vendors[0]
    beta = TrustDomain("beta", DomainKind.vendor, (cmp_certificate(foreign.root.certificate),))
    world = make_world(
        endpoint={
            "vendors": (acme, beta),
            "identities": {"acme": ANY_IDENTITY, "beta": ANY_IDENTITY},
        }
    )
    one = world.device("ENB-1")
    # The same subject as the other vendor's device, so that only issuer and key differ.
    two = world.device("ENB-2") if same_vendor else foreign.device("ENB-1", san=())
    number = bytes(range(16))
    first, second = (
        world.enrollment(device, subject=f"CN=enb-{i}") for i, device in enumerate((one, two))
    )
    for enrollment in (first, second):
        enrollment._transaction_id = number  # what a bad random generator does
    answers = [await world.post(await item.request()) for item in (first, second)]
    ends = [
        await finish(world, item, answer)
        for item, answer in zip((first, second), answers, strict=True)
    ]
    assert [end.certificate for end in ends] == world.ca.issued
    assert [item.certificate.subject for item in ends] == ["CN=enb-0", "CN=enb-1"]
    assert {event.outcome for event in world.events} == {"issued", "confirmed"}


@pytest.mark.requirement(12)
async def test_one_ir_at_two_endpoints_reaches_one_ca(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """Endpoints that share a trust domain and a store do not share a transaction: the second is refused."""
    world = make_world()
    elsewhere_ca = ScriptedCA(operator_pki, world.clock)
    elsewhere = replace(
        world.endpoint,
        name="elsewhere",
        upstream=replace(world.endpoint.upstream, name="other", core=elsewhere_ca),
    )
    der = await world.enrollment(world.device()).request()
    await world.post(der)
    reply = await world.second_gateway(elsewhere).handle(der, endpoint="elsewhere")
    assert fail_names(PKIMessage.from_der(reply.der)) == ["transactionIdInUse"]
    assert elsewhere_ca.received == []


@pytest.mark.requirement(12, 94)
async def test_a_dead_node_s_request_is_not_taken_to_another_ca(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """The first CA may have issued: a second one must not be asked, whatever endpoint the repeat comes to."""
    world = make_world()
    elsewhere_ca = ScriptedCA(operator_pki, world.clock)
    other = replace(world.endpoint.upstream, name="other", core=elsewhere_ca, replays_repeats=True)
    der = await world.enrollment(world.device()).request()
    faults = Faults(at=3, done=True)
    await dies(faulty_gateway(world, faults), der)
    world.clock.move(seconds=LEASE_SECONDS)
    moved = world.second_gateway(replace(world.endpoint, name="elsewhere", upstream=other))
    await moved.handle(der, endpoint="elsewhere")
    switched = world.second_gateway(replace(world.endpoint, upstream=other))
    await switched.handle(der, endpoint="ran")
    assert elsewhere_ca.received == []
    assert len(world.ca.issued) == 1


@pytest.mark.requirement(81)
async def test_a_cert_conf_is_not_taken_to_another_ca(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """The endpoint was given another upstream meanwhile: systemFailure, and the transaction is unharmed."""
    world = make_world()
    elsewhere_ca = ScriptedCA(operator_pki, world.clock)
    other = replace(world.endpoint.upstream, name="other", core=elsewhere_ca)
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    switched = world.second_gateway(replace(world.endpoint, upstream=other))
    assert fail_names(await world.ask(step.der, gateway=switched)) == ["systemFailure"]
    assert elsewhere_ca.received == []
    assert isinstance(await enrollment.receive(await world.post(step.der)), Done)


# --- storms ---------------------------------------------------------------------------------------------------


def two_nodes(world: World) -> list[Gateway]:
    """Two gateways on one store, whose every outside call lets others run."""
    return [faulty_gateway(world, Faults()), faulty_gateway(world, Faults())]


async def storm(world: World, der: bytes, *, count: int = 20) -> list[bytes]:
    nodes = two_nodes(world)
    return await asyncio.gather(
        *(world.post(der, gateway=nodes[index % 2]) for index in range(count))
    )


@pytest.mark.requirement(94)
async def test_a_storm_of_one_ir_issues_once(make_world: MakeWorld) -> None:
    """Twenty at once at two nodes: the CA is asked once, all get the same octets."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    enrollment = world.enrollment(world.device())
    answers = await storm(world, await enrollment.request())
    assert len(set(answers)) == 1
    assert irs(world) == len(world.ca.issued) == 1
    await finish(world, enrollment, answers[0])


@pytest.mark.requirement(94, 109)
async def test_a_storm_of_one_cert_conf_confirms_once(make_world: MakeWorld) -> None:
    """As for the ir."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    answers = await storm(world, step.der)
    assert len(set(answers)) == 1
    assert len(world.ca.received) == 2


@pytest.mark.requirement(90, 94)
async def test_a_storm_while_the_ca_is_away_issues_once(make_world: MakeWorld) -> None:
    """Who failed to reach the CA says so; the next one in line tries; the rest get what it got."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    world.ca.failure, world.ca.failures = UpstreamUnavailable("refused", delivered=False), 3
    answers = await storm(world, await world.enrollment(world.device()).request())
    types = [PKIMessage.from_der(answer).body_type for answer in answers]
    assert types.count(BodyType.error) == 3
    assert len({a for a, t in zip(answers, types, strict=True) if t is BodyType.ip}) == 1
    assert len(world.ca.issued) == 1


@pytest.mark.requirement(12, 94)
async def test_a_storm_of_different_irs_under_one_id_has_one_winner(make_world: MakeWorld) -> None:
    """The others hear transactionIdInUse."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    device = world.device()
    ders = [await with_transaction_id(world, device, bytes(range(16))) for _ in range(8)]
    nodes = two_nodes(world)
    answers = await asyncio.gather(
        *(world.ask(der, gateway=nodes[index % 2]) for index, der in enumerate(ders))
    )
    assert sorted(answer.body_type.name for answer in answers) == ["error"] * 7 + ["ip"]
    refused = [answer for answer in answers if answer.body_type is BodyType.error]
    assert {name for answer in refused for name in fail_names(answer)} == {"transactionIdInUse"}
    assert irs(world) == 1


@pytest.mark.requirement(109)
async def test_a_race_of_different_cert_confs_has_one_winner(make_world: MakeWorld) -> None:
    """Both were read before either was stored; the loser hears certConfirmed, not transactionIdInUse."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    device = world.device()
    ders = []
    enrollment = world.enrollment(device)
    answer = await world.post(await enrollment.request())
    step = await enrollment.receive(answer)
    assert isinstance(step, Send)
    one = PKIMessage.from_der(step.der)
    credential = cmp_credential(device)
    for nonce in (bytes(16), bytes(range(16))):
        header = replace(one.header, sender_nonce=nonce)
        ders.append(await protect(header, one.body_der, credential, credential.certificates))
    nodes = two_nodes(world)
    answers = await asyncio.gather(
        *(world.ask(der, gateway=node) for der, node in zip(ders, nodes, strict=True))
    )
    answers.sort(key=lambda message: message.body_type)
    assert [message.body_type for message in answers] == [BodyType.pkiconf, BodyType.error]
    assert fail_names(answers[1]) == ["certConfirmed"]
    assert len(world.ca.received) == 2


@pytest.mark.requirement(94)
async def test_many_devices_at_once_do_not_mix(make_world: MakeWorld) -> None:
    """Thirty enrolments interleaved over two nodes: each device gets the certificate for its own key."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    nodes = two_nodes(world)

    async def enrol(index: int) -> Done:
        enrollment = world.enrollment(world.device(f"ENB-{index}"), subject=f"CN=enb-{index}")
        step = await enrollment.receive(
            await world.post(await enrollment.request(), gateway=nodes[index % 2])
        )
        assert isinstance(step, Send)
        done = await enrollment.receive(await world.post(step.der, gateway=nodes[index % 2 - 1]))
        assert isinstance(done, Done)
        return done

    ends = await asyncio.gather(*(enrol(index) for index in range(30)))
    assert [end.certificate.subject for end in ends] == [f"CN=enb-{i}" for i in range(30)]
    assert len(world.ca.issued) == 30


# --- nodes that die, and everything else that can fail -----------------------------------------------------------

IR = ["sign", "create", "exchange", "sign", "replace"]
CERT_CONF = ["find", "sign", "replace", "exchange", "sign", "replace"]
EVERY_CALL = list(enumerate((*IR, *CERT_CONF), start=1))

MAY_HAVE_ISSUED = {(2, True), (3, False), (3, True), (4, False), (4, True), (5, False)}
"""Deaths (which call, whether it was done) after which nobody can know whether the CA has issued."""


def call_id(value: object) -> str:
    return f"{value[0]:02}-{value[1]}" if isinstance(value, tuple) else str(value)


async def dies(gateway: Gateway, der: bytes) -> None:
    """Handle a message in a task that is cancelled on the way; cancellation is all that leaves."""
    task = asyncio.create_task(gateway.handle(der, endpoint="ran"))
    with pytest.raises(asyncio.CancelledError):
        await task


async def reach(world: World, call: int) -> tuple[Enrollment, bytes, int]:
    """Bring an enrolment to the message whose handling makes the n-th call.

    Returns:
        The enrolment, that message, and the call's number within its handling.
    """
    enrollment = world.enrollment(world.device())
    der = await enrollment.request()
    if call <= len(IR):
        return enrollment, der, call
    step = await enrollment.receive(await world.post(der))
    assert isinstance(step, Send)
    return enrollment, step.der, call - len(IR)


async def test_the_calls_of_an_enrolment_are_those_of_the_tables_above(world: World) -> None:
    """So that the tests below fail everywhere, and notice when there is a new place to fail."""
    faults = Faults()
    gateway = faulty_gateway(world, faults)
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(await world.post(await enrollment.request(), gateway=gateway))
    assert isinstance(step, Send)
    assert faults.calls == IR
    await world.post(step.der, gateway=gateway)
    assert faults.calls == IR + CERT_CONF


@pytest.mark.requirement(94, 95)
@pytest.mark.parametrize("strike", [die, fail], ids=["dies", "fails"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", EVERY_CALL, ids=call_id)
async def test_a_repeat_finishes_what_a_node_left_where_the_ca_replays(
    make_world: MakeWorld, call: tuple[int, str], done: bool, strike: Strike
) -> None:
    """Wherever a node died or failed, the device's own repeat gets the one certificate."""
    world = make_world(upstream={"replays_repeats": True})
    world.ca.replays = True
    enrollment, der, number = await reach(world, call[0])
    await struck(world, der, Faults(at=number, done=done, strike=strike))
    await early_repeat(world, der)
    world.clock.move(seconds=LEASE_SECONDS)
    end = await finish(world, enrollment, await world.post(der))
    assert world.ca.issued == [end.certificate]
    assert await world.post(await enrollment.request())


@pytest.mark.requirement(94, 95)
@pytest.mark.parametrize("strike", [die, fail], ids=["dies", "fails"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", EVERY_CALL, ids=call_id)
async def test_no_repeat_issues_twice_where_the_ca_would(
    make_world: MakeWorld, call: tuple[int, str], done: bool, strike: Strike
) -> None:
    """The repeat gets the certificate where nothing was in doubt, else a final error; never a second one."""
    world = make_world()
    enrollment, der, number = await reach(world, call[0])
    await struck(world, der, Faults(at=number, done=done, strike=strike))
    await early_repeat(world, der)
    world.clock.move(seconds=LEASE_SECONDS)
    answer = await world.post(der)
    undelivered = strike is fail and (call[0], done) == (3, False)
    if (call[0], done) in MAY_HAVE_ISSUED and not undelivered:
        assert fail_names(PKIMessage.from_der(answer)) == ["systemUnavail"]
        assert await world.post(der) == answer
        (transaction,) = await stored(world, der)
        assert transaction.state is State.FAILED
    else:
        end = await finish(world, enrollment, answer)
        assert world.ca.issued == [end.certificate]
    assert len(world.ca.issued) <= 1


async def struck(world: World, der: bytes, faults: Faults) -> None:
    """Handle a message at a node that dies, or whose store, CA or key fails once."""
    gateway = faulty_gateway(world, faults)
    if faults.strike is die:
        await dies(gateway, der)
        return
    answer = await world.ask(der, gateway=gateway)
    failed = faults.calls[faults.at - 1]
    assert answer.body_type is BodyType.error
    assert fail_names(answer) == ["systemFailure" if failed == "sign" else "systemUnavail"]
    assert answer.protection is not None
    assert b"PIN 1234" not in answer.der


async def early_repeat(world: World, der: bytes) -> None:
    """A repeat before the lease has passed never makes a second request out of one."""
    asked = irs(world)
    await world.post(der, gateway=world.second_gateway())
    assert len(world.ca.issued) <= 1
    assert irs(world) <= asked + 1


@pytest.mark.requirement(94, 95)
@pytest.mark.parametrize("replays", [True, False], ids=["replays", "issues-again"])
@pytest.mark.parametrize("second", range(1, 7))
@pytest.mark.parametrize("first", range(1, 6))
async def test_a_repeat_whose_node_dies_as_well_issues_nothing_twice(
    make_world: MakeWorld, first: int, second: int, replays: bool
) -> None:
    """Two deaths in a row, the second while cleaning up after the first."""
    world = make_world(upstream={"replays_repeats": replays})
    world.ca.replays = replays
    enrollment = world.enrollment(world.device())
    der = await enrollment.request()
    await dies(faulty_gateway(world, Faults(at=first, done=True)), der)
    world.clock.move(seconds=LEASE_SECONDS)
    task = asyncio.create_task(
        faulty_gateway(world, Faults(at=second, done=True)).handle(der, endpoint="ran")
    )
    await asyncio.wait([task])  # it may get to its end, where fewer calls are left
    world.clock.move(seconds=LEASE_SECONDS)
    answer = await world.post(der)
    if replays:
        end = await finish(world, enrollment, answer)
        assert world.ca.issued == [end.certificate]
    else:
        assert irs(world) <= 1
        assert await world.post(der) == answer


@pytest.mark.requirement(95)
@pytest.mark.parametrize("call", EVERY_CALL, ids=call_id)
async def test_a_store_that_is_gone_for_good_is_told_and_issues_nothing_twice(
    make_world: MakeWorld, call: tuple[int, str]
) -> None:
    """From a certain call on nothing can be stored; when the store is back, the repeat goes on."""
    world = make_world(upstream={"replays_repeats": True})
    world.ca.replays = True
    enrollment, der, number = await reach(world, call[0])
    faults = Faults(at=number, lasting=True, strike=fail)
    gateway = faulty_gateway(world, faults)
    for _ in range(3):
        answer = await world.ask(der, gateway=gateway)
        assert answer.body_type is BodyType.error
        assert fail_names(answer)[0] in ("systemUnavail", "systemFailure")
        world.clock.move(seconds=LEASE_SECONDS)
    end = await finish(world, enrollment, await world.post(der))
    assert world.ca.issued == [end.certificate]


@pytest.mark.requirement(95)
async def test_without_a_store_nothing_goes_up(make_world: MakeWorld) -> None:
    """No intent stored, nothing asked of the CA."""
    world = make_world()
    gateway = faulty_gateway(world, Faults(at=1, lasting=True, strike=store_only))
    answer = await world.ask(await world.enrollment(world.device()).request(), gateway=gateway)
    assert fail_names(answer) == ["systemUnavail"]
    assert world.ca.received == []


async def store_only(name: str, done: bool) -> None:
    """Fail at the store, at nothing else."""
    if name not in ("sign", "exchange"):
        raise StoreUnavailable("connection to 10.0.0.7:6379 refused")


@pytest.mark.requirement(95)
async def test_a_store_that_lost_everything_makes_cert_conf_fail(make_world: MakeWorld) -> None:
    """badRequest for the certConf, and nothing is issued or confirmed on its account."""
    world = make_world()
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(await world.post(await enrollment.request()))
    assert isinstance(step, Send)
    store = MemoryStore(world.clock, max_transactions=10)
    empty = make_gateway(world.endpoint, world.operator, store, world.clock, world.events)
    answer = await world.ask(step.der, gateway=empty)
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badRequest"])
    assert len(world.ca.received) == 1


@pytest.mark.requirement(95)
async def test_a_full_store_refuses_new_work_and_finishes_the_old(make_world: MakeWorld) -> None:
    """systemUnavail for one transaction too many; the others go on."""
    clock = make_world().clock
    store = MemoryStore(clock, max_transactions=1)
    world = make_world(store=store, clock=clock)
    first = world.enrollment(world.device("ENB-1"))
    answer = await world.post(await first.request())
    refused = await world.ask(await world.enrollment(world.device("ENB-2")).request())
    assert fail_names(refused) == ["systemUnavail"]
    await finish(world, first, answer)
    assert len(world.ca.issued) == 1


@pytest.mark.requirement(94, 95)
async def test_enrolments_one_after_the_other_never_fill_the_store(make_world: MakeWorld) -> None:
    """What is finished leaves first, and is not issued anew when somebody sends it again."""
    clock = make_world().clock
    world = make_world(store=MemoryStore(clock, max_transactions=2), clock=clock)
    sent = []
    for number in range(8):
        enrollment = world.enrollment(world.device(f"ENB-{number}"))
        sent.append(await enrollment.request())
        await finish(world, enrollment, await world.post(sent[-1]))
    assert len(world.ca.issued) == 8
    assert fail_names(await world.ask(sent[0])) == ["transactionIdInUse"]
    assert (await world.ask(sent[-1])).body_type is BodyType.ip
    assert len(world.ca.issued) == 8


@pytest.mark.requirement(12)
async def test_a_device_that_begins_again_and_again_keeps_nobody_else_out(
    make_world: MakeWorld,
) -> None:
    """systemUnavail for its own one too many, with a hint for the operator; others, and what it began, go on."""
    clock = make_world().clock
    store = MemoryStore(clock, max_transactions=100, max_per_signer=2)
    world = make_world(store=store, clock=clock)
    device = world.device("ENB-1")
    first = world.enrollment(device)
    answer = await world.post(await first.request())
    await world.post(await world.enrollment(device).request())
    refused = await world.ask(await world.enrollment(device).request())
    assert fail_names(refused) == ["systemUnavail"]
    event = world.events[-1]
    assert (event.outcome, event.rule) == ("refused", "R12")
    assert "max_transactions_per_signer" in event.detail
    other = await world.ask(await world.enrollment(world.device("ENB-2")).request())
    assert other.body_type is BodyType.ip
    await finish(world, first, answer)
    assert len(world.ca.issued) == 3


# --- leases ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(94)
async def test_a_lease_is_kept_until_its_last_second(make_world: MakeWorld) -> None:
    """A repeat a moment before waits and gives up; a moment after it takes over."""
    world = make_world(upstream={"replays_repeats": True})
    world.ca.replays = True
    der = await world.enrollment(world.device()).request()
    await dies(faulty_gateway(world, Faults(at=3)), der)
    (transaction,) = await stored(world, der)
    left = transaction.lease_until - world.clock()
    assert left.total_seconds() > DEADLINE_SECONDS
    world.clock.move(seconds=left.total_seconds() - 0.001)
    assert fail_names(await world.ask(der)) == ["systemUnavail"]
    assert world.ca.received == []
    world.clock.move(seconds=0.001)
    assert (await world.ask(der)).body_type is BodyType.ip


@pytest.mark.requirement(94)
@pytest.mark.parametrize("replays", [True, False], ids=["replays", "issues-again"])
async def test_a_node_that_was_overtaken_says_what_the_other_said(
    make_world: MakeWorld, replays: bool
) -> None:
    """It was slower than its lease; the device must not see two answers, nor two certificates."""
    world = make_world(upstream={"replays_repeats": replays})
    world.ca.replays = replays
    gate = asyncio.Event()
    der = await world.enrollment(world.device()).request()
    slow = asyncio.create_task(world.post(der, gateway=faulty_gateway(world, Faults(), gate=gate)))
    await asked(world, 1)
    world.clock.move(seconds=LEASE_SECONDS)
    fast = await world.post(der)
    gate.set()
    assert await slow == fast
    assert len(world.ca.issued) == 1
    expected = BodyType.ip if replays else BodyType.error
    assert PKIMessage.from_der(fast).body_type is expected


@pytest.mark.requirement(94)
async def test_of_two_nodes_that_ask_the_first_answered_answers_for_both(
    make_world: MakeWorld,
) -> None:
    """Overtaken, with the other's answer still out: the answer that is here counts, for the other one as well."""
    world = make_world(upstream={"replays_repeats": True})
    world.ca.replays = True
    gates = [asyncio.Event(), asyncio.Event()]
    enrollment = world.enrollment(world.device())
    der = await enrollment.request()
    nodes = [faulty_gateway(world, Faults(), gate=gate) for gate in gates]
    slow = asyncio.create_task(world.post(der, gateway=nodes[0]))
    await asked(world, 1)
    world.clock.move(seconds=LEASE_SECONDS)
    fast = asyncio.create_task(world.post(der, gateway=nodes[1]))
    await asked(world, 2)
    gates[0].set()
    answer = await slow
    gates[1].set()
    assert await fast == answer
    assert await world.post(der) == answer
    end = await finish(world, enrollment, answer)
    assert world.ca.issued == [end.certificate]


@pytest.mark.requirement(94)
async def test_a_cancelled_repeat_cancels_nothing_else(make_world: MakeWorld) -> None:
    """A device that hangs up while its repeat waits does not disturb the first."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    world.ca.gate = asyncio.Event()
    der = await world.enrollment(world.device()).request()
    first = asyncio.create_task(world.ask(der))
    await asyncio.sleep(0)
    repeat = asyncio.create_task(world.ask(der))
    await asyncio.sleep(0.01)
    repeat.cancel()
    with pytest.raises(asyncio.CancelledError):
        await repeat
    world.ca.gate.set()
    assert (await first).body_type is BodyType.ip


@pytest.mark.requirement(94)
async def test_a_store_call_that_is_lost_while_waiting_is_told(make_world: MakeWorld) -> None:
    """The repeat hears systemUnavail; the first is answered."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    world.ca.gate = asyncio.Event()
    der = await world.enrollment(world.device()).request()
    first = asyncio.create_task(world.ask(der))
    await asyncio.sleep(0)
    faults = Faults(at=3, strike=fail)  # sign, create, wait
    answer = await world.ask(der, gateway=faulty_gateway(world, faults))
    assert faults.calls[2] == "wait"
    assert fail_names(answer) == ["systemUnavail"]
    world.ca.gate.set()
    assert (await first).body_type is BodyType.ip


async def test_a_transaction_that_expires_while_the_ca_is_asked_is_not_answered_as_stored(
    make_world: MakeWorld,
) -> None:
    """The store forgot it meanwhile: systemUnavail rather than a certificate nobody could confirm."""
    world = make_world(upstream={"deadline_seconds": 10.0})
    world.ca.gate = asyncio.Event()
    first = asyncio.create_task(world.ask(await world.enrollment(world.device()).request()))
    await asyncio.sleep(0.01)
    world.clock.move(seconds=3601)
    world.ca.gate.set()
    assert fail_names(await first) == ["systemUnavail"]
