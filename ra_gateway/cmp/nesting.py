"""nested: one message that an RA vouches for, or several that it sends together (RFC 9483 5.2.2)."""

from __future__ import annotations

from dataclasses import InitVar
from typing import Final

from ra_gateway.cmp.bodies import nested_messages
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIHeader, PKIMessage
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.cmp.verification import AuthenticatedMessage
from ra_gateway.errors import HeaderRefused, MalformedMessage, PKIFailureInfo

_SEAL: Final = Seal(__name__)


@proof
class Single:
    """A message to be answered as if it had come plain: the RA adds its signature, and nothing else."""

    message: PKIMessage
    seal: InitVar[Seal]

    def __post_init__(self, seal: Seal) -> None:
        _SEAL.require(seal)


@proof
class Batch:
    """Messages that came together, each to be answered for itself; to be in a batch vouches for none of them.

    Args:
        members: In order; None stands for octets that are no PKIMessage.
    """

    members: tuple[PKIMessage | None, ...]
    seal: InitVar[Seal]

    def __post_init__(self, seal: Seal) -> None:
        _SEAL.require(seal)


def read_nested(authenticated: AuthenticatedMessage, *, batch_max: int) -> Single | Batch:
    """Read the body of an authenticated nested.

    A batch has IDs of its own. One message under the transactionID of the outer header is no batch; nor is one
    whose senderNonce is the outer one: its transactionID should have been copied too.

    Args:
        batch_max: Most messages that are taken.

    Raises:
        HeaderRefused: The IDs do not fit (badRequest, badSenderNonce), twice the same, another nested inside, too many
            messages, or none.
        MalformedMessage: It does not parse.
    """
    outer = authenticated.message.header
    ders = nested_messages(authenticated.message.body_content)
    if not 1 <= len(ders) <= batch_max:
        raise HeaderRefused(
            f"{len(ders)} messages in nested; 1 to {batch_max} are taken", rule="RFC 9483 5.2.2"
        )
    if len(ders) == 1:
        inner = PKIMessage.from_der(ders[0])
        same_id = inner.header.transaction_id == outer.transaction_id
        if same_id or inner.header.sender_nonce == outer.sender_nonce:
            return _single(inner, outer)
    members = tuple(_decoded(der) for der in ders)
    ids = [outer.transaction_id, *(item.header.transaction_id for item in members if item)]
    known = [item for item in ids if item]
    if len(set(known)) < len(known):
        raise HeaderRefused("the same transactionID twice in a batch", rule="R126")
    return Batch(members, _SEAL)


def _decoded(der: bytes) -> PKIMessage | None:
    try:
        return PKIMessage.from_der(der)
    except MalformedMessage:
        return None


def _single(inner: PKIMessage, outer: PKIHeader) -> Single:
    if inner.header.transaction_id != outer.transaction_id:
        raise HeaderRefused("nested has another transactionID than what is inside", rule="R122")
    if inner.header.sender_nonce != outer.sender_nonce:
        raise HeaderRefused(
            "nested has another senderNonce than what is inside",
            fail_info=PKIFailureInfo.badSenderNonce,
            rule="R122",
        )
    if inner.body_type is BodyType.nested:
        raise HeaderRefused("nested inside nested", rule="R128")
    return Single(inner, _SEAL)
