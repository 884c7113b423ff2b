"""Streams of the audit trail: each record comes where it is to go, in order; what does not is counted and told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.app.audit import audit_trail
from ra_gateway.audit import streams
from ra_gateway.audit.records import Record
from ra_gateway.audit.streams import Entry, FileSender, QueuedStream, SyslogSender
from ra_gateway.config.audit_tables import AuditConfig, WebhookStream
from ra_gateway.events import PersonActed
from tests.support.patience import PATIENCE_SECONDS
from tests.support.stations import until

SYSLOG = re.compile(
    rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\S+) ra-gateway (\d+) (\S+) - (\{.*\})"
)


def record(number: int, **detail: str) -> tuple[int, Record, bytes]:
    """Return what a stream is given."""
    return number, Record(1_700_000_000_123, "operator:ann", "test", f"CN=enb-{number}", detail), bytes(32)  # fmt: skip


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other quickly."""
    monkeypatch.setattr(streams, "LONGEST_PAUSE_SECONDS", 0.2)


def numbers(lines: Sequence[str]) -> list[int]:
    """Return which records are in lines of JSON."""
    return [json.loads(line)["number"] for line in lines]


async def test_a_file_may_be_moved_away(tmp_path: Path) -> None:
    """As logrotate does; and its disk may be away for a while."""
    path = tmp_path / "there" / "audit.jsonl"
    stream = QueuedStream("file", FileSender(path))
    stream.put(*record(1))
    await until(lambda: bool(stream.problem), "the file cannot be written")
    path.parent.mkdir()
    await until(lambda: path.exists() and not stream.problem, "it is written")
    path.rename(tmp_path / "old")
    stream.put(*record(2))
    stream.close(PATIENCE_SECONDS)
    assert numbers((tmp_path / "old").read_text().splitlines()) == [1]
    assert numbers(path.read_text().splitlines()) == [2]
    assert path.stat().st_mode & 0o777 in (0o640, 0o600)


def received(message: bytes, number: int, severity: int = 6) -> None:
    """Require a message of RFC 5424 with a record."""
    found = SYSLOG.fullmatch(message)
    assert found is not None, message
    assert int(found[1]) == 13 * 8 + severity
    assert found[2] == b"2023-11-14T22:13:20.123Z"
    assert (found[5], json.loads(found[6])["number"]) == (b"test", number)


@pytest.mark.parametrize("kind", ["udp", "unix"])
def test_syslog_gets_a_datagram_for_each(kind: str, tmp_path: Path) -> None:
    """What was refused is a warning."""
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.settimeout(PATIENCE_SECONDS)
        server.bind(str(tmp_path / "log") if kind == "unix" else ("127.0.0.1", 0))
        where = f"unix:{tmp_path}/log" if kind == "unix" else f"udp://127.0.0.1:{server.getsockname()[1]}"  # fmt: skip
        stream = QueuedStream("syslog", SyslogSender(where))
        stream.put(*record(1))
        stream.put(*record(2, outcome="refused"))
        received(server.recv(65536), 1)
        received(server.recv(65536), 2, severity=4)
        stream.close(PATIENCE_SECONDS)


def test_syslog_over_tcp_counts_octets_and_connects_again() -> None:
    """RFC 6587; a connection that the server has closed is found out before something is written to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_SECONDS)
        stream = QueuedStream("tcp", SyslogSender(f"tcp://127.0.0.1:{server.getsockname()[1]}"))
        stream.put(*record(1))
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as file:
            assert _framed(file)[0] == 1
        stream.put(*record(2))
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as file:
            assert _framed(file)[0] == 2
        stream.close(PATIENCE_SECONDS)


def _framed(file: Any) -> tuple[int, bytes]:
    length = b""
    while (octet := file.read(1)) != b" ":
        length += octet
    message = file.read(int(length))
    found = SYSLOG.fullmatch(message)
    assert found is not None
    return json.loads(found[6])["number"], message


def test_what_a_stream_has_no_room_for_is_counted(capfd: pytest.CaptureFixture[str]) -> None:
    """The database has it; the log tells, once."""

    class Away:
        def send(self, entries: Sequence[Entry]) -> None:
            raise OSError("nobody there")

        def close(self) -> None:
            pass

    stream = QueuedStream("away", Away(), most_waiting=3)
    for number in range(10):
        stream.put(*record(number))
    assert stream.lost == 7
    stream.close(0.0)
    assert stream.problem == "nobody there"


@pytest.fixture
def posted() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]], Callable[[int], None]]]:
    """A real HTTP server: its URL, what was posted, and what says with which status it answers."""
    found: list[tuple[dict[str, str], bytes]] = []
    status = [204]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if status[0] == 204:
                found.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/audit", found, lambda code: status.__setitem__(0, code)  # fmt: skip
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_service_gets_each_record_once_signed(
    posted: tuple[str, list[tuple[dict[str, str], bytes]], Callable[[int], None]], tmp_path: Path
) -> None:
    """In order, also what waited while it said no; and the file beside it has the same, hashes included."""
    url, found, answer = posted
    key = bytes(range(32))
    secret = tmp_path / "secret"
    secret.write_text(f"whsec_{base64.b64encode(key).decode()}")
    secret.chmod(0o600)
    config = AuditConfig.model_validate(
        {
            "sqlite_path": tmp_path / "audit.sqlite",
            "streams": {
                "siem": {"kind": "webhook", "url": url, "secret_path": secret},
                "copy": {"kind": "file", "path": tmp_path / "copy.jsonl"},
            },
        }
    )
    assert isinstance(config.streams["siem"], WebhookStream)
    trail = audit_trail(config)
    assert trail is not None
    await trail.open()
    siem, _copy = trail.streams
    answer(500)
    trail(PersonActed("operator:ann", "test", "1"))
    await until(lambda: bool(siem.problem), "the service refuses")
    answer(204)
    trail(PersonActed("operator:ann", "test", "2"))
    await until(
        lambda: sum(len(json.loads(body)["records"]) for _, body in found) == 2, "both come"
    )
    await trail.close(PATIENCE_SECONDS)
    records = [item for _, body in found for item in json.loads(body)["records"]]
    assert [item["subject"] for item in records] == ["1", "2"]
    headers, body = found[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    copied = [json.loads(line) for line in (tmp_path / "copy.jsonl").read_text().splitlines()]
    assert copied == records


@pytest.mark.parametrize(
    "address", ["log.example.net:514", "udp://log", "tls://a:1", "tcp://:1", "udp://a:99999"]
)
def test_what_is_no_address_of_syslog_is_said(address: str) -> None:
    """At the start, not at the first record."""
    with pytest.raises(ValueError, match="syslog server"):
        AuditConfig.model_validate(
            {"sqlite_path": "a", "streams": {"x": {"kind": "syslog", "address": address}}}
        )
