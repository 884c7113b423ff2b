"""CRLs for tests, signed by the authorities of `tests.support.pki`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.pki import Authority

REVOKED_AT = datetime(2025, 12, 1, tzinfo=UTC)

_OWN_DIGEST = (
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
    mldsa.MLDSA44PrivateKey,
    mldsa.MLDSA65PrivateKey,
    mldsa.MLDSA87PrivateKey,
)


def make_crl(
    authority: Authority,
    revoked: Iterable[x509.Certificate | int] = (),
    *,
    this_update: datetime,
    lifetime: timedelta = timedelta(days=7),
    number: int | None = 1,
    issuer: x509.Name | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    entry_extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    hash_algorithm: Any = None,
) -> bytes:
    """Return the DER of a CRL.

    Args:
        revoked: Certificates, or serial numbers.
        issuer: Another name than the authority's.
        extensions: Besides number, with their criticality.
        entry_extensions: Of every entry.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer or authority.certificate.subject)
        .last_update(this_update)
        .next_update(this_update + lifetime)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    for item in revoked:
        entry = x509.RevokedCertificateBuilder().revocation_date(REVOKED_AT)
        serial_number = item if isinstance(item, int) else item.serial_number
        entry = entry.serial_number(serial_number)
        for extension, critical in entry_extensions:
            entry = entry.add_extension(extension, critical=critical)
        builder = builder.add_revoked_certificate(entry.build())
    digest = hash_algorithm or hashes.SHA256()
    key: Any = authority.private_key
    crl = builder.sign(key, None if isinstance(key, _OWN_DIGEST) else digest)
    return crl.public_bytes(Encoding.DER)


def replace_file(path: Path, octets: bytes) -> Path:
    """Put a file in the place of another at once, as those who publish CRLs should."""
    new = path.with_suffix(".new")
    new.write_bytes(octets)
    new.rename(path)
    return path
