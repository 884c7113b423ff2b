"""From a configuration to what answers devices: endpoints, CAs, credential. Owns clock, randomness and wiring."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ra_gateway.app.credential import CredentialFiles
from ra_gateway.app.endpoints import endpoints_of, secret_files_of, upstream_of
from ra_gateway.app.health import UpstreamProbe, none_of
from ra_gateway.app.inventory import open_inventory
from ra_gateway.app.reloading import InFlight
from ra_gateway.app.revocation import LedgerStatus, gateway_revocation
from ra_gateway.app.running import STEADY
from ra_gateway.app.trust import operator_domain, vendor_domains
from ra_gateway.app.upstreams import Cores, batched, metered
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.envelope import envelope_of
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.responder import Reply
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import CMPError, ConfigError, StoreUnavailable
from ra_gateway.events import EventSink
from ra_gateway.peers import network_of
from ra_gateway.ra.agenda import UnconfirmedCertificates
from ra_gateway.ra.begun import Begun
from ra_gateway.ra.pipeline import Gateway
from ra_gateway.ra.ports import AuditTrail, CACore
from ra_gateway.ra.rates import Limits
from ra_gateway.ra.services import Services
from ra_gateway.ra.signer_status import SignerStatus
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.server.listener import RETRY, Refusal
from ra_gateway.stores.inventory import InventoryFile
from ra_gateway.stores.memory import MemoryStore
from ra_gateway.stores.redis import RedisStore
from ra_gateway.stores.secrets import SecretFile
from ra_gateway.tasks import all_of, ended, supervised
from ra_gateway.upstream.kinds import BundledUpstream, CMPHTTPUpstream, UpstreamConfig
from ra_gateway.upstream.shared_secret import SecretOfCA

if TYPE_CHECKING:
    from ra_gateway.app.ca import CAWiring

_WITHDRAWING_SECONDS: Final = 10.0
"""Between two looks at certificates that await their confirmation: a small part of what devices have for that."""

_BACKGROUND_FACTOR: Final = 8
"""Exchanges whose devices were told to wait, for each request in flight: with more of them, nothing new is begun."""


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


class Wiring:
    """What one configuration asks for: its endpoints, CAs and credential, over what outlives them.

    It answers until the last message that came to it is answered, while another one takes those that come then.

    Args:
        store: Where transactions are kept.
        bundled: The bundled CA, if an upstream is that.
        sink: Takes what happens (`ra_gateway.events`).
        before: What it takes the place of, for the credentials that transactions were begun with, for what was
            counted, and for what is known to be revoked.
        audit: The audit trail, if there is one.

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
        audit: AuditTrail | None = None,
    ) -> None:
        self.config, self.store = config, store
        operator, vendors = operator_domain(config), vendor_domains(config.vendors)
        self.domains = (operator, *vendors.values())
        """The operator's, and those of all vendors."""
        has_others = config.store.kind == "redis"
        self._ra: CredentialFiles = CredentialFiles(
            config.ra,
            operator,
            timedelta(seconds=config.store.transaction_lifetime_seconds),
            sink,
            None if before is None else before._ra,
            timedelta(seconds=config.ra.begin_after_seconds if has_others else 0),
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
                upstream_of(
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
        self._secrets: dict[str, SecretFile] = secret_files_of(
            config, {} if before is None else before._secrets
        )
        endpoints = endpoints_of(
            config, upstreams, vendors, operator, self._secrets, self._own_certificates
        )
        self.revocation: Revocation = gateway_revocation(
            config, operator, vendors, before=None if before is None else before.revocation
        )
        self._inventory = open_inventory(config, sink)
        own = None if bundled is None else LedgerStatus(bundled.ledger, bundled.issuers)
        self.services: Services = Services(
            endpoints=endpoints,
            credential=lambda: self._ra.current,
            other_credentials=self._ra.others,
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
            limits=Limits(
                store,
                time.monotonic,
                every=config.limits.rate(config.limits.requests_per_second),
                vendors={
                    name: rate
                    for name, vendor in config.vendors.items()
                    if (rate := config.limits.rate(vendor.requests_per_second)) is not None
                },
                source=config.limits.rate(config.limits.source_requests_per_second),
                before=None if before is None else before.services.limits,
            ),
            audit=audit,
            begun=Begun(config.store.transaction_lifetime_seconds)
            if before is None
            else before.services.begun,
        )
        self.gateway = Gateway(self.services)
        self._most_in_background = _BACKGROUND_FACTOR * config.server.max_requests_in_flight
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
    def credential_is_current(self) -> bool:
        """Whether it is that of its files: False while these have changed and cannot be used."""
        return self._ra.is_current

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
        return [item.certificate for item in (self._ra.current, *self._ra.others())]

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
        """Answer one message (`CMPHandler`).

        Raises:
            Refusal: There are too many at the moment.
        """
        await self._require_room(der, peer)
        with self._in_flight:
            return await self.gateway.handle(
                der, endpoint=endpoint, profile=profile, operation=operation, peer=peer
            )

    async def _require_room(self, der: bytes, peer: str) -> None:
        """Turn away what is too much before anything is computed for it, unless it belongs to what was begun."""
        limits = self.services.limits
        is_full = self.services.background_count >= self._most_in_background
        if limits.source is None and not is_full:
            return
        said = envelope_of(der)
        if self.has_begun(said.transaction_id):
            return
        if is_full and not said.follows:
            limits.turned_away["background"] += 1
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **RETRY)
        try:
            wait_seconds = await limits.wait_of_source(network_of(peer))
        except StoreUnavailable:  # without which nothing is begun or finished
            wait_seconds = 1.0
        if wait_seconds:
            after = {"Retry-After": str(math.ceil(wait_seconds))}
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, **after)

    def has_begun(self, transaction_id: bytes) -> bool:
        """Return whether a message under a transactionID goes before others (`KnowsBegun`)."""
        return self.services.begun.ride(transaction_id)

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
