"""What an answer says, and the message that follows it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_rep_message,
    error_msg_content,
    rev_rep_content,
)
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIHeader, PKIMessage
from ra_gateway.cmp.protection import protect
from tests.support.credentials import cmp_credential
from tests.support.pki import Credential


async def follow(
    credential: Credential,
    answer: PKIMessage,
    body_der: bytes,
    *,
    now: datetime,
    extra_certs: bool = True,
    **header: Any,
) -> bytes:
    """Return a device's next message after an answer, protected with any credential.

    Args:
        header: Fields of `PKIHeader` that differ from what belongs there.
    """
    signer = cmp_credential(credential)
    usual = PKIHeader(
        sender_der=signer.sender_der,
        recipient_der=answer.header.sender_der,
        message_time=now,
        transaction_id=answer.header.transaction_id,
        sender_nonce=secrets.token_bytes(16),
        recip_nonce=answer.header.sender_nonce,
    )
    certificates = signer.certificates if extra_certs else ()
    return await protect(replace(usual, **header), body_der, signer, certificates)


def status_of(answer: PKIMessage) -> PKIStatusInfo:
    """The status of an ip, cp, kup, rp or error."""
    if answer.body_type is BodyType.error:
        return error_msg_content(answer.body_content).status_info
    if answer.body_type is BodyType.rp:
        return rev_rep_content(answer.body_content).statuses[0]
    return cert_rep_message(answer.body_content).responses[0].status_info


def fail_names(answer: PKIMessage) -> Sequence[str]:
    """Names of the failInfo bits of an answer."""
    return [bit.name for bit in status_of(answer).fail_info]
