"""Certificates that nobody confirmed: reported, or revoked at the CA, durably and once.

A device that rejects its certificate, or never confirms it, leaves a valid certificate at a CA that does not hear
of certConf. When such a certificate is issued, its transaction goes on the agenda; here the agenda is worked
through. Every node does it: who changes the transaction first sends the rr, and it is sent until the CA answers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import OID, BodyType, PKIStatus
from ra_gateway.cmp.messages import (
    CertId,
    CertTemplate,
    Extension,
    PKIHeader,
    PKIMessage,
    RevDetails,
    cert_id_der,
    rev_req_body,
)
from ra_gateway.cmp.names import directory_name
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.verification import NONCE_OCTETS
from ra_gateway.errors import (
    CMPError,
    PKIFailureInfo,
    StaleTransaction,
    StoreUnavailable,
)
from ra_gateway.ra.answers import Expected, check_revocation, decoded
from ra_gateway.ra.asking import lease
from ra_gateway.ra.events import MessageHandled
from ra_gateway.ra.fates import Fate, carrier_of
from ra_gateway.ra.node import Node
from ra_gateway.ra.routes import CertConf, Unconfirmed, Upstream
from ra_gateway.ra.transaction import (
    Event,
    Exchange,
    State,
    Transaction,
    TransactionKey,
    advance,
)

_BATCH: Final = 64
"""Transactions looked at in one go; more are due again at once."""

_AGAIN_AFTER: Final = timedelta(seconds=60)
"""Between the first attempts to have a certificate revoked: a CA that is down is not helped by more."""

_AGAIN_AT_LEAST_AFTER: Final = timedelta(hours=1)
"""Between later ones: one log line an hour for each certificate, while a CA is down for a day."""

_ENDED: Final = frozenset({State.ISSUED, State.REJECTED, State.FAILED})


class Withdrawing:
    """Works through the agenda, on one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def run(self, every_seconds: float) -> None:
        """Work through the agenda again and again, until cancelled."""
        while True:
            with suppress(StoreUnavailable):  # whoever needs the store reports that it is gone
                while await self.work():
                    pass
            await asyncio.sleep(every_seconds)

    async def _safely(self, key: TransactionKey) -> datetime | None:
        """Look at a transaction; whatever is wrong with it must not keep the others from being looked at.

        Raises:
            StoreUnavailable: The store cannot be asked.
        """
        try:
            return await self._look_at(key)
        except StoreUnavailable:
            raise
        except (
            Exception
        ) as error:  # told with its cause, and tried again: the key may not sign, say
            self._node.sink(
                MessageHandled(
                    endpoint="",
                    peer="",
                    body_type="rr",
                    outcome="failed",
                    transaction_id=key.transaction_id.hex(),
                    duration_ms=0.0,
                    domain=key.domain,
                    rule="R111",
                    detail="a certificate that nobody confirmed could not be seen to",
                    bug=error,
                )
            )
            return self._node.clock() + _AGAIN_AFTER

    async def work(self) -> int:
        """Work through what is due; returns how many transactions that were, at most 64, and 0 for fewer.

        Nothing is due by a clock that was set: it would be revoked what devices are yet to confirm.

        Raises:
            StoreUnavailable: The agenda cannot be asked.
        """
        agenda = self._node.agenda
        if agenda is None or not self._node.steady():
            return 0
        due = await agenda.due(self._node.clock(), limit=_BATCH)
        for key in due:
            again_at = await self._safely(key)
            if again_at is None:
                await agenda.drop(key)
            else:
                await agenda.plan(key, again_at)
        return len(due) if len(due) == _BATCH else 0

    async def _look_at(self, key: TransactionKey) -> datetime | None:
        """Do what is to be done with a transaction; returns when to look again, None for never."""
        node = self._node
        now = node.clock()
        transaction = await node.store.load(key)
        if transaction is None:
            return None
        if transaction.state in (State.REQUESTED, State.CONFIRMING):
            return now + _AGAIN_AFTER  # the CA is being asked; what comes of it is not known yet
        withdrawing = transaction.state is State.WITHDRAWING
        if not transaction.certificate_der or not (withdrawing or transaction.state in _ENDED):
            return None
        if transaction.state is State.ISSUED:
            awaited_until = transaction.confirm_until or now
            if now < awaited_until:
                return awaited_until
        upstream = self._upstream_of(transaction)
        if upstream is None:
            what = f"upstream {transaction.upstream} is not configured any more"
            self._tell(transaction, "unconfirmed", f"{_why(transaction)}; {what}")
            return None
        if upstream.unconfirmed is Unconfirmed.leave:
            return None
        if withdrawing:
            if transaction.lease_until > now:
                return transaction.lease_until
            return await self._attempt(transaction, upstream, Event.retaken)
        if upstream.unconfirmed is Unconfirmed.report:
            self._tell(transaction, "unconfirmed", _why(transaction))
            return None
        return await self._attempt(transaction, upstream, Event.withdraw)

    def _upstream_of(self, transaction: Transaction) -> Upstream | None:
        endpoint = self._node.endpoints.get(transaction.endpoint)
        return None if endpoint is None else endpoint.upstreams.get(transaction.upstream)

    async def _attempt(
        self, transaction: Transaction, upstream: Upstream, event: Event
    ) -> datetime | None:
        """Ask the CA to revoke; the intent is stored first, so that another node can go on with it.

        A CA may have given the same certificate to others: what any of them confirmed, or may yet confirm, stays.
        """
        node = self._node
        now = node.clock()
        if transaction.state in (State.REJECTED, State.FAILED):
            # It confirms nothing any more; a certConf that was being taken came too late.
            await node.settle(transaction, transaction.certificate_der, Fate.awaited, now)
        standing = await node.settle(
            transaction,
            transaction.certificate_der,
            Fate.withdrawn,
            transaction.confirm_until or now,
        )
        if standing.fate is Fate.confirmed and carrier_of(transaction) in standing.confirmed_by:
            return now + _AGAIN_AFTER  # its own certConf is being taken
        if standing.fate is Fate.confirmed:
            what = "another transaction confirmed the same certificate: not revoked"
            self._tell(transaction, "unconfirmed", f"{_why(transaction)}; {what}")
            return None
        if standing.fate is Fate.awaited:
            return max(standing.awaited.values())
        certificate = load_certificate(transaction.certificate_der)
        ledger = node.signer_status.issued
        if (
            ledger is not None
            and upstream.certconf is CertConf.forward  # otherwise the CA takes all for confirmed
            and await ledger.confirmed(certificate, now)
        ):
            what = "the CA has it as confirmed: not revoked"
            self._tell(transaction, "unconfirmed", f"{_why(transaction)}; {what}")
            return None
        upstream_der = await self._revocation_request(certificate, upstream, now)
        taken = advance(
            transaction,
            event,
            withdrawal=Exchange(b"", upstream_der),
            lease_until=now + lease(upstream),
        )
        try:
            await node.store.replace(taken)
        except StaleTransaction:
            return now + lease(upstream)  # another node has it
        try:
            answer_der = await upstream.core.exchange(
                upstream_der, path=upstream.path, deadline_seconds=upstream.deadline_seconds
            )
            done = self._judge(taken, upstream_der, answer_der, certificate, upstream)
        except CMPError as error:
            # An rr may be sent again, whatever became of the last one.
            again_at = _again_at(taken, node.clock())
            left = again_at < taken.expires_at
            what = "not revoked yet" if left else "not revoked, and not tried any more"
            self._tell(taken, "failed", f"{_why(taken)}; {what}", error)
            await self._store(taken, Event.released)
            return again_at
        await self._store(taken, done)
        return None

    def _judge(
        self,
        taken: Transaction,
        upstream_der: bytes,
        answer_der: bytes,
        certificate: Certificate,
        upstream: Upstream,
    ) -> Event:
        sent = PKIMessage.from_der(upstream_der).header
        expected = replace(
            Expected.of(replace(taken, confirmation=None), (sent.sender_nonce or b"",)),
            body_type=BodyType.rr,
            transaction_id=sent.transaction_id or b"",
            target_der=_target(certificate),
        )
        info = check_revocation(
            decoded(answer_der, upstream), expected, upstream, self._node.clock()
        )
        if info.status is not PKIStatus.rejection:
            self._tell(taken, "revoked", _why(taken))
            return Event.withdrawn
        if PKIFailureInfo.certRevoked in info.fail_info:
            # By an earlier attempt whose answer was lost, or by somebody else.
            self._tell(taken, "revoked", f"{_why(taken)}; the CA had revoked it already")
            return Event.withdrawn
        self._tell(taken, "failed", f"{_why(taken)}; the CA refuses to revoke it: {info}")
        return Event.failed

    async def _store(self, taken: Transaction, event: Event) -> None:
        changes: dict[str, Any] = {}
        if event is Event.released:
            changes["lease_until"] = self._node.clock()
        elif taken.withdrawal is not None:
            changes["withdrawal"] = replace(taken.withdrawal, upstream_der=b"")
        live: Transaction | None = taken
        # A device that polls changes it, too. Another node that took it over meanwhile will finish it.
        while live is not None and live.withdrawal == taken.withdrawal:
            try:
                await self._node.store.replace(advance(live, event, **changes))
            except StaleTransaction:
                live = await self._node.store.load(taken.key)
            else:
                return

    async def _revocation_request(
        self, certificate: Certificate, upstream: Upstream, now: datetime
    ) -> bytes:
        node = self._node
        random = node.random_octets(2 * NONCE_OCTETS)
        credential = node.credential()
        header = PKIHeader(
            sender_der=credential.sender_der,
            recipient_der=upstream.recipient_der,
            message_time=now,
            transaction_id=random[:NONCE_OCTETS],
            sender_nonce=random[NONCE_OCTETS:],
        )
        details = RevDetails(
            CertTemplate(
                issuer_der=certificate.issuer_der, serial_number=certificate.serial_number
            ),
            (Extension(OID.reasonCode, False, bytes((0x0A, 1, upstream.unconfirmed_reason))),),
        )
        # Shown, so that an RA above that knows our names alone can tell whose it is.
        shown = (certificate.der,) if upstream.rr_certificate else ()
        certificates = (*credential.certificates, *shown)
        return await protect(header, rev_req_body(details), credential, certificates)

    def _tell(
        self,
        transaction: Transaction,
        outcome: str,
        detail: str,
        error: CMPError | None = None,
    ) -> None:
        certificate = load_certificate(transaction.certificate_der)
        if error is not None:
            detail = f"{detail}: {error.detail}"
        self._node.sink(
            MessageHandled(
                endpoint=transaction.endpoint,
                peer="",
                body_type="rr" if outcome != "unconfirmed" else "certConf",
                outcome=outcome,
                transaction_id=transaction.key.transaction_id.hex(),
                duration_ms=0.0,
                domain=transaction.key.domain,
                signer_fingerprint=transaction.signer_fingerprint.hex(),
                subject=certificate.subject,
                serial_number=f"{certificate.serial_number:x}",
                upstream=transaction.upstream,
                fail_info=None if error is None else error.fail_info,
                rule="R111" if outcome != "failed" or error is None else error.rule,
                detail=detail,
            )
        )


def _again_at(transaction: Transaction, now: datetime) -> datetime:
    """Return when to try again: after as long as it was tried already, within bounds."""
    tried = now - (transaction.confirm_until or transaction.created_at)
    return now + min(max(tried, _AGAIN_AFTER), _AGAIN_AT_LEAST_AFTER)


def _target(certificate: Certificate) -> bytes:
    return cert_id_der(CertId(directory_name(certificate.issuer_der), certificate.serial_number))


def _why(transaction: Transaction) -> str:
    if transaction.confirm_until is None and transaction.confirmation is None:
        return "the CA issued a certificate that could not be relayed"
    if transaction.confirmation is not None and not transaction.confirm_status:
        return "the device rejected its certificate"
    return "the device did not confirm its certificate in time"
