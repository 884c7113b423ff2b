"""Names and numbers of CMP, spelled as in the RFCs."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

from ra_gateway.cmp.oids import OID

CMP_CONTENT_TYPE: Final = "application/pkixcmp"


class BodyType(IntEnum):
    """The 27 choices of PKIBody; the value is the context tag (RFC 9810 5.1.2)."""

    ir = 0
    ip = 1
    cr = 2
    cp = 3
    p10cr = 4
    popdecc = 5
    popdecr = 6
    kur = 7
    kup = 8
    krr = 9
    krp = 10
    rr = 11
    rp = 12
    ccr = 13
    ccp = 14
    ckuann = 15
    cann = 16
    rann = 17
    crlann = 18
    pkiconf = 19
    nested = 20
    genm = 21
    genp = 22
    error = 23
    certConf = 24
    pollReq = 25
    pollRep = 26


class PKIStatus(IntEnum):
    """RFC 9810 5.2.3."""

    accepted = 0
    grantedWithMods = 1
    rejection = 2
    waiting = 3
    revocationWarning = 4
    revocationNotification = 5
    keyUpdateWarning = 6


ISSUED_STATUSES: Final = frozenset({PKIStatus.accepted, PKIStatus.grantedWithMods})

CERT_RESPONSE_TO: Final = {
    BodyType.ir: BodyType.ip,
    BodyType.cr: BodyType.cp,
    BodyType.kur: BodyType.kup,
    BodyType.p10cr: BodyType.cp,
}
"""The answer that belongs to each certificate request (RFC 9483 4.1)."""

RESPONSE_TO: Final = {
    **CERT_RESPONSE_TO,
    BodyType.rr: BodyType.rp,
    BodyType.genm: BodyType.genp,
}
"""The answer that belongs to each request that opens an operation (RFC 9483 4.1 to 4.3)."""

P10CR_CERT_REQ_ID: Final = -1
"""certReqId of a cp to a p10cr, which has none itself (RFC 9810 5.3.4)."""


def is_cert_req_id(found: int, expected: int, request: BodyType) -> bool:
    """Tell whether a certReqId is the one of a request.

    Args:
        expected: The request's; -1 where it has none.
        request: What is answered or confirmed. 0 and -1 are the same where it has no certReqId itself, as p10cr:
            RFC 9483 4.1.1 says 0 of every certConf, and implementations differ in the cp as well.
    """
    has_none = request not in _HAVE_CERT_REQ_ID
    return found == expected or (has_none and found == 0 and expected == P10CR_CERT_REQ_ID)


_HAVE_CERT_REQ_ID: Final = frozenset({BodyType.ir, BodyType.cr, BodyType.kur})


PRIVILEGED_PURPOSES: Final = frozenset(
    {
        OID.ocspSigning,
        OID.cmcCA,
        OID.cmcRA,
        OID.cmcArchive,
        OID.cmKGA,
        OID.anyExtendedKeyUsage,
    }
)
"""Extended key usages that let a key speak for the PKI, or for anything at all (RFC 9810 8.10).

No device has one of them, asks for one, or is sent one. timeStamping is not among them: a time stamp says nothing
about certificates, and an operator may give it in a profile of its own.
"""


class Possession(StrEnum):
    """Whether the requester is known to have the private key.

    `encr_cert`: it will prove so by decrypting the certificate, and certConf tells (RFC 4211 4.2).
    `key_generation`: there is no key yet; the CA makes it (RFC 9483 4.1.6).
    """

    proved = "proved"
    encr_cert = "encrCert"
    key_generation = "central key generation"


class MACKind(StrEnum):
    """Which password-based MAC is made; with SHA-256 throughout."""

    pbm = "pbm"  # PasswordBasedMac (RFC 4211 4.4)
    pbmac1 = "pbmac1"  # RFC 8018 7.1
