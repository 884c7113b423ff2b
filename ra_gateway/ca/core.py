"""The CA's CMP responder: registered RAs on one side (RA mode), devices themselves on the other (client mode).

How a message walks through here, from top to bottom of `BundledCA`:

    1 decode          bytes -> PKIMessage                                           badDataFormat
    2 receive         RA mode: protected by a registered RA's exact certificate     signerNotTrusted, notAuthorized
                      nested: the one message inside, its IDs equal                 badRequest, badSenderNonce
                      or a batch: each member walks for itself
    3 authenticate    the device's own protection, where it is the device's:        signerNotTrusted, badMessageCheck
                      a vendor certificate or a living one of ours
    4 authorise       the role's privilege and profiles; the end entity             notAuthorized
    5 read            one CertReqMsg, template, proof of possession                 badPOP, badCertTemplate
    6 once            a repeat gets the stored answer, another request none         transactionIdInUse
    7 renew           kur: the old certificate, and names equal to its              badCertId, badCertTemplate
      make the key    where the device has none (RFC 9483 4.1.6), if that is on     notAuthorized, unsupportedVersion
    8 issue           `Issuer.issue`: check, reserve, build, check, sign, store
    9 confirm         certConf against what was issued; pkiConf

rr and genm take steps 1 to 4, then `_revoke` and `information.answers`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric import rsa

from ra_gateway.ca.access import (
    ClientMode,
    Mode,
    Registered,
    choose_profile,
    entity_template,
    identity_of,
    own_template,
    renewal_template,
    require_active,
    require_names,
    require_no_wildcard,
    require_own,
    require_privilege,
    require_profile,
    require_unprivileged,
)
from ra_gateway.ca.information import Published, answer_to
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.key_generation import KeyGeneration, key_recipient, seal_certificate
from ra_gateway.ca.ledger import Ledger
from ra_gateway.ca.profiles import ANY_KEY_USAGES, Profile
from ra_gateway.ca.records import (
    ALIVE,
    CLIENT,
    NO_ENTITY,
    Authority,
    EndEntity,
    Intent,
    IssuedCertificate,
    Operation,
    Reason,
    Reenroll,
    Revocation,
)
from ra_gateway.clocks import always_steady
from ra_gateway.cmp.algorithms import load_public_key
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevRepContent,
    cert_rep_body,
    gen_msg_body,
    nested_body,
    rev_rep_body,
)
from ra_gateway.cmp.certificates import Certificate, ExtensionOID, load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertId, CertReqMsg, CertTemplate, cert_req_id_of
from ra_gateway.cmp.header_checks import (
    NONCE_OCTETS,
    RELAYED,
    HeaderRules,
    check_message_time,
    check_version,
)
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIHeader, PKIMessage, assemble
from ra_gateway.cmp.names import (
    NULL_DN,
    canonical,
    directory_name,
    name_of,
    require_certifiable,
    same_name,
)
from ra_gateway.cmp.nesting import Batch, read_nested
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.replies import (
    IMPLICIT_CONFIRM,
    Reply,
    confirm_wait_time,
    refusal_body,
    reply_header,
    unreadable_reply,
)
from ra_gateway.cmp.requests import (
    AuthenticatedRequest,
    AuthenticatedRevocation,
    Possession,
    read_confirmation,
    read_request,
    read_revocation,
)
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import (
    AuthenticatedMessage,
    KnownSigner,
    authenticate,
    authenticate_follower,
    authenticate_registered,
    certificate_bag,
    select_signers,
)
from ra_gateway.errors import (
    CMPError,
    ConfirmationRefused,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    PKIFailureInfo,
    POPRefused,
    ProtectionRefused,
    RequestRefused,
    ServiceFailure,
    SignerNotTrusted,
    StoreUnavailable,
    TransactionInUse,
    UpstreamUnavailable,
)
from ra_gateway.keys import spki_der
from ra_gateway.tasks import ended, supervised

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")

SWEEP_SECONDS: Final = 60
"""How often what was not confirmed in time is revoked; what is asked meanwhile does not depend on it."""

_REQUESTS: Final = frozenset(CERT_RESPONSE_TO)
_TAKEN: Final = _REQUESTS | {BodyType.rr, BodyType.genm, BodyType.certConf}
_OPERATOR_ONLY: Final = frozenset({BodyType.kur, BodyType.rr})
"""What a device may ask with a certificate of ours only (R71)."""

_BATCH_MAX: Final = 64
"""Most messages in a batch; an RA that serves more devices at a time sends another."""


@dataclass(frozen=True, slots=True)
class IssuancePolicy:
    """What an operator decides about issuing.

    Args:
        reenroll: Whether a device that holds a confirmed certificate may bootstrap again.
        reenroll_window: For how long after its first request an end entity may, under `Reenroll.window`.
        unique_key: Refuse a key that another entity's living certificate has.
        revoke_superseded: Revoke the old certificate when its renewal is confirmed.
    """

    reenroll: Reenroll = Reenroll.allow
    reenroll_window: timedelta = timedelta(hours=24)
    unique_key: bool = True
    revoke_superseded: bool = False


@dataclass(frozen=True, slots=True)
class _Received:
    """A message in the mode it came in.

    Args:
        message: To be answered; nested ones are answered as if they had come plain (R124).
        requester: First half of the key of its operation.
        authority, outer: RA mode: who signed, and what.
        nested: Whether `message` was inside what the authority signed.
    """

    message: PKIMessage
    requester: str = CLIENT
    authority: Authority | None = None
    outer: AuthenticatedMessage | None = None
    nested: bool = False

    @property
    def by_device(self) -> bool:
        """Whether the device itself protects the message."""
        return self.outer is None or self.nested

    @property
    def transaction_id(self) -> bytes:
        return self.message.header.transaction_id or b""

    @property
    def digest(self) -> bytes:
        """Equal for repeats, also where the RA signed anew: the device's part is what counts."""
        message = self.message
        return hashlib.sha256(message.body_der + (message.header.sender_nonce or b"")).digest()


@dataclass(frozen=True, slots=True)
class _Asked:
    """An authenticated message and whom it speaks for.

    Args:
        authenticated: The device's protection, or the authority's where it replaced that.
        device: The certificate of ours that the device signed with.
        entity: Client mode: whose message it is.
        repeat: What a repeat is answered with whose signer is no longer good: it was when this was done.
    """

    received: _Received
    authenticated: AuthenticatedMessage
    device: IssuedCertificate | None = None
    entity: EndEntity | None = None
    repeat: Operation | None = None

    @property
    def signer_der(self) -> bytes:
        """What certConf has to be protected with, b"" if by the authority."""
        return self.authenticated.signer.der if self.received.by_device else b""


@dataclass(frozen=True, slots=True)
class _Running:
    digest: bytes
    task: asyncio.Task[Operation]


class BundledCA:
    """The bundled CA core (`CACore` of the RA's ports; `handle` serves it over HTTP).

    Args:
        credential: Signs the CA's messages; another key than the issuer's (R154).
        issuers: The issuing CAs: the active one, then retired ones whose certificates are still renewed.
        ledger: Remembers what they issue, and who may ask; opened by `start`, closed by `close`.
        operator: Its anchors are this PKI's roots: for RA certificates, and for devices' own.
            What it allows of algorithms holds for requested keys as well.
        profiles: By name, the default one first.
        clock: Returns aware UTC.
        random_octets: Returns that many octets, unpredictable.
        rules: How headers are read; in RA mode, what the RA has to answer for is relaxed.
        confirm_wait_seconds: How long certConf is awaited.
        client: Client mode; None serves RA mode only.
        published: What genm is answered with.
        ca_pubs: Whether an ip carries the root in caPubs.
        key_generation: Makes keys for devices that ask for that; None refuses them.
        steady: Whether the clock can be believed for what cannot be undone (`ra_gateway.clocks`).
        signers: Further certificates of the PKI's own, such as the OCSP signers': nobody gets their names or keys.
    """

    def __init__(
        self,
        *,
        credential: Credential,
        issuers: Sequence[Issuer],
        ledger: Ledger,
        operator: TrustDomain,
        profiles: Mapping[str, Profile],
        clock: Callable[[], datetime],
        random_octets: Callable[[int], bytes],
        rules: HeaderRules,
        confirm_wait_seconds: int,
        client: ClientMode | None = None,
        policy: IssuancePolicy | None = None,
        published: Published | None = None,
        ca_pubs: bool = False,
        key_generation: KeyGeneration | None = None,
        steady: Callable[[], bool] = always_steady,
        signers: Iterable[Certificate] = (),
    ) -> None:
        self._steady = steady
        self._credential = credential
        self._issuer = issuers[0]
        self._issuer_names = tuple(dict.fromkeys(item.certificate.subject_der for item in issuers))
        self._ledger = ledger
        self._registered = Registered(ledger, clock)
        self._operator = operator
        self._profiles = profiles
        self._default_profile = next(iter(profiles))
        self._clock = clock
        self._random_octets = random_octets
        self._rules = {Mode.ra: rules.relaxed_by(RELAYED), Mode.client: rules}
        self._client = client
        self._policy = policy or IssuancePolicy()
        self._published = published or Published()
        self._confirm_wait = timedelta(seconds=confirm_wait_seconds)
        # A captured request cannot come back as a new one: messageTime is refused before it is forgotten.
        self._remember = self._confirm_wait + timedelta(
            seconds=2 * rules.message_time_window_seconds
        )
        # Answer: protection chain, then the chain of what was issued, the root last (R97); after a change of
        # the root the way to it from the old one, which a base station may have alone.
        update = self._published.root_update
        cross = () if update is None else (update.new_with_old,)
        self._extra_certs = tuple(
            dict.fromkeys((*credential.certificates, *cross, *self._issuer.certificates))
        )
        self._ca_pubs = self._issuer.certificates[-1:] if ca_pubs else ()
        authorities = [found for item in issuers for found in (item.certificate, *item.chain)]
        self._authority_names = frozenset(canonical(item.subject_der) for item in authorities)
        self._own = (
            credential.certificate,
            *authorities,
            *(() if key_generation is None else (key_generation.credential.certificate,)),
            *signers,
        )
        self._key_generation = key_generation
        self._accepted = frozenset(
            (Possession.encr_cert, *((Possession.key_generation,) if key_generation else ()))
        )
        self._running: dict[tuple[str, bytes], _Running] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the ledger, and from then on revoke in time what was never confirmed.

        Raises:
            ConfigError, StoreUnavailable: The ledger cannot be used.
        """
        await self._ledger.open()
        await self._ledger.withhold(self._own)
        self._sweeper = asyncio.create_task(supervised("ca.sweep", self._sweep_forever))

    async def close(self) -> None:
        """Finish what was begun and close the ledger; nothing the second time."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            await ended(sweeper)
        await asyncio.gather(
            *(running.task for running in self._running.values()), return_exceptions=True
        )
        await self._ledger.close()

    async def _sweep_forever(self) -> None:
        while True:
            try:
                # By a clock that was set, devices' time to confirm is not over, and no request is old.
                rejected = await self._ledger.sweep(self._clock()) if self._steady() else 0
                if rejected:
                    log.warning("ca.unconfirmed", revoked=rejected)
            except StoreUnavailable as error:
                log.warning("ca.sweep_failed", detail=error.detail)
            except Exception:
                # A bug. Without this loop nothing would ever be forgotten or rejected again.
                log.exception("ca.sweep_failed")
            await asyncio.sleep(SWEEP_SECONDS)

    # --- the two ways in --------------------------------------------------------------------------------------

    async def exchange(self, der: bytes, *, path: str = "", deadline_seconds: float) -> bytes:
        """Answer one PKIMessage from the RA in the same process.

        Args:
            der: DER of one PKIMessage.
            path: Ignored; this CA's profiles are asked for by certProfile.
            deadline_seconds: Total time allowed.

        Raises:
            UpstreamUnavailable: Time is up. What was begun is finished, and a repeat gets its answer.
        """
        try:
            async with asyncio.timeout(deadline_seconds):
                return (await self.handle(der)).der
        except TimeoutError as error:
            raise UpstreamUnavailable(
                f"the bundled CA did not answer in {deadline_seconds:g} s", delivered=True
            ) from error

    async def handle(
        self, der: bytes, *, mode: Mode = Mode.ra, operation: str = "", peer: str = ""
    ) -> Reply:
        """Answer one PKIMessage, whatever it is; only cancellation leaves this as an exception.

        Args:
            der: What was received.
            mode: Which face it came to.
            operation, peer: Operation label of the URL and address of the client, for the log.
        """
        try:
            message = PKIMessage.from_der(der)
        except MalformedMessage as error:
            _log_refusal(error, peer=peer, operation=operation)
            return Reply(
                unreadable_reply(error, transaction_id=self._nonce(), sender_nonce=self._nonce()),
                False,
            )
        logger = log.bind(
            transaction_id=(message.header.transaction_id or b"").hex(),
            body_type=message.body_type.name,
            **({"peer": peer} if peer else {}),
            **({"operation": operation} if operation else {}),
        )
        return Reply(await self._handled(message, mode, logger), True)

    async def _handled(
        self,
        message: PKIMessage,
        mode: Mode,
        logger: structlog.stdlib.BoundLogger,
        *,
        in_batch: bool = False,
    ) -> bytes:
        try:
            return await self._answer(message, mode, logger, in_batch=in_batch)
        except Exception:
            # A bug, or a key that cannot sign; the peer still gets an answer, and the log the whole story.
            logger.exception("ca.failed")
            failure = ServiceFailure("unexpected")
            header = reply_header(message.header, sender_nonce=self._nonce(), now=self._clock())
            return assemble(header.to_der(), refusal_body(failure, None), None)

    async def _answer_batch(
        self, message: PKIMessage, batch: Batch, logger: structlog.stdlib.BoundLogger
    ) -> bytes:
        """Answer the messages of a batch, all at the same time, each as if it had come alone (R125)."""

        async def answer(member: PKIMessage | None) -> bytes:
            if member is None:
                error = MalformedMessage("a member of a batch is no PKIMessage")
                _log_refusal(error, logger)
                return unreadable_reply(
                    error, transaction_id=self._nonce(), sender_nonce=self._nonce()
                )
            bound = logger.bind(
                batch=(message.header.transaction_id or b"").hex(),
                transaction_id=(member.header.transaction_id or b"").hex(),
                body_type=member.body_type.name,
            )
            return await self._handled(member, Mode.ra, bound, in_batch=True)

        tasks = []
        async with asyncio.TaskGroup() as group:
            for member in batch.members:
                tasks.append(group.create_task(answer(member)))
                await asyncio.sleep(0)  # others get their turn before the next one begins
        answers = [task.result() for task in tasks]
        logger.info("ca.answered", messages=len(answers))
        return await self._sign(message.header, nested_body(*answers), self._clock())

    async def _answer(
        self,
        message: PKIMessage,
        mode: Mode,
        logger: structlog.stdlib.BoundLogger,
        *,
        in_batch: bool,
    ) -> bytes:
        now = self._clock()
        try:
            received = await self._receive(message, mode, now, in_batch=in_batch)
            if isinstance(received, Batch):
                return await self._answer_batch(message, received, logger)
            message = received.message
            if received.outer is not None:
                logger = logger.bind(
                    ra=received.requester, signer=received.outer.signer.fingerprint.hex()
                )
            if message.body_type is BodyType.certConf:
                operation = await self._confirm(received, now)
                logger.info("ca.answered", serial=f"{operation.serial_number:x}")
                return operation.confirm_answer
            asked = await self._authenticate(received, now)
            if asked.entity is not None:
                logger = logger.bind(entity=asked.entity.name)
            if message.body_type is BodyType.genm:
                return await self._inform(message, now)
            if asked.repeat is not None:
                operation = asked.repeat
            elif message.body_type is BodyType.rr:
                operation = await self._revoke(asked, now)
            else:
                operation = await self._certify(asked, now)
        except CMPError as error:
            return await self._refuse(message, error, logger)
        logger.info("ca.answered", serial=f"{operation.serial_number:x}")
        return operation.answer

    # --- who speaks -------------------------------------------------------------------------------------------

    async def _receive(
        self, message: PKIMessage, mode: Mode, now: datetime, *, in_batch: bool
    ) -> _Received | Batch:
        header = message.header
        check_version(header)
        if mode is Mode.client:
            if message.body_type not in _TAKEN or self._client is None:
                raise HeaderRefused(f"{message.body_type.name} is not supported", rule="R9")
            return _Received(message)
        if message.body_type not in _TAKEN and message.body_type is not BodyType.nested:
            raise HeaderRefused(f"{message.body_type.name} is not supported", rule="R9")
        registered = await self._registered.certificates()
        ask = partial(
            authenticate_registered,
            message,
            domain=self._operator,
            rules=self._rules[mode],
            now=now,
        )
        try:
            outer = ask(registered=registered.keys())
        except NotAuthorized:
            # A certificate of ours that protects what it says: it may have been registered a moment ago.
            registered = await self._registered.certificates(besides=registered)
            outer = ask(registered=registered.keys())
        check_message_time(header, self._rules[mode], now)
        self._registered.require_not_revoked(outer.signer)
        authority = registered[outer.signer]
        if message.body_type is not BodyType.nested:
            return _Received(message, authority.name, authority, outer)
        if in_batch:
            raise HeaderRefused("nested inside nested", rule="R128")
        inside = read_nested(outer, batch_max=_BATCH_MAX)
        if isinstance(inside, Batch):
            return inside
        inner = inside.message
        check_version(inner.header)
        if inner.body_type not in _TAKEN:
            raise HeaderRefused(f"{inner.body_type.name} inside nested", rule="R9")
        return _Received(inner, authority.name, authority, outer, nested=True)

    async def _authenticate(self, received: _Received, now: datetime) -> _Asked:
        authority, message = received.authority, received.message
        if authority is not None and message.body_type is not BodyType.genm:
            require_privilege(authority, message.body_type)
        if received.outer is not None and not received.nested:
            return _Asked(received, received.outer)
        domains: tuple[TrustDomain, ...] = (self._operator,)
        rules = self._rules[Mode.ra if received.nested else Mode.client]
        if authority is not None and message.body_type not in _OPERATOR_ONLY:
            bag = certificate_bag(message, rules)
            vouched = self._vouched_for(authority, *select_signers(message.header, bag, rules))
            domains = (vouched,) if message.body_type is BodyType.ir else (*domains, vouched)
        if self._client is not None and not received.nested:
            vendors = tuple(self._client.vendors.values())
            if message.body_type is BodyType.ir:
                domains = vendors
            elif message.body_type not in _OPERATOR_ONLY:
                domains = (self._operator, *vendors)
        authenticated = authenticate(message, domains, rules, now)
        check_message_time(message.header, rules.relaxed_by(authenticated.domain.quirks), now)
        if authenticated.domain is not self._operator:
            if self._issued_here(authenticated.signer):
                # Whoever else vouches for it: we alone know what became of it.
                raise SignerNotTrusted(
                    f"{authenticated.signer.subject} is of this PKI, and not accepted as a vendor's",
                    rule="R21",
                )
            if authority is not None:
                return _Asked(received, authenticated)
            assert self._client is not None  # nobody else has vendors
            await self._client.require_not_revoked(
                authenticated.domain.name, authenticated.path, now
            )
            return _Asked(received, authenticated, None, await self._vendor_entity(authenticated))
        try:
            device = await self._living(authenticated.signer, now)
        except SignerNotTrusted:
            # What was asked for may itself have revoked the signer, and the answer been lost.
            asked = _Asked(received, authenticated)
            stored = await self._ledger.find_operation(
                received.requester, received.transaction_id, now
            )
            if stored is None or not stored.answer or not _is_repeat(stored, asked):
                raise
            return replace(asked, repeat=stored)
        if received.nested:
            return _Asked(received, authenticated, device)
        entity = await self._ledger.registry.entity(device.entity)
        if message.body_type is not BodyType.rr:  # who is blocked may still give up its certificate
            entity = require_active(entity, authenticated.signer.subject)
        return _Asked(received, authenticated, device, entity)

    def _vouched_for(self, authority: Authority, *devices: Certificate) -> TrustDomain:
        """Return trust in vendor certificates that an RA let pass: it knows the vendors, and it nested the message.

        As much is believed of it where it replaces a device's protection by its own. Certificates of our own are
        judged as ever: they may have been revoked.
        """
        others = tuple(item for item in devices if not self._issued_here(item))
        return TrustDomain(
            authority.name, DomainKind.vendor, others, algorithms=self._operator.algorithms
        )

    async def _vendor_entity(self, authenticated: AuthenticatedMessage) -> EndEntity:
        """Return the end entity of a device that speaks with its vendor certificate."""
        assert self._client is not None
        identity = identity_of(authenticated.signer, self._client.identity_from)
        domain = authenticated.domain.name
        entity = await self._ledger.registry.entity_by_identity(domain, identity)
        return require_active(entity, f"{identity} of {domain}")

    async def _living(self, signer: Certificate, now: datetime) -> IssuedCertificate:
        """Return the record of a certificate of ours that is still good."""
        issued = await self._ledger.record_of(signer, now)
        if issued is None:
            raise SignerNotTrusted(f"{signer.subject} was not issued by this CA", rule="R21")
        if issued.entity == NO_ENTITY:
            raise NotAuthorized(f"{signer.subject} is an entity of the PKI itself", rule="R36")
        if issued.status not in ALIVE:
            raise SignerNotTrusted(
                f"{signer.subject} is {issued.status}",
                fail_info=PKIFailureInfo.certRevoked,
                rule="R69",
            )
        return issued

    # --- ir, cr, kur, p10cr -----------------------------------------------------------------------------------

    async def _certify(self, asked: _Asked, now: datetime) -> Operation:
        # A device's own message never may say raVerified, also where an RA passes it on (R123).
        by_device = asked.received.by_device
        rules = self._rules[Mode.ra if asked.received.authority else Mode.client]
        request = read_request(
            asked.authenticated, rules, ra_verified_allowed=not by_device, accepted=self._accepted
        )
        return _replay(
            await self._once(asked.received, lambda: self._issue(asked, request, now)), asked
        )

    async def _once(
        self, received: _Received, work: Callable[[], Coroutine[Any, Any, Operation]]
    ) -> Operation:
        """Let repeats that arrive while the first is at work wait for its answer."""
        key = (received.requester, received.transaction_id)
        running = self._running.get(key)
        if running is None:
            # A task of its own: a caller that gives up must not leave a certificate half issued.
            running = _Running(received.digest, asyncio.create_task(work()))
            self._running[key] = running
            running.task.add_done_callback(lambda task: self._forget(key, task))
        elif running.digest != received.digest:
            raise _in_use()
        return await asyncio.shield(running.task)

    def _forget(self, key: tuple[str, bytes], task: asyncio.Task[Operation]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever still waits has it; asyncio need not complain that nobody does

    async def _issue(
        self, asked: _Asked, request: AuthenticatedRequest, now: datetime
    ) -> Operation:
        received, template = asked.received, request.request.template
        header, body_type = received.message.header, received.message.body_type
        old, private_key = None, None
        if body_type is BodyType.kur or request.possession is Possession.key_generation:
            # Before anything is judged: after the renewal a repeat would be judged by the new certificate.
            # And before a key is made that nobody would get.
            found = await self._ledger.find_operation(
                received.requester, received.transaction_id, now
            )
            if found is not None and (found.answer or not _is_repeat(found, asked)):
                return _replay(found, asked)
        if body_type is BodyType.kur:
            old = await self._renewed(request.request, asked, now)
            template = renewal_template(template, load_certificate(old.der))
            profile = self._profiles.get(old.profile) or self._profiles[self._default_profile]
            self._require_renewable(old, asked, profile, now)
        elif asked.entity is not None and (
            asked.device is None or (asked.device.origin == CLIENT and asked.entity.vendor)
        ):
            device_der = None if asked.device is None else asked.device.der
            template = entity_template(
                template,
                asked.entity,
                None if device_der is None else load_certificate(device_der).subject_der,
            )
            own = asked.entity.profile or self._default_profile
            profile = choose_profile(header, (own,), self._profiles)
        elif received.authority is None:
            # What an RA vouched for, under a profile and names of its own, is no more in client mode.
            assert asked.device is not None
            template = own_template(template, load_certificate(asked.device.der))
            own = asked.device.profile or self._default_profile
            profile = choose_profile(header, (own,), self._profiles)
        else:
            profile = choose_profile(header, received.authority.role.profiles, self._profiles)
            if asked.device is not None:
                template = own_template(template, load_certificate(asked.device.der))
        require_unprivileged(template, profile)
        served: frozenset[str] = frozenset()
        if received.authority is not None:
            served = self._served(received.authority, template, profile)
            if old is None and asked.device is None:
                require_no_wildcard(received.authority, _san_of(template))
        if request.possession is Possession.key_generation:
            private_key = await self._make_key(asked, request, profile)
            template = replace(template, spki_der=spki_der(private_key))
        elif request.possession is Possession.encr_cert:
            _require_encryption_only(template, profile)
        require_certifiable(template.subject_der or NULL_DN, _san_of(template))
        implicit = (
            header.implicit_confirm
            # Until certConf nobody knows that the device has the key.
            and request.possession is not Possession.encr_cert
            and (
                received.authority is not None
                or (self._client is not None and self._client.implicit_confirm)
            )
        )
        operation = Operation(
            requester=received.requester,
            transaction_id=received.transaction_id,
            request_digest=received.digest,
            body_type=body_type,
            cert_req_id=request.request.cert_req_id,
            response_nonce=self._nonce(),
            confirm_by=None if implicit else now.replace(microsecond=0) + self._confirm_wait,
            expires_at=now + self._remember,
            signer_der=asked.signer_der,
            old_serial_number=None if old is None else old.serial_number,
        )
        intent = Intent(
            subject_der=template.subject_der or NULL_DN,
            issuer_id=self._issuer.id,
            profile=profile.name,
            spki_digest=b"",
            entity=asked.entity.name if asked.entity else old.entity if old else None,
            origin=_origin(asked, old),
            on_behalf=received.authority is not None,
            registered_profiles=served,
            enrolls=_enrolls(asked),
            reenroll=self._policy.reenroll,
            enroll_until=now + self._policy.reenroll_window,
            unique_key=self._policy.unique_key,
        )

        async def answer(certificate: Certificate, changes: tuple[str, ...]) -> bytes:
            given = await self._given(asked, request, certificate, private_key)
            return await self._positive(received.message, operation, given, changes, now)

        stored = await self._issuer.issue(
            template,
            profile,
            operation,
            intent,
            self._ledger,
            answer,
            now,
            revoke_superseded=self._policy.revoke_superseded,
        )
        return _replay(stored, asked)

    async def _make_key(
        self, asked: _Asked, request: AuthenticatedRequest, profile: Profile
    ) -> Any:
        """Make a key for a device that asks for that, and can be sent it."""
        assert self._key_generation is not None  # `read_request` accepted it
        if not asked.received.by_device:
            # It would be encrypted for the RA, which has no business with it (RFC 9483 5.2.3).
            raise NotAuthorized(
                "a request for key generation that the RA protects; it has to be forwarded as it is, or nested",
                rule="RFC 9483 5.2.3",
            )
        key_recipient(asked.authenticated.signer)  # before anything costs anything
        kind = self._key_generation.choose_kind(request.algorithm_hint_der, profile)
        return await self._key_generation.make_key(kind)

    def _served(
        self, authority: Authority, template: CertTemplate, profile: Profile
    ) -> frozenset[str]:
        """Check the names an RA asks for; return for which profiles it may have what is registered for client mode.

        Raises:
            NotAuthorized: It, or its role, is bound to other names.
        """
        require_names(authority, template.subject_der or NULL_DN, _san_of(template))
        if not any((authority.subjects, authority.role.subjects)):
            return frozenset()
        unnamed = {""} if profile.name == self._default_profile else set()
        return frozenset({profile.name, *unnamed})

    async def _renewed(
        self, request: CertReqMsg, asked: _Asked, now: datetime
    ) -> IssuedCertificate:
        """Return the certificate a kur renews: the one named, or that of the name; else the signer's."""
        named, device = request.old_cert_id(), asked.device
        old = device
        if named is not None:
            old = await self._ours(name_of(named.issuer_der), named.serial_number, now)
        elif device is None:
            old = await self._newest(request.template, now)
        if device is not None and (old is None or old.serial_number != device.serial_number):
            raise RequestRefused(
                "oldCertID is not the certificate that protects the message",
                fail_info=PKIFailureInfo.badCertId,
                rule="R68",
            )
        if old is None:
            raise RequestRefused(
                "no such certificate to renew", fail_info=PKIFailureInfo.badCertId, rule="R68"
            )
        return old

    async def _newest(self, template: CertTemplate, now: datetime) -> IssuedCertificate | None:
        """Return the newest certificate of the names in a template that has some."""
        subject_der = template.subject_der or NULL_DN
        san_der = _san_of(template)
        if not canonical(subject_der) and san_der is None:
            return None
        return await self._ledger.newest_certificate(subject_der, now, san_der=san_der)

    def _require_renewable(
        self, old: IssuedCertificate, asked: _Asked, profile: Profile, now: datetime
    ) -> None:
        """Refuse a renewal that is not the requester's to ask for, and then one of what is no longer good."""
        authority = asked.received.authority
        if authority is not None:
            if not asked.received.by_device:
                require_own(authority, old)
            # Of both, if the old one's is no longer configured.
            for name in {old.profile or profile.name, profile.name}:
                require_profile(authority, name)
        if old.status not in ALIVE:
            raise RequestRefused(
                f"the certificate to renew is {old.status}",
                fail_info=PKIFailureInfo.certRevoked,
                rule="R69",
            )
        if not load_certificate(old.der).valid_at(now):
            raise RequestRefused(
                "the certificate to renew has expired",
                fail_info=PKIFailureInfo.signerNotTrusted,
                rule="R69",
            )

    async def _ours(
        self, issuer_der: bytes | None, serial_number: int, now: datetime
    ) -> IssuedCertificate | None:
        """Return the record of the certificate that an issuer and a serial number name, if it is one of ours."""
        if not self._is_ours(issuer_der):
            return None
        found = await self._ledger.certificate(serial_number, now)
        if found is None or not same_name(
            load_certificate(found.der).issuer_der, issuer_der or NULL_DN
        ):
            return None
        return found

    def _is_ours(self, issuer_der: bytes | None) -> bool:
        return issuer_der is not None and any(
            same_name(issuer_der, own) for own in self._issuer_names
        )

    def _issued_here(self, certificate: Certificate) -> bool:
        """Tell whether a certificate names one of this PKI's CAs as its issuer, the root included."""
        return canonical(certificate.issuer_der) in self._authority_names

    async def _given(
        self,
        asked: _Asked,
        request: AuthenticatedRequest,
        certificate: Certificate,
        private_key: Any,
    ) -> CertResponse:
        """Return what a device gets: its certificate, with the key made for it, or for its key alone to open.

        Args:
            private_key: None where the device has its own.
        """
        accepted, cert_req_id = PKIStatusInfo(PKIStatus.accepted), request.request.cert_req_id
        if request.possession is Possession.encr_cert:
            sealed = seal_certificate(certificate)
            return CertResponse(cert_req_id, accepted, encrypted_cert_der=sealed)
        sealed_key = None
        if private_key is not None:
            assert self._key_generation is not None  # it made the key
            recipient = key_recipient(asked.authenticated.signer)
            sealed_key = await self._key_generation.seal_key(private_key, recipient)
        return CertResponse(cert_req_id, accepted, certificate.der, private_key_der=sealed_key)

    async def _positive(
        self,
        request: PKIMessage,
        operation: Operation,
        given: CertResponse,
        changes: tuple[str, ...],
        now: datetime,
    ) -> bytes:
        if changes:
            told = f"Changed or left out: {', '.join(changes)}."
            given = replace(given, status_info=PKIStatusInfo(PKIStatus.grantedWithMods, (told,)))
        body_der = cert_rep_body(
            CERT_RESPONSE_TO[request.body_type],
            CertRepMessage(
                (given,),
                ca_pubs=self._ca_pubs if request.body_type is BodyType.ir else (),
            ),
        )
        return await self._sign(
            request.header,
            body_der,
            now,
            nonce=operation.response_nonce,
            general_info=(
                IMPLICIT_CONFIRM
                if operation.confirm_by is None
                else confirm_wait_time(operation.confirm_by),
            ),
            extra_certs=self._extra_certs,
        )

    # --- certConf ---------------------------------------------------------------------------------------------

    async def _confirm(self, received: _Received, now: datetime) -> Operation:
        operation = await self._ledger.find_operation(
            received.requester, received.transaction_id, now
        )
        if operation is None or not operation.answer or operation.body_type not in _REQUESTS:
            raise HeaderRefused("no such transaction awaits a confirmation", rule="R11")
        authenticated = await self._authenticate_confirmation(received, operation, now)
        digest = received.digest
        if operation.confirm_digest:
            return _replay_confirmation(operation, digest)
        if operation.confirm_by is None:
            raise ConfirmationRefused(
                "implicitConfirm was granted", fail_info=PKIFailureInfo.certConfirmed, rule="R110"
            )
        confirmation = read_confirmation(
            authenticated,
            load_certificate(operation.certificate_der),
            response_nonce=operation.response_nonce,
            cert_req_id=operation.cert_req_id,
        )
        if now > operation.confirm_by:
            raise ConfirmationRefused("confirmWaitTime is over", rule="R111")
        if confirmation.status.takes_certificate and received.by_device:
            await self._require_still_good(received, authenticated, operation, now)
        stored = await self._ledger.confirm(
            operation,
            accepted=confirmation.status.takes_certificate,
            digest=digest,
            answer=await self._sign(authenticated.message.header, PKICONF_BODY, now),
            now=now,
            revoke_superseded=self._policy.revoke_superseded,
        )
        if stored is None:
            raise HeaderRefused("the transaction has expired", rule="R11")
        return _replay_confirmation(stored, digest)

    async def _authenticate_confirmation(
        self, received: _Received, operation: Operation, now: datetime
    ) -> AuthenticatedMessage:
        """Authenticate a certConf by the certificate that protected the request, and by the same way (R35)."""
        if received.by_device != bool(operation.signer_der):
            raise ProtectionRefused(
                "of the request and its certConf one came nested, the other did not", rule="R35"
            )
        if not received.by_device:
            assert received.outer is not None
            return received.outer
        signer = load_certificate(operation.signer_der)
        if received.authority is not None and not self._issued_here(signer):
            domain = self._vouched_for(received.authority, signer)
        else:
            domain = await self._domain_of(signer, operation, now)
        rules = self._rules[Mode.ra if received.nested else Mode.client]
        authenticated = authenticate_follower(
            received.message, (KnownSigner(signer, domain),), rules, now
        )
        check_message_time(received.message.header, rules.relaxed_by(domain.quirks), now)
        return authenticated

    async def _require_still_good(
        self,
        received: _Received,
        authenticated: AuthenticatedMessage,
        operation: Operation,
        now: datetime,
    ) -> None:
        """Let nobody take a certificate who would not be given one any more: revoked or blocked since it was asked for.

        Raises:
            SignerNotTrusted, NotAuthorized, ServiceFailure.
        """
        signer = authenticated.signer
        if self._issued_here(signer):
            await self._living(signer, now)
        if received.authority is not None:
            return  # it knows the vendors, and who is whose
        if not self._issued_here(signer):
            assert self._client is not None  # nobody else has vendors
            domain = authenticated.domain.name
            await self._client.require_not_revoked(domain, authenticated.path, now)
        issued = await self._ledger.certificate(operation.serial_number, now)
        entity = None if issued is None else await self._ledger.registry.entity(issued.entity)
        require_active(entity, signer.subject)

    async def _domain_of(
        self, signer: Certificate, operation: Operation, now: datetime
    ) -> TrustDomain:
        """Return the trust domain that vouched for the signer of a request."""
        if self._issued_here(signer):
            return self._operator
        issued = await self._ledger.certificate(operation.serial_number, now)
        entity = await self._ledger.registry.entity(issued.entity) if issued is not None else None
        vendors = self._client.vendors if self._client is not None else {}
        if entity is None or entity.vendor not in vendors:
            raise SignerNotTrusted(f"the domain of {signer.subject} is gone", rule="R21")
        return vendors[entity.vendor]

    # --- rr, genm ---------------------------------------------------------------------------------------------

    async def _revoke(self, asked: _Asked, now: datetime) -> Operation:
        received = asked.received
        found = await self._ledger.find_operation(received.requester, received.transaction_id, now)
        if found is not None:
            return _replay(found, asked)
        wanted = read_revocation(asked.authenticated)
        certificate = await self._to_revoke(wanted, asked, now)
        operation = Operation(
            requester=received.requester,
            transaction_id=received.transaction_id,
            request_digest=received.digest,
            body_type=received.message.body_type,
            cert_req_id=0,
            response_nonce=self._nonce(),
            confirm_by=None,
            expires_at=now + self._remember,
            signer_der=asked.signer_der,
            old_serial_number=certificate.serial_number,
        )
        cert_id = CertId(directory_name(wanted.issuer_der), wanted.serial_number)
        answer = await self._sign(
            received.message.header,
            rev_rep_body(RevRepContent((PKIStatusInfo(PKIStatus.accepted),), (cert_id,))),
            now,
            nonce=operation.response_nonce,
        )
        actor = received.requester if asked.entity is None else asked.entity.name
        revocation = Revocation(
            certificate.serial_number, Reason(wanted.reason), actor, certificate.issuer_id
        )
        stored = await self._ledger.revoke(
            revocation, now, operation=replace(operation, answer=answer)
        )
        assert stored is not None  # an operation was given
        return _replay(stored, asked)

    async def _to_revoke(
        self, wanted: AuthenticatedRevocation, asked: _Asked, now: datetime
    ) -> IssuedCertificate:
        """Return the certificate an rr names, if whoever asks may have it revoked."""
        found = await self._ours(wanted.issuer_der, wanted.serial_number, now)
        if asked.received.by_device and (
            found is None
            or asked.device is None
            or found.serial_number != asked.device.serial_number
        ):
            # The same for certificates that there are and that there are not: a device need not know.
            raise NotAuthorized("a device may have its own certificate revoked only", rule="R130")
        if found is None:
            raise RequestRefused(
                "no such certificate to revoke", fail_info=PKIFailureInfo.badCertId, rule="R131"
            )
        authority = asked.received.authority
        if authority is not None:
            if not asked.received.by_device:
                require_own(authority, found)
            require_profile(authority, found.profile or self._default_profile)
        return found

    async def _inform(self, message: PKIMessage, now: datetime) -> bytes:
        items = await answer_to(message.body_content, self._published, self._ledger)
        return await self._sign(message.header, gen_msg_body(BodyType.genp, items), now)

    # --- answers ----------------------------------------------------------------------------------------------

    async def _refuse(
        self, message: PKIMessage, error: CMPError, logger: structlog.stdlib.BoundLogger
    ) -> bytes:
        _log_refusal(error, logger)
        return await self._sign(
            message.header,
            refusal_body(error, message.body_type, cert_req_id_of(message)),
            self._clock(),
        )

    async def _sign(
        self,
        request: PKIHeader,
        body_der: bytes,
        now: datetime,
        *,
        nonce: bytes | None = None,
        general_info: tuple[InfoTypeAndValue, ...] = (),
        extra_certs: tuple[bytes, ...] | None = None,
    ) -> bytes:
        header = replace(
            reply_header(request, sender_nonce=nonce or self._nonce(), now=now),
            general_info=general_info,
        )
        certificates = self._credential.certificates if extra_certs is None else extra_certs
        return await protect(header, body_der, self._credential, certificates)

    def _nonce(self) -> bytes:
        return self._random_octets(NONCE_OCTETS)


def _san_of(template: CertTemplate) -> bytes | None:
    names = template.extension(ExtensionOID.subjectAltName)
    return None if names is None else names.value


def _require_encryption_only(template: CertTemplate, profile: Profile) -> None:
    """Refuse an RSA key whose owner shows that it can decrypt, where it would be certified to sign."""
    key = load_public_key(template.spki_der or b"")
    if isinstance(key, rsa.RSAPublicKey) and profile.key_usage & ANY_KEY_USAGES:
        raise POPRefused(
            f"encrCert for an RSA key, which {profile.name} lets sign: it has to sign the request",
            rule="R72",
        )


def _enrolls(asked: _Asked) -> bool:
    """Tell whether a request is a device's first, which `reenroll` is asked about: ir, or by a vendor certificate.

    An RA that signs in its device's place does not say by which certificate the device came: its cr and p10cr may be
    a vendor certificate's as well, and count.
    """
    body_type = asked.received.message.body_type
    if body_type is BodyType.ir or not asked.received.by_device:
        return body_type is not BodyType.kur
    return asked.device is None


def _origin(asked: _Asked, old: IssuedCertificate | None) -> str:
    """Return who vouched for a device at first: what it gets with its certificate keeps that.

    An RA that speaks for a device vouches for it anew.
    """
    known = old or asked.device
    if known is None or not asked.received.by_device:
        return asked.received.requester
    return known.origin


def _in_use() -> TransactionInUse:
    return TransactionInUse("another request opened this transaction", rule="R12")


def _is_repeat(stored: Operation, asked: _Asked) -> bool:
    """Tell a repeat from another request, and from the same body that somebody else signed."""
    if stored.request_digest != asked.received.digest:
        return False
    if not stored.signer_der or not asked.received.by_device:
        return not stored.signer_der and not asked.received.by_device
    return load_certificate(stored.signer_der) == asked.authenticated.signer


def _replay(stored: Operation, asked: _Asked) -> Operation:
    if not _is_repeat(stored, asked):
        raise _in_use()
    return stored


def _replay_confirmation(stored: Operation, digest: bytes) -> Operation:
    if not stored.confirm_digest:
        raise ConfirmationRefused(
            "the certificate was revoked before it was confirmed",
            fail_info=PKIFailureInfo.certRevoked,
            rule="R109",
        )
    if stored.confirm_digest != digest:
        raise ConfirmationRefused(
            "another certConf was answered before",
            fail_info=PKIFailureInfo.certConfirmed,
            rule="R109",
        )
    return stored


def _log_refusal(error: CMPError, logger: structlog.stdlib.BoundLogger = log, **more: str) -> None:
    logger.warning(
        "ca.refused",
        fail_info=error.fail_info.name,
        rule=error.rule,
        detail=error.detail,
        **more,
    )
