"""Dump, restore and verify: with a ledger that has something of everything."""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from ra_gateway.ca.ledger.backup import dump, read_dump, restore
from ra_gateway.ca.ledger.schema import HEAD
from ra_gateway.ca.ledger.verify import verify
from ra_gateway.ca.records import (
    Privilege,
    Role,
)
from ra_gateway.errors import ConfigError
from tests.support.ledgers import NOW, fill, opened
from tests.support.pki import OperatorPKI
from tests.support.status import StatusCA


def lines_of(path: Path) -> list[Any]:
    """Return what a dump says, each table's rows in an order that no database decides."""
    with gzip.open(path) as file:
        values = [json.loads(line) for line in file]
    tables: dict[str, list[Any]] = {}
    for value in values[1:-1]:
        if isinstance(value, dict):
            rows = tables.setdefault(value["table"], [])
        else:
            rows.append(value)
    return [values[0], {name: sorted(rows, key=str) for name, rows in tables.items()}]


# --- dump and restore -------------------------------------------------------------------------------------------


async def test_a_dump_goes_from_one_database_to_the_other_and_back(
    tmp_path: Path, postgres_url: str, operator_pki: OperatorPKI
) -> None:
    """SQLite to PostgreSQL to SQLite: all rows are the same, and the ledger goes on where it was."""
    async with opened(tmp_path / "first.sqlite") as first:
        ca = await fill(first, operator_pki)
        told: list[tuple[int, int]] = []
        dumped = await dump(first, tmp_path / "first", NOW, lambda *progress: told.append(progress))
        assert dumped.counts["certificates"] == 7
        assert all(dumped.counts.values())
        assert told[-1] == (dumped.row_count, dumped.row_count)
    async with opened(postgres_url) as second:
        assert await restore(tmp_path / "first", second) == dumped
        await dump(second, tmp_path / "second", NOW)
        issuers = {ca.issuing.id: ca.issuing.certificate}
        assert (await verify(second, issuers, ca.clock())).findings == []
        ca.ledger = second
        await ca.issue()
        another = operator_pki.issuing.issue("CN=ra2,O=X").der
        await second.registry.add_authority_certificate("gateway", another, "operator", NOW)
    async with opened(tmp_path / "third.sqlite") as third:
        await restore(tmp_path / "second", third)
        await dump(third, tmp_path / "third", NOW)
    assert lines_of(tmp_path / "first") == lines_of(tmp_path / "second")
    assert lines_of(tmp_path / "first") == lines_of(tmp_path / "third")


async def test_a_dump_is_its_owners_and_overwrites_nothing(tmp_path: Path) -> None:
    """Mode 0600, nothing left beside it, and a file that is there stays as it is."""
    (tmp_path / "dumps").mkdir()
    path = tmp_path / "dumps" / "ledger"
    async with opened(tmp_path / "ledger.sqlite") as ledger:
        await dump(ledger, path, NOW)
        before = path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConfigError, match="exists already"):
            await dump(ledger, path, NOW)
        with pytest.raises(FileNotFoundError):
            await dump(ledger, tmp_path / "none" / "ledger", NOW)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert read_dump(path).at == "2026-03-01T12:00:00+00:00"


def truncated(octets: bytes) -> bytes:
    return octets[:-20]


def without_trailer(octets: bytes) -> bytes:
    lines = gzip.decompress(octets).splitlines(keepends=True)
    return gzip.compress(b"".join(lines[:-1]))


def row_gone(octets: bytes) -> bytes:
    lines = gzip.decompress(octets).splitlines(keepends=True)
    del lines[3]
    return gzip.compress(b"".join(lines))


def altered(octets: bytes) -> bytes:
    return gzip.compress(gzip.decompress(octets).replace(b"gateway", b"Gateway"))


def bit_flipped(octets: bytes) -> bytes:
    middle = len(octets) // 2
    return octets[:middle] + bytes([octets[middle] ^ 1]) + octets[middle + 1 :]


def nothing(octets: bytes) -> bytes:
    return b""


def no_gzip(octets: bytes) -> bytes:
    return gzip.decompress(octets)


def two(octets: bytes) -> bytes:
    return octets + octets


@pytest.mark.parametrize(
    "damage",
    [truncated, without_trailer, row_gone, altered, bit_flipped, nothing, no_gzip, two],
)
async def test_a_damaged_dump_is_refused(
    tmp_path: Path, operator_pki: OperatorPKI, damage: Callable[[bytes], bytes]
) -> None:
    """What is not complete and unaltered is not restored, not even in part."""
    path = tmp_path / "dump"
    async with opened(tmp_path / "ledger.sqlite") as ledger:
        await fill(ledger, operator_pki)
        await dump(ledger, path, NOW)
    path.write_bytes(damage(path.read_bytes()))
    async with opened(tmp_path / "new.sqlite") as ledger:
        with pytest.raises(ConfigError, match="is not a complete, unaltered dump"):
            await restore(path, ledger)
        assert await ledger.counts() == {}
        assert await ledger.audit_entries() == []


def endless_line(header: bytes) -> bytes:
    return (
        header
        + b'{"table":"roles","columns":["name","privileges","profiles"]}\n'
        + b"[" * (64 << 20)
    )


def endless_rows(header: bytes) -> bytes:
    return (
        header
        + b'{"table":"roles","columns":["name","privileges","profiles"]}\n'
        + b'["a","",""]\n' * (8 << 20)
    )


def endless_header(header: bytes) -> bytes:
    return b"{" + b" " * (64 << 20)


@pytest.mark.parametrize("bomb", [endless_line, endless_rows, endless_header])
async def test_a_dump_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: Callable[[bytes], bytes]
) -> None:
    """It is given up at a bound that follows from its size, and nothing of it is kept."""
    path = tmp_path / "dump"
    async with opened(tmp_path / "ledger.sqlite") as ledger:
        await dump(ledger, path, NOW)
    header = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[0]
    path.write_bytes(gzip.compress(bomb(header)))
    unpacked = 0
    real = gzip.GzipFile.readline

    def readline(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal unpacked
        line = real(self, size)
        unpacked += len(line)
        return line

    monkeypatch.setattr(gzip.GzipFile, "readline", readline)
    async with opened(tmp_path / "new.sqlite") as ledger:
        with pytest.raises(ConfigError, match="which no dump of a ledger does"):
            await restore(path, ledger)
        assert await ledger.counts() == {}
    assert unpacked <= 101 * path.stat().st_size + (2 << 20)


def sealed(lines: list[bytes]) -> bytes:
    """A dump of these lines, with a trailer that fits."""
    octets = b"".join(lines)
    trailer = json.dumps({"sha256": sha256(octets).hexdigest()}, separators=(",", ":"))
    return gzip.compress(octets + trailer.encode() + b"\n")


@pytest.mark.parametrize(
    "row", [b"[" * 100_000, b'["a","[]"]', b'{"table":"nothing"}', b"[1e999]", b"7"]
)
async def test_rows_that_are_none_are_refused(tmp_path: Path, row: bytes) -> None:
    """With a trailer that fits: a sentence, no traceback."""
    path = tmp_path / "dump"
    async with opened(tmp_path / "ledger.sqlite") as ledger:
        await dump(ledger, path, NOW)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:-1]
    path.write_bytes(sealed([*lines, row + b"\n"]))
    async with opened(tmp_path / "new.sqlite") as ledger:
        with pytest.raises(ConfigError, match="is not a complete, unaltered dump"):
            await restore(path, ledger)
        assert await ledger.counts() == {}


@pytest.mark.parametrize("announced", [-1, 1, 1000])
async def test_other_rows_than_the_dump_announces_are_refused(
    tmp_path: Path, announced: int
) -> None:
    """Fewer or more: all that it holds, or nothing."""
    path = tmp_path / "dump"
    async with opened(tmp_path / "ledger.sqlite") as ledger:
        await dump(ledger, path, NOW)
    first, *lines, _ = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    header = json.loads(first)
    header["counts"]["audit_head"] += announced
    path.write_bytes(sealed([json.dumps(header).encode() + b"\n", *lines]))
    async with opened(tmp_path / "new.sqlite") as ledger:
        with pytest.raises(ConfigError, match="not a complete, unaltered dump"):
            await restore(path, ledger)


async def test_a_line_that_is_longer_than_any_is_refused(tmp_path: Path) -> None:
    """Also where all of the dump unpacks to no more than it may."""
    path = tmp_path / "dump"
    async with opened(tmp_path / "ledger.sqlite") as ledger:
        await dump(ledger, path, NOW)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:-1]
    long = b'["' + os.urandom(60_000).hex().encode() + b"x" * (5 << 20) + b'"]\n'
    path.write_bytes(sealed([*lines, long]))
    async with opened(tmp_path / "new.sqlite") as ledger:
        with pytest.raises(ConfigError, match="has a line of more than"):
            await restore(path, ledger)


async def test_a_dump_of_another_release_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema has to be this release's, and the refusal names both."""
    async with opened(tmp_path / "ledger.sqlite") as ledger:
        with monkeypatch.context() as patch:
            patch.setattr("ra_gateway.ca.ledger.schema.HEAD", "0999")
            await dump(ledger, tmp_path / "dump", NOW)
        with pytest.raises(
            ConfigError, match=rf"schema 0999, this release has {HEAD}\. Restore it"
        ):
            await restore(tmp_path / "dump", ledger)


async def test_a_ledger_that_is_in_use_is_not_overwritten(
    tmp_path: Path, operator_pki: OperatorPKI
) -> None:
    """Restore wants an empty ledger: even one role is too much."""
    async with opened(tmp_path / "first.sqlite") as first:
        await fill(first, operator_pki)
        await dump(first, tmp_path / "dump", NOW)
    async with opened(tmp_path / "second.sqlite") as second:
        await second.registry.put_role(Role("ra", frozenset(Privilege), ("seg",)), "x", NOW)
        with pytest.raises(ConfigError, match="the ledger is not empty: it has rows in"):
            await restore(tmp_path / "dump", second)
        assert await second.counts() == {}


# --- verify -----------------------------------------------------------------------------------------------------


async def findings(
    path: Path, ca: StatusCA, sample: int | None = None, at: datetime | None = None
) -> list[str]:
    """Return what verification of an SQLite ledger finds, without what to do."""
    async with opened(path) as ledger:
        issuers = {ca.issuing.id: ca.issuing.certificate}
        found = (await verify(ledger, issuers, at or ca.clock(), sample=sample)).findings
    assert all(finding.todo for finding in found)
    return [f"{finding.where}: {finding.what}" for finding in found]


def tamper(path: Path, *statements: str) -> None:
    """Write to a ledger behind its back."""
    database = sqlite3.connect(path)
    try:
        database.create_function("sha256", 1, lambda octets: sha256(octets).digest())
        database.create_function("flipped", 1, lambda octets: octets[:-1] + bytes([octets[-1] ^ 1]))
        database.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            statement = statement.replace("OF_FULL", OF_FULL).replace("ISSUE_LINE", ISSUE_LINE)
            assert database.execute(statement).rowcount
        database.commit()
    finally:
        database.close()


FullLedger = tuple[Path, StatusCA]


@pytest.fixture
async def full_ledger(tmp_path: Path, operator_pki: OperatorPKI) -> FullLedger:
    """A ledger's file, with something in every table, and the CA."""
    path = tmp_path / "ledger.sqlite"
    async with opened(path) as ledger:
        return path, await fill(ledger, operator_pki)


async def test_a_ledger_that_nobody_touched_has_no_findings(full_ledger: FullLedger) -> None:
    """Every status, hold and release, CRLs and audit trail agree; also where a sample is verified."""
    path, ca = full_ledger
    told: list[tuple[int, int]] = []
    issuers = {ca.issuing.id: ca.issuing.certificate}
    async with opened(path) as ledger:
        await verify(ledger, issuers, ca.clock(), progress=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1]
    assert await findings(path, ca) == []
    assert await findings(path, ca, sample=2) == []
    assert await findings(path, ca, sample=100) == []


def filled(text: str, path: Path, ca: StatusCA) -> str:
    """Put numbers of CRLs and audit lines into an expected finding."""
    database = sqlite3.connect(path)
    try:
        numbers = {
            "FULL": OF_FULL,
            "DELTA": "(SELECT number FROM crls WHERE base_number IS NOT NULL)",
            "LINE": ISSUE_LINE,
            "LAST": "(SELECT number FROM audit_head)",
        }
        known = {
            name: database.execute(f"SELECT {query}").fetchone()[0]
            for name, query in numbers.items()
        }
    finally:
        database.close()
    text = text.replace("ISSUER", ca.issuing.id)
    return re.sub(
        r"\b(FULL|DELTA|LINE|LAST)([+-]\d)?",
        lambda found: str(known[found[1]] + int(found[2] or 0)),
        text,
    )


ISSUE_LINE: Final = "(SELECT number FROM audit WHERE action = 'issue' AND subject = '102')"
OF_FULL: Final = "(SELECT number FROM crls WHERE base_number IS NULL)"

TAMPERED: Final[dict[str, tuple[str, list[str]]]] = {
    "another serial number": (
        "UPDATE certificates SET serial = '999' WHERE serial = '102'",
        [
            "certificate 999: the audit trail does not say that it was issued",
            "certificate 999: its row has another serial number than the certificate itself",
            "certificate 102: it was issued, the audit trail says, and is not in the ledger",
            "operation 00000000000000000000000000000002: the certificate 102 of this ir is not in the ledger",
        ],
    ),
    "another subject": (
        "UPDATE certificates SET subject_key = x'00' WHERE serial = '102'",
        ["certificate 102: its row has another subject than the certificate itself"],
    ),
    "another validity": (
        "UPDATE certificates SET not_after = not_after + 1 WHERE serial = '102'",
        ["certificate 102: its row has another validity than the certificate itself"],
    ),
    "another fingerprint": (
        "UPDATE certificates SET fingerprint = x'00' WHERE serial = '102'",
        ["certificate 102: its row has another fingerprint than the certificate itself"],
    ),
    "another key": (
        "UPDATE certificates SET spki_digest = x'00' WHERE serial = '102'",
        ["certificate 102: its row has another public key than the certificate itself"],
    ),
    "another issuing CA": (
        "UPDATE certificates SET issuer_id = 'ff' WHERE serial = '102'",
        ["issuing CA ff: certificates name it, and its own is not among the CA's files"],
    ),
    "another signature": (
        "UPDATE certificates SET (der, fingerprint) = (SELECT new, sha256(new) FROM "
        "(SELECT flipped(der) AS new FROM certificates WHERE serial = '102')) WHERE serial = '102'",
        ["certificate 102: its signature is not of CN="],
    ),
    "no certificate": (
        "UPDATE certificates SET der = x'3000' WHERE serial = '102'",
        ["certificate 102: what is stored is no certificate: "],
    ),
    "issued without certificate": (
        "UPDATE certificates SET der = NULL WHERE serial = '102'",
        ["certificate 102: its status is confirmed, and it has no certificate"],
    ),
    "certificate without status": (
        "UPDATE certificates SET status = 'reserved' WHERE serial = '102'",
        [
            "certificate 102: its status is reserved, and it has a certificate",
            "operation 00000000000000000000000000000002: the certificate 102 of this ir was never stored",
        ],
    ),
    "a status that is none": (
        "UPDATE certificates SET status = 'good' WHERE serial = '102'",
        ["certificate 102: 'good' is no status"],
    ),
    "revoked without time": (
        "UPDATE certificates SET revoked_at = NULL WHERE serial = '103'",
        ["certificate 103: it is revoked, without a time or a reason"],
    ),
    "valid with time": (
        "UPDATE certificates SET revoked_at = 1 WHERE serial = '102'",
        ["certificate 102: it is confirmed, and has a time or a reason of revocation"],
    ),
    "hold that is none": (
        "UPDATE certificates SET held_from = 'confirmed' WHERE serial = '103'",
        ["certificate 103: it is revoked, and what it was before a hold does not fit"],
    ),
    "waits for ever": (
        "UPDATE certificates SET confirm_by = NULL WHERE serial = '101'",
        ["certificate 101: it waits for a confirmation, and for no time"],
    ),
    "valid again": (
        "UPDATE certificates SET status = 'confirmed', revoked_at = NULL, reason = NULL "
        "WHERE serial = '103'",
        [
            "certificate 103: it is confirmed, and the audit trail says that it was revoked",
            "CRL FULL of ISSUER: 103 is on it, and is no revoked certificate of this CA",
        ],
    ),
    "revoked by nobody": (
        "UPDATE certificates SET status = 'revoked', revoked_at = 4000000000, reason = 1 WHERE serial = '102'",
        ["certificate 102: it is revoked, and the audit trail does not say so"],
    ),
    "revoked and not on the CRL": (
        "UPDATE certificates SET status = 'revoked', reason = 1, revoked_at = "
        "(SELECT revoked_at FROM certificates WHERE serial = '103') WHERE serial = '102'",
        [
            "certificate 102: it is revoked, and the audit trail does not say so",
            "CRL FULL of ISSUER: the revoked certificate 102 is not on it",
        ],
    ),
    "certificate gone": (
        "DELETE FROM certificates WHERE serial = '102'",
        [
            "certificate 102: it was issued, the audit trail says, and is not in the ledger",
            "operation 00000000000000000000000000000002: the certificate 102 of this ir is not in the ledger",
        ],
    ),
    "renews nothing": (
        "UPDATE operations SET body_type = 7, old_serial = '999' WHERE serial = '102'",
        [
            "operation 00000000000000000000000000000002: the certificate 999 of this kur is not in the ledger"
        ],
    ),
    "another CRL": (
        "UPDATE crls SET der = flipped(der) WHERE number = OF_FULL",
        ["CRL FULL of ISSUER: its signature is not of CN="],
    ),
    "no CRL": (
        "UPDATE crls SET der = x'3000' WHERE number = OF_FULL",
        ["CRL FULL of ISSUER: what is stored is no CRL"],
    ),
    "another number of the CRL": (
        "UPDATE crls SET number = number + 7 WHERE base_number IS NOT NULL",
        ["CRL DELTA+7 of ISSUER: its row has another number than the CRL itself"],
    ),
    "CRLs out of order": (
        "INSERT INTO crls SELECT issuer_id, 1, NULL, this_update + 999, next_update, der FROM crls "
        "WHERE number = OF_FULL",
        [
            "CRL FULL of ISSUER: it is older than one with a lower number",
            "CRL DELTA of ISSUER: it is older than one with a lower number",
        ],
    ),
    "audit line changed": (
        "UPDATE audit SET actor = 'nobody' WHERE number = ISSUE_LINE",
        ["audit line LINE: it was changed: issue of 102 by nobody"],
    ),
    "audit line gone": (
        "DELETE FROM audit WHERE number = ISSUE_LINE",
        [
            "audit line LINE+1: lines LINE to LINE before it are missing",
            "certificate 102: the audit trail does not say that it was issued",
        ],
    ),
    "audit line relinked": (
        "UPDATE audit SET previous_hash = zeroblob(32) WHERE number = ISSUE_LINE",
        [
            "audit line LINE: it does not continue the line before it: one of the two was written anew",
            "audit line LINE: it was changed: issue of 102 by ra1",
        ],
    ),
    "audit cut off": (
        "DELETE FROM audit WHERE number = (SELECT max(number) FROM audit)",
        ["audit: it ends with line LAST-1, and should with LAST"],
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_each_change_behind_its_back_is_found(full_ledger: FullLedger, name: str) -> None:
    """What does not agree is told by its place and its nature."""
    path, ca = full_ledger
    statement, expected = TAMPERED[name]
    wanted = [filled(text, path, ca) for text in expected]
    tamper(path, statement)
    found = await findings(path, ca)
    assert [start for start in wanted if not any(text.startswith(start) for text in found)] == []


async def test_crls_that_ended_are_found(full_ledger: FullLedger) -> None:
    """Nobody keeps them current: the finding says what does."""
    path, ca = full_ledger
    late = NOW + timedelta(hours=49)
    assert await findings(path, ca, at=late) == [
        f"CRL of {ca.issuing.certificate.subject}: the newest one ended 2026-03-03 12:02 UTC"
    ]
    tamper(path, "DELETE FROM crls")
    *gone, last = await findings(path, ca)
    assert len(gone) == 2
    assert all(
        text.endswith("it was made, the audit trail says, and is not in the ledger")
        for text in gone
    )
    assert (
        last
        == f"CRL of {ca.issuing.certificate.subject}: there is none, and certificates are revoked"
    )


async def test_a_sample_verifies_fewer_signatures(
    full_ledger: FullLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven rows a sample of two is every fourth one; all the rest is checked on every row."""
    path, ca = full_ledger
    monkeypatch.setattr("ra_gateway.ca.ledger.verify.secrets.randbelow", lambda stride: stride - 1)
    tamper(
        path,
        "UPDATE certificates SET (der, fingerprint) = (SELECT new, sha256(new) FROM "
        "(SELECT flipped(c.der) AS new FROM certificates c WHERE c.serial = certificates.serial)) "
        "WHERE der IS NOT NULL",
    )
    signature = re.compile("its signature is not of")
    assert len([text for text in await findings(path, ca) if signature.search(text)]) == 6
    assert [text for text in await findings(path, ca, sample=2) if signature.search(text)] == [
        f"certificate 103: its signature is not of {ca.issuing.certificate.subject}"
    ]


async def test_a_ruined_ledger_does_not_tell_for_ever(
    full_ledger: FullLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a most of findings, and one more that says so."""
    path, ca = full_ledger
    monkeypatch.setattr("ra_gateway.ca.ledger.verify.MOST_FINDINGS", 3)
    tamper(path, "UPDATE audit SET actor = 'nobody'")
    assert (await findings(path, ca))[3:] == ["ledger: there are more findings than these"]
