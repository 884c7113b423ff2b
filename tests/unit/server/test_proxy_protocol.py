"""Headers of the PROXY protocol, as balancers write them and as nobody should."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ra_gateway.server.proxy_protocol import MAX_V2_OCTETS, Header, NotProxied

LONGEST = ":".join(["ffff"] * 8)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(
    source: str = "192.0.2.7", *, command: int = 0x21, family: int | None = None, tlvs: bytes = b""
) -> bytes:
    """Return a header of version 2 for a client, as to one address and from one port to another."""
    packed = ipaddress.ip_address(source).packed
    if family is None:
        family = 0x11 if len(packed) == 4 else 0x21
    rest = packed + packed + b"\x30\x39\x1f\x90" + tlvs
    return SIGNATURE + bytes((command, family)) + len(rest).to_bytes(2, "big") + rest


def read(octets: bytes, behind: bytes = b"") -> tuple[str, bytes]:
    """Read a header as the listener does, never more than is wanted; returns its source and what was left."""
    header, rest = Header(), octets + behind
    while header.wanted:
        piece, rest = rest[: header.wanted], rest[header.wanted :]
        if not piece:
            raise EOFError
        header.feed(piece)
    return header.source, rest


@pytest.mark.parametrize(
    "octets, source",
    [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 8080\r\n", "192.0.2.7"),
        (b"PROXY TCP4 1.0.0.1 1.1.1.1 0 65535\r\n", "1.0.0.1"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7"),
        (f"PROXY TCP6 {LONGEST} {LONGEST} 65535 65535\r\n".encode(), LONGEST),
        (b"PROXY UNKNOWN\r\n", ""),
        (f"PROXY UNKNOWN {LONGEST} {LONGEST} 65535 65535\r\n".encode(), ""),
        (v2(), "192.0.2.7"),
        (v2("2001:db8::7"), "2001:db8::7"),
        (v2("::ffff:192.0.2.7"), "192.0.2.7"),
        (v2(tlvs=b"\x20\x01\x00" + bytes(256)), "192.0.2.7"),
        (v2(tlvs=bytes(MAX_V2_OCTETS - 28)), "192.0.2.7"),
        (v2(command=0x20), ""),
        (v2(family=0x00), ""),
        (v2(family=0x31, tlvs=bytes(204)), ""),
        (SIGNATURE + b"\x20\x00\x00\x00", ""),
    ],
)
def test_who_a_balancer_speaks_for(octets: bytes, source: str) -> None:
    """And not an octet behind the header is taken."""
    assert read(octets, b"POST / HTTP/1.1") == (source, b"POST / HTTP/1.1")
    assert read(octets) == (source, b"")


@pytest.mark.parametrize(
    "octets",
    [
        b"POST / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaa",
        b"proxy TCP4 192.0.2.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.7  192.0.2.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 -1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n",
        b"PROXY TCP4 192.0.2.007 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 \xd9\xa1.0.2.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n" + bytes(107),
        b"PROXY UNKNOWN " + b"x" * 107,
        b"PROXY UNKNOWN " + b"x" * 92 + b"\r",
        v2(command=0x11),
        v2(command=0x22),
        v2(family=0x12),
        v2(family=0x21),
        v2(tlvs=bytes(MAX_V2_OCTETS - 27)),
        SIGNATURE + b"\x21\x11\xff\xff",
        SIGNATURE + b"\x21\x11\x00\x0b" + bytes(11),
    ],
)
def test_what_is_no_header(octets: bytes) -> None:
    """It is refused within 107 octets, or at the length that is too large."""
    with pytest.raises(NotProxied):
        read(octets, b"a" * 107)


@given(
    st.one_of(
        st.binary(max_size=64),
        st.builds(bytes.__add__, st.just(SIGNATURE), st.binary(min_size=4, max_size=64)),
        st.builds(bytes.__add__, st.just(b"PROXY TCP6 "), st.binary(max_size=120)),
    )
)
def test_whatever_comes_is_a_header_or_none(octets: bytes) -> None:
    """With an address or without, of a length that is bounded; nothing else is raised."""
    try:
        source, _ = read(octets)
    except (NotProxied, EOFError):
        return
    assert not source or ipaddress.ip_address(source)


@pytest.mark.parametrize("octets", [v2(), b"PROXY TCP4 192.0.2.7 192.0.2.1 12345 8080\r\n"])
def test_a_header_may_come_octet_by_octet(octets: bytes) -> None:
    """TCP cuts where it likes."""
    header = Header()
    for number, octet in enumerate(octets):
        assert 0 < header.wanted <= len(octets) - number
        header.feed(bytes((octet,)))
    assert (header.wanted, header.source) == (0, "192.0.2.7")
