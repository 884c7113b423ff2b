"""The transaction: what is remembered of one CMP operation, and the one table by which it changes.

Two rules. A transaction's state changes only through `advance`, which `machine` alone calls; and what is
irreversible (a message to the CA) happens only after a store has accepted the state that announces it.

    HELD --approved--> REQUESTED                an operator decides; the device polls meanwhile
      |--denied--> REFUSED
      `--polled

    REQUESTED --issued--> ISSUED --confirm--> CONFIRMING --accepted--> CONFIRMED
        |                   |----rejected--------|-----rejected--> REJECTED --withdraw--> WITHDRAWING
        |---granted--> GRANTED                   |---failed--> FAILED ------withdraw-----------^
        |---revoked--> REVOKED                   `--released/taken_over/deferred/polled        |
        |---informed--> INFORMED                                                               |
        |---refused--> REFUSED       ISSUED --withdraw-----------------------------------------'
        |---failed--> FAILED
        `--released/taken_over/deferred/polled  WITHDRAWING --withdrawn--> WITHDRAWN
                                                  |---failed--> FAILED
                                                  `--released/taken_over

What ends while the device is polling is *delivered* by later pollReqs, which change no state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from itertools import count, takewhile
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ra_gateway.cmp.codes import BodyType, Possession
from ra_gateway.errors import TooManyTransactions
from ra_gateway.values import Value, replace

SCHEMA: Final = 5
_SCHEMA_BEFORE: Final = 4


class State(StrEnum):
    """State of an operation; `TRANSITIONS` has every change that is permitted."""

    HELD = "held"  # an operator has to approve the request before it goes to the CA
    REQUESTED = "requested"  # intent stored; the CA's answer is outstanding
    # the CA has issued; certConf is outstanding (`opening.delivered`, where the device had to wait)
    ISSUED = "issued"
    CONFIRMING = "confirming"  # certConf accepted; the CA's pkiConf is outstanding
    CONFIRMED = "confirmed"
    REJECTED = "rejected"  # the device refused its certificate
    GRANTED = "granted"  # implicitConfirm was granted: nothing more will come
    REVOKED = "revoked"  # rr: the CA has revoked the certificate
    INFORMED = "informed"  # genm: the CA has answered
    REFUSED = "refused"  # the CA, or the operator, said no
    FAILED = "failed"  # no usable answer, or an error; asking again could issue twice
    WITHDRAWING = "withdrawing"  # nobody confirmed the certificate: the CA is to revoke it
    WITHDRAWN = "withdrawn"  # and has done so


class Event(StrEnum):
    """What can happen to an operation."""

    approved = "approved"
    denied = "denied"
    issued = "issued"
    granted = "granted"
    revoked = "revoked"
    informed = "informed"
    refused = "refused"
    failed = "failed"
    confirm = "confirm"
    accepted = "accepted"
    rejected = "rejected"
    deferred = "deferred"  # the device was told to wait and poll
    polled = "polled"  # it did, too early
    delivered = "delivered"  # it did, and got the answer
    released = "released"  # the CA was not reached: the next repeat may try at once
    taken_over = "taken_over"  # the node that held the lease is gone: another one takes over
    withdraw = "withdraw"  # the certificate is to be revoked
    withdrawn = "withdrawn"


OUTSTANDING: Final = (State.REQUESTED, State.CONFIRMING)
"""The CA's answer is."""

_ANSWERED: Final = tuple(state for state in State if state not in (State.HELD, *OUTSTANDING))
"""There is an answer for a device that was told to wait."""

GIVEN_UP: Final = (State.WITHDRAWING, State.WITHDRAWN)
"""Nobody confirmed the certificate, and it is too late for that."""

_FINISHED: Final = (
    State.CONFIRMED,
    State.GRANTED,
    State.REVOKED,
    State.INFORMED,
    State.REFUSED,
    State.WITHDRAWN,
)
"""Nothing is open; what failed or was rejected may be withdrawn yet."""

TRANSITIONS: Final = MappingProxyType(
    {
        (State.HELD, Event.approved): State.REQUESTED,
        (State.HELD, Event.denied): State.REFUSED,
        (State.HELD, Event.polled): State.HELD,
        (State.REQUESTED, Event.issued): State.ISSUED,
        (State.REQUESTED, Event.granted): State.GRANTED,
        (State.REQUESTED, Event.revoked): State.REVOKED,
        (State.REQUESTED, Event.informed): State.INFORMED,
        (State.REQUESTED, Event.refused): State.REFUSED,
        (State.REQUESTED, Event.failed): State.FAILED,
        (State.ISSUED, Event.confirm): State.CONFIRMING,
        (State.ISSUED, Event.rejected): State.REJECTED,
        (State.ISSUED, Event.withdraw): State.WITHDRAWING,
        (State.CONFIRMING, Event.accepted): State.CONFIRMED,
        (State.CONFIRMING, Event.rejected): State.REJECTED,
        (State.CONFIRMING, Event.failed): State.FAILED,
        (State.REJECTED, Event.withdraw): State.WITHDRAWING,
        (State.FAILED, Event.withdraw): State.WITHDRAWING,
        (State.WITHDRAWING, Event.withdrawn): State.WITHDRAWN,
        (State.WITHDRAWING, Event.failed): State.FAILED,
        **{
            (state, event): state
            for state in (*OUTSTANDING, State.WITHDRAWING)
            for event in (Event.released, Event.taken_over)
        },
        **{
            (state, event): state
            for state in OUTSTANDING
            for event in (Event.deferred, Event.polled)
        },
        **{(state, Event.delivered): state for state in _ANSWERED},
    }
)


class IllegalTransition(Exception):
    """A programming error: the pipeline asked for a move the table does not have."""


RELAYED_DOMAIN: Final = "ra:"
"""Begins the name of a trust domain of registered RAs; the colon keeps it apart from vendors' names."""


def too_many(limit: int) -> TooManyTransactions:
    """Return the refusal of one more transaction of a signer."""
    return TooManyTransactions(
        f"{limit} transactions of this signer live already (store.max_transactions_per_signer); one device "
        "that begins anew so often is broken or hostile",
        rule="R12",
    )


class TransactionKey(Value, frozen=True):
    """Identifies one operation of one device.

    Args:
        domain: Name of the trust domain that authenticated the signer.
        signer_digest: SHA-256 of the signer's TBSCertificate, or of the shared secret's reference, 32 octets.
        transaction_id: As received, any length.
    """

    domain: str
    signer_digest: bytes
    transaction_id: bytes

    @property
    def signer(self) -> tuple[str, bytes]:
        """Who opened the operation."""
        return self.domain, self.signer_digest

    @property
    def speaks_for_many(self) -> bool:
        """Whether a registered RA opened it, which has the transactions of all of its devices."""
        return self.domain.startswith(RELAYED_DOMAIN)

    @property
    def requester(self) -> tuple[str, bytes, bytes]:
        """Who has one place on the list of what waits for an operator: a signer; of an RA, each transaction."""
        return *self.signer, self.transaction_id if self.speaks_for_many else b""


class PlannedResponse(Value, frozen=True):
    """What the device is to be told: the parts of a message that is yet to be addressed, dated and signed.

    Args:
        body_der: The body.
        sender_nonce: The CA's senderNonce, which the device's next message returns; empty where the RA draws one.
        implicit_confirm: Whether implicitConfirm is granted.
        confirm_wait_der: confirmWaitTime as the CA said it (GeneralizedTime); empty where it did not.
        chain: extraCerts after the RA's own (DER): the issuing CAs up to and including the operator's root.
    """

    body_der: bytes
    sender_nonce: bytes = b""
    implicit_confirm: bool = False
    confirm_wait_der: bytes = b""
    chain: tuple[bytes, ...] = ()


class Exchange(Value, frozen=True):
    """A message of the device, what the CA is sent for it, and its answer.

    Args:
        request_digest: `PKIMessage.digest` of what was received: a retransmission has the same.
        upstream_der: The message for the CA, signed before it is first sent, so that a retry by any
            node sends the same bytes; empty when nothing goes upstream, no more, or not yet (a request that is held).
        upstream_nonce: Its senderNonce, which the CA's answer has to return.
        response_der: The answer the device was given, once there is one.
        waiting: Whether that answer told the device to wait and poll.
        delivered: Whether a device that was told to wait was given its final answer, to a pollReq or to its message
            sent again; what is lost is given to the other.
        planned: The final answer, yet to be signed, of a device that was told to wait; None until the CA has answered,
            and once it cannot be asked for any more.
        ca_nonce: senderNonce of the CA's last answer where the CA itself said to wait; empty where it did not.
        recip_nonce: Of pollReqs, the last one that returned the senderNonce of the last answer: which nonce that was.
    """

    request_digest: bytes
    upstream_der: bytes
    response_der: bytes | None = None
    waiting: bool = False
    delivered: bool = False
    planned: PlannedResponse | None = None
    ca_nonce: bytes = b""
    upstream_nonce: bytes = b""
    recip_nonce: bytes = b""


class Transaction(Value, frozen=True):
    """Everything any node needs to continue an operation (immutable; see `advance`).

    Args:
        version: Counts stored changes; a store replaces only the directly preceding version.
        body_type: The request that opened the operation (ir, cr, kur, p10cr, rr or genm).
        endpoint: Name of the endpoint that took the opening request.
        upstream: Name of the upstream the opening request was routed to.
        variant: How the opening request went up: "reprotect", "nested" or "forward"; followers go the same way.
        signer_der: The certificate that protected the opening request, or the reference of the shared secret that did
            (OCTET STRING).
        sender_nonce: The device's senderNonce in the opening request.
        subject_der: Subject that was asked for, or whose certificate was to be revoked (encoded Name).
        cert_req_id: As in the opening request, of a p10cr as its endpoint says (-1 or 0); certConf names it.
        public_key_der: The key to be certified (SubjectPublicKeyInfo); empty where there is none.
        san: subjectAltName entries the certificate must have; None for no demand.
        target_der: The certificate an rr is about (CertId); empty for other requests.
        info_type: What a genm asks for (dotted OID), "" for other requests.
        implicit_asked: Whether the device asked for implicitConfirm.
        opening: The request that opened the operation.
        confirmation: The certConf, from the moment it was accepted.
        response_nonce: senderNonce of the answer to the opening request; certConf must return it.
        certificate_der: The certificate as relayed.
        confirm_status: True if the accepted certConf takes the certificate, False if it rejects it.
        confirm_locally: Whether the CA awaits no certConf (it granted implicitConfirm), so that the RA answers it.
        confirm_until: Until then certConf is awaited, as the device was told; None where it was told no time.
        may_retry: Whether it is certain that asking the CA again issues nothing twice.
        polling: The last pollReq and its answer.
        polling_nonce: senderNonce of the last message that told the device to wait; pollReq must return it.
        withdrawal: The rr by which a certificate that nobody confirmed is revoked.
        decided_by: Who approved or denied a request that was held, "" where none was.
        unsent: Whether the request was held and the message for the CA is yet to be made.
        request_der: The opening request itself, as long as it is held: judged again when it leaves.
        profile: Name out of the path that it was sent to.
        ca_transaction_id: transactionID that the CA sees, where it is not the device's.
        ca_cert_req_id: certReqId of the CA's answer, which pollReq and certConf have towards the CA.
        credential_digest: Digest of the RA's certificate that signs for it, towards the CA and the device.
        asked_as: Name of the type that the CA was asked by, where it is not the device's ("cr" for an ir); else "".
        relay_digest: Digest of the certificate of the RA that nested the request, empty where none did.
        possession: How the request shows that its device has the private key (`cmp.codes.Possession`).
        quirks_of: Name of the domain whose quirks hold for its device, "" for none but its own domain's.
        failure: Name of the failInfo that a device which was told to wait is to be told, "" for none.
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
    public_key_der: bytes = b""
    san: tuple[str, ...] | None = None
    target_der: bytes = b""
    info_type: str = ""
    implicit_asked: bool = False
    confirm_until: datetime | None = None
    polling: Exchange | None = None
    polling_nonce: bytes = b""
    withdrawal: Exchange | None = None
    decided_by: str = ""
    unsent: bool = False
    request_der: bytes = b""
    profile: str = ""
    failure: str = ""
    ca_transaction_id: bytes = b""
    ca_cert_req_id: int = 0
    credential_digest: bytes = b""
    asked_as: str = ""
    relay_digest: bytes = b""
    possession: str = Possession.proved.value
    quirks_of: str = ""

    @property
    def current(self) -> Exchange:
        """The request that the CA is asked, or was asked last: certConf, once there is one."""
        return self.opening if self.confirmation is None else self.confirmation

    @property
    def is_finished(self) -> bool:
        """Whether nobody needs it but for a message that is sent again: the device was given its answer."""
        current = self.current
        return self.state in _FINISHED and (not current.waiting or current.delivered)

    @property
    def asked_type(self) -> BodyType:
        """The type of request that the CA was sent."""
        return BodyType[self.asked_as] if self.asked_as else self.body_type

    def exchange_for(self, request_digest: bytes) -> Exchange | None:
        """Return the exchange whose request had exactly these bytes, or None if they are new."""
        for exchange in (self.opening, self.confirmation, self.polling):
            if exchange is not None and exchange.request_digest == request_digest:
                return exchange
        return None

    @property
    def signer_fingerprint(self) -> bytes:
        """What logs know the signer by: SHA-256 of its certificate as it arrived, or of the secret's reference."""
        is_certificate = self.signer_der[:1] == b"\x30"
        return (
            hashlib.sha256(self.signer_der).digest() if is_certificate else self.key.signer_digest
        )

    def to_fields(self) -> dict[str, bytes]:
        """Return the transaction as flat named byte strings, for a store to keep."""
        plain: dict[str, Any] = {
            "schema": SCHEMA,
            "domain": self.key.domain,
            "state": self.state,
            **({"asked_as": self.asked_as} if self.asked_as else {}),
            "body_type": self.body_type.name,
            **dict(zip(_PLAIN_FIELDS, _plain_values(self), strict=True)),
            "lease_until": self.lease_until.isoformat(),
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at.isoformat(),
            "san": self.san,
            "confirm_until": None if self.confirm_until is None else self.confirm_until.isoformat(),
        }
        fields = {
            "version": str(self.version).encode(),
            "plain": _json(plain),
            "signer_digest": self.key.signer_digest,
            "transaction_id": self.key.transaction_id,
            **dict(zip(_BYTE_FIELDS, _byte_values(self), strict=True)),
            **({"relay_digest": self.relay_digest} if self.relay_digest else {}),
        }
        for name in _EXCHANGES:
            exchange: Exchange | None = getattr(self, name)
            if exchange is not None:
                for part, octets in _exchange_fields(exchange):
                    fields[f"{name}.{part}"] = octets
        return fields

    @classmethod
    def from_fields(cls, fields: dict[str, bytes]) -> Transaction:
        """Rebuild a transaction from `to_fields`.

        Raises:
            ValueError: The fields are not of a schema this version reads.
        """
        try:
            plain = json.loads(fields["plain"])
            if plain["schema"] == _SCHEMA_BEFORE:
                from ra_gateway.ra import schema4  # reads messages, which nothing else here does

                granted = plain["state"] == State.GRANTED
                fields = schema4.read(fields, plain["cert_req_id"], granted=granted)
            elif plain["schema"] != SCHEMA:
                raise ValueError(f"transaction schema {plain['schema']}, expected {SCHEMA}")
            kept: dict[str, Any] = {name: fields[name] for name in _BYTE_FIELDS}
            plain.setdefault("quirks_of", "")  # of a record made before there was such a field
            # What was stored before there was this field came through no RA that is known.
            kept["relay_digest"] = fields.get("relay_digest", b"")
            kept.update((name, plain[name]) for name in _PLAIN_FIELDS)
            kept["asked_as"] = plain.get("asked_as", "")
            kept.update((name, _exchange(fields, name)) for name in _EXCHANGES)
            if kept["opening"] is None:
                raise ValueError("transaction without an opening exchange")
            san, confirm_until = plain["san"], plain["confirm_until"]
            return cls(
                key=TransactionKey(
                    plain["domain"], fields["signer_digest"], fields["transaction_id"]
                ),
                state=State(plain["state"]),
                version=int(fields["version"]),
                body_type=BodyType[plain["body_type"]],
                lease_until=datetime.fromisoformat(plain["lease_until"]),
                created_at=datetime.fromisoformat(plain["created_at"]),
                expires_at=datetime.fromisoformat(plain["expires_at"]),
                san=None if san is None else tuple(san),
                confirm_until=confirm_until and datetime.fromisoformat(confirm_until),
                **kept,
            )
        except KeyError as error:
            raise ValueError(f"transaction without field {error}") from error


def _json(plain: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(plain)
    except (
        UnicodeEncodeError
    ):  # half a character, as in an argument of a command: `json` has words for it
        return json.dumps(plain).encode()


_BYTE_FIELDS: Final = (
    "signer_der",
    "sender_nonce",
    "subject_der",
    "response_nonce",
    "certificate_der",
    "public_key_der",
    "target_der",
    "polling_nonce",
    "ca_transaction_id",
    "request_der",
    "credential_digest",
)

_PLAIN_FIELDS: Final = (
    "endpoint",
    "upstream",
    "variant",
    "cert_req_id",
    "confirm_status",
    "confirm_locally",
    "may_retry",
    "info_type",
    "implicit_asked",
    "decided_by",
    "unsent",
    "profile",
    "failure",
    "ca_cert_req_id",
    "possession",
    "quirks_of",
)

_byte_values, _plain_values = attrgetter(*_BYTE_FIELDS), attrgetter(*_PLAIN_FIELDS)

_EXCHANGES: Final = ("opening", "confirmation", "polling", "withdrawal")


def _exchange_fields(exchange: Exchange) -> Iterator[tuple[str, bytes]]:
    yield "request_digest", exchange.request_digest
    yield "upstream_der", exchange.upstream_der
    if exchange.upstream_nonce:
        yield "upstream_nonce", exchange.upstream_nonce
    if exchange.response_der is not None:
        yield "response_der", exchange.response_der
    if exchange.waiting:
        yield "waiting", b"1"
    if exchange.delivered:
        yield "delivered", b"1"
    if exchange.ca_nonce:
        yield "ca_nonce", exchange.ca_nonce
    if exchange.recip_nonce:
        yield "recip_nonce", exchange.recip_nonce
    planned = exchange.planned
    if planned is not None:
        yield "planned.body_der", planned.body_der
        yield "planned.sender_nonce", planned.sender_nonce
        yield "planned.confirm_wait_der", planned.confirm_wait_der
        if planned.implicit_confirm:
            yield "planned.implicit_confirm", b"1"
        for place, certificate_der in enumerate(planned.chain):
            yield f"planned.chain.{place}", certificate_der


def _exchange(fields: dict[str, bytes], prefix: str) -> Exchange | None:
    digest = fields.get(f"{prefix}.request_digest")
    if digest is None:
        return None
    planned, body_der = None, fields.get(f"{prefix}.planned.body_der")
    if body_der is not None:
        planned = PlannedResponse(
            body_der,
            fields[f"{prefix}.planned.sender_nonce"],
            f"{prefix}.planned.implicit_confirm" in fields,
            fields[f"{prefix}.planned.confirm_wait_der"],
            _numbered(fields, f"{prefix}.planned.chain"),
        )
    return Exchange(
        digest,
        fields[f"{prefix}.upstream_der"],
        fields.get(f"{prefix}.response_der"),
        waiting=f"{prefix}.waiting" in fields,
        delivered=f"{prefix}.delivered" in fields,
        planned=planned,
        ca_nonce=fields.get(f"{prefix}.ca_nonce", b""),
        upstream_nonce=fields.get(f"{prefix}.upstream_nonce", b""),
        recip_nonce=fields.get(f"{prefix}.recip_nonce", b""),
    )


def _numbered(fields: dict[str, bytes], prefix: str) -> tuple[bytes, ...]:
    values = (fields.get(f"{prefix}.{place}") for place in count())
    return tuple(takewhile(bool, values))  # type: ignore[arg-type]


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
    return replace(transaction, state=state, version=transaction.version + 1, **changes)
