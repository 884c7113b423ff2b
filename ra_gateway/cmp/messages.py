"""PKIMessage, its header and the bodies the gateway reads, as frozen values.

Bytes become a `PKIMessage` once. The octets of header and body are kept beside what they mean, because
protection and proof of possession are checked over what arrived, never over a re-encoding.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeVar

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.codes import ISSUED_STATUSES, OID, P10CR_CERT_REQ_ID, BodyType, PKIStatus
from ra_gateway.cmp.names import NULL_DN, directory_name, name_of
from ra_gateway.errors import HeaderRefused, MalformedMessage, PKIFailureInfo, TemplateRefused

T = TypeVar("T")
U = TypeVar("U")

MAX_EXTRA_CERTS: Final = 256
"""Elements of extraCerts in any message; what an endpoint takes is fewer (`HeaderRules.extra_certs_max_count`)."""

MAX_INFO_ITEMS: Final = 64
"""Entries of generalInfo, and texts of freeText; a dozen are defined."""

MAX_NESTED: Final = 1000
"""Messages inside a nested; `read_nested` takes as many as it is told."""

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


@dataclass(frozen=True, slots=True)
class InfoTypeAndValue:
    """One entry of generalInfo; `value_der` is None where the value is absent."""

    info_type: str
    value_der: bytes | None = None


class Protector(NamedTuple):
    """What a header says of whoever protects the message."""

    sender_der: bytes
    sender_kid: bytes | None
    protection_alg_der: bytes | None


@dataclass(frozen=True, slots=True)
class PKIHeader:
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
            pvno=_written(header.pvno, "pvno"),
            sender_der=asn1.raw(header.sender),
            recipient_der=asn1.raw(header.recipient),
            message_time=_optional(asn1.time_of, header.message_time),
            protection_alg_der=_raw_or_none(header.protection_alg),
            sender_kid=header.sender_kid,
            recip_kid=header.recip_kid,
            transaction_id=header.transaction_id,
            sender_nonce=header.sender_nonce,
            recip_nonce=header.recip_nonce,
            free_text=tuple(_some(header.free_text, "freeText")),
            general_info=tuple(
                InfoTypeAndValue(item.info_type.dotted_string, _raw_or_none(item.info_value))
                for item in _some(header.general_info, "generalInfo")
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
                message_time=_optional(asn1.generalized_time, self.message_time),
                protection_alg=_optional(asn1.known_element, by.protection_alg_der),
                sender_kid=by.sender_kid,
                recip_kid=self.recip_kid,
                transaction_id=self.transaction_id,
                sender_nonce=self.sender_nonce,
                recip_nonce=self.recip_nonce,
                free_text=list(self.free_text) or None,
                general_info=[
                    structures.InfoTypeAndValue(
                        info_type=asn1.oid(item.info_type),
                        info_value=_optional(asn1.element, item.value_der),
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


ANYONE: Final = directory_name(NULL_DN)
"""The NULL-DN as a GeneralName: a sender or recipient that is not known."""


@dataclass(frozen=True, slots=True)
class PKIMessage:
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
                asn1.raw(certificate) for certificate in _some(message.extra_certs, "extraCerts")
            ),
        )

    @property
    def digest(self) -> bytes:
        """SHA-256 over header and body, 32 octets: what protection covers, and so what makes it this message.

        Not over `der`: extraCerts are not protected, and a signature over the same octets has many spellings.
        """
        return hashlib.sha256(self.header_der + self.body_der).digest()

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


def _raw_or_none(element: asn1.TLV | asn1.Null | None) -> bytes | None:
    return None if element is None else asn1.raw(element)


def _optional(convert: Callable[[T], U], value: T | None) -> U | None:
    return None if value is None else convert(value)


def _optional_time(value: asn1.UTCTime | asn1.GeneralizedTime | None) -> datetime | None:
    return None if value is None else asn1.time_of(value)


def _some(items: list[T] | None, what: str) -> list[T]:
    if items is None:
        return []
    if not items:
        raise MalformedMessage(f"empty {what}", rule="R1")
    if len(items) > asn1.MAX_ELEMENTS:
        raise MalformedMessage(f"more than {asn1.MAX_ELEMENTS} elements in {what}", rule="R1")
    return items


def doubled(items: Iterable[str]) -> frozenset[str]:
    """Return what is among items more than once."""
    return frozenset(item for item, count in Counter(items).items() if count > 1)


def _require_few(content: bytes, what: str) -> None:
    """Refuse a body that has more elements than any that is met, before one is decoded."""
    if len(content) > _SHORT_BODY_OCTETS:
        asn1.require_few(content, _MAX_BODY_ELEMENTS, what)


def _count(der: bytes, start: int, end: int, most: int, what: str) -> None:
    """Count the elements of a SEQUENCE OF inside an EXPLICIT tag, before any is decoded."""
    for _, inside, inside_end in asn1.spans(der, start, end, 1, what):
        asn1.spans(der, inside, inside_end, most, what)


# --- status ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PKIStatusInfo:
    """Status, texts and failure bits (RFC 9810 5.2.3)."""

    status: PKIStatus
    status_string: tuple[str, ...] = ()
    fail_info: tuple[PKIFailureInfo, ...] = ()

    @classmethod
    def of(cls, info: structures.PKIStatusInfo) -> PKIStatusInfo:
        """Read the decoded form; failure bits that have no name are dropped.

        Raises:
            MalformedMessage: A status that does not exist.
        """
        try:
            status = PKIStatus(_written(info.status, "PKIStatus"))
        except ValueError as error:
            raise MalformedMessage(f"PKIStatus {info.status}", rule="R1") from error
        bits = asn1.set_bits(info.fail_info) if info.fail_info is not None else []
        return cls(
            status,
            tuple(_some(info.status_string, "statusString")),
            tuple(PKIFailureInfo(bit) for bit in bits if bit <= PKIFailureInfo.duplicateCertReq),
        )

    def build(self) -> structures.PKIStatusInfo:
        """Return the form to be encoded."""
        return structures.PKIStatusInfo(
            status=int(self.status),
            status_string=list(self.status_string) or None,
            fail_info=asn1.named_bits([int(bit) for bit in self.fail_info])
            if self.fail_info
            else None,
        )

    @property
    def issued(self) -> bool:
        """Whether the status says that a certificate was issued."""
        return self.status in ISSUED_STATUSES

    def __str__(self) -> str:
        bits = "+".join(bit.name for bit in self.fail_info)
        return " ".join(filter(None, (self.status.name, bits, "; ".join(self.status_string))))


# --- requests -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extension:
    """A requested or issued extension; `value` is the content of extnValue."""

    oid: str
    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class CertTemplate:
    """What a request says about the certificate it wants (RFC 4211 5); None where absent.

    Args:
        reserved: Names of fields present that a requester must leave to the CA.
    """

    version: int | None = None
    serial_number: int | None = None
    issuer_der: bytes | None = None
    subject_der: bytes | None = None
    spki_der: bytes | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    extensions: tuple[Extension, ...] = ()
    reserved: tuple[str, ...] = ()

    @classmethod
    def of(cls, template: structures.CertTemplate) -> CertTemplate:
        """Read the decoded form.

        Raises:
            MalformedMessage: A number nobody would write, or an element that says nothing.
        """
        validity = template.validity
        if validity is not None and validity.not_before is None and validity.not_after is None:
            raise MalformedMessage("empty validity", rule="R1")
        reserved = [
            name
            for name, value in (
                ("serialNumber", template.serial_number),
                ("signingAlg", template.signing_alg),
                ("issuerUID", template.issuer_uid),
                ("subjectUID", template.subject_uid),
            )
            if value is not None
        ]
        return cls(
            version=_optional(lambda number: _written(number, "version"), template.version),
            serial_number=template.serial_number,
            issuer_der=_raw_or_none(template.issuer),
            subject_der=_raw_or_none(template.subject),
            spki_der=_optional(asn1.encode, template.public_key),
            not_before=_optional_time(validity.not_before) if validity else None,
            not_after=_optional_time(validity.not_after) if validity else None,
            extensions=tuple(
                Extension(item.extn_id.dotted_string, item.critical, item.extn_value)
                for item in _some(template.extensions, "extensions")
            ),
            reserved=tuple(reserved),
        )

    def build(self) -> structures.CertTemplate:
        """Return the form to be encoded; signingAlg and the UIDs are never written."""
        validity = None
        if self.not_before is not None or self.not_after is not None:
            validity = structures.OptionalValidity(
                not_before=_optional(asn1.time, self.not_before),
                not_after=_optional(asn1.time, self.not_after),
            )
        return structures.CertTemplate(
            version=self.version,
            serial_number=self.serial_number,
            signing_alg=None,
            issuer=_optional(asn1.element, self.issuer_der),
            validity=validity,
            subject=_optional(asn1.element, self.subject_der),
            public_key=None
            if self.spki_der is None
            else asn1.decode(structures.SubjectPublicKeyInfo, self.spki_der),
            issuer_uid=None,
            subject_uid=None,
            extensions=[
                structures.Extension(
                    extn_id=asn1.oid(item.oid), critical=item.critical, extn_value=item.value
                )
                for item in self.extensions
            ]
            or None,
        )

    def extension(self, oid: str) -> Extension | None:
        """Return the extension with a dotted OID, or None."""
        return next((item for item in self.extensions if item.oid == oid), None)


@dataclass(frozen=True, slots=True)
class Control:
    """One control of a CertRequest."""

    type: str
    value_der: bytes


@dataclass(frozen=True, slots=True)
class CertId:
    """Issuer (a GeneralName) and serial number of a certificate."""

    issuer_der: bytes
    serial_number: int


@dataclass(frozen=True, slots=True)
class SignaturePOP:
    """POPOSigningKey (RFC 4211 4.1).

    Args:
        input_der: DER of POPOSigningKeyInput as it was signed, None if the CertRequest itself was.
        auth_info_der, public_key_der: Its two members.
    """

    algorithm_der: bytes
    signature: bytes
    input_der: bytes | None = None
    auth_info_der: bytes = b""
    public_key_der: bytes = b""


RA_VERIFIED: Final = "raVerified"


@dataclass(frozen=True, slots=True)
class CertReqMsg:
    """One certificate request.

    Args:
        cert_req_der: CertRequest as received: what POPOSigningKey signs. Of a PKCS#10, its
            CertificationRequestInfo: what its self-signature is over.
        pop: `SignaturePOP`; the name of another choice of ProofOfPossession; None if absent.
        reg_info: Attributes beside the request, which no proof of possession covers.
        is_pkcs10: Whether it came as a PKCS#10.
        encr_cert: Whether possession is to be proved by decrypting the certificate: keyEncipherment with
            subsequentMessage encrCert (RFC 4211 4.2).
    """

    cert_req_der: bytes
    cert_req_id: int
    template: CertTemplate
    controls: tuple[Control, ...]
    pop: SignaturePOP | str | None
    reg_info: tuple[Control, ...] = ()
    is_pkcs10: bool = False
    encr_cert: bool = False

    def old_cert_id(self) -> CertId | None:
        """Return the oldCertID control, or None.

        Raises:
            MalformedMessage: The control does not conform.
        """
        for control in self.controls:
            if control.type == OID.oldCertID:
                return cert_id(control.value_der)
        return None


def cert_req_messages(content: bytes) -> tuple[CertReqMsg, ...]:
    """Decode the content of an ir, cr or kur.

    Raises:
        MalformedMessage: It does not conform.
    """
    _require_few(content, "CertReqMessages")
    return tuple(
        _cert_req_msg(message)
        for message in asn1.unbox(structures.CertReqMessagesBox, content).messages
    )


def _written(number: int, what: str) -> int:
    """Return a number that texts may name: Python writes none of more than 4300 digits."""
    if number.bit_length() > _MOST_BITS:
        raise MalformedMessage(f"{what} of {number.bit_length()} bits", rule="R1")
    return number


_MOST_BITS: Final = 512
"""Far beyond any serial number or certReqId."""


def _cert_req_msg(message: structures.CertReqMsg) -> CertReqMsg:
    cert_req_der = asn1.raw(message.cert_req)
    request = asn1.decode(structures.CertRequest, cert_req_der)
    pop: SignaturePOP | str | None = None
    encr_cert = False
    if message.popo is not None:
        pop = message.popo.tag
        value = message.popo.value
        if isinstance(value, structures.POPOSigningKey):
            pop = _signature_pop(value)
        elif pop == "keyEncipherment":
            encr_cert = asn1.tlv(0xA2, asn1.raw(value)) == ENCR_CERT_POPO_DER
    return CertReqMsg(
        cert_req_der=cert_req_der,
        cert_req_id=_written(request.cert_req_id, "certReqId"),
        template=CertTemplate.of(request.cert_template),
        controls=_controls(request.controls, "controls"),
        pop=pop,
        reg_info=_controls(message.reg_info, "regInfo"),
        encr_cert=encr_cert,
    )


def _controls(
    items: list[structures.AttributeTypeAndValue] | None, what: str
) -> tuple[Control, ...]:
    return tuple(
        Control(item.type.dotted_string, asn1.raw(item.value)) for item in _some(items, what)
    )


def _signature_pop(value: structures.POPOSigningKey) -> SignaturePOP:
    given = value.poposk_input
    return SignaturePOP(
        algorithm_der=asn1.raw(value.algorithm_identifier),
        signature=asn1.octets_of(value.signature, "POP signature"),
        # Encoding the sequence of its raw members gives the octets received, under SEQUENCE's own tag.
        input_der=None if given is None else asn1.encode(given),
        auth_info_der=b"" if given is None else asn1.raw(given.auth_info),
        public_key_der=b"" if given is None else asn1.raw(given.public_key),
    )


def certification_request(content: bytes) -> CertReqMsg:
    """Decode the content of a p10cr: a PKCS#10 request, read as the CRMF request that says the same.

    Raises:
        MalformedMessage: It does not conform.
        TemplateRefused: Another version than 0 (R66), or more than one request for extensions.
    """
    _require_few(content, "CertificationRequest")
    request = asn1.decode(structures.CertificationRequest, content)
    info_der = asn1.raw(request.certification_request_info)
    info = asn1.decode(structures.CertificationRequestInfo, info_der)
    if _written(info.version, "version") != 0:
        raise TemplateRefused(f"PKCS#10 of version {info.version}, expected 0 (v1)", rule="R66")
    return CertReqMsg(
        cert_req_der=info_der,
        cert_req_id=P10CR_CERT_REQ_ID,
        template=CertTemplate(
            subject_der=asn1.raw(info.subject),
            spki_der=asn1.raw(info.subject_pk_info),
            extensions=_requested_extensions(info),
        ),
        controls=(),
        pop=SignaturePOP(
            asn1.raw(request.signature_algorithm),
            asn1.octets_of(request.signature, "PKCS#10 signature"),
        ),
        is_pkcs10=True,
    )


_REQUESTS: Final = frozenset({OID.extensionRequest, OID.msExtensionRequest})


def _requested_extensions(info: structures.CertificationRequestInfo) -> tuple[Extension, ...]:
    """Return the extensions that a PKCS#10 asks for; its other attributes have no bearing on a certificate."""
    attributes = [] if info.attributes is None else info.attributes.as_list()
    types = [item.type.dotted_string for item in attributes]
    asked = [item for item, found in zip(attributes, types, strict=True) if found in _REQUESTS]
    if twice := doubled(types) - _REQUESTS:
        raise TemplateRefused(
            f"attribute {', '.join(sorted(twice))} twice in a PKCS#10", rule="RFC 2986 4.1"
        )
    if not asked:
        return ()
    values = asked[0].values.as_list()
    if len(asked) > 1 or asked[0].type.dotted_string != OID.extensionRequest or len(values) != 1:
        # Which of them a CA reads is anybody's guess; it must be the one that is checked here.
        raise TemplateRefused(
            "extensions are asked for otherwise than by one extensionRequest", rule="RFC 2985 5.4.2"
        )
    box = asn1.unbox(structures.ExtensionsBox, asn1.raw(values[0]))
    return tuple(
        Extension(item.extn_id.dotted_string, item.critical, item.extn_value)
        for item in box.extensions
    )


def cert_req_id_of(message: PKIMessage) -> int:
    """Return the certReqId that a refusal of a request names: the request's, 0 where none can be read."""
    if message.body_type is BodyType.p10cr:
        return P10CR_CERT_REQ_ID
    # Read without the rest of the request: whoever is refused may have sent anything.
    content = message.body_content
    try:
        _, start, end = asn1.members(content, asn1.MAX_ELEMENTS, "CertReqMessages")[0]
        _, start, end = asn1.spans(content, start, end, 3, "CertReqMsg")[0]
        tag, start, end = asn1.spans(content, start, end, 3, "CertRequest")[0]
        return _written(asn1.decode(int, asn1.tlv(tag, content[start:end])), "certReqId")
    except (IndexError, MalformedMessage):
        return 0


def cert_request_der(
    template: CertTemplate, *, cert_req_id: int = 0, controls: Iterable[Control] = ()
) -> bytes:
    """Return the DER of a CertRequest."""
    return asn1.encode(
        structures.CertRequest(
            cert_req_id=cert_req_id,
            cert_template=template.build(),
            controls=[
                structures.AttributeTypeAndValue(
                    type=asn1.oid(control.type), value=asn1.element(control.value_der)
                )
                for control in controls
            ]
            or None,
        )
    )


def cert_req_msg_der(cert_req_der: bytes, popo_der: bytes) -> bytes:
    """Return the DER of a CertReqMsg; `popo_der` is the tagged ProofOfPossession, b"" for none."""
    return asn1.tlv(0x30, cert_req_der, popo_der)


def signature_popo_der(
    algorithm_der: bytes, signature: bytes, input_der: bytes | None = None
) -> bytes:
    """Return the DER of ProofOfPossession with choice signature."""
    # The input's SEQUENCE tag becomes the IMPLICIT [0] of poposkInput.
    given = b"" if input_der is None else b"\xa0" + input_der[1:]
    return asn1.tlv(0xA1, given, algorithm_der, asn1.tlv(0x03, b"\x00", signature))


RA_VERIFIED_POPO_DER: Final = b"\x80\x00"

ENCR_CERT_POPO_DER: Final = b"\xa2\x03\x81\x01\x00"
"""ProofOfPossession with choice keyEncipherment, subsequentMessage encrCert."""


def popo_signing_key_input(sender_der: bytes, spki_der: bytes) -> bytes:
    """Return the DER of POPOSigningKeyInput that names its sender (a GeneralName)."""
    return asn1.tlv(0x30, asn1.tlv(0xA0, sender_der), spki_der)


def cert_id_der(named: CertId) -> bytes:
    """Return the DER of a CertId."""
    return asn1.encode(
        structures.CertId(issuer=asn1.element(named.issuer_der), serial_number=named.serial_number)
    )


def cert_id(der: bytes) -> CertId:
    """Decode a CertId.

    Raises:
        MalformedMessage: It does not conform.
    """
    value = asn1.decode(structures.CertId, der)
    return CertId(asn1.raw(value.issuer), value.serial_number)


# --- answers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CertResponse:
    """One answer to a certificate request; `certificate_der` is None unless a plain certificate came.

    Args:
        encrypted: Whether certificate or private key came encrypted.
        encrypted_cert_der: EncryptedKey with the certificate in it (`enveloped_data`), in its place.
        private_key_der: EncryptedKey with the private key in it, beside the certificate.
    """

    cert_req_id: int
    status_info: PKIStatusInfo
    certificate_der: bytes | None = None
    encrypted: bool = False
    encrypted_cert_der: bytes | None = None
    private_key_der: bytes | None = None


@dataclass(frozen=True, slots=True)
class CertRepMessage:
    """Content of ip, cp or kup."""

    responses: tuple[CertResponse, ...]
    ca_pubs: tuple[bytes, ...] = ()


def cert_rep_message(content: bytes) -> CertRepMessage:
    """Decode the content of an ip, cp or kup.

    Raises:
        MalformedMessage: It does not conform.
    """
    message = asn1.decode(structures.CertRepMessage, content)
    return CertRepMessage(
        responses=tuple(_cert_response(response) for response in message.response),
        ca_pubs=tuple(asn1.raw(item) for item in _some(message.ca_pubs, "caPubs")),
    )


def _cert_response(response: structures.CertResponse) -> CertResponse:
    certificate_der, encrypted_cert_der, private_key_der = None, None, None
    pair = response.certified_key_pair
    if pair is not None:
        value_der = asn1.raw(pair.cert_or_enc_cert.value)
        if pair.cert_or_enc_cert.tag == "certificate":
            certificate_der = value_der
        else:
            encrypted_cert_der = value_der
        private_key_der = _raw_or_none(pair.private_key)
    return CertResponse(
        _written(response.cert_req_id, "certReqId"),
        PKIStatusInfo.of(response.status),
        certificate_der,
        encrypted_cert_der is not None or private_key_der is not None,
        encrypted_cert_der,
        private_key_der,
    )


def cert_rep_body(body_type: BodyType, message: CertRepMessage) -> bytes:
    """Return the body of an ip, cp or kup."""
    return body(
        body_type,
        asn1.encode(
            structures.CertRepMessage(
                ca_pubs=[asn1.element(der) for der in message.ca_pubs] or None,
                response=[
                    structures.CertResponse(
                        cert_req_id=response.cert_req_id,
                        status=response.status_info.build(),
                        certified_key_pair=_certified(response),
                        rsp_info=None,
                    )
                    for response in message.responses
                ],
            )
        ),
    )


def _certified(response: CertResponse) -> structures.CertifiedKeyPair | None:
    given: (
        asn1.Variant[asn1.TLV, Literal["certificate"]]
        | asn1.Variant[asn1.TLV, Literal["encryptedCert"]]
    )
    if response.certificate_der is not None:
        given = asn1.Variant(asn1.element(response.certificate_der), "certificate")
    elif response.encrypted_cert_der is not None:
        given = asn1.Variant(asn1.element(response.encrypted_cert_der), "encryptedCert")
    else:
        return None
    return structures.CertifiedKeyPair(
        cert_or_enc_cert=given,
        private_key=_optional(asn1.element, response.private_key_der),
        publication_info=None,
    )


def encrypted_key_der(enveloped_data_der: bytes) -> bytes:
    """Return the DER of EncryptedKey with choice envelopedData, whose tag is IMPLICIT (RFC 4211 2.2)."""
    return b"\xa0" + enveloped_data_der[1:]


def enveloped_data(encrypted_key: bytes) -> bytes:
    """Return the DER of the EnvelopedData in an EncryptedKey.

    Raises:
        MalformedMessage: It is an EncryptedValue, which pvno 3 has no more (RFC 9810 5.2.2).
    """
    if encrypted_key[:1] != b"\xa0":
        raise MalformedMessage("EncryptedValue instead of EnvelopedData", rule="RFC 9810 5.2.2")
    return b"\x30" + encrypted_key[1:]


@dataclass(frozen=True, slots=True)
class CertStatus:
    """One entry of certConf; `hash_alg` is the name of an explicit hash algorithm, "" if absent."""

    cert_hash: bytes
    cert_req_id: int
    status_info: PKIStatusInfo | None = None
    hash_alg: structures.AlgorithmIdentifier | None = None

    @property
    def takes_certificate(self) -> bool:
        """Whether the device accepts its certificate (RFC 9810 5.3.18: absent statusInfo means so)."""
        return self.status_info is None or self.status_info.issued


def cert_confirm_content(content: bytes) -> tuple[CertStatus, ...]:
    """Decode the content of a certConf.

    Raises:
        MalformedMessage: It does not conform.
    """
    _require_few(content, "CertConfirmContent")
    return tuple(
        CertStatus(
            status.cert_hash,
            _written(status.cert_req_id, "certReqId"),
            _optional(PKIStatusInfo.of, status.status_info),
            status.hash_alg,
        )
        for status in asn1.unbox(structures.CertConfirmContentBox, content).statuses
    )


def cert_confirm_body(status: CertStatus) -> bytes:
    """Return the body of a certConf with one CertStatus."""
    return body(
        BodyType.certConf,
        asn1.boxed(
            structures.CertConfirmContentBox(
                statuses=[
                    structures.CertStatus(
                        cert_hash=status.cert_hash,
                        cert_req_id=status.cert_req_id,
                        status_info=_optional(PKIStatusInfo.build, status.status_info),
                        hash_alg=status.hash_alg,
                    )
                ]
            )
        ),
    )


# --- revocation -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RevDetails:
    """One certificate an rr wants revoked: named by its template's issuer and serialNumber."""

    template: CertTemplate
    crl_entry_details: tuple[Extension, ...] = ()


def rev_req_content(content: bytes) -> tuple[RevDetails, ...]:
    """Decode the content of an rr.

    Raises:
        MalformedMessage: It does not conform.
    """
    _require_few(content, "RevReqContent")
    return tuple(
        RevDetails(
            CertTemplate.of(details.cert_details),
            tuple(
                Extension(item.extn_id.dotted_string, item.critical, item.extn_value)
                for item in _some(details.crl_entry_details, "crlEntryDetails")
            ),
        )
        for details in asn1.unbox(structures.RevReqContentBox, content).details
    )


def rev_req_body(details: RevDetails) -> bytes:
    """Return the body of an rr for one certificate."""
    return body(
        BodyType.rr,
        asn1.boxed(
            structures.RevReqContentBox(
                details=[
                    structures.RevDetails(
                        cert_details=details.template.build(),
                        crl_entry_details=[
                            structures.Extension(
                                extn_id=asn1.oid(item.oid),
                                critical=item.critical,
                                extn_value=item.value,
                            )
                            for item in details.crl_entry_details
                        ]
                        or None,
                    )
                ]
            )
        ),
    )


@dataclass(frozen=True, slots=True)
class RevRepContent:
    """Content of rp: a status for each certificate, and optionally which they were."""

    statuses: tuple[PKIStatusInfo, ...]
    rev_certs: tuple[CertId, ...] = ()


def rev_rep_content(content: bytes) -> RevRepContent:
    """Decode the content of an rp.

    Raises:
        MalformedMessage: It does not conform.
    """
    message = asn1.decode(structures.RevRepContent, content)
    _some(message.crls, "crls")
    return RevRepContent(
        tuple(PKIStatusInfo.of(status) for status in message.status),
        tuple(
            CertId(asn1.raw(item.issuer), item.serial_number)
            for item in _some(message.rev_certs, "revCerts")
        ),
    )


def rev_rep_body(content: RevRepContent) -> bytes:
    """Return the body of an rp."""
    return body(
        BodyType.rp,
        asn1.encode(
            structures.RevRepContent(
                status=[status.build() for status in content.statuses],
                rev_certs=[
                    structures.CertId(
                        issuer=asn1.element(item.issuer_der), serial_number=item.serial_number
                    )
                    for item in content.rev_certs
                ]
                or None,
                crls=None,
            )
        ),
    )


# --- general messages -----------------------------------------------------------------------------------------


def gen_msg_content(content: bytes) -> tuple[InfoTypeAndValue, ...]:
    """Decode the content of a genm or genp.

    Raises:
        MalformedMessage: It does not conform.
    """
    return tuple(
        InfoTypeAndValue(item.info_type.dotted_string, _raw_or_none(item.info_value))
        for item in asn1.unbox(structures.GenMsgContentBox, content).items
    )


def gen_msg_body(body_type: BodyType, items: Iterable[InfoTypeAndValue]) -> bytes:
    """Return the body of a genm or genp."""
    return body(
        body_type,
        asn1.boxed(
            structures.GenMsgContentBox(
                items=[
                    structures.InfoTypeAndValue(
                        info_type=asn1.oid(item.info_type),
                        info_value=_optional(asn1.element, item.value_der),
                    )
                    for item in items
                ]
            )
        ),
    )


PKICONF_BODY: Final = body(BodyType.pkiconf, b"\x05\x00")


@dataclass(frozen=True, slots=True)
class ErrorMsgContent:
    """Content of error."""

    status_info: PKIStatusInfo
    error_code: int | None = None
    error_details: tuple[str, ...] = ()


def error_msg_content(content: bytes) -> ErrorMsgContent:
    """Decode the content of an error.

    Raises:
        MalformedMessage: It does not conform.
    """
    _require_few(content, "ErrorMsgContent")
    message = asn1.decode(structures.ErrorMsgContent, content)
    return ErrorMsgContent(
        PKIStatusInfo.of(message.pki_status_info),
        _optional(lambda code: _written(code, "errorCode"), message.error_code),
        tuple(_some(message.error_details, "errorDetails")),
    )


def error_body(status_info: PKIStatusInfo) -> bytes:
    """Return the body of an error."""
    return body(
        BodyType.error,
        asn1.encode(
            structures.ErrorMsgContent(
                pki_status_info=status_info.build(), error_code=None, error_details=None
            )
        ),
    )


def nested_messages(content: bytes) -> tuple[bytes, ...]:
    """Return the DER of each message inside a nested.

    Raises:
        MalformedMessage: It does not conform.
    """
    box = asn1.unbox(structures.PKIMessagesBox, content, MAX_NESTED)
    return tuple(asn1.raw(item) for item in box.messages)


def nested_body(*messages: bytes) -> bytes:
    """Return the body of a nested around whole messages."""
    return body(BodyType.nested, asn1.tlv(0x30, *messages))


def require_one(items: tuple[T, ...], what: str, rule: str) -> T:
    """Return the only item.

    Raises:
        HeaderRefused: There are none, or several (badRequest).
    """
    if len(items) != 1:
        raise HeaderRefused(f"{len(items)} {what}, expected exactly one", rule=rule)
    return items[0]
