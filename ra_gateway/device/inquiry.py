"""What a base station asks in one message and one answer, sans-IO: a revocation (rr), or information (genm)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from ra_gateway.cmp.bodies import (
    RevDetails,
    error_msg_content,
    gen_msg_body,
    gen_msg_content,
    rev_rep_content,
    rev_req_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.header_checks import (
    NONCE_OCTETS,
    HeaderRules,
    check_answer_header,
    check_header,
    check_version,
)
from ra_gateway.cmp.mac import MACCredential, mac_protected
from ra_gateway.cmp.messages import ANYONE, InfoTypeAndValue, PKIHeader, PKIMessage
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.device.enrollment import require_mac
from ra_gateway.device.errors import EnrollmentRefused, doubting
from ra_gateway.device.kinds import Question
from ra_gateway.device.values import DeviceIdentity, Direction, TracedMessage
from ra_gateway.errors import CMPError

_RULES: Final = HeaderRules(strictness=Strictness.lenient)
_ANSWERS: Final = {BodyType.rr: BodyType.rp, BodyType.genm: BodyType.genp}

_OIDS: Final = {
    Question.caCerts: OID.caCerts,
    Question.rootCaCert: OID.rootCaCert,
    Question.certReqTemplate: OID.certReqTemplate,
}


def revocation_body(certificate: Certificate, reason: int) -> bytes:
    """Return the body of an rr for a certificate.

    Args:
        reason: CRLReason.
    """
    details = RevDetails(
        CertTemplate(issuer_der=certificate.issuer_der, serial_number=certificate.serial_number),
        (Extension(OID.reasonCode, False, bytes((0x0A, 1, reason))),),
    )
    return rev_req_body(details)


def question_body(question: Question) -> bytes:
    """Return the body of a genm that asks for something."""
    return gen_msg_body(BodyType.genm, (InfoTypeAndValue(_OIDS[question]),))


class Inquiry:
    """One rr or genm, and its answer.

    Args:
        identity: Who the device is; its operator's root has to be known, but where a MAC protects the answer.
        body_type, body_der: rr or genm.
        clock: Returns the time, aware UTC.
        random_octets: Returns that many random octets, fresh in each call.
        message_time: Send messageTime.
    """

    def __init__(
        self,
        identity: DeviceIdentity,
        body_type: BodyType,
        body_der: bytes,
        *,
        clock: Callable[[], datetime],
        random_octets: Callable[[int], bytes],
        message_time: bool = True,
    ) -> None:
        self.trace: list[TracedMessage] = []
        self.transaction_id = random_octets(NONCE_OCTETS)
        self._nonce = random_octets(NONCE_OCTETS)
        self._identity, self._clock = identity, clock
        self._body_type, self._body_der = body_type, body_der
        self._message_time = message_time

    async def request(self) -> bytes:
        """Return the message."""
        credential = self._identity.credential
        header = PKIHeader(
            sender_der=credential.protector.sender_der,
            recipient_der=ANYONE,
            message_time=self._clock() if self._message_time else None,
            transaction_id=self.transaction_id,
            sender_nonce=self._nonce,
        )
        der = await protect(header, self._body_der, credential, credential.certificates)
        self.trace.append(TracedMessage(Direction.sent, self._clock(), der, self._body_type))
        return der

    def receive(self, der: bytes) -> tuple[InfoTypeAndValue, ...]:
        """Take the answer; return what it tells, nothing after a revocation.

        Raises:
            EnrollmentRefused: The other side said no.
            AnswerUntrusted: The answer cannot be believed.
        """
        now = self._clock()
        with doubting():
            message = PKIMessage.from_der(der)
        self.trace.append(TracedMessage(Direction.received, now, der, message.body_type))
        doubt = self._doubt(message, now)
        with doubting():
            if message.body_type is BodyType.error:
                refusal = error_msg_content(message.body_content).status_info
                raise EnrollmentRefused(refusal, message.body_type, doubt)
            if message.body_type is not _ANSWERS[self._body_type]:
                raise CMPError(f"it is {message.body_type.name}")
            if message.body_type is BodyType.genp:
                told, status = gen_msg_content(message.body_content), None
            else:
                told, status = (), rev_rep_content(message.body_content).statuses[0]
        if status is not None and not status.issued:
            raise EnrollmentRefused(status, message.body_type, doubt)
        if doubt:
            with doubting():
                raise CMPError(doubt)
        return told

    def _doubt(self, message: PKIMessage, now: datetime) -> str:
        """Return why an answer cannot be authenticated, "" if it can."""
        credential, trust = self._identity.credential, self._identity.trust
        try:
            check_version(message.header)
            check_header(message.header, _RULES, first=False)
            check_answer_header(
                message.header, transaction_id=self.transaction_id, sender_nonces={self._nonce}
            )
            if isinstance(credential, MACCredential) and mac_protected(message):
                require_mac(message, credential)
            elif trust is None:
                return "the device has no operator root"
            else:
                authenticate_answer(message, trust, (), _RULES, now)
        except CMPError as error:
            return error.detail
        return ""
