"""The CA's CMP responder: registered RAs on one side (RA mode), devices themselves on the other (client mode).

The steps of a message in `BundledCA`; steps 2 to 4 are in `authentication`, 5 to 8 in `certification`:

    1 decode          bytes -> PKIMessage                                           badDataFormat
    2 receive         RA mode: protected by a registered RA's exact certificate     signerNotTrusted, notAuthorized
                      nested: the one message inside, its IDs equal                 badRequest, badSenderNonce
                      or a batch: each member for itself
    3 authenticate    the device's own protection, where it is the device's:        signerNotTrusted, badMessageCheck
                      a vendor certificate or a living one of ours
    4 authorise       the role's privilege and profiles; the end entity             notAuthorized
    5 read            one CertReqMsg, template, proof of possession                 badPOP, badCertTemplate
    6 once            a retransmission gets the stored answer               transactionIdInUse
    7 renew           kur: the old certificate, and names equal to its              badCertId, badCertTemplate
      make the key    where the device has none (RFC 9483 4.1.6), if that is on     notAuthorized, unsupportedVersion
    8 issue           `Issuer.issue`: check, reserve, build, check, sign, store
    9 confirm         certConf against what was issued; pkiConf

rr and genm take steps 1 to 4, then `_revoke` and `_inform`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog

from ra_gateway.ca.authentication import Authentication
from ra_gateway.ca.authorization import (
    ClientMode,
    Mode,
    RegisteredAuthorities,
    require_own,
    require_profile,
)
from ra_gateway.ca.certification import Certification, IssuancePolicy, find_certificate
from ra_gateway.ca.general_messages import Published, answer_to
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.key_generation import KeyGeneration
from ra_gateway.ca.ledger.belonging import issuer_ids, require_own_ledger
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.profiles import Profile
from ra_gateway.ca.records import IssuedCertificate, Operation, Reason, Revocation
from ra_gateway.ca.transaction import (
    Received,
    RequestContext,
    outcome_of,
    require_retransmission,
    require_same_confirmation,
)
from ra_gateway.clocks import always_steady, elapsed_seconds
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    RevRepContent,
    gen_msg_body,
    nested_body,
    rev_rep_body,
)
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.contradictions import require_consistent
from ra_gateway.cmp.crmf import CertId
from ra_gateway.cmp.header_checks import (
    NONCE_OCTETS,
    RELAYED,
    HeaderRules,
    check_fresh_nonce,
    with_transaction_id,
)
from ra_gateway.cmp.malformed import refusal_of
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIHeader, PKIMessage, assemble
from ra_gateway.cmp.names import canonical, directory_name, readable, same_name
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.requests import (
    AuthenticatedRevocation,
    done_status,
    read_confirmation,
    read_revocation,
)
from ra_gateway.cmp.responder import (
    Batch,
    Reply,
    Unreadable,
    protect_reply,
    refusal_body,
    reply_header,
    unreadable_reply,
)
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.errors import (
    CMPError,
    ConfirmationRefused,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    PKIFailureInfo,
    RequestRefused,
    ServiceFailure,
    StoreUnavailable,
    UpstreamUnavailable,
)
from ra_gateway.events import Component, EventSink, Outcome, RequestHandled, unheard
from ra_gateway.tasks import all_of, ended, supervised

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")

_Learned = dict[str, Any]
"""Fields of `RequestHandled`."""

_Tell = Callable[..., None]
"""Takes the remaining fields of a `RequestHandled`, and tells it."""

SWEEP_SECONDS: Final = 60
"""How often what was not confirmed in time is revoked; what is asked meanwhile does not depend on it."""

_MOST_EARLIER: Final = 4
"""Credentials of before a reload that transactions may still live on: more changes in some minutes nobody makes."""


class BundledCA:
    """The bundled CA core (`CACore` of the RA's ports; `handle` serves it over HTTP).

    Args:
        credential: Signs the CA's messages; another key than the issuer's (R154).
        issuers: The issuing CAs: the active one, then retired ones whose certificates are still renewed.
        ledger: What they issued, and who is registered; opened by `start`, closed by `close`.
        operator: Its anchors are this PKI's roots: for RA certificates, and for devices' own.
            What it allows of algorithms holds for requested keys as well.
        profiles: By name, the default one first.
        clock: Returns aware UTC.
        random_octets: Returns that many octets, unpredictable.
        rules: How headers are read; in RA mode leniently, and what the RA has to answer for is relaxed: algorithms are
            the profile's business there, and an RA is no base station.
        confirm_wait_seconds: How long certConf is awaited.
        client: Client mode; None serves RA mode only.
        published: What genm is answered with.
        ca_pubs: Whether an ip carries the root in caPubs.
        key_generation: Makes keys for devices that ask for that; None refuses them.
        steady: Whether the clock can be believed for what cannot be undone (`ra_gateway.clocks`).
        monotonic: Seconds, for durations.
        sink: Takes how each message was answered; what becomes of certificates is told by the ledger.
        signers: Further certificates of the PKI's own, such as the OCSP signers': nobody gets their names or keys.
        renew_as: By which profile certificates are renewed that were issued under another.
        before: The one that this takes the place of, over the same ledger, which is open then.
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
        monotonic: Callable[[], float] = elapsed_seconds,
        sink: EventSink = unheard,
        signers: Iterable[Certificate] = (),
        renew_as: Mapping[str, str] | None = None,
        before: BundledCA | None = None,
    ) -> None:
        self._renew_as = renew_as or {}
        self._steady = steady
        self._monotonic = monotonic
        self._sink = sink
        self._credential = credential
        self._issuer_names = tuple(dict.fromkeys(item.certificate.subject_der for item in issuers))
        self._ledger = ledger
        self._default_profile = next(iter(profiles))
        self._clock = clock
        self._random_octets = random_octets
        self._policy = policy or IssuancePolicy()
        self._published = published or Published()
        confirm_wait = timedelta(seconds=confirm_wait_seconds)
        # A captured request cannot come back as a new one: messageTime is refused before it is forgotten.
        self._remember = confirm_wait + timedelta(seconds=2 * rules.message_time_window_seconds)
        authorities = [found for item in issuers for found in (item.certificate, *item.chain)]
        self._own = (
            credential.certificate,
            *authorities,
            *(() if key_generation is None else (key_generation.credential.certificate,)),
            *signers,
        )
        withheld = frozenset() if before is None else frozenset(before._own)
        self._earlier = {} if before is None else before._earlier_with(credential)
        # Of all that it may name, this one has the certificates, too; a reload needs no look at it.
        self._knows_ledger = before is not None and before.issuer_ids <= self.issuer_ids
        self._to_withhold = tuple(item for item in self._own if item not in withheld)
        self._client_profiled = rules.strictness is Strictness.three_gpp
        of_ras = replace(rules, strictness=Strictness.lenient).relaxed_by(RELAYED)
        rules_of = {Mode.ra: of_ras, Mode.client: rules}
        self._authentication = Authentication(
            registered=RegisteredAuthorities(ledger, clock, self._default_profile),
            ledger=ledger,
            operator=operator,
            rules=rules_of,
            client=client,
            authority_names=frozenset(canonical(item.subject_der) for item in authorities),
        )
        self._rules = rules_of
        # Answer: protection chain, then the chain of what was issued, the root last (R97); after a change of
        # the root the way to it from the old one, which a base station may have alone.
        update = self._published.root_update
        cross = () if update is None else (update.new_with_old,)
        chain = issuers[0].certificates
        self._certification = Certification(
            issuer=issuers[0],
            issuer_names=self._issuer_names,
            ledger=ledger,
            profiles=profiles,
            renew_as=self._renew_as,
            rules=rules_of,
            client=client,
            policy=self._policy,
            confirm_wait=confirm_wait,
            remember=self._remember,
            ca_pubs=chain[-1:] if ca_pubs else (),
            chain=(*cross, *chain),
            key_generation=key_generation,
            nonce=self._nonce,
            sign=self._sign,
        )
        self._sweeper: asyncio.Task[None] | None = None

    def _earlier_with(self, after: Credential) -> dict[bytes, Credential]:
        """Return what signed before another credential does, by key identifier; the latest of it."""
        known = dict(self._earlier)
        if self._credential.certificate != after.certificate:
            known[self._credential.certificate.subject_key_identifier or b""] = self._credential
        return dict(list(known.items())[-_MOST_EARLIER:])

    @property
    def issuer_ids(self) -> frozenset[str]:
        """All issuing CAs, retired ones too, as the ledger names them."""
        return issuer_ids(self._own)

    async def start(self) -> None:
        """Open the ledger, and from then on revoke in time what was never confirmed.

        Raises:
            ConfigError, StoreUnavailable: The ledger cannot be used, or is of another CA.
        """
        await self._ledger.open()
        if not self._knows_ledger:
            await require_own_ledger(self._ledger, self.issuer_ids)
        if self._to_withhold:
            await self._ledger.withhold(self._to_withhold)
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(supervised("ca.sweep", self._sweep_forever))

    async def finish(self) -> None:
        """Finish what was begun; the ledger stays open."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            await ended(sweeper)
        await self._certification.finish()

    async def close(self) -> None:
        """Finish what was begun and close the ledger; nothing the second time."""
        await self.finish()
        await self._ledger.close()

    async def _sweep_forever(self) -> None:
        while True:
            try:
                # By a clock that was set, devices' time to confirm is not over, and no request is old.
                if self._steady():
                    await self._ledger.sweep(self._clock())
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
            UpstreamUnavailable: Time is up. What was begun is finished, and a retransmission gets its answer.
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
        tell = partial(
            self._tell, self._monotonic(), endpoint=mode.name, peer=peer, operation=operation
        )
        try:
            message = with_transaction_id(PKIMessage.from_der(der), self._rules[mode])
        except MalformedMessage as error:
            return await self._unreadable(Unreadable.of(der, error), tell)
        return Reply(await self._handled(message, mode, tell), understood=True)

    async def _handled(
        self,
        message: PKIMessage,
        mode: Mode,
        tell: _Tell,
        *,
        in_batch: bool = False,
    ) -> bytes:
        tell = partial(
            tell,
            transaction_id=(message.header.transaction_id or b"").hex(),
            body_type=message.body_type.name,
        )
        try:
            answer, learned = await self._answer(message, mode, tell, in_batch=in_batch)
        except Exception as error:
            # A bug, or a key that cannot sign; the peer still gets an answer, and the log the whole story.
            learned = {"outcome": Outcome.failed, "bug": error}
            failure = ServiceFailure("unexpected")
            header = reply_header(message.header, sender_nonce=self._nonce(), now=self._clock())
            answer = assemble(header.to_der(), refusal_body(failure, message), None)
        tell(**learned)
        return answer

    async def _unreadable(self, what: Unreadable, tell: _Tell) -> Reply:
        tell(transaction_id=what.transaction_id, body_type="", **_refusal(what.error))
        return await unreadable_reply(
            what, self._credential, now=self._clock(), random_octets=self._random_octets
        )

    def _tell(self, started: float, **fields: Any) -> None:
        duration_ms = (self._monotonic() - started) * 1000.0
        self._sink(RequestHandled(by=Component.ca, duration_ms=duration_ms, **fields))

    async def _answer_batch(
        self, message: PKIMessage, batch: Batch, tell: _Tell
    ) -> tuple[bytes, _Learned]:
        """Answer the messages of a batch, all at the same time, each as if it had come alone (R125)."""

        async def answer(member: PKIMessage | Unreadable) -> bytes:
            of_member = partial(tell, batch=(message.header.transaction_id or b"").hex())
            if isinstance(member, Unreadable):
                return (await self._unreadable(member, of_member)).der
            return await self._handled(member, Mode.ra, of_member, in_batch=True)

        answers = await all_of(answer(member) for member in batch.members)
        nested_der = await self._sign(message.header, nested_body(*answers), self._clock())
        return nested_der, {"outcome": Outcome.batched, "messages": len(answers)}

    async def _answer(
        self,
        message: PKIMessage,
        mode: Mode,
        tell: _Tell,
        *,
        in_batch: bool,
    ) -> tuple[bytes, _Learned]:
        """Return the answer, and what is to be told of it.

        Args:
            tell: For the members of a batch.
        """
        now, learned = self._clock(), _Learned()
        context: RequestContext | None = None
        try:
            received = await self._authentication.receive(message, mode, now, in_batch=in_batch)
            if isinstance(received, Batch):
                return await self._answer_batch(message, received, tell)
            message = received.message
            if received.outer is not None:
                fingerprint = received.outer.signer.fingerprint.hex()
                learned = {"requester": received.requester, "signer_fingerprint": fingerprint}
            if message.body_type is BodyType.certConf:
                operation, outcome = await self._confirm(received, now)
                learned |= {"outcome": outcome, "serial_number": f"{operation.serial_number:x}"}
                return operation.confirm_answer, learned
            context = await self._authentication.authenticate_request(received, now)
            if context.entity is not None:
                learned["entity"] = context.entity.name
            if message.body_type is BodyType.genm:
                learned["outcome"] = Outcome.informed
                return await self._inform(received, now), learned
            if context.answered is not None:
                operation, outcome = context.answered, Outcome.replayed
            elif message.body_type is BodyType.rr:
                operation, outcome = await self._revoke(context, now)
            else:
                operation, outcome = await self._certification.certify(context, now)
        except CMPError as error:
            refusal = error
            if isinstance(error, MalformedMessage) and context is not None:
                refusal = refusal_of(message, error)
            answer = await self._sign(message.header, refusal_body(refusal, message), self._clock())
            return answer, learned | _refusal(refusal)
        learned["outcome"] = outcome
        if operation.serial_number:  # else no certificate came of it
            learned["serial_number"] = f"{operation.serial_number:x}"
        return operation.answer, learned

    # --- certConf ---------------------------------------------------------------------------------------------

    async def _confirm(self, received: Received, now: datetime) -> tuple[Operation, Outcome]:
        operation = await self._ledger.find_operation(
            received.requester, received.transaction_id, now
        )
        if operation is None or not operation.answer or operation.body_type not in CERT_RESPONSE_TO:
            raise HeaderRefused("no such transaction awaits a confirmation", rule="R11")
        authenticated = await self._authentication.authenticate_confirmation(
            received, operation, now
        )
        digest = received.digest
        if operation.confirm_digest:
            return require_same_confirmation(operation, digest), Outcome.replayed
        if operation.confirm_by is None:
            raise ConfirmationRefused(
                "implicitConfirm was granted", fail_info=PKIFailureInfo.certConfirmed, rule="R110"
            )
        rules = self._rules_for(received)
        answered = PKIMessage.from_der(operation.answer).header
        if rules.strict:
            check_fresh_nonce(authenticated.message.header, answered.recip_nonce, rules)
        confirmation = read_confirmation(
            authenticated,
            load_certificate(operation.certificate_der),
            response_nonce=operation.response_nonce,
            cert_req_id=operation.cert_req_id,
            request=BodyType(operation.body_type),
            rules=rules,
        )
        if now > operation.confirm_by:
            raise ConfirmationRefused("confirmWaitTime is over", rule="R111")
        accepted = confirmation.status.takes_certificate
        if accepted and received.by_device:
            await self._authentication.require_still_good(received, authenticated, operation, now)
        stored = await self._ledger.confirm(
            operation,
            accepted=accepted,
            digest=digest,
            answer=await self._sign(
                authenticated.message.header,
                PKICONF_BODY,
                now,
                # T51: a base station has the certificates from the answer before; an RA has several nodes.
                bare=received.authority is None and self._client_profiled,
                begun_by=answered.sender_kid,
            ),
            now=now,
            revoke_superseded=self._policy.revoke_superseded,
        )
        if stored is None:
            raise HeaderRefused("the transaction has expired", rule="R11")
        return require_same_confirmation(stored, digest), (
            Outcome.confirmed if accepted else Outcome.rejected
        )

    # --- rr, genm ---------------------------------------------------------------------------------------------

    async def _revoke(self, context: RequestContext, now: datetime) -> tuple[Operation, Outcome]:
        received = context.received
        found = await self._ledger.find_operation(received.requester, received.transaction_id, now)
        if found is not None:
            return require_retransmission(found, context), Outcome.replayed
        wanted = read_revocation(context.authenticated, self._rules_for(received))
        certificate = await self._to_revoke(wanted, context, now)
        operation = Operation(
            requester=received.requester,
            transaction_id=received.transaction_id,
            request_digest=received.digest,
            body_type=received.message.body_type,
            cert_req_id=0,
            response_nonce=self._nonce(),
            confirm_by=None,
            expires_at=now + self._remember,
            signer_der=context.signer_der,
            old_serial_number=certificate.serial_number,
        )
        cert_id = CertId(directory_name(wanted.issuer_der), wanted.serial_number)
        answer = await self._sign(
            received.message.header,
            rev_rep_body(RevRepContent((done_status(wanted.reason),), (cert_id,))),
            now,
            nonce=operation.response_nonce,
        )
        actor = received.requester if context.entity is None else context.entity.name
        revocation = Revocation(
            certificate.serial_number, Reason(wanted.reason), actor, certificate.issuer_id
        )
        stored = await self._ledger.revoke(
            revocation, now, operation=replace(operation, answer=answer)
        )
        assert stored is not None  # an operation was given
        return require_retransmission(stored, context), outcome_of(
            operation, stored, Outcome.revoked
        )

    async def _to_revoke(
        self, wanted: AuthenticatedRevocation, context: RequestContext, now: datetime
    ) -> IssuedCertificate:
        """Return the certificate an rr names, if whoever asks may have it revoked."""
        found = await find_certificate(
            self._ledger, self._issuer_names, wanted.issuer_der, wanted.serial_number, now
        )
        if not any(same_name(wanted.issuer_der, name) for name in self._issuer_names):
            raise RequestRefused(
                f"the certificate to be revoked is of {readable(wanted.issuer_der)}, no CA that is here",
                fail_info=PKIFailureInfo.badCertId,
                rule="R131",
            )
        if context.received.by_device and (
            found is None
            or context.device is None
            or found.serial_number != context.device.serial_number
        ):
            # The same for certificates that there are and that there are not: a device need not know.
            raise NotAuthorized("a device may have its own certificate revoked only", rule="R130")
        if found is None:
            raise RequestRefused(
                "no such certificate to revoke", fail_info=PKIFailureInfo.badCertId, rule="R131"
            )
        authority = context.received.authority
        if authority is not None:
            if not context.received.by_device:
                require_own(authority, found)
            recorded = found.profile or self._default_profile
            require_profile(authority, recorded, self._renew_as.get(recorded, recorded))
        require_consistent(wanted.details, load_certificate(found.der))
        return found

    async def _inform(self, received: Received, now: datetime) -> bytes:
        message = received.message
        items = await answer_to(
            message.body_content,
            self._published,
            self._ledger,
            issuer_id=self._certification.issuer.id,
            lenient=self._rules_for(received).lenient,
        )
        return await self._sign(message.header, gen_msg_body(BodyType.genp, items), now)

    def _rules_for(self, received: Received) -> HeaderRules:
        """Return how the body of a message is read: what an RA let pass is its own business."""
        return self._rules[Mode.ra if received.authority else Mode.client]

    # --- answers ----------------------------------------------------------------------------------------------

    async def _sign(
        self,
        request: PKIHeader,
        body_der: bytes,
        now: datetime,
        *,
        nonce: bytes | None = None,
        general_info: tuple[InfoTypeAndValue, ...] = (),
        chain: tuple[bytes, ...] = (),
        bare: bool = False,
        begun_by: bytes | None = None,
    ) -> bytes:
        """Return a message to whoever sent a request.

        Args:
            begun_by: Key identifier of what signed the answer before: a transaction ends with what it began with.
        """
        header = reply_header(
            request, sender_nonce=nonce or self._nonce(), now=now, general_info=general_info
        )
        signer = self._earlier.get(begun_by or b"", self._credential)
        if bare:
            return await protect(header, body_der, signer, ())
        return await protect_reply(header, body_der, signer, chain)

    def _nonce(self) -> bytes:
        return self._random_octets(NONCE_OCTETS)


def _refusal(error: CMPError) -> _Learned:
    return {
        "outcome": Outcome.failed if isinstance(error, ServiceFailure) else Outcome.refused,
        "fail_info": error.fail_info,
        "rule": error.rule,
        "detail": error.detail,
    }
