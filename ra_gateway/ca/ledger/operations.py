"""Operations as rows of the database: what each requested and was answered, until it expires."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select

from ra_gateway.ca.ledger import schema
from ra_gateway.ca.ledger.sql import (
    AnyRow,
    Prepared,
    hexadecimal,
    listed,
    moment,
    moment_or_none,
    number_or_none,
    operation_key,
    seconds,
    seconds_or_none,
)
from ra_gateway.ca.records import Operation

_c, _o = schema.certificates.c, schema.operations.c


@dataclass(frozen=True)
class OfOperation:
    """What waits to be stored for an operation."""

    operation: Operation

    @cached_property
    def key(self) -> bytes:
        """What finds the operation."""
        return operation_key(self.operation.requester, self.operation.transaction_id)


def operations(connection: Connection, keys: Iterable[bytes]) -> dict[bytes, Operation]:
    """Return the operations with these keys, expired ones too."""
    return {row.key: _operation(row) for row in _OPERATIONS.among(connection, keys)}


def _operation(row: AnyRow) -> Operation:
    return Operation(
        requester=row.requester,
        transaction_id=row.transaction_id,
        request_digest=row.request_digest,
        body_type=row.body_type,
        cert_req_id=int(row.cert_req_id),
        response_nonce=row.response_nonce,
        confirm_by=moment_or_none(row.confirm_by),
        expires_at=moment(row.expires_at),
        signer_der=row.signer_der,
        old_serial_number=number_or_none(row.old_serial),
        serial_number=int(row.serial, 16),
        answer=row.answer,
        certificate_der=row.der or b"",
        confirm_digest=row.confirm_digest,
        confirm_answer=row.confirm_answer,
    )


def operation_row(key: bytes, operation: Operation) -> dict[str, Any]:
    """Return an operation as a row."""
    return {
        "key": key,
        "requester": operation.requester,
        "transaction_id": operation.transaction_id,
        "request_digest": operation.request_digest,
        "body_type": int(operation.body_type),
        "cert_req_id": str(operation.cert_req_id),
        "signer_der": operation.signer_der,
        "serial": hexadecimal(operation.serial_number),
        "old_serial": None
        if operation.old_serial_number is None
        else hexadecimal(operation.old_serial_number),
        "response_nonce": operation.response_nonce,
        "answer": operation.answer,
        "confirm_by": seconds_or_none(operation.confirm_by),
        "confirm_digest": operation.confirm_digest,
        "confirm_answer": operation.confirm_answer,
        "expires_at": seconds(operation.expires_at),
    }


def operation_digest(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of an operation as it was answered, which the audit trail has."""
    return _digest(*(row[name] for name in _IN_DIGEST))


def confirmation_digest(digest: bytes, answer: bytes) -> str:
    """Return the SHA-256 (hex) of what a confirmation adds to an operation."""
    return _digest(digest, answer)


def _digest(*values: object) -> str:
    digest = hashlib.sha256()
    for value in values:
        octets = value if isinstance(value, bytes) else str(value).encode()
        digest.update(b"%d:" % len(octets))
        digest.update(octets)
    return digest.hexdigest()


def answer_facts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what the audit trail says of an answered operation."""
    return {
        "transaction_id": row["transaction_id"].hex(),
        "expires": str(row["expires_at"]),
        "operation": operation_digest(row),
    }


_IN_DIGEST: Final = tuple(
    column.name
    for column in schema.operations.columns
    if column.name not in ("confirm_digest", "confirm_answer")
)


@dataclass(frozen=True, slots=True)
class StoredOperation:
    """Placeholder for the stored operation with a key, read when the batch has been written."""

    key: bytes


def resolve(
    connection: Connection, outcomes: Sequence[Operation | Exception | StoredOperation | None]
) -> list[Operation | Exception | None]:
    """Replace each placeholder by the operation that is stored."""
    keys = {outcome.key for outcome in outcomes if isinstance(outcome, StoredOperation)}
    if not keys:
        return [outcome for outcome in outcomes if not isinstance(outcome, StoredOperation)]
    found = operations(connection, keys)
    return [
        found.get(outcome.key) if isinstance(outcome, StoredOperation) else outcome
        for outcome in outcomes
    ]


def delete_operations(connection: Connection, keys: Sequence[bytes]) -> None:
    """Delete operations, to make room for others with their keys."""
    if keys:
        _DELETE_OPERATIONS.each(connection, [{"of_key": key} for key in keys])


_OPERATIONS: Final = Prepared(
    select(schema.operations, _c.der)
    .outerjoin(schema.certificates, _c.serial == _o.serial)
    .where(_o.key.in_(listed("these")))
)
_DELETE_OPERATIONS: Final = Prepared(delete(schema.operations).where(_o.key == bindparam("of_key")))
INSERT_OPERATIONS: Final = Prepared(insert(schema.operations).inline())
