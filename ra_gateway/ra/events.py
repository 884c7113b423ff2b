"""What the pipeline has to tell, as frozen facts; logs, metrics and audit are sinks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ra_gateway.errors import PKIFailureInfo


@dataclass(frozen=True, slots=True)
class MessageHandled:
    """One request and how it was answered.

    Args:
        outcome: "issued", "confirmed", "rejected", "revoked", "informed", "refused", "failed" or "replayed";
            "waiting" where the device was told to wait, "held" where it waits for an operator, "unconfirmed"
            of a certificate that nobody confirmed in time; "batched" for a nested whose messages each have an event
            of their own.
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
    outcome: str
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
