"""EJBCA behind HTTP, as far as a CMP client sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.test_utils import TestServer

from ra_gateway.cmp.codes import CMP_CONTENT_TYPE
from tests.support.ejbca.refusals import HTTPRefusal
from tests.support.ejbca.server import DEFAULT_ALIAS, MAX_BODY_BYTES, Ejbca

PATH: Final = "/ejbca/publicweb/cmp"


@asynccontextmanager
async def serve(ejbca: Ejbca) -> AsyncIterator[str]:
    """Serve on a free port of the loopback interface; yields the URL, to which "/" and an alias may be added."""

    async def handle(request: web.Request) -> web.Response:
        alias = request.match_info.get("alias", DEFAULT_ALIAS)
        try:
            return web.Response(
                body=ejbca.answer(await _content(ejbca, request, alias), alias),
                content_type=CMP_CONTENT_TYPE,
            )
        except HTTPRefusal as refusal:
            return web.Response(
                status=refusal.status,
                text=refusal.page or None,
                content_type="text/html" if refusal.page else None,
            )

    application = web.Application()
    application.router.add_route("*", PATH, handle)
    application.router.add_route("*", f"{PATH}/{{alias}}", handle)
    server = TestServer(application, host="127.0.0.1")
    await server.start_server()
    try:
        yield str(server.make_url(PATH))
    finally:
        await server.close()


async def _content(ejbca: Ejbca, request: web.Request, alias: str) -> bytes:
    """Return what was posted, at most one octet more than EJBCA takes.

    Raises:
        HTTPRefusal: It is not a POST, has no length, or is for an alias that does not exist.
    """
    if request.method != "POST":
        raise HTTPRefusal(405)
    ejbca.find_alias(alias)
    if not {"Content-Length", "Transfer-Encoding"} & set(request.headers):
        raise HTTPRefusal(400)
    parts = bytearray()
    while len(parts) <= MAX_BODY_BYTES and (part := await request.content.readany()):
        parts += part
    return bytes(parts)
