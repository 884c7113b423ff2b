"""Connections to Redis, as the store needs them."""

from __future__ import annotations

from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError


def pool(url: str, password: str | None, seconds: float, count: int) -> BlockingConnectionPool:
    """Return a pool that connects when it is first used.

    Args:
        seconds: For one connection to be made.
        count: Most connections.

    Raises:
        ValueError: It is no URL of a Redis; the text does not repeat it.
    """
    try:
        options: dict[str, Any] = {"password": password, **parse_url(url)}
        # Set last: replies in another shape cannot be read, and only `RedisStore._ask` knows what a repetition
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
        found = BlockingConnectionPool(**options)
        found.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        raise ValueError(  # its text never contains the URL, because of the password
            "not a Redis URL: expected redis://host:port/database, rediss:// or unix://,"
            " with options as in redis-py"
        ) from None
    return found


def named(options: dict[str, Any]) -> str:
    """Return how log lines call this Redis: where it is, never the password."""
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return f"redis {where}/{options.get('db', 0)}"
