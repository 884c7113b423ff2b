"""A CA somewhere else, reached with CMP over HTTP (RFC 9811).

The client takes what comes from the CA's side with care: an endless or dripping answer ends at the
size limit or the deadline, compressed answers are refused (they could unpack to any size), and
neither redirects nor cookies nor the proxy settings of the environment have any effect.

Nothing is sent twice here. Whether a repeat is harmless depends on the CA, which the caller knows;
it is told by `UpstreamUnavailable.delivered` whether the CA may have seen the message.
"""

from __future__ import annotations

import asyncio
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from ra_gateway.errors import UpstreamBroken, UpstreamUnavailable

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
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
"""Said by what stands in front of a CA (proxies, rate limits), usually with an HTML page."""

_SEQUENCE: Final = b"\x30"


class _Body(aiohttp.BytesPayload):
    """A request body that knows whether any of it may have left this process.

    aiohttp writes it last: as long as it is not asked to, no CA can have seen a whole message.
    """

    started = False

    async def write(self, writer: AbstractStreamWriter) -> None:
        self.started = True
        await super().write(writer)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self.started = True
        await super().write_with_length(writer, content_length)


class HttpCA:
    """A `CACore` over HTTP or HTTPS, with connections that are kept and reused.

    Args:
        url: Where to post. `exchange` appends a non-empty path to it, as it is, after a slash.
        connect_timeout_seconds: For TCP and TLS, for each address of the host.
        max_response_bytes: Larger answers are refused, unread.
        max_connections: Further exchanges wait for one, within their deadline.
        ssl_context: How to speak TLS; by default with the system's trust store.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_timeout_seconds: float = 3.0,
        max_response_bytes: int = 262_144,
        max_connections: int = 64,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url
        self._urls: dict[str, URL] = {"": URL(url)}
        self._max_response_bytes = max_response_bytes
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        # The deadline is `exchange`'s, in one timer. aiohttp's `total` would be a second one.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_seconds)
        self._headers = CIMultiDict({"Content-Type": MEDIA_TYPE, "Accept-Encoding": "identity"})
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        """Post one PKIMessage and return the answer.

        Args:
            der: DER of one PKIMessage.
            path: Appended to the URL; "" for none.
            deadline_seconds: Total time allowed, with waiting for a connection.

        Raises:
            UpstreamUnavailable: No answer, or HTTP 502, 503 or 504.
            UpstreamBroken: An answer that is not CMP: status and beginning are in its detail.
        """
        if self._closed:
            raise UpstreamUnavailable("the connection to the CA was closed", delivered=False)
        body = _Body(der)
        try:
            async with asyncio.timeout(deadline_seconds):
                return await self._post(body, path)
        except TimeoutError as error:
            # aiohttp's own timeout, of connecting, is a TimeoutError too.
            what = "no connection" if isinstance(error, aiohttp.ClientError) else "no answer"
            raise UpstreamUnavailable(
                f"{what} in time from {self._url}", delivered=body.started
            ) from error
        except (aiohttp.ClientResponseError, HttpProcessingError) as error:
            raise UpstreamBroken(f"not HTTP: {error.message}"[:200], rule="R91") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailable(
                f"{type(error).__name__}: {error}"[:200], delivered=body.started
            ) from error

    async def close(self) -> None:
        """Close the connections; exchanges under way fail."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _post(self, body: _Body, path: str) -> bytes:
        session = self._session or self._open()
        async with session.post(
            self._target(path), data=body, headers=self._headers, allow_redirects=False
        ) as response:
            return await self._message(response)

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections,
                keepalive_timeout=_KEEPALIVE_SECONDS,
                ssl=self._ssl_context or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "User-Agent"),
            timeout=self._timeout,
            auto_decompress=False,
            trust_env=False,
        )
        return self._session

    def _target(self, path: str) -> URL:
        # Paths come from the configuration, so that there are few.
        target = self._urls.get(path)
        if target is None:
            target = self._urls[path] = URL(f"{self._url.removesuffix('/')}/{path}")
        return target

    async def _message(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the PKIMessage of a response, whatever its status (RFC 9811 3.3)."""
        status = response.status
        succeeded = 200 <= status < 300
        if not succeeded and (status < 400 or not _is_cmp(response)):
            raise _unusable(status, await _read(response.content, _EXCERPT_BYTES))
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise UpstreamBroken(f"HTTP {status} with Content-Encoding {encoding[:20]!r}")
        limit = self._max_response_bytes
        message = await _read(response.content, limit)
        if len(message) > limit:
            raise UpstreamBroken(f"HTTP {status} with more than {limit} bytes")
        if not message.startswith(_SEQUENCE):
            raise _unusable(status, message)
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


def _unusable(status: int, content: bytes) -> UpstreamUnavailable | UpstreamBroken:
    text = " ".join(content.decode("utf-8", "replace").split())
    excerpt = "".join(c for c in text if c.isprintable())[:_EXCERPT_CHARACTERS]
    detail = f"HTTP {status} without a CMP message: {excerpt!r}"
    if status in _BUSY:
        return UpstreamUnavailable(detail, delivered=True)
    return UpstreamBroken(detail, rule="R91")
