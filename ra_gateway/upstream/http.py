"""A CA somewhere else, reached with CMP over HTTP (RFC 9811).

The client takes what comes from the CA's side with care: an endless or dripping answer ends at the
size limit or the deadline, compressed answers are refused (they could unpack to any size), and
neither redirects nor cookies nor the proxy settings of the environment have any effect.

Nothing is sent twice here. Whether a repeat is harmless depends on the CA, which the caller knows;
it is told by `UpstreamUnavailable.delivered` whether the CA may have seen the message
(`ra_gateway.upstream.pool` goes by it).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from ra_gateway.connector import bounded_connector, in_words, retry_after_seconds
from ra_gateway.errors import ServiceFailure, UpstreamBroken, UpstreamUnavailable, printable

T = TypeVar("T")

MEDIA_TYPE: Final = "application/pkixcmp"
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/pkixcmp-poll")

_KEEPALIVE_SECONDS: Final = 15.0
"""How long an unused connection is kept.

Well below what servers use (nginx 75 s, WildFly 60 s, Tomcat 20 s): when the server closes first, a
request may be on its way already, and nobody can tell whether the CA has seen it.
"""

_EXCERPT_BYTES: Final = 1024
"""How much of an error page is read; more than the 80 characters wanted, as they may follow CSS."""

_EXCERPT_CHARACTERS: Final = 80

_BUSY: Final = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""Said by what stands in front of a CA (proxies, rate limits), usually with an HTML page."""

_REFUSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Ask for a pause (RFC 9110 15.6.4, RFC 6585 4); the other two only say that something is broken."""

_CERTIFICATE_ALERTS: Final = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
)
"""A TLS 1.3 server refuses the client's certificate when the client has begun to send (RFC 8446 4.4.2.4).

It ends the connection before it hands anything to whom it serves.
"""

_SEQUENCE: Final = b"\x30"


class UpstreamBusy(UpstreamUnavailable):
    """HTTP 429 or 503 without a CMP message: a rate limit, or a CA that is starting or stopping.

    Args:
        retry_after_seconds: What the CA's side asked for; None if it named no time.
    """

    def __init__(self, detail: str, *, retry_after_seconds: float | None) -> None:
        self.retry_after_seconds = retry_after_seconds
        # Perhaps the CA itself said it, in the midst of its work.
        super().__init__(detail, delivered=True)


class _Body(aiohttp.BytesPayload):
    """A request body that knows whether any of it may have left this process.

    aiohttp writes it last: as long as it is not asked to, no CA can have seen a whole message.

    Args:
        begin: Called when it is about to leave.
    """

    def __init__(self, octets: bytes) -> None:
        super().__init__(octets)
        self.started = False
        self.begin: Callable[[], None] = lambda: None

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._start()
        await super().write(writer)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self._start()
        await super().write_with_length(writer, content_length)

    def _start(self) -> None:
        self.started = True
        self.begin()


def had_connection(failure: ServiceFailure) -> bool:
    """Tell whether a request that failed found somebody at its URL: a proxy or a front door, if not the CA."""
    if isinstance(failure, UpstreamBusy):
        return False  # a front door with nobody behind it says so by that
    return isinstance(failure, UpstreamBroken) or isinstance(
        failure.__cause__, aiohttp.ServerDisconnectedError
    )


class Connections:
    """Connections to one CA, kept and reused, whichever of its URLs they lead to.

    Args:
        connect_timeout_seconds: For TCP and TLS, for each address of the host.
        max_response_bytes: Larger answers are refused, unread.
        max_connections: To each host; further exchanges wait for one, within their deadline.
        ssl_context: How to speak TLS; by default with the system's trust store.
        proxy: URL of an HTTP proxy; by default none, whatever the environment says.
    """

    def __init__(
        self,
        *,
        connect_timeout_seconds: float = 3.0,
        max_response_bytes: int = 262_144,
        max_connections: int = 64,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
    ) -> None:
        self.max_response_bytes = max_response_bytes
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._proxy = proxy
        # The deadline is `exchange`'s, in one timer. aiohttp's `total` would be a second one.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def session(self) -> aiohttp.ClientSession:
        """Return the session, opened by the first who asks.

        Raises:
            UpstreamUnavailable: They were closed.
        """
        if self._closed:
            raise UpstreamUnavailable("the connection to the CA was closed", delivered=False)
        if self._session is None:
            self._session = self._open()
        return self._session

    async def close(self) -> None:
        """Close the connections; exchanges under way fail."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=bounded_connector(
                # No limit for all hosts together: one that hangs would use it up for the others.
                limit=0,
                limit_per_host=self._max_connections,
                keepalive_timeout=_KEEPALIVE_SECONDS,
                ssl=self._ssl_context or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers=("Accept", "User-Agent"),
            timeout=self._timeout,
            auto_decompress=False,
            trust_env=False,
            proxy=self._proxy,
        )


class HttpClient:
    """One URL, over HTTP or HTTPS; what is sent there is the business of the classes below.

    Args:
        url: A non-empty path is appended to it, as it is, after a slash.
        connections: May be shared with other URLs of the same CA; by default its own.
    """

    def __init__(self, url: str, connections: Connections | None = None) -> None:
        self._url = url
        self._urls: dict[str, URL] = {"": URL(url)}
        self.shown_url = str(self._urls[""].with_user(None))
        self._connections = connections or Connections()

    async def close(self) -> None:
        """Close the connections; exchanges under way fail."""
        await self._connections.close()

    async def probe(self, *, deadline_seconds: float) -> None:
        """Ask for the URL's HEAD, with which no CA issues anything: messages are in POST only (RFC 9811 3.1).

        It takes the way of the messages, through proxy and TLS, and meets what stands in front of the CA. Any
        answer but 429, 502, 503 and 504 shows life: 405 and 404 are usual, since this is nothing to get.

        Raises:
            ServiceFailure: No answer, one of these, or one that is not HTTP.
        """
        await self._within(self._head(), _Body(b""), deadline_seconds)

    async def _head(self) -> None:
        async with self._connections.session().head(
            self._target(""), allow_redirects=False
        ) as response:
            if response.status in _BUSY:
                raise _unusable(response, b"")

    async def _within(
        self,
        answer: Awaitable[T],
        body: _Body,
        deadline_seconds: float,
        unsent_seconds: float | None = None,
    ) -> T:
        """Await an answer until the deadline, and translate what aiohttp raises."""
        began = asyncio.get_running_loop().time()
        end = began + deadline_seconds
        first = end if unsent_seconds is None else min(end, began + unsent_seconds)
        try:
            async with asyncio.timeout_at(first) as timer:
                body.begin = lambda: None if timer.expired() else timer.reschedule(end)
                return await answer
        except TimeoutError as error:
            # aiohttp's own timeout, of connecting, is a TimeoutError too.
            what = "no connection" if isinstance(error, aiohttp.ClientError) else "no answer"
            raise UpstreamUnavailable(
                f"{what} in time from {self.shown_url}", delivered=body.started
            ) from error
        except aiohttp.ClientHttpProxyError as error:
            raise UpstreamUnavailable(
                f"the proxy does not connect: HTTP {error.status} {printable(error.message, 200)}",
                delivered=False,
            ) from error
        except (aiohttp.ClientResponseError, HttpProcessingError) as error:
            raise UpstreamBroken(
                f"not HTTP: {printable(error.message, 200)}", rule="R91"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailable(
                in_words(error),
                delivered=body.started and not _refuses_certificate(error),
            ) from error

    def _target(self, path: str) -> URL:
        # Paths come from the configuration, so that there are few.
        target = self._urls.get(path)
        if target is None:
            target = self._urls[path] = URL(f"{self._url.removesuffix('/')}/{path}")
        return target


class HttpCA(HttpClient):
    """A `CACore` at one URL, over HTTP or HTTPS.

    Args:
        url: Where to post. `exchange` appends a non-empty path to it, as it is, after a slash.
        connections: May be shared with other URLs of the same CA; by default its own.
    """

    def __init__(self, url: str, connections: Connections | None = None) -> None:
        super().__init__(url, connections)
        self._headers = CIMultiDict({"Content-Type": MEDIA_TYPE})

    async def exchange(
        self,
        der: bytes,
        *,
        path: str,
        deadline_seconds: float,
        unsent_seconds: float | None = None,
    ) -> bytes:
        """Post one PKIMessage and return the answer.

        Args:
            der: DER of one PKIMessage.
            path: Appended to the URL; "" for none.
            deadline_seconds: Total time allowed, with waiting for a connection.
            unsent_seconds: Time after which it is given up if none of it was sent; None for no such limit.

        Raises:
            UpstreamUnavailable: No answer, or HTTP 429, 502, 503 or 504.
            UpstreamBroken: An answer that is not CMP: status and beginning are in its detail.
        """
        body = _Body(der)
        return await self._within(self._post(body, path), body, deadline_seconds, unsent_seconds)

    async def _post(self, body: _Body, path: str) -> bytes:
        async with self._connections.session().post(
            self._target(path), data=body, headers=self._headers, allow_redirects=False
        ) as response:
            return await self._message(response)

    async def _message(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the PKIMessage of a response, whatever its status (RFC 9811 3.3)."""
        status = response.status
        succeeded = 200 <= status < 300
        if not succeeded and (status < 400 or not _is_cmp(response)):
            raise _unusable(response, await _read(response.content, _EXCERPT_BYTES))
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise UpstreamBroken(f"HTTP {status} with Content-Encoding {encoding[:20]!r}")
        limit = self._connections.max_response_bytes
        message = await _read(response.content, limit)
        if len(message) > limit:
            raise UpstreamBroken(f"HTTP {status} with more than {limit} bytes")
        if not message.startswith(_SEQUENCE):
            raise _unusable(response, message)
        return message


async def _read(content: aiohttp.StreamReader, limit: int) -> bytes:
    """Return the content, or its beginning as soon as that is longer than the limit."""
    message = await content.readany()
    if content.at_eof():
        return message
    parts = bytearray(message)
    while len(parts) <= limit and (part := await content.readany()):
        parts += part
    return bytes(parts)


def _is_cmp(response: aiohttp.ClientResponse) -> bool:
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    return media_type.strip().lower() in _MEDIA_TYPES


def _unusable(
    response: aiohttp.ClientResponse, content: bytes
) -> UpstreamUnavailable | UpstreamBroken:
    text = " ".join(content.decode("utf-8", "replace").split())
    excerpt = "".join(c for c in text if c.isprintable())[:_EXCERPT_CHARACTERS]
    detail = f"HTTP {response.status} without a CMP message: {excerpt!r}"
    if response.status in _REFUSING:
        return UpstreamBusy(detail, retry_after_seconds=retry_after_seconds(response))
    if response.status in _BUSY:
        return UpstreamUnavailable(detail, delivered=True)
    return UpstreamBroken(detail, rule="R91")


def _refuses_certificate(error: BaseException | None) -> bool:
    """Tell whether the server's TLS ended the connection for want of a certificate it likes."""
    while error is not None:
        # aiohttp passes on the texts of ssl.SSLError, whether or not the class.
        if isinstance(error, OSError) and str(error.strerror).startswith("[SSL: "):
            return any(f"_ALERT_{alert}]" in str(error.strerror) for alert in _CERTIFICATE_ALERTS)
        error = error.__cause__
    return False
