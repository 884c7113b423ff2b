"""Our decoder and pyasn1 agree on what is a message and on what it says, octets that are none included."""

from __future__ import annotations

import re
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_confirm_content,
    cert_rep_message,
    error_msg_content,
    gen_msg_content,
    nested_messages,
    rev_rep_content,
    rev_req_content,
)
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate, SignaturePOP, cert_req_messages
from ra_gateway.cmp.messages import PKIMessage, assemble, body
from ra_gateway.errors import MalformedMessage
from tests.fuzz import run
from tests.fuzz.mutation import mutated, seeds
from tests.support import oracle
from tests.support.oracle import Reading
from tests.support.strategies import elements, headers, octet_strings
from tests.vectors.book import book


def message_of(der: bytes) -> Reading | None:
    """What our decoder reads, None if it refuses."""
    try:
        message = PKIMessage.from_der(der)
    except MalformedMessage as error:
        return {} if BOUNDED.search(error.detail) else None
    header = message.header
    return {
        "pvno": header.pvno,
        "sender": header.sender_der,
        "recipient": header.recipient_der,
        "message_time": header.message_time,
        "protection_alg": header.protection_alg_der,
        "sender_kid": header.sender_kid,
        "recip_kid": header.recip_kid,
        "transaction_id": header.transaction_id,
        "sender_nonce": header.sender_nonce,
        "recip_nonce": header.recip_nonce,
        "free_text": list(header.free_text),
        "general_info": [(item.info_type, item.value_der) for item in header.general_info],
        "body_type": message.body_type,
        "body_der": message.body_der,
        "protection": message.protection,
        "extra_certs": list(message.extra_certs),
    }


def _status(info: PKIStatusInfo) -> Reading:
    return {
        "status": info.status,
        "texts": list(info.status_string),
        "fail_info": [int(bit) for bit in info.fail_info],
    }


def _template(template: CertTemplate) -> Reading:
    if template.empty_validity:
        # RFC 4211 5 wants one time at least. The decoder leaves that to the dialect: "lenient" takes it.
        raise MalformedMessage("a validity of no times", rule="R1")
    return {
        "version": template.version,
        "serial_number": template.serial_number,
        "issuer": template.issuer_der,
        "subject": template.subject_der,
        "spki": template.spki_der,
        "not_before": template.not_before,
        "not_after": template.not_after,
        "extensions": [(item.oid, item.critical, item.value) for item in template.extensions],
    }


def _requests(content: bytes) -> list[Reading]:
    return [
        {
            "cert_req_id": item.cert_req_id,
            "template": _template(item.template),
            "controls": [(control.type, control.value_der) for control in item.controls],
            "popo": (item.pop.algorithm_der, item.pop.signature)
            if isinstance(item.pop, SignaturePOP)
            else item.pop,
            "reg_info": [(control.type, control.value_der) for control in item.reg_info],
        }
        for item in cert_req_messages(content)
    ]


def _answer(content: bytes) -> Reading:
    message = cert_rep_message(content)
    return {
        "ca_pubs": list(message.ca_pubs),
        "responses": [
            {
                "cert_req_id": item.cert_req_id,
                "status": _status(item.status_info),
                "certificate": item.certificate_der,
                "encrypted": item.encrypted,
            }
            for item in message.responses
        ],
    }


def _confirmation(content: bytes) -> list[Reading]:
    return [
        {
            "cert_hash": item.cert_hash,
            "cert_req_id": item.cert_req_id,
            "status": None if item.status_info is None else _status(item.status_info),
            "hash_alg": None if item.hash_alg is None else item.hash_alg.algorithm.dotted_string,
        }
        for item in cert_confirm_content(content)
    ]


def _error(content: bytes) -> Reading:
    message = error_msg_content(content)
    return {
        "status": _status(message.status_info),
        "error_code": message.error_code,
        "details": list(message.error_details),
    }


def _infos(content: bytes) -> list[tuple[str, bytes | None]]:
    return [(item.info_type, item.value_der) for item in gen_msg_content(content)]


def _revocation(content: bytes) -> list[Any]:
    return [
        (
            _template(item.template),
            [(entry.oid, entry.critical, entry.value) for entry in item.crl_entry_details],
        )
        for item in rev_req_content(content)
    ]


def _revoked(content: bytes) -> Reading:
    message = rev_rep_content(content)
    return {
        "statuses": [_status(item) for item in message.statuses],
        "rev_certs": [(item.issuer_der, item.serial_number) for item in message.rev_certs],
    }


READERS: dict[BodyType, Any] = {
    **dict.fromkeys(
        (BodyType.ir, BodyType.cr, BodyType.kur, BodyType.krr, BodyType.ccr), _requests
    ),
    **dict.fromkeys((BodyType.ip, BodyType.cp, BodyType.kup, BodyType.ccp), _answer),
    BodyType.certConf: _confirmation,
    BodyType.error: _error,
    BodyType.genm: _infos,
    BodyType.genp: _infos,
    BodyType.rr: _revocation,
    BodyType.rp: _revoked,
    BodyType.nested: lambda content: list(nested_messages(content)),
}


BOUNDED = re.compile(r"more than|at most|octets of named bits|elements do not fit")
"""What our decoder says of what it does not look into, and pyasn1 does: see `asn1.spans`."""


def theirs(reader: Any, *arguments: Any) -> Any:
    """What pyasn1 reads, None if it refuses."""
    try:
        return reader(*arguments)
    except oracle.Refused:
        return None


def agree(der: bytes) -> bool:
    """Assert that both read the same, or both refuse; tell whether it is a message with a body that conforms."""
    ours = message_of(der)
    if ours == {} or not same(ours, theirs(oracle.read, der)) or ours is None:
        return False
    if ours["body_type"] not in READERS:
        return True
    body_type, content = ours["body_type"], PKIMessage.from_der(der).body_content
    mine = read_body(body_type, content)
    if mine is BOUNDED:
        return False
    return same(mine, theirs(oracle.read_body, body_type, content)) and mine is not None


def same(ours: Any, other: Any) -> bool:
    """Assert that both read the same, or both refuse.

    Returns:
        False where ours takes an element with tag 0, as anything it does not look into: to pyasn1 that ends contents.
    """
    if other is None and ours is not None and _has_reserved_tag(ours):
        return False
    assert ours == other
    return True


def _has_reserved_tag(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_reserved_tag(item) for name, item in value.items() if name not in OCTETS)
    if isinstance(value, list | tuple):
        return any(_has_reserved_tag(item) for item in value)
    return isinstance(value, bytes) and value[:1] == b"\x00"


OCTETS = {
    "sender_kid",
    "recip_kid",
    "transaction_id",
    "sender_nonce",
    "recip_nonce",
    "protection",
    "cert_hash",
}
"""What is no element, and may begin with anything."""


def read_body(body_type: BodyType, content: bytes) -> Any:
    """What our decoder reads of a body, None if it refuses."""
    try:
        return READERS[body_type](content)
    except MalformedMessage as error:
        return BOUNDED if BOUNDED.search(error.detail) else None


@pytest.mark.requirement(1)
@pytest.mark.parametrize("name", book().vectors)
def test_vectors(name: str) -> None:
    """On every vector."""
    agree(book().vectors[name].der)


@pytest.mark.requirement(1)
def test_the_fuzzers_corpus() -> None:
    """On what the fuzzer found to reach something of its own."""
    for path in run.CORPUS.iterdir():
        agree(path.read_bytes())


def test_both_accept_and_refuse() -> None:
    """The vectors hold a good many of either, so that agreeing is not agreeing on nothing."""
    conforming = [agree(vector.der) for vector in book().vectors.values()]
    assert conforming.count(True) > 130
    assert conforming.count(False) > 60


@pytest.mark.requirement(1)
@settings(max_examples=800)
@given(seed=st.integers(0, 2**64 - 1), data=st.data())
def test_mutated_messages(seed: int, data: st.DataObject) -> None:
    """On whatever a message is turned into."""
    agree(mutated(Random(seed), data.draw(st.sampled_from(seeds()))))


@given(headers, st.sampled_from(BodyType), octet_strings, st.lists(elements(), max_size=2))
def test_generated_messages(
    header: Any, body_type: BodyType, protection: bytes | None, extra_certs: list[bytes]
) -> None:
    """On messages of any header, the codec's own."""
    assert agree(
        assemble(header.to_der(), body(body_type, b"\x30\x00"), protection, extra_certs)
    ) in (
        True,
        False,
    )


@settings(max_examples=400)
@given(elements(), st.sampled_from(sorted(READERS)))
def test_generated_bodies(content: bytes, body_type: BodyType) -> None:
    """On bodies of elements put together at random."""
    mine = read_body(body_type, content)
    assert mine is BOUNDED or same(mine, theirs(oracle.read_body, body_type, content)) in (
        True,
        False,
    )
