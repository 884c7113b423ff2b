"""How often a message has the gateway ask Redis, and that what it does not ask for decides nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_rep_message,
    error_body,
)
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.transaction import State
from ra_gateway.stores.redis import RedisStore
from tests.support.answers import fail_names, follow
from tests.support.harness import ManualClock, World, make_gateway
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.polling import Operation
from tests.support.redis_server import SEAL_KEY, RedisServer


@pytest.fixture
async def world(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, redis_url: str
) -> AsyncIterator[World]:
    clock = ManualClock()
    store = RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY])
    yield World.make(
        vendor_pki, operator_pki, upstream={"replays_repeats": True}, store=store, clock=clock
    )
    await store.close()


@pytest.fixture
async def other(world: World, redis_url: str) -> AsyncIterator[Gateway]:
    """Another node, which remembers nothing of what the first one did."""
    store = RedisStore(redis_url, clock=world.clock, seal_keys=[SEAL_KEY])
    yield make_gateway(world.endpoint, world.operator, store, world.clock, world.events)
    await store.close()


def scripts_run(server: RedisServer) -> int:
    """Return how many scripts a server was asked to run."""
    told = server.command("INFO commandstats").decode()
    return sum(map(int, re.findall(r"^cmdstat_eval(?:sha)?:calls=(\d+)", told, re.MULTILINE)))


async def issued(world: World) -> Operation:
    """An operation whose device has its certificate, and its certConf ready."""
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    await operation.make_cert_conf()
    return operation


@pytest.mark.requirement(94)
async def test_a_full_enrolment_asks_redis_once_for_each_message_sent(
    world: World, redis_server: RedisServer
) -> None:
    """ir', ip, certConf' and pkiConf: each is stored before it leaves, and nothing else is asked."""
    await (await issued(world)).send()  # Redis learns the scripts
    before = scripts_run(redis_server)
    operation = await issued(world)
    assert (await operation.send()).body_type is BodyType.pkiconf
    assert scripts_run(redis_server) - before == 4


@pytest.mark.requirement(94)
async def test_a_certconf_that_another_node_took_first_is_answered_as_it_was_there(
    world: World, other: Gateway
) -> None:
    """Whatever the node that issued remembers: the same octets, and one certConf for the CA."""
    operation = await issued(world)
    there = await operation.send(gateway=other)
    assert there.body_type is BodyType.pkiconf
    assert (await operation.send()).der == there.der
    assert [each.body_type for each in world.ca.messages] == [BodyType.ir, BodyType.certConf]


@pytest.mark.requirement(109)
async def test_a_certconf_after_another_node_took_an_error_is_refused(
    world: World, other: Gateway
) -> None:
    """As where the node does not remember the transaction: it has ended."""
    operation = await issued(world)
    body_der = error_body(PKIStatusInfo(PKIStatus.rejection))
    error = await follow(operation.device, operation.answer, body_der, now=world.clock())
    assert (await world.ask(error, gateway=other)).body_type is BodyType.pkiconf
    assert fail_names(await operation.send()) == ["badRequest"]
    assert (await operation.stored()).state is State.REJECTED


@pytest.mark.requirement(109)
async def test_a_certconf_that_is_wrong_is_refused_by_what_is_stored(
    world: World, other: Gateway
) -> None:
    """certConfirmed where another node took one, and not what was wrong with this one."""
    operation = await issued(world)
    ip = operation.answer
    await operation.send(gateway=other)
    body_der = cert_confirm_body(CertStatus(bytes(32), 0))
    wrong = await follow(operation.device, ip, body_der, now=world.clock())
    assert fail_names(await world.ask(wrong)) == ["certConfirmed"]


@pytest.mark.requirement(11)
async def test_a_certconf_whose_transaction_redis_lost_is_refused(
    world: World, redis_server: RedisServer
) -> None:
    """What a node remembers does not stand for what is stored."""
    operation = await issued(world)
    redis_server.command("FLUSHALL")
    assert fail_names(await operation.send()) == ["badRequest"]
    assert world.events[-1].rule == "R11"
    assert [each.body_type for each in world.ca.messages] == [BodyType.ir]


@pytest.mark.requirement(94)
async def test_a_transaction_that_began_anew_is_not_taken_for_the_one_before(
    world: World, other: Gateway, redis_server: RedisServer
) -> None:
    """Redis lost it, and another node had the CA issue once more: of the same version, and yet another one."""
    operation = await Operation.begin(world, BodyType.ir)
    ir, first = operation.sent, await operation.send()
    await operation.make_cert_conf()
    redis_server.command("FLUSHALL")
    world.clock.move(seconds=1)
    again = await world.ask(ir, gateway=other)
    certificates = [
        cert_rep_message(each.body_content).responses[0].certificate_der for each in (first, again)
    ]
    assert None not in certificates
    assert certificates[0] != certificates[1]
    assert fail_names(await operation.send()) != []
    stored = await operation.stored()
    assert (stored.state, stored.certificate_der) == (State.ISSUED, certificates[1])


@pytest.mark.requirement(35)
async def test_a_stranger_who_confirms_does_not_stand_in_the_way(world: World) -> None:
    """A wrong signature is refused, once or twice; the device then confirms."""
    operation = await issued(world)
    certconf = operation.sent
    operation.device = world.device("ENB-2")
    await operation.make_cert_conf()
    for _ in range(2):
        assert fail_names(await world.ask(operation.sent)) == ["badMessageCheck"]
    assert (await world.ask(certconf)).body_type is BodyType.pkiconf
