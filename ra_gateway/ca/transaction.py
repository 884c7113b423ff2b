"""A message as it was received, whom it speaks for, and whether it retransmits what was answered before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ra_gateway.ca.records import CLIENT, Authority, EndEntity, IssuedCertificate, Operation
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.verification import AuthenticatedMessage
from ra_gateway.errors import ConfirmationRefused, PKIFailureInfo, TransactionInUse
from ra_gateway.events import Outcome


@dataclass(frozen=True, slots=True)
class Received:
    """A message that was received, and the registered RA that sent it, if one did.

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
        """Equal for retransmissions, also where the RA signed anew: the device's part is what counts."""
        message = self.message
        return hashlib.sha256(message.body_der + (message.header.sender_nonce or b"")).digest()


@dataclass(frozen=True, slots=True)
class RequestContext:
    """An authenticated message and whom it speaks for.

    Args:
        authenticated: The device's protection, or the authority's where it replaced that.
        device: The certificate of ours that the device signed with.
        entity: Client mode: whose message it is.
        answered: What a retransmission is answered with whose signer is no longer good; it was when this was done.
    """

    received: Received
    authenticated: AuthenticatedMessage
    device: IssuedCertificate | None = None
    entity: EndEntity | None = None
    answered: Operation | None = None

    @property
    def signer_der(self) -> bytes:
        """What certConf has to be protected with, b"" if by the authority."""
        return self.authenticated.signer.der if self.received.by_device else b""


def in_use() -> TransactionInUse:
    """Return the refusal of another request under a live transactionID."""
    return TransactionInUse("another request opened this transaction", rule="R12")


def is_retransmission(stored: Operation, context: RequestContext) -> bool:
    """Tell a retransmission from another request, and from the same body that somebody else signed."""
    if stored.request_digest != context.received.digest:
        return False
    if not stored.signer_der or not context.received.by_device:
        return not stored.signer_der and not context.received.by_device
    return load_certificate(stored.signer_der, loosely=True) == context.authenticated.signer


def require_retransmission(stored: Operation, context: RequestContext) -> Operation:
    """Return what is stored, if this is a retransmission of it.

    Raises:
        TransactionInUse: It is another request.
    """
    if not is_retransmission(stored, context):
        raise in_use()
    return stored


def outcome_of(made: Operation, stored: Operation, outcome: Outcome) -> Outcome:
    """Return the outcome of a message whose operation was made; where another one was first, it is a repeat."""
    return outcome if stored.response_nonce == made.response_nonce else Outcome.replayed


def require_same_confirmation(stored: Operation, digest: bytes) -> Operation:
    """Return a confirmed operation, if this retransmits the certConf that did it.

    Raises:
        ConfirmationRefused: It is another certConf, or the certificate was revoked before.
    """
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
