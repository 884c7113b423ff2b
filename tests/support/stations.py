"""Base stations that talk to server processes, and repeat themselves octet by octet when told to."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp

from ra_gateway.cmp.bodies import cert_rep_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.client import ServerUnreachable, post
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, Send, operator_trust
from ra_gateway.keys import load_certificates
from tests.support.credentials import cmp_credential
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI, make_key
from tests.support.processes import (
    ServerProcess,
)


class Station:
    """A base station that keeps its ir, so that it can repeat it octet by octet.

    Args:
        serial: Part of its subject.
        vendor: Who made it.
        root_path: Of the operator's root, which it knows.
    """

    def __init__(self, serial: str, vendor: VendorPKI, root_path: Path) -> None:
        self.enrollment = Enrollment(
            DeviceIdentity(
                cmp_credential(vendor.device(serial)),
                operator_trust(*load_certificates(root_path, "root")),
            ),
            make_key("p256"),
            RequestOptions(subject=f"CN={serial}.example.net,O=Example Operator"),
            clock=lambda: datetime.now(UTC),
            random_octets=secrets.token_bytes,
        )

    async def request(self, session: aiohttp.ClientSession, server: ServerProcess) -> bytes:
        """Post the ir, always the same octets, and return the answer."""
        return await post(session, server.url, await self.enrollment.request())

    async def confirmation(self, answer: bytes) -> bytes:
        """Take an ip and return the certConf for it.

        Raises:
            EnrollmentRefused: It was a refusal.
        """
        step = await self.enrollment.receive(answer)
        assert isinstance(step, Send)
        return step.der

    async def enrol(self, session: aiohttp.ClientSession, server: ServerProcess) -> Done:
        """Go from ir to pkiConf."""
        confirmation = await self.confirmation(await self.request(session, server))
        return await self.finish(await post(session, server.url, confirmation))

    async def finish(self, answer: bytes) -> Done:
        """Take a pkiConf."""
        step = await self.enrollment.receive(answer)
        assert isinstance(step, Done)
        return step

    async def insist(self, session: aiohttp.ClientSession, server: ServerProcess) -> bytes:
        """Repeat the ir until it is answered with a certificate."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            with contextlib.suppress(ServerUnreachable):
                answer = await self.request(session, server)
                if issued(answer):
                    return answer
            await asyncio.sleep(0.1)
        raise AssertionError(f"no certificate within {PATIENCE_SECONDS} s:\n{server.log[-4000:]}")


def issued(answer: bytes) -> bytes:
    """Return the DER of the certificate in an answer, b"" if there is none."""
    message = PKIMessage.from_der(answer)
    if message.body_type is not BodyType.ip:
        return b""
    return cert_rep_message(message.body_content).responses[0].certificate_der or b""


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"{what} did not happen"
        await asyncio.sleep(0.01)
