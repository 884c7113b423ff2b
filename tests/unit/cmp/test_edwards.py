"""Public keys of Ed25519 and Ed448 that are not one person's, in each of their spellings."""

from __future__ import annotations

from typing import Final

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import AlgorithmPolicy, load_public_key, public_key_kind
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage
from tests.support import pki
from tests.support.requests import spki

KINDS: Final[tuple[pki.KeyKind, ...]] = ("ed25519", "ed448")
P25519: Final = 2**255 - 19
P448: Final = 2**448 - 2**224 - 1

ORDER_8: Final = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)


def edwards_key(oid: str, y: int, *, sign: bool = False) -> bytes:
    octets = 32 if oid == OID.ed25519 else 57
    key = (y | sign << (8 * octets - 1)).to_bytes(octets, "little")
    return asn1.tlv(0x30, asn1.algorithm_der(oid), asn1.tlv(0x03, b"\0", key))


ED25519: Final = {
    "identity": 1,
    "order 2": P25519 - 1,
    "order 4": 0,
    "order 8": int.from_bytes(bytes.fromhex(ORDER_8[0]), "little"),
    "order 8, the other": int.from_bytes(bytes.fromhex(ORDER_8[1]), "little"),
    "identity, y = p + 1": P25519 + 1,
    "order 4, y = p": P25519,
    "another point, y = p + 3": P25519 + 3,
    "another point, y = p + 18": 2**255 - 1,
}
ED448: Final = {
    "identity": 1,
    "order 2": P448 - 1,
    "order 4": 0,
    "identity, y = p + 1": P448 + 1,
    "order 4, y = p": P448,
    "another point, y = p + 3": P448 + 3,
    "y in the last octet": 2**450 + 7,
}


@pytest.mark.requirement(61)
@pytest.mark.parametrize("sign", [False, True])
@pytest.mark.parametrize(
    "oid, y",
    [
        *(pytest.param(OID.ed25519, y, id=f"ed25519 {what}") for what, y in ED25519.items()),
        *(pytest.param(OID.ed448, y, id=f"ed448 {what}") for what, y in ED448.items()),
    ],
)
def test_a_key_without_a_private_key_or_spelt_twice(oid: str, y: int, sign: bool) -> None:
    """Neither judged nor loaded, whoever has it: a device, a signer, a CA."""
    spki_der = edwards_key(oid, y, sign=sign)
    for refused in (
        public_key_kind,
        load_public_key,
        lambda der: AlgorithmPolicy().require_key(der, "a certificate has a key"),
    ):
        with pytest.raises(MalformedMessage, match=r"\(RFC 8032\)"):
            refused(spki_der)


@pytest.mark.requirement(61)
@pytest.mark.parametrize("oid, y", [(OID.ed25519, 2), (OID.ed448, 2), (OID.ed448, P448 - 2)])
def test_octets_that_are_no_point(oid: str, y: int) -> None:
    """OpenSSL loads them; nothing ever verifies under them."""
    with pytest.raises(MalformedMessage, match="not a point of ed"):
        load_public_key(edwards_key(oid, y))


def test_keys_that_are_made_are_taken() -> None:
    """Two dozen of each kind."""
    for _ in range(24):
        for kind in KINDS:
            spki_der = spki(pki.make_key(kind))
            assert public_key_kind(spki_der).name == kind
            load_public_key(spki_der)
