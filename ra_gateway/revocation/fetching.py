"""Where CRLs and OCSP answers come from: files, and HTTP and LDAP servers that are not trusted with anything.

An endless or dripping answer ends at the size limit or the timeout, redirects and compressed answers are refused
(they could lead anywhere and unpack to any size), and neither cookies nor the proxy settings of the environment
have any effect. Who may name a URL is the caller's business.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from ra_gateway import ldap
from ra_gateway.connector import bounded_connector, in_words
from ra_gateway.errors import StatusRefused, printable
from ra_gateway.files import make_directory, open_new, status_of

FileState = tuple[int, int, int, int]
"""Device, inode, size and modification time in nanoseconds: another file, or other content, has another one."""


def file_state(path: Path) -> FileState:
    """Return what tells whether a file was replaced or written to.

    Raises:
        StatusRefused: It cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise StatusRefused(f"cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file; waits for the disk.

    Raises:
        StatusRefused: It cannot be read, or is larger.
    """
    try:
        # Not blocking, so that a FIFO in its place does not hold the thread for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise StatusRefused("is not a file")
            octets = file.read(max_bytes + 1)
    except OSError as error:
        raise StatusRefused(f"cannot be read: {error.strerror}") from error
    if len(octets) > max_bytes:
        raise StatusRefused(f"has more than {max_bytes} bytes (max_crl_bytes)")
    return octets


def saved_path(directory: Path, domain: str, url: str) -> Path:
    """Return the file in which a domain keeps across restarts what a URL held."""
    return directory / f"{hashlib.sha256(f'{domain} {url}'.encode()).hexdigest()}.crl"


def save_file(path: Path, octets: bytes) -> None:
    """Put a file in its place at once, its directory too if there is none; waits for the disk.

    Raises:
        StatusRefused: It cannot be written.
    """
    try:
        make_directory(path.parent)
        # Of a name of its own: the bundled CA in this process may keep the same URL's.
        new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
        try:
            with os.fdopen(open_new(new, like=status_of(path)), "wb") as file:
                file.write(octets)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StatusRefused(f"cannot be saved in {path.parent}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Limits:
    """What one download may cost.

    Args:
        max_bytes: A larger answer is given up.
        timeout_seconds: For all of it.
        setting: What the first is called in the configuration, for the error; "" if nowhere.
    """

    max_bytes: int
    timeout_seconds: float
    setting: str = ""


class Downloader:
    """Talks HTTP and HTTPS; connections are not kept, since minutes or hours lie between two of them."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, limits: Limits) -> bytes:
        """Return what a URL holds; of an LDAP URL, the CRLs one after the other.

        Raises:
            StatusRefused: It was not to be had.
        """
        if url.lower().startswith(("ldap:", "ldaps:")):
            return await _from_directory(url, limits)
        return await self._fetch("GET", url, limits)

    async def post(self, url: str, octets: bytes, content_type: str, limits: Limits) -> bytes:
        """Return what a URL answers to octets.

        Raises:
            StatusRefused: There was no answer.
        """
        headers = {"Content-Type": content_type}
        return await self._fetch("POST", url, limits, data=octets, headers=headers)

    async def close(self) -> None:
        """Close connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _fetch(self, method: str, url: str, limits: Limits, **options: Any) -> bytes:
        try:
            async with asyncio.timeout(limits.timeout_seconds):
                return await self._request(method, URL(url), limits, options)
        except TimeoutError as error:
            raise StatusRefused(f"not received within {limits.timeout_seconds:g} s") from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            raise StatusRefused(in_words(error)) from error

    async def _request(
        self, method: str, url: URL, limits: Limits, options: dict[str, Any]
    ) -> bytes:
        session = self._session = self._session or _session()
        async with session.request(method, url, allow_redirects=False, **options) as response:
            if response.status != 200:
                kind = " (redirects are not followed)" if 300 <= response.status < 400 else ""
                raise StatusRefused(f"HTTP {response.status}{kind}")
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding != "identity":
                raise StatusRefused(f"Content-Encoding {encoding[:20]!r}")
            octets = bytearray()
            while part := await response.content.readany():
                octets += part
                if len(octets) > limits.max_bytes:
                    setting = f" ({limits.setting})" if limits.setting else ""
                    raise StatusRefused(f"more than {limits.max_bytes} bytes{setting}")
            return bytes(octets)


async def _from_directory(url: str, limits: Limits) -> bytes:
    fetch = partial(
        ldap.fetch, url, max_octets=limits.max_bytes, timeout_seconds=limits.timeout_seconds
    )
    try:
        return await asyncio.to_thread(fetch)
    except ldap.LDAPFailure as error:
        raise StatusRefused(printable(str(error), 200)) from error


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=bounded_connector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        skip_auto_headers=("User-Agent",),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        trust_env=False,
    )


@dataclass(frozen=True, slots=True)
class Environment:
    """What sources are asked with.

    Args:
        clock: Aware UTC.
        monotonic: Seconds, for when to ask.
        random_octets: Draws as many random octets as it is asked for.
        early_share: Of each wait, by which what is at a URL is asked for before it is due.
    """

    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    random_octets: Callable[[int], bytes]
    downloader: Downloader
    early_share: float = 0.0
