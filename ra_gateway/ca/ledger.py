"""What the CA issued and answered, in SQLite; durable before it leaves.

One thread owns the connection. Callers queue their work; the thread takes all that is waiting, runs it in one
database transaction and commits once (group commit), so that many issuances share one flush to the disk. Each
piece of work has its own savepoint: one that fails undoes only itself.

One issuance is two pieces of work. `reserve` stores the intent before the key signs: the serial number, and
the claim on the transactionID. It is committed without a flush (synchronous=NORMAL): it survives the end of the
process and is seen by every other process, and if the machine loses power with it, then nothing has left yet
that depended on it. `store` puts certificate and answer into the reserved rows and is flushed
(synchronous=FULL), along with every commit before it; only then may the answer leave. Hence:

- No certificate leaves without a durable row: the answer is returned by `store`, after its commit.
- One transactionID never yields two certificates: the claim is a unique key, and `store` succeeds for the first
  that stores its answer there. Another process with the same request at the same moment finds that answer; what
  it signed itself is not stored and does not leave, and its serial number remains reserved.
- A reserved row without a certificate (the process died in between, or the key failed) is harmless: the same
  request goes on under the same claim with a new serial number; the old one is never used.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import canonical
from ra_gateway.errors import ConfigError, Problem, ServiceFailure, StoreUnavailable

T = TypeVar("T")

MAX_BATCH: Final = 256
"""Pieces of work per commit: some 20 ms of work, so that the first in the queue does not wait for the last."""

BUSY_SECONDS: Final = 5.0
"""How long another process may hold the file; a commit takes milliseconds."""

SWEEP_SECONDS: Final = 60
"""How often what has expired is cleared away; the queries do not depend on it."""

_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE certificates (
            id INTEGER PRIMARY KEY,
            serial TEXT NOT NULL UNIQUE,         -- hexadecimal
            status TEXT NOT NULL,
            requester TEXT NOT NULL,             -- name of the RA
            subject TEXT NOT NULL,               -- canonical form, to be compared
            issuer TEXT NOT NULL,
            fingerprint BLOB,                    -- SHA-256
            der BLOB,
            not_before INTEGER,                  -- this and all times: seconds since 1970, UTC
            not_after INTEGER,
            confirm_by INTEGER,                  -- NULL once it needs no confirmation
            reserved_at INTEGER NOT NULL,
            issued_at INTEGER,
            changed_at INTEGER                   -- when it got its present status
        )
        """,
        "CREATE INDEX certificates_by_subject ON certificates (subject) WHERE der IS NOT NULL",
        "CREATE INDEX certificates_unconfirmed ON certificates (confirm_by) WHERE status = 'issued'",
        """
        CREATE TABLE transactions (
            requester TEXT NOT NULL,             -- name of the RA: its certificate may change meanwhile
            transaction_id BLOB NOT NULL,
            request_digest BLOB NOT NULL,
            body_type INTEGER NOT NULL,
            cert_req_id TEXT NOT NULL,           -- an INTEGER of any length
            device_serial TEXT,                  -- nested: the certificate that has to sign certConf
            serial TEXT NOT NULL REFERENCES certificates (serial),
            old_serial TEXT,                     -- kur: the certificate that is renewed
            response_nonce BLOB NOT NULL,
            answer BLOB NOT NULL,                -- empty until there is one
            confirm_by INTEGER,
            confirm_digest BLOB NOT NULL,
            confirm_answer BLOB NOT NULL,
            expires_at INTEGER NOT NULL,
            UNIQUE (requester, transaction_id)
        )
        """,
        "CREATE INDEX transactions_by_expiry ON transactions (expires_at)",
    ),
)
"""What each version of the schema adds to the one before; the number of those applied is in schema_version."""


_STATUS: Final = "CASE WHEN status = 'issued' AND confirm_by < ? THEN 'rejected' ELSE status END"
"""The status at a moment: the sweep may not have come by since confirmWaitTime."""


class CertificateStatus(StrEnum):
    """What has become of a serial number."""

    reserved = "reserved"  # no certificate yet, perhaps never
    issued = "issued"  # sent; the device has not confirmed
    confirmed = "confirmed"
    rejected = "rejected"  # by the device, or not confirmed in time: as good as revoked
    superseded = "superseded"  # renewed, and valid until it expires
    revoked = "revoked"


ALIVE: Final = frozenset(
    {CertificateStatus.issued, CertificateStatus.confirmed, CertificateStatus.superseded}
)
"""Certificates that count as valid, if they have not expired."""


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate of ours and its status."""

    serial_number: int
    status: CertificateStatus
    der: bytes


@dataclass(frozen=True, slots=True)
class Operation:
    """One transaction from its request to its confirmation.

    Args:
        requester: Name of the RA, whichever of its certificates it signed with.
        request_digest: Tells the same request from another one.
        device_serial_number: Nested: of the device's certificate, which certConf must be protected with.
        confirm_by: Until when certConf is awaited; None if implicitConfirm was granted.
        old_serial_number: kur: of the certificate that is renewed.
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
    device_serial_number: int | None = None
    old_serial_number: int | None = None
    serial_number: int = 0
    answer: bytes = b""
    certificate_der: bytes = b""
    confirm_digest: bytes = b""
    confirm_answer: bytes = b""


class SerialTaken(ServiceFailure):
    """The serial number is in the ledger already; draw another one."""


class _Kind(IntEnum):
    read = 0
    write = 1  # committed, not flushed
    durable = 2  # committed and flushed, with all that was committed before


@dataclass(slots=True)
class _Work(Generic[T]):
    kind: _Kind
    run: Callable[[sqlite3.Connection], T]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    result: T | None = None
    error: Exception | None = field(default=None)

    def deliver(self) -> None:
        if self.future.done():  # whoever asked was cancelled
            return
        if self.error is None:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # T may be Optional
        elif isinstance(self.error, sqlite3.Error):
            failure = StoreUnavailable(f"ledger: {self.error}")
            failure.__cause__ = self.error
            self.future.set_exception(failure)
        else:
            self.future.set_exception(self.error)


class Ledger:
    """The CA's memory; every method raises `StoreUnavailable` when the database fails.

    Args:
        path: SQLite file, made if it does not exist; its directory must.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._connection = _connect(path)
        self._queue: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._swept_at = 0
        self._flushing = True
        self._closed = False
        self.commit_count = 0
        """Commits so far: with many requests at once, fewer than pieces of work."""
        self._thread = threading.Thread(target=self._serve, name="ca-ledger", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finish what is queued and close the file."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    # --- issuing ----------------------------------------------------------------------------------------------

    async def reserve(
        self, operation: Operation, *, subject_der: bytes, issuer_der: bytes, now: datetime
    ) -> Operation | None:
        """Store the intent to issue: the serial number, and the claim on the transactionID.

        Returns:
            None when the claim is this operation's; otherwise the stored operation: it has an answer, or is
            for another request.

        Raises:
            SerialTaken: The serial number was used before.
        """
        return await self._submit(
            _Kind.write,
            lambda connection: self._reserve(connection, operation, subject_der, issuer_der, now),
        )

    def _reserve(
        self,
        connection: sqlite3.Connection,
        operation: Operation,
        subject_der: bytes,
        issuer_der: bytes,
        now: datetime,
    ) -> Operation | None:
        self._sweep(connection, now)
        serial = f"{operation.serial_number:x}"
        added = connection.execute(
            "INSERT INTO certificates (serial, status, requester, subject, issuer, reserved_at) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                serial,
                CertificateStatus.reserved,
                operation.requester,
                _comparable(subject_der),
                _comparable(issuer_der),
                _seconds(now),
            ),
        )
        if added.rowcount != 1:
            raise SerialTaken(f"serial number {serial} is in the ledger already", rule="R153")
        if _claim(connection, operation):
            return None
        stored = _find(connection, operation.requester, operation.transaction_id)
        assert stored is not None  # it is what the claim collided with
        if stored.expires_at <= now:
            connection.execute(
                "DELETE FROM transactions WHERE requester = ? AND transaction_id = ?",
                (operation.requester, operation.transaction_id),
            )
            _claim(connection, operation)
        elif stored.answer or stored.request_digest != operation.request_digest:
            # Nothing of this attempt is to stay.
            connection.execute("DELETE FROM certificates WHERE serial = ?", (serial,))
            return stored
        return None

    async def store(
        self, operation: Operation, certificate: Certificate, now: datetime
    ) -> Operation:
        """Store certificate and answer of a reserved operation; they may leave when this returns.

        Returns:
            What is stored: this operation, or that of another process which was faster with the same
            request; this certificate is then not in the ledger and must not leave.
        """
        return await self._submit(
            _Kind.durable, lambda connection: _store(connection, operation, certificate, now)
        )

    # --- confirming -------------------------------------------------------------------------------------------

    async def find_operation(
        self, requester: str, transaction_id: bytes, now: datetime
    ) -> Operation | None:
        """Return the live operation of a requester under a transactionID, or None."""

        def find(connection: sqlite3.Connection) -> Operation | None:
            found = _find(connection, requester, transaction_id)
            return found if found is not None and found.expires_at > now else None

        return await self._submit(_Kind.read, find)

    async def confirm(
        self,
        operation: Operation,
        *,
        accepted: bool,
        digest: bytes,
        answer: bytes,
        now: datetime,
    ) -> Operation | None:
        """Store that a certificate was accepted or rejected, unless that was decided before.

        A certificate that was accepted supersedes the one it renews.

        Args:
            digest: Tells the same confirmation from another one.
            answer: DER of pkiConf.

        Returns:
            What is stored, with this confirmation or an earlier one; None if it is gone.
        """
        return await self._submit(
            _Kind.durable,
            lambda connection: _confirm(connection, operation, accepted, digest, answer, now),
        )

    # --- looking up -------------------------------------------------------------------------------------------

    async def certificate(
        self, serial_number: int, now: datetime, *, fingerprint: bytes | None = None
    ) -> IssuedCertificate | None:
        """Return the certificate with a serial number (and fingerprint), whatever its status, or None."""
        return await self._certificate(
            "serial = ? AND (? IS NULL OR fingerprint = ?)",
            (f"{serial_number:x}", fingerprint, fingerprint),
            now,
        )

    async def newest_certificate(
        self, subject_der: bytes, now: datetime
    ) -> IssuedCertificate | None:
        """Return the newest certificate of a subject that is neither expired nor revoked, or None."""
        return await self._certificate(
            f"subject = ? AND not_after >= ? AND {_STATUS} IN ('issued', 'confirmed', 'superseded')",
            (_comparable(subject_der), _seconds(now), _seconds(now)),
            now,
        )

    async def _certificate(
        self, condition: str, values: tuple[object, ...], now: datetime
    ) -> IssuedCertificate | None:
        statement = (
            f"SELECT serial, {_STATUS}, der FROM certificates "  # noqa: S608 - conditions are from here
            f"WHERE der IS NOT NULL AND {condition} ORDER BY id DESC LIMIT 1"
        )

        def select(connection: sqlite3.Connection) -> IssuedCertificate | None:
            row = connection.execute(statement, (_seconds(now), *values)).fetchone()
            return row and IssuedCertificate(int(row[0], 16), CertificateStatus(row[1]), row[2])

        return await self._submit(_Kind.read, select)

    async def counts(self) -> dict[CertificateStatus, int]:
        """Return how many serial numbers have each status; those that none has are left out."""

        def count(connection: sqlite3.Connection) -> dict[CertificateStatus, int]:
            rows = connection.execute("SELECT status, count(*) FROM certificates GROUP BY status")
            return {CertificateStatus(status): number for status, number in rows}

        return await self._submit(_Kind.read, count)

    async def ping(self) -> None:
        """Return if the database can be written to now."""
        await self._submit(_Kind.write, lambda connection: None)

    # --- the thread -------------------------------------------------------------------------------------------

    async def _submit(self, kind: _Kind, run: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the ledger is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Work(kind, run, loop, future))
        return await future

    def _serve(self) -> None:
        open_ = True
        while open_:
            taken = [self._queue.get()]
            while len(taken) < MAX_BATCH:
                try:
                    taken.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            batch = [work for work in taken if work is not None]
            open_ = len(batch) == len(taken)
            if batch:
                self._run(batch)
                _deliver(batch)
        self._connection.close()

    def _run(self, batch: list[_Work[Any]]) -> None:
        kind = max(work.kind for work in batch)
        if kind is _Kind.read:
            for work in batch:
                _attempt(self._connection, work)
            return
        try:
            self._flush_on_commit(kind is _Kind.durable)
            self._connection.execute("BEGIN IMMEDIATE")
            for work in batch:
                self._connection.execute("SAVEPOINT work")
                if not _attempt(self._connection, work):
                    self._connection.execute("ROLLBACK TO work")
                self._connection.execute("RELEASE work")
            self._connection.execute("COMMIT")
            self.commit_count += 1
        except sqlite3.Error as error:
            # Nothing of the batch is certain to be in the file, not even what succeeded.
            for work in batch:
                work.error = work.error or error
            with suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _flush_on_commit(self, wanted: bool) -> None:
        if wanted != self._flushing:
            # The flush covers the whole write-ahead log, hence also what was committed without one.
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._flushing = wanted

    def _sweep(self, connection: sqlite3.Connection, now: datetime) -> None:
        moment = _seconds(now)
        if 0 <= moment - self._swept_at < SWEEP_SECONDS:
            return
        connection.execute(
            "UPDATE certificates SET status = 'rejected', changed_at = ? "
            "WHERE status = 'issued' AND confirm_by < ?",
            (moment, moment),
        )
        connection.execute("DELETE FROM transactions WHERE expires_at <= ?", (moment,))
        self._swept_at = moment


def _attempt(connection: sqlite3.Connection, work: _Work[Any]) -> bool:
    try:
        work.result = work.run(connection)
    except Exception as error:  # belongs to whoever asked; the thread has to go on
        work.error = error
    return work.error is None


def _deliver(batch: list[_Work[Any]]) -> None:
    for loop in {work.loop for work in batch}:
        mine = [work for work in batch if work.loop is loop]

        def deliver(mine: list[_Work[Any]] = mine) -> None:
            for work in mine:
                work.deliver()

        # RuntimeError: the loop is closed, so nobody waits any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(deliver)


# --- rows -----------------------------------------------------------------------------------------------------

_COLUMNS: Final = (
    "t.requester, t.transaction_id, t.request_digest, t.body_type, t.cert_req_id, t.device_serial, "
    "t.response_nonce, t.confirm_by, t.expires_at, t.old_serial, t.serial, t.answer, "
    "t.confirm_digest, t.confirm_answer, c.der"
)


def _find(
    connection: sqlite3.Connection, requester: str, transaction_id: bytes
) -> Operation | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM transactions t JOIN certificates c ON c.serial = t.serial "  # noqa: S608
        "WHERE t.requester = ? AND t.transaction_id = ?",
        (requester, transaction_id),
    ).fetchone()
    if row is None:
        return None
    return Operation(
        requester=row[0],
        transaction_id=row[1],
        request_digest=row[2],
        body_type=row[3],
        cert_req_id=int(row[4]),
        device_serial_number=_number(row[5]),
        response_nonce=row[6],
        confirm_by=None if row[7] is None else datetime.fromtimestamp(row[7], UTC),
        expires_at=datetime.fromtimestamp(row[8], UTC),
        old_serial_number=_number(row[9]),
        serial_number=int(row[10], 16),
        answer=row[11],
        confirm_digest=row[12],
        confirm_answer=row[13],
        certificate_der=row[14] or b"",
    )


def _claim(connection: sqlite3.Connection, operation: Operation) -> bool:
    added = connection.execute(
        "INSERT INTO transactions (requester, transaction_id, request_digest, body_type, cert_req_id, "
        "device_serial, serial, old_serial, response_nonce, answer, confirm_by, confirm_digest, "
        "confirm_answer, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, x'', ?, x'', x'', ?) "
        "ON CONFLICT DO NOTHING",
        (
            operation.requester,
            operation.transaction_id,
            operation.request_digest,
            operation.body_type,
            str(operation.cert_req_id),
            _hex(operation.device_serial_number),
            f"{operation.serial_number:x}",
            _hex(operation.old_serial_number),
            operation.response_nonce,
            _seconds_or_none(operation.confirm_by),
            _seconds(operation.expires_at),
        ),
    )
    return added.rowcount == 1


def _store(
    connection: sqlite3.Connection, operation: Operation, certificate: Certificate, now: datetime
) -> Operation:
    serial = f"{operation.serial_number:x}"
    changed = connection.execute(
        "UPDATE transactions SET serial = ?, device_serial = ?, old_serial = ?, response_nonce = ?, "
        "answer = ?, confirm_by = ?, expires_at = ? "
        "WHERE requester = ? AND transaction_id = ? AND request_digest = ? AND answer = x''",
        (
            serial,
            _hex(operation.device_serial_number),
            _hex(operation.old_serial_number),
            operation.response_nonce,
            operation.answer,
            _seconds_or_none(operation.confirm_by),
            _seconds(operation.expires_at),
            operation.requester,
            operation.transaction_id,
            operation.request_digest,
        ),
    )
    if changed.rowcount != 1:
        taken = _find(connection, operation.requester, operation.transaction_id)
        if taken is None:
            raise StoreUnavailable("the operation expired before its certificate was stored")
        return taken
    confirmed = operation.confirm_by is None
    connection.execute(
        "UPDATE certificates SET status = ?, fingerprint = ?, der = ?, not_before = ?, "
        "not_after = ?, confirm_by = ?, issued_at = ?, changed_at = ? WHERE serial = ?",
        (
            CertificateStatus.confirmed if confirmed else CertificateStatus.issued,
            certificate.fingerprint,
            certificate.der,
            _seconds(certificate.not_before),
            _seconds(certificate.not_after),
            _seconds_or_none(operation.confirm_by),
            _seconds(now),
            _seconds(now),
            serial,
        ),
    )
    if confirmed:
        _supersede(connection, operation, now)
    return replace(operation, certificate_der=certificate.der)


def _confirm(
    connection: sqlite3.Connection,
    operation: Operation,
    accepted: bool,
    digest: bytes,
    answer: bytes,
    now: datetime,
) -> Operation | None:
    serial = f"{operation.serial_number:x}"
    changed = connection.execute(
        "UPDATE certificates SET status = ?, confirm_by = NULL, changed_at = ? "
        "WHERE serial = ? AND status = 'issued'",
        (
            CertificateStatus.confirmed if accepted else CertificateStatus.rejected,
            _seconds(now),
            serial,
        ),
    )
    if changed.rowcount != 1:
        return _find(connection, operation.requester, operation.transaction_id)
    connection.execute(
        "UPDATE transactions SET confirm_digest = ?, confirm_answer = ? "
        "WHERE requester = ? AND transaction_id = ?",
        (digest, answer, operation.requester, operation.transaction_id),
    )
    if accepted:
        _supersede(connection, operation, now)
    return replace(operation, confirm_digest=digest, confirm_answer=answer)


def _supersede(connection: sqlite3.Connection, operation: Operation, now: datetime) -> None:
    if operation.old_serial_number is not None:
        connection.execute(
            "UPDATE certificates SET status = 'superseded', confirm_by = NULL, changed_at = ? "
            "WHERE serial = ? AND status IN ('issued', 'confirmed')",
            (_seconds(now), f"{operation.old_serial_number:x}"),
        )


def _comparable(name_der: bytes) -> str:
    """Return a Name as a text that is equal for names that mean the same, and only for those."""
    return json.dumps([sorted(rdn) for rdn in canonical(name_der)], ensure_ascii=False)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _seconds_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _seconds(moment)


def _hex(number: int | None) -> str | None:
    return None if number is None else f"{number:x}"


def _number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


# --- the file -------------------------------------------------------------------------------------------------


def _connect(path: Path) -> sqlite3.Connection:
    try:
        # SQLite gives its side files the mode of the main one; subjects are nobody else's business.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, str(error)) from error
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _unusable(path, str(error)) from error
    except ConfigError:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")  # two processes may start at once
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    version = row[0] if row else 0
    if version > len(_MIGRATIONS):
        raise _unusable(path, f"its schema version {version} is of a newer release")
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?)", (len(_MIGRATIONS),))
    connection.execute("COMMIT")


def _unusable(path: Path, why: str) -> ConfigError:
    return ConfigError(
        [
            Problem(
                "ca.ledger_path",
                f"the ledger {path} cannot be used: {why}",
                "Give a file of a bundled CA, or a new one in a directory that can be written to",
            )
        ]
    )
