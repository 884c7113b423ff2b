"""Whom a name names: the hosts, addresses and mailboxes that readers of a certificate find in it, wherever they stand.

A security gateway or TLS client may take a host from a dNSName, a commonName, a directoryName or a URI. So whoever
keeps a name for its owner asks here, and does not look at one place alone.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from ra_gateway.cmp.names import attributes, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage

HOST_ATTRIBUTES: Final = frozenset(
    {OID.commonName, OID.userId, OID.unstructuredName, OID.unstructuredAddress, OID.emailAddress}
)
"""Attributes whose value may name who has the certificate as a host, an address or a mailbox."""

LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
"""Pattern of one label of a host name (RFC 1123 2.1)."""

_DOMAIN: Final = re.compile(
    rf"(?=.{{2,253}}\Z)(?:{LABEL}\.)*(?!0[xX][0-9A-Fa-f]*\Z)(?=..){LABEL}(?<=[A-Za-z])"
)
"""Its last label ends with a letter, as all that the root has do: linters take others for no domain. It is no number,
which would make it an address (RFC 1123 2.1), and no single letter."""

_MOST_CHARACTERS: Final = 255
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_DOTS: Final = re.compile(r"[\u3002\uff0e\uff61]")
"""Other dots of RFC 3490 3.1."""


def is_domain(text: str) -> bool:
    """Tell whether a text is the name of a DNS domain, as "ran.example.net", "ran.5g" or "net", not "10.1" or "*"."""
    return _DOMAIN.fullmatch(text) is not None


def is_fqdn(text: str) -> bool:
    """Tell whether a text is a fully qualified host name without a dot at its end: a domain of two labels or more."""
    return "." in text and is_domain(text)


def fqdn_of(text: str) -> str | None:
    """Return a text as an FQDN in lower case and without the dot at its end, or None if it is none, as a wildcard."""
    host = text.removesuffix(".")
    return host.lower() if is_fqdn(host) else None


def plain(name: str) -> str:
    """Return a GeneralName, a text such as "dns:enb1.example.net", as it is kept for its owner: without any case.

    A host has A-labels and no dot at its end; an address of IPv4 in IPv6 is the one of IPv4 (RFC 4291 2.5.5.2).
    """
    kind, separator, value = name.partition(":")
    if kind == "dns":
        return f"dns:{_host(value)}"
    if kind == "ip":
        return f"ip:{_address(value) or value.casefold()}"
    return kind + separator + value.casefold()


def kept_names(subject_der: bytes, san: Iterable[str]) -> frozenset[str]:
    """Return what names somebody beyond doubt, in plain form: other names, and what reads like one in subjects.

    Args:
        san: Texts as of `names.general_names`.

    Raises:
        MalformedMessage: The subject is not a Name.
    """
    return frozenset(_names(subject_der, san, generous=False))


def asked_names(subject_der: bytes, san: Iterable[str]) -> frozenset[str]:
    """Return what a reader could take for somebody's names: besides `kept_names` hosts of one label, and of URIs.

    Many may share the host of a URI, so that it is nobody's to keep by having it; but nobody gets another's that way.

    Raises:
        MalformedMessage: The subject is not a Name.
    """
    return frozenset(_names(subject_der, san, generous=True))


def _names(subject_der: bytes, san: Iterable[str], *, generous: bool) -> Iterator[str]:
    yield from _of_subject(subject_der, generous)
    for name in san:
        yield plain(name)
        kind, _, value = name.partition(":")
        if kind == "dn":
            # What cannot be written anew from its text.
            with suppress(ValueError, MalformedMessage):
                yield from _of_subject(from_rfc4514(value), generous)
        elif kind == "uri" and generous:
            yield from (found for host in uri_hosts(value) for found in _read(host, True))


def _of_subject(subject_der: bytes, generous: bool) -> Iterator[str]:
    for oid, text in attributes(subject_der):
        if oid in HOST_ATTRIBUTES:
            yield from _read(text, generous)


def _read(text: str, generous: bool) -> Iterator[str]:
    """Yield what a text names."""
    text = text.strip()
    if len(text) > _MOST_CHARACTERS:
        return
    if (address := _address(text)) is not None:
        yield f"ip:{address}"
        return
    local, at, _ = text.rpartition("@")
    if at and local:
        yield plain(f"email:{text}")
    elif "://" in text:
        yield plain(f"uri:{text}")
        if generous:
            yield from (found for host in uri_hosts(text) for found in _read(host, True))
    else:
        for host in {_host(text), _host_2008(text)}:
            if _HOST.fullmatch(host) if generous else fqdn_of(host):
                yield f"dns:{host}"


def _address(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _host(text: str) -> str:
    """Return a host with A-labels, as RFC 3490 makes them; what cannot be one without its case."""
    if not text.isascii() and len(text) <= _MOST_CHARACTERS:
        with suppress(UnicodeError):
            text = text.encode("idna").decode("ascii")
    return text.casefold().removesuffix(".")


def _host_2008(text: str) -> str:
    """Return a host with A-labels of its letters as they are, which RFC 5891 makes of some that RFC 3490 maps."""
    labels = _DOTS.sub(".", text.lower()).split(".")
    return ".".join(
        label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")
        for label in labels
    ).removesuffix(".")


# --- URIs -------------------------------------------------------------------------------------------------------

_HOSTLESS: Final = frozenset({"urn", "tel", "data"})
"""Schemes whose URIs name no host, though there may be dots in them."""
_HOST_FIRST: Final = frozenset({"sip", "sips", "im", "pres", "xmpp"})
"""Schemes without an authority whose URIs may begin with a host (RFC 3261 19.1.1)."""
_AUTHORITY: Final = re.compile(r"[^:]+://(?:[^/?#]*@)?(\[[^\]/?#]*\]|[^/?#:\[]+)")
_CONTEXT: Final = re.compile(r";phone-context=([^;]*[A-Za-z][^;]*)", re.IGNORECASE)
"""A domain name that a telephone number is within (RFC 3966 5.1.5)."""
_MOST_ENCODINGS: Final = 8


def uri_hosts(uri: str) -> Iterator[str]:
    """Yield the hosts of a URI, names and addresses, also of one like sip:user@host (RFC 3986 3).

    Of several readings all are given, of what is encoded over and over too.
    """
    scheme, _, rest = uri.partition(":")
    scheme = scheme.lower()
    if rest.startswith("//"):
        found = _AUTHORITY.match(uri)
        if found is not None:
            yield found[1]
    elif scheme == "tel":
        yield from _CONTEXT.findall(_decoded(rest))
    elif scheme not in _HOSTLESS:
        # Each scheme has its own form, and readers differ about a second "@" or one in a parameter.
        pieces = re.split(r"[^A-Za-z0-9.@*_-]", _decoded(rest))
        if scheme in _HOST_FIRST and "@" not in pieces[0] and "@" not in rest:
            yield from filter(None, pieces[:1])
        for piece in pieces:
            _, *ends = piece.split("@")
            yield from filter(None, ends if ends else [piece] if "." in piece else [])


def _decoded(text: str) -> str:
    for _ in range(_MOST_ENCODINGS):
        once, text = text, unquote(text)
        if once == text:
            break
    return text
