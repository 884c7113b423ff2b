"""What has happened, as frozen facts; logs, metrics and audit are sinks for them.

A fact is told once, by the node that did it, and after the store has taken what it says. It holds no secret, and
nothing that is costly to make. A node that dies in between tells nothing: a sink is no journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from ra_gateway.errors import PKIFailureInfo
from ra_gateway.values import Value

FOUND_AFTER_SECONDS: Final = 5.0
"""So long nothing has failed of a store that is found again: one that reads but does not write is still lost."""


BY_CA: Final = "R89"
"""Requirement by which a message is refused that its CA refused."""


class Component(StrEnum):
    """Who tells a fact; with the bundled CA in its process, a gateway and a CA tell theirs to the same sink."""

    gateway = "gateway"
    ca = "ca"


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
    ready = "ready"  # its CA has answered meanwhile
    held = "held"  # an operator has to approve it
    unconfirmed = "unconfirmed"  # of a certificate that nobody confirmed in time
    batched = "batched"  # each message of a nested has an event of its own


class Stage(StrEnum):
    """What a message spends its time on at the gateway."""

    decode = "decode"
    authenticate = "authenticate"
    authorize = "authorize"
    status = "status"  # whether its signer is revoked, and messageTime
    sign = "sign"  # the message for the CA is made and signed
    open = "open"  # stored, before the CA is asked
    ca = "ca"  # its answer is awaited
    respond = (
        "respond"  # the answer is checked, signed and stored; all of it where nothing else is told
    )


class RequestHandled(Value, frozen=True, gc=True):  # an error's traceback may lead back to it
    """One message and how it was answered.

    Args:
        endpoint: Name of the gateway's endpoint, or the CA's mode.
        transaction_id, signer_fingerprint: Hex, "" where not known.
        duration_ms: From the first octet decoded to the answer ready, the CA's time included.
        domain: Trust domain that vouched for the signer, "" if none did.
        signer: Subject of the protecting certificate, or the beginning of the reference of a shared secret.
        rule: Requirement or clause that refused.
        detail: Why, for the operator; never sent to the device.
        quirks: Rules that the signer's domain relaxes.
        bug: The cause, when it was an exception that nobody raised on purpose.
        operation: Operation label of the URL, told by the CA.
        batch: transactionID (hex) of the batch that the message came in, told by the CA.
        requester: Name of the RA that asked the CA.
        entity: Name of the CA's end entity.
        messages: How many a batch had.
        stages: What it spent its time on, in seconds, told by the gateway.
    """

    by: Component
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
    operation: str = ""
    batch: str = ""
    requester: str = ""
    entity: str = ""
    messages: int | None = None
    stages: tuple[tuple[Stage, float], ...] = ()


class TransactionChanged(Value, frozen=True):
    """A transaction of the gateway has come into another state.

    Args:
        transaction_id: Hex.
        upstream: Name of the CA that it is for.
        state: The new one (`ra_gateway.ra.transaction.State`).
    """

    transaction_id: str
    upstream: str
    state: str


class MessageForwarded(Value, frozen=True):
    """A message is about to go to a CA: told before it does, where there is an audit trail.

    Args:
        transaction_id: Hex, of the device's transaction.
        upstream: Name of the CA.
        body_type: Of the message.
        domain: Trust domain of the device.
        signer_der: The certificate that it came under; b"" of a shared secret.
        digest: SHA-256 of the message for the CA, hex.
    """

    transaction_id: str
    upstream: str
    body_type: str
    domain: str
    signer_der: bytes
    digest: str


class _OfCertificate(Value, frozen=True):
    """What is told of one certificate.

    Args:
        transaction_id: Hex.
        certificate_der: b"" where it is encrypted, and the gateway has not seen it.
        upstream: Name of the gateway's upstream that issued it.
    """

    by: Component
    transaction_id: str
    certificate_der: bytes
    upstream: str = ""


class CertificateIssued(_OfCertificate, frozen=True):
    """A certificate was stored, and may leave."""


class CertificateConfirmed(_OfCertificate, frozen=True):
    """A device's certConf for its certificate was stored; where implicitConfirm was granted, there is none."""


@dataclass(frozen=True, slots=True)
class CertificatesWithdrawn:
    """Certificates were revoked because their devices did not take them.

    Args:
        certificates: DER; the CA's sweep withdraws up to a thousand at once.
        rejected: Whether the device has refused its certificate; otherwise nobody confirmed in time.
        transaction_id, upstream: As of `CertificateIssued`; "" of a sweep.
    """

    by: Component
    certificates: tuple[bytes, ...]
    rejected: bool = False
    transaction_id: str = ""
    upstream: str = ""


@dataclass(frozen=True, slots=True)
class AnswerLost:
    """A CA's answer to a request for a certificate was lost, and it cannot be had again: whether it issued is unknown.

    Args:
        upstream, endpoint, domain: Their names.
        transaction_id: Hex.
        ca_transaction_id: Hex, as the CA was shown it.
        subject: As it was asked for (RFC 4514).
        key_sha256: Of the key to be certified (SubjectPublicKeyInfo), hex; "" where the CA was to make it.
        asked_at: When the request came, aware UTC.
        detail: Why it cannot be had again.
    """

    upstream: str
    endpoint: str
    domain: str
    transaction_id: str
    ca_transaction_id: str
    subject: str
    key_sha256: str
    asked_at: datetime
    detail: str


@dataclass(frozen=True, slots=True)
class UpstreamFailed:
    """A CA gave a message no answer, or none that can be used.

    Args:
        upstream: Its name.
        transaction_id: Hex.
        fail_info, rule, detail: As of the error that says why.
    """

    upstream: str
    transaction_id: str
    fail_info: PKIFailureInfo
    rule: str
    detail: str


@dataclass(frozen=True, slots=True)
class UpstreamDown:
    """A CA can be sent nothing at the moment.

    Args:
        upstream: Its name.
        detail: Why.
    """

    upstream: str
    detail: str


@dataclass(frozen=True, slots=True)
class UpstreamUp:
    """A CA that could be sent nothing can be sent messages again.

    Args:
        upstream: Its name.
        down_seconds: For how long it could not.
    """

    upstream: str
    down_seconds: float


@dataclass(frozen=True, slots=True)
class StoreLost:
    """A store does not answer, or takes nothing more.

    Args:
        detail: The first failure.
    """

    by: Component
    detail: str


@dataclass(frozen=True, slots=True)
class StoreFound:
    """A store that was lost answers again.

    Args:
        lost_seconds: From the first failure until now.
    """

    by: Component
    lost_seconds: float


@dataclass(frozen=True, slots=True)
class CRLPublished:
    """A CRL was made and stored.

    Args:
        issuer_id: Key identifier (hex) of the issuing CA.
        base_number: The full CRL that a delta is relative to; None for a full one.
    """

    issuer_id: str
    number: int
    base_number: int | None
    next_update: datetime
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CredentialChanged:
    """The RA signs with another certificate from now on.

    Args:
        serial_number: Hex.
    """

    subject: str
    serial_number: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class InventoryChanged:
    """The file of the inventory has changed, and holds from now on.

    Args:
        devices: As many are listed now.
        added, changed, removed: As many since before.
        warnings: What helps nobody in it, a sentence each.
    """

    devices: int
    added: int
    changed: int
    removed: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InventoryRefused:
    """The file of the inventory has changed and cannot be used; the list of before still holds.

    Args:
        problems: The first that are wrong, a sentence each.
        devices: As many are still listed.
    """

    problems: tuple[str, ...]
    devices: int


@dataclass(frozen=True, slots=True)
class ConfigurationReloaded:
    """A changed configuration holds for all messages from now on.

    Args:
        digest: Of the configuration, 16 hex digits.
        changed: Dotted names of the keys that have other values than before; no values, which may be secret.
    """

    by: Component
    digest: str
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """A changed configuration cannot be used; the one before still holds.

    Args:
        problems: Everything that is wrong, a sentence each.
    """

    by: Component
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HTTPRefused:
    """A request was refused below CMP, by an HTTP status; no more are told than a few in so many seconds.

    Args:
        listener: Whose it was: "cmp", "status" or "management".
        method, path: As sent, made printable and cut; the path without its query. "" where the octets were no HTTP.
        status: None where the connection was closed without an answer.
        reason: What the client was told, or would have been.
        refused: How many requests and connections that listener has refused, or cut off, since its start, this one
            included.
        untold: How many of them were not told since the last one that was.
    """

    by: Component
    listener: str
    peer: str
    method: str
    path: str
    status: int | None
    reason: str
    refused: int
    untold: int = 0


@dataclass(frozen=True, slots=True)
class ServiceStarted:
    """A service takes messages from now on.

    Args:
        digest: Of its configuration, 16 hex digits.
    """

    by: Component
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class TrustChanged:
    """A trust domain has other roots than before, by a reload.

    Args:
        domain: Its name.
        added, removed: Subject and SHA-256 of each certificate.
    """

    domain: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PersonActed:
    """Somebody has done something by hand, or is about to.

    Args:
        actor: Who, as "operator:NAME".
        action: What, like "approval".
        subject: Whom it concerns.
        detail: Facts by the names of the log's fields; no secrets.
    """

    actor: str
    action: str
    subject: str
    detail: tuple[tuple[str, str], ...] = ()


Fact = (
    RequestHandled
    | MessageForwarded
    | ServiceStarted
    | TrustChanged
    | PersonActed
    | HTTPRefused
    | TransactionChanged
    | CertificateIssued
    | CertificateConfirmed
    | CertificatesWithdrawn
    | AnswerLost
    | UpstreamFailed
    | UpstreamDown
    | UpstreamUp
    | StoreLost
    | StoreFound
    | CRLPublished
    | CredentialChanged
    | InventoryChanged
    | InventoryRefused
    | ConfigurationReloaded
    | ReloadRefused
)


class EventSink(Protocol):
    """Takes facts; must not raise and must not wait."""

    def __call__(self, event: Fact, /) -> None:
        """Take one fact."""


def unheard(_event: Fact) -> None:
    """Take a fact that nobody wants."""


class StoreWatch:
    """Tells once that a store is lost, and once that it is found again.

    Args:
        by: Whose store it is.
        monotonic: Seconds.
    """

    def __init__(self, sink: EventSink, by: Component, monotonic: Callable[[], float]) -> None:
        self._sink = sink
        self._by = by
        self._monotonic = monotonic
        self._lost_at: float | None = None
        self._failed_at = 0.0

    def failed(self, detail: str) -> None:
        """The store could not be asked."""
        self._failed_at = self._monotonic()
        if self._lost_at is None:
            self._lost_at = self._failed_at
            self._sink(StoreLost(self._by, detail))

    def answered(self) -> None:
        """The store has done what it was asked."""
        if self._lost_at is None:
            return
        now = self._monotonic()
        if now - self._failed_at >= FOUND_AFTER_SECONDS:
            lost_seconds, self._lost_at = now - self._lost_at, None
            self._sink(StoreFound(self._by, lost_seconds))
