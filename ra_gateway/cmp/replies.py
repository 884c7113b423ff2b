"""Headers and bodies of every message we originate, and of those we pass on under our own protection.

Two kinds of header (RFC 9483 5.1 and 5.2.3): a *reply* swaps the nonces and draws a fresh one, a *forward* keeps
transactionID and nonces as they are. Nonces and times come in as arguments.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import (
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevRepContent,
    cert_rep_body,
    error_body,
    rev_rep_body,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import ANYONE, CMP2000, CMP2021, InfoTypeAndValue, PKIHeader, assemble
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import CMPError, MalformedMessage

IMPLICIT_CONFIRM = InfoTypeAndValue(OID.implicitConfirm, asn1.NULL_DER)


class Reply(NamedTuple):
    """An answer; `understood` is False where the octets received were no PKIMessage (HTTP then says 400)."""

    der: bytes
    understood: bool


def confirm_wait_time(moment: datetime) -> InfoTypeAndValue:
    """Return the generalInfo entry that tells until when certConf is awaited (RFC 9810 5.1.1.2)."""
    return InfoTypeAndValue(OID.confirmWaitTime, asn1.encode(asn1.generalized_time(moment)))


def confirm_wait_time_of(header: PKIHeader) -> datetime | None:
    """Return until when certConf is awaited, None where the header does not say so in a readable way."""
    item = header.info(OID.confirmWaitTime)
    return time_told((item and item.value_der) or b"")


def time_told(value_der: bytes) -> datetime | None:
    """Return the moment that a GeneralizedTime tells (aware UTC), None where it is not readable."""
    try:
        return asn1.time_of(asn1.decode(asn1.GeneralizedTime, value_der))
    except MalformedMessage:
        return None


def reply_header(request: PKIHeader, *, sender_nonce: bytes, now: datetime) -> PKIHeader:
    """Return the header of an answer that we author.

    Args:
        sender_nonce: 16 fresh random octets.
        now: Becomes messageTime.
    """
    return PKIHeader(
        pvno=min(max(request.pvno, CMP2000), CMP2021),
        sender_der=ANYONE,
        recipient_der=request.sender_der,
        message_time=now,
        transaction_id=request.transaction_id,
        sender_nonce=sender_nonce,
        recip_nonce=request.sender_nonce,
    )


def forward_header(
    received: PKIHeader,
    *,
    recipient_der: bytes,
    now: datetime,
    general_info: tuple[InfoTypeAndValue, ...],
) -> PKIHeader:
    """Return the header of a request that we pass on upstream: IDs and nonces stay (R73).

    Args:
        general_info: Replaces the device's.
    """
    return replace(
        received,
        recipient_der=recipient_der,
        recip_kid=None,
        message_time=now,
        general_info=general_info,
    )


def status_of(error: CMPError) -> PKIStatusInfo:
    """Return the PKIStatusInfo that tells a peer of an error: its failInfo and its fixed phrase, no more."""
    return PKIStatusInfo(PKIStatus.rejection, (error.phrase,), (error.fail_info,))


def refusal_body(error: CMPError, body_type: BodyType | None, cert_req_id: int = 0) -> bytes:
    """Return the body that tells of an error (RFC 9483 3.6).

    Args:
        body_type: Of the request. A failure in the body of an ir, cr, kur, p10cr or rr is told in ip, cp,
            kup, cp or rp (R112); every other one in an error (R113).
        cert_req_id: The request's; -1 for a p10cr.
    """
    response_type = CERT_RESPONSE_TO.get(body_type) if body_type is not None else None
    if error.in_body and body_type is BodyType.rr:
        return rev_rep_body(RevRepContent((status_of(error),)))
    if error.in_body and response_type is not None:
        return cert_rep_body(
            response_type, CertRepMessage((CertResponse(cert_req_id, status_of(error)),))
        )
    return error_body(status_of(error))


def unreadable_reply(
    error: MalformedMessage, *, transaction_id: bytes, sender_nonce: bytes
) -> bytes:
    """Return an unprotected error for octets that are no PKIMessage.

    Unprotected, because it is unclear who sent them and what could be verified (RFC 9483 3.6.4), and a
    signature would be work done for anybody who can open a connection.

    Args:
        transaction_id, sender_nonce: 16 fresh random octets each.
    """
    header = PKIHeader(
        pvno=CMP2000,
        sender_der=ANYONE,
        recipient_der=ANYONE,
        transaction_id=transaction_id,
        sender_nonce=sender_nonce,
    )
    return assemble(header.to_der(), error_body(status_of(error)), None)
