"""What the RA needs from the outside: small Protocols that the adapters implement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:  # adapters, and commands that use one, need not load what reads messages
    from ra_gateway.cmp.certificates import Certificate
    from ra_gateway.cmp.mac import MACCredential, SharedSecret
    from ra_gateway.cmp.messages import PKIMessage
    from ra_gateway.cmp.trust import Path
    from ra_gateway.ra.confirmation_records import ConfirmationNote, ConfirmationRecord
    from ra_gateway.ra.transaction import Transaction, TransactionKey


class TransactionStore(Protocol):
    """Keeps transactions where every node can see them; each method is atomic.

    Every method raises `StoreUnavailable` when the store cannot be asked.
    """

    async def create(
        self,
        transaction: Transaction,
        *,
        repeatable: bool = False,
        look_at: datetime | None = None,
    ) -> Transaction | None:
        """Store a new transaction (version 0) unless its key is live.

        Args:
            repeatable: Whether asking the CA for the same once more issues nothing twice: then one that is gone before
                its time may begin anew.
            look_at: Have it looked at from then on (aware UTC, `Schedule`); it is never stored without that.

        Returns:
            None when it was created; otherwise the live transaction under that key, unchanged.

        Raises:
            TransactionInUse: What was stored under the key is lost, and may have been asked of the CA.
            TooManyTransactions: As many of its signer's live as the store keeps (an RA's are not counted).
        """

    async def load(self, key: TransactionKey) -> Transaction | None:
        """Return the live transaction under a key, or None."""

    async def find(self, transaction_id: bytes) -> list[Transaction]:
        """Return live transactions with this transactionID, whoever signed them (at most 8).

        For followers that carry no certificate (RFC 9483 3.3): the caller tries each signer's key.
        """

    def awaited(self, transaction_id: bytes) -> Transaction | None:
        """Return, once, a transaction as this node stored it last, whose device is to confirm next; None for none.

        Nobody is asked: another node may have changed it since, as whoever replaces it learns.
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
        """Check that the store can be written to now."""

    async def close(self) -> None:
        """Release connections."""


class Schedule(Protocol):
    """Remembers until when certificates have to be confirmed, over restarts, for all nodes.

    Every method raises `StoreUnavailable` when it cannot be asked.
    """

    async def add(self, key: TransactionKey, due_at: datetime) -> None:
        """Have a transaction looked at from a time (aware UTC) on; a later call changes the time."""

    async def due(self, now: datetime, *, limit: int) -> list[TransactionKey]:
        """Return the transactions whose time has come, the longest due first, at most `limit`."""

    async def remove(self, key: TransactionKey) -> None:
        """Forget a transaction, if it is planned."""


class Backlog(NamedTuple):
    """How much waits in a store.

    Args:
        held: Requests that wait for an operator.
        scheduled: Transactions of the schedule.
        overdue: Those of them whose time has come.
    """

    held: int
    scheduled: int
    overdue: int


class Approvals(Protocol):
    """Remembers which requests wait for an operator: one for each requester, the newest, and not too many.

    An RA asks for many devices: each of its requests is listed.

    Every method raises `StoreUnavailable` when it cannot be asked, or is full.
    """

    async def hold(self, key: TransactionKey, until: datetime) -> None:
        """List a request until a time (aware UTC), in the place of an earlier one by the same requester."""

    async def held(self) -> list[TransactionKey]:
        """Return the requests that are listed."""

    async def unhold(self, key: TransactionKey) -> None:
        """Take a request off the list, unless another one took its place."""


class ConfirmationRecords(Protocol):
    """Remembers what became of certificates, whichever transactions brought them.

    Every method raises `StoreUnavailable` when it cannot tell.
    """

    async def note_confirmation(
        self, certificate: bytes, note: ConfirmationNote, keep_until: datetime
    ) -> ConfirmationRecord:
        """Note atomically what a transaction says of a certificate, and return what is known of it then.

        Args:
            certificate: As of `certificate_key`.
            note: What the transaction says (`ConfirmationRecord.after`).
            keep_until: It is remembered until then, at least.
        """


class DeviceRecord(StrEnum):
    """What is remembered of a device as long as its credential lives."""

    quirks = "quirks"  # by which domain it came, by `certificate_key` of its certificate
    requests = "requests"  # which requests of a device without a clock were taken, by its credential's digest


class DeviceRecords(Protocol):
    """Remembers short texts of devices.

    Every method raises `StoreUnavailable` when it cannot be asked.
    """

    async def remember(
        self, what: DeviceRecord, key: bytes, text: str, keep_until: datetime
    ) -> None:
        """Remember a text, in the place of the one before.

        Args:
            key: 32 octets.
            text: At most 5,000 octets.
        """

    async def remember_entry(
        self, what: DeviceRecord, key: bytes, entry: str, *, limit: int, keep_until: datetime
    ) -> None:
        """Add an entry to those that are remembered, unless it is among them; atomic, whoever else adds one.

        Args:
            key: 32 octets.
            entry: At most 64 octets, no blanks.
            limit: Most entries that are kept, at most 64: the last ones.
        """

    async def remembered(self, what: DeviceRecord, key: bytes) -> str:
        """Return the text that is remembered, or the entries with blanks between them; "" for none.

        Requests that cannot be read are not none: `StoreUnavailable`.
        """


class AuditTrail(Protocol):
    """What is told goes into it (`ra_gateway.events`), and who acts may have to wait until it is there."""

    async def durable(self) -> None:
        """Return when all that was told is durable, or at once where nobody is to wait for that.

        Raises:
            StoreUnavailable: It is not, and what was to follow must not.
        """


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


@runtime_checkable
class Looked(Protocol):
    """What of CAs and signers can tell whether it would be of use to ask them; the others always would."""

    async def look(self) -> None:
        """Check that messages can be sent there now.

        Raises:
            ServiceFailure: They cannot; it says why.
        """


async def look(core: object) -> None:
    """Check that a CA can be sent messages now, as far as it can be told.

    Raises:
        ServiceFailure: It cannot.
    """
    if isinstance(core, Looked):
        await core.look()


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


class Claim(StrEnum):
    """What became of the wish to use up a shared secret."""

    taken = "taken"  # now
    held = "held"  # by the same holder, before
    refused = "refused"  # another holder has it


class SharedSecrets(Protocol):
    """The secrets of one endpoint; knows who guesses, and which are used up.

    Every method raises `StoreUnavailable` when it cannot tell.
    """

    async def find(self, reference: bytes, peer: str) -> SharedSecret | None:
        """Return the secret behind a senderKID, or None if there is none, or its peer has to wait.

        Args:
            peer: IP address that the message came from.
        """

    async def failed(self, reference: bytes, peer: str) -> None:
        """Count a wrong MAC; after too many within a time, this peer, and no other, is slowed down."""

    async def claim(self, reference: bytes, holder: str) -> Claim:
        """Use up a secret, atomically and for good, before a certificate is asked for.

        Args:
            holder: Identifies the transaction.
        """

    async def release(self, reference: bytes, holder: str) -> None:
        """Give back what a holder claimed: it is certain that nothing was issued."""


class CASecret(Protocol):
    """The secret that the RA shares with one CA."""

    @property
    def credential(self) -> MACCredential:
        """What protects messages to it now."""

    async def of_answer(self, message: PKIMessage) -> tuple[MACCredential, ...]:
        """Return what an answer may be protected with: the secret, and those it replaced, under its own parameters.

        Raises:
            AlgorithmRefused, MalformedMessage: Its MAC is too dear, too weak or unknown.
        """


class RevocationStatus(Protocol):
    """Knows which certificates of trust domains were revoked, or asks; asked only once a message is authenticated."""

    async def check(self, domain: str, path: Path, now: datetime) -> tuple[str, ...]:
        """Refuse a path with a certificate that was revoked; waits some seconds at most.

        Args:
            domain: Name of the trust domain.
            path: Validated, from the signer to the anchor, which is not asked about. A signer alone, of a
                message that continues an operation, is refused only if it is known to be revoked.
            now: Aware UTC.

        Returns:
            Notes for the operator: what could not be told, where the domain lets that pass.

        Raises:
            SignerNotTrusted: One was revoked (R23).
            StatusUnavailable: Nobody can tell of one, and the domain insists.
        """


class IssuedCertificates(Protocol):
    """A CA's memory of what it issued, asked in place of its next CRL."""

    async def revoked_at(
        self, certificate: Certificate, now: datetime, *, listed: bool = False
    ) -> datetime | None:
        """Return since when a certificate is revoked; None if it is not, or another CA issued it.

        Args:
            listed: Whether the operator has named this very certificate, which may then be one that this CA has no
                record of: its own signers were made before there was a ledger, or it was imported.

        Raises:
            SignerNotTrusted: It says that this CA issued it, and this CA did not.
            StoreUnavailable: It cannot be asked.
        """

    async def confirmed(self, certificate: Certificate, now: datetime) -> bool:
        """Tell whether this CA issued a certificate and was told that its device takes it.

        Raises:
            StoreUnavailable: It cannot be asked.
        """


class CertificateRecords(Protocol):
    """A CA's memory of what it issued, asked whose a serial number is."""

    async def certificate(
        self, issuer_der: bytes, serial_number: int, now: datetime
    ) -> Certificate | None:
        """Return a certificate that this CA issued, None if it did not.

        Raises:
            StoreUnavailable: It cannot be asked.
        """


class Clock(Protocol):
    """Tells the time."""

    def __call__(self) -> datetime:
        """Return the current time, aware, in UTC."""
