"""What gateway and CA tell of what they did: the lines of the log, and the facts behind them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from structlog.testing import capture_logs

from ra_gateway import events
from ra_gateway.app import credential
from ra_gateway.app.application import Application
from ra_gateway.app.ca_service import CAService
from ra_gateway.ca.crl import CRLPublisher, CRLSettings
from ra_gateway.ca.ledger import database
from ra_gateway.ca.ledger.database import SQLiteDatabase
from ra_gateway.ca.ledger.ledger import Ledger, open_ledger
from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import (
    PKIStatusInfo,
    cert_rep_message,
    gen_msg_body,
    nested_body,
    nested_messages,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage
from ra_gateway.cmp.oids import OID
from ra_gateway.config.reading import load, load_ca
from ra_gateway.errors import PKIFailureInfo, StoreUnavailable, UpstreamUnavailable
from ra_gateway.events import (
    CertificateConfirmed,
    CertificateIssued,
    CertificatesWithdrawn,
    Component,
    CredentialChanged,
    CRLPublished,
    Fact,
    Outcome,
    RequestHandled,
    StoreFound,
    StoreLost,
    TransactionChanged,
    UpstreamFailed,
)
from ra_gateway.logs import fan_out
from ra_gateway.ra.settings import CertConf, Unconfirmed
from ra_gateway.ra.transaction import State
from ra_gateway.stores.redis import RedisStore
from tests.support.desk import CONFIRM_WAIT_SECONDS, Desk, open_desk
from tests.support.harness import MakeWorld, World
from tests.support.pki import CMC_RA, Authority, OperatorPKI, VendorPKI
from tests.support.polling import EVERY_TYPE, Operation, settled, slow_world
from tests.support.redis_server import SEAL_KEY, RedisServer
from tests.support.setups import make_setup
from tests.support.stations import Station
from tests.support.status import status_ca
from tests.support.transactions import system_clock
from tests.support.unconfirmed import WAIT_SECONDS, node_of, work

GATEWAY, CA = Component.gateway, Component.ca

# --- the lines of the CA --------------------------------------------------------------------------------------


def line(name: str, level: str, der: bytes, **fields: Any) -> dict[str, Any]:
    """The line of a message that the CA has answered."""
    message = PKIMessage.from_der(der)
    transaction_id = (message.header.transaction_id or b"").hex()
    told = {"transaction_id": transaction_id, "body_type": message.body_type.name}
    return {"event": name, "log_level": level, **told, **fields}


def of_ra(desk: Desk) -> dict[str, str]:
    """What lines tell of the RA that asked."""
    return {"ra": "ra1", "signer_fingerprint": desk.ra.certificate.fingerprint.hex()}


def serial_of(answer_der: bytes) -> str:
    (response,) = cert_rep_message(PKIMessage.from_der(answer_der).body_content).responses
    return f"{Certificate.from_der(response.certificate_der or b'').serial_number:x}"


async def genm(desk: Desk) -> bytes:
    asked = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
    return await desk.signed(desk.header(), asked)


async def test_the_lines_for_an_ra(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """Request, repeat, confirmation, revocation, question and refusal: one each."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        with capture_logs() as lines:
            enrolment = await desk.enrol()
            await desk.send(enrolment.request)
            conf = await desk.confirmation(enrolment)
            await desk.send(conf)
            rr = await desk.revocation(enrolment.certificate)
            await desk.send(rr)
            question = await genm(desk)
            await desk.send(question)
            refused = await desk.request(popo=b"")
            await desk.ca.handle(refused, operation="initialization", peer="192.0.2.7")
        serial = f"{enrolment.certificate.serial_number:x}"
        ra = of_ra(desk)
        detail = lines[-1].pop("detail")
    where = {"peer": "192.0.2.7", "operation": "initialization"}
    assert detail
    why = {"fail_info": "badPOP", "rule": "R53"}
    assert lines == [
        *(
            line("ca.answered", "info", der, **ra, outcome=outcome, serial_number=serial)
            for der, outcome in (
                (enrolment.request, "issued"),
                (enrolment.request, "replayed"),
                (conf, "confirmed"),
            )
        ),
        line("ca.answered", "info", rr, **ra, outcome="revoked"),  # no certificate came of it
        line("ca.answered", "info", question, **ra, outcome="informed"),
        line("ca.refused", "warning", refused, **ra, **where, **why, outcome="refused"),
    ]


async def test_the_lines_of_client_mode(desk: Desk) -> None:
    """Whose certificate it is; there is no RA."""
    with capture_logs() as lines:
        enrolment = await desk.enrol()
        conf = await desk.confirmation(enrolment)
        await desk.send(conf)
    serial = f"{enrolment.certificate.serial_number:x}"
    assert lines == [
        line(
            "ca.answered",
            "info",
            enrolment.request,
            entity="enb1",
            outcome="issued",
            serial_number=serial,
        ),
        line("ca.answered", "info", conf, outcome="confirmed", serial_number=serial),
    ]


async def test_the_lines_of_a_batch(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """One for each member, which names the batch, and one for the batch; also for members that are no message."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        request = await desk.request()
        other = PKIMessage.from_der(await desk.request())
        empty = asn1.tlv(0x30, other.header_der, other.body_der, asn1.tlv(0xA1, b"\x30\x00"))
        batch = await desk.signed(desk.header(), nested_body(request, b"\x30\x00", empty))
        with capture_logs() as lines:
            reply = await desk.ca.handle(batch, operation="nested", peer="192.0.2.7")
        (answer, *_) = nested_messages(PKIMessage.from_der(reply.der).body_content)
        ra = of_ra(desk)
    where = {"peer": "192.0.2.7", "operation": "nested"}
    outer = (PKIMessage.from_der(batch).header.transaction_id or b"").hex()
    refusal = {"event": "ca.refused", "log_level": "warning", **where, "batch": outer}
    refusal |= {"fail_info": "badDataFormat", "rule": "R1", "outcome": "refused"}
    details = [item.pop("detail") for item in lines if "detail" in item]
    by_order = sorted(lines, key=lambda item: ("serial_number" not in item, "messages" in item))
    assert lines[-1] == by_order[-1]
    assert by_order == [
        line(
            "ca.answered",
            "info",
            request,
            **where,
            **ra,
            batch=outer,
            outcome="issued",
            serial_number=serial_of(answer),
        ),
        refusal,
        refusal | {"transaction_id": (other.header.transaction_id or b"").hex()},
        line("ca.answered", "info", batch, **where, outcome="batched", messages=3),
    ]
    assert ["extraCerts" in detail for detail in details] == [False, True]


async def test_the_line_of_octets_that_are_no_message(desk: Desk) -> None:
    """Where they came from."""
    with capture_logs() as lines:
        await desk.ca.handle(b"\x30\x00", operation="x", peer="192.0.2.7")
        await desk.ca.exchange(b"\x30\x00", deadline_seconds=5.0)
    assert all(item.pop("detail") for item in lines)
    refusal = {"event": "ca.refused", "log_level": "warning", "rule": "R1"}
    refusal |= {"fail_info": "badDataFormat", "outcome": "refused"}
    assert lines == [
        {**refusal, "peer": "192.0.2.7", "operation": "x"},
        refusal,
    ]


class Broken(Ledger):
    """A ledger whose code is wrong."""

    async def store(self, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError


async def test_the_line_of_a_bug(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """With its cause."""
    ledger = Broken(SQLiteDatabase(tmp_path / "ledger.db"))
    async with open_desk(operator_pki, tmp_path / "ledger.db", ledger=ledger) as desk:
        der = await desk.request()
        with capture_logs() as lines:
            await desk.ca.handle(der)
    (told,) = lines
    assert told.pop("exc_info")
    assert told == line("ca.failed", "error", der, outcome="failed")


async def test_the_line_of_certificates_that_nobody_confirmed(
    operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """How many they are, once."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        for _ in range(2):
            await desk.enrol()
        path, clock, ledger = tmp_path / "ledger.db", desk.clock, desk.ledger
        clock.advance(seconds=CONFIRM_WAIT_SECONDS + 1)
        with capture_logs() as lines:
            await desk.ca.close()
            async with open_desk(operator_pki, path, clock=clock, ledger=ledger) as again:
                while not lines:
                    await again.ledger.ping()
    assert lines == [{"event": "ca.unconfirmed", "log_level": "warning", "revoked": 2}]


# --- the facts of the gateway ---------------------------------------------------------------------------------


def listened_to(world: World) -> list[Fact]:
    """The facts of a world's gateway, from now on."""
    facts: list[Fact] = []

    def listen(event: Fact) -> None:
        if not isinstance(event, TransactionChanged):  # of which there is a test of its own
            facts.append(event)

    node_of(world).sink = listen
    return facts


def taken(facts: list[Fact]) -> list[Fact | Outcome]:
    """Return what was told since the last look; of requests only how they were answered."""
    found, facts[:] = list(facts), []
    return [item.outcome if isinstance(item, RequestHandled) else item for item in found]


def named(world: World, operation: Operation) -> tuple[str, bytes]:
    """The transactionID, and the certificate that the CA has issued last."""
    sent = PKIMessage.from_der(operation.sent).header
    return (sent.transaction_id or b"").hex(), world.ca.issued[-1].der


async def test_an_enrolment_at_the_gateway(world: World) -> None:
    """Issued, replayed, confirmed: each once, after the store has it, and before the request is told."""
    facts = listened_to(world)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    told = GATEWAY, *named(world, operation), "scripted"
    assert taken(facts) == [CertificateIssued(*told), Outcome.issued]
    await operation.send()
    assert taken(facts) == [Outcome.replayed]
    await operation.confirm()
    assert taken(facts) == [CertificateConfirmed(*told), Outcome.confirmed]
    await operation.send()
    assert taken(facts) == [Outcome.replayed]


async def test_the_states_of_a_transaction(world: World) -> None:
    """Told when the store has them; nothing where none changes."""
    facts: list[Fact] = []
    node_of(world).sink = facts.append
    operation = await Operation.begin(world, BodyType.ir)
    for step in (operation.send, operation.send, operation.confirm, operation.send):
        await step()
    transaction_id, _ = named(world, operation)
    assert [item for item in facts if isinstance(item, TransactionChanged)] == [
        TransactionChanged(transaction_id, "scripted", state)
        for state in (State.REQUESTED, State.ISSUED, State.CONFIRMING, State.CONFIRMED)
    ]


async def test_a_certificate_that_comes_while_its_device_waits(make_world: MakeWorld) -> None:
    """Told when the CA has answered, and not again when it is fetched."""
    world = slow_world(make_world)
    facts = listened_to(world)
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    assert taken(facts) == [Outcome.waiting]
    assert world.ca.gate is not None
    world.ca.gate.set()

    async def is_told() -> bool:
        return len(facts) == 2

    await settled(is_told)
    told = GATEWAY, *named(world, operation), "scripted"
    assert taken(facts) == [CertificateIssued(*told), Outcome.ready]
    await operation.poll()
    assert taken(facts) == [Outcome.issued]


@pytest.mark.parametrize("rejects", [True, False])
async def test_a_withdrawal_at_the_gateway(make_world: MakeWorld, rejects: bool) -> None:
    """Once, when the CA has revoked it; it is told whether the device has refused it."""
    upstream = {"certconf": CertConf.local, "unconfirmed": Unconfirmed.revoke}
    world = make_world(upstream=upstream, endpoint={"body_types": EVERY_TYPE})
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    transaction_id, der = named(world, operation)
    facts = listened_to(world)
    if rejects:
        await operation.confirm(takes=False)
        assert taken(facts) == [Outcome.rejected]
    await work(world, seconds=0 if rejects else WAIT_SECONDS + 1)
    withdrawn = CertificatesWithdrawn(GATEWAY, (der,), rejects, transaction_id, "scripted")
    assert taken(facts) == [Outcome.revoked, withdrawn]
    await work(world, seconds=WAIT_SECONDS)
    assert taken(facts) == []


async def test_an_upstream_that_fails(world: World) -> None:
    """Told once for each message that got no answer; nothing is issued."""
    facts = listened_to(world)
    world.ca.failure, world.ca.failures = UpstreamUnavailable("away", delivered=False), 1
    operation = await Operation.begin(world, BodyType.ir)
    await operation.send()
    (failed, outcome) = taken(facts)
    assert isinstance(failed, UpstreamFailed)
    assert (failed.upstream, failed.detail) == ("scripted", "away")
    assert failed.fail_info is PKIFailureInfo.systemUnavail
    assert outcome is Outcome.failed
    await operation.send()
    assert [type(item) for item in taken(facts)] == [CertificateIssued, Outcome]


async def test_a_sink_that_fails(world: World) -> None:
    """Neither the request nor another sink minds, and the log has its cause."""
    facts: list[Fact] = []

    def broken(event: Fact) -> None:
        raise ZeroDivisionError

    node_of(world).sink = fan_out(broken, facts.append)
    operation = await Operation.begin(world, BodyType.ir)
    with capture_logs() as lines:
        answer = await operation.send()
    assert answer.body_type is BodyType.ip
    assert len(facts) == 4
    assert [(item["event"], item["fact"]) for item in lines] == [
        ("event.sink_failed", "TransactionChanged"),
        ("event.sink_failed", "TransactionChanged"),
        ("event.sink_failed", "CertificateIssued"),
        ("event.sink_failed", "RequestHandled"),
    ]


# --- the facts of the CA --------------------------------------------------------------------------------------


async def test_an_enrolment_at_the_ca(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """Issued, confirmed, rejected, and nobody confirmed: each once, by the ledger that has stored it."""
    facts: list[Fact] = []
    ledger = open_ledger(tmp_path / "ledger.db", facts.append)
    async with open_desk(operator_pki, tmp_path / "ledger.db", ledger=ledger) as desk:
        enrolments = [await desk.enrol() for _ in range(3)]
        await desk.send(enrolments[0].request)
        told = [
            ((item.answer.header.transaction_id or b"").hex(), item.certificate.der)
            for item in enrolments
        ]
        assert taken(facts) == [CertificateIssued(CA, *item) for item in told]
        conf = await desk.confirmation(enrolments[0])
        await asyncio.gather(desk.send(conf), desk.send(conf))
        refusal = PKIStatusInfo(PKIStatus.rejection, ("no",))
        await desk.confirm(enrolments[1], status_info=refusal)
        (refused_id, refused_der), (_, silent_der) = told[1:]
        assert taken(facts) == [
            CertificateConfirmed(CA, *told[0]),
            CertificatesWithdrawn(CA, (refused_der,), True, refused_id),
        ]
        desk.clock.advance(seconds=CONFIRM_WAIT_SECONDS + 1)
        for _ in range(2):
            await ledger.sweep(desk.clock())
        assert taken(facts) == [CertificatesWithdrawn(CA, (silent_der,))]


async def test_a_crl(tmp_path: Path) -> None:
    """Once for each that is made."""
    facts: list[Fact] = []
    async with status_ca(tmp_path, system_clock()) as ca:
        ca.ledger._sink = facts.append
        publisher = CRLPublisher([ca.issuing], ca.ledger, ca.clock, CRLSettings())
        await publisher.refresh()
        await publisher.refresh()
        crl = await publisher.current(ca.issuing.id)
    assert crl is not None
    assert facts == [CRLPublished(crl.issuer_id, crl.number, None, crl.next_update, len(crl.der))]


# --- stores that are lost and found ---------------------------------------------------------------------------


def assert_lost_and_found(facts: Iterable[Fact], by: Component) -> None:
    lost, found = facts
    assert isinstance(lost, StoreLost)
    assert isinstance(found, StoreFound)
    assert (lost.by, found.by) == (by, by)
    assert lost.detail


async def test_a_redis_that_is_away(
    own_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost once, found once."""
    monkeypatch.setattr(events, "FOUND_AFTER_SECONDS", 0.0)
    facts: list[Fact] = []
    store = RedisStore(
        own_redis_server.url, clock=system_clock, seal_keys=[SEAL_KEY], sink=facts.append
    )
    try:
        await store.ping()
        own_redis_server.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.ping()
        own_redis_server.start()
        for _ in range(2):
            await store.ping()
    finally:
        await store.close()
    assert_lost_and_found(facts, GATEWAY)


async def test_a_ledger_that_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read all the while; it is found when it is written again."""
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(events, "FOUND_AFTER_SECONDS", 0.2)
    facts: list[Fact] = []
    ledger = open_ledger(tmp_path / "ledger.db", facts.append)
    await ledger.open()
    try:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await ledger.ping()
                await ledger.counts()
        await asyncio.sleep(0.25)
        for _ in range(2):
            await ledger.ping()
    finally:
        await ledger.close()
    with pytest.raises(StoreUnavailable):
        await ledger.ping()  # it is closed, not lost
    assert_lost_and_found(facts, CA)


# --- gateway and CA in one process ----------------------------------------------------------------------------


async def test_one_sink_for_gateway_and_ca(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An enrolment is told by both, and a new credential of the RA by the gateway."""
    monkeypatch.setattr(credential, "WATCH_SECONDS", 0.01)
    facts: list[Fact] = []
    application = Application(
        load(make_setup(tmp_path, vendors={"acme": vendor_pki})), sink=facts.append
    )
    await application.start()
    try:
        station = Station("enb-1", vendor_pki, tmp_path / "operator" / "root.pem")
        (endpoint,) = application.services.endpoints

        async def ask(der: bytes) -> bytes:
            return (await application.gateway.handle(der, endpoint=endpoint)).der

        conf = await station.confirmation(await ask(await station.enrollment.request()))
        done = await station.finish(await ask(conf))
        assert [
            (type(item), item.by, getattr(item, "outcome", done.certificate.der))
            for item in facts
            if isinstance(item, RequestHandled | CertificateIssued | CertificateConfirmed)
        ] == [
            told
            for fact, outcome in (
                (CertificateIssued, Outcome.issued),
                (CertificateConfirmed, Outcome.confirmed),
            )
            for by in (CA, GATEWAY)
            for told in ((fact, by, done.certificate.der), (RequestHandled, by, outcome))
        ]
        facts.clear()
        key = load_pem_private_key((tmp_path / "ca" / "issuing.key").read_bytes(), None)
        issuing = x509.load_pem_x509_certificate((tmp_path / "ca" / "issuing.pem").read_bytes())
        renewed = Authority(issuing, key).issue("CN=RA 2", "p256", eku=[CMC_RA])  # type: ignore[arg-type]
        renewed.write(tmp_path / "ra", "ra")

        async def is_told() -> bool:
            return bool(facts)

        await settled(is_told)
        (changed,) = facts
        assert isinstance(changed, CredentialChanged)
        assert changed.serial_number == f"{renewed.certificate.serial_number:x}"
    finally:
        await application.stop()


@pytest.mark.parametrize("by", [GATEWAY, CA])
async def test_a_service_tells_what_its_http_refuses(
    tmp_path: Path, vendor_pki: VendorPKI, by: Component
) -> None:
    """A device that posts to a wrong path is found in the log of whom it reached."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    with capture_logs() as lines:
        service = Application(load(path)) if by is GATEWAY else CAService(load_ca(path))
        host, port = await service.start()
        try:
            async with aiohttp.ClientSession() as session:
                url = f"http://{host}:{port}/cmp"
                async with session.post(url, data=b"x") as response:
                    assert response.status == 404
        finally:
            await service.stop()
    (told,) = (item for item in lines if item["event"] == "http.refused")
    assert told.pop("reason")
    assert told == {
        "event": "http.refused",
        "log_level": "warning",
        "by": by,
        "listener": "cmp",
        "peer": "127.0.0.1",
        "method": "POST",
        "path": "/cmp",
        "status": 404,
        "refused": 1,
    }
