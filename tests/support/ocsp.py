"""An OCSP responder for tests: real HTTP on loopback, answers made by somebody else's code, wrong ones on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ra_gateway.cmp.oids import OID
from tests.support.harness import ManualClock
from tests.support.pki import Authority, Credential, signature_hash
from tests.support.revocation import Publisher, publishing

REVOKED_AT: Final = datetime(2025, 12, 1)  # noqa: DTZ001 - as the builder wants it


def delegate(ca: Authority, key: Any = "p256", **options: Any) -> Credential:
    """Have a CA certify a responder."""
    usual: dict[str, Any] = {
        "eku": [OID.ocspSigning],
        "extensions": [(x509.OCSPNoCheck(), False)],
    }
    return ca.issue("CN=OCSP responder", key, **usual | options)


@dataclass
class Script:
    """What a responder says; a test changes it at any time.

    Args:
        revoked, unknown: Serial numbers.
        signers: By the SHA-1 of the CA's key: who signs answers about its certificates.
        this_update: None for the clock's time.
        lifetime: None leaves nextUpdate out.
        serial_offset: Added to the serial number that is answered about.
        nonce: "echo", "omit", or "wrong".
        include: Whether the signer's certificate comes along.
        extensions: Further ones, with their criticality.
        octets: Sent instead of an answer, when set.
        gate: When set, answers wait until it is set.
    """

    signers: dict[bytes, Credential | Authority]
    revoked: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    this_update: datetime | None = None
    lifetime: timedelta | None = timedelta(hours=1)
    serial_offset: int = 0
    nonce: str = "echo"
    include: bool = True
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    octets: bytes | None = None
    gate: asyncio.Event | None = None

    def sign_with(self, ca: Authority, signer: Credential | Authority) -> None:
        """Have answers about a CA's certificates signed by someone."""
        self.signers[key_hash(ca)] = signer

    def answer(self, request_der: bytes, now: datetime) -> bytes:
        """Return the OCSPResponse to an OCSPRequest."""
        if self.octets is not None:
            return self.octets
        request = ocsp.load_der_ocsp_request(request_der)
        signer = self.signers.get(request.issuer_key_hash)
        if signer is None:
            failure = ocsp.OCSPResponseBuilder.build_unsuccessful(
                ocsp.OCSPResponseStatus.UNAUTHORIZED
            )
            return failure.public_bytes(Encoding.DER)
        builder = self._about(request, now).responder_id(
            ocsp.OCSPResponderEncoding.HASH, signer.certificate
        )
        if self.include:
            builder = builder.certificates([signer.certificate])
        key: Any = signer.private_key
        return builder.sign(key, signature_hash(key)).public_bytes(Encoding.DER)

    def _about(self, request: ocsp.OCSPRequest, now: datetime) -> ocsp.OCSPResponseBuilder:
        serial_number = request.serial_number
        status = ocsp.OCSPCertStatus.GOOD
        if serial_number in self.revoked:
            status = ocsp.OCSPCertStatus.REVOKED
        elif serial_number in self.unknown:
            status = ocsp.OCSPCertStatus.UNKNOWN
        this_update = self.this_update or now
        builder = ocsp.OCSPResponseBuilder().add_response_by_hash(
            request.issuer_name_hash,
            request.issuer_key_hash,
            serial_number + self.serial_offset,
            hashes.SHA1(),
            status,
            this_update,
            None if self.lifetime is None else this_update + self.lifetime,
            REVOKED_AT if status is ocsp.OCSPCertStatus.REVOKED else None,
            None,
        )
        for extension in request.extensions:
            assert isinstance(extension.value, x509.OCSPNonce)
            if self.nonce != "omit":
                value = extension.value if self.nonce == "echo" else x509.OCSPNonce(b"other")
                builder = builder.add_extension(value, critical=False)
        for own, critical in self.extensions:
            builder = builder.add_extension(own, critical)
        return builder


def key_hash(ca: Authority) -> bytes:
    """Return what a request names a CA's key by."""
    return x509.SubjectKeyIdentifier.from_public_key(ca.certificate.public_key()).digest


def script_for(*cas: Authority) -> Script:
    """Return the script of an honest responder, delegated by each CA."""
    return Script({key_hash(ca): delegate(ca) for ca in cas})


@dataclass
class Responder:
    """A responder that runs."""

    script: Script
    publisher: Publisher

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self.publisher.url("/ocsp")

    @property
    def asked_count(self) -> int:
        """How many requests came."""
        return len(self.publisher.asked)


@asynccontextmanager
async def responding(script: Script, clock: ManualClock) -> AsyncIterator[Responder]:
    """Run a responder on a free port.

    Args:
        clock: Asked for the time of each answer.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        if script.gate is not None:
            await script.gate.wait()
        if request.content_type != "application/ocsp-request":
            raise web.HTTPUnsupportedMediaType
        octets = script.answer(await request.read(), clock())
        return web.Response(body=octets, content_type="application/ocsp-response")

    async with publishing() as publisher:
        publisher.handler = handle
        yield Responder(script, publisher)
