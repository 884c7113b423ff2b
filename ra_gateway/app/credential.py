"""The RA's credential, taken up from disk when it changes there, without a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path as FilePath
from typing import Final

import structlog

from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import Path, TrustDomain
from ra_gateway.config.trust_tables import RAConfig
from ra_gateway.errors import CMPError, ConfigError
from ra_gateway.events import CredentialChanged, EventSink, unheard
from ra_gateway.keys import load_credential, read_password

WATCH_SECONDS: Final = 2.0
"""From one look at the files to the next; the CA hears a new certificate about as soon."""

EXPIRY_WARNING: Final = timedelta(days=30)
"""From then on an expiring RA certificate is warned of, once a day: replacing it wants somebody's hand.

That it has expired is an error, told at that moment and then once a day.
"""

_WARNING_INTERVAL: Final = timedelta(days=1)

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ra")

FileStates = tuple[tuple[int, int, int], ...]


class CredentialFiles:
    """The RA's certificate, key and chain in their files; `current` is what signs now.

    `is_current` is False while the files have changed and cannot be used: the next start could not use them either.
    What it replaces still signs for the transactions begun with it, and what is to replace it signs already for those
    that another gateway began with that: `others` has them, newest first.

    Args:
        keep: How long a transaction may live.
        begin_after: How long a new credential is known before transactions are begun with it.
        operator: The domain whose anchors base stations verify the RA's signature with.
        sink: Takes that the certificate has changed.
        before: Those of a configuration that this one takes the place of.

    Raises:
        ConfigError: They cannot be used.
    """

    def __init__(
        self,
        config: RAConfig,
        operator: TrustDomain,
        keep: timedelta,
        sink: EventSink = unheard,
        before: CredentialFiles | None = None,
        begin_after: timedelta = timedelta(0),
    ) -> None:
        self._config = config
        self._begin_after = begin_after
        self._coming: tuple[float, Credential] | None = None
        self._sink = sink
        self._keep = keep
        self._replaced: list[tuple[datetime, Credential]] = []
        self._operator = operator
        self._seen = self._state()
        self.current = self._load()
        self.is_current = True
        if before is not None:
            self._replaced = list(before._replaced)
            if before.current.certificates != self.current.certificates:
                self._replaced.insert(0, (now(), before.current))
        self._warned_at = now() - _WARNING_INTERVAL
        self._expired: Certificate | None = None

    def others(self) -> tuple[Credential, ...]:
        """Return the credentials besides `current` that transactions of this or another gateway may live on."""
        coming = () if self._coming is None else (self._coming[1],)
        if not self._replaced:
            return coming
        oldest = now() - self._keep
        self._replaced = [item for item in self._replaced if item[0] > oldest]
        return (*coming, *(credential for _, credential in self._replaced))

    async def watch(self) -> None:
        """Take up what changes in the files, until cancelled.

        What cannot be used is told in the log and left alone: a certificate whose key is still being written, or
        one that base stations could not verify.
        """
        while True:
            self._warn()
            await asyncio.sleep(WATCH_SECONDS)
            self._begin()
            state = self._state()
            if state == self._seen:
                continue
            try:
                # In a thread: a key in an HSM is tried out, which takes its time.
                fresh = await asyncio.to_thread(self._load)
            except ConfigError as error:
                log.warning(
                    "ra.credential_unusable", problems=[str(item) for item in error.problems]
                )
                # Looked at again, and told of again, when the files change again.
                self._seen, self.is_current = state, False
                continue
            self._seen, self.is_current = state, True
            self._coming = None
            if fresh.certificates != self.current.certificates:
                self._expect(fresh)
                self._begin()

    def _expect(self, fresh: Credential) -> None:
        seconds = self._begin_after.total_seconds()
        self._coming = (time.monotonic() + seconds, fresh)
        if seconds:
            certificate = fresh.certificate
            log.info(
                "ra.credential_known",
                subject=certificate.subject,
                serial_number=f"{certificate.serial_number:x}",
                begins_in_seconds=seconds,
            )

    def _begin(self) -> None:
        """Begin transactions with what is expected, once all gateways have had time to know it."""
        if self._coming is None:
            return
        begins_at, fresh = self._coming
        if time.monotonic() < begins_at and self.current.certificate.valid_at(now()):
            return
        self._replaced.insert(0, (now(), self.current))
        self.current, self._coming = fresh, None
        certificate = fresh.certificate
        serial = f"{certificate.serial_number:x}"
        self._sink(CredentialChanged(certificate.subject, serial, certificate.not_after))

    def _warn(self) -> None:
        moment, certificate = now(), self.current.certificate
        left = certificate.not_after - moment
        is_expired = left < timedelta(0)
        is_news = is_expired and self._expired != certificate
        if left >= EXPIRY_WARNING or (moment - self._warned_at < _WARNING_INTERVAL and not is_news):
            return
        self._warned_at = moment
        self._expired = certificate if is_expired else None
        told = {"subject": certificate.subject, "not_after": certificate.not_after.isoformat()}
        if is_expired:
            log.error(
                "ra.credential_expired",
                **told,
                detail="base stations do not believe what is signed with it, and CAs do not hear it",
                todo="put a new one and its key under ra.certificate_path and ra.key_path; no restart is needed",
            )
        else:
            log.warning("ra.credential_expires", **told, days=left.days)

    def _state(self) -> FileStates:
        """Return what tells that files were changed or replaced."""
        paths = (self._config.certificate_path, self._config.key_path, *self._config.chain_paths)
        return file_states(paths)

    def _load(self) -> Credential:
        credential = load_ra_credential(self._config)
        path = check_ra_credential(credential, self._operator)
        return replace(credential, root=path[-1])


def file_states(paths: Iterable[FilePath]) -> FileStates:
    """Return what tells that files were changed or replaced."""
    return tuple(map(_file_state, paths))


def _file_state(path: FilePath) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)  # replaced at this very moment, or gone
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def load_ra_credential(config: RAConfig) -> Credential:
    """Return the RA's credential as it is in its files.

    Raises:
        ConfigError: It cannot be used.
    """
    return load_credential(
        config.certificate_path,
        config.key_path,
        chain_paths=config.chain_paths,
        password=read_password(config.key_password_path),
        setting="ra",
    )


def check_ra_credential(credential: Credential, operator: TrustDomain) -> Path:
    """Refuse an RA certificate that devices could not verify; returns the path by which they do.

    Raises:
        ConfigError: They could not.
    """
    try:
        path = operator.find_path(credential.certificate, credential.chain, now())
    except CMPError as error:
        raise _unusable(
            f"devices could not verify the RA certificate: {error.detail}",
            "Use a certificate that the operator's CA issued, with its chain in ra.chain_paths",
        ) from error
    usage = credential.certificate.key_usage
    if usage is not None and 0 not in usage:
        raise _unusable(
            "keyUsage of the RA certificate lacks digitalSignature",
            "Have it issued with digitalSignature: strict devices refuse answers without",
        )
    return path


def _unusable(what: str, todo: str) -> ConfigError:
    return ConfigError.of("ra.certificate_path", what, todo)
