"""Chaos: gateways, CA and Redis are killed, restarted and frozen at random while base stations enrol.

`make chaos` does it longer (DISTURBANCES); CHAOS_SEED has the same choices made again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from ra_gateway.device.client import ServerUnreachable, post
from ra_gateway.device.values import Done
from tests.support.insisting import is_unavailable
from tests.support.load import under_load
from tests.support.pki import VendorPKI
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, make_setup, set_upstream
from tests.support.stations import Station

DISTURBANCES: Final = int(os.environ.get("DISTURBANCES", "8"))
ANSWERS_LOST: Final = 0.1
"""Of the answers, how many a base station does not get, though they were sent."""


@dataclass
class Site:
    """Two gateways, their Redis and a CA, and base stations that repeat themselves until they are answered."""

    gateways: list[GatewayProcess]
    ca: CAProcess
    redis: RedisServer
    vendor: VendorPKI
    chance: random.Random
    session: aiohttp.ClientSession | None = None
    holds: dict[str, bytes] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    async def enrol(self, serial: str) -> None:
        """Have a base station enrol and confirm, by any gateway that answers."""
        root = self.ca.config_path.parent / "operator" / "root.pem"
        enrollment = Station(serial, self.vendor, root).enrollment
        der = await enrollment.request()
        while True:
            answer = await self._answer(der)
            step = await enrollment.receive(answer)
            if isinstance(step, Done):
                self.holds[serial] = step.identity.signing.certificate.der
                return
            await asyncio.sleep(step.after_seconds)
            der = step.der

    async def _answer(self, der: bytes) -> bytes:
        assert self.session is not None
        while True:
            with contextlib.suppress(ServerUnreachable):
                answer = await post(self.session, self.chance.choice(self.gateways).url, der)
                lost = self.chance.random() < ANSWERS_LOST
                if not lost and not is_unavailable(answer):
                    return answer
            self.counts["repeats"] += 1
            await asyncio.sleep(0.1)

    async def disturb(self) -> None:
        """Do one thing to one of the processes, and undo it."""
        what = self.chance.choice(("gateway", "gateway", "CA", "Redis", "Redis frozen"))
        self.counts[what] += 1
        if what == "Redis frozen":
            self.redis.pause()
            await asyncio.sleep(self.chance.random())
            self.redis.resume()
            return
        process: CAProcess | GatewayProcess | RedisServer = self.chance.choice(self.gateways)
        if what != "gateway":
            process = self.ca if what == "CA" else self.redis
        process.kill()
        self.counts["kills"] += 1
        await asyncio.to_thread(process.start)


@pytest.fixture
def site(tmp_path: Path, vendor_pki: VendorPKI) -> Iterator[Site]:
    """The processes, running."""
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
    sys.stdout.write(f"CHAOS_SEED={seed}\n")
    redis = RedisServer(tmp_path, persistent=True, options=("--appendfsync", "always"))
    redis.start()
    config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki}, redis_url=redis.url)
    edit(config, f'"{redis.url}"\n', f'"{redis.url}"\nredis_timeout_seconds = 0.5\n')
    with ExitStack() as stack:
        stack.callback(redis.kill)
        ca = stack.enter_context(CAProcess(config))
        upstream = http_upstream(
            ca.url, replays_repeats=True, deadline_seconds=2.0, connect_timeout_seconds=2.0
        )
        set_upstream(config, upstream)
        gateways = [stack.enter_context(GatewayProcess(config)) for _ in range(2)]
        yield Site(gateways, ca, redis, vendor_pki, random.Random(seed))


async def test_everybody_has_one_certificate_in_the_end(site: Site) -> None:
    """What the ledger holds as confirmed is what the base stations hold: nothing twice, lost or orphaned."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    site.session = aiohttp.ClientSession(connector=connector)
    async with site.session, under_load(site.enrol) as load:
        for _ in range(DISTURBANCES):
            await site.disturb()
            await asyncio.sleep(site.chance.random() / 2)
    path = site.ca.config_path.parent / "ca" / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
        rows = connection.execute(
            "SELECT der, confirm_by IS NULL AND revoked_at IS NULL FROM certificates"
            " WHERE der IS NOT NULL"
        ).fetchall()
    held = set(site.holds.values())
    confirmed = {der for der, is_confirmed in rows if is_confirmed}
    issued = Counter(name for name in site.holds for der, _ in rows if name.encode() + b"." in der)
    twice = [name for name, count in issued.items() if count > 1]
    orphans = [der for der, is_confirmed in rows if not is_confirmed]
    sys.stdout.write(
        f"{load.count} enrolments, {dict(site.counts)}: {len(twice)} twice,"
        f" {len(held - confirmed)} lost, {len(orphans)} orphans\n"
    )
    assert len(held) == load.count
    assert (twice, held - confirmed, orphans) == ([], set(), [])
