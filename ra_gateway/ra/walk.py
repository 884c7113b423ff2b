"""One message on its way through the steps, and the event that tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.messages import PKIMessage, PKIStatusInfo
from ra_gateway.cmp.verification import Authenticated
from ra_gateway.errors import CMPError, MalformedMessage
from ra_gateway.ra.events import MessageHandled
from ra_gateway.ra.routes import Endpoint, Upstream


@dataclass(slots=True)
class Walk:
    """What is known of a message so far; each step adds to it.

    Args:
        digest: `PKIMessage.digest`: a repeat has the same.
        operation: Operation label out of the path, "" for none.
        profile: Name out of the path below /p/.
        peer: Where the message came from.
        started: When it came, on the node's monotonic clock, in seconds.
        routed: Where a route, or the transaction, has it go.
        wrapped: Whether the message came inside nested.
        relayed: Whether another RA protects the message in its device's place.
        shared: The shared secret that protects the message, and its answers.
        follower: The authenticated certConf or error.
        refusal: Why we refused; `rejection`: what the CA said when it did.
        notes: For the operator.
    """

    endpoint: Endpoint
    message: PKIMessage
    digest: bytes
    operation: str
    profile: str = ""
    peer: str = ""
    started: float = 0.0
    signer: Certificate | None = None
    domain: str = ""
    quirks: tuple[str, ...] = ()
    cert_req_id: int = 0
    shared: MACCredential | None = None
    follower: Authenticated | None = None
    certificate: Certificate | None = None
    outcome: str = "refused"
    refusal: CMPError | None = None
    rejection: PKIStatusInfo | None = None
    notes: list[str] = field(default_factory=list)
    routed: Upstream | None = None
    relayed: bool = False
    wrapped: bool = False

    @property
    def upstream(self) -> Upstream:
        """Where the message goes: the endpoint's own upstream until a route says otherwise."""
        return self.routed or self.endpoint.upstream

    @property
    def signed_by_device(self) -> bool:
        """Whether the device's own signature protects the message, once that is known."""
        return self.shared is None and not self.relayed

    def copy(self) -> Walk:
        """Return a walk that goes on by itself."""
        return replace(self, notes=list(self.notes))

    def event(self, duration_ms: float, bug: Exception | None) -> MessageHandled:
        """Return the event that tells how the message was answered."""
        signer, certificate, refusal = self.signer, self.certificate, self.refusal
        fail_info, rule = None, ""
        if refusal is not None:
            fail_info, rule = refusal.fail_info, refusal.rule
        elif self.rejection is not None:
            fail_info, rule = next(iter(self.rejection.fail_info), None), "R89"
        detail = [] if refusal is None else [refusal.detail]
        who, fingerprint = "", b""
        if signer is not None:
            who, fingerprint = signer.subject, signer.fingerprint
        elif self.shared is not None:
            who, fingerprint = self.shared.secret.label, self.shared.secret.fingerprint
        return MessageHandled(
            endpoint=self.endpoint.name,
            peer=self.peer,
            body_type=self.message.body_type.name,
            outcome=self.outcome,
            transaction_id=(self.message.header.transaction_id or b"").hex(),
            duration_ms=duration_ms,
            domain=self.domain,
            signer=who,
            signer_fingerprint=fingerprint.hex(),
            subject="" if certificate is None else certificate.subject,
            serial_number="" if certificate is None else f"{certificate.serial_number:x}",
            upstream=self.upstream.name,
            fail_info=fail_info,
            rule=rule,
            detail="; ".join((*detail, *self.notes)),
            quirks=self.quirks,
            bug=bug,
        )


def unreadable_event(
    error: MalformedMessage, endpoint: str, peer: str, duration_ms: float
) -> MessageHandled:
    """Return the event for octets that were no PKIMessage."""
    return MessageHandled(
        endpoint=endpoint,
        peer=peer,
        body_type="",
        outcome="refused",
        transaction_id="",
        duration_ms=duration_ms,
        fail_info=error.fail_info,
        rule=error.rule,
        detail=error.detail,
    )
