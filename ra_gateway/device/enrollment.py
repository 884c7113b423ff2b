"""One operation of a base station, sans-IO: ir, cr, kur or p10cr, the answer, and its confirmation.

The device trusts nothing it is told: each answer must belong to its request, be protected by somebody whose
certificate leads to the operator's root, and bring a certificate for the very key it asked for. An answer
that fails one of these changes nothing; a certificate that is no good is rejected with certConf, as
RFC 9483 4.1.1 asks. Time, randomness and keys come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

from ra_gateway.cmp import asn1, crmf, structures
from ra_gateway.cmp.algorithms import KEM_PUBLIC_KEYS, digest
from ra_gateway.cmp.bodies import (
    CertRepMessage,
    CertResponse,
    CertStatus,
    PKIStatusInfo,
    cert_confirm_body,
    cert_rep_message,
    enveloped_data,
    error_msg_content,
    require_one,
)
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.cms import PrivateKeyHolder, open_envelope
from ra_gateway.cmp.cms_signed import open_package
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus, Possession
from ra_gateway.cmp.header_checks import (
    NONCE_OCTETS,
    HeaderRules,
    check_answer_header,
    check_header,
    check_version,
)
from ra_gateway.cmp.mac import MACBounds, MACCredential, mac_parameters, mac_protected
from ra_gateway.cmp.mac_verification import verify_mac
from ra_gateway.cmp.messages import (
    ANYONE,
    CMP2021,
    IMPLICIT_CONFIRM,
    InfoTypeAndValue,
    PKIHeader,
    PKIMessage,
    body,
)
from ra_gateway.cmp.names import (
    NULL_DN,
    directory_name,
    from_rfc4514,
    general_names_der,
    same_name,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.polling import NO_CERT_RESPONSE, poll_rep_content, poll_req_body
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.quirks import Strictness
from ra_gateway.cmp.requests import cert_hash_name, require_delivery
from ra_gateway.cmp.trust import Path, TrustDomain
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.device import pkcs10
from ra_gateway.device.errors import CertificateRejected, EnrollmentRefused, doubting
from ra_gateway.device.values import (
    DeviceIdentity,
    Direction,
    Done,
    RequestOptions,
    Send,
    Step,
    TracedMessage,
    operator_trust,
    signer_of,
)
from ra_gateway.errors import CMPError, PKIFailureInfo

_RULES: Final = HeaderRules(strictness=Strictness.lenient)
_BOUNDS: Final = MACBounds(min_iterations=1, max_iterations=10_000, max_pbkdf_iterations=300_000)
"""Of the MAC of an answer: anybody on the way may have written it."""

_NO_KEY: Final = b"\x03\x01\x00"
"""publicKey of a request for central key generation that says what kind of key it wants: an empty BIT STRING."""


@dataclass(frozen=True, slots=True)
class _Issued:
    """A certificate that came in an authenticated answer; `fault` says why it is no good, "" if it is.

    `signer` is None where a MAC protected the answer.
    """

    certificate: Certificate
    signer: Certificate | None
    trust: TrustDomain
    path: Path
    fault: str


class Enrollment:
    """One ir, cr or kur from the request to the confirmation.

    Post what `request` returns; give each answer to `receive` and do as the returned step says.

    Args:
        identity: Who the device is and whom it trusts.
        private_key: The new key, of `cryptography`: RSA, EC, Ed25519, Ed448, ML-DSA or ML-KEM. None asks the CA
            to make it (RFC 9483 4.1.6).
        options: What to ask for.
        clock: Returns the time, aware UTC.
        random_octets: Returns that many random octets, fresh in each call.
        find_fault: The device's own opinion of the new certificate: "" to take it, else why not.
        protection_key: Private key of the identity's credential, which the CA encrypts a key for that it makes.

    Raises:
        ValueError: Options that contradict each other, or names that cannot be encoded.
    """

    def __init__(
        self,
        identity: DeviceIdentity,
        private_key: Any,
        options: RequestOptions,
        *,
        clock: Callable[[], datetime],
        random_octets: Callable[[int], bytes],
        find_fault: Callable[[Certificate], str] = lambda certificate: "",
        protection_key: Any = None,
    ) -> None:
        if options.body_type not in CERT_RESPONSE_TO:
            raise ValueError(f"{options.body_type.name} is not a certificate request")
        if options.subject is None and not isinstance(identity.credential, Credential):
            raise ValueError("with a shared secret, the request has to name its subject")
        if identity.trust is None and options.body_type is not BodyType.ir:
            # TS 33.310 9.2 lets a device take the root from an ip; later it has one.
            raise ValueError(
                f"{options.body_type.name} needs an operator root; only ir does without"
            )
        if private_key is None and protection_key is None:
            raise ValueError("a key that the CA makes can be opened only with protection_key")
        self.trace: list[TracedMessage] = []
        self._identity = identity
        self._private_key = private_key
        self._protection_key = protection_key
        self._possession = Possession.proved
        if private_key is None:
            self._possession = Possession.key_generation
        elif options.encr_cert or isinstance(private_key.public_key(), KEM_PUBLIC_KEYS):
            self._possession = Possession.encr_cert
        plain = self._possession is Possession.proved
        if options.body_type is BodyType.p10cr and not plain:
            raise ValueError("a p10cr is signed with the key that it is for")
        self._pvno = options.pvno if plain else CMP2021
        if identity.trust is None and not plain:
            # Nothing is decrypted for somebody who is not known.
            raise ValueError("what comes encrypted needs an operator root")
        self._options = options
        self._clock = clock
        self._random_octets = random_octets
        self._find_fault = find_fault
        self._transaction_id = random_octets(NONCE_OCTETS)
        self._sender_nonce = b""
        self._awaited_nonce = b""
        self._polling = False
        self._template = self._make_template()
        self._recipient_der = self._first_recipient()
        self._request_der: bytes | None = None
        self._cert_req_id = options.cert_req_id
        if options.body_type is BodyType.p10cr:
            self._cert_req_id = NO_CERT_RESPONSE
        self._issued: _Issued | None = None
        self._ended = False

    @property
    def transaction_id(self) -> bytes:
        """The 16 octets that all messages of the operation share."""
        return self._transaction_id

    # --- what is sent

    async def request(self) -> bytes:
        """Return the request; the same octets however often it is called."""
        if self._request_der is None:
            self._request_der = await self._compose(
                body(self._options.body_type, await self._request_content()),
                general_info=self._request_info(),
                recip_nonce=None,
                extra_certs=True,
            )
            self._note(Direction.sent, self._request_der, self._options.body_type)
        return self._request_der

    async def _request_content(self) -> bytes:
        if self._options.body_type is BodyType.p10cr:
            signer = signer_of(self._private_key)
            info_der = pkcs10.request_info_der(self._template)
            signature = await signer.sign(self._proved(info_der))
            return pkcs10.request_der(info_der, signer.algorithm.der, signature)
        popo_der = await self._proof_of_possession()
        return asn1.tlv(0x30, crmf.cert_req_msg_der(self._cert_request_der(), popo_der))

    def _proved(self, octets: bytes) -> bytes:
        """Return what is signed to prove possession of the key."""
        return octets + b"\0" if self._options.wrong_pop else octets

    def _request_info(self) -> tuple[InfoTypeAndValue, ...]:
        info = [IMPLICIT_CONFIRM] if self._options.implicit_confirm else []
        if self._options.cert_profile is not None:
            names = asn1.tlv(0x30, asn1.encode(self._options.cert_profile))
            info.append(InfoTypeAndValue(OID.certProfile, names))
        return tuple(info)

    def _make_template(self) -> crmf.CertTemplate:
        options = self._options
        renewing = options.body_type is BodyType.kur
        old = self._identity.signing.certificate if renewing else None
        subject_der = None if options.subject is None else from_rfc4514(options.subject)
        extensions: tuple[crmf.Extension, ...] = ()
        if options.san:
            san_der = general_names_der(options.san)
            # RFC 5280 4.2.1.6: critical where the subject is empty.
            nameless = subject_der in (None, NULL_DN) and not renewing
            extensions = (crmf.Extension(OID.subjectAltName, nameless, san_der),)
        elif old is not None and (san := old.extensions.get(OID.subjectAltName)):
            extensions = (crmf.Extension(OID.subjectAltName, *san),)
        return crmf.CertTemplate(
            subject_der=old.subject_der if old is not None and subject_der is None else subject_der,
            spki_der=self._requested_key_der(),
            extensions=extensions,
        )

    def _requested_key_der(self) -> bytes | None:
        if self._private_key is None:
            algorithm_der = self._options.key_algorithm_der
            return None if algorithm_der is None else asn1.tlv(0x30, algorithm_der, _NO_KEY)
        octets: bytes = self._private_key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return octets

    def _first_recipient(self) -> bytes:
        if self._options.recipient is not None:
            return directory_name(from_rfc4514(self._options.recipient))
        if self._options.body_type is BodyType.kur:
            return directory_name(self._identity.signing.certificate.issuer_der)
        return ANYONE

    def _cert_request_der(self) -> bytes:
        controls = []
        if self._options.body_type is BodyType.kur:
            old = self._identity.signing.certificate
            old_id = crmf.CertId(directory_name(old.issuer_der), old.serial_number)
            controls.append(crmf.Control(OID.oldCertID, crmf.cert_id_der(old_id)))
        return crmf.cert_request_der(
            self._template, cert_req_id=self._options.cert_req_id, controls=controls
        )

    async def _proof_of_possession(self) -> bytes:
        if self._possession is Possession.key_generation:
            return b""
        if self._possession is Possession.encr_cert:
            return crmf.ENCR_CERT_POPO_DER
        signer, input_der = signer_of(self._private_key), None
        if self._template.subject_der is None:
            # RFC 4211 4.1: without a subject in the template, who asks is named in what is signed.
            spki_der = self._template.spki_der or b""
            input_der = crmf.popo_signing_key_input(self._identity.signing.sender_der, spki_der)
        signature = await signer.sign(self._proved(input_der or self._cert_request_der()))
        return crmf.signature_popo_der(signer.algorithm.der, signature, input_der)

    async def _compose(
        self,
        body_der: bytes,
        *,
        recip_nonce: bytes | None,
        extra_certs: bool,
        general_info: tuple[InfoTypeAndValue, ...] = (),
    ) -> bytes:
        credential = self._identity.credential
        self._sender_nonce = self._random_octets(NONCE_OCTETS)
        header = PKIHeader(
            pvno=self._pvno,
            sender_der=credential.protector.sender_der,
            recipient_der=self._recipient_der,
            message_time=self._clock() if self._options.message_time else None,
            transaction_id=self._transaction_id,
            sender_nonce=self._sender_nonce,
            recip_nonce=recip_nonce,
            general_info=general_info,
        )
        certificates = credential.certificates if extra_certs else ()
        return await protect(header, body_der, credential, certificates)

    # --- what is received

    async def receive(self, der: bytes) -> Step:
        """Take an answer and say what comes next.

        Args:
            der: The content of the HTTP answer.

        Raises:
            EnrollmentRefused: The other side said no.
            AnswerUntrusted: The answer cannot be believed; nothing has changed, a better one may follow.
            CertificateRejected: The certificate is no good; where confirmation is explicit, the other side
                has been told.
        """
        if self._request_der is None or self._ended:
            raise RuntimeError("no answer is awaited")
        now = self._clock()
        with doubting():
            message = self._decode(der)
            check_after_seconds = self._told_to_wait(message)
        if check_after_seconds is not None:
            return await self._poll(message, check_after_seconds, now)
        if message.body_type is BodyType.error:
            with doubting():
                status_info = error_msg_content(message.body_content).status_info
            raise self._refusal(status_info, message, now)
        if self._issued is not None:
            return self._take_pkiconf(message, self._issued, now)
        return await self._take_response(message, now)

    def _decode(self, der: bytes) -> PKIMessage:
        try:
            message = PKIMessage.from_der(der)
        except CMPError:
            self.trace.append(TracedMessage(Direction.received, self._clock(), der, None))
            raise
        self._note(Direction.received, der, message.body_type, _status_in(message))
        return message

    def _check_header(self, header: PKIHeader) -> None:
        check_version(header)
        check_header(header, _RULES, first=False)
        check_answer_header(
            header,
            transaction_id=self._transaction_id,
            # What was polled for may return the nonce of either message (RFC 9483 4.4).
            sender_nonces={self._sender_nonce, self._awaited_nonce or self._sender_nonce},
        )

    def _told_to_wait(self, message: PKIMessage) -> int | None:
        """Return for how many seconds an answer tells to wait before the next poll, None if it does not."""
        if self._polling:
            if message.body_type is not BodyType.pollRep:
                return None
            told = poll_rep_content(message.body_content)
            if told.cert_req_id != self._polled_cert_req_id:
                raise CMPError(f"certReqId {told.cert_req_id} in pollRep")
            return max(told.check_after_seconds, 1)
        awaited = CERT_RESPONSE_TO[self._options.body_type]
        expected = awaited if self._issued is None else BodyType.error
        status = _status_in(message)
        waiting = status is not None and status.status is PKIStatus.waiting
        return 0 if waiting and message.body_type is expected else None

    @property
    def _polled_cert_req_id(self) -> int:
        return self._cert_req_id if self._issued is None else NO_CERT_RESPONSE

    async def _poll(self, message: PKIMessage, after_seconds: int, now: datetime) -> Send:
        """Return the pollReq for an answer that is not there yet (RFC 9483 4.4)."""
        with doubting():
            self._check_header(message.header)
            trust = self._identity.trust if self._issued is None else self._issued.trust
            if trust is not None:  # who has no root yet is given one with the last answer
                self._authenticate(message, trust, now)
        if not self._polling:
            self._polling, self._awaited_nonce = True, self._sender_nonce
        self._recipient_der = message.header.sender_der
        der = await self._compose(
            poll_req_body(self._polled_cert_req_id),
            recip_nonce=message.header.sender_nonce,
            extra_certs=self._options.extra_certs_in_cert_conf,
        )
        self._note(Direction.sent, der, BodyType.pollReq)
        return Send(der, after_seconds)

    def _refusal(
        self, status_info: PKIStatusInfo, message: PKIMessage, now: datetime
    ) -> EnrollmentRefused:
        doubt = self._doubt(message, now)
        # RFC 9483 3.6.4: a negative answer ends the operation, if it is the operator's.
        self._ended = not doubt
        return EnrollmentRefused(status_info, message.body_type, doubt)

    def _doubt(self, message: PKIMessage, now: datetime) -> str:
        """Return why a refusal cannot be authenticated, "" if it can."""
        if self._identity.trust is None:
            return "the device has no operator root yet"
        try:
            self._check_header(message.header)
            self._authenticate(message, self._identity.trust, now)
        except CMPError as error:
            return error.detail
        return ""

    def _authenticate(
        self, message: PKIMessage, trust: TrustDomain, now: datetime
    ) -> Certificate | None:
        """Return who signed an answer, None where the shared secret protects it.

        Raises:
            CMPError: It is protected by nobody who is trusted.
        """
        credential = self._identity.credential
        if isinstance(credential, MACCredential) and mac_protected(message):
            require_mac(message, credential)
            return None
        known = None if self._issued is None else self._issued.signer
        pinned = () if known is None else (known,)
        signer = authenticate_answer(message, trust, pinned, _RULES, now).signer
        usage = signer.key_usage
        if usage is not None and KeyUsage.digitalSignature not in usage:
            raise CMPError(f"keyUsage of {signer.subject} lacks digitalSignature")
        return signer

    async def _take_response(self, message: PKIMessage, now: datetime) -> Step:
        with doubting():
            _require_type(message, CERT_RESPONSE_TO[self._options.body_type])
            content = cert_rep_message(message.body_content)
            response = require_one(content.responses, "CertResponse", "R96")
        if not response.status_info.issued:
            raise self._refusal(response.status_info, message, now)
        with doubting():
            self._check_header(message.header)
            certificate = self._certificate_of(response, message, now)
            issued = self._judge(message, content, certificate, now)
        if message.header.implicit_confirm and self._options.implicit_confirm:
            return self._end(issued, implicitly=True)
        self._recipient_der = message.header.sender_der
        der = await self._cert_conf(issued, message.header.sender_nonce)
        self._issued = issued
        self._polling, self._awaited_nonce = False, b""
        return Send(der)

    def _certificate_of(
        self, response: CertResponse, message: PKIMessage, now: datetime
    ) -> Certificate:
        # A PKCS #10 has none: RFC 9483 4.1.4 has -1 in the answer, and others 0.
        expected: tuple[int, ...] = (self._options.cert_req_id,)
        if self._options.body_type is BodyType.p10cr:
            expected = (NO_CERT_RESPONSE, 0)
        if response.cert_req_id not in expected:
            raise CMPError(f"certReqId {response.cert_req_id}, asked was {expected[0]}")
        self._cert_req_id = response.cert_req_id
        if response.status_info.fail_info:
            raise CMPError(f"{response.status_info.status.name}, but with failInfo")
        require_delivery(self._possession, response)
        if self._possession is Possession.encr_cert:
            return self._open_certificate(response, message, now)
        certificate = Certificate.from_der(response.certificate_der or b"")
        if self._possession is Possession.key_generation:
            self._open_private_key(response, certificate, message, now)
        return certificate

    def _open_certificate(
        self, response: CertResponse, message: PKIMessage, now: datetime
    ) -> Certificate:
        """Return the certificate that only the new key can decrypt (RFC 4211 4.2)."""
        assert self._identity.trust is not None  # without it, __init__ refuses
        # First of all: what strangers send is not decrypted.
        self._authenticate(message, self._identity.trust, now)
        holder = PrivateKeyHolder(self._private_key)
        opened = open_envelope(enveloped_data(response.encrypted_cert_der or b""), holder)
        if opened.content_type != OID.data:
            raise CMPError(f"content of type {opened.content_type} instead of a certificate")
        return Certificate.from_der(opened.content)

    def _open_private_key(
        self, response: CertResponse, certificate: Certificate, message: PKIMessage, now: datetime
    ) -> None:
        """Take the private key that the CA made (RFC 9483 4.1.6)."""
        trust = self._identity.trust
        assert trust is not None  # without it, __init__ refuses
        self._authenticate(message, trust, now)
        holder = PrivateKeyHolder(self._protection_key, self._identity.signing.certificate)
        opened = open_envelope(enveloped_data(response.private_key_der or b""), holder)
        if opened.content_type != OID.signedData:
            raise CMPError(f"content of type {opened.content_type} instead of a signed key")
        package = open_package(opened.content, trust, _certificates(message.extra_certs), now)
        key = asn1.decode(structures.SubjectPublicKeyInfo, certificate.spki_der).subject_public_key
        if key.as_bytes() != package.public_key:
            raise CMPError("the private key is not that of the certificate")
        try:
            self._private_key = load_der_private_key(package.pkcs8_der, None)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise CMPError("the private key cannot be read") from error

    def _judge(
        self, message: PKIMessage, content: CertRepMessage, certificate: Certificate, now: datetime
    ) -> _Issued:
        bag = _certificates((*message.extra_certs, *content.ca_pubs))
        trust = self._identity.trust
        if trust is None:
            trust = self._adopt_root(message, bag, certificate, now)
        signer = self._authenticate(message, trust, now)
        path: Path = ()
        try:
            path = trust.find_path(certificate, bag, now)
            fault = self._fault(certificate)
        except CMPError as error:
            fault = error.detail
        return _Issued(certificate, signer, trust, path, fault)

    def _adopt_root(
        self,
        message: PKIMessage,
        bag: list[Certificate],
        certificate: Certificate,
        now: datetime,
    ) -> TrustDomain:
        """Return trust in the root that came with an ip (TS 33.310 9.2)."""
        refusal = CMPError("no operator root was given to the device, and none came with the ip")
        for root in filter(_is_root, bag):
            trust = operator_trust(root)
            try:
                self._authenticate(message, trust, now)
                trust.find_path(certificate, bag, now)
            except CMPError as error:
                refusal = error
            else:
                return trust
        raise refusal

    def _fault(self, certificate: Certificate) -> str:
        if certificate.public_key != self._private_key.public_key():
            return "the certificate is for another key"
        if certificate.is_ca:
            return "the certificate is a CA's"
        if self._options.body_type is BodyType.kur:
            old = self._identity.signing.certificate
            if not same_name(certificate.subject_der, old.subject_der):
                return f"the subject changed from {old.subject} to {certificate.subject}"
        return self._find_fault(certificate)

    async def _cert_conf(self, issued: _Issued, recip_nonce: bytes | None) -> bytes:
        status_info = None
        if issued.fault:
            status_info = PKIStatusInfo(
                PKIStatus.rejection, (issued.fault,), (PKIFailureInfo.incorrectData,)
            )
        with doubting():
            # The hash of the certificate's own signature algorithm, which may be one we do not know.
            cert_hash = digest(cert_hash_name(issued.certificate), issued.certificate.der)
            status = CertStatus(
                cert_hash,
                self._cert_req_id,
                status_info,
                self._hash_alg(issued.certificate),
            )
        der = await self._compose(
            cert_confirm_body(status),
            recip_nonce=recip_nonce,
            extra_certs=self._options.extra_certs_in_cert_conf,
        )
        status_info = status_info or PKIStatusInfo(PKIStatus.accepted)
        self._note(Direction.sent, der, BodyType.certConf, status_info)
        return der

    def _hash_alg(self, certificate: Certificate) -> structures.AlgorithmIdentifier | None:
        """Return what to name in certConf: the hash, where the signature has none and pvno 3 has the field."""
        if self._pvno != CMP2021 or certificate.signature_algorithm.hash_name:
            return None
        return structures.AlgorithmIdentifier(algorithm=asn1.oid(OID.sha512), parameters=None)

    def _take_pkiconf(self, message: PKIMessage, issued: _Issued, now: datetime) -> Done:
        with doubting():
            _require_type(message, BodyType.pkiconf)
            if message.body_content != asn1.NULL_DER:
                raise CMPError("the content of the pkiconf is not NULL")
            self._check_header(message.header)
            # RFC 9483 4.1.1: the pkiconf is protected with the credential of the first answer.
            if self._authenticate(message, issued.trust, now) != issued.signer:
                raise CMPError("the pkiconf is protected by somebody else than the answer before")
        return self._end(issued, implicitly=False)

    def _end(self, issued: _Issued, *, implicitly: bool) -> Done:
        self._ended = True
        if issued.fault:
            raise CertificateRejected(
                f"the certificate for {issued.certificate.subject} is no good: {issued.fault}",
                "Ask the operator why it was issued so",
            )
        root = issued.path[-1]
        signer = signer_of(self._private_key)
        credential = Credential(issued.certificate, issued.path[1:-1], signer)
        return Done(DeviceIdentity(credential, issued.trust), root, implicitly, self._private_key)

    def _note(
        self,
        direction: Direction,
        der: bytes,
        body_type: BodyType,
        status: PKIStatusInfo | None = None,
    ) -> None:
        self.trace.append(TracedMessage(direction, self._clock(), der, body_type, status))


def _require_type(message: PKIMessage, expected: BodyType) -> None:
    if message.body_type is not expected:
        raise CMPError(f"it is {message.body_type.name}, expected was {expected.name}")


def _is_root(certificate: Certificate) -> bool:
    if not (certificate.self_issued and certificate.is_ca):
        return False
    try:
        certificate.verify_issued_by(certificate)
    except (InvalidSignature, CMPError):
        return False
    return True


def require_mac(message: PKIMessage, credential: MACCredential) -> None:
    """Make sure that an answer is protected by a device's shared secret.

    Raises:
        CMPError: It is not.
    """
    parameters = mac_parameters(message.header.protection_alg_der or b"", _BOUNDS)
    verify_mac(message, parameters.credential(credential.secret))


def _certificates(ders: tuple[bytes, ...]) -> list[Certificate]:
    """Return those that parse: extraCerts is not protected, a stray element must not void the message."""
    found: dict[bytes, Certificate] = {}
    for der in ders[: 2 * _RULES.extra_certs_max_count]:
        try:
            found.setdefault(der, Certificate.from_der(der))
        except CMPError:
            continue
    return list(found.values())


def _status_in(message: PKIMessage) -> PKIStatusInfo | None:
    try:
        if message.body_type is BodyType.error:
            return error_msg_content(message.body_content).status_info
        if message.body_type in CERT_RESPONSE_TO.values():
            return next(
                (
                    response.status_info
                    for response in cert_rep_message(message.body_content).responses
                ),
                None,
            )
    except CMPError:
        return None  # it is traced all the same; `receive` says what is wrong with it
    return None
