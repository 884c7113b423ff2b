"""Answers to genm: CA certificates, a change of the root, CRLs (RFC 9483 4.3).

Everything told here is public. A distribution point's name is looked up among our own and never fetched (R137).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ra_gateway.ca.ledger import Ledger
from ra_gateway.ca.records import RootUpdate
from ra_gateway.cmp import asn1
from ra_gateway.cmp.codes import OID
from ra_gateway.cmp.messages import InfoTypeAndValue, gen_msg_content
from ra_gateway.cmp.names import general_names, name_of, same_name
from ra_gateway.errors import HeaderRefused, MalformedMessage


@dataclass(frozen=True, slots=True)
class Published:
    """What the CA tells anyone whom it knows.

    Args:
        ca_certificates: DER of issuing CAs, without roots.
        root_update: None while the root is the first.
        crl_urls: Distribution point URL to issuing CA's key identifier (hex).
        crl_issuers: Issuing CA's subject (DER) to its key identifier; the active one for a name that several have.
    """

    ca_certificates: tuple[bytes, ...] = ()
    root_update: RootUpdate | None = None
    crl_urls: Mapping[str, str] = field(default_factory=dict)
    crl_issuers: Mapping[bytes, str] = field(default_factory=dict)


async def answer_to(content: bytes, published: Published, ledger: Ledger) -> list[InfoTypeAndValue]:
    """Return what a genp says to a genm.

    Args:
        content: Of the genm's body.

    Raises:
        HeaderRefused: Not exactly one question, or one that is not answered here (R138).
        MalformedMessage: It does not conform.
        StoreUnavailable: The ledger fails.
    """
    asked = gen_msg_content(content)
    if len(asked) != 1:
        raise HeaderRefused(f"{len(asked)} questions in genm, expected exactly one", rule="R138")
    (question,) = asked
    match question.info_type:
        case OID.caCerts:
            return [_told(OID.caCerts, asn1.tlv(0x30, *published.ca_certificates))]
        case OID.rootCaCert:
            return [_told(OID.rootCaKeyUpdate, _root_update(question.value_der, published))]
        case OID.crlStatusList:
            return [_told(OID.crls, await _newer_crl(question.value_der, published, ledger))]
        case OID.certReqTemplate:
            # No requirements beyond the profiles: an absent value says so (RFC 9483 4.3.3).
            return [_told(OID.certReqTemplate, b"")]
        case other:
            raise HeaderRefused(f"genm asks for {other}, which is not known here", rule="R138")


_EMPTY: Final = b"\x30\x00"


def _told(info_type: str, value_der: bytes) -> InfoTypeAndValue:
    return InfoTypeAndValue(info_type, value_der if value_der not in (b"", _EMPTY) else None)


def _root_update(asked_der: bytes | None, published: Published) -> bytes:
    update = published.root_update
    if update is None or asked_der not in (None, update.old_root):
        return b""  # no successor is known (R134)
    return asn1.encode(
        asn1.RootCaKeyUpdateContent(
            new_with_new=asn1.element(update.new_with_new),
            new_with_old=asn1.element(update.new_with_old),
            old_with_new=asn1.element(update.old_with_new),
        )
    )


async def _newer_crl(asked_der: bytes | None, published: Published, ledger: Ledger) -> bytes:
    """Return CRLs ::= SEQUENCE OF CertificateList with the one that is newer than what the device has (R136)."""
    if asked_der is None:
        raise MalformedMessage("crlStatusList without a value", rule="R136")
    statuses = asn1.unbox(asn1.CRLStatusListBox, asked_der).statuses
    if len(statuses) != 1:
        raise HeaderRefused(f"{len(statuses)} CRLStatus, expected exactly one", rule="R136")
    (status,) = statuses
    issuer_id = _issuer_of(status, published)
    crl = None if issuer_id is None else await ledger.newest_crl(issuer_id, delta=False)
    if crl is None:
        return b""
    has = None if status.this_update is None else asn1.time_of(status.this_update)
    return b"" if has is not None and has >= crl.this_update else asn1.tlv(0x30, crl.der)


def _issuer_of(status: asn1.CRLStatus, published: Published) -> str | None:
    """Return the key identifier of the issuing CA whose CRL is meant, None if it is not one of ours."""
    value = asn1.raw(status.source.value)
    if status.source.tag == "dpn":
        if value[:1] != b"\xa0":  # relative to an issuer's name: none of ours is
            return None
        for text in general_names(asn1.tlv(0x30, asn1.inner(value))):
            found = published.crl_urls.get(text.removeprefix("uri:"))
            if text.startswith("uri:") and found is not None:
                return found
        return None
    named = value if value[:1] == b"\x30" else asn1.tlv(0x30, value)
    for name in asn1.unbox(asn1.GeneralNamesBox, named).names:
        issuer_der = name_of(asn1.raw(name))
        for own_der, issuer_id in published.crl_issuers.items():
            if issuer_der is not None and same_name(issuer_der, own_der):
                return issuer_id
    return None
