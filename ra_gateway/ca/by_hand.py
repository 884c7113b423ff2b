"""Certificates that somebody at the command line has issued, in the ledger like every other (TS 33.310 7.2)."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from ra_gateway.ca.authorization import require_unprivileged
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.profiles import RA, Profile
from ra_gateway.ca.records import Intent, Operation
from ra_gateway.ca.tbs import complete
from ra_gateway.cmp.algorithms import AlgorithmPolicy, canonical_spki
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate, Extension
from ra_gateway.cmp.names import NULL_DN
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.requests import read_certification_request
from ra_gateway.cmp.x520 import require_certifiable

_KEPT: Final = timedelta(minutes=5)
"""The operation, which nobody repeats."""


async def issue(
    template: CertTemplate,
    profile: Profile,
    issuer: Issuer,
    ledger: Ledger,
    *,
    actor: str,
    now: datetime,
    own: bool = False,
    unique_key: bool = True,
) -> tuple[Certificate, tuple[str, ...]]:
    """Issue a certificate for whoever acts.

    Args:
        actor: For the audit trail.
        now: Aware UTC.
        own: As of `Intent`.
        unique_key: As of `Intent`.

    Returns:
        The certificate, and what of the template it does not have as it was asked for.

    Raises:
        TemplateRefused, RequestRefused, ServiceFailure, StoreUnavailable: As `Issuer.issue`.
    """
    operation = _operation(actor, now)
    intent = Intent(
        subject_der=template.subject_der or NULL_DN,
        issuer_id=issuer.id,
        profile=profile.name,
        spki_digest=b"",
        enrolls=False,
        own=own,
        unique_key=unique_key,
    )
    changed: list[str] = []

    async def answer(certificate: Certificate, changes: tuple[str, ...]) -> bytes:
        changed.extend(changes)
        return certificate.der

    stored = await issuer.issue(template, profile, operation, intent, ledger, answer, now)
    return Certificate.from_der(stored.certificate_der), tuple(changed)


def _operation(actor: str, now: datetime) -> Operation:
    return Operation(
        requester=actor,
        transaction_id=secrets.token_bytes(16),
        request_digest=secrets.token_bytes(32),
        body_type=BodyType.p10cr,
        cert_req_id=0,
        response_nonce=b"",
        confirm_by=None,
        expires_at=now + _KEPT,
    )


async def adopt(certificate: Certificate, ledger: Ledger, *, actor: str, now: datetime) -> None:
    """Bring an RA's certificate into the ledger that was issued without it, as `ra-gateway init` does.

    Args:
        certificate: An issuing CA's of this CA, verified.
        actor: For the audit trail.
        now: Aware UTC.

    Raises:
        RequestRefused, StoreUnavailable: As `Ledger.reserve` and `Ledger.store`.
    """
    operation = replace(
        _operation(actor, now), serial_number=certificate.serial_number, answer=certificate.der
    )
    intent = Intent(
        subject_der=certificate.subject_der,
        san_der=certificate.subject_alt_name_der,
        issuer_id=(certificate.authority_key_identifier or b"").hex(),
        profile=RA.name,
        spki_digest=hashlib.sha256(canonical_spki(certificate.spki_der)).digest(),
        enrolls=False,
        own=True,
    )
    await ledger.reserve(operation, intent, now)
    await ledger.store(operation, certificate, now)


def template_of(
    request_der: bytes,
    profile: Profile,
    *,
    subject_der: bytes | None = None,
    san_der: bytes | None = None,
) -> CertTemplate:
    """Return what a PKCS #10 asks for, its proof of possession verified, and its names as they are to be.

    Args:
        request_der: CertificationRequest.
        subject_der, san_der: In place of the request's.

    Raises:
        MalformedMessage, TemplateRefused, POPRefused: It is no such request, or not one that may have a certificate.
    """
    template = read_certification_request(request_der, AlgorithmPolicy()).template
    if subject_der is not None:
        template = replace(template, subject_der=subject_der)
    if san_der is not None:
        others = [item for item in template.extensions if item.oid != OID.subjectAltName]
        names = Extension(OID.subjectAltName, False, san_der)
        template = replace(template, extensions=(*others, names))
    template = complete(profile, template)
    require_unprivileged(template, profile)
    require_certifiable(
        template.subject_der or NULL_DN,
        template.subject_alt_name_der,
        named=profile.named_attributes,
        qualified=True,
    )
    return template
