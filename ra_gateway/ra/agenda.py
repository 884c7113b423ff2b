"""The schedule is worked through: requests whose answer was lost, and certificates that nobody confirmed.

Every node does it: who changes the transaction first acts. A request that nobody is busy with any more is put to the
CA again where that replays, so that what it has issued is known (`ca_exchange.ask_unheard`). A certificate that is
not confirmed in time is revoked, or reported: who changes the transaction first sends the rr, and it is sent until
the CA answers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertId, cert_id_der
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import directory_name
from ra_gateway.errors import (
    CMPError,
    PKIFailureInfo,
    StoreUnavailable,
    UpstreamBroken,
)
from ra_gateway.events import Component, Outcome, RequestHandled
from ra_gateway.ra import ca_exchange, machine, transactions, unconfirmed
from ra_gateway.ra.confirmation_records import ConfirmationStatus, transaction_digest
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.forwarding import revocation_for_ca
from ra_gateway.ra.response_checks import check_revocation, decoded, expected_of
from ra_gateway.ra.services import Services
from ra_gateway.ra.settings import CertConf, Unconfirmed
from ra_gateway.ra.transaction import State, Transaction, TransactionKey
from ra_gateway.ra.transactions import Overtaken

_BATCH: Final = 64
"""Transactions looked at in one go; more are due again at once."""

_AGAIN_AFTER: Final = timedelta(seconds=60)
"""Between the first attempts to have a certificate revoked: a CA that is down is not helped by more."""

_AGAIN_AT_LEAST_AFTER: Final = timedelta(hours=1)
"""Between later ones: one log line an hour for each certificate, while a CA is down for a day."""

_UNCONFIRMED: Final = frozenset(
    {State.ISSUED, State.CONFIRMING, State.REJECTED, State.FAILED, State.WITHDRAWING}
)
"""States of a transaction whose certificate, if it has one, nobody has confirmed."""


class UnconfirmedCertificates:
    """Works through the schedule, on one node."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def run(self, every_seconds: float) -> None:
        """Work through the schedule again and again, until cancelled."""
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
        except Exception as error:
            # Told with its cause, and tried again: the key may not sign, say.
            self._services.sink(
                RequestHandled(
                    by=Component.gateway,
                    endpoint="",
                    peer="",
                    body_type="rr",
                    outcome=Outcome.failed,
                    transaction_id=key.transaction_id.hex(),
                    duration_ms=0.0,
                    domain=key.domain,
                    rule="R111",
                    detail="a certificate that nobody confirmed could not be seen to",
                    bug=error,
                )
            )
            return self._services.clock() + _AGAIN_AFTER

    async def work(self) -> int:
        """Work through what is due; returns how many transactions that were, at most 64, and 0 for fewer.

        Nothing is due by a clock that was set: it would be revoked what devices are yet to confirm.

        Raises:
            StoreUnavailable: The schedule cannot be asked.
        """
        schedule = self._services.schedule
        if schedule is None or not self._services.steady():
            return 0
        due = await schedule.due(self._services.clock(), limit=_BATCH)
        for key in due:
            again_at = await self._safely(key)
            if again_at is None:
                await schedule.remove(key)
            else:
                await schedule.add(key, again_at)
        return len(due) if len(due) == _BATCH else 0

    async def _look_at(self, key: TransactionKey) -> datetime | None:
        """Do what is to be done with a transaction; returns when to look again, None for never."""
        services = self._services
        now = services.clock()
        transaction = await services.store.load(key)
        if transaction is None:
            return None
        if transaction.state is State.REQUESTED:
            return await self._find_again(transaction, now)
        if not transaction.certificate_der or transaction.state not in _UNCONFIRMED:
            return None
        confirming = transaction.state is State.CONFIRMING
        if confirming and transaction.lease_until > now:
            return transaction.lease_until
        if confirming or transaction.state is State.ISSUED:
            awaited_until = transaction.confirm_until or now
            if now < awaited_until:
                return awaited_until
        upstream = self._upstream_of(transaction)
        if upstream is None:
            what = f"upstream {transaction.upstream} is not configured any more"
            self._tell(transaction, Outcome.unconfirmed, f"{_why(transaction)}; {what}")
            return None
        if upstream.settings.unconfirmed is Unconfirmed.leave:
            return None
        if transaction.state is State.WITHDRAWING:
            if transaction.lease_until > now:
                return transaction.lease_until
            return await self._attempt(transaction, upstream)
        if confirming or upstream.settings.unconfirmed is Unconfirmed.report:
            self._tell(transaction, Outcome.unconfirmed, _why(transaction))
            return None
        return await self._attempt(transaction, upstream)

    async def _find_again(self, requested: Transaction, now: datetime) -> datetime | None:
        """Learn what became of a request whose answer was lost, or tell that it cannot be known.

        Its device may ask for it, too, until the certificate is revoked: it then gets that.
        """
        services = self._services
        endpoint, upstream = (
            services.endpoints.get(requested.endpoint),
            self._upstream_of(requested),
        )
        if requested.lease_until > now:
            return requested.lease_until  # somebody asks
        if endpoint is None or upstream is None:
            what = f"upstream {requested.upstream} is not configured any more"
            unconfirmed.tell_lost(services, requested, what)
            return None
        if not unconfirmed.finds_again(services, upstream, requested):
            return None
        if requested.may_retry or requested.current.ca_nonce:
            # The CA has seen nothing yet; or has said that it will decide later, and is asked by the device's pollReq.
            return self._later(requested, requested.expires_at, now)
        lives_until = max(requested.expires_at, requested.created_at + services.act_lifetime)
        try:
            after = await ca_exchange.ask_unheard(
                services, endpoint, upstream, requested, lives_until
            )
        except StoreUnavailable:
            raise
        except CMPError:
            after = replace(requested, expires_at=lives_until)
        if after is None:
            return now + upstream.lease  # another node has it
        if after.state is State.REQUESTED:
            return self._later(after, lives_until, now)
        if after.state is State.ISSUED:
            return after.confirm_until or now
        return now if after.certificate_der else None

    def _later(self, requested: Transaction, until: datetime, now: datetime) -> datetime | None:
        """Return when to ask again; None where the transaction will have ended, which is told."""
        # Early enough: a transaction that is gone can be told nothing of.
        last = until - min((until - requested.created_at) / 10, _AGAIN_AT_LEAST_AFTER)
        if now < last:
            return min(_again_at(requested, now), last)
        if not requested.may_retry:
            what = "no answer came that says so, as long as it was asked for"
            unconfirmed.tell_lost(self._services, requested, what)
        return None

    def _upstream_of(self, transaction: Transaction) -> Upstream | None:
        endpoint = self._services.endpoints.get(transaction.endpoint)
        return None if endpoint is None else endpoint.upstreams.get(transaction.upstream)

    async def _attempt(self, transaction: Transaction, upstream: Upstream) -> datetime | None:
        """Ask the CA to revoke; the intent is stored first, so that another node can go on with it.

        A CA may have given the same certificate to others: what any of them confirmed, or may yet confirm, stays.
        """
        services = self._services
        now = services.clock()
        if transaction.state in (State.REJECTED, State.FAILED):
            # It confirms nothing any more; a certConf that was being taken came too late.
            await services.note_confirmation(
                transaction, transaction.certificate_der, ConfirmationStatus.unconfirmed, now
            )
        record = await services.note_confirmation(
            transaction,
            transaction.certificate_der,
            ConfirmationStatus.withdrawn,
            transaction.confirm_until or now,
        )
        if (
            record.status is ConfirmationStatus.confirmed
            and transaction_digest(transaction) in record.confirmed_by
        ):
            # Its own certConf is being taken; or was, and the node died, or the store lost what came of it.
            taken_by = (transaction.confirm_until or transaction.created_at) + upstream.lease
            if now < taken_by:
                return taken_by
            what = "a certConf came that was not seen to its end: not revoked"
            self._tell(transaction, Outcome.unconfirmed, f"{_why(transaction)}; {what}")
            return None
        if record.status is ConfirmationStatus.confirmed:
            what = "another transaction confirmed the same certificate: not revoked"
            self._tell(transaction, Outcome.unconfirmed, f"{_why(transaction)}; {what}")
            return None
        if record.status is ConfirmationStatus.awaited:
            return max(record.awaited.values())
        certificate = load_certificate(transaction.certificate_der)
        ledger = services.signer_status.issued
        if (
            ledger is not None
            and upstream.settings.certconf
            is CertConf.forward  # otherwise the CA takes all for confirmed
            and await ledger.confirmed(certificate, now)
        ):
            what = "the CA has it as confirmed: not revoked"
            self._tell(transaction, Outcome.unconfirmed, f"{_why(transaction)}; {what}")
            return None
        return await self._revoke(transaction, upstream, certificate, now)

    async def _revoke(
        self, transaction: Transaction, upstream: Upstream, certificate: Certificate, now: datetime
    ) -> datetime | None:
        services = self._services
        rr_der = await revocation_for_ca(
            upstream, certificate, services.credential(), services.fresh_ids(), now
        )
        await services.about_to_forward(transaction, BodyType.rr, rr_der)
        lease_until = now + upstream.lease
        step = partial(machine.withdrawing, rr_der=rr_der, lease_until=lease_until)
        taken = await transactions.change(services.store, services.sink, transaction, step)
        if isinstance(taken, Overtaken):
            return lease_until  # another node has it
        try:
            answer_der = await upstream.core.exchange(
                rr_der, path=upstream.settings.path, deadline_seconds=upstream.deadline_seconds
            )
            secrets = await upstream.answer_credentials(answer_der) if upstream.secret else ()
            revoked = self._check(taken, rr_der, answer_der, certificate, upstream, secrets)
        except CMPError as error:
            # An rr may be sent again, whatever became of the last one.
            services.upstream_failed(taken, error)
            again_at = _again_at(taken, services.clock())
            left = again_at < taken.expires_at
            what = "not revoked yet" if left else "not revoked, and not tried any more"
            self._tell(taken, Outcome.failed, f"{_why(taken)}; {what}", error)
            await self._store(taken, partial(machine.withdrawal_postponed, now=services.clock()))
            return again_at
        await self._store(taken, partial(machine.withdrawal_ended, revoked=revoked))
        return None

    def _check(
        self,
        taken: Transaction,
        rr_der: bytes,
        answer_der: bytes,
        certificate: Certificate,
        upstream: Upstream,
        secrets: tuple[MACCredential, ...],
    ) -> bool:
        """Check the answer to an rr; returns whether the certificate is revoked, and False where the CA refuses.

        Raises:
            UpstreamBroken: It cannot be used, or is an error: the CA signs one for anybody, which is not the end.
        """
        sent = PKIMessage.from_der(rr_der).header
        expected = replace(
            expected_of(replace(taken, confirmation=None), (sent.sender_nonce or b"",), secrets),
            body_type=BodyType.rr,
            asked_type=BodyType.rr,
            transaction_id=sent.transaction_id or b"",
            target_der=_target(certificate),
        )
        answer = decoded(answer_der, upstream)
        info = check_revocation(answer, expected, upstream, self._services.clock())
        if info.status is not PKIStatus.rejection:
            self._tell(taken, Outcome.revoked, _why(taken))
            return True
        if PKIFailureInfo.certRevoked in info.fail_info:
            # By an earlier attempt whose answer was lost, or by somebody else.
            self._tell(taken, Outcome.revoked, f"{_why(taken)}; the CA had revoked it already")
            return True
        if answer.body_type is BodyType.error:
            raise UpstreamBroken(f"{upstream.name} refuses by an error: {info}", rule="R89")
        self._tell(taken, Outcome.failed, f"{_why(taken)}; the CA refuses to revoke it: {info}")
        return False

    async def _store(self, taken: Transaction, step: transactions.Step) -> None:
        """Store what came of an attempt: a device that polls changes the transaction, too.

        Another node that took it over meanwhile will finish it.
        """
        await transactions.change(
            self._services.store,
            self._services.sink,
            taken,
            step,
            while_=lambda live: live.withdrawal == taken.withdrawal,
        )

    def _tell(
        self,
        transaction: Transaction,
        outcome: Outcome,
        detail: str,
        error: CMPError | None = None,
    ) -> None:
        certificate = load_certificate(transaction.certificate_der)
        if error is not None:
            detail = f"{detail}: {error.detail}"
        self._services.sink(
            RequestHandled(
                by=Component.gateway,
                endpoint=transaction.endpoint,
                peer="",
                body_type="rr" if outcome is not Outcome.unconfirmed else "certConf",
                outcome=outcome,
                transaction_id=transaction.key.transaction_id.hex(),
                duration_ms=0.0,
                domain=transaction.key.domain,
                signer_fingerprint=transaction.signer_fingerprint.hex(),
                subject=certificate.subject,
                serial_number=f"{certificate.serial_number:x}",
                upstream=transaction.upstream,
                fail_info=None if error is None else error.fail_info,
                rule="R111" if outcome is not Outcome.failed or error is None else error.rule,
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
    if transaction.state is State.CONFIRMING:
        said = "confirmed" if transaction.confirm_status else "rejected"
        return f"the device {said} its certificate, but its certConf is not answered yet"
    if transaction.confirm_until is None and transaction.confirmation is None:
        return "the CA issued a certificate that could not be relayed"
    if transaction.confirmation is not None and not transaction.confirm_status:
        return "the device rejected its certificate"
    return "the device did not confirm its certificate in time"
