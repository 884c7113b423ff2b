"""Other spellings of certificates and messages: the same content under the same signature, in other octets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from ra_gateway.ca.core import BundledCA
from ra_gateway.cmp import asn1
from ra_gateway.cmp.messages import PKIMessage, assemble
from ra_gateway.errors import MalformedMessage
from ra_gateway.ra.pipeline import Gateway
from tests.support.der import Node, parse

_ORDERS: Final = (
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
)
"""Of the curves P-256, P-384 and P-521 (SEC 2)."""

_ECDSA: Final = bytes.fromhex("06082a8648ce3d0403")
_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
_RSA: Final = bytes.fromhex("06092a864886f70d0101")
_NULL: Final = b"\x05\x00"


def twin(signature: bytes) -> bytes:
    """Return the other signature that verifies where an ECDSA signature does: (r, n - s)."""
    r, s = (int.from_bytes(part.octets, "big") for part in parse(signature).content)
    order = next(n for n in _ORDERS if max(r, s) < n)
    return asn1.tlv(0x30, asn1.encode(r), asn1.encode(order - s))


def _ecdsa_twin(der: bytes) -> bytes:
    tbs, algorithm, signature = parse(der).content
    if not algorithm.encode()[2:].startswith(_ECDSA):
        return der
    octets = signature.encode()
    prefix = asn1.octets_of(asn1.decode(asn1.BitString, octets), "signature")
    return _outer(tbs, algorithm.encode(), twin(prefix))


def _outer(tbs: Node, algorithm_der: bytes, signature: bytes, unused: int = 0) -> bytes:
    return asn1.tlv(0x30, tbs.encode(), algorithm_der, asn1.tlv(0x03, bytes((unused,)), signature))


def _other_parameters(der: bytes) -> bytes:
    """NULL where the parameters are absent, absent where they are NULL, PSS with a default spelt out."""
    tbs, algorithm, signature = parse(der).content
    octets = asn1.octets_of(asn1.decode(asn1.BitString, signature.encode()), "signature")
    content = asn1.inner(algorithm.encode())
    if content.startswith(_PSS):
        parameters = asn1.inner(content[len(_PSS) :])
        changed = _PSS + asn1.tlv(0x30, parameters, asn1.tlv(0xA3, asn1.encode(1)))
    elif content.endswith(_NULL):
        changed = content.removesuffix(_NULL)
    else:
        changed = content + _NULL
    return _outer(tbs, asn1.tlv(0x30, changed), octets)


def _other_algorithm(der: bytes) -> bytes:
    """SHA-384 in the outer AlgorithmIdentifier where the inner one says SHA-256, or the reverse."""
    tbs, algorithm, signature = parse(der).content
    octets = asn1.octets_of(asn1.decode(asn1.BitString, signature.encode()), "signature")
    content = bytearray(asn1.inner(algorithm.encode()))
    size = 2 + content[1]
    content[size - 1] ^= 1
    return _outer(tbs, asn1.tlv(0x30, bytes(content)), octets)


def _unused_bits(der: bytes) -> bytes:
    tbs, algorithm, signature = parse(der).content
    octets = asn1.octets_of(asn1.decode(asn1.BitString, signature.encode()), "signature")
    return _outer(tbs, algorithm.encode(), octets + b"\x00", 7)


def _long_length(der: bytes) -> bytes:
    content = asn1.inner(der)
    return b"\x30\x84" + len(content).to_bytes(4, "big") + content


def _indefinite(der: bytes) -> bytes:
    return b"\x30\x80" + asn1.inner(der) + b"\x00\x00"


def _fourth_element(der: bytes) -> bytes:
    return asn1.tlv(0x30, asn1.inner(der), _NULL)


def _padded_signature(der: bytes) -> bytes:
    """A zero before the signature, or before its first number."""
    tbs, algorithm, signature = parse(der).content
    octets = asn1.octets_of(asn1.decode(asn1.BitString, signature.encode()), "signature")
    if algorithm.encode()[2:].startswith(_ECDSA):
        r, s = parse(octets).content
        octets = asn1.tlv(0x30, asn1.tlv(0x02, b"\x00" + r.octets), s.encode())
    else:
        octets = b"\x00" + octets
    return _outer(tbs, algorithm.encode(), octets)


def _trailing_signature(der: bytes) -> bytes:
    tbs, algorithm, signature = parse(der).content
    octets = asn1.octets_of(asn1.decode(asn1.BitString, signature.encode()), "signature")
    return _outer(tbs, algorithm.encode(), octets + b"\x00")


TWIN: Final = "twin of an ECDSA signature"
"""The spelling that no reader can tell from the original."""

SPELLINGS: Final[dict[str, Callable[[bytes], bytes]]] = {
    TWIN: _ecdsa_twin,
    "other parameters": _other_parameters,
    "other outer algorithm": _other_algorithm,
    "unused bits": _unused_bits,
    "long length": _long_length,
    "indefinite length": _indefinite,
    "a fourth element": _fourth_element,
    "padded signature": _padded_signature,
    "octets after the signature": _trailing_signature,
}
"""Ways to write a certificate again with its TBSCertificate as it is."""


def respelt_message(der: bytes, spell: Callable[[bytes], bytes]) -> bytes:
    """Return a message with each of its extraCerts respelt: they are not protected, so no key is needed."""
    try:
        message = PKIMessage.from_der(der)
    except MalformedMessage:
        return der
    certificates = [_respelt(item, spell) for item in message.extra_certs]
    return assemble(message.header_der, message.body_der, message.protection, certificates)


def _respelt(der: bytes, spell: Callable[[bytes], bytes]) -> bytes:
    try:
        return spell(der)
    except (ValueError, MalformedMessage):
        return der  # a test's own nonsense


def respelt_protection(der: bytes) -> bytes:
    """Return a message with the twin of its own ECDSA signature."""
    message = PKIMessage.from_der(der)
    assert message.protection is not None
    return assemble(
        message.header_der, message.body_der, twin(message.protection), message.extra_certs
    )


@contextmanager
def everything_respelt(spell: Callable[[bytes], bytes]) -> Iterator[None]:
    """Respell the certificates in every message that a gateway or a CA receives inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Gateway, BundledCA):
            handle: Any = kind.handle

            async def respelling(
                self: Any, der: bytes, *args: Any, _handle: Any = handle, **options: Any
            ) -> Any:
                return await _handle(self, respelt_message(der, spell), *args, **options)

            patch.setattr(kind, "handle", respelling)
        yield
