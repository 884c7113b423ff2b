"""What goes into an operation of a base station, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NoReturn

from ra_gateway.cmp.algorithms import KEM_PUBLIC_KEYS, AlgorithmRefused, SignatureAlgorithm
from ra_gateway.cmp.bodies import PKIStatusInfo
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.mac import MACCredential
from ra_gateway.cmp.messages import CMP2000
from ra_gateway.cmp.protection import Credential, Signer
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.keys import KeySigner


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What a base station has when it begins.

    Args:
        credential: The vendor's certificate for ir, the operator's for kur, each with its chain and key; or the shared
            secret by which its messages are protected, where it has no certificate yet (RFC 9483 4.1.5).
        trust: The operator's root or roots. None takes the root from the ip (TS 33.310 9.2): a self-signed
            certificate in extraCerts or caPubs on which both the sender of the ip and the new certificate rest.
    """

    credential: Credential | MACCredential
    trust: TrustDomain | None = None

    @property
    def signing(self) -> Credential:
        """The certificate that it has.

        Raises:
            ValueError: It has a shared secret only.
        """
        if not isinstance(self.credential, Credential):
            raise ValueError(
                "who has a shared secret only can do no more than ask for a first certificate"
            )
        return self.credential


def operator_trust(*certificates: Certificate) -> TrustDomain:
    """Return a device's trust in these operator roots; where there are CAs below them, in these alone.

    Without such, any CA counts that the root has certified, another operator's too (TS 33.310 7.3).
    """
    roots = tuple(item for item in certificates if item.self_issued)
    below = tuple(item for item in certificates if not item.self_issued)
    if not roots or not below:
        return TrustDomain("operator", DomainKind.operator, certificates)
    return TrustDomain("operator", DomainKind.operator, roots, below, only_known=True)


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the request says.

    Args:
        body_type: ir, cr, kur or p10cr.
        subject: RFC 4514 string; None leaves it out, and possession is then proved with poposkInput. In a
            kur None means the old certificate's.
        san: Names such as "dns:enb1.example.net" or "ip:192.0.2.1". In a kur none means the old certificate's.
        implicit_confirm: Ask to do without certConf.
        cert_profile: Name for certProfile.
        message_time: Send messageTime; a device without a clock cannot.
        recipient: RFC 4514 string of the CA's name; None says that it is not known, in a kur the old issuer.
        cert_req_id: Any (TS 33.310 annex G); RFC 9483 4.1.1 has 0 alone.
        extra_certs_in_cert_conf: Send the chain again with certConf and pollReq, as RFC 9483 3.3 has it to the letter;
            TS 33.310 9.5.4.5 has none there.
        pvno: 2 or 3; 3 where the key is not proved by a signature, whatever is said here.
        encr_cert: Prove possession by decrypting the certificate, as an ML-KEM key always does; for RSA keys.
        wrong_pop: Prove possession by a signature over something else, as a faulty device would.
        key_algorithm_der: Of the key that the CA is to make: AlgorithmIdentifier as in SubjectPublicKeyInfo;
            None leaves it to the CA.
    """

    body_type: BodyType = BodyType.ir
    subject: str | None = None
    san: tuple[str, ...] = ()
    implicit_confirm: bool = False
    cert_profile: str | None = None
    message_time: bool = True
    recipient: str | None = None
    cert_req_id: int = 0
    extra_certs_in_cert_conf: bool = False
    pvno: int = CMP2000
    encr_cert: bool = False
    key_algorithm_der: bytes | None = None
    wrong_pop: bool = False


class Direction(StrEnum):
    """Seen from the device."""

    sent = "sent"
    received = "received"


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """One message of the dialogue, for people.

    Args:
        body_type: None if what came was no PKIMessage.
        status: Of ip, cp, kup, error and certConf.
    """

    direction: Direction
    at: datetime
    der: bytes
    body_type: BodyType | None
    status: PKIStatusInfo | None = None

    @property
    def name(self) -> str:
        """The body type's name, spelled as in the RFC."""
        return "not CMP" if self.body_type is None else self.body_type.name

    @property
    def size_bytes(self) -> int:
        """Length of the message."""
        return len(self.der)


@dataclass(frozen=True, slots=True)
class Send:
    """Post this message and give the answer to `receive`.

    Args:
        after_seconds: How long to wait before, 0 or more: the other side has told to.
    """

    der: bytes
    after_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """The operation succeeded.

    Args:
        identity: What the base station has from now on: begin the next kur with it.
        operator_root: Where the new certificate's path ends.
        confirmed_implicitly: No certConf was needed.
        private_key: The new certificate's: the device's own, or the one that the CA made for it.
    """

    identity: DeviceIdentity
    operator_root: Certificate
    confirmed_implicitly: bool = False
    private_key: Any = field(default=None, repr=False)

    @property
    def certificate(self) -> Certificate:
        """The new certificate."""
        return self.identity.signing.certificate

    @property
    def chain(self) -> tuple[Certificate, ...]:
        """The certificates between the new one and the root, nearest first."""
        return self.identity.signing.chain


Step = Send | Done


class EncryptionOnly:
    """Stands in the place of a signer where a key only decrypts (`ra_gateway.cmp.protection.Signer`)."""

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """There is none."""
        self._refuse()

    async def sign(self, octets: bytes) -> bytes:
        """Refuse to sign.

        Raises:
            AlgorithmRefused: Always.
        """
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AlgorithmRefused("the key of this certificate is for encryption only")


def signer_of(private_key: Any) -> Signer:
    """Return what signs with a private key of `cryptography`; where it only decrypts, what refuses to."""
    kem = isinstance(private_key.public_key(), KEM_PUBLIC_KEYS)
    return EncryptionOnly() if kem else KeySigner(private_key)
