"""Asking the CA: once, again where that is harmless, and in the background where a device cannot wait.

A transaction's current message, signed and stored before, goes to the CA; what comes back is judged and settles
the transaction. A device is held up at most as long as its endpoint says: after that it is told to wait and
poll (RFC 9483 4.4), while the exchange goes on here and leaves the CA's answer in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.polling import waiting_body
from ra_gateway.cmp.protection import Protecting, protect
from ra_gateway.errors import (
    CMPError,
    ConfirmationRefused,
    HeaderRefused,
    NotAuthorized,
    PKIFailureInfo,
    ServiceFailure,
    StaleTransaction,
    StoreUnavailable,
    TransactionInUse,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.ra.authentication import check_same_upstream
from ra_gateway.ra.fates import Fate
from ra_gateway.ra.node import Node
from ra_gateway.ra.ports import Claim
from ra_gateway.ra.refusals import explained, refuse
from ra_gateway.ra.routes import CertConf, Unconfirmed, Upstream
from ra_gateway.ra.transaction import (
    GIVEN_UP,
    OUTSTANDING,
    Event,
    Exchange,
    State,
    Transaction,
    advance,
)
from ra_gateway.ra.verdicts import Verdict, confirmation, event_of, judge, recalled, respond
from ra_gateway.ra.walk import Walk

_LEASE_MARGIN_SECONDS: Final = 5.0
"""A node gives up its exchange with the CA this much before another one may take over."""

_ISSUES_NOTHING: Final = frozenset({BodyType.rr, BodyType.genm})

_Change = Callable[[Transaction], Transaction]


def lease(upstream: Upstream) -> timedelta:
    """Return how long a node may be busy with a CA before another one takes over."""
    return timedelta(seconds=upstream.deadline_seconds + _LEASE_MARGIN_SECONDS)


def may_ask_again(upstream: Upstream, transaction: Transaction) -> bool:
    """Tell whether a CA that may have seen a message can be sent it once more: nothing is issued twice."""
    return (
        upstream.replays_repeats
        or transaction.body_type in _ISSUES_NOTHING
        or transaction.confirmation is not None
    )


def sender_nonce_of(transaction: Transaction) -> bytes:
    """Return the senderNonce of a transaction's current message, which its answer has to return."""
    if transaction.confirmation is None and not transaction.ca_transaction_id:
        return transaction.sender_nonce
    upstream_der = transaction.current.upstream_der
    return (PKIMessage.from_der(upstream_der).header.sender_nonce or b"") if upstream_der else b""


def credential_for(node: Node, walk: Walk, transaction: Transaction) -> Protecting:
    """Return what protects the answer to a message of a transaction."""
    if walk.shared is not None:
        return walk.shared
    first = transaction.opening.response_der is None
    return node.credential() if first else node.credential_of(transaction)


@dataclass(slots=True)
class _Errand:
    """One exchange with the CA.

    Args:
        stored: Whether the transaction is in the store; a genm is not until its device has to wait.
        told: Whether the device was told to wait: nobody waits for the answer.
        settling: Whether the CA has answered, so that waiting a little longer is worth it.
        writing: Held while the transaction is being changed.
    """

    walk: Walk
    transaction: Transaction
    stored: bool = True
    told: bool = False
    settling: bool = False
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Asking:
    """Exchanges with CAs on behalf of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.judge_again: Callable[[Walk, Transaction], Awaitable[bytes]] = _not_judged

    # --- asking -------------------------------------------------------------------------------------------------

    async def ask(self, walk: Walk, transaction: Transaction, *, stored: bool = True) -> bytes:
        """Send a transaction's current message to the CA and return the answer for the device (steps 7 to 10).

        Args:
            stored: False for a genm, which is stored only when its device has to wait.

        Raises:
            CMPError: The device is to be refused.
        """
        errand = _Errand(walk, transaction, stored)
        patience = walk.endpoint.wait_after_seconds
        local = stored and not transaction.current.upstream_der
        if patience is None or patience >= walk.upstream.deadline_seconds or local:
            return await self._run(errand)
        task = self._node.spawn(self._supervised(errand))
        await asyncio.wait({task}, timeout=patience)
        if task.done() or errand.settling:
            return await task
        return await self._defer(walk, errand)

    async def ask_in_background(self, walk: Walk, transaction: Transaction) -> None:
        """Send a message whose device polls; returns when the CA has answered, or the device must not wait longer."""
        errand = _Errand(walk.copy(), transaction, told=True)
        task = self._node.spawn(self._supervised(errand))
        await asyncio.wait({task}, timeout=walk.endpoint.wait_after_seconds)

    async def _supervised(self, errand: _Errand) -> bytes:
        """Run an errand; if nobody waits for it any more, tell what became of it."""
        bug: Exception | None = None
        try:
            return await self._run(errand)
        except CMPError as error:
            if not errand.told:
                raise
            errand.walk.refusal, errand.walk.outcome = error, "failed"
        except Exception as error:
            if not errand.told:
                raise
            bug, errand.walk.outcome = error, "failed"
        finally:
            if errand.told:
                walk = errand.walk
                elapsed_ms = (self._node.monotonic() - walk.started) * 1000.0
                self._node.sink(walk.event(elapsed_ms, bug))
        return b""

    async def _run(self, errand: _Errand) -> bytes:
        walk, transaction = errand.walk, errand.transaction
        upstream, upstream_der = walk.upstream, transaction.current.upstream_der
        try:
            claimed = await self._claim(walk, transaction)
        except NotAuthorized as error:
            return await self._fail(errand, error)
        except StoreUnavailable:
            await self._release(errand)
            raise
        if not upstream_der:
            return await self._conclude(errand, confirmation(transaction, None), b"")
        try:
            answer_der = await upstream.core.exchange(
                upstream_der, path=upstream.path, deadline_seconds=upstream.deadline_seconds
            )
            errand.settling = True
            nonces = (sender_nonce_of(transaction),)
            verdict = judge(transaction, answer_der, nonces, upstream, self._node.clock())
        except (UpstreamUnavailable, UpstreamBroken) as error:
            errand.settling = True
            if not _harmless_to_repeat(error, upstream, transaction):
                return await self._fail(errand, error)
            # Nothing was issued, or asking again yields the same: the device's next message may try.
            await self._release(errand)
            if claimed and isinstance(error, UpstreamUnavailable) and not error.delivered:
                await self.unclaim(walk, transaction)
            raise
        return await self._conclude(errand, verdict, answer_der)

    async def _conclude(self, errand: _Errand, verdict: Verdict, answer_der: bytes) -> bytes:
        """Settle a transaction by what the CA answered, and return what the device is answered."""
        walk, node = errand.walk, self._node
        note(walk, errand.transaction, verdict)
        der, until = b"", None
        if not errand.told:
            der, until = await respond(
                node,
                walk.endpoint,
                errand.transaction,
                verdict,
                walk.message.header,
                credential_for(node, walk, errand.transaction),
            )
        elif verdict.checked is not None and verdict.checked.issued:
            # The device has yet to ask for it, and is told then until when it is to confirm.
            seconds = walk.endpoint.check_after_seconds + walk.endpoint.confirm_wait_seconds
            until = node.clock() + timedelta(seconds=seconds)
        event = event_of(walk.endpoint, errand.transaction, verdict)
        changes = dict(verdict.changes)
        changes |= await self.planned(walk, errand.transaction, event, until, changes)

        path = () if verdict.checked is None else tuple(item.der for item in verdict.checked.path)

        def change(before: Transaction) -> Transaction:
            current = before.current
            if event is Event.deferred:
                nonce = (verdict.message and verdict.message.header.sender_nonce) or b""
                patience = timedelta(seconds=walk.endpoint.approval_seconds)
                waits: dict[str, Any] = {
                    "lease_until": node.clock(),
                    "expires_at": max(before.expires_at, before.created_at + patience),
                }
                kept = replace(current, ca_nonce=nonce)
                if not current.waiting:
                    kept = replace(kept, response_der=der, waiting=True)
                    waits["polling_nonce"] = nonce
                return advance(before, event, **before.with_current(kept), **waits)
            kept = (
                replace(current, answer_der=answer_der, answer_path=path)
                if current.waiting
                else answered(current, der)
            )
            return advance(before, event, **before.with_current(kept), **changes)

        told = await self._settle(errand, change, create=event is Event.deferred)
        if event is Event.refused:
            await self.unclaim(walk, errand.transaction)
        return told or der

    async def planned(
        self,
        walk: Walk,
        transaction: Transaction,
        event: Event,
        until: datetime | None,
        changes: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Have it looked at what becomes of a certificate, before the state says that it was issued.

        Args:
            changes: Of the transaction, its certificate among them.
        """
        now = self._node.clock()
        certificate_der = changes.get("certificate_der", b"")
        if event is Event.granted and certificate_der:
            await self._note(walk, transaction, certificate_der, Fate.confirmed, now)
        if event is Event.accepted:
            return {"expires_at": min(transaction.expires_at, now + self._node.lifetime)}
        if event is Event.issued and until is not None:
            if certificate_der:
                await self._note(walk, transaction, certificate_der, Fate.awaited, until)
            return {"confirm_until": until, **await self.plan(walk, transaction, until)}
        if event is Event.rejected and knows_alone(walk.upstream, transaction):
            planned = await self.plan(walk, transaction, now)
            if not planned:
                walk.notes.append("the CA was not told that the device rejects its certificate")
            return planned
        if event is Event.rejected and self._node.agenda is not None:
            await self._node.agenda.drop(transaction.key)  # the CA was told, and looks after it
        return {}

    async def _note(
        self,
        walk: Walk,
        transaction: Transaction,
        certificate_der: bytes,
        fate: Fate,
        until: datetime,
    ) -> None:
        """Note what a transaction says of a certificate, where certificates are revoked that nobody confirms."""
        if walk.upstream.unconfirmed is Unconfirmed.revoke:
            await self._node.settle(transaction, certificate_der, fate, until)

    async def take(self, walk: Walk, transaction: Transaction) -> None:
        """Note that a device takes its certificate: from then on nobody else's silence gets it revoked.

        Raises:
            ConfirmationRefused: It is being revoked already.
        """
        if walk.upstream.unconfirmed is not Unconfirmed.revoke or not transaction.certificate_der:
            return
        until = transaction.confirm_until or transaction.expires_at
        standing = await self._node.settle(
            transaction, transaction.certificate_der, Fate.confirmed, until
        )
        if standing.fate is Fate.withdrawn:
            raise ConfirmationRefused(
                "certConf for a certificate that another transaction brought, and that is withdrawn",
                fail_info=PKIFailureInfo.badRequest,
                rule="R111",
            )

    async def plan(self, walk: Walk, transaction: Transaction, due_at: datetime) -> dict[str, Any]:
        """Have a certificate looked after from a time on, if that is configured; returns changes for `advance`."""
        node = self._node
        if node.agenda is None or walk.upstream.unconfirmed is Unconfirmed.leave:
            return {}
        await node.agenda.plan(transaction.key, due_at)
        return {"expires_at": max(transaction.expires_at, due_at + node.act_lifetime)}

    async def _fail(self, errand: _Errand, error: CMPError) -> bytes:
        """Settle a transaction that must not be asked again; its repeats get this same error."""
        walk, node = errand.walk, self._node
        error = await explained(node, errand.transaction, error)
        der = await refuse(node, walk, error)
        changes: dict[str, Any] = {"failure": error.fail_info.name}
        if isinstance(error, UpstreamBroken) and error.certificate_der:
            changes["certificate_der"] = error.certificate_der
            changes |= await self.plan(walk, errand.transaction, node.clock())
        if errand.transaction.confirmation is not None and errand.transaction.certificate_der:
            # Its device is told that it came to nothing.
            now, certificate_der = node.clock(), errand.transaction.certificate_der
            await self._note(walk, errand.transaction, certificate_der, Fate.awaited, now)

        def change(before: Transaction) -> Transaction:
            current = before.current
            kept = current if current.waiting else answered(current, der)
            return advance(before, Event.failed, **before.with_current(kept), **changes)

        return await self._settle(errand, change) or der

    async def _release(self, errand: _Errand) -> None:
        """Let the device's next message ask the CA at once; nothing was issued, or asking is harmless."""

        def change(before: Transaction) -> Transaction:
            now = self._node.clock()
            return advance(before, Event.released, lease_until=now, may_retry=True)

        await self._settle(errand, change)

    async def _settle(
        self, errand: _Errand, change: _Change, *, create: bool = False
    ) -> bytes | None:
        """Store what becomes of a transaction (step 9).

        Args:
            create: Whether it is to be stored even if it was not before.

        Returns:
            What the device is told in place of the answer, if anything: the device must see one answer only. A
            node that was slower than its lease may have been overtaken, and another one may have told the device
            to wait.

        Raises:
            TransactionInUse: It was not stored before, and there is another one now.
        """
        async with errand.writing:
            if not errand.stored:
                if create:
                    await self._create(errand, replace(change(errand.transaction), version=0))
                return None
            before = errand.transaction
            while True:
                try:
                    errand.transaction = await self.replace(change(before))
                except StaleTransaction:
                    live = await self._node.store.load(before.key)
                    if live is None or not _still_asked(live, before):
                        return await self._answer_of(errand, live)
                    before = live
                else:
                    current = errand.transaction.current
                    return current.response_der if current.waiting else None

    async def _create(self, errand: _Errand, transaction: Transaction) -> None:
        """Store a transaction that nothing had to be remembered of until now."""
        repeatable = may_ask_again(errand.walk.upstream, transaction)
        if await self._node.store.create(transaction, repeatable=repeatable) is not None:
            raise TransactionInUse("another request lives under this transactionID", rule="R12")
        errand.transaction, errand.stored = transaction, True

    async def replace(self, transaction: Transaction) -> Transaction:
        """Store a transaction's next version and return it.

        Raises:
            StaleTransaction: Another version is stored, or none.
        """
        await self._node.store.replace(transaction)
        return transaction

    async def _answer_of(self, errand: _Errand, live: Transaction | None) -> bytes:
        before = errand.transaction
        which = "opening" if before.confirmation is None else "confirmation"
        exchange: Exchange | None = None if live is None else getattr(live, which)
        if exchange is None or exchange.response_der is None:
            raise StoreUnavailable("overtaken by a node that has no answer yet")
        return exchange.response_der

    # --- waiting ------------------------------------------------------------------------------------------------

    async def _defer(self, walk: Walk, errand: _Errand) -> bytes:
        """Tell a device to wait and poll; the exchange goes on without it."""
        errand.told = True
        errand.walk = walk.copy()
        async with errand.writing:
            der, waiting = await self.waiting_answer(walk, errand.transaction)
            if errand.stored:
                return await self._store_waiting(walk, errand, waiting, der)
            created = replace(
                errand.transaction,
                opening=replace(errand.transaction.opening, response_der=der, waiting=True),
                polling_nonce=waiting,
            )
            await self._create(errand, created)
        walk.outcome = "waiting"
        return der

    async def _store_waiting(self, walk: Walk, errand: _Errand, nonce: bytes, der: bytes) -> bytes:
        before = errand.transaction
        while True:
            current = before.current
            if current.waiting and current.response_der is not None:
                walk.outcome = "replayed"
                return current.response_der  # another node told it the same
            kept = replace(current, response_der=der, waiting=True)
            after = advance(
                before, Event.deferred, **before.with_current(kept), polling_nonce=nonce
            )
            try:
                errand.transaction = await self.replace(after)
            except StaleTransaction:
                live = await self._node.store.load(before.key)
                if live is None or not _still_asked(live, before):
                    return await self._answer_of(errand, live)
                before = live
            else:
                walk.outcome = "waiting"
                return der

    async def waiting_answer(self, walk: Walk, transaction: Transaction) -> tuple[bytes, bytes]:
        """Return the answer that tells a device to wait, and its senderNonce (R116)."""
        header = self._node.reply_header(walk.message.header)
        body_der = waiting_body(walk.message.body_type, transaction.cert_req_id)
        credential = credential_for(self._node, walk, transaction)
        der = await protect(header, body_der, credential, credential.certificates)
        return der, header.sender_nonce or b""

    async def late_answer(
        self, walk: Walk, transaction: Transaction
    ) -> tuple[bytes, dict[str, Any]]:
        """Return the answer that came while a device was waiting, and what it changes (R118).

        Raises:
            HeaderRefused: The device came too late for its certificate.
        """
        node, current = self._node, transaction.current
        lives_until = max(transaction.expires_at, node.clock() + node.lifetime)
        changes: dict[str, Any] = {"expires_at": lives_until, "failure": ""}
        if current.answer_der is None:
            return await self._late_refusal(walk, transaction), changes
        if transaction.state in GIVEN_UP and transaction.confirmation is None:
            raise HeaderRefused(
                "the certificate was not fetched in time, and is withdrawn", rule="R111"
            )
        verdict = recalled(transaction, current.answer_der, walk.upstream)
        note(walk, transaction, verdict)
        credential = credential_for(node, walk, transaction)
        der, until = await respond(
            node, walk.endpoint, transaction, verdict, walk.message.header, credential
        )
        if transaction.state is State.ISSUED and until is not None:
            issued = {"certificate_der": transaction.certificate_der}
            changes |= await self.planned(walk, transaction, Event.issued, until, issued)
        return der, changes

    async def _late_refusal(self, walk: Walk, transaction: Transaction) -> bytes:
        """Return the answer for a device whose request came to nothing while it waited."""
        error: CMPError
        if transaction.state is State.REFUSED:
            error = NotAuthorized(
                f"{transaction.decided_by or 'an operator'} denied the request", rule="R145"
            )
        elif transaction.failure == PKIFailureInfo.notAuthorized.name:
            error = NotAuthorized("refused while the device waited")
        else:
            fail_info = PKIFailureInfo[transaction.failure or "systemFailure"]
            error = ServiceFailure("failed while the device waited", fail_info=fail_info)
        confirming = transaction.confirmation is not None
        return await refuse(
            self._node,
            walk,
            error,
            body_type=BodyType.certConf if confirming else transaction.body_type,
            cert_req_id=transaction.cert_req_id,
        )

    # --- repeats ------------------------------------------------------------------------------------------------

    async def repeat(self, walk: Walk, live: Transaction) -> bytes:
        """Answer a message whose transactionID is live: from the store, or not at all (R12, R94).

        Raises:
            CMPError: It is not a repeat, or its answer is not to be had.
        """
        node, endpoint = self._node, walk.endpoint
        seconds = walk.upstream.deadline_seconds
        if endpoint.wait_after_seconds is not None:
            seconds = min(seconds, endpoint.wait_after_seconds)
        patience = node.monotonic() + seconds
        current: Transaction | None = live
        while current is not None:
            exchange = current.exchange_for(walk.digest)
            if exchange is None or current.endpoint != endpoint.name:
                raise _not_a_repeat(walk)
            if exchange.response_der is not None:
                return await self._repeat_of_answered(walk, current, exchange)
            now = node.clock()
            if current.lease_until <= now:
                taken = await self.retake(walk, current)
                if taken is not None:
                    return await self._resume(walk, taken, before=current)
                current = await node.store.load(live.key)
                continue
            left = min(patience - node.monotonic(), (current.lease_until - now).total_seconds())
            if patience <= node.monotonic():
                if endpoint.wait_after_seconds is None:
                    raise UpstreamUnavailable("the CA is still being asked", delivered=True)
                return await self._defer(walk, _Errand(walk, current))
            current = await node.store.wait(
                current.key, version=current.version, timeout_seconds=max(left, 0.001)
            )
        raise StoreUnavailable("the transaction expired while it was being waited for")

    async def _repeat_of_answered(
        self, walk: Walk, transaction: Transaction, exchange: Exchange
    ) -> bytes:
        """Answer a message that was answered before: with the same, or with what a device waits for that does not poll.

        Base stations that know no waiting send their request again, and go on doing so.
        """
        said = exchange.response_der or b""
        walk.outcome = "replayed"
        if not exchange.waiting or exchange is transaction.polling:
            return said
        live = transaction
        if transaction.state in OUTSTANDING and not exchange.ca_nonce:
            live = await self.go_on(walk, transaction)
        if live.state in (*OUTSTANDING, State.HELD) or not live.current.waiting:
            return live.current.response_der or said
        der, changes = await self.late_answer(walk, live)
        told = replace(closed(live.current), response_der=der)
        delivered = advance(live, Event.delivered, **live.with_current(told), **changes)
        try:
            await self.replace(delivered)
        except StaleTransaction:
            return said  # a pollReq was faster
        return der

    async def go_on(self, walk: Walk, transaction: Transaction) -> Transaction:
        """Have the CA asked by somebody, wait for it a moment, and return the transaction as it is then.

        Raises:
            StoreUnavailable: It has expired meanwhile.
        """
        node = self._node
        if transaction.lease_until > node.clock():
            await node.store.wait(
                transaction.key,
                version=transaction.version,
                timeout_seconds=walk.endpoint.wait_after_seconds or 0.001,
            )
        else:
            taken = await self.retake(walk, transaction)
            if taken is not None:
                await self._go_on_with(walk, taken, before=transaction)
        live = await node.store.load(transaction.key)
        if live is None:
            raise StoreUnavailable("the transaction expired while it was being waited for")
        return live

    async def _go_on_with(self, walk: Walk, taken: Transaction, *, before: Transaction) -> None:
        if before.unsent:
            walk.notes.append(f"approved by {before.decided_by}")
        error = lost(walk.upstream, taken, before=before)
        if error is None:
            await self.ask_in_background(walk, taken)
        else:
            walk.notes.append(error.detail)
            await self.give_up(walk, taken, error)

    async def retake(self, walk: Walk, current: Transaction) -> Transaction | None:
        """Take over a transaction whose lease has ended; None where another node did, or it is refused now.

        Raises:
            ServiceFailure: Its CA is no longer configured, or it cannot be told whether it is refused.
        """
        check_same_upstream(walk, current)
        node = self._node
        now = node.clock()
        changes: dict[str, Any] = {}
        exchange = current.current
        if current.unsent:
            try:
                upstream_der = await self.judge_again(walk, current)
            except ServiceFailure:
                raise
            except CMPError as error:
                walk.notes.append(
                    f"refused although {current.decided_by} approved it: {error.detail}"
                )
                failed = advance(
                    current, Event.failed, failure=error.fail_info.name, request_der=b""
                )
                with suppress(StaleTransaction):
                    await self.replace(failed)
                return None
            changes = dict(current.with_current(replace(exchange, upstream_der=upstream_der)))
            changes["request_der"] = b""
            changes["expires_at"] = max(current.expires_at, now + node.lifetime)
        taken = advance(
            current,
            Event.retaken,
            lease_until=now + lease(walk.upstream),
            may_retry=False,
            unsent=False,
            **changes,
        )
        try:
            return await self.replace(taken)
        except StaleTransaction:
            return None

    async def _resume(self, walk: Walk, taken: Transaction, *, before: Transaction) -> bytes:
        """Go on where another node stopped, with the bytes it had prepared."""
        error = lost(walk.upstream, taken, before=before)
        if error is not None:
            return await self._fail(_Errand(walk, taken), error)
        return await self.ask(walk, taken)

    async def give_up(self, walk: Walk, taken: Transaction, error: CMPError) -> None:
        """End a transaction whose device polls, and whose CA must not be asked again."""
        await self._fail(_Errand(walk.copy(), taken, told=True), error)

    async def settle(
        self, walk: Walk, taken: Transaction, verdict: Verdict, answer_der: bytes
    ) -> Transaction:
        """Settle a transaction by what the CA answered to a pollReq, and return it as it is then."""
        errand = _Errand(walk.copy(), taken, told=True)
        await self._conclude(errand, verdict, answer_der)
        return errand.transaction

    # --- shared secrets for single use --------------------------------------------------------------------------

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
        if transaction.confirmation is not None:
            return False
        secret = walk.shared.secret
        claim = await mac.secrets.claim(secret.reference, _holder(transaction))
        if claim is Claim.refused:
            raise NotAuthorized(f"the {secret.label} was used before", rule="RFC 9483 4.1.5")
        return claim is Claim.taken

    async def unclaim(self, walk: Walk, transaction: Transaction) -> None:
        """Give a shared secret back: no certificate came of this transaction."""
        mac = walk.endpoint.mac
        if mac is not None and walk.shared is not None and walk.shared.secret.single_use:
            await mac.secrets.release(walk.shared.secret.reference, _holder(transaction))


async def _not_judged(walk: Walk, transaction: Transaction) -> bytes:
    raise ServiceFailure("nothing judges a request that was held")


def note(walk: Walk, transaction: Transaction, verdict: Verdict) -> None:
    """Put into a message's event what the CA answered."""
    walk.outcome = verdict.outcome
    if verdict.certificate is not None:
        walk.certificate = verdict.certificate
    elif verdict.event is Event.revoked and walk.signer is not None and not walk.relayed:
        walk.certificate = walk.signer
    if verdict.rejection is not None:
        walk.rejection = verdict.rejection
        walk.notes.append(f"the CA refused: {verdict.rejection}")


def answered(exchange: Exchange, response: bytes) -> Exchange:
    """Put an answer beside its request; the message for the CA has done its work and need not be kept."""
    return replace(exchange, upstream_der=b"", response_der=response)


def closed(exchange: Exchange) -> Exchange:
    """Return an exchange whose device has its answer: nothing is waited for any more."""
    return replace(
        exchange, upstream_der=b"", waiting=False, answer_der=None, answer_path=(), ca_nonce=b""
    )


def knows_alone(upstream: Upstream, transaction: Transaction) -> bool:
    """Tell whether the CA does not hear of the device's certConf."""
    return upstream.certconf is CertConf.local or transaction.confirm_locally


def lost(
    upstream: Upstream, taken: Transaction, *, before: Transaction
) -> UpstreamUnavailable | None:
    """Return why a transaction whose node is gone must not be asked again; None where it may."""
    if may_ask_again(upstream, taken) or before.may_retry:
        return None
    # The node that held the lease may have been answered before it died; this CA would issue again.
    return UpstreamUnavailable("the node that asked the CA is gone", delivered=True)


def _harmless_to_repeat(
    error: UpstreamUnavailable | UpstreamBroken, upstream: Upstream, transaction: Transaction
) -> bool:
    if isinstance(error, UpstreamUnavailable):
        return not error.delivered or may_ask_again(upstream, transaction)
    unavailable = error.fail_info is PKIFailureInfo.systemUnavail
    return unavailable and transaction.confirmation is not None


def _still_asked(live: Transaction, before: Transaction) -> bool:
    """Tell whether the answer to a transaction's message is still outstanding, whoever changed it meanwhile."""
    current = live.current
    return (
        live.state is before.state
        and current.answer_der is None
        and (current.response_der is None or current.waiting)
    )


def _not_a_repeat(walk: Walk) -> CMPError:
    if walk.message.body_type is BodyType.certConf:
        return ConfirmationRefused(
            "another certConf came first", fail_info=PKIFailureInfo.certConfirmed, rule="R109"
        )
    return TransactionInUse("another request lives under this transactionID", rule="R12")


def _holder(transaction: Transaction) -> str:
    """Return what tells a transaction from every other, also from one with the same octets later."""
    return f"{transaction.opening.request_digest.hex()}@{transaction.created_at.isoformat()}"
