"""Messages that make a CA show what it thinks of the gateway, and cannot have anything issued.

None of them ever says raVerified: a CA that trusts the RA would take that for a proof. In ir, cr, p10cr and kur a key
is proved
that nobody keeps, by a signature over something else, so that no CA that looks at proofs grants them; in a kur
moreover the old certificate does not exist. What a CA that does not look would issue is for a key that is gone, under
a name of the doctor's own. An rr names a serial number that no CA has given out, and issues nothing anyway; a genm
asks for what everybody may know.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ra_gateway.cmp import asn1, crmf
from ra_gateway.cmp.bodies import RevDetails, gen_msg_body, rev_req_body
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIHeader, body
from ra_gateway.cmp.names import from_rfc4514, general_names_der, name_of
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Protecting, protect
from ra_gateway.keys import KEY_KINDS, KeySigner, spki_der

SUBJECT: Final = "CN=ra-gateway-doctor"
"""Whom the probes ask a certificate for, so that everybody who finds the name in a log knows whence it comes."""

_SERIAL_BITS: Final = 158
"""Random, so that no certificate has it; positive and at most 20 octets (RFC 5280 4.1.2.2)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A message that is ready to be sent.

    Args:
        tried: What it is, for the table.
        transaction_id, sender_nonce: By which its answer is known.
    """

    request: BodyType
    tried: str
    der: bytes
    transaction_id: bytes
    sender_nonce: bytes


@dataclass(frozen=True, slots=True)
class Prober:
    """Makes probes in the gateway's name.

    Args:
        recipient_der: GeneralName of the issuing CA, as in all messages of the gateway to it.
        subject: RFC 4514 string, whom ir, cr or p10cr asks a certificate for.
        san: Names such as "dns:enb1.example.net", for a CA that insists on some.
    """

    credential: Protecting
    recipient_der: bytes
    clock: Callable[[], datetime]
    subject: str = SUBJECT
    san: tuple[str, ...] = ()

    async def first(self, request: BodyType) -> Probe:
        """Return a request for a certificate whose proof of possession does not verify.

        Args:
            request: ir, cr or p10cr.
        """
        template = crmf.CertTemplate(
            subject_der=from_rfc4514(self.subject), extensions=self._extensions()
        )
        if request is BodyType.p10cr:
            body_der = await _unproved_pkcs10(self.subject, self._extensions())
        else:
            body_der = await _unproved(request, template)
        tried = f"{request.name} with a proof of possession that is false"
        return await self._probe(request, tried, body_der)

    async def kur(self) -> Probe:
        """Return an update of a certificate that does not exist, with a proof that does not verify."""
        # Another name each time: nobody may have a certificate under it, not even by a fault of the CA.
        name = from_rfc4514(f"{SUBJECT}-{secrets.token_hex(4)}")
        issuer_der = name_of(self.recipient_der)
        old = crmf.CertId(self.recipient_der, secrets.randbits(_SERIAL_BITS) + 1)
        template = crmf.CertTemplate(issuer_der=issuer_der, subject_der=name)
        body_der = await _unproved(
            BodyType.kur, template, crmf.Control(OID.oldCertID, crmf.cert_id_der(old))
        )
        return await self._probe(
            BodyType.kur, "kur of nobody's certificate, with a false proof", body_der
        )

    async def rr(self) -> Probe:
        """Return a revocation of a certificate that does not exist."""
        template = crmf.CertTemplate(
            issuer_der=name_of(self.recipient_der),
            serial_number=secrets.randbits(_SERIAL_BITS) + 1,
        )
        unspecified = crmf.Extension(OID.reasonCode, False, asn1.tlv(0x0A, b"\x00"))
        body_der = rev_req_body(RevDetails(template, (unspecified,)))
        return await self._probe(BodyType.rr, "rr of a serial number nobody has", body_der)

    async def genm(self) -> Probe:
        """Return the question for the CA's certificates."""
        body_der = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
        return await self._probe(BodyType.genm, "genm caCerts", body_der)

    def _extensions(self) -> tuple[crmf.Extension, ...]:
        if not self.san:
            return ()
        return (crmf.Extension(OID.subjectAltName, False, general_names_der(self.san)),)

    async def _probe(self, request: BodyType, tried: str, body_der: bytes) -> Probe:
        transaction_id, sender_nonce = secrets.token_bytes(16), secrets.token_bytes(16)
        header = PKIHeader(
            sender_der=self.credential.protector.sender_der,
            recipient_der=self.recipient_der,
            message_time=self.clock(),
            transaction_id=transaction_id,
            sender_nonce=sender_nonce,
        )
        der = await protect(header, body_der, self.credential, self.credential.certificates)
        return Probe(request, tried, der, transaction_id, sender_nonce)


async def _unproved_pkcs10(subject: str, extensions: Iterable[crmf.Extension]) -> bytes:
    """Return the body of a p10cr for a key that is forgotten at once, with a signature over something else."""
    key = KEY_KINDS["p256"]()
    builder = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string(subject))
    for item in extensions:
        value = x509.UnrecognizedExtension(x509.ObjectIdentifier(item.oid), item.value)
        builder = builder.add_extension(value, item.critical)
    info_der = builder.sign(key, hashes.SHA256()).tbs_certrequest_bytes
    signer = KeySigner(key)
    signature = asn1.tlv(0x03, b"\x00", await signer.sign(secrets.token_bytes(32)))
    return body(BodyType.p10cr, asn1.tlv(0x30, info_der, signer.algorithm.der, signature))


async def _unproved(
    request: BodyType, template: crmf.CertTemplate, *controls: crmf.Control
) -> bytes:
    """Return the body of a request for a key that is forgotten at once, with a proof over something else."""
    key = KEY_KINDS["p256"]()
    asked = crmf.CertTemplate(
        issuer_der=template.issuer_der,
        subject_der=template.subject_der,
        spki_der=spki_der(key),
        extensions=template.extensions,
    )
    certificate_request = crmf.cert_request_der(asked, cert_req_id=0, controls=controls)
    signer = KeySigner(key)
    # A well-formed signature by the very key: every verifier gets as far as computing it, and finds it wrong.
    false = await signer.sign(secrets.token_bytes(32))
    proof = crmf.signature_popo_der(signer.algorithm.der, false)
    return body(request, asn1.tlv(0x30, crmf.cert_req_msg_der(certificate_request, proof)))
