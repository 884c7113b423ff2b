"""From a decoded message to an authenticated one: signer, protection, and then the header (`header_checks`).

The result (`AuthenticatedMessage`) is a proof: it can be made only by the functions of this module that did the
checking, so that a step that takes one cannot be reached without it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import InitVar, replace
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import (
    LEGACY_ALGORITHMS,
    AlgorithmPolicy,
    AlgorithmRefused,
    SignatureAlgorithm,
    signature_algorithm,
)
from ra_gateway.cmp.certificates import (
    KEY_USAGES,
    Certificate,
    KeyUsage,
    keep_certificates,
)
from ra_gateway.cmp.codes import PRIVILEGED_PURPOSES
from ra_gateway.cmp.header_checks import (
    HeaderRules,
    algorithm_quirks_used,
    check_certificate_sent,
    check_header,
    check_message_time,
    quirks_needed,
)
from ra_gateway.cmp.mac_verification import MACAuthenticatedMessage
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import verify_protection
from ra_gateway.cmp.quirks import VENDORS_ONLY, Quirk, Strictness
from ra_gateway.cmp.sealed import Seal, proof
from ra_gateway.cmp.signers import certificate_bag, named_as_signer, select_signers
from ra_gateway.cmp.trust import Bag, NoPath, Path, SearchBudget, TrustDomain
from ra_gateway.errors import (
    CMPError,
    NotAuthorized,
    PKIFailureInfo,
    ProtectionRefused,
    SignerNotTrusted,
)
from ra_gateway.values import Value

T = TypeVar("T")

_DOMAINS_TOLD: Final = 3
_MAC_ALGORITHMS: Final = frozenset(
    {OID.passwordBasedMac, OID.pbmac1, OID.dhBasedMac, OID.kemBasedMac}
)


# --- signer and protection ------------------------------------------------------------------------------------

_SEAL: Final = Seal(__name__)


@proof(_SEAL)
class AuthenticatedMessage:
    """A message whose protection verified with the key of a certificate that a domain vouches for.

    Args:
        path: From `signer` to the domain's anchor; just the signer where it was authenticated before.
    """

    message: PKIMessage
    signer: Certificate
    domain: TrustDomain
    path: Path
    seal: InitVar[Seal]

    @property
    def requester(self) -> Certificate:
        """Who sent it, as of every authenticated message."""
        return self.signer


Authenticated = AuthenticatedMessage | MACAuthenticatedMessage
"""A message that somebody known sent: by signature, or under a shared secret."""


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
        oid = asn1.decode(structures.AlgorithmIdentifier, algorithm_der).algorithm.dotted_string
        if oid in _MAC_ALGORITHMS:
            raise ProtectionRefused(
                "MAC protection; this endpoint takes signatures only",
                fail_info=PKIFailureInfo.wrongIntegrity,
                rule="R43",
            ) from error
        raise


def _first_to_pass(
    check: Callable[[T], AuthenticatedMessage], candidates: Iterable[T]
) -> AuthenticatedMessage:
    """Return what a check makes of the first candidate that passes it, and remember the certificates of its path.

    Raises:
        CMPError: None passes; it is what the first one was refused for.
    """
    refusal: CMPError | None = None
    for candidate in candidates:
        try:
            authenticated = check(candidate)
        except CMPError as error:
            refusal = refusal or error
        else:
            keep_certificates(authenticated.path)
            return authenticated
    # `select_signers` returns one at least, so this is of those who opened a transaction.
    raise refusal or ProtectionRefused(
        "the message is not protected by the credential that opened the transaction", rule="R35"
    )


def authenticate(
    message: PKIMessage,
    domains: Sequence[TrustDomain],
    rules: HeaderRules,
    now: datetime,
    *,
    budget: SearchBudget | None = None,
) -> AuthenticatedMessage:
    """Authenticate a message that opens an operation.

    Args:
        domains: Those that may vouch for this kind of message; the first with a valid path does.
        rules: The endpoint's; a domain's quirks are added when it is known.
        now: Aware UTC.
        budget: Of the message, where its signer is sought otherwise as well.

    Raises:
        ProtectionRefused, AlgorithmRefused, SignerNotTrusted, NotAuthorized, HeaderRefused, MalformedMessage.
    """
    algorithm = protection_algorithm(message)
    certificates = certificate_bag(message, rules, domains)
    bag = Bag(certificates)
    budget = SearchBudget() if budget is None else budget

    def check(signer: Certificate) -> AuthenticatedMessage:
        domain, path = _vouch(signer, bag, domains, now, budget)
        relaxed = rules.relaxed_by(domain.quirks)
        allowed = relaxed.algorithms(domain.message_algorithms)
        allowed.require_key(signer.spki_der, "has a key", signer.subject)
        _check_protection(message, algorithm, signer, allowed, relaxed)
        # Not before the signature: who merely shows a certificate is told nothing about it.
        _check_credential(signer)
        check_header(message.header, relaxed, first=True)
        return AuthenticatedMessage(message, signer, domain, path, _SEAL)

    unread = certificates.unread
    try:
        return _first_to_pass(
            check, select_signers(message.header, certificates, rules, unread=unread)
        )
    except SignerNotTrusted as error:
        if not unread or error.rule != "R21":
            raise
        raise SignerNotTrusted(f"{error.detail}; {unread}", rule=error.rule) from error


def forgiving(operator: TrustDomain, *origins: TrustDomain) -> TrustDomain:
    """Return a domain that forgives messages, but no certificate, what other domains forgive.

    Args:
        origins: Those by which its devices came; one alone is remembered with what they are issued.
    """
    quirks = frozenset[str]().union(*(item.quirks for item in origins)) - VENDORS_ONLY
    signatures = (item.message_algorithms.signatures & LEGACY_ALGORITHMS for item in origins)
    return replace(
        operator,
        quirks=operator.quirks | quirks,
        quirks_of=origins[0].name if len(origins) == 1 else "",
        forgiven_signatures=operator.forgiven_signatures.union(*signatures),
    )


def judged_by(
    authenticated: AuthenticatedMessage, domain: TrustDomain, rules: HeaderRules
) -> AuthenticatedMessage:
    """Return a message that opens an operation, authenticated by all that its domain may forgive, as of what it does.

    Args:
        domain: The same domain, with the quirks that hold for the signer.
        rules: The endpoint's.

    Raises:
        AlgorithmRefused, HeaderRefused, MalformedMessage: It needs what is not forgiven.
    """
    if domain.anchors != authenticated.domain.anchors:
        raise ValueError("another domain than the one that vouches for the signer")
    message, relaxed = authenticated.message, rules.relaxed_by(domain.quirks)
    allowed = relaxed.algorithms(domain.message_algorithms)
    allowed.require_signature(protection_algorithm(message), "the message is protected")
    check_header(message.header, relaxed, first=True)
    return AuthenticatedMessage(message, authenticated.signer, domain, authenticated.path, _SEAL)


def authenticate_registered(
    message: PKIMessage,
    registered: Collection[Certificate],
    domain: TrustDomain,
    rules: HeaderRules,
    now: datetime,
    *,
    by_name: Callable[[Path], bool] | None = None,
    budget: SearchBudget | None = None,
) -> AuthenticatedMessage:
    """Authenticate a message that only registered PKI management entities may send, whatever its type.

    Args:
        registered: Their certificates, exactly: another one for the same name or key is not registered.
            A message protected by one of them need not carry it.
        domain: Must have a valid path for it as well.
        by_name: Tells whether one that is not listed is registered by its names, from its path.
        budget: As of `authenticate`.

    Raises:
        ProtectionRefused, AlgorithmRefused, SignerNotTrusted, NotAuthorized, HeaderRefused, MalformedMessage.
    """
    algorithm = protection_algorithm(message)
    bag = certificate_bag(message, rules)
    budget = SearchBudget() if budget is None else budget

    def check(signer: Certificate) -> AuthenticatedMessage:
        known = signer in registered
        path = domain.find_path(signer, bag, now, remember_leaf=known, budget=budget)
        _check_protection(message, algorithm, signer, domain.algorithms, rules)
        if not known and not (by_name is not None and by_name(path)):
            raise NotAuthorized(f"{signer.subject} is not registered here", rule="R123")
        # Not as a first message: the nonces are a device's, and R7 was for the RA to enforce.
        check_header(message.header, rules.relaxed_by(domain.quirks), first=False)
        return AuthenticatedMessage(message, signer, domain, path, _SEAL)

    candidates = list(dict.fromkeys((*registered, *bag)))
    lenient = replace(rules, strictness=Strictness.lenient)
    return _first_to_pass(check, select_signers(message.header, candidates, lenient, registered))


def _vouch(
    signer: Certificate,
    bag: Bag,
    domains: Sequence[TrustDomain],
    now: datetime,
    budget: SearchBudget,
) -> tuple[TrustDomain, Path]:
    asked = [domain for domain in domains if domain.may_vouch_for(signer, bag, budget)]
    if domains and not asked:
        anchors = [domain.anchors_told for domain in domains[:_DOMAINS_TOLD]]
        if len(domains) > _DOMAINS_TOLD:
            anchors.append(f"{len(domains) - _DOMAINS_TOLD} more domains")
        raise NoPath(signer, "; or of ".join(anchors))
    refusals: list[CMPError] = []
    for domain in asked:
        try:
            return domain, domain.find_path(signer, bag, now, budget=budget)
        except CMPError as error:
            refusals.append(error)
    if not refusals:
        raise SignerNotTrusted("no trust domain is configured for this request", rule="R21")
    # A path that exists and is invalid tells more than the domains that have none.
    telling = [error for error in refusals if error.rule != "R21"]
    if telling:
        raise telling[0]
    refusals.sort(key=lambda error: isinstance(error, NoPath))  # first what was found and is wrong
    told = [error.detail for error in refusals[:_DOMAINS_TOLD]]
    raise SignerNotTrusted("; ".join(told), rule="R21")


def _check_credential(signer: Certificate) -> None:
    """Refuse certificates that are not a device's: those of CAs and of PKI management entities."""
    if signer.is_ca:
        raise NotAuthorized(f"{signer.subject} is a CA certificate", rule="R36")
    if signer.extended_key_usage & PRIVILEGED_PURPOSES:
        raise NotAuthorized(
            f"{signer.subject} is the certificate of a PKI management entity, or for any purpose",
            rule="R36",
        )


_SIGNING: Final = (KeyUsage.digitalSignature, KeyUsage.nonRepudiation)
"""Usages of keys that may sign messages: TS 33.310 9.4.4 has a vendor choose, RFC 9483 3.2 takes the first alone."""


def _check_protection(
    message: PKIMessage,
    algorithm: SignatureAlgorithm,
    signer: Certificate,
    allowed: AlgorithmPolicy,
    rules: HeaderRules,
) -> None:
    allowed.require_signature(algorithm, "the message is protected")
    usage, signing = signer.key_usage, _SIGNING[:1] if rules.strict else _SIGNING
    if usage is not None and usage.isdisjoint(signing):
        wanted = " and ".join(KEY_USAGES[bit] for bit in signing)
        raise ProtectionRefused(f"keyUsage of {signer.subject} lacks {wanted}", rule="R25")
    verify_protection(message, algorithm, signer)


class KnownSigner(Value, frozen=True):
    """Who opened an operation that a later message claims to continue."""

    certificate: Certificate
    domain: TrustDomain


def authenticate_follower(
    message: PKIMessage, known: Sequence[KnownSigner], rules: HeaderRules, now: datetime
) -> AuthenticatedMessage:
    """Authenticate a certConf, error or pollReq by the signer that opened the operation, whose certificate is kept.

    Args:
        known: Signers of the live operations with this transactionID (usually one).

    Raises:
        ProtectionRefused: None of them protects the message.
        AlgorithmRefused, SignerNotTrusted, HeaderRefused, MalformedMessage.
    """
    algorithm = protection_algorithm(message)

    def check(candidate: KnownSigner) -> AuthenticatedMessage:
        signer = candidate.certificate
        if not signer.valid_at(now):
            raise SignerNotTrusted(f"{signer.subject} has expired", rule="R22")
        relaxed = rules.relaxed_by(candidate.domain.quirks)
        allowed = relaxed.algorithms(candidate.domain.message_algorithms)
        _check_protection(message, algorithm, signer, allowed, relaxed)
        check_certificate_sent(message, relaxed)
        check_header(message.header, relaxed, first=False)
        return AuthenticatedMessage(message, signer, candidate.domain, (signer,), _SEAL)

    named = (item for item in known if named_as_signer(message.header, item.certificate))
    return _first_to_pass(check, named)


def used_quirks(
    authenticated: Authenticated, rules: HeaderRules, now: datetime, *, first: bool
) -> frozenset[Quirk]:
    """Return the quirks of the sender's domain without which a message would have been refused.

    Args:
        rules: The endpoint's.
        first: Whether the message opens an operation.
    """
    message, domain = authenticated.message, authenticated.domain
    if not domain.forgives:
        return frozenset()
    checks = [
        partial(check_header, message.header, first=first),
        partial(check_message_time, message.header, now=now),
    ]
    if isinstance(authenticated, MACAuthenticatedMessage):
        return quirks_needed(domain.quirks, rules, *checks)
    path = authenticated.path
    checks += () if first else (partial(check_certificate_sent, message),)
    # The anchor's own signature proves nothing to anybody.
    signatures = [protection_algorithm(message), *(item.signature_algorithm for item in path[:-1])]
    return quirks_needed(domain.quirks, rules, *checks) | algorithm_quirks_used(signatures, path)


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
    budget = SearchBudget()

    def check(signer: Certificate) -> AuthenticatedMessage:
        path: Path = (signer,)
        if signer not in pinned:
            path = trust.find_path(signer, bag, now, remember_leaf=True, budget=budget)
        elif not signer.valid_at(now):
            raise SignerNotTrusted(f"{signer.subject} has expired", rule="R22")
        trust.algorithms.require_signature(algorithm, "the answer is protected")
        verify_protection(message, algorithm, signer)
        return AuthenticatedMessage(message, signer, trust, path, _SEAL)

    return _first_to_pass(check, select_signers(message.header, [*bag, *pinned], rules, pinned))


def check_authority(
    signer: Certificate,
    pinned: Collection[Certificate],
    domains: Iterable[TrustDomain],
    own: Collection[Certificate] = (),
) -> None:
    """Refuse answers of mere certificate holders: every device's and every RA's certificate chains to the same root.

    Args:
        pinned: Certificates that are named as this CA's: an RA that stands in for it (cmcRA) has to be one.
        domains: Their anchors and intermediates are the CAs that may issue; each may speak for itself.
        own: The RA's own certificates: what it signed itself is nobody's answer, wherever it is named.

    Raises:
        NotAuthorized: The signer is none of these, and has no cmcCA.
    """
    if signer in own:
        raise NotAuthorized(
            f"the answer is protected by {signer.subject}, the RA's own certificate", rule="R84"
        )
    is_issuing = signer.is_ca and any(
        signer in (*domain.anchors, *domain.intermediates) for domain in domains
    )
    if not (signer in pinned or is_issuing or OID.cmcCA in signer.extended_key_usage):
        raise NotAuthorized(
            f"the answer is protected by {signer.subject}, which is no issuing CA and has no cmcCA; "
            "if it speaks for the CA, list it under ca_certificate_paths",
            rule="R84",
        )
