"""What goes up and what comes down: requests re-protected for the CA (step 6), answers for the device (step 10)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from ra_gateway.cmp.asn1 import tlv
from ra_gateway.cmp.codes import OID, BodyType
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage, cert_rep_body, nested_body
from ra_gateway.cmp.protection import Credential, Protecting, protect
from ra_gateway.cmp.replies import (
    IMPLICIT_CONFIRM,
    confirm_wait_time,
    forward_header,
    relay_header,
)
from ra_gateway.ra.answers import CheckedAnswer
from ra_gateway.ra.routes import CaPubs, Endpoint, ImplicitConfirm, Upstream, Variant


def variant_for(upstream: Upstream, body_type: BodyType) -> Variant:
    """Return how a request goes up: everything but kur is re-protected."""
    return upstream.kur if body_type is BodyType.kur else Variant.reprotect


async def message_for_ca(
    endpoint: Endpoint,
    message: PKIMessage,
    body_der: bytes,
    variant: Variant,
    credential: Credential,
    now: datetime,
) -> bytes:
    """Return the message for the CA (RFC 9483 5.2).

    Args:
        body_der: The body as it is to go up, where it is re-protected.
        credential: The RA's.
        now: Becomes messageTime.
    """
    if variant is Variant.forward:
        return message.der
    nested = variant is Variant.nested
    header = forward_header(
        message.header,
        recipient_der=endpoint.upstream.recipient_der,
        now=now,
        general_info=() if nested else _upstream_info(endpoint, message),
    )
    if nested:
        header, body_der = replace(header, recip_nonce=None), nested_body(message.der)
    return await protect(header, body_der, credential, credential.certificates)


def _upstream_info(endpoint: Endpoint, message: PKIMessage) -> tuple[InfoTypeAndValue, ...]:
    """Return generalInfo for the CA: the device's, less a wish that this endpoint will not grant."""
    info = message.header.general_info
    if endpoint.implicit_confirm is ImplicitConfirm.deny:
        # A CA that granted it would not expect the certConf that the device is going to send.
        info = tuple(item for item in info if item.info_type != OID.implicitConfirm)
    if endpoint.upstream.orig_message:
        info += (InfoTypeAndValue(OID.origPKIMessage, tlv(0x30, message.der)),)
    return info


def granted_by(answer: CheckedAnswer) -> bool:
    """Tell whether the CA awaits no certConf."""
    return answer.certificate is not None and answer.message.header.implicit_confirm


async def answer_for_device(
    endpoint: Endpoint,
    request: PKIMessage,
    answer: CheckedAnswer,
    credential: Protecting,
    now: datetime,
) -> tuple[bytes, bool]:
    """Return the answer for the device, and whether it grants implicitConfirm.

    Args:
        credential: The RA's, or the shared secret that the request came under.
        now: Becomes messageTime.
    """
    granted = (
        endpoint.implicit_confirm is ImplicitConfirm.relay
        and request.header.implicit_confirm
        and granted_by(answer)
    )
    general_info: tuple[InfoTypeAndValue, ...] = ()
    if granted:
        general_info = (IMPLICIT_CONFIRM,)
    elif answer.certificate is not None:
        wait = answer.message.header.info(OID.confirmWaitTime) or confirm_wait_time(
            now + timedelta(seconds=endpoint.confirm_wait_seconds)
        )
        general_info = (wait,)
    header = relay_header(answer.message.header, request.header, now=now, general_info=general_info)
    ca_pubs = _ca_pubs(endpoint, request, answer)
    body_der = answer.message.body_der
    if ca_pubs != answer.content.ca_pubs:
        body_der = cert_rep_body(answer.message.body_type, replace(answer.content, ca_pubs=ca_pubs))
    # RA certificate and chain first (RFC 9483 3.3), then the issuing chain up to and including the
    # operator's root, which a base station may know from here only (TS 33.310 9.5.4.3).
    chain = [item.der for item in answer.path[1:]]
    certificates = dict.fromkeys((*credential.certificates, *chain))
    return await protect(header, body_der, credential, certificates), granted


async def relayed(
    answer: PKIMessage, request: PKIMessage, credential: Credential, now: datetime
) -> bytes:
    """Return a CA's answer for the device under the RA's protection, its body as it came (rp, genp).

    Args:
        credential: The RA's.
        now: Becomes messageTime.
    """
    header = relay_header(answer.header, request.header, now=now, general_info=())
    return await protect(header, answer.body_der, credential, credential.certificates)


def _ca_pubs(endpoint: Endpoint, request: PKIMessage, answer: CheckedAnswer) -> tuple[bytes, ...]:
    # R93: only an ip may carry caPubs, and only with a certificate.
    if request.body_type is not BodyType.ir or answer.certificate is None:
        return ()
    match endpoint.ca_pubs:
        case CaPubs.relay:
            return answer.content.ca_pubs
        case CaPubs.root:
            return (answer.path[-1].der,)
        case CaPubs.drop:
            return ()
