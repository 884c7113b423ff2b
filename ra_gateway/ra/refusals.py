"""Telling a device that its message was refused."""

from __future__ import annotations

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import assemble, cert_req_id_of
from ra_gateway.cmp.protection import Protecting, protect
from ra_gateway.cmp.replies import refusal_body
from ra_gateway.errors import CMPError, ServiceFailure, TransactionInUse, UpstreamBroken
from ra_gateway.ra.node import Node
from ra_gateway.ra.transaction import Transaction
from ra_gateway.ra.walk import Walk


async def explained(node: Node, transaction: Transaction, error: CMPError) -> CMPError:
    """Return the device's own fault in the place of a CA's complaint about a transactionID that another device has."""
    if not isinstance(error, UpstreamBroken) or not error.id_in_use:
        return error
    others = await node.store.find(transaction.key.transaction_id)
    if any(
        item.key != transaction.key and item.upstream == transaction.upstream for item in others
    ):
        return TransactionInUse(error.detail, rule="R12")
    return error


async def refuse(
    node: Node,
    walk: Walk,
    error: CMPError,
    *,
    body_type: BodyType | None = None,
    cert_req_id: int | None = None,
) -> bytes:
    """Return the answer that says no: the failInfo and a fixed phrase, protected (R114).

    Args:
        body_type: Of the message that is refused; by default the one that is answered.
        cert_req_id: Likewise.
    """
    walk.refusal = error
    walk.outcome = "failed" if isinstance(error, ServiceFailure) else "refused"
    header = node.reply_header(walk.message.header)
    if cert_req_id is None:
        cert_req_id = cert_req_id_of(walk.message) if error.in_body else 0
    if body_type is None:
        body_type = walk.message.body_type
    body_der = refusal_body(error, body_type, cert_req_id)
    try:
        credential: Protecting = walk.shared or node.credential()
        return await protect(header, body_der, credential, credential.certificates)
    except Exception as failure:  # the key cannot sign: an unprotected error is all that is left
        walk.notes.append(f"the answer could not be signed: {type(failure).__name__}")
        return assemble(header.to_der(), body_der, None)
