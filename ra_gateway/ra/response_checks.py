"""Step 8: what a CA answered is checked before anything of it reaches a device, and what the device is told is planned.

The device must never be shown the CA's fault as its own: whatever is wrong here becomes `UpstreamBroken`
(systemFailure towards the device), and what was wrong is told to the operator. Whose answer it is, is checked by
`ca_answers`.

All of it is decided once, when the answer comes: a device that was told to wait gets what was planned then, though
the CA's signer may have expired since.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ra_gateway.cmp.algorithms import canonical_spki
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    RevRepContent,
    cert_rep_body,
    cert_rep_message,
    error_body,
    error_msg_content,
    gen_msg_content,
    rev_rep_body,
    rev_rep_content,
)
from ra_gateway.cmp.certificates import (
    Certificate,
    KeyUsage,
    keep_certificates,
    load_certificate,
)
from ra_gateway.cmp.codes import (
    CERT_RESPONSE_TO,
    P10CR_CERT_REQ_ID,
    PRIVILEGED_PURPOSES,
    RESPONSE_TO,
    BodyType,
    PKIStatus,
    Possession,
    is_cert_req_id,
)
from ra_gateway.cmp.crmf import CertId, cert_id
from ra_gateway.cmp.header_checks import check_answer_header
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.messages import PKIHeader, PKIMessage, confirm_wait_time_of
from ra_gateway.cmp.names import general_name_key, general_name_keys, name_of, same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.polling import (
    NO_CERT_RESPONSE,
    poll_rep_body,
    poll_rep_content,
    polled_cert_req_id,
)
from ra_gateway.cmp.requests import require_delivery
from ra_gateway.cmp.signers import certificate_bag
from ra_gateway.cmp.trust import Path
from ra_gateway.cmp.verification import Authenticated, AuthenticatedMessage
from ra_gateway.errors import CMPError, MalformedMessage, PKIFailureInfo, UpstreamBroken
from ra_gateway.events import Outcome
from ra_gateway.ra.ca_answers import (
    ANSWER_RULES,
    Expected,
    answer_to,
    blamed_on,
    refusal_in,
    refused_question,
    status_told,
)
from ra_gateway.ra.endpoints import Endpoint, Upstream
from ra_gateway.ra.general_messages import ANSWER_TO
from ra_gateway.ra.registration import check_no_ra
from ra_gateway.ra.settings import CaPubs, CAQuirk, ImplicitConfirm, Variant
from ra_gateway.ra.transaction import Event, PlannedResponse, Transaction
from ra_gateway.values import Value, replace

_CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far ahead of our clock a new certificate may begin; refusing it would waste a certificate."""

_REVOKED: Final = frozenset(
    {PKIStatus.accepted, PKIStatus.grantedWithMods, PKIStatus.revocationNotification}
)


class CheckedResponse(Value, frozen=True):
    """A CA's answer that may be believed, and what it means.

    Args:
        event: What happens to the transaction.
        planned: What the device is to be told.
        certificate: The one that was issued; None where there is none, and where it is encrypted.
        rejection: What the CA said when it refused.
        denied: Whether it says no by an error, which it may sign for anybody, or without protection: it may have
            issued, or revoked.
        is_certificate_response: Whether it is an ip, cp or kup, whose senderNonce certConf returns.
        issued: Whether there is a certificate, readable or not.
        ca_cert_req_id: certReqId as the CA said it.
        confirmed_by_ca: Whether the CA has granted implicitConfirm: it awaits no certConf.
    """

    event: Event
    planned: PlannedResponse
    outcome: Outcome
    certificate: Certificate | None = None
    rejection: PKIStatusInfo | None = None
    denied: bool = False
    is_certificate_response: bool = False
    issued: bool = False
    ca_cert_req_id: int = 0
    confirmed_by_ca: bool = False


class _CertificateResponse(Value, frozen=True):
    """A CA's ip, cp or kup that may be relayed: a rejection, or a certificate that fits the request.

    Args:
        content: Of the message, but with the certReqId of the request: after a p10cr some CAs say 0.
        ca_cert_req_id: What the CA said.
        certificate: None for a rejection, and where it is encrypted.
        path: From the certificate (of the CA's answer, where that is encrypted) to the operator's root; empty for a
            rejection.
    """

    message: PKIMessage
    content: CertRepMessage
    response: CertResponse
    certificate: Certificate | None
    path: Path
    ca_cert_req_id: int

    @property
    def altered(self) -> bool:
        """Whether the content is no longer the message's, octet by octet."""
        return self.message.protection is None or (self.ca_cert_req_id != self.response.cert_req_id)


def decoded(der: bytes, upstream: Upstream) -> PKIMessage:
    """Decode what a CA answered.

    Raises:
        UpstreamBroken: It is no PKIMessage.
    """
    try:
        return PKIMessage.from_der(der)
    except MalformedMessage as error:
        raise UpstreamBroken(f"{upstream.name}: {error}", rule="R84") from error


def expected_of(
    transaction: Transaction,
    nonces: tuple[bytes, ...],
    secrets: tuple[MACCredential, ...] = (),
) -> Expected:
    """Return what is expected of the answer to a transaction's current message."""
    confirming = transaction.confirmation is not None
    return Expected(
        body_type=BodyType.certConf if confirming else transaction.body_type,
        asked_type=BodyType.certConf if confirming else transaction.asked_type,
        transaction_id=transaction.ca_transaction_id or transaction.key.transaction_id,
        nonces=nonces,
        cert_req_id=transaction.cert_req_id,
        asked_cert_req_id=P10CR_CERT_REQ_ID
        if transaction.body_type is BodyType.p10cr and not confirming
        else transaction.cert_req_id,
        public_key_der=transaction.public_key_der,
        subject_der=transaction.subject_der,
        san=transaction.san,
        target_der=transaction.target_der,
        info_type=transaction.info_type,
        possession=Possession(transaction.possession),
        variant=Variant(transaction.variant),
        secrets=secrets,
    )


def validate(
    transaction: Transaction,
    answer_der: bytes,
    nonces: tuple[bytes, ...],
    endpoint: Endpoint,
    upstream: Upstream,
    now: datetime,
    secrets: tuple[MACCredential, ...] = (),
) -> CheckedResponse:
    """Check a CA's answer to a transaction's current message, and plan what the device is told.

    Args:
        nonces: senderNonces of which the answer must return one.
        now: Aware UTC.
        secrets: What an answer under a MAC may be protected with.

    Raises:
        UpstreamBroken: It must not be relayed.
    """
    message = decoded(answer_der, upstream)
    expected = expected_of(transaction, nonces, secrets)
    waiting = check_waiting(message, expected, upstream, now)
    if waiting is not None:
        planned = PlannedResponse(waiting.body_der, message.header.sender_nonce or b"")
        return CheckedResponse(
            Event.deferred, planned, Outcome.waiting, ca_cert_req_id=waiting.ca_cert_req_id
        )
    if message.body_type is BodyType.error and expected.body_type is not BodyType.certConf:
        refusal = refusal_in(message, expected, upstream, now)
        if refusal is not None and refused_question(message, expected) is None:
            return _refused(message, expected, refusal)
    match expected.body_type:
        case BodyType.certConf:
            confirmed = check_pkiconf(message, expected, upstream, now)
            return planned_confirmation(transaction, message.header if confirmed else None)
        case BodyType.rr:
            info = check_revocation(message, expected, upstream, now)
            rejection = info if info.status is PKIStatus.rejection else None
            return _as_asked(message, Event.revoked, Outcome.revoked, rejection)
        case BodyType.genm:
            rejection = check_information(message, expected, upstream, now)
            return _as_asked(message, Event.informed, Outcome.informed, rejection)
        case _:
            answer = check_response(message, expected, upstream, now)
            if endpoint.reserved:
                check_no_ra(answer.certificate, transaction, endpoint.reserved, upstream.name)
            return _of_certificate(transaction, answer, endpoint)


def planned_confirmation(transaction: Transaction, answer: PKIHeader | None) -> CheckedResponse:
    """Return what a certConf means that the CA, or the RA in its place, has taken note of.

    Args:
        answer: Header of the CA's pkiConf, if there is one.
    """
    planned = PlannedResponse(PKICONF_BODY, (answer and answer.sender_nonce) or b"")
    if transaction.confirm_status:
        return CheckedResponse(Event.accepted, planned, Outcome.confirmed)
    return CheckedResponse(Event.rejected, planned, Outcome.rejected)


def _as_it_came(message: PKIMessage) -> PlannedResponse:
    return PlannedResponse(message.body_der, message.header.sender_nonce or b"")


def _as_asked(
    message: PKIMessage, event: Event, outcome: Outcome, rejection: PKIStatusInfo | None
) -> CheckedResponse:
    """Return what an rp, a genp, or the error in place of a genp, means."""
    planned = _as_it_came(message)
    if rejection is not None:
        return CheckedResponse(Event.refused, planned, Outcome.refused, rejection=rejection)
    return CheckedResponse(event, planned, outcome)


def _refused(message: PKIMessage, expected: Expected, refusal: PKIStatusInfo) -> CheckedResponse:
    """Return what an error in the place of an ip, cp, kup, rp or genp means: the no of the answer that was expected.

    It is told as that, and believed no further: who sends a CA octets of his own gets an error under its signature,
    with the transactionID and nonce of his choice, and may put it in the place of the answer.
    """
    status = status_told(refusal)
    response_type = CERT_RESPONSE_TO.get(expected.body_type)
    if response_type is not None:
        response = CertResponse(expected.cert_req_id, status)
        body_der = cert_rep_body(response_type, CertRepMessage((response,)))
    elif expected.body_type is BodyType.rr:
        body_der = rev_rep_body(RevRepContent((status,)))
    else:
        body_der = error_body(status)
    planned = PlannedResponse(body_der, message.header.sender_nonce or b"")
    denied = expected.body_type is not BodyType.genm
    event = Event.failed if denied else Event.refused
    return CheckedResponse(event, planned, Outcome.refused, rejection=refusal, denied=denied)


def _of_certificate(
    transaction: Transaction, answer: _CertificateResponse, endpoint: Endpoint
) -> CheckedResponse:
    """Plan an ip, cp or kup: a certificate is granted instead of issued where nobody is to confirm it."""
    header, info = answer.message.header, answer.response.status_info
    issued, implicit = info.issued, info.issued and header.implicit_confirm
    granted = (
        implicit
        and endpoint.settings.implicit_confirm is ImplicitConfirm.relay
        and transaction.implicit_asked
        and transaction.possession != Possession.encr_cert
    )
    body_der, content = answer.message.body_der, answer.content
    ca_pubs = _ca_pubs(endpoint, transaction.body_type, answer) if issued else ()
    response_type = CERT_RESPONSE_TO[transaction.body_type]
    if (
        ca_pubs != content.ca_pubs
        or answer.altered
        or response_type is not answer.message.body_type
    ):
        body_der = cert_rep_body(response_type, replace(content, ca_pubs=ca_pubs))
    told = header.info(OID.confirmWaitTime) if confirm_wait_time_of(header) else None
    planned = PlannedResponse(
        body_der,
        header.sender_nonce or b"",
        granted,
        (told and told.value_der) or b"",
        chain_for(endpoint, transaction.body_type, answer.path[1:]),
    )
    event, outcome = Event.granted if granted else Event.issued, Outcome.issued
    denied = not issued and answer.message.protection is None
    if not issued:
        event, outcome = Event.failed if denied else Event.refused, Outcome.refused
    return CheckedResponse(
        event,
        planned,
        outcome,
        answer.certificate,
        None if issued else info,
        denied,
        is_certificate_response=True,
        issued=issued,
        ca_cert_req_id=answer.ca_cert_req_id,
        confirmed_by_ca=implicit,
    )


def chain_for(endpoint: Endpoint, body_type: BodyType, path: Path) -> tuple[bytes, ...]:
    """Return the certificates (DER) that a device is sent for its new one: up to the root, which kup leaves out.

    Args:
        body_type: Of the request.
        path: Of the new certificate, without it.
    """
    renews = body_type is BodyType.kur and not endpoint.settings.kup_root
    if renews and path and path[-1].self_issued:
        path = path[:-1]  # T48: who renews has it
    return tuple(item.der for item in path)


def _ca_pubs(
    endpoint: Endpoint, body_type: BodyType, answer: _CertificateResponse
) -> tuple[bytes, ...]:
    # R93: only an ip may carry caPubs, and only with a certificate
    if body_type is not BodyType.ir:
        return ()
    match endpoint.settings.ca_pubs:
        case CaPubs.relay:
            return answer.content.ca_pubs
        case CaPubs.root:
            return tuple(item.der for item in answer.path[-1:])
        case CaPubs.drop:
            return ()


# --- waiting --------------------------------------------------------------------------------------------------


class Waiting(NamedTuple):
    """A CA's word that says to wait, as its device is told it, and the certReqId by which the CA is polled."""

    body_der: bytes
    ca_cert_req_id: int


def check_waiting(
    message: PKIMessage, expected: Expected, upstream: Upstream, now: datetime
) -> Waiting | None:
    """Return what a CA's answer means that says to wait, a pollRep or the status waiting; None for others (R116, R117).

    Raises:
        UpstreamBroken: It does, but must not be believed or relayed.
    """
    with blamed_on(upstream):
        body_type, body_der, told = message.body_type, message.body_der, NO_CERT_RESPONSE
        if body_type is BodyType.error:
            info = error_msg_content(message.body_content).status_info
            if info.status is not PKIStatus.waiting:
                return None
            if expected.body_type in CERT_RESPONSE_TO:
                raise UpstreamBroken(
                    f"{upstream.name} answered a certificate request with error and status waiting",
                    rule="R116",
                )
            if info.fail_info:
                raise UpstreamBroken(f"{upstream.name} says waiting and {info}", rule="R116")
        elif body_type is BodyType.pollRep:
            asked = polled_cert_req_id(expected.body_type, expected.asked_cert_req_id)
            answer = poll_rep_content(message.body_content)
            told = answer.cert_req_id
            if not is_cert_req_id(told, asked, expected.body_type):
                raise UpstreamBroken(
                    f"{upstream.name} answered certReqId {told} in pollRep, expected {asked}",
                    rule="R117",
                )
            own = polled_cert_req_id(expected.body_type, expected.cert_req_id)
            if told != own:
                body_der = poll_rep_body(replace(answer, cert_req_id=own))
        elif body_type is CERT_RESPONSE_TO.get(expected.asked_type):
            content = cert_rep_message(message.body_content)
            if [item.status_info.status for item in content.responses] != [PKIStatus.waiting]:
                return None
            (response,) = content.responses
            told = response.cert_req_id
            if response.certificate_der or response.encrypted or response.status_info.fail_info:
                raise UpstreamBroken(
                    f"{upstream.name} says waiting, and more than that", rule="R116"
                )
            own_type = CERT_RESPONSE_TO[expected.body_type]
            if told != expected.cert_req_id or body_type is not own_type:
                own_response = replace(response, cert_req_id=expected.cert_req_id)
                body_der = cert_rep_body(own_type, replace(content, responses=(own_response,)))
        else:
            return None
        answer_to(message, expected, body_type, upstream, now)
        return Waiting(body_der, told)


# --- ip, cp, kup ----------------------------------------------------------------------------------------------


def check_response(
    message: PKIMessage, expected: Expected, upstream: Upstream, now: datetime
) -> _CertificateResponse:
    """Check the answer to an ir, cr, kur or p10cr.

    Args:
        now: Aware UTC.

    Raises:
        UpstreamBroken: It must not be relayed.
    """
    expected_type = RESPONSE_TO[expected.asked_type]
    with blamed_on(upstream):
        refused = _unprotected_rejection(message, expected, expected_type, upstream)
        if refused is not None:
            return refused
        authenticated = answer_to(message, expected, expected_type, upstream, now)
        content = cert_rep_message(message.body_content)
    try:
        return _certificate_response(message, authenticated, content, expected, upstream, now)
    except UpstreamBroken as error:
        # It was issued, whatever is wrong with it: somebody has to see to its end.
        issued = (item.certificate_der for item in content.responses)
        error.certificate_der = next(filter(None, issued), b"")
        raise


def _certificate_response(
    message: PKIMessage,
    authenticated: Authenticated,
    content: CertRepMessage,
    expected: Expected,
    upstream: Upstream,
    now: datetime,
) -> _CertificateResponse:
    """Check what an ip, cp or kup of the CA's says."""
    ids = [response.cert_req_id for response in content.responses]
    if len(ids) != 1 or not is_cert_req_id(ids[0], expected.asked_cert_req_id, expected.body_type):
        raise UpstreamBroken(
            f"{upstream.name} answered certReqId {ids}, expected [{expected.asked_cert_req_id}]",
            rule="R85",
        )
    ca_cert_req_id = ids[0]
    response = replace(content.responses[0], cert_req_id=expected.cert_req_id)
    content = replace(content, responses=(response,))
    status = response.status_info.status
    if status is PKIStatus.rejection:
        if response.certificate_der is not None or response.encrypted:
            raise UpstreamBroken(f"{upstream.name} rejected and sent a certificate", rule="R96")
        return _CertificateResponse(message, content, response, None, (), ca_cert_req_id)
    if not response.status_info.issued:
        raise UpstreamBroken(f"{upstream.name} answered with status {status.name}", rule="R85")
    if response.status_info.fail_info:
        raise UpstreamBroken(f"{upstream.name} accepted, and with failInfo", rule="R96")
    with blamed_on(upstream):
        require_delivery(expected.possession, response)
    if response.certificate_der is None:
        # For the device alone to read; what it says shows when the CA gets certConf.
        path = authenticated.path if isinstance(authenticated, AuthenticatedMessage) else ()
        return _CertificateResponse(message, content, response, None, path, ca_cert_req_id)
    certificate, path = _check_certificate(
        response.certificate_der, authenticated, expected, upstream, now
    )
    return _CertificateResponse(message, content, response, certificate, path, ca_cert_req_id)


def _unprotected_rejection(
    message: PKIMessage, expected: Expected, expected_type: BodyType, upstream: Upstream
) -> _CertificateResponse | None:
    """Return a rejection that nobody protects, where the CA is known for them; None for anything else.

    Whoever can forge it could as well have kept the true answer back. What it says in words goes to the log alone: the
    device would read them under the RA's signature.
    """
    tolerated = CAQuirk.unprotected_rejection in upstream.settings.tolerate
    if not tolerated or message.protection is not None or message.body_type is not expected_type:
        return None
    content = cert_rep_message(message.body_content)
    for response in content.responses:
        status = response.status_info.status
        if status is not PKIStatus.rejection or response.certificate_der or response.encrypted:
            return None
    if len(content.responses) != 1 or not message.header.sender_nonce:
        return None
    check_answer_header(
        message.header, transaction_id=expected.transaction_id, sender_nonces=expected.nonces
    )
    (response,) = content.responses
    # The CA may have put any number there; the device is to find its own.
    own = replace(response, cert_req_id=expected.cert_req_id)
    told = replace(own, status_info=status_told(own.status_info))
    return _CertificateResponse(
        message, CertRepMessage((told,)), own, None, (), response.cert_req_id
    )


def _check_certificate(
    der: bytes,
    authenticated: Authenticated,
    expected: Expected,
    upstream: Upstream,
    now: datetime,
) -> tuple[Certificate, Path]:
    try:
        certificate = load_certificate(der)
        ours = expected.possession is Possession.key_generation
        # Which key it is counts, and not how the CA spells it.
        own_key = canonical_spki(expected.public_key_der)
        if not ours and canonical_spki(certificate.spki_der) != own_key:
            raise UpstreamBroken(
                f"{upstream.name} certified another key than the requested one", rule="R86"
            )
        if upstream.settings.expected_subject != "any" and not same_name(
            certificate.subject_der, expected.subject_der
        ):
            raise UpstreamBroken(
                f"{upstream.name} issued for {certificate.subject}, not for the requested subject",
                rule="R88",
            )
        _check_san(certificate, expected, upstream)
        _check_no_authority(certificate, upstream)
        bag = certificate_bag(authenticated.message, ANSWER_RULES)
        if now < certificate.not_before <= now + _CLOCK_SKEW:
            now = certificate.not_before  # a CA whose clock is a little ahead of ours
        path = upstream.issuing.find_path(certificate, bag, now)
        keep_certificates(path)  # certConf, and what follows it, come back to it
        return certificate, _to_root(path, upstream, bag, now)
    except UpstreamBroken:
        raise
    except CMPError as error:
        raise UpstreamBroken(f"{upstream.name}: {error}", rule="R87") from error


def _check_no_authority(certificate: Certificate, upstream: Upstream) -> None:
    """Refuse to hand a device what it could sign in the name of the PKI with."""
    usage = certificate.key_usage or frozenset()
    if certificate.is_ca or usage & {KeyUsage.keyCertSign, KeyUsage.cRLSign}:
        raise UpstreamBroken(f"{upstream.name} issued a CA certificate", rule="R87")
    if certificate.extended_key_usage & PRIVILEGED_PURPOSES:
        raise UpstreamBroken(
            f"{upstream.name} issued a certificate for a purpose that no device may have",
            rule="R87",
        )


def _to_root(path: Path, upstream: Upstream, bag: list[Certificate], now: datetime) -> Path:
    """Prolong a path that ends at a configured issuing CA: a base station needs the root (R140)."""
    if path[-1].self_issued:
        return path
    try:
        return (*path[:-1], *upstream.trust.find_path(path[-1], bag, now, remember_leaf=True))
    except CMPError:
        return path  # a CA under another root than its CMP signer: the path is valid as it is


def _check_san(certificate: Certificate, expected: Expected, upstream: Upstream) -> None:
    if expected.san is None or upstream.settings.expected_subject == "any":
        return
    found = certificate.subject_alt_name_der
    missing = {general_name_key(name) for name in expected.san} - general_name_keys(found)
    if missing:
        raise UpstreamBroken(
            f"{upstream.name} left out subjectAltName {', '.join(sorted(missing))}", rule="R88"
        )


# --- rp, genp -------------------------------------------------------------------------------------------------


def check_revocation(
    message: PKIMessage, expected: Expected, upstream: Upstream, now: datetime
) -> PKIStatusInfo:
    """Check the answer to an rr.

    Returns:
        Its one status: a rejection, or that the certificate is revoked.

    Raises:
        UpstreamBroken: It must not be relayed.
    """
    with blamed_on(upstream):
        refusal = refusal_in(message, expected, upstream, now)
        if refusal is not None:
            return refusal
        answer_to(message, expected, BodyType.rp, upstream, now)
        content = rev_rep_content(message.body_content)
        asked = cert_id(expected.target_der)
        others = [item for item in content.rev_certs if not _same_certificate(item, asked)]
    if len(content.statuses) != 1 or len(content.rev_certs) > 1 or others:
        raise UpstreamBroken(
            f"{upstream.name} answered for other certificates than the one to be revoked",
            rule="R85",
        )
    (info,) = content.statuses
    if info.status is not PKIStatus.rejection and (info.status not in _REVOKED or info.fail_info):
        raise UpstreamBroken(f"{upstream.name} answered with status {info}", rule="R85")
    return info


def _same_certificate(told: CertId, asked: CertId) -> bool:
    told_issuer, asked_issuer = name_of(told.issuer_der), name_of(asked.issuer_der)
    return (
        told.serial_number == asked.serial_number
        and told_issuer is not None
        and asked_issuer is not None
        and same_name(told_issuer, asked_issuer)
    )


def check_information(
    message: PKIMessage, expected: Expected, upstream: Upstream, now: datetime
) -> PKIStatusInfo | None:
    """Check the answer to a genm.

    Returns:
        None for a genp; or the status of the error by which the CA refuses the question.

    Raises:
        UpstreamBroken: It must not be relayed.
    """
    with blamed_on(upstream):
        refusal = refused_question(message, expected)
        if refusal is not None:
            answer_to(message, expected, BodyType.error, upstream, now)
            return refusal
        answer_to(message, expected, BodyType.genp, upstream, now)
        told = [item.info_type for item in gen_msg_content(message.body_content)]
    asked = expected.info_type
    if told not in ([ANSWER_TO.get(asked, asked)], [OID.unsupportedOIDs]):
        raise UpstreamBroken(
            f"{upstream.name} answered {', '.join(told) or 'nothing'} to {asked}", rule="R85"
        )
    return None


def check_pkiconf(
    message: PKIMessage, expected: Expected, upstream: Upstream, now: datetime
) -> bool:
    """Check the answer to a certConf.

    Returns:
        Whether it is a pkiConf; False where the CA says that it has confirmed already, as it will when its
        first pkiConf was lost and it is asked again.

    Raises:
        UpstreamBroken: Neither of the two, or not an answer to this certConf.
    """
    with blamed_on(upstream):
        if message.protection is None and message.body_type is BodyType.pkiconf:
            if CAQuirk.unprotected_pkiconf not in upstream.settings.tolerate:
                raise UpstreamBroken(f"{upstream.name}: pkiConf is not protected", rule="R84")
            return False
        confirmed = message.body_type is BodyType.error and (
            PKIFailureInfo.certConfirmed
            in error_msg_content(message.body_content).status_info.fail_info
        )
        refusal = None
        if message.body_type is BodyType.error:
            refusal = refusal_in(message, expected, upstream, now)
        if refusal is not None:
            raise UpstreamBroken(
                f"{upstream.name} refuses certConf: {refusal}",
                fail_info=refusal.fail_info[0],
                phrase="The certification authority refused the confirmation.",
                rule="R89",
            )
        known: tuple[Certificate, ...] = ()
        if not message.extra_certs and CAQuirk.pkiconf_without_certificates in (
            upstream.settings.tolerate
        ):
            known = tuple(upstream.seen)
        expected_type = BodyType.error if confirmed else BodyType.pkiconf
        answer_to(message, expected, expected_type, upstream, now, known=known, relayed=False)
        return not confirmed
