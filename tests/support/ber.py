"""Certificates that are BER and not DER, signed by their issuer as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ra_gateway.cmp import asn1
from ra_gateway.cmp.oids import OID
from tests.support.der import Node, parse
from tests.support.pki import Authority

Shape = Callable[[Node], None]
"""Changes a TBSCertificate."""

_TBS_VALIDITY, _TBS_SUBJECT, _TBS_EXTENSIONS = 4, 5, 7


def respelt(der: bytes, issuer: Authority, *shapes: Shape, signed_as_der: bool = False) -> bytes:
    """Return a certificate in other octets, signed anew with ECDSA.

    Args:
        signed_as_der: Whether the signature is over the certificate as it was.
    """
    assert isinstance(issuer.private_key, ec.EllipticCurvePrivateKey)
    whole = parse(der)
    as_der = whole.at(0).encode()
    for shape in shapes:
        shape(whole.at(0))
    # What is under the signature says which algorithm it is.
    whole.content[1] = next(item for item in whole.at(0).content if item.tag == b"\x30").copy()
    octets = as_der if signed_as_der else whole.at(0).encode()
    signature = issuer.private_key.sign(octets, ec.ECDSA(hashes.SHA256()))
    whole.content[2] = Node(b"\x03", b"\x00" + signature)
    return whole.encode()


def extension(tbs: Node, oid: str) -> Node:
    """One of the extensions."""
    wanted = asn1.oid_der(oid)
    return next(
        item for item in tbs.at(_TBS_EXTENSIONS, 0).content if item.at(0).encode() == wanted
    )


def _ca_false(tbs: Node) -> None:
    extension(tbs, OID.basicConstraints).at(-1, 0).parts = [Node(b"\x01", b"\x00")]


def _ca_true(tbs: Node) -> None:
    extension(tbs, OID.basicConstraints).at(-1, 0, 0).octets = b"\x01"


def _not_critical(tbs: Node) -> None:
    extension(tbs, OID.subjectKeyIdentifier).content.insert(1, Node(b"\x01", b"\x00"))


def _critical(tbs: Node) -> None:
    extension(tbs, OID.keyUsage).at(1).octets = b"\x01"


def _unused_bits(tbs: Node) -> None:
    node = extension(tbs, OID.keyUsage).at(-1, 0)
    node.parts, node.octets = None, b"\x07\xbf"


def _long_length(tbs: Node) -> None:
    node = tbs.at(_TBS_VALIDITY)
    node.head = node.tag + b"\x81" + bytes((len(node.encode()) - 2,))


def _very_long_length(tbs: Node) -> None:
    node = extension(tbs, OID.subjectKeyIdentifier)
    node.head = node.tag + b"\x84\x00\x00\x00" + bytes((len(node.encode()) - 2,))


def _padded_length(tbs: Node) -> None:
    node = tbs.at(_TBS_EXTENSIONS, 0)
    length = len(asn1.inner(node.encode()))
    node.head = node.tag + b"\x83" + length.to_bytes(3, "big")


def _time(tag: bytes, text: bytes) -> Shape:
    def change(tbs: Node) -> None:
        tbs.at(_TBS_VALIDITY).content[0] = Node(tag, text)

    return change


def _null(tbs: Node) -> None:
    next(item for item in tbs.content if item.tag == b"\x30").content.append(Node(b"\x05"))


def _usages(tbs: Node) -> None:
    node = extension(tbs, OID.extKeyUsage).at(-1, 0)
    node.head = node.tag + b"\x81" + bytes((len(node.encode()) - 2,))


def _subject(tbs: Node) -> None:
    node = tbs.at(_TBS_SUBJECT, 0)
    node.head = node.tag + b"\x81" + bytes((len(node.encode()) - 2,))


def _names(tbs: Node) -> None:
    node = extension(tbs, OID.subjectAltName).at(-1, 0)
    node.head = node.tag + b"\x81" + bytes((len(node.encode()) - 2,))


SHAPES: Final[dict[str, tuple[Shape, str]]] = {
    "cA FALSE written out": (_ca_false, "a DEFAULT value"),
    "critical FALSE written out": (_not_critical, "a DEFAULT value"),
    "critical by 01": (_critical, "a BOOLEAN"),
    "unused bits": (_unused_bits, "unused bits"),
    "long length": (_long_length, "a length"),
    "very long length": (_very_long_length, "a length"),
    "padded length": (_padded_length, "a length"),
    "no seconds": (_time(b"\x17", b"2501010000Z"), "a time"),
    "an offset": (_time(b"\x17", b"250101010000+0100"), "a time"),
    "a fraction": (_time(b"\x18", b"20250101000000.0Z"), "a time"),
    "long length of usages": (_usages, "a length"),
    "NULL for ECDSA": (_null, "parameters that it must not have"),
    "no seconds, in full": (_time(b"\x18", b"202501010000Z"), "a time"),
}
"""Of an end entity's certificate, and how each is told."""

LATE_SHAPES: Final = {"subject": _subject, "names": _names}
"""Of an end entity's certificate, in what is read when it is needed."""

CA_SHAPES: Final[dict[str, tuple[Shape, str]]] = {
    **{
        name: shape
        for name, shape in SHAPES.items()
        if name
        not in ("cA FALSE written out", "unused bits", "NULL for ECDSA", "long length of usages")
    },
    "cA by 01": (_ca_true, "a BOOLEAN"),
}
"""Of a CA's."""
