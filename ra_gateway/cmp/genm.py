"""Values of genm and genp: CRL status, a change of the root, what a request should look like (RFC 9483 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.names import general_names, name_of
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import HeaderRefused, MalformedMessage

_KEY_ALGORITHMS: Final = {
    "p256": asn1.algorithm_der(OID.ecPublicKey, asn1.oid_der(OID.secp256r1)),
    "p384": asn1.algorithm_der(OID.ecPublicKey, asn1.oid_der(OID.secp384r1)),
    "p521": asn1.algorithm_der(OID.ecPublicKey, asn1.oid_der(OID.secp521r1)),
    "ed25519": asn1.algorithm_der(OID.ed25519),
    "ed448": asn1.algorithm_der(OID.ed448),
}

_RSA_KINDS: Final = {"rsa2048": 2048, "rsa3072": 3072, "rsa4096": 4096}

KEY_KINDS: Final = (*_KEY_ALGORITHMS, *_RSA_KINDS)
"""Kinds of keys that a certReqTemplate can ask for."""


@dataclass(frozen=True, slots=True)
class CRLQuestion:
    """Which CRL a crlStatusList is about.

    Args:
        urls: Of the distribution point, where it is named by one.
        issuers: Names of the CRL's issuer otherwise (DER).
        this_update: Of the CRL that the requester has, aware UTC; None where it has none.
    """

    urls: tuple[str, ...]
    issuers: tuple[bytes, ...]
    this_update: datetime | None

    def wants(self, this_update: datetime) -> bool:
        """Tell whether a CRL is newer than what the requester has (R136)."""
        return self.this_update is None or this_update > self.this_update


def crl_question(value_der: bytes | None) -> CRLQuestion:
    """Decode the value of a crlStatusList.

    Raises:
        HeaderRefused: Not exactly one CRLStatus (badRequest).
        MalformedMessage: It is absent, or does not conform.
    """
    if value_der is None:
        raise MalformedMessage("crlStatusList without a value", rule="R136")
    statuses = asn1.unbox(structures.CRLStatusListBox, value_der).statuses
    if len(statuses) != 1:
        raise HeaderRefused(f"{len(statuses)} CRLStatus, expected exactly one", rule="R136")
    (status,) = statuses
    this_update = None if status.this_update is None else asn1.time_of(status.this_update)
    value = asn1.raw(status.source.value)
    if status.source.tag != "dpn":
        named = value if value[:1] == b"\x30" else asn1.tlv(0x30, value)
        names = [
            name_of(asn1.raw(item)) for item in asn1.unbox(structures.GeneralNamesBox, named).names
        ]
        return CRLQuestion((), tuple(name for name in names if name is not None), this_update)
    if value[:1] != b"\xa0":  # relative to an issuer's name, which nobody here uses
        return CRLQuestion((), (), this_update)
    texts = general_names(asn1.tlv(0x30, asn1.inner(value)))
    urls = tuple(text.removeprefix("uri:") for text in texts if text.startswith("uri:"))
    return CRLQuestion(urls, (), this_update)


def unknown_crl(question: CRLQuestion) -> HeaderRefused:
    """Return the refusal of a question for a CRL that nobody here has: "no update" would be untrue (R136)."""
    asked = ", ".join(question.urls) or "the issuer named"
    return HeaderRefused(
        f"crlStatusList asks for the CRL of {asked}, which is not among those told here",
        rule="R137",
    )


def root_ca_key_update(
    new_with_new: bytes, new_with_old: bytes | None, old_with_new: bytes | None
) -> bytes:
    """Return the DER of a RootCaKeyUpdateContent.

    Args:
        new_with_new: The new root; the others are the cross-certificates, where there are such.
    """
    return asn1.encode(
        structures.RootCaKeyUpdateContent(
            new_with_new=asn1.element(new_with_new),
            new_with_old=None if new_with_old is None else asn1.element(new_with_old),
            old_with_new=None if old_with_new is None else asn1.element(old_with_new),
        )
    )


def cert_req_template(subject_der: bytes | None, key_kinds: Sequence[str]) -> bytes:
    """Return the DER of a CertReqTemplateContent: what requests should look like, without a key (R135).

    Args:
        subject_der: Encoded Name; an attribute with an empty value is for the device to fill in.
        key_kinds: Out of `KEY_KINDS`; the device chooses.
    """
    controls = [
        structures.AttributeTypeAndValue(
            type=asn1.oid(OID.algId), value=asn1.element(_KEY_ALGORITHMS[kind])
        )
        if kind in _KEY_ALGORITHMS
        else structures.AttributeTypeAndValue(
            type=asn1.oid(OID.rsaKeyLen), value=asn1.element(_integer(_RSA_KINDS[kind]))
        )
        for kind in key_kinds
    ]
    return asn1.encode(
        structures.CertReqTemplateContent(
            cert_template=CertTemplate(subject_der=subject_der).build(), key_spec=controls or None
        )
    )


def _integer(number: int) -> bytes:
    return asn1.tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))
