"""Delayed delivery: pollReq, pollRep, and answers that say waiting (RFC 9483 4.4)."""

from __future__ import annotations

from typing import Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.bodies import (
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    cert_rep_body,
    error_body,
    require_one,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import body
from ra_gateway.errors import MalformedMessage
from ra_gateway.values import Value

NO_CERT_RESPONSE: Final = -1
"""certReqId of pollReq and pollRep where no CertResponse is awaited, but an rp, a genp or a pkiConf."""

_MAX_CHECK_AFTER: Final = 2**31 - 1
"""Beyond any time to wait that makes sense; larger numbers are refused, not written anywhere."""

_WAITING: Final = PKIStatusInfo(
    PKIStatus.waiting, ("The request is being processed; poll for the answer.",)
)


class PollRep(Value, frozen=True):
    """One entry of a pollRep.

    Args:
        check_after_seconds: How long the requester should wait before it polls again, 0 or more.
    """

    cert_req_id: int
    check_after_seconds: int
    reason: tuple[str, ...] = ()


def poll_req_content(content: bytes) -> int:
    """Return the one certReqId that a pollReq asks for.

    Raises:
        HeaderRefused: Not exactly one (badRequest).
        MalformedMessage: It does not conform.
    """
    entries = tuple(asn1.unbox(structures.PollReqContentBox, content).entries)
    entry = require_one(entries, "certReqId in pollReq", "R119")
    return asn1.int_of(entry.cert_req_id, "certReqId")


def poll_req_body(cert_req_id: int) -> bytes:
    """Return the body of a pollReq."""
    return body(
        BodyType.pollReq,
        asn1.tlv(0x30, asn1.encode(structures.PollReqEntry(cert_req_id=cert_req_id))),
    )


def poll_rep_content(content: bytes) -> PollRep:
    """Decode the content of a pollRep.

    Raises:
        HeaderRefused: Not exactly one entry.
        MalformedMessage: It does not conform, or tells to wait a negative time.
    """
    entries = tuple(asn1.unbox(structures.PollRepContentBox, content).entries)
    entry = require_one(entries, "entries in pollRep", "R117")
    if entry.check_after < 0:
        raise MalformedMessage("checkAfter is negative", rule="R117")
    if entry.check_after > _MAX_CHECK_AFTER:
        raise MalformedMessage("checkAfter has more than 31 bits", rule="R1")
    return PollRep(
        asn1.int_of(entry.cert_req_id, "certReqId"), entry.check_after, tuple(entry.reason or ())
    )


def poll_rep_body(answer: PollRep) -> bytes:
    """Return the body of a pollRep."""
    entry = structures.PollRepEntry(
        cert_req_id=answer.cert_req_id,
        check_after=answer.check_after_seconds,
        reason=list(answer.reason) or None,
    )
    return body(BodyType.pollRep, asn1.tlv(0x30, asn1.encode(entry)))


def polled_cert_req_id(body_type: BodyType, cert_req_id: int) -> int:
    """Return the certReqId by which the answer to a message is polled for.

    Args:
        body_type: Of the message that is being waited for.
        cert_req_id: As in its request.
    """
    return cert_req_id if body_type in CERT_RESPONSE_TO else NO_CERT_RESPONSE


def waiting_body(body_type: BodyType, cert_req_id: int) -> bytes:
    """Return the body that tells a requester to wait: ip, cp or kup, otherwise an error (R116).

    Args:
        body_type: Of the message that is answered.
    """
    response_type = CERT_RESPONSE_TO.get(body_type)
    if response_type is None:
        return error_body(_WAITING)
    return cert_rep_body(response_type, CertRepMessage((CertResponse(cert_req_id, _WAITING),)))
