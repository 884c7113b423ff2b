"""Who a peer is, and who counts as one where something is counted for each of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


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


def plain_address(text: str) -> str:
    """Return an IP address as it is logged and counted: IPv4 in IPv6 is IPv4.

    Raises:
        ValueError: It is none, or one with a zone, which means something on another machine only.
    """
    found = ipaddress.ip_address(text)
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            raise ValueError("an address with a zone")
        found = found.ipv4_mapped or found
    return str(found)


def is_local(host: str) -> bool:
    """Tell whether a host is this machine: a loopback address or a socket's path."""
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Networks:
    """Addresses that are listed one by one or by their networks.

    Args:
        listed: Like "192.0.2.7" and "2001:db8::/32".
    """

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self._networks = tuple(map(ipaddress.ip_network, listed))

    def __contains__(self, address: object) -> bool:
        try:
            found = ipaddress.ip_address(str(address))
        except ValueError:
            return False
        return any(found in network for network in self._networks)


_MOST_HOPS = 32
"""Entries of X-Forwarded-For that are looked at, from the last one back."""


def forwarded_client(peer: str, fields: Iterable[str], trusted: Networks) -> str:
    """Return whose request it is: each proxy appended whom it had it from, and only trusted ones are believed.

    Args:
        peer: Who sent it to us.
        fields: The X-Forwarded-For of the request, in order. What stands before an entry that is no address, or that
            is nobody trusted, may have been made up.
    """
    for entry in reversed(",".join(fields).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
        if peer not in trusted:
            break
        try:
            peer = plain_address(_without_port(entry.strip(" \t")))
        except ValueError:
            break
    return peer


def _without_port(entry: str) -> str:
    """Return the address of an entry; some proxies write the port behind it."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry
