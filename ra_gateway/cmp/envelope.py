"""What a message says it is, read without decoding it: for whoever has to choose before anything is computed."""

from __future__ import annotations

from typing import Final, NamedTuple

from ra_gateway.cmp import asn1
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.malformed import header_of
from ra_gateway.errors import MalformedMessage

_MAX_PARTS: Final = 4
"""Of a PKIMessage: header, body, protection, extraCerts."""

_FOLLOWERS: Final = frozenset(
    0xA0 | body_type for body_type in (BodyType.certConf, BodyType.pollReq, BodyType.error)
)


class Envelope(NamedTuple):
    """What anybody may have written: nothing of it is authentic.

    Args:
        follows: Whether its body is one that comes after a request: certConf, pollReq or error.
        transaction_id: b"" where it cannot be read.
    """

    follows: bool
    transaction_id: bytes


def envelope_of(der: bytes) -> Envelope:
    """Return what a message says it is; of octets that are none, what opens something and has no ID."""
    try:
        outer, start, end = asn1.first_element(der, 0)
        parts = asn1.spans(der, start, end, _MAX_PARTS, "PKIMessage")
    except MalformedMessage:
        return Envelope(follows=False, transaction_id=b"")
    header = header_of(der)
    transaction_id = b"" if header is None else header.transaction_id or b""
    is_message = outer == 0x30 and len(parts) > 1 and parts[0][0] == 0x30
    return Envelope(is_message and der[parts[0][2]] in _FOLLOWERS, transaction_id)
