"""The declared type of each body of CMP and of what OIDs announce, those too that only `show` reads."""

# No postponed annotations here: the codec reads them while each class is built.

from typing import Annotated, Any, Final

from ra_gateway.cmp import structures
from ra_gateway.cmp.asn1 import TLV, Explicit, GeneralizedTime, Null, sequence
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.structures import OptionalTLV


@sequence
class Challenge:
    owf: structures.AlgorithmIdentifier | None
    witness: bytes
    challenge: bytes


@sequence
class POPODecKeyChallContentBox:
    challenges: list[Challenge]


@sequence
class IntegersBox:
    numbers: list[int]


@sequence
class CertificatesBox:
    ca_certs: list[TLV]


@sequence
class CRLsBox:
    crls: list[TLV]


@sequence
class AlgorithmsBox:
    algorithms: list[structures.AlgorithmIdentifier]


@sequence
class KeyRecRepContent:
    status: structures.PKIStatusInfo
    new_sig_cert: Annotated[OptionalTLV, Explicit(0)]
    ca_certs: Annotated[list[TLV] | None, Explicit(1)]
    key_pair_hist: Annotated[list[structures.CertifiedKeyPair] | None, Explicit(2)]


@sequence
class CAKeyUpdAnnContent:
    old_with_new: TLV
    new_with_old: TLV
    new_with_new: TLV


@sequence
class RevAnnContent:
    status: int
    cert_id: structures.CertId
    will_be_revoked_at: GeneralizedTime
    bad_since_date: GeneralizedTime
    crl_details: list[structures.Extension] | None


BODIES: Final[dict[BodyType, Any]] = {
    **dict.fromkeys(
        (BodyType.ir, BodyType.cr, BodyType.kur, BodyType.krr, BodyType.ccr),
        structures.CertReqMessagesBox,
    ),
    **dict.fromkeys(
        (BodyType.ip, BodyType.cp, BodyType.kup, BodyType.ccp), structures.CertRepMessage
    ),
    BodyType.p10cr: structures.CertificationRequest,
    BodyType.popdecc: POPODecKeyChallContentBox,
    BodyType.popdecr: IntegersBox,
    BodyType.krp: KeyRecRepContent,
    BodyType.rr: structures.RevReqContentBox,
    BodyType.rp: structures.RevRepContent,
    BodyType.ckuann: CAKeyUpdAnnContent,
    BodyType.cann: TLV,
    BodyType.rann: RevAnnContent,
    BodyType.crlann: CRLsBox,
    BodyType.pkiconf: Null,
    BodyType.nested: structures.PKIMessagesBox,
    BodyType.genm: structures.GenMsgContentBox,
    BodyType.genp: structures.GenMsgContentBox,
    BodyType.error: structures.ErrorMsgContent,
    BodyType.certConf: structures.CertConfirmContentBox,
    BodyType.pollReq: structures.PollReqContentBox,
    BodyType.pollRep: structures.PollRepContentBox,
}

VALUES: Final[dict[str, Any]] = {
    "altCertTemplate": structures.CertTemplate,
    "caCerts": CertificatesBox,
    "certProfile": structures.UTF8StringsBox,
    "certReq": structures.CertRequest,
    "certReqTemplate": structures.CertReqTemplateContent,
    "cert_req": structures.CertRequest,
    "certification_request_info": structures.CertificationRequestInfo,
    "confirmWaitTime": GeneralizedTime,
    "crlStatusList": structures.CRLStatusListBox,
    "encKeyPairTypes": AlgorithmsBox,
    "extensionRequest": structures.ExtensionsBox,
    "oldCertID": structures.CertId,
    "rootCaKeyUpdate": structures.RootCaKeyUpdateContent,
    "rsaKeyLen": int,
    "signKeyPairTypes": AlgorithmsBox,
    "suppLangTags": structures.UTF8StringsBox,
    "unsupportedOIDs": structures.OIDsBox,
}
"""By the name of the OID, or of the member, whose value an element of undeclared type is."""
