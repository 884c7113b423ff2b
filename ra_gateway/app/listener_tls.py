"""TLS of the listeners: certificates and keys in their files, taken up when they change there."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from ra_gateway.app.credential import WATCH_SECONDS, FileStates, file_states
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.oids import OID
from ra_gateway.config.service_tables import ListenerTLSConfig, ServerConfig
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.errors import ConfigError
from ra_gateway.keys import (
    load_certificates,
    load_credential,
    names_hsm_key,
    read_password,
    require_private_key,
)
from ra_gateway.server.preface import TLSContext
from ra_gateway.upstream.tls import openssl_reason

TLS_EXPIRY_WARNING: Final = timedelta(days=14)
"""From then on an expiring certificate is warned of: those that renew themselves do so earlier, at 30 days of 90."""

_WARNING_INTERVAL: Final = timedelta(days=1)

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.tls")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was in the files of one table.

    Args:
        certificate: The one that clients are shown.
        states: Of the files, when they were read.
    """

    config: ListenerTLSConfig
    context: ssl.SSLContext
    certificate: Certificate
    states: FileStates


class ListenerTLS:
    """TLS of all listeners of a process.

    Args:
        tables: By the dotted path of each; those that are None have none.

    Raises:
        ConfigError: Files cannot be used.
    """

    def __init__(self, tables: Mapping[str, ListenerTLSConfig | None]) -> None:
        self._loaded = load(tables)
        self._seen = {setting: loaded.states for setting, loaded in self._loaded.items()}
        self._warned_at: dict[str, datetime] = {}
        self.unusable: set[str] = set()
        """Tables whose files have changed and cannot be used: the next start could not use them either."""

    def context_of(self, setting: str) -> TLSContext | None:
        """Return what gives a listener the TLS context of now; None without TLS."""
        return (lambda: self._loaded[setting].context) if setting in self._loaded else None

    @property
    def certificates(self) -> dict[str, Certificate]:
        """What clients are shown, by the dotted path of each table."""
        return {setting: loaded.certificate for setting, loaded in self._loaded.items()}

    def take_up(self, loaded: Mapping[str, Loaded]) -> None:
        """Meet new connections with what was loaded; open ones go on."""
        for setting, fresh in loaded.items():
            old = self._loaded[setting].certificate
            self._loaded[setting] = fresh
            self._seen[setting] = fresh.states
            self.unusable.discard(setting)
            if fresh.certificate != old:
                log.info(
                    "tls.certificate_changed",
                    setting=setting,
                    subject=fresh.certificate.subject,
                    not_after=fresh.certificate.not_after.isoformat(),
                )

    async def watch(self) -> None:
        """Take up what changes in the files, until cancelled; what cannot be used is told and left alone."""
        while True:
            self._warn()
            await asyncio.sleep(WATCH_SECONDS)
            for setting, loaded in list(self._loaded.items()):
                states = _states(loaded.config)
                if states == self._seen[setting]:
                    continue
                self._seen[setting] = states  # what is unusable is told once
                try:
                    self.take_up({setting: await asyncio.to_thread(_load, setting, loaded.config)})
                except ConfigError as error:
                    self.unusable.add(setting)
                    log.error(
                        "tls.unusable",
                        setting=setting,
                        problems=[str(item) for item in error.problems],
                        todo="mend the files; until then the certificate of before is shown",
                    )

    def _warn(self) -> None:
        """Tell once a day which certificates somebody has to renew."""
        moment = now()
        for setting, certificate in self.certificates.items():
            left = certificate.not_after - moment
            warned_at = self._warned_at.get(setting)
            if left >= TLS_EXPIRY_WARNING or (
                warned_at is not None and moment - warned_at < _WARNING_INTERVAL
            ):
                continue
            self._warned_at[setting] = moment
            told = {
                "setting": setting,
                "subject": certificate.subject,
                "not_after": certificate.not_after.isoformat(),
                "todo": f"put a new one and its key under {setting}.certificate_path and key_path; no restart is "
                "needed",
            }
            if left < timedelta(0):
                log.error("tls.certificate_expired", **told)
            else:
                log.warning("tls.certificate_expires", **told, days=left.days)


def cmp_server(config: GatewayConfig | CAServiceConfig) -> tuple[str, ServerConfig]:
    """Return the table of a process's listener for CMP, its dotted path first."""
    if isinstance(config, GatewayConfig):
        return "server", config.server
    return "ca.server", config.ca.server


def tls_tables(config: GatewayConfig | CAServiceConfig) -> dict[str, ListenerTLSConfig | None]:
    """Return the tables of TLS of a process's listeners."""
    setting, server = cmp_server(config)
    return {f"{setting}.tls": server.tls, "management.tls": config.management.tls}


def load(tables: Mapping[str, ListenerTLSConfig | None]) -> dict[str, Loaded]:
    """Return what is in the files now, by the dotted path of each table.

    Raises:
        ConfigError: Files cannot be used.
    """
    return {
        setting: _load(setting, config) for setting, config in tables.items() if config is not None
    }


def _load(setting: str, config: ListenerTLSConfig) -> Loaded:
    states = _states(config)
    if names_hsm_key(config.key_path):
        raise ConfigError.of(
            f"{setting}.key_path",
            "names a key in an HSM, which TLS cannot use here",
            "Give a file with a key of its own, or let the balancer end TLS",
        )
    require_private_key(config.key_path, f"{setting}.key_path")
    password = read_password(config.key_password_path)
    credential = load_credential(
        config.certificate_path, config.key_path, password=password, setting=setting
    )
    certificate = credential.certificate
    purposes = certificate.extended_key_usage
    if purposes and OID.serverAuth not in purposes:
        raise ConfigError.of(
            f"{setting}.certificate_path",
            "extKeyUsage of the certificate lacks serverAuth: clients would refuse it",
            "Have one issued for a TLS server",
        )
    # Not `create_default_context`: that one lets the environment have session keys written to a file.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Never without a password: OpenSSL would ask the terminal for one.
        context.load_cert_chain(config.certificate_path, config.key_path, password or b"")
        if config.client_ca_paths:
            context.verify_mode = ssl.CERT_REQUIRED
            # Of an issuing CA without its root: with the root, all that is below that would come in.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=_client_cas(setting, config))
    except (OSError, ValueError) as error:
        raise ConfigError.of(
            f"{setting}.certificate_path",
            f"TLS cannot use it: {openssl_reason(error)}",
            "Give PEM files of a certificate and the key that belongs to it",
        ) from error
    return Loaded(config, context, certificate, states)


def _client_cas(setting: str, config: ListenerTLSConfig) -> bytes:
    return b"".join(
        certificate.der
        for index, path in enumerate(config.client_ca_paths)
        for certificate in load_certificates(path, f"{setting}.client_ca_paths[{index}]")
    )


def _states(config: ListenerTLSConfig) -> FileStates:
    passwords = () if config.key_password_path is None else (config.key_password_path,)
    return file_states(
        (config.certificate_path, config.key_path, *passwords, *config.client_ca_paths)
    )
