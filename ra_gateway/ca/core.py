"""The CA's CMP responder in RA mode: it hears registered RAs, and through them (nested) their devices.

How a message walks through here, from top to bottom of `BundledCA`:

    1 decode          bytes -> PKIMessage                                        badDataFormat
    2 receive         protected by a registered RA's exact certificate; time     signerNotTrusted, notAuthorized
    3 unwrap          nested: the one message inside, its IDs equal              badRequest, badSenderNonce
    4 authorise       the RA's privilege; nested: the device's own protection    notAuthorized
    5 read            one CertReqMsg, template, proof of possession              badPOP, badCertTemplate
    6 once            a repeat gets the stored answer, another request none      transactionIdInUse
    7 renew           kur: the old certificate, and names equal to its           badCertId, badCertTemplate
    8 issue           `Issuer.issue`: reserve, build, check, sign, store
    9 confirm         certConf against what was issued; pkiConf
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import structlog

from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.ledger import ALIVE, IssuedCertificate, Ledger, Operation
from ra_gateway.cmp.certificates import Certificate, ExtensionOID, load_certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.messages import (
    PKICONF_BODY,
    CertRepMessage,
    CertReqMsg,
    CertResponse,
    CertTemplate,
    Extension,
    InfoTypeAndValue,
    PKIHeader,
    PKIMessage,
    PKIStatusInfo,
    assemble,
    cert_rep_body,
    cert_req_messages,
    nested_messages,
    require_one,
)
from ra_gateway.cmp.names import NULL_DN, canonical, general_names, name_of, same_name
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.replies import (
    IMPLICIT_CONFIRM,
    Reply,
    confirm_wait_time,
    refusal_body,
    reply_header,
    unreadable_reply,
)
from ra_gateway.cmp.requests import AuthenticatedRequest, read_confirmation, read_request
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import (
    NONCE_OCTETS,
    AuthenticatedMessage,
    HeaderRules,
    KnownSigner,
    Quirk,
    authenticate,
    authenticate_follower,
    authenticate_registered,
    check_message_time,
    check_version,
)
from ra_gateway.errors import (
    CMPError,
    ConfirmationRefused,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    PKIFailureInfo,
    ProtectionRefused,
    RequestRefused,
    ServiceFailure,
    SignerNotTrusted,
    TemplateRefused,
    TransactionInUse,
    UpstreamUnavailable,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("ra_gateway.ca")


class Privilege(StrEnum):
    """What a registered RA may have done."""

    issue = "issue"  # ir, cr
    update = "update"  # kur
    revoke = "revoke"  # rr


_PRIVILEGE_FOR: Final = {
    BodyType.ir: Privilege.issue,
    BodyType.cr: Privilege.issue,
    BodyType.kur: Privilege.update,
}
_TAKEN: Final = frozenset({*_PRIVILEGE_FOR, BodyType.certConf, BodyType.nested})
_TAKEN_NESTED: Final = frozenset({BodyType.cr, BodyType.kur, BodyType.certConf})
"""What may be nested: messages that operator certificates protect. An ir has a vendor's protection, which this
CA has no trust anchors for: the RA replaces it (RFC 9483 5.2.3)."""

_RELAXED: Final = frozenset({Quirk.short_ids, Quirk.any_cert_req_id, Quirk.recip_nonce_in_ir})
"""Rules for devices, which the RA enforced or waived for good reason before it signed."""


@dataclass(frozen=True, slots=True)
class RegistrationAuthority:
    """An RA this CA takes requests from.

    Args:
        name: As in the configuration, one RA only; part of the keys of its transactions.
        certificates: Its certificates, exactly; during a change the old and the new one.
        privileges: Out of `Privilege`.
    """

    name: str
    certificates: tuple[Certificate, ...]
    privileges: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Received:
    """A message from a registered RA; `inner` is what was nested in it."""

    ra: RegistrationAuthority
    outer: AuthenticatedMessage
    inner: PKIMessage | None = None

    @property
    def message(self) -> PKIMessage:
        """The message to be answered: nested ones are answered as if they had come plain (R124)."""
        return self.inner or self.outer.message

    @property
    def requester(self) -> str:
        # Its name, not its certificate: an RA may change that between ip and certConf.
        return self.ra.name

    @property
    def transaction_id(self) -> bytes:
        # authenticate_registered refused a message without one.
        return self.outer.message.header.transaction_id or b""

    @property
    def digest(self) -> bytes:
        """Equal for repeats, also where the RA signed anew: the device's part is what counts."""
        message = self.message
        return hashlib.sha256(message.body_der + (message.header.sender_nonce or b"")).digest()


@dataclass(frozen=True, slots=True)
class _Running:
    digest: bytes
    task: asyncio.Task[Operation]


class BundledCA:
    """The bundled CA core (`CACore` of the RA's ports; `handle` serves it over HTTP).

    Args:
        credential: Signs the CA's messages; another key than the issuer's (R154).
        issuer: Makes the certificates.
        ledger: Remembers them; closed by `close`.
        registration_authorities: Nobody else is heard.
        operator: Its anchor is this PKI's root: for RA certificates, and for devices' in nested messages.
            What it allows of algorithms holds for requested keys as well.
        clock: Returns aware UTC.
        random_octets: Returns that many octets, unpredictable.
        rules: How headers are read; what the RA has to answer for is relaxed.
        confirm_wait_seconds: How long certConf is awaited.
        ca_pubs: Whether an ip carries the root in caPubs.
    """

    def __init__(
        self,
        *,
        credential: Credential,
        issuer: Issuer,
        ledger: Ledger,
        registration_authorities: Sequence[RegistrationAuthority],
        operator: TrustDomain,
        clock: Callable[[], datetime],
        random_octets: Callable[[int], bytes],
        rules: HeaderRules,
        confirm_wait_seconds: int,
        ca_pubs: bool = False,
    ) -> None:
        self._credential = credential
        self._issuer = issuer
        self._ledger = ledger
        self._registered = {
            certificate: ra for ra in registration_authorities for certificate in ra.certificates
        }
        self._operator = operator
        self._clock = clock
        self._random_octets = random_octets
        self._rules = rules.relaxed_by(_RELAXED)
        self._confirm_wait = timedelta(seconds=confirm_wait_seconds)
        # A captured request cannot come back as a new one: messageTime is refused before it is forgotten.
        self._remember = self._confirm_wait + timedelta(
            seconds=2 * rules.message_time_window_seconds
        )
        # Answer to the RA: protection chain, then the chain of what was issued, the root last (R97).
        self._extra_certs = tuple(dict.fromkeys((*credential.certificates, *issuer.certificates)))
        self._ca_pubs = issuer.certificates[-1:] if ca_pubs else ()
        own = (credential.certificate, issuer.certificate, *issuer.chain, *self._registered)
        self._own_names = frozenset(canonical(item.subject_der) for item in own)
        self._own_keys = frozenset(item.spki_der for item in own)
        self._running: dict[tuple[str, bytes], _Running] = {}

    # --- the two ways in --------------------------------------------------------------------------------------

    async def exchange(self, der: bytes, *, path: str = "", deadline_seconds: float) -> bytes:
        """Answer one PKIMessage from the RA in the same process.

        Args:
            der: DER of one PKIMessage.
            path: Ignored; this CA has one profile.
            deadline_seconds: Total time allowed.

        Raises:
            UpstreamUnavailable: Time is up. What was begun is finished, and a repeat gets its answer.
        """
        try:
            async with asyncio.timeout(deadline_seconds):
                return (await self.handle(der)).der
        except TimeoutError as error:
            raise UpstreamUnavailable(
                f"the bundled CA did not answer in {deadline_seconds:g} s", delivered=True
            ) from error

    async def handle(self, der: bytes, *, operation: str = "", peer: str = "") -> Reply:
        """Answer one PKIMessage, whatever it is; only cancellation leaves this as an exception.

        Args:
            der: What was received.
            operation, peer: Operation label of the URL and address of the client, for the log.
        """
        try:
            message = PKIMessage.from_der(der)
        except MalformedMessage as error:
            _log_refusal(error, peer=peer, operation=operation)
            return Reply(
                unreadable_reply(error, transaction_id=self._nonce(), sender_nonce=self._nonce()),
                False,
            )
        logger = log.bind(
            transaction_id=(message.header.transaction_id or b"").hex(),
            body_type=message.body_type.name,
            **({"peer": peer} if peer else {}),
            **({"operation": operation} if operation else {}),
        )
        try:
            return Reply(await self._answer(message, logger), True)
        except Exception:
            # A bug, or a key that cannot sign; the RA still gets an answer, and the log the whole story.
            logger.exception("ca.failed")
            failure = ServiceFailure("unexpected")
            header = reply_header(message.header, sender_nonce=self._nonce(), now=self._clock())
            return Reply(assemble(header.to_der(), refusal_body(failure, None), None), True)

    async def close(self) -> None:
        """Finish what was begun and close the ledger."""
        await asyncio.gather(
            *(running.task for running in self._running.values()), return_exceptions=True
        )
        await self._ledger.close()

    async def _answer(self, message: PKIMessage, logger: structlog.stdlib.BoundLogger) -> bytes:
        now = self._clock()
        try:
            received = self._receive(message, now)
        except CMPError as error:
            return await self._refuse(message, error, logger)
        logger = logger.bind(ra=received.ra.name, signer=received.outer.signer.fingerprint.hex())
        try:
            if received.message.body_type is BodyType.certConf:
                operation = await self._confirm(received, now)
                answer = operation.confirm_answer
            else:
                operation = await self._certify(received, now)
                answer = operation.answer
        except CMPError as error:
            return await self._refuse(received.message, error, logger)
        logger.info("ca.answered", serial=f"{operation.serial_number:x}")
        return answer

    # --- who speaks -------------------------------------------------------------------------------------------

    def _receive(self, message: PKIMessage, now: datetime) -> _Received:
        header = message.header
        check_version(header)
        if message.body_type not in _TAKEN:
            raise HeaderRefused(f"{message.body_type.name} is not supported", rule="R9")
        outer = authenticate_registered(
            message, self._registered.keys(), self._operator, self._rules, now
        )
        check_message_time(header, self._rules, now)
        ra = self._registered[outer.signer]
        if message.body_type is not BodyType.nested:
            return _Received(ra, outer)
        return _Received(ra, outer, _unwrap(message))

    def _authorize(self, received: _Received) -> None:
        privilege = _PRIVILEGE_FOR[received.message.body_type]
        if privilege not in received.ra.privileges:
            raise NotAuthorized(f"{received.ra.name} lacks the privilege {privilege}", rule="R58")

    async def _authenticate_device(
        self, inner: PKIMessage, now: datetime
    ) -> tuple[AuthenticatedMessage, IssuedCertificate]:
        """Authenticate a nested request by a certificate of ours that is still good."""
        authenticated = authenticate(inner, (self._operator,), self._rules, now)
        signer = authenticated.signer
        issued = await self._ledger.certificate(
            signer.serial_number, now, fingerprint=signer.fingerprint
        )
        if issued is None:
            raise SignerNotTrusted(f"{signer.subject} was not issued by this CA", rule="R21")
        if issued.status not in ALIVE:
            raise SignerNotTrusted(f"{signer.subject} is {issued.status}", rule="R69")
        return authenticated, issued

    # --- ir, cr, kur ------------------------------------------------------------------------------------------

    async def _certify(self, received: _Received, now: datetime) -> Operation:
        self._authorize(received)
        authenticated, device = received.outer, None
        if received.inner is not None:
            authenticated, device = await self._authenticate_device(received.inner, now)
        # A device's own message never may say raVerified, also where an RA passes it on (R123).
        request = read_request(authenticated, self._rules, ra_verified_allowed=device is None)
        return await self._once(received, lambda: self._issue(received, request, device, now))

    async def _once(
        self, received: _Received, issue: Callable[[], Coroutine[Any, Any, Operation]]
    ) -> Operation:
        """Let repeats that arrive while the first is at work wait for its answer."""
        key = (received.requester, received.transaction_id)
        running = self._running.get(key)
        if running is None:
            # A task of its own: a caller that gives up must not leave a certificate half issued.
            running = _Running(received.digest, asyncio.create_task(issue()))
            self._running[key] = running
            running.task.add_done_callback(lambda task: self._forget(key, task))
        elif running.digest != received.digest:
            raise _in_use()
        return await asyncio.shield(running.task)

    def _forget(self, key: tuple[str, bytes], task: asyncio.Task[Operation]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever still waits has it; asyncio need not complain that nobody does

    async def _issue(
        self,
        received: _Received,
        request: AuthenticatedRequest,
        device: IssuedCertificate | None,
        now: datetime,
    ) -> Operation:
        template, old = request.request.template, None
        if received.message.body_type is BodyType.kur:
            # Before anything is judged: after the renewal a repeat would be judged by the new certificate.
            found = await self._ledger.find_operation(
                received.requester, received.transaction_id, now
            )
            if found is not None and (found.answer or found.request_digest != received.digest):
                return _replay(found, received.digest)
            old = await self._renewed(request.request, device, now)
            template = _renewal(template, load_certificate(old.der))
        self._check_identity(template)
        implicit = request.message.header.implicit_confirm
        operation = Operation(
            requester=received.requester,
            transaction_id=received.transaction_id,
            request_digest=received.digest,
            body_type=received.message.body_type,
            cert_req_id=request.request.cert_req_id,
            response_nonce=self._nonce(),
            confirm_by=None if implicit else now.replace(microsecond=0) + self._confirm_wait,
            expires_at=now + self._remember,
            device_serial_number=None if device is None else device.serial_number,
            old_serial_number=None if old is None else old.serial_number,
        )

        async def answer(certificate: Certificate, changes: tuple[str, ...]) -> bytes:
            return await self._positive(received.message, operation, certificate, changes, now)

        stored = await self._issuer.issue(template, operation, self._ledger, answer, now)
        return _replay(stored, received.digest)

    async def _renewed(
        self, request: CertReqMsg, device: IssuedCertificate | None, now: datetime
    ) -> IssuedCertificate:
        """Return the certificate a kur renews: the one named, or that of the name; nested, the signer's."""
        named = request.old_cert_id()
        old = device
        if named is not None:
            issuer = name_of(named.issuer_der)
            ours = issuer is not None and same_name(issuer, self._issuer.certificate.subject_der)
            old = await self._ledger.certificate(named.serial_number, now) if ours else None
        elif device is None:
            subject_der = request.template.subject_der or NULL_DN
            old = await self._ledger.newest_certificate(subject_der, now)
        if old is None:
            raise RequestRefused(
                "no such certificate to renew", fail_info=PKIFailureInfo.badCertId, rule="R68"
            )
        if device is not None and old.serial_number != device.serial_number:
            raise RequestRefused(
                "oldCertID is not the certificate that protects the message",
                fail_info=PKIFailureInfo.badCertId,
                rule="R68",
            )
        if old.status not in ALIVE:
            raise RequestRefused(
                f"the certificate to renew is {old.status}",
                fail_info=PKIFailureInfo.certRevoked,
                rule="R69",
            )
        if not load_certificate(old.der).valid_at(now):
            raise RequestRefused(
                "the certificate to renew has expired",
                fail_info=PKIFailureInfo.signerNotTrusted,
                rule="R69",
            )
        return old

    def _check_identity(self, template: CertTemplate) -> None:
        """Refuse the names and keys of this PKI's own entities: who has one of them could pass for it."""
        if canonical(template.subject_der or NULL_DN) in self._own_names:
            raise NotAuthorized("the subject is that of an entity of the PKI itself", rule="R67")
        if template.spki_der in self._own_keys:
            raise TemplateRefused("the key is that of an entity of the PKI itself", rule="R62")

    async def _positive(
        self,
        request: PKIMessage,
        operation: Operation,
        certificate: Certificate,
        changes: tuple[str, ...],
        now: datetime,
    ) -> bytes:
        status = PKIStatusInfo(PKIStatus.accepted)
        if changes:
            status = PKIStatusInfo(
                PKIStatus.grantedWithMods, (f"Changed or left out: {', '.join(changes)}.",)
            )
        body_der = cert_rep_body(
            CERT_RESPONSE_TO[request.body_type],
            CertRepMessage(
                (CertResponse(operation.cert_req_id, status, certificate.der),),
                ca_pubs=self._ca_pubs if request.body_type is BodyType.ir else (),
            ),
        )
        return await self._sign(
            request.header,
            body_der,
            now,
            nonce=operation.response_nonce,
            general_info=(
                IMPLICIT_CONFIRM
                if operation.confirm_by is None
                else confirm_wait_time(operation.confirm_by),
            ),
            extra_certs=self._extra_certs,
        )

    # --- certConf ---------------------------------------------------------------------------------------------

    async def _confirm(self, received: _Received, now: datetime) -> Operation:
        operation = await self._ledger.find_operation(
            received.requester, received.transaction_id, now
        )
        if operation is None or not operation.answer:
            raise HeaderRefused("no such transaction awaits a confirmation", rule="R11")
        authenticated = await self._authenticate_confirmation(received, operation, now)
        digest = received.digest
        if operation.confirm_digest:
            return _replay_confirmation(operation, digest)
        if operation.confirm_by is None:
            raise ConfirmationRefused(
                "implicitConfirm was granted", fail_info=PKIFailureInfo.certConfirmed, rule="R110"
            )
        confirmation = read_confirmation(
            authenticated,
            load_certificate(operation.certificate_der),
            response_nonce=operation.response_nonce,
            cert_req_id=operation.cert_req_id,
        )
        if now > operation.confirm_by:
            raise ConfirmationRefused("confirmWaitTime is over", rule="R111")
        stored = await self._ledger.confirm(
            operation,
            accepted=confirmation.status.takes_certificate,
            digest=digest,
            answer=await self._sign(authenticated.message.header, PKICONF_BODY, now),
            now=now,
        )
        if stored is None:
            raise HeaderRefused("the transaction has expired", rule="R11")
        return _replay_confirmation(stored, digest)

    async def _authenticate_confirmation(
        self, received: _Received, operation: Operation, now: datetime
    ) -> AuthenticatedMessage:
        """Authenticate a certConf by the certificate that protected the request, and by the same way (R35)."""
        if (received.inner is None) != (operation.device_serial_number is None):
            raise ProtectionRefused(
                "of the request and its certConf one came nested, the other did not", rule="R35"
            )
        if received.inner is None or operation.device_serial_number is None:
            return received.outer
        device = await self._ledger.certificate(operation.device_serial_number, now)
        if device is None:
            raise ServiceFailure("the certificate of a nested request is not in the ledger")
        known = KnownSigner(load_certificate(device.der), self._operator)
        return authenticate_follower(received.inner, (known,), self._rules, now)

    # --- answers ----------------------------------------------------------------------------------------------

    async def _refuse(
        self, message: PKIMessage, error: CMPError, logger: structlog.stdlib.BoundLogger
    ) -> bytes:
        _log_refusal(error, logger)
        return await self._sign(
            message.header,
            refusal_body(error, message.body_type, _cert_req_id(message)),
            self._clock(),
        )

    async def _sign(
        self,
        request: PKIHeader,
        body_der: bytes,
        now: datetime,
        *,
        nonce: bytes | None = None,
        general_info: tuple[InfoTypeAndValue, ...] = (),
        extra_certs: tuple[bytes, ...] | None = None,
    ) -> bytes:
        header = replace(
            reply_header(request, sender_nonce=nonce or self._nonce(), now=now),
            general_info=general_info,
        )
        certificates = self._credential.certificates if extra_certs is None else extra_certs
        return await protect(header, body_der, self._credential, certificates)

    def _nonce(self) -> bytes:
        return self._random_octets(NONCE_OCTETS)


def _unwrap(message: PKIMessage) -> PKIMessage:
    """Return the one message inside a nested (RFC 9483 5.2.2.1)."""
    der = require_one(nested_messages(message.body_content), "messages in nested", "R122")
    inner = PKIMessage.from_der(der)
    check_version(inner.header)
    if inner.body_type not in _TAKEN_NESTED:
        raise HeaderRefused(f"{inner.body_type.name} inside nested", rule="R128")
    if inner.header.transaction_id != message.header.transaction_id:
        raise HeaderRefused("nested has another transactionID than what is inside", rule="R122")
    if inner.header.sender_nonce != message.header.sender_nonce:
        raise HeaderRefused(
            "nested has another senderNonce than what is inside",
            fail_info=PKIFailureInfo.badSenderNonce,
            rule="R122",
        )
    return inner


def _renewal(template: CertTemplate, old: Certificate) -> CertTemplate:
    """Complete a kur's template from the certificate it renews; names that differ are refused (R70)."""
    subject_der = template.subject_der or NULL_DN
    if subject_der == NULL_DN:
        subject_der = old.subject_der
    elif not same_name(subject_der, old.subject_der):
        raise TemplateRefused("the subject is not that of the certificate to renew", rule="R70")
    extensions = list(template.extensions)
    for oid in (ExtensionOID.subjectAltName, ExtensionOID.extKeyUsage):
        requested, (critical, value) = (
            template.extension(oid),
            old.extensions.get(oid, (False, b"")),
        )
        if requested is None and value:
            extensions.append(Extension(oid, critical, value))
    names = template.extension(ExtensionOID.subjectAltName)
    if names is not None and not _same_names(names.value, old.subject_alt_name_der):
        raise TemplateRefused(
            "the SubjectAltName is not that of the certificate to renew", rule="R70"
        )
    return replace(template, subject_der=subject_der, extensions=tuple(extensions))


def _same_names(one_der: bytes, other_der: bytes | None) -> bool:
    if other_der is None or one_der == other_der:
        return one_der == other_der
    return set(general_names(one_der)) == set(general_names(other_der))


def _in_use() -> TransactionInUse:
    return TransactionInUse("another request opened this transaction", rule="R12")


def _replay(stored: Operation, digest: bytes) -> Operation:
    if stored.request_digest != digest:
        raise _in_use()
    return stored


def _replay_confirmation(stored: Operation, digest: bytes) -> Operation:
    if stored.confirm_digest != digest:
        raise ConfirmationRefused(
            "another certConf was answered before",
            fail_info=PKIFailureInfo.certConfirmed,
            rule="R109",
        )
    return stored


def _cert_req_id(message: PKIMessage) -> int:
    """Return the certReqId that a refusal has to repeat, 0 where there is none to be read."""
    if message.body_type not in CERT_RESPONSE_TO:
        return 0
    try:
        return cert_req_messages(message.body_content)[0].cert_req_id
    except MalformedMessage:
        return 0


def _log_refusal(error: CMPError, logger: structlog.stdlib.BoundLogger = log, **more: str) -> None:
    logger.warning(
        "ca.refused",
        fail_info=error.fail_info.name,
        rule=error.rule,
        detail=error.detail,
        **more,
    )
