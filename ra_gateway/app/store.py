"""The store of transactions that a configuration asks for, for gateways and for commands."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from ra_gateway.clocks import now, unstepped
from ra_gateway.config.service_tables import StoreConfig
from ra_gateway.errors import ConfigError
from ra_gateway.events import EventSink, unheard
from ra_gateway.redis_url import TODO as REDIS_TODO
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.sealing import load_seal_keys

OTHER_SEAL_KEY: Final = (
    "give all gateways the same keys in store.seal_key_paths; to change them, first add the new one behind the old one "
    "everywhere, then before it everywhere, then remove the old one; where all have the same already, remove the "
    "mark once: redis-cli DEL"
)
"""What to do about a mark of another key; the name of the mark follows."""


FORGETS_TODO: Final = (
    "redis.conf: maxmemory-policy noeviction and appendonly yes, or a replica that takes over; see that its disk is "
    "not full. What Redis forgets may be issued twice"
)
"""What to do about a Redis that may lose transactions."""

EMPTIED_TODO: Final = (
    "see why Redis was emptied, or came back without its data; transactions under way are lost, and at a CA that does "
    "not recognise repeats a base station may get a second certificate (docs/runbook.md)"
)


def transaction_store(config: StoreConfig, sink: EventSink = unheard) -> MemoryStore | RedisStore:
    """Return the configured store; nothing is connected yet.

    Args:
        sink: Takes that it is lost, and found again.

    Raises:
        ConfigError: The Redis URL or a key for sealing cannot be used.
    """
    if config.kind == "memory":
        return MemoryStore(
            now,
            lifetimes=unstepped(),
            max_transactions=config.max_transactions,
            max_per_signer=config.max_transactions_per_signer,
            max_held=config.max_held,
        )
    return redis_store(config, sink)


def redis_store(config: StoreConfig, sink: EventSink = unheard) -> RedisStore:
    """Return the store in Redis; errors as of `transaction_store`."""
    url = config.redis_url or ""
    if config.redis_url_path is not None:
        url = config.redis_url_path.read_text(encoding="utf-8-sig").strip()
    with suppress(ValueError):  # its text may hold a piece of the password
        return RedisStore(
            url,
            clock=now,
            seal_keys=load_seal_keys(config.seal_key_paths),
            key_prefix=config.key_prefix,
            timeout_seconds=config.redis_timeout_seconds,
            max_connections=config.redis_max_connections,
            wait_replicas=config.redis_wait_replicas,
            max_per_signer=config.max_transactions_per_signer,
            max_held=config.max_held,
            sink=sink,
        )
    raise ConfigError.of(
        "store.redis_url_path",
        "is not the URL of a Redis server",
        REDIS_TODO,
    )
