"""Whether the ledger agrees with itself, with the certificates and CRLs in it, with the audit trail, and that with
its checkpoints outside.

All is read from one state of the database, while others go on writing. The trail comes first: it is replayed, and
every row of every table has then to be what the replay says, and every line to have its row. Not told by the trail,
and of no consequence, are serial numbers that were reserved and not used, and claims that have no answer yet.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from sqlalchemy import Connection, Row, Table, func, or_, select, union_all

from ra_gateway.ca.ledger import audit, replay, schema
from ra_gateway.ca.ledger.checkpoints import Checkpoint
from ra_gateway.ca.ledger.database import Progress
from ra_gateway.ca.ledger.differences import (
    GONE,
    certificate_differences,
    crl_differences,
    row_faults,
    trail_differences,
    verify_crl,
)
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.ca.ledger.operations import confirmation_digest, operation_digest
from ra_gateway.ca.ledger.replay import Contradiction, Registered, Replay
from ra_gateway.ca.ledger.revoking import COMMIT_LAG, newest_crl
from ra_gateway.ca.ledger.sql import moment, operation_key, registered_identifiers, seconds
from ra_gateway.ca.ledger.withholding import identifiers_of, identifiers_of_entity
from ra_gateway.ca.records import NO_ENTITY, CertificateStatus, EntityStatus, StoredCRL
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.errors import CMPError
from ra_gateway.hash_chain import START, chained

ROWS: Final = 500
"""Read at a time: a megabyte."""

MOST_FINDINGS: Final = 1000
"""Listed; a ledger with more is damaged as a whole."""

_NOT_CONFIRMED: Final = confirmation_digest(b"", b"")
_ISSUING: Final = frozenset(CERT_RESPONSE_TO)
RESTORE: Final = (
    "Find out who wrote to the database; restore the last good backup beside it and compare"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not agree.

    Args:
        where: Such as "certificate 1a2b" or "audit line 7".
    """

    where: str
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.todo}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found.

    Args:
        findings: What does not agree.
        older_lines: Lines of the audit trail from releases that wrote less; what they leave open was not compared.
    """

    findings: list[Finding]
    older_lines: int


async def verify(
    ledger: Ledger,
    issuers: Mapping[str, Certificate],
    at: datetime,
    *,
    checkpoints: Sequence[Checkpoint] = (),
    sample: int | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Return what in a ledger does not agree.

    Args:
        issuers: All issuing CAs, retired ones too, by `issuer_id`.
        at: Aware UTC; CRLs have to be current then.
        checkpoints: Where the audit trail has to have ended.
        sample: How many signatures of certificates to verify, spread over all; by default every one.
        progress: May be called from another thread.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    arguments = (issuers, at, checkpoints, sample, progress)
    return await ledger.database.read_state(lambda c: _Verification(c, *arguments).run())


class _TooMany(Exception):
    """There is no point in going on."""


class _Verification:
    """One verification of one state of a database."""

    def __init__(
        self,
        connection: Connection,
        issuers: Mapping[str, Certificate],
        at: datetime,
        checkpoints: Sequence[Checkpoint],
        sample: int | None,
        progress: Progress | None,
    ) -> None:
        self._connection = connection
        self._issuers = issuers
        self._at = at
        self._progress = progress
        self._done = 0
        counts = [self._count(table) for table in (schema.audit, schema.certificates)]
        self._total = sum(counts)
        self._stride = 1 if not sample else max(1, -(-counts[1] // sample))
        self._offset = secrets.randbelow(self._stride)
        self._findings: list[Finding] = []
        self._checkpoints = {item.number: item for item in checkpoints}
        self._trail = Replay()
        self._unknown_issuers: set[str] = set()

    def run(self) -> Verified:
        try:
            self._check_audit()
            self._check_certificates()
            self._check_operations()
            self._check_registered()
            self._check_withheld()
            self._check_crls()
        except _TooMany:
            self._findings.append(Finding("ledger", "there are more findings than these", RESTORE))
        return Verified(self._findings, self._trail.open_lines)

    def _count(self, table: Any) -> int:
        return self._connection.scalar(select(func.count()).select_from(table)) or 0

    def _find(self, where: str, what: str, todo: str = RESTORE) -> None:
        if len(self._findings) == MOST_FINDINGS:
            raise _TooMany
        self._findings.append(Finding(where, what, todo))

    def _stream(self, statement: Any) -> Iterable[Row[Any]]:
        return self._connection.execute(statement, execution_options={"yield_per": ROWS})

    def _step(self) -> None:
        self._done += 1
        if self._progress is not None and (self._done % ROWS == 0 or self._done == self._total):
            self._progress(self._done, self._total)

    # --- the audit trail --------------------------------------------------------------------------------------

    def _check_audit(self) -> None:
        number, hash_ = 0, START
        for row in self._stream(select(schema.audit).order_by(schema.audit.c.number)):
            where = f"audit line {row.number}"
            if row.number != number + 1:
                self._find(where, f"lines {number + 1} to {row.number - 1} before it are missing")
            elif row.previous_hash != hash_:
                self._find(
                    where,
                    "it does not continue the line before it: one of the two was written anew",
                )
            if row.hash != chained(
                row.previous_hash,
                row.number,
                row.at,
                row.actor,
                row.action,
                row.subject,
                row.detail,
            ):
                self._find(where, f"it was changed: {row.action} of {row.subject} by {row.actor}")
            number, hash_ = row.number, row.hash
            self._check_checkpoint(number, hash_)
            try:
                self._trail.apply(row.at, row.actor, row.action, row.subject, row.detail)
            except Contradiction as error:
                self._find(where, f"{row.action} of {row.subject}: {error}")
            self._step()
        head = self._connection.execute(select(schema.audit_head)).first()
        if head is None or head.number != number:
            said = 0 if head is None else head.number
            self._find("audit", f"it ends with line {number}, and should with {said}")
        elif head.hash != hash_:
            self._find("audit", "its last line is not the one that was written last")
        self._check_checkpoint(0, bytes(32))
        for number in sorted(self._checkpoints):
            self._find(
                f"checkpoint of {self._checkpoints[number].at:%Y-%m-%d %H:%M:%S} UTC",
                f"the audit trail ended with line {number} then, and does not have it any more",
            )

    def _check_checkpoint(self, number: int, hash_: bytes) -> None:
        checkpoint = self._checkpoints.pop(number, None)
        if checkpoint is not None and checkpoint.hash != hash_:
            self._find(
                f"checkpoint of {checkpoint.at:%Y-%m-%d %H:%M:%S} UTC",
                f"line {number} of the audit trail was another one then: it was written anew",
            )

    # --- certificates -----------------------------------------------------------------------------------------

    def _check_certificates(self) -> None:
        unseen = set(self._trail.certificates)
        rows = self._stream(select(schema.certificates).order_by(schema.certificates.c.id))
        for index, row in enumerate(rows):
            where = f"certificate {row.serial}"
            for what in list(row_faults(row)) or self._trail_faults(row):
                self._find(where, what)
            if row.der is not None:
                self._check_der(where, row, verify_too=index % self._stride == self._offset)
            unseen.discard(row.serial)
            self._step()
        for serial in sorted(unseen):
            self._find(
                f"certificate {serial}",
                "it was issued, the audit trail says, and is not in the ledger",
            )

    def _trail_faults(self, row: Row[Any]) -> Iterator[str]:
        """Yield what a row says against the audit trail."""
        said = self._trail.certificates.get(row.serial)
        if said is None:
            if row.status != CertificateStatus.reserved:
                yield "the audit trail does not say that it was issued"
            return
        if row.status == CertificateStatus.reserved:
            yield "it is reserved only, and the audit trail says that it was issued"
            return
        if row.status != said.status and (
            not said.is_open or row.status in GONE or said.status in GONE
        ):
            if said.status in GONE and row.status not in GONE:
                yield f"it is {row.status}, and the audit trail says that it was revoked"
            elif row.status in GONE and said.status not in GONE:
                yield f"it is {row.status}, and the audit trail does not say so"
            else:
                yield f"it is {row.status}, and the audit trail says {said.status}"
            return
        for name in trail_differences(row, said):
            yield f"its row has another {name} than the audit trail"

    def _check_der(self, where: str, row: Row[Any], *, verify_too: bool) -> None:
        try:
            certificate = Certificate.from_der(row.der)
            faults = list(certificate_differences(row, certificate))
        except CMPError as error:
            self._find(where, f"what is stored is no certificate: {error.detail}")
            return
        for name in faults:
            self._find(where, f"its row has another {name} than the certificate itself")
        issuer = self._issuers.get(row.issuer_id)
        if issuer is None:
            self._unknown_issuer(row.issuer_id)
        elif certificate.issuer_der != issuer.subject_der:
            self._find(
                where, f"its row names the issuing CA {issuer.subject}, which is not its issuer"
            )
        elif verify_too:
            try:
                certificate.verify_issued_by(issuer)
            except (InvalidSignature, CMPError):
                self._find(where, f"its signature is not of {issuer.subject}")

    def _unknown_issuer(self, issuer_id: str) -> None:
        if issuer_id not in self._unknown_issuers:
            self._unknown_issuers.add(issuer_id)
            self._find(
                f"issuing CA {issuer_id}",
                "certificates name it, and its own is not among the CA's files",
                "Put it into a directory retired/N of the CA's, as `ra-gateway ca roll-issuing` does",
            )

    # --- operations -------------------------------------------------------------------------------------------

    def _check_operations(self) -> None:
        operations, certificates = schema.operations, schema.certificates
        of_new, of_old = (
            select(
                operations.c.transaction_id,
                operations.c.body_type,
                serial.label("named"),
                certificates.c.status,
            ).outerjoin(certificates, certificates.c.serial == serial)
            for serial in (operations.c.serial, operations.c.old_serial)
        )
        answered = operations.c.answer != b""
        issuing = operations.c.body_type.in_([int(body_type) for body_type in _ISSUING])
        missing = certificates.c.serial.is_(None)
        statement = union_all(
            of_new.where(issuing, missing),
            of_new.where(issuing, answered, certificates.c.status == CertificateStatus.reserved),
            of_old.where(operations.c.old_serial.is_not(None), missing),
        )
        for row in self._stream(statement):
            what = "is not in the ledger" if row.status is None else "was never stored"
            self._find(
                f"operation {row.transaction_id.hex()}",
                f"the certificate {row.named} of this {BodyType(row.body_type).name} {what}",
            )
        self._check_answers()

    def _check_answers(self) -> None:
        """Compare each answer with the audit trail, and look for those that have to be there still."""
        said = self._trail.operations
        seen: set[bytes] = set()
        statement = select(schema.operations).where(schema.operations.c.answer != b"")
        for row in self._stream(statement):
            where = f"operation {row.transaction_id.hex()}"
            if row.key != operation_key(row.requester, row.transaction_id):
                self._find(where, "it is filed under another transactionID or requester")
            known = said.get(row.key)
            seen.add(row.key)
            if known is None:
                if not self._trail.open_lines:
                    self._find(where, "the audit trail does not say that it was answered")
            elif known.digest != operation_digest(row._asdict()):
                self._find(where, "it is not what was answered, the audit trail says")
            elif (known.confirmation or _NOT_CONFIRMED) != confirmation_digest(
                row.confirm_digest, row.confirm_answer
            ):
                self._find(where, "its confirmation is not that of the audit trail")
        until = seconds(self._at + COMMIT_LAG)
        for key, known in said.items():
            if known.expires_at > until and key not in seen:
                self._find(
                    f"operation of certificate {known.serial}",
                    f"it was answered, has not expired before {moment(known.expires_at):%Y-%m-%d %H:%M} UTC, and is "
                    "not in the ledger",
                )

    # --- who is registered ------------------------------------------------------------------------------------

    def _check_registered(self) -> None:
        trail = self._trail
        self._check_names("end entity", schema.entities, trail.entities)
        self._check_names("role", schema.roles, trail.roles)
        self._check_names("RA", schema.authorities, trail.authorities)
        self._check_authority_certificates()

    def _check_names(self, kind: str, table: Table, said: Mapping[str, Registered]) -> None:
        unseen = set(said)
        for row in self._stream(select(table).order_by(table.c.name)):
            where = f"{kind} {row.name}"
            known = said.get(row.name)
            unseen.discard(row.name)
            if known is None:
                if not self._made_by_an_older_release(table, row):
                    self._find(where, "the audit trail does not say that it was registered")
                continue
            try:
                facts = audit.facts(table, row._asdict())
            except (ValueError, TypeError):
                self._find(where, "its row has a list that is none")
                continue
            names = known.facts if known.is_open else {*facts, *known.facts}
            for name in sorted(names):
                if facts.get(name) != known.facts.get(name):
                    self._find(
                        where,
                        f"its {name} is {facts.get(name, 'nothing')!r}, and {known.facts.get(name, 'nothing')!r} "
                        "in the audit trail",
                    )
            if not known.is_open and getattr(row, "created_at", known.at) != known.at:
                self._find(where, "it was registered at another time, the audit trail says")
        for name in sorted(unseen):
            self._find(f"{kind} {name}", "the audit trail says that it is registered")

    def _made_by_an_older_release(self, table: Table, row: Row[Any]) -> bool:
        """Tell whether it may be an end entity that was made for an RA's request, of which nothing was said."""
        if table is not schema.entities or row.vendor or row.identity or row.names != "[]":
            return False
        return any(
            item.is_open and item.entity == row.name and item.requester == row.created_by
            for item in self._trail.certificates.values()
        )

    def _check_authority_certificates(self) -> None:
        unseen = dict(self._trail.authority_certificates)
        table = schema.authority_certificates
        for row in self._stream(select(table).order_by(table.c.id)):
            where = f"certificate {row.fingerprint.hex()} of RA {row.authority}"
            said = unseen.pop(row.fingerprint.hex(), None)
            if said is None:
                self._find(where, "the audit trail does not say that it was added")
            elif said != (row.authority, row.added_at):
                self._find(
                    where, f"it was added to {said[0]} or at another time, the audit trail says"
                )
            if hashlib.sha256(row.der).digest() != row.fingerprint:
                self._find(where, "what is stored has another fingerprint")
        for fingerprint, (name, _) in sorted(unseen.items()):
            self._find(
                f"certificate {fingerprint} of RA {name}",
                "the audit trail says that it was added, and it is not in the ledger",
            )

    # --- names and keys that are somebody's alone -----------------------------------------------------------------

    def _check_withheld(self) -> None:
        """Compare what nobody else gets with what it follows from: RAs, blocked end entities, and registered names."""
        held: dict[str, set[bytes]] = {}
        for row in self._stream(select(schema.withheld)):
            held.setdefault(row.entity, set()).add(row.identifier)
        # Of the PKI there is more: its signers, which no table has, and RAs that are gone.
        own = held.pop(NO_ENTITY, set())
        for row in self._stream(select(schema.authority_certificates)):
            if self._identifiers(row.der) - own:
                self._find(
                    f"certificate {row.fingerprint.hex()} of RA {row.authority}",
                    "a device could have its name or its key: they are not withheld any more",
                )
        entities = schema.entities.c
        holders = select(
            entities.name, entities.subject, entities.names, entities.vendor, entities.status
        ).where(or_(entities.vendor != "", entities.status == EntityStatus.blocked))
        for entity in self._connection.execute(holders).all():
            found = held.pop(entity.name, set())
            try:
                required: set[bytes] = set()
                if entity.vendor:
                    required |= registered_identifiers(entity.subject, json.loads(entity.names))
                allowed = set(required)
                if entity.status == EntityStatus.blocked:
                    known = self._trail.entities.get(entity.name)
                    at = 0 if known is None else known.blocked_at
                    required |= identifiers_of_entity(self._connection, entity.name, at)
                    allowed |= identifiers_of_entity(self._connection, entity.name)
            except (ValueError, TypeError, CMPError):
                continue  # found above
            if required - found:
                self._find(
                    f"end entity {entity.name}",
                    "others could have its names or its keys: they are not withheld any more",
                )
            if found - allowed:
                held[entity.name] = found - allowed
        for name in sorted(held):
            self._find(
                f"end entity {name}", "names or keys are withheld for it that are not its own"
            )

    def _identifiers(self, der: bytes) -> set[bytes]:
        try:
            return identifiers_of(Certificate.from_der(der))
        except CMPError:
            return set()  # found above

    # --- CRLs -------------------------------------------------------------------------------------------------

    def _check_crls(self) -> None:
        self._check_published()
        for issuer_id, issuer in self._issuers.items():
            self._check_numbers(issuer_id)
            full, delta = (newest_crl(self._connection, issuer_id, kind) for kind in (False, True))
            for stored in filter(None, (full, delta)):
                self._check_crl(stored, issuer)
            self._check_currency(issuer_id, issuer, full)

    def _check_published(self) -> None:
        unseen = dict(self._trail.crls)
        first: dict[str, int] = {}
        for issuer_id, number in unseen:
            first[issuer_id] = min(number, first.get(issuer_id, number))
        for row in self._stream(select(schema.crls)):
            where = f"CRL {row.number} of {row.issuer_id}"
            said = unseen.pop((row.issuer_id, row.number), None)
            if said is None:
                # Older releases said nothing of CRLs.
                if not (
                    self._trail.open_lines and row.number < first.get(row.issuer_id, row.number + 1)
                ):
                    self._find(where, "the audit trail does not say that it was made")
            elif said != replay.CRL(
                row.this_update,
                row.next_update,
                row.base_number,
                hashlib.sha256(row.der).hexdigest(),
            ):
                self._find(where, "it is not the one that was made, the audit trail says")
        for issuer_id, number in sorted(unseen):
            self._find(
                f"CRL {number} of {issuer_id}",
                "it was made, the audit trail says, and is not in the ledger",
            )

    def _check_numbers(self, issuer_id: str) -> None:
        crls = schema.crls
        statement = (
            select(crls.c.number, crls.c.base_number, crls.c.this_update, crls.c.next_update)
            .where(crls.c.issuer_id == issuer_id)
            .order_by(crls.c.number)
        )
        latest, full = 0, set()
        for row in self._stream(statement):
            where = f"CRL {row.number} of {issuer_id}"
            if row.this_update < latest:
                self._find(where, "it is older than one with a lower number")
            if row.next_update <= row.this_update:
                self._find(where, "it ends before it begins")
            if row.base_number is None:
                full.add(row.number)
            elif row.base_number not in full:
                self._find(where, f"there is no full CRL {row.base_number}, which it continues")
            latest = max(latest, row.this_update)

    def _check_currency(
        self, issuer_id: str, issuer: Certificate, newest: StoredCRL | None
    ) -> None:
        todo = "Run `ra-gateway ca serve`, which keeps CRLs current, or `ra-gateway ca crl`"
        where = f"CRL of {issuer.subject}"
        if not issuer.valid_at(self._at):
            return
        if newest is not None and seconds(newest.next_update) < seconds(self._at):
            ended = f"the newest one ended {newest.next_update:%Y-%m-%d %H:%M} UTC"
            self._find(where, ended, todo)
        if newest is None and self._required(issuer_id, 0, seconds(self._at - COMMIT_LAG)):
            self._find(where, "there is none, and certificates are revoked", todo)

    def _check_crl(self, stored: StoredCRL, issuer: Certificate) -> None:
        where = f"CRL {stored.number} of {stored.issuer_id}"
        try:
            crl = x509.load_der_x509_crl(stored.der)
            verify_crl(stored.der, issuer)
            listed = {entry.serial_number for entry in crl}
        except ValueError:
            self._find(where, "what is stored is no CRL")
            return
        except (InvalidSignature, CMPError):
            self._find(where, f"its signature is not of {issuer.subject}")
            return
        for name in crl_differences(stored, crl, issuer):
            self._find(where, f"its row has another {name} than the CRL itself")
        self._check_entries(where, stored, listed)

    def _check_entries(self, where: str, crl: StoredCRL, listed: set[int]) -> None:
        since = 0
        if crl.base_number is not None:
            since = self._this_update(crl.issuer_id, crl.base_number)
        todo = "Run `ra-gateway ca crl` for a new one, and find out who wrote to the database"
        # What was revoked within the last minute before it may have been committed after it.
        until = seconds(crl.this_update - COMMIT_LAG)
        required = self._required(crl.issuer_id, since, until, seconds(crl.this_update))
        for serial in sorted(required - listed):
            self._find(where, f"the revoked certificate {serial:x} is not on it", todo)
        for serial in sorted(listed - self._revoked_ever(crl.issuer_id)):
            self._find(
                where, f"{serial:x} is on it, and is no revoked certificate of this CA", todo
            )

    def _this_update(self, issuer_id: str, number: int) -> int:
        crls = schema.crls
        statement = select(crls.c.this_update).where(
            crls.c.issuer_id == issuer_id, crls.c.number == number
        )
        return self._connection.scalar(statement) or 0

    def _required(
        self, issuer_id: str, since: int, until: int, unexpired_at: int | None = None
    ) -> set[int]:
        """Return the serial numbers that were revoked in a time and had not expired then."""
        certificates = schema.certificates
        statement = select(certificates.c.serial).where(
            certificates.c.issuer_id == issuer_id,
            certificates.c.reason.is_not(None),
            certificates.c.revoked_at > since,
            certificates.c.revoked_at <= until,
            certificates.c.not_after >= (until if unexpired_at is None else unexpired_at),
        )
        return {int(serial, 16) for (serial,) in self._stream(statement)}

    def _revoked_ever(self, issuer_id: str) -> set[int]:
        """Return what may be on a CRL: revoked, or on hold once."""
        certificates = schema.certificates
        statement = select(certificates.c.serial).where(
            certificates.c.issuer_id == issuer_id, certificates.c.reason.is_not(None)
        )
        return {int(serial, 16) for (serial,) in self._stream(statement)}
