"""A whole gateway out of its configuration file, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ra_gateway.app.application import Application
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.config.reading import load
from ra_gateway.events import RequestHandled
from tests.support.harness import handled_only


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
