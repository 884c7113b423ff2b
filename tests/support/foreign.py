"""Other makers' RAs and CAs around the gateway, rebuilt: what they check of its messages, and what they answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ra_gateway.cmp.bodies import PKIStatusInfo, cert_rep_message, error_body, nested_messages
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.header_checks import NONCE_OCTETS, HeaderRules
from ra_gateway.cmp.messages import PKIHeader, PKIMessage
from ra_gateway.cmp.protection import protect, protected_part
from ra_gateway.cmp.responder import reply_header
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.device.values import operator_trust
from ra_gateway.errors import CMPError, PKIFailureInfo
from tests.support.chain import nest
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Answer, Script, ScriptedCA, World
from tests.support.mac import mac_of, maced
from tests.support.pki import Credential

_FIRST = frozenset(RESPONSE_TO)

SAID = "profile BTS of the entity is full"


def says(*fail_info: str, status: PKIStatus = PKIStatus.rejection, **header: Any) -> Script:
    """An error in place of the answer, with a text."""
    bits = tuple(PKIFailureInfo[name] for name in fail_info)

    def script(answer: Answer) -> None:
        answer.body_der = error_body(PKIStatusInfo(status, (SAID,), bits))
        answer.header = replace(answer.header, **header)

    return script


@dataclass(slots=True)
class AttentiveCA(ScriptedCA):
    """A CA that reads every outer header to the letter of RFC 9483 3.1 to 3.5, as the Siemens RA's client side does.

    Each message has 16 octets of transactionID and nonce, the RA's signature, and the signer's certificate first in
    extraCerts; what follows an answer returns its senderNonce, inside nested and around it.

    Args:
        faults: What it had to say no to.
    """

    faults: list[str] = field(default_factory=list)
    nonces: dict[bytes, bytes] = field(default_factory=dict)

    async def _process(self, request: PKIMessage) -> bytes:
        fail_info = self._fault(request)
        if fail_info is not None:
            self.faults.append(f"{request.body_type.name}: {fail_info.name}")
            return await self._refuse(request, fail_info)
        answer = await ScriptedCA._process(self, request)
        header = PKIMessage.from_der(answer).header
        self.nonces[header.transaction_id or b""] = header.sender_nonce or b""
        return answer

    def _fault(self, request: PKIMessage) -> PKIFailureInfo | None:
        inner = request
        if request.body_type is BodyType.nested:
            (der,) = nested_messages(request.body_content)
            inner = PKIMessage.from_der(der)
        header = request.header
        if len(header.transaction_id or b"") != NONCE_OCTETS:
            return PKIFailureInfo.badDataFormat
        if len(header.sender_nonce or b"") != NONCE_OCTETS:
            return PKIFailureInfo.badSenderNonce
        expected = self.nonces.get(header.transaction_id or b"")
        if inner.body_type in _FIRST:
            expected = None
        if not self._returns(header, expected) or not self._returns(inner.header, expected):
            return PKIFailureInfo.badRecipientNonce
        if not self._signed_by_the_ra(request):
            return PKIFailureInfo.badMessageCheck
        return None

    @staticmethod
    def _returns(header: PKIHeader, expected: bytes | None) -> bool:
        return header.recip_nonce == expected

    def _signed_by_the_ra(self, request: PKIMessage) -> bool:
        ra = cmp_certificate(self.operator.ra.certificate)
        trust = operator_trust(cmp_certificate(self.operator.root.certificate))
        try:
            found = authenticate_answer(request, trust, (), HeaderRules(), self.clock())
        except CMPError:
            return False
        return found.signer == ra and request.extra_certs[0] == ra.der

    async def _refuse(self, request: PKIMessage, fail_info: PKIFailureInfo) -> bytes:
        credential = cmp_credential(self.operator.cmp_signer)
        header = reply_header(request.header, sender_nonce=bytes(NONCE_OCTETS), now=self.clock())
        body_der = error_body(PKIStatusInfo(PKIStatus.rejection, ("no",), (fail_info,)))
        return await protect(header, body_der, credential, credential.certificates)


@dataclass(slots=True)
class SiemensRA:
    """The RA of Siemens' CMP RA component in front of the gateway (`ask` takes what a device sends).

    It puts its own signature in the place of the device's, but passes kur on as it came; what follows either, it signs
    itself. Of the gateway's answers it wants 16 octets of IDs, the nonce that it sent, the signer's certificate first
    in extraCerts, and certReqId 0, also after p10cr.

    Args:
        world: Around the gateway.
        credential: Its own.
        nests: Whether it nests kur instead of passing it on.
        passed: What it sent to the gateway.
    """

    world: World
    credential: Credential
    nests: bool = False
    passed: list[PKIMessage] = field(default_factory=list)

    async def ask(self, der: bytes) -> PKIMessage:
        """Pass a device's message on and return the gateway's answer, once it is checked."""
        message = PKIMessage.from_der(der)
        if message.body_type is not BodyType.kur:
            der = await self._signed(message)
        elif self.nests:
            der = await nest(self.world, self.credential, der)
        self.passed.append(PKIMessage.from_der(der))
        answer = await self.world.ask(der)
        self._check(message, answer)
        return answer

    async def _signed(self, message: PKIMessage) -> bytes:
        credential = cmp_credential(self.credential)
        return await protect(message.header, message.body_der, credential, credential.certificates)

    def _check(self, asked: PKIMessage, answer: PKIMessage) -> None:
        header = answer.header
        assert len(header.transaction_id or b"") == NONCE_OCTETS
        assert len(header.sender_nonce or b"") == NONCE_OCTETS
        assert header.transaction_id == asked.header.transaction_id
        assert header.recip_nonce == asked.header.sender_nonce
        trust = operator_trust(cmp_certificate(self.world.operator.root.certificate))
        found = authenticate_answer(answer, trust, (), HeaderRules(), self.world.clock())
        assert answer.extra_certs[0] == found.signer.der
        if answer.body_type in CERT_RESPONSE_TO.values():
            ids = [item.cert_req_id for item in cert_rep_message(answer.body_content).responses]
            assert ids == [0], "certReqId"


@dataclass(slots=True)
class SecretCA(ScriptedCA):
    """A CA that knows its RAs by shared secrets, computed straight from the RFCs.

    Args:
        secrets: By reference; what is protected otherwise gets an error under a signature.
        answer_algorithm: AlgorithmIdentifier of the MAC of its answers; by default that of the message, b"" for its
            signature.
        answer_secret: Protects its answers in place of the one that it was asked under.
        references: senderKID of what it took.
    """

    secrets: dict[str, str] = field(default_factory=dict)
    answer_algorithm: bytes | None = None
    answer_secret: str | None = None
    references: list[str] = field(default_factory=list)

    async def _process(self, request: PKIMessage) -> bytes:
        header = request.header
        reference = (header.sender_kid or b"").decode()
        secret = self.secrets.get(reference, "")
        octets = protected_part(request.header_der, request.body_der)
        algorithm_der = header.protection_alg_der or b""
        if mac_of(algorithm_der, secret, octets) != request.protection or request.extra_certs:
            no = PKIStatusInfo(PKIStatus.rejection, ("no",), (PKIFailureInfo.badMessageCheck,))
            reply = reply_header(header, sender_nonce=bytes(NONCE_OCTETS), now=self.clock())
            signer = cmp_credential(self.operator.cmp_signer)
            return await protect(reply, error_body(no), signer, signer.certificates)
        self.references.append(reference)
        answer = PKIMessage.from_der(await ScriptedCA._process(self, request))
        if self.answer_algorithm == b"":
            return answer.der
        told = replace(answer.header, sender_kid=header.sender_kid)
        return maced(
            told,
            answer.body_der,
            self.answer_secret or secret,
            self.answer_algorithm or algorithm_der,
        )
