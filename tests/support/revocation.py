"""What tests of revocation have in common: a vendor's world, CRLs in files, and an HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.ra.signer_status import SignerStatus
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.revocation.settings import RevocationSettings
from ra_gateway.revocation.sources import SourceState
from tests.support.answers import fail_names
from tests.support.credentials import cmp_certificate
from tests.support.crls import make_crl, replace_file
from tests.support.harness import World, make_gateway
from tests.support.loops import let_pass
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Authority, Credential, OperatorPKI, VendorPKI

HOUR = timedelta(hours=1)


class Desk:
    """A vendor's world with revocation switched on; time stands still until it is moved."""

    def __init__(self, vendor: VendorPKI, operator: OperatorPKI, **settings: Any) -> None:
        intermediates = settings.pop("intermediates", (vendor.sub,))
        before = settings.pop("before", None)
        early_share = settings.pop("early_share", 0.0)
        self.vendor = vendor
        self.world = World.make(vendor, operator)
        self.clock = self.world.clock
        self.seconds = 0.0
        self.domain = TrustDomain(
            "acme",
            DomainKind.vendor,
            (cmp_certificate(vendor.root.certificate),),
            tuple(cmp_certificate(ca.certificate) for ca in intermediates),
        )
        self.revocation = Revocation(
            [(self.domain, RevocationSettings(**settings))],
            self.clock,
            lambda: self.seconds,
            before=before,
            early_share=early_share,
        )
        self.world.gateway = make_gateway(
            self.world.endpoint,
            operator,
            self.world.store,
            self.clock,
            self.world.events,
            signer_status=SignerStatus(self.revocation),
        )

    async def refresh(self, after_seconds: float = 0.0) -> None:
        """Let time pass and do what the background task would do then."""
        self.seconds += after_seconds
        self.clock.move(seconds=after_seconds)
        await self.revocation._domains["acme"].refresh()

    async def ask(self, device: Credential) -> list[str]:
        """Send an ir and return the failInfo; [] when a certificate was issued."""
        request = await self.world.enrollment(device).request()
        return list(fail_names(await self.world.ask(request)))

    @property
    def state(self) -> SourceState:
        """Of the one source."""
        (state,) = self.revocation.states()
        return state

    @property
    def last(self) -> tuple[str, str, str]:
        """Outcome, rule and detail of the last message."""
        event = self.world.events[-1]
        return event.outcome, event.rule, event.detail


class Crls:
    """CRLs of a vendor in two files: the root's and the sub-CA's."""

    def __init__(self, directory: Path, vendor: VendorPKI, now: datetime) -> None:
        self.vendor, self.now = vendor, now
        self.paths = (directory / "root.crl", directory / "sub.crl")
        self.root()
        self.sub()

    def root(self, *revoked: Any, **options: Any) -> None:
        """Replace the root's, which lists certificates."""
        self._put(self.paths[0], self.vendor.root, revoked, options)

    def sub(self, *revoked: Any, **options: Any) -> None:
        """Replace the sub-CA's."""
        self._put(self.paths[1], self.vendor.sub, revoked, options)

    def _put(self, path: Path, ca: Authority, revoked: Any, options: dict[str, Any]) -> None:
        options.setdefault("this_update", self.now - HOUR)
        replace_file(path, make_crl(options.pop("by", ca), revoked, **options))


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Publisher:
    """An HTTP server that does what a test tells it to."""

    server: TestServer
    handler: Handler
    asked: list[str]

    def url(self, path: str = "/sub.crl") -> str:
        """Return the URL of a path."""
        return str(self.server.make_url(path))

    @property
    def host(self) -> str:
        """As in `allowed_hosts`."""
        return f"127.0.0.1:{self.server.port}"


@asynccontextmanager
async def publishing() -> AsyncIterator[Publisher]:
    """Run a publisher on a free port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        found.asked.append(request.path)
        return await found.handler(request)

    async def nothing(request: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    found = Publisher(TestServer(app, host="127.0.0.1"), nothing, [])
    await found.server.start_server()
    try:
        yield found
    finally:
        await found.server.close()


def serving(octets: bytes) -> Handler:
    """Answer with octets."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=octets)

    return handle


def _for_ever(octets: bytes, after_each: Callable[[], Awaitable[None]]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(octets)
                await after_each()
        except ConnectionResetError:
            return response

    return handle


async def _at_once() -> None:
    """Not wait."""


async def _slowly() -> None:
    await asyncio.sleep(0.02)
    let_pass(PATIENCE_SECONDS / 10)


endless = _for_ever(b"0" * 65536, _at_once)
"""Answer for ever, as fast as it is read."""

dripping = _for_ever(b"0", _slowly)
"""Answer for ever, an octet at a time, and ten of them last `PATIENCE_SECONDS`."""


async def elsewhere(request: web.Request) -> web.StreamResponse:
    """Redirect."""
    raise web.HTTPFound("/internal")


async def compressed(request: web.Request) -> web.StreamResponse:
    """Say that the answer is compressed."""
    return web.Response(body=b"0", headers={"Content-Encoding": "gzip"})


async def page(request: web.Request) -> web.StreamResponse:
    """Answer with a web page."""
    return web.Response(text="<html>soon</html>")
