"""Messages that are meant to be dear: each of some fifty shapes, filled up to a limit, another one for each number.

They are built octet by octet, by nothing of the product's: what the codec would never write has to be sent as well.
Signatures are nonsense, except where an insider sends them: somebody who is trusted, and means harm.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ra_gateway.cmp.header_checks import HeaderRules
from ra_gateway.cmp.mac import MACBounds
from tests.support.der import length
from tests.vectors.book import AT, REFERENCE
from tests.vectors.cast import member

MAX_OCTETS: Final = 65_536
"""`max_body_bytes` as it is by default."""

MOST: Final = HeaderRules().extra_certs_max_count
"""Certificates that are read of one message."""

MOST_ITERATIONS: Final = MACBounds().max_iterations
"""Of the derivation of a MAC's key, as it is by default."""


# --- DER ------------------------------------------------------------------------------------------------------


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return one element."""
    content = b"".join(parts)
    return bytes((tag,)) + length(len(content)) + content


def seq(*parts: bytes) -> bytes:
    """Return a SEQUENCE."""
    return tlv(0x30, *parts)


def octet_string(octets: bytes) -> bytes:
    """Return an OCTET STRING."""
    return tlv(0x04, octets)


def integer(value: int) -> bytes:
    """Return an INTEGER."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def bits(octets: bytes) -> bytes:
    """Return a BIT STRING without unused bits."""
    return tlv(0x03, b"\x00", octets)


def utf8(octets: bytes) -> bytes:
    """Return a UTF8String."""
    return tlv(0x0C, octets)


@lru_cache(maxsize=200_000)
def oid(text: str) -> bytes:
    """Return an OBJECT IDENTIFIER."""
    first, second, *others = map(int, text.split("."))
    return tlv(0x06, *(_arc(arc) for arc in (first * 40 + second, *others)))


def _arc(value: int) -> bytes:
    found = [value & 0x7F]
    while value := value >> 7:
        found.append(0x80 | value & 0x7F)
    return bytes(reversed(found))


def generalized_time(moment: datetime) -> bytes:
    """Return a GeneralizedTime."""
    return tlv(0x18, f"{moment:%Y%m%d%H%M%SZ}".encode())


def filled(make: Callable[[int], bytes], octets: int) -> bytes:
    """Return as many elements as fit, each made from its number."""
    found, size, number = [], 0, 0
    while size + len(part := make(number)) <= octets:
        found.append(part)
        size, number = size + len(part), number + 1
    return b"".join(found)


# --- names, keys, certificates ---------------------------------------------------------------------------------


def attribute(text: bytes, kind: str = "2.5.4.3") -> bytes:
    """Return an AttributeTypeAndValue."""
    return seq(oid(kind), utf8(text))


def name(*texts: bytes) -> bytes:
    """Return a Name of one commonName for each text."""
    return seq(*(tlv(0x31, attribute(text)) for text in texts))


def long_name(salt: bytes, octets: int) -> bytes:
    """Return a Name of as many RDNs as fit."""
    return seq(
        filled(lambda n: tlv(0x31, attribute(b"%d" % n if n else salt)), max(octets - 64, 20))
    )


def wide_name(salt: bytes, octets: int) -> bytes:
    """Return a Name of one RDN, of as many values as fit, in the order of DER."""
    return seq(tlv(0x31, filled(lambda n: attribute(b"%s%06d" % (salt[:4], n)), octets)))


P256: Final = "1.2.840.10045.3.1.7"
_EC: Final = "1.2.840.10045.2.1"
_NULL: Final = b"\x05\x00"
ECDSA: Final = seq(oid("1.2.840.10045.4.3.2"))
RSA_SHA256: Final = seq(oid("1.2.840.113549.1.1.11"), _NULL)


@lru_cache
def _pi(bits_count: int) -> int:
    """Return pi times 2 to the power of a number, by Machin's formula."""
    guard = 64

    def arctan_of_inverse(x: int) -> int:
        term = total = (1 << (bits_count + guard)) // x
        n, sign = 3, -1
        while term:
            term //= x * x
            total += sign * (term // n)
            n, sign = n + 2, -sign
        return total

    return (16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)) >> guard


@lru_cache
def modp_prime(size: int) -> int:
    """Return the safe prime of RFC 3526 of a size: what takes longest to be tested for being one."""
    more = {2048: 124476, 3072: 1690314, 4096: 240904, 6144: 929484, 8192: 4743158}[size]
    return (1 << size) - (1 << size - 64) - 1 + ((_pi(size - 130) + more) << 64)


def dh_key(size: int, number: int) -> bytes:
    """Return a SubjectPublicKeyInfo for Diffie-Hellman (PKCS #3)."""
    prime = modp_prime(size)
    parameters = seq(integer(prime), integer(2))
    return seq(seq(oid("1.2.840.113549.1.3.1"), parameters), bits(integer(prime // 3 + number)))


def x942_key(size: int, number: int) -> bytes:
    """The same in the way of X9.42."""
    prime = modp_prime(size)
    parameters = seq(integer(prime), integer(4), integer((prime - 1) // 2))
    return seq(seq(oid("1.2.840.10046.2.1"), parameters), bits(integer(prime // 3 + number)))


def dsa_key(size: int, number: int) -> bytes:
    """Return a SubjectPublicKeyInfo for DSA."""
    prime = modp_prime(size)
    parameters = seq(integer(prime), integer((1 << 255) - 19), integer(3))
    return seq(seq(oid("1.2.840.10040.4.1"), parameters), bits(integer(prime // 3 + number)))


def rsa_key(size: int, number: int, exponent: int = 65537) -> bytes:
    """Return a SubjectPublicKeyInfo for RSA of any size; nobody has the private key."""
    modulus = Random(number).getrandbits(size) | 1 | 1 << size - 1
    return seq(
        seq(oid("1.2.840.113549.1.1.1"), _NULL), bits(seq(integer(modulus), integer(exponent)))
    )


def explicit_curve_key(size: int, number: int) -> bytes:
    """Return a SubjectPublicKeyInfo for a curve that the key itself describes, over a field of a size."""
    prime = modp_prime(size)
    field = seq(oid("1.2.840.10045.1.1"), integer(prime))
    element = bytes(size // 8 - 4) + struct.pack(">I", number | 1)
    curve = seq(octet_string(element), octet_string(element))
    point = b"\x04" + element * 2
    parameters = seq(integer(1), field, curve, octet_string(point), integer(prime - 1), integer(1))
    return seq(seq(oid(_EC), parameters), bits(point))


def p256_key(number: int) -> bytes:
    """Return a SubjectPublicKeyInfo of a point on P-256, another one for each number."""
    key = ec.derive_private_key(number % (1 << 200) + 1, ec.SECP256R1())
    found: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


@lru_cache
def _usual_key() -> bytes:
    return p256_key(1)


def extension(kind: str, value: bytes, *, critical: bool = False) -> bytes:
    """Return an Extension."""
    return seq(oid(kind), b"\x01\x01\xff" if critical else b"", octet_string(value))


def key_identifiers(own: bytes, issuers: bytes) -> tuple[bytes, bytes]:
    """Return SubjectKeyIdentifier and AuthorityKeyIdentifier."""
    return (
        extension("2.5.29.14", octet_string(own)),
        extension("2.5.29.35", seq(tlv(0x80, issuers))),
    )


CA_CERTIFICATE: Final = (
    extension("2.5.29.19", seq(b"\x01\x01\xff"), critical=True),
    extension("2.5.29.15", b"\x03\x02\x02\x04", critical=True),
)
END_ENTITY: Final = (extension("2.5.29.15", b"\x03\x02\x07\x80", critical=True),)


def nonsense(random: Random) -> bytes:
    """Return what could be an ECDSA signature, and is none."""
    return seq(*(integer(random.getrandbits(250) | 1) for _ in range(2)))


def certificate(
    random: Random,
    subject: bytes,
    issuer: bytes,
    *extensions: bytes,
    key: bytes | None = None,
    serial: bytes | None = None,
    algorithm: bytes = ECDSA,
    signature: bytes | None = None,
) -> bytes:
    """Return a certificate that nobody signed."""
    validity = seq(
        generalized_time(AT - timedelta(days=900)), generalized_time(AT + timedelta(days=900))
    )
    tbs = seq(
        b"\xa0\x03\x02\x01\x02",
        serial or integer(random.getrandbits(120)),
        algorithm,
        issuer,
        validity,
        subject,
        _usual_key() if key is None else key,
        tlv(0xA3, seq(*extensions)) if extensions else b"",
    )
    return seq(tbs, algorithm, bits(nonsense(random) if signature is None else signature))


# --- messages ---------------------------------------------------------------------------------------------------

NULL_DN: Final = seq()


@dataclass(frozen=True, slots=True)
class Facing:
    """Whom a stranger faces.

    Args:
        anchor: Member of the cast whose certificate is an anchor there.
        insider: Member whose messages are taken there.
    """

    anchor: str
    insider: str

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The insider's certificate and those above, without the root: whoever listens has seen them."""
        found = member(self.insider).certificates
        return tuple(item.der for item in found if not item.self_issued)


def subject_of(who: str) -> bytes:
    """Return the subject of a member of the cast."""
    return member(who).certificate.subject_der


def key_identifier_of(who: str) -> bytes:
    """Return the key identifier of a member of the cast."""
    return member(who).certificate.subject_key_identifier or b""


@dataclass(frozen=True, slots=True)
class Sending:
    """One message to be made.

    Args:
        facing: Whom it is for.
        number: Makes it another one than any with another number.
        octets: How many it may have.
    """

    facing: Facing
    number: int
    octets: int = MAX_OCTETS

    @property
    def random(self) -> Random:
        """The same for the same number."""
        return Random(self.number)

    @property
    def salt(self) -> bytes:
        """Eight characters of its own."""
        return f"{self.random.getrandbits(32):08x}".encode()

    @property
    def room(self) -> int:
        """Octets to be filled in a message that is otherwise small."""
        return max(self.octets - 2_200, 200)


def request(
    spki: bytes, subject: bytes, *, proof: bytes | None = None, req_id: bytes = integer(0)
) -> bytes:
    """Return a CertReqMsg with a nonsensical proof, unless another one is given."""
    template = seq(tlv(0xA5, subject), b"\xa6" + spki[1:])
    if proof is None:
        proof = tlv(0xA1, ECDSA, bits(nonsense(Random(len(spki)))))
    return seq(seq(req_id, template), proof)


def requests(tag: int, *messages: bytes) -> bytes:
    """Return a body of CertReqMessages."""
    return tlv(tag, seq(*messages))


IR, CR, P10CR, KUR, RR, NESTED, GENM, ERROR, CERT_CONF, POLL_REQ = (
    *(0xA0, 0xA2, 0xA4, 0xA7, 0xAB, 0xB4, 0xB5, 0xB7, 0xB8, 0xB9),
)


def usual_body(sending: Sending) -> bytes:
    """Return an ir for a P-256 key."""
    return requests(IR, request(_usual_key(), name(b"enb-" + sending.salt)))


def message(
    sending: Sending,
    *,
    body: bytes | None = None,
    sender: bytes | None = None,
    recipient: bytes = NULL_DN,
    algorithm: bytes | None = ECDSA,
    kid: bytes | None = None,
    transaction_id: bytes | None = None,
    nonce: bytes | None = None,
    free_text: bytes = b"",
    general_info: bytes = b"",
    protection: bytes | None = None,
    extra: Sequence[bytes] | bytes | None = None,
    pvno: bytes = b"\x02\x01\x02",
    insider: bool = False,
) -> bytes:
    """Return a PKIMessage whose protection is nonsense, unless an insider sends it.

    Args:
        body: By default an ir.
        sender, recipient: Names; the sender is the insider by default.
        algorithm: AlgorithmIdentifier, None for none.
        free_text, general_info: What stands inside.
        protection: Octets of the signature.
        extra: Certificates, or what stands in their place; the insider's by default.
    """
    facing, random = sending.facing, sending.random
    kid = key_identifier_of(facing.insider) if kid is None else kid
    header = seq(
        pvno,
        tlv(0xA4, subject_of(facing.insider) if sender is None else sender),
        tlv(0xA4, recipient),
        tlv(0xA0, generalized_time(AT)),
        b"" if algorithm is None else tlv(0xA1, algorithm),
        tlv(0xA2, octet_string(kid)) if kid else b"",
        tlv(0xA4, octet_string(random.randbytes(16) if transaction_id is None else transaction_id)),
        tlv(0xA5, octet_string(random.randbytes(16) if nonce is None else nonce)),
        tlv(0xA7, seq(free_text)) if free_text else b"",
        tlv(0xA8, seq(general_info)) if general_info else b"",
    )
    body = usual_body(sending) if body is None else body
    if insider:
        key: Any = member(facing.insider).private_key
        protection = key.sign(seq(header, body), ec.ECDSA(hashes.SHA256()))
    elif protection is None:
        protection = nonsense(random)
    if extra is None:
        extra = facing.chain
    certificates = extra if isinstance(extra, bytes) else b"".join(extra)
    return seq(
        header,
        body,
        tlv(0xA0, bits(protection)),
        tlv(0xA1, seq(certificates)) if certificates else b"",
    )


# --- shapes -----------------------------------------------------------------------------------------------------

Make = Callable[[Sending], bytes]

SHAPES: Final[dict[str, Make]] = {}
"""What a stranger may post to a CMP listener, by what is dear about it."""

INSIDE: Final[dict[str, Make]] = {}
"""What somebody may post who is trusted there."""


def _shape(what: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        SHAPES[what] = make
        return make

    return keep


@_shape("wrong signature, real chain")
def _wrong_signature(sending: Sending) -> bytes:
    return message(sending)


@_shape("garbage")
def _garbage(sending: Sending) -> bytes:
    return sending.random.randbytes(sending.octets)


@_shape("one empty SEQUENCE after the other")
def _empty_sequences(sending: Sending) -> bytes:
    return seq(integer(sending.number), b"\x30\x00" * (sending.room // 2))


@_shape("SEQUENCEs in SEQUENCEs")
def _deep(sending: Sending) -> bytes:
    return _wrapped(integer(sending.number), sending.octets - 8)


def _wrapped(inside: bytes, octets: int) -> bytes:
    # From the inside out, only the heads: joined at once, or it takes longer than what it is for.
    heads: list[bytes] = []
    size = len(inside)
    while True:
        head = b"\x30" + length(size)
        if size + len(head) > octets:
            return b"".join(reversed(heads)) + inside
        heads.append(head)
        size += len(head)


@_shape("deep SEQUENCEs as body")
def _deep_body(sending: Sending) -> bytes:
    return message(sending, body=tlv(IR, _wrapped(integer(sending.number), sending.room)))


@_shape("deep SEQUENCEs as generalInfo")
def _deep_info(sending: Sending) -> bytes:
    info = seq(oid("1.3.6.1.4.1.99999.1"), _wrapped(integer(sending.number), sending.room))
    return message(sending, general_info=info)


def _below_anchor(
    sending: Sending, random: Random, subject: bytes, *extensions: bytes, **more: Any
) -> bytes:
    """Return a certificate that claims to be certified by an anchor."""
    anchor, ski = sending.facing.anchor, sending.salt * 2
    identifiers = key_identifiers(ski, key_identifier_of(anchor))
    return certificate(
        random, subject, subject_of(anchor), *END_ENTITY, *identifiers, *extensions, **more
    )


def _signer(sending: Sending, key: bytes, *extensions: bytes, **more: Any) -> bytes:
    """Return a message whose signer claims to be certified by an anchor."""
    own = _below_anchor(sending, sending.random, name(sending.salt), *extensions, key=key, **more)
    return message(sending, sender=name(sending.salt), kid=sending.salt * 2, extra=(own,))


_KEYS: Final[Mapping[str, Callable[[int], bytes]]] = {
    "DH of 2048 bits": lambda n: dh_key(2048, n),
    "DH of 8192 bits": lambda n: dh_key(8192, n),
    "X9.42 DH of 4096 bits": lambda n: x942_key(4096, n),
    "DSA of 8192 bits": lambda n: dsa_key(8192, n),
    "RSA of 16384 bits": lambda n: rsa_key(16_384, n),
    "RSA of 16384 bits, large exponent": lambda n: rsa_key(16_384, n, (1 << 16_383) - 1),
    "RSA of 400000 bits": lambda n: rsa_key(400_000, n),
    "explicit curve of 2048 bits": lambda n: explicit_curve_key(2048, n),
    "explicit curve of 8192 bits": lambda n: explicit_curve_key(8192, n),
}


def _keys() -> None:
    for what, make in _KEYS.items():
        SHAPES[f"signer with {what}"] = lambda s, make=make: _signer(s, make(s.number))  # type: ignore[misc]
    for what in ("DH of 8192 bits", "RSA of 16384 bits", "explicit curve of 8192 bits"):
        make = _KEYS[what]
        for kind, tag in (("ir", IR), ("cr", CR), ("kur", KUR)):
            SHAPES[f"{kind} for {what}"] = lambda s, make=make, tag=tag: message(  # type: ignore[misc]
                s, body=requests(tag, request(make(s.number), name(s.salt)))
            )
            INSIDE[f"{kind} for {what}"] = lambda s, make=make, tag=tag: message(  # type: ignore[misc]
                s, body=requests(tag, request(make(s.number), name(s.salt))), insider=True
            )
        SHAPES[f"p10cr for {what}"] = lambda s, make=make: message(  # type: ignore[misc]
            s, body=_pkcs10(make(s.number), s)
        )
        INSIDE[f"p10cr for {what}"] = lambda s, make=make: message(  # type: ignore[misc]
            s, body=_pkcs10(make(s.number), s), insider=True
        )
        SHAPES[f"nested around a signer with {what}"] = lambda s, make=make: message(  # type: ignore[misc]
            s, body=tlv(NESTED, seq(_signer(s, make(s.number))))
        )


def _pkcs10(spki: bytes, sending: Sending) -> bytes:
    info = seq(integer(0), name(sending.salt), spki, tlv(0xA0))
    return tlv(P10CR, seq(info, ECDSA, bits(nonsense(sending.random))))


_keys()


@_shape("twelve signers with RSA of 16384 bits")
def _many_large_keys(sending: Sending) -> bytes:
    random, ski = sending.random, sending.salt * 2
    certificates = [
        _below_anchor(
            sending,
            random,
            name(b"%s%d" % (sending.salt, n)),
            key=rsa_key(16_384, sending.number * 99 + n),
        )
        for n in range(MOST)
    ]
    return message(sending, sender=name(sending.salt + b"1"), kid=ski, extra=certificates)


@_shape("twelve signers below an anchor")
def _many_signers(sending: Sending) -> bytes:
    random, ski = sending.random, sending.salt * 2
    certificates = [
        _below_anchor(
            sending, random, name(sending.salt), key=p256_key(sending.number * 99 + n + 2)
        )
        for n in range(MOST)
    ]
    return message(sending, sender=name(sending.salt), kid=ski, extra=certificates)


def _bag(sending: Sending, long: bytes, signers: int, cas: int) -> bytes:
    """Return a message with signers whose issuer has one long name, and as many CAs of that name by themselves."""
    random, ski, ca_ski = sending.random, sending.salt * 2, sending.salt + b"CA"
    identifiers = key_identifiers(ski, ca_ski)
    certificates = [
        certificate(random, name(sending.salt), long, *END_ENTITY, *identifiers)
        for _ in range(signers)
    ]
    identifiers = key_identifiers(ca_ski, ca_ski)
    certificates += [
        certificate(random, long, long, *CA_CERTIFICATE, *identifiers) for _ in range(cas)
    ]
    return message(sending, sender=name(sending.salt), kid=ski, extra=certificates)


@_shape("CAs of one long name by themselves")
def _self_issued_bag(sending: Sending) -> bytes:
    size = (sending.room - 8 * 500) // 13
    return _bag(sending, long_name(sending.salt, max(size, 60)), 3, 5)


@_shape("CAs of one wide RDN by themselves")
def _self_issued_wide(sending: Sending) -> bytes:
    size = (sending.room - 8 * 500) // 13
    return _bag(sending, wide_name(sending.salt, max(size, 60)), 3, 5)


@_shape("CAs that certify one another")
def _cross_certified(sending: Sending) -> bytes:
    facing, random, salt = sending.facing, sending.random, sending.salt
    ski = salt * 2
    names = [name(salt + b"A"), name(salt + b"B"), name(salt + b"C"), subject_of(facing.anchor)]
    skis = [salt + b"A", salt + b"B", salt + b"C", key_identifier_of(facing.anchor)]
    certificates = [
        certificate(random, name(salt), names[0], *END_ENTITY, *key_identifiers(ski, skis[0]))
    ]
    for n in range(MOST - 1):
        subject, issuer = n % 3, (n + 1 + n // 3) % 4
        certificates.append(
            certificate(
                random,
                names[subject],
                names[issuer],
                *CA_CERTIFICATE,
                *key_identifiers(skis[subject], skis[issuer]),
                key=p256_key(sending.number * 99 + n + 2),
            )
        )
    return message(sending, sender=name(salt), kid=ski, extra=certificates)


VENDORS: Final = 40
"""Trust domains of the gateway that has many; those before its last are called as `vendor_name` says."""


def vendor_name(number: int) -> bytes:
    """Return the subject of one of many vendors' anchors."""
    return name(b"Vendor %d" % number)


@_shape("CAs below the anchors of many vendors")
def _below_many(sending: Sending) -> bytes:
    random, salt = sending.random, sending.salt
    ski, middle = salt * 2, name(salt + b"CA")
    certificates = [
        certificate(random, name(salt), middle, *END_ENTITY, *key_identifiers(ski, b"none"))
        for _ in range(3)
    ]
    for n in range(MOST - 3):
        key = p256_key(sending.number * 99 + n + 2)
        issuer = vendor_name((sending.number + 3 * n) % (VENDORS - 1))
        certificates.append(certificate(random, middle, issuer, *CA_CERTIFICATE, key=key))
    return message(sending, sender=name(salt), kid=ski, extra=certificates)


@_shape("CAs of one name that certify themselves and one below an anchor")
def _namesakes(sending: Sending) -> bytes:
    facing, random, salt = sending.facing, sending.random, sending.salt
    ski, middle = salt * 2, name(salt + b"CA")
    certificates = [
        certificate(random, name(salt), middle, *END_ENTITY, *key_identifiers(ski, b"none"))
        for _ in range(3)
    ]
    for n in range(MOST - 3):
        key = p256_key(sending.number * 99 + n + 2)
        issuer = subject_of(facing.anchor) if n == MOST - 4 else middle
        identifiers = key_identifiers(b"%d" % n, b"%d" % (n + 1))
        certificates.append(
            certificate(random, middle, issuer, *CA_CERTIFICATE, *identifiers, key=key)
        )
    return message(sending, sender=name(salt), kid=ski, extra=certificates)


SEARCHED: Final = re.compile(
    "wrong signature, real chain|CAs|signers below|twelve certificates of sixteen"
)
"""Shapes that are dear for the search of a signer's path, if any is."""


def _salted(salt: bytes, what: bytes, attributes: int = 16) -> bytes:
    return name(*(b"%s%s%d" % (salt, what, n) for n in range(attributes)))


@_shape("twelve certificates of sixteen-attribute names, none of them the sender's")
def _many_attributes(sending: Sending) -> bytes:
    certificates = [
        certificate(
            sending.random,
            _salted(sending.salt, b"s%d." % n),
            _salted(sending.salt, b"i%d." % n),
            *CA_CERTIFICATE,
            serial=integer(n + 1),
        )
        for n in range(MOST)
    ]
    return message(sending, sender=_salted(sending.salt, b"n"), kid=b"", extra=certificates)


@_shape("three signers and nine CAs of sixteen-attribute names that certify one another")
def _long_cross_certified(sending: Sending) -> bytes:
    facing, random, salt = sending.facing, sending.random, sending.salt
    names = [_salted(salt, b"%d." % n) for n in range(3)]
    ski = salt * 2
    certificates = [
        certificate(random, name(salt), names[0], *END_ENTITY, *key_identifiers(ski, b"none"))
        for _ in range(3)
    ]
    for n in range(MOST - 3):
        issuer = subject_of(facing.anchor) if n >= 5 else names[(n + 1) % 3]
        key = p256_key(sending.number * 99 + n + 2)
        certificates.append(certificate(random, names[n % 3], issuer, *CA_CERTIFICATE, key=key))
    return message(sending, sender=name(salt), kid=ski, extra=certificates)


@_shape("sender of thousands of RDNs, twelve certificates")
def _long_sender(sending: Sending) -> bytes:
    random = sending.random
    certificates = [
        certificate(random, name(b"%s%d" % (sending.salt, n)), subject_of(sending.facing.anchor))
        for n in range(MOST)
    ]
    room = sending.room - sum(map(len, certificates))
    return message(sending, sender=long_name(sending.salt, room), kid=b"", extra=certificates)


@_shape("sender of one RDN of thousands of values")
def _wide_sender(sending: Sending) -> bytes:
    return message(sending, sender=wide_name(sending.salt, sending.room - 1200))


@_shape("recipient of thousands of RDNs")
def _long_recipient(sending: Sending) -> bytes:
    return message(sending, recipient=long_name(sending.salt, sending.room - 1200))


@_shape("recipient of one RDN of thousands of values")
def _wide_recipient(sending: Sending) -> bytes:
    return message(sending, recipient=wide_name(sending.salt, sending.room - 1200))


@_shape("subject of thousands of RDNs in the template")
def _long_subject(sending: Sending) -> bytes:
    subject = long_name(sending.salt, sending.room - 1200)
    return message(sending, body=requests(IR, request(_usual_key(), subject)))


@_shape("subject of one huge text in the template")
def _huge_subject(sending: Sending) -> bytes:
    subject = name(sending.salt * (sending.room // 8 - 160))
    return message(sending, body=requests(IR, request(_usual_key(), subject)))


@_shape("empty elements as certificates")
def _empty_certificates(sending: Sending) -> bytes:
    return message(sending, extra=b"\x30\x00" * (sending.room // 2))


@_shape("tiny elements as certificates")
def _tiny_certificates(sending: Sending) -> bytes:
    tiny = filled(lambda n: seq(integer(n), sending.salt[:1] and _NULL), sending.room)
    return message(sending, extra=tiny)


@_shape("thousands of entries of generalInfo")
def _much_info(sending: Sending) -> bytes:
    def entry(number: int) -> bytes:
        return seq(oid(f"1.3.6.1.4.1.{sending.number % 8}.{number}"))

    return message(sending, general_info=filled(entry, sending.room - 1200))


@_shape("one infoType thousands of times")
def _doubled_info(sending: Sending) -> bytes:
    entry = seq(oid("1.3.6.1.5.5.7.4.13"), _NULL)
    return message(sending, general_info=entry * ((sending.room - 1200) // len(entry)))


@_shape("certProfile of thousands of names")
def _many_profiles(sending: Sending) -> bytes:
    names = filled(lambda n: utf8(b"%s%d" % (sending.salt, n)), sending.room - 1300)
    return message(sending, general_info=seq(oid("1.3.6.1.5.5.7.4.21"), seq(names)))


@_shape("twelve certificates of hundreds of extensions")
def _many_extensions(sending: Sending) -> bytes:
    random, facing = sending.random, sending.facing
    each = max((sending.room - MOST * 320) // MOST, 60)

    def one(n: int) -> bytes:
        extensions = filled(lambda m: extension(f"1.3.6.1.4.1.{n}.{m}", b""), each)
        return certificate(
            random, name(b"%s%d" % (sending.salt, n)), subject_of(facing.anchor), extensions
        )

    return message(sending, kid=sending.salt, extra=[one(n) for n in range(MOST)])


@_shape("one extension of one type hundreds of times")
def _doubled_extensions(sending: Sending) -> bytes:
    same = extension("2.5.29.17", seq(tlv(0x82, sending.salt)))
    return _signer(sending, _usual_key(), same * ((sending.room - 600) // len(same)))


@_shape("one huge unknown extension")
def _huge_extension(sending: Sending) -> bytes:
    octets = sending.random.randbytes(sending.room - 600)
    return _signer(sending, _usual_key(), extension("1.3.6.1.4.1.99999.2", octets))


@_shape("thousands of subjectAltNames in the signer")
def _many_names(sending: Sending) -> bytes:
    names = filled(lambda n: tlv(0x82, b"%s%d.x" % (sending.salt, n)), sending.room - 600)
    return _signer(sending, _usual_key(), extension("2.5.29.17", seq(names)))


@_shape("thousands of URLs of CRLs in the signer")
def _many_urls(sending: Sending) -> bytes:
    def point(n: int) -> bytes:
        return seq(tlv(0xA0, tlv(0xA0, tlv(0x86, b"http://%s/%d" % (sending.salt, n)))))

    points = extension("2.5.29.31", seq(filled(point, sending.room - 600)))
    return _signer(sending, _usual_key(), points)


@_shape("thousands of policies in the signer")
def _many_policies(sending: Sending) -> bytes:
    policies = filled(
        lambda n: seq(oid(f"1.3.6.1.4.1.{sending.number % 8}.{n}")), sending.room - 600
    )
    return _signer(sending, _usual_key(), extension("2.5.29.32", seq(policies)))


@_shape("thousands of purposes in the signer")
def _many_purposes(sending: Sending) -> bytes:
    purposes = filled(lambda n: oid(f"1.3.6.1.4.1.{sending.number % 8}.{n}"), sending.room - 600)
    return _signer(sending, _usual_key(), extension("2.5.29.37", seq(purposes)))


@_shape("CA with thousands of name constraints")
def _many_constraints(sending: Sending) -> bytes:
    facing, random, salt = sending.facing, sending.random, sending.salt
    ski, ca_ski = salt * 2, salt + b"CA"
    half = (sending.room - 1400) // 2
    names = filled(lambda n: tlv(0x82, b"%s%d.x" % (salt, n)), half)
    subtrees = filled(lambda n: seq(tlv(0x82, b"%s%d.y" % (salt, n))), half)
    constraints = extension("2.5.29.30", seq(tlv(0xA0, subtrees)), critical=True)
    own = certificate(
        random,
        name(salt),
        name(salt + b"CA"),
        *END_ENTITY,
        *key_identifiers(ski, ca_ski),
        extension("2.5.29.17", seq(names)),
    )
    ca = certificate(
        random,
        name(salt + b"CA"),
        subject_of(facing.anchor),
        *CA_CERTIFICATE,
        *key_identifiers(ca_ski, key_identifier_of(facing.anchor)),
        constraints,
    )
    return message(sending, sender=name(salt), kid=ski, extra=(own, ca))


@_shape("huge serial number in the signer")
def _huge_serial(sending: Sending) -> bytes:
    serial = tlv(0x02, b"\x01" + sending.random.randbytes(sending.room - 600))
    return _signer(sending, _usual_key(), serial=serial)


@_shape("huge signature in the signer")
def _huge_certificate_signature(sending: Sending) -> bytes:
    octets = sending.random.randbytes(sending.room - 600)
    return _signer(sending, _usual_key(), signature=octets, algorithm=RSA_SHA256)


@_shape("huge integers in the signer's ECDSA signature")
def _huge_certificate_integers(sending: Sending) -> bytes:
    half = sending.random.randbytes((sending.room - 600) // 2)
    signature = seq(tlv(0x02, b"\x01" + half), tlv(0x02, b"\x01" + half))
    return _signer(sending, _usual_key(), signature=signature)


@_shape("huge signature under a real chain")
def _huge_signature(sending: Sending) -> bytes:
    return message(sending, protection=sending.random.randbytes(sending.room))


@_shape("huge integers in the ECDSA signature under a real chain")
def _huge_integers(sending: Sending) -> bytes:
    half = sending.random.randbytes(sending.room // 2)
    return message(sending, protection=seq(tlv(0x02, b"\x01" + half), tlv(0x02, b"\x01" + half)))


def _pss(salt_length: bytes, digest: str = "2.16.840.1.101.3.4.2.1") -> bytes:
    hashing = seq(oid(digest))
    mask = seq(oid("1.2.840.113549.1.1.8"), hashing)
    parameters = seq(tlv(0xA0, hashing), tlv(0xA1, mask), tlv(0xA2, salt_length))
    return seq(oid("1.2.840.113549.1.1.10"), parameters)


@_shape("PSS with a huge salt length")
def _huge_salt_length(sending: Sending) -> bytes:
    salt = tlv(0x02, b"\x01" + sending.random.randbytes(sending.room))
    return message(sending, algorithm=_pss(salt))


@_shape("PSS in another spelling on every certificate")
def _spelt_pss(sending: Sending) -> bytes:
    random, ski = sending.random, sending.salt * 2
    certificates = [
        _below_anchor(
            sending,
            random,
            name(sending.salt),
            algorithm=_pss(integer(sending.number * 17 + n)),
            key=rsa_key(2048, n),
        )
        for n in range(MOST)
    ]
    return message(sending, sender=name(sending.salt), kid=ski, extra=certificates)


@_shape("huge arc in the protection's OID")
def _huge_arc(sending: Sending) -> bytes:
    arc = b"\x88" + bytes(0x80 | octet for octet in sending.random.randbytes(sending.room))
    return message(sending, algorithm=seq(tlv(0x06, b"\x2a" + arc + b"\x01")))


@_shape("thousands of arcs in the protection's OID")
def _many_arcs(sending: Sending) -> bytes:
    arcs = bytes(octet & 0x7F for octet in sending.random.randbytes(sending.room))
    return message(sending, algorithm=seq(tlv(0x06, b"\x2a" + arcs)))


@_shape("huge parameters of the protection's algorithm")
def _huge_parameters(sending: Sending) -> bytes:
    parameters = octet_string(sending.random.randbytes(sending.room))
    return message(sending, algorithm=seq(oid("1.2.840.10045.4.3.2"), parameters))


@_shape("huge pvno")
def _huge_version(sending: Sending) -> bytes:
    return message(sending, pvno=tlv(0x02, b"\x01" + sending.random.randbytes(sending.room)))


@_shape("huge transactionID")
def _huge_transaction(sending: Sending) -> bytes:
    return message(sending, transaction_id=sending.random.randbytes(sending.room))


@_shape("huge senderNonce")
def _huge_nonce(sending: Sending) -> bytes:
    return message(sending, nonce=sending.random.randbytes(sending.room))


@_shape("huge senderKID")
def _huge_kid(sending: Sending) -> bytes:
    return message(sending, kid=sending.random.randbytes(sending.room))


@_shape("huge freeText")
def _huge_text(sending: Sending) -> bytes:
    return message(sending, free_text=utf8(b"\x1b" * sending.room))


@_shape("thousands of freeTexts")
def _many_texts(sending: Sending) -> bytes:
    return message(sending, free_text=filled(lambda n: utf8(b"%d" % n), sending.room))


@_shape("thousands of CertReqMsg")
def _many_requests(sending: Sending) -> bytes:
    one = request(_usual_key(), name(sending.salt))
    return message(sending, body=requests(IR, one * (sending.room // len(one))))


@_shape("huge certReqId")
def _huge_request_id(sending: Sending) -> bytes:
    number = tlv(0x02, b"\x01" + sending.random.randbytes(sending.room))
    return message(sending, body=requests(IR, request(_usual_key(), name(b"x"), req_id=number)))


@_shape("thousands of extensions in the template")
def _template_extensions(sending: Sending) -> bytes:
    extensions = filled(lambda n: extension(f"1.3.6.1.4.1.99999.{n}", b""), sending.room - 300)
    template = seq(tlv(0xA5, name(sending.salt)), b"\xa6" + _usual_key()[1:], tlv(0xA9, extensions))
    proof = tlv(0xA1, ECDSA, bits(nonsense(sending.random)))
    return message(sending, body=requests(IR, seq(seq(integer(0), template), proof)))


@_shape("thousands of controls and regInfo")
def _many_controls(sending: Sending) -> bytes:
    controls = filled(lambda n: seq(oid(f"1.3.6.1.4.1.99999.{n}"), _NULL), sending.room - 300)
    template = seq(tlv(0xA5, name(sending.salt)), b"\xa6" + _usual_key()[1:])
    proof = tlv(0xA1, ECDSA, bits(nonsense(sending.random)))
    return message(sending, body=requests(IR, seq(seq(integer(0), template, seq(controls)), proof)))


def _mac(sending: Sending, algorithm: bytes, reference: bytes) -> bytes:
    return message(
        sending,
        sender=name(reference),
        kid=reference,
        algorithm=algorithm,
        protection=sending.random.randbytes(32),
        extra=(),
    )


def _pbm(iterations: int, salt: bytes, digest: str = "2.16.840.1.101.3.4.2.1") -> bytes:
    owf, mac = seq(oid(digest)), seq(oid("1.2.840.113549.2.9"))
    parameters = seq(octet_string(salt), owf, integer(iterations), mac)
    return seq(oid("1.2.840.113533.7.66.13"), parameters)


def _pbmac1(
    iterations: int, salt: bytes, key_octets: bytes, mac: str = "1.2.840.113549.2.11"
) -> bytes:
    hmac = seq(oid(mac), _NULL)
    pbkdf2 = seq(octet_string(salt), integer(iterations), key_octets, hmac)
    function = seq(oid("1.2.840.113549.1.5.12"), pbkdf2)
    return seq(oid("1.2.840.113549.1.5.14"), seq(function, hmac))


_KNOWN: Final = REFERENCE.encode()


@_shape("PasswordBasedMac, unknown reference")
def _pbm_unknown(sending: Sending) -> bytes:
    return _mac(sending, _pbm(MOST_ITERATIONS, sending.salt * 2), b"unknown-" + sending.salt)


@_shape("PasswordBasedMac, known reference")
def _pbm_known(sending: Sending) -> bytes:
    return _mac(sending, _pbm(MOST_ITERATIONS, sending.salt * 2), _KNOWN)


@_shape("PasswordBasedMac with SHA-512, known reference")
def _pbm_sha512(sending: Sending) -> bytes:
    sha512 = "2.16.840.1.101.3.4.2.3"
    return _mac(sending, _pbm(MOST_ITERATIONS, sending.salt * 2, sha512), _KNOWN)


@_shape("PasswordBasedMac of 2^60 iterations")
def _pbm_endless(sending: Sending) -> bytes:
    return _mac(sending, _pbm(1 << 60, sending.salt * 2), _KNOWN)


@_shape("PasswordBasedMac of a huge number of iterations")
def _pbm_huge(sending: Sending) -> bytes:
    return _mac(sending, _pbm(1 << 8 * (sending.room - 600), sending.salt * 2), _KNOWN)


@_shape("PBMAC1, known reference")
def _pbmac1_known(sending: Sending) -> bytes:
    return _mac(sending, _pbmac1(MOST_ITERATIONS, sending.salt * 2, integer(64)), _KNOWN)


@_shape("PBMAC1 for a key of several blocks")
def _pbmac1_blocks(sending: Sending) -> bytes:
    sha256 = "1.2.840.113549.2.9"
    return _mac(
        sending, _pbmac1(MOST_ITERATIONS // 2, sending.salt * 2, integer(64), sha256), _KNOWN
    )


@_shape("PBMAC1 for a key of 2^60 octets")
def _pbmac1_key(sending: Sending) -> bytes:
    return _mac(sending, _pbmac1(20_000, sending.salt * 2, integer(1 << 60)), _KNOWN)


@_shape("PBMAC1 for a key of a huge number of octets")
def _pbmac1_huge(sending: Sending) -> bytes:
    octets = integer(1 << 8 * (sending.room - 600))
    return _mac(sending, _pbmac1(20_000, sending.salt * 2, octets), _KNOWN)


@_shape("huge reference of a shared secret")
def _huge_reference(sending: Sending) -> bytes:
    return _mac(sending, _pbm(500, sending.salt * 2), sending.salt * ((sending.room - 600) // 16))


@_shape("nested in nested in nested")
def _nested_deep(sending: Sending) -> bytes:
    found = message(sending, extra=())
    while len(found) + 700 < sending.octets:
        found = message(sending, body=tlv(NESTED, seq(found)), extra=())
    return found


@_shape("nested around thousands of empty elements")
def _nested_empty(sending: Sending) -> bytes:
    return message(sending, body=tlv(NESTED, seq(b"\x30\x00" * (sending.room // 2))))


@_shape("nested around hundreds of messages")
def _nested_many(sending: Sending) -> bytes:
    one = message(sending, extra=())
    return message(sending, body=tlv(NESTED, seq(one * ((sending.room - 200) // len(one)))))


@_shape("certConf of thousands of CertStatus")
def _many_statuses(sending: Sending) -> bytes:
    one = filled(lambda n: seq(octet_string(b"12345678"), integer(n)), sending.room)
    return message(sending, body=tlv(CERT_CONF, seq(one)))


@_shape("pollReq of thousands of certReqIds")
def _many_polls(sending: Sending) -> bytes:
    return message(
        sending, body=tlv(POLL_REQ, seq(filled(lambda n: seq(integer(n)), sending.room)))
    )


@_shape("rr of thousands of certificates")
def _many_revocations(sending: Sending) -> bytes:
    def one(n: int) -> bytes:
        return seq(seq(b"\x81" + integer(n)[1:], tlv(0xA3, subject_of(sending.facing.anchor))))

    return message(sending, body=tlv(RR, seq(filled(one, sending.room))))


@_shape("genm of thousands of questions")
def _many_questions(sending: Sending) -> bytes:
    questions = filled(lambda n: seq(oid(f"1.3.6.1.4.1.99999.{n}")), sending.room)
    return message(sending, body=tlv(GENM, seq(questions)))


@_shape("error of thousands of texts")
def _many_errors(sending: Sending) -> bytes:
    texts = seq(filled(lambda n: utf8(b"\x1b]0;%d" % n), sending.room))
    return message(sending, body=tlv(ERROR, seq(seq(integer(2), texts))))


def _filled_request(sending: Sending, extensions: bytes, controls: bytes, info: bytes) -> bytes:
    template = seq(tlv(0xA5, name(sending.salt)), b"\xa6" + _usual_key()[1:], extensions)
    proof = tlv(0xA1, ECDSA, bits(nonsense(sending.random)))
    return requests(IR, seq(seq(integer(0), template, controls), proof, info))


def _attributes(sending: Sending) -> bytes:
    """Return many attributes of a PKCS#10, or controls, or regInfo: they look the same."""
    return filled(lambda n: seq(oid(f"1.3.6.1.4.1.99999.{n}"), tlv(0x31, _NULL)), sending.room)


def _unlike_extensions(octets: int) -> bytes:
    return filled(lambda n: extension(f"1.3.6.1.4.1.99999.{n}", b""), octets)


def _inside(what: str, make: Make) -> None:
    INSIDE[what] = make


def _insider(body: Callable[[Sending], bytes], **more: Any) -> Make:
    return lambda sending: message(sending, body=body(sending), insider=True, **more)


_inside("good signature, wrong proof", _insider(usual_body))
_inside(
    "subject of thousands of RDNs",
    _insider(lambda s: requests(IR, request(_usual_key(), long_name(s.salt, s.room - 1200)))),
)
_inside(
    "subject of one RDN of thousands of values",
    _insider(lambda s: requests(IR, request(_usual_key(), wide_name(s.salt, s.room - 1200)))),
)
_inside(
    "thousands of CertReqMsg",
    _insider(lambda s: requests(IR, request(_usual_key(), name(s.salt)) * (s.room // 250))),
)
_inside(
    "p10cr of thousands of attributes",
    _insider(
        lambda s: tlv(
            P10CR,
            seq(
                seq(integer(0), name(s.salt), _usual_key(), tlv(0xA0, _attributes(s))),
                ECDSA,
                bits(nonsense(s.random)),
            ),
        )
    ),
)
_inside(
    "thousands of extensions",
    _insider(lambda s: _filled_request(s, tlv(0xA9, _unlike_extensions(s.room)), b"", b"")),
)
_inside(
    "thousands of controls",
    _insider(lambda s: _filled_request(s, b"", seq(_attributes(s)), b"")),
)
_inside(
    "thousands of regInfo",
    _insider(lambda s: _filled_request(s, b"", b"", seq(_attributes(s)))),
)
_inside(
    "rr of thousands of extensions",
    _insider(
        lambda s: tlv(
            RR,
            seq(seq(seq(b"\x81\x01\x01", tlv(0xA3, NULL_DN)), seq(_unlike_extensions(s.room)))),
        )
    ),
)
_inside(
    "rr of one certificate of a long issuer",
    _insider(
        lambda s: tlv(
            RR,
            seq(seq(seq(b"\x81" + integer(s.number)[1:], tlv(0xA3, long_name(s.salt, s.room))))),
        )
    ),
)


# --- OCSP ---------------------------------------------------------------------------------------------------------


def _cert_id(issuer: tuple[bytes, bytes], serial: bytes, digest: str = "1.3.14.3.2.26") -> bytes:
    name_hash, key_hash = issuer
    return seq(seq(oid(digest), _NULL), octet_string(name_hash), octet_string(key_hash), serial)


def ocsp_requests(
    issuer: tuple[bytes, bytes], octets: int
) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Yield shapes of OCSP requests, each with what makes one from a number.

    Args:
        issuer: SHA-1 of the name and of the key of a CA that is answered for.
        octets: How many a request may have.
    """
    room = octets - 150

    def one(n: int, **more: Any) -> bytes:
        return seq(_cert_id(issuer, integer(n + 1), **more))

    def asked(*parts: bytes, extensions: bytes = b"") -> bytes:
        wrapped = tlv(0xA2, seq(extensions)) if extensions else b""
        return seq(seq(seq(*parts), wrapped))

    def nonce(value: bytes) -> bytes:
        return extension("1.3.6.1.5.5.7.48.1.2", value)

    yield "one certificate", lambda n: asked(one(n))
    yield "many certificates", lambda n: asked(filled(lambda m: one(n + m), room))
    yield "one certificate again and again", lambda n: asked(one(n) * (room // len(one(n))))
    yield (
        "a nonce of any length",
        lambda n: asked(one(n), extensions=nonce(octet_string(Random(n).randbytes(room - 40)))),
    )
    yield (
        "a nonce of 32 octets",
        lambda n: asked(one(n), extensions=nonce(octet_string(Random(n).randbytes(32)))),
    )
    yield (
        "many extensions",
        lambda n: asked(
            one(n),
            extensions=filled(lambda m: extension(f"1.3.6.1.4.1.{n % 8}.{m}", b""), room - 20),
        ),
    )
    yield (
        "a huge serial number",
        lambda n: asked(seq(_cert_id(issuer, tlv(0x02, b"\x01" + Random(n).randbytes(room))))),
    )
    yield (
        "a serial number of 20 octets",
        lambda n: asked(seq(_cert_id(issuer, tlv(0x02, b"\x01" + Random(n).randbytes(19))))),
    )
    yield (
        "huge hashes",
        lambda n: asked(seq(_cert_id((Random(n).randbytes(room // 2), b""), integer(n)))),
    )
    yield (
        "a huge arc in the hash's OID",
        lambda n: asked(
            seq(
                seq(
                    seq(tlv(0x06, b"\x2a" + b"\xff" * room + b"\x01")),
                    octet_string(b""),
                    octet_string(b""),
                    integer(n),
                )
            )
        ),
    )
    yield "deep SEQUENCEs", lambda n: _wrapped(integer(n), octets - 8)
    yield "garbage", lambda n: Random(n).randbytes(octets)
    yield "empty SEQUENCEs", lambda n: asked(b"\x30\x00" * (room // 2), integer(n))
    yield (
        "a requestor's long name",
        lambda n: seq(seq(tlv(0xA1, tlv(0xA4, long_name(b"%08d" % n, room - 80))), seq(one(n)))),
    )
    yield (
        "a signature and certificates",
        lambda n: seq(
            seq(seq(one(n))),
            tlv(0xA0, seq(ECDSA, bits(b"x"), tlv(0xA0, seq(b"\x30\x00" * ((room - 80) // 2))))),
        ),
    )


def paths(octets: int) -> Iterator[tuple[str, Callable[[int], str]]]:
    """Yield shapes of request targets for a status listener.

    Args:
        octets: How many one may have.
    """
    room = octets - 100
    yield "long name of a CRL", lambda n: f"/crl/{'a' * room}{n}.crl"
    yield "long unknown path", lambda n: "/" + f"x{n}/" * (room // 8)
    yield "slashes", lambda n: "/" * room + f"{n}"
    yield "percent signs", lambda n: "/ocsp/" + "%41" * (room // 3) + f"%{n % 90 + 10}"
    yield "percent signs that mean nothing", lambda n: "/ocsp/" + "%" * room + f"{n}"
    yield "base64 that is none", lambda n: "/ocsp/" + "!" * room + f"{n}"
    yield (
        "base64 of zeros",
        lambda n: "/ocsp/" + base64.b64encode(bytes(room * 3 // 4)).decode() + f"{n}",
    )
    yield "unknown CA certificate", lambda n: f"/ca/{n:0{room}x}.cer"
    yield "absolute URL", lambda n: f"http://[{':' * room}]/{n}"
