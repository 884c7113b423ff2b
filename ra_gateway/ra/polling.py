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
    HeaderRefused,
    PKIFailureInfo,
    StaleTransaction,
    StoreUnavailable,
    UpstreamBroken,
    UpstreamUnavailable,
)
from ra_gateway.ra.asking import Asking, closed, credential_for, note, sender_nonce_of
from ra_gateway.ra.authentication import check_same_upstream, find_transaction
from ra_gateway.ra.forwarding import message_for_ca
from ra_gateway.ra.node import Node
from ra_gateway.ra.routes import Variant
from ra_gateway.ra.transaction import OUTSTANDING, Event, Exchange, State, Transaction, advance
from ra_gateway.ra.verdicts import Verdict, judge, respond
from ra_gateway.ra.walk import Walk


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
            return await self._again(walk, await self._asking.go_on(walk, transaction))
        if transaction.state is State.HELD:
            return await self._not_yet(walk, transaction, cert_req_id)
        return await self._deliver(walk, transaction)

    # --- the CA is being asked ----------------------------------------------------------------------------------

    async def _taken(self, walk: Walk, transaction: Transaction) -> Transaction | None:
        """Take over a transaction; where another pollReq has it, wait for that one a moment and return None."""
        node = self._node
        if transaction.lease_until <= node.clock():
            return await self._asking.retake(walk, transaction)
        await node.store.wait(
            transaction.key,
            version=transaction.version,
            timeout_seconds=walk.endpoint.wait_after_seconds or 0.001,
        )
        return None

    async def _load(self, transaction: Transaction) -> Transaction:
        live = await self._node.store.load(transaction.key)
        if live is None:
            raise StoreUnavailable("the transaction expired while it was being waited for")
        return live

    # --- the CA has said to wait --------------------------------------------------------------------------------

    async def _pass_on(self, walk: Walk, transaction: Transaction, cert_req_id: int) -> bytes:
        """Poll the CA with the device's pollReq, under the protection its request went up with (R81)."""
        node, upstream = self._node, walk.upstream
        check_same_upstream(walk, transaction)
        of_the_ca = walk.message.header.recip_nonce == transaction.current.ca_nonce
        if _goes_up_unchanged(transaction) and not of_the_ca:
            # It was the RA that told to wait. This answer has the CA's nonce: the next pollReq can go up.
            return await self._not_yet(walk, transaction, cert_req_id)
        taken = await self._taken(walk, transaction)
        if taken is None:
            return await self._again(walk, await self._load(transaction))
        ids = node.mapped_ids(taken)
        upstream_der = await message_for_ca(
            walk.endpoint,
            upstream,
            walk.message,
            walk.message.body_der,
            Variant(taken.variant),
            node.credential_of(taken),
            node.clock(),
            recip_nonce=taken.current.ca_nonce,
            ids=ids,
        )
        try:
            answer_der = await upstream.core.exchange(
                upstream_der, path=upstream.path, deadline_seconds=upstream.deadline_seconds
            )
            nonces = (
                sender_nonce_of(taken),
                (walk.message.header.sender_nonce or b"") if ids is None else ids.sender_nonce,
            )
            verdict = judge(taken, answer_der, nonces, upstream, node.clock())
        except UpstreamUnavailable as error:
            # As long as the transaction lives, a CA that does not answer is one that is slow.
            walk.notes.append(error.detail)
            return await self._not_yet(walk, taken, cert_req_id, lease_until=node.clock())
        except UpstreamBroken as error:
            walk.notes.append(error.detail)
            await self._asking.give_up(walk, taken, error)
            return await self._deliver(walk, await self._load(taken))
        settled = await self._asking.settle(walk, taken, verdict, answer_der)
        if verdict.event is Event.deferred:
            note(walk, settled, verdict)
            return await self._still_waiting(walk, settled, verdict)
        return await self._deliver(walk, settled)

    async def _still_waiting(self, walk: Walk, transaction: Transaction, verdict: Verdict) -> bytes:
        """Relay the CA's pollRep; the next pollReq has to return its nonce."""
        credential = credential_for(self._node, walk, transaction)
        der, _ = await respond(
            self._node, walk.endpoint, transaction, verdict, walk.message.header, credential
        )
        changed = advance(
            transaction,
            Event.polled,
            polling=Exchange(walk.digest, b"", der),
            polling_nonce=transaction.current.ca_nonce,
        )
        return await self._store(walk, changed, der)

    # --- the answer is here -------------------------------------------------------------------------------------

    async def _deliver(self, walk: Walk, transaction: Transaction) -> bytes:
        """Give the device the answer that came while it was waiting (R118)."""
        der, changes = await self._asking.late_answer(walk, transaction)
        return await self._store(
            walk,
            advance(
                transaction,
                Event.delivered,
                polling=Exchange(walk.digest, b"", der),
                **transaction.with_current(closed(transaction.current)),
                **changes,
            ),
            der,
        )

    # --- not yet ------------------------------------------------------------------------------------------------

    async def _not_yet(
        self, walk: Walk, transaction: Transaction, cert_req_id: int, **changes: Any
    ) -> bytes:
        """Tell the device to ask again later (R117).

        Args:
            changes: Fields of the transaction to change as well.
        """
        node = self._node
        header = node.reply_header(walk.message.header)
        if transaction.current.ca_nonce and _goes_up_unchanged(transaction):
            header = replace(header, sender_nonce=transaction.current.ca_nonce)
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
                **changes,
            ),
            der,
        )

    async def _store(self, walk: Walk, changed: Transaction, der: bytes) -> bytes:
        """Store what a pollReq changed; where something else came first, the device has to ask once more."""
        try:
            await self._node.store.replace(changed)
        except StaleTransaction:
            return await self._again(walk, await self._load(changed))
        return der

    async def _again(self, walk: Walk, live: Transaction) -> bytes:
        """Decide anew on a transaction that changed meanwhile: its answer has come, or another pollReq."""
        exchange = live.exchange_for(walk.digest)
        if exchange is not None and exchange.response_der is not None:
            walk.outcome = "replayed"
            return exchange.response_der
        cert_req_id = _check(walk, live)
        if live.state in (State.HELD, *OUTSTANDING):
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


def _goes_up_unchanged(transaction: Transaction) -> bool:
    """Tell whether the CA sees the device's own pollReq, so that this has to return the CA's nonce."""
    return Variant(transaction.variant) is not Variant.reprotect
