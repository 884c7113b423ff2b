"""Redis goes and comes back under load: base stations that try again get their certificates."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from ra_gateway.cmp.bodies import error_msg_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.client import post
from ra_gateway.device.values import Done
from ra_gateway.errors import PKIFailureInfo
from tests.support.load import ROUNDS, STATIONS, under_load
from tests.support.pki import VendorPKI
from tests.support.processes import GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, make_setup
from tests.support.stations import Station, until

AGAIN_SECONDS = 0.1
"""After which a base station tries again that was told systemUnavail; real ones take longer."""

BEGINS_ANEW = "enb-0"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that keeps what it was told over its end, as it should for gateways."""
    server = RedisServer(tmp_path, persistent=True)
    server.start()
    yield server
    server.stop()


def is_unavailable(answer: bytes) -> bool:
    """Tell whether an answer says systemUnavail."""
    message = PKIMessage.from_der(answer)
    if message.body_type is not BodyType.error:
        return False
    fail_info = error_msg_content(message.body_content).status_info.fail_info
    return fail_info == (PKIFailureInfo.systemUnavail,)


@dataclass
class Fleet:
    """Base stations that try again for as long as they are told systemUnavail; anything else fails the test.

    One of them begins a new operation then, with another transactionID; the others repeat what they said.
    """

    gateway: GatewayProcess
    vendor: VendorPKI
    session: aiohttp.ClientSession
    refused: Counter[str] = field(default_factory=Counter)

    async def enrol(self, serial: str) -> None:
        """Have a base station enrol and confirm."""
        while not await self._tries(serial):
            pass

    async def _tries(self, serial: str) -> bool:
        """Have it go through one operation; False if it was told systemUnavail and lets it be."""
        name = serial.rpartition("-")[0]
        root = self.gateway.config_path.parent / "operator" / "root.pem"
        enrollment = Station(serial, self.vendor, root).enrollment
        der = await enrollment.request()
        while True:
            answer = await post(self.session, self.gateway.url, der)
            if is_unavailable(answer):
                self.refused[name] += 1
                await asyncio.sleep(AGAIN_SECONDS)
                if name == BEGINS_ANEW:
                    return False
                continue
            step = await enrollment.receive(answer)
            if isinstance(step, Done):
                return True
            await asyncio.sleep(step.after_seconds)
            der = step.der

    async def notices(self) -> None:
        """Wait until each base station has been told systemUnavail."""
        self.refused.clear()
        await until(lambda: len(self.refused) == STATIONS, "systemUnavail")

    async def readiness(self, status: int) -> None:
        """Wait until /readyz answers so."""
        url = f"{self.gateway.await_event('started')['management']}/readyz"
        while True:
            async with self.session.get(url) as response:
                if response.status == status:
                    return
            await asyncio.sleep(AGAIN_SECONDS)


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
            fleet = Fleet(gateway, vendor_pki, session)
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


def issued_to(ledger: Path) -> Iterator[str]:
    """Return the subject of each base station's certificate in the ledger of the CA."""
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        rows = connection.execute("SELECT der FROM certificates WHERE der IS NOT NULL")
        for (der,) in rows:
            subject = str(Certificate.from_der(der).subject)
            if "enb-" in subject:
                yield subject
