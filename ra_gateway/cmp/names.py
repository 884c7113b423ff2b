"""Distinguished names and GeneralNames: compared by meaning, kept byte for byte (RFC 5280 7).

Two CAs may encode one name as PrintableString and as UTF8String, or differ in case and blanks; a comparison
of octets alone would then break a chain that every other verifier accepts. What is equal here is nobody's right
to be certified under it: `x520` says which spellings are.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from cryptography import x509

from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.remembering import remembered
from ra_gateway.errors import MalformedMessage

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
"""Short names of RFC 4514 3; for patterns and stores, every other attribute is written with its dotted OID."""

_ATTRIBUTE_TYPES: Final = OID.commonName.rpartition(".")[0]  # id-at
_OTHER_ATTRIBUTES: Final = frozenset(
    {
        OID.emailAddress,
        OID.unstructuredName,
        OID.unstructuredAddress,
        OID.jurisdictionLocalityName,
        OID.jurisdictionStateOrProvinceName,
        OID.jurisdictionCountryName,
    }
)
_LONG_NAMES: Final = {
    dotted: name
    for name, dotted in vars(OID).items()
    if name[:1] != "_"
    and (dotted.rpartition(".")[0] == _ATTRIBUTE_TYPES or dotted in _OTHER_ATTRIBUTES)
}
"""Attributes by their dotted OIDs, as X.520 and those who registered the others call them."""

_READABLE: Final = _LONG_NAMES | _SHORT_NAMES

MAX_NAME_OCTETS: Final = 4096
MAX_ATTRIBUTES: Final = 16
"""Names in the field have some 100 octets and six attributes; X.520 allows one attribute 64 characters or so."""

_MOST_NORMALIZED: Final = 256
"""Characters of a text that are brought into a normal form: the time for it may grow with their square."""

_REMEMBERED_OCTETS: Final = 256
_REMEMBERED_NAMES: Final = 256

CanonicalName = tuple[frozenset[tuple[str, str]], ...]


def text_of(value: asn1.TLV) -> str:
    """Return an attribute's value: a character string as such, anything else as RFC 4514 2.4 writes it.

    Raises:
        MalformedMessage: Its octets are not of its type.
    """
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


def decoded(name_der: bytes) -> list[list[structures.AttributeTypeAndValue]]:
    """Return a Name's attributes, those of each RDN by themselves.

    Raises:
        MalformedMessage: Not a Name, or one that is longer than any that is met.
    """
    return _rdns(name_der)


def attributes(name_der: bytes) -> list[tuple[str, str]]:
    """Return a Name's attributes in order as (dotted OID, text).

    Raises:
        MalformedMessage: Not a Name.
    """
    return [
        (attribute.type.dotted_string, text_of(attribute.value))
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
            (attribute.type.dotted_string, folded(text_of(attribute.value))) for attribute in rdn
        )
        for rdn in _rdns(name_der)
    )


def reads_alike(one_der: bytes, other_der: bytes) -> bool:
    """Tell whether two names read the same: what means the same may differ in case, or a letter folds into another.

    Raises:
        MalformedMessage: One of them is not a Name.
    """
    return one_der == other_der or attributes(one_der) == attributes(other_der)


def attribute_oids(name_der: bytes) -> set[str]:
    """Return the dotted OIDs of a Name's attributes.

    Raises:
        MalformedMessage: Not a Name.
    """
    return {oid for oid, _ in attributes(name_der)}


_DOTTED: Final = re.compile(r"(?:^|[,+])\s*([0-9]+(?:\.[0-9]+)+)=")


def oids_in(patterns: Iterable[str]) -> set[str]:
    """Return the attributes that patterns of RFC 4514 strings name by their OIDs."""
    return {oid for pattern in patterns for oid in _DOTTED.findall(pattern)}


def folded(text: str) -> str:
    """Return a text as RFC 4518 compares it: case folded, NFKC, blanks that mean nothing left out.

    Characters that nobody sees are not left out: a name with them stays another name, and none is certified.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    if len(text) > _MOST_NORMALIZED:
        return " ".join(text.casefold().split())
    # Again after folding, which takes some letters apart.
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(plain.split())


def same_name(one_der: bytes, other_der: bytes) -> bool:
    """Tell whether two Names mean the same; octets equal is the usual case and the cheap one.

    Raises:
        MalformedMessage: One of them is not a Name.
    """
    return one_der == other_der or canonical(one_der) == canonical(other_der)


@remembered(_REMEMBERED_NAMES, _REMEMBERED_OCTETS)
def rfc4514(name_der: bytes) -> str:
    """Return a Name as an RFC 4514 string, for patterns and stores ("" for the NULL-DN); for people, see `readable`.

    Raises:
        MalformedMessage: Not a Name.
    """
    return _text(name_der, _SHORT_NAMES)


@remembered(_REMEMBERED_NAMES, _REMEMBERED_OCTETS)
def readable(name_der: bytes) -> str:
    """Return a Name as people read it, which `from_rfc4514` takes, too ("" for the NULL-DN).

    Raises:
        MalformedMessage: Not a Name.
    """
    return _text(name_der, _READABLE)


def readable_text(text: str) -> str:
    """Return a text as of `rfc4514` or `general_names`, or a pattern of such, as people read it."""
    if "." not in text or "=" not in text:
        return text
    return "".join(_readable_attribute(part) + sign for part, sign in _SEPARATED.findall(text))


def _readable_attribute(text: str) -> str:
    kind, equals, value = text.partition("=")
    if equals:  # before the type there may be a blank, or the kind of a GeneralName
        kind = _DOTTED_AT_END.sub(lambda found: _READABLE.get(found[0], found[0]), kind)
    return kind + equals + value


_DOTTED_AT_END: Final = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+)+$")


def _text(name_der: bytes, called: Mapping[str, str]) -> str:
    # Not by x509.Name: it warns of every name that is longer than X.520 allows, and devices send such.
    rdns = _rdns(name_der)
    if not all(rdns):
        raise MalformedMessage("empty RelativeDistinguishedName", rule="R1")
    texts = ("+".join(_attribute_text(item, called) for item in rdn) for rdn in reversed(rdns))
    return ",".join(texts)


def _attribute_text(attribute: structures.AttributeTypeAndValue, called: Mapping[str, str]) -> str:
    text = text_of(attribute.value)
    if attribute.value.tag_bytes[0] in _ENCODINGS:  # else it is hexadecimal, told by its bare "#"
        text = escape_rfc4514(text)
    dotted = attribute.type.dotted_string
    return f"{called.get(dotted, dotted)}={text}"


def spellings(part: str) -> tuple[str, ...]:
    """Return a part of a name, or a pattern of one, as `rfc4514` and as `readable` write it."""
    plain = "".join(
        (_NAMED_AT_END.sub(_dotted, kind) if equals else kind) + equals + value + sign
        for text, sign in _SEPARATED.findall(part)
        for kind, equals, value in [text.partition("=")]
    )
    return tuple(dict.fromkeys((part, plain, readable_text(plain))))


_NAMED_AT_END: Final = re.compile(r"[A-Za-z]+$")


def _dotted(found: re.Match[str]) -> str:
    return _WRITTEN.get(found[0].casefold(), found[0])


def short_name(dotted: str) -> str:
    """Return an attribute's short name, such as "CN"; its OID if RFC 4514 3 has none for it."""
    return _SHORT_NAMES.get(dotted, dotted)


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


_WRITTEN: Final = {name.casefold(): short_name(dotted) for dotted, name in _LONG_NAMES.items()} | {
    **{name.casefold(): name for name in _SHORT_NAMES.values()},
    "userid": "UID",
    "domaincomponent": "DC",
    "email": short_name(OID.emailAddress),
    "e": short_name(OID.emailAddress),
}
"""Attributes by what people and other programs call them, whatever the case, and as `rfc4514` writes them."""

_SEPARATED: Final = re.compile(r"((?:[^\\,+]|\\.)*)([,+]?)", re.DOTALL)


def plain_rfc4514(text: str) -> str:
    """Return a name that somebody wrote, or a pattern of names, as `rfc4514` writes it.

    Attributes may be called by their long names ("serialNumber=12"), in any case, and blanks may stand around them, as
    openssl and directories print names. What is no such string stays as unfit as it is.
    """
    return "".join(_plain_attribute(part) + sign for part, sign in _SEPARATED.findall(text))


def _plain_attribute(text: str) -> str:
    kind, equals, value = text.partition("=")
    if not equals:
        return text.strip(" ")
    kind = kind.strip(" ")
    value = value.lstrip(" ")
    kept = value.rstrip(" ")
    if kept != value and (len(kept) - len(kept.rstrip("\\"))) % 2:
        kept += " "  # which is escaped
    return f"{_WRITTEN.get(kind.casefold(), kind)}={kept}"


_DOTTED_OID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
_GLOB: Final = frozenset("*?[")


def unfit_attribute(plain: str) -> str:
    """Return why no name has one of the attributes of a text of `plain_rfc4514`, "" where all is well."""
    parts = [part for part, _ in _SEPARATED.findall(plain)][:-1]
    for part in (*parts, "") if plain.endswith((",", "+")) else parts:
        kind, equals, _ = part.partition("=")
        if not equals and not (_GLOB & set(part) and _may_begin_an_attribute(part)):
            return f"{part[:80]!r} is no attribute and value, like CN=enb1; in a value, , and + need a \\ before them"
        known = kind in _WRITTEN.values() or _DOTTED_OID.fullmatch(kind)
        if equals and not known and _GLOB.isdisjoint(kind):
            return f"no attribute is known as {kind[:80]!r}: write its OID, like 1.3.6.1.4.1.99999.1=..."
    return ""


def _may_begin_an_attribute(pattern: str) -> bool:
    """Tell whether what stands before the first wildcard begins the name of an attribute, or an OID."""
    begun = re.split(r"[*?\[]", pattern, maxsplit=1)[0].casefold()
    return bool(re.fullmatch(r"[0-9.]*", begun)) or any(
        name.casefold().startswith(begun) for name in _WRITTEN.values()
    )


def from_rfc4514(text: str) -> bytes:
    """Return the DER of a Name given as an RFC 4514 string, or as `plain_rfc4514` takes one.

    Raises:
        ValueError: Not such a string, or a value an attribute cannot have.
    """
    plain = plain_rfc4514(text)
    try:
        return x509.Name.from_rfc4514_string(plain).public_bytes()
    except ValueError as error:
        why = str(error) or unfit_attribute(plain)
        raise ValueError(why or "a value has a character that needs a \\ before it") from error


_BLANK: Final = "\x7f\x7f"
"""As long as a countryName, and in no name."""
_EMPTY_VALUE: Final = re.compile(r"=(?=\s*(?:[,+]|$))")


def name_template(text: str) -> bytes:
    """Return the DER of a Name some of whose values are left empty, for somebody else to fill in (RFC 9483 4.3.3).

    Args:
        text: As of RFC 4514, like "CN=,O=Example".

    Raises:
        ValueError: It is not a Name.
    """
    filled = _rdns(from_rfc4514(_EMPTY_VALUE.sub("=" + _BLANK, text)))
    return asn1.tlv(0x30, *(asn1.tlv(0x31, *sorted(map(_left_empty, rdn))) for rdn in filled))


def _left_empty(attribute: structures.AttributeTypeAndValue) -> bytes:
    tag = attribute.value.tag_bytes[0]
    octets = asn1.content(attribute.value)
    if octets == _BLANK.encode():
        octets = b""
    return asn1.tlv(0x30, asn1.oid_der(attribute.type.dotted_string), asn1.tlv(tag, octets))


_ATTRIBUTES: Final = re.compile(r"(?:[^\\,+]|\\.)*[,+]?", re.DOTALL)
"""One attribute of an RFC 4514 string and the separator behind it; an escaped separator is no separator."""


def fits(text: str, pattern: str) -> bool:
    """Tell whether a name fits a glob, attribute by attribute: no "*" admits an attribute more."""
    # An editor may have written either form of a letter.
    if not (text.isascii() and pattern.isascii()):
        text, pattern = unicodedata.normalize("NFC", text), unicodedata.normalize("NFC", pattern)
    parts, patterns = _ATTRIBUTES.findall(text), _ATTRIBUTES.findall(pattern)
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def fits_alike(text: str, pattern: str) -> bool:
    """Tell whether a name fits a glob as `fits` does, in whatever case and with whatever blanks either is written.

    For what must not hang on how a device spells a name that means the same to a CA. Nor does the order within an RDN
    count, which follows from the octets of its attributes.
    """
    return fits(_alike(text), _alike(pattern))


def _alike(text: str) -> str:
    rdns: list[set[str]] = [set()]
    for attribute, separator in _SEPARATED.findall(text):
        if attribute:
            rdns[-1].add(_attribute_alike(attribute))
        if separator == ",":
            rdns.append(set())
    return ",".join("+".join(sorted(rdn)) for rdn in rdns)


_ESCAPED: Final = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\(.)", re.DOTALL)


def _attribute_alike(attribute: str) -> str:
    kind, equals, value = attribute.partition("=")
    plain = _ESCAPED.sub(_unescaped, value)
    # Anew, since what is folded may be a separator then.
    return kind.strip().casefold() + equals + escape_rfc4514(folded(plain))


def _unescaped(found: re.Match[str]) -> str:
    octets, character = found.groups()
    if octets is None:
        return str(character)
    return bytes.fromhex(octets.replace("\\", "")).decode("utf-8", "replace")


def directory_name(name_der: bytes) -> bytes:
    """Return a Name as a GeneralName (directoryName [4] EXPLICIT)."""
    return asn1.tlv(0xA4, name_der)


def name_of(general_name_der: bytes) -> bytes | None:
    """Return the Name inside a GeneralName, or None if it is another kind of GeneralName."""
    if general_name_der[:1] != b"\xa4" or len(general_name_der) < 2:
        return None
    return asn1.inner(general_name_der)


GENERAL_NAME_KINDS: Final = ("dns:", "ip:", "uri:", "email:", "dn:")
"""What texts of GeneralNames begin with; what follows "dn:" is as of RFC 4514."""

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
    """Return the DER of GeneralNames from texts of kind dns, ip, uri, email or dn, as `general_names` gives them.

    Raises:
        ValueError: A text of another form.
    """
    return asn1.tlv(0x30, *map(_general_name_der, texts))


def _general_name_der(text: str) -> bytes:
    kind, separator, value = text.partition(":")
    tag = _SAN_TAGS.get(kind)
    if kind == "dn" and value:
        return directory_name(from_rfc4514(value))
    if tag is None or not separator or not value:
        raise ValueError(f"{text!r} is not of the form dns:, ip:, uri:, email: or dn: and a value")
    return asn1.tlv(
        tag, ipaddress.ip_address(value).packed if kind == "ip" else value.encode("ascii")
    )


def plain_general_name(text: str) -> str:
    """Return a text of a GeneralName that somebody wrote, or a pattern of such, as `general_names` has it."""
    kind, colon, value = text.partition(":")
    value = value.strip(" ")
    return kind + colon + (plain_rfc4514(value) if kind == "dn" else value)


def unfit_general_name(plain: str) -> str:
    """Return why no GeneralName fits a pattern of `plain_general_name`, "" where one may."""
    kind, _, value = plain.partition(":")
    if kind == "dn":
        return "" if value == "*" else unfit_attribute(value)
    if not value or " " in value:
        return "it has a blank" if value else "there is nothing behind its kind"
    if kind == "ip" and "{" not in value and ("/" in value or _GLOB.isdisjoint(value)):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            return "it is no address; those of a network are written with *, like ip:192.0.2.*"
    return ""


_BETWEEN_NAMES: Final = re.compile(rf"\s+(?=(?:{'|'.join(GENERAL_NAME_KINDS)}))")


def split_general_names(text: str) -> tuple[str, ...]:
    """Return the texts of GeneralNames in a list that blanks separate; a directoryName may have blanks itself."""
    return tuple(
        name
        for part in _BETWEEN_NAMES.split(text.strip())
        for name in ((part,) if part.startswith("dn:") else part.split())
    )


_URI_PARTS: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*:)(?:(//(?:[^/?#@]*@)?)([^/?#]*))?(.*)", re.DOTALL
)


def normalized_general_name(name: str) -> str:
    """Return a GeneralName, a text as of `general_names` or a pattern, in lower case where case means nothing.

    That is in a dNSName, which may also end in a dot; in scheme and host of a URI; in the host of a mailbox; and in an
    address, which has one form (RFC 5280 7.2 to 7.5). A directoryName stays as it is.
    """
    kind, separator, value = name.partition(":")
    if kind == "dns":
        value = value.lower().removesuffix(".")
    elif kind == "ip":
        try:
            value = str(ipaddress.ip_address(ipaddress.ip_address(value).packed))
        except ValueError:
            value = value.lower()
    elif kind == "email":
        local, at, host = value.rpartition("@")
        value = local + at + host.lower()
    elif kind == "uri" and (found := _URI_PARTS.fullmatch(value)) is not None:
        scheme, before, host, rest = found.groups("")
        value = scheme.lower() + before + host.lower() + rest
    return kind + separator + value


def fits_general_name(name: str, pattern: str) -> bool:
    """Tell whether a GeneralName fits a glob, whatever case is used where case means nothing.

    A wildcard stays within an attribute of a directoryName, as for `fits`; but "dn:*" fits all of them.
    """
    if name.startswith("dn:"):
        within = pattern.startswith("dn:") and fits_alike(name[3:], pattern[3:])
        return within or pattern == "dn:*"
    text, glob = normalized_general_name(name), normalized_general_name(pattern)
    if not fnmatchcase(text, glob):
        return False
    return not text.startswith("uri:") or bool(_ANY_URI.fullmatch(glob)) or _fits_uri(text, glob)


def _fits_uri(text: str, glob: str) -> bool:
    """Tell whether the parts of a URI fit those of a glob: scheme, what is before "@", host with port, and the rest.

    A wildcard in one of them is for no other: what is said of a host must not be had by what only looks like it
    (RFC 3986 3.2). URIs without an authority have their host behind "@" too (sip, mailto), but those of names (urn).
    """
    parts, wanted = _URI_PARTS_APART.fullmatch(text), _GLOB_PARTS_APART.fullmatch(glob)
    if parts is None or wanted is None:
        return False
    scheme, place, rest = parts.groups()
    if scheme == "uri:urn:":
        return True
    places, globs = _MARKS.split(place), _MARKS.split(wanted[2])
    return (
        place.startswith("//") is wanted[2].startswith("//")
        and len(places) == len(globs)
        and all(map(fnmatchcase, (scheme, rest, *places), (wanted[1], wanted[3], *globs)))
    )


_MARKS: Final = re.compile(r"[@,%]")
"""What divides mailboxes, and what hides such a mark, or another, from who does not decode."""
_URI_PARTS_APART: Final = re.compile(r"(uri:[^:]*:)(//[^/?#]*|[^/;?#]*)(.*)", re.DOTALL)
# "?" is a wildcard.
_GLOB_PARTS_APART: Final = re.compile(r"(uri:[^:]*:)(//[^/#]*|[^/;#]*)(.*)", re.DOTALL)
_ANY_URI: Final = re.compile(r"\*|uri:([^*?\[:]*:)?\*")


def general_name_key(name: str) -> str:
    """Return what is equal for GeneralNames, texts as of `general_names`, that mean the same, and only for those."""
    if name.startswith("dn:"):
        return "dn:" + _alike(name.removeprefix("dn:"))
    return normalized_general_name(name)


def general_name_keys(general_names_der: bytes | None) -> frozenset[str]:
    """Return the keys of GeneralNames, none for None.

    Raises:
        MalformedMessage: Not GeneralNames.
    """
    if general_names_der is None:
        return frozenset()
    return frozenset(map(general_name_key, general_names(general_names_der)))
