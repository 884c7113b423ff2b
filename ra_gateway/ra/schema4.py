"""Reads transactions that the release before this one stored (schema 4); goes with the next release.

What a CA had answered while its device waited was kept as it came, to be read again. Now what the device is to be told
is kept, and the senderNonce of what went up.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count, takewhile
from typing import Final

from ra_gateway.cmp.bodies import PKICONF_BODY, cert_rep_body, cert_rep_message
from ra_gateway.cmp.certificates import load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.messages import PKIMessage, confirm_wait_time_of
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage

SCHEMA: Final = 4


def read(fields: dict[str, bytes], cert_req_id: int, *, granted: bool) -> dict[str, bytes]:
    """Return the fields of a transaction as they are stored now.

    Args:
        cert_req_id: The device's.
        granted: Whether implicitConfirm is granted.

    Raises:
        ValueError: They are not of that schema.
    """
    found = dict(fields)
    try:
        found["credential_digest"] = _signer_digest(fields.get("opening.response_der", b""))
        for exchange in ("opening", "confirmation"):
            upstream_der = fields.get(f"{exchange}.upstream_der", b"")
            if upstream_der:
                nonce = PKIMessage.from_der(upstream_der).header.sender_nonce
                found[f"{exchange}.upstream_nonce"] = nonce or b""
            answer_der = fields.get(f"{exchange}.answer_der")
            if answer_der is None:
                continue
            answer = PKIMessage.from_der(answer_der)
            is_pkiconf = answer.body_type is BodyType.pkiconf and answer.protection is not None
            known = is_pkiconf or exchange == "opening"
            nonce = answer.header.sender_nonce if known else b""
            path = (fields.get(f"{exchange}.answer_path.{place}") for place in count())
            chain = tuple(takewhile(bool, path))[1:]
            found[f"{exchange}.planned.body_der"] = (
                PKICONF_BODY if exchange == "confirmation" else _body(answer, cert_req_id)
            )
            found[f"{exchange}.planned.sender_nonce"] = nonce or b""
            told = answer.header.info(OID.confirmWaitTime)
            readable = told is not None and confirm_wait_time_of(answer.header) is not None
            confirm_wait_der = (told.value_der if told and readable else None) or b""
            found[f"{exchange}.planned.confirm_wait_der"] = confirm_wait_der
            if granted:
                found[f"{exchange}.planned.implicit_confirm"] = b"1"
            for place, certificate_der in enumerate(chain):
                found[f"{exchange}.planned.chain.{place}"] = certificate_der or b""
    except MalformedMessage as error:
        raise ValueError(f"no message in a transaction of schema {SCHEMA}: {error}") from error
    return found


def _signer_digest(response_der: bytes) -> bytes:
    """Return the digest of the certificate that a response to a device was signed with; empty for none, or a MAC."""
    certificates = PKIMessage.from_der(response_der).extra_certs if response_der else ()
    return load_certificate(certificates[0]).digest if certificates else b""


def _body(answer: PKIMessage, cert_req_id: int) -> bytes:
    """Return the body as the device gets it, without caPubs: the chain has what it needs."""
    if answer.body_type not in CERT_RESPONSE_TO.values():
        return answer.body_der
    content = cert_rep_message(answer.body_content)
    responses = tuple(replace(item, cert_req_id=cert_req_id) for item in content.responses)
    return cert_rep_body(answer.body_type, replace(content, responses=responses, ca_pubs=()))
