"""Dialects: what CAs require and what they ignore, as defaults for the keys of an upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

DIALECT_KEYS: Final = (
    "kur",
    "requests",
    "certconf",
    "pop",
    "kur_names_issuer",
    "max_pvno",
    "ids",
    "genm",
    "tolerate",
    "unconfirmed",
    "unconfirmed_reason",
    "expected_subject",
    "replays_repeats",
)
"""Keys of an upstream that a dialect sets, where the upstream does not."""

_SPEAK_CMP: Final = ("bundled", "cmp_http", "plugin")

DIALECTS: Final[Mapping[str, Mapping[str, Any]]] = {
    # RFC 9483 to the letter: kur keeps its device's protection, everything else is re-protected.
    "rfc9483": {
        "kur": "nested",
        "requests": "reprotect",
        "certconf": "forward",
    },
    # The CA that comes with the gateway, in RA mode; in this process, or somewhere else.
    "bundled": {
        "kur": "reprotect",
        "certconf": "forward",
        "replays_repeats": True,
    },
    # EJBCA, alias in RA mode: takes kur from the RA only and finds it by subject and issuer, never reads
    # certConf, knows neither pvno 3 nor genm nor repeats, and leaves some of its refusals unsigned.
    "ejbca-ra": {
        "kur": "reprotect",
        "certconf": "local",
        "kur_names_issuer": True,
        "max_pvno": 2,
        "genm": False,
        "tolerate": ["unprotected_rejection", "unprotected_pkiconf"],
        "unconfirmed": "revoke",
        "replays_repeats": False,
    },
    # EJBCA, alias in client mode: authenticates the old certificate of a kur itself.
    "ejbca-client": {
        "kur": "forward",
        "certconf": "local",
        "max_pvno": 2,
        "genm": False,
        "tolerate": ["unprotected_rejection", "unprotected_pkiconf"],
        "unconfirmed": "report",
        "replays_repeats": False,
    },
    # `openssl cmp -port`: returns the one certificate it was started with.
    "openssl-mock": {
        "kur": "reprotect",
        "certconf": "forward",
        "expected_subject": "any",
    },
    # Nokia NetAct Certificate Manager, and the Insta Certifier it is made from: leave extraCerts out of pkiConf.
    "nokia-ncm": {
        "kur": "reprotect",
        "certconf": "forward",
        "max_pvno": 2,
        "tolerate": ["pkiconf_without_certificates"],
    },
    "insta": {
        "kur": "reprotect",
        "certconf": "forward",
        "max_pvno": 2,
        "tolerate": ["pkiconf_without_certificates"],
    },
}
"""The dialects that come with the gateway."""


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
