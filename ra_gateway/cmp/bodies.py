"""Bodies of messages: answers, confirmations, revocations, general messages, errors, nested ones (RFC 9810 5.3).

Those with certificate requests are in `crmf`, polling is in `polling`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.codes import ISSUED_STATUSES, BodyType, PKIStatus
from ra_gateway.cmp.crmf import CertId, CertTemplate, Extension
from ra_gateway.cmp.messages import InfoTypeAndValue, body, require_few_elements
from ra_gateway.errors import HeaderRefused, MalformedMessage, PKIFailureInfo
from ra_gateway.values import Value

T = TypeVar("T")

MAX_NESTED: Final = 1000
"""Messages inside a nested; `read_nested` takes as many as it is told."""


# --- status ---------------------------------------------------------------------------------------------------


class PKIStatusInfo(Value, frozen=True):
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
            status = PKIStatus(asn1.int_of(info.status, "PKIStatus"))
        except ValueError as error:
            raise MalformedMessage(f"PKIStatus {info.status}", rule="R1") from error
        bits = asn1.set_bits(info.fail_info) if info.fail_info is not None else []
        return cls(
            status,
            tuple(asn1.list_of(info.status_string, "statusString")),
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


# --- answers --------------------------------------------------------------------------------------------------


class CertResponse(Value, frozen=True):
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


class CertRepMessage(Value, frozen=True):
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
        ca_pubs=tuple(asn1.raw(item) for item in asn1.list_of(message.ca_pubs, "caPubs")),
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
        private_key_der = asn1.raw_or_none(pair.private_key)
    return CertResponse(
        asn1.int_of(response.cert_req_id, "certReqId"),
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
        private_key=asn1.optional(asn1.element, response.private_key_der),
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


class CertStatus(Value, frozen=True):
    """One entry of certConf; `hash_alg` is the name of an explicit hash algorithm, "" if absent."""

    cert_hash: bytes
    cert_req_id: int
    status_info: PKIStatusInfo | None = None
    hash_alg: structures.AlgorithmIdentifier | None = None

    @property
    def takes_certificate(self) -> bool:
        """Whether the device accepts its certificate (RFC 9810 5.3.18: absent statusInfo means so)."""
        return self.status_info is None or self.status_info.issued


NO_STATUS: Final = asn1.tlv(0x30)
"""Content of a certConf that takes no certificate (RFC 9810 5.3.18)."""


def cert_confirm_content(content: bytes) -> tuple[CertStatus, ...]:
    """Decode the content of a certConf.

    Raises:
        MalformedMessage: It does not conform.
    """
    require_few_elements(content, "CertConfirmContent")
    return tuple(
        CertStatus(
            status.cert_hash,
            asn1.int_of(status.cert_req_id, "certReqId"),
            asn1.optional(PKIStatusInfo.of, status.status_info),
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
                        status_info=asn1.optional(PKIStatusInfo.build, status.status_info),
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
    require_few_elements(content, "RevReqContent")
    return tuple(
        RevDetails(
            CertTemplate.of(details.cert_details),
            tuple(
                Extension(item.extn_id.dotted_string, item.critical, item.extn_value)
                for item in asn1.list_of(details.crl_entry_details, "crlEntryDetails")
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
    asn1.list_of(message.crls, "crls")
    return RevRepContent(
        tuple(PKIStatusInfo.of(status) for status in message.status),
        tuple(
            CertId(asn1.raw(item.issuer), item.serial_number)
            for item in asn1.list_of(message.rev_certs, "revCerts")
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
        InfoTypeAndValue(item.info_type.dotted_string, asn1.raw_or_none(item.info_value))
        for item in asn1.unbox(structures.GenMsgContentBox, content).items
    )


NO_QUESTION: Final = asn1.tlv(0x30)
"""Content of a genm that leaves it to the server what to tell (RFC 9810 5.3.19)."""


def gen_msg_body(body_type: BodyType, items: Iterable[InfoTypeAndValue]) -> bytes:
    """Return the body of a genm or genp."""
    return body(
        body_type,
        asn1.boxed(
            structures.GenMsgContentBox(
                items=[
                    structures.InfoTypeAndValue(
                        info_type=asn1.oid(item.info_type),
                        info_value=asn1.optional(asn1.element, item.value_der),
                    )
                    for item in items
                ]
            )
        ),
    )


PKICONF_BODY: Final = body(BodyType.pkiconf, asn1.NULL_DER)


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
    require_few_elements(content, "ErrorMsgContent")
    message = asn1.decode(structures.ErrorMsgContent, content)
    return ErrorMsgContent(
        PKIStatusInfo.of(message.pki_status_info),
        asn1.optional(lambda code: asn1.int_of(code, "errorCode"), message.error_code),
        tuple(asn1.list_of(message.error_details, "errorDetails")),
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
