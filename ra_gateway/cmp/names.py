"""Distinguished names: compared by meaning, kept byte for byte (RFC 5280 7.1, simplified as RFC 4518 allows).

Two CAs may encode one name as PrintableString and as UTF8String, or differ in case and blanks; a comparison
of octets alone would then break a chain that every other verifier accepts.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from cryptography import x509

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import MalformedMessage, TemplateRefused

NULL_DN: Final = b"\x30\x00"

_ENCODINGS: Final = {
    0x0C: "utf-8",
    0x12: "ascii",
    0x13: "ascii",
    0x14: "latin-1",
    0x16: "ascii",
    0x1E: "utf-16-be",
    0x1C: "utf-32-be",
}

_SHORT_NAMES: Final = {
    OID.commonName: "CN",
    OID.localityName: "L",
    OID.stateOrProvinceName: "ST",
    OID.organizationName: "O",
    OID.organizationalUnitName: "OU",
    OID.countryName: "C",
    OID.streetAddress: "STREET",
    OID.domainComponent: "DC",
    OID.userId: "UID",
}
"""Short names of RFC 4514 3; every other attribute is written with its dotted OID."""

MAX_NAME_OCTETS: Final = 4096
MAX_ATTRIBUTES: Final = 16
"""Names in the field have some 100 octets and six attributes; X.520 allows one attribute 64 characters or so."""

_REMEMBERED_OCTETS: Final = 256
_REMEMBERED_NAMES: Final = 256

CanonicalName = tuple[frozenset[tuple[str, str]], ...]


def _text(value: asn1.TLV) -> str:
    octets = asn1.content(value)
    encoding = _ENCODINGS.get(value.tag_bytes[0])
    if encoding is None:
        return "#" + asn1.raw(value).hex()
    try:
        return octets.decode(encoding)
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"name attribute: {error}", rule="R1") from error


def _rdns(name_der: bytes) -> list[list[structures.AttributeTypeAndValue]]:
    """Decode a Name, whose length and elements are judged first: comparing names is dear, and anybody sends them."""
    if len(name_der) > MAX_NAME_OCTETS:
        raise MalformedMessage(
            f"a Name of {len(name_der)} octets; at most {MAX_NAME_OCTETS} are read", rule="R1"
        )
    left = MAX_ATTRIBUTES
    for _, start, end in asn1.members(name_der, MAX_ATTRIBUTES, "Name"):
        left -= len(asn1.spans(name_der, start, end, left, "Name"))
    return [rdn.as_list() for rdn in asn1.decode(structures.NameBox, asn1.tlv(0x30, name_der)).rdns]


def attributes(name_der: bytes) -> list[tuple[str, str]]:
    """Return a Name's attributes in order as (dotted OID, text).

    Raises:
        MalformedMessage: Not a Name.
    """
    return [
        (attribute.type.dotted_string, _text(attribute.value))
        for rdn in _rdns(name_der)
        for attribute in rdn
    ]


@remembered(_REMEMBERED_NAMES, _REMEMBERED_OCTETS)
def canonical(name_der: bytes) -> CanonicalName:
    """Return a Name in a form that is equal for names that mean the same.

    Raises:
        MalformedMessage: Not a Name, or one that is longer than any that is met.
    """
    return tuple(
        frozenset(
            (attribute.type.dotted_string, " ".join(_text(attribute.value).casefold().split()))
            for attribute in rdn
        )
        for rdn in _rdns(name_der)
    )


def same_name(one_der: bytes, other_der: bytes) -> bool:
    """Tell whether two Names mean the same; octets equal is the usual case and the cheap one.

    Raises:
        MalformedMessage: One of them is not a Name.
    """
    return one_der == other_der or canonical(one_der) == canonical(other_der)


@remembered(_REMEMBERED_NAMES, _REMEMBERED_OCTETS)
def rfc4514(name_der: bytes) -> str:
    """Return a Name as an RFC 4514 string, for people and for patterns ("" for the NULL-DN).

    Raises:
        MalformedMessage: Not a Name.
    """
    # Not by x509.Name: it warns of every name that is longer than X.520 allows, and devices send such.
    rdns = _rdns(name_der)
    if not all(rdns):
        raise MalformedMessage("empty RelativeDistinguishedName", rule="R1")
    return ",".join("+".join(map(_rfc4514_attribute, rdn)) for rdn in reversed(rdns))


def _rfc4514_attribute(attribute: structures.AttributeTypeAndValue) -> str:
    dotted, text = attribute.type.dotted_string, _text(attribute.value)
    if attribute.value.tag_bytes[0] in _ENCODINGS:  # else it is hexadecimal, told by its bare "#"
        text = escape_rfc4514(text)
    return f"{_SHORT_NAMES.get(dotted, dotted)}={text}"


_NEEDS_ESCAPE: Final = re.compile(r'[,+"\\<>;\0]|^[ #]| $')


def escape_rfc4514(value: str) -> str:
    """Escape an attribute's value, so that "x,O=y" stays one value (RFC 4514 2.4)."""
    if _NEEDS_ESCAPE.search(value) is None:
        return value
    escaped = "".join("\\" + char if char in ',+"\\<>;' else char for char in value)
    escaped = escaped.replace("\0", "\\00")
    if escaped.startswith((" ", "#")):
        escaped = "\\" + escaped
    return escaped[:-1] + "\\ " if value.endswith(" ") and len(value) > 1 else escaped


def from_rfc4514(text: str) -> bytes:
    """Return the DER of a Name given as an RFC 4514 string.

    Raises:
        ValueError: Not such a string, or a value an attribute cannot have.
    """
    return x509.Name.from_rfc4514_string(text).public_bytes()


_BLANK: Final = "\u2423"
_EMPTY_VALUE: Final = re.compile(r"=(?=\s*(?:[,+]|$))")


def name_template(text: str) -> bytes:
    """Return the DER of a Name some of whose values are left empty, for somebody else to fill in (RFC 9483 4.3.3).

    Args:
        text: As of RFC 4514, like "CN=,O=Example".

    Raises:
        ValueError: It is not a Name.
    """
    filled = from_rfc4514(_EMPTY_VALUE.sub("=" + _BLANK, text))
    values = [(oid, "" if value == _BLANK else value) for oid, value in attributes(filled)]
    return asn1.tlv(
        0x30,
        *(
            asn1.tlv(0x31, asn1.tlv(0x30, asn1.oid_der(oid), asn1.tlv(0x0C, value.encode("utf-8"))))
            for oid, value in values
        ),
    )


_ATTRIBUTES: Final = re.compile(r"(?:[^\\,+]|\\.)*[,+]?", re.DOTALL)
"""One attribute of an RFC 4514 string and the separator behind it; an escaped separator is no separator."""


def fits(text: str, pattern: str) -> bool:
    """Tell whether a name fits a glob, attribute by attribute: no "*" admits an attribute more."""
    parts, patterns = _ATTRIBUTES.findall(text), _ATTRIBUTES.findall(pattern)
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


_BLANKS: Final = re.compile(r"(?:\\?\s)+")
_OUTER_BLANK: Final = re.compile(r"(?<==) | (?=[,+]|$)")


def fits_alike(text: str, pattern: str) -> bool:
    """Tell whether a name fits a glob as `fits` does, in whatever case and with whatever blanks either is written.

    For what must not hang on how a device spells a name that means the same to a CA. Nor does the order within an RDN
    count, which follows from the octets of its attributes.
    """
    return fits(_alike(text), _alike(pattern))


def _alike(text: str) -> str:
    folded = _OUTER_BLANK.sub("", _BLANKS.sub(" ", text.casefold()))
    if "+" not in folded:
        return folded
    rdns: list[list[str]] = [[]]
    for attribute, separator in _SEPARATED.findall(folded):
        rdns[-1].append(attribute)
        if separator == ",":
            rdns.append([])
    return ",".join("+".join(sorted(filter(None, rdn))) for rdn in rdns)


_SEPARATED: Final = re.compile(r"((?:[^\\,+]|\\.)*)([,+]?)", re.DOTALL)


def directory_name(name_der: bytes) -> bytes:
    """Return a Name as a GeneralName (directoryName [4] EXPLICIT)."""
    return asn1.tlv(0xA4, name_der)


def name_of(general_name_der: bytes) -> bytes | None:
    """Return the Name inside a GeneralName, or None if it is another kind of GeneralName."""
    if general_name_der[:1] != b"\xa4" or len(general_name_der) < 2:
        return None
    return asn1.inner(general_name_der)


_SAN_TAGS: Final = {"email": 0x81, "dns": 0x82, "uri": 0x86, "ip": 0x87}
_SAN_KINDS: Final = {tag: kind for kind, tag in _SAN_TAGS.items()}


def general_names(general_names_der: bytes) -> tuple[str, ...]:
    """Return GeneralNames as texts such as "dns:enb1.example.net" or "ip:192.0.2.1".

    Other kinds come as "dn:<RFC 4514>" or "other:<hex of the DER>".

    Raises:
        MalformedMessage: Not GeneralNames.
    """
    return tuple(
        _general_name_text(name)
        for name in asn1.unbox(structures.GeneralNamesBox, general_names_der).names
    )


def _general_name_text(name: asn1.TLV) -> str:
    kind = _SAN_KINDS.get(name.tag_bytes[0])
    octets = asn1.content(name)
    try:
        if kind == "ip":
            return f"ip:{ipaddress.ip_address(octets)}"
        if kind is not None:
            return f"{kind}:{octets.decode('ascii')}"
    except ValueError as error:
        raise MalformedMessage(f"GeneralName: {error}", rule="R1") from error
    if name.tag_bytes == b"\xa4":
        return f"dn:{rfc4514(octets)}"
    return f"other:{asn1.raw(name).hex()}"


def general_names_der(texts: Iterable[str]) -> bytes:
    """Return the DER of GeneralNames from texts of kind dns, ip, uri or email, as `general_names` gives them.

    Raises:
        ValueError: A text of another form.
    """
    return asn1.tlv(0x30, *map(_general_name_der, texts))


def _general_name_der(text: str) -> bytes:
    kind, separator, value = text.partition(":")
    tag = _SAN_TAGS.get(kind)
    if tag is None or not separator or not value:
        raise ValueError(f"{text!r} is not of the form dns:, ip:, uri: or email: and a value")
    return asn1.tlv(
        tag, ipaddress.ip_address(value).packed if kind == "ip" else value.encode("ascii")
    )


# --- what may be certified ------------------------------------------------------------------------------------

_CERTIFIED_CHARACTERS: Final = {
    OID.commonName: 64,
    OID.serialNumber: 64,
    OID.countryName: 2,
    OID.localityName: 128,
    OID.stateOrProvinceName: 128,
    OID.streetAddress: 128,
    OID.organizationName: 64,
    OID.organizationalUnitName: 64,
    OID.title: 64,
    OID.postalCode: 40,
    OID.pseudonym: 128,
    OID.domainComponent: 63,  # one label
}
"""Upper bounds of attributes, in characters (RFC 5280 A.1, X.520 Annex C)."""

_MOST_CHARACTERS: Final = 256
"""Of every other attribute: that of uid (RFC 4524 2.22), and more than emailAddress may have."""

_MOST_NAMES: Final = 64
"""Attributes of a subject, and names in a SubjectAltName; a base station has a handful."""

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode that no name needs: control, format, surrogate, private, unassigned, separators of lines."""

_BLANK_LETTERS: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFFC),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
"""Characters that count as letters, marks or symbols and that nobody sees: joiners, fillers, variation selectors."""

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_MAILBOX: Final = re.compile(rf"[!#-'*+\-./0-9=?A-Z^-~]{{1,64}}@{_LABEL}(?:\.{_LABEL})*")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-\[\]_a-z~]+")
_MOST_URI_OCTETS: Final = 1024
_MOST_OTHER_OCTETS: Final = 256
"""Of names of other kinds: otherName, registeredID and their like."""


def require_certifiable(subject_der: bytes, subject_alt_name_der: bytes | None) -> None:
    """Refuse names that mean something else to whoever reads them than to whoever compares them, or fit no bound.

    Args:
        subject_der: Encoded Name; the NULL-DN passes.
        subject_alt_name_der: Encoded GeneralNames, None for none.

    Raises:
        TemplateRefused: The text says which attribute, or which kind of name, and what is wrong (badCertTemplate).
        MalformedMessage: Not a Name, or not GeneralNames.
    """
    rdns = asn1.unbox(structures.NameBox, subject_der).rdns
    found = [attribute for rdn in rdns for attribute in rdn.as_list()]
    if len(found) > _MOST_NAMES or not all(rdn.as_list() for rdn in rdns):
        raise _uncertifiable("the subject", f"has {len(found)} attributes, or an empty one")
    for attribute in found:
        _require_attribute(attribute)
    if sum(map(len, canonical(subject_der))) != len(found):
        # A SET has nothing twice (X.501 9.3), and whoever compares by meaning sees the shorter name.
        raise _uncertifiable("the subject", "has an attribute twice in one RDN")
    if subject_alt_name_der is None:
        return
    names = asn1.unbox(structures.GeneralNamesBox, subject_alt_name_der).names
    if not 1 <= len(names) <= _MOST_NAMES:
        raise _uncertifiable("subjectAltName", f"has {len(names)} names")
    for name in names:
        _require_general_name(name)


def _uncertifiable(what: str, why: str) -> TemplateRefused:
    return TemplateRefused(
        f"{what} {why}",
        rule="RFC 5280 A.1",
        phrase=f"The certificate template is not acceptable: {what} cannot be certified.",
    )


def _require_attribute(attribute: structures.AttributeTypeAndValue) -> None:
    dotted = attribute.type.dotted_string
    what = f"attribute {_SHORT_NAMES.get(dotted, dotted)}"
    if attribute.value.tag_bytes[0] not in _ENCODINGS:
        raise _uncertifiable(what, "is no character string")
    most = _CERTIFIED_CHARACTERS.get(dotted, _MOST_CHARACTERS)
    text = _certifiable_text(what, attribute.value, most)
    if dotted == OID.countryName and not re.fullmatch("[A-Za-z]{2}", text):
        raise _uncertifiable(what, "is no country code of two letters")


def _certifiable_text(what: str, value: asn1.TLV, most: int) -> str:
    try:
        text = _text(value)
    except MalformedMessage as error:
        raise _uncertifiable(what, f"is not what its type says: {error.detail}") from error
    if len(text) > most:
        raise _uncertifiable(what, f"has {len(text)} characters; {most} are allowed")
    if not text.strip():
        raise _uncertifiable(what, "is empty")
    for character in "" if text.isascii() and text.isprintable() else text:
        if unicodedata.category(character) in _UNSEEN or character in _BLANK_LETTERS:
            raise _uncertifiable(what, f"has the character U+{ord(character):04X}")
    if not unicodedata.is_normalized("NFKC", text):
        # RFC 4518 2.3 compares such names as equal to their plain form; here they would be another's.
        raise _uncertifiable(what, "has letters in another form than NFKC, such as wide ones")
    return text


def _require_general_name(name: asn1.TLV) -> None:
    tag, octets = name.tag_bytes[0], asn1.content(name)
    kind = _SAN_KINDS.get(tag, "")
    what = f"subjectAltName {kind or f'with tag {tag:02x}'}"
    if name.tag_bytes == b"\xa4":
        if octets == NULL_DN:
            raise _uncertifiable("subjectAltName dn", "is empty")
        require_certifiable(octets, None)
    elif kind == "ip":
        if len(octets) not in (4, 16):
            raise _uncertifiable(what, f"has {len(octets)} octets; 4 or 16 are an address")
    elif kind:
        pattern = {"dns": _DNS_NAME, "email": _MAILBOX, "uri": _URI}[kind]
        if len(octets) > _MOST_URI_OCTETS or not pattern.fullmatch(octets.decode("latin-1")):
            raise _uncertifiable(what, "is not of the form that RFC 5280 4.2.1.6 gives it")
    elif not 1 <= len(octets) <= _MOST_OTHER_OCTETS:
        raise _uncertifiable(what, f"has {len(octets)} octets")
    elif name.tag_bytes == b"\xa0":
        # otherName: type-id and value [0]; what is text in it, such as a user principal name, is read as such.
        _, *values = asn1.unbox(structures.GeneralNamesBox, asn1.tlv(0x30, octets)).names
        for value in (asn1.element(asn1.content(item)) for item in values):
            if value.tag_bytes[0] in _ENCODINGS:
                _certifiable_text(what, value, _MOST_CHARACTERS)
