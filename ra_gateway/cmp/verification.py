"""From a decoded message to an authenticated request: header rules, signer, protection, proof of possession.

The results (`AuthenticatedMessage`, `AuthenticatedRequest`, `AuthenticatedConfirmation`) are proofs: they can be made
only by the functions of this module that did the checking, so that a step that takes one cannot be reached
without it. Which rules are relaxed for whom is data: `HeaderRules` from the endpoint, quirks from the domain.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NoReturn

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    AlgorithmPolicy,
    AlgorithmRefused,
    InvalidSignature,
    SignatureAlgorithm,
    digest,
    hash_algorithm,
    key_family,
    load_public_key,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.certificates import Certificate, ExtensionOID, KeyUsage, load_certificate
from ra_gateway.cmp.codes import OID
from ra_gateway.cmp.messages import (
    CMP2000,
    CMP2021,
    RA_VERIFIED,
    CertReqMsg,
    CertStatus,
    PKIHeader,
    PKIMessage,
    SignaturePOP,
    cert_confirm_content,
    cert_req_messages,
)
from ra_gateway.cmp.names import NULL_DN, name_of, same_name
from ra_gateway.cmp.protection import verify_protection
from ra_gateway.cmp.trust import Path, TrustDomain
from ra_gateway.errors import (
    CMPError,
    ConfirmationRefused,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    PKIFailureInfo,
    POPRefused,
    ProtectionRefused,
    RequestRefused,
    SignerNotTrusted,
    TemplateRefused,
)

NONCE_OCTETS: Final = 16
"""senderNonce and transactionID of a conforming message (RFC 9483 3.1: 128 bits)."""

MIN_REQUESTED_RSA_BITS: Final = 2048
"""For new certificates, also where a domain forgives its devices an older key (TS 33.310 6.1.1)."""

_MAX_SAME_NAMED_SIGNERS: Final = 3
"""Certificates with one key identifier that are tried: a renewed certificate for the same key has its twin."""

_MAC_ALGORITHMS: Final = frozenset(
    {OID.passwordBasedMac, OID.pbmac1, OID.dhBasedMac, OID.kemBasedMac}
)


class Strictness(StrEnum):
    """How an endpoint reads the profiles."""

    lenient = "lenient"
    three_gpp = "3gpp"  # TS 33.310: what base stations send
    strict = "strict"  # RFC 9483 to the letter


class Quirk(StrEnum):
    """Single rules that a trust domain may relax for its devices; each use is reported."""

    short_ids = "short_ids"
    recip_nonce_in_ir = "recip_nonce_in_ir"
    no_message_time = "no_message_time"
    any_cert_req_id = "any_cert_req_id"
    no_subject = "no_subject"


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """What an endpoint asks of messages.

    Args:
        message_time_window_seconds: Largest difference between messageTime and our clock.
        require_message_time: Refuse messages without messageTime.
        extra_certs_max_count: Most certificates a message may carry.
        quirks: Rules that are relaxed.
    """

    strictness: Strictness = Strictness.three_gpp
    message_time_window_seconds: int = 300
    require_message_time: bool = False
    extra_certs_max_count: int = 16
    quirks: frozenset[str] = frozenset()

    @property
    def strict(self) -> bool:
        """Whether RFC 9483 is read to the letter."""
        return self.strictness is Strictness.strict

    def relaxed_by(self, quirks: Iterable[str]) -> HeaderRules:
        """Return the rules with quirks added."""
        more = frozenset(quirks) - self.quirks
        return replace(self, quirks=self.quirks | more) if more else self


# --- header ---------------------------------------------------------------------------------------------------


def check_version(header: PKIHeader) -> None:
    """Refuse any pvno but 2 and 3 (RFC 9483 3.5 step 2).

    Raises:
        HeaderRefused: unsupportedVersion.
    """
    if header.pvno not in (CMP2000, CMP2021):
        raise HeaderRefused(
            f"pvno {header.pvno}; 2 and 3 are supported",
            fail_info=PKIFailureInfo.unsupportedVersion,
            rule="R2",
        )


def check_header(header: PKIHeader, rules: HeaderRules, *, first: bool) -> None:
    """Check transactionID and nonces (RFC 9483 3.5 steps 3, 5, 6 and the strict rules).

    Args:
        first: Whether the message opens an operation.

    Raises:
        MalformedMessage: transactionID is missing.
        HeaderRefused: badSenderNonce, badRecipientNonce or badRequest.
    """
    if not header.transaction_id:
        raise MalformedMessage("no transactionID", rule="R4")
    short_ids = Quirk.short_ids in rules.quirks
    if rules.strict and not short_ids and len(header.transaction_id) < NONCE_OCTETS:
        raise MalformedMessage(f"transactionID of {len(header.transaction_id)} octets", rule="R5")
    nonce = header.sender_nonce
    if not nonce or (len(nonce) < NONCE_OCTETS and not short_ids):
        raise HeaderRefused(
            f"senderNonce of {len(nonce or b'')} octets; 16 are required",
            fail_info=PKIFailureInfo.badSenderNonce,
            rule="R6",
        )
    if (
        first
        and header.recip_nonce is not None
        and rules.strict
        and Quirk.recip_nonce_in_ir not in rules.quirks
    ):
        raise HeaderRefused(
            "recipNonce in the first message of an operation",
            fail_info=PKIFailureInfo.badRecipientNonce,
            rule="R7",
        )
    implicit = header.info(OID.implicitConfirm)
    if rules.strict and implicit is not None and implicit.value_der not in (None, b"\x05\x00"):
        raise HeaderRefused("implicitConfirm with a value other than NULL", rule="R31")


def check_message_time(header: PKIHeader, rules: HeaderRules, now: datetime) -> None:
    """Check messageTime against our clock (RFC 9483 3.5 step 13).

    Raises:
        HeaderRefused: badTime.
    """
    moment = header.message_time
    if moment is None:
        if rules.require_message_time and Quirk.no_message_time not in rules.quirks:
            raise HeaderRefused("no messageTime", fail_info=PKIFailureInfo.badTime, rule="R29")
        return
    window = timedelta(seconds=rules.message_time_window_seconds)
    if not -window <= moment - now <= window:
        raise HeaderRefused(
            f"messageTime {moment:%Y-%m-%dT%H:%M:%SZ} is {abs((moment - now).total_seconds()):.0f} s "
            f"{'ahead of' if moment > now else 'behind'} our clock; "
            f"{rules.message_time_window_seconds} s are allowed",
            fail_info=PKIFailureInfo.badTime,
            rule="R29",
        )


# --- signer and protection ------------------------------------------------------------------------------------

_SEAL: Final = object()


def _check_seal(seal: object) -> None:
    if seal is not _SEAL:
        raise TypeError("only ra_gateway.cmp.verification can make this")


@dataclass(frozen=True, slots=True)
class AuthenticatedMessage:
    """A message whose protection verified with the key of a certificate that a domain vouches for.

    Args:
        path: From `signer` to the domain's anchor; just the signer where it was authenticated before.
    """

    message: PKIMessage
    signer: Certificate
    domain: TrustDomain
    path: Path
    seal: object

    def __post_init__(self) -> None:
        _check_seal(self.seal)


def protection_algorithm(message: PKIMessage) -> SignatureAlgorithm:
    """Return the signature algorithm a message says it is protected with (RFC 9483 3.5 steps 7 and 8).

    Raises:
        ProtectionRefused: No protection, half of it (badMessageCheck), or a MAC (wrongIntegrity).
        AlgorithmRefused: Unknown.
    """
    algorithm_der = message.header.protection_alg_der
    if message.protection is None and algorithm_der is None:
        raise ProtectionRefused("the message is not protected", rule="R13")
    if message.protection is None or algorithm_der is None:
        raise ProtectionRefused("only one of protection and protectionAlg is present", rule="R14")
    try:
        return signature_algorithm(algorithm_der)
    except AlgorithmRefused as error:
        oid = asn1.decode(asn1.AlgorithmIdentifier, algorithm_der).algorithm.dotted_string
        if oid in _MAC_ALGORITHMS:
            raise ProtectionRefused(
                "MAC protection; this endpoint takes signatures only",
                fail_info=PKIFailureInfo.wrongIntegrity,
                rule="R43",
            ) from error
        raise


def certificate_bag(message: PKIMessage, rules: HeaderRules) -> list[Certificate]:
    """Return the certificates a message carries, in order; one that does not parse is left out.

    Raises:
        HeaderRefused: There are more than the endpoint allows.
    """
    if len(message.extra_certs) > rules.extra_certs_max_count:
        raise HeaderRefused(
            f"{len(message.extra_certs)} extraCerts; at most {rules.extra_certs_max_count} are read",
            rule="RFC 9483 3.3",
        )
    bag = []
    for der in message.extra_certs:
        try:
            bag.append(load_certificate(der))
        except MalformedMessage:
            # extraCerts is not protected: a stray element must not void an otherwise good message.
            continue
    return bag


def select_signers(
    header: PKIHeader, bag: Sequence[Certificate], rules: HeaderRules
) -> list[Certificate]:
    """Return the certificates that the header names as its signer: by senderKID, else by sender.

    Raises:
        ProtectionRefused: None of them is named.
    """
    if not bag:
        raise ProtectionRefused("no certificate came with the message", rule="R33")
    if header.sender_kid is None and rules.strict and bag[0].subject_key_identifier is not None:
        raise ProtectionRefused("no senderKID", rule="R27")
    chosen = [
        certificate
        for certificate in bag
        if _kid_fits(header, certificate) and _sender_fits(header, certificate)
    ]
    if not chosen:
        _explain_no_signer(header, bag)
    if rules.strict and bag[0] not in chosen:
        raise ProtectionRefused(
            "the first of the extraCerts is not the protecting certificate", rule="R32"
        )
    return chosen[:_MAX_SAME_NAMED_SIGNERS]


def _kid_fits(header: PKIHeader, certificate: Certificate) -> bool:
    if header.sender_kid is None:
        return True
    identifier = certificate.subject_key_identifier
    return identifier is None or identifier == header.sender_kid


def _sender_fits(header: PKIHeader, certificate: Certificate) -> bool:
    sender = header.sender_name_der
    # RFC 9810 5.1.1: NULL-DN where the sender does not know its name; senderKID must then do.
    if sender == NULL_DN:
        return header.sender_kid is not None
    return sender is not None and same_name(sender, certificate.subject_der)


def _explain_no_signer(header: PKIHeader, bag: Sequence[Certificate]) -> NoReturn:
    subjects = "; ".join(certificate.subject for certificate in bag)
    if any(_kid_fits(header, certificate) for certificate in bag):
        raise ProtectionRefused(
            f"sender names none of the certificates in extraCerts ({subjects})", rule="R26"
        )
    raise ProtectionRefused(
        f"senderKID {(header.sender_kid or b'').hex()} is the key identifier of none of the "
        f"certificates in extraCerts ({subjects})",
        rule="R27",
    )


def authenticate(
    message: PKIMessage, domains: Sequence[TrustDomain], rules: HeaderRules, now: datetime
) -> AuthenticatedMessage:
    """Authenticate a message that opens an operation.

    Args:
        domains: Those that may vouch for this kind of message; the first with a valid path does.
        rules: The endpoint's; a domain's quirks are added when it is known.
        now: Aware UTC.

    Raises:
        ProtectionRefused, AlgorithmRefused, SignerNotTrusted, NotAuthorized, HeaderRefused, MalformedMessage.
    """
    algorithm = protection_algorithm(message)
    bag = certificate_bag(message, rules)
    refusal: CMPError | None = None
    for signer in select_signers(message.header, bag, rules):
        try:
            domain, path = _vouch(signer, bag, domains, now)
            _check_protection(message, algorithm, signer, domain.algorithms)
            # Not before the signature: who merely shows a certificate is told nothing about it.
            _check_credential(signer)
            check_header(message.header, rules.relaxed_by(domain.quirks), first=True)
        except CMPError as error:
            refusal = refusal or error
        else:
            return AuthenticatedMessage(message, signer, domain, path, _SEAL)
    raise refusal or ProtectionRefused("no signer found", rule="R33")


def authenticate_registered(
    message: PKIMessage,
    registered: Collection[Certificate],
    domain: TrustDomain,
    rules: HeaderRules,
    now: datetime,
) -> AuthenticatedMessage:
    """Authenticate a message that only registered PKI management entities may send, whatever its type.

    Args:
        registered: Their certificates, exactly: another one for the same name or key is not registered.
            A message protected by one of them need not carry it.
        domain: Must have a valid path for it as well.

    Raises:
        ProtectionRefused, AlgorithmRefused, SignerNotTrusted, NotAuthorized, HeaderRefused, MalformedMessage.
    """
    algorithm = protection_algorithm(message)
    bag = certificate_bag(message, rules)
    refusal: CMPError | None = None
    for signer in select_signers(
        message.header,
        list(dict.fromkeys((*registered, *bag))),
        replace(rules, strictness=Strictness.lenient),
    ):
        try:
            known = signer in registered
            path = domain.find_path(signer, bag, now, remember_leaf=known)
            _check_protection(message, algorithm, signer, domain.algorithms)
            if not known:
                raise NotAuthorized(f"{signer.subject} is not registered here", rule="R123")
            # Not as a first message: the nonces are a device's, and R7 was for the RA to enforce.
            check_header(message.header, rules.relaxed_by(domain.quirks), first=False)
        except CMPError as error:
            refusal = refusal or error
        else:
            return AuthenticatedMessage(message, signer, domain, path, _SEAL)
    raise refusal or ProtectionRefused("no signer found", rule="R33")


def _vouch(
    signer: Certificate, bag: Sequence[Certificate], domains: Sequence[TrustDomain], now: datetime
) -> tuple[TrustDomain, Path]:
    refusals: list[CMPError] = []
    for domain in domains:
        try:
            return domain, domain.find_path(signer, bag, now)
        except CMPError as error:
            refusals.append(error)
    if not refusals:
        raise SignerNotTrusted("no trust domain is configured for this request", rule="R21")
    # A path that exists and is invalid tells more than the domains that have none.
    telling = [error for error in refusals if error.rule != "R21"]
    if telling:
        raise telling[0]
    raise SignerNotTrusted("; ".join(error.detail for error in refusals), rule="R21")


def _check_credential(signer: Certificate) -> None:
    """Refuse certificates that are not a device's: those of CAs and of PKI management entities."""
    if signer.is_ca:
        raise NotAuthorized(f"{signer.subject} is a CA certificate", rule="R36")
    if signer.extended_key_usage & {OID.cmcRA, OID.cmcCA, OID.cmKGA}:
        raise NotAuthorized(f"{signer.subject} is the certificate of an RA or CA", rule="R36")


def _check_protection(
    message: PKIMessage,
    algorithm: SignatureAlgorithm,
    signer: Certificate,
    allowed: AlgorithmPolicy,
) -> None:
    allowed.require_signature(algorithm, "the message is protected")
    usage = signer.key_usage
    if usage is not None and KeyUsage.digitalSignature not in usage:
        raise ProtectionRefused(f"keyUsage of {signer.subject} lacks digitalSignature", rule="R25")
    verify_protection(message, algorithm, signer)


@dataclass(frozen=True, slots=True)
class KnownSigner:
    """Who opened an operation that a later message claims to continue."""

    certificate: Certificate
    domain: TrustDomain


def authenticate_follower(
    message: PKIMessage, known: Sequence[KnownSigner], rules: HeaderRules, now: datetime
) -> AuthenticatedMessage:
    """Authenticate a certConf by the signer that opened the operation, whose certificate is remembered.

    Args:
        known: Signers of the live operations with this transactionID (usually one).

    Raises:
        ProtectionRefused: None of them protects the message.
        AlgorithmRefused, SignerNotTrusted, HeaderRefused, MalformedMessage.
    """
    algorithm = protection_algorithm(message)
    refusal: CMPError | None = None
    for candidate in known:
        signer = candidate.certificate
        if not (_kid_fits(message.header, signer) and _sender_fits(message.header, signer)):
            continue
        try:
            if not signer.valid_at(now):
                raise SignerNotTrusted(f"{signer.subject} has expired", rule="R22")
            _check_protection(message, algorithm, signer, candidate.domain.algorithms)
            check_header(message.header, rules.relaxed_by(candidate.domain.quirks), first=False)
        except CMPError as error:
            refusal = refusal or error
        else:
            return AuthenticatedMessage(message, signer, candidate.domain, (signer,), _SEAL)
    raise refusal or ProtectionRefused(
        "the message is not protected by the credential that opened the transaction", rule="R35"
    )


# --- certificate requests -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthenticatedRequest:
    """An authenticated ir, cr or kur whose one CertReqMsg is in order and whose POP verified."""

    authenticated: AuthenticatedMessage
    request: CertReqMsg
    public_key_der: bytes
    seal: object

    def __post_init__(self) -> None:
        _check_seal(self.seal)

    @property
    def message(self) -> PKIMessage:
        """The message as received."""
        return self.authenticated.message

    @property
    def signer(self) -> Certificate:
        """The certificate that protects the message."""
        return self.authenticated.signer

    @property
    def domain(self) -> TrustDomain:
        """The domain that vouches for the signer."""
        return self.authenticated.domain


def read_request(
    authenticated: AuthenticatedMessage, rules: HeaderRules, *, ra_verified_allowed: bool = False
) -> AuthenticatedRequest:
    """Read the body of an authenticated ir, cr or kur and verify proof of possession.

    Args:
        ra_verified_allowed: Whether the signer is a registered RA that may assert raVerified.

    Raises:
        RequestRefused, TemplateRefused, POPRefused, NotAuthorized, MalformedMessage.
    """
    message, domain = authenticated.message, authenticated.domain
    rules = rules.relaxed_by(domain.quirks)
    if message.body_content == asn1.tlv(0x30):
        raise RequestRefused("no CertReqMsg, expected exactly one", rule="R46")
    messages = cert_req_messages(message.body_content)
    if len(messages) != 1:
        raise RequestRefused(f"{len(messages)} CertReqMsg, expected exactly one", rule="R46")
    request = messages[0]
    if request.cert_req_id != 0 and Quirk.any_cert_req_id not in rules.quirks:
        raise RequestRefused(f"certReqId {request.cert_req_id}, expected 0", rule="R47")
    public_key_der, key = _check_template(request, domain.algorithms, rules)
    if request.pop == RA_VERIFIED:
        if not ra_verified_allowed:
            raise NotAuthorized("raVerified from a device", rule="R57")
    else:
        _verify_pop(request, message.header, public_key_der, key, domain.algorithms, rules)
    return AuthenticatedRequest(authenticated, request, public_key_der, _SEAL)


def _check_template(
    request: CertReqMsg, allowed: AlgorithmPolicy, rules: HeaderRules
) -> tuple[bytes, PublicKeyTypes]:
    template = request.template
    _check_one_template(request)
    if template.version not in (None, 2):
        raise TemplateRefused(f"version {template.version}, expected 2 (v3)", rule="R48")
    nameless = template.subject_der in (None, NULL_DN) and (
        template.subject_der is None or not template.extension(ExtensionOID.subjectAltName)
    )
    if nameless and rules.strict and Quirk.no_subject not in rules.quirks:
        raise TemplateRefused("no subject, and no subjectAltName in its place", rule="R51")
    if template.reserved and rules.strict:
        raise TemplateRefused(f"{', '.join(template.reserved)} must be absent", rule="R49")
    if template.spki_der is None:
        raise TemplateRefused("no publicKey: keys are not generated here", rule="R60")
    if not asn1.decode(asn1.SubjectPublicKeyInfo, template.spki_der).subject_public_key.as_bytes():
        raise TemplateRefused("empty publicKey: keys are not generated here", rule="R60")
    try:
        key = load_public_key(template.spki_der)
        replace(
            allowed, min_rsa_bits=max(allowed.min_rsa_bits, MIN_REQUESTED_RSA_BITS)
        ).require_key(key, "the requested certificate has a key")
    except AlgorithmRefused as error:
        raise TemplateRefused(error.detail, rule="R61") from error
    except MalformedMessage as error:
        raise TemplateRefused(error.detail, rule="R61") from error
    _check_no_authority(request)
    return template.spki_der, key


def _check_one_template(request: CertReqMsg) -> None:
    """Refuse whatever could make a CA see another template than the one that is checked here."""
    oids = [extension.oid for extension in request.template.extensions]
    if twice := {oid for oid in oids if oids.count(oid) > 1}:
        raise TemplateRefused(f"extension {', '.join(sorted(twice))} twice", rule="RFC 5280 4.2")
    # RFC 4211 6.7 and 7.2: a template beside the template, which takes its place.
    others = {control.type for control in (*request.controls, *request.reg_info)}
    if others & {OID.altCertTemplate, OID.regInfoCertReq}:
        raise TemplateRefused("a second template in controls or regInfo", rule="RFC 4211 7.2")


def _check_no_authority(request: CertReqMsg) -> None:
    """A device must not ask for the powers of a CA or an RA."""
    constraints = request.template.extension(ExtensionOID.basicConstraints)
    if constraints is not None and asn1.decode(asn1.BasicConstraints, constraints.value).ca:
        raise NotAuthorized("a CA certificate is requested (basicConstraints)", rule="R63")
    usage = request.template.extension(ExtensionOID.keyUsage)
    if usage is not None:
        bits = set(asn1.set_bits(asn1.decode(asn1.BitString, usage.value)))
        if bits & {KeyUsage.keyCertSign, KeyUsage.cRLSign}:
            raise NotAuthorized("keyCertSign or cRLSign is requested", rule="R63")
    purposes = request.template.extension(ExtensionOID.extKeyUsage)
    if purposes is not None:
        oids = {oid.dotted_string for oid in asn1.unbox(asn1.OIDsBox, purposes.value).oids}
        if oids & {OID.cmcRA, OID.cmcCA, OID.cmKGA}:
            raise NotAuthorized("the extended key usage of an RA or CA is requested", rule="R63")


def _verify_pop(
    request: CertReqMsg,
    header: PKIHeader,
    public_key_der: bytes,
    key: PublicKeyTypes,
    allowed: AlgorithmPolicy,
    rules: HeaderRules,
) -> None:
    pop = request.pop
    if pop is None:
        raise POPRefused("no proof of possession", rule="R53")
    if not isinstance(pop, SignaturePOP):
        raise POPRefused(f"proof of possession by {pop}; only signature is supported", rule="R72")
    signed = request.cert_req_der
    if pop.input_der is not None:
        _check_popo_input(pop, request, header, public_key_der, rules)
        signed = pop.input_der
    try:
        algorithm = signature_algorithm(pop.algorithm_der)
        if algorithm.family == key_family(key):
            allowed.require_signature(algorithm, "possession is proved")
        verify_signature(algorithm, key, pop.signature, signed)
    except InvalidSignature as error:
        raise POPRefused(
            "the signature does not verify with the requested key", rule="R54"
        ) from error
    except AlgorithmRefused as error:
        # An algorithm of another kind than the key is a wrong proof; a weak one is a bad algorithm.
        mismatch = error.rule == "R18"
        raise POPRefused(
            error.detail,
            fail_info=PKIFailureInfo.badPOP if mismatch else PKIFailureInfo.badAlg,
            rule="R54" if mismatch else "R146",
        ) from error


def _check_popo_input(
    pop: SignaturePOP,
    request: CertReqMsg,
    header: PKIHeader,
    public_key_der: bytes,
    rules: HeaderRules,
) -> None:
    if rules.strict:
        raise POPRefused("poposkInput is not allowed (RFC 9483 4.1.1)", rule="R56")
    if request.template.subject_der not in (None, NULL_DN) and request.template.spki_der:
        # RFC 4211 4.1: with subject and publicKey present, the CertRequest itself is to be signed.
        raise POPRefused("poposkInput although the template has subject and publicKey", rule="R56")
    if pop.public_key_der != public_key_der:
        raise POPRefused("poposkInput names another key than the template", rule="R56")
    if pop.auth_info_der[:1] != b"\xa0":
        raise POPRefused("poposkInput with a MAC; only sender is supported", rule="R56")
    named = name_of(asn1.content(asn1.element(pop.auth_info_der)))
    sender = header.sender_name_der
    if named is None or sender is None or not same_name(named, sender):
        raise POPRefused("poposkInput names another sender than the header", rule="R56")


# --- confirmation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthenticatedConfirmation:
    """A certConf by the right signer whose certHash fits the certificate that was relayed."""

    authenticated: AuthenticatedMessage
    status: CertStatus
    seal: object

    def __post_init__(self) -> None:
        _check_seal(self.seal)


def read_confirmation(
    authenticated: AuthenticatedMessage,
    certificate: Certificate,
    *,
    response_nonce: bytes,
    cert_req_id: int,
) -> AuthenticatedConfirmation:
    """Read the body of an authenticated certConf and check it against the issued certificate.

    Args:
        response_nonce: senderNonce of the ip, cp or kup.
        cert_req_id: As in the request.

    Raises:
        HeaderRefused: badRecipientNonce, or not exactly one CertStatus (badRequest).
        ConfirmationRefused: It does not fit.
        MalformedMessage: It does not parse.
    """
    header = authenticated.message.header
    if header.recip_nonce != response_nonce:
        raise HeaderRefused(
            "recipNonce is not the senderNonce of the response",
            fail_info=PKIFailureInfo.badRecipientNonce,
            rule="R8",
        )
    statuses = cert_confirm_content(authenticated.message.body_content)
    if len(statuses) != 1:
        raise HeaderRefused(f"{len(statuses)} CertStatus, expected exactly one", rule="R106")
    status = statuses[0]
    if status.cert_req_id != cert_req_id:
        raise ConfirmationRefused(
            f"certReqId {status.cert_req_id}, expected {cert_req_id}",
            fail_info=PKIFailureInfo.badRequest,
            rule="R107",
        )
    if status.takes_certificate and status.status_info is not None and status.status_info.fail_info:
        raise ConfirmationRefused(
            "accepted, but with failInfo", fail_info=PKIFailureInfo.badRequest, rule="R108"
        )
    hash_name = _cert_hash_name(status, certificate, header)
    if digest(hash_name, certificate.der) != status.cert_hash:
        raise ConfirmationRefused(
            f"certHash is not the {hash_name} of the issued certificate", rule="R102"
        )
    return AuthenticatedConfirmation(authenticated, status, _SEAL)


def _cert_hash_name(status: CertStatus, certificate: Certificate, header: PKIHeader) -> str:
    if status.hash_alg is None:
        return cert_hash_name(certificate)
    if header.pvno != CMP2021:
        raise ConfirmationRefused(
            f"hashAlg with pvno {header.pvno}; it needs 3",
            fail_info=PKIFailureInfo.badRequest,
            rule="R103",
        )
    name = hash_algorithm(status.hash_alg)
    if name in ("md5", "sha1"):
        raise ConfirmationRefused(
            f"certHash by {name}", fail_info=PKIFailureInfo.badAlg, rule="R103"
        )
    return name


def cert_hash_name(certificate: Certificate) -> str:
    """Return the hash for certHash where none is named (RFC 9810 5.3.18, RFC 9481 3.3)."""
    # ML-DSA has no hash of its own; implementations in the field use SHA-512 then.
    return certificate.signature_algorithm.hash_name or "sha512"


# --- answers of a CA ------------------------------------------------------------------------------------------


def authenticate_answer(
    message: PKIMessage,
    trust: TrustDomain,
    pinned: Sequence[Certificate],
    rules: HeaderRules,
    now: datetime,
) -> AuthenticatedMessage:
    """Authenticate a message that a CA sent.

    Args:
        trust: Anchors that the CA's protecting certificate must chain to.
        pinned: Certificates that may protect without a path (a CA that signs with its own key), and those
            seen before: some CAs leave extraCerts out of later messages.
        rules: Lenient ones, usually: what a CA does is taken as it is, as long as it is authentic.

    Raises:
        ProtectionRefused, AlgorithmRefused, SignerNotTrusted, HeaderRefused.
    """
    algorithm = protection_algorithm(message)
    bag = certificate_bag(message, rules)
    refusal: CMPError | None = None
    for signer in select_signers(message.header, [*bag, *pinned], rules):
        try:
            path: Path = (signer,)
            if signer not in pinned:
                path = trust.find_path(signer, bag, now, remember_leaf=True)
            elif not signer.valid_at(now):
                raise SignerNotTrusted(f"{signer.subject} has expired", rule="R22")
            trust.algorithms.require_signature(algorithm, "the answer is protected")
            verify_protection(message, algorithm, signer)
        except CMPError as error:
            refusal = refusal or error
        else:
            return AuthenticatedMessage(message, signer, trust, path, _SEAL)
    raise refusal or ProtectionRefused("no signer found", rule="R84")


def check_answer_header(
    header: PKIHeader, *, transaction_id: bytes | None, sender_nonce: bytes | None
) -> None:
    """Check that an answer belongs to a request (R83).

    Raises:
        HeaderRefused: transactionID or recipNonce is another one.
    """
    if header.transaction_id != transaction_id:
        raise HeaderRefused("the answer has another transactionID", rule="R83")
    if header.recip_nonce != sender_nonce:
        raise HeaderRefused(
            "recipNonce of the answer is not the request's senderNonce",
            fail_info=PKIFailureInfo.badRecipientNonce,
            rule="R83",
        )
