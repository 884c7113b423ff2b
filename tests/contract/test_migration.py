"""A ledger of an older release becomes one of this release, and knows what it knew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import Connection, text

from ra_gateway.ca.ledger import audit
from ra_gateway.ca.ledger.audit import Act
from ra_gateway.ca.ledger.database import write
from ra_gateway.ca.ledger.ledger import Ledger, LedgerLocation, open_ledger
from ra_gateway.ca.ledger.sql import subject_key
from ra_gateway.ca.ledger.verify import verify
from ra_gateway.ca.records import EndEntity, EntityStatus, Privilege, Role
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import NULL_DN, from_rfc4514, general_names_der
from ra_gateway.errors import NotAuthorized
from tests.support.ledgers import NOW, intent, operation
from tests.support.pki import OperatorPKI, certificate_der

AT = int(NOW.timestamp())


@asynccontextmanager
async def migrated(
    where: LedgerLocation, monkeypatch: pytest.MonkeyPatch, fill: Callable[[Connection], None]
) -> AsyncIterator[Ledger]:
    """Fill a ledger of the first release, migrate it, and open it."""
    with monkeypatch.context() as patch:
        for module in ("database", "migrations"):
            patch.setattr(f"ra_gateway.ca.ledger.{module}.HEAD", "0001")
        earlier = open_ledger(where)
        await earlier.migrate()
        await earlier.open()
        await write(earlier.database, fill)
        await earlier.close()
    async with opened(where) as ledger:
        yield ledger


@asynccontextmanager
async def opened(where: LedgerLocation) -> AsyncIterator[Ledger]:
    """A ledger of this release."""
    ledger = open_ledger(where)
    await ledger.migrate()
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


class Old:
    """Rows as the first release wrote them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def certificate(
        self, der: bytes, requester: str, entity: str, profile: str = "ne_ipsec"
    ) -> None:
        found = Certificate.from_der(der)
        self._insert(
            "certificates",
            serial=f"{found.serial_number:x}",
            status="confirmed",
            requester=requester,
            entity=entity,
            subject_key=subject_key(found.subject_der),
            issuer_id="ab",
            profile=profile,
            spki_digest=sha256(found.spki_der).digest(),
            unique_key=1,
            reserved_at=AT,
            issued_at=AT,
            changed_at=AT,
            not_before=int(found.not_before.timestamp()),
            not_after=int(found.not_after.timestamp()),
            fingerprint=found.fingerprint,
            der=der,
        )

    def entity(self, name: str, subject: str, **more: str) -> None:
        self._insert(
            "entities",
            **{
                "name": name,
                "subject": subject,
                "subject_key": subject_key(from_rfc4514(subject) if subject else NULL_DN),
                "names": "[]",
                "profile": "ne_ipsec",
                "vendor": "",
                "identity": "",
                "status": "active",
                "created_by": "ra1",
                "created_at": AT,
                **more,
            },
        )

    def issued(self, der: bytes, requester: str, entity: str, renews: bytes = b"") -> None:
        """A certificate that was issued and confirmed, with its lines."""
        self.certificate(der, requester, entity)
        found = Certificate.from_der(der)
        serial = f"{found.serial_number:x}"
        detail = {
            "entity": entity,
            "profile": "ne_ipsec",
            "fingerprint": found.fingerprint.hex(),
        }
        if renews:
            detail["renews"] = f"{Certificate.from_der(renews).serial_number:x}"
        acts = [
            Act(AT, requester, "issue", serial, detail),
            Act(AT, requester, "confirm", serial, {}),
        ]
        audit.append(self._connection, acts)

    def renewal(self, new: bytes, old: bytes) -> None:
        serials = [f"{Certificate.from_der(der).serial_number:x}" for der in (new, old)]
        act = Act(AT, "client", "issue", serials[0], {"entity": "enb1", "renews": serials[1]})
        audit.append(self._connection, [act])

    def authority(self, der: bytes) -> None:
        self._insert("roles", name="ra", privileges='["issue"]', profiles='["ne_ipsec"]')
        self._insert("authorities", name="ra1", role="ra", enabled=1, created_at=AT)
        self._insert(
            "authority_certificates",
            authority="ra1",
            fingerprint=sha256(der).digest(),
            der=der,
            added_at=AT,
        )

    def _insert(self, table: str, **values: Any) -> None:
        names = ", ".join(values)
        places = ", ".join(f":{name}" for name in values)
        self._connection.execute(
            text(f"INSERT INTO {table} ({names}) VALUES ({places})"),  # noqa: S608 - names of ours
            values,
        )


async def test_verify_agrees_after_a_migration(
    where: LedgerLocation, operator_pki: OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the migration changed is in the audit trail: it does not look like tampering, and all of it is compared."""
    ca = operator_pki.issuing
    one = ca.issue(x509.Name([]), san=("dns:one.example.net",)).der
    first, second = (ca.issue("CN=enb1").der for _ in range(2))

    def fill(connection: Connection) -> None:
        old = Old(connection)
        old.entity("", "", status="blocked")
        old.entity("enb1", "CN=enb1")
        old.issued(one, "ra1", "")
        audit.append(connection, [Act(AT, "operator", "entity.block", "", {})])
        old.issued(first, "ra1", "enb1")
        old.issued(second, "client", "enb1", renews=first)
        role = {"privileges": "issue", "profiles": "ne_ipsec"}
        old.authority(ca.issue("CN=ra1").der)
        audit.append(connection, [Act(AT, "operator", "role.put", "ra", role)])
        audit.append(connection, [Act(AT, "operator", "authority.put", "ra1", {"role": "ra"})])

    async with migrated(where, monkeypatch, fill) as ledger:
        issuers = {"ab": Certificate.from_der(certificate_der(ca.certificate))}
        ends = "the audit trail does not say that it was added"  # of the RA's certificate, which `Old` left out
        assert [item.what for item in (await verify(ledger, issuers, NOW)).findings] == [ends]
        assert (await ledger.registry.entities())[0].status is EntityStatus.blocked
        for statement, what in (
            ("SET origin = 'evil' WHERE requester = 'client'", "first requester"),
            ("SET entity = 'enb1' WHERE entity <> 'enb1'", "end entity"),
        ):
            changing = partial(
                Connection.execute, statement=text(f"UPDATE certificates {statement}")
            )
            await write(ledger.database, changing)
            found = [item.what for item in (await verify(ledger, issuers, NOW)).findings]
            assert f"its row has another {what} than the audit trail" in found


async def test_a_ledger_of_the_first_release_keeps_what_it_knows(
    where: LedgerLocation, operator_pki: OperatorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nameless devices become as many as they are, renewals keep who vouched, blocked ones and RAs are withheld."""
    ca = operator_pki.issuing
    nobody = x509.Name([])
    one = ca.issue(nobody, san=("dns:one.example.net",)).der
    two = ca.issue(nobody, san=("dns:two.example.net",)).der
    first, second, third = (ca.issue("CN=enb1").der for _ in range(3))
    blocked = ca.issue("CN=enb2", san=("dns:enb2.example.net",)).der
    ra = ca.issue("CN=ra1").der

    def fill(connection: Connection) -> None:
        old = Old(connection)
        old.entity("", "")
        old.entity("enb1", "CN=enb1", vendor="acme", identity="SN1", created_by="operator")
        old.entity("CN=enb2", "CN=enb2", status="blocked")
        for der in (one, two):
            old.certificate(der, "ra1", "")
        old.certificate(first, "ra1", "enb1")
        old.certificate(second, "client", "enb1")
        old.certificate(third, "client", "enb1")
        old.renewal(second, first)
        old.renewal(third, second)
        old.certificate(blocked, "ra1", "CN=enb2")
        old.certificate(ra, "operator", "CN=ra1", "ra")
        old.authority(ra)

    async with migrated(where, monkeypatch, fill) as ledger:
        registry = ledger.registry
        names = [entity.name for entity in await registry.entities()]
        assert names == ["CN=enb2", "dns:one.example.net", "dns:two.example.net", "enb1"]
        for name, der in (("dns:one.example.net", one), ("dns:two.example.net", two)):
            certificate = Certificate.from_der(der)
            found = await ledger.record_of(certificate, NOW)
            assert found is not None
            assert (found.entity, found.requester, found.origin) == (name, "ra1", "ra1")
            newest = await ledger.newest_certificate(
                NULL_DN, NOW, san_der=certificate.subject_alt_name_der
            )
            assert newest is not None
            assert newest.serial_number == certificate.serial_number
        for der in (first, second, third):
            found = await ledger.record_of(Certificate.from_der(der), NOW)
            assert found is not None
            assert found.origin == "ra1"
        (authority,) = await registry.authorities()
        assert authority.subjects == authority.role.subjects == ()
        assert not authority.role.others
        refused: tuple[dict[str, Any], ...] = (
            {"subject_der": from_rfc4514("CN=ra1")},
            {"san_der": general_names_der(["dns:enb2.example.net"])},
            {"spki_digest": sha256(Certificate.from_der(blocked).spki_der).digest()},
        )
        for changes in refused:
            with pytest.raises(NotAuthorized):
                await ledger.reserve(operation(), intent("enb9", **changes), NOW)
        await registry.set_entity_status("CN=enb2", EntityStatus.active, "operator", NOW)
        san_der = general_names_der(["dns:enb2.example.net"])
        assert await ledger.reserve(operation(), intent("enb9", san_der=san_der), NOW) is None


async def test_hosts_that_subjects_name_are_withheld_after_a_migration(
    where: LedgerLocation, operator_pki: OperatorPKI
) -> None:
    """The release before kept other names alone for their owners, and addresses in two forms."""
    ra = operator_pki.issuing.issue("CN=ra1.example.net").der
    entities = (
        EndEntity("enb1", "CN=enb1.example.net,O=Op", ("ip:192.0.2.1",), "", "acme", "SN-1"),
        EndEntity("enb2", "CN=enb2.example.net,O=Op"),
        EndEntity("enb3", "CN=enb3.example.net,O=Op", (), "", "acme", "SN-3"),
    )

    def as_it_was(connection: Connection) -> None:
        rows = connection.execute(text("SELECT identifier, entity FROM withheld")).all()
        connection.execute(text("DELETE FROM withheld"))
        assert len(rows) > 4
        connection.execute(
            text("INSERT INTO withheld (identifier, entity) VALUES (:identifier, :entity)"),
            {"identifier": bytes(32), "entity": "enb1"},
        )
        for column in ("vendor", "identity"):
            connection.execute(text(f"ALTER TABLE certificates DROP COLUMN {column}"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))

    async with opened(where) as ledger:
        for entity in entities:
            await ledger.registry.add_entity(entity, "operator", NOW)
        for name in ("enb2", "enb3"):
            await ledger.registry.set_entity_status(name, EntityStatus.blocked, "operator", NOW)
        await ledger.registry.put_role(
            Role("ra", frozenset(Privilege), ("ne_ipsec",)), "operator", NOW
        )
        await ledger.registry.put_authority("ra1", "ra", "operator", NOW)
        await ledger.registry.add_authority_certificate("ra1", ra, "operator", NOW)
        await write(ledger.database, as_it_was)
    async with opened(where) as ledger:
        assert (await verify(ledger, {}, NOW)).findings == []
        hosts = ("dns:enb1.example.net", "ip:::ffff:192.0.2.1", "dns:enb3.example.net")
        for name in (*hosts, "dns:enb2.example.net", "dns:ra1.example.net"):
            wanted = intent("enb9", san_der=general_names_der([name]))
            with pytest.raises(NotAuthorized):
                await ledger.reserve(operation(), replace(wanted, on_behalf=True), NOW)
