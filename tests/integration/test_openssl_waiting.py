"""Debian's `openssl cmp` is told to wait: by a CA, by the gateway before a slow CA, and until somebody approves."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from tests.support.commands import run_command
from tests.support.openssl import OpensslMockCA, Result
from tests.support.openssl_station import (
    ENROLMENT,
    SAN,
    SUBJECT_RFC4514,
    Site,
    Station,
    dialogue,
    load_issuing_ca,
)
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI, make_key, make_root, write_certificates
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, let_vendors, make_setup, set_upstream

IMPATIENT = "wait_after_seconds = 0.2\ncheck_after_seconds = 1"


@contextmanager
def delaying(url: str, seconds: Callable[[bytes], float]) -> Iterator[str]:
    """Serve what a CA serves, but later; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds(body))
            ca = HTTPConnection("127.0.0.1", urlsplit(url).port or 0)
            ca.request("POST", urlsplit(url).path, body, {"Content-Type": "application/pkixcmp"})
            octets = ca.getresponse().read()
            ca.close()
            self.send_response(200)
            self.send_header("Content-Type", "application/pkixcmp")
            self.send_header("Content-Length", str(len(octets)))
            self.end_headers()
            self.wfile.write(octets)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/cmp"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def station_at(
    directory: Path, config: Path, gateway: GatewayProcess, vendor: VendorPKI
) -> Station:
    (directory / "station").mkdir()
    return Station(directory / "station", Site(config.parent, gateway), vendor.device())


def polls(result: Result) -> int:
    return dialogue(result).count("POLLREQ")


def without_polls(result: Result) -> list[str]:
    """The names of a dialogue's messages, less the waiting answer and the polling."""
    names = dialogue(result)
    return [*names[:1], *[name for name in names[2:] if not name.startswith("POLL")]]


@pytest.mark.requirement(116, 117, 118, 121)
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_a_ca_that_says_waiting(tmp_path: Path, vendor_pki: VendorPKI, kind: Any) -> None:
    """openssl's own mock CA has it poll twice; openssl's polls go up to it, its pollReps come down."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    issuing = load_issuing_ca(tmp_path)
    names = [f"dns:{SAN[0]}", f"ip:{SAN[1]}"]
    issued = issuing.issue(SUBJECT_RFC4514, kind, san=names)
    signer = make_root("Mock Root CA").issue("Mock CA")
    signer_path = write_certificates(tmp_path / "mock.pem", signer.certificate)
    (tmp_path / "mock").mkdir()
    with ExitStack() as processes:
        mock = processes.enter_context(
            OpensslMockCA(
                tmp_path / "mock",
                signer=signer,
                trusted=[issuing.chain[-1]],
                response_certificate=issued.certificate,
                response_extra_certs=[issuing.certificate],
                poll_count=2,
            )
        )
        upstream = http_upstream(
            mock.url,
            ca_certificate_paths=[signer_path],
            issuing_ca_paths=[tmp_path / "operator" / "issuing.pem"],
        )
        set_upstream(config, upstream)
        gateway = processes.enter_context(GatewayProcess(config))
        station = station_at(tmp_path, config, gateway, vendor_pki)
        result = station.ask("ir", new_key=issued.private_key)
        result.check()
        assert station.certificate == issued.certificate
        assert polls(result) >= 2
        assert without_polls(result) == ENROLMENT


@pytest.mark.requirement(90, 116, 117, 118)
@pytest.mark.parametrize("command", ["ir", "cr"])
def test_a_ca_that_is_slow(tmp_path: Path, vendor_pki: VendorPKI, command: Any) -> None:
    """The gateway has openssl poll until the CA has answered; openssl 3.0 polls for certificates only."""

    def seconds(body: bytes) -> float:
        return 0.0 if PKIMessage.from_der(body).body_type is BodyType.certConf else 2.5

    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    let_vendors(config, "ir", "cr")
    taken = 'body_types = ["ir", "cr", "kur"]'
    edit(config, 'upstream = "bundled"', f'upstream = "bundled"\n{taken}\n{IMPATIENT}')
    with ExitStack() as processes:
        ca = processes.enter_context(CAProcess(config))
        slow = processes.enter_context(delaying(ca.url, seconds))
        set_upstream(config, http_upstream(slow, replays_repeats=True))
        gateway = processes.enter_context(GatewayProcess(config))
        station = station_at(tmp_path, config, gateway, vendor_pki)
        key = make_key("p256")
        result = station.ask(command, new_key=key)
        result.check()
        assert station.certificate.public_key() == key.public_key()
        assert polls(result) >= 2
        issued = [event for event in gateway.handled if event["outcome"] == "issued"]
        assert station.site.issued_count == 1
        assert issued


@pytest.mark.requirement(116, 117, 118, 145)
@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_a_request_waits_for_approval(
    tmp_path: Path, vendor_pki: VendorPKI, own_redis_server: RedisServer, verdict: str
) -> None:
    """openssl polls while an operator looks at the list and decides."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=own_redis_server.url)
    edit(
        config,
        'upstream = "bundled"',
        'upstream = "bundled"\napproval = "required"\ncheck_after_seconds = 1',
    )

    def command(*args: str) -> str:
        done = run_command("approvals", *args, "--config", config)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with GatewayProcess(config) as gateway, ThreadPoolExecutor() as pool:
        station = station_at(tmp_path, config, gateway, vendor_pki)
        key = make_key("p256")
        asking = pool.submit(station.ask, "ir", "-total_timeout", "60", new_key=key)
        found: list[str] = []
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not found and time.monotonic() < give_up_at:
            found = re.findall(r"\b[0-9a-f]{20}\b", command("list"))
        (request,) = found
        command(verdict, request, "--by", "Ann")
        result = asking.result(timeout=PATIENCE_SECONDS)
        if verdict == "approve":
            assert_certified_after_polls(station, result, key)
        else:
            assert result.returncode == 1
            assert set(result.fail_info) == {"notAuthorized"}, result.output
            assert station.site.issued_count == 0
        assert polls(result) >= 1
        assert "Ann" in str(gateway.handled)


def assert_certified_after_polls(station: Station, result: Result, key: Any) -> None:
    result.check()
    assert without_polls(result) == ENROLMENT
    assert station.certificate.public_key() == key.public_key()
