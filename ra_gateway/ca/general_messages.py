"""Answers to genm: CA certificates, a change of the root, CRLs (RFC 9483 4.3).

Everything here is public. A distribution point's name is looked up among our own and never fetched (R137).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.records import RootUpdate
from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import gen_msg_content
from ra_gateway.cmp.genm import CRLQuestion, crl_question, root_ca_key_update, unknown_crl
from ra_gateway.cmp.messages import InfoTypeAndValue
from ra_gateway.cmp.names import same_name
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import HeaderRefused


@dataclass(frozen=True, slots=True)
class Published:
    """What genm is answered with: public, for anyone who is authenticated.

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


async def answer_to(
    content: bytes, published: Published, ledger: Ledger, *, issuer_id: str, lenient: bool
) -> list[InfoTypeAndValue]:
    """Return what a genp says to a genm.

    Args:
        content: Of the genm's body.
        issuer_id: Key identifier of the active issuing CA.
        lenient: Whether one that asks nothing is told what there is (RFC 9810 5.3.19).

    Raises:
        HeaderRefused: Not exactly one question, or one that is not answered here (R138).
        MalformedMessage: It does not conform.
        StoreUnavailable: The ledger fails.
    """
    asked = gen_msg_content(content)
    if not asked and lenient:
        told = (
            _info(OID.caCerts, asn1.tlv(0x30, *published.ca_certificates)),
            _info(OID.rootCaKeyUpdate, _root_update(None, published)),
            _info(OID.currentCRL, await _current_crl(issuer_id, ledger)),
        )
        return [item for item in told if item.value_der is not None]
    if len(asked) != 1:
        raise HeaderRefused(f"{len(asked)} questions in genm, expected exactly one", rule="R138")
    (question,) = asked
    match question.info_type:
        case OID.caCerts:
            return [_info(OID.caCerts, asn1.tlv(0x30, *published.ca_certificates))]
        case OID.rootCaCert:
            return [_info(OID.rootCaKeyUpdate, _root_update(question.value_der, published))]
        case OID.crlStatusList:
            return [_info(OID.crls, await _newer_crl(question.value_der, published, ledger))]
        case OID.currentCRL:
            return [_info(OID.currentCRL, await _current_crl(issuer_id, ledger))]
        case OID.certReqTemplate:
            # No requirements beyond the profiles: an absent value says so (RFC 9483 4.3.3).
            return [_info(OID.certReqTemplate, b"")]
        case other:
            raise HeaderRefused(f"genm asks for {other}, which is not known here", rule="R138")


_EMPTY: Final = b"\x30\x00"


def _info(info_type: str, value_der: bytes) -> InfoTypeAndValue:
    return InfoTypeAndValue(info_type, value_der if value_der not in (b"", _EMPTY) else None)


def _root_update(asked_der: bytes | None, published: Published) -> bytes:
    update = published.root_update
    if update is None or asked_der not in (None, update.old_root):
        return b""  # no successor is known (R134)
    return root_ca_key_update(update.new_with_new, update.new_with_old, update.old_with_new)


async def _current_crl(issuer_id: str, ledger: Ledger) -> bytes:
    crl = await ledger.newest_crl(issuer_id, delta=False)
    return b"" if crl is None else crl.der


async def _newer_crl(asked_der: bytes | None, published: Published, ledger: Ledger) -> bytes:
    """Return CRLs ::= SEQUENCE OF CertificateList with the one that is newer than what the device has (R136)."""
    question = crl_question(asked_der)
    issuer_id = _issuer_of(question, published)
    if issuer_id is None:
        raise unknown_crl(question)
    crl = await ledger.newest_crl(issuer_id, delta=False)
    return asn1.tlv(0x30, crl.der) if crl is not None and question.wants(crl.this_update) else b""


def _issuer_of(question: CRLQuestion, published: Published) -> str | None:
    """Return the key identifier of the issuing CA whose CRL is meant, None if it is not one of ours."""
    for url in question.urls:
        if url in published.crl_urls:
            return published.crl_urls[url]
    for issuer_der in question.issuers:
        for own_der, issuer_id in published.crl_issuers.items():
            if same_name(issuer_der, own_der):
                return issuer_id
    return None
