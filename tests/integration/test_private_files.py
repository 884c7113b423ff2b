"""What is written belongs to its owner, whatever the umask; what was loosened is noticed; no secret is printed."""

from __future__ import annotations

import os
import re
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.errors import ConfigError
from ra_gateway.upstream.tls import tls_context
from tests.support.commandline import Ended, run
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.processes import CAProcess, GatewayProcess, ServerProcess
from tests.support.setups import keep_in_file, make_setup, set_upstream

_PUBLIC: Final = {".pem"}
SECRET: Final = "Kn0bl4uch"


def cli(*arguments: str | Path) -> Ended:
    """Run a command, and return how it ended."""
    return run(*arguments)


@pytest.fixture
def no_umask() -> Iterator[None]:
    """A process whose umask takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


def loose(directory: Path) -> list[str]:
    """Return what others than the owner could read or write; certificates they may read."""
    found = []
    for path in (directory, *directory.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        allowed = 0o700 if path.is_dir() else 0o644 if path.suffix in _PUBLIC else 0o600
        if mode & ~allowed:
            found.append(f"{path.relative_to(directory)} {mode:04o}")
    return found


@pytest.mark.usefixtures("no_umask")
def test_what_is_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    """`init`, a CA, an RA's certificate, a backup and checkpoints under umask 0; new directories above, too."""
    site = tmp_path / "above" / "site"
    assert cli("init", site).exit_code == 0
    config = site / "gateway.toml"
    for command in (
        ("ca", "create", site / "other" / "ca"),
        ("ca", "issue-ra", site / "other" / "ca", site / "other" / "ra"),
        ("ca", "renew-signers", site / "ca"),
        ("ca", "backup", site / "dump", "--config", config),
        ("ca", "verify", "--config", config),
        ("ca", "crl", "--config", config),
    ):
        ended = cli(*command)
        assert ended.exit_code == 0, ended.stderr
    assert (site / "ca" / "checkpoints").exists()
    assert loose(tmp_path / "above") == []


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
async def test_a_loosened_ledger_is_refused(tmp_path: Path, suffix: str, mode: int) -> None:
    """Others could read who holds what, or write to it; the text says what to run."""
    path = tmp_path / "ledger.sqlite"
    ledger = open_ledger(path)
    await ledger.open()
    try:
        loosened = path.with_name(f"{path.name}{suffix}")
        loosened.chmod(mode)
        with pytest.raises(ConfigError, match=rf"has mode {mode:04o}.*chmod 600 {loosened}"):
            await open_ledger(path).open()
    finally:
        await ledger.close()


@pytest.mark.parametrize("name", ["issuing.key", "cmp.key", "ocsp.key", "retired-key"])
def test_a_loosened_key_of_the_ca_is_refused(
    tmp_path: Path, vendor_pki: VendorPKI, name: str
) -> None:
    """Each of them, retired ones too, not only those that the configuration knows by name."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    if name == "retired-key":
        assert cli("ca", "roll-issuing", config.parent / "ca").exit_code == 0
        name = "retired/1/issuing.key"
    (config.parent / "ca" / name).chmod(0o640)
    ended = cli("ca", "crl", "--config", config)
    assert ended.exit_code == 2
    assert "0640" in ended.stderr
    assert "chmod 600" in ended.stderr


def test_keys_of_sessions_go_into_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSLKEYLOGFILE is heeded neither by our contexts nor by those that libraries make in our process."""
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    for path in (None, Path(ssl.get_default_verify_paths().cafile or "")):
        if path is None or path.is_file():
            context = tls_context("upstreams.x", ca_path=path)
            assert not context.keylog_filename
            assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    script = (
        "import ra_gateway.cli.main, aiohttp.connector as c, ssl, redis.asyncio\n"
        "assert ssl.create_default_context().keylog_filename is None\n"
        "assert c._SSL_CONTEXT_VERIFIED.keylog_filename is None"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert not log.exists()


NOBODY_THERE: Final = f"postgresql://ca:{SECRET}@127.0.0.1:1/ledger"
URLS: Final = (
    f"postgresql://ca:x/{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://ca:{SECRET}#x@127.0.0.1:1/ledger",
    f"postgresql://ca:{SECRET}?x@127.0.0.1:1/ledger",
    f"postgresql://ca:{SECRET}[@127.0.0.1:1/ledger",
    f"postgresql://ca:{SECRET}%@127.0.0.1:1/ledger",
    f"postgresql://ca@127.0.0.1:{SECRET}/ledger",
    f"postgresql://ca:{SECRET}@127.0.0.1:1/ledger?x={SECRET}",
    NOBODY_THERE,
)


@pytest.mark.parametrize("url", URLS)
def test_no_command_prints_the_password_of_the_ledger(
    tmp_path: Path, vendor_pki: VendorPKI, url: str
) -> None:
    """Whatever is wrong with the URL; and there is a sentence instead of a traceback."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    keep_in_file(config, 'ledger_path = "ca/ledger.sqlite"', "ledger_url_path", url + "\n")
    commands: list[tuple[str, ...]] = [("check-config",), ("doctor",), ("ca", "list")]
    if url != NOBODY_THERE:  # a service waits for whom it cannot reach
        commands += [("serve",), ("ca", "serve")]
    for command in commands:
        ended = cli(*command, "--config", config)
        said = ended.stdout + ended.stderr
        assert SECRET not in said, command
        assert "Traceback" not in said, said
        if command[0] != "doctor" and url != NOBODY_THERE:
            assert ended.exit_code == 2, said
            assert "ca.ledger_url_path" in said


@pytest.mark.parametrize("process", [GatewayProcess, CAProcess])
def test_no_service_that_waits_for_its_ledger_logs_the_password(
    tmp_path: Path, vendor_pki: VendorPKI, process: type[ServerProcess]
) -> None:
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    keep_in_file(config, 'ledger_path = "ca/ledger.sqlite"', "ledger_url_path", f"{NOBODY_THERE}\n")
    with process(config) as service:
        assert service.await_event("store.down")["detail"].startswith("ledger: ")
        assert service.stop() == 0
        assert SECRET not in service.log
        assert "Traceback" not in service.log


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@127.0.0.1:1/0",
        f"redis://:x@127.0.0.1:{SECRET}/0",
        f"redis://:{SECRET}#x@127.0.0.1:1/0",
        f"redis://:[{SECRET}@127.0.0.1:1/0",
        f"redis://:{SECRET}@127.0.0.1:1/0?socket_timeout={SECRET}",
        f"https://:{SECRET}@127.0.0.1:1/0",
    ],
)
def test_no_command_prints_the_password_of_the_store(
    tmp_path: Path, vendor_pki: VendorPKI, url: str
) -> None:
    """The Redis URL likewise."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    keep_in_file(config, 'kind = "memory"', 'kind = "redis"\nredis_url_path', url + "\n")
    for command in (("check-config",), ("serve",), ("doctor",), ("approvals", "list")):
        ended = cli(*command, "--config", config)
        said = ended.stdout + ended.stderr
        assert SECRET not in said, command
        assert "Traceback" not in said, said
        assert re.search("redis", said, re.IGNORECASE), said


API: Final = """
kind = "{kind}"
url = "https://127.0.0.1:1/"
tls_ca_path = "operator/root.pem"
"""
STEP: Final = """
kind = "step_ca"
url = "https://127.0.0.1:1"
root_path = "operator/root.pem"
provisioner = "ra"
provisioner_key_path = "secret"
"""
CMP: Final = 'kind = "cmp_http"\nurl = "http://127.0.0.1:1/cmp"\n'
TLS: Final = f'{CMP}tls_certificate_path = "ra/ra.pem"\n'
KEY: Final = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "upstream, secret",
    [
        (f'{CMP}proxy = "http://u:{SECRET}@127.0.0.1:1"', ""),
        (f'{CMP}proxy = "http://u:{SECRET}/x@127.0.0.1:1"', ""),
        (f'{CMP}proxy = "http://u:{SECRET}[@127.0.0.1:1"', ""),
        (f'{CMP}proxy = "http://127.0.0.1:{SECRET}"', ""),
        (f'{CMP}proxy = "{SECRET}"', ""),
        (f'kind = "cmp_http"\nurl = "http://u:{SECRET}@[127.0.0.1:1/cmp"', ""),
        (f'kind = "cmp_http"\nurl = "http://u@127.0.0.1:{SECRET}/cmp"', ""),
        (API.format(kind="vault") + 'role = "ran"\ntoken_path = "secret"', SECRET),
        (API.format(kind="vault") + 'role = "ran"\ntoken_path = "secret"', f"{SECRET}\r\nX: {SECRET}"),
        (API.format(kind="vault") + 'role = "ran"\ntoken_path = "secret"', f"{SECRET}\0\x1b\udcff"),
        (API.format(kind="vault") + 'role = "ran"\ntoken_path = "secret"', SECRET * 10_000),
        (API.format(kind="vault") + f'role = "ran"\ntoken_path = "{SECRET}\\n{SECRET}"', ""),
        (API.format(kind="vault") + f'role = "ran"\ntoken = "{SECRET}"\ntoken_path = "secret"', SECRET),
        (API.format(kind="rest") + 'token_path = "secret"', f"{SECRET}\n{SECRET}"),
        (STEP, KEY),
        (STEP, SECRET),
        (STEP, f"pkcs11:token=t;object=o?pin-value={SECRET}"),
        (STEP + 'provisioner_key_password_path = "secret"', KEY),
        (f'{TLS}tls_key_path = "secret"', KEY),
        (f'{TLS}tls_key_path = "ra/ra.key"\ntls_key_password_path = "secret"', SECRET),
    ],
)  # fmt: skip
def test_no_command_prints_a_secret_of_an_upstream(
    tmp_path: Path, vendor_pki: VendorPKI, upstream: str, secret: str
) -> None:
    """Passwords in URLs, tokens and keys, each of them malformed in its own way."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    (config.parent / "secret").touch(0o600)
    (config.parent / "secret").write_text(secret or "x", errors="surrogateescape")
    set_upstream(config, upstream)
    for command in (("check-config",), ("doctor",)):
        ended = cli(*command, "--config", config)
        said = ended.stdout + ended.stderr
        assert SECRET not in said, command
        assert "Traceback" not in said, said
    if cli("check-config", "--config", config).exit_code:
        ended = cli("serve", "--config", config)
        assert ended.exit_code == 2
        assert SECRET not in ended.stdout + ended.stderr


def test_secret_files_of_the_command_line_are_their_owners_alone(
    tmp_path: Path, operator_pki: OperatorPKI
) -> None:
    """A password and a key that others may read are refused, with what to run; nothing is made."""
    operator_pki.root.write(tmp_path, "own")
    password = tmp_path / "password"
    password.write_text("correct horse battery staple")
    password.chmod(0o644)
    (tmp_path / "own.key").chmod(0o640)
    made, own, key = tmp_path / "ca", tmp_path / "own.pem", tmp_path / "own.key"
    somewhere = ("--url", "http://127.0.0.1:9/", "--out", str(made), "--trusted", str(own))
    for command in (
        ("ca", "create", made, "--password-file", password),
        ("ca", "import", made, "--certificate", own, "--key", key),
        ("renew", *somewhere, "--cert", own, "--key", key),
    ):
        ended = run(*command)
        assert ended.exit_code == 2, (command, ended)
        assert "chmod 600" in ended.stderr, ended
    assert not made.exists()
