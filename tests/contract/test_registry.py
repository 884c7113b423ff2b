"""Who is registered with the CA: the same on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.ca.records import (
    Authority,
    EndEntity,
    EntityStatus,
    Privilege,
    Reason,
    Revocation,
    Role,
)
from ra_gateway.cmp import asn1
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.errors import ConfigError
from tests.support.desk import Clock
from tests.support.pki import OperatorPKI
from tests.support.status import StatusCA, issuing_ca

NOW: Final = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
OPERATOR: Final = "operator"
ENTITY: Final = EndEntity(
    name="enb-1",
    subject="CN=enb-1.example.net,O=Example Operator",
    names=("dns:enb-1.example.net", "ip:192.0.2.1"),
    profile="ne_ipsec",
    vendor="acme",
    identity="SN0001",
)
ROLE: Final = Role("ra", frozenset({Privilege.issue, Privilege.update}), ("ne_ipsec", "seg"))


@pytest.fixture(params=["sqlite", "postgresql"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    if request.param == "sqlite":
        ledger = open_ledger(tmp_path / "ledger.sqlite")
    else:
        ledger = open_ledger(request.getfixturevalue("postgres_url"))
        await ledger.migrate()
    await ledger.open()
    yield ledger
    await ledger.close()


def entity(number: int, **changes: Any) -> EndEntity:
    """Return one of many end entities."""
    return replace(
        EndEntity(
            name=f"enb-{number:06}",
            subject=f"CN=enb-{number}.example.net,O=Example Operator",
            vendor="acme",
            identity=f"SN{number:06}",
        ),
        **changes,
    )


async def trail(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Return actor, action and subject of each line of the audit trail."""
    return [(line.actor, line.action, line.subject) for line in await ledger.audit_entries()]


# --- end entities -----------------------------------------------------------------------------------------------


async def test_an_end_entity_is_found_by_all_that_names_it(ledger: Ledger) -> None:
    """Its name, and its identity with its vendor, lead to it; other values do not."""
    registry = ledger.registry
    await registry.add_entity(ENTITY, OPERATOR, NOW)
    stored = replace(ENTITY, created_at=NOW)
    assert await registry.entity("enb-1") == stored
    assert await registry.entity_by_identity("acme", "SN0001") == stored
    assert await registry.entity("enb-2") is None
    assert await registry.entity_by_identity("other", "SN0001") is None
    assert await registry.entity_by_identity("acme", "") is None
    assert await trail(ledger) == [("operator", "entity.add", "enb-1")]


@pytest.mark.requirement("T27")
async def test_an_fqdn_names_an_end_entity_in_whatever_case(ledger: Ledger) -> None:
    """It is kept in lower case, as certificates are read; two spellings are one identity."""
    registry = ledger.registry
    await registry.add_entity(replace(ENTITY, identity="ENB-1.acme.example"), OPERATOR, NOW)
    for spelt in ("enb-1.acme.example", "Enb-1.Acme.Example"):
        found = await registry.entity_by_identity("acme", spelt)
        assert found is not None
        assert (found.name, found.identity) == ("enb-1", "enb-1.acme.example")
    other = EndEntity("enb-2", "CN=enb-2.example.net", vendor="acme", identity="enb-1.ACME.example")
    with pytest.raises(ConfigError, match="its vendor and identity are those"):
        await registry.add_entity(other, OPERATOR, NOW)


async def test_what_an_end_entity_has_is_its_own(ledger: Ledger) -> None:
    """Name, subject and identity are unique; the refusal says whose they are and changes nothing."""
    registry = ledger.registry
    await registry.add_entity(ENTITY, OPERATOR, NOW)
    other = EndEntity("enb-2", "CN=enb-2.example.net", vendor="acme", identity="SN0002")
    for wrong, told in (
        (replace(other, name="enb-1"), "an end entity 'enb-1' is registered already"),
        (
            replace(other, subject="CN=enb-1.EXAMPLE.net,O=Example Operator"),
            "its subject is that of the end entity 'enb-1'",
        ),
        (
            replace(other, identity="SN0001"),
            "its vendor and identity are those of the end entity 'enb-1'",
        ),
    ):
        with pytest.raises(ConfigError) as refusal:
            await registry.add_entity(wrong, OPERATOR, NOW)
        assert [problem.what for problem in refusal.value.problems] == [told]
    await registry.add_entity(replace(other, vendor="other", identity="SN0001"), OPERATOR, NOW)
    assert [line[2] for line in await trail(ledger)] == ["enb-1", "enb-2"]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"name": ""}, "has no name"),
        ({"name": "a\nb"}, "the name 'a\\nb' cannot be used"),
        ({"name": "x" * 201}, f"the name '{'x' * 40}' cannot be used"),
        ({"name": " a"}, "the name ' a' cannot be used"),
        ({"identity": "a\x00"}, "the identity 'a\\x00' cannot be used"),
        ({"subject": "enb"}, "the subject 'enb' is no name"),
        ({"subject": ""}, "the subject '' is no name"),
        ({"names": ("enb",)}, "'enb' is no name for a SubjectAltName"),
        ({"names": ("ip:1.2.3",)}, "'ip:1.2.3' is no name for a SubjectAltName"),
        (
            {"subject": "CN=enb-1,C=D1"},
            "the subject 'CN=enb-1,C=D1' cannot be certified: attribute C is no country code of two letters "
            "(RFC 5280 A.1)",
        ),
        (
            {"names": ("dns:e_nb.net",)},
            "'dns:e_nb.net' is no name that is certified: subjectAltName dNSName is no host name: labels of letters, "
            "digits and hyphens (RFC 5280 4.2.1.6)",
        ),
        (
            {"names": ("dns:*.example.net",)},
            "'dns:*.example.net' is no name that is certified: subjectAltName dNSName is a wildcard (RFC 5280 4.2.1.6)",
        ),
        ({"identity": ""}, "has a vendor or an identity without the other"),
    ],
)
async def test_an_end_entity_makes_sense(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    """What could not be used, shown or indexed is refused with what to do."""
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    await ledger.open()
    try:
        with pytest.raises(ConfigError) as refusal:
            await ledger.registry.add_entity(replace(ENTITY, **changes), OPERATOR, NOW)
        assert [problem.what for problem in refusal.value.problems] == [told]
        assert await ledger.audit_entries() == []
    finally:
        await ledger.close()


async def test_an_end_entity_is_blocked_and_opened(ledger: Ledger) -> None:
    """Status and window change; every change is told in the trail; an unknown name is a refusal."""
    registry, until = ledger.registry, NOW + timedelta(hours=1)
    await registry.add_entity(ENTITY, OPERATOR, NOW)
    await registry.set_entity_status("enb-1", EntityStatus.blocked, "alice", NOW)
    await registry.open_window("enb-1", until, "bob", NOW)
    found = await registry.entity("enb-1")
    assert found is not None
    assert (found.status, found.enroll_until) == (EntityStatus.blocked, until)
    await registry.set_entity_status("enb-1", EntityStatus.active, "alice", NOW)
    await registry.open_window("enb-1", None, "bob", NOW)
    assert await registry.entity("enb-1") == replace(ENTITY, created_at=NOW)
    assert await trail(ledger) == [
        ("operator", "entity.add", "enb-1"),
        ("alice", "entity.block", "enb-1"),
        ("bob", "entity.open", "enb-1"),
        ("alice", "entity.unblock", "enb-1"),
        ("bob", "entity.open", "enb-1"),
    ]
    with pytest.raises(ConfigError, match="enb-2: is not registered"):
        await registry.set_entity_status("enb-2", EntityStatus.blocked, OPERATOR, NOW)
    with pytest.raises(ConfigError, match="enb-2: is not registered"):
        await registry.open_window("enb-2", until, OPERATOR, NOW)


async def test_an_end_entity_with_a_valid_certificate_stays(
    ledger: Ledger, operator_pki: OperatorPKI
) -> None:
    """Delete is refused until its certificates are revoked or have expired."""
    registry = ledger.registry
    await registry.add_entity(ENTITY, OPERATOR, NOW)
    ca = StatusCA(ledger, Clock(NOW), operator_pki, issuing_ca(operator_pki.issuing))
    issued = (await ca.issue(ENTITY.subject)).certificate
    with pytest.raises(ConfigError, match=rf"holds 1 valid .*: {issued.serial_number:x}\."):
        await registry.delete_entity("enb-1", OPERATOR, NOW)
    hold = Revocation(issued.serial_number, Reason.certificateHold, OPERATOR)
    await ledger.revoke(hold, NOW)  # from which it may come back
    with pytest.raises(ConfigError, match=r"holds 1 valid"):
        await registry.delete_entity("enb-1", OPERATOR, NOW)
    assert await registry.entity("enb-1") is not None
    await registry.delete_entity(
        "enb-1", OPERATOR, issued.not_valid_after_utc + timedelta(seconds=1)
    )
    assert await registry.entity("enb-1") is None
    with pytest.raises(ConfigError, match="enb-1: is not registered"):
        await registry.delete_entity("enb-1", OPERATOR, NOW)
    assert (await trail(ledger))[-1] == ("operator", "entity.delete", "enb-1")


async def test_end_entities_are_listed_in_pages(ledger: Ledger) -> None:
    """Pages follow each other by name; patterns match name, subject and identity."""
    registry = ledger.registry
    await registry.import_entities([entity(number) for number in range(25)], OPERATOR, NOW)
    names: list[str] = []
    while page := await registry.entities(after=names[-1] if names else "", limit=10):
        names += [item.name for item in page]
    assert names == [f"enb-{number:06}" for number in range(25)]
    for pattern, expected in (
        ("ENB-00001?", 10),
        ("*sn000003", 1),
        ("cn=enb-7.*", 1),
        ("enb-00002_", 0),
        ("%", 0),
        ("*", 25),
    ):
        assert len(await registry.entities(pattern=pattern)) == expected


# --- import -----------------------------------------------------------------------------------------------------


async def test_an_import_is_all_or_nothing(ledger: Ledger) -> None:
    """One row that is taken, and none is registered; the problem has the number of its line."""
    registry = ledger.registry
    await registry.add_entity(entity(7), OPERATOR, NOW)
    rows = [entity(number) for number in range(10)]
    with pytest.raises(ConfigError) as refusal:
        await registry.import_entities(rows, OPERATOR, NOW, lines=range(2, 12))
    assert [(problem.path, problem.what) for problem in refusal.value.problems] == [
        ("line 9", "an end entity 'enb-000007' is registered already")
    ]
    assert len(await registry.entities()) == 1
    del rows[7]
    assert await registry.import_entities(rows, OPERATOR, NOW) == 9
    assert len(await registry.entities()) == 10
    assert await registry.import_entities([], OPERATOR, NOW) == 0


async def test_an_import_tells_the_first_twenty_problems(ledger: Ledger) -> None:
    """Rows that are wrong or repeat others are told in their order, and how many more there are."""
    rows = [entity(1), entity(1), *(entity(number, subject="x") for number in range(2, 40))]
    with pytest.raises(ConfigError) as refusal:
        await ledger.registry.import_entities(rows, OPERATOR, NOW)
    problems = refusal.value.problems
    assert [problem.what for problem in problems[:4]] == [
        "has the name 'enb-000001' of line 1",
        "has the subject of line 1",
        "has vendor and identity of line 1",
        "the subject 'x' is no name",
    ]
    assert len(problems) == 21
    assert problems[-1].what == "21 more problem(s) like these"
    assert await ledger.audit_entries() == []


async def test_a_large_import_is_quick_and_in_the_trail(ledger: Ledger) -> None:
    """10,000 rows: progress is told, and the trail names every one of them."""
    rows = [entity(number) for number in range(10_000)]
    told: list[int] = []
    count = await ledger.registry.import_entities(rows, OPERATOR, NOW, progress=told.append)
    assert count == 10_000
    assert told == list(range(1000, 10_001, 1000))
    lines = await ledger.audit_entries()
    assert {line.action for line in lines} == {"entity.import"}
    assert [name for line in lines for name in line.detail] == [row.name for row in rows]


# --- roles and authorities --------------------------------------------------------------------------------------


async def test_roles_are_made_changed_and_deleted(ledger: Ledger) -> None:
    """put_role replaces what has the name; the order of profiles is kept."""
    registry = ledger.registry
    await registry.put_role(ROLE, OPERATOR, NOW)
    assert await registry.roles() == [ROLE]
    less = Role("ra", frozenset({Privilege.revoke}), ("seg",))
    await registry.put_role(less, OPERATOR, NOW)
    assert await registry.roles() == [less]
    await registry.delete_role("ra", OPERATOR, NOW)
    assert await registry.roles() == []
    with pytest.raises(ConfigError, match=r"role ra: does not exist.*ca role add ra"):
        await registry.delete_role("ra", OPERATOR, NOW)
    assert [action for _, action, _ in await trail(ledger)] == [
        "role.put",
        "role.put",
        "role.delete",
    ]


@pytest.mark.parametrize(
    "role, told",
    [
        (replace(ROLE, name="a b"), "is not a possible name"),
        (replace(ROLE, name="ä"), "is not a possible name"),
        (replace(ROLE, name="x\n"), "is not a possible name"),
        (replace(ROLE, privileges=frozenset()), "lets nothing be done"),
        (replace(ROLE, profiles=()), "names no certificate profile"),
        (replace(ROLE, profiles=("seg", "seg")), "names no certificate profile, or one twice"),
        (replace(ROLE, subjects=("",)), "the pattern '' cannot be used"),
        (replace(ROLE, subjects=("CN=a\nb",)), "cannot be used"),
        (replace(ROLE, sans=("enb*.example.net",)), "fits no SubjectAltName"),
        (replace(ROLE, others=True), "whatever their names"),
    ],
)
async def test_a_role_makes_sense(tmp_path: Path, role: Role, told: str) -> None:
    """A role has a name, and lets something be done."""
    ledger = open_ledger(tmp_path / "ledger.sqlite")
    await ledger.open()
    try:
        with pytest.raises(ConfigError, match=told):
            await ledger.registry.put_role(role, OPERATOR, NOW)
    finally:
        await ledger.close()


async def test_an_authority_overlaps_with_itself(ledger: Ledger, operator_pki: OperatorPKI) -> None:
    """Old and new certificate count at once, until the old one is removed."""
    registry = ledger.registry
    old, new = (operator_pki.issuing.issue(f"CN=ra{number},O=X") for number in (1, 2))
    await registry.put_role(ROLE, OPERATOR, NOW)
    await registry.put_authority("gateway", "ra", OPERATOR, NOW)
    assert await registry.authorities() == [Authority("gateway", ROLE)]
    for certificate in (old, new, old):
        await registry.add_authority_certificate("gateway", certificate.der, OPERATOR, NOW)
    assert await registry.authorities() == [Authority("gateway", ROLE, (old.der, new.der))]
    await registry.remove_authority_certificate("gateway", sha256(old.der).digest(), OPERATOR, NOW)
    await registry.set_authority_enabled("gateway", False, OPERATOR, NOW)
    assert await registry.authorities() == [Authority("gateway", ROLE, (new.der,), enabled=False)]
    with pytest.raises(ConfigError, match="is the role of gateway"):
        await registry.delete_role("ra", OPERATOR, NOW)
    await registry.delete_authority("gateway", OPERATOR, NOW)
    assert await registry.authorities() == []
    assert [action for _, action, _ in await trail(ledger)] == [
        "role.put",
        "authority.put",
        "authority.certificate.add",
        "authority.certificate.add",
        "authority.certificate.remove",
        "authority.block",
        "authority.delete",
    ]
    # What it had is free for another one.
    await registry.put_authority("other", "ra", OPERATOR, NOW)
    await registry.add_authority_certificate("other", new.der, OPERATOR, NOW)


async def test_roles_and_authorities_are_bound_to_names(ledger: Ledger) -> None:
    """Both keep their patterns apart; putting an authority again keeps those it has unless others are given."""
    registry = ledger.registry
    bound = replace(ROLE, subjects=("CN=enb-*,O=X",), sans=("dns:*.example.net",), others=True)
    await registry.put_role(bound, OPERATOR, NOW)
    await registry.put_authority("gateway", "ra", OPERATOR, NOW, subjects=["CN=enb-7*"])
    expected = Authority("gateway", bound, subjects=("CN=enb-7*",))
    assert await registry.authorities() == [expected]
    await registry.put_authority("gateway", "ra", OPERATOR, NOW, sans=["ip:192.0.2.*"])
    assert await registry.authorities() == [replace(expected, sans=("ip:192.0.2.*",))]
    await registry.put_authority("gateway", "ra", OPERATOR, NOW, subjects=[], sans=[])
    assert await registry.authorities() == [Authority("gateway", bound)]
    details = [line.detail for line in await ledger.audit_entries()]
    assert details[0]["subjects"] == '["CN=enb-*,O=X"]'
    assert details[0]["others"] == "1"
    assert details[1]["subjects"] == '["CN=enb-7*"]'


async def test_another_spelling_of_a_certificate_is_no_other(
    ledger: Ledger, operator_pki: OperatorPKI
) -> None:
    """Its signature (r, n-s) is as good: it is not registered for a second authority."""
    registry = ledger.registry
    await registry.put_role(ROLE, OPERATOR, NOW)
    for name in ("one", "two"):
        await registry.put_authority(name, "ra", OPERATOR, NOW)
    certificate = Certificate.from_der(operator_pki.issuing.issue("CN=ra,O=X").der)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(certificate.signature)
    twin = asn1.tlv(0x03, b"\x00" + encode_dss_signature(r, order - s))
    respelt = asn1.tlv(0x30, certificate.tbs_der, certificate.algorithm_der, twin)
    await registry.add_authority_certificate("one", certificate.der, OPERATOR, NOW)
    await registry.add_authority_certificate("one", respelt, OPERATOR, NOW)
    with pytest.raises(ConfigError, match="is registered for one"):
        await registry.add_authority_certificate("two", respelt, OPERATOR, NOW)
    (one, two) = await registry.authorities()
    assert one.certificates == (certificate.der,)
    assert two.certificates == ()


async def test_an_authority_gets_another_role(ledger: Ledger) -> None:
    """put_authority again changes the role, and leaves certificates and status alone."""
    registry = ledger.registry
    less = Role("revoker", frozenset({Privilege.revoke}), ("seg",))
    await registry.put_role(ROLE, OPERATOR, NOW)
    await registry.put_role(less, OPERATOR, NOW)
    await registry.put_authority("gateway", "ra", OPERATOR, NOW)
    await registry.set_authority_enabled("gateway", False, OPERATOR, NOW)
    await registry.put_authority("gateway", "revoker", OPERATOR, NOW)
    assert await registry.authorities() == [Authority("gateway", less, enabled=False)]


async def test_what_is_no_authority_is_refused(ledger: Ledger, operator_pki: OperatorPKI) -> None:
    """Each refusal says what is wrong: names, roles, certificates of CAs, of others, expired, none at all."""
    registry = ledger.registry
    await registry.put_role(ROLE, OPERATOR, NOW)
    await registry.put_authority("one", "ra", OPERATOR, NOW)
    await registry.put_authority("two", "ra", OPERATOR, NOW)
    certificate = operator_pki.issuing.issue("CN=ra,O=X")
    await registry.add_authority_certificate("one", certificate.der, OPERATOR, NOW)

    async def add(name: str, der: bytes, now: datetime = NOW) -> None:
        await registry.add_authority_certificate(name, der, OPERATOR, now)

    for attempt, told in (
        *(
            (registry.put_authority(name, "ra", OPERATOR, NOW), f"ra {name}: is how the CA calls")
            for name in ("client", "operator", "ca", "migration")
        ),
        (registry.put_authority("a/b", "ra", OPERATOR, NOW), "is not a possible name"),
        (registry.put_authority("three", "none", OPERATOR, NOW), "role none: does not exist"),
        (add("none", certificate.der), "ra none: is not registered"),
        (add("two", certificate.der), "is registered for one"),
        (add("two", operator_pki.issuing.der), "is a CA's"),
        (add("two", b"nonsense"), "not a certificate"),
        (add("two", certificate.der, NOW + timedelta(days=36500)), "expired"),
        (
            registry.remove_authority_certificate("two", bytes(32), OPERATOR, NOW),
            "has no certificate with the fingerprint 0000",
        ),
        (registry.set_authority_enabled("none", True, OPERATOR, NOW), "ra none: is not registered"),
        (registry.delete_authority("none", OPERATOR, NOW), "ra none: is not registered"),
    ):
        with pytest.raises(ConfigError, match=told):
            await attempt
    assert [authority.name for authority in await registry.authorities()] == ["one", "two"]
