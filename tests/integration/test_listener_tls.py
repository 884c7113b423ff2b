"""TLS of whole services: out of a configuration file, with certificates that change while they run."""

from __future__ import annotations

import asyncio
import re
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog.testing

from ra_gateway.app import listener_tls
from ra_gateway.app.application import Application
from ra_gateway.app.ca_service import CAService
from ra_gateway.app.warnings import warnings
from ra_gateway.cmp.oids import OID
from ra_gateway.config.reading import load, load_ca
from ra_gateway.errors import ConfigError
from ra_gateway.events import ConfigurationReloaded, Fact, HTTPRefused, ReloadRefused
from ra_gateway.keys import write_private_key
from tests.support.commandline import run
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Credential, VendorPKI, make_root, write_certificates
from tests.support.ports import free_port
from tests.support.processes import CAProcess
from tests.support.setups import edit, make_setup
from tests.support.stations import until

TLS = 'certificate_path = "tls.pem"\nkey_path = "tls.key"\n'
MUTUAL = TLS + 'client_ca_paths = ["tls-root.pem"]\n'
ROOT = make_root("TLS root")


def certificate(name: str = "gateway") -> Credential:
    return ROOT.issue(name, san=["dns:localhost", "ip:127.0.0.1"])


def client(credential: Credential | None = None) -> ssl.SSLContext:
    """Return what a client of ours has: the root, and a certificate or none."""
    context = ssl.create_default_context(cadata=ROOT.der)
    if credential is not None:
        with tempfile.TemporaryDirectory() as directory:
            context.load_cert_chain(*credential.write(Path(directory), "client"))
    return context


async def get(url: str, context: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, ssl=context) as response,
    ):
        return response.status


async def shown(port: int) -> bytes:
    """Return the certificate that a listener shows, DER."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client())
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """A gateway with TLS on its listener and mutual TLS for management."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    certificate().write(tmp_path, "tls")
    write_certificates(tmp_path / "tls-root.pem", ROOT.certificate)
    edit(config, "[log]\n", f"[server.tls]\n{TLS}\n[management.tls]\n{MUTUAL}\n[log]\n")
    config.write_text(config.read_text() + f"\n[ca.server.tls]\n{TLS}")
    return config


@asynccontextmanager
async def gateway(
    config: Path, facts: list[Fact] | None = None
) -> AsyncIterator[tuple[Application, int]]:
    """Serve a configuration; yields the gateway and its port."""
    service = Application(
        load(config),
        sink=None if facts is None else facts.append,
        read=lambda: load(config),
    )
    try:
        yield service, (await service.start())[1]
    finally:
        await service.stop()


@asynccontextmanager
async def ca(config: Path, facts: list[Fact] | None = None) -> AsyncIterator[tuple[CAService, int]]:
    """Serve the CA of a configuration; yields it and its port."""
    service = CAService(
        load_ca(config),
        sink=None if facts is None else facts.append,
        read=lambda: load_ca(config),
    )
    try:
        yield service, (await service.start())[1]
    finally:
        await service.stop()


@pytest.mark.parametrize("serve", [gateway, ca])
async def test_services_speak_tls(config: Path, serve: Callable[[Path], object]) -> None:
    """CMP over TLS for whoever trusts its root; management for whoever has a certificate as well."""
    async with serve(config) as (service, port):  # type: ignore[attr-defined]
        assert await get(f"https://127.0.0.1:{port}/.well-known/cmp", client()) == 405
        with pytest.raises(aiohttp.ClientError):
            await get(f"http://127.0.0.1:{port}/.well-known/cmp", client())
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await get(f"https://127.0.0.1:{port}/", ssl.create_default_context())
        url = f"{service.management.url}/livez"
        assert url.startswith("https://")
        assert await get(url, client(certificate("prometheus"))) == 200
        for stranger in (None, make_root("another").issue("stranger")):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await get(url, client(stranger))


async def test_one_issuing_ca_lets_in_whom_it_issued_for(config: Path) -> None:
    """And nobody else below its root: where that has issued for base stations, these are not monitoring."""
    monitoring = ROOT.issue_ca("monitoring CA")
    write_certificates(config.parent / "tls-root.pem", monitoring.certificate)
    async with gateway(config) as (service, _):
        url = f"{service.management.url}/livez"
        assert await get(url, client(monitoring.issue("prometheus"))) == 200
        for other in (certificate("station"), ROOT.issue_ca("monitoring CA").issue("prometheus")):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await get(url, client(other))


@pytest.mark.parametrize("serve", [gateway, ca])
async def test_whom_management_does_not_let_in_is_told(
    config: Path, serve: Callable[[Path, list[Fact]], Any]
) -> None:
    """Else nobody would find out why Prometheus has nothing of a gateway; and it is no base station's failure."""
    facts: list[Fact] = []
    async with serve(config, facts) as (service, _):
        url = f"{service.management.url}/metrics"
        with pytest.raises((aiohttp.ClientError, OSError)):
            await get(url, client())
        await until(lambda: any(isinstance(fact, HTTPRefused) for fact in facts), "telling")
    told, *_ = (fact for fact in facts if isinstance(fact, HTTPRefused))
    assert (told.by, told.listener, told.peer) == (serve.__name__, "management", "127.0.0.1")
    assert told.reason == "the TLS handshake failed: peer did not return a certificate"


@pytest.mark.parametrize("serve", [gateway, ca])
async def test_changed_files_are_taken_up(
    config: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], object]
) -> None:
    """By themselves; what does not fit together is told, and the certificate of before stays."""
    monkeypatch.setattr(listener_tls, "WATCH_SECONDS", 0.02)
    with structlog.testing.capture_logs() as log:
        async with serve(config) as (service, port):  # type: ignore[attr-defined]

            async def current() -> list[str]:
                text = (await service.management.metrics("")).body.decode()
                return re.findall(r'credential_files_current{of="[a-z.]*server.tls"} (.)', text)

            assert await current() == ["1"]
            first, second = await shown(port), certificate("second")
            write_certificates(config.parent / "tls.pem", second.certificate)
            await until(lambda: any(line["event"] == "tls.unusable" for line in log), "telling")
            assert await shown(port) == first
            assert await current() == ["0"]
            second.write(config.parent, "tls")
            changed = "tls.certificate_changed"
            await until(lambda: any(line["event"] == changed for line in log), "taking it up")
            assert await shown(port) == second.der
            assert await current() == ["1"]
    unusable = next(line for line in log if line["event"] == "tls.unusable")
    assert "key_path" in str(unusable["problems"])
    assert "PRIVATE" not in str(log)


async def test_a_reload_takes_them_up_or_nothing(config: Path) -> None:
    """Also other files; a listener that had no TLS, or is to have none, takes a restart."""
    facts: list[Fact] = []
    third = certificate("third")
    async with gateway(config, facts) as (service, port):
        first = await shown(port)
        third.write(config.parent, "third")
        (config.parent / "third.key").rename(config.parent / "elsewhere.key")
        edit(config, "[server.tls]\n" + TLS, "[server.tls]\n" + TLS.replace("tls.", "third."))
        with pytest.raises(ConfigError):
            await service.reload()
        assert await shown(port) == first
        (config.parent / "elsewhere.key").rename(config.parent / "third.key")
        await service.reload()
        assert await shown(port) == third.der
        edit(config, "[server.tls]\n" + TLS.replace("tls.", "third."), "")
        with pytest.raises(ConfigError, match=r"server\.tls"):
            await service.reload()
        assert await shown(port) == third.der
    told = [type(fact) for fact in facts if isinstance(fact, ReloadRefused | ConfigurationReloaded)]
    assert told == [ReloadRefused, ConfigurationReloaded, ReloadRefused]


async def test_the_ca_reloads_them_too(config: Path) -> None:
    """Where nothing else changed."""
    third = certificate("third")
    async with ca(config) as (service, port):
        third.write(config.parent, "third")
        edit(config, "[ca.server.tls]\n" + TLS, "[ca.server.tls]\n" + TLS.replace("tls.", "third."))
        await service.reload()
        assert await shown(port) == third.der


@pytest.mark.parametrize(
    "days, event", [(-1, "tls.certificate_expired"), (10, "tls.certificate_expires")]
)
async def test_a_certificate_that_ends_is_warned_of(config: Path, days: int, event: str) -> None:
    """Once a day, with what to do."""
    now = datetime.now(UTC)
    ends = ROOT.issue(
        "gateway",
        not_before=now - timedelta(days=300),
        not_after=now + timedelta(days=days, hours=1),
    )
    ends.write(config.parent, "tls")
    with structlog.testing.capture_logs() as log:
        async with gateway(config):
            await until(lambda: any(line["event"] == event for line in log), "warning")
    lines = [line for line in log if line["event"] == event]
    assert [line["setting"] for line in lines] == ["server.tls", "management.tls"]
    told = [(problem.path, problem.what) for problem in warnings(load(config), now)]
    assert [path for path, _ in told if "tls" in path] == [
        "server.tls.certificate_path",
        "management.tls.certificate_path",
    ]
    assert "server.tls.certificate_path" in lines[0]["todo"]


def test_tls_is_of_today(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.2 or later, and SSLKEYLOGFILE has no effect."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(config.parent / "keys"))
    for loaded in listener_tls.load(listener_tls.tls_tables(load(config))).values():
        assert loaded.context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert not loaded.context.keylog_filename


def no_pem(directory: Path) -> None:
    (directory / "tls.pem").write_bytes(certificate().der)


def another_key(directory: Path) -> None:
    write_private_key(directory / "other.key", certificate().private_key)
    (directory / "other.key").rename(directory / "tls.key")


def no_key(directory: Path) -> None:
    (directory / "tls.key").write_text("nothing")


def key_of_others(directory: Path) -> None:
    (directory / "tls.key").chmod(0o644)


def key_in_an_hsm(directory: Path) -> None:
    (directory / "tls.key").write_text("pkcs11:token=ra;object=tls\n")


def client_certificate(directory: Path) -> None:
    ROOT.issue("client", eku=[OID.clientAuth]).write(directory, "tls")


def no_client_ca(directory: Path) -> None:
    (directory / "tls-root.pem").write_text("nothing")


@pytest.mark.parametrize(
    "spoil, key, what",
    [
        (no_pem, "server.tls.certificate_path", "PEM"),
        (another_key, "server.tls.key_path", "belong"),
        (no_key, "server.tls.key_path", "key"),
        (key_of_others, "server.tls.key_path", "0644"),
        (key_in_an_hsm, "server.tls.key_path", "HSM"),
        (client_certificate, "server.tls.certificate_path", "serverAuth"),
        (no_client_ca, "management.tls.client_ca_paths[0]", "PEM"),
    ],
)
def test_files_that_cannot_be_used(
    config: Path, spoil: Callable[[Path], None], key: str, what: str
) -> None:
    """Each is named by its key, before anything listens."""
    spoil(config.parent)
    with pytest.raises(ConfigError) as refused:
        Application(load(config))
    assert refused.value.problems[0].path == key
    assert what in str(refused.value)
    assert refused.value.problems[0].todo


async def test_status_is_served_behind_a_balancer(config: Path) -> None:
    """The header of the PROXY protocol comes before HTTP there, too."""
    config.write_text(
        config.read_text()
        + '\n[ca.status]\nlisten_port = 0\ntrusted_proxies = ["127.0.0.1"]\nproxy_protocol = "on"\n'
    )
    facts: list[Fact] = []
    async with ca(config, facts) as (service, _):
        status = service._bundled.status
        assert status is not None
        assert status._server is not None
        port = status._server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\nGET /ca/root.cer HTTP/1.0\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 200 ")
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ca/root.cer HTTP/1.0\r\n\r\n")
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    (told,) = (fact for fact in facts if isinstance(fact, HTTPRefused))
    assert (told.by, told.listener) == ("ca", "status")
    assert told.reason == "begins without a PROXY header"


def test_the_command_reloads_over_mutual_tls(config: Path) -> None:
    """Of the CA alone: with a certificate, without, with none that is one, and where another is shown."""
    edit(
        config,
        "[management.tls]\n",
        f"[management]\nlisten_port = {free_port()}\n\n[management.tls]\n",
    )
    cert, key = certificate("operator").write(config.parent, "operator")
    own = ("--tls-cert", cert, "--tls-key", key)

    def told(code: int, *options: str | Path) -> str:
        ended = run("ca", "reload", *options, "--config", config)
        assert ended.exit_code == code, ended
        return " ".join((ended.stdout + ended.stderr).split())

    with CAProcess(config) as ca_process:
        assert f"Reloaded: the process {ca_process.pid} goes by configuration " in told(0, *own)
        assert "Give one with --tls-cert and --tls-key" in told(1)
        assert "--tls-cert: " in told(1, "--tls-cert", config)
        edit(config, "[ca.server]\n", "[ca.server]\nmax_connections = 9\n")
        assert "ca.server.max_connections: has changed" in told(1, *own)
        edit(config, "[ca.server]\nmax_connections = 9\n", "[ca.server]\n")
        certificate("another").write(config.parent, "next")
        management = f"[management.tls]\n{TLS}"
        edit(config, management, management.replace('"tls.', '"next.'))
        assert "it has not the certificate that is first in certificate_path" in told(1, *own)


class Impostor(BaseHTTPRequestHandler):
    """Stands where the management listener would."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("knows_it", [True, False])
def test_the_command_takes_no_other_certificate_of_the_same_ca(
    config: Path, knows_it: bool
) -> None:
    """The file has the chain as well, and whoever has a certificate of that CA may listen while no service does."""
    issuing = ROOT.issue_ca("CN=TLS issuing")
    shown = issuing.issue("CN=gateway", san=["ip:127.0.0.1"])
    other = shown if knows_it else issuing.issue("CN=gateway", san=["ip:127.0.0.1"])
    shown.write(config.parent, "tls")
    write_certificates(config.parent / "tls.pem", shown.certificate, issuing.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*other.write(config.parent, "other"))
    Impostor.asked = 0
    with HTTPServer(("127.0.0.1", 0), Impostor) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        asked = threading.Thread(target=server.serve_forever)
        asked.start()
        management = f"[management]\nlisten_port = {server.server_port}\n\n[management.tls]\n{TLS}"
        edit(config, f"[management.tls]\n{MUTUAL}", management)
        ended = run("ca", "reload", "--config", config)
        server.shutdown()
        asked.join()
    assert ended.exit_code == 1, ended
    assert Impostor.asked == knows_it
    assert ("has not the certificate that is first in" in ended.stderr) is not knows_it
