"""Public keys of Ed25519 and Ed448 judged by their octets: one spelling of each, and none that signs for anybody.

OpenSSL loads any octets of the right length. Under a key of small order a signature verifies that was made without
a private key, and a y that is not below p is a second spelling of another key.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple


class _Curve(NamedTuple):
    """The curve a*x^2 + y^2 = 1 + d*x^2*y^2 modulo p, d as a fraction (RFC 8032 5.1 and 5.2)."""

    p: int
    a: int
    above: int
    below: int


_CURVES: Final = MappingProxyType(
    {
        "ed25519": _Curve(2**255 - 19, -1, -121_665, 121_666),
        "ed448": _Curve(2**448 - 2**224 - 1, 1, -39_081, 1),
    }
)


def edwards_fault(family: str, key: bytes) -> str:
    """Return what is wrong with a public key, "" for nothing, also for other families (RFC 8032 5.1.3, 5.2.3).

    Args:
        family: As of `key_family`.
        key: Of the length that the family has.
    """
    curve = _CURVES.get(family)
    if curve is None:
        return ""
    p, a, above, below = curve
    y = _y(key)
    if y >= p:
        return "not in its canonical form"
    # Order 1 and 2 have y = 1 and -1 (and x = 0, so that a sign of x is one spelling more), order 4 has y = 0. Of
    # order 8, on Ed25519 alone, is what doubles to y = 0: a*x^2 = y^2, which with the equation of the curve is
    # d*y^4 - 2*a*y^2 + a = 0.
    square = y * y % p
    eighth = a == -1 and (above * square * square - below * (2 * a * square - a)) % p == 0
    return "a point of small order" if square in (0, 1) or eighth else ""


def is_on_edwards_curve(family: str, key: bytes) -> bool:
    """Return whether a key, of Ed25519 or Ed448 and without fault, is a point at all; dearer than `edwards_fault`."""
    p, a, above, below = _CURVES[family]
    square = _y(key) ** 2 % p
    # x^2 = (y^2 - 1) / (d*y^2 - a) has a root if the product of the two has one: Euler's criterion.
    return pow((square - 1) * (above * square - a * below) * below, (p - 1) // 2, p) == 1


def _y(key: bytes) -> int:
    return int.from_bytes(key, "little") & ((1 << (8 * len(key) - 1)) - 1)  # without the sign of x
