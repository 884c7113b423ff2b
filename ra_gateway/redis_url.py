"""The URL of the gateways' store taken apart: one Redis or Valkey, those that Sentinels watch, or a Cluster.

    redis://[user:password@]host[:port][/database]
    redis+sentinel://[user:password@]host[:port],host[:port]/master[/database]
    redis+cluster://[user:password@]host[:port],host[:port]
    unix://path

`rediss` in place of `redis` speaks TLS, and `valkey` and `valkeys` say the same. Behind a ? come options as redis-py
has them (`ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`), and `sentinel_username` and `sentinel_password`. What is wrong
with one is said without repeating any of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SENTINEL_PORT: Final = 26379
SERVER_PORT: Final = 6379

_PLAIN: Final = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_SENTINELS_OWN: Final = ("sentinel_username", "sentinel_password")

TODO: Final = (
    "Give a redis://host:port/database, rediss:// (TLS) or unix:// URL, or one that lists several: "
    "redis+sentinel://host:port,host:port/master or redis+cluster://host:port,host:port. In user and password write "
    "/ as %2F, # as %23, ? as %3F, @ as %40"
)
"""What to write in the place of a URL that cannot be used."""


class Kind(StrEnum):
    """What a URL leads to."""

    server = "server"
    sentinel = "sentinel"
    cluster = "cluster"


@dataclass(frozen=True, slots=True)
class RedisURL:
    """Where the store is.

    Args:
        urls: One for each host, as redis-py takes it: with the login and the options of the servers.
        names: The hosts and ports, for people.
        master: How the Sentinels call what they watch; "" without Sentinels.
        sentinel_login: User name and password at the Sentinels, "" for none.
        has_password: Whether any of it is a password.
    """

    kind: Kind
    urls: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...]
    master: str = ""
    sentinel_login: tuple[str, str] = field(default=("", ""), repr=False)
    has_password: bool = False


def parse_redis_url(text: str) -> RedisURL:
    """Take a URL apart.

    Raises:
        ValueError: It cannot be used; the text repeats nothing of it.
    """
    problem = "is not the URL of a Redis"
    try:
        return _parse(text)
    except _UnusableURL as error:
        problem = str(error)
    except ValueError:  # what the library said may hold the password
        pass
    raise ValueError(problem)


class _UnusableURL(ValueError):
    """A problem whose text repeats nothing of the URL."""


def _parse(text: str) -> RedisURL:
    parts = urlsplit(text)
    if parts.fragment:
        raise _UnusableURL("has a #, which begins what is no part of an address")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    name, _, way = parts.scheme.partition("+")
    login, at, places = parts.netloc.rpartition("@")
    has_password = ":" in login or "password" in query or "sentinel_password" in query
    if parts.scheme == "unix":
        return RedisURL(Kind.server, (text,), (unquote(parts.path),), has_password=has_password)
    if name not in _PLAIN or way not in ("", "sentinel", "cluster"):
        raise _UnusableURL("is not the URL of a Redis")
    kind = Kind(way or "server")
    if kind is Kind.server and "," in places:
        raise _UnusableURL("lists several hosts, but not whether they are Sentinels or a Cluster")
    hosts = [_place(place, kind) for place in places.split(",")]
    given = [query.pop(key, "") for key in _SENTINELS_OWN]
    if any(given) and kind is not Kind.sentinel:
        raise _UnusableURL("has a login for Sentinels, but leads to none")
    master, database = "", parts.path.removeprefix("/")
    if kind is Kind.sentinel:
        master, _, database = database.partition("/")
        if not master:
            raise _UnusableURL(
                "does not name what the Sentinels watch (/mymaster behind the hosts)"
            )
    if database and not (database.isascii() and database.isdigit()):
        raise _UnusableURL("has a database that is no number")
    if kind is Kind.cluster and (int(database or 0) or query.get("db", "0") != "0"):
        raise _UnusableURL("has a database, but a Cluster has number 0 alone")
    path, options = f"/{database}" if database else "", f"?{urlencode(query)}" if query else ""
    return RedisURL(
        kind,
        tuple(f"{_PLAIN[name]}://{login}{at}{host}{path}{options}" for host in hosts),
        tuple(hosts),
        unquote(master),
        (given[0], given[1]),
        has_password,
    )


def _place(text: str, kind: Kind) -> str:
    """Return host and port of one place."""
    parts = urlsplit(f"//{text}")
    port = SENTINEL_PORT if kind is Kind.sentinel else SERVER_PORT
    host = parts.hostname or ("localhost" if kind is Kind.server else "")
    if not host or parts.port == 0 or parts.path:
        raise _UnusableURL("has no host that could be read")
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port or port}"
