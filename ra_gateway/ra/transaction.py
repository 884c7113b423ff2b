"""The transaction: what is remembered of one CMP operation, and the one table by which it changes.

Two rules. A transaction's state changes only through `advance`; and what is irreversible (a message to the CA)
happens only after a store has accepted the state that announces it.

    REQUESTED --issued--> ISSUED --confirm--> CONFIRMING --accepted--> CONFIRMED
        |                   `----rejected--------|-----rejected--> REJECTED
        |---granted--> GRANTED                   |---failed--> FAILED
        |---revoked--> REVOKED                   |
        |---refused--> REFUSED                   `--released/retaken--> CONFIRMING
        |---failed--> FAILED
        `---released/retaken--> REQUESTED
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from ra_gateway.cmp.codes import BodyType

SCHEMA: Final = 1


class State(StrEnum):
    """Where an operation stands; `TRANSITIONS` is the whole truth about how it moves."""

    REQUESTED = "requested"  # intent stored; the CA's answer is outstanding
    ISSUED = "issued"  # the certificate was relayed; certConf is outstanding
    CONFIRMING = "confirming"  # certConf accepted; the CA's pkiConf is outstanding
    CONFIRMED = "confirmed"
    REJECTED = "rejected"  # the device refused its certificate
    GRANTED = "granted"  # implicitConfirm was granted: nothing more will come
    REVOKED = "revoked"  # rr: the CA has revoked the certificate
    REFUSED = "refused"  # the CA said no
    FAILED = "failed"  # no usable answer, and asking again could issue twice


class Event(StrEnum):
    """What can happen to an operation."""

    issued = "issued"
    granted = "granted"
    revoked = "revoked"
    refused = "refused"
    failed = "failed"
    confirm = "confirm"
    accepted = "accepted"
    rejected = "rejected"
    released = "released"  # the CA was not reached: the next repeat may try at once
    retaken = "retaken"  # the node that held the lease is gone: another one takes over


TRANSITIONS: Final = MappingProxyType(
    {
        (State.REQUESTED, Event.issued): State.ISSUED,
        (State.REQUESTED, Event.granted): State.GRANTED,
        (State.REQUESTED, Event.revoked): State.REVOKED,
        (State.REQUESTED, Event.refused): State.REFUSED,
        (State.REQUESTED, Event.failed): State.FAILED,
        (State.REQUESTED, Event.released): State.REQUESTED,
        (State.REQUESTED, Event.retaken): State.REQUESTED,
        (State.ISSUED, Event.confirm): State.CONFIRMING,
        (State.ISSUED, Event.rejected): State.REJECTED,
        (State.CONFIRMING, Event.accepted): State.CONFIRMED,
        (State.CONFIRMING, Event.rejected): State.REJECTED,
        (State.CONFIRMING, Event.failed): State.FAILED,
        (State.CONFIRMING, Event.released): State.CONFIRMING,
        (State.CONFIRMING, Event.retaken): State.CONFIRMING,
    }
)


class IllegalTransition(Exception):
    """A programming error: the pipeline asked for a move the table does not have."""


@dataclass(frozen=True, slots=True)
class TransactionKey:
    """Identifies one operation of one device.

    Args:
        domain: Name of the trust domain that authenticated the signer.
        signer_fingerprint: SHA-256 of the signer's certificate, or of the shared secret's reference, 32 octets.
        transaction_id: As received, any length.
    """

    domain: str
    signer_fingerprint: bytes
    transaction_id: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of the device and what became of it.

    Args:
        request_digest: SHA-256 over the received PKIMessage: what makes a repeat byte-identical.
        upstream_der: The message for the CA, signed before it is first sent, so that a retry by any
            node sends the same bytes; empty when nothing goes upstream.
        response_der: The answer the device was given, once there is one.
    """

    request_digest: bytes
    upstream_der: bytes
    response_der: bytes | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """Everything any node needs to continue an operation (immutable; see `advance`).

    Args:
        version: Counts stored changes; a store replaces only the directly preceding version.
        body_type: The request that opened the operation (ir, cr, kur, p10cr or rr).
        endpoint: Name of the endpoint that took the opening request.
        upstream: Name of the upstream the opening request was routed to.
        variant: How the opening request went up: "reprotect", "nested" or "forward"; followers go the same way.
        signer_der: The certificate that protected the opening request, or the reference of the shared secret that did
            (OCTET STRING).
        sender_nonce: The device's senderNonce in the opening request.
        subject_der: Subject that was asked for, or whose certificate was to be revoked (encoded Name).
        cert_req_id: As in the opening request (-1 for a p10cr); certConf names it.
        opening: The ir, cr, kur, p10cr or rr.
        confirmation: The certConf, from the moment it was accepted.
        response_nonce: senderNonce of the answer to the opening request; certConf must return it.
        certificate_der: The certificate as relayed.
        confirm_status: True if the accepted certConf takes the certificate, False if it rejects it.
        confirm_locally: Whether the CA awaits no certConf (it granted implicitConfirm), so that the RA answers it.
        may_retry: Whether it is certain that asking the CA again issues nothing twice.
        lease_until: Until then one node is busy with the CA; a repeat waits instead of asking again.
        created_at, expires_at: Aware UTC; the store forgets the transaction at `expires_at`.
    """

    key: TransactionKey
    state: State
    version: int
    body_type: BodyType
    endpoint: str
    upstream: str
    variant: str
    signer_der: bytes
    sender_nonce: bytes
    subject_der: bytes
    cert_req_id: int
    opening: Exchange
    lease_until: datetime
    created_at: datetime
    expires_at: datetime
    confirmation: Exchange | None = None
    response_nonce: bytes = b""
    certificate_der: bytes = b""
    confirm_status: bool = True
    confirm_locally: bool = False
    may_retry: bool = False

    def exchange_for(self, request_digest: bytes) -> Exchange | None:
        """Return the exchange whose request had exactly these bytes, or None if they are new."""
        if self.opening.request_digest == request_digest:
            return self.opening
        if self.confirmation is not None and self.confirmation.request_digest == request_digest:
            return self.confirmation
        return None

    def to_fields(self) -> dict[str, bytes]:
        """Return the transaction as flat named byte strings (schema 1), for a store to keep."""
        plain: dict[str, Any] = {
            "schema": SCHEMA,
            "domain": self.key.domain,
            "state": self.state,
            "body_type": self.body_type.name,
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            "lease_until": self.lease_until.isoformat(),
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
        }
        fields = {
            "version": str(self.version).encode(),
            "plain": json.dumps(plain, separators=(",", ":")).encode(),
            "signer_fingerprint": self.key.signer_fingerprint,
            "transaction_id": self.key.transaction_id,
            **{name: getattr(self, name) for name in _BYTE_FIELDS},
        }
        for prefix, exchange in (("opening", self.opening), ("confirmation", self.confirmation)):
            if exchange is not None:
                fields[f"{prefix}.request_digest"] = exchange.request_digest
                fields[f"{prefix}.upstream_der"] = exchange.upstream_der
                if exchange.response_der is not None:
                    fields[f"{prefix}.response_der"] = exchange.response_der
        return fields

    @classmethod
    def from_fields(cls, fields: dict[str, bytes]) -> Transaction:
        """Rebuild a transaction from `to_fields`.

        Raises:
            ValueError: The fields are not of a schema this version reads.
        """
        try:
            plain = json.loads(fields["plain"])
            if plain["schema"] != SCHEMA:
                raise ValueError(f"transaction schema {plain['schema']}, expected {SCHEMA}")
            opening = _exchange(fields, "opening")
            if opening is None:
                raise ValueError("transaction without an opening exchange")
            kept: dict[str, Any] = {name: fields[name] for name in _BYTE_FIELDS}
            kept.update((name, plain[name]) for name in _PLAIN_FIELDS)
            return cls(
                key=TransactionKey(
                    plain["domain"], fields["signer_fingerprint"], fields["transaction_id"]
                ),
                state=State(plain["state"]),
                version=int(fields["version"]),
                body_type=BodyType[plain["body_type"]],
                lease_until=datetime.fromisoformat(plain["lease_until"]),
                created_at=datetime.fromisoformat(plain["created_at"]),
                expires_at=datetime.fromisoformat(plain["expires_at"]),
                opening=opening,
                confirmation=_exchange(fields, "confirmation"),
                **kept,
            )
        except KeyError as error:
            raise ValueError(f"transaction without field {error}") from error


_BYTE_FIELDS: Final = (
    "signer_der",
    "sender_nonce",
    "subject_der",
    "response_nonce",
    "certificate_der",
)

_PLAIN_FIELDS: Final = (
    "endpoint",
    "upstream",
    "variant",
    "cert_req_id",
    "confirm_status",
    "confirm_locally",
    "may_retry",
)


def _exchange(fields: dict[str, bytes], prefix: str) -> Exchange | None:
    digest = fields.get(f"{prefix}.request_digest")
    if digest is None:
        return None
    return Exchange(digest, fields[f"{prefix}.upstream_der"], fields.get(f"{prefix}.response_der"))


def advance(transaction: Transaction, event: Event, **changes: Any) -> Transaction:
    """Return the transaction after an event, one version on.

    Args:
        changes: Fields of `Transaction` that the event fills in (not `state`, `version` or `key`).

    Raises:
        IllegalTransition: The table has no such move from the current state.
    """
    state = TRANSITIONS.get((transaction.state, event))
    if state is None:
        raise IllegalTransition(f"{event} in state {transaction.state}")
    return dataclasses.replace(transaction, state=state, version=transaction.version + 1, **changes)
