"""The PROXY protocol, versions 1 and 2: what a balancer says first on a connection, for whom it speaks.

Nothing behind the header may be taken with it, since TLS may begin there: so a header says how many octets may be
read next. Specification: https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from ra_gateway.peers import plain_address

MAX_V1_OCTETS: Final = 107
"""The longest line of version 1, with its end (2.1)."""

MAX_V2_OCTETS: Final = 4096
"""Of a header of version 2: address, and fields about TLS and the like, which are skipped. 65,551 may be said."""

_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_OCTETS: Final = 16
"""Up to the length of what follows."""

_ADDRESS_OCTETS: Final = {0x11: 12, 0x21: 36}
"""Of TCP over IPv4 and IPv6: both addresses, both ports."""

_WITHOUT_ADDRESS: Final = (0x00, 0x31)
"""Unspecified, and a Unix socket: the connection's own address counts (2.2)."""

_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")


class NotProxied(ValueError):
    """What came is no header of the PROXY protocol."""


class Header:
    """A header as it comes.

    `wanted` is how many octets may be read next, and 0 at its end. Then `source` is the client's address, and "" where
    the balancer speaks for itself.
    """

    def __init__(self) -> None:
        self.wanted = _SHORTEST
        self.source = ""
        self._octets = bytearray()

    def feed(self, octets: bytes) -> None:
        """Take what came, no more than was wanted.

        Raises:
            NotProxied: It is no header, or one that is not taken.
        """
        self._octets += octets
        self.wanted -= len(octets)
        if not self.wanted:
            if self._octets.startswith(_V2):
                self._feed_v2()
            elif self._octets.startswith(_V1):
                self._feed_v1()
            else:
                raise NotProxied("begins without a PROXY header")

    def _feed_v1(self) -> None:
        line = self._octets
        if line.endswith(b"\r\n"):
            self.source = _source_v1(line)
        elif len(line) >= MAX_V1_OCTETS:
            raise NotProxied("has a PROXY line without an end")
        else:
            self.wanted = 1 if line.endswith(b"\r") or len(line) == MAX_V1_OCTETS - 1 else 2

    def _feed_v2(self) -> None:
        header = self._octets
        if len(header) < _V2_OCTETS:
            self.wanted = _V2_OCTETS - len(header)
            return
        octets = _V2_OCTETS + int.from_bytes(header[14:16], "big")
        if octets > MAX_V2_OCTETS:
            raise NotProxied(f"has a PROXY header of {octets} octets; {MAX_V2_OCTETS} are taken")
        if len(header) < octets:
            self.wanted = octets - len(header)
        else:
            self.source = _source_v2(header)


def _source_v1(line: bytearray) -> str:
    words = line[:-2].decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return ""
    versions = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}
    if len(words) != 6 or words[1] not in versions:
        raise NotProxied("has a PROXY line that is not of TCP4 or TCP6")
    try:
        source, _ = (plain_address(str(versions[words[1]](word))) for word in words[2:4])
    except ValueError:
        raise NotProxied("has a PROXY line without addresses") from None
    if not all(_PORT.fullmatch(word) and int(word) <= 65_535 for word in words[4:]):
        raise NotProxied("has a PROXY line without ports")
    return source


def _source_v2(header: bytearray) -> str:
    version_and_command, family, rest = header[12], header[13], header[_V2_OCTETS:]
    if version_and_command not in (0x20, 0x21):
        raise NotProxied("has a PROXY header of another version or command")
    if version_and_command == 0x20 or family in _WITHOUT_ADDRESS:
        return ""
    octets = _ADDRESS_OCTETS.get(family)
    if octets is None or len(rest) < octets:
        raise NotProxied("has a PROXY header without an address of TCP")
    return plain_address(str(ipaddress.ip_address(bytes(rest[: 4 if family == 0x11 else 16]))))
