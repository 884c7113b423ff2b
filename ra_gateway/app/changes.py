"""What has changed in a configuration, and whether a running process can go over to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.errors import ConfigError, Problem

_AT_THE_START: Final = ("server", "management", "ca")
"""Tables that a gateway takes up at its start alone."""

_TLS: Final = ("server.tls.", "management.tls.", "ca.server.tls.")
"""Keys of theirs that are taken up all the same (`listener_tls`): other files for a listener that has TLS."""


def config_digest(config: BaseModel) -> str:
    """Return 16 hex digits by which configurations that differ are told apart."""
    return hashlib.sha256(repr(config.model_dump()).encode()).hexdigest()[:16]


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


def require_no_restart(old: GatewayConfig, new: GatewayConfig) -> None:
    """Refuse a configuration that a running gateway cannot go over to.

    Raises:
        ConfigError: With every key that takes a restart.
    """
    before, after = old.model_dump(), new.model_dump()
    fixed = set(_AT_THE_START)
    if new.ca is not None and new.ca.client is not None:
        fixed.add("vendors")  # the bundled CA's client mode trusts them too
    if (old.store.kind, new.store.kind) != ("redis", "redis"):
        fixed.add("store")  # what is in memory would be lost
    names = [name for name in changed_keys(before, after) if name.partition(".")[0] in fixed]
    if old.has_bundled_upstream != new.has_bundled_upstream:
        names.append("upstreams")
    _refuse(names)


def require_unchanged(old: CAServiceConfig, new: CAServiceConfig) -> None:
    """Refuse a configuration of the CA that is not the one it runs with, but for files of TLS.

    Raises:
        ConfigError: With every key that differs.
    """
    _refuse(changed_keys(old.model_dump(), new.model_dump()))


def _refuse(names: Iterable[str]) -> None:
    what, todo = "has changed, and is taken up at the start alone", "Restart, or change it back"
    names = [name for name in names if not name.startswith(_TLS)]
    if problems := [Problem(name, what, todo) for name in names]:
        raise ConfigError(problems)
