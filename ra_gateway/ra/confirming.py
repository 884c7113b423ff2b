"""certConf, and the error by which a device gives up: the end of what a request began."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.messages import PKICONF_BODY, cert_confirm_body, error_msg_content
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.requests import AuthenticatedConfirmation, read_confirmation
from ra_gateway.errors import (
    ConfirmationRefused,
    HeaderRefused,
    PKIFailureInfo,
    StaleTransaction,
    StoreUnavailable,
)
from ra_gateway.ra.asking import Asking, credential_for, knows_alone, lease
from ra_gateway.ra.authentication import check_same_upstream, find_transaction
from ra_gateway.ra.forwarding import message_for_ca
from ra_gateway.ra.node import Node
from ra_gateway.ra.routes import Variant
from ra_gateway.ra.transaction import GIVEN_UP, Event, Exchange, State, Transaction, advance
from ra_gateway.ra.walk import Walk

_CONFIRMED: Final = frozenset({State.CONFIRMING, State.CONFIRMED, State.REJECTED, State.GRANTED})
"""States of an operation whose certificate came to nothing because nobody confirmed it."""


class Confirming:
    """Takes what ends an operation, on one node."""

    def __init__(self, node: Node, asking: Asking) -> None:
        self._node = node
        self._asking = asking

    async def confirm(self, walk: Walk) -> bytes:
        """Answer a certConf: the same steps as for a request, for a message that continues a transaction.

        Raises:
            CMPError: It is refused.
        """
        node = self._node
        transaction = await find_transaction(node, walk)
        if transaction.exchange_for(walk.digest) is not None:
            return await self._asking.repeat(walk, transaction)
        _check_state(transaction)
        confirmation = _read(walk, transaction)
        takes = confirmation.status.takes_certificate
        now = node.clock()
        local = knows_alone(walk.upstream, transaction)
        awaited_until = transaction.confirm_until or transaction.expires_at
        if local and takes and now > awaited_until and node.steady():
            # Where the CA awaits nothing, nobody else would hold the device to what it was told.
            raise ConfirmationRefused(
                "certConf after confirmWaitTime", fail_info=PKIFailureInfo.badRequest, rule="R111"
            )
        if takes:
            await self._asking.take(walk, transaction)
        upstream_der = b""
        if not local:
            check_same_upstream(walk, transaction)
            upstream_der = await message_for_ca(
                walk.endpoint,
                walk.upstream,
                walk.message,
                _for_ca(walk, transaction, confirmation),
                Variant(transaction.variant),
                node.credential_of(transaction),
                now,
                ids=node.mapped_ids(transaction),
            )
        confirming = advance(
            transaction,
            Event.confirm,
            confirmation=Exchange(walk.digest, upstream_der),
            confirm_status=takes,
            lease_until=now + lease(walk.upstream),
        )
        try:
            await node.store.replace(confirming)
        except StaleTransaction:
            live = await node.store.load(transaction.key)
            if live is None:
                raise StoreUnavailable("the transaction expired meanwhile") from None
            if live.exchange_for(walk.digest) is None:
                _check_state(live)
            return await self._asking.repeat(walk, live)
        return await self._asking.ask(walk, confirming)

    async def give_up(self, walk: Walk) -> bytes:
        """Answer an error from a device: the transaction ends, nothing goes upstream (R115).

        Raises:
            CMPError: It is refused.
        """
        node = self._node
        transaction = await find_transaction(node, walk)
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
        credential = credential_for(node, walk, transaction)
        der = await protect(
            node.reply_header(walk.message.header),
            PKICONF_BODY,
            credential,
            credential.certificates,
        )
        walk.outcome = "rejected"
        walk.notes.append(f"the device sent error instead of certConf: {told}")
        if transaction.certificate_der:
            walk.certificate = load_certificate(transaction.certificate_der)
        ended = advance(
            transaction,
            Event.rejected,
            confirmation=Exchange(walk.digest, b"", der),
            confirm_status=False,
            **await self._asking.plan(walk, transaction, node.clock()),
        )
        try:
            await node.store.replace(ended)
        except StaleTransaction:
            live = await node.store.load(transaction.key)
            if live is None:
                raise StoreUnavailable("the transaction expired meanwhile") from None
            return await self._asking.repeat(walk, live)
        return der


def _for_ca(walk: Walk, transaction: Transaction, confirmation: AuthenticatedConfirmation) -> bytes:
    """Return the body of a certConf with the certReqId that the CA gave: after a p10cr some CAs say 0, some -1."""
    if confirmation.status.cert_req_id == transaction.ca_cert_req_id:
        return walk.message.body_der
    return cert_confirm_body(replace(confirmation.status, cert_req_id=transaction.ca_cert_req_id))


def _check_state(transaction: Transaction) -> None:
    if transaction.state in _CONFIRMED:
        raise ConfirmationRefused(
            f"certConf in state {transaction.state}",
            fail_info=PKIFailureInfo.certConfirmed,
            rule="R110" if transaction.state is State.GRANTED else "R109",
        )
    if transaction.state in GIVEN_UP:
        raise ConfirmationRefused(
            f"certConf in state {transaction.state}: too late",
            fail_info=PKIFailureInfo.badRequest,
            rule="R111",
        )
    if transaction.state is not State.ISSUED or transaction.opening.waiting:
        raise HeaderRefused(f"certConf in state {transaction.state}", rule="R11")


def _read(walk: Walk, transaction: Transaction) -> AuthenticatedConfirmation:
    if walk.follower is None:
        raise HeaderRefused("not authenticated", rule="R35")
    if transaction.certificate_der:
        walk.certificate = load_certificate(transaction.certificate_der)
    return read_confirmation(
        walk.follower,
        walk.certificate,
        response_nonce=transaction.response_nonce,
        cert_req_id=transaction.cert_req_id,
    )
