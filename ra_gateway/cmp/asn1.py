"""DER: decoding and encoding of the classes in `structures`, and of single elements and times.

The only module that takes tags and lengths apart, and the only one that knows the ASN.1 library,
`cryptography.hazmat.asn1` (a DER codec in Rust that declares itself unstable; `selfcheck` tries it at each start).
Whatever must survive byte for byte (names, keys, algorithm identifiers, whatever is signed) is kept as a raw TLV:
`raw` gives back exactly the received octets, because DER has only one form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.asn1 import BitString as BitString
from cryptography.hazmat.asn1 import Default as Default
from cryptography.hazmat.asn1 import Explicit as Explicit
from cryptography.hazmat.asn1 import GeneralizedTime as GeneralizedTime
from cryptography.hazmat.asn1 import Implicit as Implicit
from cryptography.hazmat.asn1 import Null as Null
from cryptography.hazmat.asn1 import SetOf as SetOf
from cryptography.hazmat.asn1 import Size as Size
from cryptography.hazmat.asn1 import UTCTime as UTCTime
from cryptography.hazmat.asn1 import Variant as Variant
from cryptography.hazmat.asn1 import sequence as sequence

from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import MalformedMessage

T = TypeVar("T")
U = TypeVar("U")

MAX_ELEMENTS = 256
"""Elements of one SEQUENCE OF that are decoded, where nothing tighter is said. The longest that are met have dozens."""

_MAX_NAMED_BITS = 128
"""The longest list of named bits, PKIFailureInfo, has 27."""

_MAX_INTEGER_BITS = 512
"""Far beyond any serial number or certReqId."""

TLV = asn1.TLV


def decode(cls: type[T], der: bytes) -> T:
    """Decode one complete DER value.

    Raises:
        MalformedMessage: Not DER, not this type, or trailing octets.
    """
    try:
        return asn1.decode_der(cls, der)
    except (ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"not a {cls.__name__}: {_in_words(error)}", rule="R1") from error


_KIND = re.compile(r"kind: (\w+)")
_IN_WORDS = {
    "ExtraData": "there is more than belongs there",
    "InvalidLength": "a length in another form than DER's",
    "InvalidTag": "a tag that is none",
    "InvalidValue": "a value that its type does not have, or not in DER",
    "ShortData": "it breaks off",
    "UnexpectedTag": "a value of another type",
}


def _in_words(error: Exception) -> str:
    """Return what the library says as a person would; where in the value it is, it does not say."""
    kind = _KIND.search(str(error))
    return str(error) if kind is None else _IN_WORDS.get(kind[1], kind[1])


def unbox(box: type[T], der: bytes, most: int = MAX_ELEMENTS) -> T:
    """Decode a bare SEQUENCE OF by way of its ...Box class, its elements counted before one is decoded.

    Raises:
        MalformedMessage: As `decode`; or it has more than `most` elements.
    """
    if len(der) > 2 * most:  # no element is shorter than two octets
        for tag, start, end in spans(der, 0, len(der), 1, box.__name__):
            # An arm of a CHOICE may be primitive, and holds no elements then
            if tag & _CONSTRUCTED:
                spans(der, start, end, most, box.__name__)
    return decode(box, tlv(0x30, der))


INTEGER_TAG = 0x02
_SEQUENCE = 0x30
_CONSTRUCTED = 0x20

Span = tuple[int, int, int]
"""Of one element: its tag octet, where its content starts, where it ends."""


def spans(
    der: bytes, start: int, end: int, most: int, what: str, *, strict: bool = False
) -> list[Span]:
    """Find the elements between two offsets by their tags and lengths alone: nothing is decoded or copied.

    Args:
        most: A further element is an error, and none behind it is looked at.
        what: Whose they are, for the text.
        strict: Refuse lengths in another form than DER's (X.690 10.1), which a decoder that comes after would refuse.

    Raises:
        MalformedMessage: There are more, or they do not end where they should.
    """
    found: list[Span] = []
    left = most
    try:
        while start < end:
            if left == 0:
                raise MalformedMessage(f"more than {most} elements in {what}", rule="R1")
            tag, length, content = der[start], der[start + 1], start + 2
            if length >= 0x80:
                size = length & 0x7F
                length = int.from_bytes(der[content : content + size], "big")
                if strict and (length < 0x80 or not der[content]):
                    break
                content += size
            if tag & 0x1F == 0x1F:  # no element that is counted has a tag of several octets
                break
            start = content + length
            left -= 1
            found.append((tag, content, start))
    except IndexError:
        start = -1
    if start != end:
        raise MalformedMessage(f"not a {what}: its elements do not fit", rule="R1")
    return found


def members(der: bytes, most: int, what: str) -> list[Span]:
    """Find the elements inside a SEQUENCE, as `spans`.

    Raises:
        MalformedMessage: As `spans`, or it is not one SEQUENCE.
    """
    ((tag, start, end),) = spans(der, 0, len(der), 1, what) or ((0, 0, 0),)
    if tag != _SEQUENCE:
        raise MalformedMessage(f"not a {what}: no SEQUENCE", rule="R1")
    return spans(der, start, end, most, what)


def parts(
    der: bytes, most: int, what: str, *, least: int = 0, tag: int | None = None
) -> list[bytes]:
    """Return the elements inside one constructed element, without looking into them; all lengths are DER's.

    For what nobody has verified yet: it costs no more than `most` elements do, whatever was sent.

    Args:
        der: One whole element, with a tag of one octet.
        most: As of `spans`.
        least: Fewer are an error.
        tag: Of the element around them; None for any.

    Raises:
        MalformedMessage: As `spans`; or it has another tag, or too few elements.
    """
    ((outer, start, end),) = spans(der, 0, len(der), 1, what, strict=True) or ((None, 0, 0),)
    found = []
    for _, _, behind in spans(der, start, end, most, what, strict=True):
        found.append(der[start:behind])
        start = behind
    if outer is None or tag not in (None, outer) or len(found) < least:
        raise MalformedMessage(f"not a {what}: another tag, or too few elements", rule="R1")
    return found


def require_few(der: bytes, most: int, what: str) -> None:
    """Refuse octets of more than so many elements, those inside others included, before any of them is decoded.

    Raises:
        MalformedMessage: There are more, or they do not fit into one another.
    """
    waiting, left = [(0, len(der))], most
    rest = f"the rest of {what}, of which {most} are read"
    while waiting:
        found = spans(der, *waiting.pop(), left, rest)
        left -= len(found)
        waiting.extend((start, end) for tag, start, end in found if tag & _CONSTRUCTED)


def first_element(der: bytes, start: int) -> Span:
    """Find the element at an offset by its tag and length alone, whatever follows it; it may break off.

    Raises:
        MalformedMessage: The octets end before its content begins.
    """
    try:
        tag, length, content = der[start], der[start + 1], start + 2
    except IndexError as error:
        raise MalformedMessage("no element where one is expected", rule="R1") from error
    if length >= 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[content : content + size], "big")
        content += size
    return tag, content, content + length


def boxed(box: Any) -> bytes:
    """Return the DER of the bare SEQUENCE OF inside a ...Box."""
    return inner(asn1.encode_der(box))


def encode(value: Any) -> bytes:
    """Encode a value of one of the classes above, or an int, bytes, str, time or OID, as DER."""
    return asn1.encode_der(value)


def raw(element: Any) -> bytes:
    """Return the octets of a TLV exactly as they were received."""
    return asn1.encode_der(element)


def raw_or_none(element: TLV | Null | None) -> bytes | None:
    """Return the octets of an OPTIONAL TLV as `raw`, None where it is absent."""
    return None if element is None else raw(element)


def optional(convert: Callable[[T], U], value: T | None) -> U | None:
    """Return an OPTIONAL value converted, None where it is absent."""
    return None if value is None else convert(value)


def list_of(items: list[T] | None, what: str) -> list[T]:
    """Return the elements of an OPTIONAL list, none where it is absent.

    Raises:
        MalformedMessage: It is there and empty, or longer than `MAX_ELEMENTS`.
    """
    if items is None:
        return []
    if not items:
        raise MalformedMessage(f"empty {what}", rule="R1")
    if len(items) > MAX_ELEMENTS:
        raise MalformedMessage(f"more than {MAX_ELEMENTS} elements in {what}", rule="R1")
    return items


def int_of(number: int, what: str) -> int:
    """Return a number that texts may name: Python writes none of more than 4300 digits.

    Raises:
        MalformedMessage: It is longer than any that is met.
    """
    if number.bit_length() > _MAX_INTEGER_BITS:
        raise MalformedMessage(f"{what} of {number.bit_length()} bits", rule="R1")
    return number


def shown(number: int) -> str:
    """Return a number that somebody sent, for a text: its size, where it has more digits than are read."""
    return str(number) if number.bit_length() <= 64 else f"a number of {number.bit_length()} bits"


def element(der: bytes) -> asn1.TLV:
    """Return one complete DER element as a TLV, to be put into a structure unchanged.

    Raises:
        MalformedMessage: Not one DER element.
    """
    return decode(asn1.TLV, der)


known_element = remembered(entries=512, max_octets=256)(element)
"""`element`, remembering: for names and algorithm identifiers, which come back with every message."""


def content(tlv: asn1.TLV) -> bytes:
    """Return the content octets of a TLV, without tag and length."""
    return bytes(tlv.data)


def inner(der: bytes) -> bytes:
    """Return the content octets of an element whose tag and length were decoded before.

    Args:
        der: One element with a tag of one octet. If it is none, what comes back is none either, and fails
            to decode.
    """
    length = der[1]
    return der[2:] if length < 0x80 else der[2 + (length & 0x7F) :]


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return the DER of a tag octet around the parts' octets."""
    length = sum(map(len, parts))
    if length < 0x80:
        head = bytes((tag, length))
    else:
        size = (length.bit_length() + 7) // 8
        head = bytes((tag, 0x80 | size)) + length.to_bytes(size, "big")
    return b"".join((head, *parts))


@lru_cache(maxsize=256)
def oid(dotted: str) -> x509.ObjectIdentifier:
    """Return an OBJECT IDENTIFIER from its dotted form."""
    return x509.ObjectIdentifier(dotted)


def oid_der(dotted: str) -> bytes:
    """Return the DER of an OBJECT IDENTIFIER."""
    return asn1.encode_der(x509.ObjectIdentifier(dotted))


NULL_DER = b"\x05\x00"


def algorithm_der(dotted: str, *parameters: bytes) -> bytes:
    """Return the DER of an AlgorithmIdentifier."""
    return tlv(0x30, oid_der(dotted), *parameters)


def time_of(value: UTCTime | GeneralizedTime) -> datetime:
    """Return an ASN.1 time as aware UTC."""
    return value.as_datetime().replace(tzinfo=UTC)


def time(moment: datetime) -> UTCTime | GeneralizedTime:
    """Return a time as X.509 wants it: UTCTime until 2049, then GeneralizedTime (RFC 5280 4.1.2.5)."""
    moment = moment.replace(microsecond=0)
    return UTCTime(moment) if moment.year < 2050 else GeneralizedTime(moment)


def time_der(moment: datetime) -> bytes:
    """Return the DER of `time`, at a fifth of the cost: a CRL has 100,000 of them.

    Args:
        moment: Aware UTC, from 1950 on.
    """
    year = moment.year
    rest = (moment.month, moment.day, moment.hour, moment.minute, moment.second)
    if year < 2050:
        return b"\x17\x0d%02d%02d%02d%02d%02d%02dZ" % (year % 100, *rest)
    return b"\x18\x0f%04d%02d%02d%02d%02d%02dZ" % (year, *rest)


def generalized_time(moment: datetime) -> GeneralizedTime:
    """Return a time as GeneralizedTime to the second: CMP allows no fraction (RFC 9810 5.1.1)."""
    return GeneralizedTime(moment.replace(microsecond=0))


def bit_string(octets: bytes) -> BitString:
    """Return octets as a BIT STRING without unused bits."""
    return BitString(octets, 0)


def octets_of(bits: BitString, what: str) -> bytes:
    """Return the octets of a BIT STRING that must have no unused bits.

    Raises:
        MalformedMessage: There are unused bits.
    """
    if bits.padding_bits():
        raise MalformedMessage(f"{what} has unused bits", rule="R1")
    return bits.as_bytes()


def named_bits(numbers: list[int]) -> BitString:
    """Return a named-bit BIT STRING with these bits set and trailing zero bits stripped (X.690 11.2.2)."""
    if not numbers:
        return BitString(b"", 0)
    size = max(numbers) // 8 + 1
    octets = bytearray(size)
    for number in numbers:
        octets[number // 8] |= 0x80 >> (number % 8)
    return BitString(bytes(octets), 7 - max(numbers) % 8)


def set_of(items: list[T]) -> asn1.SetOf[T]:
    """Return values as a SET OF."""
    return asn1.SetOf(items)


def set_bits(bits: BitString) -> list[int]:
    """Return the numbers of the bits that are set in a list of named bits.

    Raises:
        MalformedMessage: It is longer than any list of named bits.
    """
    octets = bits.as_bytes()
    if len(octets) * 8 > _MAX_NAMED_BITS:
        raise MalformedMessage(f"{len(octets)} octets of named bits", rule="R1")
    return [i for i in range(len(octets) * 8) if octets[i // 8] & (0x80 >> (i % 8))]
