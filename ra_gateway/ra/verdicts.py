"""What a CA's answer means for a transaction, and what the device is told of it (steps 8 and 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import (
    PKICONF_BODY,
    PKIHeader,
    PKIMessage,
    PKIStatusInfo,
    rev_rep_content,
)
from ra_gateway.cmp.protection import Protecting, protect
from ra_gateway.cmp.replies import relay_header
from ra_gateway.ra.answers import (
    CheckedAnswer,
    Expected,
    check_information,
    check_pkiconf,
    check_response,
    check_revocation,
    check_waiting,
    checked_before,
    decoded,
    refusal_before,
)
from ra_gateway.ra.forwarding import (
    answer_for_device,
    confirm_until,
    granted_by,
    grants,
    relayed,
)
from ra_gateway.ra.node import Node
from ra_gateway.ra.routes import Endpoint, Upstream
from ra_gateway.ra.transaction import Event, Transaction


@dataclass(frozen=True, slots=True)
class Verdict:
    """A CA's answer that may be believed, and what it means.

    Args:
        event: What happens to the transaction; `issued` may turn into `granted` when the device is answered.
        message: The answer; None where the RA answers without one.
        outcome: For the event (see `MessageHandled`).
        checked: The certificate response, where it is one.
        rejection: What the CA said when it refused.
        changes: Fields of the transaction that the answer fills in.
    """

    event: Event
    message: PKIMessage | None
    outcome: str
    checked: CheckedAnswer | None = None
    rejection: PKIStatusInfo | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def certificate(self) -> Certificate | None:
        """The certificate that was issued."""
        return None if self.checked is None else self.checked.certificate


def judge(
    transaction: Transaction,
    answer_der: bytes,
    nonces: tuple[bytes, ...],
    upstream: Upstream,
    now: datetime,
) -> Verdict:
    """Check a CA's answer to a transaction's current message, and say what it means.

    Args:
        nonces: senderNonces of which the answer must return one.
        now: Aware UTC.

    Raises:
        UpstreamBroken: It must not be relayed.
    """
    message = decoded(answer_der, upstream)
    expected = Expected.of(transaction, nonces)
    if check_waiting(message, expected, upstream, now):
        return Verdict(Event.deferred, message, "waiting")
    match expected.body_type:
        case BodyType.certConf:
            confirmed = check_pkiconf(message, expected, upstream, now)
            return confirmation(transaction, message if confirmed else None)
        case BodyType.rr:
            return _of_revocation(message, check_revocation(message, expected, upstream, now))
        case BodyType.genm:
            return _of_information(message, check_information(message, expected, upstream, now))
        case _:
            return _of_certificate(check_response(message, expected, upstream, now))


def recalled(transaction: Transaction, answer_der: bytes, upstream: Upstream) -> Verdict:
    """Say what an answer means that was checked and stored for a device that was told to wait.

    It is not judged again: since it came, the CA's signer may have expired, or another one may be pinned.
    """
    message = decoded(answer_der, upstream)
    if transaction.confirmation is not None:
        is_pkiconf = message.body_type is BodyType.pkiconf and message.protection is not None
        return confirmation(transaction, message if is_pkiconf else None)
    match transaction.body_type:
        case BodyType.rr:
            (info,) = rev_rep_content(message.body_content).statuses
            return _of_revocation(message, info)
        case BodyType.genm:
            return _of_information(message, refusal_before(message))
        case _:
            path = transaction.current.answer_path
            return _of_certificate(checked_before(message, transaction, path))


def _of_revocation(message: PKIMessage, info: PKIStatusInfo) -> Verdict:
    if info.status is PKIStatus.rejection:
        return Verdict(Event.refused, message, "refused", rejection=info)
    return Verdict(Event.revoked, message, "revoked")


def _of_information(message: PKIMessage, refusal: PKIStatusInfo | None) -> Verdict:
    if refusal is not None:
        return Verdict(Event.refused, message, "refused", rejection=refusal)
    return Verdict(Event.informed, message, "informed")


def _of_certificate(answer: CheckedAnswer) -> Verdict:
    changes: dict[str, Any] = {"response_nonce": answer.message.header.sender_nonce or b""}
    if not answer.issued:
        info = answer.response.status_info
        return Verdict(Event.refused, answer.message, "refused", answer, info, changes)
    changes |= {
        "certificate_der": b"" if answer.certificate is None else answer.certificate.der,
        "ca_cert_req_id": answer.ca_cert_req_id,
        "confirm_locally": granted_by(answer),
    }
    return Verdict(Event.issued, answer.message, "issued", answer, changes=changes)


def confirmation(transaction: Transaction, message: PKIMessage | None) -> Verdict:
    """Return what a certConf means that the CA, or the RA in its place, has taken note of.

    Args:
        message: The CA's pkiConf, if there is one.
    """
    if transaction.confirm_status:
        return Verdict(Event.accepted, message, "confirmed")
    return Verdict(Event.rejected, message, "rejected")


def event_of(endpoint: Endpoint, transaction: Transaction, verdict: Verdict) -> Event:
    """Return what happens to a transaction: a certificate is also granted where nobody is to confirm it."""
    answer = verdict.checked
    if answer is not None and grants(endpoint, transaction, answer):
        return Event.granted
    return verdict.event


class Response(NamedTuple):
    """An answer for a device, and until when it awaits certConf, if it does."""

    der: bytes
    confirm_until: datetime | None


async def respond(
    node: Node,
    endpoint: Endpoint,
    transaction: Transaction,
    verdict: Verdict,
    asked: PKIHeader,
    credential: Protecting,
) -> Response:
    """Return the answer for the device.

    Args:
        asked: Header of what is answered: the message itself, or a pollReq.
        credential: The RA's, or the shared secret that the device's message came under.
    """
    now = node.clock()
    if verdict.checked is not None:
        until = confirm_until(endpoint, transaction, verdict.checked, now)
        der = await answer_for_device(
            endpoint, transaction, asked, verdict.checked, until, credential, now
        )
        return Response(der, until)
    if verdict.event in (Event.accepted, Event.rejected):
        header = (
            node.reply_header(asked)
            if verdict.message is None
            else relay_header(verdict.message.header, asked, now=now, general_info=())
        )
        der = await protect(header, PKICONF_BODY, credential, credential.certificates)
        return Response(der, None)
    if verdict.message is None:
        raise AssertionError("only a confirmation is answered without the CA")
    return Response(await relayed(verdict.message, asked, credential, now), None)
