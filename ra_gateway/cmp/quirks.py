"""How strictly messages are read, and the single rules that a trust domain may relax; `header_checks` enforces them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


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
    wrong_clock = "wrong_clock"
    any_cert_req_id = "any_cert_req_id"
    no_subject = "no_subject"
    missing_extracerts_in_certconf = "missing_extracerts_in_certconf"
    sha1 = "sha1"
    rsa1024 = "rsa1024"
    ber_certificates = "ber_certificates"


QUIRKS: Final[Mapping[Quirk, str]] = {
    Quirk.short_ids: "transactionID and senderNonce may be shorter than 16 octets (R5, R6).",
    Quirk.recip_nonce_in_ir: "recipNonce may be present in a first message; it is ignored (R7).",
    Quirk.no_message_time: "messageTime may be absent where the endpoint requires it (R29).",
    Quirk.wrong_clock: "messageTime may be far from the gateway's clock, as of one that stands at 1970; the "
    "gateway takes such a request once, however late it comes again (R29, TS 33.320 6.3.1).",
    Quirk.any_cert_req_id: "certReqId may be any integer instead of 0, also in strict mode, as TS 33.310 has it "
    "anyway; it is echoed (R47).",
    Quirk.no_subject: "The template may lack a subject, also in strict mode; it is derived (R141).",
    Quirk.missing_extracerts_in_certconf: "certConf and pollReq may come without a certificate, also in strict "
    "mode; the signer is that of the request (R34).",
    Quirk.sha1: "Messages, proofs of possession and vendor certificates may be signed with SHA-1 (R17, R146). "
    'A CA that takes no such proof needs `pop` = "raverified" at its upstream.',
    Quirk.rsa1024: "Vendor keys may be RSA of 1024 bits; no such key is certified (R19).",
    Quirk.ber_certificates: "Vendor certificates, roots included, may be BER that is not DER: lengths longer than need "
    "be, TRUE other than FF, a DEFAULT FALSE written out, unused bits, times without seconds or not in UTC (R1).",
}
"""What each of them relaxes, for the documents."""

VENDORS_ONLY: Final = frozenset({Quirk.rsa1024, Quirk.ber_certificates})
"""What only a vendor's certificate can need: no such key is certified here, and no CA that is asked makes such one."""

SIGNERS_ONLY: Final = frozenset({Quirk.missing_extracerts_in_certconf})
"""What is nothing to forgive where a shared secret protects the messages."""

_REFUSING: Final[Mapping[str, tuple[Quirk, ...]]] = {
    "R5": (Quirk.short_ids,),
    "R6": (Quirk.short_ids,),
    "R7": (Quirk.recip_nonce_in_ir,),
    "R17": (Quirk.sha1,),
    "R19": (Quirk.rsa1024,),
    "R29": (Quirk.no_message_time, Quirk.wrong_clock),
    "R33": (Quirk.missing_extracerts_in_certconf,),
    "R47": (Quirk.any_cert_req_id,),
    "R51": (Quirk.no_subject,),
    "R146": (Quirk.sha1,),
}


def quirks_against(rule: str) -> frozenset[Quirk]:
    """Return the quirks that may forgive what a rule refuses."""
    return frozenset(_REFUSING.get(rule, ()))
