"""The management listener: metrics and health over HTTP, for the operator's own machines and nobody else.

GET /metrics    what Prometheus scrapes
GET /livez      200 while the process answers at all
GET /readyz     200 while devices should be sent here, else 503; the body says which part is missing
GET /status     which process, version and configuration this is, and what came of its reloads
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Unpack

from aiohttp import web

from ra_gateway.server.listener import NOT_STORED, Listener, ListenerSettings, Refusal


class Exposition(NamedTuple):
    """Metrics as they are scraped."""

    body: bytes
    content_type: str


class ManagementHandler(Protocol):
    """Knows what is served."""

    async def metrics(self, accept: str) -> Exposition:
        """Return all metrics.

        Args:
            accept: The Accept header of whoever scrapes.
        """

    def readiness(self) -> Mapping[str, str]:
        """Return every part that has to work, with what is wrong with it; "" where nothing is."""

    def status(self) -> Mapping[str, Any]:
        """Return which process this is, as JSON has it."""


METRICS_PATH: Final = "/metrics"
LIVENESS_PATH: Final = "/livez"
READINESS_PATH: Final = "/readyz"
STATUS_PATH: Final = "/status"


class ManagementListener(Listener):
    """Listens for whoever looks after the service.

    Args:
        handler: Knows the answers.
        names: In Host by which it may be asked, in lower case, besides addresses and names without a dot; None for
            all.
        settings: Arguments of `Listener`.
    """

    name: ClassVar[str] = "management"
    serves: ClassVar[str] = "metrics and health"
    refusals: ClassVar[Mapping[HTTPStatus, str]] = {
        HTTPStatus.BAD_REQUEST: "This is not an HTTP request.\n",
        HTTPStatus.NOT_FOUND: "There are /metrics, /livez, /readyz and /status.\n",
        HTTPStatus.METHOD_NOT_ALLOWED: "Ask with GET or HEAD.\n",
        HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.\n",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.\n",
        HTTPStatus.MISDIRECTED_REQUEST: "Ask by an IP address, or by a name in management.server_names.\n",
        HTTPStatus.INTERNAL_SERVER_ERROR: "The request could not be processed.\n",
        HTTPStatus.SERVICE_UNAVAILABLE: "Too many requests at the moment.\n",
    }

    def __init__(
        self,
        handler: ManagementHandler,
        names: Collection[str] | None = None,
        **settings: Unpack[ListenerSettings],
    ) -> None:
        super().__init__(**settings)
        self._handler = handler
        self._names = names

    async def respond(self, request: web.BaseRequest, peer: str) -> web.Response:
        if self._names is not None and not _is_own(request.headers.getall("Host", ()), self._names):
            raise Refusal(HTTPStatus.MISDIRECTED_REQUEST)
        path = request.raw_path.partition("?")[0]
        if path not in (METRICS_PATH, LIVENESS_PATH, READINESS_PATH, STATUS_PATH):
            raise Refusal(HTTPStatus.NOT_FOUND)
        if request.method not in ("GET", "HEAD"):
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
        return await self.handled(self._answered, path, request.headers.get("Accept", ""))

    async def _answered(self, path: str, accept: str) -> web.Response:
        if path == METRICS_PATH:
            body, content_type = await self._handler.metrics(accept)
            return web.Response(body=body, headers={"Content-Type": content_type, **NOT_STORED})
        if path == LIVENESS_PATH:
            return web.Response(text="ok\n", headers=NOT_STORED)
        if path == STATUS_PATH:
            return web.Response(
                text=json.dumps(self._handler.status()) + "\n",
                content_type="application/json",
                headers=NOT_STORED,
            )
        parts = self._handler.readiness()
        ready = not any(parts.values())
        return web.Response(
            status=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
            text=json.dumps({"ready": ready, "parts": {k: v or "ok" for k, v in parts.items()}})
            + "\n",
            content_type="application/json",
            headers=NOT_STORED,
        )


def _is_own(fields: Sequence[str], names: Collection[str]) -> bool:
    """Tell whether the Host of a request, of which there may be none, is a name that nobody else can have lead here."""
    return all(_leads_here(_host(field.strip().lower()), names) for field in fields)


def _host(field: str) -> str:
    """Return what is before the port."""
    if field.startswith("["):
        return field[1:].partition("]")[0]
    return field.partition(":")[0].removesuffix(".")


def _leads_here(host: str, names: Collection[str]) -> bool:
    # Whoever has a domain cannot make a name without a dot: localhost, those of containers.
    if host in names or ("." not in host and ":" not in host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
