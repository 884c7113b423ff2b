"""What the gateway needs on its own side besides certificates: the store and the inventory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import cryptography

from ra_gateway.app.doctor.results import Check, Result
from ra_gateway.app.inventory import listed, name_of, open_inventory, summary
from ra_gateway.app.name_warnings import of_devices
from ra_gateway.app.store import FORGETS_TODO, OTHER_SEAL_KEY, transaction_store
from ra_gateway.app.unused import of_whole_list
from ra_gateway.cmp.selfcheck import require_codec
from ra_gateway.config.service_tables import StoreConfig
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError, Problem, ServiceFailure, StoreUnavailable
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.redis_servers import ServerState

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
            kept = list(_keeping(store))
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
    return [check.ok("written"), *same, *kept]


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


def _keeping(store: MemoryStore | RedisStore) -> Iterator[Result]:
    """Say of each master whether what it is told stays."""
    if not isinstance(store, RedisStore):
        return
    for node in store.servers.known:
        check = Check(_STORE, f"what Redis keeps, at {node.address}")
        state = node.state or ServerState("it was not asked")
        if state.problem:
            yield check.warning(
                f"not told: {state.problem}",
                "whether it forgets transactions, and whether replicas have them, is not known",
                "Redis ACL: +info; and see that maxmemory-policy is noeviction, and appendonly yes",
            )
        elif state.forgets:
            yield check.fault(
                state.forgets,
                "what Redis forgets may be issued twice, when a base station repeats its request",
                f"store: {FORGETS_TODO}",
            )
        elif state.policy != _KEEPS:
            yield check.warning(
                f"maxmemory-policy {state.policy or 'not told'}, without a limit",
                "with a maxmemory Redis would throw transactions away",
                f"redis.conf: maxmemory-policy {_KEEPS}",
            )
        elif not state.appends:
            yield check.warning(
                f"appendonly is off; {state.replicas} replicas",
                "a master that is restarted before it is replaced comes back empty, and empties its replicas",
                "redis.conf: appendonly yes",
            )
        elif not state.can_wait:
            yield check.warning(
                "this Redis user may not use WAIT",
                "a failover may forget the newest transactions",
                "Redis ACL: +wait",
            )
        else:
            yield check.ok(f"all of it: {state.policy}, appendonly; {state.replicas} replicas")


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
    found = [
        Check("inventory", problem.path).warning(problem.what, idle, problem.todo)
        for problem in of_whole_list(config, devices)
    ]
    if (
        config.inventory.sql is not None
    ):  # lines of a file are told with what is less safe than it looks
        found += [
            Check("inventory", problem.path).warning(problem.what, _REFUSED, problem.todo)
            for problem in of_devices(config, devices)
        ]
    return [check.ok(summary(devices)), *found]


_REFUSED: Final = "its request comes to the CA and no further (badCertTemplate)"
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
