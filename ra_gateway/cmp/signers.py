"""Which certificates came with a message, and which of them its header names as its signer: nothing is verified."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NoReturn

from ra_gateway.cmp.certificates import (
    Certificate,
    load_certificate,
    readable_certificates,
    why_unreadable,
)
from ra_gateway.cmp.header_checks import MAX_KID_OCTETS, HeaderRules, takes_ber
from ra_gateway.cmp.messages import PKIHeader, PKIMessage
from ra_gateway.cmp.names import NULL_DN, CanonicalName, canonical
from ra_gateway.cmp.trust import TrustDomain
from ra_gateway.errors import HeaderRefused, MalformedMessage, ProtectionRefused

_NAMES_TOLD: Final = 2
_SUBJECT_TOLD: Final = 200

_MAX_NAMES_COMPARED: Final = 3
"""Certificates whose subject may be the sender in another spelling; the protecting one comes first (RFC 9483 3.3)."""

_MAX_SAME_NAMED_SIGNERS: Final = 3
"""Certificates with one key identifier that are tried: a renewed certificate for the same key has its twin."""

_MAX_LOOSELY_READ: Final = 6
"""Certificates of a message that may be BER, the first ones: paths have four at most (TS 33.320 7.2.5.2)."""


class CarriedCertificates(list[Certificate]):
    """The certificates a message carries that can be read, in order.

    Args:
        unread: Why the first of those that cannot be read cannot, and which it is; "" where all can.
    """

    unread: str = ""


def certificate_bag(
    message: PKIMessage, rules: HeaderRules, domains: Iterable[TrustDomain] = ()
) -> CarriedCertificates:
    """Return the certificates a message carries, in order; one that does not parse is left out.

    Args:
        rules: With the quirk for it, some may be BER that is not DER; who trusts one has to say so again.
        domains: Those that may vouch for one of them; what one of them reads is read.

    Raises:
        HeaderRefused: There are more than the endpoint allows.
    """
    if len(message.extra_certs) > rules.extra_certs_max_count:
        raise HeaderRefused(
            f"{len(message.extra_certs)} extraCerts; at most {rules.extra_certs_max_count} are read",
            rule="RFC 9483 3.3",
        )
    loosely = takes_ber(rules.quirks, *[item.quirks for item in domains])
    found, left = CarriedCertificates(), _MAX_LOOSELY_READ if loosely else 0
    for index, der in enumerate(message.extra_certs):
        certificate = _readable(der, loosely=left > 0)
        left -= 1
        if certificate is not None:
            found.append(certificate)
        elif not found.unread:
            found.unread = f"extraCerts[{index}] cannot be read: {why_unreadable(der)}"
    return found


def _readable(der: bytes, *, loosely: bool = False) -> Certificate | None:
    try:
        return load_certificate(der, loosely=loosely)
    except MalformedMessage:
        # extraCerts is not protected: a stray element must not void an otherwise good message.
        return None


def select_signers(
    header: PKIHeader,
    bag: Sequence[Certificate],
    rules: HeaderRules,
    known: Collection[Certificate] = (),
    unread: str = "",
) -> list[Certificate]:
    """Return the certificates that the header names as its signer: by senderKID, else by sender.

    Args:
        known: Those in the bag that did not come from strangers.
        unread: As of `CarriedCertificates`.

    Raises:
        ProtectionRefused: None of them is named.
    """
    if unread and not _named_signers(header, bag, known):
        raise ProtectionRefused(unread, rule="R33")  # whose it is can only be guessed
    if not bag:
        raise ProtectionRefused("no certificate came with the message", rule="R33")
    if header.sender_kid is None and rules.strict and bag[0].subject_key_identifier is not None:
        raise ProtectionRefused("no senderKID", rule="R27")
    chosen = _named_signers(header, bag, known)
    if not chosen:
        _explain_no_signer(header, bag)
    if rules.strict and bag[0] not in chosen:
        raise ProtectionRefused(
            "the first of the extraCerts is not the protecting certificate", rule="R32"
        )
    return chosen[:_MAX_SAME_NAMED_SIGNERS]


def _named_signers(
    header: PKIHeader, bag: Iterable[Certificate], known: Collection[Certificate] = ()
) -> list[Certificate]:
    """Return the certificates that fit senderKID and sender; sender is made comparable once at most."""
    likely = [certificate for certificate in bag if _kid_fits(header, certificate)]
    sender = header.sender_name_der
    # RFC 9810 5.1.1: NULL-DN where the sender does not know its name; senderKID must then do.
    if sender == NULL_DN:
        return likely if header.sender_kid is not None else []
    if sender is None or not likely:
        return []
    exact = [item.subject_der == sender for item in likely]
    if all(exact):
        return likely
    name = canonical(sender)
    strange = [item for item in likely if item not in known]
    compared = {*known, *strange[:_MAX_NAMES_COMPARED]}
    return [
        item
        for item, same in zip(likely, exact, strict=True)
        if same or (item in compared and _is_named(item, name))
    ]


def _is_named(certificate: Certificate, name: CanonicalName) -> bool:
    try:
        return certificate.subject_name == name
    except MalformedMessage:
        # extraCerts is not protected: a stray element must not void the message.
        return False


def _kid_fits(header: PKIHeader, certificate: Certificate) -> bool:
    if header.sender_kid is None:
        return True
    identifier = certificate.subject_key_identifier
    return identifier is None or identifier == header.sender_kid


def _explain_no_signer(header: PKIHeader, bag: Sequence[Certificate]) -> NoReturn:
    subjects = "; ".join(certificate.subject[:_SUBJECT_TOLD] for certificate in bag[:_NAMES_TOLD])
    if len(bag) > _NAMES_TOLD:
        subjects += f"; and {len(bag) - _NAMES_TOLD} more"
    if any(_kid_fits(header, certificate) for certificate in bag):
        raise ProtectionRefused(
            f"sender names none of the certificates in extraCerts ({subjects})", rule="R26"
        )
    raise ProtectionRefused(
        f"senderKID {(header.sender_kid or b'')[:MAX_KID_OCTETS].hex()} is the key identifier of none of the "
        f"certificates in extraCerts ({subjects})",
        rule="R27",
    )


def named_as_signer(header: PKIHeader, certificate: Certificate) -> bool:
    """Tell whether a header says that a certificate protects the message; whether it does is not known."""
    return bool(_named_signers(header, [certificate]))


def named_in_bag(message: PKIMessage, rules: HeaderRules) -> list[Certificate]:
    """Return the certificates in extraCerts that a message says protect it, a few at most; none if it has too many."""
    if len(message.extra_certs) > rules.extra_certs_max_count:
        return []
    bag = readable_certificates(message.extra_certs)
    return _named_signers(message.header, bag)[:_MAX_SAME_NAMED_SIGNERS]
