"""ASN.1 of CMP (RFC 9810), CRMF (RFC 4211) and the parts of X.509 that CMP touches.

The only module that knows the ASN.1 library, `cryptography.hazmat.asn1` (a DER codec in Rust that declares
itself unstable; `selfcheck` tries it at each start). CMP's module has EXPLICIT tags, CRMF's has IMPLICIT
ones, except where a tagged type is a CHOICE. Whatever must survive byte for byte (names, keys, algorithm
identifiers, whatever is signed) is kept as a raw TLV: `raw` gives back exactly the received octets, because
DER has only one form.
"""

# No postponed annotations here: the codec reads them while each class is built.

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.asn1 import BitString as BitString
from cryptography.hazmat.asn1 import Default, Explicit, Implicit, Size
from cryptography.hazmat.asn1 import GeneralizedTime as GeneralizedTime
from cryptography.hazmat.asn1 import Null as Null
from cryptography.hazmat.asn1 import UTCTime as UTCTime
from cryptography.hazmat.asn1 import Variant as Variant

from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import MalformedMessage

T = TypeVar("T")

MAX_ELEMENTS = 256
"""Elements of one SEQUENCE OF that are decoded, where nothing tighter is said. The longest that are met have dozens."""

_MAX_NAMED_BITS = 128
"""The longest list of named bits, PKIFailureInfo, has 27."""

TLV = asn1.TLV
OptionalTLV = asn1.TLV | Null | None
"""An optional element of any type. The codec refuses `TLV | None`, but takes a CHOICE whose first arm fits all."""

some = Size(1, None)
"""SIZE (1..MAX). The codec takes no size on an OPTIONAL list; `messages` refuses empty ones there."""

# A class called ...Box is a SEQUENCE around one SEQUENCE OF, since the codec decodes no bare SEQUENCE OF: `unbox`.


# --- X.509 and X.501 ------------------------------------------------------------------------------------------


@asn1.sequence
class AlgorithmIdentifier:
    algorithm: x509.ObjectIdentifier
    parameters: OptionalTLV


@asn1.sequence
class SubjectPublicKeyInfo:
    algorithm: asn1.TLV
    subject_public_key: BitString


@asn1.sequence
class AttributeTypeAndValue:
    """Of a Name, and of CRMF controls and regInfo: the same shape."""

    type: x509.ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class NameBox:
    rdns: list[asn1.SetOf[AttributeTypeAndValue]]


@asn1.sequence
class Extension:
    extn_id: x509.ObjectIdentifier
    critical: Annotated[bool, Default(False)]
    extn_value: bytes


@asn1.sequence
class Validity:
    not_before: UTCTime | GeneralizedTime
    not_after: UTCTime | GeneralizedTime


@asn1.sequence
class TBSCertificate:
    version: Annotated[int | None, Explicit(0)]
    serial_number: int
    signature: asn1.TLV
    issuer: asn1.TLV
    validity: Validity
    subject: asn1.TLV
    subject_public_key_info: asn1.TLV
    issuer_unique_id: Annotated[BitString | None, Implicit(1)]
    subject_unique_id: Annotated[BitString | None, Implicit(2)]
    extensions: Annotated[list[Extension] | None, Explicit(3)]


@asn1.sequence
class Certificate:
    tbs_certificate: asn1.TLV
    signature_algorithm: asn1.TLV
    signature: BitString


@asn1.sequence
class BasicConstraints:
    ca: Annotated[bool, Default(False)]
    path_len_constraint: int | None


@asn1.sequence
class AuthorityKeyIdentifier:
    key_identifier: Annotated[bytes | None, Implicit(0)]
    authority_cert_issuer: Annotated[list[asn1.TLV] | None, Implicit(1)]
    authority_cert_serial_number: Annotated[int | None, Implicit(2)]


@asn1.sequence
class OIDsBox:
    oids: list[x509.ObjectIdentifier]


@asn1.sequence
class GeneralNamesBox:
    names: Annotated[list[asn1.TLV], some]


@asn1.sequence
class RSASSAPSSParams:
    """RFC 4055 3.1. The defaults are SHA-1; they are `None` here, and refused where SHA-1 is."""

    hash_algorithm: Annotated[AlgorithmIdentifier | None, Explicit(0)]
    mask_gen_algorithm: Annotated[AlgorithmIdentifier | None, Explicit(1)]
    salt_length: Annotated[int | None, Explicit(2)]
    trailer_field: Annotated[int | None, Explicit(3)]


# --- CMP: message and header ----------------------------------------------------------------------------------


@asn1.sequence
class InfoTypeAndValue:
    info_type: x509.ObjectIdentifier
    info_value: OptionalTLV


@asn1.sequence
class PKIHeader:
    pvno: int
    sender: asn1.TLV
    recipient: asn1.TLV
    message_time: Annotated[GeneralizedTime | None, Explicit(0)]
    protection_alg: Annotated[asn1.TLV | Null | None, Explicit(1)]
    sender_kid: Annotated[bytes | None, Explicit(2)]
    recip_kid: Annotated[bytes | None, Explicit(3)]
    transaction_id: Annotated[bytes | None, Explicit(4)]
    sender_nonce: Annotated[bytes | None, Explicit(5)]
    recip_nonce: Annotated[bytes | None, Explicit(6)]
    free_text: Annotated[list[str] | None, Explicit(7)]
    general_info: Annotated[list[InfoTypeAndValue] | None, Explicit(8)]


@asn1.sequence
class PKIMessage:
    header: asn1.TLV
    body: asn1.TLV
    protection: Annotated[BitString | None, Explicit(0)]
    extra_certs: Annotated[list[asn1.TLV] | None, Explicit(1)]


@asn1.sequence
class PKIMessagesBox:
    """Body of nested: PKIMessages, inside the body's own tag."""

    messages: Annotated[list[asn1.TLV], some]


@asn1.sequence
class PKIStatusInfo:
    status: int
    status_string: list[str] | None
    fail_info: BitString | None


@asn1.sequence
class ErrorMsgContent:
    pki_status_info: PKIStatusInfo
    error_code: int | None
    error_details: list[str] | None


# --- CRMF -----------------------------------------------------------------------------------------------------


@asn1.sequence
class OptionalValidity:
    not_before: Annotated[UTCTime | GeneralizedTime | None, Explicit(0)]
    not_after: Annotated[UTCTime | GeneralizedTime | None, Explicit(1)]


@asn1.sequence
class CertTemplate:
    version: Annotated[int | None, Implicit(0)]
    serial_number: Annotated[int | None, Implicit(1)]
    signing_alg: Annotated[AlgorithmIdentifier | None, Implicit(2)]
    issuer: Annotated[asn1.TLV | Null | None, Explicit(3)]
    validity: Annotated[OptionalValidity | None, Implicit(4)]
    subject: Annotated[asn1.TLV | Null | None, Explicit(5)]
    public_key: Annotated[SubjectPublicKeyInfo | None, Implicit(6)]
    issuer_uid: Annotated[BitString | None, Implicit(7)]
    subject_uid: Annotated[BitString | None, Implicit(8)]
    extensions: Annotated[list[Extension] | None, Implicit(9)]


@asn1.sequence
class CertRequest:
    cert_req_id: int
    cert_template: CertTemplate
    controls: list[AttributeTypeAndValue] | None


@asn1.sequence
class CertId:
    issuer: asn1.TLV
    serial_number: int


@asn1.sequence
class PKMACValue:
    alg_id: AlgorithmIdentifier
    value: BitString


@asn1.sequence
class SinglePubInfo:
    pub_method: int
    pub_location: asn1.TLV | Null | None


@asn1.sequence
class PKIPublicationInfo:
    action: int
    pub_infos: list[SinglePubInfo] | None


@asn1.sequence
class EncryptedValue:
    """Deprecated, but still what some CAs answer with."""

    intended_alg: Annotated[AlgorithmIdentifier | None, Implicit(0)]
    symm_alg: Annotated[AlgorithmIdentifier | None, Implicit(1)]
    enc_symm_key: Annotated[BitString | None, Implicit(2)]
    key_alg: Annotated[AlgorithmIdentifier | None, Implicit(3)]
    value_hint: Annotated[bytes | None, Implicit(4)]
    enc_value: BitString


@asn1.sequence
class EnvelopedData:
    """CMS (RFC 5652 6.1) as CRMF uses it: without originatorInfo and unprotectedAttrs."""

    version: int
    recipient_infos: asn1.TLV
    encrypted_content_info: asn1.TLV


@asn1.sequence
class POPOPrivKeyBox:
    """A SEQUENCE around the CHOICE POPOPrivKey, since the codec decodes no bare CHOICE: `unbox`."""

    value: (
        Annotated[Variant[BitString, Literal["thisMessage"]], Implicit(0)]
        | Annotated[Variant[int, Literal["subsequentMessage"]], Implicit(1)]
        | Annotated[Variant[BitString, Literal["dhMAC"]], Implicit(2)]
        | Annotated[Variant[PKMACValue, Literal["agreeMAC"]], Implicit(3)]
        | Annotated[Variant[EnvelopedData, Literal["encryptedKey"]], Implicit(4)]
    )


@asn1.sequence
class POPOSigningKeyInput:
    """`auth_info` is either sender [0] EXPLICIT GeneralName or an untagged PKMACValue."""

    auth_info: asn1.TLV
    public_key: asn1.TLV


@asn1.sequence
class POPOSigningKey:
    poposk_input: Annotated[POPOSigningKeyInput | None, Implicit(0)]
    algorithm_identifier: asn1.TLV
    signature: BitString


@asn1.sequence
class CertReqMsg:
    cert_req: asn1.TLV
    popo: (
        Annotated[Variant[Null, Literal["raVerified"]], Implicit(0)]
        | Annotated[Variant[POPOSigningKey, Literal["signature"]], Implicit(1)]
        | Annotated[Variant[asn1.TLV, Literal["keyEncipherment"]], Explicit(2)]
        | Annotated[Variant[asn1.TLV, Literal["keyAgreement"]], Explicit(3)]
        | None
    )
    reg_info: list[AttributeTypeAndValue] | None


@asn1.sequence
class CertReqMessagesBox:
    messages: Annotated[list[CertReqMsg], some]


# --- PKCS#10 --------------------------------------------------------------------------------------------------


@asn1.sequence
class Attribute:
    type: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class CertificationRequestInfo:
    """RFC 2986 4.1. `attributes` is not optional there, but some encoders leave it out when it is empty."""

    version: int
    subject: asn1.TLV
    subject_pk_info: asn1.TLV
    attributes: Annotated[asn1.SetOf[Attribute] | None, Implicit(0)]


@asn1.sequence
class CertificationRequest:
    certification_request_info: asn1.TLV
    signature_algorithm: asn1.TLV
    signature: BitString


@asn1.sequence
class ExtensionsBox:
    extensions: Annotated[list[Extension], some]


# --- CMP: answers, confirmation, revocation, polling ----------------------------------------------------------


@asn1.sequence
class CertifiedKeyPair:
    """`cert_or_enc_cert` is certificate [0] or encryptedCert [1], both EXPLICIT."""

    cert_or_enc_cert: (
        Annotated[Variant[asn1.TLV, Literal["certificate"]], Explicit(0)]
        | Annotated[Variant[asn1.TLV, Literal["encryptedCert"]], Explicit(1)]
    )
    private_key: Annotated[asn1.TLV | Null | None, Explicit(0)]
    publication_info: Annotated[asn1.TLV | Null | None, Explicit(1)]


@asn1.sequence
class CertResponse:
    cert_req_id: int
    status: PKIStatusInfo
    certified_key_pair: CertifiedKeyPair | None
    rsp_info: bytes | None


@asn1.sequence
class CertRepMessage:
    ca_pubs: Annotated[list[asn1.TLV] | None, Explicit(1)]
    response: list[CertResponse]


@asn1.sequence
class CertStatus:
    cert_hash: bytes
    cert_req_id: int
    status_info: PKIStatusInfo | None
    hash_alg: Annotated[AlgorithmIdentifier | None, Explicit(0)]


@asn1.sequence
class CertConfirmContentBox:
    statuses: list[CertStatus]


@asn1.sequence
class RevDetails:
    cert_details: CertTemplate
    crl_entry_details: list[Extension] | None


@asn1.sequence
class RevReqContentBox:
    details: list[RevDetails]


@asn1.sequence
class RevRepContent:
    status: Annotated[list[PKIStatusInfo], some]
    rev_certs: Annotated[list[CertId] | None, Explicit(0)]
    crls: Annotated[list[asn1.TLV] | None, Explicit(1)]


@asn1.sequence
class PollReqEntry:
    cert_req_id: int


@asn1.sequence
class PollReqContentBox:
    entries: list[PollReqEntry]


@asn1.sequence
class PollRepEntry:
    cert_req_id: int
    check_after: int
    reason: list[str] | None


@asn1.sequence
class PollRepContentBox:
    entries: list[PollRepEntry]


@asn1.sequence
class GenMsgContentBox:
    items: list[InfoTypeAndValue]


@asn1.sequence
class CAKeyUpdAnnContent:
    """Deprecated form of an announced root update."""

    old_with_new: asn1.TLV
    new_with_old: asn1.TLV
    new_with_new: asn1.TLV


@asn1.sequence
class RootCaKeyUpdateContent:
    new_with_new: asn1.TLV
    new_with_old: Annotated[asn1.TLV | Null | None, Explicit(0)]
    old_with_new: Annotated[asn1.TLV | Null | None, Explicit(1)]


@asn1.sequence
class CertReqTemplateContent:
    cert_template: CertTemplate
    key_spec: list[AttributeTypeAndValue] | None


@asn1.sequence
class CRLStatus:
    source: (
        Annotated[Variant[asn1.TLV, Literal["dpn"]], Explicit(0)]
        | Annotated[Variant[asn1.TLV, Literal["issuer"]], Explicit(1)]
    )
    this_update: UTCTime | GeneralizedTime | None


@asn1.sequence
class CRLStatusListBox:
    statuses: list[CRLStatus]


@asn1.sequence
class KemCiphertextInfo:
    kem: AlgorithmIdentifier
    ct: bytes


@asn1.sequence
class PBMParameter:
    salt: bytes
    owf: AlgorithmIdentifier
    iteration_count: int
    mac: AlgorithmIdentifier


@asn1.sequence
class PBMAC1Params:
    key_derivation_func: AlgorithmIdentifier
    message_auth_scheme: AlgorithmIdentifier


@asn1.sequence
class PBKDF2Params:
    salt: bytes
    iteration_count: int
    key_length: int | None
    prf: AlgorithmIdentifier | None


@asn1.sequence
class OIDBox:
    oid: x509.ObjectIdentifier


@asn1.sequence
class UTF8StringsBox:
    strings: list[str]


# --- CMS (RFC 5652, RFC 5958, RFC 9629) -------------------------------------------------------------------------


@asn1.sequence
class IssuerAndSerialNumber:
    issuer: asn1.TLV
    serial_number: int


@asn1.sequence
class EncryptedContentInfo:
    content_type: x509.ObjectIdentifier
    content_encryption_algorithm: AlgorithmIdentifier
    encrypted_content: Annotated[bytes | None, Implicit(0)]


@asn1.sequence
class TLVsBox:
    """A SEQUENCE around one SET OF anything: `unbox`."""

    items: asn1.SetOf[asn1.TLV]


@asn1.sequence
class KeyTransRecipientInfo:
    """`rid` is IssuerAndSerialNumber or, tagged [0], a key identifier."""

    version: int
    rid: asn1.TLV
    key_encryption_algorithm: AlgorithmIdentifier
    encrypted_key: bytes


@asn1.sequence
class OriginatorPublicKey:
    algorithm: AlgorithmIdentifier
    public_key: BitString


@asn1.sequence
class RecipientKeyIdentifier:
    subject_key_identifier: bytes
    date: GeneralizedTime | None
    other: asn1.TLV | Null | None


@asn1.sequence
class RecipientEncryptedKey:
    """`rid` is IssuerAndSerialNumber or, tagged [0], RecipientKeyIdentifier."""

    rid: asn1.TLV
    encrypted_key: bytes


@asn1.sequence
class KeyAgreeRecipientInfo:
    version: int
    originator: Annotated[asn1.TLV, Explicit(0)]
    ukm: Annotated[bytes | None, Explicit(1)]
    key_encryption_algorithm: AlgorithmIdentifier
    recipient_encrypted_keys: Annotated[list[RecipientEncryptedKey], some]


@asn1.sequence
class ECCCMSSharedInfo:
    """RFC 5753 7.2: what goes into the key derivation beside the shared secret."""

    key_info: asn1.TLV
    entity_u_info: Annotated[bytes | None, Explicit(0)]
    supp_pub_info: Annotated[bytes, Explicit(2)]


@asn1.sequence
class PasswordRecipientInfo:
    version: int
    key_derivation_algorithm: Annotated[AlgorithmIdentifier | None, Implicit(0)]
    key_encryption_algorithm: AlgorithmIdentifier
    encrypted_key: bytes


@asn1.sequence
class OtherRecipientInfo:
    ori_type: x509.ObjectIdentifier
    ori_value: asn1.TLV


@asn1.sequence
class KEMRecipientInfo:
    version: int
    rid: asn1.TLV
    kem: AlgorithmIdentifier
    kemct: bytes
    kdf: AlgorithmIdentifier
    kek_length: int
    ukm: Annotated[bytes | None, Explicit(0)]
    wrap: AlgorithmIdentifier
    encrypted_key: bytes


@asn1.sequence
class CMSORIforKEMOtherInfo:
    """RFC 9629 5: what goes into the key derivation beside the shared secret."""

    wrap: asn1.TLV
    kek_length: int
    ukm: Annotated[bytes | None, Explicit(0)]


@asn1.sequence
class AttributesBox:
    attributes: asn1.SetOf[Attribute]


SetOfAttributes = asn1.SetOf[Attribute]


@asn1.sequence
class EncapsulatedContentInfo:
    e_content_type: x509.ObjectIdentifier
    e_content: Annotated[bytes | None, Explicit(0)]


@asn1.sequence
class SignerInfo:
    """`sid` is IssuerAndSerialNumber or, tagged [0], a key identifier."""

    version: int
    sid: asn1.TLV
    digest_algorithm: AlgorithmIdentifier
    signed_attrs: Annotated[asn1.SetOf[Attribute] | None, Implicit(0)]
    signature_algorithm: asn1.TLV
    signature: bytes
    unsigned_attrs: Annotated[asn1.SetOf[Attribute] | None, Implicit(1)]


@asn1.sequence
class SignedData:
    version: int
    digest_algorithms: asn1.SetOf[AlgorithmIdentifier]
    encap_content_info: EncapsulatedContentInfo
    certificates: Annotated[asn1.SetOf[asn1.TLV] | None, Implicit(0)]
    crls: Annotated[asn1.SetOf[asn1.TLV] | None, Implicit(1)]
    signer_infos: asn1.SetOf[SignerInfo]


@asn1.sequence
class OneAsymmetricKey:
    version: int
    private_key_algorithm: asn1.TLV
    private_key: bytes
    attributes: Annotated[asn1.SetOf[Attribute] | None, Implicit(0)]
    public_key: Annotated[BitString | None, Implicit(1)]


@asn1.sequence
class AsymmetricKeyPackageBox:
    keys: Annotated[list[OneAsymmetricKey], some]


# --- decode, encode, and the raw octets between -----------------------------------------------------------------


def decode(cls: type[T], der: bytes) -> T:
    """Decode one complete DER value.

    Raises:
        MalformedMessage: Not DER, not this type, or trailing octets.
    """
    try:
        return asn1.decode_der(cls, der)
    except (ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"not a {cls.__name__}: {error}", rule="R1") from error


def unbox(box: type[T], der: bytes, most: int = MAX_ELEMENTS) -> T:
    """Decode a bare SEQUENCE OF by way of its ...Box class, its elements counted before one is decoded.

    Raises:
        MalformedMessage: As `decode`; or it has more than `most` elements.
    """
    if len(der) > 2 * most:  # no element is shorter than two octets
        for tag, start, end in spans(der, 0, len(der), 1, box.__name__):
            if (
                tag & _CONSTRUCTED
            ):  # an arm of a CHOICE may be primitive, and holds no elements then
                spans(der, start, end, most, box.__name__)
    return decode(box, tlv(0x30, der))


_CONSTRUCTED = 0x20
_SEQUENCE = 0x30

Span = tuple[int, int, int]
"""Of one element: its tag octet, where its content starts, where it ends."""


def spans(der: bytes, start: int, end: int, most: int, what: str) -> list[Span]:
    """Find the elements between two offsets by their tags and lengths alone: nothing is decoded or copied.

    Args:
        most: So many elements are looked at.
        what: Whose they are, for the text.

    Raises:
        MalformedMessage: There are more, or they do not end where they should.
    """
    found: list[Span] = []
    try:
        while start < end:
            if len(found) == most:
                raise MalformedMessage(f"more than {most} elements in {what}", rule="R1")
            tag, length, content = der[start], der[start + 1], start + 2
            if length >= 0x80:
                size = length & 0x7F
                length = int.from_bytes(der[content : content + size], "big")
                content += size
            if tag & 0x1F == 0x1F:  # no element that is counted has a tag of several octets
                break
            start = content + length
            found.append((tag, content, start))
    except IndexError:
        start = -1
    if start != end:
        raise MalformedMessage(f"not a {what}: its elements do not fit", rule="R1")
    return found


def members(der: bytes, most: int, what: str) -> list[Span]:
    """Find the elements inside a SEQUENCE, as `spans`.

    Raises:
        MalformedMessage: As `spans`, or it is not one SEQUENCE.
    """
    ((tag, start, end),) = spans(der, 0, len(der), 1, what) or ((0, 0, 0),)
    if tag != _SEQUENCE:
        raise MalformedMessage(f"not a {what}: no SEQUENCE", rule="R1")
    return spans(der, start, end, most, what)


def require_few(der: bytes, most: int, what: str) -> None:
    """Refuse octets of more than so many elements, those inside others included, before any of them is decoded.

    Raises:
        MalformedMessage: There are more, or they do not fit into one another.
    """
    waiting, left = [(0, len(der))], most
    rest = f"the rest of {what}, of which {most} are read"
    while waiting:
        found = spans(der, *waiting.pop(), left, rest)
        left -= len(found)
        waiting.extend((start, end) for tag, start, end in found if tag & _CONSTRUCTED)


def boxed(box: Any) -> bytes:
    """Return the DER of the bare SEQUENCE OF inside a ...Box."""
    return inner(asn1.encode_der(box))


def encode(value: Any) -> bytes:
    """Encode a value of one of the classes above, or an int, bytes, str, time or OID, as DER."""
    return asn1.encode_der(value)


def raw(element: Any) -> bytes:
    """Return the octets of a TLV exactly as they were received."""
    return asn1.encode_der(element)


def element(der: bytes) -> asn1.TLV:
    """Return one complete DER element as a TLV, to be put into a structure unchanged.

    Raises:
        MalformedMessage: Not one DER element.
    """
    return decode(asn1.TLV, der)


known_element = remembered(entries=512, max_octets=256)(element)
"""`element`, remembering: for names and algorithm identifiers, which come back with every message."""


def content(tlv: asn1.TLV) -> bytes:
    """Return the content octets of a TLV, without tag and length."""
    return bytes(tlv.data)


def inner(der: bytes) -> bytes:
    """Return the content octets of an element whose tag and length were decoded before.

    Args:
        der: One element with a tag of one octet. If it is none, what comes back is none either, and fails
            to decode.
    """
    length = der[1]
    return der[2:] if length < 0x80 else der[2 + (length & 0x7F) :]


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return the DER of a tag octet around the parts' octets."""
    length = sum(map(len, parts))
    if length < 0x80:
        head = bytes((tag, length))
    else:
        size = (length.bit_length() + 7) // 8
        head = bytes((tag, 0x80 | size)) + length.to_bytes(size, "big")
    return b"".join((head, *parts))


@lru_cache(maxsize=256)
def oid(dotted: str) -> x509.ObjectIdentifier:
    """Return an OBJECT IDENTIFIER from its dotted form."""
    return x509.ObjectIdentifier(dotted)


def oid_der(dotted: str) -> bytes:
    """Return the DER of an OBJECT IDENTIFIER."""
    return asn1.encode_der(x509.ObjectIdentifier(dotted))


def time_of(value: UTCTime | GeneralizedTime) -> datetime:
    """Return an ASN.1 time as aware UTC."""
    return value.as_datetime().replace(tzinfo=UTC)


def time(moment: datetime) -> UTCTime | GeneralizedTime:
    """Return a time as X.509 wants it: UTCTime until 2049, then GeneralizedTime (RFC 5280 4.1.2.5)."""
    moment = moment.replace(microsecond=0)
    return UTCTime(moment) if moment.year < 2050 else GeneralizedTime(moment)


def generalized_time(moment: datetime) -> GeneralizedTime:
    """Return a time as GeneralizedTime to the second: CMP allows no fraction (RFC 9810 5.1.1)."""
    return GeneralizedTime(moment.replace(microsecond=0))


def bit_string(octets: bytes) -> BitString:
    """Return octets as a BIT STRING without unused bits."""
    return BitString(octets, 0)


def octets_of(bits: BitString, what: str) -> bytes:
    """Return the octets of a BIT STRING that must have no unused bits.

    Raises:
        MalformedMessage: There are unused bits.
    """
    if bits.padding_bits():
        raise MalformedMessage(f"{what} has unused bits", rule="R1")
    return bits.as_bytes()


def named_bits(numbers: list[int]) -> BitString:
    """Return a named-bit BIT STRING with these bits set and trailing zero bits stripped (X.690 11.2.2)."""
    if not numbers:
        return BitString(b"", 0)
    size = max(numbers) // 8 + 1
    octets = bytearray(size)
    for number in numbers:
        octets[number // 8] |= 0x80 >> (number % 8)
    return BitString(bytes(octets), 7 - max(numbers) % 8)


def set_of(items: list[T]) -> asn1.SetOf[T]:
    """Return values as a SET OF."""
    return asn1.SetOf(items)


def set_bits(bits: BitString) -> list[int]:
    """Return the numbers of the bits that are set in a list of named bits.

    Raises:
        MalformedMessage: It is longer than any list of named bits.
    """
    octets = bits.as_bytes()
    if len(octets) * 8 > _MAX_NAMED_BITS:
        raise MalformedMessage(f"{len(octets)} octets of named bits", rule="R1")
    return [i for i in range(len(octets) * 8) if octets[i // 8] & (0x80 >> (i % 8))]


INTEGER_TAG = 0x02


def parts(der: bytes, most: int, what: str) -> list[bytes]:
    """Return the elements inside a constructed element, without looking into them.

    For what nobody has verified yet: it costs no more than `most` elements do, whatever was sent.

    Args:
        der: One whole element, with a tag of one octet.
        most: A further element is an error, and none behind it is read.
        what: For the text.

    Raises:
        MalformedMessage: Not DER so far, octets behind the element, or too many elements.
    """
    start, end = _extent(der, 0, len(der), what)
    if end != len(der):
        raise MalformedMessage(f"{what} has octets behind it", rule="R1")
    found: list[bytes] = []
    while start < end:
        if len(found) == most:
            raise MalformedMessage(f"{what} has more than {most} elements", rule="R1")
        _, next_start = _extent(der, start, end, what)
        found.append(der[start:next_start])
        start = next_start
    return found


def _extent(der: bytes, start: int, end: int, what: str) -> tuple[int, int]:
    """Return where the content of the element at `start` begins and ends (X.690 10.1: definite, shortest form)."""
    if end - start < 2 or der[start] & 0x1F == 0x1F:
        raise MalformedMessage(f"{what} is not DER", rule="R1")
    length, content_start = der[start + 1], start + 2
    if length >= 0x80:
        size = length & 0x7F
        content_start += size
        length = int.from_bytes(der[start + 2 : content_start], "big")
        if not 1 <= size <= 4 or content_start > end or length < max(0x80, 1 << 8 * (size - 1)):
            raise MalformedMessage(f"{what} is not DER", rule="R1")
    if content_start + length > end:
        raise MalformedMessage(f"{what} ends too early", rule="R1")
    return content_start, content_start + length
