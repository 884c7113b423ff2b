"""What every responder answers with: header and protection, refusals, and octets that are no message."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ra_gateway.cmp.bodies import cert_rep_message, error_msg_content, rev_rep_content
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, assemble, body
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.protection import verify_protection
from ra_gateway.cmp.responder import (
    Unreadable,
    protect_reply,
    refusal_body,
    reply_header,
    status_of,
    unreadable_reply,
)
from ra_gateway.cmp.verification import protection_algorithm
from ra_gateway.errors import CMPError, HeaderRefused, MalformedMessage, NotAuthorized
from tests.support.credentials import cmp_credential
from tests.support.dialogue import octets_source
from tests.support.pki import OperatorPKI

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ASKED = PKIHeader(
    directory_name(from_rfc4514("CN=enb1")),
    ANYONE,
    transaction_id=b"T" * 16,
    sender_nonce=b"N" * 16,
)
NO = NotAuthorized("the log's business")


def message(body_der: bytes) -> PKIMessage:
    return PKIMessage.from_der(assemble(ASKED.to_der(), body_der, None))


def refused(error: CMPError, body_type: BodyType) -> PKIMessage:
    return message(refusal_body(error, message(body(body_type, b"\x30\x00"))))


@pytest.mark.parametrize("pvno, expected", [(1, 2), (2, 2), (3, 3), (9, 3)])
def test_an_answer_returns_ids_and_swaps_nonces(pvno: int, expected: int) -> None:
    """RFC 9483 3.1; the version is the asker's, as far as it is one of CMP's (R3)."""
    header = reply_header(replace(ASKED, pvno=pvno), sender_nonce=b"M" * 16, now=NOW)
    assert header == PKIHeader(
        ANYONE,
        ASKED.sender_der,
        expected,
        message_time=NOW,
        transaction_id=b"T" * 16,
        sender_nonce=b"M" * 16,
        recip_nonce=b"N" * 16,
    )


async def test_an_answer_brings_each_certificate_once(operator_pki: OperatorPKI) -> None:
    """RFC 9483 3.3: the signer and its chain first."""
    signer = cmp_credential(operator_pki.ra)
    header = reply_header(ASKED, sender_nonce=b"M" * 16, now=NOW)
    der = await protect_reply(
        header,
        refusal_body(NO, message(body(BodyType.genm))),
        signer,
        (b"\x30\x00", signer.certificate.der),
    )
    answer = PKIMessage.from_der(der)
    assert answer.extra_certs == (*signer.certificates, b"\x30\x00")
    verify_protection(answer, protection_algorithm(answer), signer.certificate)


def test_a_refused_request_is_told_in_its_own_answer() -> None:
    """R112: ip, cp, kup, cp; -1 for a p10cr, 0 where no certReqId can be read."""
    for body_type, response_type in CERT_RESPONSE_TO.items():
        answer = refused(NO, body_type)
        (response,) = cert_rep_message(answer.body_content).responses
        assert answer.body_type is response_type
        assert response.cert_req_id == (-1 if body_type is BodyType.p10cr else 0)
        assert response.status_info == status_of(NO)
    assert rev_rep_content(refused(NO, BodyType.rr).body_content).statuses == (status_of(NO),)


@pytest.mark.parametrize(
    "error, body_type",
    [(HeaderRefused("x"), BodyType.ir), (NO, BodyType.genm), (NO, BodyType.certConf)],
)
def test_any_other_failure_is_told_in_an_error(error: CMPError, body_type: BodyType) -> None:
    """R113: of headers and protection, and of bodies that have no answer to say no in."""
    answer = refused(error, body_type)
    assert answer.body_type is BodyType.error
    assert error_msg_content(answer.body_content).status_info == status_of(error)


def test_what_is_refused_may_be_another_message_than_what_is_answered() -> None:
    """A pollReq is answered with what became of its request."""
    poll = message(body(BodyType.pollReq, b"\x30\x00"))
    answer = message(refusal_body(NO, poll, body_type=BodyType.ir, cert_req_id=7))
    (response,) = cert_rep_message(answer.body_content).responses
    assert (answer.body_type, response.cert_req_id) == (BodyType.ip, 7)


async def test_octets_that_are_no_message_get_an_answer_without_protection(
    operator_pki: OperatorPKI,
) -> None:
    """R1: it is unclear who sent them."""
    reply = await unreadable_reply(
        Unreadable(MalformedMessage("x"), None),
        cmp_credential(operator_pki.ra),
        now=NOW,
        random_octets=octets_source(),
    )
    answer = PKIMessage.from_der(reply.der)
    header = answer.header
    assert (answer.body_type, answer.protection) == (BodyType.error, None)
    assert header.transaction_id != header.sender_nonce
    assert (len(header.transaction_id or b""), len(header.sender_nonce or b"")) == (16, 16)
