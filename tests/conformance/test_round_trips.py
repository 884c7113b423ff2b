"""How often a message has the gateway ask Redis."""

from __future__ import annotations

import re

import pytest

from ra_gateway.device.enrollment import Done, Send
from ra_gateway.stores.redis import RedisStore
from tests.support.harness import ManualClock, World
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.redis_server import SEAL_KEY, RedisServer


def scripts_run(server: RedisServer) -> int:
    """Return how many scripts a server was asked to run."""
    told = server.command("INFO commandstats").decode()
    return sum(map(int, re.findall(r"^cmdstat_eval(?:sha)?:calls=(\d+)", told, re.MULTILINE)))


async def enrol(world: World) -> None:
    enrollment = world.enrollment(world.device())
    step = await enrollment.receive(await world.post(await enrollment.request()))
    while isinstance(step, Send):
        step = await enrollment.receive(await world.post(step.der))
    assert isinstance(step, Done)


@pytest.mark.requirement(94)
async def test_a_full_enrolment_asks_redis_five_times(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, redis_server: RedisServer, redis_url: str
) -> None:
    """ir', ip, certConf' and pkiConf: each is stored before it leaves; and certConf has its transaction looked for."""
    clock = ManualClock()
    store = RedisStore(redis_url, clock=clock, seal_keys=[SEAL_KEY])
    try:
        world = World.make(vendor_pki, operator_pki, store=store, clock=clock)
        await enrol(world)  # Redis learns the scripts
        before = scripts_run(redis_server)
        await enrol(world)
        assert scripts_run(redis_server) - before == 5
    finally:
        await store.close()
