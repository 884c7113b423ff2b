"""What every step of the pipeline uses: the node's credential, store, clock and event sink."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ra_gateway.clocks import always_steady
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.header_checks import NONCE_OCTETS
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import CMPError, StoreUnavailable
from ra_gateway.events import EventSink, MessageForwarded, UpstreamFailed
from ra_gateway.ra.begun import Begun
from ra_gateway.ra.confirmation_records import (
    ConfirmationNote,
    ConfirmationRecord,
    ConfirmationStatus,
    certificate_key,
    transaction_digest,
)
from ra_gateway.ra.endpoints import Endpoint
from ra_gateway.ra.mac_keys import Derivations
from ra_gateway.ra.ports import (
    Approvals,
    AuditTrail,
    Clock,
    ConfirmationRecords,
    DeviceRecords,
    Inventory,
    Schedule,
    TransactionStore,
)
from ra_gateway.ra.rates import Limits, Unlimited
from ra_gateway.ra.signer_status import NOBODY_ASKED, SignerStatus
from ra_gateway.ra.transaction import Transaction


class MappedIDs(NamedTuple):
    """transactionID and senderNonce that a CA sees in place of the device's."""

    transaction_id: bytes
    sender_nonce: bytes


@dataclass(slots=True)
class Services:
    """One gateway process, as its steps see it.

    Args:
        endpoints: By name.
        credential: The RA's, called for each signature so that it can be renewed while running.
        other_credentials: Those of before, while transactions begun with them may live, and one that other gateways
            may begin with already: a transaction keeps the credential that it was begun with (R80).
        store: Where transactions are kept.
        schedule: Where it is kept which certificates await confirmation; None keeps nothing.
        approvals: Where it is kept which requests wait for an operator; None holds none.
        confirmation_records: Where it is kept what became of certificates; None revokes none that was not confirmed.
        device_records: Where it is kept what devices are forgiven; None forgets it.
        inventory: None if no vendor uses it.
        clock: Aware UTC.
        monotonic: Seconds, for durations.
        random_octets: Draws as many random octets as it is asked for.
        sink: Takes what happens (`ra_gateway.events`).
        signer_status: Tells whether a signer was revoked.
        lifetime: How long the answer to a repeat is kept.
        act_lifetime: How long a certificate that nobody confirmed is tried to be revoked.
        steady: Whether the clock can be believed for what cannot be undone (`ra_gateway.clocks`).
        derivations: Verify MACs, a few at a time.
        begun: Remembers which transactions were begun here.
        limits: How many new requests are taken; by default as many as come.
        draining: Set when the process is to end.
        audit: The audit trail; None where nothing is recorded.
    """

    endpoints: Mapping[str, Endpoint]
    credential: Callable[[], Credential]
    store: TransactionStore
    clock: Clock
    monotonic: Callable[[], float]
    random_octets: Callable[[int], bytes]
    sink: EventSink
    other_credentials: Callable[[], Sequence[Credential]] = tuple
    schedule: Schedule | None = None
    approvals: Approvals | None = None
    confirmation_records: ConfirmationRecords | None = None
    device_records: DeviceRecords | None = None
    inventory: Inventory | None = None
    signer_status: SignerStatus = NOBODY_ASKED
    lifetime: timedelta = timedelta(hours=1)
    act_lifetime: timedelta = timedelta(days=7)
    steady: Callable[[], bool] = always_steady
    derivations: Derivations = field(default_factory=Derivations)
    begun: Begun = field(default_factory=Begun)
    limits: Limits = field(default_factory=lambda: Limits(Unlimited(), lambda: 0.0))
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    audit: AuditTrail | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def note_confirmation(
        self,
        transaction: Transaction,
        certificate_der: bytes,
        status: ConfirmationStatus,
        until: datetime,
    ) -> ConfirmationRecord:
        """Note what a transaction says of its certificate, and return what all that brought it have said.

        Args:
            until: Until when the device may confirm.

        Raises:
            StoreUnavailable: It cannot be noted.
        """
        if self.confirmation_records is None:
            raise StoreUnavailable("nothing keeps what became of certificates", rule="R111")
        certificate = load_certificate(certificate_der)
        # As long as the CA may give it to somebody once more; and as long as it may be withdrawn.
        keep_until = max(certificate.not_after, until + self.act_lifetime)
        note = ConfirmationNote(transaction_digest(transaction), status, until)
        return await self.confirmation_records.note_confirmation(
            certificate_key(certificate), note, keep_until
        )

    def credential_of(self, transaction: Transaction) -> Credential:
        """Return what signs for a transaction, the current credential if that is gone (R80)."""
        current = self.credential()
        for item in (current, *self.other_credentials()):
            if item.certificate.digest == transaction.credential_digest:
                return item
        return current

    def upstream_failed(self, transaction: Transaction, error: CMPError) -> None:
        """Tell that the CA gave a message of a transaction no answer that can be used."""
        name, transaction_id = transaction.upstream, transaction.key.transaction_id.hex()
        self.sink(UpstreamFailed(name, transaction_id, error.fail_info, error.rule, error.detail))

    async def about_to_forward(
        self, transaction: Transaction, body_type: BodyType, der: bytes
    ) -> None:
        """Have it recorded that a message of a transaction goes to its CA, before it does.

        Args:
            body_type, der: Of the message for the CA.

        Raises:
            StoreUnavailable: It cannot be recorded, and must be: nothing may go there.
        """
        if self.audit is None:
            return
        self.sink(
            MessageForwarded(
                transaction.key.transaction_id.hex(),
                transaction.upstream,
                body_type.name,
                transaction.key.domain,
                transaction.signer_der,
                hashlib.sha256(der).hexdigest(),
            )
        )
        await self.audit.durable()

    def fresh_ids(self, transaction_id: bytes = b"") -> MappedIDs:
        """Return IDs of the RA's own making, for a CA that is not to see the device's.

        Args:
            transaction_id: Of the transaction, once it has one.
        """
        random = self.random_octets(2 * NONCE_OCTETS)
        return MappedIDs(transaction_id or random[:NONCE_OCTETS], random[NONCE_OCTETS:])

    def mapped_ids(self, transaction: Transaction) -> MappedIDs | None:
        """Return IDs for the next message of a transaction whose CA does not see the device's, else None."""
        known = transaction.ca_transaction_id
        return self.fresh_ids(known) if known else None

    @property
    def background_count(self) -> int:
        """How many exchanges go on with nobody waiting for them."""
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, bytes]) -> asyncio.Task[bytes]:
        """Start work that goes on when whoever awaits it does not."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever has waited for it, and whose connection is gone, will not look

    async def drain(self, seconds: float) -> None:
        """Wait for exchanges that go on in the background; what is not done by then, another node takes over."""
        self.draining.set()
        ends = self.monotonic() + seconds
        while self._tasks:  # what ends may leave something to be stored later
            left = max(ends - self.monotonic(), 0.0)
            _, late = await asyncio.wait(set(self._tasks), timeout=left)
            if left == 0.0:
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)

    async def pause(self, seconds: float) -> None:
        """Wait, or until the process is to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.draining.wait()
