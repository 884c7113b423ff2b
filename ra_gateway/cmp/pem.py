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


_PKCS7: Final = bytes.fromhex("06092a864886f70d0107")
_OF_DER: Final = (
    (b"\x30", "a certificate in DER", "openssl x509 -inform DER -in {file} -out {file}.pem"),
    (_PKCS7, "PKCS#7 in DER", "openssl pkcs7 -inform DER -print_certs -in {file} -out {file}.pem"),
    (b"\x02\x01\x03", "PKCS#12", "openssl pkcs12 -nokeys -in {file} -out {file}.pem"),
)
_OF_PEM: Final = (
    (b"PKCS7", "PKCS#7", "openssl pkcs7 -print_certs -in {file} -out {file}.pem"),
    (b"TRUSTED CERTIFICATE", "in openssl's own form", "openssl x509 -in {file} -out {file}.pem"),
    (b"CERTIFICATE REQUEST", "a request for a certificate", ""),
)
_KEYS_IN_DER: Final = (
    (b"\x02\x01\x00", "a key in DER", "openssl pkey -inform DER -in {file} -out {file}.pem"),
    (b"\x02\x01\x01", "a key in DER", "openssl pkey -inform DER -in {file} -out {file}.pem"),
    (
        b"\x30",
        "a key or a certificate in DER",
        "openssl pkey -inform DER -in {file} -out {file}.pem",
    ),
    (b"\x02\x01\x03", "PKCS#12", "openssl pkcs12 -nocerts -in {file} -out {file}.pem"),
)


def looks_like(octets: bytes, *, key: bool = False) -> tuple[str, str] | None:
    """Return what a file without the PEM that was wanted seems to be, and the command that makes PEM of it, or "".

    Args:
        key: Whether a private key was wanted; otherwise certificates.

    Returns:
        None where nothing is to be said; `{file}` in the command stands for its name.
    """
    if octets.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16", "iconv -f UTF-16 -t UTF-8 {file} > {file}.pem"
    if octets[:1] == b"\x30" and len(octets) > 2:
        length = octets[1] - 0x80 if octets[1] > 0x80 else 0
        inside = octets[2 + length : 32]
        rows = _KEYS_IN_DER if key else _OF_DER
        return next(((what, todo) for first, what, todo in rows if inside.startswith(first)), None)
    for label, what, todo in () if key else _OF_PEM:
        if b"-----BEGIN " + label + b"-----" in octets:
            return what, todo
    if not key and b"PRIVATE KEY-----" in octets:
        return "a private key", ""
    if key and b"-----BEGIN CERTIFICATE-----" in octets and b"PRIVATE KEY-----" not in octets:
        return "a certificate", ""
    return None
