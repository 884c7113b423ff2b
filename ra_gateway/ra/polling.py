"""pollReq: a device that was told to wait asks for its answer (RFC 9483 4.4).

Three kinds of waiting look alike to a device. A request is held for an operator; a CA is slow, and the
exchange with it goes on here; or the CA itself has told to wait, and is polled with the device's own pollReq.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ra_gateway.cmp.codes import BodyType, is_cert_req_id
from ra_gateway.cmp.polling import (
    PollRep,
    poll_rep_body,
    poll_req_content,
    polled_cert_req_id,
)
from ra_gateway.cmp.protection import protect
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    NotAuthorized,
    PKIFailureInfo,
    ServiceFailure,
    StaleTransaction,
    StoreUnavailable,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.ra.asking import Asking, credential_for, lost, note, sender_nonce_of
from ra_gateway.ra.authentication import check_same_upstream, find_transaction
from ra_gateway.ra.forwarding import message_for_ca
from ra_gateway.ra.node import Node
from ra_gateway.ra.refusals import refuse
from ra_gateway.ra.routes import Variant
from ra_gateway.ra.transaction import Event, Exchange, State, Transaction, advance
from ra_gateway.ra.verdicts import Verdict, event_of, judge, respond
from ra_gateway.ra.walk import Walk

_OUTSTANDING = frozenset({State.HELD, State.REQUESTED, State.CONFIRMING})


class Polling:
    """Answers pollReq on one node."""

    def __init__(self, node: Node, asking: Asking) -> None:
        self._node = node
        self._asking = asking

    async def poll(self, walk: Walk) -> bytes:
        """Answer a pollReq: the answer that is awaited, or that it is not there yet.

        Raises:
            CMPError: It is refused.
        """
        transaction = await find_transaction(self._node, walk)
        if transaction.exchange_for(walk.digest) is not None:
            return await self._asking.repeat(walk, transaction)
        cert_req_id = _check(walk, transaction)
        if transaction.state in (State.REQUESTED, State.CONFIRMING):
            if transaction.current.ca_nonce:
                return await self._pass_on(walk, transaction, cert_req_id)
            transaction = await self._resume(walk, transaction)
        if transaction.state in _OUTSTANDING:
            return await self._not_yet(walk, transaction, cert_req_id)
        return await self._deliver(walk, transaction)

    # --- the CA is being asked ----------------------------------------------------------------------------------

    async def _resume(self, walk: Walk, transaction: Transaction) -> Transaction:
        """Have the CA asked by somebody, wait for it a moment, and return the transaction as it is then."""
        node, endpoint = self._node, walk.endpoint
        now = node.clock()
        if transaction.lease_until <= now:
            taken = await self._asking.retake(walk, transaction)
            if taken is not None:
                error = lost(walk.upstream, taken, before=transaction)
                if error is None:
                    await self._asking.ask_in_background(walk, taken)
                else:
                    await self._asking.give_up(walk, taken, error)
        else:
            await node.store.wait(
                transaction.key,
                version=transaction.version,
                timeout_seconds=endpoint.wait_after_seconds or 0.001,
            )
        live = await node.store.load(transaction.key)
        if live is None:
            raise StoreUnavailable("the transaction expired while it was being waited for")
        return live

    # --- the CA has said to wait --------------------------------------------------------------------------------

    async def _pass_on(self, walk: Walk, transaction: Transaction, cert_req_id: int) -> bytes:
        """Poll the CA with the device's pollReq, under the protection its request went up with (R81)."""
        node, upstream = self._node, walk.upstream
        check_same_upstream(walk, transaction)
        variant = Variant(transaction.variant)
        ca_nonce = transaction.current.ca_nonce
        of_the_ca = walk.message.header.recip_nonce == ca_nonce
        if variant is not Variant.reprotect and not of_the_ca:
            error = UpstreamBroken(
                f"{upstream.name} says waiting to a message that went up unchanged, after its device was told "
                "to wait by the RA: the device cannot poll the CA any more",
                rule="R121",
            )
            await self._asking.give_up(walk, transaction, error)
            raise error
        upstream_der = await message_for_ca(
            walk.endpoint,
            upstream,
            walk.message,
            walk.message.body_der,
            variant,
            node.credential_of(transaction),
            node.clock(),
            recip_nonce=ca_nonce,
        )
        try:
            answer_der = await upstream.core.exchange(
                upstream_der, path=upstream.path, deadline_seconds=upstream.deadline_seconds
            )
            nonces = (
                sender_nonce_of(transaction),
                walk.message.header.sender_nonce or b"",
            )
            verdict = judge(transaction, answer_der, nonces, upstream, node.clock())
        except UpstreamUnavailable as error:
            # As long as the transaction lives, a CA that does not answer is one that is slow.
            walk.notes.append(error.detail)
            return await self._not_yet(walk, transaction, cert_req_id)
        except UpstreamBroken as error:
            await self._asking.give_up(walk, transaction, error)
            raise
        note(walk, transaction, verdict)
        if verdict.event is Event.deferred:
            return await self._still_waiting(walk, transaction, verdict)
        return await self._settle(walk, transaction, verdict)

    async def _still_waiting(self, walk: Walk, transaction: Transaction, verdict: Verdict) -> bytes:
        """Relay the CA's pollRep; the next pollReq has to return its nonce."""
        message = verdict.message
        nonce = (message and message.header.sender_nonce) or b""
        credential = credential_for(self._node, walk, transaction)
        der, _ = await respond(
            self._node, walk.endpoint, transaction, verdict, walk.message.header, credential
        )
        current = replace(transaction.current, ca_nonce=nonce)
        return await self._store(
            walk,
            advance(
                transaction,
                Event.polled,
                polling=Exchange(walk.digest, b"", der),
                polling_nonce=nonce,
                **transaction.with_current(current),
            ),
            der,
        )

    async def _settle(self, walk: Walk, transaction: Transaction, verdict: Verdict) -> bytes:
        """Answer the device with what the CA has answered its pollReq at last."""
        credential = credential_for(self._node, walk, transaction)
        der, until = await respond(
            self._node, walk.endpoint, transaction, verdict, walk.message.header, credential
        )
        event = event_of(walk.endpoint, transaction, verdict)
        changes = await self._asking.planned(walk, transaction, event, until)
        return await self._store(
            walk,
            advance(
                transaction,
                event,
                polling=Exchange(walk.digest, b"", der),
                **transaction.with_current(_closed(transaction.current)),
                **{**verdict.changes, **changes},
            ),
            der,
        )

    # --- the answer is here -------------------------------------------------------------------------------------

    async def _deliver(self, walk: Walk, transaction: Transaction) -> bytes:
        """Give the device the answer that came while it was waiting (R118)."""
        node, current = self._node, transaction.current
        changes: dict[str, Any] = {}
        if current.answer_der is not None:
            use = walk.upstream
            nonces = (sender_nonce_of(transaction),)
            verdict = judge(transaction, current.answer_der, nonces, use, node.clock())
            note(walk, transaction, verdict)
            credential = credential_for(node, walk, transaction)
            der, until = await respond(
                node, walk.endpoint, transaction, verdict, walk.message.header, credential
            )
            if transaction.state is State.ISSUED and until is not None:
                changes = await self._asking.planned(walk, transaction, Event.issued, until)
        else:
            der = await self._refusal(walk, transaction)
        return await self._store(
            walk,
            advance(
                transaction,
                Event.delivered,
                polling=Exchange(walk.digest, b"", der),
                failure="",
                **transaction.with_current(_closed(current)),
                **changes,
            ),
            der,
        )

    async def _refusal(self, walk: Walk, transaction: Transaction) -> bytes:
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

    # --- not yet ------------------------------------------------------------------------------------------------

    async def _not_yet(self, walk: Walk, transaction: Transaction, cert_req_id: int) -> bytes:
        """Tell the device to ask again later (R117)."""
        node = self._node
        header = node.reply_header(walk.message.header)
        body_der = poll_rep_body(PollRep(cert_req_id, walk.endpoint.check_after_seconds))
        credential = credential_for(node, walk, transaction)
        der = await protect(header, body_der, credential, credential.certificates)
        walk.outcome = "held" if transaction.state is State.HELD else "waiting"
        return await self._store(
            walk,
            advance(
                transaction,
                Event.polled,
                polling=Exchange(walk.digest, b"", der),
                polling_nonce=header.sender_nonce or b"",
            ),
            der,
        )

    async def _store(self, walk: Walk, changed: Transaction, der: bytes) -> bytes:
        """Store what a pollReq changed; where something else came first, the device has to ask once more."""
        try:
            await self._node.store.replace(changed)
        except StaleTransaction:
            live = await self._node.store.load(changed.key)
            exchange = None if live is None else live.exchange_for(walk.digest)
            if live is None or (exchange is not None and exchange.response_der is None):
                raise StoreUnavailable("the transaction changed while it was polled for") from None
            if exchange is not None:
                return exchange.response_der or b""
            return await self._again(walk, live)
        return der

    async def _again(self, walk: Walk, live: Transaction) -> bytes:
        """Decide anew on a transaction that changed meanwhile: its answer has come, or another pollReq."""
        cert_req_id = _check(walk, live)
        if live.state in _OUTSTANDING:
            return await self._not_yet(walk, live, cert_req_id)
        return await self._deliver(walk, live)


def _check(walk: Walk, transaction: Transaction) -> int:
    """Check that a pollReq is about what the device was told to wait for; returns its certReqId.

    Raises:
        HeaderRefused: It is not (badRequest), or returns another nonce than it was given (badRecipientNonce).
        MalformedMessage: It does not parse.
    """
    cert_req_id = poll_req_content(walk.message.body_content)
    current = transaction.current
    if not current.waiting:
        raise HeaderRefused("no answer is being waited for under this transactionID", rule="R119")
    confirming = transaction.confirmation is not None
    expected = polled_cert_req_id(
        BodyType.certConf if confirming else transaction.body_type, transaction.cert_req_id
    )
    if not is_cert_req_id(cert_req_id, expected):
        raise HeaderRefused(f"certReqId {cert_req_id} in pollReq, expected {expected}", rule="R119")
    if walk.message.header.recip_nonce != transaction.polling_nonce:
        raise HeaderRefused(
            "recipNonce is not the senderNonce of the last answer",
            fail_info=PKIFailureInfo.badRecipientNonce,
            rule="R8",
        )
    return cert_req_id


def _closed(exchange: Exchange) -> Exchange:
    """Return an exchange whose device has its answer: nothing is waited for any more."""
    return replace(exchange, upstream_der=b"", waiting=False, answer_der=None, ca_nonce=b"")
