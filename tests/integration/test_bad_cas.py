"""Whatever a CA answers: the device gets a signed error, the operator the reason, and no certificate is forgotten."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.clocks import now
from ra_gateway.cmp.bodies import PKIStatusInfo, RevRepContent, rev_rep_body
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.values import Send
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.ra.unconfirmed import UnconfirmedCertificates
from tests.support.answers import fail_names, status_of
from tests.support.credentials import cmp_certificate, cmp_credential
from tests.support.harness import Answer, ManualClock, ScriptedCA
from tests.support.http_ca import Script, Visit
from tests.support.http_ca import ScriptedCA as HTTPServer
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import OperatorPKI, VendorPKI, make_key, other_operator
from tests.support.rest_cas import server_tls
from tests.support.sites import Site, configuration, served

DEADLINE_SECONDS = 3.0
LIMIT_BYTES = 8192

Change = Callable[[Answer], None]
Behind = Callable[..., Any]


@pytest.fixture
def behind(vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path) -> Behind:
    """Opens a gateway in front of a server that does what a script says."""

    @asynccontextmanager
    async def open_site(
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        unconfirmed: str = "revoke",
        more: str = "",
        endpoint: str = "",
    ) -> AsyncIterator[Site]:
        server = HTTPServer(script)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
        port = listening.sockets[0].getsockname()[1]
        scheme = "http" if tls is None else "https"
        upstream = (
            f'[upstreams.main]\nkind = "cmp_http"\nurl = "{scheme}://127.0.0.1:{port}/cmp"\n'
            f'max_response_bytes = {LIMIT_BYTES}\nunconfirmed = "{unconfirmed}"\n{more}'
        )
        if "deadline_seconds" not in more:
            upstream += "\nconnect_timeout_seconds = 3.0\nlate_answer_seconds = 0.0\n"
            upstream += f"deadline_seconds = {DEADLINE_SECONDS}\n"
        path = configuration(tmp_path, vendor_pki, operator_pki, upstream, endpoint)
        try:
            async with served(
                path, vendor_pki, tmp_path / "root.pem", revoked=set, refuse=dict
            ) as site:
                yield site
        finally:
            listening.close()
            await server.stop()

    return open_site


async def refused(site: Site, name: str, *told: str) -> None:
    """Send an ir whose answer is a signed error, and whose event has the reason."""
    answer = await site.ask(await site.enrollment(site.identity(), BodyType.ir).request())
    event = site.event
    assert (answer.body_type, fail_names(answer)) == (BodyType.error, [name]), event.detail
    assert event.outcome == "failed"
    for text in told:
        assert text in event.detail
        assert text.encode() not in answer.der


# --- what comes over the wire ---------------------------------------------------------------------------------


async def garbage(visit: Visit) -> None:
    visit.answer(body=b"0\x03not DER at all")


async def page(visit: Visit) -> None:
    visit.answer(body=b"<html>welcome</html>", content_type="text/html")


async def busy(visit: Visit) -> None:
    visit.answer(503, b"<html>too many</html>", content_type="text/html")


async def broken(visit: Visit) -> None:
    visit.answer(500, b"", content_type=None)


async def unknown_alias(visit: Visit) -> None:
    visit.answer(404, b"no such alias", content_type="text/plain")


async def moved(visit: Visit) -> None:
    visit.answer(302, b"", content_type=None, headers="Location: http://127.0.0.1:1/\r\n")


async def endless(visit: Visit) -> None:
    visit.answer(length=10**12, body=b"0\x84\x40\x00\x00\x00")
    while True:
        visit.writer.write(bytes(4096))
        await visit.writer.drain()


async def drip(visit: Visit) -> None:
    visit.answer(length=1000, body=b"0\x82\x03\xe4")
    while True:
        await asyncio.sleep(0.05)
        visit.writer.write(b"\x00")


async def silence(visit: Visit) -> None:
    await asyncio.sleep(30)


async def hang_up(visit: Visit) -> None:
    visit.close()


async def not_http(visit: Visit) -> None:
    visit.writer.write(b"220 smtp.example.net ESMTP\r\n")
    visit.close()


@pytest.mark.requirement(84, 90, 91)
@pytest.mark.parametrize(
    "script, name, told",
    [
        (garbage, "systemFailure", "main"),
        (page, "systemFailure", "welcome"),
        (busy, "systemUnavail", "HTTP 503"),
        (broken, "systemFailure", "HTTP 500"),
        (unknown_alias, "systemFailure", "no such alias"),
        (moved, "systemFailure", "HTTP 302"),
        (endless, "systemFailure", f"more than {LIMIT_BYTES} bytes"),
        (drip, "systemUnavail", "no answer in time"),
        (silence, "systemUnavail", "no answer in time"),
        (hang_up, "systemUnavail", "ServerDisconnected"),
        (not_http, "systemFailure", "not HTTP"),
    ],
)
async def test_what_is_no_answer(behind: Behind, script: Script, name: str, told: str) -> None:
    """A failure in time: nothing waits for what never ends."""
    async with behind(script) as site:
        async with asyncio.timeout(100 * DEADLINE_SECONDS):
            await refused(site, name, told)


async def test_a_tls_server_of_somebody_else(behind: Behind, tmp_path: Path) -> None:
    """An https URL whose certificate chains to no root that is trusted: systemUnavail, and nothing is sent."""
    (tmp_path / "other").mkdir()
    tls = server_tls(other_operator(), tmp_path / "other")
    async with behind(garbage, tls=tls, more='tls_ca_path = "root.pem"') as site:
        await refused(site, "systemUnavail", "certificate verify failed")


# --- what comes as CMP ----------------------------------------------------------------------------------------


def over_http(ca: ScriptedCA) -> Script:
    """A script by which a CA in memory answers over HTTP."""

    async def script(visit: Visit) -> None:
        visit.answer(body=await ca.exchange(visit.body, path="", deadline_seconds=1.0))

    return script


def wrong_nonce(answer: Answer) -> None:
    answer.header = replace(answer.header, recip_nonce=bytes(16))


def wrong_transaction(answer: Answer) -> None:
    answer.header = replace(answer.header, transaction_id=bytes(16))


def unprotected(answer: Answer) -> None:
    answer.protected = False


def stranger(answer: Answer) -> None:
    answer.credential = cmp_credential(other_operator().cmp_signer)
    answer.extra_certs = answer.credential.certificates


def another_type(answer: Answer) -> None:
    answer.body_der = rev_rep_body(RevRepContent((PKIStatusInfo(PKIStatus.accepted),)))


@pytest.mark.requirement(83, 84, 85)
@pytest.mark.parametrize(
    "change, told",
    [
        (wrong_nonce, "recipNonce"),
        (wrong_transaction, "transactionID"),
        (unprotected, "not protected"),
        (stranger, "main"),
        (another_type, "expected ip"),
    ],
)
@pytest.mark.parametrize("dialect", ["rfc9483", "ejbca-ra", "insta"])
async def test_what_answers_nothing_that_was_asked(
    behind: Behind, operator_pki: OperatorPKI, change: Change, told: str, dialect: str
) -> None:
    """Nothing of it is believed, whatever the dialect bears: it may name any certificate, so none is revoked."""
    ca = ScriptedCA(operator_pki, ManualClock(now()), script=change)
    async with behind(over_http(ca), more=f'dialect = "{dialect}"') as site:
        await refused(site, "systemFailure", told)
        await UnconfirmedCertificates(site.application.services).work()
    assert [message.body_type for message in ca.messages] == [BodyType.ir]


@pytest.mark.requirement(95, 111)
@pytest.mark.parametrize("polls", [False, True])
@pytest.mark.parametrize("fetched", [True, False])
async def test_a_ca_that_stood_still(
    behind: Behind, operator_pki: OperatorPKI, polls: bool, fetched: bool
) -> None:
    """It issues when its device was told to try again, and must not be asked again: fetched, or revoked in time."""
    ca, awake = ScriptedCA(operator_pki, ManualClock(now())), asyncio.Event()

    async def late(visit: Visit) -> None:
        await awake.wait()
        await over_http(ca)(visit)

    more = "deadline_seconds = 0.5\nconnect_timeout_seconds = 0.5\nlate_answer_seconds = 300.0\n"
    endpoint = f"check_after_seconds = 1\nwait_after_seconds = {0.2 if polls else 0.0}\n"
    endpoint += f"confirm_wait_seconds = {300 if fetched else 1}\n"
    async with behind(late, more=more, endpoint=endpoint) as site:
        enrollment = site.enrollment(site.identity(), BodyType.ir)
        der = await enrollment.request()
        answer = await site.ask(der)
        if polls:
            step = await enrollment.receive(answer.der)
            assert isinstance(step, Send)
            der = step.der
        else:
            assert fail_names(answer) == ["systemUnavail"]
            assert "no answer in time" in site.event.detail
        awake.set()
        services = site.application.services
        async with asyncio.timeout(PATIENCE_SECONDS):
            while services._tasks:
                await asyncio.wait(services._tasks)
        if fetched:
            assert status_of(await site.ask(der)).issued
        else:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(ca.messages) == 1:
                    await UnconfirmedCertificates(services).work()
                    await asyncio.sleep(0.05)
    types = [message.body_type for message in ca.messages]
    assert types == ([BodyType.ir] if fetched else [BodyType.ir, BodyType.rr])


@pytest.fixture
def wrong_certificates(operator_pki: OperatorPKI) -> dict[str, Change]:
    """CAs that certify something else than was asked for."""
    subject = "CN=enb-1.ran.example.net"

    def issue(name: str, key: Any) -> bytes:
        made = operator_pki.issuing.sign(
            x509.Name.from_rfc4514_string(name), key, key_usage=["digitalSignature"]
        )
        return cmp_certificate(made).der

    def other_key(answer: Answer) -> None:
        answer.set_response(certificate_der=issue(subject, make_key("p256").public_key()))

    def other_subject(answer: Answer) -> None:
        (response,) = answer.content.responses
        key = x509.load_der_x509_certificate(response.certificate_der or b"").public_key()
        answer.set_response(certificate_der=issue("CN=somebody else", key))

    return {"key": other_key, "subject": other_subject}


@pytest.mark.requirement(86, 88, 111)
@pytest.mark.parametrize(
    "what, told", [("key", "certified another key"), ("subject", "CN=somebody else")]
)
@pytest.mark.parametrize("unconfirmed", ["revoke", "report", "leave"])
async def test_what_was_certified_instead_is_seen_to(
    behind: Behind,
    operator_pki: OperatorPKI,
    wrong_certificates: dict[str, Change],
    what: str,
    told: str,
    unconfirmed: str,
) -> None:
    """The CA says under its signature that it has issued this: it is revoked, reported or left, as configured."""
    issued: list[bytes] = []

    def change(answer: Answer) -> None:
        if answer.request.body_type is BodyType.ir:
            wrong_certificates[what](answer)
            issued.append(answer.content.responses[0].certificate_der or b"")

    ca = ScriptedCA(operator_pki, ManualClock(now()), script=change)
    async with behind(over_http(ca), unconfirmed=unconfirmed) as site:
        await refused(site, "systemFailure", told)
        await UnconfirmedCertificates(site.application.services).work()
        outcomes = [event.outcome for event in site.events]
    types = [message.body_type for message in ca.messages]
    expected = {"revoke": ["failed", "revoked"], "report": ["failed", "unconfirmed"]}
    assert outcomes == expected.get(unconfirmed, ["failed"])
    assert types == ([BodyType.ir, BodyType.rr] if unconfirmed == "revoke" else [BodyType.ir])
    if unconfirmed == "revoke":
        (serial,) = {event.serial_number for event in site.events if event.outcome == "revoked"}
        assert (
            int(serial, 16)
            == cmp_certificate(x509.load_der_x509_certificate(issued[0])).serial_number
        )


@pytest.mark.requirement(89)
@pytest.mark.parametrize(
    "bit", [PKIFailureInfo.badCertTemplate, PKIFailureInfo.notAuthorized, PKIFailureInfo.badPOP]
)
async def test_the_ca_s_own_refusal_reaches_the_device(
    behind: Behind, operator_pki: OperatorPKI, bit: PKIFailureInfo
) -> None:
    """A rejection that the CA signed keeps its failInfo."""
    ca = ScriptedCA(
        operator_pki, ManualClock(now()), script=lambda answer: answer.reject(bit, text="quota")
    )
    async with behind(over_http(ca)) as site:
        der = await site.enrollment(site.identity(), BodyType.ir).request()
        answer = await site.ask(der)
        assert (answer.body_type, fail_names(answer)) == (BodyType.ip, [bit.name])
        assert "quota" in site.event.detail
        assert PKIMessage.from_der(der).header.transaction_id == answer.header.transaction_id
