"""Which names may be certified: types, upper bounds and characters of attributes, and forms of other names.

The types and bounds are those of X.520 and RFC 5280 appendix A.1; that new certificates have UTF8String or
PrintableString is RFC 5280 4.1.2.4, the forms of a SubjectAltName's names are 4.2.1.6. Names of certificates that
others made are read and compared by `names`, which is more lenient.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from ra_gateway.cmp import asn1, hosts, names, structures
from ra_gateway.cmp.hosts import LABEL, is_fqdn
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage, NotAuthorized, TemplateRefused

UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16

_STRING_TYPES: Final = MappingProxyType(
    {
        UTF8_STRING: "UTF8String",
        0x12: "NumericString",
        PRINTABLE_STRING: "PrintableString",
        0x14: "TeletexString",
        IA5_STRING: "IA5String",
        0x1A: "VisibleString",
        0x1C: "UniversalString",
        0x1E: "BMPString",
    }
)

_DIRECTORY: Final = (UTF8_STRING, PRINTABLE_STRING)
_PRINTABLE: Final = (PRINTABLE_STRING,)
_IA5: Final = (IA5_STRING,)
_ANY: Final = (UTF8_STRING, PRINTABLE_STRING, IA5_STRING)

_A1: Final = "RFC 5280 A.1"
_TYPES: Final = "RFC 5280 4.1.2.4"
_ALTERNATIVE: Final = "RFC 5280 4.2.1.6"


class AttributeForm(NamedTuple):
    """What a value of an attribute looks like.

    Args:
        tags: Of the string types that it may have in a new certificate.
        most: Most characters.
    """

    tags: tuple[int, ...]
    most: int


ATTRIBUTE_FORMS: Final = MappingProxyType(
    {
        OID.commonName: AttributeForm(_DIRECTORY, 64),
        OID.surname: AttributeForm(_DIRECTORY, 32768),
        OID.serialNumber: AttributeForm(_PRINTABLE, 64),
        OID.countryName: AttributeForm(_PRINTABLE, 2),
        OID.localityName: AttributeForm(_DIRECTORY, 128),
        OID.stateOrProvinceName: AttributeForm(_DIRECTORY, 128),
        OID.streetAddress: AttributeForm(_DIRECTORY, 128),
        OID.organizationName: AttributeForm(_DIRECTORY, 64),
        OID.organizationalUnitName: AttributeForm(_DIRECTORY, 64),
        OID.title: AttributeForm(_DIRECTORY, 64),
        OID.description: AttributeForm(_DIRECTORY, 1024),
        OID.businessCategory: AttributeForm(_DIRECTORY, 128),
        OID.postalCode: AttributeForm(_DIRECTORY, 40),
        OID.postOfficeBox: AttributeForm(_DIRECTORY, 40),
        OID.physicalDeliveryOfficeName: AttributeForm(_DIRECTORY, 128),
        OID.telephoneNumber: AttributeForm(_PRINTABLE, 32),
        OID.name: AttributeForm(_DIRECTORY, 32768),
        OID.givenName: AttributeForm(_DIRECTORY, 32768),
        OID.initials: AttributeForm(_DIRECTORY, 32768),
        OID.generationQualifier: AttributeForm(_DIRECTORY, 32768),
        OID.dnQualifier: AttributeForm(_PRINTABLE, 64),
        OID.pseudonym: AttributeForm(_DIRECTORY, 128),
        OID.organizationIdentifier: AttributeForm(_DIRECTORY, 256),
        OID.userId: AttributeForm(_DIRECTORY, 256),  # RFC 4524 2.22
        OID.domainComponent: AttributeForm(_IA5, 63),  # RFC 4519 2.4: one label
        OID.emailAddress: AttributeForm(_IA5, 255),
        OID.unstructuredName: AttributeForm(_ANY, 255),  # RFC 2985 5.4.1
        OID.unstructuredAddress: AttributeForm(_DIRECTORY, 255),
        OID.jurisdictionLocalityName: AttributeForm(_DIRECTORY, 128),
        OID.jurisdictionStateOrProvinceName: AttributeForm(_DIRECTORY, 128),
        OID.jurisdictionCountryName: AttributeForm(_PRINTABLE, 2),
    }
)
"""The attributes that a subject may have, by their dotted OIDs; another one needs somebody who names it."""

_UNKNOWN: Final = AttributeForm(_ANY, 256)

_MOST_NAMES: Final = 64
"""Names in a SubjectAltName; a base station has a handful."""

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode that no name needs: control, format, surrogate, private, unassigned, separators of lines."""

_BLANK_LETTERS: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x1680, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFFC),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
"""Characters that count as letters, marks or symbols and that nobody sees: joiners, fillers, variation selectors."""

_PRINTABLE_CHARACTERS: Final = re.compile(r"[A-Za-z0-9 '()+,./:=?-]*")
"""X.680 41.4; neither "@" nor "*", "&" or "_" is among them."""

_COUNTRY: Final = re.compile(r"[A-Za-z]{2}")
_HOST: Final = rf"(?=.{{1,253}}\Z){LABEL}(?:\.{LABEL})*"
_ONE_LABEL: Final = re.compile(LABEL)
_DNS_NAME: Final = re.compile(_HOST)
_ATEXT: Final = r"[!#$%&'*+/=?^_`{|}~A-Za-z0-9-]+"
_LOCAL_PART: Final = re.compile(rf"(?=.{{1,64}}\Z){_ATEXT}(?:\.{_ATEXT})*")
_URI_CHARACTERS: Final = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})"
_URI: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:"
    rf"(?=.)(?://(?P<authority>[^/?#]*)(?P<rest>/.*|[?#].*|)|(?!//){_URI_CHARACTERS}*(?P<more>[?#].*|))"
)
_URI_REST: Final = re.compile(
    rf"{_URI_CHARACTERS}*(?:\?(?:{_URI_CHARACTERS}|\?)*)?(?:#(?:{_URI_CHARACTERS}|\?)*)?"
)
_AUTHORITY: Final = re.compile(
    r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{0,5}))?"
)
_MOST_URI_OCTETS: Final = 1024
_MOST_OTHER_OCTETS: Final = 256
"""Of an otherName."""
_MOST_OID_OCTETS: Final = 63


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps a name from being certified; as text it is a sentence.

    Args:
        what: The attribute, or the kind of name.
        why: What is wrong with it.
        rule: Where that is written.
    """

    what: str
    why: str
    rule: str

    def __str__(self) -> str:
        return f"{self.what} {self.why} ({self.rule})"


def require_readable(subject_der: bytes | None, subject_alt_name_der: bytes | None) -> None:
    """Refuse names of a template that nobody can read or compare, whoever would set others in their place.

    Raises:
        TemplateRefused: Not a Name, or not GeneralNames (badCertTemplate); the rest of the message is well.
    """
    what = "the subject"
    try:
        if subject_der is not None:
            names.rfc4514(subject_der)
        what = "subjectAltName"
        if subject_alt_name_der is not None:
            names.general_names(subject_alt_name_der)
    except MalformedMessage as error:
        raise TemplateRefused(
            f"{what} cannot be read: {error.detail}",
            rule=_ALTERNATIVE if what == "subjectAltName" else _TYPES,
            phrase=f"The certificate template is not acceptable: {what} cannot be read.",
        ) from error


def require_certifiable(
    subject_der: bytes,
    subject_alt_name_der: bytes | None,
    *,
    named: Collection[str] = (),
    established_der: bytes | None = None,
    qualified: bool = False,
) -> None:
    """Refuse names that mean something else to whoever reads them than to whoever compares them, or fit no bound.

    Args:
        subject_der: Encoded Name; the NULL-DN passes.
        subject_alt_name_der: Encoded GeneralNames, None for none.
        named, established_der: As for `subject_faults`.
        qualified: Whether host names must be fully qualified, and an emailAddress among the other names, as for a CA
            of the operator's own.

    Raises:
        TemplateRefused: The text says which attribute, or which kind of name, and what is wrong (badCertTemplate).
    """
    faults = subject_faults(subject_der, named=named, established_der=established_der)
    if not faults and subject_alt_name_der is not None:
        faults = alternative_name_faults(subject_alt_name_der, named=named, wildcard=not qualified)
    if not faults and qualified:
        faults = list(_unqualified(subject_der, subject_alt_name_der))
    for fault in faults:
        raise TemplateRefused(
            f"{fault.what} {fault.why}",
            rule=fault.rule,
            phrase=f"The certificate template is not acceptable: {fault.what} cannot be certified.",
        )


@contextmanager
def told_first(
    subject_der: bytes | None, subject_alt_name_der: bytes | None, named: Collection[str] = ()
) -> Iterator[None]:
    """Have a refusal of names that are not the requester's say so if they are nobody's: badCertTemplate.

    Raises:
        TemplateRefused: What is inside refuses them with `NotAuthorized`, and they cannot be certified.
    """
    try:
        yield
    except NotAuthorized:
        require_certifiable(subject_der or NULL_DN, subject_alt_name_der, named=named)
        raise


def subject_faults(
    subject_der: bytes, *, named: Collection[str] = (), established_der: bytes | None = None
) -> list[Fault]:
    """Return what keeps a Name from being certified; nothing is raised, whatever the octets are.

    Args:
        named: Dotted OIDs of attributes that are allowed besides those of `ATTRIBUTE_FORMS`.
        established_der: A Name that was certified before, octet by octet: its types are not questioned (RFC 5280
            4.1.2.4: string types for backward compatibility may stay where a name was established).
    """
    return list(_subject_faults(subject_der, named, subject_der == established_der))


def alternative_name_faults(
    general_names_der: bytes, *, named: Collection[str] = (), wildcard: bool = True
) -> list[Fault]:
    """Return what keeps GeneralNames from being a SubjectAltName; nothing is raised, whatever the octets are.

    Args:
        named: As for `subject_faults`, in directoryNames.
        wildcard: Whether the leftmost label of a dNSName may be "*"; who may have such a one is decided elsewhere.
    """
    try:
        found = asn1.unbox(structures.GeneralNamesBox, general_names_der, _MOST_NAMES).names
    except MalformedMessage as error:
        return [Fault("subjectAltName", f"cannot be read: {error.detail}", _ALTERNATIVE)]
    if not found:
        return [Fault("subjectAltName", "has no names", _ALTERNATIVE)]
    return [fault for name in found for fault in _general_name_faults(name, named, wildcard)]


_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")


def subject_text_faults(text: str) -> list[str]:
    """Return what keeps a subject from being certified that somebody wrote in the form of RFC 4514; they may name any
    attribute.

    Args:
        text: There may be placeholders such as {cn} in it, which stand for a word.
    """
    try:
        subject_der = names.from_rfc4514(_PLACEHOLDER.sub("xx", text))
        named = {oid for oid, _ in names.attributes(subject_der)}
    except (ValueError, MalformedMessage) as error:
        return [f"it is not a name in the form of RFC 4514: {error}"]
    return [str(fault) for fault in subject_faults(subject_der, named=named)]


def alternative_name_text_faults(text: str, *, wildcard: bool = False) -> list[str]:
    """Return what keeps a name such as "dns:{cn}.example.net" from being certified, as `subject_text_faults`."""
    kind, _, value = text.partition(":")
    if kind == "ip" and _PLACEHOLDER.search(value):
        return []
    try:
        der = names.general_names_der([_PLACEHOLDER.sub("xx", text)])
    except ValueError as error:
        return [f"it is not a name of this kind: {error}"]
    return [str(fault) for fault in alternative_name_faults(der, wildcard=wildcard)]


def _unqualified(subject_der: bytes, general_names_der: bytes | None) -> Iterator[Fault]:
    """Yield what RFC 5280 leaves open or asks of CAs alone, and what is wrong in the eyes of whoever checks them."""
    attributes = names.attributes(subject_der)
    others = () if general_names_der is None else names.general_names(general_names_der)
    for name in others:
        kind, _, text = name.partition(":")
        host = text.rpartition("@")[2]
        if kind in ("dns", "email") and not is_fqdn(host):
            what = f"subjectAltName {'dNSName' if kind == 'dns' else 'rfc822Name'}"
            yield Fault(what, "has a host that is not fully qualified", "TS 33.310 6.1.1")
        if kind == "dn" and _is_wildcard(text):
            yield Fault("subjectAltName directoryName", "is a wildcard", "TS 33.310 6.1.1")
        if kind == "uri" and (why := _unfit_uri(text)):
            yield Fault("subjectAltName uniformResourceIdentifier", why, "RFC 3986 3")
    if len(set(map(names.general_name_key, others))) != len(others):
        yield Fault("subjectAltName", "has a name twice", _ALTERNATIVE)
    for name in sorted(hosts.asked_names(subject_der, others)):
        kind, _, text = name.partition(":")
        if kind == "ip" and _is_nobodys(ipaddress.ip_address(text)):
            yield Fault("the address", f"{text} is nobody's", "RFC 6890")
        if kind in ("dns", "email") and (why := _unfit_labels(text.rpartition("@")[2])):
            yield Fault("the host name", why, "RFC 5890 2.3.2.1")
    domain = ".".join(text for oid, text in reversed(attributes) if oid == OID.domainComponent)
    if domain and not is_fqdn(domain):
        yield Fault("attribute DC", "makes no domain name with the others", "RFC 4519 2.4")
    for oid, text in attributes:
        if oid == OID.commonName and _is_wildcard(text):
            yield Fault("attribute CN", "is a wildcard", "TS 33.310 6.1.1")
        if oid == OID.emailAddress and f"email:{text}" not in others:
            yield Fault(
                f"attribute {_called(oid)}",
                "is no rfc822Name of the certificate",
                "RFC 5280 4.1.2.6",
            )


_BROADCAST: Final = ipaddress.ip_network("240.0.0.0/4")
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")


def _is_nobodys(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether no host is reached by an address from elsewhere: of this host, of many, or of none."""
    of_none = address.version == 4 and (address in _BROADCAST or address in _THIS_NETWORK)
    return address.is_unspecified or address.is_loopback or address.is_multicast or of_none


_NOBODYS_DOMAINS: Final = frozenset({"invalid", "localhost"})  # RFC 6761 6.3, 6.4


def _unfit_labels(host: str) -> str:
    labels = host.lower().split(".")
    if labels[-1] in _NOBODYS_DOMAINS:
        return "is nobody's"
    bad = any(label.startswith("xn--") and not _is_a_label(label) for label in labels)
    return "has a label that begins with xn-- and is no A-label" if bad else ""


def _is_a_label(label: str) -> bool:
    """Tell whether a label is what punycode makes of letters that are not ASCII alone (RFC 5890 2.3.2.1)."""
    try:
        text = label.removeprefix("xn--").encode("ascii").decode("punycode")
        again = text.encode("punycode").decode("ascii")
    except (UnicodeError, ValueError, OverflowError):
        return False
    return (
        f"xn--{again}" == label
        and not text.isascii()
        and unicodedata.is_normalized("NFC", text)
        and text == text.lower()
        and all(char == "-" or unicodedata.category(char)[0] in "LMN" for char in text)
        and unicodedata.category(text[0])[0] != "M"
        and "-" not in (text[0], text[-1])
    )


_ACTIVE: Final = frozenset(
    {"about", "blob", "data", "file", "javascript", "vbscript", "view-source"}
)
"""Schemes of what a reader runs or opens: such a URI names nobody."""
_WITH_AUTHORITY: Final = frozenset(
    {"coap", "coaps", "ftp", "ftps", "http", "https", "rtsp", "rtsps", "spiffe", "ws", "wss"}
)
"""Schemes whose URIs have a host behind //."""
_URN: Final = re.compile(r"urn:[a-z0-9][a-z0-9-]{0,30}[a-z0-9]:[^/?#].*", re.IGNORECASE)
_UUID: Final = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def _unfit_uri(uri: str) -> str:
    """Return what is wrong with a URI in the eyes of its scheme, "" for nothing."""
    scheme, _, rest = uri.partition(":")
    scheme = scheme.lower()
    if scheme in _ACTIVE:
        return f"has the scheme {scheme}, whose URIs name nobody"
    if scheme in _WITH_AUTHORITY:
        if not rest.startswith("//"):
            return f"has the scheme {scheme} and no authority"
        if "@" in re.split(r"[/?#]", rest[2:])[0]:
            return "has a user before its host (RFC 9110 4.2.4)"
    if scheme == "urn" and not _URN.fullmatch(uri):
        return "is no URN (RFC 8141 2)"
    if uri.lower().startswith("urn:uuid:") and not _UUID.fullmatch(uri):
        return "is no UUID (RFC 9562 4)"
    return ""


def _is_wildcard(text: str) -> bool:
    return "*" in text and re.search(r"[.\u3002]", text) is not None


# --- subjects -------------------------------------------------------------------------------------------------


def _subject_faults(
    name_der: bytes, named: Collection[str], established: bool, where: str = ""
) -> Iterator[Fault]:
    try:
        rdns = names.decoded(name_der)
        for rdn in rdns:
            for attribute in rdn:
                yield from _attribute_faults(attribute, named, established, where)
            if not rdn or len({attribute.type for attribute in rdn}) != len(rdn):
                why = (
                    "has an attribute twice in one RDN" if rdn else "has an RDN without attributes"
                )
                yield Fault(where or "the subject", why, "X.501 9.3")
    except MalformedMessage as error:
        yield Fault(where or "the subject", f"cannot be read: {error.detail}", _TYPES)


def _attribute_faults(
    attribute: structures.AttributeTypeAndValue,
    named: Collection[str],
    established: bool,
    where: str,
) -> Iterator[Fault]:
    dotted = attribute.type.dotted_string
    what = f"{where}{' ' if where else ''}attribute {_called(dotted)}"
    form = ATTRIBUTE_FORMS.get(dotted, _UNKNOWN)
    if form is _UNKNOWN and dotted not in named and not established:
        yield Fault(what, "is of a type that is not allowed here", _TYPES)
    tag = attribute.value.tag_bytes[0]
    known = _STRING_TYPES.get(tag)
    if tag not in form.tags and not (established and known):
        wanted = " or ".join(_STRING_TYPES[tag] for tag in form.tags)
        is_of = f"is a value of type {known}" if known else "is no character string"
        yield Fault(what, f"{is_of}; it has to be {wanted}", _TYPES)
        return
    unfit = list(_text_faults(what, attribute.value, form.most))
    yield from unfit
    if unfit:
        return
    text = names.text_of(attribute.value)
    if dotted in (OID.countryName, OID.jurisdictionCountryName):
        if not _COUNTRY.fullmatch(text):
            yield Fault(what, "is no country code of two letters", _A1)
    elif dotted == OID.domainComponent and not _ONE_LABEL.fullmatch(text):
        yield Fault(what, "is no label of a domain name", "RFC 4519 2.4")
    elif dotted == OID.emailAddress and not _is_mailbox(text):
        yield Fault(what, "is no mailbox", "RFC 5280 4.1.2.6")


def _called(dotted: str) -> str:
    name = names.short_name(dotted)
    if name != dotted or dotted not in ATTRIBUTE_FORMS:
        return name
    return f"{_LONG_NAMES[dotted]} ({dotted})"


_LONG_NAMES: Final = {dotted: name for name, dotted in vars(OID).items() if name[:1] != "_"}


def _text_faults(what: str, value: asn1.TLV, most: int) -> Iterator[Fault]:
    """Yield what is wrong with a character string, of whatever type."""
    try:
        text = names.text_of(value)
    except MalformedMessage as error:
        yield Fault(what, f"is not what its type says: {error.detail}", _TYPES)
        return
    if len(text) > most:
        yield Fault(what, f"has {len(text)} characters; {most} are allowed", _A1)
        return
    if not text.strip():
        yield Fault(what, "is empty", _A1)
    if value.tag_bytes[0] == PRINTABLE_STRING and not _PRINTABLE_CHARACTERS.fullmatch(text):
        odd = next(char for char in text if not _PRINTABLE_CHARACTERS.fullmatch(char))
        yield Fault(what, f"has the character {_shown(odd)}, which no PrintableString has", _TYPES)
        return
    for character in "" if text.isascii() and text.isprintable() else text:
        if unicodedata.category(character) in _UNSEEN or character in _BLANK_LETTERS:
            yield Fault(what, f"has the character {_shown(character)}", _A1)
            return
    if not unicodedata.is_normalized("NFKC", text):
        # They compare as equal to their plain form, which is another's to have.
        yield Fault(
            what, "has letters in another form than NFKC, such as wide ones", "RFC 4518 2.3"
        )


def _shown(character: str) -> str:
    return f"U+{ord(character):04X}"


# --- other names ----------------------------------------------------------------------------------------------


def _general_name_faults(name: asn1.TLV, named: Collection[str], wildcard: bool) -> Iterator[Fault]:
    tag, octets = name.tag_bytes[0], asn1.content(name)
    kind = _KINDS.get(tag)
    if kind is None:
        yield Fault(
            f"subjectAltName with tag {tag:02x}", "is of no kind that is certified", _ALTERNATIVE
        )
        return
    what = f"subjectAltName {kind}"
    if kind == "directoryName":
        if octets == NULL_DN:
            yield Fault(what, "is empty", _ALTERNATIVE)
        yield from _subject_faults(octets, named, False, what)
        return
    if kind == "otherName":
        yield from _other_name_faults(what, octets)
        return
    why = _FORMS[kind](octets, wildcard)
    if why:
        yield Fault(what, why, _ALTERNATIVE)


_KINDS: Final = MappingProxyType(
    {
        0xA0: "otherName",
        0x81: "rfc822Name",
        0x82: "dNSName",
        0xA4: "directoryName",
        0x86: "uniformResourceIdentifier",
        0x87: "iPAddress",
        0x88: "registeredID",
    }
)
"""Neither x400Address nor ediPartyName: nobody reads them."""


def _dns_fault(octets: bytes, wildcard: bool) -> str:
    text = octets.decode("latin-1")
    if wildcard:
        text = text.removeprefix("*.")
    if text.startswith("*"):
        return "is a wildcard"
    return (
        ""
        if _DNS_NAME.fullmatch(text)
        else "is no host name: labels of letters, digits and hyphens"
    )


def _mailbox_fault(octets: bytes, _: bool) -> str:
    return "" if _is_mailbox(octets.decode("latin-1")) else "is no mailbox of the form local@host"


def _is_mailbox(text: str) -> bool:
    local, _, host = text.rpartition("@")
    return bool(_LOCAL_PART.fullmatch(local) and _DNS_NAME.fullmatch(host))


def _ip_fault(octets: bytes, _: bool) -> str:
    if len(octets) in (4, 16):
        return ""
    return f"has {len(octets)} octets; 4 or 16 are an address"


def _registered_id_fault(octets: bytes, _: bool) -> str:
    return "" if _is_oid(octets) else "is no object identifier"


def _is_oid(octets: bytes) -> bool:
    """Tell whether octets are the content of an OBJECT IDENTIFIER (X.690 8.19)."""
    if not 1 <= len(octets) <= _MOST_OID_OCTETS or octets[-1] & 0x80:
        return False
    starts = (0, *(at + 1 for at, octet in enumerate(octets[:-1]) if not octet & 0x80))
    return all(octets[at] != 0x80 for at in starts)


def _is_integer(octets: bytes) -> bool:
    """Tell whether octets are the content of an INTEGER: the shortest that has its value (X.690 8.3)."""
    if len(octets) < 2:
        return bool(octets)
    return (octets[0], octets[1] >> 7) not in ((0x00, 0), (0xFF, 1))


def _uri_fault(octets: bytes, _: bool) -> str:
    if len(octets) > _MOST_URI_OCTETS:
        return f"has {len(octets)} octets; {_MOST_URI_OCTETS} are allowed"
    text = octets.decode("latin-1")
    found = _URI.fullmatch(text)
    if found is None:
        return "is no absolute URI (RFC 3986 3)"
    authority, rest = found["authority"], found["rest"] or found["more"] or ""
    if not _URI_REST.fullmatch(rest):
        return "has characters that no URI has (RFC 3986 2)"
    if authority is None:
        return ""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or int(parts["port"] or 0) > 65535 or not _is_uri_host(parts["host"]):
        return "has an authority whose host is neither a fully qualified name nor an address"
    return ""


def _is_uri_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]") if host.startswith("[") else host)
    except ValueError:
        return is_fqdn(host)
    return host.startswith("[") == (":" in host)


_FORMS: Final = MappingProxyType(
    {
        "rfc822Name": _mailbox_fault,
        "dNSName": _dns_fault,
        "uniformResourceIdentifier": _uri_fault,
        "iPAddress": _ip_fault,
        "registeredID": _registered_id_fault,
    }
)


def _other_name_faults(what: str, octets: bytes) -> Iterator[Fault]:
    """Yield what is wrong with an otherName: type-id, and one value in [0]; what is text in it is read as such."""
    if len(octets) > _MOST_OTHER_OCTETS:
        yield Fault(
            what, f"has {len(octets)} octets; {_MOST_OTHER_OCTETS} are allowed", _ALTERNATIVE
        )
        return
    try:
        type_id, value = asn1.parts(asn1.tlv(0x30, octets), 2, "AnotherName", least=2, tag=0x30)
        (inner,) = asn1.parts(
            asn1.tlv(0x30, asn1.inner(value)), 1, "AnotherName", least=1, tag=0x30
        )
        if type_id[0] != 0x06 or not _is_oid(asn1.inner(type_id)) or value[0] != 0xA0:
            raise MalformedMessage("neither a type-id nor a value", rule=_ALTERNATIVE)
        yield from _inner_faults(what, asn1.element(inner))
    except MalformedMessage as error:
        yield Fault(what, f"cannot be read: {error.detail}", _ALTERNATIVE)


def _inner_faults(what: str, value: asn1.TLV) -> Iterator[Fault]:
    tag, octets = value.tag_bytes[0], asn1.content(value)
    if tag in _STRING_TYPES:
        yield from _text_faults(what, value, _MOST_OTHER_OCTETS)
    elif tag & 0x20 and tag & 0x1F != 0x1F:
        for part in asn1.parts(asn1.tlv(0x30, octets), _MOST_NAMES, "AnotherName", tag=0x30):
            yield from _inner_faults(what, asn1.element(part))
    elif not (tag & 0xC0 == 0x80 or (tag in _PRIMITIVES and _PRIMITIVES[tag](octets))):
        yield Fault(
            what, f"has a value with tag {tag:02x} that is not what its type says", _ALTERNATIVE
        )


_PRIMITIVES: Final[MappingProxyType[int, Callable[[bytes], bool]]] = MappingProxyType(
    {
        0x01: lambda octets: octets in (b"\x00", b"\xff"),
        0x02: _is_integer,
        0x04: lambda _: True,
        0x05: lambda octets: not octets,
        0x06: _is_oid,
    }
)
"""What values of types that are no text look like (X.690 8 and 11)."""
