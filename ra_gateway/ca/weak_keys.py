"""Public keys whose private key anybody can find: what is cheap to see of them, and is seen before they are certified.

A CA that certified one would vouch for whoever reads the certificate. The checks are bounded, some milliseconds for a
key; a modulus that takes work to factor is for nobody here to find.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ra_gateway.cmp.algorithms import load_public_key
from ra_gateway.cmp.remembering import remembered

SMALL_PRIMES_BELOW: Final = 1 << 15
FERMAT_ROUNDS: Final = 100
"""As the CA/Browser Forum has it (Baseline Requirements 6.1.1.3)."""
LEAST_EC_KEY: Final = 17
"""Private keys below it are guessed; so are their negatives, which have the same x."""
LONGEST_FOR_PRIMALITY: Final = 3072
"""Bits; OpenSSL takes no long exponent for a longer modulus."""


@remembered(entries=256, max_octets=2048)
def weakness(spki_der: bytes) -> str:
    """Return what gives a private key away, "" where nothing is seen.

    Args:
        spki_der: Of a kind that `public_key_kind` knows.

    Raises:
        MalformedMessage, AlgorithmRefused: As `load_public_key`.
    """
    key = load_public_key(spki_der)
    if isinstance(key, rsa.RSAPublicKey):
        return _of_modulus(key.public_numbers().n)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return ""
    known = key.public_numbers().x in _first_multiples(type(key.curve))
    return "whose private key is a small number" if known else ""


def _of_modulus(modulus: int) -> str:
    if not modulus & 1 or math.gcd(modulus, small_primes()) > 1:
        return "whose modulus has a small factor"
    root = math.isqrt(modulus)
    if root * root == modulus:
        return "whose modulus is a square"
    if _are_close(modulus, root):
        return "whose modulus is the product of two numbers close to each other"
    if all(modulus % prime in residues for prime, residues in _infineon()):
        return "whose modulus was made by a faulty library (CVE-2017-15361)"
    if modulus.bit_length() <= LONGEST_FOR_PRIMALITY and _seems_prime(modulus):
        return "whose modulus is a prime"
    return ""


@cache
def small_primes() -> int:
    """Return the product of the odd primes below `SMALL_PRIMES_BELOW`."""
    return math.prod(_primes(SMALL_PRIMES_BELOW))


def _primes(below: int) -> list[int]:
    sieve = bytearray([1]) * below
    for number in range(3, math.isqrt(below) + 1, 2):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, below, number)))
    return [number for number in range(3, below, 2) if sieve[number]]


_SQUARES: Final = frozenset(number * number % 64 for number in range(64))


def _are_close(modulus: int, root: int) -> bool:
    """Tell whether a few rounds of Fermat's factoring find two factors."""
    middle = root + 1
    square = middle * middle - modulus
    for _ in range(FERMAT_ROUNDS):
        if square & 63 in _SQUARES and math.isqrt(square) ** 2 == square:
            return True
        square += 2 * middle + 1
        middle += 1
    return False


@cache
def _infineon() -> tuple[tuple[int, frozenset[int]], ...]:
    """Return, by small prime, what a modulus made by Infineon's library (ROCA) may be modulo it: powers of 65537.

    Nemec et al., 2017.
    """
    return tuple(
        (prime, frozenset(pow(65_537, exponent, prime) for exponent in range(prime)))
        for prime in _primes(168)
    )


def _seems_prime(modulus: int) -> bool:
    """Tell whether a modulus is a prime, by Fermat's little theorem.

    OpenSSL is ten times as fast as `pow`. It is asked whether a "signature" 1/m verifies under the exponent n - 2, by
    which a prime alone inverts; m is padded as PKCS #1 v1.5 wants it.
    """
    size = (modulus.bit_length() + 7) // 8
    padded = int.from_bytes(b"\x00\x01" + b"\xff" * (size - 4) + b"\x00\x61", "big")
    try:
        inverse = pow(padded, -1, modulus)
        key = rsa.RSAPublicNumbers(modulus - 2, modulus).public_key()
        key.recover_data_from_signature(inverse.to_bytes(size, "big"), padding.PKCS1v15(), None)
    except (ValueError, InvalidSignature):
        return False
    return True


@cache
def _first_multiples(curve: type[ec.EllipticCurve]) -> frozenset[int]:
    return frozenset(
        ec.derive_private_key(number, curve()).public_key().public_numbers().x
        for number in range(1, LEAST_EC_KEY)
    )
