"""Connections for clients of HTTP servers that are not trusted: the head of an answer has an end.

aiohttp bounds one head's lines and headers, and passes over any number of interim answers (1xx), each of which it
keeps until the request is done. What it reads of a body is bounded by whoever reads it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

from ra_gateway.errors import printable

MAX_HEAD_OCTETS: Final = 65_536
"""Of an answer's head, with all interim answers before it; servers send some 500."""

_PIECE_OCTETS: Final = 16_384
"""As much is looked at at once: a first read may hold the head and all of a short body."""


class _Handler(ResponseHandler):
    """Gives up an answer whose head goes on and on."""

    _head_octets = 0

    def set_response_params(self, **params: Any) -> None:
        self._head_octets = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        if not data:
            super().data_received(data)
        for start in range(0, len(data), _PIECE_OCTETS):
            piece = data[start : start + _PIECE_OCTETS]
            if self._payload is None or self._payload.is_eof():
                self._head_octets += len(piece)
                if self._head_octets > MAX_HEAD_OCTETS:
                    self._give_up()
                    return
            super().data_received(piece)

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.close()
        message = f"the head of the answer has more than {MAX_HEAD_OCTETS} octets"
        self.set_exception(HttpProcessingError(code=400, message=message))


def retry_after_seconds(value: str, date: str) -> float | None:
    """Return how long an answer asks to wait, by the server's own clock (RFC 9110 10.2.3).

    Args:
        value: Its Retry-After; "" for none.
        date: Its Date; "" for none.
    """
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - parsedate_to_datetime(date)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def in_words(error: BaseException) -> str:
    """Return what failed: who cannot be connected to and why, else the kind of error and what it says.

    aiohttp names TLS in each error of a connection, whether there is any or not.
    """
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError):
            # asyncio puts the address in place of the reason.
            number = cause.errno or 0
            reason = os.strerror(number) if number > 0 else cause.strerror
            said = f"cannot connect to {error.host}:{error.port}: {reason or cause}"
            return printable(said, 200)
    return f"{type(error).__name__}: {printable(str(error), 200)}"


def bounded_connector(**options: Any) -> aiohttp.TCPConnector:
    """Return a connector whose connections give up an answer whose head does not end.

    Args:
        options: Of `aiohttp.TCPConnector`.
    """
    connector = aiohttp.TCPConnector(**options)
    # aiohttp has no other place for it; a test sees to it that this one is used.
    handler: Callable[..., ResponseHandler] = _Handler
    connector._factory = functools.partial(handler, loop=asyncio.get_running_loop())
    return connector
