"""What an authenticated message asks for: certificate requests with proof of possession, and confirmations.

As in `verification`, the results are proofs: `AuthenticatedRequest` and `AuthenticatedConfirmation` can be made only
here, by the functions that did the checking.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import (
    AlgorithmPolicy,
    AlgorithmRefused,
    InvalidSignature,
    digest,
    hash_algorithm,
    key_family,
    load_public_key,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.certificates import Certificate, ExtensionOID, KeyUsage
from ra_gateway.cmp.codes import OID, BodyType, is_cert_req_id
from ra_gateway.cmp.messages import (
    CMP2021,
    RA_VERIFIED,
    CertReqMsg,
    CertStatus,
    InfoTypeAndValue,
    PKIHeader,
    PKIMessage,
    SignaturePOP,
    cert_confirm_content,
    cert_req_messages,
    certification_request,
    gen_msg_content,
    rev_req_content,
)
from ra_gateway.cmp.names import NULL_DN, name_of, same_name
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import (
    Authenticated,
    AuthenticatedMessage,
    HeaderRules,
    MACAuthenticatedMessage,
    Quirk,
)
from ra_gateway.errors import (
    ConfirmationRefused,
    HeaderRefused,
    MalformedMessage,
    NotAuthorized,
    PKIFailureInfo,
    POPRefused,
    RequestRefused,
    TemplateRefused,
)

MIN_REQUESTED_RSA_BITS: Final = 2048
"""For new certificates, also where a domain forgives its devices an older key (TS 33.310 6.1.1)."""

_SEAL: Final = object()


@dataclass(frozen=True, slots=True)
class AuthenticatedRequest:
    """An authenticated ir, cr, kur or p10cr whose one request is in order and whose POP verified."""

    authenticated: Authenticated
    request: CertReqMsg
    public_key_der: bytes
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only ra_gateway.cmp.requests can make this")

    @property
    def message(self) -> PKIMessage:
        """The message as received."""
        return self.authenticated.message

    @property
    def signer(self) -> Certificate:
        """The certificate that protects the message.

        Raises:
            NotAuthorized: A shared secret protects it, which is nothing a certificate's rights follow from.
        """
        if isinstance(self.authenticated, MACAuthenticatedMessage):
            raise NotAuthorized("no certificate protects the request", rule="R71")
        return self.authenticated.signer

    @property
    def domain(self) -> TrustDomain:
        """The domain that vouches for the signer."""
        return self.authenticated.domain


def read_request(
    authenticated: Authenticated, rules: HeaderRules, *, ra_verified_allowed: bool = False
) -> AuthenticatedRequest:
    """Read the body of an authenticated ir, cr, kur or p10cr and verify proof of possession.

    Args:
        ra_verified_allowed: Whether the signer is a registered RA that may assert raVerified.

    Raises:
        RequestRefused, TemplateRefused, POPRefused, NotAuthorized, MalformedMessage.
    """
    message, domain = authenticated.message, authenticated.domain
    rules = rules.relaxed_by(domain.quirks)
    is_pkcs10 = message.body_type is BodyType.p10cr
    request = (
        certification_request(message.body_content) if is_pkcs10 else _crmf_request(message, rules)
    )
    public_key_der, key = _check_template(request, domain.algorithms, rules)
    if request.pop == RA_VERIFIED:
        if not ra_verified_allowed:
            raise NotAuthorized("raVerified from a device", rule="R57")
    else:
        _verify_pop(request, message.header, public_key_der, key, domain.algorithms, rules)
    return AuthenticatedRequest(authenticated, request, public_key_der, _SEAL)


def _crmf_request(message: PKIMessage, rules: HeaderRules) -> CertReqMsg:
    if message.body_content == asn1.tlv(0x30):
        raise RequestRefused("no CertReqMsg, expected exactly one", rule="R46")
    messages = cert_req_messages(message.body_content)
    if len(messages) != 1:
        raise RequestRefused(f"{len(messages)} CertReqMsg, expected exactly one", rule="R46")
    request = messages[0]
    if request.cert_req_id != 0 and Quirk.any_cert_req_id not in rules.quirks:
        raise RequestRefused(f"certReqId {request.cert_req_id}, expected 0", rule="R47")
    return request


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
    signed, wrong = request.cert_req_der, "R65" if request.is_pkcs10 else "R54"
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
            "the signature does not verify with the requested key", rule=wrong
        ) from error
    except AlgorithmRefused as error:
        # An algorithm of another kind than the key is a wrong proof; a weak one is a bad algorithm.
        mismatch = error.rule == "R18"
        raise POPRefused(
            error.detail,
            fail_info=PKIFailureInfo.badPOP if mismatch else PKIFailureInfo.badAlg,
            rule=wrong if mismatch else "R146",
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

    authenticated: Authenticated
    status: CertStatus
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only ra_gateway.cmp.requests can make this")


def read_confirmation(
    authenticated: Authenticated,
    certificate: Certificate,
    *,
    response_nonce: bytes,
    cert_req_id: int,
) -> AuthenticatedConfirmation:
    """Read the body of an authenticated certConf and check it against the issued certificate.

    Args:
        response_nonce: senderNonce of the ip, cp or kup.
        cert_req_id: As in the request; -1 for a p10cr.

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
    if not is_cert_req_id(status.cert_req_id, cert_req_id):
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


# --- revocation -----------------------------------------------------------------------------------------------

CRL_REASONS: Final = frozenset({0, 1, 2, 3, 4, 5, 6, 8, 9, 10})
"""CRLReason (RFC 5280 5.3.1)."""


@dataclass(frozen=True, slots=True)
class AuthenticatedRevocation:
    """An authenticated rr for one certificate.

    Args:
        issuer_der: Name of the certificate's issuer.
        reason: CRLReason.
    """

    authenticated: AuthenticatedMessage
    issuer_der: bytes
    serial_number: int
    reason: int
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only ra_gateway.cmp.requests can make this")

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


def read_revocation(authenticated: AuthenticatedMessage) -> AuthenticatedRevocation:
    """Read the body of an authenticated rr (RFC 9483 4.2).

    Raises:
        RequestRefused: Not exactly one certificate, or it lacks issuer, serialNumber or reasonCode.
        MalformedMessage: It does not parse.
    """
    content = authenticated.message.body_content
    if content == asn1.tlv(0x30):
        raise RequestRefused("no RevDetails, expected exactly one", rule="R131")
    all_details = rev_req_content(content)
    if len(all_details) != 1:
        raise RequestRefused(f"{len(all_details)} RevDetails, expected exactly one", rule="R131")
    template, entry = all_details[0].template, all_details[0].crl_entry_details
    if template.serial_number is None or template.issuer_der is None:
        raise RequestRefused(
            "issuer and serialNumber must name the certificate",
            fail_info=PKIFailureInfo.addInfoNotAvailable,
            rule="R131",
        )
    reasons = [extension.value for extension in entry if extension.oid == OID.reasonCode]
    if len(reasons) != 1:
        raise RequestRefused("no reasonCode in crlEntryDetails", rule="R132")
    code = asn1.element(reasons[0])
    if code.tag_bytes != b"\x0a" or len(asn1.content(code)) != 1:
        raise MalformedMessage("reasonCode is not ENUMERATED", rule="R132")
    reason = asn1.content(code)[0]
    if reason not in CRL_REASONS:
        raise RequestRefused(
            f"reasonCode {reason} does not exist",
            fail_info=PKIFailureInfo.badDataFormat,
            rule="R132",
        )
    return AuthenticatedRevocation(
        authenticated, template.issuer_der, template.serial_number, reason, _SEAL
    )


# --- questions ------------------------------------------------------------------------------------------------

_ASKED_WITHOUT_VALUE: Final = frozenset({OID.caCerts, OID.certReqTemplate})


@dataclass(frozen=True, slots=True)
class AuthenticatedQuestion:
    """An authenticated genm that asks one thing."""

    authenticated: AuthenticatedMessage
    question: InfoTypeAndValue
    seal: object

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only ra_gateway.cmp.requests can make this")


def read_question(authenticated: AuthenticatedMessage) -> AuthenticatedQuestion:
    """Read the body of an authenticated genm (RFC 9483 4.3).

    Raises:
        HeaderRefused: Not exactly one question, or a value where there must be none.
        MalformedMessage: It does not parse.
    """
    items = gen_msg_content(authenticated.message.body_content)
    if len(items) != 1:
        raise HeaderRefused(f"{len(items)} questions in genm, expected exactly one", rule="R138")
    (question,) = items
    if question.value_der is not None and question.info_type in _ASKED_WITHOUT_VALUE:
        raise HeaderRefused(f"a value with {question.info_type}, which asks without", rule="R138")
    return AuthenticatedQuestion(authenticated, question, _SEAL)
