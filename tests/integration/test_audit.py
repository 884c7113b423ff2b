"""The audit trail of a gateway: what an enrolment leaves in it, and that nothing happens unrecorded where it must."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from ra_gateway.app.audit_acts import audit_database
from ra_gateway.audit import trail as trail_module
from ra_gateway.audit.searching import Found, Query, search
from ra_gateway.audit.verifying import verify
from ra_gateway.config.reading import load
from ra_gateway.device import client
from ra_gateway.device.client import NotCMP
from tests.support.credentials import cmp_credential
from tests.support.pki import VendorPKI, make_vendor_pki
from tests.support.postgres_server import PostgresServer
from tests.support.reloading import Site, other_vendor, serving, serving_ca
from tests.support.setups import make_setup
from tests.support.stations import until


@pytest.fixture
def vendor() -> VendorPKI:
    """Of the base stations."""
    return make_vendor_pki("Acme")


def with_audit(config: Path, *lines: str) -> Path:
    """Have a configuration keep a trail."""
    config.write_text("\n".join((config.read_text(), "[audit]", *lines, "")))
    return config


async def recorded(config: Path, query: Query = Query()) -> list[Found]:  # noqa: B008
    """Return what is in the trail of a configuration, which verifies."""

    def read() -> list[Found]:
        settings = load(config).audit
        assert settings is not None
        database = audit_database(settings, reads_only=True)
        try:
            assert verify(database, {}).findings == []
            return list(search(database, query, newest_first=False))
        finally:
            database.close()

    return await asyncio.to_thread(read)


async def test_an_enrolment_can_be_told_from_its_records(tmp_path: Path, vendor: VendorPKI) -> None:
    """Who asked what, what was forwarded, what was issued and confirmed, each with its transaction."""
    config = with_audit(
        make_setup(tmp_path / "site", vendors={"acme": vendor}), 'sqlite_path = "audit.sqlite"'
    )
    async with serving(config) as site:
        certificate = await site.enrol(vendor, "A1")
    records = await recorded(config)
    assert records[0].action == "start"
    (issued,) = [item for item in records if item.action == "issue" and item.actor == "gateway"]
    transaction_id = issued.detail["transaction_id"]
    own = await recorded(config, Query(transaction_id=transaction_id))
    told = [item for item in own if item.actor != "ca" and item.action != "ca.message"]
    assert [(item.action, item.detail.get("body_type")) for item in told] == [
        ("forward", "ir"),
        ("issue", None),
        ("message", "ir"),
        ("forward", "certConf"),
        ("confirm", None),
        ("message", "certConf"),
    ]
    ir = next(item for item in own if item.action == "message")
    assert ir.actor == ir.detail["signer"]
    assert "A1" in ir.actor
    assert ir.detail["domain"] == "acme"
    assert ir.detail["outcome"] == "issued"
    assert "authenticate=" in ir.detail["stages_ms"]
    serial = f"{certificate.serial_number:x}"
    assert issued.detail["serial_number"] == serial
    assert issued.subject == certificate.subject
    assert {item.number for item in await recorded(config, Query(serial_number=serial))} <= {
        item.number for item in own
    }
    assert ir in await recorded(config, Query(device=ir.actor))


async def test_a_reload_says_which_keys_changed_and_whom_is_trusted(
    tmp_path: Path, vendor: VendorPKI
) -> None:
    """Names, no values; and a reload that was refused."""
    config = with_audit(
        make_setup(tmp_path / "site", vendors={"acme": vendor}), 'sqlite_path = "audit.sqlite"'
    )
    async with serving(config) as site:
        other = other_vendor(config, "rivet")
        await site.application.reload()
        good = config.read_text()
        config.write_text(good.replace('"rivet/root.pem"', '"rivet/none.pem"'))
        with pytest.raises(Exception, match="none"):
            await site.application.reload()
        config.write_text(good)
    (reloaded,) = await recorded(config, Query(action="reload"))
    assert "vendors.rivet" in reloaded.detail["changed"]
    assert "rivet/root.pem" not in str(reloaded.detail)
    (trust,) = await recorded(config, Query(action="trust"))
    assert trust.subject == "rivet"
    assert other.root.certificate.subject.rfc4514_string() in trust.detail["added"]
    assert len(await recorded(config, Query(action="reload.refused"))) == 1


async def test_without_its_record_no_answer_leaves_and_nothing_is_issued(
    tmp_path: Path,
    vendor: VendorPKI,
    own_postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database of a required trail ends and comes back, with base stations under way."""
    monkeypatch.setattr(trail_module, "AGAIN_SECONDS", 0.1)
    url_path = tmp_path / "url"
    url_path.write_text(own_postgres_server.emptied_database())
    url_path.chmod(0o600)
    config = with_audit(
        make_setup(tmp_path / "site", vendors={"acme": vendor}),
        f'url_path = "{url_path}"', "required = true",
    )  # fmt: skip

    def issued() -> int:
        with sqlite3.connect(config.parent / "ca" / "ledger.sqlite") as ledger:
            (count,) = ledger.execute(
                "SELECT count(*) FROM certificates WHERE entity <> ''"
            ).fetchone()
        ledger.close()
        return int(count)

    async with serving(config) as site:
        await site.enrol(vendor, "A1")
        before = issued()
        await _down(site, own_postgres_server, vendor)
        assert issued() == before
        assert site.application.management.readiness()["audit"]
        own_postgres_server.start()
        trail = site.application._audit
        assert trail is not None
        await until(lambda: not trail.problem and not trail.waiting, "the trail is written again")
        await site.enrol(vendor, "A2")
        assert issued() == before + 1
        assert not site.application.management.readiness()["audit"]
    actions = [item.action for item in await recorded(config)]
    assert actions.count("confirm") >= 2


async def _down(site: Site, server: PostgresServer, vendor: VendorPKI) -> None:
    """End the database: the first base station is refused unanswered, the next ones before anything is computed."""
    enrollment = site.enrollment(cmp_credential(vendor.device("B1")), "B1")
    der = await enrollment.request()
    server.stop()
    async with client.open_session() as session:
        for _ in range(3):
            with pytest.raises(NotCMP, match="503"):
                await client.post(session, f"{site.url}/.well-known/cmp", der)


async def test_a_ca_by_itself_keeps_one_too(tmp_path: Path, vendor: VendorPKI) -> None:
    """Its own messages, beside the trail of its ledger."""
    config = with_audit(
        make_setup(tmp_path / "site", vendors={"acme": vendor}),
        'sqlite_path = "audit.sqlite"', "required = true",
    )  # fmt: skip
    async with serving_ca(config) as site, client.open_session() as session:
        for path in site.service.listener._served[1]._table:
            answer = await session.post(
                f"{site.url}{path}", data=b"0\0", headers={"Content-Type": "application/pkixcmp"}
            )
            assert answer.status == 400
            break
        assert site.service.management.readiness()["audit"] == ""
    start, message = await recorded(config)
    assert (start.actor, start.action) == ("ca", "start")
    assert (message.action, message.detail["outcome"]) == ("ca.message", "refused")


def test_what_is_no_trail_is_said(tmp_path: Path, vendor: VendorPKI) -> None:
    """Two databases, or none."""
    from ra_gateway.errors import ConfigError

    setup = make_setup(tmp_path / "site", vendors={"acme": vendor})
    plain = setup.read_text()
    for lines in ((), ('sqlite_path = "a.sqlite"', 'url_path = "url"')):
        setup.write_text(plain)
        with pytest.raises(ConfigError, match=r"audit\.sqlite_path: and url_path are"):
            load(with_audit(setup, *lines))


def test_no_secret_has_a_way_into_a_record() -> None:
    """Of a fact only listed fields are taken; a text is bounded and escaped."""
    from ra_gateway.audit.records import MOST_CHARACTERS, record_of
    from ra_gateway.events import PersonActed

    record = record_of(
        1, PersonActed("operator:ann\n", "test", "x" * 5000, (("a", "\x1b[2J"),)), "n"
    )
    assert record.actor == "operator:ann\\n"
    assert len(record.subject) <= MOST_CHARACTERS
    assert json.dumps(record.detail) == '{"node": "n", "a": "\\\\x1b[2J"}'
