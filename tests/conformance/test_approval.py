"""Requests that wait for an operator: held, polled for, approved or denied, across restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.ra.approval import NotHeld, decide
from ra_gateway.ra.endpoints import Route
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.settings import Approval, InventoryUse, Variant
from ra_gateway.ra.transaction import State
from ra_gateway.ra.waiting import waiting
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from tests.support import requests
from tests.support.answers import fail_names, status_of
from tests.support.chain import local_ra, registered
from tests.support.credentials import cmp_credential
from tests.support.harness import ANY_IDENTITY, ListedDevices, MakeWorld, ManualClock, World
from tests.support.mac import ONCE, ir
from tests.support.mac import make_world as mac_world
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.polling import EVERY_TYPE, OTHERS, REQUESTS, Operation, approve, written_secrets
from tests.support.redis_server import SEAL_KEY

Store = MemoryStore | RedisStore


@pytest.fixture
def make_world(vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> MakeWorld:
    """Worlds where every request for a certificate waits for an operator."""

    def make(**options: Any) -> World:
        usual = {"body_types": EVERY_TYPE, "approval": Approval.required}
        endpoint = {**usual, **options.pop("endpoint", {})}
        return World.make(vendor_pki, operator_pki, endpoint=endpoint, **options)

    return make


@pytest.fixture
def secrets_csv(tmp_path: Path) -> Path:
    return written_secrets(tmp_path)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def store_of(world: World) -> Store:
    assert isinstance(world.store, MemoryStore | RedisStore)
    return world.store


async def listed(world: World) -> list[bytes]:
    """TransactionIDs on the operator's list."""
    return [item.key.transaction_id for item in await waiting(store_of(world), store_of(world))]


def transaction_id(operation: Operation) -> bytes:
    return PKIMessage.from_der(operation.sent).header.transaction_id or b""


async def held(world: World, body_type: BodyType = BodyType.ir) -> Operation:
    """An operation that waits for an operator."""
    operation = await Operation.begin(world, body_type)
    await operation.send()
    operation.assert_waiting()
    assert world.events[-1].outcome == "held"
    assert (await operation.stored()).state is State.HELD
    return operation


@pytest.mark.requirement(116, 117, 118)
@pytest.mark.parametrize("body_type", REQUESTS)
async def test_a_request_waits_until_it_is_approved(world: World, body_type: BodyType) -> None:
    """The CA hears of it when the device polls after that, and then everything goes on as ever."""
    operation = await held(world, body_type)
    assert await listed(world) == [transaction_id(operation)]
    await operation.poll()
    operation.assert_not_yet()
    assert (world.events[-1].outcome, world.ca.received) == ("held", [])
    await approve(world)
    assert await listed(world) == []
    assert world.ca.received == []
    answer = await operation.poll()
    assert answer.body_type is RESPONSE_TO[body_type]
    assert status_of(answer).issued
    assert len(world.ca.received) == 1
    assert "approved by alice" in world.events[-1].detail
    # A pollReq is one message, and one line in the log.
    assert [event.outcome for event in world.events] == ["held", "held", "issued"]
    assert (await operation.stored()).decided_by == "alice"
    assert (await operation.confirm()).body_type is BodyType.pkiconf


async def test_a_request_is_denied(world: World) -> None:
    """notAuthorized in the form of the request, with who decided in the log; its repeat gets the same."""
    operation = await held(world)
    await approve(world, yes=False, by="bob")
    der = await operation.poll_req()
    answer = await world.ask(der)
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["notAuthorized"])
    assert "bob denied the request" in world.events[-1].detail
    assert (await world.ask(der)).der == answer.der
    transaction = await operation.stored()
    assert (transaction.state, transaction.decided_by) == (State.REFUSED, "bob")
    assert await listed(world) == []
    assert world.ca.received == []


@pytest.mark.parametrize("body_type", OTHERS)
async def test_only_certificates_have_to_be_approved(world: World, body_type: BodyType) -> None:
    """A revocation, or a question, does not wait."""
    operation = await Operation.begin(world, body_type)
    assert (await operation.send()).body_type is RESPONSE_TO[body_type]


async def test_the_message_for_the_ca_is_dated_when_it_is_sent(world: World) -> None:
    """Days later it would be refused as too old; a second attempt sends the same octets."""
    operation = await held(world)
    world.clock.move(days=3)
    await approve(world)
    assert status_of(await operation.poll()).issued
    (sent,) = world.ca.messages
    assert sent.header.message_time == world.clock()
    assert sent.body_der == PKIMessage.from_der(operation.sent).body_der


async def test_what_goes_up_untouched_stays_as_it_is(make_world: MakeWorld) -> None:
    """A request that is forwarded is the device's, its date included."""
    world = make_world(upstream={"requests": Variant.forward})
    operation = await held(world)
    await approve(world)
    assert status_of(await operation.poll()).issued
    assert world.ca.received == [operation.sent]


async def test_after_the_approval_the_transaction_lives_on(world: World) -> None:
    """Approved at the last moment, it is not forgotten between ip and certConf."""
    operation = await held(world)
    world.clock.move(days=6, hours=23, minutes=59)
    await approve(world)
    assert status_of(await operation.poll()).issued
    world.clock.move(minutes=4)
    assert (await operation.confirm()).body_type is BodyType.pkiconf


async def test_a_request_expires(world: World) -> None:
    """Nobody decided within a week: it is gone, from the list as well."""
    operation = await held(world)
    world.clock.move(days=7, seconds=1)
    assert await listed(world) == []
    refused = await world.ask(await operation.poll_req())
    assert fail_names(refused) == ["badRequest"]


async def test_the_newest_request_of_a_device_is_listed(world: World) -> None:
    """A device that began again waits with its new request; the old one is left to itself."""
    first = await held(world)
    second = Operation(world, first.device, BodyType.ir, b"")
    enrollment = world.enrollment(first.device)
    second.sent = await enrollment.request()
    await second.send()
    other = await Operation.begin(world, BodyType.kur)
    await other.send()
    assert await listed(world) == [transaction_id(second), transaction_id(other)]
    assert await world.post(first.sent) == first.answer.der
    assert await listed(world) == [transaction_id(second), transaction_id(other)]


async def test_a_decision_is_taken_once(world: World) -> None:
    """Whoever comes second is told that nothing waits any more."""
    operation = await held(world)
    key = (await operation.stored()).key
    await approve(world)
    store = store_of(world)
    with pytest.raises(NotHeld):
        await decide(
            store, store, key, digest="", approve=False, decided_by="bob", clock=world.clock
        )
    assert status_of(await operation.poll()).issued


async def test_who_must_not_have_it_is_not_listed(make_world: MakeWorld) -> None:
    """What policy refuses is refused at once."""
    world = make_world(identity=IdentityRules(allowed_subjects=("CN=other",)))
    operation = await Operation.begin(world, BodyType.ir)
    assert fail_names(await operation.send()) == ["notAuthorized"]
    assert await listed(world) == []


class Lists:
    """An inventory that lists one device."""

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        return InventoryEntry() if identity == "ENB-1" else None


@pytest.mark.parametrize("use", [InventoryUse.optional, InventoryUse.required])
async def test_devices_that_are_not_listed_wait(make_world: MakeWorld, use: InventoryUse) -> None:
    """The list's go through, the others are for a person to admit; a renewal is neither."""
    world = make_world(
        endpoint={"approval": Approval.unlisted},
        identity=replace(ANY_IDENTITY, inventory=use, identity_from="cn"),
        inventory=Lists(),
    )
    for serial, waits in (("ENB-1", False), ("ENB-2", True)):
        operation = Operation(world, world.device(serial), BodyType.ir)
        operation.sent = await world.enrollment(operation.device).request()
        await operation.send()
        assert status_of(operation.answer).issued is not waits
        assert bool(await listed(world)) is waits
    renewal = await Operation.begin(world, BodyType.kur)
    assert status_of(await renewal.send()).issued


class Names:
    """An inventory of subjects that come by other RAs, or under shared secrets."""

    def __init__(self, domain: str, *, enabled: bool = True) -> None:
        self.listed = {(domain, requests.SUBJECT): InventoryEntry(enabled=enabled)}

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        return self.listed.get((domain, identity))


@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.cr, BodyType.kur])
async def test_what_other_ras_ask_waits_unless_it_is_listed(
    make_world: MakeWorld, operator_pki: OperatorPKI, body_type: BodyType
) -> None:
    """Which RA vouches for it is no reason to admit a device that nobody listed."""
    ra = local_ra(operator_pki)
    relays = registered(operator_pki, ra)
    outcomes = []
    for inventory in (None, Names("acme"), Names("ra:ran"), Names("ra:ran", enabled=False)):
        world = make_world(
            endpoint={"approval": Approval.unlisted, "registration_authorities": relays},
            inventory=inventory,
        )
        key = make_key("p256")
        await world.ask(await requests.request(world, cmp_credential(ra), key, body_type=body_type))
        outcomes.append(world.events[-1].outcome)
    assert outcomes == ["held", "held", "issued", "refused"]


async def test_the_devices_of_an_ra_wait_side_by_side(
    make_world: MakeWorld, operator_pki: OperatorPKI
) -> None:
    """One does not push another off the list: nobody could approve it then."""
    ra = local_ra(operator_pki)
    world = make_world(endpoint={"registration_authorities": registered(operator_pki, ra)})
    for _ in range(3):
        request = await requests.request(world, cmp_credential(ra), make_key("p256"))
        await world.ask(request)
        assert world.events[-1].outcome == "held"
    assert len(await listed(world)) == 3


async def test_what_comes_under_a_secret_waits_unless_it_is_listed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, secrets_csv: Path
) -> None:
    """Whoever has the secret is not therefore a device that somebody listed."""
    world = mac_world(vendor_pki, operator_pki, secrets_csv, approval=Approval.unlisted)
    for inventory, outcome in ((None, "held"), (Names("mac:ran"), "issued")):
        world.inventory = inventory
        world.gateway = world.second_gateway()
        await world.ask(await ir(world, reference=ONCE[0], secret=ONCE[1]))
        assert world.events[-1].outcome == outcome


async def test_a_route_has_its_own_rule(make_world: MakeWorld) -> None:
    """A route's `approval` takes the place of the endpoint's."""
    plain = make_world()
    route = Route(
        "kur", plain.endpoint.upstream, body_types=frozenset({BodyType.kur}), approval=Approval.none
    )
    world = make_world(endpoint={"routes": (route,)}, ca=plain.ca, clock=plain.clock)
    renewal = await Operation.begin(world, BodyType.kur)
    assert status_of(await renewal.send()).issued
    await held(world)


async def test_too_many_wait(make_world: MakeWorld) -> None:
    """The list is full: systemUnavail, and nothing is stored."""
    clock = ManualClock()
    world = make_world(store=MemoryStore(clock, max_transactions=9, max_held=1), clock=clock)
    await held(world)
    operation = await Operation.begin(world, BodyType.kur)
    assert fail_names(await operation.send()) == ["systemUnavail"]
    assert await world.store.find(transaction_id(operation)) == []


async def test_a_secret_is_used_up_by_what_is_approved(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, secrets_csv: Path
) -> None:
    """A request that is held, or denied, does not use up its secret for single use."""
    world = mac_world(vendor_pki, operator_pki, secrets_csv, approval=Approval.required)
    for _ in range(2):
        answer = await world.ask(await ir(world, reference=ONCE[0], secret=ONCE[1]))
        assert fail_names(answer) == []
        await approve(world, yes=False)
    await world.ask(await ir(world, reference=ONCE[0], secret=ONCE[1]))
    assert len(await listed(world)) == 1


# --- across restarts ------------------------------------------------------------------------------------------


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Callable[[World], RedisStore]]:
    """Stores on the same Redis, each as if of a process of its own."""
    stores: list[RedisStore] = []

    def connect(clock: Any) -> RedisStore:
        stores.append(RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY]))
        return stores[-1]

    yield connect
    for store in stores:
        await store.close()


async def test_a_request_outlives_restarts(make_world: MakeWorld, redis: Any) -> None:
    """Held by one process, listed and approved by another, answered by a third, confirmed at a fourth."""
    clock = ManualClock()
    world = make_world(store=redis(clock), clock=clock)
    operation = await held(world)
    world.store = redis(clock)
    await operation.poll(gateway=world.second_gateway())
    operation.assert_not_yet()
    world.store = redis(clock)
    await approve(world)
    world.store = redis(clock)
    assert status_of(await operation.poll(gateway=world.second_gateway())).issued
    world.store = redis(clock)
    confirmed = await operation.confirm(gateway=world.second_gateway())
    assert confirmed.body_type is BodyType.pkiconf
    assert len(world.ca.received) == 2
    assert cmp_credential(operation.device).certificate.subject in world.events[0].signer


# --- what has changed by the time it is approved ----------------------------------------------------------------


@pytest.mark.requirement(145)
@pytest.mark.parametrize("body_type", [BodyType.ir, BodyType.p10cr])
async def test_rules_that_are_others_by_then(world: World, body_type: BodyType) -> None:
    """What the rules would refuse now does not go to the CA, whoever approved it; the log says both."""
    operation = await held(world, body_type)
    await approve(world)
    strict = {"acme": IdentityRules(allowed_subjects=("CN=other",))}
    gateway = world.second_gateway(replace(world.endpoint, identities=strict))
    der = await operation.poll_req()
    answer = await world.ask(der, gateway=gateway)
    assert fail_names(answer) == ["notAuthorized"]
    assert world.ca.received == []
    assert "refused although alice approved it" in world.events[-1].detail
    assert (await operation.stored()).state is State.FAILED
    assert (await world.ask(der)).der == answer.der


async def test_a_device_that_was_struck_from_the_inventory(make_world: MakeWorld) -> None:
    """It waited for approval when that happened."""
    inventory = ListedDevices({("acme", "ENB-1"): InventoryEntry()})
    rules = replace(ANY_IDENTITY, inventory=InventoryUse.required, identity_from="cn")
    world = make_world(inventory=inventory, identity=rules)
    operation = await held(world)
    await approve(world)
    inventory.entries["acme", "ENB-1"] = InventoryEntry(enabled=False)
    assert fail_names(await operation.poll()) == ["notAuthorized"]
    assert world.ca.received == []


async def test_a_device_that_does_not_poll_is_judged_again_as_well(world: World) -> None:
    """It sends its request again."""
    operation = await held(world)
    await approve(world)
    strict = {"acme": IdentityRules(allowed_subjects=("CN=other",))}
    gateway = world.second_gateway(replace(world.endpoint, identities=strict))
    for _ in "ab":
        answer = await operation.send(gateway=world.gateway if world.ca.received else gateway)
    assert fail_names(answer) == ["notAuthorized"]
    assert world.ca.received == []


@pytest.mark.parametrize(
    "changed",
    [
        {"subject_der": b"0\x00"},
        {"san": ("dns:other",)},
        {"public_key_der": b"0\x00"},
        {"request_der": b""},
    ],
    ids=["subject", "san", "key", "no request"],
)
async def test_a_record_that_says_something_else_than_the_request(
    world: World, changed: dict[str, Any]
) -> None:
    """What a device signed is what goes up, or nothing."""
    operation = await held(world)
    await approve(world)
    before = await operation.stored()
    await world.store.replace(replace(before, version=before.version + 1, **changed))
    answer = await operation.poll()
    assert fail_names(answer) != []
    assert world.ca.received == []


async def test_the_request_of_another_device_in_a_record(world: World) -> None:
    """Its signature verifies, but it is not the request that was held."""
    operation, other = await held(world), await Operation.begin(world, BodyType.ir)
    await approve(world)
    before = await operation.stored()
    await world.store.replace(replace(before, version=before.version + 1, request_der=other.sent))
    assert fail_names(await operation.poll()) == ["notAuthorized"]
    assert world.ca.received == []


async def test_nothing_is_signed_for_the_ca_before_it_is_approved(world: World) -> None:
    """Whoever can read the store finds no message that a CA would take."""
    operation = await held(world)
    assert (await operation.stored()).opening.upstream_der == b""
    await approve(world)
    assert (await operation.stored()).opening.upstream_der == b""
    assert status_of(await operation.poll()).issued
    assert (await operation.stored()).request_der == b""
