"""What a device was forgiven, through a whole gateway out of its file: restarts, a store that is lost, what to set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from redis.asyncio import Redis

from ra_gateway.app import Application
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.config.reading import load
from ra_gateway.events import RequestHandled
from tests.support.answers import fail_names
from tests.support.harness import handled_only
from tests.support.old_device import OldDevice
from tests.support.pki import VendorPKI
from tests.support.setups import edit, make_setup

QUIRKS = 'quirks = ["short_ids", "wrong_clock", "sha1"]\n'


@dataclass
class Node:
    """A gateway in this process."""

    application: Application
    events: list[RequestHandled] = field(default_factory=list)

    async def ask(self, der: bytes) -> PKIMessage:
        endpoint = next(iter(self.application.services.endpoints))
        reply = await self.application.gateway.handle(der, endpoint=endpoint)
        return PKIMessage.from_der(reply.der)


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[Node]:
    events: list[RequestHandled] = []
    application = Application(load(config), sink=handled_only(events.append))
    await application.start()
    try:
        yield Node(application, events)
    finally:
        await application.stop()


async def test_a_device_renews_after_restarts_and_losses(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """Redis remembers; where it is flushed the log says which key to set, and that is enough."""
    # The CA takes no proof of possession that is signed with SHA-1.
    upstream = 'kind = "bundled"\npop = "raverified"\n'
    config = make_setup(
        tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url, upstream=upstream
    )
    edit(config, "[vendors.acme]\n", f"[vendors.acme]\n{QUIRKS}")
    clock = datetime(1970, 1, 1, tzinfo=UTC)
    async with running(config) as node:
        device = OldDevice.made(node, vendor_pki.device())
        device = await replace(device, message_time=clock).enrol()
    async with running(config) as node:
        device = await replace(device, world=node).enrol(BodyType.kur)
        assert set(node.events[-2].quirks) == {"short_ids", "wrong_clock", "sha1"}
    async with Redis.from_url(redis_url) as raw:
        await raw.flushdb()
    async with running(config) as node:
        answer = await node.ask(await replace(device, world=node).request(BodyType.kur))
        assert fail_names(answer) == ["badAlg"]
        assert "vendors.<name>.operator_subjects" in node.events[-1].detail
    subject = device.credential.certificate.subject
    edit(config, QUIRKS, f'{QUIRKS}operator_subjects = ["{subject}"]\n')
    async with running(config) as node:
        await replace(device, world=node).enrol(BodyType.kur)
