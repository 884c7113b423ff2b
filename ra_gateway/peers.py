"""Who counts as one peer where something is counted for each of them."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> bytes:
    """Return what an IP address is counted as: IPv4 itself, IPv6 its /64, which one host has to itself.

    Returns:
        4 or 8 octets; whatever is no IP address counts as one peer.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return b""
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return found.packed[:8] if mapped is None else mapped.packed
    return found.packed
