"""The ledger's records as frozen values: certificates, operations, end entities, roles, CRLs.

They carry no behaviour beyond what follows from themselves, and know nothing of the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Final

CLIENT: Final = "client"
"""Requester of all operations of client mode: there the transactionID alone names one, whoever sends it, so
that a certConf without certificate finds its own. No RA may have this name."""

NO_ENTITY: Final = ""
"""In place of an end entity's name, for the CA's own signers. No end entity has this name."""


class CertificateStatus(StrEnum):
    """What has become of a serial number."""

    reserved = "reserved"  # no certificate yet, perhaps never
    issued = "issued"  # sent; the device has not confirmed
    confirmed = "confirmed"
    rejected = "rejected"  # by the device, or not confirmed in time: revoked
    superseded = "superseded"  # renewed, and valid until it expires
    revoked = "revoked"


ALIVE: Final = frozenset(
    {CertificateStatus.issued, CertificateStatus.confirmed, CertificateStatus.superseded}
)
"""Certificates that count as valid, if they have not expired."""


class Reason(IntEnum):
    """CRLReason (RFC 5280 5.3.1); 7 is not used."""

    unspecified = 0
    keyCompromise = 1
    cACompromise = 2
    affiliationChanged = 3
    superseded = 4
    cessationOfOperation = 5
    certificateHold = 6
    removeFromCRL = 8
    privilegeWithdrawn = 9
    aACompromise = 10


class Privilege(StrEnum):
    """What a role lets an authority have done."""

    issue = "issue"  # ir, cr
    update = "update"  # kur
    revoke = "revoke"  # rr


class EntityStatus(StrEnum):
    """What an end entity may do."""

    active = "active"
    blocked = "blocked"  # gets nothing, renews nothing


class Reenroll(StrEnum):
    """Whether an entity that holds a confirmed, valid certificate may ask for a first one again (factory reset)."""

    allow = "allow"
    deny = "deny"
    window = "window"  # until the entity's `enroll_until`


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate of ours and its status at the moment of asking.

    Args:
        issuer_id: Key identifier (hex) of the issuing CA that signed it.
        entity: Name of the end entity it was issued to, `NO_ENTITY` for the CA's own signers.
        requester: Who had it issued: name of the RA, or `CLIENT`.
        origin: Who vouched for the device at first: as `requester`, and kept by what is got with this certificate.
        revoked_at: Aware UTC; None unless rejected or revoked.
        vendor, identity: Whose the device is and what its vendor calls it, as the RA said, or as its end entity is
            registered; kept by renewals. "" where nobody said it.
    """

    serial_number: int
    status: CertificateStatus
    der: bytes
    issuer_id: str = ""
    entity: str = ""
    profile: str = ""
    requester: str = ""
    origin: str = ""
    revoked_at: datetime | None = None
    reason: Reason | None = None
    vendor: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One transaction from its request to its confirmation.

    Args:
        requester: Who opened it: name of the RA, whichever of its certificates it signed with, or `CLIENT`.
        request_digest: Tells the same request from another one.
        signer_der: DER of the device's certificate that protected the request, and which certConf must be
            protected with; b"" where the RA's did. A column of its own (BLOB).
        confirm_by: Until when certConf is awaited; None if implicitConfirm was granted, or there is
            nothing to confirm.
        old_serial_number: kur: of the certificate that is renewed; rr: that is revoked.
        answer: DER of the answer, b"" while there is none; `confirm_answer` that of pkiConf.
    """

    requester: str
    transaction_id: bytes
    request_digest: bytes
    body_type: int
    cert_req_id: int
    response_nonce: bytes
    confirm_by: datetime | None
    expires_at: datetime
    signer_der: bytes = b""
    old_serial_number: int | None = None
    serial_number: int = 0
    answer: bytes = b""
    certificate_der: bytes = b""
    confirm_digest: bytes = b""
    confirm_answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be issued, stored before the key signs.

    Args:
        issuer_id: Key identifier (hex) of the issuing CA.
        spki_digest: SHA-256 of SubjectPublicKeyInfo as `canonical_spki` writes it.
        san_der: Value of SubjectAltName, None without one.
        entity: Name of the end entity; None finds it by its names, and creates it if there is none (RA mode);
            `NO_ENTITY` for the CA's own signers.
        origin: As of `IssuedCertificate`; "" for the operation's requester.
        own: Whether it is for an entity of the PKI itself, such as an RA, whose names and keys are nobody else's.
        on_behalf: Whether an RA asks for the device.
        registered_profiles: Of the end entities that are registered with a vendor, for client mode, those with one of
            these profiles ("" for the default one) may be asked for by the RA.
        enrolls: Whether this is a first certificate (ir, cr), which `reenroll` is asked about.
        reenroll: Policy for an entity that holds a confirmed, valid certificate.
        enroll_until: Given to an entity that is created.
        unique_key: Refuse a key that a living certificate of another entity has.
        vendor, identity: As of `IssuedCertificate`; nothing is decided by them.
    """

    subject_der: bytes
    issuer_id: str
    profile: str
    spki_digest: bytes
    san_der: bytes | None = None
    entity: str | None = None
    origin: str = ""
    own: bool = False
    on_behalf: bool = False
    registered_profiles: frozenset[str] = frozenset()
    enrolls: bool = True
    reenroll: Reenroll = Reenroll.allow
    enroll_until: datetime | None = None
    unique_key: bool = True
    vendor: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Revocation:
    """One revocation that was decided.

    Args:
        issuer_id: Of the issuing CA (hex).
        actor: Who wants it, for the audit trail.
    """

    serial_number: int
    reason: Reason
    actor: str
    issuer_id: str = ""


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """An entry of a CRL."""

    serial_number: int
    revoked_at: datetime
    reason: Reason


@dataclass(frozen=True, slots=True)
class StoredCRL:
    """A CRL as it was published.

    Args:
        base_number: None for a full CRL; the full one a delta is relative to.
    """

    issuer_id: str
    number: int
    base_number: int | None
    this_update: datetime
    next_update: datetime
    der: bytes


@dataclass(frozen=True, slots=True)
class EndEntity:
    """Somebody who may hold certificates.

    Args:
        name: Unique; letters, digits and . - _ : @ = , and blanks.
        subject: RFC 4514 form of the subject of its certificates; unique as a name.
        names: SubjectAltName entries it may have ("dns:...", "ip:...").
        profile: Name of its certificate profile; "" for the default one.
        vendor: Vendor trust domain that vouches for it in client mode; "" in RA mode.
        identity: What names it in its vendor certificate (serialNumber or CN); "" in RA mode.
        created_by: RA's name, or "operator" where the command line made it.
        enroll_until: Until when it may enrol again under `Reenroll.window`.
    """

    name: str
    subject: str
    names: tuple[str, ...] = ()
    profile: str = ""
    vendor: str = ""
    identity: str = ""
    status: EntityStatus = EntityStatus.active
    created_by: str = "operator"
    created_at: datetime | None = None
    enroll_until: datetime | None = None


DEFAULT_PROFILE: Final = "default"
"""Stands among the profiles of a role for the one that is the CA's default, whichever that is."""


@dataclass(frozen=True, slots=True)
class Role:
    """What its members may have done.

    Args:
        profiles: Names of the certificate profiles it may ask for, `DEFAULT_PROFILE` for that of the CA; the first
            is the one it gets unasked.
        subjects, sans: Glob patterns of the names it may ask for, over RFC 4514 strings and texts such as
            "dns:enb1.example.net"; with neither, any but those of end entities registered for client mode.
        others: Whether it may also renew and revoke what others had issued, where these patterns fit.
    """

    name: str
    privileges: frozenset[Privilege]
    profiles: tuple[str, ...]
    subjects: tuple[str, ...] = ()
    sans: tuple[str, ...] = ()
    others: bool = False


@dataclass(frozen=True, slots=True)
class Authority:
    """A registered RA or administrator: a role, and the certificates it may sign with (old and new overlap).

    Args:
        certificates: DER, in the order they were added.
        subjects, sans: As of its role; what is asked for has to fit both.
    """

    name: str
    role: Role
    certificates: tuple[bytes, ...] = ()
    enabled: bool = True
    subjects: tuple[str, ...] = ()
    sans: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit trail; each holds the hash of the one before.

    Args:
        action: Such as "issue", "confirm", "revoke", "entity.add".
        subject: What it is about: a serial number in hexadecimal, or a name.
        detail: Facts as JSON values; no secrets.
    """

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, str] = field(default_factory=dict)
    previous_hash: bytes = b""
    hash: bytes = b""


@dataclass(frozen=True, slots=True)
class RootUpdate:
    """A change of the root: certificates in DER (RFC 9810 4.4)."""

    old_root: bytes
    new_with_new: bytes
    new_with_old: bytes
    old_with_new: bytes
