"""Step 8, first half: who sent an answer, to which message, and what a CA's error means.

A CA that says no in an error, under its protection: what it says of the request reaches the device, as the no of an ip
does, but nothing else comes of it, as the CA may have issued. What it says of the RA, of itself, or without protection
is a failure here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from ra_gateway.cmp.bodies import PKIStatusInfo, error_msg_content
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus, Possession
from ra_gateway.cmp.header_checks import HeaderRules, check_answer_header
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.mac_verification import authenticate_answer_by_secret
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.verification import (
    Authenticated,
    authenticate_answer,
    check_authority,
)
from ra_gateway.errors import CMPError, PKIFailureInfo, UpstreamBroken
from ra_gateway.ra.endpoints import Upstream
from ra_gateway.ra.settings import Variant
from ra_gateway.values import Value

ANSWER_RULES: Final = HeaderRules(Strictness.lenient, extra_certs_max_count=64)
"""What a CA does is taken as it is, as long as it is authentic."""

_CA_TROUBLE: Final = frozenset({PKIFailureInfo.systemUnavail, PKIFailureInfo.systemFailure})

_ABOUT_THE_REQUEST: Final = frozenset(
    {
        PKIFailureInfo.badAlg,
        PKIFailureInfo.badRequest,
        PKIFailureInfo.badCertId,
        PKIFailureInfo.badDataFormat,
        PKIFailureInfo.incorrectData,
        PKIFailureInfo.badPOP,
        PKIFailureInfo.certRevoked,
        PKIFailureInfo.unacceptedPolicy,
        PKIFailureInfo.unacceptedExtension,
        PKIFailureInfo.addInfoNotAvailable,
        PKIFailureInfo.badCertTemplate,
        PKIFailureInfo.duplicateCertReq,
    }
)
"""What a CA's error may say of what is asked for, whoever signed the message that it read."""

_ABOUT_THE_MESSAGE: Final = frozenset(
    {
        PKIFailureInfo.badMessageCheck,
        PKIFailureInfo.badTime,
        PKIFailureInfo.wrongAuthority,
        PKIFailureInfo.wrongIntegrity,
        PKIFailureInfo.signerNotTrusted,
        PKIFailureInfo.unsupportedVersion,
        PKIFailureInfo.notAuthorized,
    }
)
"""What it may say of header, protection and sender: the device's own only where its message went up untouched."""

_ABOUT_THE_QUESTION: Final = frozenset(
    {
        PKIFailureInfo.badRequest,
        PKIFailureInfo.badDataFormat,
        PKIFailureInfo.addInfoNotAvailable,
    }
)
"""What a CA's error may say of a genm itself, which the RA passes on as it came: genp has no rejection."""

_REFUSED: Final = "The certification authority refused the request."
_AN_ERROR: Final = "The certification authority answered with an error."


class Expected(Value, frozen=True):
    """What the answer to a request has to fit.

    Args:
        body_type: Of the request; certConf where that is answered.
        asked_type: The same as the CA saw it: cr where an ir goes up so.
        cert_req_id: What the device is told; of a p10cr, the CA may say another.
        asked_cert_req_id: What the CA was asked by.
        nonces: senderNonces of which the answer must return one: the request's, and the last pollReq's.
        public_key_der, subject_der, san: Of the certificate; san is what it must contain, None for no demand.
        target_der: What an rr is about (CertId).
        info_type: What a genm asks for.
        possession: How the request shows possession of its key, which says what the answer brings.
        variant: How the request went up.
        secrets: What an answer under a MAC may be protected with.
    """

    body_type: BodyType
    asked_type: BodyType
    transaction_id: bytes
    nonces: tuple[bytes, ...]
    cert_req_id: int
    asked_cert_req_id: int
    public_key_der: bytes
    subject_der: bytes
    san: tuple[str, ...] | None
    target_der: bytes
    info_type: str
    possession: Possession
    variant: Variant
    secrets: tuple[MACCredential, ...] = ()


@contextmanager
def blamed_on(upstream: Upstream) -> Iterator[None]:
    """Turn whatever is found wrong with an answer into the CA's fault."""
    try:
        yield
    except UpstreamBroken:
        raise
    except CMPError as error:
        raise UpstreamBroken(f"{upstream.name}: {error}", rule=error.rule) from error


def answer_to(
    message: PKIMessage,
    expected: Expected,
    expected_type: BodyType,
    upstream: Upstream,
    now: datetime,
    *,
    known: Iterable[Certificate] = (),
    relayed: bool = True,
) -> Authenticated:
    """Authenticate an answer of a type, and check that it belongs to the request.

    Args:
        known: Certificates that may protect it without a path of their own, besides those that are pinned.
        relayed: Whether its senderNonce goes down, for the device's next message to return.

    Raises:
        UpstreamBroken: It is of another type, not authentic, or the answer to something else.
    """
    if message.body_type is not expected_type:
        if message.body_type is BodyType.error:
            raise _error_of(message, expected, upstream, now)
        raise UpstreamBroken(
            f"{upstream.name} answered {message.body_type.name}, expected {expected_type.name}",
            rule="R85",
        )
    with blamed_on(upstream):
        authenticated = _authenticated(message, expected, upstream, now, known)
        check_answer_header(
            message.header, transaction_id=expected.transaction_id, sender_nonces=expected.nonces
        )
    if relayed and not message.header.sender_nonce:
        # It goes down as it is, for certConf to return: no device could go on without.
        raise UpstreamBroken(f"{upstream.name} answered without senderNonce", rule="R83")
    return authenticated


def _authenticated(
    message: PKIMessage,
    expected: Expected,
    upstream: Upstream,
    now: datetime,
    known: Iterable[Certificate],
) -> Authenticated:
    try:
        if expected.secrets:
            return authenticate_answer_by_secret(message, expected.secrets, upstream.trust)
        known = (*upstream.pinned, *known)
        authenticated = authenticate_answer(message, upstream.trust, known, ANSWER_RULES, now)
        domains = (upstream.issuing, upstream.trust)
        check_authority(authenticated.signer, upstream.pinned, domains, upstream.own())
        upstream.remember(authenticated.signer)
        return authenticated
    except CMPError as error:
        raise UpstreamBroken(f"{upstream.name}: {error}", rule="R84") from error


# --- error ----------------------------------------------------------------------------------------------------


def refusal_in(
    message: PKIMessage, expected: Expected, upstream: Upstream, now: datetime
) -> PKIStatusInfo | None:
    """Return why a CA refuses a request by an error that may be believed; None for anything else.

    Its failInfo has to be about the request, or about the message where that is the device's own.
    """
    if message.body_type is not BodyType.error:
        return None
    info = error_msg_content(message.body_content).status_info
    about = _ABOUT_THE_REQUEST
    if expected.variant is Variant.forward:
        about |= _ABOUT_THE_MESSAGE
    said = set(info.fail_info)
    if info.status is not PKIStatus.rejection or not said or not said <= about:
        return None
    try:
        answer_to(message, expected, BodyType.error, upstream, now, relayed=False)
    except UpstreamBroken:
        return None
    return info


def refused_question(message: PKIMessage, expected: Expected) -> PKIStatusInfo | None:
    """Return the status of an error that is about the question, None for anything else."""
    is_error = message.body_type is BodyType.error and message.protection is not None
    if not is_error or expected.body_type is not BodyType.genm:
        return None
    info = error_msg_content(message.body_content).status_info
    if info.status is not PKIStatus.rejection or not set(info.fail_info) <= _ABOUT_THE_QUESTION:
        return None
    return info if info.fail_info else None


def status_told(refusal: PKIStatusInfo) -> PKIStatusInfo:
    """Return what a device is told of a CA's error: its failInfo; the texts are for the operator."""
    return PKIStatusInfo(PKIStatus.rejection, (_REFUSED,), refusal.fail_info)


def _error_of(
    message: PKIMessage, expected: Expected, upstream: Upstream, now: datetime
) -> UpstreamBroken:
    """Turn an error message into ours: what is not authentic is believed as a failure, and never as more."""
    content = error_msg_content(message.body_content)
    texts = "; ".join((str(content.status_info), *content.error_details))
    what, phrase = "error", _AN_ERROR
    try:
        answer_to(message, expected, BodyType.error, upstream, now, relayed=False)
    except UpstreamBroken as unfit:
        why = "it is not protected" if message.protection is None else unfit.detail
        what, phrase = f"an error that cannot be believed ({why})", UpstreamBroken.phrase
    bits = [bit for bit in content.status_info.fail_info if bit in _CA_TROUBLE]
    error = UpstreamBroken(
        f"{upstream.name} answered with {what}: {texts}",
        fail_info=bits[0] if bits else None,
        phrase=phrase,
        rule="R89",
    )
    error.id_in_use = PKIFailureInfo.transactionIdInUse in content.status_info.fail_info
    return error
