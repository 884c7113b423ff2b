"""A CA whose certificates have a status: issuing CAs, their OCSP signers, and a real ledger in SQLite."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ocsp import OCSPSigner
from ra_gateway.ca.records import CertificateStatus, Intent, Operation, Reason, Revocation
from ra_gateway.cmp import protection
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.oids import OID
from ra_gateway.errors import StoreUnavailable
from ra_gateway.keys import KeySigner
from tests.support import pki
from tests.support.desk import Clock
from tests.support.empty_ledger import new_ledger

CONFIRM_WAIT: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class IssuingCA:
    """An issuing CA as CRLs and OCSP answers want it."""

    authority: pki.Authority
    certificate: Certificate
    signer: protection.Signer

    @property
    def id(self) -> str:
        """Key identifier in hexadecimal."""
        return (self.certificate.subject_key_identifier or b"").hex()


def issuing_ca(authority: pki.Authority) -> IssuingCA:
    """Return an authority as an issuing CA."""
    return IssuingCA(
        authority, Certificate.from_der(authority.der), KeySigner(authority.private_key)
    )


def ocsp_signer(ca: IssuingCA, key: pki.KeyKind = "p256", **options: Any) -> OCSPSigner:
    """Have an issuing CA certify a delegated OCSP responder."""
    usual: dict[str, Any] = {
        "eku": [OID.ocspSigning],
        "extensions": [(x509.OCSPNoCheck(), False)],
    }
    credential = ca.authority.issue("CN=OCSP,O=Example Operator", key, **usual | options)
    return OCSPSigner(
        ca.certificate,
        ca.id,
        protection.Credential(
            Certificate.from_der(credential.der), (), KeySigner(credential.private_key)
        ),
    )


@dataclass
class StatusCA:
    """Issues certificates into a ledger, and revokes them."""

    ledger: Ledger
    clock: Clock
    operator: pki.OperatorPKI
    issuing: IssuingCA
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def issue(
        self,
        name: str = "",
        *,
        by: IssuingCA | None = None,
        status: CertificateStatus = CertificateStatus.confirmed,
        **options: Any,
    ) -> pki.Credential:
        """Issue a certificate and record it with a status: reserved, issued or confirmed."""
        ca = by or self.issuing
        number = next(self._numbers)
        credential = ca.authority.issue(name or f"CN=enb{number},O=Example Operator", **options)
        certificate = Certificate.from_der(credential.der)
        now = self.clock()
        confirmed = status is CertificateStatus.confirmed
        operation = Operation(
            requester="ra1",
            transaction_id=number.to_bytes(16, "big"),
            request_digest=bytes(32),
            body_type=BodyType.ir,
            cert_req_id=0,
            response_nonce=bytes(16),
            confirm_by=None if confirmed else now + CONFIRM_WAIT,
            expires_at=now + timedelta(hours=1),
            serial_number=certificate.serial_number,
            answer=b"answer",
        )
        intent = Intent(
            subject_der=certificate.subject_der,
            issuer_id=ca.id,
            profile="ne_ipsec",
            spki_digest=hashlib.sha256(certificate.spki_der).digest(),
        )
        await self.ledger.reserve(operation, intent, now)
        if status is not CertificateStatus.reserved:
            await self.ledger.store(operation, certificate, now)
        return credential

    async def revoke(
        self,
        credential: pki.Credential,
        reason: Reason = Reason.unspecified,
        at: datetime | None = None,
    ) -> None:
        """Revoke a certificate, now or dated otherwise."""
        revocation = Revocation(credential.certificate.serial_number, reason, "test")
        await self.ledger.revoke(revocation, at or self.clock())


@asynccontextmanager
async def status_ca(
    directory: Path, now: datetime, key: pki.KeyKind = "p256"
) -> AsyncIterator[StatusCA]:
    """Make a CA whose ledger is a file in a directory."""
    ledger = await new_ledger(directory / "ledger.sqlite")
    await ledger.open()
    operator = pki.make_operator_pki(key=key)
    try:
        yield StatusCA(ledger, Clock(now), operator, issuing_ca(operator.issuing))
    finally:
        await ledger.close()


class Failing:
    """A ledger that does not answer while `fails` is set, and counts what it is asked."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.fails = False
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.fails:
                raise StoreUnavailable("the database is away")
            return await method(*args, **kwargs)

        return call
