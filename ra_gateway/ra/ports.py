"""What the RA needs from the outside: small Protocols that the adapters implement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ra_gateway.ra.transaction import Transaction, TransactionKey


class TransactionStore(Protocol):
    """Keeps transactions where every node can see them; each method is atomic.

    Every method raises `StoreUnavailable` when the store cannot be asked.
    """

    async def create(self, transaction: Transaction) -> Transaction | None:
        """Store a new transaction (version 0) unless its key is live.

        Returns:
            None when it was created; otherwise the live transaction under that key, unchanged.
        """

    async def load(self, key: TransactionKey) -> Transaction | None:
        """Return the live transaction under a key, or None."""

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        """Return live transactions with this transactionID, whoever signed them (at most 8).

        For followers that carry no certificate (RFC 9483 3.3): the caller tries each signer's key.
        """

    async def replace(self, transaction: Transaction) -> None:
        """Replace the stored version `transaction.version - 1` by this one.

        Raises:
            StaleTransaction: Another version is stored, or none.
        """

    async def wait(
        self, key: TransactionKey, *, version: int, timeout_seconds: float
    ) -> Transaction | None:
        """Wait until the stored version is no longer `version`, at most `timeout_seconds`.

        Returns:
            The transaction as it is then (unchanged after a timeout), or None if it is gone.
        """

    async def ping(self) -> None:
        """Return if the store can be written to now."""

    async def close(self) -> None:
        """Release connections."""


class CACore(Protocol):
    """A certification authority that speaks CMP: bytes in, bytes out, wherever it runs."""

    async def exchange(self, der: bytes, *, path: str, deadline_seconds: float) -> bytes:
        """Deliver one PKIMessage and return the answer.

        Args:
            der: DER of one PKIMessage.
            path: Name of the CA-side profile or alias, "" for the default.
            deadline_seconds: Total time allowed.

        Raises:
            UpstreamUnavailable: No answer; `delivered` tells whether the CA may have seen the message.
            UpstreamBroken: An answer that is not CMP.
        """

    async def close(self) -> None:
        """Release connections."""


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """What the operator has recorded of one device.

    Args:
        subject: Subject to be certified (RFC 4514 string), or "" to leave it to the domain's rules.
        san: SubjectAltName entries such as "dns:enb1.example.net" or "ip:192.0.2.1"; empty as above.
        enabled: False refuses the device.
    """

    subject: str = ""
    san: tuple[str, ...] = ()
    enabled: bool = True


class Inventory(Protocol):
    """Looks devices up by what their vendor certificate says."""

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        """Return the entry of a device, or None if it is unknown.

        Args:
            domain: Name of the vendor's trust domain.
            identity: The vendor identity, as the domain's `identity_from` setting extracts it.
        """


class Clock(Protocol):
    """Tells the time."""

    def __call__(self) -> datetime:
        """Return the current time, aware, in UTC."""
