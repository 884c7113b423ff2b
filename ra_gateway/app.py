"""The composition root: from a configuration to running servers. Owns clock, randomness and wiring."""

from __future__ import annotations

import asyncio
import errno
import gc
import secrets
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ra_gateway.ca.core import BundledCA, RegistrationAuthority
from ra_gateway.ca.ledger import Ledger
from ra_gateway.ca.material import load_ca
from ra_gateway.ca.profiles import PROFILES
from ra_gateway.cmp.algorithms import AlgorithmPolicy
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.replies import Reply
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import HeaderRules, Strictness
from ra_gateway.config import (
    OPERATOR_DOMAIN,
    AlgorithmsConfig,
    CAConfig,
    CMPHTTPUpstream,
    EndpointConfig,
    GatewayConfig,
    IdentityConfig,
    ServerConfig,
    StoreConfig,
    UpstreamConfig,
)
from ra_gateway.errors import (
    CMPError,
    ConfigError,
    GatewayError,
    Problem,
    ServiceFailure,
)
from ra_gateway.keys import load_certificates, load_credential
from ra_gateway.logs import LogSink
from ra_gateway.ra.events import EventSink
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.policy import IdentityRules, InventoryUse, SubjectRule
from ra_gateway.ra.ports import CACore, TransactionStore
from ra_gateway.ra.routes import CaPubs, CertConf, Endpoint, ImplicitConfirm, Upstream, Variant
from ra_gateway.server.cmp import CMPHandler, CMPListener
from ra_gateway.stores.inventory import CSVInventory
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.upstream.http import HttpCA


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


# --- trust ----------------------------------------------------------------------------------------------------


def _certificates(paths: Sequence[Path], setting: str) -> tuple[Certificate, ...]:
    return tuple(
        certificate
        for index, path in enumerate(paths)
        for certificate in load_certificates(path, f"{setting}[{index}]")
    )


def _anchors(paths: Sequence[Path], setting: str) -> tuple[Certificate, ...]:
    """Load anchors; each must be a self-issued CA certificate, so that a mistaken file is noticed now."""
    anchors = _certificates(paths, setting)
    problems = [
        Problem(
            setting,
            f"{anchor.subject} is not a root certificate",
            "List roots here, and other CA certificates under intermediates_paths",
        )
        for anchor in anchors
        if not (anchor.is_ca and anchor.self_issued)
    ]
    if problems:
        raise ConfigError(problems)
    return anchors


def _algorithms(config: AlgorithmsConfig) -> AlgorithmPolicy:
    return AlgorithmPolicy(
        frozenset(config.signatures), config.min_rsa_bits, frozenset(config.curves)
    )


def operator_domain(config: GatewayConfig) -> TrustDomain:
    """Return the operator's trust domain.

    Raises:
        ConfigError: Its certificates cannot be used.
    """
    return TrustDomain(
        OPERATOR_DOMAIN,
        DomainKind.operator,
        _anchors(config.operator.anchors_paths, "operator.anchors_paths"),
        _certificates(config.operator.intermediates_paths, "operator.intermediates_paths"),
        _algorithms(config.operator.algorithms),
    )


def vendor_domains(config: GatewayConfig) -> dict[str, TrustDomain]:
    """Return the vendors' trust domains by name.

    Raises:
        ConfigError: Certificates cannot be used.
    """
    return {
        name: TrustDomain(
            name,
            DomainKind.vendor,
            _anchors(vendor.anchors_paths, f"vendors.{name}.anchors_paths"),
            _certificates(vendor.intermediates_paths, f"vendors.{name}.intermediates_paths"),
            _algorithms(vendor.algorithms),
            frozenset(vendor.quirks),
        )
        for name, vendor in config.vendors.items()
    }


def ra_credential(config: GatewayConfig) -> Credential:
    """Return the RA's credential.

    Raises:
        ConfigError: It cannot be used.
    """
    password = config.ra.key_password_path
    return load_credential(
        config.ra.certificate_path,
        config.ra.key_path,
        chain_paths=config.ra.chain_paths,
        password=None if password is None else password.read_bytes().rstrip(b"\r\n"),
        setting="ra",
    )


def _check_credential(credential: Credential, operator: TrustDomain) -> None:
    """Refuse to start with an RA certificate that devices could not verify."""
    try:
        operator.find_path(credential.certificate, credential.chain, now())
    except CMPError as error:
        raise ConfigError(
            [
                Problem(
                    "ra.certificate_path",
                    f"devices could not verify the RA certificate: {error.detail}",
                    "Use a certificate that the operator's CA issued, with its chain in ra.chain_paths",
                )
            ]
        ) from error
    usage = credential.certificate.key_usage
    if usage is not None and 0 not in usage:
        raise ConfigError(
            [
                Problem(
                    "ra.certificate_path",
                    "keyUsage of the RA certificate lacks digitalSignature",
                    "Have it issued with digitalSignature: strict devices refuse answers without",
                )
            ]
        )


# --- routes ---------------------------------------------------------------------------------------------------


def _identity(config: IdentityConfig, *, enabled: bool) -> IdentityRules:
    return IdentityRules(
        subject=SubjectRule(config.subject),
        subject_template=config.subject_template or "",
        allowed_subjects=config.allowed_subjects,
        san_template=config.san_template,
        allowed_sans=config.allowed_sans,
        inventory=InventoryUse(config.inventory),
        identity_from=config.identity_from,
        same_key=config.same_key,
        enabled=enabled,
    )


def _upstream(
    name: str,
    config: UpstreamConfig,
    core: CACore,
    operator: TrustDomain,
    credential: Credential,
) -> Upstream:
    setting = f"upstreams.{name}"
    recipient = (
        credential.certificate.issuer_der
        if config.recipient is None
        else from_rfc4514(config.recipient)
    )
    trust, deadline = operator, 15.0
    pinned: tuple[Certificate, ...] = ()
    if isinstance(config, CMPHTTPUpstream):
        deadline = config.deadline_seconds
        pinned = _certificates(config.ca_certificate_paths, f"{setting}.ca_certificate_paths")
        if config.trust_anchors_paths:
            anchors = _anchors(config.trust_anchors_paths, f"{setting}.trust_anchors_paths")
            trust = TrustDomain(name, DomainKind.operator, anchors, operator.intermediates)
    issuing = operator
    if config.issuing_ca_paths:
        issuing = TrustDomain(
            name,
            DomainKind.operator,
            _certificates(config.issuing_ca_paths, f"{setting}.issuing_ca_paths"),
            operator.intermediates,
        )
    return Upstream(
        name=name,
        core=core,
        recipient_der=directory_name(recipient),
        trust=trust,
        issuing=issuing,
        kur=Variant(config.kur),
        certconf=CertConf(config.certconf),
        pinned=pinned,
        deadline_seconds=deadline,
        replays_repeats=config.replays_repeats,
        any_subject=config.expected_subject == "any",
        orig_message=config.orig_message,
    )


def _endpoint(
    name: str,
    config: EndpointConfig,
    gateway: GatewayConfig,
    upstreams: Mapping[str, Upstream],
    vendors: Mapping[str, TrustDomain],
    operator: TrustDomain,
) -> Endpoint:
    return Endpoint(
        name=name,
        upstream=upstreams[config.upstream],
        vendors=tuple(vendors[vendor] for vendor in config.vendors),
        identities={
            vendor: _identity(
                gateway.vendors[vendor].identity, enabled=gateway.vendors[vendor].enabled
            )
            for vendor in config.vendors
        },
        operator=operator if config.operator else None,
        body_types=frozenset(BodyType[body_type] for body_type in config.body_types),
        rules=HeaderRules(
            strictness=Strictness(config.strictness),
            message_time_window_seconds=config.message_time_window_seconds,
            require_message_time=config.require_message_time,
            extra_certs_max_count=config.extra_certs_max_count,
        ),
        implicit_confirm=ImplicitConfirm(config.implicit_confirm),
        ca_pubs=CaPubs(config.ca_pubs),
        confirm_wait_seconds=config.confirm_wait_seconds,
    )


# --- adapters -------------------------------------------------------------------------------------------------


def transaction_store(config: StoreConfig) -> TransactionStore:
    """Return the configured store; nothing is connected yet.

    Raises:
        ConfigError: The Redis URL cannot be used.
    """
    if config.kind == "memory":
        return MemoryStore(now, max_transactions=config.max_transactions)
    url = config.redis_url or ""
    if config.redis_url_path is not None:
        url = config.redis_url_path.read_text().strip()
    try:
        return RedisStore(
            url,
            clock=now,
            key_prefix=config.key_prefix,
            timeout_seconds=config.redis_timeout_seconds,
            max_connections=config.redis_max_connections,
        )
    except ValueError as error:
        raise ConfigError(
            [
                Problem(
                    "store.redis_url_path", str(error), "Give a redis://, rediss:// or unix:// URL"
                )
            ]
        ) from error


def bundled_ca(config: CAConfig) -> BundledCA:
    """Return the bundled CA over its files and its ledger.

    Raises:
        ConfigError: Its files cannot be used.
    """
    password = config.key_password_path
    profile = replace(
        PROFILES[config.profile],
        validity_days=config.validity_days,
        crl_url=config.crl_url or "",
    )
    material = load_ca(
        config.directory_path,
        profile=profile,
        password=None if password is None else password.read_bytes().rstrip(b"\r\n"),
        random_octets=secrets.token_bytes,
    )
    authorities = [
        RegistrationAuthority(
            row.name,
            # The first certificate of each file: what follows it there is its chain.
            tuple(
                load_certificates(
                    path, f"ca.registration_authorities[{index}].certificate_paths[{number}]"
                )[0]
                for number, path in enumerate(row.certificate_paths)
            ),
            frozenset(row.privileges),
        )
        for index, row in enumerate(config.registration_authorities)
    ]
    return BundledCA(
        credential=material.credential,
        issuer=material.issuer,
        ledger=Ledger(config.ledger_path),
        registration_authorities=authorities,
        operator=TrustDomain(
            OPERATOR_DOMAIN, DomainKind.operator, (material.root,), (material.issuer.certificate,)
        ),
        clock=now,
        random_octets=secrets.token_bytes,
        rules=HeaderRules(),
        confirm_wait_seconds=config.confirm_wait_seconds,
    )


def _tls_context(url: str) -> ssl.SSLContext | None:
    return ssl.create_default_context() if url.startswith("https://") else None


class CannotListen(GatewayError):
    """The configured address or port is not to be had."""


async def _listen(listener: CMPListener, config: ServerConfig, setting: str) -> tuple[str, int]:
    try:
        return await listener.start()
    except OSError as error:
        where = f"{config.listen_host}:{config.listen_port}"
        reason = str(error.strerror or error)
        if error.errno == errno.EADDRINUSE:
            reason = "another process listens there already"
        elif error.errno == errno.EACCES:
            reason = "this user may not listen there"
        raise CannotListen(
            f"cannot listen on {where}: {reason}. "
            f"Change {setting}.listen_host or {setting}.listen_port, or stop what is in the way"
        ) from error


class Application:
    """One gateway process: everything that a configuration asks for, wired together.

    Raises:
        ConfigError: On construction, when files that the configuration names cannot be used.
    """

    def __init__(self, config: GatewayConfig, *, sink: EventSink | None = None) -> None:
        self._config = config
        operator, vendors = operator_domain(config), vendor_domains(config)
        self._credential = ra_credential(config)
        _check_credential(self._credential, operator)
        self._bundled = (
            bundled_ca(config.ca) if config.has_bundled_upstream and config.ca is not None else None
        )
        self._cores: dict[str, CACore] = {
            name: self._core(upstream) for name, upstream in config.upstreams.items()
        }
        upstreams = {
            name: _upstream(name, upstream, self._cores[name], operator, self._credential)
            for name, upstream in config.upstreams.items()
        }
        endpoints = {
            name: _endpoint(name, endpoint, config, upstreams, vendors, operator)
            for name, endpoint in config.endpoints.items()
        }
        self.store = transaction_store(config.store)
        self.gateway = Gateway(
            endpoints=endpoints,
            credential=lambda: self._credential,
            store=self.store,
            inventory=None if config.inventory is None else CSVInventory(config.inventory.csv_path),
            clock=now,
            monotonic=time.monotonic,
            random_octets=secrets.token_bytes,
            sink=sink or LogSink(),
            transaction_lifetime_seconds=config.store.transaction_lifetime_seconds,
        )
        self.listener = cmp_listener(
            self.gateway,
            config.server,
            routes={
                path: name for name, endpoint in config.endpoints.items() for path in endpoint.paths
            },
            profiles={
                profile: name
                for name, endpoint in config.endpoints.items()
                for profile in endpoint.profiles
            },
        )

    def _core(self, config: UpstreamConfig) -> CACore:
        if isinstance(config, CMPHTTPUpstream):
            return HttpCA(
                config.url,
                connect_timeout_seconds=config.connect_timeout_seconds,
                max_response_bytes=config.max_response_bytes,
                max_connections=config.max_connections,
                ssl_context=_tls_context(config.url),
            )
        if self._bundled is None:
            raise ConfigError(
                [
                    Problem(
                        "ca", "an upstream is bundled, but there is no [ca]", "Add the table [ca]"
                    )
                ]
            )
        return self._bundled

    async def start(self) -> tuple[str, int]:
        """Check that the store answers, open the ledger, and listen.

        Returns:
            Host and port.

        Raises:
            StoreUnavailable: The store cannot be written to.
            CannotListen: The address or the port cannot be had.
        """
        await self.store.ping()
        return await _listen(self.listener, self._config.server, "server")

    async def stop(self) -> None:
        """Answer what was accepted, then close everything."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.store.close)
            for core in self._cores.values():
                stack.push_async_callback(core.close)
            await self.listener.drain(self._config.server.drain_seconds)


def cmp_listener(
    handler: CMPHandler,
    config: ServerConfig,
    *,
    routes: Mapping[str, str],
    profiles: Mapping[str, str],
) -> CMPListener:
    """Return a listener with the limits of a configuration."""
    return CMPListener(
        handler,
        routes=routes,
        profiles=profiles,
        host=config.listen_host,
        port=config.listen_port,
        max_body_bytes=config.max_body_bytes,
        header_timeout_seconds=config.header_timeout_seconds,
        body_timeout_seconds=config.body_timeout_seconds,
        idle_timeout_seconds=config.idle_timeout_seconds,
        max_connections=config.max_connections,
        max_requests_in_flight=config.max_requests_in_flight,
    )


class CAService:
    """The bundled CA as a process of its own (`ra-gateway ca serve`)."""

    def __init__(self, config: CAConfig) -> None:
        self._config = config
        self._ca = bundled_ca(config)
        self.listener = cmp_listener(
            self, config.server, routes={"/.well-known/cmp": "ca", "/pkix": "ca"}, profiles={}
        )

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str, operation: str, peer: str
    ) -> Reply:
        """Answer one message; a CA has one endpoint and one profile (`CMPHandler`)."""
        return await self._ca.handle(der, operation=operation, peer=peer)

    async def start(self) -> tuple[str, int]:
        """Listen; returns host and port.

        Raises:
            CannotListen: The address or the port cannot be had.
        """
        return await _listen(self.listener, self._config.server, "ca.server")

    async def stop(self) -> None:
        """Answer what was accepted, then close the ledger."""
        await self.listener.drain(self._config.server.drain_seconds)
        await self._ca.close()


def check(config: GatewayConfig) -> None:
    """Load everything that a gateway with this configuration would load, and leave no trace.

    Raises:
        ConfigError: Files that it names cannot be used.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if config.ca is not None and not config.ca.ledger_path.exists():
            # The ledger is made by who will write to it; whoever checks may be another user.
            ca = config.ca.model_copy(update={"ledger_path": Path(scratch) / "ledger.sqlite"})
            config = config.model_copy(update={"ca": ca})
        asyncio.run(_open_and_close(config))


async def _open_and_close(config: GatewayConfig) -> None:
    await Application(config).stop()


def catch_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets, from now on."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    return ended


def _settle_memory() -> None:
    """Let the garbage collector forget what was loaded at the start, and run less often.

    Messages make few cycles and many short-lived objects; by default their number alone would have all
    modules and settings, which never go away, walked over and over.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def run_until_signalled(
    service: Application | CAService, started: Callable[[str, int], None]
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        started: Called with host and port when requests are taken.

    Raises:
        StoreUnavailable, CannotListen: The service could not start.
    """
    ended = catch_signals()  # before anybody can know that it is up, and end it
    try:
        host, port = await service.start()
    except (ServiceFailure, CannotListen):
        await service.stop()
        raise
    _settle_memory()
    started(host, port)
    await ended.wait()
    structlog.get_logger().info("draining", host=host, port=port)
    await service.stop()


__all__ = [
    "Application",
    "CAService",
    "CannotListen",
    "bundled_ca",
    "catch_signals",
    "check",
    "cmp_listener",
    "now",
    "operator_domain",
    "ra_credential",
    "run_until_signalled",
    "transaction_store",
    "vendor_domains",
]
