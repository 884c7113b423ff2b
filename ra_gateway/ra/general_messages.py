"""What the RA says to a genm itself, and what it asks the CA (RFC 9483 4.3).

Everything told here is public: whoever authenticates at the endpoint may know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from ra_gateway.cmp.asn1 import tlv
from ra_gateway.cmp.bodies import NO_QUESTION
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.genm import CRLQuestion, crl_question, unknown_crl
from ra_gateway.cmp.messages import InfoTypeAndValue
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.requests import AuthenticatedQuestion
from ra_gateway.errors import HeaderRefused
from ra_gateway.ra.settings import Informing

INFO_TYPES: Final[Mapping[str, str]] = {
    "ca_certs": OID.caCerts,
    "root_ca_cert": OID.rootCaCert,
    "cert_req_template": OID.certReqTemplate,
    "crl_status_list": OID.crlStatusList,
}
"""Questions of RFC 9483 4.3 that an endpoint can be configured for, and their infoTypes."""

ANSWER_TO: Final[Mapping[str, str]] = {
    OID.rootCaCert: OID.rootCaKeyUpdate,
    OID.crlStatusList: OID.crls,
}
"""The infoType of the answer, where it is not the question's own."""


@dataclass(frozen=True, slots=True)
class Information:
    """How an endpoint answers genm.

    Args:
        ways: infoType (dotted OID) to who answers.
        others: Who answers every other question; the RA cannot.
        ca_certificates: DER of the operator's CA certificates, without roots.
        root_update: RootCaKeyUpdateContent for whoever has `old_root_der`; b"" where no root follows.
        old_root_der: The root that is being replaced.
        template_der: CertReqTemplateContent; b"" where nothing is prescribed.
        crls: Knows the CRLs that are told here.
    """

    ways: Mapping[str, Informing] = field(default_factory=dict)
    others: Informing = Informing.forward
    ca_certificates: tuple[bytes, ...] = ()
    root_update: bytes = b""
    old_root_der: bytes = b""
    template_der: bytes = b""
    crls: PublishedCRLs | None = None


class PublishedCRLs(Protocol):
    """Finds CRLs among those that are configured; nothing is fetched for a question (R137)."""

    async def find(
        self, question: CRLQuestion, asker: Certificate
    ) -> tuple[datetime, bytes] | None:
        """Return thisUpdate (aware UTC) and DER of the CRL that is meant, None if it is not known here.

        Args:
            asker: Certificate of whoever asks; may say whose CRL is at a distribution point.
        """


def told_unasked(information: Information) -> list[InfoTypeAndValue]:
    """Return what the RA has to tell a genm that asks nothing (RFC 9810 5.3.19): what it knows itself."""
    known = (
        (OID.caCerts, OID.caCerts, tlv(0x30, *information.ca_certificates)),
        (OID.rootCaCert, OID.rootCaKeyUpdate, information.root_update),
        (OID.certReqTemplate, OID.certReqTemplate, information.template_der),
    )
    return [
        InfoTypeAndValue(told, value_der)
        for asked, told, value_der in known
        if information.ways.get(asked, information.others) is Informing.local
        and value_der not in (b"", NO_QUESTION)
    ]


async def answered_here(
    question: AuthenticatedQuestion, information: Information
) -> InfoTypeAndValue | None:
    """Return the RA's own answer to a question, None where the CA is to be asked.

    Raises:
        HeaderRefused: The endpoint does not answer this question.
    """
    asked = question.question.info_type
    way = information.ways.get(asked, information.others)
    if way is Informing.forward:
        return None
    if way is Informing.local:
        match asked:
            case OID.caCerts:
                told = information.ca_certificates
                return InfoTypeAndValue(asked, tlv(0x30, *told) if told else None)
            case OID.rootCaCert:
                # Without a value: no successor of that root is known (R134).
                named = question.question.value_der
                known = named is None or named == information.old_root_der
                update = information.root_update if known else b""
                return InfoTypeAndValue(OID.rootCaKeyUpdate, update or None)
            case OID.certReqTemplate:
                # Without a value: nothing is prescribed (RFC 9483 4.3.3).
                return InfoTypeAndValue(asked, information.template_der or None)
            case OID.crlStatusList if information.crls is not None:
                crls = crl_question(question.question.value_der)
                found = await information.crls.find(crls, question.authenticated.signer)
                if found is None:
                    raise unknown_crl(crls)
                newer = crls.wants(found[0])
                return InfoTypeAndValue(OID.crls, tlv(0x30, found[1]) if newer else None)
    raise HeaderRefused(f"genm asks for {asked}, which this endpoint does not answer", rule="R138")
