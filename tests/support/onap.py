"""Messages as CertService of ONAP OOM makes them with Bouncy Castle, rebuilt octet by octet with keys of our own."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SignatureAlgorithm
from ra_gateway.cmp.bodies import PKIStatusInfo, cert_rep_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import Extension
from ra_gateway.cmp.messages import PKIMessage, assemble, body
from ra_gateway.cmp.names import directory_name, from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protected_part
from ra_gateway.keys import KeySigner
from tests.support.pki import Credential, PrivateKey

SHA1: Final = "1.3.14.3.2.26"
HMAC_SHA1: Final = "1.3.6.1.5.5.8.1.2"
SHA256_WITH_RSA: Final = asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.1.11"))
"""Without the NULL that RFC 4055 has there."""

EMPTY_VALIDITY: Final = bytes.fromhex("A400")

KEY_USAGE: Final = Extension("2.5.29.15", True, bytes.fromhex("030205E0"))
"""digitalSignature, nonRepudiation, keyEncipherment."""

PURPOSES: Final = Extension(
    OID.extKeyUsage,
    False,
    asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.3.2"), asn1.oid_der("1.3.6.1.5.5.7.3.1")),
)


def octets(value: bytes) -> bytes:
    return asn1.tlv(0x04, value)


def integer(value: int) -> bytes:
    return asn1.encode(value)


def explicit(number: int, content: bytes) -> bytes:
    return asn1.tlv(0xA0 | number, content)


def _time(at: datetime) -> bytes:
    return explicit(0, asn1.tlv(0x18, at.strftime("%Y%m%d%H%M%SZ").encode()))


@dataclass
class CertService:
    """The client: what it is configured with, and what a test changes of its messages.

    Args:
        reference, secret: Called rv and iak there.
        owf, mac: Of PasswordBasedMac.
        validity: In the template; b"" for none.
        cert_req_id: None draws one, as Bouncy Castle does it.
        sender: In the place of the subject that is asked for.
    """

    issuer: str
    reference: str = "onap-certservice"
    secret: str = "the secret of all of them"
    owf: str = SHA1
    mac: str = HMAC_SHA1
    validity: bytes = EMPTY_VALIDITY
    cert_req_id: int | None = None
    sender: str = ""
    algorithm: bytes = SHA256_WITH_RSA
    extensions: tuple[Extension, ...] = (KEY_USAGE, PURPOSES)
    sent: list[PKIMessage] = field(default_factory=list)

    async def request(
        self,
        subject: str,
        san: tuple[str, ...],
        now: datetime,
        *,
        key: PrivateKey,
        body_type: BodyType = BodyType.ir,
    ) -> bytes:
        """An ir or cr under its secret."""
        iterations = 1000 + secrets.randbelow(1000)
        salt = secrets.token_bytes(16)
        algorithm = asn1.tlv(
            0x30,
            asn1.oid_der(OID.passwordBasedMac),
            asn1.tlv(
                0x30,
                octets(salt),
                asn1.tlv(0x30, asn1.oid_der(self.owf)),
                integer(iterations),
                asn1.tlv(0x30, asn1.oid_der(self.mac)),
            ),
        )
        header = self._header(subject, algorithm, now, kid=self.reference.encode())
        body_der = body(body_type, asn1.tlv(0x30, await self._request(subject, san, key)))
        derived = self.secret.encode() + salt
        for _ in range(iterations):
            derived = hashlib.new({SHA1: "sha1"}.get(self.owf, "sha256"), derived).digest()
        name = "sha1" if self.mac == HMAC_SHA1 else "sha256"
        protection = hmac.digest(derived, protected_part(header, body_der), name)
        return self._sent(assemble(header, body_der, protection))

    async def update(
        self, subject: str, san: tuple[str, ...], now: datetime, *, old: Credential, key: PrivateKey
    ) -> bytes:
        """A kur under the certificate to be renewed, which is all that it sends along."""
        header = self._header(subject, self.algorithm, now)
        body_der = body(BodyType.kur, asn1.tlv(0x30, await self._request(subject, san, key)))
        signature = await self._sign(protected_part(header, body_der), old.private_key)
        certificate = old.certificate.public_bytes(Encoding.DER)
        return self._sent(assemble(header, body_der, signature, (certificate,)))

    def _header(self, subject: str, algorithm: bytes, now: datetime, kid: bytes = b"") -> bytes:
        return asn1.tlv(
            0x30,
            integer(2),
            directory_name(from_rfc4514(self.sender or subject)),
            directory_name(from_rfc4514(self.issuer)),
            _time(now),
            explicit(1, algorithm),
            explicit(2, octets(kid)) if kid else b"",
            explicit(4, octets(secrets.token_bytes(16))),
            explicit(5, octets(secrets.token_bytes(16))),
            explicit(8, asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der(OID.implicitConfirm)))),
        )

    async def _request(self, subject: str, san: tuple[str, ...], key: PrivateKey) -> bytes:
        """A CertReqMsg."""
        number = 1000 + secrets.randbelow(2**31 - 1000)
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names = Extension(OID.subjectAltName, False, general_names_der(san))
        request = asn1.tlv(
            0x30,
            integer(number if self.cert_req_id is None else self.cert_req_id),
            asn1.tlv(
                0x30,
                bytes.fromhex("800102"),
                bytes.fromhex("810100"),
                asn1.tlv(0xA2, asn1.content(asn1.element(SHA256_WITH_RSA))),
                explicit(3, from_rfc4514(self.issuer)),
                self.validity,
                explicit(5, from_rfc4514(subject)),
                asn1.tlv(0xA6, asn1.content(asn1.element(spki))),
                asn1.tlv(0xA9, *map(_extension, (*self.extensions, names))),
            ),
        )
        signature = asn1.tlv(0x03, b"\0" + await self._sign(request, key))
        return asn1.tlv(0x30, request, asn1.tlv(0xA1, self.algorithm, signature))

    async def _sign(self, octets_to_sign: bytes, key: Any) -> bytes:
        signer = KeySigner(key)
        assert isinstance(signer.algorithm, SignatureAlgorithm)
        return await signer.sign(octets_to_sign)

    def _sent(self, der: bytes) -> bytes:
        self.sent.append(PKIMessage.from_der(der))
        return der


def _extension(extension: Extension) -> bytes:
    critical = bytes.fromhex("0101FF") if extension.critical else b""
    return asn1.tlv(0x30, asn1.oid_der(extension.oid), critical, octets(extension.value))


def certificate_in(answer: PKIMessage) -> x509.Certificate:
    """What it takes out of an answer: it is content with implicitConfirm, and a root among the certificates.

    Raises:
        AssertionError: It would fail.
    """
    (response,) = cert_rep_message(answer.body_content).responses
    status = response.status_info
    assert status.issued, f"{status.status.name}: {text_of(status)}"
    assert answer.header.implicit_confirm
    assert has_root(answer)
    return x509.load_der_x509_certificate(response.certificate_der or b"")


def has_root(answer: PKIMessage) -> bool:
    """Tell whether a self-signed certificate came with an answer."""
    chain = [*cert_rep_message(answer.body_content).ca_pubs, *answer.extra_certs]
    loaded = [x509.load_der_x509_certificate(der) for der in chain]
    return any(item.subject == item.issuer for item in loaded)


def text_of(status: PKIStatusInfo) -> str:
    """Return the statusString that it looks for in every refusal."""
    assert status.status_string, "CertService fails where there is none"
    return " ".join(status.status_string)


def new_key() -> PrivateKey:
    """One of those that it makes."""
    return rsa.generate_private_key(65537, 2048)
