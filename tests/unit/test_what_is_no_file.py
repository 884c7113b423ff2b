"""What is in a file's place and is none is refused, and nobody waits for it: a FIFO holds whoever opens it for ever."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ra_gateway.app.webhooks import webhook_secret
from ra_gateway.config.source import Source
from ra_gateway.errors import ConfigError
from ra_gateway.files import read_bounded
from ra_gateway.keys import load_certificates, load_private_key, names_hsm_key, read_password
from ra_gateway.pkcs11.reference import read_pin
from ra_gateway.stores.inventory import CSVInventory, rewritten
from ra_gateway.stores.sealing import load_seal_keys
from ra_gateway.stores.secrets import SecretFile
from ra_gateway.upstream.rest import read_token

READERS: dict[str, Callable[[Path], object]] = {
    "configuration": lambda path: Source(path).tables(),
    "certificates": lambda path: load_certificates(path, "ra.certificate_path"),
    "key": lambda path: load_private_key(path, None, "ra.key_path"),
    "password": read_password,
    "PIN": read_pin,
    "inventory": CSVInventory,
    "inventory rewritten": lambda path: rewritten(path, {}),
    "secrets": lambda path: SecretFile(path, clock=lambda: None),  # type: ignore[arg-type]
    "seal key": lambda path: load_seal_keys([path]),
    "webhook": lambda path: webhook_secret(path, "inventory.http.secret_path"),
    "token": lambda path: asyncio.run(read_token(path)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["FIFO", "directory"])
def test_what_is_no_file_is_refused(
    tmp_path: Path, reader: str, make: Callable[[Path], None]
) -> None:
    """Each kind of file that a service reads, also while it runs; the text says what is there."""
    path = tmp_path / "file"
    make(path)
    said: list[str] = []

    def read() -> None:
        try:
            READERS[reader](path)
        except Exception as error:
            said.append(f"{type(error).__name__} {error}")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20.0)
    assert said, f"{reader} waits for whoever writes into it"
    assert "it is no file" in said[0] or "Is a directory" in said[0]


def test_no_key_is_named_by_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    assert names_hsm_key(tmp_path / "key") is False


def test_a_file_is_not_larger_than_any_of_ours(tmp_path: Path) -> None:
    """It is not even read to its end; a configuration that grows does not fill the memory at each reload."""
    path = tmp_path / "gateway.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(OSError, match="more than 16777216 octets"):
        read_bounded(path)
    with pytest.raises(ConfigError, match="cannot be read: it has more than 4194304 octets"):
        Source(path).tables()
    with pytest.raises(OSError, match="more than"):
        read_password(path)


def test_what_a_command_was_given_open_may_be_a_pipe() -> None:
    """Passwords come so, by <(...) of a shell: it ends them itself."""
    script = "from pathlib import Path; from ra_gateway.keys import read_password as r; print(r(Path('/dev/stdin')))"
    ended = subprocess.run(
        [sys.executable, "-c", script], input=b"word\n", capture_output=True, check=True, timeout=60
    )
    assert ended.stdout == b"b'word'\n"
