"""The simulated base station on the network: CMP over HTTP (RFC 9811, TS 33.310 9.6)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.http import HttpProcessingError

from ra_gateway.cmp.codes import CMP_CONTENT_TYPE
from ra_gateway.connector import bounded_connector, retry_after_seconds
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.errors import EnrollmentFailed
from ra_gateway.device.values import Done
from ra_gateway.errors import printable

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
DEFAULT_PATIENCE_SECONDS: Final = 600.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
"""An ip with an ML-DSA chain has some 40 kB; a megabyte is no answer to one request."""

_WHAT_A_STATUS_ASKS: Final = {
    404: "Check the path of the URL; the usual one is /.well-known/cmp",
    405: "Check the URL: that server takes no POST there",
    413: "The server takes no message of this size; send a shorter chain",
    415: "The server does not take application/pkixcmp there; check the URL",
    429: "Try again later",
    503: "Try again later",
}


class ServerUnreachable(EnrollmentFailed):
    """No answer came over HTTP."""


class NotCMP(EnrollmentFailed):
    """An answer came, but not a CMP message.

    Args:
        status: HTTP status code.
        retry_after_seconds: When to come again; None if it named no time.
    """

    def __init__(
        self, what: str, todo: str, status: int, retry_after_seconds: float | None = None
    ) -> None:
        self.status, self.retry_after_seconds = status, retry_after_seconds
        super().__init__(what, todo)


class StillWaiting(EnrollmentFailed):
    """The other side goes on telling the device to wait."""


def open_session(
    tls: ssl.SSLContext | None = None,
    *,
    connections: int = 100,
    resolver: AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    """Return a session for `run`: heads have an end, nothing is unpacked, no cookies, nothing of the environment.

    Args:
        tls: How to speak TLS with https URLs; None trusts the roots of the system.
        connections: At the same time, at most.
        resolver: Finds addresses; None asks the system.
    """
    verified = True if tls is None else tls
    return aiohttp.ClientSession(
        connector=bounded_connector(ssl=verified, limit=connections, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


async def run(
    enrollment: Enrollment,
    url: str,
    session: aiohttp.ClientSession,
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    patience_seconds: float = DEFAULT_PATIENCE_SECONDS,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Done:
    """Run an operation to its end over HTTP; polls when it is told to wait.

    Args:
        url: Where each message is posted.
        timeout_seconds: For each message, from connecting to the last octet of the answer.
        patience_seconds, sleep: As `converse`.

    Raises:
        ServerUnreachable, NotCMP: Of the transfer.
        StillWaiting, EnrollmentRefused, AnswerUntrusted, CertificateRejected: As `converse`.
    """
    return await converse(
        enrollment,
        lambda der: post(session, url, der, timeout_seconds=timeout_seconds),
        patience_seconds=patience_seconds,
        sleep=sleep,
    )


async def converse(
    enrollment: Enrollment,
    exchange: Callable[[bytes], Awaitable[bytes]],
    *,
    patience_seconds: float,
    sleep: Callable[[float], Awaitable[None]],
) -> Done:
    """Run an operation to its end, however messages travel; polls when it is told to wait.

    Args:
        exchange: Sends a message and returns its answer; what it raises ends the operation.
        patience_seconds: How long it may be told to wait between its messages, in all.
        sleep: Waits so many seconds.

    Raises:
        StillWaiting: Its answer is not there yet.
        EnrollmentRefused, AnswerUntrusted, CertificateRejected: As `Enrollment.receive`.
    """
    der = await enrollment.request()
    while True:
        answer = await exchange(der)
        step = await enrollment.receive(answer)
        if isinstance(step, Done):
            return step
        patience_seconds -= step.after_seconds
        if patience_seconds < 0:
            raise StillWaiting(
                "the answer is not there yet, and the device is told to wait longer than it may",
                "Find out what the request waits for (ra-gateway approvals list), and begin again",
            )
        if step.after_seconds:
            await sleep(step.after_seconds)
        der = step.der


async def post(
    session: aiohttp.ClientSession,
    url: str,
    der: bytes,
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
) -> bytes:
    """Post one message and return the answer's octets.

    Raises:
        ServerUnreachable: No connection, or no answer in time.
        NotCMP: Not a CMP message, whatever the HTTP status.
    """
    try:
        async with session.post(
            url,
            data=der,
            headers={"Content-Type": CMP_CONTENT_TYPE},
            # RFC 9811 3.5: redirects only deliberately.
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        ) as response:
            _require_cmp(response, url)
            return await _read(response)
    except TimeoutError as error:
        raise ServerUnreachable(
            f"no answer from {url} within {timeout_seconds:g} s",
            "Check that the gateway and its CA are up, or allow more time",
        ) from error
    except aiohttp.InvalidURL as error:
        raise ServerUnreachable(
            f"{url!r} is not a URL", "Give one such as http://127.0.0.1:8080/.well-known/cmp"
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
        raise ServerUnreachable(
            f"the TLS certificate at {url} is not believed: {printable(str(reason), 200)}",
            "Give the root of that certificate with --tls-ca, and the host as the certificate names it",
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise ServerUnreachable(
            f"no connection to {url}: {printable(error.strerror or str(error), 200)}",
            "Check host and port, and that the gateway is running",
        ) from error
    except (aiohttp.ClientError, HttpProcessingError, ValueError) as error:
        raise ServerUnreachable(
            f"the exchange with {url} broke off: {printable(str(error), 200) or type(error).__name__}",
            "Try again; if it stays so, see the log of the gateway"
            + (", which may want a certificate (--tls-cert)" if url.startswith("https:") else ""),
        ) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise NotCMP(
                f"the answer of {response.url} is longer than {MAX_ANSWER_BYTES} octets",
                "Check the URL",
                response.status,
            )
    return bytes(content)


def _require_cmp(response: aiohttp.ClientResponse, url: str) -> None:
    # RFC 9811 3.4: a PKIMessage may come with 4xx and 5xx, too, and is then to be read.
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if content_type.lower() == CMP_CONTENT_TYPE and encoding == "identity":
        return
    todo = _WHAT_A_STATUS_ASKS.get(response.status, "Check that the URL is that of a CMP server")
    raise NotCMP(
        f"HTTP {response.status} {printable(response.reason or '', 80)} with "
        f"{printable(content_type or 'no Content-Type', 80)}{_packed(encoding)} from {url}",
        todo,
        response.status,
        retry_after_seconds(
            response.headers.get("Retry-After", "").strip(), response.headers.get("Date", "")
        ),
    )


def _packed(encoding: str) -> str:
    return "" if encoding == "identity" else f" and Content-Encoding {printable(encoding, 20)}"
