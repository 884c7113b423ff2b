"""From a configuration to what answers devices: endpoints, CAs, credential. Owns clock, randomness and wiring."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ra_gateway.app.credential import CredentialFiles
from ra_gateway.app.health import UpstreamProbe, none_of
from ra_gateway.app.information import information
from ra_gateway.app.inventory import open_inventory
from ra_gateway.app.reloading import InFlight
from ra_gateway.app.revocation import LedgerStatus, gateway_revocation
from ra_gateway.app.running import STEADY, now
from ra_gateway.app.trust import (
    anchors,
    certificates,
    counts_known,
    operator_domain,
    vendor_domains,
)
from ra_gateway.app.upstreams import Cores, answer_trust, batched, metered, upstream_settings
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.header_checks import RELAYED, HeaderRules
from ra_gateway.cmp.mac import MACBounds
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.requests import Possession
from ra_gateway.cmp.responder import Reply
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.tables import (
    EndpointConfig,
    GatewayConfig,
    IdentityConfig,
    MACConfig,
    RegistrationAuthoritiesConfig,
    RouteConfig,
)
from ra_gateway.errors import CMPError, ConfigError
from ra_gateway.events import EventSink
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
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.stores.inventory import InventoryFile
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.secrets import SecretFile
from ra_gateway.tasks import all_of, ended, supervised
from ra_gateway.upstream.kinds import BundledUpstream, UpstreamConfig
from ra_gateway.upstream.pool import CMPHTTPUpstream
from ra_gateway.upstream.shared_secret import SecretOfCA

if TYPE_CHECKING:
    from ra_gateway.app.ca import CAWiring

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


def _require_believed(ca: CAWiring, operator: TrustDomain) -> None:
    """Refuse a bundled CA whose answers do not lead to the operator's roots: all that it issues would be refused.

    Raises:
        ConfigError: They do not, as after a change of the issuing CA.
    """
    signer = ca.credential.certificate
    try:
        # That it has ended is told by itself, and its status is served all the same.
        operator.find_path(signer, ca.credential.chain, min(now(), signer.not_after))
    except CMPError as error:
        raise ConfigError.of(
            "operator.intermediates_paths",
            f"nobody would believe the bundled CA: {error.detail}",
            f"List {ca.config.directory_path / 'issuing.pem'} here, beside the CAs before it, and its root in "
            "operator.anchors_paths",
        ) from error


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


def _secret_file(name: str, config: MACConfig, before: Mapping[str, SecretFile]) -> SecretFile:
    """Return the secrets of an endpoint, which go on from those of before: from the same files, under whatever name."""
    files = before.values()
    same = [item for item in files if item.used_path and item.used_path == config.used_path]
    same = same or [item for item in files if item.path == config.secrets_path]
    return SecretFile(
        config.secrets_path,
        before=same[0] if same else before.get(name),
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
            only_known=counts_known(own or operator.anchors, operator),
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


class Wiring:
    """What one configuration asks for: its endpoints, CAs and credential, over what outlives them.

    It answers until the last message that came to it is answered, while another one takes those that come then.

    Args:
        store: Where transactions are kept.
        bundled: The bundled CA, if an upstream is that.
        sink: Takes what happens (`ra_gateway.events`).
        before: What it takes the place of, for the credentials that transactions were begun with, for what was
            counted, and for what is known to be revoked.

    Raises:
        ConfigError: Files that the configuration names cannot be used.
    """

    def __init__(
        self,
        config: GatewayConfig,
        store: MemoryStore | RedisStore,
        bundled: CAWiring | None,
        sink: EventSink,
        before: Wiring | None = None,
    ) -> None:
        self.config, self.store = config, store
        operator, vendors = operator_domain(config), vendor_domains(config.vendors)
        self.domains = (operator, *vendors.values())
        """The operator's, and those of all vendors."""
        self._ra: CredentialFiles = CredentialFiles(
            config.ra,
            operator,
            timedelta(seconds=config.store.transaction_lifetime_seconds),
            sink,
            None if before is None else before._ra,
        )
        self._background: list[asyncio.Task[None]] = []
        self._in_flight = InFlight()
        self._bundled = bundled
        self._remote = Cores(operator, self._own_certificates)
        cores = {name: self._core(name, upstream) for name, upstream in config.upstreams.items()}
        secrets_before = {} if before is None else before._ca_secrets
        self._ca_secrets: dict[str, SecretOfCA] = {
            name: upstream.mac.open(f"upstreams.{name}.mac", now, secrets_before.get(name))
            for name, upstream in config.upstreams.items()
            if isinstance(upstream, CMPHTTPUpstream) and upstream.mac is not None
        }
        upstreams = {
            name: batched(
                upstream,
                _upstream(
                    name,
                    upstream,
                    cores[name],
                    operator,
                    self._ra.current,
                    self._own_certificates,
                    self._ca_secrets.get(name),
                ),
                lambda: self._ra.current,
            )
            for name, upstream in config.upstreams.items()
        }
        self.cores: dict[str, CACore] = {
            name: upstream.core
            for name, upstream in upstreams.items()
            if bundled is None or upstream.core is not bundled.ca
        }
        """Of CAs elsewhere."""
        self._probes = [
            UpstreamProbe(name, upstream.core, sink) for name, upstream in upstreams.items()
        ]
        self.upstreams = upstreams = {name: metered(item) for name, item in upstreams.items()}
        self._secrets: dict[str, SecretFile] = {
            name: _secret_file(name, endpoint.mac, {} if before is None else before._secrets)
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
        self.revocation: Revocation = gateway_revocation(
            config, operator, vendors, before=None if before is None else before.revocation
        )
        self._inventory = open_inventory(config, sink)
        own = None if bundled is None else LedgerStatus(bundled.ledger, bundled.issuers)
        self.services = Services(
            endpoints=endpoints,
            credential=lambda: self._ra.current,
            earlier_credentials=self._ra.earlier,
            store=store,
            schedule=store,
            approvals=store,
            confirmation_records=store,
            device_records=store,
            inventory=self._inventory,
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
        self.routes = {
            path: name for name, endpoint in config.endpoints.items() for path in endpoint.paths
        }
        self.profiles = {
            profile: name
            for name, endpoint in config.endpoints.items()
            for profile in endpoint.profiles
        }

    @property
    def in_flight_count(self) -> int:
        """How many messages are being answered."""
        return self._in_flight.count

    @property
    def credential(self) -> Credential:
        """The RA's, as it is now."""
        return self._ra.current

    @property
    def upstream_problems(self) -> dict[str, str]:
        """What is wrong with each CA by name, "" if nothing is."""
        return {probe.name: probe.problem for probe in self._probes}

    def parts(self) -> dict[str, str]:
        """Return what has to work for devices to be served, with what is wrong with it; "" if nothing is."""
        certificate = self._ra.current.certificate
        expired = f"{certificate.subject} is valid until {certificate.not_after:%Y-%m-%d %H:%M} UTC"
        return {
            "ra_credential": "" if certificate.valid_at(now()) else expired,
            "upstreams": none_of(self._probes),
        }

    def _own_certificates(self) -> list[Certificate]:
        return [item.certificate for item in (self._ra.current, *self._ra.earlier())]

    def _core(self, name: str, config: UpstreamConfig) -> CACore:
        if not isinstance(config, BundledUpstream):
            return self._remote.core(name, config)
        if self._bundled is None:
            raise ConfigError.of(
                "ca", "an upstream is bundled, but there is no [ca]", "Add the table [ca]"
            )
        _require_believed(self._bundled, self._remote.operator)
        return self._bundled.ca

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str, operation: str, peer: str
    ) -> Reply:
        """Answer one message (`CMPHandler`)."""
        with self._in_flight:
            return await self.gateway.handle(
                der, endpoint=endpoint, profile=profile, operation=operation, peer=peer
            )

    async def start(self) -> None:
        """Fetch CRLs, so that no device waits for them, and begin what goes on beside the messages."""
        for secret_file in self._secrets.values():
            secret_file.take_up()
        await all_of([self.revocation.start(), *(probe.once() for probe in self._probes)])
        watched = [("ra.credential", self._ra.watch)]
        watched += [("upstream.secret", secret.watch) for secret in self._ca_secrets.values()]
        if isinstance(self._inventory, InventoryFile):
            watched += [("inventory", self._inventory.watch)]
        watched += [(f"upstream.probe {probe.name}", probe.run) for probe in self._probes]
        watched += [("unconfirmed", self._withdraw)]
        self._background = [asyncio.create_task(supervised(*item)) for item in watched]

    async def _withdraw(self) -> None:
        await UnconfirmedCertificates(self.services).run(_WITHDRAWING_SECONDS)

    async def stop(self, seconds: float) -> None:
        """Answer what came here, then close everything but what outlives it.

        Args:
            seconds: Time for that.
        """
        background, self._background = self._background, []
        await ended(*background)
        left_at = time.monotonic() + seconds
        async with AsyncExitStack() as stack:
            for secret_file in self._secrets.values():
                stack.push_async_callback(secret_file.close)
            if self._inventory is not None:
                stack.push_async_callback(self._inventory.close)
            stack.push_async_callback(self.revocation.stop)
            for core in self.cores.values():
                stack.push_async_callback(core.close)
            await self._in_flight.end(seconds)
            # Devices that were told to wait: what their CA still answers in time need not be asked for again.
            await self.services.drain(max(left_at - time.monotonic(), 0.0))
