"""`verify` replays the audit trail: whatever is changed behind the ledger's back, in whichever table, is found.

On SQLite and on PostgreSQL; and with checkpoints outside, also a trail that was cut off or written anew.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from ra_gateway.ca.crl import CRLPublisher
from ra_gateway.ca.ledger.checkpoints import Checkpoint, Checkpoints, TrailRewritten
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation
from ra_gateway.ca.ledger.verify import Verified, verify
from ra_gateway.ca.records import (
    EndEntity,
    EntityStatus,
    Intent,
    Operation,
    Privilege,
    Reason,
    Revocation,
    Role,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import ConfigError
from ra_gateway.hash_chain import canonical_detail, chained
from tests.support.ledgers import CRLS, NOW, fill, opened
from tests.support.pki import OperatorPKI, make_operator_pki
from tests.support.postgres_server import PostgresServer
from tests.support.status import StatusCA

_numbers: Final = itertools.count(0x200)


async def enrol(ca: StatusCA, name: str, *, old: int | None = None, **more: Any) -> int:
    """Issue a certificate and have it confirmed, or rejected; return its serial number."""
    number = next(_numbers)
    credential = ca.issuing.authority.issue(f"CN={name},O=Example Operator", serial_number=number)
    certificate = Certificate.from_der(credential.der)
    operation = Operation(
        requester="ra1",
        transaction_id=number.to_bytes(16, "big"),
        request_digest=bytes(32),
        body_type=BodyType.ir if old is None else BodyType.kur,
        cert_req_id=0,
        response_nonce=bytes(16),
        confirm_by=ca.clock() + timedelta(seconds=300),
        expires_at=ca.clock() + timedelta(hours=1),
        serial_number=number,
        old_serial_number=old,
        answer=b"answer",
    )
    intent = Intent(
        certificate.subject_der, ca.issuing.id, "ne_ipsec", sha256(certificate.spki_der).digest()
    )
    await ca.ledger.reserve(operation, intent, ca.clock())
    operation = await ca.ledger.store(operation, certificate, ca.clock())
    await ca.ledger.confirm(
        operation,
        accepted=more.pop("accepted", True),
        digest=b"digest",
        answer=b"pkiConf",
        now=ca.clock(),
        **more,
    )
    return number


async def fill_more(ledger: Ledger, operator: OperatorPKI) -> StatusCA:
    """Put into a ledger what `fill` does, and one of every act that it leaves out."""
    ca = await fill(ledger, operator)
    first = await enrol(ca, "renewed")
    ca.clock.advance(minutes=1)
    await enrol(ca, "renewed", old=first)
    second = await enrol(ca, "replaced")
    await enrol(ca, "replaced", old=second, revoke_superseded=True)
    await enrol(ca, "refused", accepted=False)
    third = await enrol(ca, "asked")
    asked = Operation(
        "ra1", b"rr-1", bytes(32), BodyType.rr, 0, bytes(16), None,
        ca.clock() + timedelta(hours=1), old_serial_number=third, answer=b"rp",
    )  # fmt: skip
    revocation = Revocation(third, Reason.cessationOfOperation, "ra1")
    await ledger.revoke(revocation, ca.clock(), operation=asked)
    registry = ledger.registry
    entities = [EndEntity(f"enb{number}", f"CN=e{number},O=X") for number in range(3)]
    await registry.import_entities(entities, "operator", NOW)
    await registry.set_entity_status("enb0", EntityStatus.blocked, "operator", NOW)
    await registry.open_window("enb1", NOW + timedelta(days=1), "operator", NOW)
    await registry.delete_entity("enb2", "operator", NOW)
    await registry.put_role(Role("narrow", frozenset({Privilege.issue}), ("seg",)), "op", NOW)
    await registry.put_role(Role("gone", frozenset({Privilege.issue}), ("seg",)), "op", NOW)
    await registry.delete_role("gone", "op", NOW)
    await registry.put_authority("blocked", "narrow", "op", NOW)
    await registry.put_authority("gateway", "narrow", "op", NOW)
    await registry.set_authority_enabled("blocked", False, "op", NOW)
    ca.clock.advance(minutes=2)
    await CRLPublisher([ca.issuing], ledger, ca.clock, CRLS).publish(ca.issuing)
    return ca


async def verified(
    ca: StatusCA, where: LedgerLocation, checkpoints: Sequence[Checkpoint] = ()
) -> Verified:
    """Return what is found in a ledger."""
    async with opened(where) as ledger:
        issuers = {ca.issuing.id: ca.issuing.certificate}
        return await verify(ledger, issuers, ca.clock(), checkpoints=checkpoints)


# --- the same ledger for all, and copies of it --------------------------------------------------------------------


@dataclass(frozen=True)
class Templates:
    """A ledger in both databases; tests change copies."""

    ca: StatusCA
    path: Path
    database: str
    server: PostgresServer

    def copy(self, kind: str, directory: Path) -> LedgerLocation:
        """Return a copy."""
        if kind == "sqlite":
            return Path(shutil.copy(self.path, directory / "ledger.sqlite"))
        url = self.server.new_database()
        name = url.rpartition("/")[2]
        self.server.execute(f"DROP DATABASE {name}")
        self.server.execute(f"CREATE DATABASE {name} TEMPLATE {self.database}")
        return url


@pytest.fixture(scope="module")
def templates(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Templates:
    """Something of everything, once."""
    path = tmp_path_factory.mktemp("verify") / "ledger.sqlite"
    url = postgres_server.new_database()

    async def fill_both() -> StatusCA:
        async with opened(path) as ledger:
            ca = await fill_more(ledger, make_operator_pki())
        from ra_gateway.ca.ledger.backup import dump, restore

        async with opened(path) as ledger:
            await dump(ledger, path.with_name("dump"), NOW)
        async with opened(url) as ledger:
            await restore(path.with_name("dump"), ledger)
        return ca

    return Templates(asyncio.run(fill_both()), path, url.rpartition("/")[2], postgres_server)


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> LedgerLocation:
    """A ledger of its own for one test."""
    return templates.copy(request.param, tmp_path)


async def tamper(where: LedgerLocation, *statements: str) -> None:
    """Write to a ledger behind its back; `{00ff}` is a binary value."""
    for statement in statements:
        if isinstance(where, str):
            connection = await asyncpg.connect(where)
            try:
                text = statement.replace("{", r"'\x").replace("}", "'")
                assert not (await connection.execute(text)).endswith(" 0")
            finally:
                await connection.close()
        else:
            database = sqlite3.connect(where)
            try:
                text = statement.replace("{", "x'").replace("}", "'")
                assert database.execute(text).rowcount
                database.commit()
            finally:
                database.close()


async def test_nothing_is_found_where_nobody_was(
    where: LedgerLocation, templates: Templates
) -> None:
    """Every act there is, replayed, gives the tables as they are."""
    assert await verified(templates.ca, where) == Verified([], 0)


# --- 50 ways to change a ledger ---------------------------------------------------------------------------------

NEW_ROW: Final = (
    "INSERT INTO certificates (id, serial, status, requester, entity, subject_key, issuer_id, profile, spki_digest, "
    "unique_key, reserved_at, issued_at, changed_at, not_before, not_after, fingerprint, der) SELECT 999, 'bad', "
    "status, requester, entity, subject_key, issuer_id, profile, spki_digest, 0, reserved_at, issued_at, changed_at, "
    "not_before, not_after, fingerprint, der FROM certificates WHERE serial = '102'"
)

TAMPERED: Final[dict[str, tuple[str, str]]] = {
    # who vouched at first, and what is withheld
    "another first requester": (
        "UPDATE certificates SET origin = 'ra2' WHERE serial = '102'",
        "certificate 102: its row has another first requester than the audit trail",
    ),
    "another vendor of its device": (
        "UPDATE certificates SET vendor = 'evil' WHERE serial = '102'",
        "certificate 102: its row has another vendor than the audit trail",
    ),
    "what its vendor calls another device": (
        "UPDATE certificates SET identity = 'SN666' WHERE serial = '102'",
        "certificate 102: its row has another identity at the vendor's than the audit trail",
    ),
    "registered names for all": (
        "DELETE FROM withheld WHERE entity <> ''",
        "end entity Köln 1: others could have its names or its keys",
    ),
    "the names and keys of RAs for all": (
        "DELETE FROM withheld WHERE entity = ''",
        "a device could have its name or its key",
    ),
    "names withheld for nobody": (
        "INSERT INTO withheld (identifier, entity) VALUES ({00}, 'enb1')",
        "end entity enb1: names or keys are withheld for it that are not its own",
    ),
    # certificates
    "a row that nobody issued": (
        NEW_ROW,
        "certificate bad: the audit trail does not say that it was issued",
    ),
    "a row gone": (
        "DELETE FROM certificates WHERE serial = '102'",
        "certificate 102: it was issued",
    ),
    "a revoked one reserved again": (
        "UPDATE certificates SET status = 'reserved', der = NULL, revoked_at = NULL, reason = NULL, "
        "fingerprint = NULL, issued_at = NULL, changed_at = NULL, not_before = NULL, "
        "not_after = NULL WHERE serial = '103'",
        "certificate 103: it is reserved only, and the audit trail says that it was issued",
    ),
    "a revoked one valid again": (
        "UPDATE certificates SET status = 'confirmed', revoked_at = NULL, reason = NULL WHERE serial = '103'",
        "certificate 103: it is confirmed, and the audit trail says that it was revoked",
    ),
    "a rejected one valid": (
        "UPDATE certificates SET status = 'confirmed', revoked_at = NULL, reason = NULL WHERE serial = '106'",
        "certificate 106: it is confirmed, and the audit trail says that it was revoked",
    ),
    "a valid one revoked": (
        "UPDATE certificates SET status = 'revoked', revoked_at = changed_at, reason = 1 WHERE serial = '102'",
        "certificate 102: it is revoked, and the audit trail does not say so",
    ),
    "an issued one confirmed": (
        "UPDATE certificates SET status = 'confirmed', confirm_by = NULL WHERE serial = '101'",
        "certificate 101: it is confirmed, and the audit trail says issued",
    ),
    "a superseded one current": (
        "UPDATE certificates SET status = 'confirmed' WHERE status = 'superseded'",
        "it is confirmed, and the audit trail says superseded",
    ),
    "longer to confirm": (
        "UPDATE certificates SET confirm_by = confirm_by + 9999 WHERE serial = '101'",
        "certificate 101: its row has another end of the wait for its confirmation",
    ),
    "another reason": (
        "UPDATE certificates SET reason = 4 WHERE serial = '103'",
        "certificate 103: its row has another reason",
    ),
    "another time of revocation": (
        "UPDATE certificates SET revoked_at = revoked_at + 60 WHERE serial = '103'",
        "certificate 103: its row has another time of revocation",
    ),
    "a hold for good": (
        "UPDATE certificates SET reason = 1, held_from = NULL WHERE serial = '104'",
        "certificate 104: its row has another reason",
    ),
    "a hold to be released to another status": (
        "UPDATE certificates SET held_from = 'issued' WHERE serial = '104'",
        "certificate 104: its row has another status before its hold",
    ),
    "a release forgotten": (
        "UPDATE certificates SET reason = NULL WHERE serial = '105'",
        "certificate 105: its row has another reason",
    ),
    "out of the window of delta CRLs": (
        "UPDATE certificates SET changed_at = 1 WHERE serial = '105'",
        "certificate 105: its row has another time of its last change",
    ),
    "another time of issuance": (
        "UPDATE certificates SET issued_at = issued_at - 1 WHERE serial = '102'",
        "certificate 102: its row has another time of issuance",
    ),
    "another end entity": (
        "UPDATE certificates SET entity = 'Köln 1' WHERE serial = '102'",
        "certificate 102: its row has another end entity",
    ),
    "a signer of the CA itself": (
        "UPDATE certificates SET entity = '' WHERE serial = '102'",
        "certificate 102: its row has another end entity",
    ),
    "another requester": (
        "UPDATE certificates SET requester = 'ra2' WHERE serial = '102'",
        "certificate 102: its row has another requester",
    ),
    "another profile": (
        "UPDATE certificates SET profile = 'ra' WHERE serial = '102'",
        "certificate 102: its row has another profile",
    ),
    "another order": (
        "UPDATE certificates SET id = 999 WHERE serial = '102'",
        "certificate 102: its row has another place in the order of certificates",
    ),
    "off the CRL by another validity": (
        "UPDATE certificates SET not_after = 1 WHERE serial = '103'",
        "certificate 103: its row has another end of validity",
    ),
    "off the CRL by another issuing CA": (
        "UPDATE certificates SET issuer_id = 'ff' WHERE serial = '103'",
        "certificate 103: its row has another issuing CA",
    ),
    "a reserved one on the CRL": (
        "UPDATE certificates SET reason = 1, revoked_at = 1, not_after = 4000000000 WHERE serial = '100'",
        "certificate 100: it is reserved only, and has what a certificate has",
    ),
    "the certificate of another row": (
        "UPDATE certificates SET der = (SELECT der FROM certificates WHERE serial = '105') WHERE serial = '102'",
        "certificate 102: its row has another serial number than the certificate itself",
    ),
    # operations
    "an answer gone": (
        "DELETE FROM operations WHERE serial = '102'",
        "operation of certificate 102: it was answered",
    ),
    "all answers gone": ("DELETE FROM operations", "operation of certificate 102: it was answered"),
    "another answer": (
        "UPDATE operations SET answer = {00} WHERE serial = '102'",
        "operation 00000000000000000000000000000002: it is not what was answered",
    ),
    "an answer taken back": (
        "UPDATE operations SET answer = {} WHERE serial = '102'",
        "operation of certificate 102: it was answered",
    ),
    "another request": (
        "UPDATE operations SET request_digest = {00} WHERE serial = '102'",
        "operation 00000000000000000000000000000002: it is not what was answered",
    ),
    "another signer": (
        "UPDATE operations SET signer_der = {00} WHERE serial = '102'",
        "operation 00000000000000000000000000000002: it is not what was answered",
    ),
    "an answer for longer": (
        "UPDATE operations SET expires_at = expires_at + 9999 WHERE serial = '102'",
        "operation 00000000000000000000000000000002: it is not what was answered",
    ),
    "another transactionID": (
        "UPDATE operations SET transaction_id = {00} WHERE serial = '102'",
        "operation 00: it is filed under another transactionID",
    ),
    "an answer that nobody gave": (
        "INSERT INTO operations SELECT {00}, 'ra9', {07}, request_digest, body_type, cert_req_id, signer_der, serial, "
        "old_serial, response_nonce, answer, confirm_by, confirm_digest, confirm_answer, expires_at FROM operations "
        "WHERE serial = '102'",
        "operation 07: the audit trail does not say that it was answered",
    ),
    "another confirmation": (
        "UPDATE operations SET confirm_answer = {00} WHERE confirm_answer <> {}",
        "its confirmation is not that of the audit trail",
    ),
    "the answer of a revocation": (
        "UPDATE operations SET answer = {00} WHERE body_type = 11",
        "operation 72722d31: it is not what was answered",
    ),
    # end entities
    "an end entity that nobody added": (
        "INSERT INTO entities SELECT 'evil', subject, {00}, names, profile, '', '', status, created_by, created_at, "
        "enroll_until FROM entities WHERE name = 'Köln 1'",
        "end entity evil: the audit trail does not say that it was registered",
    ),
    "an end entity gone": (
        "DELETE FROM entities WHERE name = 'Köln 1'",
        "end entity Köln 1: the audit trail says that it is registered",
    ),
    "an imported one gone": (
        "DELETE FROM entities WHERE name = 'enb0'",
        "end entity enb0: the audit trail says that it is registered",
    ),
    "a blocked one active": (
        "UPDATE entities SET status = 'active' WHERE name = 'enb0'",
        "end entity enb0: its status is 'active', and 'blocked' in the audit trail",
    ),
    "another identity": (
        "UPDATE entities SET identity = 'SN2' WHERE name = 'Köln 1'",
        "end entity Köln 1: its identity is 'SN2', and 'SN1' in the audit trail",
    ),
    "another vendor": (
        "UPDATE entities SET vendor = 'evil' WHERE name = 'Köln 1'",
        "end entity Köln 1: its vendor is 'evil'",
    ),
    "more names": (
        """UPDATE entities SET names = '["dns:a.example", "dns:evil.example"]' WHERE name = 'Köln 1'""",
        "end entity Köln 1: its names is 'dns:a.example dns:evil.example'",
    ),
    "names that are none": (
        "UPDATE entities SET names = 'x' WHERE name = 'Köln 1'",
        "end entity Köln 1: its row has a list that is none",
    ),
    "another profile of an end entity": (
        "UPDATE entities SET profile = 'ra' WHERE name = 'Köln 1'",
        "end entity Köln 1: its profile is 'ra'",
    ),
    "another subject": (
        "UPDATE entities SET subject = 'CN=evil', subject_key = {00} WHERE name = 'enb1'",
        "end entity enb1: its subject is 'CN=evil'",
    ),
    "a key of another subject": (
        "UPDATE entities SET subject_key = {00} WHERE name = 'enb1'",
        "end entity enb1: its subject_key is '00'",
    ),
    "a window for longer": (
        "UPDATE entities SET enroll_until = enroll_until + 1 WHERE name = 'enb1'",
        "end entity enb1: its enroll_until is",
    ),
    "a window that nobody opened": (
        "UPDATE entities SET enroll_until = 4000000000 WHERE name = 'Köln 1'",
        "end entity Köln 1: its enroll_until is '4000000000', and 'nothing' in the audit trail",
    ),
    "another end entity's age": (
        "UPDATE entities SET created_at = 1 WHERE name = 'Köln 1'",
        "end entity Köln 1: it was registered at another time",
    ),
    # roles and RAs
    "a widened role": (
        """UPDATE roles SET privileges = '["issue", "revoke", "update"]' WHERE name = 'narrow'""",
        "role narrow: its privileges is 'issue,revoke,update', and 'issue' in the audit trail",
    ),
    "more profiles of a role": (
        """UPDATE roles SET profiles = '["seg", "ra"]' WHERE name = 'narrow'""",
        "role narrow: its profiles is 'seg,ra'",
    ),
    "a role that nobody made": (
        "INSERT INTO roles (name, privileges, profiles) SELECT 'evil', privileges, profiles FROM roles "
        "WHERE name = 'ra'",
        "role evil: the audit trail does not say that it was registered",
    ),
    "a role gone": (
        "DELETE FROM roles WHERE name = 'ra'",
        "role ra: the audit trail says that it is registered",
    ),
    "another role of an RA": (
        "UPDATE authorities SET role = 'ra' WHERE name = 'gateway'",
        "RA gateway: its role is 'ra', and 'narrow' in the audit trail",
    ),
    "a blocked RA heard": (
        "UPDATE authorities SET enabled = 1 WHERE name = 'blocked'",
        "RA blocked: its enabled is '1', and '0' in the audit trail",
    ),
    "an RA that nobody added": (
        "INSERT INTO authorities (name, role, enabled, created_at) SELECT 'evil', role, 1, created_at FROM authorities "
        "WHERE name = 'gateway'",
        "RA evil: the audit trail does not say that it was registered",
    ),
    "a rogue certificate of an RA": (
        "INSERT INTO authority_certificates (id, authority, fingerprint, der, added_at) SELECT 99, 'gateway', "
        "{0000}, der, added_at FROM authority_certificates",
        "certificate 0000 of RA gateway: the audit trail does not say that it was added",
    ),
    "another certificate of an RA": (
        "UPDATE authority_certificates SET der = (SELECT der FROM certificates WHERE serial = '102')",
        "of RA gateway: what is stored has another fingerprint",
    ),
    "a certificate of another RA": (
        "UPDATE authority_certificates SET authority = 'blocked'",
        "of RA blocked: it was added to gateway or at another time",
    ),
    "a certificate of an RA gone": (
        "DELETE FROM authority_certificates",
        "of RA gateway: the audit trail says that it was added, and it is not in the ledger",
    ),
    # CRLs
    "all CRLs gone": (
        "DELETE FROM crls",
        "it was made, the audit trail says, and is not in the ledger",
    ),
    "the newest CRL gone": (
        "DELETE FROM crls WHERE number = (SELECT max(number) FROM crls)",
        "it was made, the audit trail says, and is not in the ledger",
    ),
    "an old CRL as the new one": (
        "UPDATE crls SET der = (SELECT der FROM crls ORDER BY number LIMIT 1)",
        "it is not the one that was made, the audit trail says",
    ),
    "a CRL for longer": (
        "UPDATE crls SET next_update = next_update + 99999",
        "it is not the one that was made, the audit trail says",
    ),
    "a CRL that nobody made": (
        "INSERT INTO crls (issuer_id, number, base_number, this_update, next_update, der) SELECT issuer_id, "
        "number + 1, NULL, this_update, next_update, der FROM crls WHERE number = (SELECT max(number) FROM crls)",
        "the audit trail does not say that it was made",
    ),
    # the trail
    "a line changed": (
        "UPDATE audit SET actor = 'nobody' WHERE action = 'role.put' AND subject = 'narrow'",
        "it was changed: role.put of narrow by nobody",
    ),
    "a line gone": (
        "DELETE FROM audit WHERE number = 7",
        "audit line 8: lines 7 to 7 before it are missing",
    ),
    "the last lines gone": (
        "DELETE FROM audit WHERE number > 20",
        "audit: it ends with line 20, and should with",
    ),
    "two lines exchanged": (
        "UPDATE audit SET number = -7 WHERE number = 7;UPDATE audit SET number = 7 WHERE number = 8;"
        "UPDATE audit SET number = 8 WHERE number = -7",
        "audit line 7: it does not continue the line before it",
    ),
    "all lines gone": ("DELETE FROM audit", "audit: it ends with line 0"),
    "another head": (
        "UPDATE audit_head SET hash = {00}",
        "audit: its last line is not the one that was written last",
    ),
    "no head": ("DELETE FROM audit_head", "audit: it ends with line"),
}


@pytest.mark.parametrize("name", TAMPERED)
async def test_each_tampering_is_found(
    where: LedgerLocation, templates: Templates, name: str
) -> None:
    """A sentence says where and what."""
    statements, expected = TAMPERED[name]
    await tamper(where, *statements.split(";"))
    found = (await verified(templates.ca, where)).findings
    assert any(expected in f"{finding.where}: {finding.what}" for finding in found), found
    assert all(finding.todo for finding in found)


# --- checkpoints ------------------------------------------------------------------------------------------------


async def rewrite(where: LedgerLocation, *, up_to: int | None = None, actor: str = "") -> None:
    """Write the trail anew with hashes that fit: cut off behind a line, or with another actor in the first."""
    async with opened(where) as ledger:
        lines = await ledger.audit_entries(limit=10_000)
    lines = lines[:up_to]
    previous = bytes(32)
    # ruff: noqa: S608 - what is put into the statements is a test's own
    statements = ["DELETE FROM audit WHERE number > " + str(len(lines))] if up_to else []
    for line in lines:
        if line.number == 1 and actor:
            line = replace(line, actor=actor)
        at, detail = int(line.at.timestamp()), canonical_detail(line.detail)
        hash_ = chained(previous, line.number, at, line.actor, line.action, line.subject, detail)
        statements.append(
            f"UPDATE audit SET actor = '{line.actor}', previous_hash = {{{previous.hex()}}}, "
            f"hash = {{{hash_.hex()}}} WHERE number = {line.number}"
        )
        previous = hash_
    await tamper(
        where,
        *statements,
        f"UPDATE audit_head SET number = {len(lines)}, hash = {{{previous.hex()}}}",
    )


_CA_UID = 4711


@pytest.fixture
async def checkpoints(where: LedgerLocation, templates: Templates, tmp_path: Path) -> Checkpoints:
    """The CA's checkpoints, with one of the ledger as it is."""
    (tmp_path / "ca").mkdir()
    if (
        os.geteuid() == 0
    ):  # the CA's account owns the directory, and root may be the first to write there
        os.chown(tmp_path / "ca", _CA_UID, _CA_UID)
    made = Checkpoints(tmp_path / "ca" / "checkpoints")
    async with opened(where) as ledger:
        assert await made.append(ledger, templates.ca.clock())
        assert not await made.append(ledger, templates.ca.clock())
    return made


@pytest.mark.parametrize(
    "how, expected",
    [
        ({"up_to": 20}, "and does not have it any more"),
        ({"actor": "nobody"}, "was another one then: it was written anew"),
    ],
)
async def test_a_trail_with_hashes_that_fit_is_told_by_a_checkpoint(
    where: LedgerLocation,
    templates: Templates,
    checkpoints: Checkpoints,
    how: dict[str, Any],
    expected: str,
) -> None:
    """Cut off or written anew: the trail alone would not show it, and no further checkpoint covers it up."""
    await rewrite(where, **how)
    found = (await verified(templates.ca, where, checkpoints.read())).findings
    assert any(
        finding.where.startswith("checkpoint of 2026-03-01") and expected in finding.what
        for finding in found
    ), found
    before = checkpoints.path.read_bytes()
    async with opened(where) as ledger:
        with pytest.raises(TrailRewritten):
            await checkpoints.append(ledger, templates.ca.clock())
    assert checkpoints.path.read_bytes() == before


async def test_a_trail_that_goes_on_has_its_checkpoints(
    where: LedgerLocation, templates: Templates, checkpoints: Checkpoints
) -> None:
    """One more for what came since; all of them agree."""
    async with opened(where) as ledger:
        await ledger.registry.put_role(Role("new", frozenset(Privilege), ("seg",)), "op", NOW)
        assert await checkpoints.append(ledger, templates.ca.clock())
    assert len(checkpoints.read()) == 2
    assert await verified(templates.ca, where, checkpoints.read()) == Verified([], 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda octets: octets.replace(b'"number":', b'"number":1'),
        lambda octets: octets + octets,
        lambda octets: b"{}\n" + octets,
        lambda octets: octets[:-20],
        lambda octets: b"[" * 100_000,
        lambda octets: b"\xff\n",
    ],
)
async def test_checkpoints_that_were_changed_are_refused(
    checkpoints: Checkpoints, damage: Any
) -> None:
    """Each line is vouched for by the key, and for its place."""
    checkpoints.path.write_bytes(damage(checkpoints.path.read_bytes()))
    with pytest.raises(ConfigError, match="Find out who wrote to it"):
        checkpoints.read()


async def test_checkpoints_are_their_owners(
    checkpoints: Checkpoints, where: LedgerLocation
) -> None:
    """File and key are of mode 0600 and the directory's owner's; a key that others may read is refused."""
    key = checkpoints.path.with_name("checkpoints.secret")
    owner = checkpoints.path.parent.stat().st_uid
    assert {checkpoints.path.stat().st_uid, key.stat().st_uid} == {owner}
    assert (checkpoints.path.stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o600, 0o600)
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        checkpoints.read()
