"""ASN.1 of CMP (RFC 9810), CRMF (RFC 4211), CMS (RFC 5652) and the parts of X.509 that CMP touches.

CMP's module has EXPLICIT tags, CRMF's has IMPLICIT ones, except where a tagged type is a CHOICE. `asn1` decodes and
encodes these classes.
"""

# No postponed annotations here: the codec reads them while each class is built.

from typing import Annotated, Literal

from cryptography import x509

from ra_gateway.cmp.asn1 import (
    TLV,
    BitString,
    Default,
    Explicit,
    GeneralizedTime,
    Implicit,
    Null,
    SetOf,
    Size,
    UTCTime,
    Variant,
    sequence,
)

OptionalTLV = TLV | Null | None
"""An optional element of any type. The codec refuses `TLV | None`, but takes a CHOICE whose first arm fits all."""

some = Size(1, None)
"""SIZE (1..MAX). The codec takes no size on an OPTIONAL list; `asn1.list_of` refuses empty ones there."""

# A class called ...Box is a SEQUENCE around one SEQUENCE OF, since the codec decodes no bare SEQUENCE OF: `unbox`.


# --- X.509 and X.501 ------------------------------------------------------------------------------------------


@sequence
class AlgorithmIdentifier:
    algorithm: x509.ObjectIdentifier
    parameters: OptionalTLV


@sequence
class SubjectPublicKeyInfo:
    algorithm: TLV
    subject_public_key: BitString


@sequence
class AttributeTypeAndValue:
    """Of a Name, and of CRMF controls and regInfo: the same shape."""

    type: x509.ObjectIdentifier
    value: TLV


@sequence
class ControlsBox:
    controls: Annotated[list[AttributeTypeAndValue], some]


@sequence
class NameBox:
    rdns: list[SetOf[AttributeTypeAndValue]]


@sequence
class Extension:
    extn_id: x509.ObjectIdentifier
    critical: Annotated[bool, Default(False)]
    extn_value: bytes


@sequence
class Validity:
    not_before: UTCTime | GeneralizedTime
    not_after: UTCTime | GeneralizedTime


@sequence
class TBSCertificate:
    version: Annotated[int | None, Explicit(0)]
    serial_number: int
    signature: TLV
    issuer: TLV
    validity: Validity
    subject: TLV
    subject_public_key_info: TLV
    issuer_unique_id: Annotated[BitString | None, Implicit(1)]
    subject_unique_id: Annotated[BitString | None, Implicit(2)]
    extensions: Annotated[list[Extension] | None, Explicit(3)]


@sequence
class Certificate:
    tbs_certificate: TLV
    signature_algorithm: TLV
    signature: BitString


@sequence
class BasicConstraints:
    ca: Annotated[bool, Default(False)]
    path_len_constraint: int | None


@sequence
class AuthorityKeyIdentifier:
    key_identifier: Annotated[bytes | None, Implicit(0)]
    authority_cert_issuer: Annotated[list[TLV] | None, Implicit(1)]
    authority_cert_serial_number: Annotated[int | None, Implicit(2)]


@sequence
class OIDsBox:
    oids: list[x509.ObjectIdentifier]


@sequence
class GeneralNamesBox:
    names: Annotated[list[TLV], some]


@sequence
class RSASSAPSSParams:
    """RFC 4055 3.1. The defaults are SHA-1; they are `None` here, and refused where SHA-1 is."""

    hash_algorithm: Annotated[AlgorithmIdentifier | None, Explicit(0)]
    mask_gen_algorithm: Annotated[AlgorithmIdentifier | None, Explicit(1)]
    salt_length: Annotated[int | None, Explicit(2)]
    trailer_field: Annotated[int | None, Explicit(3)]


# --- CMP: message and header ----------------------------------------------------------------------------------


@sequence
class InfoTypeAndValue:
    info_type: x509.ObjectIdentifier
    info_value: OptionalTLV


@sequence
class PKIHeader:
    pvno: int
    sender: TLV
    recipient: TLV
    message_time: Annotated[GeneralizedTime | None, Explicit(0)]
    protection_alg: Annotated[TLV | Null | None, Explicit(1)]
    sender_kid: Annotated[bytes | None, Explicit(2)]
    recip_kid: Annotated[bytes | None, Explicit(3)]
    transaction_id: Annotated[bytes | None, Explicit(4)]
    sender_nonce: Annotated[bytes | None, Explicit(5)]
    recip_nonce: Annotated[bytes | None, Explicit(6)]
    free_text: Annotated[list[str] | None, Explicit(7)]
    general_info: Annotated[list[InfoTypeAndValue] | None, Explicit(8)]


@sequence
class PKIMessage:
    header: TLV
    body: TLV
    protection: Annotated[BitString | None, Explicit(0)]
    extra_certs: Annotated[list[TLV] | None, Explicit(1)]


@sequence
class PKIMessagesBox:
    """Body of nested: PKIMessages, inside the body's own tag."""

    messages: Annotated[list[TLV], some]


@sequence
class PKIStatusInfo:
    status: int
    status_string: list[str] | None
    fail_info: BitString | None


@sequence
class ErrorMsgContent:
    pki_status_info: PKIStatusInfo
    error_code: int | None
    error_details: list[str] | None


# --- CRMF -----------------------------------------------------------------------------------------------------


@sequence
class OptionalValidity:
    not_before: Annotated[UTCTime | GeneralizedTime | None, Explicit(0)]
    not_after: Annotated[UTCTime | GeneralizedTime | None, Explicit(1)]


@sequence
class CertTemplate:
    version: Annotated[int | None, Implicit(0)]
    serial_number: Annotated[int | None, Implicit(1)]
    signing_alg: Annotated[AlgorithmIdentifier | None, Implicit(2)]
    issuer: Annotated[TLV | Null | None, Explicit(3)]
    validity: Annotated[OptionalValidity | None, Implicit(4)]
    subject: Annotated[TLV | Null | None, Explicit(5)]
    public_key: Annotated[SubjectPublicKeyInfo | None, Implicit(6)]
    issuer_uid: Annotated[BitString | None, Implicit(7)]
    subject_uid: Annotated[BitString | None, Implicit(8)]
    extensions: Annotated[list[Extension] | None, Implicit(9)]


@sequence
class CertRequest:
    cert_req_id: int
    cert_template: CertTemplate
    controls: list[AttributeTypeAndValue] | None


@sequence
class CertId:
    issuer: TLV
    serial_number: int


@sequence
class EnvelopedData:
    """CMS (RFC 5652 6.1) as CRMF uses it: without originatorInfo and unprotectedAttrs."""

    version: int
    recipient_infos: TLV
    encrypted_content_info: TLV


@sequence
class POPOSigningKeyInput:
    """`auth_info` is either sender [0] EXPLICIT GeneralName or an untagged PKMACValue."""

    auth_info: TLV
    public_key: TLV


@sequence
class POPOSigningKey:
    poposk_input: Annotated[POPOSigningKeyInput | None, Implicit(0)]
    algorithm_identifier: TLV
    signature: BitString


@sequence
class CertReqMsg:
    cert_req: TLV
    popo: (
        Annotated[Variant[Null, Literal["raVerified"]], Implicit(0)]
        | Annotated[Variant[POPOSigningKey, Literal["signature"]], Implicit(1)]
        | Annotated[Variant[TLV, Literal["keyEncipherment"]], Explicit(2)]
        | Annotated[Variant[TLV, Literal["keyAgreement"]], Explicit(3)]
        | None
    )
    reg_info: list[AttributeTypeAndValue] | None


@sequence
class CertReqMessagesBox:
    messages: Annotated[list[CertReqMsg], some]


# --- PKCS#10 --------------------------------------------------------------------------------------------------


@sequence
class Attribute:
    type: x509.ObjectIdentifier
    values: SetOf[TLV]


@sequence
class CertificationRequestInfo:
    """RFC 2986 4.1. `attributes` is not optional there, but some encoders leave it out when it is empty."""

    version: int
    subject: TLV
    subject_pk_info: TLV
    attributes: Annotated[SetOf[Attribute] | None, Implicit(0)]


@sequence
class CertificationRequest:
    certification_request_info: TLV
    signature_algorithm: TLV
    signature: BitString


@sequence
class ExtensionsBox:
    extensions: Annotated[list[Extension], some]


# --- CMP: answers, confirmation, revocation, polling ----------------------------------------------------------


@sequence
class CertifiedKeyPair:
    """`cert_or_enc_cert` is certificate [0] or encryptedCert [1], both EXPLICIT."""

    cert_or_enc_cert: (
        Annotated[Variant[TLV, Literal["certificate"]], Explicit(0)]
        | Annotated[Variant[TLV, Literal["encryptedCert"]], Explicit(1)]
    )
    private_key: Annotated[TLV | Null | None, Explicit(0)]
    publication_info: Annotated[TLV | Null | None, Explicit(1)]


@sequence
class CertResponse:
    cert_req_id: int
    status: PKIStatusInfo
    certified_key_pair: CertifiedKeyPair | None
    rsp_info: bytes | None


@sequence
class CertRepMessage:
    ca_pubs: Annotated[list[TLV] | None, Explicit(1)]
    response: list[CertResponse]


@sequence
class CertStatus:
    cert_hash: bytes
    cert_req_id: int
    status_info: PKIStatusInfo | None
    hash_alg: Annotated[AlgorithmIdentifier | None, Explicit(0)]


@sequence
class CertConfirmContentBox:
    statuses: list[CertStatus]


@sequence
class RevDetails:
    cert_details: CertTemplate
    crl_entry_details: list[Extension] | None


@sequence
class RevReqContentBox:
    details: list[RevDetails]


@sequence
class RevRepContent:
    status: Annotated[list[PKIStatusInfo], some]
    rev_certs: Annotated[list[CertId] | None, Explicit(0)]
    crls: Annotated[list[TLV] | None, Explicit(1)]


@sequence
class PollReqEntry:
    cert_req_id: int


@sequence
class PollReqContentBox:
    entries: list[PollReqEntry]


@sequence
class PollRepEntry:
    cert_req_id: int
    check_after: int
    reason: list[str] | None


@sequence
class PollRepContentBox:
    entries: list[PollRepEntry]


@sequence
class GenMsgContentBox:
    items: list[InfoTypeAndValue]


@sequence
class RootCaKeyUpdateContent:
    new_with_new: TLV
    new_with_old: Annotated[TLV | Null | None, Explicit(0)]
    old_with_new: Annotated[TLV | Null | None, Explicit(1)]


@sequence
class CertReqTemplateContent:
    cert_template: CertTemplate
    key_spec: list[AttributeTypeAndValue] | None


@sequence
class CRLStatus:
    source: (
        Annotated[Variant[TLV, Literal["dpn"]], Explicit(0)]
        | Annotated[Variant[TLV, Literal["issuer"]], Explicit(1)]
    )
    this_update: UTCTime | GeneralizedTime | None


@sequence
class CRLStatusListBox:
    statuses: list[CRLStatus]


@sequence
class PBMParameter:
    salt: bytes
    owf: AlgorithmIdentifier
    iteration_count: int
    mac: AlgorithmIdentifier


@sequence
class PBMAC1Params:
    key_derivation_func: AlgorithmIdentifier
    message_auth_scheme: AlgorithmIdentifier


@sequence
class PBKDF2Params:
    salt: bytes
    iteration_count: int
    key_length: int | None
    prf: AlgorithmIdentifier | None


@sequence
class UTF8StringsBox:
    strings: list[str]


# --- CMS (RFC 5652, RFC 5958, RFC 9629) -------------------------------------------------------------------------


@sequence
class IssuerAndSerialNumber:
    issuer: TLV
    serial_number: int


@sequence
class EncryptedContentInfo:
    content_type: x509.ObjectIdentifier
    content_encryption_algorithm: AlgorithmIdentifier
    encrypted_content: Annotated[bytes | None, Implicit(0)]


@sequence
class TLVsBox:
    """A SEQUENCE around one SET OF anything: `unbox`."""

    items: SetOf[TLV]


@sequence
class KeyTransRecipientInfo:
    """`rid` is IssuerAndSerialNumber or, tagged [0], a key identifier."""

    version: int
    rid: TLV
    key_encryption_algorithm: AlgorithmIdentifier
    encrypted_key: bytes


@sequence
class OriginatorPublicKey:
    algorithm: AlgorithmIdentifier
    public_key: BitString


@sequence
class RecipientKeyIdentifier:
    subject_key_identifier: bytes
    date: GeneralizedTime | None
    other: TLV | Null | None


@sequence
class RecipientEncryptedKey:
    """`rid` is IssuerAndSerialNumber or, tagged [0], RecipientKeyIdentifier."""

    rid: TLV
    encrypted_key: bytes


@sequence
class KeyAgreeRecipientInfo:
    version: int
    originator: Annotated[TLV, Explicit(0)]
    ukm: Annotated[bytes | None, Explicit(1)]
    key_encryption_algorithm: AlgorithmIdentifier
    recipient_encrypted_keys: Annotated[list[RecipientEncryptedKey], some]


@sequence
class ECCCMSSharedInfo:
    """RFC 5753 7.2: what goes into the key derivation beside the shared secret."""

    key_info: TLV
    entity_u_info: Annotated[bytes | None, Explicit(0)]
    supp_pub_info: Annotated[bytes, Explicit(2)]


@sequence
class PasswordRecipientInfo:
    version: int
    key_derivation_algorithm: Annotated[AlgorithmIdentifier | None, Implicit(0)]
    key_encryption_algorithm: AlgorithmIdentifier
    encrypted_key: bytes


@sequence
class OtherRecipientInfo:
    ori_type: x509.ObjectIdentifier
    ori_value: TLV


@sequence
class KEMRecipientInfo:
    version: int
    rid: TLV
    kem: AlgorithmIdentifier
    kemct: bytes
    kdf: AlgorithmIdentifier
    kek_length: int
    ukm: Annotated[bytes | None, Explicit(0)]
    wrap: AlgorithmIdentifier
    encrypted_key: bytes


@sequence
class CMSORIforKEMOtherInfo:
    """RFC 9629 5: what goes into the key derivation beside the shared secret."""

    wrap: TLV
    kek_length: int
    ukm: Annotated[bytes | None, Explicit(0)]


@sequence
class AttributesBox:
    attributes: SetOf[Attribute]


SetOfAttributes = SetOf[Attribute]


@sequence
class EncapsulatedContentInfo:
    e_content_type: x509.ObjectIdentifier
    e_content: Annotated[bytes | None, Explicit(0)]


@sequence
class SignerInfo:
    """`sid` is IssuerAndSerialNumber or, tagged [0], a key identifier."""

    version: int
    sid: TLV
    digest_algorithm: AlgorithmIdentifier
    signed_attrs: Annotated[SetOf[Attribute] | None, Implicit(0)]
    signature_algorithm: TLV
    signature: bytes
    unsigned_attrs: Annotated[SetOf[Attribute] | None, Implicit(1)]


@sequence
class SignedData:
    version: int
    digest_algorithms: SetOf[AlgorithmIdentifier]
    encap_content_info: EncapsulatedContentInfo
    certificates: Annotated[SetOf[TLV] | None, Implicit(0)]
    crls: Annotated[SetOf[TLV] | None, Implicit(1)]
    signer_infos: SetOf[SignerInfo]


@sequence
class OneAsymmetricKey:
    version: int
    private_key_algorithm: TLV
    private_key: bytes
    attributes: Annotated[SetOf[Attribute] | None, Implicit(0)]
    public_key: Annotated[BitString | None, Implicit(1)]


@sequence
class AsymmetricKeyPackageBox:
    keys: Annotated[list[OneAsymmetricKey], some]
