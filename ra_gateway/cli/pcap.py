"""Files of packets, as tcpdump and Wireshark write them: pcap (either order of octets) and pcapng."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_PCAP: Final = {
    b"\xa1\xb2\xc3\xd4": "big",
    b"\xa1\xb2\x3c\x4d": "big",
    b"\xd4\xc3\xb2\xa1": "little",
    b"\x4d\x3c\xb2\xa1": "little",
}
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_ORDER_MARK: Final = 0x1A2B3C4D
_PACKET_BLOCKS: Final = {6: 28, 3: 12}
"""Enhanced and simple packet blocks, and where the octets of the packet begin in them."""


def is_capture(data: bytes) -> bool:
    """Tell whether a file has packets."""
    return data[:4] in _PCAP or data.startswith(_PCAPNG)


def packets(data: bytes) -> Iterator[bytes]:
    """Yield the packets of a file, each with its link layer; ends where the file does, in whatever it ends."""
    return _of_pcapng(data) if data.startswith(_PCAPNG) else _of_pcap(data)


def _of_pcap(data: bytes) -> Iterator[bytes]:
    little, at = _PCAP[data[:4]] == "little", 24
    while at + 16 <= len(data):
        size = _number(data, at + 8, little)
        at += 16 + size
        if at <= len(data):
            yield data[at - size : at]


def _of_pcapng(data: bytes) -> Iterator[bytes]:
    little, at = True, 0
    while at + 12 <= len(data):
        if data.startswith(_PCAPNG, at):
            little = _number(data, at + 8, True) == _ORDER_MARK
        size = _number(data, at + 4, little)
        if size < 12 or at + size > len(data):
            return
        kind = _number(data, at, little)
        if begin := _PACKET_BLOCKS.get(kind):
            # The length of a simple one is that on the wire; less of it may have been kept.
            length = _number(data, at + begin - 8 if kind == 6 else at + 8, little)
            yield data[at + begin : at + min(begin + length, size - 4)]
        at += size


def _number(data: bytes, at: int, little: bool) -> int:
    return int.from_bytes(data[at : at + 4], "little" if little else "big")
