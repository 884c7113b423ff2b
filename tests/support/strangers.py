"""Messages of strangers: nothing in them was signed by anybody, all of them want to be dear."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.cmp.oids import OID
from tests.support.hostile import MOST

ECDSA = SIGNATURE_ALGORITHMS["ecdsa-sha256"].der
KID = bytes(range(20))
MAX_BODY_OCTETS = 65_536
_NULL = b"\x05\x00"
_PRIME = 2**2048 - 19  # its primality is nobody's business


def sequence(*parts: bytes) -> bytes:
    return asn1.tlv(0x30, *parts)


def context(number: int, *parts: bytes) -> bytes:
    """An EXPLICIT tag around parts."""
    return asn1.tlv(0xA0 | number, *parts)


def rdn(*values: str) -> bytes:
    return asn1.tlv(
        0x31,
        *sorted(
            sequence(asn1.oid_der("2.5.4.3"), asn1.tlv(0x0C, value.encode())) for value in values
        ),
    )


def long_name(rdns: int, last: str = "") -> bytes:
    """A Name of many RDNs."""
    return sequence(*(rdn("a") for _ in range(rdns)), rdn(last or "z"))


def spki(algorithm: str, parameters: bytes, key: bytes) -> bytes:
    return sequence(sequence(asn1.oid_der(algorithm), parameters), asn1.tlv(0x03, b"\x00", key))


def rsa_key(bits: int, exponent: int = 65537) -> bytes:
    modulus = (1 << (bits - 1)) | 1
    numbers = sequence(asn1.encode(modulus), asn1.encode(exponent))
    return spki("1.2.840.113549.1.1.1", _NULL, numbers)


def _explicit_curve() -> bytes:
    field = sequence(asn1.oid_der("1.2.840.10045.1.1"), asn1.encode((1 << 4096) - 1))
    curve = sequence(asn1.encode(bytes(512)), asn1.encode(bytes(512)))
    return sequence(
        b"\x02\x01\x01", field, curve, asn1.encode(b"\x04" + bytes(1024)), asn1.encode(1 << 4095)
    )


P256 = asn1.oid_der("1.2.840.10045.3.1.7")
EC = "1.2.840.10045.2.1"
P256_KEY = spki(EC, P256, b"\x04" + bytes(64))

FOREIGN_KEYS: dict[str, bytes] = {
    "dhKeyAgreement": spki(
        "1.2.840.113549.1.3.1",
        sequence(asn1.encode(_PRIME), asn1.encode(2)),
        asn1.encode(_PRIME - 2),
    ),
    "X9.42 DH": spki(
        "1.2.840.10046.2.1",
        sequence(asn1.encode(_PRIME), asn1.encode(2), asn1.encode(_PRIME // 2)),
        asn1.encode(_PRIME - 2),
    ),
    "DSA": spki(
        "1.2.840.10040.4.1",
        sequence(asn1.encode(_PRIME), asn1.encode(2**256 - 189), asn1.encode(2)),
        asn1.encode(_PRIME - 2),
    ),
    "X25519": spki("1.3.101.110", b"", bytes(32)),
    "X448": spki("1.3.101.111", b"", bytes(56)),
    "explicit curve": spki(EC, _explicit_curve(), b"\x04" + bytes(1024)),
    "secp256k1": spki(EC, asn1.oid_der("1.3.132.0.10"), b"\x04" + bytes(64)),
    "no curve": spki(EC, b"", b"\x04" + bytes(64)),
    "point at infinity": spki(EC, P256, b"\x00"),
    "hybrid point": spki(EC, P256, b"\x06" + bytes(64)),
    "long point": spki(EC, P256, b"\x04" + bytes(65)),
    "RSA of 16392 bits": rsa_key(16_392),
    "RSA of 400000 bits": rsa_key(400_000),
    "RSA with a long exponent": rsa_key(2048, (1 << 2000) | 1),
    "RSA with an even exponent": rsa_key(2048, 65_536),
    "RSA with parameters": spki("1.2.840.113549.1.1.1", b"\x04\x00", rsa_key(2048)[-270:]),
    "RSASSA-PSS": spki("1.2.840.113549.1.1.10", b"", rsa_key(2048)[-270:]),
    "Ed25519 of 33 octets": spki("1.3.101.112", b"", bytes(33)),
    "Ed25519 with NULL": spki("1.3.101.112", _NULL, bytes(32)),
    "ML-DSA-44 too short": spki("2.16.840.1.101.3.4.3.17", b"", bytes(1311)),
    "ML-KEM-512": spki("2.16.840.1.101.3.4.4.1", b"", bytes(800)),
    "unknown": spki("1.2.3.4", b"", bytes(32)),
}
"""SubjectPublicKeyInfos that nobody may have loaded, by what they are."""


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return sequence(asn1.oid_der(oid), b"\x01\x01\xff" if critical else b"", asn1.tlv(0x04, value))


SKI = extension(OID.subjectKeyIdentifier, asn1.tlv(0x04, KID))
CA = extension(OID.basicConstraints, sequence(b"\x01\x01\xff"), critical=True)


def forged(
    subject: bytes,
    issuer: bytes,
    key: bytes,
    *extensions: bytes,
    serial: int | None = None,
    signature: bytes = b"\x30\x06\x02\x01\x01\x02\x01\x01",
) -> bytes:
    """A certificate with a nonsense signature."""
    validity = sequence(asn1.tlv(0x17, b"250101000000Z"), asn1.tlv(0x17, b"490101000000Z"))
    parts = [
        context(0, b"\x02\x01\x02"),
        asn1.encode(secrets.randbits(64) if serial is None else serial),
        ECDSA,
        issuer,
        validity,
        subject,
        key,
    ]
    if extensions:
        parts.append(context(3, sequence(*extensions)))
    return sequence(sequence(*parts), ECDSA, asn1.tlv(0x03, b"\x00", signature))


@dataclass(frozen=True)
class Stranger:
    """Who has overheard one conforming ir, and makes others of it without any key.

    Args:
        heard: The ir.
        anchor: Of the vendor: public.
        key_der: SubjectPublicKeyInfo of a good key.
    """

    heard: PKIMessage
    anchor: Certificate

    @property
    def key_der(self) -> bytes:
        return self.anchor.spki_der

    def message(
        self,
        *extra_certs: bytes,
        sender: bytes | None = None,
        kid: bytes | None = KID,
        algorithm: bytes = ECDSA,
        free_text: bytes = b"",
        general_info: bytes = b"",
        transaction_id: bytes | None = None,
        body: bytes = b"",
        protection: bytes = b"\x30\x06\x02\x01\x01\x02\x01\x01",
        pvno: bytes = b"\x02\x01\x02",
    ) -> bytes:
        """A message with whatever is given, and the rest in order."""
        moment = self.heard.header.message_time
        assert moment is not None
        header = sequence(
            pvno,
            context(4, sequence() if sender is None else sender),
            context(4, sequence()),
            context(0, asn1.encode(asn1.generalized_time(moment))),
            context(1, algorithm),
            b"" if kid is None else context(2, asn1.tlv(0x04, kid)),
            context(4, asn1.tlv(0x04, transaction_id or secrets.token_bytes(16))),
            context(5, asn1.tlv(0x04, secrets.token_bytes(16))),
            context(7, free_text) if free_text else b"",
            context(8, general_info) if general_info else b"",
        )
        return sequence(
            header,
            body or self.heard.body_der,
            context(0, asn1.tlv(0x03, b"\x00", protection)),
            context(1, sequence(*extra_certs)) if extra_certs else b"",
        )

    def signer(self, *extensions: bytes, issuer: bytes | None = None, key: bytes = b"") -> bytes:
        """A certificate that senderKID names, issued by the vendor's root, so it says."""
        return forged(
            from_rfc4514("CN=ENB-9"),
            issuer or self.anchor.subject_der,
            key or self.key_der,
            SKI,
            *extensions,
        )


def _filled(element: bytes, octets: int = 60_000) -> bytes:
    return element * (octets // len(element))


def _name_bomb(of: Stranger, rdns: int = 380) -> bytes:
    """Three signers of one key identifier, issued by a long name; five CAs of that name, issued by themselves."""
    name = long_name(rdns, secrets.token_hex(4))
    signers = [of.signer(issuer=name) for _ in range(3)]
    cas = [forged(name, name, of.key_der, CA) for _ in range(2)]
    return of.message(*signers, *cas)


def _thicket(of: Stranger) -> bytes:
    """CAs of two names that certify each other, and the vendor's root: as many paths as there are."""
    one, two = from_rfc4514("CN=One"), from_rfc4514("CN=Two")
    cas = [forged(one, two, of.key_der, CA) for _ in range(6)]
    cas += [forged(two, one, of.key_der, CA) for _ in range(5)]
    cas += [forged(one, of.anchor.subject_der, of.key_der, CA) for _ in range(2)]
    return of.message(*(of.signer(issuer=one) for _ in range(3)), *cas)


def _brood(of: Stranger) -> bytes:
    """CAs of one name, each below the vendor's root, and three signers that any of them may have issued."""
    name = from_rfc4514("CN=Brood")
    cas = [forged(name, of.anchor.subject_der, of.key_der, CA) for _ in range(MOST - 3)]
    return of.message(*(of.signer(issuer=name) for _ in range(3)), *cas)


def _many_names(of: Stranger) -> bytes:
    """Certificates, each with the longest names that are read, and no key identifier to choose by."""
    names = [long_name(15, f"{number}-{secrets.token_hex(4)}") for number in range(32)]
    leaves = [forged(names[2 * n], names[2 * n + 1], of.key_der, CA) for n in range(MOST)]
    return of.message(*leaves, sender=long_name(15, "nobody"), kid=None)


def _wide_name(of: Stranger) -> bytes:
    name = sequence(
        asn1.tlv(0x31, *(sequence(b"\x06\x03\x55\x04\x03\x0c\x01a") for _ in range(5000)))
    )
    return of.message(of.signer(), sender=name, kid=None)


def _pbm(iterations: int) -> bytes:
    sha256 = sequence(asn1.oid_der("2.16.840.1.101.3.4.2.1"))
    hmac = sequence(asn1.oid_der("1.2.840.113549.2.9"))
    return sequence(
        asn1.oid_der("1.2.840.113533.7.66.13"),
        sequence(asn1.tlv(0x04, bytes(16)), sha256, asn1.encode(iterations), hmac),
    )


def _info(oid: str, value: bytes = b"") -> bytes:
    return sequence(asn1.oid_der(oid), value)


SHAPES: dict[str, Callable[[Stranger], bytes]] = {
    "no certificate": lambda of: of.message(),
    "three forged leaves": lambda of: of.message(*(of.signer() for _ in range(3))),
    "twelve forged leaves of one key identifier": lambda of: of.message(
        *(of.signer() for _ in range(MOST))
    ),
    **{
        f"signer with {name}": (
            lambda of, key=key: of.message(of.signer(key=key))  # type: ignore[misc]
        )
        for name, key in FOREIGN_KEYS.items()
    },
    "signers of long issuers": _name_bomb,
    "signers of long issuers that are read": lambda of: _name_bomb(of, 15),
    "thicket": _thicket,
    "brood": _brood,
    "sender of 4400 RDNs": lambda of: of.message(
        *(of.signer() for _ in range(MOST)), sender=long_name(4000), kid=None
    ),
    "twelve certificates of long names": _many_names,
    "an RDN of 5000 values": _wide_name,
    "30000 elements in extraCerts": lambda of: of.message(*[_NULL] * 30_000),
    "256 elements in extraCerts": lambda of: of.message(*[_NULL] * 256),
    "6000 entries of generalInfo": lambda of: of.message(
        general_info=sequence(_filled(_info("1.2.3")))
    ),
    "30000 texts": lambda of: of.message(free_text=sequence(_filled(b"\x0c\x00"))),
    "20000 certProfiles": lambda of: of.message(
        general_info=sequence(_info("1.3.6.1.5.5.7.4.21", sequence(_filled(b"\x0c\x01a"))))
    ),
    "16 certificates of 250 extensions": lambda of: of.message(
        *(
            of.signer(*(extension(f"1.2.3.{number}", b"") for number in range(250)))
            for _ in range(14)
        )
    ),
    "16 certificates of 24 extensions": lambda of: of.message(
        *(
            of.signer(*(extension(f"1.2.3.{number}", b"") for number in range(23)))
            for _ in range(MOST)
        )
    ),
    "a keyUsage of 30 kB": lambda of: of.message(
        of.signer(extension(OID.keyUsage, asn1.tlv(0x03, b"\x00", b"\xff" * 30_000)))
    ),
    "an authorityKeyIdentifier of 10000 issuers": lambda of: of.message(
        of.signer(
            extension(
                OID.authorityKeyIdentifier,
                sequence(asn1.tlv(0xA1, _filled(b"\x82\x00", 20_000)), b"\x82\x01\x01"),
            )
        )
    ),
    "one certificate of 60 kB": lambda of: of.message(of.signer(extension("1.2.3", bytes(59_000)))),
    "5000 iterations for an unknown reference": lambda of: of.message(
        algorithm=_pbm(5000), kid=b"nobody"
    ),
    "a million iterations": lambda of: of.message(algorithm=_pbm(1_000_000), kid=b"nobody"),
    "protectionAlg of 60 kB": lambda of: of.message(
        algorithm=sequence(asn1.oid_der("1.2.840.10045.4.3.2"), asn1.tlv(0x04, bytes(60_000)))
    ),
    "transactionID of 60 kB": lambda of: of.message(transaction_id=bytes(60_000)),
    "senderKID of 60 kB": lambda of: of.message(of.signer(), kid=bytes(60_000)),
    "pvno of 60 kB": lambda of: of.message(pvno=asn1.encode(1 << 480_000)),
    "protection of 60 kB": lambda of: of.message(of.signer(), protection=bytes(60_000)),
    "a body of 3000 requests": lambda of: of.message(
        of.signer(), body=context(0, sequence(_filled(sequence(sequence(b"\x02\x01\x00\x30\x00")))))
    ),
    "nested of 2000 messages": lambda of: of.message(
        of.signer(), body=context(20, sequence(_filled(sequence(b"\x02\x01\x00"))))
    ),
    "deep": lambda of: of.message(body=_deep(20_000)),
}
"""Whole messages by what is dear about them."""


def _deep(depth: int) -> bytes:
    der = b""
    for _ in range(depth):
        der = sequence(der)
        if len(der) > 60_000:
            break
    return context(0, der)


def shape(name: str, of: Stranger) -> bytes:
    """Build one message, which is within what the listener takes."""
    der = SHAPES[name](of)
    assert len(der) <= MAX_BODY_OCTETS, (name, len(der))
    return der
