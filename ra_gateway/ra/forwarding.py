"""What goes up and what comes down: requests re-protected for the CA (step 6), answers for the device (step 10)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ra_gateway.cmp.asn1 import tlv
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, OID, BodyType
from ra_gateway.cmp.messages import (
    InfoTypeAndValue,
    PKIHeader,
    PKIMessage,
    cert_rep_body,
    nested_body,
)
from ra_gateway.cmp.protection import Credential, Protecting, protect
from ra_gateway.cmp.replies import (
    IMPLICIT_CONFIRM,
    confirm_wait_time,
    confirm_wait_time_of,
    forward_header,
    relay_header,
)
from ra_gateway.cmp.requests import Possession
from ra_gateway.ra.answers import CheckedAnswer
from ra_gateway.ra.routes import CaPubs, CertConf, Endpoint, ImplicitConfirm, Upstream, Variant
from ra_gateway.ra.transaction import Transaction

_LONGEST_CONFIRM_WAIT: Final = timedelta(days=7)
"""A base station confirms within a minute; an operator may have to be asked first."""


class MappedIDs(NamedTuple):
    """transactionID and senderNonce that a CA sees in place of the device's."""

    transaction_id: bytes
    sender_nonce: bytes


async def message_for_ca(
    endpoint: Endpoint,
    upstream: Upstream,
    message: PKIMessage,
    body_der: bytes,
    variant: Variant,
    credential: Credential,
    now: datetime,
    *,
    recip_nonce: bytes | None = None,
    ids: MappedIDs | None = None,
) -> bytes:
    """Return the message for the CA (RFC 9483 5.2).

    Args:
        body_der: The body as it is to go up, where it is re-protected.
        credential: The RA's.
        now: Becomes messageTime.
        recip_nonce: Takes the place of the device's, where the CA's last answer was for the RA alone.
        ids: Take the place of the device's, where the CA is not to see them.
    """
    if variant is Variant.forward:
        return message.der
    nested = variant is Variant.nested
    header = forward_header(
        message.header,
        recipient_der=upstream.recipient_der,
        now=now,
        general_info=() if nested else _upstream_info(endpoint, upstream, message),
    )
    if nested:
        header, body_der = replace(header, recip_nonce=None), nested_body(message.der)
    elif recip_nonce:
        header = replace(header, recip_nonce=recip_nonce)
    if ids is not None and not nested:
        header = replace(header, transaction_id=ids.transaction_id, sender_nonce=ids.sender_nonce)
    if header.pvno > upstream.max_pvno:
        header = replace(header, pvno=upstream.max_pvno)
    # What an rr is about is shown to an RA above, which knows names and not numbers.
    shows = upstream.rr_certificate and message.body_type is BodyType.rr and not nested
    shown = message.extra_certs if shows else ()
    certificates = tuple(dict.fromkeys((*credential.certificates, *shown)))
    return await protect(header, body_der, credential, certificates)


def _upstream_info(
    endpoint: Endpoint, upstream: Upstream, message: PKIMessage
) -> tuple[InfoTypeAndValue, ...]:
    """Return generalInfo for the CA: the device's, but implicitConfirm as this endpoint and the CA have it.

    What the original of a message was, the RA says or nobody: a sender could show what somebody else had sent.
    """
    items = message.header.general_info
    info = tuple(item for item in items if item.info_type != OID.origPKIMessage)
    asks = upstream.certconf is CertConf.implicit and message.body_type in CERT_RESPONSE_TO
    if asks or endpoint.implicit_confirm is ImplicitConfirm.deny:
        # A CA that granted it would not expect the certConf that the device is going to send.
        info = tuple(item for item in info if item.info_type != OID.implicitConfirm)
    if asks:
        info += (IMPLICIT_CONFIRM,)
    if upstream.orig_message:
        info += (InfoTypeAndValue(OID.origPKIMessage, tlv(0x30, message.der)),)
    return info


def granted_by(answer: CheckedAnswer) -> bool:
    """Tell whether the CA awaits no certConf."""
    return answer.issued and answer.message.header.implicit_confirm


def grants(endpoint: Endpoint, transaction: Transaction, answer: CheckedAnswer) -> bool:
    """Tell whether the device is told that it need not confirm: it asked, the CA granted, the endpoint relays."""
    return (
        endpoint.implicit_confirm is ImplicitConfirm.relay
        and transaction.possession != Possession.encr_cert
        and transaction.implicit_asked
        and granted_by(answer)
    )


def confirm_until(
    endpoint: Endpoint, transaction: Transaction, answer: CheckedAnswer, now: datetime
) -> datetime | None:
    """Return until when the device is awaited to confirm, None where it need not.

    As the CA says, within reason: its clock may be wrong, and what is not confirmed by then is revoked.
    """
    if not answer.issued or grants(endpoint, transaction, answer):
        return None
    told = confirm_wait_time_of(answer.message.header)
    if told is None or told <= now:
        return now + timedelta(seconds=endpoint.confirm_wait_seconds)
    return min(told, now + _LONGEST_CONFIRM_WAIT)


async def answer_for_device(
    endpoint: Endpoint,
    transaction: Transaction,
    asked: PKIHeader,
    answer: CheckedAnswer,
    until: datetime | None,
    credential: Protecting,
    now: datetime,
) -> bytes:
    """Return the ip, cp or kup for the device.

    Args:
        asked: Header of what is answered: the request, or the pollReq that got its answer at last.
        until: As of `confirm_until`.
        credential: The RA's, or the shared secret that the request came under.
        now: Becomes messageTime.
    """
    general_info: tuple[InfoTypeAndValue, ...] = ()
    if until is not None:
        told = answer.message.header.info(OID.confirmWaitTime)
        is_theirs = told is not None and confirm_wait_time_of(answer.message.header) == until
        general_info = (told if told and is_theirs else confirm_wait_time(until),)
    elif answer.issued:
        general_info = (IMPLICIT_CONFIRM,)
    header = relay_header(answer.message.header, asked, now=now, general_info=general_info)
    ca_pubs = _ca_pubs(endpoint, transaction.body_type, answer)
    body_der = answer.message.body_der
    if ca_pubs != answer.content.ca_pubs or answer.altered:
        body_der = cert_rep_body(answer.message.body_type, replace(answer.content, ca_pubs=ca_pubs))
    # RA certificate and chain first (RFC 9483 3.3), then the issuing chain up to and including the
    # operator's root, which a base station may know from here only (TS 33.310 9.5.4.3).
    chain = [item.der for item in answer.path[1:]]
    certificates = dict.fromkeys((*credential.certificates, *chain))
    return await protect(header, body_der, credential, certificates)


async def relayed(
    answer: PKIMessage, asked: PKIHeader, credential: Protecting, now: datetime
) -> bytes:
    """Return a CA's answer for the device under the RA's protection, its body as it came.

    Args:
        asked: Header of what is answered.
        now: Becomes messageTime.
    """
    header = relay_header(answer.header, asked, now=now, general_info=())
    return await protect(header, answer.body_der, credential, credential.certificates)


def _ca_pubs(endpoint: Endpoint, body_type: BodyType, answer: CheckedAnswer) -> tuple[bytes, ...]:
    # R93: only an ip may carry caPubs, and only with a certificate.
    if body_type is not BodyType.ir or not answer.issued:
        return ()
    match endpoint.ca_pubs:
        case CaPubs.relay:
            return answer.content.ca_pubs
        case CaPubs.root:
            return (answer.path[-1].der,)
        case CaPubs.drop:
            return ()
