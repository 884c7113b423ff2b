"""Seals on records that are kept where others can write: HMAC-SHA-256 under a key that only the nodes have.

A seal shows that a node wrote a record, under this name and in this version; not that it is the newest.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from ra_gateway.errors import ConfigError, GatewayError, Problem
from ra_gateway.files import open_to_read

SEAL_OCTETS: Final = 32
MIN_KEY_OCTETS: Final = 32
_MAX_KEY_OCTETS: Final = 4096
_LENGTH: Final = struct.Struct(">I")


class NotSealed(GatewayError):
    """A record was not written by a node, or not under this name and version."""


class Seals:
    """Seals records and opens them.

    Args:
        keys: 32 octets or more each; the first one seals, and each one opens, so that keys can be changed.

    Raises:
        ValueError: There is none, or one is too short.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < MIN_KEY_OCTETS for key in keys):
            raise ValueError(f"a key for sealing needs {MIN_KEY_OCTETS} octets or more")
        self._keys = tuple(keys)

    def seal(self, octets: bytes, *name: str) -> bytes:
        """Return a record under its seal.

        Args:
            name: What the record is and where it is kept.
        """
        return _seal(self._keys[0], octets, name) + octets

    def open(self, sealed: bytes, *name: str) -> bytes:
        """Return the record under a seal.

        Raises:
            NotSealed: The seal does not verify.
        """
        seal, octets = sealed[:SEAL_OCTETS], sealed[SEAL_OCTETS:]
        for key in self._keys:
            if hmac.compare_digest(seal, _seal(key, octets, name)):
                return octets
        raise NotSealed("the seal does not verify")

    def __repr__(self) -> str:
        return f"Seals({len(self._keys)} keys)"


def _seal(key: bytes, octets: bytes, name: Sequence[str]) -> bytes:
    parts = [b"ra_gateway record 1"]
    for part in (*(item.encode() for item in name), octets):
        parts += len(part).to_bytes(8, "big"), part
    return hmac.digest(key, b"".join(parts), "sha256")


def packed(fields: Mapping[str, bytes]) -> bytes:
    """Return fields as one byte string: names and values, each after its length."""
    parts: list[bytes] = []
    for name, value in fields.items():
        parts += _counted_name(name), _LENGTH.pack(len(value)), value
    return b"".join(parts)


@lru_cache(maxsize=256)
def _counted_name(name: str) -> bytes:
    octets = name.encode()
    return _LENGTH.pack(len(octets)) + octets


def unpacked(octets: bytes) -> dict[str, bytes]:
    """Return the fields of `packed`; only for octets whose seal has verified.

    Raises:
        ValueError: They are not that.
    """
    fields: dict[str, bytes] = {}
    at, total = 0, len(octets)
    try:
        while at < total:
            begin = at + _LENGTH.size
            end = begin + _LENGTH.unpack_from(octets, at)[0]
            at = end + _LENGTH.size
            name, size = octets[begin:end].decode(), _LENGTH.unpack_from(octets, end)[0]
            fields[name] = octets[at : at + size]
            at += size
    except struct.error:
        at = -1
    if at != total:
        raise ValueError("a record ends too early")
    return fields


def load_seal_keys(paths: Sequence[Path]) -> list[bytes]:
    """Return the keys in files; white space at either end does not count.

    Raises:
        ConfigError: There is none, or one cannot be used.
    """
    setting = "store.seal_key_paths"
    todo = "Make one with `openssl rand -hex 32`, mode 0600, the same on all nodes"
    problems = [] if paths else [Problem(setting, "names no key", todo)]
    keys = []
    for path in paths:
        try:
            with open_to_read(path) as file:
                key = file.read(_MAX_KEY_OCTETS + 1).strip()
        except OSError as error:
            problems.append(Problem(setting, f"{path} cannot be read: {error.strerror}", todo))
            continue
        if not MIN_KEY_OCTETS <= len(key) <= _MAX_KEY_OCTETS:
            what = f"{path} holds {len(key)} octets, not {MIN_KEY_OCTETS} to {_MAX_KEY_OCTETS}"
            problems.append(Problem(setting, what, todo))
        keys.append(key)
    if problems:
        raise ConfigError(problems)
    return keys
