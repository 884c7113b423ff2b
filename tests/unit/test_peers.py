"""What counts as one peer."""

from __future__ import annotations

import pytest

from ra_gateway.peers import network_of


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
