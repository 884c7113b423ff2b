"""What EJBCA remembers: end entities and certificates. Of messages and transactions it remembers nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import same_name


class Status(StrEnum):
    """Of an end entity: whether a certificate may be issued to it."""

    new = "NEW"
    generated = "GENERATED"


@dataclass(slots=True)
class EndEntity:
    """Somebody who may have certificates.

    Args:
        ca, certificate_profile, end_entity_profile: Names.
        san: Texts such as "dns:enb1.example.net".
        password: In clear text, for HMAC, RegTokenPwd and DnPartPwd in client mode.
    """

    username: str
    subject_der: bytes
    ca: str
    certificate_profile: str
    end_entity_profile: str
    san: tuple[str, ...] = ()
    status: Status = Status.new
    password: str = ""


@dataclass(slots=True)
class StoredCertificate:
    """A certificate and what became of it; `reason` is its CRLReason once it was revoked."""

    certificate: Certificate
    username: str
    reason: int | None = None
    active: bool = True


@dataclass(slots=True)
class Database:
    """End entities by username, and certificates, oldest first."""

    entities: dict[str, EndEntity] = field(default_factory=dict)
    certificates: list[StoredCertificate] = field(default_factory=list)

    def stored(self, certificate: Certificate) -> StoredCertificate | None:
        """Return the entry of a certificate."""
        return next((item for item in self.certificates if item.certificate == certificate), None)

    def numbered(self, issuer_der: bytes, serial_number: int) -> StoredCertificate | None:
        """Return the entry of the certificate with an issuer and serial number."""
        for item in self.certificates:
            if item.certificate.serial_number == serial_number and same_name(
                item.certificate.issuer_der, issuer_der
            ):
                return item
        return None

    def newest(self, subject_der: bytes) -> StoredCertificate | None:
        """Return the newest certificate with a subject, whoever issued it."""
        found = [
            item
            for item in self.certificates
            if same_name(item.certificate.subject_der, subject_der)
        ]
        return found[-1] if found else None

    def with_subject(self, subject_der: bytes) -> list[EndEntity]:
        """Return the end entities with a subject."""
        return [
            entity
            for entity in self.entities.values()
            if same_name(entity.subject_der, subject_der)
        ]
