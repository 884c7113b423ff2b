"""What whoever answers CMP does alike: the gateway, the bundled CA, and the upstreams that only sign.

An answer's header, its protection, the body that refuses, the answer to octets that are no message, and what came
nested. Random octets, times and keys come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import InitVar
from datetime import datetime
from typing import Final, NamedTuple

from ra_gateway.cmp.bodies import (
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevRepContent,
    cert_rep_body,
    error_body,
    nested_messages,
    rev_rep_body,
)
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_id_of
from ra_gateway.cmp.header_checks import NONCE_OCTETS
from ra_gateway.cmp.malformed import fault_of, header_of
from ra_gateway.cmp.messages import (
    ANYONE,
    CMP2000,
    CMP2021,
    InfoTypeAndValue,
    PKIHeader,
    PKIMessage,
    assemble,
)
from ra_gateway.cmp.protection import Protecting, protect
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.cmp.verification import AuthenticatedMessage
from ra_gateway.errors import CMPError, HeaderRefused, MalformedMessage, PKIFailureInfo

_SEAL: Final = Seal(__name__)


class Reply(NamedTuple):
    """An answer; `understood` is False where not even the request's IDs could be read (HTTP then says 400)."""

    der: bytes
    understood: bool


class Unreadable(NamedTuple):
    """Octets that are no PKIMessage.

    Args:
        error: Why, with the name of the field.
        header: What can be read of it for an answer (`malformed.header_of`); None for nothing.
    """

    error: MalformedMessage
    header: PKIHeader | None

    @classmethod
    def of(cls, der: bytes, error: MalformedMessage) -> Unreadable:
        """Look for what can be read of octets that do not decode."""
        return cls(fault_of(der, error), header_of(der))

    @property
    def transaction_id(self) -> str:
        """The transactionID in hex, "" where it cannot be read."""
        return "" if self.header is None else (self.header.transaction_id or b"").hex()


def reply_header(
    request: PKIHeader,
    *,
    sender_nonce: bytes,
    now: datetime,
    general_info: tuple[InfoTypeAndValue, ...] = (),
) -> PKIHeader:
    """Return the header of an answer that we author (RFC 9483 5.1).

    Args:
        sender_nonce: 16 fresh random octets.
        now: Becomes messageTime.
    """
    return PKIHeader(
        pvno=min(max(request.pvno, CMP2000), CMP2021),
        sender_der=ANYONE,
        recipient_der=request.sender_der,
        message_time=now,
        transaction_id=request.transaction_id,
        sender_nonce=sender_nonce,
        recip_nonce=request.sender_nonce,
        general_info=general_info,
    )


async def protect_reply(
    header: PKIHeader, body_der: bytes, credential: Protecting, chain: Iterable[bytes] = ()
) -> bytes:
    """Return an answer under its protection, with the certificates to verify it, and those it brings.

    Args:
        header: sender, senderKID and protectionAlg are filled in from the credential.
        chain: DER of certificates that go along, behind the credential's own (RFC 9483 3.3).
    """
    extra_certs = dict.fromkeys((*credential.certificates, *chain))
    return await protect(header, body_der, credential, extra_certs)


# --- refusals -------------------------------------------------------------------------------------------------


def status_of(error: CMPError) -> PKIStatusInfo:
    """Return the PKIStatusInfo that tells a peer of an error: its failInfo and its fixed phrase, no more."""
    return PKIStatusInfo(PKIStatus.rejection, (error.phrase,), (error.fail_info,))


def refusal_body(
    error: CMPError,
    message: PKIMessage,
    *,
    body_type: BodyType | None = None,
    cert_req_id: int | None = None,
) -> bytes:
    """Return the body that tells of an error (RFC 9483 3.6).

    A failure in the body of an ir, cr, kur, p10cr or rr is told in ip, cp, kup, cp or rp (R112); every other one in
    an error (R113).

    Args:
        message: Is answered.
        body_type, cert_req_id: Of what is refused, where that is another message.
    """
    status = status_of(error)
    if body_type is None:  # ir is 0
        body_type = message.body_type
    if error.in_body and body_type is BodyType.rr:
        return rev_rep_body(RevRepContent((status,)))
    response_type = CERT_RESPONSE_TO.get(body_type)
    if not error.in_body or response_type is None:
        return error_body(status)
    if cert_req_id is None:
        cert_req_id = cert_req_id_of(message)
    return cert_rep_body(response_type, CertRepMessage((CertResponse(cert_req_id, status),)))


async def unreadable_reply(
    unreadable: Unreadable,
    credential: Protecting,
    *,
    now: datetime,
    random_octets: Callable[[int], bytes],
) -> Reply:
    """Return the error for octets that are no PKIMessage.

    With the IDs of whoever sent them and protected, where those can be read: a client drops any other. Otherwise
    unprotected, because nobody could tell what it belongs to (RFC 9483 3.6.4).

    Args:
        random_octets: Draws that many, for the answer's own IDs.
    """
    body_der = error_body(status_of(unreadable.error))
    if unreadable.header is not None:
        header = reply_header(unreadable.header, sender_nonce=random_octets(NONCE_OCTETS), now=now)
        try:
            return Reply(await protect_reply(header, body_der, credential), understood=True)
        except Exception:  # the key cannot sign: an unprotected error is all that is left
            return Reply(assemble(header.to_der(), body_der, None), understood=True)
    header = PKIHeader(
        pvno=CMP2000,
        sender_der=ANYONE,
        recipient_der=ANYONE,
        transaction_id=random_octets(NONCE_OCTETS),
        sender_nonce=random_octets(NONCE_OCTETS),
    )
    return Reply(assemble(header.to_der(), body_der, None), understood=False)


# --- nested ---------------------------------------------------------------------------------------------------


@proof(_SEAL)
class Single:
    """A message to be answered as if it had come plain: the RA adds its signature, and nothing else."""

    message: PKIMessage
    seal: InitVar[Seal]


@proof(_SEAL)
class Batch:
    """Messages that came together, each to be answered for itself; to be in a batch vouches for none of them.

    Args:
        members: In order.
    """

    members: tuple[PKIMessage | Unreadable, ...]
    seal: InitVar[Seal]


def read_nested(authenticated: AuthenticatedMessage, *, batch_max: int) -> Single | Batch:
    """Read the body of an authenticated nested: one message, or several that were sent together (RFC 9483 5.2.2).

    A batch has IDs of its own. One message under the transactionID of the outer header is no batch; nor is one
    whose senderNonce is the outer one: its transactionID should have been copied too.

    Args:
        batch_max: Most messages that are taken.

    Raises:
        HeaderRefused: The IDs do not fit (badRequest, badSenderNonce), twice the same, another nested inside, too many
            messages, or none.
        MalformedMessage: It does not parse.
    """
    outer = authenticated.message.header
    ders = nested_messages(authenticated.message.body_content)
    if not 1 <= len(ders) <= batch_max:
        raise HeaderRefused(
            f"{len(ders)} messages in nested; 1 to {batch_max} are taken", rule="RFC 9483 5.2.2"
        )
    if len(ders) == 1:
        inner = PKIMessage.from_der(ders[0])
        same_id = inner.header.transaction_id == outer.transaction_id
        if same_id or inner.header.sender_nonce == outer.sender_nonce:
            return _single(inner, outer)
    members = tuple(_decoded(der) for der in ders)
    ids = [item.header.transaction_id for item in members if isinstance(item, PKIMessage)]
    known = [item for item in (outer.transaction_id, *ids) if item]
    if len(set(known)) < len(known):
        raise HeaderRefused("the same transactionID twice in a batch", rule="R126")
    return Batch(members, _SEAL)


def _decoded(der: bytes) -> PKIMessage | Unreadable:
    try:
        return PKIMessage.from_der(der)
    except MalformedMessage as error:
        return Unreadable.of(der, error)


def _single(inner: PKIMessage, outer: PKIHeader) -> Single:
    if not inner.header.transaction_id:
        raise MalformedMessage("no transactionID in the message inside nested", rule="R4")
    if inner.header.transaction_id != outer.transaction_id:
        raise HeaderRefused("nested has another transactionID than what is inside", rule="R122")
    if inner.header.sender_nonce != outer.sender_nonce:
        raise HeaderRefused(
            "nested has another senderNonce than what is inside",
            fail_info=PKIFailureInfo.badSenderNonce,
            rule="R122",
        )
    if inner.body_type is BodyType.nested:
        raise HeaderRefused("nested inside nested", rule="R128")
    return Single(inner, _SEAL)
