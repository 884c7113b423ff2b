"""Step 5: messages for the CA, under the RA's own protection."""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import RevDetails, nested_body, rev_req_body
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.device_info import device_info
from ra_gateway.cmp.messages import (
    IMPLICIT_CONFIRM,
    InfoTypeAndValue,
    PKIHeader,
    PKIMessage,
    body,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential, Protecting, protect
from ra_gateway.errors import ServiceFailure
from ra_gateway.ra.context import RequestContext
from ra_gateway.ra.endpoints import Endpoint, Upstream
from ra_gateway.ra.services import MappedIDs, Services
from ra_gateway.ra.settings import CertConf, ImplicitConfirm, Variant
from ra_gateway.ra.transaction import Transaction
from ra_gateway.values import replace


class MessageForCA(NamedTuple):
    """A signed message, and its senderNonce, which the CA's answer has to return."""

    der: bytes
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
    asked_type: BodyType | None = None,
    device: tuple[str, str] = ("", ""),
) -> MessageForCA:
    """Return the message for the CA (RFC 9483 5.2).

    Args:
        body_der: The body as it is to go up, where it is re-protected.
        credential: The RA's.
        now: Becomes messageTime.
        recip_nonce: Takes the place of the device's, where the CA's last answer was for the RA alone.
        ids: Take the place of the device's, where the CA is not to see them.
        asked_type: As what a request goes up that is re-protected; None for as what it came.
        device: Its vendor and what that calls it, for a CA that is told.
    """
    if variant is Variant.forward:
        return MessageForCA(message.der, message.header.sender_nonce or b"")
    nested = variant is Variant.nested
    # What a shared secret protects cannot be nested (RFC 9483 5.2.2).
    protecting: Protecting = credential
    if upstream.protects_otherwise:
        protecting = upstream.protecting(credential, signing=nested)
    header = replace(  # IDs and nonces stay (R73)
        message.header,
        recipient_der=upstream.recipient_der,
        recip_kid=None,
        message_time=now,
        general_info=() if nested else _upstream_info(endpoint, upstream, message, device),
    )
    if nested:
        body_der = nested_body(message.der)
    elif recip_nonce:
        header = replace(header, recip_nonce=recip_nonce)
    if not nested and asked_type is not None and asked_type is not message.body_type:
        # CertReqMessages both times: what the device signed stays as it is.
        body_der = body(asked_type, asn1.content(asn1.element(body_der)))
    if ids is not None and not nested:
        header = replace(header, transaction_id=ids.transaction_id, sender_nonce=ids.sender_nonce)
    if header.pvno > upstream.settings.max_pvno:
        header = replace(header, pvno=upstream.settings.max_pvno)
    # What an rr is about is shown to an RA above, which knows names and not numbers.
    shows = upstream.settings.rr_certificate and message.body_type is BodyType.rr and not nested
    shown = message.extra_certs if shows else ()
    certificates = tuple(dict.fromkeys((*protecting.certificates, *shown)))
    der = await protect(header, body_der, protecting, certificates)
    return MessageForCA(der, header.sender_nonce or b"")


async def follow_up_for_ca(
    services: Services,
    context: RequestContext,
    transaction: Transaction,
    body_der: bytes,
    *,
    recip_nonce: bytes | None = None,
) -> MessageForCA:
    """Return a certConf or pollReq for the CA that was asked, the way that its request went up (R81).

    Args:
        body_der, recip_nonce: As of `message_for_ca`.

    Raises:
        ServiceFailure: The configuration has changed.
    """
    check_same_upstream(context, transaction)
    return await message_for_ca(
        context.endpoint,
        context.upstream,
        context.message,
        body_der,
        Variant(transaction.variant),
        services.credential_of(transaction),
        services.clock(),
        recip_nonce=recip_nonce,
        ids=services.mapped_ids(transaction) if transaction.ca_transaction_id else None,
    )


def check_same_upstream(context: RequestContext, transaction: Transaction) -> None:
    """Refuse to go on with another CA than the one that was asked: it may have issued already.

    Raises:
        ServiceFailure: The configuration has changed.
    """
    if transaction.upstream != context.upstream.name:
        raise ServiceFailure(
            f"opened with upstream {transaction.upstream}, which this endpoint no longer uses",
            rule="R81",
        )


async def revocation_for_ca(
    upstream: Upstream,
    certificate: Certificate,
    credential: Credential,
    ids: MappedIDs,
    now: datetime,
) -> bytes:
    """Return an rr of the RA's own, for a certificate that nobody confirmed (RFC 9483 5.3.2).

    Args:
        ids: Its transactionID and senderNonce.
    """
    protecting = upstream.protecting(credential)
    header = PKIHeader(
        sender_der=credential.sender_der,
        recipient_der=upstream.recipient_der,
        message_time=now,
        transaction_id=ids.transaction_id,
        sender_nonce=ids.sender_nonce,
    )
    details = RevDetails(
        CertTemplate(issuer_der=certificate.issuer_der, serial_number=certificate.serial_number),
        (Extension(OID.reasonCode, False, bytes((0x0A, 1, upstream.settings.unconfirmed_reason))),),
    )
    # Shown, so that an RA above that knows our names alone can tell whose it is.
    shown = (certificate.der,) if upstream.settings.rr_certificate else ()
    certificates = (*protecting.certificates, *shown)
    return await protect(header, rev_req_body(details), protecting, certificates)


_SAID_BY_RA: Final = frozenset({OID.origPKIMessage, OID.utf8Pairs})


def _upstream_info(
    endpoint: Endpoint, upstream: Upstream, message: PKIMessage, device: tuple[str, str]
) -> tuple[InfoTypeAndValue, ...]:
    """Return generalInfo for the CA: the device's, but implicitConfirm as this endpoint and the CA have it.

    What the original of a message was, and whose a device is, the RA says or nobody: a sender could show what somebody
    else had sent.
    """
    items = message.header.general_info
    info = tuple(item for item in items if item.info_type not in _SAID_BY_RA)
    asks = upstream.settings.certconf is CertConf.implicit and message.body_type in CERT_RESPONSE_TO
    if asks or endpoint.settings.implicit_confirm is ImplicitConfirm.deny:
        # A CA that granted it would not expect the certConf that the device is going to send.
        info = tuple(item for item in info if item.info_type != OID.implicitConfirm)
    if asks:
        info += (IMPLICIT_CONFIRM,)
    if upstream.settings.device_info:
        info += device_info(*device)
    if upstream.settings.orig_message:
        info += (InfoTypeAndValue(OID.origPKIMessage, asn1.tlv(0x30, message.der)),)
    return info
