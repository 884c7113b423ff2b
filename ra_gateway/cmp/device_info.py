"""What an RA says of the device that it speaks for, beside its request: utf8Pairs (RFC 4211 7.1), in generalInfo.

The RA signs generalInfo, so that nobody else can have said it; what a device writes there itself is not passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ra_gateway.cmp import asn1
from ra_gateway.cmp.messages import InfoTypeAndValue
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage

LONGEST_TEXT: Final = 200
"""Characters of a vendor's name or of an identity that are passed on, and taken."""

_PAIR: Final = re.compile(r"([a-z_]+)\?((?:[^%?]|%25|%3f)*)%")


def device_info(vendor: str, identity: str) -> tuple[InfoTypeAndValue, ...]:
    """Return the item of generalInfo that says whose device it is, and what they call it; none without a vendor."""
    if not _is_text(vendor):
        return ()
    pairs = {"vendor": vendor} | ({"identity": identity} if _is_text(identity) else {})
    text = "".join(f"{name}?{_escaped(value)}%" for name, value in pairs.items())
    return (InfoTypeAndValue(OID.utf8Pairs, asn1.encode(text)),)


def device_of(items: Iterable[InfoTypeAndValue]) -> tuple[str, str]:
    """Return vendor and identity that an RA says, each "" where it says nothing that can be used."""
    der = next((item.value_der for item in items if item.info_type == OID.utf8Pairs), None)
    if der is None or len(der) > 16 * LONGEST_TEXT:
        return "", ""
    try:
        text = asn1.decode(str, der)
    except MalformedMessage:
        return "", ""
    said = {
        name: value.replace("%3f", "?").replace("%25", "%") for name, value in _PAIR.findall(text)
    }
    vendor, identity = (said.get(name, "") for name in ("vendor", "identity"))
    return (vendor, identity if _is_text(identity) else "") if _is_text(vendor) else ("", "")


def _is_text(text: str) -> bool:
    return 0 < len(text) <= LONGEST_TEXT and text.isprintable()


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("?", "%3f")
