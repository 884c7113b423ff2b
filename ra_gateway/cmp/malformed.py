"""What does not parse, by the name of its field: for the log, and for the answer of the right kind (RFC 9483 3.6).

But for `check_values`, nothing here runs for a message that is in order: it takes apart once more what was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, TypeVar

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import CertTemplate, certification_request
from ra_gateway.cmp.header_checks import MAX_ID_OCTETS
from ra_gateway.cmp.messages import ANYONE, CMP2000, PKIHeader, PKIMessage, require_few_elements
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import (
    CMPError,
    MalformedMessage,
    PKIFailureInfo,
    POPRefused,
    RequestRefused,
    TemplateRefused,
)

T = TypeVar("T")

_SEQUENCE: Final = b"\x30\x00"
_MAX_FIELDS: Final = 16
_MAX_SENDER_OCTETS: Final = 1024

_MESSAGE_FIELDS: Final = {0: "protection", 1: "extraCerts"}
_HEADER_FIELDS: Final = dict(
    enumerate(
        (
            "messageTime",
            "protectionAlg",
            "senderKID",
            "recipKID",
            "transactionID",
            "senderNonce",
            "recipNonce",
            "freeText",
            "generalInfo",
        )
    )
)
_TEMPLATE_FIELDS: Final = dict(
    enumerate(
        (
            "version",
            "serialNumber",
            "signingAlg",
            "issuer",
            "validity",
            "subject",
            "publicKey",
            "issuerUID",
            "subjectUID",
            "extensions",
        )
    )
)
"""Fields of SEQUENCEs by the numbers of their tags, which stand in this order."""


# --- messages -------------------------------------------------------------------------------------------------


_GENERAL_NAME_TAGS: Final = frozenset(
    bytes((tag,)) for tag in (0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88)
)


def header_of(der: bytes) -> PKIHeader | None:
    """Return what an answer needs of the header of octets that are no PKIMessage: who sent them, and their IDs.

    Whatever else is wrong, in the header too, is passed over; lengths may be in another form than DER's.

    Returns:
        pvno, sender, transactionID and senderNonce as far as they can be read; None where neither of the IDs can.
    """
    try:
        outer, start, _ = asn1.first_element(der, 0)
        inner, start, end = asn1.first_element(der, start)
        if (outer, inner) != (0x30, 0x30):
            return None
        fields = asn1.spans(der, start, end, _MAX_FIELDS, "PKIHeader")
    except MalformedMessage:
        return None
    ids = {tag: _id(der, start, end) for tag, start, end in fields if tag in (0xA4, 0xA5)}
    if len(fields) < 3 or not any(ids.values()):
        return None
    (tag, start, end), (_, _, behind), *_ = fields
    pvno = int.from_bytes(der[start:end], "big") if (tag, end - start) == (0x02, 1) else CMP2000
    return PKIHeader(
        pvno=pvno,
        sender_der=_sender(der[end:behind]),
        recipient_der=ANYONE,
        transaction_id=ids.get(0xA4),
        sender_nonce=ids.get(0xA5),
    )


def _id(der: bytes, start: int, end: int) -> bytes | None:
    """Return the OCTET STRING inside the tag of an ID, None for anything else, and for what nobody would keep."""
    try:
        tag, start, behind = asn1.first_element(der, start)
    except MalformedMessage:
        return None
    usable = tag == 0x04 and behind == end and 1 <= end - start <= MAX_ID_OCTETS
    return der[start:end] if usable else None


def _sender(der: bytes) -> bytes:
    try:
        asn1.element(der)
    except MalformedMessage:
        return ANYONE
    is_general_name = der[:1] in _GENERAL_NAME_TAGS
    return der if is_general_name and len(der) <= _MAX_SENDER_OCTETS else ANYONE


def fault_of(der: bytes, error: MalformedMessage) -> MalformedMessage:
    """Return why octets are no PKIMessage, with the name of the field that does not parse.

    Args:
        error: What the decoder said.
    """
    try:
        header_der, _, *rest = asn1.parts(der, 4, "PKIMessage", least=2, tag=0x30)
        _check_header_fields(header_der)
        _check_fields(rest, _MESSAGE_FIELDS, _read_message_field)
    except MalformedMessage as found:
        return found
    return error


def _check_header_fields(header_der: bytes) -> None:
    pvno, _, _, *rest = asn1.parts(header_der, _MAX_FIELDS, "header", least=3, tag=0x30)
    _named("pvno", asn1.decode, int, pvno)
    _check_fields(
        rest,
        _HEADER_FIELDS,
        lambda field: PKIHeader.from_der(asn1.tlv(0x30, b"\x02\x01\x02", ANYONE, ANYONE, field)),
    )


def _read_message_field(field: bytes) -> None:
    if field[:1] == b"\xa1":
        asn1.parts(asn1.inner(field), asn1.MAX_ELEMENTS, "extraCerts", tag=0x30)
    message = asn1.decode(structures.PKIMessage, asn1.tlv(0x30, _SEQUENCE, _SEQUENCE, field))
    if message.protection is not None:
        asn1.octets_of(message.protection, "protection")
    asn1.list_of(message.extra_certs, "extraCerts")


# --- bodies ---------------------------------------------------------------------------------------------------


def refusal_of(message: PKIMessage, error: MalformedMessage) -> CMPError:
    """Return the refusal of an authenticated message whose body, or a value in it, does not parse.

    A request for a certificate and an rr are answered in their own kind: badPOP for the proof of possession,
    badCertTemplate for what is asked for, badDataFormat only where the request as such cannot be read.

    Args:
        error: What a reader of the body said.
    """
    if message.body_type is BodyType.p10cr:
        blame = _blame_pkcs10
    elif message.body_type in CERT_RESPONSE_TO:
        blame = _blame_crmf
    elif message.body_type is BodyType.rr:
        blame = _blame_revocation
    else:
        return error
    content = message.body_content
    try:
        require_few_elements(content, message.body_type.name)
        blame(content, error)
    except RequestRefused as refusal:
        return refusal
    except MalformedMessage as found:
        return _unreadable(found)


def _unreadable(error: MalformedMessage) -> RequestRefused:
    return RequestRefused(
        error.detail,
        fail_info=PKIFailureInfo.badDataFormat,
        rule=error.rule,
        phrase="The body of the request is not DER that conforms to CMP.",
    )


def _blame_crmf(content: bytes, error: MalformedMessage) -> NoReturn:
    requests = asn1.parts(content, asn1.MAX_ELEMENTS, "CertReqMessages", least=1, tag=0x30)
    request_der, *rest = asn1.parts(requests[0], 4, "CertReqMsg", least=1, tag=0x30)
    cert_req_id, template_der, *controls = asn1.parts(
        request_der, 3, "CertRequest", least=2, tag=0x30
    )
    asn1.int_of(_named("certReqId", asn1.decode, int, cert_req_id), "certReqId")
    if any(item[0] != 0x30 for item in controls):
        raise MalformedMessage("not a CertRequest: another element behind its template", rule="R1")
    template = _template(template_der, "certTemplate")
    for item in controls:
        _as_refused(TemplateRefused, "controls", _read_attributes, item)
    proofs = [item for item in rest if item[0] & 0xC0 == 0x80]
    for item in proofs:
        _as_refused(POPRefused, "popo", _read_proof, item)
    if len(proofs) > 1:
        raise POPRefused("popo twice", rule="R1")
    for item in rest[len(proofs) :]:
        _as_refused(TemplateRefused, "regInfo", _read_attributes, item)
    check_values(template)
    raise TemplateRefused(error.detail, rule=error.rule) from error


def _blame_pkcs10(content: bytes, error: MalformedMessage) -> NoReturn:
    info_der, algorithm_der, signature_der = asn1.parts(
        content, 3, "CertificationRequest", least=3, tag=0x30
    )
    what = "certificationRequestInfo"
    _as_refused(TemplateRefused, what, asn1.decode, structures.CertificationRequestInfo, info_der)
    _as_refused(
        POPRefused,
        "signatureAlgorithm",
        asn1.decode,
        structures.AlgorithmIdentifier,
        algorithm_der,
    )
    bits = _as_refused(POPRefused, "signature", asn1.decode, asn1.BitString, signature_der)
    _as_refused(POPRefused, "signature", asn1.octets_of, bits, "it")
    request = _as_refused(TemplateRefused, "extensionRequest", certification_request, content)
    check_values(request.template)
    raise TemplateRefused(error.detail, rule=error.rule) from error


def _blame_revocation(content: bytes, error: MalformedMessage) -> NoReturn:
    details = asn1.parts(content, asn1.MAX_ELEMENTS, "RevReqContent", least=1, tag=0x30)
    template_der, *_ = asn1.parts(details[0], 2, "RevDetails", least=1, tag=0x30)
    check_values(_template(template_der, "certDetails"))
    raise error


def _template(template_der: bytes, what: str) -> CertTemplate:
    """Read a template, whose fields are tried one by one where it does not parse.

    Raises:
        TemplateRefused: It does not.
    """

    def read(der: bytes) -> CertTemplate:
        return CertTemplate.of(asn1.decode(structures.CertTemplate, der))

    def checked() -> CertTemplate:
        fields = asn1.parts(template_der, _MAX_FIELDS, "CertTemplate", tag=0x30)
        _check_fields(fields, _TEMPLATE_FIELDS, lambda field: read(asn1.tlv(0x30, field)))
        return read(template_der)

    return _as_refused(TemplateRefused, what, checked)


def _read_attributes(der: bytes) -> None:
    """Read controls or regInfo, which have the same form."""
    asn1.unbox(structures.ControlsBox, der)


def _read_proof(der: bytes) -> None:
    proof = asn1.decode(structures.CertReqMsg, asn1.tlv(0x30, _SEQUENCE, der)).popo
    if proof is not None and isinstance(proof.value, structures.POPOSigningKey):
        asn1.decode(structures.AlgorithmIdentifier, asn1.raw(proof.value.algorithm_identifier))
        asn1.octets_of(proof.value.signature, "signature")


# --- values ---------------------------------------------------------------------------------------------------


def check_values(template: CertTemplate) -> None:
    """Refuse a template in which the issuer or an extension has another form than its type.

    What decides is read where it does: names by `x520`, powers and usages by `requested_extensions`.

    Raises:
        TemplateRefused: The text names it.
    """
    if template.issuer_der is not None:
        _as_refused(TemplateRefused, "issuer", _read_name, template.issuer_der)
    for item in template.extensions:
        if item.oid in _READ_ELSEWHERE:
            continue
        name, read = _EXTENSIONS.get(item.oid, ("", asn1.element))
        _as_refused(TemplateRefused, name or f"extension {item.oid}", read, item.value)


def _read_name(der: bytes) -> None:
    """Read a Name as far as its form: openssl copies the vendor's, whatever characters that has."""
    asn1.unbox(structures.NameBox, der)


def _read_list(der: bytes) -> None:
    asn1.parts(der, asn1.MAX_ELEMENTS, "SEQUENCE OF", least=1, tag=0x30)


_READ_ELSEWHERE: Final = frozenset(
    {OID.subjectAltName, OID.basicConstraints, OID.keyUsage, OID.extKeyUsage}
)

_EXTENSIONS: Final[Mapping[str, tuple[str, Callable[[bytes], Any]]]] = {
    OID.subjectKeyIdentifier: ("subjectKeyIdentifier", lambda der: asn1.decode(bytes, der)),
    OID.authorityKeyIdentifier: (
        "authorityKeyIdentifier",
        lambda der: asn1.decode(structures.AuthorityKeyIdentifier, der),
    ),
    OID.certificatePolicies: ("certificatePolicies", _read_list),
    OID.cRLDistributionPoints: ("cRLDistributionPoints", _read_list),
    OID.freshestCRL: ("freshestCRL", _read_list),
    OID.authorityInfoAccess: ("authorityInfoAccess", _read_list),
    OID.nfTypes: ("nfTypes", _read_list),
}
"""What reads an extension's value. Of every other one it is known that it is one DER element (RFC 5280 4.2)."""


# --- whose fault it is ----------------------------------------------------------------------------------------


def _named(name: str, read: Callable[..., T], *args: Any) -> T:
    """Return what a reader returns; what it refuses has the name of the field in front."""
    try:
        return read(*args)
    except MalformedMessage as error:
        raise MalformedMessage(f"{name}: {error.detail}", rule=error.rule) from error


def _as_refused(refusal: type[RequestRefused], name: str, read: Callable[..., T], *args: Any) -> T:
    """Return what a reader returns; what does not parse is refused in the request's own kind.

    Raises:
        RequestRefused: Of the type given; the text names the field.
    """
    try:
        return read(*args)
    except MalformedMessage as error:
        raise refusal(f"{name}: {error.detail}", rule=error.rule) from error


def _check_fields(
    fields: Iterable[bytes], names: Mapping[int, str], read: Callable[[bytes], Any]
) -> None:
    """Read fields with context-specific tags one by one, each once and in order.

    Raises:
        MalformedMessage: The text names the first that is none, stands in another place, or does not parse.
    """
    last = -1
    for field in fields:
        number = field[0] & 0x1F
        if field[0] & 0xC0 != 0x80 or number not in names:
            raise MalformedMessage(f"a field [{number}], which there is not", rule="R1")
        if number <= last:
            raise MalformedMessage(
                f"{names[number]} twice, or behind a field that it comes before", rule="R1"
            )
        last = number
        _named(names[number], read, field)
