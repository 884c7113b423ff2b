"""Reading PEM (RFC 7468) in time and memory that grow with its size and no faster; no I/O.

Blocks are counted before one of them is decoded, and decoded in pieces: between two of them other threads run.
"""

from __future__ import annotations

import binascii
from typing import Final

_BLANKS: Final = b" \t\r\n\v\f"
_PIECE_OCTETS: Final = 1 << 18  # a multiple of 4: base64 is decoded some milliseconds at a time


class PEMRefused(ValueError):
    """The text says what is wrong; none of the octets is in it."""


def pem_blocks(octets: bytes, label: str, most: int) -> tuple[bytes, ...]:
    """Return what the blocks of a label hold; other blocks and text around them are passed over.

    Args:
        label: Such as "CERTIFICATE".
        most: More blocks are an error, before any is decoded.

    Raises:
        PEMRefused: Too many blocks, one without its end, or one that is not base64.
    """
    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    count = octets.count(begin)
    if count > most:
        raise PEMRefused(f"{count} blocks of PEM with {label}; at most {most} are read")
    found = []
    position = 0
    for _ in range(count):
        start = octets.find(begin, position) + len(begin)
        position = octets.find(end, start)
        # Without this check a block could begin inside another one, and the count would be wrong.
        if start < len(begin) or position < 0 or octets.find(b"-----BEGIN", start, position) >= 0:
            raise PEMRefused(f"PEM with {label} that has no end")
        found.append(_decoded(octets[start:position], label))
        position += len(end)
    return tuple(found)


def _decoded(text: bytes, label: str) -> bytes:
    """Return what base64 stands for; blanks may be anywhere (RFC 7468 3)."""
    digits = bytearray()
    for start in range(0, len(text), _PIECE_OCTETS):
        digits += text[start : start + _PIECE_OCTETS].translate(None, _BLANKS)
    if len(digits) % 4 or digits.find(b"=", 0, max(len(digits) - 2, 0)) >= 0:
        raise PEMRefused(f"the base64 of PEM with {label} is damaged")
    decoded = bytearray()
    try:
        for start in range(0, len(digits), _PIECE_OCTETS):
            piece = digits[start : start + _PIECE_OCTETS]
            decoded += binascii.a2b_base64(piece, strict_mode=True)
    except binascii.Error:
        raise PEMRefused(f"the base64 of PEM with {label} is damaged") from None
    return bytes(decoded)
