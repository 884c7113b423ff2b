"""Templates with names that are odd, most of them in one thing: drawn by a seed, since thousands are asked for."""

from __future__ import annotations

from random import Random
from typing import TypeVar

from ra_gateway.cmp import asn1
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.names import NULL_DN, directory_name
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.x520 import ATTRIBUTE_FORMS

T = TypeVar("T")

_ENCODINGS = {0x14: "latin-1", 0x1E: "utf-16-be", 0x1C: "utf-32-be"}
_TAGS = (0x0C, 0x13, 0x16, 0x14, 0x1E, 0x1C, 0x12, 0x1A, 0x03, 0x04, 0x30)
_TYPES = {**{oid: form.tags for oid, form in ATTRIBUTE_FORMS.items()}, "1.2.3.4": (0x0C,)}
_WORDS = (
    "enb-1",
    "Example Operator",
    "DE",
    "net",
    "12 34",
    "A",
    "x" * 64,
    "Zürich",
    "中" * 64,
    "a'b(c)+,-./:=?",
)
_ODD_WORDS = (
    "",
    " ",
    " x",
    "x" * 65,
    "x" * 129,
    "a_b",
    "a*b",
    "a@example.net",
    "ﬁ",
    "e\u0301",
    "ß",
    "3€",
    "📡",
    "שלום",
)

_LABELS = ("enb-1", "EXAMPLE", "example", "net", "xn--zrich-kva", "x" * 63)
_ODD_LABELS = (
    "1",
    "c0m",
    "n",
    "x" * 64,
    "-a",
    "a-",
    "",
    "*",
    "a_b",
    "ü",
    "a b",
    "\0",
    "ab--c",
    "xn--",
)
_LOCALS = ("a", "A.b", "a+b", "x" * 64)
_ODD_LOCALS = ("a..b", ".a", "", "x" * 65, "a b", "<a>", "ü", '"a"')
_SCHEMES = ("https://", "http://", "HTTPS://", "ftp://", "coap://")
_ODD_SCHEMES = ("https:/", "//", "https://u@", "https:", "1://", "")
_ADDRESSES = ("192.0.2.1", "[2001:db8::1]")
_ODD_ADDRESSES = ("[::g]", "2001:db8::1", "", "256.0.0.1", "[192.0.2.1]")
_PORTS = ("", "", ":443", ":")
_ODD_PORTS = (":65536", ":x", ":-1")
_PATHS = ("", "/", "/a/b;c=1", "/%7Ea", "/a?b=c", "/a#b")
_ODD_PATHS = ("/%zz", "/[", "/a#b#c", "/ ", "\\", "/ü", "/\n", "/^", "?", "#")
_URIS = (
    "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    "sip:a@b.net",
    "tel:+1-2",
    "urn:",
    "a",
    "mailto:",
)
_UPN = "1.3.6.1.4.1.311.20.2.3"


class OddNames:
    """Draws names.

    Args:
        oddness: How probable it is that any one part is odd.
    """

    def __init__(self, seed: int, oddness: float = 0.06) -> None:
        self._random = Random(seed)
        self._oddness = oddness

    def template(self) -> CertTemplate:
        """Return a template with a subject, with other names or both."""
        count = self._random.choice((0, 0, 1, 1, 2, 3))
        san = asn1.tlv(0x30, *(self.general_name() for _ in range(count)))
        extensions = (Extension(OID.subjectAltName, False, san),) if count or self._odd() else ()
        return CertTemplate(
            subject_der=NULL_DN if self._odd() else self.name(), extensions=extensions
        )

    def name(self) -> bytes:
        """Return a Name."""
        return asn1.tlv(0x30, *(self._rdn() for _ in range(self._random.randint(1, 3))))

    def general_name(self) -> bytes:
        """Return a GeneralName, of every kind and of none."""
        kind = self._random.choice(("dns", "dns", "email", "uri", "uri", "ip", "dn", "other", "id"))
        if self._odd():
            tag = self._random.choice((0xA3, 0xA5, 0x84, 0xA2, 0x89, 0x0C, 0xA0, 0x88, 0x87, 0x82))
            return asn1.tlv(tag, self._octets(20))
        if kind == "dns":
            return asn1.tlv(0x82, self._host().encode())
        if kind == "email":
            return asn1.tlv(0x81, f"{self._one(_LOCALS, _ODD_LOCALS)}@{self._host()}".encode())
        if kind == "uri":
            return asn1.tlv(0x86, self._uri().encode())
        if kind == "ip":
            return asn1.tlv(0x87, self._random.randbytes(self._one((4, 16), (0, 3, 5, 8, 17, 32))))
        if kind == "dn":
            return directory_name(self.name())
        if kind == "id":
            return asn1.tlv(0x88, asn1.inner(asn1.oid_der(self._one(tuple(_TYPES), (_UPN,)))))
        value = asn1.tlv(0xA0, self._value(self._one((0x0C,), _TAGS)))
        return asn1.tlv(0xA0, asn1.oid_der(_UPN) if not self._odd() else b"", value)

    def _rdn(self) -> bytes:
        count = self._one((1, 1, 1, 2), (0, 2, 3))
        return asn1.tlv(0x31, *sorted(self._attribute() for _ in range(count)))

    def _attribute(self) -> bytes:
        usual = (OID.commonName, OID.organizationName, OID.serialNumber)
        oid = self._random.choice((*usual, *usual, *usual, *_TYPES))
        value = self._value(self._one(_TYPES[oid], _TAGS))
        return asn1.tlv(0x30, asn1.oid_der(oid), value)

    def _value(self, tag: int) -> bytes:
        if self._odd():
            return asn1.tlv(tag, self._octets(6))
        text = self._one(_WORDS, _ODD_WORDS)
        if self._odd():
            text += "".join(chr(self._random.choice((0x20, 0x7F, 0x2FF, 0xD7FF, 0x1FFFF))
                                - self._random.randrange(0x20)) for _ in range(2))  # fmt: skip
        return asn1.tlv(tag, text.encode(_ENCODINGS.get(tag, "utf-8"), "replace"))

    def _host(self) -> str:
        count = self._one((2, 3, 4), (0, 1, 5))
        return ".".join(self._one(_LABELS, _ODD_LABELS) for _ in range(count))

    def _uri(self) -> str:
        if self._odd():
            return self._random.choice(_URIS)
        address = self._random.random() < 0.3
        host = self._one(_ADDRESSES, _ODD_ADDRESSES) if address else self._host()
        scheme, port = self._one(_SCHEMES, _ODD_SCHEMES), self._one(_PORTS, _ODD_PORTS)
        return scheme + host + port + self._one(_PATHS, _ODD_PATHS)

    def _one(self, usual: tuple[T, ...], odd: tuple[T, ...]) -> T:
        return self._random.choice(odd if self._odd() else usual)

    def _odd(self) -> bool:
        return self._random.random() < self._oddness

    def _octets(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randrange(most))
