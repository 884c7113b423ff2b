"""Who a peer is, and what counts as one."""

from __future__ import annotations

import pytest

from ra_gateway.peers import Networks, forwarded_client, network_of


@pytest.mark.parametrize(
    "one, other",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2%eth1"),
        ("", "no address"),
    ],
)
def test_one_peer(one: str, other: str) -> None:
    """A host has a /64 to itself, and as many addresses in it as it likes; IPv4 counts by address."""
    assert network_of(one) == network_of(other)


@pytest.mark.parametrize(
    "one, other",
    [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("", "198.51.100.1")],
)
def test_two_peers(one: str, other: str) -> None:
    """Other addresses, other networks."""
    assert network_of(one) != network_of(other)


@pytest.mark.parametrize(
    "peer, fields, client",
    [
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("198.51.100.9", ["192.0.2.7"], "198.51.100.9"),
        ("10.0.0.1", ["203.0.113.5, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["203.0.113.5", "192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["203.0.113.5,192.0.2.7,\t10.2.3.4 "], "192.0.2.7"),
        ("10.0.0.1", ["10.9.9.9, 10.2.3.4"], "10.9.9.9"),
        ("10.0.0.1", ["192.0.2.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.7, , 10.2.3.4"], "10.2.3.4"),
        ("10.0.0.1", ["192.0.2.7:4711"], "192.0.2.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["fe80::1%\x1b[2J"], "10.0.0.1"),
        ("2001:db8:a::1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7" + ", 10.1.1.1" * 40], "10.1.1.1"),
        ("", ["192.0.2.7"], ""),
    ],
)
def test_whose_request_a_proxy_passes_on(peer: str, fields: list[str], client: str) -> None:
    """The last that a trusted one had it from; what is before that may be made up."""
    trusted = Networks(["10.0.0.0/8", "2001:db8:a::/48"])
    assert forwarded_client(peer, fields, trusted) == client
