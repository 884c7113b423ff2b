"""Connections to a Redis, out of its URL."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError


def connection_pool(
    url: str, password: str | None, seconds: float, count: int
) -> BlockingConnectionPool:
    """Return a pool; nothing is connected yet.

    Args:
        seconds: To connect.
        count: Most connections.

    Raises:
        ValueError: The URL cannot be used; the text does not have it.
    """
    try:
        options: dict[str, Any] = {"password": password, **parse_url(url)}
        # Set last: replies in another shape cannot be read, and only the store knows what a repetition
        # means. It keeps the time, too: with a `socket_timeout`, redis-py on Python 3.11 lets
        # a call go on that was cancelled while it was sending.
        options |= {
            "protocol": 2,
            "decode_responses": False,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": seconds,
            "timeout": None,  # of waiting for a connection
            "max_connections": count,
        }
        pool = BlockingConnectionPool(**options)
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        raise ValueError(  # its text never contains the URL, because of the password
            "not a Redis URL: expected redis://host:port/database, rediss:// or unix://,"
            " with options as in redis-py"
        ) from None
    return pool


def shown_name(options: dict[str, Any]) -> str:
    """Return how log lines call this Redis: where it is, never the password."""
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"redis {where}/{options.get('db', 0)}"
