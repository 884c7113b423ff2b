"""What every event makes of a transaction: one pure function each, and the only callers of `advance`.

Whoever changes a transaction hands one of these to `transactions.change`, which stores what it returns.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from ra_gateway.ra.response_checks import CheckedResponse
from ra_gateway.ra.transaction import Event, Exchange, State, Transaction, advance
from ra_gateway.values import replace


def _with_current(transaction: Transaction, exchange: Exchange) -> dict[str, Any]:
    """Return the change that puts an exchange in the place of the current one."""
    return {"opening" if transaction.confirmation is None else "confirmation": exchange}


def _answered(exchange: Exchange, response_der: bytes) -> Exchange:
    """Put the answer beside its request; the message for the CA has done its work and need not be kept."""
    return replace(exchange, upstream_der=b"", response_der=response_der)


def _unheard(exchange: Exchange) -> Exchange:
    """Return an exchange whose device was never told to wait, as if it had been, and had not got that."""
    return replace(exchange, waiting=True, response_der=exchange.response_der or b"")


def _closed(exchange: Exchange) -> Exchange:
    """Return an exchange whose device has its answer, and has said so."""
    return replace(exchange, upstream_der=b"", planned=None, ca_nonce=b"")


def _polling(
    transaction: Transaction, request_digest: bytes, response_der: bytes, recip_nonce: bytes = b""
) -> Exchange:
    """Return a pollReq and its answer; without a nonce, the one that an earlier pollReq returned stays."""
    if not recip_nonce and transaction.polling is not None:
        recip_nonce = transaction.polling.recip_nonce
    return Exchange(request_digest, b"", response_der, recip_nonce=recip_nonce)


# --- a device waits from the beginning -------------------------------------------------------------------------


def opened_waiting(
    transaction: Transaction,
    response_der: bytes,
    sender_nonce: bytes,
    lease_until: datetime,
) -> Transaction:
    """Return a transaction, yet to be stored, whose device is told to wait from the beginning.

    Args:
        sender_nonce: Of that answer; pollReq must return it.
        lease_until: Until then one node is busy with it.
    """
    return replace(
        transaction,
        opening=replace(transaction.opening, response_der=response_der, waiting=True),
        polling_nonce=sender_nonce,
        lease_until=lease_until,
    )


# --- an operator decides --------------------------------------------------------------------------------------


def decided(held: Transaction, *, approved: bool, decided_by: str, now: datetime) -> Transaction:
    """An operator approves or denies a request that is held; the next pollReq takes it on from there."""
    event = Event.approved if approved else Event.denied
    return advance(held, event, decided_by=decided_by, lease_until=now, may_retry=True)


def refused_after_approval(approved: Transaction, fail_info: str) -> Transaction:
    """A request that an operator approved is refused all the same: the rules have changed meanwhile.

    Args:
        fail_info: Name of what the device is yet to be told.
    """
    return advance(approved, Event.failed, failure=fail_info, request_der=b"")


# --- the CA is asked ------------------------------------------------------------------------------------------


def taken_over(
    transaction: Transaction,
    lease_until: datetime,
    *,
    credential_digest: bytes,
    upstream: tuple[bytes, bytes] | None = None,
    expires_at: datetime | None = None,
) -> Transaction:
    """A node goes on with a transaction that nobody is busy with.

    Args:
        credential_digest: Of what signs for it from then on: of the current credential where the first one is gone.
        upstream: The message for the CA and its senderNonce, of a request that was held and leaves now.
        expires_at: Of the transaction from then on; None leaves it.
    """
    changes: dict[str, Any] = {}
    if upstream is not None:
        der, nonce = upstream
        sent = replace(transaction.current, upstream_der=der, upstream_nonce=nonce)
        changes = {**_with_current(transaction, sent), "request_der": b""}
    return advance(
        transaction,
        Event.taken_over,
        lease_until=lease_until,
        may_retry=False,
        unsent=False,
        credential_digest=credential_digest,
        expires_at=expires_at or transaction.expires_at,
        **changes,
    )


def released(transaction: Transaction, now: datetime, *, may_retry: bool = True) -> Transaction:
    """The CA was not reached, or asking it again is harmless: the device's next message may try at once.

    Args:
        may_retry: Of a CA that replays, whether it is certain that it has seen nothing yet.
    """
    return advance(transaction, Event.released, lease_until=now, may_retry=may_retry)


def deferred(transaction: Transaction, response_der: bytes, sender_nonce: bytes) -> Transaction:
    """The device is told to wait and poll, as the CA has not answered yet.

    Args:
        sender_nonce: Of that answer; pollReq must return it.
    """
    told = replace(transaction.current, response_der=response_der, waiting=True)
    return advance(
        transaction,
        Event.deferred,
        polling_nonce=sender_nonce,
        **_with_current(transaction, told),
    )


def deferred_by_ca(
    transaction: Transaction,
    checked: CheckedResponse,
    response_der: bytes,
    *,
    now: datetime,
    until: datetime,
) -> Transaction:
    """The CA itself says to wait: nobody is busy with it any more, and the next pollReq goes up.

    Args:
        response_der: What the device is answered, unless it is polling already.
        until: As long as the transaction is to live at least.
    """
    nonce = checked.planned.sender_nonce
    current = replace(transaction.current, ca_nonce=nonce)
    changes: dict[str, Any] = {}
    if transaction.confirmation is None:
        changes["ca_cert_req_id"] = checked.ca_cert_req_id
    if not current.waiting:
        current = replace(current, response_der=response_der, waiting=True)
        changes["polling_nonce"] = nonce
    return advance(
        transaction,
        Event.deferred,
        lease_until=now,
        expires_at=max(transaction.expires_at, until),
        **_with_current(transaction, current),
        **changes,
    )


def answered(
    transaction: Transaction,
    checked: CheckedResponse,
    response_der: bytes,
    *,
    confirm_until: datetime | None,
    expires_at: datetime | None,
    unheard: bool = False,
) -> Transaction:
    """The CA has answered: issued, granted, revoked, informed, refused, accepted or rejected; failed, by an error.

    Args:
        response_der: What the device is answered, unless it was told to wait: then it asks for what is planned.
        confirm_until: Until then certConf is awaited, None where it is not.
        expires_at: None leaves it.
        unheard: Whether nobody is there to be answered: a device that sends its message again gets what is planned.
    """
    current = _unheard(transaction.current) if unheard else transaction.current
    waiting = current.waiting
    current = (
        replace(current, planned=checked.planned) if waiting else _answered(current, response_der)
    )
    changes: dict[str, Any] = {}
    if checked.is_certificate_response:
        changes["response_nonce"] = checked.planned.sender_nonce
    if checked.issued:
        certificate = checked.certificate
        changes["certificate_der"] = b"" if certificate is None else certificate.der
        changes["ca_cert_req_id"] = checked.ca_cert_req_id
        changes["confirm_locally"] = checked.confirmed_by_ca
    if checked.denied and checked.rejection is not None:
        changes["failure"] = ",".join(bit.name for bit in checked.rejection.fail_info[:1])
    if confirm_until is not None:
        changes["confirm_until"] = confirm_until
    return advance(
        transaction,
        checked.event,
        expires_at=expires_at or transaction.expires_at,
        **_with_current(transaction, current),
        **changes,
    )


def failed(
    transaction: Transaction,
    fail_info: str,
    response_der: bytes,
    *,
    certificate_der: bytes = b"",
    expires_at: datetime | None = None,
    unheard: bool = False,
) -> Transaction:
    """No usable answer came, and sending the message again could issue twice.

    Args:
        fail_info: Name of what the device is told, or yet to be told.
        certificate_der: What the CA issued all the same, and cannot be relayed.
        expires_at: None leaves it.
        unheard: As of `answered`.
    """
    current = _unheard(transaction.current) if unheard else transaction.current
    if not current.waiting:
        current = _answered(current, response_der)
    return advance(
        transaction,
        Event.failed,
        failure=fail_info,
        certificate_der=certificate_der or transaction.certificate_der,
        expires_at=expires_at or transaction.expires_at,
        **_with_current(transaction, current),
    )


def alone(
    transaction: Transaction,
    transaction_id: bytes,
    certificate_der: bytes,
    now: datetime,
    expires_at: datetime,
) -> Transaction:
    """Return a transaction, yet to be stored, for a certificate that its own cannot hold: it has failed from the first.

    Args:
        transaction_id: Its own, which no device has.
    """
    return replace(
        transaction,
        key=replace(transaction.key, transaction_id=transaction_id),
        state=State.FAILED,
        version=0,
        opening=Exchange(b"", b""),
        confirmation=None,
        polling=None,
        certificate_der=certificate_der,
        confirm_until=None,
        unsent=False,
        request_der=b"",
        lease_until=now,
        created_at=now,
        expires_at=expires_at,
    )


# --- the device polls -----------------------------------------------------------------------------------------


def polled(
    transaction: Transaction,
    request_digest: bytes,
    response_der: bytes,
    recip_nonce: bytes,
    sender_nonce: bytes,
    *,
    lease_until: datetime | None = None,
) -> Transaction:
    """The device polls too early, and is told to ask again.

    Args:
        recip_nonce: What the pollReq returned: the nonce of the last answer; empty for that of an earlier one.
        sender_nonce: The next pollReq must return it.
        lease_until: None leaves it.
    """
    return advance(
        transaction,
        Event.polled,
        polling=_polling(transaction, request_digest, response_der, recip_nonce),
        polling_nonce=sender_nonce,
        lease_until=lease_until or transaction.lease_until,
    )


class LateResponse(NamedTuple):
    """The answer for a device that was told to wait, and what its transaction becomes.

    Args:
        confirm_until: Until then certConf is awaited, None where it is not.
    """

    der: bytes
    confirm_until: datetime | None
    expires_at: datetime


def delivered(
    transaction: Transaction, late: LateResponse, *, polling_digest: bytes | None = None
) -> Transaction:
    """The device gets the answer that came while it was waiting, or gets it again: what is planned is kept.

    Args:
        polling_digest: Of the pollReq that asks for it; None where the device sends its request again instead.
    """
    current = replace(transaction.current, upstream_der=b"", ca_nonce=b"", delivered=True)
    changes: dict[str, Any] = {}
    if polling_digest is None:
        current = replace(current, response_der=late.der, waiting=False)
    else:
        changes["polling"] = _polling(transaction, polling_digest, late.der)
    return advance(
        transaction,
        Event.delivered,
        confirm_until=late.confirm_until or transaction.confirm_until,
        expires_at=late.expires_at,
        **_with_current(transaction, current),
        **changes,
    )


# --- the device confirms, or gives up -------------------------------------------------------------------------


def confirming(
    transaction: Transaction,
    request_digest: bytes,
    *,
    takes_certificate: bool,
    upstream_der: bytes,
    upstream_nonce: bytes,
    lease_until: datetime,
) -> Transaction:
    """A certConf is accepted: the intent to tell the CA, in the place of an earlier one that it has not answered.

    Args:
        upstream_der: Empty where the CA is not told.
    """
    again, polling = transaction.state is State.CONFIRMING, transaction.polling
    return advance(
        transaction,
        Event.taken_over if again else Event.confirm,
        opening=_closed(transaction.opening),
        polling=polling and replace(polling, recip_nonce=b""),
        confirmation=Exchange(request_digest, upstream_der, upstream_nonce=upstream_nonce),
        confirm_status=takes_certificate,
        lease_until=lease_until,
    )


def told_again(confirming: Transaction, request_digest: bytes, response_der: bytes) -> Transaction:
    """A certConf signed anew takes the place of one whose device the CA has told to wait; the CA keeps that one."""
    told = replace(confirming.current, request_digest=request_digest, response_der=response_der)
    return advance(confirming, Event.deferred, confirmation=told)


def refused_by_device(
    transaction: Transaction,
    request_digest: bytes,
    response_der: bytes,
    *,
    expires_at: datetime | None,
) -> Transaction:
    """The device sent error in place of certConf, and got pkiConf: it does not take its certificate.

    One that is signed anew, as its pkiConf was lost, takes the place of the first.

    Args:
        expires_at: None leaves it.
    """
    issued = transaction.state is State.ISSUED
    return advance(
        transaction,
        Event.rejected if issued else Event.delivered,
        opening=_closed(transaction.opening),
        confirmation=Exchange(request_digest, b"", response_der),
        confirm_status=False,
        expires_at=expires_at or transaction.expires_at,
    )


# --- nobody has confirmed -------------------------------------------------------------------------------------


def withdrawing(transaction: Transaction, rr_der: bytes, lease_until: datetime) -> Transaction:
    """The CA is to be asked to revoke the certificate: the intent, once more after a failed attempt.

    Args:
        rr_der: The message for the CA.
    """
    again = transaction.state is State.WITHDRAWING
    return advance(
        transaction,
        Event.taken_over if again else Event.withdraw,
        withdrawal=Exchange(b"", rr_der),
        lease_until=lease_until,
    )


def withdrawal_postponed(withdrawing: Transaction, now: datetime) -> Transaction:
    """The CA could not be asked to revoke the certificate: any node may try again."""
    return advance(withdrawing, Event.released, lease_until=now)


def withdrawal_ended(withdrawing: Transaction, *, revoked: bool) -> Transaction:
    """The CA has revoked the certificate, or refuses to."""
    withdrawal = withdrawing.withdrawal
    return advance(
        withdrawing,
        Event.withdrawn if revoked else Event.failed,
        withdrawal=withdrawal and replace(withdrawal, upstream_der=b""),
    )
