"""Base stations that try again for as long as they are told systemUnavail, and what a CA issued to them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from ra_gateway.cmp.bodies import error_msg_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.client import post
from ra_gateway.device.values import Done
from ra_gateway.errors import PKIFailureInfo
from tests.support.load import STATIONS
from tests.support.pki import VendorPKI
from tests.support.processes import GatewayProcess
from tests.support.stations import Station, until

AGAIN_SECONDS = 0.1
"""After which a base station tries again that was told systemUnavail; real ones take longer."""


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

    Args:
        begins_anew: The one that begins a new operation then, with another transactionID; the others repeat what they
            said.
    """

    gateway: GatewayProcess
    vendor: VendorPKI
    session: aiohttp.ClientSession
    begins_anew: str = ""
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
                if name == self.begins_anew:
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


def issued_to(ledger: Path) -> Iterator[str]:
    """Return the subject of each base station's certificate in the ledger of the CA."""
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        rows = connection.execute("SELECT der FROM certificates WHERE der IS NOT NULL")
        for (der,) in rows:
            subject = str(Certificate.from_der(der).subject)
            if "enb-" in subject:
                yield subject
