"""Keys that the CA makes for others (RFC 9483 4.1.6), and what it encrypts for them.

A private key made here exists in memory from `make_key` to `seal_key`, which returns it signed by the key generation
authority and encrypted for the one who asked; that form alone is sent, and stored for retransmissions. Nobody can
open it but the holder of the private key that protected the request, and with key agreement not even who finds out
the CA's keys later. The ledger forgets the answer together with its transaction.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ra_gateway.ca.extensions import key_kind_of
from ra_gateway.ca.profiles import Profile
from ra_gateway.cmp.bodies import encrypted_key_der
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.cms import KEMPublicKey, KeyRecipient, Recipient, can_receive, envelop
from ra_gateway.cmp.cms_signed import key_package_der, sign_package
from ra_gateway.cmp.messages import CMP2021
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.errors import NotAuthorized, TemplateRefused
from ra_gateway.keys import KEY_KINDS, spki_der

MADE_AT_ONCE: Final = 2
"""RSA keys take up to a second of a processor each; more of them at once would only slow each other down."""

DEFAULT_RSA_KIND: Final = "rsa3072"
"""As strong as P-256; no field of a request says how long an RSA key shall be."""

MAKERS: Final[Mapping[str, Callable[[], Any]]] = MappingProxyType(
    {
        **KEY_KINDS,
        "rsa": KEY_KINDS[DEFAULT_RSA_KIND],
        "mlkem768": mlkem.MLKEM768PrivateKey.generate,
        "mlkem1024": mlkem.MLKEM1024PrivateKey.generate,
    }
)
"""Kinds of keys that end entities can have, and how they are made."""


class SystemRandomness:
    """What encryption needs of randomness (`ra_gateway.cmp.cms.Randomness`), from the operating system."""

    def octets(self, count: int) -> bytes:
        """Return that many octets, unpredictable."""
        return secrets.token_bytes(count)

    def ephemeral_key(self, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
        """Return a fresh private key on a curve."""
        return ec.generate_private_key(curve)

    def encrypt(self, key: rsa.RSAPublicKey, octets: bytes, padding: padding.OAEP) -> bytes:
        """Return octets encrypted with an RSA key."""
        return key.encrypt(octets, padding)

    def encapsulate(self, key: KEMPublicKey) -> tuple[bytes, bytes]:
        """Return a fresh shared secret and its encapsulation (ciphertext)."""
        return key.encapsulate()


_RANDOMNESS: Final = SystemRandomness()


@dataclass(frozen=True, slots=True)
class KeyGeneration:
    """The key generation authority of a CA that makes keys.

    Args:
        credential: Signs key packages; its certificate has cmKGA.
        key_kind: Made where a request does not say what kind of key it wants.
        bare_keys: Whether who says version 2 of CMP is sent the key alone, as OpenSSL 3.5 wants it, and not in an
            AsymmetricKeyPackage.
    """

    credential: Credential
    key_kind: str = "p256"
    bare_keys: bool = False
    _making: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(MADE_AT_ONCE), repr=False, compare=False
    )
    _samples: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def choose_kind(self, hint_der: bytes | None, profile: Profile) -> str:
        """Return the kind of key to make.

        Args:
            hint_der: AlgorithmIdentifier in the template, None if there is none.

        Raises:
            TemplateRefused: It names no kind that can be made, or none that the profile takes.
        """
        kind = self.key_kind if hint_der is None else key_kind_of(hint_der)
        general = "rsa" if kind.startswith("rsa") else kind
        if kind not in MAKERS or general not in profile.key_kinds:
            raise TemplateRefused(
                f"no key of kind {kind or 'unknown'} is made for {profile.name}", rule="R61"
            )
        return kind

    async def make_key(self, kind: str) -> Any:
        """Return a fresh private key.

        Args:
            kind: As `choose_kind` returned it.
        """
        async with self._making:
            return await asyncio.to_thread(MAKERS[kind])

    async def sample_key(self, kind: str) -> bytes:
        """Return the SubjectPublicKeyInfo of a key that nobody has, one for each kind, to judge requests by."""
        if kind not in self._samples:
            self._samples[kind] = spki_der(await self.make_key(kind))
        return self._samples[kind]

    async def seal_key(
        self, private_key: Any, recipient: Recipient, *, pvno: int = CMP2021
    ) -> bytes:
        """Return the DER of EncryptedKey: AsymmetricKeyPackage in SignedData in EnvelopedData.

        Args:
            private_key: Of `make_key`.
            recipient: The only one who can open it.
            pvno: Of the request.

        Raises:
            ServiceFailure: The authority's key cannot sign.
        """
        pkcs8_der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        package_der = pkcs8_der
        if not self.bare_keys or pvno >= CMP2021:
            package_der = key_package_der(pkcs8_der, spki_der(private_key))
        signed_der = await sign_package(package_der, self.credential)
        return encrypted_key_der(envelop(signed_der, OID.signedData, recipient, _RANDOMNESS))


def key_recipient(requester: Certificate) -> KeyRecipient:
    """Return who a key for a request is encrypted for: the holder of the certificate that protects the request.

    Raises:
        NotAuthorized: That certificate's key is not for key transport or key agreement (RFC 9483 4.1.6).
    """
    if not can_receive(requester):
        raise NotAuthorized(
            f"a key cannot be sent to the holder of {requester.subject}: its KeyUsage lacks keyEncipherment "
            "(RSA) or keyAgreement (EC), or nothing can be encrypted for its kind of key",
            rule="RFC 9483 4.1.6",
        )
    return KeyRecipient.of(requester)


def seal_certificate(certificate: Certificate) -> bytes:
    """Return the DER of EncryptedKey with a certificate that only the holder of its own key can open.

    Raises:
        AlgorithmRefused: Nothing can be encrypted for its key.
    """
    recipient = KeyRecipient.of(certificate)
    return encrypted_key_der(envelop(certificate.der, OID.data, recipient, _RANDOMNESS))
