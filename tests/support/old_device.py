"""A base station of long ago, which breaks rules in all that it sends."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import SIGNATURE_ALGORITHMS, digest
from ra_gateway.cmp.bodies import PKICONF_BODY, CertStatus, cert_confirm_body, cert_rep_message
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import cert_request_der
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.events import RequestHandled
from ra_gateway.keys import KeySigner
from tests.support import pki, requests
from tests.support.answers import fail_names
from tests.support.credentials import cmp_credential
from tests.support.harness import World

SHA1 = SIGNATURE_ALGORITHMS["ecdsa-sha1"]


class Asked(Protocol):
    """A gateway that is asked."""

    @property
    def events(self) -> Sequence[RequestHandled]:
        """What it told of each message."""

    async def ask(self, der: bytes) -> PKIMessage:
        """Send octets and decode the answer."""


@dataclass
class OldDevice:
    """A base station of 2011 with one key: four octets of nonce, no clock, a certReqId of its own, SHA-1."""

    world: Asked
    key: Any
    credential: Credential
    message_time: datetime | None = None

    @classmethod
    def of(cls, world: World) -> OldDevice:
        """One as it left the factory."""
        return cls.made(world, world.device())

    @classmethod
    def made(cls, world: Asked, made: pki.Credential) -> OldDevice:
        """One with a vendor certificate."""
        signer = KeySigner(made.private_key, SHA1)
        return cls(world, made.private_key, replace(cmp_credential(made), signer=signer))

    def renewing(self, certificate: Certificate) -> OldDevice:
        """The same device with what it was issued."""
        return replace(self, credential=Credential(certificate, (), KeySigner(self.key, SHA1)))

    async def body(self, body_type: BodyType, key: Any) -> bytes:
        """A request for a certificate."""
        subject = None if body_type is BodyType.kur else requests.SUBJECT
        asked = cert_request_der(
            requests.template(key, subject or requests.SUBJECT), cert_req_id=355
        )
        popo = await requests.popo(asked, key, algorithm=SHA1)
        return requests.requests_body(asn1.tlv(0x30, asked, popo), body_type=body_type)

    def header(self, **fields: Any) -> PKIHeader:
        """What it says of itself and of a message."""
        usual = PKIHeader(
            sender_der=self.credential.sender_der,
            recipient_der=ANYONE,
            message_time=self.message_time,
            sender_kid=self.credential.certificate.subject_key_identifier,
            transaction_id=secrets.token_bytes(4),
            sender_nonce=secrets.token_bytes(4),
            recip_nonce=bytes(4),
        )
        return replace(usual, **fields)

    async def request(self, body_type: BodyType, key: Any = None, **fields: Any) -> bytes:
        """An ir, cr or kur."""
        body_der = await self.body(body_type, key or self.key)
        return await protect(
            self.header(**fields), body_der, self.credential, self.credential.certificates
        )

    async def follow(self, answer: PKIMessage, body_der: bytes, **fields: Any) -> bytes:
        """What comes after an answer, without any certificate."""
        header = self.header(
            transaction_id=answer.header.transaction_id,
            recip_nonce=answer.header.sender_nonce,
            **fields,
        )
        return await protect(header, body_der, self.credential, ())

    async def enrol(self, body_type: BodyType = BodyType.ir) -> OldDevice:
        """Ask, take what is given, confirm; returns the device with it."""
        answer = await self.world.ask(await self.request(body_type))
        assert answer.body_type is CERT_RESPONSE_TO[body_type], self.world.events[-1].detail
        assert fail_names(answer) == [], self.world.events[-1].detail
        (response,) = cert_rep_message(answer.body_content).responses
        assert response.cert_req_id == 355
        status = CertStatus(digest("sha256", response.certificate_der or b""), 355)
        confirmed = await self.world.ask(await self.follow(answer, cert_confirm_body(status)))
        assert confirmed.body_der == PKICONF_BODY, self.world.events[-1].detail
        return self.renewing(Certificate.from_der(response.certificate_der or b""))
