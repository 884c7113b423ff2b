"""The CMP listener: DER comes in over HTTP, goes to a handler, and its answer goes out (RFC 9811)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus
from typing import ClassVar, Final, NamedTuple, Protocol, Unpack, runtime_checkable

from aiohttp import web

from ra_gateway.cmp.envelope import envelope_of
from ra_gateway.cmp.responder import Reply
from ra_gateway.server.listener import (
    NOT_STORED,
    RETRY,
    Listener,
    ListenerSettings,
    Refusal,
    is_encoded,
)

WELL_KNOWN_PATH: Final = "/.well-known/cmp"
OPERATIONS: Final = (
    "initialization",
    "certification",
    "keyupdate",
    "pkcs10",
    "revocation",
    "getcacerts",
    "getrootupdate",
    "getcertreqtemplate",
    "getcrls",
    "nested",
)
"""Operation labels of RFC 9483 section 6.1."""

MEDIA_TYPE: Final = "application/pkixcmp"
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/pkixcmp-poll")


class CMPHandler(Protocol):
    """Answers CMP messages."""

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str, operation: str, peer: str
    ) -> Reply:
        """Answer what was posted, whatever it is; only cancellation leaves it as an exception.

        Args:
            der: The body as it came, at least one octet.
            endpoint: Name of the endpoint that the path belongs to.
            profile: Profile name in the path, or "".
            operation: Operation label in the path (RFC 9483 6.1), or "".
            peer: The client's IP address.
        """


@runtime_checkable
class KnowsBegun(Protocol):
    """A handler that knows which transactions were begun with it."""

    def has_begun(self, transaction_id: bytes) -> bool:
        """Return whether a message under a transactionID goes before others; a stranger may have copied the ID."""


_WITH_FOLLOWERS: Final = 9 / 8
_WITH_BEGUN: Final = 5 / 4
"""Of the limit to requests in flight. What is on top is for what was begun: to finish it brings a certificate, to begin
more of what cannot be finished brings none. Whoever merely says that a message is a certConf gets an eighth by it."""


class Route(NamedTuple):
    """What a path says."""

    endpoint: str
    profile: str
    operation: str


class Routes:
    """Finds the endpoint of a path.

    Args:
        routes: Exact path to endpoint name. Operation labels are served below `/.well-known/cmp`.
        profiles: Profile name to endpoint name, served at `/.well-known/cmp/p/<name>`, with labels.
            A path in `routes` takes precedence.
    """

    def __init__(self, routes: Mapping[str, str], profiles: Mapping[str, str]) -> None:
        exact = {f"{WELL_KNOWN_PATH}/p/{name}": endpoint for name, endpoint in profiles.items()}
        exact |= {path.removesuffix("/"): endpoint for path, endpoint in routes.items()}
        labelled = {
            f"{path}/{operation}": endpoint
            for path, endpoint in exact.items()
            if _takes_labels(path)
            for operation in OPERATIONS
        }
        self._table: dict[str, Route] = {}
        for path, endpoint in (labelled | exact).items():
            self._table[path] = self._table[f"{path}/"] = Route(endpoint, *_labels(path))

    def resolve(self, path: str) -> Route | None:
        """Return the route of a request target, as it stands in the request line, or None."""
        return self._table.get(path) or self._table.get(_normalised(path))


def _segments(path: str) -> tuple[str, list[str]] | None:
    """Split a well-known path into its profile and what follows; None for another path."""
    if path != WELL_KNOWN_PATH and not path.startswith(f"{WELL_KNOWN_PATH}/"):
        return None
    segments = path.removeprefix(WELL_KNOWN_PATH).split("/")[1:]
    if segments[:1] == ["p"] and len(segments) > 1:
        return segments[1], segments[2:]
    return "", segments


def _takes_labels(path: str) -> bool:
    found = _segments(path)
    return found is not None and not found[1]


def _labels(path: str) -> tuple[str, str]:
    profile, rest = _segments(path) or ("", [])
    return profile, rest[0] if len(rest) == 1 and rest[0] in OPERATIONS else ""


_ABSOLUTE: Final = re.compile(r"https?://[^/?#]+(/.*)", re.IGNORECASE)
_UNRESERVED: Final = re.compile(
    r"%(?:2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])", re.IGNORECASE
)
"""Letters, digits and "-._~": they mean the same spelled by their number (RFC 3986 6.2.2.2), and no others do."""


def _normalised(target: str) -> str:
    """Return the path of a request target; what has a meaning of its own, a slash above all, stays as it is spelled."""
    absolute = _ABSOLUTE.fullmatch(target)
    path = (target if absolute is None else absolute[1]).partition("?")[0]
    return _UNRESERVED.sub(lambda found: chr(int(found[0][1:], 16)), path)


class _Answer(web.Response):
    """An answer with a CMP message: it leaves in one piece, with a head of which only length and date change.

    All answers with headers of their own are aiohttp's.
    """

    def __init__(self, reply: Reply) -> None:
        # Nothing of aiohttp's, which keeps headers in a dictionary; whether to close is in the class.
        self._reply = reply

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write it all."""
        if self._eof_sent:
            return
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._eof_sent = True
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        der = self._reply.der
        head = _head(request.version.minor, self._reply.understood, self._keep_alive)
        date = _date(int(time.time()))
        transport.write(b"%b%d\r\nDate: %b\r\n\r\n%b" % (head, len(der), date, der))

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is written."""


@cache
def _head(minor: int, understood: bool, keep: bool) -> bytes:
    """Return the head of an answer, up to its length."""
    status = HTTPStatus.OK if understood else HTTPStatus.BAD_REQUEST
    headers = {"Content-Type": MEDIA_TYPE, **NOT_STORED}
    if keep is (minor == 0):  # RFC 9112 9.3: the other one goes without saying
        headers["Connection"] = "keep-alive" if keep else "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.{minor} {status} {status.phrase}\r\n{lines}Content-Length: ".encode()


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


class CMPListener(Listener):
    """Listens for CMP.

    Args:
        handler: Gets every message posted to a known path.
        routes: Exact path to endpoint name.
        profiles: Profile name to endpoint name.
        settings: Arguments of `Listener`.
    """

    name: ClassVar[str] = "cmp"
    serves: ClassVar[str] = "CMP messages"
    most_of_limit: ClassVar[float] = _WITH_BEGUN
    refusals: ClassVar[Mapping[HTTPStatus, str]] = {
        HTTPStatus.BAD_REQUEST: "This is not an HTTP request with a CMP message.\n",
        HTTPStatus.NOT_FOUND: "No CMP endpoint has this path.\n",
        HTTPStatus.METHOD_NOT_ALLOWED: "CMP messages are sent with POST.\n",
        HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.\n",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large for a CMP message.\n",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: (
            "The body must be application/pkixcmp, without Content-Encoding.\n"
        ),
        HTTPStatus.INTERNAL_SERVER_ERROR: "The request could not be processed.\n",
        HTTPStatus.SERVICE_UNAVAILABLE: "Too many requests at the moment.\n",
    }

    def __init__(
        self,
        handler: CMPHandler,
        *,
        routes: Mapping[str, str],
        profiles: Mapping[str, str],
        **settings: Unpack[ListenerSettings],
    ) -> None:
        super().__init__(**settings)
        self.serve(handler, routes, profiles)

    def serve(
        self, handler: CMPHandler, routes: Mapping[str, str], profiles: Mapping[str, str]
    ) -> None:
        """Have what comes from now on answered by another handler, under other paths."""
        self._served = handler, Routes(routes, profiles)

    async def respond(self, request: web.BaseRequest, peer: str) -> web.Response:
        route = self._served[1].resolve(request.raw_path)
        if route is None:
            raise Refusal(HTTPStatus.NOT_FOUND)
        if request.method != "POST":
            refusal = Refusal(HTTPStatus.METHOD_NOT_ALLOWED, Allow="POST")
            if request.method == "HEAD":
                # Whether it is there, as gateways ask a CA every few seconds: nobody is refused anything.
                return self.refused(refusal)
            raise refusal
        headers = request.headers
        if not _is_cmp(headers.get("Content-Type", "")) or is_encoded(headers):
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        der = await self.body(request)
        if not der:
            raise Refusal(HTTPStatus.BAD_REQUEST)
        handler, routes = self._served  # others, maybe, than when the head came
        if (route := routes.resolve(request.raw_path)) is None:
            raise Refusal(HTTPStatus.NOT_FOUND)
        if self.is_above(1):
            self._require_room(handler, der)
        reply = await self.handled(
            handler.handle,
            der,
            endpoint=route.endpoint,
            profile=route.profile,
            operation=route.operation,
            peer=peer,
        )
        return _Answer(reply)

    def _require_room(self, handler: CMPHandler, der: bytes) -> None:
        """Let through, of what comes when all of the room is taken, what belongs to something that was begun.

        Raises:
            Refusal: It is not of that kind, or there are too many of its kind.
        """
        said = envelope_of(der)
        if isinstance(handler, KnowsBegun) and handler.has_begun(said.transaction_id):
            return
        if not said.follows or self.is_above(_WITH_FOLLOWERS):
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **RETRY)


def _is_cmp(content_type: str) -> bool:
    return content_type == MEDIA_TYPE or (
        content_type.partition(";")[0].strip().lower() in _MEDIA_TYPES
    )
