"""What the gateway needs on its own side besides certificates: the store and the inventory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import cryptography
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ra_gateway.app.doctor.results import Check, Result, Verdict
from ra_gateway.app.idle import of_whole_list
from ra_gateway.app.inventory import listed, name_of, open_inventory, summary
from ra_gateway.app.store import OTHER_SEAL_KEY, transaction_store
from ra_gateway.cmp.selfcheck import require_codec
from ra_gateway.config.service_tables import StoreConfig
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, Problem, ServiceFailure, StoreUnavailable
from ra_gateway.files import read_bounded
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore

_STORE: Final = "store"
_KEEPS: Final = "noeviction"


async def examine_store(config: StoreConfig) -> list[Result]:
    """Write to the store, and see whether it would forget anything."""
    check = Check(_STORE, f"write to the {config.kind} store")
    try:
        store = transaction_store(config)
        try:
            await store.ping()
            same = await _same_seal_key(store)
        finally:
            await store.close()
    except ConfigError as error:
        return check.problems(error)
    except (StoreUnavailable, OSError, ValueError) as error:
        return [
            check.fault(
                str(getattr(error, "detail", error)),
                "Redis is not there, or refuses the password or the writing",
                "store.redis_url_path (or redis_url); the Redis server",
            )
        ]
    if config.kind == "memory":
        return [check.ok("written; for one process, and forgotten at its end")]
    return [check.ok("written"), *same, await _eviction(config)]


async def _same_seal_key(store: MemoryStore | RedisStore) -> list[Result]:
    if not isinstance(store, RedisStore):
        return []
    check = Check(_STORE, "keys by which the gateways seal")
    if await store.has_our_mark(leave=False):
        return [check.ok("ours, or no gateway has been started yet")]
    return [
        check.fault(
            f"{store.mark_key} is sealed by a key that is not ours",
            "a gateway on this Redis has other keys, or had them: neither believes the other's transactions, and base "
            "stations fail that come to another one",
            f"store.seal_key_paths: {OTHER_SEAL_KEY} {store.mark_key}",
        )
    ]


async def _eviction(config: StoreConfig) -> Result:
    check = Check(_STORE, "maxmemory-policy of Redis")
    try:
        memory = await _memory(config)
    except (RedisError, OSError, TimeoutError) as error:
        return check.warning(
            f"not told: {type(error).__name__}",
            "this Redis user may not ask INFO",
            "Redis ACL: +info; and see that maxmemory-policy is noeviction",
        )
    policy, limit = str(memory.get("maxmemory_policy", "")), memory.get("maxmemory", 0)
    if policy == _KEEPS:
        return check.ok(policy)
    return check.result(
        Verdict.fault if limit else Verdict.warning,
        f"{policy or 'not told'}, maxmemory {limit or 'unlimited'}",
        "Redis throws transactions away when memory is short: a repeat could then issue twice",
        f"redis.conf: maxmemory-policy {_KEEPS}",
    )


async def _memory(config: StoreConfig) -> dict[str, Any]:
    url = config.redis_url or ""
    if config.redis_url_path is not None:
        url = read_bounded(config.redis_url_path).decode("utf-8-sig").strip()
    client = Redis.from_url(url, socket_connect_timeout=config.redis_timeout_seconds)
    try:
        async with asyncio.timeout(config.redis_timeout_seconds):
            answer: dict[str, Any] = await client.info("memory")
            return answer
    finally:
        await client.aclose()


def examine_codec() -> list[Result]:
    """Say whether the installed release of `cryptography` reads and writes messages as it has to."""
    check = Check("codec", "read and write a message")
    try:
        require_codec()
    except ConfigError as error:
        return check.problems(error)
    return [check.ok(f"as it should, with cryptography {cryptography.__version__}")]


def examine_safety(problems: Iterable[Problem]) -> list[Result]:
    """Say what works and is less safe than it could be."""
    return [
        Check("safety", problem.path).warning(
            problem.what,
            "it works, and is less safe than it could be",
            f"{problem.path}: {problem.todo}",
        )
        for problem in problems
    ]


async def examine_inventory(config: GatewayConfig) -> list[Result]:
    """Read the inventory, or see whether somebody answers for it."""
    if config.inventory is None:
        return []
    if config.inventory.http is not None:
        return await _examine_asked_inventory(config)
    check = Check("inventory", f"read {name_of(config)}")
    try:
        devices = await listed(config, lambda _done, _all: None)
    except ConfigError as error:
        return check.problems(error)
    except ServiceFailure as error:
        setting = "inventory.sql.table; inventory.sql.sqlite_path or url_path"
        return [check.fault(error.detail, _NOBODY, setting)]
    idle = "no device is served by it, or two are by one name"
    return [check.ok(summary(devices))] + [
        Check("inventory", problem.path).warning(problem.what, idle, problem.todo)
        for problem in of_whole_list(config, devices)
    ]


_NOBODY: Final = "no device whose vendor goes by the inventory is admitted (systemUnavail)"


async def _examine_asked_inventory(config: GatewayConfig) -> list[Result]:
    check = Check("inventory", f"reach {name_of(config)}")
    try:
        inventory = open_inventory(config)
    except ConfigError as error:
        return check.problems(error)
    if inventory is None:
        return []
    try:
        await inventory.look()
    except ServiceFailure as error:
        return [check.fault(error.detail, _NOBODY, "inventory.http.url")]
    finally:
        await inventory.close()
    return [check.ok("it answers")]
