"""Redis goes and comes back under load: base stations that try again get their certificates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.insisting import Fleet, issued_to
from tests.support.load import ROUNDS, under_load
from tests.support.pki import VendorPKI
from tests.support.processes import GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, make_setup

BEGINS_ANEW = "enb-0"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps what it was told over its end, as it should for gateways."""
    server = RedisServer(tmp_path, persistent=True)
    server.start()
    yield server
    server.stop()


OUTAGES = (
    (RedisServer.kill, RedisServer.start),
    (RedisServer.stop, RedisServer.start),
    (RedisServer.pause, RedisServer.resume),
)
"""How Redis goes, and how it comes back."""


async def test_redis_goes_and_comes_back_under_load(
    tmp_path: Path, vendor_pki: VendorPKI, redis: RedisServer
) -> None:
    """Before the start and in flight: everybody has a certificate in the end, and who repeats has just one."""
    config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki}, redis_url=redis.url)
    edit(config, f'"{redis.url}"\n', f'"{redis.url}"\nredis_timeout_seconds = 0.5\n')
    redis.stop()
    with GatewayProcess(config) as gateway:
        async with aiohttp.ClientSession() as session:
            fleet = Fleet(gateway, vendor_pki, session, BEGINS_ANEW)
            await fleet.readiness(503)
            async with under_load(fleet.enrol) as load:
                await fleet.notices()
                redis.start()
                await fleet.readiness(200)
                await load.goes_on()
                for go, come_back in OUTAGES * ROUNDS:
                    go(redis)
                    await fleet.notices()
                    await fleet.readiness(503)
                    come_back(redis)
                    await load.goes_on()
                await fleet.readiness(200)
        assert gateway.stop() == 0
    certificates = Counter(issued_to(config.parent / "ca" / "ledger.sqlite"))
    assert len(certificates) == load.count
    several = [name for name, count in certificates.items() if count > 1]
    assert [name for name in several if f"={BEGINS_ANEW}-" not in name] == []
