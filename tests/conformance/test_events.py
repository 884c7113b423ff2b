"""What gateway and CA tell of what they did: the lines of the log, and the facts behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from ra_gateway.ca.ledger.database import SQLiteDatabase
from ra_gateway.ca.ledger.ledger import Ledger
from ra_gateway.cmp.bodies import cert_rep_message, gen_msg_body, nested_body, nested_messages
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import OID, BodyType
from ra_gateway.cmp.messages import InfoTypeAndValue, PKIMessage
from tests.support.desk import CONFIRM_WAIT_SECONDS, Desk, open_desk
from tests.support.pki import OperatorPKI

# --- the lines of the CA --------------------------------------------------------------------------------------


def line(name: str, level: str, der: bytes, **fields: Any) -> dict[str, Any]:
    """The line of a message that the CA has answered."""
    message = PKIMessage.from_der(der)
    transaction_id = (message.header.transaction_id or b"").hex()
    told = {"transaction_id": transaction_id, "body_type": message.body_type.name}
    return {"event": name, "log_level": level, **told, **fields}


def of_ra(desk: Desk) -> dict[str, str]:
    """What lines tell of the RA that asked."""
    return {"ra": "ra1", "signer": desk.ra.certificate.fingerprint.hex()}


def serial_of(answer_der: bytes) -> str:
    (response,) = cert_rep_message(PKIMessage.from_der(answer_der).body_content).responses
    return f"{Certificate.from_der(response.certificate_der or b'').serial_number:x}"


async def genm(desk: Desk) -> bytes:
    asked = gen_msg_body(BodyType.genm, [InfoTypeAndValue(OID.caCerts)])
    return await desk.signed(desk.header(), asked)


async def test_the_lines_for_an_ra(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """Request, repeat, confirmation, revocation, and a refusal; no line for a genm."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        with capture_logs() as lines:
            enrolment = await desk.enrol()
            await desk.send(enrolment.request)
            conf = await desk.confirmation(enrolment)
            await desk.send(conf)
            rr = await desk.revocation(enrolment.certificate)
            await desk.send(rr)
            await desk.send(await genm(desk))
            refused = await desk.request(popo=b"")
            await desk.ca.handle(refused, operation="initialization", peer="192.0.2.7")
        serial = f"{enrolment.certificate.serial_number:x}"
        ra = of_ra(desk)
        detail = lines[-1].pop("detail")
    where = {"peer": "192.0.2.7", "operation": "initialization"}
    assert detail
    assert lines == [
        *(
            line("ca.answered", "info", der, **ra, serial=serial)
            for der in (enrolment.request, enrolment.request, conf)
        ),
        line("ca.answered", "info", rr, **ra, serial="0"),  # no certificate came of it
        line("ca.refused", "warning", refused, **ra, **where, fail_info="badPOP", rule="R53"),
    ]


async def test_the_lines_of_client_mode(desk: Desk) -> None:
    """Whose certificate it is; there is no RA."""
    with capture_logs() as lines:
        enrolment = await desk.enrol()
        conf = await desk.confirmation(enrolment)
        await desk.send(conf)
    serial = f"{enrolment.certificate.serial_number:x}"
    assert lines == [
        line("ca.answered", "info", enrolment.request, entity="enb1", serial=serial),
        line("ca.answered", "info", conf, serial=serial),
    ]


async def test_the_lines_of_a_batch(operator_pki: OperatorPKI, tmp_path: Path) -> None:
    """One for each member, which names the batch, and one for the batch; what is no message is told under its own."""
    async with open_desk(operator_pki, tmp_path / "ledger.db") as desk:
        request = await desk.request()
        batch = await desk.signed(desk.header(), nested_body(request, b"\x30\x00"))
        with capture_logs() as lines:
            reply = await desk.ca.handle(batch, operation="nested", peer="192.0.2.7")
        (answer, _) = nested_messages(PKIMessage.from_der(reply.der).body_content)
        ra = of_ra(desk)
    where = {"peer": "192.0.2.7", "operation": "nested"}
    outer = (PKIMessage.from_der(batch).header.transaction_id or b"").hex()
    refusal = {"fail_info": "badDataFormat", "rule": ""}
    refusal["detail"] = "a member of a batch is no PKIMessage"
    by_order = sorted(lines, key=lambda item: ("serial" not in item, "messages" in item))
    assert lines[-1] == by_order[-1]
    assert by_order == [
        line("ca.answered", "info", request, **where, **ra, batch=outer, serial=serial_of(answer)),
        line("ca.refused", "warning", batch, **where, **refusal),
        line("ca.answered", "info", batch, **where, messages=2),
    ]


async def test_the_line_of_octets_that_are_no_message(desk: Desk) -> None:
    """Where they came from."""
    with capture_logs() as lines:
        await desk.ca.handle(b"\x30\x00", operation="x", peer="192.0.2.7")
        await desk.ca.exchange(b"\x30\x00", deadline_seconds=5.0)
    assert all(item.pop("detail") for item in lines)
    refusal = {"event": "ca.refused", "log_level": "warning", "rule": "R1"}
    refusal["fail_info"] = "badDataFormat"
    assert lines == [
        {**refusal, "peer": "192.0.2.7", "operation": "x"},
        {**refusal, "peer": "", "operation": ""},
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
    assert told == line("ca.failed", "error", der)


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
