"""Where CRLs come from: files, and HTTP servers that are not trusted with anything.

An endless or dripping answer ends at the size limit or the timeout, redirects and compressed answers are refused
(they could lead anywhere and unpack to any size), and neither cookies nor the proxy settings of the environment
have any effect. Who may name a URL is the caller's business.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from ra_gateway.errors import CRLRefused

FileState = tuple[int, int, int, int]
"""Device, inode, size and modification time in nanoseconds: another file, or other content, has another one."""


def file_state(path: Path) -> FileState:
    """Return what tells whether a file was replaced or written to.

    Raises:
        CRLRefused: It cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CRLRefused(f"cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file; waits for the disk.

    Raises:
        CRLRefused: It cannot be read, or is larger.
    """
    try:
        # Not blocking, so that a FIFO in its place does not hold the thread for ever.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CRLRefused("is not a file")
            octets = file.read(max_bytes + 1)
    except OSError as error:
        raise CRLRefused(f"cannot be read: {error.strerror}") from error
    if len(octets) > max_bytes:
        raise CRLRefused(f"has more than {max_bytes} bytes (max_crl_bytes)")
    return octets


class Downloader:
    """Gets CRLs over HTTP and HTTPS; connections are not kept, since hours lie between two of them."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, *, max_bytes: int, timeout_seconds: float) -> bytes:
        """Return what a URL holds.

        Args:
            max_bytes: A larger answer is given up.
            timeout_seconds: For all of it.

        Raises:
            CRLRefused: It was not to be had.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._get(URL(url), max_bytes)
        except TimeoutError as error:
            raise CRLRefused(f"not received within {timeout_seconds:g} s") from error
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            raise CRLRefused(f"{type(error).__name__}: {error}"[:200]) from error

    async def close(self) -> None:
        """Close connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _get(self, url: URL, max_bytes: int) -> bytes:
        session = self._session = self._session or _session()
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                kind = " (redirects are not followed)" if 300 <= response.status < 400 else ""
                raise CRLRefused(f"HTTP {response.status}{kind}")
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding != "identity":
                raise CRLRefused(f"Content-Encoding {encoding[:20]!r}")
            octets = bytearray()
            while part := await response.content.readany():
                octets += part
                if len(octets) > max_bytes:
                    raise CRLRefused(f"more than {max_bytes} bytes (max_crl_bytes)")
            return bytes(octets)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        skip_auto_headers=("User-Agent",),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        trust_env=False,
    )
