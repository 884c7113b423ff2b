"""Mutations that know what a CMP message is made of, also behind its signature.

Flipping octets of a signed message shows little: everything ends at the signature check. So a message is taken
apart, changed as a tree, and in half the cases signed again by somebody whom the gateway trusts, with a good proof
of possession, as a malicious or broken base station would do it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ra_gateway.cmp import asn1
from ra_gateway.cmp.codes import RESPONSE_TO, BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import MalformedMessage
from tests.support.der import Node, parse
from tests.vectors.book import SECRET, book
from tests.vectors.cast import member

SIGNERS: Final = ("device", "enb", "other-enb", "operator-ra", "operator-cmp", "local-ra")
"""Members with a P-256 key: the gateway or its CA trusts each of them, for something."""

_TAGS: Final = (
    1,
    2,
    3,
    4,
    5,
    6,
    10,
    12,
    19,
    22,
    23,
    24,
    48,
    49,
    *range(0x80, 0x8A),
    *range(0xA0, 0xBC),
)
_INTEGERS: Final = (
    *(
        b"\x00",
        b"\x01",
        b"\x02",
        b"\x03",
        b"\x04",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\x00\x80",
        b"\xff\x7f",
    ),
    *(b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x80\x00\x00\x00", b"\x7f" + b"\xff" * 7),
    *(b"\x00" + b"\xff" * 8, b"\x01" + bytes(2500), b"\x80" + bytes(64), b""),
)
_LENGTHS: Final = (
    *(
        b"\x80",
        b"\x00",
        b"\x7f",
        b"\x81\x00",
        b"\x81\x7f",
        b"\x81\x80",
        b"\x82\x00\x10",
        b"\x82\xff\xff",
    ),
    *(
        b"\x84\x7f\xff\xff\xff",
        b"\x84\xff\xff\xff\xff",
        b"\x88" + b"\xff" * 8,
        b"\xff",
        b"\xfe" + b"\x01" * 8,
    ),
)
_TIMES: Final = (
    *(
        b"20260102030405Z",
        b"20260102030405.5Z",
        b"00000101000000Z",
        b"99991231235959Z",
        b"20260231030405Z",
    ),
    *(
        b"260102030405Z",
        b"20260102030405+0100",
        b"20260102030460Z",
        b"",
        b"Z" * 15,
        b"99991231235960Z",
    ),
)
_STRINGS: Final = (
    *(
        b"",
        b"*",
        b"\x00",
        b"\xff\xfe",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        "ä".encode(),
        b"CN=x,O=y",
    ),
    *(b"%s%n{0}{cn}", b"x" * 300, b"\r\n\x1b[31m", b"../../etc", b"enb-1-ref", "\u202e".encode()),
)
_OIDS: Final = (
    *(
        asn1.oid_der(value)[2:]
        for name, value in vars(OID).items()
        if not name.startswith("_") and isinstance(value, str)
    ),
    *(b"", b"\x80", b"\x2a\x80\x03", b"\x88\x37\x01", b"\x2a" + b"\xff" * 70 + b"\x01"),
)

_PRIMITIVES: Final[dict[int, Sequence[bytes]]] = {
    0x02: _INTEGERS,
    0x0A: _INTEGERS,
    0x06: _OIDS,
    0x0C: _STRINGS,
    0x13: _STRINGS,
    0x16: _STRINGS,
    0x17: _TIMES,
    0x18: _TIMES,
    0x01: (b"\x00", b"\xff", b"\x01", b""),
    0x03: (b"", b"\x00", b"\x08\x00", b"\x07\x80", b"\x01\x01", b"\x00" + bytes(600)),
    0x04: (b"", bytes(1), bytes(15), bytes(16), bytes(17), bytes(600)),
}

Edit = Callable[[Random, Node], None]
"""Changes a tree in place."""


@lru_cache
def seeds() -> tuple[bytes, ...]:
    """Return the vectors that are messages, of every kind."""
    return tuple(vector.der for vector in book().vectors.values() if _is_message(vector.der))


def _is_message(der: bytes) -> bool:
    try:
        PKIMessage.from_der(der)
    except MalformedMessage:
        return False
    return True


@lru_cache
def _trees() -> tuple[Node, ...]:
    return tuple(parse(der) for der in seeds())


@lru_cache
def _by_tag() -> dict[bytes, list[Node]]:
    found: dict[bytes, list[Node]] = {}
    for tree in _trees():
        for node in tree.walk():
            found.setdefault(node.tag, []).append(node)
    return found


def mutated(random: Random, der: bytes) -> bytes:
    """Return other octets made from some.

    Args:
        random: Decides everything.
        der: A message; what cannot be taken apart is replaced by one that can.
    """
    try:
        tree = parse(der)
    except ValueError:
        tree = random.choice(_trees()).copy()
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        random.choice(_EDITS)(random, tree)
    if random.random() < 0.6:
        _protect(random, tree)
    octets = tree.encode()
    if random.random() < 0.05:
        octets = _cut(random, octets)
    return octets


def swollen(random: Random, der: bytes, octets: int) -> bytes:
    """Return a message with more of something: one element repeated, or made longer, up to a size."""
    try:
        tree = parse(der)
    except ValueError:
        tree = random.choice(_trees()).copy()
    room = octets - len(der)
    if room > 0 and random.random() < 0.7:
        parent = random.choice([node for node in tree.walk() if node.parts] or [tree])
        if parent.parts:
            place = random.randrange(len(parent.parts))
            size = max(len(parent.parts[place].encode()), 2)
            count = min(random.choice((2, 8, 64, 4096, 65_536)), room // size)
            parent.parts[place:place] = [parent.parts[place]] * count
    elif room > 0:
        node = random.choice([node for node in tree.walk() if node.parts is None] or [tree])
        _become(node, (node.octets or b"\x01") + random.randbytes(random.choice((8, 100, room))))
    if random.random() < 0.5:
        _protect(random, tree)
    return tree.encode()


# --- edits --------------------------------------------------------------------------------------------------------


def _any(random: Random, tree: Node) -> Node:
    """Choose an element; header and body more often than certificates, which are most of a message."""
    if tree.parts and len(tree.parts) > 1 and random.random() < 0.8:
        tree = tree.parts[random.randrange(2)]
    return random.choice(tree.walk())


def _parent(random: Random, tree: Node) -> Node | None:
    nodes = [node for node in _any(random, tree).walk() if node.parts]
    return random.choice(nodes) if nodes else (tree if tree.parts else None)


def _delete(random: Random, tree: Node) -> None:
    if parent := _parent(random, tree):
        del parent.content[random.randrange(len(parent.content))]


def _duplicate(random: Random, tree: Node) -> None:
    if parent := _parent(random, tree):
        place = random.randrange(len(parent.content))
        copies = [parent.content[place].copy() for _ in range(random.choice((1, 1, 2, 20)))]
        parent.content[place:place] = copies


def _swap(random: Random, tree: Node) -> None:
    if parent := _parent(random, tree):
        first, second = (random.randrange(len(parent.content)) for _ in range(2))
        parts = parent.content
        parts[first], parts[second] = parts[second], parts[first]


def _retag(random: Random, tree: Node) -> None:
    node = _any(random, tree)
    tag = node.tag[0]
    node.tag = bytes((random.choice((*_TAGS, tag ^ 0x20, tag ^ 1, (tag + 1) & 0xFF, tag | 0x1F)),))


def _become(node: Node, octets: bytes) -> None:
    node.parts, node.prefix, node.octets, node.head = None, b"", octets, None


def _flip(random: Random, tree: Node) -> None:
    leaves = [node for node in _any(random, tree).walk() if node.parts is None and node.octets]
    if leaves:
        node = random.choice(leaves)
        octets = bytearray(node.octets)
        octets[random.randrange(len(octets))] ^= 1 << random.randrange(8)
        node.octets = bytes(octets)


def _resize(random: Random, tree: Node) -> None:
    node = _any(random, tree)
    octets = node.encode()[2:] if node.parts is not None else node.octets
    size = random.choice(
        (0, 1, len(octets) // 2, len(octets) - 1, len(octets) + 1, len(octets) * 3, 4097)
    )
    _become(node, (octets * (size // max(len(octets), 1) + 1) + bytes(4097))[: max(size, 0)])


def _extreme(random: Random, tree: Node) -> None:
    nodes = [node for node in _any(random, tree).walk() if node.tag[0] in _PRIMITIVES]
    if nodes:
        node = random.choice(nodes)
        _become(node, random.choice(_PRIMITIVES[node.tag[0]]))


def _misfit(random: Random, tree: Node) -> None:
    """Put another type in an element's place."""
    node = _any(random, tree)
    tag = random.choice(tuple(_PRIMITIVES))
    node.tag = bytes((tag,))
    _become(node, random.choice(_PRIMITIVES[tag]))


def _lie(random: Random, tree: Node) -> None:
    """Give an element another length than it has."""
    node = _any(random, tree)
    node.head = node.tag + random.choice(_LENGTHS)


def _splice(random: Random, tree: Node) -> None:
    """Put an element of another message in the place of one, mostly of the same tag."""
    node = _any(random, tree)
    pool = _by_tag()
    tag = node.tag if random.random() < 0.8 and node.tag in pool else random.choice(list(pool))
    other = random.choice(pool[tag]).copy()
    node.tag, node.parts, node.prefix = other.tag, other.parts, other.prefix
    node.octets, node.head = other.octets, other.head


def _insert(random: Random, tree: Node) -> None:
    if parent := _parent(random, tree):
        pool = _by_tag()
        other = random.choice(pool[random.choice(list(pool))]).copy()
        parent.content.insert(random.randrange(len(parent.content) + 1), other)


def _wrap(random: Random, tree: Node) -> None:
    node = _any(random, tree)
    inside = Node(node.tag, node.octets, node.parts, node.prefix, node.head)
    for _ in range(random.choice((1, 1, 2, 50, 500))):
        octets = inside.encode()
        inside = Node(bytes((random.choice((0x30, 0x31, 0xA0, 0xA4)),)), octets)
        if len(octets) > 20_000:
            break
    node.tag, node.octets, node.parts, node.prefix = inside.tag, inside.octets, None, b""
    node.head = None


def _unwrap(random: Random, tree: Node) -> None:
    if (parent := _parent(random, tree)) and len(parent.content) == 1:
        (inside,) = parent.content
        parent.tag, parent.octets, parent.parts = inside.tag, inside.octets, inside.parts
        parent.prefix, parent.head = inside.prefix, inside.head


def _empty(random: Random, tree: Node) -> None:
    node = _any(random, tree)
    if node.parts is not None:
        node.parts, node.prefix = [], b""
    else:
        node.octets = b""


def _mix(random: Random, tree: Node) -> None:
    """Take header, body or the rest of another message."""
    other = random.choice(_trees())
    if tree.parts and other.parts:
        place = random.randrange(min(len(tree.parts), len(other.parts)))
        tree.parts[place] = other.parts[place].copy()


def _other_body(random: Random, tree: Node) -> None:
    if tree.parts and len(tree.parts) > 1:
        tree.parts[1].tag = bytes((0xA0 | random.choice(list(BodyType)),))


def _nest(random: Random, tree: Node) -> None:
    """Put the whole message into its own body, as nested."""
    if tree.parts and len(tree.parts) > 1:
        count = random.choice((1, 1, 2, 3))
        whole = tree.encode()
        if len(whole) < 20_000:
            inside = [Node(b"\x30", whole[len(whole) - _content_size(whole) :])] * count
            tree.parts[1] = Node(b"\xb4", parts=[Node(b"\x30", parts=list(inside))])


def _content_size(octets: bytes) -> int:
    return len(octets) - (2 if octets[1] < 0x80 else 2 + (octets[1] & 0x7F))


_EDITS: Final[tuple[Edit, ...]] = (
    *(_delete, _duplicate, _swap, _retag, _flip, _flip, _resize, _extreme, _extreme, _misfit, _lie),
    *(_splice, _splice, _insert, _wrap, _unwrap, _empty, _mix, _other_body, _nest),
)


def _cut(random: Random, octets: bytes) -> bytes:
    """Change octets regardless of what they mean."""
    start, end = sorted(random.randrange(len(octets) + 1) for _ in range(2))
    middle = random.choice((b"", random.randbytes(random.randrange(8)), octets[start:end] * 2))
    return octets[:start] + middle + octets[end:]


# --- behind the signature ---------------------------------------------------------------------------------------


def _protect(random: Random, tree: Node) -> None:
    """Make proof of possession, sender and protection good again, each with some probability."""
    if not tree.parts or len(tree.parts) < 2 or not tree.parts[0].parts:
        return
    if random.random() < 0.8:
        _prove(tree.parts[1])
    if random.random() < 0.15:
        _mac(tree)
        return
    _sign(
        random, tree, random.choice(SIGNERS) if random.random() < 0.2 else _fitting(tree.parts[1])
    )


def _fitting(body: Node) -> str:
    """Return who usually signs bodies of a type."""
    number = body.tag[0] & 0x1F
    if number in RESPONSE_TO.values() or number in (BodyType.pkiconf, BodyType.pollRep):
        return "operator-cmp"
    if number == BodyType.nested:
        return "local-ra"
    owned = (BodyType.cr, BodyType.kur, BodyType.rr, BodyType.genm)
    return "enb" if number in owned else "device"


def _prove(body: Node) -> None:
    """Sign the first CertRequest with the key that the vectors ask a certificate for."""
    try:
        message = body.at(0, 0)
        proof = message.at(1)
        signed = message.at(0).encode()
        bits = proof.at(1)
        if proof.tag == b"\xa1" and len(proof.content) == 3:
            signed, bits = b"\x30" + proof.at(0).encode()[1:], proof.at(2)
    except (IndexError, AssertionError, ValueError):
        return
    if bits.tag == b"\x03":
        _become(bits, b"\x00" + _signature("new-p256", signed))


@lru_cache
def _usual(name: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Return sender, protectionAlg, senderKID and extraCerts of a member, each with its tag."""
    credential = member(name).credential()
    sender, kid, algorithm = credential.protector
    assert kid is not None
    assert algorithm is not None
    return (
        sender,
        asn1.tlv(0xA1, algorithm),
        asn1.tlv(0xA2, asn1.tlv(0x04, kid)),
        asn1.tlv(0xA1, asn1.tlv(0x30, *credential.certificates)),
    )


def _signature(name: str, octets: bytes) -> bytes:
    key: Any = member(name).private_key
    signature: bytes = key.sign(octets, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return signature


def _set_header(header: Node, sender: bytes, algorithm: bytes, kid: bytes) -> None:
    """Replace what a header says of its protector."""
    fields = header.content
    kept = [field for field in fields[3:] if field.tag not in (b"\xa1", b"\xa2")]
    times = [field for field in kept if field.tag == b"\xa0"]
    others = [field for field in kept if field.tag != b"\xa0"]
    protector = [_raw(algorithm), _raw(kid)]
    header.parts = [*fields[:1], _raw(sender), *fields[2:3], *times, *protector, *others]


def _raw(octets: bytes) -> Node:
    return Node(octets[:1], octets[len(octets) - _content_size(octets) :])


def _sign(random: Random, tree: Node, name: str) -> None:
    sender, algorithm, kid, certificates = _usual(name)
    header, body, *_ = tree.content
    if header.parts is not None and random.random() < 0.9:
        _set_header(header, sender, algorithm, kid)
    signature = _signature(name, Node(b"\x30", parts=[header, body]).encode())
    protection = Node(b"\xa0", asn1.tlv(0x03, b"\x00", signature))
    if random.random() < 0.9:
        tree.parts = [header, body, protection, _raw(certificates)]
    else:
        tree.parts = [header, body, protection, *tree.content[3:]]


def _mac(tree: Node) -> None:
    """Protect with the shared secret, under whatever PasswordBasedMac the header names, or a good one."""
    header, body, *_ = tree.content
    salt = b"0123456789abcdef"
    parameters = asn1.tlv(
        0x30,
        asn1.encode(salt),
        asn1.tlv(0x30, asn1.oid_der("2.16.840.1.101.3.4.2.1")),
        asn1.encode(100),
        asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.2.9")),
    )
    algorithm = asn1.tlv(0x30, asn1.oid_der(OID.passwordBasedMac), parameters)
    sender = asn1.tlv(0xA4, asn1.tlv(0x30))
    kid = asn1.tlv(0xA2, asn1.tlv(0x04, b"enb-1-ref"))
    _set_header(header, sender, asn1.tlv(0xA1, algorithm), kid)
    key = _mac_key(salt)
    octets = hmac.digest(key, Node(b"\x30", parts=[header, body]).encode(), "sha256")
    tree.parts = [header, body, Node(b"\xa0", asn1.tlv(0x03, b"\x00", octets))]


@lru_cache
def _mac_key(salt: bytes) -> bytes:
    key = SECRET.encode() + salt
    for _ in range(100):
        key = hashlib.sha256(key).digest()
    return key
