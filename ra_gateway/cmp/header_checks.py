"""What an endpoint asks of a message's header, and the checks of it (RFC 9483 3.1, 3.5).

Which rules are relaxed for whom is data: `HeaderRules` from the endpoint, quirks from the domain. The one check that
refuses without a quirk stands here, by which it is also reported; the quirks themselves are in `quirks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from ra_gateway.cmp.algorithms import (
    LEGACY_ALGORITHMS,
    AlgorithmPolicy,
    SignatureAlgorithm,
    within_ts_33310,
)
from ra_gateway.cmp.asn1 import NULL_DER
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import RESPONSE_TO
from ra_gateway.cmp.crmf import CertReqMsg, CertTemplate
from ra_gateway.cmp.messages import (
    CMP2000,
    CMP2021,
    PKIHeader,
    PKIMessage,
    confirm_wait_time_of,
)
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.quirks import Quirk, Strictness
from ra_gateway.errors import (
    CMPError,
    HeaderRefused,
    MalformedMessage,
    PKIFailureInfo,
    ProtectionRefused,
    RequestRefused,
    TemplateRefused,
    TimeRefused,
)

NONCE_OCTETS: Final = 16
"""senderNonce and transactionID of a conforming message (RFC 9483 3.1: 128 bits)."""

MAX_ID_OCTETS: Final = 64
"""Of a transactionID and of a nonce: four times what is asked for, and all of them are kept and logged."""

MAX_KID_OCTETS: Final = 128
"""Of a senderKID: the hash of a key, or the reference of a shared secret."""


NESTED: Final = frozenset({Quirk.no_message_time, Quirk.wrong_clock, Quirk.ber_certificates})
"""Rules for messages that an RA has just nested: its own message says when that was, and it knows the vendors."""

RELAYED: Final = frozenset({Quirk.short_ids, Quirk.any_cert_req_id, Quirk.recip_nonce_in_ir})
"""Rules for devices that an RA enforced, or waived for good reason, before it signed in their place."""


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """What an endpoint asks of messages.

    Args:
        message_time_window_seconds: Largest difference between messageTime and our clock.
        require_message_time: Refuse messages without messageTime.
        extra_certs_max_count: Most certificates a message may carry.
        quirks: Rules that are relaxed.
    """

    strictness: Strictness = Strictness.lenient
    message_time_window_seconds: int = 300
    require_message_time: bool = False
    extra_certs_max_count: int = 12
    quirks: frozenset[str] = frozenset()

    @property
    def strict(self) -> bool:
        """Whether RFC 9483 is read to the letter."""
        return self.strictness is Strictness.strict

    @property
    def lenient(self) -> bool:
        """Whether what RFC 9810 allows is taken, where the profiles of it ask for more."""
        return self.strictness is Strictness.lenient

    def algorithms(self, policy: AlgorithmPolicy) -> AlgorithmPolicy:
        """Return what messages of a trust domain may be signed with at this endpoint, and what keys may be."""
        policy = relaxed_algorithms(policy, self.quirks)
        return within_ts_33310(policy) if self.strictness is Strictness.three_gpp else policy

    def relaxed_by(self, quirks: Iterable[str]) -> HeaderRules:
        """Return the rules with quirks added."""
        more = frozenset(quirks) - self.quirks
        return replace(self, quirks=self.quirks | more) if more else self


def with_transaction_id(message: PKIMessage, rules: HeaderRules) -> PKIMessage:
    """Return a message that opens an operation with the transactionID that the server gives it (RFC 9810 5.1.1).

    It follows from the message, so that a retransmission gets the same; one that has its own keeps it.
    """
    opens = message.body_type in RESPONSE_TO
    if message.header.transaction_id or not (rules.lenient and opens):
        return message
    given = replace(message.header, transaction_id=message.digest[:NONCE_OCTETS])
    return replace(message, header=given)


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
    """Check transactionID, nonces and generalInfo (RFC 9483 3.1, 3.5 steps 3, 5, 6 and the strict rules).

    Args:
        first: Whether the message opens an operation.

    Raises:
        MalformedMessage: transactionID is missing, or certProfile is no list of names.
        HeaderRefused: badSenderNonce, badRecipientNonce or badRequest.
    """
    if not header.transaction_id:
        raise MalformedMessage("no transactionID", rule="R4")
    _check_lengths(header)
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
    _check_general_info(header)
    until = header.info(OID.confirmWaitTime)
    if rules.strict and until is not None and confirm_wait_time_of(header) is None:
        raise MalformedMessage("confirmWaitTime is no GeneralizedTime", rule="RFC 9483 3.1")
    implicit = header.info(OID.implicitConfirm)
    if rules.strict and implicit is not None and implicit.value_der not in (None, NULL_DER):
        raise HeaderRefused("implicitConfirm with a value other than NULL", rule="R31")


def check_fresh_nonce(header: PKIHeader, before: bytes | None, rules: HeaderRules) -> None:
    """Refuse a message with the senderNonce of the one that it follows, to the letter of RFC 9483 3.1.

    Args:
        before: senderNonce of the request.

    Raises:
        HeaderRefused: badSenderNonce.
    """
    if rules.strict and header.sender_nonce == before:
        raise HeaderRefused(
            "senderNonce is that of the request once more",
            fail_info=PKIFailureInfo.badSenderNonce,
            rule="R37",
        )


def _check_lengths(header: PKIHeader) -> None:
    for what, octets, most, rule in (
        ("transactionID", header.transaction_id, MAX_ID_OCTETS, "R5"),
        ("senderKID", header.sender_kid, MAX_KID_OCTETS, "R27"),
        ("recipKID", header.recip_kid, MAX_KID_OCTETS, "R27"),
    ):
        if octets is not None and len(octets) > most:
            raise MalformedMessage(
                f"{what} of {len(octets)} octets; at most {most} are taken", rule=rule
            )
    for what, nonce, fail_info, rule in (
        ("senderNonce", header.sender_nonce, PKIFailureInfo.badSenderNonce, "R6"),
        ("recipNonce", header.recip_nonce, PKIFailureInfo.badRecipientNonce, "R8"),
    ):
        if nonce is not None and len(nonce) > MAX_ID_OCTETS:
            raise HeaderRefused(
                f"{what} of {len(nonce)} octets; at most {MAX_ID_OCTETS} are taken",
                fail_info=fail_info,
                rule=rule,
            )


_HAVE_VALUES: Final = frozenset({OID.confirmWaitTime, OID.origPKIMessage})


def _check_general_info(header: PKIHeader) -> None:
    _require_nothing_twice(header)
    for item in header.general_info:
        if item.info_type in _HAVE_VALUES and item.value_der is None:
            raise HeaderRefused(f"{item.info_type} without a value", rule="RFC 9483 3.1")
    if header.info(OID.certProfile) is not None:
        profiles = header.cert_profiles
        if len(profiles) != 1 or not profiles[0]:
            # A name that nobody here knows is for the CA to know: it goes up as it came.
            raise HeaderRefused(
                f"certProfile has {len(profiles)} names, or an empty one; expected one", rule="R64"
            )


def _require_nothing_twice(header: PKIHeader) -> None:
    """Refuse what could be read in two ways: who comes next may take the second entry, and not the first."""
    types = [item.info_type for item in header.general_info]
    if len(set(types)) != len(types):
        twice = sorted({item for item in types if types.count(item) > 1})
        raise HeaderRefused(f"generalInfo has {', '.join(twice)} twice", rule="RFC 9483 3.1")


def is_far_off(header: PKIHeader, rules: HeaderRules, now: datetime) -> bool:
    """Tell whether a message has a messageTime outside of the endpoint's window."""
    moment = header.message_time
    window = timedelta(seconds=rules.message_time_window_seconds)
    return moment is not None and not -window <= moment - now <= window


def takes_ber(*quirks: Collection[str]) -> bool:
    """Tell whether certificates may be BER that is not DER, by any of some quirks."""
    return any([Quirk.ber_certificates in item for item in quirks])  # noqa: C419 - a list: no call for each


def forgives_clocks(rules: HeaderRules) -> bool:
    """Tell whether messageTime may be far off: then it does not tell a new message from one that is played again."""
    return Quirk.wrong_clock in rules.quirks


def check_message_time(header: PKIHeader, rules: HeaderRules, now: datetime) -> None:
    """Check messageTime against our clock (RFC 9483 3.5 step 13).

    Raises:
        TimeRefused: It is missing, or too far off.
    """
    required = rules.require_message_time and Quirk.no_message_time not in rules.quirks
    moment = header.message_time
    if moment is None and required:
        raise TimeRefused("no messageTime", rule="R29")
    if moment is not None and is_far_off(header, rules, now) and not forgives_clocks(rules):
        raise TimeRefused(
            f"messageTime {moment:%Y-%m-%dT%H:%M:%SZ} is {abs((moment - now).total_seconds()):.0f} s "
            f"{'ahead of' if moment > now else 'behind'} our clock; "
            f"{rules.message_time_window_seconds} s are allowed",
            rule="R29",
        )


def check_answer_header(
    header: PKIHeader, *, transaction_id: bytes, sender_nonces: Collection[bytes]
) -> None:
    """Check that an answer belongs to a request (R83).

    Args:
        sender_nonces: One of which recipNonce has to be.

    Raises:
        HeaderRefused: transactionID or recipNonce is another one, or generalInfo says something twice.
    """
    if header.transaction_id != transaction_id:
        raise HeaderRefused("the answer has another transactionID", rule="R83")
    if header.recip_nonce not in sender_nonces:
        raise HeaderRefused(
            "recipNonce of the answer is not the request's senderNonce",
            fail_info=PKIFailureInfo.badRecipientNonce,
            rule="R83",
        )
    _require_nothing_twice(header)


# --- what else a quirk may relax ------------------------------------------------------------------------------


def check_certificate_sent(message: PKIMessage, rules: HeaderRules) -> None:
    """Refuse a follower without any certificate, to the letter of what peers may rely on (RFC 9483 3.3)."""
    forgiven = Quirk.missing_extracerts_in_certconf in rules.quirks
    if rules.strict and not forgiven and not message.extra_certs:
        raise ProtectionRefused("no certificate came with the message", rule="R33")


def check_cert_req_id(request: CertReqMsg, rules: HeaderRules) -> None:
    """Refuse any certReqId but 0, or that of a PKCS#10, to the letter of RFC 9483 4.1.1; TS 33.310 fixes none."""
    forgiven = Quirk.any_cert_req_id in rules.quirks or request.is_pkcs10
    if rules.strict and request.cert_req_id != 0 and not forgiven:
        raise RequestRefused(f"certReqId {request.cert_req_id}, expected 0", rule="R47")


def check_subject(template: CertTemplate, rules: HeaderRules) -> None:
    """Refuse a template without subject, to the letter also one that is empty and has no subjectAltName."""
    nameless = template.subject_der in (None, NULL_DN) and (
        template.subject_der is None or not template.extension(OID.subjectAltName)
    )
    if nameless and rules.strict and Quirk.no_subject not in rules.quirks:
        raise TemplateRefused("no subject, and no subjectAltName in its place", rule="R51")


def quirks_needed(
    quirks: Collection[str], rules: HeaderRules, *checks: Callable[[HeaderRules], None]
) -> frozenset[Quirk]:
    """Return the quirks without which one of the checks would refuse that does not with all of them.

    Args:
        rules: The endpoint's.
    """

    def refusing(relaxed: HeaderRules) -> set[Callable[[HeaderRules], None]]:
        found = set()
        for check in checks:
            try:
                check(relaxed)
            except CMPError:
                found.add(check)
        return found

    # First without any: most messages need none.
    if not quirks or not (refused := refusing(rules)):
        return frozenset()
    forgiven = refused - refusing(rules.relaxed_by(quirks))
    return frozenset(
        item
        for item in Quirk
        if item in quirks and forgiven & refusing(rules.relaxed_by({*quirks} - {item}))
    )


_OF_ALGORITHMS: Final = frozenset({Quirk.sha1, Quirk.rsa1024})


def relaxed_algorithms(policy: AlgorithmPolicy, quirks: Collection[str]) -> AlgorithmPolicy:
    """Return a policy that forgives devices SHA-1 in signatures, or RSA keys of 1024 bits."""
    if _OF_ALGORITHMS.isdisjoint(quirks):
        return policy
    signatures, least = policy.signatures, policy.min_rsa_bits
    if Quirk.sha1 in quirks:
        signatures |= frozenset(name for name in LEGACY_ALGORITHMS if name.endswith("sha1"))
    if Quirk.rsa1024 in quirks:
        least = min(least, 1024)
    return replace(policy, signatures=signatures, min_rsa_bits=least)


def algorithm_quirks_used(
    signatures: Iterable[SignatureAlgorithm], path: Iterable[Certificate] = ()
) -> frozenset[Quirk]:
    """Return the quirks that forgive algorithms of signatures, and keys in a path."""
    path = tuple(path)
    used = {
        Quirk.ber_certificates: any(item.not_der for item in path),
        Quirk.sha1: any(item.name in LEGACY_ALGORITHMS for item in signatures),
        Quirk.rsa1024: any(
            isinstance(item.public_key, rsa.RSAPublicKey) and item.public_key.key_size < 2048
            for item in path
        ),
    }
    return frozenset(quirk for quirk, is_used in used.items() if is_used)
