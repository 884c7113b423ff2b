"""A master of Redis is killed under load: every base station has one certificate in the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import aiohttp
import pytest

from tests.support.insisting import Fleet, issued_to
from tests.support.load import under_load
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.processes import GatewayProcess
from tests.support.redis_groups import (
    ClusterGroup,
    SentinelGroup,
    cluster_group,
    sentinel_group,
)
from tests.support.setups import edit, make_setup

MASTER_UP = 'ra_gateway_store_master_up{master="127.0.0.1:%d"} 1.0'


@pytest.mark.parametrize("make", [sentinel_group, cluster_group])
@pytest.mark.requirement(94, 95)
async def test_a_master_that_is_killed_under_load_costs_no_certificate(
    make: Callable[[Path], AbstractContextManager[SentinelGroup | ClusterGroup]],
    tmp_path: Path,
    vendor_pki: VendorPKI,
) -> None:
    """Who repeats gets what was issued to it, once; and the metrics say who took over."""
    with make(tmp_path / "redis") as group:
        config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki}, redis_url=group.url)
        edit(config, f'"{group.url}"\n', f'"{group.url}"\nredis_timeout_seconds = 1.0\n')
        killed, heir = group.servers[0], group.servers[len(group.servers) // 2]
        with GatewayProcess(config) as gateway:
            async with aiohttp.ClientSession() as session:
                fleet = Fleet(gateway, vendor_pki, session)
                await fleet.readiness(200)
                assert MASTER_UP % killed.port in await metrics(gateway, session)
                async with under_load(fleet.enrol) as load:
                    await load.goes_on()
                    killed.kill()
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        while MASTER_UP % heir.port not in await metrics(gateway, session):  # noqa: ASYNC110
                            await asyncio.sleep(0.1)
                    await load.goes_on()
                assert f'master="127.0.0.1:{killed.port}"' not in await metrics(gateway, session)
            assert gateway.stop() == 0
            assert "store.forgets" not in gateway.log
    certificates = Counter(issued_to(config.parent / "ca" / "ledger.sqlite"))
    assert set(certificates.values()) == {1}
    assert len(certificates) == load.count


async def metrics(gateway: GatewayProcess, session: aiohttp.ClientSession) -> str:
    """Return what the gateway measured."""
    url = gateway.await_event("started")["management"]
    async with session.get(f"{url}/metrics") as response:
        return await response.text()
