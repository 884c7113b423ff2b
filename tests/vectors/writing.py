"""How vectors are written: everything that is drawn at random elsewhere follows from a vector's name here."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SignatureAlgorithm
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import (
    CertTemplate,
    Control,
    Extension,
    cert_request_der,
    signature_popo_der,
)
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, assemble, body
from ra_gateway.cmp.names import directory_name, from_rfc4514, general_names_der
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import protect, protected_part
from ra_gateway.cmp.responder import reply_header
from tests.vectors.book import AT, REFERENCE, SECRET
from tests.vectors.cast import OPERATOR_SUBJECT, SteadySigner, member

SHA256: Final = "2.16.840.1.101.3.4.2.1"
HMAC_SHA256: Final = "1.2.840.113549.2.9"


def spki(key: str) -> bytes:
    """SubjectPublicKeyInfo of one of the cast."""
    octets: bytes = (
        member(key)
        .private_key.public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return octets


def extension(oid: str, value: bytes, *, critical: bool = False) -> Extension:
    """An extension to ask for."""
    return Extension(oid, critical, value)


def template(
    key: str = "new-p256", subject: str | None = OPERATOR_SUBJECT, **fields: Any
) -> CertTemplate:
    """A template for one of the new keys.

    Args:
        fields: Of `CertTemplate`; `san` are texts such as "dns:enb-1.example.net".
    """
    san = fields.pop("san", ())
    more = (extension(OID.subjectAltName, general_names_der(san)),) if san else ()
    return CertTemplate(
        **{
            "subject_der": None if subject is None else from_rfc4514(subject),
            "spki_der": spki(key),
            "extensions": (*fields.pop("extensions", ()), *more),
            **fields,
        }
    )


async def popo(
    signed: bytes,
    key: str = "new-p256",
    *,
    algorithm: SignatureAlgorithm | None = None,
    input_der: bytes | None = None,
) -> bytes:
    """POPOSigningKey with the signature of a new key over some octets."""
    signer = SteadySigner(member(key).private_key, algorithm)
    return signature_popo_der(signer.algorithm.der, await signer.sign(signed), input_der)


def identifier(oid: str, *parameters: bytes) -> bytes:
    """An AlgorithmIdentifier."""
    return asn1.tlv(0x30, asn1.oid_der(oid), *parameters)


@dataclass(frozen=True, slots=True)
class Pen:
    """Writes one vector.

    Args:
        name: Of the vector; what a message has to have of its own follows from it.
    """

    name: str

    def draw(self, what: str, size: int = 16) -> bytes:
        """Return octets that look random, the same every time."""
        return hashlib.sha256(f"{self.name}/{what}".encode()).digest()[:size]

    def header(self, **changes: Any) -> PKIHeader:
        """The header of a message that opens an operation; the credential's fields are left to `signed`."""
        usual = PKIHeader(
            sender_der=ANYONE,
            recipient_der=directory_name(member("operator-issuing").certificate.subject_der),
            message_time=AT,
            transaction_id=self.draw("transactionID"),
            sender_nonce=self.draw("senderNonce"),
        )
        return replace(usual, **changes)

    async def signed(
        self,
        body_der: bytes,
        by: str = "device",
        *,
        algorithm: SignatureAlgorithm | None = None,
        extra_certs: Iterable[bytes] | None = None,
        **header: Any,
    ) -> bytes:
        """A message under a signature of one of the cast."""
        credential = member(by).credential(algorithm)
        certificates = credential.certificates if extra_certs is None else extra_certs
        return await protect(self.header(**header), body_der, credential, certificates)

    async def forged(
        self,
        body_der: bytes,
        by: str = "device",
        *,
        protector: dict[str, Any] | None = None,
        **header: Any,
    ) -> bytes:
        """A message whose header says of its protector what `protector` says, with a signature that fits."""
        credential = member(by).credential()
        made = replace(self.header(**header), **credential.protector._asdict())
        header_der = replace(made, **(protector or {})).to_der()
        signature = await credential.protection(protected_part(header_der, body_der))
        return assemble(header_der, body_der, signature, credential.certificates)

    async def request(
        self,
        body_type: BodyType = BodyType.ir,
        asked: CertTemplate | None = None,
        *,
        key: str = "new-p256",
        cert_req_id: int = 0,
        controls: Iterable[Control] = (),
        popo_der: bytes | None = None,
        reg_info_der: bytes = b"",
        copies: int = 1,
        **options: Any,
    ) -> bytes:
        """An ir, cr or kur that is in order, but for what the arguments say.

        Args:
            popo_der: Instead of a signature over the CertRequest; b"" for none.
            options: As of `signed`.
        """
        cert_req_der = cert_request_der(
            asked or template(key), cert_req_id=cert_req_id, controls=controls
        )
        if popo_der is None:
            popo_der = await popo(cert_req_der, key)
        one = asn1.tlv(0x30, cert_req_der, popo_der, reg_info_der)
        return await self.signed(body(body_type, asn1.tlv(0x30, *[one] * copies)), **options)

    async def pkcs10(
        self,
        *,
        version: int = 0,
        signer: str = "new-p256",
        attributes: bytes = b"\xa0\x00",
    ) -> bytes:
        """A PKCS#10 request."""
        info = asn1.tlv(
            0x30,
            asn1.encode(version),
            from_rfc4514(OPERATOR_SUBJECT),
            spki("new-p256"),
            attributes,
        )
        prover = SteadySigner(member(signer).private_key)
        signature = await prover.sign(info)
        return asn1.tlv(0x30, info, prover.algorithm.der, asn1.tlv(0x03, b"\x00", signature))

    async def answer(
        self,
        request_der: bytes,
        body_der: bytes,
        by: str = "operator-cmp",
        *,
        protected: bool = True,
        **header: Any,
    ) -> bytes:
        """A CA's answer to a request."""
        request = PKIMessage.from_der(request_der)
        made = replace(
            reply_header(request.header, sender_nonce=self.draw("senderNonce"), now=AT), **header
        )
        credential = member(by).credential()
        root = member("operator-root").certificate.der
        if not protected:
            return assemble(made.to_der(), body_der, None, ())
        return await protect(made, body_der, credential, (*credential.certificates, root))

    # --- under a shared secret ------------------------------------------------------------------------------------

    def pbm(self, *, iterations: int = 500, salt: bytes | None = None) -> bytes:
        """AlgorithmIdentifier of PasswordBasedMac."""
        parameters = asn1.tlv(
            0x30,
            asn1.encode(self.draw("salt") if salt is None else salt),
            identifier(SHA256),
            asn1.encode(iterations),
            identifier(HMAC_SHA256),
        )
        return identifier(OID.passwordBasedMac, parameters)

    def pbmac1(self) -> bytes:
        """AlgorithmIdentifier of PBMAC1."""
        derivation = asn1.tlv(
            0x30,
            asn1.encode(self.draw("salt")),
            asn1.encode(500),
            asn1.encode(32),
            identifier(HMAC_SHA256, b"\x05\x00"),
        )
        kdf = identifier("1.2.840.113549.1.5.12", derivation)
        return identifier(OID.pbmac1, asn1.tlv(0x30, kdf, identifier(HMAC_SHA256)))

    async def maced(
        self,
        body_der: bytes,
        algorithm_der: bytes | None = None,
        *,
        secret: str = SECRET,
        iterations: int = 500,
        **header: Any,
    ) -> bytes:
        """A message under a MAC."""
        algorithm_der = self.pbm() if algorithm_der is None else algorithm_der
        made = self.header(
            **{
                "sender_der": directory_name(from_rfc4514(f"CN={REFERENCE}")),
                "sender_kid": REFERENCE.encode(),
                **header,
            }
        )
        header_der = replace(made, protection_alg_der=algorithm_der).to_der()
        octets = protected_part(header_der, body_der)
        salt = self.draw("salt")
        if asn1.oid_der(OID.pbmac1) in algorithm_der:
            key = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, iterations, 32)
        else:
            key = secret.encode() + salt
            for _ in range(iterations):
                key = hashlib.sha256(key).digest()
        return assemble(header_der, body_der, hmac.digest(key, octets, "sha256"))
