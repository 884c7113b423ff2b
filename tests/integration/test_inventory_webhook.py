"""An inventory that is asked over HTTP: the question is signed, and whoever does not answer well admits nobody."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ra_gateway.app.application import Application
from ra_gateway.app.inventory_webhook import WebhookInventory
from ra_gateway.config.reading import load
from ra_gateway.config.service_tables import InventoryHTTPConfig
from ra_gateway.device import client
from ra_gateway.errors import ConfigError, PKIFailureInfo, ServiceFailure, StoreUnavailable
from ra_gateway.events import Component, Fact, RequestHandled
from ra_gateway.ra.ports import InventoryEntry
from tests.support.commandline import run
from tests.support.pki import VendorPKI
from tests.support.raw_http import until
from tests.support.setups import edit, make_setup
from tests.support.stations import Station

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
LISTED = {"listed": True, "subject": "CN=a,O=b", "san": ["dns:a.example.net"], "enabled": True}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """Who keeps the list: a real HTTP server, whose answers a test writes."""

    def __init__(self, secret: Path) -> None:
        self.questions: list[dict[str, str]] = []
        self.answer: Answer = lambda _request: says(LISTED)
        self.now = 0.0
        self._secret = secret
        app = web.Application()
        app.router.add_post("/devices", self._asked)
        self.server = TestServer(app)

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode()
        mac = hmac.new(KEY, signed + body, hashlib.sha256).digest()
        assert request.headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
        age = datetime.now(UTC).timestamp() - int(request.headers["webhook-timestamp"])
        assert -1 <= age < 300
        self.questions.append(json.loads(body))
        return await self.answer(request)

    @property
    def url(self) -> str:
        """Where to ask."""
        return str(self.server.make_url("/devices"))

    def inventory(self, **options: float) -> WebhookInventory:
        """Return the inventory that asks there."""
        config = InventoryHTTPConfig.model_validate(
            {"url": self.url, "secret_path": self._secret, "deadline_seconds": 20.0, **options}
        )
        return WebhookInventory(config, lambda: datetime.now(UTC), lambda: self.now)


async def says(document: object, status: int = 200) -> web.Response:
    """Answer with JSON."""
    return web.json_response(document, status=status)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "webhook.secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def service(secret: Path) -> AsyncIterator[Service]:
    made = Service(secret)
    await made.server.start_server()
    yield made
    await made.server.close()


async def test_a_device_is_asked_for(service: Service) -> None:
    """By a signed question, which names it as its certificate does; and it gets what is answered."""
    inventory = service.inventory()
    entry = await inventory.find("acme", "SN 1")
    assert entry == InventoryEntry("CN=a,O=b", ("dns:a.example.net",), True)
    assert service.questions == [{"domain": "acme", "identity": "SN 1"}]
    service.answer = lambda _request: says({"listed": False})
    assert await inventory.find("acme", "SN 2") is None
    await inventory.close()


async def test_an_answer_is_remembered_for_a_while(service: Service) -> None:
    """Whichever it was, and for so many devices."""
    inventory = service.inventory(cache_seconds=10.0, cache_max_devices=2)
    for identity in ("SN1", "SN2", "SN1"):
        await inventory.find("acme", identity)
    await inventory.find("other", "SN1")  # of another vendor: the third, and the first is forgotten
    assert len(service.questions) == 3
    service.answer = lambda _request: says({"listed": False})
    await inventory.find("acme", "SN2")
    assert len(service.questions) == 3
    assert await inventory.find("acme", "SN1") is None
    service.now = 10.0
    assert await inventory.find("acme", "SN2") is None
    assert len(service.questions) == 5
    await inventory.close()
    asked_each_time = service.inventory(cache_seconds=0.0)
    for _ in range(2):
        await asked_each_time.find("acme", "SN1")
    assert len(service.questions) == 7
    await asked_each_time.close()


async def test_an_answer_is_for_the_spelling_that_was_asked_for(service: Service) -> None:
    """Who keeps the list may tell capitals apart: then one device neither shuts another out nor gets its name."""

    async def strict(_request: web.Request) -> web.StreamResponse:
        return await says(
            LISTED if service.questions[-1]["identity"] == "SN1" else {"listed": False}
        )

    service.answer = strict
    inventory = service.inventory(cache_seconds=10.0)
    for _ in range(2):
        assert await inventory.find("acme", "sn1") is None
        assert await inventory.find("acme", "SN1") is not None
        assert await inventory.find("acme", " SN1") is None
    assert len(service.questions) == 3
    await inventory.close()


async def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def elsewhere(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("/other")


async def packed(_request: web.Request) -> web.StreamResponse:
    body = gzip.compress(json.dumps(LISTED).encode())
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


def text(content: str) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=content)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: says({"listed": False}, 404),
        lambda _: says(LISTED, 201),
        lambda _: says(LISTED, 401),
        lambda _: says(LISTED, 500),
        lambda _: says(LISTED, 503),
        elsewhere,
        cut,
        packed,
        text(""),
        text("<html>"),
        text("null"),
        text("[]"),
        text("{}"),
        text("[" * 9000),
        text(json.dumps(LISTED | {"subject": "x" * 20_000})),
        text('{"listed": false, "listed": true, "subject": "", "san": [], "enabled": true}'),
        lambda _: says({"listed": 0}),
        lambda _: says({"listed": False, "enabled": True}),
        lambda _: says({"listed": True}),
        lambda _: says(LISTED | {"listed": 1}),
        lambda _: says(LISTED | {"enabled": "false"}),
        lambda _: says(LISTED | {"enabled": None}),
        lambda _: says(LISTED | {"san": "dns:a.example.net"}),
        lambda _: says(LISTED | {"san": [1]}),
        lambda _: says(LISTED | {"san": ["dns:a.example.net"] * 65}),
        lambda _: says(LISTED | {"disabled": True}),
        lambda _: says(LISTED | {"subject": "enb-1"}),
        lambda _: says(LISTED | {"san": ["a.example.net"]}),
    ],
)
async def test_what_is_no_answer_admits_nobody(service: Service, answer: Answer) -> None:
    """And is not remembered: the next question is asked again."""
    inventory = service.inventory()
    service.answer = answer
    with pytest.raises(StoreUnavailable) as caught:
        await inventory.find("acme", "SN1")
    assert caught.value.fail_info is PKIFailureInfo.systemUnavail
    assert service.url in caught.value.detail
    assert len(caught.value.detail) < 500
    service.answer = lambda _request: says(LISTED)
    assert await inventory.find("acme", "SN1") is not None
    await inventory.close()


async def test_who_does_not_answer_in_time_admits_nobody(service: Service) -> None:
    """Nor does who is not there; and what was known before counts no longer than it was to."""
    over = asyncio.Event()

    async def never(_request: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    inventory = service.inventory(deadline_seconds=0.3, cache_seconds=10.0)
    service.now = 5.0
    service.answer = never
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await inventory.find("acme", "SN1")
    over.set()
    service.answer = lambda _request: says(LISTED)
    patient = service.inventory(cache_seconds=10.0)
    assert await patient.find("acme", "SN2") is not None
    await service.server.close()
    assert await patient.find("acme", "SN2") is not None
    service.now = 15.0
    with pytest.raises(StoreUnavailable):
        await patient.find("acme", "SN2")
    with pytest.raises(ServiceFailure):
        await patient.look()
    await inventory.close()
    await patient.close()


@pytest.mark.parametrize(
    "content", ["", "whsec_", KEY.hex(), SECRET[6:], SECRET[:20], f"{SECRET}x", "\xff"]
)
def test_a_secret_that_is_none_is_refused(secret: Path, content: str) -> None:
    """And not shown."""
    secret.write_bytes(content.encode("latin-1"))
    config = InventoryHTTPConfig(url="http://127.0.0.1:1/x", secret_path=secret)
    with pytest.raises(ConfigError, match=r"inventory\.http\.secret_path") as caught:
        WebhookInventory(config, lambda: datetime.now(UTC), lambda: 0.0)
    assert len(content) < 10 or content not in str(caught.value)


def asking(config: Path, url: str, secret: Path) -> Path:
    """Have a gateway ask there for each device of acme."""
    config.with_name(secret.name).touch(0o600)
    config.with_name(secret.name).write_bytes(secret.read_bytes())
    rules = '[vendors.acme.identity]\ninventory = "required"\nidentity_from = "cn"'
    edit(config, "[vendors.acme.identity]", rules)
    config.write_text(
        f'{config.read_text()}\n[inventory.http]\nurl = "{url}"\nsecret_path = "webhook.secret"\n'
    )
    return config


async def test_a_gateway_that_asks(
    service: Service, tmp_path: Path, secret: Path, vendor_pki: VendorPKI
) -> None:
    """A listed device enrols in the name that is answered; while nobody answers, it is told to come later."""
    config = asking(
        make_setup(tmp_path / "site", vendors={"acme": vendor_pki}), service.url, secret
    )
    facts: list[Fact] = []
    application = Application(load(config), sink=facts.append)
    await application.start()
    try:
        (endpoint,) = application.services.endpoints

        async def outcome(name: str) -> tuple[object, str]:
            station = Station(name, vendor_pki, config.parent / "operator" / "root.pem")
            request = await station.enrollment.request()
            await application.gateway.handle(request, endpoint=endpoint)
            told = [
                fact
                for fact in facts
                if isinstance(fact, RequestHandled) and fact.by is Component.gateway
            ]
            return told[-1].outcome, "" if told[-1].fail_info is None else told[-1].fail_info.name

        named = LISTED | {"subject": "CN=enb-1.example.net,O=Example Operator", "san": []}
        service.answer = lambda _request: says(named)
        assert await outcome("enb-1") == ("issued", "")
        assert service.questions == [{"domain": "acme", "identity": "enb-1"}]
        service.answer = lambda _request: says({"listed": False})
        assert (await outcome("enb-2"))[1] == "notAuthorized"
        service.answer = lambda _request: says(named | {"enabled": False})
        assert (await outcome("enb-3"))[1] == "notAuthorized"
        service.answer = lambda _request: says({}, 500)
        assert (await outcome("enb-4"))[1] == "systemUnavail"
    finally:
        await application.stop()


def test_commands_say_that_there_is_no_list_here(
    tmp_path: Path, secret: Path, vendor_pki: VendorPKI
) -> None:
    """And a file can be checked all the same; the doctor says that nobody answers."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    asking(config, "http://127.0.0.1:9/devices", secret)
    assert run("check-config", "--config", config).exit_code == 0
    given = tmp_path / "given.csv"
    given.write_text("domain,identity,subject,san,enabled\nacme,1,,,true\n")
    assert run("inventory", "check", given, "--config", config).exit_code == 0
    for command in (["check"], ["export"], ["import", given]):
        ended = run("inventory", *command, "--config", config)
        assert ended.exit_code == 2
        assert "inventory.http: is asked device by device" in ended.stderr
    rows = json.loads(run("doctor", "--json", "--quiet", "--config", config).stdout)
    (row,) = [row for row in rows if row["subject"] == "inventory"]
    assert row["verdict"] == "fault"
    assert "http://127.0.0.1:9/devices" in row["tried"]


async def test_a_question_that_is_asked_over_a_reload_is_answered(
    service: Service, tmp_path: Path, secret: Path, vendor_pki: VendorPKI
) -> None:
    """What asked it is closed once the answer has come."""
    config = asking(
        make_setup(tmp_path / "site", vendors={"acme": vendor_pki}), service.url, secret
    )
    may_answer = asyncio.Event()

    async def late(_: web.Request) -> web.StreamResponse:
        await may_answer.wait()
        return await says(
            LISTED | {"subject": "CN=enb-1.example.net,O=Example Operator", "san": []}
        )

    service.answer = late
    application = Application(load(config), sink=lambda _: None, read=lambda: load(config))
    host, port = await application.start()
    station = Station("enb-1", vendor_pki, config.parent / "operator" / "root.pem")
    url = f"http://{host}:{port}/.well-known/cmp"
    try:
        async with client.open_session() as session:
            ir = await station.enrollment.request()
            waiting = asyncio.create_task(client.post(session, url, ir))
            await until(lambda: bool(service.questions))
            await application.reload()
            await asyncio.sleep(0.05)
            may_answer.set()
            await station.confirmation(await waiting)
    finally:
        await application.stop()
