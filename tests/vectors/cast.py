"""Who speaks in the vectors: keys and certificates that never change, one PEM file for each in `pki/`."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type.univ import BitString
from pyasn1_modules import rfc5280

from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS, SignatureAlgorithm, default_algorithm
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.cmp.protection import Credential
from ra_gateway.keys import KeySigner
from tests.support import pki
from tests.support.ber import SHAPES
from tests.support.der import Node, parse

DIRECTORY: Final = Path(__file__).parent / "pki"
SHA1_RSA: Final = SIGNATURE_ALGORITHMS["rsa-pkcs1-sha1"]
LEGACY_SERIAL: Final = "00012345678900000012"
OPERATOR_SUBJECT: Final = "CN=enb-1.ran.example.net"

NEW_KEYS: Final[dict[str, pki.KeyKind]] = {
    "new-p256": "p256",
    "new-other": "p256",
    "new-rsa2048": "rsa2048",
    "new-rsa1024": "rsa1024",
    "new-mldsa44": "mldsa44",
}
"""Keys that certificates are asked for."""


class SteadySigner(KeySigner):
    """Signs the same octets the same way every time, where the algorithm allows it (RFC 6979)."""

    def __init__(self, private_key: Any, algorithm: SignatureAlgorithm | None = None) -> None:
        super().__init__(private_key, algorithm or default_algorithm(private_key.public_key()))
        if isinstance(private_key, ec.EllipticCurvePrivateKey):
            (usual,) = self._arguments
            self._arguments = (ec.ECDSA(usual.algorithm, deterministic_signing=True),)


@dataclass(frozen=True, slots=True)
class Member:
    """A private key with its certificate and the certificates above it, the root last; none for a bare key."""

    private_key: Any
    certificates: tuple[Certificate, ...]

    @property
    def certificate(self) -> Certificate:
        """Its own certificate."""
        return self.certificates[0]

    def credential(self, algorithm: SignatureAlgorithm | None = None) -> Credential:
        """Return what signs messages, with the chain up to and without its root."""
        return Credential(
            self.certificate,
            tuple(item for item in self.certificates[1:] if not item.self_issued),
            SteadySigner(self.private_key, algorithm),
        )

    def as_authority(self) -> pki.Authority:
        """Return a CA as the tests' PKI has it."""
        own, *chain = (x509.load_der_x509_certificate(item.der) for item in self.certificates)
        return pki.Authority(own, self.private_key, tuple(chain))

    def as_entity(self) -> pki.Credential:
        """Return an end entity as the tests' PKI has it."""
        own, *chain = (x509.load_der_x509_certificate(item.der) for item in self.certificates)
        return pki.Credential(own, self.private_key, tuple(chain))


@lru_cache
def member(name: str) -> Member:
    """Load one of the cast."""
    text = (DIRECTORY / f"{name}.pem").read_text()
    # Not with cryptography's loader of certificates, which minds the negative serial number of one of them.
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----(.*?)-----END", text, re.DOTALL)
    certificates = tuple(
        load_certificate(base64.b64decode(block), loosely=True) for block in blocks
    )
    return Member(serialization.load_pem_private_key(text.encode(), None), certificates)


@lru_cache
def operator() -> pki.OperatorPKI:
    """Return the operator: the gateway's RA credential is one of its certificates."""
    return pki.OperatorPKI(
        "Vector Operator",
        member("operator-root").as_authority(),
        member("operator-issuing").as_authority(),
        member("operator-ra").as_entity(),
        member("operator-cmp").as_entity(),
    )


@lru_cache
def vendor() -> pki.VendorPKI:
    """Return the vendor whose base stations are welcome."""
    return pki.VendorPKI(
        "Vector Radio",
        member("acme-root").as_authority(),
        member("acme-sub").as_authority(),
    )


# --- making them ----------------------------------------------------------------------------------------------


def make() -> None:
    """Write a new cast: every vector has to be made and recorded again after that."""
    DIRECTORY.mkdir(exist_ok=True)
    keys = {name: pki.make_key(kind) for name, kind in NEW_KEYS.items()}
    for name, key in keys.items():
        (DIRECTORY / f"{name}.pem").write_bytes(pki.key_pem(key))
    for made in _members(keys):
        write(*made)
    member.cache_clear()


def write(
    name: str, key: pki.PrivateKey, certificates: tuple[x509.Certificate | bytes, ...]
) -> None:
    """Write one of the cast: key and certificates."""
    pem = [pki.key_pem(key), *map(_pem, certificates)]
    (DIRECTORY / f"{name}.pem").write_bytes(b"".join(pem))


def _pem(certificate: x509.Certificate | bytes) -> bytes:
    der = certificate if isinstance(certificate, bytes) else pki.certificate_der(certificate)
    lines = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"


_Made = tuple[str, pki.PrivateKey, tuple[x509.Certificate | bytes, ...]]


def _of(name: str, item: pki.Authority | pki.Credential) -> _Made:
    return name, item.private_key, (item.certificate, *item.chain)


def _members(keys: dict[str, pki.PrivateKey]) -> Iterator[_Made]:
    operator_pki = pki.make_operator_pki("Vector Operator")
    for name, kind in {"issued": "new-p256", "issued-other": "new-other"}.items():
        yield _of(
            name,
            operator_pki.issuing.issue(OPERATOR_SUBJECT, keys[kind], san=["dns:enb-1.example.net"]),
        )
    yield _of("operator-root", operator_pki.root)
    yield _of("operator-issuing", operator_pki.issuing)
    yield _of("operator-ra", operator_pki.ra)
    local = f"CN=Local RA,O={operator_pki.name}"
    yield _of("local-ra", operator_pki.issuing.issue(local, eku=[pki.CMC_RA]))
    yield _of("operator-cmp", operator_pki.cmp_signer)
    yield _of("enb", operator_pki.issuing.issue(OPERATOR_SUBJECT))
    yield _of("legacy-enb", legacy_enb(operator_pki.issuing, keys["new-rsa2048"]))
    yield _of("other-enb", operator_pki.issuing.issue("CN=enb-2.ran.example.net"))
    vendor_pki = pki.make_vendor_pki("Vector Radio")
    yield _of("acme-root", vendor_pki.root)
    yield _of("acme-sub", vendor_pki.sub)
    yield _of("device", vendor_pki.device("ENB-1"))
    kinds: dict[str, pki.KeyKind] = {"device-rsa": "rsa2048", "device-ed25519": "ed25519"}
    for name, kind in {**kinds, "device-ed448": "ed448", "device-p384": "p384"}.items():
        yield _of(name, vendor_pki.device(name.upper(), kind))
    yield _of("device-no-usage", vendor_pki.device("ENB-2", key_usage=["keyAgreement"]))
    long_ago = pki.VALID_FROM.replace(year=2024)
    yield _of("device-expired", vendor_pki.device("ENB-3", not_after=long_ago))
    stranger = pki.make_vendor_pki("Unknown Radio")
    yield _of("stranger-root", stranger.root)
    yield _of("stranger", stranger.device("ENB-1"))
    quantum = pki.make_root("CN=Lattice Radio Root CA,O=Lattice Radio", "mldsa44")
    yield _of("lattice-root", quantum)
    yield _of("lattice-device", quantum.issue("CN=ENB-1,O=Lattice Radio", "mldsa44"))
    yield from _legacy()


def _legacy() -> Iterator[_Made]:
    """A vendor of 2011: SHA-1 throughout, RSA-1024 in the device, a negative serial number of 17 octets."""
    made = pki.make_root("CN=Legacy Radio Root CA,O=Legacy Radio", "rsa2048")
    root = pki.Authority(pki.resign_with_sha1(made.certificate, made), made.private_key)
    issued = root.issue_ca("CN=Legacy Radio Product CA,O=Legacy Radio", "rsa2048")
    sub = pki.Authority(
        pki.resign_with_sha1(issued.certificate, root), issued.private_key, (root.certificate,)
    )
    leaf = sub.issue(f"CN={LEGACY_SERIAL},O=Legacy Radio", "rsa1024", subject_key_identifier=False)
    yield _of("legacy-root", root)
    yield legacy_ber(root)
    yield "legacy-device", leaf.private_key, (_negative(leaf, sub), sub.certificate, *sub.chain)


def legacy_enb(issuing: pki.Authority, key: pki.PrivateKey) -> pki.Credential:
    """Return what that vendor's device was issued."""
    names = [f"dns:{LEGACY_SERIAL}.enodeb.example.net"]
    return issuing.issue(f"CN={LEGACY_SERIAL} eNodeB", key, san=names)


def legacy_ber(root: pki.Authority) -> _Made:
    """A device of that vendor whose certificate is BER and not DER: cA FALSE is written out, and TRUE is 01."""
    leaf = root.issue(
        f"CN={LEGACY_SERIAL},O=Legacy Radio",
        "rsa2048",
        subject_key_identifier=False,
        basic_constraints=x509.BasicConstraints(ca=False, path_length=None),
    )
    whole = parse(leaf.der)
    for name in ("cA FALSE written out", "critical by 01"):
        SHAPES[name][0](whole.at(0))
    sha1 = parse(SHA1_RSA.der)
    whole.at(0).content[2] = whole.content[1] = sha1
    assert isinstance(root.private_key, rsa.RSAPrivateKey)
    signature = root.private_key.sign(whole.at(0).encode(), padding.PKCS1v15(), hashes.SHA1())
    whole.content[2] = Node(b"\x03", b"\x00" + signature)
    return "legacy-ber", leaf.private_key, (whole.encode(), root.certificate)


def _negative(issued: pki.Credential, issuer: pki.Authority) -> bytes:
    changed, _ = decode(issued.der, asn1Spec=rfc5280.Certificate())
    tbs = changed["tbsCertificate"]
    tbs["serialNumber"] = -(1 << 130) - 1
    tbs["signature"]["algorithm"] = "1.2.840.113549.1.1.5"
    assert isinstance(issuer.private_key, rsa.RSAPrivateKey)
    signature = issuer.private_key.sign(encode(tbs), padding.PKCS1v15(), hashes.SHA1())
    changed["signatureAlgorithm"]["algorithm"] = tbs["signature"]["algorithm"]
    changed["signature"] = BitString.fromOctetString(signature)
    der: bytes = encode(changed)
    return der
