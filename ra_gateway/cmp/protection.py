"""PKIProtection: what is protected, verifying a signature over it, adding either kind (RFC 9810 5.1.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from cryptography.exceptions import InvalidSignature

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SignatureAlgorithm, verify_signature
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.messages import PKIHeader, PKIMessage, Protector, assemble
from ra_gateway.cmp.names import directory_name
from ra_gateway.errors import ProtectionRefused


class Signer(Protocol):
    """A private key that can sign; where the key lives is its own business."""

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """The algorithm of every signature it makes."""

    async def sign(self, octets: bytes) -> bytes:
        """Return the signature over the octets."""


class Protecting(Protocol):
    """What protects a message: a `Credential` by signature, a `MACCredential` by a shared secret."""

    @property
    def protector(self) -> Protector:
        """What headers of messages protected with it say."""

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """DER of the certificates by which a receiver can verify it."""

    async def protection(self, octets: bytes) -> bytes:
        """Return the protection of a ProtectedPart."""


@dataclass(frozen=True)
class Credential:
    """A certificate, the chain that leads to (not including) its root, and the key's signer.

    Args:
        root: Where the chain leads to, for those who want to be sent it; None where that is not known.
    """

    certificate: Certificate
    chain: tuple[Certificate, ...]
    signer: Signer
    root: Certificate | None = None

    @cached_property
    def sender_der(self) -> bytes:
        """The certificate's subject as a GeneralName: the sender of what it protects."""
        return directory_name(self.certificate.subject_der)

    @cached_property
    def protector(self) -> Protector:
        """What headers of messages protected with it say."""
        return Protector(
            self.sender_der,
            self.certificate.subject_key_identifier,
            self.signer.algorithm.der,
        )

    @cached_property
    def certificates(self) -> tuple[bytes, ...]:
        """DER of the certificate and its chain, in the order RFC 9483 3.3 wants for extraCerts."""
        return (self.certificate.der, *(item.der for item in self.chain))

    @cached_property
    def with_root(self) -> Credential:
        """The same with the root at the end of the chain, for a receiver that wants all of it."""
        if self.root is None or self.root in (self.certificate, *self.chain):
            return self
        return replace(self, chain=(*self.chain, self.root))

    async def protection(self, octets: bytes) -> bytes:
        """Return the signature over a ProtectedPart."""
        return await self.signer.sign(octets)


def protected_part(header_der: bytes, body_der: bytes) -> bytes:
    """Return the DER of ProtectedPart: the octets that are signed (RFC 9810 5.1.3)."""
    return asn1.tlv(0x30, header_der, body_der)


async def protect(
    header: PKIHeader, body_der: bytes, credential: Protecting, extra_certs: Iterable[bytes]
) -> bytes:
    """Return a whole message protected with a credential.

    Args:
        header: sender, senderKID and protectionAlg are filled in from the credential.
        body_der: The body with its tag.
        extra_certs: DER certificates, in order; the credential's own are not added here.
    """
    header_der = header.to_der(credential.protector)
    protection = await credential.protection(protected_part(header_der, body_der))
    return assemble(header_der, body_der, protection, extra_certs)


def verify_protection(
    message: PKIMessage, algorithm: SignatureAlgorithm, certificate: Certificate
) -> None:
    """Verify the signature over the received octets of header and body.

    Raises:
        ProtectionRefused: It does not verify with this certificate's key, or there is none.
        AlgorithmRefused: The key is of another kind than the algorithm.
    """
    if message.protection is None:
        raise ProtectionRefused("the message is not protected", rule="R13")
    try:
        verify_signature(
            algorithm,
            certificate.public_key,
            message.protection,
            protected_part(message.header_der, message.body_der),
        )
    except InvalidSignature as error:
        raise ProtectionRefused(
            f"the signature does not verify with the key of {certificate.subject}", rule="R15"
        ) from error
