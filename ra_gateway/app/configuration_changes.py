"""What has changed in a configuration, and whether a running process can go over to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from ra_gateway.config.service_tables import ListenerConfig
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.errors import ConfigError, Problem

C = TypeVar("C", GatewayConfig, CAServiceConfig)

_OF_CA: Final = (
    *(f"ca.{name}" for name in ("directory_path", "ledger_path", "ledger_url", "ledger_url_path")),
    *(f"ca.status.{name}" for name in ListenerConfig.model_fields),
)
"""Keys of the bundled CA that are taken up at the start alone: where its files, its ledger and its listener are."""

_OF_HOST: Final = frozenset(("server", "ca.server", "management", "log", "ra")) | {
    f"ca.status.{name}" for name in ListenerConfig.model_fields
}
"""Tables and keys that may differ between nodes that do the same: where and how each is reached, how much it takes, how
it is watched, and which RA it is.
"""

_TLS: Final = ("server.tls.", "management.tls.", "ca.server.tls.")
"""Keys of theirs that are taken up all the same (`listener_tls`): other files for a listener that has TLS."""


def config_digest(config: BaseModel) -> str:
    """Return 16 hex digits by which configurations that differ are told apart."""
    return hashlib.sha256(repr(config.model_dump()).encode()).hexdigest()[:16]


def shared_digest(config: BaseModel) -> str:
    """Return 16 hex digits that differ where nodes that stand beside each other should not.

    Left out is what a host decides, and keys at their defaults, of which another release may have more. Of files, the
    names count, without their directories.
    """
    shared = _shared(config.model_dump(exclude_defaults=True))
    return hashlib.sha256(repr(shared).encode()).hexdigest()[:16]


def _shared(value: Any, name: str = "") -> Any:
    """Return a value of a configuration without what a host decides.

    Args:
        name: Dotted, of the key that has it; "" of all of it.
    """
    if isinstance(value, Mapping):
        above = f"{name}." if name else ""
        found = {key: _shared(item, f"{above}{key}") for key, item in sorted(value.items())}
        return {key: item for key, item in found.items() if f"{above}{key}" not in _OF_HOST}
    if isinstance(value, (list, tuple)):
        return [_shared(item, name) for item in value]
    return value.name if isinstance(value, Path) else value


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted names of the keys that differ between two tables."""
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from changed_keys(before, after, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def require_no_restart(old: C, new: C) -> None:
    """Refuse a configuration that a running process cannot go over to.

    Raises:
        ConfigError: With every key that takes a restart.
    """
    if isinstance(old, CAServiceConfig) or isinstance(new, CAServiceConfig):
        _refuse(old, new, {"management", "audit", "ca.server", *_OF_CA})
        return
    fixed = {"server", "management", "audit"}
    if new.has_bundled_upstream:
        fixed.update(_OF_CA)
    if (old.store.kind, new.store.kind) != ("redis", "redis"):
        fixed.add("store")  # what is in memory would be lost
    if old.has_bundled_upstream != new.has_bundled_upstream:
        fixed.add("upstreams")
    _refuse(old, new, fixed)


def _refuse(old: BaseModel, new: BaseModel, fixed: Iterable[str]) -> None:
    """Refuse changes of keys, whatever is below them, and whole tables that have them."""
    what, todo = "has changed, and is taken up at the start alone", "Restart, or change it back"
    tables = [f"{key}." for key in fixed]
    problems = [
        Problem(name, what, todo)
        for name in changed_keys(old.model_dump(), new.model_dump())
        if any(f"{name}.".startswith(key) or key.startswith(f"{name}.") for key in tables)
        and not name.startswith(_TLS)
    ]
    if problems:
        raise ConfigError(problems)
