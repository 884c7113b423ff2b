"""The gateway: one message in, one answer out, by ten numbered steps.

     1 decode         bytes -> PKIMessage
     2 header         version, IDs, nonces, time, whether the type is taken here
     3 authenticate   signer, path to a trust domain, proof of possession
     4 authorize      which identity the device may have
     5 open           the transaction is stored; a byte-identical repeat is answered from the store
     6 re-protect     under the RA's signature; the result is part of what step 5 stores
     7 forward        to the CA
     8 check answer   protection, IDs, nonces, key, issuer, subject
     9 advance        compare-and-set in the store; who loses the race answers what the winner stored
    10 relay          the answer, signed by the RA, with the certificates a device needs

Steps 5 and 6 are one: the message for the CA is signed before the transaction is stored, so that whichever
node continues after a crash sends the very same bytes. certConf walks the same steps as a follower. genm changes
nothing anywhere: it walks them without steps 5 and 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.mac import mac_parameters, mac_protected, reference_fingerprint
from ra_gateway.cmp.messages import (
    PKICONF_BODY,
    PKIHeader,
    PKIMessage,
    assemble,
    cert_req_id_of,
    error_msg_content,
    gen_msg_body,
)
from ra_gateway.cmp.protection import Credential, Protecting, protect
from ra_gateway.cmp.replies import (
    Reply,
    confirm_wait_time_of,
    refusal_body,
    relay_header,
    reply_header,
    unreadable_reply,
)
from ra_gateway.cmp.requests import (
    AuthenticatedConfirmation,
    AuthenticatedRequest,
    AuthenticatedRevocation,
    read_confirmation,
    read_question,
    read_request,
    read_revocation,
)
from ra_gateway.cmp.trust import DomainKind
from ra_gateway.cmp.verification import (
    NONCE_OCTETS,
    Authenticated,
    AuthenticatedMessage,
    KnownSigner,
    MACAuthenticatedMessage,
    authenticate,
    authenticate_by_secret,
    authenticate_follower,
    check_header,
    check_message_time,
    check_version,
)
from ra_gateway.errors import (
    CMPError,
    ConfirmationRefused,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    PKIFailureInfo,
    ProtectionRefused,
    ServiceFailure,
    SignerNotTrusted,
    StaleTransaction,
    StatusUnavailable,
    StoreUnavailable,
    TransactionInUse,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.ra.answers import (
    Expected,
    check_information,
    check_pkiconf,
    check_response,
    check_revocation,
)
from ra_gateway.ra.events import EventSink
from ra_gateway.ra.forwarding import (
    answer_for_device,
    granted_by,
    message_for_ca,
    relayed,
    variant_for,
)
from ra_gateway.ra.information import answered_here
from ra_gateway.ra.policy import (
    AuthorizedRequest,
    AuthorizedRevocation,
    InventoryUse,
    authorize,
    authorize_revocation,
    vendor_identity,
)
from ra_gateway.ra.ports import Claim, Clock, Inventory, InventoryEntry, TransactionStore
from ra_gateway.ra.revocation import NOBODY_ASKED, SignerStatus
from ra_gateway.ra.routes import CertConf, Endpoint, MACAccess, Upstream, Variant
from ra_gateway.ra.transaction import (
    Event,
    Exchange,
    State,
    Transaction,
    TransactionKey,
    advance,
)
from ra_gateway.ra.walk import Walk, unreadable_event

OPERATIONS: Final[Mapping[str, frozenset[BodyType]]] = {
    "initialization": frozenset({BodyType.ir}),
    "certification": frozenset({BodyType.cr}),
    "keyupdate": frozenset({BodyType.kur}),
    "pkcs10": frozenset({BodyType.p10cr}),
    "revocation": frozenset({BodyType.rr}),
    "getcacerts": frozenset({BodyType.genm}),
    "getrootupdate": frozenset({BodyType.genm}),
    "getcertreqtemplate": frozenset({BodyType.genm}),
    "getcrls": frozenset({BodyType.genm}),
}
"""Operation labels of RFC 9483 6.1 that name a request taken here; followers may use any of them."""

_LEASE_MARGIN_SECONDS: Final = 5.0
"""A node gives up its exchange with the CA this much before another one may take over."""

_CONFIRMED: Final = frozenset({State.CONFIRMED, State.REJECTED, State.GRANTED})

_UNDER_MAC: Final = frozenset({BodyType.ir, BodyType.cr, BodyType.p10cr})
"""Requests that a shared secret may protect (RFC 9483 4.1.5)."""

_FOLLOWERS: Final = frozenset({BodyType.certConf, BodyType.error, BodyType.pollReq})

_Authorized = AuthorizedRequest | AuthorizedRevocation


class Gateway:
    """Answers devices' messages (RFC 9483 5, TS 33.310 9).

    Args:
        endpoints: By name.
        credential: The RA's, called for each signature so that it can be renewed while running.
        earlier_credentials: Those of before, while transactions begun with them may live: a transaction
            keeps the credential its first answer was signed with (R80).
        store: Where transactions are kept.
        inventory: None if no vendor uses it.
        clock: Aware UTC.
        monotonic: Seconds, for durations.
        random_octets: Draws as many random octets as it is asked for.
        sink: Takes an event for every message.
        signer_status: Tells whether a signer was revoked.
        transaction_lifetime_seconds: How long the answer to a repeat is kept.
    """

    def __init__(
        self,
        *,
        endpoints: Mapping[str, Endpoint],
        credential: Callable[[], Credential],
        earlier_credentials: Callable[[], Sequence[Credential]] = tuple,
        store: TransactionStore,
        inventory: Inventory | None,
        clock: Clock,
        monotonic: Callable[[], float],
        random_octets: Callable[[int], bytes],
        sink: EventSink,
        signer_status: SignerStatus = NOBODY_ASKED,
        transaction_lifetime_seconds: float = 3600.0,
    ) -> None:
        self._endpoints = endpoints
        self._credential = credential
        self._earlier_credentials = earlier_credentials
        self._store = store
        self._inventory = inventory
        self._clock = clock
        self._monotonic = monotonic
        self._random_octets = random_octets
        self._sink = sink
        self._signer_status = signer_status
        self._lifetime = timedelta(seconds=transaction_lifetime_seconds)

    async def handle(
        self, der: bytes, *, endpoint: str, profile: str = "", operation: str = "", peer: str = ""
    ) -> Reply:
        """Answer one message; whatever happens inside, the answer is a DER PKIMessage.

        Args:
            der: What was received.
            endpoint: Name of the endpoint it was sent to.
            profile: Name out of the path below /p/, for the event.
            operation: Operation label out of the path, "" for none.
            peer: Where it came from, for the event.
        """
        started = self._monotonic()
        try:
            message = PKIMessage.from_der(der)  # step 1
        except MalformedMessage as error:
            self._sink(unreadable_event(error, endpoint, peer, self._elapsed_ms(started)))
            random = self._random_octets(2 * NONCE_OCTETS)
            return Reply(
                unreadable_reply(
                    error,
                    transaction_id=random[:NONCE_OCTETS],
                    sender_nonce=random[NONCE_OCTETS:],
                ),
                understood=False,
            )
        walk = Walk(self._endpoints[endpoint], message, hashlib.sha256(der).digest(), operation)
        bug: Exception | None = None
        try:
            response = await self._answer(walk)
        except CMPError as error:
            response = await self._refuse(walk, error)
        except Exception as error:  # an answer always leaves; the event carries the cause
            bug = error
            failure = ServiceFailure(f"{type(error).__name__}: {error}", rule="bug")
            response = await self._refuse(walk, failure)
        self._sink(walk.event(peer, self._elapsed_ms(started), bug))
        return Reply(response, understood=True)

    def _elapsed_ms(self, started: float) -> float:
        return (self._monotonic() - started) * 1000.0

    async def _answer(self, walk: Walk) -> bytes:
        body_type = walk.message.body_type
        self._check_type(walk)
        if body_type is BodyType.certConf:
            return await self._confirm(walk)
        if body_type is BodyType.error:
            return await self._device_error(walk)
        if body_type is BodyType.genm:
            return await self._inform(walk)
        return await self._request(walk)

    # --- step 2: header ---------------------------------------------------------------------------------------

    def _check_type(self, walk: Walk) -> None:
        """Check version, body type and label, before anything is computed."""
        check_version(walk.message.header)
        body_type = walk.message.body_type
        if body_type not in walk.endpoint.body_types | _FOLLOWERS:
            known = body_type in RESPONSE_TO
            raise HeaderRefused(
                f"{body_type.name} is not {'taken at this endpoint' if known else 'a request served here'}",
                rule="R9" if not known else "R142",
            )
        labelled = OPERATIONS.get(walk.operation)
        if walk.operation and body_type not in _FOLLOWERS and body_type not in (labelled or ()):
            raise HeaderRefused(f"{body_type.name} sent to .../{walk.operation}", rule="R149")
        rules = walk.endpoint.rules.relaxed_by(walk.endpoint.loosest_quirks)
        check_header(walk.message.header, rules, first=body_type in RESPONSE_TO)
        profiles = walk.message.header.cert_profiles
        if body_type in RESPONSE_TO and len(profiles) > 1:
            # RFC 9483 3.1: exactly one. A name is for the CA to know: it goes up as it came.
            raise HeaderRefused(f"certProfile names {len(profiles)} profiles", rule="R64")
        if body_type is BodyType.pollReq:
            raise HeaderRefused(
                "no answer is being waited for under this transactionID", rule="R119"
            )

    # --- ir, cr, kur, p10cr, rr ---------------------------------------------------------------------------------

    async def _request(self, walk: Walk) -> bytes:
        now = self._clock()
        authenticated: Authenticated
        authorized: _Authorized
        mac = walk.endpoint.mac
        if mac is not None and walk.message.body_type in _UNDER_MAC and mac_protected(walk.message):
            authenticated = await self._authenticate_by_secret(walk, mac)  # step 3
        else:
            authenticated = self._authenticate(walk, now)
        if walk.message.body_type is BodyType.rr and isinstance(
            authenticated, AuthenticatedMessage
        ):
            authorized = authorize_revocation(read_revocation(authenticated))  # step 4
        else:
            authorized = await self._authorize(walk, authenticated)
        key = _key(authenticated)
        try:
            rules = walk.endpoint.rules.relaxed_by(authenticated.domain.quirks)
            check_message_time(walk.message.header, rules, now)
            await self._check_status(walk, authenticated, now)
        except (HeaderRefused, SignerNotTrusted, StatusUnavailable):
            # A late repeat is still a repeat: the device may have been without power for an hour, and
            # its certificate may have been superseded and revoked by what it got.
            live = await self._store.load(key)
            if live is None or live.exchange_for(walk.digest) is None:
                raise
            return await self._repeat(walk, live, authorized)
        transaction = await self._prepare(walk, key, authorized, now)  # step 6
        live = await self._store.create(transaction)  # step 5
        if live is not None:
            return await self._repeat(walk, live, authorized)
        return await self._forward(walk, transaction, authorized)

    def _authenticate(self, walk: Walk, now: datetime) -> AuthenticatedMessage:
        endpoint, message = walk.endpoint, walk.message
        if endpoint.mac is not None and mac_protected(message):
            raise ProtectionRefused(
                f"a shared secret cannot protect {message.body_type.name}",
                fail_info=PKIFailureInfo.wrongIntegrity,
                rule="R42",
            )
        authenticated = authenticate(
            message, endpoint.domains_for(message.body_type), endpoint.rules, now
        )
        walk.signer, walk.domain = authenticated.signer, authenticated.domain.name
        walk.quirks = tuple(sorted(authenticated.domain.quirks))
        return authenticated

    async def _authenticate_by_secret(self, walk: Walk, mac: MACAccess) -> MACAuthenticatedMessage:
        """Authenticate a message under a MAC; wrong ones are counted, whatever the message."""
        message = walk.message
        header = message.header
        parameters = mac_parameters(header.protection_alg_der or b"", mac.bounds)
        reference = header.sender_kid or b""
        secret = await mac.secrets.find(reference)
        try:
            authenticated = authenticate_by_secret(
                message,
                parameters,
                secret,
                mac.domain,
                walk.endpoint.rules,
                first=message.body_type in RESPONSE_TO,
            )
        except ProtectionRefused as error:
            if error.rule == "R41":
                await mac.secrets.failed(reference)
            raise
        walk.shared, walk.domain = authenticated.credential, mac.domain.name
        return authenticated

    async def _check_status(self, walk: Walk, authenticated: Authenticated, now: datetime) -> None:
        """Refuse who was good once: a revoked signer, a shared secret whose time is over."""
        if isinstance(authenticated, AuthenticatedMessage):
            walk.notes += await self._signer_status.check(authenticated, now)
            return
        secret = authenticated.requester
        if secret.expires_at is not None and secret.expires_at <= now:
            raise SignerNotTrusted(
                f"the {secret.label} expired on {secret.expires_at:%Y-%m-%dT%H:%M:%SZ}",
                rule="R22",
                phrase="The shared secret that protects the message has expired.",
            )

    async def _authorize(self, walk: Walk, authenticated: Authenticated) -> AuthorizedRequest:
        request: AuthenticatedRequest = read_request(authenticated, walk.endpoint.rules)
        walk.cert_req_id = request.request.cert_req_id
        rules = None
        entry: InventoryEntry | None = None
        if request.domain.kind is DomainKind.vendor:
            rules = walk.endpoint.identities.get(request.domain.name)
            if rules is not None and rules.inventory is not InventoryUse.none:
                identity = vendor_identity(request.domain, rules, request.signer)
                if self._inventory is None:
                    raise NotAuthorized("no inventory is configured", rule="R145")
                entry = await self._inventory.find(request.domain.name, identity)
        variant = variant_for(walk.endpoint.upstream, walk.message.body_type)
        return authorize(request, rules, entry, may_complete=variant is Variant.reprotect)

    async def _prepare(
        self, walk: Walk, key: TransactionKey, authorized: _Authorized, now: datetime
    ) -> Transaction:
        """Build the intent: everything another node needs, the signed message for the CA included."""
        endpoint, message = walk.endpoint, walk.message
        variant = variant_for(endpoint.upstream, message.body_type)
        return Transaction(
            key=key,
            state=State.REQUESTED,
            version=0,
            body_type=message.body_type,
            endpoint=endpoint.name,
            upstream=endpoint.upstream.name,
            variant=variant.value,
            signer_der=authorized.request.authenticated.requester.der,
            sender_nonce=message.header.sender_nonce or b"",
            subject_der=authorized.subject_der,
            cert_req_id=walk.cert_req_id,
            opening=Exchange(
                walk.digest,
                await message_for_ca(
                    endpoint, message, authorized.body_der, variant, self._credential(), now
                ),
            ),
            lease_until=now + _lease(endpoint.upstream),
            created_at=now,
            expires_at=now + self._lifetime,
        )

    async def _forward(
        self, walk: Walk, transaction: Transaction, authorized: _Authorized
    ) -> bytes:
        """Send the stored intent to the CA and settle the transaction by what comes back (steps 7 to 10)."""
        upstream = walk.endpoint.upstream
        try:
            claimed = await self._claim(walk, transaction)
        except NotAuthorized as error:
            return await self._fail(walk, transaction, error)
        except StoreUnavailable:
            await self._release(transaction)
            raise
        try:
            answer_der = await upstream.core.exchange(
                transaction.opening.upstream_der,
                path="",
                deadline_seconds=upstream.deadline_seconds,
            )
            if isinstance(authorized, AuthorizedRevocation):
                settled = await self._revoked(walk, transaction, authorized.request, answer_der)
            else:
                settled = await self._certified(walk, transaction, authorized, answer_der)
        except UpstreamUnavailable as error:
            if not error.delivered or _may_ask_again(upstream, transaction):
                # Nothing was issued, or asking again yields the same: the device's next repeat may try.
                await self._release(transaction)
                if claimed and not error.delivered:
                    await self._unclaim(walk, transaction)
                raise
            return await self._fail(walk, transaction, error)
        except UpstreamBroken as error:
            return await self._fail(walk, transaction, error)
        answer = await self._settle(settled) or settled.opening.response_der or b""
        if settled.state is State.REFUSED:
            await self._unclaim(walk, transaction)
        return answer

    async def _claim(self, walk: Walk, transaction: Transaction) -> bool:
        """Use up a shared secret that is for one certificate, before the CA is asked for it.

        Returns:
            Whether that was done now: not where it is for more, nor where this transaction did it before.

        Raises:
            NotAuthorized: Another transaction used it up.
            StoreUnavailable: That cannot be told, or not be recorded.
        """
        mac = walk.endpoint.mac
        if mac is None or walk.shared is None or not walk.shared.secret.single_use:
            return False
        secret = walk.shared.secret
        claim = await mac.secrets.claim(secret.reference, _holder(transaction))
        if claim is Claim.refused:
            raise NotAuthorized(f"the {secret.label} was used before", rule="RFC 9483 4.1.5")
        return claim is Claim.taken

    async def _unclaim(self, walk: Walk, transaction: Transaction) -> None:
        """Give a shared secret back: no certificate came of this transaction."""
        mac = walk.endpoint.mac
        if mac is not None and walk.shared is not None and walk.shared.secret.single_use:
            await mac.secrets.release(walk.shared.secret.reference, _holder(transaction))

    async def _certified(
        self,
        walk: Walk,
        transaction: Transaction,
        authorized: AuthorizedRequest,
        answer_der: bytes,
    ) -> Transaction:
        """Return the transaction after the CA's ip, cp or kup, which is checked here."""
        upstream = walk.endpoint.upstream
        answer = check_response(answer_der, Expected.of(authorized), upstream, self._clock())
        walk.certificate = answer.certificate
        walk.outcome = "refused" if answer.certificate is None else "issued"
        if answer.certificate is None:
            walk.rejection = answer.response.status_info
            walk.notes.append(f"the CA refused: {walk.rejection}")
        response, granted = await answer_for_device(
            walk.endpoint,
            walk.message,
            answer,
            walk.shared or self._credential(),
            self._clock(),
        )
        event = (
            Event.refused
            if answer.certificate is None
            else Event.granted
            if granted
            else Event.issued
        )
        return advance(
            transaction,
            event,
            opening=_answered(transaction.opening, response),
            response_nonce=answer.message.header.sender_nonce or b"",
            certificate_der=b"" if answer.certificate is None else answer.certificate.der,
            confirm_locally=granted_by(answer),
        )

    async def _revoked(
        self,
        walk: Walk,
        transaction: Transaction,
        request: AuthenticatedRevocation,
        answer_der: bytes,
    ) -> Transaction:
        """Return the transaction after the CA's rp, which is checked here."""
        answer, info = check_revocation(answer_der, request, walk.endpoint.upstream, self._clock())
        refused = info.status is PKIStatus.rejection
        walk.outcome = "refused" if refused else "revoked"
        if refused:
            walk.rejection = info
            walk.notes.append(f"the CA refused: {info}")
        else:
            walk.certificate = request.signer
        response = await relayed(answer, walk.message, self._credential(), self._clock())
        return advance(
            transaction,
            Event.refused if refused else Event.revoked,
            opening=_answered(transaction.opening, response),
            response_nonce=answer.header.sender_nonce or b"",
        )

    async def _fail(self, walk: Walk, transaction: Transaction, error: CMPError) -> bytes:
        """Settle a transaction that must not be asked again; its repeats get this same error."""
        response = await self._refuse(walk, error)
        exchange = _answered(transaction.confirmation or transaction.opening, response)
        which = "opening" if transaction.confirmation is None else "confirmation"
        failed = advance(transaction, Event.failed, **{which: exchange})
        return await self._settle(failed) or response

    async def _release(self, transaction: Transaction) -> None:
        """Let the device's next repeat ask the CA at once; nothing was issued, or asking is harmless."""
        await self._settle(
            advance(transaction, Event.released, lease_until=self._clock(), may_retry=True)
        )

    async def _settle(self, transaction: Transaction) -> bytes | None:
        """Store a transaction's next version (step 9).

        Returns:
            None when it was stored. When another node was faster, its answer: a node that was slower than
            its lease may have been overtaken, and the device must see one answer only.
        """
        try:
            await self._store.replace(transaction)
        except StaleTransaction:
            live = await self._store.load(transaction.key)
            digest = (transaction.confirmation or transaction.opening).request_digest
            exchange = None if live is None else live.exchange_for(digest)
            if exchange is None or exchange.response_der is None:
                raise StoreUnavailable("overtaken by a node that has no answer yet") from None
            return exchange.response_der
        return None

    # --- repeats ------------------------------------------------------------------------------------------------

    async def _repeat(self, walk: Walk, live: Transaction, authorized: _Authorized | None) -> bytes:
        """Answer a request whose transactionID is live: from the store, or not at all (R12, R94).

        Args:
            authorized: The request that opened the transaction; None for a certConf.
        """
        patience = self._monotonic() + walk.endpoint.upstream.deadline_seconds
        current: Transaction | None = live
        while current is not None:
            exchange = current.exchange_for(walk.digest)
            if exchange is None and authorized is None:
                raise ConfirmationRefused(
                    "another certConf came first",
                    fail_info=PKIFailureInfo.certConfirmed,
                    rule="R109",
                )
            if exchange is None or current.endpoint != walk.endpoint.name:
                raise TransactionInUse("another request lives under this transactionID", rule="R12")
            if exchange.response_der is not None:
                walk.outcome = "replayed"
                return exchange.response_der
            now = self._clock()
            if current.lease_until <= now:
                _check_same_upstream(walk, current)
                taken = advance(
                    current,
                    Event.retaken,
                    lease_until=now + _lease(walk.endpoint.upstream),
                    may_retry=False,
                )
                try:
                    await self._store.replace(taken)
                except StaleTransaction:
                    current = await self._store.load(live.key)
                    continue
                return await self._continue(walk, taken, authorized, before=current)
            left = min(patience - self._monotonic(), (current.lease_until - now).total_seconds())
            if patience <= self._monotonic():
                raise UpstreamUnavailable("the CA is still being asked", delivered=True)
            current = await self._store.wait(
                current.key, version=current.version, timeout_seconds=max(left, 0.001)
            )
        raise StoreUnavailable("the transaction expired while it was being waited for")

    async def _continue(
        self,
        walk: Walk,
        taken: Transaction,
        authorized: _Authorized | None,
        *,
        before: Transaction,
    ) -> bytes:
        """Go on where another node stopped, with the bytes it had prepared."""
        if taken.state is State.CONFIRMING:
            return await self._forward_confirmation(walk, taken)
        if authorized is None:
            raise ConfirmationRefused(
                "nothing was issued yet", fail_info=PKIFailureInfo.badRequest, rule="R11"
            )
        upstream = walk.endpoint.upstream
        if not _may_ask_again(upstream, taken) and not before.may_retry:
            # The node that held the lease may have been answered before it died; this CA would issue again.
            return await self._fail(
                walk,
                taken,
                UpstreamUnavailable("the node that asked the CA is gone", delivered=True),
            )
        return await self._forward(walk, taken, authorized)

    # --- genm ---------------------------------------------------------------------------------------------------

    async def _inform(self, walk: Walk) -> bytes:
        """genm: answered here or by the CA; nothing is stored, and a repeat is simply answered again."""
        now, endpoint, message = self._clock(), walk.endpoint, walk.message
        authenticated = self._authenticate(walk, now)
        question = read_question(authenticated)
        rules = endpoint.rules.relaxed_by(authenticated.domain.quirks)
        check_message_time(message.header, rules, now)
        walk.notes += await self._signer_status.check(authenticated, now)
        if await self._store.load(_key(authenticated)) is not None:
            raise TransactionInUse("another request lives under this transactionID", rule="R12")
        own = answered_here(question, endpoint.information)
        walk.outcome = "informed"
        if own is not None:
            credential = self._credential()
            return await protect(
                self._reply_header(message.header),
                gen_msg_body(BodyType.genp, [own]),
                credential,
                credential.certificates,
            )
        upstream = endpoint.upstream
        answer_der = await upstream.core.exchange(
            await message_for_ca(
                endpoint, message, message.body_der, Variant.reprotect, self._credential(), now
            ),
            path="",
            deadline_seconds=upstream.deadline_seconds,
        )
        answer, refusal = check_information(answer_der, question, upstream, self._clock())
        if refusal is not None:
            walk.outcome, walk.rejection = "refused", refusal
            walk.notes.append(f"the CA refused: {refusal}")
        return await relayed(answer, message, self._credential(), self._clock())

    # --- certConf -----------------------------------------------------------------------------------------------

    async def _confirm(self, walk: Walk) -> bytes:
        """certConf: the same steps for a message that continues a transaction."""
        transaction = await self._find(walk)
        if transaction.exchange_for(walk.digest) is not None:
            return await self._repeat(walk, transaction, None)
        if transaction.state in _CONFIRMED or transaction.state is State.CONFIRMING:
            raise ConfirmationRefused(
                f"certConf in state {transaction.state}",
                fail_info=PKIFailureInfo.certConfirmed,
                rule="R110" if transaction.state is State.GRANTED else "R109",
            )
        if transaction.state is not State.ISSUED:
            raise HeaderRefused(f"certConf in state {transaction.state}", rule="R11")
        confirmation = self._read_confirmation(walk, transaction)
        takes = confirmation.status.takes_certificate
        now = self._clock()
        local = walk.endpoint.upstream.certconf is CertConf.local or transaction.confirm_locally
        upstream_der = b""
        if local and takes and now > _awaited_until(transaction):
            # Where the CA awaits nothing, nobody else would hold the device to what it was told.
            raise ConfirmationRefused(
                "certConf after confirmWaitTime", fail_info=PKIFailureInfo.badRequest, rule="R111"
            )
        if not local:
            _check_same_upstream(walk, transaction)
            upstream_der = await message_for_ca(
                walk.endpoint,
                walk.message,
                walk.message.body_der,
                Variant(transaction.variant),
                self._credential_of(transaction),
                now,
            )
        confirming = advance(
            transaction,
            Event.confirm,
            confirmation=Exchange(walk.digest, upstream_der),
            confirm_status=takes,
            lease_until=now + _lease(walk.endpoint.upstream),
        )
        try:
            await self._store.replace(confirming)
        except StaleTransaction:
            live = await self._store.load(transaction.key)
            if live is None:
                raise StoreUnavailable("the transaction expired meanwhile") from None
            return await self._repeat(walk, live, None)
        return await self._forward_confirmation(walk, confirming)

    async def _find(self, walk: Walk) -> Transaction:
        """Find the transaction a follower continues, by transactionID and by whose key protects it."""
        known: dict[bytes, tuple[Transaction, KnownSigner]] = {}
        live = await self._store.find(walk.message.header.transaction_id or b"")
        mac = walk.endpoint.mac
        if mac is not None and live and mac_protected(walk.message):
            return await self._find_by_secret(walk, mac, live)
        for found in live:
            domain = walk.endpoint.domain_named(found.key.domain)
            if found.endpoint == walk.endpoint.name and domain is not None:
                signer = KnownSigner(load_certificate(found.signer_der), domain)
                known[found.key.signer_fingerprint] = (found, signer)
        if not known:
            raise HeaderRefused(
                f"{walk.message.body_type.name} for a transactionID that is not known here",
                rule="R11",
            )
        now = self._clock()
        authenticated = authenticate_follower(
            walk.message, [signer for _, signer in known.values()], walk.endpoint.rules, now
        )
        rules = walk.endpoint.rules.relaxed_by(authenticated.domain.quirks)
        walk.signer, walk.domain = authenticated.signer, authenticated.domain.name
        walk.quirks = tuple(sorted(authenticated.domain.quirks))
        walk.follower = authenticated
        transaction = known[authenticated.signer.fingerprint][0]
        if transaction.exchange_for(walk.digest) is None:
            check_message_time(walk.message.header, rules, now)
            walk.notes += await self._signer_status.check(authenticated, now)
        return transaction

    async def _find_by_secret(
        self, walk: Walk, mac: MACAccess, live: Sequence[Transaction]
    ) -> Transaction:
        """Find the transaction that was opened under the same shared secret.

        A secret that expired or was used up meanwhile still does for what was begun with it.
        """
        header = walk.message.header
        key = TransactionKey(
            mac.domain.name,
            reference_fingerprint(header.sender_kid or b""),
            header.transaction_id or b"",
        )
        for transaction in live:
            if transaction.key == key and transaction.endpoint == walk.endpoint.name:
                walk.follower = await self._authenticate_by_secret(walk, mac)
                if transaction.exchange_for(walk.digest) is None:
                    check_message_time(header, walk.endpoint.rules, self._clock())
                return transaction
        raise ProtectionRefused(
            "the message is not protected by the credential that opened the transaction", rule="R35"
        )

    @staticmethod
    def _read_confirmation(walk: Walk, transaction: Transaction) -> AuthenticatedConfirmation:
        if walk.follower is None:
            raise HeaderRefused("not authenticated", rule="R35")
        walk.certificate = load_certificate(transaction.certificate_der)
        return read_confirmation(
            walk.follower,
            walk.certificate,
            response_nonce=transaction.response_nonce,
            cert_req_id=transaction.cert_req_id,
        )

    async def _forward_confirmation(self, walk: Walk, transaction: Transaction) -> bytes:
        """Send the certConf to the CA, or answer it here, and settle the transaction."""
        exchange = transaction.confirmation
        if exchange is None:
            raise HeaderRefused("no certConf is being processed", rule="R11")
        upstream, header = walk.endpoint.upstream, walk.message.header
        now = self._clock()
        answer: PKIHeader | None = None
        if exchange.upstream_der:
            try:
                answer_der = await upstream.core.exchange(
                    exchange.upstream_der, path="", deadline_seconds=upstream.deadline_seconds
                )
                now = self._clock()
                answer = check_pkiconf(
                    answer_der,
                    upstream,
                    transaction_id=transaction.key.transaction_id,
                    sender_nonce=header.sender_nonce or b"",
                    now=now,
                )
            except (UpstreamUnavailable, UpstreamBroken) as error:
                if error.fail_info is not PKIFailureInfo.systemUnavail:
                    return await self._fail(walk, transaction, error)
                # A certConf issues nothing: the device's repeat may be sent again at any time.
                await self._release(transaction)
                raise
        if answer is not None:
            reply = relay_header(answer, header, now=now, general_info=())
        else:
            reply = self._reply_header(header)
            if not exchange.upstream_der and not transaction.confirm_status:
                walk.notes.append("the CA was not told that the device rejects its certificate")
        credential: Protecting = walk.shared or self._credential_of(transaction)
        response = await protect(reply, PKICONF_BODY, credential, credential.certificates)
        event = Event.accepted if transaction.confirm_status else Event.rejected
        walk.outcome = "confirmed" if transaction.confirm_status else "rejected"
        settled = advance(transaction, event, confirmation=_answered(exchange, response))
        return await self._settle(settled) or response

    # --- error from a device ------------------------------------------------------------------------------------

    async def _device_error(self, walk: Walk) -> bytes:
        """A device gives up: the transaction ends, nothing goes upstream (R115)."""
        transaction = await self._find(walk)
        exchange = transaction.exchange_for(walk.digest)
        if exchange is not None and exchange.response_der is not None:
            walk.outcome = "replayed"
            return exchange.response_der
        if transaction.state is not State.ISSUED:
            raise HeaderRefused(f"error in state {transaction.state}", rule="R115")
        if walk.message.header.recip_nonce != transaction.response_nonce:
            raise HeaderRefused(
                "recipNonce is not the senderNonce of the response",
                fail_info=PKIFailureInfo.badRecipientNonce,
                rule="R8",
            )
        told = error_msg_content(walk.message.body_content).status_info
        credential: Protecting = walk.shared or self._credential_of(transaction)
        response = await protect(
            self._reply_header(walk.message.header),
            PKICONF_BODY,
            credential,
            credential.certificates,
        )
        walk.outcome = "rejected"
        walk.notes.append(f"the device sent error instead of certConf: {told}")
        walk.certificate = load_certificate(transaction.certificate_der)
        ended = advance(
            transaction,
            Event.rejected,
            confirmation=Exchange(walk.digest, b"", response),
            confirm_status=False,
        )
        return await self._settle(ended) or response

    # --- answers of our own -------------------------------------------------------------------------------------

    def _credential_of(self, transaction: Transaction) -> Credential:
        """Return what signed the first answer of a transaction, the current credential if that is gone."""
        current, earlier = self._credential(), self._earlier_credentials()
        answer_der = transaction.opening.response_der
        if not earlier or answer_der is None:
            return current
        (signer_der, *_) = PKIMessage.from_der(answer_der).extra_certs or (b"",)
        known = {item.certificate.der: item for item in (*earlier, current)}
        return known.get(signer_der, current)

    def _reply_header(self, request: PKIHeader) -> PKIHeader:
        return reply_header(
            request, sender_nonce=self._random_octets(NONCE_OCTETS), now=self._clock()
        )

    async def _refuse(self, walk: Walk, error: CMPError) -> bytes:
        """Tell a device that its message was refused: the failInfo and a fixed phrase, protected (R114)."""
        walk.refusal = error
        walk.outcome = "failed" if isinstance(error, ServiceFailure) else "refused"
        header = self._reply_header(walk.message.header)
        cert_req_id = cert_req_id_of(walk.message) if error.in_body else 0
        body_der = refusal_body(error, walk.message.body_type, cert_req_id)
        try:
            credential: Protecting = walk.shared or self._credential()
            return await protect(header, body_der, credential, credential.certificates)
        except (
            Exception
        ) as failure:  # the key cannot sign: an unprotected error is all that is left
            walk.notes.append(f"the answer could not be signed: {type(failure).__name__}")
            return assemble(header.to_der(), body_der, None)


def _holder(transaction: Transaction) -> str:
    """Return what tells a transaction from every other, also from one with the same octets later."""
    return f"{transaction.opening.request_digest.hex()}@{transaction.created_at.isoformat()}"


def _key(authenticated: Authenticated) -> TransactionKey:
    return TransactionKey(
        authenticated.domain.name,
        authenticated.requester.fingerprint,
        authenticated.message.header.transaction_id or b"",
    )


def _may_ask_again(upstream: Upstream, transaction: Transaction) -> bool:
    """Tell whether a CA that may have seen a request can be sent it once more: nothing is issued twice."""
    return upstream.replays_repeats or transaction.body_type is BodyType.rr


def _lease(upstream: Upstream) -> timedelta:
    return timedelta(seconds=upstream.deadline_seconds + _LEASE_MARGIN_SECONDS)


def _check_same_upstream(walk: Walk, transaction: Transaction) -> None:
    """Refuse to go on with another CA than the one that was asked: it may have issued already."""
    if transaction.upstream != walk.endpoint.upstream.name:
        raise ServiceFailure(
            f"opened with upstream {transaction.upstream}, which this endpoint no longer uses",
            rule="R81",
        )


def _awaited_until(transaction: Transaction) -> datetime:
    """Return the confirmWaitTime that the device was told, or the transaction's end if it was told none."""
    told = PKIMessage.from_der(transaction.opening.response_der or b"").header
    return confirm_wait_time_of(told) or transaction.expires_at


def _answered(exchange: Exchange, response: bytes) -> Exchange:
    """Put an answer beside its request; the message for the CA has done its work and need not be kept."""
    return replace(exchange, upstream_der=b"", response_der=response)
