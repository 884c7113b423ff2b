"""What the pipeline has to tell, as frozen facts; logs, metrics and audit are sinks for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ra_gateway.errors import PKIFailureInfo


class Outcome(StrEnum):
    """How a message was answered."""

    issued = "issued"
    confirmed = "confirmed"
    rejected = "rejected"
    revoked = "revoked"
    informed = "informed"
    refused = "refused"
    failed = "failed"
    replayed = "replayed"  # a retransmission, with what was answered before
    waiting = "waiting"  # the device is to poll
    held = "held"  # an operator has to approve it
    unconfirmed = "unconfirmed"  # of a certificate that nobody confirmed in time
    batched = "batched"  # each message of a nested has an event of its own


@dataclass(frozen=True, slots=True)
class MessageHandled:
    """One request and how it was answered.

    Args:
        transaction_id, signer_fingerprint: Hex, "" where not known.
        signer: Subject of the protecting certificate, or the beginning of the reference of a shared secret.
        domain: Trust domain that vouched for the signer, "" if none did.
        rule: Requirement or clause that refused.
        detail: Why, for the operator; never sent to the device.
        duration_ms: From the first octet decoded to the answer ready, the CA's time included.
        quirks: Rules that the signer's domain relaxes.
        bug: The cause, when it was an exception that nobody raised on purpose.
    """

    endpoint: str
    peer: str
    body_type: str
    outcome: Outcome
    transaction_id: str
    duration_ms: float
    domain: str = ""
    signer: str = ""
    signer_fingerprint: str = ""
    subject: str = ""
    serial_number: str = ""
    upstream: str = ""
    fail_info: PKIFailureInfo | None = None
    rule: str = ""
    detail: str = ""
    quirks: tuple[str, ...] = ()
    bug: Exception | None = None


class EventSink(Protocol):
    """Takes events; must not raise and must not wait."""

    def __call__(self, event: MessageHandled, /) -> None:
        """Take one event."""
