"""What a row of the ledger says otherwise than itself, the audit trail, or the certificate or CRL that is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from cryptography import x509
from sqlalchemy import Row

from ra_gateway.ca.ledger import replay
from ra_gateway.ca.ledger.sql import identity_key, seconds
from ra_gateway.ca.records import CertificateStatus, Reason, StoredCRL
from ra_gateway.cmp import asn1, structures
from ra_gateway.cmp.algorithms import canonical_spki, signature_algorithm, verify_signature
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import same_name

GONE: Final[frozenset[str]] = frozenset({CertificateStatus.revoked, CertificateStatus.rejected})
"""What a certificate that does not count any more has as its status."""

_STATUSES: Final[frozenset[str]] = frozenset(CertificateStatus)

_LATER: Final = (
    "issued_at",
    "changed_at",
    "not_before",
    "not_after",
    "confirm_by",
    "revoked_at",
    "reason",
    "held_from",
    "fingerprint",
)
"""Columns of a certificate that a serial number has not which is only reserved."""


def row_faults(row: Row[Any]) -> Iterator[str]:
    """Yield what a row says against itself."""
    if row.status not in _STATUSES:
        yield f"{row.status!r} is no status"
        return
    if (row.status == CertificateStatus.reserved) != (row.der is None):
        has = "no certificate" if row.der is None else "a certificate"
        yield f"its status is {row.status}, and it has {has}"
        return
    if row.status == CertificateStatus.reserved:
        if any(getattr(row, name) is not None for name in _LATER):
            yield "it is reserved only, and has what a certificate has that was issued"
        return
    gone = row.status in GONE
    if gone and (row.revoked_at is None or row.reason is None):
        yield f"it is {row.status}, without a time or a reason"
    elif not gone and (
        row.revoked_at is not None or row.reason not in (None, Reason.removeFromCRL)
    ):
        yield f"it is {row.status}, and has a time or a reason of revocation"
    if (row.held_from is not None) != (
        row.status == CertificateStatus.revoked and row.reason == Reason.certificateHold
    ):
        yield f"it is {row.status}, and what it was before a hold does not fit"
    if row.status == CertificateStatus.issued and row.confirm_by is None:
        yield "it waits for a confirmation, and for no time"


def trail_differences(row: Row[Any], said: replay.Certificate) -> Iterator[str]:
    """Yield the names of what a row and the audit trail say differently."""
    pairs: list[tuple[str, object, object]] = [
        ("requester", row.requester, said.requester),
        ("first requester", row.origin or row.requester, said.origin),
        ("end entity", row.entity, said.entity),
        ("vendor", row.vendor, said.vendor),
        ("identity at the vendor's", row.identity, said.identity),
        ("profile", row.profile, said.profile),
        ("fingerprint", (row.fingerprint or b"").hex(), said.fingerprint),
        ("time of issuance", row.issued_at, said.issued_at),
        ("time of revocation", row.revoked_at, said.revoked_at),
        ("reason", row.reason, said.reason),
    ]
    if not said.is_open:
        pairs += [
            ("place in the order of certificates", row.id, said.row),
            ("issuing CA", row.issuer_id, said.issuer_id),
            ("end of validity", row.not_after, said.not_after),
            ("end of the wait for its confirmation", row.confirm_by, said.confirm_by),
            ("time of its last change", row.changed_at, said.changed_at),
            ("status before its hold", row.held_from, said.held_from),
        ]
    for name, stored, expected in pairs:
        if stored != expected:
            yield name


def certificate_differences(row: Row[Any], certificate: Certificate) -> Iterator[str]:
    """Yield the names of what a row and its certificate say differently."""
    if row.serial != f"{certificate.serial_number:x}":
        yield "serial number"
    if row.subject_key != identity_key(certificate.subject_der, certificate.subject_alt_name_der):
        yield "subject"
    if (row.not_before, row.not_after) != (
        seconds(certificate.not_before),
        seconds(certificate.not_after),
    ):
        yield "validity"
    if row.fingerprint != certificate.fingerprint:
        yield "fingerprint"
    # Ledgers of older releases have the key as it was spelled.
    spellings = {certificate.spki_der, canonical_spki(certificate.spki_der)}
    if row.spki_digest not in {hashlib.sha256(spki_der).digest() for spki_der in spellings}:
        yield "public key"


def crl_differences(
    stored: StoredCRL, crl: x509.CertificateRevocationList, issuer: Certificate
) -> Iterator[str]:
    """Yield the names of what the row of a CRL and the CRL in it say differently."""
    if not same_name(crl.issuer.public_bytes(), issuer.subject_der):
        yield "issuer"
    found = {type(extension.value): extension.value for extension in crl.extensions}
    numbers = [
        getattr(found.get(kind), "crl_number", None)
        for kind in (x509.CRLNumber, x509.DeltaCRLIndicator)
    ]
    if numbers != [stored.number, stored.base_number]:
        yield "number"
    if (crl.last_update_utc, crl.next_update_utc) != (stored.this_update, stored.next_update):
        yield "validity"


def verify_crl(der: bytes, issuer: Certificate) -> None:
    """Verify the signature of a CRL.

    Raises:
        InvalidSignature, CMPError: It is not of this issuer.
    """
    # CertificateList has the outer form of Certificate: what is signed, the algorithm, the signature.
    outer = asn1.decode(structures.Certificate, der)
    verify_signature(
        signature_algorithm(asn1.raw(outer.signature_algorithm)),
        issuer.public_key,
        asn1.octets_of(outer.signature, "CRL signature"),
        asn1.raw(outer.tbs_certificate),
    )
