"""What became of a certificate, whichever transactions brought it: confirmed, or withdrawn, and never both.

A CA may give one certificate to several requests: to a device that begins anew, or to whoever sends a captured request
again. Each of them is a transaction of its own, and one that nobody confirms says nothing about the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.ra.transaction import Transaction

TRANSACTIONS_LIMIT: Final = 8
"""Transactions remembered with one certificate: those that are awaited longest."""


class ConfirmationStatus(StrEnum):
    """What a transaction says of a certificate, and what is settled; of the two ends, the first one stands."""

    awaited = "awaited"
    unconfirmed = "unconfirmed"  # by this transaction, and for good; nothing is settled by that
    confirmed = "confirmed"
    withdrawn = "withdrawn"


class ConfirmationNote(NamedTuple):
    """What a transaction says of a certificate.

    Args:
        transaction: As of `transaction_digest`.
        until: Until when its device may confirm, aware UTC.
    """

    transaction: str
    status: ConfirmationStatus
    until: datetime


@dataclass(frozen=True, slots=True)
class ConfirmationRecord:
    """What is known of a certificate (immutable).

    Args:
        is_withdrawn: Whether the CA is asked to revoke it.
        confirmed_by: Transactions whose devices took it.
        awaited: Transactions whose devices may yet confirm it, and until when (aware UTC).
    """

    is_withdrawn: bool = False
    confirmed_by: frozenset[str] = frozenset()
    awaited: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def status(self) -> ConfirmationStatus:
        """What is settled."""
        if self.is_withdrawn:
            return ConfirmationStatus.withdrawn
        return ConfirmationStatus.confirmed if self.confirmed_by else ConfirmationStatus.awaited

    def is_awaited(self, now: datetime) -> bool:
        """Tell whether a device may yet confirm it."""
        return any(at > now for at in self.awaited.values())

    def after(
        self, transaction: str, status: ConfirmationStatus, until: datetime, now: datetime
    ) -> ConfirmationRecord:
        """Return what is known once a transaction has said something.

        Args:
            transaction: As of `transaction_digest`.
            status: What it says. "awaited": its device may confirm until then, unless it has. "unconfirmed": it does
                not and did not. "withdrawn" is granted only where nobody confirmed it, and no device is awaited.
        """
        awaited = {who: at for who, at in self.awaited.items() if at > now}
        others = {who: at for who, at in awaited.items() if who != transaction}
        match status:
            case ConfirmationStatus.confirmed:
                confirmed_by = self.confirmed_by
                if not self.is_withdrawn and len(confirmed_by) < TRANSACTIONS_LIMIT:
                    confirmed_by |= {transaction}
                return ConfirmationRecord(self.is_withdrawn, confirmed_by, others)
            case ConfirmationStatus.withdrawn:
                # Its own device as well: a node may be delivering the certificate just now.
                end = self.is_withdrawn or not (self.confirmed_by or awaited)
                return ConfirmationRecord(end, self.confirmed_by, awaited)
            case ConfirmationStatus.unconfirmed:
                return ConfirmationRecord(
                    self.is_withdrawn, self.confirmed_by - {transaction}, others
                )
            case ConfirmationStatus.awaited:
                # A node that was slower than the device does not unsay what that has confirmed.
                if transaction not in self.confirmed_by:
                    others[transaction] = until
                longest = sorted(others, key=lambda who: others[who])[-TRANSACTIONS_LIMIT:]
                return ConfirmationRecord(
                    self.is_withdrawn, self.confirmed_by, {who: others[who] for who in longest}
                )

    def to_bytes(self) -> bytes:
        """Return it for a store to keep."""
        plain = {
            "withdrawn": self.is_withdrawn,
            "confirmed_by": sorted(self.confirmed_by),
            "awaited": {who: at.isoformat() for who, at in self.awaited.items()},
        }
        return json.dumps(plain, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, octets: bytes) -> ConfirmationRecord:
        """Rebuild it from `to_bytes`.

        Raises:
            ValueError: It is not that.
        """
        try:
            plain = json.loads(octets)
            awaited = {who: datetime.fromisoformat(at) for who, at in plain["awaited"].items()}
            return cls(bool(plain["withdrawn"]), frozenset(plain["confirmed_by"]), awaited)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a confirmation record") from error


def certificate_key(certificate: Certificate) -> bytes:
    """Return what a certificate is known by: a digest of its issuer and serial number, 32 octets.

    Raises:
        MalformedMessage: The issuer is not a Name.
    """
    issuer = [sorted(attributes) for attributes in certificate.id.issuer]
    return hashlib.sha256(repr((issuer, certificate.serial_number)).encode()).digest()


def transaction_digest(transaction: Transaction) -> str:
    """Return what a transaction is known by beside a certificate.

    When it began is part of it: what opens its key once more, after a store has lost it, speaks for itself only.
    """
    key = transaction.key
    began = transaction.created_at.isoformat()
    who = repr((key.domain, key.signer_digest, key.transaction_id, began))
    return hashlib.sha256(who.encode()).hexdigest()[:32]
