"""What dialects set, filled into the raw tables of the upstreams that name one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, create_model

from ra_gateway.ra.dialects import DIALECTS
from ra_gateway.ra.settings import IssuingSettings, UpstreamSettings
from ra_gateway.settings.values import Name, Table
from ra_gateway.upstream.kinds import TABLES, CMPHTTPUpstream

_OF_ONE_CA: Final = frozenset(
    {
        "dialect",
        "key_generation",
        "path",
        "recipient",
        "orig_message",
        "rr_certificate",
        "device_info",
    }
)
"""Keys that no dialect sets: they are about one CA, or what is wanted of it, not about its kind."""

DIALECT_KEYS: Final = (
    *(
        key
        for key in sorted(
            UpstreamSettings.model_fields, key=IssuingSettings.model_fields.__contains__
        )
        if key not in _OF_ONE_CA
    ),
    "replays_repeats",
)
"""Keys of an upstream that a dialect sets, where the upstream does not."""


class _Dialect(Table):
    """A dialect of your own: keys of an upstream for every upstream that names it."""

    base: Name | None = None
    """Dialect that comes with the gateway and that this one changes."""


def _dialect_field(key: str) -> Any:
    """Return type and field of a key: as of an upstream, but that it may be absent."""
    field = CMPHTTPUpstream.model_fields[key]
    default = ", with its default" if type(field.default) is int else ""
    return field.annotation | None, Field(default=None, description=f"As of an upstream{default}.")  # type: ignore[operator]


if TYPE_CHECKING:
    DialectConfig = _Dialect
else:
    DialectConfig = create_model(
        "DialectConfig",
        __base__=_Dialect,
        __doc__=_Dialect.__doc__,
        **{key: _dialect_field(key) for key in DIALECT_KEYS},
    )

_SPEAK_CMP: Final = frozenset(
    kind for kind, table in TABLES.items() if issubclass(table, UpstreamSettings)
)


def settings_of(name: str, own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what a dialect sets, None if there is no such dialect.

    Args:
        own: The tables `[dialects.<name>]`; each may build on one that comes with the gateway.
    """
    if name in own:
        table = {key: value for key, value in own[name].items() if key in DIALECT_KEYS}
        return {**DIALECTS.get(str(own[name].get("base", "")), {}), **table}
    known = DIALECTS.get(name)
    return None if known is None else dict(known)


def with_dialects(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the raw tables of a file with what dialects set filled into their upstreams."""
    upstreams, own = raw.get("upstreams"), raw.get("dialects")
    if not isinstance(upstreams, dict):
        return dict(raw)
    tables = own if isinstance(own, dict) else {}
    own = {name: table for name, table in tables.items() if isinstance(table, dict)}
    filled = {}
    for name, table in upstreams.items():
        settings = None
        # What speaks no CMP has no dialects; that it names one is said by itself.
        speaks_cmp = isinstance(table, dict) and table.get("kind") in _SPEAK_CMP
        if speaks_cmp and isinstance(table.get("dialect"), str):
            settings = settings_of(table["dialect"], own)
        filled[name] = table if settings is None else {**settings, **table}
    return {**raw, "upstreams": filled}
