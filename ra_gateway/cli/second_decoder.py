"""A CMP message as pyasn1-modules reads it, which nobody here wrote: a fault of our own codec cannot hide itself.

Its CMP is that of RFC 4210 (2005). It is less strict about DER than ours, so that it can often show what ours refuses.
"""

from __future__ import annotations

import re
from typing import Any, Final

from pyasn1.codec.der.decoder import decode
from pyasn1.error import PyAsn1Error
from pyasn1_modules import rfc4210, rfc4211

from ra_gateway.cli.asn1_text import OID_NAMES, SECRETS
from ra_gateway.cmp import asn1
from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import printable

# What pyasn1 is known to raise on input that is not of the type it is told to expect.
_UNDECODABLE: Final = (
    PyAsn1Error,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
_SECRET: Final = re.compile(
    "|".join(
        [r"\b(encryptedCert|privateKey|keyPairHist|thisMessage|encryptedKey)="]
        + [rf"\b{re.escape(oid)}$" for oid, name in OID_NAMES.items() if name in SECRETS]
    ),
    re.MULTILINE,
)


def second_reading(body_type: BodyType | None, der: bytes) -> str | None:
    """Return a header (None) or body as pyasn1 prints it, one with a secret not at all; None where it cannot read it.

    Args:
        der: The header, or the body with its own tag.
    """
    spec: Any = rfc4210.PKIHeader()
    if body_type is not None:
        spec = rfc4210.PKIBody.componentType[int(body_type)].asn1Object
        if type(spec).__name__ == "CertReqMessages":  # RFC 2511's here, with a stub for GeneralName
            spec, der = rfc4211.CertReqMessages(), asn1.inner(der)
    try:
        value, rest = decode(der, asn1Spec=spec)
        text = value.prettyPrint()
    except _UNDECODABLE:  # it stumbles over what it has decoded itself, too
        return None
    if rest:
        return None
    if _SECRET.search(text):
        return "It has a secret, and is not shown."
    return "\n".join(printable(line) for line in text.splitlines() if line.strip())
