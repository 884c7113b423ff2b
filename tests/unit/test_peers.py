"""What counts as one peer."""

from __future__ import annotations

import pytest

from ra_gateway.peers import network_of


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "no address", True),
        ("", "198.51.100.1", False),
    ],
)
def test_ipv4_counts_by_address_and_ipv6_by_64_bits(one: str, other: str, same: bool) -> None:
    """A host has a /64 to itself, and as many addresses in it as it likes."""
    assert (network_of(one) == network_of(other)) is same
