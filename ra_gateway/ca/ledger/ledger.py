"""The CA's database of certificates, operations and CRLs; what leaves the CA was stored durably before.

One issuance is two pieces of work. `reserve` stores the intent before the key signs: the serial number, the claim
on the transactionID, and the end entity if it is new. It is committed without a flush: it survives the end of the
process and is seen by every other process, and if the machine loses power with it, then nothing has left yet that
depended on it. `store` puts certificate and answer into the reserved rows, adds the line of the audit trail, and
is flushed along with every commit before it; only then may the answer leave. Hence:

- No certificate leaves without a durable row: the answer is returned by `store`, after its commit.
- One transactionID never yields two certificates: the claim is a key, and `store` succeeds for the first that
  stores its answer there. Another process with the same request at the same moment finds that answer; what it
  signed itself is not stored and does not leave, and its serial number remains reserved.
- A reserved row without a certificate (the process died in between, or the key failed) is harmless: the same
  request goes on under the same claim with a new serial number; the old one is never used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from sqlalchemy import Connection, bindparam, func, select

from ra_gateway.ca.ledger import audit, revoking, schema, withholding
from ra_gateway.ca.ledger.database import Database, PostgresDatabase, SQLiteDatabase, write
from ra_gateway.ca.ledger.issuing import Confirmation, Issued, confirm_many, store_many
from ra_gateway.ca.ledger.operations import operations
from ra_gateway.ca.ledger.registry import Registry
from ra_gateway.ca.ledger.reserving import Reservation, reserve_many
from ra_gateway.ca.ledger.revoking import Revoking, revoke_many
from ra_gateway.ca.ledger.sql import (
    AnyRow,
    hexadecimal,
    identity_key,
    listed,
    moment_or_none,
    operation_key,
    padded,
    seconds,
    seconds_or_none,
)
from ra_gateway.ca.ledger.validity import alive, standing
from ra_gateway.ca.ledger.watched import WatchedDatabase
from ra_gateway.ca.records import (
    NO_ENTITY,
    AuditEntry,
    CertificateStatus,
    Intent,
    IssuedCertificate,
    Operation,
    Revocation,
    RevokedCertificate,
    StoredCRL,
)
from ra_gateway.cmp.certificates import Certificate, load_certificate
from ra_gateway.events import (
    CertificateConfirmed,
    CertificateIssued,
    CertificatesWithdrawn,
    Component,
    CRLPublished,
    EventSink,
    unheard,
)

T = TypeVar("T")

LedgerLocation: TypeAlias = Path | str
"""An SQLite file, or the URL of a PostgreSQL database (`postgresql://...`)."""


def open_ledger(where: LedgerLocation, sink: EventSink = unheard) -> Ledger:
    """Return the ledger at a place; nothing is touched before its `open`."""
    database = SQLiteDatabase(where) if isinstance(where, Path) else PostgresDatabase(where)
    return Ledger(database, sink)


class Ledger:
    """The CA's database; every method raises `StoreUnavailable` when the database fails.

    Args:
        database: Not open yet.
        sink: Takes what is stored of certificates and CRLs, once it is; and that the database is lost or found.
    """

    def __init__(self, database: Database, sink: EventSink = unheard) -> None:
        self._sink = sink
        self._database = self.watched = WatchedDatabase(database, sink)
        self.registry = Registry(self._database)

    async def open(self) -> None:
        """Connect. An SQLite file is made or migrated as needed.

        Raises:
            ConfigError: The file cannot be used; or the PostgreSQL database has to be migrated.
        """
        await self._database.open()

    async def migrate(self) -> None:
        """Bring the tables to those of this release, while it is not open.

        Raises:
            ConfigError: They are of a newer release, or no ledger.
        """
        await self._database.migrate()

    async def close(self) -> None:
        """Finish what is queued and disconnect; again is harmless."""
        await self._database.close()

    async def ping(self) -> None:
        """Check that the database can be written to now."""
        await self._write(audit.require_writable, durable=False)

    @property
    def database(self) -> Database:
        """Where it is, for work on all of it: backup, verification."""
        return self._database

    @property
    def commit_count(self) -> int:
        """Commits since it was opened: with many requests at once, fewer than pieces of work."""
        return self._database.commit_count

    # --- issuing ----------------------------------------------------------------------------------------------

    async def reserve(
        self, operation: Operation, intent: Intent, now: datetime
    ) -> Operation | None:
        """Store the intent to issue: the serial number, and the claim on the transactionID.

        Returns:
            None when the claim is this operation's; otherwise the stored operation: it has an answer, or is
            for another request.

        Raises:
            SerialTaken: The serial number was used before.
            NotAuthorized: The end entity does not exist, is blocked, or may not enrol again.
            RequestRefused: duplicateCertReq: another end entity has the key.
        """
        return await self._database.submit(
            reserve_many, Reservation(operation, intent, now), durable=False
        )

    async def store(
        self,
        operation: Operation,
        certificate: Certificate,
        now: datetime,
        *,
        revoke_superseded: bool = False,
    ) -> Operation:
        """Store certificate and answer of a reserved operation; they may leave when this returns.

        Args:
            revoke_superseded: As for `confirm`, where nothing has to be confirmed.

        Returns:
            What is stored: this operation, or that of another process which was faster with the same
            request; this certificate is then not in the ledger and must not leave.

        Raises:
            RequestRefused: duplicateCertReq: meanwhile another end entity got a certificate for the key.
        """
        stored = await self._database.submit(
            store_many, Issued(operation, certificate, now, revoke_superseded), durable=True
        )
        if stored.serial_number == operation.serial_number:
            transaction_id = operation.transaction_id.hex()
            self._sink(CertificateIssued(Component.ca, transaction_id, certificate.der))
        return stored

    # --- confirming -------------------------------------------------------------------------------------------

    async def find_operation(
        self, requester: str, transaction_id: bytes, now: datetime
    ) -> Operation | None:
        """Return the live operation of a requester under a transactionID, or None."""
        key = operation_key(requester, transaction_id)
        found = await self._read(lambda connection: operations(connection, [key]).get(key))
        return found if found is not None and found.expires_at > now else None

    async def confirm(
        self,
        operation: Operation,
        *,
        accepted: bool,
        digest: bytes,
        answer: bytes,
        now: datetime,
        revoke_superseded: bool = False,
    ) -> Operation | None:
        """Store that a certificate was accepted or rejected, unless that was decided before.

        A certificate that was accepted supersedes the one it renews.

        Args:
            digest: Tells the same confirmation from another one.
            answer: DER of pkiConf.
            revoke_superseded: The one it renews is revoked, instead of staying valid until it expires.

        Returns:
            What is stored, with this confirmation or an earlier one; None if it is gone.
        """
        stored = await self._database.submit(
            confirm_many,
            Confirmation(operation, accepted, digest, answer, now, revoke_superseded),
            durable=True,
        )
        if stored is not None and stored.confirm_answer == answer:  # not one of before
            told = operation.transaction_id.hex(), operation.certificate_der
            self._sink(
                CertificateConfirmed(Component.ca, *told)
                if accepted
                else CertificatesWithdrawn(Component.ca, (told[1],), True, told[0])
            )
        return stored

    # --- looking up -------------------------------------------------------------------------------------------

    async def certificate(self, serial_number: int, now: datetime) -> IssuedCertificate | None:
        """Return the certificate with a serial number, whatever its status, or None."""
        parameters = {"of_serial": hexadecimal(serial_number)}
        row = await self._read(
            lambda connection: connection.execute(_BY_SERIAL, parameters).one_or_none()
        )
        return None if row is None else _issued(row, seconds(now))

    async def record_of(self, certificate: Certificate, now: datetime) -> IssuedCertificate | None:
        """Return the record of a certificate, whatever its status and spelling; None if it is not one of ours."""
        found = await self.certificate(certificate.serial_number, now)
        return found if found is not None and load_certificate(found.der) == certificate else None

    async def revoked_among(
        self, certificates: Iterable[Certificate], now: datetime
    ) -> frozenset[Certificate]:
        """Return those of some certificates that are ours and are revoked, rejected or on hold."""
        wanted = frozenset(certificates)
        serials = {hexadecimal(item.serial_number) for item in wanted}
        if not serials:
            return frozenset()
        rows = await self._read(
            lambda connection: connection.execute(_BY_SERIALS, {"these": padded(serials)}).all()
        )
        found = [_issued(row, seconds(now)) for row in rows]
        gone = {load_certificate(item.der) for item in found if item.revoked_at is not None}
        return wanted & gone

    async def newest_certificate(
        self, subject_der: bytes, now: datetime, *, san_der: bytes | None = None
    ) -> IssuedCertificate | None:
        """Return the newest certificate of a subject that is neither expired nor revoked, or None.

        Args:
            san_der: SubjectAltName, which stands for a subject that is empty.
        """
        parameters = {"key": identity_key(subject_der, san_der), "now": seconds(now)}
        row = await self._read(
            lambda connection: connection.execute(_NEWEST, parameters).one_or_none()
        )
        return None if row is None else _issued(row, seconds(now))

    async def counts(self) -> dict[CertificateStatus, int]:
        """Return how many serial numbers have each status; those that none has are left out."""
        # All of the ledger is counted: lookups do not wait for that.
        rows = await self._database.read_state(lambda c: c.execute(_COUNTS).all())
        return {CertificateStatus(status): number for status, number in rows}

    async def living_profiles(self, now: datetime) -> set[str]:
        """Return the names of the profiles under which certificates were issued that count as valid."""
        parameters = {"now": seconds(now)}
        rows = await self._database.read_state(lambda c: c.execute(_PROFILES, parameters).all())
        return {name for (name,) in rows}

    async def withhold(self, certificates: Iterable[Certificate]) -> None:
        """Issue nothing, from now on, for the names and keys of certificates of the PKI's own."""
        found = tuple(certificates)
        await self._write(lambda connection: withholding.withhold(connection, NO_ENTITY, found))

    # --- revoking ---------------------------------------------------------------------------------------------

    async def revoke(
        self, revocation: Revocation, now: datetime, *, operation: Operation | None = None
    ) -> Operation | None:
        """Revoke a certificate, and store the operation that asked for it with its answer.

        A certificate on hold may be revoked for good; removeFromCRL gives it back the status it had.

        Returns:
            What is stored: this operation, or the live one that the transactionID had before, with nothing
            done now: compare `request_digest`. None without an operation.

        Raises:
            RequestRefused: badCertId: no such certificate. certRevoked: it is revoked or rejected already.
                badRequest: it is to be released and not on hold.
        """
        return await self._database.submit(
            revoke_many, Revoking(revocation, operation, now), durable=True
        )

    async def sweep(self, now: datetime) -> int:
        """Reject what was not confirmed in time, and delete operations that have expired.

        Returns:
            How many certificates were rejected.
        """
        moment, rejected = seconds(now), 0
        while withdrawn := await self._write(lambda c: revoking.reject_lapsed(c, moment)):
            rejected += len(withdrawn)
            self._sink(CertificatesWithdrawn(Component.ca, tuple(withdrawn)))
        while await self._write(lambda c: revoking.forget_expired(c, moment), durable=False):
            pass
        return rejected

    async def revoked(
        self, issuer_id: str, *, at: datetime, since: datetime | None = None
    ) -> list[RevokedCertificate]:
        """Return what a CRL shows: revoked and rejected certificates that have not expired.

        Args:
            at: thisUpdate of the CRL.
            since: For a delta: only what changed in the second of this moment or later. Certificates released
                from hold then come with the reason removeFromCRL.
        """
        moment, first = seconds(at), seconds_or_none(since)
        return await self._database.read_state(
            lambda connection: revoking.revoked(connection, issuer_id, moment, first)
        )

    async def last_revocation_at(self, issuer_id: str) -> datetime | None:
        """Return the moment (whole seconds) of the newest change that a CRL has to show."""
        return moment_or_none(
            await self._read(lambda connection: revoking.last_change(connection, issuer_id))
        )

    async def newest_crl(self, issuer_id: str, *, delta: bool) -> StoredCRL | None:
        """Return the full or the delta CRL with the highest number, or None."""
        return await self._read(
            lambda connection: revoking.newest_crl(connection, issuer_id, delta)
        )

    async def store_crl(self, crl: StoredCRL) -> bool:
        """Store a CRL before it is published; False if there is one with its number."""
        is_stored = await self._write(lambda connection: revoking.store_crl(connection, crl))
        if is_stored:
            self._sink(
                CRLPublished(
                    crl.issuer_id, crl.number, crl.base_number, crl.next_update, len(crl.der)
                )
            )
        return is_stored

    # --- audit ------------------------------------------------------------------------------------------------

    async def audit_entries(self, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """Return lines of the audit trail in their order, those behind line number `after`."""
        return await self._database.read_state(
            lambda connection: audit.entries(connection, after, limit)
        )

    async def _read(self, function: Callable[[Connection], T]) -> T:
        return await self._database.read(function)

    async def _write(self, function: Callable[[Connection], T], *, durable: bool = True) -> T:
        return await write(self._database, function, durable=durable)


def _issued(row: AnyRow, now: int) -> IssuedCertificate:
    status, revoked_at, reason = standing(row, now)
    return IssuedCertificate(
        serial_number=int(row.serial, 16),
        status=status,
        der=row.der,
        issuer_id=row.issuer_id,
        entity=row.entity,
        profile=row.profile,
        requester=row.requester,
        origin=row.origin or row.requester,
        revoked_at=revoked_at,
        reason=reason,
        vendor=row.vendor,
        identity=row.identity,
    )


_c, _e = schema.certificates.c, schema.entities.c
_ISSUED: Final = select(
    _c.serial,
    _c.status,
    _c.der,
    _c.issuer_id,
    _c.entity,
    _c.profile,
    _c.requester,
    _c.origin,
    _c.vendor,
    _c.identity,
    _c.revoked_at,
    _c.reason,
    _c.confirm_by,
    _c.fingerprint,
).where(_c.der.is_not(None))
_BY_SERIAL: Final = _ISSUED.where(_c.serial == bindparam("of_serial"))
_BY_SERIALS: Final = _ISSUED.where(_c.serial.in_(listed("these")))
_NAME: Final = select(_e.name).where(_e.subject_key == bindparam("key")).scalar_subquery()
_NEWEST: Final = (
    _ISSUED.where(
        _c.entity
        == _NAME,  # has an index, which the subject has not: each costs every issuance a page
        _c.subject_key == bindparam("key"),
        alive(bindparam("now")),
    )
    .order_by(_c.id.desc())
    .limit(1)
)
_PROFILES: Final = select(_c.profile).where(alive(bindparam("now"))).distinct()
_COUNTS: Final = select(_c.status, func.count()).group_by(_c.status)
