"""Whether a CA can be reached, step by step: name, connection, TLS, HTTP. Nothing of it is a CMP message."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from yarl import URL

from ra_gateway.app.doctor.results import Check, Result, Verdict
from ra_gateway.connector import bounded_connector
from ra_gateway.errors import ConfigError
from ra_gateway.upstream.tables import OverHTTP

_HEAD_SECONDS: Final = 5.0
_ADDRESSES_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Target:
    """How a URL is reached.

    Args:
        name: Of the upstream.
        url: May have a login, which is not shown.
        seconds: For each step.
        proxy: URL of an HTTP proxy on the way.
        tls: For https.
    """

    name: str
    url: URL
    seconds: float
    proxy: URL | None = None
    tls: ssl.SSLContext | None = None

    @property
    def subject(self) -> str:
        """How results call it."""
        return f"upstream {self.name}"

    @property
    def shown(self) -> str:
        """The URL without a login."""
        return str(self.url.with_user(None))

    @property
    def next_hop(self) -> tuple[str, int]:
        """Host and port that is connected to."""
        hop = self.proxy or self.url
        return hop.host or "", hop.port or 80

    @property
    def setting(self) -> str:
        """The setting that names the next hop."""
        return (
            f"upstreams.{self.name}.url (or urls)"
            if self.proxy is None
            else f"upstreams.{self.name}.proxy"
        )


@dataclass(frozen=True, slots=True)
class Connectivity:
    """How far the steps led.

    Args:
        reachable: Whether messages may be sent.
        skew_seconds: By the Date header; positive if the other clock is ahead. None if it is not known.
    """

    results: list[Result]
    reachable: bool
    skew_seconds: float | None = None


def _target(name: str, url: str, config: OverHTTP) -> Target:
    """Return how to reach a URL of an upstream.

    Raises:
        ConfigError: Files of TLS cannot be used.
    """
    return Target(
        name,
        URL(url),
        config.connect_timeout_seconds,
        None if config.proxy is None else URL(config.proxy),
        config.tls(f"upstreams.{name}", url),
    )


async def examine_connectivity(name: str, url: str, config: OverHTTP) -> Connectivity:
    """Try each step to a URL until one fails."""
    try:
        target = _target(name, url, config)
    except ConfigError as error:
        return Connectivity(
            Check(f"upstream {name}", "read the files of TLS").problems(error), False
        )
    results: list[Result] = []
    for step in (_resolve, _connect, _handshake):
        result = await step(target)
        if result is not None:
            results.append(result)
            if result.verdict is Verdict.fault:
                return Connectivity(results, False)
    result, skew_seconds = await _head(target)
    return Connectivity([*results, result], True, skew_seconds)


async def _resolve(target: Target) -> Result | None:
    host, port = target.next_hop
    check = Check(target.subject, f"DNS: {host}")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(target.seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        return check.fault(
            _reason(error),
            "the name is wrong, or this machine's DNS does not know it",
            f"{target.setting}; the DNS of this machine",
        )
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    return check.ok(", ".join(addresses[:_ADDRESSES_SHOWN]))


async def _connect(target: Target) -> Result | None:
    host, port = target.next_hop
    check = Check(target.subject, f"TCP: {host}:{port}")
    try:
        await _open_and_close(target, host, port, None)
    except (OSError, TimeoutError) as error:
        refused = isinstance(error, ConnectionRefusedError)
        return check.fault(
            _reason(error),
            "nobody listens there: the CA is down, or the port is another one"
            if refused
            else "no way leads there: a firewall, a route, or the machine is down",
            f"{target.setting}; the CA's service and the firewalls on the way",
        )
    return check.ok("connected")


async def _handshake(target: Target) -> Result | None:
    if target.tls is None or target.proxy is not None:
        return None  # through a proxy the next step does it
    host, port = target.next_hop
    tried = f"TLS: {host}:{port}"
    try:
        await _open_and_close(target, host, port, target.tls)
    except (OSError, TimeoutError) as error:
        return _of_tls(target, tried, error)
    return Result(target.subject, tried, "the server's certificate is trusted")


def _of_tls(target: Target, tried: str, error: Exception) -> Result:
    upstream = f"upstreams.{target.name}"
    cause = "the server does not speak TLS as the gateway does (1.2 or later)"
    setting = f"{upstream}.url (or urls): http instead of https; the server's TLS versions"
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = "the server's certificate comes from a root that is not trusted here"
        setting = f"{upstream}.tls_ca_path = PEM of the root of the server's certificate"
        if "mismatch" in str(error).lower() or "not valid for" in str(error).lower():
            cause = "the server's certificate is for another name"
            setting = f"{upstream}.url (or urls): a name that is in the server's certificate"
        elif "expired" in str(error).lower():
            cause = "the server's certificate, or one above it, has expired"
            setting = "the CA's web server: a new TLS certificate"
    elif "alert" in str(error).lower():
        cause = (
            "the server ended the connection over the gateway's TLS certificate, or for want of one"
        )
        setting = f"{upstream}.tls_certificate_path and tls_key_path"
    return Check(target.subject, tried).fault(_reason(error), cause, setting)


async def _open_and_close(target: Target, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Open a connection and close it again."""
    async with asyncio.timeout(target.seconds):
        _, writer = await asyncio.open_connection(host, port, ssl=tls)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _head(target: Target) -> tuple[Result, float | None]:
    """Ask for the URL's HEAD, which no CA takes for a message (RFC 9811 3.1); any status shows life."""
    check = Check(target.subject, f"HTTP: HEAD {target.shown}")
    timeout = aiohttp.ClientTimeout(total=_HEAD_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(
                connector=bounded_connector(),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                trust_env=False,
            ) as session,
            session.head(
                target.url, proxy=target.proxy, ssl=target.tls or True, allow_redirects=False
            ) as response,
        ):
            skew_seconds = _skew(response.headers.get("Date", ""))
            # 405 and 404 are usual, as this is nothing to get: what a POST gets is what counts.
            return check.ok(f"HTTP {response.status}"), skew_seconds
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return check.ok(f"no answer, as some CMP servers do ({_name(error)})"), None


def _skew(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    if isinstance(error, ssl.SSLError):
        return (getattr(error, "verify_message", "") or error.reason or str(error)).strip()
    return str(getattr(error, "strerror", None) or error)[:200]


def _name(error: BaseException) -> str:
    return type(error).__name__
