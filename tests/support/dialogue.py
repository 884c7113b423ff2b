"""Real CMP messages for tests: an RA in one object, and a message of every kind made by this project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ra_gateway.cmp import asn1
from ra_gateway.cmp.algorithms import load_public_key
from ra_gateway.cmp.bodies import (
    PKICONF_BODY,
    CertRepMessage,
    CertResponse,
    PKIStatusInfo,
    cert_rep_body,
    nested_body,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType, PKIStatus
from ra_gateway.cmp.crmf import cert_req_messages
from ra_gateway.cmp.messages import (
    ANYONE,
    IMPLICIT_CONFIRM,
    PKIHeader,
    PKIMessage,
    assemble,
    body,
    confirm_wait_time,
)
from ra_gateway.cmp.names import NULL_DN, directory_name, general_names, rfc4514
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.responder import Unreadable, refusal_body, reply_header, unreadable_reply
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, Send, operator_trust
from ra_gateway.errors import MalformedMessage, POPRefused
from tests.support import pki
from tests.support.credentials import cmp_certificate, cmp_credential

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
NAME = "CN=enb1.example.net,O=Example Operator"


def octets_source() -> Callable[[int], bytes]:
    """Return a source of octets that never repeat, the same in every run."""
    counter = count(1)
    return lambda size: next(counter).to_bytes(size, "big")


@dataclass
class RA:
    """The other side, in one object: it issues what is asked for, and each test spoils one thing."""

    operator: pki.OperatorPKI
    random_octets: Callable[[int], bytes] = field(default_factory=octets_source)
    nonce: bytes = b""

    @property
    def root(self) -> Certificate:
        return cmp_certificate(self.operator.root.certificate)

    def issue(self, request_der: bytes) -> bytes:
        """Issue a certificate as the request asks."""
        (request,) = cert_req_messages(PKIMessage.from_der(request_der).body_content)
        assert request.template.spki_der is not None
        subject = rfc4514(request.template.subject_der or NULL_DN) or NAME
        key: Any = load_public_key(request.template.spki_der)
        san = request.template.extension(OID.subjectAltName)
        names = general_names(san.value) if san else ()
        return pki.certificate_der(self.operator.issuing.sign(subject, key, san=names))

    async def answer(
        self,
        request_der: bytes,
        *,
        response: CertResponse | None = None,
        body_der: bytes | None = None,
        signer: Credential | None = None,
        extra_certs: Sequence[bytes] | None = None,
        ca_pubs: tuple[bytes, ...] = (),
        **header: Any,
    ) -> bytes:
        """Answer a certificate request."""
        request = PKIMessage.from_der(request_der)
        if body_der is None:
            response = response or CertResponse(
                0, PKIStatusInfo(PKIStatus.accepted), self.issue(request_der)
            )
            body_der = cert_rep_body(
                CERT_RESPONSE_TO[request.body_type], CertRepMessage((response,), ca_pubs)
            )
        return await self._protect(request, body_der, signer, extra_certs, header)

    async def pkiconf(
        self,
        cert_conf_der: bytes,
        *,
        signer: Credential | None = None,
        body_der: bytes = PKICONF_BODY,
        extra_certs: Sequence[bytes] = (),
        **header: Any,
    ) -> bytes:
        """Answer a certConf, without extraCerts as RFC 9483 3.3 allows."""
        request = PKIMessage.from_der(cert_conf_der)
        return await self._protect(request, body_der, signer, extra_certs, header)

    async def _protect(
        self,
        request: PKIMessage,
        body_der: bytes,
        signer: Credential | None,
        extra_certs: Sequence[bytes] | None,
        header: dict[str, Any],
    ) -> bytes:
        signer = signer or cmp_credential(self.operator.ra)
        if extra_certs is None:
            issuing = cmp_certificate(self.operator.issuing.certificate)
            extra_certs = (*signer.certificates, issuing.der, self.root.der)
        self.nonce = self.random_octets(16)
        answer = reply_header(request.header, sender_nonce=self.nonce, now=NOW)
        return await protect(replace(answer, **header), body_der, signer, extra_certs)


async def messages(vendor: pki.VendorPKI, operator: pki.OperatorPKI) -> dict[str, bytes]:
    """Return messages of every kind this project makes, each under a name that begins with its type."""
    ra = RA(operator)
    first = DeviceIdentity(cmp_credential(vendor.device()), operator_trust(ra.root))
    found: dict[str, bytes] = {}

    def begin(identity: DeviceIdentity, **options: Any) -> Enrollment:
        return Enrollment(
            identity,
            pki.make_key("p256"),
            RequestOptions(**options),
            clock=lambda: NOW,
            random_octets=ra.random_octets,
        )

    async def run(operation: Enrollment, name: str, **header: Any) -> Done:
        request = await operation.request()
        answer = await ra.answer(request, **header)
        step = await operation.receive(answer)
        assert isinstance(step, Send)
        last = await ra.pkiconf(step.der)
        done = await operation.receive(last)
        assert isinstance(done, Done)
        for item in operation.trace:
            found[f"{item.name}{name}"] = item.der
        return done

    san = ("dns:enb1.example.net", "ip:192.0.2.1")
    full = begin(first, subject=NAME, san=san, implicit_confirm=True, cert_profile="eNB")
    done = await run(full, "", general_info=(confirm_wait_time(NOW),), ca_pubs=(ra.root.der,))
    await run(begin(first), " without subject")
    await run(begin(done.identity, body_type=BodyType.cr, subject=NAME), " of cr")
    await run(begin(done.identity, body_type=BodyType.kur), " of kur")
    ir = found["ir"]
    found["ip granted"] = await ra.answer(ir, general_info=(IMPLICIT_CONFIRM,), pvno=3)
    refused = PKIMessage.from_der(ir)
    refusal = refusal_body(POPRefused("no"), refused)
    found["ip refused"] = await ra.answer(ir, body_der=refusal)
    found["error"] = await ra.answer(ir, body_der=refusal_body(MalformedMessage("no"), refused))
    unknown = Unreadable(MalformedMessage("no"), None)
    signer = cmp_credential(ra.operator.ra)
    reply = await unreadable_reply(unknown, signer, now=NOW, random_octets=bytes)
    found["error unprotected"] = reply.der
    found["nested"] = await ra.answer(ir, body_der=nested_body(ir, found["certConf"]))
    found["genm"] = await ra.answer(
        ir,
        body_der=body(
            BodyType.genm, asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der("1.3.6.1.5.5.7.4.17")))
        ),
        free_text=("Ein Gruß",),
    )
    certificate_id = asn1.tlv(
        0x30,
        asn1.tlv(0x81, b"\x05"),
        asn1.tlv(0xA3, done.certificate.issuer_der),
    )
    reason = asn1.tlv(0x30, asn1.tlv(0x30, asn1.oid_der("2.5.29.21"), b"\x04\x03\x0a\x01\x01"))
    revocation = asn1.tlv(0x30, asn1.tlv(0x30, certificate_id, reason))
    found["rr"] = await ra.answer(ir, body_der=body(BodyType.rr, revocation))
    revoked = asn1.tlv(
        0x30,
        asn1.tlv(0x30, asn1.tlv(0x30, b"\x02\x01\x00")),
        asn1.tlv(
            0xA0,
            asn1.tlv(
                0x30, asn1.tlv(0x30, directory_name(done.certificate.issuer_der), b"\x02\x01\x05")
            ),
        ),
    )
    found["rp"] = await ra.answer(ir, body_der=body(BodyType.rp, revoked))
    found["pollReq"] = await ra.answer(
        ir, body_der=body(BodyType.pollReq, bytes.fromhex("30053003020100"))
    )
    found["pollRep"] = await ra.answer(
        ir, body_der=body(BodyType.pollRep, bytes.fromhex("300830060201000201") + b"\x3c")
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(pki.make_name(NAME))
    key = pki.make_key("p256")
    signed = csr.sign(key, pki.signature_hash(key))
    found["p10cr"] = await ra.answer(
        ir, body_der=body(BodyType.p10cr, signed.public_bytes(serialization.Encoding.DER))
    )
    return found


def bare_message(body_der: bytes, **header: object) -> bytes:
    """Return an unprotected message around a body."""
    usual = PKIHeader(ANYONE, ANYONE, transaction_id=bytes(16), sender_nonce=bytes(16))
    return assemble(replace(usual, **header).to_der(), body_der, None)  # type: ignore[arg-type]
