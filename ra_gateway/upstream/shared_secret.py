"""The secret that the RA shares with a CA which knows RAs by one: taken up from its file when that changes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from ra_gateway.cmp.mac import (
    MACBounds,
    MACCredential,
    SharedSecret,
    mac_parameters,
    made_parameters,
)
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.errors import ConfigError
from ra_gateway.files import read_bounded
from ra_gateway.upstream.tables import CASecretConfig

WATCH_SECONDS: Final = 2.0
"""From one look at the file to the next."""

_SALT_OCTETS: Final = 16

_MIN_SECRET_OCTETS: Final = 16
"""Whoever records one message can guess at leisure: 16 random octets or characters are beyond that."""

_KEPT: Final = timedelta(hours=1)
"""How long answers under a secret that was replaced are believed: what was asked under it may be on its way."""

_MAX_PBM_ITERATIONS: Final = 10_000
"""Of an answer: each is a step of Python, and anybody on the way may have written it."""

_MAX_DERIVED: Final = 16
"""Keys that are kept: a CA that draws its salt anew each time costs a derivation each time."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.upstream")


class SecretOfCA:
    """A `CASecret` out of a file.

    Args:
        setting: Dotted path of the table, for errors and the log.
        clock: Aware UTC.
        before: What it takes the place of: where that was of the same file, what it replaced is believed on.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(
        self,
        config: CASecretConfig,
        setting: str,
        clock: Callable[[], datetime],
        before: SecretOfCA | None = None,
    ) -> None:
        self._config, self._setting, self._clock = config, setting, clock
        self._bounds = MACBounds(
            min_iterations=1,
            max_iterations=max(config.iterations, _MAX_PBM_ITERATIONS),
            max_pbkdf_iterations=config.max_iterations,
            hmac_sha1=config.allow_weak_hmac,
        )
        self._replaced: list[tuple[datetime, SharedSecret]] = []
        self._derived: dict[tuple[bytes, bytes], MACCredential] = {}
        self._seen = _state(config.secret_path)
        self._current = self._load()
        if before is not None and before._is_of(config):
            self._replaced = list(before._replaced)
            if before._current.secret.secret != self._current.secret.secret:
                self._replaced.insert(0, (clock(), before._current.secret))

    def _is_of(self, config: CASecretConfig) -> bool:
        own = self._config
        return (own.secret_path, own.reference) == (config.secret_path, config.reference)

    @property
    def credential(self) -> MACCredential:
        """What protects messages to the CA now."""
        return self._current

    async def of_answer(self, message: PKIMessage) -> tuple[MACCredential, ...]:
        """Return what an answer may be protected with: the secret, and those it replaced, under its own parameters.

        Raises:
            AlgorithmRefused, MalformedMessage: Its MAC is too dear, too weak or unknown.
        """
        der = message.header.protection_alg_der or b""
        parameters = mac_parameters(der, self._bounds)
        oldest = self._clock() - _KEPT
        self._replaced = [item for item in self._replaced if item[0] > oldest]
        found = []
        for secret in (self._current.secret, *(item for _, item in self._replaced)):
            key = (secret.secret, der)
            if key not in self._derived:
                while len(self._derived) >= _MAX_DERIVED:
                    del self._derived[next(iter(self._derived))]
                # Not on the event loop: it takes as long as the message says, within bounds.
                self._derived[key] = await asyncio.to_thread(parameters.credential, secret)
            found.append(self._derived[key])
        return tuple(found)

    async def watch(self) -> None:
        """Take up what changes in the file, until cancelled; what cannot be used is told in the log and left alone."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look at the file once, and take up what has changed."""
        state = _state(self._config.secret_path)
        if state == self._seen:
            return
        self._seen = state
        try:
            fresh = await asyncio.to_thread(self._load)
        except ConfigError as error:
            log.warning("upstream.secret_unusable", problems=[str(item) for item in error.problems])
            return
        if fresh.secret.secret != self._current.secret.secret:
            self._replaced.insert(0, (self._clock(), self._current.secret))
            self._current = fresh
            log.info("upstream.secret_changed", setting=self._setting)

    def _load(self) -> MACCredential:
        config, where = self._config, f"{self._setting}.secret_path"
        try:
            octets = read_bounded(config.secret_path).rstrip(b"\r\n")
        except OSError as error:
            todo = "Make it readable for the user the gateway runs as"
            raise ConfigError.of(where, f"cannot be read: {error.strerror}", todo) from error
        if len(octets) < _MIN_SECRET_OCTETS:
            raise ConfigError.of(
                where,
                f"holds a secret of {len(octets)} characters, which can be guessed from one message",
                f"Agree on one of {_MIN_SECRET_OCTETS} random characters or more: openssl rand -base64 24",
            )
        secret = SharedSecret(config.reference.encode(), octets, NULL_DN)
        salt = secrets.token_bytes(_SALT_OCTETS)
        return made_parameters(config.algorithm, salt, config.iterations).credential(secret)


def _state(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)  # replaced at this very moment, or gone
    return (status.st_ino, status.st_mtime_ns, status.st_size)
