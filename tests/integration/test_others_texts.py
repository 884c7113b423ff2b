"""What devices, CAs, servers and files say reaches a terminal escaped, by whichever command."""

from __future__ import annotations

import socketserver
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import PKIStatusInfo, error_body
from ra_gateway.cmp.codes import PKIStatus
from ra_gateway.cmp.names import escape_rfc4514, from_rfc4514
from ra_gateway.ra.transaction import State
from ra_gateway.ra.waiting import request_digest
from tests.support.commandline import Ended, run
from tests.support.dialogue import bare_message
from tests.support.pki import VendorPKI
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, make_setup
from tests.support.transactions import in_redis, new_transaction, system_clock

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m[red]x[/red]\u202eforged\u200b"
UNWELCOME = frozenset("\x1b\x07\x9b\u202e\u200b\r\x7f\x00")


def harmless(ended: Ended, *, shows: str = "[red]x[/red]") -> str:
    """Return all that a command wrote, which has the text of others, as text."""
    text = ended.stdout + ended.stderr
    assert not UNWELCOME & set(text), ascii(text)
    assert shows in text
    return text


@contextmanager
def answering(octets: bytes) -> Iterator[str]:
    """Serve the same octets to every connection; yields a URL."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(octets)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/cmp"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("command", ["list", "approve", "deny"])
def test_a_subject_that_waits_for_approval(
    command: str, tmp_path: Path, vendor_pki: VendorPKI, redis_url: str, redis_server: RedisServer
) -> None:
    """The very text that an operator decides on."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url)
    request = new_transaction(
        b"\xab" * 16,
        state=State.HELD,
        subject_der=from_rfc4514(f"CN={escape_rfc4514(EVIL)}"),
        san=(f"dns:{EVIL}",),
        signer_der=b"\x04\x03ref",
        decided_by="",
        unsent=True,
    )

    async def hold(store: object) -> None:
        await store.create(request)  # type: ignore[attr-defined]
        await store.hold(request.key, system_clock() + timedelta(hours=1))  # type: ignore[attr-defined]

    in_redis(config, hold)
    try:
        arguments = () if command == "list" else (request_digest(request),)
        text = harmless(run("approvals", command, *arguments, "--config", config))
        assert "\\x1b" in text
    finally:
        redis_server.command("FLUSHALL")


@pytest.mark.parametrize(
    "answer",
    [
        f"HTTP/1.1 502 {EVIL}\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nContent-Type: [red]x[/red]{EVIL}/html\r\nContent-Length: 0\r\n\r\n",
        f"{EVIL} 200 OK\r\n\r\n",
        f"HTTP/1.1 200 OK\r\n[red]x[/red]{EVIL}: 1\r\n\r\n",
    ],
    ids=["reason", "content-type", "version", "header"],
)
def test_what_a_server_says_to_enroll(answer: str, tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Status line and headers of whoever listens there."""
    cert, key = vendor_pki.device().write(tmp_path, "device")
    with answering(answer.encode()) as url:
        ended = run(
            *("enroll", "--url", url, "--cert", cert, "--key", key, "--subject", "CN=e"),
            *("--out", tmp_path / "new"),
        )
    harmless(ended, shows=url)
    assert len(ended.stderr.splitlines()) == 1


def test_what_a_ca_says_to_doctor(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """A reason phrase, and the text of an error message that is not even protected."""
    refusal = bare_message(error_body(PKIStatusInfo(PKIStatus.rejection, (EVIL,))))
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/pkixcmp\r\nContent-Length: {len(refusal)}\r\n\r\n"
    for number, answer in enumerate((
        f"HTTP/1.1 500 {EVIL}\r\nContent-Length: 0\r\n\r\n".encode(), head.encode() + refusal
    )):  # fmt: skip
        with answering(answer) as url:
            config = make_setup(
                tmp_path / str(number), vendors={"acme": vendor_pki}, upstream=http_upstream(url)
            )
            for options in ((), ("--json",)):
                harmless(run("doctor", *options, "--config", config), shows="upstream bundled")


def test_what_a_message_says_to_show(tmp_path: Path) -> None:
    """And the name of its file."""
    octets = bare_message(error_body(PKIStatusInfo(PKIStatus.rejection, (EVIL,))))
    harmless(run("show", "-", stdin=octets))
    file = tmp_path / f"{EVIL.replace('/', '')}.der"
    harmless(run("show", file), shows="[red]x[red]")
    file.write_bytes(asn1.tlv(0x30, b""))
    harmless(run("show", file), shows="PKIMessage")


def test_names_in_the_ledger(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """A subject that is registered, in lists and in sentences; whoever registers one now is refused, and shown it."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    evil = f"CN={escape_rfc4514(EVIL)}"
    add = ("ca", "entity", "add", "1", "--config", config, "--subject")
    harmless(run(*add, evil))
    harmless(run(*add, "CN=1"), shows="1")
    with closing(sqlite3.connect(config.parent / "ca" / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("UPDATE entities SET subject = ?", [evil])  # of an earlier release
    assert "\\x1b" in harmless(run("ca", "entity", "list", "--config", config))
    for command in (
        ("entity", "add", EVIL, "--subject", "CN=2"),
        ("entity", "add", "[red]x[/red]", "--subject", "CN=[red]x[/red]"),
        ("entity", "list"),
        ("entity", "show", "[red]x[/red]"),
        ("entity", "block", "[red]x[/red]"),
        ("entity", "show", f"no {EVIL}"),
    ):
        harmless(run("ca", *command, "--config", config))


def test_names_of_files_and_values_of_a_configuration(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """A path that does not exist, a file with evil content, an inventory."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    evil = EVIL.replace("/", "")
    harmless(run("check-config", "--config", tmp_path / evil), shows="[red]x[red]")
    harmless(run("init", config / evil), shows="gateway.toml")
    harmless(run("show", "-", tmp_path / evil), shows="[red]x[red]")
    inventory = tmp_path / f"{evil}.csv"
    inventory.write_text(
        f"domain,identity,subject,san,enabled\nacme,{EVIL},,,maybe\nacme,1,,,{EVIL}\n"
    )
    escaped = "".join(f"\\u{ord(c):04x}" if not c.isprintable() else c for c in evil)
    edit(config, "[store]\n", f'[inventory]\ncsv_path = "{escaped}.csv"\n\n[store]\n')
    for command in ("check-config", "doctor", "serve"):
        harmless(run(command, "--config", config), shows="[red]x[red]")
    harmless(run("doctor", "--json", "--config", config), shows="[red]x[red]")


@pytest.mark.parametrize(
    "arguments", [(EVIL,), (f"--{EVIL}",), ("ca", EVIL), ("reload", EVIL), ("show", f"--{EVIL}")]
)
def test_a_wrong_command_line(arguments: tuple[str, ...]) -> None:
    """Which may come from a shell's pattern over the names of files."""
    ended = run(*arguments)
    assert ended.exit_code == 2
    harmless(ended, shows="\\x1b")
