"""What an authenticated message asks for: certificate requests with proof of possession, and confirmations.

As in `verification`, the results are proofs: `AuthenticatedRequest` and `AuthenticatedConfirmation` can be made only
here, by the functions that did the checking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, replace
from functools import partial
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import (
    KEM_PUBLIC_KEYS,
    AlgorithmPolicy,
    AlgorithmRefused,
    digest,
    hash_algorithm,
    key_family,
    load_public_key,
    public_key_kind,
    signature_algorithm,
    verify_signature,
)
from ra_gateway.cmp.bodies import (
    CertResponse,
    CertStatus,
    PKIStatusInfo,
    cert_confirm_content,
    gen_msg_content,
    rev_req_content,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus, Possession, is_cert_req_id
from ra_gateway.cmp.crmf import (
    RA_VERIFIED,
    CertReqMsg,
    CertTemplate,
    Extension,
    SignaturePOP,
    cert_req_messages,
    certification_request,
    doubled,
)
from ra_gateway.cmp.header_checks import (
    HeaderRules,
    algorithm_quirks_used,
    check_cert_req_id,
    check_subject,
    quirks_needed,
)
from ra_gateway.cmp.mac_verification import MACAuthenticatedMessage
from ra_gateway.cmp.malformed import check_values
from ra_gateway.cmp.messages import CMP2021, InfoTypeAndValue, PKIHeader, PKIMessage
from ra_gateway.cmp.names import NULL_DN, name_of, same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.quirks import Quirk, Strictness
from ra_gateway.cmp.requested_extensions import check_requested_extensions
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.cmp.verification import Authenticated, AuthenticatedMessage
from ra_gateway.cmp.x520 import require_readable
from ra_gateway.errors import (
    CMPError,
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

_SEAL: Final = Seal(__name__)


@proof(_SEAL)
class AuthenticatedRequest:
    """An authenticated ir, cr, kur or p10cr whose one request is in order, its POP verified unless it says so.

    Args:
        requested_key_der: SubjectPublicKeyInfo; None where the CA is to make the key.
        possession: Other than `proved` only where `read_request` was told to accept that.
    """

    authenticated: Authenticated
    request: CertReqMsg
    requested_key_der: bytes | None
    possession: Possession
    seal: InitVar[Seal]

    @property
    def message(self) -> PKIMessage:
        """The message as received."""
        return self.authenticated.message

    @property
    def public_key_der(self) -> bytes:
        """The key to be certified.

        Raises:
            TemplateRefused: There is none, since the CA is to make it.
        """
        if self.requested_key_der is None:
            raise TemplateRefused("no publicKey: keys are not generated here", rule="R60")
        return self.requested_key_der

    @property
    def algorithm_hint_der(self) -> bytes | None:
        """AlgorithmIdentifier of the key that the CA is to make, None where the requester leaves it to the CA."""
        spki_der = self.request.template.spki_der
        if spki_der is None or self.possession is not Possession.key_generation:
            return None
        return asn1.raw(asn1.decode(structures.SubjectPublicKeyInfo, spki_der).algorithm)

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
    authenticated: Authenticated,
    rules: HeaderRules,
    *,
    ra_verified_allowed: bool = False,
    accepted: frozenset[Possession] = frozenset(),
) -> AuthenticatedRequest:
    """Read the body of an authenticated ir, cr, kur or p10cr and verify proof of possession.

    Args:
        ra_verified_allowed: Whether the signer is a registered RA that may assert raVerified.
        accepted: What is taken instead of a proof; the result says whether it was.

    Raises:
        RequestRefused, TemplateRefused, POPRefused, NotAuthorized, MalformedMessage.
    """
    message, domain = authenticated.message, authenticated.domain
    rules = rules.relaxed_by(domain.quirks)
    allowed = rules.algorithms(domain.message_algorithms)
    is_pkcs10 = message.body_type is BodyType.p10cr
    request = (
        certification_request(message.body_content) if is_pkcs10 else _crmf_request(message, rules)
    )
    possession = possession_of(request)
    if possession is Possession.key_generation:
        _check_names(request, rules)
        _check_key_generation(request, message.header, accepted, rules)
        check_requested_extensions(request.template)
        return AuthenticatedRequest(authenticated, request, None, possession, _SEAL)
    if possession is Possession.encr_cert and possession in accepted:
        _check_names(request, rules)
        public_key_der = _check_encr_cert(request, message.header, allowed, rules)
        check_requested_extensions(request.template)
        return AuthenticatedRequest(authenticated, request, public_key_der, possession, _SEAL)
    public_key_der, key = _check_template(request, allowed, rules)
    if request.pop == RA_VERIFIED:
        if rules.strict and message.body_type is BodyType.kur:
            # RFC 9483 5.2.3.2: the device's own protection is what a kur is authorised by.
            raise NotAuthorized("raVerified in a kur", rule="R59")
        if not ra_verified_allowed:
            raise NotAuthorized("raVerified from a device", rule="R57")
    else:
        try:
            _verify_pop(request, message.header, public_key_der, key, allowed, rules)
        except MalformedMessage as error:
            raise POPRefused(f"popo: {error.detail}", rule=error.rule) from error
    return AuthenticatedRequest(authenticated, request, public_key_der, Possession.proved, _SEAL)


def read_certification_request(
    der: bytes, allowed: AlgorithmPolicy, *, of_ca: bool = False
) -> CertReqMsg:
    """Read a PKCS #10 that came by another way than CMP, and verify its proof of possession.

    Args:
        of_ca: Whether a CA asks, which may ask for a CA's powers.

    Raises:
        TemplateRefused, POPRefused, MalformedMessage.
    """
    request = certification_request(der)
    _, key = _check_key(request, allowed, HeaderRules(strictness=Strictness.lenient))
    if not of_ca:
        check_requested_extensions(request.template)
    if not isinstance(request.pop, SignaturePOP):
        raise POPRefused("no proof of possession", rule="R53")
    _verify_signature(request.pop, request.cert_req_der, key, allowed, "R65")
    return request


def possession_of(request: CertReqMsg) -> Possession:
    """Tell how a request means to show possession of its key; whether that is accepted, `read_request` says.

    Raises:
        MalformedMessage: Its publicKey does not parse.
    """
    spki_der = request.template.spki_der
    if spki_der is None:
        return Possession.key_generation
    if not asn1.decode(structures.SubjectPublicKeyInfo, spki_der).subject_public_key.as_bytes():
        return Possession.key_generation
    return Possession.encr_cert if request.encr_cert else Possession.proved


_DELIVERED: Final = {
    Possession.proved: ("a plain certificate alone", (True, False, False)),
    Possession.encr_cert: ("an encrypted certificate alone", (False, True, False)),
    Possession.key_generation: ("a certificate with its private key", (True, False, True)),
}


def require_delivery(possession: Possession, response: CertResponse) -> None:
    """Check that a positive CertResponse brings what was asked for, in the form that belongs to it.

    Args:
        possession: Of the request.

    Raises:
        CMPError: It does not.
    """
    what, expected = _DELIVERED[possession]
    found = (
        response.certificate_der is not None,
        response.encrypted_cert_der is not None,
        response.private_key_der is not None,
    )
    if found != expected:
        raise CMPError(f"{response.status_info.status.name}, but without {what}", rule="R96")


def _require_pvno_3(header: PKIHeader, rules: HeaderRules, rule: str) -> None:
    """EnvelopedData, in which the answer will come, there is from cmp2021 on (RFC 9810 7).

    OpenSSL asks for it with cmp2000, and reads it in an answer of that version; a lenient endpoint gives it one.
    """
    if header.pvno != CMP2021 and not rules.lenient:
        raise RequestRefused(
            f"pvno {header.pvno}, but the answer needs EnvelopedData: pvno 3",
            fail_info=PKIFailureInfo.unsupportedVersion,
            rule=rule,
        )


def _check_key_generation(
    request: CertReqMsg,
    header: PKIHeader,
    accepted: frozenset[Possession],
    rules: HeaderRules,
) -> None:
    if Possession.key_generation not in accepted or request.is_pkcs10:
        missing = "no" if request.template.spki_der is None else "empty"
        raise TemplateRefused(f"{missing} publicKey: keys are not generated here", rule="R60")
    _require_pvno_3(header, rules, "R60")
    if request.pop is not None:
        raise POPRefused("proof of possession of a key that is yet to be made", rule="R60")


def _check_encr_cert(
    request: CertReqMsg, header: PKIHeader, allowed: AlgorithmPolicy, rules: HeaderRules
) -> bytes:
    """Check a request that wants to prove possession by decrypting its certificate; return its key."""
    spki_der = request.template.spki_der or b""
    try:
        if public_key_kind(spki_der).rsa_bits:
            _require_key(spki_der, allowed)
        key = load_public_key(spki_der)
    except (AlgorithmRefused, MalformedMessage) as error:
        raise TemplateRefused(error.detail, rule="R61") from error
    # RFC 9483 4.1.1: a key that can sign proves possession so, whatever it is for. RFC 4211 4.2 leaves the
    # choice, and some devices' key stores sign nothing with an RSA key for encryption.
    if not isinstance(key, KEM_PUBLIC_KEYS) and (
        rules.strict or not isinstance(key, rsa.RSAPublicKey)
    ):
        raise POPRefused("encrCert for a key that can sign", rule="R72")
    _require_pvno_3(header, rules, "R72")
    return spki_der


def used_in_request(request: AuthenticatedRequest, rules: HeaderRules) -> frozenset[Quirk]:
    """Return the quirks of the signer's domain without which the body would have been refused.

    Args:
        rules: The endpoint's.
    """
    asked, domain = request.request, request.domain
    if not domain.forgives:
        return frozenset()
    checks = partial(check_cert_req_id, asked), partial(check_subject, asked.template)
    proofs = [asked.pop] if isinstance(asked.pop, SignaturePOP) else []
    signatures = (signature_algorithm(proof.algorithm_der) for proof in proofs)
    return quirks_needed(domain.quirks, rules, *checks) | algorithm_quirks_used(signatures)


def _crmf_request(message: PKIMessage, rules: HeaderRules) -> CertReqMsg:
    if message.body_content == asn1.tlv(0x30):
        raise RequestRefused("no CertReqMsg, expected exactly one", rule="R46")
    count = len(asn1.members(message.body_content, asn1.MAX_ELEMENTS, "CertReqMessages"))
    if count != 1:  # before any is decoded
        raise RequestRefused(f"{count} CertReqMsg, expected exactly one", rule="R46")
    (request,) = cert_req_messages(message.body_content)
    check_cert_req_id(request, rules)
    return request


def _check_template(
    request: CertReqMsg, allowed: AlgorithmPolicy, rules: HeaderRules
) -> tuple[bytes, PublicKeyTypes]:
    found = _check_key(request, allowed, rules)
    check_requested_extensions(request.template)
    return found


def _check_key(
    request: CertReqMsg, allowed: AlgorithmPolicy, rules: HeaderRules
) -> tuple[bytes, PublicKeyTypes]:
    _check_names(request, rules)
    spki_der = request.template.spki_der
    assert spki_der is not None  # who has no key has no possession to prove
    try:
        _require_key(spki_der, allowed)
        key = load_public_key(spki_der)
    except (AlgorithmRefused, MalformedMessage) as error:
        raise TemplateRefused(error.detail, rule="R61") from error
    return spki_der, key


def _require_key(spki_der: bytes, allowed: AlgorithmPolicy) -> None:
    least = max(allowed.min_rsa_bits, MIN_REQUESTED_RSA_BITS)
    replace(allowed, min_rsa_bits=least).require_key(
        spki_der, "the requested certificate has a key"
    )


def _check_names(request: CertReqMsg, rules: HeaderRules) -> None:
    """Check all of a template but its key."""
    template = request.template
    _check_one_template(request)
    check_values(template)
    if template.version not in (None, 2):
        raise TemplateRefused(f"version {template.version}, expected 2 (v3)", rule="R48")
    check_subject(template, rules)
    if template.empty_validity and not rules.lenient:
        raise TemplateRefused("validity with neither of its times", rule="RFC 4211 5")
    require_readable(template.subject_der, template.subject_alt_name_der)
    if template.reserved and rules.strict:
        raise TemplateRefused(f"{', '.join(template.reserved)} must be absent", rule="R49")


def _check_one_template(request: CertReqMsg) -> None:
    """Refuse whatever could make a CA see another template than the one that is checked here."""
    _check_once(request.template.extensions, "RFC 5280 4.2")
    for what, items in (("control", request.controls), ("regInfo", request.reg_info)):
        if twice := doubled(item.type for item in items):
            raise TemplateRefused(f"{what} {', '.join(sorted(twice))} twice", rule="RFC 4211 6")
    # RFC 4211 6.7 and 7.2: a template beside the template, which takes its place.
    others = {control.type for control in (*request.controls, *request.reg_info)}
    if others & {OID.altCertTemplate, OID.regInfoCertReq}:
        raise TemplateRefused("a second template in controls or regInfo", rule="RFC 4211 7.2")


def _check_once(extensions: Sequence[Extension], rule: str) -> None:
    if twice := doubled(extension.oid for extension in extensions):
        raise TemplateRefused(f"extension {', '.join(sorted(twice))} twice", rule=rule)


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
    _verify_signature(pop, signed, key, allowed, wrong)


def _verify_signature(
    pop: SignaturePOP, signed: bytes, key: PublicKeyTypes, allowed: AlgorithmPolicy, wrong: str
) -> None:
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


@proof(_SEAL)
class AuthenticatedConfirmation:
    """A certConf by the right signer whose certHash fits the certificate that was relayed.

    Args:
        status: What it says; of one that says nothing, the rejection that it means.
    """

    authenticated: Authenticated
    status: CertStatus
    seal: InitVar[Seal]


def read_confirmation(
    authenticated: Authenticated,
    certificate: Certificate | None,
    *,
    response_nonce: bytes,
    cert_req_id: int,
    request: BodyType,
    rules: HeaderRules,
) -> AuthenticatedConfirmation:
    """Read the body of an authenticated certConf and check it against the issued certificate.

    Args:
        certificate: None where it was encrypted for the requester: certHash is then for the CA to check.
        response_nonce: senderNonce of the ip, cp or kup.
        cert_req_id: As in the request; -1 for a p10cr.
        request: Body type of the request.
        rules: A certConf without CertStatus is a rejection where they are lenient (RFC 9810 5.3.18).

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
    if not statuses and rules.lenient:
        rejection = CertStatus(
            b"" if certificate is None else digest(cert_hash_name(certificate), certificate.der),
            cert_req_id,
            PKIStatusInfo(PKIStatus.rejection),
        )
        return AuthenticatedConfirmation(authenticated, rejection, _SEAL)
    if len(statuses) != 1:
        raise HeaderRefused(f"{len(statuses)} CertStatus, expected exactly one", rule="R106")
    status = statuses[0]
    fits = is_cert_req_id(status.cert_req_id, cert_req_id, request)
    # Erratum 8806: -1 of a p10cr.
    if not fits or (rules.strict and status.cert_req_id != cert_req_id):
        raise ConfirmationRefused(
            f"certReqId {status.cert_req_id}, expected {cert_req_id}",
            fail_info=PKIFailureInfo.badRequest,
            rule="R107",
        )
    if status.takes_certificate and status.status_info is not None and status.status_info.fail_info:
        raise ConfirmationRefused(
            "accepted, but with failInfo", fail_info=PKIFailureInfo.badRequest, rule="R108"
        )
    if certificate is not None:
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
REMOVE_FROM_CRL: Final = 8
_UNSPECIFIED: Final = b"\x0a\x01\x00"


@proof(_SEAL)
class AuthenticatedRevocation:
    """An authenticated rr for one certificate.

    Args:
        issuer_der: Name of the certificate's issuer.
        reason: CRLReason.
        details: All that it says of the certificate (`contradictions.require_consistent`).
    """

    authenticated: AuthenticatedMessage
    issuer_der: bytes
    serial_number: int
    reason: int
    details: CertTemplate
    seal: InitVar[Seal]

    def names(self, certificate: Certificate) -> bool:
        """Tell whether this is the certificate to be revoked."""
        return self.serial_number == certificate.serial_number and same_name(
            self.issuer_der, certificate.issuer_der
        )


def done_status(reason: int) -> PKIStatusInfo:
    """Return the status of an rp that says what was done.

    Args:
        reason: CRLReason that was asked for.
    """
    released = reason == REMOVE_FROM_CRL
    text = "The certificate is released from hold." if released else "The certificate is revoked."
    return PKIStatusInfo(PKIStatus.accepted, (text,))


def read_revocation(
    authenticated: AuthenticatedMessage, rules: HeaderRules
) -> AuthenticatedRevocation:
    """Read the body of an authenticated rr (RFC 9483 4.2).

    Args:
        rules: Where they are lenient, the reason may be left out (RFC 9810 5.3.9): unspecified.

    Raises:
        RequestRefused: Not exactly one certificate, or it lacks issuer, serialNumber or reasonCode.
        MalformedMessage: It does not parse.
    """
    content = authenticated.message.body_content
    if content == asn1.tlv(0x30):
        raise RequestRefused("no RevDetails, expected exactly one", rule="R131")
    count = len(asn1.members(content, asn1.MAX_ELEMENTS, "RevReqContent"))
    if count != 1:  # before any is decoded
        raise RequestRefused(f"{count} RevDetails, expected exactly one", rule="R131")
    (details,) = rev_req_content(content)
    template, entry = details.template, details.crl_entry_details
    _check_once(template.extensions, "RFC 5280 4.2")
    check_values(template)
    if template.serial_number is None or template.issuer_der is None:
        raise RequestRefused(
            "issuer and serialNumber must name the certificate",
            fail_info=PKIFailureInfo.addInfoNotAvailable,
            rule="R131",
        )
    reasons = [extension.value for extension in entry if extension.oid == OID.reasonCode]
    if not reasons and rules.lenient:
        reasons = [_UNSPECIFIED]
    if len(reasons) != 1:
        raise RequestRefused("not one reasonCode in crlEntryDetails", rule="R132")
    _check_once(entry, "RFC 5280 5.3")
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
        authenticated, template.issuer_der, template.serial_number, reason, template, _SEAL
    )


# --- questions ------------------------------------------------------------------------------------------------

_ASKED_WITHOUT_VALUE: Final = frozenset({OID.caCerts, OID.certReqTemplate})


@proof(_SEAL)
class AuthenticatedQuestion:
    """An authenticated genm that asks one thing."""

    authenticated: AuthenticatedMessage
    question: InfoTypeAndValue
    seal: InitVar[Seal]


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
