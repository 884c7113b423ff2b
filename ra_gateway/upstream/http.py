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
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from yarl import URL

from ra_gateway.connector import retry_after_seconds
from ra_gateway.errors import ServiceFailure, UpstreamBroken, UpstreamUnavailable, printable
from ra_gateway.upstream.connections import (
    Connections,
    ConnectTimeout,
    NotHTTP,
    Response,
    ServerDisconnectedError,
    authorization,
    head_of,
    in_words,
)

MEDIA_TYPE: Final = "application/pkixcmp"
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/pkixcmp-poll")

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

It ends the connection before it hands anything to whom it serves, and before it has said anything.
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


Overdue = Callable[[], float]
"""Called at the deadline of a request that was sent; returns for how many seconds its answer is awaited on."""


def had_connection(failure: ServiceFailure) -> bool:
    """Tell whether a request that failed found somebody at its URL: a proxy or a front door, if not the CA."""
    if isinstance(failure, UpstreamBusy):
        return False  # a front door with nobody behind it says so by that
    return isinstance(failure, UpstreamBroken) or isinstance(
        failure.__cause__, ServerDisconnectedError
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
        self._host = self._connections.host(self._urls[""])

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
        head = self._head("HEAD", "", {}) + b"\r\n"
        response = await self._ask(head, Response(lambda _: 0, bodyless=True), deadline_seconds)
        if response.status in _BUSY:
            raise _unusable(response, b"")

    def _head(self, method: str, path: str, headers: Mapping[str, str]) -> bytes:
        """Return a request's head, but for its last, empty line; errors as of `head_of`."""
        url, proxy = self._target(path), self._connections.proxy
        target = url.raw_path_qs
        own = {"Host": url.host_port_subcomponent or ""} | authorization("Authorization", url)
        if proxy is not None and url.scheme == "http":
            target = f"{url.origin()}{target}"
            own |= authorization("Proxy-Authorization", proxy)
        own |= {"Accept-Encoding": "identity", **headers}
        return head_of(f"{method} {target} HTTP/1.1", own)

    async def _ask(
        self,
        octets: bytes,
        response: Response,
        deadline_seconds: float,
        unsent_seconds: float | None = None,
        overdue: Overdue | None = None,
    ) -> Response:
        """Send a request and return its answer; what goes wrong leaves as an error of ours."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        end = began + deadline_seconds
        sent = heard = False
        try:
            connection = self._host.take()
            if connection is None:
                first = end if unsent_seconds is None else min(end, began + unsent_seconds)
                async with asyncio.timeout_at(first):
                    connection = await self._host.wait()
            timers = [loop.call_at(end, connection.end, TimeoutError())]
            if overdue is not None:

                def wait_on() -> None:
                    ends = loop.time() + overdue()
                    timers.append(loop.call_at(ends, ended, TimeoutError()))

                ended = connection.end
                timers.pop().cancel()
                timers.append(loop.call_at(end, wait_on))
            try:
                if not connection.usable:
                    raise connection.failure or ServerDisconnectedError
                sent = True
                return await connection.ask(octets, response)
            finally:
                for timer in timers:
                    timer.cancel()
                heard = connection.heard
                self._host.release(connection)
        except TimeoutError as error:
            what = "no connection" if isinstance(error, ConnectTimeout) else "no answer"
            raise UpstreamUnavailable(
                f"{what} in time from {self.shown_url}", delivered=sent
            ) from error
        except NotHTTP as error:
            what = f"not HTTP: {printable(str(error), 200)}"
            if not sent:
                raise UpstreamUnavailable(what, delivered=False) from error
            raise UpstreamBroken(what, rule="R91") from error
        except OSError as error:
            raise UpstreamUnavailable(
                in_words(error),
                delivered=sent and (heard or not _refuses_certificate(error)),
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
        self._heads: dict[str, bytes] = {}

    async def exchange(
        self,
        der: bytes,
        *,
        path: str,
        deadline_seconds: float,
        unsent_seconds: float | None = None,
        overdue: Overdue | None = None,
    ) -> bytes:
        """Post one PKIMessage and return the answer.

        Args:
            der: DER of one PKIMessage.
            path: Appended to the URL; "" for none.
            deadline_seconds: Total time allowed, with waiting for a connection.
            unsent_seconds: Time after which it is given up if none of it was sent; None for no such limit.
            overdue: Says how long the answer is awaited beyond the deadline; None for not at all.

        Raises:
            UpstreamUnavailable: No answer, or HTTP 429, 502, 503 or 504.
            UpstreamBroken: An answer that is not CMP: status and beginning are in its detail.
        """
        head = self._heads.get(path)
        if head is None:
            head = self._head("POST", path, {"Content-Type": MEDIA_TYPE}) + b"Content-Length: "
            self._heads[path] = head
        octets = b"%b%d\r\n\r\n%b" % (head, len(der), der)
        response = Response(self._limit)
        return self._message(
            await self._ask(octets, response, deadline_seconds, unsent_seconds, overdue)
        )

    def _limit(self, response: Response) -> int:
        if _may_hold_cmp(response):
            return self._connections.max_response_bytes
        return _EXCERPT_BYTES

    def _message(self, response: Response) -> bytes:
        """Return the PKIMessage of a response, whatever its status (RFC 9811 3.3)."""
        status, message = response.status, bytes(response.content)
        if not _may_hold_cmp(response):
            raise _unusable(response, message)
        encoding = response.header(b"content-encoding", "identity")
        if encoding.lower() != "identity":
            raise UpstreamBroken(f"HTTP {status} with Content-Encoding {encoding[:20]!r}")
        limit = self._connections.max_response_bytes
        if len(message) > limit:
            raise UpstreamBroken(f"HTTP {status} with more than {limit} bytes")
        if not message.startswith(_SEQUENCE):
            raise _unusable(response, message)
        return message


def _may_hold_cmp(response: Response) -> bool:
    """Tell whether an answer's body counts: after success, whatever its media type says."""
    status = response.status
    return 200 <= status < 300 or (
        status >= 400
        and response.header(b"content-type").partition(";")[0].strip().lower() in _MEDIA_TYPES
    )


def _unusable(response: Response, content: bytes) -> UpstreamUnavailable | UpstreamBroken:
    text = " ".join(content.decode("utf-8", "replace").split())
    excerpt = "".join(c for c in text if c.isprintable())[:_EXCERPT_CHARACTERS]
    detail = f"HTTP {response.status} without a CMP message: {excerpt!r}"
    if response.status in _REFUSING:
        asked = response.header(b"retry-after"), response.header(b"date")
        return UpstreamBusy(detail, retry_after_seconds=retry_after_seconds(*asked))
    if response.status in _BUSY:
        return UpstreamUnavailable(detail, delivered=True)
    return UpstreamBroken(detail, rule="R91")


def _refuses_certificate(error: OSError) -> bool:
    """Tell whether the server's TLS ended the connection for want of a certificate it likes."""
    alerts = tuple(f"_ALERT_{alert}" for alert in _CERTIFICATE_ALERTS)
    return isinstance(error, ssl.SSLError) and (error.reason or "").endswith(alerts)
