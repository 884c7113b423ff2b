"""The bundled CA's composition root, in the gateway's process or in its own (`ra_gateway.app.ca_service`)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import structlog

from ra_gateway.app.ca_readings import meter_ca
from ra_gateway.app.health import CALM_SECONDS, LOOK_SECONDS, Probe
from ra_gateway.app.ledger import ca_checkpoints, ca_ledger, require_database
from ra_gateway.app.profiles import ca_profiles, lacks_crl_url, unusable
from ra_gateway.app.readings import of_domains, of_revocation
from ra_gateway.app.reloading import InFlight
from ra_gateway.app.revocation import revocation
from ra_gateway.app.running import (
    STEADY,
    CannotListen,
    listen,
    proxies,
)
from ra_gateway.app.trust import vendor_domains
from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.core import BundledCA
from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.crl_directory import CRLDirectory
from ra_gateway.ca.files import CAFiles
from ra_gateway.ca.general_messages import Published
from ra_gateway.ca.key_generation import KeyGeneration
from ra_gateway.ca.keys import CAKeys, expiries, load_ca, retired_certificates
from ra_gateway.ca.ledger.belonging import require_own_file
from ra_gateway.ca.ledger.checkpoints import TrailRewritten
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.lint import require_clean
from ra_gateway.ca.ocsp import OCSPResponder, OCSPSettings, OCSPSigner
from ra_gateway.ca.profiles import Profile
from ra_gateway.ca.root_record import RootCRL, revoked_by_root
from ra_gateway.ca.status import CAStatus
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.responder import Reply
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.config.ca_tables import CAConfig, CAStatusConfig
from ra_gateway.config.tables import VendorConfig
from ra_gateway.config.values import OPERATOR_DOMAIN
from ra_gateway.errors import ConfigError, StoreUnavailable
from ra_gateway.events import Component, EventSink
from ra_gateway.keys import read_password
from ra_gateway.metrics import Metrics
from ra_gateway.revocation.refreshing import Revocation
from ra_gateway.server.shared_sockets import SharedSockets
from ra_gateway.server.status import StatusListener
from ra_gateway.tasks import ended, supervised

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")

CLIENT_ENDPOINT: Final = "client"

EXPIRY_WARNING: Final = timedelta(days=30)
"""How early the CA's own certificates are warned of: renewing them wants somebody's hand."""

_WARNING_SECONDS: Final = 86_400.0

_ROOT_SECONDS: Final = 10.0
"""From one look for what the root has revoked to the next."""

_CHECKPOINT_SECONDS: Final = 3600.0
"""What is cut off the audit trail within an hour is told by nothing else than the last hour's log."""


def ca_keys(config: CAConfig) -> CAKeys:
    """Load keys and certificates of the CA.

    Raises:
        ConfigError: They cannot be used.
    """
    keys = load_ca(
        config.directory_path,
        now=now(),
        password=read_password(config.key_password_path),
    )
    if config.rsa_pss:
        keys.issuers[0].use_pss()
    return keys


def crl_publisher(
    config: CAConfig, keys: CAKeys, ledger: Ledger, before: CRLPublisher | None = None
) -> CRLPublisher:
    """Return what makes the CA's CRLs.

    Args:
        before: What it takes the place of.

    Raises:
        ConfigError: An issuing CA may not sign CRLs.
    """
    status = config.status or CAStatusConfig()
    settings = CRLSettings(
        crl_hours=status.crl_hours,
        overlap_hours=status.overlap_hours,
        delta_minutes=status.delta_minutes,
        delta_url=config.delta_crl_url or "",
        check_seconds=status.check_seconds,
    )
    return CRLPublisher(keys.issuers, ledger, now, settings, steady=STEADY, before=before)


def _status(
    config: CAConfig, keys: CAKeys, ledger: Ledger, publisher: CRLPublisher
) -> CAStatus | None:
    status = config.status
    if status is None:
        return None
    responder = None
    if status.ocsp:
        signers = [
            OCSPSigner(issuer.certificate, issuer.id, keys.ocsp[issuer.id])
            for issuer in keys.issuers
        ]
        responder = OCSPResponder(
            signers,
            ledger,
            now,
            OCSPSettings(status.ocsp_validity_minutes, status.ocsp_max_age_seconds),
        )
    return CAStatus(keys.root, keys.issuers, publisher, responder, RootCRL(config.directory_path))


def _status_listener(
    config: CAStatusConfig | None,
    handler: CAStatus | None,
    sink: EventSink,
    sockets: SharedSockets | None,
) -> StatusListener | None:
    if config is None or handler is None:
        return None
    return StatusListener(
        handler,
        host=config.listen_host,
        port=config.listen_port,
        clock=now,
        max_connections=config.max_connections,
        max_connections_per_address=config.max_connections_per_address,
        sink=sink,
        by=Component.ca,
        sockets=sockets,
        **proxies(config),
    )


def _key_generation(keys: CAKeys, config: CAConfig) -> KeyGeneration | None:
    if not config.key_generation:
        return None
    if keys.key_generation is None:
        raise ConfigError.of(
            "ca.key_generation",
            f"is on, but {config.directory_path} has no kga.pem to sign such keys with",
            f"Run: ra-gateway ca renew-signers --key-generation --within-days 0 {config.directory_path}",
        )
    return KeyGeneration(keys.key_generation, bare_keys=config.bare_keys)


def _published(keys: CAKeys, config: CAConfig, profiles: Iterable[Profile]) -> Published:
    update = keys.root_update
    chains = (
        certificate.der
        for issuer in keys.issuers
        for certificate in (issuer.certificate, *issuer.chain)
        if not certificate.self_issued
    )
    # Whoever has the old root only needs the way from it to the new one.
    cross = () if update is None else (update.new_with_old,)
    points = {config.crl_url or "", *(url for item in profiles for url in item.crl_urls)} - {""}
    # Without its key identifier in it, the URL is that of the active one, which comes last.
    urls = {
        url.replace("{issuer}", issuer.id): issuer.id
        for issuer in reversed(keys.issuers)
        for url in points
    }
    return Published(
        ca_certificates=tuple(dict.fromkeys((*chains, *cross))),
        root_update=update,
        crl_urls=urls,
        crl_issuers={
            issuer.certificate.subject_der: issuer.id for issuer in reversed(keys.issuers)
        },
    )


def _until_next_warning(ends: Iterable[datetime]) -> float:
    """Return seconds: a day, or less where one of these moments comes before."""
    moment = now()
    left = ((end - moment).total_seconds() + 1.0 for end in ends if end >= moment)
    return min([_WARNING_SECONDS, *left])


class CAWiring:
    """What one configuration asks of the bundled CA: its keys, profiles and CRLs, over a ledger that outlives them.

    Args:
        vendors: Tables of the vendors by name, for client mode.
        ledger: Opened and closed by whoever runs the CA.
        sink: Takes what happens (`ra_gateway.events`); must not raise.
        before: What it takes the place of, for what is known to be revoked, the CRLs that are served, and the names
            that nobody gets.

    Raises:
        ConfigError: Its files cannot be used.
    """

    def __init__(
        self,
        config: CAConfig,
        vendors: Mapping[str, VendorConfig],
        ledger: Ledger,
        sink: EventSink,
        before: CAWiring | None = None,
    ) -> None:
        self.config, self.ledger = config, ledger
        listed = config.client.vendors if config.client is not None else ()
        domains = vendor_domains({name: vendors[name] for name in listed})
        self.domains = tuple(domains.values())
        """Of the vendors, in client mode."""
        self.revocation_tables = [vendors[name].revocation for name in listed]
        self.revocation: Revocation = revocation(
            zip(self.domains, self.revocation_tables, strict=True),
            None if before is None else before.revocation,
        )
        keys = ca_keys(config)
        self._profiles = profiles = ca_profiles(config)
        require_clean(profiles.values(), keys.issuers[0])
        self._issuing, self._root = keys.issuers, keys.root
        self.credential: Credential = keys.credential
        """What its CMP messages are signed with."""
        self.issuers: tuple[Certificate, ...] = tuple(issuer.certificate for issuer in keys.issuers)
        self.publisher: CRLPublisher = crl_publisher(
            config, keys, ledger, None if before is None else before.publisher
        )
        self.status = _status(config, keys, ledger, self.publisher)
        self._background: list[asyncio.Task[None]] = []
        self._in_flight = InFlight()
        self._told = ""
        client = config.client
        roots = (keys.root, *((keys.old_root,) if keys.old_root else ()))
        self.ca: BundledCA = BundledCA(
            credential=keys.credential,
            issuers=keys.issuers,
            ledger=ledger,
            operator=TrustDomain(
                OPERATOR_DOMAIN,
                DomainKind.operator,
                roots,
                tuple(
                    dict.fromkeys(
                        certificate
                        for issuer in keys.issuers
                        for certificate in (issuer.certificate, *issuer.chain)
                        if not certificate.self_issued
                    )
                ),
                only_known=True,
            ),
            profiles=profiles,
            renew_as=config.renew_as,
            clock=now,
            steady=STEADY,
            sink=sink,
            random_octets=secrets.token_bytes,
            rules=HeaderRules(strictness=client.strictness if client else Strictness.three_gpp),
            confirm_wait_seconds=config.confirm_wait_seconds,
            client=None
            if client is None
            else ClientMode(
                domains, client.identity_from, client.implicit_confirm, self.revocation.check
            ),
            policy=IssuancePolicy(
                config.reenroll,
                timedelta(hours=config.reenroll_window_hours),
                config.unique_key,
                config.revoke_superseded,
            ),
            published=_published(keys, config, profiles.values()),
            key_generation=_key_generation(keys, config),
            signers=[
                *roots,
                *(credential.certificate for credential in keys.ocsp.values()),
                *retired_certificates(config.directory_path),
            ],
            before=None if before is None else before.ca,
        )

    @property
    def routes(self) -> dict[str, str]:
        """Path to mode, of the CA as a service of its own."""
        routes = {"/.well-known/cmp": "ra", "/pkix": "ra"}
        if self.config.client is not None:
            routes |= dict.fromkeys(self.config.client.paths, CLIENT_ENDPOINT)
        return routes

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str, operation: str, peer: str
    ) -> Reply:
        """Answer one message in the mode of its path (`CMPHandler`)."""
        mode = Mode.client if endpoint == CLIENT_ENDPOINT else Mode.ra
        with self._in_flight:
            return await self.ca.handle(der, mode=mode, operation=operation, peer=peer)

    async def start(self) -> None:
        """Open the ledger, fetch CRLs, and begin what goes on beside the messages.

        Raises:
            ConfigError, StoreUnavailable: The ledger cannot be used.
        """
        await self.ca.start()
        await self.revocation.start()
        is_over = await self._stop_if_revoked()
        await self._warn_of_profiles()
        watched = [
            ("ca.checkpoints", self._keep_checkpoints),
            ("ca.expiries", self._warn_of_expiries),
        ]
        if not is_over:
            watched += [("ca.root", self._watch_root)]
        if self.config.status is not None:
            watched += [("crl", self.publisher.run)]
            directory = self._directory(self.config.status)
            if directory is not None:
                watched += [("crl.directory", directory.run)]
        self._background = [asyncio.create_task(supervised(*item)) for item in watched]

    async def stop(self, seconds: float) -> None:
        """Answer what came here and finish what was begun; the ledger stays open.

        Args:
            seconds: Time for the answers.
        """
        background, self._background = self._background, []
        await ended(*background)  # whatever one of them failed of, the others are to be ended
        await self._in_flight.end(seconds)
        await self.revocation.stop()
        await self.ca.finish()

    def _directory(self, status: CAStatusConfig) -> CRLDirectory | None:
        config = self.config.ldap
        if config is None:
            return None
        try:
            password = (read_password(config.bind_password_path) or b"").decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError.of(
                "ca.ldap.bind_password_path", f"cannot be read: {error}", "Mend the file"
            ) from error
        return CRLDirectory(
            self._issuing,
            self.publisher,
            config.directory(password),
            config.entry,
            deltas=status.delta_minutes > 0,
            check_seconds=status.check_seconds,
            # One identifier is one entry: a root that issues itself has its CRLs from the ledger.
            root=None if self._root in self.issuers else self._root,
            root_crl=RootCRL(self.config.directory_path),
        )

    async def _warn_of_profiles(self) -> None:
        """Tell who has a profile that issues nothing, which a request would be the first to say."""
        if not any(map(lacks_crl_url, self._profiles.values())):
            return
        try:
            roles = await self.ledger.registry.roles()
            recorded = await self.ledger.living_profiles(now())
        except StoreUnavailable as error:
            log.warning("ca.profiles_unchecked", detail=error.detail)
            return
        for problem in unusable(self._profiles, roles, recorded, self.config):
            log.warning("ca.profile_unusable", detail=str(problem))

    async def _warn_of_expiries(self) -> None:
        """Tell once a day which of the CA's own certificates somebody has to renew."""
        while True:
            try:
                soonest = expiries(self.config.directory_path)
            except ConfigError as error:
                log.warning("ca.directory_unusable", detail=str(error))
                soonest = []
            for expiry in soonest:
                told = {
                    "file": expiry.file,
                    "subject": expiry.subject,
                    "not_after": expiry.not_after.isoformat(),
                }
                if expiry.revoked:
                    log.warning("ca.certificate_revoked", **told)
                elif expiry.not_after < now():
                    log.error("ca.certificate_expired", **told)
                elif expiry.not_after < now() + EXPIRY_WARNING:
                    log.warning("ca.certificate_expires", **told)
            await asyncio.sleep(_until_next_warning(item.not_after for item in soonest))

    async def _watch_root(self) -> None:
        """Issue nothing any more from when the root has revoked the issuing CA."""
        while True:
            if await self._stop_if_revoked():
                return
            await asyncio.sleep(_ROOT_SECONDS)

    async def _stop_if_revoked(self) -> bool:
        directory, issuer = self.config.directory_path, self._issuing[0]
        chain = (issuer.certificate, *issuer.chain)
        try:
            revoked = await asyncio.to_thread(
                revoked_by_root, CAFiles(directory), self._root, chain
            )
        except ConfigError as error:  # what it said before holds
            if str(error) != self._told:
                self._told = str(error)
                log.error("ca.directory_unusable", detail=self._told)
            return False
        if revoked:
            issuer.stop(f"the root has revoked {revoked[0].subject}")
            log.error(
                "ca.issuing_revoked",
                subject=revoked[0].subject,
                serial_number=f"{revoked[0].serial_number:x}",
                todo=f"run: ra-gateway ca roll-issuing {directory}, and reload; nothing is issued until then",
            )
        return bool(revoked)

    async def _keep_checkpoints(self) -> None:
        while True:
            await self.checkpoint()
            await asyncio.sleep(_CHECKPOINT_SECONDS)

    async def checkpoint(self) -> None:
        """Write down how far the audit trail goes."""
        checkpoints = ca_checkpoints(self.config)
        try:
            await checkpoints.append(self.ledger, now())
        except TrailRewritten as error:
            log.error("ca.audit_rewritten", detail=str(error), todo="run `ra-gateway ca verify`")
        except (ConfigError, OSError, StoreUnavailable) as error:
            log.error(
                "ca.checkpoint_failed",
                file=str(checkpoints.path),
                detail=str(getattr(error, "detail", error)),
                todo="set ca.checkpoints_path to a file that this service may write",
            )


class BundledService:
    """The bundled CA: what outlives a reload (its ledger, its status listener), and the wiring that answers.

    Args:
        vendors: Tables of the vendors by name, for client mode.
        sink: Takes what happens (`ra_gateway.events`); must not raise.
        sockets: What the status listener listens on, where others listen there, too.

    Raises:
        ConfigError: Its files cannot be used.
    """

    def __init__(
        self,
        config: CAConfig,
        vendors: Mapping[str, VendorConfig],
        sink: EventSink,
        sockets: SharedSockets | None = None,
    ) -> None:
        self._sink = sink
        require_database(config)
        self.ledger = ca_ledger(config, sink)
        self.wiring = CAWiring(config, vendors, self.ledger, sink)
        if config.ledger_path is not None:
            require_own_file(config.ledger_path, self.wiring.ca.issuer_ids)
        self.status = _status_listener(config.status, self.wiring.status, sink, sockets)
        self._background: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None
        self._opened = False
        self._probe = Probe(self.ledger.ping, CALM_SECONDS)

    @property
    def ca(self) -> BundledCA:
        """What answers messages now."""
        return self.wiring.ca

    def meter(self, metrics: Metrics) -> None:
        """Have metrics read what is here."""
        meter_ca(
            metrics,
            self.ledger,
            lambda: self.wiring.publisher,
            self.status,
            lambda: self.wiring.config,
            lambda: self.problem,
        )
        metrics.reads(lambda: of_domains(self.wiring.domains))
        metrics.reads(
            lambda: of_revocation(self.wiring.revocation.states(), self.wiring.revocation_tables)
        )

    async def start(self) -> None:
        """Open the ledger, and serve status; where the ledger cannot be reached, as soon as it can.

        Raises:
            ConfigError: The ledger cannot be used.
            CannotListen: The address or the port cannot be had.
        """
        try:
            await self._open()
        except StoreUnavailable as error:
            self._probe.problem = error.detail
            log.error("store.down", by=Component.ca, detail=error.detail)
            self._opening = asyncio.create_task(supervised("ca.open", self._open_later))

    async def _open_later(self) -> None:
        while self._probe.problem:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._open()
            except StoreUnavailable as error:
                self._probe.problem = error.detail
            except (ConfigError, CannotListen) as error:
                self._probe.problem = str(error)
                log.error("ca.cannot_start", detail=str(error))
        log.info("store.up", by=Component.ca)
        await asyncio.Event().wait()

    async def _open(self) -> None:
        if not self._opened:
            await self.wiring.start()
            self._opened = True
        config = self.wiring.config.status
        if self.status is not None and config is not None:
            where = await listen(self.status, config.listen_host, config.listen_port, "ca.status")
            log.info("ca.status", listen="{}:{}".format(*where))
        self._probe.problem = ""
        self._background.append(asyncio.create_task(supervised("ledger.probe", self._probe.run)))

    @property
    def problem(self) -> str:
        """What is wrong with the ledger, "" if nothing is."""
        return self._probe.problem

    async def rewired(self, config: CAConfig, vendors: Mapping[str, VendorConfig]) -> CAWiring:
        """Return what would answer under another configuration, begun; to be taken up, or stopped.

        Raises:
            ConfigError: Its files cannot be used; or it has to wait for the ledger.
        """
        if not self._opened:
            raise _ledger_missing(self.problem)
        # In a thread: keys in an HSM are tried out, and all chains are built anew.
        fresh = await asyncio.to_thread(
            CAWiring, config, vendors, self.ledger, self._sink, self.wiring
        )
        try:
            await fresh.start()
        except StoreUnavailable as error:
            await fresh.stop(0.0)
            raise _ledger_missing(error.detail) from error
        except BaseException:
            await fresh.stop(0.0)
            raise
        return fresh

    def take_up(self, fresh: CAWiring) -> CAWiring:
        """Answer by it from now on; returns the one of before, to be stopped when it is done."""
        old, self.wiring = self.wiring, fresh
        if self.status is not None and fresh.status is not None:
            self.status.serve(fresh.status)
        return old

    async def stop(self) -> None:
        """Finish what was begun and close everything."""
        if self._opening is not None:
            await ended(self._opening)
        background, self._background = self._background, []
        await ended(*background)  # whatever one of them failed of, the ledger is to be closed
        if self.status is not None:
            await self.status.drain(self.wiring.config.server.drain_seconds)
        await self.wiring.stop(0.0)
        if self._opened:
            await self.wiring.checkpoint()
        await self.ledger.close()


def _ledger_missing(why: str) -> ConfigError:
    return ConfigError.of("ca", f"waits for its ledger: {why}", "Reload again once that answers")
