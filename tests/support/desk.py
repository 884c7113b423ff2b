"""A CA and whoever talks to it in CMP, in one process: what tests of the bundled CA's responder begin with."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.certification import IssuancePolicy
from ra_gateway.ca.core import BundledCA
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.profiles import Profile
from ra_gateway.ca.records import CertificateStatus, EndEntity, Privilege, Role
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import AlgorithmPolicy, digest
from ra_gateway.cmp.bodies import (
    CertStatus,
    PKIStatusInfo,
    RevDetails,
    cert_confirm_body,
    cert_rep_message,
    error_msg_content,
    nested_body,
    rev_rep_content,
    rev_req_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.crmf import (
    CertTemplate,
    Control,
    Extension,
    cert_req_msg_der,
    cert_request_der,
    signature_popo_der,
)
from ra_gateway.cmp.header_checks import HeaderRules, check_answer_header
from ra_gateway.cmp.messages import ANYONE, PKIHeader, PKIMessage, body
from ra_gateway.cmp.names import directory_name, from_rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.cmp.verification import authenticate_answer
from ra_gateway.errors import (
    PKIFailureInfo,
)
from ra_gateway.keys import KeySigner
from ra_gateway.logs import LogSink
from tests.support import pki
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.empty_ledger import new_ledger
from tests.support.pki import OperatorPKI, PrivateKey, VendorPKI
from tests.support.profiles import NE_IPSEC

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
RULES = HeaderRules()
CONFIRM_WAIT_SECONDS = 300
SUBJECT = "CN=enb1.example.net,O=Example Operator"
ALL = frozenset(Privilege)


@dataclass
class Clock:
    """A clock that tests set."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class Enrolment:
    """What one enrolment leaves in the device's hands."""

    key: PrivateKey
    request: bytes
    answer: PKIMessage
    certificate: Certificate
    status: PKIStatusInfo

    @property
    def entity(self) -> Credential:
        return Credential(self.certificate, (), KeySigner(self.key))


@dataclass
class Desk:
    """A CA and an RA that talks to it."""

    ca: BundledCA
    ledger: Ledger
    clock: Clock
    operator: OperatorPKI
    domain: TrustDomain
    ra: Credential
    mode: Mode = Mode.ra
    answers: list[PKIMessage] = field(default_factory=list)

    def header(self, **changes: Any) -> PKIHeader:
        header = PKIHeader(
            sender_der=ANYONE,
            recipient_der=directory_name(
                cmp_certificate(self.operator.issuing.certificate).subject_der
            ),
            message_time=self.clock.now,
            transaction_id=secrets.token_bytes(16),
            sender_nonce=secrets.token_bytes(16),
        )
        return replace(header, **changes)

    async def request(
        self,
        body_type: BodyType = BodyType.ir,
        *,
        key: PrivateKey | None = None,
        template: CertTemplate | None = None,
        controls: tuple[Control, ...] = (),
        cert_req_id: int = 0,
        popo: bytes | None = None,
        signer: Credential | None = None,
        header: PKIHeader | None = None,
        copies: int = 1,
    ) -> bytes:
        """Build a certificate request; `popo` replaces the proof, b"" leaves it out."""
        key = key or pki.make_key("p256")
        template = replace(
            template or CertTemplate(subject_der=from_rfc4514(SUBJECT)), spki_der=public(key)
        )
        cert_req = cert_request_der(template, cert_req_id=cert_req_id, controls=controls)
        if popo is None:
            prover = KeySigner(key)
            popo = signature_popo_der(prover.algorithm.der, await prover.sign(cert_req))
        message = cert_req_msg_der(cert_req, popo)
        return await self.signed(
            header or self.header(), body(body_type, asn1.tlv(0x30, *[message] * copies)), signer
        )

    async def signed(
        self, header: PKIHeader, body_der: bytes, signer: Credential | None = None
    ) -> bytes:
        signer = signer or self.ra
        return await protect(header, body_der, signer, signer.certificates)

    async def send(self, der: bytes) -> PKIMessage:
        """Send a message and check what holds for every answer to a protected one."""
        reply = await self.ca.handle(der, mode=self.mode)
        assert reply.understood
        answer = PKIMessage.from_der(reply.der)
        request = PKIMessage.from_der(der).header
        authenticate_answer(answer, self.domain, (), RULES, self.clock.now)
        if request.transaction_id is not None:
            check_answer_header(
                answer.header,
                transaction_id=request.transaction_id,
                sender_nonces=(request.sender_nonce or b"",),
            )
        assert answer.header.sender_der == directory_name(
            cmp_certificate(self.operator.cmp_signer.certificate).subject_der
        )
        assert len(answer.header.sender_nonce or b"") == 16
        self.answers.append(answer)
        return answer

    async def refused(self, der: bytes) -> tuple[BodyType, PKIFailureInfo]:
        """Send a message that is refused; return the answer's type and its one failure bit."""
        answer = await self.send(der)
        if answer.body_type is BodyType.rp:
            (info,) = rev_rep_content(answer.body_content).statuses
        elif answer.body_type is BodyType.error:
            info = error_msg_content(answer.body_content).status_info
        else:
            (response,) = cert_rep_message(answer.body_content).responses
            assert response.certificate_der is None
            info = response.status_info
        assert info.status is PKIStatus.rejection
        (bit,) = info.fail_info
        return answer.body_type, bit

    async def enrol(
        self, body_type: BodyType = BodyType.ir, *, key: PrivateKey | None = None, **options: Any
    ) -> Enrolment:
        """Have a certificate issued, not yet confirmed."""
        key = key or pki.make_key("p256")
        der = await self.request(body_type, key=key, **options)
        return self.received(key, der, await self.send(der))

    def received(self, key: PrivateKey, der: bytes, answer: PKIMessage) -> Enrolment:
        (response,) = cert_rep_message(answer.body_content).responses
        assert response.certificate_der is not None, response.status_info
        certificate = Certificate.from_der(response.certificate_der)
        assert certificate.spki_der == public(key)
        return Enrolment(key, der, answer, certificate, response.status_info)

    async def confirmation(
        self,
        enrolment: Enrolment,
        *,
        signer: Credential | None = None,
        cert_hash: bytes | None = None,
        cert_req_id: int = 0,
        status_info: PKIStatusInfo | None = None,
        body_der: bytes | None = None,
        hash_alg: structures.AlgorithmIdentifier | None = None,
        **header: Any,
    ) -> bytes:
        body_der = body_der or cert_confirm_body(
            CertStatus(
                cert_hash=cert_hash or digest("sha256", enrolment.certificate.der),
                cert_req_id=cert_req_id,
                status_info=status_info,
                hash_alg=hash_alg,
            )
        )
        received = enrolment.answer.header
        return await self.signed(
            self.header(
                **{
                    "transaction_id": received.transaction_id,
                    "recip_nonce": received.sender_nonce,
                    **header,
                }
            ),
            body_der,
            signer,
        )

    async def confirm(self, enrolment: Enrolment, **options: Any) -> PKIMessage:
        answer = await self.send(await self.confirmation(enrolment, **options))
        assert answer.body_type is BodyType.pkiconf
        assert answer.body_content == b"\x05\x00"
        return answer

    async def revocation(
        self,
        certificate: Certificate,
        *,
        reason: int | None = 1,
        issuer_der: bytes | None = None,
        signer: Credential | None = None,
        template: CertTemplate | None = None,
        header: PKIHeader | None = None,
    ) -> bytes:
        """Build an rr; `template` replaces what names the certificate, `reason` None leaves it out."""
        named = template or CertTemplate(
            issuer_der=issuer_der or certificate.issuer_der, serial_number=certificate.serial_number
        )
        entry = (
            ()
            if reason is None
            else (Extension(OID.reasonCode, False, asn1.tlv(0x0A, bytes((reason,)))),)
        )
        return await self.signed(
            header or self.header(), rev_req_body(RevDetails(named, entry)), signer
        )

    async def nest(self, inner: bytes, signer: Credential | None = None, **changes: Any) -> bytes:
        header = PKIMessage.from_der(inner).header
        ids = {"transaction_id": header.transaction_id, "sender_nonce": header.sender_nonce}
        return await self.signed(self.header(**{**ids, **changes}), nested_body(inner), signer)

    async def status(self, certificate: Certificate) -> CertificateStatus | None:
        found = await self.ledger.certificate(certificate.serial_number, self.clock.now)
        return None if found is None else found.status


def public(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


async def register(
    ledger: Ledger,
    name: str,
    privileges: frozenset[Privilege],
    profile: Profile,
    *credentials: pki.Credential,
) -> None:
    """Make an RA known, with a role of its own; nothing if it is."""
    registry, then = ledger.registry, NOW - timedelta(days=30)  # some of them have expired since
    if any(known.name == name for known in await registry.authorities()):
        return
    await registry.put_role(Role(name, privileges, (profile.name,)), "test", then)
    await registry.put_authority(name, name, "test", then)
    for credential in credentials:
        await registry.add_authority_certificate(
            name, pki.certificate_der(credential.certificate), "test", then
        )


@asynccontextmanager
async def open_desk(
    operator: OperatorPKI,
    path: Path,
    *,
    privileges: frozenset[Privilege] = ALL,
    registered: tuple[pki.Credential, ...] = (),
    others: Mapping[str, pki.Credential] | None = None,
    profile: Profile = NE_IPSEC,
    clock: Clock | None = None,
    ledger: Ledger | None = None,
    random_octets: Callable[[int], bytes] = secrets.token_bytes,
    algorithms: AlgorithmPolicy | None = None,
    more_profiles: tuple[Profile, ...] = (),
    rules: HeaderRules = RULES,
    **options: Any,
) -> AsyncIterator[Desk]:
    """Open a CA with a registered RA; `options` are further ones of `BundledCA`."""
    clock = clock or Clock()
    ledger = ledger or await new_ledger(path)
    root = cmp_certificate(operator.root.certificate)
    issuing = cmp_certificate(operator.issuing.certificate)
    domain = TrustDomain(
        "operator",
        DomainKind.operator,
        (root,),
        (issuing,),
        algorithms=algorithms or AlgorithmPolicy(),
    )
    ca = BundledCA(
        credential=cmp_credential(operator.cmp_signer),
        issuers=(Issuer(issuing, (root,), operator.issuing.private_key, random_octets),),
        ledger=ledger,
        operator=domain,
        profiles={item.name: item for item in (profile, *more_profiles)},
        clock=clock,
        random_octets=secrets.token_bytes,
        sink=LogSink(),
        rules=rules,
        confirm_wait_seconds=CONFIRM_WAIT_SECONDS,
        **options,
    )
    await ca.start()
    await register(ledger, "ra1", privileges, profile, *(registered or (operator.ra,)))
    for name, credential in (others or {}).items():
        await register(ledger, name, ALL, profile, credential)
    try:
        yield Desk(ca, ledger, clock, operator, domain, cmp_credential(operator.ra))
    finally:
        await ca.close()


IDENTITY = "SN-000001"


NAMES = ("dns:enb1.example.net", "ip:192.0.2.1")


ENB1 = EndEntity("enb1", SUBJECT, NAMES, vendor="acme", identity=IDENTITY)


def vendor_domain(vendor: VendorPKI, name: str = "acme") -> TrustDomain:
    return TrustDomain(name, DomainKind.vendor, (cmp_certificate(vendor.root.certificate),))


@asynccontextmanager
async def open_client(
    operator: OperatorPKI,
    vendor: VendorPKI,
    path: Path,
    *entities: EndEntity,
    implicit_confirm: bool = False,
    policy: IssuancePolicy | None = None,
    rules: HeaderRules = RULES,
) -> AsyncIterator[Desk]:
    """A CA in client mode; what the desk sends is signed by the base station SN-000001."""
    client = ClientMode({"acme": vendor_domain(vendor)}, "cn", implicit_confirm)
    async with open_desk(operator, path, client=client, policy=policy, rules=rules) as desk:
        desk.mode = Mode.client
        desk.ra = cmp_credential(vendor.device(IDENTITY))
        for entity in entities or (ENB1,):
            await desk.ledger.registry.add_entity(entity, "test", NOW)
        yield desk


async def enrolled(desk: Desk, **options: Any) -> Enrolment:
    """A device that enrolled and confirmed, both with its vendor certificate."""
    enrolment = await desk.enrol(**options)
    await desk.confirm(enrolment)
    return enrolment
