"""The doctor at CAs that are not EJBCA: what it asks, and what it makes of what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ra_gateway.app.doctor.examination import examine
from ra_gateway.app.doctor.results import Result, Verdict
from ra_gateway.cmp.bodies import PKIStatusInfo, error_body
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.cmp.header_checks import NONCE_OCTETS
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.protection import protect
from ra_gateway.cmp.responder import refusal_body, reply_header
from ra_gateway.config.reading import parse
from ra_gateway.errors import PKIFailureInfo as Bit
from ra_gateway.errors import POPRefused
from tests.support.credentials import cmp_credential
from tests.support.http_ca import ScriptedCA, Visit
from tests.support.mac import maced
from tests.support.pki import OperatorPKI, VendorPKI

SECRET = "a secret between gateway and CA"

Answers = Callable[[PKIMessage], Awaitable[bytes | None]]


@asynccontextmanager
async def serving(answers: Answers) -> AsyncIterator[tuple[str, list[BodyType]]]:
    """An HTTP server that answers each message; None breaks the connection off."""
    asked: list[BodyType] = []

    async def script(visit: Visit) -> None:
        message = PKIMessage.from_der(visit.body)
        asked.append(message.body_type)
        answer = await answers(message)
        if answer is None:
            visit.writer.transport.abort()
        else:
            visit.answer(200, answer)

    ca = ScriptedCA(script)
    server = await asyncio.start_server(ca.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/cmp", asked
    finally:
        server.close()
        await ca.stop()


@pytest.fixture
def site(tmp_path: Path, operator_pki: OperatorPKI, vendor_pki: VendorPKI) -> Path:
    operator_pki.write(tmp_path)
    vendor_pki.write(tmp_path / "acme")
    (tmp_path / "ca.secret").write_text(SECRET)
    (tmp_path / "ca.secret").chmod(0o600)
    return tmp_path


async def found(site: Path, url: str, *, endpoint: str = "", upstream: str = "") -> list[Result]:
    """What the doctor says of the upstream."""
    text = f"""
[store]
[ra]
certificate_path = "ra.pem"
key_path = "ra.key"
chain_paths = ["issuing.pem"]
[operator]
anchors_paths = ["root.pem"]
intermediates_paths = ["issuing.pem"]
[vendors.acme]
anchors_paths = ["acme/root.pem"]
body_types = ["ir", "cr", "p10cr"]
[vendors.acme.identity]
allowed_subjects = ["*"]
[endpoints.ran]
paths = ["/pkix"]
vendors = ["acme"]
upstream = "other"
{endpoint}
[upstreams.other]
kind = "cmp_http"
url = "{url}"
{upstream}
"""
    results = await examine(parse(text, directory=site, check_files=False))
    return [item for item in results if item.subject == "upstream other"]


def refusing(
    operator: OperatorPKI, *bits: Bit, text: str = "no", only: frozenset[BodyType] | None = None
) -> Answers:
    """A CA that refuses with bits and a text; what is not in `only` it refuses as a healthy one does."""

    async def answers(message: PKIMessage) -> bytes:
        signer = cmp_credential(operator.cmp_signer)
        header = reply_header(
            message.header, sender_nonce=bytes(NONCE_OCTETS), now=datetime.now(UTC)
        )
        body_der = error_body(PKIStatusInfo(PKIStatus.rejection, (text,), bits))
        if only is not None and message.body_type not in only:
            healthy = POPRefused("x")
            if message.body_type is BodyType.rr:
                healthy.fail_info = Bit.badCertId
            body_der = refusal_body(healthy, message)
        return await protect(header, body_der, signer, signer.certificates)

    return answers


def of(results: list[Result], request: str) -> Result:
    (row,) = (item for item in results if item.tried.startswith(f"{request} "))
    return row


ALL_WELL: frozenset[BodyType] = frozenset()


@pytest.mark.parametrize(
    "types, asked",
    [
        ('["cr", "kur"]', BodyType.cr),
        ('["p10cr"]', BodyType.p10cr),
        ('["p10cr", "cr"]', BodyType.cr),
        ('["ir", "cr", "kur"]', BodyType.ir),
    ],
)
async def test_what_base_stations_may_send_is_tried(
    site: Path, operator_pki: OperatorPKI, types: str, asked: BodyType
) -> None:
    """An ir where they send cr only would be refused, and say nothing."""
    async with serving(refusing(operator_pki, only=ALL_WELL)) as (url, sent):
        results = await found(site, url, endpoint=f"body_types = {types}")
    assert sent[0] is asked
    assert of(results, asked.name).verdict is Verdict.ok
    assert (BodyType.ir in sent) is (asked is BodyType.ir)


async def test_an_ir_that_goes_up_as_cr_is_tried_as_cr(
    site: Path, operator_pki: OperatorPKI
) -> None:
    """As the gateway's own messages are."""
    async with serving(refusing(operator_pki, only=ALL_WELL)) as (url, sent):
        await found(site, url, upstream="ir_as_cr = true")
    assert sent[0] is BodyType.cr


async def test_a_connection_that_breaks_is_told_as_that(
    site: Path, operator_pki: OperatorPKI
) -> None:
    """It says nothing of questions that are not answered."""

    async def answers(message: PKIMessage) -> bytes | None:
        if message.body_type is BodyType.genm:
            return None
        return await refusing(operator_pki, only=ALL_WELL)(message)

    async with serving(answers) as (url, _):
        results = await found(site, url, endpoint='body_types = ["ir", "genm"]')
    row = of(results, "genm")
    assert (row.verdict, "answers no such" in row.cause) == (Verdict.fault, False)
    assert "connection" in row.cause


@pytest.mark.parametrize(
    "text",
    [
        "certificate is revoked",
        "user not found",
        "no such profile",
        "the certificate chain is too long",
        "wrong number of names",
        "does not exist",
        "approval",
        "",
    ],
)
@pytest.mark.parametrize(
    "bit", [Bit.badRequest, Bit.badMessageCheck, Bit.incorrectData, Bit.wrongIntegrity]
)
async def test_ejbca_s_causes_are_for_ejbca(
    site: Path, operator_pki: OperatorPKI, text: str, bit: Bit
) -> None:
    """Other CAs use the same words; every row has a cause and something to change all the same."""
    async with serving(refusing(operator_pki, bit, text=text)) as (url, _):
        results = await found(site, url, endpoint='body_types = ["ir", "kur", "rr", "genm"]')
    assert len(results) > 6
    for row in results:
        assert "EJBCA" not in f"{row.cause} {row.setting}"
        assert "alias" not in f"{row.cause} {row.setting}"
        assert row.verdict is Verdict.ok or (row.cause and row.setting)


async def test_a_probe_that_is_refused_is_no_missing_right(
    site: Path, operator_pki: OperatorPKI
) -> None:
    """Where the CA takes other probes of this RA, notAuthorized may be about names; else the RA is unknown."""
    only = frozenset({BodyType.ir})
    async with serving(refusing(operator_pki, Bit.notAuthorized, only=only)) as (url, _):
        row = of(await found(site, url), "ir")
    assert (row.verdict, "--subject" in row.setting) == (Verdict.warning, True)
    async with serving(refusing(operator_pki, Bit.notAuthorized)) as (url, _):
        row = of(await found(site, url), "ir")
    assert (row.verdict, "does not know the RA" in row.cause) == (Verdict.fault, True)


@pytest.mark.parametrize("bit", [Bit.badPOP, Bit.systemFailure])
async def test_a_long_text_is_shortened(site: Path, operator_pki: OperatorPKI, bit: Bit) -> None:
    """The CA's log has the rest; what a healthy CA says is shortened too."""
    long = "java.lang.Exception at org.example.CA " * 80
    async with serving(refusing(operator_pki, bit, text=long)) as (url, _):
        results = await found(site, url)
    assert max(len(item.came_back) for item in results) <= 300
    assert any("characters" in item.came_back for item in results)


@pytest.mark.parametrize("right", [True, False])
async def test_a_ca_that_is_asked_under_a_secret(
    site: Path, operator_pki: OperatorPKI, right: bool
) -> None:
    """Its answers under the secret are believed; of another one it says what to look at."""

    async def answers(message: PKIMessage) -> bytes:
        assert message.extra_certs == ()
        refusal = await refusing(operator_pki, only=ALL_WELL)(message)
        plain = PKIMessage.from_der(refusal or b"")
        told = SECRET if right else "another one than that which is known"
        return maced(plain.header, plain.body_der, told, message.header.protection_alg_der)

    mac = '[upstreams.other.mac]\nreference = "gateway-1"\nsecret_path = "ca.secret"'
    async with serving(answers) as (url, _):
        results = await found(site, url, upstream=mac)
    row = next(item for item in results if item.tried.startswith("protection of the answer"))
    assert row.verdict is (Verdict.ok if right else Verdict.fault)
    assert right or "upstreams.other.mac" in row.setting
    assert SECRET not in str(results)
