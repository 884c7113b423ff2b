"""PKIMessage and its header, as frozen values.

Bytes become a `PKIMessage` once. The octets of header and body are kept beside what they mean, because
protection and proof of possession are checked over what arrived, never over a re-encoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.names import NULL_DN, directory_name, name_of
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage
from ra_gateway.values import Value

MAX_EXTRA_CERTS: Final = 256
"""Elements of extraCerts in any message; what an endpoint takes is fewer (`HeaderRules.extra_certs_max_count`)."""

MAX_INFO_ITEMS: Final = 64
"""Entries of generalInfo, and texts of freeText; a dozen are defined."""

_MAX_BODY_ELEMENTS: Final = 512
"""Of a body that is decoded to its end, at whatever depth; with a SAN of sixty names it has some two hundred."""

_SHORT_BODY_OCTETS: Final = 2048  # with no room for many
_SHORT_MESSAGE_OCTETS: Final = 4096  # nor this; what is in it is counted when it is decoded

_MAX_HEADER_FIELDS: Final = 12
_SHORT_HEADER_OCTETS: Final = 512  # with no room for many elements, whatever is in it
_FREE_TEXT, _GENERAL_INFO, _EXTRA_CERTS = 0xA7, 0xA8, 0xA1
_COUNTED_HEADER_FIELDS: Final = {_FREE_TEXT: "freeText", _GENERAL_INFO: "generalInfo"}

CMP2000: Final = 2
CMP2021: Final = 3


class InfoTypeAndValue(Value, frozen=True):
    """One entry of generalInfo; `value_der` is None where the value is absent."""

    info_type: str
    value_der: bytes | None = None


IMPLICIT_CONFIRM: Final = InfoTypeAndValue(OID.implicitConfirm, asn1.NULL_DER)


def confirm_wait_time(moment: datetime) -> InfoTypeAndValue:
    """Return the generalInfo entry that tells until when certConf is awaited (RFC 9810 5.1.1.2)."""
    return InfoTypeAndValue(OID.confirmWaitTime, asn1.encode(asn1.generalized_time(moment)))


class Protector(NamedTuple):
    """What a header says of whoever protects the message."""

    sender_der: bytes
    sender_kid: bytes | None
    protection_alg_der: bytes | None


class PKIHeader(Value, frozen=True):
    """The header's fields (RFC 9810 5.1.1).

    Args:
        sender_der, recipient_der: GeneralNames.
        message_time: Aware UTC.
        protection_alg_der: AlgorithmIdentifier.
    """

    sender_der: bytes
    recipient_der: bytes
    pvno: int = CMP2000
    message_time: datetime | None = None
    protection_alg_der: bytes | None = None
    sender_kid: bytes | None = None
    recip_kid: bytes | None = None
    transaction_id: bytes | None = None
    sender_nonce: bytes | None = None
    recip_nonce: bytes | None = None
    free_text: tuple[str, ...] = ()
    general_info: tuple[InfoTypeAndValue, ...] = ()

    @classmethod
    def from_der(cls, der: bytes) -> PKIHeader:
        """Decode a header.

        Raises:
            MalformedMessage: It does not conform.
        """
        many = len(der) > _SHORT_HEADER_OCTETS
        for tag, start, end in asn1.members(der, _MAX_HEADER_FIELDS, "PKIHeader") if many else ():
            if tag in _COUNTED_HEADER_FIELDS:
                _count(der, start, end, MAX_INFO_ITEMS, _COUNTED_HEADER_FIELDS[tag])
        header = asn1.decode(structures.PKIHeader, der)
        return cls(
            pvno=asn1.int_of(header.pvno, "pvno"),
            sender_der=asn1.raw(header.sender),
            recipient_der=asn1.raw(header.recipient),
            message_time=asn1.optional(asn1.time_of, header.message_time),
            protection_alg_der=asn1.raw_or_none(header.protection_alg),
            sender_kid=header.sender_kid,
            recip_kid=header.recip_kid,
            transaction_id=header.transaction_id,
            sender_nonce=header.sender_nonce,
            recip_nonce=header.recip_nonce,
            free_text=tuple(asn1.list_of(header.free_text, "freeText")),
            general_info=tuple(
                InfoTypeAndValue(item.info_type.dotted_string, asn1.raw_or_none(item.info_value))
                for item in asn1.list_of(header.general_info, "generalInfo")
            ),
        )

    def to_der(self, protector: Protector | None = None) -> bytes:
        """Encode the header.

        Args:
            protector: Replaces sender, senderKID and protectionAlg.
        """
        by = protector or Protector(self.sender_der, self.sender_kid, self.protection_alg_der)
        return asn1.encode(
            structures.PKIHeader(
                pvno=self.pvno,
                sender=asn1.known_element(by.sender_der),
                recipient=asn1.known_element(self.recipient_der),
                message_time=asn1.optional(asn1.generalized_time, self.message_time),
                protection_alg=asn1.optional(asn1.known_element, by.protection_alg_der),
                sender_kid=by.sender_kid,
                recip_kid=self.recip_kid,
                transaction_id=self.transaction_id,
                sender_nonce=self.sender_nonce,
                recip_nonce=self.recip_nonce,
                free_text=list(self.free_text) or None,
                general_info=[
                    structures.InfoTypeAndValue(
                        info_type=asn1.oid(item.info_type),
                        info_value=asn1.optional(asn1.element, item.value_der),
                    )
                    for item in self.general_info
                ]
                or None,
            )
        )

    @property
    def sender_name_der(self) -> bytes | None:
        """The Name in sender, None if sender is another kind of GeneralName."""
        return name_of(self.sender_der)

    def info(self, info_type: str) -> InfoTypeAndValue | None:
        """Return the first entry of generalInfo with a type, or None."""
        return next((item for item in self.general_info if item.info_type == info_type), None)

    @property
    def implicit_confirm(self) -> bool:
        """Whether generalInfo has implicitConfirm."""
        return self.info(OID.implicitConfirm) is not None

    @property
    def cert_profiles(self) -> tuple[str, ...]:
        """Names in certProfile.

        Raises:
            MalformedMessage: The value is not a SEQUENCE OF UTF8String.
        """
        item = self.info(OID.certProfile)
        if item is None:
            return ()
        if item.value_der is None:
            raise MalformedMessage("certProfile without a value", rule="R64")
        return tuple(asn1.unbox(structures.UTF8StringsBox, item.value_der).strings)


def confirm_wait_time_of(header: PKIHeader) -> datetime | None:
    """Return until when certConf is awaited, None where the header does not say so in a readable way."""
    item = header.info(OID.confirmWaitTime)
    return time_told((item and item.value_der) or b"")


def time_told(value_der: bytes) -> datetime | None:
    """Return the moment that a GeneralizedTime tells (aware UTC), None where it is not readable."""
    try:
        return asn1.time_of(asn1.decode(asn1.GeneralizedTime, value_der))
    except MalformedMessage:
        return None


ANYONE: Final = directory_name(NULL_DN)
"""The NULL-DN as a GeneralName: a sender or recipient that is not known."""


class PKIMessage(Value, frozen=True):
    """One message: what it means and the octets it came as.

    Args:
        der: The whole message.
        header_der, body_der: The octets under the protection; `body_der` includes the body's own tag.
        protection: Signature or MAC, None if absent.
        extra_certs: DER of each certificate, in the order received.
    """

    der: bytes
    header: PKIHeader
    header_der: bytes
    body_type: BodyType
    body_der: bytes
    protection: bytes | None
    extra_certs: tuple[bytes, ...]

    @classmethod
    def from_der(cls, der: bytes) -> PKIMessage:
        """Decode a message; its body is checked no further than its tag.

        Raises:
            MalformedMessage: Not one complete DER PKIMessage.
        """
        if len(der) > _SHORT_MESSAGE_OCTETS:
            for field, start, end in asn1.members(der, 4, "PKIMessage")[2:]:
                if field == _EXTRA_CERTS:
                    _count(der, start, end, MAX_EXTRA_CERTS, "extraCerts")
        message = asn1.decode(structures.PKIMessage, der)
        header_der = asn1.raw(message.header)
        tag = message.body.tag_bytes
        # Context-specific, constructed, and one octet: 27 choices fit below tag number 31.
        if len(tag) != 1 or tag[0] & 0xE0 != 0xA0 or tag[0] & 0x1F > BodyType.pollRep:
            raise MalformedMessage(f"body with tag {tag.hex()}", rule="R1")
        protection = message.protection
        return cls(
            der=der,
            header=PKIHeader.from_der(header_der),
            header_der=header_der,
            body_type=BodyType(tag[0] & 0x1F),
            body_der=asn1.raw(message.body),
            protection=None if protection is None else asn1.octets_of(protection, "protection"),
            extra_certs=tuple(
                asn1.raw(certificate)
                for certificate in asn1.list_of(message.extra_certs, "extraCerts")
            ),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 over header and body, 32 octets: what protection covers, and so what makes it this message.

        Not over `der`: extraCerts are not protected, and a signature over the same octets has many spellings.
        """
        return hashlib.sha256(self.header_der + self.body_der).digest()

    @property
    def has_own_id(self) -> bool:
        """Whether its sender gave it its transactionID; a server's cannot be known when a message is made."""
        return self.header.transaction_id != self.digest[:16]

    @property
    def body_content(self) -> bytes:
        """The octets inside the body's tag."""
        return asn1.inner(self.body_der)


def assemble(
    header_der: bytes, body_der: bytes, protection: bytes | None, extra_certs: Iterable[bytes] = ()
) -> bytes:
    """Return the DER of a PKIMessage from its parts (R1.1: an empty extraCerts is left out)."""
    parts = [header_der, body_der]
    if protection is not None:
        parts.append(asn1.tlv(0xA0, asn1.tlv(0x03, b"\x00", protection)))
    certificates = b"".join(extra_certs)
    if certificates:
        parts.append(asn1.tlv(0xA1, asn1.tlv(0x30, certificates)))
    return asn1.tlv(0x30, *parts)


def body(body_type: BodyType, *parts: bytes) -> bytes:
    """Return a PKIBody: the choice's EXPLICIT tag around its content."""
    return asn1.tlv(0xA0 | body_type, *parts)


def require_few_elements(content: bytes, what: str) -> None:
    """Refuse a body that has more elements than any that is met, before one is decoded.

    Raises:
        MalformedMessage: It has, or they do not fit into one another.
    """
    if len(content) > _SHORT_BODY_OCTETS:
        asn1.require_few(content, _MAX_BODY_ELEMENTS, what)


def _count(der: bytes, start: int, end: int, most: int, what: str) -> None:
    """Count the elements of a SEQUENCE OF inside an EXPLICIT tag, before any is decoded."""
    for _, inside, inside_end in asn1.spans(der, start, end, 1, what):
        asn1.spans(der, inside, inside_end, most, what)
