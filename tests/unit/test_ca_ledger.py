"""The ledger: what is stored when, what survives, and how work shares commits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ra_gateway.ca.ledger import CertificateStatus, Ledger, Operation, SerialTaken
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.errors import ConfigError, StoreUnavailable
from tests.support.pki import OperatorPKI

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ISSUER = from_rfc4514("CN=Issuing CA")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    await ledger.close()


def operation(number: int = 1, **changes: object) -> Operation:
    usual = Operation(
        requester="ra1",
        transaction_id=number.to_bytes(16, "big"),
        request_digest=b"digest",
        body_type=0,
        cert_req_id=0,
        response_nonce=b"nonce",
        confirm_by=NOW + timedelta(seconds=300),
        expires_at=NOW + timedelta(seconds=900),
        serial_number=1 << 100 | number,
        answer=b"answer",
    )
    return replace(usual, **changes)  # type: ignore[arg-type]  # only fields are named


def certificate(operator_pki: OperatorPKI, number: int = 1) -> Certificate:
    entity = operator_pki.device(f"enb{number}", serial_number=1 << 100 | number)
    return Certificate.from_der(entity.der)


async def reserve(ledger: Ledger, item: Operation, now: datetime = NOW) -> Operation | None:
    return await ledger.reserve(
        item, subject_der=from_rfc4514("CN=enb"), issuer_der=ISSUER, now=now
    )


async def test_an_intent_then_a_certificate_then_a_confirmation(
    ledger: Ledger, operator_pki: OperatorPKI
) -> None:
    """reserved, issued, confirmed."""
    assert await reserve(ledger, operation()) is None
    assert await ledger.counts() == {CertificateStatus.reserved: 1}
    assert await ledger.certificate(operation().serial_number, NOW) is None
    stored = await ledger.store(operation(), certificate(operator_pki), NOW)
    assert stored == await ledger.find_operation("ra1", operation().transaction_id, NOW)
    assert stored.answer == b"answer"
    assert await ledger.counts() == {CertificateStatus.issued: 1}
    confirmed = await ledger.confirm(stored, accepted=True, digest=b"c", answer=b"ok", now=NOW)
    assert confirmed == await ledger.find_operation("ra1", operation().transaction_id, NOW)
    assert await ledger.counts() == {CertificateStatus.confirmed: 1}


async def test_the_first_confirmation_stays(ledger: Ledger, operator_pki: OperatorPKI) -> None:
    """A later one gets what was decided."""
    await reserve(ledger, operation())
    stored = await ledger.store(operation(), certificate(operator_pki), NOW)
    first = await ledger.confirm(stored, accepted=False, digest=b"1", answer=b"one", now=NOW)
    second = await ledger.confirm(stored, accepted=True, digest=b"2", answer=b"two", now=NOW)
    assert first == second
    assert await ledger.counts() == {CertificateStatus.rejected: 1}


@pytest.mark.requirement(153)
async def test_a_serial_number_is_reserved_once(ledger: Ledger) -> None:
    """Also for another transaction."""
    await reserve(ledger, operation())
    with pytest.raises(SerialTaken):
        await reserve(ledger, operation(transaction_id=b"another"))


async def test_a_claim_holds_against_other_requests_until_it_expires(ledger: Ledger) -> None:
    """Another digest gets the first operation back; after expiry the transactionID is free."""
    await reserve(ledger, operation())
    other = operation(serial_number=1 << 99, request_digest=b"other")
    found = await reserve(ledger, other)
    assert found is not None
    assert found.request_digest == b"digest"
    assert await ledger.counts() == {CertificateStatus.reserved: 1}
    assert await reserve(ledger, other, NOW + timedelta(seconds=900)) is None


async def test_the_first_to_store_wins(ledger: Ledger, operator_pki: OperatorPKI) -> None:
    """Two processes with one request: the second finds the first one's answer, its own is not stored."""
    one, two = operation(), operation(serial_number=1 << 99, answer=b"other")
    assert await reserve(ledger, one) is None
    assert await reserve(ledger, two) is None
    won = await ledger.store(two, certificate(operator_pki, 2), NOW)
    lost = await ledger.store(one, certificate(operator_pki, 1), NOW)
    assert won == lost
    assert won.answer == b"other"
    assert won.serial_number == 1 << 99
    assert await ledger.counts() == {
        CertificateStatus.issued: 1,
        CertificateStatus.reserved: 1,
    }


async def test_a_failing_piece_of_work_spoils_no_other(path: Path, ledger: Ledger) -> None:
    """In one commit with it, they are stored all the same."""
    await reserve(ledger, operation(0))
    before = ledger.commit_count
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.gather(
            *(reserve(ledger, operation(number)) for number in (1, 2, 0, 3, 0, 4)),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        other.execute("ROLLBACK")
    results = await waiting
    assert [isinstance(result, SerialTaken) for result in results] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert await ledger.counts() == {CertificateStatus.reserved: 5}
    assert ledger.commit_count - before <= 2


async def test_a_cancelled_caller_does_not_disturb_the_ledger(ledger: Ledger) -> None:
    """Its work may be done or not; others go on."""
    task = asyncio.create_task(reserve(ledger, operation(1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await reserve(ledger, operation(2)) is None


async def test_the_file_survives_a_restart_and_is_private(
    path: Path, operator_pki: OperatorPKI
) -> None:
    """Nobody else may read subjects."""
    first = Ledger(path)
    await reserve(first, operation())
    await first.store(operation(), certificate(operator_pki), NOW)
    await first.close()
    assert path.stat().st_mode & 0o077 == 0
    second = Ledger(path)
    found = await second.find_operation("ra1", operation().transaction_id, NOW)
    assert found is not None
    assert found.answer == b"answer"
    await second.close()


async def test_what_was_stored_is_in_the_file_while_it_is_open(
    path: Path, ledger: Ledger, operator_pki: OperatorPKI
) -> None:
    """A kill -9 after `store` loses nothing: another connection sees it without any close."""
    await reserve(ledger, operation())
    await ledger.store(operation(), certificate(operator_pki), NOW)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT status FROM certificates").fetchall() == [("issued",)]


async def test_a_database_error_is_told_as_store_unavailable(path: Path, ledger: Ledger) -> None:
    """Whatever SQLite says."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE transactions")
        other.execute("DROP TABLE certificates")
    with pytest.raises(StoreUnavailable):
        await reserve(ledger, operation())
    with pytest.raises(StoreUnavailable):
        await ledger.counts()
    await ledger.ping()


async def test_a_closed_ledger_refuses(path: Path) -> None:
    """StoreUnavailable, and closing twice is harmless."""
    ledger = Ledger(path)
    await ledger.close()
    await ledger.close()
    with pytest.raises(StoreUnavailable):
        await ledger.ping()


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    """Not SQLite; of a newer release; in no directory."""
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"x" * 4096)
    newer = tmp_path / "newer.db"
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (99)")
        connection.commit()
    for path in (garbage, newer, tmp_path / "none" / "ledger.db"):
        with pytest.raises(ConfigError, match=r"ca\.ledger_path"):
            Ledger(path)
