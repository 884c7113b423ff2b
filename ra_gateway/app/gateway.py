"""The gateway's composition root: from a configuration to a running gateway. Owns clock, randomness and wiring."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from ra_gateway.app.credential import CredentialFiles
from ra_gateway.app.information import information
from ra_gateway.app.management import Management, Probe
from ra_gateway.app.revocation import LedgerStatus, gateway_revocation
from ra_gateway.app.running import STEADY, cmp_listener, event_sink, listen, now
from ra_gateway.app.trust import anchors, certificates, operator_domain, vendor_domains
from ra_gateway.app.upstreams import Cores, answer_trust, batched, upstream_settings
from ra_gateway.clocks import unstepped
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.header_checks import RELAYED, HeaderRules
from ra_gateway.cmp.mac import MACBounds
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.requests import Possession
from ra_gateway.cmp.selfcheck import require_codec
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.service_tables import StoreConfig
from ra_gateway.config.tables import (
    EndpointConfig,
    GatewayConfig,
    IdentityConfig,
    MACConfig,
    RegistrationAuthoritiesConfig,
    RouteConfig,
)
from ra_gateway.errors import ConfigError, missing_extra
from ra_gateway.events import Component, EventSink, unheard
from ra_gateway.metrics import Metrics
from ra_gateway.ra.endpoints import (
    Endpoint,
    MACAccess,
    Route,
    Upstream,
)
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import CACore, CASecret
from ra_gateway.ra.registration import RARights, RegisteredName, RegistrationAuthorities
from ra_gateway.ra.services import Services
from ra_gateway.ra.signer_status import SignerStatus
from ra_gateway.ra.transaction import RELAYED_DOMAIN
from ra_gateway.ra.unconfirmed import UnconfirmedCertificates
from ra_gateway.stores.inventory import CSVInventory
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.sealing import load_seal_keys
from ra_gateway.stores.secrets import SecretFile
from ra_gateway.tasks import ended, supervised
from ra_gateway.upstream.kinds import BundledUpstream, UpstreamConfig
from ra_gateway.upstream.pool import CMPHTTPUpstream

if TYPE_CHECKING:
    from ra_gateway.app.ca import BundledService

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.store")

OTHER_SEAL_KEY: Final = (
    "give all gateways the same keys in store.seal_key_paths; to change them, first add the new one behind the old one "
    "everywhere, then before it everywhere, then remove the old one; where all have the same already, remove the "
    "mark once: redis-cli DEL"
)
"""What to do about a mark of another key; the name of the mark follows."""

_WITHDRAWING_SECONDS: Final = 10.0
"""Between two looks at certificates that await their confirmation: a small part of what devices have for that."""

# --- routes ---------------------------------------------------------------------------------------------------


def _identity(config: IdentityConfig, *, enabled: bool) -> IdentityRules:
    return IdentityRules(**dict(config), enabled=enabled)


def _upstream(
    name: str,
    config: UpstreamConfig,
    core: CACore,
    operator: TrustDomain,
    credential: Credential,
    own: Callable[[], Collection[Certificate]],
    secret: CASecret | None,
) -> Upstream:
    """Return an upstream.

    Args:
        credential: The RA's, which says whom messages are addressed to.
        own: Returns the RA's own certificates, whichever are current.
        secret: What the RA shares with the CA.
    """
    setting = f"upstreams.{name}"
    recipient = (
        credential.certificate.issuer_der
        if config.recipient is None
        else from_rfc4514(config.recipient)
    )
    trust, pinned = answer_trust(name, config, core, operator)
    issuing = operator
    if config.issuing_ca_paths:
        issuing = TrustDomain(
            name,
            DomainKind.operator,
            certificates(config.issuing_ca_paths, f"{setting}.issuing_ca_paths"),
            operator.intermediates,
        )
    return Upstream(
        name=name,
        core=core,
        recipient_der=directory_name(recipient),
        trust=trust,
        issuing=issuing,
        settings=upstream_settings(config),
        pinned=pinned,
        deadline_seconds=config.deadline_seconds,
        replays_repeats=config.replays_repeats,
        own=own,
        secret=secret,
    )


def _route(
    name: str,
    config: RouteConfig,
    upstreams: Mapping[str, Upstream],
) -> Route:
    return Route(
        name=name,
        upstream=upstreams[config.upstream],
        profiles=frozenset(config.profiles),
        cert_profiles=frozenset(config.cert_profiles),
        domains=frozenset(config.domains),
        body_types=frozenset(config.body_types),
        subjects=config.subjects,
        identity=None if config.identity is None else _identity(config.identity, enabled=True),
        approval=config.approval,
    )


def _secret_file(config: MACConfig) -> SecretFile:
    return SecretFile(
        config.secrets_path,
        clock=now,
        used_path=config.used_path,
        lockout_failures=config.lockout_failures,
        lockout_seconds=config.lockout_seconds,
    )


def _mac(name: str, config: MACConfig, secret_file: SecretFile, operator: TrustDomain) -> MACAccess:
    return MACAccess(
        # A colon, which no vendor's name has: transactions are kept by the name.
        TrustDomain(
            f"mac:{name}",
            DomainKind.shared_secrets,
            (),
            algorithms=operator.algorithms,
            quirks=frozenset(config.quirks),
        ),
        secret_file,
        MACBounds(
            config.min_iterations,
            config.max_iterations,
            config.max_pbkdf_iterations,
            config.allow_weak_hmac,
            config.allow_weak_owf,
        ),
    )


def _relays(
    name: str, config: RegistrationAuthoritiesConfig, operator: TrustDomain
) -> RegistrationAuthorities:
    setting = f"endpoints.{name}.registration_authorities"
    own = anchors(config.anchors_paths, f"{setting}.anchors_paths")
    return RegistrationAuthorities(
        TrustDomain(
            f"{RELAYED_DOMAIN}{name}",
            DomainKind.registration_authority,
            own or operator.anchors,
            operator.intermediates,
            operator.algorithms,
            RELAYED,
            "" if own else operator.name,
            only_known=operator.only_known and not own,
        ),
        frozenset(certificates(config.certificate_paths, f"{setting}.certificate_paths")),
        IdentityRules(allowed_subjects=config.allowed_subjects, allowed_sans=config.allowed_sans),
        ra_verified=config.ra_verified,
        revoke_on_behalf=config.revoke_on_behalf,
        nested=config.nested,
        batch_max=config.batch_max,
        rights=_rights(setting, config),
        names=_registered_names(setting, config),
    )


def _registered_names(
    setting: str, config: RegistrationAuthoritiesConfig
) -> tuple[RegisteredName, ...]:
    return tuple(
        RegisteredName(
            b"" if row.subject is None else from_rfc4514(row.subject),
            row.sans,
            frozenset(certificates(row.issuer_paths, f"{setting}.names[{index}].issuer_paths")),
            RARights(
                IdentityRules(allowed_subjects=row.allowed_subjects, allowed_sans=row.allowed_sans),
                row.ra_verified,
                row.revoke_on_behalf,
            ),
        )
        for index, row in enumerate(config.names)
    )


def _reserved(config: GatewayConfig) -> tuple[RegisteredName, ...]:
    """Return the names of registered RAs: who had a certificate with one at some endpoint could use it at another."""
    return tuple(
        name
        for endpoint, table in config.endpoints.items()
        if (relays := table.registration_authorities) is not None
        for name in _registered_names(f"endpoints.{endpoint}.registration_authorities", relays)
    )


def _rights(setting: str, config: RegistrationAuthoritiesConfig) -> dict[Certificate, RARights]:
    registered = frozenset(certificates(config.certificate_paths, f"{setting}.certificate_paths"))
    rights: dict[Certificate, RARights] = {}
    for index, row in enumerate(config.rights):
        where = f"{setting}.rights[{index}].certificate_paths"
        own = RARights(
            IdentityRules(allowed_subjects=row.allowed_subjects, allowed_sans=row.allowed_sans),
            row.ra_verified,
            row.revoke_on_behalf,
        )
        for certificate in certificates(row.certificate_paths, where):
            if certificate not in registered or certificate in rights:
                what = "is listed twice" if certificate in rights else "is no registered RA's"
                todo = f"List it once here, and in {setting}.certificate_paths"
                raise ConfigError.of(where, f"{certificate.subject} {what}", todo)
            rights[certificate] = own
    return rights


def _endpoint(
    name: str,
    config: EndpointConfig,
    gateway: GatewayConfig,
    upstreams: Mapping[str, Upstream],
    vendors: Mapping[str, TrustDomain],
    operator: TrustDomain,
    access: Mapping[str, MACAccess],
    reserved: tuple[RegisteredName, ...],
    own: Callable[[], Collection[Certificate]],
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
        vendor_types={
            vendor: frozenset(gateway.vendors[vendor].body_types) for vendor in config.vendors
        },
        operator=operator if config.operator else None,
        body_types=frozenset(config.body_types),
        settings=config,
        rules=HeaderRules(
            strictness=config.strictness,
            message_time_window_seconds=config.message_time_window_seconds,
            require_message_time=config.require_message_time,
            extra_certs_max_count=config.extra_certs_max_count,
        ),
        information=information(config.genm, f"endpoints.{name}.genm", operator, own),
        routes=tuple(
            _route(f"endpoints.{name}.routes[{index}]", route, upstreams)
            for index, route in enumerate(config.routes)
        ),
        accepted=frozenset(
            possession
            for possession, taken in (
                (Possession.key_generation, config.key_generation),
                (Possession.encr_cert, config.encrypted_certificates),
            )
            if taken
        ),
        reserved=reserved,
        mac=access.get(name),
        origins=(*vendors.values(), *(item.domain for item in access.values())),
        origin_subjects={
            vendor: table.operator_subjects for vendor, table in gateway.vendors.items()
        },
        registration_authorities=(
            None
            if config.registration_authorities is None
            else _relays(name, config.registration_authorities, operator)
        ),
    )


# --- adapters -------------------------------------------------------------------------------------------------


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
            max_per_signer=config.max_transactions_per_signer,
            max_held=config.max_held,
            sink=sink,
        )
    raise ConfigError.of(
        "store.redis_url_path",
        "is not the URL of a Redis server",
        "Give a redis://, rediss:// or unix:// URL; in the password write / as %2F, # as %23, ? as %3F, "
        "@ as %40",
    )


def _bundled(config: GatewayConfig, sink: EventSink) -> BundledService | None:
    if not config.has_bundled_upstream or config.ca is None:
        return None
    try:
        from ra_gateway.app.ca import BundledService
    except ModuleNotFoundError as error:
        raise missing_extra("ca", error) from error
    return BundledService(config.ca, config.vendors, sink)


class Application:
    """One gateway process: everything that a configuration asks for, wired together.

    Args:
        sink: Takes what happens (`ra_gateway.events`) in place of the log, the bundled CA's facts included.

    Raises:
        ConfigError: On construction, when files that the configuration names cannot be used.
    """

    def __init__(self, config: GatewayConfig, *, sink: EventSink | None = None) -> None:
        require_codec()
        self._config = config
        metrics = Metrics()
        sink = event_sink(metrics, sink)
        operator, vendors = operator_domain(config), vendor_domains(config.vendors)
        self._ra = CredentialFiles(
            config.ra, operator, timedelta(seconds=config.store.transaction_lifetime_seconds), sink
        )
        self._background: list[asyncio.Task[None]] = []
        self._bundled = _bundled(config, sink)
        self._remote = Cores(operator, self._own_certificates)
        self._cores: dict[str, CACore] = {
            name: self._core(name, upstream) for name, upstream in config.upstreams.items()
        }
        self._ca_secrets = {
            name: upstream.mac.open(f"upstreams.{name}.mac", now)
            for name, upstream in config.upstreams.items()
            if isinstance(upstream, CMPHTTPUpstream) and upstream.mac is not None
        }
        upstreams = {
            name: batched(
                upstream,
                _upstream(
                    name,
                    upstream,
                    self._cores[name],
                    operator,
                    self._ra.current,
                    self._own_certificates,
                    self._ca_secrets.get(name),
                ),
                lambda: self._ra.current,
            )
            for name, upstream in config.upstreams.items()
        }
        self._cores = {name: upstream.core for name, upstream in upstreams.items()}
        self._secrets = {
            name: _secret_file(endpoint.mac)
            for name, endpoint in config.endpoints.items()
            if endpoint.mac is not None
        }
        reserved = _reserved(config)
        access = {
            name: _mac(name, endpoint.mac, self._secrets[name], operator)
            for name, endpoint in config.endpoints.items()
            if endpoint.mac is not None
        }
        endpoints = {
            name: _endpoint(
                name,
                endpoint,
                config,
                upstreams,
                vendors,
                operator,
                access,
                reserved,
                self._own_certificates,
            )
            for name, endpoint in config.endpoints.items()
        }
        self.store = transaction_store(config.store, sink)
        self.revocation = gateway_revocation(config, operator, vendors)
        own = (
            None
            if self._bundled is None
            else LedgerStatus(self._bundled.ledger, self._bundled.issuers)
        )
        self.services = Services(
            endpoints=endpoints,
            credential=lambda: self._ra.current,
            earlier_credentials=self._ra.earlier,
            store=self.store,
            schedule=self.store,
            approvals=self.store,
            confirmation_records=self.store,
            device_records=self.store,
            inventory=None if config.inventory is None else CSVInventory(config.inventory.csv_path),
            clock=now,
            monotonic=time.monotonic,
            random_octets=secrets.token_bytes,
            sink=sink,
            signer_status=SignerStatus(self.revocation, own, own),
            lifetime=timedelta(seconds=config.store.transaction_lifetime_seconds),
            act_lifetime=timedelta(seconds=config.store.act_lifetime_seconds),
            steady=STEADY,
        )
        self.gateway = Gateway(self.services)
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
            sink=sink,
            by=Component.gateway,
        )
        self._state = "starting"
        self._store_probe = Probe(self.store.ping)
        self.management = Management(
            config.management,
            config.server.listen_port,
            metrics,
            {"process": lambda: self._state, "store": self._store_probe},
        )

    def _own_certificates(self) -> list[Certificate]:
        return [item.certificate for item in (self._ra.current, *self._ra.earlier())]

    def _core(self, name: str, config: UpstreamConfig) -> CACore:
        if not isinstance(config, BundledUpstream):
            return self._remote.core(name, config)
        if self._bundled is None:
            raise ConfigError.of(
                "ca", "an upstream is bundled, but there is no [ca]", "Add the table [ca]"
            )
        return self._bundled.ca

    async def start(self) -> tuple[str, int]:
        """Check that the store answers, open the ledger, fetch CRLs, and listen.

        Returns:
            Host and port.

        Raises:
            ConfigError: The ledger of the bundled CA cannot be used.
            StoreUnavailable: The store cannot be written to.
            CannotListen: The address or the port cannot be had.
        """
        await self.management.start()
        await self.store.ping()
        await self._compare_seals()
        if self._bundled is not None:
            await self._bundled.start()
        await self.revocation.start()
        self._background = [
            asyncio.create_task(supervised("ra.credential", self._ra.watch)),
            asyncio.create_task(supervised("store.probe", self._store_probe.run)),
            *(
                asyncio.create_task(supervised("upstream.secret", secret.watch))
                for secret in self._ca_secrets.values()
            ),
            asyncio.create_task(
                supervised(
                    "unconfirmed",
                    lambda: UnconfirmedCertificates(self.services).run(_WITHDRAWING_SECONDS),
                )
            ),
        ]
        server = self._config.server
        where = await listen(self.listener, server.listen_host, server.listen_port, "server")
        self._state = ""
        return where

    async def _compare_seals(self) -> None:
        """Tell when other gateways seal by a key that this one has not; each goes on with what it can open itself.

        Whoever can write to Redis can change the mark, and is not to keep a gateway from starting by that.
        """
        if isinstance(self.store, RedisStore) and not await self.store.has_our_mark():
            log.error(
                "store.other_seal_key",
                key=self.store.mark_key,
                detail="the gateways that share this Redis seal by a key that is not in store.seal_key_paths: they "
                "do not believe each other's transactions, and base stations fail that come to another one",
                todo=f"{OTHER_SEAL_KEY} {self.store.mark_key}",
            )

    async def stop(self) -> None:
        """Answer what was accepted, then close everything."""
        self._state = "draining"
        background, self._background = self._background, []
        await ended(*background)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.management.stop)
            stack.push_async_callback(self.store.close)
            for secret_file in self._secrets.values():
                stack.push_async_callback(secret_file.close)
            stack.push_async_callback(self.revocation.stop)
            for core in self._cores.values():
                stack.push_async_callback(core.close)
            if self._bundled is not None:
                stack.push_async_callback(self._bundled.stop)
            left_at = time.monotonic() + self._config.server.drain_seconds
            await self.listener.drain(self._config.server.drain_seconds)
            # Devices that were told to wait: what their CA still answers in time need not be asked for again.
            await self.services.drain(max(left_at - time.monotonic(), 0.0))
