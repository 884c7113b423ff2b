"""Certificates that are BER and not DER, in the DER that they mean: factories made such, and nobody issues them again.

Only for reading: what is signed, compared and kept are the octets that came. What is mended is what `openssl` reads
and X.690 10 and 11 forbid, by the shape of the elements alone: lengths that are longer than need be, BOOLEAN TRUE other
than FF, a DEFAULT FALSE that is written out, unused bits that are not zero, and times in another form than down to the
second in UTC; and NULL where ECDSA has no parameters. Indefinite lengths and strings in pieces are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.cmp import asn1
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage

MAX_BER_ELEMENTS: Final = 320
"""Of one certificate, those inside extensions included; vendors' have some 150. So many take half a millisecond."""

_MAX_ODD_TIMES: Final = 4
_LONGEST_TIME: Final = 30
_MAX_DEPTH: Final = 16
_CONSTRUCTED: Final = 0x20
_BOOLEAN, _BIT_STRING, _OCTET_STRING, _OBJECT_IDENTIFIER, _SEQUENCE = 0x01, 0x03, 0x04, 0x06, 0x30
_TIMES: Final = (0x17, 0x18)
_FALSE: Final = b"\x01\x01\x00"

_READ_EXTENSIONS: Final = frozenset(
    asn1.oid_der(oid)
    for oid in (
        OID.basicConstraints,
        OID.keyUsage,
        OID.extKeyUsage,
        OID.subjectAltName,
        OID.subjectKeyIdentifier,
        OID.authorityKeyIdentifier,
        OID.nameConstraints,
        OID.certificatePolicies,
        OID.cRLDistributionPoints,
        OID.authorityInfoAccess,
    )
)
"""Extensions whose values are read here; other values stay as they are."""

ECDSA_WITH_NULL: Final = frozenset(
    asn1.algorithm_der(oid, asn1.NULL_DER)
    for oid in (
        OID.ecdsaWithSHA1,
        OID.ecdsaWithSHA256,
        OID.ecdsaWithSHA384,
        OID.ecdsaWithSHA512,
    )
)
"""AlgorithmIdentifiers that are DER, and say what ECDSA must not."""

_BASIC_CONSTRAINTS: Final = asn1.oid_der(OID.basicConstraints)

_TIME: Final = {
    year: re.compile(
        rb"(\d{%d})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:[.,]\d{1,9})?(?:Z|([+-])(\d\d)(\d\d))" % year
    )
    for year in (2, 4)
}

LENGTH: Final = "a length is longer than need be (X.690 10.1)"
BOOLEAN: Final = "a BOOLEAN is TRUE by another octet than FF (X.690 11.1)"
UNUSED_BITS: Final = "unused bits are not zero (X.690 11.2)"
PARAMETERS: Final = "ECDSA has NULL for its parameters (RFC 5758 3.2)"
DEFAULT: Final = "a DEFAULT value is written out (X.690 11.5)"
TIME: Final = "a time is not written to the second in UTC (X.690 11.7, 11.8)"


@dataclass(slots=True)
class _Reader:
    """Reads one certificate.

    Args:
        left: Elements that may still be read.
        odd_times_left: Times in another form than DER's likewise; a certificate has two.
        faults: What was mended, in the order it was met.
    """

    der: bytes
    left: int = MAX_BER_ELEMENTS
    odd_times_left: int = _MAX_ODD_TIMES
    faults: dict[str, None] = field(default_factory=dict)

    def elements(self, start: int, end: int, depth: int) -> list[bytes]:
        """Return the elements between two offsets, in DER."""
        if depth > _MAX_DEPTH:
            raise MalformedMessage("a certificate that is nested too deep", rule="R1")
        found = []
        while start < end:
            self.left -= 1
            if self.left < 0:
                raise MalformedMessage(
                    f"a certificate of more than {MAX_BER_ELEMENTS} elements", rule="R1"
                )
            tag, content, start = self._head(start, end)
            if not tag & _CONSTRUCTED:
                found.append(asn1.tlv(tag, self._primitive(tag, self.der[content:start])))
                continue
            inside = self.elements(content, start, depth + 1)
            if tag == _SEQUENCE:
                inside = self._extension(inside, depth)
            found.append(asn1.tlv(tag, *inside))
        return found

    def _head(self, start: int, end: int) -> tuple[int, int, int]:
        """Return the tag of an element, where its content starts, and where it ends."""
        head = self.der[start : start + 2]
        if len(head) < 2 or head[0] & 0x1F == 0x1F:
            raise _broken()
        tag, length, content = head[0], head[1], start + 2
        if length == 0x80:
            raise MalformedMessage("a certificate with indefinite lengths", rule="R1")
        if length > 0x80:
            size = length & 0x7F
            octets = self.der[content : content + size]
            length, content = int.from_bytes(octets, "big"), content + size
            if length < 0x80 or octets[:1] == b"\x00":
                self.faults[LENGTH] = None
        if content + length > end:
            raise _broken()
        return tag, content, content + length

    def _primitive(self, tag: int, content: bytes) -> bytes:
        if tag == _BOOLEAN and len(content) == 1 and content not in (b"\x00", b"\xff"):
            self.faults[BOOLEAN] = None
            return b"\xff"
        if tag == _BIT_STRING and len(content) > 1 and content[0] < 8:
            last = content[-1] & 0xFF << content[0] & 0xFF
            if last != content[-1]:
                self.faults[UNUSED_BITS] = None
                return content[:-1] + bytes((last,))
        return self._time(tag, content) if tag in _TIMES else content

    def _time(self, tag: int, content: bytes) -> bytes:
        year = 2 if tag == _TIMES[0] else 4
        if len(content) == year + 11 and content[-1:] == b"Z":
            return content
        self.odd_times_left -= 1
        found = _TIME[year].fullmatch(content) if len(content) <= _LONGEST_TIME else None
        if found is None or self.odd_times_left < 0:
            raise MalformedMessage("a certificate with a time that is none", rule="R1")
        century = b"" if year == 4 else b"20" if found[1] < b"50" else b"19"
        try:
            digits = b"".join((century, *found.group(1, 2, 3, 4, 5), found[6] or b"00"))
            moment = datetime.strptime(digits.decode(), "%Y%m%d%H%M%S")  # noqa: DTZ007 - its offset follows
            if found[7]:
                ahead = timedelta(hours=int(found[8]), minutes=int(found[9]))
                moment = moment - ahead if found[7] == b"+" else moment + ahead
        except (ValueError, OverflowError):
            raise MalformedMessage("a certificate with a time that is none", rule="R1") from None
        self.faults[TIME] = None
        return f"{moment:%Y%m%d%H%M%S}Z".encode()[4 - year :]

    def _extension(self, inside: list[bytes], depth: int) -> list[bytes]:
        """Return the elements of a SEQUENCE; of an Extension with the DER of its value, and no critical FALSE."""
        if len(inside) == 2 and asn1.tlv(_SEQUENCE, *inside) in ECDSA_WITH_NULL:
            self.faults[PARAMETERS] = None
            return inside[:1]
        if len(inside) not in (2, 3) or inside[0][0] != _OBJECT_IDENTIFIER:
            return inside
        if inside[-1][0] != _OCTET_STRING:
            return inside
        if inside[1] == _FALSE:
            self.faults[DEFAULT] = None
            inside = [inside[0], inside[-1]]
        if inside[0] in _READ_EXTENSIONS:
            value = _Reader(asn1.inner(inside[-1]), self.left, self.odd_times_left, self.faults)
            found = value.elements(0, len(value.der), depth + 1)
            self.left, self.odd_times_left = value.left, value.odd_times_left
            if inside[0] == _BASIC_CONSTRAINTS:
                found = [self._constraints(item) for item in found]
            inside[-1] = asn1.tlv(_OCTET_STRING, *found)
        return inside

    def _constraints(self, item: bytes) -> bytes:
        content = asn1.inner(item)
        if item[0] != _SEQUENCE or not content.startswith(_FALSE):
            return item
        self.faults[DEFAULT] = None
        return asn1.tlv(_SEQUENCE, content[len(_FALSE) :])


def _broken() -> MalformedMessage:
    return MalformedMessage("a certificate whose elements do not fit", rule="R1")


def as_der(ber: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the DER that one BER element means, and what is not DER about it; nothing where it is.

    Raises:
        MalformedMessage: It cannot be read, or has more elements than any certificate.
    """
    reader = _Reader(ber)
    found = reader.elements(0, len(ber), 0)
    if len(found) != 1:
        raise _broken()
    return found[0], tuple(reader.faults)
