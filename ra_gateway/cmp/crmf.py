"""Certificate requests: CRMF (RFC 4211), and PKCS#10 read as the CRMF request that says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.codes import P10CR_CERT_REQ_ID, BodyType
from ra_gateway.cmp.messages import PKIMessage, require_few_elements
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage, TemplateRefused
from ra_gateway.values import Value


def doubled(items: Iterable[str]) -> frozenset[str]:
    """Return what is among items more than once."""
    return frozenset(item for item, count in Counter(items).items() if count > 1)


class Extension(Value, frozen=True):
    """A requested or issued extension; `value` is the content of extnValue."""

    oid: str
    critical: bool
    value: bytes


class CertTemplate(Value, frozen=True):
    """What a request says about the certificate it wants (RFC 4211 5); None where absent.

    Args:
        reserved: Names of fields present that a requester must leave to the CA.
        empty_validity: Whether validity is there, with neither of its times.
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
    empty_validity: bool = False

    @classmethod
    def of(cls, template: structures.CertTemplate) -> CertTemplate:
        """Read the decoded form.

        Raises:
            MalformedMessage: A number nobody would write, or an element that says nothing.
        """
        validity = template.validity
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
            version=asn1.optional(lambda number: asn1.int_of(number, "version"), template.version),
            serial_number=asn1.optional(
                lambda number: asn1.int_of(number, "serialNumber"), template.serial_number
            ),
            issuer_der=asn1.raw_or_none(template.issuer),
            subject_der=asn1.raw_or_none(template.subject),
            spki_der=asn1.optional(asn1.encode, template.public_key),
            not_before=_optional_time(validity.not_before) if validity else None,
            not_after=_optional_time(validity.not_after) if validity else None,
            extensions=tuple(
                Extension(item.extn_id.dotted_string, item.critical, item.extn_value)
                for item in asn1.list_of(template.extensions, "extensions")
            ),
            reserved=tuple(reserved),
            empty_validity=validity is not None
            and validity.not_before is None
            and validity.not_after is None,
        )

    def build(self) -> structures.CertTemplate:
        """Return the form to be encoded; signingAlg and the UIDs are never written."""
        validity = None
        if self.not_before is not None or self.not_after is not None:
            validity = structures.OptionalValidity(
                not_before=asn1.optional(asn1.time, self.not_before),
                not_after=asn1.optional(asn1.time, self.not_after),
            )
        return structures.CertTemplate(
            version=self.version,
            serial_number=self.serial_number,
            signing_alg=None,
            issuer=asn1.optional(asn1.element, self.issuer_der),
            validity=validity,
            subject=asn1.optional(asn1.element, self.subject_der),
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

    @property
    def subject_alt_name_der(self) -> bytes | None:
        """Value of SubjectAltName, or None."""
        names = self.extension(OID.subjectAltName)
        return None if names is None else names.value


def _optional_time(value: asn1.UTCTime | asn1.GeneralizedTime | None) -> datetime | None:
    return None if value is None else asn1.time_of(value)


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


class SignaturePOP(Value, frozen=True):
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


class CertReqMsg(Value, frozen=True):
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
            TemplateRefused: The control holds something else.
        """
        for control in self.controls:
            if control.type == OID.oldCertID:
                try:
                    return cert_id(control.value_der)
                except MalformedMessage as error:
                    raise TemplateRefused(f"oldCertID: {error.detail}", rule=error.rule) from error
        return None


def cert_req_messages(content: bytes) -> tuple[CertReqMsg, ...]:
    """Decode the content of an ir, cr or kur.

    Raises:
        MalformedMessage: It does not conform.
    """
    require_few_elements(content, "CertReqMessages")
    return tuple(
        _cert_req_msg(message)
        for message in asn1.unbox(structures.CertReqMessagesBox, content).messages
    )


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
        cert_req_id=asn1.int_of(request.cert_req_id, "certReqId"),
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
        Control(item.type.dotted_string, asn1.raw(item.value)) for item in asn1.list_of(items, what)
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
    require_few_elements(content, "CertificationRequest")
    request = asn1.decode(structures.CertificationRequest, content)
    info_der = asn1.raw(request.certification_request_info)
    info = asn1.decode(structures.CertificationRequestInfo, info_der)
    if asn1.int_of(info.version, "version") != 0:
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
        return asn1.int_of(asn1.decode(int, asn1.tlv(tag, content[start:end])), "certReqId")
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


def with_control(cert_req_der: bytes, control: Control) -> bytes:
    """Return the DER of a CertRequest with one more control, and all else as it was."""
    cert_req_id, template, *rest = asn1.parts(cert_req_der, 3, "CertRequest", least=2, tag=0x30)
    added = asn1.encode(
        structures.AttributeTypeAndValue(
            type=asn1.oid(control.type), value=asn1.element(control.value_der)
        )
    )
    controls = asn1.tlv(0x30, *(asn1.inner(item) for item in rest), added)
    return asn1.tlv(0x30, cert_req_id, template, controls)


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
