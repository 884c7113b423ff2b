"""The demonstration: by itself, kept running for others to enrol, and in the way of another one.

What DIR holds is an interface; these tests use nothing else to enrol.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ra_gateway.ca.profiles import PROFILES, SEG
from ra_gateway.keys import load_certificates
from tests.support.linting import certificate_errors, crl_errors
from tests.support.openssl import load_certificate, openssl_cmp, public_key_der
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import Authority, Credential, make_key, make_name, write_key
from tests.support.ports import free_port

_CLI: Final = (sys.executable, "-c", "from ra_gateway.cli.main import main; main()")
ROOT: Final = Path(__file__).parents[2]

INTERFACE: Final = (
    "vendor/root.pem",
    "vendor/sub.pem",
    "vendor/sub.key",
    "vendor/device.pem",
    "vendor/device.key",
    "operator/root.pem",
    "gateway.toml",
    "management_url",
    "url",
)


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a demonstration that ends by itself."""
    command = [*_CLI, "demo", *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def messages(output: str) -> list[str]:
    """Return the messages in the tables that were printed, in order."""
    return [
        name
        for line in output.splitlines()
        for name in re.findall(r"│ (ir|ip|kur|kup|certConf|pkiconf) ", line)
    ]


BOTH_DIALOGUES: Final = ["ir", "ip", "certConf", "pkiconf", "kur", "kup", "certConf", "pkiconf"]


@dataclass
class Kept:
    """A demonstration that goes on serving."""

    process: subprocess.Popen[bytes]
    directory: Path
    port: int
    log_path: Path

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log_path.read_text()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """`ra-gateway demo --keep --dir DIR --port PORT`, serving."""
    base = tmp_path_factory.mktemp("demo")
    directory, log_path, port = base / "dir", base / "log", free_port()
    command = [*_CLI, "demo", "--keep", "--dir", str(directory), "--port", str(port)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not (directory / "url").exists():
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < give_up_at, log_path.read_text()
            time.sleep(0.02)
        yield Kept(process, directory, port, log_path)
    finally:
        process.kill()
        process.wait()


def test_the_demo_ends_by_itself(tmp_path: Path) -> None:
    """It prints both dialogues and where the files are, and ends with exit code 0."""
    ended = demo("--dir", tmp_path / "d")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert messages(ended.stdout) == BOTH_DIALOGUES
    assert f"Files in {tmp_path}" in ended.stdout.replace("\n", "")
    assert "openssl cmp -cmd ir" in ended.stdout
    assert "PRIVATE KEY" not in ended.stdout
    assert [name for name in INTERFACE if not (tmp_path / "d" / name).is_file()] == []


def test_what_the_demo_issues_passes_the_linter(kept: Kept) -> None:
    """Its factory's and its CA's certificates, those of its ledger, and the CRLs."""
    (ledger,) = kept.directory.rglob("ledger.sqlite")
    with closing(sqlite3.connect(ledger)) as connection:
        rows = connection.execute("SELECT profile, der FROM certificates WHERE der IS NOT NULL")
        issued = [(profile, der) for profile, der in rows]
        crls = [der for (der,) in connection.execute("SELECT der FROM crls")]
    assert len(issued) > 1
    own = {
        (SEG.name, item.der)
        for path in kept.directory.rglob("*.pem")
        for item in load_certificates(path, "test")
    }
    assert len(own) > 5
    for profile, der in (*issued, *own):
        assert certificate_errors(PROFILES.get(profile, SEG), der) == []
    assert crls
    assert [error for der in crls for error in crl_errors(der)] == []


def test_the_kept_demo_holds_the_interface_files(kept: Kept) -> None:
    """DIR has the promised files, the vendor's and no others in vendor/, and keys are the owner's alone."""
    assert [name for name in INTERFACE if not (kept.directory / name).is_file()] == []
    assert sorted(path.name for path in (kept.directory / "vendor").iterdir()) == [
        "device.key",
        "device.pem",
        "root.pem",
        "sub.key",
        "sub.pem",
    ]
    url = f"http://127.0.0.1:{kept.port}/.well-known/cmp"
    assert (kept.directory / "url").read_text() == f"{url}\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in kept.directory.rglob("*.key")}
    assert set(modes.values()) == {0o600}, modes
    assert messages(kept.output) == BOTH_DIALOGUES


def test_the_printed_openssl_command_enrols_by_the_name_that_it_asks_for(kept: Kept) -> None:
    """As it stands, and with that name as the certificate's only other name, not the vendor certificate's."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    printed = re.compile(r"  cd /.*(?:(?:\\|&&)\n.*)+(?<!\\)\n")
    while (command := printed.search(kept.output)) is None:
        assert time.monotonic() < give_up_at, kept.output
        time.sleep(0.02)
    done = subprocess.run(
        ["bash", "-ec", command[0]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    certificate = load_certificate(kept.directory / "new.pem")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    host = "enb-0002.ran.example.net"
    assert certificate.subject == make_name(f"CN={host}")
    assert list(names) == [x509.DNSName(host)]


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_anybody_can_mint_and_enrol_another_base_station(
    kind: str, kept: Kept, tmp_path: Path
) -> None:
    """A base station made with vendor/sub.key enrols with openssl under the subject it asks for."""
    vendor = kept.directory / "vendor"
    authority = Authority(
        load_certificate(vendor / "sub.pem"),
        load_pem_private_key((vendor / "sub.key").read_bytes(), None),  # type: ignore[arg-type]
    )
    device: Credential = authority.issue(f"CN=SN-{kind},O=Whoever", make_key(kind))  # type: ignore[arg-type]
    cert, key = device.write(tmp_path, "device")
    newkey = make_key("p256")
    server, _, path = (
        (kept.directory / "url").read_text().strip().removeprefix("http://").partition("/")
    )
    openssl_cmp(
        "ir",
        server=server,
        path=f"/{path}",
        cert=cert,
        key=key,
        extracerts=vendor / "sub.pem",
        trusted=kept.directory / "operator" / "root.pem",
        newkey=write_key(tmp_path / "new.key", newkey),
        subject=f"/O=Any Operator/CN=enb-{kind}.example.net",
        certout=tmp_path / "new.pem",
    ).check()
    certificate = load_certificate(tmp_path / "new.pem")
    assert certificate.subject == make_name(f"CN=enb-{kind}.example.net,O=Any Operator")
    assert public_key_der(certificate) == public_key_der_of(newkey)


def public_key_der_of(key: object) -> bytes:
    """Return SubjectPublicKeyInfo of a private key, by way of a request for it."""
    request = x509.CertificateSigningRequestBuilder().subject_name(make_name("CN=x"))
    return public_key_der(request.sign(key, hashes.SHA256()))  # type: ignore[arg-type]


def test_a_second_demo_does_not_touch_the_first(kept: Kept, tmp_path: Path) -> None:
    """The same DIR is refused in one line, the same PORT before anything is written."""
    before = (kept.directory / "gateway.toml").read_bytes()
    ended = demo("--dir", kept.directory)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"{kept.directory}: holds a demonstration already. "
        "Choose an empty or new directory, or remove this one\n"
    )
    assert (kept.directory / "gateway.toml").read_bytes() == before
    ended = demo("--dir", tmp_path / "d", "--port", str(kept.port))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"cannot listen on 127.0.0.1:{kept.port}: ")
    assert not (tmp_path / "d").exists()
    (tmp_path / "mine.txt").write_text("mine")
    ended = demo("--dir", tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "is not empty: it has mine.txt" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_sigterm_ends_the_kept_demo(kept: Kept) -> None:
    """SIGTERM is the orderly end: exit code 0, and the port is free again."""
    kept.process.send_signal(signal.SIGTERM)
    assert kept.process.wait(PATIENCE_SECONDS) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", kept.port)) != 0
    assert "Traceback" not in kept.output


@pytest.mark.parametrize(
    "variables, arguments",
    [
        (("KEEP=1", "DIR=x", "PORT=1"), 'demo --dir "x" --port 1 --keep'),
        (("KEEP=0",), "demo"),
        (("KEEP=no", "DIR=a b"), 'demo --dir "a b"'),
        ((), "demo"),
    ],
)
def test_make_demo_passes_its_variables_on(variables: tuple[str, ...], arguments: str) -> None:
    """`make demo KEEP=1 DIR=... PORT=...` is `ra-gateway demo` with the options of these names."""
    # Of the make that may have started this test nothing is to be heard.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    told = subprocess.run(
        ["make", "--dry-run", "demo", *variables],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert " ".join(told.stdout.splitlines()[-1].split()) == f".venv/bin/ra-gateway {arguments}"
