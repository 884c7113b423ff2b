"""What is known of one message on its way, and what its event is going to tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from ra_gateway.cmp.bodies import PKIStatusInfo
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.quirks import quirks_against
from ra_gateway.cmp.responder import Unreadable
from ra_gateway.cmp.verification import Authenticated, AuthenticatedMessage
from ra_gateway.errors import CMPError
from ra_gateway.events import BY_CA, Component, Outcome, RequestHandled, Stage
from ra_gateway.ra.endpoints import Endpoint, Upstream
from ra_gateway.values import Value, replace


@dataclass(slots=True)
class Report:
    """What the event of a message is going to tell; every step writes to it, and none decides by it.

    Args:
        upstream: Name of where the message goes, once that is known to differ from its endpoint's own.
        authenticated: Who sent it.
        shared: The shared secret whose MAC verified, whatever else is wrong: a refusal is protected with it.
        mac_checked: Whether that was tried.
        quirks: Rules that its sender's domain relaxes, of those that it needed.
        certificate: What it is about.
        refusal: Why we refused.
        rejection: What the CA said when it did.
        notes: For the operator.
        unforgiven: What the operator can do about a rule that a quirk would relax, by the quirk.
        passed: Which stages it has been through, and until when, in seconds of the node's monotonic clock.
    """

    upstream: str = ""
    outcome: Outcome = Outcome.refused
    authenticated: Authenticated | None = None
    shared: MACCredential | None = None
    mac_checked: bool = False
    quirks: tuple[str, ...] = ()
    certificate: Certificate | None = None
    refusal: CMPError | None = None
    rejection: PKIStatusInfo | None = None
    notes: list[str] = field(default_factory=list)
    unforgiven: Mapping[str, str] = field(default_factory=dict)
    passed: list[tuple[Stage, float]] = field(default_factory=list)


class RequestContext(Value, frozen=True, gc=True):
    """A message and what is known of it (immutable: a step that learns more returns the next one).

    Its report may hold an error, whose traceback leads back to it.

    Args:
        digest: `PKIMessage.digest`: a retransmission has the same.
        upstream: Where the message goes: the endpoint's own upstream until a route, or the transaction, says otherwise.
        operation: Operation label out of the path, "" for none.
        profile: Name out of the path below /p/.
        peer: Where the message came from.
        started: When it came, on the node's monotonic clock, in seconds.
        wrapped: Whether the message came inside nested.
        nested_by: Digest of the certificate of the RA that nested it, empty where none did.
        shared: The shared secret that protects the message, and its answers; None until that is known, and where a
            signature does.
        relayed: Whether another RA protects the message in its device's place.
    """

    endpoint: Endpoint
    message: PKIMessage
    digest: bytes
    upstream: Upstream
    report: Report = msgspec.field(default_factory=Report)
    operation: str = ""
    profile: str = ""
    peer: str = ""
    started: float = 0.0
    wrapped: bool = False
    nested_by: bytes = b""
    shared: MACCredential | None = None
    relayed: bool = False

    def routed(self, upstream: Upstream) -> RequestContext:
        """Return the context of a message that goes to an upstream."""
        self.report.upstream = upstream.name
        return replace(self, upstream=upstream)

    def detached(self) -> RequestContext:
        """Return the context for work that goes on in the background, and has an event of its own."""
        return replace(
            self, report=dataclasses.replace(self.report, notes=list(self.report.notes), passed=[])
        )


def event_of(
    context: RequestContext, duration_ms: float, bug: Exception | None = None
) -> RequestHandled:
    """Return the event that tells how a message was answered."""
    report = context.report
    certificate, refusal, authenticated = report.certificate, report.refusal, report.authenticated
    fail_info, rule = None, ""
    if refusal is not None:
        fail_info, rule = refusal.fail_info, refusal.rule
    elif report.rejection is not None:
        fail_info, rule = next(iter(report.rejection.fail_info), None), BY_CA
    detail = [] if refusal is None else [refusal.detail]
    if refusal is not None and report.unforgiven:
        detail += {report.unforgiven.get(item, "") for item in quirks_against(refusal.rule)} - {""}
    domain, signer, fingerprint = "", "", b""
    if authenticated is not None:
        domain = authenticated.domain.name
        if isinstance(authenticated, AuthenticatedMessage):
            signer, fingerprint = authenticated.signer.subject, authenticated.signer.fingerprint
        else:
            signer, fingerprint = (
                authenticated.requester.label,
                authenticated.requester.fingerprint,
            )
    return RequestHandled(
        by=Component.gateway,
        endpoint=context.endpoint.name,
        peer=context.peer,
        body_type=context.message.body_type.name,
        outcome=report.outcome,
        transaction_id=(context.message.header.transaction_id or b"").hex(),
        duration_ms=duration_ms,
        domain=domain,
        signer=signer,
        signer_fingerprint=fingerprint.hex(),
        subject="" if certificate is None else certificate.subject,
        serial_number="" if certificate is None else f"{certificate.serial_number:x}",
        upstream=report.upstream or context.upstream.name,
        fail_info=fail_info,
        rule=rule,
        detail="; ".join((*detail, *report.notes)),
        quirks=report.quirks,
        bug=bug,
        stages=_stages(context, duration_ms),
    )


def unreadable_event(
    unreadable: Unreadable, endpoint: str, peer: str, duration_ms: float
) -> RequestHandled:
    """Return the event for octets that were no PKIMessage."""
    error = unreadable.error
    return RequestHandled(
        by=Component.gateway,
        endpoint=endpoint,
        peer=peer,
        body_type="",
        outcome=Outcome.refused,
        transaction_id=unreadable.transaction_id,
        duration_ms=duration_ms,
        fail_info=error.fail_info,
        rule=error.rule,
        detail=error.detail,
    )


def _stages(context: RequestContext, duration_ms: float) -> tuple[tuple[Stage, float], ...]:
    """Return how long each stage took, in seconds; the last one is what no other one was."""
    before, durations = context.started, []
    for stage, moment in context.report.passed:
        durations.append((stage, moment - before))
        before = moment
    durations.append((Stage.respond, context.started + duration_ms / 1000.0 - before))
    return tuple(durations)
