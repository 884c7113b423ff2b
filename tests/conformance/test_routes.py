"""Requests find their CA by path profile, certProfile, domain, type and subject; the first route that fits counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.device.client import run
from ra_gateway.device.values import Done, Send
from ra_gateway.errors import UpstreamUnavailable
from ra_gateway.ra.endpoints import Route
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import Approval, SubjectRule
from ra_gateway.ra.waiting import waiting
from ra_gateway.server.cmp import CMPListener
from ra_gateway.stores.memory import MemoryStore
from tests.support.answers import fail_names, status_of
from tests.support.asserts import assert_refused
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import ANY_IDENTITY, ManualClock, ScriptedCA, World, changed
from tests.support.pki import OperatorPKI, VendorPKI, make_key
from tests.support.polling import EVERY_TYPE, Operation, WaitingCA
from tests.support.requests import request, template

WELL_KNOWN = "/.well-known/cmp"


class Fork:
    """A world whose endpoint leads to a main CA, or by routes to another one."""

    def __init__(self, world: World, routes: tuple[Route, ...], other: ScriptedCA) -> None:
        self.world, self.other = world, other
        self.routes = routes

    @property
    def asked(self) -> list[int]:
        """How many messages the main CA and the other one got."""
        return [len(self.world.ca.received), len(self.other.received)]

    async def ask(self, der: bytes, *, profile: str = "") -> PKIMessage:
        """Send a message to the path of a profile."""
        reply = await self.world.gateway.handle(
            der, endpoint=self.world.endpoint.name, profile=profile, peer="192.0.2.7"
        )
        return PKIMessage.from_der(reply.der)


MakeFork = Callable[..., Fork]


@pytest.fixture
def fork(
    vendor_pki: VendorPKI, foreign_vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> MakeFork:
    def make(
        *conditions: dict[str, Any],
        other: ScriptedCA | None = None,
        upstream: dict[str, Any] | None = None,
        endpoint: dict[str, Any] | None = None,
    ) -> Fork:
        """Route what meets one of some conditions to another CA.

        Args:
            conditions: Fields of `Route`; upstream "main" leads to the main CA.
            upstream: Fields of the other `Upstream`.
        """
        world = World.make(vendor_pki, operator_pki, endpoint={"body_types": EVERY_TYPE})
        second = other or ScriptedCA(operator_pki, world.clock)
        main = world.endpoint.upstream
        away = changed(main, **{"name": "other", "core": second, "seen": {}, **(upstream or {})})
        routes = tuple(
            Route(
                **{
                    "name": f"routes[{index}]",
                    **fields,
                    "upstream": main if fields.get("upstream") == "main" else away,
                }
            )
            for index, fields in enumerate(conditions)
        )
        foreign = TrustDomain(
            "foreign",
            DomainKind.vendor,
            (cmp_certificate(foreign_vendor_pki.root.certificate),),
        )
        world.endpoint = changed(
            world.endpoint,
            routes=routes,
            vendors=(*world.endpoint.vendors, foreign),
            identities={**world.endpoint.identities, "foreign": ANY_IDENTITY},
            **(endpoint or {}),
        )
        world.gateway = world.second_gateway()
        return Fork(world, routes, second)

    return make


async def enrol(forked: Fork, *, profile: str = "", **options: Any) -> list[int]:
    """Run an ir to pkiConf; returns how many messages each CA got."""
    world = forked.world
    enrollment = world.enrollment(options.pop("device", None) or world.device(), **options)
    der = await enrollment.request()
    for _ in (BodyType.ir, BodyType.certConf):
        answer = await forked.ask(der, profile=profile)
        step = await enrollment.receive(answer.der)
        if isinstance(step, Done):
            return forked.asked
        der = step.der
    pytest.fail("the device is told to wait")


MAIN, OTHER = [2, 0], [0, 2]


# --- conditions -----------------------------------------------------------------------------------------------


async def test_without_routes_everything_goes_one_way(fork: MakeFork) -> None:
    """To the endpoint's own upstream."""
    assert await enrol(fork()) == MAIN


async def test_a_route_without_conditions_takes_everything(fork: MakeFork) -> None:
    """An empty condition is always met."""
    assert await enrol(fork({})) == OTHER


@pytest.mark.requirement(64)
@pytest.mark.parametrize(
    "profile, expected", [("lab", OTHER), ("field", OTHER), ("office", MAIN), ("", MAIN)]
)
async def test_by_the_profile_in_the_path(
    fork: MakeFork, profile: str, expected: list[int]
) -> None:
    """One of several names, all messages of the operation alike."""
    forked = fork({"profiles": frozenset({"lab", "field"})})
    assert await enrol(forked, profile=profile) == expected


async def test_cert_conf_may_come_by_another_path(fork: MakeFork) -> None:
    """What continues a transaction goes where the transaction went."""
    forked = fork({"profiles": frozenset({"lab"})})
    world = forked.world
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(
        (await forked.ask(await enrollment.request(), profile="lab")).der
    )
    assert isinstance(step, Send)
    answer = await forked.ask(step.der, profile="office")
    assert isinstance(await enrollment.receive(answer.der), Done)
    assert forked.asked == OTHER
    assert [event.upstream for event in world.events] == ["other", "other"]


@pytest.mark.requirement(64)
@pytest.mark.parametrize("name, expected", [("ipsec", OTHER), ("tls", MAIN), (None, MAIN)])
async def test_by_cert_profile(fork: MakeFork, name: str | None, expected: list[int]) -> None:
    """The name in the header; a request without one fits no such route."""
    forked = fork({"cert_profiles": frozenset({"ipsec"})})
    assert await enrol(forked, cert_profile=name) == expected


@pytest.mark.parametrize("foreign, expected", [(True, OTHER), (False, MAIN)])
async def test_by_the_vendor(
    fork: MakeFork, foreign_vendor_pki: VendorPKI, foreign: bool, expected: list[int]
) -> None:
    """The domain that vouched for the signer, not what the request says of itself."""
    forked = fork({"domains": frozenset({"foreign"})})
    device = foreign_vendor_pki.device("ENB-1") if foreign else forked.world.device("ENB-1")
    assert await enrol(forked, device=device) == expected


async def test_by_the_operator_s_domain(fork: MakeFork) -> None:
    """A device with an operator certificate is of the domain "operator"."""
    forked = fork({"domains": frozenset({"operator"})})
    operation = await Operation.begin(forked.world, BodyType.kur)
    assert status_of(await operation.send()).issued
    assert forked.asked == [0, 1]
    operation = await Operation.begin(forked.world, BodyType.ir)
    assert status_of(await operation.send()).issued
    assert forked.asked == [1, 1]


@pytest.mark.parametrize("body_type", sorted(EVERY_TYPE))
async def test_by_the_type_of_request(fork: MakeFork, body_type: BodyType) -> None:
    """Each type alone can be sent elsewhere."""
    forked = fork({"body_types": frozenset({body_type})})
    for tried in EVERY_TYPE:
        await (await Operation.begin(forked.world, tried)).send()
        assert forked.world.events[-1].outcome in ("issued", "revoked", "informed")
    assert forked.asked == [len(EVERY_TYPE) - 1, 1]
    (message,) = forked.other.messages
    assert message.body_type is body_type


@pytest.mark.parametrize(
    "subject, expected",
    [
        ("CN=enb-1.ran.example.net", OTHER),
        ("CN=enb-1.lab.example.net,O=Example", OTHER),
        ("CN=enb-1.lab.example.net", MAIN),
        ("CN=enb-1.ran.example.net,O=Example", MAIN),
    ],
)
async def test_by_the_subject(fork: MakeFork, subject: str, expected: list[int]) -> None:
    """Attribute by attribute: a wildcard admits no further one."""
    forked = fork({"subjects": ("CN=*.ran.example.net", "CN=*.lab.*,O=*")})
    assert await enrol(forked, subject=subject) == expected


@pytest.mark.parametrize(
    "subject",
    ["CN=CORE-1", "CN=\\ core-1", "CN=Core-1\\ ", "CN=core-\u017f", "CN=core-1+CN=CORE-1"],
)
async def test_one_name_goes_one_way_however_it_is_spelled(fork: MakeFork, subject: str) -> None:
    """A CA takes them for one subject: none of them gets round who has to approve it."""
    forked = fork({"subjects": ("CN=core-[1s]",), "approval": Approval.required})
    world = forked.world
    der = await world.enrollment(world.device(), subject=subject).request()
    await forked.ask(der)
    assert world.events[-1].outcome in ("held", "refused")
    assert forked.asked == [0, 0]


@pytest.mark.parametrize("body_type", [BodyType.kur, BodyType.cr])
async def test_who_has_no_choice_of_name_has_none_of_route(
    fork: MakeFork, body_type: BodyType
) -> None:
    """A device with an operator certificate is routed by that, however it writes the same name."""
    forked = fork({"subjects": ("CN=enb-1.*,O=*",), "approval": Approval.required})
    world, key = forked.world, make_key("p256")
    device = world.operator.device("enb-1.ran.example.net")
    own = cmp_certificate(device.certificate).subject
    doubled = own.replace("CN=enb-1.", "CN=ENB-1.ran.example.net+CN=enb-1.")
    assert doubled != own
    for subject in (own, None, doubled):
        asked = template(key, subject)
        await forked.ask(
            await request(world, cmp_credential(device), key, asked, body_type=body_type)
        )
        assert world.events[-1].outcome in ("held", "refused")
        assert forked.asked == [0, 0]


async def test_by_the_subject_that_the_gateway_sets(fork: MakeFork) -> None:
    """What counts is the name that the certificate will have."""
    forked = fork({"subjects": ("CN=ENB-*",)})
    rules = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn}")
    world = forked.world
    world.endpoint = replace(world.endpoint, identities={"acme": rules})
    world.gateway = world.second_gateway()
    assert await enrol(forked, subject="CN=whatever") == OTHER
    assert forked.other.issued[0].subject == "CN=ENB-1"


async def test_a_revocation_by_the_subject(fork: MakeFork) -> None:
    """Of the certificate that is given up."""
    forked = fork({"subjects": ("CN=enb-1.ran.example.net,O=*",)})
    operation = await Operation.begin(forked.world, BodyType.rr)
    await operation.send()
    assert forked.asked == [0, 1], cmp_certificate(operation.device.certificate).subject


async def test_a_question_fits_no_subject(fork: MakeFork) -> None:
    """genm is about no certificate, so that no route with subjects takes it."""
    forked = fork({"subjects": ("*",)})
    await (await Operation.begin(forked.world, BodyType.genm)).send()
    assert forked.asked == [1, 0]


@pytest.mark.parametrize(
    "profile, cert_profile, expected",
    [("lab", "ipsec", OTHER), ("lab", "tls", MAIN), ("field", "ipsec", MAIN)],
)
async def test_every_condition_counts(
    fork: MakeFork, profile: str, cert_profile: str, expected: list[int]
) -> None:
    """A route takes what meets all of them."""
    forked = fork({"profiles": frozenset({"lab"}), "cert_profiles": frozenset({"ipsec"})})
    assert await enrol(forked, profile=profile, cert_profile=cert_profile) == expected


@pytest.mark.parametrize(
    "first, second, expected", [("main", "other", MAIN), ("other", "main", OTHER)]
)
async def test_the_first_that_fits_counts(
    fork: MakeFork, first: str, second: str, expected: list[int]
) -> None:
    """Whatever comes behind it."""
    forked = fork(
        {"profiles": frozenset({"field"}), "upstream": second},
        {"profiles": frozenset({"lab"}), "upstream": first},
        {"upstream": second},
    )
    assert await enrol(forked, profile="lab") == expected


# --- what no route takes --------------------------------------------------------------------------------------


@pytest.mark.requirement(64)
async def test_what_no_route_takes_is_refused(fork: MakeFork) -> None:
    """badRequest, and the operator is told what was looked for; no CA hears of it."""
    forked = fork({"cert_profiles": frozenset({"ipsec"})}, endpoint={"only_routes": True})
    world = forked.world
    der = await world.enrollment(world.device(), cert_profile="tls").request()
    await assert_refused(world, der, "badRequest", rule="R64")
    event = world.events[-1]
    assert event.detail == (
        "no route takes ir of acme for profile tls and CN=enb-1.ran.example.net"
    )
    assert forked.asked == [0, 0]


@pytest.mark.requirement(64)
@pytest.mark.parametrize("body_type", sorted(EVERY_TYPE))
async def test_every_type_without_a_route_is_refused(fork: MakeFork, body_type: BodyType) -> None:
    """Revocations and questions no less than requests for certificates."""
    forked = fork({"profiles": frozenset({"lab"})}, endpoint={"only_routes": True})
    answer = await (await Operation.begin(forked.world, body_type)).send()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["badRequest"])
    assert forked.world.events[-1].rule == "R64"
    assert forked.asked == [0, 0]


async def test_with_only_routes_a_route_still_takes_what_fits(fork: MakeFork) -> None:
    """And certConf goes on without being looked up again."""
    forked = fork({"profiles": frozenset({"lab"})}, endpoint={"only_routes": True})
    assert await enrol(forked, profile="lab") == OTHER


# --- rules of a route -----------------------------------------------------------------------------------------


async def test_identity_rules_of_a_route(fork: MakeFork) -> None:
    """They take the place of the vendor's, for what the route takes."""
    rules = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn},OU=Lab")
    forked = fork({"profiles": frozenset({"lab"}), "identity": rules})
    await enrol(forked, profile="lab")
    await enrol(forked)
    assert forked.other.issued[0].subject == "CN=ENB-1,OU=Lab"
    assert forked.world.ca.issued[0].subject == "CN=enb-1.ran.example.net"


async def test_strict_rules_of_a_route_refuse(fork: MakeFork) -> None:
    """A subject that the vendor's rules allow, and the route's do not."""
    rules = IdentityRules(allowed_subjects=("CN=*.lab.example.net",))
    forked = fork({"profiles": frozenset({"lab"}), "identity": rules})
    world = forked.world
    answer = await forked.ask(await world.enrollment(world.device()).request(), profile="lab")
    assert fail_names(answer) == ["notAuthorized"]
    assert forked.asked == [0, 0]


async def test_a_route_without_rules_keeps_the_vendor_s(fork: MakeFork) -> None:
    """Going elsewhere changes nothing about who may have what."""
    forked = fork({})
    world = forked.world
    world.endpoint = replace(world.endpoint, identities={"acme": IdentityRules()})
    world.gateway = world.second_gateway()
    answer = await world.ask(await world.enrollment(world.device()).request())
    assert fail_names(answer) == ["notAuthorized"]


async def test_rules_of_a_route_do_not_serve_who_has_none(fork: MakeFork) -> None:
    """An operator certificate keeps its identity whatever a route says."""
    rules = IdentityRules(subject=SubjectRule.replace, subject_template="CN=other")
    forked = fork({"identity": rules})
    operation = await Operation.begin(forked.world, BodyType.kur)
    await operation.send()
    subject = cmp_certificate(operation.device.certificate).subject
    assert forked.other.issued[0].subject == subject


@pytest.mark.parametrize("profile, held", [("lab", True), ("", False)])
async def test_approval_of_a_route(fork: MakeFork, profile: str, held: bool) -> None:
    """What the route takes waits for an operator, the rest does not."""
    forked = fork({"profiles": frozenset({"lab"}), "approval": Approval.required})
    world = forked.world
    answer = await forked.ask(await world.enrollment(world.device()).request(), profile=profile)
    assert status_of(answer).issued is not held
    assert isinstance(world.store, MemoryStore)
    kept = await waiting(world.store, world.store)
    assert [item.upstream for item in kept] == (["other"] if held else [])


async def test_a_route_may_do_without_approval(fork: MakeFork) -> None:
    """Where the endpoint asks for it."""
    forked = fork({"approval": Approval.none}, endpoint={"approval": Approval.required})
    assert await enrol(forked) == OTHER


# --- one route decides all ----------------------------------------------------------------------------------------

LAB = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn},OU=Lab")


async def test_rules_of_a_route_are_not_for_what_its_subjects_do_not_fit(fork: MakeFork) -> None:
    """Neither where it goes, nor the identity, nor the approval."""
    forked = fork(
        {"subjects": ("CN=*.lab.example.net",), "identity": LAB, "approval": Approval.required}
    )
    assert await enrol(forked, subject="CN=enb-1.ran.example.net") == MAIN
    assert forked.world.ca.issued[0].subject == "CN=enb-1.ran.example.net"


async def test_what_a_route_s_subjects_fit_is_all_its_own(fork: MakeFork) -> None:
    """What was asked for counts, and not the name that the route gives."""
    forked = fork({"subjects": ("CN=*.lab.example.net",), "identity": LAB})
    assert await enrol(forked, subject="CN=enb-1.lab.example.net") == OTHER
    assert forked.other.issued[0].subject == "CN=ENB-1,OU=Lab"


async def test_three_routes_do_not_share_a_request(fork: MakeFork) -> None:
    """The first that fits gives the upstream, and leaves identity and approval to the vendor and the endpoint."""
    forked = fork(
        {"subjects": ("CN=*.field.example.net",), "approval": Approval.required},
        {"subjects": ("CN=*.ran.example.net",)},
        {"identity": LAB, "upstream": "main"},
        {"approval": Approval.required, "upstream": "main"},
    )
    assert await enrol(forked, subject="CN=enb-1.ran.example.net") == OTHER
    assert forked.other.issued[0].subject == "CN=enb-1.ran.example.net"


async def test_no_route_is_dodged_by_asking_for_a_name_that_is_not_given(fork: MakeFork) -> None:
    """Where the vendor's rules replace the name, what the device asks for says nothing about where it belongs."""
    forked = fork({"subjects": ("CN=ENB-*",), "approval": Approval.required})
    world = forked.world
    rules = IdentityRules(subject=SubjectRule.replace, subject_template="CN={cn}")
    world.endpoint = replace(world.endpoint, identities={"acme": rules})
    world.gateway = world.second_gateway()
    for asked in ("CN=other", "CN=ENB-1", None):
        enrollment = world.enrollment(world.device(), subject=asked)
        await forked.ask(await enrollment.request())
        assert world.events[-1].outcome == "held"


async def test_who_asks_for_no_name_is_routed_by_the_one_it_gets(fork: MakeFork) -> None:
    """By the vendor's rules, not by the route's."""
    forked = fork({"subjects": ("CN=*,OU=Lab",), "identity": LAB, "upstream": "other"})
    world = forked.world
    rules = IdentityRules(subject=SubjectRule.derive, subject_template="CN={cn}")
    world.endpoint = replace(world.endpoint, identities={"acme": rules})
    world.gateway = world.second_gateway()
    await forked.ask(await world.enrollment(world.device(), subject=None).request())
    assert forked.asked == [1, 0]
    assert world.ca.issued[0].subject == "CN=ENB-1"


# --- afterwards -----------------------------------------------------------------------------------------------


async def test_polls_follow_the_transaction(fork: MakeFork, operator_pki: OperatorPKI) -> None:
    """pollReq reaches the CA that said to wait, and no other."""
    waiter = WaitingCA(operator_pki, ManualClock(), delays=frozenset({BodyType.ir}))
    forked = fork({"body_types": frozenset({BodyType.ir})}, other=waiter)
    operation = await Operation.begin(forked.world, BodyType.ir)
    await operation.send()
    operation.assert_waiting()
    await operation.poll()
    assert status_of(await operation.poll()).issued
    assert (await operation.confirm()).body_type is BodyType.pkiconf
    assert forked.asked == [0, 4]


async def test_a_repeat_goes_nowhere(fork: MakeFork) -> None:
    """It is answered from the store, by whatever path it comes."""
    forked = fork({"profiles": frozenset({"lab"})})
    world = forked.world
    der = await world.enrollment(world.device()).request()
    first = await forked.ask(der, profile="lab")
    assert (await forked.ask(der)).der == first.der
    assert forked.asked == [0, 1]


async def test_a_route_that_is_gone_is_not_replaced(fork: MakeFork) -> None:
    """Another CA is not asked to confirm what it did not issue."""
    forked = fork({})
    world = forked.world
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    world.gateway = world.second_gateway(replace(world.endpoint, routes=()))
    answer = await operation.confirm()
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, ["systemFailure"])
    assert "other" in world.events[-1].detail
    assert forked.asked == [0, 1]


@pytest.mark.parametrize("slow", ["main", "other"])
async def test_a_slow_ca_delays_nobody_else(fork: MakeFork, slow: str) -> None:
    """While devices wait for one CA, many enrol at another."""
    forked = fork({"profiles": frozenset({"lab"})})
    world = forked.world
    stuck, free = (world.ca, forked.other) if slow == "main" else (forked.other, world.ca)
    stuck.gate = asyncio.Event()
    waiting_path, free_path = ("", "lab") if slow == "main" else ("lab", "")
    hanging = [
        asyncio.create_task(
            forked.ask(
                await world.enrollment(world.device(f"ENB-{n}")).request(), profile=waiting_path
            )
        )
        for n in range(5)
    ]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        for number in range(5):
            await enrol(forked, device=world.device(f"GNB-{number}"), profile=free_path)
    assert len(free.received) == 10
    assert not any(task.done() for task in hanging)
    stuck.gate.set()
    for task in hanging:
        assert status_of(await task).issued


async def test_a_dead_ca_refuses_its_own_devices_only(fork: MakeFork) -> None:
    """systemUnavail for what is routed to it."""
    forked = fork({"profiles": frozenset({"lab"})})
    forked.other.failure, forked.other.failures = UpstreamUnavailable("away", delivered=False), 99
    world = forked.world
    answer = await forked.ask(await world.enrollment(world.device()).request(), profile="lab")
    assert fail_names(answer) == ["systemUnavail"]
    assert (await enrol(forked))[0] == 2


# --- over HTTP ------------------------------------------------------------------------------------------------


@pytest.mark.requirement(64)
@pytest.mark.parametrize(
    "path, expected",
    [
        (f"{WELL_KNOWN}/p/lab", OTHER),
        (f"{WELL_KNOWN}/p/lab/", OTHER),
        (f"{WELL_KNOWN}/p/office", MAIN),
        (WELL_KNOWN, MAIN),
        ("/pkix", MAIN),
    ],
)
async def test_a_path_leads_to_its_route(fork: MakeFork, path: str, expected: list[int]) -> None:
    """What stands behind /p/ is the profile that routes name; other paths have none."""
    forked = fork({"profiles": frozenset({"lab"})})
    world = forked.world
    listener = CMPListener(
        world.gateway,
        host="127.0.0.1",
        port=0,
        routes={WELL_KNOWN: "ran", "/pkix": "ran"},
        profiles={"lab": "ran", "office": "ran"},
    )
    host, port = await listener.start()
    try:
        async with aiohttp.ClientSession() as session:
            enrollment = world.enrollment(world.device())
            await run(enrollment, f"http://{host}:{port}{path}", session)
    finally:
        await listener.drain(1.0)
    assert forked.asked == expected
